//! The keyed hash that deals phones and calls to shards and finds table rows: SipHash, so that no stranger can aim at one.

use std::hash::Hasher;

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

impl HashKey {
    /// Hash of the parts, their borders included: `["ab", "c"]` and `["a", "bc"]` differ.
    pub fn hash(&self, parts: &[&[u8]]) -> u64 {
        let mut hasher = SipHasher13::new_with_key(&self.0);
        for part in parts {
            hasher.write_usize(part.len());
            hasher.write(part);
        }
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
}
