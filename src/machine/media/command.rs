//! What a call tells the relay, and what it hears back. All plain values: they are kept with the state of their sender.

use std::net::IpAddr;
use std::net::SocketAddr;

use serde::Deserialize;
use serde::Serialize;

use crate::base::id::CallId;
use crate::base::id::Handle;
use crate::base::limit::SDP_SSRCS_MAX;
use crate::base::time::Instant;
use crate::machine::media::announcement::Voice;
use crate::machine::media::latch::Rank;
use crate::machine::media::quality::Report;
use crate::wire::link::Symmetric;
use crate::wire::sdp::facts::Format;
use crate::wire::sdp::facts::MediaFacts;
use crate::wire::tape::record::Untaped;

/// An RTP port and its RTCP port, numbered as the keeper dealt them to the shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct PairId(pub u32);

impl PairId {
    pub const fn of_slot(slot: u32) -> Self {
        Self(slot >> 1)
    }

    pub const fn rtp_slot(self) -> u32 {
        self.0 << 1
    }

    pub const fn rtcp_slot(self) -> u32 {
        self.0 << 1 | 1
    }
}

/// Whose pair it is; the relay only carries it back in notices.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Owner {
    pub call: Handle,
    /// The call's number for the leg or branch.
    pub leg: u8,
    /// Index of the m-line.
    pub media: u8,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum MediaCommand {
    /// Takes a pair into use; `local` is the address of its RTP socket. Nothing is accepted or sent yet.
    Open {
        pair: PairId,
        owner: Owner,
        local: SocketAddr,
    },
    /// The party's description arrived: where it is, and what it may do. Given again after each offer and answer.
    Expect {
        pair: PairId,
        expectation: Expectation,
    },
    /// The other party offered to receive what this one's direction does not let through: it goes through until the answer, which is
    /// told by [`Self::Expect`], or until the offer is refused.
    Permit {
        pair: PairId,
        on: bool,
    },
    /// Packets of `a` go to `b` and back; either's earlier bridge ends (its other pair goes on latching and counting).
    Bridge {
        a: PairId,
        b: PairId,
    },
    Unbridge {
        pair: PairId,
    },
    /// From the answer on: silence where packets were promised is told.
    Watch {
        pair: PairId,
        on: bool,
    },
    /// Packets of the party go to the tape, or no longer do.
    Tape {
        pair: PairId,
        switch: TapeSwitch,
    },
    /// Telephone events of these payload types (RFC 4733) are told.
    Listen {
        pair: PairId,
        events: PayloadTypes,
    },
    /// The party is told that it is recorded, as soon as it can hear; what the other one says meanwhile does not reach it. Given
    /// again it changes what was negotiated, and `None` ends it. Answered by [`Notice::Announced`].
    Announce {
        pair: PairId,
        voice: Option<Voice>,
    },
    /// Forgets all about the pair; answered by [`Notice::Closed`].
    Close {
        pair: PairId,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum TapeSwitch {
    On(CallId),
    /// Counts go on when it is on again.
    Paused,
    /// Answered by [`Notice::Taped`]; counts begin anew.
    Off,
}

/// The packet just decided about belongs on the tape.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fork {
    pub call: CallId,
    pub leg: u8,
    /// Index of the m-line.
    pub media: u8,
}

/// What one party's description promises for one stream, together with what the other party's allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Expectation {
    /// `None`: held the older way or given by name. An address known from before stays.
    pub rtp: Option<SocketAddr>,
    pub rtcp: Option<SocketAddr>,
    /// Source address of the party's signalling: differs from `rtp` behind a NAT.
    pub signalling: IpAddr,
    /// Both sides agreed on RFC 5761.
    pub mux: bool,
    /// SRTP: only the clear parts are read.
    pub secure: bool,
    /// The party will send RTP, wants to receive RTP.
    pub sends: bool,
    pub receives: bool,
    pub clocks: Clocks,
    /// What either party named.
    pub payload_types: PayloadTypes,
    pub ssrcs: Ssrcs,
    pub symmetric: Symmetric,
    /// Media is taken from any address where nobody better is heard.
    pub anybody: bool,
}

impl Expectation {
    /// `party` is the description of the one on this pair, `other` that of the party it talks to, once known.
    pub fn new(party: &MediaFacts, other: Option<&MediaFacts>, signalling: IpAddr) -> Self {
        Self {
            rtp: party.rtp,
            rtcp: party.rtcp,
            signalling,
            mux: party.rtcp_mux && other.is_some_and(|other| other.rtcp_mux),
            secure: party.profile.is_secure(),
            sends: party.sends() && other.is_none_or(MediaFacts::receives),
            receives: party.receives() && other.is_none_or(MediaFacts::sends),
            clocks: Clocks::of(sent_formats(party, other)),
            payload_types: sent_formats(party, other).map(|format| format.payload_type).collect(),
            ssrcs: Ssrcs::of(&party.ssrcs),
            symmetric: Symmetric::Auto,
            anybody: false,
        }
    }
}

