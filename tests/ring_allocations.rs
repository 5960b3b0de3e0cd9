//! The loop of a shard allocates nothing for a relayed RTP packet: receive, decision, send, submit, pacing, audit.
//!
//! A binary of its own, because its allocator counts; glommio's own work is put off, it is not per packet.
#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "a test on real sockets: it fails by panicking, and takes time"
)]
#![allow(unsafe_code, reason = "a global allocator is unsafe to implement; this one only counts")]

use std::alloc::GlobalAlloc;
use std::alloc::Layout;
use std::alloc::System;
use std::cell::Cell;
use std::net::SocketAddr;
use std::net::UdpSocket;
use std::os::fd::AsFd;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;
use std::time::Instant as Stopwatch;

use tipring::base::id::Handle;
use tipring::base::id::ShardId;
use tipring::base::time::Instant;
use tipring::base::time::Now;
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
use tipring::shard::udp::Slot;
use tipring::shard::udp::SlotKind;
use tipring::shard::udp::socket::deafen;

thread_local! {
    static COUNTED: Cell<bool> = const { Cell::new(false) };
}

static ALLOCATIONS: AtomicU64 = AtomicU64::new(0);

struct Counting;

// SAFETY: every call goes to the system's allocator unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if COUNTED.try_with(Cell::get).unwrap_or(false) {
            ALLOCATIONS.fetch_add(1, Relaxed);
        }
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

/// Relays between neighbours, and connects each socket to the first that speaks.
struct Neighbours {
    peers: [Option<SocketAddr>; LEGS],
    arm: bool,
    latched: Option<Slot>,
}

const LEGS: usize = 8;

impl ShardMachine for Neighbours {
    type Message = ();

    fn on_rtp(&mut self, slot: Slot, source: SocketAddr, bytes: &mut [u8], _now: Now) -> Verdict {
        let leg = slot as usize;
        if self.peers[leg].is_none() {
            self.peers[leg] = Some(source);
            self.latched = Some(slot);
        }
        let other = slot ^ 1;
        self.peers[other as usize].map_or(Verdict::Drop, |to| Verdict::Relay { part: 0..bytes.len(), slot: other, to })
    }

    fn on_sip(&mut self, _flow: Flow, _bytes: &[u8], _now: Now) {}

    fn on_closed(&mut self, _connection: Handle, _now: Now) {}

    fn on_message(&mut self, _from: Member, _message: (), _now: Now) {}

    fn handle_timeout(&mut self, _now: Now) {}

    fn next_deadline(&self) -> Option<Instant> {
        self.arm.then_some(Instant::ZERO)
    }

    fn drain(&mut self, effects: &mut impl Effects<()>) {
        if std::mem::take(&mut self.arm) {
            for slot in 0..LEGS as Slot {
                effects.arm(slot);
            }
        }
        if let Some(slot) = self.latched.take() {
            effects.connect(slot, self.peers[slot as usize]);
        }
    }
}

/// Speaks until every phone hears its neighbour, then forgets what was heard.
fn await_armed(phones: &[UdpSocket], targets: &[SocketAddr]) {
    for pair in 0..LEGS / 2 {
        let (one, other) = (2 * pair, 2 * pair + 1);
        let heard = |phone: &UdpSocket| phone.recv(&mut [0; 256]).is_ok();
        phones[one].set_read_timeout(Some(Duration::from_millis(10))).unwrap();
        phones[other].set_read_timeout(Some(Duration::from_millis(10))).unwrap();
        let mut both = false;
        for _ in 0..500 {
            phones[one].send_to(&[0x80; 172], targets[one]).unwrap();
            phones[other].send_to(&[0x80; 172], targets[other]).unwrap();
            let (first, second) = (heard(&phones[one]), heard(&phones[other]));
            both = first && second;
            if both {
                break;
            }
        }
        assert!(both, "pair {pair} is not relayed");
    }
    std::thread::sleep(Duration::from_millis(300));
    for phone in phones {
        while phone.recv(&mut [0; 256]).is_ok() {}
        phone.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    }
}

#[test]
fn a_relayed_packet_allocates_nothing() {
    let sockets: Vec<UdpSocket> = (0..LEGS)
        .map(|_| {
            let chosen = UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
            let socket = UdpSocket::bind(chosen).unwrap();
            socket.set_nonblocking(true).unwrap();
            deafen(socket.as_fd()).unwrap();
            socket
        })
        .collect();
    let targets: Vec<SocketAddr> = sockets.iter().map(|socket| socket.local_addr().unwrap()).collect();
    let phones: Vec<UdpSocket> = (0..LEGS).map(|_| UdpSocket::bind("127.0.0.1:0").unwrap()).collect();
    for phone in &phones {
        phone.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    }
    let memory = create_file("test", STATE_OFFSET as u64).unwrap();
    let parts = ShardParts {
        figures: Figures::open(&memory, ShardId(0)).unwrap(),
        post: Post::mesh(1).unwrap().remove(0),
        sockets: (0..).zip(sockets).map(|(slot, socket)| (slot, socket.into(), SlotKind::Rtp)).collect(),
        listeners: Vec::new(),
    };
    let config = ShardConfig { poll_every: Duration::from_secs(3_600), ..ShardConfig::default() };
    let shard = spawn(config, parts, |_| {
        COUNTED.set(true);
        Neighbours { peers: [None; LEGS], arm: true, latched: None }
    })
    .unwrap();
    shard.wait_ready().unwrap();
    let figures = Figures::read(&memory).unwrap();
    await_armed(&phones, &targets);
    // Both sides of a pair speak in turn, at a rate that keeps the shard loaded.
    let speak = |packets: usize| {
        for packet in 0..packets {
            let leg = packet % LEGS;
            phones[leg].send_to(&[0x80; 172], targets[leg]).unwrap();
            assert_eq!(phones[leg ^ 1].recv(&mut [0; 256]).unwrap(), 172);
            let begin = Stopwatch::now();
            while begin.elapsed() < Duration::from_micros(100) {
                std::hint::spin_loop();
            }
        }
    };
    speak(1_000);
    assert!(ALLOCATIONS.load(Relaxed) > 0, "the counter counts");
    // A machine that is busy with other things lets the shard fall asleep, which is not steady and may allocate.
    let mut steady = 0;
    for _ in 0..200 {
        let (sleeps, before) = (figures.count(Counter::Sleeps), ALLOCATIONS.load(Relaxed));
        speak(250);
        if figures.count(Counter::Sleeps) == sleeps {
            assert_eq!(ALLOCATIONS.load(Relaxed) - before, 0);
            steady += 250;
        }
        if steady >= 10_000 {
            break;
        }
    }
    assert!(steady >= 1_000, "{steady} packets were relayed without a sleep");
    shard.stop();
    shard.join().unwrap();
}
