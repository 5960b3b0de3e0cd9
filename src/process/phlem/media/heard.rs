//! What one leg hears, frame by frame: which came, which did not, which came twice, late, out of order or from another call.

use std::time::Duration;

use crate::base::time::Instant;
use crate::process::phlem::figures::Media;
use crate::process::phlem::media::frame::Found;
use crate::process::phlem::media::frame::Side;
use crate::process::phlem::media::frame::Stamp;
use crate::process::phlem::media::frame::Time;
use crate::process::phlem::media::ledger::LegEnd;
use crate::wire::g711::quality;

/// Frames back from the newest that are told apart; what is older still counts as having been there: 2.5 s.
const WINDOW: u32 = u128::BITS;

#[derive(Clone, Debug)]
pub(super) struct Heard {
    /// 0 until a frame has said it.
    pub(super) call: u64,
    /// Who is to be heard; after a transfer whoever is first heard.
    side: Option<Side>,
    one_clock: bool,
    lowest: u32,
    highest: u32,
    /// Bit n: the frame n before the highest came. 0: none came at all.
    window: u128,
    received: u64,
    lost: u64,
    gaps: u64,
    late: u64,
    /// By clocks that may differ.
    fastest: Option<i64>,
    last_transit: Option<i64>,
    jitter: f64,
    round_trip: Option<u64>,
    /// The newest time that the other side said, and when.
    pub(super) newest: Option<(Stamp, Instant)>,
}

impl Heard {
    pub(super) const fn new(call: u64, side: Option<Side>, one_clock: bool) -> Self {
        Self {
            call,
            side,
            one_clock,
            lowest: 0,
            highest: 0,
            window: 0,
            received: 0,
            lost: 0,
            gaps: 0,
            late: 0,
            fastest: None,
            last_transit: None,
            jitter: 0.0,
            round_trip: None,
            newest: None,
        }
    }

    /// Frames that are missing between others.
    pub(super) const fn lost(&self) -> u64 {
        self.lost
    }

    /// True for a frame that is this leg's to hear and had not come before.
    pub(super) fn handle(&mut self, found: Found, arrival: Instant, media: &mut Media) -> bool {
        let mark = found.mark;
        let is_other_call = self.call != 0 && mark.call != 0 && mark.call != self.call;
        if self.side.is_some_and(|side| mark.side != side) || is_other_call {
            media.wrong_call += 1;
            return false;
        }
        if self.call == 0 {
            self.call = mark.call;
        }
        self.side = Some(mark.side);
        if found.is_damaged {
            media.damaged += 1;
        }
        if !self.place(mark.number, media) {
            media.doubled += 1;
            return false;
        }
        self.received += 1;
        media.received += 1;
        match mark.time {
            Time::Sent(stamp) => self.on_sent(stamp, arrival, media),
            Time::Echo(stamp) => {
                let nanos = Stamp::at(arrival).nanos_since(stamp).max(0).cast_unsigned();
                media.round_trip.record(nanos);
                self.round_trip = Some(self.round_trip.map_or(nanos, |least| least.min(nanos)));
            }
        }
        true
    }

    /// False: it came before.
    fn place(&mut self, number: u32, media: &mut Media) -> bool {
        if self.window == 0 {
            (self.lowest, self.highest, self.window) = (number, number, 1);
            media.missed_at_start += u64::from(number);
            return true;
        }
        if number > self.highest {
            let steps = number - self.highest;
            if steps > 1 {
                self.gaps += 1;
                self.lost += u64::from(steps - 1);
                media.lost += u64::from(steps - 1);
            }
            self.window = self.window.checked_shl(steps).unwrap_or(0) | 1;
            self.highest = number;
            return true;
        }
        let bit = 1u128.checked_shl(self.highest - number).unwrap_or(0);
        if self.highest - number >= WINDOW || self.window & bit != 0 {
            return false;
        }
        self.window |= bit;
        media.reordered += 1;
        let missing = if number > self.lowest { &mut media.lost } else { &mut media.missed_at_start };
        *missing = missing.saturating_sub(1);
        if number > self.lowest {
            self.lost = self.lost.saturating_sub(1);
        } else {
            // Those between it and what was the lowest are missing after all.
            let between = u64::from(self.lowest - number - 1);
            media.missed_at_start = media.missed_at_start.saturating_sub(between);
            media.lost += between;
            self.lost += between;
            self.lowest = number;
        }
        true
    }

    fn on_sent(&mut self, stamp: Stamp, arrival: Instant, media: &mut Media) {
        let transit = Stamp::at(arrival).nanos_since(stamp);
        let fastest = self.fastest.map_or(transit, |fastest| fastest.min(transit));
        self.fastest = Some(fastest);
        if self.one_clock {
            media.one_way.record(transit.max(0).cast_unsigned());
        }
        if transit - fastest > nanos(quality::PLAYOUT) {
            self.late += 1;
            media.late += 1;
        }
        // RFC 3550 §6.4.1: J(i) = J(i-1) + (|D(i-1,i)| - J(i-1))/16
        if let Some(last) = self.last_transit {
            self.jitter += ((transit - last).abs() as f64 - self.jitter) / 16.0;
        }
        self.last_transit = Some(transit);
        self.newest = Some((stamp, arrival));
    }

    /// The leg ends, or another is to be heard on it.
    pub(super) fn finish(&self, media: &mut Media) -> LegEnd {
        if self.received > 0 {
            media.jitter.record(self.jitter as u64);
        }
        LegEnd {
            call: self.call,
            received: self.received,
            lost: self.lost,
            gaps: self.gaps,
            late: self.late,
            delay: self.delay().map(|delay| delay.as_nanos() as u64),
            ..LegEnd::default()
        }
    }

    /// One way; unknown without one clock for both ends or an echo.
    fn delay(&self) -> Option<Duration> {
        if self.one_clock {
            return self.fastest.map(|nanos| Duration::from_nanos(nanos.max(0).cast_unsigned()));
        }
        self.round_trip.map(|nanos| Duration::from_nanos(nanos / 2))
    }
}

const fn nanos(duration: Duration) -> i64 {
    duration.as_nanos() as i64
}
