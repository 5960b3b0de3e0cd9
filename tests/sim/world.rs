//! A world in one thread: phones, a network that loses, doubles and delays, and a node of 1 to 4 shards on a virtual clock.
//!
//! Every datagram for the node's SIP address arrives at a random shard. Between any two steps a shard may be written to
//! bytes and read back. One seed makes one world, event for event.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::collections::BinaryHeap;
use std::net::IpAddr;
use std::net::Ipv4Addr;
use std::net::SocketAddr;
use std::time::Duration;

use tipring::base::hash::HashKey;
use tipring::base::id::CallId;
use tipring::base::id::ShardId;
use tipring::base::random::Random;
use tipring::base::time::Instant;
use tipring::base::time::Now;
use tipring::base::time::UnixTime;
use tipring::machine::Shared;
use tipring::machine::directory::Directory;
use tipring::machine::exchange::Exchange;
use tipring::machine::exchange::Input;
use tipring::machine::flow::Flow;
use tipring::machine::media::ports::Pair;
use tipring::machine::media::relay::Verdict;
use tipring::machine::outbox::Mesh;
use tipring::machine::outbox::Outbox;
use tipring::machine::outbox::Output;
use tipring::machine::settings::Algorithm;
use tipring::machine::settings::Interface;
use tipring::machine::settings::Listener;
use tipring::machine::settings::MediaAddress;
use tipring::machine::settings::Secrets;
use tipring::machine::settings::Settings;
use tipring::wire::event::Body;
use tipring::wire::link;
use tipring::wire::link::DirectoryPart;
use tipring::wire::link::Ha1;

use crate::phone::Act;
use crate::phone::Manner;
use crate::phone::Phone;
use crate::phone::Sent;

const NODE: IpAddr = IpAddr::V4(Ipv4Addr::new(198, 51, 100, 1));
const PAIRS_PER_SHARD: u32 = 64;
const FIRST_PORT: u32 = 20_000;
const EPOCH: u64 = 1_800_000_000;

/// What the network and fate do, in thousandths.
#[derive(Clone, Copy, Debug)]
pub struct Faults {
    pub lost: u64,
    pub doubled: u64,
    pub delayed: u64,
    /// A shard is restored from bytes before a step.
    pub restored: u64,
}

impl Faults {
    pub const NONE: Self = Self { lost: 0, doubled: 0, delayed: 0, restored: 0 };
}

#[derive(Debug)]
enum Happening {
    Datagram { from: SocketAddr, to: SocketAddr, bytes: Vec<u8> },
    Mesh { from: ShardId, to: ShardId, message: Mesh },
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
    faults: Faults,
    settings: Settings,
    directory: Directory,
    queue: BinaryHeap<Reverse<(Instant, u64)>>,
    happenings: BTreeMap<u64, Happening>,
    sequence: u64,
    shard_timers: Vec<Instant>,
    phone_timers: Vec<Instant>,
}

impl World {
    pub fn new(seed: u64, shards: u8, faults: Faults) -> Self {
        let mut random = Random::new(seed);
        let settings = settings(shards, &mut random);
        let now = Instant::from_millis(1_000_000);
        let exchanges = (0..shards).map(|shard| {
            let pairs = (0..PAIRS_PER_SHARD).map(|pair| {
                let port = FIRST_PORT + (u32::from(shard) * PAIRS_PER_SHARD + pair) * 2;
                Pair {
                    interface: 0,
                    rtp: SocketAddr::new(NODE, port as u16),
                    rtcp: SocketAddr::new(NODE, port as u16 + 1),
                }
            });
            Exchange::new(ShardId(shard), random.next_u64(), pairs.collect(), &settings, both(now))
        });
        let exchanges: Vec<_> = exchanges.collect();
        let shard_timers = vec![Instant::NEVER; exchanges.len()];
        Self {
            now,
            phones: Vec::new(),
            shards: exchanges,
            events: Vec::new(),
            ladder: Vec::new(),
            random,
            faults,
            settings,
            directory: Directory::new(),
            queue: BinaryHeap::new(),
            happenings: BTreeMap::new(),
            sequence: 0,
            shard_timers,
            phone_timers: Vec::new(),
        }
    }

