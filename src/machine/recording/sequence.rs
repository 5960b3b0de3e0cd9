//! Sequence numbers of one stream: which packets came, which came twice, how many never did, and when the sender began anew
//! (RFC 3550 A.1, A.3).
//!
//! A number that was seen is not enough to call a packet a copy: senders step back, and what they say then is new.

use std::time::Duration;

use crate::base::time::Instant;

/// Numbers back from the newest that are remembered.
const WINDOW: u64 = 1_024;
const WORDS: usize = WINDOW as usize / 64;
/// RFC 3550 A.1: MAX_DROPOUT. A step forward as great is a sender that began anew.
const DROPOUT_MAX: u16 = 3_000;
/// A network that makes a copy brings it soon.
const COPY_MAX: Duration = Duration::from_secs(3);
/// RFC 3550 A.1: MAX_MISORDER. So much earlier than the first packet that came others may have been sent.
const MISORDER_MAX: u64 = 100;
/// A missing number so close to the newest is late, if its timestamp is not ahead.
const NEAR: u64 = 16;
/// Ticks back from its neighbour that a late packet's timestamp lies at most: ten seconds of 48,000.
const LATE_TICKS_MAX: i32 = 480_000;

/// What tells one packet from another of the same number.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Print {
    timestamp: u32,
    payload: u32,
    at: Instant,
}

impl Print {
    pub(super) fn new(timestamp: u32, payload: &[u8], at: Instant) -> Self {
        Self { timestamp, payload: digest(payload), at }
    }

    /// Sent once, come twice.
    fn is_copied_by(&self, other: &Self) -> bool {
        (self.timestamp, self.payload) == (other.timestamp, other.payload) && other.at.since(self.at) <= COPY_MAX
    }

    /// Ticks from this timestamp to the other.
    const fn ticks_to(&self, other: &Self) -> i32 {
        other.timestamp.wrapping_sub(self.timestamp).cast_signed()
    }
}

/// Four sums beside each other: each word waits for the one before the last four alone.
fn digest(payload: &[u8]) -> u32 {
    const FACTOR: u64 = 0x9E37_79B9_7F4A_7C15;
    let (blocks, rest) = payload.as_chunks::<32>();
    let mut sums = [payload.len() as u64, 1, 2, 3];
    for block in blocks {
        let (words, _) = block.as_chunks::<8>();
        for (sum, word) in sums.iter_mut().zip(words) {
            *sum = (*sum ^ u64::from_le_bytes(*word)).wrapping_mul(FACTOR);
        }
    }
    let mut sum = sums.into_iter().fold(0, |all: u64, sum| (all.rotate_left(23) ^ sum).wrapping_mul(FACTOR));
    for byte in rest {
        sum = (sum ^ u64::from(*byte)).wrapping_mul(FACTOR);
    }
    (sum >> 32) as u32
}

#[derive(Clone, Debug)]
pub(super) struct Sequence {
    first: u64,
    newest: u64,
    unique: u64,
    /// Lost before the sender began anew.
    lost_before: u64,
    seen: [u64; WORDS],
    prints: Vec<Print>,
    suspect: Option<(u16, Print)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Order {
    /// So many numbers after the newest so far.
    Newest(u16),
    /// Sent before the newest, and came after it.
    Older,
    Duplicate,
    /// Its number is no place in the sequence: one packet alone, or the first of a sender that begins anew.
    Stray,
    /// The sender began anew with the stray before.
    Restart,
}

impl Sequence {
    pub(super) fn new(number: u16, print: Print) -> Self {
        let prints = vec![Print::default(); WINDOW as usize];
        let mut sequence =
            Self { first: 0, newest: 0, unique: 0, lost_before: 0, seen: [0; WORDS], prints, suspect: None };
        sequence.begin(number, print);
        sequence
    }

    fn begin(&mut self, number: u16, print: Print) {
        // Room for what was sent before the first packet that came.
        self.first = u64::from(number) + (1 << 32);
        self.newest = self.first;
        self.unique = 1;
        self.seen = [0; WORDS];
        self.suspect = None;
        self.mark(self.first, print);
    }

