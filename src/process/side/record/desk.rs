//! Where events are committed, whichever way they came, and from where everybody learns of it.
//!
//! Knows how far the tapes have been read, and so when a call that nobody ended has died with its engine.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

use crate::base::id::CallId;
use crate::base::id::ShardId;
use crate::base::limit::MIRRORED_CALLS_MAX;
use crate::base::time::UnixTime;
use crate::process::side::clock;
use crate::process::side::metrics::Metrics;
use crate::process::side::record::ingest;
use crate::process::side::record::ingest::Batch;
use crate::process::side::record::ingest::Ingest;
use crate::process::side::record::ingest::Snapshot;
use crate::process::side::record::ingest::Way;
use crate::process::side::store::Store;
use crate::process::side::store::StoreError;

/// Dead boots remembered with the time of their death.
const BOOTS_MAX: usize = 64;
/// The last events before a snapshot are on the tape by then, or lost.
const PATIENCE: Duration = Duration::from_secs(10);
/// By how much a call may seem shorter that died with the whole node.
const ALIVE_EVERY: Duration = Duration::from_millis(500);

pub(crate) struct Desk {
    ingest: tokio::sync::Mutex<Ingest>,
    metrics: Arc<Metrics>,
    newest_event: watch::Sender<i64>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// An engine is connected, and the calls that died before it are still to be closed.
    closing: Option<Closing>,
    hellos: u64,
    /// The engine that is connected.
    boot: Option<u64>,
    /// When the engine of a boot was last known to live.
    died_at: BTreeMap<u64, UnixTime>,
    /// By shard: boot and seq of the newest event that was read from the tape.
    read: BTreeMap<ShardId, (u64, u64)>,
    /// By shard: the boot that has written again what engines before it left, and all of that is read.
    rewritten: BTreeMap<ShardId, u64>,
}

/// From Hello until the tapes are read as far as its snapshot.
struct Closing {
    /// Which Hello it was.
    hello: u64,
    /// Calls that the engine has named: they are up, or end by events that are still to come.
    named: BTreeSet<CallId>,
    awaited: Option<Awaited>,
}

struct Awaited {
    snapshot: Snapshot,
    shards: u8,
    came: Instant,
}

