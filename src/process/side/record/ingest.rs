//! Commits batches of events exactly once, and the records that become final by them, in one transaction each.
//!
//! What is in memory is only a cache of the database: a merge does not mind an event twice, so that after a failed
//! transaction the same batch simply comes again.

use std::collections::BTreeMap;
use std::collections::HashMap;

use serde::Deserialize;
use serde::Serialize;
use sqlx::Sqlite;
use sqlx::Transaction;
use utoipa::ToSchema;

use crate::base::id::CallId;
use crate::base::id::ShardId;
use crate::base::time::UnixTime;
use crate::process::side::clock;
use crate::process::side::record::cdr::Cdr;
use crate::process::side::record::merge::Merge;
use crate::process::side::record::published;
use crate::process::side::record::published::boot_from_sql;
use crate::process::side::record::published::boot_to_sql;
use crate::process::side::store::Store;
use crate::process::side::store::StoreError;
use crate::wire::event::Event;
use crate::wire::link::TraceStep;

/// Events of one boot, as one frame brought them.
pub(crate) struct Batch {
    pub(crate) boot: u64,
    pub(crate) events: Vec<Event>,
}

/// What a commit made durable.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Committed {
    /// Highest seq per (boot, shard).
    pub(crate) positions: BTreeMap<(u64, ShardId), u64>,
    pub(crate) events: u64,
    pub(crate) duplicates: u64,
    /// Events missing below the ones that came, less those that filled a gap.
    pub(crate) missing: i64,
    pub(crate) records: u64,
    /// Position of the newest event of the database.
    pub(crate) newest: i64,
}

pub(crate) struct Ingest {
    store: Store,
    node: String,
    open: HashMap<String, Merge>,
}

type Tx = Transaction<'static, Sqlite>;

impl Ingest {
    pub(crate) fn new(store: Store, node: String) -> Self {
        Self { store, node, open: HashMap::new() }
    }

    pub(crate) async fn commit(&mut self, batches: &[Batch]) -> Result<Committed, StoreError> {
        let mut tx = self.store.write().await?;
        let mut done = Committed::default();
        for batch in batches {
            for event in &batch.events {
                self.on_event(&mut tx, batch.boot, event, &mut done).await?;
            }
        }
        done.newest = newest(&mut tx).await?;
        tx.commit().await?;
        Ok(done)
    }

    async fn on_event(
        &mut self,
        tx: &mut Tx,
        boot: u64,
        event: &Event,
        done: &mut Committed,
    ) -> Result<(), StoreError> {
        let highest = done.positions.entry((boot, event.shard)).or_default();
        *highest = event.seq.max(*highest);
        if !insert(tx, &self.node, boot, event).await? {
            done.duplicates += 1;
            return Ok(());
        }
        done.events += 1;
        done.missing += advance(tx, &self.node, boot, event).await?;
        let Some(call) = event.call else { return Ok(()) };
        let call = call.to_string();
        if let Some(merge) = self.open.get_mut(&call) {
            merge.handle(boot, event);
            if let Some(record) = merge.record(&call, &self.node, None) {
                let started_at = merge.started_at();
                write_record(tx, &record, started_at, None).await?;
                self.open.remove(&call);
                done.records += 1;
            }
            return Ok(());
        }
        let merge = load(tx, &call).await?;
        let lost_at: Option<Option<i64>> =
            sqlx::query_scalar("SELECT lost_at FROM cdrs WHERE call = ?").bind(&call).fetch_optional(&mut **tx).await?;
        let is_final = lost_at.is_some();
        let lost_at = lost_at.flatten().map(clock::from_sql);
        match merge.record(&call, &self.node, lost_at) {
            Some(record) => {
                write_record(tx, &record, merge.started_at(), lost_at).await?;
                done.records += u64::from(!is_final);
            }
            None => {
                sqlx::query("INSERT OR IGNORE INTO open_calls (call, node, boot) VALUES (?, ?, ?)")
                    .bind(&call)
                    .bind(&self.node)
                    .bind(boot_to_sql(boot))
                    .execute(&mut **tx)
                    .await?;
                self.open.insert(call, merge);
            }
        }
        Ok(())
    }

