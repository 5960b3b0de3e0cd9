//! Answers without a transaction: the same bytes for the same request, and nothing kept (RFC 3261 §8.2.7).

use arrayvec::ArrayString;

use crate::base::hex::hex64;
use crate::machine::Shared;
use crate::machine::exchange::screen;
use crate::machine::exchange::screen::Refusal;
use crate::machine::flow::Flow;
use crate::wire::sip::HeaderId;
use crate::wire::sip::Message;
use crate::wire::sip::Method;
use crate::wire::sip::Status;
use crate::wire::sip::write;

/// `None` for an ACK, which is never answered.
pub(super) fn stateless(request: &Message<'_>, flow: Flow, status: Status, shared: Shared<'_>) -> Option<Vec<u8>> {
    with_reason(request, flow, status, "", shared)
}

/// With a reason phrase that says more than the usual one.
pub(super) fn with_reason(
    request: &Message<'_>,
    flow: Flow,
    status: Status,
    reason: &str,
    shared: Shared<'_>,
) -> Option<Vec<u8>> {
    refusal(request, flow, &Refusal { status, unsupported: Vec::new() }, reason, shared)
}

/// With the headers that the status demands.
pub(super) fn refusal(
    request: &Message<'_>,
    flow: Flow,
    refusal: &Refusal,
    reason: &str,
    shared: Shared<'_>,
) -> Option<Vec<u8>> {
    if request.method() == Method::Ack {
        return None;
    }
    let mut out = Vec::with_capacity(512);
    let tag = tag(request, shared);
    let mut writer = write::response(&mut out, request, refusal.status, reason, Some(&tag), flow.peer);
    match refusal.status {
        // RFC 3261 §21.4.6: "The response MUST include an Allow header field".
        Status::METHOD_NOT_ALLOWED => {
            writer.header(HeaderId::Allow, screen::ALLOW);
        }
        // RFC 3261 §8.2.2.3: "the UAS MUST add an Unsupported header field".
        Status::BAD_EXTENSION => {
            writer.header(HeaderId::Unsupported, &refusal.unsupported);
        }
        // RFC 6665 §8.2: a 489 names the packages that are understood: there is none.
        Status::BAD_EVENT => {
            writer.header(HeaderId::AllowEvents, "");
        }
        // RFC 3261 §21.5.4: a caller is told when to try again.
        Status::SERVICE_UNAVAILABLE => {
            writer.header(HeaderId::RetryAfter, "30");
        }
        _ => {}
    }
    writer.finish();
    Some(out)
}

/// RFC 3261 §11.2: what we are able to do, for whoever asks. A lean one is no longer than the request where that is possible:
/// these "header fields SHOULD be present", and nobody is to gain by forging who asks.
pub(super) fn options(
    request: &Message<'_>,
    flow: Flow,
    takes_calls: bool,
    is_lean: bool,
    shared: Shared<'_>,
) -> Option<Vec<u8>> {
    if !takes_calls {
        return stateless(request, flow, Status::SERVICE_UNAVAILABLE, shared);
    }
    let mut out = Vec::with_capacity(512);
    let tag = tag(request, shared);
    write::response(&mut out, request, Status::OK, "", Some(&tag), flow.peer);
    let able = [
        (HeaderId::Allow, screen::ALLOW),
        (HeaderId::Supported, screen::SUPPORTED),
        (HeaderId::Accept, "application/sdp"),
    ];
    for (header, value) in able {
        let len = out.len() + header.name().len() + b": ".len() + value.len() + b"\r\n".len() + write::END_BYTES;
        if !is_lean || len <= request.bytes().len() {
            write::fragment(&mut out).header(header, value);
        }
    }
    write::fragment(&mut out).finish();
    Some(out)
}

/// RFC 3261 §8.2.7: "the same To tag for the same request".
fn tag(request: &Message<'_>, shared: Shared<'_>) -> ArrayString<16> {
    let branch = request.top_via().ok().and_then(|via| via.branch()).unwrap_or_default();
    let from = request.header(HeaderId::From).unwrap_or_default();
    let cseq = request.header(HeaderId::CSeq).unwrap_or_default();
    hex64(shared.settings.secrets.hash.hash(&[branch, from, request.call_id(), cseq]))
}
