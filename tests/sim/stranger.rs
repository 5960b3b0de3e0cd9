//! Somebody on the Internet without a password: repeats what it saw from an address of its own, asks, lies, sends noise.

use std::net::IpAddr;
use std::net::Ipv4Addr;
use std::net::SocketAddr;

use tipring::base::random::Random;

/// All strangers are here, and nobody else.
pub fn is_stranger(address: IpAddr) -> bool {
    matches!(address, IpAddr::V4(address) if address.octets()[..3] == [192, 0, 2])
}

pub fn address(random: &mut Random) -> SocketAddr {
    SocketAddr::new(IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1 + random.below(3) as u8)), 5060)
}

/// A datagram for the SIP port; `seen` is what a phone sent at some time.
pub fn sip(from: SocketAddr, seen: Option<&[u8]>, random: &mut Random) -> Vec<u8> {
    let seen = seen.filter(|bytes| bytes.starts_with(b"INVITE ") || bytes.starts_with(b"REGISTER "));
    match (random.below(6), seen) {
        (0 | 1, Some(bytes)) => bytes.to_vec(),
        (2, Some(bytes)) => bytes[..random.below(bytes.len() as u64) as usize].to_vec(),
        (3, Some(bytes)) => {
            let mut bytes = bytes.to_vec();
            for _ in 0..=random.below(4) {
                let at = random.below(bytes.len() as u64) as usize;
                bytes[at] ^= 1 << random.below(8);
            }
            bytes
        }
        (4, _) => (0..random.below(200)).map(|_| random.below(256) as u8).collect(),
        (kind, _) => {
            let method = if kind % 2 == 0 { "REGISTER" } else { "INVITE" };
            let number = random.next_u32();
            format!(
                "{method} sip:1001@acme.test SIP/2.0\r\nVia: SIP/2.0/UDP {from};branch=z9hG4bK{number};rport\r\n\
                 Max-Forwards: 70\r\nFrom: <sip:1002@acme.test>;tag={number}\r\nTo: <sip:1002@acme.test>\r\n\
                 Call-ID: {number}@stranger\r\nCSeq: 1 {method}\r\nContact: <sip:1002@{from}>\r\nContent-Length: 0\r\n\r\n"
            )
            .into_bytes()
        }
    }
}

/// What somebody says who sends to all ports.
pub const SPRAYED: &str = "sprayer>all";

/// A packet of one who has a stream and no call.
pub fn spray(number: u16) -> Vec<u8> {
    let mut packet = vec![0x80, 0];
    packet.extend_from_slice(&number.to_be_bytes());
    packet.extend_from_slice(&(u32::from(number) * 160).to_be_bytes());
    packet.extend_from_slice(&0x0bad_cafeu32.to_be_bytes());
    packet.extend_from_slice(SPRAYED.as_bytes());
    packet
}

/// A packet that could be a frame of any phone, but for whom it is.
pub fn rtp(random: &mut Random) -> Vec<u8> {
    let mut packet = vec![0x80, 0];
    packet.extend_from_slice(&(random.below(200) as u16).to_be_bytes());
    packet.extend_from_slice(&random.next_u32().to_be_bytes());
    packet.extend_from_slice(&0x1234_5678u32.to_be_bytes());
    packet.extend_from_slice(b"stranger>");
    packet
}