    pub(super) fn handle(&mut self, number: u16, print: Print) -> Order {
        let ahead = number.wrapping_sub(self.newest as u16);
        if (1..DROPOUT_MAX).contains(&ahead) {
            self.go_on(ahead, print);
            return Order::Newest(ahead);
        }
        let behind = u64::from(ahead.wrapping_neg());
        if behind < WINDOW {
            let older = self.newest - behind;
            let seen = self.seen(older);
            if seen.is_some_and(|seen| seen.is_copied_by(&print)) {
                return Order::Duplicate;
            }
            if seen.is_none() && self.is_late(older, &print) {
                self.mark(older, print);
                self.first = self.first.min(older);
                self.unique += 1;
                return Order::Older;
            }
        }
        self.suspect(number, print)
    }

    fn go_on(&mut self, ahead: u16, print: Print) {
        let newest = self.newest + u64::from(ahead);
        if u64::from(ahead) > WINDOW {
            self.seen = [0; WORDS];
        } else {
            (self.newest + 1..newest).for_each(|passed| self.clear(passed));
        }
        self.newest = newest;
        self.mark(newest, print);
        self.unique += 1;
        self.suspect = None;
    }

    /// "the other side [is assumed to have] restarted without telling us", once two numbers follow each other there.
    fn suspect(&mut self, number: u16, print: Print) -> Order {
        if let Some((first, before)) = self.suspect {
            if first == number && before.is_copied_by(&print) {
                return Order::Duplicate;
            }
            if first.wrapping_add(1) == number {
                self.lost_before = self.lost();
                self.begin(first, before);
                self.go_on(1, print);
                return Order::Restart;
            }
        }
        self.suspect = Some((number, print));
        Order::Stray
    }

    /// Whether a packet whose number is missing has the timestamp of that place.
    fn is_late(&self, number: u64, print: &Print) -> bool {
        let is_ahead = self.seen(self.newest).is_some_and(|newest| newest.ticks_to(print) > 0);
        if is_ahead || number + MISORDER_MAX < self.first {
            return false;
        }
        let next = (number + 1..=self.newest).find_map(|number| self.seen(number));
        let Some(ticks) = next.map(|next| print.ticks_to(&next)) else { return false };
        if self.newest - number <= NEAR {
            return ticks.abs() <= LATE_TICKS_MAX;
        }
        let oldest = self.first.max(self.newest - (WINDOW - 1));
        let before = (oldest..number).rev().find_map(|number| self.seen(number));
        (0..=LATE_TICKS_MAX).contains(&ticks) && before.is_none_or(|before| before.ticks_to(print) >= 0)
    }

    pub(super) const fn lost(&self) -> u64 {
        self.lost_before + (self.newest - self.first + 1).saturating_sub(self.unique)
    }

    const fn place(number: u64) -> (usize, u64) {
        ((number % WINDOW / 64) as usize, 1 << (number % 64))
    }

    fn mark(&mut self, number: u64, print: Print) {
        let (word, bit) = Self::place(number);
        self.seen[word] |= bit;
        self.prints[(number % WINDOW) as usize] = print;
    }

    fn clear(&mut self, number: u64) {
        let (word, bit) = Self::place(number);
        self.seen[word] &= !bit;
    }

