//! Speech from formants: a voice box of a pulse train and noise behind four resonators, driven by a table of sounds.
//!
//! For lines under test: it has the levels, the pauses and the spectrum of speech, and with good will it is understood. The same words
//! give the same samples.

use std::f64::consts::PI;

use crate::base::random::Random;

const RATE: f64 = 8_000.0;
/// Samples between two settings of the resonators.
const STEP: usize = 40;
/// Root mean square with the pauses, about −26 dB below the loudest sine.
const LEVEL: f64 = 1_600.0;
const PEAK: f64 = 14_000.0;
/// Samples before and after one that say how loud it is by itself: two periods of a deep voice.
const AROUND: usize = 160;
const TRANSITION_MILLIS: f64 = 45.0;
const BANDWIDTHS: [f64; 4] = [70.0, 100.0, 160.0, 300.0];
/// The fourth formant hardly moves.
const FOURTH: f64 = 3_400.0;

/// One sound: how much of it is voice, how much noise, where the formants are, how long it lasts.
#[derive(Clone, Copy, Debug)]
struct Sound {
    voice: f64,
    noise: f64,
    formants: [f64; 3],
    millis: f64,
}

const fn sound(voice: f64, noise: f64, formants: [f64; 3], millis: f64) -> Sound {
    Sound { voice, noise, formants, millis }
}

/// Formants of vowels after Peterson and Barney (1952), of consonants as textbooks have them.
fn find(name: &str) -> Sound {
    match name {
        "iy" => sound(1.0, 0.0, [270.0, 2_290.0, 3_010.0], 110.0),
        "ih" => sound(1.0, 0.0, [390.0, 1_990.0, 2_550.0], 90.0),
        "eh" => sound(1.0, 0.0, [530.0, 1_840.0, 2_480.0], 100.0),
        "ae" => sound(1.0, 0.0, [660.0, 1_720.0, 2_410.0], 120.0),
        "aa" => sound(1.0, 0.0, [730.0, 1_090.0, 2_440.0], 120.0),
        "ao" => sound(1.0, 0.0, [570.0, 840.0, 2_410.0], 120.0),
        "uh" => sound(1.0, 0.0, [440.0, 1_020.0, 2_240.0], 80.0),
        "uw" => sound(1.0, 0.0, [300.0, 870.0, 2_240.0], 120.0),
        "ah" => sound(1.0, 0.0, [640.0, 1_190.0, 2_390.0], 100.0),
        "er" => sound(1.0, 0.0, [490.0, 1_350.0, 1_690.0], 110.0),
        "ax" => sound(0.8, 0.0, [500.0, 1_500.0, 2_500.0], 60.0),
        "m" => sound(0.45, 0.0, [250.0, 1_000.0, 2_200.0], 75.0),
        "n" => sound(0.45, 0.0, [250.0, 1_600.0, 2_600.0], 70.0),
        "ng" => sound(0.45, 0.0, [250.0, 1_950.0, 2_500.0], 90.0),
        "l" => sound(0.6, 0.0, [360.0, 1_000.0, 2_600.0], 70.0),
        "r" => sound(0.6, 0.0, [420.0, 1_200.0, 1_600.0], 75.0),
        "w" => sound(0.55, 0.0, [300.0, 700.0, 2_200.0], 70.0),
        "y" => sound(0.55, 0.0, [270.0, 2_200.0, 3_000.0], 65.0),
        "v" => sound(0.35, 0.06, [250.0, 1_100.0, 2_300.0], 70.0),
        "dh" => sound(0.35, 0.05, [280.0, 1_350.0, 2_500.0], 55.0),
        "z" => sound(0.3, 0.12, [260.0, 1_800.0, 3_300.0], 80.0),
        "s" => sound(0.0, 0.22, [1_300.0, 2_700.0, 3_500.0], 105.0),
        "sh" => sound(0.0, 0.22, [1_200.0, 2_200.0, 2_900.0], 110.0),
        "zh" => sound(0.3, 0.12, [280.0, 1_900.0, 2_700.0], 70.0),
        "f" => sound(0.0, 0.08, [900.0, 1_600.0, 3_000.0], 90.0),
        "th" => sound(0.0, 0.08, [1_000.0, 1_900.0, 3_200.0], 85.0),
        "h" => sound(0.0, 0.09, [500.0, 1_500.0, 2_500.0], 60.0),
        "p!" | "b!" => sound(0.0, 0.16, [500.0, 900.0, 2_200.0], 15.0),
        "t!" | "d!" => sound(0.0, 0.22, [600.0, 2_500.0, 3_400.0], 18.0),
        "k!" | "g!" => sound(0.0, 0.2, [600.0, 1_700.0, 2_300.0], 22.0),
        "closed" => sound(0.0, 0.0, [300.0, 1_300.0, 2_400.0], 55.0),
        "murmur" => sound(0.12, 0.0, [200.0, 1_200.0, 2_300.0], 45.0),
        _ => sound(0.0, 0.0, [500.0, 1_500.0, 2_500.0], if name == "." { 420.0 } else { 170.0 }),
    }
}

