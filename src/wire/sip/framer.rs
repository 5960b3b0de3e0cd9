//! Cuts messages out of a stream (RFC 3261 §18.3, §7.5) and recognises its keep-alives (RFC 5626 §4.4.1). One per connection.
//!
//! It is asked again with all buffered bytes whenever more have come, remembers how far it has searched, and so looks at each byte once.
//! After anything but `Partial` the caller takes `len` bytes away from the front. The answers are the same however the bytes were split.

use crate::base::limit::SIP_HEAD_BYTES_MAX;
use crate::base::limit::SIP_MESSAGE_BYTES_MAX;
use crate::wire::sip::HeaderId;
use crate::wire::sip::syntax;

/// What the first buffered bytes are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Frame {
    /// The first `len` bytes are one message, fit for [`crate::wire::sip::scan`].
    Message { len: usize },
    /// A lone CR LF: a pong, or the first half of a ping. Nothing to do.
    KeepAlive { len: usize },
    /// The second CR LF of a ping: answer with CR LF.
    Ping { len: usize },
    /// More bytes are needed.
    Partial,
    /// The stream cannot be read on: close it. If `head` is not 0, that many first bytes are worth a scan, which may say what to answer before.
    Broken { head: usize },
}

/// The state of cutting; plain data.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Framer {
    /// Bytes from the front that hold no end of the head.
    searched: u32,
    /// The length of the message at the front, once its head is complete.
    len: Option<u32>,
    /// The last frame was the first half of a ping.
    half_ping: bool,
}

impl Framer {
    /// Looks at all bytes that are buffered.
    pub fn next(&mut self, buffered: &[u8]) -> Frame {
        if let Some(len) = self.len {
            return self.whole(len as usize, buffered);
        }
        match buffered {
            [] | [b'\r'] => return Frame::Partial,
            [b'\r', b'\n', ..] => return self.line_end(),
            // Legal heads begin with a token: what does not is not SIP and is not waited for.
            [first, ..] if !syntax::is_token(*first) => return Frame::Broken { head: 0 },
            _ => {}
        }
        let from = self.searched as usize;
        let Some(found) = buffered.get(from..).and_then(|rest| memchr::memmem::find(rest, b"\r\n\r\n")) else {
            return self.search_on(buffered);
        };
        let head_len = from.saturating_add(found).saturating_add(4);
        if head_len > SIP_HEAD_BYTES_MAX {
            return Frame::Broken { head: 0 };
        }
        let Some(body_len) = buffered.get(..head_len).and_then(content_length) else {
            return Frame::Broken { head: head_len };
        };
        match head_len.checked_add(body_len).filter(|len| *len <= SIP_MESSAGE_BYTES_MAX).map(u32::try_from) {
            Some(Ok(len)) => {
                self.len = Some(len);
                self.whole(len as usize, buffered)
            }
            _ => Frame::Broken { head: head_len },
        }
    }

    fn whole(&mut self, len: usize, buffered: &[u8]) -> Frame {
        if buffered.len() < len {
            return Frame::Partial;
        }
        *self = Self::default();
        Frame::Message { len }
    }

    fn line_end(&mut self) -> Frame {
        self.half_ping = !self.half_ping;
        if self.half_ping { Frame::KeepAlive { len: 2 } } else { Frame::Ping { len: 2 } }
    }

    fn search_on(&mut self, buffered: &[u8]) -> Frame {
        if buffered.len() >= SIP_HEAD_BYTES_MAX {
            return Frame::Broken { head: 0 };
        }
        // The end may have begun in the last three bytes.
        self.searched = u32::try_from(buffered.len().saturating_sub(3)).unwrap_or(0);
        Frame::Partial
    }
}

/// The one Content-Length of a complete head, of a response the first; `None` when it is missing, repeated, folded into nonsense
/// or no number.
fn content_length(head: &[u8]) -> Option<usize> {
    let is_response = head.get(..4).is_some_and(|start| start.eq_ignore_ascii_case(b"SIP/"));
    let mut length = None;
    let mut rest = head;
    while let Some(at) = memchr::memchr(b'\n', rest) {
        rest = rest.get(at.checked_add(1)?..)?;
        if !matches!(rest, [b'l' | b'L' | b'c' | b'C', ..]) {
            continue;
        }
        let name = rest.split(|byte| !syntax::is_token(*byte)).next()?;
        if HeaderId::parse(name) != HeaderId::ContentLength {
            continue;
        }
        if length.is_some() {
            return length.filter(|_| is_response);
        }
        length = Some(length_value(rest.get(name.len()..)?)?);
    }
    length
}

/// The number of a Content-Length line from behind its name; what the scanner would call malformed is none.
fn length_value(line: &[u8]) -> Option<usize> {
    let is_blank = |byte: u8| matches!(byte, b' ' | b'\t');
    let mut cursor = syntax::Cursor::new(line);
    cursor.take_while(is_blank);
    if !cursor.eat(b':') {
        return None;
    }
    cursor.skip_space();
    let digits = cursor.take_while(|byte| byte.is_ascii_digit());
    cursor.take_while(is_blank);
    let ends = match cursor.rest() {
        [b'\r', b'\n', next, ..] => !is_blank(*next),
        _ => false,
    };
    syntax::decimal(digits).filter(|_| ends).and_then(|length| usize::try_from(length).ok())
}
