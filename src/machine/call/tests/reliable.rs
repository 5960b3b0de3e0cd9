//! 100rel on either side: what waits for a PRACK, what does not, and PRACKs that come late (RFC 3262).

use std::time::Duration;

use super::ladder::*;
use crate::wire::event::By;
use crate::wire::sip::HeaderId;

const KNOWN: &str = "Supported: 100rel\r\n";

fn rack(response: &Sent) -> String {
    format!("RAck: {} {} INVITE\r\n", response.header(HeaderId::RSeq), response.cseq())
}

/// Alice, who knows 100rel, calls; the phones' INVITEs.
fn ring(body: &str, hosts: &[u8]) -> (Ladder, Vec<Sent>) {
    let mut ladder = Ladder::new(&invite(KNOWN, body), hosts);
    ladder.expect(10, "SIP/2.0 100");
    let offers = hosts.iter().map(|host| ladder.expect(*host, "INVITE")).collect();
    (ladder, offers)
}

/// RFC 3261 §13.3.1.4, for a callee with 100rel and one without.
#[test]
fn a_200_brings_the_answer_that_no_183_could_bring() {
    for reliable in [true, false] {
        let (mut ladder, offers) = ring(&sdp(10, ""), &[20]);
        let rseq = |number: u8| if reliable { format!("Require: 100rel\r\nRSeq: {number}\r\n") } else { String::new() };
        ladder.receive(20, &offers[0].response(180, "b", &rseq(1), ""));
        ladder.receive(20, &offers[0].response(183, "b", &rseq(2), &sdp(20, "")));
        ladder.receive(20, &offers[0].response(200, "b", "", ""));
        for _ in 0..if reliable { 2 } else { 0 } {
            let prack = ladder.expect(20, "PRACK");
            ladder.receive(20, &prack.response(200, "", "", ""));
        }
        ladder.expect(20, "ACK");
        let ringing = ladder.expect(10, "SIP/2.0 180");
        assert!(ringing.has(HeaderId::RSeq) && ringing.body().is_empty());
        let answer = ladder.expect(10, "SIP/2.0 200");
        assert!(answer.body().contains(MEDIA) && answer.port() > 0, "{}", answer.text);
        // The PRACK of the 180 was on its way.
        let mut alice = Phone::alice(&ringing);
        ladder.receive(10, &alice.request("PRACK", &rack(&ringing), ""));
        assert_eq!(ladder.expect(10, "SIP/2.0 200").header(HeaderId::CSeq), "11 PRACK");
        ladder.receive(10, &alice.request("PRACK", &rack(&ringing), ""));
        ladder.expect(10, "SIP/2.0 481");
        ladder.receive(10, &alice.ack(10, ""));
        ladder.expect_nothing();
        ladder.advance(Duration::from_secs(40));
        assert!(ladder.call.is_up());
        ladder.expect_nothing();
        ladder.receive(10, &alice.request("BYE", "", ""));
        ladder.finish();
    }
}

#[test]
fn a_200_waits_for_the_prack_of_a_description_and_repeats_nothing_meanwhile() {
    let (mut ladder, offers) = ring(&sdp(10, ""), &[20]);
    let early = "Require: 100rel\r\nRSeq: 1\r\n";
    ladder.receive(20, &offers[0].response(183, "b", early, &sdp(20, "")));
    ladder.receive(20, &offers[0].response(180, "b", "Require: 100rel\r\nRSeq: 2\r\n", ""));
    ladder.receive(20, &offers[0].response(200, "b", "", ""));
    let progress = ladder.expect(10, "SIP/2.0 183");
    assert!(progress.body().contains(MEDIA));
    for method in ["PRACK", "PRACK", "ACK"] {
        ladder.expect(20, method);
    }
    ladder.expect_nothing();
    let mut alice = Phone::alice(&progress);
    ladder.receive(10, &alice.request("PRACK", &rack(&progress), ""));
    ladder.expect(10, "SIP/2.0 200");
    // No 180 after the final response.
    assert_eq!(ladder.expect(10, "SIP/2.0 200").header(HeaderId::CSeq), "10 INVITE");
    ladder.receive(10, &alice.ack(10, ""));
    ladder.expect_nothing();
    ladder.receive(10, &alice.request("BYE", "", ""));
    ladder.finish();
}

