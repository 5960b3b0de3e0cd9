//! Values of single headers that are neither addresses nor credentials: CSeq, RAck, Session-Expires, Reason, Replaces.

use crate::wire::sip::Malformed;
use crate::wire::sip::Method;
use crate::wire::sip::params::Params;
use crate::wire::sip::syntax;
use crate::wire::sip::syntax::Cursor;

/// RFC 3261 §20.16.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CSeq<'a> {
    /// Below 2^31.
    pub number: u32,
    pub method: Method,
    /// The method as it came.
    pub name: &'a [u8],
}

impl<'a> CSeq<'a> {
    /// # Errors
    /// `Malformed::CSeq`.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, Malformed> {
        let mut cursor = Cursor::new(syntax::trim(bytes));
        let read = |cursor: &mut Cursor<'a>| {
            let number = number_before_space(cursor)?;
            // RFC 3261 §8.1.1.5: "The sequence number value MUST be expressible as a 32-bit unsigned integer and MUST be less than 2**31."
            let number = (number < 1 << 31).then_some(number)?;
            let name = cursor.token()?;
            cursor.is_empty().then_some(Self { number, method: Method::parse(name), name })
        };
        read(&mut cursor).ok_or(Malformed::CSeq)
    }
}

/// RFC 3262 §7.2: which provisional response a PRACK acknowledges.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RAck<'a> {
    pub rseq: u32,
    pub cseq: CSeq<'a>,
}

impl<'a> RAck<'a> {
    /// # Errors
    /// `Malformed::Value`.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, Malformed> {
        let mut cursor = Cursor::new(syntax::trim(bytes));
        let rseq = number_before_space(&mut cursor).ok_or(Malformed::Value)?;
        let cseq = CSeq::parse(cursor.rest()).map_err(|_| Malformed::Value)?;
        Ok(Self { rseq, cseq })
    }
}

fn number_before_space(cursor: &mut Cursor<'_>) -> Option<u32> {
    let number = syntax::decimal_u32(cursor.take_while(|byte| byte.is_ascii_digit()))?;
    let before = cursor.rest().len();
    cursor.skip_space();
    (cursor.rest().len() < before).then_some(number)
}

/// Who refreshes a session (RFC 4028 §4).
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub enum Refresher {
    Uac,
    Uas,
}

/// RFC 4028 §4.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SessionExpires {
    pub secs: u32,
    pub refresher: Option<Refresher>,
}

impl SessionExpires {
    /// # Errors
    /// `Malformed::Value`.
    pub fn parse(bytes: &[u8]) -> Result<Self, Malformed> {
        let mut cursor = Cursor::new(syntax::trim(bytes));
        let digits = cursor.take_while(|byte| byte.is_ascii_digit());
        let secs = syntax::decimal_u32(digits).ok_or(Malformed::Value)?;
        cursor.skip_space();
        let params = Params::new(cursor.rest());
        if !params.is_well_formed() {
            return Err(Malformed::Value);
        }
        let refresher = match params.get("refresher") {
            Some(side) if side.eq_ignore_ascii_case(b"uac") => Some(Refresher::Uac),
            Some(side) if side.eq_ignore_ascii_case(b"uas") => Some(Refresher::Uas),
            _ => None,
        };
        Ok(Self { secs, refresher })
    }
}

/// RFC 3326: one reason why a request was sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReasonValue<'a> {
    /// `SIP`, `Q.850` or another token.
    pub protocol: &'a [u8],
    pub cause: Option<u16>,
    /// Without quotes, escapes kept.
    pub text: Option<&'a [u8]>,
}

impl<'a> ReasonValue<'a> {
    /// # Errors
    /// `Malformed::Value`.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, Malformed> {
        let (protocol, params) = word_and_params(bytes)?;
        Ok(Self { protocol, cause: params.get("cause").and_then(syntax::decimal_u16), text: params.get("text") })
    }
}

/// RFC 3891, and RFC 3911 Join and RFC 4538 Target-Dialog, which look the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Replaces<'a> {
    pub call_id: &'a [u8],
    pub to_tag: &'a [u8],
    pub from_tag: &'a [u8],
    pub early_only: bool,
}

impl<'a> Replaces<'a> {
    /// # Errors
    /// `Malformed::Value`.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, Malformed> {
        let mut cursor = Cursor::new(syntax::trim(bytes));
        let call_id = cursor.take_while(|byte| byte != b';' && !syntax::is_space(byte));
        cursor.skip_space();
        let params = Params::new(cursor.rest());
        let tag = |name| params.get(name).filter(|tag: &&[u8]| !tag.is_empty()).ok_or(Malformed::Value);
        if call_id.is_empty() || !params.is_well_formed() {
            return Err(Malformed::Value);
        }
        let to_tag = tag("to-tag").or_else(|_| tag("remote-tag"))?;
        let from_tag = tag("from-tag").or_else(|_| tag("local-tag"))?;
        Ok(Self { call_id, to_tag, from_tag, early_only: params.has("early-only") })
    }
}

/// A token and its parameters: Event, Subscription-State, Content-Disposition, and one value of Accept or Content-Type, whose word is
/// `type/subtype`.
///
/// # Errors
/// `Malformed::Value`.
pub fn word_and_params(bytes: &[u8]) -> Result<(&[u8], Params<'_>), Malformed> {
    let mut cursor = Cursor::new(syntax::trim(bytes));
    let word = cursor.take_while(|byte| byte != b';' && !syntax::is_space(byte));
    cursor.skip_space();
    let params = Params::new(cursor.rest());
    if word.is_empty() || !params.is_well_formed() {
        return Err(Malformed::Value);
    }
    Ok((word, params))
}

/// A media type is this one, whatever its case, white space and parameters: `is_media_type(value, "application/sdp")`.
#[must_use]
pub fn is_media_type(value: &[u8], wanted: &str) -> bool {
    let main = value.split(|byte| *byte == b';').next().unwrap_or_default();
    main.iter()
        .filter(|byte| !syntax::is_space(**byte))
        .map(u8::to_ascii_lowercase)
        .eq(wanted.bytes().map(|byte| byte.to_ascii_lowercase()))
}
