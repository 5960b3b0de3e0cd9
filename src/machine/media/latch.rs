//! Latching: from which address a party's media is taken, and to which it is sent.
//!
//! The description names an address, a NAT may put another in its place, and anybody on the Internet may send to our port.
//! So: learning is a state with an end, only addresses that the description or the signalling vouch for are learned, and
//! whoever has latched stays until a new description or a proof of continuity. RTP carries no more proof than that.

use std::net::IpAddr;
use std::net::SocketAddr;
use std::time::Duration;

use serde::Deserialize;
use serde::Serialize;

use crate::base::time::Instant;

/// After the first packet of a source that is not exactly the described one, a better one may still take over for so long
/// or so many packets.
pub const LEARNING_TIME_MAX: Duration = Duration::from_secs(3);
pub const LEARNING_PACKETS_MAX: u8 = 5;
/// A latched source must have been silent for so long before another port of the same address may continue its stream.
pub const RELATCH_SILENCE_MIN: Duration = Duration::from_secs(2);
/// Farthest jump ahead of the sequence number that counts as "goes on" (RFC 3550 A.1, MAX_DROPOUT).
pub const RELATCH_SEQUENCE_AHEAD_MAX: u16 = 3_000;

/// Who vouches for a source; the earlier, the better.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Rank {
    /// The described address and port.
    Exact,
    /// The described address, another port.
    SameAddress,
    /// The address the party's signalling comes from, which is not the described one: it is behind a NAT.
    Signalling,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Latch {
    /// No description yet: nobody is believed.
    #[default]
    Closed,
    /// The first valid packet of a source with a rank latches.
    Learning,
    /// Latched, but a source of a better rank may take over.
    Tentative {
        source: SocketAddr,
        rank: Rank,
        until: Instant,
        packets: u8,
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

    /// Learning has ended: only a new description or continuity moves it.
    pub fn is_settled(&self) -> bool {
        matches!(self, Self::Latched { .. })
    }

    /// `rank` is asked only where it matters.
    pub fn step(&mut self, source: SocketAddr, rank: impl FnOnce() -> Option<Rank>, now: Instant) -> Step {
        match *self {
            Self::Closed => Step::Stranger,
            Self::Latched { source: latched, .. } => {
                if latched == source {
                    Step::Known
                } else {
                    Step::Stranger
                }
            }
            Self::Reopened { source: latched, rank } if latched == source => {
                *self = Self::Latched { source, rank };
                Step::Known
            }
            Self::Reopened { source: latched, .. } => match rank() {
                Some(rank) => self.take(source, rank, Some(latched), now),
                None => Step::Stranger,
            },
            Self::Learning => match rank() {
                Some(rank) => self.take(source, rank, None, now),
                None => Step::Stranger,
            },
            Self::Tentative { source: latched, rank: latched_rank, until, packets } => {
                let ended = now >= until || packets == 0;
                if latched == source {
                    *self = if ended {
                        Self::Latched { source, rank: latched_rank }
                    } else {
                        Self::Tentative { source, rank: latched_rank, until, packets: packets - 1 }
                    };
                    return Step::Known;
                }
                match rank() {
                    Some(rank) if rank < latched_rank && !ended => self.take(source, rank, Some(latched), now),
                    _ => Step::Stranger,
                }
            }
        }
    }

    fn take(&mut self, source: SocketAddr, rank: Rank, before: Option<SocketAddr>, now: Instant) -> Step {
        *self = match rank {
            Rank::Exact => Self::Latched { source, rank },
            Rank::SameAddress | Rank::Signalling => {
                Self::Tentative { source, rank, until: now + LEARNING_TIME_MAX, packets: LEARNING_PACKETS_MAX - 1 }
            }
        };
        Step::Took { before, rank }
    }

    /// The same stream goes on from another port: the caller has seen the proof.
    pub fn relatch(&mut self, to: SocketAddr) {
        if let Some(rank) = self.rank() {
            *self = Self::Latched { source: to, rank };
        }
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
}

impl Place {
    pub fn rank(&self, source: SocketAddr) -> Option<Rank> {
        match self.described {
            Some(described) if described == source => Some(Rank::Exact),
            Some(described) if described.ip() == source.ip() => Some(Rank::SameAddress),
            _ if self.signalling == Some(source.ip()) => Some(Rank::Signalling),
            _ => None,
        }
    }

    /// Where media goes before anybody has latched: the described address, or, if that can only be an inside address of a
    /// NAT, the outside one with the same port.
    pub fn first_destination(&self) -> Option<SocketAddr> {
        let described = self.described?;
        match self.signalling {
            Some(outside) if is_inside(described.ip()) && !is_inside(outside) => {
                Some(SocketAddr::new(outside, described.port()))
            }
            _ => Some(described),
        }
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
