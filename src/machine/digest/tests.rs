//! Readings, verdicts and challenges.

use std::time::Duration;

use super::response::tests::HASHES;
use crate::machine::fixture::Caller;
use crate::machine::fixture::World;
use crate::machine::fixture::phone;
use crate::machine::fixture::status;
use crate::machine::fixture::tenant;
use crate::machine::outbox::Output;
use crate::wire::event::Body;
use crate::wire::link::DirectoryPart;
use crate::wire::sip::Challenge;

const PEER: &str = "198.51.100.7:5060";

/// A caller that holds a fresh nonce.
fn challenged(world: &mut World, user: &str) -> Caller {
    let mut caller = Caller::new(user, PEER);
    let contact = caller.contact();
    let request = caller.request(&contact);
    let response = world.handle(&request, caller.flow);
    assert!(caller.learn(&response), "{response:?}");
    caller
}

fn send(world: &mut World, caller: &mut Caller, change: impl FnOnce(String) -> String) -> Option<String> {
    let contact = caller.contact();
    let request = change(caller.request(&contact));
    world.handle(&request, caller.flow)
}

fn is_stale(response: &Option<String>) -> bool {
    let text = response.as_ref().unwrap();
    assert!(text.starts_with("SIP/2.0 401"), "{text}");
    text.contains("stale=true")
}

#[test]
fn every_algorithm_offered_is_taken() {
    for (algorithm, expected) in [("SHA-256", 200), ("MD5", 200), ("SHA-512-256", 401)] {
        let mut world = World::new(1);
        let mut caller = challenged(&mut world, "1000");
        caller.algorithm = algorithm;
        let response = send(&mut world, &mut caller, |text| text);
        assert_eq!(status(&response), expected, "{algorithm}");
    }
}

#[test]
fn a_tenant_may_offer_its_own_algorithms() {
    let mut world = World::new(1);
    let mut acme = tenant("acme");
    acme.digest = vec!["SHA-512-256".into()];
    world.directory.apply(2, DirectoryPart { tenants: vec![acme], ..DirectoryPart::default() });
    let mut caller = challenged(&mut world, "1000");
    caller.algorithm = "SHA-512-256";
    assert_eq!(status(&send(&mut world, &mut caller, |text| text)), 200);
    caller.algorithm = "MD5";
    assert_eq!(status(&send(&mut world, &mut caller, |text| text)), 401);
}

#[test]
fn verdicts() {
    let check = |change: &dyn Fn(String) -> String, expected: u16, stale: bool| {
        let mut world = World::new(2);
        let mut caller = challenged(&mut world, "1000");
        let response = send(&mut world, &mut caller, change);
        assert_eq!(status(&response), expected, "{response:?}");
        assert!(expected != 401 || is_stale(&response) == stale, "{response:?}");
    };
    check(&|text| text, 200, false);
    check(&|text| text.replace("Digest username", "digest USERNAME"), 200, false);
    check(&|text| text.replace("algorithm=SHA-256", "algorithm=\"sha-256\""), 200, false);
    check(
        &|text| text.replace("Authorization: Digest", "Authorization: Bearer x\r\nAuthorization: Digest"),
        200,
        false,
    );
    // Another user's, an unknown user's, and wrong responses look alike.
    check(&|text| text.replace("username=\"1000\"", "username=\"1001\""), 401, false);
    check(&|text| text.replace("username=\"1000\"", "username=\"nobody\""), 401, false);
    check(&|text| text.replace("response=\"", "response=\"0"), 401, false);
    check(&|text| text.replace("algorithm=SHA-256", "algorithm=SHA-256-sess"), 401, false);
    check(&|text| text.replace("qop=auth", "qop=auth-int"), 401, false);
    check(&|text| text.replace("nonce=\"", "nonce=\"x"), 401, true);
    check(&|text| text.replace("realm=\"acme", "realm=\"globex"), 401, true);
    check(&|text| text.replace(", nc=00000001", ""), 400, false);
    check(&|text| text.replace(", cnonce=\"c0\"", ""), 400, false);
    check(&|text| text.replace("realm=\"acme.test\", ", ""), 400, false);
    // Hashed for one resource, sent for another.
    check(&|text| text.replace("REGISTER sip:acme.test ", "REGISTER sip:192.0.2.250 "), 200, false);
    check(&|text| text.replace("REGISTER sip:acme.test ", "REGISTER sip:ACME.test:5060;transport=udp "), 200, false);
}

