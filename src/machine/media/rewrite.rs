//! The description that we send one party, made from the one the other party sent (RFC 3264 through a B2BUA).
//!
//! What the parties negotiate passes: formats, maps, directions, keys, bandwidths, unknown attributes. What says where the
//! media goes is ours: origin, connection, ports. Whatever would lead past us is left out: ICE (RFC 8839), BUNDLE
//! (RFC 9143), DTLS (its handshake is no RTP), source filters, contact lines, any line with an address of the party, and sources that are named after one.
//! An m-line that is not relayed stays with port 0, so that the indexes match.

use std::net::IpAddr;
use std::net::Ipv4Addr;
use std::net::Ipv6Addr;
use std::ops::RangeInclusive;
use std::str::FromStr;

use serde::Deserialize;
use serde::Serialize;

use crate::base::hash::HashKey;
use crate::machine::media::ports::Pair;
use crate::wire::sdp::Line;
use crate::wire::sdp::Media;
use crate::wire::sdp::Session;
use crate::wire::sdp::facts::Described;
use crate::wire::sdp::facts::Direction;
use crate::wire::sdp::facts::MediaFacts;
use crate::wire::sdp::facts::Profile;
use crate::wire::sdp::token;

/// Our end of one m-line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LocalPorts {
    pub rtp: u16,
    pub rtcp: u16,
    /// False takes `a=rtcp-mux` out: in an answer to an offer that had none (RFC 5761 §5.1.1).
    pub mux: bool,
}

impl LocalPorts {
    pub fn of(pair: &Pair, mux: bool) -> Self {
        Self { rtp: pair.rtp.port(), rtcp: pair.rtcp.port(), mux }
    }
}

/// What we have written on one leg so far: decides the origin line (RFC 3264 §8).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LocalDescription {
    session_id: u64,
    version: u64,
    /// Hash of what was sent last, without the origin line.
    sent: Option<u64>,
}

impl LocalDescription {
    /// `session_id` should be random: RFC 8866 §5.2 wants it unique together with the address.
    pub fn new(session_id: u64) -> Self {
        // RFC 3264 §5: "The numeric value of the session id and version in the o line MUST be representable with a
        // 64 bit signed integer." "The initial value of the version MUST be less than (2**62)-1".
        Self { session_id: session_id >> 1, version: 1, sent: None }
    }

    pub fn version(&self) -> u64 {
        self.version
    }

    /// What was sent some time before, with the version that it has now.
    pub fn again(&mut self, description: &[u8]) -> Vec<u8> {
        let mut lines = description.splitn(3, |byte| *byte == b'\n');
        let (Some(first), Some(origin), Some(content)) = (lines.next(), lines.next(), lines.next()) else {
            return description.to_vec();
        };
        self.sends(content);
        let network = origin.splitn(4, |byte| *byte == b' ').nth(3).unwrap_or_default();
        let origin = format!("o=- {} {} ", self.session_id, self.version);
        [first, b"\n", origin.as_bytes(), network, b"\n", content].concat()
    }

    /// RFC 3264 §8: "its version in the origin field of the SDP … MUST increment by one from the previous SDP. If the
    /// version in the origin line does not increment, the SDP MUST be identical to the SDP with that version number."
    fn sends(&mut self, content: &[u8]) {
        let hash = HashKey([0; 16]).hash(&[content]);
        match self.sent.replace(hash) {
            Some(before) if before != hash => self.version += 1,
            _ => {}
        }
    }
}

/// Writes what we send instead of `session`: `address` is our media address towards the reader, `ports` ours per m-line
/// (missing or `None`: refused).
pub fn rewrite(
    session: &Session<'_>,
    address: IpAddr,
    ports: &[Option<LocalPorts>],
    local: &mut LocalDescription,
) -> Vec<u8> {
    let facts = Described::of(session);
    let foreign = Foreign::of(session);
    let mut body = Vec::with_capacity(1_024);
    rewrite_head(session, address, &foreign, &mut body);
    for (index, (media, facts)) in session.media.iter().zip(&facts.media).enumerate() {
        match ports.get(index).copied().flatten().filter(|_| facts.relayable) {
            Some(ports) => rewrite_media(media, facts, ports, &foreign, &mut body),
            None => media.emit_line(0, &mut body),
        }
    }
    local.sends(&body);
    let LocalDescription { session_id, version, .. } = local;
    let mut out = Vec::with_capacity(body.len() + 96);
    out.extend_from_slice(format!("v=0\r\no=- {session_id} {version} {}\r\n", network(address)).as_bytes());
    out.extend_from_slice(&body);
    out
}

