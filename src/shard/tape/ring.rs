//! The ring of blocks between a shard and the tape thread, in the shard's state memory: what is not confirmed on disk when an
//! engine dies is still there for the next one.
//!
//! A slot holds one block. Its descriptor says whose it is: free, open (the shard writes records, and publishes each by a
//! release-store of the length), closed, or taken by the tape thread until its block is confirmed. Free slots are taken
//! lowest first, so that memory is touched only as far as the load needs it. With no free slot the oldest closed block of
//! media is given up and listed as a gap; events have slots of their own and are refused instead.
#![allow(unsafe_code, reason = "memory shared with the next process and the tape thread")]

use std::collections::VecDeque;
use std::os::fd::AsFd;
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::OnceLock;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::AcqRel;
use std::sync::atomic::Ordering::Acquire;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::atomic::Ordering::Release;
use std::thread::Thread;
use std::time::Duration;

use crossbeam_queue::ArrayQueue;
use rustix::mm::MapFlags;
use rustix::mm::ProtFlags;
use rustix::mm::mmap;
use rustix::mm::munmap;

use crate::base::time::Instant;
use crate::base::time::Now;
use crate::base::time::UnixTime;
use crate::shard::memory::MemoryError;
use crate::wire::tape::BLOCK_BYTES_MAX;
use crate::wire::tape::BODY_BYTES_MAX;
use crate::wire::tape::Frame;
use crate::wire::tape::Gap;
use crate::wire::tape::HEADER_BYTES;
use crate::wire::tape::Track;
use crate::wire::tape::record::GapCause;
use crate::wire::tape::record::emit_gap;

/// A block that is not full is closed after this: together with the tape thread's pace, what power loss costs.
pub const BLOCK_AGE_MAX: Duration = Duration::from_millis(50);
/// A gap is noted on the events track at the latest after this.
const GAP_AGE_MAX: Duration = Duration::from_millis(500);
/// Slots for events; the rest of the memory is for media.
pub const EVENT_SLOTS: usize = 32;
/// Gaps that wait to be noted; more become one.
const GAPS_MAX: usize = 64;

const MAGIC: u64 = u64::from_le_bytes(*b"tipRING\x01");
const HEAD_BYTES: usize = 4_096;
const DESCRIPTOR_BYTES: usize = 64;
const WORD_MAGIC: usize = 0;
const WORD_SLOTS: usize = 1;
const WORD_TROUBLE: usize = 2;
/// Newest closed block of each track, of the running boot.
const WORD_CLOSED: usize = 4;

const STATE: usize = 0;
const NUMBER: usize = 1;
const BOOT: usize = 2;
/// Records in the upper half, bytes of the body in the lower.
const PUBLISHED: usize = 3;
const OPENED: usize = 4;
const OPENED_UNIX: usize = 5;

const FREE: u64 = 0;
const OPEN: u64 = 1;
const CLOSED: u64 = 2;
const TAKEN: u64 = 3;

/// Bytes that a ring with so many slots of media needs.
pub const fn bytes_for(media_slots: usize) -> u64 {
    let slots = EVENT_SLOTS + media_slots;
    (HEAD_BYTES + (slots * DESCRIPTOR_BYTES).next_multiple_of(HEAD_BYTES) + slots * BLOCK_BYTES_MAX) as u64
}

const fn slots_in(bytes: usize) -> usize {
    bytes.saturating_sub(2 * HEAD_BYTES) / (BLOCK_BYTES_MAX + DESCRIPTOR_BYTES)
}

/// The mapped ring.
#[derive(Debug)]
pub struct Memory {
    start: NonNull<u8>,
    bytes: usize,
    slots: usize,
}

// SAFETY: descriptors are atomics, and a slot's bytes have one owner at a time, which its state names.
unsafe impl Send for Memory {}
// SAFETY: as above.
unsafe impl Sync for Memory {}

