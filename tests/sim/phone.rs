//! A desk phone of the simulator: registers, calls, answers, holds, hangs up; retransmits as RFC 3261 wants; sends numbered RTP.
//!
//! Sans-IO like the engine, but with a SIP of its own ([`crate::text`]), so that a shared mistake cannot hide.

mod audio;
mod client;
mod extensions;
pub mod habits;
mod server;

use std::net::SocketAddr;
use std::time::Duration;

use tipring::base::random::Random;
use tipring::base::time::Instant;

use crate::phone::extensions::Extensions;
use crate::phone::habits::Habits;
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
    /// Its media goes to another port, by an offer.
    Move,
    /// Its NAT takes another port for its media.
    RebindMedia,
    /// Its network brings nothing out for so long, then all of it.
    Stall(Duration),
}

/// What a phone saw happen, for the checker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fact {
    Registered,
    RegisterFailed(u16),
    Ringing,
    Answered,
    /// Its own call was.
    Established,
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
    pub habits: Habits,
    pub frame: Duration,
    /// When it last heard its party, and a stranger in this call, first and last.
    pub last_heard: Option<Instant>,
    pub sprayed: Option<(Instant, Instant)>,
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
    timestamp: u32,
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
            habits: Habits::default(),
            frame: FRAME,
            last_heard: None,
            sprayed: None,
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
            let frame = (call.media.is_some() && self.speaks(call)).then_some(call.next_frame);
            let rings = if let State::Ringing { answers, rejects } = call.state {
                let answers = answers.filter(|_| !self.ext.holds_answer());
                answers.or_else(|| rejects.map(|_| Instant::ZERO))
            } else {
                None
            };
            [frame, rings, call.accepted.as_ref().map(|accepted| accepted.1)]
        });
        let habits = self.stall_ends().into_iter().chain(self.habits.pracks.iter().map(|(at, ..)| *at));
        pending.chain(call.flatten()).chain(self.reconnects).chain(self.ext.next_deadline()).chain(habits).min()
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
            Act::Resume => {
                self.restart_stream();
                self.renegotiate("sendrecv", now, out);
            }
            Act::Move => self.move_media(now, out),
            Act::RebindMedia => self.rebind_media(),
            Act::Stall(length) => self.stall(length, now),
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

    pub fn handle_timeout(&mut self, now: Instant, out: &mut Sent) {
        if self.reconnects.is_some_and(|at| at <= now) {
            self.reconnects = None;
            self.register(600, now, out);
        }
        self.retransmit(now, out);
        self.end_stall(now, out);
        self.send_pracks(now, out);
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

    /// A datagram for the SIP port.
    pub fn handle(&mut self, bytes: &[u8], now: Instant, out: &mut Sent) {
        let Some(text) = Text::parse(bytes) else { return };
        if text.status() == 0 { self.on_request(&text, now, out) } else { self.on_response(&text, now, out) }
    }

    fn end(&mut self, now: Instant) {
        self.ext.stop();
        self.forget_ports();
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
}

impl Call {
    /// No party is known, and nothing has been said or heard.
    fn silent(token: String, now: Instant) -> Self {
        Self {
            caller: false,
            call_id: String::new(),
            local: String::new(),
            remote: String::new(),
            target: String::new(),
            routes: Vec::new(),
            cseq: 0,
            remote_cseq: 0,
            invite: None,
            state: State::Calling,
            media: None,
            token,
            remote_token: String::new(),
            sends: true,
            seq: 0,
            timestamp: 0,
            next_frame: now,
            sdp_version: 1,
            accepted: None,
            ack: None,
            hang_up_when_up: false,
        }
    }

    fn local_tag(&self) -> String {
        text::param(&self.local, "tag").unwrap_or_default()
    }
}

fn body(sdp: &str) -> String {
    let kind = if !sdp.starts_with("v=0") { "" } else { "Content-Type: application/sdp\r\n" };
    format!("{kind}Content-Length: {}\r\n\r\n{sdp}", sdp.len())
}
