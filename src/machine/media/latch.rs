//! Latching: from which address a party's media is taken, and to which it is sent.
//!
//! The description names an address, a NAT may put another in its place, and anybody on the Internet may send to our port.
//! So: learning is a state with an end, only addresses that the description or the signalling vouch for are learned, the
//! described address itself is always believed, and whoever else has latched stays until a new description or a proof of
//! continuity. RTP carries no more proof than that.

use std::net::IpAddr;
use std::net::SocketAddr;
use std::time::Duration;

use serde::Deserialize;
use serde::Serialize;

use crate::base::time::Instant;

/// How long a source that is not the described one may still be replaced by one that speaks better for itself.
pub const LEARNING_TIME_MAX: Duration = Duration::from_secs(3);
/// A source must have been silent for so long before its stream may go on from another one.
pub const FOLLOW_SILENCE_MIN: Duration = Duration::from_millis(100);
/// After so much silence a description that says nothing new opens the latch.
pub const REOPEN_SILENCE_MIN: Duration = Duration::from_secs(2);
/// How long the source of before is still heard after a description that names another place.
pub const FORMER_TIME_MAX: Duration = Duration::from_millis(500);
/// It may be the party after all if nobody else was heard for so long.
pub const FORMER_RETURN_MIN: Duration = Duration::from_secs(5);

/// Who vouches for a source; the earlier, the better.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Rank {
    /// The described address and port.
    Exact,
    /// The described address, another port.
    SameAddress,
    /// The address the party's signalling comes from, which is not the described one: it is behind a NAT.
    Signalling,
    /// Nobody; the configuration allows it.
    Unnamed,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Latch {
    /// No description yet: nobody is believed.
    #[default]
    Closed,
    /// The first valid packet of a source with a rank latches.
    Learning,
    /// Latched, but a better source may take over.
    Tentative {
        source: SocketAddr,
        rank: Rank,
        until: Instant,
    },
    Latched {
        source: SocketAddr,
        rank: Rank,
    },
    /// A new description said the same place, but the latched source was silent: its NAT may have forgotten it (a long
    /// hold). Media still goes there until somebody vouched for is heard.
    Reopened {
        source: SocketAddr,
        rank: Rank,
    },
}

/// What a packet's source is to a latch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// The latched source.
    Known,
    /// The latch took this source: first, or a better one.
    Took { before: Option<SocketAddr>, rank: Rank },
    /// Vouched for like the latched one, which is on trial: the caller compares them.
    Rival { rank: Rank },
    /// Not to be believed.
    Stranger,
}

impl Latch {
    #[inline]
    pub fn source(&self) -> Option<SocketAddr> {
        match *self {
            Self::Closed | Self::Learning => None,
            Self::Tentative { source, .. } | Self::Latched { source, .. } | Self::Reopened { source, .. } => {
                Some(source)
            }
        }
    }

    pub fn rank(&self) -> Option<Rank> {
        match *self {
            Self::Closed | Self::Learning => None,
            Self::Tentative { rank, .. } | Self::Latched { rank, .. } | Self::Reopened { rank, .. } => Some(rank),
        }
    }

    /// Learning has ended: only the described address, a new description or continuity moves it.
    pub fn is_settled(&self) -> bool {
        matches!(self, Self::Latched { .. })
    }

    /// `rank` is asked only where it matters.
    pub fn step(&mut self, source: SocketAddr, rank: impl FnOnce() -> Option<Rank>, now: Instant) -> Step {
        let before = self.source();
        if before == Some(source) {
            self.settle(source, now);
            return Step::Known;
        }
        if *self == Self::Closed {
            return Step::Stranger;
        }
        let Some(rank) = rank() else { return Step::Stranger };
        match *self {
            // Nothing that was learned outweighs what the party said.
            _ if rank == Rank::Exact => self.take(source, rank, now),
            Self::Learning | Self::Reopened { .. } => self.take(source, rank, now),
            Self::Tentative { until, .. } if now < until => Step::Rival { rank },
            Self::Closed | Self::Tentative { .. } | Self::Latched { .. } => Step::Stranger,
        }
    }

    fn settle(&mut self, source: SocketAddr, now: Instant) {
        match *self {
            Self::Tentative { until, .. } if now < until => {}
            Self::Tentative { rank, .. } | Self::Reopened { rank, .. } => *self = Self::Latched { source, rank },
            Self::Closed | Self::Learning | Self::Latched { .. } => {}
        }
    }

    /// Believes a source; what was learned before it is learned anew, with the time that is left.
    pub fn take(&mut self, source: SocketAddr, rank: Rank, now: Instant) -> Step {
        let before = self.source();
        let until = match *self {
            Self::Tentative { until, .. } => until,
            _ => now + LEARNING_TIME_MAX,
        };
        *self = match rank {
            Rank::Exact => Self::Latched { source, rank },
            Rank::SameAddress | Rank::Signalling | Rank::Unnamed => Self::Tentative { source, rank, until },
        };
        Step::Took { before, rank }
    }

    /// The same stream goes on from elsewhere: the caller has seen the proof.
    pub fn relatch(&mut self, to: SocketAddr) {
        if let Some(rank) = self.rank() {
            *self = Self::Latched { source: to, rank };
        }
    }

    /// The source on trial is no party.
    pub fn revoke(&mut self, source: SocketAddr) -> bool {
        let is_on_trial = matches!(*self, Self::Tentative { source: latched, .. } if latched == source);
        if is_on_trial {
            *self = Self::Learning;
        }
        is_on_trial
    }

    /// A description arrived that names the same place, and the latched source is silent.
    pub fn reopen(&mut self) {
        if let (Some(source), Some(rank)) = (self.source(), self.rank()) {
            *self = Self::Reopened { source, rank };
        }
    }
}

/// Where a party says it is, checked against what may be sent to at all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Place {
    pub described: Option<SocketAddr>,
    /// The signalling's address, if it is not the described one.
    pub signalling: Option<IpAddr>,
    /// Any source is believed where nobody better is heard.
    pub anybody: bool,
}

impl Place {
    pub fn rank(&self, source: SocketAddr) -> Option<Rank> {
        match self.described {
            Some(described) if described == source => Some(Rank::Exact),
            Some(described) if described.ip() == source.ip() => Some(Rank::SameAddress),
            _ if self.signalling == Some(source.ip()) => Some(Rank::Signalling),
            _ => self.anybody.then_some(Rank::Unnamed),
        }
    }

    /// Where media goes before anybody has latched: the described address, or, if that can only be an inside address of a
    /// NAT, the outside one with the same port.
    pub fn first_destination(&self) -> Option<SocketAddr> {
        let described = self.described?;
        Some(self.outside().map_or(described, |outside| SocketAddr::new(outside, described.port())))
    }

    /// The described address means nothing to us: the NAT in front of it.
    fn outside(&self) -> Option<IpAddr> {
        self.signalling.filter(|outside| self.described.is_some_and(|at| is_inside(at.ip())) && !is_inside(*outside))
    }

    /// Nobody better than this source can come, so that the kernel may drop all others.
    pub fn is_best(&self, source: SocketAddr) -> bool {
        self.described == Some(source) || self.outside() == Some(source.ip())
    }
}

/// Addresses that mean nothing outside their network: RFC 1918, 6598, 3927, 4193, 4291.
fn is_inside(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => {
            let shared = address.octets()[0] == 100 && address.octets()[1] & 0xC0 == 64;
            address.is_private() || address.is_link_local() || address.is_loopback() || shared
        }
        IpAddr::V6(address) => address.is_unique_local() || address.is_unicast_link_local() || address.is_loopback(),
    }
}
