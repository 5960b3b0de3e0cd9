//! Commits batches of events exactly once, and the records that become final by them, in one transaction each. Events come by the
//! tape, all of them and in order, and most of them sooner by the link.
//!
//! What is in memory is only a cache of the database: a merge does not mind an event twice, so that after a failed
//! transaction the same batch simply comes again.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
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
use crate::process::side::record::tally::Tally;
use crate::process::side::store::Store;
use crate::process::side::store::StoreError;
use crate::wire::event::Body;
use crate::wire::event::Event;
use crate::wire::link::TraceStep;
use crate::wire::tape::Gap;
use crate::wire::tape::Track;
use crate::wire::tape::record::GapCause;

/// Events of one boot, and gaps that were noted in it.
#[derive(Debug, Default)]
pub(crate) struct Batch {
    pub(crate) boot: u64,
    pub(crate) events: Vec<Event>,
    pub(crate) gaps: Vec<(ShardId, Gap)>,
}

/// How events came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    /// What is missing here comes by the tape.
    Link,
    /// What is missing here is lost.
    Tape,
}

/// Events of one series that the link brought and the tape has not passed; of more the database is asked.
const AHEAD_MAX: usize = 100_000;

/// Whose numbering a seq belongs to.
type Series = (u64, ShardId);

/// What a commit made durable.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Committed {
    /// Highest seq per (boot, shard).
    pub(crate) positions: BTreeMap<Series, u64>,
    pub(crate) events: u64,
    pub(crate) duplicates: u64,
    /// Events missing below the ones that the tape brought, less those that filled a gap.
    pub(crate) missing: i64,
    pub(crate) records: u64,
    /// What these records add up to.
    pub(crate) tally: Tally,
    /// Gaps of the tape that were not known.
    pub(crate) gaps: u64,
    /// Position of the newest event of the database.
    pub(crate) newest: i64,
}

/// What an engine said was up.
#[derive(Clone, Debug, Default)]
pub(crate) struct Snapshot {
    pub(crate) boot: u64,
    /// The last event of each shard before it.
    pub(crate) events: BTreeMap<ShardId, u64>,
}

impl Snapshot {
    /// The call began before it was taken.
    async fn is_after(&self, tx: &mut Tx, call: &str, boot: i64) -> Result<bool, StoreError> {
        if boot_from_sql(boot) != self.boot {
            return Ok(boot_from_sql(boot) < self.boot);
        }
        let began: Option<(i64, i64)> =
            sqlx::query_as("SELECT shard, MIN(seq) FROM events WHERE call = ? AND boot = ? GROUP BY shard LIMIT 1")
                .bind(call)
                .bind(boot)
                .fetch_optional(&mut **tx)
                .await?;
        let shard_and_seq = began.and_then(|(shard, seq)| Some((u8::try_from(shard).ok()?, u64::try_from(seq).ok()?)));
        Ok(shard_and_seq.is_some_and(|(shard, seq)| self.events.get(&ShardId(shard)).is_some_and(|last| seq <= *last)))
    }
}

pub(crate) struct Ingest {
    store: Store,
    node: String,
    open: HashMap<String, Merge>,
    /// Committed as the link brought them; the tape will bring them again.
    ahead: BTreeMap<Series, BTreeSet<u64>>,
    /// Of each series: nothing is missing up to this one.
    whole: BTreeMap<Series, u64>,
}

type Tx = Transaction<'static, Sqlite>;

impl Ingest {
    pub(crate) fn new(store: Store, node: String) -> Self {
        Self { store, node, open: HashMap::new(), ahead: BTreeMap::new(), whole: BTreeMap::new() }
    }

    pub(crate) async fn commit(&mut self, batches: &[Batch], way: Way) -> Result<Committed, StoreError> {
        let done = self.try_commit(batches, way).await;
        if done.is_err() {
            // What the database does not have is not remembered either.
            self.open.clear();
        }
        done
    }

