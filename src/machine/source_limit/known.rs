//! Where phones were registered from in the last week: who comes back from there is no stranger, on whatever port.
//!
//! A phone's own shard learns it and tells the others, which may read the phone's next request first. What was not told (a full
//! queue) is told again within the hour, as long as the phone is there. A bounded table; who is forgotten is a newcomer.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::Duration;

use serde::Deserialize;
use serde::Serialize;

use crate::base::hash::HashKey;
use crate::base::keyed::Keyed;
use crate::base::limit::KNOWN_PHONES_PER_SHARD_MAX;
use crate::base::limit::KNOWN_PHONES_UNTOLD_MAX;
use crate::base::time::Instant;
use crate::machine::source_limit::source_bits;

/// In minutes: a phone that has not registered from an address for so long is not known there.
const KEPT: u32 = 7 * 24 * 60;
/// In minutes: what is known is renewed, and told again, no more often.
const RENEWED: u32 = 60;
/// What is told waits so long for company.
const GATHERED: Duration = Duration::from_millis(250);
/// Sightings in one message.
const TOLD_AT_ONCE: usize = 512;
/// Messages to each shard in one step.
const TOLD_PER_STEP: usize = 2;
/// Old entries looked at for a new one.
const SWEPT: usize = 4;

/// A phone was registered from here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sighting {
    /// Keyed hash of source and phone.
    phone: u64,
    /// Keyed hash of the source.
    source: u64,
    /// 0: over a connection.
    port: u16,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct Known {
    phones: Keyed<Seen>,
    /// Phones of each source.
    sources: Keyed<u32>,
    /// All phones with the minute at which they were there, as far as that has been looked at: the oldest first.
    order: VecDeque<(u64, u32)>,
    untold: VecDeque<Sighting>,
    tell_at: Option<Instant>,
    /// Phones forgotten because the table was full.
    pub(super) evicted: u64,
}

#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
struct Seen {
    source: u64,
    minute: u32,
    port: u16,
}

/// How somebody who proves nothing stands to the phone that he says he is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Familiar {
    /// It was registered over this flow.
    Flow,
    /// It was registered from this address.
    Address,
    No,
}

impl Sighting {
    /// `port` is 0 for a connection, which proves itself.
    pub(super) fn new(secret: &HashKey, source: SocketAddr, is_reliable: bool, phone: u64) -> Self {
        let port = if is_reliable { 0 } else { source.port() };
        Self { phone: place(secret, source, phone), source: of_source(secret, source), port }
    }
}

impl Known {
    pub(super) fn len(&self) -> usize {
        self.phones.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.phones.is_empty()
    }

    /// Phones of this source.
    pub(super) fn phones_at(&self, source: u64) -> u32 {
        self.sources.get(source).copied().unwrap_or(0)
    }

    pub(super) fn look(&self, secret: &HashKey, source: SocketAddr, phone: u64, now: Instant) -> Familiar {
        match self.phones.get(place(secret, source, phone)) {
            Some(seen) if minute(now).saturating_sub(seen.minute) > KEPT => Familiar::No,
            Some(seen) if seen.port == source.port() => Familiar::Flow,
            Some(_) => Familiar::Address,
            None => Familiar::No,
        }
    }

    /// A phone of this shard has registered. `tell`: there are other shards.
    pub(super) fn learn(&mut self, sighting: Sighting, tell: bool, now: Instant) {
        let before = self.phones.get(sighting.phone).copied();
        let is_old = |seen: Seen| minute(now).saturating_sub(seen.minute) < RENEWED && seen.port == sighting.port;
        if before.is_some_and(is_old) {
            return;
        }
        self.hear(sighting, now);
        if tell && self.untold.len() < KNOWN_PHONES_UNTOLD_MAX {
            self.untold.push_back(sighting);
            self.tell_at.get_or_insert(now + GATHERED);
        }
    }

    /// The same of a phone of another shard.
    pub(super) fn hear(&mut self, sighting: Sighting, now: Instant) {
        let seen = Seen { source: sighting.source, minute: minute(now), port: sighting.port };
        self.sweep(now);
        if self.phones.insert(sighting.phone, seen).is_none() {
            self.order.push_back((sighting.phone, seen.minute));
            let count = self.phones_at(sighting.source);
            self.sources.insert(sighting.source, count + 1);
            if self.phones.len() > KNOWN_PHONES_PER_SHARD_MAX {
                self.evict();
            }
        }
    }

    /// What the other shards are told now.
    pub(super) fn tell(&mut self, now: Instant) -> Vec<Vec<Sighting>> {
        if self.tell_at.is_none_or(|at| at > now) {
            return Vec::new();
        }
        let mut messages = Vec::new();
        while messages.len() < TOLD_PER_STEP && !self.untold.is_empty() {
            let count = self.untold.len().min(TOLD_AT_ONCE);
            messages.push(self.untold.drain(..count).collect());
        }
        self.tell_at = (!self.untold.is_empty()).then(|| now + GATHERED);
        if self.untold.is_empty() {
            self.untold.shrink_to(TOLD_AT_ONCE);
        }
        messages
    }

    pub(super) fn next_deadline(&self) -> Option<Instant> {
        self.tell_at
    }

    /// A few of the oldest are looked at: who was there since goes to the end, who was not for a week goes.
    fn sweep(&mut self, now: Instant) {
        for _ in 0..SWEPT {
            let Some((key, then)) = self.order.front().copied() else { return };
            let last = self.phones.get(key).map_or(0, |seen| seen.minute);
            if last > then {
                self.order.push_back((key, last));
            } else if minute(now).saturating_sub(last) > KEPT {
                self.forget(key);
            } else {
                return;
            }
            self.order.pop_front();
        }
    }

