//! What is on the tape of a call, packet by packet: the oracle is the sender, who numbers what he sends.

use std::collections::BTreeMap;
use std::time::Duration;

use rustix::process::Signal;
use tipring::base::id::CallId;
use tipring::base::id::ShardId;
use tipring::shard::tape::files;
use tipring::shard::tape::files::SegmentReader;
use tipring::wire::tape::Copies;
use tipring::wire::tape::Mark;
use tipring::wire::tape::Record;
use tipring::wire::tape::Track;
use tipring::wire::tape::records;

use crate::calls::Call;
use crate::message::Message;
use crate::phone::PATIENCE;
use crate::phone::Phone;
use crate::server::Server;
use crate::server::eventually;

fn directory(record: [&str; 3]) -> String {
    let [tenant, caller, callee] = record;
    let mut text = format!("[[tenant]]\nname = \"acme\"\ndomain = \"acme.test\"\nrecord = \"{tenant}\"\n");
    for (user, record) in [("1001", caller), ("1002", callee), ("1003", "never")] {
        text += &format!(
            "[[phone]]\ntenant = \"acme\"\nuser = \"{user}\"\npassword = \"secret-{user}\"\nrecord = \"{record}\"\n"
        );
    }
    text
}

fn server(record: [&str; 3]) -> Server {
    Server::start(|setup| setup.directory = Some(directory(record)))
}

/// What the tape holds of one call.
#[derive(Debug, Default)]
struct Taped {
    /// Per leg, the RTP sequence numbers in the order of the tape.
    frames: BTreeMap<u8, Vec<u16>>,
    payload_types: Vec<u8>,
    marks: Vec<Mark>,
    digits: usize,
}

fn tape(server: &Server) -> BTreeMap<CallId, Taped> {
    let folder = server.path("data/tape");
    let mut calls: BTreeMap<CallId, Taped> = BTreeMap::new();
    for shard in files::shards(&folder).unwrap() {
        let mut copies = Copies::default();
        for (name, _) in files::list(&folder, shard).unwrap() {
            if name.track != Track::Media {
                continue;
            }
            let mut reader = SegmentReader::open(&folder, name).unwrap();
            while let Some((header, body)) = reader.next(u64::MAX).unwrap() {
                if !copies.is_new(&header) {
                    continue;
                }
                for record in records(body) {
                    match record.unwrap() {
                        Record::Frame(frame) => {
                            let call = calls.entry(frame.call).or_default();
                            let sequence = u16::from_be_bytes([frame.packet[2], frame.packet[3]]);
                            call.frames.entry(frame.leg).or_default().push(sequence);
                            call.payload_types.push(frame.packet[1] & 0x7f);
                            call.digits += usize::from(frame.packet[1] & 0x7f == 101);
                        }
                        Record::Mark { call, mark, .. } => calls.entry(call).or_default().marks.push(mark),
                        other => panic!("{other:?}"),
                    }
                }
            }
        }
    }
    calls
}

/// The tape of the only recorded call, once its recording has ended.
fn ended(server: &Server) -> Taped {
    let found = eventually(PATIENCE, || {
        let (_, call) = tape(server).into_iter().next()?;
        matches!(call.marks.last(), Some(Mark::Ended { .. })).then_some(call)
    });
    found.unwrap_or_else(|| panic!("no recording that has ended: {:?}\n{}", tape(server), server.log()))
}

fn pair(server: &mut Server) -> (Phone, Phone) {
    (server.registered("1001"), server.registered("1002"))
}

/// check_media sends 43 packets each way.
const CHECKED: u16 = 43;

