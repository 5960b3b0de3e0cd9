//! What is known of how a stream arrived: RFC 3550 A.1, A.3 and A.8 for RTP, its §6.4 for round-trip times.
//!
//! Counted at our port: what was lost or late on the way to us. What the parties report in RTCP is kept beside it.

use std::time::Duration;

use serde::Deserialize;
use serde::Serialize;

use crate::base::time::Instant;
use crate::wire::rtcp::ReportBlock;
use crate::wire::rtp::Header;
use crate::wire::tape::record::Untaped;

/// RFC 3550 A.1.
const MAX_DROPOUT: u16 = 3_000;
const MAX_MISORDER: u16 = 100;
/// Numbers back from the newest that are remembered; the recording's count of the same stream remembers as many.
const WINDOW: u64 = 1_024;
/// Ticks back from the newest packet that a late one's timestamp lies at most: ten seconds of 48,000.
const LATE_TICKS_MAX: u32 = 480_000;
/// Numbers back from the newest of which the timestamp is known.
const TIMESTAMPS: u16 = 32;
/// A stream that goes on has no timestamp farther ahead than this.
const TIMELINE_JUMP_MAX: u32 = 10;
/// How far a stream's timestamps may be off the clock after a pause, beside a thousandth of it.
const TIMELINE_ERROR_MAX: Duration = Duration::from_secs(2);
/// Sender reports remembered per receiver until a report refers to them.
const SENDER_REPORTS_MAX: usize = 4;
/// A longer round trip is a fault of the reporter's clock.
const ROUND_TRIP_MAX: Duration = Duration::from_secs(10);

/// What arrived from one party on one pair, over all its SSRCs.
// In the order of C, like the pair that it is part of.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stream {
    pub packets: u64,
    /// With headers, as on the wire above UDP.
    pub bytes: u64,
    pub last_at: Instant,
    /// The latest number since the last restart, without the wrap.
    newest: u64,
    /// Packets from `first` to `newest`, without duplicates.
    received: u64,
    first_at: Instant,
    pub ssrc: u32,
    clock: u32,
    transit: u32,
    last_timestamp: u32,
    /// Sixteen times the jitter, in timestamp units, and the most that it was with this clock.
    jitter: u32,
    jitter_max: u32,
    /// After a jump or a step back: the number that would confirm it.
    suspect: Option<u16>,
    /// The payload type that `transit` and `jitter` belong to.
    payload_type: u8,
    /// One bit a number, at its last bits: it has arrived.
    seen: [u64; (WINDOW / 64) as usize],
    /// Of the newest numbers, each at its last bits.
    timestamps: [u32; TIMESTAMPS as usize],
    pub reordered: u64,
    pub duplicates: u64,
    /// Times the party went on with another SSRC.
    pub ssrc_changes: u32,
    /// Jumps of the sequence number that began a new count.
    pub restarts: u32,
    /// The earliest number since the last restart.
    first: u64,
    /// Lost before `first`.
    lost_before: u64,
    /// The most that the jitter was with other clocks.
    jitter_max_before: Duration,
}

/// The end of a stream: by this its next packet is recognised.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tail {
    ssrc: u32,
    sequence: u16,
    timestamp: u32,
    clock: u32,
    at: Instant,
}

impl Tail {
    /// A packet of the same stream, also after a long pause: by its number, or by the clock.
    pub fn goes_on(&self, header: &Header, now: Instant) -> bool {
        let ahead = header.sequence.wrapping_sub(self.sequence);
        let sent = u64::from(header.timestamp.wrapping_sub(self.timestamp)) * 1_000_000;
        let sent = Duration::from_micros(sent / u64::from(self.clock.max(1)));
        let passed = now.since(self.at);
        let is_near = !(MAX_DROPOUT..=u16::MAX - MAX_MISORDER).contains(&ahead);
        header.ssrc == self.ssrc && (is_near || sent.abs_diff(passed) <= TIMELINE_ERROR_MAX + passed / 1_000)
    }
}

