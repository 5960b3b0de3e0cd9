//! What a phone's refusal says beside its status reaches whoever asked (RFC 3261 §21.4), and a refused request changes nothing (§8.2).

use std::time::Duration;

use super::ladder::*;
use crate::wire::sip::HeaderId;

const SAID: &str = "Accept: application/sdp, application/x\r\nAccept-Encoding: gzip\r\nAccept-Language: en\r\nUnsupported: foo\r\n\
                    Allow: INVITE\r\nRetry-After: 7\r\nRecv-Info: bar\r\nReason: Q.850;cause=79\r\n\
                    Warning: 399 192.0.2.20:5060 \"not so\", 307 phone \"of 192.0.2.20\", 301 phone \"no IPv6\"\r\n";

/// What is to be seen of `SAID` beside Reason and Warning.
fn expected(status: u16) -> &'static [(HeaderId, &'static str)] {
    match status {
        405 => &[(HeaderId::Allow, "INVITE")],
        415 => &[
            (HeaderId::Accept, "application/sdp, application/x"),
            (HeaderId::AcceptEncoding, "gzip"),
            (HeaderId::AcceptLanguage, "en"),
        ],
        420 => &[(HeaderId::Unsupported, "foo")],
        480 | 486 | 600 => &[(HeaderId::RetryAfter, "7")],
        _ => &[],
    }
}

#[track_caller]
fn check(refusal: &Sent, status: u16) {
    let said = [
        HeaderId::Accept,
        HeaderId::AcceptEncoding,
        HeaderId::AcceptLanguage,
        HeaderId::Unsupported,
        HeaderId::Allow,
        HeaderId::RetryAfter,
        HeaderId::RecvInfo,
    ];
    for id in said {
        let wanted = expected(status).iter().find(|(wanted, _)| *wanted == id).map_or("", |(_, value)| *value);
        assert_eq!(refusal.header(id), wanted, "{status} {id:?}");
    }
    assert_eq!(refusal.header(HeaderId::Reason), "Q.850;cause=79", "{status}");
    let warnings: Vec<_> = refusal.text.lines().filter(|line| line.starts_with("Warning")).collect();
    assert_eq!(warnings, ["Warning: 399 tipring \"not so\"", "Warning: 301 tipring \"no IPv6\""], "{status}");
    assert!(!refusal.text.contains("192.0.2.20"), "{}", refusal.text);
}

const STATUSES: [u16; 9] = [405, 406, 415, 420, 480, 486, 488, 600, 606];

#[test]
fn of_an_invite() {
    for status in STATUSES {
        let mut ladder = Ladder::new(&invite("", &sdp(10, "")), &[20]);
        ladder.expect(10, "SIP/2.0 100");
        let offer = ladder.expect(20, "INVITE");
        ladder.receive(20, &offer.response(status, "b1", SAID, ""));
        ladder.expect(20, "ACK");
        check(&ladder.expect(10, &format!("SIP/2.0 {status}")), status);
        ladder.finish();
    }
}

#[test]
fn of_what_is_carried_in_a_dialog() {
    for method in ["INVITE", "UPDATE", "INFO"] {
        for status in STATUSES {
            let Talk { mut ladder, mut alice, .. } = talk("", "Allow: INVITE, UPDATE, INFO\r\n");
            let body = if method == "INFO" { String::new() } else { sdp(10, "a=ptime:30\r\n") };
            ladder.receive(10, &alice.request(method, "", &body));
            if method == "INVITE" {
                ladder.expect(10, "SIP/2.0 100");
            }
            let carried = ladder.expect(20, method);
            ladder.receive(20, &carried.response(status, "", SAID, ""));
            if method == "INVITE" {
                ladder.expect(20, "ACK");
            }
            check(&ladder.expect(10, &format!("SIP/2.0 {status}")), status);
            assert!(ladder.call.is_up());
        }
    }
}