impl Memory {
    /// Maps `bytes` of the file from `offset` on. What a dead engine left is kept: its blocks are closed.
    pub fn open(file: impl AsFd, offset: u64, bytes: u64) -> Result<Arc<Self>, MemoryError> {
        let bytes = usize::try_from(bytes).unwrap_or(0);
        let slots = slots_in(bytes);
        if slots <= EVENT_SLOTS {
            return Err(MemoryError::Short(bytes as u64));
        }
        let protection = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: a fresh shared mapping at an address of the kernel's choice; the keeper made the file long enough.
        let start = unsafe { mmap(std::ptr::null_mut(), bytes, protection, MapFlags::SHARED, file, offset) }?;
        let start = NonNull::new(start.cast()).ok_or(rustix::io::Errno::NOMEM)?;
        let memory = Self { start, bytes, slots };
        let is_ours = memory.head(WORD_MAGIC).load(Relaxed) == MAGIC;
        if !is_ours || memory.head(WORD_SLOTS).load(Relaxed) != slots as u64 {
            (0..slots).for_each(|slot| memory.word(slot, STATE).store(FREE, Relaxed));
            memory.head(WORD_SLOTS).store(slots as u64, Relaxed);
            memory.head(WORD_MAGIC).store(MAGIC, Release);
        }
        memory.adopt();
        Ok(Arc::new(memory))
    }

    /// A ring of this process alone, for tests and tools.
    pub fn private(media_slots: usize) -> Result<Arc<Self>, MemoryError> {
        let bytes = bytes_for(media_slots);
        Self::open(crate::shard::memory::create_file("tipring-ring", bytes)?, 0, bytes)
    }

    /// Slots whose writer or taker is dead become closed blocks.
    fn adopt(&self) {
        for slot in 0..self.slots {
            let state = self.word(slot, STATE);
            let is_empty = self.published(slot).0 == 0;
            match state.load(Acquire) {
                FREE => {}
                OPEN | CLOSED | TAKEN if !is_empty => state.store(CLOSED, Release),
                _ => state.store(FREE, Release),
            }
        }
    }

    fn head(&self, index: usize) -> &AtomicU64 {
        assert!(index < HEAD_BYTES / 8);
        self.atom(index)
    }

    fn word(&self, slot: usize, index: usize) -> &AtomicU64 {
        assert!(slot < self.slots && index < DESCRIPTOR_BYTES / 8);
        self.atom((HEAD_BYTES + slot * DESCRIPTOR_BYTES) / 8 + index)
    }

    fn atom(&self, index: usize) -> &AtomicU64 {
        assert!(index < self.bytes / 8);
        // SAFETY: within the mapping, which lives as long as `self`; aligned to 8.
        unsafe { self.start.cast::<AtomicU64>().add(index).as_ref() }
    }

    fn published(&self, slot: usize) -> (usize, u32) {
        let word = self.word(slot, PUBLISHED).load(Acquire);
        (((word & 0xFFFF_FFFF) as usize).min(BODY_BYTES_MAX), (word >> 32) as u32)
    }

    fn slot(&self, slot: usize) -> *mut u8 {
        assert!(slot < self.slots);
        let first = HEAD_BYTES + (self.slots * DESCRIPTOR_BYTES).next_multiple_of(HEAD_BYTES);
        // SAFETY: within the mapping by `slots_in`.
        unsafe { self.start.as_ptr().add(first + slot * BLOCK_BYTES_MAX) }
    }

    fn range(&self, track: Track) -> std::ops::Range<usize> {
        match track {
            Track::Events => 0..EVENT_SLOTS,
            Track::Media => EVENT_SLOTS..self.slots,
        }
    }

    /// How many slots hold blocks that are not confirmed.
    pub fn used(&self, track: Track) -> usize {
        self.range(track).filter(|slot| self.word(*slot, STATE).load(Relaxed) != FREE).count()
    }

    pub fn slots(&self, track: Track) -> usize {
        self.range(track).len()
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        // SAFETY: the mapping was made by `open` with this length and nothing refers to it any more.
        let _ = unsafe { munmap(self.start.as_ptr().cast(), self.bytes) };
    }
}

/// Wakes the tape thread.
#[derive(Clone, Debug, Default)]
pub struct Bell(Arc<OnceLock<Thread>>);

impl Bell {
    /// Called once by the thread that listens.
    pub fn listen(&self) {
        let _ = self.0.set(std::thread::current());
    }

    /// A system call only if the thread sleeps.
    pub fn ring(&self) {
        if let Some(thread) = self.0.get() {
            thread.unpark();
        }
    }
}

/// Gaps that the tape thread made, on their way to the shard that notes them.
pub type Gaps = Arc<ArrayQueue<Gap>>;

pub fn gaps() -> Gaps {
    Arc::new(ArrayQueue::new(GAPS_MAX))
}