const fn loudness(sound: Sound) -> f64 {
    let noise = 1.6 * sound.noise;
    if sound.voice > noise { sound.voice } else { noise }
}

/// Diphthongs and stops are sounds that follow each other.
fn parts(name: &'static str) -> &'static [&'static str] {
    match name {
        "ow" => &["ao", "uh"],
        "ay" => &["aa", "ih"],
        "ey" => &["eh", "iy"],
        "aw" => &["aa", "uh"],
        "jh" => &["murmur", "zh"],
        "p" => &["closed", "p!"],
        "t" => &["closed", "t!"],
        "k" => &["closed", "k!"],
        "b" => &["murmur", "b!"],
        "d" => &["murmur", "d!"],
        "g" => &["murmur", "g!"],
        _ => &[],
    }
}

/// Who speaks.
#[derive(Clone, Copy, Debug)]
pub(super) struct Throat {
    pub(super) pitch: f64,
    /// 1 for a long throat, more for a short one.
    pub(super) formants: f64,
    /// 1; more is faster.
    pub(super) pace: f64,
}

/// Speaks words: sounds divided by blanks, `,` and `.` being pauses.
pub(super) fn speak(words: &'static str, throat: Throat) -> Vec<i16> {
    let mut sounds = Vec::new();
    for name in words.split_ascii_whitespace() {
        match parts(name) {
            [] => sounds.push(find(name)),
            parts => sounds.extend(parts.iter().map(|part| find(part))),
        }
    }
    let mut tract = Tract::new(throat);
    let mut samples = Vec::new();
    let mut from = find(",");
    for (index, sound) in sounds.iter().enumerate() {
        let place = index as f64 / sounds.len() as f64;
        tract.say(from, *sound, place, &mut samples);
        from = *sound;
    }
    even_out(&samples)
}

/// Every sound at its own loudness, whatever its resonances made of it; the whole at the level of speech on a line.
fn even_out(samples: &[Spoken]) -> Vec<i16> {
    let mut powers = Vec::with_capacity(samples.len() + 1);
    let mut sum = 0.0;
    powers.push(sum);
    for spoken in samples {
        sum += spoken.sample * spoken.sample;
        powers.push(sum);
    }
    let even: Vec<f64> = (0..samples.len())
        .map(|at| {
            let (from, to) = (at.saturating_sub(AROUND), (at + AROUND).min(samples.len()));
            let power = (powers[to] - powers[from]) / (to - from) as f64;
            samples[at].sample / (power.sqrt() + 1e-9) * samples[at].loudness
        })
        .collect();
    let power = even.iter().map(|sample| sample * sample).sum::<f64>() / even.len().max(1) as f64;
    let gain = LEVEL / (power.sqrt() + 1e-9);
    // What sticks out is bent, not cut.
    even.iter().map(|sample| ((sample * gain / PEAK).tanh() * PEAK) as i16).collect()
}

/// A sample before its level is known, and how loud its sound is.
#[derive(Clone, Copy, Debug)]
struct Spoken {
    sample: f64,
    loudness: f64,
}

/// What changes while speaking.
struct Tract {
    throat: Throat,
    random: Random,
    resonators: [Resonator; 4],
    /// Of the pulse, 0 to 1.
    phase: f64,
    time: f64,
    flow: f64,
}

impl Tract {
    fn new(throat: Throat) -> Self {
        let random = Random::new(throat.pitch.to_bits());
        Self { throat, random, resonators: [Resonator::default(); 4], phase: 0.0, time: 0.0, flow: 0.0 }
    }

    /// One sound, coming from the one before, at a place of the sentence from 0 to 1.
    fn say(&mut self, from: Sound, to: Sound, place: f64, samples: &mut Vec<Spoken>) {
        let count = (to.millis / self.throat.pace * RATE / 1_000.0) as usize;
        // A burst or a closure is sudden, everything else glides.
        let transition = if to.millis < 30.0 { 4.0 } else { TRANSITION_MILLIS.min(to.millis * 0.6) } / self.throat.pace;
        for index in 0..count {
            let done = (index as f64 * 1_000.0 / RATE / transition).min(1.0);
            let smooth = done * done * (3.0 - 2.0 * done);
            let between = |a: f64, b: f64| a + (b - a) * smooth;
            if index % STEP == 0 {
                let of = |at: usize| between(from.formants[at], to.formants[at]) * self.throat.formants;
                for (resonator, (frequency, width)) in
                    self.resonators.iter_mut().zip([of(0), of(1), of(2), FOURTH].into_iter().zip(BANDWIDTHS))
                {
                    resonator.set(frequency.min(3_800.0), width);
                }
            }
            let pulse = self.pulse(place);
            let noise = self.random.next_u32() as f64 / f64::from(u32::MAX) * 2.0 - 1.0;
            let mut sample = between(from.voice, to.voice) * pulse + between(from.noise, to.noise) * noise * 0.12;
            for resonator in &mut self.resonators {
                sample = resonator.pass(sample);
            }
            samples.push(Spoken { sample, loudness: between(loudness(from), loudness(to)) });
        }
    }

    /// The change of the flow through the glottis (after Rosenberg, 1971); the pitch sinks over a sentence and trembles a little.
    fn pulse(&mut self, place: f64) -> f64 {
        let melody = 1.12 - 0.25 * place + 0.04 * (2.0 * PI * 2.7 * self.time).sin();
        self.phase = (self.phase + self.throat.pitch * melody / RATE).fract();
        self.time += 1.0 / RATE;
        let flow = match self.phase {
            phase if phase < 0.4 => 0.5 - 0.5 * (PI * phase / 0.4).cos(),
            phase if phase < 0.56 => (PI / 2.0 * (phase - 0.4) / 0.16).cos(),
            _ => 0.0,
        };
        let change = flow - self.flow;
        self.flow = flow;
        change
    }
}

/// Klatt's (1980): two poles.
#[derive(Clone, Copy, Debug, Default)]
struct Resonator {
    a: f64,
    b: f64,
    c: f64,
    last: f64,
    before: f64,
}

impl Resonator {
    fn set(&mut self, frequency: f64, bandwidth: f64) {
        let radius = (-PI * bandwidth / RATE).exp();
        self.c = -radius * radius;
        self.b = 2.0 * radius * (2.0 * PI * frequency / RATE).cos();
        self.a = 1.0 - self.b - self.c;
    }

    fn pass(&mut self, sample: f64) -> f64 {
        let out = self.a * sample + self.b * self.last + self.c * self.before;
        self.before = self.last;
        self.last = out;
        out
    }
}

/// Whether a name stands for a pause: also one that is not known.
#[cfg(test)]
pub(super) fn is_silent(name: &'static str) -> bool {
    let sounds = parts(name);
    let is_pause = |sound: Sound| sound.voice == 0.0 && sound.noise == 0.0;
    if sounds.is_empty() { is_pause(find(name)) } else { sounds.iter().all(|part| is_pause(find(part))) }
}