impl Desk {
    pub(crate) async fn open(
        store: Store,
        node: String,
        metrics: Arc<Metrics>,
        newest_event: watch::Sender<i64>,
    ) -> Result<Self, StoreError> {
        let state = State { read: ingest::read(&store, &node).await?, ..State::default() };
        let ingest = tokio::sync::Mutex::new(Ingest::new(store, node));
        Ok(Self { ingest, metrics, newest_event, state: Mutex::new(state) })
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Everything in the batches is durable when it returns.
    pub(crate) async fn commit(&self, batches: &[Batch], way: Way) -> Result<(), StoreError> {
        let done = self.ingest.lock().await.commit(batches, way).await?;
        self.metrics.on_commit(&done);
        if done.missing > 0 {
            let missing = done.missing;
            tracing::error!(event = "events.missing", "{missing} events are not on the tape: they are lost");
        }
        if way == Way::Tape {
            let mut state = self.state();
            for ((boot, shard), seq) in &done.positions {
                let read = state.read.entry(*shard).or_default();
                *read = (*boot, *seq).max(*read);
            }
        }
        self.newest_event.send_if_modified(|newest| {
            let is_newer = done.newest > *newest;
            *newest = done.newest.max(*newest);
            is_newer
        });
        Ok(())
    }

    /// An engine is there, and its snapshot is not whole yet.
    pub(crate) fn on_hello(&self, boot: u64) {
        let mut state = self.state();
        state.boot = Some(boot);
        state.hellos += 1;
        state.closing = Some(Closing { hello: state.hellos, named: BTreeSet::new(), awaited: None });
    }

    pub(crate) fn on_call(&self, call: CallId) {
        if let Some(closing) = &mut self.state().closing
            && closing.named.len() < MIRRORED_CALLS_MAX
        {
            closing.named.insert(call);
        }
    }

    /// All that is up is known. `events`: the last event of each shard before that.
    pub(crate) fn on_snapshot(&self, boot: u64, shards: u8, events: Vec<(ShardId, u64)>) {
        let snapshot = Snapshot { boot, events: events.into_iter().collect() };
        if let Some(closing) = &mut self.state().closing {
            closing.awaited = Some(Awaited { snapshot, shards, came: Instant::now() });
        }
    }

    pub(crate) fn on_engine_gone(&self, boot: u64) {
        let mut state = self.state();
        (state.closing, state.boot) = (None, None);
        state.died_at.insert(boot, clock::now());
        while state.died_at.len() > BOOTS_MAX {
            state.died_at.pop_first();
        }
    }

    /// Notes again and again that the engine lives, for a start after all of the node was killed. Never returns.
    pub(crate) async fn note_alive(&self) {
        loop {
            tokio::time::sleep(ALIVE_EVERY).await;
            let Some(boot) = self.state().boot else { continue };
            if let Err(error) = self.ingest.lock().await.note_alive(boot, clock::now()).await {
                tracing::error!(event = "database.error", "{error}");
            }
        }
    }

    /// The tape of the shard is read up to all that engines before this boot left.
    pub(crate) fn on_rewritten(&self, shard: ShardId, boot: u64) {
        self.state().rewritten.insert(shard, boot);
    }

    /// Once for each snapshot, when all events from before it are read: calls that have not ended in them and are not in it are
    /// closed.
    pub(crate) async fn close_lost(&self) -> Result<(), StoreError> {
        let (hello, snapshot, named, died_at) = {
            let state = self.state();
            let Some(closing) = &state.closing else { return Ok(()) };
            let Some(awaited) = closing.awaited.as_ref().filter(|awaited| awaited.is_caught_up(&state)) else {
                return Ok(());
            };
            (closing.hello, awaited.snapshot.clone(), closing.named.clone(), state.died_at.clone())
        };
        let lost = self.ingest.lock().await.close_lost(|call| named.contains(&call), &snapshot, &died_at).await?;
        {
            // Of an engine that came meanwhile it is still to be done.
            let mut state = self.state();
            state.closing = state.closing.take().filter(|closing| closing.hello != hello);
        }
        self.metrics.calls_lost.fetch_add(lost, Relaxed);
        if lost > 0 {
            tracing::warn!(event = "calls.lost", "{lost} calls of an engine that died are closed");
        }
        Ok(())
    }
}

impl Awaited {
    fn is_caught_up(&self, state: &State) -> bool {
        (0..self.shards).map(ShardId).all(|shard| {
            let is_rewritten = state.rewritten.get(&shard).is_some_and(|boot| *boot >= self.snapshot.boot);
            let last = (self.snapshot.boot, self.snapshot.events.get(&shard).copied().unwrap_or(0));
            let is_read = last.1 == 0 || state.read.get(&shard).is_some_and(|read| *read >= last);
            is_rewritten && (is_read || self.came.elapsed() >= PATIENCE)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::event::Body;
    use crate::wire::event::Direction;
    use crate::wire::event::Event;

    const SHARD: ShardId = ShardId(0);

    async fn desk(folder: &std::path::Path) -> (Desk, Arc<Metrics>) {
        let store = Store::open(&folder.join("tipring.db")).await.unwrap();
        let metrics = Arc::new(Metrics::new(Vec::new()));
        let newest = watch::channel(0).0;
        (Desk::open(store, "n1".to_owned(), Arc::clone(&metrics), newest).await.unwrap(), metrics)
    }

    fn started(seq: u64) -> Event {
        let text = |text: &str| text.to_owned();
        let (sip_call_id, from, from_name, phone) = (text("x"), text("1"), text(""), text("1"));
        let (to, dialled, direction) = (text("2"), text("2"), Direction::Internal);
        let body = Body::CallStarted { sip_call_id, from, from_name, to, dialled, direction, phone };
        let call = Some(CallId::from_bits(seq.into()));
        Event { shard: SHARD, seq, at: UnixTime::from_secs(seq), tenant: text("acme"), call, leg: None, body }
    }

    #[tokio::test]
    async fn what_an_engine_named_before_it_was_gone_says_nothing_of_the_next() {
        let folder = tempfile::tempdir().unwrap();
        let (desk, metrics) = desk(folder.path()).await;
        let batch = Batch { boot: 1, events: vec![started(1), started(2)], gaps: Vec::new() };
        desk.commit(&[batch], Way::Tape).await.unwrap();
        let lost = async || {
            desk.close_lost().await.unwrap();
            metrics.calls_lost.load(Relaxed)
        };
        desk.on_rewritten(SHARD, 1);
        desk.on_hello(1);
        (1..=2).for_each(|call| desk.on_call(CallId::from_bits(call)));
        assert_eq!(lost().await, 0, "no snapshot yet");
        desk.on_engine_gone(1);
        desk.on_hello(1);
        desk.on_call(CallId::from_bits(2));
        desk.on_snapshot(1, 1, vec![(SHARD, 2)]);
        assert_eq!(lost().await, 1);
        assert!(desk.state().closing.is_none(), "nothing is kept of what was named");
        desk.on_call(CallId::from_bits(3));
        assert!(desk.state().closing.is_none());
    }
}