impl Stream {
    /// True if sequence number and timestamp go on from the last within what a network can lose.
    pub fn continues(&self, header: &Header) -> bool {
        let ahead = header.sequence.wrapping_sub(self.newest as u16);
        let later = header.timestamp.wrapping_sub(self.newest_timestamp());
        let is_next = (1..MAX_DROPOUT).contains(&ahead) && later <= TIMELINE_JUMP_MAX.saturating_mul(self.clock);
        self.packets > 0 && header.ssrc == self.ssrc && is_next
    }

    /// `None`: nothing came.
    pub fn tail(&self) -> Option<Tail> {
        let (ssrc, sequence, timestamp) = (self.ssrc, self.newest as u16, self.newest_timestamp());
        (self.packets > 0).then_some(Tail { ssrc, sequence, timestamp, clock: self.clock, at: self.last_at })
    }

    fn newest_timestamp(&self) -> u32 {
        self.timestamps[usize::from(self.newest as u16 % TIMESTAMPS)]
    }

    #[inline]
    pub fn on_packet(&mut self, header: &Header, len: usize, rate: impl FnOnce(u8) -> u32, now: Instant) {
        if self.packets == 0 {
            self.first_at = now;
            self.restart(header);
        } else if header.ssrc != self.ssrc {
            self.ssrc_changes = self.ssrc_changes.saturating_add(1);
            self.restart(header);
        } else {
            self.on_sequence(header);
        }
        self.packets += 1;
        self.bytes += len as u64;
        self.last_at = now;
        if header.payload_type != self.payload_type || self.clock == 0 {
            self.payload_type = header.payload_type;
            let rate = rate(header.payload_type);
            // Telephone events have a type of their own but the clock of the audio: one measure goes on.
            if rate != self.clock {
                self.note_jitter_max();
                let scaled = u64::from(self.jitter) * u64::from(rate);
                self.jitter = scaled.checked_div(u64::from(self.clock)).unwrap_or(0) as u32;
                self.clock = rate;
                self.transit = self.arrival(now).wrapping_sub(header.timestamp);
                self.last_timestamp = header.timestamp;
            }
        }
        self.on_timestamp(header, now);
    }

    /// A new description may give a payload type another clock.
    pub(crate) fn forget_clock(&mut self) {
        self.note_jitter_max();
        self.clock = 0;
        self.jitter = 0;
    }

    fn restart(&mut self, header: &Header) {
        self.lost_before += self.lost_since_first();
        self.ssrc = header.ssrc;
        // Room for what was sent before the first packet that came.
        self.first = u64::from(header.sequence) + (1 << 32);
        self.newest = self.first;
        self.received = 1;
        self.suspect = None;
        self.seen = Default::default();
        self.mark(self.newest);
        self.note_timestamp(header);
        self.forget_clock();
    }

    #[inline]
    fn note_timestamp(&mut self, header: &Header) {
        self.timestamps[usize::from(header.sequence % TIMESTAMPS)] = header.timestamp;
    }

    /// RFC 3550 A.1, `update_seq`, without probation; what was seen tells duplicates from late packets.
    fn on_sequence(&mut self, header: &Header) {
        let ahead = header.sequence.wrapping_sub(self.newest as u16);
        let behind = u64::from(ahead.wrapping_neg());
        if (1..MAX_DROPOUT).contains(&ahead) {
            self.go_on(ahead);
            self.note_timestamp(header);
        } else if behind < WINDOW {
            self.on_late(behind, header);
        } else {
            self.on_jump(header);
        }
    }

    #[inline]
    fn go_on(&mut self, ahead: u16) {
        let newest = self.newest + u64::from(ahead);
        if u64::from(ahead) > WINDOW {
            self.seen = Default::default();
        } else {
            (self.newest + 1..newest).for_each(|passed| self.clear(passed));
        }
        self.newest = newest;
        self.mark(newest);
        self.received += 1;
        self.suspect = None;
    }

