//! Where every packet of a call lies: positions in samples since the recording began, one line for each party.
//!
//! A packet lies where its RTP timestamp says, held to the clock of arrivals ([`stream`](super::stream)). Packets wait some
//! seconds for those before them; then they are given to the [`Sink`] in the order of their places. What is not given is
//! silence. Where two streams of a party speak at once the one that has the place keeps it.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Deserialize;
use serde::Serialize;

use crate::base::time::Instant;
use crate::machine::recording::codec::Codec;
use crate::machine::recording::codec::Formats;
use crate::machine::recording::codec::Kind;
use crate::machine::recording::ledger::Ledger;
use crate::machine::recording::sequence::Order;
use crate::machine::recording::stream::Arrival;
use crate::machine::recording::stream::Stream;
use crate::wire::rtp::Header;
use crate::wire::tape::Frame;
use crate::wire::tape::Mark;

/// How long a packet waits for those that lie before it.
const HOLD: Duration = Duration::from_secs(2);
/// Of silence: how far behind arrival nothing comes any more. More than [`HOLD`] and the latest packet that keeps its place.
const SETTLED: Duration = Duration::from_secs(6);
const SETTLE_EVERY: Duration = Duration::from_millis(500);
/// Streams that are known at a time; another takes the place of the one that was not heard for longest.
const STREAMS_MAX: usize = 32;
/// Packets of a party that wait.
const WAITING_MAX: usize = 2_048;
/// Nothing lies further back; who sends such arrival times is not an engine of ours.
const LENGTH_MAX: Duration = Duration::from_secs(7 * 24 * 3_600);

/// Who speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Party {
    Caller,
    Callee,
}

impl Party {
    pub const ALL: [Self; 2] = [Self::Caller, Self::Callee];

    /// Leg 0 is the caller's.
    pub const fn of_leg(leg: u8) -> Self {
        if leg == 0 { Self::Caller } else { Self::Callee }
    }

    pub const fn text(self) -> &'static str {
        match self {
            Self::Caller => "caller",
            Self::Callee => "callee",
        }
    }
}

/// A stream: leg, m-line, SSRC.
pub(super) type StreamKey = (u8, u8, u32);

/// Audio with its place. Places of a party never go back and never overlap.
#[derive(Clone, Copy, Debug)]
pub struct Placed<'a> {
    pub(super) stream: StreamKey,
    pub codec: Codec,
    pub payload: &'a [u8],
    /// Place of its first sample that is used.
    pub at: u64,
    /// Samples of the recording's rate at its beginning that are not used.
    pub skip: usize,
}

/// Takes what is settled.
pub trait Sink {
    fn audio(&mut self, party: Party, placed: Placed<'_>);
    /// Up to this place nothing comes any more.
    fn settled(&mut self, party: Party, place: u64);
}

#[derive(Debug)]
struct Waiting {
    stream: StreamKey,
    codec: Codec,
    payload: Vec<u8>,
    samples: i64,
    came: Instant,
}

#[derive(Debug, Default)]
struct Line {
    /// By place, then by order of arrival.
    waiting: BTreeMap<(i64, u64), Waiting>,
    /// End of what was given to the sink.
    cursor: i64,
    /// End of what is there or waits.
    head: i64,
}

#[derive(Debug)]
pub struct Timeline {
    rate: u32,
    began: Instant,
    formats: Formats,
    streams: BTreeMap<StreamKey, Stream>,
    lines: [Line; 2],
    ledger: Ledger,
    order: u64,
    settled_at: Instant,
    paused_at: Option<i64>,
    pauses: Vec<(u64, u64)>,
    spare: Vec<Vec<u8>>,
}

impl Timeline {
    /// `rate`: samples a second of the positions; that of the best audio of the call.
    pub fn new(rate: u32, began: Instant) -> Self {
        Self {
            rate,
            began,
            formats: Formats::default(),
            streams: BTreeMap::new(),
            lines: Default::default(),
            ledger: Ledger::default(),
            order: 0,
            settled_at: began,
            paused_at: None,
            pauses: Vec::new(),
            spare: Vec::new(),
        }
    }

    pub fn ledger(&self) -> &Ledger {
        &self.ledger
    }

