//! CPU of one REGISTER with digest in the machine alone: scan, nonce, digest, counts, bindings and the answer, no sockets.
//!
//! Run: `cargo bench --bench register`. The first request of a phone (challenge) and a refresh with a nonce in use.

use std::hint::black_box;
use std::net::SocketAddr;
use std::time::Duration;

use criterion::Criterion;
use criterion::criterion_group;
use criterion::criterion_main;
use sha2::Digest;

use tipring::base::hash::HashKey;
use tipring::base::random::Random;
use tipring::base::time::Instant;
use tipring::base::time::Now;
use tipring::base::time::UnixTime;
use tipring::machine::Shared;
use tipring::machine::admission::Owner;
use tipring::machine::digest;
use tipring::machine::digest::Reading;
use tipring::machine::digest::challenge;
use tipring::machine::digest::fallback::Offer;
use tipring::machine::digest::gate;
use tipring::machine::directory::Directory;
use tipring::machine::flow::Flow;
use tipring::machine::lingering::Key;
use tipring::machine::lingering::Lingering;
use tipring::machine::nonce;
use tipring::machine::outbox::Outbox;
use tipring::machine::registrar::Registrar;
use tipring::machine::settings::Algorithm;
use tipring::machine::settings::PathPolicy;
use tipring::machine::settings::RegistrationBounds;
use tipring::machine::settings::Secrets;
use tipring::machine::settings::Settings;
use tipring::machine::source_limit::SourceLimit;
use tipring::wire::link::Announce;
use tipring::wire::link::DirectoryPart;
use tipring::wire::link::Ha1;
use tipring::wire::link::Phone;
use tipring::wire::link::Record;
use tipring::wire::link::RecordCodecs;
use tipring::wire::link::Symmetric;
use tipring::wire::link::Tenant;
use tipring::wire::sip::Message;
use tipring::wire::sip::Scan;
use tipring::wire::sip::Transport;
use tipring::wire::sip::scan;

const PHONES: u32 = 10_000;
const KEY: HashKey = HashKey([4; 16]);
const NOW: Now = Now { instant: Instant::from_millis(1_000_000), unix: UnixTime::from_secs(1_800_000_000) };

fn settings() -> Settings {
    Settings {
        node: "bench".into(),
        boot: 1,
        shards: 1,
        secrets: Secrets { hash: KEY, nonce: [1; 32] },
        listeners: Vec::new(),
        trusted: Vec::new(),
        path: PathPolicy::default(),
        digest: vec![Algorithm::Sha256, Algorithm::Md5],
        interfaces: Vec::new(),
        registration: RegistrationBounds::default(),
        limits: tipring::machine::settings::Limits::default(),
        ring_max: Duration::from_secs(60),
        media_timeout: Duration::from_secs(30),
        media: Default::default(),
        recording: Default::default(),
    }
}

