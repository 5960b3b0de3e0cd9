//! Session descriptions as lines (RFC 8866): every line is kept in its order, also those nobody here understands.
//!
//! A checked view over the received bytes: `name=value` lines, split at the m-lines. What the lines mean for a relay is in
//! [`facts`]; what we send instead of them is decided by `machine::media`. Line ends of LF or CR alone, blanks at the end of a
//! line, blanks and NULs at the end of all, and missing `o=`, `s=`, `t=` lines are tolerated, since we write our own.

pub mod facts;

use std::fmt;
use std::str;

use crate::base::limit::SDP_BYTES_MAX;
use crate::base::limit::SDP_LINES_MAX;
use crate::base::limit::SDP_MEDIA_MAX;

/// One `name=value` line.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Line<'a> {
    pub name: u8,
    pub value: &'a [u8],
}

impl<'a> Line<'a> {
    /// `(field, value)` of an attribute line; a property attribute has an empty value.
    pub fn attribute(&self) -> Option<(&'a [u8], &'a [u8])> {
        if self.name != b'a' {
            return None;
        }
        let value = self.value;
        Some(match value.iter().position(|&byte| byte == b':') {
            Some(colon) => (value.get(..colon)?, value.get(colon + 1..)?),
            None => (value, &[]),
        })
    }

    pub fn emit(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&[self.name, b'=']);
        out.extend_from_slice(self.value);
        out.extend_from_slice(b"\r\n");
    }
}

impl fmt::Debug for Line<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}={}", char::from(self.name), self.value.escape_ascii())
    }
}

/// An m-line and the lines below it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Media<'a> {
    pub kind: &'a [u8],
    pub port: u16,
    /// Number of ports, `<port>/<number>`.
    pub port_count: Option<u16>,
    pub protocol: &'a [u8],
    /// The formats as they stand, one space or more between them.
    pub formats: &'a [u8],
    pub lines: Vec<Line<'a>>,
}

impl<'a> Media<'a> {
    fn parse(value: &'a [u8]) -> Option<Self> {
        let (kind, rest) = token(value)?;
        let (port, rest) = token(rest)?;
        let (protocol, rest) = token(rest)?;
        let formats = rest.trim_ascii();
        if formats.is_empty() {
            return None;
        }
        let mut parts = port.splitn(2, |&byte| byte == b'/');
        let port = number(parts.next()?)?;
        let port_count = match parts.next() {
            Some(count) => Some(number(count)?),
            None => None,
        };
        Some(Self { kind, port, port_count, protocol, formats, lines: Vec::with_capacity(16) })
    }

    pub fn formats(&self) -> impl Iterator<Item = &'a [u8]> + use<'a> {
        self.formats.split(|&byte| byte == b' ').filter(|format| !format.is_empty())
    }

    pub fn attributes(&self) -> impl Iterator<Item = (&'a [u8], &'a [u8])> {
        self.lines.iter().filter_map(Line::attribute)
    }

    /// The m-line without its port: media, protocol and formats.
    pub fn line(&self) -> Box<[u8]> {
        let formats = self.formats().map(|format| [b" ", format].concat()).collect::<Vec<_>>().concat();
        [self.kind, b" ", self.protocol, &formats].concat().into()
    }

    /// An m-line out of use; `line` as [`Media::line`] writes it.
    pub fn refused(line: &'a [u8]) -> Option<Self> {
        let (kind, rest) = token(line)?;
        let (protocol, rest) = token(rest)?;
        Some(Self { kind, port: 0, port_count: None, protocol, formats: rest.trim_ascii(), lines: Vec::new() })
    }

    /// The m-line alone, with another port and no port count.
    pub fn emit_line(&self, port: u16, out: &mut Vec<u8>) {
        self.emit_head(port, None, out);
    }

