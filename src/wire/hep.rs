//! HEP version 3: copies of SIP and RTCP for a capture server (HOMER), one UDP datagram or TCP frame each.
//!
//! Written after the "Homer Encapsulation Protocol" document, revision 11 and its later chunk types; only the generic
//! chunks (vendor 0) that a mirror needs. Nothing is read. A payload that does not fit is cut, as capture servers expect.

use std::net::IpAddr;
use std::net::SocketAddr;

use crate::base::time::UnixTime;

/// Total length and chunk lengths are 16 bits.
const FRAME_BYTES_MAX: usize = u16::MAX as usize;
const CHUNK_HEAD_BYTES: usize = 6;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Content {
    Sip = 1,
    Rtcp = 5,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Transport {
    Tcp = 6,
    Udp = 17,
}

/// Who captures.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Agent {
    pub id: u32,
    /// Left out if empty.
    pub key: String,
    /// Seconds; left out if 0.
    pub keep_alive: u16,
}

/// One captured message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capture<'a> {
    pub content: Content,
    pub transport: Transport,
    pub source: SocketAddr,
    pub destination: SocketAddr,
    pub at: UnixTime,
    /// Ties the messages of a call together; left out if empty.
    pub correlation: &'a [u8],
    pub payload: &'a [u8],
}

/// Chunk types of vendor 0.
mod chunk {
    pub(super) const FAMILY: u16 = 0x0001;
    pub(super) const PROTOCOL: u16 = 0x0002;
    pub(super) const IPV4_SOURCE: u16 = 0x0003;
    pub(super) const IPV4_DESTINATION: u16 = 0x0004;
    pub(super) const IPV6_SOURCE: u16 = 0x0005;
    pub(super) const IPV6_DESTINATION: u16 = 0x0006;
    pub(super) const SOURCE_PORT: u16 = 0x0007;
    pub(super) const DESTINATION_PORT: u16 = 0x0008;
    pub(super) const SECONDS: u16 = 0x0009;
    pub(super) const MICROSECONDS: u16 = 0x000A;
    pub(super) const CONTENT: u16 = 0x000B;
    pub(super) const AGENT_ID: u16 = 0x000C;
    pub(super) const KEEP_ALIVE: u16 = 0x000D;
    pub(super) const KEY: u16 = 0x000E;
    pub(super) const PAYLOAD: u16 = 0x000F;
    pub(super) const CORRELATION: u16 = 0x0011;
}

/// Appends the frame of `capture` to `out`.
pub fn emit(agent: &Agent, capture: &Capture<'_>, out: &mut Vec<u8>) {
    let start = out.len();
    out.extend_from_slice(b"HEP3\0\0");
    // Families as in Linux and BSD for IPv4; capture servers take 10 for IPv6.
    let (source, destination) = (capture.source.ip().to_canonical(), capture.destination.ip().to_canonical());
    let is_ipv6 = source.is_ipv6() || destination.is_ipv6();
    emit_chunk(chunk::FAMILY, &[if is_ipv6 { 10 } else { 2 }], out);
    emit_chunk(chunk::PROTOCOL, &[capture.transport as u8], out);
    emit_address([chunk::IPV4_SOURCE, chunk::IPV6_SOURCE], source, is_ipv6, out);
    emit_address([chunk::IPV4_DESTINATION, chunk::IPV6_DESTINATION], destination, is_ipv6, out);
    emit_chunk(chunk::SOURCE_PORT, &capture.source.port().to_be_bytes(), out);
    emit_chunk(chunk::DESTINATION_PORT, &capture.destination.port().to_be_bytes(), out);
    emit_chunk(chunk::SECONDS, &(capture.at.secs() as u32).to_be_bytes(), out);
    emit_chunk(chunk::MICROSECONDS, &((capture.at.micros() % 1_000_000) as u32).to_be_bytes(), out);
    emit_chunk(chunk::CONTENT, &[capture.content as u8], out);
    emit_chunk(chunk::AGENT_ID, &agent.id.to_be_bytes(), out);
    if agent.keep_alive != 0 {
        emit_chunk(chunk::KEEP_ALIVE, &agent.keep_alive.to_be_bytes(), out);
    }
    emit_text(chunk::KEY, agent.key.as_bytes(), out);
    emit_text(chunk::CORRELATION, capture.correlation, out);
    let room = FRAME_BYTES_MAX.saturating_sub(out.len() - start + CHUNK_HEAD_BYTES);
    emit_chunk(chunk::PAYLOAD, capture.payload.get(..room).unwrap_or(capture.payload), out);
    let total = u16::try_from(out.len() - start).unwrap_or(u16::MAX).to_be_bytes();
    if let Some(length) = out.get_mut(start + 4..start + 6) {
        length.copy_from_slice(&total);
    }
}

