//! G.711: 8,000 samples a second as one byte each, µ-law and A-law.
//!
//! Decoding is by table. Encoding follows the decision values of tables 1 and 2 of the recommendation; a sample that lies on one goes
//! the way the ITU's reference software (G.191) lets it go.

pub mod quality;

use serde::Deserialize;
use serde::Serialize;

pub const SAMPLES_PER_SECOND: u32 = 8_000;
/// Of a frame of 20 ms.
pub const FRAME_SAMPLES: usize = 160;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Law {
    /// µ-law, PCMU.
    Mu,
    /// A-law, PCMA.
    A,
}

/// Added to a µ-law magnitude so that every segment begins at a power of two: 33 of 14 bits.
const BIAS: i32 = 33 << 2;
/// The largest magnitude that fits with the bias.
const CLIP: i32 = 0x7FFF - BIAS;
/// G.711 §3.1: the even bits of an A-law byte are inverted.
const EVEN_BITS: u8 = 0x55;

const MU_TO_LINEAR: [i16; 256] = table(Law::Mu);
const A_TO_LINEAR: [i16; 256] = table(Law::A);

impl Law {
    /// RFC 3551 §6: PCMU is 0, PCMA is 8.
    pub const fn payload_type(self) -> u8 {
        match self {
            Self::Mu => 0,
            Self::A => 8,
        }
    }

    /// By the name of its encoding (RFC 3551 §6), in small letters.
    pub fn of_name(name: &str, clock: u32) -> Option<Self> {
        match name {
            "pcmu" => Some(Self::Mu),
            "pcma" => Some(Self::A),
            _ => None,
        }
        .filter(|_| clock == SAMPLES_PER_SECOND)
    }

    pub const fn of_payload_type(payload_type: u8) -> Option<Self> {
        match payload_type {
            0 => Some(Self::Mu),
            8 => Some(Self::A),
            _ => None,
        }
    }

    /// The byte of silence.
    pub const fn silence(self) -> u8 {
        match self {
            Self::Mu => 0xFF,
            Self::A => 0xD5,
        }
    }

    #[inline]
    pub const fn decode(self, byte: u8) -> i16 {
        match self {
            Self::Mu => MU_TO_LINEAR[byte as usize],
            Self::A => A_TO_LINEAR[byte as usize],
        }
    }

    #[inline]
    pub const fn encode(self, sample: i16) -> u8 {
        match self {
            Self::Mu => encode_mu(sample),
            Self::A => encode_a(sample),
        }
    }

    /// As many as the shorter of the two holds.
    pub fn decode_all(self, bytes: &[u8], samples: &mut [i16]) {
        for (sample, byte) in samples.iter_mut().zip(bytes) {
            *sample = self.decode(*byte);
        }
    }

    /// As many as the shorter of the two holds.
    pub fn encode_all(self, samples: &[i16], bytes: &mut [u8]) {
        for (byte, sample) in bytes.iter_mut().zip(samples) {
            *byte = self.encode(*sample);
        }
    }
}

const fn encode_mu(sample: i16) -> u8 {
    // G.191 `ulaw_compress`: the magnitude of a negative sample is its one's complement.
    let magnitude = if sample < 0 { !sample } else { sample } as i32;
    let biased = if magnitude > CLIP { CLIP + BIAS } else { magnitude + BIAS };
    let segment = 24 - biased.leading_zeros() as i32;
    let step = biased >> (segment + 3) & 0x0F;
    let sign = if sample < 0 { 0x80 } else { 0 };
    !(sign | segment << 4 | step) as u8
}

const fn encode_a(sample: i16) -> u8 {
    let magnitude = if sample < 0 { !sample } else { sample } as i32;
    let segment = if magnitude < 256 { 0 } else { 24 - magnitude.leading_zeros() as i32 };
    // The first two segments have the same step.
    let shift = if segment == 0 { 4 } else { segment + 3 };
    let step = magnitude >> shift & 0x0F;
    let sign = if sample < 0 { 0 } else { 0x80 };
    (sign | segment << 4 | step) as u8 ^ EVEN_BITS
}

const fn table(law: Law) -> [i16; 256] {
    let mut table = [0; 256];
    let mut byte = 0;
    while byte < 256 {
        table[byte] = match law {
            Law::Mu => expand_mu(byte as u8),
            Law::A => expand_a(byte as u8),
        };
        byte += 1;
    }
    table
}

