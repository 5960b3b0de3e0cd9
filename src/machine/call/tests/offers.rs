//! 100rel, late offers, re-INVITE and UPDATE.

use std::time::Duration;

use super::ladder::*;
use crate::machine::media::command::MediaCommand;
use crate::wire::event::Body;
use crate::wire::event::By;
use crate::wire::link::CallState;
use crate::wire::sip::HeaderId;

const HOLD: &str = "a=sendonly\r\n";

fn rack(response: &Sent) -> String {
    format!("RAck: {} {} INVITE\r\n", response.header(HeaderId::RSeq), response.cseq())
}

#[test]
fn a_reliable_callee_is_pracked_and_the_caller_need_not_know() {
    let mut ladder = Ladder::new(&invite("", &sdp(10, "")), &[20]);
    ladder.expect(10, "SIP/2.0 100");
    let offer = ladder.expect(20, "INVITE");
    assert!(offer.header(HeaderId::Supported).contains("100rel"));
    let progress = offer.response(183, "b", "Require: 100rel\r\nRSeq: 7\r\n", &sdp(20, ""));
    ladder.receive(20, &progress);
    let prack = ladder.expect(20, "PRACK sip:b@192.0.2.20:5060");
    assert_eq!(prack.header(HeaderId::RAck), "7 1 INVITE");
    let early = ladder.expect(10, "SIP/2.0 183");
    assert!(!early.has(HeaderId::RSeq) && early.body().contains("m=audio"));
    // A repeat and a gap are not processed.
    ladder.receive(20, &progress);
    ladder.receive(20, &offer.response(180, "b", "Require: 100rel\r\nRSeq: 9\r\n", ""));
    ladder.expect_nothing();
    ladder.receive(20, &prack.response(200, "", "", ""));
    ladder.receive(20, &offer.response(200, "b", "", ""));
    ladder.expect(20, "ACK");
    let answer = ladder.expect(10, "SIP/2.0 200");
    assert_eq!(answer.body(), early.body());
    ladder.finish();
}

#[test]
fn a_caller_with_100rel_gets_reliable_responses_from_a_callee_without() {
    let mut ladder = Ladder::new(&invite("Supported: 100rel\r\n", &sdp(10, "")), &[20]);
    ladder.expect(10, "SIP/2.0 100");
    let offer = ladder.expect(20, "INVITE");
    ladder.receive(20, &offer.response(180, "b", "", ""));
    let ringing = ladder.expect(10, "SIP/2.0 180");
    assert_eq!(ringing.header(HeaderId::Require), "100rel");
    ladder.receive(20, &offer.response(183, "b", "", &sdp(20, "")));
    ladder.expect_nothing();
    ladder.advance(Duration::from_millis(500));
    assert_eq!(ladder.expect(10, "SIP/2.0 180"), ringing);
    let mut alice = Phone::alice(&ringing);
    ladder.receive(10, &alice.request("PRACK", "RAck: 1 10 INVITE\r\n", ""));
    ladder.expect(10, "SIP/2.0 481");
    ladder.receive(10, &alice.request("PRACK", &rack(&ringing), ""));
    ladder.expect(10, "SIP/2.0 200");
    let progress = ladder.expect(10, "SIP/2.0 183");
    // RFC 3262 §3: the 2xx waits for the PRACK of a description.
    ladder.receive(20, &offer.response(200, "b", "", &sdp(20, "")));
    ladder.expect(20, "ACK");
    ladder.expect_nothing();
    ladder.receive(10, &alice.request("PRACK", &rack(&progress), ""));
    ladder.expect(10, "SIP/2.0 200");
    let answer = ladder.expect(10, "SIP/2.0 200");
    assert_eq!(answer.header(HeaderId::CSeq), "10 INVITE");
    ladder.receive(10, &alice.ack(10, ""));
    ladder.receive(10, &alice.request("BYE", "", ""));
    ladder.finish();
}

