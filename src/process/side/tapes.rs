//! How side follows the tapes: which segment comes next, which are done with, and the thread that looks again and again.
//!
//! What is made of the records is the follower's: events go to the database (`record`), frames into recordings (`recording`).

use std::collections::BTreeMap;
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use crate::base::id::ShardId;
use crate::process::side::link::LinkHandle;
use crate::shard::memory::Figures;
use crate::shard::tape::files;
use crate::shard::tape::files::SegmentReader;
use crate::wire::tape::BadBlock;
use crate::wire::tape::Copies;
use crate::wire::tape::Track;
use crate::wire::tape::name::SegmentName;

const LOOK_EVERY: Duration = Duration::from_millis(100);
/// After a disk or database that failed, twice as long each time.
const FAILED_PAUSE: Duration = Duration::from_secs(1);
const TELL_EVERY_LOOKS: u32 = 10;

/// One track of one shard, as far as it was read.
#[derive(Default)]
pub(super) struct Tape {
    pub(super) copies: Copies,
    pub(super) reader: Option<SegmentReader>,
    /// The next segment to read.
    next: u64,
    /// Everything up to this one is durable elsewhere.
    durable: Option<u64>,
}

impl Tape {
    /// The reader that was put back, else that of the next segment there is, up to `newest`.
    pub(super) fn open(
        &mut self,
        folder: &Path,
        shard: ShardId,
        track: Track,
        newest: u64,
    ) -> io::Result<Option<SegmentReader>> {
        if let Some(reader) = self.reader.take() {
            return Ok(Some(reader));
        }
        for (name, _) in files::list(folder, shard)? {
            if name.track == track && (self.next..=newest).contains(&name.segment) {
                match SegmentReader::open(folder, name) {
                    Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                    opened => return opened.map(Some),
                }
            }
        }
        Ok(None)
    }

    pub(super) fn on_durable(&mut self, segment: u64) {
        self.reader = None;
        self.durable = Some(segment);
        self.next = segment + 1;
    }

    /// What was read and is not durable is read again.
    pub(super) fn start_over(&mut self) {
        *self = Self { durable: self.durable, next: self.durable.map_or(0, |done| done + 1), ..Self::default() };
    }
}

/// Of each shard the last segment that is durable and still there.
pub(super) fn acknowledgements<'t>(
    folder: &Path,
    track: Track,
    tapes: impl Iterator<Item = (ShardId, &'t Tape)>,
) -> io::Result<Vec<SegmentName>> {
    let mut found = Vec::new();
    for (shard, tape) in tapes {
        let is_done = |name: &SegmentName| tape.durable.is_some_and(|durable| name.segment <= durable);
        let mut names = files::list(folder, shard)?.into_iter().map(|(name, _)| name);
        found.extend(names.rfind(|name| name.track == track && is_done(name)));
    }
    Ok(found)
}

/// A segment that ends otherwise than its writer ends one is in the log.
pub(super) fn note_end(reader: &SegmentReader) {
    if let Some(bad) = reader.end().filter(|bad| !matches!(bad, BadBlock::Magic | BadBlock::Short)) {
        let name = reader.name();
        tracing::warn!(event = "tape.damaged", "{} of shard {} ends: {bad}", name.file(), name.shard.0);
    }
}

/// Takes what the tapes of all shards have.
pub(super) trait Follower: Send + 'static {
    const PAUSE_MAX: Duration;

    /// Before the tapes, until it has succeeded.
    fn prepare(&mut self) -> io::Result<()> {
        Ok(())
    }

    /// Reads what the shard has confirmed.
    fn look(&mut self, figures: &Figures) -> io::Result<()>;

    /// After all shards' tapes were read without a fault.
    fn settle(&mut self) -> io::Result<()>;

    fn acknowledgements(&self) -> io::Result<Vec<SegmentName>>;

    fn on_failed(&self, error: &io::Error, pause: Duration);
}

/// The thread goes on until this is dropped.
pub(super) struct Following(Arc<AtomicBool>);

impl Drop for Following {
    fn drop(&mut self) {
        self.0.store(true, Relaxed);
    }
}

/// Starts the thread; `memory` has every shard's figures.
pub(super) fn follow<F: Follower>(
    name: &str,
    memory: Vec<OwnedFd>,
    link: LinkHandle,
    mut follower: F,
) -> io::Result<Following> {
    let stop = Arc::new(AtomicBool::new(false));
    let stopped = Arc::clone(&stop);
    let run = move || {
        let mut shards = Shards { memory, figures: BTreeMap::new() };
        let mut pause = FAILED_PAUSE;
        for looks in 1u32.. {
            if stopped.load(Relaxed) {
                return;
            }
            let looked = shards.look(&mut follower);
            if looks.is_multiple_of(TELL_EVERY_LOOKS) || looked.is_err() {
                let acknowledgements = follower.acknowledgements();
                acknowledgements.iter().flatten().for_each(|name| link.acknowledge_tape(*name));
            }
            match looked {
                Ok(()) => {
                    pause = FAILED_PAUSE;
                    std::thread::sleep(LOOK_EVERY);
                }
                Err(error) => {
                    follower.on_failed(&error, pause);
                    std::thread::sleep(pause);
                    pause = (pause * 2).min(F::PAUSE_MAX);
                }
            }
        }
    };
    std::thread::Builder::new().name(name.to_owned()).spawn(run)?;
    Ok(Following(stop))
}

struct Shards {
    memory: Vec<OwnedFd>,
    /// Of those that have begun.
    figures: BTreeMap<usize, Figures>,
}

impl Shards {
    /// One look at all tapes: the fault of one keeps no other from being read; the last is told.
    fn look<F: Follower>(&mut self, follower: &mut F) -> io::Result<()> {
        follower.prepare()?;
        let mut looked = Ok(());
        for (index, memory) in self.memory.iter().enumerate() {
            if !self.figures.contains_key(&index)
                && let Ok(figures) = Figures::read(memory)
            {
                self.figures.insert(index, figures);
            }
            if let Some(figures) = self.figures.get(&index)
                && let Err(error) = follower.look(figures)
            {
                looked = Err(error);
            }
        }
        looked.and_then(|()| follower.settle())
    }
}
