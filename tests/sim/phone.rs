//! A desk phone of the simulator: registers, calls, answers, holds, hangs up; retransmits as RFC 3261 wants; sends numbered RTP.
//!
//! Sans-IO like the engine, but with a SIP of its own ([`crate::text`]), so that a shared mistake cannot hide.

mod extensions;

use std::net::SocketAddr;
use std::time::Duration;

use tipring::base::random::Random;
use tipring::base::time::Instant;

use crate::phone::extensions::Extensions;
use crate::text;
use crate::text::Text;

/// What an announcement of 20 ms takes.
const ANNOUNCED_BYTES: usize = 172;
const T1: Duration = Duration::from_millis(500);
const T2: Duration = Duration::from_secs(4);
const TIMEOUT: Duration = Duration::from_secs(32);
/// Sparse, so that a simulated minute stays cheap; the engine does not care.
const FRAME: Duration = Duration::from_millis(200);

/// What a phone does next on its user's behalf.
#[derive(Clone, Debug)]
pub enum Act {
    Register {
        expires: u32,
    },
    Call {
        user: String,
    },
    HangUp,
    Hold,
    Resume,
    /// Another offer, in UPDATE.
    Update,
    /// A key, in INFO.
    Press,
    /// The phone's TCP connection breaks; what is under way on it is lost.
    Disconnect,
    /// The phone is off at once and says nothing to anybody; it forgets its call.
    PowerCut,
    /// It registers anew.
    PowerOn,
}

/// What a phone saw happen, for the checker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fact {
    Registered,
    RegisterFailed(u16),
    Ringing,
    Answered,
    Failed(u16),
    Ended,
    Called,
    /// Audio that was not sent to this phone, or that came from an address it was never told.
    WrongAudio(String),
    /// The node broke a rule of RFC 3262, 3311 or 6086.
    Wrong(String),
    /// Nobody acknowledged its reliable response.
    Unpracked,
    /// Its UPDATE was answered, or met another offer.
    Updated,
    Glare,
}

/// How the user of a phone behaves when it rings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Manner {
    Answers {
        after: Duration,
    },
    Rejects(u16),
    Ignores,
    /// Sends 183 with a session description before it answers.
    EarlyMedia {
        after: Duration,
    },
}

#[derive(Debug)]
pub struct Phone {
    pub user: String,
    pub password: String,
    pub domain: String,
    pub sip: SocketAddr,
    pub rtp: SocketAddr,
    pub server: SocketAddr,
    /// SIP over one connection at a time, made anew a moment after it broke.
    pub tcp: bool,
    pub is_off: bool,
    /// It does 100rel, UPDATE and INFO.
    pub extended: bool,
    pub ext: Extensions,
    /// Its tokens in the calls that it lost with its power, or whose BYE nobody answered.
    pub cut_off: Vec<String>,
    pub manner: Manner,
    pub facts: Vec<(Instant, Fact)>,
    pub registered: bool,
    pub frames_received: u64,
    /// Numbers of the packets that told it that it is recorded.
    pub announced: Vec<u16>,
    random: Random,
    registration_cseq: u32,
    nonce_count: u32,
    pending: Vec<Pending>,
    /// Answers kept for retransmitted requests: (branch and method, bytes).
    answered: Vec<(String, Vec<u8>)>,
    call: Option<Call>,
    /// What this phone called itself in each of its calls, and the media addresses it was told there.
    tokens: Vec<(String, Vec<SocketAddr>)>,
    reconnects: Option<Instant>,
}

/// A request that waits for its answer.
#[derive(Debug)]
struct Pending {
    method: String,
    branch: String,
    uri: String,
    bytes: String,
    next: Instant,
    interval: Duration,
    gives_up: Instant,
    proceeding: bool,
    authorized: bool,
    /// It began its call.
    is_first: bool,
}

#[derive(Debug)]
struct Call {
    caller: bool,
    call_id: String,
    local: String,
    remote: String,
    target: String,
    routes: Vec<String>,
    cseq: u32,
    remote_cseq: u32,
    invite: Option<Text>,
    state: State,
    media: Option<SocketAddr>,
    /// What the two parties call themselves in their descriptions: who a packet is from and for.
    token: String,
    remote_token: String,
    sends: bool,
    seq: u16,
    next_frame: Instant,
    sdp_version: u32,
    /// The 2xx until its ACK comes: bytes, next time, interval, end.
    accepted: Option<(Vec<u8>, Instant, Duration, Instant)>,
    /// The ACK for a retransmitted 2xx.
    ack: Option<Vec<u8>>,
    hang_up_when_up: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Calling,
    Ringing { answers: Option<Instant>, rejects: Option<u16> },
    Up,
    Ending,
}

