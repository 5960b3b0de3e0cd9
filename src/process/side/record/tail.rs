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
use crate::process::side::tapes;
use crate::process::side::tapes::Follower;
use crate::process::side::tapes::Following;
use crate::process::side::tapes::Tape;
use crate::shard::memory::Figures;
use crate::wire::tape::Header;
use crate::wire::tape::Record;
use crate::wire::tape::Track;
use crate::wire::tape::name::SegmentName;
use crate::wire::tape::records;

const BATCH_EVENTS_MAX: usize = 2_000;

struct Tail {
    data: PathBuf,
    folder: PathBuf,
    desk: Arc<Desk>,
    metrics: Arc<Metrics>,
    handle: Handle,
    tapes: BTreeMap<ShardId, Tape>,
    is_spool_read: bool,
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
            tape.start_over();
        }
        self.tapes.insert(shard, tape);
        read
    }

    fn read_tape(&self, tape: &mut Tape, shard: ShardId, segment: u64, limit: u64) -> io::Result<()> {
        let mut waiting = Waiting::default();
        loop {
            let opened = tape.open(&self.folder, shard, Track::Events, segment)?;
            let Some(mut reader) = opened else { return self.commit(&mut waiting) };
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
            tapes::note_end(&reader);
            self.commit(&mut waiting)?;
            if !is_complete {
                tape.reader = Some(reader);
                return Ok(());
            }
            tape.on_durable(name.segment);
        }
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
}

impl Follower for Tail {
    const PAUSE_MAX: Duration = Duration::from_secs(1);

    fn prepare(&mut self) -> io::Result<()> {
        if !self.is_spool_read {
            spool::take_over(&self.data, &self.desk, &self.handle)?;
            self.is_spool_read = true;
        }
        Ok(())
    }

    fn look(&mut self, figures: &Figures) -> io::Result<()> {
        // In this order: what is confirmed after a boot said that it has written everything again has all of it.
        let rewritten = figures.rewritten();
        let Some((segment, limit)) = figures.committed(Track::Events) else { return Ok(()) };
        self.read(figures.shard(), segment, limit)?;
        self.desk.on_rewritten(figures.shard(), rewritten);
        Ok(())
    }

    fn settle(&mut self) -> io::Result<()> {
        self.handle.block_on(self.desk.close_lost()).map_err(io::Error::other)
    }

    fn acknowledgements(&self) -> io::Result<Vec<SegmentName>> {
        tapes::acknowledgements(&self.folder, Track::Events, self.tapes.iter().map(|(shard, tape)| (*shard, tape)))
    }

    fn on_failed(&self, error: &io::Error, _: Duration) {
        tracing::error!(event = "events.failed", "events wait on the tape: {error}");
    }
}

pub(crate) fn start(
    data: &Path,
    memory: Vec<OwnedFd>,
    desk: &Arc<Desk>,
    metrics: &Arc<Metrics>,
    link: &LinkHandle,
) -> io::Result<Following> {
    let tail = Tail {
        data: data.to_owned(),
        folder: data.join("tape"),
        desk: Arc::clone(desk),
        metrics: Arc::clone(metrics),
        handle: Handle::current(),
        tapes: BTreeMap::new(),
        is_spool_read: false,
    };
    tapes::follow("events", memory, link.clone(), tail)
}
