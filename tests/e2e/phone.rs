//! A small SIP phone on a plain socket that a test drives step by step: it sends what it is told and checks what comes.
//! It writes its own messages, keeps no timers and sends nothing again: the loopback loses nothing.

use std::collections::VecDeque;
use std::io::Read;
use std::io::Write;
use std::net::IpAddr;
use std::net::SocketAddr;
use std::net::TcpStream;
use std::net::UdpSocket;
use std::sync::atomic::AtomicU32;
use std::sync::atomic::Ordering;
use std::time::Duration;
use std::time::Instant;

use socket2::Domain;
use socket2::Protocol;
use socket2::Socket;
use socket2::Type;

use crate::digest::Answer;
use crate::message::Message;
use crate::message::parameter;
use crate::message::uri_of;

/// How long a step may take on a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(5);

const ALLOW: &str = "Allow: INVITE, ACK, BYE, CANCEL, OPTIONS, PRACK, UPDATE, INFO\r\n";

enum Transport {
    Udp(UdpSocket),
    /// Listens on the first, sends from the second.
    Ports(UdpSocket, UdpSocket),
    Tcp(TcpStream, Vec<u8>),
}

pub struct Phone {
    pub user: String,
    pub domain: String,
    pub password: String,
    pub server: SocketAddr,
    pub local: SocketAddr,
    transport: Transport,
    unread: VecDeque<Message>,
    /// Start lines of everything sent and received, for a failure's report.
    ladder: Vec<String>,
    /// Added to every Contact of a REGISTER, as `;name=value`.
    pub contact_parameters: String,
    nonce_count: u32,
}

/// One side of a dialog, or of one being made.
#[derive(Clone, Debug)]
pub struct Dialog {
    pub call_id: String,
    local: String,
    remote: String,
    target: String,
    routes: Vec<String>,
    cseq: u32,
    invite_branch: String,
    invite_cseq: u32,
    invite_uri: String,
}

fn unique() -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    format!("{:x}-{:x}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed))
}

impl Phone {
    pub fn udp(user: &str, local: SocketAddr, server: SocketAddr) -> Self {
        let socket = UdpSocket::bind(local).unwrap_or_else(|error| panic!("{local}: {error}"));
        let local = socket.local_addr().unwrap();
        Self::new(user, local, server, Transport::Udp(socket))
    }

    /// A phone that sends from another port than it listens on and does not know `rport`.
    pub fn with_two_ports(user: &str, ip: IpAddr, server: SocketAddr) -> Self {
        let [listens, sends] = [(); 2].map(|()| UdpSocket::bind((ip, 0)).unwrap());
        let local = listens.local_addr().unwrap();
        Self::new(user, local, server, Transport::Ports(listens, sends))
    }

    pub fn tcp(user: &str, local: SocketAddr, server: SocketAddr) -> Self {
        let socket = Socket::new(Domain::for_address(local), Type::STREAM, Some(Protocol::TCP)).unwrap();
        socket.bind(&local.into()).unwrap();
        socket.connect_timeout(&server.into(), PATIENCE).unwrap();
        let stream = TcpStream::from(socket);
        stream.set_nodelay(true).unwrap();
        let local = stream.local_addr().unwrap();
        Self::new(user, local, server, Transport::Tcp(stream, Vec::new()))
    }

    fn new(user: &str, local: SocketAddr, server: SocketAddr, transport: Transport) -> Self {
        Self {
            user: user.into(),
            domain: if user.starts_with('2') { "globex.test".into() } else { "acme.test".into() },
            password: if user.starts_with('u') { "p".into() } else { format!("secret-{user}") },
            server,
            local,
            transport,
            unread: VecDeque::new(),
            ladder: Vec::new(),
            contact_parameters: String::new(),
            nonce_count: 0,
        }
    }

    pub fn address_of_record(&self) -> String {
        format!("sip:{}@{}", self.user, self.domain)
    }

    pub fn contact(&self) -> String {
        let transport = if self.is_tcp() { ";transport=tcp" } else { "" };
        format!("<sip:{}@{}{transport}>", self.user, self.local)
    }

    fn is_tcp(&self) -> bool {
        matches!(self.transport, Transport::Tcp(..))
    }

