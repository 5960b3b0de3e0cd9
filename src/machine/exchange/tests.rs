//! The exchange of one shard between phones: what no machine behind it can decide alone.

mod stolen;

use std::collections::VecDeque;
use std::net::IpAddr;
use std::net::Ipv4Addr;
use std::net::SocketAddr;
use std::time::Duration;

use crate::base::id::ShardId;
use crate::base::time::Instant;
use crate::base::time::Now;
use crate::base::time::UnixTime;
use crate::machine::Shared;
use crate::machine::directory::Directory;
use crate::machine::exchange::Exchange;
use crate::machine::exchange::Input;
use crate::machine::exchange::calls::Calls;
use crate::machine::fixture;
use crate::machine::fixture::Caller;
use crate::machine::fixture::status;
use crate::machine::flow::Flow;
use crate::machine::media::ports::Family;
use crate::machine::media::ports::Pair;
use crate::machine::outbox::Outbox;
use crate::machine::outbox::Output;
use crate::machine::settings::Interface;
use crate::machine::settings::MediaAddress;
use crate::machine::settings::Settings;
use crate::wire::event::Body;
use crate::wire::link::DirectoryPart;

const MEDIA: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 250));

pub(super) struct World {
    pub(super) exchange: Exchange,
    pub(super) settings: Settings,
    pub(super) directory: Directory,
    pub(super) now: Now,
    pub(super) events: Vec<Body>,
}

/// Tenant `acme` with phones 1000, 1001 and 1002.
pub(super) fn world() -> World {
    let mut settings = fixture::settings();
    let media = Some(MediaAddress { local: MEDIA, advertise: MEDIA });
    settings.interfaces = vec![Interface { name: "default".into(), ipv4: media, ipv6: None, from_anywhere: false }];
    let mut directory = Directory::new();
    let phones = (1000..1003).map(|user| fixture::phone("acme", &user.to_string())).collect();
    directory.apply(1, DirectoryPart { tenants: vec![fixture::tenant("acme")], phones, ..DirectoryPart::default() });
    let now = Now { instant: Instant::from_millis(1_000_000), unix: UnixTime::from_secs(1_800_000_000) };
    let exchange = Exchange::new(ShardId(0), 1, pairs(), &settings, now);
    World { exchange, settings, directory, now, events: Vec::new() }
}

fn pairs() -> Vec<Pair> {
    let at = |port| SocketAddr::new(MEDIA, port);
    (0..8).map(|n| Pair { interface: 0, rtp: at(20_000 + 2 * n), rtcp: at(20_001 + 2 * n) }).collect()
}

impl World {
    /// What goes to `flow` in answer to `text` from there.
    pub(super) fn receive(&mut self, flow: Flow, text: &str) -> Vec<(Flow, String)> {
        self.step(|exchange, now, shared, out| {
            exchange.handle(Input::Sip { flow, bytes: text.as_bytes() }, now, shared, out);
        })
    }

