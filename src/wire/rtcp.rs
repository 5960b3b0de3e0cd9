//! RTCP packets (RFC 3550 §6), one alone (RFC 5506) or compound; read as far as round-trip times and losses need.
//!
//! [`first`] looks at what is in clear also under SRTCP; [`walk`] goes through a whole plain compound packet.

/// Header and the SSRC of who sent it.
pub const FIRST_BYTES_MIN: usize = 8;
const REPORT_BYTES: usize = 24;
const SENDER_INFO_BYTES: usize = 20;

pub const SENDER_REPORT: u8 = 200;
pub const RECEIVER_REPORT: u8 = 201;

/// RFC 5761 §4: on a port with both, packet types 192 to 223 (as RTP: payload types 64 to 95) are RTCP.
#[inline]
pub fn is_rtcp(packet: &[u8]) -> bool {
    matches!(packet, [first, 192..=223, ..] if first >> 6 == 2)
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadRtcp {
    #[error("shorter than its RTCP header says")]
    Short,
    #[error("not RTCP version 2")]
    Version,
    #[error("not an RTCP packet type")]
    Type,
}

/// The start of an RTCP packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct First {
    pub packet_type: u8,
    pub ssrc: u32,
}

/// Checks the first header and its length.
pub fn first(packet: &[u8]) -> Result<First, BadRtcp> {
    let Some(&[first, packet_type, l0, l1, s0, s1, s2, s3]) = packet.first_chunk::<FIRST_BYTES_MIN>() else {
        return Err(BadRtcp::Short);
    };
    if first >> 6 != 2 {
        return Err(BadRtcp::Version);
    }
    if !(192..=223).contains(&packet_type) {
        return Err(BadRtcp::Type);
    }
    if packet_len([l0, l1]) > packet.len() {
        return Err(BadRtcp::Short);
    }
    Ok(First { packet_type, ssrc: u32::from_be_bytes([s0, s1, s2, s3]) })
}

/// RFC 3550 §6.4.1: "The length of this RTCP packet in 32-bit words minus one, including the header and any padding."
fn packet_len(words: [u8; 2]) -> usize {
    4 + 4 * usize::from(u16::from_be_bytes(words))
}

/// One packet of a compound.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Packet<'a> {
    pub packet_type: u8,
    /// Reports, sources or subtype, by packet type.
    pub count: u8,
    /// What follows the four bytes of header.
    pub body: &'a [u8],
}

/// The packets one after the other; ends at the first that is malformed.
pub fn walk(compound: &[u8]) -> Walk<'_> {
    Walk { rest: compound }
}

#[derive(Clone, Debug)]
pub struct Walk<'a> {
    rest: &'a [u8],
}

impl<'a> Iterator for Walk<'a> {
    type Item = Packet<'a>;

    fn next(&mut self) -> Option<Packet<'a>> {
        let &[first, packet_type, l0, l1] = self.rest.first_chunk()?;
        let (packet, rest) = self.rest.split_at_checked(packet_len([l0, l1]))?;
        if first >> 6 != 2 {
            return None;
        }
        self.rest = rest;
        Some(Packet { packet_type, count: first & 0x1F, body: packet.get(4..)? })
    }
}

/// What a sender report says of its sender.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SenderInfo {
    pub ssrc: u32,
    pub ntp: u64,
    pub rtp_timestamp: u32,
    pub packets: u32,
    pub bytes: u32,
}

impl SenderInfo {
    /// "the middle 32 bits out of 64 in the NTP timestamp": what comes back as LSR.
    pub fn ntp_middle(&self) -> u32 {
        (self.ntp >> 16) as u32
    }
}

/// One report block: how the reporter receives the stream `ssrc`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReportBlock {
    pub ssrc: u32,
    /// Of 256, since the report before.
    pub fraction_lost: u8,
    /// Negative with duplicates.
    pub lost: i32,
    pub highest_sequence: u32,
    /// In timestamp units.
    pub jitter: u32,
    pub last_sender_report: u32,
    /// In 1/65536 s.
    pub delay_since_last_sender_report: u32,
}

