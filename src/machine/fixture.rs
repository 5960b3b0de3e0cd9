//! A registrar with its gate, and phones that answer challenges: what the tests of several machines begin with.

use std::net::SocketAddr;
use std::time::Duration;

use sha2::Digest;

use crate::base::hash::HashKey;
use crate::base::random::Random;
use crate::base::time::Instant;
use crate::base::time::Now;
use crate::base::time::UnixTime;
use crate::machine::Shared;
use crate::machine::digest;
use crate::machine::digest::challenge;
use crate::machine::digest::fallback::Offer;
use crate::machine::digest::gate;
use crate::machine::digest::gate::Admission;
use crate::machine::digest::gate::Screening;
use crate::machine::directory::Directory;
use crate::machine::flow::Flow;
use crate::machine::outbox::Outbox;
use crate::machine::outbox::Output;
use crate::machine::registrar::Registrar;
use crate::machine::settings::Algorithm;
use crate::machine::settings::Listener;
use crate::machine::settings::PathPolicy;
use crate::machine::settings::RegistrationBounds;
use crate::machine::settings::Secrets;
use crate::machine::settings::Settings;
use crate::machine::source_limit::SourceLimit;
use crate::wire::link::Announce;
use crate::wire::link::DirectoryPart;
use crate::wire::link::Ha1;
use crate::wire::link::Phone;
use crate::wire::link::Record;
use crate::wire::link::RecordCodecs;
use crate::wire::link::Symmetric;
use crate::wire::link::Tenant;
use crate::wire::sip::Challenge;
use crate::wire::sip::HeaderId;
use crate::wire::sip::Message;
use crate::wire::sip::Scan;
use crate::wire::sip::Transport;
use crate::wire::sip::scan;

pub(crate) const SECRET: HashKey = HashKey([3; 16]);

/// One shard's part in registration, with its surroundings.
pub(crate) struct World {
    pub(crate) settings: Settings,
    pub(crate) directory: Directory,
    pub(crate) registrar: Registrar,
    pub(crate) limit: SourceLimit,
    pub(crate) random: Random,
    pub(crate) now: Now,
    /// What the last steps caused.
    pub(crate) outputs: Vec<Output>,
}

pub(crate) fn settings() -> Settings {
    Settings {
        node: "test".into(),
        boot: 1,
        shards: 1,
        secrets: Secrets { hash: SECRET, nonce: [9; 32] },
        listeners: vec![Listener {
            reliable: false,
            local: "192.0.2.250:5060".parse().unwrap(),
            advertise: Some("sip.example.net:5060".into()),
            interface: 0,
        }],
        trusted: Vec::new(),
        path: PathPolicy::Always,
        digest: vec![Algorithm::Sha256, Algorithm::Md5],
        interfaces: Vec::new(),
        registration: RegistrationBounds::default(),
        ring_max: Duration::from_secs(60),
        media_timeout: Duration::from_secs(30),
        media: Default::default(),
        recording: crate::machine::settings::RecordingSettings {
            early: false,
            start_code: "*1".to_owned(),
            pause_code: "*2".to_owned(),
        },
        limits: crate::machine::settings::Limits::default(),
    }
}

pub(crate) fn tenant(name: &str) -> Tenant {
    Tenant {
        name: name.into(),
        domain: format!("{name}.test"),
        aliases: Vec::new(),
        realm: String::new(),
        default: false,
        record: Record::Never,
        announce: Announce::None,
        digest: Vec::new(),
        md5_fallback: true,
        record_codecs: RecordCodecs::Any,
    }
}

/// A phone whose password is `secret-USER`.
pub(crate) fn phone(tenant: &str, user: &str) -> Phone {
    let a1 = format!("{user}:{tenant}.test:secret-{user}");
    Phone {
        tenant: tenant.into(),
        user: user.into(),
        auth_user: String::new(),
        extension: String::new(),
        numbers: Vec::new(),
        name: String::new(),
        record: Record::Never,
        external_id: String::new(),
        digest: Vec::new(),
        symmetric: Symmetric::Auto,
        ha1: Ha1 {
            md5: Some(md5::Md5::digest(&a1).into()),
            sha256: Some(sha2::Sha256::digest(&a1).into()),
            sha512_256: Some(sha2::Sha512_256::digest(&a1).into()),
        },
    }
}

impl World {
    /// Tenant `acme` with phones 1000, 1001, …
    pub(crate) fn new(phones: usize) -> Self {
        let mut directory = Directory::new();
        let phones = (0..phones).map(|n| phone("acme", &(1000 + n).to_string())).collect();
        directory.apply(1, DirectoryPart { tenants: vec![tenant("acme")], phones, ..DirectoryPart::default() });
        Self {
            settings: settings(),
            directory,
            registrar: Registrar::new(SECRET),
            limit: SourceLimit::new(),
            random: Random::new(1),
            now: Now { instant: Instant::from_millis(1_000_000), unix: UnixTime::from_secs(1_800_000_000) },
            outputs: Vec::new(),
        }
    }

