//! Ogg/Opus (RFC 7845) of PCM as it comes. As long to the sample as what went in: the encoder's delay is skipped, its padding cut.
//!
//! No files: bytes come out as they are ready. The same audio gives the same bytes.

use opus_pure::Application;
use opus_pure::OggOpusWriter;
use opus_pure::OpusEncoder;
use opus_pure::OpusHead;
use rubato::FftFixedInOut;
use rubato::Resampler;

/// Rates that the encoder takes.
const RATES: [u32; 5] = [8_000, 12_000, 16_000, 24_000, 48_000];
/// Ticks a second of positions in the file, whatever the rate of the audio.
const TICKS: u64 = 48_000;
/// Frames of 20 ms.
const FRAMES_PER_SECOND: u32 = 50;
const FRAME_TICKS: u32 = TICKS as u32 / FRAMES_PER_SECOND;
/// Of a channel; speech is clear with it.
const BITS_PER_SECOND: i32 = 32_000;
/// Of 10: half the work of the most for a difference that speech hardly has.
const COMPLEXITY: i32 = 5;
const PACKET_BYTES_MAX: usize = 4_000;

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OggError {
    #[error("there is no Opus of {0} samples a second")]
    Rate(u32),
    #[error("the encoder failed")]
    Encoder,
}

impl From<opus_pure::Error> for OggError {
    fn from(_: opus_pure::Error) -> Self {
        Self::Encoder
    }
}

/// Audio of a rate that Opus does not know, brought to the next that it knows.
struct Raising {
    resampler: FftFixedInOut<f32>,
    channels: usize,
    /// Of each channel.
    waiting: Vec<Vec<f32>>,
    /// Samples of the delay that are still to come out.
    delay: usize,
}

impl Raising {
    fn new(from: u32, to: u32, channels: usize) -> Option<Self> {
        let chunk = (from / FRAMES_PER_SECOND) as usize;
        let resampler = FftFixedInOut::new(from as usize, to as usize, chunk, channels).ok()?;
        let delay = resampler.output_delay();
        Some(Self { resampler, channels, waiting: vec![Vec::new(); channels], delay })
    }

    fn push(&mut self, samples: impl Iterator<Item = i16>, out: &mut Vec<i16>) {
        for (number, sample) in samples.enumerate() {
            if let Some(channel) = self.waiting.get_mut(number % self.channels) {
                channel.push(f32::from(sample) / 32_768.0);
            }
        }
        loop {
            let chunk = self.resampler.input_frames_next();
            if self.waiting.iter().any(|channel| channel.len() < chunk) {
                return;
            }
            let made =
                self.resampler.process(&self.waiting.iter().map(|channel| &channel[..chunk]).collect::<Vec<_>>(), None);
            self.waiting.iter_mut().for_each(|channel| drop(channel.drain(..chunk)));
            let made = made.unwrap_or_default();
            let samples = made.first().map_or(0, Vec::len);
            let late = self.delay.min(samples);
            self.delay -= late;
            for at in late..samples {
                // A cast from f32 saturates.
                out.extend(made.iter().map(|channel| (channel[at] * 32_768.0).round() as i16));
            }
        }
    }

    /// What is still in it: silence drives it out.
    fn finish(&mut self, out: &mut Vec<i16>) {
        let chunk = self.resampler.input_frames_next();
        self.push(std::iter::repeat_n(0, 4 * chunk * self.channels), out);
    }
}

pub struct OggOpus {
    raising: Option<Raising>,
    /// Of what comes.
    source_rate: u32,
    encoder: OpusEncoder,
    writer: OggOpusWriter<Vec<u8>>,
    channels: usize,
    rate: u32,
    pre_skip: u64,
    /// Interleaved samples that do not fill a frame.
    waiting: Vec<i16>,
    /// Samples of each channel that came.
    came: u64,
    /// Ticks that were written.
    written: u64,
    packet: Vec<u8>,
}

