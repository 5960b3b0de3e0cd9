//! Events in every order and number, over restarts and dead boots, make the same records.

use std::collections::BTreeMap;

use proptest::prelude::*;
use tempfile::TempDir;

use crate::base::id::CallId;
use crate::base::id::ShardId;
use crate::base::time::UnixTime;
use crate::process::side::metrics::Metrics;
use crate::process::side::metrics::text::Format;
use crate::process::side::mirror::Mirror;
use crate::process::side::record::cdr::Cdr;
use crate::process::side::record::ingest::Batch;
use crate::process::side::record::ingest::Ingest;
use crate::process::side::record::ingest::Snapshot;
use crate::process::side::record::ingest::Way;
use crate::process::side::record::merge::Merge;
use crate::process::side::store::Store;
use crate::wire::event::Body;
use crate::wire::event::By;
use crate::wire::event::Cause;
use crate::wire::event::Direction;
use crate::wire::event::Event;
use crate::wire::event::MediaReport;
use crate::wire::tape::Gap;
use crate::wire::tape::Track;
use crate::wire::tape::record::GapCause;

const BOOT: u64 = u64::MAX - 1;

pub(crate) fn event(seq: u64, call: u32, leg: Option<u8>, body: Body) -> Event {
    Event {
        shard: ShardId(0),
        seq,
        at: UnixTime::from_micros(1_700_000_000_000_000 + seq * 1_000_000),
        tenant: "acme".to_owned(),
        call: Some(CallId::new(UnixTime::from_secs(1_700_000_000), u128::from(call))),
        leg,
        body,
    }
}

pub(crate) fn call_id(call: u32) -> String {
    CallId::new(UnixTime::from_secs(1_700_000_000), u128::from(call)).to_string()
}

fn cause(sip: u16, by: By) -> Cause {
    Cause { sip, q850: 16, text: "bye".to_owned(), by }
}

/// One answered call from 1001 to 1002 that rang two phones; takes seqs `first` to `first + 10`.
pub(crate) fn whole_call(first: u64, call: u32) -> Vec<Event> {
    let started = Body::CallStarted {
        sip_call_id: format!("sip-{call}"),
        from: "1001".to_owned(),
        from_name: "Alice".to_owned(),
        to: "1002".to_owned(),
        dialled: "1002".to_owned(),
        direction: Direction::Internal,
        phone: "1001".to_owned(),
    };
    let invited = |phone: &str| Body::LegInvited {
        phone: phone.to_owned(),
        contact: format!("sip:{phone}@192.0.2.1"),
        flow: "udp".to_owned(),
    };
    let report = |packets| MediaReport { packets, lost: 2, jitter_us: 1_500, ..MediaReport::default() };
    let bodies = [
        (None, started),
        (Some(1), invited("1002")),
        (Some(2), invited("1002b")),
        (Some(1), Body::LegRinging { status: 180 }),
        (Some(2), Body::LegRinging { status: 180 }),
        (Some(1), Body::LegAnswered { phone: "1002".to_owned() }),
        (None, Body::CallAnswered),
        (Some(2), Body::LegEnded { cause: cause(487, By::System) }),
        (Some(1), Body::MediaReported { report: report(5) }),
        (Some(1), Body::MediaReported { report: report(9) }),
        (None, Body::CallEnded { cause: cause(200, By::Caller), legs: 3 }),
    ];
    (first..).zip(bodies).map(|(seq, (leg, body))| event(seq, call, leg, body)).collect()
}

fn merged(events: &[Event]) -> Cdr {
    let mut merge = Merge::default();
    for event in events {
        merge.handle(BOOT, event);
    }
    merge.record(&call_id(1), "node", None).unwrap()
}

#[test]
fn a_whole_call_makes_the_record_of_the_contract() {
    let record = merged(&whole_call(1, 1));
    assert_eq!(record.started_at, "2023-11-14T22:13:21.000Z");
    assert_eq!(record.ringing_at.as_deref(), Some("2023-11-14T22:13:24.000Z"));
    assert_eq!(record.answered_at.as_deref(), Some("2023-11-14T22:13:27.000Z"));
    assert_eq!(record.ended_at, "2023-11-14T22:13:31.000Z");
    assert_eq!(record.talk_ms, 4_000);
    assert_eq!((record.cause.sip, record.cause.by.as_str()), (Some(200), "caller"));
    assert_eq!(record.legs.len(), 3);
    assert_eq!(record.legs[1].media[0].packets, 9);
    assert_eq!(record.legs[2].cause.as_ref().unwrap().sip, Some(487));
}

