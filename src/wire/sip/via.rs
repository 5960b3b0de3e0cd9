//! One value of Via: `SIP/2.0/UDP host:port;branch=…` (RFC 3261 §20.42, RFC 3581).

use std::net::IpAddr;

use crate::wire::sip::Malformed;
use crate::wire::sip::params::Params;
use crate::wire::sip::syntax;
use crate::wire::sip::syntax::Cursor;
use crate::wire::sip::uri::Host;
use crate::wire::sip::uri::read_host_port;

/// RFC 3261 §8.1.1.7: branches of elements that follow it begin so.
pub const MAGIC_COOKIE: &[u8] = b"z9hG4bK";

/// One hop of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Via<'a> {
    /// `UDP`, `TCP` or any other token.
    pub transport: &'a [u8],
    /// Who sent it, as it calls itself.
    pub host: Host<'a>,
    pub port: Option<u16>,
    pub params: Params<'a>,
}

impl<'a> Via<'a> {
    /// Reads one value; a list must be split first.
    ///
    /// # Errors
    /// `Malformed::Via`.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, Malformed> {
        Self::read(syntax::trim(bytes)).ok_or(Malformed::Via)
    }

    fn read(bytes: &'a [u8]) -> Option<Self> {
        let mut cursor = Cursor::new(bytes);
        // Nearly everybody writes it so; the grammar allows white space around the slashes.
        if bytes.starts_with(b"SIP/2.0/") {
            cursor.take(8);
        } else {
            let name = cursor.token()?;
            let is_sip = name.eq_ignore_ascii_case(b"SIP") && cursor.eat_spaced(b'/') && cursor.token()? == b"2.0";
            if !is_sip || !cursor.eat_spaced(b'/') {
                return None;
            }
        }
        cursor.skip_space();
        let transport = cursor.token()?;
        let before = cursor.rest().len();
        cursor.skip_space();
        if cursor.rest().len() == before {
            return None;
        }
        let host_port = cursor.take_while(|byte| byte != b';' && !syntax::is_space(byte));
        let (host, port) = match read_host_port(host_port) {
            Some(found) if !is_followed_by_port(cursor) => found,
            _ => read_spaced_port(host_port, &mut cursor)?,
        };
        let mut rest = cursor;
        rest.skip_space();
        let params = Params::new(rest.rest());
        params.is_well_formed().then_some(Self { transport, host, port, params })
    }

    #[must_use]
    pub fn branch(self) -> Option<&'a [u8]> {
        self.params.get("branch").filter(|branch| !branch.is_empty())
    }

    /// The branch names its transaction alone (RFC 3261 §17.2.3).
    #[must_use]
    pub fn has_magic_cookie(self) -> bool {
        self.branch().is_some_and(|branch| branch.len() > MAGIC_COOKIE.len() && branch.starts_with(MAGIC_COOKIE))
    }

    #[must_use]
    pub fn received(self) -> Option<IpAddr> {
        let text = self.params.get("received")?;
        let text = std::str::from_utf8(text).ok()?;
        text.trim_start_matches('[').trim_end_matches(']').parse().ok()
    }

    /// RFC 3581: the sender asks for answers to the port that it sent from.
    #[must_use]
    pub fn wants_rport(self) -> bool {
        self.params.has("rport")
    }

    /// The value of `rport`, where it has one.
    #[must_use]
    pub fn rport(self) -> Option<u16> {
        self.params.get("rport").and_then(syntax::decimal_u16)
    }

    #[must_use]
    pub fn maddr(self) -> Option<&'a [u8]> {
        self.params.get("maddr")
    }

    #[must_use]
    pub fn ttl(self) -> Option<u8> {
        self.params.get("ttl").and_then(syntax::decimal_u16).and_then(|ttl| u8::try_from(ttl).ok())
    }
}

/// The grammar's COLON allows white space around it.
fn is_followed_by_port(mut cursor: Cursor<'_>) -> bool {
    cursor.skip_space();
    cursor.peek() == Some(b':')
}

fn read_spaced_port<'a>(host: &'a [u8], cursor: &mut Cursor<'a>) -> Option<(Host<'a>, Option<u16>)> {
    let host = match host {
        [host @ .., b':'] if !host.ends_with(b"]") || host.starts_with(b"[") => host,
        host if cursor.eat_spaced(b':') => host,
        _ => return None,
    };
    cursor.skip_space();
    let port = cursor.take_while(|byte| byte.is_ascii_digit());
    Some((Host::parse(host).ok()?, Some(syntax::decimal_u16(port)?)))
}
