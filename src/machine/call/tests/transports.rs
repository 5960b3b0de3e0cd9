//! Calls over connections and over IPv6: what differs from IPv4 over UDP.

use std::time::Duration;

use super::ladder::*;
use crate::base::id::Handle;
use crate::base::id::ShardId;
use crate::machine::flow::Connection;
use crate::machine::flow::Flow;
use crate::wire::sip::HeaderId;

fn tcp(peer: &str, slot: u32) -> Flow {
    let connection = Connection { shard: ShardId(0), handle: Handle { slot, generation: 1 } };
    Flow { listener: 1, peer: peer.parse().unwrap(), connection: Some(connection) }
}

fn v6(host: &str) -> Flow {
    Flow::udp(2, format!("[{host}]:5060").parse().unwrap())
}

/// What goes over `flow` while time passes.
fn repeats(ladder: &mut Ladder, flow: Flow, secs: u64) -> Vec<String> {
    ladder.advance(Duration::from_secs(secs));
    let sent = ladder.take_sent().into_iter().filter(|sent| sent.flow == flow);
    sent.map(|sent| sent.text.lines().next().unwrap().to_owned()).collect()
}

#[test]
fn over_connections_only_what_is_end_to_end_is_repeated() {
    let (alice_flow, bob_flow) = (tcp("192.0.2.10:40010", 1), tcp("192.0.2.20:40020", 2));
    let mut ladder = Ladder::between(&invite("", &sdp(10, "")), alice_flow, bob_flow);
    ladder.expect_over(alice_flow, "SIP/2.0 100");
    let offer = ladder.expect_over(bob_flow, "INVITE sip:1002@192.0.2.20:40020;transport=tcp SIP/2.0");
    assert!(offer.header(HeaderId::Via).starts_with("SIP/2.0/TCP 198.51.100.1:5060;branch="), "{}", offer.text);
    assert!(offer.header(HeaderId::Contact).ends_with(";transport=tcp>"), "{}", offer.text);
    // RFC 3261 §17.1.1.2: timer A is not for reliable transports.
    assert_eq!(repeats(&mut ladder, bob_flow, 10), Vec::<String>::new());
    ladder.receive_from(bob_flow, &offer.response(180, "b1", "", ""));
    assert!(ladder.expect_over(alice_flow, "SIP/2.0 180").header(HeaderId::Contact).ends_with(";transport=tcp>"));
    ladder.receive_from(bob_flow, &offer.response(200, "b1", "", &sdp(20, "")));
    ladder.expect_over(bob_flow, "ACK");
    let answer = ladder.expect_over(alice_flow, "SIP/2.0 200");
    // RFC 3261 §13.3.1.4: the 2xx is, "independent of whatever transport protocols are used".
    assert_eq!(repeats(&mut ladder, alice_flow, 2), ["SIP/2.0 200 OK"; 2]);
    let mut alice = Phone::alice(&answer);
    ladder.receive_from(alice_flow, &alice.ack(10, ""));
    ladder.receive_from(alice_flow, &alice.request("BYE", "", ""));
    ladder.expect_over(alice_flow, "SIP/2.0 200");
    let bye = ladder.expect_over(bob_flow, "BYE");
    assert!(bye.header(HeaderId::Via).starts_with("SIP/2.0/TCP "));
    assert_eq!(repeats(&mut ladder, bob_flow, 10), Vec::<String>::new());
    ladder.receive_from(bob_flow, &bye.response(200, "", "", ""));
    ladder.finish();
}

#[test]
fn a_failure_over_a_connection_is_said_once() {
    let (alice_flow, bob_flow) = (tcp("192.0.2.10:40010", 1), flow(20));
    let mut ladder = Ladder::between(&invite("", &sdp(10, "")), alice_flow, bob_flow);
    ladder.expect_over(alice_flow, "SIP/2.0 100");
    let offer = ladder.expect_over(bob_flow, "INVITE");
    assert!(offer.header(HeaderId::Via).starts_with("SIP/2.0/UDP "));
    assert!(!offer.header(HeaderId::Contact).contains("transport"));
    ladder.receive_from(bob_flow, &offer.response(486, "b1", "", ""));
    ladder.expect_over(bob_flow, "ACK");
    ladder.expect_over(alice_flow, "SIP/2.0 486");
    assert_eq!(repeats(&mut ladder, alice_flow, 31), Vec::<String>::new());
    ladder.finish();
}

#[test]
fn each_side_has_its_own_family() {
    let (alice_flow, bob_flow) = (v6("2001:db8::10"), flow(20));
    let description = sdp(10, "").replace("IN IP4 192.0.2.10", "IN IP6 2001:db8::10");
    let mut ladder = Ladder::between(&invite("", &description), alice_flow, bob_flow);
    ladder.expect_over(alice_flow, "SIP/2.0 100");
    let offer = ladder.expect_over(bob_flow, "INVITE");
    assert!(offer.body().contains(&format!("c=IN IP4 {MEDIA}\r\n")), "{}", offer.text);
    assert!(!offer.text.contains("2001:db8"), "{}", offer.text);
    ladder.receive_from(bob_flow, &offer.response(200, "b1", "", &sdp(20, "")));
    ladder.expect_over(bob_flow, "ACK");
    let answer = ladder.expect_over(alice_flow, "SIP/2.0 200");
    assert!(answer.body().contains(&format!("c=IN IP6 {MEDIA_V6}\r\n")), "{}", answer.text);
    assert!(answer.header(HeaderId::Contact).contains("@[2001:db8::1]:5060"), "{}", answer.text);
    assert!(!answer.text.contains(MEDIA) && !answer.text.contains("192.0.2.20"), "{}", answer.text);
    let mut alice = Phone::alice(&answer);
    ladder.receive_from(alice_flow, &alice.ack(10, ""));
    // Bob's requests reach Alice over IPv6.
    let mut bob = Phone::callee(20, &offer, "b1");
    ladder.receive_from(bob_flow, &bob.request("BYE", "", ""));
    ladder.expect_over(bob_flow, "SIP/2.0 200");
    let bye = ladder.expect_over(alice_flow, "BYE");
    assert!(bye.header(HeaderId::Via).starts_with("SIP/2.0/UDP [2001:db8::1]:5060;"), "{}", bye.text);
    ladder.receive_from(alice_flow, &bye.response(200, "", "", ""));
    ladder.finish();
}

#[test]
fn two_of_ipv6() {
    let (alice_flow, bob_flow) = (v6("2001:db8::10"), v6("2001:db8::20"));
    let described = |host: u8| sdp(host, "").replace("IN IP4 192.0.2.", "IN IP6 2001:db8::");
    let mut ladder = Ladder::between(&invite("", &described(10)), alice_flow, bob_flow);
    ladder.expect_over(alice_flow, "SIP/2.0 100");
    let offer = ladder.expect_over(bob_flow, "INVITE sip:1002@[2001:db8::20]:5060");
    assert!(offer.body().contains(&format!("c=IN IP6 {MEDIA_V6}\r\n")), "{}", offer.text);
    ladder.receive_from(bob_flow, &offer.response(200, "b1", "", &described(20)));
    ladder.expect_over(bob_flow, "ACK sip:b1@[2001:db8::20]:5060");
    assert!(ladder.expect_over(alice_flow, "SIP/2.0 200").body().contains(MEDIA_V6));
    ladder.finish();
}