    fn emit_head(&self, port: u16, port_count: Option<u16>, out: &mut Vec<u8>) {
        out.extend_from_slice(b"m=");
        out.extend_from_slice(self.kind);
        out.push(b' ');
        out.extend_from_slice(port.to_string().as_bytes());
        if let Some(count) = port_count {
            out.push(b'/');
            out.extend_from_slice(count.to_string().as_bytes());
        }
        out.push(b' ');
        out.extend_from_slice(self.protocol);
        for format in self.formats() {
            out.push(b' ');
            out.extend_from_slice(format);
        }
        out.extend_from_slice(b"\r\n");
    }
}

/// A session description: the lines before the first m-line, then the media.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Session<'a> {
    pub head: Vec<Line<'a>>,
    pub media: Vec<Media<'a>>,
}

/// Why bytes are no session description.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadSdp {
    /// Too many bytes, lines or m-lines for one description.
    #[error("session description too large")]
    TooLarge,
    /// A line that is not `<letter>=<text>`.
    #[error("malformed line in session description")]
    Line,
    /// The first line is not `v=0`.
    #[error("no version 0 session description")]
    Version,
    /// An m-line without media, port, protocol or formats.
    #[error("malformed media line in session description")]
    Media,
}

/// Reads a session description.
pub fn parse(bytes: &[u8]) -> Result<Session<'_>, BadSdp> {
    if bytes.len() > SDP_BYTES_MAX {
        return Err(BadSdp::TooLarge);
    }
    let mut session = Session { head: Vec::with_capacity(12), media: Vec::with_capacity(2) };
    let mut count = 0;
    let end = bytes.iter().rposition(|byte| *byte != 0 && !byte.is_ascii_whitespace()).map_or(0, |last| last + 1);
    let text = bytes.get(..end).unwrap_or_default();
    // RFC 8866 §5: a line ends with CRLF, and parsers "SHOULD be tolerant and also accept" LF alone. Some write CR alone.
    for raw in text.split(|byte| matches!(byte, b'\n' | b'\r')).map(<[u8]>::trim_ascii_end) {
        if raw.is_empty() {
            continue;
        }
        count += 1;
        if count > SDP_LINES_MAX {
            return Err(BadSdp::TooLarge);
        }
        let line = parse_line(raw)?;
        if count == 1 && (line.name != b'v' || line.value.trim_ascii() != b"0") {
            return Err(BadSdp::Version);
        }
        if line.name == b'm' {
            if session.media.len() == SDP_MEDIA_MAX {
                return Err(BadSdp::TooLarge);
            }
            session.media.push(Media::parse(line.value).ok_or(BadSdp::Media)?);
        } else if let Some(media) = session.media.last_mut() {
            media.lines.push(line);
        } else {
            session.head.push(line);
        }
    }
    if count == 0 { Err(BadSdp::Version) } else { Ok(session) }
}

fn parse_line(raw: &[u8]) -> Result<Line<'_>, BadSdp> {
    let [name, b'=', value @ ..] = raw else { return Err(BadSdp::Line) };
    if !name.is_ascii_lowercase() || value.contains(&0) {
        return Err(BadSdp::Line);
    }
    Ok(Line { name: *name, value })
}

impl<'a> Session<'a> {
    pub fn attributes(&self) -> impl Iterator<Item = (&'a [u8], &'a [u8])> {
        self.head.iter().filter_map(Line::attribute)
    }

    /// Writes the description with the line ends of RFC 8866.
    pub fn emit(&self, out: &mut Vec<u8>) {
        for line in &self.head {
            line.emit(out);
        }
        for media in &self.media {
            media.emit_head(media.port, media.port_count, out);
            for line in &media.lines {
                line.emit(out);
            }
        }
    }
}

/// The first token of `text` and what follows it.
pub(crate) fn token(text: &[u8]) -> Option<(&[u8], &[u8])> {
    let text = text.trim_ascii_start();
    let end = text.iter().position(u8::is_ascii_whitespace).unwrap_or(text.len());
    if end == 0 { None } else { text.split_at_checked(end) }
}

/// A decimal number without sign.
pub(crate) fn number<T: str::FromStr>(text: &[u8]) -> Option<T> {
    if !text.iter().all(u8::is_ascii_digit) {
        return None;
    }
    str::from_utf8(text).ok()?.parse().ok()
}

#[cfg(test)]
mod tests;
