//! Datagrams of strangers: forged sources, floods, amplification, guessing.
//!
//! A port beside the victim's on its own address, or a second socket on the very port, stands for a forger: the node sees the same.

use std::net::IpAddr;
use std::net::Ipv4Addr;
use std::net::SocketAddr;
use std::net::UdpSocket;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering;
use std::time::Duration;
use std::time::Instant;

use socket2::Domain;
use socket2::Protocol;
use socket2::Socket;
use socket2::Type;

use crate::phone::Phone;
use crate::server::Server;

/// RFC 3261 §17.1.2.2: Timer E begins with T1.
const T1: Duration = Duration::from_millis(500);

/// A socket that shares its port with others.
fn shared_socket(local: SocketAddr) -> UdpSocket {
    let socket = Socket::new(Domain::IPV4, Type::DGRAM, Some(Protocol::UDP)).unwrap();
    socket.set_reuse_port(true).unwrap();
    socket.bind(&local.into()).unwrap();
    socket.into()
}

/// A request as real clients write it.
fn request(method: &str, from: SocketAddr, number: usize) -> String {
    let body = if method == "INVITE" {
        format!(
            "v=0\r\no=- {number} 1 IN IP4 {ip}\r\ns=-\r\nc=IN IP4 {ip}\r\nt=0 0\r\nm=audio 40000 RTP/AVP 0 8 101\r\n\
             a=rtpmap:101 telephone-event/8000\r\n",
            ip = from.ip()
        )
    } else {
        String::new()
    };
    let kind = if body.is_empty() { "" } else { "Content-Type: application/sdp\r\n" };
    format!(
        "{method} sip:1001@acme.test SIP/2.0\r\nVia: SIP/2.0/UDP {from};branch=z9hG4bK-{number};rport\r\nMax-Forwards: 70\r\n\
         From: <sip:1002@acme.test>;tag=t{number}\r\nTo: <sip:1002@acme.test>\r\nCall-ID: {number}-{port}@stranger\r\n\
         CSeq: {number} {method}\r\nContact: <sip:1002@{from}>\r\nUser-Agent: friendly-scanner 1.0\r\nAccept: application/sdp\r\n\
         {kind}Content-Length: {}\r\n\r\n{body}",
        body.len(),
        port = from.port(),
    )
}

/// What a forger sends who knows nothing but the address.
fn noise(from: SocketAddr, number: usize) -> String {
    match number % 4 {
        0 => "garbage\r\n\r\n".to_owned(),
        1 => request("OPTIONS", from, number).replace("CSeq:", "CSeq: x"),
        2 => request("OPTIONS", from, number).replace("SIP/2.0\r\nVia", "SIP/3.0\r\nVia"),
        _ => request("INVITE", from, number).replace("From:", "From: <<"),
    }
}

/// Asks from `socket` until there is an answer, as clients do; answers to what others asked in its name are passed over.
fn is_heard(socket: &UdpSocket, server: SocketAddr, text: &str) -> bool {
    let mut bytes = [0; 4_096];
    socket.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
    (0..3).any(|_| {
        socket.send_to(text.as_bytes(), server).unwrap();
        let end = Instant::now() + T1;
        let mut hears = || socket.recv(&mut bytes).is_ok_and(|len| bytes[..len].starts_with(b"SIP/2.0 200"));
        std::iter::from_fn(|| (Instant::now() < end).then(&mut hears)).any(|heard| heard)
    })
}

#[test]
fn forged_garbage_silences_nobody() {
    for shards in [1, 2] {
        let mut server = Server::start(|setup| setup.shards = shards);
        let victim = server.fresh_ip();
        let monitor = SocketAddr::new(victim, 7_000);
        let own = shared_socket(monitor);
        // From another port, and from the very port of the monitor.
        for port in [9, 7_000] {
            let forged = shared_socket(SocketAddr::new(victim, port));
            for number in 0..2_000 {
                forged.send_to(noise(SocketAddr::new(victim, port), number).as_bytes(), server.sip()).unwrap();
            }
            drop(forged);
            for number in 0..4 {
                let text = request("OPTIONS", monitor, 100_000 + usize::from(port) * 10 + number);
                assert!(is_heard(&own, server.sip(), &text), "{port} {number}");
                std::thread::sleep(Duration::from_millis(100));
            }
        }
        let mut over_tcp = Phone::tcp("1001", SocketAddr::new(victim, 0), server.sip());
        assert_eq!(over_tcp.register(600).status(), 200);
        let mut phone = Phone::udp("1002", SocketAddr::new(victim, 5_060), server.sip());
        assert_eq!(phone.register(600).status(), 200);
        assert_eq!(server.metric("tipring_sip_unanswered_total", "").map(|count| count > 100.0), Some(true));
    }
}

