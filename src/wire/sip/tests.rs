//! Behaviour of the scanner and writer on small messages.

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
