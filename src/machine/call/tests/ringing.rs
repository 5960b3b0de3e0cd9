//! Forking, failures, CANCEL, early media.

use std::time::Duration;

use super::ladder::*;
use crate::machine::call::input::CallInput;
use crate::machine::call::input::Destination;
use crate::machine::media::command::MediaCommand;
use crate::machine::outbox::Target;
use crate::wire::event::Body;
use crate::wire::event::By;
use crate::wire::sip::HeaderId;

/// Alice calls phones 20, 21 …; their INVITEs.
fn ring(more: &str, hosts: &[u8]) -> (Ladder, Vec<Sent>) {
    let mut ladder = Ladder::new(&invite(more, &sdp(10, "")), hosts);
    ladder.expect(10, "SIP/2.0 100");
    let offers = hosts.iter().map(|host| ladder.expect(*host, "INVITE")).collect();
    (ladder, offers)
}

#[test]
fn all_contacts_ring_and_the_first_answer_wins() {
    let (mut ladder, offers) = ring("", &[20, 21]);
    assert_ne!(offers[0].port(), offers[1].port());
    assert_ne!(offers[0].header(HeaderId::CallId), offers[1].header(HeaderId::CallId));
    let in_use = ladder.pool.counts.in_use;
    for (offer, tag) in offers.iter().zip(["b", "c"]) {
        ladder.receive(
            offer.flow.peer.ip().to_string().rsplit('.').next().unwrap().parse().unwrap(),
            &offer.response(180, tag, "", ""),
        );
    }
    let first = ladder.expect(10, "SIP/2.0 180");
    let second = ladder.expect(10, "SIP/2.0 180");
    assert_ne!(first.tag(), second.tag());
    ladder.receive(21, &offers[1].response(200, "c", "", &sdp(21, "")));
    ladder.expect(21, "ACK");
    let cancel = ladder.expect(20, "CANCEL");
    assert_eq!(cancel.header(HeaderId::Via), offers[0].header(HeaderId::Via));
    assert!(cancel.header(HeaderId::Reason).contains("Call completed elsewhere"));
    assert!(ladder.pool.counts.in_use < in_use);
    let answer = ladder.expect(10, "SIP/2.0 200");
    assert_eq!(answer.tag(), second.tag());
    ladder.receive(20, &cancel.response(200, "b", "", ""));
    ladder.receive(20, &offers[0].response(487, "b", "", ""));
    ladder.expect(20, "ACK");
    let mut alice = Phone::alice(&answer);
    ladder.receive(10, &alice.ack(10, ""));
    ladder.receive(10, &alice.request("BYE", "", ""));
    ladder.expect(10, "SIP/2.0 200");
    ladder.expect(21, "BYE");
    ladder.finish();
}

#[test]
fn a_second_answer_is_acknowledged_and_hung_up() {
    let (mut ladder, offers) = ring("", &[20, 21]);
    ladder.receive(20, &offers[0].response(180, "b", "", ""));
    ladder.receive(21, &offers[1].response(200, "c", "", &sdp(21, "")));
    ladder.expect(20, "CANCEL");
    ladder.receive(20, &offers[0].response(200, "b", "", &sdp(20, "")));
    ladder.expect(20, "ACK");
    let bye = ladder.expect(20, "BYE");
    ladder.receive(20, &offers[0].response(200, "b", "", &sdp(20, "")));
    ladder.expect(20, "ACK");
    ladder.receive(20, &bye.response(200, "", "", ""));
    assert!(ladder.call.is_up());
    // Downstream of the winner's branch another phone answers too.
    ladder.expect(21, "ACK");
    ladder.receive(21, &offers[1].response(200, "d", "", &sdp(21, "")));
    ladder.expect(21, "ACK");
    ladder.expect(21, "BYE");
    ladder.step(CallInput::Hangup { by: By::Operator, text: String::new() });
    ladder.finish();
}

