//! One stolen account: a phone whose password somebody knows. It registers as a phone does and then takes what it can.

use std::net::Ipv4Addr;
use std::net::UdpSocket;
use std::time::Duration;
use std::time::Instant;

use md5::Digest;
use md5::Md5;

use crate::flood::Sent;
use crate::process::server;

/// Beyond the users of the good ones.
pub const STOLEN: usize = super::PHONES;
const ADDRESS: Ipv4Addr = Ipv4Addr::new(127, 70, 0, 1);

/// What it takes.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Greed {
    /// Memory: REGISTER with 57 kB of Via, and with ten contacts as long as they may be, which make long answers.
    Headers,
    /// Ports: calls that nobody answers.
    Ringing,
    /// Disk: calls to numbers and with Call-IDs of 18 kB.
    Numbers,
}

impl Greed {
    fn per_second(self) -> usize {
        match self {
            Self::Headers => 1_000,
            Self::Ringing | Self::Numbers => 500,
        }
    }
}

struct Nonce {
    realm: String,
    nonce: String,
    count: u32,
}

pub struct Account {
    socket: UdpSocket,
    nonce: Nonce,
    number: u32,
}

impl Account {
    pub fn open() -> Self {
        let socket = UdpSocket::bind((ADDRESS, 5060)).expect("a socket");
        socket.connect(server()).expect("connected");
        socket.set_read_timeout(Some(Duration::from_millis(500))).expect("a time limit");
        let nonce = Nonce { realm: String::new(), nonce: String::new(), count: 0 };
        let mut account = Self { socket, nonce, number: 0 };
        let contact = format!("Contact: <sip:u{STOLEN}@{ADDRESS}:5060>\r\n");
        for _ in 0..20 {
            account.ask("REGISTER", "sip:bench.test", &contact, "");
            let mut bytes = [0; 4_096];
            let Ok(len) = account.socket.recv(&mut bytes) else { continue };
            let text = String::from_utf8_lossy(&bytes[..len]).into_owned();
            if text.starts_with("SIP/2.0 200") {
                account.socket.set_nonblocking(true).expect("non-blocking");
                return account;
            }
            account.note(&text);
        }
        panic!("the stolen account does not register");
    }

    fn note(&mut self, answer: &str) {
        let is_md5 = |line: &&str| line.starts_with("WWW-Authenticate:") && line.contains("algorithm=MD5");
        let Some(challenge) = answer.lines().find(is_md5) else { return };
        let quoted = |name: &str| Some(challenge.split(&format!("{name}=\"")).nth(1)?.split('"').next()?.to_owned());
        if let (Some(realm), Some(nonce)) = (quoted("realm"), quoted("nonce")) {
            self.nonce = Nonce { realm, nonce, count: 0 };
        }
    }

    /// Bytes that went out. `headers` are whole lines.
    fn ask(&mut self, method: &str, uri: &str, headers: &str, body: &str) -> usize {
        self.number += 1;
        let number = self.number;
        let own = format!("sip:u{STOLEN}@bench.test");
        let to = if method == "REGISTER" { &own } else { uri };
        let credentials = self.credentials(method, uri);
        let call_id =
            if headers.contains("Call-ID:") { String::new() } else { format!("Call-ID: {number:x}@thief\r\n") };
        let kind = if body.is_empty() { "" } else { "Content-Type: application/sdp\r\n" };
        let text = format!(
            "{method} {uri} SIP/2.0\r\nVia: SIP/2.0/UDP {ADDRESS}:5060;branch=z9hG4bKt{number:x};rport\r\nMax-Forwards: 70\r\n\
             From: <{own}>;tag={number:x}\r\nTo: <{to}>\r\n{call_id}CSeq: {number} {method}\r\n{credentials}{headers}{kind}\
             Content-Length: {}\r\n\r\n{body}",
            body.len()
        );
        self.socket.send(text.as_bytes()).unwrap_or(0)
    }

    fn credentials(&mut self, method: &str, uri: &str) -> String {
        let Nonce { realm, nonce, count } = &mut self.nonce;
        if nonce.is_empty() {
            return String::new();
        }
        *count += 1;
        let ha1 = hex(&format!("u{STOLEN}:{realm}:p"));
        let ha2 = hex(&format!("{method}:{uri}"));
        let response = hex(&format!("{ha1}:{nonce}:{count:08x}:0a4f113b:auth:{ha2}"));
        format!(
            "Authorization: Digest username=\"u{STOLEN}\",realm=\"{realm}\",nonce=\"{nonce}\",uri=\"{uri}\",response=\"{response}\",\
             algorithm=MD5,qop=auth,nc={count:08x},cnonce=\"0a4f113b\"\r\n"
        )
    }

    pub fn run(mut self, greed: Greed, time: Duration) -> Sent {
        let mut sent = Sent::default();
        let began = Instant::now();
        while began.elapsed() < time {
            let due = (began.elapsed().as_secs_f64() * greed.per_second() as f64) as u64;
            while sent.datagrams < due {
                sent.bytes += self.take(greed) as u64;
                sent.datagrams += 1;
            }
            self.hear(&mut sent);
            std::thread::sleep(Duration::from_millis(1));
        }
        sent
    }

    fn take(&mut self, greed: Greed) -> usize {
        let contact = format!("Contact: <sip:u{STOLEN}@{ADDRESS}:5060>\r\n");
        let sdp = format!(
            "v=0\r\no=- 1 1 IN IP4 {ADDRESS}\r\ns=-\r\nc=IN IP4 {ADDRESS}\r\nt=0 0\r\nm=audio 7000 RTP/AVP 0\r\n"
        );
        let is_even = self.number.is_multiple_of(2);
        match greed {
            Greed::Headers if is_even => {
                let via = format!("Via: {}\r\n", vec!["SIP/2.0/UDP h;branch=z9hG4bK1"; 1_900].join(","));
                self.ask("REGISTER", "sip:bench.test", &via, "")
            }
            Greed::Headers => {
                let contacts: Vec<_> =
                    (0..10).map(|n| format!("<sip:u{STOLEN}@192.0.2.{n};x={}>", "c".repeat(900))).collect();
                let headers = format!("Contact: {}\r\n", contacts.join(","));
                self.ask("REGISTER", "sip:bench.test", &headers, "")
            }
            Greed::Ringing => self.ask("INVITE", &format!("sip:u{STOLEN}@bench.test"), &contact, &sdp),
            Greed::Numbers if is_even => {
                let uri = format!("sip:{}@bench.test", "7".repeat(18_000));
                self.ask("INVITE", &uri, &contact, &sdp)
            }
            Greed::Numbers => {
                let headers = format!("Call-ID: {:x}{}\r\n{contact}", self.number, "i".repeat(18_000));
                self.ask("INVITE", &format!("sip:u{STOLEN}@bench.test"), &headers, &sdp)
            }
        }
    }

    /// It rings, and answers nothing.
    fn hear(&mut self, sent: &mut Sent) {
        let mut bytes = [0; 65_536];
        while let Ok(len) = self.socket.recv(&mut bytes) {
            let text = String::from_utf8_lossy(&bytes[..len]).into_owned();
            if text.starts_with("SIP/2.0 ") {
                sent.answers += 1;
                sent.answer_bytes += len as u64;
            }
            self.note(&text);
        }
    }
}

fn hex(text: &str) -> String {
    use std::fmt::Write;
    Md5::digest(text).iter().fold(String::new(), |mut out, byte| {
        let _ = write!(out, "{byte:02x}");
        out
    })
}