fn directory() -> Directory {
    let tenant = Tenant {
        name: "acme".into(),
        domain: "acme.test".into(),
        aliases: Vec::new(),
        realm: String::new(),
        default: true,
        record: Record::Never,
        announce: Announce::None,
        digest: Vec::new(),
        md5_fallback: true,
        record_codecs: RecordCodecs::Any,
    };
    let phone = |number: u32| Phone {
        tenant: "acme".into(),
        user: number.to_string(),
        auth_user: String::new(),
        extension: String::new(),
        numbers: Vec::new(),
        name: String::new(),
        record: Record::Never,
        external_id: String::new(),
        digest: Vec::new(),
        symmetric: Symmetric::Auto,
        ha1: Ha1 {
            md5: Some(md5::Md5::digest(format!("{number}:acme.test:secret")).into()),
            sha256: Some(sha2::Sha256::digest(format!("{number}:acme.test:secret")).into()),
            sha512_256: None,
        },
    };
    let mut directory = Directory::new();
    let phones = (0..PHONES).map(phone).collect();
    directory.apply(1, DirectoryPart { tenants: vec![tenant], phones, ..DirectoryPart::default() });
    directory
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn hash(algorithm: Algorithm, text: String) -> String {
    match algorithm {
        Algorithm::Md5 => hex(&md5::Md5::digest(text)),
        _ => hex(&sha2::Sha256::digest(text)),
    }
}

fn peer(user: u32) -> SocketAddr {
    SocketAddr::from((std::net::Ipv4Addr::from_bits(0x0A00_0000 + user), 5060))
}

/// A REGISTER of `user`; with its credentials from the second on.
fn register(user: u32, cseq: u32, algorithm: Option<Algorithm>) -> String {
    let credentials = algorithm.map(|algorithm| {
        let nonce = nonce::emit(&[1; 32], "acme.test", peer(user).ip(), NOW.unix, user);
        let nonce = std::str::from_utf8(&nonce).unwrap_or_default();
        let ha1 = hash(algorithm, format!("{user}:acme.test:secret"));
        let ha2 = hash(algorithm, "REGISTER:sip:acme.test".into());
        let response = hash(algorithm, format!("{ha1}:{nonce}:{cseq:08x}:0a4f113b:auth:{ha2}"));
        let name = algorithm.name();
        format!(
            "Authorization: Digest username=\"{user}\", realm=\"acme.test\", nonce=\"{nonce}\", uri=\"sip:acme.test\", \
             response=\"{response}\", algorithm={name}, qop=auth, nc={cseq:08x}, cnonce=\"0a4f113b\"\r\n"
        )
    });
    format!(
        "REGISTER sip:acme.test SIP/2.0\r\nVia: SIP/2.0/UDP 192.168.178.21:5060;branch=z9hG4bK-{user}-{cseq};rport\r\n\
         From: <sip:{user}@acme.test>;tag=8a1b\r\nTo: <sip:{user}@acme.test>\r\nCall-ID: {user}@192.168.178.21\r\n\
         CSeq: {cseq} REGISTER\r\nMax-Forwards: 70\r\nContact: <sip:{user}@192.168.178.21:5060>\r\nExpires: 3600\r\n\
         User-Agent: Deskphone 5000\r\n{}Content-Length: 0\r\n\r\n",
        credentials.unwrap_or_default()
    )
}

struct Engine {
    registrar: Registrar,
    limit: SourceLimit,
    lingering: Lingering,
    random: Random,
    out: Outbox,
}

impl Engine {
    fn new() -> Self {
        Self {
            registrar: Registrar::new(KEY),
            limit: SourceLimit::new(),
            lingering: Lingering::new(),
            random: Random::new(1),
            out: Outbox::new(),
        }
    }

    /// All that a shard does for one REGISTER but its sockets; the length of the answer, 0 for silence.
    fn handle(&mut self, text: &str, user: u32, shared: Shared<'_>) -> usize {
        let flow = Flow::udp(0, peer(user));
        let Scan::Ok(message) = scan(text.as_bytes(), Transport::Udp) else { return 0 };
        let reading = digest::read(&message, flow.peer.ip(), NOW.unix, shared);
        match gate::screen(&message, &reading, &flow, NOW, shared, &mut self.limit) {
            gate::Screening::Pass => {}
            gate::Screening::Challenge { stale } => {
                let salt = self.random.next_u32();
                return challenge(&message, flow.peer, stale, NOW.unix, salt, Offer::All, shared)
                    .map_or(0, |answer| answer.len());
            }
            _ => return 0,
        }
        self.admit(&message, &reading, flow, shared)
    }

    fn admit(&mut self, message: &Message<'_>, reading: &Reading<'_>, flow: Flow, shared: Shared<'_>) -> usize {
        let key = Key::of(message, flow.peer.ip(), &KEY);
        if let Some(answer) = self.lingering.find(key) {
            return answer.len();
        }
        let Self { registrar, limit, lingering, random, out } = self;
        let gate::Admission::Phone(phone) = gate::admit(message, reading, &flow, NOW, shared, registrar, limit, out)
        else {
            return 0;
        };
        let answer = registrar.register(message, flow, phone, NOW, shared, random, out);
        limit.registered(&flow, &phone.tenant, &phone.user, NOW.instant, shared.settings);
        lingering.insert(key, &flow, &answer, Owner::default(), NOW.instant);
        out.drain().for_each(drop);
        answer.len()
    }
}

fn refreshes(c: &mut Criterion, name: &str, algorithm: Algorithm) {
    let (settings, directory) = (settings(), directory());
    let shared = Shared { settings: &settings, directory: &directory };
    let mut engine = Engine::new();
    for user in 0..PHONES {
        assert!(engine.handle(&register(user, 1, Some(algorithm)), user, shared) > 0);
    }
    let mut number = 0;
    c.bench_function(name, |bencher| {
        bencher.iter_batched(
            || {
                number += 1;
                let user = number % PHONES;
                (user, register(user, 1 + number.div_ceil(PHONES), Some(algorithm)))
            },
            |(user, text)| {
                let len = engine.handle(black_box(&text), user, shared);
                assert!(len > 0);
                len
            },
            criterion::BatchSize::SmallInput,
        );
        engine.lingering = Lingering::new();
    });
}

fn benches(c: &mut Criterion) {
    let (settings, directory) = (settings(), directory());
    let shared = Shared { settings: &settings, directory: &directory };
    let mut engine = Engine::new();
    let text = register(7, 1, None);
    let mut source = 0;
    c.bench_function("register: challenge", |bencher| {
        bencher.iter(|| {
            // Limits are on: no source may have many challenges open.
            source += 1;
            engine.handle(black_box(&text), source, shared)
        });
    });
    refreshes(c, "register: refresh, SHA-256", Algorithm::Sha256);
    refreshes(c, "register: refresh, MD5", Algorithm::Md5);
}

criterion_group!(all, benches);
criterion_main!(all);
