//! `"Name" <uri>;param=value` and `uri;param=value` (RFC 3261 §20.10, §25.1 name-addr and addr-spec), and Contact lists.

use crate::wire::sip::Malformed;
use crate::wire::sip::params::Params;
use crate::wire::sip::syntax;
use crate::wire::sip::syntax::Cursor;
use crate::wire::sip::uri::Uri;

/// The value of From, To, Contact, Route, Refer-To, P-Asserted-Identity and the like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NameAddr<'a> {
    /// As it came, with its quotes; empty when there is none.
    pub display: &'a [u8],
    /// Without the brackets. [`NameAddr::parse_uri`] reads it.
    pub uri: &'a [u8],
    /// The parameters of the header, never those of the URI.
    pub params: Params<'a>,
}

impl<'a> NameAddr<'a> {
    /// Reads one value; a list must be split first.
    ///
    /// # Errors
    /// `Malformed::NameAddr` when brackets, quotes, display name or parameters are not as the grammar has them.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, Malformed> {
        Self::read(syntax::trim(bytes)).ok_or(Malformed::NameAddr)
    }

    fn read(bytes: &'a [u8]) -> Option<Self> {
        let mut cursor = Cursor::new(bytes);
        let display = if cursor.peek() == Some(b'"') {
            cursor.quoted()?;
            let taken = bytes.len().checked_sub(cursor.rest().len())?;
            let display = bytes.get(..taken)?;
            cursor.skip_space();
            display
        } else {
            let display = cursor.take_while(is_display);
            // Without an opening bracket the display name was the beginning of a bare URI.
            if cursor.peek() != Some(b'<') {
                return Self::read_bare(bytes);
            }
            syntax::trim(display)
        };
        if !cursor.eat(b'<') {
            return None;
        }
        let uri = cursor.take(memchr::memchr(b'>', cursor.rest())?);
        if !cursor.eat(b'>') {
            return None;
        }
        cursor.skip_space();
        Self { display, uri, params: Params::new(cursor.rest()) }.checked()
    }

    /// RFC 3261 §20: "If the URI is not enclosed in angle brackets, any semicolon-delimited parameters are header-parameters, not URI
    /// parameters", and a comma, question mark or semicolon in the URI demands brackets.
    fn read_bare(bytes: &'a [u8]) -> Option<Self> {
        let mut cursor = Cursor::new(bytes);
        let uri = syntax::trim(cursor.take_while(|byte| byte != b';'));
        if uri.iter().any(|byte| matches!(byte, b'?' | b',' | b'<' | b'>' | b'"') || syntax::is_space(*byte)) {
            return None;
        }
        Self { display: b"", uri, params: Params::new(cursor.rest()) }.checked()
    }

    fn checked(self) -> Option<Self> {
        (!self.uri.is_empty() && self.params.is_well_formed()).then_some(self)
    }

    /// The URI.
    ///
    /// # Errors
    /// `Malformed::Uri`.
    pub fn parse_uri(self) -> Result<Uri<'a>, Malformed> {
        Uri::parse(self.uri)
    }

    /// The display name without quotes; escapes of a quoted name are kept.
    #[must_use]
    pub fn display_text(self) -> &'a [u8] {
        match self.display {
            [b'"', text @ .., b'"'] => text,
            text => text,
        }
    }

    /// The display name as it is shown: RFC 3261 §25.1, quoted-pairs read.
    #[must_use]
    pub fn name(self) -> String {
        let text = String::from_utf8_lossy(self.display_text());
        if !self.display.starts_with(b"\"") || !text.contains('\\') {
            return text.into_owned();
        }
        let mut name = String::with_capacity(text.len());
        let mut letters = text.chars();
        while let Some(letter) = letters.next() {
            name.extend(if letter == '\\' { letters.next() } else { Some(letter) });
        }
        name
    }

    /// The tag of a From or To; an empty one is none.
    #[must_use]
    pub fn tag(self) -> Option<&'a [u8]> {
        self.params.get("tag").filter(|tag| !tag.is_empty())
    }

    /// Contact: seconds, where they are given and readable.
    #[must_use]
    pub fn expires(self) -> Option<u32> {
        self.params.get("expires").and_then(syntax::decimal_u32)
    }

    /// Contact: preference in thousandths, 0 to 1000 (RFC 3261 §25.1 qvalue); `None` when absent or no qvalue.
    #[must_use]
    pub fn q(self) -> Option<u16> {
        self.params.get("q").and_then(qvalue)
    }

    /// RFC 5626 §4.1: the URN in `+sip.instance="<…>"`.
    #[must_use]
    pub fn instance(self) -> Option<&'a [u8]> {
        match self.params.get("+sip.instance")? {
            [b'<', urn @ .., b'>'] => Some(urn),
            bare => Some(bare),
        }
    }

    /// RFC 5626 §4.2: from 1 to 2^31 - 1.
    #[must_use]
    pub fn reg_id(self) -> Option<u32> {
        self.params.get("reg-id").and_then(syntax::decimal_u32).filter(|id| (1..=0x7FFF_FFFF).contains(id))
    }
}

/// Tokens and white space; UTF-8 without quotes is not in the grammar, but many phones write names so.
fn is_display(byte: u8) -> bool {
    syntax::is_token(byte) || syntax::is_space(byte) || byte >= 0x80
}

fn qvalue(bytes: &[u8]) -> Option<u16> {
    let (whole, fraction) = match bytes {
        [whole @ (b'0' | b'1')] => (*whole, &[][..]),
        [whole @ (b'0' | b'1'), b'.', fraction @ ..] => (*whole, fraction),
        _ => return None,
    };
    let mut thousandths = 0u16;
    let mut weight = 100u16;
    for digit in fraction {
        let digit = digit.is_ascii_digit().then_some(digit & 0x0F)?;
        thousandths = thousandths.checked_add(weight.checked_mul(u16::from(digit))?)?;
        weight = weight.checked_div(10)?;
    }
    match whole {
        b'0' if fraction.len() <= 3 => Some(thousandths),
        b'1' if fraction.len() <= 3 && thousandths == 0 => Some(1000),
        _ => None,
    }
}

/// One value of Contact.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Contact<'a> {
    /// `*`: every binding.
    Star,
    Address(NameAddr<'a>),
}

impl<'a> Contact<'a> {
    /// Reads one value of a Contact list.
    ///
    /// # Errors
    /// `Malformed::NameAddr`.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, Malformed> {
        match syntax::trim(bytes) {
            b"*" => Ok(Self::Star),
            value => NameAddr::parse(value).map(Self::Address),
        }
    }
}
