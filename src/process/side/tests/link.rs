//! Engine and side over the link: directory, events once each, kills of either end.

use std::time::Duration;

use crate::process::side::record::tests::call_id;
use crate::process::side::record::tests::whole_call;
use crate::process::side::tests::world::BOOT;
use crate::process::side::tests::world::DIRECTORY;
use crate::process::side::tests::world::World;
use crate::process::side::tests::world::live_call;
use crate::wire::link::FromEngine;
use crate::wire::link::FromSide;

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
    assert!(matches!(engine.receive().await, FromSide::Ack { seq: 11, .. }));
}

#[tokio::test]
async fn records_come_once_each_after_kills_of_either_end() {
    let mut world = World::new().await;
    let mut engine = world.ready_engine().await;
    let mut events = whole_call(1, 1);
    events.extend(whole_call(12, 2));
    engine.events(BOOT, &events[..15]).await;
    assert_eq!(engine.receive_ack().await, (BOOT, 15));
    world.until_items("/v1/cdrs", 1).await;

    // Side is killed, and the engine sends what it has no acknowledgement for, and more.
    world.restart().await;
    drop(engine);
    let mut engine = world.engine(BOOT).await;
    engine.send(&FromEngine::Call(live_call(2, "acme"))).await;
    engine.send(&FromEngine::SnapshotEnd).await;
    engine.events(BOOT, &events[10..16]).await;
    engine.send(&FromEngine::SpoolEnd).await;
    assert_eq!(engine.receive_ack().await, (BOOT, 16));
    drop(engine);

    // The engine is killed and sends everything again.
    let mut engine = world.engine(BOOT).await;
    engine.send(&FromEngine::SnapshotEnd).await;
    engine.events(BOOT, &events).await;
    engine.send(&FromEngine::SpoolEnd).await;
    assert_eq!(engine.receive_ack().await, (BOOT, 22));
    world.until_items("/v1/cdrs", 2).await;
    let cdrs = world.get("/v1/cdrs?after=").await;
    assert_eq!(cdrs.column("call"), [call_id(1), call_id(2)]);
    assert!(cdrs.items().iter().all(|cdr| cdr["cause"]["text"] == "bye"), "{cdrs:?}");
    let metrics = world.get("/metrics").await.body;
    assert!(metrics.contains("\ntipring_side_events_missing 0\n"), "{metrics}");
}

#[tokio::test]
async fn calls_of_a_dead_boot_get_their_record() {
    let world = World::new().await;
    let mut engine = world.ready_engine().await;
    engine.events(BOOT, &whole_call(1, 1)[..8]).await;
    engine.receive_ack().await;
    drop(engine);

    let mut engine = world.engine(BOOT + 1).await;
    engine.send(&FromEngine::SnapshotEnd).await;
    assert!(world.get("/v1/cdrs").await.items().is_empty());
    engine.send(&FromEngine::SpoolEnd).await;
    let cdr = world.until_items("/v1/cdrs", 1).await.remove(0);
    assert_eq!(cdr["cause"]["text"], "the engine died");
    assert!(world.get("/metrics").await.body.contains("\ntipring_side_calls_lost_total 1\n"));
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
