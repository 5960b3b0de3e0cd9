//! Where every packet of a call lies: positions in samples since the recording began, one line for each party.
//!
//! A packet lies where its RTP timestamp says, on the course of its run ([`course`](super::course)). Packets wait some
//! seconds for those before them; then they are given to the [`Sink`] in the order of their places. What is not given is
//! silence. Where two streams of a party speak at once the one that has the place keeps it.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Deserialize;
use serde::Serialize;

use crate::base::time::Instant;
use crate::machine::recording::arrivals::Courses;
use crate::machine::recording::arrivals::LENGTH_MAX;
use crate::machine::recording::arrivals::parse;
use crate::machine::recording::codec::Codec;
use crate::machine::recording::codec::Formats;
use crate::machine::recording::codec::Kind;
use crate::machine::recording::ledger::Ledger;
use crate::machine::recording::sequence::Order;
use crate::machine::recording::stream::Arrival;
use crate::machine::recording::stream::StreamKey;
use crate::machine::recording::stream::Streams;
use crate::wire::tape::Frame;
use crate::wire::tape::Mark;

/// How long a packet waits for those that lie before it, where none is later; and at most.
const HOLD: Duration = Duration::from_secs(2);
const HOLD_MAX: Duration = Duration::from_secs(20);
const SETTLE_EVERY: Duration = Duration::from_millis(500);
/// Packets of a party that wait.
const WAITING_MAX: usize = 2_048;
/// Of a second: less is no correction that anybody hears, 5 ms.
const HEARD: i64 = 200;
/// Corrections that are told; of more the number is.
const CORRECTIONS_MAX: usize = 256;

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
    /// End of the audio that is there or waits.
    head: i64,
}

/// Where audio of one source was put elsewhere than its timestamps say by themselves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Correction {
    pub leg: u8,
    /// Since the recording began.
    pub at_ms: u64,
    /// Of silence, or of audio that lies where other audio is.
    pub ms: u64,
    pub kind: CorrectionKind,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CorrectionKind {
    Gap,
    Overlap,
}

impl CorrectionKind {
    pub const fn text(self) -> &'static str {
        match self {
            Self::Gap => "gap",
            Self::Overlap => "overlap",
        }
    }
}

#[derive(Debug)]
pub struct Timeline {
    rate: u32,
    courses: Courses,
    began: Instant,
    hold: Duration,
    formats: Formats,
    streams: Streams,
    lines: [Line; 2],
    ledger: Ledger,
    order: u64,
    settled_at: Instant,
    paused_at: Option<i64>,
    pauses: Vec<(u64, u64)>,
    corrections: Vec<Correction>,
    corrections_more: u64,
    spare: Vec<Vec<u8>>,
}

impl Timeline {
    /// `rate`: samples a second of the positions; that of the best audio of the call. What follows is what `courses` were
    /// made of.
    pub fn new(rate: u32, courses: Courses) -> Self {
        let late = Duration::from_nanos(courses.late().max(0).cast_unsigned());
        let began = courses.began() - Duration::from_nanos(courses.lead().cast_unsigned());
        Self {
            rate,
            courses,
            began,
            hold: (late + late / 8).clamp(HOLD, HOLD_MAX),
            formats: Formats::default(),
            streams: Streams::default(),
            lines: Default::default(),
            ledger: Ledger::default(),
            order: 0,
            settled_at: began,
            paused_at: None,
            pauses: Vec::new(),
            corrections: Vec::new(),
            corrections_more: 0,
            spare: Vec::new(),
        }
    }

    /// Where its first sample lies.
    pub fn began(&self) -> Instant {
        self.began
    }

    /// Where it is audible that something lies elsewhere than its timestamps say, and how many more there were.
    pub fn corrections(&self) -> (&[Correction], u64) {
        (&self.corrections, self.corrections_more)
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
            Mark::Formats { leg, stream, formats } => self.formats.set(*leg, *stream, formats, at),
            Mark::Paused if self.paused_at.is_none() => {
                self.paused_at = Some(self.place_of(at));
                self.end_streams();
            }
            Mark::Resumed => self.end_pause(at),
            Mark::Untaped { untaped } => self.ledger.on_untaped(untaped),
            Mark::Begin { .. } | Mark::Paused | Mark::Ended { .. } | Mark::Announced { .. } => {}
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
        let Some((header, payload)) = parse(frame, self.courses.began()) else {
            self.ledger.line(frame.leg).malformed += 1;
            return;
        };
        let key = (frame.leg, frame.stream, header.ssrc);
        let ledger = &mut self.ledger;
        let on_gone = |leg, lost| ledger.line(leg).lost += lost;
        let (order, stream, runs) = self.streams.hear(key, &header, payload, frame.at, on_gone);
        let line = self.ledger.line(frame.leg);
        let codec = match self.formats.kind(frame.leg, frame.stream, header.payload_type, frame.at) {
            Kind::Audio(codec) => codec,
            Kind::Undecodable(_) if !payload.is_empty() => {
                line.undecodable += 1;
                return;
            }
            Kind::Unknown if !payload.is_empty() => {
                line.unknown += 1;
                return;
            }
            Kind::Undecodable(_) | Kind::Unknown | Kind::Other => {
                line.other += 1;
                return;
            }
        };
        let samples = codec.samples(payload);
        if samples == 0 {
            line.other += 1;
            return;
        }
        line.received += 1;
        if order == Order::Duplicate {
            line.duplicated += 1;
            return;
        }
        let arrival = Arrival::new(codec, header.timestamp, samples, frame.at, self.courses.began());
        let step = stream.follow(order, &arrival, runs);
        let samples = (samples as u64 * u64::from(self.rate) / u64::from(codec.rate())).cast_signed();
        let lead = self.courses.lead();
        let (place, piece) = match self.courses.get(step.run) {
            Some(course) => course.place(step.timestamp, self.rate, lead),
            None => (samples_of(arrival.came + lead, self.rate), 0),
        };
        let head = self.lines[Party::of_leg(key.0) as usize].head;
        let (place, gap) = stream.seam.place((place, samples), (step.run, piece), step.is_newest, head, self.rate);
        self.correct(key.0, head.min(place), gap);
        let payload = self.kept(payload);
        self.keep(Waiting { stream: key, codec, payload, samples, came: frame.at }, place, sink);
    }

