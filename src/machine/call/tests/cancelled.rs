//! CANCEL of a re-INVITE, and what a refused offer leaves behind: the session that was there before.

use std::collections::BTreeSet;
use std::time::Duration;

use super::ladder::*;
use crate::wire::event::By;
use crate::wire::link::CallState;
use crate::wire::sip::HeaderId;

const HOLD: &str = "a=sendonly\r\n";
const REASON: &str = "Reason: SIP ;cause=200\r\n";

fn version(description: &str) -> u64 {
    let origin = description.lines().find(|line| line.starts_with("o=")).unwrap();
    origin.split(' ').nth(2).unwrap().parse().unwrap()
}

/// Without the origin line.
fn content(description: &str) -> String {
    description.lines().filter(|line| !line.starts_with("o=")).collect()
}

/// Alice's re-INVITE has reached Bob, who has said nothing: the talk, what she sent, what he got.
fn asked() -> (Talk, String, Sent) {
    let mut talk = talk("", "Allow: INVITE\r\nRequire: timer\r\nSession-Expires: 600;refresher=uac\r\n");
    let hold = talk.alice.request("INVITE", "", &sdp(10, HOLD));
    talk.ladder.receive(10, &hold);
    talk.ladder.expect(10, "SIP/2.0 100");
    let offer = talk.ladder.expect(20, "INVITE");
    (talk, hold, offer)
}

/// As [`asked`], and Alice cancelled it while Bob was being asked; he hears the CANCEL and says no more.
fn cancelled() -> (Talk, String, Sent) {
    let (mut talk, hold, offer) = asked();
    talk.ladder.receive(20, &offer.response(180, "b1", "", ""));
    talk.ladder.receive(10, &Phone::cancel(&hold, ""));
    talk.ladder.expect(10, "SIP/2.0 200");
    let cancel = talk.ladder.expect(20, "CANCEL");
    talk.ladder.receive(20, &cancel.response(200, "", "", ""));
    (talk, hold, offer)
}

#[test]
fn the_other_phone_is_cancelled_and_the_session_stays_as_it_was() {
    let (Talk { mut ladder, .. }, hold, offer) = asked();
    ladder.receive(20, &offer.response(180, "b1", "", ""));
    ladder.receive(10, &Phone::cancel(&hold, REASON));
    assert_eq!(ladder.expect(10, "SIP/2.0 200").header(HeaderId::CSeq), "11 CANCEL");
    let cancel = ladder.expect(20, "CANCEL");
    for id in [HeaderId::Via, HeaderId::From, HeaderId::To, HeaderId::CallId] {
        assert_eq!(cancel.header(id), offer.header(id), "{id:?}");
    }
    let uri = |sent: &Sent| sent.text.split(' ').nth(1).unwrap().to_owned();
    assert_eq!((uri(&cancel), cancel.cseq()), (uri(&offer), offer.cseq()));
    assert_eq!(cancel.header(HeaderId::Reason), "SIP ;cause=200");
    // Once more, and it is repeated to a phone that does not hear.
    ladder.receive(10, &Phone::cancel(&hold, REASON));
    ladder.expect(10, "SIP/2.0 200");
    ladder.advance(Duration::from_millis(500));
    assert_eq!(ladder.expect(20, "CANCEL"), cancel);
    ladder.receive(20, &cancel.response(200, "", "", ""));
    ladder.receive(20, &offer.response(487, "b1", "", ""));
    ladder.expect(20, "ACK");
    let refusal = ladder.expect(10, "SIP/2.0 487");
    ladder.receive(10, &Phone::ack_failure(&hold, &refusal));
    ladder.advance(Duration::from_secs(40));
    ladder.expect_nothing();
    assert_eq!(ladder.call.live().state, CallState::Up);
    // A refresh says what was agreed, not what was taken back; its version has risen all the same.
    ladder.advance(Duration::from_millis(259_700));
    let refresh = ladder.expect(20, "INVITE");
    assert!(offer.body().contains("a=sendonly") && !refresh.body().contains("a=sendonly"));
    assert_eq!(version(&refresh.body()), version(&offer.body()) + 1);
    ladder.receive(20, &refresh.response(200, "b1", "Session-Expires: 600;refresher=uac\r\n", &sdp(20, "")));
    ladder.expect(20, "ACK");
    ladder.advance(Duration::from_secs(300));
    let again = ladder.expect(20, "INVITE");
    assert_eq!(again.body(), refresh.body());
}

