//! One stream's clock: where its RTP timestamps lie on the timeline, held to the clock of arrivals.
//!
//! The least delay within a window stands for the sender's clock; where it moves away by more than the dead band, single samples
//! bring it back. What no clock does (jumps, stops) is anchored anew at its arrival.

use std::collections::VecDeque;
use std::time::Duration;

use crate::base::time::Instant;
use crate::machine::recording::codec::Codec;
use crate::machine::recording::sequence::Sequence;

const WINDOW: Duration = Duration::from_secs(10);
/// Of a second: deviation of the least delay that is left alone, 2.5 ms.
const DEAD_BAND: i64 = 400;
/// Corrections that packets which were sent before them must not share: those of the latest packets' three seconds.
const CORRECTIONS_MAX: usize = 256;
/// Of a second: timestamps that run ahead of time by more within one step, 500 ms, are a jump.
const AHEAD: i64 = 2;
/// Of a second: delay beyond the usual, 200 ms, that is a jump if it stays.
const LATE: i64 = 5;
const LATE_STAYS: Duration = Duration::from_millis(500);
const LATE_PACKETS: u32 = 5;
/// Seconds of delay that no network has.
const LATE_SECONDS_MAX: i64 = 3;
/// Of a second: audio that begins anew this little before the end of what is there, 100 ms, begins behind it.
const BEHIND: i64 = 10;

#[derive(Clone, Debug)]
pub(super) struct Stream {
    pub(super) sequence: Sequence,
    pub(super) heard: Instant,
    clock: Option<Clock>,
}

/// Positions are in samples of the recording.
#[derive(Clone, Debug)]
struct Clock {
    codec: Codec,
    anchor_position: i64,
    anchor_timestamp: i64,
    newest: i64,
    newest_at: i64,
    /// End of the audio that lies furthest.
    end: i64,
    /// Samples that are still to be put in (or taken out, if negative).
    owed: i64,
    /// Timestamps from which on one sample was put in or taken out.
    corrections: VecDeque<(i64, i64)>,
    /// The usual least delay, once it is known.
    usual: Option<i64>,
    window_least: i64,
    window_since: Instant,
    suspect: Option<Suspect>,
}

/// Delay that may be a jump.
#[derive(Clone, Copy, Debug)]
struct Suspect {
    since: Instant,
    least: i64,
    packets: u32,
    /// Position of the first packet that was so late.
    first: i64,
}

/// One audio packet.
#[derive(Clone, Copy, Debug)]
pub(super) struct Arrival {
    pub(super) codec: Codec,
    pub(super) timestamp: u32,
    /// Not sent before another that came already.
    pub(super) is_newest: bool,
    pub(super) at: Instant,
    /// The same in samples of the recording.
    pub(super) position: i64,
    pub(super) samples: i64,
    /// End of what the party's timeline holds.
    pub(super) head: i64,
    pub(super) rate: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Answer {
    pub(super) position: i64,
    /// What this stream has from this position on lies so much further back.
    pub(super) shift: Option<(i64, i64)>,
}

impl Stream {
    pub(super) fn new(number: u16, at: Instant) -> Self {
        Self { sequence: Sequence::new(number), heard: at, clock: None }
    }

    pub(super) fn restart(&mut self, number: u16) {
        self.sequence = Sequence::new(number);
        self.clock = None;
    }

    pub(super) fn place(&mut self, arrival: &Arrival) -> Answer {
        let known = self.clock.as_mut().filter(|clock| clock.codec.clock() == arrival.codec.clock());
        if let Some(clock) = known {
            clock.codec = arrival.codec;
            if let Some(answer) = clock.place(arrival) {
                return answer;
            }
        }
        let head = self.clock.as_ref().map_or(arrival.head, |clock| clock.end.max(arrival.head));
        let clock = Clock::anchored(arrival, head);
        let position = clock.anchor_position;
        self.clock = Some(clock);
        Answer { position, shift: None }
    }
}

impl Clock {
    fn anchored(arrival: &Arrival, head: i64) -> Self {
        let is_close = (0..=i64::from(arrival.rate) / BEHIND).contains(&(head - arrival.position));
        let position = if is_close { head } else { arrival.position };
        let timestamp = i64::from(arrival.timestamp);
        Self {
            codec: arrival.codec,
            anchor_position: position,
            anchor_timestamp: timestamp,
            newest: timestamp,
            newest_at: arrival.position,
            end: position + arrival.samples,
            owed: 0,
            corrections: VecDeque::new(),
            usual: None,
            window_least: arrival.position - position,
            window_since: arrival.at,
            suspect: None,
        }
    }

