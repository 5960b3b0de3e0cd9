//! What the clerk keeps on the disk: bindings, the directory, the secrets. A disk that takes none of it ends nothing: it stays in
//! memory and is tried again, and an alarm says so until all of it is written.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use crate::base::time::Instant;
use crate::process::engine::clerk::directory::Keeping;
use crate::process::engine::clerk::store::Store;
use crate::process::engine::secrets::Kept;
use crate::shard::memory::Figures;
use crate::shard::memory::Gauge;

/// Bindings are tried this often while the disk takes nothing: so much a crash may cost once it does.
const WRITE_AGAIN: Duration = Duration::from_secs(1);
/// What is larger is tried less and less often.
const SYNC_AGAIN_MAX: Duration = Duration::from_secs(8);
/// The alarm ends when everything was written for so long: a disk with room for a moment has not recovered.
const CALM: Duration = Duration::from_secs(5);

pub struct Saving {
    pub store: Store,
    pub directory: Keeping,
    pub secrets: Kept,
    /// Of the data folder, for the log.
    pub data: PathBuf,
    /// Of the first shard, which tells what concerns the node.
    pub figures: Option<Figures>,
    pub failing: Option<Failing>,
}

/// The disk takes nothing.
#[derive(Clone, Copy, Debug)]
pub struct Failing {
    since: Instant,
    write_at: Instant,
    sync_at: Instant,
    pause: Duration,
    /// Since when nothing has failed.
    good_since: Option<Instant>,
}

impl Saving {
    /// Hands bindings to the kernel.
    pub fn write(&mut self, now: Instant) {
        if self.failing.is_some_and(|failing| now < failing.write_at) {
            return;
        }
        if let Err(error) = self.store.write() {
            self.on_failed(&error, now);
        }
        self.tell();
    }

    /// Makes everything durable.
    pub fn sync(&mut self, now: Instant) {
        if self.failing.is_some_and(|failing| now < failing.sync_at) {
            return;
        }
        match self.sync_all() {
            Ok(()) => self.on_written(now),
            Err(error) => {
                self.on_failed(&error, now);
                if let Some(failing) = &mut self.failing {
                    failing.sync_at = now + failing.pause;
                    failing.pause = (failing.pause * 2).min(SYNC_AGAIN_MAX);
                }
            }
        }
        self.tell();
    }

    /// Before the end: what cannot be written now is lost.
    pub fn finish(&mut self, now: Instant) {
        self.failing = self.failing.map(|failing| Failing { sync_at: now, ..failing });
        self.sync(now);
        let bindings = self.store.unsaved();
        if bindings > 0 {
            tracing::error!(
                event = "data.lost",
                bindings,
                "{bindings} bindings are not on the disk: these phones have to register again"
            );
        }
    }

    /// Each is tried, whatever came of the others.
    fn sync_all(&mut self) -> io::Result<()> {
        let (store, directory) = (self.store.sync(), self.directory.sync());
        self.secrets.sync().and(directory).and(store)
    }

    fn on_failed(&mut self, error: &io::Error, now: Instant) {
        if let Some(failing) = &mut self.failing {
            failing.write_at = now + WRITE_AGAIN;
            failing.good_since = None;
            return;
        }
        let (write_at, sync_at, pause) = (now + WRITE_AGAIN, now, WRITE_AGAIN);
        self.failing = Some(Failing { since: now, write_at, sync_at, pause, good_since: None });
        tracing::error!(
            event = "data.failing",
            "{} cannot be written: {error}; bindings stay in memory until it can, phones are served as before",
            self.data.display()
        );
    }

    fn on_written(&mut self, now: Instant) {
        let Some(failing) = &mut self.failing else { return };
        if now.since(*failing.good_since.get_or_insert(now)) < CALM {
            (failing.sync_at, failing.pause) = (now + WRITE_AGAIN, WRITE_AGAIN);
            return;
        }
        let (secs, data) = (now.since(failing.since).as_secs(), self.data.display());
        tracing::warn!(event = "data.written", "{data} is written again after {secs} s: nothing is missing");
        self.failing = None;
    }

    fn tell(&self) {
        if let Some(figures) = &self.figures {
            figures.set(Gauge::BindingsUnsaved, self.store.unsaved() as u64);
            figures.set(Gauge::DataFailing, u64::from(self.failing.is_some()));
        }
    }
}
