//! Behaviour of scanner, checks, views, writer and framer on small inputs; whole messages are in `tests/sip_*.rs`.

use super::*;

const INVITE: &[u8] = b"INVITE sip:1002@acme.test SIP/2.0\r\n\
Via: SIP/2.0/UDP 192.0.2.1:5062;branch=z9hG4bK74bf9;rport\r\n\
v: SIP/2.0/TCP [2001:db8::1]:5060 ; branch=z9hG4bKa, SIP/2.0/UDP host\r\n\
Max-Forwards: 70\r\n\
From: \"Alice, \\\"A\\\"\" <sip:1001@acme.test>;tag=9fxced76sl\r\n\
t: <sip:1002@acme.test>\r\n\
i: 3848276298220188511@192.0.2.1\r\n\
CSeq: 2 INVITE\r\n\
m: \"A, <x>\" <sip:1001@192.0.2.1:5062;transport=udp>;+sip.instance=\"<urn:uuid:1>\";q=0.5,\r\n <sip:b@c>;expires=60\r\n\
X-Custom:  folded\r\n\tvalue \r\n\
Content-Type: application/sdp\r\n\
Content-Length: 4\r\n\
\r\n\
v=0\nrest";

fn ok(bytes: &[u8]) -> Message<'_> {
    match scan(bytes, Transport::Udp) {
        Scan::Ok(message) => message,
        other => panic!("{other:?}"),
    }
}

#[test]
fn an_invite_is_read() {
    let message = ok(INVITE);
    assert_eq!(message.method(), Method::Invite);
    assert_eq!(message.request().unwrap().uri, b"sip:1002@acme.test");
    assert_eq!(message.body(), b"v=0\n");
    assert_eq!(message.bytes().len(), INVITE.len() - 4);
    assert_eq!(message.values(HeaderId::Via).count(), 3);
    assert_eq!(message.headers(HeaderId::Via).count(), 2);
    let via = message.top_via().unwrap();
    assert!(via.wants_rport() && via.has_magic_cookie());
    assert_eq!((via.port, via.transport), (Some(5062), &b"UDP"[..]));
    assert_eq!(message.from().unwrap().display, b"\"Alice, \\\"A\\\"\"");
    assert_eq!(message.from().unwrap().tag(), Some(&b"9fxced76sl"[..]));
    assert_eq!(message.to().unwrap().tag(), None);
    assert_eq!(message.call_id(), b"3848276298220188511@192.0.2.1");
    assert_eq!(message.cseq().unwrap().number, 2);
    assert_eq!(message.other("x-custom"), Some(&b"folded\r\n\tvalue"[..]));
    let contacts: Vec<_> = message.contacts().map(Result::unwrap).collect();
    let [Contact::Address(first), Contact::Address(second)] = contacts.as_slice() else { panic!("{contacts:?}") };
    assert_eq!((first.instance(), first.q()), (Some(&b"urn:uuid:1"[..]), Some(500)));
    assert_eq!(second.expires(), Some(60));
    let lines: Vec<u8> = message.all_headers().flat_map(|field| field.line.to_vec()).collect();
    let head = INVITE.iter().position(|byte| *byte == b'\n').unwrap() + 1;
    assert_eq!(lines, INVITE[head..head + lines.len()], "the lines are the head");
}

#[test]
fn an_answer_is_written() {
    let message = ok(INVITE);
    let mut out = Vec::new();
    write::response(&mut out, &message, Status::RINGING, "", Some("xyz"), "198.51.100.7:9".parse().unwrap())
        .header(HeaderId::Subject, "a\r\nInjected: 1")
        .finish();
    let answer = ok(&out);
    assert_eq!(answer.response().unwrap().status, Status::RINGING);
    assert_eq!(answer.response().unwrap().reason, b"Ringing");
    let via = answer.top_via().unwrap();
    assert_eq!(via.received(), Some("198.51.100.7".parse().unwrap()));
    assert_eq!(via.rport(), Some(9));
    assert_eq!(answer.values(HeaderId::Via).count(), 3);
    assert_eq!(answer.to().unwrap().tag(), Some(&b"xyz"[..]));
    assert_eq!(answer.other("injected"), None);
    assert_eq!(answer.method(), Method::Invite);
}