#[test]
fn without_a_prack_the_call_fails() {
    let mut ladder = Ladder::new(&invite("Require: 100rel\r\n", &sdp(10, "")), &[20]);
    ladder.expect(10, "SIP/2.0 100");
    let offer = ladder.expect(20, "INVITE");
    ladder.receive(20, &offer.response(180, "b", "", ""));
    ladder.advance(Duration::from_secs(33));
    assert!(ladder.take_sent().iter().any(|sent| sent.text.starts_with("SIP/2.0 504")));
    assert_eq!(ladder.finish().by, By::Timer);
}

#[test]
fn a_late_offer_comes_in_the_2xx_and_its_answer_in_the_ack() {
    let mut ladder = Ladder::new(&invite("", ""), &[20]);
    ladder.expect(10, "SIP/2.0 100");
    let request = ladder.expect(20, "INVITE");
    assert!(request.body().is_empty() && !request.header(HeaderId::Supported).contains("100rel"));
    ladder.receive(20, &request.response(180, "b", "", ""));
    ladder.expect(10, "SIP/2.0 180");
    ladder.receive(20, &request.response(200, "b", "", &sdp(20, "")));
    let offer = ladder.expect(10, "SIP/2.0 200");
    assert!(offer.body().contains(MEDIA) && !offer.text.contains("192.0.2.20"));
    ladder.receive(20, &request.response(200, "b", "", &sdp(20, "")));
    ladder.expect_nothing();
    let mut alice = Phone::alice(&offer);
    ladder.receive(10, &alice.ack(10, &sdp(10, "")));
    let ack = ladder.expect(20, "ACK");
    assert!(ack.body().contains(MEDIA) && !ack.text.contains("192.0.2.10"));
    assert_ne!(ack.port(), offer.port());
    ladder.receive(20, &request.response(200, "b", "", &sdp(20, "")));
    assert_eq!(ladder.expect(20, "ACK"), ack);
    ladder.receive(10, &alice.request("BYE", "", ""));
    ladder.finish();
}

#[test]
fn a_late_offer_without_an_answer_ends_the_call() {
    let mut ladder = Ladder::new(&invite("", ""), &[20]);
    ladder.expect(10, "SIP/2.0 100");
    let request = ladder.expect(20, "INVITE");
    ladder.receive(20, &request.response(200, "b", "", &sdp(20, "")));
    let offer = ladder.expect(10, "SIP/2.0 200");
    ladder.receive(10, &Phone::alice(&offer).ack(10, ""));
    ladder.expect(10, "BYE");
    ladder.expect(20, "ACK");
    ladder.expect(20, "BYE");
    assert_eq!(ladder.finish().sip, 488);
}

#[test]
fn a_late_offer_in_a_reliable_response_is_answered_in_pracks() {
    let mut ladder = Ladder::new(&invite("Supported: 100rel\r\n", ""), &[20]);
    ladder.expect(10, "SIP/2.0 100");
    let request = ladder.expect(20, "INVITE");
    ladder.receive(20, &request.response(183, "b", "Require: 100rel\r\nRSeq: 3\r\n", &sdp(20, "")));
    let offer = ladder.expect(10, "SIP/2.0 183");
    assert!(offer.body().contains(MEDIA));
    ladder.expect_nothing();
    let mut alice = Phone::alice(&offer);
    ladder.receive(10, &alice.request("PRACK", &rack(&offer), &sdp(10, "")));
    ladder.expect(10, "SIP/2.0 200");
    let prack = ladder.expect(20, "PRACK");
    assert_eq!(prack.header(HeaderId::RAck), "3 1 INVITE");
    assert!(prack.body().contains(MEDIA));
    ladder.receive(20, &prack.response(200, "", "", ""));
    ladder.receive(20, &request.response(200, "b", "", ""));
    ladder.expect(20, "ACK");
    let answer = ladder.expect(10, "SIP/2.0 200");
    assert!(answer.body().is_empty());
    ladder.finish();
}

