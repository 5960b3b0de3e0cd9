//! The text inside our branches, tags and Call-IDs that says which shard, call and leg they belong to.
//!
//! Whoever reads a message first finds its shard without a table. A locator that a stranger made up leads at most to a
//! wrong call, which then compares the whole identifier and refuses.

use serde::Deserialize;
use serde::Serialize;

use crate::base::id::Handle;
use crate::base::id::ShardId;

/// Where a dialog or transaction of ours lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Locator {
    pub shard: ShardId,
    pub call: Handle,
    /// 0 is the caller's leg, 1 and up the branches.
    pub leg: u8,
}

/// Every identifier of ours begins so; `z9hG4bK` stands before it in a branch.
const PREFIX: &[u8] = b"tr1.";
const ALPHABET: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";
/// 80 bits of place, then 60 bits that cannot be guessed.
const PLACE_DIGITS: usize = 16;
const SECRET_DIGITS: usize = 12;

impl Locator {
    /// The identifier's text; `secret` makes it unique and unguessable (60 bits are used).
    pub fn emit(self, secret: u64) -> String {
        let place = u128::from(self.shard.0) << 72
            | u128::from(self.call.slot) << 40
            | u128::from(self.call.generation) << 8
            | u128::from(self.leg);
        let mut text = String::with_capacity(PREFIX.len() + PLACE_DIGITS + SECRET_DIGITS);
        text.push_str("tr1.");
        push_digits(&mut text, place, PLACE_DIGITS);
        push_digits(&mut text, u128::from(secret), SECRET_DIGITS);
        text
    }

    /// Finds the place in a branch (with or without its magic cookie), tag or Call-ID of ours.
    pub fn parse(text: &[u8]) -> Option<Self> {
        let text = text.strip_prefix(b"z9hG4bK").unwrap_or(text);
        let digits = text.strip_prefix(PREFIX)?;
        if digits.len() < PLACE_DIGITS + SECRET_DIGITS {
            return None;
        }
        let mut place = 0u128;
        for byte in digits.get(..PLACE_DIGITS)? {
            let digit = ALPHABET.iter().position(|b| b == byte)?;
            place = place << 5 | digit as u128;
        }
        Some(Self {
            shard: ShardId((place >> 72) as u8),
            call: Handle { slot: (place >> 40) as u32, generation: (place >> 8) as u32 },
            leg: place as u8,
        })
    }
}

fn push_digits(text: &mut String, bits: u128, digits: usize) {
    for index in (0..digits).rev() {
        let digit = (bits >> (5 * index)) as usize & 31;
        text.push(char::from(*ALPHABET.get(digit).unwrap_or(&b'0')));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn round_trip() {
        for locator in [
            Locator { shard: ShardId(0), call: Handle { slot: 0, generation: 0 }, leg: 0 },
            Locator { shard: ShardId(255), call: Handle { slot: u32::MAX, generation: u32::MAX }, leg: 255 },
            Locator { shard: ShardId(3), call: Handle { slot: 77, generation: 1 << 31 }, leg: 4 },
        ] {
            let text = locator.emit(0x1234_5678_9abc_def0);
            assert_eq!(Locator::parse(text.as_bytes()), Some(locator));
            assert_eq!(Locator::parse(format!("z9hG4bK{text}").as_bytes()), Some(locator));
            assert_ne!(text, locator.emit(1));
        }
    }

    #[test]
    fn foreign_identifiers_have_no_place() {
        for text in [
            &b""[..],
            b"z9hG4bK776asdhds",
            b"tr1.",
            b"tr1.0000000000000000",
            b"tr1.uuuuuuuuuuuuuuuuuuuuuuuuuuuu",
            b"\xff\xfe",
        ] {
            assert_eq!(Locator::parse(text), None);
        }
    }
}
