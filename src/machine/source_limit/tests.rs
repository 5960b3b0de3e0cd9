//! Failures of guessers and floods against the room of offices full of phones.

use std::time::Duration;

use super::*;
use crate::base::id::Handle;
use crate::base::id::ShardId;
use crate::machine::fixture::Caller;
use crate::machine::fixture::World;
use crate::machine::fixture::status;
use crate::machine::flow::Connection;
use crate::machine::settings::Prefix;

const OFFICE: &str = "203.0.113.5";

fn caller(user: usize, port: usize) -> Caller {
    let mut caller = Caller::new(&user.to_string(), &format!("{OFFICE}:{port}"));
    caller.local = "10.0.0.5:5060".parse().unwrap();
    caller
}

/// A guesser that answers challenges with a wrong password; attempts that were verified.
fn guess(world: &mut World, user: &str, port: usize, attempts: usize) -> usize {
    let mut guesser = Caller::new(user, &format!("{OFFICE}:{port}"));
    guesser.password = "guess".into();
    (0..attempts)
        .filter(|_| {
            let contact = guesser.contact();
            let has_nonce = guesser.nonce.is_some();
            let request = guesser.request(&contact);
            let response = world.handle(&request, guesser.flow);
            assert_ne!(status(&response), 200);
            guesser.learn(&response) && has_nonce
        })
        .count()
}

#[test]
fn an_office_registers_at_once_while_a_guesser_in_it_is_slowed() {
    let mut world = World::new(500);
    let mut phones: Vec<Caller> = (0..500).map(|n| caller(1000 + n, 20_000 + n)).collect();
    for phone in &mut phones {
        assert_eq!(status(&phone.register(&mut world)), 200);
    }
    // The guesser tries one user of the office, one that does not exist, and a new one each time.
    let mut verified = guess(&mut world, "1007", 50_000, 1_000);
    verified += guess(&mut world, "nobody", 50_001, 1_000);
    for n in 0..300 {
        verified += guess(&mut world, &format!("x{n}"), 50_002, 3);
    }
    assert!(verified < 100, "{verified} of 2900 guesses were verified");
    // The office loses its nonces (a power cut) and all come back, from new ports.
    for (n, phone) in phones.iter_mut().enumerate() {
        phone.nonce = None;
        phone.call_id.push('b');
        let is_guessed = phone.user == "1007";
        if !is_guessed {
            phone.flow.peer.set_port(30_000 + n as u16);
        }
        assert_eq!(status(&phone.register(&mut world)), 200, "{}", phone.user);
        guess(&mut world, "1008", 50_003, 3);
        world.wait(Duration::from_millis(1));
    }
    assert_eq!(world.registrar.len(), 500);
}

#[test]
fn phones_behind_one_proxy_port_pass_too() {
    let mut world = World::new(500);
    for (came_for, at_most) in [("the first time", 30), ("the second time, after a power cut", 1)] {
        let mut phones: Vec<Caller> = (0..500).map(|n| caller(1000 + n, 5060)).collect();
        let mut rounds = 0;
        while !phones.is_empty() {
            // All requests before any answer; who has none repeats his in half a second (T1).
            for phone in &mut phones {
                phone.call_id.push_str(came_for.split(' ').nth(1).unwrap());
                let contact = phone.contact();
                let request = phone.request(&contact);
                let response = world.handle(&request, phone.flow);
                phone.learn(&response);
                guess(&mut world, "1008", 50_003, 2);
            }
            for phone in phones.extract_if(.., |phone| phone.nonce.is_some()) {
                let mut phone = phone;
                assert_eq!(status(&phone.register(&mut world)), 200);
            }
            world.wait(Duration::from_millis(500));
            rounds += 1;
        }
        assert!(rounds <= at_most, "{came_for}: {rounds}");
    }
}

#[test]
fn a_guesser_gets_few_attempts_an_hour() {
    let mut world = World::new(1);
    let mut verified = 0;
    let mut guesser = Caller::new("1000", "198.51.100.66:5060");
    guesser.password = "guess".into();
    for _ in 0..3600 {
        let contact = guesser.contact();
        let had_nonce = guesser.nonce.is_some();
        let request = guesser.request(&contact);
        let response = world.handle(&request, guesser.flow);
        verified += usize::from(guesser.learn(&response) && had_nonce && !response.unwrap().contains("stale=true"));
        world.wait(Duration::from_secs(1));
    }
    assert!((5..=30).contains(&verified), "{verified} guesses in an hour");
}

#[test]
fn a_phone_gets_in_soon_after_its_password_was_put_right() {
    let mut world = World::new(1);
    let mut phone = Caller::new("1000", "198.51.100.66:5060");
    phone.password = "typo".into();
    for _ in 0..20 {
        phone.register(&mut world);
        world.wait(Duration::from_secs(30));
    }
    phone.password = "secret-1000".into();
    let waited = (0..=30).take_while(|_| {
        let refused = status(&phone.register(&mut world)) != 200;
        world.wait(Duration::from_secs(10));
        refused
    });
    assert!(waited.count() <= 30);
    assert_eq!(world.registrar.len(), 1);
}

