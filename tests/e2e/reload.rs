//! HUP, key by key: what `docs/config.md` says takes effect does, and what needs a restart is named.

use std::collections::BTreeSet;
use std::fs;
use std::io::Read;
use std::io::Write;
use std::net::TcpStream;
use std::net::UdpSocket;
use std::time::Duration;

use rustix::process::Signal;
use serde_json::Value;

use crate::calls::Call;
use crate::message::Message;
use crate::phone::PATIENCE;
use crate::phone::Phone;
use crate::rtp::Stream;
use crate::server::Server;
use crate::server::eventually;

/// The keys of `docs/config.md`, those that HUP changes or those that need a restart.
fn documented(hup: &str) -> BTreeSet<String> {
    let page = include_str!("../../docs/config.md");
    let mut table = "";
    let mut keys = BTreeSet::new();
    for line in page.lines() {
        if let Some(name) = line.strip_prefix("## [").and_then(|rest| rest.strip_suffix(']')) {
            table = name;
        }
        let cells: Vec<&str> = line.split('|').map(str::trim).collect();
        if let [_, key, _, change, ..] = cells[..]
            && let Some(key) = key.strip_prefix('`').and_then(|key| key.strip_suffix('`'))
            && change == hup
        {
            keys.insert(format!("{table}.{key}"));
        }
    }
    keys
}

/// Another value of each key that needs a restart. Those of which a build without features has but one value stand apart.
const RESTART: [(&str, &str); 31] = [
    ("node.name", "\"other\""),
    ("node.data", "\"other-data\""),
    ("node.run", "\"other-run\""),
    ("engine.cpus", "\"0\""),
    ("engine.shards", "2"),
    ("sip.udp", "[\"127.0.0.1:5999\"]"),
    ("sip.tcp", "[\"127.0.0.1:5999\"]"),
    ("media.address", "\"127.0.0.9\""),
    ("media.advertise", "\"192.0.2.9\""),
    ("media.ports", "\"30000-30099\""),
    ("side.http", "\"127.0.0.1:8999\""),
    ("side.insecure", "true"),
    ("tape.stall", "\"3s\""),
    ("tape.media_mib", "1000"),
    ("tape.segment_mib", "32"),
    ("tape.segment_age", "\"5m\""),
    ("tape.encrypt", "false"),
    ("recordings.endpoint", "\"https://s3.example.com\""),
    ("recordings.region", "\"eu-west-1\""),
    ("recordings.access_key", "\"a\""),
    ("recordings.secret_key", "\"b\""),
    ("media.from_anywhere", "true"),
    ("media.low_ports", "true"),
    ("media.unheard", "\"9s\""),
    ("media.trunks", "[\"10.0.0.0/8\"]"),
    ("node.user", "\"nobody\""),
    ("node.textfile", "\"other.prom\""),
    // Which profiles there are depends on the machine: `tune.rs` has it.
    ("engine.profile", ONE_VALUE),
    ("node.roles", ONE_VALUE),
    ("side.database", ONE_VALUE),
    ("recordings.store", ONE_VALUE),
];
const ONE_VALUE: &str = "";

/// Writes the configuration with these keys set, reloads, and returns what `reload` said.
fn reload(server: &Server, base: &str, keys: &[(&str, &str)]) -> String {
    let mut tables: toml::Table = base.parse().unwrap();
    for (path, value) in keys {
        let (table, key) = path.split_once('.').unwrap();
        let value: toml::Table = format!("value = {value}").parse().unwrap();
        let table = tables.entry(table).or_insert_with(|| toml::Value::Table(toml::Table::new()));
        table.as_table_mut().unwrap().insert(key.to_owned(), value["value"].clone());
    }
    fs::write(server.path("new.toml"), tables.to_string()).unwrap();
    // The command line asks by the folder of the old file.
    fs::rename(server.path("new.toml"), server.path("tipring.toml")).unwrap();
    let (code, text) = server.command_at("data/run", &["reload"]);
    assert_eq!(code, 0, "{text}");
    text
}

#[test]
fn every_key_that_needs_a_restart_is_named() {
    let server = Server::start(|_| {});
    let base = fs::read_to_string(server.path("tipring.toml")).unwrap();
    let table: BTreeSet<_> = RESTART.iter().map(|(key, _)| (*key).to_owned()).collect();
    assert_eq!(table, documented("restart"), "every key of the page is in the table of this test");
    let changed: Vec<_> = RESTART.into_iter().filter(|(_, value)| *value != ONE_VALUE).collect();
    let text = reload(&server, &base, &changed);
    let named: BTreeSet<_> = text.trim().rsplit(": ").next().unwrap().split(", ").map(str::to_owned).collect();
    assert_eq!(named, changed.iter().map(|(key, _)| (*key).to_owned()).collect(), "{text}");
    let log = server.log();
    let line = log.lines().find(|line| line.contains("restart_needed")).expect("a line of the log");
    assert!(changed.iter().all(|(key, _)| line.contains(key)), "{line}");
    assert_eq!(reload(&server, &base, &[]).trim(), "reloaded", "the old values need no restart");
    assert_eq!(server.metric("tipring_config_reload_success", ""), Some(1.0));
}

