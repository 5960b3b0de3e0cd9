//! Answers have the m-lines of their offers, whatever a phone does (RFC 3264 §6, §8), in every message that may carry one.

use std::time::Duration;

use super::ladder::*;
use crate::wire::event::Body;
use crate::wire::sip::HeaderId;

const VIDEO: &str = "m=video 40002 RTP/AVP 96\r\na=rtpmap:96 VP8/90000\r\n";

/// Media and port (our own as 1) of each m-line.
fn streams(sent: &Sent) -> Vec<(String, bool)> {
    let body = sent.body();
    let lines = body.lines().filter_map(|line| line.strip_prefix("m="));
    lines.map(|line| (line.split(' ').next().unwrap().to_owned(), line.split(' ').nth(1) != Some("0"))).collect()
}

fn expected(lines: &[(&str, bool)]) -> Vec<(String, bool)> {
    lines.iter().map(|(media, used)| ((*media).to_owned(), *used)).collect()
}

fn both(host: u8) -> String {
    sdp(host, VIDEO)
}

/// Video first.
fn turned(host: u8) -> String {
    let audio = sdp(host, "");
    let at = audio.find("m=").unwrap();
    format!("{}{VIDEO}{}", &audio[..at], &audio[at..])
}

fn head(host: u8) -> String {
    let audio = sdp(host, "");
    audio[..audio.find("m=").unwrap()].to_owned()
}

/// What may be answered to audio and video, and what the offerer must see.
fn cases() -> Vec<(String, Vec<(String, bool)>)> {
    let (yes, no) = (true, false);
    vec![
        (both(20), expected(&[("audio", yes), ("video", yes)])),
        (sdp(20, ""), expected(&[("audio", yes), ("video", no)])),
        (turned(20), expected(&[("audio", yes), ("video", yes)])),
        (both(20) + "m=audio 40004 RTP/AVP 8\r\n", expected(&[("audio", yes), ("video", yes)])),
        (head(20) + VIDEO, expected(&[("audio", no), ("video", yes)])),
        (both(20).replace("40002 RTP/AVP", "40002 RTP/SAVP"), expected(&[("audio", yes), ("video", no)])),
        (both(20).replace("40002 RTP/AVP 96", "40002 udptl t38"), expected(&[("audio", yes), ("video", no)])),
    ]
}

#[test]
fn the_answer_to_an_invite() {
    for (answer, wanted) in cases() {
        let mut ladder = Ladder::new(&invite("", &both(10)), &[20]);
        ladder.expect(10, "SIP/2.0 100");
        let offer = ladder.expect(20, "INVITE");
        ladder.receive(20, &offer.response(183, "b", "", &answer));
        assert_eq!(streams(&ladder.expect(10, "SIP/2.0 183")), wanted, "{answer}");
        ladder.receive(20, &offer.response(200, "b", "", &answer));
        let ok = ladder.expect(10, "SIP/2.0 200");
        assert_eq!(streams(&ok), wanted, "{answer}");
        // One pair for each party and stream in use.
        assert_eq!(ladder.owners.len(), 2 * wanted.iter().filter(|(_, used)| *used).count(), "{answer}");
        let mut alice = Phone::alice(&ok);
        ladder.receive(10, &alice.ack(10, ""));
        ladder.receive(10, &alice.request("BYE", "", ""));
        ladder.finish();
    }
}

/// Both would talk, and nobody would hear: a clear refusal instead.
#[test]
fn an_answer_of_another_transport_alone_is_no_answer() {
    let mut ladder = Ladder::new(&invite("", &sdp(10, "")), &[20]);
    ladder.expect(10, "SIP/2.0 100");
    let offer = ladder.expect(20, "INVITE");
    ladder.receive(20, &offer.response(200, "b", "", &sdp(20, "").replace("RTP/AVP", "RTP/SAVP")));
    ladder.expect(20, "ACK");
    ladder.expect(20, "BYE");
    ladder.expect(10, "SIP/2.0 488");
    ladder.finish();
}

#[test]
fn the_answer_to_a_reinvite_and_an_update() {
    for method in ["INVITE", "UPDATE"] {
        for (answer, wanted) in cases() {
            let Talk { mut ladder, mut alice, .. } = talk("", "Allow: INVITE, UPDATE\r\n");
            ladder.receive(10, &alice.request(method, "", &both(10)));
            if method == "INVITE" {
                ladder.expect(10, "SIP/2.0 100");
            }
            let offer = ladder.expect(20, method);
            assert_eq!(streams(&offer), expected(&[("audio", true), ("video", true)]));
            ladder.receive(20, &offer.response(200, "b1", "", &answer));
            if method == "INVITE" {
                ladder.expect(20, "ACK");
            }
            assert_eq!(streams(&ladder.expect(10, "SIP/2.0 200")), wanted, "{method} {answer}");
            assert!(ladder.call.is_up());
        }
    }
}

