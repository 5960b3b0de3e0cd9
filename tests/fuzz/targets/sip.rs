//! Properties of `wire::sip` over any bytes.

use std::net::SocketAddr;

use tipring::wire::sip::Challenge;
use tipring::wire::sip::Contact;
use tipring::wire::sip::Credentials;
use tipring::wire::sip::Frame;
use tipring::wire::sip::Framer;
use tipring::wire::sip::HeaderId;
use tipring::wire::sip::Message;
use tipring::wire::sip::NameAddr;
use tipring::wire::sip::RAck;
use tipring::wire::sip::ReasonValue;
use tipring::wire::sip::Scan;
use tipring::wire::sip::SessionExpires;
use tipring::wire::sip::StartLine;
use tipring::wire::sip::Status;
use tipring::wire::sip::Transport;
use tipring::wire::sip::Uri;
use tipring::wire::sip::Via;
use tipring::wire::sip::scan;
use tipring::wire::sip::value;
use tipring::wire::sip::write;

/// Everything that is lent lies in the input, an untouched message is put together again byte for byte, and it can be answered.
pub(crate) fn message(bytes: &[u8]) {
    for transport in [Transport::Udp, Transport::Tcp] {
        match scan(bytes, transport) {
            Scan::Ok(message) => {
                lies_inside(&message, bytes);
                assert_eq!(put_together(&message), message.bytes(), "the parts are the whole");
                assert!(
                    message.top_via().is_ok()
                        && message.from().is_ok()
                        && message.to().is_ok()
                        && message.cseq().is_ok()
                );
                assert!(!message.call_id().is_empty());
                is_the_same_again(&message, transport);
                if message.is_request() {
                    is_answered(&message, true);
                }
            }
            Scan::Answerable { status, message, .. } => {
                assert!(status.code() >= 400 && message.is_request());
                lies_inside(&message, bytes);
                is_answered(&message, false);
            }
            Scan::Drop(_) => {}
        }
    }
}

/// No view panics, and none lends what is not its own.
pub(crate) fn values(bytes: &[u8]) {
    if let Ok(uri) = Uri::parse(bytes) {
        uri.params().iter().for_each(|param| inside(param.name, bytes));
        uri.user().into_iter().for_each(|user| inside(user, bytes));
    }
    if let Ok(address) = NameAddr::parse(bytes) {
        inside(address.uri, bytes);
        inside(address.display, bytes);
        inside(address.params.raw(), bytes);
        let _ =
            (address.parse_uri(), address.tag(), address.q(), address.expires(), address.instance(), address.reg_id());
    }
    if let Ok(via) = Via::parse(bytes) {
        inside(via.transport, bytes);
        let _ = (via.branch(), via.received(), via.rport(), via.ttl(), via.maddr());
    }
    if let Ok(Some(credentials)) = Credentials::parse(bytes) {
        inside(credentials.response, bytes);
        inside(credentials.nonce, bytes);
    }
    let _ = (
        Challenge::parse(bytes),
        Contact::parse(bytes),
        RAck::parse(bytes),
        SessionExpires::parse(bytes),
        ReasonValue::parse(bytes),
    );
    let _ =
        (value::Replaces::parse(bytes), value::word_and_params(bytes), value::is_media_type(bytes, "application/sdp"));
    assert!(tipring::wire::sip::uri::unescaped(bytes).count() <= bytes.len());
}

/// A stream is cut the same way however it comes, and every frame but the last is consumed once.
pub(crate) fn stream(bytes: &[u8]) {
    let whole = frames(bytes, bytes.len().max(1));
    for step in [1, 2, 3, 5, 64, 1000] {
        assert_eq!(frames(bytes, step), whole, "in steps of {step}");
    }
}

/// Nothing that is written with these bytes breaks the message.
pub(crate) fn written(bytes: &[u8]) {
    let (name, value) = bytes.split_at(bytes.len() / 3);
    let mut out = Vec::new();
    write::request(&mut out, bytes, bytes)
        .header(HeaderId::Subject, value)
        .header(name, value)
        .display_header("X", String::from_utf8_lossy(value))
        .end(value);
    let head = &out[..out.len() - value.len()];
    assert_eq!(head.iter().filter(|byte| **byte == b'\n').count(), 6, "four fields, a start line and the empty line");
    assert_eq!(head.iter().filter(|byte| **byte == b'\r').count(), 6);
}

