//! What an operator sees: the command line, signals, exit codes, health, metrics, the mirror.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::fs;
use std::net::UdpSocket;
use std::process::Command;
use std::time::Duration;
use std::time::Instant;

use rustix::process::Signal;

use crate::calls::Call;
use crate::http;
use crate::phone::PATIENCE;
use crate::phone::Phone;
use crate::rtp::Stream;
use crate::server::Server;
use crate::server::eventually;

#[test]
fn status_lists_every_process() {
    let server = Server::start(|_| {});
    let (code, text) = server.command(&["status", "--json"]);
    assert_eq!(code, 0, "{text}");
    let status: serde_json::Value = serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"));
    for role in ["engine", "side"] {
        let pid = server.pid_of(role).unwrap_or_else(|| panic!("no {role}"));
        assert!(status.to_string().contains(&format!("\"pid\":{pid}")), "{role} {pid}: {text}");
        assert!(text.contains(&format!("\"{role}\"")), "{text}");
    }
}

#[test]
fn calls_are_listed_and_hung_up_without_the_side_process() {
    let mut server = Server::start(|_| {});
    let (mut left, mut right) = (server.registered("1001"), server.registered("1002"));
    Call::set_up(&mut left, &mut right, "1002", 1);
    let id = server.live_call();
    let of_api = server.json("/v1/calls")["items"][0].clone();
    let side = server.pid_of("side").unwrap();
    server.signal(side, Signal::STOP);
    let (code, text) = server.command(&["calls", "--json"]);
    let page: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert!(code == 0 && page["items"][0]["call"] == id.as_str() && page["next"].is_null(), "{text}");
    let names = |call: &serde_json::Value| call.as_object().unwrap().keys().cloned().collect::<Vec<_>>();
    assert_eq!(names(&page["items"][0]), names(&of_api), "as the API has it");
    assert_eq!(page["items"][0]["node"], "e2e");
    let (code, text) = server.command(&["calls"]);
    let lines: Vec<Vec<&str>> = text.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!((code, &lines[0][..]), (0, &["CALL", "TENANT", "FROM", "TO", "STATE", "SINCE"][..]));
    assert_eq!(lines[1][..5], [id.as_str(), "acme", "1001", "1002", "up"]);
    let (code, text) = server.command(&["status"]);
    assert_eq!(code, 0);
    for part in ["\ncalls: 1\n", "\nregistrations: 2\n", &format!("tipring {}, up ", env!("CARGO_PKG_VERSION"))] {
        assert!(text.contains(part), "{part:?}: {text}");
    }
    let (_, text) = server.command(&["status", "--json"]);
    let status: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!((&status["calls"], &status["registrations"]), (&1.into(), &2.into()));
    assert!(status["uptime_seconds"].as_u64().is_some_and(|seconds| seconds < 60), "{text}");
    let (code, text) = server.command(&["trace", &id]);
    assert!(code == 0 && text.lines().count() > 2, "{text}");
    let (code, text) = server.command(&["hangup", &id]);
    assert_eq!((code, text), (0, format!("call {id} is being ended: its parties are told\n")));
    for phone in [&mut left, &mut right] {
        let bye = phone.incoming("BYE");
        phone.reply(&bye, 200, "", "");
    }
    let (code, text) = server.command(&["hangup", &id]);
    assert_eq!((code, text.trim()), (1, "tipring: no such call"));
    server.signal(side, Signal::CONT);
}

#[test]
fn a_draining_node_takes_no_new_calls() {
    let mut server = Server::start(|_| {});
    let (mut left, mut right) = (server.registered("1001"), server.registered("1002"));
    let mut call = Call::set_up(&mut left, &mut right, "1002", 1);
    let said = |text: &str| (0, text.to_owned());
    assert_eq!(server.command(&["drain"]), said("draining: new calls are answered 503, 1 call is up\n"));
    assert_eq!(server.command(&["drain"]), said("was draining already: new calls are answered 503, 1 call is up\n"));
    let uri = format!("sip:{}", server.ip());
    let options = left.request("OPTIONS", &uri, &format!("<{uri}>"), "", "");
    left.send(&options);
    assert_eq!(left.final_of(&options).status(), 503);
    let mut second = left.invite("1002", "", &Stream::open(left.local.ip(), 2).sdp("sendrecv"));
    left.await_status(&mut second, 503);
    assert_eq!(server.get("/readyz").unwrap().status, 503);
    assert_eq!(server.get("/healthz").unwrap().status, 200);
    call.check_media();
    assert_eq!(server.command(&["undrain"]), said("takes new calls again\n"));
    assert_eq!(server.command(&["undrain"]), said("was not draining: takes new calls\n"));
    call.end_by_caller(&mut left, &mut right);
    let mut call = Call::set_up(&mut left, &mut right, "1002", 3);
    call.end_by_caller(&mut left, &mut right);
}

