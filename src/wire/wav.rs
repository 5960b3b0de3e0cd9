//! WAV files (RIFF WAVE): PCM of 16 bits, µ-law and A-law, any number of channels.
//!
//! Reads what others write: further chunks, WAVE_FORMAT_EXTENSIBLE, sizes that a writer did not live to fill in. Holds no file: who
//! writes one puts [`header`] first, then the audio, then a zero if the audio has an odd length.

use arrayvec::ArrayVec;

use crate::wire::g711::Law;

/// Bytes of the longest header that [`header`] makes.
pub const HEADER_BYTES_MAX: usize = 58;
/// What a writer that cannot go back puts for lengths it does not know.
pub const LENGTH_UNKNOWN: u64 = u32::MAX as u64;
const CHANNELS_MAX: u16 = 64;
const RATE_MAX: u32 = 768_000;
const CHUNKS_MAX: usize = 1_024;

const FORMAT_PCM: u16 = 1;
const FORMAT_ALAW: u16 = 6;
const FORMAT_MULAW: u16 = 7;
const FORMAT_EXTENSIBLE: u16 = 0xFFFE;
/// The rest of a sub-format's GUID after its number.
const GUID_TAIL: [u8; 14] = [0, 0, 0, 0, 0x10, 0, 0x80, 0, 0, 0xAA, 0, 0x38, 0x9B, 0x71];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Encoding {
    /// Signed, little-endian.
    Pcm16,
    G711(Law),
}

impl Encoding {
    pub const fn sample_bytes(self) -> usize {
        match self {
            Self::Pcm16 => 2,
            Self::G711(_) => 1,
        }
    }