#[test]
fn an_offer_in_prack_after_an_early_answer_is_carried_across() {
    let check = |allow: &str| {
        let mut ladder = Ladder::new(&invite("Supported: 100rel\r\n", &sdp(10, "")), &[20]);
        ladder.expect(10, "SIP/2.0 100");
        let offer = ladder.expect(20, "INVITE");
        let reliable = format!("{allow}Require: 100rel\r\nRSeq: 1\r\n");
        ladder.receive(20, &offer.response(183, "b", &reliable, &sdp(20, "")));
        let prack = ladder.expect(20, "PRACK");
        ladder.receive(20, &prack.response(200, "", "", ""));
        let early = ladder.expect(10, "SIP/2.0 183");
        let alice = Phone::alice(&early);
        (ladder, alice, offer, early)
    };
    let (mut ladder, mut alice, offer, early) = check("Allow: INVITE, UPDATE\r\n");
    ladder.receive(10, &alice.request("PRACK", &rack(&early), &sdp(10, HOLD)));
    let update = ladder.expect(20, "UPDATE");
    assert!(update.body().contains("a=sendonly") && update.body().contains(MEDIA));
    ladder.expect_nothing();
    ladder.receive(20, &update.response(200, "b", "", &sdp(20, "a=recvonly\r\n")));
    let answer = ladder.expect(10, "SIP/2.0 200");
    assert_eq!(answer.header(HeaderId::CSeq), "11 PRACK");
    assert!(answer.body().contains("a=recvonly") && answer.body().contains(MEDIA));
    ladder.receive(20, &offer.response(200, "b", "", ""));
    ladder.expect(20, "ACK");
    assert!(ladder.expect(10, "SIP/2.0 200").body().is_empty(), "all was said before");
    ladder.receive(10, &alice.ack(10, ""));
    ladder.receive(10, &alice.request("BYE", "", ""));
    ladder.finish();

    // RFC 3311 §5.2: nothing could carry it to a callee that knows no UPDATE.
    let (mut ladder, mut alice, offer, early) = check("Allow: INVITE\r\n");
    ladder.receive(10, &alice.request("PRACK", &rack(&early), &sdp(10, HOLD)));
    assert_eq!(ladder.expect(10, "SIP/2.0 504").header(HeaderId::CSeq), "11 PRACK");
    ladder.receive(20, &offer.response(486, "b", "", ""));
    ladder.finish();
}

#[test]
fn hold_and_resume_are_carried_across() {
    let Talk { mut ladder, mut alice, mut bob } = talk("", "");
    let hold = alice.request("INVITE", "", &sdp(10, HOLD));
    ladder.receive(10, &hold);
    ladder.expect(10, "SIP/2.0 100");
    let offer = ladder.expect(20, "INVITE sip:b1@");
    assert!(offer.body().contains("a=sendonly") && offer.body().contains(MEDIA));
    ladder.receive(10, &hold);
    ladder.expect(10, "SIP/2.0 100");
    ladder.receive(20, &offer.response(200, "b1", "", &sdp(20, "a=recvonly\r\n")));
    ladder.expect(20, "ACK");
    let answer = ladder.expect(10, "SIP/2.0 200");
    assert!(answer.body().contains("a=recvonly"));
    ladder.advance(Duration::from_millis(500));
    assert_eq!(ladder.expect(10, "SIP/2.0 200"), answer);
    ladder.receive(10, &alice.ack(alice.cseq, ""));
    assert_eq!(ladder.call.live().state, CallState::Held);
    assert!(ladder.has_event(|body| matches!(body, Body::Held { by: By::Caller })));
    // The callee resumes nothing of the caller's, but may offer too.
    let offer = bob.request("INVITE", "", &sdp(20, "a=inactive\r\n"));
    ladder.receive(20, &offer);
    ladder.expect(20, "SIP/2.0 100");
    let offer = ladder.expect(10, "INVITE sip:10@192.0.2.10");
    ladder.receive(10, &offer.response(200, "", "Contact: <sip:1001@192.0.2.10:5060>\r\n", &sdp(10, "a=inactive\r\n")));
    ladder.expect(10, "ACK");
    ladder.expect(20, "SIP/2.0 200");
    ladder.receive(20, &bob.ack(bob.cseq, ""));
    ladder.receive(10, &alice.request("INVITE", "", &sdp(10, "")));
    ladder.expect(10, "SIP/2.0 100");
    let offer = ladder.expect(20, "INVITE");
    ladder.receive(20, &offer.response(200, "b1", "", &sdp(20, "")));
    ladder.expect(20, "ACK");
    ladder.expect(10, "SIP/2.0 200");
    ladder.receive(10, &alice.ack(alice.cseq, ""));
    assert_eq!(ladder.call.live().state, CallState::Up);
    ladder.receive(20, &bob.request("BYE", "", ""));
    ladder.finish();
}

