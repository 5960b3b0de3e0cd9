//! What both parties hear when their call is recorded, and what is noted of it.

use std::time::Duration;
use std::time::Instant;

use serde_json::Value;
use serde_json::json;
use tipring::wire::g711::Law;

use crate::calls::Call;
use crate::phone::PATIENCE;
use crate::phone::Phone;
use crate::rtp::Stream;
use crate::server::Server;
use crate::server::eventually;
use crate::tone;

fn directory(announce: &str) -> String {
    let phone = |user| format!("[[phone]]\ntenant = \"acme\"\nuser = \"{user}\"\npassword = \"secret-{user}\"\n");
    format!(
        "[[tenant]]\nname = \"acme\"\ndomain = \"acme.test\"\nrecord = \"always\"\nannounce = {announce}\n{}{}",
        phone("1001"),
        phone("1002")
    )
}

struct Heard {
    ssrc: u32,
    sequence: u16,
    timestamp: u32,
    payload_type: u8,
    payload: Vec<u8>,
}

/// Everything that waits at a stream's port.
fn hear(stream: &Stream, heard: &mut Vec<Heard>) {
    let mut packet = [0; 2048];
    stream.rtp.set_nonblocking(true).unwrap();
    while let Ok(len) = stream.rtp.recv(&mut packet) {
        let word = |at: usize| u32::from_be_bytes(packet[at..at + 4].try_into().unwrap());
        heard.push(Heard {
            ssrc: word(8),
            sequence: u16::from_be_bytes([packet[2], packet[3]]),
            timestamp: word(4),
            payload_type: packet[1] & 0x7f,
            payload: packet[12..len].to_vec(),
        });
    }
    stream.rtp.set_nonblocking(false).unwrap();
}

/// Both speak until each has heard so many packets; what they hear, the caller first.
fn talk(call: &mut Call, packets: usize) -> [Vec<Heard>; 2] {
    let (left, right) = call.relay();
    let mut heard = [Vec::new(), Vec::new()];
    let end = Instant::now() + PATIENCE;
    while heard.iter().any(|heard| heard.len() < packets) && Instant::now() < end {
        call.caller_stream.send(left);
        call.callee_stream.send(right);
        std::thread::sleep(Duration::from_millis(20));
        hear(&call.caller_stream, &mut heard[0]);
        hear(&call.callee_stream, &mut heard[1]);
    }
    heard
}

/// One stream of ours, whole, in the codec that was negotiated; nothing of the other party in it, and the other party after it.
fn check_heard(heard: &[Heard], other: u32, law: Law, hertz: f64, packets: usize) {
    let ours: Vec<&Heard> = heard.iter().filter(|packet| packet.ssrc != other).collect();
    assert_eq!(ours.len(), packets, "of {} heard", heard.len());
    for two in ours.windows(2) {
        assert_eq!(two[1].ssrc, two[0].ssrc);
        assert_eq!(two[1].sequence, two[0].sequence.wrapping_add(1));
        assert_eq!(two[1].timestamp, two[0].timestamp.wrapping_add(160));
    }
    assert!(ours.iter().all(|packet| packet.payload_type == law.payload_type()));
    let first = heard.iter().position(|packet| packet.ssrc != other).unwrap();
    assert!(
        heard[first..first + packets].iter().all(|packet| packet.ssrc != other),
        "the other party was heard meanwhile"
    );
    assert!(heard.len() > first + packets + 10, "the other party is heard again");
    let samples: Vec<f64> =
        ours.iter().flat_map(|packet| &packet.payload).map(|byte| law.decode(*byte).into()).collect();
    assert!(tone::share(&samples, tone::RATE, hertz) > 0.9, "{}", tone::share(&samples, tone::RATE, hertz));
}

fn call(server: &mut Server) -> (Phone, Phone, Call) {
    let (mut left, mut right) = (server.registered("1001"), server.registered("1002"));
    let call = Call::set_up(&mut left, &mut right, "1002", 1);
    (left, right, call)
}

fn recording(server: &Server, call: &str) -> Value {
    let found = eventually(PATIENCE, || {
        let item = server.json(&format!("/v1/recordings?call={call}"))["items"].get(0)?.clone();
        (item["state"] == "completed").then_some(item)
    });
    found.unwrap_or_else(|| panic!("no recording\n{}", server.log()))
}

fn told(announce: &str, played: bool) -> Value {
    let line = |leg: u8, party: &str| json!({ "leg": leg, "party": party, "announce": announce, "played": played });
    json!([line(0, "caller"), line(1, "callee")])
}

#[test]
fn both_parties_hear_a_tone_and_the_recording_says_so() {
    let mut server = Server::start(|setup| setup.directory = Some(directory("\"tone\"")));
    let (mut left, mut right, mut call) = call(&mut server);
    let id = server.live_call();
    let heard = talk(&mut call, 20 + 25);
    check_heard(&heard[0], 0x1000_0000 + 1001, Law::Mu, 1_400.0, 20);
    check_heard(&heard[1], 0x1000_0000 + 1, Law::Mu, 1_400.0, 20);
    call.end_by_caller(&mut left, &mut right);
    let recording = recording(&server, &id);
    assert_eq!(recording["announced"], told("tone", true));
    // It has what the parties said, also while they did not hear each other, and nothing of ours.
    assert_eq!(recording["verdict"], "complete");
    for line in recording["ledger"].as_array().expect("a ledger") {
        let sent = call.caller_stream.sent();
        assert_eq!((&line["received"], &line["written"]), (&sent.into(), &sent.into()), "{line}");
    }
}

#[test]
fn a_file_is_heard_in_the_codec_of_the_call() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("consent.wav");
    tone::write(&path, 620.0, 1);
    let text = directory(&format!("{{ file = \"{}\" }}", path.display()));
    let mut server = Server::start(|setup| setup.directory = Some(text));
    let (mut left, mut right) = (server.registered("1001"), server.registered("1002"));
    let mut call = Call::set_up_with(&mut left, &mut right, "1002", 1, &|sdp| {
        sdp.replace("AVP 0 ", "AVP 8 ").replace("rtpmap:0 PCMU", "rtpmap:8 PCMA")
    });
    let heard = talk(&mut call, 50 + 25);
    check_heard(&heard[0], 0x1000_0000 + 1001, Law::A, 620.0, 50);
    check_heard(&heard[1], 0x1000_0000 + 1, Law::A, 620.0, 50);
    // What cannot be read is refused before anything is changed.
    std::fs::write(&path, "no sound").unwrap();
    let (code, text) = server.command(&["check"]);
    assert_eq!(code, 78, "{text}");
    assert!(text.contains("tenant.announce") && text.contains("not a RIFF WAVE file"), "{text}");
}

#[test]
fn a_call_that_ends_at_once_was_not_told() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("consent.wav");
    // Longer than the call on any machine.
    tone::write(&path, 620.0, 10);
    let text = directory(&format!("{{ file = \"{}\" }}", path.display()));
    let mut server = Server::start(|setup| setup.directory = Some(text));
    let (mut left, mut right, mut call) = call(&mut server);
    let id = server.live_call();
    talk(&mut call, 5);
    call.end_by_caller(&mut left, &mut right);
    assert_eq!(recording(&server, &id)["announced"], told("file", false));
}
