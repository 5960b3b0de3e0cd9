//! Parties that move, that send from elsewhere than they receive, and strangers beside them: the oracle is the sender.

use std::time::Duration;
use std::time::Instant;

use crate::calls::Call;
use crate::phone::Phone;
use crate::rtp::Arrived;
use crate::rtp::Stream;
use crate::rtp::check_flow;
use crate::server::Server;

const QUIET: Duration = Duration::from_millis(200);
const FRAME: Duration = Duration::from_millis(20);

fn pair(server: &mut Server) -> (Phone, Phone) {
    (server.registered("1001"), server.registered("1002"))
}

/// The caller describes another stream of its own, by re-INVITE or UPDATE; the callee stays.
fn describe(call: &mut Call, left: &mut Phone, right: &mut Phone, method: &str, stream: &Stream) {
    let raised = |stream: &Stream| stream.sdp("sendrecv").replacen(" 1 IN", " 2 IN", 1);
    left.send_in(&mut call.caller, method, "", &raised(stream));
    let offer = right.incoming(method);
    right.reply(&offer, 200, "", &raised(&call.callee_stream));
    left.await_status(&mut call.caller, 200);
    if method == "INVITE" {
        left.ack(&call.caller, "");
        right.incoming("ACK");
    }
}

fn numbers(arrived: &[Arrived], call: u32) -> Vec<u16> {
    arrived.iter().filter(|packet| packet.call == call).map(|packet| packet.sequence).collect()
}

#[test]
fn a_new_port_is_believed_while_the_old_one_still_sends() {
    for method in ["INVITE", "UPDATE"] {
        let mut server = Server::start(|_| {});
        let (mut left, mut right) = pair(&mut server);
        let mut call = Call::set_up(&mut left, &mut right, "1002", 1);
        call.check_media();
        let (left_via, right_via) = call.relay();
        let mut new = Stream::open(left.local.ip(), 2);
        describe(&mut call, &mut left, &mut right, method, &new);
        // More than enough to settle on the old port.
        let first = call.caller_stream.sent() + 1;
        for _ in 0..10 {
            call.caller_stream.send(left_via);
            call.callee_stream.send(right_via);
            std::thread::sleep(FRAME);
        }
        assert_eq!(numbers(&new.collect(QUIET), 1001).len(), 10, "media goes to the new port at once");
        let old = numbers(&call.callee_stream.collect(QUIET), 1);
        assert_eq!(
            old,
            (first..first + 10).collect::<Vec<_>>(),
            "what comes from the old port is heard for a brief time"
        );
        check_flow(&mut new, &mut call.callee_stream, 40, left_via, right_via);
        check_flow(&mut call.callee_stream, &mut new, 40, right_via, left_via);
        std::thread::sleep(Duration::from_millis(500));
        call.caller_stream.send_many(10, left_via);
        assert_eq!(call.callee_stream.collect(QUIET), [], "the old port has had its time");
        call.end_by_caller(&mut left, &mut right);
    }
}

#[test]
fn the_answer_names_another_port_than_the_early_media() {
    let mut server = Server::start(|_| {});
    let (mut left, mut right) = pair(&mut server);
    let mut near = Stream::open(left.local.ip(), 1);
    let (mut early, mut far) = (Stream::open(right.local.ip(), 2), Stream::open(right.local.ip(), 3));
    let mut caller = left.invite("1002", "", &near.sdp("sendrecv"));
    let invite = right.incoming("INVITE");
    right.reply(&invite, 183, "", &early.sdp("sendrecv"));
    let left_via = left.await_status(&mut caller, 183).media().unwrap();
    let right_via = invite.media().unwrap();
    check_flow(&mut early, &mut near, 20, right_via, left_via);
    right.reply(&invite, 200, "", &far.sdp("sendrecv").replacen(" 1 IN", " 2 IN", 1));
    left.await_status(&mut caller, 200);
    left.ack(&caller, "");
    right.incoming("ACK");
    early.send_many(10, right_via);
    near.send_many(10, left_via);
    assert_eq!(far.collect(QUIET).len(), 10, "media goes where the answer said");
    near.collect(QUIET);
    check_flow(&mut far, &mut near, 40, right_via, left_via);
    check_flow(&mut near, &mut far, 40, left_via, right_via);
    left.hang_up_with(&mut caller, &mut right);
}