proptest! {
    #[test]
    fn any_order_with_duplicates_makes_the_same_record(
        order in Just((0..11usize).collect::<Vec<_>>()).prop_shuffle(),
        again in proptest::collection::vec((0..11usize, 0..12usize), 0..20),
    ) {
        let events = whole_call(1, 1);
        let mut order = order;
        for (event, at) in again {
            order.insert(at.min(order.len()), event);
        }
        let shuffled: Vec<_> = order.into_iter().map(|index| events[index].clone()).collect();
        prop_assert_eq!(merged(&shuffled), merged(&events));
    }
}

struct World {
    folder: TempDir,
    store: Store,
    ingest: Ingest,
}

impl World {
    async fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(&folder.path().join("tipring.db")).await.unwrap();
        let ingest = Ingest::new(store.clone(), "node".to_owned());
        Self { folder, store, ingest }
    }

    /// As after a kill: nothing but the file is left.
    async fn restart(&mut self) {
        self.store.pool.close().await;
        self.store = Store::open(&self.folder.path().join("tipring.db")).await.unwrap();
        self.ingest = Ingest::new(self.store.clone(), "node".to_owned());
    }

    async fn records(&self) -> Vec<Cdr> {
        let rows: Vec<String> =
            sqlx::query_scalar("SELECT record FROM cdrs ORDER BY position").fetch_all(&self.store.pool).await.unwrap();
        rows.iter().map(|row| serde_json::from_str(row).unwrap()).collect()
    }
}

/// The next engine has begun.
fn later() -> Snapshot {
    Snapshot { boot: BOOT + 1, events: BTreeMap::new() }
}

fn batch(events: &[Event]) -> [Batch; 1] {
    [Batch { boot: BOOT, events: events.to_vec(), gaps: Vec::new() }]
}

#[tokio::test]
async fn events_count_once_over_kills_and_replays() {
    let mut world = World::new().await;
    let mut events = whole_call(1, 1);
    events.extend(whole_call(12, 2));
    let done = world.ingest.commit(&batch(&events[..5]), Way::Tape).await.unwrap();
    assert_eq!(done.positions, BTreeMap::from([((BOOT, ShardId(0)), 5)]));
    assert!(world.records().await.is_empty());

    world.restart().await;
    let done = world.ingest.commit(&batch(&events[..16]), Way::Tape).await.unwrap();
    assert_eq!((done.duplicates, done.events, done.missing, done.records), (5, 11, 0, 1));
    world.restart().await;
    let done = world.ingest.commit(&batch(&events), Way::Tape).await.unwrap();
    assert_eq!((done.duplicates, done.records), (16, 1));

    let records = world.records().await;
    assert_eq!(records.iter().map(|record| record.call.clone()).collect::<Vec<_>>(), [call_id(1), call_id(2)]);
    assert_eq!(records[0], merged(&events[..11]));
}

#[tokio::test]
async fn what_ended_is_in_the_figures_once() {
    let mut world = World::new().await;
    let metrics = Metrics::new(Vec::new());
    let events = whole_call(1, 1);
    for part in [&events[..9], &events, &events] {
        metrics.on_commit(&world.ingest.commit(&batch(part), Way::Tape).await.unwrap());
        world.restart().await;
    }
    let mut busy = whole_call(12, 2);
    busy.remove(6);
    busy.last_mut().unwrap().body = Body::CallEnded { cause: cause(486, By::Callee), legs: 3 };
    metrics.on_commit(&world.ingest.commit(&batch(&busy), Way::Tape).await.unwrap());
    let text = metrics.render(&Mirror::default(), Format::Prometheus);
    for line in [
        "tipring_calls_ended_total{direction=\"internal\",reason=\"hung_up\"} 1",
        "tipring_calls_ended_total{direction=\"internal\",reason=\"busy\"} 1",
        "tipring_call_duration_seconds_bucket{le=\"1\"} 0",
        "tipring_call_duration_seconds_bucket{le=\"5\"} 1",
        "tipring_call_duration_seconds_bucket{le=\"+Inf\"} 1",
        "tipring_call_duration_seconds_sum 4",
        "tipring_rtp_jitter_seconds_bucket{le=\"0.001\"} 0",
        "tipring_rtp_jitter_seconds_bucket{le=\"0.002\"} 2",
        "tipring_rtp_jitter_seconds_count 2",
        "tipring_rtp_lost_total 4",
        "tipring_invite_setup_seconds_count 2",
        "tipring_call_mos_bucket{le=\"2.5\"} 0",
        "tipring_call_mos_bucket{le=\"3\"} 2",
        "tipring_call_mos_count 2",
    ] {
        assert!(text.lines().any(|found| found == line), "{line} is not in\n{text}");
    }
}

