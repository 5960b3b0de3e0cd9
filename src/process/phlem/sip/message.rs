//! One SIP message: `rsip`'s methods and headers, read from and written to bytes by our own adapter.
//!
//! A [`Message`] is read where it lies, a header when it is asked for; a [`Draft`] is written once. `rsip`'s headers are made of a
//! message where it is written anew, in the odd styles of firmware.
//! Reading: unfolds, expands compact names, splits lists of Via, Contact, Route and Record-Route, takes unknown methods, keeps to
//! Content-Length, survives bytes that are no UTF-8. Writing: bodies as bytes, reason phrases as they are. RFC 3261 §7, §25.

use std::borrow::Cow;
use std::fmt::Write as _;
use std::ops::Range;

use bytes::Bytes;
use rsip::Header;
use rsip::Headers;
use rsip::headers::UntypedHeader;

use crate::process::phlem::sip::value::find_outside;
use crate::process::phlem::sip::value::split_list;

/// More header fields than these, or more bytes, are not looked at: the message counts as unreadable.
const HEADERS_MAX: usize = 256;

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Method {
    Known(rsip::Method),
    /// Beyond those that `rsip` lists.
    Other(String),
}

impl Method {
    pub fn parse(text: &str) -> Self {
        use rsip::Method as M;
        Self::Known(match text {
            "ACK" => M::Ack,
            "BYE" => M::Bye,
            "CANCEL" => M::Cancel,
            "INFO" => M::Info,
            "INVITE" => M::Invite,
            "MESSAGE" => M::Message,
            "NOTIFY" => M::Notify,
            "OPTIONS" => M::Options,
            "PRACK" => M::PRack,
            "PUBLISH" => M::Publish,
            "REFER" => M::Refer,
            "REGISTER" => M::Register,
            "SUBSCRIBE" => M::Subscribe,
            "UPDATE" => M::Update,
            other => return Self::Other(other.to_owned()),
        })
    }
}

impl std::fmt::Display for Method {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Known(method) => f.write_str(name_of(*method)),
            Self::Other(text) => f.write_str(text),
        }
    }
}

pub fn name_of(method: rsip::Method) -> &'static str {
    use rsip::Method as M;
    match method {
        M::Ack => "ACK",
        M::Bye => "BYE",
        M::Cancel => "CANCEL",
        M::Info => "INFO",
        M::Invite => "INVITE",
        M::Message => "MESSAGE",
        M::Notify => "NOTIFY",
        M::Options => "OPTIONS",
        M::PRack => "PRACK",
        M::Publish => "PUBLISH",
        M::Refer => "REFER",
        M::Register => "REGISTER",
        M::Subscribe => "SUBSCRIBE",
        M::Update => "UPDATE",
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Start<'a> {
    /// The URI as it stands: `rsip` would not give IPv6, dots and `tel:` back as they came.
    Request {
        method: Method,
        uri: Cow<'a, str>,
    },
    Response {
        code: u16,
        reason: Cow<'a, str>,
    },
}

/// A message that came, where it lies: most are read once, in few of their fields, and forgotten.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message<'a> {
    pub start: Start<'a>,
    fields: Vec<Field<'a>>,
    pub body: Cow<'a, [u8]>,
}

/// Unfolded, trimmed, and one of each list; the name as it came.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Field<'a> {
    name: Cow<'a, str>,
    value: Cow<'a, str>,
}

/// Why bytes are no message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadMessage {
    #[error("no start line of SIP/2.0")]
    Start,
    #[error("a line that is no header field")]
    Header,
    #[error("too many header fields")]
    TooMany,
    #[error("shorter than its Content-Length")]
    Short,
}

