//! What a relay and a call must know of a session description: addresses, directions, payload types.
//!
//! RFC 3264 (offer/answer), RFC 3605 (`a=rtcp`), RFC 5761 (`a=rtcp-mux`), RFC 4733 (telephone-event). Nothing is decided
//! here but which m-lines a relay can carry at all.

use std::net::IpAddr;
use std::net::Ipv4Addr;
use std::net::Ipv6Addr;
use std::net::SocketAddr;
use std::str;

use serde::Deserialize;
use serde::Serialize;

use crate::base::limit::SDP_FORMATS_MAX;
use crate::base::limit::SDP_NAME_BYTES_MAX;
use crate::base::limit::SDP_SSRCS_MAX;
use crate::base::limit::STREAMS_PER_CALL_MAX;
use crate::wire::sdp::Line;
use crate::wire::sdp::Media;
use crate::wire::sdp::Session;
use crate::wire::sdp::number;
use crate::wire::sdp::token;

/// The facts of one session description, an entry per m-line.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Described {
    pub media: Vec<MediaFacts>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MediaFacts {
    /// As [`Media::line`] has it.
    pub line: Box<[u8]>,
    pub kind: Kind,
    pub profile: Profile,
    /// 0: refused, or out of use.
    pub port: u16,
    /// An RTP m-line in use, among the first that a call may have.
    pub relayable: bool,
    /// Where the party wants RTP; none if held with `c=0.0.0.0`, if a name stands there, or if out of use.
    pub rtp: Option<SocketAddr>,
    /// Where the party wants RTCP if it is not multiplexed with RTP.
    pub rtcp: Option<SocketAddr>,
    /// As written; see [`MediaFacts::receives`] for the older way to hold.
    pub direction: Direction,
    /// The connection address is 0.0.0.0 or ::, the way to hold before RFC 3264.
    pub unspecified: bool,
    pub rtcp_mux: bool,
    pub formats: Vec<Format>,
    /// SSRCs that the party says it sends with (RFC 5576), the first few.
    pub ssrcs: Vec<u32>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Kind {
    Audio,
    Video,
    Text,
    Image,
    Application,
    Message,
    Other,
}

/// The profiles of RTP that are relayed; all else is `Other`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Profile {
    Avp,
    Avpf,
    Savp,
    Savpf,
    Other,
}

impl Profile {
    pub fn parse(protocol: &[u8]) -> Self {
        let known: [(&[u8], Self); 4] = [
            (b"RTP/AVP", Self::Avp),
            (b"RTP/AVPF", Self::Avpf),
            (b"RTP/SAVP", Self::Savp),
            (b"RTP/SAVPF", Self::Savpf),
        ];
        known.iter().find(|(name, _)| protocol.eq_ignore_ascii_case(name)).map_or(Self::Other, |(_, profile)| *profile)
    }

    /// SRTP: payloads and most of RTCP are encrypted (RFC 3711).
    pub fn is_secure(self) -> bool {
        matches!(self, Self::Savp | Self::Savpf)
    }
}

/// RFC 8866 §6.7, as the party that wrote it sees it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Direction {
    #[default]
    SendRecv,
    SendOnly,
    RecvOnly,
    Inactive,
}

impl Direction {
    pub fn parse(field: &[u8]) -> Option<Self> {
        Some(match field {
            b"sendrecv" => Self::SendRecv,
            b"sendonly" => Self::SendOnly,
            b"recvonly" => Self::RecvOnly,
            b"inactive" => Self::Inactive,
            _ => return None,
        })
    }

    pub fn as_str(self) -> &'static str {
        match self {
            Self::SendRecv => "sendrecv",
            Self::SendOnly => "sendonly",
            Self::RecvOnly => "recvonly",
            Self::Inactive => "inactive",
        }
    }

    pub fn sends(self) -> bool {
        matches!(self, Self::SendRecv | Self::SendOnly)
    }

    pub fn receives(self) -> bool {
        matches!(self, Self::SendRecv | Self::RecvOnly)
    }
}

/// An RTP payload type of an m-line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Format {
    pub payload_type: u8,
    /// Encoding name of the rtpmap, in lower case; empty for a static type without one.
    pub name: String,
    pub clock: u32,
    /// Of the rtpmap; 1 where it says nothing (RFC 8866 §6.6).
    pub channels: u8,
}

