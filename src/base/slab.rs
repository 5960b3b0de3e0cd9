//! A bounded table with stable places; a [`Handle`] of a removed entry never finds its successor.

use serde::Deserialize;
use serde::Serialize;

use crate::base::id::Handle;

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Slab<T> {
    entries: Vec<Entry<T>>,
    free: Vec<u32>,
    entries_max: u32,
    len: u32,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Entry<T> {
    generation: u32,
    value: Option<T>,
}

impl<T> Slab<T> {
    pub fn new(entries_max: u32) -> Self {
        Self { entries: Vec::new(), free: Vec::new(), entries_max, len: 0 }
    }

    pub fn len(&self) -> usize {
        self.len as usize
    }

    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// How many values there may be.
    pub fn places(&self) -> usize {
        self.entries_max as usize
    }

    pub fn is_full(&self) -> bool {
        self.len >= self.entries_max
    }

    /// The value comes back if the table is full.
    pub fn insert(&mut self, value: T) -> Result<Handle, T> {
        let Some(handle) = self.reserve() else { return Err(value) };
        self.put_back(handle, value);
        Ok(handle)
    }

    /// A place as if its value were lent: for a value that must know its place before it is made.
    pub fn reserve(&mut self) -> Option<Handle> {
        if self.is_full() {
            return None;
        }
        self.len += 1;
        if let Some(slot) = self.free.pop() {
            return Some(Handle { slot, generation: self.entries[slot as usize].generation });
        }
        let slot = u32::try_from(self.entries.len()).unwrap_or(u32::MAX);
        self.entries.push(Entry { generation: 0, value: None });
        Some(Handle { slot, generation: 0 })
    }

    pub fn get(&self, handle: Handle) -> Option<&T> {
        let entry = self.entries.get(handle.slot as usize)?;
        if entry.generation == handle.generation { entry.value.as_ref() } else { None }
    }

    pub fn get_mut(&mut self, handle: Handle) -> Option<&mut T> {
        let entry = self.entries.get_mut(handle.slot as usize)?;
        if entry.generation == handle.generation { entry.value.as_mut() } else { None }
    }

    /// The handle of whoever is at this place.
    pub fn handle_at(&self, slot: u32) -> Option<Handle> {
        let entry = self.entries.get(slot as usize)?;
        entry.value.as_ref().map(|_| Handle { slot, generation: entry.generation })
    }

    /// Takes the value out but keeps its place, for [`Slab::put_back`].
    pub fn take(&mut self, handle: Handle) -> Option<T> {
        let entry = self.entries.get_mut(handle.slot as usize)?;
        if entry.generation == handle.generation { entry.value.take() } else { None }
    }

    /// Returns what [`Slab::take`] lent.
    pub fn put_back(&mut self, handle: Handle, value: T) {
        if let Some(entry) = self.entries.get_mut(handle.slot as usize) {
            debug_assert!(entry.generation == handle.generation && entry.value.is_none());
            entry.value = Some(value);
        }
    }

    /// Frees the place, also one whose value is lent.
    pub fn remove(&mut self, handle: Handle) -> Option<T> {
        let entry = self.entries.get_mut(handle.slot as usize)?;
        if entry.generation != handle.generation {
            return None;
        }
        entry.generation = entry.generation.wrapping_add(1);
        self.len -= 1;
        self.free.push(handle.slot);
        entry.value.take()
    }

    pub fn iter(&self) -> impl Iterator<Item = (Handle, &T)> {
        self.entries.iter().enumerate().filter_map(|(slot, entry)| {
            let handle = Handle { slot: slot as u32, generation: entry.generation };
            entry.value.as_ref().map(|value| (handle, value))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stale_handles_find_nothing_and_the_bound_holds() {
        let mut slab = Slab::new(2);
        let first = slab.insert("a").unwrap();
        slab.insert("b").unwrap();
        assert_eq!(slab.insert("c"), Err("c"));
        assert_eq!(slab.remove(first), Some("a"));
        let third = slab.insert("c").unwrap();
        assert_eq!(third.slot, first.slot);
        assert_eq!(slab.get(first), None);
        assert_eq!(slab.remove(first), None);
        assert_eq!(slab.get(third), Some(&"c"));
        assert_eq!(slab.iter().map(|(_, v)| *v).collect::<Vec<_>>(), ["c", "b"]);
    }

    #[test]
    fn a_lent_entry_keeps_its_place() {
        let mut slab = Slab::new(1);
        let handle = slab.insert(1).unwrap();
        assert_eq!(slab.take(handle), Some(1));
        assert_eq!(slab.insert(2), Err(2));
        slab.put_back(handle, 3);
        assert_eq!(slab.get(handle), Some(&3));
        slab.take(handle);
        assert_eq!(slab.remove(handle), None);
        let reserved = slab.reserve().unwrap();
        assert_eq!(slab.get(reserved), None);
        assert_eq!(slab.reserve(), None);
        assert_eq!(slab.remove(reserved), None);
        assert!(slab.is_empty());
    }
}
