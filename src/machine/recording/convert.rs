//! Payloads to samples of the recording's rate.
//!
//! A resampler works on a run: audio of one stream without a break. Its delay is taken off at the run's beginning and made up for at
//! its end, so that every run is as long as it should be and begins where it should.

use std::collections::BTreeMap;
use std::panic::AssertUnwindSafe;
use std::panic::catch_unwind;

use ezk_g722::libg722::Bitrate;
use ezk_g722::libg722::decoder::Decoder;
use opus_pure::OpusDecoder;
use rubato::FftFixedInOut;
use rubato::Resampler;

use crate::machine::recording::codec::Codec;
use crate::machine::recording::timeline::Placed;
use crate::machine::recording::timeline::StreamKey;

/// Decoders with a memory that are kept.
const DECODERS_MAX: usize = 32;
/// Of a second.
const CHUNK: u32 = 100;

pub(super) struct Converter {
    rate: u32,
    decoders: BTreeMap<StreamKey, Memory>,
    run: Option<Run>,
    decoded: Vec<i16>,
}

/// What a decoder remembers of its stream.
enum Memory {
    G722(Box<Decoder>),
    Opus(Box<OpusDecoder>),
}

struct Run {
    stream: StreamKey,
    codec: Codec,
    resampler: FftFixedInOut<f32>,
    /// Place after the last sample that was put in.
    end: u64,
    /// Samples that are still to come out, and those of the delay before them.
    owed: usize,
    delay: usize,
    input: Vec<f32>,
}

impl Converter {
    pub(super) fn new(rate: u32) -> Self {
        Self { rate, decoders: BTreeMap::new(), run: None, decoded: Vec::new() }
    }

    /// Appends samples, which follow those that were appended before, except at the beginning of a run: `begins` is told its
    /// place when all before is out.
    pub(super) fn convert(&mut self, placed: &Placed<'_>, out: &mut Vec<i16>, begins: impl FnOnce(&mut Vec<i16>, u64)) {
        let mut decoded = std::mem::take(&mut self.decoded);
        decoded.clear();
        self.decode(placed, &mut decoded);
        if placed.codec.rate() == self.rate {
            self.end_run(out);
            begins(out, placed.at);
            out.extend_from_slice(decoded.get(placed.skip..).unwrap_or_default());
        } else {
            self.resample(placed, &decoded, out, begins);
        }
        self.decoded = decoded;
    }

    fn decode(&mut self, placed: &Placed<'_>, out: &mut Vec<i16>) {
        match placed.codec {
            Codec::G711(law) => out.extend(placed.payload.iter().map(|byte| law.decode(*byte))),
            Codec::G722 => {
                let new = || Some(Memory::G722(Box::new(Decoder::new(Bitrate::Mode1_64000, false, false))));
                if let Some(Memory::G722(decoder)) =
                    self.memory(placed.stream, |memory| matches!(memory, Memory::G722(_)), new)
                {
                    out.extend(decoder.decode(placed.payload));
                }
            }
            Codec::Opus => self.decode_opus(placed, out),
            Codec::L16 { channels, .. } => {
                let channels = i32::from(channels);
                // RFC 3551 §4.5.11: L16 is in network byte order; the channels of one sample follow each other.
                for sample in placed.payload.chunks_exact(2 * channels.unsigned_abs() as usize) {
                    let (pairs, _) = sample.as_chunks::<2>();
                    let sum: i32 = pairs.iter().map(|pair| i32::from(i16::from_be_bytes(*pair))).sum();
                    out.push((sum / channels) as i16);
                }
            }
        }
    }

