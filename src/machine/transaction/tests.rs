//! Transactions against RFC 3261 §17 and RFC 6026, state by state.

use std::time::Duration;

use crate::base::id::Handle;
use crate::base::id::ShardId;
use crate::base::time::Instant;
use crate::machine::flow::Connection;
use crate::machine::flow::Flow;
use crate::machine::outbox::Outbox;
use crate::machine::outbox::Output;
use crate::machine::transaction::T1_64;
use crate::machine::transaction::T4;
use crate::machine::transaction::invite_client;
use crate::machine::transaction::invite_client::InviteClient;
use crate::machine::transaction::invite_server;
use crate::machine::transaction::invite_server::Ack;
use crate::machine::transaction::invite_server::InviteServer;
use crate::machine::transaction::non_invite_client;
use crate::machine::transaction::non_invite_client::NonInviteClient;
use crate::machine::transaction::repeat::Patience;

fn udp() -> Flow {
    Flow::udp(0, "192.0.2.1:5060".parse().unwrap())
}

fn tcp() -> Flow {
    let connection = Connection { shard: ShardId(0), handle: Handle { slot: 1, generation: 1 } };
    Flow { connection: Some(connection), ..udp() }
}

fn at(millis: u64) -> Instant {
    Instant::from_millis(1_000_000 + millis)
}

fn sent(out: &mut Outbox) -> Vec<Vec<u8>> {
    out.drain()
        .map(|output| match output {
            Output::Send { bytes, .. } => bytes,
            other => panic!("{other:?}"),
        })
        .collect()
}

/// Runs the timers to the end; the milliseconds at which something was sent, and when patience was over.
macro_rules! run {
    ($machine:expr, $from:expr) => {{
        let mut out = Outbox::new();
        let (mut times, mut over) = (Vec::new(), None);
        let mut now = $from;
        while $machine.next_deadline() != Instant::NEVER {
            now = now.max($machine.next_deadline());
            let patience = $machine.handle_timeout(now, &mut out);
            let millis = now.since(at(0)).as_millis() as u64;
            times.extend(sent(&mut out).iter().map(|_| millis));
            if patience == Patience::Over {
                over = Some(millis);
            }
        }
        (times, over)
    }};
}

#[test]
fn invite_client_repeats_by_timer_a_until_timer_b() {
    let mut out = Outbox::new();
    let mut client = InviteClient::start(b"INVITE".to_vec(), udp(), at(0), &mut out);
    assert_eq!(sent(&mut out).len(), 1);
    assert_eq!(run!(client, at(0)), (vec![500, 1500, 3500, 7500, 15500, 31500], Some(32000)));
    assert!(client.is_terminated());
    let mut client = InviteClient::start(b"INVITE".to_vec(), tcp(), at(0), &mut out);
    assert_eq!(run!(client, at(0)), (vec![], Some(32000)));
}

#[test]
fn invite_client_proceeding_is_silent() {
    let mut out = Outbox::new();
    let mut client = InviteClient::start(b"INVITE".to_vec(), udp(), at(0), &mut out);
    let response = client.handle_response(180, || unreachable!(), at(100), &mut out);
    assert_eq!(response, invite_client::Response::Provisional);
    assert!(client.is_proceeding() && client.is_open());
    assert_eq!(client.next_deadline(), Instant::NEVER);
}

#[test]
fn invite_client_acks_a_failure_and_each_repeat_of_it() {
    let mut out = Outbox::new();
    let mut client = InviteClient::start(b"INVITE".to_vec(), udp(), at(0), &mut out);
    sent(&mut out);
    let response = client.handle_response(486, || b"ACK".to_vec(), at(100), &mut out);
    assert_eq!(response, invite_client::Response::Failure);
    assert_eq!(sent(&mut out), [b"ACK"]);
    assert_eq!(client.handle_response(486, || unreachable!(), at(200), &mut out), invite_client::Response::Absorbed);
    assert_eq!(sent(&mut out), [b"ACK"]);
    assert_eq!(client.handle_response(200, || unreachable!(), at(300), &mut out), invite_client::Response::Absorbed);
    assert_eq!(run!(client, at(300)), (vec![], None));
    assert!(client.is_terminated());
}