#[test]
fn an_ended_call_is_traced_as_long_as_over_http() {
    let mut server = Server::start(|_| {});
    let (mut left, mut right) = (server.registered("1001"), server.registered("1002"));
    let mut call = Call::set_up(&mut left, &mut right, "1002", 1);
    call.end_by_caller(&mut left, &mut right);
    let id = server.cdr(&call.caller.call_id)["call"].as_str().unwrap().to_owned();
    let path = format!("/v1/calls/{id}/trace");
    let kept = eventually(Duration::from_secs(60), || {
        // The engine keeps it for repeats at first.
        let (_, text) = server.command_at("data/run", &["trace", &id, "--json"]);
        let steps: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(steps, server.json(&path)["steps"], "the same as over HTTP");
        std::thread::sleep(Duration::from_millis(500));
        let text = fs::read(server.path("data/tipring.db-wal")).unwrap();
        // No event says this, a kept step does.
        let said = b"200 to BYE received";
        text.windows(said.len()).any(|window| window == said).then_some(steps)
    });
    let kept = kept.expect("a trace");
    // Without an engine, without a side, without a node.
    server.stop(Signal::INT);
    let (code, text) = server.command(&["trace", &id, "--json"]);
    assert_eq!((code, serde_json::from_str(&text).ok()), (0, Some(kept)), "{text}");
    let (code, text) = server.command(&["trace", &id]);
    assert!(code == 0 && text.lines().count() > 2, "{text}");
    let (code, text) = server.command(&["trace", "nobody"]);
    assert!(code == 1 && text.contains("is tipring serving?"), "{text}");
}

#[test]
fn a_call_that_died_with_the_node_has_the_time_that_it_was_talked() {
    let mut server = Server::start(|_| {});
    let (mut left, mut right) = (server.registered("1001"), server.registered("1002"));
    let call = Call::set_up(&mut left, &mut right, "1002", 1);
    std::thread::sleep(Duration::from_secs(4));
    server.stop(Signal::KILL);
    std::thread::sleep(Duration::from_secs(2));
    server.run();
    let record = server.cdr(&call.caller.call_id);
    let talked = record["talk_ms"].as_u64().unwrap();
    assert!((3_000..=4_300).contains(&talked), "{record:#}");
    assert_eq!(record["cause"]["text"], "the engine died");
}

#[test]
fn an_interrupt_says_bye_to_everybody() {
    let mut server = Server::start(|_| {});
    let (mut left, mut right) = (server.registered("1001"), server.registered("1002"));
    Call::set_up(&mut left, &mut right, "1002", 1);
    let keeper = server.keeper();
    server.signal(keeper, Signal::INT);
    for phone in [&mut left, &mut right] {
        let bye = phone.incoming("BYE");
        phone.reply(&bye, 200, "", "");
    }
    let start = Instant::now();
    assert_eq!(server.wait(), Some(0));
    assert!(start.elapsed() < Duration::from_secs(6));
}

#[test]
fn a_terminated_node_waits_for_its_last_call() {
    let mut server = Server::start(|_| {});
    let (mut left, mut right) = (server.registered("1001"), server.registered("1002"));
    let mut call = Call::set_up(&mut left, &mut right, "1002", 1);
    let keeper = server.keeper();
    server.signal(keeper, Signal::TERM);
    std::thread::sleep(Duration::from_millis(500));
    call.check_media();
    call.end_by_caller(&mut left, &mut right);
    assert_eq!(server.wait(), Some(0));
    server.run();
    server.cdr(&call.caller.call_id);
}