impl<'a> Message<'a> {
    pub fn parse(bytes: &'a [u8]) -> Result<Self, BadMessage> {
        let begin = bytes.iter().position(|byte| !matches!(byte, b'\r' | b'\n')).unwrap_or(bytes.len());
        let bytes = bytes.get(begin..).unwrap_or_default();
        let head_end = end_of_head(bytes).ok_or(BadMessage::Header)?;
        let head = bytes.get(..head_end).unwrap_or_default();
        // Almost all messages are UTF-8, and to look is cheaper than to replace.
        let mut message = match std::str::from_utf8(head) {
            Ok(head) => parse_head(head)?,
            Err(_) => parse_head(&String::from_utf8_lossy(head))?.into_owned(),
        };
        let body = bytes.get(head_end + 4..).unwrap_or_default();
        let length = message.value("Content-Length").and_then(|length| length.parse().ok()).unwrap_or(body.len());
        // RFC 3261 §18.3: bytes behind the body of a datagram are discarded, a short one is an error.
        message.body = body.get(..length).ok_or(BadMessage::Short)?.into();
        Ok(message)
    }

    /// To be kept for longer than the bytes that it came in.
    pub fn into_owned(self) -> Message<'static> {
        let own = |text: Cow<'_, str>| Cow::Owned(text.into_owned());
        let start = match self.start {
            Start::Request { method, uri } => Start::Request { method, uri: own(uri) },
            Start::Response { code, reason } => Start::Response { code, reason: own(reason) },
        };
        let fields = self.fields.into_iter().map(|field| Field { name: own(field.name), value: own(field.value) });
        Message { start, fields: fields.collect(), body: Cow::Owned(self.body.into_owned()) }
    }

    /// The first value of this name, compact forms included.
    pub fn value(&self, name: &str) -> Option<&str> {
        self.fields.iter().find(|field| is_named(&field.name, name)).map(|field| &*field.value)
    }

    pub fn values<'b>(&'b self, name: &'b str) -> impl Iterator<Item = &'b str> {
        self.fields.iter().filter(|field| is_named(&field.name, name)).map(|field| &*field.value)
    }

    /// As `rsip` holds them.
    pub fn headers(&self) -> Headers {
        let headers = self.fields.iter().map(|field| header(&field.name, field.value.clone().into_owned()));
        headers.collect::<Vec<_>>().into()
    }

    pub fn method(&self) -> Option<&Method> {
        match &self.start {
            Start::Request { method, .. } => Some(method),
            Start::Response { .. } => None,
        }
    }

    /// Of a request.
    pub fn uri(&self) -> &str {
        match &self.start {
            Start::Request { uri, .. } => uri,
            Start::Response { .. } => "",
        }
    }

    pub fn code(&self) -> Option<u16> {
        match self.start {
            Start::Request { .. } => None,
            Start::Response { code, .. } => Some(code),
        }
    }

    /// Number and method of CSeq.
    pub fn cseq(&self) -> Option<(u32, &str)> {
        let (number, method) = self.value("CSeq")?.split_once([' ', '\t'])?;
        Some((number.parse().ok()?, method.trim_start()))
    }
}

/// Where the empty line is that ends the head.
fn end_of_head(bytes: &[u8]) -> Option<usize> {
    memchr::memchr_iter(b'\r', bytes).find(|at| bytes.get(*at..).is_some_and(|rest| rest.starts_with(b"\r\n\r\n")))
}

fn parse_head(head: &str) -> Result<Message<'_>, BadMessage> {
    let mut lines = lines_of(head);
    let start = parse_start(lines.next().unwrap_or_default())?;
    let mut fields = Vec::with_capacity(16);
    let mut lines = lines.peekable();
    while let Some(line) = lines.next() {
        let mut line = Cow::Borrowed(line);
        // RFC 3261 §7.3.1: "Header fields can be extended over multiple lines by preceding each extra line with at least
        // one SP or horizontal tab (HT)."
        while let Some(more) = lines.next_if(|next| next.starts_with([' ', '\t'])) {
            if !more.trim().is_empty() {
                let whole = line.to_mut();
                whole.truncate(whole.trim_end().len());
                whole.push(' ');
                whole.push_str(more.trim());
            }
        }
        let (name, value) = split_field(line).ok_or(BadMessage::Header)?;
        push_field(&mut fields, name, value)?;
    }
    Ok(Message { start, fields, body: Cow::default() })
}