#[test]
fn a_nonce_counts_up_and_is_good_for_one_source() {
    let mut world = World::new(1);
    let mut caller = challenged(&mut world, "1000");
    assert_eq!(status(&send(&mut world, &mut caller, |text| text)), 200);
    assert_eq!(status(&send(&mut world, &mut caller, |text| text)), 200);
    caller.nc -= 1;
    assert!(is_stale(&send(&mut world, &mut caller, |text| text)));
    // In use it outlives the time for first uses; after its lifetime it is stale.
    world.wait(Duration::from_secs(3_000));
    assert_eq!(status(&send(&mut world, &mut caller, |text| text)), 200);
    world.wait(Duration::from_secs(12 * 3600));
    assert!(is_stale(&send(&mut world, &mut caller, |text| text)));
    let mut moved = challenged(&mut world, "1000");
    moved.flow.peer = "198.51.100.8:5060".parse().unwrap();
    assert!(is_stale(&send(&mut world, &mut moved, |text| text)));
    moved.flow.peer = "198.51.100.7:6060".parse().unwrap();
    assert_eq!(status(&send(&mut world, &mut moved, |text| text)), 200);
}

#[test]
fn a_client_without_qop_uses_a_nonce_once() {
    use super::response::tests::ha1;
    use super::response::tests::respond;
    use crate::machine::settings::Algorithm;
    use crate::wire::sip::Credentials;
    let mut world = World::new(1);
    let mut caller = challenged(&mut world, "1000");
    let nonce = caller.nonce.clone().unwrap();
    let credentials = Credentials { nonce: nonce.as_bytes(), uri: b"sip:acme.test", ..Credentials::default() };
    let response = respond(&credentials, Algorithm::Md5, b"REGISTER", &ha1("1000", "acme.test", "secret-1000"));
    let old_style = |text: String| {
        let line = text.lines().find(|line| line.starts_with("Authorization")).unwrap().to_owned();
        let bare = format!(
            "Authorization: Digest username=\"1000\",realm=\"acme.test\",nonce=\"{nonce}\",uri=\"sip:acme.test\",response=\"{response}\""
        );
        text.replace(&line, &bare)
    };
    assert_eq!(status(&send(&mut world, &mut caller, old_style)), 200);
    assert!(is_stale(&send(&mut world, &mut caller, old_style)));
}

#[test]
fn escaped_names_are_read() {
    let mut world = World::new(0);
    let odd = phone("acme", "a\"b");
    world.directory.apply(2, DirectoryPart { phones: vec![odd], ..DirectoryPart::default() });
    let mut caller = challenged(&mut world, "1000");
    caller.user = "a\"b".into();
    caller.password = "secret-a\"b".into();
    let response = send(&mut world, &mut caller, |text| {
        text.replace("username=\"a\"b\"", "username=\"a\\\"b\"").replace("<sip:a\"b@", "<sip:a%22b@")
    });
    assert_eq!(status(&response), 200, "{response:?}");
}

#[test]
fn unknown_users_cost_what_wrong_passwords_cost() {
    let cost = |user: &str, domain: &str, algorithm: &'static str| {
        let mut world = World::new(1);
        let mut caller = Caller { domain: domain.into(), ..Caller::new(user, PEER) };
        caller.password = "wrong".into();
        caller.algorithm = algorithm;
        let contact = caller.contact();
        let request = caller.request(&contact);
        let first = world.handle(&request, caller.flow);
        assert!(caller.learn(&first));
        HASHES.with(|hashes| hashes.set(0));
        let second = send(&mut world, &mut caller, |text| text);
        assert_eq!(status(&second), 401);
        let shape = |text: Option<String>| {
            let text = text.unwrap().replace(user, "USER").replace(domain, "DOMAIN");
            text.lines().map(|line| line.split("nonce=").next().unwrap().to_owned()).collect::<Vec<_>>()
        };
        let (first, second) = (shape(first), shape(second));
        let without_tag =
            |lines: &[String]| lines.iter().filter(|line| !line.starts_with("To:")).cloned().collect::<Vec<_>>();
        (HASHES.with(std::cell::Cell::get), without_tag(&first), without_tag(&second))
    };
    for algorithm in ["MD5", "SHA-256"] {
        let known = cost("1000", "acme.test", algorithm);
        assert_eq!(known.0, 2);
        assert_eq!(known, cost("2000", "acme.test", algorithm));
        assert_eq!(known, cost("2000", "nobody.test", algorithm));
    }
}

