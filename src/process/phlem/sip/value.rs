//! Header values that `rsip` misreads: lists, quoted strings, parameters, addresses with dots or IPv6 (RFC 3261 §7.3, §20.10).

use std::net::IpAddr;
use std::net::SocketAddr;

/// Where `byte` first stands outside quotes and angle brackets.
pub(super) fn find_outside(text: &str, byte: u8) -> Option<usize> {
    // Mostly there are none.
    let first = memchr::memchr3(byte, b'"', b'<', text.as_bytes())?;
    if text.as_bytes().get(first) == Some(&byte) {
        return Some(first);
    }
    let (mut quoted, mut escaped, mut angle) = (false, false, false);
    for (index, at) in text.bytes().enumerate().skip(first) {
        if escaped {
            escaped = false;
        } else if quoted {
            match at {
                b'\\' => escaped = true,
                b'"' => quoted = false,
                _ => {}
            }
        } else if at == byte && !angle {
            return Some(index);
        } else {
            match at {
                b'"' => quoted = true,
                b'<' => angle = true,
                b'>' => angle = false,
                _ => {}
            }
        }
    }
    None
}

/// The values of a field that is a list.
pub fn split_list(value: &str) -> impl Iterator<Item = &str> {
    let mut rest = Some(value);
    std::iter::from_fn(move || {
        let text = rest?;
        let Some(end) = find_outside(text, b',') else {
            rest = None;
            return Some(text.trim());
        };
        rest = text.get(end + 1..);
        text.get(..end).map(str::trim)
    })
    .filter(|item| !item.is_empty())
}

/// A name-addr or addr-spec with what follows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Address<'a> {
    pub uri: &'a str,
    /// Parameters of the header, from the first semicolon on.
    pub params: &'a str,
}

impl<'a> Address<'a> {
    pub fn parse(value: &'a str) -> Option<Self> {
        let value = value.trim();
        let open = angle_open(value);
        let Some(open) = open else {
            // RFC 3261 §20.10: without angle brackets "any semicolon-delimited parameters are header-parameters".
            let end = value.find(';').unwrap_or(value.len());
            let (uri, params) = value.split_at(end);
            return (!uri.trim().is_empty()).then(|| Self { uri: uri.trim(), params });
        };
        let inside = value.get(open + 1..)?;
        let (uri, rest) = inside.split_once('>')?;
        Some(Self { uri: uri.trim(), params: rest.trim_start() })
    }

    pub fn tag(&self) -> Option<&'a str> {
        param(self.params, "tag")
    }
}

fn angle_open(value: &str) -> Option<usize> {
    let first = memchr::memchr2(b'<', b'"', value.as_bytes())?;
    let (mut quoted, mut escaped) = (false, false);
    for (index, at) in value.bytes().enumerate().skip(first) {
        match at {
            _ if escaped => escaped = false,
            b'\\' if quoted => escaped = true,
            b'"' => quoted = !quoted,
            b'<' if !quoted => return Some(index),
            _ => {}
        }
    }
    None
}

/// A parameter's value, quotes taken off; empty for one without value. `params` begins with a semicolon or is empty.
pub fn param<'a>(params: &'a str, name: &str) -> Option<&'a str> {
    let mut rest = params.get(find_outside(params, b';')? + 1..)?;
    loop {
        let end = find_outside(rest, b';').unwrap_or(rest.len());
        let (own, after) = rest.split_at(end);
        let (key, value) = own.split_once('=').unwrap_or((own, ""));
        if key.trim().eq_ignore_ascii_case(name) {
            return Some(value.trim().trim_matches('"'));
        }
        rest = after.strip_prefix(';')?;
    }
}

/// The parts of a SIP URI that a phone needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Uri<'a> {
    pub user: Option<&'a str>,
    /// IPv6 in its brackets.
    pub host: &'a str,
    pub port: Option<u16>,
    /// From the first semicolon on; headers cut off.
    pub params: &'a str,
    /// Behind the question mark.
    pub headers: &'a str,
}

