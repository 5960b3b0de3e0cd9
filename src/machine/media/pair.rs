//! The record of one pair: a fixed set of plain fields, blank while no call has it.

use std::net::SocketAddr;

use serde::Deserialize;
use serde::Serialize;

use crate::base::id::CallId;
use crate::base::time::Instant;
use crate::machine::media::announcement::Player;
use crate::machine::media::command::Clocks;
use crate::machine::media::command::Expectation;
use crate::machine::media::command::Owner;
use crate::machine::media::command::PairId;
use crate::machine::media::latch::Latch;
use crate::machine::media::latch::Place;
use crate::machine::media::latch::RELATCH_SILENCE_MIN;
use crate::machine::media::latch::Rank;
use crate::machine::media::quality::Report;
use crate::machine::media::quality::RoundTrip;
use crate::machine::media::quality::Stream;
use crate::wire::rtp::Header;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pair {
    /// `None`: out of use.
    pub owner: Option<Owner>,
    pub latch: Latch,
    /// Socket of the RTP port: connected to the latched source.
    pub connected: bool,
    pub bridged_to: Option<PairId>,
    pub(super) is_ipv6: bool,
    pub(super) mux: bool,
    pub(super) secure: bool,
    pub(super) sends: bool,
    pub(super) receives: bool,
    /// Sends whatever the directions say, until the next expectation.
    pub(super) permitted: bool,
    pub(super) place: Place,
    pub(super) rtp_first: Option<SocketAddr>,
    pub(super) rtcp_place: Place,
    pub(super) rtcp_first: Option<SocketAddr>,
    pub(super) rtcp_source: Option<SocketAddr>,
    pub(super) rtcp_ssrc: u32,
    pub(super) rtcp_at: Instant,
    pub(super) clocks: Clocks,
    pub stream: Stream,
    pub round_trip: RoundTrip,
    pub(super) packets_sent: u64,
    pub(super) bytes_sent: u64,
    pub(super) rtcp_packets: u64,
    pub(super) rtcp_packets_sent: u64,
    pub(super) relatches: u32,
    pub(super) strangers: u64,
    /// Since when packets have been due: the last change of who may send, or of the bridge.
    pub(super) promised_at: Instant,
    pub(super) watched: bool,
    pub(super) told_silent: bool,
    pub(super) told_one_way: bool,
    pub(super) was_one_way: bool,
    /// Packets go to the tape as this call's.
    pub(super) tape: Option<CallId>,
    pub(super) taped: u64,
    /// Payload type of telephone events that are told.
    pub(super) listens_for: Option<u8>,
    /// RTP timestamp and arrival of the last one: its packets repeat the timestamp.
    pub(super) last_event: Option<(u32, Instant)>,
    /// What the party is told, or is to be told when it can hear.
    pub(super) player: Option<Player>,
}

/// Room that the record of a pair needs in the state memory, whatever its values.
pub const RECORD_BYTES_MAX: usize = 640;

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

    #[inline]
    pub(super) fn rtp_destination(&self) -> Option<SocketAddr> {
        self.latch.source().or(self.rtp_first)
    }

    pub(super) fn rtcp_destination(&self) -> Option<SocketAddr> {
        if self.mux {
            return self.rtp_destination();
        }
        // Behind a NAT the RTCP port is not known before RTCP came from it: a guess could hit somebody else.
        let guessed = matches!(self.latch.rank(), Some(Rank::Signalling));
        self.rtcp_source.or_else(|| self.rtcp_first.filter(|_| !guessed))
    }

    /// The party hears us and not the other party.
    #[inline]
    pub(super) fn is_told(&self) -> bool {
        self.player.as_ref().is_some_and(Player::is_playing)
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
        };
        let new = (place(rtp), place(rtcp));
        let moved = self.latch == Latch::Closed || new != (self.place, self.rtcp_place);
        (self.place, self.rtcp_place) = new;
        self.rtp_first = usable(self.place.first_destination());
        self.rtcp_first = usable(self.rtcp_place.first_destination());
        self.mux = expectation.mux;
        self.secure = expectation.secure;
        if self.clocks != expectation.clocks {
            self.stream.forget_clock();
        }
        self.clocks = expectation.clocks;
        if self.sends != expectation.sends || moved {
            self.promised_at = now;
        }
        self.sends = expectation.sends;
        self.receives = expectation.receives;
        self.permitted = false;
        let reopened = !moved && now.since(self.stream.last_at) >= RELATCH_SILENCE_MIN;
        if moved {
            self.latch = Latch::Learning;
        } else if reopened {
            self.latch.reopen();
        }
        if moved || reopened {
            self.rtcp_source = None;
        }
        moved || reopened
    }

    /// The latched source fell silent, and its stream goes on from another port of the same address: a NAT forgot it.
    pub(super) fn is_continued_by(&self, source: SocketAddr, header: &Header, now: Instant) -> bool {
        let same_address = self.latch.source().is_some_and(|latched| latched.ip() == source.ip());
        same_address && now.since(self.stream.last_at) >= RELATCH_SILENCE_MIN && self.stream.continues(header)
    }

    /// Believes RTCP from where it latched; before, from where RTP comes from or was described.
    pub(super) fn takes_rtcp_from(&mut self, source: SocketAddr, ssrc: u32, now: Instant) -> bool {
        if self.rtcp_source != Some(source) {
            let vouched = match self.latch.source() {
                Some(rtp) => rtp.ip() == source.ip() || self.rtcp_place.described == Some(source),
                None => self.latch != Latch::Closed && self.rtcp_place.rank(source).is_some(),
            };
            let continued = ssrc == self.rtcp_ssrc && now.since(self.rtcp_at) >= RELATCH_SILENCE_MIN;
            if !vouched || self.rtcp_source.is_some() && !continued {
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
            ..Report::of(&self.stream, &self.round_trip)
        }
    }
}
