//! Sound files and what is heard in them: a sine wave goes in, Goertzel's algorithm says how much of it comes out.

use std::f64::consts::TAU;
use std::fs;
use std::path::Path;

pub const RATE: u32 = 8_000;

/// A WAV file of 16-bit mono samples with one tone.
pub fn write(path: &Path, hertz: f64, seconds: u32) {
    let samples = (0..RATE * seconds).map(|n| (8_000.0 * (TAU * hertz * f64::from(n) / f64::from(RATE)).sin()) as i16);
    let body: Vec<u8> = samples.flat_map(i16::to_le_bytes).collect();
    let len = u32::try_from(body.len()).unwrap();
    let mut file = Vec::new();
    file.extend_from_slice(b"RIFF");
    file.extend_from_slice(&(36 + len).to_le_bytes());
    file.extend_from_slice(b"WAVEfmt \x10\0\0\0\x01\0\x01\0");
    file.extend_from_slice(&RATE.to_le_bytes());
    file.extend_from_slice(&(RATE * 2).to_le_bytes());
    file.extend_from_slice(b"\x02\0\x10\0data");
    file.extend_from_slice(&len.to_le_bytes());
    file.extend_from_slice(&body);
    fs::write(path, file).unwrap();
}

/// Rate and samples of a 16-bit WAV file; of several channels, the first. A file still being written has no lengths.
pub fn read(path: &Path) -> (u32, Vec<f64>) {
    let bytes = fs::read(path).unwrap();
    assert!(bytes.starts_with(b"RIFF"), "{} is no WAV file", path.display());
    let word = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap());
    let (mut rate, mut channels, mut at) = (0, 1, 12);
    while at + 8 <= bytes.len() {
        let len = word(at + 4) as usize;
        match &bytes[at..at + 4] {
            b"fmt " => {
                channels = usize::from(u16::from_le_bytes([bytes[at + 10], bytes[at + 11]]));
                rate = word(at + 12);
            }
            b"data" => {
                let data = &bytes[at + 8..];
                let frames = data.chunks_exact(2 * channels);
                return (rate, frames.map(|frame| f64::from(i16::from_le_bytes([frame[0], frame[1]]))).collect());
            }
            _ => {}
        }
        at += 8 + len + len % 2;
    }
    panic!("{} has no data", path.display());
}

/// The share of the power of `samples` at `hertz`: 1 for a pure tone of it.
pub fn share(samples: &[f64], rate: u32, hertz: f64) -> f64 {
    let coefficient = 2.0 * (TAU * hertz / f64::from(rate)).cos();
    let (mut last, mut before) = (0.0, 0.0);
    for sample in samples {
        let next = sample + coefficient * last - before;
        before = last;
        last = next;
    }
    let power = last * last + before * before - coefficient * last * before;
    let total: f64 = samples.iter().map(|sample| sample * sample).sum();
    if total == 0.0 { 0.0 } else { 2.0 * power / (samples.len() as f64 * total) }
}

/// How many seconds of the recording hold this tone, counted in windows of a tenth of a second.
pub fn seconds_of(path: &Path, hertz: f64) -> f64 {
    let (rate, samples) = read(path);
    let windows = samples.chunks_exact(rate as usize / 10);
    windows.filter(|window| share(window, rate, hertz) > 0.8).count() as f64 / 10.0
}

#[test]
fn a_tone_is_told_from_another() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tone.wav");
    write(&path, 440.0, 2);
    assert_eq!(seconds_of(&path, 440.0), 2.0);
    assert_eq!(seconds_of(&path, 620.0), 0.0);
}
