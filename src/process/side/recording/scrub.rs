//! Reads all audio that lies here again and again, slowly, so that what a disk has lost is found before somebody needs it.
//!
//! What does not open under its seal is `damaged` from then on, whoever finds it: the scrub, a reader, an upload. Where the scrub
//! is stands in the database: a process that starts goes on from there.

use std::io;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use sqlx::Row;
use sqlx::sqlite::SqliteRow;

use crate::process::side::clock;
use crate::process::side::recording::audio;
use crate::process::side::recording::rows::Shelf;
use crate::process::side::store;
use crate::process::side::store::StoreError;

/// From the beginning of one round to that of the next.
const EVERY: Duration = Duration::from_secs(24 * 3_600);
const LOOK_EVERY: Duration = Duration::from_secs(60);
const AGAIN: Duration = Duration::from_secs(60);
/// 64 KiB each, four megabytes a second.
const PAUSE: Duration = Duration::from_millis(16);
const PAGE: i64 = 64;
/// Where a round is: the last id, and when it began.
const PLACE: &str = "scrub";

const NEXT: &str = "SELECT * FROM recordings WHERE state = 'completed' AND verdict <> 'damaged'
     AND stored IN ('folder', 'both') AND id > ? ORDER BY id LIMIT ?";

#[derive(Debug, Default)]
pub(crate) struct Counts {
    /// Files that were read to their ends.
    pub(crate) files: AtomicU64,
    /// Recordings that were found damaged, by whoever.
    pub(crate) damaged: AtomicU64,
}

pub(crate) async fn run(shelf: Arc<Shelf>) {
    loop {
        match round(&shelf, PAUSE).await {
            Ok(true) => {}
            Ok(false) => tokio::time::sleep(LOOK_EVERY).await,
            Err(error) => {
                tracing::error!(event = "recordings.scrub", "audio cannot be looked through: {error}");
                tokio::time::sleep(AGAIN).await;
            }
        }
    }
}

/// Goes on with a round, or begins one. False if it is not time for one.
pub(crate) async fn round(shelf: &Shelf, pause: Duration) -> Result<bool, StoreError> {
    let now = clock::now().secs();
    let (mut after, mut began) = place(shelf).await?;
    if after.is_empty() {
        if began > 0 && now.saturating_sub(began) < EVERY.as_secs() {
            return Ok(false);
        }
        began = now;
    }
    let (mut files, mut damaged) = (0u64, 0u64);
    loop {
        let page = sqlx::query(NEXT).bind(&after).bind(PAGE).fetch_all(&shelf.store.pool).await?;
        if page.is_empty() {
            break;
        }
        for row in page {
            after = row.get("id");
            damaged += u64::from(!shelf.verify(&row, pause).await?);
            files += 1;
            shelf.scrubbed.files.fetch_add(1, Relaxed);
        }
        set_place(shelf, &after, began).await?;
    }
    set_place(shelf, "", began).await?;
    tracing::info!(
        event = "recordings.scrub",
        files,
        damaged,
        "{files} recordings are looked through, {damaged} are damaged"
    );
    Ok(true)
}

async fn place(shelf: &Shelf) -> Result<(String, u64), StoreError> {
    let mut tx = shelf.store.pool.begin().await?;
    let text = store::meta(&mut tx, PLACE).await?.unwrap_or_default();
    let (began, after) = text.split_once(' ').unwrap_or_default();
    Ok((after.to_owned(), began.parse().unwrap_or_default()))
}

async fn set_place(shelf: &Shelf, after: &str, began: u64) -> Result<(), StoreError> {
    let mut tx = shelf.store.write().await?;
    store::set_meta(&mut tx, PLACE, &format!("{began} {after}")).await?;
    Ok(tx.commit().await?)
}

impl Shelf {
    /// Reads all of a recording's audio. False if it is damaged, which is noted then.
    pub(crate) async fn verify(&self, row: &SqliteRow, pause: Duration) -> Result<bool, StoreError> {
        let id: String = row.get("id");
        let opened = match self.open(row).await {
            Ok(Some(opened)) => opened,
            // It was deleted meanwhile.
            Ok(None) => return Ok(true),
            Err(StoreError::File(error)) => return self.on_fault(&id, &error).await.map(|is_damaged| !is_damaged),
            Err(error) => return Err(error),
        };
        let (reader, len) = (Arc::new(opened.0), opened.1);
        let mut at = 0;
        while at < len {
            let reader = Arc::clone(&reader);
            let read = tokio::task::spawn_blocking(move || reader.read(at, audio::CHUNK_BYTES)).await;
            match read.map_err(io::Error::other).flatten() {
                Ok(part) => at += part.len().max(1) as u64,
                Err(error) => return self.on_fault(&id, &error).await.map(|is_damaged| !is_damaged),
            }
            tokio::time::sleep(pause).await;
        }
        Ok(true)
    }

    /// Whoever could not read a recording says so here. True if its audio is not what was written, which stands in its verdict
    /// from now on.
    pub(crate) async fn on_fault(&self, id: &str, error: &io::Error) -> Result<bool, StoreError> {
        if !audio::is_damage(error) {
            tracing::error!(event = "recording.unread", "the audio of {id}: {error}");
            return Ok(false);
        }
        let query =
            "UPDATE recordings SET verdict = 'damaged' WHERE id = ? AND state = 'completed' AND verdict <> 'damaged'";
        if sqlx::query(query).bind(id).execute(&self.store.pool).await?.rows_affected() > 0 {
            self.scrubbed.damaged.fetch_add(1, Relaxed);
            tracing::error!(event = "recording.damaged", "the audio of {id} is not what was written: {error}");
        }
        Ok(true)
    }
}
