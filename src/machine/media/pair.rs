//! The record of one pair: a fixed set of plain fields, blank while no call has it.

use std::net::IpAddr;
use std::net::SocketAddr;

use serde::Deserialize;
use serde::Serialize;

use crate::base::id::CallId;
use crate::base::time::Instant;
use crate::machine::media::announcement::Player;
use crate::machine::media::bounds::Unheard;
use crate::machine::media::command::Clocks;
use crate::machine::media::command::Expectation;
use crate::machine::media::command::Owner;
use crate::machine::media::command::PairId;
use crate::machine::media::command::PayloadTypes;
use crate::machine::media::command::Ssrcs;
use crate::machine::media::events::Events;
use crate::machine::media::latch::FOLLOW_SILENCE_MIN;
use crate::machine::media::latch::FORMER_RETURN_MIN;
use crate::machine::media::latch::FORMER_TIME_MAX;
use crate::machine::media::latch::Latch;
use crate::machine::media::latch::Place;
use crate::machine::media::latch::REOPEN_SILENCE_MIN;
use crate::machine::media::latch::Rank;
use crate::machine::media::quality::Report;
use crate::machine::media::quality::RoundTrip;
use crate::machine::media::quality::Stream;
use crate::machine::media::quality::Tail;
use crate::machine::media::trial::Terms;
use crate::wire::link::Symmetric;
use crate::wire::rtp::Header;
use crate::wire::tape::record::Untaped;

// In the order of C: what each packet touches lies together at the beginning, in as few lines of the cache as it takes. The sender's
// packet reads the first line and those of the stream, the receiver's pair answers with the first two.
#[repr(C, align(64))]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pair {
    pub latch: Latch,
    pub bridged_to: Option<PairId>,
    /// Socket of the RTP port: connected to the latched source. Only of an open pair.
    pub connected: bool,
    pub(super) sends: bool,
    pub(super) receives: bool,
    /// Sends whatever the directions say, until the next expectation.
    pub(super) permitted: bool,
    /// Nothing came from where RTP goes, and it is not where the party signals from.
    pub(super) is_unheard: bool,
    /// `also` is there.
    pub(super) has_copy: bool,
    /// `recording` is there.
    pub(super) is_recorded: bool,
    /// The player plays: the party hears us and not the other party.
    pub(super) is_told: bool,
    /// Where the party gets RTP.
    pub(super) to: Option<SocketAddr>,
    pub(super) packets_sent: u64,
    pub(super) bytes_sent: u64,
    /// Payload types of telephone events that are told.
    pub(super) events: Events,
    pub stream: Stream,
    /// `None`: out of use.
    pub owner: Option<Owner>,
    pub(super) watched: bool,
    pub(super) told_silent: bool,
    pub(super) told_one_way: bool,
    pub(super) was_one_way: bool,
    pub(super) rtcp_at: Instant,
    /// Since when packets have been due: the last change of who may send, or of the bridge.
    pub(super) promised_at: Instant,
    /// What the party is told, or is to be told when it can hear.
    pub(super) player: Option<Player>,
    /// Where a copy goes, if nothing tells which of the two the party reads.
    pub(super) also: Option<SocketAddr>,
    /// A recording is on, and not paused: what does not go to the tape is counted.
    pub(super) recording: Option<CallId>,
    /// Packets go to the tape as this call's.
    pub(super) tape: Option<CallId>,
    pub(super) taped: u64,
    pub(super) is_ipv6: bool,
    pub(super) mux: bool,
    pub(super) secure: bool,
    pub(super) place: Place,
    /// Where the party gets RTP before it was heard.
    pub(super) rtp_first: Option<SocketAddr>,
    pub(super) symmetric: Symmetric,
    pub(super) unheard: Unheard,
    /// Where the party signals from, and from where else something came last.
    pub(super) signalling: Option<IpAddr>,
    pub(super) sign_from: Option<IpAddr>,
    /// Media may go where it likes.
    pub(super) is_free: bool,
    /// Latched before the last description that named another place.
    pub(super) former: Option<Former>,
    /// Latched before the stream went on from elsewhere: it may come back.
    pub(super) home: Option<SocketAddr>,
    /// Another address from which the stream seems to go on, and the sequence number that would confirm it.
    pub(super) follower: Option<(SocketAddr, u16)>,
    /// The end of the stream that a party of an earlier call sent here.
    pub(super) ghost: Option<Tail>,
    pub(super) payload_types: PayloadTypes,
    pub(super) ssrcs: Ssrcs,
    pub(super) rtcp_place: Place,
    pub(super) rtcp_first: Option<SocketAddr>,
    pub(super) rtcp_source: Option<SocketAddr>,
    pub(super) rtcp_ssrc: u32,
    pub(super) clocks: Clocks,
    pub round_trip: RoundTrip,
    pub(super) rtcp_packets: u64,
    pub(super) rtcp_packets_sent: u64,
    pub(super) relatches: u32,
    pub(super) strangers: u64,
    pub(super) untaped: Untaped,
    /// Packets of the stream that were missing when the recording began or went on.
    pub(super) lost_before_tape: u64,
}

