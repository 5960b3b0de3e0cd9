//! How many answers go to UDP sources that have proved nothing: anybody may have written their address there.
//!
//! A budget of the shard, within it one of each address, and within that a share of each port. A bucket is one instant: when it
//! is full again. So what refills with time costs nothing, and a full one need not be kept.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Deserialize;
use serde::Serialize;

use crate::base::limit::ANSWERED_PER_SHARD_MAX;
use crate::base::time::Instant;

/// Thousandths of an answer.
type Millis = u64;

const ONE: Millis = 1_000;
/// What an address may have at once, and again in each second: ten, or two of each phone.
const ADDRESS_MIN: Millis = 10 * ONE;
const PER_PHONE: Millis = 2 * ONE;
/// No shard's part of it is less.
const ADDRESS_BURST_OF_SHARD_MIN: Millis = 2 * ONE;
const ADDRESS_RATE_OF_SHARD_MIN: Millis = ONE;
/// What a port may always have of that, where there is any.
const PORT: Bounds = Bounds { burst: 2 * ONE, rate: ONE / 2 };
/// What a phone may have that comes back to where it was.
const PHONE: Bounds = Bounds { burst: 4 * ONE, rate: 2 * ONE };
/// All of a node: 5,000 in any one second.
const NODE: Bounds = Bounds { burst: 1_000 * ONE, rate: 4_000 * ONE };
/// Entries looked at when one has to go.
const EVICTION_SAMPLE: usize = 8;

/// What a bucket holds, and how much comes back in a second.
#[derive(Clone, Copy, Debug)]
struct Bounds {
    burst: Millis,
    rate: Millis,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct Answers {
    /// When each bucket is full again.
    buckets: BTreeMap<u64, Instant>,
    node: Instant,
    /// Buckets that were not full when they were thrown out of a full table.
    pub(super) evicted: u64,
}

/// Who asks. Keys are keyed hashes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Asker {
    pub(super) address: u64,
    pub(super) port: u64,
    /// A phone that was registered from this address; it need not be that.
    pub(super) phone: Option<u64>,
    /// Phones that were registered from this address.
    pub(super) phones: u32,
    /// What it says can be read.
    pub(super) is_readable: bool,
}

impl Answers {
    pub(super) fn len(&self) -> usize {
        self.buckets.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.buckets.is_empty()
    }

    /// Takes one answer, if there is one for this asker. `shards`: those of the node, among which its askers are dealt.
    pub(super) fn take(&mut self, asker: Asker, shards: u8, now: Instant) -> bool {
        let shards = Millis::from(shards.max(1));
        let node = Bounds { burst: NODE.burst / shards, rate: NODE.rate / shards };
        if !holds(self.node, node, ONE, now) {
            return false;
        }
        let is_phone = asker.phone.is_some_and(|phone| self.spend(phone, PHONE, ONE, now));
        // Half of what the node has at once is kept for phones that come back.
        let is_taken =
            is_phone || holds(self.node, node, node.burst / 2 + ONE, now) && self.take_of_address(asker, shards, now);
        if is_taken {
            self.node = spent(self.node, node, now);
        }
        is_taken
    }

    fn take_of_address(&mut self, asker: Asker, shards: Millis, now: Instant) -> bool {
        let address = of_address(asker.phones, shards);
        let until = self.buckets.get(&asker.address).copied().unwrap_or(Instant::ZERO);
        if !holds(until, address, ONE, now) {
            return false;
        }
        // Whoever has had its share takes what the others leave, as noise does.
        let is_plenty = holds(until, address, address.burst / 2 + ONE, now);
        let has_share = asker.is_readable && self.spend(asker.port, PORT, ONE, now);
        (has_share || is_plenty) && self.spend(asker.address, address, ONE, now)
    }

    /// A nonce came back from an address: it did hear us, and its answer is given back, with room for one more.
    pub(super) fn give_back(&mut self, address: u64, phones: u32, shards: u8, now: Instant) {
        let Some(until) = self.buckets.get_mut(&address) else { return };
        let shards = Millis::from(shards.max(1));
        let earlier =
            |until: Instant, by: Duration| Instant::from_nanos(until.nanos().saturating_sub(by.as_nanos() as u64));
        if *until > now {
            self.node = earlier(self.node, cost(Bounds { burst: NODE.burst / shards, rate: NODE.rate / shards }));
        }
        *until = earlier(*until, 2 * cost(of_address(phones, shards)));
        if *until <= now {
            self.buckets.remove(&address);
        }
    }