#[test]
fn what_waits_for_a_prack_is_joined_by_status_and_no_answer_is_lost() {
    let (mut ladder, offers) = ring(&sdp(10, ""), &[20]);
    let say = |ladder: &mut Ladder, status: u16, body: &str| {
        ladder.receive(20, &offers[0].response(status, "b", "", body));
    };
    let (first, second) = (sdp(20, ""), sdp(20, "").replace("RTP/AVP 0 101", "RTP/AVP 0"));
    say(&mut ladder, 180, "");
    for (status, body) in
        [(181, ""), (182, ""), (183, ""), (180, ""), (183, &first), (181, ""), (183, &second), (180, "")]
    {
        say(&mut ladder, status, body);
    }
    assert_eq!(ladder.call.take_provisionals_joined(), 4);
    let mut response = ladder.expect(10, "SIP/2.0 180");
    let mut alice = Phone::alice(&response);
    let mut seen = Vec::new();
    for _ in 0..4 {
        ladder.receive(10, &alice.request("PRACK", &rack(&response), ""));
        ladder.expect(10, "SIP/2.0 200");
        response = ladder.expect(10, "SIP/2.0 18");
        seen.push((response.text[8..11].to_owned(), response.body().contains("RTP/AVP 0\r\n")));
    }
    let expected = [("182", false), ("181", false), ("183", true), ("180", false)];
    assert_eq!(seen, expected.map(|(status, has_answer)| (status.to_owned(), has_answer)));
    ladder.receive(10, &alice.request("PRACK", &rack(&response), ""));
    ladder.expect(10, "SIP/2.0 200");
    ladder.expect_nothing();
    ladder.receive(10, &cancel(""));
    ladder.take_sent();
}

/// RFC 3262 §3: "it MUST be prepared to process PRACK requests for those outstanding responses."
#[test]
fn a_prack_after_a_final_failure_is_answered_200_once() {
    let check = |end: &dyn Fn(&mut Ladder, &Sent), status: &str| {
        let (mut ladder, offers) = ring(&sdp(10, ""), &[20]);
        ladder.receive(20, &offers[0].response(180, "b", "", ""));
        let ringing = ladder.expect(10, "SIP/2.0 180");
        end(&mut ladder, &offers[0]);
        let refusal = loop {
            let sent = ladder.expect(10, "SIP/2.0");
            if sent.header(HeaderId::CSeq) == "10 INVITE" && !sent.has(HeaderId::RSeq) {
                break sent;
            }
        };
        assert!(refusal.text.starts_with(status), "{}", refusal.text);
        ladder.take_sent();
        let mut alice = Phone::alice(&ringing);
        let prack = alice.request("PRACK", &rack(&ringing), "");
        ladder.receive(10, &prack);
        ladder.expect(10, "SIP/2.0 200");
        ladder.receive(10, &alice.request("PRACK", &rack(&ringing), ""));
        ladder.expect(10, "SIP/2.0 481");
        // The 180 is not repeated.
        ladder.receive(10, &Phone::ack_failure(&invite("", ""), &refusal));
        ladder.advance(Duration::from_secs(3));
        assert!(ladder.take_sent().iter().all(|sent| sent.flow != flow(10)));
    };
    check(&|ladder, offer| ladder.receive(20, &offer.response(486, "b", "", "")), "SIP/2.0 486");
    check(&|ladder, _| ladder.receive(10, &cancel("")), "SIP/2.0 487");
    check(&|ladder, _| ladder.advance(Duration::from_secs(33)), "SIP/2.0 504");
}

#[test]
fn a_prack_for_the_phone_that_lost_is_answered_200() {
    let (mut ladder, offers) = ring(&sdp(10, ""), &[20, 21]);
    ladder.receive(20, &offers[0].response(180, "b", "", ""));
    ladder.receive(21, &offers[1].response(180, "c", "", ""));
    let (lost, won) = (ladder.expect(10, "SIP/2.0 180"), ladder.expect(10, "SIP/2.0 180"));
    ladder.receive(21, &offers[1].response(200, "c", "", &sdp(21, "")));
    let answer = ladder.expect(10, "SIP/2.0 200");
    assert_eq!(answer.tag(), won.tag());
    for ringing in [&lost, &won] {
        ladder.receive(10, &Phone::alice(ringing).request("PRACK", &rack(ringing), ""));
        ladder.expect(10, "SIP/2.0 200");
    }
    // An offer in it is for a session that is no more.
    let (mut ladder, offers) = ring(&sdp(10, ""), &[20]);
    ladder.receive(20, &offers[0].response(180, "b", "", ""));
    let ringing = ladder.expect(10, "SIP/2.0 180");
    ladder.receive(20, &offers[0].response(486, "b", "", ""));
    ladder.expect(10, "SIP/2.0 486");
    ladder.receive(10, &Phone::alice(&ringing).request("PRACK", &rack(&ringing), &sdp(10, "")));
    ladder.expect(10, "SIP/2.0 488");
}

