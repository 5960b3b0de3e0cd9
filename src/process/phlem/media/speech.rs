//! What a phone says: frames of G.711 in a loop, made up or from a WAV file.

use std::sync::Arc;
use std::sync::OnceLock;

use crate::process::phlem::media::frame;
use crate::process::phlem::media::synthesis;
use crate::process::phlem::media::synthesis::Throat;
use crate::wire::g711::FRAME_SAMPLES;
use crate::wire::g711::Law;
use crate::wire::g711::SAMPLES_PER_SECOND;
use crate::wire::wav::BadWav;
use crate::wire::wav::Wav;

/// Different voices that phones are dealt.
const VOICES: usize = 6;
/// Said for so long, then again from the start.
const SECONDS_MAX: usize = 600;

const WORDS: [&str; VOICES] = [
    "h ax l ow , dh ih s ih z t ih p r ih ng . h aw d uw y uw h iy r m iy .",
    "w ah n , t uw , th r iy , f ao r , f ay v , s ih k s , s eh v ax n , ey t , n ay n , t eh n .",
    "dh ax l ay n ih z k l iy r . ay h iy r y uw v eh r iy w eh l , th ae ng k y uw .",
    "g uh d m ao r n ih ng . w iy m iy t ae t t eh n , ax n d dh eh n w iy k ao l dh ax sh ao p .",
    "y eh s . n ow . m ey b iy , l eh t m iy s iy . y eh s , t uw m ao r ow ih z f ay n .",
    "dh ax k w ih k b r aw n f aa k s jh ah m p s ow v er dh ax l ey z iy d ao g .",
];
const THROATS: [Throat; VOICES] = [
    Throat { pitch: 112.0, formants: 1.0, pace: 1.0 },
    Throat { pitch: 195.0, formants: 1.14, pace: 1.05 },
    Throat { pitch: 98.0, formants: 0.98, pace: 0.92 },
    Throat { pitch: 214.0, formants: 1.16, pace: 1.1 },
    Throat { pitch: 135.0, formants: 1.03, pace: 1.0 },
    Throat { pitch: 178.0, formants: 1.1, pace: 0.95 },
];
/// For people who call an emulated phone.
const GREETING: &str = "h ax l ow . dh ih s ih z ax t eh s t f ow n ah v t ih p r ih ng . y ao r l ay n w er k s . \
    w ah n , t uw , th r iy , f ao r , f ay v . h ae ng ah p w eh n y uw l ay k . . .";