    /// "the sequence number made a very large jump": believed if the next packet confirms it. A step back is one, too.
    fn on_jump(&mut self, header: &Header) {
        if self.suspect == Some(header.sequence) {
            self.restarts = self.restarts.saturating_add(1);
            self.restart(header);
        } else {
            self.suspect = Some(header.sequence.wrapping_add(1));
        }
    }

    /// What was sent before the newest packet has an earlier timestamp, and a copy has the one of its first.
    fn on_late(&mut self, behind: u64, header: &Header) {
        let number = self.newest - behind;
        let ticks = self.newest_timestamp().wrapping_sub(header.timestamp);
        let is_kept = behind < u64::from(TIMESTAMPS);
        let is_seen = self.is_seen(number);
        let is_other =
            is_seen && is_kept && self.timestamps[usize::from(header.sequence % TIMESTAMPS)] != header.timestamp;
        let is_too_early = number + u64::from(MAX_MISORDER) < self.first;
        if ticks > LATE_TICKS_MAX || is_other || is_too_early {
            self.on_jump(header);
        } else if is_seen {
            self.duplicates += 1;
        } else {
            self.mark(number);
            self.first = self.first.min(number);
            self.reordered += 1;
            self.received += 1;
            if is_kept {
                self.note_timestamp(header);
            }
        }
    }

    const fn place(number: u64) -> (usize, u64) {
        ((number % WINDOW / 64) as usize, 1 << (number % 64))
    }

    #[inline]
    fn mark(&mut self, number: u64) {
        let (word, bit) = Self::place(number);
        self.seen[word] |= bit;
    }

    fn clear(&mut self, number: u64) {
        let (word, bit) = Self::place(number);
        self.seen[word] &= !bit;
    }

    fn is_seen(&self, number: u64) -> bool {
        let (word, bit) = Self::place(number);
        self.seen[word] & bit != 0
    }

    /// RFC 3550 A.8: "s->jitter += d - ((s->jitter + 8) >> 4)".
    fn on_timestamp(&mut self, header: &Header, now: Instant) {
        let transit = self.arrival(now).wrapping_sub(header.timestamp);
        // The packets of one frame (a key press, a picture) share a timestamp and say nothing of the network.
        if self.received > 1 && header.timestamp != self.last_timestamp {
            let difference = (transit.wrapping_sub(self.transit) as i32).unsigned_abs();
            // More than ten seconds: the sender began a new time line.
            if difference < self.clock.saturating_mul(10) {
                self.jitter = self.jitter.saturating_add(difference) - (self.jitter.saturating_add(8) >> 4);
                self.jitter_max = self.jitter_max.max(self.jitter);
            }
        }
        self.transit = transit;
        self.last_timestamp = header.timestamp;
    }

    /// Arrival in timestamp units since the first packet.
    fn arrival(&self, now: Instant) -> u32 {
        let micros = now.nanos().saturating_sub(self.first_at.nanos()) / 1_000;
        (micros.wrapping_mul(u64::from(self.clock)) / 1_000_000) as u32
    }

    pub fn jitter(&self) -> Duration {
        self.time_of(self.jitter)
    }

    pub fn jitter_max(&self) -> Duration {
        self.jitter_max_before.max(self.time_of(self.jitter_max))
    }

    /// To be called while the clock is still that of the jitter.
    fn note_jitter_max(&mut self) {
        self.jitter_max_before = self.jitter_max();
        self.jitter_max = 0;
    }

    fn time_of(&self, jitter: u32) -> Duration {
        let micros = u64::from(jitter >> 4) * 1_000_000;
        Duration::from_micros(micros.checked_div(u64::from(self.clock)).unwrap_or(0))
    }

    /// RFC 3550 A.3: expected minus received; late packets count as received.
    pub fn lost(&self) -> u64 {
        self.lost_before + self.lost_since_first()
    }