/// What a ring has counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RingCounts {
    pub frames: u64,
    /// Frames and marks given up because the disk did not keep up.
    pub shed: u64,
    pub gaps: u64,
}

/// The shard's end of the ring.
#[derive(Debug)]
pub struct Ring {
    memory: Arc<Memory>,
    boot: u64,
    halves: [Half; 2],
    bell: Bell,
    made: Gaps,
    gaps: VecDeque<Gap>,
    gap_since: Instant,
    counts: RingCounts,
}

#[derive(Debug, Default)]
struct Half {
    open: Option<Open>,
    /// Number of the newest block.
    number: u64,
}

#[derive(Clone, Copy, Debug)]
struct Open {
    slot: usize,
    len: usize,
    records: u32,
    opened: Instant,
}

impl Ring {
    pub fn new(memory: Arc<Memory>, boot: u64, bell: Bell, made: Gaps) -> Self {
        Track::ALL.iter().for_each(|track| memory.head(WORD_CLOSED + track.index()).store(0, Release));
        let halves = [Half::default(), Half::default()];
        let (gaps, gap_since) = (VecDeque::with_capacity(GAPS_MAX), Instant::ZERO);
        Self { memory, boot, halves, bell, made, gaps, gap_since, counts: RingCounts::default() }
    }

    /// Copies one packet. False if it had to be given up.
    #[inline]
    pub fn frame(&mut self, frame: &Frame<'_>, now: Now) -> bool {
        let written = match self.room(Track::Media, Frame::record_len(frame.packet.len()), now) {
            Some(room) => frame.emit(room),
            None => None,
        };
        let Some(len) = written else {
            self.lose(1, Frame::record_len(frame.packet.len()), now);
            return false;
        };
        self.counts.frames += 1;
        self.advance(Track::Media, len);
        true
    }

    /// Appends a record that was made already. False if there is no room: an event's maker keeps it.
    pub fn record(&mut self, track: Track, record: &[u8], now: Now) -> bool {
        let Some(room) = self.room(track, record.len(), now) else {
            if track == Track::Media {
                self.lose(1, record.len(), now);
            }
            return false;
        };
        let Some(room) = room.get_mut(..record.len()) else { return false };
        room.copy_from_slice(record);
        self.advance(track, record.len());
        true
    }

    /// The newest block of media, for the events that happen beside it.
    pub fn newest_media(&self) -> u64 {
        self.halves[Track::Media.index()].number
    }

    /// Closes blocks that are old enough, and notes gaps.
    pub fn tick(&mut self, now: Now) {
        for track in Track::ALL {
            let open = self.halves[track.index()].open;
            if open.is_some_and(|open| now.instant.since(open.opened) >= BLOCK_AGE_MAX) {
                self.close(track);
            }
        }
        while let Some(gap) = self.made.pop() {
            self.counts.gaps += 1;
            self.note(gap, now);
        }
        if !self.gaps.is_empty() && now.instant.since(self.gap_since) >= GAP_AGE_MAX {
            self.emit_gaps(now);
        }
    }

    pub fn next_deadline(&self) -> Option<Instant> {
        if !self.made.is_empty() {
            return Some(Instant::ZERO);
        }
        let opened = self.halves.iter().filter_map(|half| half.open).map(|open| open.opened + BLOCK_AGE_MAX).min();
        let gap = (!self.gaps.is_empty()).then(|| self.gap_since + GAP_AGE_MAX);
        opened.into_iter().chain(gap).min()
    }

    pub fn counts(&self) -> RingCounts {
        self.counts
    }

    /// Room for `need` bytes in the open block of a track, or in a new one.
    #[inline]
    fn room(&mut self, track: Track, need: usize, now: Now) -> Option<&mut [u8]> {
        let half = &self.halves[track.index()];
        let open = match half.open {
            Some(open) if open.len + need <= BODY_BYTES_MAX => open,
            _ => self.turn_over(track, need, now)?,
        };
        let slot = self.memory.slot(open.slot);
        // SAFETY: the slot is open, so this writer owns its bytes; `len` is below BODY_BYTES_MAX, and the borrow ends with
        // the caller's.
        Some(unsafe { std::slice::from_raw_parts_mut(slot.add(HEADER_BYTES + open.len), BODY_BYTES_MAX - open.len) })
    }

    #[inline]
    fn advance(&mut self, track: Track, by: usize) {
        let Some(open) = &mut self.halves[track.index()].open else { return };
        open.len += by;
        open.records += 1;
        let published = u64::from(open.records) << 32 | open.len as u64;
        self.memory.word(open.slot, PUBLISHED).store(published, Release);
    }