/// Who the capture server was told by, in all that waits there.
fn agents(collector: &UdpSocket) -> BTreeSet<Vec<u8>> {
    let mut ids = BTreeSet::new();
    let mut packet = [0; 65_536];
    while let Ok((len, _)) = collector.recv_from(&mut packet) {
        let agent = crate::operation::hep_chunks(&packet[..len]).into_iter().find(|chunk| chunk.0 == 12);
        ids.insert(agent.expect("an agent").1.to_vec());
    }
    ids
}

/// retain: what is too old now goes at once.
fn retained(server: &Server, trace: &str, first_entry: &str) {
    let is_gone = || (!server.get("/v1/cdrs").ok()?.body.contains("started_at")).then_some(());
    assert!(eventually(PATIENCE, is_gone).is_some(), "retain.cdrs: {}", server.json("/v1/cdrs"));
    // The reload itself is an entry, maybe after the sweep.
    let is_gone = || (!server.json("/v1/audit").to_string().contains(first_entry)).then_some(());
    assert!(eventually(PATIENCE, is_gone).is_some(), "retain.audit: {}", server.json("/v1/audit"));
    let is_gone = || (server.get(trace).ok()?.status == 404).then_some(());
    assert!(eventually(PATIENCE, is_gone).is_some(), "retain.trace");
    let is_forgotten = || (!all_events(server).contains("call.started")).then_some(());
    assert!(eventually(PATIENCE, is_forgotten).is_some(), "retain.events");
}

/// Tries what HUP changed; each arm names the key that it shows.
#[test]
fn every_other_key_takes_effect() {
    let collector = UdpSocket::bind("127.0.0.1:0").unwrap();
    collector.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
    let mut server = Server::start(|setup| setup.more = "format = \"text\"\n".to_owned());
    let base = fs::read_to_string(server.path("tipring.toml")).unwrap();
    let (mut left, mut right) = (server.registered("1001"), server.registered("1002"));
    let mut call = Call::set_up(&mut left, &mut right, "1002", 1);
    call.end_by_caller(&mut left, &mut right);
    let old = server.cdr(&call.caller.call_id)["call"].as_str().unwrap().to_owned();
    let trace = format!("/v1/calls/{old}/trace");
    assert!(eventually(PATIENCE, || (server.get(&trace).ok()?.status == 200).then_some(())).is_some());
    assert!(all_events(&server).contains("call.started"));
    let first_entry = server.json("/v1/audit")["items"][0]["at"].as_str().unwrap().to_owned();
    let mut blocked = blocked(&mut server);
    fs::write(server.path("other.toml"), OTHER_DIRECTORY).unwrap();

    let address = format!("\"{}\"", collector.local_addr().unwrap());
    // Nobody else: trust has no limits.
    let trusted = format!("[\"{}/32\"]", blocked.local.ip());
    let changed = [
        ("node.drain", "\"300ms\""),
        ("sip.advertise", "\"sip.example.net:5077\""),
        ("sip.trusted", trusted.as_str()),
        ("sip.path", "\"supported\""),
        ("sip.digest", "[\"MD5\"]"),
        ("log.level", "\"warn\""),
        ("log.format", "\"json\""),
        ("log.file", "\"data/other.log\""),
        ("retain.cdrs", "\"1ms\""),
        ("retain.events", "\"1ms\""),
        ("retain.audit", "\"1ms\""),
        ("retain.trace", "\"1ms\""),
        ("limits.phone_calls", "1"),
        ("limits.phone_calls_per_second", "2"),
        ("limits.tenant_calls", "2"),
        ("limits.tenant_calls_per_second", "3"),
        ("record.early", "true"),
        ("record.start_code", "\"*7\""),
        ("record.pause_code", "\"*8\""),
        ("directory.import", "\"other.toml\""),
        ("hep.address", address.as_str()),
        ("hep.id", "77"),
    ];
    let table: BTreeSet<_> = changed.iter().map(|(key, _)| (*key).to_owned()).collect();
    assert_eq!(table, documented("yes"), "every key of the page is in the table of this test");
    assert_eq!(reload(&server, &base, &changed).trim(), "reloaded");

    // sip.trusted: who was not heard is.
    let is_heard = || (blocked.register(600).status() == 200).then_some(());
    assert!(eventually(PATIENCE, is_heard).is_some(), "sip.trusted");
    path(&mut blocked);
    retained(&server, &trace, &first_entry);
    // sip.digest
    let mut fresh = server.phone("1004");
    let uri = format!("sip:{}", fresh.domain);
    let to = format!("<{}>", fresh.address_of_record());
    let register = fresh.request("REGISTER", &uri, &to, "", "");
    fresh.send(&register);
    let challenge = fresh.final_of(&register);
    let offered: Vec<_> = challenge.all("WWW-Authenticate").collect();
    assert!(offered.len() == 1 && offered[0].contains("MD5"), "sip.digest: {offered:?}");
    // directory.import
    assert_eq!(server.phone("1098").register(600).status(), 200, "directory.import");
    // sip.advertise, record.early
    let mut call = early_call(&mut server, &mut left, &mut right);
    for header in ["Via", "Contact"] {
        assert!(call.offer.must(header).contains("sip.example.net:5077"), "sip.advertise: {:#?}", call.offer);
    }
    call.end_by_caller(&mut left, &mut right);
    assert_eq!(agents(&collector), BTreeSet::from([vec![0, 0, 0, 77]]), "hep.address, hep.id");
    codes(&mut server);
    limits(&mut server, &mut left);
    log_lines(&server);
    drain(&mut server, left, right);
}

