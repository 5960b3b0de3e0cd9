//! Reads the tapes as they are confirmed and takes them apart into a store per call; what has ended is handed to the finisher.
//!
//! A thread of its own, which may wait for the disk. A segment is acknowledged when everything up to it is durable in the
//! stores or in recordings. Killed at any point it reads the segments that are left again: places tell what is there already.
//! After a fault it goes on at the block that it could not take; after a sync that failed it reads all again that is not durable.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use tokio::runtime::Handle;

use crate::base::id::CallId;
use crate::base::id::ShardId;
use crate::base::time::Instant;
use crate::process::side::clock;
use crate::process::side::link::LinkHandle;
use crate::process::side::recording::finisher::Counts;
use crate::process::side::recording::finisher::Done;
use crate::process::side::recording::finisher::Finisher;
use crate::process::side::recording::finisher::Job;
use crate::process::side::recording::finisher::Known;
use crate::process::side::recording::live::Live;
use crate::process::side::recording::rows;
use crate::process::side::recording::work;
use crate::process::side::recording::work::Begin;
use crate::process::side::recording::work::Chunks;
use crate::process::side::recording::work::Clocks;
use crate::process::side::recording::work::Place;
use crate::process::side::recording::work::Work;
use crate::process::side::seal::NodeKey;
use crate::process::side::store::Store;
use crate::process::side::tapes;
use crate::process::side::tapes::Follower;
use crate::process::side::tapes::Following;
use crate::process::side::tapes::Tape;
use crate::shard::memory::Figures;
use crate::shard::tape::files::SegmentReader;
use crate::wire::tape::Header;
use crate::wire::tape::Mark;
use crate::wire::tape::Record;
use crate::wire::tape::Track;
use crate::wire::tape::name::SegmentName;
use crate::wire::tape::record;
use crate::wire::tape::records;

/// Calls whose last recording's place is remembered; of others the database is asked.
const KNOWN_MAX: usize = 4_096;

struct Open {
    work: Work,
    boot: u64,
    number: u32,
}

/// A store that was handed over.
struct Finishing {
    last: Place,
    shard: ShardId,
    store: Arc<Chunks>,
}

pub(crate) struct Separator<D> {
    tape: PathBuf,
    folder: PathBuf,
    key: Arc<NodeKey>,
    finisher: Finisher<D>,
    live: Arc<Live>,
    tapes: BTreeMap<ShardId, Tape>,
    /// Blocks that were read and could not be taken.
    refused: BTreeMap<ShardId, (Header, Vec<u8>)>,
    open: BTreeMap<CallId, Open>,
    finishing: BTreeMap<(CallId, u32), Finishing>,
    known: BTreeMap<CallId, (Place, u32)>,
    room: Vec<u8>,
    is_recovered: bool,
    /// There are stores that ended and that the finisher had no room for.
    has_left_behind: bool,
}