impl OggOpus {
    pub fn new(rate: u32, channels: u16) -> Result<Self, OggError> {
        let source_rate = rate;
        let rate = RATES.into_iter().find(|known| *known >= rate).ok_or(OggError::Rate(rate))?;
        let channels = usize::from(channels);
        let raising = match rate == source_rate {
            true => None,
            false => Some(Raising::new(source_rate, rate, channels).ok_or(OggError::Rate(source_rate))?),
        };
        let mut encoder = OpusEncoder::new(rate.cast_signed(), channels, Application::Audio)?;
        encoder.bitrate_bps = BITS_PER_SECOND * i32::from(channels as u8);
        encoder.complexity = COMPLEXITY;
        let head = OpusHead::for_encoder(&encoder, source_rate);
        let pre_skip = u64::from(head.pre_skip);
        let writer = OggOpusWriter::new(Vec::new(), head)?;
        let (waiting, packet) = (Vec::new(), vec![0; PACKET_BYTES_MAX]);
        Ok(Self {
            raising,
            source_rate,
            encoder,
            writer,
            channels,
            rate,
            pre_skip,
            waiting,
            came: 0,
            written: 0,
            packet,
        })
    }

    /// Takes whole blocks of PCM of 16 bits, little-endian, and appends what is ready.
    pub fn push(&mut self, pcm: &[u8], out: &mut Vec<u8>) -> Result<(), OggError> {
        let (samples, _) = pcm.as_chunks::<2>();
        let own = samples.iter().map(|sample| i16::from_le_bytes(*sample));
        match &mut self.raising {
            Some(raising) => raising.push(own, &mut self.waiting),
            None => self.waiting.extend(own),
        }
        self.came += (samples.len() / self.channels) as u64;
        self.encode_waiting()?;
        self.drain(out);
        Ok(())
    }

    fn encode_waiting(&mut self) -> Result<(), OggError> {
        let frame = self.frame() * self.channels;
        let waiting = std::mem::take(&mut self.waiting);
        let mut frames = waiting.chunks_exact(frame);
        for samples in &mut frames {
            self.encode(samples, FRAME_TICKS)?;
        }
        self.waiting.extend_from_slice(frames.remainder());
        Ok(())
    }

    /// The last page.
    pub fn finish(mut self, out: &mut Vec<u8>) -> Result<(), OggError> {
        let end = self.pre_skip + self.came * TICKS / u64::from(self.source_rate);
        if let Some(raising) = &mut self.raising {
            raising.finish(&mut self.waiting);
        }
        let frame = self.frame() * self.channels;
        while self.written < end {
            let mut samples: Vec<i16> = self.waiting.drain(..frame.min(self.waiting.len())).collect();
            samples.resize(frame, 0);
            // RFC 7845 §4.4: a granule position that is less than the audio's end trims it.
            let ticks = u32::try_from(end - self.written).unwrap_or(FRAME_TICKS).min(FRAME_TICKS);
            self.encode(&samples, ticks)?;
        }
        out.extend(self.writer.finish()?);
        Ok(())
    }

    fn frame(&self) -> usize {
        (self.rate / FRAMES_PER_SECOND) as usize
    }

    fn encode(&mut self, samples: &[i16], ticks: u32) -> Result<(), OggError> {
        let len = self.encoder.encode_s16(samples, self.frame(), &mut self.packet)?;
        self.writer.write_packet_with_duration(self.packet.get(..len).unwrap_or_default(), ticks)?;
        self.written += u64::from(ticks);
        Ok(())
    }

    fn drain(&mut self, out: &mut Vec<u8>) {
        if let Some(sink) = self.writer.get_mut() {
            out.append(sink);
        }
    }
}

#[cfg(test)]
mod tests {
    use opus_pure::OggOpusReader;
    use opus_pure::Trim;

    use super::*;

    fn tone(rate: u32, hertz: f64, samples: usize) -> Vec<i16> {
        let step = std::f64::consts::TAU * hertz / f64::from(rate);
        (0..samples).map(|at| ((at as f64 * step).sin() * 8_000.0) as i16).collect()
    }

    fn coded(rate: u32, channels: u16, samples: &[i16], at_once: usize) -> Vec<u8> {
        let bytes: Vec<u8> = samples.iter().flat_map(|sample| sample.to_le_bytes()).collect();
        let (mut ogg, mut out) = (OggOpus::new(rate, channels).unwrap(), Vec::new());
        bytes.chunks(at_once * 2 * usize::from(channels)).for_each(|part| ogg.push(part, &mut out).unwrap());
        ogg.finish(&mut out).unwrap();
        out
    }