/// Starts `serve` on a configuration that cannot work: (exit code, what it says).
fn failed_start(configuration: &str) -> (Option<i32>, String) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tipring.toml");
    fs::write(&path, configuration).unwrap();
    let start = Instant::now();
    let output = Command::new("timeout")
        .args(["20", env!("CARGO_BIN_EXE_tipring"), "serve", "--config"])
        .arg(&path)
        .output()
        .unwrap();
    assert!(start.elapsed() < Duration::from_secs(8), "a failed start takes its time");
    (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
}

#[test]
fn a_failed_start_says_why() {
    let held = UdpSocket::bind("127.0.0.250:0").unwrap();
    let address = held.local_addr().unwrap();
    let rest = "[media]\nports = \"20000-20019\"\naddress = \"127.0.0.250\"\n[side]\nhttp = \"127.0.0.250:0\"\n";
    let (code, text) = failed_start(&format!("[sip]\nudp = [\"{address}\"]\ntcp = []\n{rest}"));
    assert!(code == Some(75) && text.contains(&address.to_string()), "{code:?}: {text}");
    let (code, text) = failed_start("[sip]\nudpp = []\n");
    assert!(code == Some(78) && text.contains("udpp"), "{code:?}: {text}");
    let (code, text) = failed_start("[sip\n");
    assert!(code == Some(78) && text.contains("tipring.toml"), "{code:?}: {text}");
    let output = Command::new(env!("CARGO_BIN_EXE_tipring")).arg("frobnicate").output().unwrap();
    assert_eq!(output.status.code(), Some(2));
}

#[test]
fn check_names_every_fault() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("t.toml");
    let check = |text: &str| {
        fs::write(&path, text).unwrap();
        let output =
            Command::new(env!("CARGO_BIN_EXE_tipring")).args(["check", "--config"]).arg(&path).output().unwrap();
        let said = [output.stdout, output.stderr].concat();
        (output.status.code(), String::from_utf8_lossy(&said).into_owned())
    };
    let (code, text) = check("[engine]\nshards = 2\n");
    assert_eq!(code, Some(0), "{text}");
    let (code, text) = check("[engine]\nshards = \"two\"\n[sip]\ndigest = [\"ROT13\"]\n[nodee]\n");
    assert_eq!(code, Some(78));
    for (line, key) in [(2, "shards"), (4, "digest"), (5, "nodee")] {
        let named = text.lines().any(|said| said.contains(&format!(":{line}")) && said.contains(key));
        assert!(named, "line {line}, {key}: {text}");
    }
    // All at once: the file's own, what this machine lacks, and those of the directory file.
    fs::write(folder.path().join("d.toml"), "[[tenant]]\nname = \"A\"\ndomain = \"a.test\"\n[[phone]]\nuser = \"1\"\n")
        .unwrap();
    let (code, text) = check(
        "[node]\nnmae = \"x\"\n[engine]\ncpus = \"900\"\nshards = 2\n[media]\nports = \"20001-20004\"\n\
         [directory]\nimport = \"d.toml\"\n[log]\nlevel = \"loud\"\n",
    );
    let at = |name: &str| folder.path().join(name).display().to_string();
    let starts = [
        format!("{}:2: node.nmae: unknown key", at("t.toml")),
        format!("{}:4: engine.cpus: CPU 900 is not one", at("t.toml")),
        format!("{}:7: media.ports: \"20001-20004\" is too small for one call", at("t.toml")),
        format!("{}:11: log.level: \"loud\" is none of", at("t.toml")),
        format!("{}:2: tenant.name: must match", at("d.toml")),
        format!("{}:4: phone.tenant: is missing or empty", at("d.toml")),
        format!("{}:4: phone.password: is missing", at("d.toml")),
    ];
    let lines: Vec<_> = text.lines().collect();
    assert_eq!((code, lines.len()), (Some(78), starts.len()), "{text}");
    for (line, start) in lines.iter().zip(&starts) {
        assert!(line.starts_with(start.as_str()), "{line}\n{start}");
    }
    let (code, text) = check("[engine]\nshards = 1\n[media]\nports = \"20000-20001\"\n");
    assert!(code == Some(78) && text.contains(":4: media.ports: \"20000-20001\" is too small for one call"), "{text}");
    let (code, _) = check("[engine]\nshards = 1\n[media]\nports = \"20000-20003\"\n");
    assert_eq!(code, Some(0));
}