#[test]
fn the_best_failure_reaches_the_caller() {
    let check = |statuses: [u16; 2], expected: &str| {
        let (mut ladder, offers) = ring("", &[20, 21]);
        ladder.receive(20, &offers[0].response(statuses[0], "b", "", ""));
        ladder.expect(20, "ACK");
        ladder.receive(21, &offers[1].response(statuses[1], "c", "Reason: Q.850;cause=17\r\n", ""));
        ladder.expect(21, "ACK");
        let refusal = ladder.expect(10, expected);
        ladder.receive(10, &Phone::ack_failure(&invite("", ""), &refusal));
        ladder.finish();
        refusal
    };
    let refusal = check([404, 486], "SIP/2.0 486");
    assert_eq!(refusal.header(HeaderId::Reason), "Q.850;cause=17");
    check([486, 408], "SIP/2.0 486");
    let (mut ladder, offers) = ring("", &[20, 21]);
    let reasons = "Reason: SIP;cause=486\r\nReason: Q.850;cause=34;text=\"a, b\"\r\n";
    ladder.receive(20, &offers[0].response(486, "b", reasons, ""));
    ladder.receive(21, &offers[1].response(408, "c", "Reason: Q.850;cause=102\r\n", ""));
    let refusal = ladder.expect(10, "SIP/2.0 486");
    assert_eq!(refusal.header(HeaderId::Reason), "SIP;cause=486, Q.850;cause=34;text=\"a, b\"", "of whom it is");
    check([302, 503], "SIP/2.0 480");
    check([401, 407], "SIP/2.0 480");
    check([503, 500], "SIP/2.0 500");
}

#[test]
fn a_6xx_ends_the_ringing_elsewhere() {
    let (mut ladder, offers) = ring("", &[20, 21]);
    ladder.receive(21, &offers[1].response(180, "c", "", ""));
    ladder.expect(10, "SIP/2.0 180");
    ladder.receive(20, &offers[0].response(603, "b", "", ""));
    ladder.expect(20, "ACK");
    ladder.expect(21, "CANCEL");
    ladder.expect(10, "SIP/2.0 603");
    assert_eq!(ladder.finish().q850, 21);
}

#[test]
fn nobody_answers() {
    let (mut ladder, offers) = ring("", &[20]);
    ladder.receive(20, &offers[0].response(180, "b", "", ""));
    ladder.expect(10, "SIP/2.0 180");
    ladder.advance(Duration::from_secs(61));
    let refusal = ladder.expect(10, "SIP/2.0 480");
    assert!(refusal.header(HeaderId::Reason).contains("cause=19"));
    assert!(ladder.expect(20, "CANCEL").header(HeaderId::Reason).contains("cause=19"));
    assert_eq!(ladder.finish().by, By::Timer);
}

#[test]
fn a_phone_that_says_nothing_is_408() {
    let (mut ladder, _) = ring("", &[20]);
    ladder.advance(Duration::from_secs(33));
    assert_eq!(ladder.take_sent().iter().filter(|sent| sent.text.starts_with("INVITE")).count(), 6);
    assert_eq!(ladder.finish().sip, 408);
}

#[test]
fn the_caller_cancels() {
    let (mut ladder, offers) = ring("", &[20, 21]);
    ladder.receive(20, &offers[0].response(180, "b", "", ""));
    ladder.expect(10, "SIP/2.0 180");
    ladder.receive(10, &cancel("Reason: SIP;cause=200;text=\"elsewhere\"\r\n"));
    ladder.expect(10, "SIP/2.0 200");
    let refusal = ladder.expect(10, "SIP/2.0 487");
    assert!(ladder.expect(20, "CANCEL").header(HeaderId::Reason).contains("elsewhere"));
    // RFC 3261 §9.1: the other phone said nothing yet.
    ladder.expect_nothing();
    ladder.receive(21, &offers[1].response(100, "", "", ""));
    ladder.expect(21, "CANCEL");
    ladder.receive(10, &Phone::ack_failure(&invite("", ""), &refusal));
    ladder.receive(20, &offers[0].response(487, "b", "", ""));
    ladder.expect(20, "ACK");
    let cause = ladder.finish();
    assert_eq!((cause.sip, cause.by), (487, By::Caller));
}

