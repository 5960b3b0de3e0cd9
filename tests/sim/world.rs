//! A world in one thread: phones, strangers, a network that loses, doubles and delays, and a node of 1 to 4 shards on a
//! virtual clock.
//!
//! Every datagram for the node's SIP address arrives at a random shard, and every connection is accepted by one. Between
//! any two steps a shard may be written to bytes and read back. One seed makes one world, event for event.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::collections::BinaryHeap;
use std::net::IpAddr;
use std::net::Ipv4Addr;
use std::net::SocketAddr;
use std::time::Duration;

use tipring::base::hash::HashKey;
use tipring::base::id::CallId;
use tipring::base::id::Handle;
use tipring::base::id::ShardId;
use tipring::base::random::Random;
use tipring::base::time::Instant;
use tipring::base::time::Now;
use tipring::base::time::UnixTime;
use tipring::machine::Shared;
use tipring::machine::directory::Directory;
use tipring::machine::exchange::Exchange;
use tipring::machine::exchange::Input;
use tipring::machine::flow::Connection;
use tipring::machine::flow::Flow;
use tipring::machine::media::command::SocketCommand;
use tipring::machine::media::ports::Pair;
use tipring::machine::media::ports::QUARANTINE;
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

use crate::patience;
use crate::patience::Patience;
use crate::phone::Act;
use crate::phone::Manner;
use crate::phone::Phone;
use crate::phone::Sent;
use crate::stranger;
use crate::stream::KNOWN_AFTER;
use crate::stream::Read;
use crate::stream::Stream;
use crate::watch::Watch;

const NODE: IpAddr = IpAddr::V4(Ipv4Addr::new(198, 51, 100, 1));
const PAIRS_PER_SHARD: u32 = 64;
const FIRST_PORT: u32 = 20_000;
const EPOCH: u64 = 1_800_000_000;
/// What must hold all the time is looked at so often.
const AUDIT: Duration = Duration::from_secs(1);
/// More steps of one instant than any world needs: a timer that is due again and again.
const STEPS_AT_ONCE_MAX: u32 = 100_000;
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
}

impl Faults {
    pub const NONE: Self = Self { lost: 0, doubled: 0, delayed: 0, restored: 0 };
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
}