    pub(super) fn step(
        &mut self,
        act: impl FnOnce(&mut Exchange, Now, Shared<'_>, &mut Outbox),
    ) -> Vec<(Flow, String)> {
        let bytes = postcard::to_allocvec(&self.exchange).unwrap();
        self.exchange = postcard::from_bytes(&bytes).unwrap();
        let shared = Shared { settings: &self.settings, directory: &self.directory };
        let mut out = Outbox::new();
        act(&mut self.exchange, self.now, shared, &mut out);
        let mut sent = Vec::new();
        for output in out.drain() {
            match output {
                Output::Send { flow, bytes } => sent.push((flow, String::from_utf8(bytes).unwrap())),
                Output::Event { body, .. } => self.events.push(body),
                _ => {}
            }
        }
        sent
    }

    /// Lets time pass, all timers on the way included; what was sent meanwhile.
    pub(super) fn advance(&mut self, duration: Duration) -> Vec<(Flow, String)> {
        let end = self.now.instant + duration;
        let mut sent = Vec::new();
        while let Some(deadline) = self.exchange.next_deadline().filter(|deadline| *deadline <= end) {
            self.advance_to(deadline.max(self.now.instant));
            sent.extend(self.step(|exchange, now, shared, out| exchange.handle_timeout(now, shared, out)));
        }
        self.advance_to(end);
        sent
    }

    fn advance_to(&mut self, at: Instant) {
        let step = at.since(self.now.instant);
        self.now = Now { instant: at, unix: self.now.unix + step };
    }

    /// The one answer to a request.
    pub(super) fn answer(&mut self, flow: Flow, text: &str) -> Option<String> {
        let mut sent = self.receive(flow, text).into_iter();
        let first = sent.next().map(|(_, text)| text);
        assert_eq!(sent.next(), None);
        first
    }

    pub(super) fn register(&mut self, caller: &mut Caller) -> u16 {
        let lines = caller.contact();
        let mut answer = None;
        for _ in 0..2 {
            let request = caller.request(&lines);
            answer = self.answer(caller.flow, &request);
            if !caller.learn(&answer) {
                break;
            }
        }
        status(&answer)
    }
}

/// An INVITE with the nonce of the registration before it; `more` are header lines.
fn invite(world: &mut World, caller: &mut Caller, callee: &str, more: &str) -> String {
    assert_eq!(world.register(caller), 200);
    caller.invite(callee, more)
}

/// Alice calls Bob: her INVITE, and what was sent for it.
pub(super) fn calling() -> (World, Caller, Caller, String, Vec<(Flow, String)>) {
    let mut world = world();
    let mut bob = Caller::new("1001", "198.51.100.2:5060");
    assert_eq!(world.register(&mut bob), 200);
    let mut alice = Caller::new("1000", "198.51.100.1:5060");
    let invite = invite(&mut world, &mut alice, "1001", "");
    let sent = world.receive(alice.flow, &invite);
    (world, alice, bob, invite, sent)
}

#[test]
fn a_copy_of_an_invite_that_came_another_way_is_refused() {
    let (mut world, alice, bob, invite, sent) = calling();
    assert!(sent.iter().any(|(flow, text)| *flow == bob.flow && text.starts_with("INVITE")), "{sent:#?}");
    let copy = |invite: &str| invite.replacen("branch=z9hG4bK", "branch=z9hG4bKother", 1);
    assert_eq!(status(&world.answer(alice.flow, &copy(&invite))), 482);
    assert_eq!(world.exchange.counts().merged, 1);
    assert_eq!(world.exchange.calls_len(), 1, "only one copy is a call");
    let repeated = world.receive(alice.flow, &invite);
    assert!(
        repeated.iter().all(|(_, text)| text.starts_with("SIP/2.0 100")),
        "a retransmission is no copy: {repeated:?}"
    );
    // Another From tag, Call-ID or CSeq is another request: no copy, and its nonce is used up.
    for (part, other) in [("tag=call", "tag=x"), ("Call-ID: call", "Call-ID: x"), ("CSeq: ", "CSeq: 9")] {
        let other = copy(&invite).replace(part, other);
        assert_eq!(status(&world.answer(alice.flow, &other)), 401, "{part}");
    }
    // When its transaction is over, the numbers may come again.
    let offer = sent.iter().find(|(flow, _)| *flow == bob.flow).unwrap();
    world.receive(bob.flow, &fixture::response(&offer.1, 486, "b"));
    assert_eq!(status(&world.answer(alice.flow, &copy(&invite))), 482);
    world.advance(Duration::from_secs(64));
    assert_eq!(world.exchange.calls_len(), 0);
    assert_eq!(status(&world.answer(alice.flow, &copy(&invite))), 401);
}

/// An OPTIONS to us from this address.
fn ping(world: &mut World, address: &str) -> u16 {
    let (flow, text) = options(address);
    world.answer(flow, &text).map_or(0, |answer| status(&Some(answer)))
}

fn options(address: &str) -> (Flow, String) {
    let flow = Flow::udp(0, address.parse().unwrap());
    let text = format!(
        "OPTIONS sip:192.0.2.250 SIP/2.0\r\nVia: SIP/2.0/UDP {address};branch=z9hG4bKping;rport\r\nMax-Forwards: 0\r\n\
         From: <sip:x@x.test>;tag=x\r\nTo: <sip:192.0.2.250>\r\nCall-ID: ping\r\nCSeq: 1 OPTIONS\r\nContent-Length: 0\r\n\r\n"
    );
    (flow, text)
}

/// What somebody forges who knows the address.
fn noise(address: &str) -> [(Flow, String); 4] {
    let at = |port| Flow::udp(0, format!("{address}:{port}").parse().unwrap());
    let unreadable = options(&format!("{address}:9")).1.replace("CSeq: 1", "CSeq: x");
    let flood = |method: &str| options(&format!("{address}:9")).1.replace("OPTIONS", method);
    [
        (at(9), "garbage\r\n\r\n".into()),
        (at(9), unreadable),
        (at(9), flood("INVITE").replace("Max-Forwards: 0", "Max-Forwards: 70")),
        (at(9), flood("OPTIONS")),
    ]
}

#[test]
fn what_can_be_forged_shuts_nobody_out() {
    for (flow, text) in noise("198.51.100.9") {
        let mut world = world();
        for _ in 0..1_000 {
            world.receive(flow, &text);
        }
        // Somebody who watches us from there, and a phone that comes for the first time.
        assert_eq!(ping(&mut world, "198.51.100.9:5060"), 200, "{text}");
        let mut bob = Caller::new("1001", "198.51.100.9:5061");
        assert_eq!(world.register(&mut bob), 200, "{text}");
        for _ in 0..1_000 {
            world.receive(flow, &text);
        }
        let lines = bob.contact();
        let again = bob.request(&lines);
        assert_eq!(status(&world.answer(bob.flow, &again)), 200, "a nonce that we gave passes: {text}");
        // Its next one that has none, over the flow that it registered.
        bob.nonce = None;
        for _ in 0..100 {
            assert_eq!(status(&world.answer(bob.flow, &bob.request(&lines))), 401, "{text}");
        }
    }
}

#[test]
fn answers_to_strangers_are_bounded_in_number_and_size() {
    let mut world = world();
    for kind in 0..4u8 {
        let mut sum = (0, 0);
        let mut answers = 0;
        for n in 0..10_000 {
            let (flow, text) = noise(&format!("198.51.{}.9", 100 + kind))[usize::from(kind)].clone();
            let flow = Flow { peer: (flow.peer.ip(), n).into(), ..flow };
            sum.0 += text.len();
            for (to, answer) in world.receive(flow, &text) {
                assert_eq!(to, flow);
                assert!(answer.len() <= 3 * text.len(), "{answer}");
                sum.1 += answer.len();
                answers += 1;
            }
        }
        assert_eq!(answers, [0, 5, 10, 10][usize::from(kind)]);
        assert!(sum.1 <= sum.0 / 100, "{sum:?}");
    }
    assert!(world.exchange.unanswered() > 20_000, "{}", world.exchange.unanswered());
}

#[test]
fn an_answer_to_options_has_what_finds_room_in_the_length_of_the_request() {
    let mut world = world();
    let (flow, short) = options("198.51.100.9:5060");
    let long = short.replace("Content-Length", "User-Agent: somebody who says a lot about himself, and has a lot to say, \
                                                whoever asks for it, or does not, and so on and so on and so on\r\nContent-Length");
    let answer = world.answer(flow, &short).unwrap();
    assert!(answer.len() <= short.len() + 60 && !answer.contains("Allow:"), "{answer}");
    let answer = world.answer(flow, &long).unwrap();
    assert!(answer.len() <= long.len() && answer.contains("Allow:"), "{answer}");
    world.settings.trusted = vec![crate::machine::settings::Prefix { address: flow.peer.ip(), bits: 32 }];
    let answer = world.answer(flow, &short).unwrap();
    assert!(["Allow:", "Supported:", "Accept:"].iter().all(|header| answer.contains(header)), "{answer}");
}

/// Two shards; what one says to the other arrives at once.
struct Node {
    shards: [Exchange; 2],
    settings: Settings,
    directory: Directory,
    now: Now,
}

impl Node {
    fn new() -> Self {
        let World { mut settings, directory, now, .. } = world();
        settings.shards = 2;
        let shards = [0, 1].map(|n| Exchange::new(ShardId(n), 1, pairs(), &settings, now));
        Self { shards, settings, directory, now }
    }

