//! A table whose keys are keyed hashes already: one place to look, nothing hashed again.
//!
//! In parts, so that none grows by much at once: a shard that moves a hundred thousand rows in one turn is late for its packets.
//! Written as bytes in the order of the keys, whatever order they came in.

use std::collections::HashMap;
use std::hash::BuildHasherDefault;
use std::hash::Hasher;

use serde::Deserialize;
use serde::Deserializer;
use serde::Serialize;
use serde::Serializer;

const PART_BITS: u32 = 6;
/// Room that a part keeps, however few its rows are.
const PART_ROWS_KEPT: usize = 64;

#[derive(Clone, Debug)]
pub struct Keyed<V> {
    /// By the upper bits of the key; the map uses the others.
    parts: Box<[Part<V>]>,
    len: usize,
}

type Part<V> = HashMap<u64, V, BuildHasherDefault<AsItIs>>;

impl<V> Default for Keyed<V> {
    fn default() -> Self {
        Self { parts: (0..1 << PART_BITS).map(|_| Part::default()).collect(), len: 0 }
    }
}

impl<V> Keyed<V> {
    pub fn len(&self) -> usize {
        self.len
    }

    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    pub fn get(&self, key: u64) -> Option<&V> {
        self.parts.get(place(key))?.get(&key)
    }

    pub fn get_mut(&mut self, key: u64) -> Option<&mut V> {
        self.parts.get_mut(place(key))?.get_mut(&key)
    }

    /// The value that was there before, if one was.
    pub fn insert(&mut self, key: u64, value: V) -> Option<V> {
        let before = self.parts.get_mut(place(key))?.insert(key, value);
        self.len += usize::from(before.is_none());
        before
    }

    pub fn remove(&mut self, key: u64) -> Option<V> {
        let part = self.parts.get_mut(place(key))?;
        let removed = part.remove(&key)?;
        self.len -= 1;
        // What a flood took is given back.
        if part.capacity() > PART_ROWS_KEPT && part.len() < part.capacity() / 8 {
            part.shrink_to(part.len() * 2);
        }
        Some(removed)
    }
}

fn place(key: u64) -> usize {
    (key >> (u64::BITS - PART_BITS)) as usize
}

impl<V: Serialize> Serialize for Keyed<V> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut rows: Vec<_> = self.parts.iter().flatten().collect();
        rows.sort_unstable_by_key(|(key, _)| **key);
        serializer.collect_seq(rows)
    }
}

impl<'de, V: Deserialize<'de>> Deserialize<'de> for Keyed<V> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let rows = Vec::<(u64, V)>::deserialize(deserializer)?;
        let mut table = Self::default();
        for (key, value) in rows {
            table.insert(key, value);
        }
        Ok(table)
    }
}

/// The map looks at the lowest and the highest bits: those that chose the part, alike in all its rows, are turned to the middle.
#[derive(Clone, Copy, Debug, Default)]
struct AsItIs(u64);

impl Hasher for AsItIs {
    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = self.0.rotate_left(8) ^ u64::from(*byte);
        }
    }

    fn write_u64(&mut self, key: u64) {
        self.0 = key.rotate_left(32);
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::random::Random;

    #[test]
    fn a_row_is_found_until_it_is_removed() {
        let mut random = Random::new(7);
        let keys: Vec<u64> = (0..10_000).map(|_| random.next_u64()).collect();
        let mut table = Keyed::default();
        for (number, key) in keys.iter().enumerate() {
            assert_eq!(table.insert(*key, number), None);
        }
        assert_eq!(table.insert(keys[3], 77), Some(3));
        assert_eq!(table.len(), keys.len());
        let (gone, left) = keys.split_at(5_000);
        for key in gone {
            assert!(table.remove(*key).is_some());
            assert_eq!(table.remove(*key), None);
        }
        assert_eq!(table.len(), left.len());
        assert!(gone.iter().all(|key| table.get(*key).is_none()));
        assert!(left.iter().enumerate().all(|(at, key)| table.get(*key) == Some(&(at + 5_000))));
    }

    #[test]
    fn what_a_flood_took_is_given_back() {
        let mut table = Keyed::default();
        let keys: Vec<u64> = (0..100_000u64).map(|number| number << 48 | number).collect();
        let room = |table: &Keyed<u64>| table.parts.iter().map(Part::capacity).sum::<usize>();
        for key in &keys {
            table.insert(*key, 0);
        }
        assert!(room(&table) >= keys.len());
        for key in &keys[100..] {
            table.remove(*key);
        }
        assert!(room(&table) <= PART_ROWS_KEPT * 2 * table.parts.len(), "{}", room(&table));
        assert!(keys[..100].iter().all(|key| table.get(*key).is_some()));
    }

    #[test]
    fn bytes_do_not_tell_in_which_order_rows_came() {
        let (mut one, mut other) = (Keyed::default(), Keyed::default());
        for key in 0..1_000u64 {
            one.insert(key << 50 | key, key);
            let key = 999 - key;
            other.insert(key << 50 | key, key);
        }
        let bytes = postcard::to_allocvec(&one).unwrap();
        assert_eq!(bytes, postcard::to_allocvec(&other).unwrap());
        let restored: Keyed<u64> = postcard::from_bytes(&bytes).unwrap();
        assert_eq!(restored.len(), 1_000);
        assert_eq!(postcard::to_allocvec(&restored).unwrap(), bytes);
    }
}
