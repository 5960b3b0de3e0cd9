//! A scanned message: the received bytes and a table of where its header fields are. It owns nothing and changes nothing.

use arrayvec::ArrayVec;

use crate::base::limit::SIP_HEADERS_MAX;
use crate::wire::sip::Contact;
use crate::wire::sip::HeaderId;
use crate::wire::sip::Malformed;
use crate::wire::sip::Method;
use crate::wire::sip::NameAddr;
use crate::wire::sip::Status;
use crate::wire::sip::Uri;
use crate::wire::sip::Via;
use crate::wire::sip::params;
use crate::wire::sip::syntax;
use crate::wire::sip::value::CSeq;

/// A message as received. Copying its fields out is up to the caller; everything lent lives as long as the bytes.
#[derive(Clone)]
pub struct Message<'a> {
    pub(crate) bytes: &'a [u8],
    pub(crate) start: StartLine<'a>,
    pub(crate) spans: ArrayVec<Span, SIP_HEADERS_MAX>,
    pub(crate) present: u128,
    pub(crate) body: &'a [u8],
    pub(crate) essentials: Essentials<'a>,
}

/// What everybody asks for, read once: whole in a message that scanned `Ok`.
#[derive(Clone, Copy)]
pub(crate) struct Essentials<'a> {
    pub(crate) request_uri: Result<Uri<'a>, Malformed>,
    pub(crate) top_via: Result<Via<'a>, Malformed>,
    pub(crate) from: Result<NameAddr<'a>, Malformed>,
    pub(crate) from_uri: Result<Uri<'a>, Malformed>,
    pub(crate) to: Result<NameAddr<'a>, Malformed>,
    pub(crate) to_uri: Result<Uri<'a>, Malformed>,
    pub(crate) cseq: Result<CSeq<'a>, Malformed>,
}

/// Where one header field stands.
#[derive(Clone, Copy)]
pub(crate) struct Span {
    pub(crate) id: HeaderId,
    pub(crate) line_start: u16,
    pub(crate) value_start: u16,
    pub(crate) value_end: u16,
}

/// The first line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StartLine<'a> {
    Request(Request<'a>),
    Response(Response<'a>),
}

/// A request line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Request<'a> {
    pub method: Method,
    /// The method as it came, which `Method::Other` needs.
    pub name: &'a [u8],
    /// The Request-URI as it came; [`Message::request_uri`] is what it says.
    pub uri: &'a [u8],
}

/// A status line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Response<'a> {
    pub status: Status,
    /// May be empty, may be UTF-8.
    pub reason: &'a [u8],
}

/// One header field as it stands in the message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Field<'a> {
    pub id: HeaderId,
    /// As written: any case, maybe compact.
    pub name: &'a [u8],
    /// Trimmed; may hold folds.
    pub value: &'a [u8],
    /// Name to end of line, all folds and the last CR LF included: fit to be copied as it is.
    pub line: &'a [u8],
}

impl<'a> Essentials<'a> {
    /// Nothing has been read.
    pub(crate) const MISSING: Self = Self {
        request_uri: Err(Malformed::Uri),
        top_via: Err(Malformed::Via),
        from: Err(Malformed::NameAddr),
        from_uri: Err(Malformed::Uri),
        to: Err(Malformed::NameAddr),
        to_uri: Err(Malformed::Uri),
        cseq: Err(Malformed::CSeq),
    };

    pub(crate) fn read(message: &Message<'a>) -> Self {
        let address = |id| message.header(id).ok_or(Malformed::NameAddr).and_then(NameAddr::parse);
        let (from, to) = (address(HeaderId::From), address(HeaderId::To));
        Self {
            request_uri: message.request().ok_or(Malformed::Uri).and_then(|request| Uri::parse(request.uri)),
            top_via: message.values(HeaderId::Via).next().ok_or(Malformed::Via).and_then(Via::parse),
            from,
            from_uri: from.and_then(NameAddr::parse_uri),
            to,
            to_uri: to.and_then(NameAddr::parse_uri),
            cseq: message.header(HeaderId::CSeq).ok_or(Malformed::CSeq).and_then(CSeq::parse),
        }
    }
}