/// A legal OPTIONS with `line` among its header fields.
fn with(line: &str) -> Vec<u8> {
    format!(
        "OPTIONS sip:a@b SIP/2.0\r\nVia: SIP/2.0/UDP h;branch=z9hG4bK1\r\nFrom: <sip:a@b>;tag=1\r\nTo: <sip:c@d>\r\nCall-ID: x\r\n\
         CSeq: 1 OPTIONS\r\n{line}\r\n"
    )
    .into_bytes()
}

/// The same with one thing replaced.
fn replaced(from: &str, to: &str) -> Vec<u8> {
    let text = String::from_utf8(with("")).unwrap();
    assert!(text.contains(from));
    text.replacen(from, to, 1).into_bytes()
}

fn fault(bytes: &[u8], transport: Transport) -> Option<Fault> {
    match scan(bytes, transport) {
        Scan::Ok(_) => None,
        Scan::Answerable { fault, status, .. } => {
            assert_eq!(status, fault.status());
            Some(fault)
        }
        Scan::Drop(reason) => panic!("{reason}"),
    }
}

#[test]
fn faults_are_named() {
    let check = |bytes: Vec<u8>, wanted| assert_eq!(fault(&bytes, Transport::Udp), wanted, "{}", bytes.escape_ascii());
    check(with(""), None);
    check(with("Content-Length: 0\r\n"), None);
    check(with("Max-Forwards: 255\r\n"), None);
    check(with("Max-Forwards: 256\r\n"), Some(Fault::Malformed(HeaderId::MaxForwards)));
    check(with("Max-Forwards: \r\n"), Some(Fault::Malformed(HeaderId::MaxForwards)));
    check(with("i: y\r\n"), Some(Fault::Repeated(HeaderId::CallId)));
    check(with("no field\r\n"), Some(Fault::HeaderLine));
    check(with("Subject: a\nb: c\r\n"), Some(Fault::LineEnd));
    check(with("Subject: a\rb\r\n"), Some(Fault::LineEnd));
    check(with("Content-Length: 1\r\n"), Some(Fault::BodyTooShort));
    check(with("Content-Length: -1\r\n"), Some(Fault::Malformed(HeaderId::ContentLength)));
    check(with("Contact: *\r\n"), None);
    check(with("Contact: <sip:a@b>, \r\n"), Some(Fault::Malformed(HeaderId::Contact)));
    check(with("Route: sip:a@b>\r\n"), Some(Fault::Malformed(HeaderId::Route)));
    check(with("Date: Sat, 13 Nov 2010 23:29:00 UTC\r\n"), Some(Fault::Malformed(HeaderId::Date)));
    check(with(&"X-A: 1\r\n".repeat(123)), None);
    check(with(&"X-A: 1\r\n".repeat(124)), Some(Fault::TooManyHeaders));
    check(replaced("Call-ID: x\r\n", ""), Some(Fault::Missing(HeaderId::CallId)));
    check(replaced("1 OPTIONS", "2147483648 OPTIONS"), Some(Fault::Malformed(HeaderId::CSeq)));
    check(replaced("1 OPTIONS", "1 INVITE"), Some(Fault::Method));
    check(replaced("SIP/2.0\r\n", "SIP/2.1\r\n"), Some(Fault::Version));
    check(replaced("sip:a@b SIP", "mailto:a@b SIP"), Some(Fault::Scheme));
    check(replaced("sip:a@b SIP", "tel:+15551230000 SIP"), None);
    check(replaced("sip:a@b SIP", "urn:service:sos SIP"), None);
    check(replaced("sip:a@b SIP", "sip:a%4@b SIP"), Some(Fault::RequestUri));
    check(replaced("<sip:c@d>", "<sip:c@d>;tag="), Some(Fault::Malformed(HeaderId::To)));
    let mut cut = with("");
    cut.truncate(cut.len() - 2);
    check(cut, Some(Fault::NoEmptyLine));
}

