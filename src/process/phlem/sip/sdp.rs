//! Session descriptions of a desk phone: one stream of G.711 with telephone events (RFC 8866, RFC 3264, RFC 4733).
//!
//! Attributes of our own pass through servers that relay what they do not know: `x-phlem` numbers the call, so that either end
//! knows whose audio it must hear, `x-phlem-waited` says how long the callee let the phone ring, `x-phlem-talk` after how long
//! the callee shall hang up.

use std::fmt::Write as _;
use std::net::IpAddr;
use std::net::SocketAddr;
use std::time::Duration;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    SendRecv,
    SendOnly,
    RecvOnly,
    Inactive,
}

impl Direction {
    const ALL: [(Self, &'static str); 4] = [
        (Self::SendRecv, "sendrecv"),
        (Self::SendOnly, "sendonly"),
        (Self::RecvOnly, "recvonly"),
        (Self::Inactive, "inactive"),
    ];

    fn name(self) -> &'static str {
        Self::ALL.iter().find(|(own, _)| *own == self).map_or("sendrecv", |(_, name)| name)
    }

    /// RFC 3264 §6.1: what an answer may say at most.
    pub fn answer(self) -> Self {
        match self {
            Self::SendOnly => Self::RecvOnly,
            Self::RecvOnly => Self::SendOnly,
            other => other,
        }
    }

    pub fn sends(self) -> bool {
        matches!(self, Self::SendRecv | Self::SendOnly)
    }
}

/// Payload types (RFC 3551 §6).
pub const PCMU: u8 = 0;
pub const PCMA: u8 = 8;
pub const EVENTS: u8 = 101;

/// What the other side says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Described {
    /// None: the stream is refused, or held in the old way (port 0, address 0.0.0.0).
    pub to: Option<SocketAddr>,
    /// Its first G.711 format.
    pub codec: Option<u8>,
    pub events: Option<u8>,
    pub direction: Direction,
    pub call: Option<u64>,
    pub waited: Option<Duration>,
    pub talk: Option<Duration>,
}

impl Described {
    pub fn parse(body: &[u8]) -> Option<Self> {
        let text = std::str::from_utf8(body).ok()?;
        if !text.starts_with("v=0") {
            return None;
        }
        let mut own = Parsing::default();
        for line in text.lines() {
            if let Some((kind, value)) = line.split_once('=') {
                own.line(kind, value.trim_end());
            }
        }
        own.finish()
    }
}

#[derive(Default)]
struct Parsing {
    session_address: Option<IpAddr>,
    address: Option<IpAddr>,
    port: Option<u16>,
    codec: Option<u8>,
    /// One bit for each payload type of 0 to 127.
    formats: u128,
    events: Option<u8>,
    direction: Option<Direction>,
    call: Option<u64>,
    waited: Option<Duration>,
    talk: Option<Duration>,
    streams: usize,
    is_ours: bool,
}

impl Parsing {
    fn line(&mut self, kind: &str, value: &str) {
        match kind {
            "c" => {
                let address = value.split_whitespace().nth(2).and_then(|address| address.parse().ok());
                if self.streams == 0 {
                    self.session_address = address;
                } else if self.is_ours {
                    self.address = address;
                }
            }
            "m" => self.stream(value),
            "a" if self.streams == 0 || self.is_ours => self.attribute(value),
            _ => {}
        }
    }

    fn stream(&mut self, value: &str) {
        self.streams += 1;
        let mut words = value.split_whitespace();
        let is_audio = words.next() == Some("audio");
        self.is_ours = is_audio && self.port.is_none();
        if self.is_ours {
            self.port = words.next().and_then(|port| port.split('/').next()?.parse().ok());
            for format in words.skip(1).filter_map(|format| format.parse().ok()).filter(|format| *format < 128) {
                self.formats |= 1u128 << format;
                if self.codec.is_none() && [PCMU, PCMA].contains(&format) {
                    self.codec = Some(format);
                }
            }
        }
    }

    fn attribute(&mut self, value: &str) {
        let (name, value) = value.split_once(':').unwrap_or((value, ""));
        match name {
            "rtpmap" => {
                let lower = value.to_ascii_lowercase();
                if let Some((format, _)) = lower.split_once(" telephone-event/8000") {
                    self.events = format.trim().parse().ok();
                }
            }
            "x-phlem" => self.call = value.trim().parse().ok(),
            "x-phlem-waited" => self.waited = value.trim().parse().ok().map(Duration::from_micros),
            "x-phlem-talk" => self.talk = value.trim().parse().ok().map(Duration::from_micros),
            _ => {
                let found = Direction::ALL.iter().find(|(_, own)| *own == name);
                self.direction = found.map(|(direction, _)| *direction).or(self.direction);
            }
        }
    }

