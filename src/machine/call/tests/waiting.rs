//! While a request waits: Timestamp, the word each minute, and Expires (RFC 3261 §8.2.6.1, §13.3.1).

use std::time::Duration;

use super::ladder::*;
use crate::machine::call::input::CallInput;
use crate::machine::call::input::Destination;
use crate::wire::event::By;
use crate::wire::sip::HeaderId;

/// A ringing call whose ring time is long.
fn ring(more: &str, hosts: &[u8]) -> (Ladder, Vec<Sent>) {
    let destination = Destination::Phones(vec![target(20).aor]);
    let mut ladder = Ladder::begin(&invite(more, &sdp(10, "")), destination, 64);
    ladder.ring_at_most(Duration::from_secs(600));
    ladder.step(CallInput::Targets(hosts.iter().map(|host| target(*host)).collect()));
    ladder.expect(10, "SIP/2.0 100");
    let offers = hosts.iter().map(|host| ladder.expect(*host, "INVITE")).collect();
    (ladder, offers)
}

fn rack(response: &Sent) -> String {
    format!("RAck: {} 10 INVITE\r\n", response.header(HeaderId::RSeq))
}

#[test]
fn a_timestamp_is_in_every_100_and_in_what_is_answered_at_once() {
    let stamp = "Timestamp: 54.21 \r\n";
    let mut ladder = Ladder::new(&invite(stamp, &sdp(10, "")), &[20]);
    let is_stamped = |sent: &Sent| sent.header(HeaderId::Timestamp) == "54.21";
    let trying = ladder.expect(10, "SIP/2.0 100");
    assert!(is_stamped(&trying), "{}", trying.text);
    ladder.receive(10, &invite(stamp, &sdp(10, "")));
    assert_eq!(ladder.expect(10, "SIP/2.0 100"), trying);
    let offer = ladder.expect(20, "INVITE");
    assert!(!offer.has(HeaderId::Timestamp));
    // What a person has taken his time for says nothing about the way.
    ladder.receive(20, &offer.response(180, "b", "", ""));
    assert!(!ladder.expect(10, "SIP/2.0 180").has(HeaderId::Timestamp));
    ladder.receive(20, &offer.response(200, "b", "", &sdp(20, "")));
    ladder.expect(20, "ACK");
    let answer = ladder.expect(10, "SIP/2.0 200");
    assert!(!answer.has(HeaderId::Timestamp));
    let mut alice = Phone::alice(&answer);
    ladder.receive(10, &alice.ack(10, ""));
    let mut bob = Phone::callee(20, &offer, "b");
    ladder.receive(20, &bob.request("INVITE", stamp, &sdp(20, "")));
    assert!(is_stamped(&ladder.expect(20, "SIP/2.0 100")));
    let carried = ladder.expect(10, "INVITE");
    ladder.receive(10, &carried.response(200, "", "", &sdp(10, "")));
    ladder.expect(10, "ACK");
    assert!(!ladder.expect(20, "SIP/2.0 200").has(HeaderId::Timestamp));
    ladder.receive(20, &bob.ack(bob.cseq, ""));
    for method in ["OPTIONS", "UPDATE", "REFER"] {
        ladder.receive(10, &alice.request(method, stamp, ""));
        assert!(is_stamped(&ladder.expect(10, "SIP/2.0")), "{method}");
    }
    ladder.receive(10, &alice.request("INFO", stamp, ""));
    let info = ladder.expect(20, "INFO");
    ladder.receive(20, &info.response(200, "", "", ""));
    assert!(!ladder.expect(10, "SIP/2.0 200").has(HeaderId::Timestamp));
    ladder.receive(10, &alice.request("BYE", stamp, ""));
    assert!(is_stamped(&ladder.expect(10, "SIP/2.0 200")));
}

#[test]
fn the_caller_hears_each_minute_that_it_rings() {
    let (mut ladder, offers) = ring("", &[20, 21]);
    ladder.receive(21, &offers[1].response(183, "c", "", &sdp(21, "")));
    ladder.expect(10, "SIP/2.0 183");
    ladder.receive(20, &offers[0].response(100, "", "", ""));
    ladder.advance(Duration::from_secs(10));
    ladder.receive(20, &offers[0].response(180, "b", "", ""));
    ladder.receive(21, &offers[1].response(180, "c", "", ""));
    ladder.expect(10, "SIP/2.0 180");
    let ringing = ladder.expect(10, "SIP/2.0 180");
    for _ in 0..4 {
        ladder.advance(Duration::from_millis(59_900));
        ladder.expect_nothing();
        ladder.advance(Duration::from_millis(100));
        assert_eq!(ladder.expect(10, "SIP/2.0 180"), ringing);
        ladder.expect_nothing();
    }
    ladder.receive(20, &offers[0].response(200, "b", "", &sdp(20, "")));
    let mut alice = Phone::alice(&ladder.expect(10, "SIP/2.0 200"));
    ladder.receive(10, &alice.ack(10, ""));
    ladder.take_sent();
    ladder.advance(Duration::from_secs(200));
    assert!(ladder.take_sent().iter().all(|sent| sent.flow != flow(10)));
}