#[test]
fn a_stream_needs_a_length() {
    assert_eq!(fault(&with(""), Transport::Udp), None);
    assert_eq!(fault(&with(""), Transport::Ws), None);
    assert_eq!(fault(&with(""), Transport::Tcp), Some(Fault::Missing(HeaderId::ContentLength)));
    assert_eq!(fault(&with("l: 65536\r\n"), Transport::Tls), Some(Fault::BodyTooLong));
}

#[test]
fn what_cannot_be_answered_is_dropped() {
    let check = |bytes: &[u8], wanted| match scan(bytes, Transport::Udp) {
        Scan::Drop(reason) => assert_eq!(reason, wanted, "{}", bytes.escape_ascii()),
        other => panic!("{other:?}"),
    };
    check(b"\r\n\r\n", DropReason::KeepAlive);
    check(b"", DropReason::KeepAlive);
    check(&[b'x'; 65_536], DropReason::TooLong);
    check(b"GET / HTTP/1.1\r\n\r\n", DropReason::StartLine);
    check(b"SIP/2.0 700 Odd\r\n\r\n", DropReason::StartLine);
    check(b"\0\0\0\0", DropReason::StartLine);
    check(&replaced("Via", "Vio"), DropReason::Unanswerable(Fault::Missing(HeaderId::Via)));
}

#[test]
fn a_faulty_ack_or_response_has_no_answer() {
    let ack = String::from_utf8(with("l: 9\r\n")).unwrap().replace("OPTIONS", "ACK");
    assert!(matches!(scan(ack.as_bytes(), Transport::Udp), Scan::Drop(DropReason::Ack(Fault::BodyTooShort))));
    let response = String::from_utf8(with("l: 9\r\n")).unwrap().replace("OPTIONS sip:a@b SIP/2.0", "SIP/2.0 200 OK");
    assert!(matches!(scan(response.as_bytes(), Transport::Udp), Scan::Drop(DropReason::Response(Fault::BodyTooShort))));
}

#[test]
fn uris_are_read() {
    let sip = |text: &'static str| Uri::parse(text.as_bytes()).unwrap().sip().unwrap();
    let uri = sip("sips:alice:pw@[2001:db8::1]:5061;transport=tls;lr?Subject=x");
    assert!(uri.secure && uri.is_loose_router());
    assert_eq!((uri.user, uri.password, uri.port), (Some(&b"alice"[..]), Some(&b"pw"[..]), Some(5061)));
    assert_eq!((uri.transport(), uri.headers), (Some(&b"tls"[..]), Some(&b"Subject=x"[..])));
    assert_eq!(sip("SIP:john.doe@Example.com").host, Host::Name(b"Example.com"));
    assert!(sip("sip:a@EXAMPLE.com").host.is_named("example.COM"));
    assert!(sip("sip:192.0.2.1").host.is(Host::Ipv4([192, 0, 2, 1].into())));
    assert_eq!(sip("sip:+1212;phone-context=x@h;user=phone").user, Some(&b"+1212;phone-context=x"[..]));
    assert_eq!(sip("sip:*72#@h").user, Some(&b"*72#"[..]));
    let Ok(Uri::Tel(tel)) = Uri::parse(b"tel:+1-201-555-0123;phone-context=example.com") else { panic!() };
    assert_eq!((tel.number, tel.params.get("Phone-Context")), (&b"+1-201-555-0123"[..], Some(&b"example.com"[..])));
    assert!(
        matches!(Uri::parse(b"urn:service:sos"), Ok(Uri::Other(uri)) if uri.scheme == b"urn" && uri.rest == b"service:sos")
    );
}

#[test]
fn what_is_no_uri_is_refused() {
    for text in [
        "",
        "sip",
        "sip:",
        "sip:@h",
        "sip:a@",
        "sip:a@h:",
        "sip:a@h:65536",
        "sip:a@h:x",
        "sip:a@b@c",
        "sip:a b@h",
        "sip:a@h h",
        "sip:a%4@h",
        "sip:a@[::1",
        "sip:a@::1",
        "sip:a@[x]",
        "sip:a@1.2.3.256",
        "sip:a@h;",
        "sip:a@h;;x",
        "sip:a@h;x=\"y\"",
        "sip:a@h?",
        "<sip:a@h>",
        "tel:",
        "tel:abc;",
        "1x:y",
        ":x",
        "sip:a@h;x=%zz",
        "urn:a b",
    ] {
        assert_eq!(Uri::parse(text.as_bytes()), Err(Malformed::Uri), "{text}");
    }
}

