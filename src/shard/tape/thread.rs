//! The tape thread: the one thread of an engine that waits for the recording disk.
//!
//! A turn takes whole blocks from each shard's ring, seals them, writes them and syncs; then they are confirmed: the position
//! is published and their slots are free. What fails goes to a new segment once, then back to the ring, where it waits. Where
//! room is short the oldest segments of media are removed and listed as gaps. Events keep preallocated segments in reserve.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::Duration;

use crate::base::id::ShardId;
use crate::base::limit::TAPE_COMMANDS_MAX;
use crate::base::time::Instant;
use crate::shard::clock;
use crate::shard::memory::Counter;
use crate::shard::memory::Figures;
use crate::shard::memory::Histogram;
use crate::shard::tape::disk::Disk;
use crate::shard::tape::disk::Segment;
use crate::shard::tape::files::Extent;
use crate::shard::tape::ring::Bell;
use crate::shard::tape::ring::Gaps;
use crate::shard::tape::ring::Memory;
use crate::shard::tape::ring::Taken;
use crate::shard::tape::ring::Taker;
use crate::wire::tape::BLOCK_ALIGN;
use crate::wire::tape::BLOCK_BYTES_MAX;
use crate::wire::tape::BadBlock;
use crate::wire::tape::Gap;
use crate::wire::tape::HEADER_BYTES;
use crate::wire::tape::Header;
use crate::wire::tape::Track;
use crate::wire::tape::crypt::KEY_BYTES;
use crate::wire::tape::crypt::Key;
use crate::wire::tape::name::SegmentName;
use crate::wire::tape::padded;
use crate::wire::tape::record::GapCause;

/// Commits are at least this far apart: what comes meanwhile shares an fdatasync.
pub const COMMIT_EVERY: Duration = Duration::from_millis(50);
/// One write of one track.
const BATCH_BYTES_MAX: usize = 2 << 20;
/// Segments of events that are preallocated beside the one that is written.
const SPARES: usize = 2;
const COMPLAIN_EVERY: Duration = Duration::from_secs(10);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TapeSettings {
    pub boot: u64,
    pub media_segment_bytes: u64,
    pub event_segment_bytes: u64,
    /// All segments of media of the node.
    pub media_bytes_max: u64,
    /// All segments of events of one shard: beyond it its events wait in the ring, and then in the shard.
    pub event_bytes_max: u64,
    /// A segment that has been written to for so long is finished, so that its reader can be done with it.
    pub segment_age_max: Duration,
    pub is_sealed: bool,
}

/// What the tape thread is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Command {
    Acknowledge(SegmentName),
    /// The shards have ended: write what is left, then end.
    Finish,
}

/// One shard's part of it.
pub struct Shard {
    pub shard: ShardId,
    pub memory: Arc<Memory>,
    /// Its own mapping: counters of the tape thread and the confirmed position.
    pub figures: Figures,
    pub gaps: Gaps,
}

pub struct Tape<D: Disk> {
    disk: D,
    settings: TapeSettings,
    shards: Vec<ShardTape<D>>,
    batch: Batch,
    taken: Vec<Taken>,
    complained: Option<Instant>,
}

struct ShardTape<D: Disk> {
    shard: ShardId,
    ring: Taker,
    figures: Figures,
    gaps: Gaps,
    tracks: [TrackTape<D>; 2],
    /// Nothing of engines before this one is left in the ring.
    is_rewritten: bool,
}

struct TrackTape<D: Disk> {
    /// Number of the newest segment.
    number: u64,
    current: Option<Current<D::Segment>>,
    /// Preallocated, in order, with numbers above `current`.
    spares: VecDeque<Current<D::Segment>>,
    /// Finished and not acknowledged, in order, with the bytes they take.
    finished: VecDeque<(SegmentName, u64)>,
    /// Of all its segments.
    bytes: u64,
}

