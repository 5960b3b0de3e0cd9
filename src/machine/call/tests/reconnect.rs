//! A phone's connection ends while it talks: what is said to it meanwhile reaches it over its next one.

use std::time::Duration;

use super::ladder::*;
use crate::base::id::Handle;
use crate::base::id::ShardId;
use crate::machine::call::input::CallInput;
use crate::machine::flow::Connection;
use crate::machine::flow::Flow;
use crate::machine::outbox::Aor;
use crate::machine::outbox::Target;
use crate::wire::event::Body;
use crate::wire::event::By;

fn tcp(host: u8, slot: u32) -> Flow {
    let connection = Connection { shard: ShardId(0), handle: Handle { slot, generation: 1 } };
    let peer = format!("192.0.2.{host}:{}", 40_000 + slot).parse().unwrap();
    Flow { listener: 1, peer, connection: Some(connection) }
}

const CONTACT: &str = "sip:1002@192.0.2.20:40002;transport=tcp";

/// Alice over connection 1, Bob over connection 2 without an instance.
fn talk() -> Talk {
    let (alice_flow, bob_flow) = (tcp(10, 1), tcp(20, 2));
    let mut ladder = Ladder::between(&invite("", &sdp(10, "")), alice_flow, bob_flow);
    ladder.expect_over(alice_flow, "SIP/2.0 100");
    let offer = ladder.expect_over(bob_flow, "INVITE");
    ladder.receive_from(bob_flow, &offer.response(200, "b1", "", &sdp(20, "")));
    ladder.expect_over(bob_flow, "ACK");
    let answer = ladder.expect_over(alice_flow, "SIP/2.0 200");
    let mut alice = Phone::alice(&answer);
    ladder.receive_from(alice_flow, &alice.ack(10, ""));
    ladder.expect_nothing();
    ladder.located.clear();
    let bob = Phone::callee(20, &offer, "b1");
    Talk { ladder, alice, bob }
}

fn bob_at(flow: Flow) -> Target {
    Target { contact: CONTACT.to_owned(), flow, ..target(20) }
}

fn alice_at(flow: Flow) -> Target {
    let aor = Aor { tenant: "acme".to_owned(), user: "1001".to_owned() };
    Target { aor, contact: "sip:other@192.0.2.10".to_owned(), instance: "<urn:a>".to_owned(), flow, ..target(10) }
}

#[test]
fn a_bye_waits_for_the_callee_to_come_back() {
    let Talk { mut ladder, mut alice, .. } = talk();
    let (old, new) = (tcp(20, 2), tcp(20, 7));
    ladder.step(CallInput::FlowClosed(old));
    assert!(ladder.located.is_empty(), "nothing is to be said yet");
    ladder.receive_from(tcp(10, 1), &alice.request("BYE", "", ""));
    ladder.expect_over(tcp(10, 1), "SIP/2.0 200");
    assert_eq!(ladder.located, ["1002"]);
    // It has not registered again: its old connection, another phone's, another contact.
    let foreign = Target { contact: "sip:1002@192.0.2.21".to_owned(), ..bob_at(tcp(21, 8)) };
    ladder.step(CallInput::Targets(vec![bob_at(old), foreign]));
    ladder.advance(Duration::from_secs(10));
    ladder.expect_nothing();
    assert!((4..12).contains(&ladder.located.len()), "asked {} times", ladder.located.len());
    ladder.step(CallInput::Targets(vec![bob_at(new)]));
    let bye = ladder.expect_over(new, "BYE");
    ladder.step(CallInput::Targets(vec![bob_at(new)]));
    ladder.expect_nothing();
    ladder.receive_from(new, &bye.response(200, "", "", ""));
    assert_eq!(ladder.finish().by, By::Caller);
}

#[test]
fn the_caller_is_found_by_its_instance() {
    let Talk { mut ladder, mut bob, .. } = talk();
    let (old, new) = (tcp(10, 1), tcp(10, 7));
    // Sent before anybody knows that the connection is gone, and lost with it.
    ladder.receive_from(tcp(20, 2), &bob.request("INVITE", "", &sdp(20, "a=sendonly\r\n")));
    ladder.expect_over(tcp(20, 2), "SIP/2.0 100");
    let lost = ladder.expect_over(old, "INVITE");
    ladder.step(CallInput::FlowClosed(old));
    assert_eq!(ladder.located, ["1001"]);
    ladder.step(CallInput::Targets(vec![alice_at(new)]));
    let again = ladder.expect_over(new, "INVITE");
    assert_eq!(again.text, lost.text, "the same request: the phone may have seen it");
    ladder
        .receive_from(new, &again.response(200, "", "Contact: <sip:1001@192.0.2.10>\r\n", &sdp(10, "a=recvonly\r\n")));
    ladder.expect_over(new, "ACK");
    ladder.expect_over(tcp(20, 2), "SIP/2.0 200");
    ladder.expect_nothing();
}

#[test]
fn what_the_phone_says_itself_shows_its_new_connection() {
    let Talk { mut ladder, mut alice, mut bob } = talk();
    let (old, new) = (tcp(20, 2), tcp(20, 7));
    ladder.receive_from(tcp(10, 1), &alice.request("INFO", "", ""));
    let lost = ladder.expect_over(old, "INFO");
    // It speaks before the end of its old connection is known here.
    ladder.receive_from(new, &bob.request("OPTIONS", "", ""));
    let sent = ladder.take_sent();
    let starts: Vec<_> = sent.iter().map(|sent| (sent.flow, sent.text.split(' ').next().unwrap())).collect();
    assert_eq!(starts, [(new, "INFO"), (new, "SIP/2.0")]);
    assert_eq!(sent[0].text, lost.text);
    ladder.step(CallInput::FlowClosed(old));
    assert!(ladder.located.is_empty(), "it is where it was heard last");
}

