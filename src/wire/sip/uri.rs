//! URIs (RFC 3261 §19.1, RFC 3966 for `tel`). Views over the bytes; any other scheme is opaque.
//!
//! Escapes are kept as they came: `unescaped` reads through them, `same_user` compares them away. Full URI equality
//! (§19.1.4) is not here: nothing routes by it.

use std::borrow::Cow;
use std::net::IpAddr;
use std::net::Ipv4Addr;
use std::net::Ipv6Addr;

use crate::wire::sip::Malformed;
use crate::wire::sip::params::Param;
use crate::wire::sip::params::Params;
use crate::wire::sip::syntax;

/// A URI by its scheme.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Uri<'a> {
    Sip(SipUri<'a>),
    Tel(TelUri<'a>),
    Other(OtherUri<'a>),
}

/// `sip:` or `sips:`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SipUri<'a> {
    /// The scheme is `sips`.
    pub secure: bool,
    /// Escapes kept; may hold parameters of its own (`+1212;phone-context=x`).
    pub user: Option<&'a [u8]>,
    pub password: Option<&'a [u8]>,
    pub host: Host<'a>,
    pub port: Option<u16>,
    pub params: Params<'a>,
    /// What follows `?`.
    pub headers: Option<&'a [u8]>,
}

/// `tel:`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TelUri<'a> {
    /// With visual separators and escapes as they came; [`Uri::subscriber`] reads it.
    pub number: &'a [u8],
    pub params: Params<'a>,
}

/// A scheme without meaning to this parser, such as `urn:`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OtherUri<'a> {
    pub scheme: &'a [u8],
    pub rest: &'a [u8],
}

/// Where a URI or Via points.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Host<'a> {
    Name(&'a [u8]),
    Ipv4(Ipv4Addr),
    Ipv6(Ipv6Addr),
}

impl<'a> Uri<'a> {
    /// Reads a whole URI: no brackets, no white space around it.
    ///
    /// # Errors
    /// `Malformed::Uri` for what is no URI, or a SIP URI with bad parts.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, Malformed> {
        Self::read(bytes).ok_or(Malformed::Uri)
    }

    fn read(bytes: &'a [u8]) -> Option<Self> {
        let colon = memchr::memchr(b':', bytes)?;
        let (scheme, rest) = bytes.split_at_checked(colon)?;
        let rest = rest.get(1..)?;
        if scheme.eq_ignore_ascii_case(b"sip") {
            return SipUri::read(rest, false).map(Self::Sip);
        }
        if scheme.eq_ignore_ascii_case(b"sips") {
            return SipUri::read(rest, true).map(Self::Sip);
        }
        let is_scheme = scheme.first().is_some_and(u8::is_ascii_alphabetic)
            && scheme.iter().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'-' | b'.'));
        let is_plain = rest.iter().all(|byte| *byte > b' ' && *byte != 0x7F && !matches!(byte, b'<' | b'>' | b'"'));
        if !is_scheme || !is_plain || rest.is_empty() {
            return None;
        }
        if scheme.eq_ignore_ascii_case(b"tel") {
            return TelUri::read(rest).map(Self::Tel);
        }
        Some(Self::Other(OtherUri { scheme, rest }))
    }

    /// The SIP or SIPS URI.
    #[must_use]
    pub const fn sip(self) -> Option<SipUri<'a>> {
        match self {
            Self::Sip(uri) => Some(uri),
            Self::Tel(_) | Self::Other(_) => None,
        }
    }

    /// The user of a SIP URI or the number of a `tel` one: what somebody dialled.
    #[must_use]
    pub const fn user(self) -> Option<&'a [u8]> {
        match self {
            Self::Sip(uri) => uri.user,
            Self::Tel(uri) => Some(uri.number),
            Self::Other(_) => None,
        }
    }

    #[must_use]
    pub const fn host(self) -> Option<Host<'a>> {
        match self {
            Self::Sip(uri) => Some(uri.host),
            Self::Tel(_) | Self::Other(_) => None,
        }
    }

    #[must_use]
    pub fn params(self) -> Params<'a> {
        match self {
            Self::Sip(uri) => uri.params,
            Self::Tel(uri) => uri.params,
            Self::Other(_) => Params::default(),
        }
    }
}

