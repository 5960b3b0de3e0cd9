//! The loop of a shard on real sockets: no wake is lost, idling is cheap, the mesh carries messages and gives back what overflows.
#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "a test on real sockets: it fails by panicking, and takes time"
)]

use std::net::SocketAddr;
use std::net::UdpSocket;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;
use std::time::Instant as Stopwatch;

use tipring::base::id::Handle;
use tipring::base::id::ShardId;
use tipring::base::random::Random;
use tipring::base::time::Instant;
use tipring::base::time::Now;
use tipring::shard::memory::Counter;
use tipring::shard::memory::Figures;
use tipring::shard::memory::Histogram;
use tipring::shard::memory::Phase;
use tipring::shard::memory::STATE_OFFSET;
use tipring::shard::memory::create_file;
use tipring::shard::mesh::Member;
use tipring::shard::mesh::Post;
use tipring::shard::run::Backend;
use tipring::shard::run::Effects;
use tipring::shard::run::Flow;
use tipring::shard::run::ShardConfig;
use tipring::shard::run::ShardHandle;
use tipring::shard::run::ShardMachine;
use tipring::shard::run::ShardParts;
use tipring::shard::run::Verdict;
use tipring::shard::run::spawn;
use tipring::shard::udp::Slot;
use tipring::shard::udp::SlotKind;
use tipring::shard::udp::ring::RingConfig;

/// Returns every datagram to its sender; passes numbers around the mesh.
struct Echo {
    out: Vec<(Slot, SocketAddr, Vec<u8>)>,
    letters: Vec<(Member, u64)>,
    arm: Vec<Slot>,
    shards: u8,
    me: u8,
    returned: Arc<AtomicU64>,
    finished: Arc<AtomicU64>,
    deadline: Option<Instant>,
    fired: Arc<Mutex<Vec<Instant>>>,
}

/// A letter is a count of hops to go.
const FLOOD: u64 = u64::MAX;

impl ShardMachine for Echo {
    type Message = u64;

    fn on_rtp(&mut self, slot: Slot, source: SocketAddr, bytes: &mut [u8], _now: Now) -> Verdict {
        Verdict::Relay { part: 0..bytes.len(), slot, to: source }
    }

    fn on_sip(&mut self, flow: Flow, bytes: &[u8], now: Now) {
        if let Flow::Udp { slot, peer } = flow {
            if let Some(delay) = bytes.strip_prefix(b"in ms ") {
                let millis = std::str::from_utf8(delay).unwrap().parse().unwrap();
                self.deadline = Some(now.instant + Duration::from_millis(millis));
            }
            self.out.push((slot, peer, bytes.to_vec()));
        }
    }

    fn on_closed(&mut self, _connection: Handle, _now: Now) {}

    fn on_message(&mut self, _from: Member, message: u64, _now: Now) {
        match message {
            0 => {
                self.finished.fetch_add(1, Relaxed);
            }
            FLOOD => {
                for _ in 0..20_000 {
                    self.letters.push((Member::Shard(ShardId((self.me + 1) % self.shards)), 0));
                }
            }
            hops => self.letters.push((Member::Shard(ShardId((self.me + 1) % self.shards)), hops - 1)),
        }
    }

    fn handle_timeout(&mut self, now: Now) {
        self.deadline = None;
        self.fired.lock().unwrap().push(now.instant);
    }

    fn next_deadline(&self) -> Option<Instant> {
        self.deadline
    }

    fn drain(&mut self, effects: &mut impl Effects<u64>) {
        for slot in self.arm.drain(..) {
            effects.arm(slot);
        }
        for (slot, to, bytes) in self.out.drain(..) {
            effects.send_udp(slot, to, &bytes);
        }
        for (to, letter) in self.letters.drain(..) {
            if effects.send_mesh(to, letter).is_err() {
                self.returned.fetch_add(1, Relaxed);
            }
        }
    }
}

struct World {
    shards: Vec<ShardHandle>,
    figures: Vec<Figures>,
    addresses: Vec<SocketAddr>,
    clerk: Post<u64>,
    returned: Arc<AtomicU64>,
    finished: Arc<AtomicU64>,
    fired: Arc<Mutex<Vec<Instant>>>,
}

impl World {
    /// Each shard has one SIP socket at slot 0 and one RTP socket at slot 1, open from the first message on.
    fn new(shards: u8, config: &ShardConfig) -> Self {
        let mut posts = Post::mesh(usize::from(shards)).unwrap();
        let clerk = posts.pop().unwrap();
        let mut world = Self {
            shards: Vec::new(),
            figures: Vec::new(),
            addresses: Vec::new(),
            clerk,
            returned: Arc::default(),
            finished: Arc::default(),
            fired: Arc::default(),
        };
        for (me, post) in (0..shards).zip(posts) {
            let memory = create_file("test", STATE_OFFSET as u64).unwrap();
            let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
            socket.set_nonblocking(true).unwrap();
            world.addresses.push(socket.local_addr().unwrap());
            let parts = ShardParts {
                figures: Figures::open(&memory, ShardId(me)).unwrap(),
                post,
                sockets: vec![(0, OwnedFd::from(socket), SlotKind::Sip)],
                listeners: Vec::new(),
            };
            world.figures.push(Figures::read(&memory).unwrap());
            let returned = Arc::clone(&world.returned);
            let finished = Arc::clone(&world.finished);
            let fired = Arc::clone(&world.fired);
            let config = ShardConfig { cpu: Some(usize::from(me) % 2), ..config.clone() };
            let shard = spawn(config, parts, move |_| Echo {
                out: Vec::new(),
                letters: Vec::new(),
                arm: Vec::new(),
                shards,
                me,
                returned,
                finished,
                deadline: None,
                fired,
            });
            world.shards.push(shard.unwrap());
        }
        for shard in &world.shards {
            assert_eq!(shard.wait_ready().unwrap(), if config.plain { Backend::Plain } else { Backend::Ring });
        }
        world
    }

