//! Many phones on a few sockets, paced, almost without state: what comes back says which operation it belongs to and what to
//! do next. Nothing is sent again; what was not answered is counted as lost.

use std::io::Write;
use std::net::Ipv4Addr;
use std::net::UdpSocket;
use std::time::Duration;
use std::time::Instant;

use md5::Digest;
use md5::Md5;

use crate::cpu;
use crate::target::DOMAIN;
use crate::target::Target;

/// Phones behind one address.
const BEHIND_ONE: usize = 250;
const CALLEE_PORT: u16 = 5070;
const CALLER_PORT: u16 = 5060;

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Challenge and REGISTER.
    Register,
    /// Challenge, INVITE to BYE.
    Call,
    /// The same without the BYE: the calls stay up.
    CallAndStay,
}

/// How fast phones that nobody knows yet may come: a stranger's address is answered ten times a second.
pub fn first_registration(users: usize) -> Load {
    let per_second = (users.div_ceil(BEHIND_ONE) * 9).min(2_000);
    Load { kind: Kind::Register, users, operations: users, per_second }
}

pub struct Load {
    pub kind: Kind,
    pub users: usize,
    pub operations: usize,
    pub per_second: usize,
}

#[derive(Default)]
pub struct Outcome {
    pub done: usize,
    pub lost: usize,
    pub refused: usize,
    pub seconds: f64,
    pub generator_cpu: f64,
    pub response_bytes: usize,
    micros: Vec<u32>,
}

impl Outcome {
    pub fn percentile(&mut self, percent: usize) -> f64 {
        self.micros.sort_unstable();
        let at = (self.micros.len() * percent / 100).min(self.micros.len().saturating_sub(1));
        f64::from(self.micros.get(at).copied().unwrap_or(0)) / 1000.0
    }

    pub fn generator_ceiling(&self) -> f64 {
        self.done as f64 / self.generator_cpu.max(1e-9)
    }
}

/// One user agent for all the phones of one address: callers and registrations on one port, callees on another.
struct Endpoint {
    ip: Ipv4Addr,
    caller: UdpSocket,
    callee: UdpSocket,
}

pub struct Generator {
    endpoints: Vec<Endpoint>,
    /// Call-IDs of one run are not those of another.
    run: u32,
}

impl Generator {
    /// Phones of `target`, on addresses that begin with 127 and `network`; a few hundred addresses go on behind it.
    pub fn open(users: usize, target: &Target, network: u8) -> Self {
        let endpoints = (0..users.div_ceil(BEHIND_ONE))
            .map(|index| {
                let [high, low] = u16::try_from(index).expect("few addresses").to_be_bytes();
                let ip = Ipv4Addr::new(127, network + high, low, 1);
                Endpoint { ip, caller: bind(ip, CALLER_PORT, target), callee: bind(ip, CALLEE_PORT, target) }
            })
            .collect();
        Self { endpoints, run: 0 }
    }

    pub fn run(&mut self, load: &Load) -> Outcome {
        self.run += 1;
        cpu::pin(0, 1);
        let own = i32::try_from(std::process::id()).expect("a pid");
        let before = cpu::ran_seconds(own, 1);
        let start = Instant::now();
        let mut state = Running {
            load,
            run: self.run,
            started: vec![None; load.operations],
            outcome: Outcome::default(),
            out: Vec::new(),
        };
        let mut next = 0;
        let mut last_heard = Instant::now();
        let mut packet = [0; 65_536];
        while state.outcome.done + state.outcome.refused < load.operations {
            let due = (start.elapsed().as_secs_f64() * load.per_second as f64) as usize;
            while next < due.min(load.operations) {
                state.begin(next, self);
                next += 1;
            }
            let mut heard = false;
            for endpoint in &self.endpoints {
                while let Ok(len) = endpoint.caller.recv(&mut packet) {
                    state.on_caller(endpoint, &packet[..len]);
                    heard = true;
                }
                while load.kind != Kind::Register
                    && let Ok(len) = endpoint.callee.recv(&mut packet)
                {
                    state.on_callee(endpoint, &packet[..len]);
                    heard = true;
                }
            }
            if heard {
                last_heard = Instant::now();
            } else if next == load.operations && last_heard.elapsed() > Duration::from_secs(3) {
                break;
            } else {
                std::thread::sleep(Duration::from_micros(300));
            }
        }
        let mut outcome = state.outcome;
        outcome.seconds = (last_heard - start).as_secs_f64();
        outcome.generator_cpu = cpu::ran_seconds(own, 1) - before;
        outcome.lost = load.operations - outcome.done - outcome.refused;
        outcome
    }

