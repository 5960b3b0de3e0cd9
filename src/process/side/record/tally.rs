//! What the records of ended calls add up to: how calls ended, how long they were, and how their media came in.
//!
//! It travels with the commit that made the records durable, so that each counts once. Not for one tenant or one call: that is what
//! the records are for.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::process::side::record::cdr::Cdr;
use crate::process::side::record::cdr::CdrMedia;
use crate::wire::g711::quality;
use crate::wire::g711::quality::Heard;

// Upper bounds, in millionths of a second or of a point.
const DURATION_BOUNDS: &[u64] = &[
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
const JITTER_BOUNDS: &[u64] = &[500, 1_000, 2_000, 5_000, 10_000, 20_000, 50_000, 100_000];
const SETUP_BOUNDS: &[u64] = &[50_000, 100_000, 250_000, 500_000, 1_000_000, 2_500_000, 5_000_000, 10_000_000];
const SCORE_BOUNDS: &[u64] = &[1_500_000, 2_000_000, 2_500_000, 3_000_000, 3_500_000, 4_000_000, 4_300_000];

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Tally {
    /// By direction and reason.
    pub(crate) ended: BTreeMap<(String, &'static str), u64>,
    /// From the INVITE until something rang or answered.
    pub(crate) setup: Spread,
    /// Of calls that were answered, from the answer on.
    pub(crate) talked: Spread,
    /// Of every stream that was heard.
    pub(crate) jitter: Spread,
    /// Of every stream that was heard: [`score`].
    pub(crate) scores: Spread,
    pub(crate) lost: u64,
}

/// How many values lie below each bound and above the one before.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Spread {
    /// In millionths, like `sum`.
    pub(crate) bounds: &'static [u64],
    /// One more than bounds.
    pub(crate) counts: Vec<u64>,
    pub(crate) sum: u64,
}

impl Default for Tally {
    fn default() -> Self {
        Self {
            ended: BTreeMap::new(),
            setup: Spread::new(SETUP_BOUNDS),
            talked: Spread::new(DURATION_BOUNDS),
            jitter: Spread::new(JITTER_BOUNDS),
            scores: Spread::new(SCORE_BOUNDS),
            lost: 0,
        }
    }
}

impl Tally {
    /// `setup`: from the INVITE until something rang or answered, if anything did.
    pub(crate) fn add(&mut self, record: &Cdr, setup: Option<Duration>) {
        *self.ended.entry((record.direction.clone(), reason(record))).or_default() += 1;
        if let Some(setup) = setup {
            self.setup.add(setup.as_micros() as u64);
        }
        if record.answered_at.is_some() {
            self.talked.add(record.talk_ms.saturating_mul(1_000));
        }
        for media in record.legs.iter().flat_map(|leg| &leg.media).filter(|media| media.packets > 0) {
            self.lost += media.lost;
            self.jitter.add((media.jitter_ms * 1_000.0) as u64);
            self.scores.add((score(media) * 1e6) as u64);
        }
    }

    pub(crate) fn merge(&mut self, other: &Self) {
        for (key, count) in &other.ended {
            *self.ended.entry(key.clone()).or_default() += count;
        }
        self.setup.merge(&other.setup);
        self.talked.merge(&other.talked);
        self.jitter.merge(&other.jitter);
        self.scores.merge(&other.scores);
        self.lost += other.lost;
    }
}

impl Spread {
    fn new(bounds: &'static [u64]) -> Self {
        Self { bounds, counts: vec![0; bounds.len() + 1], sum: 0 }
    }

    fn add(&mut self, value: u64) {
        let place = self.bounds.partition_point(|bound| *bound < value);
        self.counts.iter_mut().skip(place).take(1).for_each(|count| *count += 1);
        self.sum = self.sum.saturating_add(value);
    }

    fn merge(&mut self, other: &Self) {
        for (count, more) in self.counts.iter_mut().zip(&other.counts) {
            *count += more;
        }
        self.sum = self.sum.saturating_add(other.sum);
    }
}

/// The opinion to expect, as if it were G.711 lost at random; the way takes half the round trip where RTCP told one.
fn score(media: &CdrMedia) -> f64 {
    let loss = media.lost as f64 / (media.packets + media.lost).max(1) as f64;
    let delay = Duration::try_from_secs_f64(media.round_trip_ms.unwrap_or_default() / 2_000.0).unwrap_or_default();
    let (_, score) = quality::rate(&Heard { delay, loss, gap: 1.0 });
    score
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::event::MediaReport;

    #[test]
    fn a_stream_is_scored_by_its_loss_and_half_its_round_trip() {
        for (packets, lost, round_trip_ms, expected) in [
            (1_000, 0, None, 4.37),
            (990, 10, None, 4.27),
            (900, 100, None, 3.31),
            (1_000, 0, Some(400.0), 3.83),
            (1, 1_000_000, Some(4_000.0), 1.0),
        ] {
            let report = MediaReport { packets, lost, ..MediaReport::default() };
            let media = CdrMedia { round_trip_ms, ..CdrMedia::from(&report) };
            assert!((score(&media) - expected).abs() < 0.01, "{lost} {round_trip_ms:?}: {}", score(&media));
        }
    }
}
