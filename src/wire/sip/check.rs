//! What every message must have before anything looks at it (RFC 3261 §8.1.1, §8.2, §18.3, §20), and what its answer is if not.
//!
//! What needs the directory, the body's content or a list of built methods is not judged here.

use crate::base::limit::SIP_MESSAGE_BYTES_MAX;
use crate::wire::sip::Contact;
use crate::wire::sip::DropReason;
use crate::wire::sip::HeaderId;
use crate::wire::sip::Malformed;
use crate::wire::sip::Message;
use crate::wire::sip::Method;
use crate::wire::sip::NameAddr;
use crate::wire::sip::Request;
use crate::wire::sip::Scan;
use crate::wire::sip::StartLine;
use crate::wire::sip::Status;
use crate::wire::sip::Transport;
use crate::wire::sip::Uri;
use crate::wire::sip::bounds;
use crate::wire::sip::syntax;

/// What is wrong with a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    #[error("the SIP version is not 2.0")]
    Version,
    #[error("the request line has stray white space")]
    RequestLine,
    #[error("the Request-URI is malformed")]
    RequestUri,
    #[error("the Request-URI has an unknown scheme")]
    Scheme,
    #[error("a line does not end with CR LF")]
    LineEnd,
    #[error("a line is no header field")]
    HeaderLine,
    #[error("more header fields than a message may have")]
    TooManyHeaders,
    #[error("no empty line after the header fields")]
    NoEmptyLine,
    #[error("{} is missing", .0.name())]
    Missing(HeaderId),
    #[error("{} stands more than once", .0.name())]
    Repeated(HeaderId),
    #[error("{} is malformed", .0.name())]
    Malformed(HeaderId),
    #[error("CSeq names another method than the request line")]
    Method,
    #[error("CSeq names another method than the request line, which is unknown")]
    UnknownMethod,
    #[error("the body is shorter than Content-Length says")]
    BodyTooShort,
    #[error("Content-Length is more than a message may have")]
    BodyTooLong,
    #[error("{} is longer than it may be", .0.name())]
    TooLong(HeaderId),
    #[error("the Request-URI is longer than it may be")]
    UriTooLong,
    #[error("the header fields are longer than they may be")]
    HeadTooLong,
    #[error("the body is larger than it may be")]
    BodyTooLarge,
}

impl Fault {
    /// The answer to a request with this fault.
    #[must_use]
    pub const fn status(self) -> Status {
        match self {
            Self::Version => Status::VERSION_NOT_SUPPORTED,
            Self::Scheme => Status::UNSUPPORTED_URI_SCHEME,
            Self::BodyTooLong | Self::HeadTooLong => Status::MESSAGE_TOO_LARGE,
            Self::BodyTooLarge => Status::REQUEST_ENTITY_TOO_LARGE,
            Self::UriTooLong => Status::REQUEST_URI_TOO_LONG,
            // RFC 4475 §3.1.2.18 allows 400 and prefers this.
            Self::UnknownMethod => Status::NOT_IMPLEMENTED,
            _ => Status::BAD_REQUEST,
        }
    }
}

/// Judges a scanned message; `found` is what the scan already saw.
pub(crate) fn verdict(mut message: Message<'_>, found: Option<Fault>, transport: Transport) -> Scan<'_> {
    let length = cut_body(&mut message, transport);
    let fault = found.or_else(|| length.err()).or_else(|| bounds::excess(&message).err());
    let fault = fault.or_else(|| faulty_header(&message).err());
    let fault = match (fault, message.start) {
        (None, StartLine::Request(_)) => faulty_request_uri(&message).err(),
        (fault, _) => fault,
    };
    match (fault, message.start) {
        (None, _) => Scan::Ok(message),
        (Some(fault), StartLine::Response(_)) => Scan::Drop(DropReason::Response(fault)),
        // RFC 3261 §17.1.1.3: an ACK is never answered.
        (Some(fault), StartLine::Request(Request { method: Method::Ack, .. })) => Scan::Drop(DropReason::Ack(fault)),
        (Some(fault), StartLine::Request(_)) if is_answerable(&message) => {
            Scan::Answerable { status: fault.status(), fault, message }
        }
        (Some(fault), StartLine::Request(_)) => Scan::Drop(DropReason::Unanswerable(fault)),
    }
}

/// RFC 3261 §8.2.6.2 copies Via, From, To, Call-ID and CSeq into an answer. Without a Via nobody could match it; the others are copied if
/// they are there (RFC 4475 §3.3.1 wants a 400 even without them).
fn is_answerable(message: &Message<'_>) -> bool {
    message.header(HeaderId::Via).is_some_and(|via| !via.is_empty())
}

/// RFC 3261 §18.3: "If there are additional bytes in the transport packet beyond the end of the body, they MUST be discarded. If the
/// transport packet ends before the end of the message body, this is considered an error."
fn cut_body(message: &mut Message<'_>, transport: Transport) -> Result<(), Fault> {
    let Some(value) = message.header(HeaderId::ContentLength) else {
        // RFC 3261 §20.14: "If a stream-based protocol (such as TCP) is used as transport, the header field MUST be used."
        return if transport.is_stream() { Err(Fault::Missing(HeaderId::ContentLength)) } else { Ok(()) };
    };
    if value.is_empty() || !value.iter().all(u8::is_ascii_digit) {
        return Err(Fault::Malformed(HeaderId::ContentLength));
    }
    let length = syntax::decimal(value)
        .and_then(|length| usize::try_from(length).ok())
        .filter(|length| *length <= SIP_MESSAGE_BYTES_MAX);
    let length = length.ok_or_else(|| if transport.is_stream() { Fault::BodyTooLong } else { Fault::BodyTooShort })?;
    let (body, rest) = message.body.split_at_checked(length).ok_or(Fault::BodyTooShort)?;
    let whole = message.bytes.len().saturating_sub(rest.len());
    message.body = body;
    message.bytes = message.bytes.get(..whole).unwrap_or_default();
    Ok(())
}

fn faulty_header(message: &Message<'_>) -> Result<(), Fault> {
    let read = &message.essentials;
    required(message, HeaderId::Via)?;
    read.top_via.map_err(|_| Fault::Malformed(HeaderId::Via))?;
    faulty_address(message, HeaderId::From, read.from, read.from_uri)?;
    faulty_address(message, HeaderId::To, read.to, read.to_uri)?;
    let call_id = required(message, HeaderId::CallId)?;
    if call_id.iter().any(|byte| syntax::is_space(*byte) || *byte < b' ' || *byte == 0x7F) {
        return Err(Fault::Malformed(HeaderId::CallId));
    }
    faulty_cseq(message)?;
    faulty_number(message, HeaderId::MaxForwards, 255)?;
    faulty_routes(message, HeaderId::Route)?;
    faulty_routes(message, HeaderId::RecordRoute)?;
    // A response cannot be refused: what it need not have for its request to end is read by whoever asks for it.
    if message.is_request() { faulty_contacts(message).and_then(|()| faulty_date(message)) } else { Ok(()) }
}

fn required<'a>(message: &Message<'a>, id: HeaderId) -> Result<&'a [u8], Fault> {
    match message.header(id) {
        None => Err(Fault::Missing(id)),
        Some([]) => Err(Fault::Malformed(id)),
        Some(value) => Ok(value),
    }
}

