//! Which ports are open when: streams that nobody uses hold none, and early media of several phones does not mix.

use super::ladder::*;
use crate::machine::media::command::MediaCommand;
use crate::machine::media::command::Owner;
use crate::wire::sip::HeaderId;

const VIDEO: &str = "m=video 40002 RTP/AVP 96\r\na=rtpmap:96 H264/90000\r\n";
const NO_VIDEO: &str = "m=video 0 RTP/AVP 96\r\n";

/// Legs and streams whose ports were closed, in order.
fn closed(ladder: &Ladder) -> Vec<(u8, u8)> {
    let mut owners = std::collections::BTreeMap::new();
    let mut closed = Vec::new();
    for command in &ladder.media {
        match command {
            MediaCommand::Open { pair, owner: Owner { leg, media, .. }, .. } => {
                owners.insert(*pair, (*leg, *media));
            }
            MediaCommand::Close { pair } => closed.extend(owners.remove(pair)),
            _ => {}
        }
    }
    closed
}

/// Where the caller's packets of its first stream go: the addresses that the callee's side was told, in order.
fn expected(ladder: &Ladder, leg: u8) -> Vec<String> {
    let mut pairs = Vec::new();
    let mut addresses = Vec::new();
    for command in &ladder.media {
        match command {
            MediaCommand::Open { pair, owner, .. } if owner.leg == leg => pairs.push(*pair),
            MediaCommand::Expect { pair, expectation } if pairs.contains(pair) => {
                addresses.extend(expectation.rtp.map(|rtp| rtp.ip().to_string()));
            }
            _ => {}
        }
    }
    addresses
}

#[test]
fn a_refused_stream_gives_its_ports_back_with_the_answer() {
    let mut ladder = Ladder::new(&invite("", &sdp(10, VIDEO)), &[20]);
    ladder.expect(10, "SIP/2.0 100");
    let offer = ladder.expect(20, "INVITE");
    assert_eq!(ladder.pool.counts.in_use, 4);
    ladder.receive(20, &offer.response(200, "b1", "", &sdp(20, NO_VIDEO)));
    ladder.expect(20, "ACK");
    let answer = ladder.expect(10, "SIP/2.0 200");
    assert!(answer.body().contains("m=video 0 "), "{}", answer.body());
    assert_eq!(ladder.pool.counts.in_use, 2);
    assert_eq!(closed(&ladder), [(0, 1), (1, 1)]);
    let mut alice = Phone::alice(&answer);
    ladder.receive(10, &alice.ack(10, ""));
    // Added again by a re-INVITE, and taken out by another.
    for (video, taken, in_use) in [(VIDEO, VIDEO, 4), (NO_VIDEO, NO_VIDEO, 2), (VIDEO, NO_VIDEO, 2)] {
        ladder.receive(10, &alice.request("INVITE", "", &sdp(10, video)));
        ladder.expect(10, "SIP/2.0 100");
        let offer = ladder.expect(20, "INVITE");
        ladder.receive(20, &offer.response(200, "b1", "", &sdp(20, taken)));
        ladder.expect(20, "ACK");
        ladder.expect(10, "SIP/2.0 200");
        ladder.receive(10, &alice.ack(alice.cseq, ""));
        assert_eq!(ladder.pool.counts.in_use, in_use, "{video} answered by {taken}");
    }
    ladder.receive(10, &alice.request("BYE", "", ""));
    ladder.finish();
}

#[test]
fn a_stream_of_a_refused_reinvite_gives_its_ports_back() {
    let Talk { mut ladder, mut alice, .. } = talk("", "");
    assert_eq!(ladder.pool.counts.in_use, 2);
    ladder.receive(10, &alice.request("INVITE", "", &sdp(10, VIDEO)));
    ladder.expect(10, "SIP/2.0 100");
    let offer = ladder.expect(20, "INVITE");
    assert_eq!(ladder.pool.counts.in_use, 3);
    ladder.receive(20, &offer.response(488, "b1", "", ""));
    ladder.expect(20, "ACK");
    ladder.expect(10, "SIP/2.0 488");
    assert_eq!(ladder.pool.counts.in_use, 2);
    // Audio goes on as it was.
    assert!(!ladder.has_event(|body| matches!(body, crate::wire::event::Body::CallEnded { .. })));
    ladder.receive(10, &alice.request("BYE", "", ""));
    ladder.finish();
}

#[test]
fn of_a_branch_that_forks_the_first_phone_is_heard_until_one_answers() {
    let mut ladder = Ladder::new(&invite("", &sdp(10, "")), &[20]);
    ladder.expect(10, "SIP/2.0 100");
    let offer = ladder.expect(20, "INVITE");
    ladder.receive(20, &offer.response(183, "b1", "", &sdp(21, "")));
    let first = ladder.expect(10, "SIP/2.0 183");
    ladder.receive(20, &offer.response(183, "b2", "", &sdp(22, "a=inactive\r\n")));
    let second = ladder.expect(10, "SIP/2.0 183");
    assert_ne!(first.tag(), second.tag());
    assert_eq!(expected(&ladder, 1), ["192.0.2.21"], "the second must not take the first one's packets");
    ladder.receive(20, &offer.response(183, "b1", "", &sdp(23, "")));
    ladder.expect(10, "SIP/2.0 183");
    assert_eq!(expected(&ladder, 1), ["192.0.2.21", "192.0.2.23"], "the first may move");
    ladder.receive(20, &offer.response(200, "b2", "", &sdp(22, "")));
    assert!(ladder.expect(20, "ACK").header(HeaderId::To).ends_with("tag=b2"));
    assert_eq!(ladder.expect(10, "SIP/2.0 200").tag(), second.tag());
    assert_eq!(expected(&ladder, 1).last().unwrap(), "192.0.2.22");
    ladder.finish();
}

#[test]
fn a_branch_that_is_not_heard_changes_nothing_for_the_caller() {
    let mut ladder = Ladder::new(&invite("", &sdp(10, "")), &[20, 21]);
    ladder.expect(10, "SIP/2.0 100");
    let offers = [ladder.expect(20, "INVITE"), ladder.expect(21, "INVITE")];
    ladder.receive(20, &offers[0].response(183, "b", "", &sdp(20, "")));
    let told = expected(&ladder, 0).len();
    ladder.receive(21, &offers[1].response(183, "c", "", &sdp(21, "a=inactive\r\n")));
    assert_eq!(expected(&ladder, 0).len(), told);
    // The first one gives up: the caller hears the other.
    ladder.receive(20, &offers[0].response(486, "b", "", ""));
    assert_eq!(expected(&ladder, 0).len(), told + 1);
    let last = ladder.media.iter().rev().find(|command| matches!(command, MediaCommand::Bridge { .. }));
    let opened = |leg| {
        ladder.media.iter().find_map(|command| match command {
            MediaCommand::Open { pair, owner, .. } if owner.leg == leg => Some(*pair),
            _ => None,
        })
    };
    assert_eq!(last, Some(&MediaCommand::Bridge { a: opened(0).unwrap(), b: opened(2).unwrap() }));
    ladder.receive(21, &offers[1].response(486, "c", "", ""));
    ladder.finish();
}
