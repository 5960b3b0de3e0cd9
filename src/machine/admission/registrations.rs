//! How fast phones register: a pace for each that has done so in the last while. A phone that rests costs nothing.

use std::collections::VecDeque;
use std::time::Duration;

use serde::Deserialize;
use serde::Serialize;

use crate::base::keyed::Keyed;
use crate::base::time::Instant;
use crate::machine::admission::Pace;
use crate::machine::admission::REGISTRATIONS;

/// How long a pace is kept before it is looked at, and again: a phone that registers more often is not looked at each time.
const LOOK_AFTER: Duration = Duration::from_secs(10);
/// Paces looked at with each use: more than one, or they would not become fewer.
const LOOKS: usize = 2;

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct Registrations {
    paces: Keyed<Pace>,
    /// In the order of the times.
    looks: VecDeque<(Instant, u64)>,
}

impl Registrations {
    pub(super) fn take(&mut self, phone: u64, now: Instant) -> bool {
        self.look(now);
        if let Some(pace) = self.paces.get_mut(phone) {
            return pace.take(REGISTRATIONS, now);
        }
        let mut pace = Pace::default();
        let fits = pace.take(REGISTRATIONS, now);
        self.paces.insert(phone, pace);
        self.looks.push_back((now + LOOK_AFTER, phone));
        fits
    }

    fn look(&mut self, now: Instant) {
        for _ in 0..LOOKS {
            let Some((_, phone)) = self.looks.front().copied().filter(|(at, _)| *at <= now) else { return };
            self.looks.pop_front();
            if self.paces.get(phone).is_none_or(|pace| pace.is_idle(now)) {
                self.paces.remove(phone);
            } else {
                self.looks.push_back((now + LOOK_AFTER, phone));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn phones_that_rest_are_forgotten() {
        let mut registrations = Registrations::default();
        let start = Instant::from_millis(1_000);
        assert!((0..10_000).all(|phone| registrations.take(phone, start)));
        let burst = (0..100).filter(|_| registrations.take(1, start)).count();
        assert_eq!(burst, REGISTRATIONS.burst as usize - 1);
        let later = start + Duration::from_secs(40);
        (0..6_000).for_each(|_| _ = registrations.take(20_000, later));
        assert_eq!((registrations.paces.len(), registrations.looks.len()), (1, 1));
        assert!(registrations.take(1, later));
    }
}
