//! What a stolen account can do, and what somebody can who has read another's messages: each attack against the running node,
//! beside phones that notice nothing.

use std::net::SocketAddr;
use std::time::Duration;

use crate::calls::Call;
use crate::message::Message;
use crate::phone::PATIENCE;
use crate::phone::Phone;
use crate::rtp::Stream;
use crate::server::Server;
use crate::server::eventually;

/// The last request in the dialog, as somebody else sends it from where he is.
fn forged(victim: &Phone, text: &str, from: &Phone) -> String {
    text.replacen(&format!("Via: SIP/2.0/UDP {};", victim.local), &format!("Via: SIP/2.0/UDP {};", from.local), 1)
}

/// Counters are published now and then.
fn counts(server: &Server, name: &str, expected: f64) {
    let reached = eventually(PATIENCE, || (server.metric(name, "")? == expected).then_some(()));
    assert!(reached.is_some(), "{name} is {:?}", server.metric(name, ""));
}

#[test]
fn who_knows_the_tags_does_not_take_a_call_over() {
    let mut server = Server::start(|_| {});
    let (mut left, mut right) = (server.registered("1001"), server.registered("1002"));
    let mut call = Call::set_up(&mut left, &mut right, "1002", 1);
    call.check_media();
    let same_address = SocketAddr::new(left.local.ip(), 0);
    let elsewhere = SocketAddr::new(server.fresh_ip(), 0);
    // A stranger, somebody behind the address of the phone, and a phone with an account of its own.
    let strangers = [elsewhere, same_address].map(|local| Phone::udp("1001", local, server.sip()));
    for mut thief in strangers.into_iter().chain([server.registered("1003")]) {
        for method in ["INFO", "UPDATE", "INVITE", "BYE"] {
            let body = call.caller_stream.sdp("sendrecv").replace(&left.local.ip().to_string(), "127.66.66.66");
            let body = if ["INFO", "BYE"].contains(&method) { "" } else { &body };
            let request = forged(&left, &left.request_in(&call.caller, method, body), &thief);
            thief.send(&request);
            let answer = thief.final_of(&request);
            assert_eq!(answer.status(), 401, "{method} from {}", thief.local);
        }
    }
    assert!(right.hears_nothing(Duration::from_millis(200)), "{}", right.report());
    call.check_media();
    call.end_by_caller(&mut left, &mut right);
    counts(&server, "tipring_sip_elsewhere_total", 12.0);
}

#[test]
fn a_phone_that_moves_within_a_call_goes_on() {
    let mut server = Server::start(|setup| setup.shards = 2);
    // It answers the challenge to what it says first from its new place.
    for tcp in [false, true] {
        let (mut left, mut right) = (server.registered("1001"), server.registered("1002"));
        let mut call = Call::set_up(&mut left, &mut right, "1002", 1);
        let local = SocketAddr::new(server.fresh_ip(), 0);
        let mut moved =
            if tcp { Phone::tcp("1002", local, server.sip()) } else { Phone::udp("1002", local, server.sip()) };
        let text = right.request_in(&call.callee, "BYE", "");
        let (via, _) = moved.new_via();
        let (sent, _) = Message::parse(text.as_bytes()).unwrap();
        let bye = text.replacen(&format!("Via: {}\r\n", sent.must("Via")), &via, 1);
        moved.send(&bye);
        let challenge = moved.final_of(&bye);
        assert_eq!(challenge.status(), 401);
        let again = moved.with_credentials(&bye, &challenge);
        moved.send(&again);
        assert_eq!(moved.final_of(&again).status(), 200);
        let bye = left.incoming("BYE");
        left.reply(&bye, 200, "", "");
        call.caller.call_id.clear();
    }
    // It has registered from there: nobody asks.
    for tcp in [false, true] {
        let (mut left, mut right) = (server.registered("1001"), server.registered("1002"));
        let call = Call::set_up(&mut left, &mut right, "1002", 1);
        let mut moved = if tcp { server.registered_tcp("1002") } else { server.registered("1002") };
        let text = right.request_in(&call.callee, "BYE", "");
        let (via, _) = moved.new_via();
        let (sent, _) = Message::parse(text.as_bytes()).unwrap();
        let bye = text.replacen(&format!("Via: {}\r\n", sent.must("Via")), &via, 1);
        moved.send(&bye);
        assert_eq!(moved.final_of(&bye).status(), 200, "over TCP: {tcp}");
        let bye = left.incoming("BYE");
        left.reply(&bye, 200, "", "");
    }
}