/// It would open ports that nobody closes.
#[test]
fn an_answer_that_comes_after_the_end_is_not_agreed_on() {
    for method in ["INVITE", "UPDATE"] {
        let Talk { mut ladder, mut alice, .. } = talk("", "Allow: INVITE, UPDATE\r\n");
        ladder.receive(10, &alice.request(method, "", &both(10)));
        if method == "INVITE" {
            ladder.expect(10, "SIP/2.0 100");
        }
        let offer = ladder.expect(20, method);
        ladder.receive(10, &alice.request("BYE", "", ""));
        ladder.expect(10, "SIP/2.0 200");
        ladder.expect(10, "SIP/2.0 487");
        let bye = ladder.expect(20, "BYE");
        ladder.receive(20, &offer.response(200, "b1", "", &both(20)));
        if method == "INVITE" {
            ladder.expect(20, "ACK");
            ladder.receive(10, &alice.ack(alice.cseq - 1, ""));
        }
        ladder.receive(20, &bye.response(200, "b1", "", ""));
        ladder.finish();
    }
}

#[test]
fn the_answer_to_a_late_offer() {
    for (answer, wanted) in cases() {
        let answer = answer.replace("192.0.2.20", "192.0.2.10");
        // In the ACK of the first INVITE, and of a later one.
        let mut ladder = Ladder::new(&invite("", ""), &[20]);
        ladder.expect(10, "SIP/2.0 100");
        let request = ladder.expect(20, "INVITE");
        ladder.receive(20, &request.response(200, "b", "", &both(20)));
        let offer = ladder.expect(10, "SIP/2.0 200");
        let mut alice = Phone::alice(&offer);
        ladder.receive(10, &alice.ack(10, &answer));
        assert_eq!(streams(&ladder.expect(20, "ACK")), wanted, "{answer}");

        ladder.receive(10, &alice.request("INVITE", "", ""));
        ladder.expect(10, "SIP/2.0 100");
        let request = ladder.expect(20, "INVITE");
        ladder.receive(20, &request.response(200, "b", "", &both(20)));
        ladder.expect(10, "SIP/2.0 200");
        ladder.receive(10, &alice.ack(alice.cseq, &answer));
        assert_eq!(streams(&ladder.expect(20, "ACK")), wanted, "{answer}");
        // In a PRACK.
        let mut ladder = Ladder::new(&invite("Supported: 100rel\r\n", ""), &[20]);
        ladder.expect(10, "SIP/2.0 100");
        let request = ladder.expect(20, "INVITE");
        ladder.receive(20, &request.response(183, "b", "Require: 100rel\r\nRSeq: 3\r\n", &both(20)));
        let offer = ladder.expect(10, "SIP/2.0 183");
        let rack = format!("RAck: {} 10 INVITE\r\n", offer.header(HeaderId::RSeq));
        ladder.receive(10, &Phone::alice(&offer).request("PRACK", &rack, &answer));
        ladder.expect(10, "SIP/2.0 200");
        assert_eq!(streams(&ladder.expect(20, "PRACK")), wanted, "{answer}");
    }
}

#[test]
fn the_answer_to_an_offer_in_a_prack() {
    for (answer, wanted) in cases() {
        let mut ladder = Ladder::new(&invite("Supported: 100rel\r\n", &sdp(10, "")), &[20]);
        ladder.expect(10, "SIP/2.0 100");
        let offer = ladder.expect(20, "INVITE");
        let early = "Allow: INVITE, UPDATE\r\nRequire: 100rel\r\nRSeq: 1\r\n";
        ladder.receive(20, &offer.response(183, "b", early, &sdp(20, "")));
        ladder.expect(20, "PRACK");
        let progress = ladder.expect(10, "SIP/2.0 183");
        let rack = format!("RAck: {} 10 INVITE\r\n", progress.header(HeaderId::RSeq));
        ladder.receive(10, &Phone::alice(&progress).request("PRACK", &rack, &both(10)));
        let update = ladder.expect(20, "UPDATE");
        ladder.receive(20, &update.response(200, "b", "", &answer));
        assert_eq!(streams(&ladder.expect(10, "SIP/2.0 200")), wanted, "{answer}");
    }
}

