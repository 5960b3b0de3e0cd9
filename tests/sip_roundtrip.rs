//! What is written is read again: messages built from generated values, scanned, and compared value by value.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::net::IpAddr;
use std::net::SocketAddr;

use proptest::prelude::*;
use tipring::wire::sip::Credentials;
use tipring::wire::sip::HeaderId;
use tipring::wire::sip::Message;
use tipring::wire::sip::Method;
use tipring::wire::sip::Scan;
use tipring::wire::sip::Status;
use tipring::wire::sip::Transport;
use tipring::wire::sip::scan;
use tipring::wire::sip::write;

#[derive(Clone, Debug)]
struct Parts {
    method: Method,
    user: String,
    host: String,
    port: Option<u16>,
    display: String,
    tag: String,
    to_tag: Option<String>,
    branch: String,
    rport: bool,
    call_id: String,
    cseq: u32,
    max_forwards: u8,
    unknown: (String, String),
    body: Vec<u8>,
}

fn method() -> impl Strategy<Value = Method> {
    use Method as M;
    prop::sample::select(vec![
        M::Invite,
        M::Bye,
        M::Cancel,
        M::Options,
        M::Register,
        M::Prack,
        M::Update,
        M::Info,
        M::Notify,
        M::Refer,
    ])
}

fn host() -> impl Strategy<Value = String> {
    prop_oneof![
        "[a-z][a-z0-9-]{0,10}(\\.[a-z]{2,5}){0,3}",
        any::<[u8; 4]>().prop_map(|ip| IpAddr::from(ip).to_string()),
        any::<[u8; 16]>().prop_map(|ip| format!("[{}]", IpAddr::from(ip)))
    ]
}

fn parts() -> impl Strategy<Value = Parts> {
    let token = "[A-Za-z0-9.!%*_+`'~-]{1,40}";
    let address = (
        method(),
        "([A-Za-z0-9_.!~*'()&=+$,;?/-]|%[0-9A-F]{2}){1,20}",
        host(),
        any::<Option<u16>>(),
        "([ -!#-\\[\\]-~]|\\\\[ -~]|[à-ž]){0,30}",
    );
    let dialog = (token, prop::option::of(token), token, any::<bool>(), "[A-Za-z0-9.@-]{1,40}", 0..0x8000_0000u32);
    let rest =
        (any::<u8>(), ("X-[A-Za-z-]{1,20}", "[!-~]([ -~]{0,60}[!-~])?"), prop::collection::vec(any::<u8>(), 0..200));
    (address, dialog, rest).prop_map(
        |(
            (method, user, host, port, display),
            (tag, to_tag, branch, rport, call_id, cseq),
            (max_forwards, unknown, body),
        )| Parts {
            method,
            user,
            host,
            port,
            display,
            tag,
            to_tag,
            branch,
            rport,
            call_id,
            cseq,
            max_forwards,
            unknown,
            body,
        },
    )
}

impl Parts {
    fn uri(&self) -> String {
        let port = self.port.map(|port| format!(":{port}")).unwrap_or_default();
        format!("sip:{}@{}{port};transport=udp", self.user, self.host)
    }

    fn emit(&self, out: &mut Vec<u8>) {
        let uri = self.uri();
        let rport = if self.rport { ";rport" } else { "" };
        let to_tag = self.to_tag.as_ref().map(|tag| format!(";tag={tag}")).unwrap_or_default();
        write::request(out, self.method, &uri)
            .display_header(
                HeaderId::Via,
                format_args!("SIP/2.0/UDP {};branch=z9hG4bK{}{rport}", self.host, self.branch),
            )
            .uint_header(HeaderId::MaxForwards, self.max_forwards)
            .display_header(HeaderId::From, format_args!("\"{}\" <{uri}>;tag={}", self.display, self.tag))
            .display_header(HeaderId::To, format_args!("<{uri}>{to_tag}"))
            .header(HeaderId::CallId, &self.call_id)
            .display_header(HeaderId::CSeq, format_args!("{} {}", self.cseq, self.method.name()))
            .display_header(
                HeaderId::Contact,
                format_args!("<{uri}>;+sip.instance=\"<urn:uuid:{}>\";q=0.7", self.call_id),
            )
            .header(self.unknown.0.as_str(), &self.unknown.1)
            .body("application/octet-stream", &self.body);
    }
}