    fn of_user(&self, user: usize) -> &Endpoint {
        &self.endpoints[user / BEHIND_ONE]
    }
}

fn bind(ip: Ipv4Addr, port: u16, target: &Target) -> UdpSocket {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::DGRAM, None).expect("a socket");
    let _ = socket.set_recv_buffer_size(4 << 20);
    socket.bind(&std::net::SocketAddr::from((ip, port)).into()).unwrap_or_else(|error| panic!("{ip}:{port}: {error}"));
    socket.connect(&target.address.into()).expect("connected");
    socket.set_nonblocking(true).expect("non-blocking");
    socket.into()
}

struct Running<'a> {
    load: &'a Load,
    run: u32,
    started: Vec<Option<Instant>>,
    outcome: Outcome,
    out: Vec<u8>,
}

impl Running<'_> {
    /// Caller and callee of an operation: callees are the other half of the users.
    fn users_of(&self, operation: usize) -> (usize, usize) {
        match self.load.kind {
            Kind::Register => (operation % self.load.users, 0),
            Kind::Call | Kind::CallAndStay => {
                let half = self.load.users / 2;
                (operation % half, half + operation % half)
            }
        }
    }

    fn begin(&mut self, operation: usize, generator: &Generator) {
        self.started[operation] = Some(Instant::now());
        let (user, _) = self.users_of(operation);
        self.send_first(generator.of_user(user), operation, None);
    }

    /// REGISTER or INVITE, with credentials if there was a challenge.
    fn send_first(&mut self, endpoint: &Endpoint, operation: usize, challenge: Option<&str>) {
        let (user, callee) = self.users_of(operation);
        let ip = endpoint.ip;
        let (method, uri, to) = match self.load.kind {
            Kind::Register => ("REGISTER", format!("sip:{DOMAIN}"), format!("sip:u{user}@{DOMAIN}")),
            _ => ("INVITE", format!("sip:u{callee}@{DOMAIN}"), format!("sip:u{callee}@{DOMAIN}")),
        };
        let cseq = 1 + u32::from(challenge.is_some());
        let body = if method == "INVITE" { sdp(ip, 30_000) } else { String::new() };
        let port = if method == "REGISTER" { CALLEE_PORT } else { CALLER_PORT };
        self.out.clear();
        let _ = write!(
            self.out,
            "{method} {uri} SIP/2.0\r\nVia: SIP/2.0/UDP {ip}:{CALLER_PORT};branch=z9hG4bK{}.{operation}.{cseq};rport\r\nMax-Forwards: 70\r\n\
             From: <sip:u{user}@{DOMAIN}>;tag={operation}\r\nTo: <{to}>\r\nCall-ID: {}.{operation}@{ip}\r\nCSeq: {cseq} {method}\r\n\
             Contact: <sip:u{user}@{ip}:{port}>\r\n",
            self.run, self.run
        );
        if let Some(challenge) = challenge {
            let _ = write!(self.out, "{}", credentials(challenge, user, method, &uri));
        }
        if method == "REGISTER" {
            self.out.extend_from_slice(b"Expires: 3600\r\n");
        } else {
            self.out.extend_from_slice(b"Content-Type: application/sdp\r\n");
        }
        let _ = write!(self.out, "Content-Length: {}\r\n\r\n{body}", body.len());
        let _ = endpoint.caller.send(&self.out);
    }

    fn on_caller(&mut self, endpoint: &Endpoint, packet: &[u8]) {
        let Ok(text) = std::str::from_utf8(packet) else { return };
        let status = text.strip_prefix("SIP/2.0 ").and_then(|rest| rest.get(..3)?.parse::<u16>().ok()).unwrap_or(0);
        if status == 0 {
            // Over the flow that registered, which is this socket; Kamailio calls the Contact.
            return self.on_request(endpoint.ip, &endpoint.caller, text);
        }
        let operation = header(text, "Call-ID").and_then(|id| id.split(['.', '@']).nth(1)?.parse::<usize>().ok());
        let cseq = header(text, "CSeq").unwrap_or_default();
        let Some(operation) = operation.filter(|operation| *operation < self.started.len()) else { return };
        match (status, cseq.split(' ').nth(1).unwrap_or_default()) {
            (401 | 407, method) if cseq.starts_with("1 ") => {
                if method == "INVITE" {
                    self.ack_failure(endpoint, operation, text);
                }
                self.send_first(endpoint, operation, Some(text));
            }
            (200, "REGISTER" | "BYE") => {
                self.outcome.response_bytes = packet.len();
                self.on_done(operation);
            }
            (200, "INVITE") => {
                self.send_in_dialog(endpoint, operation, text, "ACK", 2);
                if self.load.kind == Kind::CallAndStay {
                    self.on_done(operation);
                } else {
                    self.send_in_dialog(endpoint, operation, text, "BYE", 3);
                }
            }
            (300.., method) => {
                if self.outcome.refused == 0 {
                    eprintln!("refused: {}", text.lines().next().unwrap_or_default());
                }
                if method == "INVITE" {
                    self.ack_failure(endpoint, operation, text);
                }
                if self.started[operation].take().is_some() {
                    self.outcome.refused += 1;
                }
            }
            _ => {}
        }
    }

    fn on_done(&mut self, operation: usize) {
        if let Some(started) = self.started[operation].take() {
            self.outcome.done += 1;
            self.outcome.micros.push(u32::try_from(started.elapsed().as_micros()).unwrap_or(u32::MAX));
        }
    }

    fn ack_failure(&mut self, endpoint: &Endpoint, operation: usize, response: &str) {
        let (user, callee) = self.users_of(operation);
        let cseq = header(response, "CSeq").and_then(|cseq| cseq.split(' ').next()).unwrap_or("1");
        self.out.clear();
        let _ = write!(
            self.out,
            "ACK sip:u{callee}@{DOMAIN} SIP/2.0\r\nVia: SIP/2.0/UDP {}:{CALLER_PORT};branch=z9hG4bK{}.{operation}.{cseq};rport\r\n\
             Max-Forwards: 70\r\nFrom: <sip:u{user}@{DOMAIN}>;tag={operation}\r\nTo: {}\r\nCall-ID: {}\r\nCSeq: {cseq} ACK\r\n\
             Content-Length: 0\r\n\r\n",
            endpoint.ip,
            self.run,
            header(response, "To").unwrap_or_default(),
            header(response, "Call-ID").unwrap_or_default()
        );
        let _ = endpoint.caller.send(&self.out);
    }

    fn send_in_dialog(&mut self, endpoint: &Endpoint, operation: usize, answer: &str, method: &str, cseq: u32) {
        let (user, _) = self.users_of(operation);
        let target = header(answer, "Contact").and_then(|contact| contact.split(['<', '>']).nth(1)).unwrap_or_default();
        self.out.clear();
        let _ = write!(
            self.out,
            "{method} {target} SIP/2.0\r\nVia: SIP/2.0/UDP {}:{CALLER_PORT};branch=z9hG4bK{}.{operation}.{method};rport\r\n",
            endpoint.ip, self.run
        );
        for route in answer.lines().filter_map(|line| line.strip_prefix("Record-Route: ")) {
            let _ = write!(self.out, "Route: {route}\r\n");
        }
        let _ = write!(
            self.out,
            "Max-Forwards: 70\r\nFrom: <sip:u{user}@{DOMAIN}>;tag={operation}\r\nTo: {}\r\nCall-ID: {}\r\nCSeq: {cseq} {method}\r\n\
             Content-Length: 0\r\n\r\n",
            header(answer, "To").unwrap_or_default(),
            header(answer, "Call-ID").unwrap_or_default()
        );
        let _ = endpoint.caller.send(&self.out);
    }

    fn on_callee(&mut self, endpoint: &Endpoint, packet: &[u8]) {
        if let Ok(text) = std::str::from_utf8(packet) {
            self.on_request(endpoint.ip, &endpoint.callee, text);
        }
    }

    fn on_request(&mut self, ip: Ipv4Addr, socket: &UdpSocket, text: &str) {
        match text.split(' ').next().unwrap_or_default() {
            "INVITE" => {
                reply(socket, text, "180 Ringing", "", &mut self.out);
                reply(socket, text, "200 OK", &sdp(ip, 30_000), &mut self.out);
            }
            "BYE" | "OPTIONS" => reply(socket, text, "200 OK", "", &mut self.out),
            _ => {}
        }
    }
}

