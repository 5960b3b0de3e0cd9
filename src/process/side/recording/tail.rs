//! Reads the tapes as they are confirmed and takes them apart into a store per call; what has ended becomes a recording.
//!
//! A thread of its own, which may wait for the disk. A segment is acknowledged when everything up to it is durable in the
//! stores or in recordings. Killed at any point it reads the segments that are left again: places tell what is there already.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use tokio::runtime::Handle;

use crate::base::id::CallId;
use crate::base::id::ShardId;
use crate::process::side::link::LinkHandle;
use crate::process::side::recording::finish;
use crate::process::side::recording::finish::Finished;
use crate::process::side::recording::rows;
use crate::process::side::recording::work::Clocks;
use crate::process::side::recording::work::Place;
use crate::process::side::recording::work::Work;
use crate::process::side::seal::KEY_BYTES;
use crate::process::side::seal::NodeKey;
use crate::process::side::store::Store;
use crate::shard::memory::Figures;
use crate::shard::tape::files;
use crate::shard::tape::files::SegmentReader;
use crate::wire::tape::BadBlock;
use crate::wire::tape::Copies;
use crate::wire::tape::Header;
use crate::wire::tape::Mark;
use crate::wire::tape::Record;
use crate::wire::tape::Track;
use crate::wire::tape::name::SegmentName;
use crate::wire::tape::record;
use crate::wire::tape::records;

const LOOK_EVERY: Duration = Duration::from_millis(100);
/// After a disk or database that failed.
const FAILED_PAUSE: Duration = Duration::from_secs(1);
const TELL_EVERY_LOOKS: u32 = 10;
/// A new engine has by then written again what the dead one left in its ring.
const REWRITTEN_AFTER_LOOKS: u32 = 100;
/// Calls whose last recording's place is remembered; of others the database is asked.
const KNOWN_MAX: usize = 4_096;

/// Knows which recordings are done. Waits for the database.
pub(crate) trait Done {
    /// Last place of the call's recordings, and how many there are.
    fn last(&mut self, call: CallId) -> io::Result<(Place, u32)>;
    /// Durable when it returns; doing it again changes nothing.
    fn put(
        &mut self,
        call: CallId,
        id: &str,
        last: Place,
        key: &[u8; KEY_BYTES],
        finished: &Finished,
    ) -> io::Result<()>;
}

#[derive(Default)]
struct Tape {
    copies: Copies,
    reader: Option<SegmentReader>,
    /// The next segment to read.
    next: u64,
    /// Everything up to this one is durable.
    durable: Option<u64>,
    /// The events up to this one are in the database by the link.
    events: Option<u64>,
}

struct Open {
    work: Work,
    boot: u64,
    recordings: u32,
}

pub(crate) struct Separator<D> {
    tape: PathBuf,
    folder: PathBuf,
    key: Arc<NodeKey>,
    done: D,
    tapes: BTreeMap<ShardId, Tape>,
    open: BTreeMap<CallId, Open>,
    known: BTreeMap<CallId, (Place, u32)>,
    room: Vec<u8>,
    is_recovered: bool,
}

impl<D: Done> Separator<D> {
    /// `data`: the node's folder. Stores that were left behind go on.
    pub(crate) fn new(data: &Path, key: Arc<NodeKey>, done: D) -> io::Result<Self> {
        let folder = rows::folder(data);
        std::fs::create_dir_all(work_folder(&folder))?;
        let room = vec![0; record::RECORD_BYTES_MAX];
        let (tapes, open, known) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
        Ok(Self { tape: data.join("tape"), folder, key, done, tapes, open, known, room, is_recovered: false })
    }

    /// Reads what is confirmed up to this byte of this segment of the shard's media.
    pub(crate) fn read(&mut self, shard: ShardId, segment: u64, limit: u64) -> io::Result<()> {
        self.recover()?;
        let mut tape = self.tapes.remove(&shard).unwrap_or_default();
        let read = self.read_tape(&mut tape, shard, segment, limit);
        if read.is_err() {
            // What was read and is not written anywhere is read again.
            tape = Tape { durable: tape.durable, events: tape.events, ..Tape::default() };
            self.tapes.values_mut().for_each(|other| {
                *other = Tape { durable: other.durable, events: other.events, ..Tape::default() };
            });
            self.open.clear();
            self.is_recovered = false;
        }
        self.tapes.insert(shard, tape);
        read
    }