#[test]
fn a_cancel_that_crosses_the_answer_changes_nothing() {
    let (mut ladder, offers) = ring("", &[20]);
    ladder.receive(20, &offers[0].response(200, "b", "", &sdp(20, "")));
    ladder.expect(20, "ACK");
    ladder.expect(10, "SIP/2.0 200");
    ladder.receive(10, &cancel(""));
    ladder.expect(10, "SIP/2.0 200 OK");
    assert!(ladder.call.is_up());
    ladder.expect_nothing();
}

#[test]
fn an_answer_that_crosses_our_cancel_is_hung_up() {
    let (mut ladder, offers) = ring("", &[20]);
    ladder.receive(20, &offers[0].response(180, "b", "", ""));
    ladder.receive(10, &cancel(""));
    ladder.expect(20, "CANCEL");
    ladder.receive(20, &offers[0].response(200, "b", "", &sdp(20, "")));
    ladder.expect(20, "ACK");
    let bye = ladder.expect(20, "BYE");
    assert!(!bye.has(HeaderId::Reason), "nobody else answered");
    ladder.receive(20, &bye.response(200, "", "", ""));
    assert_eq!(ladder.finish().sip, 487);
}

#[test]
fn a_cancel_for_another_transaction_is_481() {
    let (mut ladder, _) = ring("", &[20]);
    ladder.receive(10, &cancel("").replace("z9hG4bKalice1", "z9hG4bKother"));
    ladder.expect(10, "SIP/2.0 481");
    assert!(ladder.call.is_up());
}

#[test]
fn early_media_has_a_dialog_of_its_own_for_each_phone() {
    let (mut ladder, offers) = ring("", &[20, 21]);
    ladder.receive(20, &offers[0].response(183, "b", "", &sdp(20, "")));
    let first = ladder.expect(10, "SIP/2.0 183");
    assert!(first.body().contains(MEDIA) && !first.text.contains("192.0.2.20"));
    ladder.receive(21, &offers[1].response(183, "c", "", &sdp(21, "")));
    let second = ladder.expect(10, "SIP/2.0 183");
    assert_ne!(first.tag(), second.tag());
    let bridges = ladder.media.iter().filter(|command| matches!(command, MediaCommand::Bridge { .. })).count();
    assert_eq!(bridges, 1, "the first to bring media is heard");
    // The answer says nothing new: the caller gets what the 183 said.
    ladder.receive(21, &offers[1].response(200, "c", "", ""));
    let answer = ladder.expect(10, "SIP/2.0 200");
    assert_eq!((answer.tag(), answer.body()), (second.tag(), second.body()));
    let bridges = ladder.media.iter().filter(|command| matches!(command, MediaCommand::Bridge { .. })).count();
    assert_eq!(bridges, 2);
    ladder.finish();
}

#[test]
fn a_caller_that_ends_its_early_dialog_hangs_up() {
    let (mut ladder, offers) = ring("", &[20]);
    ladder.receive(20, &offers[0].response(180, "b", "", ""));
    let mut alice = Phone::alice(&ladder.expect(10, "SIP/2.0 180"));
    ladder.receive(10, &alice.request("BYE", "", ""));
    ladder.expect(10, "SIP/2.0 200");
    ladder.expect(10, "SIP/2.0 487");
    ladder.expect(20, "CANCEL");
    assert_eq!(ladder.finish().by, By::Caller);
}

