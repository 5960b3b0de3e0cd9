//! A world in one thread: phones, strangers, a network that loses, doubles and delays, and a node of 1 to 4 shards on a
//! virtual clock.
//!
//! Every datagram for the node's SIP address arrives at a random shard, and every connection is accepted by one. Between
//! any two steps a shard may be written to bytes and read back. One seed makes one world, event for event.

mod connections;
mod network;
mod node;
mod settings;
mod sockets;

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::collections::BinaryHeap;
use std::net::IpAddr;
use std::net::Ipv4Addr;
use std::net::SocketAddr;
use std::time::Duration;

use tipring::base::id::CallId;
use tipring::base::id::ShardId;
use tipring::base::random::Random;
use tipring::base::time::Instant;
use tipring::machine::directory::Directory;
use tipring::machine::exchange::Exchange;
use tipring::machine::exchange::Input;
use tipring::machine::outbox::Mesh;
use tipring::machine::settings::Settings;
use tipring::wire::event::Body;
use tipring::wire::link;
use tipring::wire::link::DirectoryPart;

use crate::hearing::Hearing;
use crate::hostile::Hostile;
use crate::patience;
use crate::patience::Patience;
use crate::phone::Act;
use crate::phone::Manner;
use crate::phone::Phone;
use crate::stream::Stream;
use crate::watch::Watch;
use crate::world::settings::NODE;
use crate::world::settings::both;
use crate::world::settings::entry;
use crate::world::settings::settings;
use crate::world::settings::tenant;
use crate::world::sockets::Socket;

/// What must hold all the time is looked at so often.
const AUDIT: Duration = Duration::from_secs(1);
/// More steps of one instant than any world needs: a timer that is due again and again.
const STEPS_AT_ONCE_MAX: u32 = 100_000;
/// How long a call waits for another shard's answer about bindings that never comes.
const LOCATE_MAX: Duration = Duration::from_secs(2);
/// Timers B and F: what was lost is repeated until then.
const REPEATED_MAX: Duration = Duration::from_secs(32);
/// A number of several phones: see [`World::group`].
pub const GROUP: &str = "1500";

/// What the network and fate do, in thousandths.
#[derive(Clone, Copy, Debug)]
pub struct Faults {
    pub lost: u64,
    pub doubled: u64,
    pub delayed: u64,
    /// A shard is restored from bytes before a step.
    pub restored: u64,
    /// A queue between two shards is full.
    pub mesh_lost: u64,
}

impl Faults {
    pub const NONE: Self = Self { lost: 0, doubled: 0, delayed: 0, restored: 0, mesh_lost: 0 };
}

#[derive(Debug)]
enum Happening {
    Datagram {
        from: SocketAddr,
        to: SocketAddr,
        bytes: Vec<u8>,
    },
    /// Somebody looks at what must hold all the time.
    Audit,
    /// Bytes of a stream arrive.
    Bytes {
        stream: usize,
        to_node: bool,
    },
    /// The node learns that a connection broke.
    Broken(usize),
    /// A stranger does something.
    Stranger,
    /// Somebody who means harm sends many datagrams, and so many times more.
    Attack(u32),
    /// A stranger behind a phone's address sends a packet to all media ports, and so many more.
    Spray {
        phone: usize,
        number: u16,
        left: u16,
    },
    /// The shards go on from bytes, without their connections and what was on its way between them.
    Restart,
    Mesh {
        from: ShardId,
        to: ShardId,
        message: Mesh,
    },
    ShardTimer(usize),
    PhoneTimer(usize),
    Act(usize, Act),
}

pub struct World {
    pub now: Instant,
    pub phones: Vec<Phone>,
    pub shards: Vec<Exchange>,
    pub events: Vec<(ShardId, Option<CallId>, Body)>,
    /// SIP datagrams between phones and node, for a ladder when something fails.
    pub ladder: Vec<(Instant, SocketAddr, SocketAddr, Vec<u8>)>,
    random: Random,
    /// Decides what must make no difference: restored shards, repeated messages of the mesh.
    whim: Random,
    faults: Faults,
    settings: Settings,
    directory: Directory,
    queue: BinaryHeap<Reverse<(Instant, u64)>>,
    happenings: BTreeMap<u64, Happening>,
    sequence: u64,
    next_audit: Instant,
    shard_timers: Vec<Instant>,
    phone_timers: Vec<Instant>,
    pub streams: Vec<Stream>,
    pub watch: Watch,
    pub patience: Patience,
    sockets: Vec<BTreeMap<u32, Socket>>,
    /// Sockets drop what the kernel would drop; else the relay has to.
    kernel_filters: bool,
    /// All calls are recorded, and their parties told so.
    pub announces: bool,
    /// All phones but the first have one number together.
    pub group: bool,
    /// Answers of shards about bindings come twice, also late.
    pub repeats_mesh: bool,
    /// Who sends is heard, all the time.
    hearing: Option<Hearing>,
    pub hostile: Hostile,
}