impl<'a> Message<'a> {
    /// The bytes of this message alone: without what stood before it, with its body, without what followed.
    #[must_use]
    pub const fn bytes(&self) -> &'a [u8] {
        self.bytes
    }

    #[must_use]
    pub const fn start_line(&self) -> StartLine<'a> {
        self.start
    }

    #[must_use]
    pub const fn request(&self) -> Option<Request<'a>> {
        match self.start {
            StartLine::Request(request) => Some(request),
            StartLine::Response(_) => None,
        }
    }

    #[must_use]
    pub const fn response(&self) -> Option<Response<'a>> {
        match self.start {
            StartLine::Response(response) => Some(response),
            StartLine::Request(_) => None,
        }
    }

    #[must_use]
    pub const fn is_request(&self) -> bool {
        matches!(self.start, StartLine::Request(_))
    }

    /// The method of the request line; of CSeq for a response.
    #[must_use]
    pub fn method(&self) -> Method {
        match self.start {
            StartLine::Request(request) => request.method,
            StartLine::Response(_) => self.cseq().map_or(Method::Other, |cseq| cseq.method),
        }
    }

    #[must_use]
    pub const fn body(&self) -> &'a [u8] {
        self.body
    }

    /// The message has at least one such line.
    #[must_use]
    pub const fn has(&self, id: HeaderId) -> bool {
        self.present & id.bit() != 0
    }

    /// The value of the first line of this header: trimmed, may hold folds.
    #[must_use]
    pub fn header(&self, id: HeaderId) -> Option<&'a [u8]> {
        self.headers(id).next()
    }

    /// The value of every line of this header, in order, each one maybe a list.
    pub fn headers(&self, id: HeaderId) -> impl Iterator<Item = &'a [u8]> + Clone + '_ {
        let spans = if self.has(id) { self.spans.as_slice() } else { &[] };
        spans.iter().filter(move |span| span.id == id).map(|span| self.value_of(span))
    }

    /// Every single value of a header that is a list: all lines, split at their top-level commas, trimmed.
    pub fn values(&self, id: HeaderId) -> impl Iterator<Item = &'a [u8]> + Clone + '_ {
        self.headers(id).flat_map(split_list)
    }

    /// The value of the first line of an unknown header, by name in any case.
    #[must_use]
    pub fn other(&self, name: &str) -> Option<&'a [u8]> {
        self.all_headers().find(|field| field.name.eq_ignore_ascii_case(name.as_bytes())).map(|field| field.value)
    }

    /// Every header field in order, known or not.
    pub fn all_headers(&self) -> impl Iterator<Item = Field<'a>> + Clone + '_ {
        self.spans.iter().map(|span| self.field(span))
    }

    /// The Request-URI.
    ///
    /// # Errors
    /// `Malformed::Uri`, which a request that scanned `Ok` never gives.
    pub const fn request_uri(&self) -> Result<Uri<'a>, Malformed> {
        self.essentials.request_uri
    }

    /// The top Via.
    ///
    /// # Errors
    /// `Malformed::Via`, which a message that scanned `Ok` never gives.
    pub const fn top_via(&self) -> Result<Via<'a>, Malformed> {
        self.essentials.top_via
    }

    /// # Errors
    /// `Malformed::NameAddr`, which a message that scanned `Ok` never gives.
    pub const fn from(&self) -> Result<NameAddr<'a>, Malformed> {
        self.essentials.from
    }

    /// # Errors
    /// `Malformed::NameAddr`, which a message that scanned `Ok` never gives.
    pub const fn to(&self) -> Result<NameAddr<'a>, Malformed> {
        self.essentials.to
    }

    /// The URI whose owner sends: of To in a REGISTER (RFC 3261 §10.2: "the address-of-record whose registration is to be created,
    /// queried, or modified"), else of From.
    ///
    /// # Errors
    /// `Malformed`, which a message that scanned `Ok` never gives.
    pub fn sender_uri(&self) -> Result<Uri<'a>, Malformed> {
        if self.method() == Method::Register { self.essentials.to_uri } else { self.essentials.from_uri }
    }

    /// # Errors
    /// `Malformed::CSeq`, which a message that scanned `Ok` never gives.
    pub const fn cseq(&self) -> Result<CSeq<'a>, Malformed> {
        self.essentials.cseq
    }

    /// Empty only in a message that did not scan `Ok`.
    #[must_use]
    pub fn call_id(&self) -> &'a [u8] {
        self.header(HeaderId::CallId).unwrap_or_default()
    }

    /// Max-Forwards, where it is there and readable.
    #[must_use]
    pub fn max_forwards(&self) -> Option<u8> {
        self.uint(HeaderId::MaxForwards).and_then(|hops| u8::try_from(hops).ok())
    }

    /// The header as a number: Expires, Min-Expires, Min-SE's first part, RSeq, Retry-After without its comment.
    #[must_use]
    pub fn uint(&self, id: HeaderId) -> Option<u32> {
        let mut cursor = syntax::Cursor::new(self.header(id)?);
        let digits = cursor.take_while(|byte| byte.is_ascii_digit());
        let ends = cursor.peek().is_none_or(|next| syntax::is_space(next) || matches!(next, b';' | b'('));
        if ends { syntax::decimal_u32(digits) } else { None }
    }

    /// The values of Contact.
    pub fn contacts(&self) -> impl Iterator<Item = Result<Contact<'a>, Malformed>> + '_ {
        self.values(HeaderId::Contact).map(Contact::parse)
    }

    /// Name-addr values of any list header: Route, Record-Route, Path, P-Asserted-Identity.
    pub fn name_addrs(&self, id: HeaderId) -> impl Iterator<Item = Result<NameAddr<'a>, Malformed>> + '_ {
        self.values(id).map(NameAddr::parse)
    }

    /// Option tags or methods of Supported, Require, Allow and the like.
    pub fn tags(&self, id: HeaderId) -> impl Iterator<Item = &'a [u8]> + '_ {
        self.headers(id).flat_map(|line| params::words(line, b','))
    }

    /// One of [`Message::tags`] is this one.
    #[must_use]
    pub fn has_tag(&self, id: HeaderId, tag: &str) -> bool {
        self.tags(id).any(|found| found.eq_ignore_ascii_case(tag.as_bytes()))
    }

    fn value_of(&self, span: &Span) -> &'a [u8] {
        self.bytes.get(usize::from(span.value_start)..usize::from(span.value_end)).unwrap_or_default()
    }

    fn field(&self, span: &Span) -> Field<'a> {
        let from_line = self.bytes.get(usize::from(span.line_start)..).unwrap_or_default();
        let name_length = from_line.iter().position(|byte| !syntax::is_token(*byte)).unwrap_or(from_line.len());
        let name = from_line.get(..name_length).unwrap_or_default();
        let after = self.bytes.get(usize::from(span.value_end)..).unwrap_or_default();
        let blank = after.iter().position(|byte| !syntax::is_space(*byte)).unwrap_or(after.len());
        let tail = line_tail(after.get(..blank).unwrap_or_default());
        let end = usize::from(span.value_end).saturating_add(tail);
        let line = self.bytes.get(usize::from(span.line_start)..end).unwrap_or_default();
        Field { id: span.id, name, value: self.value_of(span), line }
    }
}

/// How far white space after a value belongs to its line: up to the first line end that no fold follows.
fn line_tail(blank: &[u8]) -> usize {
    let mut from = 0usize;
    while let Some(rest) = blank.get(from..)
        && let Some(at) = memchr::memchr(b'\n', rest)
    {
        from = from.saturating_add(at).saturating_add(1);
        if !blank.get(from).is_some_and(|next| matches!(next, b' ' | b'\t')) {
            break;
        }
    }
    from
}

fn split_list(line: &[u8]) -> impl Iterator<Item = &[u8]> + Clone {
    let mut rest = Some(line);
    std::iter::from_fn(move || {
        let list = rest?;
        let (value, tail) = match syntax::split_at_comma(list) {
            Some((value, tail)) => (value, Some(tail)),
            None => (list, None),
        };
        rest = tail;
        Some(syntax::trim(value))
    })
}

impl std::fmt::Debug for Message<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Message")
            .field("start", &self.start)
            .field("headers", &self.spans.len())
            .field("body", &self.body.len())
            .finish()
    }
}
