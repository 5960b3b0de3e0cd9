//! The first reading of a recording: which audio there is, and the courses of its runs.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::base::time::Instant;
use crate::machine::recording::codec::Codec;
use crate::machine::recording::codec::Formats;
use crate::machine::recording::codec::Kind;
use crate::machine::recording::course::Course;
use crate::machine::recording::course::Draft;
use crate::machine::recording::sequence::Order;
use crate::machine::recording::stream::Arrival;
use crate::machine::recording::stream::Streams;
use crate::wire::rtp::Header;
use crate::wire::tape::Frame;
use crate::wire::tape::Mark;

/// Runs whose courses are known. What more there are lie where they came: nobody speaks so.
const RUNS_MAX: usize = 4_096;
/// Nothing lies further back; who sends such arrival times is not an engine of ours.
pub(super) const LENGTH_MAX: Duration = Duration::from_secs(7 * 24 * 3_600);
/// Encoding names that are counted.
const NAMES_MAX: usize = 16;
/// Nanoseconds that a recording begins earlier at most because something was said before that.
const LEAD_MAX: i64 = 5_000_000_000;

#[derive(Debug)]
pub struct Arrivals {
    began: Instant,
    formats: Formats,
    streams: Streams,
    drafts: BTreeMap<u32, Draft>,
    codecs: Vec<Codec>,
    undecodable: BTreeMap<String, u64>,
}

/// What the first reading knows for the second.
#[derive(Debug)]
pub struct Courses {
    began: Instant,
    lead: i64,
    courses: Vec<Option<Course>>,
    codecs: Vec<Codec>,
    undecodable: BTreeMap<String, u64>,
}

impl Arrivals {
    pub fn new(began: Instant) -> Self {
        let (formats, streams) = (Formats::default(), Streams::default());
        Self { began, formats, streams, drafts: BTreeMap::new(), codecs: Vec::new(), undecodable: BTreeMap::new() }
    }

    pub fn on_mark(&mut self, at: Instant, mark: &Mark) {
        match mark {
            Mark::Formats { leg, stream, formats } => self.formats.set(*leg, *stream, formats, at),
            Mark::Paused => self.streams.end(|_, _| {}),
            Mark::Begin { .. } | Mark::Resumed | Mark::Ended { .. } | Mark::Announced { .. } | Mark::Untaped { .. } => {
            }
        }
    }

    pub fn on_frame(&mut self, frame: &Frame<'_>) {
        let Some((header, payload)) = parse(frame, self.began) else { return };
        let key = (frame.leg, frame.stream, header.ssrc);
        let (order, stream, runs) = self.streams.hear(key, &header, payload, frame.at, |_, _| {});
        let codec = match self.formats.kind(frame.leg, frame.stream, header.payload_type, frame.at) {
            Kind::Audio(codec) => codec,
            Kind::Undecodable(name) if !payload.is_empty() => {
                if let Some(packets) = self.undecodable.get_mut(name) {
                    *packets += 1;
                } else if self.undecodable.len() < NAMES_MAX {
                    self.undecodable.insert(name.to_owned(), 1);
                }
                return;
            }
            Kind::Undecodable(_) | Kind::Other | Kind::Unknown => return,
        };
        let samples = codec.samples(payload);
        if samples == 0 {
            return;
        }
        if !self.codecs.contains(&codec) {
            self.codecs.push(codec);
        }
        if order == Order::Duplicate {
            return;
        }
        let arrival = Arrival::new(codec, header.timestamp, samples, frame.at, self.began);
        let step = stream.follow(order, &arrival, runs);
        if step.is_newest && (self.drafts.len() < RUNS_MAX || self.drafts.contains_key(&step.run)) {
            self.drafts.entry(step.run).or_insert_with(|| Draft::new(&arrival, &step)).add(&arrival, &step);
        }
    }

    pub fn finish(self) -> Courses {
        let mut courses: Vec<Option<Course>> = Vec::new();
        for (run, draft) in self.drafts {
            courses.resize_with(run as usize, || None);
            courses.push(Some(draft.finish()));
        }
        let first = courses.iter().flatten().map(Course::first).min().unwrap_or(0);
        let (lead, codecs, undecodable) = ((-first).clamp(0, LEAD_MAX), self.codecs, self.undecodable);
        Courses { began: self.began, lead, courses, codecs, undecodable }
    }
}

impl Courses {
    /// All that were heard.
    pub fn codecs(&self) -> &[Codec] {
        &self.codecs
    }

    /// Packets of audio that no build of this code decodes, by its name.
    pub fn undecodable(&self) -> &BTreeMap<String, u64> {
        &self.undecodable
    }

    pub(super) const fn began(&self) -> Instant {
        self.began
    }

    /// Nanoseconds from the recording's beginning to the moment that the engine gave for it: what came then was said before.
    pub(super) const fn lead(&self) -> i64 {
        self.lead
    }

    /// How much later than it was said a packet came at most, in nanoseconds.
    pub(super) fn late(&self) -> i64 {
        self.courses.iter().flatten().map(Course::late).max().unwrap_or(0)
    }

    pub(super) fn get(&self, run: u32) -> Option<&Course> {
        self.courses.get(run as usize).and_then(Option::as_ref)
    }
}

/// Header and payload of what is RTP and of this recording's time.
pub(super) fn parse<'a>(frame: &Frame<'a>, began: Instant) -> Option<(Header, &'a [u8])> {
    if frame.at.since(began) > LENGTH_MAX {
        return None;
    }
    let header = Header::parse(frame.packet).ok()?;
    let payload = frame.packet.get(header.payload(frame.packet).ok()?)?;
    Some((header, payload))
}
