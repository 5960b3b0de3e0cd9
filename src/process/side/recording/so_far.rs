//! What can be heard of a recording before it is finished: its store as it is, finished into a file that has no name.
//!
//! The file is sealed like any other and goes when nobody reads it. Parts of one are given from the same file for a while, so that
//! a player that asks for ranges hears one recording. Few are made at a time.

use std::collections::VecDeque;
use std::io;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::PoisonError;
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio::time::Instant;

use crate::process::side::recording::audio;
use crate::process::side::recording::finish;
use crate::process::side::recording::finish::Finished;
use crate::process::side::recording::live::Live;
use crate::process::side::recording::live::LiveRecording;
use crate::process::side::recording::live::State;
use crate::process::side::recording::rows;
use crate::process::side::recording::work::Chunks;
use crate::process::side::seal::KEY_BYTES;
use crate::process::side::seal::NodeKey;

const MADE_AT_ONCE: usize = 2;
const TURN_MAX: Duration = Duration::from_secs(10);
const KEPT_MAX: usize = 8;
/// Whoever asks for the whole gets what is not older.
const FRESH: Duration = Duration::from_secs(1);
/// Whoever asks for a part gets the file of before for so long.
const KEPT: Duration = Duration::from_secs(60);
/// How long the thread that reads the tapes has for writing what waits.
const WRITTEN_MAX: Duration = Duration::from_millis(500);
const LOOK_EVERY: Duration = Duration::from_millis(20);

pub(crate) struct Snapshot {
    pub(crate) reader: Arc<audio::Reader>,
    pub(crate) finished: Finished,
}

#[derive(Debug, thiserror::Error)]
pub(crate) enum SoFarError {
    #[error("too many listen to calls that are up")]
    Busy,
    #[error("the recording so far: {0}")]
    File(#[from] io::Error),
}

struct Kept {
    id: String,
    made_at: Instant,
    snapshot: Arc<Snapshot>,
}

pub(crate) struct SoFar {
    folder: PathBuf,
    key: Arc<NodeKey>,
    live: Arc<Live>,
    kept: Mutex<VecDeque<Kept>>,
    turns: Arc<Semaphore>,
}

impl SoFar {
    pub(crate) fn new(data: &Path, key: Arc<NodeKey>, live: Arc<Live>) -> Self {
        let folder = rows::folder(data);
        Self { folder, key, live, kept: Mutex::default(), turns: Arc::new(Semaphore::new(MADE_AT_ONCE)) }
    }

    /// `None`: it is finished by now, and in the database.
    pub(crate) async fn snapshot(
        &self,
        live: &LiveRecording,
        is_part: bool,
    ) -> Result<Option<Arc<Snapshot>>, SoFarError> {
        if let Some(kept) = self.kept(&live.id, if is_part { KEPT } else { FRESH }) {
            return Ok(Some(kept));
        }
        let turn = tokio::time::timeout(TURN_MAX, Arc::clone(&self.turns).acquire_owned()).await;
        let turn = turn.map_err(|_| SoFarError::Busy)?.map_err(|_| SoFarError::Busy)?;
        // Somebody may have made it meanwhile.
        if let Some(kept) = self.kept(&live.id, FRESH) {
            return Ok(Some(kept));
        }
        if live.state == State::Recording {
            self.write_waiting(live).await;
        }
        let (folder, key, id) = (self.folder.clone(), Arc::clone(&self.key), live.id.clone());
        // The turn goes with the work, which goes on when whoever asked for it is gone.
        let work = move || {
            let _turn = turn;
            make(&folder, &key, &id)
        };
        let made = tokio::task::spawn_blocking(work).await;
        let Some(snapshot) = made.map_err(io::Error::other)?? else { return Ok(None) };
        let snapshot = Arc::new(snapshot);
        let mut kept = self.table();
        kept.push_back(Kept { id: live.id.clone(), made_at: Instant::now(), snapshot: Arc::clone(&snapshot) });
        if kept.len() > KEPT_MAX {
            kept.pop_front();
        }
        Ok(Some(snapshot))
    }

    /// Files that nobody asked for lately go, for ever.
    pub(crate) async fn forget(&self) {
        loop {
            tokio::time::sleep(KEPT).await;
            self.forget_old();
        }
    }

    fn forget_old(&self) {
        let now = Instant::now();
        self.table().retain(|kept| now.duration_since(kept.made_at) < KEPT);
    }

    fn table(&self) -> MutexGuard<'_, VecDeque<Kept>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn kept(&self, id: &str, age_max: Duration) -> Option<Arc<Snapshot>> {
        self.forget_old();
        let now = Instant::now();
        let table = self.table();
        let newest = table.iter().rev().find(|kept| kept.id == id);
        let fits = newest.filter(|kept| now.duration_since(kept.made_at) < age_max);
        fits.map(|kept| Arc::clone(&kept.snapshot))
    }

    async fn write_waiting(&self, live: &LiveRecording) {
        let began = Instant::now();
        self.live.want(live.call);
        while self.live.is_wanted(live.call) && began.elapsed() < WRITTEN_MAX {
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }
}

fn make(folder: &Path, key: &NodeKey, id: &str) -> io::Result<Option<Snapshot>> {
    let folder = rows::work_folder(folder);
    let Some(store) = Chunks::open(&folder, id, key)? else { return Ok(None) };
    let mut own_key = [0; KEY_BYTES];
    getrandom::fill(&mut own_key).map_err(|_| io::Error::other("no randomness"))?;
    let file = tempfile::tempfile_in(&folder)?;
    let finished = finish::finish(&store, &file, id, &own_key)?;
    let reader = audio::Reader::new(file, id, &own_key, finished.bytes());
    Ok(Some(Snapshot { reader: Arc::new(reader), finished }))
}