#[test]
fn a_remote_target_has_neither_headers_nor_method() {
    for (contact, target) in [
        ("sip:a@b", Some("sip:a@b")),
        ("sips:a:pw@[2001:db8::1]:5061;ob", Some("sips:a:pw@[2001:db8::1]:5061;ob")),
        (
            "sip:a@b;transport=tcp;method=REGISTER;ob?Replaces=x%3Bto-tag%3Dy&Subject=z",
            Some("sip:a@b;transport=tcp;ob"),
        ),
        ("sip:a@b;Method=BYE", Some("sip:a@b")),
        ("sip:a;day=tues?x@b?Subject=z", Some("sip:a;day=tues?x@b")),
        ("sip:b?a=b", Some("sip:b")),
        ("sip:a@b;methods=x;x=method", Some("sip:a@b;methods=x;x=method")),
        ("tel:+15551234", None),
        ("urn:service:sos", None),
        ("http://a.test/", None),
        ("*", None),
        ("", None),
    ] {
        let found = uri::remote_target(contact.as_bytes());
        assert_eq!(found.as_deref(), target.map(str::as_bytes), "{contact}");
    }
}

/// RFC 3261 §7.3.1 lets nobody repeat them, but some do; a response has nobody to complain to.
#[test]
fn a_response_with_a_doubled_header_counts_by_the_first() {
    let head = "SIP/2.0 200 OK\r\nVia: SIP/2.0/UDP h;branch=z9hG4bK1\r\nFrom: <sip:a@h>;tag=1\r\nTo: <sip:b@h>;tag=2\r\n\
                Call-ID: x\r\nCSeq: 1 INVITE\r\nRSeq: 7\r\nServer: a\r\nContact: <sip:c@h>\r\n";
    let body = "v=0\r\n";
    for doubled in [
        "Server: b",
        "User-Agent: a\r\nUser-Agent: b",
        "From: <sip:z@h>;tag=9",
        "To: <sip:z@h>;tag=9",
        "t: <sip:z@h>;tag=9",
        "Call-ID: y",
        "CSeq: 2 BYE",
        "RSeq: 8",
        "Content-Type: x/y",
        "Session-Expires: 90\r\nSession-Expires: 91",
        "Via: SIP/2.0/UDP other;branch=z9hG4bK9",
        "l: 0",
        "Content-Length: 99",
        // One that nobody needs may be unreadable.
        "Contact: <<",
        "Date: yesterday",
    ] {
        let text = format!("{head}Content-Type: application/sdp\r\nContent-Length: 5\r\n{doubled}\r\n\r\n{body}");
        for transport in [Transport::Udp, Transport::Tcp] {
            let Scan::Ok(message) = scan(text.as_bytes(), transport) else { panic!("{doubled}") };
            let tags = [message.from().unwrap().tag(), message.to().unwrap().tag()];
            assert_eq!(tags, [Some(&b"1"[..]), Some(b"2")], "{doubled}");
            let cseq = message.cseq().unwrap();
            assert_eq!((message.call_id(), cseq.number, cseq.method), (&b"x"[..], 1, Method::Invite), "{doubled}");
            assert_eq!(message.top_via().unwrap().branch(), Some(&b"z9hG4bK1"[..]), "{doubled}");
            assert_eq!((message.uint(HeaderId::RSeq), message.header(HeaderId::Server)), (Some(7), Some(&b"a"[..])));
            assert_eq!(
                (message.header(HeaderId::ContentType), message.body()),
                (Some(&b"application/sdp"[..]), body.as_bytes())
            );
        }
        assert_eq!(Framer::default().next(text.as_bytes()), Frame::Message { len: text.len() }, "{doubled}");
    }
}