const fn expand_mu(byte: u8) -> i16 {
    let code = !byte as i32;
    let (segment, step) = (code >> 4 & 0x07, code & 0x0F);
    let magnitude = (((step << 3) + BIAS) << segment) - BIAS;
    (if code & 0x80 == 0 { magnitude } else { -magnitude }) as i16
}

const fn expand_a(byte: u8) -> i16 {
    let code = (byte ^ EVEN_BITS) as i32;
    let (segment, step) = (code >> 4 & 0x07, code & 0x0F);
    let middle = (step << 4) + 8;
    let magnitude = if segment == 0 { middle } else { (middle + 0x100) << (segment - 1) };
    (if code & 0x80 == 0 { -magnitude } else { magnitude }) as i16
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Upper ends of the intervals of table 2a, in 1/4 of its unit, with the value that each stands for.
    fn mu_intervals() -> Vec<(i32, i32)> {
        let mut intervals = vec![(4, 0)];
        let (mut end, mut step) = (1, 2);
        for segment in 0..8 {
            for _ in 0..if segment == 0 { 15 } else { 16 } {
                intervals.push(((end + step) * 4, (end + step / 2) * 4));
                end += step;
            }
            step *= 2;
        }
        intervals
    }

    /// The same of table 1a, in 1/8 of its unit.
    fn a_intervals() -> Vec<(i32, i32)> {
        let mut intervals = Vec::new();
        let (mut end, mut step) = (0, 2);
        for segment in 1..8 {
            for _ in 0..if segment == 1 { 32 } else { 16 } {
                intervals.push(((end + step) * 8, (end + step / 2) * 8));
                end += step;
            }
            step *= 2;
        }
        intervals
    }

    #[test]
    fn the_tables_end_where_the_recommendation_says() {
        assert_eq!((mu_intervals().len(), mu_intervals()[127]), (128, (8159 * 4, 8031 * 4)));
        assert_eq!((a_intervals().len(), a_intervals()[127]), (128, (4096 * 8, 4032 * 8)));
    }

    #[test]
    fn every_sample_gets_the_value_of_its_interval() {
        for (law, intervals) in [(Law::Mu, mu_intervals()), (Law::A, a_intervals())] {
            for sample in i16::MIN..=i16::MAX {
                let magnitude = i32::from(if sample < 0 { !sample } else { sample });
                let level = intervals.iter().position(|(end, _)| magnitude < *end).unwrap_or(127);
                let value = if sample < 0 { -intervals[level].1 } else { intervals[level].1 };
                assert_eq!(i32::from(law.decode(law.encode(sample))), value, "{law:?} {sample}");
            }
        }
    }

    #[test]
    fn every_byte_comes_back() {
        for byte in 0..=255 {
            assert_eq!(Law::A.encode(Law::A.decode(byte)), byte);
            // µ-law has two zeros.
            let expected = if byte == 0x7F { 0xFF } else { byte };
            assert_eq!(Law::Mu.encode(Law::Mu.decode(byte)), expected);
        }
    }

    #[test]
    fn the_ends_of_the_scale() {
        let check = |law: Law, byte: u8, sample: i16| assert_eq!(law.decode(byte), sample, "{law:?} {byte:#x}");
        check(Law::Mu, 0x80, 32_124);
        check(Law::Mu, 0x00, -32_124);
        check(Law::Mu, 0xFF, 0);
        check(Law::A, 0xAA, 32_256);
        check(Law::A, 0x2A, -32_256);
        check(Law::A, 0xD5, 8);
        check(Law::A, 0x55, -8);
        assert_eq!((Law::Mu.encode(i16::MIN), Law::A.encode(i16::MAX)), (0x00, 0xAA));
        assert_eq!((Law::Mu.encode(0), Law::A.encode(0)), (Law::Mu.silence(), Law::A.silence()));
    }

    #[test]
    fn whole_frames() {
        let samples: Vec<i16> = (0..FRAME_SAMPLES).map(|at| at as i16 * 200 - 16_000).collect();
        let mut bytes = [0; FRAME_SAMPLES];
        let mut back = [0; FRAME_SAMPLES];
        for law in [Law::Mu, Law::A] {
            law.encode_all(&samples, &mut bytes);
            law.decode_all(&bytes, &mut back);
            for (sample, back) in samples.iter().zip(back) {
                assert!((i32::from(*sample) - i32::from(back)).abs() <= 512, "{law:?} {sample} {back}");
            }
        }
    }
}
