//! Parameters after a value: `;name=value;flag;name="quoted"` (RFC 3261 §25.1 generic-param) and of URIs (uri-parameter).
//!
//! A view over the bytes; names compare without case. What is malformed ends the iteration; `is_well_formed` tells.

use crate::wire::sip::syntax;
use crate::wire::sip::syntax::Cursor;

/// The parameters of one header value or URI, from the first `;` on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Params<'a> {
    raw: &'a [u8],
}

/// One parameter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Param<'a> {
    pub name: &'a [u8],
    /// Without the quotes, escapes kept; `None` when there is no `=`.
    pub value: Option<&'a [u8]>,
    pub quoted: bool,
}

impl<'a> Params<'a> {
    /// Views `raw`, which is empty or begins with `;`.
    #[must_use]
    pub const fn new(raw: &'a [u8]) -> Self {
        Self { raw }
    }

    /// The bytes as they came, with the first `;`.
    #[must_use]
    pub const fn raw(self) -> &'a [u8] {
        self.raw
    }

    /// The value of the first parameter of this name; empty for a flag.
    #[must_use]
    pub fn get(self, name: &str) -> Option<&'a [u8]> {
        self.find(name).map(|param| param.value.unwrap_or_default())
    }

    #[must_use]
    pub fn find(self, name: &str) -> Option<Param<'a>> {
        self.iter().find(|param| param.name.eq_ignore_ascii_case(name.as_bytes()))
    }

    #[must_use]
    pub fn has(self, name: &str) -> bool {
        self.find(name).is_some()
    }

    #[must_use]
    pub const fn iter(self) -> Iter<'a> {
        Iter { cursor: Cursor::new(self.raw), is_malformed: false }
    }

    /// Every byte belongs to a parameter.
    #[must_use]
    pub fn is_well_formed(self) -> bool {
        let mut params = self.iter();
        params.by_ref().for_each(drop);
        !params.is_malformed
    }
}

impl<'a> IntoIterator for Params<'a> {
    type Item = Param<'a>;
    type IntoIter = Iter<'a>;

    fn into_iter(self) -> Iter<'a> {
        self.iter()
    }
}

/// Goes through parameters in order.
#[derive(Clone)]
pub struct Iter<'a> {
    cursor: Cursor<'a>,
    is_malformed: bool,
}

impl<'a> Iterator for Iter<'a> {
    type Item = Param<'a>;

    fn next(&mut self) -> Option<Param<'a>> {
        if self.cursor.is_empty() || self.is_malformed {
            return None;
        }
        let param = parameter(&mut self.cursor);
        self.is_malformed = param.is_none();
        param
    }
}

fn parameter<'a>(cursor: &mut Cursor<'a>) -> Option<Param<'a>> {
    if !cursor.eat_spaced(b';') {
        return None;
    }
    let name = cursor.take_while(syntax::is_param_name);
    if name.is_empty() {
        return None;
    }
    if !cursor.eat_spaced(b'=') {
        return is_at_end(cursor).then_some(Param { name, value: None, quoted: false });
    }
    let quoted = cursor.peek() == Some(b'"');
    let value = if quoted { cursor.quoted()? } else { cursor.take_while(syntax::is_param_value) };
    is_at_end(cursor).then_some(Param { name, value: Some(value), quoted })
}

/// The next parameter or nothing follows.
fn is_at_end(cursor: &mut Cursor<'_>) -> bool {
    let mut ahead = *cursor;
    ahead.skip_space();
    if ahead.is_empty() {
        *cursor = ahead;
    }
    ahead.is_empty() || ahead.peek() == Some(b';')
}

/// A comma or semicolon list of words, trimmed: option tags, methods, `rfc3329` mechanisms.
pub(crate) fn words(bytes: &[u8], separator: u8) -> impl Iterator<Item = &[u8]> + Clone {
    bytes.split(move |byte| *byte == separator).map(syntax::trim).filter(|word| !word.is_empty())
}