    pub(crate) fn shared(&self) -> Shared<'_> {
        Shared { settings: &self.settings, directory: &self.directory }
    }

    /// Time passes, and timers with it.
    pub(crate) fn wait(&mut self, duration: Duration) {
        let end = self.now.instant + duration;
        while let Some(next) = self.registrar.next_deadline().filter(|next| *next <= end) {
            self.advance_to(next.max(self.now.instant));
            let mut out = Outbox::new();
            self.registrar.handle_timeout(self.now, &self.directory, &mut out);
            assert_eq!(out.overflows, 0);
            self.outputs.extend(out.drain());
        }
        self.advance_to(end);
    }

    fn advance_to(&mut self, at: Instant) {
        let step = at.since(self.now.instant);
        self.now = Now { instant: at, unix: self.now.unix + step };
    }

    /// One REGISTER as a shard handles it; `None` is silence.
    pub(crate) fn handle(&mut self, text: &str, flow: Flow) -> Option<String> {
        let message = message(text);
        let shared = Shared { settings: &self.settings, directory: &self.directory };
        let (now, salt) = (self.now, self.random.next_u32());
        let reading = digest::read(&message, flow.peer.ip(), now.unix, shared);
        let response = match gate::screen(&message, &reading, &flow, now, shared, &mut self.limit) {
            Screening::Pass => self.admit(&message, flow, salt)?,
            Screening::Challenge { stale } => {
                challenge(&message, flow.peer, stale, now.unix, salt, Offer::All, shared)?
            }
            Screening::BadRequest(reason) => format!("SIP/2.0 400 {reason}\r\n\r\n").into_bytes(),
            Screening::Silence => return None,
        };
        Some(String::from_utf8(response).unwrap())
    }

    fn admit(&mut self, message: &Message<'_>, flow: Flow, salt: u32) -> Option<Vec<u8>> {
        let shared = Shared { settings: &self.settings, directory: &self.directory };
        let mut out = Outbox::new();
        let reading = digest::read(message, flow.peer.ip(), self.now.unix, shared);
        let Self { registrar, limit, now, .. } = self;
        let admission = gate::admit(message, &reading, &flow, *now, shared, registrar, limit, &mut out);
        let response = match admission {
            Admission::Phone(phone) => {
                self.limit.registered(&flow, &phone.tenant, &phone.user, self.now.instant, shared.settings);
                Some(self.registrar.register(message, flow, phone, self.now, shared, &mut self.random, &mut out))
            }
            Admission::Challenge { stale } => {
                challenge(message, flow.peer, stale, self.now.unix, salt, Offer::All, shared)
            }
            Admission::BadRequest(reason) => Some(format!("SIP/2.0 400 {reason}\r\n\r\n").into_bytes()),
            Admission::Silence => None,
        };
        assert_eq!(out.overflows, 0);
        self.outputs.extend(out.drain());
        response
    }
}

pub(crate) fn message(text: &str) -> Message<'_> {
    match scan(text.as_bytes(), Transport::Udp) {
        Scan::Ok(message) => message,
        other => panic!("{other:?}\n{text}"),
    }
}

/// Status code of a response.
pub(crate) fn status(response: &Option<String>) -> u16 {
    response.as_ref().map_or(0, |text| text[8..11].parse().unwrap())
}

/// A phone's response to a request that it got.
pub(crate) fn response(request: &str, status: u16, tag: &str) -> String {
    let message = message(request);
    let header = |id| String::from_utf8(message.header(id).unwrap().to_vec()).unwrap();
    format!(
        "SIP/2.0 {status} X\r\nVia: {}\r\nFrom: {}\r\nTo: {};tag={tag}\r\nCall-ID: {}\r\nCSeq: {}\r\nContent-Length: 0\r\n\r\n",
        header(HeaderId::Via),
        header(HeaderId::From),
        header(HeaderId::To),
        header(HeaderId::CallId),
        header(HeaderId::CSeq),
    )
}

/// A phone, as far as REGISTER and a first INVITE go.
pub(crate) struct Caller {
    pub(crate) user: String,
    pub(crate) password: String,
    pub(crate) domain: String,
    pub(crate) flow: Flow,
    /// What the Via and Contact say; differs from the flow behind a NAT.
    pub(crate) local: SocketAddr,
    pub(crate) algorithm: &'static str,
    pub(crate) call_id: String,
    pub(crate) cseq: u32,
    pub(crate) nonce: Option<String>,
    pub(crate) nc: u32,
    /// More header lines, each ended by CR LF.
    pub(crate) more: String,
}

impl Caller {
    pub(crate) fn new(user: &str, peer: &str) -> Self {
        let peer: SocketAddr = peer.parse().unwrap();
        Self {
            user: user.into(),
            password: format!("secret-{user}"),
            domain: "acme.test".into(),
            flow: Flow::udp(0, peer),
            local: peer,
            algorithm: "SHA-256",
            call_id: format!("call-{user}"),
            cseq: 0,
            nonce: None,
            nc: 0,
            more: String::new(),
        }
    }

    pub(crate) fn contact(&self) -> String {
        format!("Contact: <sip:{}@{}>\r\nExpires: 3600\r\n", self.user, self.local)
    }

