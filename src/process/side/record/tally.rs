//! What the records of ended calls add up to: how calls ended, how long they were, and how their media came in.
//!
//! It travels with the commit that made the records durable, so that each counts once. Not for one tenant or one call: that is what
//! the records are for.

use std::collections::BTreeMap;

use crate::process::side::record::cdr::Cdr;

/// Upper bounds of call durations, in microseconds.
pub(crate) const DURATION_BOUNDS: &[u64] = &[
    1_000_000,
    5_000_000,
    15_000_000,
    30_000_000,
    60_000_000,
    180_000_000,
    600_000_000,
    1_800_000_000,
    3_600_000_000,
    7_200_000_000,
];
/// Upper bounds of jitter, in microseconds.
pub(crate) const JITTER_BOUNDS: &[u64] = &[500, 1_000, 2_000, 5_000, 10_000, 20_000, 50_000, 100_000];

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    /// By direction and reason.
    pub(crate) ended: BTreeMap<(String, &'static str), u64>,
    /// Of calls that were answered, from the answer on.
    pub(crate) talked: Spread,
    /// Of every stream that was heard.
    pub(crate) jitter: Spread,
    pub(crate) lost: u64,
}

/// How values in microseconds lie; the bounds are the reader's.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Spread {
    /// Value by value range: below each bound, and one more.
    pub(crate) counts: BTreeMap<usize, u64>,
    pub(crate) sum: u64,
}

impl Tally {
    pub(crate) fn add(&mut self, record: &Cdr) {
        *self.ended.entry((record.direction.clone(), reason(record))).or_default() += 1;
        if record.answered_at.is_some() {
            self.talked.add(record.talk_ms.saturating_mul(1_000), DURATION_BOUNDS);
        }
        for media in record.legs.iter().flat_map(|leg| &leg.media).filter(|media| media.packets > 0) {
            self.lost += media.lost;
            self.jitter.add((media.jitter_ms * 1_000.0) as u64, JITTER_BOUNDS);
        }
    }

    pub(crate) fn merge(&mut self, other: &Self) {
        for (key, count) in &other.ended {
            *self.ended.entry(key.clone()).or_default() += count;
        }
        self.talked.merge(&other.talked);
        self.jitter.merge(&other.jitter);
        self.lost += other.lost;
    }
}

impl Spread {
    fn add(&mut self, value: u64, bounds: &[u64]) {
        *self.counts.entry(bounds.partition_point(|bound| *bound < value)).or_default() += 1;
        self.sum = self.sum.saturating_add(value);
    }

    fn merge(&mut self, other: &Self) {
        for (place, count) in &other.counts {
            *self.counts.entry(*place).or_default() += count;
        }
        self.sum = self.sum.saturating_add(other.sum);
    }
}

/// One of few words, whatever phones answer.
fn reason(record: &Cdr) -> &'static str {
    match record.cause.sip.unwrap_or_default() {
        408 if record.answered_at.is_some() => "timeout",
        200..300 => "hung_up",
        486 | 600 => "busy",
        487 => "cancelled",
        408 | 480 => "no_answer",
        403 | 603 => "declined",
        404 | 484 | 604 => "not_found",
        300..500 | 601..700 => "refused",
        _ => "failed",
    }
}
