//! Bodies that nobody here understands (RFC 3261 §8.2.3, §20.11, RFC 5621): 415 where there is somebody to tell.

use super::ladder::*;
use crate::wire::sip::HeaderId;

/// A part of a multipart body: header lines and content.
fn multipart(kind: &str, parts: &[(&str, &str)]) -> (String, String) {
    let parts: String = parts.iter().map(|(head, body)| format!("--bb\r\n{head}\r\n{body}\r\n")).collect();
    (format!("Content-Type: multipart/{kind};boundary=bb\r\n"), format!("{parts}--bb--\r\n"))
}

const SDP: &str = "Content-Type: application/sdp\r\n";
const ISUP: &str = "Content-Type: application/isup;version=x\r\n";
const REQUIRED: &str = "Content-Type: application/x\r\nContent-Disposition: render;handling=required\r\n";
const OPTIONAL: &str = "Content-Type: application/x\r\nContent-Disposition: signal; Handling=OPTIONAL\r\n";

/// Header lines, body, and whether the body can be understood as a description.
fn cases(host: u8) -> Vec<(String, String, bool)> {
    let sdp = sdp(host, "");
    let sdp = sdp.as_str();
    let alone = |head: &str, body: &str, is_fine: bool| (head.to_owned(), body.to_owned(), is_fine);
    let several = |kind: &str, parts: &[(&str, &str)], is_fine: bool| {
        let (head, body) = multipart(kind, parts);
        (head, body, is_fine)
    };
    let nested = multipart("mixed", &[(SDP, sdp), (OPTIONAL, "x")]).1.replace("--bb", "--cc");
    let encoded = format!("{SDP}Content-Transfer-Encoding: base64\r\n");
    let plain = format!("{SDP}Content-Transfer-Encoding: binary\r\nContent-Disposition: session;handling=required\r\n");
    let early = format!("{SDP}Content-Disposition: early-session\r\n");
    vec![
        alone(SDP, sdp, true),
        alone(&format!("{SDP}Content-Disposition: session;handling=required\r\n"), sdp, true),
        alone(&format!("{SDP}Content-Encoding: identity\r\n"), sdp, true),
        alone(&format!("{SDP}Content-Encoding: gzip\r\n"), sdp, false),
        alone(&format!("{SDP}e: gzip\r\n"), sdp, false),
        alone(&early, sdp, false),
        alone("Content-Type: text/plain\r\n", "x", false),
        alone(REQUIRED, "x", false),
        several("mixed", &[(SDP, sdp), (OPTIONAL, "x")], true),
        several("mixed", &[(OPTIONAL, "x"), (&plain, sdp)], true),
        several("mixed", &[(SDP, sdp), (REQUIRED, "x")], false),
        several("mixed", &[(ISUP, "x"), (SDP, sdp)], false),
        several("mixed", &[(SDP, sdp), ("", "plain text")], false),
        several("mixed", &[(&encoded, sdp)], false),
        several("mixed", &[(&format!("{SDP}Content-Encoding: gzip\r\n"), sdp)], false),
        several("mixed", &[(SDP, sdp), (&early, sdp)], false),
        several("alternative", &[("Content-Type: text/plain\r\n", "x"), (SDP, sdp)], true),
        several("alternative", &[("Content-Type: text/plain\r\n", "x"), (ISUP, "y")], false),
        several("mixed", &[("Content-Type: multipart/mixed;boundary=cc\r\n", &nested), (OPTIONAL, "x")], true),
    ]
}

/// `text` with this body instead of its own.
fn with(text: &str, head: &str, body: &str) -> String {
    let (start, _) = text.split_once("\r\n\r\n").unwrap();
    let kept = |line: &&str| !line.starts_with("Content-");
    let start: String = start.split("\r\n").filter(kept).map(|line| format!("{line}\r\n")).collect();
    format!("{start}{head}Content-Length: {}\r\n\r\n{body}", body.len())
}

fn check_415(sent: &Sent) {
    assert_eq!(sent.header(HeaderId::Accept), "application/sdp");
    assert_eq!(sent.header(HeaderId::AcceptEncoding), "identity");
}

#[test]
fn in_an_invite() {
    for (head, body, is_fine) in cases(10) {
        let mut ladder = Ladder::new(&with(&invite("", ""), &head, &body), &[20]);
        ladder.expect(10, "SIP/2.0 100");
        if is_fine {
            assert!(ladder.expect(20, "INVITE").body().contains(MEDIA), "{head}{body}");
        } else {
            check_415(&ladder.expect(10, "SIP/2.0 415"));
            ladder.expect_nothing();
        }
    }
    // Nothing that must be understood, and no description: it asks for an offer.
    let mut ladder = Ladder::new(&with(&invite("", ""), OPTIONAL, "x"), &[20]);
    ladder.expect(10, "SIP/2.0 100");
    assert!(ladder.expect(20, "INVITE").body().is_empty());
}

