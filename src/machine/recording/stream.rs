//! What goes on in a stream: its sequence, and its runs: audio of one codec whose timestamps count on.
//!
//! Both readings of a recording follow its streams with this, so that a run has the same number in both.

use std::collections::BTreeMap;

use crate::base::time::Instant;
use crate::machine::recording::codec::Codec;
use crate::machine::recording::seam::Seam;
use crate::machine::recording::sequence::Order;
use crate::machine::recording::sequence::Print;
use crate::machine::recording::sequence::Sequence;
use crate::wire::rtp::Header;

/// A stream: leg, m-line, SSRC.
pub(super) type StreamKey = (u8, u8, u32);

/// Streams that are known at a time; another takes the place of the one that was not heard for longest.
const STREAMS_MAX: usize = 32;
const SECOND: i64 = 1_000_000_000;
/// Timestamps that run ahead of packets and time by more within one step are another run. Less may be a packet before silence that
/// was so late.
const AHEAD_MAX: i64 = 4 * SECOND;
/// So far ahead they may be.
const AHEAD: i64 = SECOND * 60 / 1_000;
/// Seconds before its run's first packet, and behind its newest, that another of it may have been sent.
const BESIDE: i64 = 3;
/// A packet that is sent at its end begins so long before; nothing is taken off for it, whatever the packet's length.
const PACKET: i64 = SECOND / 50;

/// One audio packet.
#[derive(Clone, Copy, Debug)]
pub(super) struct Arrival {
    pub(super) codec: Codec,
    pub(super) timestamp: u32,
    /// Of the RTP clock.
    pub(super) ticks: i64,
    /// The latest place of its first sample: nanoseconds since the recording began.
    pub(super) came: i64,
}

impl Arrival {
    /// `samples`: of the codec's rate.
    pub(super) fn new(codec: Codec, timestamp: u32, samples: usize, at: Instant, began: Instant) -> Self {
        let (samples, rate) = (samples as i64, i64::from(codec.rate()));
        let ticks = samples * i64::from(codec.clock()) / rate;
        let at = i64::try_from(at.since(began).as_nanos()).unwrap_or(i64::MAX);
        let longer = samples * SECOND / rate - PACKET;
        Self { codec, timestamp, ticks, came: (at - longer.max(0)).max(0) }
    }
}

/// Where a packet stands in its stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Step {
    /// Number of the run among those of the recording.
    pub(super) run: u32,
    /// Of the run, without the wrap.
    pub(super) timestamp: i64,
    /// Nothing that was sent later came before.
    pub(super) is_newest: bool,
    /// Sequence numbers since the audio before.
    pub(super) numbers: i64,
    /// The timestamp went further than packets and time did.
    pub(super) is_ahead: bool,
}

#[derive(Clone, Copy, Debug)]
struct Run {
    number: u32,
    codec: Codec,
    first: i64,
    newest: i64,
    newest_came: i64,
    ticks: i64,
}

#[derive(Debug)]
pub(super) struct Stream {
    sequence: Sequence,
    heard: Instant,
    /// Sequence numbers since the audio before.
    passed: i64,
    current: Option<Run>,
    before: Option<Run>,
    /// Of a packet that may be the first of a sender that began anew.
    tentative: Option<Run>,
    /// The timeline's.
    pub(super) seam: Seam,
}

#[derive(Debug, Default)]
pub(super) struct Streams {
    streams: BTreeMap<StreamKey, Stream>,
    runs: u32,
}

impl Streams {
    /// `on_gone` takes the leg of a stream that is forgotten and how much of it was lost. Audio that is no copy goes on to
    /// [`Stream::follow`] with the count of runs.
    pub(super) fn hear(
        &mut self,
        key: StreamKey,
        header: &Header,
        payload: &[u8],
        at: Instant,
        on_gone: impl FnOnce(u8, u64),
    ) -> (Order, &mut Stream, &mut u32) {
        let print = Print::new(header.timestamp, payload, at);
        if !self.streams.contains_key(&key) && self.streams.len() >= STREAMS_MAX {
            let oldest = self.streams.iter().min_by_key(|(_, stream)| stream.heard).map(|(key, _)| *key);
            if let Some((key, stream)) = oldest.and_then(|oldest| self.streams.remove_entry(&oldest)) {
                on_gone(key.0, stream.sequence.lost());
            }
        }
        let mut is_new = false;
        let stream = self.streams.entry(key).or_insert_with(|| {
            is_new = true;
            Stream::new(header.sequence, print)
        });
        let order = if is_new { Order::Newest(1) } else { stream.sequence.handle(header.sequence, print) };
        stream.heard = at;
        match order {
            Order::Newest(numbers) => stream.passed += i64::from(numbers),
            Order::Stray | Order::Restart => stream.passed = 1,
            Order::Older | Order::Duplicate => {}
        }
        (order, stream, &mut self.runs)
    }