#[test]
fn a_credential_opens_no_other_call() {
    let mut server = Server::start(|_| {});
    let mut left = server.registered("1001");
    let mut right = server.registered("1002");
    let invite =
        left.request("INVITE", "sip:1003@acme.test", "<sip:1003@acme.test>", "Contact: <sip:x@127.0.0.1>\r\n", "");
    left.send(&invite);
    let challenge = left.final_of(&invite);
    let again = left.with_credentials(&invite, &challenge);
    let redirected = again.replacen("INVITE sip:1003@acme.test ", "INVITE sip:1002@acme.test ", 1);
    left.send(&redirected);
    assert_eq!(left.final_of(&redirected).status(), 400);
    assert!(right.hears_nothing(Duration::from_millis(200)), "{}", right.report());
    counts(&server, "tipring_sip_misdirected_total", 1.0);
}

/// What `victim` gets of so many seconds of the caller's stream.
fn aimed_at(call: &mut Call, left_via: SocketAddr, victim: &mut Stream, seconds: u64) -> usize {
    for _ in 0..seconds * 50 {
        call.caller_stream.send(left_via);
        std::thread::sleep(Duration::from_millis(20));
    }
    victim.collect(Duration::from_millis(200)).len()
}

#[test]
fn a_third_party_is_not_flooded() {
    let mut server = Server::start(|_| {});
    let (mut left, mut right) = (server.registered("1001"), server.registered("1002"));
    let mut victim = Stream::open(server.fresh_ip(), 666);
    let described = victim.sdp("sendrecv");
    let call = |left: &mut Phone, right: &mut Phone| {
        let (own, described) = (right.local.ip().to_string(), described.clone());
        let change = move |sdp: String| if sdp.contains(&own) { described.clone() } else { sdp };
        Call::set_up_with(left, right, "1002", 1, &change)
    };
    let mut attack = call(&mut left, &mut right);
    let (left_via, right_via) = attack.relay();
    let first = aimed_at(&mut attack, left_via, &mut victim, 5);
    assert!((200..=260).contains(&first), "{first}");
    let later = aimed_at(&mut attack, left_via, &mut victim, 3);
    assert!((1..=15).contains(&later), "{later}");
    // The same place, when somebody is there who wants it.
    victim.send(right_via);
    let wanted = aimed_at(&mut attack, left_via, &mut victim, 1);
    assert_eq!(wanted, 50);
    attack.end_by_caller(&mut left, &mut right);
    counts_some(&server, "reason=\"unheard\"");
}

fn counts_some(server: &Server, label: &str) {
    let some = || (server.metric("tipring_rtp_dropped_total", label)? > 0.0).then_some(());
    assert!(eventually(PATIENCE, some).is_some(), "{label}");
}

#[test]
fn media_goes_to_no_port_of_ours_and_to_no_metadata_service() {
    let mut server = Server::start(|_| {});
    let (mut left, mut right) = (server.registered("1001"), server.registered("1002"));
    let listener = std::net::UdpSocket::bind((server.ip(), 0)).unwrap();
    let other = listener.local_addr().unwrap();
    let targets = [server.sip(), other, "169.254.169.254:8080".parse().unwrap(), "127.9.9.9:53".parse().unwrap()];
    for target in targets {
        let own = right.local.ip().to_string();
        let change = move |sdp: String| {
            if !sdp.contains(&own) {
                return sdp;
            }
            let port = sdp.split("m=audio ").nth(1).unwrap().split(' ').next().unwrap().to_owned();
            let sdp = sdp.replace(&own, &target.ip().to_string());
            sdp.replace(&format!("m=audio {port} "), &format!("m=audio {} ", target.port()))
        };
        let mut call = Call::set_up_with(&mut left, &mut right, "1002", 1, &change);
        let (left_via, _) = call.relay();
        let before = server.metric("tipring_rtp_dropped_total", "reason=\"no_destination\"").unwrap();
        call.caller_stream.send_many(20, left_via);
        let dropped = || {
            let now = server.metric("tipring_rtp_dropped_total", "reason=\"no_destination\"")?;
            (now - before >= 20.0).then_some(())
        };
        assert!(eventually(PATIENCE, dropped).is_some(), "{target}");
        // A phone that is elsewhere than it says is still heard, and then hears.
        call.callee_stream.send_many(3, call.relay().1);
        assert_eq!(call.caller_stream.collect(Duration::from_millis(200)).len(), 3, "{target}");
        call.caller_stream.send_many(20, left_via);
        assert_eq!(call.callee_stream.collect(Duration::from_millis(200)).len(), 20, "{target}");
        call.end_by_caller(&mut left, &mut right);
    }
    listener.set_nonblocking(true).unwrap();
    assert!(listener.recv(&mut [0; 2048]).is_err());
}