    fn evict(&mut self) {
        if let Some((key, _)) = self.order.pop_front() {
            self.forget(key);
            self.evicted += 1;
        }
    }

    fn forget(&mut self, key: u64) {
        let Some(seen) = self.phones.remove(key) else { return };
        match self.phones_at(seen.source) {
            0 | 1 => {
                self.sources.remove(seen.source);
            }
            count => {
                self.sources.insert(seen.source, count - 1);
            }
        }
    }
}

/// A phone by its name, whether there is one of that name or not.
pub(super) fn of_phone(secret: &HashKey, tenant: &str, user: &str) -> u64 {
    secret.hash(&[b"phone", tenant.as_bytes(), user.as_bytes()])
}

pub(super) fn of_source(secret: &HashKey, source: SocketAddr) -> u64 {
    secret.hash(&[b"source", &source_bits(source.ip()).to_be_bytes()])
}

fn place(secret: &HashKey, source: SocketAddr, phone: u64) -> u64 {
    secret.hash(&[b"known", &source_bits(source.ip()).to_be_bytes(), &phone.to_be_bytes()])
}

fn minute(now: Instant) -> u32 {
    u32::try_from(now.millis() / 60_000).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine::fixture::SECRET;

    const MINUTE: Duration = Duration::from_secs(60);
    const START: Instant = Instant::from_millis(1_000_000);

    fn source(n: u32, port: u16) -> SocketAddr {
        SocketAddr::new(std::net::Ipv4Addr::from_bits(n).into(), port)
    }

    fn sighting(n: u32, port: u16, phone: u64) -> Sighting {
        Sighting::new(&SECRET, source(n, port), false, phone)
    }

    #[test]
    fn a_phone_is_known_where_it_was_in_the_last_week() {
        let mut known = Known::default();
        known.learn(sighting(1, 5060, 7), false, START);
        let look = |known: &Known, source, phone, now| known.look(&SECRET, source, phone, now);
        assert_eq!(look(&known, source(1, 5060), 7, START), Familiar::Flow);
        assert_eq!(look(&known, source(1, 5061), 7, START), Familiar::Address);
        assert_eq!(look(&known, source(2, 5060), 7, START), Familiar::No);
        assert_eq!(look(&known, source(1, 5060), 8, START), Familiar::No);
        let week = START + MINUTE * KEPT;
        assert_eq!(look(&known, source(1, 5060), 7, week), Familiar::Flow);
        assert_eq!(look(&known, source(1, 5060), 7, week + MINUTE), Familiar::No);
        assert_eq!(known.phones_at(of_source(&SECRET, source(1, 1))), 1);
        // The next one sweeps it away.
        known.learn(sighting(2, 5060, 9), false, week + MINUTE);
        assert_eq!((known.len(), known.phones_at(of_source(&SECRET, source(1, 1)))), (1, 0));
    }

    #[test]
    fn who_comes_again_and_again_is_kept_and_told_once_an_hour() {
        let mut known = Known::default();
        let (mut now, mut told) = (START, 0);
        for _ in 0..20 * 24 * 10 {
            known.learn(sighting(1, 5060, 7), true, now);
            now = now + MINUTE * 6;
            told += known.tell(now).iter().map(Vec::len).sum::<usize>();
        }
        assert_eq!((told, known.len(), known.order.len()), (20 * 24, 1, 1));
        assert_eq!(known.look(&SECRET, source(1, 5060), 7, now), Familiar::Flow);
    }

    #[test]
    fn what_is_told_makes_the_other_shard_know_as_much() {
        let (mut known, mut other) = (Known::default(), Known::default());
        for phone in 0..3_000 {
            known.learn(sighting(1, 5060, phone), true, START);
        }
        let mut now = START;
        let mut steps = 0;
        while let Some(at) = known.next_deadline() {
            assert!(known.tell(now).is_empty(), "not before it is due");
            now = at;
            let messages = known.tell(now);
            assert!(messages.len() <= TOLD_PER_STEP);
            messages.into_iter().flatten().for_each(|sighting| other.hear(sighting, now));
            steps += 1;
        }
        assert_eq!((steps, other.len()), (3, 3_000));
        assert_eq!(other.phones_at(of_source(&SECRET, source(1, 1))), 3_000);
        assert_eq!(other.next_deadline(), None, "what was told is not told on");
    }

    #[test]
    fn a_full_table_forgets_the_oldest() {
        let mut known = Known::default();
        let max = KNOWN_PHONES_PER_SHARD_MAX as u32;
        for n in 0..max + 10 {
            known.hear(sighting(n, 5060, 1), START + MINUTE * (2 * n / (max / 100)));
        }
        assert_eq!((known.len(), known.order.len(), known.sources.len()), (max as usize, max as usize, max as usize));
        assert_eq!(known.evicted, 10);
        assert_eq!(known.look(&SECRET, source(0, 5060), 1, START), Familiar::No);
        assert_eq!(known.look(&SECRET, source(max, 5060), 1, START), Familiar::Flow);
    }

    #[test]
    fn a_connection_is_no_flow_that_a_datagram_could_name() {
        let mut known = Known::default();
        known.learn(Sighting::new(&SECRET, source(1, 5060), true, 7), false, START);
        assert_eq!(known.look(&SECRET, source(1, 5060), 7, START), Familiar::Address);
    }
}
