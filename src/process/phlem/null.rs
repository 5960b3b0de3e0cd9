//! A server that does as little as a server can: what the emulator costs by itself is measured against it.
//!
//! Stateless but for where phones are. It challenges a REGISTER without credentials, takes any credentials for right, passes calls
//! to phones that have registered, and answers all others itself. It reads header fields as PHLEM and SIPp write them, line by
//! line, and relays no audio. Not for any other use.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::io;
use std::net::SocketAddr;
use std::net::UdpSocket;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::Relaxed;
use std::thread::JoinHandle;
use std::time::Duration;

const BUFFER_BYTES: usize = 8 << 20;
/// How soon it notices that it is to end.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// Phones beyond these are not remembered.
const PHONES_MAX: usize = 1_000_000;
const BRANCH: &str = "z9hG4bKnull-";

/// The party whose audio is to go nowhere, as behind a firewall: to see what a scenario makes of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Deaf {
    Caller,
    Callee,
}

/// Serves until it is dropped.
pub struct NullServer {
    address: SocketAddr,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl NullServer {
    pub fn start(at: SocketAddr) -> io::Result<Self> {
        Self::start_deaf(at, None)
    }

    /// The party that called, or that was called, hears nothing.
    pub fn start_deaf(at: SocketAddr, deaf: Option<Deaf>) -> io::Result<Self> {
        let socket = socket2::Socket::new(socket2::Domain::for_address(at), socket2::Type::DGRAM, None)?;
        // As much as the system gives.
        let _ = socket.set_recv_buffer_size(BUFFER_BYTES);
        let _ = socket.set_send_buffer_size(BUFFER_BYTES);
        socket.bind(&at.into())?;
        let socket = UdpSocket::from(socket);
        socket.set_read_timeout(Some(LOOK_EVERY))?;
        let address = socket.local_addr()?;
        let stop = Arc::new(AtomicBool::new(false));
        let mut desk = Desk { socket, own: address, phones: HashMap::new(), nonces: 0, out: String::new(), deaf };
        let stopped = Arc::clone(&stop);
        let thread = std::thread::Builder::new().name("null-server".to_owned()).spawn(move || desk.serve(&stopped))?;
        Ok(Self { address, stop, thread: Some(thread) })
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Serves until `stop` is set.
    pub fn wait(&self, stop: &AtomicBool) {
        while !stop.load(Relaxed) {
            std::thread::sleep(LOOK_EVERY);
        }
    }
}

impl Drop for NullServer {
    fn drop(&mut self) {
        self.stop.store(true, Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Where a phone is.
struct Place {
    contact: String,
    address: SocketAddr,
}

struct Desk {
    socket: UdpSocket,
    own: SocketAddr,
    phones: HashMap<String, Place>,
    nonces: u64,
    out: String,
    deaf: Option<Deaf>,
}

impl Desk {
    fn serve(&mut self, stop: &AtomicBool) {
        let mut bytes = vec![0; 65_536];
        while !stop.load(Relaxed) {
            let Ok((len, from)) = self.socket.recv_from(&mut bytes) else { continue };
            let text = bytes.get(..len).and_then(|bytes| std::str::from_utf8(bytes).ok());
            if let Some(text) = text {
                self.handle(text, from);
            }
        }
    }

    fn send(&self, to: SocketAddr) {
        // What cannot be sent is lost, as datagrams are.
        let _ = self.socket.send_to(self.out.as_bytes(), to);
    }

    fn handle(&mut self, text: &str, from: SocketAddr) {
        let Some((start, rest)) = text.split_once("\r\n") else { return };
        if start.starts_with("SIP/2.0 ") {
            return self.pass_back(start, rest);
        }
        let mut words = start.split(' ');
        let (Some(method), Some(uri)) = (words.next(), words.next()) else { return };
        match method {
            "REGISTER" => self.register(text, from),
            "INVITE" | "ACK" | "BYE" | "CANCEL" | "INFO" | "REFER" | "NOTIFY" | "UPDATE" => match self.target(uri) {
                Some((contact, to)) => self.pass_on(method, &contact, rest, from, to),
                None => self.answer(method, text, from),
            },
            _ => self.reply(text, "200 OK", from, "", ""),
        }
    }

    /// A request's way to another phone; none: the server is meant.
    fn target(&self, uri: &str) -> Option<(String, SocketAddr)> {
        let (user, host) = uri.strip_prefix("sip:")?.split_once('@')?;
        let host = host.split([';', '?']).next()?;
        if let Ok(address) = host.parse::<SocketAddr>()
            && address != self.own
        {
            return Some((uri.to_owned(), address));
        }
        self.phones.get(user).map(|place| (place.contact.clone(), place.address))
    }

    fn register(&mut self, text: &str, from: SocketAddr) {
        if field(text, "Authorization").is_none() {
            self.nonces += 1;
            let nonce = self.nonces;
            let challenge = format!(
                "WWW-Authenticate: Digest realm=\"null\", nonce=\"{nonce:016x}\", algorithm=MD5, qop=\"auth\"\r\n"
            );
            return self.reply(text, "401 Unauthorized", from, &challenge, "");
        }
        let contact = field(text, "Contact").unwrap_or_default();
        let expires = field(text, "Expires").unwrap_or("300");
        let uri = between(contact, '<', '>').unwrap_or(contact);
        let user = uri.strip_prefix("sip:").and_then(|uri| uri.split('@').next()).unwrap_or_default();
        if expires == "0" {
            self.phones.remove(user);
        } else if let Some(place) = self.phones.get_mut(user) {
            if place.contact != uri {
                uri.clone_into(&mut place.contact);
            }
            place.address = from;
        } else if self.phones.len() < PHONES_MAX {
            self.phones.insert(user.to_owned(), Place { contact: uri.to_owned(), address: from });
        }
        let granted = format!("Contact: {contact};expires={expires}\r\n");
        self.reply(text, "200 OK", from, &granted, "");
    }

    /// As the callee.
    fn answer(&mut self, method: &str, text: &str, from: SocketAddr) {
        let own = self.own;
        let contact = format!("Contact: <sip:null@{own}>\r\n");
        match method {
            "ACK" => {}
            "INVITE" => {
                self.reply(text, "180 Ringing", from, &contact, "");
                let family = if own.is_ipv4() { "IP4" } else { "IP6" };
                let ip = own.ip();
                let body = format!(
                    "v=0\r\no=- 1 1 IN {family} {ip}\r\ns=-\r\nc=IN {family} {ip}\r\nt=0 0\r\nm=audio 9 RTP/AVP 0\r\na=inactive\r\n"
                );
                self.reply(text, "200 OK", from, &contact, &body);
            }
            _ => self.reply(text, "200 OK", from, "", ""),
        }
    }

    fn reply(&mut self, request: &str, status: &str, to: SocketAddr, more: &str, body: &str) {
        self.out.clear();
        let _ = write!(self.out, "SIP/2.0 {status}\r\n");
        for line in head(request) {
            let name = line.split(':').next().unwrap_or_default();
            match name {
                "Via" | "From" | "Call-ID" | "CSeq" => self.out.push_str(line),
                "To" if line.contains(";tag=") => self.out.push_str(line),
                "To" => {
                    self.out.push_str(line);
                    self.out.push_str(";tag=null");
                }
                _ => continue,
            }
            self.out.push_str("\r\n");
        }
        self.out.push_str(more);
        if !body.is_empty() {
            self.out.push_str("Content-Type: application/sdp\r\n");
        }
        let _ = write!(self.out, "Content-Length: {}\r\n\r\n{body}", body.len());
        self.send(to);
    }

    /// As a stateless proxy: where the answer goes is in the Via.
    fn pass_on(&mut self, method: &str, uri: &str, rest: &str, from: SocketAddr, to: SocketAddr) {
        let (branch, own) = (branch_of(rest), self.own);
        self.out.clear();
        let _ = write!(
            self.out,
            "{method} {uri} SIP/2.0\r\nVia: SIP/2.0/UDP {own};branch={BRANCH}{branch};peer={from}\r\n{rest}"
        );
        if method == "INVITE" && self.deaf == Some(Deaf::Caller) {
            mislead(&mut self.out);
        }
        self.send(to);
    }

    fn pass_back(&mut self, start: &str, rest: &str) {
        let Some((via, rest)) = rest.split_once("\r\n") else { return };
        let peer = via.split(';').find_map(|part| part.strip_prefix("peer=")?.parse::<SocketAddr>().ok());
        let Some(peer) = peer.filter(|_| via.contains(BRANCH)) else { return };
        self.out.clear();
        let _ = write!(self.out, "{start}\r\n{rest}");
        if self.deaf == Some(Deaf::Callee) {
            mislead(&mut self.out);
        }
        self.send(peer);
    }
}

/// Points audio to the discard port (RFC 863), in as many digits as there were.
fn mislead(message: &mut String) {
    const LINE: &str = "m=audio ";
    let Some(at) = message.find(LINE).map(|at| at + LINE.len()) else { return };
    let digits = message[at..].bytes().take_while(u8::is_ascii_digit).count();
    message.replace_range(at..at + digits, &format!("{:0digits$}", 9));
}

fn head(text: &str) -> impl Iterator<Item = &str> {
    text.split("\r\n").skip(1).take_while(|line| !line.is_empty())
}

fn field<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    head(text).find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).map(str::trim)
}

fn between(text: &str, open: char, close: char) -> Option<&str> {
    text.split_once(open)?.1.split_once(close).map(|(inside, _)| inside)
}

/// That of the topmost Via.
fn branch_of(rest: &str) -> &str {
    let after = rest.split_once("branch=").map_or("", |(_, after)| after);
    after.split([';', '\r', ',']).next().unwrap_or_default()
}