/// Sends `text(number)` from these sockets in turn for so long; bytes and datagrams out, bytes and datagrams back. `a_second`: no
/// more than that, so that the node need not drop any for want of time.
fn flood(
    sockets: &[UdpSocket],
    server: SocketAddr,
    length: Duration,
    a_second: u64,
    text: impl Fn(SocketAddr, usize) -> String,
) -> [(usize, usize); 2] {
    let mut bytes = [0; 4_096];
    let mut counts = [(0, 0); 2];
    let count = |count: &mut (usize, usize), len: usize| *count = (count.0 + len, count.1 + 1);
    let locals: Vec<SocketAddr> = sockets.iter().map(|socket| socket.local_addr().unwrap()).collect();
    sockets.iter().for_each(|socket| socket.set_nonblocking(true).unwrap());
    let start = Instant::now();
    for (number, (socket, local)) in sockets.iter().zip(&locals).cycle().enumerate() {
        let due = Duration::from_nanos(1_000_000_000 / a_second * number as u64);
        if start.elapsed() >= length {
            break;
        }
        std::thread::sleep(due.saturating_sub(start.elapsed()));
        let text = text(*local, number);
        if socket.send_to(text.as_bytes(), server).is_ok() {
            count(&mut counts[0], text.len());
        }
        while let Ok(len) = socket.recv(&mut bytes) {
            count(&mut counts[1], len);
        }
    }
    // What is still on its way.
    std::thread::sleep(2 * T1);
    for socket in sockets {
        while let Ok(len) = socket.recv(&mut bytes) {
            count(&mut counts[1], len);
        }
    }
    counts
}

#[test]
fn an_answer_to_a_stranger_is_about_as_long_as_its_request() {
    let mut server = Server::start(|_| {});
    let mut ratios = Vec::new();
    let methods = ["OPTIONS", "REGISTER", "INVITE", "CANCEL", "BYE", "MESSAGE", "SUBSCRIBE", "PUBLISH", "REFER", "FOO"];
    for (number, method) in methods.into_iter().enumerate() {
        let local = SocketAddr::new(server.fresh_ip(), 0);
        let socket = UdpSocket::bind(local).unwrap();
        let local = socket.local_addr().unwrap();
        // As clients write it, and as short as somebody can write it who wants much for it.
        let text = request(method, local, number + 1);
        let short = format!(
            "{method} sip:a SIP/2.0\r\nv:SIP/2.0/UDP a;branch=z9hG4bK{number}\r\nMax-Forwards:9\r\nf:sip:a@acme.test;tag=1\r\n\
             t:sip:a@acme.test\r\ni:1\r\nCSeq:1 {method}\r\n\r\n"
        );
        let ratio = |text: &str| {
            let mut bytes = [0; 4_096];
            socket.set_read_timeout(Some(T1)).unwrap();
            socket.send_to(text.as_bytes(), server.sip()).unwrap();
            let len = socket.recv(&mut bytes).unwrap_or(0);
            assert!(len <= 3 * text.len(), "{len} for {}:\n{}", text.len(), String::from_utf8_lossy(&bytes[..len]));
            assert!(socket.recv(&mut bytes).is_err(), "one packet for one");
            len as f64 / text.len() as f64
        };
        ratios.push((method, ratio(&text), ratio(&short)));
    }
    assert!(ratios.iter().all(|(_, typical, _)| (0.1..1.5).contains(typical)), "{ratios:?}");
    assert!(ratios.iter().all(|(_, _, short)| *short > 0.0), "{ratios:?}");
    let mean = ratios.iter().map(|(_, typical, _)| typical).sum::<f64>() / ratios.len() as f64;
    assert!(mean <= 1.0, "{mean}: {ratios:?}");
}

