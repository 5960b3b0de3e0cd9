//! How bytes travel: TCP and UDP and both, IPv6, connections that end, and a crowd behind one address.

use std::net::SocketAddr;
use std::net::UdpSocket;
use std::time::Duration;

use crate::calls::Call;
use crate::phone::PATIENCE;
use crate::phone::Phone;
use crate::rtp::Stream;
use crate::server::Server;
use crate::server::eventually;

#[test]
fn a_call_between_tcp_and_udp_both_ways() {
    for shards in [1, 3] {
        let mut server = Server::start(|setup| setup.shards = shards);
        let mut tcp = server.registered_tcp("1001");
        let mut udp = server.registered("1002");
        let mut call = Call::set_up(&mut tcp, &mut udp, "1002", 1);
        call.check_media();
        call.end_by_caller(&mut tcp, &mut udp);
        let mut call = Call::set_up(&mut udp, &mut tcp, "1001", 2);
        assert!(call.offer.must("Via").contains("TCP"), "{:#?}", call.offer);
        call.check_media();
        call.end_by_caller(&mut udp, &mut tcp);
    }
}

#[test]
fn a_call_between_two_connections() {
    let mut server = Server::start(|setup| setup.shards = 2);
    let (mut left, mut right) = (server.registered_tcp("1001"), server.registered_tcp("1002"));
    let mut call = Call::set_up(&mut left, &mut right, "1002", 1);
    call.check_media();
    call.end_by_caller(&mut left, &mut right);
    server.cdr(&call.caller.call_id);
}

#[test]
fn a_binding_goes_with_its_connection() {
    let mut server = Server::start(|_| {});
    let mut left = server.registered("1001");
    let right = server.registered_tcp("1002");
    server.registrations(2);
    drop(right);
    let gone = eventually(PATIENCE, || {
        let items = server.json("/v1/registrations")["items"].as_array()?.clone();
        (!items.iter().any(|item| item["user"] == "1002")).then_some(())
    });
    assert!(gone.is_some(), "{:#?}", server.json("/v1/registrations"));
    let mut caller = left.invite("1002", "", &Stream::open(left.local.ip(), 1).sdp("sendrecv"));
    left.await_status(&mut caller, 480);
}

#[test]
fn a_message_in_pieces_and_two_in_one() {
    let mut server = Server::start(|_| {});
    let ip = server.fresh_ip();
    let mut phone = Phone::tcp("1001", SocketAddr::new(ip, 0), server.sip());
    let mut options = || {
        let uri = format!("sip:{}", phone.server);
        phone.request("OPTIONS", &uri, &format!("<{uri}>"), "", "")
    };
    let (first, second, third) = (options(), options(), options());
    for piece in first.as_bytes().chunks(7) {
        phone.send_bytes(piece);
        std::thread::sleep(Duration::from_millis(2));
    }
    assert_eq!(phone.final_of(&first).status(), 200);
    phone.send_bytes(format!("\r\n\r\n{second}{third}").as_bytes());
    assert_eq!(phone.final_of(&second).status(), 200);
    assert_eq!(phone.final_of(&third).status(), 200);
}

#[test]
fn ipv6_phones() {
    let mut server = Server::start(|setup| setup.ipv6 = true);
    let address = SocketAddr::new("::1".parse().unwrap(), 0);
    let mut left = Phone::udp("1001", address, server.sip_v6());
    let mut right = Phone::tcp("1002", address, server.sip_v6());
    let mut old = server.registered("1003");
    assert_eq!(left.register(600).status(), 200);
    assert_eq!(right.register(600).status(), 200);
    let mut call = Call::set_up(&mut left, &mut right, "1002", 1);
    call.check_media();
    call.end_by_caller(&mut left, &mut right);
    let mut call = Call::set_up(&mut left, &mut old, "1003", 2);
    assert!(call.relay().0.is_ipv6() && call.relay().1.is_ipv4());
    call.check_media();
    call.end_by_caller(&mut left, &mut old);
}