    fn decoded(file: &[u8], rate: u32, channels: usize) -> Vec<i16> {
        let mut reader = OggOpusReader::new(std::io::Cursor::new(file)).unwrap();
        let mut decoder = reader.head().decoder(rate.cast_signed()).unwrap();
        let mut trim = Trim::new(reader.head(), rate.cast_signed(), channels).unwrap();
        let mut samples = Vec::new();
        while let Some(packet) = reader.read_packet().unwrap() {
            let mut room = vec![0i16; 5_760 * channels];
            let count = decoder.decode_s16(&packet.data, 5_760, &mut room).unwrap();
            samples.extend_from_slice(trim.keep(&packet, &room[..count * channels]));
        }
        samples
    }

    /// Power at a frequency, of one channel of two.
    fn power(samples: &[i16], channel: usize, rate: u32, hertz: f64) -> f64 {
        let step = std::f64::consts::TAU * hertz / f64::from(rate);
        let own = samples.chunks_exact(2).map(|pair| f64::from(pair[channel])).enumerate();
        let sums = own.fold((0.0, 0.0), |(sine, cosine), (at, sample)| {
            let phase = at as f64 * step;
            (sine + sample * phase.sin(), cosine + sample * phase.cos())
        });
        (sums.0.powi(2) + sums.1.powi(2)).sqrt() / (samples.len() / 2) as f64
    }

    #[test]
    fn each_party_is_in_its_channel_and_nothing_is_longer_or_shorter() {
        for (rate, length) in [(8_000, 12_345), (16_000, 16_000), (48_000, 48_001), (8_000, 1), (8_000, 0)] {
            let pairs = tone(rate, 440.0, length).into_iter().zip(tone(rate, 1_000.0, length));
            let samples: Vec<i16> = pairs.flat_map(|(left, right)| [left, right]).collect();
            let file = coded(rate, 2, &samples, 1_000);
            assert!(file.starts_with(b"OggS"));
            assert!(file == coded(rate, 2, &samples, 77), "the same however it comes");
            let found = decoded(&file, rate, 2);
            assert_eq!(found.len(), samples.len(), "{rate}");
            if length < 1_000 {
                continue;
            }
            let level = |channel, hertz| power(&found, channel, rate, hertz);
            assert!(level(0, 440.0) > 3_000.0 && level(1, 1_000.0) > 3_000.0, "{rate}");
            assert!(level(0, 1_000.0) < 400.0 && level(1, 440.0) < 400.0, "{rate}");
        }
    }

    #[test]
    fn rates_that_opus_does_not_have_are_raised_to_one_that_it_has() {
        for (rate, heard) in [(44_100, 48_000), (22_050, 24_000), (11_025, 12_000), (32_000, 48_000)] {
            for seconds in [0, 1, 3] {
                let length = rate as usize * seconds + seconds * 77;
                let pairs = tone(rate, 440.0, length).into_iter().zip(tone(rate, 1_000.0, length));
                let samples: Vec<i16> = pairs.flat_map(|(left, right)| [left, right]).collect();
                let file = coded(rate, 2, &samples, 1_000);
                assert!(file == coded(rate, 2, &samples, 77), "the same however it comes");
                let found = decoded(&file, heard, 2);
                let expected = length * heard as usize / rate as usize;
                assert!((found.len() / 2).abs_diff(expected) <= 1, "{rate}: {} of {expected}", found.len() / 2);
                if seconds > 0 {
                    let level = |channel, hertz| power(&found, channel, heard, hertz);
                    assert!(level(0, 440.0) > 3_000.0 && level(1, 1_000.0) > 3_000.0, "{rate}");
                    assert!(level(0, 1_000.0) < 400.0 && level(1, 440.0) < 400.0, "{rate}");
                    let last = &found[found.len() - heard as usize / 10..];
                    assert!(power(last, 0, heard, 440.0) > 2_000.0, "{rate}: its end is there");
                }
            }
        }
        assert_eq!(OggOpus::new(96_000, 1).err(), Some(OggError::Rate(96_000)));
    }
}
