//! One call's records while it is recorded: an append-only file of sealed chunks, each with its place on the tape.
//!
//! What is torn at the end is cut off when it is opened again, and what is read from the tape a second time is told by its place.
//! The file's key stands at its beginning, sealed under the node's. [`Chunks`] reads while [`Work`] goes on writing.

use std::fs;
use std::fs::File;
use std::fs::OpenOptions;
use std::io;
use std::os::unix::fs::FileExt;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::AcqRel;
use std::sync::atomic::Ordering::Release;

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

/// When and for whom a recording began.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Begin {
    pub(crate) tenant: String,
    pub(crate) at: UnixTime,
}

pub(crate) struct Work {
    chunks: Arc<Chunks>,
    len: u64,
    waiting: Vec<u8>,
    last: Place,
    clocks: Clocks,
    shard: ShardId,
    is_ended: bool,
    begin: Option<Begin>,
}

/// What a recording of this number of the call is called, everywhere.
pub(crate) fn id_of(call: CallId, number: u32) -> String {
    if number <= 1 { call.to_string() } else { format!("{call}-{number}") }
}

/// The call and the number of such a name.
pub(crate) fn parse_id(id: &str) -> Option<(CallId, u32)> {
    match id.split_once('-') {
        None => Some((id.parse().ok()?, 1)),
        Some((call, number)) => Some((call.parse().ok()?, number.parse().ok().filter(|number| *number > 1)?)),
    }
}

/// The recording whose file has this name.
pub(crate) fn id_of_file(name: &str) -> Option<(CallId, u32)> {
    parse_id(name.strip_suffix(".call")?)
}

/// The key goes before the file does.
pub(crate) fn destroy(folder: &Path, id: &str) -> io::Result<()> {
    let path = Work::path(folder, id);
    let file = OpenOptions::new().write(true).open(&path)?;
    file.write_all_at(&[0; HEAD_BYTES], 0)?;
    fs::remove_file(path)
}

impl Work {
    pub(crate) fn path(folder: &Path, id: &str) -> PathBuf {
        folder.join(format!("{id}.call"))
    }

    /// Goes on with the recording's file, or begins it.
    pub(crate) fn open(folder: &Path, id: &str, shard: ShardId, node_key: &NodeKey) -> io::Result<Self> {
        let path = Self::path(folder, id);
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(&path)?;
        let (data_key, shard) = match Head::read(&file, id, node_key) {
            Head::Own(key, shard) => (key, shard),
            Head::Foreign => {
                let aside = path.with_extension("unreadable");
                let at = aside.display();
                tracing::error!(event = "recording.unreadable", "{id}: sealed under another node.key: kept as {at}");
                fs::rename(&path, aside)?;
                return Self::open(folder, id, shard, node_key);
            }
            Head::None => {
                let mut key = [0; KEY_BYTES];
                getrandom::fill(&mut key).map_err(|_| io::Error::other("no randomness"))?;
                let sealed = node_key.seal(id, &key).map_err(io::Error::other)?;
                file.set_len(0)?;
                file.write_all_at(&[&MAGIC[..], &[shard.0], &sealed].concat(), 0)?;
                (key, shard)
            }
        };
        let chunks = Chunks { file, key: NodeKey::new(&data_key), id: id.to_owned(), is_dirty: AtomicBool::new(true) };
        let mut work = Self {
            chunks: Arc::new(chunks),
            len: Chunks::FIRST,
            waiting: Vec::new(),
            last: Place::default(),
            clocks: Clocks::default(),
            shard,
            is_ended: false,
            begin: None,
        };
        work.recover()?;
        Ok(work)
    }

