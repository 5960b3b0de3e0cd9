//! What is up now, ending it, its trace, and live events.

use std::time::Duration;

use serde_json::Value;
use tokio::io::AsyncReadExt;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use crate::base::time::UnixTime;
use crate::process::side::record::tests::whole_call;
use crate::process::side::tests::world::BOOT;
use crate::process::side::tests::world::World;
use crate::process::side::tests::world::id;
use crate::process::side::tests::world::live_call;
use crate::process::side::tests::world::registration;
use crate::process::side::token;
use crate::process::side::token::Role;
use crate::wire::event::Body;
use crate::wire::event::By;
use crate::wire::event::Event;
use crate::wire::link::FromEngine;
use crate::wire::link::FromSide;
use crate::wire::link::TraceStep;

#[tokio::test]
async fn registrations_and_calls_are_shown_as_the_engine_says() {
    let world = World::new().await;
    let mut engine = world.ready_engine().await;
    for user in ["1003", "1001", "1002"] {
        engine.send(&FromEngine::Registration(registration("acme", user))).await;
    }
    let mut expired = registration("acme", "1004");
    expired.expires_at = UnixTime::from_secs(1);
    engine.send(&FromEngine::Registration(expired)).await;
    engine.send(&FromEngine::Call(live_call(1, "acme"))).await;
    world.until_items("/v1/calls", 1).await;
    let first = world.get("/v1/registrations?limit=2").await;
    assert_eq!(first.column("user"), ["1001", "1002"]);
    let rest = world.get(&format!("/v1/registrations?limit=2&cursor={}", first.next().unwrap())).await;
    assert_eq!((rest.column("user"), rest.next()), (vec!["1003".to_owned()], None));
    let item = &first.items()[0];
    assert_eq!(item["expires_at"], "2096-10-02T07:06:40.000Z");
    assert_eq!(item["received"], "192.0.2.1:5060");
    assert_eq!(world.get("/v1/calls").await.items()[0]["state"], "up");

    let gone = registration("acme", "1001");
    let gone = FromEngine::RegistrationGone { tenant: gone.tenant, user: gone.user, contact: gone.contact };
    engine.send(&gone).await;
    engine.send(&FromEngine::CallGone { call: id(1) }).await;
    world.until_items("/v1/calls", 0).await;
    assert_eq!(world.get("/v1/registrations").await.column("user"), ["1002", "1003"]);

    // A new engine's snapshot replaces it all.
    drop(engine);
    let mut engine = world.engine(BOOT).await;
    engine.send(&FromEngine::Registration(registration("acme", "1009"))).await;
    engine.snapshot_end(&[]).await;
    let answer = world.until_items("/v1/registrations", 1).await;
    assert_eq!(answer[0]["user"], "1009");
}

#[tokio::test]
async fn a_call_is_ended_by_those_who_may() {
    let world = World::new().await;
    let mut engine = world.ready_engine().await;
    engine.send(&FromEngine::Call(live_call(1, "acme"))).await;
    world.until_items("/v1/calls", 1).await;
    let path = format!("/v1/calls/{}", id(1));
    let reader = world.token("reader", Role::Read, None).await;
    let stranger = world.token("stranger", Role::Operator, Some(&["beta"])).await;
    let operator = world.token("operator", Role::Operator, Some(&["acme"])).await;
    assert_eq!(world.request("DELETE", &path, &reader).await.status, 403);
    assert_eq!(world.request("DELETE", &path, &stranger).await.status, 404);

    let answer = async {
        loop {
            if let FromSide::Hangup { request, call } = engine.receive().await {
                engine.send(&FromEngine::Done { request, found: true }).await;
                return call;
            }
        }
    };
    let (done, call) = tokio::join!(world.request("DELETE", &path, &operator), answer);
    assert_eq!((done.status, call), (204, id(1)));
    drop(engine);
    world.until("/readyz", |answer| answer.status == 503).await;
    assert_eq!(world.request("DELETE", &path, &operator).await.status, 503);

    let audit = world.get("/v1/audit").await.items();
    let lines: Vec<_> = audit
        .iter()
        .map(|line| ["actor", "action", "outcome"].map(|key| line[key].as_str().unwrap_or_default()).join(" "))
        .collect();
    for line in ["operator call.hangup done", "operator call.hangup engine down", "reader api.refused refused"] {
        assert!(lines.iter().any(|found| found == line), "{line} is not in {lines:?}");
    }
    let own = world.token("own", Role::Admin, Some(&["acme"])).await;
    let seen = world.get_as(&own, "/v1/audit").await;
    assert_eq!(seen.column("tenant"), ["acme", "acme"]);
}