#[test]
fn a_callee_that_wants_a_longer_session_is_asked_again() {
    let (mut ladder, offers) = ring("", &[20]);
    ladder.receive(20, &offers[0].response(422, "b", "Min-SE: 3600\r\n", ""));
    ladder.expect(20, "ACK");
    let again = ladder.expect(20, "INVITE");
    assert_eq!(again.header(HeaderId::SessionExpires), "3600");
    assert_eq!(again.header(HeaderId::CallId), offers[0].header(HeaderId::CallId));
    assert_eq!((again.cseq(), again.body()), (2, offers[0].body()));
    ladder.receive(20, &again.response(422, "b", "Min-SE: 3600\r\n", ""));
    ladder.expect(20, "ACK");
    ladder.expect(10, "SIP/2.0 500");
    ladder.finish();
}

#[test]
fn a_2xx_without_an_answer_fails_the_branch() {
    let (mut ladder, offers) = ring("", &[20]);
    ladder.receive(20, &offers[0].response(200, "b", "", ""));
    ladder.expect(20, "ACK");
    ladder.expect(20, "BYE");
    ladder.expect(10, "SIP/2.0 488");
    ladder.finish();
}

#[test]
fn a_connection_that_ends_takes_its_branch_along() {
    let (mut ladder, offers) = ring("", &[20, 21]);
    ladder.step(CallInput::FlowClosed(flow(20)));
    ladder.receive(21, &offers[1].response(180, "c", "", ""));
    ladder.expect(10, "SIP/2.0 180");
    ladder.step(CallInput::FlowClosed(flow(21)));
    ladder.expect(10, "SIP/2.0 480");
    ladder.finish();
}

#[test]
fn responses_of_others_change_nothing() {
    let (mut ladder, offers) = ring("", &[20]);
    let call_id = offers[0].header(HeaderId::CallId);
    ladder.receive(20, &offers[0].response(200, "b", "", &sdp(20, "")).replace(&call_id, "other"));
    ladder.receive(20, &offers[0].response(200, "b", "", &sdp(20, "")).replace("CSeq: 1 ", "CSeq: 7 "));
    ladder.expect_nothing();
    assert!(ladder.call.is_up());
}

/// A repeat that the network kept for long must not look like the answer of another phone.
#[test]
fn a_late_repeat_of_the_answer_does_not_hang_up() {
    let mut ladder = Ladder::new(&invite("", &sdp(10, "")), &[20]);
    ladder.expect(10, "SIP/2.0 100");
    let offer = ladder.expect(20, "INVITE");
    let ok = offer.response(200, "b", "", &sdp(20, ""));
    ladder.receive(20, &ok);
    ladder.expect(20, "ACK");
    let mut alice = Phone::alice(&ladder.expect(10, "SIP/2.0 200"));
    ladder.receive(10, &alice.ack(10, ""));
    ladder.receive(10, &alice.request("INVITE", "", &sdp(10, "a=sendonly\r\n")));
    ladder.expect(10, "SIP/2.0 100");
    let hold = ladder.expect(20, "INVITE");
    ladder.receive(20, &hold.response(200, "b", "", &sdp(20, "")));
    ladder.expect(20, "ACK");
    ladder.expect(10, "SIP/2.0 200");
    ladder.receive(20, &ok);
    ladder.expect_nothing();
}

#[test]
fn a_caller_that_knows_199_hears_which_phone_gave_up() {
    let check = |more: &str, wanted: bool| {
        let (mut ladder, offers) = ring(more, &[20, 21]);
        ladder.receive(20, &offers[0].response(180, "b", "", ""));
        let first = ladder.expect(10, "SIP/2.0 180");
        ladder.receive(21, &offers[1].response(180, "c", "", ""));
        ladder.expect(10, "SIP/2.0 180");
        ladder.receive(20, &offers[0].response(486, "b", "", ""));
        ladder.expect(20, "ACK");
        if wanted {
            let gone = ladder.expect(10, "SIP/2.0 199");
            assert_eq!((gone.tag(), gone.header(HeaderId::Reason)), (first.tag(), "SIP ;cause=486".to_owned()));
            assert!(gone.body().is_empty());
        }
        ladder.expect_nothing();
        // The last one's failure is the call's.
        ladder.receive(21, &offers[1].response(486, "c", "", ""));
        ladder.expect(10, "SIP/2.0 486");
        ladder.finish();
    };
    check("Supported: 199\r\n", true);
    check("", false);
}