/// The far end of a dialog, early or not.
#[derive(Clone, Debug)]
struct Far {
    remote: String,
    target: String,
}

impl Far {
    fn of(call: &Call) -> Self {
        Self { remote: call.remote.clone(), target: call.target.clone() }
    }
}

pub type Sent = Vec<(SocketAddr, SocketAddr, Vec<u8>)>;

impl Phone {
    pub fn new(user: &str, domain: &str, sip: SocketAddr, server: SocketAddr, manner: Manner, seed: u64) -> Self {
        let rtp = SocketAddr::new(sip.ip(), sip.port() + 1000);
        Self {
            user: user.to_owned(),
            password: format!("secret-{user}"),
            domain: domain.to_owned(),
            sip,
            rtp,
            server,
            tcp: false,
            is_off: false,
            extended: false,
            ext: Extensions::default(),
            cut_off: Vec::new(),
            manner,
            facts: Vec::new(),
            registered: false,
            frames_received: 0,
            announced: Vec::new(),
            random: Random::new(seed),
            registration_cseq: 0,
            nonce_count: 0,
            pending: Vec::new(),
            answered: Vec::new(),
            call: None,
            tokens: Vec::new(),
            reconnects: None,
        }
    }

    /// The tokens of both parties while the call is up.
    pub fn parties(&self) -> Option<(&str, &str)> {
        let call = self.call.as_ref().filter(|call| call.state == State::Up)?;
        Some((&call.token, &call.remote_token))
    }

    /// The audio flows, or may, both ways.
    pub fn talks(&self) -> bool {
        self.call.as_ref().is_some_and(|call| call.state == State::Up && call.sends)
    }

    /// The connection is gone: what waited for an answer on it gets none.
    pub fn on_disconnected(&mut self, now: Instant, out: &mut Sent) {
        self.registered = false;
        self.reconnects = Some(now + Duration::from_millis(500 + self.random.below(2_000)));
        for pending in std::mem::take(&mut self.pending) {
            self.on_final(&pending, 503, None, now, out);
        }
        // Who called cannot be told any more, and will not ask again.
        if self.call.as_ref().is_some_and(|call| matches!(call.state, State::Ringing { .. })) {
            self.end(now);
        }
    }

    pub fn is_busy(&self) -> bool {
        self.call.is_some()
    }

    pub fn is_up(&self) -> bool {
        self.call.as_ref().is_some_and(|call| call.state == State::Up)
    }

    pub fn next_deadline(&self) -> Option<Instant> {
        let pending = self.pending.iter().map(|pending| {
            if self.tcp || pending.proceeding && pending.method == "INVITE" {
                pending.gives_up
            } else {
                pending.next.min(pending.gives_up)
            }
        });
        let call = self.call.iter().flat_map(|call| {
            let frame = (call.sends && call.media.is_some() && call.state == State::Up).then_some(call.next_frame);
            let rings = if let State::Ringing { answers, rejects } = call.state {
                let answers = answers.filter(|_| !self.ext.holds_answer());
                answers.or_else(|| rejects.map(|_| Instant::ZERO))
            } else {
                None
            };
            [frame, rings, call.accepted.as_ref().map(|accepted| accepted.1)]
        });
        pending.chain(call.flatten()).chain(self.reconnects).chain(self.ext.next_deadline()).min()
    }

    pub fn act(&mut self, act: Act, now: Instant, out: &mut Sent) {
        match act {
            Act::PowerOn if self.is_off => {
                self.is_off = false;
                self.register(600, now, out);
            }
            _ if self.is_off => {}
            Act::PowerCut => self.lose_power(now),
            Act::Register { expires } => self.register(expires, now, out),
            Act::Call { user } if self.call.is_none() => self.invite(&user, now, out),
            Act::HangUp => self.hang_up(now, out),
            Act::Hold => self.renegotiate("sendonly", now, out),
            Act::Resume => self.renegotiate("sendrecv", now, out),
            Act::Update => self.update(now, out),
            Act::Press => self.press(now, out),
            Act::Call { .. } | Act::Disconnect | Act::PowerOn => {}
        }
    }

