//! One call's records while it is recorded: an append-only file of sealed chunks, each with its place on the tape.
//!
//! What is torn at the end is cut off when it is opened again, and what is read from the tape a second time is told by its place.
//! The file's key stands at its beginning, sealed under the node's.

use std::fs;
use std::fs::File;
use std::fs::OpenOptions;
use std::io;
use std::os::unix::fs::FileExt;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::path::PathBuf;

use crate::base::id::CallId;
use crate::base::id::ShardId;
use crate::base::time::Instant;
use crate::base::time::UnixTime;
use crate::process::side::seal::KEY_BYTES;
use crate::process::side::seal::NodeKey;
use crate::process::side::seal::SEAL_BYTES;
use crate::wire::tape::BODY_BYTES_MAX;
use crate::wire::tape::Mark;
use crate::wire::tape::Record;
use crate::wire::tape::records;

const MAGIC: [u8; 8] = *b"tipCALL\x01";
/// Magic, shard, sealed key.
const HEAD_BYTES: usize = 9 + KEY_BYTES + SEAL_BYTES;
const CHUNK_MAGIC: u32 = 0x6b6e_6863;
const CHUNK_HEAD_BYTES: usize = 60;
/// A chunk is written when it would become longer.
const CHUNK_BYTES_MAX: usize = BODY_BYTES_MAX;

/// Where a record stands: boot, number of its block, its place among the block's records.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Place {
    pub(crate) boot: u64,
    pub(crate) block: u64,
    pub(crate) record: u32,
}

/// One reading of both clocks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Clocks {
    pub(crate) instant: Instant,
    pub(crate) unix: UnixTime,
}

impl Clocks {
    pub(crate) fn unix(&self, at: Instant) -> UnixTime {
        self.unix + at.since(self.instant) - self.instant.since(at)
    }
}

pub(crate) struct Work {
    file: File,
    key: NodeKey,
    call: CallId,
    len: u64,
    waiting: Vec<u8>,
    last: Place,
    clocks: Clocks,
    is_dirty: bool,
    shard: ShardId,
    is_ended: bool,
}

impl Work {
    pub(crate) fn path(folder: &Path, call: CallId) -> PathBuf {
        folder.join(format!("{call}.call"))
    }

    /// The call whose file has this name.
    pub(crate) fn call_of(name: &str) -> Option<CallId> {
        name.strip_suffix(".call")?.parse().ok()
    }

    /// Goes on with the call's file, or begins it.
    pub(crate) fn open(folder: &Path, call: CallId, shard: ShardId, node_key: &NodeKey) -> io::Result<Self> {
        let path = Self::path(folder, call);
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(&path)?;
        let place = call.to_string();
        let mut head = [0; HEAD_BYTES];
        let old = file.read_exact_at(&mut head, 0).ok().filter(|()| head.starts_with(&MAGIC));
        let opened = old.and_then(|()| node_key.open_value(&place, &head[MAGIC.len() + 1..]).ok());
        if old.is_some() && opened.is_none() {
            let aside = path.with_extension("unreadable");
            tracing::error!(event = "recording.unreadable", %call, "sealed under another node.key: kept as {}", aside.display());
            fs::rename(&path, aside)?;
            return Self::open(folder, call, shard, node_key);
        }
        let (data_key, shard): ([u8; KEY_BYTES], ShardId) = match opened.and_then(|key| key.try_into().ok()) {
            Some(key) => (key, ShardId(head[MAGIC.len()])),
            None => {
                let mut key = [0; KEY_BYTES];
                getrandom::fill(&mut key).map_err(|_| io::Error::other("no randomness"))?;
                let sealed = node_key.seal(&place, &key).map_err(io::Error::other)?;
                file.set_len(0)?;
                file.write_all_at(&[&MAGIC[..], &[shard.0], &sealed].concat(), 0)?;
                (key, shard)
            }
        };
        let (len, last, waiting) = (HEAD_BYTES as u64, Place::default(), Vec::new());
        let clocks = Clocks::default();
        let mut work = Self {
            file,
            key: NodeKey::new(&data_key),
            call,
            len,
            waiting,
            last,
            clocks,
            is_dirty: true,
            shard,
            is_ended: false,
        };
        while let Some(chunk) = work.read(work.len) {
            work.len = chunk.next;
            (work.last, work.clocks) = (chunk.last, chunk.clocks);
            let last = records(&chunk.records).flatten().last();
            work.is_ended = matches!(last, Some(Record::Mark { mark: Mark::Ended { .. }, .. }));
        }
        work.file.set_len(work.len)?;
        Ok(work)
    }

