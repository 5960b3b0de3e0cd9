//! What the node is told: its settings and its directory.

use std::net::IpAddr;
use std::net::Ipv4Addr;
use std::time::Duration;

use tipring::base::hash::HashKey;
use tipring::base::random::Random;
use tipring::base::time::Instant;
use tipring::base::time::Now;
use tipring::base::time::UnixTime;
use tipring::machine::settings::Algorithm;
use tipring::machine::settings::Interface;
use tipring::machine::settings::Listener;
use tipring::machine::settings::MediaAddress;
use tipring::machine::settings::PathPolicy;
use tipring::machine::settings::Secrets;
use tipring::machine::settings::Settings;
use tipring::wire::link;
use tipring::wire::link::Ha1;
use tipring::wire::link::Symmetric;

use crate::world::World;

pub(super) const NODE: IpAddr = IpAddr::V4(Ipv4Addr::new(198, 51, 100, 1));
const EPOCH: u64 = 1_800_000_000;

pub(super) fn both(instant: Instant) -> Now {
    Now { instant, unix: UnixTime::from_secs(EPOCH) + Duration::from_nanos(instant.nanos()) }
}

pub(super) fn settings(shards: u8, random: &mut Random) -> Settings {
    let mut hash = HashKey([0; 16]);
    hash.0[..8].copy_from_slice(&random.next_u64().to_le_bytes());
    let media = MediaAddress { local: NODE, advertise: NODE };
    Settings {
        node: "sim".to_owned(),
        boot: 1,
        shards,
        secrets: Secrets { hash, nonce: [7; 32] },
        listeners: [false, true]
            .map(|reliable| Listener { reliable, local: World::server(), advertise: None, interface: 0 })
            .to_vec(),
        trusted: Vec::new(),
        path: PathPolicy::default(),
        digest: vec![Algorithm::Sha256, Algorithm::Md5],
        interfaces: vec![Interface { name: "default".to_owned(), ipv4: Some(media), ipv6: None, from_anywhere: false }],
        registration: tipring::machine::settings::RegistrationBounds::default(),
        limits: tipring::machine::settings::Limits::default(),
        ring_max: Duration::from_secs(60),
        media_timeout: Duration::from_secs(60),
        media: Default::default(),
        recording: Default::default(),
    }
}

/// The one tenant, `acme`.
pub(super) fn tenant(announces: bool) -> link::Tenant {
    link::Tenant {
        name: "acme".to_owned(),
        domain: "acme.test".to_owned(),
        aliases: Vec::new(),
        realm: String::new(),
        default: true,
        record: if announces { link::Record::Always } else { link::Record::Never },
        announce: if announces { link::Announce::Tone } else { link::Announce::None },
        digest: Vec::new(),
        md5_fallback: true,
        record_codecs: link::RecordCodecs::Any,
    }
}

/// The entry of a phone whose extension is its user.
pub(super) fn entry(user: &str) -> link::Phone {
    use md5::Digest;
    let ha1 = md5::Md5::digest(format!("{user}:acme.test:secret-{user}").as_bytes());
    link::Phone {
        tenant: "acme".to_owned(),
        user: user.to_owned(),
        auth_user: String::new(),
        extension: user.to_owned(),
        numbers: Vec::new(),
        name: format!("Phone {user}"),
        record: link::Record::Never,
        external_id: String::new(),
        digest: Vec::new(),
        symmetric: Symmetric::Auto,
        ha1: Ha1 { md5: Some(ha1.into()), sha256: None, sha512_256: None },
    }
}