#[test]
fn a_challenge_offers_what_is_configured_within_three_times_the_request() {
    use crate::machine::settings::Algorithm;
    let mut world = World::new(1);
    world.settings.digest = vec![Algorithm::Sha512_256, Algorithm::Sha256, Algorithm::Md5];
    let offers = |world: &mut World, text: &str| {
        let response = world.handle(text, Caller::new("1000", PEER).flow).unwrap();
        assert!(response.len() <= 3 * text.len(), "{} for {}", response.len(), text.len());
        let lines: Vec<String> =
            response.lines().filter_map(|line| line.strip_prefix("WWW-Authenticate: ").map(str::to_owned)).collect();
        let nonce = |line: &String| Challenge::parse(line.as_bytes()).unwrap().unwrap().nonce.to_vec();
        assert!(lines.iter().all(|line| nonce(line) == nonce(&lines[0])));
        let algorithm = |line: &String| {
            let challenge = Challenge::parse(line.as_bytes()).unwrap().unwrap();
            assert!(challenge.realm == b"acme.test" && challenge.offers_qop("auth") && !challenge.stale);
            String::from_utf8(challenge.algorithm.unwrap().to_vec()).unwrap()
        };
        lines.iter().map(algorithm).collect::<Vec<_>>()
    };
    let full = Caller::new("1000", PEER).request("");
    assert_eq!(offers(&mut world, &full), ["SHA-512-256", "SHA-256", "MD5"]);
    let small = "REGISTER sip:acme.test SIP/2.0\r\nv:SIP/2.0/UDP h;branch=z9hG4bK1\r\nMax-Forwards:9\r\nf:sip:a@b;tag=1\r\n\
                 t:sip:a@acme.test\r\ni:1\r\nCSeq:1 REGISTER\r\n\r\n";
    let offered = offers(&mut world, small);
    assert!(offered.len() < 3 && offered.first().is_some_and(|name| name == "SHA-512-256"), "{offered:?}");
}

#[test]
fn the_realm_is_that_of_the_sender() {
    let mut world = World::new(1);
    let mut globex = tenant("globex");
    globex.realm = "a \"quoted\" realm".into();
    globex.aliases = vec!["pbx.globex.test".into()];
    world.directory.apply(2, DirectoryPart { tenants: vec![globex], ..DirectoryPart::default() });
    let realm = |world: &mut World, domain: &str| {
        let mut caller = Caller { domain: domain.into(), ..Caller::new("1", PEER) };
        let request = caller.request("");
        let response = world.handle(&request, caller.flow).unwrap();
        world.wait(Duration::from_secs(1));
        response.split("realm=\"").nth(1).unwrap().split("\", nonce").next().unwrap().to_owned()
    };
    for (domain, expected) in [
        ("acme.test", "acme.test"),
        ("ACME.test:5070", "acme.test"),
        ("globex.test", "a \\\"quoted\\\" realm"),
        ("pbx.globex.test.", "a \\\"quoted\\\" realm"),
        ("Nobody.test", "nobody.test"),
        // An address of ours without a default tenant is nobody's.
        ("192.0.2.250", "192.0.2.250"),
    ] {
        assert_eq!(realm(&mut world, domain), expected);
    }
    world.directory.apply(3, DirectoryPart { tenants_removed: vec!["globex".into()], ..DirectoryPart::default() });
    assert_eq!(realm(&mut world, "192.0.2.250"), "acme.test");
    assert_eq!(realm(&mut world, "sip.example.net"), "acme.test");
    assert_eq!(realm(&mut world, "192.0.2.251"), "192.0.2.251");
}

#[test]
fn failures_are_told_once_each() {
    let mut world = World::new(1);
    let mut caller = challenged(&mut world, "1000");
    caller.password = "wrong".into();
    send(&mut world, &mut caller, |text| text);
    send(&mut world, &mut caller, |text| text.replace("username=\"1000\"", "username=\"nobody\""));
    let told: Vec<_> = world
        .outputs
        .iter()
        .filter_map(|output| match output {
            Output::Event { tenant, body: Body::AuthenticationFailed { user, source, cause }, .. } => {
                Some((tenant.as_str(), user.as_str(), source.as_str(), cause.as_str()))
            }
            _ => None,
        })
        .collect();
    assert_eq!(
        told,
        [("acme", "1000", "198.51.100.7", "wrong password"), ("", "nobody", "198.51.100.7", "unknown user")]
    );
}