    /// Takes one, where there is `floor` at least.
    fn spend(&mut self, key: u64, bounds: Bounds, floor: Millis, now: Instant) -> bool {
        let until = self.buckets.get(&key).copied();
        if !holds(until.unwrap_or(Instant::ZERO), bounds, floor, now) {
            return false;
        }
        if until.is_none() && self.buckets.len() >= ANSWERED_PER_SHARD_MAX {
            self.evict(key, now);
        }
        self.buckets.insert(key, spent(until.unwrap_or(Instant::ZERO), bounds, now));
        true
    }

    /// Keys are keyed hashes: the neighbours of a new one are a fair sample that nobody can choose.
    fn evict(&mut self, near: u64, now: Instant) {
        let neighbours = self.buckets.range(near..).chain(self.buckets.range(..near)).take(EVICTION_SAMPLE);
        let least = neighbours.min_by_key(|(_, until)| **until).map(|(key, until)| (*key, *until));
        if let Some((key, until)) = least {
            self.buckets.remove(&key);
            self.evicted += u64::from(until > now);
        }
    }
}

/// A shard's part of what an address may have.
fn of_address(phones: u32, shards: Millis) -> Bounds {
    let all = ADDRESS_MIN.max(Millis::from(phones) * PER_PHONE) / shards;
    Bounds { burst: all.max(ADDRESS_BURST_OF_SHARD_MIN), rate: all.max(ADDRESS_RATE_OF_SHARD_MIN) }
}

/// The time in which one answer comes back.
fn cost(bounds: Bounds) -> Duration {
    time_of(ONE, bounds)
}

fn time_of(answers: Millis, bounds: Bounds) -> Duration {
    Duration::from_nanos(answers.saturating_mul(1_000_000_000) / bounds.rate.max(1))
}

/// A bucket that is full at `until` has so many answers now.
fn holds(until: Instant, bounds: Bounds, answers: Millis, now: Instant) -> bool {
    answers <= bounds.burst && until.since(now) <= time_of(bounds.burst - answers, bounds)
}