/// A request that two readers could read in two ways is refused; remarks of its sender are no such thing.
#[test]
fn a_request_with_a_doubled_header_is_refused_where_it_matters() {
    for (doubled, is_fine) in [
        ("User-Agent: a\r\nUser-Agent: b\r\n", true),
        ("Server: a\r\nServer: b\r\nOrganization: a\r\nOrganization: b\r\nTimestamp: 1\r\nTimestamp: 2\r\n", true),
        ("Call-ID: other\r\n", false),
        ("CSeq: 9 REGISTER\r\n", false),
        ("From: <sip:z@h>;tag=9\r\n", false),
        ("Max-Forwards: 1\r\nMax-Forwards: 2\r\n", false),
        ("Content-Length: 0\r\nContent-Length: 0\r\n", false),
        ("Expires: 1\r\nExpires: 2\r\n", false),
        ("Subject: 1\r\nSubject: 2\r\n", false),
    ] {
        let bytes = with(doubled);
        assert_eq!(matches!(scan(&bytes, Transport::Udp), Scan::Ok(_)), is_fine, "{doubled}");
    }
}

#[test]
fn users_compare_without_escapes() {
    assert!(uri::same_user(b"%61lice", b"alice") && uri::same_user(b"a%20b", b"a%20b"));
    assert!(!uri::same_user(b"Alice", b"alice") && !uri::same_user(b"a%00", b"a"));
    let mut out = Vec::new();
    uri::unescape_into(b"a%2", &mut out);
    assert_eq!(out, b"a%2", "a broken escape stands for itself");
}

#[test]
fn names_and_addresses_are_read() {
    let check = |text: &'static str, display: &str, uri: &str, params: &str| {
        let address = NameAddr::parse(text.as_bytes()).unwrap();
        assert_eq!(
            (address.display_text(), address.uri, address.params.raw()),
            (display.as_bytes(), uri.as_bytes(), params.as_bytes()),
            "{text}"
        );
    };
    check("<sip:a@b>", "", "sip:a@b", "");
    check("sip:a@b;x=1", "", "sip:a@b", ";x=1");
    check("<sip:a@b;x=1>;y", "", "sip:a@b;x=1", ";y");
    check("Bob Lee <sip:a@b>", "Bob Lee", "sip:a@b", "");
    check("J\u{f6}rg<sip:a@b>", "J\u{f6}rg", "sip:a@b", "");
    check("\"a \\\" <b>\" <sip:a@b> ; z", "a \\\" <b>", "sip:a@b", "; z");
    for (text, name) in [
        ("\"a \\\" \\\\b\" <sip:a@b>", "a \" \\b"),
        ("Bob Lee <sip:a@b>", "Bob Lee"),
        ("\"J\u{f6}rg\" <sip:a@b>", "J\u{f6}rg"),
        ("sip:a@b", ""),
    ] {
        assert_eq!(NameAddr::parse(text.as_bytes()).unwrap().name(), name, "{text}");
    }
    for text in [
        "",
        "<>",
        "<sip:a@b",
        "\"a <sip:a@b>",
        "a, b <sip:a@b>",
        "sip:a@b?x=y",
        "<sip:a@b>;",
        "<sip:a@b>;;x",
        "<sip:a@b> x",
        "sip:a@b>",
        "a\"b\" <sip:a@b>",
    ] {
        assert_eq!(NameAddr::parse(text.as_bytes()), Err(Malformed::NameAddr), "{text}");
    }
}

#[test]
fn contact_parameters_are_read() {
    let q = |text: &str| NameAddr::parse(format!("<sip:a>;q={text}").as_bytes()).unwrap().q();
    assert_eq!(
        [q("1"), q("0"), q("1.000"), q("0.5"), q("0.123"), q("0.")],
        [Some(1000), Some(0), Some(1000), Some(500), Some(123), Some(0)]
    );
    assert_eq!([q("1.001"), q("2"), q("0.1234"), q(".5"), q("-0.1"), q("x")], [None; 6]);
    let contact = NameAddr::parse(b"<sip:a>;reg-id=1;+SIP.INSTANCE=\"<urn:uuid:9>\";Expires=60").unwrap();
    assert_eq!(
        (contact.reg_id(), contact.instance(), contact.expires()),
        (Some(1), Some(&b"urn:uuid:9"[..]), Some(60))
    );
    assert_eq!(
        NameAddr::parse(b"<sip:a>;expires=4294967296;reg-id=0").map(|c| (c.expires(), c.reg_id())),
        Ok((None, None))
    );
    assert_eq!(Contact::parse(b" * "), Ok(Contact::Star));
}

