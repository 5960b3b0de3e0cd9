//! Sequence numbers of one stream: which packets came, which came twice, how many never did (RFC 3550 A.1, A.3).

/// Numbers back from the newest within which a copy is recognised.
const WINDOW: u64 = 1_024;
const WORDS: usize = WINDOW as usize / 64;
/// RFC 3550 A.1: MAX_DROPOUT. A greater step forward is a sender that began anew.
const DROPOUT_MAX: u16 = 3_000;

#[derive(Clone, Debug)]
pub(super) struct Sequence {
    first: u64,
    newest: u64,
    unique: u64,
    seen: [u64; WORDS],
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Order {
    Newest,
    /// Sent before the newest, and came after it.
    Older,
    Duplicate,
    /// The sender began anew.
    Restart,
}

impl Sequence {
    pub(super) fn new(number: u16) -> Self {
        // Room for what was sent before the first packet that came.
        let first = u64::from(number) + (1 << 32);
        let mut sequence = Self { first, newest: first, unique: 1, seen: [0; WORDS] };
        sequence.mark(first);
        sequence
    }

    pub(super) fn handle(&mut self, number: u16) -> Order {
        let ahead = number.wrapping_sub(self.newest as u16);
        if ahead == 0 {
            return Order::Duplicate;
        }
        if ahead <= DROPOUT_MAX {
            let newest = self.newest + u64::from(ahead);
            for passed in (self.newest + 1..=newest).take(WINDOW as usize) {
                self.clear(passed);
            }
            if u64::from(ahead) > WINDOW {
                self.seen = [0; WORDS];
            }
            self.newest = newest;
            self.mark(newest);
            self.unique += 1;
            return Order::Newest;
        }
        let behind = u64::from(number.wrapping_neg().wrapping_add(self.newest as u16));
        if behind >= WINDOW {
            return Order::Restart;
        }
        let older = self.newest - behind;
        if self.is_marked(older) {
            return Order::Duplicate;
        }
        self.mark(older);
        self.first = self.first.min(older);
        self.unique += 1;
        Order::Older
    }

    pub(super) const fn lost(&self) -> u64 {
        (self.newest - self.first + 1).saturating_sub(self.unique)
    }

    const fn place(number: u64) -> (usize, u64) {
        ((number % WINDOW / 64) as usize, 1 << (number % 64))
    }

    fn mark(&mut self, number: u64) {
        let (word, bit) = Self::place(number);
        self.seen[word] |= bit;
    }

    fn clear(&mut self, number: u64) {
        let (word, bit) = Self::place(number);
        self.seen[word] &= !bit;
    }

    fn is_marked(&self, number: u64) -> bool {
        let (word, bit) = Self::place(number);
        self.seen[word] & bit != 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_told_apart_over_the_wrap() {
        let mut sequence = Sequence::new(65_534);
        let check = |sequence: &mut Sequence, number: u16, order: Order| {
            assert_eq!(sequence.handle(number), order, "{number}");
        };
        check(&mut sequence, 65_535, Order::Newest);
        check(&mut sequence, 1, Order::Newest);
        assert_eq!(sequence.lost(), 1);
        check(&mut sequence, 0, Order::Older);
        check(&mut sequence, 0, Order::Duplicate);
        check(&mut sequence, 65_534, Order::Duplicate);
        // Sent before the first that came.
        check(&mut sequence, 65_530, Order::Older);
        assert_eq!(sequence.lost(), 3);
        check(&mut sequence, 2_001, Order::Newest);
        assert_eq!(sequence.lost(), 3 + 1_999);
        check(&mut sequence, 2_000, Order::Older);
        check(&mut sequence, 40_000, Order::Restart);
        check(&mut sequence, 2_001 - 1_024, Order::Restart);
        assert_eq!(sequence.lost(), 3 + 1_998);
    }
}