    fn lose_power(&mut self, now: Instant) {
        self.is_off = true;
        self.cut_off.extend(self.call.iter().map(|call| call.token.clone()));
        self.registered = false;
        self.reconnects = None;
        self.pending.clear();
        self.answered.clear();
        if self.call.is_some() {
            self.end(now);
        }
    }

    fn register(&mut self, expires: u32, now: Instant, out: &mut Sent) {
        self.registration_cseq += 1;
        let (uri, branch) = (format!("sip:{}", self.domain), self.branch());
        let request = format!(
            "REGISTER {uri} SIP/2.0\r\nVia: {};branch={branch};rport\r\nMax-Forwards: 70\r\nFrom: <sip:{}@{}>;tag=r\r\n\
             To: <sip:{}@{}>\r\nCall-ID: reg-{}@sim\r\nCSeq: {} REGISTER\r\nContact: {}\r\nExpires: {expires}\r\nContent-Length: 0\r\n\r\n",
            self.via(),
            self.user,
            self.domain,
            self.user,
            self.domain,
            self.user,
            self.registration_cseq,
            self.contact(),
        );
        self.request("REGISTER", branch, uri, request, now, out);
    }

    fn invite(&mut self, user: &str, now: Instant, out: &mut Sent) {
        let (uri, branch, number) = (format!("sip:{user}@{}", self.domain), self.branch(), self.random.next_u32());
        let local = format!("<sip:{}@{}>;tag=c{number}", self.user, self.domain);
        let remote = format!("<sip:{user}@{}>", self.domain);
        let call_id = format!("{number}-{}@sim", self.user);
        let token = self.new_token();
        self.facts.push((now, Fact::Called));
        self.ext.forget_call();
        let more = if self.extended { "Supported: 100rel\r\n" } else { "" };
        let request = format!(
            "INVITE {uri} SIP/2.0\r\nVia: {};branch={branch};rport\r\nMax-Forwards: 70\r\nFrom: {local}\r\nTo: {remote}\r\n\
             Call-ID: {call_id}\r\nCSeq: 1 INVITE\r\nContact: {}\r\nAllow: INVITE,ACK,BYE,CANCEL,UPDATE\r\n{more}{}",
            self.via(),
            self.contact(),
            body(&self.sdp(&token, 1, "sendrecv")),
        );
        self.call = Some(Call {
            caller: true,
            call_id,
            local,
            remote,
            target: uri.clone(),
            routes: Vec::new(),
            cseq: 1,
            remote_cseq: 0,
            invite: None,
            state: State::Calling,
            media: None,
            token,
            remote_token: String::new(),
            sends: true,
            seq: 0,
            next_frame: now,
            sdp_version: 1,
            accepted: None,
            ack: None,
            hang_up_when_up: false,
        });
        self.request("INVITE", branch, uri, request, now, out);
        self.mark_first();
    }

    fn mark_first(&mut self) {
        if let Some(last) = self.pending.last_mut() {
            last.is_first = true;
        }
    }

    fn hang_up(&mut self, now: Instant, out: &mut Sent) {
        let Some(call) = &mut self.call else { return };
        match call.state {
            State::Up => {
                call.state = State::Ending;
                call.accepted = None;
                self.in_dialog("BYE", String::new(), now, out);
            }
            State::Calling => {
                call.hang_up_when_up = true;
                let Some(invite) = self.pending.iter().find(|pending| pending.method == "INVITE") else { return };
                let (branch, uri) = (invite.branch.clone(), invite.uri.clone());
                let cancel = invite.bytes.split("\r\n").filter(|line| {
                    ["Via:", "From:", "To:", "Call-ID:", "Max-Forwards:"].iter().any(|name| line.starts_with(name))
                });
                let lines: Vec<_> = cancel.collect();
                let cseq = Text::parse(invite.bytes.as_bytes()).map_or(1, |text| text.cseq().0);
                let request = format!(
                    "CANCEL {uri} SIP/2.0\r\n{}\r\nCSeq: {cseq} CANCEL\r\nContent-Length: 0\r\n\r\n",
                    lines.join("\r\n")
                );
                self.request("CANCEL", branch, uri, request, now, out);
            }
            State::Ringing { .. } => self.answer_invite(486, now, out),
            State::Ending => {}
        }
    }