    fn kept(&mut self, payload: &[u8]) -> Vec<u8> {
        let mut kept = self.spare.pop().unwrap_or_default();
        kept.clear();
        kept.extend_from_slice(payload);
        kept
    }

    /// `by`: samples of silence, or of overlap if it is negative; what nobody hears is not told.
    fn correct(&mut self, leg: u8, at: i64, by: i64) {
        let rate = i64::from(self.rate);
        if by.abs() <= rate / HEARD {
            return;
        }
        if self.corrections.len() >= CORRECTIONS_MAX {
            self.corrections_more += 1;
            return;
        }
        let millis = |samples: i64| (samples.max(0) * 1_000 / rate).cast_unsigned();
        let kind = if by < 0 { CorrectionKind::Overlap } else { CorrectionKind::Gap };
        self.corrections.push(Correction { leg, at_ms: millis(at), ms: millis(by.abs()), kind });
    }

    fn keep(&mut self, waiting: Waiting, place: i64, sink: &mut impl Sink) {
        let party = Party::of_leg(waiting.stream.0) as usize;
        let line = &mut self.lines[party];
        let end = place + waiting.samples;
        if end <= line.cursor {
            self.ledger.line(waiting.stream.0).discarded += 1;
            self.correct(waiting.stream.0, place, -waiting.samples);
            return;
        }
        self.order += 1;
        line.waiting.insert((place, self.order), waiting);
        line.head = line.head.max(end);
        while self.lines[party].waiting.len() > WAITING_MAX {
            self.give_first(party, sink);
        }
    }

    /// Gives what has waited long enough.
    fn settle(&mut self, now: Instant, sink: &mut impl Sink) {
        for party in Party::ALL {
            while let Some((_, first)) = self.lines[party as usize].waiting.first_key_value()
                && now.since(first.came) >= self.hold
            {
                self.give_first(party as usize, sink);
            }
        }
        if now.since(self.settled_at) < SETTLE_EVERY {
            return;
        }
        self.settled_at = now;
        // Behind it nothing comes any more: more than a packet waits, and the latest that keeps its place.
        let settled = self.hold * 3;
        let place = self.place_of(now - settled);
        for party in Party::ALL {
            let line = &mut self.lines[party as usize];
            let first = line.waiting.first_key_value().map_or(i64::MAX, |((place, _), _)| *place);
            let place = place.min(first);
            if now.since(self.began) > settled && place > line.cursor {
                line.cursor = place;
                sink.settled(party, place.cast_unsigned());
            }
        }
    }

    fn give_first(&mut self, party: usize, sink: &mut impl Sink) {
        let line = &mut self.lines[party];
        let Some(((place, _), waiting)) = line.waiting.pop_first() else { return };
        let Waiting { stream, codec, payload, samples, .. } = waiting;
        let counts = self.ledger.line(stream.0);
        let covered = (line.cursor - place).clamp(0, samples);
        if covered == samples {
            counts.discarded += 1;
        } else {
            let at = place + covered;
            counts.written += 1;
            let skip = covered as usize;
            line.cursor = place + samples;
            let placed = Placed { stream, codec, payload: &payload, at: at.cast_unsigned(), skip };
            sink.audio(Party::ALL[party], placed);
        }
        self.correct(stream.0, place, -covered);
        if self.spare.len() < WAITING_MAX {
            self.spare.push(payload);
        }
    }

    /// Gives everything. The recording ends at `ended`, or where its last audio does; that place is the answer.
    pub fn finish(&mut self, ended: Instant, sink: &mut impl Sink) -> u64 {
        self.end_pause(ended);
        self.end_streams();
        self.ledger.finish();
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
        let ledger = &mut self.ledger;
        self.streams.end(|leg, lost| ledger.line(leg).lost += lost);
    }

    fn place_of(&self, at: Instant) -> i64 {
        let nanos = i64::try_from(at.since(self.began).as_nanos()).unwrap_or(i64::MAX);
        samples_of(nanos, self.rate)
    }
}

fn samples_of(nanos: i64, rate: u32) -> i64 {
    (i128::from(nanos) * i128::from(rate) / 1_000_000_000) as i64
}
