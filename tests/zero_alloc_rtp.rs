//! A steady relay allocates nothing: not per RTP packet, not per RTCP packet, not for strangers, not in its sweeps.
//!
//! A binary of its own, because its allocator counts.
#![allow(unsafe_code, reason = "a global allocator is unsafe to implement; this one only counts")]

use std::alloc::GlobalAlloc;
use std::alloc::Layout;
use std::alloc::System;
use std::cell::Cell;
use std::net::SocketAddr;
use std::time::Duration;

use tipring::base::id::CallId;
use tipring::base::id::Handle;
use tipring::base::time::Instant;
use tipring::base::time::Now;
use tipring::base::time::UnixTime;
use tipring::machine::media::command::Clocks;
use tipring::machine::media::command::Expectation;
use tipring::machine::media::command::Fork;
use tipring::machine::media::command::MediaCommand;
use tipring::machine::media::command::Owner;
use tipring::machine::media::command::PairId;
use tipring::machine::media::command::PayloadTypes;
use tipring::machine::media::command::Ssrcs;
use tipring::machine::media::command::TapeSwitch;
use tipring::machine::media::relay::Relay;
use tipring::machine::media::relay::RelaySettings;
use tipring::machine::media::relay::Verdict;
use tipring::shard::tape::ring::Bell;
use tipring::shard::tape::ring::Memory;
use tipring::shard::tape::ring::Ring;
use tipring::shard::tape::ring::gaps;
use tipring::wire::link::Symmetric;
use tipring::wire::tape::Frame;

thread_local! {
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
}

struct Counting;

// SAFETY: every call goes to the system's allocator unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.with(|count| count.set(count.get() + 1));
        // SAFETY: the caller keeps the contract of `alloc`.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the caller keeps the contract of `dealloc`.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

const CALLS: u32 = 50;

fn party(pair: u32) -> SocketAddr {
    SocketAddr::from(([192, 0, 2, 10], 4_000 + pair as u16 * 2))
}

fn relay_with_calls(now: Now) -> Relay {
    let settings = RelaySettings {
        own: Vec::new(),
        own_ports: (0, 0),
        bounds: Default::default(),
        media_timeout: Duration::from_secs(60),
    };
    let mut relay = Relay::new(settings, CALLS as usize * 2);
    for pair in 0..CALLS * 2 {
        let owner = Owner { call: Handle { slot: pair / 2, generation: 0 }, leg: (pair % 2) as u8, media: 0 };
        let rtp = party(pair);
        let rtcp = SocketAddr::new(rtp.ip(), rtp.port() + 1);
        let expectation = Expectation {
            rtp: Some(rtp),
            rtcp: Some(rtcp),
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
    }
    for call in 0..CALLS {
        relay.handle(MediaCommand::Bridge { a: PairId(call * 2), b: PairId(call * 2 + 1) }, now);
    }
    relay
}

#[test]
fn a_steady_relay_allocates_nothing() {
    let mut now = Now { instant: Instant::from_millis(5_000), unix: UnixTime::from_secs(1_700_000_000) };
    let mut relay = relay_with_calls(now);
    let stranger = SocketAddr::from(([203, 0, 113, 1], 9));
    let mut packet = [0u8; 172];
    packet[0] = 0x80;
    let report = [0x80, 200, 0, 6, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    // Every packet of the first half of the calls is recorded, too.
    for pair in 0..CALLS {
        let switch = TapeSwitch::On(CallId::from_bits(u128::from(pair / 2)));
        relay.handle(MediaCommand::Tape { pair: PairId(pair), switch }, now);
    }
    let memory = Memory::private(256).unwrap();
    let mut tape = Ring::new(memory, 1, Bell::default(), gaps());
    let (mut forwarded, mut allocated) = (0u32, 0);
    for turn in 0u16..500 {
        let before = ALLOCATIONS.with(Cell::get);
        packet[2..4].copy_from_slice(&turn.to_be_bytes());
        packet[4..8].copy_from_slice(&(u32::from(turn) * 160).to_be_bytes());
        for pair in 0..CALLS * 2 {
            let source = party(pair);
            let verdict = relay.packet(pair * 2, source, &packet, now);
            forwarded += u32::from(matches!(verdict, Verdict::Forward { .. }));
            if let Some(Fork { call, leg, media }) = relay.fork() {
                tape.frame(&Frame { call, leg, stream: media, at: now.instant, packet: &packet }, now);
            }
            relay.packet(pair * 2 + 1, SocketAddr::new(source.ip(), source.port() + 1), &report, now);
            relay.packet(pair * 2, stranger, &packet, now);
        }
        now.instant = now.instant + Duration::from_millis(20);
        relay.handle_timeout(now);
        tape.tick(now);
        while relay.next_output().is_some() {}
        // The first turn latches.
        if turn > 0 {
            allocated += ALLOCATIONS.with(Cell::get) - before;
        }
    }
    assert_eq!(forwarded, 500 * CALLS * 2);
    assert_eq!(allocated, 0);
    assert_eq!(tape.counts().frames, u64::from(500 * CALLS));
    // The counter itself works.
    let before = ALLOCATIONS.with(Cell::get);
    drop(std::hint::black_box(Box::new(forwarded)));
    assert_eq!(ALLOCATIONS.with(Cell::get), before + 1);
}
