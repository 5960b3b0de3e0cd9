//! Strangers with connections, which they open as fast as they are let and never let go; and strangers who guess.

use std::io::ErrorKind;
use std::io::Read;
use std::io::Write;
use std::net::Ipv4Addr;
use std::net::SocketAddr;
use std::net::TcpStream;
use std::net::UdpSocket;
use std::time::Duration;
use std::time::Instant;

use socket2::Domain;
use socket2::Protocol;
use socket2::Socket;
use socket2::Type;

use crate::flood::Sent;
use crate::process::HTTP;
use crate::process::server;

/// As many as one process of the attacker's may have.
const HELD_MAX: usize = 15_000;
const CONNECT_WAIT: Duration = Duration::from_millis(200);

/// Silent connections to the SIP port from 64 addresses, each opened again when it was closed.
pub fn hoard_sip(time: Duration) -> Sent {
    hoard(server(), 64, b"", time)
}

/// Connections to the API, each with requests whose answers nobody reads.
pub fn hoard_api(time: Duration) -> Sent {
    let requests = "GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n".repeat(20);
    hoard(HTTP.parse().expect("an address"), 8, requests.as_bytes(), time)
}

fn hoard(to: SocketAddr, addresses: u8, said: &[u8], time: Duration) -> Sent {
    let mut sent = Sent::default();
    let mut held = Vec::new();
    let began = Instant::now();
    while began.elapsed() < time {
        let from = Ipv4Addr::new(127, 60, 0, 1 + (sent.datagrams % u64::from(addresses)) as u8);
        sent.datagrams += 1;
        match connect(from, to) {
            Ok(mut stream) => {
                let _ = stream.set_nonblocking(true);
                sent.bytes += stream.write(said).unwrap_or(0) as u64;
                held.push(stream);
            }
            Err(_) => std::thread::sleep(Duration::from_millis(5)),
        }
        if held.len() >= HELD_MAX {
            held.retain_mut(is_open);
            std::thread::sleep(Duration::from_millis(5));
        }
        std::thread::sleep(Duration::from_micros(500));
    }
    held.retain_mut(is_open);
    sent.answers = held.len() as u64;
    sent
}

fn connect(from: Ipv4Addr, to: SocketAddr) -> std::io::Result<TcpStream> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP))?;
    socket.bind(&SocketAddr::from((from, 0)).into())?;
    socket.connect_timeout(&to.into(), CONNECT_WAIT)?;
    Ok(socket.into())
}

/// Nothing is read before: what waits there hides the end.
fn is_open(stream: &mut TcpStream) -> bool {
    let mut bytes = [0; 65_536];
    loop {
        match stream.read(&mut bytes) {
            Ok(0) => return false,
            Ok(_) => {}
            Err(error) => return error.kind() == ErrorKind::WouldBlock,
        }
    }
}

/// Passwords for one user of the good ones, from 300 addresses in turn. Answers are the challenges that came: each shows a guess that was
/// verified, or one that may be made.
pub fn guess(time: Duration) -> Sent {
    let sockets: Vec<UdpSocket> = (0..300u16)
        .map(|index| {
            let [high, low] = index.to_be_bytes();
            let socket = UdpSocket::bind((Ipv4Addr::new(127, 61, high, low.max(1)), 0)).expect("a socket");
            socket.connect(server()).expect("connected");
            socket.set_nonblocking(true).expect("non-blocking");
            socket
        })
        .collect();
    let mut sent = Sent::default();
    let mut nonces = vec![String::new(); sockets.len()];
    let began = Instant::now();
    while began.elapsed() < time {
        for (socket, nonce) in sockets.iter().zip(&mut nonces) {
            let text = attempt(socket, nonce, sent.datagrams);
            sent.bytes += socket.send(text.as_bytes()).unwrap_or(0) as u64;
            sent.datagrams += 1;
        }
        std::thread::sleep(Duration::from_millis(20));
        for (socket, nonce) in sockets.iter().zip(&mut nonces) {
            let mut bytes = [0; 2_048];
            while let Ok(len) = socket.recv(&mut bytes) {
                sent.answers += 1;
                sent.answer_bytes += len as u64;
                let text = String::from_utf8_lossy(&bytes[..len]).into_owned();
                let found = text.split("nonce=\"").nth(1).and_then(|rest| rest.split('"').next());
                *nonce = found.unwrap_or_default().to_owned();
            }
        }
    }
    sent
}

fn attempt(socket: &UdpSocket, nonce: &str, number: u64) -> String {
    let from = socket.local_addr().expect("bound");
    let credentials = if nonce.is_empty() {
        String::new()
    } else {
        format!(
            "Authorization: Digest username=\"u900\",realm=\"bench.test\",nonce=\"{nonce}\",uri=\"sip:bench.test\",\
             response=\"{number:032x}\",algorithm=MD5,qop=auth,nc=00000001,cnonce=\"x\"\r\n"
        )
    };
    format!(
        "REGISTER sip:bench.test SIP/2.0\r\nVia: SIP/2.0/UDP {from};branch=z9hG4bKg{number:x};rport\r\nMax-Forwards: 70\r\n\
         From: <sip:u900@bench.test>;tag={number:x}\r\nTo: <sip:u900@bench.test>\r\nCall-ID: {number:x}@{from}\r\nCSeq: 1 REGISTER\r\n\
         Contact: <sip:u900@{from}>\r\n{credentials}Content-Length: 0\r\n\r\n"
    )
}