/// Where a party was heard before it moved.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Former {
    source: SocketAddr,
    since: Instant,
    /// It was the place that the party described. If not, the party sends from elsewhere than where it receives, and may go on so.
    was_described: bool,
}

/// Who a packet of a source that is not the latched one may be from, before it is asked who vouches for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Past {
    No,
    /// The source of before: it is heard, and not believed.
    Heard,
    /// It has had its time.
    Over,
}

/// Room that the record of a pair needs in the state memory, whatever its values: three places and their IPv6 addresses more
/// than one would need, because a party that moves has been elsewhere.
pub const RECORD_BYTES_MAX: usize = 1_024;

impl Pair {
    /// SRTP and SRTCP: what is behind the headers is not for us.
    pub fn is_secure(&self) -> bool {
        self.secure
    }

    /// On the RTP port: RTCP by RFC 5761 if multiplexed, else only the types that RTP avoids (RFC 3551 §6: 72 to 76).
    #[inline]
    pub(super) fn takes_for_rtcp(&self, packet: &[u8]) -> bool {
        match packet.get(1) {
            Some(200..=204) => true,
            Some(192..=223) => self.mux,
            _ => false,
        }
    }

    /// Decides where media goes: to be called whenever the latch or the description changed.
    ///
    /// RFC 3264 §5.1 lets a phone send from one port and receive on another, a NAT may show another port than the phone knows,
    /// and both look alike: the described address, another port. Then both get it.
    pub(super) fn aim(&mut self) {
        let Place { described, signalling, .. } = self.place;
        let source = self.latch.source();
        let is_unnamed = self.latch.rank() == Some(Rank::Unnamed) && signalling.is_none();
        (self.to, self.also) = match (self.symmetric, source) {
            (_, None) => (self.rtp_first, None),
            (Symmetric::Never, source) => (described.or(source), None),
            (Symmetric::Always, Some(source)) => (Some(source), None),
            (Symmetric::Auto, Some(source)) => match described {
                Some(at) if at != source && (at.ip() == source.ip() || is_unnamed) => (Some(at), Some(source)),
                _ => (Some(source), None),
            },
        };
        self.has_copy = self.also.is_some();
        self.is_unheard = self.to.is_some_and(|to| !self.knows(to.ip()));
    }

    /// The party, or somebody who wants its media, is at this address.
    pub(super) fn knows(&self, address: IpAddr) -> bool {
        let heard = [self.latch.source(), self.rtcp_source].into_iter().flatten().any(|source| source.ip() == address);
        self.is_free || heard || self.signalling == Some(address) || self.sign_from == Some(address)
    }

    /// Something came that shows so much and no more.
    pub(super) fn sign_from(&mut self, address: IpAddr) {
        let is_named = [self.to, self.rtcp_first].into_iter().flatten().any(|to| to.ip() == address);
        if is_named && !self.knows(address) {
            self.sign_from = Some(address);
            self.aim();
        }
    }

    pub(super) fn rtcp_destination(&self) -> Option<SocketAddr> {
        if self.mux {
            return self.to;
        }
        let is_where_it_said = self.symmetric == Symmetric::Never || self.also.is_some();
        if let Some(described) = self.rtcp_first.filter(|_| is_where_it_said) {
            return Some(described);
        }
        // Behind a NAT the RTCP port is not known before RTCP came from it: a guess could hit somebody else.
        let guessed = matches!(self.latch.rank(), Some(Rank::Signalling));
        self.rtcp_source.or_else(|| self.rtcp_first.filter(|_| !guessed))
    }

