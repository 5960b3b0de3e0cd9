//! The two channels of a recording, caller left and callee right, as frames of one sample each.
//!
//! Where all audio is G.711 of one law its bytes are kept as they are; else samples are PCM of 16 bits at the best rate. What one
//! party is ahead of the other waits; silence costs nothing.

use std::collections::VecDeque;

use crate::machine::recording::codec::Codec;
use crate::machine::recording::convert::Converter;
use crate::machine::recording::timeline::Party;
use crate::machine::recording::timeline::Placed;
use crate::machine::recording::timeline::Sink;
use crate::wire::g711;
use crate::wire::g711::Law;
use crate::wire::wav;

/// A gap of so many samples or fewer is the sender's clock being slow: the last sample fills it.
const STRETCH_MAX: u64 = 2;
const RUN_BYTES_MAX: usize = 64 * 1024;

/// How a recording's samples are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Encoding {
    G711(Law),
    /// Little-endian, 16 bits.
    Pcm {
        rate: u32,
    },
}

impl Encoding {
    /// The one that holds audio of all these codecs without loss.
    pub fn of(codecs: impl IntoIterator<Item = Codec>) -> Self {
        let mut found: Option<Self> = None;
        for codec in codecs {
            let own = match codec {
                Codec::G711(law) => Self::G711(law),
                Codec::G722 | Codec::L16 { .. } | Codec::Opus => Self::Pcm { rate: codec.rate() },
            };
            found = Some(match found {
                None => own,
                Some(found) if found == own => own,
                Some(found) => Self::Pcm { rate: found.rate().max(own.rate()) },
            });
        }
        found.unwrap_or(Self::G711(Law::Mu))
    }

    pub const fn rate(self) -> u32 {
        match self {
            Self::G711(_) => g711::SAMPLES_PER_SECOND,
            Self::Pcm { rate } => rate,
        }
    }

    pub const fn sample_bytes(self) -> usize {
        self.wav().sample_bytes()
    }

    pub const fn wav(self) -> wav::Encoding {
        match self {
            Self::G711(law) => wav::Encoding::G711(law),
            Self::Pcm { .. } => wav::Encoding::Pcm16,
        }
    }

    pub(super) const fn silence(self) -> [u8; 2] {
        match self {
            Self::G711(law) => [law.silence(), 0],
            Self::Pcm { .. } => [0, 0],
        }
    }
}

enum Run {
    Silence(u64),
    /// Bytes, and how many of them were taken.
    Audio(Vec<u8>, usize),
}

struct Channel {
    encoding: Encoding,
    runs: VecDeque<Run>,
    /// Place after the last sample.
    end: u64,
    /// Samples that are there.
    ready: u64,
    last: [u8; 2],
    converter: Converter,
    samples: Vec<i16>,
}

pub struct Mixdown {
    encoding: Encoding,
    channels: [Channel; 2],
    taken: u64,
}

impl Mixdown {
    pub fn new(encoding: Encoding) -> Self {
        Self { encoding, channels: [Channel::new(encoding), Channel::new(encoding)], taken: 0 }
    }

    /// Appends frames that are ready in both channels, at most so many; says how many.
    pub fn take(&mut self, frames_max: usize, out: &mut Vec<u8>) -> usize {
        let [left, right] = &mut self.channels;
        let frames = left.ready.min(right.ready).min(frames_max as u64) as usize;
        let unit = self.encoding.sample_bytes();
        let start = out.len();
        out.resize(start + frames * unit * 2, 0);
        let room = &mut out[start..];
        if unit == 1 {
            let frames = room.as_chunks_mut::<2>().0;
            left.take(frames, |frame| &mut frame[0]);
            right.take(frames, |frame| &mut frame[1]);
        } else {
            // Two samples of two bytes each.
            let samples = room.as_chunks_mut::<2>().0;
            let frames = samples.as_chunks_mut::<2>().0;
            left.take(frames, |frame| &mut frame[0]);
            right.take(frames, |frame| &mut frame[1]);
        }
        self.taken += frames as u64;
        frames
    }

    /// Frames that were taken so far.
    pub fn frames(&self) -> u64 {
        self.taken
    }
}

impl Sink for Mixdown {
    fn audio(&mut self, party: Party, placed: Placed<'_>) {
        let channel = &mut self.channels[party as usize];
        match (self.encoding, placed.codec) {
            (Encoding::G711(law), Codec::G711(own)) if law == own => {
                channel.fill(placed.at);
                channel.push(placed.payload.get(placed.skip..).unwrap_or_default());
            }
            _ => channel.convert(&placed),
        }
    }

