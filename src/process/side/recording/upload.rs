//! Takes finished audio from the data folder to the object store, as soon as it can and for as long as it takes.
//!
//! The database says what is still to be done, so nothing is forgotten and nothing piles up in memory: `folder`, then `both`
//! when the store has it, then `s3` when the file here is gone. Who is killed in between goes on from there. Nothing leaves
//! this machine's disk before the store has said that it holds all of it.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::process::side::recording::objects::ObjectError;
use crate::process::side::recording::objects::Objects;
use crate::process::side::recording::rows;
use crate::process::side::recording::rows::Shelf;
use crate::process::side::store::StoreError;

const EVERY: Duration = Duration::from_secs(1);
const AT_ONCE: usize = 4;
const PAGE: usize = 64;
const BACK_OFF_FIRST: Duration = Duration::from_secs(2);
const BACK_OFF_MAX: Duration = Duration::from_secs(300);
/// One whose file cannot be read does not stop the others.
const UNREADABLE_AGAIN: Duration = Duration::from_secs(3_600);
const UNREADABLE_MAX: usize = 1_000;

// What is damaged stays here: its file is what somebody may still repair.
const NEXT: &str = "SELECT id FROM recordings WHERE state = 'completed' AND verdict <> 'damaged'
     AND stored IN ('folder', 'both') AND id > ? ORDER BY id LIMIT ?";
const WAITING: &str = "SELECT COUNT(*) FROM recordings WHERE state = 'completed' AND verdict <> 'damaged' AND stored IN ('folder', 'both')";

#[derive(Debug, Default)]
pub(crate) struct Counts {
    pub(crate) done: AtomicU64,
    pub(crate) failures: AtomicU64,
    /// Recordings that are not in the store yet.
    pub(crate) waiting: AtomicU64,
}

