//! The number of a frame, carried by its audio: the last bits of the 160 bytes of G.711 that 20 ms have.
//!
//! It passes whatever leaves G.711 as it is, a recording included, and is lost where audio is mixed or transcoded. The last bit of
//! a byte is its smallest step: it is hardly heard. `docs/phlem-media.md` has the layout.

use crate::base::time::Instant;
use crate::wire::g711::FRAME_SAMPLES;
use crate::wire::g711::Law;

pub const FRAME_NANOS: u64 = 20_000_000;
/// Call numbers have 40 bits; 0 stands for "not known yet".
pub const CALL_MAX: u64 = (1 << 40) - 1;
pub const NUMBER_MAX: u32 = (1 << 30) - 1;

/// A bit for each sample.
const MARK_BYTES: usize = FRAME_SAMPLES / 8;
/// The part that the last four bytes check.
const CHECKED_BYTES: usize = MARK_BYTES - 4;
const MAGIC: u8 = 0xB5;
const CALLEE: u32 = 1 << 31;
const ECHO: u32 = 1 << 30;
/// 1,024 ns: wraps after 73 minutes.
const TIME_SHIFT: u32 = 10;

const LAST_BITS: u64 = 0x0101_0101_0101_0101;
/// µ-law has two zeros, and audio that was PCM in between comes back with the positive one.
const NEGATIVE_ZERO: u8 = 0x7F;

/// Who of a call speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Side {
    Caller,
    Callee,
}

impl Side {
    pub const fn other(self) -> Self {
        match self {
            Self::Caller => Self::Callee,
            Self::Callee => Self::Caller,
        }
    }
}

/// A time as a mark has it: of a clock that the reader may share, or not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp(pub u32);

impl Stamp {
    pub const fn at(instant: Instant) -> Self {
        Self((instant.nanos() >> TIME_SHIFT) as u32)
    }

    /// Nanoseconds from `earlier` to `self`, right if they are less than 36 minutes apart either way.
    pub const fn nanos_since(self, earlier: Self) -> i64 {
        (self.0.wrapping_sub(earlier.0).cast_signed() as i64) << TIME_SHIFT
    }