#[test]
fn strangers_get_nothing_from_the_api() {
    let server = Server::start(|_| {});
    for path in ["/v1/calls", "/v1/cdrs", "/v1/registrations"] {
        for token in [None, Some("wrong")] {
            let response = http::request(server.http(), "GET", path, token).unwrap();
            assert_eq!(response.status, 401, "{path}: {}", response.body);
        }
    }
    let unknown = server.get("/v1/cdrs?frobnicate=1").unwrap();
    assert_eq!(unknown.status, 400);
    assert!(unknown.head.to_ascii_lowercase().contains("application/problem+json"), "{}", unknown.head);
}

#[test]
fn metrics_are_well_formed_and_move() {
    // Shards pass messages on: each counts once all the same.
    let mut server = Server::start(|setup| {
        setup.shards = 4;
        setup.media_ports = "20000-20399";
    });
    let (mut left, mut right) = (server.registered("1001"), server.registered("1002"));
    let mut call = Call::set_up(&mut left, &mut right, "1002", 1);
    call.check_media();
    for (gauge, label, expected) in [
        ("tipring_dialogs", "", 2.0),
        ("tipring_media_sessions", "mode=\"relay\"", 1.0),
        ("tipring_rtp_ports", "in_use", 2.0),
    ] {
        let seen = eventually(PATIENCE, || (server.metric(gauge, label)? == expected).then_some(()));
        assert!(seen.is_some(), "{gauge}: {:?}", server.metric(gauge, label));
    }
    call.end_by_caller(&mut left, &mut right);
    server.cdr(&call.caller.call_id);
    let response = server.get("/metrics").unwrap();
    let mut typed = BTreeSet::new();
    let mut seen = BTreeSet::new();
    for line in response.body.lines().filter(|line| !line.is_empty()) {
        if let Some(rest) = line.strip_prefix("# TYPE ") {
            assert!(typed.insert(rest.split(' ').next().unwrap().to_owned()), "twice: {line}");
            continue;
        }
        if line.starts_with('#') {
            continue;
        }
        let (series, value) = line.rsplit_once(' ').unwrap_or_else(|| panic!("{line}"));
        assert!(value.parse::<f64>().is_ok(), "{line}");
        assert!(seen.insert(series.to_owned()), "twice: {line}");
        let name = series.split('{').next().unwrap();
        assert!(name.starts_with("tipring_") || name.starts_with("process_"), "{line}");
        let family = ["_bucket", "_sum", "_count"].iter().find_map(|end| name.strip_suffix(end)).unwrap_or(name);
        assert!(typed.contains(family) || typed.contains(name), "no TYPE for {line}");
        for private in [call.caller.call_id.as_str(), "1001", "acme"] {
            assert!(!series.contains(private), "{line}");
        }
    }
    for (counter, least) in
        [("tipring_sip_requests_total", 5.0), ("tipring_rtp_packets_total", 80.0), ("tipring_registrations", 2.0)]
    {
        let moved = eventually(Duration::from_secs(5), || server.metric(counter, "").filter(|value| *value >= least));
        assert!(moved.is_some(), "{counter}\n{}", response.body);
    }
    check_labels(&server);
    for (figure, label) in [
        ("tipring_sip_delay_seconds_count", "method=\"INVITE\""),
        ("tipring_sip_delay_seconds_count", "method=\"REGISTER\""),
        ("tipring_sip_delay_seconds_count", "method=\"response\""),
        ("tipring_sip_delay_seconds_sum", "method=\"BYE\""),
        ("process_cpu_seconds_total", "process=\"engine\""),
        ("process_open_fds", "process=\"keeper\""),
        ("process_resident_memory_bytes", "process=\"side\""),
        ("tipring_build_info", "rustc=\"1."),
    ] {
        assert!(server.metric(figure, label).is_some_and(|value| value > 0.0), "{figure} {label}\n{}", response.body);
    }
}