fn emit_address([ipv4, ipv6]: [u16; 2], address: IpAddr, is_ipv6: bool, out: &mut Vec<u8>) {
    match address {
        IpAddr::V4(address) if is_ipv6 => emit_chunk(ipv6, &address.to_ipv6_mapped().octets(), out),
        IpAddr::V4(address) => emit_chunk(ipv4, &address.octets(), out),
        IpAddr::V6(address) => emit_chunk(ipv6, &address.octets(), out),
    }
}

/// Longer texts than any key or call id are cut, so that the payload keeps its room.
fn emit_text(kind: u16, text: &[u8], out: &mut Vec<u8>) {
    if !text.is_empty() {
        emit_chunk(kind, text.get(..256).unwrap_or(text), out);
    }
}

fn emit_chunk(kind: u16, value: &[u8], out: &mut Vec<u8>) {
    let length = u16::try_from(CHUNK_HEAD_BYTES + value.len()).unwrap_or(u16::MAX);
    out.extend_from_slice(&[0, 0]);
    out.extend_from_slice(&kind.to_be_bytes());
    out.extend_from_slice(&length.to_be_bytes());
    out.extend_from_slice(value);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn capture<'a>(source: &str, destination: &str, payload: &'a [u8]) -> Capture<'a> {
        Capture {
            content: Content::Sip,
            transport: Transport::Udp,
            source: source.parse().unwrap(),
            destination: destination.parse().unwrap(),
            at: UnixTime::from_micros(0x5000_0000 * 1_000_000 + 0x0001_0203),
            correlation: b"call-1",
            payload,
        }
    }

    fn bytes(text: &str) -> Vec<u8> {
        let digits: Vec<_> = text.bytes().filter(u8::is_ascii_hexdigit).collect();
        digits.chunks(2).map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap()).collect()
    }

    #[test]
    fn byte_for_byte() {
        let agent = Agent { id: 2_001, key: "secret".into(), keep_alive: 30 };
        let mut out = vec![0xEE];
        emit(&agent, &capture("192.0.2.1:5060", "198.51.100.2:5061", b"OPTIONS"), &mut out);
        let expected = bytes(
            "EE 48455033 008A
             0000 0001 0007 02
             0000 0002 0007 11
             0000 0003 000A C0000201
             0000 0004 000A C6336402
             0000 0007 0008 13C4
             0000 0008 0008 13C5
             0000 0009 000A 50000000
             0000 000A 000A 00010203
             0000 000B 0007 01
             0000 000C 000A 000007D1
             0000 000D 0008 001E
             0000 000E 000C 736563726574
             0000 0011 000C 63616C6C2D31
             0000 000F 000D 4F5054494F4E53",
        );
        assert_eq!(out, expected);
        assert_eq!(usize::from(u16::from_be_bytes([out[5], out[6]])), out.len() - 1);
    }

    #[test]
    fn ipv6_and_nothing_optional() {
        let mut out = Vec::new();
        let mut rtcp = capture("[2001:db8::1]:5", "192.0.2.9:7", &[0x80, 201]);
        (rtcp.content, rtcp.correlation) = (Content::Rtcp, b"");
        emit(&Agent::default(), &rtcp, &mut out);
        let expected = bytes(
            "48455033 007D
             0000 0001 0007 0A
             0000 0002 0007 11
             0000 0005 0016 20010DB8000000000000000000000001
             0000 0006 0016 00000000000000000000FFFFC0000209
             0000 0007 0008 0005
             0000 0008 0008 0007
             0000 0009 000A 50000000
             0000 000A 000A 00010203
             0000 000B 0007 05
             0000 000C 000A 00000000
             0000 000F 0008 80C9",
        );
        assert_eq!(out, expected);
    }

    #[test]
    fn a_large_payload_is_cut_to_the_frame() {
        let mut out = Vec::new();
        emit(&Agent::default(), &capture("192.0.2.1:1", "192.0.2.2:2", &[b'x'; 70_000]), &mut out);
        assert_eq!(out.len(), FRAME_BYTES_MAX);
        assert_eq!(out[4..6], [0xFF, 0xFF]);
    }
}
