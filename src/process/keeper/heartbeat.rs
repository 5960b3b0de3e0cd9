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
    /// When a shard of any engine last beat, as far as we could tell.
    beaten: Instant,
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
        Self { shards: vec![Beat { word: 0, since: now }; shards], last_tick: now, beaten: now }
    }

    /// Nothing before `now` counts: another engine begins.
    pub(super) fn restart(&mut self, now: Instant) {
        *self = Self { beaten: self.beaten, ..Self::new(self.shards.len(), now) };
    }

    pub(super) fn beaten(&self) -> Instant {
        self.beaten
    }

    pub(super) fn next_tick(&self) -> Instant {
        self.last_tick + TICK
    }

    /// The first shard that is hung, if any.
    pub(super) fn tick<'a>(&mut self, memory: impl Iterator<Item = BorrowedFd<'a>>, now: Instant) -> Option<usize> {
        self.judge(memory.map(read_word), now)
    }

    /// The shards that were silent at the last tick and at the one before.
    pub(super) fn silent(&self) -> impl Iterator<Item = usize> {
        let last_tick = self.last_tick;
        (0..).zip(&self.shards).filter(move |(_, beat)| beat.since < last_tick).map(|(index, _)| index)
    }

    fn judge(&mut self, words: impl Iterator<Item = u64>, now: Instant) -> Option<usize> {
        let late = now.since(self.last_tick) > TICK_LATE;
        self.last_tick = now;
        let mut hung = None;
        for (index, (beat, word)) in self.shards.iter_mut().zip(words).enumerate() {
            if late || word != beat.word {
                *beat = Beat { word, since: now };
                self.beaten = now;
            } else if now.since(beat.since) >= SILENCE_MAX {
                hung = hung.or(Some(index));
            }
        }
        hung
    }
}

/// Of the thread of a shard: how long it ran, and how long it was ready to run and had no CPU (`/proc/PID/task/TID/schedstat`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Scheduled {
    pub(super) ran: Duration,
    pub(super) delayed: Duration,
}

impl Scheduled {
    /// Shards' threads are made in the order of their numbers.
    pub(super) fn of(pid: u32, shard: usize) -> Option<Self> {
        let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).ok()?;
        let mut threads: Vec<u32> = tasks
            .filter_map(|task| task.ok()?.file_name().to_str()?.parse().ok())
            .filter(|thread| {
                let name = std::fs::read_to_string(format!("/proc/{pid}/task/{thread}/comm"));
                name.is_ok_and(|name| name.starts_with("shard"))
            })
            .collect();
        threads.sort_unstable();
        let thread = threads.get(shard)?;
        Self::parse(&std::fs::read_to_string(format!("/proc/{pid}/task/{thread}/schedstat")).ok()?)
    }

    fn parse(text: &str) -> Option<Self> {
        let mut nanos = text.split_ascii_whitespace().map(|word| word.parse().ok().map(Duration::from_nanos));
        Some(Self { ran: nanos.next()??, delayed: nanos.next()?? })
    }

    pub(super) fn since(self, before: Self) -> Self {
        Self { ran: self.ran.saturating_sub(before.ran), delayed: self.delayed.saturating_sub(before.delayed) }
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
    fn the_kernel_tells_how_long_a_thread_waited() {
        let seen = Scheduled::parse("994768 87288 2\n").unwrap();
        assert_eq!((seen.ran.as_nanos(), seen.delayed.as_nanos()), (994_768, 87_288));
        assert_eq!(seen.since(seen), Scheduled::default());
        assert_eq!(Scheduled::parse("1"), None);
        let own = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap();
        assert!(Scheduled::parse(&own).is_some(), "{own}");
    }

    #[test]
    fn an_engine_that_is_started_again_has_not_beaten_yet() {
        let at = Instant::from_millis;
        let mut beats = Heartbeats::new(1, at(0));
        beats.judge([1].into_iter(), at(500));
        beats.restart(at(9_000));
        assert_eq!(beats.beaten(), at(500));
        beats.judge([0].into_iter(), at(9_500));
        assert_eq!(beats.beaten(), at(500), "its word is as it was made");
        beats.judge([5].into_iter(), at(10_000));
        assert_eq!(beats.beaten(), at(10_000));
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
