//! A hash index in buckets that are shared until one changes: a copy with few changes costs few buckets.
//!
//! It finds candidates by hash; whether one is meant is for the caller to see. Lives in the shared, read-only directory.

use std::sync::Arc;

use siphasher::sip::SipHasher13;
use std::hash::Hasher;

const BUCKETS: usize = 1 << BUCKET_BITS;
const BUCKET_BITS: u32 = 10;

#[derive(Debug)]
pub(super) struct Index<T> {
    buckets: Box<[Arc<Bucket<T>>]>,
}

/// Sorted by hash; equal hashes in the order of insertion.
type Bucket<T> = Vec<(u64, Arc<T>)>;

impl<T> Clone for Index<T> {
    fn clone(&self) -> Self {
        Self { buckets: self.buckets.clone() }
    }
}

impl<T> Default for Index<T> {
    fn default() -> Self {
        let empty = Arc::new(Vec::new());
        Self { buckets: (0..BUCKETS).map(|_| Arc::clone(&empty)).collect() }
    }
}

impl<T> Index<T> {
    /// All that was inserted under this hash.
    pub(super) fn find(&self, hash: u64) -> impl Iterator<Item = &Arc<T>> {
        let bucket = self.buckets.get(place(hash)).map_or(&[][..], |bucket| bucket.as_slice());
        let start = bucket.partition_point(|(other, _)| *other < hash);
        bucket
            .get(start..)
            .unwrap_or_default()
            .iter()
            .take_while(move |(other, _)| *other == hash)
            .map(|(_, value)| value)
    }

    pub(super) fn insert(&mut self, hash: u64, value: Arc<T>) {
        let Some(bucket) = self.buckets.get_mut(place(hash)) else { return };
        let bucket = Arc::make_mut(bucket);
        let end = bucket.partition_point(|(other, _)| *other <= hash);
        bucket.insert(end, (hash, value));
    }

    /// Takes out this very value.
    pub(super) fn remove(&mut self, hash: u64, value: &Arc<T>) {
        let Some(bucket) = self.buckets.get_mut(place(hash)) else { return };
        let is_it = |(other, entry): &(u64, Arc<T>)| *other == hash && Arc::ptr_eq(entry, value);
        let Some(index) = bucket.iter().position(is_it) else { return };
        Arc::make_mut(bucket).remove(index);
    }

    /// Every entry, in an order that only the contents decide.
    pub(super) fn iter(&self) -> impl Iterator<Item = (u64, &Arc<T>)> {
        self.buckets.iter().flat_map(|bucket| bucket.iter().map(|(hash, value)| (*hash, value)))
    }

    /// Buckets not shared with `other`.
    #[cfg(test)]
    pub(super) fn own_buckets(&self, other: &Self) -> usize {
        self.buckets.iter().zip(&other.buckets).filter(|(a, b)| !Arc::ptr_eq(a, b)).count()
    }
}

fn place(hash: u64) -> usize {
    (hash >> (64 - BUCKET_BITS)) as usize
}

/// Hash of a kind and its parts, their borders included. The names are the operator's, not a stranger's: no secret is needed.
pub(super) fn hash(kind: u8, parts: &[&[u8]]) -> u64 {
    let mut hasher = SipHasher13::new();
    hasher.write_u8(kind);
    for part in parts {
        hasher.write_usize(part.len());
        hasher.write(part);
    }
    hasher.finish()
}

/// The same for a name that compares without case.
pub(super) fn hash_without_case(kind: u8, name: &[u8]) -> u64 {
    let mut hasher = SipHasher13::new();
    hasher.write_u8(kind);
    for byte in name {
        hasher.write_u8(byte.to_ascii_lowercase());
    }
    hasher.finish()
}
