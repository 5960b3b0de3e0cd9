//! One block: a header of 96 bytes in little-endian words, then its body of records, then zeros up to the next 4 KiB.

use crate::base::id::ShardId;
use crate::base::time::Instant;
use crate::base::time::UnixTime;

/// Blocks begin at multiples of this.
pub const BLOCK_ALIGN: usize = 4_096;
/// Header, body and padding of one block.
pub const BLOCK_BYTES_MAX: usize = 64 * 1024;
pub const HEADER_BYTES: usize = 96;
pub const BODY_BYTES_MAX: usize = BLOCK_BYTES_MAX - HEADER_BYTES;
/// Written into every block; a reader knows this one and none before it.
pub const FORMAT: u16 = 1;

const MAGIC: [u8; 8] = *b"tipTAPE\n";
const FLAG_SEALED: u8 = 1;

/// What a segment holds. The tracks of a shard are numbered, kept and read apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
pub enum Track {
    /// Events and gaps, which are never shed.
    Events,
    /// Frames and marks, the oldest of which are shed where there is no room.
    Media,
}

impl Track {
    pub const ALL: [Self; 2] = [Self::Events, Self::Media];

    pub const fn index(self) -> usize {
        self as usize
    }

    const fn code(self) -> u8 {
        match self {
            Self::Events => 0,
            Self::Media => 1,
        }
    }

    fn of_code(code: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|track| track.code() == code)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    pub track: Track,
    /// The body is encrypted, and `tag` proves it; see [`crypt`](super::crypt).
    pub is_sealed: bool,
    pub shard: ShardId,
    /// One life of an engine: numbers begin anew with each.
    pub boot: u64,
    /// The segment's number, of this shard and track; it goes on over boots.
    pub segment: u64,
    /// Where the block begins in its segment, in units of [`BLOCK_ALIGN`].
    pub place: u32,
    /// From 1 in each boot, shard and track. What is missing between two blocks stands in a gap.
    /// A block that was not confirmed when its engine died is written again, under the same number.
    pub number: u64,
    /// Bytes of the body.
    pub len: u32,
    pub records: u32,
    /// One reading of both clocks when the block was begun: times of records are of the first of them.
    pub opened: Instant,
    pub opened_unix: UnixTime,
    pub tag: [u8; 16],
}

/// Why bytes are not a block that follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadBlock {
    /// Zeros, or something else: the end of what was written.
    #[error("no block begins here")]
    Magic,
    /// Of a release that writes otherwise.
    #[error("a block of format {0}, this program reads {FORMAT}")]
    Format(u16),
    #[error("a block with a field out of its bounds")]
    Field,
    /// A torn write, or the file was cut.
    #[error("shorter than the block says")]
    Short,
    #[error("a block whose checksum is wrong")]
    Checksum,
    /// A block that belongs to another place or segment.
    #[error("a block of another place")]
    Place,
    #[error("a block whose number does not follow")]
    Number,
    /// The segment's key is gone or is another's.
    #[error("a block that does not open with this key")]
    Sealed,
    #[error("a block whose records are not whole")]
    Records,
}

/// Bytes that a block with a body of `len` takes in its file.
pub const fn padded(len: usize) -> usize {
    (HEADER_BYTES + len).next_multiple_of(BLOCK_ALIGN)
}

impl Header {
    /// The header's bytes before a body as it is stored; `body` is `len` bytes.
    pub fn emit(&self, body: &[u8]) -> [u8; HEADER_BYTES] {
        let bytes = self.unchecked();
        let crc = crc32c::crc32c_append(crc32c::crc32c(&bytes), body);
        with(bytes, 88, crc.to_le_bytes())
    }

    /// What is authenticated beside the body: all that is known before it is encrypted.
    pub(super) fn associated(&self) -> [u8; HEADER_BYTES] {
        Self { tag: [0; 16], ..*self }.unchecked()
    }

