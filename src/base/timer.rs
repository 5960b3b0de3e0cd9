//! A hierarchical timer wheel over keys; it owns no clock and cancels nothing.
//!
//! Four levels of 256 slots with ticks of 1 ms, 256 ms, 65 s and 4.6 h. A key whose deadline moved stays where it was and
//! expires early: its owner looks at its own deadline and schedules again. [`Alarm`] keeps that to one entry per owner.

use serde::Deserialize;
use serde::Serialize;

use crate::base::time::Instant;

const LEVELS: usize = 4;
const SLOTS: usize = 256;
const TICK_NANOS: u64 = 1_000_000;

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Wheel<K> {
    /// Ticks already expired: entries due at or before it are gone.
    tick: u64,
    levels: Vec<Level<K>>,
    len: usize,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Level<K> {
    slots: Vec<Vec<(u64, K)>>,
    /// One bit a slot: not empty.
    occupied: [u64; SLOTS / 64],
}

impl<K: Copy> Level<K> {
    fn new() -> Self {
        Self { slots: (0..SLOTS).map(|_| Vec::new()).collect(), occupied: [0; SLOTS / 64] }
    }

    fn push(&mut self, slot: usize, due: u64, key: K) {
        self.slots[slot].push((due, key));
        self.occupied[slot / 64] |= 1 << (slot % 64);
    }

    fn take(&mut self, slot: usize) -> Vec<(u64, K)> {
        self.occupied[slot / 64] &= !(1 << (slot % 64));
        std::mem::take(&mut self.slots[slot])
    }

    /// Slots from `from` (exclusive) to the next occupied one, 1..=256.
    fn distance(&self, from: usize) -> Option<u64> {
        let first = (from + 1) % SLOTS;
        // The first word comes twice: its upper part at the beginning, its lower part at the end.
        (0..=SLOTS / 64).find_map(|step| {
            let word = (first / 64 + step) % (SLOTS / 64);
            let wanted = match step {
                0 => u64::MAX << (first % 64),
                _ if step == SLOTS / 64 => !(u64::MAX << (first % 64)),
                _ => u64::MAX,
            };
            let found = self.occupied[word] & wanted;
            let slot = word * 64 + found.trailing_zeros() as usize;
            (found != 0).then(|| ((slot + SLOTS - first) % SLOTS + 1) as u64)
        })
    }
}

impl<K: Copy> Wheel<K> {
    pub fn new(now: Instant) -> Self {
        Self { tick: now.nanos() / TICK_NANOS, levels: (0..LEVELS).map(|_| Level::new()).collect(), len: 0 }
    }

    pub fn len(&self) -> usize {
        self.len
    }

    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// `key` will expire at the first [`Wheel::expire`] at or after `at` (rounded up to 1 ms).
    pub fn schedule(&mut self, key: K, at: Instant) {
        let due = at.nanos().div_ceil(TICK_NANOS).max(self.tick + 1);
        self.len += 1;
        self.place(due, key);
    }

    fn place(&mut self, due: u64, key: K) {
        let ahead = due - self.tick;
        let level = (0..LEVELS - 1).find(|&level| ahead < 1 << (8 * (level + 1))).unwrap_or(LEVELS - 1);
        // Farther than the wheel reaches: parked in its last slot and placed again from there.
        let reach = (1u64 << (8 * LEVELS)) - (1 << (8 * (LEVELS - 1)));
        let position = self.tick + ahead.min(reach);
        let slot = (position >> (8 * level)) as usize % SLOTS;
        self.levels[level].push(slot, due, key);
    }

    /// Appends up to `keys_max` keys due at or before `now`; true if there are more.
    pub fn expire(&mut self, now: Instant, keys: &mut Vec<K>, keys_max: usize) -> bool {
        let target = now.nanos() / TICK_NANOS;
        let mut taken = 0;
        while self.tick < target {
            if self.len == 0 {
                self.tick = target;
                return false;
            }
            if taken >= keys_max {
                return true;
            }
            // Nothing can be due before the next occupied slot: go there at once.
            let step = self.ticks_to_next().unwrap_or(u64::MAX).min(target - self.tick);
            self.tick += step;
            self.cascade();
            let slot = self.tick as usize % SLOTS;
            for (due, key) in self.levels[0].take(slot) {
                if due <= self.tick {
                    self.len -= 1;
                    taken += 1;
                    keys.push(key);
                } else {
                    self.place(due, key);
                }
            }
        }
        false
    }

    /// Moves the entries of coarser slots that begin at this tick to finer ones.
    fn cascade(&mut self) {
        for level in (1..LEVELS).rev() {
            if self.tick.trailing_zeros() as usize >= 8 * level {
                let slot = (self.tick >> (8 * level)) as usize % SLOTS;
                for (due, key) in self.levels[level].take(slot) {
                    if due <= self.tick {
                        // Due exactly at the border: level 0's slot of this tick is expired next.
                        self.levels[0].push(self.tick as usize % SLOTS, due, key);
                    } else {
                        self.place(due, key);
                    }
                }
            }
        }
    }

    fn ticks_to_next(&self) -> Option<u64> {
        (0..LEVELS)
            .filter_map(|level| {
                let shift = 8 * level;
                let here = self.tick >> shift;
                let distance = self.levels[level].distance(here as usize % SLOTS)?;
                Some(((here + distance) << shift) - self.tick)
            })
            .min()
    }

    /// No key expires before this; a key may expire later.
    pub fn next_deadline(&self) -> Option<Instant> {
        let ticks = self.ticks_to_next()?;
        Some(Instant::from_nanos((self.tick + ticks).saturating_mul(TICK_NANOS)))
    }
}

/// An owner's memory of its earliest entry in a [`Wheel`], so that it does not enter twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Alarm(Option<Instant>);

impl Default for Alarm {
    fn default() -> Self {
        Self::new()
    }
}

impl Alarm {
    pub const fn new() -> Self {
        Self(None)
    }

    /// Sees to it that `key` expires at or before `deadline`.
    pub fn set<K: Copy>(&mut self, deadline: Option<Instant>, key: K, wheel: &mut Wheel<K>) {
        let Some(deadline) = deadline else { return };
        if self.0.is_none_or(|entered| deadline < entered) {
            wheel.schedule(key, deadline);
            self.0 = Some(deadline);
        }
    }

    /// To be called when the key expired.
    pub fn rang(&mut self) {
        self.0 = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::random::Random;
    use std::time::Duration;

    #[test]
    fn every_key_expires_once_and_on_time() {
        let mut random = Random::new(3);
        let mut now = Instant::from_millis(123_456_789);
        let mut wheel = Wheel::new(now);
        let mut dues = Vec::new();
        let mut fired = vec![false; 4000];
        for key in 0..4000usize {
            let scale = 1u64 << random.below(40);
            let due = now + Duration::from_micros(random.below(scale));
            wheel.schedule(key, due);
            dues.push(due);
        }
        let mut keys = Vec::new();
        while let Some(next) = wheel.next_deadline() {
            now = next + Duration::from_micros(random.below(300_000));
            let before = now - Duration::from_millis(301);
            wheel.expire(now, &mut keys, usize::MAX);
            for key in keys.drain(..) {
                assert!(!fired[key]);
                fired[key] = true;
                assert!(dues[key] <= now && dues[key] + Duration::from_millis(1) >= before, "{key}");
            }
        }
        assert!(fired.iter().all(|f| *f) && wheel.is_empty());
    }

    #[test]
    fn the_next_slot_is_found_from_anywhere() {
        for from in 0..SLOTS {
            for slot in [0, 1, 63, 64, 127, 200, 255] {
                let mut level = Level::new();
                assert_eq!(level.distance(from), None);
                level.push(slot, 0, ());
                let steps = (1..=SLOTS).find(|steps| (from + steps) % SLOTS == slot);
                assert_eq!(level.distance(from), steps.map(|steps| steps as u64), "{from} {slot}");
                level.push((slot + 70) % SLOTS, 0, ());
                let steps = (1..=SLOTS).find(|steps| [slot, (slot + 70) % SLOTS].contains(&((from + steps) % SLOTS)));
                assert_eq!(level.distance(from), steps.map(|steps| steps as u64), "{from} {slot}");
            }
        }
    }

    #[test]
    fn a_turn_is_bounded() {
        let mut wheel = Wheel::new(Instant::ZERO);
        for key in 0..100u32 {
            wheel.schedule(key, Instant::from_millis(u64::from(key) + 1));
        }
        let mut keys = Vec::new();
        assert!(wheel.expire(Instant::from_millis(1000), &mut keys, 10));
        assert_eq!(keys.len(), 10);
        assert!(!wheel.expire(Instant::from_millis(1000), &mut keys, 1000));
        assert_eq!(keys.len(), 100);
    }

    #[test]
    fn an_alarm_enters_again_only_to_ring_earlier() {
        let mut wheel = Wheel::new(Instant::ZERO);
        let mut alarm = Alarm::new();
        alarm.set(Some(Instant::from_millis(500)), 1, &mut wheel);
        alarm.set(Some(Instant::from_millis(900)), 1, &mut wheel);
        assert_eq!(wheel.len(), 1);
        alarm.set(Some(Instant::from_millis(100)), 1, &mut wheel);
        assert_eq!(wheel.len(), 2);
    }
}
