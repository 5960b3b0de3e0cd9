//! What is wrong with a request itself, judged before anybody is asked for a password (RFC 3261 §8.2.1 to §8.2.2).

use crate::wire::sip::HeaderId;
use crate::wire::sip::Message;
use crate::wire::sip::Method;
use crate::wire::sip::SipUri;
use crate::wire::sip::Status;
use crate::wire::sip::Uri;

/// The methods that are served, for Allow.
pub(super) const ALLOW: &str = "INVITE, ACK, BYE, CANCEL, OPTIONS, REGISTER, PRACK, UPDATE, INFO";
/// The extensions that are understood, for Supported.
pub(super) const SUPPORTED: &str = "100rel, timer, path";

/// A request that is refused as it stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Refusal {
    pub(super) status: Status,
    /// Option tags for Unsupported.
    pub(super) unsupported: Vec<u8>,
}

impl Refusal {
    pub(super) fn status(status: Status) -> Self {
        Self { status, unsupported: Vec::new() }
    }
}

pub(super) fn check(message: &Message<'_>) -> Result<(), Refusal> {
    let method = message.method();
    match method {
        Method::Invite | Method::Ack | Method::Bye | Method::Cancel | Method::Options | Method::Register => {}
        Method::Prack | Method::Update | Method::Info => {}
        // RFC 6665 §4.2.1.1: "If the event package is not understood, the notifier MUST return a 489 (Bad Event)".
        Method::Subscribe => return Err(Refusal::status(Status::BAD_EVENT)),
        Method::Message | Method::Notify | Method::Publish | Method::Refer => {
            return Err(Refusal::status(Status::METHOD_NOT_ALLOWED));
        }
        // RFC 3261 §21.5.2: "the UAS does not recognize the request method and is not capable of supporting it for any user".
        Method::Other => return Err(Refusal::status(Status::NOT_IMPLEMENTED)),
    }
    if is_at_its_last_hop(message) {
        return Err(Refusal::status(Status::TOO_MANY_HOPS));
    }
    // RFC 3261 §8.2.2.1: "If the Request-URI uses a scheme not supported by the UAS, it SHOULD reject the request with a 416".
    // RFC 3261 §26.2.2 has a SIPS URI reached over TLS alone, which we do not speak: nothing is carried on in the clear instead.
    let in_the_clear =
        |uri: Uri<'_>| method != Method::Register && matches!(uri, Uri::Sip(SipUri { secure: true, .. }));
    if message.request_uri().is_ok_and(|uri| matches!(uri, Uri::Other(_)) || in_the_clear(uri)) {
        return Err(Refusal::status(Status::UNSUPPORTED_URI_SCHEME));
    }
    check_extensions(message)
}

/// The same for a request within a dialog, whose method and target are the dialog's affair. A BYE is honoured whatever it asks for:
/// a call that somebody wants to end is not to be kept up by a word.
pub(super) fn check_in_dialog(message: &Message<'_>) -> Result<(), Refusal> {
    if message.method() == Method::Bye {
        return Ok(());
    }
    if message.max_forwards() == Some(0) && is_carried(message) {
        return Err(Refusal::status(Status::TOO_MANY_HOPS));
    }
    check_extensions(message)
}

/// A request within a dialog that goes on to the other party. UPDATE and PRACK do with what they offer or answer; without, they end here.
fn is_carried(message: &Message<'_>) -> bool {
    match message.method() {
        Method::Invite | Method::Info => true,
        Method::Update | Method::Prack => !message.body().is_empty(),
        _ => false,
    }
}

fn check_extensions(message: &Message<'_>) -> Result<(), Refusal> {
    let unsupported = unsupported(message);
    if unsupported.is_empty() { Ok(()) } else { Err(Refusal { status: Status::BAD_EXTENSION, unsupported }) }
}

/// An INVITE would go on from here with Max-Forwards lowered; everything else ends here and may have none left.
fn is_at_its_last_hop(message: &Message<'_>) -> bool {
    message.method() == Method::Invite && message.max_forwards() == Some(0)
}

/// RFC 3261 §8.2.2.3: "If a UAS does not understand an option-tag listed in a Require header field, it MUST respond […] 420";
/// "Require and Proxy-Require MUST NOT be used in a SIP CANCEL request, or in an ACK request", and are ignored there.
fn unsupported(message: &Message<'_>) -> Vec<u8> {
    if matches!(message.method(), Method::Cancel | Method::Ack) {
        return Vec::new();
    }
    let required = message.tags(HeaderId::Require).filter(|tag| !is_supported(tag));
    let tags: Vec<_> = required.chain(message.tags(HeaderId::ProxyRequire)).collect();
    tags.join(&b", "[..])
}

fn is_supported(tag: &[u8]) -> bool {
    SUPPORTED.split(", ").any(|own| own.as_bytes().eq_ignore_ascii_case(tag))
}