    #[cold]
    fn turn_over(&mut self, track: Track, need: usize, now: Now) -> Option<Open> {
        if need > BODY_BYTES_MAX {
            return None;
        }
        self.close(track);
        let slot = match self.find_free(track) {
            Some(slot) => slot,
            None if track == Track::Media => self.steal_oldest(now)?,
            None => return None,
        };
        let memory = &self.memory;
        let half = &mut self.halves[track.index()];
        half.number += 1;
        memory.word(slot, PUBLISHED).store(0, Relaxed);
        memory.word(slot, NUMBER).store(half.number, Relaxed);
        memory.word(slot, BOOT).store(self.boot, Relaxed);
        memory.word(slot, OPENED).store(now.instant.nanos(), Relaxed);
        memory.word(slot, OPENED_UNIX).store(now.unix.micros(), Relaxed);
        memory.word(slot, STATE).store(OPEN, Release);
        let open = Open { slot, len: 0, records: 0, opened: now.instant };
        half.open = Some(open);
        Some(open)
    }

    fn close(&mut self, track: Track) {
        let half = &mut self.halves[track.index()];
        let Some(open) = half.open.take() else { return };
        self.memory.word(open.slot, STATE).store(if open.records > 0 { CLOSED } else { FREE }, Release);
        self.memory.head(WORD_CLOSED + track.index()).store(half.number, Release);
        self.bell.ring();
    }

    fn find_free(&self, track: Track) -> Option<usize> {
        self.memory.range(track).find(|slot| self.memory.word(*slot, STATE).load(Acquire) == FREE)
    }

    /// Gives up the oldest block that the tape thread has not taken.
    fn steal_oldest(&mut self, now: Now) -> Option<usize> {
        for _ in 0..4 {
            let memory = &self.memory;
            let closed = |slot: &usize| memory.word(*slot, STATE).load(Acquire) == CLOSED;
            let age = |slot: usize| (memory.word(slot, BOOT).load(Relaxed), memory.word(slot, NUMBER).load(Relaxed));
            let oldest = memory.range(Track::Media).filter(closed).min_by_key(|slot| age(*slot))?;
            let ((boot, number), (bytes, records)) = (age(oldest), memory.published(oldest));
            let since = UnixTime::from_micros(memory.word(oldest, OPENED_UNIX).load(Relaxed));
            if memory.word(oldest, STATE).compare_exchange(CLOSED, OPEN, AcqRel, Relaxed).is_err() {
                continue;
            }
            self.counts.shed += u64::from(records);
            self.counts.gaps += 1;
            let until = (since + BLOCK_AGE_MAX).min(now.unix);
            self.note(self.gap(boot, number, since, until, records, bytes), now);
            return Some(oldest);
        }
        None
    }

    /// A record that no block could be had for: it gets a block's number and is listed as one.
    #[cold]
    fn lose(&mut self, records: u32, bytes: usize, now: Now) {
        self.counts.shed += u64::from(records);
        let half = &mut self.halves[Track::Media.index()];
        if half.open.is_some() {
            return;
        }
        half.number += 1;
        let number = half.number;
        self.counts.gaps += 1;
        self.note(self.gap(self.boot, number, now.unix, now.unix, records, bytes), now);
    }

    fn gap(&self, boot: u64, number: u64, since: UnixTime, until: UnixTime, records: u32, bytes: usize) -> Gap {
        let cause = match self.memory.head(WORD_TROUBLE).load(Relaxed) {
            1 => GapCause::Full,
            2 => GapCause::Failed,
            _ => GapCause::Slow,
        };
        let (records, bytes) = (u64::from(records), bytes as u64);
        Gap { boot, track: Track::Media, first: number, last: number, since, until, records, bytes, cause }
    }

    /// Adds to the gap before it if it goes on there.
    fn note(&mut self, gap: Gap, now: Now) {
        if self.gaps.is_empty() {
            self.gap_since = now.instant;
        }
        let full = self.gaps.len() >= GAPS_MAX;
        match self.gaps.back_mut() {
            Some(last) if joins(last, &gap) || full => {
                last.first = last.first.min(gap.first);
                last.last = last.last.max(gap.last);
                last.since = last.since.min(gap.since);
                last.until = last.until.max(gap.until);
                last.records += gap.records;
                last.bytes += gap.bytes;
            }
            _ => self.gaps.push_back(gap),
        }
    }