    /// What no encoder made is silence, as long as it says. Both channels of stereo come as one.
    fn decode_opus(&mut self, placed: &Placed<'_>, out: &mut Vec<i16>) {
        let (start, samples) = (out.len(), placed.codec.samples(placed.payload));
        out.resize(start + samples, 0);
        let room = out.get_mut(start..).unwrap_or_default();
        let new = || OpusDecoder::new(placed.codec.rate() as i32, 1).ok().map(|new| Memory::Opus(Box::new(new)));
        let is_own = |memory: &Memory| matches!(memory, Memory::Opus(_));
        let Some(Memory::Opus(decoder)) = self.memory(placed.stream, is_own, new) else { return };
        // A fault of the decoder must cost a packet, not the recording.
        let decoded = catch_unwind(AssertUnwindSafe(|| decoder.decode_s16(placed.payload, samples, room).is_ok()));
        if !matches!(decoded, Ok(true)) {
            room.fill(0);
        }
        if decoded.is_err() {
            self.decoders.remove(&placed.stream);
        }
    }

    /// The stream's decoder, which is another where its codec has changed.
    fn memory(
        &mut self,
        stream: StreamKey,
        is_own: impl Fn(&Memory) -> bool,
        new: impl FnOnce() -> Option<Memory>,
    ) -> Option<&mut Memory> {
        if !self.decoders.get(&stream).is_some_and(is_own) {
            self.decoders.insert(stream, new()?);
            if self.decoders.len() > DECODERS_MAX {
                let other = self.decoders.keys().find(|key| **key != stream).copied();
                other.and_then(|other| self.decoders.remove(&other));
            }
        }
        self.decoders.get_mut(&stream)
    }

    fn resample(
        &mut self,
        placed: &Placed<'_>,
        decoded: &[i16],
        out: &mut Vec<i16>,
        begins: impl FnOnce(&mut Vec<i16>, u64),
    ) {
        let goes_on = |run: &Run| {
            (run.stream, run.codec, run.end) == (placed.stream, placed.codec, placed.at) && placed.skip == 0
        };
        if !self.run.as_ref().is_some_and(goes_on) {
            self.end_run(out);
            begins(out, placed.at);
            self.run = Run::new(placed, self.rate);
        }
        let total = decoded.len() * self.rate as usize / placed.codec.rate() as usize;
        let skipped = decoded.len() * placed.skip.min(total) / total.max(1);
        let Some(run) = &mut self.run else { return };
        run.owed += total.saturating_sub(placed.skip);
        run.end = placed.at + total.saturating_sub(placed.skip) as u64;
        run.input.extend(decoded.iter().skip(skipped).map(|sample| f32::from(*sample) / 32_768.0));
        run.process(out);
    }

    /// What is owed of the last run comes out.
    pub(super) fn end_run(&mut self, out: &mut Vec<i16>) {
        let Some(mut run) = self.run.take() else { return };
        // The delay is less than two chunks, and the rest of a chunk waits.
        for _ in 0..4 {
            if run.owed > 0 {
                let chunk = run.resampler.input_frames_next();
                run.input.resize(run.input.len().next_multiple_of(chunk).max(chunk), 0.0);
                run.process(out);
            }
        }
        out.resize(out.len() + run.owed, 0);
    }
}

impl Run {
    /// `None`: rates that cannot be converted; there is silence then.
    fn new(placed: &Placed<'_>, rate: u32) -> Option<Self> {
        let from = placed.codec.rate();
        let resampler = FftFixedInOut::new(from as usize, rate as usize, (from / CHUNK).max(1) as usize, 1).ok()?;
        let delay = resampler.output_delay();
        let (stream, codec) = (placed.stream, placed.codec);
        Some(Self { stream, codec, resampler, end: placed.at, owed: 0, delay, input: Vec::new() })
    }

    fn process(&mut self, out: &mut Vec<i16>) {
        let chunk = self.resampler.input_frames_next();
        let mut used = 0;
        while let Some(input) = self.input.get(used..used + chunk) {
            used += chunk;
            let Ok(made) = self.resampler.process(&[input], None) else { break };
            let samples = made.first().map(Vec::as_slice).unwrap_or_default();
            let late = self.delay.min(samples.len());
            self.delay -= late;
            let take = (samples.len() - late).min(self.owed);
            self.owed -= take;
            // A cast from f32 saturates.
            out.extend(samples.iter().skip(late).take(take).map(|sample| (sample * 32_768.0).round() as i16));
        }
        self.input.drain(..used.min(self.input.len()));
    }
}
