//! One call whose packets are timed through the relay.

use std::net::Ipv4Addr;
use std::net::SocketAddr;
use std::net::UdpSocket;
use std::time::Duration;
use std::time::Instant;

use crate::load::credentials;
use crate::load::header;
use crate::load::sdp;
use crate::target::DOMAIN;
use crate::target::SERVER;

const CALLER: Ipv4Addr = Ipv4Addr::new(127, 50, 0, 1);
const CALLEE: Ipv4Addr = Ipv4Addr::new(127, 50, 0, 2);

pub struct Call {
    caller: UdpSocket,
    callee: UdpSocket,
    caller_via: SocketAddr,
    callee_via: SocketAddr,
    sent: u16,
}

impl Call {
    /// Between the phones `first` and `first + 1`.
    pub fn set_up(first: usize) -> Self {
        let (left, right) = (Agent::open(CALLER, first), Agent::open(CALLEE, first + 1));
        for agent in [&left, &right] {
            let contact = format!("Contact: <sip:u{}@{}:5060>\r\nExpires: 3600\r\n", agent.user, agent.ip);
            let to = format!("sip:u{}@{DOMAIN}", agent.user);
            agent.ask("REGISTER", &format!("sip:{DOMAIN}"), &to, &contact, "");
        }
        let (caller, callee) = (media(CALLER), media(CALLEE));
        let port = |socket: &UdpSocket| socket.local_addr().expect("bound").port();
        let uri = format!("sip:u{}@{DOMAIN}", right.user);
        let contact = format!("Contact: <sip:u{}@{CALLER}:5060>\r\nContent-Type: application/sdp\r\n", left.user);
        left.start("INVITE", &uri, &uri, &contact, &sdp(CALLER, port(&caller)));
        let invite = right.wait(|text| text.starts_with("INVITE"));
        right.answer(&invite, &sdp(CALLEE, port(&callee)));
        let answer = left.wait(|text| text.starts_with("SIP/2.0 200"));
        left.ack(&answer);
        Self { caller, callee, caller_via: target_of(&answer), callee_via: target_of(&invite), sent: 0 }
    }

    /// How long packets take from one side to the other, 50 a second for so many seconds.
    pub fn lateness(&mut self, seconds: u64) -> String {
        let mut micros = Vec::new();
        let mut packet = [0; 2048];
        for socket in [&self.caller, &self.callee] {
            socket.set_read_timeout(Some(Duration::from_millis(15))).expect("a time-out");
        }
        let count = seconds * 50;
        for _ in 0..count {
            self.sent = self.sent.wrapping_add(1);
            for (socket, via, ssrc) in [(&self.callee, self.callee_via, 2_u32), (&self.caller, self.caller_via, 1)] {
                let _ = socket.send_to(&rtp(self.sent, ssrc), via);
            }
            let start = Instant::now();
            if self.callee.recv(&mut packet).is_ok() && packet[2..4] == self.sent.to_be_bytes() {
                micros.push(u32::try_from(start.elapsed().as_micros()).unwrap_or(u32::MAX));
            }
            let _ = self.caller.recv(&mut packet);
            std::thread::sleep(Duration::from_millis(20).saturating_sub(start.elapsed()));
        }
        micros.sort_unstable();
        let at =
            |percent: usize| micros.get(micros.len() * percent / 100).or_else(|| micros.last()).copied().unwrap_or(0);
        format!("{} of {count} packets, p50 {} µs, p99 {} µs, all within {} µs", micros.len(), at(50), at(99), at(100))
    }
}

fn rtp(sequence: u16, ssrc: u32) -> [u8; 172] {
    let mut packet = [0xd5; 172];
    packet[..2].copy_from_slice(&[0x80, 0]);
    packet[2..4].copy_from_slice(&sequence.to_be_bytes());
    packet[4..8].copy_from_slice(&(u32::from(sequence) * 160).to_be_bytes());
    packet[8..12].copy_from_slice(&ssrc.to_be_bytes());
    packet
}

fn media(ip: Ipv4Addr) -> UdpSocket {
    (30_000..31_000).step_by(2).find_map(|port| UdpSocket::bind((ip, port)).ok()).expect("a port")
}