#[test]
fn every_packet_of_both_parties_is_on_the_tape_whoever_wants_it() {
    for record in [["never", "always", "never"], ["never", "never", "always"], ["always", "never", "never"]] {
        let mut server = server(record);
        let (mut left, mut right) = pair(&mut server);
        let mut call = Call::set_up(&mut left, &mut right, "1002", 1);
        call.check_media();
        call.end_by_caller(&mut left, &mut right);
        let taped = ended(&server);
        for leg in [0, 1] {
            assert_eq!(taped.frames[&leg], (1..=CHECKED).collect::<Vec<_>>(), "leg {leg} with {record:?}");
        }
        let Some(Mark::Ended { frames }) = taped.marks.last() else { panic!("{:?}", taped.marks) };
        assert!(frames.iter().all(|counted| counted.frames == u64::from(CHECKED)) && frames.len() == 2, "{frames:?}");
        let formats = |mark: &Mark| matches!(mark, Mark::Formats { formats, .. } if formats[0].name == "pcmu");
        assert_eq!(taped.marks.iter().filter(|mark| formats(mark)).count(), 2);
        assert_eq!(taped.marks[0], Mark::Begin { tenant: "acme".to_owned() });
    }
}

#[test]
fn nobody_who_did_not_want_it_is_recorded() {
    let mut server = server(["never", "on-demand", "always"]);
    let (mut left, mut right) = (server.registered("1001"), server.registered("1003"));
    let mut call = Call::set_up(&mut left, &mut right, "1003", 1);
    call.check_media();
    call.end_by_caller(&mut left, &mut right);
    server.cdr(&call.caller.call_id);
    assert!(tape(&server).is_empty());
}

#[test]
fn one_recording_over_hold_and_a_new_stream() {
    let mut server = server(["never", "always", "never"]);
    let (mut left, mut right) = pair(&mut server);
    let mut call = Call::set_up(&mut left, &mut right, "1002", 1);
    call.check_media();
    for (direction, reverse, version) in [("sendonly", "recvonly", "2"), ("sendrecv", "sendrecv", "3")] {
        let raise = |sdp: String| sdp.replacen(" 1 IN", &format!(" {version} IN"), 1);
        left.send_in(&mut call.caller, "INVITE", "", &raise(call.caller_stream.sdp(direction)));
        let request = right.incoming("INVITE");
        right.reply(&request, 200, "", &raise(call.callee_stream.sdp(reverse)));
        left.await_status(&mut call.caller, 200);
        left.ack(&call.caller, "");
        right.incoming("ACK");
    }
    call.check_media();
    call.end_by_caller(&mut left, &mut right);
    let taped = ended(&server);
    assert_eq!(taped.frames[&0], (1..=2 * CHECKED).collect::<Vec<_>>());
    assert_eq!(taped.frames[&1], (1..=2 * CHECKED).collect::<Vec<_>>());
    assert_eq!(taped.marks.iter().filter(|mark| matches!(mark, Mark::Begin { .. })).count(), 1);
}

/// A key as RFC 4733 sends it: three packets of one event, and three that end it.
fn press(call: &mut Call, keys: &str) {
    press_as(call, keys, 101);
}

fn press_as(call: &mut Call, keys: &str, payload_type: u8) {
    let to = call.relay().0;
    for (index, key) in keys.chars().enumerate() {
        let event = "0123456789*#".find(key).unwrap() as u8;
        for packet in 0..6u8 {
            let end = if packet >= 3 { 0x80 } else { 0 };
            let mut bytes = vec![0x80, payload_type, 0xF0, packet + 6 * index as u8];
            bytes.extend_from_slice(&(900_000 + 8_000 * index as u32).to_be_bytes());
            bytes.extend_from_slice(&0x1000_0001u32.to_be_bytes());
            bytes.extend_from_slice(&[event, end | 10, 0, 160]);
            call.caller_stream.rtp.send_to(&bytes, to).unwrap();
            std::thread::sleep(Duration::from_millis(15));
        }
        std::thread::sleep(Duration::from_millis(60));
    }
    call.callee_stream.collect(Duration::from_millis(100));
}

