//! Other requests in a dialog, session timers, media notices.

use std::time::Duration;

use super::ladder::*;
use crate::base::id::Handle;
use crate::machine::call::input::CallInput;
use crate::machine::flow::Flow;
use crate::machine::media::command::MediaNotice;
use crate::machine::media::command::Notice;
use crate::machine::media::command::Owner;
use crate::machine::media::command::PairId;
use crate::wire::event::Body;
use crate::wire::event::By;
use crate::wire::sip::HeaderId;

#[test]
fn info_passes_with_its_body() {
    let Talk { mut ladder, mut alice, mut bob } = talk("", "");
    let info = alice.request("INFO", "Content-Type: application/dtmf-relay\r\n", "Signal=5\r\n");
    ladder.receive(10, &info);
    let passed = ladder.expect(20, "INFO");
    assert_eq!(passed.body(), "Signal=5\r\n");
    assert_eq!(passed.header(HeaderId::ContentType), "application/dtmf-relay");
    ladder.receive(10, &info);
    ladder.expect_nothing();
    ladder.receive(20, &passed.response(200, "", "", ""));
    ladder.expect(10, "SIP/2.0 200");
    assert!(ladder.has_event(|body| matches!(body, Body::DigitSent { by: By::Caller })));
    ladder.receive(20, &bob.request("INFO", "Content-Type: x/y\r\n", "hi"));
    let passed = ladder.expect(10, "INFO");
    ladder.receive(10, &passed.response(415, "", "", ""));
    ladder.expect(20, "SIP/2.0 415");
    ladder.receive(20, &bob.request("INFO", "", ""));
    let passed = ladder.expect(10, "INFO");
    ladder.receive(10, &passed.response(481, "", "", ""));
    ladder.expect(20, "SIP/2.0 481");
    ladder.expect(20, "BYE");
    ladder.finish();
}

#[test]
fn other_methods_are_answered_here() {
    let Talk { mut ladder, mut alice, .. } = talk("", "");
    let mut check = |method: &str, answer: &str| {
        ladder.receive(10, &alice.request(method, "", ""));
        let answer = ladder.expect(10, answer);
        ladder.expect_nothing();
        answer
    };
    assert!(check("OPTIONS", "SIP/2.0 200").has(HeaderId::Allow));
    assert!(check("REFER", "SIP/2.0 405").has(HeaderId::Allow));
    check("MESSAGE", "SIP/2.0 405");
    check("SUBSCRIBE", "SIP/2.0 489");
    check("PRACK", "SIP/2.0 481");
}

#[test]
fn requests_out_of_order_are_500_and_of_no_dialog_481() {
    let Talk { mut ladder, mut alice, .. } = talk("", "");
    alice.cseq = 4;
    ladder.receive(10, &alice.request("INFO", "", ""));
    ladder.expect(10, "SIP/2.0 500");
    alice.cseq = 20;
    ladder.receive(10, &alice.request("BYE", "", "").replace(";tag=a1", ";tag=other"));
    ladder.expect(10, "SIP/2.0 481");
    assert!(ladder.call.is_up());
}

#[test]
fn the_flow_follows_the_phone() {
    let Talk { mut ladder, mut alice, mut bob } = talk("", "");
    let moved = Flow::udp(0, "192.0.2.10:40001".parse().unwrap());
    ladder.receive_from(moved, &alice.request("OPTIONS", "", ""));
    assert_eq!(ladder.expect(10, "SIP/2.0 200").flow, moved);
    ladder.receive(20, &bob.request("BYE", "", ""));
    assert_eq!(ladder.expect(10, "BYE").flow, moved);
}

/// A phone that sends from one port and listens on another, without NAT: its Contact says where.
#[test]
fn without_rport_requests_go_to_the_port_of_the_contact() {
    let Talk { mut ladder, mut alice, mut bob } = talk("", "");
    let from = Flow::udp(0, "192.0.2.10:40001".parse().unwrap());
    let update = alice.request("UPDATE", "", "").replace(";rport", "");
    ladder.receive_from(from, &update.replace("@192.0.2.10>", "@192.0.2.10:5080>"));
    ladder.take_sent();
    // What has no Contact leaves the target as it is.
    ladder.receive_from(from, &alice.request("OPTIONS", "", "").replace(";rport", ""));
    ladder.take_sent();
    ladder.receive(20, &bob.request("BYE", "", ""));
    assert_eq!(ladder.expect(10, "BYE").flow, Flow::udp(0, "192.0.2.10:5080".parse().unwrap()));
}

