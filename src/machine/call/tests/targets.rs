//! Where requests go: what a Contact makes of a dialog's remote target (RFC 3261 §8.1.1.8, §12.1, §19.1.5).

use super::ladder::*;
use crate::wire::sip::HeaderId;

const FULL: &str =
    "Contact: <sip:x@192.0.2.10:5060;transport=udp;method=SUBSCRIBE;ob?Subject=hi&Route=%3Csip:evil%3E>\r\n";
const TARGET: &str = "sip:x@192.0.2.10:5060;transport=udp;ob SIP/2.0";

fn contact(text: &str, contact: &str) -> String {
    let line = text.lines().find(|line| line.starts_with("Contact:")).unwrap().to_owned();
    text.replace(&format!("{line}\r\n"), contact)
}

#[test]
fn an_invite_without_a_usable_contact_is_400() {
    for bad in [
        "",
        "Contact: *\r\n",
        "Contact: <tel:+15551234>\r\n",
        "Contact: <urn:service:sos>\r\n",
        "Contact: <http://x/>\r\n",
    ] {
        let invite = contact(&invite("", &sdp(10, "")), bad);
        let mut ladder = Ladder::new(&invite, &[20]);
        ladder.expect(10, "SIP/2.0 100");
        let refusal = ladder.expect(10, "SIP/2.0 400");
        assert!(refusal.header(HeaderId::Warning).contains("Contact"), "{bad}");
        ladder.expect_nothing();
        ladder.receive(10, &Phone::ack_failure(&invite, &refusal));
        assert_eq!(ladder.finish().sip, 400, "{bad}");
    }
    // One of several is enough.
    let invite = contact(&invite("", &sdp(10, "")), "Contact: <tel:+1555>\r\nContact: <sip:x@192.0.2.10>\r\n");
    let mut ladder = Ladder::new(&invite, &[20]);
    ladder.expect(10, "SIP/2.0 100");
    ladder.expect(20, "INVITE");
}

#[test]
fn an_invite_and_later_requests_give_a_clean_target() {
    let mut ladder = Ladder::new(&contact(&invite("", &sdp(10, "")), FULL), &[20]);
    ladder.expect(10, "SIP/2.0 100");
    let offer = ladder.expect(20, "INVITE");
    ladder.receive(20, &offer.response(200, "b", "", &sdp(20, "")));
    ladder.expect(20, "ACK");
    let mut alice = Phone::alice(&ladder.expect(10, "SIP/2.0 200"));
    let mut bob = Phone::callee(20, &offer, "b");
    ladder.receive(10, &alice.ack(10, ""));
    let check = |ladder: &mut Ladder, bob: &mut Phone, start: &str| {
        ladder.receive(20, &bob.request("INFO", "", ""));
        let info = ladder.expect(10, "INFO");
        assert!(info.text.starts_with(start), "{}", info.text);
        ladder.receive(10, &info.response(200, "", "", ""));
        ladder.expect(20, "SIP/2.0 200");
    };
    check(&mut ladder, &mut bob, &format!("INFO {TARGET}"));
    for (method, name) in [("INVITE", "y"), ("UPDATE", "z")] {
        let full = FULL.replace("sip:x@", &format!("sip:{name}@"));
        let body = if method == "INVITE" { sdp(10, "") } else { String::new() };
        ladder.receive(10, &contact(&alice.request(method, "", &body), &full));
        if method == "INVITE" {
            ladder.expect(10, "SIP/2.0 100");
            let offer = ladder.expect(20, "INVITE");
            ladder.receive(20, &offer.response(200, "b", "", &sdp(20, "")));
            ladder.expect(20, "ACK");
        }
        ladder.expect(10, "SIP/2.0 200");
        if method == "INVITE" {
            ladder.receive(10, &alice.ack(alice.cseq, ""));
        }
        check(&mut ladder, &mut bob, &format!("INFO {}", TARGET.replace("sip:x@", &format!("sip:{name}@"))));
        // One that nothing could be sent to is refused, none at all leaves the target as it is.
        for (bad, answer) in [("Contact: *\r\n", "400"), ("Contact: <tel:+1555>\r\n", "400"), ("", "200")] {
            ladder.receive(10, &contact(&alice.request(method, "", &body), bad));
            if method == "INVITE" {
                ladder.expect(10, "SIP/2.0 100");
            }
            if method == "INVITE" && answer == "200" {
                let offer = ladder.expect(20, "INVITE");
                ladder.receive(20, &offer.response(200, "b", "", &sdp(20, "")));
                ladder.expect(20, "ACK");
            }
            ladder.expect(10, &format!("SIP/2.0 {answer}"));
            if method == "INVITE" && answer == "200" {
                ladder.receive(10, &alice.ack(alice.cseq, ""));
            }
            check(&mut ladder, &mut bob, &format!("INFO {}", TARGET.replace("sip:x@", &format!("sip:{name}@"))));
        }
    }
}

/// The dialog of a response without a usable Contact goes to where the INVITE went.
#[test]
fn responses_give_a_clean_target_or_leave_it() {
    let bob = "Contact: <sip:b@192.0.2.20:5060;method=BYE?Subject=x>\r\n";
    let (registered, own) = ("sip:1002@192.0.2.20:5060;ob SIP/2.0", "sip:b@192.0.2.20:5060 SIP/2.0");
    for (bad, target) in
        [(bob, own), ("", registered), ("Contact: *\r\n", registered), ("Contact: <tel:1>\r\n", registered)]
    {
        for early in [true, false] {
            let mut ladder = Ladder::new(&invite("", &sdp(10, "")), &[20]);
            ladder.expect(10, "SIP/2.0 100");
            let offer = ladder.expect(20, "INVITE");
            if early {
                let progress = offer.response(183, "b", "Require: 100rel\r\nRSeq: 1\r\n", &sdp(20, ""));
                ladder.receive(20, &contact(&progress, bad));
                ladder.expect(10, "SIP/2.0 183");
                let prack = ladder.expect(20, "PRACK");
                assert!(prack.text.starts_with(&format!("PRACK {target}")), "{bad}: {}", prack.text);
                ladder.receive(20, &prack.response(200, "", "", ""));
            }
            ladder.receive(20, &contact(&offer.response(200, "b", "", &sdp(20, "")), bad));
            let ack = ladder.expect(20, "ACK");
            assert!(ack.text.starts_with(&format!("ACK {target}")), "{bad}: {}", ack.text);
            let mut alice = Phone::alice(&ladder.expect(10, "SIP/2.0 200"));
            ladder.receive(10, &alice.ack(10, ""));
            // So does a 2xx to a later offer.
            ladder.receive(10, &alice.request("INVITE", "", &sdp(10, "")));
            ladder.expect(10, "SIP/2.0 100");
            let offer = ladder.expect(20, "INVITE");
            ladder.receive(20, &contact(&offer.response(200, "b", "", &sdp(20, "")), bad));
            ladder.expect(20, &format!("ACK {target}"));
            ladder.expect(10, "SIP/2.0 200");
            ladder.receive(10, &alice.ack(alice.cseq, ""));
            ladder.receive(10, &alice.request("BYE", "", ""));
            ladder.expect(20, &format!("BYE {target}"));
            ladder.finish();
        }
    }
}