#[test]
fn nothing_is_cancelled_before_the_phone_said_something() {
    let (Talk { mut ladder, .. }, hold, offer) = asked();
    ladder.receive(10, &Phone::cancel(&hold, ""));
    ladder.expect(10, "SIP/2.0 200");
    ladder.expect_nothing();
    ladder.receive(20, &offer.response(100, "", "", ""));
    ladder.expect(20, "CANCEL");
    ladder.receive(20, &offer.response(487, "b1", "", ""));
    ladder.expect(20, "ACK");
    ladder.expect(10, "SIP/2.0 487");
    assert!(ladder.call.is_up());
}

#[test]
fn an_answer_that_crosses_the_cancel_counts() {
    let (Talk { mut ladder, mut alice, .. }, hold, offer) = asked();
    ladder.receive(20, &offer.response(100, "", "", ""));
    ladder.receive(10, &Phone::cancel(&hold, ""));
    ladder.expect(10, "SIP/2.0 200");
    let cancel = ladder.expect(20, "CANCEL");
    ladder.receive(20, &offer.response(200, "b1", "", &sdp(20, "a=recvonly\r\n")));
    ladder.expect(20, "ACK");
    ladder.receive(20, &cancel.response(200, "", "", ""));
    assert!(ladder.expect(10, "SIP/2.0 200").body().contains("a=recvonly"));
    ladder.receive(10, &alice.ack(alice.cseq, ""));
    // Too late now: the 200 to a CANCEL, and no more.
    ladder.receive(10, &Phone::cancel(&hold, ""));
    ladder.expect(10, "SIP/2.0 200");
    ladder.advance(Duration::from_secs(5));
    ladder.expect_nothing();
    assert_eq!(ladder.call.live().state, CallState::Held);
    ladder.receive(10, &alice.request("BYE", "", ""));
    ladder.finish();
}

#[test]
fn a_phone_that_only_hears_the_cancel_keeps_the_call() {
    let (Talk { mut ladder, mut alice, .. }, hold, _) = cancelled();
    ladder.advance(Duration::from_secs(31));
    ladder.expect_nothing();
    ladder.advance(Duration::from_secs(2));
    let refusal = ladder.expect(10, "SIP/2.0 487");
    ladder.receive(10, &Phone::ack_failure(&hold, &refusal));
    assert!(ladder.call.is_up());
    ladder.receive(10, &alice.request("BYE", "", ""));
    assert_eq!(ladder.finish().by, By::Caller);
}

#[test]
fn an_answer_long_after_the_cancel_is_acknowledged_and_taken_back() {
    let check = |status: u16| {
        let (Talk { mut ladder, mut alice, .. }, hold, offer) = cancelled();
        ladder.advance(Duration::from_secs(33));
        let refusal = ladder.expect(10, "SIP/2.0 487");
        ladder.receive(10, &Phone::ack_failure(&hold, &refusal));
        ladder.take_sent();
        // No other INVITE while the answer may come.
        let again = alice.request("INVITE", "", &sdp(10, HOLD));
        ladder.receive(10, &again);
        ladder.expect(10, "SIP/2.0 100");
        let refusal = ladder.expect(10, "SIP/2.0 491");
        ladder.receive(10, &Phone::ack_failure(&again, &refusal));
        let answer =
            offer.response(status, "b1", "", &if status == 200 { sdp(20, "a=recvonly\r\n") } else { String::new() });
        ladder.receive(20, &answer);
        ladder.expect(20, "ACK");
        (ladder, alice, offer, answer)
    };
    let (mut ladder, mut alice, offer, answer) = check(200);
    let restored = ladder.expect(20, "INVITE");
    assert!(offer.body().contains("a=sendonly") && !restored.body().contains("a=sendonly"));
    assert_eq!(version(&restored.body()), version(&offer.body()) + 1);
    ladder.receive(20, &answer);
    ladder.expect(20, "ACK");
    ladder.receive(20, &restored.response(200, "b1", "", &sdp(20, "")));
    ladder.expect(20, "ACK");
    ladder.expect_nothing();
    assert_eq!(ladder.call.live().state, CallState::Up);
    ladder.receive(10, &alice.request("BYE", "", ""));
    ladder.finish();

    let (mut ladder, mut alice, _, answer) = check(487);
    ladder.receive(20, &answer);
    ladder.expect(20, "ACK");
    ladder.expect_nothing();
    ladder.receive(10, &alice.request("INVITE", "", &sdp(10, "")));
    ladder.expect(10, "SIP/2.0 100");
    ladder.expect(20, "INVITE");
}

