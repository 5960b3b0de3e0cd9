//! Writes messages, append-only, into a buffer of the caller. No message can be broken by a value: CR, LF and NUL in values become blanks.
//!
//! ```
//! # use tipring::wire::sip::{write, HeaderId, Method};
//! let mut out = Vec::new();
//! write::request(&mut out, Method::Options, "sip:192.0.2.1").header(HeaderId::CallId, "1").uint_header(HeaderId::MaxForwards, 70).finish();
//! assert_eq!(out, b"OPTIONS sip:192.0.2.1 SIP/2.0\r\nCall-ID: 1\r\nMax-Forwards: 70\r\nContent-Length: 0\r\n\r\n");
//! ```

use std::io::Write as _;
use std::net::IpAddr;
use std::net::SocketAddr;

use crate::wire::sip::Field;
use crate::wire::sip::HeaderId;
use crate::wire::sip::Malformed;
use crate::wire::sip::Message;
use crate::wire::sip::Status;
use crate::wire::sip::Via;
use crate::wire::sip::syntax;

/// What [`Writer::finish`] adds.
pub const END_BYTES: usize = b"Content-Length: 0\r\n\r\n".len();

/// The name of a header: a [`HeaderId`] or the bytes of an unknown one.
pub trait Name {
    fn bytes(&self) -> &[u8];
}

impl Name for HeaderId {
    fn bytes(&self) -> &[u8] {
        self.name().as_bytes()
    }
}

impl Name for &str {
    fn bytes(&self) -> &[u8] {
        self.as_bytes()
    }
}

impl Name for &[u8] {
    fn bytes(&self) -> &[u8] {
        self
    }
}

/// A message that is being written. It ends with [`Writer::body`] or [`Writer::finish`]; without one it is no message.
#[derive(Debug)]
pub struct Writer<'o> {
    out: &'o mut Vec<u8>,
}

/// Begins a request. `method` is a [`crate::wire::sip::Method`] or the name of an unknown one.
pub fn request<'o>(out: &'o mut Vec<u8>, method: impl AsRef<[u8]>, uri: impl AsRef<[u8]>) -> Writer<'o> {
    push_word(out, method.as_ref());
    out.push(b' ');
    push_word(out, uri.as_ref());
    out.extend_from_slice(b" SIP/2.0\r\n");
    Writer { out }
}

/// Begins header fields alone, for [`Writer::raw`] of another message.
pub fn fragment(out: &mut Vec<u8>) -> Writer<'_> {
    Writer { out }
}

/// Begins a response with nothing but its status line; an empty `reason` takes the usual one.
pub fn status_line<'o>(out: &'o mut Vec<u8>, status: Status, reason: &str) -> Writer<'o> {
    let reason = if reason.is_empty() { status.reason() } else { reason };
    out.extend_from_slice(b"SIP/2.0 ");
    push_uint(out, status.code().into());
    out.push(b' ');
    push_clean(out, reason.as_bytes());
    out.extend_from_slice(b"\r\n");
    Writer { out }
}

/// Begins the answer to `request` as RFC 3261 §8.2.6.2 has it: every Via, From, To, Call-ID and CSeq are copied, as far as they are there.
///
/// The top Via says where the request came from (`source`, RFC 3261 §18.2.1, RFC 3581 §4). `to_tag` is added where To has no tag and the
/// answer is not 100. An empty `reason` takes the usual one. The answer is one that is given at once: Timestamp is copied, too (§8.2.6.1).
pub fn response<'o>(
    out: &'o mut Vec<u8>,
    request: &Message<'_>,
    status: Status,
    reason: &str,
    to_tag: Option<&str>,
    source: SocketAddr,
) -> Writer<'o> {
    let mut writer = status_line(out, status, reason);
    for (at, line) in request.headers(HeaderId::Via).enumerate() {
        if at == 0 {
            writer.top_via(line, request.top_via(), source);
        } else {
            writer.header(HeaderId::Via, line);
        }
    }
    writer.copy(request, HeaderId::From);
    writer.to(request, to_tag.filter(|_| status != Status::TRYING));
    writer.copy(request, HeaderId::CallId).copy(request, HeaderId::CSeq).copy(request, HeaderId::Timestamp);
    writer
}