/// The Request-URI of requests to whom a Contact names; `None` for what is no SIP or SIPS URI.
///
/// RFC 3261 §19.1.5: "The method parameter MUST NOT be placed in the Request-URI.", and neither are headers. §19.1.1, table 1: a
/// Contact in a dialog has neither.
#[must_use]
pub fn remote_target(bytes: &[u8]) -> Option<Vec<u8>> {
    let uri = Uri::parse(bytes).ok()?.sip()?;
    let headers = uri.headers.map_or(0, |headers| headers.len().saturating_add(1));
    let head = bytes.len().checked_sub(headers)?.checked_sub(uri.params.raw().len())?;
    let mut target = bytes.get(..head)?.to_vec();
    for param in uri.params.iter().filter(|param| !param.name.eq_ignore_ascii_case(b"method")) {
        target.push(b';');
        target.extend_from_slice(param.name);
        if let Some(value) = param.value {
            target.push(b'=');
            target.extend_from_slice(value);
        }
    }
    Some(target)
}

impl<'a> SipUri<'a> {
    /// `[user[:password]@]host[:port][;params][?headers]`
    fn read(rest: &'a [u8], secure: bool) -> Option<Self> {
        // No letter outside this class stands anywhere in a SIP URI, but the one "@".
        let before_at = rest.iter().position(|byte| !syntax::is_user(*byte));
        let (user, password, rest) = match before_at {
            None => (None, None, rest),
            Some(at) => {
                let (userinfo, rest) = rest.split_at_checked(at)?;
                let (user, password) = read_userinfo(userinfo)?;
                (Some(user), password, rest.strip_prefix(b"@")?)
            }
        };
        let host_length = rest.iter().position(|byte| matches!(byte, b';' | b'?')).unwrap_or(rest.len());
        let (hostport, tail) = rest.split_at_checked(host_length)?;
        let (host, port) = read_host_port(hostport)?;
        if tail.is_empty() {
            return Some(Self { secure, user, password, host, port, params: Params::default(), headers: None });
        }
        let (params, headers) = match memchr::memchr(b'?', tail) {
            Some(at) => {
                let (params, headers) = tail.split_at_checked(at)?;
                (params, Some(headers.get(1..)?))
            }
            None => (tail, None),
        };
        let params = Params::new(params);
        let is_legal = are_uri_params(params) && headers.is_none_or(are_uri_headers);
        is_legal.then_some(Self { secure, user, password, host, port, params, headers })
    }

    /// The URI `transport` parameter.
    #[must_use]
    pub fn transport(self) -> Option<&'a [u8]> {
        self.params.get("transport")
    }

    /// RFC 3261 §19.1.1: loose routing.
    #[must_use]
    pub fn is_loose_router(self) -> bool {
        self.params.has("lr")
    }

    /// The address, where the host is one.
    #[must_use]
    pub fn ip(self) -> Option<IpAddr> {
        self.host.ip()
    }
}

impl<'a> TelUri<'a> {
    fn read(rest: &'a [u8]) -> Option<Self> {
        let semicolon = memchr::memchr(b';', rest).unwrap_or(rest.len());
        let (number, params) = rest.split_at_checked(semicolon)?;
        let params = Params::new(params);
        let is_legal =
            |byte: u8| byte.is_ascii_hexdigit() || matches!(byte, b'+' | b'-' | b'.' | b'(' | b')' | b'*' | b'#');
        let is_number = number.iter().any(u8::is_ascii_alphanumeric) && unescaped(number).all(is_legal);
        (is_number && are_uri_params(params)).then_some(Self { number, params })
    }
}

