//! Payloads to samples of the recording's rate.
//!
//! A resampler works on a run: audio of one stream without a break. Its delay is taken off at the run's beginning and made up for at
//! its end, so that every run is as long as it should be and begins where it should. Samples by which a sender's clock is held to
//! another do not break a run: what comes out is drawn out, or together, by so little.

use std::collections::BTreeMap;
use std::panic::AssertUnwindSafe;
use std::panic::catch_unwind;

use ezk_g722::libg722::Bitrate;
use ezk_g722::libg722::decoder::Decoder;
use opus_pure::OpusDecoder;
use rubato::FftFixedInOut;
use rubato::Resampler;

use crate::machine::recording::codec::Codec;
use crate::machine::recording::stream::StreamKey;
use crate::machine::recording::timeline::Placed;

/// Decoders with a memory that are kept.
const DECODERS_MAX: usize = 32;
/// Of a second.
const CHUNK: u32 = 100;
/// Of a second: audio that lies so little beside the end of what is there, 0.5 ms, goes on from it.
const BESIDE: u32 = 2_000;

pub(super) struct Converter {
    rate: u32,
    decoders: BTreeMap<StreamKey, Memory>,
    run: Option<Run>,
    /// Stream and end of what came last, where nothing is resampled.
    last: Option<(StreamKey, u64)>,
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
    /// Samples by which what comes out has to be longer than what was put in.
    stretch: i64,
    input: Vec<f32>,
}

impl Converter {
    pub(super) fn new(rate: u32) -> Self {
        Self { rate, decoders: BTreeMap::new(), run: None, last: None, decoded: Vec::new() }
    }

    /// Appends samples, which follow those that were appended before, except at the beginning of a run: `begins` is told its
    /// place when all before is out.
    pub(super) fn convert(&mut self, placed: &Placed<'_>, out: &mut Vec<i16>, begins: impl FnOnce(&mut Vec<i16>, u64)) {
        let mut decoded = std::mem::take(&mut self.decoded);
        decoded.clear();
        self.decode(placed, &mut decoded);
        if placed.codec.rate() == self.rate {
            self.end_run(out);
            let goes_on = self.last.filter(|(stream, _)| *stream == placed.stream);
            let beside = goes_on.and_then(|(_, end)| self.beside(placed, end));
            self.last = Some((placed.stream, placed.at + decoded.len().saturating_sub(placed.skip) as u64));
            match beside {
                Some(by) => stretch(&decoded, by, out),
                None => {
                    begins(out, placed.at);
                    out.extend_from_slice(decoded.get(placed.skip..).unwrap_or_default());
                }
            }
        } else {
            self.last = None;
            self.resample(placed, &decoded, out, begins);
        }
        self.decoded = decoded;
    }

    /// By how many samples what begins nearly where the last ended has to be longer.
    fn beside(&self, placed: &Placed<'_>, end: u64) -> Option<i64> {
        let by = placed.at.cast_signed() - placed.skip as i64 - end.cast_signed();
        (by.unsigned_abs() <= u64::from(self.rate / BESIDE)).then_some(by)
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
        let total = decoded.len() * self.rate as usize / placed.codec.rate() as usize;
        let known = self.run.as_ref().filter(|run| (run.stream, run.codec) == (placed.stream, placed.codec));
        if let Some(by) = known.and_then(|run| self.beside(placed, run.end))
            && let Some(run) = &mut self.run
        {
            run.put(decoded, total);
            run.stretch += by;
            run.end = run.end.saturating_add_signed(by) + total as u64;
            return run.process(out);
        }
        self.end_run(out);
        begins(out, placed.at);
        self.run = Run::new(placed, self.rate);
        let Some(run) = &mut self.run else { return };
        let skipped = decoded.len() * placed.skip.min(total) / total.max(1);
        let kept = total.saturating_sub(placed.skip);
        run.put(decoded.get(skipped..).unwrap_or_default(), kept);
        run.end = placed.at + kept as u64;
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
        let owed = run.owed.cast_signed() + run.stretch as isize;
        out.resize(out.len().saturating_add_signed(owed.max(0)), 0);
    }
}

/// As many samples more, or fewer, spread over all of them: its ends stay where they are, so that nothing breaks.
fn stretch(samples: &[i16], by: i64, out: &mut Vec<i16>) {
    let wanted = samples.len().saturating_add_signed(by as isize);
    if by == 0 || samples.len() < 4 || wanted < 2 {
        out.extend(samples.iter().copied().chain(std::iter::repeat(samples.last().copied().unwrap_or(0))).take(wanted));
        return;
    }
    let step = (samples.len() - 1) as f32 / (wanted - 1) as f32;
    let sample = |at: usize| f32::from(samples.get(at.min(samples.len() - 1)).copied().unwrap_or(0));
    out.extend((0..wanted).map(|number| {
        let at = number as f32 * step;
        let (index, part) = (at as usize, at.fract());
        let [before, one, two, after] =
            [sample(index.saturating_sub(1)), sample(index), sample(index + 1), sample(index + 2)];
        // Catmull and Rom's cubic through the four.
        let slope = (two - before) / 2.0;
        let bend = before - 2.5 * one + 2.0 * two - after / 2.0;
        let twist = (after - before) / 2.0 + 1.5 * (one - two);
        (((twist * part + bend) * part + slope) * part + one).round() as i16
    }));
}

impl Run {
    /// `None`: rates that cannot be converted; there is silence then.
    fn new(placed: &Placed<'_>, rate: u32) -> Option<Self> {
        let from = placed.codec.rate();
        let resampler = FftFixedInOut::new(from as usize, rate as usize, (from / CHUNK).max(1) as usize, 1).ok()?;
        let delay = resampler.output_delay();
        let (stream, codec) = (placed.stream, placed.codec);
        Some(Self { stream, codec, resampler, end: placed.at, owed: 0, delay, stretch: 0, input: Vec::new() })
    }

    fn put(&mut self, decoded: &[i16], owed: usize) {
        self.input.extend(decoded.iter().map(|sample| f32::from(*sample) / 32_768.0));
        self.owed += owed;
    }

    fn process(&mut self, out: &mut Vec<i16>) {
        let first = out.len();
        self.process_straight(out);
        // Of less it would be heard.
        if self.stretch != 0 && out.len() - first >= 64 * self.stretch.unsigned_abs() as usize {
            let samples = out.split_off(first);
            stretch(&samples, self.stretch, out);
            self.stretch = 0;
        }
    }

    fn process_straight(&mut self, out: &mut Vec<i16>) {
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