/// A description of ours as an answer to `offer`: streams that fit stay as they are, all others are refused.
pub fn fitted(ours: &Session<'_>, offer: &Session<'_>) -> Vec<u8> {
    let (said, asked) = (Described::of(ours), Described::of(offer));
    let fits = |index: usize| Some(said.media.get(index)?.fits(asked.media.get(index)?));
    let media = offer.media.iter().enumerate().map(|(index, media)| match ours.media.get(index) {
        Some(own) if fits(index) == Some(true) => own.clone(),
        _ => Media { port: 0, port_count: None, lines: Vec::new(), ..media.clone() },
    });
    let mut out = Vec::with_capacity(1_024);
    Session { head: ours.head.clone(), media: media.collect() }.emit(&mut out);
    out
}

/// An answer with exactly the m-lines of its offer, whatever was answered.
///
/// RFC 3264 §6: "For each "m=" line in the offer, there MUST be a corresponding "m=" line in the answer." Lines at their place
/// count first; where a phone has changed the order, the next line of the same media. What is missing or of another transport
/// is refused, what nobody offered is left out.
pub fn conformed<'a>(answer: &Session<'a>, offer: &'a Described) -> Session<'a> {
    let mut left: Vec<Option<&Media<'a>>> = answer.media.iter().map(Some).collect();
    let is_kind =
        |media: &Media<'_>, asked: &MediaFacts| asked.line.split(|byte| *byte == b' ').next() == Some(media.kind);
    let mut found: Vec<Option<&Media<'a>>> = Vec::with_capacity(offer.media.len());
    for (index, asked) in offer.media.iter().enumerate() {
        let at_place = left.get_mut(index).and_then(|place| place.take_if(|media| is_kind(media, asked)));
        found.push(at_place);
    }
    for (asked, place) in offer.media.iter().zip(&mut found).filter(|(_, place)| place.is_none()) {
        *place = left.iter_mut().find_map(|other| other.take_if(|media| is_kind(media, asked)));
    }
    let media = offer.media.iter().zip(found).filter_map(|(asked, answered)| {
        let refusal = Media::refused(&asked.line)?;
        let Some(answered) = answered.filter(|answered| is_same_transport(answered, asked)) else {
            return Some(refusal);
        };
        let port = if asked.port == 0 { 0 } else { answered.port };
        Some(Media { port, protocol: refusal.protocol, ..answered.clone() })
    });
    Session { head: answer.head.clone(), media: media.collect() }
}

/// RTP with feedback and without (RFC 4585) are one: phones answer the one with the other, and hear each other.
fn is_same_transport(answered: &Media<'_>, asked: &MediaFacts) -> bool {
    let profile = Profile::parse(answered.protocol);
    profile != Profile::Other && asked.profile != Profile::Other && profile.is_secure() == asked.profile.is_secure()
}

/// A later offer with at least as many m-lines as the description before.
///
/// RFC 3264 §8: "the number of "m=" lines in the new SDP MUST be equal to or greater than" that of the old one; what a phone has
/// left out is out of use.
pub fn padded<'a>(mut offer: Session<'a>, before: &Session<'a>) -> Session<'a> {
    for media in before.media.iter().skip(offer.media.len()) {
        offer.media.push(Media { port: 0, port_count: None, lines: Vec::new(), ..media.clone() });
    }
    offer
}

fn network(address: IpAddr) -> String {
    match address {
        IpAddr::V4(address) => format!("IN IP4 {address}"),
        IpAddr::V6(address) => format!("IN IP6 {address}"),
    }
}

