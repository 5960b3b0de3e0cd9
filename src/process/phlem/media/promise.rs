//! What a leg has to hear: while its call is answered and the other side said that it speaks, a frame every 20 ms.

use std::time::Duration;

use crate::base::time::Instant;
use crate::process::phlem::media::frame::FRAME_NANOS;
use crate::wire::g711::FRAME_SAMPLES;

/// What may be missing of a stretch: ways are made when it begins, and the messages that begin and end it travel. Where more is missing,
/// all of it counts.
pub const TOLERANCE: Duration = Duration::from_millis(500);
/// A stretch that is shorter promises nothing.
const STRETCH_MIN: Duration = Duration::from_secs(1);

pub(super) const TOLERANCE_FRAMES: u64 = TOLERANCE.as_nanos() as u64 / FRAME_NANOS;

#[derive(Clone, Debug, Default)]
pub(super) struct Promise {
    stretch: Option<Stretch>,
    /// Frames of all stretches that are over: those that came, and those beyond the gaps that their numbers show.
    pub(super) heard: u64,
    pub(super) unheard: u64,
    /// A stretch was long enough to promise something.
    pub(super) was_kept_or_broken: bool,
}

#[derive(Clone, Copy, Debug)]
struct Stretch {
    since: Instant,
    last_heard: Instant,
    samples: u64,
    /// Of the leg, when the stretch began.
    lost_before: u64,
}

impl Promise {
    /// `lost`: frames of the leg that are missing between others, until now.
    pub(super) fn set(&mut self, hears: bool, now: Instant, lost: u64) {
        match (self.stretch, hears) {
            (None, true) => {
                self.stretch = Some(Stretch { since: now, last_heard: now, samples: 0, lost_before: lost });
            }
            (Some(stretch), false) => self.close(stretch, now, lost),
            _ => {}
        }
    }

    /// Another takes the place of the one who was heard: how long that took is nobody's promise.
    pub(super) fn change(&mut self, now: Instant, lost: u64) {
        if let Some(stretch) = self.stretch {
            self.close(stretch, stretch.last_heard, lost);
            self.set(true, now, lost);
        }
    }

    pub(super) const fn on_audio(&mut self, samples: usize, arrival: Instant) {
        if let Some(stretch) = &mut self.stretch {
            stretch.samples += samples as u64;
            stretch.last_heard = arrival;
        }
    }

    fn close(&mut self, stretch: Stretch, end: Instant, lost: u64) {
        self.stretch = None;
        let length = end.since(stretch.since);
        let heard = stretch.samples / FRAME_SAMPLES as u64;
        self.heard += heard;
        if length < STRETCH_MIN {
            return;
        }
        self.was_kept_or_broken = true;
        let promised = length.as_nanos() as u64 / FRAME_NANOS;
        let missing = promised.saturating_sub(heard);
        if missing > TOLERANCE_FRAMES {
            self.unheard += missing.saturating_sub(lost.saturating_sub(stretch.lost_before));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: u64) -> Instant {
        Instant::from_millis(millis)
    }

    /// Frames between two times.
    fn hear(promise: &mut Promise, from: u64, to: u64) {
        (from..to).step_by(20).for_each(|millis| promise.on_audio(FRAME_SAMPLES, at(millis)));
    }

    #[test]
    fn what_is_missing_counts_from_the_tolerance_on_and_then_all_of_it() {
        let check = |heard: &[(u64, u64)], lost: u64, expected: (u64, u64)| {
            let mut promise = Promise::default();
            promise.set(true, at(0), 3);
            heard.iter().for_each(|(from, to)| hear(&mut promise, *from, *to));
            promise.set(false, at(10_000), 3 + lost);
            assert_eq!((promise.heard, promise.unheard), expected, "{heard:?}");
        };
        check(&[(0, 10_000)], 0, (500, 0));
        check(&[(480, 10_000)], 0, (476, 0));
        check(&[(520, 10_000)], 0, (474, 26));
        check(&[(0, 5_000)], 0, (250, 250));
        // 200 ms of it were lost between others and are counted there.
        check(&[(0, 4_000), (4_200, 8_000)], 10, (390, 100));
        check(&[], 0, (0, 500));
    }

    #[test]
    fn a_pause_and_a_short_stretch_promise_nothing_and_a_change_takes_its_time() {
        let mut promise = Promise::default();
        promise.set(true, at(0), 0);
        promise.set(false, at(900), 0);
        assert!(!promise.was_kept_or_broken);
        promise.set(true, at(10_000), 0);
        promise.set(true, at(10_100), 0);
        hear(&mut promise, 10_000, 12_000);
        promise.change(at(17_000), 0);
        hear(&mut promise, 17_000, 19_000);
        promise.set(false, at(19_000), 0);
        assert_eq!((promise.heard, promise.unheard), (200, 0));
        assert!(promise.was_kept_or_broken);
    }
}