impl<'a> Packet<'a> {
    pub fn sender_info(&self) -> Option<SenderInfo> {
        if self.packet_type != SENDER_REPORT {
            return None;
        }
        Some(SenderInfo {
            ssrc: word(self.body, 0)?,
            ntp: u64::from(word(self.body, 4)?) << 32 | u64::from(word(self.body, 8)?),
            rtp_timestamp: word(self.body, 12)?,
            packets: word(self.body, 16)?,
            bytes: word(self.body, 20)?,
        })
    }

    /// Report blocks of a sender or receiver report; none of any other packet.
    pub fn reports(&self) -> impl Iterator<Item = ReportBlock> + use<'a> {
        let start = match self.packet_type {
            SENDER_REPORT => 4 + SENDER_INFO_BYTES,
            RECEIVER_REPORT => 4,
            _ => usize::MAX,
        };
        let blocks = self.body.get(start..).unwrap_or_default();
        blocks.chunks_exact(REPORT_BYTES).take(usize::from(self.count)).filter_map(report_block)
    }
}

fn report_block(block: &[u8]) -> Option<ReportBlock> {
    let losses = word(block, 4)?;
    Some(ReportBlock {
        ssrc: word(block, 0)?,
        fraction_lost: (losses >> 24) as u8,
        // 24 bits, signed.
        lost: (losses << 8) as i32 >> 8,
        highest_sequence: word(block, 8)?,
        jitter: word(block, 12)?,
        last_sender_report: word(block, 16)?,
        delay_since_last_sender_report: word(block, 20)?,
    })
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..)?.first_chunk().map(|word| u32::from_be_bytes(*word))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn sender_report() -> Vec<u8> {
        let mut packet = vec![0x81, 200, 0, 12];
        let block = [7, 0x40FF_FFFE, 70_000, 33, 0x3333_4444, 65_536];
        for word in [1, 0x2222_3333u32, 0x4444_5555, 160, 50, 8_000].into_iter().chain(block) {
            packet.extend_from_slice(&word.to_be_bytes());
        }
        packet
    }

    #[test]
    fn a_compound_is_walked() {
        let mut compound = sender_report();
        compound.extend_from_slice(&[0x81, 202, 0, 2, 0, 0, 0, 1, 1, 1, b'x', 0]);
        assert!(is_rtcp(&compound));
        assert_eq!(first(&compound), Ok(First { packet_type: 200, ssrc: 1 }));
        let packets: Vec<_> = walk(&compound).collect();
        assert_eq!(packets.iter().map(|p| (p.packet_type, p.count)).collect::<Vec<_>>(), [(200, 1), (202, 1)]);
        let info = packets[0].sender_info().unwrap();
        assert_eq!((info.ntp_middle(), info.packets, info.bytes), (0x3333_4444, 50, 8_000));
        let reports: Vec<_> = packets[0].reports().collect();
        assert_eq!(reports.len(), 1);
        assert_eq!((reports[0].fraction_lost, reports[0].lost, reports[0].jitter), (0x40, -2, 33));
        assert_eq!(packets[1].reports().count(), 0);
        assert_eq!(packets[1].sender_info(), None);
    }

    #[test]
    fn short_and_foreign_packets_are_refused() {
        let whole = sender_report();
        for len in 0..whole.len() {
            assert_eq!(first(&whole[..len]), Err(BadRtcp::Short), "{len}");
            assert_eq!(walk(&whole[..len]).count(), 0);
        }
        assert_eq!(first(&[0x40, 200, 0, 1, 0, 0, 0, 0]), Err(BadRtcp::Version));
        assert_eq!(first(&[0x80, 96, 0, 1, 0, 0, 0, 0]), Err(BadRtcp::Type));
        assert!(!is_rtcp(&[0x80, 0x80 | 96]) && !is_rtcp(&[0x80]) && !is_rtcp(&[]));
    }

    proptest! {
        #[test]
        fn any_bytes(bytes in proptest::collection::vec(any::<u8>(), 0..160)) {
            let bodies: usize = walk(&bytes).map(|packet| packet.body.len() + 4).sum();
            prop_assert!(bodies <= bytes.len());
            for packet in walk(&bytes) {
                prop_assert!(packet.reports().count() <= usize::from(packet.count));
                let _ = packet.sender_info();
            }
            if first(&bytes).is_ok() {
                prop_assert!(is_rtcp(&bytes) && walk(&bytes).next().is_some());
            }
        }
    }
}