#[tokio::test]
async fn traces_come_from_the_engine_and_then_from_the_database() {
    let world = World::new().await;
    let mut engine = world.ready_engine().await;
    engine.send(&FromEngine::Call(live_call(1, "acme"))).await;
    world.until_items("/v1/calls", 1).await;
    let path = format!("/v1/calls/{}/trace", id(1));
    let step = TraceStep { at: UnixTime::from_secs(1), leg: Some(1), rule: "route".into(), reason: "rings".into() };
    let answer = async {
        loop {
            if let FromSide::Trace { request, .. } = engine.receive().await {
                engine.send(&FromEngine::Trace { request, steps: Some(vec![step.clone()]) }).await;
                break;
            }
        }
    };
    let (live, ()) = tokio::join!(world.get(&path), answer);
    assert_eq!(live.json()["steps"][0]["reason"], "rings");

    let over = FromEngine::CallTrace { call: id(1), tenant: "acme".into(), steps: vec![step.clone(), step.clone()] };
    engine.send(&over).await;
    engine.send(&FromEngine::CallGone { call: id(1) }).await;
    world.until_items("/v1/calls", 0).await;
    assert_eq!(world.get(&path).await.json()["steps"].as_array().unwrap().len(), 2);
    let stranger = world.token("stranger", Role::Read, Some(&["beta"])).await;
    assert_eq!(world.get_as(&stranger, &path).await.status, 404);
    assert_eq!(world.get(&format!("/v1/calls/{}/trace", id(2))).await.status, 404);
}

/// Reads a stream of events until it has `count`, or for `time`.
async fn events(world: &World, token: &str, last: Option<&str>, count: usize, time: Duration) -> Vec<(String, Value)> {
    let mut stream = TcpStream::connect(world.address).await.unwrap();
    let last = last.map(|id| format!("Last-Event-ID: {id}\r\n")).unwrap_or_default();
    let request = format!(
        "GET /v1/events HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\nConnection: close\r\n{last}\r\n"
    );
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut text = String::new();
    let mut buffer = [0; 4096];
    let until = tokio::time::Instant::now() + time;
    loop {
        let found: Vec<_> = text
            .split("\n\n")
            .filter(|block| block.contains("data: {"))
            .map(|block| {
                let line = |key: &str| block.lines().find_map(|line| line.strip_prefix(key)).unwrap_or_default();
                (line("event: ").to_owned(), serde_json::from_str(line("data: ")).unwrap_or_default())
            })
            .collect();
        let read = tokio::time::timeout_at(until, stream.read(&mut buffer));
        if found.len() >= count {
            return found;
        }
        match read.await {
            Ok(Ok(len)) if len > 0 => text.push_str(&String::from_utf8_lossy(&buffer[..len])),
            _ => return found,
        }
    }
}

