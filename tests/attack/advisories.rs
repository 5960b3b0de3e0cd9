//! What has broken other servers: the public advisories of EnableSecurity about SIP and media, each tried against ours. The table in
//! `docs/security.md` says of each of them what it was, and which test this is.

use std::net::SocketAddr;
use std::time::Duration;

use crate::calls::Call;
use crate::phone::PATIENCE;
use crate::phone::Phone;
use crate::rtp::Stream;
use crate::server::Server;
use crate::server::eventually;

/// A call that is up while others attack, and the engine that carries it.
struct Bystanders {
    left: Phone,
    right: Phone,
    call: Call,
    engine: i32,
}

impl Bystanders {
    fn talking(server: &mut Server) -> Self {
        let (mut left, mut right) = (server.registered("1001"), server.registered("1002"));
        let mut call = Call::set_up(&mut left, &mut right, "1002", 1);
        call.check_media();
        Self { left, right, call, engine: server.pid_of("engine").expect("an engine") }
    }

    /// The call goes on and ends as calls do, another is set up after it; nothing has died, not even a message.
    fn noticed_nothing(mut self, server: &Server, what: &str) {
        self.call.check_media();
        self.call.end_by_caller(&mut self.left, &mut self.right);
        let mut next = Call::set_up(&mut self.left, &mut self.right, "1002", 3);
        next.check_media();
        next.end_by_caller(&mut self.left, &mut self.right);
        assert_eq!(server.pid_of("engine"), Some(self.engine), "{what}: the engine died\n{}", server.log());
        assert!(!server.log().contains("panic"), "{what}: something panicked\n{}", server.log());
    }
}

/// Descriptions and headers that overran buffers: ES2017-01 (CSeq), ES2017-02 (multipart), ES2018-01 (Accept), ES2018-02 (fmtp),
/// ES2018-03 (payload type), ES2018-05 (branch and tag), ES2020-03 (media type), ES2020-04 (connection address).
#[test]
fn messages_that_broke_others_break_nothing() {
    let mut server = Server::start(|_| {});
    let bystanders = Bystanders::talking(&mut server);
    let mut thief = server.registered("1003");
    let mut stranger = server.phone("nobody");
    let to = "<sip:1002@acme.test>";
    let contact = format!("Contact: {}\r\n", thief.contact());
    let long = "A".repeat(4_000);
    let cseq = |text: String| text.replacen("CSeq: 1 OPTIONS", &format!("CSeq: 0 {}", &long[..400]), 1);
    for phone in [&mut thief, &mut stranger] {
        let options = phone.request("OPTIONS", "sip:acme.test", to, "", "");
        phone.send(&cseq(options.clone()));
        phone.send(&options.replacen(";branch=z9hG4bK", &format!(";branch=z9hG4bK{long}"), 1));
        phone.send(&options.replacen(";tag=", &format!(";tag={long}"), 1));
        phone.send(&options.replace("\r\n", "\n"));
    }
    let accepts = format!("Accept: {}\r\n", &long[..120]).repeat(50);
    let subscribe = format!("{contact}Event: message-summary\r\n{accepts}");
    let subscribe = thief.request("SUBSCRIBE", "sip:1003@acme.test", "<sip:1003@acme.test>", &subscribe, "");
    assert!((400..500).contains(&thief.ask(&subscribe).status()));
    let part = "--++=AAA\nxxx\n--+";
    let kind = format!("{contact}Content-Type: multipart/mixed;`boundary=++\r\n");
    let sdp = |media: &str, connection: &str| {
        format!("v=0\r\no=- 1 1 IN IP4 127.0.0.1\r\ns=-\r\nc=IN IP4 {connection}\r\nt=0 0\r\n{media}\r\na=sendrecv")
    };
    let audio = "m=audio 17000 RTP/AVP 0";
    let bodies = [
        (kind, part.to_owned()),
        (String::new(), sdp(&format!("{audio}\r\na=fmtp\0:101 0-16"), "127.0.0.1")),
        (String::new(), sdp("m=audio 17000 RTP/AVP 4294967296", "127.0.0.1")),
        (String::new(), sdp(&format!("m={long} 17000 RTP/AVP 0"), "127.0.0.1")),
        (String::new(), sdp(audio, &long)),
        (String::new(), sdp(&format!("{audio}\r\na=rtcp:{long} IN IP4 {long}"), "127.0.0.1")),
    ];
    for (kind, body) in bodies {
        let kind = if kind.is_empty() { format!("{contact}Content-Type: application/sdp\r\n") } else { kind };
        let invite = thief.request("INVITE", "sip:1003@acme.test", "<sip:1003@acme.test>", &kind, &body);
        thief.send(&invite);
        let challenge = thief.final_of(&invite);
        assert_eq!(challenge.status(), 401, "{body}");
        let again = thief.with_credentials(&invite, &challenge);
        thief.send(&again);
        // It calls itself: whatever passes comes back to it and is refused there.
        while let Some(message) = thief.receive(Duration::from_millis(300)) {
            if message.start.starts_with("INVITE") {
                thief.reply(&message, 486, "", "");
            }
        }
    }
    bystanders.noticed_nothing(&server, "malformed messages");
}