    /// Closes the calls that no engine can end any more: those that `is_up` does not know. `seen_until` is when the
    /// engine that is gone was last known to live, if this process saw it.
    pub(crate) async fn close_lost(
        &mut self,
        is_up: impl Fn(CallId) -> bool,
        seen_until: &BTreeMap<u64, UnixTime>,
    ) -> Result<u64, StoreError> {
        let mut tx = self.store.write().await?;
        let open: Vec<(String, i64)> = sqlx::query_as("SELECT call, boot FROM open_calls WHERE node = ?")
            .bind(&self.node)
            .fetch_all(&mut *tx)
            .await?;
        let mut closed = Vec::new();
        for (call, boot) in open {
            if call.parse().is_ok_and(&is_up) {
                continue;
            }
            let merge = load(&mut tx, &call).await?;
            let lost_at = self.lost_at(&mut tx, boot, seen_until).await?.max(merge.last_at());
            if let Some(record) = merge.record(&call, &self.node, Some(lost_at)) {
                write_record(&mut tx, &record, merge.started_at(), Some(lost_at)).await?;
            }
            closed.push(call);
        }
        tx.commit().await?;
        for call in &closed {
            self.open.remove(call);
        }
        Ok(closed.len() as u64)
    }

    async fn lost_at(&self, tx: &mut Tx, boot: i64, seen: &BTreeMap<u64, UnixTime>) -> Result<UnixTime, StoreError> {
        let last: Option<i64> = sqlx::query_scalar("SELECT MAX(last_at) FROM positions WHERE node = ? AND boot = ?")
            .bind(&self.node)
            .bind(boot)
            .fetch_one(&mut **tx)
            .await?;
        let last = last.map_or_else(UnixTime::default, clock::from_sql);
        Ok(seen.get(&boot_from_sql(boot)).copied().unwrap_or_default().max(last))
    }
}

async fn newest(tx: &mut Tx) -> Result<i64, StoreError> {
    let newest: Option<i64> = sqlx::query_scalar("SELECT MAX(position) FROM events").fetch_one(&mut **tx).await?;
    Ok(newest.unwrap_or(0))
}

/// Position of the newest committed event.
pub(crate) async fn newest_event(store: &Store) -> Result<i64, StoreError> {
    newest(&mut store.pool.begin().await?).await
}

/// A step of a decision trace as it is kept and shown.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub(crate) struct StoredStep {
    at: String,
    leg: Option<u8>,
    /// What kind of decision it was.
    rule: String,
    reason: String,
}

impl From<&TraceStep> for StoredStep {
    fn from(step: &TraceStep) -> Self {
        Self { at: clock::text(step.at), leg: step.leg, rule: step.rule.clone(), reason: step.reason.clone() }
    }
}

pub(crate) async fn store_trace(
    store: &Store,
    call: CallId,
    tenant: &str,
    steps: &[TraceStep],
) -> Result<(), StoreError> {
    let steps: Vec<_> = steps.iter().map(StoredStep::from).collect();
    let json = serde_json::to_string(&steps).map_err(|_| StoreError::Row("traces"))?;
    let mut tx = store.write().await?;
    sqlx::query("INSERT OR REPLACE INTO traces (call, tenant, at, steps) VALUES (?, ?, ?, ?)")
        .bind(call.to_string())
        .bind(tenant)
        .bind(clock::to_sql(clock::now()))
        .bind(json)
        .execute(&mut *tx)
        .await?;
    tx.commit().await?;
    Ok(())
}

pub(crate) fn stored_steps(json: &str) -> Result<Vec<StoredStep>, StoreError> {
    serde_json::from_str(json).map_err(|_| StoreError::Row("traces"))
}