    fn emit_gaps(&mut self, now: Now) {
        while let Some(gap) = self.gaps.front() {
            let Ok(record) = emit_gap(now.instant, gap) else { return };
            if !self.record(Track::Events, &record, now) {
                self.gap_since = now.instant;
                return;
            }
            self.gaps.pop_front();
        }
    }
}

fn joins(last: &Gap, gap: &Gap) -> bool {
    (last.boot, last.track, last.cause) == (gap.boot, gap.track, gap.cause) && gap.first == last.last + 1
}

/// A block that the tape thread has taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Taken {
    slot: usize,
    pub boot: u64,
    pub number: u64,
    pub len: usize,
    pub records: u32,
    pub opened: Instant,
    pub opened_unix: UnixTime,
}

/// The tape thread's end of the ring.
#[derive(Debug)]
pub struct Taker {
    memory: Arc<Memory>,
}

impl Taker {
    pub fn new(memory: Arc<Memory>) -> Self {
        Self { memory }
    }

    pub fn memory(&self) -> &Memory {
        &self.memory
    }

    /// The oldest closed blocks of a track in the order of their numbers, as many as fit `bytes_max`.
    pub fn take(&self, track: Track, boot: u64, bytes_max: usize, into: &mut Vec<Taken>) {
        into.clear();
        let memory = &self.memory;
        // What is closed after this may be seen before what was closed earlier: not in this turn.
        let newest = memory.head(WORD_CLOSED + track.index()).load(Acquire);
        let closed = memory.range(track).filter(|slot| memory.word(*slot, STATE).load(Acquire) == CLOSED);
        into.extend(closed.map(|slot| self.describe(slot)));
        into.retain(|taken| taken.boot != boot || taken.number <= newest);
        into.sort_unstable_by_key(|taken| (taken.boot, taken.number));
        let mut bytes = 0;
        into.retain(|taken| {
            bytes += crate::wire::tape::padded(taken.len);
            let state = memory.word(taken.slot, STATE);
            bytes <= bytes_max && state.compare_exchange(CLOSED, TAKEN, AcqRel, Relaxed).is_ok()
        });
    }

    fn describe(&self, slot: usize) -> Taken {
        let word = |index| self.memory.word(slot, index).load(Relaxed);
        let (len, records) = self.memory.published(slot);
        Taken {
            slot,
            boot: word(BOOT),
            number: word(NUMBER),
            len,
            records,
            opened: Instant::from_nanos(word(OPENED)),
            opened_unix: UnixTime::from_micros(word(OPENED_UNIX)),
        }
    }

    /// A block of an engine before this boot is not confirmed.
    pub fn holds_older(&self, boot: u64) -> bool {
        let is_older = |slot: usize| {
            self.memory.word(slot, STATE).load(Acquire) != FREE && self.memory.word(slot, BOOT).load(Relaxed) != boot
        };
        (0..self.memory.slots).any(is_older)
    }

    /// The records of a taken block.
    pub fn body(&self, taken: &Taken) -> &[u8] {
        let slot = self.memory.slot(taken.slot);
        // SAFETY: the block is taken, so nobody writes to it until it is freed or given back; `len` is within the slot.
        unsafe { std::slice::from_raw_parts(slot.add(HEADER_BYTES), taken.len.min(BODY_BYTES_MAX)) }
    }

    /// The block is confirmed on disk.
    pub fn free(&self, taken: &Taken) {
        self.memory.word(taken.slot, STATE).store(FREE, Release);
    }

    /// The block could not be written: it may be tried again, or given up by the shard.
    pub fn give_back(&self, taken: &Taken) {
        self.memory.word(taken.slot, STATE).store(CLOSED, Release);
    }

    /// What the disk is said to be when a block is given up.
    pub fn set_trouble(&self, cause: GapCause) {
        let code = match cause {
            GapCause::Slow => 0,
            GapCause::Full => 1,
            GapCause::Failed => 2,
        };
        self.memory.head(WORD_TROUBLE).store(code, Relaxed);
    }

    /// The shard has ended: its open blocks are whole.
    pub fn close_all(&self) {
        self.memory.adopt();
        for track in Track::ALL {
            self.memory.head(WORD_CLOSED + track.index()).store(u64::MAX, Release);
        }
    }
}