#[test]
fn in_a_reinvite_and_an_update() {
    for method in ["INVITE", "UPDATE"] {
        for (head, body, is_fine) in cases(10) {
            let Talk { mut ladder, mut alice, .. } = talk("", "Allow: INVITE, UPDATE\r\n");
            ladder.receive(10, &with(&alice.request(method, "", ""), &head, &body));
            if method == "INVITE" {
                ladder.expect(10, "SIP/2.0 100");
            }
            if is_fine {
                assert!(ladder.expect(20, method).body().contains(MEDIA), "{method} {head}{body}");
            } else {
                check_415(&ladder.expect(10, "SIP/2.0 415"));
                ladder.expect_nothing();
                assert!(ladder.call.is_up());
            }
        }
    }
}

#[test]
fn in_a_prack_and_in_options() {
    for (head, body, is_fine) in cases(10) {
        let mut ladder = Ladder::new(&invite("Supported: 100rel\r\n", ""), &[20]);
        ladder.expect(10, "SIP/2.0 100");
        let offer = ladder.expect(20, "INVITE");
        ladder.receive(20, &offer.response(183, "b", "Require: 100rel\r\nRSeq: 1\r\n", &sdp(20, "")));
        let progress = ladder.expect(10, "SIP/2.0 183");
        let rack = format!("RAck: {} 10 INVITE\r\n", progress.header(HeaderId::RSeq));
        ladder.receive(10, &with(&Phone::alice(&progress).request("PRACK", &rack, ""), &head, &body));
        if is_fine {
            ladder.expect(10, "SIP/2.0 200");
            assert!(ladder.expect(20, "PRACK").body().contains(MEDIA));
        } else {
            check_415(&ladder.expect(10, "SIP/2.0 415"));
        }
        let Talk { mut ladder, mut alice, .. } = talk("", "");
        ladder.receive(10, &with(&alice.request("OPTIONS", "", ""), &head, &body));
        ladder.expect(10, if is_fine { "SIP/2.0 200" } else { "SIP/2.0 415" });
    }
}

/// Nobody can be told: the description counts, whatever else is there.
#[test]
fn in_an_ack_and_in_responses() {
    let has_sdp = |head: &str, body: &str| {
        !head.contains("ncoding: gzip") && !head.contains("e: gzip") && body.contains("m=audio")
    };
    for (head, body, is_fine) in cases(20) {
        if !has_sdp(&head, &body) || !is_fine && !body.starts_with("--bb\r\nContent-Type: application/sdp\r\n\r\n") {
            continue;
        }
        let mut ladder = Ladder::new(&invite("", ""), &[20]);
        ladder.expect(10, "SIP/2.0 100");
        let request = ladder.expect(20, "INVITE");
        ladder.receive(20, &with(&request.response(200, "b", "", ""), &head, &body));
        let offer = ladder.expect(10, "SIP/2.0 200");
        assert!(offer.body().contains(MEDIA), "{head}{body}");
        let body = body.replace("192.0.2.20", "192.0.2.10");
        ladder.receive(10, &with(&Phone::alice(&offer).ack(10, ""), &head, &body));
        assert!(ladder.expect(20, "ACK").body().contains(MEDIA), "{head}{body}");
        assert!(ladder.call.is_up());
    }
    // One that is compressed cannot be read: no answer.
    let mut ladder = Ladder::new(&invite("", &sdp(10, "")), &[20]);
    ladder.expect(10, "SIP/2.0 100");
    let request = ladder.expect(20, "INVITE");
    ladder.receive(20, &request.response(200, "b", "Content-Encoding: gzip\r\n", &sdp(20, "")));
    ladder.expect(20, "ACK");
    ladder.expect(20, "BYE");
    ladder.expect(10, "SIP/2.0 488");
}

/// What goes on to the other phone is for that to understand.
#[test]
fn an_info_passes_with_what_says_how_to_read_it() {
    let Talk { mut ladder, mut alice, .. } = talk("", "");
    let head = "MIME-Version: 1.0\r\nContent-Encoding: gzip\r\nContent-Language: en\r\nContent-Type: application/x\r\n\
                Content-Disposition: render;handling=required\r\n";
    ladder.receive(10, &with(&alice.request("INFO", "", ""), head, "zipped"));
    let info = ladder.expect(20, "INFO");
    for id in
        [HeaderId::MimeVersion, HeaderId::ContentEncoding, HeaderId::ContentLanguage, HeaderId::ContentDisposition]
    {
        assert!(info.has(id), "{id:?}");
    }
    assert_eq!(info.body(), "zipped");
    ladder.receive(20, &info.response(415, "", "Accept: application/dtmf\r\nAccept-Encoding: deflate\r\n", ""));
    let refusal = ladder.expect(10, "SIP/2.0 415");
    assert_eq!(refusal.header(HeaderId::Accept), "application/dtmf");
    assert_eq!(refusal.header(HeaderId::AcceptEncoding), "deflate");
}