/// What a party's payload types mean, the likelier first. RFC 3264 §5.1: it sends by the numbers of the other's description;
/// some phones use their own.
pub fn sent_formats<'a>(party: &'a MediaFacts, other: Option<&'a MediaFacts>) -> impl Iterator<Item = &'a Format> {
    let named = other.map_or(&[][..], |other| &other.formats);
    let is_new = |format: &&Format| named.iter().all(|known| known.payload_type != format.payload_type);
    named.iter().chain(party.formats.iter().filter(is_new))
}

/// Clock rates by payload type, those that are not 8,000 Hz.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Clocks([(u8, u32); Self::MAX]);

impl Clocks {
    const MAX: usize = 8;
    const RATE_MAX: u32 = 1_000_000;
    pub const DEFAULT: u32 = 8_000;

    pub fn of<'a>(formats: impl Iterator<Item = &'a Format>) -> Self {
        let mut clocks = Self::default();
        let others = formats.filter(|format| format.clock != Self::DEFAULT);
        for (entry, format) in clocks.0.iter_mut().zip(others) {
            *entry = (format.payload_type, format.clock.min(Self::RATE_MAX));
        }
        clocks
    }

    pub fn rate(&self, payload_type: u8) -> u32 {
        let found = self.0.iter().find(|(known, rate)| *known == payload_type && *rate != 0);
        found.map_or(Self::DEFAULT, |(_, rate)| *rate)
    }
}

/// A set of RTP payload types.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PayloadTypes(u128);

impl PayloadTypes {
    #[inline]
    pub fn has(self, payload_type: u8) -> bool {
        self.0 >> (payload_type & 0x7F) & 1 == 1
    }

    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    pub fn with(self, others: Self) -> Self {
        Self(self.0 | others.0)
    }
}

impl FromIterator<u8> for PayloadTypes {
    fn from_iter<T: IntoIterator<Item = u8>>(payload_types: T) -> Self {
        Self(payload_types.into_iter().fold(0, |set, payload_type| set | 1 << (payload_type & 0x7F)))
    }
}

/// SSRCs that a party said it uses (RFC 5576 §4.1): the first few.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ssrcs([Option<u32>; SDP_SSRCS_MAX]);

impl Ssrcs {
    pub fn of(described: &[u32]) -> Self {
        let mut ssrcs = Self::default();
        ssrcs.0.iter_mut().zip(described).for_each(|(place, ssrc)| *place = Some(*ssrc));
        ssrcs
    }

    pub fn has(&self, ssrc: u32) -> bool {
        self.0.contains(&Some(ssrc))
    }
}

/// To the owner of a pair.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct MediaNotice {
    pub pair: PairId,
    pub owner: Owner,
    pub notice: Notice,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Notice {
    /// The first valid packet of the party: media flows from here on.
    Latched {
        source: SocketAddr,
        rank: Rank,
    },
    /// The party goes on from another address.
    Relatched {
        from: SocketAddr,
        to: SocketAddr,
    },
    /// Packets were promised and none came, RTCP neither, since then.
    Silent {
        since: Instant,
    },
    /// This party is not heard while the one it talks to is.
    OneWay {
        since: Instant,
    },
    /// It is heard again, or has nothing to send.
    OneWayOver,
    Closed {
        report: Box<Report>,
    },
    /// How many packets went to the tape since it was switched on, and how many did not.
    Taped {
        frames: u64,
        untaped: Untaped,
    },
    /// The announcement is over: all of it was sent, or not.
    Announced {
        played: bool,
    },
    /// A key was pressed: one of 0123456789*#ABCD.
    Digit {
        digit: char,
    },
}

/// To the shard, about the sockets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum SocketCommand {
    /// Throw away what the socket holds, then receive.
    Open {
        slot: u32,
    },
    /// Let the kernel drop all others.
    Connect {
        slot: u32,
        peer: SocketAddr,
    },
    Disconnect {
        slot: u32,
    },
    /// From here on what the kernel loses at this socket is counted for a recording.
    CountLost {
        slot: u32,
    },
    /// It no longer is: what was lost is the recording's.
    TellLost {
        slot: u32,
        recording: Fork,
    },
    /// Out of use: disconnected, nothing received is of interest.
    Close {
        slot: u32,
    },
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum MediaOutput {
    Notice(MediaNotice),
    Socket(SocketCommand),
    /// A packet of our own.
    Packet {
        slot: u32,
        to: SocketAddr,
        bytes: Vec<u8>,
    },
}