#[test]
fn a_flood_without_nonces_is_answered_less_and_less() {
    let mut world = World::new(1);
    for reliable in [false, true] {
        let mut flooder = Caller::new("1000", "198.51.100.66:5060");
        if reliable {
            flooder.flow = over_tcp(flooder.flow);
        }
        let mut answered = 0;
        for _ in 0..200 {
            for _ in 0..100 {
                let request = flooder.request("");
                answered += usize::from(world.handle(&request, flooder.flow).is_some());
            }
            world.wait(Duration::from_millis(100));
        }
        let expected = if reliable { 1_000..2_500 } else { 150..211 };
        assert!(expected.contains(&answered), "{answered} of 20000 in 20 s");
    }
    assert!(world.limit.counters.slowed > 10_000 && world.limit.counters.unanswered > 10_000);
    // Its neighbour behind the same address gets in.
    let mut neighbour = Caller::new("1000", "198.51.100.66:7777");
    assert_eq!(status(&neighbour.register(&mut world)), 200);
}

fn over_tcp(flow: Flow) -> Flow {
    let connection = Connection { shard: ShardId(0), handle: Handle { slot: 0, generation: 0 } };
    Flow { connection: Some(connection), ..flow }
}

#[test]
fn no_flood_over_udp_is_felt_over_a_connection() {
    let mut world = World::new(1);
    for port in 0..5_000 {
        let mut forged = Caller::new("1000", &format!("198.51.100.66:{port}"));
        let request = forged.request("");
        world.handle(&request, forged.flow);
    }
    assert_eq!(world.limit.counters.unanswered, 4_990);
    let mut phone = Caller::new("1000", "198.51.100.66:5060");
    assert_eq!(status(&phone.register(&mut world)), 0);
    phone.flow = over_tcp(phone.flow);
    assert_eq!(status(&phone.register(&mut world)), 200);
    // And over UDP it is no stranger there from now on.
    phone.nonce = None;
    phone.flow.connection = None;
    assert_eq!(status(&phone.register(&mut world)), 200);
}

#[test]
fn an_office_comes_back_at_once_from_new_ports_through_a_flood_in_its_name() {
    let mut world = World::new(500);
    let mut phones: Vec<Caller> = (0..500).map(|n| caller(1000 + n, 20_000 + n)).collect();
    for phone in &mut phones {
        assert_eq!(status(&phone.register(&mut world)), 200);
        world.wait(Duration::from_millis(2));
    }
    // Five days without power: no binding is left.
    world.wait(Duration::from_secs(5 * 24 * 3_600));
    assert_eq!((world.registrar.len(), world.limit.known_len()), (0, 500));
    for port in 0..5_000 {
        let mut forged = caller(99_999, port);
        let request = forged.request("");
        world.handle(&request, forged.flow);
    }
    for (n, phone) in phones.iter_mut().enumerate() {
        phone.nonce = None;
        phone.flow.peer.set_port(30_000 + n as u16);
        assert_eq!(status(&phone.register(&mut world)), 200, "{}", phone.user);
    }
}

/// Guessers at many addresses, two of them at each, which all guess at this user.
struct Guessers {
    callers: Vec<Caller>,
    verified: usize,
}

impl Guessers {
    fn new(user: &str, addresses: u8) -> Self {
        let ports = |n: u8| [5060, 40_000].map(|port| format!("192.0.2.{n}:{port}"));
        let guesser = |peer: &String| Caller { password: "guess".into(), ..Caller::new(user, peer) };
        let at = (0..addresses).flat_map(ports).chain([format!("{OFFICE}:50000")]);
        Self { callers: at.map(|peer| guesser(&peer)).collect(), verified: 0 }
    }

    fn guess(&mut self, world: &mut World) {
        for guesser in &mut self.callers {
            guesser.call_id.push('g');
            let had_nonce = guesser.nonce.is_some();
            let request = guesser.request("");
            let response = world.handle(&request, guesser.flow);
            self.verified += usize::from(guesser.learn(&response) && had_nonce);
        }
    }
}

#[test]
fn many_addresses_guess_no_better_than_one() {
    let mut world = World::new(16);
    let mut phone = caller(1000, 20_000);
    assert_eq!(status(&phone.register(&mut world)), 200);
    let mut guessers = Guessers::new("1000", 150);
    for second in 0..120 {
        guessers.guess(&mut world);
        if second % 10 == 0 {
            // It notices nothing, on its own flow and on a new one of its address.
            assert_eq!(status(&phone.register(&mut world)), 200, "{second}");
        }
        if second % 60 == 30 {
            phone.nonce = None;
            phone.flow.peer.set_port(20_000 + second);
            assert_eq!(status(&phone.register(&mut world)), 200, "{second}");
        }
        if second == 6 {
            assert!(guessers.verified <= 20, "{}", guessers.verified);
        }
        world.wait(Duration::from_secs(1));
    }
    assert!(guessers.verified <= 40, "{} guesses in two minutes", guessers.verified);
    // Others of the same name's shard are not concerned.
    let mut other = Caller::new("1001", "198.51.100.20:5060");
    assert_eq!(status(&other.register(&mut world)), 200);
}

