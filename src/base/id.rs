//! Ids: small numbers for our own tables, and the call id that people see.

use std::fmt;
use std::str::FromStr;

use serde::Deserialize;
use serde::Serialize;

use crate::base::time::UnixTime;

/// A core's share of the node, numbered from 0.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ShardId(pub u8);

/// A place in a [`Slab`](crate::base::slab::Slab); the generation tells its tenants apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Handle {
    pub slot: u32,
    pub generation: u32,
}

/// One call, for people and machines: the same id in records, events, logs and traces.
///
/// 48 bits of milliseconds, then 80 bits that differ between nodes, restarts, shards and calls; its text sorts by time.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct CallId(u128);

/// Lower-case base 32 without i, l, o and u: sorts as the number does.
const ALPHABET: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";
const TEXT_LEN: usize = 26;

impl CallId {
    /// `unique` must not repeat within one millisecond of one fleet: 80 bits of it are used.
    pub fn new(at: UnixTime, unique: u128) -> Self {
        let millis = u128::from(at.millis()) & ((1 << 48) - 1);
        Self(millis << 80 | unique & ((1 << 80) - 1))
    }

    pub const fn from_bits(bits: u128) -> Self {
        Self(bits)
    }

    pub const fn bits(self) -> u128 {
        self.0
    }
}

impl fmt::Display for CallId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = [0u8; TEXT_LEN];
        for (index, byte) in text.iter_mut().enumerate() {
            let shift = 5 * (TEXT_LEN - 1 - index);
            *byte = ALPHABET[(self.0 >> shift) as usize & 31];
        }
        f.write_str(std::str::from_utf8(&text).map_err(|_| fmt::Error)?)
    }
}

impl fmt::Debug for CallId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The text is not the id of a call of ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a call id")]
pub struct BadCallId;

impl FromStr for CallId {
    type Err = BadCallId;

    fn from_str(text: &str) -> Result<Self, BadCallId> {
        if text.len() != TEXT_LEN {
            return Err(BadCallId);
        }
        let mut bits = 0u128;
        for (index, byte) in text.bytes().enumerate() {
            let digit = ALPHABET.iter().position(|&b| b == byte).ok_or(BadCallId)? as u128;
            if index == 0 && digit > 7 {
                return Err(BadCallId);
            }
            bits = bits << 5 | digit;
        }
        Ok(Self(bits))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_round_trips_and_sorts_by_time() {
        let early = CallId::new(UnixTime::from_secs(1_700_000_000), u128::MAX);
        let late = CallId::new(UnixTime::from_secs(1_700_000_001), 0);
        assert!(early.to_string() < late.to_string());
        for id in [early, late, CallId::from_bits(0), CallId::from_bits(u128::MAX)] {
            assert_eq!(id.to_string().parse(), Ok(id));
        }
    }

    #[test]
    fn foreign_text_is_refused() {
        for text in
            ["", "abc", "zzzzzzzzzzzzzzzzzzzzzzzzzz", "0000000000000000000000000u", "é0000000000000000000000000"]
        {
            assert_eq!(text.parse::<CallId>(), Err(BadCallId), "{text}");
        }
    }
}
