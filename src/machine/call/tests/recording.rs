//! Who is recorded, from when on, what is told about it, and what keys and operators may change.

use super::ladder::*;
use crate::machine::call::input::CallInput;
use crate::machine::call::recording::Wanted;
use crate::machine::media::announcement::Sound;
use crate::machine::media::announcement::Voice;
use crate::machine::media::command::MediaCommand;
use crate::machine::media::command::MediaNotice;
use crate::machine::media::command::Notice;
use crate::machine::media::command::PairId;
use crate::machine::media::command::TapeSwitch;
use crate::wire::event::Body;
use crate::wire::event::By;
use crate::wire::g711::Law;
use crate::wire::link::Record;
use crate::wire::link::RecordCodecs;
use crate::wire::link::RecordWish;
use crate::wire::tape::Mark;

fn wanted(tenant: Record, caller: Record, callee: Record) -> Wanted {
    Wanted { tenant, caller, callees: vec![("1002".to_owned(), callee)], announce: None, codecs: RecordCodecs::Any }
}

/// A call that is up: Alice (10) talks to host 20.
fn call(record: Wanted) -> (Ladder, Phone) {
    let mut ladder = Ladder::recorded(&invite("", &sdp(10, "")), &[20], record);
    let offer = ladder.expect(20, "INVITE");
    ladder.expect(10, "SIP/2.0 100");
    ladder.receive(20, &offer.response(200, "b1", "", &sdp(20, "")));
    ladder.expect(20, "ACK");
    let answer = ladder.expect(10, "SIP/2.0 200");
    let mut alice = Phone::alice(&answer);
    ladder.receive(10, &alice.ack(10, ""));
    (ladder, alice)
}

impl Ladder {
    fn switches(&mut self) -> Vec<(PairId, TapeSwitch)> {
        let media = std::mem::take(&mut self.media);
        let switch = |command: MediaCommand| match command {
            MediaCommand::Tape { pair, switch } => Some((pair, switch)),
            _ => None,
        };
        media.into_iter().filter_map(switch).collect()
    }

    fn announcements(&mut self) -> Vec<(PairId, Option<Voice>)> {
        let media = std::mem::take(&mut self.media);
        let announcement = |command: MediaCommand| match command {
            MediaCommand::Announce { pair, voice } => Some((pair, voice)),
            _ => None,
        };
        media.into_iter().filter_map(announcement).collect()
    }

    fn announced(&mut self, leg: u8, played: bool) {
        let (pair, owner) =
            self.owners.iter().map(|(pair, owner)| (*pair, *owner)).find(|(_, o)| o.leg == leg).unwrap();
        self.step(CallInput::Media(MediaNotice { pair, owner, notice: Notice::Announced { played } }));
    }

    fn names(&self) -> Vec<&'static str> {
        self.events.iter().map(|(_, body)| body.name()).filter(|name| name.starts_with("recording")).collect()
    }

    fn press(&mut self, leg: u8, keys: &str) {
        let (pair, owner) =
            self.owners.iter().map(|(pair, owner)| (*pair, *owner)).find(|(_, o)| o.leg == leg).unwrap();
        for digit in keys.chars() {
            self.step(CallInput::Media(MediaNotice { pair, owner, notice: Notice::Digit { digit } }));
        }
    }
}

#[test]
fn the_strongest_wish_counts() {
    use Record::Always;
    use Record::Never;
    use Record::OnDemand;
    let check = |tenant, caller, callee, expect: bool| {
        let (ladder, _) = call(wanted(tenant, caller, callee));
        assert_eq!(ladder.names().contains(&"recording.started"), expect, "{tenant:?} {caller:?} {callee:?}");
    };
    check(Never, Never, Never, false);
    check(Always, Never, Never, true);
    check(Never, Always, Never, true);
    check(Never, Never, Always, true);
    check(OnDemand, OnDemand, OnDemand, false);
    check(OnDemand, Never, Always, true);
}