/// What two registrations and one call of two phones over UDP leave behind, whichever shards took part.
fn check_labels(server: &Server) {
    for (figure, labels, least, most) in [
        ("tipring_sip_requests_total", "{method=\"REGISTER\",transport=\"udp\",direction=\"in\"", 4.0, 4.0),
        ("tipring_sip_requests_total", "{method=\"INVITE\",transport=\"udp\",direction=\"in\"", 2.0, 2.0),
        ("tipring_sip_requests_total", "{method=\"INVITE\",transport=\"udp\",direction=\"out\"", 1.0, 1.0),
        ("tipring_sip_requests_total", "{method=\"ACK\",transport=\"udp\",direction=\"out\"", 1.0, 1.0),
        ("tipring_sip_requests_total", "{method=\"BYE\",transport=\"udp\",direction=\"in\"", 1.0, 1.0),
        ("tipring_sip_requests_total", "{method=\"BYE\",transport=\"udp\",direction=\"out\"", 1.0, 1.0),
        ("tipring_sip_requests_total", "transport=\"tcp\"", 0.0, 0.0),
        (
            "tipring_sip_responses_total",
            "{method=\"REGISTER\",code=\"401\",code_class=\"4xx\",direction=\"out\"",
            2.0,
            2.0,
        ),
        (
            "tipring_sip_responses_total",
            "{method=\"REGISTER\",code=\"200\",code_class=\"2xx\",direction=\"out\"",
            2.0,
            2.0,
        ),
        (
            "tipring_sip_responses_total",
            "{method=\"INVITE\",code=\"200\",code_class=\"2xx\",direction=\"in\"",
            1.0,
            1.0,
        ),
        ("tipring_sip_responses_total", "{method=\"BYE\",code=\"200\",code_class=\"2xx\",direction=\"out\"", 1.0, 1.0),
        ("tipring_sip_parse_errors_total", "reason=\"start_line\"", 0.0, 0.0),
        ("tipring_sip_lumped_total", "", 0.0, 0.0),
        ("tipring_register_duration_seconds_count", "", 2.0, 2.0),
        ("tipring_call_attempts_total", "direction=\"internal\"", 1.0, 1.0),
        ("tipring_rtp_packets_total", "direction=\"in\",kind=\"rtp\"", 40.0, f64::MAX),
        ("tipring_rtp_packets_total", "direction=\"out\",kind=\"rtp\"", 40.0, f64::MAX),
        ("tipring_shard_busy_seconds_total", "", 1e-6, 60.0),
        ("tipring_shard_loop_stall_seconds_count", "", 1.0, f64::MAX),
        ("tipring_buffers", "kind=\"sip\",state=\"circulating\"", 1.0, f64::MAX),
        ("tipring_cross_shard_queue", "", 0.0, 0.0),
        ("tipring_dialogs", "", 0.0, 0.0),
        ("tipring_media_sessions", "mode=\"relay\"", 0.0, 0.0),
        ("tipring_rtp_ports", "state=\"in_use\"", 0.0, 0.0),
        ("tipring_rtp_ports", "state=\"resting\"", 0.0, 0.0),
        ("tipring_rtp_ports", "state=\"free\"", 4.0, f64::MAX),
        ("tipring_rtp_ports_left_out", "reason=\"held\"", 0.0, f64::MAX),
    ] {
        let found = eventually(PATIENCE, || {
            let value = server.metric(figure, labels).unwrap_or(0.0);
            (least..=most).contains(&value).then_some(())
        });
        assert!(
            found.is_some(),
            "{figure} {labels}: {:?}\n{}",
            server.metric(figure, labels),
            server.get("/metrics").unwrap().body
        );
    }
}