#[tokio::test]
async fn gaps_are_counted_and_filled() {
    let mut world = World::new().await;
    let events = whole_call(1, 1);
    let first: Vec<_> = [0, 1, 5, 10].iter().map(|index| events[*index].clone()).collect();
    assert_eq!(world.ingest.commit(&batch(&first), Way::Tape).await.unwrap().missing, 7);
    // The record is final already; what comes late amends it in its place.
    assert_eq!(world.ingest.commit(&batch(&events), Way::Tape).await.unwrap().missing, -7);
    assert_eq!(world.records().await, [merged(&events)]);
}

#[tokio::test]
async fn the_link_runs_ahead_and_the_tape_says_what_is_missing() {
    let mut world = World::new().await;
    let events = whole_call(1, 1);
    // Side began in the middle of a call: what was before comes by the tape.
    let done = world.ingest.commit(&batch(&events[6..]), Way::Link).await.unwrap();
    assert_eq!((done.events, done.missing, done.records), (5, 0, 0));
    assert_eq!(world.records().await, [], "who was called by whom is not known");
    let done = world.ingest.commit(&batch(&events[..8]), Way::Tape).await.unwrap();
    assert_eq!((done.events, done.duplicates, done.missing), (6, 2, 0));
    // One is not on the tape, and came by the link; another came by neither.
    let more = whole_call(12, 2);
    world.ingest.commit(&batch(&more[..1]), Way::Link).await.unwrap();
    world.restart().await;
    let tape: Vec<_> = events[8..].iter().chain(&more[1..3]).chain(&more[4..]).cloned().collect();
    let done = world.ingest.commit(&batch(&tape), Way::Tape).await.unwrap();
    assert_eq!((done.events, done.duplicates, done.missing), (9, 3, 1));
    assert_eq!(world.records().await[0], merged(&events));
}

#[tokio::test]
async fn the_link_ends_calls_of_which_nothing_is_missing() {
    let mut world = World::new().await;
    let (first, second, third) = (whole_call(1, 1), whole_call(12, 2), whole_call(23, 3));
    let done = world.ingest.commit(&batch(&first), Way::Link).await.unwrap();
    assert_eq!(done.records, 1);
    // Some are missing by the link, and the tape comes past them while the link goes on.
    world.ingest.commit(&batch(&second[4..]), Way::Link).await.unwrap();
    let done = world.ingest.commit(&batch(&third[..5]), Way::Link).await.unwrap();
    assert_eq!(done.records, 0);
    let tape: Vec<_> = first.iter().chain(&second).cloned().collect();
    let done = world.ingest.commit(&batch(&tape), Way::Tape).await.unwrap();
    assert_eq!((done.events, done.records), (4, 1));
    let done = world.ingest.commit(&batch(&third[5..]), Way::Link).await.unwrap();
    assert_eq!(done.records, 1);
    let records = world.records().await;
    let told: Vec<_> = records.iter().map(|record| (&*record.call, &*record.from, record.talk_ms)).collect();
    let calls = [call_id(1), call_id(2), call_id(3)];
    assert_eq!(told, calls.each_ref().map(|call| (call.as_str(), "1001", 4_000)));
}

#[tokio::test]
async fn a_gap_of_the_tape_counts_once() {
    let mut world = World::new().await;
    let at = UnixTime::from_secs(1_700_000_000);
    let gap = Gap {
        boot: BOOT,
        track: Track::Media,
        first: 3,
        last: 5,
        since: at,
        until: at,
        records: 100,
        bytes: 17_200,
        cause: GapCause::Full,
    };
    for expected in [1, 0] {
        let batch = Batch { boot: BOOT, events: Vec::new(), gaps: vec![(ShardId(0), gap.clone())] };
        assert_eq!(world.ingest.commit(&[batch], Way::Tape).await.unwrap().gaps, expected);
    }
    let records: i64 =
        sqlx::query_scalar("SELECT SUM(records) FROM tape_gaps").fetch_one(&world.store.pool).await.unwrap();
    assert_eq!(records, 100);
}