/// `sip.path`: what a proxy adds is taken no more from a phone that does not know it.
fn path(phone: &mut Phone) {
    let lines = format!("Contact: {}\r\nPath: <sip:{};lr>\r\n", phone.contact(), phone.local);
    assert_eq!(phone.register_with(&lines).status(), 420, "sip.path");
}

/// `limits`: one call of a phone, two of its tenant, and then no more of them in a second than it may.
fn limits(server: &mut Server, third: &mut Phone) {
    let mut silent = server.registered("1006");
    let [mut first, mut second] = ["1004", "1005"].map(|user| server.registered(user));
    let mut ringing = first.invite("1006", "", "");
    let one = silent.incoming("INVITE");
    silent.reply(&one, 180, "", "");
    let mut further = first.invite("1006", "", "");
    first.await_status(&mut further, 486);
    let mut other = second.invite("1006", "", "");
    let two = silent.incoming("INVITE");
    silent.reply(&two, 180, "", "");
    let mut beyond = third.invite("1006", "", "");
    third.await_status(&mut beyond, 503);
    for phone in [&mut first, &mut second] {
        (0..12).for_each(|_| _ = phone.invite("1006", "", ""));
    }
    for reason in ["phone_calls", "phone_rate", "tenant_calls", "tenant_rate"] {
        let count =
            || server.metric("tipring_admission_refused_total", &format!("\"{reason}\"")).filter(|count| *count > 0.0);
        assert!(eventually(PATIENCE, count).is_some(), "limits: {reason}");
    }
    for (phone, dialog, invite) in [(&mut first, &mut ringing, &one), (&mut second, &mut other, &two)] {
        phone.cancel(dialog);
        let cancel = silent.incoming("CANCEL");
        silent.reply(&cancel, 200, "", "");
        silent.reply(invite, 487, "", "");
        phone.await_status(dialog, 487);
    }
    // The tenant may call again.
    std::thread::sleep(Duration::from_secs(2));
}

const OTHER_DIRECTORY: &str = "[[tenant]]\nname = \"acme\"\ndomain = \"acme.test\"\n\
    [[phone]]\ntenant = \"acme\"\nuser = \"1098\"\npassword = \"secret-1098\"\nrecord = \"on-demand\"\n\
    [[phone]]\ntenant = \"acme\"\nuser = \"1001\"\npassword = \"secret-1001\"\nrecord = \"always\"\n";

/// Every event that is kept, as a stream begins that resumes after one that nobody knows.
fn all_events(server: &Server) -> String {
    let mut stream = TcpStream::connect(server.http()).unwrap();
    stream.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
    let token = server.token();
    let head = format!("Host: x\r\nAuthorization: Bearer {token}\r\nLast-Event-ID: none\r\n\r\n");
    stream.write_all(format!("GET /v1/events HTTP/1.1\r\n{head}").as_bytes()).unwrap();
    let mut bytes = Vec::new();
    let _ = stream.read_to_end(&mut bytes);
    String::from_utf8_lossy(&bytes).into_owned()
}

/// A phone that guessed too often.
fn blocked(server: &mut Server) -> Phone {
    let mut phone = server.phone("1003");
    phone.password = "wrong".into();
    for _ in 0..40 {
        let uri = format!("sip:{}", phone.domain);
        let to = format!("<{}>", phone.address_of_record());
        let request = phone.request("REGISTER", &uri, &to, "", "");
        let challenge = heard(&mut phone, &request).expect("a challenge");
        let again = phone.with_credentials(&request, &challenge);
        if heard(&mut phone, &again).is_none() {
            phone.password = "secret-1003".into();
            return phone;
        }
    }
    panic!("forty wrong passwords, and still heard");
}