/// What the capture server got of two registrations and a call: how often each message, and whether as one of the call.
fn mirrored(shards: u8, registered: fn(&mut Server, &str) -> Phone) -> BTreeMap<String, (u32, bool)> {
    let collector = UdpSocket::bind("127.0.0.1:0").unwrap();
    collector.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
    let address = collector.local_addr().unwrap();
    let mut server = Server::start(|setup| {
        setup.shards = shards;
        setup.more = format!("[hep]\naddress = \"{address}\"\n");
    });
    let (mut left, mut right) = (registered(&mut server, "1001"), registered(&mut server, "1002"));
    let mut call = Call::set_up(&mut left, &mut right, "1002", 1);
    call.end_by_caller(&mut left, &mut right);
    let id = server.cdr(&call.caller.call_id)["call"].as_str().unwrap().to_owned();
    let mut packet = [0; 65_536];
    let mut copies = BTreeMap::new();
    while let Ok((len, _)) = collector.recv_from(&mut packet) {
        let chunks = hep_chunks(&packet[..len]);
        let find = |kind| chunks.iter().find(|chunk| chunk.0 == kind).map(|chunk| chunk.1);
        let payload = String::from_utf8_lossy(find(15).expect("a payload")).into_owned();
        let is_ours = find(17).is_some_and(|correlation| correlation == id.as_bytes());
        let (copies, of_call) = copies.entry(payload).or_insert((0, false));
        (*copies, *of_call) = (*copies + 1, *of_call | is_ours);
    }
    copies
}

/// How often each message of the call that begins so was copied.
fn copies_of(start: &str, copies: &BTreeMap<String, (u32, bool)>) -> Vec<u32> {
    let of_call = copies.iter().filter(|(payload, (_, of_call))| *of_call && payload.starts_with(start));
    of_call.map(|(_, (count, _))| *count).collect()
}

#[test]
fn the_mirror_carries_every_message_of_a_call() {
    let copies = mirrored(1, Server::registered);
    for start in ["INVITE", "ACK", "BYE", "SIP/2.0 180", "SIP/2.0 200"] {
        assert!(copies_of(start, &copies).len() >= 2, "{start} of both legs: {copies:#?}");
    }
}

/// Connections, so that nothing is sent twice but a 2xx whose ACK is late; four shards, so that most messages are read and sent by
/// shards that do not know the call.
#[test]
fn the_mirror_carries_every_message_once_whichever_shards_it_passes() {
    let copies = mirrored(4, Server::registered_tcp);
    for start in ["INVITE", "SIP/2.0 180", "ACK", "BYE"] {
        assert_eq!(copies_of(start, &copies), [1, 1], "{start}: {copies:#?}");
    }
}

#[test]
fn the_mirror_carries_rtcp_reports_with_their_call() {
    let collector = UdpSocket::bind("127.0.0.1:0").unwrap();
    collector.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    let address = collector.local_addr().unwrap();
    let mut server = Server::start(|setup| setup.more = format!("[hep]\naddress = \"{address}\"\n"));
    let (mut left, mut right) = (server.registered("1001"), server.registered("1002"));
    let mut call = Call::set_up(&mut left, &mut right, "1002", 1);
    call.check_media();
    // A receiver report with one block: fraction 64 of 256, 300 lost, highest 70,000, jitter 33, LSR 5, DLSR 6.
    let words = [0x1000_0001, 0x1000_03e9, 0x4000_012c, 70_000, 33, 5, 6];
    let mut report = vec![0x81, 201, 0, 7];
    report.extend(words.iter().flat_map(|word: &u32| word.to_be_bytes()));
    let mut to = call.relay().0;
    to.set_port(to.port() + 1);
    call.caller_stream.rtcp.send_to(&report, to).unwrap();
    let from = call.caller_stream.rtcp.local_addr().unwrap();
    let mut packet = [0; 65_536];
    let (frame, payload) = loop {
        let (len, _) = collector.recv_from(&mut packet).expect("a report reaches the collector");
        let chunks = hep_chunks(&packet[..len]);
        let find = |kind| chunks.iter().find(|chunk| chunk.0 == kind).map(|chunk| chunk.1);
        if find(11) == Some(&[5]) {
            break (packet[..len].to_vec(), find(15).expect("a payload").to_vec());
        }
    };
    call.end_by_caller(&mut left, &mut right);
    let id = server.cdr(&call.caller.call_id)["call"].as_str().unwrap().to_owned();
    let json = concat!(
        r#"{"ssrc":268435457,"type":201,"report_count":1,"report_blocks":[{"source_ssrc":268436457,"highest_seq_no":70000,"#,
        r#""fraction_lost":64,"ia_jitter":33,"packets_lost":300,"lsr":5,"dlsr":6}]}"#,
    );
    assert_eq!(String::from_utf8(payload).unwrap(), json);
    // The frame is what the encoder of this test makes of it, byte for byte but for the time.
    let chunks = hep_chunks(&frame);
    let time: Vec<u8> =
        chunks.iter().filter(|chunk| matches!(chunk.0, 9 | 10)).flat_map(|chunk| chunk.1.to_vec()).collect();
    let mut expected = b"HEP3\0\0".to_vec();
    let mut chunk = |kind: u16, value: &[u8]| {
        expected.extend_from_slice(&[0, 0]);
        expected.extend_from_slice(&kind.to_be_bytes());
        expected.extend_from_slice(&(value.len() as u16 + 6).to_be_bytes());
        expected.extend_from_slice(value);
    };
    let ip = |address: std::net::SocketAddr| match address.ip() {
        std::net::IpAddr::V4(ip) => ip.octets(),
        std::net::IpAddr::V6(ip) => panic!("{ip}"),
    };
    let agent = chunks.iter().find(|chunk| chunk.0 == 12).map(|chunk| chunk.1.to_vec()).expect("an agent");
    chunk(1, &[2]);
    chunk(2, &[17]);
    chunk(3, &ip(from));
    chunk(4, &ip(to));
    chunk(7, &from.port().to_be_bytes());
    chunk(8, &to.port().to_be_bytes());
    chunk(9, &time[..4]);
    chunk(10, &time[4..]);
    chunk(11, &[5]);
    chunk(12, &agent);
    chunk(17, id.as_bytes());
    chunk(15, json.as_bytes());
    let len = (expected.len() as u16).to_be_bytes();
    expected[4..6].copy_from_slice(&len);
    assert_eq!(frame, expected);
}

