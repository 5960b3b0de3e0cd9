//! Digest credentials and challenges (RFC 7616, RFC 8760; RFC 3261 §20.7, §20.44) as views. No hashing here.
//!
//! Quoted values are given without quotes and with their escapes kept: the digest is computed over what was sent.

use crate::wire::sip::Malformed;
use crate::wire::sip::syntax;
use crate::wire::sip::syntax::Cursor;

/// Authorization or Proxy-Authorization with the scheme `Digest`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Credentials<'a> {
    /// A hash if `userhash` is set.
    pub username: &'a [u8],
    /// RFC 7616 §3.4 `username*`: the extended notation, undecoded.
    pub username_extended: Option<&'a [u8]>,
    pub realm: &'a [u8],
    pub nonce: &'a [u8],
    pub uri: &'a [u8],
    /// Hexadecimal, any case, any length.
    pub response: &'a [u8],
    pub algorithm: Option<&'a [u8]>,
    pub cnonce: Option<&'a [u8]>,
    pub opaque: Option<&'a [u8]>,
    pub qop: Option<&'a [u8]>,
    /// Eight hexadecimal digits on the wire.
    pub nc: Option<u32>,
    /// The digits of `nc` as they came, which the digest covers.
    pub nc_text: Option<&'a [u8]>,
    pub userhash: bool,
}

/// One challenge of WWW-Authenticate or Proxy-Authenticate with the scheme `Digest`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Challenge<'a> {
    pub realm: &'a [u8],
    pub nonce: &'a [u8],
    pub algorithm: Option<&'a [u8]>,
    pub opaque: Option<&'a [u8]>,
    /// The list as it came: `auth,auth-int`.
    pub qop: Option<&'a [u8]>,
    pub domain: Option<&'a [u8]>,
    pub stale: bool,
    pub userhash: bool,
}

impl<'a> Credentials<'a> {
    /// `Ok(None)` for a scheme other than `Digest`.
    ///
    /// # Errors
    /// `Malformed::Credentials` when a parameter is broken, stands twice, or one of username, realm, nonce, uri and response is missing.
    pub fn parse(bytes: &'a [u8]) -> Result<Option<Self>, Malformed> {
        let Some(mut params) = digest(bytes)? else { return Ok(None) };
        let mut found = Self::default();
        let mut seen = Seen::default();
        while let Some((name, value)) = params.next()? {
            if let Some(known) = seen.mark(name, CREDENTIAL_NAMES)? {
                found.take(known, value)?;
            }
        }
        let has_user = seen.has("username", CREDENTIAL_NAMES) || found.username_extended.is_some();
        let has_rest = ["realm", "nonce", "uri", "response"].iter().all(|name| seen.has(name, CREDENTIAL_NAMES));
        if has_user && has_rest { Ok(Some(found)) } else { Err(Malformed::Credentials) }
    }

    fn take(&mut self, name: &str, value: &'a [u8]) -> Result<(), Malformed> {
        match name {
            "username" => self.username = value,
            "username*" => self.username_extended = Some(value),
            "realm" => self.realm = value,
            "nonce" => self.nonce = value,
            "uri" => self.uri = value,
            "response" => self.response = value,
            "algorithm" => self.algorithm = Some(value),
            "cnonce" => self.cnonce = Some(value),
            "opaque" => self.opaque = Some(value),
            "qop" => self.qop = Some(value),
            "nc" => {
                self.nc = Some(hex_u32(value).ok_or(Malformed::Credentials)?);
                self.nc_text = Some(value);
            }
            "userhash" => self.userhash = value.eq_ignore_ascii_case(b"true"),
            _ => {}
        }
        Ok(())
    }
}

impl<'a> Challenge<'a> {
    /// `Ok(None)` for a scheme other than `Digest`.
    ///
    /// # Errors
    /// `Malformed::Credentials` when a parameter is broken, stands twice, or realm or nonce is missing.
    pub fn parse(bytes: &'a [u8]) -> Result<Option<Self>, Malformed> {
        let Some(mut params) = digest(bytes)? else { return Ok(None) };
        let mut found = Self::default();
        let mut seen = Seen::default();
        while let Some((name, value)) = params.next()? {
            if let Some(known) = seen.mark(name, CHALLENGE_NAMES)? {
                found.take(known, value);
            }
        }
        let has_all = ["realm", "nonce"].iter().all(|name| seen.has(name, CHALLENGE_NAMES));
        if has_all { Ok(Some(found)) } else { Err(Malformed::Credentials) }
    }

