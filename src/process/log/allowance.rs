//! How many lines of an event may be written: strangers cause many of them, and may fill neither a disk nor what reads the log.
//!
//! Each event has a budget of its own that comes back with time, so that a flood of one hides no line of another. What it leaves
//! out is counted, and said from time to time.

use std::collections::BTreeMap;

use crate::base::limit::LOG_EVENTS_MAX;
use crate::base::time::Instant;
use crate::process::config::Level;

struct Budget {
    per_second: u64,
    burst: u64,
}

/// A ban needs each of a few lines of each source: these have room for many sources.
const FAILURES: Budget = Budget { per_second: 100, burst: 1_000 };
const OTHERS: Budget = Budget { per_second: 20, burst: 200 };
/// Somebody has asked for these.
const DETAILS: Budget = Budget { per_second: 200, burst: 4_000 };
/// All steps of all calls.
const STEPS: Budget = Budget { per_second: 5_000, burst: 50_000 };

fn budget(event: &str, level: Level) -> &'static Budget {
    match level {
        Level::Debug => &DETAILS,
        Level::Trace => &STEPS,
        Level::Error | Level::Warn | Level::Info => match event {
            "authentication.failed" | "api.refused" => &FAILURES,
            _ => &OTHERS,
        },
    }
}

#[derive(Default)]
pub(super) struct Allowances {
    events: BTreeMap<(String, u8), Allowance>,
}

struct Allowance {
    /// In thousandths of a line.
    left: u64,
    at: Instant,
    left_out: u64,
}

impl Allowances {
    /// Whether one more line of the event may be written. If not, it is counted.
    pub(super) fn take(&mut self, event: &str, level: Level, now: Instant) -> bool {
        // The names stand in our source and in that of libraries; if there are too many, the last ones share a budget.
        let key = (event.to_owned(), level as u8);
        let is_one_too_many = self.events.len() >= LOG_EVENTS_MAX && !self.events.contains_key(&key);
        let key = if is_one_too_many { ("others".to_owned(), level as u8) } else { key };
        let budget = budget(event, level);
        let full = budget.burst * 1_000;
        let allowance = self.events.entry(key).or_insert(Allowance { left: full, at: now, left_out: 0 });
        let millis = u64::try_from(now.since(allowance.at).as_millis()).unwrap_or(u64::MAX);
        if millis > 0 {
            allowance.left = allowance.left.saturating_add(millis.saturating_mul(budget.per_second)).min(full);
            allowance.at = now;
        }
        if allowance.left < 1_000 {
            allowance.left_out += 1;
            return false;
        }
        allowance.left -= 1_000;
        true
    }

    /// How many lines of which events were left out since this was asked last.
    pub(super) fn left_out(&mut self) -> Vec<(String, u64)> {
        let counted = self.events.iter_mut().filter(|(_, allowance)| allowance.left_out > 0);
        counted.map(|((name, _), allowance)| (name.clone(), std::mem::take(&mut allowance.left_out))).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn at(millis: u64) -> Instant {
        Instant::ZERO + Duration::from_millis(millis)
    }

    #[test]
    fn a_flood_of_one_event_is_counted_and_hides_no_other() {
        let mut allowances = Allowances::default();
        let mut written = |event: &str, ms| (0..10_000).filter(|_| allowances.take(event, Level::Warn, at(ms))).count();
        assert_eq!(written("api.accept", 0), 200);
        assert_eq!(written("api.refused", 0), 1_000);
        assert_eq!(written("api.accept", 1_000), 20);
        assert_eq!(written("api.accept", 1_049), 0);
        assert_eq!(written("api.accept", 1_050), 1, "parts of a line add up");
        assert_eq!(written("api.accept", 3_600_000), 200);
        let left_out = allowances.left_out();
        assert_eq!(left_out, [("api.accept".to_owned(), 50_000 - 421), ("api.refused".to_owned(), 9_000)]);
        assert_eq!(allowances.left_out(), []);
    }

    #[test]
    fn names_that_nobody_expected_share_a_budget() {
        let mut allowances = Allowances::default();
        let written =
            (0..10_000).filter(|index| allowances.take(&format!("made-up-{index}"), Level::Info, at(0))).count();
        assert_eq!(written, LOG_EVENTS_MAX + 200);
        assert!(allowances.events.len() <= LOG_EVENTS_MAX + 1);
    }
}
