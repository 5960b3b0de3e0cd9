//! Letters and words of the SIP grammar (RFC 3261 §25.1): character classes and a cursor that cannot run past the end.
//!
//! Values may still contain folds, so white space here is SP, HT and the CR LF of a fold.

const TOKEN: u8 = 1;
const SPACE: u8 = 2;
const HOST: u8 = 4;
const USER: u8 = 8;
const URI_PARAM: u8 = 16;
const PARAM_NAME: u8 = 32;
const PARAM_VALUE: u8 = 64;

static CLASS: [u8; 256] = classes();

#[expect(
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    reason = "evaluated by the compiler only; a fault stops the build"
)]
const fn classes() -> [u8; 256] {
    let mut table = [0; 256];
    let mut at = 0;
    while at < 256 {
        let byte = at as u8;
        let mut class = 0;
        if byte.is_ascii_alphanumeric() {
            class |= TOKEN | HOST | USER | URI_PARAM;
        }
        if matches!(byte, b'-' | b'.' | b'!' | b'%' | b'*' | b'_' | b'+' | b'`' | b'\'' | b'~') {
            class |= TOKEN;
        }
        if matches!(byte, b' ' | b'\t' | b'\r' | b'\n') {
            class |= SPACE;
        }
        // Underscores are no host letters, but stand in the names of many private networks.
        if matches!(byte, b'-' | b'.' | b'_') {
            class |= HOST;
        }
        // Phones dial "#" and worse unescaped; what could end or reopen a URI is refused.
        if byte > b' ' && byte != 0x7F && !matches!(byte, b'"' | b'<' | b'>' | b'@' | b'\\') {
            class |= USER;
        }
        if byte > b' ' && byte < 0x7F && !matches!(byte, b'"' | b'<' | b'>' | b'@' | b'\\' | b';' | b'?' | b'=' | b',')
        {
            class |= URI_PARAM;
        }
        if class & TOKEN != 0 || matches!(byte, b'[' | b']' | b'/' | b':' | b'&' | b'$' | b'(' | b')') {
            class |= PARAM_NAME;
        }
        if byte > b' ' && !matches!(byte, b';' | b',' | b'"' | b'<' | b'>' | 0x7F) {
            class |= PARAM_VALUE;
        }
        table[at] = class;
        at += 1;
    }
    table
}

#[inline]
fn is(byte: u8, class: u8) -> bool {
    CLASS.get(usize::from(byte)).is_some_and(|found| found & class != 0)
}

/// A letter of a token.
#[inline]
pub(crate) fn is_token(byte: u8) -> bool {
    is(byte, TOKEN)
}

/// SP, HT or part of a fold.
#[inline]
pub(crate) fn is_space(byte: u8) -> bool {
    is(byte, SPACE)
}

#[inline]
pub(crate) fn is_host(byte: u8) -> bool {
    is(byte, HOST)
}

#[inline]
pub(crate) fn is_user(byte: u8) -> bool {
    is(byte, USER)
}

#[inline]
pub(crate) fn is_uri_param(byte: u8) -> bool {
    is(byte, URI_PARAM)
}

/// A letter of a parameter name: URI parameters have some that tokens lack.
#[inline]
pub(crate) fn is_param_name(byte: u8) -> bool {
    is(byte, PARAM_NAME)
}

/// A letter of an unquoted parameter value: wider than a token, for hosts with brackets and what phones write without quotes.
#[inline]
pub(crate) fn is_param_value(byte: u8) -> bool {
    is(byte, PARAM_VALUE)
}

/// `bytes` is one token.
pub(crate) fn is_a_token(bytes: &[u8]) -> bool {
    !bytes.is_empty() && bytes.iter().all(|byte| is_token(*byte))
}

/// Every `%` begins two hexadecimal digits.
pub(crate) fn escapes_are_whole(bytes: &[u8]) -> bool {
    let mut rest = bytes;
    while let Some(at) = memchr::memchr(b'%', rest) {
        match rest.get(at..) {
            Some([_, high, low, tail @ ..]) if high.is_ascii_hexdigit() && low.is_ascii_hexdigit() => rest = tail,
            _ => return false,
        }
    }
    true
}

/// Without white space and folds at both ends.
pub(crate) fn trim(mut bytes: &[u8]) -> &[u8] {
    while let [first, rest @ ..] = bytes
        && is_space(*first)
    {
        bytes = rest;
    }
    trim_end(bytes)
}