struct Current<S> {
    name: SegmentName,
    file: S,
    key: Option<Key>,
    place: u32,
    bytes: u64,
    begun: Option<Instant>,
}

/// Bytes at an address that O_DIRECT takes.
struct Batch {
    bytes: Vec<u8>,
    start: usize,
    len: usize,
}

impl Batch {
    fn new() -> Self {
        let bytes = vec![0u8; BATCH_BYTES_MAX + BLOCK_ALIGN];
        let start = bytes.as_ptr().align_offset(BLOCK_ALIGN);
        Self { bytes, start, len: 0 }
    }

    fn filled(&self) -> &[u8] {
        &self.bytes[self.start..self.start + self.len]
    }

    /// Room for a block at the end of what is filled.
    fn push(&mut self, len: usize) -> &mut [u8] {
        let at = self.start + self.len;
        self.len += len;
        &mut self.bytes[at..at + len]
    }
}

impl<D: Disk> Tape<D> {
    /// Finds what earlier lives left: those segments are finished.
    pub fn open(mut disk: D, settings: TapeSettings, shards: Vec<Shard>) -> io::Result<Self> {
        let mut opened = Vec::with_capacity(shards.len());
        for Shard { shard, memory, figures, gaps } in shards {
            let mut tracks = Track::ALL.map(|_| TrackTape {
                number: 0,
                current: None,
                spares: VecDeque::new(),
                finished: VecDeque::new(),
                bytes: 0,
            });
            for (name, bytes) in disk.list(shard)? {
                let track = &mut tracks[name.track.index()];
                track.number = track.number.max(name.segment);
                track.finished.push_back((name, bytes));
                track.bytes += bytes;
            }
            for (track, tape) in Track::ALL.into_iter().zip(&tracks) {
                // Nothing of this life is there yet; what lies before is whole.
                figures.publish_committed(track, tape.number + 1, 0);
            }
            figures.publish_rewritten(0);
            opened.push(ShardTape { shard, ring: Taker::new(memory), figures, gaps, tracks, is_rewritten: false });
        }
        Ok(Self { disk, settings, shards: opened, batch: Batch::new(), taken: Vec::new(), complained: None })
    }

    /// The reserve of events is there before the first call; false if the disk has no room for it.
    pub fn prepare(&mut self) -> bool {
        (0..self.shards.len()).all(|index| self.reserve(index))
    }

    /// Commits what is there. True if something was.
    pub fn turn(&mut self, now: Instant) -> bool {
        let mut wrote = false;
        for index in 0..self.shards.len() {
            for track in Track::ALL {
                // Bounded: a disk that keeps up empties the ring, one that does not fails or fills a batch at a time.
                for _ in 0..self.shards[index].ring.memory().slots(track) {
                    match self.commit(index, track, now) {
                        Committed::Nothing => break,
                        Committed::Some => wrote = true,
                    }
                }
                self.finish_if_old(index, track, now);
            }
            self.reserve(index);
            let ShardTape { ring, figures, is_rewritten, .. } = &mut self.shards[index];
            if !*is_rewritten && !ring.holds_older(self.settings.boot) {
                *is_rewritten = true;
                figures.publish_rewritten(self.settings.boot);
            }
        }
        wrote
    }

    pub fn acknowledge(&mut self, through: SegmentName) {
        let Some(index) = self.shards.iter().position(|shard| shard.shard == through.shard) else { return };
        let track = through.track.index();
        while let Some((name, bytes)) = self.shards[index].tracks[track].finished.front().copied() {
            if name.segment > through.segment || !self.remove(index, name, bytes) {
                return;
            }
        }
    }

