//! What changes during a call: early media, late offers, hold, session refresh, tones, sources that move or lie.

use std::time::Duration;

use crate::calls::Call;
use crate::message::parameter;
use crate::phone::Phone;
use crate::rtp::Stream;
use crate::rtp::check_both;
use crate::rtp::check_flow;
use crate::server::Server;

fn pair(server: &mut Server) -> (Phone, Phone) {
    (server.registered("1001"), server.registered("1002"))
}

#[test]
fn the_callee_is_heard_before_he_answers() {
    let mut server = Server::start(|_| {});
    let (mut left, mut right) = pair(&mut server);
    let (mut near, mut far) = (Stream::open(left.local.ip(), 1), Stream::open(right.local.ip(), 2));
    let mut caller = left.invite("1002", "", &near.sdp("sendrecv"));
    let invite = right.incoming("INVITE");
    right.reply(&invite, 183, "", &far.sdp("sendrecv"));
    let early = left.await_status(&mut caller, 183);
    let (left_via, right_via) = (early.media().expect("early media"), invite.media().unwrap());
    check_both(&mut near, left_via, &mut far, right_via);
    right.reply(&invite, 200, "", &far.sdp("sendrecv"));
    let answer = left.await_status(&mut caller, 200);
    assert_eq!(answer.media(), Some(left_via));
    left.ack(&caller, "");
    right.incoming("ACK");
    check_flow(&mut far, &mut near, 20, right_via, left_via);
    let mut callee = right.dialog_of(&invite);
    right.send_in(&mut callee, "BYE", "", "");
    let bye = left.incoming("BYE");
    left.reply(&bye, 200, "", "");
    right.await_status(&mut callee, 200);
}

#[test]
fn an_offer_that_comes_with_the_answer() {
    let mut server = Server::start(|_| {});
    let (mut left, mut right) = pair(&mut server);
    let (mut near, mut far) = (Stream::open(left.local.ip(), 1), Stream::open(right.local.ip(), 2));
    let mut caller = left.invite("1002", "", "");
    let invite = right.incoming("INVITE");
    assert!(invite.body.is_empty(), "{invite:#?}");
    right.reply(&invite, 200, "", &far.sdp("sendrecv"));
    let offer = left.await_status(&mut caller, 200);
    left.ack(&caller, &near.sdp("sendrecv"));
    let ack = right.incoming("ACK");
    check_both(&mut near, offer.media().unwrap(), &mut far, ack.media().expect("the answer in the ACK"));
    left.hang_up_with(&mut caller, &mut right);
}

/// Hold and resume by one side, over re-INVITE or UPDATE.
fn hold(method: &str, by_caller: bool) {
    let mut server = Server::start(|_| {});
    let (mut left, mut right) = pair(&mut server);
    let mut call = Call::set_up(&mut left, &mut right, "1002", 1);
    call.check_media();
    for (direction, reverse) in [("sendonly", "recvonly"), ("sendrecv", "sendrecv")] {
        let (own, other, dialog, own_stream, other_stream) = if by_caller {
            (&mut left, &mut right, &mut call.caller, &call.caller_stream, &call.callee_stream)
        } else {
            (&mut right, &mut left, &mut call.callee, &call.callee_stream, &call.caller_stream)
        };
        let version = if direction == "sendonly" { "2" } else { "3" };
        let raised = own_stream.sdp(direction).replacen(" 1 IN", &format!(" {version} IN"), 1);
        own.send_in(dialog, method, "", &raised);
        let request = other.incoming(method);
        assert!(request.body.contains(&format!("a={direction}")), "{request:#?}");
        other.reply(&request, 200, "", &other_stream.sdp(reverse).replacen(" 1 IN", &format!(" {version} IN"), 1));
        let answer = own.await_status(dialog, 200);
        assert!(answer.body.contains(&format!("a={reverse}")), "{answer:#?}");
        if method == "INVITE" {
            own.ack(dialog, "");
            other.incoming("ACK");
        }
    }
    call.check_media();
    call.end_by_caller(&mut left, &mut right);
}

#[test]
fn the_caller_holds_by_invite() {
    hold("INVITE", true);
}

#[test]
fn the_callee_holds_by_invite() {
    hold("INVITE", false);
}

#[test]
fn the_caller_holds_by_update() {
    hold("UPDATE", true);
}

#[test]
fn the_callee_holds_by_update() {
    hold("UPDATE", false);
}

