//! Finds the session description in a message: a body of its own, or a part of a multipart body (RFC 3261 §7.4, RFC 5621).

use crate::wire::sip::HeaderId;
use crate::wire::sip::Message;
use crate::wire::sip::value::is_media_type;
use crate::wire::sip::value::word_and_params;

/// What the body is to a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Content<'a> {
    Nothing,
    Sdp(&'a [u8]),
    /// RFC 3261 §8.2.3: of a type or coding that we do not understand, and not optional: 415.
    Unsupported,
}

const PARTS_MAX: usize = 8;

impl<'a> Content<'a> {
    pub fn of(message: &Message<'a>) -> Self {
        let body = message.body();
        if body.is_empty() {
            return Content::Nothing;
        }
        let disposition = message.header(HeaderId::ContentDisposition);
        let coding = message.header(HeaderId::ContentEncoding);
        if coding.is_some_and(|coding| !coding.eq_ignore_ascii_case(b"identity")) {
            return Self::foreign(disposition);
        }
        Self::of_part(message.header(HeaderId::ContentType), disposition, body)
    }

    pub fn sdp(self) -> Option<&'a [u8]> {
        match self {
            Content::Sdp(sdp) => Some(sdp),
            Content::Nothing | Content::Unsupported => None,
        }
    }

    fn of_part(content_type: Option<&'a [u8]>, disposition: Option<&[u8]>, body: &'a [u8]) -> Self {
        match content_type {
            Some(kind) if is_media_type(kind, "application/sdp") => Content::Sdp(body),
            Some(kind) if kind.get(..10).is_some_and(|start| start.eq_ignore_ascii_case(b"multipart/")) => {
                Self::of_multipart(kind, body).unwrap_or(Content::Unsupported)
            }
            _ => Self::foreign(disposition),
        }
    }

    /// RFC 3261 §20.11: "If the handling parameter is missing, the value "required" SHOULD be assumed."
    fn foreign(disposition: Option<&[u8]>) -> Self {
        let optional = disposition.and_then(|value| word_and_params(value).ok()).is_some_and(|(_, params)| {
            params.get("handling").is_some_and(|handling| handling.eq_ignore_ascii_case(b"optional"))
        });
        if optional { Content::Nothing } else { Content::Unsupported }
    }

    /// The first description wins; without one, a part that must be understood decides.
    fn of_multipart(kind: &[u8], body: &'a [u8]) -> Option<Self> {
        let (_, params) = word_and_params(kind).ok()?;
        let boundary = [b"--", params.get("boundary").filter(|boundary| !boundary.is_empty())?].concat();
        let mut found = Content::Nothing;
        let starts: Vec<usize> = memchr::memmem::find_iter(body, &boundary).take(PARTS_MAX + 1).collect();
        for pair in starts.windows(2) {
            let [start, end] = pair else { continue };
            let part = body.get(start + boundary.len()..*end)?;
            match Self::of_bare_part(part) {
                sdp @ Content::Sdp(_) => return Some(sdp),
                Content::Unsupported => found = Content::Unsupported,
                Content::Nothing => {}
            }
        }
        Some(found)
    }

    /// A part begins behind the boundary's line and ends before the CR LF of the next one.
    fn of_bare_part(part: &'a [u8]) -> Self {
        let Some(line_end) = memchr::memmem::find(part, b"\r\n") else { return Content::Nothing };
        let part = part.get(line_end + 2..).unwrap_or_default();
        let part = part.strip_suffix(b"\r\n").unwrap_or(part);
        let (head, body) = match memchr::memmem::find(part, b"\r\n\r\n") {
            Some(end) => (&part[..end], &part[end + 4..]),
            None => (&b""[..], part.strip_prefix(b"\r\n").unwrap_or(part)),
        };
        let header = |wanted: HeaderId| {
            head.split(|byte| *byte == b'\n').find_map(|line| {
                let colon = memchr::memchr(b':', line)?;
                let (name, value) = line.split_at(colon);
                (HeaderId::parse(name.trim_ascii()) == wanted).then(|| value[1..].trim_ascii())
            })
        };
        if body.is_empty() {
            return Content::Nothing;
        }
        Self::of_part(header(HeaderId::ContentType), header(HeaderId::ContentDisposition), body)
    }
}