/// ES2018-04 and ES2020-02: INVITEs over connections that are gone when they are answered; AST-2016-005: connections that say nothing.
#[test]
fn connections_that_vanish_with_their_calls_take_nothing_along() {
    let mut server = Server::start(|setup| setup.media_ports = "20000-21999");
    let bystanders = Bystanders::talking(&mut server);
    let ip = server.fresh_ip();
    let mut idle = Vec::new();
    for number in 0..40 {
        let mut phone = Phone::tcp("1003", SocketAddr::new(ip, 0), server.sip());
        for _ in 0..5 {
            phone.invite("1002", "", &Stream::open(ip, number).sdp("sendrecv"));
        }
        idle.push(std::net::TcpStream::connect(server.sip()).unwrap());
        drop(phone);
    }
    let Bystanders { left, mut right, call, engine } = bystanders;
    // Those that reached it ring; it declines.
    while let Some(message) = right.receive(Duration::from_millis(300)) {
        if message.start.starts_with("INVITE") {
            right.reply(&message, 486, "", "");
        }
    }
    Bystanders { left, right, call, engine }.noticed_nothing(&server, "connections that vanish");
}

/// ES2021-07 (MESSAGE), ES2021-08 (SUBSCRIBE), CVE-2025-47779 (MESSAGE in another's name).
#[test]
fn no_method_passes_without_a_credential_or_in_anothers_name() {
    let mut server = Server::start(|_| {});
    let mut victim = server.registered("1002");
    let mut thief = server.registered("1003");
    let mut stranger = server.phone("1001");
    let methods = ["INVITE", "MESSAGE", "SUBSCRIBE", "PUBLISH", "NOTIFY", "REFER", "INFO", "UPDATE", "BYE", "REGISTER"];
    for method in methods {
        let headers = format!("Contact: {}\r\nEvent: presence\r\n", stranger.contact());
        let request = stranger.request(method, "sip:1002@acme.test", "<sip:1002@acme.test>", &headers, "");
        stranger.send(&request);
        let answer = stranger.final_of(&request);
        assert!(answer.status() >= 400, "{method} of a stranger: {}", answer.start);
        // Strangers are answered now and then.
        std::thread::sleep(Duration::from_millis(300));
        // With a credential of its own, and the name of somebody else.
        let own = thief.request(method, "sip:1002@acme.test", "<sip:1002@acme.test>", &headers, "");
        let forged = own.replacen("From: <sip:1003@", "From: <sip:1001@", 1);
        let answer = thief.ask(&forged);
        assert!(answer.status() >= 400, "{method} in another's name: {}", answer.start);
    }
    assert!(victim.hears_nothing(Duration::from_millis(300)), "{}", victim.report());
}

/// ES2021-05: who is called asks for the caller's password, or ours.
#[test]
fn no_challenge_is_answered_on_the_way_to_a_phone() {
    let mut server = Server::start(|_| {});
    let (mut left, mut thief) = (server.registered("1001"), server.registered("1002"));
    for code in [401, 407] {
        let mut caller = left.invite("1002", "", &Stream::open(left.local.ip(), 1).sdp("sendrecv"));
        let invite = thief.incoming("INVITE");
        let name = if code == 401 { "WWW" } else { "Proxy" };
        let challenge = format!("{name}-Authenticate: Digest realm=\"acme.test\", nonce=\"x\", algorithm=MD5\r\n");
        thief.reply(&invite, code, &challenge, "");
        thief.incoming("ACK");
        assert!(thief.find(Duration::from_millis(500), |message| message.method() == "INVITE").is_none());
        let answer = left.find(Duration::from_secs(3), |message| message.status() >= 400).expect("an end");
        let leaks = answer.header("WWW-Authenticate").or_else(|| answer.header("Proxy-Authenticate"));
        assert!(![401, 407].contains(&answer.status()) && leaks.is_none(), "{answer:#?}");
        caller.call_id.clear();
    }
}