#[test]
fn two_offers_that_cross_are_glare() {
    let mut server = Server::start(|_| {});
    let (mut left, mut right) = pair(&mut server);
    let mut call = Call::set_up(&mut left, &mut right, "1002", 1);
    left.send_in(&mut call.caller, "INVITE", "", &call.caller_stream.sdp("sendrecv").replacen(" 1 IN", " 2 IN", 1));
    let offered = right.incoming("INVITE");
    right.send_in(&mut call.callee, "INVITE", "", &call.callee_stream.sdp("sendrecv").replacen(" 1 IN", " 2 IN", 1));
    right.await_status(&mut call.callee, 491);
    right.reply(&offered, 200, "", &call.callee_stream.sdp("sendrecv"));
    left.await_status(&mut call.caller, 200);
    left.ack(&call.caller, "");
    right.incoming("ACK");
    call.check_media();
    call.end_by_caller(&mut left, &mut right);
}

#[test]
fn reliable_provisional_responses_with_both_sides() {
    let mut server = Server::start(|_| {});
    let (mut left, mut right) = pair(&mut server);
    let (near, far) = (Stream::open(left.local.ip(), 1), Stream::open(right.local.ip(), 2));
    let mut caller = left.invite("1002", "Supported: 100rel\r\n", &near.sdp("sendrecv"));
    let invite = right.incoming("INVITE");
    right.reply(&invite, 183, "Require: 100rel\r\nRSeq: 7\r\n", &far.sdp("sendrecv"));
    let early = left.await_status(&mut caller, 183);
    assert!(early.must("Require").contains("100rel"), "{early:#?}");
    let rack = format!("RAck: {} {} INVITE\r\n", early.must("RSeq"), early.cseq());
    left.send_in(&mut caller, "PRACK", &rack, "");
    let prack = right.incoming("PRACK");
    assert!(prack.must("RAck").starts_with("7 "), "{prack:#?}");
    right.reply(&prack, 200, "", "");
    left.await_status(&mut caller, 200);
    right.reply(&invite, 200, "", "");
    left.find(crate::phone::PATIENCE, |message| message.status() == 200 && message.method() == "INVITE").expect("200");
    left.ack(&caller, "");
    right.incoming("ACK");
    left.hang_up_with(&mut caller, &mut right);
}

#[test]
fn reliable_provisional_responses_with_the_callee_alone() {
    let mut server = Server::start(|_| {});
    let (mut left, mut right) = pair(&mut server);
    let (near, far) = (Stream::open(left.local.ip(), 1), Stream::open(right.local.ip(), 2));
    let mut caller = left.invite("1002", "", &near.sdp("sendrecv"));
    let invite = right.incoming("INVITE");
    if !invite.header("Supported").unwrap_or_default().contains("100rel") {
        // Not offered: the callee may not use it, and the call has to work without.
        right.reply(&invite, 180, "", "");
    } else {
        right.reply(&invite, 180, "Require: 100rel\r\nRSeq: 1\r\n", "");
        let prack = right.incoming("PRACK");
        right.reply(&prack, 200, "", "");
    }
    let ringing = left.await_status(&mut caller, 180);
    assert_eq!(ringing.header("Require"), None, "{ringing:#?}");
    right.reply(&invite, 200, "", &far.sdp("sendrecv"));
    left.await_status(&mut caller, 200);
    left.ack(&caller, "");
    right.incoming("ACK");
    left.hang_up_with(&mut caller, &mut right);
}

#[test]
fn a_session_timer_is_agreed_and_refreshed() {
    let mut server = Server::start(|_| {});
    let (mut left, mut right) = pair(&mut server);
    let (near, far) = (Stream::open(left.local.ip(), 1), Stream::open(right.local.ip(), 2));
    // RFC 4028 §5: smaller than Min-SE is 422.
    let mut small = left.invite("1002", "Supported: timer\r\nSession-Expires: 30\r\n", &near.sdp("sendrecv"));
    let refused = left.await_status(&mut small, 422);
    assert!(refused.must("Min-SE").parse::<u32>().unwrap() >= 90);
    let mut caller =
        left.invite("1002", "Supported: timer\r\nSession-Expires: 1800;refresher=uac\r\n", &near.sdp("sendrecv"));
    let invite = right.incoming("INVITE");
    right.reply(&invite, 200, "", &far.sdp("sendrecv"));
    let answer = left.await_status(&mut caller, 200);
    assert!(answer.must("Session-Expires").starts_with("1800"), "{answer:#?}");
    left.ack(&caller, "");
    right.incoming("ACK");
    left.send_in(&mut caller, "UPDATE", "Supported: timer\r\nSession-Expires: 1800;refresher=uac\r\n", "");
    // Ours is the timer with each side: the refresh need not reach the other.
    if let Some(update) = right.find(Duration::from_millis(200), |message| message.method() == "UPDATE") {
        right.reply(&update, 200, "", "");
    }
    let refreshed = left.await_status(&mut caller, 200);
    assert!(refreshed.header("Session-Expires").is_some(), "{refreshed:#?}");
    left.hang_up_with(&mut caller, &mut right);
}