#[test]
fn the_callee_cancels_its_own_as_well() {
    let Talk { mut ladder, mut bob, .. } = talk("", "");
    let hold = bob.request("INVITE", "", &sdp(20, HOLD));
    ladder.receive(20, &hold);
    ladder.expect(20, "SIP/2.0 100");
    let offer = ladder.expect(10, "INVITE");
    ladder.receive(10, &offer.response(180, "", "", ""));
    ladder.receive(20, &Phone::cancel(&hold, ""));
    ladder.expect(20, "SIP/2.0 200");
    ladder.expect(10, "CANCEL");
    ladder.receive(10, &offer.response(487, "", "", ""));
    ladder.expect(10, "ACK");
    ladder.expect(20, "SIP/2.0 487");
    let unknown = Phone::cancel(&hold, "").replace("z9hG4bK20", "z9hG4bKnone");
    ladder.receive(20, &unknown);
    ladder.expect(20, "SIP/2.0 481");
    assert!(ladder.call.is_up());
}

#[test]
fn a_hang_up_ends_a_cancelled_reinvite_too() {
    let (Talk { mut ladder, mut bob, .. }, hold, offer) = asked();
    ladder.receive(20, &offer.response(180, "b1", "", ""));
    ladder.receive(10, &Phone::cancel(&hold, ""));
    ladder.receive(20, &bob.request("BYE", "", ""));
    ladder.finish();
    // To the re-INVITE, and its repeats.
    let refusals: BTreeSet<String> =
        ladder.take_sent().into_iter().map(|sent| sent.text).filter(|text| text.starts_with("SIP/2.0 487")).collect();
    assert_eq!(refusals.len(), 1);
}

#[test]
fn a_refused_offer_is_forgotten() {
    let (Talk { mut ladder, .. }, hold, offer) = asked();
    ladder.receive(20, &offer.response(488, "b1", "", ""));
    ladder.expect(20, "ACK");
    let refusal = ladder.expect(10, "SIP/2.0 488");
    ladder.receive(10, &Phone::ack_failure(&hold, &refusal));
    ladder.advance(Duration::from_secs(300));
    let refresh = ladder.expect(20, "INVITE");
    assert_ne!(content(&refresh.body()), content(&offer.body()));
    assert_eq!(version(&refresh.body()), version(&offer.body()) + 1);
}

/// Alice asked Bob for an offer and cancelled that; his offer comes when it was given up. The ACK, and the next re-INVITE.
fn late_offer(more: &str) -> (Ladder, Sent, Sent) {
    let Talk { mut ladder, mut alice, .. } = talk("", "");
    let asks = alice.request("INVITE", "", "");
    ladder.receive(10, &asks);
    ladder.expect(10, "SIP/2.0 100");
    let asked = ladder.expect(20, "INVITE");
    assert!(asked.body().is_empty());
    ladder.receive(20, &asked.response(180, "b1", "", ""));
    ladder.receive(10, &Phone::cancel(&asks, ""));
    ladder.expect(10, "SIP/2.0 200");
    let cancel = ladder.expect(20, "CANCEL");
    ladder.receive(20, &cancel.response(200, "", "", ""));
    ladder.advance(Duration::from_secs(33));
    let refusal = ladder.expect(10, "SIP/2.0 487");
    ladder.receive(10, &Phone::ack_failure(&asks, &refusal));
    ladder.take_sent();
    let answer = asked.response(200, "b1", "", &sdp(20, more));
    ladder.receive(20, &answer);
    let ack = ladder.expect(20, "ACK");
    let restored = ladder.expect(20, "INVITE");
    // The same to a 2xx that comes again.
    ladder.receive(20, &answer);
    assert_eq!(ladder.expect(20, "ACK"), ack);
    ladder.receive(20, &restored.response(200, "b1", "", &sdp(20, "")));
    ladder.expect(20, "ACK");
    ladder.expect_nothing();
    assert_eq!(ladder.call.live().state, CallState::Up);
    (ladder, ack, restored)
}

#[test]
fn a_late_offer_to_a_reinvite_is_answered_with_what_was_agreed() {
    let (ladder, ack, restored) = late_offer("");
    assert!(ack.body().contains("m=audio ") && ack.port() == restored.port() && ack.port() != 0);
    assert_eq!(ack.body(), restored.body(), "the same description has the same version");
    assert!(ladder.owners.keys().any(|pair| ladder.pool.pair(*pair).unwrap().rtp.port() == ack.port()));
}

#[test]
fn what_does_not_fit_a_late_offer_is_refused_and_offered_again() {
    let video = "m=video 40002 RTP/AVP 31\r\n";
    let (_, ack, restored) = late_offer(video);
    assert!(ack.port() != 0 && ack.body().contains("m=video 0 RTP/AVP 31\r\n"), "{}", ack.body());
    assert!(!restored.body().contains("m=video"));
    let (_, ack, restored) = late_offer("a=sendonly\r\n");
    assert!(ack.port() == 0 && restored.port() != 0, "{}", ack.body());
    assert_eq!(version(&restored.body()), version(&ack.body()) + 1);
}