#[test]
fn a_recording_is_told_with_its_formats_and_counts() {
    let (mut ladder, mut alice) = call(wanted(Record::Always, Record::Never, Record::Never));
    let switches = ladder.switches();
    let on: Vec<_> = switches.iter().filter(|(_, switch)| matches!(switch, TapeSwitch::On(_))).collect();
    assert!(on.len() >= 2 && on.iter().all(|(_, switch)| *switch == TapeSwitch::On(ladder.call.id())));
    assert_eq!(ladder.names(), ["recording.started", "recording.formats", "recording.formats"]);
    let names = |mark: &Mark| match mark {
        Mark::Formats { formats, .. } => formats.iter().map(|format| format.name.clone()).collect(),
        _ => Vec::new(),
    };
    assert_eq!(names(&ladder.marks[1]), ["pcmu", "telephone-event"]);
    // A hold changes nothing of it, and begins no other.
    ladder.receive(10, &alice.request("INVITE", "", &sdp(10, "a=sendonly\r\n")));
    let offer = ladder.expect(20, "INVITE");
    ladder.receive(20, &offer.response(200, "b1", "", &sdp(20, "a=recvonly\r\n")));
    ladder.take_sent();
    assert_eq!(ladder.names().len(), 3);
    ladder.receive(10, &alice.request("BYE", "", ""));
    let bye = ladder.expect(20, "BYE");
    ladder.receive(20, &bye.response(200, "", "", ""));
    ladder.take_sent();
    ladder.finish();
    assert_eq!(ladder.names().last(), Some(&"recording.stopped"));
    let Some(Mark::Ended { frames }) = ladder.marks.last() else { panic!("{:?}", ladder.marks) };
    assert_eq!(frames.iter().map(|counted| (counted.leg, counted.stream)).collect::<Vec<_>>(), [(0, 0), (1, 0)]);
    let last: Vec<_> = ladder.events.iter().rev().take(2).map(|(_, body)| body.name()).collect();
    assert_eq!(last, ["call.ended", "recording.stopped"]);
}

#[test]
fn both_parties_are_told_once_and_it_is_noted() {
    let always = wanted(Record::Always, Record::Never, Record::Never);
    let (mut ladder, mut alice) = call(Wanted { announce: Some(Sound::Tone), ..always });
    let asked = ladder.announcements();
    let voices: Vec<_> = asked.iter().map(|(_, voice)| voice.unwrap()).collect();
    assert_eq!(asked.len(), 2);
    assert!(voices.iter().all(|voice| (voice.sound, voice.law, voice.payload_type) == (Sound::Tone, Law::Mu, 0)));
    assert_ne!(voices[0].ssrc, voices[1].ssrc);
    assert!(!ladder.names().contains(&"recording.announced"));
    ladder.announced(0, true);
    // A negotiation that changes no codec changes nothing.
    ladder.receive(10, &alice.request("INVITE", "", &sdp(10, "a=sendonly\r\n")));
    let offer = ladder.expect(20, "INVITE");
    ladder.receive(20, &offer.response(200, "b1", "", &sdp(20, "a=recvonly\r\n")));
    ladder.take_sent();
    assert!(ladder.announcements().is_empty());
    ladder.receive(10, &alice.request("BYE", "", ""));
    let bye = ladder.expect(20, "BYE");
    ladder.receive(20, &bye.response(200, "", "", ""));
    ladder.take_sent();
    ladder.finish();
    let told = |played: bool, leg: u8| Mark::Announced { leg, announce: "tone".to_owned(), played };
    let marks: Vec<_> = ladder.marks.iter().filter(|mark| matches!(mark, Mark::Announced { .. })).collect();
    assert_eq!(marks, [&told(true, 0), &told(false, 1)]);
    assert!(matches!(ladder.marks.last(), Some(Mark::Ended { .. })));
    assert!(ladder.has_event(|body| *body == Body::RecordingAnnounced { announce: "tone".to_owned(), played: false }));
}