    /// All streams end; `on_gone` takes the leg of each and how much of it was lost.
    pub(super) fn end(&mut self, mut on_gone: impl FnMut(u8, u64)) {
        for ((leg, ..), stream) in std::mem::take(&mut self.streams) {
            on_gone(leg, stream.sequence.lost());
        }
    }

    pub(super) fn len(&self) -> usize {
        self.streams.len()
    }
}

impl Stream {
    fn new(number: u16, print: Print) -> Self {
        let sequence = Sequence::new(number, print);
        Self {
            sequence,
            heard: Instant::ZERO,
            passed: 0,
            current: None,
            before: None,
            tentative: None,
            seam: Seam::default(),
        }
    }

    pub(super) fn follow(&mut self, order: Order, arrival: &Arrival, runs: &mut u32) -> Step {
        if order == Order::Older
            && let Some(step) = self.place_late(arrival)
        {
            return step;
        }
        if order == Order::Restart
            && let Some(run) = self.tentative.take()
            && run.ahead(1, arrival).is_some()
        {
            self.before = self.current.replace(run);
        }
        let numbers = std::mem::take(&mut self.passed);
        if order != Order::Older
            && let Some(run) = &mut self.current
            && let Some(ahead) = run.ahead(numbers, arrival)
        {
            return run.go_on(numbers, ahead, arrival);
        }
        let run = Run::begin(arrival, runs);
        let step = Step { run: run.number, timestamp: run.first, is_newest: true, numbers, is_ahead: false };
        match order {
            Order::Older => {}
            Order::Stray => self.tentative = Some(run),
            Order::Newest(_) | Order::Restart | Order::Duplicate => self.before = self.current.replace(run),
        }
        step
    }

    /// `None`: its timestamp is of no run that is known.
    fn place_late(&self, arrival: &Arrival) -> Option<Step> {
        let in_run = |run: Option<&Run>, beside: i64| {
            let run = run.filter(|run| run.codec == arrival.codec)?;
            let beside = beside * i64::from(run.codec.clock());
            let timestamp = run.newest + run.step(arrival);
            let is_in = (run.first - beside..=run.newest + beside).contains(&timestamp);
            let step = Step { run: run.number, timestamp, is_newest: false, numbers: 0, is_ahead: false };
            is_in.then_some(step)
        };
        let (current, before) = (self.current.as_ref(), self.before.as_ref());
        in_run(current, 0).or_else(|| in_run(before, 0)).or_else(|| in_run(current, BESIDE))
    }
}

impl Run {
    fn begin(arrival: &Arrival, runs: &mut u32) -> Self {
        let (number, timestamp) = (*runs, i64::from(arrival.timestamp));
        *runs = runs.saturating_add(1);
        let (codec, ticks) = (arrival.codec, arrival.ticks);
        Self { number, codec, first: timestamp, newest: timestamp, newest_came: arrival.came, ticks }
    }

    fn step(&self, arrival: &Arrival) -> i64 {
        i64::from(arrival.timestamp.wrapping_sub(self.newest as u32).cast_signed())
    }

    /// How far its timestamp went beyond what so many packets hold and the time that passed; `None`: it is of another run.
    fn ahead(&self, numbers: i64, arrival: &Arrival) -> Option<i64> {
        let step = self.step(arrival);
        let excess = (step - numbers * self.ticks) * SECOND / i64::from(self.codec.clock());
        let ahead = excess - (arrival.came - self.newest_came);
        (arrival.codec == self.codec && step > 0 && ahead <= AHEAD_MAX).then_some(ahead)
    }

    fn go_on(&mut self, numbers: i64, ahead: i64, arrival: &Arrival) -> Step {
        self.newest += self.step(arrival);
        (self.newest_came, self.ticks) = (arrival.came, arrival.ticks);
        let (timestamp, is_ahead) = (self.newest, ahead > AHEAD);
        Step { run: self.number, timestamp, is_newest: true, numbers, is_ahead }
    }
}
