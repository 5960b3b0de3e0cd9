//! The API as such: lists, filters, who sees what, and what hostile input gets.

use tokio::io::AsyncReadExt;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use crate::process::side::record::tests::call_id;
use crate::process::side::record::tests::whole_call;
use crate::process::side::tests::world::BOOT;
use crate::process::side::tests::world::World;
use crate::process::side::token::Role;

/// Calls 1 to `count`; the even ones are beta's.
async fn world_with_records(count: u32) -> World {
    let world = World::new().await;
    let mut engine = world.ready_engine().await;
    for call in 1..=count {
        let mut events = whole_call(u64::from(call - 1) * 11 + 1, call);
        if call % 2 == 0 {
            events.iter_mut().for_each(|event| "beta".clone_into(&mut event.tenant));
        }
        engine.events(BOOT, &events).await;
    }
    world.until_items("/v1/cdrs?limit=1000", count as usize).await;
    world
}

#[tokio::test]
async fn records_have_the_fields_of_the_contract() {
    let world = world_with_records(1).await;
    let cdr = world.get("/v1/cdrs").await.items().remove(0);
    let keys: Vec<_> = cdr.as_object().unwrap().keys().map(String::as_str).collect();
    let mut expected = [
        "call",
        "sip_call_id",
        "node",
        "tenant",
        "direction",
        "from",
        "from_name",
        "to",
        "dialled",
        "started_at",
        "ringing_at",
        "answered_at",
        "ended_at",
        "talk_ms",
        "cause",
        "legs",
    ];
    expected.sort_unstable();
    assert_eq!(keys, expected);
    let cause: Vec<_> = cdr["cause"].as_object().unwrap().keys().map(String::as_str).collect();
    assert_eq!(cause, ["by", "q850", "sip", "text"]);
    assert_eq!((cdr["call"].as_str(), cdr["node"].as_str()), (Some(call_id(1).as_str()), Some("node")));
}

#[tokio::test]
async fn lists_page_to_their_end_and_filters_filter() {
    let world = world_with_records(5).await;
    let mut calls = Vec::new();
    let mut path = "/v1/cdrs?limit=2".to_owned();
    loop {
        let page = world.get(&path).await;
        calls.extend(page.column("call"));
        let Some(next) = page.next() else { break };
        path = format!("/v1/cdrs?limit=2&cursor={next}");
    }
    assert_eq!(calls, (1..=5).rev().map(call_id).collect::<Vec<_>>());

    let mut finals = Vec::new();
    let mut after = String::new();
    loop {
        let page = world.get(&format!("/v1/cdrs?limit=2&after={after}")).await;
        finals.extend(page.column("call"));
        let Some(next) = page.next() else { break };
        after = next;
    }
    assert_eq!(finals, (1..=5).map(call_id).collect::<Vec<_>>());

    let count = async |query: &str| world.get(&format!("/v1/cdrs?{query}")).await.items().len();
    assert_eq!(count("sip_call_id=sip-3").await, 1);
    assert_eq!(count(&format!("call={}", call_id(4))).await, 1);
    assert_eq!(count("from=1001&to=1002").await, 5);
    assert_eq!(count("to=1001").await, 0);
    assert_eq!(count("tenant=beta").await, 2);
    // The first call starts at 22:13:21 and each following one eleven seconds later: since ≤ started_at < until.
    assert_eq!(count("since=2023-11-14T22:13:21Z&until=2023-11-14T22:13:32Z").await, 1);
    assert_eq!(count("since=2023-11-14T22:13:32.000Z").await, 4);
}