#[test]
fn a_reinvite_without_an_offer_asks_the_other_side() {
    let Talk { mut ladder, mut alice, .. } = talk("", "");
    ladder.receive(10, &alice.request("INVITE", "", ""));
    ladder.expect(10, "SIP/2.0 100");
    let request = ladder.expect(20, "INVITE");
    assert!(request.body().is_empty());
    ladder.receive(20, &request.response(200, "b1", "", &sdp(20, "")));
    let offer = ladder.expect(10, "SIP/2.0 200");
    assert!(offer.body().contains(MEDIA));
    ladder.expect_nothing();
    ladder.receive(10, &alice.ack(alice.cseq, &sdp(10, "")));
    assert!(ladder.expect(20, "ACK").body().contains(MEDIA));
    ladder.receive(10, &alice.request("BYE", "", ""));
    ladder.finish();
}

#[test]
fn a_refused_reinvite_leaves_the_call_as_it_was() {
    let Talk { mut ladder, mut alice, .. } = talk("", "");
    let hold = alice.request("INVITE", "", &sdp(10, HOLD));
    ladder.receive(10, &hold);
    ladder.expect(10, "SIP/2.0 100");
    let offer = ladder.expect(20, "INVITE");
    ladder.receive(20, &offer.response(488, "b1", "", ""));
    let ack = ladder.expect(20, "ACK");
    assert_eq!(ack.header(HeaderId::Via), offer.header(HeaderId::Via));
    let refusal = ladder.expect(10, "SIP/2.0 488");
    ladder.receive(10, &Phone::ack_failure(&hold, &refusal));
    ladder.advance(Duration::from_secs(10));
    ladder.expect_nothing();
    assert!(ladder.call.is_up());
    assert_eq!(ladder.call.live().state, CallState::Up);
}

/// Bob answers when nobody waits for it any more: each time an ACK, and nothing else.
fn answer_late(ladder: &mut Ladder, offer: &Sent, status: u16) {
    let answer = offer.response(status, "b1", "", "");
    for _ in 0..2 {
        ladder.receive(20, &answer);
        ladder.expect(20, "ACK");
    }
    ladder.expect_nothing();
}

#[test]
fn the_answer_to_a_reinvite_is_acknowledged_though_the_dialog_ended() {
    let check = |status: u16| {
        let Talk { mut ladder, mut alice, mut bob } = talk("", "");
        ladder.receive(10, &alice.request("INVITE", "", &sdp(10, HOLD)));
        ladder.expect(10, "SIP/2.0 100");
        let offer = ladder.expect(20, "INVITE");
        ladder.receive(20, &bob.request("BYE", "", ""));
        ladder.expect(20, "SIP/2.0 200");
        ladder.expect(10, "SIP/2.0 487");
        let bye = ladder.expect(10, "BYE");
        ladder.receive(10, &bye.response(200, "", "", ""));
        ladder.advance(Duration::from_secs(20));
        ladder.take_sent();
        assert!(!ladder.call.is_over());
        answer_late(&mut ladder, &offer, status);
    };
    check(481);
    check(200);
}