impl Described {
    pub fn of(session: &Session<'_>) -> Self {
        let connection = connection_of(&session.head);
        let direction = session.attributes().find_map(|(field, _)| Direction::parse(field)).unwrap_or_default();
        let mut relayed = 0;
        let media = session.media.iter().map(|media| {
            let mut facts = MediaFacts::of(media, connection, direction);
            relayed += usize::from(facts.relayable);
            facts.relayable &= relayed <= STREAMS_PER_CALL_MAX;
            facts
        });
        Self { media: media.collect() }
    }

    pub fn relayable(&self) -> impl Iterator<Item = (usize, &MediaFacts)> {
        self.media.iter().enumerate().filter(|(_, facts)| facts.relayable)
    }

    /// The party holds: it has streams, and wants to receive on none of them.
    pub fn holds(&self) -> bool {
        let mut streams = self.relayable().peekable();
        streams.peek().is_some() && streams.all(|(_, facts)| !facts.receives())
    }

    /// RFC 3264 §6: "for each "m=" line in the offer, there MUST be a corresponding "m=" line in the answer".
    pub fn answers(&self, offer: &Self) -> bool {
        let same = |(a, o): (&MediaFacts, &MediaFacts)| a.kind == o.kind && (o.port != 0 || a.port == 0);
        self.media.len() == offer.media.len() && self.media.iter().zip(&offer.media).all(same)
    }
}

impl MediaFacts {
    fn of(media: &Media<'_>, session: Connection, direction: Direction) -> Self {
        let profile = Profile::parse(media.protocol);
        let is_rtp = profile != Profile::Other;
        let connection = match connection_of(&media.lines) {
            Connection::Missing => session,
            own => own,
        };
        let in_use = is_rtp && media.port != 0;
        let address = connection.address().filter(|_| in_use);
        let rtp = address.map(|ip| SocketAddr::new(ip, media.port));
        Self {
            line: media.line(),
            kind: kind(media.kind),
            profile,
            port: media.port,
            relayable: in_use,
            rtp,
            rtcp: address.and_then(|ip| rtcp_of(media, ip)),
            direction: media.attributes().find_map(|(field, _)| Direction::parse(field)).unwrap_or(direction),
            unspecified: connection == Connection::Unspecified,
            rtcp_mux: media.attributes().any(|(field, _)| field == b"rtcp-mux"),
            formats: if is_rtp { formats_of(media) } else { Vec::new() },
            ssrcs: ssrcs_of(media),
        }
    }

    /// It can stand as an answer to `offer` as it is: directions and formats by RFC 3264 §6.1, multiplexing by RFC 5761
    /// §5.1.1. Keys are chosen for each answer.
    pub fn fits(&self, offer: &Self) -> bool {
        let same = self.kind == offer.kind && self.profile == offer.profile && !self.profile.is_secure();
        let directions = (offer.receives() || !self.sends()) && (offer.sends() || !self.receives());
        let formats = self.formats.iter().any(|format| offer.formats.contains(format));
        self.relayable && offer.relayable && same && directions && formats && (offer.rtcp_mux || !self.rtcp_mux)
    }

    /// The party may send RTP.
    pub fn sends(&self) -> bool {
        self.port != 0 && self.direction.sends()
    }

    /// The party wants RTP.
    pub fn receives(&self) -> bool {
        self.port != 0 && self.direction.receives() && !self.unspecified
    }

