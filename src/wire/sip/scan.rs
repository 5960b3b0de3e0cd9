//! One pass over the bytes of a message: lines become a table of offsets, nothing is allocated, nothing is copied.
//!
//! What is wrong is remembered and reading goes on, so that a faulty request can still be answered (`check` decides). A lone LF ends a line
//! here, and a lone CR does not, but either makes the message faulty: two readers must not see two messages in it.

use arrayvec::ArrayVec;

use crate::base::limit::SIP_MESSAGE_BYTES_MAX;
use crate::wire::sip::Fault;
use crate::wire::sip::HeaderId;
use crate::wire::sip::Message;
use crate::wire::sip::Method;
use crate::wire::sip::Request;
use crate::wire::sip::Response;
use crate::wire::sip::StartLine;
use crate::wire::sip::Status;
use crate::wire::sip::Transport;
use crate::wire::sip::check;
use crate::wire::sip::message::Essentials;
use crate::wire::sip::message::Span;
use crate::wire::sip::syntax;

/// What a datagram or a framed piece of a stream turned out to be.
#[derive(Debug)]
pub enum Scan<'a> {
    /// A message whose parts that every element needs are there and legal.
    Ok(Message<'a>),
    /// A faulty request that has what an answer needs. Views of its values may fail.
    Answerable { status: Status, fault: Fault, message: Message<'a> },
    /// Nothing to answer.
    Drop(DropReason),
}

/// Why bytes were dropped without an answer; each is a counter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DropReason {
    #[error("nothing but line ends: a keep-alive")]
    KeepAlive,
    #[error("longer than a message may be")]
    TooLong,
    #[error("the first line is neither a request nor a status line")]
    StartLine,
    #[error("a faulty response: {0}")]
    Response(Fault),
    #[error("a faulty ACK, which has no answer: {0}")]
    Ack(Fault),
    #[error("a faulty request without what an answer needs: {0}")]
    Unanswerable(Fault),
}

/// Reads one message. `bytes` is a datagram, or what [`crate::wire::sip::Framer`] cut out of a stream.
#[must_use]
pub fn scan(bytes: &[u8], transport: Transport) -> Scan<'_> {
    let bytes = without_leading_line_ends(bytes);
    if bytes.is_empty() {
        return Scan::Drop(DropReason::KeepAlive);
    }
    if bytes.len() > SIP_MESSAGE_BYTES_MAX {
        return Scan::Drop(DropReason::TooLong);
    }
    let mut lines = Lines { bytes, at: 0, fault: None };
    let Some((start, fault)) = lines.next_plain().and_then(read_start_line) else {
        return Scan::Drop(DropReason::StartLine);
    };
    lines.fault = lines.fault.or(fault);
    let mut message =
        Message { bytes, start, spans: ArrayVec::new(), present: 0, body: &[], essentials: Essentials::MISSING };
    read_fields(&mut lines, &mut message);
    message.body = bytes.get(lines.at..).unwrap_or_default();
    message.essentials = Essentials::read(&message);
    check::verdict(message, lines.fault, transport)
}

/// RFC 3261 §7.5: "Implementations processing SIP messages over stream-oriented transports MUST ignore any CRLF appearing before the
/// start-line"; datagrams with keep-alives glued on are treated alike.
fn without_leading_line_ends(mut bytes: &[u8]) -> &[u8] {
    while let [b'\r' | b'\n', rest @ ..] = bytes {
        bytes = rest;
    }
    bytes
}

fn read_start_line(line: &[u8]) -> Option<(StartLine<'_>, Option<Fault>)> {
    if line.get(..4).is_some_and(|head| head.eq_ignore_ascii_case(b"SIP/")) {
        return read_status_line(line).map(|response| (StartLine::Response(response), None));
    }
    let (name, rest) = line.split_at_checked(memchr::memchr(b' ', line)?)?;
    let (uri, version) = rest.get(1..)?.split_at_checked(memchr::memrchr(b' ', rest.get(1..)?)?)?;
    let version = version.get(1..)?;
    // A blank at the end of the line: the version is the word before it, or there is none.
    let (uri, version, fault) = match version {
        [] => {
            let trimmed = syntax::trim(uri);
            let (uri, version) = trimmed.split_at_checked(memchr::memrchr(b' ', trimmed)?)?;
            (uri, version.get(1..)?, Some(Fault::RequestLine))
        }
        _ => (uri, version, None),
    };
    if !syntax::is_a_token(name) {
        return None;
    }
    let is_sip = version.get(..4).is_some_and(|protocol| protocol.eq_ignore_ascii_case(b"SIP/"));
    if !is_sip {
        return None;
    }
    let request = Request { method: Method::parse(name), name, uri };
    let fault = if version.get(4..) == Some(b"2.0") { fault } else { Some(Fault::Version) };
    Some((StartLine::Request(request), fault))
}

