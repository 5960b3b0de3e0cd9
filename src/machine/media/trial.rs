//! Several sources that are vouched for alike send to one pair: which is the party?
//!
//! While the latch learns, each is judged by what it sends. A phone sends what was negotiated, as one stream in the pace of its
//! clock; who sends to many ports does not.

use std::net::SocketAddr;
use std::time::Duration;

use serde::Deserialize;
use serde::Serialize;

use crate::base::time::Instant;
use crate::machine::media::latch::Rank;
use crate::wire::rtp::Header;

/// Sources of one pair that are compared; of more, the one that was silent for longest is forgotten.
const CANDIDATES_MAX: usize = 4;
/// Packets in order that make a stream.
const STREAM_PACKETS_MIN: u8 = 3;
/// How far timestamps may run ahead of the clock or behind it.
const PACE_ERROR_MAX: Duration = Duration::from_millis(250);

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Trial {
    candidates: Vec<Candidate>,
}

/// What a pair knows of the party, to judge a packet by.
#[derive(Clone, Copy, Debug)]
pub struct Terms {
    /// Its payload type was negotiated.
    pub is_negotiated: bool,
    /// Its SSRC was described, or reported by the described RTCP address.
    pub is_declared: bool,
    /// Clock rate of the payload type.
    pub clock: u32,
    /// A NAT that kept the port would show this source.
    pub keeps_port: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Candidate {
    source: SocketAddr,
    rank: Rank,
    ssrc: u32,
    sequence: u16,
    first: (u32, Instant),
    last_at: Instant,
    in_order: u8,
    merit: Merit,
}

/// The more of these, the better; the first counts most.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
struct Merit {
    is_declared: bool,
    rank: std::cmp::Reverse<Option<Rank>>,
    is_negotiated: bool,
    is_stream: bool,
    is_paced: bool,
    keeps_port: bool,
}

impl Trial {
    /// Notes a packet of a source that is vouched for.
    pub fn hear(&mut self, source: SocketAddr, rank: Rank, header: &Header, terms: Terms, now: Instant) {
        if let Some(known) = self.candidates.iter_mut().find(|candidate| candidate.source == source) {
            return known.hear(header, terms, now);
        }
        if self.candidates.len() >= CANDIDATES_MAX {
            let oldest = (0..CANDIDATES_MAX).min_by_key(|index| self.candidates[*index].last_at);
            self.candidates.swap_remove(oldest.unwrap_or(0));
        }
        self.candidates.push(Candidate::new(source, rank, header, terms, now));
    }

    /// The one of the two that speaks better for itself is the first.
    pub fn is_better(&self, source: SocketAddr, than: SocketAddr) -> bool {
        let merit =
            |source| self.candidates.iter().find(|candidate| candidate.source == source).map(|found| found.merit);
        merit(source) > merit(than)
    }
}

impl Candidate {
    fn new(source: SocketAddr, rank: Rank, header: &Header, terms: Terms, now: Instant) -> Self {
        let first = (header.timestamp, now);
        let (ssrc, sequence, merit) = (header.ssrc, header.sequence, Merit::default());
        let mut new = Self { source, rank, ssrc, sequence, first, last_at: now, in_order: 1, merit };
        new.judge(header, terms, now);
        new
    }

    fn hear(&mut self, header: &Header, terms: Terms, now: Instant) {
        let is_next = header.ssrc == self.ssrc && header.sequence == self.sequence.wrapping_add(1);
        if is_next {
            self.in_order = self.in_order.saturating_add(1);
        } else {
            self.in_order = 1;
            self.first = (header.timestamp, now);
        }
        (self.ssrc, self.sequence, self.last_at) = (header.ssrc, header.sequence, now);
        self.judge(header, terms, now);
    }

    fn judge(&mut self, header: &Header, terms: Terms, now: Instant) {
        let is_stream = self.in_order >= STREAM_PACKETS_MIN;
        self.merit = Merit {
            is_declared: terms.is_declared,
            rank: std::cmp::Reverse(Some(self.rank)),
            is_negotiated: terms.is_negotiated,
            is_stream,
            is_paced: is_stream && self.is_paced(header.timestamp, terms.clock, now),
            keeps_port: terms.keeps_port,
        };
    }