#[derive(Debug, thiserror::Error)]
pub(crate) enum UploadError {
    #[error("its file: {0}")]
    File(#[from] io::Error),
    #[error(transparent)]
    Object(#[from] ObjectError),
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl From<sqlx::Error> for UploadError {
    fn from(error: sqlx::Error) -> Self {
        Self::Store(StoreError::Sql(error))
    }
}

pub(crate) async fn run(shelf: Arc<Shelf>, counts: Arc<Counts>) {
    let mut uploader = Uploader::new(shelf, counts);
    let mut back_off = BACK_OFF_FIRST;
    loop {
        match uploader.round().await {
            Ok(()) => {
                back_off = BACK_OFF_FIRST;
                tokio::time::sleep(EVERY).await;
            }
            Err(error) => {
                let seconds = back_off.as_secs();
                tracing::error!(event = "recording.upload", "recordings stay here, next try in {seconds} s: {error}");
                tokio::time::sleep(back_off).await;
                back_off = (back_off * 2).min(BACK_OFF_MAX);
            }
        }
    }
}

pub(crate) struct Uploader {
    shelf: Arc<Shelf>,
    counts: Arc<Counts>,
    /// Those whose files cannot be read, and when that is tried again.
    unreadable: BTreeMap<String, Instant>,
}

impl Uploader {
    pub(crate) fn new(shelf: Arc<Shelf>, counts: Arc<Counts>) -> Self {
        Self { shelf, counts, unreadable: BTreeMap::new() }
    }

    /// All that there are, until the store or the database fails.
    pub(crate) async fn round(&mut self) -> Result<(), UploadError> {
        let now = Instant::now();
        self.unreadable.retain(|_, again| *again > now);
        let mut after = String::new();
        loop {
            let waiting: i64 = sqlx::query_scalar(WAITING).fetch_one(&self.shelf.store.pool).await?;
            self.counts.waiting.store(waiting.unsigned_abs(), Relaxed);
            let page = sqlx::query_scalar::<_, String>(NEXT).bind(&after).bind(PAGE as i64);
            let page = page.fetch_all(&self.shelf.store.pool).await?;
            let Some(last) = page.last() else { return Ok(()) };
            after.clone_from(last);
            self.upload(page).await?;
        }
    }

    async fn upload(&mut self, page: Vec<String>) -> Result<(), UploadError> {
        let mut left = page.into_iter().filter(|id| !self.unreadable.contains_key(id)).collect::<Vec<_>>().into_iter();
        let (mut running, mut failed) = (JoinSet::new(), None);
        loop {
            while failed.is_none()
                && running.len() < AT_ONCE
                && let Some(id) = left.next()
            {
                let shelf = Arc::clone(&self.shelf);
                running.spawn(async move { (shelf.upload(&id).await, id) });
            }
            let Some(done) = running.join_next().await else { break };
            let (outcome, id) = done.map_err(|error| UploadError::File(io::Error::other(error)))?;
            match outcome {
                Ok(is_done) => self.counts.done.fetch_add(is_done.into(), Relaxed),
                Err(error) => {
                    failed = self.on_failure(id, error).or(failed);
                    self.counts.failures.fetch_add(1, Relaxed)
                }
            };
        }
        failed.map_or(Ok(()), Err)
    }

    /// `None`: only this recording is concerned.
    fn on_failure(&mut self, id: String, error: UploadError) -> Option<UploadError> {
        let is_its_own = matches!(error, UploadError::File(_) | UploadError::Object(ObjectError::File(_)));
        if !is_its_own || self.unreadable.len() >= UNREADABLE_MAX {
            return Some(error);
        }
        tracing::error!(event = "recording.upload", "{id} stays here: {error}");
        self.unreadable.insert(id, Instant::now() + UNREADABLE_AGAIN);
        None
    }
}

/// Says that a recording is on its way, until it is dropped.
struct OnTheWay<'a>(&'a Shelf, &'a str);

impl Drop for OnTheWay<'_> {
    fn drop(&mut self) {
        self.0.moving().remove(self.1);
    }
}

impl Shelf {
    /// Whether there was something to do.
    pub(super) async fn upload(&self, id: &str) -> Result<bool, UploadError> {
        let Some(objects) = &self.objects else { return Err(ObjectError::Unconfigured.into()) };
        let moved = {
            self.moving().insert(id.to_owned());
            let _on_the_way = OnTheWay(self, id);
            self.take_up(&**objects, id).await
        };
        // Who deleted it meanwhile left it to us.
        if self.stored(id).await?.is_some_and(|(state, _)| state == "absent") {
            self.remove(id).await?;
        }
        moved
    }

    async fn take_up(&self, objects: &dyn Objects, id: &str) -> Result<bool, UploadError> {
        let Some((state, stored)) = self.stored(id).await? else { return Ok(false) };
        if state != "completed" || !["folder", "both"].contains(&stored.as_str()) {
            return Ok(false);
        }
        let path = rows::audio_path(&self.folder, id);
        if stored == "folder" {
            let file = File::open(&path)?;
            if !self.is_whole(id).await? {
                return Err(io::Error::new(io::ErrorKind::InvalidData, "it is damaged").into());
            }
            let bytes = file.metadata()?.len();
            let name = rows::object_name(id);
            objects.put(&name, file).await?;
            let found = objects.size(&name).await?;
            if found != bytes {
                let text = format!("it has {found} bytes of {id}, of {bytes} that were put there");
                return Err(ObjectError::Failed(text).into());
            }
            let query = "UPDATE recordings SET stored = 'both' WHERE id = ? AND state = 'completed'";
            if sqlx::query(query).bind(id).execute(&self.store.pool).await?.rows_affected() == 0 {
                return Ok(false);
            }
        }
        rows::remove_file(&path)?;
        let query = sqlx::query("UPDATE recordings SET stored = 's3' WHERE id = ? AND stored = 'both'").bind(id);
        query.execute(&self.store.pool).await?;
        Ok(true)
    }

    /// What goes away from here is read once more before.
    async fn is_whole(&self, id: &str) -> Result<bool, StoreError> {
        let query = sqlx::query("SELECT * FROM recordings WHERE id = ?").bind(id);
        let Some(row) = query.fetch_optional(&self.store.pool).await? else { return Ok(false) };
        self.verify(&row, Duration::ZERO).await
    }

    /// State, and where its audio lies.
    async fn stored(&self, id: &str) -> Result<Option<(String, String)>, StoreError> {
        let query = sqlx::query_as("SELECT state, stored FROM recordings WHERE id = ?").bind(id);
        Ok(query.fetch_optional(&self.store.pool).await?)
    }
}