/// The callee's offer is in a 183 that waits for the PRACK of a 180: the 200 has it, the answer comes in the ACK and goes on in
/// the PRACK.
#[test]
fn a_late_offer_that_waits_for_a_prack_comes_in_the_200() {
    let (mut ladder, offers) = ring("", &[20]);
    ladder.receive(20, &offers[0].response(180, "b", "Require: 100rel\r\nRSeq: 1\r\n", ""));
    ladder.receive(20, &offers[0].response(183, "b", "Require: 100rel\r\nRSeq: 2\r\n", &sdp(20, "")));
    ladder.receive(20, &offers[0].response(200, "b", "", ""));
    ladder.expect(20, "PRACK");
    let ringing = ladder.expect(10, "SIP/2.0 180");
    let offer = ladder.expect(10, "SIP/2.0 200");
    assert!(offer.body().contains(MEDIA), "{}", offer.text);
    ladder.expect_nothing();
    let mut alice = Phone::alice(&offer);
    // A description in this PRACK answers nothing: no offer was seen yet.
    ladder.receive(10, &alice.request("PRACK", &rack(&ringing), ""));
    ladder.expect(10, "SIP/2.0 200");
    ladder.receive(10, &alice.ack(10, &sdp(10, "")));
    let prack = ladder.expect(20, "PRACK");
    assert_eq!(prack.header(HeaderId::RAck), "2 1 INVITE");
    assert!(prack.body().contains(MEDIA));
    assert!(ladder.expect(20, "ACK").body().is_empty());
    ladder.receive(10, &alice.request("BYE", "", ""));
    assert_eq!(ladder.finish().by, By::Caller);
}

/// A callee that answers though the PRACK of its offer is not there yet (RFC 3262 §3 forbids it) has its answer nonetheless.
#[test]
fn a_callee_that_does_not_wait_for_the_prack_of_its_offer_is_served() {
    let (mut ladder, offers) = ring("", &[20]);
    ladder.receive(20, &offers[0].response(183, "b", "Require: 100rel\r\nRSeq: 5\r\n", &sdp(20, "")));
    let offer = ladder.expect(10, "SIP/2.0 183");
    ladder.receive(20, &offers[0].response(200, "b", "", ""));
    ladder.receive(20, &offers[0].response(200, "b", "", ""));
    ladder.expect_nothing();
    let mut alice = Phone::alice(&offer);
    ladder.receive(10, &alice.request("PRACK", &rack(&offer), &sdp(10, "")));
    ladder.expect(10, "SIP/2.0 200");
    let prack = ladder.expect(20, "PRACK");
    assert_eq!((prack.header(HeaderId::RAck), prack.body().contains(MEDIA)), ("5 1 INVITE".to_owned(), true));
    let ack = ladder.expect(20, "ACK");
    assert!(ack.body().is_empty());
    assert!(ladder.expect(10, "SIP/2.0 200").body().is_empty());
    ladder.receive(20, &offers[0].response(200, "b", "", ""));
    assert_eq!(ladder.expect(20, "ACK"), ack);
    ladder.receive(10, &alice.ack(10, ""));
    ladder.receive(10, &alice.request("BYE", "", ""));
    ladder.finish();
}

/// We never acknowledge a provisional response to a re-INVITE, so none may be sent reliably.
#[test]
fn a_reinvite_asks_for_no_reliable_responses() {
    let Talk { mut ladder, mut alice, .. } = talk("", "");
    ladder.receive(10, &alice.request("INVITE", KNOWN, &sdp(10, "a=sendonly\r\n")));
    ladder.expect(10, "SIP/2.0 100");
    let offer = ladder.expect(20, "INVITE");
    assert_eq!(offer.header(HeaderId::Supported), "timer");
    ladder.receive(20, &offer.response(200, "b1", "", &sdp(20, "")));
    ladder.expect(20, "ACK");
    assert_eq!(ladder.expect(10, "SIP/2.0 200").header(HeaderId::Supported), "100rel, timer");
}