    pub const fn later(self, nanos: u64) -> Self {
        Self(self.0.wrapping_add((nanos >> TIME_SHIFT) as u32))
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mark {
    /// 0: the speaker does not know it yet.
    pub call: u64,
    pub side: Side,
    /// Of this side in this call, from 0.
    pub number: u32,
    pub time: Time,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Time {
    /// When the frame was sent, by the speaker's clock.
    Sent(Stamp),
    /// The `Sent` of the newest frame that the speaker has heard, put forward by the time since: by the hearer's clock.
    Echo(Stamp),
}

/// A frame that carries a mark.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Found {
    pub mark: Mark,
    /// The audio around the mark is not what was sent.
    pub is_damaged: bool,
}

/// Audio that marks can be put into without being confused with what a PCM recording makes of it.
pub fn prepare(audio: &mut [u8], law: Law) {
    if law == Law::Mu {
        for byte in audio.iter_mut().filter(|byte| **byte | 1 == NEGATIVE_ZERO) {
            *byte |= 0x80;
        }
    }
}

/// Puts a mark into a frame of prepared audio.
pub fn emit(mark: &Mark, frame: &mut [u8; FRAME_SAMPLES]) {
    let (flag, stamp) = match mark.time {
        Time::Sent(stamp) => (0, stamp),
        Time::Echo(stamp) => (ECHO, stamp),
    };
    let side = if mark.side == Side::Callee { CALLEE } else { 0 };
    let [_, _, _, call @ ..] = (mark.call & CALL_MAX).to_be_bytes();
    let mut bytes = [0; MARK_BYTES];
    bytes[0] = MAGIC;
    bytes[1..6].copy_from_slice(&call);
    bytes[6..10].copy_from_slice(&(side | flag | mark.number & NUMBER_MAX).to_be_bytes());
    bytes[10..14].copy_from_slice(&stamp.0.to_be_bytes());
    bytes[14..16].copy_from_slice(&audio_check(frame).to_be_bytes());
    let check = crc32c::crc32c(&bytes[..CHECKED_BYTES]);
    bytes[CHECKED_BYTES..].copy_from_slice(&check.to_be_bytes());
    let (chunks, _) = frame.as_chunks_mut::<8>();
    for (chunk, byte) in chunks.iter_mut().zip(bytes) {
        *chunk = (u64::from_le_bytes(*chunk) & !LAST_BITS | spread(byte)).to_le_bytes();
    }
}

/// Whether a frame may start here; of 256 places without one, 255 do not get further than this look.
#[inline]
pub fn may_start(samples: &[u8; 8]) -> bool {
    gather(u64::from_le_bytes(*samples)) == MAGIC
}

pub fn parse(frame: &[u8; FRAME_SAMPLES]) -> Option<Found> {
    let mut bytes = [0; MARK_BYTES];
    let (chunks, _) = frame.as_chunks::<8>();
    for (byte, chunk) in bytes.iter_mut().zip(chunks) {
        *byte = gather(u64::from_le_bytes(*chunk));
    }
    let [MAGIC, c0, c1, c2, c3, c4, n0, n1, n2, n3, t0, t1, t2, t3, a0, a1, check @ ..] = bytes else { return None };
    if crc32c::crc32c(&bytes[..CHECKED_BYTES]) != u32::from_be_bytes(check) {
        return None;
    }
    let number = u32::from_be_bytes([n0, n1, n2, n3]);
    let stamp = Stamp(u32::from_be_bytes([t0, t1, t2, t3]));
    let mark = Mark {
        call: u64::from_be_bytes([0, 0, 0, c0, c1, c2, c3, c4]),
        side: if number & CALLEE != 0 { Side::Callee } else { Side::Caller },
        number: number & NUMBER_MAX,
        time: if number & ECHO != 0 { Time::Echo(stamp) } else { Time::Sent(stamp) },
    };
    Some(Found { mark, is_damaged: audio_check(frame) != u16::from_be_bytes([a0, a1]) })
}

/// Of all bits but the last of each sample.
fn audio_check(frame: &[u8; FRAME_SAMPLES]) -> u16 {
    let mut audio = *frame;
    let (chunks, _) = audio.as_chunks_mut::<8>();
    for chunk in chunks {
        *chunk = (u64::from_le_bytes(*chunk) & !LAST_BITS).to_le_bytes();
    }
    crc32c::crc32c(&audio) as u16
}

/// The bits of a byte, the most significant first, as the last bits of eight.
const fn spread(byte: u8) -> u64 {
    let alone = (byte as u64 * LAST_BITS) & 0x0102_0408_1020_4080;
    ((alone + 0x7F7F_7F7F_7F7F_7F7F) >> 7) & LAST_BITS
}

const fn gather(samples: u64) -> u8 {
    (((samples & LAST_BITS).wrapping_mul(0x0102_0408_1020_4080) >> 56) as u8).reverse_bits()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::random::Random;

    fn noise(random: &mut Random, law: Law) -> [u8; FRAME_SAMPLES] {
        let mut frame = std::array::from_fn(|_| random.next_u32() as u8);
        prepare(&mut frame, law);
        frame
    }

    fn any_mark(random: &mut Random) -> Mark {
        let stamp = Stamp(random.next_u32());
        Mark {
            call: random.below(CALL_MAX + 1),
            side: if random.chance(1, 2) { Side::Caller } else { Side::Callee },
            number: random.below(u64::from(NUMBER_MAX) + 1) as u32,
            time: if random.chance(1, 2) { Time::Sent(stamp) } else { Time::Echo(stamp) },
        }
    }

    #[test]
    fn marks_come_back_through_g711_and_pcm() {
        let mut random = Random::new(1);
        for law in [Law::Mu, Law::A] {
            for _ in 0..500 {
                let mark = any_mark(&mut random);
                let before = noise(&mut random, law);
                let mut frame = before;
                emit(&mark, &mut frame);
                assert_eq!(parse(&frame), Some(Found { mark, is_damaged: false }));
                assert!(before.iter().zip(frame).all(|(before, after)| before | 1 == after | 1));
                let through_pcm = frame.map(|byte| law.encode(law.decode(byte)));
                assert_eq!(through_pcm, frame);
            }
        }
    }

    #[test]
    fn the_layout_is_the_documented_one() {
        let mut frame = [0xD4; FRAME_SAMPLES];
        let time = Time::Echo(Stamp(0xA1A2_A3A4));
        emit(&Mark { call: 0x12_3456_789A, side: Side::Callee, number: 5, time }, &mut frame);
        let bits: Vec<u8> =
            frame.chunks(8).map(|chunk| chunk.iter().fold(0, |byte, bit| byte << 1 | bit & 1)).collect();
        assert_eq!(bits[..14], [0xB5, 0x12, 0x34, 0x56, 0x78, 0x9A, 0xC0, 0, 0, 5, 0xA1, 0xA2, 0xA3, 0xA4]);
        assert_eq!(bits[14..16], (crc32c::crc32c(&[0xD4; FRAME_SAMPLES]) as u16).to_be_bytes());
        assert_eq!(bits[16..], crc32c::crc32c(&bits[..16]).to_be_bytes());
    }

    #[test]
    fn one_wrong_bit_is_noticed() {
        let mut random = Random::new(2);
        let mark = any_mark(&mut random);
        let mut frame = noise(&mut random, Law::A);
        emit(&mark, &mut frame);
        for at in 0..FRAME_SAMPLES {
            for bit in 0..8 {
                let mut damaged = frame;
                damaged[at] ^= 1 << bit;
                let expected = if bit == 0 { None } else { Some(Found { mark, is_damaged: true }) };
                assert_eq!(parse(&damaged), expected);
            }
        }
    }

    #[test]
    fn other_audio_has_no_marks() {
        let mut random = Random::new(3);
        for _ in 0..20_000 {
            assert_eq!(parse(&noise(&mut random, Law::Mu)), None);
        }
        for byte in 0..=255 {
            assert_eq!(parse(&[byte; FRAME_SAMPLES]), None);
        }
    }

    #[test]
    fn times_wrap() {
        let check = |early: u64, late: u64| {
            let nanos = Stamp::at(Instant::from_nanos(late)).nanos_since(Stamp::at(Instant::from_nanos(early)));
            assert!((nanos - (late as i64 - early as i64)).abs() <= 1_024, "{early} {late}: {nanos}");
        };
        let wrap = 1u64 << 42;
        check(5, 20_000_005);
        check(wrap - 1_000_000, wrap + 3_000_000);
        check(wrap + 3_000_000, wrap - 1_000_000);
    }
}