#[test]
fn vias_are_read() {
    let via =
        Via::parse(b"SIP / 2.0 / UDP [2001:db8::9]:5062 ;rport=7; received=192.0.2.1;ttl=4;maddr=x;branch=z9hG4bK")
            .unwrap();
    assert_eq!((via.port, via.rport(), via.ttl(), via.maddr()), (Some(5062), Some(7), Some(4), Some(&b"x"[..])));
    assert_eq!(via.received(), Some([192, 0, 2, 1].into()));
    assert!(via.wants_rport() && !via.has_magic_cookie(), "the cookie alone names nothing");
    assert_eq!(Via::parse(b"SIP/2.0/TCP host : 5070;x").map(|via| via.port), Ok(Some(5070)));
    for text in [
        "",
        "SIP/2.0/UDP",
        "SIP/2.0 UDP h",
        "SIP/3.0/UDP h",
        "HTTP/2.0/UDP h",
        "SIP/2.0/UDP h;",
        "SIP/2.0/UDP h;;a",
        "SIP/2.0/UDP h:x",
        "SIP/2.0/UDP h i",
        "SIP/2.0/UDP ::1",
    ] {
        assert_eq!(Via::parse(text.as_bytes()), Err(Malformed::Via), "{text}");
    }
}

#[test]
fn credentials_are_read() {
    let text = b"digest username=\"a\\\"b\", realm = \"r, s\",nonce=\"n\",uri=\"sip:x;y\",response=\"0A\",nc=0000000a,qop=auth,opaque=\"\",userhash=TRUE";
    let credentials = Credentials::parse(text).unwrap().unwrap();
    assert_eq!((credentials.username, credentials.realm), (&b"a\\\"b"[..], &b"r, s"[..]));
    assert_eq!(
        (credentials.nc, credentials.nc_text, credentials.opaque),
        (Some(10), Some(&b"0000000a"[..]), Some(&b""[..]))
    );
    assert!(credentials.userhash && credentials.cnonce.is_none());
    assert_eq!(Credentials::parse(b"NoOneKnowsThisScheme opaque-data=here"), Ok(None));
    let whole = "Digest username=\"a\",realm=\"r\",nonce=\"n\",uri=\"u\",response=\"x\"";
    assert!(Credentials::parse(whole.as_bytes()).is_ok());
    for more in [",username=\"b\"", ",nc=1ffffffff", ",nc=", ",x", ",x=\"y", " x=y", ",=y"] {
        assert_eq!(Credentials::parse(format!("{whole}{more}").as_bytes()), Err(Malformed::Credentials), "{more}");
    }
    assert_eq!(Credentials::parse(b"Digest realm=\"r\""), Err(Malformed::Credentials));
    let challenge =
        Challenge::parse(b"Digest realm=\"r\", nonce=\"n\", qop=\"auth-int, auth\", stale=true, algorithm=SHA-256")
            .unwrap()
            .unwrap();
    assert!(challenge.stale && challenge.offers_qop("auth") && !challenge.offers_qop("int"));
}

