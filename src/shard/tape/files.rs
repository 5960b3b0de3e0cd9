//! Reading tapes: which segments are there, their keys, and their blocks up to where reading is allowed.
//!
//! Waits for the disk: for the tape thread, the side process' own threads and tools, never for a shard.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::path::PathBuf;

use crate::base::id::ShardId;
use crate::base::time::UnixTime;
use crate::wire::tape::BLOCK_BYTES_MAX;
use crate::wire::tape::BadBlock;
use crate::wire::tape::Header;
use crate::wire::tape::Reader;
use crate::wire::tape::Step;
use crate::wire::tape::crypt::Key;
use crate::wire::tape::name::SegmentName;

/// The segments of a shard, events first, each track in order, with the bytes of their files.
pub fn list(tape: &Path, shard: ShardId) -> io::Result<Vec<(SegmentName, u64)>> {
    let mut found = Vec::new();
    let entries = match std::fs::read_dir(tape.join(SegmentName::folder(shard))) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(found),
        entries => entries?,
    };
    for entry in entries {
        let entry = entry?;
        if let Some(name) = entry.file_name().to_str().and_then(|file| SegmentName::parse(shard, file)) {
            found.push((name, entry.metadata()?.len()));
        }
    }
    found.sort_unstable();
    Ok(found)
}

/// The shards that have a folder of segments.
pub fn shards(tape: &Path) -> io::Result<Vec<ShardId>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(tape)? {
        if let Some(shard) = entry?.file_name().to_str().and_then(|name| name.parse().ok()) {
            found.push(ShardId(shard));
        }
    }
    found.sort_unstable();
    Ok(found)
}

pub fn path_of(tape: &Path, name: SegmentName) -> PathBuf {
    tape.join(SegmentName::folder(name.shard)).join(name.file())
}

/// One segment's blocks in order, read with `pread`.
#[derive(Debug)]
pub struct SegmentReader {
    file: File,
    reader: Reader,
    buffer: Vec<u8>,
    /// Bytes of the buffer that were read from the reader's position on; a block is opened in place and not read twice.
    end: Option<BadBlock>,
}

impl SegmentReader {
    /// A missing key file is no error before a sealed block comes.
    pub fn open(tape: &Path, name: SegmentName) -> io::Result<Self> {
        let file = File::open(path_of(tape, name))?;
        let key_path = tape.join(SegmentName::folder(name.shard)).join(name.key_file());
        let key = match std::fs::read(key_path) {
            Ok(bytes) => Key::parse(&bytes),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(error),
        };
        Ok(Self { file, reader: Reader::new(name, key), buffer: vec![0; BLOCK_BYTES_MAX], end: None })
    }

    pub fn name(&self) -> SegmentName {
        self.reader.name()
    }

    /// The byte that the next block begins at.
    pub fn position(&self) -> u64 {
        self.reader.position()
    }

    /// Goes on where an earlier reader stood.
    pub fn resume(&mut self, position: u64, last: Option<(u64, u64)>) {
        self.reader.resume(position, last);
    }

    /// Boot and number of the last block.
    pub fn last(&self) -> Option<(u64, u64)> {
        self.reader.last()
    }

    /// Why the last [`SegmentReader::next`] found no block; none if only the limit was reached.
    pub fn end(&self) -> Option<BadBlock> {
        self.end
    }

    /// The next block that lies before `limit`, or none at the end.
    pub fn next(&mut self, limit: u64) -> io::Result<Option<(Header, &[u8])>> {
        self.end = None;
        let position = self.reader.position();
        if position >= limit {
            return Ok(None);
        }
        let wanted = usize::try_from(limit - position).unwrap_or(usize::MAX).min(BLOCK_BYTES_MAX);
        let len = read_at(&self.file, &mut self.buffer[..wanted], position)?;
        match self.reader.next(&mut self.buffer[..len]) {
            Step::Block { header, body } => Ok(Some((header, body))),
            Step::More(_) => {
                self.end = Some(BadBlock::Short);
                Ok(None)
            }
            Step::End(bad) => {
                self.end = Some(bad);
                Ok(None)
            }
        }
    }
}

fn read_at(file: &File, bytes: &mut [u8], position: u64) -> io::Result<usize> {
    let mut len = 0;
    while len < bytes.len() {
        match file.read_at(&mut bytes[len..], position + len as u64) {
            Ok(0) => break,
            Ok(read) => len += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(len)
}

/// Blocks of one boot in one segment, as far as their headers say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    pub boot: u64,
    pub first: u64,
    pub last: u64,
    pub since: UnixTime,
    pub until: UnixTime,
    pub records: u64,
    pub bytes: u64,
}

impl Extent {
    pub fn of(header: &Header) -> Self {
        let (first, at) = (header.number, header.opened_unix);
        let (records, bytes) = (u64::from(header.records), u64::from(header.len));
        Self { boot: header.boot, first, last: first, since: at, until: at, records, bytes }
    }

    /// Adds a later block; false if it is another boot's.
    pub fn add(&mut self, header: &Header) -> bool {
        if header.boot != self.boot {
            return false;
        }
        self.last = header.number;
        self.until = header.opened_unix;
        self.records += u64::from(header.records);
        self.bytes += u64::from(header.len);
        true
    }
}

/// What a segment holds, by boot, from its headers alone: no key is needed.
pub fn extents(tape: &Path, name: SegmentName) -> Vec<Extent> {
    let mut extents: Vec<Extent> = Vec::new();
    let Ok(file) = File::open(path_of(tape, name)) else { return extents };
    let mut position = 0;
    let mut head = [0; crate::wire::tape::HEADER_BYTES];
    while read_at(&file, &mut head, position).is_ok_and(|len| len == head.len()) {
        let Ok(header) = Header::parse(&head) else { break };
        if header.segment != name.segment || header.track != name.track {
            break;
        }
        if !extents.last_mut().is_some_and(|extent| extent.add(&header)) {
            extents.push(Extent::of(&header));
        }
        position += header.padded() as u64;
    }
    extents
}