    /// `None`: the clock cannot have gone there.
    fn place(&mut self, arrival: &Arrival) -> Option<Answer> {
        let rate = i64::from(arrival.rate);
        let clock = i64::from(self.codec.clock());
        let step = i64::from(arrival.timestamp.wrapping_sub(self.newest as u32).cast_signed());
        let timestamp = self.newest + step;
        let mut position = self.anchor_position + (timestamp - self.anchor_timestamp) * rate / clock;
        if !arrival.is_newest {
            // A timestamp that its number belies says nothing.
            let is_possible = step <= 0 && step >= -LATE_SECONDS_MAX * clock;
            let later = self.corrections.iter().rev().take_while(|(since, _)| *since > timestamp);
            let by = later.map(|(_, by)| by).sum::<i64>();
            let position = if is_possible { position - by } else { arrival.position };
            return Some(Answer { position, shift: None });
        }
        let ahead = step * rate / clock - (arrival.position - self.newest_at);
        if step < 0 || ahead > rate / AHEAD {
            return None;
        }
        let late = arrival.position - position - self.usual.unwrap_or(self.window_least);
        if late.abs() > LATE_SECONDS_MAX * rate {
            return None;
        }
        self.newest = timestamp;
        self.newest_at = arrival.position;
        let mut shift = None;
        if let Some(by) = self.watch_lateness(late, position, arrival, rate) {
            shift = Some((by.1, by.0));
            self.anchor_position += by.0;
            position += by.0;
            self.usual = None;
            self.window_least = arrival.position - position;
            self.window_since = arrival.at;
            self.owed = 0;
            self.corrections.clear();
        }
        position += self.correct(timestamp);
        self.watch_drift(arrival.position - position, arrival.at, rate);
        self.end = self.end.max(position + arrival.samples);
        Some(Answer { position, shift })
    }

    /// By how much, and from which position on, the timestamps stood still while time went on.
    fn watch_lateness(&mut self, late: i64, position: i64, arrival: &Arrival, rate: i64) -> Option<(i64, i64)> {
        if late <= rate / LATE {
            self.suspect = None;
            return None;
        }
        let new = Suspect { since: arrival.at, least: late, packets: 0, first: position };
        let suspect = self.suspect.get_or_insert(new);
        suspect.packets += 1;
        suspect.least = suspect.least.min(late);
        let stays = arrival.at.since(suspect.since) >= LATE_STAYS && suspect.packets >= LATE_PACKETS;
        let found = (suspect.least, suspect.first);
        if stays {
            self.suspect = None;
        }
        stays.then_some(found)
    }

    /// One sample of what is owed.
    fn correct(&mut self, timestamp: i64) -> i64 {
        let by = self.owed.signum();
        if by != 0 {
            self.owed -= by;
            self.anchor_position += by;
            self.corrections.push_back((timestamp, by));
            if self.corrections.len() > CORRECTIONS_MAX {
                self.corrections.pop_front();
            }
        }
        by
    }

    fn watch_drift(&mut self, delay: i64, at: Instant, rate: i64) {
        self.window_least = self.window_least.min(delay);
        if at.since(self.window_since) < WINDOW {
            return;
        }
        let usual = *self.usual.get_or_insert(self.window_least);
        let deviation = self.window_least - usual;
        if deviation.abs() > rate / DEAD_BAND && self.owed == 0 {
            self.owed = deviation;
        }
        self.window_least = delay;
        self.window_since = at;
    }
}
