//! The scanner's verdict on every torture message, and what its readers make of some of them. The answers on the wire are another test.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use sha2::Digest as _;
use sha2::Sha256;
use tipring::wire::sip::Frame;
use tipring::wire::sip::Framer;
use tipring::wire::sip::HeaderId;
use tipring::wire::sip::Message;
use tipring::wire::sip::Method;
use tipring::wire::sip::Scan;
use tipring::wire::sip::Transport;
use tipring::wire::sip::Uri;
use tipring::wire::sip::scan;
use tipring::wire::sip::uri;

mod torture;

use torture::Verdict;

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn verdict(bytes: &[u8], transport: Transport) -> Verdict {
    match scan(bytes, transport) {
        Scan::Ok(_) => Verdict::Ok,
        Scan::Answerable { status, .. } => Verdict::Answer(status.code()),
        Scan::Drop(_) => Verdict::Drop,
    }
}

fn ok(bytes: &[u8]) -> Message<'_> {
    match scan(bytes, Transport::Udp) {
        Scan::Ok(message) => message,
        other => panic!("{other:?}"),
    }
}

#[test]
fn every_message_is_the_one_of_the_rfc() {
    let mut wrong = Vec::new();
    for case in torture::all() {
        let found = hex(&Sha256::digest((case.bytes)()));
        if case.sha256.is_some_and(|sha256| sha256 != found) {
            wrong.push(case.name);
        }
    }
    assert!(wrong.is_empty(), "{wrong:?}");
    assert_eq!(torture::all().filter(|case| case.rfc == 4475).count(), 49);
    assert_eq!(torture::all().filter(|case| case.rfc == 5118).count(), 12);
}