#[test]
fn who_is_not_recorded_hears_nothing_and_each_recording_is_told() {
    let (mut ladder, _) = call(Wanted { announce: Some(Sound::File), ..Wanted::default() });
    assert!(ladder.announcements().is_empty());
    for _ in 0..2 {
        ladder.step(CallInput::Record { wish: RecordWish::Start, by: By::Operator });
        assert_eq!(ladder.announcements().len(), 2);
        ladder.announced(0, true);
        ladder.step(CallInput::Record { wish: RecordWish::Stop, by: By::Operator });
        let ended = ladder.announcements();
        assert!(matches!(ended[..], [(_, None)]), "the callee, who was still to hear it: {ended:?}");
    }
    let (mut ladder, _) = call(wanted(Record::Always, Record::Never, Record::Never));
    assert!(ladder.announcements().is_empty() && !ladder.names().contains(&"recording.announced"));
}

#[test]
fn what_cannot_be_told_is_noted() {
    let always = Wanted { announce: Some(Sound::Tone), ..wanted(Record::Always, Record::Never, Record::Never) };
    let opus = |host: u8| sdp(host, "a=rtpmap:96 opus/48000/2\r\n").replace("AVP 0", "AVP 96");
    let mut ladder = Ladder::recorded(&invite("", &opus(10)), &[20], always);
    let offer = ladder.expect(20, "INVITE");
    ladder.expect(10, "SIP/2.0 100");
    ladder.receive(20, &offer.response(200, "b1", "", &opus(20)));
    assert!(ladder.announcements().is_empty());
    let told = ladder.marks.iter().filter(|mark| matches!(mark, Mark::Announced { played: false, .. }));
    assert_eq!(told.count(), 2);
}

#[test]
fn keys_of_those_who_may() {
    let (mut ladder, _) = call(wanted(Record::Never, Record::OnDemand, Record::Never));
    ladder.press(1, "*1");
    assert!(ladder.names().is_empty(), "the callee's phone is never recorded");
    ladder.press(0, "5*1");
    assert_eq!(ladder.names()[0], "recording.started");
    assert!(ladder.has_event(|body| matches!(body, Body::RecordingStarted { by: By::Caller })));
    ladder.switches();
    ladder.press(0, "*2");
    assert!(ladder.switches().iter().all(|(_, switch)| *switch == TapeSwitch::Paused));
    ladder.press(0, "4111*");
    assert_eq!(ladder.names().last(), Some(&"recording.paused"));
    ladder.press(0, "2");
    assert_eq!(ladder.names().last(), Some(&"recording.resumed"));
    assert!(ladder.switches().iter().all(|(_, switch)| matches!(switch, TapeSwitch::On(_))));
    ladder.press(0, "*1");
    assert_eq!(ladder.names().last(), Some(&"recording.stopped"));
    ladder.press(0, "*1");
    assert_eq!(ladder.marks.iter().filter(|mark| matches!(mark, Mark::Begin { .. })).count(), 2);
}

#[test]
fn keys_far_apart_are_no_code_and_nobody_stops_what_is_always_recorded() {
    let (mut ladder, _) = call(wanted(Record::Always, Record::Never, Record::Never));
    ladder.press(0, "*1");
    assert!(!ladder.has_event(|body| matches!(body, Body::RecordingStopped { .. })));
    ladder.press(0, "*");
    ladder.advance(std::time::Duration::from_secs(4));
    ladder.press(0, "2");
    assert!(!ladder.has_event(|body| matches!(body, Body::RecordingPaused { .. })));
}

#[test]
fn an_operator_may_all_of_it() {
    let (mut ladder, _) = call(Wanted::default());
    let wish = |ladder: &mut Ladder, wish| ladder.step(CallInput::Record { wish, by: By::Operator });
    wish(&mut ladder, RecordWish::Pause);
    wish(&mut ladder, RecordWish::Stop);
    assert!(ladder.names().is_empty());
    for wanted in [RecordWish::Start, RecordWish::Start, RecordWish::Pause, RecordWish::Pause, RecordWish::Resume] {
        wish(&mut ladder, wanted);
    }
    wish(&mut ladder, RecordWish::Stop);
    assert_eq!(
        ladder.names(),
        [
            "recording.started",
            "recording.formats",
            "recording.formats",
            "recording.paused",
            "recording.resumed",
            "recording.stopped"
        ]
    );
}

