//! Deletes what is older than `[retain]` says, a little at a time, so that nobody waits for it.

use std::time::Duration;

use crate::process::config::Retain;
use crate::process::side::clock;
use crate::process::side::store::Store;
use crate::process::side::store::StoreError;

const EVERY: Duration = Duration::from_secs(600);
const ROWS_AT_ONCE: i64 = 2_000;
const PAUSE: Duration = Duration::from_millis(50);

/// What is kept of events whose call has no record yet is not old: the record is made from them.
const DELETES: [&str; 6] = [
    "DELETE FROM events WHERE position IN (SELECT position FROM events WHERE at < ?1
         AND (call IS NULL OR call NOT IN (SELECT call FROM open_calls)) LIMIT ?2)",
    "DELETE FROM cdrs WHERE position IN (SELECT position FROM cdrs WHERE started_at < ?1 LIMIT ?2)",
    "DELETE FROM audit WHERE position IN (SELECT position FROM audit WHERE at < ?1 LIMIT ?2)",
    "DELETE FROM traces WHERE call IN (SELECT call FROM traces WHERE at < ?1 LIMIT ?2)",
    // What is left of a recording that was deleted, and whose audio is gone.
    "DELETE FROM recordings WHERE id IN (SELECT id FROM recordings WHERE state = 'absent' AND stored = 'gone'
         AND started_at < ?1 LIMIT ?2)",
    "DELETE FROM tape_gaps WHERE (node, boot, shard, track, first) IN
         (SELECT node, boot, shard, track, first FROM tape_gaps WHERE until < ?1 LIMIT ?2)",
];

pub(crate) async fn run(store: Store, mut retain: tokio::sync::watch::Receiver<Retain>) {
    loop {
        let kept = *retain.borrow_and_update();
        if let Err(error) = sweep(&store, &kept).await {
            tracing::error!(event = "database.error", "{error}");
        }
        // New settings are obeyed at once.
        if let Ok(Err(_)) = tokio::time::timeout(EVERY, retain.changed()).await {
            return;
        }
    }
}

/// How many rows were deleted.
pub(crate) async fn sweep(store: &Store, retain: &Retain) -> Result<u64, StoreError> {
    let mut deleted = 0;
    let spans = [retain.events, retain.cdrs, retain.audit, retain.trace, retain.cdrs, retain.events];
    for (sql, span) in DELETES.into_iter().zip(spans) {
        let micros = u64::try_from(span.as_micros()).unwrap_or(u64::MAX);
        let before = clock::to_sql(clock::now()).saturating_sub(i64::try_from(micros).unwrap_or(i64::MAX));
        loop {
            let done = sqlx::query(sql).bind(before).bind(ROWS_AT_ONCE).execute(&store.pool).await?;
            deleted += done.rows_affected();
            if done.rows_affected() < ROWS_AT_ONCE.unsigned_abs() {
                break;
            }
            tokio::time::sleep(PAUSE).await;
        }
    }
    Ok(deleted)
}
