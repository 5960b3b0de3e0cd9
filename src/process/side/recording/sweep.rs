//! Deletes recordings that are older than their tenant wants, a little at a time, and what earlier deletions left on the disk.
//!
//! A recording that is held stays. Each deletion stands in the audit.

use std::sync::Arc;
use std::time::Duration;

use sqlx::Connection;

use crate::process::side::audit;
use crate::process::side::audit::Entry;
use crate::process::side::clock;
use crate::process::side::recording::rows::Deletion;
use crate::process::side::recording::rows::Shelf;
use crate::process::side::store::Store;
use crate::process::side::store::StoreError;

const EVERY: Duration = Duration::from_secs(600);
const AGAIN: Duration = Duration::from_secs(30);
const WAIT_SHORT: &str = "PRAGMA busy_timeout = 500";
const AT_ONCE: i64 = 100;
const PAUSE: Duration = Duration::from_millis(50);
/// In one round; more wait for the next.
const ROUND_MAX: usize = 100_000;
const DAY_MICROS: i64 = 86_400_000_000;

const EXPIRED: &str =
    "SELECT recordings.id, recordings.tenant FROM tenants JOIN recordings ON recordings.tenant = tenants.name
     WHERE tenants.recording_days > 0 AND recordings.state <> 'absent' AND recordings.is_held = 0
         AND recordings.started_at < ?1 - tenants.recording_days * ?2 LIMIT ?3";
const LEFT: &str = "SELECT id FROM recordings WHERE state = 'absent' AND stored <> 'gone' LIMIT ?";

pub(crate) async fn run(store: Store, shelf: Arc<Shelf>) {
    loop {
        if let Err(error) = sweep(&store, &shelf).await {
            tracing::error!(event = "recordings.retention", "recordings that are too old: {error}");
        }
        let is_forgotten = forget(&store).await.unwrap_or_else(|error| {
            tracing::error!(event = "recordings.retention", "the database's log: {error}");
            false
        });
        tokio::time::sleep(if is_forgotten { EVERY } else { AGAIN }).await;
    }
}

/// The log of the database must not keep keys that were deleted. False if somebody who reads long held it up.
pub(crate) async fn forget(store: &Store) -> Result<bool, StoreError> {
    // Nobody may write while it waits for those who read: not for long, on a connection of its own.
    let mut connection = store.pool.acquire().await?.detach();
    sqlx::query(WAIT_SHORT).execute(&mut connection).await?;
    let query = sqlx::query_as::<_, (i64, i64, i64)>("PRAGMA wal_checkpoint(TRUNCATE)");
    let (busy, ..) = query.fetch_one(&mut connection).await?;
    connection.close().await?;
    if busy != 0 {
        let secs = AGAIN.as_secs();
        tracing::warn!(
            event = "recordings.retention",
            "keys that were deleted are still in the database's log, which is in use: again in {secs} s"
        );
    }
    Ok(busy == 0)
}

/// How many recordings were deleted.
pub(crate) async fn sweep(store: &Store, shelf: &Shelf) -> Result<usize, StoreError> {
    let mut deleted = 0;
    while deleted < ROUND_MAX {
        let query = sqlx::query_as::<_, (String, String)>(EXPIRED).bind(clock::to_sql(clock::now()));
        let expired = query.bind(DAY_MICROS).bind(AT_ONCE).fetch_all(&store.pool).await?;
        if expired.is_empty() {
            break;
        }
        for (id, tenant) in expired {
            // It may have been held since it was read.
            if shelf.delete(&id).await? != Deletion::Done {
                continue;
            }
            deleted += 1;
            let (action, outcome) = ("recording.expire", "done");
            let entry = Entry { action, outcome, subject: id, tenant: Some(tenant), ..Entry::by("retention") };
            audit::note_alone(store, &entry).await?;
        }
        tokio::time::sleep(PAUSE).await;
    }
    let left: Vec<String> = sqlx::query_scalar(LEFT).bind(AT_ONCE).fetch_all(&store.pool).await?;
    for id in left {
        if let Err(error) = shelf.remove(&id).await {
            tracing::error!(event = "recordings.retention", "the file of a recording that was deleted, {id}: {error}");
            if matches!(error, StoreError::Object(_)) {
                // The others are in the same store.
                break;
            }
        }
    }
    Ok(deleted)
}
