//! What a recording says of itself where not all that was said is in it, from the sender to the API: the ledger counts what came, the
//! verdict says why it is not to be heard.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use rustix::process::Signal;
use serde_json::Value;

use crate::calls::Call;
use crate::phone::PATIENCE;
use crate::phone::Phone;
use crate::rtp::Stream;
use crate::server::Server;
use crate::server::eventually;

/// A server that records each call.
fn server() -> (Server, Phone, Phone) {
    let mut server = Server::start(|setup| {
        let mut text = "[[tenant]]\nname = \"acme\"\ndomain = \"acme.test\"\nrecord = \"always\"\n".to_owned();
        for user in ["1001", "1002"] {
            text += &format!("[[phone]]\ntenant = \"acme\"\nuser = \"{user}\"\npassword = \"secret-{user}\"\n");
        }
        setup.directory = Some(text);
    });
    let phones = (server.registered("1001"), server.registered("1002"));
    (server, phones.0, phones.1)
}

fn recorded(server: &Server, call: &str) -> Value {
    let found = eventually(PATIENCE, || {
        let item = server.json(&format!("/v1/recordings?call={call}"))["items"].get(0)?.clone();
        (item["state"] == "completed").then_some(item)
    });
    found.unwrap_or_else(|| panic!("no recording\n{}", server.log()))
}

/// The figure of one party's line.
fn figure(item: &Value, party: &str, name: &str) -> u64 {
    let lines = item["ledger"].as_array().expect("a ledger");
    let line = lines.iter().find(|line| line["party"] == party).unwrap_or_else(|| panic!("no {party}: {item}"));
    line[name].as_u64().unwrap_or_else(|| panic!("no {name}: {line}"))
}

/// Packets that `Call::check_media` sends each way.
const CHECKED: u64 = 43;

#[test]
fn audio_under_a_key_that_nobody_gave_us_is_encrypted() {
    let (server, mut left, mut right) = server();
    let secured = |sdp: String| {
        let key = "a=crypto:1 AES_CM_128_HMAC_SHA1_80 inline:PS1uQCVeeCFCanVmcjkpPywjNWhcYD0mXXtxaVBR\r\n";
        sdp.replace("RTP/AVP", "RTP/SAVP") + key
    };
    let mut call = Call::set_up_with(&mut left, &mut right, "1002", 1, &secured);
    let id = server.live_call();
    call.check_media();
    call.end_by_caller(&mut left, &mut right);
    let item = recorded(&server, &id);
    assert_eq!(item["verdict"], "encrypted", "{item}");
    for party in ["caller", "callee"] {
        assert_eq!((figure(&item, party, "encrypted"), figure(&item, party, "written")), (CHECKED, 0), "{item}");
    }
}

#[test]
fn a_codec_without_a_decoder_is_named_in_log_metric_and_ledger() {
    let (server, mut left, mut right) = server();
    let gsm = |sdp: String| sdp.replace("RTP/AVP 0 101", "RTP/AVP 96 101").replace("rtpmap:0 PCMU", "rtpmap:96 GSM");
    let mut call = Call::set_up_with(&mut left, &mut right, "1002", 1, &gsm);
    let id = server.live_call();
    let (left_via, right_via) = call.relay();
    call.caller_stream.payload_type = 96;
    call.callee_stream.payload_type = 96;
    call.caller_stream.send_many(20, left_via);
    call.callee_stream.send_many(20, right_via);
    call.end_by_caller(&mut left, &mut right);
    let item = recorded(&server, &id);
    assert_eq!(item["verdict"], "degraded", "{item}");
    for party in ["caller", "callee"] {
        assert_eq!((figure(&item, party, "undecodable"), figure(&item, party, "written")), (20, 0), "{item}");
    }
    let counted = eventually(PATIENCE, || {
        (server.metric("tipring_recording_undecodable_packets_total", "codec=\"gsm\"")? == 40.0).then_some(())
    });
    assert!(counted.is_some());
    let log = server.log();
    let line = log.lines().find(|line| line.contains("recording.undecodable")).unwrap_or_else(|| panic!("{log}"));
    assert!(line.contains("gsm") && line.contains(&id), "{line}");
}

/// The kernel drops at our socket what an engine that stands still does not take.
#[test]
fn what_our_own_socket_lost_is_in_the_ledger() {
    let (server, mut left, mut right) = server();
    let mut call = Call::set_up(&mut left, &mut right, "1002", 1);
    let id = server.live_call();
    call.check_media();
    let (left_via, _) = call.relay();
    let engine = server.pid_of("engine").expect("an engine");
    server.signal(engine, Signal::STOP);
    let mut sent = CHECKED;
    for _ in 0..20_000 {
        call.caller_stream.send(left_via);
        sent += 1;
    }
    server.signal(engine, Signal::CONT);
    call.callee_stream.collect(Duration::from_millis(300));
    call.end_by_caller(&mut left, &mut right);
    let item = recorded(&server, &id);
    assert_eq!(item["verdict"], "degraded", "{item}");
    let overrun = figure(&item, "caller", "overrun");
    assert!(overrun > 0, "{item}");
    assert_eq!(figure(&item, "caller", "received") + overrun, sent, "{item}");
    assert_eq!(figure(&item, "callee", "overrun"), 0, "{item}");
}

/// All files below a folder.
fn files(folder: PathBuf) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path());
    entries.flat_map(|path| if path.is_dir() { files(path) } else { vec![path] }).collect()
}

#[test]
fn a_recording_that_changed_on_the_disk_is_damaged_and_says_so() {
    let (server, mut left, mut right) = server();
    let mut call = Call::set_up(&mut left, &mut right, "1002", 1);
    let id = server.live_call();
    call.check_media();
    call.end_by_caller(&mut left, &mut right);
    let item = recorded(&server, &id);
    assert_eq!(item["verdict"], "complete", "{item}");
    let file = files(server.path("data/recordings")).into_iter().max_by_key(|path| fs::metadata(path).unwrap().len());
    let file = file.expect("a recording");
    let mut bytes = fs::read(&file).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&file, bytes).unwrap();
    let path = format!("/v1/recordings/{}", item["id"].as_str().expect("an id"));
    let media = server.get(&format!("{path}/media")).expect("an answer");
    // The head is on its way when the damage is met: the body breaks off before its length.
    let promised =
        media.head.lines().find_map(|line| line.to_ascii_lowercase().strip_prefix("content-length: ")?.parse().ok());
    let promised: usize = promised.expect("a length");
    assert!(media.status != 200 || promised > media.bytes.len(), "it was served as if it were whole: {}", media.head);
    let told = eventually(PATIENCE, || (server.json(&path)["verdict"] == "damaged").then_some(()));
    assert!(told.is_some(), "{}\n{}", server.json(&path), server.log());
}

#[test]
fn what_strangers_send_is_counted_and_not_recorded() {
    let (mut server, mut left, mut right) = server();
    let mut call = Call::set_up(&mut left, &mut right, "1002", 1);
    let id = server.live_call();
    // Nobody has been heard yet: the socket is open for all.
    let mut stranger = Stream::open(server.fresh_ip(), 9);
    let (left_via, _) = call.relay();
    stranger.send_many(10, left_via);
    call.check_media();
    call.end_by_caller(&mut left, &mut right);
    let item = recorded(&server, &id);
    assert_eq!(item["verdict"], "complete", "{item}");
    assert_eq!((figure(&item, "caller", "strangers"), figure(&item, "caller", "written")), (10, CHECKED), "{item}");
}
