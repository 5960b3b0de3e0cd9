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
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::AcqRel;
use std::sync::atomic::Ordering::Acquire;
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
#[cfg(test)]
thread_local! {
    /// So many syncs of stores by this thread fail.
    pub(crate) static FAILING_SYNCS: std::cell::Cell<u32> = const { std::cell::Cell::new(0) };
}

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
    /// Bytes of the file that are on the disk. What was there when it was opened is taken to be.
    durable: u64,
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

/// A store that cannot be read is kept beside where it was, and another begins in its place.
pub(crate) fn set_aside(folder: &Path, id: &str, why: &str) -> io::Result<()> {
    let path = Work::path(folder, id);
    let aside = path.with_extension("unreadable");
    let at = aside.display();
    tracing::error!(event = "recording.unreadable", "the store of {id}, kept as {at}: {why}");
    fs::rename(&path, aside)
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
        let (data_key, shard) = match Head::read(&file, id, node_key)? {
            Head::Own(key, shard) => (key, shard),
            Head::Foreign => {
                set_aside(folder, id, "sealed under another node.key")?;
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
        let chunks = Chunks::new(file, &data_key, id, true);
        let mut work = Self {
            chunks: Arc::new(chunks),
            len: Chunks::FIRST,
            durable: Chunks::FIRST,
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
        while let Some(chunk) = self.chunks.read(self.len)? {
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
        self.durable = self.len;
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
        self.chunks.sync()?;
        self.durable = self.len;
        Ok(())
    }

    /// A sync has failed: nobody knows what of the file is on the disk since the one before.
    pub(crate) fn is_broken(&self) -> bool {
        self.chunks.is_broken.load(Acquire)
    }

    /// Takes away what may not be on the disk, so that it is written again from the tape.
    pub(crate) fn cut_back(&self) -> io::Result<()> {
        self.chunks.file.set_len(self.durable)
    }
}

enum Head {
    Own([u8; KEY_BYTES], ShardId),
    /// Sealed under another node's key.
    Foreign,
    None,
}

impl Head {
    fn read(file: &File, id: &str, node_key: &NodeKey) -> io::Result<Self> {
        let mut head = [0; HEAD_BYTES];
        if !read_whole(file, &mut head, 0)? || !head.starts_with(&MAGIC) {
            return Ok(Self::None);
        }
        let opened = node_key.open_value(id, &head[MAGIC.len() + 1..]).ok();
        let key = opened.and_then(|key| key.try_into().ok());
        Ok(key.map_or(Self::Foreign, |key| Self::Own(key, ShardId(head[MAGIC.len()]))))
    }
}

/// False if the file ends before.
fn read_whole(file: &File, bytes: &mut [u8], position: u64) -> io::Result<bool> {
    match file.read_exact_at(bytes, position) {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(false),
        read => read.map(|()| true),
    }
}

/// The chunks of a store, as far as they are written; may be read while more is.
pub(crate) struct Chunks {
    file: File,
    key: NodeKey,
    id: String,
    is_dirty: AtomicBool,
    is_broken: AtomicBool,
    turn: Mutex<()>,
}

impl Chunks {
    /// Where the first chunk begins.
    pub(crate) const FIRST: u64 = HEAD_BYTES as u64;

    fn new(file: File, key: &[u8; KEY_BYTES], id: &str, is_dirty: bool) -> Self {
        let (is_dirty, is_broken) = (AtomicBool::new(is_dirty), AtomicBool::new(false));
        Self { file, key: NodeKey::new(key), id: id.to_owned(), is_dirty, is_broken, turn: Mutex::default() }
    }

    /// Changes nothing; `None` if there is no such store any more.
    pub(crate) fn open(folder: &Path, id: &str, node_key: &NodeKey) -> io::Result<Option<Self>> {
        let file = match File::open(Work::path(folder, id)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            file => file?,
        };
        let Head::Own(key, _) = Head::read(&file, id, node_key)? else { return Ok(None) };
        Ok(Some(Self::new(file, &key, id, false)))
    }

    /// Everything that was written is on the disk when this returns. After it has failed once it fails for good: the kernel
    /// forgets what it could not write, and would call the next one a success.
    pub(crate) fn sync(&self) -> io::Result<()> {
        // Nobody takes for done what another thread is about to find out.
        let _turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        if self.is_broken.load(Acquire) {
            return Err(io::Error::other(format!("the store of {} could not be synced", self.id)));
        }
        if self.is_dirty.swap(false, AcqRel)
            && let Err(error) = self.sync_file()
        {
            self.is_broken.store(true, Release);
            return Err(error);
        }
        Ok(())
    }

    fn sync_file(&self) -> io::Result<()> {
        #[cfg(test)]
        if FAILING_SYNCS.with(|failing| failing.replace(failing.get().saturating_sub(1))) > 0 {
            return Err(io::Error::other("the disk"));
        }
        self.file.sync_data()
    }

    /// For whom and when it began; for nobody if the tape lost that.
    pub(crate) fn begin(&self) -> io::Result<Begin> {
        let Some(chunk) = self.read(Self::FIRST)? else {
            return Ok(Begin { tenant: String::new(), at: UnixTime::default() });
        };
        let began = records(&chunk.records).flatten().find_map(|record| match record {
            Record::Mark { at, mark: Mark::Begin { tenant }, .. } => Some(Begin { tenant, at: chunk.clocks.unix(at) }),
            _ => None,
        });
        Ok(began.unwrap_or(Begin { tenant: String::new(), at: chunk.clocks.unix }))
    }

    fn write(&self, position: u64, chunk: &[u8]) -> io::Result<()> {
        self.is_dirty.store(true, Release);
        self.file.write_all_at(chunk, position)
    }

    fn seal(&self, position: u64, records: &[u8]) -> io::Result<Vec<u8>> {
        self.key.seal(&self.aad(position), records).map_err(io::Error::other)
    }

    /// The chunk at this position of the file, from [`Chunks::FIRST`] on.
    pub(crate) fn read(&self, position: u64) -> io::Result<Option<Chunk>> {
        let mut head = [0; CHUNK_HEAD_BYTES];
        if !read_whole(&self.file, &mut head, position)? {
            return Ok(None);
        }
        let Some(ChunkHead { len, crc, last, clocks }) = ChunkHead::parse(&head, position) else { return Ok(None) };
        let mut sealed = vec![0; len];
        let start = position + CHUNK_HEAD_BYTES as u64;
        if !read_whole(&self.file, &mut sealed, start)? || crc32c::crc32c(&sealed) != crc {
            return Ok(None);
        }
        let Ok(records) = self.key.open_value(&self.aad(position), &sealed) else { return Ok(None) };
        Ok(Some(Chunk { records, last, clocks, next: start + len as u64 }))
    }

    fn aad(&self, position: u64) -> String {
        format!("{}/{position}", self.id)
    }
}

/// What stands in front of a chunk's records.
struct ChunkHead {
    len: usize,
    crc: u32,
    last: Place,
    clocks: Clocks,
}

impl ChunkHead {
    fn parse(head: &[u8; CHUNK_HEAD_BYTES], position: u64) -> Option<Self> {
        let (fields, crc) = head.split_last_chunk::<4>()?;
        let word = |at: usize| Some(u64::from_le_bytes(*fields.get(at..)?.first_chunk()?));
        let half = |at: usize| Some(u32::from_le_bytes(*fields.get(at..)?.first_chunk()?));
        if crc32c::crc32c(fields) != u32::from_le_bytes(*crc) || half(0)? != CHUNK_MAGIC || word(48)? != position {
            return None;
        }
        let len = Some(half(4)? as usize).filter(|len| *len <= CHUNK_BYTES_MAX + SEAL_BYTES)?;
        let last = Place { boot: word(16)?, block: word(24)?, record: half(12)? };
        let clocks = Clocks { instant: Instant::from_nanos(word(32)?), unix: UnixTime::from_micros(word(40)?) };
        Some(Self { len, crc: half(8)?, last, clocks })
    }
}

pub(crate) struct Chunk {
    /// As on the tape.
    pub(crate) records: Vec<u8>,
    pub(crate) last: Place,
    pub(crate) clocks: Clocks,
    pub(crate) next: u64,
}