fn faulty_address<'a>(
    message: &Message<'a>,
    id: HeaderId,
    address: Result<NameAddr<'a>, Malformed>,
    uri: Result<Uri<'a>, Malformed>,
) -> Result<(), Fault> {
    required(message, id)?;
    let address = address.map_err(|_| Fault::Malformed(id))?;
    let uri = uri.map_err(|_| Fault::Malformed(id))?;
    // RFC 3261 §10.2: the To of a REGISTER "MUST be a SIP URI or SIPS URI".
    let is_addressable = id != HeaderId::To || uri.sip().is_some() || message.method() != Method::Register;
    let has_whole_tag = address.params.get("tag").is_none_or(|tag| !tag.is_empty());
    if is_addressable && has_whole_tag { Ok(()) } else { Err(Fault::Malformed(id)) }
}

fn faulty_cseq(message: &Message<'_>) -> Result<(), Fault> {
    required(message, HeaderId::CSeq)?;
    let cseq = message.cseq().map_err(|_| Fault::Malformed(HeaderId::CSeq))?;
    match message.start {
        StartLine::Request(request) if request.name == cseq.name => Ok(()),
        StartLine::Request(Request { method: Method::Other, .. }) => Err(Fault::UnknownMethod),
        StartLine::Request(_) => Err(Fault::Method),
        StartLine::Response(_) => Ok(()),
    }
}

/// RFC 3261 §20.17: "SIP restricts the time zone in SIP-date to "GMT"".
fn faulty_date(message: &Message<'_>) -> Result<(), Fault> {
    let Some(date) = message.header(HeaderId::Date) else { return Ok(()) };
    match date {
        [.., b' ', a, b, c] if [*a, *b, *c].eq_ignore_ascii_case(b"GMT") => Ok(()),
        _ => Err(Fault::Malformed(HeaderId::Date)),
    }
}

fn faulty_number(message: &Message<'_>, id: HeaderId, most: u64) -> Result<(), Fault> {
    match message.header(id) {
        None => Ok(()),
        Some(value) if syntax::decimal(value).is_some_and(|number| number <= most) => Ok(()),
        Some(_) => Err(Fault::Malformed(id)),
    }
}

fn faulty_contacts(message: &Message<'_>) -> Result<(), Fault> {
    for contact in message.contacts() {
        match contact {
            Ok(Contact::Star) => {}
            Ok(Contact::Address(address)) if address.parse_uri().is_ok() => {}
            _ => return Err(Fault::Malformed(HeaderId::Contact)),
        }
    }
    Ok(())
}

/// RFC 3261 §20.34: routes are name-addr, brackets demanded.
fn faulty_routes(message: &Message<'_>, id: HeaderId) -> Result<(), Fault> {
    if !message.has(id) {
        return Ok(());
    }
    for route in message.name_addrs(id) {
        if !route.is_ok_and(|route| route.parse_uri().is_ok()) {
            return Err(Fault::Malformed(id));
        }
    }
    Ok(())
}

/// RFC 3261 §8.2.2.1: "If the Request-URI uses a scheme not supported by the UAS, it SHOULD reject the request with a 416".
fn faulty_request_uri(message: &Message<'_>) -> Result<(), Fault> {
    match message.request_uri() {
        // RFC 3261 §19.1.1, table 1: a Request-URI has no headers.
        Ok(Uri::Sip(uri)) if uri.headers.is_some() => Err(Fault::RequestUri),
        Ok(Uri::Sip(_) | Uri::Tel(_)) => Ok(()),
        Ok(Uri::Other(uri)) if uri.scheme.eq_ignore_ascii_case(b"urn") => Ok(()),
        Ok(Uri::Other(_)) => Err(Fault::Scheme),
        Err(_) => Err(Fault::RequestUri),
    }
}
