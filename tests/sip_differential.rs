//! `wire::sip` against `rsip`, which was written by others from the same RFCs: on valid messages and on the torture messages they agree,
//! or the divergence stands here with its reason. rsip is never part of the program.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use rsip::headers::ToTypedHeader as _;
use rsip::headers::UntypedHeader as _;
use rsip::message::HasHeaders as _;
use rsip::message::HeadersExt as _;
use tipring::wire::sip::HeaderId;
use tipring::wire::sip::Message;
use tipring::wire::sip::Scan;
use tipring::wire::sip::StartLine;
use tipring::wire::sip::Transport;
use tipring::wire::sip::scan;

mod torture;

/// Where the two differ on a torture message, and who is right.
const DIVERGENCES: &[(&str, &str)] = &[
    // We accept, as the RFC says; rsip refuses.
    ("wsinv", "rsip knows neither folds nor white space before the colon"),
    ("intmeth", "rsip refuses unknown methods"),
    ("esc01", "rsip knows no folds"),
    ("longreq", "rsip knows no white space before the colon"),
    ("semiuri", "rsip knows no folds, and ends users at a semicolon"),
    ("esc02", "rsip refuses unknown methods"),
    ("ipv6-good", "rsip ends hosts at the first colon"),
    ("port-ambiguous", "rsip ends hosts at the first colon"),
    ("port-unambiguous", "rsip ends hosts at the first colon"),
    ("via-received-param-with-delim", "rsip ends hosts at the first colon"),
    ("via-received-param-no-delim", "rsip ends hosts at the first colon"),
    ("ipv6-in-sdp", "rsip ends hosts at the first colon"),
    ("mult-ip-in-sdp", "rsip ends hosts at the first colon"),
    ("ipv6-bug-abnf-3-colons", "rsip ends hosts at the first colon"),
    ("ipv6-correct-abnf-2-colons", "rsip ends hosts at the first colon"),
    // We refuse, as the RFC says; rsip accepts.
    ("badinv01", "rsip reads Via and Contact only when asked"),
    ("clerr", "rsip ignores Content-Length"),
    ("ncl", "rsip ignores Content-Length"),
    ("mcl01", "rsip ignores Content-Length"),
    ("quotbal", "rsip reads To only when asked"),
    ("ltgtruri", "rsip takes the bracket for a part of the user"),
    ("baddate", "rsip reads Date only when asked"),
    ("regbadct", "rsip reads Contact only when asked"),
    ("badaspec", "rsip reads To only when asked"),
    ("baddn", "rsip reads To only when asked"),
    ("mismatch01", "rsip does not compare CSeq with the request line"),
    ("scalarlg", "rsip reads CSeq only when asked"),
    ("novelsc", "rsip takes an unknown scheme for a host"),
    ("insuf", "rsip does not look for mandatory headers"),
    ("unksm2", "rsip does not look into To"),
    ("multi01", "rsip takes the first of several"),
];

/// The body ends at Content-Length; rsip keeps everything to the end of the datagram.
const LONGER_BODIES: &[&str] = &["dblreq", "mult-ip-in-sdp", "ipv4-mapped-ipv6"];

fn rsip(bytes: &[u8]) -> Option<rsip::SipMessage> {
    // It may also panic: that is a refusal.
    std::panic::catch_unwind(|| rsip::SipMessage::try_from(bytes).ok()).ok().flatten()
}

#[test]
fn verdicts_agree_or_are_listed() {
    let mut surprises = Vec::new();
    for case in torture::all() {
        let bytes = (case.bytes)();
        let ours = matches!(scan(&bytes, Transport::Udp), Scan::Ok(_));
        let theirs = rsip(&bytes).is_some();
        let listed = DIVERGENCES.iter().any(|(name, _)| *name == case.name);
        if (ours != theirs) != listed {
            surprises.push((case.name, ours, theirs));
        }
    }
    assert!(surprises.is_empty(), "(name, we accept, rsip accepts): {surprises:#?}");
}