#[test]
fn the_answer_to_a_reinvite_that_was_given_up_is_acknowledged() {
    let check = |status: u16| {
        let Talk { mut ladder, mut alice, .. } = talk("", "");
        let hold = alice.request("INVITE", "", &sdp(10, HOLD));
        ladder.receive(10, &hold);
        ladder.expect(10, "SIP/2.0 100");
        let offer = ladder.expect(20, "INVITE");
        ladder.receive(20, &offer.response(180, "b1", "", ""));
        ladder.advance(Duration::from_secs(179));
        ladder.expect_nothing();
        ladder.advance(Duration::from_secs(1));
        let refusal = ladder.expect(10, "SIP/2.0 408");
        ladder.receive(10, &Phone::ack_failure(&hold, &refusal));
        for host in [10, 20] {
            let bye = ladder.expect(host, "BYE");
            ladder.receive(host, &bye.response(200, "", "", ""));
        }
        ladder.advance(Duration::from_secs(31));
        assert!(!ladder.call.is_over());
        answer_late(&mut ladder, &offer, status);
        assert_eq!(ladder.finish().sip, 408);
    };
    check(200);
    check(487);
}

#[test]
fn a_dialog_that_is_gone_ends_the_call() {
    let check = |status: u16| {
        let Talk { mut ladder, mut alice, .. } = talk("", "");
        ladder.receive(10, &alice.request("INVITE", "", &sdp(10, HOLD)));
        ladder.expect(10, "SIP/2.0 100");
        let offer = ladder.expect(20, "INVITE");
        ladder.receive(20, &offer.response(status, "b1", "", ""));
        ladder.expect(20, "ACK");
        let code = format!("SIP/2.0 {status}");
        ladder.expect(10, &code);
        ladder.expect(10, "BYE");
        assert_eq!(ladder.finish().sip, status);
    };
    check(481);
    check(408);
}

#[test]
fn offers_that_meet_get_491_and_a_second_of_the_same_side_500() {
    let Talk { mut ladder, mut alice, mut bob } = talk("", "");
    ladder.receive(10, &alice.request("INVITE", "", &sdp(10, HOLD)));
    ladder.expect(10, "SIP/2.0 100");
    let offer = ladder.expect(20, "INVITE");
    let other = bob.request("INVITE", "", &sdp(20, HOLD));
    ladder.receive(20, &other);
    ladder.expect(20, "SIP/2.0 100");
    let refusal = ladder.expect(20, "SIP/2.0 491");
    ladder.receive(20, &Phone::ack_failure(&other, &refusal));
    ladder.receive(20, &bob.request("UPDATE", "", &sdp(20, HOLD)));
    ladder.expect(20, "SIP/2.0 491");
    ladder.receive(10, &alice.request("INVITE", "", &sdp(10, "")));
    assert!(ladder.expect(10, "SIP/2.0 500").has(HeaderId::RetryAfter));
    // The other phone's own glare goes back to the offerer.
    ladder.receive(20, &offer.response(491, "b1", "", ""));
    ladder.expect(20, "ACK");
    ladder.expect(10, "SIP/2.0 491");
    assert!(ladder.call.is_up());
}