fn spent(until: Instant, bounds: Bounds, now: Instant) -> Instant {
    until.max(now) + cost(bounds)
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: Instant = Instant::from_millis(1_000_000);

    fn stranger(address: u64, port: u64) -> Asker {
        Asker { address: address << 32, port: (address << 32) + port + 1, phone: None, phones: 0, is_readable: true }
    }

    /// Answers in each second that somebody got who asks every 100 µs.
    fn flood(answers: &mut Answers, shards: u8, seconds: u64, asker: impl Fn(u64) -> Asker) -> Vec<u64> {
        let ask = |n: u64| u64::from(answers.take(asker(n), shards, START + Duration::from_micros(100 * n)));
        let asked: Vec<u64> = (0..seconds * 10_000).map(ask).collect();
        asked.chunks(10_000).map(|second| second.iter().sum()).collect()
    }

    #[test]
    fn an_address_gets_ten_answers_a_second_or_two_of_each_phone() {
        for (phones, max) in [(0, 10), (1, 10), (5, 10), (6, 12), (500, 1_000)] {
            let asker = |n| Asker { phones, ..stranger(1, n) };
            let seconds = flood(&mut Answers::default(), 1, 5, asker);
            // The first second has what was there at once, too.
            assert!(seconds.iter().skip(1).all(|answers| *answers <= max), "{phones}: {seconds:?}");
            assert!(seconds[0] <= 2 * max && seconds[4] >= max * 9 / 10, "{phones}: {seconds:?}");
        }
    }

    #[test]
    fn a_port_keeps_its_share_beside_a_flooder() {
        for shards in [1, 4, 16] {
            let mut answers = Answers::default();
            for round in 0..20 {
                let now = START + Duration::from_secs(2 * round);
                for n in 0..2_000 {
                    answers.take(stranger(1, 1), shards, now + Duration::from_millis(n));
                }
                assert!(answers.take(stranger(1, 2), shards, now + Duration::from_secs(2)), "{shards} {round}");
            }
        }
    }

    #[test]
    fn noise_leaves_the_half_to_those_who_can_be_read() {
        for shards in [1, 4, 16] {
            let mut answers = Answers::default();
            let noise = |n| Asker { is_readable: false, ..stranger(1, n) };
            let got = (0..1_000).filter(|n| answers.take(noise(*n), shards, START)).count();
            assert!((1..=5).contains(&got), "{shards}: {got}");
            assert!(answers.take(stranger(1, 7), shards, START), "{shards}");
        }
    }

    #[test]
    fn a_phone_that_comes_back_needs_nothing_of_its_address() {
        let mut answers = Answers::default();
        let flooded = (0..10_000).filter(|n| answers.take(stranger(1, *n), 4, START)).count();
        assert!(flooded <= 10, "{flooded}");
        let phone = |n| Asker { phone: Some(n), ..stranger(1, n) };
        assert!((0..100).all(|n| answers.take(phone(n), 4, START)));
        let again = (0..100).filter(|_| answers.take(phone(1), 4, START)).count();
        assert_eq!(again, 3);
    }

    #[test]
    fn a_node_gives_strangers_no_more_than_5000_in_any_second() {
        for shards in [1, 4] {
            let mut answers = Answers::default();
            let seconds = flood(&mut answers, shards, 3, |n| stranger(n, n));
            let max = 5_000 / u64::from(shards);
            assert!(seconds.iter().all(|sum| *sum <= max), "{seconds:?}");
            assert!(seconds[2] >= max * 7 / 10, "{seconds:?}");
            // Phones that come back find the other half.
            let now = START + Duration::from_secs(3);
            assert!((0..50).all(|n| answers.take(Asker { phone: Some(n), ..stranger(1, n) }, shards, now)));
        }
    }

    #[test]
    fn who_answers_gets_the_answer_back() {
        let mut answers = Answers::default();
        let mut now = START;
        for n in 0..500 {
            assert!(answers.take(stranger(1, n), 1, now), "{n}");
            answers.give_back(1 << 32, 0, 1, now);
            now = now + Duration::from_millis(1);
        }
        answers.give_back(7 << 32, 0, 1, now);
        let saved = (0..100).filter(|n| answers.take(stranger(1, 1_000 + n), 1, now)).count();
        assert_eq!(saved, 10, "no room is saved up");
    }

    #[test]
    fn a_full_table_forgets_those_first_that_have_their_room_back() {
        let mut answers = Answers::default();
        let victim = stranger(u64::from(u32::MAX), 1);
        let mut now = START;
        let mut got = 0;
        for n in 0..ANSWERED_PER_SHARD_MAX as u64 {
            now = now + Duration::from_micros(300);
            answers.take(stranger(n.wrapping_mul(0x9E37_79B9) & 0xFFFF_FFFF, n), 1, now);
            got += u64::from(answers.take(victim, 1, now));
            assert!(answers.len() <= ANSWERED_PER_SHARD_MAX);
        }
        let seconds = now.since(START).as_secs() + 1;
        assert!(got <= 10 * seconds + 10, "{got} in {seconds} s");
    }

    #[test]
    fn no_order_of_askers_breaks_the_bounds() {
        use crate::base::random::Random;
        for seed in 0..50 {
            let mut random = Random::new(seed);
            let (mut answers, mut now) = (Answers::default(), START);
            let shards = 1 + random.below(8) as u8;
            let phones = random.below(40) as u32;
            let mut taken = Vec::new();
            for _ in 0..2_000 {
                now = now + Duration::from_micros(random.below(3_000));
                let address = random.below(3);
                let phone = random.chance(1, 10).then(|| random.below(5) << 8);
                let is_readable = random.chance(2, 3);
                let asker = Asker { phone, phones, is_readable, ..stranger(address, random.below(4)) };
                if random.chance(1, 500) {
                    let bytes = postcard::to_allocvec(&answers).unwrap();
                    answers = postcard::from_bytes(&bytes).unwrap();
                }
                if answers.take(asker, shards, now) && phone.is_none() {
                    taken.push((address, now));
                }
            }
            let bounds = of_address(phones, u64::from(shards));
            let max = ((bounds.burst + bounds.rate) / ONE + 1) as usize;
            for (address, start) in &taken {
                let second = |at: &Instant| at >= start && at.since(*start) < Duration::from_secs(1);
                let got = taken.iter().filter(|(other, at)| other == address && second(at)).count();
                assert!(got <= max, "seed {seed}: {got} of {max} in a second");
            }
        }
    }
}
