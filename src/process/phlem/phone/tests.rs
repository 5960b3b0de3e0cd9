//! Phones among themselves: a world with a registrar that checks digests and a wire that delays, loses and doubles.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::time::Duration;

use sha2::Digest as _;

use crate::base::time::Now;
use crate::base::time::UnixTime;
use crate::process::phlem::figures::Figures;
use crate::process::phlem::figures::Outcome;
use crate::process::phlem::scenario::Nat;
use crate::process::phlem::scenario::Population;
use crate::process::phlem::scenario::Scenario;
use crate::process::phlem::scenario::Span;
use crate::process::phlem::scenario::Spread;
use crate::process::phlem::scenario::Users;
use crate::process::phlem::sip::value::Uri;
use crate::process::phlem::sip::value::param;

use super::*;

struct World {
    settings: Settings,
    phones: Vec<Phone>,
    ports: Ports,
    figures: Figures,
    now: Instant,
    wire: BTreeMap<(Instant, u64), (Flow, Vec<u8>)>,
    count: u64,
    random: Random,
    /// Of a hundred messages, so many are lost, and so many come twice.
    lost: u64,
    doubled: u64,
    speaking: BTreeMap<u32, Speech>,
    registered: BTreeSet<String>,
    /// Requests and responses in order, as "1001 INVITE" and "200 INVITE".
    log: Vec<String>,
    refuses_refer: bool,
}

fn population() -> Population {
    let users = Users::try_from("1001-1004".to_owned()).unwrap();
    Population {
        users,
        domain: "acme.test".to_owned(),
        expires: Span::secs(60),
        answer: Spread::even(Duration::from_secs(1), Duration::from_secs(2)),
        ..Population::default()
    }
}

fn plan(to: &str) -> Plan {
    Plan {
        stream: 0,
        to: to.to_owned(),
        talk: Duration::from_secs(10),
        callee_ends: false,
        media: true,
        hold: false,
        dtmf: false,
        dtmf_info: false,
        transfer: None,
        patience: None,
    }
}

impl World {
    fn new(population: Population, quirk: Option<Quirk>) -> Self {
        let scenario = Scenario { populations: vec![population], ..Scenario::default() };
        let address = |port: u16| std::net::SocketAddr::from(([127, 0, 0, 1], port));
        let settings = Settings {
            scenario,
            server: address(5060),
            server_host: "127.0.0.1".to_owned(),
            boot: 7,
            signalling: [address(6000), address(6001)].map(|at| at.to_string()).to_vec(),
            signalling_from: 0,
            silent: address(6000),
        };
        let mut random = Random::new(11);
        let phone = |index: u32| {
            let quirk = quirk.filter(|_| index == 0);
            Phone::new(index, 0, index, quirk, Random::new(random.next_u64()))
        };
        let phones = (0..4).map(phone).collect();
        let mut world = Self {
            settings,
            phones,
            ports: Ports::new((7000..7016).map(address).collect()),
            figures: Figures::default(),
            now: Instant::from_millis(1_000_000),
            wire: BTreeMap::new(),
            count: 0,
            random,
            lost: 0,
            doubled: 0,
            speaking: BTreeMap::new(),
            registered: BTreeSet::new(),
            log: Vec::new(),
            refuses_refer: false,
        };
        for index in 0..4 {
            let now = world.now;
            world.step(index, |phone, desk| phone.switch_on(now, desk));
        }
        world.run(2);
        world
    }