    /// To be called whenever the player began, paused or went.
    pub(super) fn note_player(&mut self) {
        self.is_told = self.player.as_ref().is_some_and(Player::is_playing);
    }

    pub(super) fn record_for(&mut self, recording: Option<CallId>) {
        self.recording = recording;
        self.is_recorded = recording.is_some();
    }

    /// Takes a description over; true if the party is to be learned anew.
    pub(super) fn expect(
        &mut self,
        expectation: &Expectation,
        rtp: Option<SocketAddr>,
        rtcp: Option<SocketAddr>,
        now: Instant,
    ) -> bool {
        let usable = |address: Option<SocketAddr>| address.filter(|address| address.is_ipv6() == self.is_ipv6);
        // Held the older way, the party stays where it was.
        let (rtp, rtcp) = match expectation.rtp {
            Some(_) => (usable(rtp), usable(rtcp)),
            None => (self.place.described, self.rtcp_place.described),
        };
        let place = |described: Option<SocketAddr>| Place {
            described,
            signalling: Some(expectation.signalling)
                .filter(|&ip| described.is_none_or(|described| described.ip() != ip)),
            anybody: expectation.anybody,
        };
        self.signalling = Some(expectation.signalling);
        let (before, rtcp_before) = (self.place, self.rtcp_place);
        (self.place, self.rtcp_place) = (place(rtp), place(rtcp));
        let moved = self.latch == Latch::Closed || before.described != self.place.described;
        let is_silent = now.since(self.stream.last_at) >= REOPEN_SILENCE_MIN;
        let reopened = !moved && (is_silent || before != self.place);
        self.rtp_first = match expectation.symmetric {
            Symmetric::Never => self.place.described,
            Symmetric::Auto | Symmetric::Always => usable(self.place.first_destination()),
        };
        self.rtcp_first = usable(self.rtcp_place.first_destination());
        self.mux = expectation.mux;
        self.secure = expectation.secure;
        if self.clocks != expectation.clocks {
            self.stream.forget_clock();
        }
        self.clocks = expectation.clocks;
        (self.payload_types, self.ssrcs) = (expectation.payload_types, expectation.ssrcs);
        self.symmetric = expectation.symmetric;
        if self.sends != expectation.sends || moved {
            self.promised_at = now;
        }
        self.sends = expectation.sends;
        self.receives = expectation.receives;
        self.permitted = false;
        if moved {
            let former = |source| Former { source, since: now, was_described: before.described == Some(source) };
            self.former = self.latch.source().map(former);
            self.latch = Latch::Learning;
            (self.home, self.follower) = (None, None);
        } else if reopened {
            self.latch.reopen();
        }
        if moved || reopened || rtcp_before != self.rtcp_place {
            self.rtcp_source = None;
        }
        self.aim();
        moved || reopened
    }

    /// RFC 3264 §8.3.1 has a party that moved receive at both places for a while; what is still on the way from the old one is
    /// heard, and after that it is anybody's.
    pub(super) fn is_from_the_past(&self, source: SocketAddr, ssrc: Option<u32>, now: Instant) -> Past {
        let is_described = self.place.described == Some(source);
        let is_present = self.latch.source() == Some(source);
        let Some(former) = self.former.filter(|former| former.source == source && !is_described && !is_present) else {
            return Past::No;
        };
        let gone = now.since(former.since);
        let is_replaced = self.latch.source().is_some();
        match is_replaced {
            _ if gone < FORMER_TIME_MAX && (!is_replaced || ssrc == Some(self.stream.ssrc)) => Past::Heard,
            false if gone >= FORMER_RETURN_MIN || !former.was_described => Past::No,
            _ => Past::Over,
        }
    }

    /// An ended call's phone that was not told, or does not listen: its stream goes on. What comes from the described address
    /// is the party's, whatever it looks like.
    pub(super) fn is_haunted_by(&self, source: SocketAddr, header: &Header, now: Instant) -> bool {
        let is_party = self.latch.source() == Some(source) || self.place.described == Some(source);
        !is_party && self.ghost.is_some_and(|ghost| ghost.goes_on(header, now))
    }