    /// Up to the last chunk that is whole; what is behind it is cut off.
    fn recover(&mut self) -> io::Result<()> {
        while let Some(chunk) = self.chunks.read(self.len) {
            self.len = chunk.next;
            (self.last, self.clocks) = (chunk.last, chunk.clocks);
            for record in records(&chunk.records).flatten() {
                self.is_ended = false;
                if let Record::Mark { at, mark, .. } = record {
                    self.is_ended = matches!(mark, Mark::Ended { .. });
                    if let (Mark::Begin { tenant }, None) = (mark, &self.begin) {
                        self.begin = Some(Begin { tenant, at: chunk.clocks.unix(at) });
                    }
                }
            }
        }
        self.chunks.file.set_len(self.len)
    }

    /// For those who read what was written so far.
    pub(crate) fn chunks(&self) -> &Arc<Chunks> {
        &self.chunks
    }

    /// Bytes of the file.
    pub(crate) fn len(&self) -> u64 {
        self.len
    }

    /// When it was opened it had its beginning already.
    pub(crate) fn begin(&self) -> Option<&Begin> {
        self.begin.as_ref()
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
        let sealed = self.chunks.seal(self.len, &self.waiting)?;
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
        self.chunks.write(self.len, &chunk)?;
        self.len += chunk.len() as u64;
        self.waiting.clear();
        Ok(())
    }

    /// Everything that was appended is on the disk when this returns.
    pub(crate) fn sync(&mut self) -> io::Result<()> {
        self.flush()?;
        self.chunks.sync()
    }
}

enum Head {
    Own([u8; KEY_BYTES], ShardId),
    /// Sealed under another node's key.
    Foreign,
    None,
}

impl Head {
    fn read(file: &File, id: &str, node_key: &NodeKey) -> Self {
        let mut head = [0; HEAD_BYTES];
        if file.read_exact_at(&mut head, 0).is_err() || !head.starts_with(&MAGIC) {
            return Self::None;
        }
        let opened = node_key.open_value(id, &head[MAGIC.len() + 1..]).ok();
        let key = opened.and_then(|key| key.try_into().ok());
        key.map_or(Self::Foreign, |key| Self::Own(key, ShardId(head[MAGIC.len()])))
    }
}

/// The chunks of a store, as far as they are written; may be read while more is.
pub(crate) struct Chunks {
    file: File,
    key: NodeKey,
    id: String,
    is_dirty: AtomicBool,
}

impl Chunks {
    /// Where the first chunk begins.
    pub(crate) const FIRST: u64 = HEAD_BYTES as u64;

    /// Changes nothing; `None` if there is no such store any more.
    pub(crate) fn open(folder: &Path, id: &str, node_key: &NodeKey) -> io::Result<Option<Self>> {
        let file = match File::open(Work::path(folder, id)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            file => file?,
        };
        let Head::Own(key, _) = Head::read(&file, id, node_key) else { return Ok(None) };
        Ok(Some(Self { file, key: NodeKey::new(&key), id: id.to_owned(), is_dirty: AtomicBool::new(false) }))
    }

    /// Everything that was written is on the disk when this returns.
    pub(crate) fn sync(&self) -> io::Result<()> {
        if self.is_dirty.swap(false, AcqRel)
            && let Err(error) = self.file.sync_data()
        {
            self.is_dirty.store(true, Release);
            return Err(error);
        }
        Ok(())
    }

    fn write(&self, position: u64, chunk: &[u8]) -> io::Result<()> {
        self.is_dirty.store(true, Release);
        self.file.write_all_at(chunk, position)
    }

    fn seal(&self, position: u64, records: &[u8]) -> io::Result<Vec<u8>> {
        self.key.seal(&self.aad(position), records).map_err(io::Error::other)
    }

    /// The chunk at this position of the file, from [`Chunks::FIRST`] on.
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

    fn aad(&self, position: u64) -> String {
        format!("{}/{position}", self.id)
    }
}

pub(crate) struct Chunk {
    /// As on the tape.
    pub(crate) records: Vec<u8>,
    pub(crate) last: Place,
    pub(crate) clocks: Clocks,
    pub(crate) next: u64,
}