#[test]
fn all_contacts_ring_at_once_whatever_their_q() {
    let destination = Destination::Phones(vec![target(20).aor]);
    let mut ladder = Ladder::begin(&invite("", &sdp(10, "")), destination, 64);
    let targets = [(20, 1_000), (21, 500), (22, 0)].map(|(host, q)| Target { q, ..target(host) });
    ladder.step(CallInput::Targets(targets.into()));
    for host in [20, 21, 22] {
        ladder.expect(host, "INVITE");
    }
}

#[test]
fn the_callee_learns_of_the_caller_what_the_directory_says() {
    let lies = "P-Asserted-Identity: <sip:boss@acme.test>\r\nP-Preferred-Identity: <sip:boss@acme.test>\r\n\
                Remote-Party-ID: <sip:boss@acme.test>\r\nIdentity: x\r\n";
    let (_, offers) = ring(lies, &[20]);
    assert!(!offers[0].text.contains("boss") && !offers[0].text.contains("Identity"), "{}", offers[0].text);
    assert!(offers[0].header(HeaderId::From).starts_with("\"Alice\" <sip:1001@acme.test>;tag="));
    let check = |privacy: &str, hidden: bool| {
        let (ladder, offers) = ring(privacy, &[20]);
        let from = offers[0].header(HeaderId::From);
        assert_eq!(from.starts_with("\"Anonymous\" <sip:anonymous@anonymous.invalid>;tag="), hidden, "{from}");
        assert_eq!(offers[0].text.contains("Alice") || offers[0].text.contains("1001"), !hidden, "{}", offers[0].text);
        // The record knows all the same.
        assert!(ladder.has_event(|body| matches!(body, Body::CallStarted { from, .. } if from == "1001")));
    };
    check("Privacy: id\r\n", true);
    check("Privacy: header;user;critical\r\n", true);
    check("Privacy: none\r\n", false);
}

/// RFC 3323 §4.1.1.3, also without Privacy: nothing that reaches the callee says who calls, and the record does.
#[test]
fn who_calls_as_anonymous_is_shown_so_and_recorded_as_who_it_is() {
    for from in [
        "\"Anonymous\" <sip:anonymous@anonymous.invalid>",
        "<sip:Anonymous@Anonymous.Invalid>",
        "<sip:c8oqz84zk7z@anonymous.invalid>",
        "\"Alice\" <sip:anonymous@acme.test>",
    ] {
        let more = "Supported: 100rel\r\nP-Preferred-Identity: \"Alice\" <sip:1001@acme.test>\r\nP-Asserted-Identity: <tel:1001>\r\n\
                    Remote-Party-ID: <sip:1001@acme.test>\r\nHistory-Info: <sip:1001@acme.test>;index=1\r\n\
                    Diversion: <sip:1001@acme.test>\r\nReferred-By: <sip:1001@acme.test>\r\nUser-Agent: Alice's phone\r\n\
                    Organization: Alice\r\nReply-To: <sip:1001@acme.test>\r\nCall-Info: <http://acme.test/1001.png>\r\n";
        let anonymous = |text: &str| text.replace("\"A\" <sip:1001@acme.test>", from);
        let described = sdp(10, "").replace("o=x ", "o=1001 ").replace("s=-", "s=Alice");
        let mut ladder = Ladder::new(&anonymous(&invite(more, &described)), &[20]);
        ladder.expect(10, "SIP/2.0 100");
        let offer = ladder.expect(20, "INVITE");
        ladder.receive(20, &offer.response(200, "b", "", &sdp(20, "")));
        let answer = ladder.expect(10, "SIP/2.0 200");
        let mut alice = Phone::alice(&answer);
        ladder.receive(10, &alice.ack(10, ""));
        ladder.receive(10, &alice.request("INVITE", more, &described));
        let again = ladder.expect(20, "ACK").text + &ladder.expect(20, "INVITE").text;
        ladder.receive(10, &alice.request("INFO", more, ""));
        let info = ladder.expect(20, "INFO").text;
        for text in [&offer.text, &again, &info] {
            let hides = ["1001", "Alice", "192.0.2.10"].iter().all(|told| !text.contains(told));
            assert!(hides, "{text}");
        }
        assert!(offer.header(HeaderId::From).starts_with("\"Anonymous\" <sip:anonymous@anonymous.invalid>;tag="));
        // The directory knows the name.
        let knows = |body: &Body| {
            matches!(body, Body::CallStarted { from, from_name, phone, .. }
                if from == "1001" && from_name == "Alice" && phone == "1001")
        };
        assert!(ladder.has_event(knows), "{from}");
        assert_eq!(ladder.call.live().from, "1001");
    }
}