#[test]
fn invite_client_that_nobody_waits_for_acks_what_comes() {
    let abandoned = || {
        let mut out = Outbox::new();
        let mut client = InviteClient::start(b"INVITE".to_vec(), udp(), at(0), &mut out);
        client.abandon(at(50));
        assert!(!client.is_open() && client.is_unanswered());
        client
    };
    let mut out = Outbox::new();
    let mut client = abandoned();
    assert_eq!(client.handle_response(180, || unreachable!(), at(60), &mut out), invite_client::Response::Absorbed);
    let response = client.handle_response(481, || b"ACK".to_vec(), at(100), &mut out);
    assert_eq!(response, invite_client::Response::Failure);
    assert_eq!(sent(&mut out), [b"ACK"]);
    assert!(!client.is_unanswered());
    let response = abandoned().handle_response(200, || unreachable!(), at(100), &mut out);
    assert_eq!(response, invite_client::Response::Success);
    let mut client = abandoned();
    assert_eq!(run!(client, at(50)), (vec![], None));
    assert!(client.is_terminated());
}

#[test]
fn invite_client_over_tcp_does_not_wait_for_repeats() {
    let mut out = Outbox::new();
    let mut client = InviteClient::start(b"INVITE".to_vec(), tcp(), at(0), &mut out);
    client.handle_response(603, || b"ACK".to_vec(), at(100), &mut out);
    assert!(client.is_terminated());
}

#[test]
fn invite_client_accepted_hands_up_every_2xx_until_timer_m() {
    let mut out = Outbox::new();
    let mut client = InviteClient::start(b"INVITE".to_vec(), udp(), at(0), &mut out);
    sent(&mut out);
    for millis in [100, 600, 1600] {
        let response = client.handle_response(200, || unreachable!(), at(millis), &mut out);
        assert_eq!(response, invite_client::Response::Success);
    }
    assert_eq!(client.handle_response(180, || unreachable!(), at(1700), &mut out), invite_client::Response::Absorbed);
    assert_eq!(client.next_deadline(), at(100) + T1_64);
    assert_eq!(run!(client, at(1700)), (vec![], None));
    assert_eq!(client.handle_response(200, || unreachable!(), at(40000), &mut out), invite_client::Response::Absorbed);
}

#[test]
fn invite_server_answers_retransmissions_with_the_last_response() {
    let mut out = Outbox::new();
    let mut server = InviteServer::new(udp());
    server.handle_retransmission(udp(), &mut out);
    assert!(out.is_empty());
    server.respond(100, b"100".to_vec(), at(0), &mut out);
    server.respond(180, b"180".to_vec(), at(10), &mut out);
    server.handle_retransmission(udp(), &mut out);
    assert_eq!(sent(&mut out), [b"100", b"180", b"180"]);
    server.respond(486, b"486".to_vec(), at(20), &mut out);
    server.handle_retransmission(udp(), &mut out);
    assert_eq!(sent(&mut out), [b"486", b"486"]);
    server.respond(200, b"200".to_vec(), at(30), &mut out);
    assert!(out.is_empty());
}

#[test]
fn invite_server_repeats_a_failure_by_timer_g_until_timer_h() {
    let mut out = Outbox::new();
    let mut server = InviteServer::new(udp());
    server.respond(486, b"486".to_vec(), at(0), &mut out);
    let (times, over) = run!(server, at(0));
    assert_eq!(times, [500, 1500, 3500, 7500, 11500, 15500, 19500, 23500, 27500, 31500]);
    assert_eq!(over, Some(32000));
}

#[test]
fn invite_server_over_tcp_only_waits_for_the_ack() {
    let mut out = Outbox::new();
    let mut server = InviteServer::new(tcp());
    server.respond(486, b"486".to_vec(), at(0), &mut out);
    let mut silent = server.clone();
    assert_eq!(run!(silent, at(0)), (vec![], Some(32000)));
    assert_eq!(server.handle_ack(at(10)), Ack::Absorbed);
    assert!(server.is_terminated());
}