/// RFC 3261 §12.2.2: what comes in another order is refused with 500.
#[test]
fn what_waited_is_said_in_its_order() {
    for methods in [["INFO", "INVITE"], ["INVITE", "INFO"]] {
        let Talk { mut ladder, mut alice, .. } = talk();
        for method in methods {
            let body = if method == "INVITE" { sdp(10, "a=sendonly\r\n") } else { String::new() };
            ladder.receive_from(tcp(10, 1), &alice.request(method, "", &body));
        }
        ladder.take_sent();
        ladder.step(CallInput::FlowClosed(tcp(20, 2)));
        ladder.step(CallInput::Targets(vec![bob_at(tcp(20, 7))]));
        let sent = ladder.take_sent();
        let starts: Vec<_> = sent.iter().map(|sent| sent.text.split(' ').next().unwrap()).collect();
        assert_eq!(starts, methods);
    }
}

#[test]
fn a_phone_that_stays_away_is_not_waited_for_longer_than_one_that_is_silent() {
    let Talk { mut ladder, mut alice, .. } = talk();
    ladder.step(CallInput::FlowClosed(tcp(20, 2)));
    ladder.receive_from(tcp(10, 1), &alice.request("INVITE", "", &sdp(10, "a=sendonly\r\n")));
    ladder.expect_over(tcp(10, 1), "SIP/2.0 100");
    ladder.advance(Duration::from_secs(31));
    ladder.expect_nothing();
    ladder.advance(Duration::from_secs(2));
    ladder.expect_over(tcp(10, 1), "SIP/2.0 408");
    ladder.expect_over(tcp(10, 1), "BYE");
    let cause = ladder.finish();
    assert_eq!((cause.sip, cause.by), (408, By::Timer));
}

#[test]
fn a_2xx_that_comes_again_is_acknowledged_over_the_new_connection() {
    let (alice_flow, old, new) = (tcp(10, 1), tcp(20, 2), tcp(20, 7));
    let mut ladder = Ladder::between(&invite("", &sdp(10, "")), alice_flow, old);
    let offer = ladder.expect_over(old, "INVITE");
    let answer = offer.response(200, "b1", "", &sdp(20, ""));
    ladder.located.clear();
    ladder.receive_from(old, &answer);
    let lost = ladder.expect_over(old, "ACK");
    ladder.step(CallInput::FlowClosed(old));
    ladder.receive_from(new, &answer);
    assert_eq!(ladder.located, ["1002"]);
    ladder.step(CallInput::Targets(vec![bob_at(new)]));
    assert_eq!(ladder.expect_over(new, "ACK").text, lost.text);
}

#[test]
fn a_connection_that_is_lost_and_the_next_are_told() {
    let found = |events: &[(Option<u8>, Body)]| -> Vec<(Option<u8>, &'static str, String)> {
        let flows = events.iter().filter_map(|(leg, body)| match body {
            Body::FlowLost { flow } | Body::FlowFound { flow } => Some((*leg, body.name(), flow.clone())),
            _ => None,
        });
        flows.collect()
    };
    let told = |leg: u8, name: &'static str, flow: Flow| (Some(leg), name, flow.to_string());
    // Bob is looked for, because something is to be said to him.
    let Talk { mut ladder, mut alice, .. } = talk();
    ladder.step(CallInput::FlowClosed(tcp(20, 2)));
    ladder.receive_from(tcp(10, 1), &alice.request("INFO", "", ""));
    ladder.step(CallInput::Targets(vec![bob_at(tcp(20, 7))]));
    let both = [told(1, "leg.flow_lost", tcp(20, 2)), told(1, "leg.flow_found", tcp(20, 7))];
    assert_eq!(found(&ladder.events), both);
    // Again within the pause: neither.
    ladder.step(CallInput::FlowClosed(tcp(20, 7)));
    ladder.receive_from(tcp(10, 1), &alice.request("INFO", "", ""));
    ladder.step(CallInput::Targets(vec![bob_at(tcp(20, 8))]));
    assert_eq!(found(&ladder.events), both);
    // Alice speaks first.
    ladder.step(CallInput::FlowClosed(tcp(10, 1)));
    ladder.receive_from(tcp(10, 9), &alice.request("OPTIONS", "", ""));
    let hers = [told(0, "leg.flow_lost", tcp(10, 1)), told(0, "leg.flow_found", tcp(10, 9))];
    assert_eq!(found(&ladder.events)[2..], hers);
    // Who moves without having lost a connection is only traced.
    ladder.receive_from(tcp(10, 11), &alice.request("OPTIONS", "", ""));
    assert_eq!(found(&ladder.events).len(), 4);
}

#[test]
fn a_connection_that_ends_while_it_rings_is_told_before_the_leg_ends() {
    let (alice_flow, bob_flow) = (tcp(10, 1), tcp(20, 2));
    let mut ladder = Ladder::between(&invite("", &sdp(10, "")), alice_flow, bob_flow);
    let offer = ladder.expect_over(bob_flow, "INVITE");
    ladder.receive_from(bob_flow, &offer.response(180, "b1", "", ""));
    ladder.step(CallInput::FlowClosed(bob_flow));
    let names: Vec<_> = ladder.events.iter().filter(|(leg, _)| *leg == Some(1)).map(|(_, body)| body.name()).collect();
    assert_eq!(names, ["leg.invited", "leg.ringing", "leg.flow_lost", "leg.ended"]);
}
