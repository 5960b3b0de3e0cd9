//! A call from INVITE to BYE, refusals, operators, faults, size.

use std::time::Duration;

use super::ladder::*;
use crate::machine::call::input::CallInput;
use crate::machine::call::input::Destination;
use crate::machine::media::command::MediaCommand;
use crate::machine::outbox::Aor;
use crate::wire::event::Body;
use crate::wire::event::By;
use crate::wire::link::CallState;
use crate::wire::sip::HeaderId;

#[test]
fn a_call_from_invite_to_bye() {
    let mut ladder = Ladder::new(&invite("", &sdp(10, "")), &[20]);
    ladder.expect(10, "SIP/2.0 100");
    let offer = ladder.expect(20, "INVITE sip:1002@192.0.2.20:5060;ob SIP/2.0\r\n");
    assert_eq!(offer.header(HeaderId::MaxForwards), "69");
    assert_eq!(offer.header(HeaderId::To), "<sip:1002@acme.test>");
    assert!(offer.header(HeaderId::From).starts_with("\"Alice\" <sip:1001@acme.test>;tag=tr1."));
    assert!(offer.header(HeaderId::CallId).starts_with("tr1."));
    assert!(!offer.text.contains("192.0.2.10") && !offer.text.contains("alice"), "{}", offer.text);
    assert!(offer.body().contains(&format!("c=IN IP4 {MEDIA}")));
    ladder.receive(20, &offer.response(180, "b1", "", ""));
    let ringing = ladder.expect(10, "SIP/2.0 180");
    assert_eq!(ringing.cseq(), 10);
    ladder.receive(20, &offer.response(200, "b1", "", &sdp(20, "")));
    let ack = ladder.expect(20, "ACK sip:b1@192.0.2.20:5060 SIP/2.0\r\n");
    assert!(ack.body().is_empty());
    let answer = ladder.expect(10, "SIP/2.0 200");
    assert_eq!(answer.tag(), ringing.tag());
    assert!(!answer.text.contains("192.0.2.20"), "{}", answer.text);
    assert_ne!(answer.port(), offer.port());
    let mut alice = Phone::alice(&answer);
    ladder.receive(10, &alice.ack(10, ""));
    assert_eq!(ladder.call.live().state, CallState::Up);
    let bridged = ladder.media.iter().filter(|command| matches!(command, MediaCommand::Bridge { .. })).count();
    assert!(bridged > 0);
    ladder.receive(10, &alice.request("BYE", "Reason: Q.850;cause=31\r\n", ""));
    ladder.expect(10, "SIP/2.0 200");
    let bye = ladder.expect(20, "BYE sip:b1@192.0.2.20:5060 SIP/2.0\r\n");
    assert_eq!(bye.header(HeaderId::Reason), "Q.850;cause=31");
    assert_eq!(bye.cseq(), offer.cseq() + 1);
    ladder.receive(20, &bye.response(200, "", "", ""));
    ladder.expect_nothing();
    let cause = ladder.finish();
    assert_eq!((cause.sip, cause.q850, cause.by), (200, 31, By::Caller));
    ladder.expect_nothing();
    let names: Vec<_> = ladder.events.iter().map(|(_, body)| body.name()).collect();
    assert_eq!(
        names,
        [
            "call.started",
            "leg.invited",
            "leg.ringing",
            "leg.answered",
            "call.answered",
            "leg.ended",
            "leg.ended",
            "media.reported",
            "media.reported",
            "call.ended"
        ]
    );
}

#[test]
fn the_callee_hangs_up() {
    let Talk { mut ladder, mut bob, .. } = talk("", "");
    ladder.receive(20, &bob.request("BYE", "", ""));
    ladder.expect(20, "SIP/2.0 200");
    let bye = ladder.expect(10, "BYE sip:1001@192.0.2.10:5060 SIP/2.0\r\n");
    ladder.receive(10, &bye.response(200, "", "", ""));
    assert_eq!(ladder.finish().by, By::Callee);
}

#[test]
fn every_reason_of_a_bye_is_carried_and_the_record_has_its_q850() {
    let Talk { mut ladder, mut bob, .. } = talk("", "");
    let reasons = "Reason: SIP;cause=200;text=\"a, b\"\r\nReason: Q.850;cause=31\r\n";
    ladder.receive(20, &bob.request("BYE", reasons, ""));
    ladder.expect(20, "SIP/2.0 200");
    let bye = ladder.expect(10, "BYE");
    assert_eq!(bye.header(HeaderId::Reason), "SIP;cause=200;text=\"a, b\", Q.850;cause=31");
    ladder.receive(10, &bye.response(200, "", "", ""));
    assert_eq!(ladder.finish().q850, 31);
}

