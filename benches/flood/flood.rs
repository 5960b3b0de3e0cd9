//! The strangers: datagrams at a steady rate, each from a source of its own choice, and what comes back to any of them.

use std::io::IoSlice;
use std::net::Ipv4Addr;
use std::net::SocketAddrV4;
use std::net::UdpSocket;
use std::os::fd::AsRawFd;
use std::time::Duration;
use std::time::Instant;

use nix::libc::in_addr;
use nix::libc::in_pktinfo;
use nix::sys::socket::ControlMessage;
use nix::sys::socket::MsgFlags;
use nix::sys::socket::SockaddrIn;
use nix::sys::socket::sendmsg;

use crate::process::server;

/// Datagrams that go out before the clock is looked at.
const BATCH: u32 = 16;

#[derive(Clone, Copy)]
pub enum Kind {
    Options,
    Invite,
    Register,
    Garbage,
    Mixed,
}

impl Kind {
    pub const ALL: [Self; 5] = [Self::Options, Self::Invite, Self::Register, Self::Garbage, Self::Mixed];

    pub fn name(self) -> &'static str {
        match self {
            Self::Options => "options",
            Self::Invite => "invite",
            Self::Register => "register",
            Self::Garbage => "garbage",
            Self::Mixed => "mixed",
        }
    }

    fn message(self, number: u32, source: Ipv4Addr) -> String {
        let user = number % 3_000;
        let head = |method: &str, uri: &str, to: &str| {
            format!(
                "{method} {uri} SIP/2.0\r\nVia: SIP/2.0/UDP {source}:5060;branch=z9hG4bK{number:x};rport\r\nMax-Forwards: 70\r\n\
                 From: <sip:u{user}@bench.test>;tag={number:x}\r\nTo: <{to}>\r\nCall-ID: {number:x}@{source}\r\nCSeq: 1 {method}\r\n\
                 User-Agent: friendly-scanner\r\nContact: <sip:u{user}@{source}:5060>\r\n"
            )
        };
        match self {
            Self::Options => {
                head("OPTIONS", "sip:bench.test", "sip:bench.test")
                    + "Accept: application/sdp\r\nContent-Length: 0\r\n\r\n"
            }
            Self::Register => {
                let own = format!("sip:u{user}@bench.test");
                head("REGISTER", "sip:bench.test", &own) + "Expires: 3600\r\nContent-Length: 0\r\n\r\n"
            }
            Self::Invite => {
                let sdp = format!(
                    "v=0\r\no=- {number} 1 IN IP4 {source}\r\ns=-\r\nc=IN IP4 {source}\r\nt=0 0\r\nm=audio 4000 RTP/AVP 0 8 101\r\n\
                     a=rtpmap:101 telephone-event/8000\r\n"
                );
                let number = format!("sip:00{user}@bench.test");
                let head = head("INVITE", &number, &number);
                format!("{head}Content-Type: application/sdp\r\nContent-Length: {}\r\n\r\n{sdp}", sdp.len())
            }
            Self::Garbage => {
                format!("REGISTER sip:bench.test SIP/2.0\r\nVia: nothing that is one\r\nFrom {number}\r\n\r\n")
            }
            Self::Mixed => {
                let kinds = [Self::Options, Self::Invite, Self::Register, Self::Garbage];
                kinds[number as usize % kinds.len()].message(number, source)
            }
        }
    }
}

#[derive(Default)]
pub struct Sent {
    pub datagrams: u64,
    pub bytes: u64,
    pub answers: u64,
    pub answer_bytes: u64,
}

pub struct Flood {
    kind: Kind,
    sources: u32,
    socket: UdpSocket,
}

impl Flood {
    pub fn new(kind: Kind, sources: usize) -> Self {
        let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).expect("a socket");
        socket.set_nonblocking(true).expect("a socket");
        Self { kind, sources: sources as u32, socket }
    }

    pub fn run(&self, rate: usize, time: Duration) -> Sent {
        let mut sent = Sent::default();
        let began = Instant::now();
        let mut number = 0;
        while began.elapsed() < time {
            let due = (began.elapsed().as_secs_f64() * rate as f64) as u32;
            while number < due {
                for _ in 0..BATCH.min(due - number) {
                    self.send(number, &mut sent);
                    number += 1;
                }
                self.receive(&mut sent);
            }
            std::thread::sleep(Duration::from_micros(500));
        }
        std::thread::sleep(Duration::from_secs(1));
        self.receive(&mut sent);
        sent
    }

    fn send(&self, number: u32, sent: &mut Sent) {
        // 127.50.0.0 and on: none of them is the node's or the phones'.
        let source = Ipv4Addr::from(u32::from(Ipv4Addr::new(127, 50, 0, 1)) + number % self.sources);
        let message = self.kind.message(number, source);
        let chosen = in_pktinfo {
            ipi_ifindex: 0,
            ipi_spec_dst: in_addr { s_addr: u32::from(source).to_be() },
            ipi_addr: in_addr { s_addr: 0 },
        };
        let std::net::SocketAddr::V4(to) = server() else { return };
        let to = SockaddrIn::from(SocketAddrV4::new(*to.ip(), to.port()));
        let parts = [IoSlice::new(message.as_bytes())];
        let control = [ControlMessage::Ipv4PacketInfo(&chosen)];
        if sendmsg(self.socket.as_raw_fd(), &parts, &control, MsgFlags::empty(), Some(&to)).is_ok() {
            sent.datagrams += 1;
            sent.bytes += message.len() as u64;
        }
    }

    fn receive(&self, sent: &mut Sent) {
        let mut bytes = [0; 4_096];
        while let Ok(len) = self.socket.recv(&mut bytes) {
            sent.answers += 1;
            sent.answer_bytes += len as u64;
        }
    }
}
