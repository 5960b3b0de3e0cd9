//! What every response to one request repeats, kept until the request has its final response.

use serde::Deserialize;
use serde::Serialize;

use crate::base::random::Random;
use crate::machine::call::terms::SDP;
use crate::machine::dialog::Text;
use crate::machine::dialog::hops_after;
use crate::machine::flow::Flow;
use crate::machine::lingering::Key;
use crate::machine::outbox::Outbox;
use crate::machine::outbox::Output;
use crate::wire::sip::HeaderId;
use crate::wire::sip::Message;
use crate::wire::sip::Method;
use crate::wire::sip::Status;
use crate::wire::sip::Writer;
use crate::wire::sip::write;

/// Via, From, To, Call-ID and CSeq (RFC 3261 §8.2.6.2), and Record-Route, which only a dialog's beginning needs.
///
/// Not Timestamp: it is for what is answered at once, so that its sender learns how long the way is and not how long somebody
/// else has taken (§8.2.6.1 asks for it in a 100 alone).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Head {
    /// Up to where a tag of To belongs.
    before: Text,
    after: Text,
    /// To had a tag already.
    tagged: bool,
}

impl Head {
    pub(super) fn of(request: &Message<'_>, flow: Flow) -> Self {
        let mut lines = Vec::with_capacity(512);
        let mut writer = write::response(&mut lines, request, Status::TRYING, "", None, flow.peer);
        writer.copy(request, HeaderId::RecordRoute);
        if let Some(at) = find(&lines, b"\r\nTimestamp: ") {
            let end = find(&lines[at + 2..], b"\r\n").map_or(lines.len(), |end| at + 2 + end);
            lines.drain(at..end);
        }
        let start = find(&lines, b"\r\n").map_or(0, |at| at + 2);
        let to = find(&lines, b"\r\nTo: ").unwrap_or(start);
        let end = lines.get(to + 2..).and_then(|rest| find(rest, b"\r\n")).map_or(to, |at| to + 2 + at);
        let tagged = request.to().is_ok_and(|to| to.tag().is_some());
        Self { before: lines[start..end].into(), after: lines[end..].into(), tagged }
    }

    /// The 100 to `request`, of which this is the head.
    ///
    /// RFC 3261 §8.2.6.1: "When a 100 (Trying) response is generated, any Timestamp header field present in the request MUST be
    /// copied into this 100 (Trying) response."
    pub(super) fn trying(&self, request: &Message<'_>) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(512);
        let mut writer = self.response(&mut bytes, 100, b"");
        if let Some(timestamp) = request.header(HeaderId::Timestamp) {
            writer.header(HeaderId::Timestamp, timestamp);
        }
        writer.finish();
        bytes
    }

    /// Begins a response; `tag` is ours, used if To has none yet.
    pub(super) fn response<'o>(&self, out: &'o mut Vec<u8>, status: u16, tag: &[u8]) -> Writer<'o> {
        let status = Status::new(status).unwrap_or(Status::SERVER_INTERNAL_ERROR);
        let mut writer = write::status_line(out, status, "");
        writer.raw(&self.before);
        if !self.tagged && !tag.is_empty() {
            writer.raw(b";tag=").raw(tag);
        }
        writer.raw(&self.after);
        writer
    }
}

fn find(bytes: &[u8], wanted: &[u8]) -> Option<usize> {
    memchr::memmem::find(bytes, wanted)
}

/// What a 415 says (RFC 3261 §8.2.3): the types and codings of bodies that we read.
pub(super) fn understood(writer: &mut Writer<'_>) {
    writer.header(HeaderId::Accept, SDP).header(HeaderId::AcceptEncoding, "identity");
}

/// What the final response to a request within a dialog says.
#[derive(Clone, Copy, Debug)]
pub(super) struct Verdict<'a> {
    pub status: u16,
    /// Content-Type and body.
    pub body: Option<(&'a str, &'a [u8])>,
    /// Further header lines: see [`hints`](crate::machine::call::hints).
    pub said: &'a [u8],
}

impl<'a> Verdict<'a> {
    pub(super) fn agreed(sdp: &'a [u8]) -> Self {
        Self { status: 200, body: Some((SDP, sdp)), said: b"" }
    }

    pub(super) fn refused(status: u16) -> Self {
        Self { status, body: None, said: b"" }
    }

    pub(super) fn is_success(&self) -> bool {
        (200..300).contains(&self.status)
    }

    pub(super) fn end(&self, mut writer: Writer<'_>) {
        writer.raw(self.said);
        match self.body {
            Some((content_type, body)) => writer.body(content_type, body),
            None => writer.finish(),
        }
    }
}

/// A non-INVITE request that is not answered yet.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct ServerRequest {
    pub key: Key,
    pub method: Method,
    /// Max-Forwards of what it goes on as.
    pub hops: u8,
    flow: Flow,
    head: Head,
    /// Of ours, where the request had none.
    tag: Text,
    /// Of the request; empty: none, or the answer waits for somebody else.
    timestamp: Text,
}

impl ServerRequest {
    pub(super) fn of(request: &Message<'_>, key: Key, flow: Flow) -> Self {
        Self::tagged(request, key, flow, b"")
    }

    pub(super) fn tagged(request: &Message<'_>, key: Key, flow: Flow, tag: &[u8]) -> Self {
        let (method, hops) = (request.method(), hops_after(request));
        let timestamp = request.header(HeaderId::Timestamp).unwrap_or_default().into();
        Self { key, method, hops, flow, head: Head::of(request, flow), tag: tag.into(), timestamp }
    }

    /// It is not answered at once.
    pub(super) fn postponed(self) -> Self {
        Self { timestamp: Text::default(), ..self }
    }

    /// RFC 3261 §14.2, RFC 3311 §5.2: with "a Retry-After header field with a randomly chosen value of between 0 and 10 seconds".
    pub(super) fn refuse(&self, status: u16, random: &mut Random, out: &mut Outbox) {
        let secs = random.below(11);
        self.answer_with(status, HeaderId::RetryAfter, &secs.to_string(), out);
    }

    /// 415: its body is of a type or coding that we do not understand.
    pub(super) fn refuse_body(&self, out: &mut Outbox) {
        self.answer(415, understood, out);
    }

    pub(super) fn answer(&self, status: u16, more: impl FnOnce(&mut Writer<'_>), out: &mut Outbox) {
        self.conclude(Verdict::refused(status), more, out);
    }

    /// With one header field more.
    pub(super) fn answer_with(&self, status: u16, header: HeaderId, value: &str, out: &mut Outbox) {
        let more = |writer: &mut Writer<'_>| {
            writer.header(header, value);
        };
        self.answer(status, more, out);
    }

    /// Sends the final response and leaves it for retransmissions of the request.
    pub(super) fn conclude(&self, verdict: Verdict<'_>, more: impl FnOnce(&mut Writer<'_>), out: &mut Outbox) {
        let mut bytes = Vec::with_capacity(512);
        let mut writer = self.head.response(&mut bytes, verdict.status, &self.tag);
        if !self.timestamp.is_empty() {
            writer.header(HeaderId::Timestamp, &self.timestamp);
        }
        more(&mut writer);
        verdict.end(writer);
        out.push(Output::Answer { key: self.key, flow: self.flow, bytes });
    }
}