/// The chunks of the generic vendor: (type, content).
pub fn hep_chunks(packet: &[u8]) -> Vec<(u16, &[u8])> {
    assert_eq!(&packet[..4], b"HEP3");
    assert_eq!(usize::from(u16::from_be_bytes([packet[4], packet[5]])), packet.len());
    let mut rest = &packet[6..];
    let mut chunks = Vec::new();
    while let [v0, v1, k0, k1, l0, l1, ..] = *rest {
        let len = usize::from(u16::from_be_bytes([l0, l1]));
        if (v0, v1) == (0, 0) {
            chunks.push((u16::from_be_bytes([k0, k1]), &rest[6..len]));
        }
        rest = &rest[len..];
    }
    assert!(rest.is_empty());
    chunks
}

#[test]
fn a_changed_directory_is_taken_on_hup() {
    let mut server = Server::start(|_| {});
    let path = server.path("directory.toml");
    let text = fs::read_to_string(&path).unwrap();
    let more = "[[phone]]\ntenant = \"acme\"\nuser = \"1099\"\npassword = \"secret-1099\"\n";
    fs::write(&path, text + more).unwrap();
    let mut phone = server.phone("1099");
    assert_ne!(phone.register(600).status(), 200);
    let keeper = server.keeper();
    server.signal(keeper, Signal::HUP);
    let changed = || (server.log().matches("directory.changed").count() >= 2).then_some(());
    assert!(eventually(Duration::from_secs(10), changed).is_some(), "{}", server.log());
    // Not asked too often: who fails ten times is not heard for a while.
    let is_known = |_| {
        std::thread::sleep(Duration::from_millis(100));
        phone.register(600).status() == 200
    };
    assert!((0..6).any(is_known), "{}", server.log());
}

#[test]
fn a_changed_password_puts_out_who_registered_with_the_old_one() {
    let mut server = Server::start(|_| {});
    let _other = server.registered("1001");
    let mut phone = server.registered("1002");
    server.registrations(2);
    let path = server.path("directory.toml");
    let text = fs::read_to_string(&path).unwrap();
    fs::write(&path, text.replace("secret-1002", "changed")).unwrap();
    let keeper = server.keeper();
    server.signal(keeper, Signal::HUP);
    let left = eventually(Duration::from_secs(5), || {
        let items = server.json("/v1/registrations")["items"].as_array()?.clone();
        (items.len() == 1).then_some(items)
    });
    assert_eq!(left.unwrap_or_else(|| panic!("{}", server.log()))[0]["user"], "1001");
    assert_eq!(phone.register(600).status(), 401);
    phone.password = "changed".into();
    assert_eq!(phone.register(600).status(), 200);
}