#[tokio::test]
async fn what_is_not_understood_is_refused() {
    let world = World::new().await;
    let call = call_id(1);
    for path in [
        "/v1/cdrs?colour=red",
        "/v1/cdrs?limit=0",
        "/v1/cdrs?limit=1001",
        "/v1/cdrs?limit=-1",
        "/v1/cdrs?limit=1&limit=2",
        "/v1/cdrs?since=yesterday",
        "/v1/cdrs?cursor=!!",
        "/v1/cdrs?call=a%20b",
        "/v1/recordings?call=",
        "/v1/cdrs?cursor=ZnNvb24",
        "/v1/cdrs?after=Y2FsbA",
        "/v1/registrations?cursor=Y2FsbA",
        "/v1/registrations?from=1",
        "/v1/calls?cursor=bGZvbw",
        "/v1/audit?cursor=YXg",
        "/v1/events?since=1",
        "/v1/openapi.json?x",
        "/healthz?x=1",
        &format!("/v1/calls/{call}/trace?x=1"),
    ] {
        let answer = world.get(path).await;
        assert_eq!(answer.status, 400, "{path}");
        assert!(answer.head.contains("content-type: application/problem+json"), "{answer:?}");
        let problem = answer.json();
        assert_eq!((problem["status"].as_u64(), problem["type"].as_str()), (Some(400), Some("about:blank")));
    }
    for path in ["/v1/nothing", "/nothing", "/v1/calls/x/trace", "/v1/calls/%ff/trace", "/v1/calls/../../etc/trace"] {
        let answer = world.get(path).await;
        assert_eq!(answer.status, 404, "{path}");
        assert!(answer.head.contains("application/problem+json"), "{answer:?}");
    }
    assert_eq!(world.get("/v1/cdrs?cursor=&since=0001-01-01T00:00:00Z").await.status, 200);
    for (method, path) in [("POST", "/v1/cdrs"), ("DELETE", "/v1/calls"), ("PUT", "/healthz")] {
        assert_eq!(world.request(method, path, &world.admin).await.status, 405, "{method} {path}");
    }
}

#[tokio::test]
async fn hostile_requests_get_an_answer_and_cost_little() {
    let world = World::new().await;
    let admin = &world.admin;
    let long = "x".repeat(20_000);
    let values = ["' OR 1=1 --", "%27%20OR%201=1", "%00", "%F0%9F%92%A9", "../../token", "%3Cscript%3E"];
    for value in values {
        let value = value.replace(' ', "%20");
        let answer = world.get(&format!("/v1/cdrs?from={value}")).await;
        assert!(answer.items().is_empty(), "{value}");
    }
    let head = |rest: &str| format!("GET /v1/cdrs HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{rest}\r\n\r\n");
    let bearer = format!("Authorization: Bearer {admin}");
    for (request, status) in [
        (head(""), 401),
        (head(&format!("Authorization: Bearer {admin}x")), 401),
        (head(&format!("Authorization: Basic {admin}")), 401),
        (head(&format!("{bearer}\r\n{bearer}")), 401),
        (head(&format!("authorization: bEARER {admin}")), 200),
        (head(&format!("{bearer}\r\nX: {long}")), 431),
        (format!("GET /v1/cdrs?from={long} HTTP/1.1\r\nHost: x\r\n{bearer}\r\n\r\n"), 431),
        ("GARBAGE\r\n\r\n".to_owned(), 400),
    ] {
        let answer = world.raw(&request).await;
        assert_eq!(answer.status, status, "{request:.80}");
    }
    let mut stream = TcpStream::connect(world.address).await.unwrap();
    stream.write_all(&[0xff; 4_000]).await.unwrap();
    let _ = stream.read_to_end(&mut Vec::new()).await;
    let answer = world.get("/healthz").await;
    assert_eq!(answer.status, 200);
    for header in ["x-content-type-options: nosniff", "cache-control: no-store", "content-security-policy: default-src"]
    {
        assert!(answer.head.contains(header), "{answer:?}");
    }
}