/// The answer to this very request, if one comes soon.
fn heard(phone: &mut Phone, request: &str) -> Option<Message> {
    let (sent, _) = Message::parse(request.as_bytes()).unwrap();
    phone.send(request);
    phone.find(Duration::from_millis(300), |message| {
        message.status() > 0 && message.call_id() == sent.call_id() && message.cseq() == sent.cseq()
    })
}

/// Rings with early media of the callee for a while, then is answered; its recording begins before the answer.
fn early_call(server: &mut Server, left: &mut Phone, right: &mut Phone) -> Call {
    let caller_stream = Stream::open(left.local.ip(), 5);
    let callee_stream = Stream::open(right.local.ip(), 6);
    let mut caller = left.invite("1002", "", &caller_stream.sdp("sendrecv"));
    let offer = right.find(PATIENCE, |message| message.start.starts_with("INVITE")).expect("the call");
    right.reply(&offer, 183, "", &callee_stream.sdp("sendrecv"));
    left.await_status(&mut caller, 183);
    let is_recorded = || server.json("/v1/recordings")["items"][0]["state"].as_str().map(str::to_owned);
    assert_eq!(eventually(PATIENCE, is_recorded).as_deref(), Some("recording"), "record.early");
    right.reply(&offer, 200, "", &callee_stream.sdp("sendrecv"));
    let answer = left.await_status(&mut caller, 200);
    left.ack(&caller, "");
    right.incoming("ACK");
    let callee = right.dialog_of(&offer);
    Call { caller, callee, caller_stream, callee_stream, answer, offer }
}

/// The new codes start and pause a recording, the old ones do not.
fn codes(server: &mut Server) {
    let (mut left, mut right) = (server.registered("1098"), server.registered("1004"));
    let mut call = Call::set_up(&mut left, &mut right, "1004", 7);
    let id = server.live_call();
    let mut press = |keys: &str| {
        for key in keys.chars() {
            let body = format!("Signal={key}\r\nDuration=160\r\n");
            left.send_in(&mut call.caller, "INFO", "Content-Type: application/dtmf-relay\r\n", &body);
            let info = right.find(Duration::from_millis(300), |message| message.start.starts_with("INFO"));
            if let Some(info) = info {
                right.reply(&info, 200, "", "");
            }
            left.await_status(&mut call.caller, 200);
        }
    };
    let recordings = || server.json(&format!("/v1/recordings?call={id}"))["items"].clone();
    press("*1");
    std::thread::sleep(Duration::from_millis(500));
    assert_eq!(recordings().as_array().map(Vec::len), Some(0), "the old start_code");
    press("*7");
    let is_there = || recordings()[0]["id"].as_str().map(str::to_owned);
    assert!(eventually(PATIENCE, is_there).is_some(), "record.start_code");
    press("*8");
    std::thread::sleep(Duration::from_millis(200));
    press("*8");
    call.end_by_caller(&mut left, &mut right);
    let pauses =
        eventually(PATIENCE, || recordings()[0]["pauses"].as_array().filter(|pauses| !pauses.is_empty()).cloned());
    assert!(pauses.is_some(), "record.pause_code: {:#}", recordings());
}

/// All processes write JSON into the new file, and nothing below the new level.
fn log_lines(server: &Server) {
    let mut guess = Phone::udp("1004", (server.ip(), 0).into(), server.sip());
    guess.password = "wrong".into();
    assert_eq!(guess.register(600).status(), 401);
    let line = eventually(PATIENCE, || {
        let text = fs::read_to_string(server.path("data/other.log")).ok()?;
        let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).expect(line)).collect();
        assert!(lines.iter().all(|line| line["level"] != "info" && line["level"] != "debug"), "log.level: {text}");
        lines.into_iter().find(|line| line["event"] == "authentication.failed")
    });
    assert!(line.is_some(), "log.file, log.format: {:?}", fs::read_to_string(server.path("data/other.log")));
}

/// TERM waits no longer than the new time for a call that does not end.
fn drain(server: &mut Server, mut left: Phone, mut right: Phone) {
    let _call = Call::set_up(&mut left, &mut right, "1002", 9);
    let began = std::time::Instant::now();
    let keeper = server.keeper();
    server.signal(keeper, Signal::TERM);
    for phone in [&mut left, &mut right] {
        let bye = phone.incoming("BYE");
        phone.reply(&bye, 200, "", "");
    }
    assert!(began.elapsed() < Duration::from_secs(4), "node.drain");
    assert_eq!(server.wait(), Some(0));
}