/// Where a description wants its stream.
fn target_of(text: &str) -> SocketAddr {
    let address = text.lines().find_map(|line| line.strip_prefix("c=IN IP4 ")).expect("an address");
    let port = text.lines().find_map(|line| line.strip_prefix("m=audio ")).and_then(|line| line.split(' ').next());
    format!("{}:{}", address.trim(), port.expect("a port")).parse().expect("an address")
}

/// A phone that does one thing after the other.
struct Agent {
    user: usize,
    ip: Ipv4Addr,
    socket: UdpSocket,
}

impl Agent {
    fn open(ip: Ipv4Addr, user: usize) -> Self {
        let socket = UdpSocket::bind((ip, 5060)).expect("bound");
        socket.connect((SERVER, 5060)).expect("connected");
        socket.set_read_timeout(Some(Duration::from_secs(3))).expect("a time-out");
        Self { user, ip, socket }
    }

    fn wait(&self, wanted: impl Fn(&str) -> bool) -> String {
        let mut packet = [0; 65_536];
        loop {
            let len =
                self.socket.recv(&mut packet).unwrap_or_else(|error| panic!("u{} hears nothing: {error}", self.user));
            let text = String::from_utf8_lossy(&packet[..len]).into_owned();
            if wanted(&text) {
                return text;
            }
        }
    }

    /// Sends a request, answers the challenge, and leaves the answer to be read.
    fn start(&self, method: &str, uri: &str, to: &str, headers: &str, body: &str) {
        let (user, ip) = (self.user, self.ip);
        let request = |cseq: u32, more: &str| {
            format!(
                "{method} {uri} SIP/2.0\r\nVia: SIP/2.0/UDP {ip}:5060;branch=z9hG4bK{method}{user}.{cseq};rport\r\nMax-Forwards: 70\r\n\
                 From: <sip:u{user}@{DOMAIN}>;tag=a{user}\r\nTo: <{to}>\r\nCall-ID: relay-{method}-{user}\r\nCSeq: {cseq} {method}\r\n\
                 {headers}{more}Content-Length: {}\r\n\r\n{body}",
                body.len()
            )
        };
        self.send(&request(1, ""));
        let challenge = self.wait(|text| text.starts_with("SIP/2.0 40"));
        self.send(&request(2, &credentials(&challenge, user, method, uri)));
    }

    fn ask(&self, method: &str, uri: &str, to: &str, headers: &str, body: &str) {
        self.start(method, uri, to, headers, body);
        self.wait(|text| text.starts_with("SIP/2.0 200"));
    }

    fn send(&self, text: &str) {
        self.socket.send(text.as_bytes()).expect("sent");
    }

    fn answer(&self, invite: &str, body: &str) {
        let kept: String = invite
            .lines()
            .take_while(|line| !line.is_empty())
            .filter(|line| {
                ["Via", "From", "To", "Call-ID", "CSeq"].iter().any(|name| line.starts_with(&format!("{name}:")))
            })
            .map(|line| if line.starts_with("To:") { format!("{line};tag=b\r\n") } else { format!("{line}\r\n") })
            .collect();
        let contact = format!("Contact: <sip:u{}@{}:5060>\r\n", self.user, self.ip);
        self.send(&format!(
            "SIP/2.0 200 OK\r\n{kept}{contact}Content-Type: application/sdp\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        ));
    }

    fn ack(&self, answer: &str) {
        let contact =
            header(answer, "Contact").and_then(|contact| contact.split(['<', '>']).nth(1)).expect("a contact");
        let of = |name| header(answer, name).unwrap_or_default();
        self.send(&format!(
            "ACK {contact} SIP/2.0\r\nVia: SIP/2.0/UDP {}:5060;branch=z9hG4bKack{};rport\r\nMax-Forwards: 70\r\nFrom: {}\r\nTo: {}\r\n\
             Call-ID: {}\r\nCSeq: 2 ACK\r\nContent-Length: 0\r\n\r\n",
            self.ip,
            self.user,
            of("From"),
            of("To"),
            of("Call-ID")
        ));
    }
}
