//! Telephone numbers in URIs (RFC 3966): of a `tel:` URI, and of the user part of a SIP URI that is a telephone-subscriber
//! (RFC 3261 §19.1.6). What somebody dialled, without what is there for the eye.

use std::borrow::Cow;

use crate::wire::sip::params::Params;
use crate::wire::sip::uri::SipUri;
use crate::wire::sip::uri::Uri;
use crate::wire::sip::uri::unescaped;

/// Characters of a number, or of the context of one.
const NUMBER_CHARS_MAX: usize = 64;

/// A number as a URI has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subscriber<'a> {
    /// Digits, `*`, `#`, A to F, and a leading `+`: no escapes, no visual separators.
    pub number: String,
    /// `phone-context` of a local number (RFC 3966 §5.1.5): a domain, or a prefix that begins with `+`.
    pub context: Option<Cow<'a, str>>,
    /// The URI says that it is a number: `tel:` or `user=phone`.
    pub is_said: bool,
}

impl Subscriber<'_> {
    /// RFC 3966 §5.1.4: a number of E.164 begins with `+`.
    #[must_use]
    pub fn is_global(&self) -> bool {
        self.number.starts_with('+')
    }
}

impl<'a> Uri<'a> {
    /// The telephone number that this URI names, if its user may be one.
    #[must_use]
    pub fn subscriber(self) -> Option<Subscriber<'a>> {
        match self {
            Self::Sip(uri) => uri.subscriber(),
            Self::Tel(uri) => read(uri.number, uri.params, true),
            Self::Other(_) => None,
        }
    }
}

impl<'a> SipUri<'a> {
    /// RFC 3261 §19.1.6: "the userinfo portion" is the telephone-subscriber with its parameters. Many phones do not say `user=phone`.
    #[must_use]
    pub fn subscriber(self) -> Option<Subscriber<'a>> {
        let user = self.user?;
        let end = memchr::memchr(b';', user).unwrap_or(user.len());
        let (number, params) = user.split_at_checked(end)?;
        let is_said = self.params.get("user").is_some_and(|user| user.eq_ignore_ascii_case(b"phone"));
        read(number, Params::new(params), is_said)
    }
}

fn read<'a>(number: &[u8], params: Params<'a>, is_said: bool) -> Option<Subscriber<'a>> {
    let number = digits(number)?;
    // A number of E.164 is the same everywhere.
    let context = params.get("phone-context").filter(|_| !number.starts_with('+')).map(text);
    Some(Subscriber { number, context, is_said })
}

/// RFC 3966 §5.1.1: "visual separators […] are not part of the number".
fn digits(number: &[u8]) -> Option<String> {
    let mut digits = String::new();
    for byte in unescaped(number) {
        match byte {
            b'+' if digits.is_empty() => digits.push('+'),
            b'*' | b'#' | b'0'..=b'9' | b'a'..=b'f' | b'A'..=b'F' => digits.push(char::from(byte)),
            b'-' | b'.' | b'(' | b')' => {}
            _ => return None,
        }
        if digits.len() > NUMBER_CHARS_MAX {
            return None;
        }
    }
    let is_number = digits.bytes().any(|byte| byte.is_ascii_digit() || matches!(byte, b'*' | b'#'));
    is_number.then_some(digits)
}

fn text(bytes: &[u8]) -> Cow<'_, str> {
    if bytes.contains(&b'%') {
        let bytes: Vec<u8> = unescaped(bytes).collect();
        return Cow::Owned(String::from_utf8_lossy(&bytes).into_owned());
    }
    String::from_utf8_lossy(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_read_as_they_are_dialled() {
        for (uri, number, context, is_said) in [
            ("sip:1001@h", "1001", None, false),
            ("sip:*21@h", "*21", None, false),
            ("sip:%2A21%23@h", "*21#", None, false),
            ("sip:%2a21%23@h", "*21#", None, false),
            ("sip:*21#@h", "*21#", None, false),
            ("sip:+49-30-(123).45@h;user=phone", "+493012345", None, true),
            ("sip:%2B4930@h;user=PHONE", "+4930", None, true),
            ("sip:+4930;phone-context=+1@h;user=phone", "+4930", None, true),
            ("sip:7042;phone-context=acme.test;isub=1@h;user=phone", "7042", Some("acme.test"), true),
            ("sip:7042;isub=1;ext=2@h", "7042", None, false),
            ("sip:7042;phone-context=%2B1-914@h", "7042", Some("+1-914"), false),
            ("tel:7042;phone-context=example.com", "7042", Some("example.com"), true),
            ("tel:+1-201-555-0123", "+12015550123", None, true),
            ("TEL:%2A21%23;phone-context=h", "*21#", Some("h"), true),
        ] {
            let subscriber = Uri::parse(uri.as_bytes()).unwrap().subscriber().unwrap();
            let read = (subscriber.number.as_str(), subscriber.context.as_deref(), subscriber.is_said);
            assert_eq!(read, (number, context, is_said), "{uri}");
        }
    }

    #[test]
    fn what_cannot_be_dialled_is_no_number() {
        for uri in ["sip:alice@h", "sip:h", "sip:a-b@h;user=phone", "sip:1+2@h", "sip:-.-@h", "sip:12%3B3@h", "urn:1"] {
            assert_eq!(Uri::parse(uri.as_bytes()).unwrap().subscriber(), None, "{uri}");
        }
        let long = format!("sip:{}@h", "1".repeat(NUMBER_CHARS_MAX + 1));
        assert_eq!(Uri::parse(long.as_bytes()).unwrap().subscriber(), None);
    }
}