    /// First and last place of each stretch that was not recorded on request.
    pub fn pauses(&self) -> &[(u64, u64)] {
        &self.pauses
    }

    pub fn on_mark(&mut self, at: Instant, mark: &Mark) {
        match mark {
            Mark::Formats { leg, stream, formats } => self.formats.set(*leg, *stream, formats),
            Mark::Paused if self.paused_at.is_none() => {
                self.paused_at = Some(self.place_of(at));
                self.end_streams();
            }
            Mark::Resumed => self.end_pause(at),
            Mark::Begin { .. } | Mark::Paused | Mark::Ended { .. } | Mark::Announced { .. } | Mark::Untaped { .. } => {}
        }
    }

    fn end_pause(&mut self, at: Instant) {
        if let Some(since) = self.paused_at.take() {
            let until = self.place_of(at);
            self.pauses.push((since.max(0).cast_unsigned(), until.max(since).max(0).cast_unsigned()));
        }
    }

    pub fn on_frame(&mut self, frame: &Frame<'_>, sink: &mut impl Sink) {
        self.settle(frame.at, sink);
        let header = Header::parse(frame.packet);
        let parsed = header.and_then(|header| header.payload(frame.packet).map(|range| (header, range)));
        let is_too_far = frame.at.since(self.began) > LENGTH_MAX;
        let Some((header, range)) = parsed.ok().filter(|_| !is_too_far) else {
            self.ledger.line(frame.leg).malformed += 1;
            return;
        };
        let payload = frame.packet.get(range).unwrap_or_default();
        let key = (frame.leg, frame.stream, header.ssrc);
        let order = self.order_of(key, header.sequence, frame.at);
        let codec = match self.formats.kind(frame.leg, frame.stream, header.payload_type) {
            Kind::Audio(codec) => codec,
            Kind::Undecodable(_) if !payload.is_empty() => {
                self.ledger.line(frame.leg).undecodable += 1;
                return;
            }
            Kind::Undecodable(_) | Kind::Other => {
                self.ledger.line(frame.leg).other += 1;
                return;
            }
        };
        let samples = codec.samples(payload) as u64 * u64::from(self.rate) / u64::from(codec.rate());
        if samples == 0 {
            self.ledger.line(frame.leg).other += 1;
            return;
        }
        let line = self.ledger.line(frame.leg);
        line.received += 1;
        if order == Order::Duplicate {
            line.duplicated += 1;
            return;
        }
        let party = Party::of_leg(frame.leg) as usize;
        let arrival = Arrival {
            codec,
            timestamp: header.timestamp,
            is_newest: order != Order::Older,
            at: frame.at,
            position: self.place_of(frame.at),
            samples: samples.cast_signed(),
            head: self.lines[party].head,
            rate: self.rate,
        };
        let Some(stream) = self.streams.get_mut(&key) else { return };
        let answer = stream.place(&arrival);
        if let Some((from, by)) = answer.shift {
            self.lines[party].shift(key, from, by);
        }
        self.keep(party, key, &arrival, answer.position, payload, sink);
    }

    fn order_of(&mut self, key: StreamKey, number: u16, at: Instant) -> Order {
        if let Some(stream) = self.streams.get_mut(&key) {
            stream.heard = at;
            let order = stream.sequence.handle(number);
            if order == Order::Restart {
                self.ledger.line(key.0).lost += stream.sequence.lost();
                stream.restart(number);
            }
            return order;
        }
        if self.streams.len() >= STREAMS_MAX {
            let oldest = self.streams.iter().min_by_key(|(_, stream)| stream.heard).map(|(key, _)| *key);
            if let Some(stream) = oldest.and_then(|oldest| self.streams.remove(&oldest)) {
                self.ledger.line(oldest.map_or(0, |(leg, ..)| leg)).lost += stream.sequence.lost();
            }
        }
        self.streams.insert(key, Stream::new(number, at));
        Order::Newest
    }

