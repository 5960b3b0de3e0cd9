//! A shard's events on their way to the tape, in their order. What finds no room there waits here, up to a bound; what is beyond
//! it is lost, counted and said: its number is missing, and side sees that, too.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use crate::base::limit::EVENTS_WAITING_BYTES_MAX;
use crate::base::limit::EVENTS_WAITING_MAX;
use crate::base::time::Instant;
use crate::base::time::Now;
use crate::shard::tape::ring::Ring;
use crate::wire::event::Event;
use crate::wire::tape::Track;
use crate::wire::tape::record::emit_event;

const TRY_EVERY: Duration = Duration::from_millis(10);
const COMPLAIN_EVERY: Duration = Duration::from_secs(10);

/// How many events of all shards wait: an engine that ends gives them some time.
#[derive(Clone, Debug, Default)]
pub struct Waiting(Arc<AtomicUsize>);

impl Waiting {
    pub(super) fn count(&self) -> usize {
        self.0.load(Relaxed)
    }

    pub(super) fn add(&self, events: usize) {
        self.0.fetch_add(events, Relaxed);
    }

    pub(super) fn remove(&self, events: usize) {
        self.0.fetch_sub(events, Relaxed);
    }
}

#[derive(Debug)]
pub(super) struct Events {
    waiting: VecDeque<Vec<u8>>,
    bytes: usize,
    try_at: Instant,
    complained: Option<Instant>,
    all: Waiting,
    /// Events that had to wait.
    pub(super) waited: u64,
    pub(super) lost: u64,
}

impl Events {
    pub(super) fn new(all: Waiting) -> Self {
        let (waiting, bytes, try_at, complained) = Default::default();
        Self { waiting, bytes, try_at, complained, all, waited: 0, lost: 0 }
    }

    pub(super) fn push(&mut self, event: &Event, tape: &mut Ring, now: Now) {
        let Ok(record) = emit_event(now.instant, tape.newest_media(), event) else {
            return self.lose(event, "it is longer than the tape takes", now);
        };
        if self.waiting.is_empty() && tape.record(Track::Events, &record, now) {
            return;
        }
        if self.waiting.len() >= EVENTS_WAITING_MAX || self.bytes + record.len() > EVENTS_WAITING_BYTES_MAX {
            return self.lose(event, "the tape takes none", now);
        }
        if self.waiting.is_empty() {
            self.try_at = now.instant + TRY_EVERY;
        }
        self.bytes += record.len();
        self.waiting.push_back(record);
        self.waited += 1;
        self.all.add(1);
    }

    /// Tries again with what waits.
    pub(super) fn handle_timeout(&mut self, tape: &mut Ring, now: Now) {
        if self.next_deadline().is_none_or(|at| at > now.instant) {
            return;
        }
        self.try_at = now.instant + TRY_EVERY;
        while let Some(record) = self.waiting.front() {
            if !tape.record(Track::Events, record, now) {
                return;
            }
            self.bytes -= record.len();
            self.waiting.pop_front();
            self.all.remove(1);
        }
    }

    pub(super) fn next_deadline(&self) -> Option<Instant> {
        (!self.waiting.is_empty()).then_some(self.try_at)
    }

    #[cold]
    fn lose(&mut self, event: &Event, why: &str, now: Now) {
        self.lost += 1;
        if self.complained.is_none_or(|at| now.instant.since(at) >= COMPLAIN_EVERY) {
            self.complained = Some(now.instant);
            let (shard, lost, name) = (event.shard.0, self.lost, event.body.name());
            tracing::error!(
                event = "events.lost",
                shard,
                lost,
                "an event {name} is lost, {lost} so far: {why}; calls go on"
            );
        }
    }
}

impl Drop for Events {
    /// What still waits when the shard ends is lost, too.
    fn drop(&mut self) {
        let waiting = self.waiting.len();
        if waiting > 0 {
            self.all.remove(waiting);
            tracing::error!(
                event = "events.lost",
                waiting,
                "the shard ends, and the tape has not taken {waiting} events"
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::id::ShardId;
    use crate::base::time::UnixTime;
    use crate::shard::tape::ring;
    use crate::shard::tape::ring::Bell;
    use crate::shard::tape::ring::Memory;
    use crate::shard::tape::ring::Taker;
    use crate::wire::event::Body;
    use crate::wire::tape::Record;
    use crate::wire::tape::records;

    fn event(seq: u64) -> Event {
        let (shard, at, tenant) = (ShardId(0), UnixTime::from_secs(seq), "x".repeat(20_000));
        Event { shard, seq, at, tenant, call: None, leg: None, body: Body::CallAnswered }
    }

    /// The tape thread writes everything that is closed.
    fn write(taker: &Taker, seqs: &mut Vec<u64>) {
        let mut taken = Vec::new();
        taker.take(Track::Events, 1, usize::MAX, &mut taken);
        for block in &taken {
            for record in records(taker.body(block)) {
                let Record::Event { event, .. } = record.unwrap() else { panic!("not an event") };
                seqs.push(event.seq);
            }
            taker.free(block);
        }
    }

    #[test]
    fn what_finds_no_room_waits_and_comes_in_its_order() {
        let memory = Memory::private(4).unwrap();
        let taker = Taker::new(memory.clone());
        let mut tape = Ring::new(memory, 1, Bell::default(), ring::gaps());
        let all = Waiting::default();
        let mut events = Events::new(all.clone());
        let mut now = Now { instant: Instant::from_millis(1_000), unix: UnixTime::from_secs(1) };
        // Three of them fill a block, and the ring has 32.
        for seq in 1..=200 {
            events.push(&event(seq), &mut tape, now);
        }
        let held = 200 - 3 * ring::EVENT_SLOTS;
        assert_eq!((events.waiting.len(), all.count(), events.waited), (held, held, held as u64));
        // What is tried again in vain has waited once.
        now.instant = now.instant + TRY_EVERY;
        events.handle_timeout(&mut tape, now);
        assert_eq!(events.waited, held as u64);
        assert_eq!(events.next_deadline(), Some(now.instant + TRY_EVERY));
        let mut seqs = Vec::new();
        for round in 0..10 {
            write(&taker, &mut seqs);
            now.instant = now.instant + Duration::from_millis(60);
            events.handle_timeout(&mut tape, now);
            events.push(&event(201 + round), &mut tape, now);
            tape.tick(now);
        }
        now.instant = now.instant + Duration::from_millis(60);
        tape.tick(now);
        write(&taker, &mut seqs);
        assert_eq!(seqs, (1..=210).collect::<Vec<_>>());
        assert_eq!((events.lost, events.bytes, events.next_deadline(), all.count()), (0, 0, None, 0));
    }

    #[test]
    fn the_bound_holds_and_what_is_lost_is_counted() {
        let memory = Memory::private(4).unwrap();
        let mut tape = Ring::new(memory, 1, Bell::default(), ring::gaps());
        let mut events = Events::new(Waiting::default());
        let now = Now { instant: Instant::from_millis(1_000), unix: UnixTime::from_secs(1) };
        for seq in 1..=4_000 {
            events.push(&event(seq), &mut tape, now);
        }
        assert!(events.bytes <= EVENTS_WAITING_BYTES_MAX && events.bytes > EVENTS_WAITING_BYTES_MAX - 21_000);
        assert_eq!(events.lost as usize, 4_000 - 3 * ring::EVENT_SLOTS - events.waiting.len());
    }
}
