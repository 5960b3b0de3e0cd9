//! SIPp on both ends of a call: every branch of a call as an independent implementation makes it.

use serde_json::Value;

use crate::server::Server;
use crate::server::Setup;
use crate::sipp::Sipp;

/// Runs the two scenarios against each other; the record of the call.
fn check(caller: &str, callee: &str, code: u16) -> Value {
    check_with(caller, callee, code, |_| {})
}

fn check_with(caller: &str, callee: &str, code: u16, change: impl FnOnce(&mut Setup)) -> Value {
    let mut server = Server::start(|setup| {
        // SIPp 3.6 knows no other.
        setup.digest = "[\"MD5\"]";
        change(setup);
    });
    let right = Sipp::registered(&mut server, "1002");
    let left = Sipp::new(&mut server, "1001");
    let code_text = code.to_string();
    let replace = [("TO", "1002"), ("CODE", code_text.as_str())];
    let callee = right.run(callee, &replace, 1);
    let call_id = left.run(caller, &replace, 1).succeed();
    callee.succeed();
    let record = server.cdr(&call_id);
    assert_eq!(record["cause"]["sip"].as_u64(), Some(code.into()), "{record:#?}");
    record
}

#[test]
fn answered_and_hung_up() {
    let record = check("caller.xml", "callee.xml", 200);
    assert!(record["talk_ms"].as_u64().unwrap() >= 250, "{record:#?}");
}

#[test]
fn hung_up_by_the_callee() {
    let record = check("caller_waits.xml", "callee_hangs_up.xml", 200);
    assert_eq!(record["cause"]["by"], "callee");
}

#[test]
fn busy() {
    check("caller_refused.xml", "callee_refuses.xml", 486);
}

#[test]
fn declined() {
    check("caller_refused.xml", "callee_refuses.xml", 603);
}

#[test]
fn given_up() {
    check("caller_cancels.xml", "callee_is_cancelled.xml", 487);
}

#[test]
fn early_media() {
    check("caller_early.xml", "callee_early.xml", 200);
}

#[test]
fn late_offer() {
    check("caller_late_offer.xml", "callee_late_offer.xml", 200);
}

#[test]
fn held_by_invite() {
    check("caller_holds.xml", "callee_is_held.xml", 200);
}

#[test]
fn held_by_update() {
    check("caller_updates.xml", "callee_is_updated.xml", 200);
}

#[test]
fn held_by_the_callee() {
    check("caller_is_held.xml", "callee_holds.xml", 200);
}

#[test]
fn reliable_ringing() {
    check("caller_prack.xml", "callee_prack.xml", 200);
}

#[test]
fn a_digit() {
    check("caller_info.xml", "callee_info.xml", 200);
}

#[test]
fn a_session_timer() {
    check("caller_timer.xml", "callee_is_refreshed.xml", 200);
}

#[test]
fn over_tcp() {
    let mut server = Server::start(|setup| setup.digest = "[\"MD5\"]");
    let right = Sipp::registered(&mut server, "1002");
    let left = Sipp::new(&mut server, "1001");
    let callee = right.run("callee.xml", &[], 1);
    let call_id = left.run_over("t1", "caller.xml", &[("TO", "1002")], 1).succeed();
    callee.succeed();
    server.cdr(&call_id);
}

#[test]
fn over_ipv6() {
    let mut server = Server::start(|setup| {
        setup.digest = "[\"MD5\"]";
        setup.ipv6 = true;
    });
    let free = || std::net::UdpSocket::bind("[::1]:0").unwrap().local_addr().unwrap();
    let right = Sipp::at("1002", free(), server.sip_v6());
    right.run("register.xml", &[], 1).succeed();
    let left = Sipp::at("1001", free(), server.sip_v6());
    let callee = right.run("callee.xml", &[], 1);
    let call_id = left.run("caller.xml", &[("TO", "1002")], 1).succeed();
    callee.succeed();
    server.cdr(&call_id);
    // From one family to the other.
    let caller = Sipp::new(&mut server, "1003");
    let callee = right.run("callee.xml", &[], 1);
    caller.run("caller.xml", &[("TO", "1002")], 1).succeed();
    callee.succeed();
}

#[test]
fn many_calls_over_two_and_five_shards() {
    for shards in [2, 5] {
        let mut server = Server::start(|setup| {
            setup.digest = "[\"MD5\"]";
            setup.shards = shards;
        });
        let right = Sipp::registered(&mut server, "1002");
        let left = Sipp::new(&mut server, "1001");
        let callee = right.run("callee.xml", &[], 10);
        left.run("caller.xml", &[("TO", "1002")], 10).succeed();
        callee.succeed();
        let records = crate::server::eventually(std::time::Duration::from_secs(4), || {
            let records = server.json("/v1/cdrs")["items"].as_array()?.len();
            (records == 10).then_some(())
        });
        assert!(records.is_some(), "{:#?}", server.json("/v1/cdrs"));
    }
}
