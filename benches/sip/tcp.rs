//! Phones that keep a connection each: register once, then only stay.

use std::io::Read;
use std::io::Write;
use std::net::Ipv4Addr;
use std::net::SocketAddr;
use std::net::TcpStream;
use std::time::Duration;

use crate::load::credentials;
use crate::target::DOMAIN;
use crate::target::SERVER;

const BEHIND_ONE: usize = 500;

pub fn connect(phones: usize) -> Vec<TcpStream> {
    let mut connections = Vec::new();
    for user in 0..phones {
        let [high, low] = u16::try_from(user / BEHIND_ONE).expect("few addresses").to_be_bytes();
        let ip = Ipv4Addr::new(127, 45 + high, low, 1);
        let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).expect("a socket");
        socket.bind(&SocketAddr::from((ip, 0)).into()).expect("bound");
        if let Err(error) = socket.connect_timeout(&SocketAddr::from((SERVER, 5060)).into(), Duration::from_secs(3)) {
            println!("connection {user}: {error}");
            break;
        }
        let mut stream = TcpStream::from(socket);
        stream.set_read_timeout(Some(Duration::from_secs(3))).expect("a time-out");
        match register(&mut stream, user, 1) {
            Some(200) => connections.push(stream),
            other => {
                println!("phone {user}: {other:?}");
                break;
            }
        }
    }
    connections
}

/// Registers every phone anew; how many succeed.
pub fn refresh(connections: Vec<TcpStream>) -> usize {
    let results = connections.into_iter().enumerate().map(|(user, mut stream)| register(&mut stream, user, 10));
    results.filter(|status| *status == Some(200)).count()
}

fn register(stream: &mut TcpStream, user: usize, cseq: u32) -> Option<u16> {
    let local = stream.local_addr().ok()?;
    let request = |cseq: u32, credentials: &str| {
        format!(
            "REGISTER sip:{DOMAIN} SIP/2.0\r\nVia: SIP/2.0/TCP {local};branch=z9hG4bK{user}.{cseq}\r\nMax-Forwards: 70\r\n\
             From: <sip:u{user}@{DOMAIN}>;tag={user}\r\nTo: <sip:u{user}@{DOMAIN}>\r\nCall-ID: {user}@{local}\r\nCSeq: {cseq} REGISTER\r\n\
             Contact: <sip:u{user}@{local};transport=tcp>\r\nExpires: 3600\r\n{credentials}Content-Length: 0\r\n\r\n"
        )
    };
    stream.write_all(request(cseq, "").as_bytes()).ok()?;
    let challenge = response(stream)?;
    if status(&challenge) != 401 {
        return Some(status(&challenge));
    }
    let answer = credentials(&challenge, user, "REGISTER", &format!("sip:{DOMAIN}"));
    stream.write_all(request(cseq + 1, &answer).as_bytes()).ok()?;
    Some(status(&response(stream)?))
}

fn status(response: &str) -> u16 {
    response.get(8..12).and_then(|code| code.trim().parse().ok()).unwrap_or(0)
}

/// One response; what the server sends on its own is passed over.
fn response(stream: &mut TcpStream) -> Option<String> {
    let mut text = String::new();
    let mut bytes = [0; 4096];
    loop {
        let len = stream.read(&mut bytes).ok().filter(|len| *len > 0)?;
        text.push_str(&String::from_utf8_lossy(&bytes[..len]));
        while let Some((head, rest)) = text.split_once("\r\n\r\n") {
            if head.trim_start().starts_with("SIP/2.0 ") {
                return Some(head.trim_start().to_owned() + "\r\n");
            }
            text = rest.to_owned();
        }
    }
}