    /// Everything that lies in the rings, the shards having ended; then the segments end where their blocks do.
    pub fn finish(&mut self, now: Instant) {
        self.shards.iter().for_each(|shard| shard.ring.close_all());
        self.turn(now);
        for shard in &self.shards {
            let left = shard.ring.memory().used(Track::Events);
            if left > 0 {
                tracing::error!(
                    event = "events.left",
                    shard = shard.shard.0,
                    "{left} blocks of events found no room on the tape: they are lost unless this node starts another engine"
                );
            }
        }
        for index in 0..self.shards.len() {
            for track in Track::ALL {
                self.finish_segment(index, track);
                while let Some(spare) = self.shards[index].tracks[track.index()].spares.pop_front() {
                    drop(spare.file);
                    let _ = self.disk.remove(spare.name);
                    self.shards[index].tracks[track.index()].bytes -= spare.bytes;
                }
            }
        }
    }

    fn commit(&mut self, index: usize, track: Track, now: Instant) -> Committed {
        if track == Track::Events && self.is_out_of_events(index) {
            self.complain(track, &io::ErrorKind::QuotaExceeded.into(), now);
            return Committed::Nothing;
        }
        let mut taken = std::mem::take(&mut self.taken);
        self.shards[index].ring.take(track, self.settings.boot, BATCH_BYTES_MAX, &mut taken);
        let mut result = Ok(0);
        if !taken.is_empty() {
            result = self.write(index, track, &taken, now);
            // A segment whose write or sync failed is dead; the blocks get one more chance in a new one.
            if let Err(error) = &result {
                self.complain(track, error, now);
                self.abandon(index, track);
                if is_full(error) {
                    self.make_room(index, self.segment_bytes(track), GapCause::Full);
                }
                result = self.write(index, track, &taken, now);
            }
        }
        let shard = &self.shards[index];
        let done = match &result {
            Ok(done) => *done,
            Err(error) => {
                let cause = if is_full(error) { GapCause::Full } else { GapCause::Failed };
                shard.ring.set_trouble(cause);
                shard.figures.add(Counter::TapeErrors, 1);
                0
            }
        };
        taken[done..].iter().for_each(|taken| shard.ring.give_back(taken));
        if let Err(error) = &result {
            self.complain(track, error, now);
            self.abandon(index, track);
        } else if done > 0 {
            self.shards[index].ring.set_trouble(GapCause::Slow);
        }
        self.taken = taken;
        if done > 0 { Committed::Some } else { Committed::Nothing }
    }

    /// Side has taken over so little that no further segment of events may be made: it would take the disk from everything else.
    fn is_out_of_events(&self, index: usize) -> bool {
        let tape = &self.shards[index].tracks[Track::Events.index()];
        let has_room = |current: &Current<_>| {
            u64::from(current.place) * BLOCK_ALIGN as u64 + BLOCK_BYTES_MAX as u64 <= current.bytes
        };
        tape.spares.is_empty() && !tape.current.as_ref().is_some_and(has_room) && !self.may_grow_events(index)
    }

    fn may_grow_events(&self, index: usize) -> bool {
        let bytes = self.shards[index].tracks[Track::Events.index()].bytes;
        bytes + self.settings.event_segment_bytes <= self.settings.event_bytes_max
    }

