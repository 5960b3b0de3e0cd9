//! Finds the session description in a message: a body of its own, or a part of a multipart body (RFC 3261 §7.4, RFC 5621).

use crate::wire::sip::HeaderId;
use crate::wire::sip::Message;
use crate::wire::sip::value::is_media_type;
use crate::wire::sip::value::word_and_params;

/// What the body of a request is to a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Content<'a> {
    Nothing,
    Sdp(&'a [u8]),
    /// RFC 3261 §8.2.3: it has a part of a type or coding that we do not understand, and that is not optional: 415.
    Unsupported,
}

const PARTS_MAX: usize = 8;
/// Multipart bodies within each other.
const DEPTH_MAX: u8 = 3;

impl<'a> Content<'a> {
    pub fn of(request: &Message<'a>) -> Self {
        match Body::of(request) {
            Body { is_foreign: true, .. } => Content::Unsupported,
            Body { sdp: Some(sdp), .. } => Content::Sdp(sdp),
            Body { sdp: None, .. } => Content::Nothing,
        }
    }
}

/// The description of a response or an ACK, whatever else is there: neither can be refused, and the session is worth more than
/// a part that nobody asked for.
pub fn description<'a>(message: &Message<'a>) -> Option<&'a [u8]> {
    Body::of(message).sdp
}

/// What was found in a body or in a part of one.
#[derive(Clone, Copy, Default)]
struct Body<'a> {
    sdp: Option<&'a [u8]>,
    /// Something that must be understood is not.
    is_foreign: bool,
}

/// The header fields that say what a part is.
#[derive(Clone, Copy)]
struct Label<'a> {
    kind: Option<&'a [u8]>,
    disposition: Option<&'a [u8]>,
    /// Content-Encoding, or the Content-Transfer-Encoding of a part.
    coding: Option<&'a [u8]>,
}

impl<'a> Body<'a> {
    fn of(message: &Message<'a>) -> Self {
        let label = Label {
            kind: message.header(HeaderId::ContentType),
            disposition: message.header(HeaderId::ContentDisposition),
            coding: message.header(HeaderId::ContentEncoding),
        };
        Self::of_part(label, message.body(), 0)
    }

    fn of_part(label: Label<'a>, body: &'a [u8], depth: u8) -> Self {
        let plain: [&[u8]; 4] = [b"identity", b"binary", b"8bit", b"7bit"];
        let is_coded = label.coding.is_some_and(|coding| !plain.iter().any(|known| known.eq_ignore_ascii_case(coding)));
        match label.kind {
            _ if body.is_empty() => Self::default(),
            Some(kind) if !is_coded && is_media_type(kind, "application/sdp") && !label.is_early_session() => {
                Self { sdp: Some(body), is_foreign: false }
            }
            Some(kind) if !is_coded && is_multipart(kind) && depth < DEPTH_MAX => {
                Self::of_multipart(kind, body, depth).unwrap_or_else(|| label.foreign())
            }
            _ => label.foreign(),
        }
    }

    /// The first description counts. Each part that must be understood has to be, but of alternatives one is enough
    /// (RFC 2046 §5.1.4).
    fn of_multipart(kind: &'a [u8], body: &'a [u8], depth: u8) -> Option<Self> {
        let (_, params) = word_and_params(kind).ok()?;
        let boundary = [b"--", params.get("boundary").filter(|boundary| !boundary.is_empty())?].concat();
        let starts: Vec<usize> = memchr::memmem::find_iter(body, &boundary).take(PARTS_MAX + 2).collect();
        if starts.len() > PARTS_MAX + 1 {
            return None;
        }
        let mut all = Self::default();
        for pair in starts.windows(2) {
            let [start, end] = pair else { continue };
            let part = Self::of_bare_part(body.get(start + boundary.len()..*end)?, depth + 1);
            all = Self { sdp: all.sdp.or(part.sdp), is_foreign: all.is_foreign || part.is_foreign };
        }
        let is_chosen = is_media_type(kind, "multipart/alternative") && all.sdp.is_some();
        Some(Self { is_foreign: all.is_foreign && !is_chosen, ..all })
    }

    /// A part begins behind the boundary's line and ends before the CR LF of the next one.
    fn of_bare_part(part: &'a [u8], depth: u8) -> Self {
        let Some(line_end) = memchr::memmem::find(part, b"\r\n") else { return Self::default() };
        let part = part.get(line_end + 2..).unwrap_or_default();
        let part = part.strip_suffix(b"\r\n").unwrap_or(part);
        let (head, body) = match memchr::memmem::find(part, b"\r\n\r\n") {
            Some(end) => (&part[..end], &part[end + 4..]),
            None => (&b""[..], part.strip_prefix(b"\r\n").unwrap_or(part)),
        };
        let header = |is_wanted: &dyn Fn(&[u8]) -> bool| {
            head.split(|byte| *byte == b'\n').find_map(|line| {
                let (name, value) = line.split_at(memchr::memchr(b':', line)?);
                is_wanted(name.trim_ascii()).then(|| value[1..].trim_ascii())
            })
        };
        let known = |id: HeaderId| header(&|name| HeaderId::parse(name) == id);
        let transfer = || header(&|name| name.eq_ignore_ascii_case(b"Content-Transfer-Encoding"));
        let label = Label {
            kind: known(HeaderId::ContentType),
            disposition: known(HeaderId::ContentDisposition),
            coding: known(HeaderId::ContentEncoding).or_else(transfer),
        };
        Self::of_part(label, body, depth)
    }
}

impl<'a> Label<'a> {
    /// RFC 3261 §20.11: "If the handling parameter is missing, the value "required" SHOULD be assumed."
    fn foreign(self) -> Body<'a> {
        let optional = self.disposition.and_then(|value| word_and_params(value).ok()).is_some_and(|(_, params)| {
            params.get("handling").is_some_and(|handling| handling.eq_ignore_ascii_case(b"optional"))
        });
        Body { sdp: None, is_foreign: !optional }
    }

    /// RFC 3959: a description of another session than the INVITE's.
    fn is_early_session(self) -> bool {
        let kind = self.disposition.and_then(|value| word_and_params(value).ok());
        kind.is_some_and(|(word, _)| word.eq_ignore_ascii_case(b"early-session"))
    }
}

fn is_multipart(kind: &[u8]) -> bool {
    kind.get(..10).is_some_and(|start| start.eq_ignore_ascii_case(b"multipart/"))
}
