//! What a request and its refusal keep on their way from one phone to the other: Max-Forwards, Reason.

use super::ladder::*;
use crate::wire::sip::HeaderId;

const HOLD: &str = "a=sendonly\r\n";
const ALLOW: &str = "Allow: INVITE, UPDATE\r\n";
const REASON: &str = "Reason: Q.850;cause=58\r\nReason: SIP;cause=500;text=\"a, b\"\r\n";

fn with_hops(request: &str, hops: u8) -> String {
    request.replacen("Max-Forwards: 70", &format!("Max-Forwards: {hops}"), 1)
}

fn hops(sent: &Sent) -> String {
    sent.header(HeaderId::MaxForwards)
}

#[test]
fn what_is_carried_across_has_a_hop_less() {
    let Talk { mut ladder, mut alice, .. } = talk(ALLOW, ALLOW);
    ladder.receive(10, &with_hops(&alice.request("INFO", "", ""), 9));
    let passed = ladder.expect(20, "INFO");
    assert_eq!(hops(&passed), "8");
    ladder.receive(20, &passed.response(200, "", "", ""));
    ladder.expect(10, "SIP/2.0 200");
    ladder.receive(10, &with_hops(&alice.request("UPDATE", "", &sdp(10, HOLD)), 3));
    let passed = ladder.expect(20, "UPDATE");
    assert_eq!(hops(&passed), "2");
    ladder.receive(20, &passed.response(200, "b1", "", &sdp(20, "")));
    ladder.expect(10, "SIP/2.0 200");
    ladder.receive(10, &with_hops(&alice.request("INVITE", "", &sdp(10, "")), 1));
    ladder.expect(10, "SIP/2.0 100");
    let passed = ladder.expect(20, "INVITE");
    assert_eq!(hops(&passed), "0");
    ladder.receive(20, &passed.response(200, "b1", "", &sdp(20, "")));
    // An ACK is ours, and so is a BYE.
    assert_eq!(hops(&ladder.expect(20, "ACK")), "70");
    ladder.expect(10, "SIP/2.0 200");
    ladder.receive(10, &alice.ack(alice.cseq, ""));
    ladder.receive(10, &with_hops(&alice.request("BYE", "", ""), 1));
    ladder.expect(10, "SIP/2.0 200");
    assert_eq!(hops(&ladder.expect(20, "BYE")), "70");
}

#[test]
fn an_answer_in_prack_has_a_hop_less_and_a_prack_of_ours_has_all() {
    let mut ladder = Ladder::new(&invite("Supported: 100rel\r\n", ""), &[20]);
    ladder.expect(10, "SIP/2.0 100");
    let request = ladder.expect(20, "INVITE");
    ladder.receive(20, &request.response(183, "b", "Require: 100rel\r\nRSeq: 3\r\n", &sdp(20, "")));
    let offer = ladder.expect(10, "SIP/2.0 183");
    let rack = format!("RAck: {} 10 INVITE\r\n", offer.header(HeaderId::RSeq));
    let prack = Phone::alice(&offer).request("PRACK", &rack, &sdp(10, ""));
    ladder.receive(10, &with_hops(&prack, 5));
    ladder.expect(10, "SIP/2.0 200");
    assert_eq!(hops(&ladder.expect(20, "PRACK")), "4");
    ladder.receive(20, &request.response(180, "b", "Require: 100rel\r\nRSeq: 4\r\n", ""));
    assert_eq!(hops(&ladder.expect(20, "PRACK")), "70");
}

#[test]
fn the_reason_of_a_refusal_goes_to_the_other_side() {
    let refuse = |method: &str, body: &str| {
        let Talk { mut ladder, mut alice, .. } = talk(ALLOW, ALLOW);
        ladder.receive(10, &alice.request(method, "", body));
        if method == "INVITE" {
            ladder.expect(10, "SIP/2.0 100");
        }
        let passed = ladder.expect(20, method);
        ladder.receive(20, &passed.response(488, "b1", REASON, ""));
        let refusal = ladder.expect(10, "SIP/2.0 488");
        assert_eq!(refusal.header(HeaderId::Reason), "Q.850;cause=58, SIP;cause=500;text=\"a, b\"", "{method}");
    };
    refuse("INVITE", &sdp(10, HOLD));
    refuse("INVITE", "");
    refuse("UPDATE", &sdp(10, HOLD));
    refuse("INFO", "");
}

#[test]
fn an_answer_says_no_reason() {
    let Talk { mut ladder, mut alice, .. } = talk("", "");
    ladder.receive(10, &alice.request("INFO", "", ""));
    let passed = ladder.expect(20, "INFO");
    ladder.receive(20, &passed.response(200, "", REASON, ""));
    assert!(!ladder.expect(10, "SIP/2.0 200").has(HeaderId::Reason));
}