#[test]
fn update_is_carried_as_update_or_as_reinvite() {
    let Talk { mut ladder, mut alice, mut bob } = talk("", "Allow: INVITE, UPDATE\r\n");
    ladder.receive(10, &alice.request("UPDATE", "", &sdp(10, HOLD)));
    let offer = ladder.expect(20, "UPDATE");
    assert!(offer.body().contains("a=sendonly"));
    ladder.receive(20, &offer.response(200, "b1", "", &sdp(20, "a=recvonly\r\n")));
    let answer = ladder.expect(10, "SIP/2.0 200");
    assert!(answer.body().contains("a=recvonly") && answer.has(HeaderId::Contact));
    ladder.receive(20, &bob.request("BYE", "", ""));
    ladder.finish();

    let Talk { mut ladder, mut alice, .. } = talk("", "Allow: INVITE\r\n");
    let update = alice.request("UPDATE", "", &sdp(10, HOLD));
    ladder.receive(10, &update);
    let offer = ladder.expect(20, "INVITE");
    ladder.receive(10, &update);
    ladder.expect_nothing();
    ladder.receive(20, &offer.response(200, "b1", "", &sdp(20, "a=recvonly\r\n")));
    ladder.expect(20, "ACK");
    assert!(ladder.expect(10, "SIP/2.0 200").body().contains("a=recvonly"));
    ladder.receive(10, &alice.request("BYE", "", ""));
    ladder.finish();
}

#[test]
fn the_version_rises_only_with_a_change() {
    let Talk { mut ladder, mut alice, .. } = talk("", "");
    let mut origins = Vec::new();
    for more in ["", HOLD, HOLD, ""] {
        ladder.receive(10, &alice.request("INVITE", "", &sdp(10, more)));
        ladder.expect(10, "SIP/2.0 100");
        let offer = ladder.expect(20, "INVITE");
        let body = offer.body();
        let origin = body.lines().find(|line| line.starts_with("o=")).unwrap();
        origins.push(origin.split(' ').nth(2).unwrap().parse::<u64>().unwrap());
        ladder.receive(20, &offer.response(200, "b1", "", &sdp(20, "")));
        ladder.expect(20, "ACK");
        ladder.expect(10, "SIP/2.0 200");
        ladder.receive(10, &alice.ack(alice.cseq, ""));
    }
    assert_eq!(origins, [1, 2, 2, 3]);
    ladder.receive(10, &alice.request("BYE", "", ""));
    ladder.finish();
}

/// The relay's permissions for one side: pair and whether they were given or taken.
fn permits(ladder: &mut Ladder) -> Vec<bool> {
    let media = std::mem::take(&mut ladder.media);
    let permits = media.into_iter().filter_map(|command| match command {
        MediaCommand::Permit { on, .. } => Some(on),
        _ => None,
    });
    permits.collect()
}

/// RFC 3264 §5.1: who offers to receive is prepared to as soon as the offer is sent.
#[test]
fn what_a_resume_offers_to_receive_is_let_through_before_the_answer() {
    let Talk { mut ladder, mut alice, .. } = talk("", "");
    let mut renegotiate = |ladder: &mut Ladder, own: &str, status: u16, theirs: &str| {
        let offer = alice.request("INVITE", "", &sdp(10, own));
        ladder.receive(10, &offer);
        ladder.expect(10, "SIP/2.0 100");
        let carried = ladder.expect(20, "INVITE");
        let before = permits(ladder);
        let body = if status == 200 { sdp(20, theirs) } else { String::new() };
        ladder.receive(20, &carried.response(status, "b1", "", &body));
        ladder.expect(20, "ACK");
        let answer = ladder.expect(10, &format!("SIP/2.0 {status}"));
        let ack = if status == 200 { alice.ack(answer.cseq(), "") } else { Phone::ack_failure(&offer, &answer) };
        ladder.receive(10, &ack);
        (before, permits(ladder))
    };
    let none = Vec::<bool>::new();
    // To hold lets nothing through that was not before, and what is open needs no permission.
    assert_eq!(renegotiate(&mut ladder, HOLD, 200, "a=recvonly\r\n"), (none.clone(), none.clone()));
    // Refused: what was let through is no longer.
    assert_eq!(renegotiate(&mut ladder, "", 488, ""), (vec![true], vec![false]));
    assert_eq!(renegotiate(&mut ladder, "", 200, ""), (vec![true], none.clone()));
    assert_eq!(renegotiate(&mut ladder, "", 200, ""), (none.clone(), none));
}