    fn seen(&self, number: u64) -> Option<Print> {
        let (word, bit) = Self::place(number);
        if self.seen[word] & bit == 0 {
            return None;
        }
        self.prints.get((number % WINDOW) as usize).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The packet of this number of a sender that never began anew.
    fn print(number: u32) -> Print {
        Print::new(number.wrapping_mul(160), &number.to_be_bytes(), Instant::from_millis(u64::from(number) * 20))
    }

    #[test]
    fn numbers_are_told_apart_over_the_wrap() {
        let mut sequence = Sequence::new(65_534, print(65_534));
        let check = |sequence: &mut Sequence, number: u32, order: Order| {
            assert_eq!(sequence.handle(number as u16, print(number)), order, "{number}");
        };
        check(&mut sequence, 65_535, Order::Newest(1));
        check(&mut sequence, 65_537, Order::Newest(2));
        assert_eq!(sequence.lost(), 1);
        check(&mut sequence, 65_536, Order::Older);
        check(&mut sequence, 65_536, Order::Duplicate);
        check(&mut sequence, 65_534, Order::Duplicate);
        // Sent before the first that came.
        check(&mut sequence, 65_530, Order::Older);
        assert_eq!(sequence.lost(), 3);
        check(&mut sequence, 65_536 + 2_001, Order::Newest(2_000));
        assert_eq!(sequence.lost(), 3 + 1_999);
        check(&mut sequence, 65_536 + 2_000, Order::Older);
        assert_eq!(sequence.lost(), 3 + 1_998);
        // Two seconds and more behind, from a queue: its timestamp is that of its place.
        check(&mut sequence, 65_536 + 1_800, Order::Older);
        assert_eq!(sequence.lost(), 3 + 1_997);
    }

    #[test]
    fn a_step_of_any_length_is_a_restart_when_the_next_confirms_it() {
        for by in [-1i32, -5, -50, -99, -101, -500, -1_023, -1_024, -5_000, 3_001, 20_000, -30_000] {
            let mut sequence = Sequence::new(2_000, print(2_000));
            for number in 2_001..2_200 {
                assert_eq!(sequence.handle(number, print(number.into())), Order::Newest(1));
            }
            let anew = |number: u32| ((number as i32 + by) as u16, print(number));
            let (number, own) = anew(2_200);
            assert_eq!(sequence.handle(number, own), Order::Stray, "{by}");
            assert_eq!(sequence.handle(number, own), Order::Duplicate, "{by}: the network's copy");
            let (number, own) = anew(2_201);
            let expected = if by == -1 { Order::Newest(1) } else { Order::Restart };
            assert_eq!(sequence.handle(number, own), expected, "{by}");
            for other in 2_202..2_300 {
                let (number, own) = anew(other);
                assert_eq!(sequence.handle(number, own), Order::Newest(1), "{by}");
                assert_eq!(sequence.handle(number, own), Order::Duplicate, "{by}");
            }
            assert_eq!(sequence.lost(), 0, "{by}");
        }
    }

    #[test]
    fn one_number_that_is_no_place_changes_nothing() {
        let mut sequence = Sequence::new(100, print(100));
        assert_eq!(sequence.handle(101, print(101)), Order::Newest(1));
        assert_eq!(sequence.handle(40_000, print(102)), Order::Stray);
        assert_eq!(sequence.handle(103, print(103)), Order::Newest(2));
        assert_eq!(sequence.handle(102, print(102)), Order::Older);
        assert_eq!(sequence.lost(), 0);
    }

    #[test]
    fn what_the_same_number_says_is_compared() {
        let at = Instant::from_millis(1_000);
        let mut sequence = Sequence::new(7, Print::new(160, b"one", at));
        let check = |sequence: &mut Sequence, timestamp, payload: &[u8], millis, order| {
            let at = at + Duration::from_millis(millis);
            assert_eq!(sequence.handle(7, Print::new(timestamp, payload, at)), order, "{payload:?} {millis}");
        };
        check(&mut sequence, 160, b"one", 30, Order::Duplicate);
        check(&mut sequence, 160, b"two", 30, Order::Stray);
        check(&mut sequence, 320, b"one", 30, Order::Stray);
        check(&mut sequence, 160, b"one", 20_000, Order::Stray);
    }

    #[test]
    fn digests_tell_payloads_apart() {
        let payload: Vec<u8> = (0..200).collect();
        for len in 0..200 {
            let whole = digest(&payload[..len]);
            for at in 0..len {
                let mut other = payload[..len].to_vec();
                other[at] ^= 1;
                assert_ne!(digest(&other), whole, "{len} {at}");
            }
            assert_ne!(digest(&payload[..len + 1]), whole);
        }
    }
}