pub(crate) fn trim_end(mut bytes: &[u8]) -> &[u8] {
    while let [rest @ .., last] = bytes
        && is_space(*last)
    {
        bytes = rest;
    }
    bytes
}

/// A decimal number that fits, digits only.
pub(crate) fn decimal(bytes: &[u8]) -> Option<u64> {
    if bytes.is_empty() {
        return None;
    }
    bytes.iter().try_fold(0u64, |number, byte| match byte {
        b'0'..=b'9' => number.checked_mul(10)?.checked_add(u64::from(byte & 0x0F)),
        _ => None,
    })
}

pub(crate) fn decimal_u32(bytes: &[u8]) -> Option<u32> {
    decimal(bytes).and_then(|number| u32::try_from(number).ok())
}

pub(crate) fn decimal_u16(bytes: &[u8]) -> Option<u16> {
    decimal(bytes).and_then(|number| u16::try_from(number).ok())
}

/// The next value of a comma-separated list and the rest after its comma; commas in quotes, comments aside, and in `<>` do not count.
/// `None` when there is no comma left or the quotes do not balance: all of it is one value then.
pub(crate) fn split_at_comma(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    // Nearly every value has no comma at all.
    memchr::memchr(b',', bytes)?;
    let mut quoted = false;
    let mut escaped = false;
    let mut bracket = false;
    for (at, byte) in bytes.iter().enumerate() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if quoted => escaped = true,
            b'"' if !bracket => quoted = !quoted,
            _ if quoted => {}
            b'<' => bracket = true,
            b'>' => bracket = false,
            b',' if !bracket => {
                let (value, rest) = bytes.split_at_checked(at)?;
                return Some((value, rest.get(1..)?));
            }
            _ => {}
        }
    }
    None
}

/// What is left to read of a value.
#[derive(Clone, Copy)]
pub(crate) struct Cursor<'a> {
    rest: &'a [u8],
}

impl<'a> Cursor<'a> {
    pub(crate) const fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    pub(crate) const fn rest(self) -> &'a [u8] {
        self.rest
    }

    pub(crate) const fn is_empty(self) -> bool {
        self.rest.is_empty()
    }

    pub(crate) fn peek(self) -> Option<u8> {
        self.rest.first().copied()
    }

    pub(crate) fn skip_space(&mut self) {
        while let [first, rest @ ..] = self.rest
            && is_space(*first)
        {
            self.rest = rest;
        }
    }

    /// Takes `wanted` if it is next.
    pub(crate) fn eat(&mut self, wanted: u8) -> bool {
        match self.rest {
            [first, rest @ ..] if *first == wanted => {
                self.rest = rest;
                true
            }
            _ => false,
        }
    }

    /// Takes `wanted` with white space around it.
    pub(crate) fn eat_spaced(&mut self, wanted: u8) -> bool {
        let before = *self;
        self.skip_space();
        if self.eat(wanted) {
            self.skip_space();
            return true;
        }
        *self = before;
        false
    }

    /// The longest run of letters for which `keep` holds; may be empty.
    pub(crate) fn take_while(&mut self, keep: impl Fn(u8) -> bool) -> &'a [u8] {
        let length = self.rest.iter().position(|byte| !keep(*byte)).unwrap_or(self.rest.len());
        self.take(length)
    }

    /// The next `length` bytes, or all that is left.
    pub(crate) fn take(&mut self, length: usize) -> &'a [u8] {
        let (taken, rest) = self.rest.split_at_checked(length).unwrap_or((self.rest, &[]));
        self.rest = rest;
        taken
    }

    /// A token, at least one letter.
    pub(crate) fn token(&mut self) -> Option<&'a [u8]> {
        let token = self.take_while(is_token);
        (!token.is_empty()).then_some(token)
    }

    /// What stands between the quotes, escapes kept. The cursor is at the opening quote.
    pub(crate) fn quoted(&mut self) -> Option<&'a [u8]> {
        if !self.eat(b'"') {
            return None;
        }
        let mut length = 0usize;
        loop {
            let found = memchr::memchr2(b'"', b'\\', self.rest.get(length..)?)?;
            length = length.checked_add(found)?;
            if self.rest.get(length) == Some(&b'"') {
                break;
            }
            // A backslash takes the next letter with it.
            length = length.checked_add(2)?;
        }
        let content = self.take(length);
        self.eat(b'"');
        Some(content)
    }
}