    fn stop(self) {
        for shard in &self.shards {
            shard.stop();
        }
        for shard in self.shards {
            shard.join().unwrap();
        }
        assert!(self.figures.iter().all(|figures| figures.phase() == Phase::Stopped));
    }
}

fn config() -> ShardConfig {
    let ring = RingConfig {
        slots_max: 16,
        sq_entries: 256,
        cq_entries: 4_096,
        rtp_buffers: 256,
        rtp_buffers_hot: 256,
        sip_buffers: 64,
        ..RingConfig::default()
    };
    ShardConfig { ring, ..ShardConfig::default() }
}

fn phone() -> UdpSocket {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    socket
}

fn pause(micros: u64) {
    let begin = Stopwatch::now();
    while begin.elapsed() < Duration::from_micros(micros) {
        std::hint::spin_loop();
    }
}

/// The shard sleeps after every datagram; one that is not woken would not answer within 5 s.
#[test]
fn no_wake_is_lost() {
    let datagrams: u32 = std::env::var("TIPRING_WAKES").map_or(20_000, |number| number.parse().unwrap());
    let config = ShardConfig { loaded_datagrams: u32::MAX, sleep_max: Duration::from_secs(60), ..config() };
    let world = World::new(1, &config);
    let phone = phone();
    let mut random = Random::new(5);
    let mut bytes = [0; 16];
    for number in 0..datagrams {
        phone.send_to(&number.to_be_bytes(), world.addresses[0]).unwrap();
        let (len, _) = phone.recv_from(&mut bytes).unwrap_or_else(|_| panic!("datagram {number} was not answered"));
        assert_eq!(bytes[..len], number.to_be_bytes());
        pause(random.below(150));
    }
    assert!(world.figures[0].count(Counter::Sleeps) > u64::from(datagrams) / 4);
    world.stop();
}

/// The same for messages of other threads.
#[test]
fn no_wake_of_the_mesh_is_lost() {
    let config = ShardConfig { sleep_max: Duration::from_secs(60), ..config() };
    let world = World::new(1, &config);
    let mut random = Random::new(6);
    for number in 0..5_000 {
        world.clerk.try_send(Member::Shard(ShardId(0)), 0).unwrap();
        let begin = Stopwatch::now();
        while world.finished.load(Relaxed) <= number {
            assert!(begin.elapsed() < Duration::from_secs(5), "message {number} was not taken");
            std::hint::spin_loop();
        }
        pause(random.below(100));
    }
    world.stop();
}

fn voluntary_switches() -> u64 {
    let mut switches = 0;
    for task in std::fs::read_dir("/proc/self/task").unwrap() {
        let status = std::fs::read_to_string(task.unwrap().path().join("status")).unwrap_or_default();
        if status.lines().any(|line| line.starts_with("Name:\tidle-")) || status.contains("Name:\tshard") {
            let line = status.lines().find(|line| line.starts_with("voluntary_ctxt_switches")).unwrap();
            switches += line.split_whitespace().last().unwrap().parse::<u64>().unwrap();
        }
    }
    switches
}

/// 20 wake-ups a second for each shard are allowed; other tests of this file run shards too, so this one counts alone.
#[test]
fn an_idle_shard_sleeps() {
    if std::env::var_os("TIPRING_ALONE").is_none() {
        let itself = std::env::current_exe().unwrap();
        let mut command = std::process::Command::new(itself);
        let status = command.args(["--exact", "an_idle_shard_sleeps"]).env("TIPRING_ALONE", "1").status().unwrap();
        assert!(status.success());
        return;
    }
    let world = World::new(2, &config());
    std::thread::sleep(Duration::from_millis(500));
    let before = voluntary_switches();
    let sleeps = world.figures[0].count(Counter::Sleeps);
    std::thread::sleep(Duration::from_secs(2));
    let switches = voluntary_switches() - before;
    assert!(switches <= 2 * 2 * 20, "{switches} switches of two shards in 2 s");
    assert!(world.figures[0].count(Counter::Sleeps) - sleeps >= 4, "the heartbeat goes on");
    world.stop();
}