fn reply(socket: &UdpSocket, request: &str, status: &str, body: &str, out: &mut Vec<u8>) {
    out.clear();
    let _ = write!(out, "SIP/2.0 {status}\r\n");
    for line in request.lines().take_while(|line| !line.is_empty()) {
        let name = line.split(':').next().unwrap_or_default();
        match name {
            "Via" | "Record-Route" | "From" | "Call-ID" | "CSeq" => {
                let _ = write!(out, "{line}\r\n");
            }
            "To" if line.contains("tag=") => {
                let _ = write!(out, "{line}\r\n");
            }
            "To" => {
                let _ = write!(out, "{line};tag=callee\r\n");
            }
            _ => {}
        }
    }
    let local = socket.local_addr().expect("bound");
    let kind = if body.is_empty() { "" } else { "Content-Type: application/sdp\r\n" };
    let _ = write!(out, "Contact: <sip:{local}>\r\n{kind}Content-Length: {}\r\n\r\n{body}", body.len());
    let _ = socket.send(out);
}

pub fn sdp(ip: Ipv4Addr, port: u16) -> String {
    format!(
        "v=0\r\no=- 1 1 IN IP4 {ip}\r\ns=-\r\nc=IN IP4 {ip}\r\nt=0 0\r\nm=audio {port} RTP/AVP 0 101\r\n\
         a=rtpmap:0 PCMU/8000\r\na=rtpmap:101 telephone-event/8000\r\na=sendrecv\r\n"
    )
}