/// A media socket as its shard asked for it.
#[derive(Debug, Default)]
struct Socket {
    is_open: bool,
    peer: Option<SocketAddr>,
    closed_at: Option<Instant>,
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
            record: if self.announces { link::Record::Always } else { link::Record::Never },
            announce: if self.announces { link::Announce::Tone } else { link::Announce::None },
            digest: Vec::new(),
        };
        let mut part = DirectoryPart { tenants: vec![tenant], ..DirectoryPart::default() };
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

    /// Media sockets that are open: shard and slot.
    pub fn open_sockets(&self) -> impl Iterator<Item = (usize, u32)> + '_ {
        self.sockets.iter().enumerate().flat_map(|(shard, sockets)| {
            let open = sockets.iter().filter(|(_, socket)| socket.is_open);
            open.map(move |(slot, _)| (shard, *slot))
        })
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
        let mut steps = 0;
        while let Some(Reverse((at, sequence))) = self.queue.peek().copied() {
            if at > end {
                break;
            }
            self.queue.pop();
            steps = if at > self.now { 0 } else { steps + 1 };
            assert!(steps < STEPS_AT_ONCE_MAX, "time stands still");
            self.now = at.max(self.now);
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
            Happening::Act(phone, Act::Disconnect) => self.disconnect(phone),
            Happening::Act(phone, Act::PowerCut) => {
                self.disconnect(phone);
                self.on_phone(phone, |phone, now, out| phone.act(Act::PowerCut, now, out));
            }
            Happening::Act(phone, act) => self.on_phone(phone, |phone, now, out| phone.act(act, now, out)),
        }
    }

    fn reach_node(&mut self, from: SocketAddr, to: SocketAddr, bytes: Vec<u8>) {
        if to == Self::server() {
            let shard = self.random.below(self.shards.len() as u64) as usize;
            self.ladder.push((self.now, from, to, bytes.clone()));
            if stranger::is_stranger(from.ip()) {
                self.watch.stranger_sent(from.ip(), &bytes);
            } else {
                self.watch.received(from, false, &bytes, self.now);
            }
            self.on_shard(shard, |exchange, now, shared, out| {
                exchange.handle(Input::Sip { flow: Flow::udp(0, from), bytes: &bytes }, now, shared, out);
            });
            return;
        }
        let place = u32::from(to.port()) - FIRST_PORT;
        let (shard, slot) = (place / (PAIRS_PER_SHARD * 2), place % (PAIRS_PER_SHARD * 2));
        let socket = self.sockets[shard as usize].entry(slot).or_default();
        let is_open = socket.is_open;
        if self.kernel_filters && (!is_open || socket.peer.is_some_and(|peer| peer != from)) {
            return;
        }
        let mut forward = None;
        self.on_shard(shard as usize, |exchange, now, shared, out| {
            if let Verdict::Forward { slot, peer } = exchange.relay(slot, from, &bytes, now, shared, out) {
                forward = Some((slot, peer));
            }
        });
        if let Some((slot, peer)) = forward {
            assert!(is_open, "a packet of a closed port is relayed");
            assert!(!stranger::is_stranger(from.ip()), "a stranger's packet is relayed");
            assert!(self.phones.iter().any(|phone| phone.rtp == peer), "media goes to {peer}");
            let port = FIRST_PORT + shard * PAIRS_PER_SHARD * 2 + slot;
            self.transmit(SocketAddr::new(NODE, port as u16), peer, bytes);
        }
    }

    fn reach_phone(&mut self, from: SocketAddr, to: SocketAddr, bytes: &[u8]) {
        let at = |phone: &Phone| (phone.sip == to || phone.rtp == to) && !phone.is_off;
        let Some(index) = self.phones.iter().position(at) else { return };
        if self.phones[index].rtp == to {
            self.phones[index].handle_rtp(from, bytes, self.now);
            return;
        }
        self.ladder.push((self.now, from, to, bytes.to_vec()));
        self.on_phone(index, |phone, now, out| phone.handle(bytes, now, out));
    }

    fn on_phone(&mut self, index: usize, act: impl FnOnce(&mut Phone, Instant, &mut Sent)) {
        let mut sent = Sent::new();
        act(&mut self.phones[index], self.now, &mut sent);
        for (from, to, bytes) in sent {
            if from == self.phones[index].sip && self.phones[index].tcp {
                self.write_to_node(index, &bytes);
            } else {
                self.transmit(from, to, bytes);
            }
        }
        let next =
            self.phones[index].next_deadline().unwrap_or(Instant::NEVER).max(self.now + Duration::from_millis(1));
        if next < self.phone_timers[index] {
            self.phone_timers[index] = next;
            self.push(next, Happening::PhoneTimer(index));
        }
    }

    fn on_shard(&mut self, index: usize, act: impl FnOnce(&mut Exchange, Now, Shared<'_>, &mut Outbox)) {
        if self.whim.chance(self.faults.restored, 1000) {
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
                Output::Send { flow, bytes } => {
                    if stranger::is_stranger(flow.peer.ip()) {
                        self.watch.stranger_got(flow.peer.ip(), &bytes);
                    } else {
                        self.watch.sent(flow.peer, flow.is_reliable(), &bytes, self.now);
                    }
                    self.send(shard, flow, bytes);
                }
                Output::Mesh { to, message } => self.tell_shard(shard, to, message),
                Output::Socket(command) => self.on_socket(index, command),
                Output::Rtp { slot, to, bytes } => {
                    assert!(
                        self.sockets[index].get(&slot).is_some_and(|socket| socket.is_open),
                        "sent from a closed port"
                    );
                    let port = FIRST_PORT + index as u32 * PAIRS_PER_SHARD * 2 + slot;
                    self.transmit(SocketAddr::new(NODE, port as u16), to, bytes);
                }
                Output::Event { call, body, .. } => {
                    self.patience.on_event(call, &body, self.now);
                    self.events.push((shard, call, body));
                }
                _ => {}
            }
        }
    }

    /// As the shard's driver does it.
    fn send(&mut self, shard: ShardId, flow: Flow, bytes: Vec<u8>) {
        match flow.connection {
            None => self.transmit(Self::server(), flow.peer, bytes),
            Some(connection) if connection.shard == shard => {
                let stream = connection.handle.slot as usize;
                assert_eq!(self.streams[stream].flow, flow);
                if self.streams[stream].node_is_open {
                    self.write(stream, false, &bytes);
                } else {
                    self.streams[stream].written_when_gone(&bytes, self.now);
                    // Whoever writes to a connection that is gone learns it again.
                    self.push(self.now, Happening::Broken(stream));
                }
            }
            Some(connection) => self.tell_shard(shard, connection.shard, Mesh::Write { flow, bytes }),
        }
    }

    fn tell_shard(&mut self, from: ShardId, to: ShardId, message: Mesh) {
        let delay = Duration::from_micros(self.random.below(2_000));
        if self.repeats_mesh && matches!(message, Mesh::Located { .. }) {
            let late = if self.whim.chance(1, 2) { 2_000 } else { 1_000_000 };
            let again = delay + Duration::from_micros(self.whim.below(late));
            self.push(self.now + again, Happening::Mesh { from, to, message: message.clone() });
        }
        self.push(self.now + delay, Happening::Mesh { from, to, message });
    }

    fn on_socket(&mut self, shard: usize, command: SocketCommand) {
        let (SocketCommand::Open { slot }
        | SocketCommand::Close { slot }
        | SocketCommand::Connect { slot, .. }
        | SocketCommand::Disconnect { slot }) = command;
        let socket = self.sockets[shard].entry(slot).or_default();
        match command {
            SocketCommand::Open { .. } => {
                assert!(!socket.is_open, "slot {slot} of shard {shard} is opened twice");
                let rests = socket.closed_at.is_none_or(|closed_at| self.now.since(closed_at) >= QUARANTINE);
                assert!(rests, "slot {slot} of shard {shard} is used again too soon");
                *socket = Socket { is_open: true, ..Socket::default() };
            }
            SocketCommand::Close { .. } => *socket = Socket { closed_at: Some(self.now), ..Socket::default() },
            SocketCommand::Connect { peer, .. } => socket.peer = Some(peer),
            SocketCommand::Disconnect { .. } => socket.peer = None,
        }
    }

    fn write_to_node(&mut self, phone: usize, bytes: &[u8]) {
        let open = self.streams.iter().position(|stream| stream.phone == phone && stream.phone_is_open);
        let stream = open.unwrap_or_else(|| self.connect(phone));
        if self.random.chance(1, 10) {
            self.write(stream, true, b"\r\n\r\n");
        }
        self.write(stream, true, bytes);
    }

    /// A connection is accepted by any shard.
    fn connect(&mut self, phone: usize) -> usize {
        let shard = ShardId(self.random.below(self.shards.len() as u64) as u8);
        let slot = self.streams.len();
        let peer = SocketAddr::new(self.phones[phone].sip.ip(), 40_000 + slot as u16);
        let handle = Handle { slot: slot as u32, generation: 1 };
        let flow = Flow { listener: 1, peer, connection: Some(Connection { shard, handle }) };
        self.streams.push(Stream::new(phone, flow));
        slot
    }

    fn write(&mut self, stream: usize, to_node: bool, bytes: &[u8]) {
        if self.streams[stream].write(to_node, bytes) {
            let stalls = self.random.chance(self.faults.lost + self.faults.delayed, 1000);
            let extra = if stalls { self.random.below(1_000_000) } else { 0 };
            let delay = Duration::from_micros(5_000 + self.random.below(2_000) + extra);
            self.push(self.now + delay, Happening::Bytes { stream, to_node });
        }
    }

    fn on_bytes(&mut self, index: usize, to_node: bool) {
        if self.streams[index].arrive(to_node, &mut self.random) {
            let delay = Duration::from_micros(self.random.below(3_000));
            self.push(self.now + delay, Happening::Bytes { stream: index, to_node });
        }
        let (flow, phone) = (self.streams[index].flow, self.streams[index].phone);
        if to_node {
            self.read_at_node(index);
            return;
        }
        while let Some(bytes) = self.streams[index].read_at_phone() {
            if self.phones[phone].is_off {
                continue;
            }
            self.ladder.push((self.now, Self::server(), flow.peer, bytes.clone()));
            self.on_phone(phone, |phone, now, out| phone.handle(&bytes, now, out));
        }
    }

    fn read_at_node(&mut self, index: usize) {
        let flow = self.streams[index].flow;
        loop {
            match self.streams[index].read_at_node() {
                Read::Message(bytes) => {
                    self.ladder.push((self.now, flow.peer, Self::server(), bytes.clone()));
                    self.watch.received(flow.peer, true, &bytes, self.now);
                    let shard = flow.connection.map_or(0, |connection| usize::from(connection.shard.0));
                    self.on_shard(shard, |exchange, now, shared, out| {
                        exchange.handle(Input::Sip { flow, bytes: &bytes }, now, shared, out);
                    });
                }
                Read::Ping => self.write(index, false, b"\r\n"),
                Read::Nothing => return,
            }
        }
    }

    /// The phone sees its connection break, the node a little later.
    fn disconnect(&mut self, phone: usize) {
        let Some(at) = self.streams.iter().position(|stream| stream.phone == phone && stream.phone_is_open) else {
            return;
        };
        self.streams[at].phone_is_open = false;
        let delay = Duration::from_micros(self.random.below(3_000_000));
        self.push(self.now + delay, Happening::Broken(at));
        self.on_phone(phone, |phone, now, out| phone.on_disconnected(now, out));
    }

    fn on_broken(&mut self, index: usize) {
        let stream = &mut self.streams[index];
        stream.node_is_open = false;
        let gone_at = *stream.gone_at.get_or_insert(self.now);
        self.watch.connection_gone(stream.flow.peer);
        // A connection that said nothing is nobody's flow.
        if !stream.was_heard {
            return;
        }
        let flow = stream.flow;
        self.push(gone_at.max(self.now) + KNOWN_AFTER * 2, Happening::Audit);
        let shard = flow.connection.map_or(0, |connection| usize::from(connection.shard.0));
        self.on_shard(shard, |exchange, now, shared, out| exchange.handle(Input::FlowClosed(flow), now, shared, out));
    }

    /// Something at the SIP port, and packets at some media ports.
    fn on_stranger(&mut self) {
        let from = stranger::address(&mut self.random);
        let seen = self.random.below(1 + self.ladder.len() as u64) as usize;
        let seen =
            self.ladder.get(seen).filter(|(_, _, to, _)| *to == Self::server()).map(|(_, _, _, bytes)| &bytes[..]);
        let bytes = stranger::sip(from, seen, &mut self.random);
        self.transmit(from, Self::server(), bytes);
        let open: Vec<_> = (0..)
            .zip(&self.sockets)
            .flat_map(|(shard, sockets)| {
                let open = sockets.iter().filter(|(_, socket)| socket.is_open);
                open.map(move |(slot, _)| FIRST_PORT + shard * PAIRS_PER_SHARD * 2 + slot).collect::<Vec<_>>()
            })
            .collect();
        for port in open {
            let packet = stranger::rtp(&mut self.random);
            self.transmit(from, SocketAddr::new(NODE, port as u16), packet);
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
        listeners: [false, true]
            .map(|reliable| Listener { reliable, local: World::server(), advertise: None, interface: 0 })
            .to_vec(),
        trusted: Vec::new(),
        digest: vec![Algorithm::Sha256, Algorithm::Md5],
        interfaces: vec![Interface { name: "default".to_owned(), ipv4: Some(media), ipv6: None }],
        registration: tipring::machine::settings::RegistrationBounds::default(),
        ring_max: Duration::from_secs(60),
        media_timeout: Duration::from_secs(60),
        loopback_media: false,
        recording: Default::default(),
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

/// What happened, when a check fails.
impl Drop for World {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("the story of this world:\n{}", self.story());
        }
    }
}