    /// Writes as many of the blocks as the segment has room for and confirms them; says how many.
    fn write(&mut self, index: usize, track: Track, taken: &[Taken], now: Instant) -> io::Result<usize> {
        self.ensure_segment(index, track, padded(taken.first().map_or(0, |taken| taken.len)))?;
        let begun = clock::boottime();
        let shard = &mut self.shards[index];
        let Some(current) = &mut shard.tracks[track.index()].current else { return Ok(0) };
        let at = u64::from(current.place) * BLOCK_ALIGN as u64;
        self.batch.len = 0;
        let mut done = 0;
        for block in taken {
            let len = padded(block.len);
            if at + (self.batch.len + len) as u64 > current.bytes {
                break;
            }
            let place = current.place + u32::try_from(self.batch.len / BLOCK_ALIGN).unwrap_or(u32::MAX);
            let header = header_of(block, shard.shard, current.name, place);
            let sealed = seal(header, shard.ring.body(block), current.key.as_ref(), self.batch.push(len));
            sealed.map_err(io::Error::other)?;
            done += 1;
        }
        current.file.write(at, self.batch.filled())?;
        current.file.sync()?;
        current.begun.get_or_insert(now);
        current.place += u32::try_from(self.batch.len / BLOCK_ALIGN).unwrap_or(u32::MAX);
        shard.figures.publish_committed(track, current.name.segment, current.place);
        taken[..done].iter().for_each(|taken| shard.ring.free(taken));
        let figures = &shard.figures;
        let (blocks, bytes) = match track {
            Track::Events => (Counter::TapeBlocksEvents, Counter::TapeBytesEvents),
            Track::Media => (Counter::TapeBlocksMedia, Counter::TapeBytesMedia),
        };
        figures.add(blocks, done as u64);
        figures.add(bytes, self.batch.len as u64);
        figures.add(Counter::TapeCommits, 1);
        figures.observe(Histogram::TapeCommit, clock::boottime().since(begun), 1);
        Ok(done)
    }

    fn segment_bytes(&self, track: Track) -> u64 {
        match track {
            Track::Events => self.settings.event_segment_bytes,
            Track::Media => self.settings.media_segment_bytes,
        }
    }

    /// A current segment that has room for at least one block of `need` bytes.
    fn ensure_segment(&mut self, index: usize, track: Track, need: usize) -> io::Result<()> {
        let tape = &self.shards[index].tracks[track.index()];
        let has_room =
            |current: &Current<_>| u64::from(current.place) * BLOCK_ALIGN as u64 + need as u64 <= current.bytes;
        if tape.current.as_ref().is_some_and(has_room) {
            return Ok(());
        }
        self.finish_segment(index, track);
        let tape = &mut self.shards[index].tracks[track.index()];
        let next = match tape.spares.pop_front() {
            Some(spare) => spare,
            None => {
                if track == Track::Media {
                    self.bound_media(index);
                }
                self.create(index, track)?
            }
        };
        let shard = &mut self.shards[index];
        // Before the first block is there, so that no reader takes this segment for a finished one.
        shard.figures.publish_committed(track, next.name.segment, 0);
        shard.tracks[track.index()].current = Some(next);
        Ok(())
    }

    fn create(&mut self, index: usize, track: Track) -> io::Result<Current<D::Segment>> {
        let bytes = self.segment_bytes(track);
        let mut key = None;
        if self.settings.is_sealed {
            let mut secret = [0; KEY_BYTES];
            getrandom::fill(&mut secret).map_err(|_| io::Error::other("the system gave no randomness"))?;
            key = Some(Key::new(secret));
        }
        let shard = &mut self.shards[index];
        let tape = &mut shard.tracks[track.index()];
        tape.number += 1;
        let name = SegmentName { shard: shard.shard, track, segment: tape.number };
        let file = self.disk.create(name, bytes, key.as_ref())?;
        tape.bytes += bytes;
        Ok(Current { name, file, key, place: 0, bytes, begun: None })
    }

    /// Keeps preallocated segments of events, as far as there is room; false if there is not.
    fn reserve(&mut self, index: usize) -> bool {
        while self.shards[index].tracks[Track::Events.index()].spares.len() < SPARES {
            if !self.may_grow_events(index) {
                return false;
            }
            match self.create(index, Track::Events) {
                Ok(spare) => self.shards[index].tracks[Track::Events.index()].spares.push_back(spare),
                // Tried again in the next turn; what is left of the reserve is used first.
                Err(_) => return false,
            }
        }
        true
    }