#[tokio::test]
async fn a_token_bound_to_tenants_sees_nothing_else() {
    let world = world_with_records(4).await;
    let beta = world.token("beta", Role::Read, Some(&["beta"])).await;
    let none = world.token("none", Role::Recordings, Some(&["acme", "beta"])).await;
    assert_eq!(world.get_as(&beta, "/v1/cdrs").await.column("tenant"), ["beta", "beta"]);
    assert_eq!(world.get_as(&beta, "/v1/cdrs?after=").await.column("tenant"), ["beta", "beta"]);
    for query in ["tenant=acme".to_owned(), format!("call={}", call_id(1)), "sip_call_id=sip-1".to_owned()] {
        assert!(world.get_as(&beta, &format!("/v1/cdrs?{query}")).await.items().is_empty(), "{query}");
    }
    assert_eq!(world.get_as(&none, "/v1/cdrs").await.items().len(), 4);
    for path in ["/v1/calls", "/v1/registrations", "/v1/events", "/v1/audit"] {
        assert_eq!(world.get_as(&none, path).await.status, 403, "{path}");
    }
    assert_eq!(world.get_as(&beta, "/v1/audit").await.status, 403);
}

#[tokio::test]
async fn the_description_names_every_path() {
    let world = World::new().await;
    let document = world.get("/v1/openapi.json").await.json();
    let paths: Vec<_> = document["paths"].as_object().unwrap().keys().map(String::as_str).collect();
    let mut expected = [
        "/healthz",
        "/metrics",
        "/readyz",
        "/v1/audit",
        "/v1/calls",
        "/v1/calls/{call}",
        "/v1/calls/{call}/recording/{wish}",
        "/v1/calls/{call}/trace",
        "/v1/cdrs",
        "/v1/events",
        "/v1/openapi.json",
        "/v1/recordings",
        "/v1/recordings/{id}",
        "/v1/recordings/{id}/hold",
        "/v1/recordings/{id}/media",
        "/v1/recordings/{id}/peaks",
        "/v1/registrations",
    ];
    expected.sort_unstable();
    assert_eq!(paths, expected);
    let fields = &document["components"]["schemas"]["Cdr"]["properties"];
    assert!(fields["talk_ms"].is_object(), "{fields}");
    assert!(fields["direction"]["enum"].is_array(), "{fields}");
}

#[tokio::test]
async fn the_description_says_what_everything_is() {
    let world = World::new().await;
    let document = world.get("/v1/openapi.json").await.json();
    let says = |value: &serde_json::Value| value["description"].as_str().is_some_and(|text| !text.is_empty());
    let mut silent = Vec::new();
    let mut ids = std::collections::BTreeSet::new();
    for (path, operations) in document["paths"].as_object().unwrap() {
        for (method, operation) in operations.as_object().unwrap() {
            assert!(ids.insert(operation["operationId"].as_str().unwrap()), "{method} {path}");
            assert!(operation["summary"].is_string(), "{method} {path}");
            for parameter in operation["parameters"].as_array().into_iter().flatten().filter(|value| !says(value)) {
                silent.push(format!("{method} {path} {}", parameter["name"]));
            }
            let codes = operation["responses"].as_object().unwrap();
            silent.extend(codes.iter().filter(|(_, answer)| !says(answer)).map(|(code, _)| format!("{path} {code}")));
            assert!(codes.contains_key("400") && codes.keys().all(|code| code.parse::<u16>().is_ok()), "{path}");
        }
    }
    for (name, schema) in document["components"]["schemas"].as_object().unwrap() {
        let properties = schema["properties"].as_object().into_iter().flatten();
        silent.extend(properties.filter(|(_, value)| !says(value)).map(|(property, _)| format!("{name}.{property}")));
    }
    assert!(silent.is_empty(), "without a description: {silent:#?}");
}

#[tokio::test]
async fn the_page_is_there_without_a_token_and_may_run_its_own_script_alone() {
    let world = World::new().await;
    let answer = world.request("GET", "/", "").await;
    assert_eq!(answer.status, 200);
    assert!(answer.head.contains("content-type: text/html; charset=utf-8"), "{answer:?}");
    assert!(answer.head.contains("content-security-policy: default-src 'none'; script-src 'sha256-"), "{answer:?}");
    assert_eq!(answer.head.matches("content-security-policy").count(), 1);
    assert_eq!(world.request("POST", "/", "").await.status, 405);
}
