//! When to send through which NAT: a ring of coarse slots, so that ten thousand phones wake a shard four times a second.
//!
//! An entry outlives its binding until its slot comes round; then its owner says that it is gone.

use std::time::Duration;

use serde::Deserialize;
use serde::Serialize;

use crate::base::time::Instant;
use crate::machine::registrar::GRID;
use crate::machine::registrar::binding::BindingId;

/// RFC 5626 §4.4.2: routers forget UDP mappings after 30 s; this is the time round the ring.
pub(super) const PERIOD: Duration = Duration::from_secs(28);
const SLOTS: u64 = 112;
const _: () = assert!(GRID.as_millis() as u64 * SLOTS == PERIOD.as_millis() as u64 && SLOTS < 128);
/// A shard that slept longer skips what it missed: a burst would help nobody.
const LATE_TICKS_MAX: u64 = 8;

/// RFC 5626 §3.5.1: no message, ignored by every receiver (RFC 3261 §7.5).
pub(super) const DATAGRAM: &[u8] = b"\r\n\r\n";

pub(super) type Key = (u64, BindingId);

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct KeepAlive {
    slots: Vec<Vec<Key>>,
    /// One bit a slot: not empty.
    occupied: u128,
    /// The tick whose slot is being worked on, or comes next.
    tick: u64,
    /// Entries of that slot already served.
    served: usize,
}

impl KeepAlive {
    pub(super) fn new() -> Self {
        Self { slots: (0..SLOTS).map(|_| Vec::new()).collect(), occupied: 0, tick: 0, served: 0 }
    }

    pub(super) fn insert(&mut self, key: Key, spread: u64) {
        let slot = spread % SLOTS;
        if let Some(entries) = self.slots.get_mut(slot as usize) {
            entries.push(key);
            self.occupied |= 1 << slot;
        }
    }

    /// Takes up to `keys_max` entries whose time has come; those for which `is_alive` fails leave the ring.
    pub(super) fn due(&mut self, now: Instant, keys_max: usize, mut is_alive: impl FnMut(Key) -> bool) -> Vec<Key> {
        let current = tick_of(now);
        if self.tick + LATE_TICKS_MAX < current {
            self.tick = current;
            self.served = 0;
        }
        let mut due = Vec::new();
        while self.tick <= current && due.len() < keys_max {
            let slot = self.tick % SLOTS;
            let Some(entries) = self.slots.get_mut(slot as usize) else { return due };
            while let Some(key) = entries.get(self.served).copied()
                && due.len() < keys_max
            {
                if is_alive(key) {
                    due.push(key);
                    self.served += 1;
                } else {
                    entries.swap_remove(self.served);
                }
            }
            if self.served < entries.len() {
                break;
            }
            if entries.is_empty() {
                self.occupied &= !(1 << slot);
                entries.shrink_to_fit();
            }
            self.tick += 1;
            self.served = 0;
        }
        due
    }

    pub(super) fn next_deadline(&self) -> Option<Instant> {
        let slot = self.tick % SLOTS;
        let ahead = match self.occupied >> slot {
            0 if self.occupied == 0 => return None,
            0 => SLOTS - slot + u64::from(self.occupied.trailing_zeros()),
            rest => u64::from(rest.trailing_zeros()),
        };
        Some(Instant::from_millis((self.tick + ahead) * GRID.as_millis() as u64))
    }
}

fn tick_of(at: Instant) -> u64 {
    at.millis() / GRID.as_millis() as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_entry_once_a_period_and_never_many_wakes() {
        let mut ring = KeepAlive::new();
        for id in 0..10_000u32 {
            ring.insert((7, id), u64::from(id).wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 20);
        }
        let start = Instant::from_millis(5_000_000);
        let mut now = start;
        let mut seen = vec![0; 10_000];
        let mut wakes = 0;
        while now < start + PERIOD * 3 {
            for (_, id) in ring.due(now, 256, |_| true) {
                seen[id as usize] += 1;
            }
            wakes += 1;
            let next = ring.next_deadline().unwrap();
            assert!(next.since(now) <= GRID);
            now = next.max(now + Duration::from_nanos(1));
        }
        assert!(seen.iter().all(|count| (3..=4).contains(count)), "{:?}", seen.iter().max());
        assert!(wakes <= 3 * 28 * 5, "{wakes} wakes in 84 s");
    }

    #[test]
    fn the_dead_leave_and_an_empty_ring_sleeps() {
        let mut ring = KeepAlive::new();
        assert_eq!(ring.next_deadline(), None);
        ring.insert((1, 1), 5);
        ring.insert((1, 2), 5);
        let mut now = Instant::from_millis(1_000_000);
        for _ in 0..PERIOD.as_millis() / GRID.as_millis() {
            let due = ring.due(now, 10, |(_, id)| id == 2);
            assert!(due.iter().all(|key| *key == (1, 2)));
            now = now + GRID;
        }
        assert!(ring.next_deadline().is_some());
        for _ in 0..PERIOD.as_millis() / GRID.as_millis() {
            assert_eq!(ring.due(now, 10, |_| false), []);
            now = now + GRID;
        }
        assert_eq!(ring.next_deadline(), None);
    }
}