fn parse_start(line: &str) -> Result<Start<'_>, BadMessage> {
    if let Some(rest) = line.strip_prefix("SIP/2.0 ") {
        let (code, reason) = rest.split_at_checked(3).ok_or(BadMessage::Start)?;
        let code = code.parse().ok().filter(|code| (100..700).contains(code)).ok_or(BadMessage::Start)?;
        return Ok(Start::Response { code, reason: reason.trim().into() });
    }
    let rest = line.strip_suffix(" SIP/2.0").ok_or(BadMessage::Start)?;
    let (method, uri) = rest.split_once(' ').ok_or(BadMessage::Start)?;
    if method.is_empty() || uri.trim().is_empty() || uri.trim().contains(' ') {
        return Err(BadMessage::Start);
    }
    Ok(Start::Request { method: Method::parse(method), uri: uri.trim().into() })
}

fn split_field(line: Cow<'_, str>) -> Option<(Cow<'_, str>, Cow<'_, str>)> {
    match line {
        Cow::Borrowed(line) => {
            let (name, value) = line.split_once(':')?;
            Some((name.trim_end().into(), value.trim().into()))
        }
        Cow::Owned(line) => {
            let (name, value) = line.split_once(':')?;
            Some((name.trim_end().to_owned().into(), value.trim().to_owned().into()))
        }
    }
}

fn push_field<'a>(fields: &mut Vec<Field<'a>>, name: Cow<'a, str>, value: Cow<'a, str>) -> Result<(), BadMessage> {
    if name.is_empty() || name.contains(' ') {
        return Err(BadMessage::Header);
    }
    if fields.len() >= HEADERS_MAX {
        return Err(BadMessage::TooMany);
    }
    let is_list = || ["Via", "Contact", "Route", "Record-Route"].iter().any(|list| is_named(&name, list));
    if !value.contains(',') || !is_list() {
        fields.push(Field { name, value });
        return Ok(());
    }
    let mut push = |value| fields.push(Field { name: name.clone(), value });
    match value {
        Cow::Borrowed(value) => split_list(value).take(HEADERS_MAX).map(Cow::Borrowed).for_each(&mut push),
        Cow::Owned(value) => {
            split_list(&value).take(HEADERS_MAX).map(|item| Cow::Owned(item.to_owned())).for_each(&mut push);
        }
    }
    Ok(())
}

fn is_named(own: &str, name: &str) -> bool {
    let is_short = own.len() == 1 && own.eq_ignore_ascii_case(compact(name));
    own.len() == name.len() && own.eq_ignore_ascii_case(name) || is_short
}

fn lines_of(text: &str) -> impl Iterator<Item = &str> {
    let bytes = text.as_bytes();
    let ends = memchr::memchr_iter(b'\r', bytes).filter(|at| bytes.get(at + 1) == Some(&b'\n')).chain([text.len()]);
    let mut from = 0;
    ends.map(move |end| {
        let line = text.get(from..end).unwrap_or_default();
        from = end + 2;
        line
    })
}

/// Names that `rsip` knows, their compact forms (RFC 3261 §20), and the header they are.
macro_rules! fields {
    ($($variant:ident $name:literal $compact:literal;)+) => {
        /// A header of this name, compact or not, in any case.
        pub fn header(name: &str, value: String) -> Header {
            // As almost everybody writes it.
            match name {
                $($name => return Header::$variant(rsip::headers::$variant::new(value)),)+
                _ => {}
            }
            $(
                if name.eq_ignore_ascii_case($name) || name.eq_ignore_ascii_case($compact) {
                    return Header::$variant(rsip::headers::$variant::new(value));
                }
            )+
            let long = ["Event", "Refer-To", "Referred-By", "Session-Expires"].into_iter().find(|long| is_named(name, long));
            Header::Other(long.unwrap_or(name).to_owned(), value)
        }

        pub fn name_and_value(header: &Header) -> (&str, &str) {
            match header {
                $(Header::$variant(inner) => ($name, inner.value()),)+
                Header::Other(name, value) => (name, value),
                // Never made by `header`.
                _ => ("", ""),
            }
        }

        /// The short form of a name; the name itself if there is none.
        fn compact(name: &str) -> &str {
            match name {
                $($name => if $compact.is_empty() { $name } else { $compact },)+
                "Event" => "o",
                "Refer-To" => "r",
                "Referred-By" => "b",
                "Session-Expires" => "x",
                other => other,
            }
        }
    };
}