    /// A REGISTER with what is known; `lines` are Contact and the like.
    pub(crate) fn request(&mut self, lines: &str) -> String {
        self.request_at(&format!("sip:{}", self.domain), lines)
    }

    /// The same with another Request-URI.
    pub(crate) fn request_at(&mut self, uri: &str, lines: &str) -> String {
        self.cseq += 1;
        let authorization = self.authorization("REGISTER", uri);
        let Self { user, domain, local, call_id, cseq, more, .. } = self;
        format!(
            "REGISTER {uri} SIP/2.0\r\nVia: SIP/2.0/UDP {local};branch=z9hG4bK{call_id}{cseq};rport\r\nMax-Forwards: 70\r\n\
             From: <sip:{user}@{domain}>;tag=f{cseq}\r\nTo: <sip:{user}@{domain}>\r\nCall-ID: {call_id}\r\nCSeq: {cseq} REGISTER\r\n\
             {lines}{more}{authorization}Content-Length: 0\r\n\r\n"
        )
    }

    /// An INVITE without a description to another extension, with what is known; `more` are whole header lines.
    pub(crate) fn invite(&mut self, callee: &str, more: &str) -> String {
        self.cseq += 1;
        let authorization = self.authorization("INVITE", &format!("sip:{callee}@{}", self.domain));
        let Self { user, domain, local, call_id, cseq, .. } = self;
        format!(
            "INVITE sip:{callee}@{domain} SIP/2.0\r\nVia: SIP/2.0/UDP {local};branch=z9hG4bK{call_id}{cseq};rport\r\nMax-Forwards: 70\r\n\
             From: <sip:{user}@{domain}>;tag={call_id}\r\nTo: <sip:{callee}@{domain}>\r\nCall-ID: {call_id}i\r\nCSeq: {cseq} INVITE\r\n\
             Contact: <sip:{user}@{local}>\r\n{more}{authorization}Content-Length: 0\r\n\r\n"
        )
    }

    /// A request of another kind, outside any dialog, with what is known; `more` are whole header lines.
    pub(crate) fn request_to(&mut self, method: &str, uri: &str, more: &str) -> String {
        self.cseq += 1;
        let authorization = self.authorization(method, uri);
        let Self { user, domain, local, call_id, cseq, .. } = self;
        format!(
            "{method} {uri} SIP/2.0\r\nVia: SIP/2.0/UDP {local};branch=z9hG4bK{call_id}{cseq};rport\r\nMax-Forwards: 70\r\n\
             From: <sip:{user}@{domain}>;tag={call_id}\r\nTo: <{uri}>\r\nCall-ID: {call_id}o\r\nCSeq: {cseq} {method}\r\n\
             {more}{authorization}Content-Length: 0\r\n\r\n"
        )
    }

    pub(crate) fn authorization(&mut self, method: &str, uri: &str) -> String {
        let Some(nonce) = self.nonce.clone() else { return String::new() };
        self.nc += 1;
        let Self { user, domain, password, algorithm, .. } = self;
        let hash = |text: String| -> String {
            let bytes: Vec<u8> = match *algorithm {
                "MD5" => md5::Md5::digest(text).to_vec(),
                "SHA-256" => sha2::Sha256::digest(text).to_vec(),
                _ => sha2::Sha512_256::digest(text).to_vec(),
            };
            bytes.iter().map(|byte| format!("{byte:02x}")).collect()
        };
        let nc = format!("{:08x}", self.nc);
        let ha1 = hash(format!("{user}:{domain}:{password}"));
        let ha2 = hash(format!("{method}:{uri}"));
        let response = hash(format!("{ha1}:{nonce}:{nc}:c0:auth:{ha2}"));
        format!(
            "Authorization: Digest username=\"{user}\", realm=\"{domain}\", nonce=\"{nonce}\", uri=\"{uri}\", \
             response=\"{response}\", algorithm={algorithm}, qop=auth, nc={nc}, cnonce=\"c0\"\r\n"
        )
    }

    /// Learns the nonce of a 401; true if it was one.
    pub(crate) fn learn(&mut self, response: &Option<String>) -> bool {
        if status(response) != 401 {
            return false;
        }
        let text = response.as_ref().unwrap();
        let response = message(text);
        let challenge = Challenge::parse(response.header(HeaderId::WwwAuthenticate).unwrap()).unwrap().unwrap();
        self.nonce = Some(String::from_utf8(challenge.nonce.to_vec()).unwrap());
        self.nc = 0;
        true
    }

    /// A REGISTER with up to two challenges answered; the last response.
    pub(crate) fn send(&mut self, world: &mut World, lines: &str) -> Option<String> {
        for _ in 0..2 {
            let request = self.request(lines);
            let response = world.handle(&request, self.flow);
            if !self.learn(&response) {
                return response;
            }
        }
        let request = self.request(lines);
        world.handle(&request, self.flow)
    }

    pub(crate) fn register(&mut self, world: &mut World) -> Option<String> {
        let contact = self.contact();
        self.send(world, &contact)
    }
}