impl Host<'_> {
    /// The address, where the host is one.
    #[must_use]
    pub const fn ip(self) -> Option<IpAddr> {
        match self {
            Self::Ipv4(address) => Some(IpAddr::V4(address)),
            Self::Ipv6(address) => Some(IpAddr::V6(address)),
            Self::Name(_) => None,
        }
    }

    /// The same host: addresses by value, names without case.
    #[must_use]
    pub fn is(self, other: Host<'_>) -> bool {
        match (self, other) {
            (Self::Name(a), Host::Name(b)) => a.eq_ignore_ascii_case(b),
            (a, b) => a.ip().is_some() && a.ip() == b.ip(),
        }
    }

    /// The host is this domain name or address, as somebody would write it.
    #[must_use]
    pub fn is_named(self, name: &str) -> bool {
        Host::parse(name.as_bytes()).is_ok_and(|other| self.is(other))
    }
}

impl<'a> Host<'a> {
    /// A name, an IPv4 address or a bracketed IPv6 address.
    ///
    /// # Errors
    /// `Malformed::Host`.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, Malformed> {
        read_host(bytes).ok_or(Malformed::Host)
    }
}

impl std::fmt::Display for Host<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Name(name) => f.write_str(std::str::from_utf8(name).unwrap_or_default()),
            Self::Ipv4(address) => write!(f, "{address}"),
            Self::Ipv6(address) => write!(f, "[{address}]"),
        }
    }
}

/// The letters are legal already.
fn read_userinfo(userinfo: &[u8]) -> Option<(&[u8], Option<&[u8]>)> {
    let (user, password) = match userinfo.iter().position(|byte| *byte == b':') {
        Some(at) => {
            let (user, password) = userinfo.split_at_checked(at)?;
            (user, Some(password.get(1..)?))
        }
        None => (userinfo, None),
    };
    (!user.is_empty() && syntax::escapes_are_whole(userinfo)).then_some((user, password))
}

/// Host and optional port.
pub(crate) fn read_host_port(bytes: &[u8]) -> Option<(Host<'_>, Option<u16>)> {
    let host_length = match bytes {
        [b'[', ..] => memchr::memchr(b']', bytes)?.checked_add(1)?,
        _ => bytes.iter().position(|byte| *byte == b':').unwrap_or(bytes.len()),
    };
    let (host, rest) = bytes.split_at_checked(host_length)?;
    let host = read_host(host)?;
    match rest {
        [] => Some((host, None)),
        [b':', port @ ..] => Some((host, Some(syntax::decimal_u16(port)?))),
        _ => None,
    }
}

fn read_host(bytes: &[u8]) -> Option<Host<'_>> {
    match bytes {
        [b'[', address @ .., b']'] => return read_ipv6(address).map(Host::Ipv6),
        [] => return None,
        _ => {}
    }
    let mut is_name = false;
    for byte in bytes {
        if !syntax::is_host(*byte) {
            return None;
        }
        is_name |= !matches!(byte, b'0'..=b'9' | b'.');
    }
    // RFC 3261 §25.1: the last label of a host name begins with a letter, so digits and dots are an address or nothing.
    if is_name { Some(Host::Name(bytes)) } else { read_ipv4(bytes).map(Host::Ipv4) }
}

/// Four decimal numbers, as `Ipv4Addr` parses them, in a quarter of the time.
fn read_ipv4(bytes: &[u8]) -> Option<Ipv4Addr> {
    let mut octets = [0; 4];
    let mut parts = bytes.split(|byte| *byte == b'.');
    for octet in &mut octets {
        let part = parts.next()?;
        let is_plain = part.len() <= 3 && (part.len() == 1 || part.first() != Some(&b'0'));
        let number = syntax::decimal_u16(part).filter(|_| is_plain)?;
        *octet = u8::try_from(number).ok()?;
    }
    parts.next().is_none().then(|| Ipv4Addr::from(octets))
}

/// RFC 5118 §4.10: RFC 3261's grammar asks for a third colon before an embedded IPv4 address; it is ignored.
fn read_ipv6(address: &[u8]) -> Option<Ipv6Addr> {
    let text = std::str::from_utf8(address).ok()?;
    if let Ok(address) = text.parse() {
        return Some(address);
    }
    let (head, tail) = text.split_once(":::")?;
    let mut repaired = arrayvec::ArrayString::<64>::new();
    for part in [head, "::", tail] {
        repaired.try_push_str(part).ok()?;
    }
    repaired.parse().ok()
}

