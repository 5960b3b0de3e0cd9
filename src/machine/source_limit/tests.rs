//! Failures of guessers and floods against the room of offices full of phones.

use std::time::Duration;

use super::*;
use crate::machine::fixture::Caller;
use crate::machine::fixture::World;
use crate::machine::fixture::status;
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
    }
    assert_eq!(world.registrar.len(), 500);
}

#[test]
fn phones_behind_one_proxy_port_pass_too() {
    let mut world = World::new(500);
    for round in 0..2 {
        let mut phones: Vec<Caller> = (0..500).map(|n| caller(1000 + n, 5060)).collect();
        // All requests before any answer.
        for phone in &mut phones {
            phone.call_id.push_str(&round.to_string());
            let contact = phone.contact();
            let request = phone.request(&contact);
            let response = world.handle(&request, phone.flow);
            assert!(phone.learn(&response), "{response:?}");
            guess(&mut world, "1008", 50_003, 2);
        }
        for phone in &mut phones {
            assert_eq!(status(&phone.register(&mut world)), 200);
        }
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
    let mut flooder = Caller::new("1000", "198.51.100.66:5060");
    let mut answered = 0;
    for _ in 0..200 {
        for _ in 0..100 {
            let request = flooder.request("");
            answered += usize::from(world.handle(&request, flooder.flow).is_some());
        }
        world.wait(Duration::from_millis(100));
    }
    assert!((1_000..2_500).contains(&answered), "{answered} of 20000 in 20 s");
    assert!(world.limit.counters.slowed > 10_000);
    // Its neighbour behind the same address gets in.
    let mut neighbour = Caller::new("1000", "198.51.100.66:7777");
    assert_eq!(status(&neighbour.register(&mut world)), 200);
}

#[test]
fn trusted_sources_are_never_slowed() {
    let mut world = World::new(1);
    world.settings.trusted = vec![Prefix { address: "203.0.113.0".parse().unwrap(), bits: 24 }];
    assert_eq!(guess(&mut world, "1000", 5060, 2_000), 1_999);
    assert!(world.limit.is_empty());
}

#[test]
fn garbage_shuts_a_stranger_out_but_not_an_office() {
    let mut world = World::new(1);
    let stranger: SocketAddr = "198.51.100.1:9".parse().unwrap();
    let office: SocketAddr = "203.0.113.5:9".parse().unwrap();
    assert_eq!(status(&caller(1000, 5060).register(&mut world)), 200);
    let mut limit = std::mem::take(&mut world.limit);
    let (now, shared) = (world.now.instant, world.shared());
    let answered = |limit: &mut SourceLimit, source| {
        (0..1_000).filter(|_| limit.garbage(source, now, shared) == Verdict::Pass).count()
    };
    assert_eq!(answered(&mut limit, stranger), 50);
    assert_eq!(answered(&mut limit, office), 50);
    assert!(limit.is_shut(stranger, now, shared));
    assert!(!limit.is_shut(office, now, shared));
    assert!(!limit.is_shut(stranger, now + BAN_MIN, shared));
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
    let source = |n: u32| SocketAddr::new(std::net::Ipv4Addr::from_bits(n).into(), 5060);
    let mut now = world.now.instant;
    let banned: Vec<_> = (0..64).map(source).collect();
    for source in &banned {
        for _ in 0..60 {
            limit.garbage(*source, now, shared);
        }
    }
    for n in 0..2 * SOURCES_PER_SHARD_MAX as u32 {
        now = now + Duration::from_nanos(1);
        limit.garbage(source(1_000_000 + n), now, shared);
        assert!(limit.len() <= SOURCES_PER_SHARD_MAX);
    }
    let kept = banned.iter().filter(|source| limit.garbage(**source, now, shared) == Verdict::Slow).count();
    assert_eq!(kept, banned.len());
}