/// Whether it is new.
async fn insert(tx: &mut Tx, node: &str, boot: u64, event: &Event) -> Result<bool, StoreError> {
    let body = serde_json::to_string(&event.body).map_err(|_| StoreError::Row("events"))?;
    let done = sqlx::query(
        "INSERT OR IGNORE INTO events (id, node, boot, shard, seq, at, tenant, call, leg, type, body)
         VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
    )
    .bind(published::id(node, boot, event))
    .bind(node)
    .bind(boot_to_sql(boot))
    .bind(event.shard.0)
    .bind(i64::try_from(event.seq).unwrap_or(i64::MAX))
    .bind(clock::to_sql(event.at))
    .bind(&event.tenant)
    .bind(event.call.map(|call| call.to_string()))
    .bind(event.leg)
    .bind(event.body.name())
    .bind(body)
    .execute(&mut **tx)
    .await?;
    Ok(done.rows_affected() == 1)
}

/// Moves the position of the event's shard; how many more events are missing than before.
async fn advance(tx: &mut Tx, node: &str, boot: u64, event: &Event) -> Result<i64, StoreError> {
    let seq = i64::try_from(event.seq).unwrap_or(i64::MAX);
    let boot = boot_to_sql(boot);
    let highest: Option<i64> =
        sqlx::query_scalar("SELECT highest FROM positions WHERE node = ? AND boot = ? AND shard = ?")
            .bind(node)
            .bind(boot)
            .bind(event.shard.0)
            .fetch_optional(&mut **tx)
            .await?;
    let highest = highest.unwrap_or(0);
    let missing = if seq > highest { seq - highest - 1 } else { -1 };
    sqlx::query(
        "INSERT INTO positions (node, boot, shard, highest, missing, last_at) VALUES (?1, ?2, ?3, ?4, ?5, ?6)
         ON CONFLICT (node, boot, shard) DO UPDATE SET highest = max(highest, ?4), missing = missing + ?5,
             last_at = max(last_at, ?6)",
    )
    .bind(node)
    .bind(boot)
    .bind(event.shard.0)
    .bind(seq)
    .bind(missing)
    .bind(clock::to_sql(event.at))
    .execute(&mut **tx)
    .await?;
    Ok(missing)
}

/// Everything the database knows of a call.
async fn load(tx: &mut Tx, call: &str) -> Result<Merge, StoreError> {
    let rows = sqlx::query("SELECT boot, shard, seq, at, tenant, call, leg, body FROM events WHERE call = ?")
        .bind(call)
        .fetch_all(&mut **tx)
        .await?;
    let mut merge = Merge::default();
    for row in &rows {
        let (boot, event) = published::event_from_row(row)?;
        merge.handle(boot, &event);
    }
    Ok(merge)
}

/// A record keeps the position at which it first became final.
async fn write_record(
    tx: &mut Tx,
    record: &Cdr,
    started_at: Option<UnixTime>,
    lost_at: Option<UnixTime>,
) -> Result<(), StoreError> {
    let json = serde_json::to_string(record).map_err(|_| StoreError::Row("cdrs"))?;
    sqlx::query(
        "INSERT INTO cdrs (call, sip_call_id, tenant, from_user, to_user, started_at, lost_at, record)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)
         ON CONFLICT (call) DO UPDATE SET sip_call_id = ?2, tenant = ?3, from_user = ?4, to_user = ?5, started_at = ?6,
             lost_at = ?7, record = ?8",
    )
    .bind(&record.call)
    .bind(&record.sip_call_id)
    .bind(&record.tenant)
    .bind(&record.from)
    .bind(&record.to)
    .bind(started_at.map_or(0, clock::to_sql))
    .bind(lost_at.map(clock::to_sql))
    .bind(json)
    .execute(&mut **tx)
    .await?;
    sqlx::query("DELETE FROM open_calls WHERE call = ?").bind(&record.call).execute(&mut **tx).await?;
    Ok(())
}