/// All of them.
pub(crate) fn all(bytes: &[u8]) {
    message(bytes);
    values(bytes);
    stream(bytes);
    written(bytes);
}

fn inside(part: &[u8], whole: &[u8]) {
    let (part, whole) = (part.as_ptr_range(), whole.as_ptr_range());
    assert!(part.is_empty() || (part.start >= whole.start && part.end <= whole.end), "a view left its bytes");
}

fn lies_inside(message: &Message<'_>, bytes: &[u8]) {
    inside(message.bytes(), bytes);
    inside(message.body(), bytes);
    assert!(message.bytes().ends_with(message.body()));
    for field in message.all_headers() {
        inside(field.line, bytes);
        inside(field.value, field.line);
        inside(field.name, field.line);
        assert!(!field.name.is_empty() && HeaderId::parse(field.name) == field.id);
        values(field.value);
    }
    for id in HeaderId::ALL {
        assert_eq!(message.has(*id), message.header(*id).is_some());
        message.values(*id).for_each(values);
        let _ = (message.uint(*id), message.tags(*id).count());
    }
    assert!(message.all_headers().count() <= tipring::base::limit::SIP_HEADERS_MAX);
}

fn put_together(message: &Message<'_>) -> Vec<u8> {
    let head = message
        .all_headers()
        .next()
        .map_or(0, |field| field.line.as_ptr() as usize - message.bytes().as_ptr() as usize);
    let mut out = message.bytes()[..head].to_vec();
    message.all_headers().for_each(|field| out.extend_from_slice(field.line));
    out.extend_from_slice(b"\r\n");
    out.extend_from_slice(message.body());
    out
}

fn is_the_same_again(message: &Message<'_>, transport: Transport) {
    let Scan::Ok(again) = scan(message.bytes(), transport) else { panic!("a message is one without what followed it") };
    assert_eq!(again.bytes(), message.bytes());
    assert_eq!(again.start_line(), message.start_line());
    assert!(again.all_headers().eq(message.all_headers()));
    assert_eq!(again.body(), message.body());
}

fn is_answered(request: &Message<'_>, is_legal: bool) {
    let source = SocketAddr::from(([198, 51, 100, 7], 49_152));
    let mut out = Vec::new();
    write::response(&mut out, request, Status::NOT_FOUND, "", Some("a1b2"), source).finish();
    let copied = [HeaderId::Via, HeaderId::From, HeaderId::To, HeaderId::CallId, HeaderId::CSeq];
    let lines: usize = copied.iter().map(|id| request.headers(*id).count()).sum();
    assert_eq!(out.iter().filter(|byte| **byte == b'\n').count(), lines + 3, "one line a field, and nothing injected");
    if !is_legal {
        return;
    }
    let Scan::Ok(answer) = scan(&out, Transport::Tcp) else { panic!("{}", String::from_utf8_lossy(&out)) };
    assert!(matches!(answer.start_line(), StartLine::Response(response) if response.status == Status::NOT_FOUND));
    assert_eq!(answer.values(HeaderId::Via).count(), request.values(HeaderId::Via).count());
    assert_eq!(answer.cseq().unwrap().number, request.cseq().unwrap().number);
    assert!(answer.to().unwrap().tag().is_some());
    // A NUL, which no branch may have, does not go out again.
    let branch = request.top_via().unwrap().branch().map(|branch| branch.to_vec());
    let without_nul = branch.map(|branch| branch.iter().map(|byte| if *byte == 0 { b' ' } else { *byte }).collect());
    assert_eq!(answer.top_via().unwrap().branch().map(<[u8]>::to_vec), without_nul);
}

/// The frames of a stream that comes `step` bytes at a time, until it ends or breaks.
fn frames(bytes: &[u8], step: usize) -> Vec<Frame> {
    let mut framer = Framer::default();
    let (mut from, mut to) = (0, 0);
    let mut frames = Vec::new();
    loop {
        match framer.next(&bytes[from..to]) {
            Frame::Partial if to == bytes.len() => return frames,
            Frame::Partial => to = bytes.len().min(to + step),
            Frame::Broken { head } => {
                assert!(head <= to - from);
                frames.push(Frame::Broken { head });
                return frames;
            }
            frame @ (Frame::Message { len } | Frame::KeepAlive { len } | Frame::Ping { len }) => {
                assert!(len > 0 && from + len <= to);
                frames.push(frame);
                from += len;
            }
        }
    }
}
