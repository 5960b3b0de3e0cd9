//! Reads the events of the tapes as they are confirmed, has them committed, and says which segments are done with.
//!
//! A thread of its own, which may wait for the disk and the database. Killed at any point it reads the segments that are left
//! again: what is committed already is told by its number.

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

use crate::base::id::ShardId;
use crate::process::side::link::LinkHandle;
use crate::process::side::metrics::Metrics;
use crate::process::side::record::desk::Desk;
use crate::process::side::record::ingest::Batch;
use crate::process::side::record::ingest::Way;
use crate::process::side::record::spool;
use crate::shard::memory::Figures;
use crate::shard::tape::files;
use crate::shard::tape::files::SegmentReader;
use crate::wire::tape::BadBlock;
use crate::wire::tape::Copies;
use crate::wire::tape::Header;
use crate::wire::tape::Record;
use crate::wire::tape::Track;
use crate::wire::tape::name::SegmentName;
use crate::wire::tape::records;

const LOOK_EVERY: Duration = Duration::from_millis(100);
/// After a disk or database that failed.
const FAILED_PAUSE: Duration = Duration::from_secs(1);
const TELL_EVERY_LOOKS: u32 = 10;
const BATCH_EVENTS_MAX: usize = 2_000;

/// One shard's.
#[derive(Default)]
struct Tape {
    copies: Copies,
    reader: Option<SegmentReader>,
    /// The next segment to read.
    next: u64,
    /// Everything up to this one is committed.
    durable: Option<u64>,
}

struct Tail {
    folder: PathBuf,
    desk: Arc<Desk>,
    metrics: Arc<Metrics>,
    handle: Handle,
    tapes: BTreeMap<ShardId, Tape>,
}

/// What was read and is not committed.
#[derive(Default)]
struct Waiting {
    batches: Vec<Batch>,
    events: usize,
}

impl Waiting {
    fn batch(&mut self, boot: u64) -> &mut Batch {
        if self.batches.last().is_none_or(|batch| batch.boot != boot) {
            self.batches.push(Batch { boot, ..Batch::default() });
        }
        let last = self.batches.len() - 1;
        &mut self.batches[last]
    }
}

impl Tail {
    /// Reads what is confirmed up to this byte of this segment of the shard's events.
    fn read(&mut self, shard: ShardId, segment: u64, limit: u64) -> io::Result<()> {
        let mut tape = self.tapes.remove(&shard).unwrap_or_default();
        let read = self.read_tape(&mut tape, shard, segment, limit);
        if read.is_err() {
            // What was read and is not committed is read again.
            tape = Tape { durable: tape.durable, next: tape.durable.map_or(0, |done| done + 1), ..Tape::default() };
        }
        self.tapes.insert(shard, tape);
        read
    }

    fn read_tape(&self, tape: &mut Tape, shard: ShardId, segment: u64, limit: u64) -> io::Result<()> {
        let mut waiting = Waiting::default();
        loop {
            let reader = match tape.reader.take() {
                Some(reader) => Some(reader),
                None => self.next_segment(tape, shard, segment)?,
            };
            let Some(mut reader) = reader else { return self.commit(&mut waiting) };
            let name = reader.name();
            let is_complete = name.segment < segment;
            let limit = if is_complete { u64::MAX } else { limit };
            while let Some((header, body)) = reader.next(limit)? {
                if tape.copies.is_new(&header) {
                    self.on_block(&header, body, &mut waiting);
                }
                if waiting.events >= BATCH_EVENTS_MAX {
                    self.commit(&mut waiting)?;
                }
            }
            if let Some(bad) = reader.end().filter(|bad| !matches!(bad, BadBlock::Magic | BadBlock::Short)) {
                tracing::warn!(event = "tape.damaged", "{} of shard {} ends: {bad}", name.file(), shard.0);
            }
            self.commit(&mut waiting)?;
            if !is_complete {
                tape.reader = Some(reader);
                return Ok(());
            }
            tape.durable = Some(name.segment);
            tape.next = name.segment + 1;
        }
    }

    fn next_segment(&self, tape: &Tape, shard: ShardId, newest: u64) -> io::Result<Option<SegmentReader>> {
        for (name, _) in files::list(&self.folder, shard)? {
            if name.track == Track::Events && (tape.next..=newest).contains(&name.segment) {
                match SegmentReader::open(&self.folder, name) {
                    Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                    opened => return opened.map(Some),
                }
            }
        }
        Ok(None)
    }