impl Writer<'_> {
    /// One header field.
    pub fn header(&mut self, name: impl Name, value: impl AsRef<[u8]>) -> &mut Self {
        self.parts(name, &[value.as_ref()])
    }

    /// One header field whose value is these parts, one after the other.
    pub fn parts(&mut self, name: impl Name, parts: &[&[u8]]) -> &mut Self {
        push_name(self.out, name.bytes());
        for part in parts {
            push_clean(self.out, part);
        }
        self.out.extend_from_slice(b"\r\n");
        self
    }

    /// One header field from anything that can be displayed: `format_args!("<sip:{user}@{host}>")`.
    pub fn display_header(&mut self, name: impl Name, value: impl std::fmt::Display) -> &mut Self {
        push_name(self.out, name.bytes());
        let start = self.out.len();
        // Writing to a Vec cannot fail.
        let _ = write!(self.out, "{value}");
        clean(self.out.get_mut(start..).unwrap_or_default());
        self.out.extend_from_slice(b"\r\n");
        self
    }

    /// One header field with a number.
    pub fn uint_header(&mut self, name: impl Name, value: impl Into<u64>) -> &mut Self {
        push_name(self.out, name.bytes());
        push_uint(self.out, value.into());
        self.out.extend_from_slice(b"\r\n");
        self
    }

    /// Every line of this header in `from`, folds made blanks.
    pub fn copy(&mut self, from: &Message<'_>, id: HeaderId) -> &mut Self {
        for value in from.headers(id) {
            self.header(id, value);
        }
        self
    }

    /// One field of a message that scanned `Ok`, byte for byte.
    pub fn copy_field(&mut self, field: Field<'_>) -> &mut Self {
        self.out.extend_from_slice(field.line);
        self
    }

    /// Bytes that a writer made before, as they are.
    pub fn raw(&mut self, bytes: &[u8]) -> &mut Self {
        self.out.extend_from_slice(bytes);
        self
    }

    /// The body with its type, and the end of the message.
    pub fn body(&mut self, content_type: &str, body: &[u8]) {
        self.header(HeaderId::ContentType, content_type);
        self.end(body);
    }

    /// The end of a message without a body.
    pub fn finish(&mut self) {
        self.end(b"");
    }

    /// The end of a message whose Content-Type and other Content headers were written before.
    pub fn end(&mut self, body: &[u8]) {
        self.out.extend_from_slice(b"Content-Length: ");
        push_uint(self.out, body.len() as u64);
        self.out.extend_from_slice(b"\r\n\r\n");
        self.out.extend_from_slice(body);
    }

    fn top_via(&mut self, line: &[u8], via: Result<Via<'_>, Malformed>, source: SocketAddr) {
        let (top, rest) = match syntax::split_at_comma(line) {
            Some((top, rest)) => (syntax::trim(top), Some(rest)),
            None => (line, None),
        };
        push_name(self.out, HeaderId::Via.bytes());
        match via {
            Ok(via) => push_via(self.out, top, via, source),
            // A faulty Via is copied: its sender may still know it.
            Err(_) => push_clean(self.out, top),
        }
        if let Some(rest) = rest {
            self.out.extend_from_slice(b", ");
            push_clean(self.out, syntax::trim(rest));
        }
        self.out.extend_from_slice(b"\r\n");
    }

    fn to(&mut self, request: &Message<'_>, to_tag: Option<&str>) {
        let Some(value) = request.header(HeaderId::To) else { return };
        let tagless = request.to().is_ok_and(|to| to.tag().is_none());
        match to_tag {
            Some(tag) if tagless => self.parts(HeaderId::To, &[value, b";tag=", tag.as_bytes()]),
            _ => self.header(HeaderId::To, value),
        };
    }
}

/// RFC 3261 §18.2.1: "If the host portion of the "sent-by" parameter contains a domain name, or if it contains an IP address that differs
/// from the packet source address, the server MUST add a "received" parameter". RFC 3581 §4: with `rport`, `received` is always added.
fn push_via(out: &mut Vec<u8>, top: &[u8], via: Via<'_>, source: SocketAddr) {
    let wants_rport = via.wants_rport();
    // Parameters are the tail of the value; `received` and `rport` of the sender are replaced.
    let head = top.len().saturating_sub(via.params.raw().len());
    push_clean(out, syntax::trim(top.get(..head).unwrap_or_default()));
    for param in via.params {
        if param.name.eq_ignore_ascii_case(b"received") || param.name.eq_ignore_ascii_case(b"rport") {
            continue;
        }
        out.push(b';');
        push_clean(out, param.name);
        match param.value {
            Some(value) if param.quoted => {
                out.extend_from_slice(b"=\"");
                push_clean(out, value);
                out.push(b'"');
            }
            Some(value) => {
                out.push(b'=');
                push_clean(out, value);
            }
            None => {}
        }
    }
    let address = source.ip().to_canonical();
    if wants_rport || via.host.ip().map(|host| host.to_canonical()) != Some(address) {
        out.extend_from_slice(b";received=");
        push_address(out, address);
    }
    if wants_rport {
        out.extend_from_slice(b";rport=");
        push_uint(out, source.port().into());
    }
}

fn push_address(out: &mut Vec<u8>, address: IpAddr) {
    let IpAddr::V4(address) = address else {
        // Writing to a Vec cannot fail.
        let _ = write!(out, "{address}");
        return;
    };
    for (at, byte) in address.octets().into_iter().enumerate() {
        if at > 0 {
            out.push(b'.');
        }
        push_uint(out, byte.into());
    }
}

fn push_uint(out: &mut Vec<u8>, value: u64) {
    out.extend_from_slice(itoa::Buffer::new().format(value).as_bytes());
}

fn push_name(out: &mut Vec<u8>, name: &[u8]) {
    push_word(out, name);
    out.extend_from_slice(b": ");
}

/// A word of the start line or a header name: what would end it is dropped.
fn push_word(out: &mut Vec<u8>, word: &[u8]) {
    out.extend(word.iter().filter(|byte| **byte > b' ' && **byte != 0x7F));
}

fn push_clean(out: &mut Vec<u8>, value: &[u8]) {
    let start = out.len();
    out.extend_from_slice(value);
    clean(out.get_mut(start..).unwrap_or_default());
}

/// RFC 3261 §25.1 allows NUL in a quoted pair, but no peer can be trusted to read on behind it.
fn clean(value: &mut [u8]) {
    let mut rest = value;
    while let Some(at) = memchr::memchr3(b'\r', b'\n', 0, rest)
        && let Some((_, [found, tail @ ..])) = rest.split_at_mut_checked(at)
    {
        *found = b' ';
        rest = tail;
    }
}