    fn renegotiate(&mut self, direction: &str, now: Instant, out: &mut Sent) {
        let Some(call) = &mut self.call else { return };
        let asks = |pending: &Pending| matches!(pending.method.as_str(), "INVITE" | "UPDATE");
        let busy = self.pending.iter().any(asks) || call.accepted.is_some();
        if call.state != State::Up || busy {
            return;
        }
        call.sdp_version += 1;
        let version = call.sdp_version;
        let token = call.token.clone();
        let sdp = self.sdp(&token, version, direction);
        self.in_dialog("INVITE", sdp, now, out);
    }

    fn in_dialog(&mut self, method: &str, sdp: String, now: Instant, out: &mut Sent) {
        let Some(to) = self.call.as_ref().map(Far::of) else { return };
        self.in_dialog_with(&to, method, ("", &sdp), now, out);
    }

    /// With further header lines and a body; a description comes with its type.
    fn in_dialog_with(&mut self, to: &Far, method: &str, (more, content): (&str, &str), now: Instant, out: &mut Sent) {
        let Far { remote, target } = to;
        let (branch, via, contact) = (self.branch(), self.via(), self.contact());
        let Some(call) = &mut self.call else { return };
        call.cseq += 1;
        let routes: String = call.routes.iter().map(|route| format!("Route: {route}\r\n")).collect();
        let request = format!(
            "{method} {target} SIP/2.0\r\nVia: {via};branch={branch};rport\r\nMax-Forwards: 70\r\n{routes}From: {}\r\n\
             To: {remote}\r\nCall-ID: {}\r\nCSeq: {} {method}\r\nContact: {contact}\r\n{more}{}",
            call.local,
            call.call_id,
            call.cseq,
            body(content),
        );
        self.request(method, branch, target.to_owned(), request, now, out);
    }

    fn request(&mut self, method: &str, branch: String, uri: String, bytes: String, now: Instant, out: &mut Sent) {
        out.push((self.sip, self.server, bytes.clone().into_bytes()));
        self.pending.push(Pending {
            method: method.to_owned(),
            branch,
            uri,
            bytes,
            next: now + T1,
            interval: T1,
            gives_up: now + TIMEOUT,
            proceeding: false,
            authorized: false,
            is_first: false,
        });
    }

    pub fn handle_timeout(&mut self, now: Instant, out: &mut Sent) {
        if self.reconnects.is_some_and(|at| at <= now) {
            self.reconnects = None;
            self.register(600, now, out);
        }
        self.retransmit(now, out);
        let Some(call) = &mut self.call else { return };
        if let Some((bytes, next, interval, end)) = &mut call.accepted {
            if now >= *end {
                call.accepted = None;
                self.hang_up(now, out);
                return;
            }
            if now >= *next {
                out.push((self.sip, self.server, bytes.clone()));
                *interval = (*interval * 2).min(T2);
                *next = now + *interval;
            }
        }
        if let State::Ringing { answers, rejects } = call.state {
            if let Some(status) = rejects {
                self.answer_invite(status, now, out);
            } else if !self.repeat_reliable(now, out) {
                self.answer_invite(504, now, out);
            } else if answers.is_some_and(|answers| now >= answers) && !self.ext.holds_answer() {
                self.answer_invite(200, now, out);
            }
        }
        self.send_frame(now, out);
    }

    fn retransmit(&mut self, now: Instant, out: &mut Sent) {
        let mut lost = Vec::new();
        for pending in &mut self.pending {
            let is_invite = pending.method == "INVITE";
            if now >= pending.gives_up {
                lost.push(pending.branch.clone());
            } else if now >= pending.next && !self.tcp && !(is_invite && pending.proceeding) {
                out.push((self.sip, self.server, pending.bytes.clone().into_bytes()));
                pending.interval = if is_invite { pending.interval * 2 } else { (pending.interval * 2).min(T2) };
                pending.next = now + pending.interval;
            }
        }
        for branch in lost {
            let Some(at) = self.pending.iter().position(|pending| pending.branch == branch) else { continue };
            let pending = self.pending.remove(at);
            self.on_final(&pending, 408, None, now, out);
        }
    }