#[test]
fn byes_that_cross_are_both_answered() {
    let Talk { mut ladder, mut alice, mut bob } = talk("", "");
    ladder.receive(20, &bob.request("BYE", "", ""));
    ladder.expect(20, "SIP/2.0 200");
    let bye = ladder.expect(10, "BYE");
    ladder.receive(10, &alice.request("BYE", "", ""));
    ladder.expect(10, "SIP/2.0 200");
    ladder.receive(10, &bye.response(481, "", "", ""));
    ladder.finish();
}

#[test]
fn an_unanswered_bye_is_repeated_and_given_up() {
    let Talk { mut ladder, mut alice, .. } = talk("", "");
    ladder.receive(10, &alice.request("BYE", "", ""));
    ladder.expect(10, "SIP/2.0 200");
    ladder.finish();
    assert_eq!(ladder.take_sent().len(), 11);
}

#[test]
fn retransmissions_get_the_same_bytes() {
    let text = invite("", &sdp(10, ""));
    let mut ladder = Ladder::new(&text, &[20]);
    let trying = ladder.expect(10, "SIP/2.0 100");
    ladder.receive(10, &text);
    assert_eq!(ladder.expect(10, "SIP/2.0 100"), trying);
    let offer = ladder.expect(20, "INVITE");
    ladder.advance(Duration::from_millis(600));
    assert_eq!(ladder.expect(20, "INVITE"), offer);
    ladder.receive(20, &offer.response(200, "b1", "", &sdp(20, "")));
    let ack = ladder.expect(20, "ACK");
    let answer = ladder.expect(10, "SIP/2.0 200");
    ladder.receive(20, &offer.response(200, "b1", "", &sdp(20, "")));
    assert_eq!(ladder.expect(20, "ACK"), ack);
    ladder.advance(Duration::from_millis(1600));
    assert_eq!(ladder.expect(10, "SIP/2.0 200"), answer);
    assert_eq!(ladder.expect(10, "SIP/2.0 200"), answer);
    ladder.receive(10, &Phone::alice(&answer).ack(10, ""));
    ladder.advance(Duration::from_secs(40));
    ladder.expect_nothing();
}

#[test]
fn an_answer_that_is_never_acknowledged_ends_the_call() {
    let mut ladder = Ladder::new(&invite("", &sdp(10, "")), &[20]);
    ladder.expect(10, "SIP/2.0 100");
    let offer = ladder.expect(20, "INVITE");
    ladder.receive(20, &offer.response(200, "b1", "", &sdp(20, "")));
    ladder.advance(Duration::from_secs(31));
    assert!(ladder.call.is_up());
    ladder.advance(Duration::from_secs(2));
    assert!(!ladder.call.is_up());
    let byes: Vec<_> = ladder.take_sent().into_iter().filter(|sent| sent.text.starts_with("BYE")).collect();
    assert!(byes.iter().any(|bye| bye.flow == flow(10)) && byes.iter().any(|bye| bye.flow == flow(20)));
    assert_eq!(ladder.finish().by, By::Timer);
}

/// RFC 3261 §15.
#[test]
fn the_callers_bye_waits_for_its_ack() {
    let mut ladder = Ladder::new(&invite("", &sdp(10, "")), &[20]);
    ladder.expect(10, "SIP/2.0 100");
    let offer = ladder.expect(20, "INVITE");
    ladder.receive(20, &offer.response(200, "b1", "", &sdp(20, "")));
    ladder.expect(20, "ACK");
    let answer = ladder.expect(10, "SIP/2.0 200");
    ladder.receive(20, &Phone::callee(20, &offer, "b1").request("BYE", "", ""));
    ladder.expect(20, "SIP/2.0 200");
    ladder.expect_nothing();
    ladder.receive(10, &Phone::alice(&answer).ack(10, ""));
    let bye = ladder.expect(10, "BYE");
    ladder.receive(10, &bye.response(200, "", "", ""));
    ladder.finish();
}

#[test]
fn who_is_not_there_is_480_and_who_is_not_known_404() {
    let check = |destination: Destination, status: &str| {
        let text = invite("", &sdp(10, ""));
        let mut ladder = Ladder::begin(&text, destination, 8);
        ladder.step(CallInput::Targets(Vec::new()));
        ladder.expect(10, "SIP/2.0 100");
        let refusal = ladder.expect(10, status);
        ladder.receive(10, &Phone::ack_failure(&text, &refusal));
        ladder.expect_nothing();
        ladder.finish();
        ladder.expect_nothing();
    };
    check(Destination::Phones(vec![Aor { tenant: "acme".to_owned(), user: "1002".to_owned() }]), "SIP/2.0 480");
    check(Destination::Refused { status: 404 }, "SIP/2.0 404");
}