#[test]
fn a_party_starts_pauses_and_stops_with_keys() {
    let mut server = server(["never", "on-demand", "never"]);
    let (mut left, mut right) = pair(&mut server);
    let mut call = Call::set_up(&mut left, &mut right, "1002", 1);
    call.check_media();
    assert!(tape(&server).is_empty());
    press(&mut call, "*1");
    call.check_media();
    press(&mut call, "*2");
    call.check_media();
    // A card number, while nothing may be kept: as telephone events and as INFO.
    press(&mut call, "4111");
    left.send_in(&mut call.caller, "INFO", "Content-Type: application/dtmf-relay\r\n", "Signal=9\r\nDuration=100\r\n");
    let info: Message = right.incoming("INFO");
    right.reply(&info, 200, "", "");
    left.await_status(&mut call.caller, 200);
    press(&mut call, "*2");
    call.check_media();
    press(&mut call, "*1");
    call.check_media();
    call.end_by_caller(&mut left, &mut right);
    let taped = ended(&server);
    let expected: Vec<_> = (CHECKED + 1..=2 * CHECKED).chain(3 * CHECKED + 1..=4 * CHECKED).collect();
    assert_eq!(taped.frames[&1], expected, "the callee, who pressed nothing");
    let kinds: Vec<_> = taped.marks.iter().filter(|mark| !matches!(mark, Mark::Formats { .. })).collect();
    assert!(
        matches!(
            kinds[..],
            [Mark::Begin { .. }, Mark::Paused, Mark::Resumed, Mark::Untaped { .. }, Mark::Ended { .. }]
        ),
        "{kinds:?}"
    );
    // Nothing of the card number: of the keys only those of the codes, up to where they took effect.
    assert!(taped.digits <= 4 * 6, "{} packets of telephone events", taped.digits);
    let folder = server.path("data");
    assert!(!server.log().contains("Signal=9"));
    assert!(folder.join("tape/0").exists());
}

#[test]
fn the_keys_of_any_clock_and_of_either_number_are_heard() {
    let formats = "8 96 97 98\r\na=rtpmap:96 telephone-event/16000\r\na=rtpmap:97 telephone-event/48000\r\n\
                   a=rtpmap:98 opus/48000/2";
    let change = |sdp: String| {
        let is_callee = sdp.contains("o=phone 1001");
        let other =
            sdp.replace(" 0 101\r\na=rtpmap:0 PCMU/8000\r\na=rtpmap:101 telephone-event/8000", &format!(" {formats}"));
        if is_callee {
            other.replace("97 telephone-event", "99 telephone-event").replace(" 97 ", " 99 ")
        } else {
            other
        }
    };
    for payload_type in [96, 97, 99] {
        let mut server = server(["never", "always", "never"]);
        let (mut left, mut right) = pair(&mut server);
        let mut call = Call::set_up_with(&mut left, &mut right, "1002", 1, &change);
        call.check_media();
        press_as(&mut call, "*2", payload_type);
        call.check_media();
        call.end_by_caller(&mut left, &mut right);
        let taped = ended(&server);
        assert!(taped.marks.contains(&Mark::Paused), "{payload_type}: {:?}", taped.marks);
        assert_eq!(taped.frames[&1].len(), usize::from(CHECKED));
    }
}

#[test]
fn what_a_held_party_goes_on_saying_is_in_the_mark_of_the_end() {
    let mut server = server(["always", "never", "never"]);
    let (mut left, mut right) = pair(&mut server);
    let mut call = Call::set_up(&mut left, &mut right, "1002", 1);
    call.check_media();
    let hold = call.caller_stream.sdp("sendonly").replacen(" 1 IN", " 2 IN", 1);
    left.send_in(&mut call.caller, "INVITE", "", &hold);
    let offer = right.incoming("INVITE");
    right.reply(&offer, 200, "", &call.callee_stream.sdp("recvonly").replacen(" 1 IN", " 2 IN", 1));
    left.await_status(&mut call.caller, 200);
    left.ack(&call.caller, "");
    right.incoming("ACK");
    let (_, right_via) = call.relay();
    call.callee_stream.send_many(25, right_via);
    let mut stranger = crate::rtp::Stream::open(server.fresh_ip(), 9);
    stranger.send_many(3, right_via);
    call.end_by_caller(&mut left, &mut right);
    let taped = ended(&server);
    assert_eq!(taped.frames[&1].len(), usize::from(CHECKED));
    let untaped = taped.marks.iter().find_map(|mark| match mark {
        Mark::Untaped { untaped } => Some(untaped.clone()),
        _ => None,
    });
    let callee = untaped.iter().flatten().find(|counted| counted.leg == 1).copied().expect("the callee's");
    assert_eq!((callee.direction, callee.malformed, callee.encrypted, callee.overrun), (25, 0, 0, 0));
    // Most of them the kernel may have dropped at the connected socket.
    assert!(callee.strangers <= 3);
}