    fn unchecked(&self) -> [u8; HEADER_BYTES] {
        let flags = if self.is_sealed { FLAG_SEALED } else { 0 };
        let mut bytes = with([0; HEADER_BYTES], 0, MAGIC);
        bytes = with(bytes, 8, FORMAT.to_le_bytes());
        bytes = with(bytes, 10, [self.track.code(), flags, self.shard.0]);
        bytes = with(bytes, 16, self.boot.to_le_bytes());
        bytes = with(bytes, 24, self.segment.to_le_bytes());
        bytes = with(bytes, 32, self.number.to_le_bytes());
        bytes = with(bytes, 40, self.len.to_le_bytes());
        bytes = with(bytes, 44, self.records.to_le_bytes());
        bytes = with(bytes, 48, self.opened.nanos().to_le_bytes());
        bytes = with(bytes, 56, self.opened_unix.micros().to_le_bytes());
        bytes = with(bytes, 64, self.tag);
        with(bytes, 80, self.place.to_le_bytes())
    }

    /// The header alone: bounds are checked, the checksum is not.
    pub fn parse(bytes: &[u8]) -> Result<Self, BadBlock> {
        let Some(bytes) = bytes.first_chunk::<HEADER_BYTES>() else { return Err(BadBlock::Short) };
        if !bytes.starts_with(&MAGIC) {
            return Err(BadBlock::Magic);
        }
        let format = u16::from_le_bytes(field(bytes, 8));
        if format != FORMAT {
            return Err(BadBlock::Format(format));
        }
        let [track, flags, shard] = field(bytes, 10);
        let header = Self {
            track: Track::of_code(track).ok_or(BadBlock::Field)?,
            is_sealed: flags == FLAG_SEALED,
            shard: ShardId(shard),
            boot: u64::from_le_bytes(field(bytes, 16)),
            segment: u64::from_le_bytes(field(bytes, 24)),
            place: u32::from_le_bytes(field(bytes, 80)),
            number: u64::from_le_bytes(field(bytes, 32)),
            len: u32::from_le_bytes(field(bytes, 40)),
            records: u32::from_le_bytes(field(bytes, 44)),
            opened: Instant::from_nanos(u64::from_le_bytes(field(bytes, 48))),
            opened_unix: UnixTime::from_micros(u64::from_le_bytes(field(bytes, 56))),
            tag: field(bytes, 64),
        };
        let is_bounded = header.len as usize <= BODY_BYTES_MAX && flags <= FLAG_SEALED && header.number > 0;
        if is_bounded { Ok(header) } else { Err(BadBlock::Field) }
    }

    /// Wall-clock time of an instant of this block's records; the clock is taken to run evenly since it was begun.
    pub fn unix(&self, at: Instant) -> UnixTime {
        self.opened_unix + at.since(self.opened) - self.opened.since(at)
    }

    /// Bytes from the beginning of this block to the next.
    pub fn padded(&self) -> usize {
        padded(self.len as usize)
    }
}

/// The block that begins here: header and body as stored. The checksum is right.
pub fn parse(bytes: &[u8]) -> Result<(Header, &[u8]), BadBlock> {
    let header = Header::parse(bytes)?;
    let body = bytes.get(HEADER_BYTES..).and_then(|rest| rest.get(..header.len as usize)).ok_or(BadBlock::Short)?;
    let written = bytes.first_chunk::<HEADER_BYTES>().ok_or(BadBlock::Short)?;
    if header.emit(body) == *written { Ok((header, body)) } else { Err(BadBlock::Checksum) }
}

/// `bytes` with `value` at `at`; nothing that does not fit is written.
fn with<const N: usize>(mut bytes: [u8; HEADER_BYTES], at: usize, value: [u8; N]) -> [u8; HEADER_BYTES] {
    if let Some(place) = bytes.get_mut(at..).and_then(<[u8]>::first_chunk_mut::<N>) {
        *place = value;
    }
    bytes
}

fn field<const N: usize>(bytes: &[u8; HEADER_BYTES], at: usize) -> [u8; N] {
    bytes.get(at..).and_then(<[u8]>::first_chunk::<N>).copied().unwrap_or([0; N])
}
