//! Engine and side over the link: directory, events once each, kills of either end.

use std::time::Duration;

use crate::base::id::ShardId;
use crate::process::side::record::tests::call_id;
use crate::process::side::record::tests::whole_call;
use crate::process::side::tests::world::BOOT;
use crate::process::side::tests::world::DIRECTORY;
use crate::process::side::tests::world::World;
use crate::process::side::tests::world::live_call;
use crate::wire::link::FromEngine;
use crate::wire::link::FromSide;
use crate::wire::tape::Track;

#[tokio::test]
async fn the_engine_gets_the_directory_whole_and_then_changes() {
    let world = World::new().await;
    let mut engine = world.engine(BOOT).await;
    let FromSide::Directory { version, part, last: true } = engine.receive().await else { panic!("no directory") };
    assert_eq!((part.tenants.len(), part.phones.len()), (2, 2));
    assert!(part.phones.iter().all(|phone| phone.ha1.sha256.is_some()));

    let path = world.folder.path().join("directory.toml");
    let retain = world.settings().retain;
    let more = format!("{DIRECTORY}[[phone]]\ntenant = \"acme\"\nuser = \"1002\"\npassword = \"p\"\n");
    std::fs::write(&path, &more).unwrap();
    world.node.as_ref().unwrap().reload(retain, Some(&path)).await;
    let FromSide::DirectoryDelta { from, version: newer, part } = engine.receive().await else { panic!("no delta") };
    assert_eq!(from, version);
    assert!(newer > version);
    assert_eq!(part.phones.len(), 3);

    // A faulty file changes nothing and is said in the metrics; the same version is not sent again.
    std::fs::write(&path, "[[phone]]\n").unwrap();
    world.node.as_ref().unwrap().reload(retain, Some(&path)).await;
    assert!(world.get("/metrics").await.body.contains("\ntipring_directory_import_success 0\n"));
    drop(engine);
    let mut engine = world.accept().await;
    engine.send(&FromEngine::Hello { node: "node".to_owned(), boot: BOOT, shards: 1, directory_version: newer }).await;
    engine.events(BOOT, &whole_call(1, 1)).await;
    world.until_items("/v1/cdrs", 1).await;
    let nothing = tokio::time::timeout(Duration::from_millis(100), engine.receive()).await;
    assert!(nothing.is_err(), "the directory is sent again: {nothing:?}");
}

const SHARD: ShardId = ShardId(0);

#[tokio::test]
async fn records_come_once_each_after_kills_of_either_end() {
    let mut world = World::new().await;
    let mut tape = world.tape(BOOT);
    let mut engine = world.ready_engine().await;
    let mut events = whole_call(1, 1);
    events.extend(whole_call(12, 2));
    // Shown at once, and then confirmed.
    engine.events(BOOT, &events[..13]).await;
    world.until_items("/v1/cdrs", 1).await;
    tape.events(&events[..15]);

    // Side is killed; what happened meanwhile is on the tape, and what happens next is shown, too.
    world.restart().await;
    drop(engine);
    tape.events(&events[15..17]);
    let mut engine = world.engine(BOOT).await;
    engine.send(&FromEngine::Call(live_call(2, "acme"))).await;
    engine.snapshot_end(&[(SHARD, 17)]).await;
    engine.events(BOOT, &events[17..18]).await;
    tape.events(&events[17..18]);
    drop(engine);

    // The engine is killed with the end of the call in its ring, and the next one finds it there.
    tape.ring(&events[18..]);
    drop(tape);
    let mut tape = world.tape(BOOT + 1);
    let mut engine = world.engine(BOOT + 1).await;
    engine.snapshot_end(&[]).await;
    tape.turn();
    world.until_items("/v1/cdrs", 2).await;
    let cdrs = world.get("/v1/cdrs?after=").await;
    assert_eq!(cdrs.column("call"), [call_id(1), call_id(2)]);
    assert!(cdrs.items().iter().all(|cdr| cdr["cause"]["text"] == "bye"), "{cdrs:?}");
    let metrics = world.get("/metrics").await.body;
    assert!(metrics.contains("\ntipring_side_events_missing 0\n"), "{metrics}");
    assert!(metrics.contains("\ntipring_side_calls_lost_total 0\n"), "{metrics}");
}

