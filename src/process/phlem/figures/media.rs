//! What is counted of audio: exact, because every frame says which it is.

use serde::Deserialize;
use serde::Serialize;

use crate::process::phlem::figures::histogram::Histogram;

/// Frames are of 20 ms; each direction of each call counts for itself, where it is heard.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Media {
    pub streams_now: u64,
    /// Legs that ended and had audio.
    pub streams: u64,
    pub sent: u64,
    /// Different frames of the right call.
    pub received: u64,
    /// Frames that did not come though later ones did.
    pub lost: u64,
    /// Frames before the first that came: sent while the way was being made.
    pub missed_at_start: u64,
    pub doubled: u64,
    /// Frames that came after a later one.
    pub reordered: u64,
    /// Frames of another call, or of one's own voice.
    pub wrong_call: u64,
    /// Numbered frames whose audio is not what was sent.
    pub damaged: u64,
    /// Audio without numbers, as of a phone that is not one of ours.
    pub unnumbered: u64,
    /// Packets that are not RTP, or of a payload that was not agreed.
    pub strays: u64,
    /// Frames that came too late to be heard: see the E-model's page.
    pub late: u64,
    /// Frames that were not sent because the emulator itself was late.
    pub skipped: u64,
    /// Legs that had to hear something and did not.
    pub silent: u64,
    /// Frames that had to be heard and were not, beside the lost ones: before the first that came, after the last, or all of a leg's.
    pub unheard: u64,
    /// RFC 4733.
    pub digits_sent: u64,
    pub digits_heard: u64,
    /// How long after its time a frame was sent.
    pub send_lateness: Histogram,
    /// Where both ends have one clock.
    pub one_way: Histogram,
    pub round_trip: Histogram,
    /// RFC 3550 §6.4.1, of each stream at its end.
    pub jitter: Histogram,
    /// Thousandths, of each stream at its end; by the E-model.
    pub mos: Histogram,
    /// Thousandths of what it had to hear, of each leg at its end.
    pub heard_share: Histogram,
}

impl Media {
    pub fn merge(&mut self, other: &Self) {
        let Self {
            streams_now,
            streams,
            sent,
            received,
            lost,
            missed_at_start,
            doubled,
            reordered,
            wrong_call,
            damaged,
            unnumbered,
            strays,
            late,
            skipped,
            silent,
            unheard,
            digits_sent,
            digits_heard,
            send_lateness,
            one_way,
            round_trip,
            jitter,
            mos,
            heard_share,
        } = other;
        for (own, added) in [
            (&mut self.streams_now, streams_now),
            (&mut self.streams, streams),
            (&mut self.sent, sent),
            (&mut self.received, received),
            (&mut self.lost, lost),
            (&mut self.missed_at_start, missed_at_start),
            (&mut self.doubled, doubled),
            (&mut self.reordered, reordered),
            (&mut self.wrong_call, wrong_call),
            (&mut self.damaged, damaged),
            (&mut self.unnumbered, unnumbered),
            (&mut self.strays, strays),
            (&mut self.late, late),
            (&mut self.skipped, skipped),
            (&mut self.silent, silent),
            (&mut self.unheard, unheard),
            (&mut self.digits_sent, digits_sent),
            (&mut self.digits_heard, digits_heard),
        ] {
            *own = own.saturating_add(*added);
        }
        self.send_lateness.merge(send_lateness);
        self.one_way.merge(one_way);
        self.round_trip.merge(round_trip);
        self.jitter.merge(jitter);
        self.mos.merge(mos);
        self.heard_share.merge(heard_share);
    }

    /// The share of frames that did not come; none if none was expected.
    pub fn loss(&self) -> Option<f64> {
        share(self.lost + self.unheard, self.received)
    }

    /// The share that was heard of what had to be heard, frames without a number included; none if nothing had to be.
    pub fn audio_share(&self) -> Option<f64> {
        share(self.lost + self.unheard, self.received + self.unnumbered).map(|missed| 1.0 - missed)
    }

    pub fn mos_mean(&self) -> Option<f64> {
        self.mos.mean().map(|thousandths| thousandths / 1_000.0)
    }

    /// `part` of the streams, 0 to 1, had at most this.
    pub fn mos_percentile(&self, part: f64) -> Option<f64> {
        self.mos.percentile(part).map(|thousandths| thousandths as f64 / 1_000.0)
    }
}

fn share(part: u64, rest: u64) -> Option<f64> {
    let whole = part + rest;
    (whole > 0).then(|| part as f64 / whole as f64)
}
