//! The shard's pairs of ports: dealt once by the keeper, given to calls and taken back.
//!
//! First freed, first reused, and none before its quarantine is over, so that late packets of one call never meet the
//! next. What does not fit is refused and counted; so is what would be more than its call's phone and tenant may have, of which there
//! is a fair share for each.

use std::collections::VecDeque;
use std::net::IpAddr;
use std::net::SocketAddr;
use std::time::Duration;

use serde::Deserialize;
use serde::Serialize;

use crate::base::limit::PAIRS_PER_SHARD_MAX;
use crate::base::random::Random;
use crate::base::time::Instant;
use crate::machine::admission::OfPhone;
use crate::machine::admission::Owner;
use crate::machine::admission::Shares;
use crate::machine::media::command::PairId;

/// Longer than a phone goes on sending after BYE.
pub const QUARANTINE: Duration = Duration::from_secs(3);
/// Pairs of a phone's calls.
const OF_PHONE: OfPhone = OfPhone { least: 64, most: u64::MAX };

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Family {
    Ipv4,
    Ipv6,
}

impl Family {
    pub fn of(address: IpAddr) -> Self {
        if address.is_ipv4() { Self::Ipv4 } else { Self::Ipv6 }
    }
}

/// The two sockets of a pair as the keeper bound them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pair {
    /// Index into [`Settings::interfaces`](crate::machine::settings::Settings::interfaces).
    pub interface: u8,
    pub rtp: SocketAddr,
    pub rtcp: SocketAddr,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PortError {
    /// All pairs of the interface and family are in use or in quarantine: widen `[media] ports`.
    #[error("ran out of RTP ports")]
    Exhausted,
    /// The phone or tenant has its share of them.
    #[error("used up its share of the RTP ports")]
    Share,
    /// The interface has no address of this family.
    #[error("no media address of this family")]
    NoAddress,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct PortPool {
    pairs: Vec<Pair>,
    /// Whose call has it.
    owners: Vec<Option<Owner>>,
    groups: Vec<Group>,
    /// For whom pairs are taken at the moment, and those that were.
    served: Owner,
    fresh: Vec<PairId>,
    pub counts: PortCounts,
}

/// Pairs of one interface and family.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Group {
    interface: u8,
    family: Family,
    /// Freed last, last: with the time from which a pair may be used again.
    free: VecDeque<(PairId, Instant)>,
    shares: Shares,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortCounts {
    pub total: u32,
    pub in_use: u32,
    pub allocated: u64,
    pub exhausted: u64,
    /// Refused because of a share.
    pub unfair: u64,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PortStates {
    pub in_use: u32,
    /// In quarantine.
    pub resting: u32,
    pub free: u32,
}

impl PortPool {
    /// `pairs` in the order of their slots; what is beyond the limit is left out.
    pub fn new(mut pairs: Vec<Pair>) -> Self {
        pairs.truncate(PAIRS_PER_SHARD_MAX);
        let mut groups: Vec<Group> = Vec::new();
        for (index, pair) in (0..).zip(&pairs) {
            let family = Family::of(pair.rtp.ip());
            let same = |group: &&mut Group| group.interface == pair.interface && group.family == family;
            let entry = (PairId(index), Instant::ZERO);
            match groups.iter_mut().find(same) {
                Some(group) => group.free.push_back(entry),
                None => groups.push(Group {
                    interface: pair.interface,
                    family,
                    free: VecDeque::from([entry]),
                    shares: Shares::new(0, OF_PHONE),
                }),
            }
        }
        for group in &mut groups {
            group.shares = Shares::new(group.free.len() as u64, OF_PHONE);
        }
        let counts = PortCounts { total: pairs.len() as u32, ..PortCounts::default() };
        let (served, fresh) = Default::default();
        Self { owners: vec![None; pairs.len()], pairs, groups, served, fresh, counts }
    }

    /// Gives the pairs out from anywhere on. Phones whose calls ended with another engine may still be sending to those that it
    /// gave out from the first on.
    pub fn begin_anywhere(&mut self, random: &mut Random) {
        for group in &mut self.groups {
            let first = random.below(group.free.len() as u64) as usize;
            group.free.rotate_left(first);
        }
    }

    pub fn allocate(&mut self, interface: u8, family: Family, now: Instant) -> Result<PairId, PortError> {
        let same = |group: &&mut Group| group.interface == interface && group.family == family;
        let Some(group) = self.groups.iter_mut().find(same) else { return Err(PortError::NoAddress) };
        match group.free.front() {
            Some(_) if !group.shares.fits(&self.served, 1) => {
                self.counts.unfair += 1;
                Err(PortError::Share)
            }
            Some(&(pair, from)) if from <= now => {
                group.free.pop_front();
                group.shares.take(&self.served, 1);
                self.owners[pair.0 as usize] = Some(self.served);
                self.fresh.push(pair);
                self.counts.in_use += 1;
                self.counts.allocated += 1;
                Ok(pair)
            }
            _ => {
                self.counts.exhausted += 1;
                Err(PortError::Exhausted)
            }
        }
    }

    /// Freeing twice has no effect.
    pub fn free(&mut self, pair: PairId, now: Instant) {
        let Some(owner) = self.owners.get_mut(pair.0 as usize).and_then(Option::take) else { return };
        self.counts.in_use -= 1;
        let Pair { interface, rtp, .. } = self.pairs[pair.0 as usize];
        let family = Family::of(rtp.ip());
        let group = self.groups.iter_mut().find(|group| group.interface == interface && group.family == family);
        if let Some(group) = group {
            group.shares.give_back(&owner, 1);
            group.free.push_back((pair, now + QUARANTINE));
        }
    }

    /// Pairs are for a call of this phone, until somebody else is served.
    pub fn serve(&mut self, owner: Owner) {
        self.served = owner;
        self.fresh.clear();
    }

    /// What was taken since [`PortPool::serve`] is nobody's: the step that took it failed.
    pub fn undo(&mut self, now: Instant) {
        for pair in std::mem::take(&mut self.fresh) {
            self.free(pair, now);
        }
    }

    /// Pairs that calls of this phone have.
    pub fn of_phone(&self, owner: &Owner) -> u64 {
        self.groups.iter().map(|group| group.shares.of_phone(owner)).sum()
    }

    /// No interface and family has pairs left for the two parties of a call.
    pub fn is_used_up(&self) -> bool {
        !self.groups.is_empty() && self.groups.iter().all(|group| group.free.len() < 2)
    }

    pub fn states(&self, now: Instant) -> PortStates {
        // Freed last, last.
        let free = |group: &Group| group.free.partition_point(|(_, from)| *from <= now) as u32;
        let free = self.groups.iter().map(free).sum();
        let in_use = self.counts.in_use;
        PortStates { in_use, resting: self.counts.total - in_use - free, free }
    }

    pub fn pair(&self, pair: PairId) -> Option<&Pair> {
        self.pairs.get(pair.0 as usize)
    }

    pub fn pairs(&self) -> &[Pair] {
        &self.pairs
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pool(ipv4: u16, ipv6: u16) -> PortPool {
        let pair = |ip: &str, port: u16| {
            let ip = ip.parse().unwrap();
            Pair { interface: 0, rtp: SocketAddr::new(ip, port), rtcp: SocketAddr::new(ip, port + 1) }
        };
        let ipv4 = (0..ipv4).map(|n| pair("192.0.2.1", 16_384 + 2 * n));
        let ipv6 = (0..ipv6).map(|n| pair("2001:db8::1", 16_384 + 2 * n));
        PortPool::new(ipv4.chain(ipv6).collect())
    }

    #[test]
    fn first_freed_is_reused_first_after_its_quarantine() {
        let mut pool = pool(2, 0);
        let start = Instant::from_millis(1_000);
        let first = pool.allocate(0, Family::Ipv4, start).unwrap();
        let second = pool.allocate(0, Family::Ipv4, start).unwrap();
        assert_ne!(first, second);
        assert_eq!(pool.allocate(0, Family::Ipv4, start), Err(PortError::Exhausted));
        pool.free(second, start);
        pool.free(first, start + Duration::from_secs(1));
        pool.free(first, start + Duration::from_secs(1));
        assert_eq!(pool.states(start), PortStates { in_use: 0, resting: 2, free: 0 });
        let almost = start + QUARANTINE - Duration::from_nanos(1);
        assert_eq!(pool.allocate(0, Family::Ipv4, almost), Err(PortError::Exhausted));
        assert_eq!(pool.allocate(0, Family::Ipv4, start + QUARANTINE), Ok(second));
        assert_eq!(pool.allocate(0, Family::Ipv4, start + QUARANTINE), Err(PortError::Exhausted));
        assert_eq!(pool.states(start + QUARANTINE), PortStates { in_use: 1, resting: 1, free: 0 });
        let rested = start + QUARANTINE + Duration::from_secs(1);
        assert_eq!(pool.states(rested), PortStates { in_use: 1, resting: 0, free: 1 });
        assert_eq!(pool.allocate(0, Family::Ipv4, start + QUARANTINE + Duration::from_secs(1)), Ok(first));
        assert_eq!(pool.counts, PortCounts { total: 2, in_use: 2, allocated: 4, exhausted: 3, unfair: 0 });
    }

    #[test]
    fn every_life_begins_somewhere_else() {
        let firsts: std::collections::BTreeSet<_> = (0..20)
            .map(|seed| {
                let mut pool = pool(100, 1);
                pool.begin_anywhere(&mut Random::new(seed));
                let pairs: std::collections::BTreeSet<_> =
                    (0..100).map(|_| pool.allocate(0, Family::Ipv4, Instant::ZERO).unwrap()).collect();
                assert_eq!(pairs.len(), 100);
                pool = self::pool(100, 1);
                pool.begin_anywhere(&mut Random::new(seed));
                pool.allocate(0, Family::Ipv4, Instant::ZERO).unwrap()
            })
            .collect();
        assert!(firsts.len() > 10, "{firsts:?}");
    }

    #[test]
    fn one_tenant_leaves_pairs_for_others() {
        use crate::machine::admission::Standing;
        let mut pool = pool(1_000, 0);
        let now = Instant::from_millis(1_000);
        let owner = |tenant, phone| Owner { tenant, phone, standing: Standing::OneOfMany };
        let mut taken = Vec::new();
        for phone in 1..=100 {
            pool.serve(owner(1, phone));
            taken.extend(std::iter::from_fn(|| pool.allocate(0, Family::Ipv4, now).ok()));
        }
        assert_eq!(taken.len(), 750);
        assert_eq!(pool.of_phone(&owner(1, 1)), 250);
        pool.serve(owner(2, 1_000));
        assert!((0..60).all(|_| pool.allocate(0, Family::Ipv4, now).is_ok()));
        pool.undo(now);
        assert_eq!((pool.of_phone(&owner(2, 1_000)), pool.counts.in_use), (0, 750), "a step that failed took none");
        taken.into_iter().for_each(|pair| pool.free(pair, now));
        assert!(pool.groups[0].shares.is_whole() && pool.counts.in_use == 0);
        assert!(pool.counts.unfair >= 100 && pool.counts.exhausted == 0);
    }

    #[test]
    fn families_and_interfaces_are_apart() {
        let mut pool = pool(1, 1);
        let now = Instant::ZERO;
        let six = pool.allocate(0, Family::Ipv6, now).unwrap();
        assert!(pool.pair(six).unwrap().rtp.is_ipv6());
        assert_eq!(pool.allocate(0, Family::Ipv6, now), Err(PortError::Exhausted));
        assert_eq!(pool.allocate(1, Family::Ipv4, now), Err(PortError::NoAddress));
        assert!(pool.allocate(0, Family::Ipv4, now).is_ok());
    }
}