#[tokio::test]
async fn side_may_be_dead_while_the_tape_goes_on() {
    let mut world = World::new().await;
    let mut tape = world.tape(BOOT);
    world.node = None;
    for call in 0..30 {
        tape.events(&whole_call(1 + u64::from(call) * 11, call));
    }
    let folder = world.folder.path().join("tape/0");
    let files = || std::fs::read_dir(&folder).unwrap().count();
    let before = files();
    world.restart().await;
    let mut engine = world.engine(BOOT).await;
    engine.snapshot_end(&[(SHARD, 330)]).await;
    world.until_items("/v1/cdrs", 30).await;
    // What is committed may go; nothing else is said of the tape before the segment is finished.
    let (track, segment) = engine.receive_tape_ack().await;
    assert_eq!(track, Track::Events);
    tape.acknowledge(track, segment);
    assert!(files() < before, "{before} files");
    let metrics = world.get("/metrics").await.body;
    assert!(metrics.contains("\ntipring_side_events_total 330\n"), "{metrics}");
}

#[tokio::test]
async fn calls_of_a_dead_boot_get_their_record() {
    let world = World::new().await;
    let mut tape = world.tape(BOOT);
    let engine = world.ready_engine().await;
    tape.events(&whole_call(1, 1)[..8]);
    drop((engine, tape));

    let mut engine = world.engine(BOOT + 1).await;
    engine.snapshot_end(&[]).await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(world.get("/v1/cdrs").await.items().is_empty(), "its end may still be in the ring");
    world.tape(BOOT + 1).turn();
    let cdr = world.until_items("/v1/cdrs", 1).await.remove(0);
    assert_eq!(cdr["cause"]["text"], "the engine died");
    assert!(world.get("/metrics").await.body.contains("\ntipring_side_calls_lost_total 1\n"));
}

#[tokio::test]
async fn a_call_whose_end_is_not_read_yet_is_not_lost() {
    let mut world = World::new().await;
    let mut tape = world.tape(BOOT);
    tape.events(&whole_call(1, 1)[..8]);
    world.restart().await;
    let mut engine = world.engine(BOOT).await;
    engine.snapshot_end(&[(SHARD, 11)]).await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(world.get("/v1/cdrs").await.items().is_empty());
    tape.events(&whole_call(1, 1)[8..]);
    let cdr = world.until_items("/v1/cdrs", 1).await.remove(0);
    assert_eq!(cdr["cause"]["text"], "bye");
    assert!(world.get("/metrics").await.body.contains("\ntipring_side_calls_lost_total 0\n"));
}

#[tokio::test]
async fn gaps_are_read_and_counted() {
    let mut world = World::new().await;
    let mut tape = world.tape(BOOT);
    tape.gap();
    world.until("/metrics", |answer| answer.body.contains("\ntipring_side_tape_gaps_total 1\n")).await;
    // Read again, and counted once.
    world.restart().await;
    tape.events(&whole_call(1, 1));
    world.until_items("/v1/cdrs", 1).await;
    assert!(world.get("/metrics").await.body.contains("\ntipring_side_tape_gaps_total 0\n"));
}

#[tokio::test]
async fn an_older_release_s_spool_is_read_once() {
    let mut world = World::new().await;
    let mut journal = crate::wire::journal::MAGIC.to_vec();
    for event in whole_call(1, 1) {
        let record = postcard::to_allocvec(&(BOOT - 1, event)).unwrap();
        journal.extend_from_slice(&(record.len() as u32).to_le_bytes());
        journal.extend_from_slice(&crc32c::crc32c(&record).to_le_bytes());
        journal.extend_from_slice(&record);
    }
    let spool = world.folder.path().join("spool");
    std::fs::create_dir(&spool).unwrap();
    std::fs::write(spool.join("000000000001.spool"), &journal).unwrap();
    std::fs::write(spool.join("000000000002.spool"), &journal[..8]).unwrap();
    world.restart().await;
    world.until_items("/v1/cdrs", 1).await;
    world.until("/v1/cdrs", |_| !spool.exists()).await;
}

#[tokio::test]
async fn garbage_from_the_link_ends_the_connection_only() {
    let world = World::new().await;
    let mut engine = world.ready_engine().await;
    engine.send_bytes(&[255; 64]).await;
    world.until("/readyz", |answer| answer.status == 503).await;
    drop(engine);
    let mut engine = world.ready_engine().await;
    engine.send(&FromEngine::Draining(true)).await;
    let answer = world.until("/readyz", |answer| answer.status == 503).await;
    assert_eq!(answer.body, "draining\n");
    engine.send(&FromEngine::Draining(false)).await;
    world.until("/readyz", |answer| answer.status == 200).await;
    tokio::time::sleep(Duration::from_millis(1)).await;
}