#[test]
fn a_killed_engine_loses_nothing_that_it_had_received() {
    let mut server = server(["never", "always", "never"]);
    let (mut left, mut right) = pair(&mut server);
    let mut call = Call::set_up(&mut left, &mut right, "1002", 1);
    call.check_media();
    let (to, _) = call.relay();
    // Received and relayed, and the engine is killed at once: most of it is in the ring alone.
    for _ in 0..30 {
        call.caller_stream.send(to);
    }
    let arrived = call.callee_stream.collect(Duration::from_millis(30)).len() as u16;
    // It would take the first segment over.
    let side = server.pid_of("side").expect("a side");
    server.signal(side, Signal::STOP);
    let engine = server.pid_of("engine").expect("an engine");
    server.signal(engine, Signal::KILL);
    eventually(PATIENCE, || server.pid_of("engine").filter(|pid| *pid != engine)).expect("a new engine");
    let wanted: Vec<_> = (1..=CHECKED + arrived).collect();
    let found = eventually(PATIENCE, || {
        let (_, taped) = tape(&server).into_iter().next()?;
        (taped.frames.get(&0)? == &wanted).then_some(())
    });
    assert!(found.is_some(), "{:?}\n{}", tape(&server), server.log());
    assert!(files::list(&server.path("data/tape"), ShardId(0)).unwrap().len() >= 2);
    server.signal(side, Signal::CONT);
}

#[test]
fn the_tape_is_read_without_the_side_process() {
    let mut server = server(["never", "always", "never"]);
    let (mut left, mut right) = pair(&mut server);
    let mut call = Call::set_up(&mut left, &mut right, "1002", 1);
    call.check_media();
    let id = server.live_call();
    call.end_by_caller(&mut left, &mut right);
    ended(&server);
    let (code, text) = server.command(&["tape", "verify"]);
    assert_eq!(code, 0, "{text}");
    assert!(text.contains(&id) && text.contains("complete"), "{text}");
    let (code, text) = server.command(&["tape", "inspect"]);
    assert!(code == 0 && text.contains("media"), "{text}");
    let file = server.path("call.pcap");
    let (code, text) = server.command(&["tape", "export", &id, "--out", file.to_str().unwrap()]);
    assert_eq!(code, 0, "{text}");
    let pcap = std::fs::read(file).unwrap();
    assert_eq!(pcap.len(), 24 + 2 * usize::from(CHECKED) * (16 + 28 + 172));
}

#[test]
fn a_recorded_call_is_there_over_http_when_it_has_ended() {
    let mut server = server(["always", "never", "never"]);
    let (mut left, mut right) = pair(&mut server);
    let mut call = Call::set_up(&mut left, &mut right, "1002", 1);
    call.check_media();
    let id = server.live_call();
    heard_so_far(&server, &id);
    call.end_by_caller(&mut left, &mut right);
    let found = eventually(PATIENCE, || {
        let item = server.json(&format!("/v1/recordings?call={id}"))["items"].get(0)?.clone();
        (item["state"] == "completed" && item["from"] == "1001" && item["to"] == "1002").then_some(item)
    });
    let item = found.unwrap_or_else(|| panic!("no recording\n{}", server.log()));
    assert_eq!(
        (&item["state"], &item["verdict"], &item["tenant"]),
        (&"completed".into(), &"complete".into(), &"acme".into())
    );
    let ledger = item["ledger"].as_array().expect("a ledger");
    let parties: Vec<_> = ledger.iter().filter_map(|line| line["party"].as_str()).collect();
    assert_eq!(parties, ["caller", "callee"]);
    for line in ledger {
        assert_eq!((&line["received"], &line["written"]), (&CHECKED.into(), &CHECKED.into()), "{line}");
    }
    let segments = item["segments"].as_array().expect("segments");
    assert_eq!(segments.len(), 2, "{item}");
    assert!(segments.iter().all(|one| one["codec"] == "pcmu" && one["packets"] == CHECKED), "{item}");
}

