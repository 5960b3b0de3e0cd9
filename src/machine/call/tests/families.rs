//! A party whose media is of the other address family than its signalling: sound over our other address, or a clear refusal.

use super::ladder::*;
use crate::wire::sip::HeaderId;

fn sdp6(host: u8) -> String {
    sdp(host, "").replace("IN IP4 192.0.2.", "IN IP6 2001:db8::")
}

const FAR: &str = "301 tipring \"no media address of that family\"";

#[track_caller]
fn check_told(ladder: &Ladder) {
    assert!(
        ladder.call.trace().iter().any(|step| step.reason.contains("address family")),
        "{:#?}",
        ladder.call.trace()
    );
}

/// A caller over IPv4 that offers IPv6.
#[test]
fn an_offer_is_answered_from_our_address_of_its_family() {
    let mut ladder = Ladder::new(&invite("", &sdp6(10)), &[20]);
    ladder.expect(10, "SIP/2.0 100");
    let offer = ladder.expect(20, "INVITE");
    assert!(offer.body().contains(&format!("c=IN IP4 {MEDIA}\r\n")), "{}", offer.text);
    ladder.receive(20, &offer.response(200, "b1", "", &sdp(20, "")));
    ladder.expect(20, "ACK");
    let answer = ladder.expect(10, "SIP/2.0 200");
    assert!(answer.body().contains(&format!("c=IN IP6 {MEDIA_V6}\r\n")), "{}", answer.text);
    ladder.receive(10, &Phone::alice(&answer).ack(10, ""));
    assert!(ladder.call.is_up());
}

#[test]
fn an_offer_that_no_address_of_ours_fits_is_refused() {
    let mut ladder = Ladder::of_ipv4_alone(&invite("", &sdp6(10)));
    ladder.expect(10, "SIP/2.0 100");
    assert_eq!(ladder.expect(10, "SIP/2.0 488").header(HeaderId::Warning), FAR);
    check_told(&ladder);
    ladder.finish();
}

/// In its 183 and its 200, to an offer in the INVITE.
#[test]
fn an_answer_of_the_other_family_is_refused() {
    let mut ladder = Ladder::new(&invite("", &sdp(10, "")), &[20]);
    ladder.expect(10, "SIP/2.0 100");
    let offer = ladder.expect(20, "INVITE");
    ladder.receive(20, &offer.response(183, "b1", "", &sdp6(20)));
    assert_eq!(ladder.expect(10, "SIP/2.0 183").body(), "");
    ladder.receive(20, &offer.response(200, "b1", "", &sdp6(20)));
    ladder.expect(20, "ACK");
    assert!(ladder.expect(20, "BYE").header(HeaderId::Reason).contains("cause=488"));
    assert_eq!(ladder.expect(10, "SIP/2.0 488").header(HeaderId::Warning), FAR);
    check_told(&ladder);
    ladder.finish();
}

/// A 200 with an offer: of both families it may be, and so may the caller's answer in the ACK not.
#[test]
fn a_late_offer_of_the_other_family_gets_our_address_of_it() {
    for (answer, is_fine) in [(sdp(10, ""), true), (sdp6(10), false)] {
        let mut ladder = Ladder::new(&invite("", ""), &[20]);
        ladder.expect(10, "SIP/2.0 100");
        let request = ladder.expect(20, "INVITE");
        ladder.receive(20, &request.response(200, "b1", "", &sdp6(20)));
        let offer = ladder.expect(10, "SIP/2.0 200");
        assert!(offer.body().contains(&format!("c=IN IP4 {MEDIA}\r\n")), "{}", offer.text);
        ladder.receive(10, &Phone::alice(&offer).ack(10, &answer));
        let ack = ladder.expect(20, "ACK");
        assert_eq!(ladder.call.is_up(), is_fine);
        if is_fine {
            assert!(ack.body().contains(&format!("c=IN IP6 {MEDIA_V6}\r\n")), "{}", ack.text);
        } else {
            check_told(&ladder);
            assert_eq!(ladder.finish().sip, 488);
        }
    }
    let mut ladder = Ladder::of_ipv4_alone(&invite("", ""));
    ladder.expect(10, "SIP/2.0 100");
    let request = ladder.expect(20, "INVITE");
    ladder.receive(20, &request.response(200, "b1", "", &sdp6(20)));
    assert_eq!(ladder.expect(10, "SIP/2.0 488").header(HeaderId::Warning), FAR);
    ladder.finish();
}

