//! The keyed hash that deals phones and calls to shards and finds table rows: SipHash, so that no stranger can aim at one.

use std::hash::Hasher;

use arrayvec::ArrayVec;
use serde::Deserialize;
use serde::Serialize;
use siphasher::sip::SipHasher13;

/// The node's secret hash key: made once, kept over restarts, the same on every shard.
#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct HashKey(pub [u8; 16]);

impl std::fmt::Debug for HashKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("HashKey(…)")
    }
}

/// So much is put together and hashed in one go, which takes half the time of its parts one after the other.
const TOGETHER_MAX: usize = 256;

impl HashKey {
    /// Hash of the parts, their borders included: `["ab", "c"]` and `["a", "bc"]` differ.
    pub fn hash(&self, parts: &[&[u8]]) -> u64 {
        let mut hasher = SipHasher13::new_with_key(&self.0);
        let mut together = ArrayVec::<u8, TOGETHER_MAX>::new();
        for part in parts {
            for bytes in [&part.len().to_ne_bytes(), *part] {
                if together.try_extend_from_slice(bytes).is_err() {
                    hasher.write(&together);
                    together.clear();
                    hasher.write(bytes);
                }
            }
        }
        hasher.write(&together);
        hasher.finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn key_and_borders_count() {
        let key = HashKey([1; 16]);
        assert_eq!(key.hash(&[b"ab", b"c"]), key.hash(&[b"ab", b"c"]));
        assert_ne!(key.hash(&[b"ab", b"c"]), key.hash(&[b"a", b"bc"]));
        assert_ne!(key.hash(&[b"ab"]), HashKey([2; 16]).hash(&[b"ab"]));
    }

    #[test]
    fn how_much_is_put_together_makes_no_difference() {
        let key = HashKey([7; 16]);
        let bytes: Vec<u8> = (0..=u8::MAX).cycle().take(1_000).collect();
        for cuts in [[0, 0, 0], [1, 2, 240], [255, 256, 257], [8, 248, 900], [300, 600, 1_000]] {
            let [a, b, c] = cuts;
            let parts = [&bytes[..a], &bytes[a..b], &bytes[b..c], &bytes[c..]];
            let mut plain = SipHasher13::new_with_key(&key.0);
            for part in parts {
                plain.write(&part.len().to_ne_bytes());
                plain.write(part);
            }
            assert_eq!(key.hash(&parts), plain.finish(), "{cuts:?}");
        }
    }
}