/// While the call is up its recording is listed, and there is sound of both parties in it.
fn heard_so_far(server: &Server, call: &str) {
    let items = server.json(&format!("/v1/recordings?call={call}"))["items"].clone();
    assert_eq!(items[0]["state"], "recording", "{items}\n{}", server.log());
    assert!(items[0]["verdict"].is_null() && items[0]["from"] == "1001", "{items}");
    let path = format!("/v1/recordings/{call}");
    let both = eventually(PATIENCE, || {
        let peaks = server.json(&format!("{path}/peaks"));
        let has_sound = |side: &str| peaks[side].as_array()?.iter().any(|peak| *peak != 0).then_some(());
        has_sound("left").and_then(|()| has_sound("right"))
    });
    assert!(both.is_some(), "nothing is heard\n{}", server.log());
    let media = server.get(&format!("{path}/media")).expect("an answer");
    assert_eq!(media.status, 200, "{}", media.body);
    assert!(media.body.starts_with("RIFF"));
}

/// Recordings of the whole server in a real object store, and in one that is not there.
#[cfg(feature = "s3")]
#[test]
#[ignore = "needs a server that speaks S3, named by TIPRING_TEST_S3 (docs/recording-proof.md)"]
fn recordings_go_to_an_object_store() {
    let real = std::env::var("TIPRING_TEST_S3").expect("TIPRING_TEST_S3 names a server");
    let key = |name: &str, default: &str| std::env::var(name).unwrap_or_else(|_| default.to_owned());
    let (id, secret) = (key("TIPRING_TEST_S3_KEY", "test"), key("TIPRING_TEST_S3_SECRET", "test-secret"));
    for (endpoint, goes_up) in [(real.as_str(), true), ("http://127.0.0.1:9", false)] {
        let mut server = Server::start(|setup| {
            setup.directory = Some(directory(["always", "never", "never"]));
            setup.more = format!(
                "[recordings]\nstore = \"s3://recordings/e2e\"\nendpoint = \"{endpoint}\"\n\
                 access_key = \"{id}\"\nsecret_key = \"{secret}\"\n"
            );
        });
        let (mut left, mut right) = pair(&mut server);
        let mut call = Call::set_up(&mut left, &mut right, "1002", 1);
        call.check_media();
        let id = server.live_call();
        call.end_by_caller(&mut left, &mut right);
        let name = if goes_up { "tipring_side_uploads_total" } else { "tipring_side_upload_failures_total" };
        let counted = eventually(PATIENCE * 4, || server.metric(name, "").filter(|count| *count >= 1.0));
        assert!(counted.is_some(), "{name}\n{}", server.log());
        let folders = std::fs::read_dir(server.path("data/recordings/audio")).unwrap().flatten();
        let files = folders.map(|folder| std::fs::read_dir(folder.path()).unwrap().count()).sum::<usize>();
        assert_eq!(files, usize::from(!goes_up));
        let media = server.get(&format!("/v1/recordings/{id}/media")).unwrap();
        assert_eq!((media.status, media.bytes.starts_with(b"RIFF")), (200, true), "{}", server.log());
        assert_eq!(server.delete(&format!("/v1/recordings/{id}")).unwrap().status, 204);
        assert_eq!(server.get(&format!("/v1/recordings/{id}/media")).unwrap().status, 410);
        let log = server.log();
        assert!(!log.contains(&secret), "{log}");
        assert_eq!(log.contains("recording.upload"), !goes_up, "{log}");
    }
}