    fn keep(
        &mut self,
        party: usize,
        stream: StreamKey,
        arrival: &Arrival,
        place: i64,
        payload: &[u8],
        sink: &mut impl Sink,
    ) {
        let line = &mut self.lines[party];
        if place + arrival.samples <= line.cursor {
            self.ledger.line(stream.0).discarded += 1;
            return;
        }
        let mut kept = self.spare.pop().unwrap_or_default();
        kept.clear();
        kept.extend_from_slice(payload);
        self.order += 1;
        let waiting =
            Waiting { stream, codec: arrival.codec, payload: kept, samples: arrival.samples, came: arrival.at };
        line.waiting.insert((place, self.order), waiting);
        line.head = line.head.max(place + arrival.samples);
        while self.lines[party].waiting.len() > WAITING_MAX {
            self.give_first(party, sink);
        }
    }

    /// Gives what has waited long enough.
    fn settle(&mut self, now: Instant, sink: &mut impl Sink) {
        for party in Party::ALL {
            while let Some((_, first)) = self.lines[party as usize].waiting.first_key_value()
                && now.since(first.came) >= HOLD
            {
                self.give_first(party as usize, sink);
            }
        }
        if now.since(self.settled_at) < SETTLE_EVERY {
            return;
        }
        self.settled_at = now;
        let place = self.place_of(now - SETTLED);
        for party in Party::ALL {
            let line = &mut self.lines[party as usize];
            let first = line.waiting.first_key_value().map_or(i64::MAX, |((place, _), _)| *place);
            let place = place.min(first);
            if now.since(self.began) > SETTLED && place > line.cursor {
                line.cursor = place;
                line.head = line.head.max(place);
                sink.settled(party, place.cast_unsigned());
            }
        }
    }

    fn give_first(&mut self, party: usize, sink: &mut impl Sink) {
        let line = &mut self.lines[party];
        let Some(((place, _), waiting)) = line.waiting.pop_first() else { return };
        let Waiting { stream, codec, payload, samples, .. } = waiting;
        let counts = self.ledger.line(stream.0);
        if place + samples <= line.cursor {
            counts.discarded += 1;
        } else {
            let at = place.max(line.cursor);
            counts.written += 1;
            let skip = usize::try_from(at - place).unwrap_or(0);
            line.cursor = place + samples;
            let placed = Placed { stream, codec, payload: &payload, at: at.cast_unsigned(), skip };
            sink.audio(Party::ALL[party], placed);
        }
        if self.spare.len() < WAITING_MAX {
            self.spare.push(payload);
        }
    }

    /// Gives everything. The recording ends at `ended`, or where its last audio does; that place is the answer.
    pub fn finish(&mut self, ended: Instant, sink: &mut impl Sink) -> u64 {
        self.end_pause(ended);
        self.end_streams();
        for party in 0..self.lines.len() {
            while !self.lines[party].waiting.is_empty() {
                self.give_first(party, sink);
            }
        }
        let end = self.lines.iter().map(|line| line.cursor).max().unwrap_or(0);
        let end = end.max(self.place_of(ended.min(self.began + LENGTH_MAX)));
        for party in Party::ALL {
            self.lines[party as usize].cursor = end;
            sink.settled(party, end.cast_unsigned());
        }
        end.cast_unsigned()
    }

    /// Streams, formats and packets that are held.
    pub fn size(&self) -> usize {
        self.streams.len() + self.formats.len() + self.lines.iter().map(|line| line.waiting.len()).sum::<usize>()
    }

    fn end_streams(&mut self) {
        for ((leg, ..), stream) in std::mem::take(&mut self.streams) {
            self.ledger.line(leg).lost += stream.sequence.lost();
        }
    }

    fn place_of(&self, at: Instant) -> i64 {
        let nanos = at.since(self.began).as_nanos();
        i64::try_from(nanos * u128::from(self.rate) / 1_000_000_000).unwrap_or(i64::MAX / 4)
    }
}

impl Line {
    /// Puts what one stream has from `from` on `by` samples further back.
    fn shift(&mut self, stream: StreamKey, from: i64, by: i64) {
        let late: Vec<_> = self
            .waiting
            .range((from, 0)..)
            .filter(|(_, waiting)| waiting.stream == stream)
            .map(|(place, _)| *place)
            .collect();
        let moved: Vec<_> =
            late.iter().filter_map(|place| self.waiting.remove(place).map(|waiting| (*place, waiting))).collect();
        for ((place, order), waiting) in moved {
            self.head = self.head.max(place + by + waiting.samples);
            self.waiting.insert((place + by, order), waiting);
        }
    }
}
