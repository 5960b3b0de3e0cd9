//! Where media may go: to phones, and to nobody whom a description may only want to hit.

use std::net::IpAddr;
use std::net::Ipv6Addr;
use std::net::SocketAddr;
use std::time::Duration;

use serde::Deserialize;
use serde::Serialize;

use crate::base::time::Instant;
use crate::machine::settings::Prefix;

/// Media that goes to somebody who keeps silent, unless the configuration says otherwise.
pub const UNHEARD_DEFAULT: Duration = Duration::from_secs(5);
/// After that he gets a packet so often, until he is heard.
const UNHEARD_PAUSE: Duration = Duration::from_secs(1);
/// A pause longer than this is none in which media went.
const STEP_MAX: Duration = Duration::from_millis(100);
/// Ports of services that only root may open.
const LOW_PORTS_BELOW: u16 = 1_024;
/// The metadata service of a cloud that is not at a link-local address.
const METADATA_V6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254);

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MediaBounds {
    /// The addresses of all interfaces of this machine.
    pub own: Vec<IpAddr>,
    /// Sockets of the node beside those for media.
    pub own_sockets: Vec<SocketAddr>,
    /// Media may go to loopback addresses: for nodes that serve their own machine, and tests.
    pub loopback: bool,
    /// Descriptions may name ports below 1024.
    pub low_ports: bool,
    /// How long media goes to an address that is not the party's signalling's and from which nothing has come. Zero: without end.
    pub unheard: Duration,
    /// Who signals from here may have media sent anywhere unheard.
    pub trunks: Vec<Prefix>,
}

impl Default for MediaBounds {
    fn default() -> Self {
        Self {
            own: Vec::new(),
            own_sockets: Vec::new(),
            loopback: false,
            low_ports: false,
            unheard: UNHEARD_DEFAULT,
            trunks: Vec::new(),
        }
    }
}

impl MediaBounds {
    /// Nobody can be there, whoever says so and whatever comes from there.
    pub fn forbids(&self, address: SocketAddr) -> bool {
        let ip = reached(address.ip());
        let is_nobodys = match ip {
            // 0.0.0.0/8 is this machine, 240.0.0.0/4 reserved or broadcast, 169.254.0.0/16 without a router between.
            IpAddr::V4(ip) => matches!(ip.octets()[0], 0 | 240..=255) || ip.is_link_local(),
            IpAddr::V6(ip) => ip.is_unspecified() || ip.is_unicast_link_local() || ip == METADATA_V6,
        };
        let is_own_socket = self.own_sockets.iter().any(|own| own.port() == address.port() && self.is_at(*own, ip));
        is_nobodys || ip.is_multicast() || address.port() == 0 || ip.is_loopback() && !self.loopback || is_own_socket
    }

    /// Nobody who signals from `signalling` can mean this address. A phone on this very machine may be at an address of ours.
    pub fn refuses(&self, address: SocketAddr, signalling: IpAddr) -> bool {
        let ip = reached(address.ip());
        self.forbids(address)
            || address.port() < LOW_PORTS_BELOW && !self.low_ports
            || ip != reached(signalling) && self.own.contains(&ip)
    }

    pub fn is_trunk(&self, signalling: IpAddr) -> bool {
        self.trunks.iter().any(|prefix| prefix.contains(signalling.to_canonical()))
    }

    fn is_at(&self, own: SocketAddr, ip: IpAddr) -> bool {
        let local = own.ip().to_canonical();
        local == ip || local.is_unspecified() && (ip.is_loopback() || self.own.contains(&ip))
    }
}

/// The IPv4 address that packets to an IPv6 one end at: mapped, compatible (RFC 4291 §2.5.5.1, deprecated), or of the well-known
/// prefix of translators (RFC 6052 §2.1).
pub(super) fn reached(ip: IpAddr) -> IpAddr {
    let IpAddr::V6(written) = ip.to_canonical() else { return ip.to_canonical() };
    let [a, b, c, d] = written.octets()[12..] else { return ip };
    match written.segments() {
        // `::` and `::1` are themselves.
        [0, 0, 0, 0, 0, 0, 0, 0 | 1] => ip,
        [0, 0, 0, 0, 0, 0, ..] | [0x64, 0xff9b, 0, 0, 0, 0, ..] => IpAddr::from([a, b, c, d]),
        _ => ip,
    }
}

/// What went to addresses of a pair's party that were not heard. One allowance for all of them: who describes one after the
/// other gains nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Unheard {
    spent: Duration,
    last: Instant,
    next: Instant,
}