    async fn try_commit(&mut self, batches: &[Batch], way: Way) -> Result<Committed, StoreError> {
        let mut tx = self.store.write().await?;
        let mut done = Committed::default();
        let mut spans: BTreeMap<Series, Span> = BTreeMap::new();
        let mut whole = self.whole.clone();
        for batch in batches {
            for event in &batch.events {
                let series = (batch.boot, event.shard);
                let span = match spans.get_mut(&series) {
                    Some(span) => span,
                    None => {
                        let known = Span::load(&mut tx, &self.node, series).await?;
                        spans.entry(series).or_insert(known)
                    }
                };
                let highest = done.positions.entry(series).or_default();
                *highest = event.seq.max(*highest);
                let is_known =
                    way == Way::Tape && self.ahead.get(&series).is_some_and(|ahead| ahead.contains(&event.seq));
                let is_new = !is_known && self.on_event(&mut tx, batch.boot, event).await?;
                let whole = whole.entry(series).or_insert(span.highest);
                match way {
                    Way::Tape => *whole = event.seq.max(*whole),
                    Way::Link => *whole += u64::from(event.seq == *whole + 1),
                }
                // By the link the beginning of a call may be missing: then the tape ends it.
                if matches!(event.body, Body::CallEnded { .. }) && event.seq <= *whole {
                    done.records += u64::from(self.close(&mut tx, event, &mut done.tally).await?);
                }
                done.events += u64::from(is_new);
                span.add(event, is_new);
                done.duplicates += u64::from(!is_new);
            }
            for (shard, gap) in &batch.gaps {
                done.gaps += u64::from(insert_gap(&mut tx, &self.node, batch.boot, *shard, gap).await?);
            }
        }
        for (series, span) in &spans {
            done.missing += span.store(&mut tx, &self.node, *series, way).await?;
        }
        done.newest = newest(&mut tx).await?;
        tx.commit().await?;
        self.whole = whole;
        match way {
            Way::Link => self.run_ahead(batches),
            Way::Tape => self.catch_up(&done.positions),
        }
        Ok(done)
    }

    fn run_ahead(&mut self, batches: &[Batch]) {
        for batch in batches {
            for event in &batch.events {
                let ahead = self.ahead.entry((batch.boot, event.shard)).or_default();
                ahead.insert(event.seq);
                if ahead.len() > AHEAD_MAX {
                    ahead.pop_first();
                }
            }
        }
    }

    fn catch_up(&mut self, positions: &BTreeMap<Series, u64>) {
        for (series, seq) in positions {
            if let Some(ahead) = self.ahead.get_mut(series) {
                *ahead = ahead.split_off(&(seq + 1));
                let whole = self.whole.entry(*series).or_default();
                while ahead.contains(&(*whole + 1)) {
                    *whole += 1;
                }
            }
            // Of lives of the engine before this one nothing comes by the link any more.
            let may_come = |(boot, shard): &Series| *shard != series.1 || *boot >= series.0;
            self.ahead.retain(|series, _| may_come(series));
            self.whole.retain(|series, _| may_come(series));
        }
    }

