//! Properties of what somebody hears of the exchange who has proved nothing, whatever he sends.

use std::net::SocketAddr;
use std::time::Duration;

use tipring::base::hash::HashKey;
use tipring::base::id::ShardId;
use tipring::base::time::Instant;
use tipring::base::time::Now;
use tipring::base::time::UnixTime;
use tipring::machine::Shared;
use tipring::machine::directory::Directory;
use tipring::machine::exchange::Exchange;
use tipring::machine::exchange::Input;
use tipring::machine::flow::Flow;
use tipring::machine::outbox::Outbox;
use tipring::machine::outbox::Output;
use tipring::machine::settings::Algorithm;
use tipring::machine::settings::Listener;
use tipring::machine::settings::PathPolicy;
use tipring::machine::settings::RegistrationBounds;
use tipring::machine::settings::Secrets;
use tipring::machine::settings::Settings;
use tipring::wire::link::Announce;
use tipring::wire::link::DirectoryPart;
use tipring::wire::link::Record;
use tipring::wire::link::RecordCodecs;
use tipring::wire::link::Tenant;

fn settings() -> Settings {
    Settings {
        node: "fuzz".into(),
        boot: 1,
        shards: 1,
        secrets: Secrets { hash: HashKey([3; 16]), nonce: [9; 32] },
        listeners: vec![Listener {
            reliable: false,
            local: "192.0.2.250:5060".parse().unwrap(),
            advertise: None,
            interface: 0,
        }],
        trusted: Vec::new(),
        path: PathPolicy::Always,
        digest: vec![Algorithm::Sha512_256, Algorithm::Sha256, Algorithm::Md5],
        interfaces: Vec::new(),
        registration: RegistrationBounds::default(),
        ring_max: Duration::from_secs(60),
        media_timeout: Duration::from_secs(30),
        media: Default::default(),
        limits: Default::default(),
        recording: Default::default(),
    }
}

fn directory() -> Directory {
    let tenant = Tenant {
        name: "example".into(),
        domain: "example.com".into(),
        aliases: Vec::new(),
        realm: String::new(),
        default: true,
        record: Record::Never,
        announce: Announce::None,
        digest: Vec::new(),
        md5_fallback: true,
        record_codecs: RecordCodecs::Any,
    };
    let mut directory = Directory::new();
    directory.apply(1, DirectoryPart { tenants: vec![tenant], ..DirectoryPart::default() });
    directory
}

/// One packet at most for one, to the same address, three times as long at most; ten in a second; and nothing is left of it but
/// that count.
pub(crate) fn any(bytes: &[u8]) {
    let (settings, directory) = (settings(), directory());
    let shared = Shared { settings: &settings, directory: &directory };
    let mut now = Now { instant: Instant::from_millis(1_000_000), unix: UnixTime::from_secs(1_800_000_000) };
    let mut exchange = Exchange::new(ShardId(0), 1, Vec::new(), &settings, now);
    let sources = ["198.51.100.7:5060", "198.51.100.7:9", "[2001:db8::1]:5060", "[2001:db8::2]:5060"];
    let mut answers = [0; 2];
    for round in 0..8 {
        for (at, source) in sources.iter().enumerate() {
            let peer: SocketAddr = source.parse().unwrap();
            let mut out = Outbox::new();
            exchange.handle(Input::Sip { flow: Flow::udp(0, peer), bytes }, now, shared, &mut out);
            let mut sent = out.drain().filter_map(|output| match output {
                Output::Send { flow, bytes } => Some((flow, bytes)),
                Output::Mesh { .. } | Output::Rtp { .. } | Output::Store(_) => panic!("a stranger causes {output:?}"),
                _ => None,
            });
            if let Some((flow, answer)) = sent.next() {
                assert_eq!(flow.peer.ip(), peer.ip());
                assert!(answer.len() <= 3 * bytes.len(), "{} bytes for {}", answer.len(), bytes.len());
                answers[at / 2] += 1;
            }
            assert!(sent.next().is_none(), "two answers");
        }
        if round == 4 {
            let state = postcard::to_allocvec(&exchange).unwrap();
            exchange = postcard::from_bytes(&state).unwrap();
        }
        now = Now { instant: now.instant + Duration::from_millis(1), unix: now.unix };
    }
    assert!(answers.iter().all(|answers| *answers <= 10), "{answers:?}");
    assert_eq!((exchange.calls_len(), exchange.lingering(), exchange.registrar().len()), (0, 0, 0));
    assert!(exchange.sources().answered_len() <= 6 && exchange.sources().known_len() == 0);
}