impl<'a> Uri<'a> {
    pub fn parse(text: &'a str) -> Option<Self> {
        let (scheme, rest) = text.split_once(':')?;
        if !scheme.eq_ignore_ascii_case("sip") && !scheme.eq_ignore_ascii_case("sips") {
            return None;
        }
        // A user part may hold ; and ? but no @ (RFC 3261 §25.1), so it is taken off first.
        let (user, rest) = match rest.split_once('@') {
            Some((user, rest)) => (Some(user.split_once(':').map_or(user, |(user, _)| user)), rest),
            None => (None, rest),
        };
        let (rest, headers) = rest.split_once('?').unwrap_or((rest, ""));
        let (host_port, params) = rest.split_at(rest.find(';').unwrap_or(rest.len()));
        let (host, port) = host_port_of(host_port)?;
        Some(Self { user, host, port, params, headers })
    }

    pub fn ip(&self) -> Option<IpAddr> {
        self.host.trim_matches(['[', ']']).parse().ok()
    }
}

/// Host and port of `host`, `host:port`, `[v6]`, `[v6]:port`.
pub fn host_port_of(text: &str) -> Option<(&str, Option<u16>)> {
    let text = text.trim();
    let host_end = if text.starts_with('[') { text.find(']')? + 1 } else { text.find(':').unwrap_or(text.len()) };
    let (host, rest) = text.split_at(host_end);
    let port = match rest.strip_prefix(':') {
        Some(port) => Some(port.parse().ok()?),
        None if rest.is_empty() => None,
        None => return None,
    };
    (!host.is_empty()).then_some((host, port))
}

/// An address as a URI or Via shows it.
pub fn shown(address: SocketAddr) -> String {
    address.to_string()
}

/// A Via value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Via<'a> {
    pub transport: &'a str,
    pub sent_by: &'a str,
    pub params: &'a str,
}

impl<'a> Via<'a> {
    pub fn parse(value: &'a str) -> Option<Self> {
        let (head, params) = value.split_at(value.find(';').unwrap_or(value.len()));
        // SIP / 2.0 / UDP host: blanks may stand around the slashes.
        let (_, rest) = head.split_once('/')?;
        let (_, rest) = rest.split_once('/')?;
        let (transport, sent_by) = rest.trim().split_once([' ', '\t'])?;
        Some(Self { transport, sent_by: sent_by.trim(), params })
    }

    pub fn branch(&self) -> Option<&'a str> {
        param(self.params, "branch")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_and_parameters() {
        let list: Vec<_> = split_list(r#""a, \"b" <sip:x,y@h>;q=1 , <sip:z> ,, c"#).collect();
        assert_eq!(list, [r#""a, \"b" <sip:x,y@h>;q=1"#, "<sip:z>", "c"]);
        assert_eq!(param(r#";a=1;B="x;y";c"#, "b"), Some("x;y"));
        assert_eq!(param(";a=1;c", "c"), Some(""));
        assert_eq!(param(";a=1", "d"), None);
        assert_eq!(param("", "d"), None);
    }

    #[test]
    fn addresses() {
        let check = |value: &str, uri: &str, tag: Option<&str>| {
            let address = Address::parse(value).unwrap();
            assert_eq!((address.uri, address.tag()), (uri, tag), "{value}");
        };
        check("\"Caller <x>\" <sip:john.doe@example.com;lr>;tag=9", "sip:john.doe@example.com;lr", Some("9"));
        check("sip:a@b;tag=1", "sip:a@b", Some("1"));
        check("<sip:a@[2001:db8::1]:5070>;tag=\"q\"", "sip:a@[2001:db8::1]:5070", Some("q"));
        check("A. G. Bell <sip:agb@bell>", "sip:agb@bell", None);
        assert_eq!(Address::parse("<sip:open"), None);
        assert_eq!(Address::parse(" "), None);
    }

    #[test]
    fn uris_and_vias() {
        let uri = Uri::parse("sip:a.b;c:pw@[::1]:5070;transport=tcp?Replaces=x").unwrap();
        assert_eq!((uri.user, uri.host, uri.port), (Some("a.b;c"), "[::1]", Some(5070)));
        assert_eq!((uri.params, uri.headers), (";transport=tcp", "Replaces=x"));
        assert_eq!(uri.ip(), Some("::1".parse().unwrap()));
        assert_eq!(Uri::parse("tel:+491234"), None);
        assert_eq!(Uri::parse("sip:h:99999"), None);
        let via = Via::parse("SIP / 2.0 / UDP [::1]:5060 ;branch=z9hG4bK1;rport").unwrap();
        assert_eq!((via.transport, via.sent_by, via.branch()), ("UDP", "[::1]:5060", Some("z9hG4bK1")));
        assert_eq!(Via::parse("UDP host"), None);
    }
}