#[tokio::test]
async fn calls_of_a_dead_boot_are_closed_and_the_true_end_wins() {
    let mut world = World::new().await;
    let events = whole_call(1, 1);
    world.ingest.commit(&batch(&events[..8]), Way::Tape).await.unwrap();
    let up = |_| true;
    assert_eq!(world.ingest.close_lost(up, &later(), &BTreeMap::new()).await.unwrap(), 0);
    world.restart().await;
    let seen_until = BTreeMap::from([(BOOT, UnixTime::from_secs(1_700_000_060))]);
    assert_eq!(world.ingest.close_lost(|_| false, &later(), &seen_until).await.unwrap(), 1);
    let record = world.records().await.remove(0);
    assert_eq!((record.cause.text.as_str(), record.cause.by.as_str()), ("the engine died", "system"));
    assert_eq!((record.ended_at.as_str(), record.talk_ms), ("2023-11-14T22:14:20.000Z", 53_000));
    assert_eq!(world.ingest.close_lost(|_| false, &later(), &seen_until).await.unwrap(), 0);

    // Of the same engine only what began before its snapshot can be lost.
    let snapshot = |seq| Snapshot { boot: BOOT, events: BTreeMap::from([(ShardId(0), seq)]) };
    world.ingest.commit(&batch(&whole_call(12, 2)[..3]), Way::Tape).await.unwrap();
    assert_eq!(world.ingest.close_lost(|_| false, &snapshot(11), &seen_until).await.unwrap(), 0);
    assert_eq!(world.ingest.close_lost(|_| false, &snapshot(12), &seen_until).await.unwrap(), 1);
    world.ingest.commit(&batch(&whole_call(12, 2)), Way::Tape).await.unwrap();

    // A late event that is not the end leaves it closed.
    world.ingest.commit(&batch(&events[8..9]), Way::Tape).await.unwrap();
    assert_eq!(world.records().await[0].cause.text, "the engine died");
    world.ingest.commit(&batch(&events), Way::Tape).await.unwrap();
    assert_eq!(world.records().await[0], merged(&events));
    assert_eq!(world.records().await[1].cause.text, "bye");
}

#[tokio::test]
async fn a_call_that_died_with_the_node_ends_when_its_engine_was_last_seen() {
    let mut world = World::new().await;
    let seen = UnixTime::from_secs(1_700_000_060);
    world.ingest.commit(&batch(&whole_call(1, 1)[..8]), Way::Tape).await.unwrap();
    world.ingest.note_alive(BOOT, seen).await.unwrap();
    // Of another life of the engine nothing is said by that.
    world.ingest.note_alive(BOOT + 1, UnixTime::from_secs(1_700_009_999)).await.unwrap();
    world.restart().await;
    assert_eq!(world.ingest.close_lost(|_| false, &later(), &BTreeMap::new()).await.unwrap(), 1);
    let record = world.records().await.remove(0);
    assert_eq!((record.ended_at.as_str(), record.talk_ms), ("2023-11-14T22:14:20.000Z", 53_000));
    // No call is open any more.
    world.ingest.note_alive(BOOT, UnixTime::from_secs(1_700_000_900)).await.unwrap();
    let last_at: i64 =
        sqlx::query_scalar("SELECT MAX(last_at) FROM positions").fetch_one(&world.store.pool).await.unwrap();
    assert_eq!(last_at, 1_700_000_060_000_000);
}

#[tokio::test]
async fn what_is_old_is_deleted_but_not_what_an_open_call_needs() {
    use std::time::Duration;

    use crate::process::config::Retain;
    use crate::process::side::retain;

    let mut world = World::new().await;
    let mut events = whole_call(1, 1);
    events.extend(whole_call(12, 2).into_iter().take(3));
    world.ingest.commit(&batch(&events), Way::Tape).await.unwrap();
    let long = Duration::from_secs(86_400 * 9_999);
    let short = Duration::from_secs(60);
    let kept = Retain { cdrs: long, events: short, audit: long, trace: long };
    assert_eq!(retain::sweep(&world.store, &kept).await.unwrap(), 11);
    assert_eq!(world.records().await.len(), 1);
    world.restart().await;
    world.ingest.commit(&batch(&whole_call(12, 2)), Way::Tape).await.unwrap();
    assert_eq!(world.records().await[1].legs.len(), 3);
    let kept = Retain { cdrs: short, ..kept };
    retain::sweep(&world.store, &kept).await.unwrap();
    assert!(world.records().await.is_empty());
}