    fn is_paced(&self, timestamp: u32, clock: u32, now: Instant) -> bool {
        let (first, began) = self.first;
        let sent = u64::from(timestamp.wrapping_sub(first)) * 1_000_000;
        let sent = Duration::from_micros(sent / u64::from(clock.max(1)));
        sent.abs_diff(now.since(began)) <= PACE_ERROR_MAX
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TERMS: Terms = Terms { is_negotiated: true, is_declared: false, clock: 8_000, keeps_port: false };

    fn source(port: u16) -> SocketAddr {
        SocketAddr::from(([203, 0, 113, 9], port))
    }

    fn header(ssrc: u32, sequence: u16) -> Header {
        let timestamp = u32::from(sequence) * 160;
        let (padding, marker, payload_type, extension, csrc_count) = (false, false, 0, None, 0);
        Header { padding, marker, payload_type, sequence, timestamp, ssrc, extension, csrc_count, header_len: 12 }
    }

    /// Packets of 20 ms from a port: their sequence numbers, and what is known of them.
    fn hear(trial: &mut Trial, port: u16, sequences: &[u16], terms: Terms) {
        for (index, sequence) in (0u64..).zip(sequences) {
            let now = Instant::from_millis(1_000 + index * 20);
            trial.hear(source(port), Rank::Signalling, &header(u32::from(port), *sequence), terms, now);
        }
    }

    #[test]
    fn what_a_source_sends_speaks_for_it() {
        let better = |left: (&[u16], Terms), right: (&[u16], Terms)| {
            let mut trial = Trial::default();
            hear(&mut trial, 1, left.0, left.1);
            hear(&mut trial, 2, right.0, right.1);
            (trial.is_better(source(1), source(2)), trial.is_better(source(2), source(1)))
        };
        let stream: &[u16] = &[1, 2, 3];
        assert_eq!(better((stream, TERMS), (stream, TERMS)), (false, false));
        // One of several ports that a stream is spread over gets every other packet.
        assert_eq!(better((stream, TERMS), (&[1, 3, 5, 7], TERMS)), (true, false));
        assert_eq!(better((&[1, 2], TERMS), (&[1], TERMS)), (false, false));
        let foreign = Terms { is_negotiated: false, ..TERMS };
        assert_eq!(better((&[1], TERMS), (stream, foreign)), (true, false));
        let declared = Terms { is_declared: true, ..foreign };
        assert_eq!(better((&[1], declared), (stream, TERMS)), (true, false));
        let kept = Terms { keeps_port: true, ..TERMS };
        assert_eq!(better((stream, kept), (stream, TERMS)), (true, false));
        assert_eq!(better((&[1], kept), (stream, TERMS)), (false, true));
    }

    #[test]
    fn a_flood_keeps_no_pace() {
        let mut trial = Trial::default();
        for sequence in 0..20 {
            let (fast, even) = (Instant::from_millis(1_000), Instant::from_millis(1_000 + u64::from(sequence) * 20));
            trial.hear(source(1), Rank::Signalling, &header(1, sequence), TERMS, fast);
            trial.hear(source(2), Rank::Signalling, &header(2, sequence), TERMS, even);
        }
        assert!(trial.is_better(source(2), source(1)));
    }

    #[test]
    fn who_is_vouched_for_better_needs_no_stream() {
        let mut trial = Trial::default();
        hear(&mut trial, 1, &[1, 2, 3, 4], TERMS);
        let now = Instant::from_millis(2_000);
        trial.hear(source(2), Rank::SameAddress, &header(2, 9), TERMS, now);
        assert!(trial.is_better(source(2), source(1)));
    }

    #[test]
    fn there_is_room_for_four() {
        let mut trial = Trial::default();
        for port in 1..100 {
            trial.hear(source(port), Rank::Signalling, &header(1, port), TERMS, Instant::from_millis(u64::from(port)));
        }
        assert_eq!(trial.candidates.len(), CANDIDATES_MAX);
        assert!(trial.is_better(source(99), source(1)), "the oldest was forgotten");
    }
}