    fn finish(self) -> Option<Described> {
        let port = self.port?;
        let address = self.address.or(self.session_address)?;
        let to = (port != 0 && !address.is_unspecified()).then_some(SocketAddr::new(address, port));
        let direction = self.direction.unwrap_or(Direction::SendRecv);
        let events = self.events.filter(|events| *events < 128 && self.formats & 1 << events != 0);
        Some(Described {
            to,
            codec: self.codec,
            events,
            direction,
            call: self.call,
            waited: self.waited,
            talk: self.talk,
        })
    }
}

/// What we say.
#[derive(Clone, Copy, Debug)]
pub struct Description<'a> {
    pub at: SocketAddr,
    pub session: u64,
    pub version: u32,
    pub formats: &'a [u8],
    pub direction: Direction,
    pub call: u64,
    pub waited: Option<Duration>,
    pub talk: Option<Duration>,
    /// No rtpmap for static formats and no direction, as old firmware writes.
    pub sparse: bool,
}

impl Description<'_> {
    pub fn emit(&self) -> Vec<u8> {
        let family = if self.at.is_ipv4() { "IP4" } else { "IP6" };
        let (ip, port, session, version) = (self.at.ip(), self.at.port(), self.session >> 1, self.version);
        let mut out = String::with_capacity(320);
        let _ = write!(
            out,
            "v=0\r\no=- {session} {version} IN {family} {ip}\r\ns=-\r\nc=IN {family} {ip}\r\nt=0 0\r\nm=audio {port} RTP/AVP"
        );
        for format in self.formats {
            let _ = write!(out, " {format}");
        }
        out.push_str("\r\n");
        for format in self.formats {
            match *format {
                PCMU if !self.sparse => out.push_str("a=rtpmap:0 PCMU/8000\r\n"),
                PCMA if !self.sparse => out.push_str("a=rtpmap:8 PCMA/8000\r\n"),
                PCMU | PCMA => {}
                events => {
                    let _ = write!(out, "a=rtpmap:{events} telephone-event/8000\r\na=fmtp:{events} 0-16\r\n");
                }
            }
        }
        if !self.sparse || self.direction != Direction::SendRecv {
            let _ = write!(out, "a=ptime:20\r\na={}\r\n", self.direction.name());
        }
        let _ = write!(out, "a=x-phlem:{}\r\n", self.call);
        if let Some(waited) = self.waited {
            let _ = write!(out, "a=x-phlem-waited:{}\r\n", waited.as_micros());
        }
        if let Some(talk) = self.talk {
            let _ = write!(out, "a=x-phlem-talk:{}\r\n", talk.as_micros());
        }
        out.into_bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        for (at, sparse) in [("127.0.0.1:4000", false), ("[::1]:4002", false), ("10.0.0.1:6", true)] {
            let own = Description {
                at: at.parse().unwrap(),
                session: 99,
                version: 2,
                formats: &[PCMA, PCMU, EVENTS],
                direction: Direction::SendOnly,
                call: 7,
                waited: Some(Duration::from_micros(1_500)),
                talk: Some(Duration::from_secs(3)),
                sparse,
            };
            let read = Described::parse(&own.emit()).unwrap();
            assert_eq!((read.to, read.codec, read.events), (Some(own.at), Some(PCMA), Some(EVENTS)));
            assert_eq!(read.talk, own.talk);
            assert_eq!((read.direction, read.call, read.waited), (Direction::SendOnly, Some(7), own.waited));
        }
    }

    #[test]
    fn descriptions_of_others() {
        let text = "v=0\r\no=x 1 1 IN IP4 h\r\ns=-\r\nc=IN IP4 9.9.9.9\r\nt=0 0\r\na=inactive\r\n\
                    m=video 5 RTP/AVP 31\r\nc=IN IP4 8.8.8.8\r\na=rtpmap:96 telephone-event/8000\r\n\
                    m=audio 4000/2 RTP/AVP 200 9 8 0\r\nc=IN IP4 7.7.7.7\r\na=recvonly\r\nm=audio 1 RTP/AVP 0\r\na=sendonly\r\n";
        let read = Described::parse(text.as_bytes()).unwrap();
        assert_eq!(read.to, Some("7.7.7.7:4000".parse().unwrap()));
        assert_eq!((read.codec, read.events, read.direction), (Some(PCMA), None, Direction::RecvOnly));
        let held = Described::parse(b"v=0\r\nc=IN IP4 0.0.0.0\r\nm=audio 4000 RTP/AVP 0\r\n").unwrap();
        assert_eq!((held.to, held.direction), (None, Direction::SendRecv));
        assert_eq!(Described::parse(b"v=0\r\nm=audio 0 RTP/AVP 0\r\n"), None, "no address");
        assert_eq!(Described::parse(b"nonsense"), None);
        assert_eq!(Direction::SendOnly.answer(), Direction::RecvOnly);
    }
}
