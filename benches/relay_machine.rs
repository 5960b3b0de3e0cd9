//! Time of the pure relay decision per packet, and of a sweep: `cargo bench --bench relay_machine`.
//!
//! The packets of many calls come scattered, as a shard sees them, so that neither cache nor prefetch does the work.

use std::hint::black_box;
use std::net::SocketAddr;
use std::time::Duration;

use criterion::BenchmarkId;
use criterion::Criterion;
use criterion::Throughput;
use criterion::criterion_group;
use criterion::criterion_main;
use tipring::base::id::Handle;
use tipring::base::time::Instant;
use tipring::base::time::Now;
use tipring::base::time::UnixTime;
use tipring::machine::media::bounds::MediaBounds;
use tipring::machine::media::command::Clocks;
use tipring::machine::media::command::Expectation;
use tipring::machine::media::command::MediaCommand;
use tipring::machine::media::command::Owner;
use tipring::machine::media::command::PairId;
use tipring::machine::media::command::PayloadTypes;
use tipring::machine::media::command::Ssrcs;
use tipring::machine::media::relay::Relay;
use tipring::machine::media::relay::RelaySettings;
use tipring::machine::media::relay::Verdict;
use tipring::wire::link::Symmetric;

fn party(pair: u32) -> SocketAddr {
    let [_, _, high, low] = pair.to_be_bytes();
    SocketAddr::from(([10, 1, high, low], 4_000))
}

fn relay_with_calls(calls: u32, now: Now) -> Relay {
    let settings = RelaySettings {
        own: Vec::new(),
        own_ports: (0, 0),
        bounds: MediaBounds::default(),
        media_timeout: Duration::from_secs(60),
    };
    let mut relay = Relay::new(settings, calls as usize * 2);
    for pair in 0..calls * 2 {
        let owner = Owner { call: Handle { slot: pair / 2, generation: 0 }, leg: (pair % 2) as u8, media: 0 };
        let rtp = party(pair);
        let expectation = Expectation {
            rtp: Some(rtp),
            rtcp: None,
            signalling: rtp.ip(),
            mux: false,
            secure: false,
            sends: true,
            receives: true,
            clocks: Clocks::default(),
            payload_types: PayloadTypes::default(),
            ssrcs: Ssrcs::default(),
            symmetric: Symmetric::Auto,
            anybody: false,
        };
        let id = PairId(pair);
        relay.handle(MediaCommand::Open { pair: id, owner, local: SocketAddr::from(([198, 51, 100, 1], 20_000)) }, now);
        relay.handle(MediaCommand::Expect { pair: id, expectation }, now);
        relay.handle(MediaCommand::Watch { pair: id, on: true }, now);
        while relay.next_output().is_some() {}
    }
    for call in 0..calls {
        relay.handle(MediaCommand::Bridge { a: PairId(call * 2), b: PairId(call * 2 + 1) }, now);
    }
    relay
}

fn packets(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("relay_packet");
    for calls in [1u32, 100, 1_000, 4_000] {
        let mut now = Now { instant: Instant::from_millis(5_000), unix: UnixTime::from_secs(1_700_000_000) };
        let mut relay = relay_with_calls(calls, now);
        let mut packet = [0u8; 172];
        packet[0] = 0x80;
        let (mut index, mut sequence) = (0, 0u16);
        group.throughput(Throughput::Elements(1));
        group.bench_function(BenchmarkId::from_parameter(calls), |bencher| {
            bencher.iter(|| {
                // A prime that shares no factor with the counts: each pair once a round.
                let pair = (index * 7_919) % (calls * 2);
                let verdict = relay.packet(pair * 2, black_box(party(pair)), black_box(&packet), now);
                assert!(matches!(verdict, Verdict::Forward { .. }));
                index += 1;
                if index == calls * 2 {
                    index = 0;
                    sequence = sequence.wrapping_add(1);
                    packet[2..4].copy_from_slice(&sequence.to_be_bytes());
                    packet[4..8].copy_from_slice(&(u32::from(sequence) * 160).to_be_bytes());
                    now.instant = now.instant + Duration::from_millis(20);
                    while relay.next_output().is_some() {}
                }
                verdict
            });
        });
    }
    group.finish();
}

fn sweeps(criterion: &mut Criterion) {
    let mut now = Now { instant: Instant::from_millis(5_000), unix: UnixTime::from_secs(1_700_000_000) };
    let mut relay = relay_with_calls(5_000, now);
    criterion.bench_function("relay_sweep_5000_calls_one_eighth", |bencher| {
        bencher.iter(|| {
            now.instant = now.instant + Duration::from_millis(125);
            relay.handle_timeout(now);
            while relay.next_output().is_some() {}
        });
    });
}

criterion_group!(benches, packets, sweeps);
criterion_main!(benches);