#[test]
fn digits_pass_as_info() {
    let mut server = Server::start(|_| {});
    let (mut left, mut right) = pair(&mut server);
    let mut call = Call::set_up(&mut left, &mut right, "1002", 1);
    let body = "Signal=5\r\nDuration=160\r\n";
    left.send_in(&mut call.caller, "INFO", "Content-Type: application/dtmf-relay\r\n", body);
    let info = right.incoming("INFO");
    assert_eq!((info.must("Content-Type"), info.body.as_str()), ("application/dtmf-relay", body));
    right.reply(&info, 200, "", "");
    left.await_status(&mut call.caller, 200);
    call.end_by_caller(&mut left, &mut right);
}

#[test]
fn a_stranger_is_not_heard() {
    let mut server = Server::start(|_| {});
    let (mut left, mut right) = pair(&mut server);
    let mut call = Call::set_up(&mut left, &mut right, "1002", 1);
    call.check_media();
    let (left_via, right_via) = call.relay();
    let mut stranger = Stream::open(server.fresh_ip(), 666);
    for _ in 0..50 {
        stranger.send(left_via);
        stranger.send(right_via);
    }
    assert_eq!(call.caller_stream.collect(Duration::from_millis(200)), []);
    assert_eq!(call.callee_stream.collect(Duration::from_millis(200)), []);
    assert_eq!(stranger.collect(Duration::from_millis(50)), []);
    call.check_media();
    call.end_by_caller(&mut left, &mut right);
}

#[test]
fn an_ended_call_relays_nothing() {
    let mut server = Server::start(|setup| setup.media_ports = "20000-20039");
    let (mut left, mut right) = pair(&mut server);
    for number in 1..6 {
        let mut call = Call::set_up(&mut left, &mut right, "1002", number);
        call.check_media();
        let (left_via, _) = call.relay();
        call.end_by_caller(&mut left, &mut right);
        call.caller_stream.send_many(5, left_via);
        assert_eq!(call.callee_stream.collect(Duration::from_millis(100)), []);
    }
}

#[test]
fn a_description_is_ours() {
    let mut server = Server::start(|_| {});
    let (mut left, mut right) = pair(&mut server);
    let near = Stream::open(left.local.ip(), 1);
    let offered = near.sdp("sendrecv")
        + "a=candidate:1 1 UDP 1 127.0.0.1 9 typ host\r\na=ice-ufrag:x\r\na=x-unknown:passes\r\nm=video 0 RTP/AVP 96\r\nm=image 9 udptl t38\r\n";
    let mut caller = left.invite("1002", "", &offered);
    let invite = right.incoming("INVITE");
    assert!(!invite.body.contains("candidate") && !invite.body.contains("ice-ufrag"), "{}", invite.body);
    assert!(invite.body.contains("a=x-unknown:passes"), "{}", invite.body);
    assert!(invite.body.contains("m=image 0"), "{}", invite.body);
    let origin = |body: &str| body.lines().find(|line| line.starts_with("o=")).unwrap().to_owned();
    assert!(!origin(&invite.body).contains(&left.local.ip().to_string()));
    assert!(parameter(invite.must("To"), "tag").is_none());
    right.reply(&invite, 486, "", "");
    left.await_status(&mut caller, 486);
}