#[test]
fn nobody_learns_by_his_guesses_who_is_there() {
    let verified = ["1000", "nobody"].map(|user| {
        let mut world = World::new(1);
        let mut guessers = Guessers::new(user, 100);
        for _ in 0..100 {
            guessers.guess(&mut world);
            world.wait(Duration::from_secs(1));
        }
        guessers.verified
    });
    assert_eq!(verified[0], verified[1]);
}

#[test]
fn a_restarted_phone_gets_in_beside_a_guesser_behind_its_address() {
    let mut world = World::new(16);
    for n in 0..15 {
        let mut phone = caller(1000 + n, 20_000 + n);
        assert_eq!(status(&phone.register(&mut world)), 200);
        let mut guessers = Guessers::new(&phone.user, 20);
        for _ in 0..20 {
            guessers.guess(&mut world);
            world.wait(Duration::from_millis(300));
        }
        phone.nonce = None;
        phone.flow.peer.set_port(30_000 + n as u16);
        assert_eq!(status(&phone.register(&mut world)), 200, "{n}");
    }
    // One of them again and again.
    let mut guessers = Guessers::new("1003", 20);
    for n in 0..15 {
        guessers.guess(&mut world);
        let mut phone = caller(1003, 40_001 + n);
        phone.call_id = format!("again-{n}");
        assert_eq!(status(&phone.register(&mut world)), 200, "{n}");
        world.wait(Duration::from_millis(300));
    }
}

#[test]
fn a_phone_somewhere_else_gets_in_while_it_is_guessed_at() {
    let mut world = World::new(1);
    let mut guessers = Guessers::new("1000", 40);
    for _ in 0..60 {
        guessers.guess(&mut world);
        world.wait(Duration::from_secs(1));
    }
    let mut phone = Caller::new("1000", "198.51.100.20:5060");
    assert_eq!(status(&phone.register(&mut world)), 200);
    for _ in 0..60 {
        guessers.guess(&mut world);
        assert_eq!(status(&phone.register(&mut world)), 200, "it is known there now");
        world.wait(Duration::from_secs(1));
    }
}

#[test]
fn trusted_sources_are_never_slowed() {
    let mut world = World::new(1);
    world.settings.trusted = vec![Prefix { address: "203.0.113.0".parse().unwrap(), bits: 24 }];
    assert_eq!(guess(&mut world, "1000", 5060, 2_000), 1_999);
    assert!(world.limit.is_empty());
}

#[test]
fn garbage_over_a_connection_is_answered_less_and_less() {
    let world = World::new(1);
    let mut limit = SourceLimit::new();
    let (now, shared) = (world.now.instant, world.shared());
    let flow = Flow::udp(0, "198.51.100.1:9".parse().unwrap());
    let answered = |limit: &mut SourceLimit, flow: &Flow, now| {
        (0..1_000).filter(|_| limit.garbage(flow, now, shared) == Verdict::Pass).count()
    };
    assert_eq!(answered(&mut limit, &over_tcp(flow), now), 50);
    assert_eq!(answered(&mut limit, &over_tcp(flow), now + BAN_MIN), 0);
    // Over UDP it is nobody's failure.
    let len = limit.len();
    assert_eq!((answered(&mut limit, &flow, now), limit.len()), (1_000, len));
}

#[test]
fn ipv6_sources_are_networks() {
    let bits = |text: &str| source_bits(text.parse().unwrap());
    assert_eq!(bits("2001:db8::1"), bits("2001:db8::ffff:1"));
    assert_ne!(bits("2001:db8::1"), bits("2001:db8:0:1::1"));
    assert_eq!(bits("::ffff:192.0.2.1"), bits("192.0.2.1"));
    assert_ne!(bits("192.0.2.2"), bits("192.0.2.1"));
}

#[test]
fn a_full_table_forgets_quiet_sources_first() {
    let world = World::new(0);
    let shared = world.shared();
    let mut limit = SourceLimit::new();
    let source = |n: u32| over_tcp(Flow::udp(0, SocketAddr::new(std::net::Ipv4Addr::from_bits(n).into(), 5060)));
    let mut now = world.now.instant;
    let banned: Vec<_> = (0..64).map(source).collect();
    for source in &banned {
        for _ in 0..60 {
            limit.garbage(source, now, shared);
        }
    }
    for n in 0..2 * SOURCES_PER_SHARD_MAX as u32 {
        now = now + Duration::from_nanos(1);
        limit.garbage(&source(1_000_000 + n), now, shared);
        assert!(limit.len() <= SOURCES_PER_SHARD_MAX);
    }
    let kept = banned.iter().filter(|source| limit.garbage(source, now, shared) == Verdict::Slow).count();
    assert_eq!(kept, banned.len());
}