    fn send_frame(&mut self, now: Instant, out: &mut Sent) {
        let Some(call) = &mut self.call else { return };
        let Some(media) = call.media else { return };
        if call.state != State::Up || !call.sends || now < call.next_frame {
            return;
        }
        call.seq = call.seq.wrapping_add(1);
        call.next_frame = now + FRAME;
        let mut packet = vec![0x80, 0];
        packet.extend_from_slice(&call.seq.to_be_bytes());
        packet.extend_from_slice(&(u32::from(call.seq) * 1600).to_be_bytes());
        packet.extend_from_slice(&0x1234_5678u32.to_be_bytes());
        packet.extend_from_slice(format!("{}>{}", call.token, call.remote_token).as_bytes());
        out.push((self.rtp, media, packet));
    }

    /// A packet for the RTP port. One that was under way when its call ended is no fault; one for another phone, for another
    /// call, or from an address that was never told is.
    pub fn handle_rtp(&mut self, from: SocketAddr, packet: &[u8], now: Instant) {
        if packet.len() == ANNOUNCED_BYTES
            && self.tokens.iter().any(|(_, told)| told.is_empty() || told.contains(&from))
        {
            self.announced.push(u16::from_be_bytes([packet[2], packet[3]]));
            return;
        }
        let said = String::from_utf8_lossy(packet.get(12..).unwrap_or_default()).into_owned();
        let meant = said.split_once('>').map_or("", |(_, meant)| meant);
        let told = self.tokens.iter().find(|(token, _)| token == meant).map(|(_, told)| told);
        // A description that is still on its way has told nothing.
        if !told.is_some_and(|told| told.is_empty() || told.contains(&from)) {
            self.facts.push((now, Fact::WrongAudio(format!("{said} from {from}"))));
        } else if self.call.as_ref().is_some_and(|call| said == format!("{}>{}", call.remote_token, call.token)) {
            self.frames_received += 1;
        }
    }

    /// What this phone calls itself in its next call.
    fn new_token(&mut self) -> String {
        let token = format!("{}-{:08x}", self.user, self.random.next_u32());
        self.tokens.push((token.clone(), Vec::new()));
        token
    }

    /// Remembers where the other side's media is and comes from.
    fn take_media(&mut self, text: &Text) {
        let (Some(call), Some((media, direction))) = (&mut self.call, text.media()) else { return };
        call.media = Some(media);
        call.sends = !matches!(direction, "sendonly" | "inactive");
        call.remote_token = text.token().to_owned();
        let told = self.tokens.iter_mut().find(|(token, _)| *token == call.token);
        if let Some((_, told)) = told.filter(|(_, told)| !told.contains(&media)) {
            told.push(media);
        }
    }

    /// A datagram for the SIP port.
    pub fn handle(&mut self, bytes: &[u8], now: Instant, out: &mut Sent) {
        let Some(text) = Text::parse(bytes) else { return };
        if text.status() == 0 { self.on_request(&text, now, out) } else { self.on_response(&text, now, out) }
    }

    fn on_response(&mut self, text: &Text, now: Instant, out: &mut Sent) {
        let (status, method, branch) = (text.status(), text.method().to_owned(), text.branch());
        let Some(at) = self.pending.iter().position(|pending| pending.branch == branch && pending.method == method)
        else {
            // A retransmitted final answer to INVITE wants its ACK again.
            if let Some(ack) =
                self.call.as_ref().and_then(|call| call.ack.clone()).filter(|_| method == "INVITE" && status < 300)
            {
                out.push((self.sip, self.server, ack));
            } else if method == "INVITE" && status >= 300 {
                self.ack_failure(text, out);
            }
            return;
        };
        if status < 200 {
            self.pending[at].proceeding = true;
            // The caller of an INVITE waits for people; any other request gives up as before.
            if method == "INVITE" {
                self.pending[at].gives_up = now + Duration::from_secs(200);
            }
            if method == "INVITE" && self.extended {
                self.on_provisional(text, now, out);
            }
            if status == 180 {
                self.facts.push((now, Fact::Ringing));
            }
            return;
        }
        let pending = self.pending.remove(at);
        if method == "INVITE" && status >= 300 {
            self.ack_failure(text, out);
        }
        if status == 401 && !pending.authorized && self.authorize(&pending, text, now, out) {
            return;
        }
        self.on_final(&pending, status, Some(text), now, out);
    }