#[test]
fn an_address_gets_few_answers_whatever_it_sends() {
    let mut server = Server::start(|setup| setup.shards = 2);
    for method in ["OPTIONS", "INVITE", "REGISTER", "CANCEL", "FOO"] {
        for ports in [1, 40] {
            let ip = server.fresh_ip();
            let sockets: Vec<_> = (0..ports).map(|_| UdpSocket::bind((ip, 0)).unwrap()).collect();
            let [sent, got] = flood(&sockets, server.sip(), T1, 4_000, |local, n| request(method, local, n));
            assert!(sent.1 > 200, "{sent:?}");
            assert!((1..=25).contains(&got.1), "{method} {ports}: {got:?} for {sent:?}");
            assert!(got.0 < sent.0, "{method} {ports}: {got:?} for {sent:?}");
        }
    }
}

/// Addresses of loopback beside the server's network.
fn addresses(server: &Server, count: usize) -> Vec<IpAddr> {
    let IpAddr::V4(ip) = server.ip() else { panic!("IPv4") };
    let [a, b, _, _] = ip.octets();
    (0..count).map(|n| Ipv4Addr::new(a, b, 200 + (n / 250) as u8, 1 + (n % 250) as u8).into()).collect()
}

#[test]
fn all_strangers_together_get_few_answers() {
    let mut server = Server::start(|setup| setup.shards = 2);
    let mut good = server.registered("1001");
    let sockets: Vec<_> = addresses(&server, 3_000).into_iter().map(|ip| UdpSocket::bind((ip, 0)).unwrap()).collect();
    let start = Instant::now();
    let [sent, got] =
        flood(&sockets, server.sip(), Duration::from_secs(3), 20_000, |local, n| request("OPTIONS", local, n));
    let seconds = start.elapsed().as_secs_f64();
    assert!(
        got.1 as f64 <= 5_000.0 * seconds && (100..sent.1 * 3 / 4).contains(&got.1),
        "{got:?} for {sent:?} in {seconds} s"
    );
    assert!(got.0 <= sent.0, "{got:?} for {sent:?}");
    assert_eq!(good.register(600).status(), 200);
    // The room of strangers is not that of phones and connections.
    let ip = server.fresh_ip();
    assert_eq!(Phone::tcp("1002", SocketAddr::new(ip, 0), server.sip()).register(600).status(), 200);
}

#[test]
fn an_office_comes_back_at_once_after_a_power_cut() {
    const PHONES: usize = 500;
    let mut server = Server::start(|setup| (setup.shards, setup.crowd) = (2, PHONES));
    let ip = server.fresh_ip();
    let anywhere = SocketAddr::new(ip, 0);
    for n in 0..PHONES {
        let mut phone = Phone::udp(&format!("u{n}"), anywhere, server.sip());
        assert_eq!(phone.register(3_600).status(), 200, "u{n}");
    }
    // Somebody forges the address all the time.
    let over = AtomicBool::new(false);
    let forger = UdpSocket::bind(anywhere).unwrap();
    let sip = server.sip();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for number in 0.. {
                if over.load(Ordering::Relaxed) {
                    break;
                }
                let _ = forger.send_to(request("OPTIONS", forger.local_addr().unwrap(), number).as_bytes(), sip);
                std::thread::sleep(Duration::from_micros(500));
            }
        });
        let start = Instant::now();
        let mut waiting: Vec<(Phone, String)> = (0..PHONES)
            .map(|n| {
                let mut phone = Phone::udp(&format!("u{n}"), anywhere, sip);
                let (to, contact) = (format!("<{}>", phone.address_of_record()), phone.contact());
                let headers = format!("Contact: {contact}\r\nExpires: 3600\r\n");
                let text = phone.request("REGISTER", "sip:acme.test", &to, &headers, "");
                (phone, text)
            })
            .collect();
        let mut registered = 0;
        for round in 0..4 {
            waiting.iter_mut().for_each(|(phone, text)| phone.send(text));
            let heard = Instant::now() + T1 * (1 << round);
            while registered < PHONES && Instant::now() < heard {
                waiting.retain_mut(|(phone, text)| {
                    let Some(answer) = phone.find(Duration::from_millis(1), |answer| answer.status() >= 200) else {
                        return true;
                    };
                    if answer.status() == 401 {
                        *text = phone.with_credentials(text, &answer);
                        phone.send(text);
                    }
                    registered += usize::from(answer.status() == 200);
                    answer.status() != 200
                });
            }
        }
        over.store(true, Ordering::Relaxed);
        assert_eq!(registered, PHONES, "in {:?}", start.elapsed());
    });
}

