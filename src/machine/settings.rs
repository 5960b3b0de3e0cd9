//! What the engine's machines are told at start and on reload; the same for every shard.

use std::net::IpAddr;
use std::net::SocketAddr;
use std::time::Duration;

use serde::Deserialize;
use serde::Serialize;

use crate::base::hash::HashKey;
use crate::machine::media::bounds::MediaBounds;

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Settings {
    /// Unique in a fleet; part of every id.
    pub node: String,
    /// Made by the keeper at start: tells our lives apart.
    pub boot: u64,
    pub shards: u8,
    pub secrets: Secrets,
    pub listeners: Vec<Listener>,
    /// Prefixes that source limits never touch.
    pub trusted: Vec<Prefix>,
    /// From where a Path is taken, whatever the phone says of it.
    pub path: PathPolicy,
    /// Offered in this order.
    pub digest: Vec<Algorithm>,
    /// Media addresses, by the `interface` of a listener.
    pub interfaces: Vec<Interface>,
    pub registration: RegistrationBounds,
    /// How long phones ring before the caller gets 480.
    pub ring_max: Duration,
    /// A stream that was promised packets and hears none for so long ends its call.
    pub media_timeout: Duration,
    /// Where media may go.
    pub media: MediaBounds,
    pub recording: RecordingSettings,
    pub limits: Limits,
}

/// How many calls a phone and a tenant may have and begin; 0: as many as there is room for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    pub phone_calls: u32,
    pub phone_calls_per_second: u32,
    pub tenant_calls: u32,
    pub tenant_calls_per_second: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self { phone_calls: 100, phone_calls_per_second: 10, tenant_calls: 2_000, tenant_calls_per_second: 100 }
    }
}

/// How calls are recorded; whether they are stands in the directory.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecordingSettings {
    /// Early media too.
    pub early: bool,
    /// Keys that start and stop a recording on demand; empty: none.
    pub start_code: String,
    /// Keys that pause and resume it.
    pub pause_code: String,
}

/// Made once, kept on disk: a restart neither challenges everybody anew nor moves phones to other shards.
#[derive(Clone, Serialize, Deserialize)]
pub struct Secrets {
    pub hash: HashKey,
    pub nonce: [u8; 32],
}

impl std::fmt::Debug for Secrets {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secrets(…)")
    }
}

/// A local address that SIP is received on.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Listener {
    pub reliable: bool,
    pub local: SocketAddr,
    /// host[:port] for Via and Contact where it differs from `local`.
    pub advertise: Option<String>,
    /// Index into [`Settings::interfaces`].
    pub interface: u8,
}

impl Listener {
    /// What Via's sent-by and Contact's hostport say.
    pub fn sent_by(&self) -> String {
        self.advertise.clone().unwrap_or_else(|| self.local.to_string())
    }
}

/// The media side of a network.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Interface {
    pub name: String,
    pub ipv4: Option<MediaAddress>,
    pub ipv6: Option<MediaAddress>,
    /// Media is taken also from an address that neither description nor signalling names, while nobody better is heard.
    pub from_anywhere: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct MediaAddress {
    pub local: IpAddr,
    /// Written into SDP.
    pub advertise: IpAddr,
}

/// Proxies put a Path into REGISTERs of phones that do not know it (RFC 3327 §5.3).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum PathPolicy {
    /// Taken from a trusted proxy; from others as below.
    #[default]
    Always,
    /// Taken only where the phone says `Supported: path`.
    Supported,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Algorithm {
    Md5,
    Sha256,
    Sha512_256,
}

#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct RegistrationBounds {
    /// Shorter is 423 (RFC 3261 §10.3).
    pub expires_min: Duration,
    pub expires_max: Duration,
    pub expires_default: Duration,
}

impl Default for RegistrationBounds {
    fn default() -> Self {
        Self {
            expires_min: Duration::from_secs(60),
            expires_max: Duration::from_secs(7200),
            expires_default: Duration::from_secs(3600),
        }
    }
}

/// An address prefix, "127.0.0.0/8".
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Prefix {
    pub address: IpAddr,
    pub bits: u8,
}

impl Prefix {
    pub fn contains(&self, address: IpAddr) -> bool {
        match (self.address, address) {
            (IpAddr::V4(prefix), IpAddr::V4(address)) => {
                let bits = u32::from(self.bits.min(32));
                let differ = prefix.to_bits() ^ address.to_bits();
                bits == 0 || differ >> (32 - bits) == 0
            }
            (IpAddr::V6(prefix), IpAddr::V6(address)) => {
                let bits = u32::from(self.bits.min(128));
                let differ = prefix.to_bits() ^ address.to_bits();
                bits == 0 || differ >> (128 - bits) == 0
            }
            _ => false,
        }
    }
}

impl Settings {
    pub fn is_trusted(&self, address: IpAddr) -> bool {
        self.trusted.iter().any(|prefix| prefix.contains(address))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefixes() {
        let check = |prefix: &str, bits, address: &str| {
            Prefix { address: prefix.parse().unwrap(), bits }.contains(address.parse().unwrap())
        };
        assert!(check("127.0.0.0", 8, "127.255.0.1"));
        assert!(!check("127.0.0.0", 8, "128.0.0.1"));
        assert!(check("0.0.0.0", 0, "9.9.9.9"));
        assert!(!check("0.0.0.0", 0, "::1"));
        assert!(check("2001:db8::", 32, "2001:db8:1::1"));
        assert!(!check("2001:db8::", 32, "2001:db9::1"));
        assert!(check("::1", 128, "::1"));
    }
}