    fn authorize(&mut self, pending: &Pending, response: &Text, now: Instant, out: &mut Sent) -> bool {
        self.nonce_count += 1;
        let Some(value) = text::authorization(response, &self.user, &self.password, &pending.method, &pending.uri, 1)
        else {
            return false;
        };
        let (cseq, branch) = (response.cseq().0, self.branch());
        let renewed = pending
            .bytes
            .replace(&pending.branch, &branch)
            .replace(&format!("CSeq: {cseq} "), &format!("CSeq: {} ", cseq + 1))
            .replacen("\r\nContact:", &format!("\r\nAuthorization: {value}\r\nContact:"), 1);
        if pending.method == "REGISTER" {
            self.registration_cseq = cseq + 1;
        } else if let Some(call) = &mut self.call {
            call.cseq = cseq + 1;
        }
        let hang_up = self.call.as_ref().is_some_and(|call| call.hang_up_when_up) && pending.method == "INVITE";
        self.request(&pending.method, branch, pending.uri.clone(), renewed, now, out);
        if let Some(last) = self.pending.last_mut() {
            last.authorized = true;
            last.is_first = pending.is_first;
        }
        if hang_up {
            self.hang_up(now, out);
        }
        true
    }

    /// RFC 3261 §17.1.1.3: the ACK for a failure is of the same transaction.
    fn ack_failure(&mut self, response: &Text, out: &mut Sent) {
        let call_uri = self.call.as_ref().map_or_else(|| format!("sip:{}", self.domain), |call| call.target.clone());
        let ack = format!(
            "ACK {call_uri} SIP/2.0\r\nVia: {};branch={};rport\r\nMax-Forwards: 70\r\nFrom: {}\r\nTo: {}\r\nCall-ID: {}\r\nCSeq: {} ACK\r\nContent-Length: 0\r\n\r\n",
            self.via(),
            response.branch(),
            response.get("from"),
            response.get("to"),
            response.get("call-id"),
            response.cseq().0,
        );
        out.push((self.sip, self.server, ack.into_bytes()));
    }

    fn on_final(&mut self, pending: &Pending, status: u16, response: Option<&Text>, now: Instant, out: &mut Sent) {
        match pending.method.as_str() {
            "REGISTER" => {
                self.registered = status == 200;
                self.facts.push((now, if status == 200 { Fact::Registered } else { Fact::RegisterFailed(status) }));
            }
            "INVITE" => self.on_invite_final(status, response, now, out),
            "BYE" => {
                if response.is_none() {
                    self.cut_off.extend(self.call.iter().map(|call| call.token.clone()));
                }
                self.end(now);
            }
            _ => self.on_extended_final(pending, status, response, now, out),
        }
    }

    fn on_invite_final(&mut self, status: u16, response: Option<&Text>, now: Instant, out: &mut Sent) {
        let Some(call) = &mut self.call else { return };
        let first = call.state == State::Calling;
        if status >= 300 {
            match (first, status) {
                (true, _) => {
                    self.facts.push((now, Fact::Failed(status)));
                    self.call = None;
                }
                // RFC 5057: the dialog is gone.
                (false, 481 | 408) => self.hang_up(now, out),
                (false, _) => {}
            }
            return;
        }
        let Some(response) = response else { return };
        call.remote = response.get("to").to_owned();
        call.target = response.contact();
        if first {
            call.routes = response.all("record-route").iter().rev().map(|route| (*route).to_owned()).collect();
            call.state = State::Up;
            self.facts.push((now, Fact::Answered));
        }
        let said = if first { self.description_of(response, now) } else { Some(response.clone()) };
        if let Some(said) = said {
            self.take_media(&said);
        }
        let cseq = response.cseq().0;
        let (branch, via) = (self.branch(), self.via());
        let Some(call) = &mut self.call else { return };
        let ack = format!(
            "ACK {} SIP/2.0\r\nVia: {};branch={branch};rport\r\nMax-Forwards: 70\r\nFrom: {}\r\nTo: {}\r\nCall-ID: {}\r\nCSeq: {cseq} ACK\r\nContent-Length: 0\r\n\r\n",
            call.target, via, call.local, call.remote, call.call_id,
        );
        call.ack = Some(ack.clone().into_bytes());
        out.push((self.sip, self.server, ack.into_bytes()));
        if call.hang_up_when_up && first {
            self.hang_up(now, out);
        }
    }