/// The lines after the origin, in the order of RFC 8866 §9; letters unknown to it are left out, as a reader may refuse them.
fn rewrite_head(session: &Session<'_>, address: IpAddr, foreign: &Foreign, out: &mut Vec<u8>) {
    let lines = |names: &'static [u8]| session.head.iter().filter(move |line| names.contains(&line.name));
    let passing = |names: &'static [u8]| lines(names).filter(|line| !foreign.is_in(line.value));
    out.extend_from_slice(b"s=-\r\n");
    passing(b"i").take(1).for_each(|line| line.emit(out));
    out.extend_from_slice(format!("c={}\r\n", network(address)).as_bytes());
    passing(b"b").for_each(|line| line.emit(out));
    if lines(b"t").next().is_none() {
        out.extend_from_slice(b"t=0 0\r\n");
    }
    passing(b"trz").for_each(|line| line.emit(out));
    passing(b"k").take(1).for_each(|line| line.emit(out));
    passing(b"a").filter(|line| passes(line)).for_each(|line| line.emit(out));
}

fn rewrite_media(media: &Media<'_>, facts: &MediaFacts, ports: LocalPorts, foreign: &Foreign, out: &mut Vec<u8>) {
    media.emit_line(ports.rtp, out);
    let sources = telling_sources(media);
    for line in &media.lines {
        let known = matches!(line.name, b'i' | b'b' | b'k' | b'a');
        let hides = foreign.is_in(line.value) || is_about(line, &sources);
        if known && passes(line) && !hides && !is_replaced(line, facts, ports) {
            line.emit(out);
        }
    }
    if facts.unspecified {
        // Our connection address is never 0.0.0.0, so the older way to hold is told in the newer one.
        out.extend_from_slice(format!("a={}\r\n", facts.effective_direction().as_str()).as_bytes());
    }
    if ports.rtp.checked_add(1) != Some(ports.rtcp) {
        // RFC 3605 §2.1: the attribute is used "to document the RTCP port used for media stream, when that port is not
        // the next higher (odd) port number following the RTP port".
        out.extend_from_slice(format!("a=rtcp:{}\r\n", ports.rtcp).as_bytes());
    }
}

fn is_replaced(line: &Line<'_>, facts: &MediaFacts, ports: LocalPorts) -> bool {
    let Some((field, _)) = line.attribute() else { return false };
    let is_mux = matches!(field, b"rtcp-mux" | b"rtcp-mux-only");
    is_mux && !ports.mux || facts.unspecified && Direction::parse(field).is_some()
}

/// True unless the line is an attribute that leads past us or that we do not do.
fn passes(line: &Line<'_>) -> bool {
    let Some((field, value)) = line.attribute() else { return true };
    match field {
        b"candidate" | b"remote-candidates" | b"end-of-candidates" => false,
        b"bundle-only" | b"msid-semantic" => false,
        b"group" => token(value).is_none_or(|(semantics, _)| !semantics.eq_ignore_ascii_case(b"BUNDLE")),
        b"rtcp" => false,
        b"fingerprint" | b"setup" | b"connection" | b"tls-id" | b"dtls-id" => false,
        // RFC 4570, RFC 7006, RFC 6947, and the ICE of a draft.
        b"source-filter" | b"ccap" | b"altc" | b"alt" => false,
        _ => !field.starts_with(b"ice-"),
    }
}

/// The party's own addresses: no line with one of them passes, in whatever notation.
///
/// Names of hosts are not looked for: they are words like any other.
struct Foreign(Vec<IpAddr>);

impl Foreign {
    fn of(session: &Session<'_>) -> Self {
        let mut found = Vec::with_capacity(4);
        let media = session.media.iter().flat_map(|media| &media.lines);
        for line in session.head.iter().chain(media) {
            let place = match (line.name, line.attribute()) {
                (b'c', _) => nth_token(line.value, 2),
                (b'o', _) => nth_token(line.value, 5),
                (_, Some((b"rtcp", value))) => nth_token(value, 3),
                (_, Some((b"candidate" | b"remote-candidates" | b"source-filter" | b"altc" | b"ccap", value))) => {
                    Some(value)
                }
                _ => None,
            };
            let words =
                place.into_iter().flat_map(|place| place.split(|byte| byte.is_ascii_whitespace() || *byte == b'/'));
            let written = words.filter_map(parse::<IpAddr>);
            for address in written.map(|address| address.to_canonical()).filter(|address| !address.is_unspecified()) {
                if !found.contains(&address) {
                    found.push(address);
                }
            }
        }
        Self(found)
    }