#[test]
fn the_phone_of_an_ended_call_is_not_heard_in_the_next() {
    // So few ports that the second call must take those of the first.
    let mut server = Server::start(|setup| setup.media_ports = "20000-20003");
    let (mut left, mut right) = pair(&mut server);
    let mut call = Call::set_up(&mut left, &mut right, "1002", 1);
    call.check_media();
    let before = call.relay();
    call.end_by_caller(&mut left, &mut right);
    let Call { caller_stream: mut old, .. } = call;
    std::thread::sleep(Duration::from_secs(4));
    let mut next = Call::set_up(&mut left, &mut right, "1002", 2);
    let (left_via, right_via) = next.relay();
    assert!([before.0, before.1].contains(&left_via), "the ports are used again");
    old.send_many(10, before.0);
    assert_eq!(next.callee_stream.collect(QUIET), []);
    assert_eq!(next.caller_stream.collect(QUIET), []);
    check_flow(&mut next.caller_stream, &mut next.callee_stream, 20, left_via, right_via);
    check_flow(&mut next.callee_stream, &mut next.caller_stream, 20, right_via, left_via);
    next.end_by_caller(&mut left, &mut right);
}

/// The callee is behind a NAT: what it describes means nothing to us. Its stream is then known by what it sends alone.
fn behind_nat(server: &mut Server) -> (Phone, Phone, Call) {
    let (mut left, mut right) = pair(server);
    let host = right.local.ip().to_string();
    let inside = move |sdp: String| sdp.replace(&host, "10.0.0.5");
    let call = Call::set_up_with(&mut left, &mut right, "1002", 1, &inside);
    (left, right, call)
}

#[test]
fn who_sends_to_all_ports_before_the_phone_does_not_win_its_leg() {
    let mut server = Server::start(|_| {});
    let (mut left, mut right, mut call) = behind_nat(&mut server);
    let (left_via, right_via) = call.relay();
    let mut sprayer = Stream::open(right.local.ip(), 666);
    for _ in 0..3 {
        sprayer.send(left_via);
        sprayer.send(right_via);
        std::thread::sleep(FRAME);
    }
    for _ in 0..50 {
        sprayer.send(left_via);
        sprayer.send(right_via);
        call.callee_stream.send(right_via);
        call.caller_stream.send(left_via);
        std::thread::sleep(FRAME);
    }
    let heard = call.caller_stream.collect(QUIET);
    assert!(numbers(&heard, 1001).len() >= 47, "the phone is heard: {heard:?}");
    assert!(numbers(&heard, 666).len() <= 1, "and the stranger is not: {heard:?}");
    let reached = numbers(&call.callee_stream.collect(QUIET), 1).len();
    assert!(reached >= 47, "the phone hears: {reached}");
    call.end_by_caller(&mut left, &mut right);
}

/// Frames every 20 ms from one socket, then from another with the same numbering: how long until they arrive again.
fn followed_after(is_other_network: bool) -> Duration {
    let mut server = Server::start(|_| {});
    let (mut left, mut right) = pair(&mut server);
    let mut call = Call::set_up(&mut left, &mut right, "1002", 1);
    let (left_via, right_via) = call.relay();
    for _ in 0..50 {
        call.caller_stream.send(left_via);
        std::thread::sleep(FRAME);
    }
    call.callee_stream.collect(Duration::from_millis(50));
    let ip = if is_other_network { server.fresh_ip() } else { left.local.ip() };
    call.caller_stream.move_to(Stream::open(ip, 1));
    let (began, first) = (Instant::now(), call.caller_stream.sent() + 1);
    let mut followed = None;
    for _ in 0..50 {
        call.caller_stream.send(left_via);
        let arrived = call.callee_stream.collect(FRAME);
        if followed.is_none() && arrived.iter().any(|packet| packet.sequence >= first) {
            followed = Some(began.elapsed());
        }
    }
    // The other way, too.
    call.callee_stream.send_many(10, right_via);
    assert_eq!(numbers(&call.caller_stream.collect(QUIET), 1001).len(), 10, "media follows");
    call.end_by_caller(&mut left, &mut right);
    followed.expect("the stream is followed")
}

#[test]
fn a_stream_that_goes_on_from_elsewhere_is_followed_within_300_ms() {
    for is_other_network in [false, true] {
        let time = followed_after(is_other_network);
        assert!(time < Duration::from_millis(300), "{time:?}");
    }
}

#[test]
fn a_phone_that_sends_from_one_port_and_receives_on_another() {
    let mut server = Server::start(|_| {});
    let (mut left, mut right) = pair(&mut server);
    let mut call = Call::set_up(&mut left, &mut right, "1002", 1);
    let (left_via, right_via) = call.relay();
    let mut mouth = Stream::open(right.local.ip(), 1001);
    for _ in 0..20 {
        mouth.send(right_via);
        call.caller_stream.send(left_via);
        std::thread::sleep(FRAME);
    }
    assert_eq!(numbers(&call.caller_stream.collect(QUIET), 1001), (1..=20).collect::<Vec<_>>());
    assert_eq!(numbers(&call.callee_stream.collect(QUIET), 1), (1..=20).collect::<Vec<_>>(), "where it said");
    call.end_by_caller(&mut left, &mut right);
}