/// URI parameters allow no quotes and no white space.
fn are_uri_params(params: Params<'_>) -> bool {
    let legal = |byte: &u8| matches!(byte, b';' | b'=') || syntax::is_uri_param(*byte);
    params.raw().iter().all(legal) && params.is_well_formed() && syntax::escapes_are_whole(params.raw())
}

fn are_uri_headers(headers: &[u8]) -> bool {
    !headers.is_empty()
        && headers.iter().all(|byte| *byte > b' ' && *byte < 0x7F && !matches!(byte, b'"' | b'<' | b'>' | b'@' | b','))
        && syntax::escapes_are_whole(headers)
}

/// A URI that somebody gave as its own, as the Request-URI of a request to it. RFC 3261 §19.1.1, table 1: a Request-URI has neither `method`
/// nor headers; §19.1.5: who made the URI does not choose what the request says.
#[must_use]
pub fn for_request(uri: &str) -> Cow<'_, str> {
    let Ok(Uri::Sip(read)) = Uri::parse(uri.as_bytes()) else { return Cow::Borrowed(uri) };
    let is_method = |param: &Param<'_>| param.name.eq_ignore_ascii_case(b"method");
    if read.headers.is_none() && !read.params.iter().any(|param| is_method(&param)) {
        return Cow::Borrowed(uri);
    }
    let headers = read.headers.map_or(0, |headers| headers.len().saturating_add(1));
    let tail = read.params.raw().len().saturating_add(headers);
    let mut text = uri.get(..uri.len().saturating_sub(tail)).unwrap_or_default().to_owned();
    for param in read.params.iter().filter(|param| !is_method(param)) {
        text.push(';');
        text.push_str(&String::from_utf8_lossy(param.name));
        if let Some(value) = param.value {
            text.push('=');
            text.push_str(&String::from_utf8_lossy(value));
        }
    }
    Cow::Owned(text)
}

/// The bytes with `%HH` read as the byte it stands for. A broken escape stands for itself.
pub fn unescaped(bytes: &[u8]) -> impl Iterator<Item = u8> + Clone + '_ {
    let mut rest = bytes;
    std::iter::from_fn(move || {
        let (byte, tail) = match rest {
            [b'%', high, low, tail @ ..] => match (nibble(*high), nibble(*low)) {
                (Some(high), Some(low)) => (high << 4 | low, tail),
                _ => (b'%', rest.get(1..)?),
            },
            [byte, tail @ ..] => (*byte, tail),
            [] => return None,
        };
        rest = tail;
        Some(byte)
    })
}

/// Appends the bytes without escapes.
pub fn unescape_into(bytes: &[u8], out: &mut Vec<u8>) {
    out.extend(unescaped(bytes));
}

/// RFC 3261 §19.1.4: users compare with case, escapes compare as what they stand for.
#[must_use]
pub fn same_user(a: &[u8], b: &[u8]) -> bool {
    unescaped(a).eq(unescaped(b))
}

const fn nibble(digit: u8) -> Option<u8> {
    match digit {
        b'0'..=b'9' => Some(digit & 0x0F),
        b'a'..=b'f' | b'A'..=b'F' => Some((digit & 0x0F).wrapping_add(9)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_uri_has_neither_method_nor_headers() {
        for (uri, expected) in [
            ("sip:a@h", "sip:a@h"),
            ("sip:a@h;transport=tcp;ob", "sip:a@h;transport=tcp;ob"),
            ("sip:a@h?Subject=x", "sip:a@h"),
            ("sip:a@h;method=BYE", "sip:a@h"),
            ("sips:a;b?c@[2001:db8::1]:5061;lr;METHOD=INVITE;x=y?a=b&c=d", "sips:a;b?c@[2001:db8::1]:5061;lr;x=y"),
            ("tel:+1;method=x", "tel:+1;method=x"),
            ("*", "*"),
        ] {
            assert_eq!(for_request(uri), expected, "{uri}");
        }
    }
}