/// In whatever way a phone writes it, from either side, and though the media are the phones' own secret.
#[test]
fn keys_by_info_are_the_keys_of_a_phone() {
    let relay =
        ["Signal=KEY\r\nDuration=160\r\n", "Signal= KEY\r\nDuration= 160\r\n", "Duration=160\r\nSignal=KEY\r\n"];
    let odd = [
        "\r\nSignal=KEY\r\n",
        "signal = KEY\nDuration=160\n",
        "Signal=KEY\rDuration=160\r",
        "SIGNAL: KEY",
        "Signal=KEY\r\n\0",
    ];
    let bare = ["KEY", "KEY\r\n", " KEY \n", "\r\nKEY"];
    let relay = relay.iter().chain(&odd).map(|body| ("application/dtmf-relay", *body));
    let bare = bare.iter().map(|body| ("Application/DTMF; x=y", *body));
    for (kind, body) in relay.chain(bare) {
        for (star, side, secure) in [("*", 10, false), ("10", 20, true), ("*", 20, false), ("10", 10, true)] {
            let own = |host| if secure { sdp(host, "").replace("RTP/AVP", "RTP/SAVP") } else { sdp(host, "") };
            let on_demand = wanted(Record::OnDemand, Record::Never, Record::Never);
            let mut ladder = Ladder::recorded(&invite("", &own(10)), &[20], on_demand);
            let offer = ladder.expect(20, "INVITE");
            ladder.expect(10, "SIP/2.0 100");
            ladder.receive(20, &offer.response(200, "b1", "", &own(20)));
            ladder.expect(20, "ACK");
            let mut alice = Phone::alice(&ladder.expect(10, "SIP/2.0 200"));
            ladder.receive(10, &alice.ack(10, ""));
            let mut bob = Phone::callee(20, &offer, "b1");
            for key in [star, "1"] {
                let phone = if side == 10 { &mut alice } else { &mut bob };
                let head = format!("Content-Type: {kind}\r\n");
                ladder.receive(side, &phone.request("INFO", &head, &body.replace("KEY", key)));
                let other = 30 - side;
                let passed = ladder.expect(other, "INFO");
                assert_eq!(passed.body(), body.replace("KEY", key));
                ladder.receive(other, &passed.response(200, "", "", ""));
                ladder.expect(side, "SIP/2.0 200");
            }
            assert!(ladder.names().contains(&"recording.started"), "{kind} {body:?} {side} {secure}");
        }
    }
}

#[test]
fn a_digit_by_info_is_told_but_not_while_nothing_may_be_kept() {
    let (mut ladder, mut alice) = call(wanted(Record::Always, Record::Never, Record::Never));
    let mut info = |ladder: &mut Ladder| {
        let before = ladder.events.len();
        let headers = "Content-Type: application/dtmf-relay\r\n";
        ladder.receive(10, &alice.request("INFO", headers, "Signal=5\r\nDuration=100\r\n"));
        let passed = ladder.expect(20, "INFO");
        assert!(passed.text.contains("Signal=5"), "it still reaches the other phone");
        ladder.receive(20, &passed.response(200, "", "", ""));
        ladder.take_sent();
        ladder.events[before..].iter().any(|(_, body)| matches!(body, Body::DigitSent { .. }))
    };
    assert!(info(&mut ladder));
    ladder.step(CallInput::Record { wish: RecordWish::Pause, by: By::Operator });
    assert!(!info(&mut ladder));
    ladder.step(CallInput::Record { wish: RecordWish::Resume, by: By::Operator });
    assert!(info(&mut ladder));
}

const CODECS: &str = "a=rtpmap:97 speex/16000\r\n";

fn many(host: u8, formats: &str) -> String {
    sdp(host, CODECS).replace("RTP/AVP 0 101", &format!("RTP/AVP {formats}"))
}

