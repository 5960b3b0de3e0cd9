//! When calls begin: a Poisson process whose rate follows a ramp and a curve, drawn by thinning.

use std::time::Duration;

use crate::base::random::Random;
use crate::base::time::Instant;
use crate::process::phlem::scenario::Calls;
use crate::process::phlem::scenario::exponential;

/// One thread's part of a stream of calls.
#[derive(Debug)]
pub(super) struct Pace {
    from: Instant,
    until: Instant,
    /// Calls a second at the curve's highest.
    rate_max: f64,
    ramp: Duration,
    curve: Vec<f64>,
    curve_max: f64,
    next_at: Instant,
}

impl Pace {
    /// `share` of the stream's calls are this thread's.
    pub(super) fn new(calls: &Calls, share: f64, from: Instant, until: Instant, random: &mut Random) -> Self {
        let curve_max = calls.curve.iter().copied().fold(0.0, f64::max);
        let curve_max = if calls.curve.is_empty() { 1.0 } else { curve_max };
        let from = from + calls.after.0;
        let rate_max = calls.rate * share * curve_max;
        let curve = calls.curve.clone();
        let mut pace = Self { from, until, rate_max, ramp: calls.ramp.0, curve, curve_max, next_at: from };
        pace.advance(random);
        pace
    }

    pub(super) fn next_at(&self) -> Instant {
        self.next_at
    }

    fn advance(&mut self, random: &mut Random) {
        if self.rate_max <= 0.0 {
            self.next_at = Instant::NEVER;
            return;
        }
        // A gap longer than a year is none.
        let gap = (exponential(random) / self.rate_max).min(3.2e7);
        self.next_at = self.next_at + Duration::from_secs_f64(gap);
        if self.next_at >= self.until {
            self.next_at = Instant::NEVER;
        }
    }

    /// How many calls begin now; at most `calls_max`, the others a little later.
    pub(super) fn take(&mut self, now: Instant, calls_max: u32, random: &mut Random) -> u32 {
        let mut calls = 0;
        while self.next_at <= now && calls < calls_max {
            let at = self.next_at;
            self.advance(random);
            let kept = self.factor(at) / self.curve_max;
            if random.below(1 << 32) as f64 <= kept * (1u64 << 32) as f64 && kept > 0.0 {
                calls += 1;
            }
        }
        calls
    }

    /// What the rate is multiplied with at a time.
    fn factor(&self, at: Instant) -> f64 {
        let passed = at.since(self.from);
        let ramp = if passed < self.ramp { passed.as_secs_f64() / self.ramp.as_secs_f64() } else { 1.0 };
        let Some(last) = self.curve.len().checked_sub(1).filter(|last| *last > 0) else { return ramp };
        let whole = self.until.since(self.from).as_secs_f64().max(0.001);
        let place = (passed.as_secs_f64() / whole).clamp(0.0, 1.0) * last as f64;
        let index = (place.floor() as usize).min(last - 1);
        let (low, high) = (self.curve[index], self.curve[index + 1]);
        ramp * (low + (high - low) * (place - index as f64))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::process::phlem::scenario::Span;

    /// Calls in each tenth of 1,000 s at 100 a second.
    fn tenths(calls: &Calls) -> Vec<u32> {
        let mut random = Random::new(5);
        let from = Instant::from_millis(1_000_000);
        let mut pace = Pace::new(calls, 0.5, from, from + Duration::from_secs(1_000), &mut random);
        (1..=10).map(|tenth| pace.take(from + Duration::from_secs(100 * tenth), u32::MAX, &mut random)).collect()
    }

    #[test]
    fn rates_follow_curve_and_ramp() {
        let even = Calls { rate: 200.0, ..Calls::default() };
        assert!(tenths(&even).iter().all(|calls| (9_600..10_400).contains(calls)), "{:?}", tenths(&even));
        let curve = Calls { curve: vec![0.0, 2.0, 0.0], ..even.clone() };
        let found = tenths(&curve);
        assert!(found[0] < 2_500 && found[9] < 2_500 && (17_000..19_000).contains(&found[4]), "{found:?}");
        let ramp = Calls { ramp: Span::secs(500), ..even };
        let found = tenths(&ramp);
        assert!((800..1_200).contains(&found[0]) && (9_600..10_400).contains(&found[6]), "{found:?}");
        let none = Calls { rate: 0.0, ..Calls::default() };
        assert_eq!(tenths(&none), [0; 10]);
    }
}