    /// The shard whose tape the records are from.
    pub(crate) fn shard(&self) -> ShardId {
        self.shard
    }

    /// When it was opened its last record was the recording's end.
    pub(crate) fn is_ended(&self) -> bool {
        self.is_ended
    }

    /// Place of the last record.
    pub(crate) fn last(&self) -> Place {
        self.last
    }

    /// Adds a record, unless it is there; true if it is new.
    pub(crate) fn append(&mut self, place: Place, clocks: Clocks, record: &[u8]) -> io::Result<bool> {
        if place <= self.last {
            return Ok(false);
        }
        // One chunk has the records of one boot, whose clocks it states.
        if self.waiting.len() + record.len() > CHUNK_BYTES_MAX || place.boot != self.last.boot {
            self.flush()?;
        }
        if self.waiting.is_empty() {
            self.clocks = clocks;
        }
        self.waiting.extend_from_slice(record);
        self.last = place;
        Ok(true)
    }

    /// Writes what waits.
    pub(crate) fn flush(&mut self) -> io::Result<()> {
        if self.waiting.is_empty() {
            return Ok(());
        }
        let sealed = self.key.seal(&self.aad(self.len), &self.waiting).map_err(io::Error::other)?;
        let mut chunk = Vec::with_capacity(CHUNK_HEAD_BYTES + sealed.len());
        chunk.extend_from_slice(&CHUNK_MAGIC.to_le_bytes());
        chunk.extend_from_slice(&u32::try_from(sealed.len()).map_err(io::Error::other)?.to_le_bytes());
        chunk.extend_from_slice(&crc32c::crc32c(&sealed).to_le_bytes());
        chunk.extend_from_slice(&self.last.record.to_le_bytes());
        let words = [self.last.boot, self.last.block, self.clocks.instant.nanos(), self.clocks.unix.micros(), self.len];
        words.iter().for_each(|word| chunk.extend_from_slice(&word.to_le_bytes()));
        let crc = crc32c::crc32c(&chunk);
        chunk.extend_from_slice(&crc.to_le_bytes());
        chunk.extend_from_slice(&sealed);
        self.file.write_all_at(&chunk, self.len)?;
        self.len += chunk.len() as u64;
        self.waiting.clear();
        self.is_dirty = true;
        Ok(())
    }

    /// Everything that was appended is on the disk when this returns.
    pub(crate) fn sync(&mut self) -> io::Result<()> {
        self.flush()?;
        if self.is_dirty {
            self.file.sync_data()?;
            self.is_dirty = false;
        }
        Ok(())
    }

    /// The chunk at this position of the file, from [`Work::FIRST`] on.
    pub(crate) fn read(&self, position: u64) -> Option<Chunk> {
        let mut head = [0; CHUNK_HEAD_BYTES];
        self.file.read_exact_at(&mut head, position).ok()?;
        let (fields, crc) = head.split_last_chunk::<4>()?;
        let word = |at: usize| Some(u64::from_le_bytes(*fields.get(at..)?.first_chunk()?));
        let half = |at: usize| Some(u32::from_le_bytes(*fields.get(at..)?.first_chunk()?));
        if crc32c::crc32c(fields) != u32::from_le_bytes(*crc) || half(0)? != CHUNK_MAGIC || word(48)? != position {
            return None;
        }
        let len = half(4)? as usize;
        if len > CHUNK_BYTES_MAX + SEAL_BYTES {
            return None;
        }
        let mut sealed = vec![0; len];
        let start = position + CHUNK_HEAD_BYTES as u64;
        self.file.read_exact_at(&mut sealed, start).ok()?;
        if crc32c::crc32c(&sealed) != half(8)? {
            return None;
        }
        let records = self.key.open_value(&self.aad(position), &sealed).ok()?;
        let last = Place { boot: word(16)?, block: word(24)?, record: half(12)? };
        let clocks = Clocks { instant: Instant::from_nanos(word(32)?), unix: UnixTime::from_micros(word(40)?) };
        Some(Chunk { records, last, clocks, next: start + len as u64 })
    }

    /// Where the first chunk begins.
    pub(crate) const FIRST: u64 = HEAD_BYTES as u64;

    fn aad(&self, position: u64) -> String {
        format!("{}/{position}", self.call)
    }
}

pub(crate) struct Chunk {
    /// As on the tape.
    pub(crate) records: Vec<u8>,
    pub(crate) last: Place,
    pub(crate) clocks: Clocks,
    pub(crate) next: u64,
}