/// A phone that gives no list: ours, where we read the body ourselves.
#[test]
fn a_415_has_always_a_list_of_what_is_taken() {
    let mut ladder = Ladder::new(&invite("", &sdp(10, "")), &[20]);
    ladder.expect(10, "SIP/2.0 100");
    let offer = ladder.expect(20, "INVITE");
    ladder.receive(20, &offer.response(415, "b1", "", ""));
    ladder.expect(20, "ACK");
    assert_eq!(ladder.expect(10, "SIP/2.0 415").header(HeaderId::Accept), "application/sdp");
    for method in ["INVITE", "UPDATE"] {
        let Talk { mut ladder, mut alice, .. } = talk("", "Allow: INVITE, UPDATE\r\n");
        ladder.receive(10, &alice.request(method, "", &sdp(10, "a=ptime:30\r\n")));
        if method == "INVITE" {
            ladder.expect(10, "SIP/2.0 100");
        }
        let carried = ladder.expect(20, method);
        ladder.receive(20, &carried.response(415, "", "", ""));
        if method == "INVITE" {
            ladder.expect(20, "ACK");
        }
        assert_eq!(ladder.expect(10, "SIP/2.0 415").header(HeaderId::Accept), "application/sdp", "{method}");
    }
}

const FOREIGN: &str = "Content-Type: application/x\r\nContent-Disposition: render;handling=required\r\n";

#[test]
fn a_refused_prack_acknowledges_nothing() {
    // The first: nobody understands it. The second: an answer that nobody can read.
    for (head, body, status) in [(FOREIGN, "x", "SIP/2.0 415"), ("", "v=0\r\nnonsense", "SIP/2.0 488")] {
        let mut ladder = Ladder::new(&invite("Supported: 100rel\r\n", ""), &[20]);
        ladder.expect(10, "SIP/2.0 100");
        let offer = ladder.expect(20, "INVITE");
        ladder.receive(20, &offer.response(183, "b", "Require: 100rel\r\nRSeq: 1\r\n", &sdp(20, "")));
        let progress = ladder.expect(10, "SIP/2.0 183");
        let mut alice = Phone::alice(&progress);
        let rack = format!("RAck: {} 10 INVITE\r\n", progress.header(HeaderId::RSeq));
        ladder.receive(10, &alice.request("PRACK", &format!("{rack}{head}"), body));
        ladder.expect(10, status);
        ladder.expect_nothing();
        ladder.advance(Duration::from_secs(1));
        assert_eq!(ladder.expect(10, "SIP/2.0 183"), progress);
        ladder.receive(10, &alice.request("PRACK", &rack, &sdp(10, "")));
        ladder.expect(10, "SIP/2.0 200");
        assert!(ladder.expect(20, "PRACK").body().contains(MEDIA));
        ladder.advance(Duration::from_secs(5));
        assert!(ladder.take_sent().iter().all(|sent| !sent.text.starts_with("SIP/2.0 183")));
    }
}

/// Also where the call was answered or is over meanwhile.
#[test]
fn a_refused_late_prack_acknowledges_nothing() {
    let mut ladder = Ladder::new(&invite("Supported: 100rel\r\n", &sdp(10, "")), &[20]);
    ladder.expect(10, "SIP/2.0 100");
    let offer = ladder.expect(20, "INVITE");
    ladder.receive(20, &offer.response(180, "b", "", ""));
    let ringing = ladder.expect(10, "SIP/2.0 180");
    ladder.receive(20, &offer.response(486, "b", "", ""));
    ladder.expect(20, "ACK");
    ladder.expect(10, "SIP/2.0 486");
    let mut alice = Phone::alice(&ringing);
    let rack = format!("RAck: {} 10 INVITE\r\n", ringing.header(HeaderId::RSeq));
    ladder.receive(10, &alice.request("PRACK", &format!("{rack}{FOREIGN}"), "x"));
    assert!(ladder.expect(10, "SIP/2.0 415").has(HeaderId::Accept));
    ladder.receive(10, &alice.request("PRACK", &rack, ""));
    ladder.expect(10, "SIP/2.0 200");
    ladder.receive(10, &alice.request("PRACK", &rack, ""));
    ladder.expect(10, "SIP/2.0 481");
}