#[test]
fn every_verdict_is_right() {
    let mut wrong = Vec::new();
    for case in torture::all() {
        let bytes = (case.bytes)();
        if verdict(&bytes, Transport::Udp) != case.verdict {
            wrong.push(format!(
                "{} §{}: {:?}, wanted {:?}",
                case.name,
                case.section,
                scan(&bytes, Transport::Udp),
                case.verdict
            ));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn a_stream_is_cut_or_closed() {
    for case in torture::all() {
        let bytes = (case.bytes)();
        match (case.name, Framer::default().next(&bytes)) {
            // RFC 4475 §3.1.2.2: over TCP the element waits for the rest.
            ("clerr", frame) => assert_eq!(frame, Frame::Partial),
            ("ncl" | "mcl01" | "inv2543", Frame::Broken { head }) => {
                assert_eq!(verdict(&bytes[..head], Transport::Tcp), Verdict::Answer(400), "{}", case.name);
            }
            (_, Frame::Message { len }) => assert!(len <= bytes.len()),
            (name, frame) => panic!("{name}: {frame:?}"),
        }
    }
    let dblreq = torture::bytes("dblreq");
    let Frame::Message { len } = Framer::default().next(&dblreq) else { panic!("the first request alone is a frame") };
    assert!(dblreq[..len].ends_with(b"Content-Length: 0\r\n\r\n"));
}

#[test]
fn a_short_tortuous_invite_is_read() {
    let bytes = torture::bytes("wsinv");
    let message = ok(&bytes);
    assert_eq!(message.max_forwards(), Some(68));
    assert_eq!((message.cseq().unwrap().number, message.method()), (9, Method::Invite));
    assert_eq!(message.to().unwrap().tag(), Some(&b"1918181833n"[..]));
    let from = message.from().unwrap();
    assert_eq!((from.tag(), from.display_text()), (Some(&b"98asjd8"[..]), &br#"J Rosenberg \\\""#[..]));
    let vias: Vec<_> = message.values(HeaderId::Via).map(|via| tipring::wire::sip::Via::parse(via).unwrap()).collect();
    assert_eq!(vias.iter().map(|via| via.transport).collect::<Vec<_>>(), [&b"UDP"[..], b"TCP", b"UDP"]);
    assert_eq!(
        vias.iter().map(|via| via.branch().unwrap()).collect::<Vec<_>>(),
        [&b"390skdjuw"[..], b"z9hG4bK9ikj8", b"z9hG4bK30239"]
    );
    assert!(!vias[0].has_magic_cookie() && vias[1].has_magic_cookie());
    assert_eq!(message.header(HeaderId::Subject), Some(&b""[..]));
    assert_eq!(message.other("unknownheaderwithunusualvalue"), Some(&b";;,,;;,;"[..]));
    let contact = message.name_addrs(HeaderId::Contact).next().unwrap().unwrap();
    assert_eq!((contact.q(), contact.params.get("newparam")), (Some(330), Some(&b"newvalue"[..])));
    assert_eq!(message.body().len(), 150);
}

#[test]
fn odd_characters_are_kept() {
    let bytes = torture::bytes("intmeth");
    let message = ok(&bytes);
    let request = message.request().unwrap();
    assert_eq!((request.method, request.name), (Method::Other, &b"!interesting-Method0123456789_*+`.%indeed'~"[..]));
    let Ok(Uri::Sip(uri)) = Uri::parse(request.uri) else { panic!() };
    assert_eq!(uri.user, Some(&b"1_unusual.URI~(to-be!sure)&isn't+it$/crazy?,/;;*"[..]));
    assert_eq!(uri.password, Some(&b"&it+has=1,weird!*pas$wo~d_too.(doesn't-it)"[..]));
    assert_eq!(message.from().unwrap().tag(), Some(&b"_token~1'+`*%!-."[..]));
    assert_eq!(message.to().unwrap().display_text(), b"BEL:\\\x07 NUL:\\\0 DEL:\\\x7f");
    assert_eq!(
        message.other("extensionHeader-!.%*+_`'~"),
        Some(&b"\xef\xbb\xbf\xe5\xa4\xa7\xe5\x81\x9c\xe9\x9b\xbb"[..])
    );
}

#[test]
fn escapes_stand_for_letters_only_where_they_may() {
    let bytes = torture::bytes("esc01");
    let message = ok(&bytes);
    let to = message.to().unwrap().parse_uri().unwrap();
    assert!(uri::same_user(to.user().unwrap(), b"user"));
    let contact = message.name_addrs(HeaderId::Contact).next().unwrap().unwrap().parse_uri().unwrap();
    assert_eq!(contact.params().get("n%61me"), Some(&b"v%61lue%25%34%31"[..]));
    assert_eq!(uri::unescaped(b"v%61lue%25%34%31").collect::<Vec<_>>(), b"value%41");

    let bytes = torture::bytes("esc02");
    let message = ok(&bytes);
    assert_eq!(message.method(), Method::Other);
    assert_eq!(message.values(HeaderId::Contact).count(), 2);
}

#[test]
fn parameters_belong_to_header_or_uri() {
    let bytes = torture::bytes("cparam01");
    let contact = ok(&bytes).name_addrs(HeaderId::Contact).next().unwrap().unwrap();
    assert!(contact.params.has("unknownparam") && !contact.parse_uri().unwrap().params().has("unknownparam"));
    let bytes = torture::bytes("cparam02");
    let contact = ok(&bytes).name_addrs(HeaderId::Contact).next().unwrap().unwrap();
    assert!(!contact.params.has("unknownparam") && contact.parse_uri().unwrap().params().has("unknownparam"));
    let bytes = torture::bytes("regescrt");
    let contact = ok(&bytes).name_addrs(HeaderId::Contact).next().unwrap().unwrap();
    assert_eq!(contact.parse_uri().unwrap().sip().unwrap().headers, Some(&b"Route=%3Csip:sip.example.com%3E"[..]));
}

#[test]
fn what_follows_a_datagram_is_ignored() {
    let bytes = torture::bytes("dblreq");
    let message = ok(&bytes);
    assert_eq!((message.method(), message.body()), (Method::Register, &b""[..]));
    assert!(message.bytes().ends_with(b"Content-Length: 0\r\n\r\n"));
}

#[test]
fn ipv6_addresses_are_read() {
    let host = |name: &str| {
        let bytes = torture::bytes(name);
        let uri = Uri::parse(ok(&bytes).request().unwrap().uri).unwrap().sip().unwrap();
        (uri.ip().unwrap().to_string(), uri.port)
    };
    assert_eq!(host("port-ambiguous"), ("2001:db8::10:5070".into(), None));
    assert_eq!(host("port-unambiguous"), ("2001:db8::10".into(), Some(5070)));
    assert_eq!(host("ipv6-bug-abnf-3-colons"), host("ipv6-correct-abnf-2-colons"));
    for name in ["via-received-param-with-delim", "via-received-param-no-delim"] {
        let bytes = torture::bytes(name);
        assert_eq!(ok(&bytes).top_via().unwrap().received(), Some("2001:db8::9:255".parse().unwrap()));
    }
}