    /// What is left of the pair when its call is over.
    pub(super) fn ghost_of(&self) -> Option<Tail> {
        self.stream.tail().or(self.ghost)
    }

    /// Until the source of before has had its time, the kernel must let it in, and whoever may outrank the latched one always.
    pub(super) fn may_connect(&self, now: Instant) -> bool {
        let Some(source) = self.latch.source() else { return false };
        let is_awaited = self.former.is_some_and(|former| now.since(former.since) < FORMER_TIME_MAX);
        // In a pause single packets come, and the party may be elsewhere when it speaks again.
        let is_steady = self.stream.packets == 0 || now.since(self.stream.last_at) < FOLLOW_SILENCE_MIN;
        self.latch.is_settled() && self.place.is_best(source) && self.home.is_none() && !is_awaited && is_steady
    }

    pub(super) fn terms(&self, source: SocketAddr, header: &Header) -> Terms {
        let is_reported = self.rtcp_place.described.is_some() && self.rtcp_source == self.rtcp_place.described;
        Terms {
            is_negotiated: self.payload_types.has(header.payload_type),
            is_declared: self.ssrcs.has(header.ssrc) || is_reported && self.rtcp_ssrc == header.ssrc,
            clock: self.clocks.rate(header.payload_type),
            keeps_port: self.place.described.is_some_and(|at| at.port() == source.port()),
        }
    }

    /// The latched source fell silent, and its stream goes on with this packet.
    pub(super) fn has_moved(&self, header: &Header, now: Instant) -> bool {
        now.since(self.stream.last_at) >= FOLLOW_SILENCE_MIN && self.stream.continues(header)
    }

    /// The latched source fell silent, and its stream goes on from elsewhere: a NAT forgot it, or a phone changed its network.
    /// Another address takes one packet more, and gives way as soon as the old one is heard again.
    pub(super) fn follows(&mut self, source: SocketAddr, header: &Header, now: Instant) -> bool {
        let Some(latched) = self.latch.source() else { return false };
        if self.home == Some(source) && header.ssrc == self.stream.ssrc {
            self.home = None;
            self.latch.relatch(source);
            return true;
        }
        if !self.has_moved(header, now) {
            return false;
        }
        let next = header.sequence.wrapping_add(1);
        if latched.ip() != source.ip() && self.follower != Some((source, header.sequence)) {
            self.follower = Some((source, next));
            return false;
        }
        self.follower = None;
        self.home.get_or_insert(latched);
        self.latch.relatch(source);
        true
    }

    /// Believes RTCP from where it latched; before, from where RTP comes from or was described.
    pub(super) fn takes_rtcp_from(&mut self, source: SocketAddr, ssrc: u32, now: Instant) -> bool {
        if self.rtcp_source != Some(source) {
            let is_described = self.latch != Latch::Closed && self.rtcp_place.described == Some(source);
            let vouched = match self.latch.source() {
                Some(rtp) => rtp.ip() == source.ip(),
                None => self.latch != Latch::Closed && self.rtcp_place.rank(source).is_some(),
            };
            let continued = ssrc == self.rtcp_ssrc && now.since(self.rtcp_at) >= REOPEN_SILENCE_MIN;
            if !is_described && (!vouched || self.rtcp_source.is_some() && !continued) {
                return false;
            }
            self.rtcp_source = Some(source);
        }
        self.rtcp_ssrc = ssrc;
        true
    }

    /// When the party last gave a sign of life, or was last asked for one.
    pub(super) fn alive_at(&self) -> Instant {
        self.stream.last_at.max(self.rtcp_at).max(self.promised_at)
    }

    pub fn report(&self) -> Report {
        Report {
            packets_sent: self.packets_sent,
            bytes_sent: self.bytes_sent,
            rtcp_packets: self.rtcp_packets,
            rtcp_packets_sent: self.rtcp_packets_sent,
            relatches: self.relatches,
            strangers: self.strangers,
            one_way: self.was_one_way,
            taped: self.taped,
            untaped: self.untaped,
            ..Report::of(&self.stream, &self.round_trip)
        }
    }
}
