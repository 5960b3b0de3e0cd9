//! HEP version 3: copies of SIP and RTCP for a capture server (HOMER), one UDP datagram or TCP frame each.
//!
//! Written after the "Homer Encapsulation Protocol" document, revision 11 and its later chunk types; only the generic
//! chunks (vendor 0) that a mirror needs. Nothing is read. A payload that does not fit is cut, as capture servers expect.
//! RTCP goes as the JSON that HOMER shows ([`emit_rtcp`]), with the field names that other media relays gave it.

use std::net::IpAddr;
use std::net::SocketAddr;

use serde::Serialize;

use crate::base::time::UnixTime;
use crate::wire::rtcp;

/// Total length and chunk lengths are 16 bits.
const FRAME_BYTES_MAX: usize = u16::MAX as usize;
const CHUNK_HEAD_BYTES: usize = 6;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Content {
    Sip = 1,
    /// As JSON: see [`emit_rtcp`].
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

/// The first report of a plain compound RTCP packet as the JSON payload of [`Content::Rtcp`]; false, and nothing written,
/// if it has none.
pub fn emit_rtcp(compound: &[u8], out: &mut Vec<u8>) -> bool {
    let is_report = |packet_type| matches!(packet_type, rtcp::SENDER_REPORT | rtcp::RECEIVER_REPORT);
    let Some(packet) = rtcp::walk(compound).find(|packet| is_report(packet.packet_type)) else { return false };
    let Some(ssrc) = packet.body.first_chunk().map(|ssrc| u32::from_be_bytes(*ssrc)) else { return false };
    let report_blocks: Vec<_> = packet.reports().map(RtcpBlock::of).collect();
    let report = RtcpReport {
        sender_information: packet.sender_info().as_ref().map(RtcpSender::of),
        ssrc,
        packet_type: packet.packet_type,
        report_count: report_blocks.len(),
        report_blocks,
    };
    serde_json::to_writer(out, &report).is_ok()
}

#[derive(Serialize)]
struct RtcpReport {
    #[serde(skip_serializing_if = "Option::is_none")]
    sender_information: Option<RtcpSender>,
    ssrc: u32,
    #[serde(rename = "type")]
    packet_type: u8,
    report_count: usize,
    report_blocks: Vec<RtcpBlock>,
}

#[derive(Serialize)]
struct RtcpSender {
    ntp_timestamp_sec: u32,
    /// The fraction as it stands in the packet; the name is the format's.
    ntp_timestamp_usec: u32,
    octets: u32,
    rtp_timestamp: u32,
    packets: u32,
}

impl RtcpSender {
    fn of(info: &rtcp::SenderInfo) -> Self {
        Self {
            ntp_timestamp_sec: (info.ntp >> 32) as u32,
            ntp_timestamp_usec: info.ntp as u32,
            octets: info.bytes,
            rtp_timestamp: info.rtp_timestamp,
            packets: info.packets,
        }
    }
}

#[derive(Serialize)]
struct RtcpBlock {
    source_ssrc: u32,
    highest_seq_no: u32,
    fraction_lost: u8,
    ia_jitter: u32,
    packets_lost: i32,
    lsr: u32,
    dlsr: u32,
}

impl RtcpBlock {
    fn of(block: rtcp::ReportBlock) -> Self {
        Self {
            source_ssrc: block.ssrc,
            highest_seq_no: block.highest_sequence,
            fraction_lost: block.fraction_lost,
            ia_jitter: block.jitter,
            packets_lost: block.lost,
            lsr: block.last_sender_report,
            dlsr: block.delay_since_last_sender_report,
        }
    }
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

    #[test]
    fn rtcp_as_json() {
        let words = [1, 0x10, 0x20, 160, 50, 8_000, 7, 0x40FF_FFFE, 70_000, 33, 5, 6];
        let mut compound = vec![0x81, 200, 0, 12];
        compound.extend(words.iter().flat_map(|word: &u32| word.to_be_bytes()));
        let mut out = b">".to_vec();
        assert!(emit_rtcp(&compound, &mut out));
        let expected = concat!(
            r#">{"sender_information":{"ntp_timestamp_sec":16,"ntp_timestamp_usec":32,"octets":8000,"rtp_timestamp":160,"#,
            r#""packets":50},"ssrc":1,"type":200,"report_count":1,"report_blocks":[{"source_ssrc":7,"highest_seq_no":70000,"#,
            r#""fraction_lost":64,"ia_jitter":33,"packets_lost":-2,"lsr":5,"dlsr":6}]}"#,
        );
        assert_eq!(String::from_utf8(out).unwrap(), expected);
        let mut out = Vec::new();
        assert!(emit_rtcp(&[0x80, 201, 0, 1, 0, 0, 0, 9], &mut out));
        assert_eq!(out, br#"{"ssrc":9,"type":201,"report_count":0,"report_blocks":[]}"#);
        let mut out = Vec::new();
        for none in [&[][..], &[0x81, 203, 0, 1, 0, 0, 0, 9], &[0x81, 201, 0, 0]] {
            assert!(!emit_rtcp(none, &mut out));
        }
        assert!(out.is_empty());
    }
}
