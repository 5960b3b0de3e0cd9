//! The shard's loop with the media relay, on the ring or on plain system calls.

use std::net::SocketAddr;
use std::net::UdpSocket;
use std::os::fd::AsFd;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tipring::base::id::CallId;
use tipring::base::id::Handle;
use tipring::base::id::ShardId;
use tipring::base::time::Instant;
use tipring::base::time::Now;
use tipring::machine::media::bounds::MediaBounds;
use tipring::machine::media::command::Clocks;
use tipring::machine::media::command::Expectation;
use tipring::machine::media::command::Fork;
use tipring::machine::media::command::MediaCommand;
use tipring::machine::media::command::MediaOutput;
use tipring::machine::media::command::Owner;
use tipring::machine::media::command::PairId;
use tipring::machine::media::command::PayloadTypes;
use tipring::machine::media::command::SocketCommand;
use tipring::machine::media::command::Ssrcs;
use tipring::machine::media::command::TapeSwitch;
use tipring::machine::media::relay::Relay;
use tipring::machine::media::relay::RelaySettings;
use tipring::machine::media::relay::Verdict as Decision;
use tipring::shard::memory::Counter;
use tipring::shard::memory::Figures;
use tipring::shard::memory::STATE_OFFSET;
use tipring::shard::memory::create_file;
use tipring::shard::mesh::Member;
use tipring::shard::mesh::Post;
use tipring::shard::run::Effects;
use tipring::shard::run::Flow;
use tipring::shard::run::ShardConfig;
use tipring::shard::run::ShardMachine;
use tipring::shard::run::ShardParts;
use tipring::shard::run::Verdict;
use tipring::shard::run::spawn;
use tipring::shard::tape::disk::Folder;
use tipring::shard::tape::ring;
use tipring::shard::tape::ring::Bell;
use tipring::shard::tape::ring::Gaps;
use tipring::shard::tape::ring::Memory as RingMemory;
use tipring::shard::tape::ring::Ring as TapeRing;
use tipring::shard::tape::thread;
use tipring::shard::tape::thread::Shard as TapeShard;
use tipring::shard::tape::thread::TapeHandle;
use tipring::shard::tape::thread::TapeSettings;
use tipring::shard::udp::Slot;
use tipring::shard::udp::SlotKind;
use tipring::shard::udp::ring::RingConfig;
use tipring::shard::udp::socket;
use tipring::wire::link::Symmetric;
use tipring::wire::tape::Frame;

use crate::Contender;
use crate::LEGS;
use crate::Options;
use crate::RELAY_CPU;
use crate::generator;
use crate::generator::Load;
use crate::generator::SOCKETS;
use crate::measure;
use crate::measure::Outcome;

struct Media {
    relay: Relay,
    connects: bool,
    tape: Option<TapeRing>,
}

impl ShardMachine for Media {
    type Message = ();

    fn on_rtp(&mut self, slot: Slot, source: SocketAddr, bytes: &mut [u8], now: Now) -> Verdict {
        let decision = self.relay.packet(slot, source, bytes, now);
        if let (Some(Fork { call, leg, media }), Some(tape)) = (self.relay.fork(), &mut self.tape) {
            tape.frame(&Frame { call, leg, stream: media, at: now.instant, packet: bytes }, now);
        }
        match decision {
            Decision::Forward { slot, peer } => Verdict::Relay { part: 0..bytes.len(), slot, to: peer },
            Decision::Drop(_) => Verdict::Drop,
        }
    }

    fn on_sip(&mut self, _flow: Flow, _bytes: &[u8], _now: Now) {}

    fn on_closed(&mut self, _connection: Handle, _now: Now) {}

    fn on_message(&mut self, _from: Member, _message: (), _now: Now) {}

    fn handle_timeout(&mut self, now: Now) {
        self.relay.handle_timeout(now);
        if let Some(tape) = &mut self.tape {
            tape.tick(now);
        }
    }

    fn next_deadline(&self) -> Option<Instant> {
        let tape = self.tape.as_ref().and_then(TapeRing::next_deadline);
        [self.relay.next_deadline(), tape].into_iter().flatten().min()
    }