    fn finish_if_old(&mut self, index: usize, track: Track, now: Instant) {
        let current = self.shards[index].tracks[track.index()].current.as_ref();
        let begun = current.and_then(|current| current.begun);
        if begun.is_some_and(|begun| now.since(begun) >= self.settings.segment_age_max) {
            self.finish_segment(index, track);
            let shard = &self.shards[index];
            let next = shard.tracks[track.index()].spares.front().map(|spare| spare.name.segment);
            let next = next.unwrap_or_else(|| shard.tracks[track.index()].number + 1);
            shard.figures.publish_committed(track, next, 0);
        }
    }

    /// The current segment gets no more blocks and ends behind its last.
    fn finish_segment(&mut self, index: usize, track: Track) {
        let tape = &mut self.shards[index].tracks[track.index()];
        let Some(current) = tape.current.take() else { return };
        let len = u64::from(current.place) * BLOCK_ALIGN as u64;
        let (name, bytes) = (current.name, current.bytes);
        if len == 0 {
            drop(current.file);
            let _ = self.disk.remove(name);
            tape.bytes -= bytes;
            return;
        }
        let kept = if current.file.finish(len).is_ok() { len } else { bytes };
        tape.bytes -= bytes - kept;
        tape.finished.push_back((name, kept));
    }

    /// After an error: what was confirmed in it stays, nothing is added.
    fn abandon(&mut self, index: usize, track: Track) {
        self.finish_segment(index, track);
    }

    /// Of the whole node.
    fn media_bytes(&self) -> u64 {
        self.shards.iter().map(|shard| shard.tracks[Track::Media.index()].bytes).sum()
    }

    fn bound_media(&mut self, index: usize) {
        let wanted = self.settings.media_segment_bytes;
        while self.media_bytes() + wanted > self.settings.media_bytes_max {
            if !self.shed_oldest(index, GapCause::Full) {
                return;
            }
        }
    }

    /// Removes media until about `bytes` are free.
    fn make_room(&mut self, index: usize, bytes: u64, cause: GapCause) {
        let before = self.media_bytes();
        while before - self.media_bytes() < bytes {
            if !self.shed_oldest(index, cause) {
                return;
            }
        }
    }

    /// Removes the oldest segment of media, of this shard if it has one; false if there is none.
    fn shed_oldest(&mut self, index: usize, cause: GapCause) -> bool {
        let media = Track::Media.index();
        let has = |index: &usize| !self.shards[*index].tracks[media].finished.is_empty();
        let Some(index) = std::iter::once(index).chain(0..self.shards.len()).find(has) else { return false };
        let Some((name, bytes)) = self.shards[index].tracks[media].finished.front().copied() else { return false };
        let extents = self.disk.summary(name);
        if !self.remove(index, name, bytes) {
            return false;
        }
        let shard = &self.shards[index];
        tracing::error!(
            event = "tape.gap",
            shard = name.shard.0,
            "segment {} of media was removed unread: the disk, or what the tape may use of it, is full",
            name.segment
        );
        for Extent { boot, first, last, since, until, records, bytes } in extents {
            let gap = Gap { boot, track: Track::Media, first, last, since, until, records, bytes, cause };
            shard.figures.add(Counter::TapeRemoved, records);
            if shard.gaps.push(gap).is_err() {
                shard.figures.add(Counter::TapeErrors, 1);
            }
        }
        true
    }

    fn remove(&mut self, index: usize, name: SegmentName, bytes: u64) -> bool {
        if let Err(error) = self.disk.remove(name) {
            tracing::error!(event = "tape.failed", "cannot remove tape segment {}: {error}", name.file());
            return false;
        }
        let tape = &mut self.shards[index].tracks[name.track.index()];
        tape.finished.pop_front();
        tape.bytes -= bytes;
        true
    }

