//! The torture messages of RFC 4475 and RFC 5118: bytes, the verdict of the scanner and the answer of a node, each with its reason.
//!
//! Pure data, for every test that wants it (`mod torture;` in `tests/`). The messages are written from the text of the RFCs; `sha256` is the
//! digest of the byte-exact archive in RFC 4475's appendix, where there is one.

#![allow(dead_code, reason = "each test binary uses its own part of the table")]

mod application;
mod invalid;
mod ipv6;
mod valid;

/// One message.
#[derive(Clone, Copy)]
pub(crate) struct Case {
    pub(crate) name: &'static str,
    pub(crate) rfc: u16,
    pub(crate) section: &'static str,
    pub(crate) title: &'static str,
    /// Of the scanner, over UDP.
    pub(crate) verdict: Verdict,
    /// On the wire, from a node that does not know the sender.
    pub(crate) without_credentials: Answer,
    /// On the wire, after the challenge was answered rightly (where there is one).
    pub(crate) with_credentials: Answer,
    /// Why, in a sentence.
    pub(crate) because: &'static str,
    pub(crate) sha256: Option<&'static str>,
    pub(crate) bytes: fn() -> Vec<u8>,
}

/// What the scanner says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    Ok,
    /// Faulty, answered with this status.
    Answer(u16),
    Drop,
}

/// What comes back over the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    Silence,
    Status(u16),
    /// 401 or 407.
    Challenge,
    /// Whatever directory and phones say: anything but 400, 405, 416, 420, 501 or 505.
    Served,
}

/// All 61 messages.
pub(crate) fn all() -> impl Iterator<Item = &'static Case> {
    [valid::VALID, invalid::INVALID, application::APPLICATION, ipv6::IPV6].into_iter().flatten()
}

/// The message of this name.
pub(crate) fn bytes(name: &str) -> Vec<u8> {
    all()
        .find(|case| case.name == name)
        .map(|case| (case.bytes)())
        .unwrap_or_else(|| panic!("no torture message {name}"))
}