impl Unheard {
    /// One packet more may go there.
    #[cold]
    pub(super) fn lets(&mut self, max: Duration, now: Instant) -> bool {
        if self.spent < max {
            self.spent += now.since(self.last).min(STEP_MAX);
            self.last = now;
            return true;
        }
        let is_due = now >= self.next;
        if is_due {
            self.next = now + UNHEARD_PAUSE;
        }
        is_due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn media_goes_to_phones_alone() {
        let bounds = MediaBounds {
            own: ["198.51.100.1", "10.0.0.1", "2001:db8::1", "127.0.0.1"].map(|ip| ip.parse().unwrap()).to_vec(),
            own_sockets: ["198.51.100.1:5060", "0.0.0.0:5062", "[2001:db8::1]:5060"]
                .map(|at| at.parse().unwrap())
                .to_vec(),
            loopback: true,
            ..MediaBounds::default()
        };
        // What a party at 192.0.2.10 describes, and whether a source may be there.
        for (address, refused, forbidden) in [
            ("192.0.2.10:4000", false, false),
            ("203.0.113.9:4000", false, false),
            ("10.0.0.5:4000", false, false),
            ("100.64.0.5:4000", false, false),
            ("[2001:db8::9]:4000", false, false),
            ("127.0.0.2:4000", false, false),
            // Ours.
            ("198.51.100.1:5060", true, true),
            ("198.51.100.1:5062", true, true),
            ("10.0.0.1:5062", true, true),
            ("127.0.0.9:5062", true, true),
            ("[::ffff:198.51.100.1]:5060", true, true),
            ("[2001:db8::1]:5060", true, true),
            ("198.51.100.1:9090", true, false),
            ("10.0.0.1:4000", true, false),
            ("127.0.0.1:4000", true, false),
            // Nobody's.
            ("169.254.169.254:4000", true, true),
            ("[::ffff:169.254.169.254]:4000", true, true),
            ("[::169.254.169.254]:4000", true, true),
            ("[64:ff9b::169.254.169.254]:4000", true, true),
            ("[64:ff9b::198.51.100.1]:5060", true, true),
            ("[64:ff9b::10.0.0.1]:4000", true, false),
            ("[64:ff9b::192.0.2.10]:4000", false, false),
            ("[::127.0.0.9]:5062", true, true),
            ("[::ffff:0.0.0.0]:4000", true, true),
            ("[::ffff:224.0.0.1]:4000", true, true),
            ("[::255.255.255.255]:4000", true, true),
            ("[fe80::1]:4000", true, true),
            ("[fd00:ec2::254]:4000", true, true),
            ("0.0.0.0:4000", true, true),
            ("0.0.0.1:4000", true, true),
            ("255.255.255.255:4000", true, true),
            ("240.0.0.1:4000", true, true),
            ("224.0.0.1:4000", true, true),
            ("[ff02::1]:4000", true, true),
            ("[::]:4000", true, true),
            ("192.0.2.10:0", true, true),
            // Services.
            ("192.0.2.10:53", true, false),
            ("192.0.2.10:1023", true, false),
            ("192.0.2.10:1024", false, false),
        ] {
            let at: SocketAddr = address.parse().unwrap();
            assert_eq!(bounds.refuses(at, "192.0.2.10".parse().unwrap()), refused, "{address}");
            assert_eq!(bounds.forbids(at), forbidden, "{address}");
        }
        let here: IpAddr = "10.0.0.1".parse().unwrap();
        assert!(!bounds.refuses("10.0.0.1:4000".parse().unwrap(), here), "a phone on this machine");
        assert!(bounds.refuses("10.0.0.1:5062".parse().unwrap(), here));
        let low_ports = MediaBounds { low_ports: true, loopback: false, ..bounds };
        assert!(!low_ports.refuses("192.0.2.10:53".parse().unwrap(), here));
        assert!(low_ports.forbids("127.0.0.2:4000".parse().unwrap()));
    }

    #[test]
    fn an_allowance_is_spent_by_time_and_not_by_packets() {
        let mut unheard = Unheard::default();
        let mut now = Instant::from_millis(1_000_000);
        let mut sent = 0;
        for _ in 0..1_000 {
            sent += u32::from(unheard.lets(Duration::from_secs(5), now));
            now = now + Duration::from_millis(20);
        }
        // 5 s, less the step that the first packet is taken for, then one a second.
        assert!((245..=251 + 15).contains(&sent), "{sent}");
        // Silence gives nothing back.
        now = now + Duration::from_secs(60);
        let again: Vec<bool> = (0..3).map(|_| unheard.lets(Duration::from_secs(5), now)).collect();
        assert_eq!(again, [true, false, false]);
    }
}