    /// Stores of before: those whose recording is done go, those that have ended become recordings, the others go on.
    fn recover(&mut self) -> io::Result<()> {
        if self.is_recovered {
            return Ok(());
        }
        let folder = work_folder(&self.folder);
        for entry in std::fs::read_dir(&folder)? {
            let Some(call) = entry?.file_name().to_str().and_then(Work::call_of) else { continue };
            let (last, recordings) = self.known(call)?;
            let work = Work::open(&folder, call, ShardId(0), &self.key)?;
            if work.last() <= last {
                std::fs::remove_file(Work::path(&folder, call))?;
                continue;
            }
            let is_ended = work.is_ended();
            let boot = work.last().boot;
            self.open.insert(call, Open { work, boot, recordings });
            if is_ended {
                self.finish(call)?;
            }
        }
        self.is_recovered = true;
        Ok(())
    }

    fn read_tape(&mut self, tape: &mut Tape, shard: ShardId, segment: u64, limit: u64) -> io::Result<()> {
        loop {
            let reader = match tape.reader.take() {
                Some(reader) => Some(reader),
                None => self.next_segment(tape, shard, segment)?,
            };
            let Some(mut reader) = reader else { return Ok(()) };
            let name = reader.name();
            let is_complete = name.segment < segment;
            let limit = if is_complete { u64::MAX } else { limit };
            while let Some((header, body)) = reader.next(limit)? {
                if tape.copies.is_new(&header) {
                    self.on_block(&header, body)?;
                }
            }
            if let Some(bad) = reader.end().filter(|bad| !matches!(bad, BadBlock::Magic | BadBlock::Short)) {
                tracing::warn!(event = "tape.damaged", "{} of shard {} ends: {bad}", name.file(), shard.0);
            }
            if !is_complete {
                tape.reader = Some(reader);
                return Ok(());
            }
            for open in self.open.values_mut().filter(|open| open.work.shard() == shard) {
                open.work.sync()?;
            }
            tape.durable = Some(name.segment);
            tape.next = name.segment + 1;
        }
    }

    fn next_segment(&self, tape: &Tape, shard: ShardId, newest: u64) -> io::Result<Option<SegmentReader>> {
        for (name, _) in files::list(&self.tape, shard)? {
            if name.track == Track::Media && (tape.next..=newest).contains(&name.segment) {
                match SegmentReader::open(&self.tape, name) {
                    Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                    opened => return opened.map(Some),
                }
            }
        }
        Ok(None)
    }

    fn on_block(&mut self, header: &Header, body: &[u8]) -> io::Result<()> {
        let shard = header.shard;
        self.finish_where(|open| open.work.shard() == shard && open.boot < header.boot)?;
        let clocks = Clocks { instant: header.opened, unix: header.opened_unix };
        for (index, record) in (0..).zip(records(body).flatten()) {
            let place = Place { boot: header.boot, block: header.number, record: index };
            match record {
                Record::Frame(frame) => {
                    let mut room = std::mem::take(&mut self.room);
                    let len = frame.emit(&mut room).unwrap_or(0);
                    let appended = self.append(frame.call, shard, place, clocks, room.get(..len).unwrap_or_default());
                    self.room = room;
                    appended?;
                }
                Record::Mark { call, at, mark } => {
                    let record = record::emit_mark(at, call, &mark).map_err(io::Error::other)?;
                    let is_new = self.append(call, shard, place, clocks, &record)?;
                    if is_new && matches!(mark, Mark::Ended { .. }) {
                        self.finish(call)?;
                    }
                }
                Record::Event { .. } | Record::Gap { .. } | Record::Unknown { .. } => {}
            }
        }
        Ok(())
    }

    /// Calls of engines before this one: nothing of theirs comes any more.
    pub(crate) fn finish_before(&mut self, boot: u64) -> io::Result<()> {
        self.finish_where(|open| open.boot < boot)
    }

    fn finish_where(&mut self, is_over: impl Fn(&Open) -> bool) -> io::Result<()> {
        let over: Vec<CallId> = self.open.iter().filter(|(_, open)| is_over(open)).map(|(call, _)| *call).collect();
        over.into_iter().try_for_each(|call| self.finish(call))
    }

    fn append(
        &mut self,
        call: CallId,
        shard: ShardId,
        place: Place,
        clocks: Clocks,
        record: &[u8],
    ) -> io::Result<bool> {
        if let Some(open) = self.open.get_mut(&call) {
            open.boot = place.boot;
            return open.work.append(place, clocks, record);
        }
        let (last, recordings) = self.known(call)?;
        if place <= last {
            return Ok(false);
        }
        let mut work = Work::open(&work_folder(&self.folder), call, shard, &self.key)?;
        let is_new = work.append(place, clocks, record)?;
        self.open.insert(call, Open { work, boot: place.boot, recordings });
        Ok(is_new)
    }

    fn known(&mut self, call: CallId) -> io::Result<(Place, u32)> {
        if let Some(known) = self.known.get(&call) {
            return Ok(*known);
        }
        let known = self.done.last(call)?;
        self.remember(call, known);
        Ok(known)
    }

