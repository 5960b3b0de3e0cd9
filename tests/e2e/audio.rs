//! Two real phones on two hosts that reach each other only through the server: each hears the other's tone.

use std::time::Duration;

use crate::baresip::Baresip;
use crate::namespace::Host;
use crate::namespace::inside;
use crate::server::Server;
use crate::server::eventually;

fn check(test: &str, left_transport: &str, right_transport: &str) {
    if !inside(test) {
        return;
    }
    let (left, right) = (Host::new(1), Host::new(2));
    let server = Server::start(|setup| {
        setup.ip = Some(left.gateway);
        // baresip 1.0 gives up where any challenge names an algorithm that it does not know.
        setup.digest = "[\"MD5\"]";
    });
    let callee = Baresip::start(&right, &server, "1002", right_transport, 620.0, None, 9);
    let registered = eventually(Duration::from_secs(5), || {
        let items = server.json("/v1/registrations")["items"].as_array()?.clone();
        items.iter().any(|item| item["user"] == "1002").then_some(())
    });
    assert!(registered.is_some(), "{}", callee.heard().log);
    let caller = Baresip::start(&left, &server, "1001", left_transport, 440.0, Some("sip:1002@acme.test"), 6);
    let (caller, callee) = (caller.heard(), callee.heard());
    let (from_callee, from_caller) = (caller.seconds_of(620.0), callee.seconds_of(440.0));
    assert!(from_callee > 2.0, "the caller heard {from_callee} s of the callee:\n{}", caller.log);
    assert!(from_caller > 2.0, "the callee heard {from_caller} s of the caller:\n{}", callee.log);
    assert_eq!((caller.seconds_of(440.0), callee.seconds_of(620.0)), (0.0, 0.0), "somebody heard himself");
    let records = server.json("/v1/cdrs")["items"].as_array().unwrap().clone();
    assert_eq!(records.len(), 1, "{records:#?}");
    assert!(records[0]["talk_ms"].as_u64().unwrap() > 2_000, "{records:#?}");
}

#[test]
fn a_tone_comes_out_as_that_tone() {
    check("audio::a_tone_comes_out_as_that_tone", "udp", "udp");
}

#[test]
fn a_tone_from_udp_to_tcp() {
    check("audio::a_tone_from_udp_to_tcp", "udp", "tcp");
}

/// Debian 12's baresip fails at a challenge with SHA-256 in it ("Function not implemented") and comes back without credentials.
#[test]
fn a_phone_that_knows_md5_alone_registers_all_the_same() {
    if !inside("audio::a_phone_that_knows_md5_alone_registers_all_the_same") {
        return;
    }
    let host = Host::new(1);
    let server = Server::start(|setup| {
        setup.ip = Some(host.gateway);
        setup.shards = 2;
    });
    let mut logs = Vec::new();
    let registered = (0..5).any(|_| {
        let phone = Baresip::start(&host, &server, "1002", "udp", 620.0, None, 3);
        let found = eventually(Duration::from_secs(2), || {
            let items = server.json("/v1/registrations")["items"].as_array()?.clone();
            items.iter().any(|item| item["user"] == "1002").then_some(())
        });
        logs.push(phone.heard().log);
        found.is_some()
    });
    assert!(registered, "{logs:#?}");
    // Newer ones know SHA-256.
    let fails = logs[0].contains("Function not implemented");
    assert!(fails || logs.len() == 1, "{logs:#?}");
    assert_eq!(server.log().matches("authentication.md5_alone").count(), usize::from(fails), "{}", server.log());
}
