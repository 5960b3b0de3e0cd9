//! Recordings fetched over HTTP, or made of generated packets, against their senders: every frame says whose it is, which of that
//! party's it is and when it was sent (`phlem::media`). What is missing, double, misplaced or another's is named.

use std::collections::BTreeSet;
use std::time::Duration;

use rustix::process::Signal;
use serde_json::Value;
use tipring::base::random::Random;
use tipring::base::time::Instant;
use tipring::process::clock;
use tipring::process::phlem::figures::Media;
use tipring::process::phlem::media::Expected;
use tipring::process::phlem::media::PACKET_BYTES;
use tipring::process::phlem::media::RecordingReport;
use tipring::process::phlem::media::Settings;
use tipring::process::phlem::media::Side;
use tipring::process::phlem::media::Speech;
use tipring::process::phlem::media::Voice;
use tipring::process::phlem::media::check_recording;
use tipring::process::phlem::media::frame;
use tipring::wire::g711::Law;
use tipring::wire::rtp::HEADER_BYTES_MIN;

use crate::calls::Call;
use crate::phone::PATIENCE;
use crate::phone::Phone;
use crate::server::Server;
use crate::server::eventually;

const SIDES: [Side; 2] = [Side::Caller, Side::Callee];
/// 20 ms, as the issue of clocks wants it, and what the emulator may be late on a machine that does other work, too.
const APART_MAX: i64 = 20_000_000 + LATE_MAX;
/// Later than that an emulated phone leaves frames out.
const LATE_MAX: i64 = 200_000_000;

/// What a line does, in percent.
#[derive(Clone, Copy, Default)]
struct Faults {
    lost: u64,
    doubled: u64,
    /// Sent 25 to 65 ms later, behind others.
    delayed: u64,
}

/// A stream that began anew: what is added to its numbers.
#[derive(Clone, Copy, Default)]
struct Stream {
    ssrc: u32,
    sequence: u16,
    timestamp: u32,
}

#[derive(Default)]
struct Line {
    stream: Stream,
    /// Frames that went out to the relay, and those that did not.
    sent: BTreeSet<u32>,
    lost: BTreeSet<u32>,
    doubled: u64,
    waiting: Vec<(Instant, Vec<u8>)>,
    /// Frames of this side that the other one heard.
    heard: BTreeSet<u32>,
}

/// Both parties of a call, who speak and count.
struct Talk {
    voices: [Voice; 2],
    lines: [Line; 2],
    media: Media,
    random: Random,
    faults: Faults,
}

fn number_of(packet: &[u8]) -> Option<u32> {
    Some(frame::parse(packet.get(HEADER_BYTES_MIN..)?.first_chunk()?)?.mark.number)
}

impl Talk {
    fn new(call: u64, faults: Faults) -> Self {
        let (mut media, mut random) = (Media::default(), Random::new(call));
        let voices = SIDES.map(|side| {
            let settings = Settings {
                call,
                side,
                speech: Speech::voice(call, Law::Mu),
                payload_type: 0,
                event_type: None,
                one_clock: true,
                keep: false,
            };
            Voice::new(settings, clock::instant(), &mut random, &mut media)
        });
        Self { voices, lines: Default::default(), media, random, faults }
    }

