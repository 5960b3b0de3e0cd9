//! A segment's bytes to blocks, in order, up to the last good one: sans-IO, whoever reads the file feeds it.

use crate::wire::tape::block::BLOCK_ALIGN;
use crate::wire::tape::block::BadBlock;
use crate::wire::tape::block::Header;
use crate::wire::tape::block::parse;
use crate::wire::tape::crypt::Key;
use crate::wire::tape::name::SegmentName;
use crate::wire::tape::record::records;

/// Where a reader stands in one segment.
#[derive(Clone, Debug)]
pub struct Reader {
    name: SegmentName,
    key: Option<Key>,
    place: u32,
    /// Boot and number of the last block.
    last: Option<(u64, u64)>,
}

/// What a reader made of the bytes at its position.
#[derive(Debug, PartialEq, Eq)]
pub enum Step<'a> {
    /// A block, opened; its records are whole. The reader stands behind it.
    Block { header: Header, body: &'a [u8] },
    /// A block begins here and is this long with its padding: give so many bytes.
    More(usize),
    /// The tape ends here, and why. In a segment that is still written more may follow.
    End(BadBlock),
}

impl Reader {
    /// `key`: that of the segment, if it has one.
    pub fn new(name: SegmentName, key: Option<Key>) -> Self {
        Self { name, key, place: 0, last: None }
    }

    pub fn name(&self) -> SegmentName {
        self.name
    }

    /// The byte of the file that the next block begins at.
    pub fn position(&self) -> u64 {
        u64::from(self.place) * BLOCK_ALIGN as u64
    }

    /// Goes on where an earlier reader stood; `last` is its [`Reader::last`].
    pub fn resume(&mut self, position: u64, last: Option<(u64, u64)>) {
        self.place = u32::try_from(position / BLOCK_ALIGN as u64).unwrap_or(u32::MAX);
        self.last = last;
    }

    /// Boot and number of the last block read.
    pub fn last(&self) -> Option<(u64, u64)> {
        self.last
    }

    /// Reads the block at [`Reader::position`]; `bytes` begin there and are opened in place.
    pub fn next<'a>(&mut self, bytes: &'a mut [u8]) -> Step<'a> {
        match self.read(bytes) {
            Ok((header, range)) => {
                self.place = self.place.saturating_add(u32::try_from(header.padded() / BLOCK_ALIGN).unwrap_or(1));
                self.last = Some((header.boot, header.number));
                Step::Block { header, body: bytes.get(range).unwrap_or_default() }
            }
            Err(BadBlock::Short) if bytes.len() < BLOCK_ALIGN => Step::More(BLOCK_ALIGN),
            Err(BadBlock::Short) => match Header::parse(bytes) {
                Ok(header) if header.padded() > bytes.len() => Step::More(header.padded()),
                _ => Step::End(BadBlock::Short),
            },
            Err(bad) => Step::End(bad),
        }
    }

    fn read(&self, bytes: &mut [u8]) -> Result<(Header, std::ops::Range<usize>), BadBlock> {
        if bytes.len() < BLOCK_ALIGN {
            return Err(BadBlock::Short);
        }
        let (header, body) = parse(bytes)?;
        self.follows(&header)?;
        let start = super::HEADER_BYTES;
        let range = start..start.saturating_add(body.len());
        let body = bytes.get_mut(range.clone()).ok_or(BadBlock::Short)?;
        if header.is_sealed {
            self.key.as_ref().ok_or(BadBlock::Sealed)?.open(&header, body)?;
        }
        let mut count = 0u32;
        for record in records(body) {
            record.map_err(|_| BadBlock::Records)?;
            count = count.saturating_add(1);
        }
        if count == header.records { Ok((header, range)) } else { Err(BadBlock::Records) }
    }

    fn follows(&self, header: &Header) -> Result<(), BadBlock> {
        let SegmentName { shard, track, segment } = self.name;
        if (header.shard, header.track, header.segment, header.place) != (shard, track, segment, self.place) {
            return Err(BadBlock::Place);
        }
        // Blocks of a dead engine come first, then those of the one that wrote the segment.
        match self.last {
            Some(last) if (header.boot, header.number) <= last => Err(BadBlock::Number),
            _ => Ok(()),
        }
    }
}

/// Tells copies of blocks apart: what was not confirmed when its engine died is on two segments. One per shard and track.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Copies {
    newest: std::collections::BTreeMap<u64, u64>,
}

impl Copies {
    /// Engines of one node whose blocks can still come twice.
    const BOOTS_MAX: usize = 64;

    /// True the first time that a block comes. Segments must be read in their order.
    pub fn is_new(&mut self, header: &Header) -> bool {
        let newest = self.newest.entry(header.boot).or_default();
        let is_new = header.number > *newest;
        *newest = header.number.max(*newest);
        if self.newest.len() > Self::BOOTS_MAX {
            self.newest.pop_first();
        }
        is_new
    }
}
