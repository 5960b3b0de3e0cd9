//! Connections that nobody has registered over, by where they come from and by how long they have said nothing: the order in which they
//! give way.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::net::IpAddr;

use crate::base::id::Handle;

/// What counts as one: who has an IPv6 network has all its addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Source {
    V4(u32),
    /// The first 64 bits: a site's network.
    V6(u64),
    /// The first 48 bits: what a provider gives to one customer.
    V6Wide(u64),
}

impl Source {
    pub(super) fn of(address: IpAddr) -> Self {
        match address.to_canonical() {
            IpAddr::V4(address) => Self::V4(address.to_bits()),
            IpAddr::V6(address) => Self::V6((address.to_bits() >> 64) as u64),
        }
    }

    pub(super) fn wide(self) -> Option<Self> {
        match self {
            Self::V4(_) | Self::V6Wide(_) => None,
            Self::V6(bits) => Some(Self::V6Wide(bits >> 16)),
        }
    }
}

/// A place in the order; a new one each time that its connection says something.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Rank(u64);

#[derive(Debug, Default)]
pub(super) struct Strangers {
    next: u64,
    by_silence: BTreeMap<Rank, (Handle, Source)>,
    by_source: BTreeMap<Source, BTreeSet<Rank>>,
}

impl Strangers {
    pub(super) fn enter(&mut self, handle: Handle, source: Source) -> Rank {
        self.next += 1;
        let rank = Rank(self.next);
        self.by_silence.insert(rank, (handle, source));
        for of in std::iter::once(source).chain(source.wide()) {
            self.by_source.entry(of).or_default().insert(rank);
        }
        rank
    }

    pub(super) fn leave(&mut self, rank: Rank) -> Option<(Handle, Source)> {
        let (handle, source) = self.by_silence.remove(&rank)?;
        for of in std::iter::once(source).chain(source.wide()) {
            if let Some(ranks) = self.by_source.get_mut(&of) {
                ranks.remove(&rank);
                if ranks.is_empty() {
                    self.by_source.remove(&of);
                }
            }
        }
        Some((handle, source))
    }

    /// It said something.
    pub(super) fn speak(&mut self, rank: Rank) -> Rank {
        match self.leave(rank) {
            Some((handle, source)) => self.enter(handle, source),
            None => rank,
        }
    }

    pub(super) fn of(&self, source: Source) -> usize {
        self.by_source.get(&source).map_or(0, BTreeSet::len)
    }

    /// Who is silent the longest, of a source or of all.
    pub(super) fn most_silent(&self, of: Option<Source>) -> Option<Handle> {
        let rank = match of {
            Some(source) => self.by_source.get(&source)?.first()?,
            None => self.by_silence.first_key_value()?.0,
        };
        self.by_silence.get(rank).map(|(handle, _)| *handle)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn handle(slot: u32) -> Handle {
        Handle { slot, generation: 0 }
    }

    fn source(address: &str) -> Source {
        Source::of(address.parse().unwrap())
    }

    #[test]
    fn addresses_of_one_network_are_one_source() {
        assert_eq!(source("2001:db8:1:2::1"), source("2001:db8:1:2:ffff::9"));
        assert_ne!(source("2001:db8:1:2::1"), source("2001:db8:1:3::1"));
        assert_eq!(source("2001:db8:1:2::1").wide(), source("2001:db8:1:3::1").wide());
        assert_ne!(source("2001:db8:1:2::1").wide(), source("2001:db8:2:2::1").wide());
        assert_eq!(source("::ffff:192.0.2.1"), source("192.0.2.1"));
        assert_eq!(source("192.0.2.1").wide(), None);
    }

    #[test]
    fn the_most_silent_goes_first() {
        let mut strangers = Strangers::default();
        let (near, far) = (source("2001:db8:1:2::1"), source("2001:db8:1:3::1"));
        let first = strangers.enter(handle(1), near);
        let second = strangers.enter(handle(2), far);
        let third = strangers.enter(handle(3), near);
        assert_eq!((strangers.of(near), strangers.of(near.wide().unwrap())), (2, 3));
        let first = strangers.speak(first);
        assert_eq!(strangers.most_silent(None), Some(handle(2)));
        assert_eq!(strangers.most_silent(Some(near)), Some(handle(3)));
        strangers.leave(third);
        assert_eq!(strangers.most_silent(Some(near)), Some(handle(1)));
        strangers.leave(second);
        strangers.leave(first);
        assert_eq!((strangers.most_silent(None), strangers.by_source.len()), (None, 0));
        assert_eq!(strangers.leave(first), None);
    }
}