    fn drain(&mut self, effects: &mut impl Effects<()>) {
        while let Some(output) = self.relay.next_output() {
            let MediaOutput::Socket(command) = output else { continue };
            match command {
                SocketCommand::Open { slot } => effects.arm(slot),
                SocketCommand::Close { slot } => effects.disarm(slot),
                SocketCommand::Connect { slot, peer } if self.connects => effects.connect(slot, Some(peer)),
                SocketCommand::Disconnect { slot } if self.connects => effects.connect(slot, None),
                _ => {}
            }
        }
    }
}

fn relay(parties: &[SocketAddr], is_taped: bool, now: Now) -> Relay {
    let settings = RelaySettings {
        own: Vec::new(),
        own_ports: (0, 0),
        bounds: MediaBounds { loopback: true, ..MediaBounds::default() },
        media_timeout: Duration::from_secs(600),
    };
    let mut relay = Relay::new(settings, parties.len());
    for (leg, party) in (0u32..).zip(parties) {
        let owner = Owner { call: Handle { slot: leg / 2, generation: 0 }, leg: (leg % 2) as u8, media: 0 };
        let expectation = Expectation {
            rtp: Some(*party),
            rtcp: None,
            signalling: party.ip(),
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
        let pair = PairId(leg);
        relay.handle(MediaCommand::Open { pair, owner, local: SocketAddr::from(([127, 0, 0, 1], 20_000)) }, now);
        relay.handle(MediaCommand::Expect { pair, expectation }, now);
        if is_taped {
            let switch = TapeSwitch::On(CallId::from_bits(u128::from(leg / 2) + 1));
            relay.handle(MediaCommand::Tape { pair, switch }, now);
        }
        if leg % 2 == 1 {
            relay.handle(MediaCommand::Bridge { a: PairId(leg - 1), b: pair }, now);
        }
        // Sockets are armed by the first `drain`; RTCP sockets are not made here.
        while let Some(output) = relay.next_output() {
            debug_assert!(matches!(output, MediaOutput::Socket(SocketCommand::Open { .. })));
        }
    }
    relay
}

/// The machine, and the slots that it wants armed first.
struct Armed {
    media: Media,
    arm: Vec<Slot>,
}

impl ShardMachine for Armed {
    type Message = ();

    fn on_rtp(&mut self, slot: Slot, source: SocketAddr, bytes: &mut [u8], now: Now) -> Verdict {
        self.media.on_rtp(slot, source, bytes, now)
    }

    fn on_sip(&mut self, _flow: Flow, _bytes: &[u8], _now: Now) {}

    fn on_closed(&mut self, _connection: Handle, _now: Now) {}

    fn on_message(&mut self, _from: Member, _message: (), _now: Now) {}

    fn handle_timeout(&mut self, now: Now) {
        self.media.handle_timeout(now);
    }

    fn next_deadline(&self) -> Option<Instant> {
        if self.arm.is_empty() { self.media.next_deadline() } else { Some(Instant::ZERO) }
    }

    fn drain(&mut self, effects: &mut impl Effects<()>) {
        for slot in self.arm.drain(..) {
            effects.arm(slot);
        }
        self.media.drain(effects);
    }
}

/// A tape in a folder of the disk, written by its thread on the generator's CPU.
struct Tape {
    folder: PathBuf,
    memory: Arc<RingMemory>,
    figures: Figures,
    gaps: Gaps,
    bell: Bell,
    handle: Option<TapeHandle>,
}

impl Tape {
    fn start() -> Self {
        let folder = PathBuf::from(std::env::var("RELAY_TAPE").unwrap_or_else(|_| "target/relay-tape".to_owned()));
        let _ = std::fs::remove_dir_all(&folder);
        // Two seconds of 200,000 packets.
        let memory = RingMemory::private(1_300).expect("memory");
        let (gaps, bell) = (ring::gaps(), Bell::default());
        let file = create_file("bench-tape", STATE_OFFSET as u64).expect("memory");
        let open = || Figures::open(&file, ShardId(0)).expect("figures");
        let settings = TapeSettings {
            boot: 1,
            media_segment_bytes: 64 << 20,
            event_segment_bytes: 4 << 20,
            event_bytes_max: 1 << 30,
            media_bytes_max: 2 << 30,
            segment_age_max: Duration::from_secs(600),
            is_sealed: true,
        };
        let disk = Folder::open(&folder).expect("folder");
        println!("    tape in {} ({:?})", folder.display(), disk.way());
        let shard = TapeShard { shard: ShardId(0), memory: memory.clone(), figures: open(), gaps: gaps.clone() };
        let tape = thread::Tape::open(disk, settings, vec![shard]).expect("tape");
        let handle = thread::spawn(tape, bell.clone(), Some(crate::GENERATOR_CPU)).expect("tape thread");
        Self { folder, memory, figures: open(), gaps, bell, handle: Some(handle) }
    }

    fn ring(&self) -> TapeRing {
        TapeRing::new(self.memory.clone(), 1, self.bell.clone(), self.gaps.clone())
    }

    fn finish(mut self) {
        if let Some(handle) = self.handle.take() {
            handle.finish();
        }
        let count = |counter| self.figures.count(counter);
        println!(
            "    {} blocks and {} MB of media in {} commits, {} errors",
            count(Counter::TapeBlocksMedia),
            count(Counter::TapeBytesMedia) >> 20,
            count(Counter::TapeCommits),
            count(Counter::TapeErrors)
        );
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

pub(crate) fn run(contender: Contender, options: &Options, outcomes: &mut Vec<Outcome>) {
    let phones = generator::sockets();
    let parties: Vec<SocketAddr> = (0..LEGS).map(|leg| phones[leg % SOCKETS].local_addr().expect("address")).collect();
    let mut sockets: Vec<(Slot, OwnedFd, SlotKind)> = Vec::new();
    let mut targets = Vec::new();
    let mut port = 20_000u16;
    while targets.len() < LEGS {
        port += 2;
        let Ok(socket) = UdpSocket::bind(("127.0.0.1", port)) else { continue };
        socket.set_nonblocking(true).expect("nonblocking");
        socket::deafen(socket.as_fd()).expect("filter");
        socket::mark_expedited(socket.as_fd(), false).expect("DSCP");
        sockets.push((2 * targets.len() as Slot, socket.into(), SlotKind::Rtp));
        targets.push(SocketAddr::from(([127, 0, 0, 1], port)));
    }
    let mut posts = Post::mesh(1).expect("mesh");
    let memory = create_file("bench", STATE_OFFSET as u64).expect("memory");
    let parts = ShardParts {
        figures: Figures::open(&memory, ShardId(0)).expect("figures"),
        post: posts.remove(0),
        sockets,
        listeners: Vec::new(),
    };
    let config = ShardConfig {
        cpu: Some(RELAY_CPU),
        housekeeping: Some(crate::GENERATOR_CPU),
        batch: options.batch,
        wait_max: options.wait,
        ring: RingConfig { rtp_buffers_hot: options.hot, ..RingConfig::default() },
        plain: contender == Contender::Plain,
        ..ShardConfig::default()
    };
    let tape = (contender == Contender::RingTape).then(Tape::start);
    let ring = tape.as_ref().map(Tape::ring);
    let connects = contender != Contender::RingUnconnected;
    let shard = spawn(config, parts, move |now| Armed {
        media: Media { relay: relay(&parties, ring.is_some(), now), connects, tape: ring },
        arm: (0..LEGS as Slot).map(|leg| 2 * leg).collect(),
    })
    .expect("shard");
    shard.wait_ready().expect("ready");
    let figures = Figures::read(&memory).expect("figures");
    let mut load = Load::new(phones, &targets);
    let time = || measure::thread_time("self", "shard");
    options.load(contender, &mut load, &time, outcomes);
    shard.stop();
    shard.join().expect("join");
    if let Some(tape) = tape {
        tape.finish();
    }
    let odd: Vec<_> = Counter::ALL
        .iter()
        .filter(|counter| {
            counter.name().contains("rearm") || counter.name().contains("errors") || counter.name().contains("full")
        })
        .map(|counter| (counter.labels(), figures.count(*counter)))
        .filter(|(_, count)| *count > 0)
        .collect();
    let turns = figures.count(Counter::TurnsLoaded) + figures.count(Counter::TurnsWoken);
    let per_turn = figures.count(Counter::UdpReceived) as f64 / turns as f64;
    println!("    {turns} turns, {per_turn:.1} datagrams each; odd: {odd:?}");
}
