//! The generator: sends RTP packets with the time in them to every leg in turn, and takes what the relay sends to the other leg.

use std::net::SocketAddr;
use std::net::SocketAddrV4;
use std::net::UdpSocket;
use std::os::fd::AsRawFd;
use std::time::Duration;
use std::time::Instant;

use crate::GENERATOR_CPU;

/// Sockets of the generator; legs share them, so that its own costs are small.
pub(crate) const SOCKETS: usize = 16;
const PACKET_BYTES: usize = 172;
/// Packets sent to the same socket's legs in one call.
const BURST: usize = 4;
const RECEIVES: usize = 64;
/// Packets on the way when the relay is to be saturated.
const WINDOW: u64 = 1_500;
const BUCKET_MICROS: usize = 5;
const BUCKETS: usize = 4_000;

pub(crate) struct Load {
    pub(crate) sockets: Vec<UdpSocket>,
    /// The relay's address of every leg, and its packet's header.
    targets: Vec<libc::sockaddr_in>,
    sequences: Vec<u16>,
    next: usize,
    epoch: Instant,
}

pub(crate) struct Seen {
    pub(crate) sent: u64,
    pub(crate) received: u64,
    delays: Vec<u32>,
}

impl Seen {
    /// Microseconds below which this share of the packets stayed.
    pub(crate) fn delay(&self, share: f64) -> f64 {
        let total: u64 = self.delays.iter().map(|count| u64::from(*count)).sum();
        let mut left = (total as f64 * share) as u64;
        for (bucket, count) in self.delays.iter().enumerate() {
            if u64::from(*count) > left {
                return ((bucket + 1) * BUCKET_MICROS) as f64;
            }
            left -= u64::from(*count);
        }
        (BUCKETS * BUCKET_MICROS) as f64
    }
}

/// The sockets from which the legs speak; leg n has socket n % SOCKETS.
pub(crate) fn sockets() -> Vec<UdpSocket> {
    (0..SOCKETS)
        .map(|_| {
            let socket = UdpSocket::bind("127.0.0.1:0").expect("bind");
            let socket = socket2::Socket::from(socket);
            // As root this passes the system's bound; else loss shows in the share.
            let bytes: i32 = 8 << 20;
            // SAFETY: an int of ours is read.
            unsafe {
                libc::setsockopt(
                    socket.as_raw_fd(),
                    libc::SOL_SOCKET,
                    libc::SO_RCVBUFFORCE,
                    (&raw const bytes).cast(),
                    4,
                );
                libc::setsockopt(
                    socket.as_raw_fd(),
                    libc::SOL_SOCKET,
                    libc::SO_SNDBUFFORCE,
                    (&raw const bytes).cast(),
                    4,
                );
            }
            socket.set_nonblocking(true).expect("nonblocking");
            socket.into()
        })
        .collect()
}

impl Load {
    pub(crate) fn new(sockets: Vec<UdpSocket>, targets: &[SocketAddr]) -> Self {
        Self {
            sockets,
            targets: targets.iter().map(raw).collect(),
            sequences: vec![0; targets.len()],
            next: 0,
            epoch: Instant::now(),
        }
    }

    pub(crate) fn run(&mut self, rate: Option<u32>, time: Duration) -> Seen {
        std::thread::scope(|scope| {
            let running = scope.spawn(|| {
                crate::measure::pin(GENERATOR_CPU);
                self.run_here(rate, time)
            });
            running.join().expect("generator")
        })
    }

    fn run_here(&mut self, rate: Option<u32>, time: Duration) -> Seen {
        let mut seen = Seen { sent: 0, received: 0, delays: vec![0; BUCKETS] };
        let begin = Instant::now();
        let mut last_move = begin;
        // What was lost on the way must not hold the window for ever.
        let mut given_up = 0;
        loop {
            let elapsed = begin.elapsed();
            let over = elapsed >= time;
            let due = match rate {
                Some(rate) => (elapsed.as_nanos() as u64 * u64::from(rate) / 1_000_000_000).saturating_sub(seen.sent),
                None => WINDOW.saturating_sub(seen.sent - seen.received - given_up),
            };
            if !over {
                for _ in 0..(due / BURST as u64).min(16) {
                    seen.sent += self.send();
                }
            }
            let before = seen.received;
            for socket in 0..self.sockets.len() {
                self.receive(socket, &mut seen);
            }
            if seen.received > before {
                last_move = Instant::now();
            } else if rate.is_none() && !over && last_move.elapsed() > Duration::from_millis(20) {
                given_up = seen.sent - seen.received;
            }
            if over && (seen.received >= seen.sent || last_move.elapsed() > Duration::from_millis(100)) {
                return seen;
            }
        }
    }