    fn rport(&self) -> &'static str {
        if matches!(self.transport, Transport::Ports(..)) { "" } else { ";rport" }
    }

    pub fn new_via(&self) -> (String, String) {
        let branch = format!("z9hG4bK-{}", unique());
        let transport = if self.is_tcp() { "TCP" } else { "UDP" };
        (format!("Via: SIP/2.0/{transport} {};branch={branch}{}\r\n", self.local, self.rport()), branch)
    }

    pub fn send(&mut self, text: &str) {
        self.ladder.push(format!("-> {}", text.lines().next().unwrap_or_default()));
        self.send_bytes(text.as_bytes());
    }

    pub fn send_bytes(&mut self, bytes: &[u8]) {
        match &mut self.transport {
            Transport::Udp(socket) | Transport::Ports(_, socket) => {
                socket.send_to(bytes, self.server).unwrap();
            }
            Transport::Tcp(stream, _) => stream.write_all(bytes).unwrap(),
        }
    }

    /// The next message within `limit`. Keep-alives are passed over; an OPTIONS of the server is answered.
    pub fn receive(&mut self, limit: Duration) -> Option<Message> {
        if let Some(message) = self.unread.pop_front() {
            return Some(message);
        }
        self.receive_fresh(limit)
    }

    fn receive_fresh(&mut self, limit: Duration) -> Option<Message> {
        let end = Instant::now() + limit;
        loop {
            let left = end.checked_duration_since(Instant::now())?.max(Duration::from_millis(1));
            let Some(message) = self.read(left) else { continue };
            self.ladder.push(format!("<- {} ({})", message.start, message.header("CSeq").unwrap_or_default()));
            if message.method() == "OPTIONS" && message.status() == 0 {
                self.reply(&message, 200, "", "");
                continue;
            }
            return Some(message);
        }
    }

    fn read(&mut self, limit: Duration) -> Option<Message> {
        let mut bytes = [0; 65_536];
        match &mut self.transport {
            Transport::Udp(socket) | Transport::Ports(socket, _) => {
                socket.set_read_timeout(Some(limit)).unwrap();
                let (len, _) = socket.recv_from(&mut bytes).ok()?;
                Message::parse(&bytes[..len]).map(|(message, _)| message)
            }
            Transport::Tcp(stream, kept) => {
                if let Some((message, len)) = Message::parse(kept) {
                    kept.drain(..len);
                    return Some(message);
                }
                stream.set_read_timeout(Some(limit)).unwrap();
                let len = stream.read(&mut bytes).ok()?;
                kept.extend_from_slice(&bytes[..len]);
                None
            }
        }
    }

    /// The first message that `wanted` accepts; the others are kept for later, in order.
    pub fn find(&mut self, limit: Duration, mut wanted: impl FnMut(&Message) -> bool) -> Option<Message> {
        if let Some(at) = self.unread.iter().position(&mut wanted) {
            return self.unread.remove(at);
        }
        let end = Instant::now() + limit;
        while let Some(left) = end.checked_duration_since(Instant::now()) {
            let Some(message) = self.receive_fresh(left) else { continue };
            if wanted(&message) {
                return Some(message);
            }
            self.unread.push_back(message);
        }
        None
    }

    fn must_find(&mut self, what: &str, wanted: impl FnMut(&Message) -> bool) -> Message {
        match self.find(PATIENCE, wanted) {
            Some(message) => message,
            None => panic!("{} waits for {what}; so far:\n{}", self.user, self.report()),
        }
    }

    /// The next request of this method.
    pub fn incoming(&mut self, method: &str) -> Message {
        self.must_find(method, |message| message.status() == 0 && message.method() == method)
    }

    /// The last that was sent and received.
    pub fn report(&self) -> String {
        self.ladder[self.ladder.len().saturating_sub(30)..].join("\n")
    }

    pub fn hears_nothing(&mut self, limit: Duration) -> bool {
        self.receive(limit).is_none()
    }

    pub fn saw(&self, part: &str) -> usize {
        self.ladder.iter().filter(|line| line.contains(part)).count()
    }

    /// A request outside of a dialog, as it stands on the wire.
    pub fn request(&mut self, method: &str, uri: &str, to: &str, headers: &str, body: &str) -> String {
        let (via, _) = self.new_via();
        let from = format!("<{}>;tag={}", self.address_of_record(), unique());
        format!(
            "{method} {uri} SIP/2.0\r\n{via}Max-Forwards: 70\r\nFrom: {from}\r\nTo: {to}\r\nCall-ID: {}@test\r\n\
             CSeq: 1 {method}\r\n{headers}Content-Length: {}\r\n\r\n{body}",
            unique(),
            body.len()
        )
    }

    /// The final response to `request`, which has to be the text just sent.
    pub fn final_of(&mut self, request: &str) -> Message {
        let (sent, _) = Message::parse(request.as_bytes()).unwrap();
        let branch = parameter(sent.must("Via"), "branch").unwrap();
        self.must_find("a final response", |message| {
            message.status() >= 200 && parameter(message.must("Via"), "branch").as_deref() == Some(&branch)
        })
    }

    /// `request` again as a new transaction that answers `challenge`.
    pub fn with_credentials(&mut self, request: &str, challenge: &Message) -> String {
        let (sent, _) = Message::parse(request.as_bytes()).unwrap();
        let (name, value) = match challenge.header("WWW-Authenticate") {
            Some(value) => ("Authorization", value),
            None => ("Proxy-Authorization", challenge.must("Proxy-Authenticate")),
        };
        self.nonce_count = 1;
        let answer = Answer {
            challenge: value,
            user: &self.user,
            password: &self.password,
            method: sent.method(),
            uri: sent.request_uri(),
            nonce_count: self.nonce_count,
        };
        let (via, _) = self.new_via();
        let cseq = format!("CSeq: {} ", sent.cseq());
        let raised = format!("CSeq: {} ", sent.cseq() + 1);
        let old_via = format!("Via: {}\r\n", sent.must("Via"));
        let credentials = format!("{via}{name}: {}\r\n", answer.value());
        request.replacen(&cseq, &raised, 1).replacen(&old_via, &credentials, 1)
    }

    /// Sends, answers one challenge, and waits for the final response.
    pub fn ask(&mut self, request: &str) -> Message {
        self.send(request);
        let first = self.final_of(request);
        if ![401, 407].contains(&first.status()) {
            return first;
        }
        if request.starts_with("INVITE") {
            self.ack_failure(request, &first);
        }
        let again = self.with_credentials(request, &first);
        self.send(&again);
        let last = self.final_of(&again);
        if request.starts_with("INVITE") && last.status() >= 300 {
            self.ack_failure(&again, &last);
        }
        last
    }

    pub fn register(&mut self, expires: u32) -> Message {
        let contact = format!("Contact: {}{}\r\nExpires: {expires}\r\n", self.contact(), self.contact_parameters);
        self.register_with(&contact)
    }

    /// REGISTER with these further headers.
    pub fn register_with(&mut self, headers: &str) -> Message {
        let to = format!("<{}>", self.address_of_record());
        let request = self.request("REGISTER", &format!("sip:{}", self.domain), &to, headers, "");
        self.ask(&request)
    }

    /// Sends an INVITE to an extension of the own domain, or to a URI, through the challenge. Returns when it is sent.
    pub fn invite(&mut self, to: &str, headers: &str, body: &str) -> Dialog {
        let is_uri = to.starts_with("sip:") || to.starts_with("tel:");
        let uri = if is_uri { to.to_owned() } else { format!("sip:{to}@{}", self.domain) };
        let kind = if body.is_empty() { "" } else { "Content-Type: application/sdp\r\n" };
        let headers = format!("Contact: {}\r\n{ALLOW}{kind}{headers}", self.contact());
        let mut request = self.request("INVITE", &uri, &format!("<{uri}>"), &headers, body);
        self.send(&request);
        let (sent, _) = Message::parse(request.as_bytes()).unwrap();
        let call_id = sent.call_id().to_owned();
        let first =
            self.must_find("an answer to INVITE", |message| message.call_id() == call_id && message.status() != 100);
        if [401, 407].contains(&first.status()) {
            self.ack_failure(&request, &first);
            request = self.with_credentials(&request, &first);
            self.send(&request);
            self.repeat_until_heard(&request, &call_id);
        } else {
            self.unread.push_back(first);
        }
        let (sent, _) = Message::parse(request.as_bytes()).unwrap();
        Dialog {
            call_id,
            local: sent.must("From").into(),
            remote: sent.must("To").into(),
            target: uri.clone(),
            routes: Vec::new(),
            cseq: sent.cseq(),
            invite_branch: parameter(sent.must("Via"), "branch").unwrap(),
            invite_cseq: sent.cseq(),
            invite_uri: uri,
        }
    }

    /// RFC 3261 §17.1.1.2, timer A, until any response is here: the one thing that a busy server may lose.
    fn repeat_until_heard(&mut self, invite: &str, call_id: &str) {
        let (sent, _) = Message::parse(invite.as_bytes()).unwrap();
        for _ in 0..10 {
            let heard = self.find(Duration::from_millis(500), |message| {
                message.status() > 0 && message.call_id() == call_id && message.cseq() == sent.cseq()
            });
            if let Some(heard) = heard {
                self.unread.push_front(heard);
                return;
            }
            if !self.is_tcp() {
                self.send(invite);
            }
        }
    }

    /// ACK of a final response above 299, on the branch of the INVITE.
    fn ack_failure(&mut self, invite: &str, response: &Message) {
        let (sent, _) = Message::parse(invite.as_bytes()).unwrap();
        let ack = format!(
            "ACK {} SIP/2.0\r\nVia: {}\r\nMax-Forwards: 70\r\nFrom: {}\r\nTo: {}\r\nCall-ID: {}\r\nCSeq: {} ACK\r\nContent-Length: 0\r\n\r\n",
            sent.request_uri(),
            sent.must("Via"),
            sent.must("From"),
            response.must("To"),
            sent.call_id(),
            sent.cseq()
        );
        self.send(&ack);
    }

    /// Waits for the response with this code to the last request of the dialog, over provisional ones. 2xx and 1xx with a
    /// tag fill the dialog in; a final failure is ACKed if it answers an INVITE.
    pub fn await_status(&mut self, dialog: &mut Dialog, code: u16) -> Message {
        let (call_id, cseq) = (dialog.call_id.clone(), dialog.cseq);
        loop {
            let what = format!("{code} to CSeq {cseq}");
            let response = self.must_find(&what, |message| {
                message.status() > 0 && message.call_id() == call_id && message.cseq() == cseq
            });
            let status = response.status();
            if parameter(response.must("To"), "tag").is_some() && status < 300 && response.method() != "CANCEL" {
                dialog.learn(&response);
            }
            if response.method() == "INVITE" && status >= 300 {
                self.ack_on_branch(dialog, &response);
            }
            if status == code {
                return response;
            }
            assert!(status < 200, "{} waits for {code}: {response:#?}\n{}", self.user, self.report());
        }
    }

    fn ack_on_branch(&mut self, dialog: &Dialog, response: &Message) {
        let transport = if self.is_tcp() { "TCP" } else { "UDP" };
        let ack = format!(
            "ACK {} SIP/2.0\r\nVia: SIP/2.0/{transport} {};branch={}{}\r\nMax-Forwards: 70\r\nFrom: {}\r\nTo: {}\r\n\
             Call-ID: {}\r\nCSeq: {} ACK\r\nContent-Length: 0\r\n\r\n",
            dialog.invite_uri,
            self.local,
            dialog.invite_branch,
            self.rport(),
            dialog.local,
            response.must("To"),
            dialog.call_id,
            dialog.invite_cseq
        );
        self.send(&ack);
    }

    /// ACK of a 2xx, with SDP if it answers an offer.
    pub fn ack(&mut self, dialog: &Dialog, body: &str) {
        let (text, _) = self.dialog_request(dialog, "ACK", dialog.invite_cseq, "", body);
        self.send(&text);
    }

    pub fn cancel_of(&self, dialog: &Dialog) -> String {
        let remote = dialog.remote.split(";tag=").next().unwrap_or_default().to_owned();
        let transport = if self.is_tcp() { "TCP" } else { "UDP" };
        format!(
            "CANCEL {} SIP/2.0\r\nVia: SIP/2.0/{transport} {};branch={}{}\r\nMax-Forwards: 70\r\nFrom: {}\r\nTo: {remote}\r\n\
             Call-ID: {}\r\nCSeq: {} CANCEL\r\nContent-Length: 0\r\n\r\n",
            dialog.invite_uri,
            self.local,
            dialog.invite_branch,
            self.rport(),
            dialog.local,
            dialog.call_id,
            dialog.invite_cseq
        )
    }

    /// Cancels the INVITE that is under way; the 200 of the CANCEL is awaited, the 487 is not.
    pub fn cancel(&mut self, dialog: &mut Dialog) {
        self.send(&self.cancel_of(dialog));
        let call_id = dialog.call_id.clone();
        self.must_find("200 to CANCEL", |message| {
            message.call_id() == call_id && message.method() == "CANCEL" && message.status() == 200
        });
    }

    fn dialog_request(&self, dialog: &Dialog, method: &str, cseq: u32, headers: &str, body: &str) -> (String, String) {
        let (via, branch) = self.new_via();
        let routes: String = dialog.routes.iter().map(|route| format!("Route: {route}\r\n")).collect();
        let kind =
            if body.is_empty() || headers.contains("Content-Type") { "" } else { "Content-Type: application/sdp\r\n" };
        let text = format!(
            "{method} {} SIP/2.0\r\n{via}{routes}Max-Forwards: 70\r\nFrom: {}\r\nTo: {}\r\nCall-ID: {}\r\nCSeq: {cseq} {method}\r\n\
             Contact: {}\r\n{kind}{headers}Content-Length: {}\r\n\r\n{body}",
            dialog.target,
            dialog.local,
            dialog.remote,
            dialog.call_id,
            self.contact(),
            body.len()
        );
        (text, branch)
    }

    /// The next request within the dialog, as it would stand on the wire.
    pub fn request_in(&self, dialog: &Dialog, method: &str, body: &str) -> String {
        self.dialog_request(dialog, method, dialog.cseq + 1, "", body).0
    }

    /// Sends a request within the dialog and does not wait.
    pub fn send_in(&mut self, dialog: &mut Dialog, method: &str, headers: &str, body: &str) {
        dialog.cseq += 1;
        let (text, branch) = self.dialog_request(dialog, method, dialog.cseq, headers, body);
        if method == "INVITE" {
            dialog.invite_branch = branch;
            dialog.invite_cseq = dialog.cseq;
            dialog.invite_uri.clone_from(&dialog.target);
        }
        self.send(&text);
    }

    /// BYE that `other` answers.
    pub fn hang_up_with(&mut self, dialog: &mut Dialog, other: &mut Self) {
        self.send_in(dialog, "BYE", "", "");
        let bye = other.incoming("BYE");
        other.reply(&bye, 200, "", "");
        self.await_status(dialog, 200);
    }

    /// Answers a request. A To without a tag gets this phone's.
    pub fn reply(&mut self, request: &Message, code: u16, headers: &str, body: &str) {
        let mut text = format!("SIP/2.0 {code} Test\r\n");
        for via in request.all("Via") {
            text.push_str(&format!("Via: {via}\r\n"));
        }
        for route in request.all("Record-Route").filter(|_| code < 300) {
            text.push_str(&format!("Record-Route: {route}\r\n"));
        }
        let to = request.must("To");
        let tag =
            if parameter(to, "tag").is_none() && code > 100 { format!(";tag={}", self.tag()) } else { String::new() };
        let kind = if body.is_empty() { "" } else { "Content-Type: application/sdp\r\n" };
        text.push_str(&format!(
            "From: {}\r\nTo: {to}{tag}\r\nCall-ID: {}\r\nCSeq: {}\r\nContact: {}\r\n{ALLOW}{kind}{headers}Content-Length: {}\r\n\r\n{body}",
            request.must("From"),
            request.call_id(),
            request.must("CSeq"),
            self.contact(),
            body.len()
        ));
        self.send(&text);
    }

    fn tag(&self) -> String {
        format!("t-{}-{}", self.user, self.local.port())
    }

    /// The dialog that this phone's answers to `invite` make.
    pub fn dialog_of(&self, invite: &Message) -> Dialog {
        Dialog {
            call_id: invite.call_id().into(),
            local: format!("{};tag={}", invite.must("To"), self.tag()),
            remote: invite.must("From").into(),
            target: uri_of(invite.must("Contact")).into(),
            routes: invite.all("Record-Route").map(str::to_owned).collect(),
            cseq: 100,
            invite_branch: String::new(),
            invite_cseq: invite.cseq(),
            invite_uri: String::new(),
        }
    }
}

impl Dialog {
    fn learn(&mut self, response: &Message) {
        // RFC 3261 §12.2: the route set stays as the dialog was made with it; the target may move.
        if parameter(&self.remote, "tag").is_none() {
            self.routes = response.all("Record-Route").map(str::to_owned).collect();
            self.routes.reverse();
        }
        self.remote = response.must("To").into();
        if let Some(contact) = response.header("Contact") {
            self.target = uri_of(contact).into();
        }
    }
}