#[test]
fn what_both_accept_reads_the_same() {
    let mut compared = 0;
    for case in torture::all() {
        let bytes = (case.bytes)();
        if let (Scan::Ok(ours), Some(theirs)) = (scan(&bytes, Transport::Udp), rsip(&bytes)) {
            same(case.name, &ours, &theirs);
            compared += 1;
        }
    }
    assert!(compared >= 15, "{compared}");
}

#[test]
fn ordinary_messages_read_the_same() {
    for method in [
        "INVITE",
        "ACK",
        "BYE",
        "CANCEL",
        "OPTIONS",
        "REGISTER",
        "PRACK",
        "SUBSCRIBE",
        "NOTIFY",
        "INFO",
        "UPDATE",
        "REFER",
    ] {
        for (user, host) in [("1001", "acme.test"), ("alice", "192.0.2.7:5062"), ("+15551230000", "acme.test:5060")] {
            let text = format!(
                "{method} sip:{user}@{host} SIP/2.0\r\nVia: SIP/2.0/UDP 192.0.2.1:5070;branch=z9hG4bK{user}\r\nMax-Forwards: 70\r\n\
                 From: <sip:{user}@acme.test>;tag=abc\r\nTo: <sip:{user}@{host}>\r\nCall-ID: 1{user}@x\r\nCSeq: 17 {method}\r\n\
                 Contact: <sip:{user}@192.0.2.1:5070>\r\nContent-Type: text/plain\r\nContent-Length: 5\r\n\r\nhello"
            );
            let Scan::Ok(ours) = scan(text.as_bytes(), Transport::Udp) else { panic!("{text}") };
            same(method, &ours, &rsip(text.as_bytes()).expect(&text));
        }
    }
}

fn same(name: &str, ours: &Message<'_>, theirs: &rsip::SipMessage) {
    match (ours.start_line(), theirs) {
        (StartLine::Request(ours), rsip::SipMessage::Request(theirs)) => {
            assert_eq!(ours.name, theirs.method.to_string().as_bytes(), "{name}");
        }
        (StartLine::Response(ours), rsip::SipMessage::Response(theirs)) => {
            assert_eq!(ours.status.code(), theirs.status_code.code(), "{name}");
        }
        _ => panic!("{name}: one reads a request, the other a response"),
    }
    assert_eq!(ours.all_headers().count(), theirs.headers().iter().count(), "{name}");
    if !LONGER_BODIES.contains(&name) {
        assert_eq!(ours.body(), theirs.body().as_slice(), "{name}");
    }
    // Compact forms are unknown to rsip: a header that it cannot find says nothing.
    if let Ok(call_id) = theirs.call_id_header() {
        assert_eq!(ours.call_id(), call_id.value().as_bytes(), "{name}");
    }
    if let Ok(cseq) = theirs.cseq_header().and_then(|cseq| cseq.typed()) {
        assert_eq!(ours.cseq().unwrap().number, cseq.seq, "{name}");
    }
    if let Ok(hops) = theirs.max_forwards_header().and_then(|hops| hops.num()) {
        assert_eq!(ours.uint(HeaderId::MaxForwards), Some(hops), "{name}");
    }
    if let Ok(from) = theirs.from_header() {
        assert_eq!(ours.header(HeaderId::From), Some(from.value().as_bytes()), "{name}");
        if let Ok(Some(tag)) = from.tag() {
            assert_eq!(ours.from().unwrap().tag(), Some(tag.value().as_bytes()), "{name}");
        }
    }
    if let Ok(via) = theirs.via_header() {
        assert_eq!(ours.header(HeaderId::Via), Some(via.value().as_bytes()), "{name}");
        if let Ok(Ok(branch)) = via.typed().map(|via| via.branch().map(|branch| branch.value().to_owned()).ok_or(())) {
            assert_eq!(ours.top_via().unwrap().branch(), Some(branch.as_bytes()), "{name}");
        }
    }
}