fields! {
    Via "Via" "v";
    From "From" "f";
    To "To" "t";
    CallId "Call-ID" "i";
    CSeq "CSeq" "";
    Contact "Contact" "m";
    MaxForwards "Max-Forwards" "";
    ContentLength "Content-Length" "l";
    ContentType "Content-Type" "c";
    RecordRoute "Record-Route" "";
    Route "Route" "";
    Authorization "Authorization" "";
    ProxyAuthorization "Proxy-Authorization" "";
    WwwAuthenticate "WWW-Authenticate" "";
    ProxyAuthenticate "Proxy-Authenticate" "";
    Expires "Expires" "";
    MinExpires "Min-Expires" "";
    RetryAfter "Retry-After" "";
    Allow "Allow" "";
    Supported "Supported" "k";
    Require "Require" "";
    Unsupported "Unsupported" "";
    UserAgent "User-Agent" "";
    Server "Server" "";
    SubscriptionState "Subscription-State" "";
    Subject "Subject" "s";
    Warning "Warning" "";
    Accept "Accept" "";
}

/// How firmware writes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Style {
    pub odd_order: bool,
    pub compact: bool,
    pub folding: bool,
    pub odd_case: bool,
    /// Values of one name joined in one field, blanks where the grammar allows them.
    pub odd_spaces: bool,
}

impl Message<'_> {
    /// Writes it anew. Content-Length is written from the body.
    pub fn emit(&self, style: Style) -> Vec<u8> {
        let mut out = Vec::with_capacity(640 + self.body.len());
        match &self.start {
            Start::Request { method: Method::Known(method), uri } => {
                extend(&mut out, &[name_of(*method), " ", uri, " SIP/2.0\r\n"]);
            }
            Start::Request { method: Method::Other(method), uri } => {
                extend(&mut out, &[method, " ", uri, " SIP/2.0\r\n"]);
            }
            Start::Response { code, reason } => extend(&mut out, &["SIP/2.0 ", &code.to_string(), " ", reason, "\r\n"]),
        }
        let headers = self.headers();
        let is_length = |header: &&Header| matches!(header, Header::ContentLength(_));
        let is_last = |header: &&Header| style.odd_order && matches!(header, Header::Via(_));
        // RFC 3261 §7.3.1: "The relative order of header fields with different field names is not significant."
        let first = headers.iter().filter(|header| !is_last(header) && !is_length(header));
        emit_styled(&mut out, first, style);
        emit_styled(&mut out, headers.iter().filter(is_last), style);
        let length = if style.compact { "l" } else { "Content-Length" };
        extend(&mut out, &[length, ": ", &self.body.len().to_string(), "\r\n\r\n"]);
        out.extend_from_slice(&self.body);
        out
    }
}

fn emit_styled<'a>(out: &mut Vec<u8>, headers: impl Iterator<Item = &'a Header>, style: Style) {
    let mut last: Option<&str> = None;
    for header in headers {
        let (long, value) = name_and_value(header);
        let is_list = matches!(header, Header::Via(_) | Header::Route(_) | Header::RecordRoute(_));
        if style.odd_spaces && is_list && last == Some(long) {
            // In place of the line end: the values go on in the same field.
            out.truncate(out.len() - 2);
            extend(out, &[" ,\t", value, "\r\n"]);
            continue;
        }
        last = Some(long);
        let name = if style.compact { compact(long) } else { long };
        let name = if style.odd_case { name.to_ascii_lowercase() } else { name.to_owned() };
        let colon = if style.odd_case || style.odd_spaces { " : " } else { ": " };
        extend(out, &[&name, colon]);
        let fold = find_outside(value, b';').filter(|_| style.folding).unwrap_or(value.len());
        let (first, rest) = value.split_at(fold);
        extend(out, &[first]);
        if !rest.is_empty() {
            extend(out, &["\r\n\t", rest]);
        }
        extend(out, &["\r\n"]);
    }
}