impl World {
    pub fn new(seed: u64, shards: u8, faults: Faults) -> Self {
        let mut random = Random::new(seed);
        let settings = settings(shards, &mut random);
        let now = Instant::from_millis(1_000_000);
        let exchanges = (0..shards)
            .map(|shard| Exchange::new(ShardId(shard), random.next_u64(), Self::pairs(shard), &settings, both(now)));
        let exchanges: Vec<_> = exchanges.collect();
        let shard_timers = vec![Instant::NEVER; exchanges.len()];
        Self {
            now,
            phones: Vec::new(),
            shards: exchanges,
            events: Vec::new(),
            ladder: Vec::new(),
            random,
            whim: Random::new(seed ^ 0x0003_1415_9265),
            faults,
            settings,
            directory: Directory::new(),
            queue: BinaryHeap::new(),
            happenings: BTreeMap::new(),
            sequence: 0,
            next_audit: now,
            shard_timers,
            phone_timers: Vec::new(),
            streams: Vec::new(),
            watch: Watch::default(),
            patience: Patience::default(),
            sockets: (0..shards).map(|_| BTreeMap::new()).collect(),
            kernel_filters: seed.is_multiple_of(2),
            announces: false,
            group: false,
            repeats_mesh: false,
            hearing: None,
            hostile: Hostile::default(),
        }
    }

    pub fn server() -> SocketAddr {
        SocketAddr::new(NODE, 5060)
    }