/// RFC 3262: each is a response of its own.
#[test]
fn a_reliable_caller_hears_it_in_responses_of_their_own() {
    for more in ["Supported: 100rel\r\n", "Require: 100rel\r\n"] {
        let (mut ladder, offers) = ring(more, &[20]);
        ladder.receive(20, &offers[0].response(183, "b", "", &sdp(20, "")));
        let mut last = ladder.expect(10, "SIP/2.0 183");
        let mut alice = Phone::alice(&last);
        ladder.receive(10, &alice.request("PRACK", &rack(&last), ""));
        ladder.expect(10, "SIP/2.0 200");
        for _ in 0..3 {
            ladder.advance(Duration::from_millis(59_900));
            ladder.expect_nothing();
            ladder.advance(Duration::from_millis(100));
            let again = ladder.expect(10, "SIP/2.0 183");
            let rseq = |sent: &Sent| sent.header(HeaderId::RSeq).parse::<u32>().unwrap();
            assert_eq!(rseq(&again), rseq(&last) + 1);
            assert!(again.body().is_empty(), "the answer was acknowledged");
            ladder.receive(10, &alice.request("PRACK", &rack(&again), ""));
            ladder.expect(10, "SIP/2.0 200");
            last = again;
        }
        ladder.expect_nothing();
    }
}

#[test]
fn a_caller_hears_something_though_no_phone_says_anything() {
    let check = |more: &str, hears: bool| {
        let (mut ladder, offers) = ring(more, &[20]);
        ladder.receive(20, &offers[0].response(100, "", "", ""));
        ladder.advance(Duration::from_secs(59));
        ladder.expect_nothing();
        ladder.advance(Duration::from_secs(1));
        let tag = hears.then(|| {
            let progress = ladder.expect(10, "SIP/2.0 183");
            assert!(progress.has(HeaderId::Contact) && progress.body().is_empty() && !progress.has(HeaderId::RSeq));
            progress.tag()
        });
        ladder.expect_nothing();
        ladder.receive(20, &offers[0].response(180, "b", "", ""));
        let ringing = ladder.expect(10, "SIP/2.0 180");
        assert!(tag.is_none_or(|tag| tag == ringing.tag()), "one dialog");
    };
    check("", true);
    check("Supported: 100rel\r\n", true);
    check("Require: 100rel\r\n", false);
}

#[test]
fn an_invitation_expires() {
    let check = |secs: u32, is_ringing: bool| {
        let (mut ladder, offers) = ring(&format!("Expires: {secs}\r\n"), &[20]);
        if is_ringing {
            ladder.receive(20, &offers[0].response(180, "b", "", ""));
            ladder.expect(10, "SIP/2.0 180");
        }
        if secs > 0 {
            ladder.advance(Duration::from_secs(secs.into()) - Duration::from_millis(1));
            ladder.take_sent();
            assert!(ladder.call.is_up());
        }
        ladder.advance(Duration::from_millis(1));
        let refusal = ladder.expect(10, "SIP/2.0 487");
        if is_ringing {
            let cancel = ladder.expect(20, "CANCEL");
            assert!(cancel.header(HeaderId::Reason).contains("cause=19"));
            ladder.receive(20, &cancel.response(200, "b", "", ""));
            ladder.receive(20, &offers[0].response(487, "b", "", ""));
            ladder.expect(20, "ACK");
        }
        ladder.receive(10, &Phone::ack_failure(&invite("", ""), &refusal));
        let cause = ladder.finish();
        assert_eq!((cause.sip, cause.q850, cause.by), (487, 19, By::Timer));
    };
    check(20, true);
    check(20, false);
    check(0, false);
    // An answer in time stays.
    let (mut ladder, offers) = ring("Expires: 20\r\n", &[20]);
    ladder.advance(Duration::from_secs(19));
    ladder.take_sent();
    ladder.receive(20, &offers[0].response(200, "b", "", &sdp(20, "")));
    let mut alice = Phone::alice(&ladder.expect(10, "SIP/2.0 200"));
    ladder.receive(10, &alice.ack(10, ""));
    ladder.advance(Duration::from_secs(60));
    assert!(ladder.call.is_up());
    // A ring time that is shorter counts.
    let mut ladder = Ladder::new(&invite("Expires: 4294967295\r\n", &sdp(10, "")), &[20]);
    let offer = ladder.expect(20, "INVITE");
    ladder.receive(20, &offer.response(180, "b", "", ""));
    ladder.advance(Duration::from_secs(61));
    assert!(ladder.take_sent().iter().any(|sent| sent.text.starts_with("SIP/2.0 480")));
}

#[test]
fn a_reinvite_expires_as_if_it_were_cancelled() {
    let Talk { mut ladder, mut alice, .. } = talk("", "");
    let hold = alice.request("INVITE", "Expires: 5\r\n", &sdp(10, "a=sendonly\r\n"));
    ladder.receive(10, &hold);
    ladder.expect(10, "SIP/2.0 100");
    let offer = ladder.expect(20, "INVITE");
    ladder.receive(20, &offer.response(180, "b1", "", ""));
    ladder.advance(Duration::from_millis(4_999));
    ladder.expect_nothing();
    ladder.advance(Duration::from_millis(1));
    let cancel = ladder.expect(20, "CANCEL");
    ladder.receive(20, &cancel.response(200, "", "", ""));
    ladder.receive(20, &offer.response(487, "b1", "", ""));
    ladder.expect(20, "ACK");
    let refusal = ladder.expect(10, "SIP/2.0 487");
    ladder.receive(10, &Phone::ack_failure(&hold, &refusal));
    ladder.advance(Duration::from_secs(20));
    ladder.expect_nothing();
    assert!(ladder.call.is_up());
}