impl<D: Done + 'static> Separator<D> {
    /// `data`: the node's folder. Stores that were left behind go on.
    pub(crate) fn new(data: &Path, key: Arc<NodeKey>, finisher: Finisher<D>, live: Arc<Live>) -> io::Result<Self> {
        let folder = rows::folder(data);
        rows::create_folder(&rows::work_folder(&folder))?;
        Ok(Self {
            tape: data.join("tape"),
            folder,
            key,
            finisher,
            live,
            tapes: BTreeMap::new(),
            refused: BTreeMap::new(),
            open: BTreeMap::new(),
            finishing: BTreeMap::new(),
            known: BTreeMap::new(),
            room: vec![0; record::RECORD_BYTES_MAX],
            is_recovered: false,
            has_left_behind: false,
        })
    }

    /// Reads what is confirmed up to this byte of this segment of the shard's media.
    pub(crate) fn read(&mut self, shard: ShardId, segment: u64, limit: u64) -> io::Result<()> {
        self.recover()?;
        let mut tape = self.tapes.remove(&shard).unwrap_or_default();
        let read = self.read_tape(&mut tape, shard, segment, limit);
        if self.cut_back(shard) {
            tape.start_over();
            self.refused.remove(&shard);
        }
        self.tapes.insert(shard, tape);
        let worked = if self.finisher.has_workers() { Ok(()) } else { self.finisher.work_off() };
        self.on_done();
        read.and(worked)
    }

    /// Stores that a sync failed for, up to where they are durable: the tape has the rest. True if there is one. Those that are
    /// being finished stay as they are; until they are recordings nothing is acknowledged.
    fn cut_back(&mut self, shard: ShardId) -> bool {
        let before = self.open.len();
        self.open.retain(|call, Open { work, .. }| {
            let cut = if work.shard() == shard && work.is_broken() { Some(work.cut_back()) } else { None };
            if let Some(Err(error)) = &cut {
                tracing::error!(event = "recordings.failed", call = %call, "a store that could not be synced: {error}");
            }
            !matches!(cut, Some(Ok(())))
        });
        self.open.len() < before
    }

    /// Stores of before: those whose recording is done go, those that have ended become recordings, the others go on.
    fn recover(&mut self) -> io::Result<()> {
        if self.is_recovered && !(self.has_left_behind && self.finisher.has_room()) {
            return Ok(());
        }
        self.has_left_behind = false;
        let folder = rows::work_folder(&self.folder);
        let mut found = Vec::new();
        for entry in std::fs::read_dir(&folder)? {
            found.extend(entry?.file_name().to_str().and_then(work::id_of_file));
        }
        found.sort_unstable();
        for (index, (call, number)) in found.iter().copied().enumerate() {
            let is_open = self.open.get(&call).is_some_and(|open| open.number == number);
            if is_open || self.finishing.contains_key(&(call, number)) {
                continue;
            }
            let id = work::id_of(call, number);
            match self.finisher.done().known(&id)? {
                Known::Done => {
                    self.discard(&id);
                    continue;
                }
                // One that failed is tried once more by each process.
                Known::Failed if self.is_recovered => continue,
                Known::Failed | Known::Nothing => {}
            }
            if self.is_recovered && self.finisher.is_full() {
                self.has_left_behind = true;
                break;
            }
            let mut work = self.open_store(&id, ShardId(0))?;
            if work.last() == Place::default() {
                // Killed before anything was written: the tape has it all.
                self.discard(&id);
                continue;
            }
            if let Some(begin) = work.begin() {
                self.live.on_begin(&id, call, begin);
            }
            let has_later = found.get(index + 1).is_some_and(|(later, _)| *later == call);
            let is_over = work.is_ended() || has_later || self.is_recovered;
            let boot = work.last().boot;
            if is_over {
                if self.finisher.is_full() {
                    work.sync()?;
                    rows::sync_folder(&folder)?;
                }
                self.hand_over(call, Open { work, boot, number });
            } else {
                self.open.insert(call, Open { work, boot, number });
            }
        }
        self.is_recovered = true;
        Ok(())
    }

    /// Goes on with a store, or begins it. One that cannot be read stops no other.
    fn open_store(&self, id: &str, shard: ShardId) -> io::Result<Work> {
        let folder = rows::work_folder(&self.folder);
        match Work::open(&folder, id, shard, &self.key) {
            Err(error) if is_of_the_file(&error) => {
                work::set_aside(&folder, id, &error.to_string()).map_err(|_| error)?;
                self.finisher.counts().unreadable.fetch_add(1, Relaxed);
                Work::open(&folder, id, shard, &self.key)
            }
            opened => opened,
        }
    }

    /// A store that nobody needs. Left behind it goes at the next start.
    fn discard(&self, id: &str) {
        work::destroy(&rows::work_folder(&self.folder), id)
            .unwrap_or_else(|error| tracing::warn!(event = "recording.left", "the store of {id}: {error}"));
    }

    fn read_tape(&mut self, tape: &mut Tape, shard: ShardId, segment: u64, limit: u64) -> io::Result<()> {
        if let Some((header, body)) = self.refused.remove(&shard)
            && let Err(error) = self.on_block(&header, &body)
        {
            self.refused.insert(shard, (header, body));
            return Err(error);
        }
        loop {
            let Some(reader) = tape.open(&self.tape, shard, Track::Media, segment)? else { return Ok(()) };
            let name = reader.name();
            let is_complete = name.segment < segment;
            self.read_segment(tape, reader, if is_complete { u64::MAX } else { limit })?;
            if !is_complete {
                return Ok(());
            }
            self.sync(shard)?;
            tape.on_durable(name.segment);
        }
    }

    /// Puts the reader back, whatever comes.
    fn read_segment(&mut self, tape: &mut Tape, mut reader: SegmentReader, limit: u64) -> io::Result<()> {
        let read = loop {
            match reader.next(limit) {
                Ok(Some((header, body))) => {
                    if tape.copies.is_new(&header)
                        && let Err(error) = self.on_block(&header, body)
                    {
                        self.refused.insert(header.shard, (header, body.to_vec()));
                        break Err(error);
                    }
                }
                Ok(None) => break Ok(()),
                Err(error) => break Err(error),
            }
        };
        tapes::note_end(&reader);
        tape.reader = Some(reader);
        read
    }

    /// What was taken from the shard's tape is durable when this returns.
    fn sync(&mut self, shard: ShardId) -> io::Result<()> {
        for open in self.open.values_mut().filter(|open| open.work.shard() == shard) {
            open.work.sync()?;
        }
        self.finishing.values().filter(|finishing| finishing.shard == shard).try_for_each(|one| one.store.sync())?;
        rows::sync_folder(&rows::work_folder(&self.folder))
    }

    fn on_block(&mut self, header: &Header, body: &[u8]) -> io::Result<()> {
        let shard = header.shard;
        self.end_before(shard, header.boot)?;
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
                    // It is there already and came no further where the block is taken again after a fault.
                    if is_new || self.open.get(&call).is_some_and(|open| open.work.last() == place) {
                        self.on_mark(call, at, clocks, mark)?;
                    }
                }
                Record::Event { .. } | Record::Gap { .. } | Record::Unknown { .. } => {}
            }
        }
        Ok(())
    }

    fn on_mark(&mut self, call: CallId, at: Instant, clocks: Clocks, mark: Mark) -> io::Result<()> {
        match (mark, self.open.get(&call)) {
            (Mark::Begin { tenant }, Some(open)) => {
                let begin = Begin { tenant, at: clocks.unix(at) };
                self.live.on_begin(&work::id_of(call, open.number), call, &begin);
                Ok(())
            }
            (Mark::Ended { .. }, _) => self.end(call),
            _ => Ok(()),
        }
    }

    /// Calls of engines before this one: nothing of theirs comes any more.
    pub(crate) fn end_before(&mut self, shard: ShardId, boot: u64) -> io::Result<()> {
        self.end_where(|open| open.work.shard() == shard && open.boot < boot)
    }

    fn end_where(&mut self, is_over: impl Fn(&Open) -> bool) -> io::Result<()> {
        let over: Vec<CallId> = self.open.iter().filter(|(_, open)| is_over(open)).map(|(call, _)| *call).collect();
        over.into_iter().try_for_each(|call| self.end(call))
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
        let (last, newest) = self.known(call)?;
        if place <= last {
            return Ok(false);
        }
        let mut number = newest + 1;
        let mut work = self.open_store(&work::id_of(call, number), shard)?;
        // A store that ended and was left behind on the disk.
        while work.is_ended() {
            if place <= work.last() {
                return Ok(false);
            }
            number += 1;
            work = self.open_store(&work::id_of(call, number), shard)?;
        }
        let is_new = work.append(place, clocks, record)?;
        self.open.insert(call, Open { work, boot: place.boot, number });
        Ok(is_new)
    }

    /// Last place of the call's recordings that have ended, and their highest number.
    fn known(&mut self, call: CallId) -> io::Result<(Place, u32)> {
        let known = match self.known.get(&call) {
            Some(known) => *known,
            None => {
                let known = self.finisher.done().last(call)?;
                self.remember(call, known);
                known
            }
        };
        let finishing = self.finishing.range((call, 0)..=(call, u32::MAX));
        Ok(finishing.fold(known, |(last, newest), ((_, number), one)| (last.max(one.last), newest.max(*number))))
    }

    fn remember(&mut self, call: CallId, known: (Place, u32)) {
        self.known.insert(call, known);
        if self.known.len() > KNOWN_MAX {
            self.known.pop_first();
        }
    }

    /// A recording will be made of the call's store.
    fn end(&mut self, call: CallId) -> io::Result<()> {
        let Some(open) = self.open.get_mut(&call) else { return Ok(()) };
        open.work.flush()?;
        if self.finisher.is_full() {
            open.work.sync()?;
            rows::sync_folder(&rows::work_folder(&self.folder))?;
        }
        if let Some(open) = self.open.remove(&call) {
            self.hand_over(call, open);
        }
        Ok(())
    }

    /// What it has no room for is durable already.
    fn hand_over(&mut self, call: CallId, open: Open) {
        let Open { work, number, .. } = open;
        let (last, shard, bytes, store) = (work.last(), work.shard(), work.len(), Arc::clone(work.chunks()));
        self.live.on_end(&work::id_of(call, number), clock::now());
        if self.finisher.offer(Job::new(call, number, last, Arc::clone(&store), bytes)) {
            self.finishing.insert((call, number), Finishing { last, shard, store });
        } else {
            self.has_left_behind = true;
        }
    }

    fn on_done(&mut self) {
        for (call, number) in self.finisher.take_done() {
            if let Some(finishing) = self.finishing.remove(&(call, number))
                && let Some((last, newest)) = self.known.get_mut(&call)
            {
                *last = finishing.last.max(*last);
                *newest = number.max(*newest);
            }
        }
    }

    /// Writes what waits of calls that somebody wants to hear.
    fn write_wanted(&mut self) -> io::Result<()> {
        let wanted = self.live.wanted();
        for call in &wanted {
            if let Some(open) = self.open.get_mut(call) {
                open.work.flush()?;
            }
        }
        self.live.on_written(&wanted);
        Ok(())
    }

    /// Calls that are being recorded.
    pub(crate) fn open(&self) -> usize {
        self.open.len()
    }

    /// Segments that are durable and still there.
    pub(crate) fn acknowledgements(&self) -> io::Result<Vec<SegmentName>> {
        tapes::acknowledgements(&self.tape, Track::Media, self.tapes.iter().map(|(shard, tape)| (*shard, tape)))
    }
}