    fn on_request(&mut self, text: &Text, now: Instant, out: &mut Sent) {
        let method = text.method().to_owned();
        if method == "ACK" {
            if let Some(call) = &mut self.call
                && call.call_id == text.get("call-id")
            {
                call.accepted = None;
            }
            return;
        }
        let key = format!("{}{method}", text.branch());
        if let Some((_, answer)) = self.answered.iter().find(|(own, _)| *own == key) {
            out.push((self.sip, self.server, answer.clone()));
            return;
        }
        if method == "INVITE" && text.to_tag().is_empty() {
            self.on_new_invite(text, now, out);
            return;
        }
        let known = self.call.as_ref().is_some_and(|call| call.call_id == text.get("call-id"));
        if method == "OPTIONS" {
            self.answer(text, 200, "", "", out);
        } else if !known {
            self.answer(text, 481, "", "", out);
        } else {
            self.on_call_request(&method, text, now, out);
        }
    }

    fn on_new_invite(&mut self, text: &Text, now: Instant, out: &mut Sent) {
        if let Some(call) = &self.call {
            // A retransmission while it rings gets the ringing again.
            let same = call.call_id == text.get("call-id") && call.invite.is_some();
            let status = if same { 180 } else { 486 };
            let tag = if same { call.local_tag() } else { "busy".to_owned() };
            if !(same && call.state == State::Up) {
                self.answer(text, status, &tag, "", out);
            }
            return;
        }
        let number = self.random.next_u32();
        let tag = format!("d{number}");
        let state = match self.manner {
            Manner::Answers { after } | Manner::EarlyMedia { after } => {
                State::Ringing { answers: Some(now + after), rejects: None }
            }
            Manner::Rejects(status) => State::Ringing { answers: None, rejects: Some(status) },
            Manner::Ignores => State::Ringing { answers: None, rejects: None },
        };
        let token = self.new_token();
        let call = Call {
            caller: false,
            call_id: text.get("call-id").to_owned(),
            local: format!("{};tag={tag}", text.get("to")),
            remote: text.get("from").to_owned(),
            target: text.contact(),
            routes: text.all("record-route").iter().map(|route| (*route).to_owned()).collect(),
            cseq: 0,
            remote_cseq: text.cseq().0,
            invite: Some(text.clone()),
            state,
            media: None,
            token,
            remote_token: String::new(),
            sends: true,
            seq: 0,
            next_frame: now,
            sdp_version: 1,
            accepted: None,
            ack: None,
            hang_up_when_up: false,
        };
        self.call = Some(call);
        self.take_media(text);
        self.answer(text, 100, "", "", out);
        self.ext.forget_call();
        if self.extended && text.all("supported").iter().any(|value| value.contains("100rel")) {
            self.ring_reliably(text, &tag, now, out);
        } else if matches!(self.manner, Manner::EarlyMedia { .. }) {
            let own = self.call.as_ref().map(|call| call.token.clone()).unwrap_or_default();
            let sdp = self.sdp(&own, 1, "sendrecv");
            self.answer(text, 183, &tag, &sdp, out);
        } else {
            self.answer(text, 180, &tag, "", out);
        }
    }

    fn on_call_request(&mut self, method: &str, text: &Text, now: Instant, out: &mut Sent) {
        let Some(call) = &mut self.call else { return };
        call.remote_cseq = text.cseq().0.max(call.remote_cseq);
        match method {
            "BYE" => {
                self.answer(text, 200, "", "", out);
                self.end(now);
            }
            "CANCEL" => {
                self.answer(text, 200, "", "", out);
                if matches!(self.call.as_ref().map(|call| call.state), Some(State::Ringing { .. })) {
                    self.answer_invite(487, now, out);
                }
            }
            "INVITE" => {
                if self.pending.iter().any(|pending| matches!(pending.method.as_str(), "INVITE" | "UPDATE")) {
                    self.answer(text, 491, "", "", out);
                    return;
                }
                let direction = if text.media().is_some_and(|(_, direction)| direction == "sendonly") {
                    "recvonly"
                } else {
                    "sendrecv"
                };
                call.sdp_version += 1;
                let (version, token) = (call.sdp_version, call.token.clone());
                self.take_media(text);
                let sdp = self.sdp(&token, version, direction);
                let bytes = self.answer(text, 200, "", &sdp, out);
                if let Some(call) = &mut self.call {
                    call.accepted = Some((bytes, now + T1, T1, now + TIMEOUT));
                }
            }
            "PRACK" => self.on_prack(text, now, out),
            "UPDATE" => self.on_update(text, out),
            "INFO" => self.on_info(text, now, out),
            _ => {
                self.answer(text, 200, "", "", out);
            }
        }
    }