    fn lost_since_first(&self) -> u64 {
        if self.packets == 0 {
            return 0;
        }
        (self.newest - self.first + 1).saturating_sub(self.received)
    }
}

/// What RTCP says about one leg.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RoundTrip {
    /// Sender reports that left for this party: middle 32 bits of their NTP time, and when.
    sent: [(u32, Instant); SENDER_REPORTS_MAX],
    next: u8,
    pub count: u32,
    pub last: Duration,
    pub max: Duration,
    sum: Duration,
    /// From the party's latest report about what we send it.
    pub reported_fraction_lost: u8,
    pub reported_lost: i32,
    pub reported_jitter: u32,
}

impl RoundTrip {
    /// A sender report leaves for the party.
    pub fn on_sender_report(&mut self, ntp_middle: u32, now: Instant) {
        let entry = &mut self.sent[usize::from(self.next) % SENDER_REPORTS_MAX];
        *entry = (ntp_middle, now);
        self.next = (self.next + 1) % SENDER_REPORTS_MAX as u8;
    }

    /// RFC 3550 §6.4.1: "Source SSRC_n can compute the round-trip propagation delay to SSRC_r by recording the time A when
    /// this reception report block is received", A - LSR - DLSR; for us, LSR left at a time that we know.
    pub fn on_report(&mut self, block: &ReportBlock, now: Instant) {
        self.reported_fraction_lost = block.fraction_lost;
        self.reported_lost = block.lost;
        self.reported_jitter = block.jitter;
        let sent = self.sent.iter().find(|(middle, at)| *middle == block.last_sender_report && *at != Instant::ZERO);
        let Some((_, left_at)) = sent.filter(|_| block.last_sender_report != 0) else { return };
        let held = (u64::from(block.delay_since_last_sender_report) * 1_000_000_000) >> 16;
        let Some(round_trip) = now.since(*left_at).checked_sub(Duration::from_nanos(held)) else { return };
        if round_trip > ROUND_TRIP_MAX {
            return;
        }
        self.count = self.count.saturating_add(1);
        self.last = round_trip;
        self.max = self.max.max(round_trip);
        self.sum += round_trip;
    }

    pub fn mean(&self) -> Option<Duration> {
        self.sum.checked_div(self.count)
    }
}

/// One party's stream at the end, for the records.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// From the party.
    pub packets: u64,
    pub bytes: u64,
    pub lost: u64,
    pub reordered: u64,
    pub duplicates: u64,
    pub ssrc_changes: u32,
    pub jitter: Duration,
    pub jitter_max: Duration,
    /// To the party.
    pub packets_sent: u64,
    pub bytes_sent: u64,
    pub rtcp_packets: u64,
    pub rtcp_packets_sent: u64,
    /// `None`: no report that refers to a sender report came.
    pub round_trip: Option<Duration>,
    pub round_trip_max: Option<Duration>,
    /// As the party itself reported what reached it.
    pub reported_fraction_lost: u8,
    pub reported_lost: i32,
    pub relatches: u32,
    /// Packets of others at this pair.
    pub strangers: u64,
    /// It was not heard while the other party was.
    pub one_way: bool,
    /// Packets from the party that went to the tape, and those of the same time that did not.
    pub taped: u64,
    pub untaped: Untaped,
}

impl Report {
    pub(crate) fn of(stream: &Stream, round_trip: &RoundTrip) -> Self {
        Self {
            packets: stream.packets,
            bytes: stream.bytes,
            lost: stream.lost(),
            reordered: stream.reordered,
            duplicates: stream.duplicates,
            ssrc_changes: stream.ssrc_changes,
            jitter: stream.jitter(),
            jitter_max: stream.jitter_max(),
            round_trip: round_trip.mean(),
            round_trip_max: round_trip.mean().map(|_| round_trip.max),
            reported_fraction_lost: round_trip.reported_fraction_lost,
            reported_lost: round_trip.reported_lost,
            ..Self::default()
        }
    }
}

#[cfg(test)]
mod tests;
