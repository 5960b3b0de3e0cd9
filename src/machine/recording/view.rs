//! What can be heard of a recording: both channels, one of them, or both as one; and how loud it is where.
//!
//! Each frame of a view comes from one frame of the recording, so that any range of it can be made alone.

use serde::Deserialize;
use serde::Serialize;

use crate::machine::recording::mixdown::Encoding;
use crate::wire::wav;

/// Above this the sum of two voices is bent, so that it never reaches the end of the scale.
const KNEE: i32 = 24_000;
const PEAKS_MAX: usize = 4_096;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Channels {
    /// Caller left, callee right.
    #[default]
    Stereo,
    /// The caller.
    Left,
    /// The callee.
    Right,
    /// Both in one.
    Mono,
}

/// A view of a recording of `encoding`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct View {
    pub encoding: Encoding,
    pub channels: Channels,
    /// PCM, even where the recording's own bytes would do.
    pub is_pcm: bool,
}

impl View {
    pub const fn format(&self) -> wav::Format {
        let is_mixed = matches!(self.channels, Channels::Mono);
        let encoding = if is_mixed || self.is_pcm { wav::Encoding::Pcm16 } else { self.encoding.wav() };
        let channels = if matches!(self.channels, Channels::Stereo) { 2 } else { 1 };
        wav::Format { encoding, channels, rate: self.encoding.rate() }
    }

    /// Bytes of a frame of the recording.
    pub const fn stored_bytes(&self) -> usize {
        self.encoding.sample_bytes() * 2
    }

    /// Appends the view of whole frames.
    pub fn render(&self, stored: &[u8], out: &mut Vec<u8>) {
        let unit = self.encoding.sample_bytes();
        let target = self.format().encoding;
        for frame in stored.chunks_exact(unit * 2) {
            let (left, right) = frame.split_at(unit);
            let own = |sample: &[u8], out: &mut Vec<u8>| {
                if target == self.encoding.wav() {
                    out.extend_from_slice(sample);
                } else {
                    out.extend_from_slice(&self.sample(sample).to_le_bytes());
                }
            };
            match self.channels {
                Channels::Stereo => {
                    own(left, out);
                    own(right, out);
                }
                Channels::Left => own(left, out),
                Channels::Right => own(right, out),
                Channels::Mono => out.extend_from_slice(&mix(self.sample(left), self.sample(right)).to_le_bytes()),
            }
        }
    }

    fn sample(&self, bytes: &[u8]) -> i16 {
        sample(self.encoding, bytes)
    }
}

fn sample(encoding: Encoding, bytes: &[u8]) -> i16 {
    match (encoding, bytes) {
        (Encoding::G711(law), [byte, ..]) => law.decode(*byte),
        (Encoding::Pcm { .. }, [low, high, ..]) => i16::from_le_bytes([*low, *high]),
        _ => 0,
    }
}

/// The sum, bent towards the end of the scale and never beyond it.
pub fn mix(left: i16, right: i16) -> i16 {
    let sum = i32::from(left) + i32::from(right);
    let over = sum.abs() - KNEE;
    if over <= 0 {
        return sum as i16;
    }
    let room = i32::from(i16::MAX) - KNEE;
    let bent = KNEE + room * over / (room + over);
    (if sum < 0 { -bent } else { bent }) as i16
}

/// The loudest sample of each stretch, both channels: a waveform to draw. Stretches grow with the recording.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Peaks {
    /// Frames of a stretch.
    pub stretch: u32,
    /// Of 255, by channel.
    pub peaks: Vec<[u8; 2]>,
    #[serde(skip)]
    filled: u32,
}

impl Peaks {
    pub fn new(encoding: Encoding) -> Self {
        Self { stretch: encoding.rate() / 50, peaks: Vec::new(), filled: 0 }
    }

    pub fn add(&mut self, encoding: Encoding, stored: &[u8]) {
        let unit = encoding.sample_bytes();
        for frame in stored.chunks_exact(unit * 2) {
            if self.filled == 0 {
                self.begin();
            }
            let (left, right) = frame.split_at(unit);
            if let Some(peak) = self.peaks.last_mut() {
                let level = |bytes: &[u8]| (sample(encoding, bytes).unsigned_abs() >> 7).min(255) as u8;
                *peak = [peak[0].max(level(left)), peak[1].max(level(right))];
            }
            self.filled = (self.filled + 1) % self.stretch;
        }
    }

    fn begin(&mut self) {
        if self.peaks.len() >= PEAKS_MAX {
            let (pairs, _) = self.peaks.as_chunks::<2>();
            self.peaks = pairs.iter().map(|[one, two]| [one[0].max(two[0]), one[1].max(two[1])]).collect();
            self.stretch *= 2;
        }
        self.peaks.push([0, 0]);
    }
}