    /// One tenant `acme` with a phone for each manner, users 1001 and up, extensions as the users.
    pub fn populate(&mut self, manners: &[Manner]) {
        let mut part = DirectoryPart { tenants: vec![tenant(self.announces)], ..DirectoryPart::default() };
        for (index, manner) in manners.iter().enumerate() {
            let user = format!("{}", 1001 + index);
            let numbers = if self.group && index > 0 { vec![GROUP.to_owned()] } else { Vec::new() };
            part.phones.push(link::Phone { numbers, ..entry(&user) });
            let address = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(203, 0, 113, 10 + index as u8)), 5060);
            self.phones.push(Phone::new(&user, "acme.test", address, Self::server(), *manner, self.random.next_u64()));
            self.phone_timers.push(Instant::NEVER);
        }
        self.directory.apply(1, part);
    }

    /// `phone` does this so long from now.
    pub fn plan(&mut self, after: Duration, phone: usize, act: Act) {
        self.push(self.now + after, Happening::Act(phone, act));
    }

    /// A stranger does something so long from now.
    pub fn plan_stranger(&mut self, after: Duration) {
        self.push(self.now + after, Happening::Stranger);
    }

    /// Somebody begins to attack the node in the names of its phones, and does for so long.
    pub fn plan_attack(&mut self, after: Duration, length: Duration) {
        let victims = self.phones.iter().map(|phone| (phone.sip, phone.user.clone())).collect();
        self.hostile = Hostile::new(victims);
        let times = (length.as_nanos() / network::ATTACK_EVERY.as_nanos()) as u32;
        self.push(self.now + after, Happening::Attack(times));
    }

    /// Somebody behind the phone's address begins to send to all media ports, and does for so long.
    pub fn plan_spray(&mut self, after: Duration, phone: usize, length: Duration) {
        let left = (length.as_nanos() / network::SPRAY_EVERY.as_nanos()) as u16;
        self.push(self.now + after, Happening::Spray { phone, number: 1, left });
    }

    /// Who speaks to whom has to be heard from now on.
    pub fn watch_hearing(&mut self, is_lossy: bool, is_sprayed: bool) {
        self.hearing = Some(Hearing::new(is_lossy, is_sprayed, self.now));
    }

    /// Messages of the mesh are lost in this world, at times.
    pub fn loses_mesh(&mut self) {
        self.patience.slack = LOCATE_MAX;
        self.watch.slack = REPEATED_MAX;
    }

    /// The node restarts so long from now.
    pub fn plan_restart(&mut self, after: Duration) {
        self.loses_mesh();
        self.push(self.now + after, Happening::Restart);
    }

    pub fn set_faults(&mut self, faults: Faults) {
        self.faults = faults;
    }

    /// Lets time pass.
    pub fn run(&mut self, duration: Duration) {
        let end = self.now + duration;
        let mut steps = 0;
        while let Some(Reverse((at, sequence))) = self.queue.peek().copied() {
            if at > end {
                break;
            }
            self.queue.pop();
            steps = if at > self.now { 0 } else { steps + 1 };
            assert!(steps < STEPS_AT_ONCE_MAX, "time stands still");
            self.now = at.max(self.now);
            if let Some(hearing) = &mut self.hearing {
                hearing.look(&self.phones, self.now);
            }
            // In a world where nothing happens nothing becomes wrong.
            if self.now >= self.next_audit {
                self.next_audit = self.now + AUDIT;
                patience::check(self);
            }
            if let Some(happening) = self.happenings.remove(&sequence) {
                self.step(happening);
            }
        }
        self.now = end;
    }

    fn push(&mut self, at: Instant, happening: Happening) {
        self.sequence += 1;
        self.queue.push(Reverse((at, self.sequence)));
        self.happenings.insert(self.sequence, happening);
    }

    fn step(&mut self, happening: Happening) {
        match happening {
            Happening::Datagram { from, to, bytes } if to.ip() == NODE => self.reach_node(from, to, bytes),
            Happening::Datagram { from, to, bytes } => self.reach_phone(from, to, &bytes),
            // As the shard's driver does it.
            Happening::Mesh { to, message: Mesh::Write { flow, bytes }, .. } => self.send(to, flow, bytes),
            Happening::Mesh { message: Mesh::Keep { .. }, .. } => {}
            Happening::Mesh { from, to, message } => self.on_shard(usize::from(to.0), |exchange, now, shared, out| {
                exchange.handle(Input::Mesh { from, message }, now, shared, out);
            }),
            Happening::ShardTimer(shard) => {
                self.shard_timers[shard] = Instant::NEVER;
                self.on_shard(shard, |exchange, now, shared, out| exchange.handle_timeout(now, shared, out));
            }
            Happening::PhoneTimer(phone) => {
                self.phone_timers[phone] = Instant::NEVER;
                self.on_phone(phone, |phone, now, out| phone.handle_timeout(now, out));
            }
            Happening::Audit => patience::check(self),
            Happening::Bytes { stream, to_node } => self.on_bytes(stream, to_node),
            Happening::Broken(stream) => self.on_broken(stream),
            Happening::Stranger => self.on_stranger(),
            Happening::Attack(left) => self.on_attack(left),
            Happening::Spray { phone, number, left } => self.on_spray(phone, number, left),
            Happening::Restart => self.restart(),
            Happening::Act(phone, Act::Disconnect) => self.disconnect(phone),
            Happening::Act(phone, Act::PowerCut) => {
                self.disconnect(phone);
                self.on_phone(phone, |phone, now, out| phone.act(Act::PowerCut, now, out));
            }
            Happening::Act(phone, act) => self.on_phone(phone, |phone, now, out| phone.act(act, now, out)),
        }
    }

    /// The SIP messages so far, a line each.
    pub fn story(&self) -> String {
        let lines = self.ladder.iter().map(|(at, from, to, bytes)| {
            let text = String::from_utf8_lossy(bytes);
            let line = |name: &str| text.lines().find(|line| line.starts_with(name)).unwrap_or("").to_owned();
            format!(
                "{:>9.3} {from} > {to} {} | {} | {}",
                at.millis() as f64 / 1000.0,
                text.lines().next().unwrap_or(""),
                line("CSeq"),
                line("Call-ID")
            )
        });
        lines.collect::<Vec<_>>().join("\n")
    }
}

/// What happened, when a check fails.
impl Drop for World {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("the story of this world:\n{}", self.story());
        }
    }
}