/// Answers go back the way the request came, whatever its Via says, and a request to a binding goes there too.
#[test]
fn a_phone_behind_nat() {
    let mut server = Server::start(|_| {});
    let mut left = server.registered("1001");
    let mut right = server.phone("1002");
    let contact = "Contact: <sip:1002@203.0.113.9:5062>\r\nExpires: 600\r\n";
    let to = "<sip:1002@acme.test>";
    let own = right.local.to_string();
    let request = right.request("REGISTER", "sip:acme.test", to, contact, "");
    right.send(&request.replace(&format!("UDP {own}"), "UDP 203.0.113.9:5062"));
    let challenge = right.final_of(&request);
    assert!(challenge.must("Via").contains(&format!("received={}", right.local.ip())), "{challenge:#?}");
    assert!(challenge.must("Via").contains(&format!("rport={}", right.local.port())), "{challenge:#?}");
    let again = right.with_credentials(&request, &challenge).replace(&format!("UDP {own}"), "UDP 203.0.113.9:5062");
    right.send(&again);
    assert_eq!(right.final_of(&again).status(), 200);
    let mut caller = left.invite("1002", "", &Stream::open(left.local.ip(), 1).sdp("sendrecv"));
    let invite = right.incoming("INVITE");
    assert!(invite.request_uri().contains("203.0.113.9:5062"), "{invite:#?}");
    right.reply(&invite, 486, "", "");
    left.await_status(&mut caller, 486);
}

/// RFC 3261 §18.2.2: without `rport` and without NAT answers go to the port of the Via, and requests to that of the Contact.
#[test]
fn phones_that_listen_on_another_port_than_they_send_from() {
    let mut server = Server::start(|setup| setup.shards = 2);
    let mut left = Phone::with_two_ports("1001", server.fresh_ip(), server.sip());
    let mut right = Phone::with_two_ports("1002", server.fresh_ip(), server.sip());
    assert_eq!((left.register(600).status(), right.register(600).status()), (200, 200));
    let mut call = Call::set_up(&mut left, &mut right, "1002", 1);
    call.check_media();
    call.end_by_caller(&mut left, &mut right);
    let mut call = Call::set_up(&mut right, &mut left, "1001", 3);
    // The callee hangs up: its BYE is answered, and the caller hears one.
    left.hang_up_with(&mut call.callee, &mut right);
    // A CANCEL from there finds its INVITE.
    let mut dialog = left.invite("1002", "", &Stream::open(left.local.ip(), 5).sdp("sendrecv"));
    let invite = right.incoming("INVITE");
    right.reply(&invite, 180, "", "");
    left.await_status(&mut dialog, 180);
    left.cancel(&mut dialog);
    right.incoming("CANCEL");
}

#[test]
fn calls_behind_one_address_spread_over_all_shards() {
    const PHONES: usize = 24;
    let mut server = Server::start(|setup| {
        setup.shards = 4;
        setup.crowd = PHONES;
        // Room for all of them on one shard: the hash need not be even.
        setup.media_ports = "20000-20399";
    });
    let mut callee = server.registered("1002");
    // The proxy: one socket for all of them.
    let mut proxy = server.phone("u0");
    let mut calls = Vec::new();
    for index in 0..PHONES {
        proxy.user = format!("u{index}");
        assert_eq!(proxy.register(600).status(), 200);
        calls.push(Call::set_up(&mut proxy, &mut callee, "1002", u32::try_from(index).unwrap()));
    }
    // Shards publish their counts from time to time.
    let spread = eventually(PATIENCE, || {
        let text = server.get("/metrics").ok()?.body;
        let counts = text.lines().filter_map(|line| {
            line.strip_prefix("tipring_call_attempts_total{direction=\"internal\",")?.rsplit_once(' ')
        });
        let (busy, all) = counts.fold((0, 0), |(busy, all), (_, count)| {
            let count: usize = count.parse().unwrap_or(0);
            (busy + usize::from(count > 0), all + count)
        });
        (busy == 4 && all == PHONES).then_some(())
    });
    assert!(spread.is_some(), "{}", server.get("/metrics").unwrap().body);
    for call in &mut calls {
        call.end_by_caller(&mut proxy, &mut callee);
    }
}