/// Guesses whenever it has been told a nonce; true if the last guess was verified.
fn guess(guesser: &mut Phone, last: &mut Option<String>) -> bool {
    let answer = guesser.find(Duration::from_millis(1), |answer| answer.status() == 401);
    let was_guess = last.as_ref().is_some_and(|text| text.contains("Authorization:"));
    let Some(answer) = answer else {
        // Silence: it tries again from the beginning, at times.
        if last.is_none() || was_guess {
            let to = format!("<{}>", guesser.address_of_record());
            let text = guesser.request("REGISTER", "sip:acme.test", &to, "", "");
            guesser.send(&text);
            *last = Some(text);
        }
        return false;
    };
    let is_stale = answer.header("WWW-Authenticate").is_some_and(|challenge| challenge.contains("stale=true"));
    let to = format!("<{}>", guesser.address_of_record());
    let bare = guesser.request("REGISTER", "sip:acme.test", &to, "", "");
    let text = guesser.with_credentials(&bare, &answer);
    guesser.send(&text);
    *last = Some(text);
    was_guess && !is_stale
}

#[test]
fn many_addresses_guess_no_better_than_one() {
    let mut server = Server::start(|setup| setup.shards = 2);
    let mut phone = server.registered("1001");
    let mut guessers: Vec<(Phone, Option<String>)> = addresses(&server, 300)
        .into_iter()
        .map(|ip| {
            let mut guesser = Phone::udp("1001", SocketAddr::new(ip, 0), server.sip());
            guesser.password = "guess".into();
            (guesser, None)
        })
        .collect();
    let (start, mut verified, mut rounds) = (Instant::now(), 0, 0);
    while start.elapsed() < Duration::from_secs(6) {
        for (guesser, last) in &mut guessers {
            verified += usize::from(guess(guesser, last));
        }
        rounds += 1;
        assert_eq!(phone.register(600).status(), 200, "its own phone notices nothing");
    }
    assert!(rounds >= 3, "{rounds}");
    assert!((3..=60).contains(&verified), "{verified} guesses in {:?}", start.elapsed());
    // A phone that restarts: its address is known, its port and nonces are not.
    let mut again = Phone::udp("1001", SocketAddr::new(phone.local.ip(), 0), server.sip());
    assert_eq!(again.register(600).status(), 200);
}

#[test]
fn a_restarted_phone_gets_in_beside_a_guesser_behind_its_address() {
    let mut server = Server::start(|setup| (setup.shards, setup.crowd) = (2, 15));
    let ip = server.fresh_ip();
    let phone = |n: usize| {
        let mut phone = Phone::udp(&format!("u{n}"), SocketAddr::new(ip, 0), server.sip());
        assert_eq!(phone.register(600).status(), 200, "u{n}");
        phone
    };
    let phones: Vec<Phone> = (0..15).map(phone).collect();
    for (n, phone) in phones.into_iter().enumerate() {
        let user = format!("u{n}");
        let mut guesser = Phone::udp(&user, SocketAddr::new(ip, 0), server.sip());
        guesser.password = "guess".into();
        let mut last = None;
        for _ in 0..40 {
            guess(&mut guesser, &mut last);
        }
        drop(phone);
        let mut again = Phone::udp(&user, SocketAddr::new(ip, 0), server.sip());
        assert_eq!(again.register(600).status(), 200, "{user}");
    }
}