    /// True if it is new.
    async fn on_event(&mut self, tx: &mut Tx, boot: u64, event: &Event) -> Result<bool, StoreError> {
        if !insert(tx, &self.node, boot, event).await? {
            return Ok(false);
        }
        let Some(call) = event.call else { return Ok(true) };
        let call = call.to_string();
        if let Some(merge) = self.open.get_mut(&call) {
            merge.handle(boot, event);
            return Ok(true);
        }
        let merge = load(tx, &call).await?;
        let lost_at: Option<Option<i64>> =
            sqlx::query_scalar("SELECT lost_at FROM cdrs WHERE call = ?").bind(&call).fetch_optional(&mut **tx).await?;
        match lost_at {
            // What comes late of a call that is over mends its record.
            Some(lost_at) => {
                let lost_at = lost_at.map(clock::from_sql);
                if let Some(record) = merge.record(&call, &self.node, lost_at) {
                    write_record(tx, &record, merge.started_at(), lost_at).await?;
                }
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
        Ok(true)
    }

    /// The record of a call whose end the tape has come to; false if it is there.
    async fn close(&mut self, tx: &mut Tx, end: &Event, tally: &mut Tally) -> Result<bool, StoreError> {
        let Some(call) = end.call.map(|call| call.to_string()) else { return Ok(false) };
        let is_open: Option<i64> =
            sqlx::query_scalar("SELECT 1 FROM open_calls WHERE call = ?").bind(&call).fetch_optional(&mut **tx).await?;
        if is_open.is_none() {
            return Ok(false);
        }
        let merge = match self.open.remove(&call) {
            Some(merge) => merge,
            None => load(tx, &call).await?,
        };
        let Some(record) = merge.record(&call, &self.node, None) else { return Ok(false) };
        write_record(tx, &record, merge.started_at(), None).await?;
        tally.add(&record, merge.setup());
        Ok(true)
    }

    /// Closes the calls that no engine can end any more: those from before the snapshot that `is_up` does not know. `seen_until` is
    /// when the engine that is gone was last known to live, if this process saw it.
    pub(crate) async fn close_lost(
        &mut self,
        is_up: impl Fn(CallId) -> bool,
        snapshot: &Snapshot,
        seen_until: &BTreeMap<u64, UnixTime>,
    ) -> Result<u64, StoreError> {
        let mut tx = self.store.write().await?;
        let open: Vec<(String, i64)> = sqlx::query_as("SELECT call, boot FROM open_calls WHERE node = ?")
            .bind(&self.node)
            .fetch_all(&mut *tx)
            .await?;
        let mut closed = Vec::new();
        for (call, boot) in open {
            if call.parse().is_ok_and(&is_up) || !snapshot.is_after(&mut tx, &call, boot).await? {
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

    /// The engine of this boot lives now. Kept where the time of its last event is, so that a call which dies with the whole node ends
    /// when it did; nothing is written while no call is open.
    pub(crate) async fn note_alive(&self, boot: u64, now: UnixTime) -> Result<(), StoreError> {
        let is_idle = "SELECT NOT EXISTS (SELECT 1 FROM open_calls WHERE node = ? AND boot = ?)";
        let is_idle: bool =
            sqlx::query_scalar(is_idle).bind(&self.node).bind(boot_to_sql(boot)).fetch_one(&self.store.pool).await?;
        if is_idle {
            return Ok(());
        }
        let mut tx = self.store.write().await?;
        sqlx::query("UPDATE positions SET last_at = max(last_at, ?) WHERE node = ? AND boot = ?")
            .bind(clock::to_sql(now))
            .bind(&self.node)
            .bind(boot_to_sql(boot))
            .execute(&mut *tx)
            .await?;
        Ok(tx.commit().await?)
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

/// How far the tape of each shard is read: boot and seq.
pub(crate) async fn read(store: &Store, node: &str) -> Result<BTreeMap<ShardId, (u64, u64)>, StoreError> {
    let rows: Vec<(i64, i64, i64)> = sqlx::query_as("SELECT shard, boot, highest FROM positions WHERE node = ?")
        .bind(node)
        .fetch_all(&store.pool)
        .await?;
    let mut read = BTreeMap::new();
    for (shard, boot, highest) in rows {
        let shard = ShardId(u8::try_from(shard).map_err(|_| StoreError::Row("positions"))?);
        let newest: &mut (u64, u64) = read.entry(shard).or_default();
        *newest = (boot_from_sql(boot), u64::try_from(highest).unwrap_or(0)).max(*newest);
    }
    Ok(read)
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

/// How far a series has been read, and what a batch adds.
#[derive(Debug, Default)]
struct Span {
    /// Before the batch, by the tape.
    highest: u64,
    newest: u64,
    last_at: UnixTime,
    /// Above `highest` in the batch.
    above: BTreeSet<u64>,
    /// New, and not above it: they were taken for lost.
    filled: i64,
}

impl Span {
    async fn load(tx: &mut Tx, node: &str, (boot, shard): Series) -> Result<Self, StoreError> {
        let highest: Option<i64> =
            sqlx::query_scalar("SELECT highest FROM positions WHERE node = ? AND boot = ? AND shard = ?")
                .bind(node)
                .bind(boot_to_sql(boot))
                .bind(shard.0)
                .fetch_optional(&mut **tx)
                .await?;
        let highest = highest.and_then(|highest| u64::try_from(highest).ok()).unwrap_or(0);
        Ok(Self { highest, newest: highest, ..Self::default() })
    }

    fn add(&mut self, event: &Event, is_new: bool) {
        self.last_at = self.last_at.max(event.at);
        self.newest = self.newest.max(event.seq);
        if event.seq > self.highest {
            self.above.insert(event.seq);
        } else {
            self.filled += i64::from(is_new);
        }
    }

    /// How many more events are missing than before. The link moves no position: it may have begun in the middle.
    async fn store(&self, tx: &mut Tx, node: &str, (boot, shard): Series, way: Way) -> Result<i64, StoreError> {
        let mut missing = -self.filled;
        let passed = self.newest - self.highest;
        if way == Way::Tape && passed > 0 {
            let mut there = self.above.len() as u64;
            if there < passed {
                there = count(tx, node, (boot, shard), self.highest, self.newest).await?;
            }
            missing += i64::try_from(passed.saturating_sub(there)).unwrap_or(i64::MAX);
        }
        let highest = if way == Way::Tape { self.newest } else { self.highest };
        sqlx::query(
            "INSERT INTO positions (node, boot, shard, highest, missing, last_at) VALUES (?1, ?2, ?3, ?4, ?5, ?6)
             ON CONFLICT (node, boot, shard) DO UPDATE SET highest = max(highest, ?4), missing = missing + ?5,
                 last_at = max(last_at, ?6)",
        )
        .bind(node)
        .bind(boot_to_sql(boot))
        .bind(shard.0)
        .bind(to_sql(highest))
        .bind(missing)
        .bind(clock::to_sql(self.last_at))
        .execute(&mut **tx)
        .await?;
        Ok(missing)
    }
}

/// Events of a series above `after`, up to `until`.
async fn count(tx: &mut Tx, node: &str, (boot, shard): Series, after: u64, until: u64) -> Result<u64, StoreError> {
    let count: i64 = sqlx::query_scalar(
        "SELECT COUNT(*) FROM events WHERE node = ? AND boot = ? AND shard = ? AND seq > ? AND seq <= ?",
    )
    .bind(node)
    .bind(boot_to_sql(boot))
    .bind(shard.0)
    .bind(to_sql(after))
    .bind(to_sql(until))
    .fetch_one(&mut **tx)
    .await?;
    Ok(u64::try_from(count).unwrap_or(0))
}

fn to_sql(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// Whether it is new.
async fn insert_gap(tx: &mut Tx, node: &str, boot: u64, shard: ShardId, gap: &Gap) -> Result<bool, StoreError> {
    let cause = match gap.cause {
        GapCause::Slow => "slow",
        GapCause::Full => "full",
        GapCause::Failed => "failed",
    };
    let track = match gap.track {
        Track::Events => "events",
        Track::Media => "media",
    };
    let done = sqlx::query(
        "INSERT OR IGNORE INTO tape_gaps (node, boot, shard, track, first, last, since, until, records, bytes, cause, noted_in)
         VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
    )
    .bind(node)
    .bind(boot_to_sql(gap.boot))
    .bind(shard.0)
    .bind(track)
    .bind(to_sql(gap.first))
    .bind(to_sql(gap.last))
    .bind(clock::to_sql(gap.since))
    .bind(clock::to_sql(gap.until))
    .bind(to_sql(gap.records))
    .bind(to_sql(gap.bytes))
    .bind(cause)
    .bind(boot_to_sql(boot))
    .execute(&mut **tx)
    .await?;
    Ok(done.rows_affected() == 1)
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