    fn take(&mut self, name: &str, value: &'a [u8]) {
        match name {
            "realm" => self.realm = value,
            "nonce" => self.nonce = value,
            "algorithm" => self.algorithm = Some(value),
            "opaque" => self.opaque = Some(value),
            "qop" => self.qop = Some(value),
            "domain" => self.domain = Some(value),
            "stale" => self.stale = value.eq_ignore_ascii_case(b"true"),
            "userhash" => self.userhash = value.eq_ignore_ascii_case(b"true"),
            _ => {}
        }
    }

    /// RFC 7616 §3.3: `qop` offers this one.
    #[must_use]
    pub fn offers_qop(&self, wanted: &str) -> bool {
        let list = self.qop.unwrap_or_default();
        list.split(|byte| *byte == b',').any(|qop| syntax::trim(qop).eq_ignore_ascii_case(wanted.as_bytes()))
    }
}

const CREDENTIAL_NAMES: &[&str] = &[
    "username",
    "username*",
    "realm",
    "nonce",
    "uri",
    "response",
    "algorithm",
    "cnonce",
    "opaque",
    "qop",
    "nc",
    "userhash",
];
const CHALLENGE_NAMES: &[&str] = &["realm", "nonce", "algorithm", "opaque", "qop", "domain", "stale", "userhash"];

/// Which known parameters have been read: a second one could be read differently by two readers.
#[derive(Default)]
struct Seen(u32);

impl Seen {
    /// The name as it stands among `names`, if it does.
    fn mark(&mut self, name: &[u8], names: &[&'static str]) -> Result<Option<&'static str>, Malformed> {
        let mut known = names.iter().enumerate();
        let Some((at, known)) = known.find(|(_, known)| known.as_bytes().eq_ignore_ascii_case(name)) else {
            return Ok(None);
        };
        let bit = 1u32.wrapping_shl(u32::try_from(at).unwrap_or(0));
        if self.0 & bit != 0 {
            return Err(Malformed::Credentials);
        }
        self.0 |= bit;
        Ok(Some(known))
    }

    fn has(&self, name: &str, names: &[&str]) -> bool {
        names
            .iter()
            .position(|known| *known == name)
            .is_some_and(|at| self.0 & 1u32.wrapping_shl(u32::try_from(at).unwrap_or(0)) != 0)
    }
}

/// The parameters after `Digest`, or `None` for another scheme.
fn digest(bytes: &[u8]) -> Result<Option<AuthParams<'_>>, Malformed> {
    let mut cursor = Cursor::new(syntax::trim(bytes));
    let scheme = cursor.token().ok_or(Malformed::Credentials)?;
    cursor.skip_space();
    Ok(scheme.eq_ignore_ascii_case(b"Digest").then_some(AuthParams { cursor }))
}

/// Name and value, the value without its quotes.
type AuthParam<'a> = (&'a [u8], &'a [u8]);

struct AuthParams<'a> {
    cursor: Cursor<'a>,
}

impl<'a> AuthParams<'a> {
    fn next(&mut self) -> Result<Option<AuthParam<'a>>, Malformed> {
        while self.cursor.eat_spaced(b',') {}
        if self.cursor.is_empty() {
            return Ok(None);
        }
        let name = self.cursor.token().ok_or(Malformed::Credentials)?;
        if !self.cursor.eat_spaced(b'=') {
            return Err(Malformed::Credentials);
        }
        let value = match self.cursor.peek() {
            Some(b'"') => self.cursor.quoted().ok_or(Malformed::Credentials)?,
            _ => self.cursor.take_while(|byte| byte > b' ' && byte != b',' && byte != b'"'),
        };
        self.cursor.skip_space();
        if self.cursor.is_empty() || self.cursor.peek() == Some(b',') {
            Ok(Some((name, value)))
        } else {
            Err(Malformed::Credentials)
        }
    }
}

fn hex_u32(digits: &[u8]) -> Option<u32> {
    if digits.is_empty() || digits.len() > 8 {
        return None;
    }
    digits.iter().try_fold(0u32, |number, digit| {
        let nibble = char::from(*digit).to_digit(16)?;
        Some(number << 4 | nibble)
    })
}