#[tokio::test]
async fn event_streams_are_live_resume_and_keep_tenants_apart() {
    const LONG: Duration = Duration::from_secs(5);
    const SHORT: Duration = Duration::from_millis(400);
    let world = World::new().await;
    let mut engine = world.ready_engine().await;
    let calls = whole_call(1, 1);
    engine.events(BOOT, &calls[..3]).await;
    world.until("/metrics", |answer| answer.body.contains("\ntipring_side_events_total 3\n")).await;

    let live = async {
        tokio::time::sleep(Duration::from_millis(100)).await;
        engine.events(BOOT, &calls[3..6]).await;
    };
    let (seen, ()) = tokio::join!(events(&world, &world.admin, None, 3, LONG), live);
    let seqs: Vec<_> = seen.iter().map(|(_, event)| event["seq"].as_u64().unwrap()).collect();
    assert_eq!(seqs, [4, 5, 6]);
    let (kind, event) = &seen[2];
    assert_eq!((kind.as_str(), event["type"].as_str().unwrap()), ("leg.answered", "leg.answered"));
    for key in ["id", "type", "v", "at", "tenant", "call", "leg", "node", "boot", "shard", "seq", "cause", "data"] {
        assert!(event.get(key).is_some(), "{key} is not in {event}");
    }
    assert_eq!((&event["boot"], &event["data"]["phone"]), (&Value::from("0000000000000007"), &Value::from("1002")));

    // Resumed, nothing is missing and nothing comes twice, over a restart too.
    let last = seen[0].1["id"].as_str().unwrap().to_owned();
    engine.events(BOOT, &calls[6..]).await;
    let resumed = events(&world, &world.admin, Some(&last), 7, LONG).await;
    let seqs: Vec<_> = resumed.iter().map(|(_, event)| event["seq"].as_u64().unwrap()).collect();
    assert_eq!(seqs, [5, 6, 7, 8, 9, 10, 11]);
    assert_eq!(resumed[6].1["cause"]["by"], "caller");

    let unknown = events(&world, &world.admin, Some("nonsense"), 12, LONG).await;
    assert_eq!((unknown[0].0.as_str(), unknown.len()), ("reset", 12));
    let stranger = world.token("stranger", Role::Read, Some(&["beta"])).await;
    assert!(events(&world, &stranger, Some(&last), 1, SHORT).await.is_empty());
    let own = world.token("own", Role::Read, Some(&["acme"])).await;
    assert_eq!(events(&world, &own, Some(&last), 7, LONG).await.len(), 7);
}

#[tokio::test]
async fn a_revoked_token_ends_its_stream() {
    let world = World::new().await;
    let reader = world.token("reader", Role::Read, None).await;
    let revoke = async {
        tokio::time::sleep(Duration::from_millis(200)).await;
        token::revoke(&world.store().await, "reader", "test").await.unwrap();
    };
    let began = tokio::time::Instant::now();
    let _ = tokio::join!(events(&world, &reader, None, 1, Duration::from_secs(20)), revoke);
    assert!(began.elapsed() < Duration::from_secs(10));
}

#[tokio::test]
async fn changes_in_the_course_of_a_call_are_events_like_any_other() {
    let world = World::new().await;
    let mut engine = world.ready_engine().await;
    let mut calls = whole_call(1, 1);
    let bodies = [
        Body::MediaMoved { stream: 0, from: "192.0.2.1:4000".into(), to: "192.0.2.1:4002".into() },
        Body::MediaOneWay { stream: 1 },
        Body::MediaOneWayOver { stream: 1 },
        Body::Glare { method: "INVITE".into(), by: By::Callee },
        Body::SessionRefreshed { method: "UPDATE".into(), by: By::System, secs: 600 },
        Body::SessionRefreshFailed { status: 500, by: By::System },
        Body::FlowLost { flow: "tcp 192.0.2.1:5060".into() },
        Body::FlowFound { flow: "tcp 192.0.2.1:5062".into() },
    ];
    let (ended, place) = (calls.pop().unwrap(), calls.len());
    calls.extend(bodies.iter().chain([&ended.body]).enumerate().map(|(n, body)| Event {
        seq: (place + n + 1) as u64,
        leg: Some(1).filter(|_| *body != ended.body),
        body: body.clone(),
        ..ended.clone()
    }));
    let live = async {
        tokio::time::sleep(Duration::from_millis(100)).await;
        engine.events(BOOT, &calls).await;
    };
    let (seen, ()) = tokio::join!(events(&world, &world.admin, None, calls.len(), Duration::from_secs(5)), live);
    let changes = &seen[place..place + bodies.len()];
    let names: Vec<_> = changes.iter().map(|(name, event)| (name.as_str(), event["leg"].as_u64().unwrap())).collect();
    assert_eq!(names, bodies.each_ref().map(|body| (body.name(), 1)));
    assert_eq!(
        changes[0].1["data"],
        serde_json::json!({"stream": 0, "from": "192.0.2.1:4000", "to": "192.0.2.1:4002"})
    );
    assert_eq!(changes[4].1["data"], serde_json::json!({"method": "UPDATE", "by": "system", "secs": 600}));
    world.until_items("/v1/cdrs", 1).await;
    let record = world.get("/v1/cdrs").await.items().remove(0);
    assert_eq!(record["legs"].as_array().unwrap().len(), 3, "no leg more for them: {record}");
}