    pub fn server() -> SocketAddr {
        SocketAddr::new(NODE, 5060)
    }

    /// One tenant `acme` with a phone for each manner, users 1001 and up, extensions as the users.
    pub fn populate(&mut self, manners: &[Manner]) {
        let tenant = link::Tenant {
            name: "acme".to_owned(),
            domain: "acme.test".to_owned(),
            aliases: Vec::new(),
            realm: String::new(),
            default: true,
            record: link::Record::Never,
            digest: Vec::new(),
        };
        let mut part = DirectoryPart { tenants: vec![tenant], ..DirectoryPart::default() };
        for (index, manner) in manners.iter().enumerate() {
            let user = format!("{}", 1001 + index);
            part.phones.push(entry(&user));
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

    /// The next step of this call panics.
    pub fn break_call(&mut self, call: CallId) {
        for shard in 0..self.shards.len() {
            self.on_shard(shard, |exchange, now, shared, out| exchange.handle(Input::Fault(call), now, shared, out));
        }
    }

    pub fn set_faults(&mut self, faults: Faults) {
        self.faults = faults;
    }

    /// Lets time pass.
    pub fn run(&mut self, duration: Duration) {
        let end = self.now + duration;
        while let Some(Reverse((at, sequence))) = self.queue.peek().copied() {
            if at > end {
                break;
            }
            self.queue.pop();
            self.now = at.max(self.now);
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
            Happening::Act(phone, act) => self.on_phone(phone, |phone, now, out| phone.act(act, now, out)),
        }
    }

    fn reach_node(&mut self, from: SocketAddr, to: SocketAddr, bytes: Vec<u8>) {
        if to == Self::server() {
            let shard = self.random.below(self.shards.len() as u64) as usize;
            self.ladder.push((self.now, from, to, bytes.clone()));
            self.on_shard(shard, |exchange, now, shared, out| {
                exchange.handle(Input::Sip { flow: Flow::udp(0, from), bytes: &bytes }, now, shared, out);
            });
            return;
        }
        let place = u32::from(to.port()) - FIRST_PORT;
        let (shard, slot) = (place / (PAIRS_PER_SHARD * 2), place % (PAIRS_PER_SHARD * 2));
        let mut forward = None;
        self.on_shard(shard as usize, |exchange, now, shared, out| {
            if let Verdict::Forward { slot, peer } = exchange.relay(slot, from, &bytes, now, shared, out) {
                forward = Some((slot, peer));
            }
        });
        if let Some((slot, peer)) = forward {
            let port = FIRST_PORT + shard * PAIRS_PER_SHARD * 2 + slot;
            self.transmit(SocketAddr::new(NODE, port as u16), peer, bytes);
        }
    }

    fn reach_phone(&mut self, from: SocketAddr, to: SocketAddr, bytes: &[u8]) {
        let Some(index) = self.phones.iter().position(|phone| phone.sip == to || phone.rtp == to) else { return };
        if self.phones[index].rtp == to {
            self.phones[index].handle_rtp(bytes, self.now);
            return;
        }
        self.ladder.push((self.now, from, to, bytes.to_vec()));
        self.on_phone(index, |phone, now, out| phone.handle(bytes, now, out));
    }

    fn on_phone(&mut self, index: usize, act: impl FnOnce(&mut Phone, Instant, &mut Sent)) {
        let mut sent = Sent::new();
        act(&mut self.phones[index], self.now, &mut sent);
        for (from, to, bytes) in sent {
            self.transmit(from, to, bytes);
        }
        let next =
            self.phones[index].next_deadline().unwrap_or(Instant::NEVER).max(self.now + Duration::from_millis(1));
        if next < self.phone_timers[index] {
            self.phone_timers[index] = next;
            self.push(next, Happening::PhoneTimer(index));
        }
    }

    fn on_shard(&mut self, index: usize, act: impl FnOnce(&mut Exchange, Now, Shared<'_>, &mut Outbox)) {
        if self.random.chance(self.faults.restored, 1000) {
            self.restore(index);
        }
        let mut out = Outbox::new();
        let shared = Shared { settings: &self.settings, directory: &self.directory };
        act(&mut self.shards[index], both(self.now), shared, &mut out);
        assert_eq!(out.overflows, 0);
        self.apply(index, &mut out);
        let next = self.shards[index].next_deadline().unwrap_or(Instant::NEVER).max(self.now);
        if next < self.shard_timers[index] {
            self.shard_timers[index] = next;
            self.push(next, Happening::ShardTimer(index));
        }
    }

    /// Through bytes and back, as a new engine would take the shard over.
    fn restore(&mut self, index: usize) {
        let bytes = postcard::to_stdvec(&self.shards[index]).expect("state serialises");
        self.shards[index] = postcard::from_bytes(&bytes).expect("state deserialises");
    }

    fn apply(&mut self, index: usize, out: &mut Outbox) {
        let shard = ShardId(index as u8);
        let outputs: Vec<_> = out.drain().collect();
        for output in outputs {
            match output {
                Output::Send { flow, bytes } => self.transmit(Self::server(), flow.peer, bytes),
                Output::Mesh { to, message } => {
                    let delay = Duration::from_micros(self.random.below(2_000));
                    self.push(self.now + delay, Happening::Mesh { from: shard, to, message });
                }
                Output::Event { call, body, .. } => self.events.push((shard, call, body)),
                _ => {}
            }
        }
    }

    fn transmit(&mut self, from: SocketAddr, to: SocketAddr, bytes: Vec<u8>) {
        let copies = match (self.random.chance(self.faults.lost, 1000), self.random.chance(self.faults.doubled, 1000)) {
            (true, _) => 0,
            (false, true) => 2,
            (false, false) => 1,
        };
        for _ in 0..copies {
            let extra = if self.random.chance(self.faults.delayed, 1000) { self.random.below(300_000) } else { 0 };
            let delay = Duration::from_micros(5_000 + self.random.below(2_000) + extra);
            self.push(self.now + delay, Happening::Datagram { from, to, bytes: bytes.clone() });
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

fn both(instant: Instant) -> Now {
    Now { instant, unix: UnixTime::from_secs(EPOCH) + Duration::from_nanos(instant.nanos()) }
}

fn settings(shards: u8, random: &mut Random) -> Settings {
    let mut hash = HashKey([0; 16]);
    hash.0[..8].copy_from_slice(&random.next_u64().to_le_bytes());
    let media = MediaAddress { local: NODE, advertise: NODE };
    Settings {
        node: "sim".to_owned(),
        boot: 1,
        shards,
        secrets: Secrets { hash, nonce: [7; 32] },
        listeners: vec![Listener { reliable: false, local: World::server(), advertise: None, interface: 0 }],
        trusted: Vec::new(),
        digest: vec![Algorithm::Sha256, Algorithm::Md5],
        interfaces: vec![Interface { name: "default".to_owned(), ipv4: Some(media), ipv6: None }],
        registration: tipring::machine::settings::RegistrationBounds::default(),
        ring_max: Duration::from_secs(60),
        media_timeout: Duration::from_secs(60),
        loopback_media: false,
    }
}

fn entry(user: &str) -> link::Phone {
    use md5::Digest;
    let ha1 = md5::Md5::digest(format!("{user}:acme.test:secret-{user}").as_bytes());
    link::Phone {
        tenant: "acme".to_owned(),
        user: user.to_owned(),
        auth_user: String::new(),
        extension: user.to_owned(),
        numbers: Vec::new(),
        name: format!("Phone {user}"),
        record: link::Record::Never,
        external_id: String::new(),
        ha1: Ha1 { md5: Some(ha1.into()), sha256: None, sha512_256: None },
    }
}