    const fn number(self) -> u16 {
        match self {
            Self::Pcm16 => FORMAT_PCM,
            Self::G711(Law::A) => FORMAT_ALAW,
            Self::G711(Law::Mu) => FORMAT_MULAW,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Format {
    pub encoding: Encoding,
    pub channels: u16,
    /// Samples a second of each channel.
    pub rate: u32,
}

impl Format {
    /// Bytes of one sample of every channel.
    pub const fn block_bytes(&self) -> usize {
        self.channels as usize * self.encoding.sample_bytes()
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadWav {
    #[error("not a RIFF WAVE file")]
    NotWave,
    #[error("a chunk of the WAV file is shorter than it has to be")]
    Short,
    #[error("the WAV file says nothing of its format before its audio")]
    NoFormat,
    #[error("the WAV file has no audio")]
    NoAudio,
    #[error("the WAV file's encoding is number {0} with {1} bits: only PCM of 16 bits, A-law and µ-law are read")]
    Encoding(u16, u16),
    #[error("the WAV file has an impossible number of channels, samples a second or bytes a block")]
    Impossible,
    #[error("too many chunks in the WAV file")]
    Chunks,
    #[error("too long for a WAV file")]
    Long,
}

/// A file that was read: its audio lies in the bytes it was read from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wav<'a> {
    pub format: Format,
    /// Whole blocks.
    pub audio: &'a [u8],
    /// The file ends before its audio does, or within a block: a writer that died, a copy that was cut.
    pub is_cut: bool,
}

impl<'a> Wav<'a> {
    pub fn parse(bytes: &'a [u8]) -> Result<Self, BadWav> {
        let Some((head, mut rest)) = bytes.split_first_chunk::<12>() else { return Err(BadWav::NotWave) };
        // The length that the head states is not needed: the chunks have their own.
        if !head.starts_with(b"RIFF") || !head.ends_with(b"WAVE") {
            return Err(BadWav::NotWave);
        }
        let mut format = None;
        for _ in 0..CHUNKS_MAX {
            let Some((&[i0, i1, i2, i3, l0, l1, l2, l3], body)) = rest.split_first_chunk() else {
                return Err(if format.is_some() { BadWav::NoAudio } else { BadWav::NoFormat });
            };
            let len = u32::from_le_bytes([l0, l1, l2, l3]) as usize;
            let chunk = body.get(..len);
            match &[i0, i1, i2, i3] {
                b"fmt " => format = Some(parse_format(chunk.ok_or(BadWav::Short)?)?),
                b"data" => {
                    let format = format.ok_or(BadWav::NoFormat)?;
                    return Ok(with_audio(format, chunk.unwrap_or(body), chunk.is_none()));
                }
                _ => {}
            }
            // A chunk of odd length is followed by a byte that does not count.
            rest = body.get(len.saturating_add(len & 1)..).unwrap_or_default();
        }
        Err(BadWav::Chunks)
    }

    /// Samples of each channel.
    pub fn len(&self) -> usize {
        self.audio.len() / self.format.block_bytes()
    }

    pub fn is_empty(&self) -> bool {
        self.audio.is_empty()
    }

    /// The samples of one channel, counted from 0; none of a channel that there is not.
    pub fn samples(&self, channel: u16) -> impl Iterator<Item = i16> + 'a {
        let Format { encoding, channels, .. } = self.format;
        let first = if channel < channels { usize::from(channel) * encoding.sample_bytes() } else { usize::MAX };
        let sample = move |block: &[u8]| match (encoding, block.get(first..)) {
            (Encoding::Pcm16, Some(&[low, high, ..])) => Some(i16::from_le_bytes([low, high])),
            (Encoding::G711(law), Some(&[byte, ..])) => Some(law.decode(byte)),
            _ => None,
        };
        self.audio.chunks_exact(self.format.block_bytes()).filter_map(sample)
    }
}

fn with_audio(format: Format, audio: &[u8], is_cut: bool) -> Wav<'_> {
    let whole = audio.len() - audio.len() % format.block_bytes();
    let (blocks, part) = audio.split_at_checked(whole).unwrap_or((audio, &[]));
    Wav { format, audio: blocks, is_cut: is_cut || !part.is_empty() }
}

fn parse_format(chunk: &[u8]) -> Result<Format, BadWav> {
    let Some((&[n0, n1, c0, c1, r0, r1, r2, r3, _, _, _, _, b0, b1, w0, w1], rest)) = chunk.split_first_chunk() else {
        return Err(BadWav::Short);
    };
    let mut number = u16::from_le_bytes([n0, n1]);
    let bits = u16::from_le_bytes([w0, w1]);
    if number == FORMAT_EXTENSIBLE {
        // Length of the extension, valid bits, channel mask, sub-format.
        let Some((&[_, _, _, _, _, _, _, _, s0, s1], tail)) = rest.split_first_chunk() else {
            return Err(BadWav::Short);
        };
        if tail.starts_with(&GUID_TAIL) {
            number = u16::from_le_bytes([s0, s1]);
        }
    }
    let encoding = match (number, bits) {
        (FORMAT_PCM, 16) => Encoding::Pcm16,
        (FORMAT_ALAW, 8) => Encoding::G711(Law::A),
        (FORMAT_MULAW, 8) => Encoding::G711(Law::Mu),
        _ => return Err(BadWav::Encoding(number, bits)),
    };
    let format =
        Format { encoding, channels: u16::from_le_bytes([c0, c1]), rate: u32::from_le_bytes([r0, r1, r2, r3]) };
    let block_bytes = usize::from(u16::from_le_bytes([b0, b1]));
    let is_possible = (1..=CHANNELS_MAX).contains(&format.channels)
        && (1..=RATE_MAX).contains(&format.rate)
        && format.block_bytes() == block_bytes;
    if is_possible { Ok(format) } else { Err(BadWav::Impossible) }
}

/// What stands before `audio_len` bytes of audio; [`LENGTH_UNKNOWN`] if they are not known.
pub fn header(format: Format, audio_len: u64) -> Result<ArrayVec<u8, HEADER_BYTES_MAX>, BadWav> {
    let block_bytes = u16::try_from(format.block_bytes()).map_err(|_| BadWav::Impossible)?;
    let bytes_per_second = format.rate.checked_mul(u32::from(block_bytes)).ok_or(BadWav::Impossible)?;
    if !(1..=CHANNELS_MAX).contains(&format.channels) || !(1..=RATE_MAX).contains(&format.rate) {
        return Err(BadWav::Impossible);
    }
    // Anything but PCM says that its format has no extension, and how many samples there are.
    let is_pcm = format.encoding == Encoding::Pcm16;
    let head_len = if is_pcm { 44u32 } else { 58 };
    let audio = u32::try_from(audio_len).map_err(|_| BadWav::Long)?;
    let (whole, blocks) = if audio_len == LENGTH_UNKNOWN {
        (u32::MAX, u32::MAX)
    } else {
        let whole = audio.checked_add(audio & 1).and_then(|audio| audio.checked_add(head_len - 8));
        (whole.ok_or(BadWav::Long)?, audio / u32::from(block_bytes))
    };
    let mut bytes = ArrayVec::new();
    let mut put = |part: &[u8]| bytes.try_extend_from_slice(part).map_err(|_| BadWav::Long);
    put(b"RIFF")?;
    put(&whole.to_le_bytes())?;
    put(b"WAVEfmt ")?;
    put(&(if is_pcm { 16u32 } else { 18 }).to_le_bytes())?;
    put(&format.encoding.number().to_le_bytes())?;
    put(&format.channels.to_le_bytes())?;
    put(&format.rate.to_le_bytes())?;
    put(&bytes_per_second.to_le_bytes())?;
    put(&block_bytes.to_le_bytes())?;
    put(&(format.encoding.sample_bytes() as u16 * 8).to_le_bytes())?;
    if !is_pcm {
        put(&[0, 0])?;
        put(b"fact\x04\0\0\0")?;
        put(&blocks.to_le_bytes())?;
    }
    put(b"data")?;
    put(&audio.to_le_bytes())?;
    Ok(bytes)
}

/// A whole file.
pub fn emit(format: Format, audio: &[u8]) -> Result<Vec<u8>, BadWav> {
    let header = header(format, audio.len() as u64)?;
    let mut bytes = Vec::with_capacity(header.len() + audio.len() + 1);
    bytes.extend_from_slice(&header);
    bytes.extend_from_slice(audio);
    if audio.len() % 2 == 1 {
        bytes.push(0);
    }
    Ok(bytes)
}

/// A whole file of PCM; `samples` of several channels take turns.
pub fn emit_pcm(channels: u16, rate: u32, samples: &[i16]) -> Result<Vec<u8>, BadWav> {
    let audio: Vec<u8> = samples.iter().flat_map(|sample| sample.to_le_bytes()).collect();
    emit(Format { encoding: Encoding::Pcm16, channels, rate }, &audio)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MONO: Format = Format { encoding: Encoding::Pcm16, channels: 1, rate: 8_000 };
    const STEREO_MU: Format = Format { encoding: Encoding::G711(Law::Mu), channels: 2, rate: 8_000 };

    fn chunk(name: &[u8; 4], body: &[u8]) -> Vec<u8> {
        let mut bytes = name.to_vec();
        bytes.extend_from_slice(&(body.len() as u32).to_le_bytes());
        bytes.extend_from_slice(body);
        bytes.resize(bytes.len() + body.len() % 2, 0);
        bytes
    }

    fn file(chunks: &[Vec<u8>]) -> Vec<u8> {
        let body = chunks.concat();
        [b"RIFF".to_vec(), (body.len() as u32 + 4).to_le_bytes().to_vec(), b"WAVE".to_vec(), body].concat()
    }

    fn format_chunk(number: u16, channels: u16, rate: u32, block: u16, bits: u16, more: &[u8]) -> Vec<u8> {
        let mut body = Vec::new();
        for field in [number, channels] {
            body.extend_from_slice(&field.to_le_bytes());
        }
        body.extend_from_slice(&rate.to_le_bytes());
        body.extend_from_slice(&(rate * u32::from(block)).to_le_bytes());
        body.extend_from_slice(&block.to_le_bytes());
        body.extend_from_slice(&bits.to_le_bytes());
        body.extend_from_slice(more);
        chunk(b"fmt ", &body)
    }

    #[test]
    fn the_44_bytes_that_everybody_reads() {
        let bytes = emit_pcm(1, 8_000, &[1, -2]).unwrap();
        let expected = b"RIFF\x28\0\0\0WAVEfmt \x10\0\0\0\x01\0\x01\0\x40\x1f\0\0\x80\x3e\0\0\x02\0\x10\0data\x04\0\0\0\x01\0\xfe\xff";
        assert_eq!(bytes, expected);
    }

    #[test]
    fn the_58_bytes_of_mu_law() {
        let bytes = emit(STEREO_MU, &[0xFF, 0x00, 0x80]).unwrap();
        let expected = b"RIFF\x36\0\0\0WAVEfmt \x12\0\0\0\x07\0\x02\0\x40\x1f\0\0\x80\x3e\0\0\x02\0\x08\0\0\0fact\x04\0\0\0\x01\0\0\0data\x03\0\0\0\xff\0\x80\0";
        assert_eq!(bytes, expected);
    }

    #[test]
    fn what_is_written_is_read() {
        for law in [Law::Mu, Law::A] {
            for channels in 1..=3 {
                let format = Format { encoding: Encoding::G711(law), channels, rate: 8_000 };
                let audio: Vec<u8> = (0..30 * channels).map(|byte| (byte * 7) as u8).collect();
                let bytes = emit(format, &audio).unwrap();
                let wav = Wav::parse(&bytes).unwrap();
                assert_eq!(wav, Wav { format, audio: &audio, is_cut: false });
                assert_eq!(wav.len(), 30);
                for channel in 0..channels {
                    let expected = audio.iter().skip(channel.into()).step_by(channels.into());
                    assert!(wav.samples(channel).eq(expected.map(|byte| law.decode(*byte))));
                }
                assert_eq!(wav.samples(channels).count(), 0);
            }
        }
        let bytes = emit_pcm(2, 16_000, &[1, -1, 2, -2, i16::MIN, i16::MAX]).unwrap();
        let wav = Wav::parse(&bytes).unwrap();
        assert!(wav.samples(0).eq([1, 2, i16::MIN]));
        assert!(wav.samples(1).eq([-1, -2, i16::MAX]));
    }

    #[test]
    fn what_others_write_is_read() {
        let list = chunk(b"LIST", b"INFOISFT\x03\0\0\0abc\0");
        let odd = chunk(b"junk", b"odd");
        let data = chunk(b"data", &[1, 2, 3, 4]);
        let plain = format_chunk(1, 1, 8_000, 2, 16, &[]);
        let wav = file(&[odd.clone(), list.clone(), plain.clone(), odd, data.clone(), list]);
        assert_eq!(Wav::parse(&wav).unwrap(), Wav { format: MONO, audio: &[1, 2, 3, 4], is_cut: false });
        let more = [&[22, 0, 16, 0, 4, 0, 0, 0, 1, 0][..], &GUID_TAIL].concat();
        let wav = file(&[format_chunk(FORMAT_EXTENSIBLE, 1, 8_000, 2, 16, &more), data]);
        assert_eq!(Wav::parse(&wav).unwrap().format, MONO);
    }

    #[test]
    fn a_file_whose_writer_died_has_what_is_there() {
        for stated in [LENGTH_UNKNOWN, 1_000] {
            let mut bytes = header(MONO, stated).unwrap().to_vec();
            bytes.extend_from_slice(&[1, 0, 2, 0, 3]);
            let wav = Wav::parse(&bytes).unwrap();
            assert_eq!(wav, Wav { format: MONO, audio: &[1, 0, 2, 0], is_cut: true });
        }
        let empty = header(MONO, 0).unwrap();
        assert_eq!(Wav::parse(&empty).unwrap(), Wav { format: MONO, audio: &[], is_cut: false });
    }

    #[test]
    fn bad_files() {
        let check = |bytes: &[u8], error: BadWav| assert_eq!(Wav::parse(bytes), Err(error));
        let data = || chunk(b"data", &[0; 8]);
        check(b"", BadWav::NotWave);
        check(b"RIFF\0\0\0\0AVI LIST", BadWav::NotWave);
        check(&file(&[]), BadWav::NoFormat);
        check(&file(&[data()]), BadWav::NoFormat);
        check(&file(&[format_chunk(1, 1, 8_000, 2, 16, &[])]), BadWav::NoAudio);
        check(&file(&[chunk(b"fmt ", &[1, 0, 1, 0]), data()]), BadWav::Short);
        check(b"RIFF\0\0\0\0WAVEfmt \xff\xff\xff\xff\x01\0", BadWav::Short);
        check(&file(&[format_chunk(1, 1, 8_000, 3, 24, &[]), data()]), BadWav::Encoding(1, 24));
        check(&file(&[format_chunk(85, 1, 8_000, 1, 0, &[]), data()]), BadWav::Encoding(85, 0));
        check(&file(&[format_chunk(FORMAT_EXTENSIBLE, 1, 8_000, 2, 16, &[22, 0]), data()]), BadWav::Short);
        check(&file(&[format_chunk(1, 0, 8_000, 0, 16, &[]), data()]), BadWav::Impossible);
        check(&file(&[format_chunk(1, 2, 8_000, 2, 16, &[]), data()]), BadWav::Impossible);
        check(&file(&[format_chunk(1, 1, 0, 2, 16, &[]), data()]), BadWav::Impossible);
        check(&file(&vec![chunk(b"junk", &[]); CHUNKS_MAX + 1]), BadWav::Chunks);
        assert_eq!(header(MONO, 1 << 32), Err(BadWav::Long));
        assert_eq!(header(MONO, LENGTH_UNKNOWN - 1), Err(BadWav::Long));
        assert_eq!(header(Format { channels: 0, ..MONO }, 0), Err(BadWav::Impossible));
    }

    proptest! {
        #[test]
        fn any_bytes(bytes in proptest::collection::vec(any::<u8>(), 0..200), flip in any::<(usize, u8)>()) {
            let _ = Wav::parse(&bytes);
            let mut bytes = emit(STEREO_MU, &bytes).unwrap();
            let at = flip.0 % bytes.len();
            bytes[at] ^= flip.1;
            if let Ok(wav) = Wav::parse(&bytes) {
                prop_assert!(wav.samples(0).count() == wav.len());
            }
        }
    }
}