    fn complain(&mut self, track: Track, error: &io::Error, now: Instant) {
        if self.complained.is_none_or(|at| now.since(at) >= COMPLAIN_EVERY) {
            self.complained = Some(now);
            tracing::error!(event = "tape.failed", "the tape's {track:?} cannot be written: {error}; calls go on");
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Committed {
    Nothing,
    Some,
}

fn header_of(block: &Taken, shard: ShardId, name: SegmentName, place: u32) -> Header {
    Header {
        track: name.track,
        is_sealed: false,
        shard,
        boot: block.boot,
        segment: name.segment,
        place,
        number: block.number,
        len: u32::try_from(block.len).unwrap_or(u32::MAX),
        records: block.records,
        opened: block.opened,
        opened_unix: block.opened_unix,
        tag: [0; 16],
    }
}

/// Writes the whole block, padding included, to `room`.
fn seal(mut header: Header, records: &[u8], key: Option<&Key>, room: &mut [u8]) -> Result<(), BadBlock> {
    let (head, rest) = room.split_at_mut(HEADER_BYTES);
    let (body, padding) = rest.split_at_mut(records.len());
    body.copy_from_slice(records);
    padding.fill(0);
    if let Some(key) = key {
        key.seal(&mut header, body)?;
    }
    head.copy_from_slice(&header.emit(body));
    Ok(())
}

fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge)
}

/// The running thread.
#[derive(Debug)]
pub struct TapeHandle {
    teller: Teller,
    thread: JoinHandle<()>,
}

/// Carries commands to the thread.
#[derive(Clone, Debug)]
pub struct Teller {
    commands: mpsc::SyncSender<Command>,
    bell: Bell,
}

impl Teller {
    /// Everything up to this segment of its track is durable elsewhere. Dropped while the thread has too much to do: whoever
    /// says it says it again.
    pub fn acknowledge(&self, through: SegmentName) {
        let _ = self.commands.try_send(Command::Acknowledge(through));
        self.bell.ring();
    }
}

impl TapeHandle {
    pub fn teller(&self) -> Teller {
        self.teller.clone()
    }

    /// After the shards have ended: everything in the rings is written.
    pub fn finish(self) {
        let _ = self.teller.commands.send(Command::Finish);
        self.teller.bell.ring();
        if self.thread.join().is_err() {
            tracing::error!(event = "fault", "the tape thread panicked");
        }
    }
}

/// Starts the thread on `cpu`, or wherever the kernel likes.
pub fn spawn<D: Disk + 'static>(mut tape: Tape<D>, bell: Bell, cpu: Option<usize>) -> io::Result<TapeHandle> {
    let (commands, received) = mpsc::sync_channel(TAPE_COMMANDS_MAX);
    let listening = bell.clone();
    let thread = std::thread::Builder::new().name("tape".to_owned()).spawn(move || {
        pin(cpu);
        listening.listen();
        run(&mut tape, &received);
    })?;
    Ok(TapeHandle { teller: Teller { commands, bell }, thread })
}

fn run<D: Disk>(tape: &mut Tape<D>, commands: &mpsc::Receiver<Command>) {
    loop {
        let begun = clock::boottime();
        let wrote = tape.turn(begun);
        loop {
            match commands.try_recv() {
                Ok(Command::Acknowledge(through)) => tape.acknowledge(through),
                Ok(Command::Finish) => return tape.finish(clock::boottime()),
                Err(mpsc::TryRecvError::Empty) => break,
                // The engine is gone without a word: as after a kill, the rings keep what is left.
                Err(mpsc::TryRecvError::Disconnected) => return,
            }
        }
        let spent = clock::boottime().since(begun);
        if wrote {
            std::thread::sleep(COMMIT_EVERY.saturating_sub(spent));
        } else {
            // A block that was closed since has rung the bell.
            std::thread::park_timeout(Duration::from_secs(1));
        }
    }
}

fn pin(cpu: Option<usize>) {
    let Some(cpu) = cpu else { return };
    let mut set = rustix::thread::CpuSet::new();
    set.set(cpu);
    // Where this is refused the kernel places the thread.
    let _ = rustix::thread::sched_setaffinity(None, &set);
}