pub fn header<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).map(str::trim)
}

/// The header line that answers the challenge in `response`.
pub fn credentials(response: &str, user: usize, method: &str, uri: &str) -> String {
    let (name, challenge) = match header(response, "WWW-Authenticate") {
        Some(challenge) => ("Authorization", challenge),
        None => ("Proxy-Authorization", header(response, "Proxy-Authenticate").unwrap_or_default()),
    };
    let quoted = |name: &str| challenge.split(&format!("{name}=\"")).nth(1)?.split('"').next();
    let (realm, nonce) = (quoted("realm").unwrap_or_default(), quoted("nonce").unwrap_or_default());
    let ha1 = hex(&format!("u{user}:{realm}:p"));
    let ha2 = hex(&format!("{method}:{uri}"));
    let response = hex(&format!("{ha1}:{nonce}:00000001:0a4f113b:auth:{ha2}"));
    let opaque = quoted("opaque").map(|opaque| format!(",opaque=\"{opaque}\"")).unwrap_or_default();
    format!(
        "{name}: Digest username=\"u{user}\",realm=\"{realm}\",nonce=\"{nonce}\",uri=\"{uri}\",response=\"{response}\",\
         algorithm=MD5,qop=auth,nc=00000001,cnonce=\"0a4f113b\"{opaque}\r\n"
    )
}

fn hex(text: &str) -> String {
    let mut out = String::with_capacity(32);
    for byte in Md5::digest(text) {
        for nibble in [byte >> 4, byte & 15] {
            out.push(char::from(b"0123456789abcdef"[usize::from(nibble)]));
        }
    }
    out
}