/// ES2021-09: packets that no key opens, from strangers and from the party's own address.
#[test]
fn packets_that_no_key_opens_end_no_call() {
    let mut server = Server::start(|_| {});
    let (mut left, mut right) = (server.registered("1001"), server.registered("1002"));
    let secured = |sdp: String| {
        let key = "a=crypto:1 AES_CM_128_HMAC_SHA1_80 inline:PS1uQCVeeCFCanVmcjkpPywjNWhcYD0mXXtxaVBR\r\n";
        sdp.replace("RTP/AVP", "RTP/SAVP") + key
    };
    let mut call = Call::set_up_with(&mut left, &mut right, "1002", 1, &secured);
    call.check_media();
    let (left_via, _) = call.relay();
    let stranger = Stream::open(server.fresh_ip(), 9);
    for _ in 0..300 {
        stranger.rtp.send_to(b"\x80\x00p(\t\xcd-\x15\xfd>\\\x86A", left_via).unwrap();
        call.caller_stream.rtp.send_to(b"\x80\x00p(\t\xcd-\x15\xfd>\\\x86A", left_via).unwrap();
    }
    // They pass as they are, or do not; the phones have the key.
    call.callee_stream.rtp.set_nonblocking(true).unwrap();
    while call.callee_stream.rtp.recv(&mut [0; 2_048]).is_ok() {}
    call.callee_stream.rtp.set_nonblocking(false).unwrap();
    std::thread::sleep(Duration::from_millis(300));
    call.end_by_caller(&mut left, &mut right);
    let record = server.cdr(&call.caller.call_id);
    assert_eq!((&record["cause"]["sip"], &record["cause"]["by"]), (&200.into(), &"caller".into()), "{record:#}");
}

/// ES2017-04 and ES2025-01: a packet to each port of the range, again and again. ES2023-01 to 03: a ClientHello to each.
#[test]
fn who_sprays_the_ports_of_a_call_hears_nothing_and_is_not_heard() {
    let mut server = Server::start(|_| {});
    let mut bystanders = Bystanders::talking(&mut server);
    let mut stranger = Stream::open(server.fresh_ip(), 9);
    let (server_ip, ports) = (server.ip(), 20_000..20_200);
    let hello = [&[0x16, 0xfe, 0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 4][..], &[1, 0, 0, 0]].concat();
    let (left_via, _) = bystanders.call.relay();
    for _ in 0..20 {
        for port in ports.clone() {
            stranger.send((server_ip, port).into());
            stranger.rtp.send_to(&hello, (server_ip, port)).unwrap();
        }
        bystanders.call.caller_stream.send_many(3, left_via);
    }
    let heard = bystanders.call.callee_stream.collect(Duration::from_millis(300));
    assert!(heard.iter().all(|packet| packet.call == 1), "the stranger was heard");
    assert_eq!(heard.len(), 60);
    assert!(stranger.collect(Duration::from_millis(200)).is_empty(), "the stranger hears the call");
    bystanders.noticed_nothing(&server, "sprayed ports");
}

/// ES2020-01: a blank before the colon hides a header from who looks for its name. ES2021-02: markup in what a page shows.
#[test]
fn nothing_of_a_strangers_headers_passes_into_a_call_or_a_page() {
    let mut server = Server::start(|_| {});
    let (mut left, mut right) = (server.registered("1001"), server.registered("1002"));
    let markup = "<img src=a onerror=alert(1)>";
    let headers = format!(
        "P-Asserted-Identity : <sip:boss@acme.test>\r\nP-Asserted-Identity\t: <sip:boss@acme.test>\r\nRemote-Party-ID: <sip:boss@acme.test>\r\n\
         X-Internal : 1\r\nUser-Agent: {markup}\r\n"
    );
    let mut caller = left.invite("1002", &headers, &Stream::open(left.local.ip(), 1).sdp("sendrecv"));
    let invite = right.incoming("INVITE");
    for name in ["P-Asserted-Identity", "Remote-Party-ID", "X-Internal"] {
        assert!(invite.header(name).is_none(), "{name}: {invite:#?}");
    }
    assert!(!format!("{invite:?}").contains("boss@"), "{invite:#?}");
    right.reply(&invite, 486, "", "");
    left.await_status(&mut caller, 486);
    let contact = format!("Contact: {}\r\nExpires: 60\r\nUser-Agent: {markup}\r\n", left.contact());
    assert_eq!(left.register_with(&contact).status(), 200);
    let listed = || server.json("/v1/registrations").to_string().contains("onerror").then_some(());
    assert!(eventually(PATIENCE, listed).is_some(), "{}", server.json("/v1/registrations"));
    // JSON says that it is JSON, and the page puts in text as text (`http::home`).
    for path in ["/v1/registrations", "/v1/cdrs"] {
        let head = server.get(path).unwrap().head.to_ascii_lowercase();
        assert!(head.contains("content-type: application/json") && head.contains("nosniff"), "{path}: {head}");
    }
    let page = server.get("/").unwrap().body;
    assert!(!page.contains("innerHTML") && !page.contains("document.write"), "{page}");
}