#[test]
fn reports_pass_beside_the_packets() {
    let mut server = Server::start(|_| {});
    let (mut left, mut right) = (server.registered("1001"), server.registered("1002"));
    let mut call = Call::set_up(&mut left, &mut right, "1002", 1);
    call.check_media();
    let (left_via, right_via) = call.relay();
    // Sender reports of both sides, RFC 3550 §6.4.1.
    let report = |ssrc: u32| {
        let mut packet = vec![0x80, 200, 0, 6];
        packet.extend_from_slice(&ssrc.to_be_bytes());
        packet.resize(28, 0);
        packet
    };
    let beside = |address: std::net::SocketAddr| std::net::SocketAddr::new(address.ip(), address.port() + 1);
    for _ in 0..3 {
        call.caller_stream.rtcp.send_to(&report(0x1000_0001), beside(left_via)).unwrap();
        call.callee_stream.rtcp.send_to(&report(0x1000_03e9), beside(right_via)).unwrap();
        std::thread::sleep(Duration::from_millis(20));
    }
    for (socket, ssrc) in [(&call.caller_stream.rtcp, 0x1000_03e9_u32), (&call.callee_stream.rtcp, 0x1000_0001)] {
        socket.set_read_timeout(Some(Duration::from_secs(1))).unwrap();
        let mut packet = [0; 100];
        let (len, _) = socket.recv_from(&mut packet).expect("a report");
        assert_eq!((len, &packet[4..8]), (28, &ssrc.to_be_bytes()[..]));
    }
    call.end_by_caller(&mut left, &mut right);
}

/// Only the caller talks.
#[cfg(debug_assertions)]
fn caller_alone(call: &mut Call, seconds: u64) {
    let (left_via, _) = call.relay();
    for _ in 0..seconds * 10 {
        call.caller_stream.send(left_via);
        std::thread::sleep(Duration::from_millis(100));
    }
}

#[cfg(debug_assertions)]
#[test]
fn a_phone_that_vanished_keeps_no_call_up_and_a_held_one_stays() {
    let mut server = Server::start(|setup| setup.switches = vec![("TIPRING_MEDIA_TIMEOUT", "5")]);
    let (mut left, mut right) = pair(&mut server);
    let mut held = Call::set_up(&mut left, &mut right, "1002", 1);
    held.check_media();
    let body = held.callee_stream.sdp("inactive");
    right.send_in(&mut held.callee, "INVITE", "", &body);
    let invite = left.incoming("INVITE");
    left.reply(&invite, 200, "", &held.caller_stream.sdp("inactive"));
    left.incoming("ACK");
    right.await_status(&mut held.callee, 200);
    right.ack(&held.callee, "");
    let (mut third, mut fourth) = (server.registered("1003"), server.registered("1004"));
    let mut call = Call::set_up(&mut third, &mut fourth, "1004", 2);
    call.check_media();
    caller_alone(&mut call, 7);
    let bye = third.incoming("BYE");
    assert!(bye.must("Reason").contains("media timeout"), "{bye:#?}");
    third.reply(&bye, 200, "", "");
    let record = server.cdr(&call.caller.call_id);
    let cause = &record["cause"];
    assert_eq!(
        (cause["sip"].as_u64(), cause["by"].as_str(), cause["text"].as_str()),
        (Some(408), Some("timer"), Some("media timeout")),
        "{record:#?}"
    );
    assert!(server.cdrs(&held.caller.call_id).is_empty(), "a held call has nothing to hear");
    held.end_by_caller(&mut left, &mut right);
    assert_eq!(server.cdr(&held.caller.call_id)["cause"]["sip"], 200);
}

#[test]
fn encrypted_media_passes_as_it_is() {
    let mut server = Server::start(|_| {});
    let (mut left, mut right) = pair(&mut server);
    let (near, far) = (Stream::open(left.local.ip(), 1), Stream::open(right.local.ip(), 1001));
    let secured = |stream: &Stream, key: &str| {
        let line = format!("a=crypto:1 AES_CM_128_HMAC_SHA1_80 inline:{key}\r\n");
        stream.sdp("sendrecv").replace("RTP/AVP", "RTP/SAVP") + &line
    };
    let mut caller = left.invite("1002", "", &secured(&near, "caller"));
    let offer = right.incoming("INVITE");
    assert!(offer.body.contains(" RTP/SAVP 0 101") && offer.body.contains("inline:caller"), "{}", offer.body);
    right.reply(&offer, 200, "", &secured(&far, "callee"));
    let answer = left.await_status(&mut caller, 200);
    assert!(answer.body.contains(" RTP/SAVP 0 101") && answer.body.contains("inline:callee"), "{}", answer.body);
    left.ack(&caller, "");
    right.incoming("ACK");
    let callee = right.dialog_of(&offer);
    let mut call = Call { caller, callee, caller_stream: near, callee_stream: far, answer, offer };
    call.check_media();
    call.end_by_caller(&mut left, &mut right);
}