#[test]
fn small_values_are_read() {
    assert_eq!(
        SessionExpires::parse(b"1800 ;refresher=UAS"),
        Ok(SessionExpires { secs: 1800, refresher: Some(Refresher::Uas) })
    );
    assert_eq!(SessionExpires::parse(b"x"), Err(Malformed::Value));
    let rack = RAck::parse(b"776656 1 INVITE").unwrap();
    assert_eq!((rack.rseq, rack.cseq.number, rack.cseq.method), (776_656, 1, Method::Invite));
    assert_eq!(RAck::parse(b"1 INVITE"), Err(Malformed::Value));
    let reason = ReasonValue::parse(b"Q.850 ;cause=16 ;text=\"Normal; clearing\"").unwrap();
    assert_eq!((reason.protocol, reason.cause, reason.text), (&b"Q.850"[..], Some(16), Some(&b"Normal; clearing"[..])));
    let replaces = value::Replaces::parse(b"98@b;to-tag=r;from-tag=l;early-only").unwrap();
    assert_eq!(
        (replaces.call_id, replaces.to_tag, replaces.from_tag, replaces.early_only),
        (&b"98@b"[..], &b"r"[..], &b"l"[..], true)
    );
    assert!(
        value::is_media_type(b"Application / SDP ;x=y", "application/sdp")
            && !value::is_media_type(b"application/sdpx", "application/sdp")
    );
    let bytes = with("Supported: 100rel,, Timer\r\nk: replaces\r\nRetry-After: 18 (soon);duration=5\r\n");
    let message = ok(&bytes);
    assert_eq!(message.tags(HeaderId::Supported).collect::<Vec<_>>(), [&b"100rel"[..], b"Timer", b"replaces"]);
    assert!(message.has_tag(HeaderId::Supported, "timer") && !message.has_tag(HeaderId::Supported, "rel"));
    assert_eq!(message.uint(HeaderId::RetryAfter), Some(18));
}

#[test]
fn lists_split_at_commas_that_count() {
    let bytes = with("Contact: \"a, b\" <sip:x@y;p=1>;q=1,<sip:1,2@z>\r\n");
    let message = ok(&bytes);
    assert_eq!(
        message.values(HeaderId::Contact).collect::<Vec<_>>(),
        [&b"\"a, b\" <sip:x@y;p=1>;q=1"[..], b"<sip:1,2@z>"]
    );
}

#[test]
fn the_top_via_says_where_it_came_from() {
    let check = |via: &str, source: &str, wanted: &str| {
        let bytes = replaced("SIP/2.0/UDP h;branch=z9hG4bK1", via);
        let message = ok(&bytes);
        let mut out = Vec::new();
        write::response(&mut out, &message, Status::OK, "", None, source.parse().unwrap()).finish();
        let out = String::from_utf8(out).unwrap();
        assert!(out.contains(&format!("\r\nVia: {wanted}\r\n")), "{out}");
    };
    check("SIP/2.0/UDP 192.0.2.1;branch=z9hG4bK1", "192.0.2.1:5060", "SIP/2.0/UDP 192.0.2.1;branch=z9hG4bK1");
    check(
        "SIP/2.0/UDP 192.0.2.1;branch=z9hG4bK1",
        "192.0.2.9:5060",
        "SIP/2.0/UDP 192.0.2.1;branch=z9hG4bK1;received=192.0.2.9",
    );
    check(
        "SIP/2.0/UDP h:7;rport;branch=z9hG4bK1",
        "192.0.2.9:50",
        "SIP/2.0/UDP h:7;branch=z9hG4bK1;received=192.0.2.9;rport=50",
    );
    check("SIP/2.0/UDP 192.0.2.1;received=6.6.6.6;a=\"b;c\"", "192.0.2.1:5060", "SIP/2.0/UDP 192.0.2.1;a=\"b;c\"");
    check(
        "SIP/2.0/UDP [2001:db8::1], SIP/2.0/UDP i;rport",
        "[2001:db8::1]:5060",
        "SIP/2.0/UDP [2001:db8::1], SIP/2.0/UDP i;rport",
    );
    check("SIP/2.0/UDP 192.0.2.1", "[::ffff:192.0.2.1]:5060", "SIP/2.0/UDP 192.0.2.1");
}

#[test]
fn keep_alives_are_told_apart() {
    let mut framer = Framer::default();
    assert_eq!(framer.next(b"\r"), Frame::Partial);
    assert_eq!(framer.next(b"\r\n"), Frame::KeepAlive { len: 2 });
    assert_eq!(framer.next(b"\r\n"), Frame::Ping { len: 2 });
    assert_eq!(framer.next(b"\r\nO"), Frame::KeepAlive { len: 2 });
    assert_eq!(framer.next(b"O"), Frame::Partial);
}