/// A message that is being written: at once in the bytes that will be sent.
#[derive(Debug)]
pub struct Draft {
    text: String,
    /// Where the URI of a request stands.
    uri: Range<usize>,
    pub body: Vec<u8>,
}

/// Almost all requests and answers fit.
const DRAFT_BYTES: usize = 1_024;

impl Draft {
    pub fn request(method: rsip::Method, uri: &str) -> Self {
        let mut text = String::with_capacity(DRAFT_BYTES);
        text.push_str(name_of(method));
        text.push(' ');
        let from = text.len();
        text.push_str(uri);
        let uri = from..text.len();
        text.push_str(" SIP/2.0\r\n");
        Self { text, uri, body: Vec::new() }
    }

    pub fn response(code: u16, reason: &str) -> Self {
        let mut text = String::with_capacity(DRAFT_BYTES);
        let _ = write!(text, "SIP/2.0 {code} {reason}\r\n");
        Self { text, uri: 0..0, body: Vec::new() }
    }

    /// Of a request.
    pub fn uri(&self) -> &str {
        self.text.get(self.uri.clone()).unwrap_or_default()
    }

    pub fn push(&mut self, name: &str, value: &str) {
        self.push_with(name, |text| text.push_str(value));
    }

    pub fn write(&mut self, name: &str, value: std::fmt::Arguments<'_>) {
        self.push_with(name, |text| {
            // Writing to a string does not fail.
            let _ = text.write_fmt(value);
        });
    }

    /// A field whose value `write` appends.
    pub fn push_with(&mut self, name: &str, write: impl FnOnce(&mut String)) {
        self.text.push_str(name);
        self.text.push_str(": ");
        write(&mut self.text);
        self.text.push_str("\r\n");
    }

    /// The bytes to be sent. An odd style is the plain one read and written anew: few phones pay for it.
    pub fn finish(self, style: Style) -> Bytes {
        let Self { mut text, body, .. } = self;
        let _ = write!(text, "Content-Length: {}\r\n\r\n", body.len());
        let mut bytes = text.into_bytes();
        bytes.extend_from_slice(&body);
        if style == Style::default() {
            return bytes.into();
        }
        Message::parse(&bytes).map(|message| message.emit(style)).unwrap_or(bytes).into()
    }
}