    fn on_block(&self, header: &Header, body: &[u8], waiting: &mut Waiting) {
        for record in records(body).flatten() {
            match record {
                Record::Event { event, .. } => {
                    waiting.batch(header.boot).events.push(event);
                    waiting.events += 1;
                }
                Record::Gap { gap, .. } => {
                    tracing::error!(
                        event = "tape.gap",
                        shard = header.shard.0,
                        "{} records of {:?} are not on the tape ({:?})",
                        gap.records,
                        gap.track,
                        gap.cause
                    );
                    waiting.batch(header.boot).gaps.push((header.shard, gap));
                }
                // Of a newer release: there is nothing that this one could do with it.
                Record::Unknown { .. } => _ = self.metrics.events_unknown.fetch_add(1, Relaxed),
                Record::Frame(_) | Record::Mark { .. } => {}
            }
        }
    }

    fn commit(&self, waiting: &mut Waiting) -> io::Result<()> {
        let Waiting { batches, .. } = std::mem::take(waiting);
        if batches.is_empty() {
            return Ok(());
        }
        self.handle.block_on(self.desk.commit(&batches, Way::Tape)).map_err(io::Error::other)
    }

    /// Segments that are committed and still there.
    fn acknowledgements(&self) -> io::Result<Vec<SegmentName>> {
        let mut found = Vec::new();
        for (shard, tape) in &self.tapes {
            let is_done = |name: &SegmentName| tape.durable.is_some_and(|durable| name.segment <= durable);
            let mut names = files::list(&self.folder, *shard)?.into_iter().map(|(name, _)| name);
            found.extend(names.rfind(|name| name.track == Track::Events && is_done(name)));
        }
        Ok(found)
    }

    fn look(&mut self, figures: &Figures) -> io::Result<()> {
        // In this order: what is confirmed after a boot said that it has written everything again has all of it.
        let rewritten = figures.rewritten();
        let Some((segment, limit)) = figures.committed(Track::Events) else { return Ok(()) };
        self.read(figures.shard(), segment, limit)?;
        self.desk.on_rewritten(figures.shard(), rewritten);
        Ok(())
    }
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
    desk: &Arc<Desk>,
    metrics: &Arc<Metrics>,
    link: &LinkHandle,
) -> io::Result<Tailing> {
    let (desk, metrics, handle) = (Arc::clone(desk), Arc::clone(metrics), Handle::current());
    let mut tail = Tail { folder: data.join("tape"), desk, metrics, handle, tapes: BTreeMap::new() };
    let (data, link) = (data.to_owned(), link.clone());
    let stop = Arc::new(AtomicBool::new(false));
    let stopped = Arc::clone(&stop);
    let run = move || {
        let mut figures: Vec<Option<Figures>> = memory.iter().map(|_| None).collect();
        let (mut looks, mut is_spool_read) = (0u32, false);
        while !stopped.load(Relaxed) {
            let mut failed = None;
            if !is_spool_read {
                failed = spool::take_over(&data, &tail.desk, &tail.handle).err();
                is_spool_read = failed.is_none();
            }
            for (figures, memory) in figures.iter_mut().zip(&memory).filter(|_| is_spool_read) {
                if figures.is_none() {
                    *figures = Figures::read(memory).ok();
                }
                if let Some(figures) = figures {
                    failed = tail.look(figures).err().or(failed);
                }
            }
            if failed.is_none() {
                failed = tail.handle.block_on(tail.desk.close_lost()).map_err(io::Error::other).err();
            }
            looks = looks.wrapping_add(1);
            if looks.is_multiple_of(TELL_EVERY_LOOKS) {
                let acknowledgements = tail.acknowledgements();
                acknowledgements.iter().flatten().for_each(|name| link.acknowledge_tape(*name));
            }
            if let Some(error) = &failed {
                tracing::error!(event = "events.failed", "events wait on the tape: {error}");
            }
            std::thread::sleep(if failed.is_some() { FAILED_PAUSE } else { LOOK_EVERY });
        }
    };
    std::thread::Builder::new().name("events".to_owned()).spawn(run)?;
    Ok(Tailing(stop))
}
