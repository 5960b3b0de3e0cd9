//! The fixed header of an RTP packet (RFC 3550 §5.1), checked against the packet's length; payloads are opaque.

use std::ops::Range;

/// A packet is taken for RTP from this length on.
pub const HEADER_BYTES_MIN: usize = 12;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    pub padding: bool,
    pub marker: bool,
    pub payload_type: u8,
    pub sequence: u16,
    pub timestamp: u32,
    pub ssrc: u32,
    /// Profile-defined 16 bits of the header extension (RFC 3550 §5.3.1), if there is one.
    pub extension: Option<u16>,
    pub csrc_count: u8,
    /// Length of all headers: the payload begins here.
    pub header_len: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadRtp {
    #[error("shorter than its RTP header says")]
    Short,
    #[error("not RTP version 2")]
    Version,
    #[error("RTP padding longer than the payload")]
    Padding,
}

impl Header {
    /// Padding is not looked at: under SRTP the last byte is not its length.
    #[inline]
    pub fn parse(packet: &[u8]) -> Result<Self, BadRtp> {
        let Some((fixed, rest)) = packet.split_first_chunk::<HEADER_BYTES_MIN>() else { return Err(BadRtp::Short) };
        let [first, second, s0, s1, t0, t1, t2, t3, x0, x1, x2, x3] = *fixed;
        if first >> 6 != 2 {
            return Err(BadRtp::Version);
        }
        let csrc_count = first & 0x0F;
        let mut header_len = HEADER_BYTES_MIN + 4 * usize::from(csrc_count);
        let mut extension = None;
        if first & 0x10 != 0 {
            let Some(&[p0, p1, l0, l1]) = rest.get(4 * usize::from(csrc_count)..).and_then(|rest| rest.first_chunk())
            else {
                return Err(BadRtp::Short);
            };
            extension = Some(u16::from_be_bytes([p0, p1]));
            header_len += 4 + 4 * usize::from(u16::from_be_bytes([l0, l1]));
        }
        if header_len > packet.len() {
            return Err(BadRtp::Short);
        }
        Ok(Self {
            padding: first & 0x20 != 0,
            marker: second & 0x80 != 0,
            payload_type: second & 0x7F,
            sequence: u16::from_be_bytes([s0, s1]),
            timestamp: u32::from_be_bytes([t0, t1, t2, t3]),
            ssrc: u32::from_be_bytes([x0, x1, x2, x3]),
            extension,
            csrc_count,
            header_len,
        })
    }

    /// Where the payload of this packet lies, padding excluded. Not for SRTP.
    pub fn payload(&self, packet: &[u8]) -> Result<Range<usize>, BadRtp> {
        if self.header_len > packet.len() {
            return Err(BadRtp::Short);
        }
        if !self.padding {
            return Ok(self.header_len..packet.len());
        }
        // RFC 3550 §5.1: "The last octet of the padding contains a count of how many padding octets should be ignored,
        // including itself."
        let padding = packet.last().map_or(0, |&count| usize::from(count));
        match packet.len().checked_sub(padding) {
            Some(end) if padding > 0 && end >= self.header_len => Ok(self.header_len..end),
            _ => Err(BadRtp::Padding),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn packet(first: u8, rest: &[u8]) -> Vec<u8> {
        let mut packet = vec![first, 0x80, 0x12, 0x34, 0, 0, 0x56, 0x78, 0xDE, 0xAD, 0xBE, 0xEF];
        packet.extend_from_slice(rest);
        packet
    }

    #[test]
    fn fields() {
        let header = Header::parse(&packet(0x80, b"abc")).unwrap();
        assert!(header.marker && !header.padding);
        assert_eq!((header.payload_type, header.sequence), (0, 0x1234));
        assert_eq!((header.timestamp, header.ssrc), (0x5678, 0xDEAD_BEEF));
        assert_eq!(header.payload(&packet(0x80, b"abc")), Ok(12..15));
    }

    #[test]
    fn lengths() {
        let check = |first: u8, rest: &[u8]| {
            let packet = packet(first, rest);
            Header::parse(&packet).and_then(|header| header.payload(&packet))
        };
        assert_eq!(check(0x80, b""), Ok(12..12));
        assert_eq!(check(0x40, b""), Err(BadRtp::Version));
        assert_eq!(check(0x82, &[0; 8]), Ok(20..20));
        assert_eq!(check(0x82, &[0; 7]), Err(BadRtp::Short));
        assert_eq!(check(0x90, &[0xBE, 0xDE, 0, 1, 9, 9, 9, 9, 7]), Ok(20..21));
        assert_eq!(check(0x90, &[0xBE, 0xDE, 0, 2, 9, 9, 9, 9, 7]), Err(BadRtp::Short));
        assert_eq!(check(0x90, &[0xBE, 0xDE, 0]), Err(BadRtp::Short));
        assert_eq!(check(0xA0, &[1, 0, 0, 3]), Ok(12..13));
        assert_eq!(check(0xA0, &[1, 0, 0, 0]), Err(BadRtp::Padding));
        assert_eq!(check(0xA0, &[1, 0, 0, 5]), Err(BadRtp::Padding));
        assert_eq!(Header::parse(&[0x80; 11]), Err(BadRtp::Short));
        assert_eq!(Header::parse(&[]), Err(BadRtp::Short));
    }

    proptest! {
        #[test]
        fn any_bytes(bytes in proptest::collection::vec(any::<u8>(), 0..96)) {
            if let Ok(header) = Header::parse(&bytes) {
                prop_assert!(header.header_len <= bytes.len());
                if let Ok(payload) = header.payload(&bytes) {
                    prop_assert!(payload.start == header.header_len && payload.end <= bytes.len());
                    prop_assert!(payload.start <= payload.end);
                }
            }
        }
    }
}