fn extend(out: &mut Vec<u8>, parts: &[&str]) {
    for part in parts {
        out.extend_from_slice(part.as_bytes());
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn invite() -> Draft {
        let mut message = Draft::request(rsip::Method::Invite, "sip:a.b@[::1]:5070;x=1");
        message.push("Via", "SIP/2.0/UDP [::1]:5060;branch=z9hG4bK1;rport");
        message.push("Via", "SIP/2.0/TCP h;branch=z9hG4bK2");
        message.push("From", "\"A, \\\" B\" <sip:a.b@h>;tag=1");
        message.push("To", "<sip:c@h>");
        message.push("Call-ID", "x@y");
        message.push("CSeq", "7 INVITE");
        message.push("Contact", "<sip:a@h;q=1>;+sip.instance=\"<urn:uuid:1>\"");
        message.push("Refer-To", "<sip:r@h>");
        message.push("Content-Type", "application/sdp");
        message.body = b"v=0\r\n\xff".to_vec();
        message
    }

    #[test]
    fn every_style_reads_back_as_the_same() {
        let plain = invite().finish(Style::default());
        let message = Message::parse(&plain).unwrap();
        for bits in 0..32u8 {
            let bit = |place: u8| bits >> place & 1 == 1;
            let style =
                Style { odd_order: bit(0), compact: bit(1), folding: bit(2), odd_case: bit(3), odd_spaces: bit(4) };
            let bytes = invite().finish(style);
            let read = Message::parse(&bytes).unwrap();
            assert_eq!((&read.start, &read.body), (&message.start, &message.body), "{style:?}");
            for name in ["Via", "From", "To", "Call-ID", "CSeq", "Contact", "Refer-To", "Content-Type"] {
                let plain = |message: &Message<'_>| -> Vec<String> {
                    message.values(name).map(|value| value.replacen(" ;", ";", 1)).collect()
                };
                assert_eq!(plain(&read), plain(&message), "{name} {style:?}");
            }
        }
    }

    #[test]
    fn rsip_reads_the_same_headers() {
        let mut draft = Draft::request(rsip::Method::Invite, "sip:a@h.test:5070");
        for (name, value) in [
            ("Via", "SIP/2.0/UDP h.test:5060;branch=z9hG4bK1;rport"),
            ("From", "\"A\" <sip:a@h.test>;tag=1"),
            ("To", "<sip:c@h.test>"),
            ("Call-ID", "x@y"),
            ("CSeq", "7 INVITE"),
            ("Refer-To", "<sip:r@h.test>"),
            ("User-Agent", "phlem"),
        ] {
            draft.push(name, value);
        }
        let bytes = draft.finish(Style::default());
        let theirs = rsip::Request::try_from(bytes.as_ref()).unwrap();
        assert_eq!(Message::parse(&bytes).unwrap().headers(), theirs.headers);
    }

    #[test]
    fn what_rsip_refuses_is_read() {
        let text = "\r\n\r\nSUBSCRIBE tel:+49 SIP/2.0\r\nv: SIP/2.0/UDP a;branch=z9hG4bK1, SIP/2.0/UDP b\r\n\
                    TO :\r\n <sip:x@[::1]>\r\n \t\r\n ;tag=5\r\nB\r\n : <sip:b@h>\r\nl: 2\r\n\r\nabcd";
        let message = Message::parse(text.as_bytes()).unwrap();
        assert_eq!(message.values("Via").collect::<Vec<_>>(), ["SIP/2.0/UDP a;branch=z9hG4bK1", "SIP/2.0/UDP b"]);
        assert_eq!(message.value("To"), Some("<sip:x@[::1]> ;tag=5"));
        assert_eq!(message.value("Referred-By"), Some("<sip:b@h>"));
        assert_eq!(&*message.body, b"ab");
        assert_eq!(message.clone().into_owned(), message);
        let other = Message::parse(b"JUMP sip:x SIP/2.0\r\n\r\n").unwrap();
        assert_eq!(other.method(), Some(&Method::Other("JUMP".to_owned())));
        let response = Message::parse(b"SIP/2.0 486 Busy = \xfc\r\nCSeq: 4  INVITE\r\n\r\n").unwrap();
        assert_eq!((response.code(), response.cseq()), (Some(486), Some((4, "INVITE"))));
    }

    #[test]
    fn faults() {
        let check = |text: &str, fault: BadMessage| assert_eq!(Message::parse(text.as_bytes()), Err(fault), "{text:?}");
        check("", BadMessage::Header);
        check("INVITE sip:x SIP/3.0\r\n\r\n", BadMessage::Start);
        check("INVITE  SIP/2.0\r\n\r\n", BadMessage::Start);
        check("SIP/2.0 99 No\r\n\r\n", BadMessage::Start);
        check("SIP/2.0 2x0 No\r\n\r\n", BadMessage::Start);
        check("INVITE sip:x SIP/2.0\r\nnonsense\r\n\r\n", BadMessage::Header);
        check("INVITE sip:x SIP/2.0\r\nContent-Length: 5\r\n\r\nabc", BadMessage::Short);
        let many = format!("INVITE sip:x SIP/2.0\r\n{}\r\n", "a: b\r\n".repeat(HEADERS_MAX + 1));
        check(&many, BadMessage::TooMany);
    }

    proptest! {
        #[test]
        fn any_bytes(bytes in proptest::collection::vec(any::<u8>(), 0..400), cut in 0usize..400) {
            let _ = Message::parse(&bytes);
            let mut text = invite().finish(Style::default()).to_vec();
            let cut = cut % text.len();
            text.splice(cut..cut, bytes);
            if let Ok(message) = Message::parse(&text) {
                let again = message.emit(Style::default());
                prop_assert!(Message::parse(&again).is_ok());
            }
        }
    }
}