#[test]
fn the_directory_says_where_media_of_a_phone_goes() {
    for (symmetric, at_port) in [("always", false), ("never", true)] {
        let phone = |user: &str, more: &str| {
            format!("[[phone]]\ntenant = \"acme\"\nuser = \"{user}\"\npassword = \"secret-{user}\"\n{more}")
        };
        let directory = format!(
            "[[tenant]]\nname = \"acme\"\ndomain = \"acme.test\"\n{}{}",
            phone("1001", ""),
            phone("1002", &format!("symmetric = \"{symmetric}\"\n"))
        );
        let mut server = Server::start(|setup| setup.directory = Some(directory));
        let (mut left, mut right) = pair(&mut server);
        let mut call = Call::set_up(&mut left, &mut right, "1002", 1);
        let (left_via, right_via) = call.relay();
        let mut mouth = Stream::open(right.local.ip(), 1001);
        mouth.send_many(3, right_via);
        call.caller_stream.send_many(10, left_via);
        let (ear, mouth) = (call.callee_stream.collect(QUIET).len(), mouth.collect(QUIET).len());
        assert_eq!((ear, mouth), if at_port { (10, 0) } else { (0, 10) }, "{symmetric}");
        call.end_by_caller(&mut left, &mut right);
    }
}

#[test]
fn media_from_anywhere_is_taken_where_it_is_allowed() {
    for allowed in [false, true] {
        let mut server = Server::start(|setup| {
            if allowed {
                setup.media_ports = "20000-20199\"\nfrom_anywhere = true\n#";
            }
        });
        let (mut left, mut right) = pair(&mut server);
        let mut call = Call::set_up(&mut left, &mut right, "1002", 1);
        let (_, right_via) = call.relay();
        let mut elsewhere = Stream::open(server.fresh_ip(), 1001);
        elsewhere.send_many(10, right_via);
        assert_eq!(call.caller_stream.collect(QUIET).len(), if allowed { 10 } else { 0 });
        call.end_by_caller(&mut left, &mut right);
    }
}

/// RFC 3261 §20.43.
const NO_SUCH_FAMILY: &str = "301 tipring \"no media address of that family\"";

#[test]
fn media_of_the_other_family_is_heard_or_refused_and_never_silent() {
    let mut server = Server::start(|setup| setup.ipv6 = true);
    let mut left = Phone::udp("1001", "[::1]:0".parse().unwrap(), server.sip_v6());
    assert_eq!(left.register(300).status(), 200);
    let mut right = server.registered("1002");
    let mut near = Stream::open(server.fresh_ip(), 1);
    let mut far = Stream::open(right.local.ip(), 2);

    // Whoever signals over the one and offers the other is met at our address of the other.
    let mut caller = left.invite("1002", "", &near.sdp("sendrecv"));
    let invite = right.incoming("INVITE");
    right.reply(&invite, 200, "", &far.sdp("sendrecv"));
    let left_via = left.await_status(&mut caller, 200).media().unwrap();
    left.ack(&caller, "");
    right.incoming("ACK");
    let right_via = invite.media().unwrap();
    assert!(left_via.is_ipv4(), "{left_via}");
    check_flow(&mut near, &mut far, 20, left_via, right_via);
    check_flow(&mut far, &mut near, 20, right_via, left_via);
    left.hang_up_with(&mut caller, &mut right);

    // Whoever was offered the one cannot answer with the other.
    let near = Stream::open(left.local.ip(), 3);
    let mut caller = left.invite("1002", "", &near.sdp("sendrecv"));
    let invite = right.incoming("INVITE");
    assert!(invite.media().unwrap().is_ipv4());
    right.reply(&invite, 200, "", &near.sdp("sendrecv"));
    let refusal = left.await_status(&mut caller, 488);
    assert_eq!(refusal.header("Warning"), Some(NO_SUCH_FAMILY));
    right.incoming("ACK");
    let bye = right.incoming("BYE");
    right.reply(&bye, 200, "", "");

    // A node without such an address says so at once.
    let mut server = Server::start(|_| {});
    let (mut left, mut right) = pair(&mut server);
    let mut caller = left.invite("1002", "", &near.sdp("sendrecv"));
    let refusal = left.await_status(&mut caller, 488);
    assert_eq!(refusal.header("Warning"), Some(NO_SUCH_FAMILY));
    assert!(right.hears_nothing(QUIET));
}