/// The kernel may leave its flag for deferred work raised after a storm; a shard that believed it would turn for ever.
#[test]
fn a_shard_sleeps_after_every_storm() {
    let world = World::new(1, &config());
    let phone = phone();
    phone.set_nonblocking(true).unwrap();
    let mut random = Random::new(8);
    let turns = || world.figures[0].count(Counter::TurnsWoken) + world.figures[0].count(Counter::TurnsLoaded);
    for storm in 0..20 {
        let begin = Stopwatch::now();
        while begin.elapsed() < Duration::from_millis(100) {
            phone.send_to(&[1; 172], world.addresses[0]).unwrap();
            let _ = phone.recv_from(&mut [0; 256]);
            pause(random.below(300));
        }
        std::thread::sleep(Duration::from_millis(130));
        let before = turns();
        std::thread::sleep(Duration::from_millis(60));
        let turned = turns() - before;
        assert!(turned < 100, "{turned} turns in 60 ms of silence after storm {storm}");
    }
    world.stop();
}

/// An empty datagram ends the kernel's receive: whoever sends many must not take the socket from the others.
#[test]
fn empty_datagrams_hold_nobody_up() {
    let world = World::new(1, &config());
    let (phone, stranger) = (phone(), phone());
    phone.set_nonblocking(true).unwrap();
    const DATAGRAMS: usize = 2_000;
    let (mut sent, mut answers) = (0, 0);
    let begin = Stopwatch::now();
    while answers < DATAGRAMS && begin.elapsed() < Duration::from_secs(5) {
        if sent < DATAGRAMS && sent - answers < 32 {
            stranger.send_to(&[], world.addresses[0]).unwrap();
            stranger.send_to(&[], world.addresses[0]).unwrap();
            phone.send_to(&[1; 172], world.addresses[0]).unwrap();
            sent += 1;
        }
        answers += std::iter::from_fn(|| phone.recv_from(&mut [0; 256]).ok()).count();
        pause(200);
    }
    assert_eq!(answers, DATAGRAMS);
    world.stop();
}

#[test]
fn deadlines_are_kept_asleep_and_awake() {
    let world = World::new(1, &config());
    let phone = phone();
    for delay in [1, 3, 40] {
        let begin = tipring::shard::clock::boottime();
        phone.send_to(format!("in ms {delay}").as_bytes(), world.addresses[0]).unwrap();
        phone.recv_from(&mut [0; 16]).unwrap();
        std::thread::sleep(Duration::from_millis(delay + 100));
        let fired = world.fired.lock().unwrap().pop().unwrap();
        let late = fired.since(begin + Duration::from_millis(delay));
        assert!(fired >= begin + Duration::from_millis(delay) && late < Duration::from_millis(80), "{late:?} late");
    }
    world.stop();
}

#[test]
fn the_mesh_carries_and_gives_back() {
    for shards in [1, 2, 5] {
        let world = World::new(shards, &config());
        const BALLS: u64 = 8;
        for ball in 0..BALLS {
            let first = Member::Shard(ShardId((ball % u64::from(shards)) as u8));
            world.clerk.try_send(first, 500).unwrap();
        }
        let begin = Stopwatch::now();
        while world.finished.load(Relaxed) < BALLS {
            assert!(begin.elapsed() < Duration::from_secs(20));
            std::thread::sleep(Duration::from_millis(1));
        }
        // 20,000 at once are more than any queue holds: each is taken or comes back, none is lost.
        world.clerk.try_send(Member::Shard(ShardId(0)), FLOOD).unwrap();
        while world.finished.load(Relaxed) + world.returned.load(Relaxed) < BALLS + 20_000 {
            assert!(begin.elapsed() < Duration::from_secs(20));
            std::thread::sleep(Duration::from_millis(1));
        }
        let (returned, finished) = (world.returned.load(Relaxed), world.finished.load(Relaxed));
        assert!(
            returned > 0 && returned + finished == BALLS + 20_000,
            "{shards} shards: {returned} returned, {finished} taken"
        );
        let full: u64 = world.figures.iter().map(|figures| figures.count(Counter::MeshFull)).sum();
        assert_eq!(full, returned);
        world.stop();
    }
}

/// With a stream of datagrams the shard waits in the ring, and none is late.
#[test]
fn a_loaded_shard_is_paced() {
    for plain in [false, true] {
        let world = World::new(1, &ShardConfig { plain, ..config() });
        let phone = phone();
        phone.set_nonblocking(true).unwrap();
        let mut answers = 0;
        let begin = Stopwatch::now();
        for number in 0..u32::MAX {
            if number < 2_000 {
                phone.send_to(&[1; 172], world.addresses[0]).unwrap();
            }
            answers += std::iter::from_fn(|| phone.recv_from(&mut [0; 256]).ok()).count();
            if answers == 2_000 || begin.elapsed() > Duration::from_secs(10) {
                break;
            }
            pause(200);
        }
        assert_eq!(answers, 2_000);
        let figures = &world.figures[0];
        assert!(figures.count(Counter::TurnsLoaded) > 100, "plain {plain}");
        if !plain {
            assert!(figures.histogram(Histogram::TurnLateness).0.iter().sum::<u64>() > 100);
        }
        world.stop();
    }
}
