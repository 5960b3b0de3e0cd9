//! What happens in the course of a call and is told, but not more often than a reader needs.

use std::time::Duration;

use super::ladder::*;
use crate::base::id::Handle;
use crate::machine::call::change::PAUSE;
use crate::machine::call::input::CallInput;
use crate::machine::media::command::MediaNotice;
use crate::machine::media::command::Notice;
use crate::machine::media::command::Owner;
use crate::machine::media::command::PairId;
use crate::wire::event::Body;
use crate::wire::event::By;

const HOLD: &str = "a=sendonly\r\n";
const TIMER: &str = "Allow: UPDATE\r\nRequire: timer\r\nSession-Expires: 600;refresher=uac\r\n";

impl Ladder {
    /// The relay says something of Bob's stream.
    fn notice(&mut self, stream: u8, notice: Notice) {
        let owner = Owner { call: Handle { slot: 5, generation: 9 }, leg: 1, media: stream };
        self.step(CallInput::Media(MediaNotice { pair: PairId(0), owner, notice }));
    }

    fn one_way(&mut self) {
        let since = self.now;
        self.notice(0, Notice::OneWay { since });
    }

    /// What was told since this was asked last.
    fn told(&mut self) -> Vec<(Option<u8>, Body)> {
        std::mem::take(&mut self.events)
    }

    fn reasons(&self, wanted: &str) -> usize {
        self.call.trace().iter().filter(|step| step.reason == wanted).count()
    }
}

#[test]
fn media_that_moves_is_told_seldom_and_traced_each_time() {
    let Talk { mut ladder, .. } = talk("", "");
    ladder.told();
    let moved = |port: u16| {
        let at = |port| format!("192.0.2.20:{port}").parse().unwrap();
        Notice::Relatched { from: at(port), to: at(port + 2) }
    };
    let body = |stream: u8, port: u16| {
        let (from, to) = (format!("192.0.2.20:{port}"), format!("192.0.2.20:{}", port + 2));
        (Some(1), Body::MediaMoved { stream, from, to })
    };
    for port in 0..100 {
        ladder.notice(0, moved(4_000 + 2 * port));
        ladder.notice(1, moved(5_000 + 2 * port));
    }
    assert_eq!(ladder.told(), [body(0, 4_000), body(1, 5_000)]);
    assert_eq!(ladder.reasons("stream 0 comes from another address"), 32, "half of the steps that a trace keeps");
    ladder.advance(PAUSE - Duration::from_millis(1));
    ladder.notice(0, moved(4_200));
    assert_eq!(ladder.told(), []);
    ladder.advance(Duration::from_millis(1));
    ladder.notice(0, moved(4_202));
    assert_eq!(ladder.told(), [body(0, 4_202)]);
}

#[test]
fn one_way_audio_is_told_and_its_end_where_its_begin_was() {
    let Talk { mut ladder, .. } = talk("", "");
    ladder.told();
    let (begun, over) = ((Some(1), Body::MediaOneWay { stream: 0 }), (Some(1), Body::MediaOneWayOver { stream: 0 }));
    ladder.one_way();
    assert_eq!(ladder.told(), std::slice::from_ref(&begun));
    ladder.advance(Duration::from_secs(1));
    ladder.notice(0, Notice::OneWayOver);
    assert_eq!(ladder.told(), std::slice::from_ref(&over));
    ladder.one_way();
    ladder.notice(0, Notice::OneWayOver);
    assert_eq!(ladder.told(), []);
    ladder.advance(PAUSE);
    ladder.one_way();
    ladder.notice(0, Notice::OneWayOver);
    ladder.notice(0, Notice::OneWayOver);
    assert_eq!(ladder.told(), [begun, over]);
}

