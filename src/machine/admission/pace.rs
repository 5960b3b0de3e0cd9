//! A token bucket in one word: when it would be full again (the generic cell rate algorithm of ITU-T I.371).

use serde::Deserialize;
use serde::Serialize;

use crate::base::time::Instant;

/// How often something may happen, and how often at once after a pause.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// 0: as often as anybody likes.
    pub per_second: u32,
    pub burst: u32,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pace(Instant);

impl Pace {
    /// Takes a token, if there is one.
    pub fn take(&mut self, rate: Rate, now: Instant) -> bool {
        let fits = self.fits(rate, now);
        if fits && rate.per_second > 0 {
            let full = self.0.max(now).nanos().saturating_add(period(rate));
            self.0 = Instant::from_nanos(full);
        }
        fits
    }

    pub fn fits(&self, rate: Rate, now: Instant) -> bool {
        let room = period(rate).saturating_mul(u64::from(rate.burst.max(1)) - 1);
        rate.per_second == 0 || self.0.nanos() <= now.nanos().saturating_add(room)
    }

    /// It is as if it had never been used.
    pub fn is_idle(&self, now: Instant) -> bool {
        self.0 <= now
    }
}

fn period(rate: Rate) -> u64 {
    1_000_000_000 / u64::from(rate.per_second.max(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_and_then_the_rate() {
        let rate = Rate { per_second: 4, burst: 10 };
        let (mut pace, start) = (Pace::default(), Instant::from_millis(1_000));
        let taken = |pace: &mut Pace, at| (0..100).filter(|_| pace.take(rate, at)).count();
        assert_eq!(taken(&mut pace, start), 10);
        assert_eq!(taken(&mut pace, Instant::from_millis(1_249)), 0);
        assert_eq!(taken(&mut pace, Instant::from_millis(1_250)), 1);
        assert_eq!(taken(&mut pace, Instant::from_millis(2_000)), 3);
        assert!(!pace.is_idle(Instant::from_millis(4_000)));
        assert!(pace.is_idle(Instant::from_millis(4_500)));
        assert_eq!(taken(&mut pace, Instant::from_millis(60_000)), 10, "no more is saved up than a burst");
    }

    #[test]
    fn no_rate_is_no_bound() {
        let mut pace = Pace::default();
        assert!((0..100_000).all(|_| pace.take(Rate { per_second: 0, burst: 0 }, Instant::ZERO)));
    }
}