    fn is_in(&self, value: &[u8]) -> bool {
        addresses(value).any(|address| self.0.contains(&address))
    }
}

/// Everything in a text that may be read as an IP address: within brackets, with a port, a zone or a prefix length, or with
/// something written right before or behind it.
pub fn addresses(text: &[u8]) -> impl Iterator<Item = IpAddr> + '_ {
    let dotted = text.split(|byte| !matches!(byte, b'0'..=b'9' | b'.'));
    let dotted = dotted.flat_map(|word| runs(word, b'.', 4..=4)).filter_map(parse::<Ipv4Addr>).map(IpAddr::V4);
    let colons = text.split(|byte| !byte.is_ascii_hexdigit() && !matches!(byte, b'.' | b':'));
    let colons = colons.map(|word| word.strip_suffix(b".").unwrap_or(word)).flat_map(|word| runs(word, b':', PIECES));
    dotted.chain(colons.filter_map(parse::<Ipv6Addr>).map(IpAddr::V6)).map(|address| address.to_canonical())
}

/// What colons divide an IPv6 address into: `::` has three empty pieces, and seven colons have eight, or nine with a pair at an end.
const PIECES: RangeInclusive<usize> = 3..=9;

/// The parts of a word that are so many pieces, divided by `divider`, one after the other.
fn runs(word: &[u8], divider: u8, pieces: RangeInclusive<usize>) -> impl Iterator<Item = &[u8]> {
    let dividers = memchr::memchr_iter(divider, word);
    let starts = std::iter::once(0).chain(dividers.map(|at| at + 1));
    starts.flat_map(move |start| {
        let rest = word.get(start..).unwrap_or_default();
        let ends = memchr::memchr_iter(divider, rest).chain(std::iter::once(rest.len()));
        let (least, most) = (*pieces.start(), *pieces.end());
        ends.skip(least - 1).take(most + 1 - least).filter_map(move |end| rest.get(..end))
    })
}

fn parse<T: FromStr>(word: &[u8]) -> Option<T> {
    std::str::from_utf8(word).ok()?.parse().ok()
}

/// The SSRCs of an m-line whose CNAME says who and where (RFC 3550 §6.5.1, `user@host`): nothing about them passes.
///
/// RFC 5576 §4.1 lets `a=ssrc` describe sources; nobody needs it to be heard.
fn telling_sources<'a>(media: &Media<'a>) -> Vec<&'a [u8]> {
    let tells = |cname: &[u8]| cname.contains(&b'@') || addresses(cname).next().is_some();
    let source = |(field, value): (&'a [u8], &'a [u8])| {
        let (ssrc, rest) = token(value).filter(|_| field == b"ssrc")?;
        let cname = rest.trim_ascii().strip_prefix(b"cname:")?;
        tells(cname).then_some(ssrc)
    };
    media.attributes().filter_map(source).collect()
}

/// RFC 5576 §4.1 and §4.2: `ssrc:ID …` and `ssrc-group:SEMANTICS ID …`.
fn is_about(line: &Line<'_>, sources: &[&[u8]]) -> bool {
    let Some((field @ (b"ssrc" | b"ssrc-group"), value)) = line.attribute() else { return false };
    let words = value.split(u8::is_ascii_whitespace);
    let mut ids = words.skip(usize::from(field == b"ssrc-group")).take(if field == b"ssrc" { 1 } else { usize::MAX });
    !sources.is_empty() && ids.any(|id| sources.contains(&id))
}

fn nth_token(text: &[u8], index: usize) -> Option<&[u8]> {
    text.split(u8::is_ascii_whitespace).filter(|token| !token.is_empty()).nth(index)
}

#[cfg(test)]
mod tests;