#[test]
fn without_an_answer_about_bindings_the_call_fails() {
    let mut ladder = Ladder::begin(&invite("", &sdp(10, "")), Destination::Phones(Vec::new()), 8);
    ladder.expect(10, "SIP/2.0 100");
    ladder.advance(Duration::from_secs(3));
    ladder.expect(10, "SIP/2.0 500");
    ladder.finish();
}

#[test]
fn bodies_that_lead_nowhere_are_refused() {
    let check = |more: &str, body: &str, status: &str, header: HeaderId| {
        let mut ladder = Ladder::new(&invite(more, body), &[20]);
        ladder.expect(10, "SIP/2.0 100");
        let refusal = ladder.expect(10, status);
        assert!(refusal.has(header), "{}", refusal.text);
        ladder.finish();
        assert!(ladder.take_sent().iter().all(|sent| sent.flow == flow(10)));
    };
    check("Content-Type: text/plain\r\n", "hello", "SIP/2.0 415", HeaderId::Accept);
    check("", "v=0\r\nnonsense", "SIP/2.0 488", HeaderId::Warning);
    check("", &sdp(10, "").replace("RTP/AVP", "TCP/MSRP"), "SIP/2.0 488", HeaderId::Warning);
    check("Supported: timer\r\nSession-Expires: 60\r\n", &sdp(10, ""), "SIP/2.0 422", HeaderId::MinSe);
}

#[test]
fn optional_and_multipart_bodies_are_read() {
    let check = |more: &str, body: &str| {
        let mut ladder = Ladder::new(&invite(more, body), &[20]);
        ladder.expect(10, "SIP/2.0 100");
        ladder.expect(20, "INVITE")
    };
    let late = check("Content-Type: text/plain\r\nContent-Disposition: render;handling=optional\r\n", "hello");
    assert!(late.body().is_empty());
    let parts = format!(
        "--x1\r\nContent-Type: text/plain\r\nContent-Disposition: render;handling=optional\r\n\r\nhi\r\n--x1\r\nContent-Type: application/sdp\r\n\r\n{}--x1--\r\n",
        sdp(10, "")
    );
    let offer = check("Content-Type: multipart/mixed;boundary=x1\r\n", &parts);
    assert!(offer.body().contains("m=audio"));
}

#[test]
fn without_ports_the_answer_is_503() {
    let mut ladder = Ladder::with_ports(&invite("", &sdp(10, "")), &[20], 1);
    ladder.expect(10, "SIP/2.0 100");
    ladder.expect(10, "SIP/2.0 503");
    ladder.finish();
}

#[test]
fn an_operator_hangs_up() {
    let Talk { mut ladder, .. } = talk("", "");
    ladder.step(CallInput::Hangup { by: By::Operator, text: "cli".to_owned() });
    ladder.expect(10, "BYE");
    ladder.expect(20, "BYE");
    let cause = ladder.finish();
    assert_eq!((cause.by, cause.text.as_str()), (By::Operator, "cli"));
}

#[test]
fn a_fault_panics_and_abort_ends_the_last_state() {
    let Talk { mut ladder, .. } = talk("", "");
    let mut broken = ladder.call.clone();
    let fault = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        ladder.run(|_, cx, out| broken.handle(CallInput::Fault, cx, out));
    }));
    assert!(fault.is_err());
    let cause = crate::wire::event::Cause { sip: 500, q850: 41, text: "fault".to_owned(), by: By::System };
    ladder.run(|call, cx, out| call.abort(cause, "here".to_owned(), cx, out));
    ladder.expect(10, "BYE");
    ladder.expect(20, "BYE");
    assert!(ladder.has_event(|body| matches!(body, Body::CallFault { .. })));
    assert_eq!(ladder.finish().sip, 500);
}

#[test]
fn a_call_is_small() {
    let Talk { ladder, .. } =
        talk("Supported: timer, 100rel\r\n", "Require: timer\r\nSession-Expires: 1800;refresher=uas\r\n");
    let bytes = postcard::to_allocvec(&ladder.call).unwrap().len();
    let value = size_of_val(&ladder.call);
    assert!(bytes < 4 * 1024 && value < 1024, "an answered call: {bytes} bytes serialised, {value} bytes of struct");
}