#[test]
fn glare_is_told_of_whose_offer_gets_491() {
    let Talk { mut ladder, mut alice, mut bob } = talk("", "");
    ladder.told();
    ladder.receive(10, &alice.request("INVITE", "", &sdp(10, HOLD)));
    ladder.expect(10, "SIP/2.0 100");
    let offer = ladder.expect(20, "INVITE");
    for _ in 0..3 {
        ladder.receive(20, &bob.request("UPDATE", "", &sdp(20, HOLD)));
        ladder.expect(20, "SIP/2.0 491");
    }
    assert_eq!(ladder.told(), [(Some(1), Body::Glare { method: "UPDATE".to_owned(), by: By::Callee })]);
    // An offer that overtakes one's own meets nobody's.
    ladder.receive(10, &alice.request("UPDATE", "", &sdp(10, "")));
    ladder.expect(10, "SIP/2.0 500");
    assert_eq!(ladder.told(), []);
    ladder.receive(20, &offer.response(491, "b1", "", ""));
    ladder.expect(10, "SIP/2.0 491");
    assert_eq!(ladder.told(), [(Some(0), Body::Glare { method: "INVITE".to_owned(), by: By::Caller })]);
    // Two re-INVITEs.
    let Talk { mut ladder, mut alice, mut bob } = talk("", "");
    ladder.told();
    ladder.receive(10, &alice.request("INVITE", "", &sdp(10, HOLD)));
    ladder.receive(20, &bob.request("INVITE", "", &sdp(20, HOLD)));
    assert_eq!(ladder.told(), [(Some(1), Body::Glare { method: "INVITE".to_owned(), by: By::Callee })]);
}

#[test]
fn our_refreshes_are_told_and_those_that_fail() {
    let Talk { mut ladder, .. } = talk("", TIMER);
    ladder.told();
    let refreshed = (Some(1), Body::SessionRefreshed { method: "UPDATE".to_owned(), by: By::System, secs: 600 });
    ladder.advance(Duration::from_secs(300));
    let refresh = ladder.expect(20, "UPDATE");
    ladder.receive(20, &refresh.response(200, "b1", "Session-Expires: 600;refresher=uac\r\n", ""));
    assert_eq!(ladder.told(), [refreshed]);
    ladder.advance(Duration::from_secs(300));
    // The last of its repeats.
    let last = |ladder: &mut Ladder| ladder.take_sent().pop().unwrap();
    for _ in 0..2 {
        let refresh = last(&mut ladder);
        ladder.receive(20, &refresh.response(500, "b1", "", ""));
        ladder.advance(Duration::from_secs(4));
    }
    let failed = |status: u16, by: By| (Some(1), Body::SessionRefreshFailed { status, by });
    assert_eq!(ladder.told(), [failed(500, By::System)]);
    assert_eq!(ladder.reasons("session not refreshed: 500"), 2);
    ladder.advance(PAUSE);
    let refresh = last(&mut ladder);
    ladder.receive(20, &refresh.response(481, "b1", "", ""));
    assert_eq!(ladder.told()[0], failed(481, By::System));
    assert!(!ladder.call.is_up());
}

#[test]
fn refreshes_of_a_phone_are_told_and_those_that_do_not_come() {
    let wish = "Supported: timer\r\nSession-Expires: 600;refresher=uac\r\n";
    let Talk { mut ladder, mut alice, .. } = talk(wish, "");
    ladder.told();
    let refreshed =
        |method: &str| (Some(0), Body::SessionRefreshed { method: method.to_owned(), by: By::Caller, secs: 600 });
    for _ in 0..3 {
        ladder.receive(10, &alice.request("UPDATE", wish, ""));
        ladder.expect(10, "SIP/2.0 200");
    }
    assert_eq!(ladder.told(), [refreshed("UPDATE")]);
    ladder.advance(PAUSE);
    ladder.receive(10, &alice.request("INVITE", wish, &sdp(10, "")));
    let offer = ladder.expect(20, "INVITE");
    ladder.receive(20, &offer.response(200, "b1", "", &sdp(20, "")));
    ladder.take_sent();
    ladder.receive(10, &alice.ack(alice.cseq, ""));
    let told = ladder.told();
    assert!(matches!(told[..], [(_, Body::Renegotiated { .. }), _]) && told[1] == refreshed("INVITE"), "{told:?}");
    ladder.advance(Duration::from_secs(570));
    assert_eq!(ladder.events[0], (Some(0), Body::SessionRefreshFailed { status: 408, by: By::Caller }));
    assert_eq!(ladder.finish().by, By::Timer);
    // Without a timer there is nothing to refresh.
    let Talk { mut ladder, mut alice, .. } = talk("", "");
    ladder.told();
    ladder.receive(10, &alice.request("UPDATE", "", ""));
    assert_eq!(ladder.told(), []);
}