#[test]
fn a_retransmission_is_answered_alike() {
    let mut server = Server::start(|setup| setup.shards = 2);
    let (mut left, mut right) = (server.registered("1001"), server.registered("1002"));
    let sdp = Stream::open(left.local.ip(), 1).sdp("sendrecv");
    let mut caller = left.invite("1002", "", &sdp);
    let invite = right.incoming("INVITE");
    right.reply(&invite, 486, "", "");
    right.reply(&invite, 486, "", "");
    left.await_status(&mut caller, 486);
    // One call rang once, whatever is sent twice.
    assert_eq!(right.saw("<- INVITE"), 1);
    let uri = "sip:1002@acme.test";
    let options = left.request("OPTIONS", uri, &format!("<{uri}>"), "", "");
    left.send(&options);
    let first = left.final_of(&options).status();
    left.send(&options);
    assert_eq!(left.final_of(&options).status(), first);
}

#[test]
fn a_copy_from_elsewhere_cancels_nothing() {
    let mut server = Server::start(|setup| setup.shards = 2);
    let (mut left, mut right) = (server.registered("1001"), server.registered("1002"));
    let mut caller = left.invite("1002", "", &Stream::open(left.local.ip(), 1).sdp("sendrecv"));
    let invite = right.incoming("INVITE");
    right.reply(&invite, 180, "", "");
    left.await_status(&mut caller, 180);
    let stranger = UdpSocket::bind((server.fresh_ip(), 0)).unwrap();
    stranger.set_read_timeout(Some(PATIENCE)).unwrap();
    stranger.send_to(left.cancel_of(&caller).as_bytes(), server.sip()).unwrap();
    let mut answer = [0; 2048];
    let len = stranger.recv(&mut answer).unwrap();
    assert!(answer[..len].starts_with(b"SIP/2.0 481 "), "{}", answer[..len].escape_ascii());
    right.reply(&invite, 486, "", "");
    left.await_status(&mut caller, 486);
}

#[test]
fn a_path_is_the_route_of_the_call() {
    let mut server = Server::start(|_| {});
    let (mut left, mut right) = (server.registered("1001"), server.phone("1002"));
    let path = format!("<sip:{};lr>", right.local);
    let headers = format!("Contact: {}\r\nExpires: 600\r\nSupported: path\r\nPath: {path}\r\n", right.contact());
    let answer = right.register_with(&headers);
    assert_eq!((answer.status(), answer.header("Path")), (200, Some(path.as_str())));
    let mut caller = left.invite("1002", "", &Stream::open(left.local.ip(), 1).sdp("sendrecv"));
    let invite = right.incoming("INVITE");
    assert_eq!(invite.header("Route"), Some(path.as_str()), "RFC 3327 §5.3: {invite:#?}");
    right.reply(&invite, 486, "", "");
    assert_eq!(right.incoming("ACK").header("Route"), Some(path.as_str()), "RFC 3261 §17.1.1.3");
    left.await_status(&mut caller, 486);
}

#[test]
fn a_phone_that_connects_anew_is_told_of_the_end_of_its_call() {
    let mut server = Server::start(|setup| setup.shards = 2);
    let (mut left, mut right) = (server.registered("1001"), server.registered_tcp("1002"));
    right.contact_parameters = ";+sip.instance=\"<urn:uuid:00000000-0000-1000-8000-000000001002>\"".to_owned();
    assert_eq!(right.register(600).status(), 200);
    let mut call = Call::set_up(&mut left, &mut right, "1002", 1);
    let instance = right.contact_parameters.clone();
    drop(right);
    // The caller hangs up while nobody can reach the callee.
    std::thread::sleep(Duration::from_millis(300));
    left.send_in(&mut call.caller, "BYE", "", "");
    left.await_status(&mut call.caller, 200);
    let mut again =
        Phone::tcp("1002", SocketAddr::new(call.callee_stream.rtp.local_addr().unwrap().ip(), 0), server.sip());
    again.contact_parameters = instance;
    assert_eq!(again.register(600).status(), 200);
    let bye = again.incoming("BYE");
    assert_eq!(bye.call_id(), call.callee.call_id);
    again.reply(&bye, 200, "", "");
}
