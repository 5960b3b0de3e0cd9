//! Makes a recording of a call's records: reads them twice, once for the codecs and once for the audio, in bounded memory.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;

use serde::Deserialize;
use serde::Serialize;
use sha2::Digest;
use sha2::Sha256;

use crate::base::time::Instant;
use crate::base::time::UnixTime;
use crate::machine::recording::Arrivals;
use crate::machine::recording::Correction;
use crate::machine::recording::Courses;
use crate::machine::recording::Encoding;
use crate::machine::recording::Ledger;
use crate::machine::recording::Mixdown;
use crate::machine::recording::Timeline;
use crate::machine::recording::Verdict;
use crate::machine::recording::segments::Segment;
use crate::machine::recording::segments::Segments;
use crate::machine::recording::view::Channels;
use crate::machine::recording::view::Peaks;
use crate::machine::recording::view::View;
use crate::process::side::recording::audio;
use crate::process::side::recording::work::Chunk;
use crate::process::side::recording::work::Chunks;
use crate::process::side::recording::work::Clocks;
use crate::process::side::seal::KEY_BYTES;
use crate::wire::g711::Law;
use crate::wire::tape::Frame;
use crate::wire::tape::Mark;
use crate::wire::tape::Record;
use crate::wire::tape::record::Frames;
use crate::wire::tape::records;
use crate::wire::wav;

const FRAMES_AT_ONCE: usize = 16 * 1024;

/// A recording whose audio lies on the disk.
#[derive(Clone, Debug)]
pub(crate) struct Finished {
    pub(crate) tenant: String,
    pub(crate) started_at: UnixTime,
    pub(crate) encoding: Encoding,
    /// Samples of each channel.
    pub(crate) samples: u64,
    pub(crate) verdict: Verdict,
    pub(crate) ledger: Ledger,
    /// Packets that could not be decoded, by the name of their encoding.
    pub(crate) undecodable: BTreeMap<String, u64>,
    /// Of the WAV file as it is given out when nothing else is asked for.
    pub(crate) sha256: String,
    pub(crate) detail: Detail,
}

impl Finished {
    /// Of the audio.
    pub(crate) const fn bytes(&self) -> u64 {
        self.samples * self.encoding.sample_bytes() as u64 * 2
    }
}

/// What is only shown.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Detail {
    /// Begin and end of what was not recorded on request, in milliseconds.
    pub(crate) pauses: Vec<(u64, u64)>,
    pub(crate) peaks: Peaks,
    /// Which leg was told what, and whether it heard all of it.
    #[serde(default)]
    pub(crate) announced: Vec<Announced>,
    /// The engine told the end; without it nobody can say what is missing.
    pub(crate) is_ended: bool,
    /// Of whom, in which codec, from which source.
    #[serde(default)]
    pub(crate) segments: Vec<Segment>,
    /// Segments that had no room in the list.
    #[serde(default)]
    pub(crate) segments_more: u64,
    /// Where audio lies elsewhere than its timestamps say, and that can be heard.
    #[serde(default)]
    pub(crate) corrections: Vec<Correction>,
    #[serde(default)]
    pub(crate) corrections_more: u64,
}