    fn speak(&mut self, call: &mut Call, length: Duration) {
        let end = clock::instant() + length;
        let relay = call.relay();
        while clock::instant() < end {
            for (side, (socket, to)) in
                [(&call.caller_stream.rtp, relay.0), (&call.callee_stream.rtp, relay.1)].into_iter().enumerate()
            {
                self.put(side, clock::instant());
                let line = &mut self.lines[side];
                for (_, packet) in line.waiting.extract_if(.., |(at, _)| *at <= clock::instant()) {
                    line.sent.extend(number_of(&packet));
                    // The relay's port is closed while an engine is dead on some machines.
                    let _ = socket.send_to(&packet, to);
                }
            }
            self.hear(call);
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// What is due goes on its way.
    fn put(&mut self, side: usize, now: Instant) {
        let mut packet = [0; PACKET_BYTES];
        let len = self.voices[side].emit(now, &mut packet, &mut self.media);
        if len == 0 {
            return;
        }
        let mut packet = packet[..len].to_vec();
        let (line, faults) = (&mut self.lines[side], self.faults);
        line.stream.apply(&mut packet);
        // The first tells the relay where the phone is.
        if number_of(&packet) > Some(0) && self.random.chance(faults.lost, 100) {
            line.lost.extend(number_of(&packet));
            return;
        }
        let is_late = number_of(&packet) > Some(0) && self.random.chance(faults.delayed, 100);
        let at = if is_late { now + Duration::from_millis(25 + self.random.below(40)) } else { now };
        if self.random.chance(faults.doubled, 100) {
            line.doubled += 1;
            line.waiting.push((at, packet.clone()));
        }
        line.waiting.push((at, packet));
    }

    fn hear(&mut self, call: &Call) {
        let mut packet = [0; 2_048];
        for (side, socket) in [&call.caller_stream.rtp, &call.callee_stream.rtp].into_iter().enumerate() {
            socket.set_nonblocking(true).unwrap();
            while let Ok(len) = socket.recv(&mut packet) {
                self.lines[1 - side].heard.extend(number_of(&packet[..len]));
                self.voices[side].handle(&packet[..len], clock::instant(), &mut self.media);
            }
        }
    }

    /// Nobody speaks; what is under way arrives.
    fn rest(&mut self, call: &mut Call, length: Duration) {
        self.set_sending([false, false]);
        self.speak(call, length);
        self.set_sending([true, true]);
    }

    fn set_sending(&mut self, sends: [bool; 2]) {
        for (voice, sends) in self.voices.iter_mut().zip(sends) {
            voice.set_sending(sends, clock::instant());
        }
    }

    /// The recording holds what was sent, all of it and nothing else, each party in its channel.
    fn check(&self, report: &RecordingReport, item: &Value, anchors: u32) {
        for (report, line) in [(&report.caller, &self.lines[0]), (&report.callee, &self.lines[1])] {
            assert_eq!(report.numbers, line.sent, "{:?}", report.faults);
            let between = |number: &&u32| report.numbers.first() < Some(number) && report.numbers.last() > Some(number);
            assert_eq!(report.missing, line.lost.iter().filter(between).count() as u64);
            let counts = [report.doubled, report.misplaced, report.wrong_call, report.damaged];
            assert_eq!(counts, [0; 4], "doubled, misplaced, wrong, damaged: {:?}", report.faults);
            // A stream that begins anew may happen to lie within one sample of its place.
            assert!(report.corrections <= u64::from(anchors), "{} samples corrected", report.corrections);
        }
        assert!(report.apart() < APART_MAX, "{} ns apart", report.apart());
        assert_eq!(item["verdict"], "complete", "{item}");
        for (index, report) in [&report.caller, &report.callee].into_iter().enumerate() {
            let (ledger, line) = (&item["ledger"][index], &self.lines[index]);
            let found = ["received", "written", "lost", "duplicated"].map(|key| ledger[key].as_u64().unwrap());
            let written = line.sent.len() as u64;
            assert_eq!(found, [written + line.doubled, written, report.missing, line.doubled], "{ledger}");
        }
    }
}

impl Stream {
    fn apply(self, packet: &mut [u8]) {
        let add = |place: &mut [u8; 4], by: u32| *place = u32::from_be_bytes(*place).wrapping_add(by).to_be_bytes();
        let sequence = u16::from_be_bytes([packet[2], packet[3]]).wrapping_add(self.sequence);
        packet[2..4].copy_from_slice(&sequence.to_be_bytes());
        add((&mut packet[4..8]).try_into().unwrap(), self.timestamp);
        add((&mut packet[8..12]).try_into().unwrap(), self.ssrc);
    }
}

fn server() -> Server {
    Server::start(|setup| {
        let mut text = "[[tenant]]\nname = \"acme\"\ndomain = \"acme.test\"\nrecord = \"always\"\n".to_owned();
        for user in ["1001", "1002"] {
            text += &format!("[[phone]]\ntenant = \"acme\"\nuser = \"{user}\"\npassword = \"secret-{user}\"\n");
        }
        setup.directory = Some(text);
    })
}

fn pair(server: &mut Server) -> (Phone, Phone) {
    (server.registered("1001"), server.registered("1002"))
}

/// The finished recording of a call, and what the oracle says of it.
fn fetched(server: &Server, call: &str, anchors: u32) -> (Value, RecordingReport) {
    let found = eventually(2 * PATIENCE, || {
        let items = server.json(&format!("/v1/recordings?call={call}"))["items"].clone();
        assert!(items.as_array().is_some_and(|items| items.len() < 2), "{items:#}");
        Some(items[0].clone()).filter(|item| item["state"] == "completed")
    });
    let item = found.unwrap_or_else(|| panic!("no recording of {call}\n{}", server.log()));
    let media = server.get(&format!("/v1/recordings/{}/media", item["id"].as_str().unwrap())).unwrap();
    assert_eq!(media.status, 200, "{}", media.head);
    let expected = Expected { anchors, late_nanos: LATE_MAX, ..Expected::default() };
    (item, check_recording(&media.bytes, expected).unwrap())
}

#[test]
fn the_recording_holds_what_was_said() {
    let mut server = server();
    let (mut left, mut right) = pair(&mut server);
    let mut call = Call::set_up(&mut left, &mut right, "1002", 1);
    let mut talk = Talk::new(101, Faults::default());
    let id = server.live_call();
    talk.speak(&mut call, Duration::from_millis(1_500));
    talk.rest(&mut call, Duration::from_millis(100));
    call.end_by_caller(&mut left, &mut right);
    let (item, report) = fetched(&server, &id, 0);
    talk.check(&report, &item, 0);
    assert!(report.is_whole() && report.call == Some(101), "{report:?}");
}

#[test]
fn a_bad_line_costs_what_it_lost_and_nothing_else() {
    let mut server = server();
    let (mut left, mut right) = pair(&mut server);
    let mut call = Call::set_up(&mut left, &mut right, "1002", 1);
    let mut talk = Talk::new(102, Faults { lost: 10, doubled: 10, delayed: 15 });
    let id = server.live_call();
    talk.speak(&mut call, Duration::from_millis(3_000));
    talk.rest(&mut call, Duration::from_millis(150));
    call.end_by_caller(&mut left, &mut right);
    let (item, report) = fetched(&server, &id, 0);
    talk.check(&report, &item, 0);
    for line in &talk.lines {
        assert!(line.lost.len() > 3 && line.doubled > 3, "the line was too good: {}", line.lost.len());
    }
}

/// Of a bad line, over a hold in which the held party goes on speaking.
#[test]
fn the_records_the_ledger_and_the_metrics_count_the_same() {
    let mut server = server();
    let (mut left, mut right) = pair(&mut server);
    let mut call = Call::set_up(&mut left, &mut right, "1002", 1);
    let mut talk = Talk::new(106, Faults { lost: 10, doubled: 10, delayed: 15 });
    let id = server.live_call();
    talk.speak(&mut call, Duration::from_millis(1_000));
    talk.rest(&mut call, Duration::from_millis(150));
    renegotiate(&mut call, (&mut left, &mut right), ("sendonly", "recvonly"), 2);
    talk.speak(&mut call, Duration::from_millis(600));
    talk.rest(&mut call, Duration::from_millis(150));
    renegotiate(&mut call, (&mut left, &mut right), ("sendrecv", "sendrecv"), 3);
    talk.speak(&mut call, Duration::from_millis(1_000));
    talk.rest(&mut call, Duration::from_millis(150));
    call.end_by_caller(&mut left, &mut right);
    let (item, _) = fetched(&server, &id, 0);
    let record = server.json("/v1/cdrs")["items"][0].clone();
    let mut lost = 0;
    for (index, line) in talk.lines.iter().enumerate() {
        let came = line.sent.len() as u64 + line.doubled;
        let between = line.sent.last().unwrap() - line.sent.first().unwrap() + 1;
        let missing = u64::from(between) - line.sent.len() as u64;
        let count = |key: &str| item["ledger"][index][key].as_u64().unwrap();
        assert_eq!([count("received") + count("direction"), count("lost")], [came, missing], "{}", item["ledger"]);
        assert!(missing > 3 && (count("direction") > 20) == (index == 1), "{}", item["ledger"]);
        let media = &record["legs"][index]["media"][0];
        let found = ["packets", "lost"].map(|key| media[key].as_u64());
        assert_eq!(found, [Some(came), Some(missing)], "{media}");
        lost += missing;
    }
    let metrics = server.get("/metrics").unwrap().body;
    assert!(metrics.contains(&format!("tipring_rtp_lost_total {lost}\n")), "{lost}");
}

/// Re-INVITE of the caller with this direction, and the callee's answer.
fn renegotiate(call: &mut Call, phones: (&mut Phone, &mut Phone), direction: (&str, &str), version: u32) {
    let (left, right) = phones;
    let raise = |sdp: String| sdp.replacen(" 1 IN", &format!(" {version} IN"), 1);
    left.send_in(&mut call.caller, "INVITE", "", &raise(call.caller_stream.sdp(direction.0)));
    let request = right.incoming("INVITE");
    right.reply(&request, 200, "", &raise(call.callee_stream.sdp(direction.1)));
    left.await_status(&mut call.caller, 200);
    left.ack(&call.caller, "");
    right.incoming("ACK");
}

#[test]
fn a_hold_is_silence_of_its_length() {
    let mut server = server();
    let (mut left, mut right) = pair(&mut server);
    let mut call = Call::set_up(&mut left, &mut right, "1002", 1);
    let mut talk = Talk::new(103, Faults::default());
    let id = server.live_call();
    talk.speak(&mut call, Duration::from_millis(800));
    talk.set_sending([false, false]);
    talk.speak(&mut call, Duration::from_millis(100));
    renegotiate(&mut call, (&mut left, &mut right), ("sendonly", "recvonly"), 2);
    // Music on hold, as some phones have it.
    talk.set_sending([true, false]);
    talk.speak(&mut call, Duration::from_millis(600));
    talk.set_sending([false, false]);
    talk.speak(&mut call, Duration::from_millis(100));
    renegotiate(&mut call, (&mut left, &mut right), ("sendrecv", "sendrecv"), 3);
    talk.set_sending([true, true]);
    talk.speak(&mut call, Duration::from_millis(800));
    talk.rest(&mut call, Duration::from_millis(100));
    call.end_by_caller(&mut left, &mut right);
    let (item, report) = fetched(&server, &id, 0);
    talk.check(&report, &item, 0);
    let silence = report.callee.unnumbered_samples / 8;
    assert!((600..3_000).contains(&silence), "{silence} ms of silence of the one that was held");
}

#[test]
fn streams_that_begin_anew_are_one_recording() {
    let mut server = server();
    let (mut left, mut right) = pair(&mut server);
    let mut call = Call::set_up(&mut left, &mut right, "1002", 1);
    let mut talk = Talk::new(104, Faults::default());
    let id = server.live_call();
    talk.speak(&mut call, Duration::from_millis(800));
    talk.rest(&mut call, Duration::from_millis(100));
    renegotiate(&mut call, (&mut left, &mut right), ("sendrecv", "sendrecv"), 2);
    // What a phone does that restarts its media: all numbers are others.
    talk.lines[0].stream = Stream { ssrc: 0x5555_0000, sequence: 40_000, timestamp: 3_000_000_000 };
    talk.speak(&mut call, Duration::from_millis(800));
    talk.lines[1].stream = Stream { ssrc: 0x7777_0000, sequence: 1_000, timestamp: 77 };
    talk.speak(&mut call, Duration::from_millis(800));
    talk.rest(&mut call, Duration::from_millis(100));
    call.end_by_caller(&mut left, &mut right);
    let (item, report) = fetched(&server, &id, 1);
    talk.check(&report, &item, 1);
}

#[test]
fn what_was_heard_before_the_engine_died_is_recorded() {
    let mut server = server();
    let (mut left, mut right) = pair(&mut server);
    let mut call = Call::set_up(&mut left, &mut right, "1002", 1);
    let mut talk = Talk::new(105, Faults::default());
    let id = server.live_call();
    while talk.lines.iter().any(|line| line.heard.len() < 45) {
        talk.speak(&mut call, Duration::from_millis(200));
    }
    let engine = server.pid_of("engine").expect("an engine");
    server.signal(engine, Signal::KILL);
    talk.speak(&mut call, Duration::from_millis(300));
    let heard = talk.lines.each_ref().map(|line| line.heard.clone());
    eventually(PATIENCE, || server.pid_of("engine").filter(|pid| *pid != engine)).expect("a new engine");
    // The next call tells side that nothing more comes of the one before.
    let set_up = eventually(PATIENCE, || (server.get("/readyz").ok()?.status == 200).then_some(()));
    assert!(set_up.is_some(), "{}", server.log());
    let mut next = Call::set_up(&mut left, &mut right, "1002", 2);
    let mut second = Talk::new(106, Faults::default());
    let other = server.live_call();
    second.speak(&mut next, Duration::from_millis(700));
    second.rest(&mut next, Duration::from_millis(100));
    next.end_by_caller(&mut left, &mut right);
    let (item, report) = fetched(&server, &id, 0);
    for (report, heard) in [(&report.caller, &heard[0]), (&report.callee, &heard[1])] {
        assert!(heard.len() > 40 && report.numbers.is_superset(heard), "{:?}", heard.difference(&report.numbers));
    }
    assert!(report.is_whole() && report.call == Some(105), "{report:?}");
    assert_eq!(item["verdict"], "degraded", "nobody can say what else was received: {item}");
    let (item, report) = fetched(&server, &other, 0);
    second.check(&report, &item, 0);
}

#[test]
fn a_side_that_dies_costs_a_recording_nothing() {
    let mut server = server();
    let (mut left, mut right) = pair(&mut server);
    let mut call = Call::set_up(&mut left, &mut right, "1002", 1);
    let mut talk = Talk::new(107, Faults::default());
    let id = server.live_call();
    for _ in 0..3 {
        talk.speak(&mut call, Duration::from_millis(400));
        let side = server.pid_of("side").expect("a side");
        server.signal(side, Signal::KILL);
        talk.speak(&mut call, Duration::from_millis(300));
        eventually(PATIENCE, || server.pid_of("side").filter(|pid| *pid != side)).expect("a new side");
    }
    talk.rest(&mut call, Duration::from_millis(100));
    call.end_by_caller(&mut left, &mut right);
    eventually(PATIENCE, || server.get("/readyz").ok()).expect("the side process is back");
    let (item, report) = fetched(&server, &id, 0);
    talk.check(&report, &item, 0);
}