    /// The direction with the older way to hold spelled out.
    ///
    /// RFC 3264 §8.4: "RFC 2543 specified that placing a user on hold was accomplished by setting the connection address
    /// to 0.0.0.0."
    pub fn effective_direction(&self) -> Direction {
        match (self.unspecified, self.direction) {
            (true, Direction::SendRecv | Direction::SendOnly) => Direction::SendOnly,
            (true, Direction::RecvOnly | Direction::Inactive) => Direction::Inactive,
            (false, direction) => direction,
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Connection {
    Missing,
    Address(IpAddr),
    Unspecified,
    /// A host name, or a network that is not IP.
    Unreadable,
}

impl Connection {
    fn address(self) -> Option<IpAddr> {
        match self {
            Self::Address(address) => Some(address),
            Self::Missing | Self::Unspecified | Self::Unreadable => None,
        }
    }
}

fn connection_of(lines: &[Line<'_>]) -> Connection {
    let Some(line) = lines.iter().find(|line| line.name == b'c') else { return Connection::Missing };
    match address_of(line.value) {
        Some(address) if address.is_unspecified() => Connection::Unspecified,
        Some(address) => Connection::Address(address),
        None => Connection::Unreadable,
    }
}

/// The address of `IN IP4 192.0.2.1` or `IN IP6 2001:db8::1`; a TTL after a slash is for multicast, which is not relayed.
pub(crate) fn address_of(value: &[u8]) -> Option<IpAddr> {
    let (network, rest) = token(value)?;
    let (family, rest) = token(rest)?;
    let (address, _) = token(rest)?;
    if !network.eq_ignore_ascii_case(b"IN") {
        return None;
    }
    let text = str::from_utf8(address).ok()?;
    if family.eq_ignore_ascii_case(b"IP4") {
        text.parse::<Ipv4Addr>().ok().map(IpAddr::V4)
    } else if family.eq_ignore_ascii_case(b"IP6") {
        text.parse::<Ipv6Addr>().ok().map(IpAddr::V6)
    } else {
        None
    }
}

/// RFC 3605 §2.1: `a=rtcp:53020` or `a=rtcp:53020 IN IP4 126.16.64.4`; else the next higher port, RFC 3550 §11.
fn rtcp_of(media: &Media<'_>, address: IpAddr) -> Option<SocketAddr> {
    let Some((_, value)) = media.attributes().find(|(field, _)| *field == b"rtcp") else {
        return Some(SocketAddr::new(address, media.port.checked_add(1)?));
    };
    let (port, rest) = token(value)?;
    let port = number(port).filter(|&port: &u16| port != 0)?;
    if rest.trim_ascii().is_empty() {
        return Some(SocketAddr::new(address, port));
    }
    address_of(rest).filter(|ip| !ip.is_unspecified()).map(|ip| SocketAddr::new(ip, port))
}

fn kind(name: &[u8]) -> Kind {
    match name {
        b"audio" => Kind::Audio,
        b"video" => Kind::Video,
        b"text" => Kind::Text,
        b"image" => Kind::Image,
        b"application" => Kind::Application,
        b"message" => Kind::Message,
        _ => Kind::Other,
    }
}

fn formats_of(media: &Media<'_>) -> Vec<Format> {
    let numbers = media.formats().filter_map(number::<u8>).filter(|&payload_type| payload_type < 128);
    numbers.take(SDP_FORMATS_MAX).map(|payload_type| format_of(media, payload_type)).collect()
}

/// RFC 5576 §4.1: "a=ssrc:<ssrc-id> <attribute>:<value>", a line for each attribute.
fn ssrcs_of(media: &Media<'_>) -> Vec<u32> {
    let mut ssrcs = Vec::new();
    for (_, value) in media.attributes().filter(|(field, _)| *field == b"ssrc") {
        let ssrc = token(value).and_then(|(ssrc, _)| number(ssrc));
        if let Some(ssrc) = ssrc.filter(|ssrc| ssrcs.len() < SDP_SSRCS_MAX && !ssrcs.contains(ssrc)) {
            ssrcs.push(ssrc);
        }
    }
    ssrcs
}

fn format_of(media: &Media<'_>, payload_type: u8) -> Format {
    let mapped = media.attributes().filter(|(field, _)| *field == b"rtpmap").find_map(|(_, value)| {
        let (number_text, rest) = token(value)?;
        if number::<u8>(number_text)? != payload_type {
            return None;
        }
        let (encoding, _) = token(rest)?;
        let mut parts = encoding.split(|&byte| byte == b'/');
        let name = parts.next().filter(|name| name.len() <= SDP_NAME_BYTES_MAX)?;
        let name = str::from_utf8(name).ok()?.to_ascii_lowercase();
        let clock = number(parts.next()?).filter(|&clock: &u32| clock != 0)?;
        let channels = parts.next().and_then(number).filter(|&channels: &u8| channels != 0).unwrap_or(1);
        Some(Format { payload_type, name, clock, channels })
    });
    let channels = if payload_type == 10 { 2 } else { 1 };
    mapped.unwrap_or_else(|| Format { payload_type, name: String::new(), clock: static_clock(payload_type), channels })
}

/// RFC 3551 §6, tables 4 and 5.
fn static_clock(payload_type: u8) -> u32 {
    match payload_type {
        6 => 16_000,
        10 | 11 => 44_100,
        14 | 25..=34 => 90_000,
        16 => 11_025,
        17 => 22_050,
        // G.722 is 9 with 8,000 Hz, by RFC 3551 §4.5.2; dynamic types without a map are taken for telephone audio.
        _ => 8_000,
    }
}