/// The formats of the first m-line.
fn offered(sent: &Sent) -> String {
    let body = sent.body();
    let line = body.lines().find(|line| line.starts_with("m=")).unwrap();
    line.split_once("RTP/AVP ").unwrap().1.to_owned()
}

/// By whoever wants the recording, and in whatever the offer comes.
#[test]
fn who_may_be_recorded_is_offered_what_can_be_decoded() {
    use Record::Always;
    use Record::Never;
    use Record::OnDemand;
    let all = "3 97 0 101";
    let check = |wanted: Wanted, codecs: RecordCodecs, expected: &str| {
        let wanted = Wanted { codecs, ..wanted };
        let mut ladder = Ladder::recorded(&invite("", &many(10, all)), &[20], wanted.clone());
        ladder.expect(10, "SIP/2.0 100");
        let offer = ladder.expect(20, "INVITE");
        assert_eq!(offered(&offer), expected);
        assert_eq!(offer.body().contains("speex"), expected == all);
        ladder.receive(20, &offer.response(200, "b1", "Allow: INVITE, UPDATE\r\n", &sdp(20, "")));
        ladder.expect(20, "ACK");
        let answer = ladder.expect(10, "SIP/2.0 200");
        let (mut alice, mut bob) = (Phone::alice(&answer), Phone::callee(20, &offer, "b1"));
        ladder.receive(10, &alice.ack(10, ""));
        for method in ["INVITE", "UPDATE"] {
            for (host, other) in [(10, 20), (20, 10)] {
                let phone = if host == 10 { &mut alice } else { &mut bob };
                // Both know UPDATE, so that an offer keeps its method.
                ladder.receive(host, &phone.request(method, "", &many(host, all)));
                if method == "INVITE" {
                    ladder.expect(host, "SIP/2.0 100");
                }
                let carried = ladder.expect(other, method);
                assert_eq!(offered(&carried), expected, "{method}");
                ladder.receive(other, &carried.response(200, "", "", &sdp(other, "")));
                if method == "INVITE" {
                    ladder.expect(other, "ACK");
                }
                let agreed = ladder.expect(host, "SIP/2.0 200");
                if method == "INVITE" {
                    ladder.receive(host, &phone.ack(agreed.cseq(), ""));
                }
            }
        }
        // An offer that was asked for, within the dialog and in a 200 to the first INVITE.
        ladder.receive(10, &alice.request("INVITE", "", ""));
        ladder.expect(10, "SIP/2.0 100");
        let asked = ladder.expect(20, "INVITE");
        ladder.receive(20, &asked.response(200, "", "", &many(20, all)));
        assert_eq!(offered(&ladder.expect(10, "SIP/2.0 200")), expected);
        let mut ladder = Ladder::recorded(&invite("", ""), &[20], wanted);
        ladder.expect(10, "SIP/2.0 100");
        let asked = ladder.expect(20, "INVITE");
        ladder.receive(20, &asked.response(200, "b1", "", &many(20, all)));
        assert_eq!(offered(&ladder.expect(10, "SIP/2.0 200")), expected);
    };
    let narrow = RecordCodecs::Decodable;
    check(wanted(Always, Never, Never), narrow, "0 101");
    check(wanted(Never, OnDemand, Never), narrow, "0 101");
    check(wanted(Never, Never, Always), narrow, "0 101");
    check(wanted(Never, Never, Never), narrow, all);
    check(wanted(Always, Always, Always), RecordCodecs::Any, all);
}

/// That two can talk comes first; the log names the codec.
#[test]
fn an_offer_of_which_nothing_can_be_decoded_passes() {
    let narrow = Wanted { codecs: RecordCodecs::Decodable, ..wanted(Record::Always, Record::Never, Record::Never) };
    let mut ladder = Ladder::recorded(&invite("", &many(10, "3 97 101")), &[20], narrow);
    ladder.expect(10, "SIP/2.0 100");
    assert_eq!(offered(&ladder.expect(20, "INVITE")), "3 97 101");
}