    fn remember(&mut self, call: CallId, known: (Place, u32)) {
        self.known.insert(call, known);
        if self.known.len() > KNOWN_MAX {
            self.known.pop_first();
        }
    }

    /// A recording is made of the call's store, which goes when the database has it.
    fn finish(&mut self, call: CallId) -> io::Result<()> {
        let Some(open) = self.open.get_mut(&call) else { return Ok(()) };
        open.work.flush()?;
        let id = if open.recordings == 0 { call.to_string() } else { format!("{call}-{}", open.recordings + 1) };
        let mut key = [0; KEY_BYTES];
        getrandom::fill(&mut key).map_err(|_| io::Error::other("no randomness"))?;
        let path = rows::audio_path(&self.folder, &id);
        let draft = path.with_extension("new");
        if let Some(parent) = path.parent() {
            std::fs::create_dir_all(parent)?;
        }
        let finished = finish::finish(&open.work, &draft, &id, &key)?;
        std::fs::rename(&draft, &path)?;
        if let Some(parent) = path.parent() {
            std::fs::File::open(parent)?.sync_all()?;
        }
        let (last, recordings) = (open.work.last(), open.recordings + 1);
        self.done.put(call, &id, last, &key, &finished)?;
        self.open.remove(&call);
        self.remember(call, (last, recordings));
        std::fs::remove_file(Work::path(&work_folder(&self.folder), call))
    }

    /// Calls that are being recorded.
    pub(crate) fn open(&self) -> usize {
        self.open.len()
    }

    /// The events of these segments are durable: they came over the link.
    fn on_events(&mut self, shard: ShardId, segment: u64) {
        self.tapes.entry(shard).or_default().events = segment.checked_sub(1);
    }

    /// Segments that are durable and still there.
    pub(crate) fn acknowledgements(&self) -> io::Result<Vec<SegmentName>> {
        let mut found = BTreeMap::new();
        for (shard, tape) in &self.tapes {
            for (name, _) in files::list(&self.tape, *shard)? {
                let durable = if name.track == Track::Media { tape.durable } else { tape.events };
                if durable.is_some_and(|durable| name.segment <= durable) {
                    found.insert((*shard, name.track), name);
                }
            }
        }
        Ok(found.into_values().collect())
    }
}

fn work_folder(folder: &Path) -> PathBuf {
    folder.join("work")
}

/// The thread goes on until this is dropped.
pub(crate) struct Tailing(Arc<AtomicBool>);

impl Drop for Tailing {
    fn drop(&mut self) {
        self.0.store(true, Relaxed);
    }
}

pub(crate) fn start(
    data: &Path,
    memory: Vec<OwnedFd>,
    store: &Store,
    key: &Arc<NodeKey>,
    link: &LinkHandle,
) -> io::Result<Tailing> {
    let done = rows::Database::new(store.clone(), Arc::clone(key), Handle::current());
    let mut separator = Separator::new(data, Arc::clone(key), done)?;
    let link = link.clone();
    let stop = Arc::new(AtomicBool::new(false));
    let stopped = Arc::clone(&stop);
    let run = move || {
        let mut figures: Vec<Option<Figures>> = memory.iter().map(|_| None).collect();
        let mut looks = 0u32;
        let mut engine = (None, 0u32);
        while !stopped.load(Relaxed) {
            let mut failed = None;
            for (figures, memory) in figures.iter_mut().zip(&memory) {
                if figures.is_none() {
                    *figures = Figures::read(memory).ok();
                }
                let Some(figures) = figures else { continue };
                if let Some((segment, _)) = figures.committed(Track::Events) {
                    separator.on_events(figures.shard(), segment);
                }
                if let Some((segment, limit)) = figures.committed(Track::Media) {
                    failed = separator.read(figures.shard(), segment, limit).err().or(failed);
                }
            }
            looks = looks.wrapping_add(1);
            engine = if link.boot() == engine.0 { (engine.0, engine.1.saturating_add(1)) } else { (link.boot(), 0) };
            if let (Some(boot), REWRITTEN_AFTER_LOOKS..) = engine
                && failed.is_none()
            {
                failed = separator.finish_before(boot).err();
            }
            if looks.is_multiple_of(TELL_EVERY_LOOKS) {
                let acknowledgements = separator.acknowledgements();
                acknowledgements.iter().flatten().for_each(|name| link.acknowledge_tape(*name));
            }
            if let Some(error) = &failed {
                tracing::error!(event = "recordings.failed", calls = separator.open(), "recordings: {error}");
            }
            std::thread::sleep(if failed.is_some() { FAILED_PAUSE } else { LOOK_EVERY });
        }
    };
    std::thread::Builder::new().name("tapes".to_owned()).spawn(run)?;
    Ok(Tailing(stop))
}