/// Frames that are shared by all who say them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Speech {
    law: Law,
    /// Whole frames, at least one.
    frames: Arc<[[u8; FRAME_SAMPLES]]>,
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadSpeech {
    #[error(transparent)]
    Wav(#[from] BadWav),
    #[error("{0} samples a second: speech files have 8000; sox IN.wav -r 8000 -c 1 -b 16 OUT.wav makes them so")]
    Rate(u32),
    #[error("the speech file has no audio")]
    Empty,
}

impl Speech {
    /// One of a few voices, by number.
    pub fn voice(number: u64, law: Law) -> Self {
        static MU: [OnceLock<Speech>; VOICES] = [const { OnceLock::new() }; VOICES];
        static A: [OnceLock<Speech>; VOICES] = [const { OnceLock::new() }; VOICES];
        let index = (number % VOICES as u64) as usize;
        let made = if law == Law::Mu { &MU } else { &A };
        made[index].get_or_init(|| Self::of(&synthesis::speak(WORDS[index], THROATS[index]), law)).clone()
    }

    pub fn greeting(law: Law) -> Self {
        Self::of(&synthesis::speak(GREETING, THROATS[4]), law)
    }

    /// The first channel of a WAV file of 8,000 samples a second.
    pub fn from_wav(file: &[u8], law: Law) -> Result<Self, BadSpeech> {
        let wav = Wav::parse(file)?;
        if wav.format.rate != SAMPLES_PER_SECOND {
            return Err(BadSpeech::Rate(wav.format.rate));
        }
        let samples: Vec<i16> = wav.samples(0).take(SECONDS_MAX * SAMPLES_PER_SECOND as usize).collect();
        if samples.is_empty() { Err(BadSpeech::Empty) } else { Ok(Self::of(&samples, law)) }
    }

    /// `samples` are not empty.
    fn of(samples: &[i16], law: Law) -> Self {
        let frame = |samples: &[i16]| {
            let mut frame = [law.silence(); FRAME_SAMPLES];
            law.encode_all(samples, &mut frame);
            frame::prepare(&mut frame, law);
            frame
        };
        Self { law, frames: samples.chunks(FRAME_SAMPLES).map(frame).collect() }
    }

    pub const fn law(&self) -> Law {
        self.law
    }

    pub fn len(&self) -> usize {
        self.frames.len()
    }

    pub fn is_empty(&self) -> bool {
        self.frames.is_empty()
    }

    /// Counted round and round.
    #[inline]
    pub fn frame(&self, number: usize) -> [u8; FRAME_SAMPLES] {
        let number = number % self.frames.len().max(1);
        self.frames.get(number).copied().unwrap_or_else(|| [self.law.silence(); FRAME_SAMPLES])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::wav;

    fn level(samples: &[i16]) -> f64 {
        let sum: f64 = samples.iter().map(|sample| f64::from(*sample).powi(2)).sum();
        (sum / samples.len() as f64).sqrt()
    }

    #[test]
    fn voices_speak_and_pause_at_the_level_of_speech() {
        for number in 0..VOICES as u64 {
            let speech = Speech::voice(number, Law::Mu);
            let samples: Vec<i16> = speech.frames.iter().flatten().map(|byte| Law::Mu.decode(*byte)).collect();
            assert!((100..1_000).contains(&speech.len()), "voice {number}: {} frames", speech.len());
            let whole = level(&samples);
            assert!((800.0..5_000.0).contains(&whole), "voice {number}: level {whole}");
            let levels: Vec<f64> = samples.chunks(FRAME_SAMPLES).map(level).collect();
            let quiet = levels.iter().filter(|level| **level < whole / 10.0).count();
            assert!(
                quiet * 20 > levels.len() && quiet * 2 < levels.len(),
                "voice {number}: {quiet} of {}",
                levels.len()
            );
            let crossings = samples.windows(2).filter(|pair| (pair[0] < 0) != (pair[1] < 0)).count();
            let frequency = crossings * 4_000 / samples.len();
            assert!((200..2_500).contains(&frequency), "voice {number}: {frequency} Hz");
        }
        assert_ne!(Speech::voice(0, Law::A), Speech::voice(1, Law::A));
        assert_eq!(Speech::of(&synthesis::speak(WORDS[0], THROATS[0]), Law::A), Speech::voice(0, Law::A));
        assert!(Speech::greeting(Law::Mu).len() > 200);
    }

    #[test]
    fn every_sound_is_known() {
        for words in WORDS.iter().chain([&GREETING]) {
            for name in words.split_ascii_whitespace().filter(|name| ![",", "."].contains(name)) {
                let known = !synthesis::is_silent(name);
                assert!(known, "{name}");
            }
        }
    }

    #[test]
    fn files_are_said_as_they_are() {
        let samples: Vec<i16> = (0..400).map(|at| at * 50).collect();
        let speech = Speech::from_wav(&wav::emit_pcm(1, 8_000, &samples).unwrap(), Law::A).unwrap();
        assert_eq!(speech.len(), 3);
        let said: Vec<u8> = (0..3).flat_map(|number| speech.frame(number)).collect();
        let expected = samples.iter().map(|sample| Law::A.encode(*sample)).chain([Law::A.silence(); 80]);
        assert!(said.into_iter().eq(expected));
        assert_eq!(speech.frame(0), speech.frame(3));
        let check = |file: &[u8], error: BadSpeech| assert_eq!(Speech::from_wav(file, Law::A), Err(error));
        check(b"RIFF", BadSpeech::Wav(BadWav::NotWave));
        check(&wav::emit_pcm(1, 16_000, &samples).unwrap(), BadSpeech::Rate(16_000));
        check(&wav::emit_pcm(1, 8_000, &[]).unwrap(), BadSpeech::Empty);
    }
}