    /// What goes to `flow` when a shard reads this.
    fn read(&mut self, shard: u8, flow: Flow, text: &str) -> Option<String> {
        self.read_all(shard, flow, text).pop().map(|(_, text)| text)
    }

    /// All that is sent when a shard reads this.
    fn read_all(&mut self, shard: u8, flow: Flow, text: &str) -> Vec<(Flow, String)> {
        let shared = Shared { settings: &self.settings, directory: &self.directory };
        let mut out = Outbox::new();
        self.shards[usize::from(shard)].handle(Input::Sip { flow, bytes: text.as_bytes() }, self.now, shared, &mut out);
        let mut sent = Vec::new();
        let mut left: VecDeque<_> = out.drain().map(|output| (ShardId(shard), output)).collect();
        while let Some((at, output)) = left.pop_front() {
            match output {
                Output::Send { flow, bytes } => sent.push((flow, String::from_utf8(bytes).unwrap())),
                Output::Mesh { to, message } => {
                    let input = Input::Mesh { from: at, message };
                    self.shards[usize::from(to.0)].handle(input, self.now, shared, &mut out);
                    left.extend(out.drain().map(|output| (to, output)));
                }
                _ => {}
            }
        }
        sent
    }
}

/// What was gathered is told.
fn pass_time(node: &mut Node, time: Duration) {
    node.now = Now { instant: node.now.instant + time, unix: node.now.unix + time };
    for shard in 0..2u8 {
        let shared = Shared { settings: &node.settings, directory: &node.directory };
        let mut out = Outbox::new();
        node.shards[usize::from(shard)].handle_timeout(node.now, shared, &mut out);
        for output in out.drain() {
            let Output::Mesh { to, message } = output else { continue };
            let input = Input::Mesh { from: ShardId(shard), message };
            node.shards[usize::from(to.0)].handle(input, node.now, shared, &mut Outbox::new());
        }
    }
}

#[test]
fn a_phone_of_another_shard_is_known_by_whoever_reads() {
    let mut node = Node::new();
    let mut alice = Caller::new("1000", "198.51.100.1:5060");
    let lines = alice.contact();
    for _ in 0..2 {
        let request = alice.request(&lines);
        let answer = node.read(0, alice.flow, &request);
        alice.learn(&answer);
    }
    let owner = u8::from(!node.shards[1].registrar().is_empty());
    let reader = 1 - owner;
    assert!(node.shards[usize::from(reader)].registrar().is_empty());
    pass_time(&mut node, Duration::from_secs(1));
    let mut later = Caller::new("1000", "198.51.100.1:7777");
    let mut other = Caller::new("1000", "198.51.100.9:7777");
    for address in ["198.51.100.1", "198.51.100.9"] {
        for port in 0..1_000 {
            let (mut flow, text) = noise(address)[3].clone();
            flow.peer.set_port(port);
            node.read(reader, flow, &text);
        }
    }
    alice.nonce = None;
    for caller in [&mut alice, &mut later] {
        let request = caller.request(&lines);
        assert_eq!(status(&node.read(reader, caller.flow, &request)), 401);
    }
    let request = other.request(&lines);
    assert_eq!(status(&node.read(reader, other.flow, &request)), 0);
    pass_time(&mut node, Duration::from_secs(1));
    assert_eq!(status(&node.read(reader, other.flow, &request)), 401);
}

#[test]
fn who_watches_us_hears_that_no_call_would_find_room() {
    let ours = "198.51.100.7:5060";
    let mut drained = world();
    assert_eq!(ping(&mut drained, ours), 200);
    drained.exchange.is_draining = true;
    assert_eq!(ping(&mut drained, ours), 503);
    let mut full = world();
    full.exchange.calls = Calls::with_room(full.now.instant, 0);
    assert_eq!(ping(&mut full, ours), 503);
    let mut used_up = world();
    let now = used_up.now.instant;
    let pairs: Vec<_> = (0..7).map(|_| used_up.exchange.ports.allocate(0, Family::Ipv4, now).unwrap()).collect();
    assert_eq!(ping(&mut used_up, ours), 503);
    used_up.exchange.ports.free(pairs[0], now);
    assert_eq!(ping(&mut used_up, ours), 200);
}

/// Alice in her early dialog with Bob, whose phone rings.
pub(super) struct Early {
    pub(super) world: World,
    pub(super) alice: Caller,
    to: String,
    cseq: u32,
}

pub(super) fn early() -> Early {
    let (mut world, alice, bob, _, sent) = calling();
    let offer = sent.iter().find(|(flow, _)| *flow == bob.flow).unwrap();
    let sent = world.receive(bob.flow, &fixture::response(&offer.1, 180, "b"));
    let ringing = &sent.iter().find(|(flow, _)| *flow == alice.flow).unwrap().1;
    let to = ringing.lines().find(|line| line.starts_with("To: ")).unwrap().to_owned();
    Early { world, alice, to, cseq: 90 }
}

impl Early {
    /// What Alice hears first after a request within the dialog; `more` are whole header lines.
    pub(super) fn ask(&mut self, method: &str, hops: u8, more: &str, body: &str) -> Option<String> {
        self.cseq += 1;
        let Self { alice, to, cseq, .. } = self;
        let call_id = &alice.call_id;
        let text = format!(
            "{method} sip:192.0.2.250 SIP/2.0\r\nVia: SIP/2.0/UDP 198.51.100.1:5060;branch=z9hG4bK{method}{cseq};rport\r\n\
             Max-Forwards: {hops}\r\nFrom: <sip:1000@acme.test>;tag={call_id}\r\n{to}\r\nCall-ID: {call_id}i\r\n\
             CSeq: {cseq} {method}\r\nContact: <sip:1000@198.51.100.1>\r\n{more}Content-Length: {}\r\n\r\n{body}",
            body.len()
        );
        let sent = self.world.receive(self.alice.flow, &text);
        sent.into_iter().find(|(flow, _)| *flow == self.alice.flow).map(|(_, text)| text)
    }
}

/// RFC 3261 §26.2.2: what asks for TLS on its way is not carried on without.
#[test]
fn a_sips_uri_is_not_reached_in_the_clear() {
    let mut world = world();
    let flow = Caller::new("1001", "198.51.100.1:5060").flow;
    for (method, uri, expected) in [
        ("INVITE", "sips:1002@acme.test", 416),
        ("INVITE", "sip:1002@acme.test", 401),
        ("OPTIONS", "sips:1002@acme.test", 416),
        ("REGISTER", "sips:acme.test", 401),
    ] {
        let text = format!(
            "{method} {uri} SIP/2.0\r\nVia: SIP/2.0/UDP 198.51.100.1:5060;branch=z9hG4bK{method}{expected};rport\r\nMax-Forwards: 70\r\n\
             From: <sip:1001@acme.test>;tag=1\r\nTo: <{uri}>\r\nCall-ID: {method}{expected}\r\nCSeq: 1 {method}\r\n\
             Contact: <sip:1001@198.51.100.1>\r\nContent-Length: 0\r\n\r\n"
        );
        let text = text.replacen("To: <sips:acme.test>", "To: <sip:1001@acme.test>", 1);
        let sent = world.receive(flow, &text);
        assert_eq!(status(&sent.into_iter().next().map(|(_, text)| text)), expected, "{method} {uri}");
    }
}

#[test]
fn what_would_go_on_within_a_dialog_without_a_hop_left_is_refused() {
    let mut early = early();
    let mut check = |method: &str, body: &str, expected: u16| {
        let answer = early.ask(method, 0, "Content-Type: application/sdp\r\n", body);
        assert_eq!(status(&answer), expected, "{method} {body}");
    };
    check("INVITE", "v=0", 483);
    check("INVITE", "", 483);
    check("INFO", "", 483);
    check("UPDATE", "v=0", 483);
    check("PRACK", "v=0", 483);
    // These end here.
    check("PRACK", "", 481);
    check("UPDATE", "", 200);
    check("OPTIONS", "", 200);
    check("ACK", "", 0);
    check("BYE", "", 200);
    assert_eq!(status(&early.ask("INFO", 1, "", "")), 481, "the BYE was honoured");
}

#[test]
fn what_is_required_within_a_dialog_is_understood_or_refused() {
    let mut early = early();
    let mut ask = |method: &str, require: &str| early.ask(method, 70, &format!("Require: {require}\r\n"), "").unwrap();
    let refusal = ask("OPTIONS", "timer, foo");
    assert_eq!(status(&Some(refusal.clone())), 420);
    assert!(refusal.contains("Unsupported: foo\r\n"), "{refusal}");
    assert_eq!(status(&Some(ask("OPTIONS", "timer"))), 200);
    assert_eq!(status(&Some(ask("BYE", "foo"))), 200, "who hangs up is let go");
}

/// The final response to this INVITE is a 503, and a record is made; how many responses there were.
fn is_refused_with_a_record(world: &mut World, alice: &Caller, invite: &str) -> usize {
    let sent = world.receive(alice.flow, invite);
    let refusal = &sent.last().unwrap().1;
    assert_eq!(status(&Some(refusal.clone())), 503);
    assert!(refusal.contains("Retry-After: "), "{refusal}");
    let is_end = |event: &&Body| matches!(event, Body::CallEnded { cause, .. } if cause.sip == 503);
    let is_begin = |event: &&Body| matches!(event, Body::CallStarted { .. });
    let counts = (world.events.iter().filter(is_begin).count(), world.events.iter().filter(is_end).count());
    assert_eq!(counts, (1, 1), "{:?}", world.events);
    assert_eq!((world.exchange.counts().refused_calls, world.exchange.counts().call_attempts), (1, 1));
    sent.len()
}

#[test]
fn a_call_that_is_refused_while_draining_has_a_record() {
    let mut world = world();
    let mut alice = Caller::new("1000", "198.51.100.1:5060");
    let invite = invite(&mut world, &mut alice, "1001", "");
    world.exchange.is_draining = true;
    is_refused_with_a_record(&mut world, &alice, &invite);
    world.advance(Duration::from_secs(64));
    assert_eq!(world.exchange.calls_len(), 0);
}

#[test]
fn a_call_that_finds_the_table_full_has_a_record() {
    let mut world = world();
    let mut alice = Caller::new("1000", "198.51.100.1:5060");
    let invite = invite(&mut world, &mut alice, "1001", "");
    world.exchange.calls = Calls::with_room(world.now.instant, 0);
    // No 100 ends the repeats of the INVITE; they hear the same and make no other record.
    assert_eq!(is_refused_with_a_record(&mut world, &alice, &invite), 1);
    let again = world.receive(alice.flow, &invite);
    assert!(again.len() == 1 && again[0].1.starts_with("SIP/2.0 503"), "{again:?}");
    is_refused_once(&world);
    // Its ACK leads nowhere.
    let to = again[0].1.lines().find(|line| line.starts_with("To: ")).unwrap();
    let ack = invite.replace("INVITE", "ACK").replacen("To: <sip:1001@acme.test>", to, 1);
    assert_eq!(world.receive(alice.flow, &ack), []);
    world.advance(Duration::from_secs(64));
    assert_eq!((world.exchange.calls_len(), world.exchange.lingering()), (0, 0));
}

fn is_refused_once(world: &World) {
    assert_eq!(world.exchange.counts().refused_calls, 1);
    assert_eq!(world.events.iter().filter(|event| matches!(event, Body::CallStarted { .. })).count(), 1);
}

#[test]
fn contacts_beyond_those_that_a_call_rings_are_counted() {
    let mut world = world();
    let mut phones = vec![fixture::phone("acme", "1001"), fixture::phone("acme", "1002")];
    phones.iter_mut().for_each(|phone| phone.extension = "2000".into());
    world.directory.apply(2, DirectoryPart { phones, ..DirectoryPart::default() });
    for n in 1..=18 {
        let mut phone = Caller::new(if n % 2 == 0 { "1001" } else { "1002" }, &format!("198.51.100.{}:5060", 10 + n));
        phone.call_id = format!("call{n}");
        world.advance(Duration::from_secs(1));
        assert_eq!(world.register(&mut phone), 200, "phone {n}");
    }
    let mut alice = Caller::new("1000", "198.51.100.1:5060");
    let invite = invite(&mut world, &mut alice, "2000", "");
    let rung = world.receive(alice.flow, &invite).iter().filter(|(_, text)| text.starts_with("INVITE")).count();
    assert_eq!((rung, world.exchange.counts().contacts_not_rung), (16, 2));
    let Some(Body::LegInvited { .. }) = world.events.last() else { panic!("{:?}", world.events) };
    let call = world.exchange.calls.iter().next().unwrap().1;
    assert!(call.trace().iter().any(|step| step.reason.starts_with("2 contacts do not ring")), "{:?}", call.trace());
}

/// A phone that sends from a port of its own and does not know `rport`, without NAT.
#[test]
fn a_phone_that_listens_on_another_port_registers_and_rings() {
    let mut world = world();
    let mut bob = Caller::new("1001", "198.51.100.2:40000");
    bob.local = "198.51.100.2:5070".parse().unwrap();
    let listens = Flow::udp(0, bob.local);
    for expected in [401, 200] {
        let contact = "Contact: <sip:1001@198.51.100.2:5080>\r\nExpires: 600\r\n";
        let request = bob.request(contact).replace(";rport", "");
        for _ in 0..2 {
            let sent = world.receive(bob.flow, &request);
            assert!(sent.len() == 1 && sent[0].0 == listens, "also a retransmission: {sent:?}");
            assert_eq!(status(&Some(sent[0].1.clone())), expected);
            assert!(!sent[0].1.contains("rport") && !sent[0].1.contains("received"), "{}", sent[0].1);
            bob.learn(&Some(sent[0].1.clone()));
        }
    }
    let mut alice = Caller::new("1000", "198.51.100.1:5060");
    let invite = invite(&mut world, &mut alice, "1001", "");
    let sent = world.receive(alice.flow, &invite);
    let ring = sent.iter().find(|(_, text)| text.starts_with("INVITE")).unwrap();
    assert_eq!(ring.0, Flow::udp(0, "198.51.100.2:5080".parse().unwrap()));
    // Nothing has to be kept open where there is no NAT.
    let sent = world.advance(Duration::from_secs(30));
    assert!(sent.iter().all(|(_, text)| text != "\r\n\r\n"), "{sent:?}");
}

/// Garbage and challenges are counted where they come from, not where their answers go.
#[test]
fn the_port_of_an_answer_is_no_other_source() {
    let mut world = world();
    let mut answered = 0;
    for n in 0..3_000 {
        let mut caller = Caller::new("1001", "198.51.100.9:40000");
        caller.call_id = format!("c{n}");
        caller.local.set_port(10_000 + n);
        let request = caller.request("").replace(";rport", "");
        answered += world.receive(caller.flow, &request).len();
    }
    assert!(answered <= 1_100, "{answered}");
}

/// An OPTIONS about a user, with the nonce of the registration before it if `shows_credentials`.
fn options_about(world: &mut World, caller: &mut Caller, uri: &str, shows_credentials: bool) -> Option<String> {
    let nonce = if shows_credentials { None } else { caller.nonce.take() };
    let text = caller.request_to("OPTIONS", uri, "Timestamp: 54.2\r\n");
    caller.nonce = nonce.or_else(|| caller.nonce.take());
    let answer = world.answer(caller.flow, &text);
    assert_eq!(
        world.answer(caller.flow, &text).as_ref().map(|text| &text[..11]),
        answer.as_ref().map(|text| &text[..11])
    );
    answer
}

#[test]
fn options_about_a_user_is_told_to_who_shows_a_credential() {
    let mut world = world();
    world.directory.apply(2, DirectoryPart { tenants: vec![fixture::tenant("globex")], ..DirectoryPart::default() });
    let mut alice = Caller::new("1000", "198.51.100.1:5060");
    assert_eq!(world.register(&mut alice), 200);
    for (uri, expected) in [
        ("sip:1001@acme.test", 200),
        ("sip:9999@acme.test", 404),
        ("sip:1001@nobody.test", 404),
        ("sip:1001@globex.test", 404),
        ("sip:acme.test", 200),
    ] {
        let answer = options_about(&mut world, &mut alice, uri, true);
        assert_eq!(status(&answer), expected, "{uri}: {answer:?}");
        assert!(answer.unwrap().contains("\r\nTimestamp: 54.2\r\n"));
        let plain = options_about(&mut world, &mut alice, uri, false);
        assert_eq!(status(&plain), 200, "{uri}: {plain:?}");
    }
    // Who guesses learns nothing, and is counted.
    alice.password = "wrong".into();
    assert_eq!(status(&options_about(&mut world, &mut alice, "sip:9999@acme.test", true)), 401);
    assert!(world.events.iter().any(|event| matches!(event, Body::AuthenticationFailed { .. })));
    world.exchange.is_draining = true;
    assert_eq!(status(&options_about(&mut world, &mut alice, "sip:9999@acme.test", true)), 503);
}

/// RFC 6665 §8.2: a 489 has Allow-Events.
#[test]
fn an_unknown_event_package_is_refused_with_those_that_are_known() {
    let mut world = world();
    let mut alice = Caller::new("1000", "198.51.100.1:5060");
    let answer = world.answer(alice.flow, &alice.request_to("SUBSCRIBE", "sip:1001@acme.test", "Event: dialog\r\n"));
    assert_eq!(status(&answer), 489);
    assert!(answer.unwrap().contains("\r\nAllow-Events: "));
    let answer = early().ask("SUBSCRIBE", 70, "Event: dialog\r\n", "").unwrap();
    assert!(answer.starts_with("SIP/2.0 489") && answer.contains("\r\nAllow-Events: "), "{answer}");
}

/// An INVITE from Alice with this From, challenged and repeated; the last answer, and what Bob hears as From.
fn call_as(world: &mut World, from: &str, uri: &str) -> (u16, Option<String>) {
    let mut alice = Caller::new("1000", "198.51.100.1:5060");
    alice.call_id = format!("as{}", world.events.len());
    let mut status = 0;
    for _ in 0..2 {
        let text = alice.request_to("INVITE", uri, "Contact: <sip:1000@198.51.100.1>\r\n");
        let text = text.replacen("<sip:1000@acme.test>", from, 1);
        let sent = world.receive(alice.flow, &text);
        if let Some((_, ring)) = sent.iter().find(|(_, text)| text.starts_with("INVITE")) {
            let line = ring.lines().find(|line| line.starts_with("From: ")).unwrap();
            return (200, Some(line.split(";tag=").next().unwrap().to_owned()));
        }
        let answer = sent.last().map(|(_, text)| text.clone());
        status = fixture::status(&answer);
        alice.learn(&answer);
    }
    (status, None)
}

/// RFC 3323: challenged for the tenant that is called, admitted by credential, shown anonymous, recorded as who it is.
#[test]
fn an_anonymous_caller_is_known_to_us_alone() {
    let mut world = world();
    let mut named = fixture::phone("acme", "anonymous");
    named.extension = "77".into();
    world.directory.apply(
        2,
        DirectoryPart {
            tenants: vec![fixture::tenant("globex")],
            phones: vec![named.clone()],
            ..DirectoryPart::default()
        },
    );
    let mut bob = Caller::new("1001", "198.51.100.2:5060");
    assert_eq!(world.register(&mut bob), 200);
    let hidden = Some("From: \"Anonymous\" <sip:anonymous@anonymous.invalid>".to_owned());
    for (from, uri, expected) in [
        ("<sip:1000@acme.test>", "sip:1001@acme.test", (200, Some("From: <sip:1000@acme.test>".to_owned()))),
        ("<sip:anonymous@anonymous.invalid>", "sip:1001@acme.test", (200, hidden.clone())),
        ("\"Anonymous\" <sip:Anonymous@ANONYMOUS.invalid>", "sip:1001@acme.test", (200, hidden.clone())),
        // A number alone has no domain, either.
        ("<tel:1000>", "sip:1001@acme.test", (200, Some("From: <sip:1000@acme.test>".to_owned()))),
        ("<tel:1002>", "sip:1001@acme.test", (403, None)),
        // The tenant that is called does not know the credential.
        ("<sip:anonymous@anonymous.invalid>", "sip:1001@globex.test", (401, None)),
        ("<sip:anonymous@anonymous.invalid>", "sip:1001@nobody.test", (401, None)),
        ("<sip:anonymous@nobody.test>", "sip:1001@acme.test", (401, None)),
        // A phone has that name, and it is not this one.
        ("<sip:anonymous@acme.test>", "sip:1001@acme.test", (403, None)),
        ("<sip:1002@anonymous.test>", "sip:1001@acme.test", (401, None)),
        ("<sip:1002@acme.test>", "sip:1001@acme.test", (403, None)),
    ] {
        assert_eq!(call_as(&mut world, from, uri), expected, "{from} {uri}");
        world.advance(Duration::from_secs(1));
    }
    let part = DirectoryPart { phones_removed: vec![("acme".into(), "anonymous".into())], ..DirectoryPart::default() };
    world.directory.apply(3, part);
    assert_eq!(call_as(&mut world, "<sip:anonymous@acme.test>", "sip:1001@acme.test"), (200, hidden));
    let records = world.events.iter().filter_map(|event| match event {
        Body::CallStarted { from, from_name, phone, .. } => Some((from.as_str(), from_name.as_str(), phone.as_str())),
        _ => None,
    });
    assert_eq!(records.collect::<Vec<_>>(), [("1000", "", "1000"); 5]);
    // Nobody registers without a name.
    let mut alice = Caller::new("1000", "198.51.100.1:5060");
    for expected in [401, 403] {
        let lines = alice.contact();
        let text = alice.request(&lines).replace("To: <sip:1000@", "To: <sip:anonymous@");
        let answer = world.answer(alice.flow, &text);
        assert_eq!(status(&answer), expected);
        alice.learn(&answer);
    }
}

/// The algorithms that a 401 offers.
fn offers(answer: &Option<String>) -> Vec<String> {
    let lines = answer.as_ref().unwrap().lines().filter(|line| line.starts_with("WWW-Authenticate:"));
    lines.map(|line| line.split("algorithm=").nth(1).unwrap().split(',').next().unwrap().to_owned()).collect()
}

/// Debian 12's baresip fails at a challenge with SHA-256 in it. A user that is nobody's is treated alike.
#[test]
fn who_answers_no_challenge_is_offered_md5_alone() {
    let mut world = world();
    let mut globex = fixture::tenant("globex");
    globex.md5_fallback = false;
    world.directory.apply(2, DirectoryPart { tenants: vec![globex], ..DirectoryPart::default() });
    let ask = |world: &mut World, caller: &mut Caller| {
        let request = caller.request("");
        world.advance(Duration::from_secs(1));
        offers(&world.answer(caller.flow, &request))
    };
    let (all, md5) = (["SHA-256", "MD5"], ["MD5"]);
    for user in ["1001", "nobody"] {
        let mut caller = Caller::new(user, "198.51.100.2:5060");
        assert_eq!([ask(&mut world, &mut caller), ask(&mut world, &mut caller)], [all, all], "{user}");
        assert_eq!([ask(&mut world, &mut caller), ask(&mut world, &mut caller)], [md5, md5], "{user}");
    }
    let is_said = |event: &&Body| matches!(event, Body::DigestFallback { .. });
    assert_eq!(world.events.iter().filter(is_said).count(), 0, "strangers make no events");
    let mut bob = Caller::new("1001", "198.51.100.2:5060");
    bob.algorithm = "MD5";
    for _ in 0..3 {
        bob.nonce = None;
        bob.cseq += 10;
        assert_eq!(world.register(&mut bob), 200);
    }
    let said: Vec<_> = world.events.iter().filter(is_said).collect();
    let expected = Body::DigestFallback { user: "1001".into(), source: "198.51.100.2".into() };
    assert_eq!(said, [&expected], "said once");
    // It goes on with it, also when its nonce is too old.
    world.advance(Duration::from_secs(13 * 3_600));
    let request = bob.request("");
    assert_eq!(offers(&world.answer(bob.flow, &request)), md5);
    // Who has answered SHA-256 is never offered less.
    let mut alice = Caller::new("1000", "198.51.100.1:5060");
    assert_eq!(world.register(&mut alice), 200);
    alice.nonce = None;
    assert!((0..6).all(|_| ask(&mut world, &mut alice) == all));
    // A tenant may not want it.
    let mut carol = Caller::new("2000", "198.51.100.3:5060");
    carol.domain = "globex.test".into();
    assert!((0..6).all(|_| ask(&mut world, &mut carol) == all));
}

#[test]
fn a_phone_may_be_offered_algorithms_of_its_own() {
    let mut world = world();
    let mut old = fixture::phone("acme", "1001");
    old.digest = vec!["MD5".into()];
    world.directory.apply(2, DirectoryPart { phones: vec![old], ..DirectoryPart::default() });
    for (user, offered) in [("1001", &["MD5"][..]), ("1002", &["SHA-256", "MD5"]), ("nobody", &["SHA-256", "MD5"])] {
        let mut caller = Caller::new(user, "198.51.100.2:5060");
        let request = caller.request("");
        assert_eq!(offers(&world.answer(caller.flow, &request)), offered, "{user}");
    }
    let mut bob = Caller::new("1001", "198.51.100.2:5060");
    assert_eq!(world.register(&mut bob), 401, "SHA-256 was not offered to it");
    bob.algorithm = "MD5";
    assert_eq!(world.register(&mut bob), 200);
}

/// Whom an operator asks about is the phone; what failed may be another name.
#[test]
fn a_failed_authentication_is_found_under_the_phone_with_user_and_reason() {
    let mut world = world();
    let mut caller = Caller::new("1001", "198.51.100.2:5060");
    assert_eq!(world.register(&mut caller), 200);
    let reasons = |world: &World| -> Vec<String> {
        let shared = Shared { settings: &world.settings, directory: &world.directory };
        let steps = world.exchange.trace("1001", shared).unwrap();
        steps.into_iter().filter(|step| step.rule == "auth").map(|step| step.reason).collect()
    };
    assert_eq!(reasons(&world), [""; 0]);
    caller.password = "wrong".into();
    let request = caller.request("");
    assert_eq!(status(&world.answer(caller.flow, &request)), 401);
    let request = caller.invite("1000", "").replace("username=\"1001\"", "username=\"alice\"");
    assert_eq!(status(&world.answer(caller.flow, &request)), 401);
    assert_eq!(reasons(&world), ["wrong password from 198.51.100.2", "unknown user of \"alice\" from 198.51.100.2"]);
}