fn ok(bytes: &[u8], transport: Transport) -> Message<'_> {
    match scan(bytes, transport) {
        Scan::Ok(message) => message,
        other => panic!("{other:?}: {}", bytes.escape_ascii()),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(512) })]

    #[test]
    fn a_request_keeps_its_values(parts in parts(), garbage in prop::collection::vec(any::<u8>(), 0..40)) {
        let mut bytes = Vec::new();
        parts.emit(&mut bytes);
        let length = bytes.len();
        bytes.extend_from_slice(&garbage);

        let message = ok(&bytes, Transport::Udp);
        prop_assert_eq!(message.bytes().len(), length);
        prop_assert_eq!(message.method(), parts.method);
        let uri = tipring::wire::sip::Uri::parse(message.request().unwrap().uri).unwrap().sip().unwrap();
        prop_assert_eq!(uri.user, Some(parts.user.as_bytes()));
        prop_assert_eq!(uri.port, parts.port);
        prop_assert!(uri.host.is_named(&parts.host));
        prop_assert_eq!(uri.transport(), Some(&b"udp"[..]));
        let via = message.top_via().unwrap();
        let branch = format!("z9hG4bK{}", parts.branch);
        prop_assert_eq!(via.branch(), Some(branch.as_bytes()));
        prop_assert_eq!(via.wants_rport(), parts.rport);
        let from = message.from().unwrap();
        prop_assert_eq!(from.display_text(), parts.display.as_bytes());
        prop_assert_eq!(from.tag(), Some(parts.tag.as_bytes()));
        prop_assert_eq!(message.to().unwrap().tag(), parts.to_tag.as_deref().map(str::as_bytes));
        prop_assert_eq!(message.call_id(), parts.call_id.as_bytes());
        prop_assert_eq!(message.cseq().unwrap().number, parts.cseq);
        prop_assert_eq!(message.max_forwards(), Some(parts.max_forwards));
        let instance = format!("urn:uuid:{}", parts.call_id);
        let contact = message.name_addrs(HeaderId::Contact).next().unwrap().unwrap();
        prop_assert_eq!((contact.instance(), contact.q()), (Some(instance.as_bytes()), Some(700)));
        prop_assert_eq!(message.other(&parts.unknown.0.to_uppercase()), Some(parts.unknown.1.as_bytes()));
        prop_assert_eq!(message.body(), &parts.body[..]);
    }

    #[test]
    fn an_answer_finds_its_request(parts in parts(), ip in any::<[u8; 4]>(), port in any::<u16>(), status in 100..700u16) {
        let mut bytes = Vec::new();
        parts.emit(&mut bytes);
        let request = ok(&bytes, Transport::Udp);
        let status = Status::new(status).unwrap();
        let source = SocketAddr::from((ip, port));
        let mut out = Vec::new();
        write::response(&mut out, &request, status, "", Some("ours"), source).finish();

        let answer = ok(&out, Transport::Tcp);
        prop_assert_eq!(answer.response().unwrap().status, status);
        prop_assert_eq!(answer.method(), parts.method);
        prop_assert_eq!(answer.call_id(), request.call_id());
        prop_assert_eq!(answer.header(HeaderId::From), request.header(HeaderId::From));
        let via = answer.top_via().unwrap();
        prop_assert_eq!(via.branch(), request.top_via().unwrap().branch());
        prop_assert_eq!(via.rport(), parts.rport.then_some(port));
        let is_told = parts.rport || via.host.ip() != Some(source.ip());
        prop_assert_eq!(via.received(), is_told.then_some(source.ip()));
        let tag = match (&parts.to_tag, status) {
            (Some(tag), _) => Some(tag.as_bytes()),
            (None, Status::TRYING) => None,
            (None, _) => Some(&b"ours"[..]),
        };
        prop_assert_eq!(answer.to().unwrap().tag(), tag);
    }

    #[test]
    fn credentials_keep_their_values(username in "([ -!#-\\[\\]-~]|\\\\[ -~]){1,20}", nonce in "[A-Za-z0-9+/=]{1,60}", nc in any::<u32>(), response in "[0-9a-f]{64}") {
        let text = format!(
            "Digest username=\"{username}\",realm=\"acme.test\", nonce=\"{nonce}\" , uri=\"sip:acme.test\",response=\"{response}\",\
             algorithm=SHA-256, qop=auth, nc={nc:08x}, cnonce=\"a,b\""
        );
        let credentials = Credentials::parse(text.as_bytes()).unwrap().unwrap();
        prop_assert_eq!(credentials.username, username.as_bytes());
        prop_assert_eq!(credentials.nonce, nonce.as_bytes());
        prop_assert_eq!(credentials.nc, Some(nc));
        prop_assert_eq!(credentials.response, response.as_bytes());
        prop_assert_eq!(credentials.cnonce, Some(&b"a,b"[..]));
    }
}