/// Nothing that passes: another file in its place would be read.
fn is_of_the_file(error: &io::Error) -> bool {
    let is_unreadable = error.raw_os_error() == Some(libc::EIO);
    is_unreadable || matches!(error.kind(), io::ErrorKind::IsADirectory | io::ErrorKind::PermissionDenied)
}

/// The thread's.
struct Tail<D> {
    separator: Separator<D>,
    /// How many shards there are.
    shards: usize,
}

impl<D: Done + Send + 'static> Follower for Tail<D> {
    const PAUSE_MAX: Duration = Duration::from_secs(30);

    fn look(&mut self, figures: &Figures) -> io::Result<()> {
        // In this order: what is confirmed after a boot said that it has written everything again has all of it.
        let rewritten = figures.rewritten();
        let Some((segment, limit)) = figures.committed(Track::Media) else { return Ok(()) };
        self.separator.read(figures.shard(), segment, limit)?;
        self.separator.end_before(figures.shard(), rewritten)
    }

    fn settle(&mut self) -> io::Result<()> {
        // Of shards that a change of the configuration took away nothing comes any more.
        let shards = self.shards;
        self.separator.end_where(|open| usize::from(open.work.shard().0) >= shards)?;
        self.separator.write_wanted()
    }

    fn acknowledgements(&self) -> io::Result<Vec<SegmentName>> {
        self.separator.acknowledgements()
    }

    fn on_failed(&self, error: &io::Error, pause: Duration) {
        let (calls, secs) = (self.separator.open(), pause.as_secs());
        tracing::error!(event = "recordings.failed", calls, "recordings, again in {secs} s: {error}");
    }
}

/// Who is told, and asked.
pub(crate) struct Around {
    pub(crate) link: LinkHandle,
    pub(crate) live: Arc<Live>,
    pub(crate) counts: Arc<Counts>,
}

pub(crate) fn start(
    data: &Path,
    memory: Vec<OwnedFd>,
    store: &Store,
    key: &Arc<NodeKey>,
    around: Around,
) -> io::Result<Following> {
    let Around { link, live, counts } = around;
    let done = rows::Database::new(store.clone(), Arc::clone(key), Handle::current());
    let mut finisher = Finisher::new(rows::folder(data), done, Arc::clone(&live), counts);
    finisher.start()?;
    let separator = Separator::new(data, Arc::clone(key), finisher, live)?;
    let shards = memory.len();
    tapes::follow("tapes", memory, link, Tail { separator, shards })
}
