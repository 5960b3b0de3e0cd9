//! Numbered RTP packets: which call each belongs to and which of that call's it is, so that loss, order and a stray are exact.

use std::net::IpAddr;
use std::net::SocketAddr;
use std::net::UdpSocket;
use std::time::Duration;

/// The media end of a test phone: a pair of ports.
pub struct Stream {
    pub rtp: UdpSocket,
    pub rtcp: UdpSocket,
    /// Of its packets; 0 unless set.
    pub payload_type: u8,
    call: u32,
    sent: u16,
}

#[derive(Debug, PartialEq, Eq)]
pub struct Arrived {
    pub call: u32,
    pub sequence: u16,
    pub from: SocketAddr,
}

impl Stream {
    /// `call` is written into every packet.
    pub fn open(ip: IpAddr, call: u32) -> Self {
        for port in (30_000..40_000).step_by(2) {
            if let (Ok(rtp), Ok(rtcp)) = (UdpSocket::bind((ip, port)), UdpSocket::bind((ip, port + 1))) {
                return Self { rtp, rtcp, payload_type: 0, call, sent: 0 };
            }
        }
        panic!("no port pair on {ip}");
    }

    pub fn port(&self) -> u16 {
        self.rtp.local_addr().unwrap().port()
    }

    /// An offer or answer for this stream; `direction` is an attribute, "sendrecv" and so on.
    pub fn sdp(&self, direction: &str) -> String {
        let ip = self.rtp.local_addr().unwrap().ip();
        let family = if ip.is_ipv4() { 4 } else { 6 };
        format!(
            "v=0\r\no=phone {0} 1 IN IP{family} {ip}\r\ns=-\r\nc=IN IP{family} {ip}\r\nt=0 0\r\n\
             m=audio {1} RTP/AVP 0 101\r\na=rtpmap:0 PCMU/8000\r\na=rtpmap:101 telephone-event/8000\r\na={direction}\r\n",
            self.call,
            self.port()
        )
    }

    /// Goes on from the sockets of another.
    pub fn move_to(&mut self, other: Self) {
        (self.rtp, self.rtcp) = (other.rtp, other.rtcp);
    }

    /// Packets so far.
    pub fn sent(&self) -> u16 {
        self.sent
    }

    /// One packet of 20 ms.
    pub fn send(&mut self, to: SocketAddr) {
        self.sent += 1;
        let mut packet = [0xd5; 172];
        packet[..2].copy_from_slice(&[0x80, self.payload_type]);
        packet[2..4].copy_from_slice(&self.sent.to_be_bytes());
        packet[4..8].copy_from_slice(&(u32::from(self.sent) * 160).to_be_bytes());
        packet[8..12].copy_from_slice(&(0x1000_0000 + self.call).to_be_bytes());
        packet[12..16].copy_from_slice(&self.call.to_be_bytes());
        self.rtp.send_to(&packet, to).unwrap();
    }

    pub fn send_many(&mut self, count: usize, to: SocketAddr) {
        for _ in 0..count {
            self.send(to);
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Everything that has come, until nothing comes for `quiet`.
    pub fn collect(&mut self, quiet: Duration) -> Vec<Arrived> {
        self.rtp.set_read_timeout(Some(quiet)).unwrap();
        let mut arrived = Vec::new();
        let mut packet = [0; 2048];
        while let Ok((len, from)) = self.rtp.recv_from(&mut packet) {
            assert!(len >= 16, "a packet of {len} bytes");
            let call = u32::from_be_bytes(packet[12..16].try_into().unwrap());
            arrived.push(Arrived { call, sequence: u16::from_be_bytes([packet[2], packet[3]]), from });
        }
        arrived
    }
}

/// Sends from one to the other and checks that exactly those come, in order, and from the address that was promised.
pub fn check_flow(from: &mut Stream, to: &mut Stream, count: usize, via: SocketAddr, promised: SocketAddr) {
    let first = from.sent + 1;
    from.send_many(count, via);
    let arrived = to.collect(Duration::from_millis(300));
    let numbers: Vec<u16> = arrived.iter().map(|packet| packet.sequence).collect();
    let expected: Vec<u16> = (first..).take(count).collect();
    assert_eq!(numbers, expected, "packets of call {} lost, doubled or out of order", from.call);
    for packet in &arrived {
        assert_eq!((packet.call, packet.from), (from.call, promised), "a packet of another call or from another port");
    }
}

/// Both ways at once over ports that the two descriptions promised: `left` sends to `left_via`, hears from it.
pub fn check_both(left: &mut Stream, left_via: SocketAddr, right: &mut Stream, right_via: SocketAddr) {
    // The first packets teach the relay where each side is.
    for _ in 0..3 {
        left.send(left_via);
        right.send(right_via);
        std::thread::sleep(Duration::from_millis(20));
    }
    left.collect(Duration::from_millis(100));
    right.collect(Duration::from_millis(100));
    check_flow(left, right, 40, left_via, right_via);
    check_flow(right, left, 40, right_via, left_via);
}