#[test]
fn we_refresh_for_a_phone_that_asks_us() {
    let Talk { mut ladder, .. } = talk("", "Allow: UPDATE\r\nRequire: timer\r\nSession-Expires: 600;refresher=uac\r\n");
    ladder.advance(Duration::from_secs(300));
    let refresh = ladder.expect(20, "UPDATE");
    assert_eq!(refresh.header(HeaderId::SessionExpires), "600;refresher=uac");
    ladder.receive(20, &refresh.response(200, "b1", "Session-Expires: 600;refresher=uac\r\n", ""));
    ladder.expect_nothing();
    ladder.advance(Duration::from_secs(300));
    let refresh = ladder.expect(20, "UPDATE");
    ladder.receive(20, &refresh.response(500, "b1", "", ""));
    ladder.advance(Duration::from_secs(4));
    let refresh = ladder.expect(20, "UPDATE");
    ladder.take_sent();
    ladder.receive(20, &refresh.response(481, "b1", "", ""));
    ladder.expect(10, "BYE");
    assert_eq!(ladder.finish().sip, 481);
}

#[test]
fn a_refresh_without_update_repeats_the_description() {
    let Talk { mut ladder, .. } = talk("", "Allow: INVITE\r\nRequire: timer\r\nSession-Expires: 600;refresher=uac\r\n");
    ladder.advance(Duration::from_secs(300));
    let refresh = ladder.expect(20, "INVITE");
    assert!(refresh.body().contains("m=audio"));
    ladder.receive(20, &refresh.response(200, "b1", "Session-Expires: 600;refresher=uac\r\n", &sdp(20, "")));
    ladder.expect(20, "ACK");
    ladder.expect_nothing();
    assert!(ladder.call.is_up());
}

#[test]
fn a_phone_that_does_not_refresh_is_hung_up() {
    let check = |caller: &str, callee: &str| {
        let Talk { mut ladder, .. } = talk(caller, callee);
        ladder.advance(Duration::from_secs(567));
        ladder.expect_nothing();
        ladder.advance(Duration::from_secs(2));
        ladder.expect(10, "BYE");
        ladder.expect(20, "BYE");
        let cause = ladder.finish();
        assert_eq!((cause.sip, cause.by), (408, By::Timer));
    };
    check("Supported: timer\r\nSession-Expires: 600;refresher=uac\r\n", "");
    check("", "Require: timer\r\nSession-Expires: 600;refresher=uas\r\n");
}

#[test]
fn a_refresh_of_the_phone_is_answered_here() {
    let Talk { mut ladder, mut alice, .. } = talk("Supported: timer\r\nSession-Expires: 600;refresher=uac\r\n", "");
    for _ in 0..4 {
        ladder.advance(Duration::from_secs(300));
        ladder.receive(10, &alice.request("UPDATE", "Supported: timer\r\nSession-Expires: 600;refresher=uac\r\n", ""));
        let answer = ladder.expect(10, "SIP/2.0 200");
        assert_eq!(answer.header(HeaderId::SessionExpires), "600;refresher=uac");
        assert_eq!(answer.header(HeaderId::Require), "timer");
        ladder.expect_nothing();
    }
    ladder.receive(10, &alice.request("UPDATE", "Supported: timer\r\nSession-Expires: 30\r\n", ""));
    assert_eq!(ladder.expect(10, "SIP/2.0 422").header(HeaderId::MinSe), "90");
    assert!(ladder.call.is_up());
}

#[test]
fn silence_ends_an_answered_call() {
    let Talk { mut ladder, .. } = talk("", "");
    let owner = Owner { call: Handle { slot: 5, generation: 9 }, leg: 1, media: 0 };
    let notice = Notice::Silent { since: ladder.now };
    ladder.step(CallInput::Media(MediaNotice { pair: PairId(0), owner, notice }));
    ladder.expect(10, "BYE");
    ladder.expect(20, "BYE");
    let cause = ladder.finish();
    assert_eq!((cause.text.as_str(), cause.by), ("media timeout", By::Timer));
}

#[test]
fn the_trace_is_bounded_and_tells_the_story() {
    let Talk { mut ladder, mut alice, .. } = talk("", "");
    for _ in 0..100 {
        ladder.receive(10, &alice.request("OPTIONS", "", ""));
    }
    let steps = ladder.call.trace();
    assert_eq!(steps.len(), 64);
    assert!(steps.iter().all(|step| step.reason == "OPTIONS received"));
}
