//! One message that is sent again with growing pauses until somebody answers or time is up.
//!
//! Timers A/B, E/F and G/H of RFC 3261 §17, the UAS core's repeats of a 2xx (§13.3.1.4) and of a reliable provisional
//! response (RFC 3262 §3) differ only in the longest pause and in whether a reliable transport spares the repeats.

use std::time::Duration;

use serde::Deserialize;
use serde::Serialize;

use crate::base::time::Instant;
use crate::machine::flow::Flow;
use crate::machine::outbox::Outbox;
use crate::machine::transaction::T1;
use crate::machine::transaction::T1_64;
use crate::machine::transaction::T2;

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Repeat {
    bytes: Box<[u8]>,
    pace: Pace,
    interval: Duration,
    /// [`Instant::NEVER`] on a transport that repeats by itself.
    again: Instant,
    until: Instant,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Pace {
    /// Doubles without end (timer A, reliable provisional responses).
    Doubling,
    /// Doubles up to T2 (timers E and G, 2xx).
    UpToT2,
}

/// What [`Repeat::handle_timeout`] saw.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Patience {
    Lasts,
    /// 64*T1 have passed.
    Over,
}

impl Repeat {
    /// Sends `bytes` and, on an unreliable transport, goes on.
    pub fn hop_by_hop(bytes: Vec<u8>, pace: Pace, flow: Flow, now: Instant, out: &mut Outbox) -> Self {
        let mut repeat = Self::end_to_end(bytes, pace, flow, now, out);
        if flow.is_reliable() {
            repeat.again = Instant::NEVER;
        }
        repeat
    }

    /// Sends `bytes` and goes on whatever the transport.
    pub fn end_to_end(bytes: Vec<u8>, pace: Pace, flow: Flow, now: Instant, out: &mut Outbox) -> Self {
        let repeat = Self::waiting(bytes, pace, now);
        repeat.send(flow, out);
        repeat
    }

    /// Of what was sent already.
    pub fn waiting(bytes: Vec<u8>, pace: Pace, now: Instant) -> Self {
        Self { bytes: bytes.into(), pace, interval: T1, again: now + T1, until: now + T1_64 }
    }

    /// Once more, byte for byte.
    pub fn send(&self, flow: Flow, out: &mut Outbox) {
        out.send(flow, self.bytes.to_vec());
    }

    /// Once more over another flow, as if sent for the first time; the end of patience stays.
    pub fn resume(&mut self, flow: Flow, now: Instant, out: &mut Outbox) {
        self.interval = T1;
        self.again = if flow.is_reliable() { Instant::NEVER } else { now + T1 };
        self.send(flow, out);
    }

    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    pub fn into_bytes(self) -> Box<[u8]> {
        self.bytes
    }

    /// From here on at the longest pause (timer E in Proceeding).
    pub fn slow_down(&mut self, now: Instant) {
        self.interval = T2;
        if self.again != Instant::NEVER {
            self.again = now + T2;
        }
    }

    pub fn next_deadline(&self) -> Instant {
        self.again.min(self.until)
    }

    pub fn handle_timeout(&mut self, now: Instant, flow: Flow, out: &mut Outbox) -> Patience {
        if now >= self.until {
            return Patience::Over;
        }
        if now >= self.again {
            self.interval = match self.pace {
                Pace::Doubling => self.interval * 2,
                Pace::UpToT2 => (self.interval * 2).min(T2),
            };
            self.again = now + self.interval;
            self.send(flow, out);
        }
        Patience::Lasts
    }
}