/// RFC 3261 §7.2; a missing blank after the code is forgiven.
fn read_status_line(line: &[u8]) -> Option<Response<'_>> {
    let rest = line.get(4..)?.strip_prefix(b"2.0 ")?;
    let (code, reason) = match rest {
        [a, b, c] => ([*a, *b, *c], &[][..]),
        [a, b, c, b' ', reason @ ..] => ([*a, *b, *c], reason),
        _ => return None,
    };
    let status = Status::new(syntax::decimal_u16(&code)?)?;
    Some(Response { status, reason })
}

fn read_fields(lines: &mut Lines<'_>, message: &mut Message<'_>) {
    loop {
        match lines.next_field() {
            Next::Field(span) => {
                let bit = span.id.bit();
                if span.id.is_single() && message.present & bit != 0 {
                    // Of a response the first counts, whoever reads it; a request that is ambiguous is refused.
                    if message.is_request() && !span.id.is_remark() {
                        lines.blame(Fault::Repeated(span.id));
                    }
                    continue;
                }
                if message.spans.try_push(span).is_err() {
                    lines.blame(Fault::TooManyHeaders);
                    continue;
                }
                message.present |= bit;
            }
            Next::Bad => lines.blame(Fault::HeaderLine),
            Next::End => return,
            Next::Cut => return lines.blame(Fault::NoEmptyLine),
        }
    }
}

enum Next {
    Field(Span),
    /// A line that is no header field.
    Bad,
    /// The empty line.
    End,
    /// The bytes end before the empty line.
    Cut,
}

/// Reads lines; `at` is where the next one begins.
struct Lines<'a> {
    bytes: &'a [u8],
    at: usize,
    fault: Option<Fault>,
}

impl<'a> Lines<'a> {
    /// The first fault is the one that is answered.
    fn blame(&mut self, fault: Fault) {
        self.fault = self.fault.or(Some(fault));
    }

    /// The start line, without its end.
    fn next_plain(&mut self) -> Option<&'a [u8]> {
        let start = self.at;
        let end = self.end_of_line(start)?;
        self.bytes.get(start..end)
    }

    fn next_field(&mut self) -> Next {
        let start = self.at;
        let rest = self.bytes.get(start..).unwrap_or_default();
        match rest {
            [] => return Next::Cut,
            [b'\r', b'\n', ..] => {
                self.at = start.wrapping_add(2);
                return Next::End;
            }
            [b'\n', ..] => {
                self.at = start.wrapping_add(1);
                self.blame(Fault::LineEnd);
                return Next::End;
            }
            _ => {}
        }
        let name_length = rest.iter().position(|byte| !syntax::is_token(*byte)).unwrap_or(rest.len());
        let (name, after) = rest.split_at_checked(name_length).unwrap_or_default();
        let blanks = after.iter().position(|byte| !matches!(byte, b' ' | b'\t')).unwrap_or(after.len());
        let colon = start.wrapping_add(name_length).wrapping_add(blanks);
        let is_field = !name.is_empty() && self.bytes.get(colon) == Some(&b':');
        let value_start = if is_field { colon.wrapping_add(1) } else { start };
        let Some(value_end) = self.end_of_value(value_start) else {
            self.at = self.bytes.len();
            return Next::Cut;
        };
        if !is_field {
            return Next::Bad;
        }
        self.span(HeaderId::parse(name), start, value_start, value_end).map_or(Next::Bad, Next::Field)
    }

    /// Trims the value. Offsets fit because a message has at most 65,535 bytes.
    fn span(&self, id: HeaderId, line_start: usize, value_start: usize, value_end: usize) -> Option<Span> {
        let raw = self.bytes.get(value_start..value_end)?;
        let trimmed = syntax::trim_end(raw);
        let blanks = trimmed.iter().position(|byte| !syntax::is_space(*byte)).unwrap_or(0);
        Some(Span {
            id,
            line_start: u16::try_from(line_start).ok()?,
            value_start: u16::try_from(value_start.wrapping_add(blanks)).ok()?,
            value_end: u16::try_from(value_start.wrapping_add(trimmed.len())).ok()?,
        })
    }

    /// The end of a value that begins at `from`, past all its folds.
    fn end_of_value(&mut self, from: usize) -> Option<usize> {
        let mut from = from;
        loop {
            let end = self.end_of_line(from)?;
            // RFC 3261 §7.3.1: "Header fields can be extended over multiple lines by preceding each extra line with at least one SP or
            // horizontal tab (HT)."
            match self.bytes.get(self.at) {
                Some(b' ' | b'\t') => from = self.at,
                _ => return Some(end),
            }
        }
    }

    /// Where the line that holds `from` ends; `at` moves behind its line end.
    fn end_of_line(&mut self, from: usize) -> Option<usize> {
        let mut from = from;
        loop {
            let found = from.checked_add(memchr::memchr2(b'\r', b'\n', self.bytes.get(from..)?)?)?;
            match self.bytes.get(found..) {
                Some([b'\r', b'\n', ..]) => {
                    self.at = found.wrapping_add(2);
                    return Some(found);
                }
                Some([b'\n', ..]) => {
                    self.blame(Fault::LineEnd);
                    self.at = found.wrapping_add(1);
                    return Some(found);
                }
                _ => {
                    self.blame(Fault::LineEnd);
                    from = found.wrapping_add(1);
                }
            }
        }
    }
}