#[test]
fn invite_server_confirmed_absorbs_acks_until_timer_i() {
    let mut out = Outbox::new();
    let mut server = InviteServer::new(udp());
    server.respond(486, b"486".to_vec(), at(0), &mut out);
    sent(&mut out);
    assert_eq!(server.handle_ack(at(10)), Ack::Absorbed);
    assert_eq!(server.handle_ack(at(20)), Ack::Absorbed);
    server.handle_retransmission(udp(), &mut out);
    assert!(out.is_empty());
    assert_eq!(server.next_deadline(), at(10) + T4);
    assert_eq!(run!(server, at(20)), (vec![], None));
    assert!(server.is_terminated());
}

#[test]
fn invite_server_accepted_gives_acks_to_its_user() {
    let mut out = Outbox::new();
    let mut server = InviteServer::new(udp());
    server.respond(200, b"200".to_vec(), at(0), &mut out);
    sent(&mut out);
    server.handle_retransmission(udp(), &mut out);
    assert!(out.is_empty());
    assert_eq!(server.handle_ack(at(10)), Ack::ForUser);
    assert_eq!(server.state(), &invite_server::State::Accepted { until: at(0) + T1_64 });
    assert_eq!(run!(server, at(20)), (vec![], None));
}

#[test]
fn answers_follow_a_retransmission_from_a_new_source() {
    let mut out = Outbox::new();
    let mut server = InviteServer::new(udp());
    let elsewhere = Flow::udp(0, "192.0.2.1:40000".parse().unwrap());
    server.respond(100, b"100".to_vec(), at(0), &mut out);
    sent(&mut out);
    server.handle_retransmission(elsewhere, &mut out);
    assert_eq!(out.drain().next(), Some(Output::Send { flow: elsewhere, bytes: b"100".to_vec() }));
}

#[test]
fn non_invite_client_repeats_by_timer_e_until_timer_f() {
    let mut out = Outbox::new();
    let mut client = NonInviteClient::start(b"BYE".to_vec(), udp(), at(0), &mut out);
    let (times, over) = run!(client, at(0));
    assert_eq!(times, [500, 1500, 3500, 7500, 11500, 15500, 19500, 23500, 27500, 31500]);
    assert_eq!(over, Some(32000));
}

#[test]
fn non_invite_client_proceeding_repeats_at_t2() {
    let mut out = Outbox::new();
    let mut client = NonInviteClient::start(b"BYE".to_vec(), udp(), at(0), &mut out);
    assert_eq!(client.handle_response(100, at(100)), non_invite_client::Response::Provisional);
    let (times, over) = run!(client, at(100));
    assert_eq!(times, [4100, 8100, 12100, 16100, 20100, 24100, 28100]);
    assert_eq!(over, Some(32000));
}

#[test]
fn non_invite_client_completed_absorbs_until_timer_k() {
    let mut out = Outbox::new();
    let mut client = NonInviteClient::start(b"BYE".to_vec(), udp(), at(0), &mut out);
    assert_eq!(client.handle_response(200, at(100)), non_invite_client::Response::Final);
    assert_eq!(client.handle_response(200, at(200)), non_invite_client::Response::Absorbed);
    assert_eq!(client.next_deadline(), at(100) + T4);
    assert_eq!(client.handle_timeout(at(100) + T4, &mut out), Patience::Lasts);
    assert!(client.is_terminated());
    let mut client = NonInviteClient::start(b"BYE".to_vec(), tcp(), at(0), &mut out);
    client.handle_response(481, at(100));
    assert!(client.is_terminated());
}

#[test]
fn a_late_timer_sends_once() {
    let mut out = Outbox::new();
    let mut client = NonInviteClient::start(b"BYE".to_vec(), udp(), at(0), &mut out);
    sent(&mut out);
    client.handle_timeout(at(9000), &mut out);
    assert_eq!(sent(&mut out).len(), 1);
    assert_eq!(client.next_deadline(), at(9000) + Duration::from_secs(1));
}
