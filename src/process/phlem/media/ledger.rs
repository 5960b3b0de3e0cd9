//! What legs heard held against what their other ends sent, as soon as both have ended, on whichever thread or machine they were.
//!
//! A leg alone knows for how long it was to hear, not whether somebody spoke. Where the other end is not one of ours, or is not told
//! of, that has to do.

use std::collections::BTreeMap;
use std::collections::VecDeque;
use std::time::Duration;

use serde::Deserialize;
use serde::Serialize;

use crate::process::phlem::figures::Media;
use crate::process::phlem::media::promise::TOLERANCE_FRAMES;
use crate::wire::g711::quality;

/// Legs whose other end goes on; the oldest is judged alone for a new one.
const WAITING_MAX: usize = 100_000;

/// One leg at its end, in frames.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LegEnd {
    /// 0: nothing has said it.
    pub call: u64,
    pub is_caller: bool,
    pub sent: u64,
    /// Different ones of the right call.
    pub received: u64,
    /// Missing between those, in so many gaps.
    pub lost: u64,
    pub gaps: u64,
    pub late: u64,
    /// Nanoseconds, one way, if known.
    pub delay: Option<u64>,
    /// There was a time in which it had to hear.
    pub was_to_hear: bool,
    /// Heard in that time, numbered or not.
    pub heard: u64,
    /// Not heard in that time, beside the lost ones.
    pub unheard: u64,
    /// Another took the place of the one who was heard: what that one sent is not known.
    pub is_switched: bool,
}

/// Bounded; [`Self::close`] judges those whose other end never came.
#[derive(Clone, Debug, Default)]
pub struct Ledger {
    waiting: BTreeMap<(u64, bool), LegEnd>,
    order: VecDeque<(u64, bool)>,
    judged: u64,
    media: Media,
}

impl Ledger {
    pub fn add(&mut self, leg: LegEnd) {
        if leg.call == 0 || leg.is_switched {
            return self.judge(&leg, None);
        }
        if let Some(other) = self.waiting.remove(&(leg.call, !leg.is_caller)) {
            self.judge(&leg, Some(other.sent));
            return self.judge(&other, Some(leg.sent));
        }
        let key = (leg.call, leg.is_caller);
        self.order.push_back(key);
        if let Some(before) = self.waiting.insert(key, leg) {
            self.judge(&before, None);
        }
        while self.waiting.len() > WAITING_MAX || self.order.len() > 2 * WAITING_MAX {
            let oldest = self.order.pop_front().and_then(|key| self.waiting.remove(&key));
            if let Some(oldest) = oldest {
                self.judge(&oldest, None);
            }
        }
    }

    /// No other end comes any more.
    pub fn close(&mut self) {
        self.order.clear();
        for leg in std::mem::take(&mut self.waiting).into_values() {
            self.judge(&leg, None);
        }
    }

    /// What the judged legs add to the figures.
    pub const fn media(&self) -> &Media {
        &self.media
    }

    pub const fn judged(&self) -> u64 {
        self.judged
    }

    fn judge(&mut self, leg: &LegEnd, other_sent: Option<u64>) {
        self.judged += 1;
        // Nobody hears more than was said: a party that did not speak, or paused for keys, is not missed.
        let said = other_sent.map_or(u64::MAX, |sent| sent.saturating_sub(leg.received + leg.lost));
        let unheard = Some(leg.unheard.min(said)).filter(|unheard| *unheard > TOLERANCE_FRAMES).unwrap_or(0);
        let is_silent = leg.was_to_hear && leg.heard == 0 && other_sent.is_none_or(|sent| sent > TOLERANCE_FRAMES);
        let media = &mut self.media;
        media.unheard += unheard;
        media.silent += u64::from(is_silent);
        let missed = leg.lost + unheard;
        let whole = leg.heard.max(leg.received) + missed;
        if whole > 0 && (leg.was_to_hear || leg.received > 0) {
            media.heard_share.record((whole - missed) * 1_000 / whole);
        }
        if is_silent {
            media.mos.record(1_000);
        } else if let Some(delay) = leg.delay.filter(|_| leg.received > 0) {
            let gaps = leg.gaps + u64::from(unheard > 0);
            let heard = quality::Heard {
                delay: Duration::from_nanos(delay),
                loss: (missed + leg.late) as f64 / (leg.received + missed) as f64,
                gap: if gaps > 0 { missed.max(1) as f64 / gaps as f64 } else { 1.0 },
            };
            let (_, mos) = quality::rate(&heard);
            media.mos.record((mos * 1_000.0) as u64);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn leg(is_caller: bool) -> LegEnd {
        LegEnd {
            call: 7,
            is_caller,
            sent: 500,
            received: 500,
            delay: Some(1_000_000),
            was_to_hear: true,
            heard: 500,
            ..LegEnd::default()
        }
    }

    fn judged(legs: impl IntoIterator<Item = LegEnd>) -> Media {
        let mut ledger = Ledger::default();
        legs.into_iter().for_each(|leg| ledger.add(leg));
        ledger.close();
        ledger.media().clone()
    }

    #[test]
    fn one_way_audio_is_a_silent_leg_with_the_lowest_score() {
        let deaf = LegEnd { received: 0, heard: 0, unheard: 498, delay: None, ..leg(false) };
        for legs in [vec![leg(true), deaf.clone()], vec![deaf.clone(), leg(true)], vec![deaf.clone()]] {
            let media = judged(legs);
            assert_eq!((media.silent, media.unheard, media.mos.min()), (1, 498, Some(1_000)));
            assert_eq!(media.heard_share.min(), Some(0));
        }
        // A leg that learnt from nobody which call it is in.
        assert_eq!(judged([LegEnd { call: 0, ..deaf }]).silent, 1);
    }

    #[test]
    fn audio_that_ends_in_the_middle_or_begins_late_is_missed_as_far_as_it_was_sent() {
        let half = LegEnd { received: 250, heard: 250, unheard: 248, ..leg(false) };
        let media = judged([leg(true), half.clone()]);
        assert_eq!((media.silent, media.unheard, media.heard_share.min()), (0, 248, Some(502)));
        assert_eq!(media.mos.min(), Some(1_000));
        // The other party stopped in the middle: power, keys, or the emulator itself.
        let quiet = LegEnd { sent: 251, ..leg(true) };
        let media = judged([quiet, half]);
        assert_eq!((media.unheard, media.mos.min() > Some(4_000)), (0, true));
        let quiet = LegEnd { sent: 300, ..leg(true) };
        let half = LegEnd { received: 250, heard: 250, unheard: 248, ..leg(false) };
        assert_eq!(judged([quiet, half]).unheard, 50);
    }

    #[test]
    fn who_does_not_send_is_not_missed() {
        let mute = LegEnd { sent: 0, ..leg(true) };
        let deaf = LegEnd { received: 0, heard: 0, unheard: 500, delay: None, ..leg(false) };
        let media = judged([mute, deaf]);
        assert_eq!((media.silent, media.unheard, media.mos.count()), (0, 0, 1));
    }

    #[test]
    fn what_waits_is_bounded_and_nothing_is_judged_twice() {
        let mut ledger = Ledger::default();
        let legs = 3 * WAITING_MAX as u64;
        for call in 1..=legs {
            ledger.add(LegEnd { call, ..leg(true) });
        }
        assert!(ledger.waiting.len() <= WAITING_MAX && ledger.order.len() <= 2 * WAITING_MAX);
        ledger.close();
        assert_eq!(ledger.judged(), legs);
    }
}
