//! Whether the engine's shards beat: each changes a word of its state memory at least twice a second.
//!
//! A beat is judged only by ticks of our own that were on time: where we were starved, so were the shards.

use std::os::fd::BorrowedFd;
use std::time::Duration;

use crate::base::time::Instant;
use crate::shard::memory::HEARTBEAT_OFFSET;

pub(super) struct Heartbeats {
    shards: Vec<Beat>,
    last_tick: Instant,
}

#[derive(Clone, Copy)]
struct Beat {
    word: u64,
    since: Instant,
}

pub(super) const TICK: Duration = Duration::from_millis(500);
const TICK_LATE: Duration = Duration::from_millis(750);
const SILENCE_MAX: Duration = Duration::from_secs(5);

impl Heartbeats {
    pub(super) fn new(shards: usize, now: Instant) -> Self {
        Self { shards: vec![Beat { word: 0, since: now }; shards], last_tick: now }
    }

    /// Nothing before `now` counts: another engine begins.
    pub(super) fn restart(&mut self, now: Instant) {
        *self = Self::new(self.shards.len(), now);
    }

    pub(super) fn next_tick(&self) -> Instant {
        self.last_tick + TICK
    }

    /// The first shard that is hung, if any.
    pub(super) fn tick<'a>(&mut self, memory: impl Iterator<Item = BorrowedFd<'a>>, now: Instant) -> Option<usize> {
        self.judge(memory.map(read_word), now)
    }

    fn judge(&mut self, words: impl Iterator<Item = u64>, now: Instant) -> Option<usize> {
        let late = now.since(self.last_tick) > TICK_LATE;
        self.last_tick = now;
        let mut hung = None;
        for (index, (beat, word)) in self.shards.iter_mut().zip(words).enumerate() {
            if late || word != beat.word {
                *beat = Beat { word, since: now };
            } else if now.since(beat.since) >= SILENCE_MAX {
                hung = hung.or(Some(index));
            }
        }
        hung
    }
}

/// A read of the memory file sees what a mapping of it wrote, so the keeper needs no mapping.
fn read_word(memory: BorrowedFd<'_>) -> u64 {
    let mut bytes = [0; 8];
    let _ = rustix::io::pread(memory, &mut bytes, HEARTBEAT_OFFSET);
    u64::from_ne_bytes(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Ticks at these milliseconds with these words; which shard is hung at the last.
    fn check(ticks: &[(u64, [u64; 2])]) -> Option<usize> {
        let mut beats = Heartbeats::new(2, Instant::from_millis(0));
        ticks.iter().fold(None, |_, (at, words)| beats.judge(words.iter().copied(), Instant::from_millis(*at)))
    }

    #[test]
    fn a_silent_shard_is_hung_and_a_starved_one_is_not() {
        let every = |step: u64, count: u64| (1..=count).map(move |tick| tick * step);
        let one_stops: Vec<_> = every(500, 11).map(|at| (at, [at, 7])).collect();
        assert_eq!(check(&one_stops), Some(1));
        assert_eq!(check(&one_stops[..9]), None);
        let both_beat: Vec<_> = every(500, 40).map(|at| (at, [at, at + 1])).collect();
        assert_eq!(check(&both_beat), None);
        let we_starve: Vec<_> = every(2_000, 20).map(|at| (at, [3, 7])).collect();
        assert_eq!(check(&we_starve), None);
    }
}
