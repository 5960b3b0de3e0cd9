//! The machines' settings from what the keeper passed: listeners in the order of their sockets, secrets from the disk.

use std::net::IpAddr;
use std::net::SocketAddr;
use std::time::Duration;

use crate::machine::media::bounds::MediaBounds;
use crate::machine::settings::Interface;
use crate::machine::settings::Listener;
use crate::machine::settings::PathPolicy;
use crate::machine::settings::RegistrationBounds;
use crate::machine::settings::Secrets;
use crate::machine::settings::Settings;
use crate::process::config;
use crate::process::engine::received::ShardHandles;
use crate::process::plan::EngineSettings;
use crate::wire::control::Start;

/// Unanswered calls end after this: longer than a caller waits, shorter than RFC 3261's timer C.
const RING_MAX: Duration = Duration::from_secs(120);
/// A phone that lost its power is noticed after this.
const MEDIA_TIMEOUT: Duration = Duration::from_secs(60);

/// Debug builds take `TIPRING_MEDIA_TIMEOUT` in seconds, so that a test need not wait a minute.
fn media_timeout() -> Duration {
    #[cfg(debug_assertions)]
    if let Some(seconds) = std::env::var("TIPRING_MEDIA_TIMEOUT").ok().and_then(|text| text.parse().ok()) {
        return Duration::from_secs(seconds);
    }
    MEDIA_TIMEOUT
}

pub(super) fn build(
    start: &Start,
    engine: &EngineSettings,
    secrets: Secrets,
    first: Option<&ShardHandles>,
) -> Settings {
    let sockets = first.map(|shard| (shard.sip_udp.as_slice(), shard.sip_tcp.as_slice())).unwrap_or_default();
    let listener = |reliable: bool| {
        move |socket: &super::received::SipSocket| Listener {
            reliable,
            local: socket.address,
            advertise: None,
            interface: socket.interface,
        }
    };
    let is_loopback = |interface: &config::Interface| interface.media.iter().any(|media| media.local.is_loopback());
    let listeners = sockets.0.iter().map(listener(false)).chain(sockets.1.iter().map(listener(true))).collect();
    let own_sockets: Vec<SocketAddr> = sockets.0.iter().chain(sockets.1).map(|socket| socket.address).collect();
    let settings = Settings {
        node: start.node.clone(),
        // A restarted engine numbers its events anew: each of its lives is a boot.
        boot: start.boot + u64::from(start.generation),
        shards: start.shards,
        secrets,
        listeners,
        trusted: Vec::new(),
        path: PathPolicy::default(),
        digest: Vec::new(),
        interfaces: engine.interfaces.iter().map(media_side).collect(),
        registration: RegistrationBounds::default(),
        ring_max: RING_MAX,
        media_timeout: media_timeout(),
        media: MediaBounds {
            own: engine.own.iter().copied().chain(own_sockets.iter().map(SocketAddr::ip)).collect(),
            own_sockets,
            // A node whose media is on loopback serves its own machine.
            loopback: engine.interfaces.iter().any(is_loopback),
            low_ports: engine.media.low_ports,
            unheard: engine.media.unheard,
            trunks: engine.media.trunks.clone(),
        },
        recording: engine.recording.clone(),
        limits: engine.limits,
    };
    renewed(&settings, engine)
}

/// What a new configuration may change while the engine runs.
pub(super) fn renewed(settings: &Settings, engine: &EngineSettings) -> Settings {
    let mut settings = settings.clone();
    settings.trusted = engine.interfaces.iter().flat_map(|interface| interface.trusted.iter().copied()).collect();
    settings.path = engine.interfaces.first().map(|interface| interface.path).unwrap_or_default();
    settings.digest = engine.interfaces.first().map(|interface| interface.digest.clone()).unwrap_or_default();
    settings.recording = engine.recording.clone();
    settings.limits = engine.limits;
    // Listeners and media are as at the start; an interface is found again by its name.
    for listener in &mut settings.listeners {
        let name = settings.interfaces.get(usize::from(listener.interface)).map(|interface| &interface.name);
        if let Some(interface) = engine.interfaces.iter().find(|interface| Some(&interface.name) == name) {
            listener.advertise.clone_from(&interface.advertise);
        }
    }
    settings
}

fn media_side(interface: &config::Interface) -> Interface {
    let of_family = |wanted: fn(&IpAddr) -> bool| interface.media.iter().find(|media| wanted(&media.local)).copied();
    Interface {
        name: interface.name.clone(),
        ipv4: of_family(IpAddr::is_ipv4),
        ipv6: of_family(IpAddr::is_ipv6),
        from_anywhere: interface.from_anywhere,
    }
}