/// A later offer of fewer streams is the phone's fault (RFC 3264 §8); the other side sees what is missing as out of use.
#[test]
fn a_later_offer_of_fewer_streams_is_padded_for_the_other_side() {
    let Talk { mut ladder, mut alice, mut bob } = talk("", "");
    let mut offer = |ladder: &mut Ladder, body: &str, answer: &str| {
        ladder.receive(10, &alice.request("INVITE", "", body));
        ladder.expect(10, "SIP/2.0 100");
        let carried = ladder.expect(20, "INVITE");
        ladder.receive(20, &carried.response(200, "b1", "", answer));
        ladder.expect(20, "ACK");
        let answer = ladder.expect(10, "SIP/2.0 200");
        ladder.receive(10, &alice.ack(answer.cseq(), ""));
        (streams(&carried), streams(&answer))
    };
    let two = expected(&[("audio", true), ("video", true)]);
    assert_eq!(offer(&mut ladder, &both(10), &both(20)), (two.clone(), two.clone()));
    let in_use = ladder.owners.len();
    let one = expected(&[("audio", true), ("video", false)]);
    let refused = both(20).replace("video 40002", "video 0");
    assert_eq!(offer(&mut ladder, &sdp(10, ""), &refused), (one.clone(), expected(&[("audio", true)])));
    assert_eq!(ladder.owners.len(), in_use - 2, "the ports of the video were given back");
    // A callee that answers as if nothing were missing brings no video back.
    assert_eq!(offer(&mut ladder, &sdp(10, ""), &both(20)), (one, expected(&[("audio", true)])));
    assert_eq!(ladder.owners.len(), in_use - 2);
    assert_eq!(offer(&mut ladder, &both(10), &both(20)), (two.clone(), two));
    assert_eq!(ladder.owners.len(), in_use);
    // The other side's next offer.
    ladder.receive(20, &bob.request("INVITE", "", &sdp(20, "")));
    ladder.expect(20, "SIP/2.0 100");
    let carried = ladder.expect(10, "INVITE");
    assert_eq!(streams(&carried), expected(&[("audio", true), ("video", false)]));
}

#[test]
fn all_streams_out_of_use_and_back() {
    for method in ["INVITE", "UPDATE"] {
        let Talk { mut ladder, mut alice, .. } = talk("", "Allow: INVITE, UPDATE\r\n");
        let in_use = ladder.owners.len();
        let mut offer = |ladder: &mut Ladder, body: &str, answer: &str| {
            ladder.receive(10, &alice.request(method, "", body));
            if method == "INVITE" {
                ladder.expect(10, "SIP/2.0 100");
            }
            let carried = ladder.expect(20, method);
            ladder.receive(20, &carried.response(200, "b1", "", answer));
            if method == "INVITE" {
                ladder.expect(20, "ACK");
            }
            let answer = ladder.expect(10, "SIP/2.0 200");
            if method == "INVITE" {
                ladder.receive(10, &alice.ack(answer.cseq(), ""));
            }
            (streams(&carried), streams(&answer))
        };
        let off = |host| sdp(host, "").replace("audio 40000", "audio 0");
        let none = expected(&[("audio", false)]);
        assert_eq!(offer(&mut ladder, &off(10), &off(20)), (none.clone(), none));
        assert_eq!(ladder.owners.len(), 0);
        // Nobody counts as silent without a stream.
        ladder.advance(Duration::from_secs(120));
        assert!(ladder.call.is_up());
        let one = expected(&[("audio", true)]);
        assert_eq!(offer(&mut ladder, &sdp(10, ""), &sdp(20, "")), (one.clone(), one));
        assert_eq!(ladder.owners.len(), in_use);
        assert!(!ladder.has_event(|body| matches!(body, Body::Held { .. })));
    }
    // From the start.
    let off = sdp(10, "").replace("audio 40000", "audio 0");
    let mut ladder = Ladder::new(&invite("", &off), &[20]);
    ladder.expect(10, "SIP/2.0 100");
    assert_eq!(streams(&ladder.expect(20, "INVITE")), expected(&[("audio", false)]));
    // Nothing that we relay is still no offer.
    let fax = head(10) + "m=image 5000 udptl t38\r\n";
    let mut ladder = Ladder::new(&invite("", &fax), &[20]);
    ladder.expect(10, "SIP/2.0 100");
    ladder.expect(10, "SIP/2.0 488");
}