    fn answer_invite(&mut self, status: u16, now: Instant, out: &mut Sent) {
        let Some(call) = &mut self.call else { return };
        let Some(invite) = call.invite.take() else { return };
        let tag = call.local_tag();
        self.ext.stop();
        if status >= 300 {
            self.answer(&invite, status, &tag, "", out);
            self.end(now);
            return;
        }
        call.state = State::Up;
        let token = call.token.clone();
        let was_said = self.ext.has_agreed() && matches!(self.manner, Manner::EarlyMedia { .. });
        let sdp = if was_said { String::new() } else { self.sdp(&token, 2, "sendrecv") };
        let more = if self.extended { "Allow: INVITE, ACK, BYE, CANCEL, PRACK, UPDATE, INFO\r\n" } else { "" };
        let bytes = self.answer_with(&invite, 200, &tag, more, &sdp, out);
        if let Some(call) = &mut self.call {
            call.accepted = Some((bytes, now + T1, T1, now + TIMEOUT));
        }
        self.facts.push((now, Fact::Answered));
    }

    /// Sends an answer and keeps a final one for retransmissions.
    fn answer(&mut self, request: &Text, status: u16, tag: &str, sdp: &str, out: &mut Sent) -> Vec<u8> {
        self.answer_with(request, status, tag, "", sdp, out)
    }

    /// `more` are further header lines.
    fn answer_with(
        &mut self,
        request: &Text,
        status: u16,
        tag: &str,
        more: &str,
        sdp: &str,
        out: &mut Sent,
    ) -> Vec<u8> {
        let to = if tag.is_empty() || request.get("to").contains(";tag=") {
            request.get("to").to_owned()
        } else {
            format!("{};tag={tag}", request.get("to"))
        };
        let vias: String = request.all("via").iter().map(|via| format!("Via: {via}\r\n")).collect();
        let routes: String =
            request.all("record-route").iter().map(|route| format!("Record-Route: {route}\r\n")).collect();
        let bytes = format!(
            "SIP/2.0 {status} X\r\n{vias}{routes}From: {}\r\nTo: {to}\r\nCall-ID: {}\r\nCSeq: {}\r\nContact: {}\r\n{more}{}",
            request.get("from"),
            request.get("call-id"),
            request.get("cseq"),
            self.contact(),
            body(sdp),
        )
        .into_bytes();
        out.push((self.sip, self.server, bytes.clone()));
        if status >= 200 {
            if self.answered.len() >= 20 {
                self.answered.remove(0);
            }
            self.answered.push((format!("{}{}", request.branch(), request.method()), bytes.clone()));
        }
        bytes
    }

    fn end(&mut self, now: Instant) {
        self.ext.stop();
        if let Some(call) = self.call.take()
            && (matches!(call.state, State::Up | State::Ending) || !call.caller)
        {
            self.facts.push((now, Fact::Ended));
        }
    }

    fn branch(&mut self) -> String {
        format!("z9hG4bKsim{:016x}", self.random.next_u64())
    }

    fn via(&self) -> String {
        format!("SIP/2.0/{} {}", if self.tcp { "TCP" } else { "UDP" }, self.sip)
    }

    fn contact(&self) -> String {
        format!("<sip:{}@{}{}>", self.user, self.sip, if self.tcp { ";transport=tcp" } else { "" })
    }

    /// `token` stands in an attribute that nobody knows, and must pass.
    fn sdp(&self, token: &str, version: u32, direction: &str) -> String {
        format!(
            "v=0\r\no={} 1 {version} IN IP4 {}\r\ns=-\r\nc=IN IP4 {}\r\nt=0 0\r\nm=audio {} RTP/AVP 0 101\r\na=rtpmap:0 PCMU/8000\r\n\
             a=rtpmap:101 telephone-event/8000\r\na=x-sim:{token}\r\na={direction}\r\n",
            self.user,
            self.rtp.ip(),
            self.rtp.ip(),
            self.rtp.port(),
        )
    }
}

impl Call {
    fn local_tag(&self) -> String {
        text::param(&self.local, "tag").unwrap_or_default()
    }
}

fn body(sdp: &str) -> String {
    let kind = if !sdp.starts_with("v=0") { "" } else { "Content-Type: application/sdp\r\n" };
    format!("{kind}Content-Length: {}\r\n\r\n{sdp}", sdp.len())
}
