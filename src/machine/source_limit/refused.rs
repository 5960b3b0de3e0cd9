//! Requests that got no answer lately. Who comes again as a phone does, with the same request after T1 (RFC 3261 §17.1.2.2), is told
//! by it from who forges ever new ones.
//!
//! A keyed hash gives each its place, of a fixed number, and a few bits by which it is known there: a later one takes the place of an
//! earlier. Of 60,000 new ones a second three in five are still there after half a second.

use std::time::Duration;

use serde::Deserialize;
use serde::Serialize;

use crate::base::keyed::Keyed;
use crate::base::limit::REFUSED_PER_SHARD_MAX;
use crate::base::time::Instant;

/// An odd number: no two places get one key, and keys look like hashes.
const SPREAD: u64 = 0x9e37_79b9_7f4a_7c15;
/// Ticks are 64 ms.
const TICK_BITS: u32 = 6;
/// T1 is 500 ms; some phones are quicker.
const AGAIN_MIN: u16 = ticks(Duration::from_millis(400));
/// T2 is 4 s: no two of one request are further apart.
const AGAIN_MAX: u16 = ticks(Duration::from_secs(6));

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct Refused {
    places: Keyed<Seen>,
}

#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
struct Seen {
    mark: u16,
    tick: u16,
}

impl Refused {
    /// It was refused before, as long ago as phones wait. Else it is remembered.
    pub(super) fn comes_again(&mut self, request: u64, now: Instant) -> bool {
        let now = (now.millis() >> TICK_BITS) as u16;
        let mark = (request >> 48) as u16;
        let place = (request % REFUSED_PER_SHARD_MAX as u64).wrapping_mul(SPREAD);
        let before = self.places.get(place).filter(|seen| seen.mark == mark);
        let age = before.map(|seen| now.wrapping_sub(seen.tick));
        if age.is_some_and(|age| age < AGAIN_MIN) {
            return false;
        }
        let is_again = age.is_some_and(|age| age <= AGAIN_MAX);
        self.places.insert(place, Seen { mark, tick: now });
        is_again
    }
}

const fn ticks(time: Duration) -> u16 {
    (time.as_millis() >> TICK_BITS) as u16
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: Instant = Instant::from_millis(1_000_000);

    #[test]
    fn who_waits_as_a_phone_does_comes_again() {
        let mut refused = Refused::default();
        let mut now = START;
        assert!(!refused.comes_again(7, now));
        for (waited, is_again) in
            [(500, true), (1_000, true), (2_000, true), (4_000, true), (4_000, true), (8_000, false)]
        {
            now = now + Duration::from_millis(waited);
            assert_eq!(refused.comes_again(7, now), is_again, "{waited}");
        }
        assert!(!refused.comes_again(8, now));
    }

    #[test]
    fn who_repeats_without_waiting_is_no_phone_but_once_in_a_while() {
        let mut refused = Refused::default();
        let repeats = (0..1_000).filter(|n| refused.comes_again(7, START + Duration::from_millis(10 * n))).count();
        assert!((15..=26).contains(&repeats), "{repeats} in 10 s");
    }

    #[test]
    fn most_are_remembered_through_a_flood() {
        let mut refused = Refused::default();
        let mut random = crate::base::random::Random::new(3);
        let mine: Vec<u64> = (0..1_000).map(|_| random.next_u64()).collect();
        for request in &mine {
            refused.comes_again(*request, START);
        }
        let taken =
            (0..30_000).filter(|_| refused.comes_again(random.next_u64(), START + Duration::from_millis(250))).count();
        assert!(taken <= 3, "{taken} of the flood were taken for others");
        let again =
            mine.iter().filter(|request| refused.comes_again(**request, START + Duration::from_millis(500))).count();
        assert!(again > 550, "{again} of a thousand");
    }
}