    fn send(&mut self) -> u64 {
        let now = self.epoch.elapsed().as_nanos() as u64;
        let legs = self.targets.len();
        // The next legs of one socket: n, n + SOCKETS, …
        let (row, column) = (self.next / SOCKETS, self.next % SOCKETS);
        let mut packets = [[0u8; PACKET_BYTES]; BURST];
        let mut parts: [libc::iovec; BURST] =
            [libc::iovec { iov_base: std::ptr::null_mut(), iov_len: PACKET_BYTES }; BURST];
        // SAFETY: all-zero headers are valid.
        let mut messages: [libc::mmsghdr; BURST] = unsafe { std::mem::zeroed() };
        let rows = legs / SOCKETS;
        for index in 0..BURST {
            let leg = (row + index) % rows * SOCKETS + column;
            let sequence = &mut self.sequences[leg];
            *sequence = sequence.wrapping_add(1);
            let packet = &mut packets[index];
            packet[0] = 0x80;
            packet[2..4].copy_from_slice(&sequence.to_be_bytes());
            packet[4..8].copy_from_slice(&(u32::from(*sequence) * 160).to_be_bytes());
            packet[8..12].copy_from_slice(&(0x1000_0000 + leg as u32).to_be_bytes());
            packet[12..20].copy_from_slice(&now.to_le_bytes());
            parts[index].iov_base = packet.as_mut_ptr().cast();
            messages[index].msg_hdr.msg_iov = &raw mut parts[index];
            messages[index].msg_hdr.msg_iovlen = 1;
            messages[index].msg_hdr.msg_name = (&raw mut self.targets[leg]).cast();
            messages[index].msg_hdr.msg_namelen = size_of::<libc::sockaddr_in>() as u32;
        }
        self.next += 1;
        if self.next.is_multiple_of(SOCKETS) {
            self.next = (row + BURST) % rows * SOCKETS;
        }
        let fd = self.sockets[column].as_raw_fd();
        // SAFETY: the headers refer to packets and addresses of ours.
        let sent = unsafe { libc::sendmmsg(fd, messages.as_mut_ptr(), BURST as u32, libc::MSG_DONTWAIT) };
        u64::try_from(sent).unwrap_or(0)
    }

    fn receive(&mut self, socket: usize, seen: &mut Seen) {
        let mut packets = [[0u8; 32]; RECEIVES];
        let mut parts: [libc::iovec; RECEIVES] =
            [libc::iovec { iov_base: std::ptr::null_mut(), iov_len: 32 }; RECEIVES];
        // SAFETY: all-zero headers are valid.
        let mut messages: [libc::mmsghdr; RECEIVES] = unsafe { std::mem::zeroed() };
        for index in 0..RECEIVES {
            parts[index].iov_base = packets[index].as_mut_ptr().cast();
            messages[index].msg_hdr.msg_iov = &raw mut parts[index];
            messages[index].msg_hdr.msg_iovlen = 1;
        }
        let fd = self.sockets[socket].as_raw_fd();
        // SAFETY: the headers refer to buffers of ours.
        let count = unsafe {
            libc::recvmmsg(fd, messages.as_mut_ptr(), RECEIVES as u32, libc::MSG_DONTWAIT, std::ptr::null_mut())
        };
        let now = self.epoch.elapsed().as_nanos() as u64;
        for packet in packets.iter().take(usize::try_from(count).unwrap_or(0)) {
            let sent = packet[12..20].first_chunk().map_or(0, |bytes| u64::from_le_bytes(*bytes));
            let micros = (now.saturating_sub(sent) / 1_000) as usize;
            seen.delays[(micros / BUCKET_MICROS).min(BUCKETS - 1)] += 1;
            seen.received += 1;
        }
    }
}

fn raw(address: &SocketAddr) -> libc::sockaddr_in {
    let SocketAddr::V4(address) = address else { panic!("IPv4 only") };
    let address: &SocketAddrV4 = address;
    libc::sockaddr_in {
        sin_family: libc::AF_INET as u16,
        sin_port: address.port().to_be(),
        sin_addr: libc::in_addr { s_addr: u32::from(*address.ip()).to_be() },
        sin_zero: [0; 8],
    }
}