    fn settled(&mut self, party: Party, place: u64) {
        let channel = &mut self.channels[party as usize];
        if place > channel.end {
            channel.end_run();
            channel.fill(place);
        }
    }
}

impl Channel {
    fn new(encoding: Encoding) -> Self {
        let (runs, samples) = (VecDeque::new(), Vec::new());
        let converter = Converter::new(encoding.rate());
        Self { encoding, runs, end: 0, ready: 0, last: encoding.silence(), converter, samples }
    }

    fn fill(&mut self, place: u64) {
        let gap = place.saturating_sub(self.end);
        if gap == 0 {
            return;
        }
        if gap <= STRETCH_MAX {
            let (last, unit) = (self.last, self.encoding.sample_bytes());
            for _ in 0..gap {
                self.push(last.get(..unit).unwrap_or_default());
            }
            return;
        }
        self.end += gap;
        self.ready += gap;
        match self.runs.back_mut() {
            Some(Run::Silence(samples)) => *samples += gap,
            _ => self.runs.push_back(Run::Silence(gap)),
        }
    }

    fn push(&mut self, bytes: &[u8]) {
        let unit = self.encoding.sample_bytes();
        let samples = (bytes.len() / unit) as u64;
        self.end += samples;
        self.ready += samples;
        if let Some(last) = bytes.rchunks(unit).next() {
            self.last = [last.first().copied().unwrap_or(0), last.get(1).copied().unwrap_or(0)];
        }
        match self.runs.back_mut() {
            Some(Run::Audio(run, _)) if run.len() < RUN_BYTES_MAX => run.extend_from_slice(bytes),
            _ => self.runs.push_back(Run::Audio(bytes.to_vec(), 0)),
        }
    }

    fn convert(&mut self, placed: &Placed<'_>) {
        let mut samples = std::mem::take(&mut self.samples);
        samples.clear();
        let mut converter = std::mem::replace(&mut self.converter, Converter::new(self.encoding.rate()));
        converter.convert(placed, &mut samples, |before, place| {
            self.push_samples(before);
            before.clear();
            self.fill(place);
        });
        self.converter = converter;
        self.push_samples(&samples);
        self.samples = samples;
    }

    fn end_run(&mut self) {
        let mut samples = std::mem::take(&mut self.samples);
        samples.clear();
        self.converter.end_run(&mut samples);
        self.push_samples(&samples);
        self.samples = samples;
    }

    fn push_samples(&mut self, samples: &[i16]) {
        let bytes: Vec<u8> = match self.encoding {
            Encoding::G711(law) => samples.iter().map(|sample| law.encode(*sample)).collect(),
            Encoding::Pcm { .. } => samples.iter().flat_map(|sample| sample.to_le_bytes()).collect(),
        };
        if !bytes.is_empty() {
            self.push(&bytes);
        }
    }

    /// Into the party's sample of each frame.
    fn take<F, S: Sample>(&mut self, frames: &mut [F], own: impl Fn(&mut F) -> &mut S) {
        let silence = S::read(&self.encoding.silence());
        self.ready -= frames.len() as u64;
        let mut rest = frames;
        while !rest.is_empty() {
            let Some(run) = self.runs.front_mut() else { break };
            let (took, is_used_up) = match run {
                Run::Silence(samples) => {
                    let took = usize::try_from(*samples).unwrap_or(usize::MAX).min(rest.len());
                    *samples -= took as u64;
                    rest.iter_mut().take(took).for_each(|frame| *own(frame) = silence);
                    (took, *samples == 0)
                }
                Run::Audio(bytes, used) => {
                    let samples = bytes.get(*used..).unwrap_or_default().chunks_exact(S::BYTES);
                    let took = samples.len().min(rest.len());
                    rest.iter_mut().zip(samples).for_each(|(frame, sample)| *own(frame) = S::read(sample));
                    *used += took * S::BYTES;
                    (took, *used >= bytes.len())
                }
            };
            rest = rest.get_mut(took..).unwrap_or_default();
            if is_used_up {
                self.runs.pop_front();
            } else if took == 0 {
                break;
            }
        }
    }
}

/// A sample as it is kept.
trait Sample: Copy + Default {
    const BYTES: usize;

    fn read(bytes: &[u8]) -> Self;
}

impl Sample for u8 {
    const BYTES: usize = 1;

    fn read(bytes: &[u8]) -> Self {
        bytes.first().copied().unwrap_or_default()
    }
}

impl Sample for [u8; 2] {
    const BYTES: usize = 2;

    fn read(bytes: &[u8]) -> Self {
        bytes.first_chunk().copied().unwrap_or_default()
    }
}