/// Bob answers when his phone was given up for silent: it is let go.
fn lets_go(ladder: &mut Ladder, offer: &Sent) {
    let answer = offer.response(200, "b", "", &sdp(20, ""));
    ladder.receive(20, &answer);
    let ack = ladder.expect(20, "ACK");
    let bye = ladder.expect(20, "BYE sip:b@192.0.2.20:5060");
    ladder.receive(20, &answer);
    assert_eq!(ladder.expect(20, "ACK"), ack);
    ladder.receive(20, &bye.response(200, "", "", ""));
    ladder.expect_nothing();
    ladder.finish();
}

#[test]
fn an_answer_long_after_the_cancel_is_acknowledged_and_hung_up() {
    let ring = || {
        let mut ladder = Ladder::new(&invite("", &sdp(10, "")), &[20]);
        ladder.expect(10, "SIP/2.0 100");
        let offer = ladder.expect(20, "INVITE");
        ladder.receive(20, &offer.response(180, "b", "", ""));
        ladder.receive(10, &cancel(""));
        let heard = ladder.expect(20, "CANCEL");
        ladder.receive(20, &heard.response(200, "", "", ""));
        (ladder, offer)
    };
    for secs in [33, 63] {
        let (mut ladder, offer) = ring();
        ladder.advance(Duration::from_secs(secs));
        ladder.take_sent();
        assert!(!ladder.call.is_up() && !ladder.call.is_over(), "after {secs} s");
        lets_go(&mut ladder, &offer);
    }
    // A failure gets its ACK, too.
    let (mut ladder, offer) = ring();
    ladder.advance(Duration::from_secs(40));
    ladder.take_sent();
    ladder.receive(20, &offer.response(487, "b", "", ""));
    assert_eq!(ladder.expect(20, "ACK").header(HeaderId::Via), offer.header(HeaderId::Via));
    ladder.expect_nothing();
    // It is not waited for without end.
    let (mut ladder, _) = ring();
    ladder.advance(Duration::from_secs(65));
    assert!(ladder.call.is_over());
}

#[test]
fn an_answer_to_an_invite_that_nobody_seemed_to_hear_is_hung_up() {
    // Cancelled before it said anything, so that no CANCEL was sent; or given up for silent.
    for is_cancelled in [true, false] {
        let mut ladder = Ladder::new(&invite("", &sdp(10, "")), &[20]);
        let offer = ladder.expect(20, "INVITE");
        if is_cancelled {
            ladder.receive(10, &cancel(""));
        }
        ladder.advance(Duration::from_secs(40));
        ladder.take_sent();
        assert!(!ladder.call.is_up() && !ladder.call.is_over());
        lets_go(&mut ladder, &offer);
    }
}