#[test]
fn a_later_offer_moves_a_party_to_the_other_family_and_back() {
    for method in ["INVITE", "UPDATE"] {
        let Talk { mut ladder, mut alice, mut bob } = talk("", "Allow: INVITE, UPDATE\r\n");
        for (host, other, description, wanted) in [
            (10, 20, sdp6(10), MEDIA_V6),
            (20, 10, sdp6(20), MEDIA_V6),
            (10, 20, sdp(10, ""), MEDIA),
            (20, 10, sdp(20, ""), MEDIA),
        ] {
            let phone = if host == 10 { &mut alice } else { &mut bob };
            ladder.receive(host, &phone.request(method, "", &description));
            if method == "INVITE" {
                ladder.expect(host, "SIP/2.0 100");
            }
            let carried = ladder.expect(other, method);
            // The other one stays where it is.
            let is_v6 = carried.body().contains("IN IP6");
            let answer = if is_v6 { sdp6(other) } else { sdp(other, "") };
            ladder.receive(other, &carried.response(200, "", "", &answer));
            if method == "INVITE" {
                ladder.expect(other, "ACK");
            }
            let agreed = ladder.expect(host, "SIP/2.0 200");
            assert!(agreed.body().contains(&format!(" {wanted}\r\n")), "{method} {}", agreed.text);
            if method == "INVITE" {
                ladder.receive(host, &phone.ack(agreed.cseq(), ""));
            }
            ladder.expect_nothing();
            assert_eq!(ladder.owners.len(), 2);
        }
        ladder.receive(10, &alice.request("BYE", "", ""));
        ladder.expect(10, "SIP/2.0 200");
        let bye = ladder.expect(20, "BYE");
        ladder.receive(20, &bye.response(200, "", "", ""));
        ladder.finish();
    }
}

#[test]
fn a_later_answer_of_the_other_family_ends_the_call_and_a_later_offer_without_an_address_does_not() {
    for method in ["INVITE", "UPDATE"] {
        let Talk { mut ladder, mut alice, .. } = talk("", "Allow: INVITE, UPDATE\r\n");
        ladder.receive(10, &alice.request(method, "", &sdp(10, "a=ptime:30\r\n")));
        let carried = if method == "INVITE" { ladder.expect(10, "SIP/2.0 100") } else { ladder.expect(20, method) };
        let carried = if method == "INVITE" { ladder.expect(20, method) } else { carried };
        ladder.receive(20, &carried.response(200, "", "", &sdp6(20)));
        ladder.expect(10, "SIP/2.0 488");
        check_told(&ladder);
        assert_eq!(ladder.finish().sip, 488, "{method}");

        let mut ladder = Ladder::of_ipv4_alone(&invite("", &sdp(10, "")));
        ladder.expect(10, "SIP/2.0 100");
        let offer = ladder.expect(20, "INVITE");
        ladder.receive(20, &offer.response(200, "b1", "Allow: INVITE, UPDATE\r\n", &sdp(20, "")));
        ladder.expect(20, "ACK");
        let answer = ladder.expect(10, "SIP/2.0 200");
        let mut alice = Phone::alice(&answer);
        ladder.receive(10, &alice.ack(10, ""));
        ladder.receive(10, &alice.request(method, "", &sdp6(10)));
        if method == "INVITE" {
            ladder.expect(10, "SIP/2.0 100");
        }
        assert_eq!(ladder.expect(10, "SIP/2.0 488").header(HeaderId::Warning), FAR);
        ladder.expect_nothing();
        assert!(ladder.call.is_up());
    }
}