    fn step<R>(&mut self, index: u32, act: impl FnOnce(&mut Phone, &mut Desk<'_>) -> R) -> R {
        let mut effects = Vec::new();
        let mut desk = Desk {
            settings: &self.settings,
            now: Now { instant: self.now, unix: UnixTime::from_secs(1) },
            ports: &mut self.ports,
            figures: &mut self.figures,
            effects: &mut effects,
        };
        let result = act(&mut self.phones[index as usize], &mut desk);
        for effect in effects {
            match effect {
                Effect::Send { bytes, .. } => self.send(index, bytes.to_vec()),
                Effect::Speak(speech) => {
                    self.speaking.insert(speech.slot, speech);
                }
                Effect::Hush(slot) => {
                    self.speaking.remove(&slot);
                    self.ports.give_back(slot);
                }
                Effect::Press { .. } | Effect::Ended { .. } | Effect::Disconnect => {}
            }
        }
        result
    }

    fn send(&mut self, from: u32, bytes: Vec<u8>) {
        if bytes.len() < 12 {
            return;
        }
        let message = Message::parse(&bytes).unwrap();
        let what = match message.code() {
            Some(code) => format!("{code} {}", message.cseq().unwrap().1),
            None => format!("{} {}", 1001 + from, message.method().unwrap()),
        };
        self.log.push(what);
        for _ in 0..=u64::from(self.random.below(100) < self.doubled) {
            if self.random.below(100) >= self.lost {
                let at = self.now + Duration::from_millis(1 + self.random.below(20));
                self.count += 1;
                let peer = self.settings.signalling[0].parse().unwrap();
                self.wire.insert((at, self.count), (Flow::Udp { slot: 0, peer }, bytes.clone()));
            }
        }
    }

    /// For so many seconds.
    fn run(&mut self, seconds: u64) {
        let until = self.now + Duration::from_secs(seconds);
        loop {
            let wire = self.wire.first_key_value().map_or(Instant::NEVER, |((at, _), _)| *at);
            let phones = self.phones.iter().map(Phone::next_deadline).min().unwrap();
            let next = wire.min(phones);
            if next > until {
                self.now = until;
                return;
            }
            self.now = self.now.max(next);
            if wire == next {
                let ((_, _), (flow, bytes)) = self.wire.pop_first().unwrap();
                self.deliver(flow, Message::parse(&bytes).unwrap());
            } else {
                for index in 0..self.phones.len() as u32 {
                    self.step(index, Phone::handle_timeout);
                }
            }
        }
    }

    fn deliver(&mut self, flow: Flow, message: Message<'_>) {
        match message.method() {
            None => {
                let branch = Via::parse(message.value("Via").unwrap()).unwrap().branch().unwrap().to_owned();
                let (index, _) = place_of_branch(&branch).unwrap();
                self.step(index, |phone, desk| phone.handle(message, flow, desk));
            }
            Some(Method::Known(rsip::Method::Register)) => self.register(&message, flow),
            Some(method) => {
                let uri = Uri::parse(message.uri()).unwrap();
                let refuse = self.refuses_refer && *method == Method::Known(rsip::Method::Refer);
                let line = param(uri.params, "line").map(|line| u32::from_str_radix(line, 16).unwrap());
                let found = line.or_else(|| Some(uri.user?.parse::<u32>().ok()? - 1001)).filter(|index| *index < 4);
                match found {
                    Some(index) if !refuse => {
                        self.step(index, |phone, desk| phone.handle(message, flow, desk));
                    }
                    _ => self.answer(&message, 404, Vec::new(), flow),
                }
            }
        }
    }

    fn answer(&mut self, request: &Message<'_>, code: u16, more: Vec<(&str, String)>, flow: Flow) {
        if request.method() == Some(&Method::Known(rsip::Method::Ack)) {
            return;
        }
        let mut response = request::response_to(request, code, "X", Some(5));
        for (name, value) in more {
            response.push(name, &value);
        }
        let bytes = response.finish(Style::default());
        self.deliver(flow, Message::parse(&bytes).unwrap());
    }

    /// Every other algorithm, to see each of them; the digest is computed by hand.
    fn register(&mut self, message: &Message<'_>, flow: Flow) {
        let user = Uri::parse(message.value("To").unwrap().trim_matches(['<', '>'])).unwrap().user.unwrap().to_owned();
        let is_md5 = user.ends_with(['1', '3']);
        let challenge = if is_md5 {
            "Digest realm=\"acme.test\", nonce=\"abc\"".to_owned()
        } else {
            "Digest realm=\"acme.test\", nonce=\"abc\", algorithm=SHA-256".to_owned()
        };
        let hex = |text: String| -> String {
            let bytes: Vec<u8> =
                if is_md5 { md5::Md5::digest(text).to_vec() } else { sha2::Sha256::digest(text).to_vec() };
            bytes.iter().map(|byte| format!("{byte:02x}")).collect()
        };
        let secret = hex(format!("{user}:acme.test:secret-{user}"));
        let wanted = hex(format!("{secret}:abc:{}", hex("REGISTER:sip:acme.test".to_owned())));
        let right = message.value("Authorization").is_some_and(|value| value.contains(&wanted));
        if !right {
            return self.answer(message, 401, vec![("WWW-Authenticate", challenge)], flow);
        }
        let expires = message.value("Expires").unwrap().to_owned();
        if expires == "0" {
            self.registered.remove(&user)
        } else {
            self.registered.insert(user)
        };
        let contact = format!("{};expires={expires}", message.value("Contact").unwrap());
        self.answer(message, 200, vec![("Contact", contact)], flow);
    }

    fn call(&mut self, from: u32, plan: Plan) {
        assert!(self.step(from, |phone, desk| phone.place_call(plan, desk)));
    }

    /// No call, no audio, no port, no transaction is left, and figures agree.
    fn check_quiet(&mut self) {
        self.run(130);
        for phone in &self.phones {
            assert!(phone.is_quiet(), "phone {} has {} calls", phone.index, phone.calls.len());
            assert!(phone.servers.is_empty() && phone.clients.is_empty());
        }
        assert!(self.speaking.is_empty());
        assert_eq!((self.figures.calls_now, self.figures.answered_now), (0, 0));
        assert_eq!(self.figures.ended(), self.figures.calls);
        let free = std::iter::from_fn(|| self.ports.take()).count();
        assert_eq!(free, 16, "ports that came back");
    }

    fn count(&self, what: &str) -> usize {
        self.log.iter().filter(|line| *line == what).count()
    }
}

#[test]
fn phones_register_refresh_and_leave() {
    let mut world = World::new(population(), None);
    assert_eq!((world.registered.len(), world.figures.registered_now), (4, 4));
    assert_eq!(world.count("1001 REGISTER"), 2, "asked, then with the digest");
    world.run(120);
    // The nonce is known: one request each time.
    assert!((4..=6).contains(&world.count("1001 REGISTER")), "{:?}", world.log);
    for index in 0..4 {
        world.step(index, |phone, desk| phone.shut_down(true, desk));
    }
    world.run(1);
    assert!(world.registered.is_empty() && world.phones.iter().all(|phone| !phone.is_on() && phone.is_quiet()));
}

#[test]
fn a_call_from_ring_to_bye() {
    let mut world = World::new(population(), None);
    world.call(0, plan("1002"));
    world.run(3);
    let speeches: Vec<_> = world.speaking.values().copied().collect();
    assert_eq!(speeches.len(), 2);
    assert_eq!(speeches[0].call, speeches[1].call, "both know whose audio to expect");
    assert_ne!(speeches[0].is_caller, speeches[1].is_caller);
    for (own, other) in [(0, 1), (1, 0)] {
        assert_eq!(Some(speeches[own].to), world.ports.address(speeches[other].slot));
        assert!(speeches[own].sends && speeches[own].hears && speeches[own].events == Some(101));
    }
    world.check_quiet();
    assert_eq!(world.figures.outcome(Outcome::Completed), 1);
    assert!(world.figures.setup_delay.max().unwrap() < 100_000_000, "the callee's second of ringing is taken off");
    for (what, times) in [("1001 INVITE", 1), ("180 INVITE", 1), ("200 INVITE", 1), ("1001 ACK", 1), ("1001 BYE", 1)] {
        assert_eq!(world.count(what), times, "{what}");
    }
}

#[test]
fn ends_of_all_kinds() {
    let check = |population: Population, plan: Plan, outcome: Outcome, codes: &[&str]| {
        let mut world = World::new(population, None);
        world.call(0, plan);
        world.check_quiet();
        assert_eq!(world.figures.outcome(outcome), 1, "{:?}", world.figures.outcomes);
        assert_eq!(world.figures.calls_good, u64::from(outcome != Outcome::Failed));
        for code in codes {
            assert!(world.count(code) > 0, "{code} is not in {:?}", world.log);
        }
    };
    let callee = |change: fn(&mut Population)| {
        let mut callee = population();
        change(&mut callee);
        callee
    };
    let missed = Plan { patience: Some(Duration::from_millis(700)), ..plan("1002") };
    check(callee(|p| p.busy = 1.0), plan("1002"), Outcome::Busy, &["486 INVITE", "1001 ACK"]);
    check(callee(|p| p.reject = 1.0), plan("1002"), Outcome::Rejected, &["603 INVITE"]);
    check(callee(|p| p.no_answer = 1.0), plan("1002"), Outcome::NoAnswer, &["480 INVITE"]);
    check(population(), missed, Outcome::Cancelled, &["1001 CANCEL", "200 CANCEL", "487 INVITE"]);
    check(population(), plan("1009"), Outcome::Failed, &["1001 ACK"]);
    check(population(), Plan { callee_ends: true, ..plan("1002") }, Outcome::Completed, &["1002 BYE"]);
    check(callee(|p| p.early_media = 1.0), plan("1002"), Outcome::Completed, &["183 INVITE"]);
    check(population(), Plan { media: false, ..plan("1002") }, Outcome::Completed, &["1001 BYE"]);
    let held = Plan { hold: true, dtmf: true, dtmf_info: true, ..plan("1002") };
    check(population(), held, Outcome::Completed, &["1001 INFO", "200 INFO"]);
}

#[test]
fn on_hold_one_side_is_silent() {
    let mut world = World::new(population(), None);
    world.call(0, Plan { hold: true, ..plan("1002") });
    world.run(6);
    let of = |world: &World, caller: bool| *world.speaking.values().find(|s| s.is_caller == caller).unwrap();
    let (holder, held) = (of(&world, true), of(&world, false));
    assert!((holder.sends, holder.hears) == (true, false) && (held.sends, held.hears) == (false, true));
    world.run(2);
    let (holder, held) = (of(&world, true), of(&world, false));
    assert!(holder.sends && holder.hears && held.sends && held.hears);
    world.check_quiet();
}

#[test]
fn transfers() {
    for transfer in [Transfer::Blind("1003".to_owned()), Transfer::Attended("1003".to_owned())] {
        let attended = matches!(transfer, Transfer::Attended(_));
        let mut world = World::new(population(), None);
        world.call(0, Plan { transfer: Some(transfer.clone()), ..plan("1002") });
        world.check_quiet();
        assert_eq!(world.figures.transfers, 1, "{:?}", world.log);
        assert_eq!(world.figures.outcome(Outcome::Transferred), if attended { 2 } else { 1 });
        assert_eq!(world.figures.outcome(Outcome::Completed), 1, "the two who were brought together");
        assert_eq!(world.figures.calls_good, world.figures.calls);

        let mut world = World::new(population(), None);
        world.refuses_refer = true;
        world.call(0, Plan { transfer: Some(transfer), ..plan("1002") });
        world.run(20);
        assert!(world.phones.iter().all(|phone| phone.calls() == 0), "nothing waits for what was refused");
        world.check_quiet();
        assert_eq!((world.figures.transfers, world.figures.outcome(Outcome::Failed)), (0, 0));
    }
}

#[test]
fn the_wire_loses_and_doubles() {
    let mut world = World::new(population(), None);
    (world.lost, world.doubled) = (20, 20);
    for round in 0..40 {
        let (from, to) = (round % 4, 1001 + (round + 1) % 4);
        if world.phones[from as usize].calls() == 0 {
            let odd = Plan { hold: round % 3 == 0, talk: Duration::from_secs(8), ..plan(&to.to_string()) };
            world.call(from, odd);
        }
        world.run(12);
    }
    (world.lost, world.doubled) = (0, 0);
    let figures = world.figures.clone();
    world.check_quiet();
    assert!(figures.repeats_sent > 50 && figures.repeats_received > 50);
    assert!(figures.outcome(Outcome::Completed) > 25, "{:?} {:?}", figures.outcomes, figures.errors);
}

#[test]
fn every_quirk_is_seen_and_survived() {
    for quirk in Quirk::ALL {
        let mut world = World::new(population(), Some(quirk));
        assert_eq!(world.registered.len(), 4, "{quirk:?}");
        world.call(0, Plan { talk: Duration::from_secs(50), hold: true, ..plan("1002") });
        world.run(60);
        world.call(2, plan("1001"));
        world.run(60);
        let count = |what: &str| world.count(what);
        match quirk {
            Quirk::DoubleBye => assert_eq!(count("1001 BYE"), 2),
            Quirk::NoBye => assert_eq!(count("1001 BYE"), 0),
            Quirk::NoAck => assert!(count("200 INVITE") > 5 && count("1002 BYE") > 0),
            Quirk::SlowAck => assert!(count("200 INVITE") > 2),
            Quirk::WrongPasswordFirst => assert!(count("1001 REGISTER") > count("1002 REGISTER")),
            Quirk::EagerRepeat => assert!(count("1001 REGISTER") >= 4),
            Quirk::Hasty => assert!(count("1001 REGISTER") > 6),
            Quirk::RingsALot => assert!(count("180 INVITE") > 8),
            Quirk::BadCseq => assert!(count("500 INVITE") > 0),
            _ => assert_eq!(world.figures.outcome(Outcome::Completed), 2, "{quirk:?} {:?}", world.figures.errors),
        }
        world.run(700);
        assert!(world.phones.iter().skip(1).all(|phone| phone.calls() <= 1), "{quirk:?}");
    }
}

#[test]
fn power_and_ports() {
    let mut world = World::new(Population { nat: Some(Nat { rebind: Span::secs(0) }), ..population() }, None);
    world.call(0, plan("1002"));
    world.run(4);
    let before = world.phones[1].socket(&world.settings);
    world.step(1, |phone, desk| phone.rebind(desk));
    assert_ne!(world.phones[1].socket(&world.settings), before);
    world.step(0, |phone, desk| phone.cut_power(desk));
    assert!(!world.phones[0].is_on() && world.phones[0].next_deadline() == Instant::NEVER);
    assert_eq!(world.figures.registered_now, 3);
    let now = world.now;
    world.step(0, |phone, desk| phone.switch_on(now, desk));
    world.run(2);
    assert_eq!(world.figures.registered_now, 4);
    assert!(world.log.iter().any(|line| line == "1001 REGISTER"));
}

#[test]
fn an_idle_phone_is_small() {
    let world = World::new(population(), None);
    let phone = &world.phones[0];
    assert!(phone.clients.capacity() == 0 && phone.servers.capacity() == 0 && phone.calls.capacity() == 0);
    assert!(size_of::<Phone>() <= 320, "{}", size_of::<Phone>());
}

#[test]
fn a_cancel_is_answered_in_any_order() {
    let mut world = World::new(population(), None);
    for _ in 0..4 {
        world.call(0, Plan { patience: Some(Duration::from_millis(500)), ..plan("1002") });
        world.run(1);
        assert!(world.phones[0].is_quiet(), "{:?}", world.log);
    }
}

#[test]
fn branches_name_phone_and_transaction() {
    assert_eq!(place_of_branch(&format!("{BRANCH_START}{:x}-9-ffff", 70_000)), Some((70_000, 9)));
    for other in ["z9hG4bK123", "z9hG4bKph", "z9hG4bKphx-y-z", ""] {
        assert_eq!(place_of_branch(other), None);
    }
}