impl Detail {
    /// Of one that could not be made.
    pub(crate) fn nothing() -> Self {
        Self {
            pauses: Vec::new(),
            peaks: Peaks::new(Encoding::G711(Law::Mu)),
            announced: Vec::new(),
            is_ended: false,
            segments: Vec::new(),
            segments_more: 0,
            corrections: Vec::new(),
            corrections_more: 0,
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Announced {
    pub(crate) leg: u8,
    /// tone or file
    pub(crate) announce: String,
    pub(crate) played: bool,
}

/// What the first reading finds.
struct Survey {
    tenant: String,
    ended: Instant,
    clocks: Clocks,
    /// Where what is written next begins, which is not of this recording.
    upto: u64,
    courses: Courses,
    expected: Option<Vec<Frames>>,
    announced: Vec<Announced>,
}

/// Writes the audio of what the store has so far to an empty file, sealed under `key`; the caller syncs it. The answer is the
/// same however often it is done.
pub(crate) fn finish(store: &Chunks, file: &File, id: &str, key: &[u8; KEY_BYTES]) -> io::Result<Finished> {
    let survey = survey(store)?;
    let encoding = Encoding::of(survey.courses.codecs().iter().copied());
    let undecodable = survey.courses.undecodable().clone();
    let mut timeline = Timeline::new(encoding.rate(), survey.courses);
    let mut segments = Segments::new(timeline.began());
    let mut making = Making {
        mixdown: Mixdown::new(encoding),
        writer: audio::Writer::new(file.try_clone()?, id, key),
        peaks: Peaks::new(encoding),
        encoding,
        frames: Vec::new(),
        failed: None,
    };
    each(store, survey.upto, |record, chunk| {
        segments.on_boot(chunk.last.boot);
        match record {
            Record::Frame(frame) => {
                segments.on_frame(&frame);
                timeline.on_frame(&frame, &mut making.mixdown);
                making.drain();
            }
            Record::Mark { at, mark, .. } => {
                segments.on_mark(at, &mark);
                timeline.on_mark(at, &mark);
            }
            Record::Event { .. } | Record::Gap { .. } | Record::Unknown { .. } => {}
        }
        making.failed.is_none()
    })?;
    let samples = timeline.finish(survey.ended, &mut making.mixdown);
    making.drain();
    let peaks = making.finish()?;
    let millis = |place: u64| place * 1_000 / u64::from(encoding.rate());
    let pauses = timeline.pauses().iter().map(|(since, until)| (millis(*since), millis(*until))).collect();
    let (corrections, corrections_more) = timeline.corrections();
    let corrections = corrections.to_vec();
    let ledger = timeline.ledger().clone();
    let (segments, segments_more) = segments.finish();
    let bytes = samples * encoding.sample_bytes() as u64 * 2;
    Ok(Finished {
        tenant: survey.tenant,
        started_at: survey.clocks.unix(timeline.began()),
        encoding,
        samples,
        verdict: ledger.verdict(survey.expected.as_deref()),
        sha256: digest(&audio::Reader::new(file.try_clone()?, id, key, bytes), encoding, bytes)?,
        ledger,
        undecodable,
        detail: Detail {
            pauses,
            peaks,
            announced: survey.announced,
            is_ended: survey.expected.is_some(),
            segments,
            segments_more,
            corrections,
            corrections_more,
        },
    })
}

struct Making {
    mixdown: Mixdown,
    writer: audio::Writer,
    peaks: Peaks,
    encoding: Encoding,
    frames: Vec<u8>,
    failed: Option<io::Error>,
}

impl Making {
    fn drain(&mut self) {
        loop {
            self.frames.clear();
            if self.mixdown.take(FRAMES_AT_ONCE, &mut self.frames) == 0 || self.failed.is_some() {
                return;
            }
            self.peaks.add(self.encoding, &self.frames);
            self.failed = self.writer.write(&self.frames).err();
        }
    }

    fn finish(self) -> io::Result<Peaks> {
        match self.failed {
            Some(error) => Err(error),
            None => self.writer.finish().map(|()| self.peaks),
        }
    }
}

fn survey(store: &Chunks) -> io::Result<Survey> {
    let mut tenant = String::new();
    let (mut arrivals, mut clocks, mut ended) = (None, Clocks::default(), Instant::ZERO);
    let (mut expected, mut announced) = (None, Vec::new());
    let upto = each(store, u64::MAX, |record, chunk| {
        let (Record::Frame(Frame { at, .. }) | Record::Mark { at, .. }) = record else { return true };
        ended = ended.max(at);
        let arrivals = arrivals.get_or_insert_with(|| {
            clocks = chunk.clocks;
            Arrivals::new(at)
        });
        match record {
            Record::Frame(frame) => arrivals.on_frame(&frame),
            Record::Mark { at, mark, .. } => {
                arrivals.on_mark(at, &mark);
                match mark {
                    Mark::Begin { tenant: own } => tenant = own,
                    Mark::Ended { frames } => expected = Some(frames),
                    Mark::Announced { leg, announce, played } => announced.push(Announced { leg, announce, played }),
                    Mark::Formats { .. } | Mark::Paused | Mark::Resumed | Mark::Untaped { .. } => {}
                }
            }
            Record::Event { .. } | Record::Gap { .. } | Record::Unknown { .. } => {}
        }
        true
    })?;
    announced.sort_by_key(|announced| announced.leg);
    let courses = arrivals.unwrap_or_else(|| Arrivals::new(Instant::ZERO)).finish();
    Ok(Survey { tenant, ended, clocks, upto, courses, expected, announced })
}

/// Every record before `upto`, in order, until one is refused; says where the next would be.
fn each(store: &Chunks, upto: u64, mut on_record: impl FnMut(Record<'_>, &Chunk) -> bool) -> io::Result<u64> {
    let mut position = Chunks::FIRST;
    while position < upto
        && let Some(chunk) = store.read(position)?
    {
        position = chunk.next;
        if !records(&chunk.records).flatten().all(|record| on_record(record, &chunk)) {
            break;
        }
    }
    Ok(position)
}

fn digest(reader: &audio::Reader, encoding: Encoding, bytes: u64) -> io::Result<String> {
    let view = View { encoding, channels: Channels::Stereo, is_pcm: false };
    let mut hash = Sha256::new();
    hash.update(wav::header(view.format(), bytes).map_err(io::Error::other)?);
    let mut at = 0;
    while at < bytes {
        let part = reader.read(at, audio::CHUNK_BYTES)?;
        if part.is_empty() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        at += part.len() as u64;
        hash.update(&part);
    }
    Ok(hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
}
