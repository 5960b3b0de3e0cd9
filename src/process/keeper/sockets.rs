//! Everything that outlives an engine: listening sockets, the RTP ports, state memory, the link's socket.
//!
//! Opened once, before the first child; each start of an engine gets the same ones again.

use std::io;
use std::net::IpAddr;
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::os::fd::BorrowedFd;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::time::Duration;

use rustix::fs::MemfdFlags;
use rustix::fs::Mode;
use rustix::fs::OFlags;
use rustix::fs::SealFlags;
use rustix::io::Errno;
use rustix::net::RecvFlags;
use rustix::process::Resource;
use rustix::process::Rlimit;
use socket2::Domain;
use socket2::Protocol;
use socket2::SockFilter;
use socket2::Socket;
use socket2::Type;

use crate::base::id::ShardId;
use crate::base::limit::OPEN_FILES_RESERVE;
use crate::base::limit::OPEN_FILES_RESERVE_OF_SHARD;
use crate::base::limit::STATE_BYTES_PER_SHARD;
use crate::process::exit;
use crate::process::exit::Failure;
use crate::process::plan::Listen;
use crate::process::plan::MediaRange;
use crate::process::plan::Plan;
use crate::shard::memory::STATE_OFFSET;
use crate::shard::udp::socket::is_deaf;
use crate::wire::control::Passed;
use crate::wire::control::PortCounts;

pub(super) struct Sockets {
    pub(super) handles: Vec<Handle>,
    /// State memory again, but to be read only: for side.
    pub(super) readable: Vec<Handle>,
    pub(super) ports: PortCounts,
}

/// One descriptor, or two, and what it is.
pub(super) struct Handle {
    pub(super) passed: Passed,
    pub(super) descriptors: Vec<OwnedFd>,
}

const _: () = assert!(STATE_BYTES_PER_SHARD >= STATE_OFFSET as u64);

/// DSCP EF (RFC 3246) in the place of the type of service.
const EXPEDITED: u32 = 46 << 2;
/// Several seconds of one leg's audio.
const RTP_RECEIVE_BYTES: usize = 64 * 1024;
/// The kernel bounds it by net.core.rmem_max.
const SIP_RECEIVE_BYTES: usize = 4 * 1024 * 1024;
const TCP_BACKLOG: i32 = 1024;
/// Files left for connections however few may be open.
const TCP_CONNECTIONS_MIN: u64 = 128;
/// The kernel ends the rings of a killed engine a little after the engine, and they hold its sockets.
const RELEASE_WAIT: Duration = Duration::from_millis(50);
const RELEASE_TRIES: u32 = 10;
/// Packets thrown away from one port before its next life; its filter lets no further ones in.
const STALE_PACKETS_MAX: usize = 4_096;

impl Sockets {
    pub(super) fn open(plan: &Plan) -> Result<Self, Failure> {
        let limit = raise_open_files();
        let mut handles = Vec::new();
        for listen in &plan.udp {
            check_free(listen.address, Transport::Udp)?;
            for shard in (0..plan.shards).map(ShardId) {
                let socket = sip_socket(listen, Transport::Udp)?;
                handles.push(Handle::one(
                    Passed::SipUdp { shard, interface: listen.interface, address: listen.address },
                    socket.into(),
                ));
            }
        }
        for listen in &plan.tcp {
            check_free(listen.address, Transport::Tcp)?;
            for shard in (0..plan.shards).map(ShardId) {
                let socket = sip_socket(listen, Transport::Tcp)?;
                handles.push(Handle::one(
                    Passed::SipTcp { shard, interface: listen.interface, address: listen.address },
                    socket.into(),
                ));
            }
        }
        let mut readable = Vec::new();
        for shard in (0..plan.shards).map(ShardId) {
            let failed = |error: io::Error| Failure::from_io("cannot allocate state memory", &error);
            let bytes = STATE_BYTES_PER_SHARD + plan.ring_bytes;
            let memory = state_memory(bytes).map_err(failed)?;
            let passed = Passed::State { shard, bytes };
            readable.push(Handle::one(passed, read_only(&memory).map_err(failed)?));
            handles.push(Handle::one(passed, memory));
        }
        handles.push(Handle::one(Passed::Link, link_socket(&plan.run)?));
        let ports = open_rtp(plan, limit, &mut handles)?;
        Ok(Self { handles, readable, ports })
    }

    /// Before another engine gets them: no RTP port has a peer or a packet of the last one's calls. A port that is deaf was
    /// idle, and was drained before it could hear.
    pub(super) fn reset_rtp(&self) {
        for handle in &self.handles {
            if matches!(handle.passed, Passed::RtpPair { .. }) {
                handle.descriptors.iter().for_each(reset_port);
            }
        }
    }

    pub(super) fn state(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.handles
            .iter()
            .filter(|handle| matches!(handle.passed, Passed::State { .. }))
            .filter_map(|handle| handle.descriptors.first().map(AsFd::as_fd))
    }
}

impl Handle {
    fn one(passed: Passed, descriptor: OwnedFd) -> Self {
        Self { passed, descriptors: vec![descriptor] }
    }
}

/// The soft limit of open files becomes the hard one. Returns it.
fn raise_open_files() -> u64 {
    let limit = rustix::process::getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    let _ = rustix::process::setrlimit(Resource::Nofile, raised);
    rustix::process::getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX)
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Transport {
    Udp,
    Tcp,
}

impl Transport {
    fn name(self) -> &'static str {
        if self == Self::Udp { "udp" } else { "tcp" }
    }
}

fn socket(address: IpAddr, transport: Transport) -> io::Result<Socket> {
    let domain = if address.is_ipv4() { Domain::IPV4 } else { Domain::IPV6 };
    let (kind, protocol) = match transport {
        Transport::Udp => (Type::DGRAM, Protocol::UDP),
        Transport::Tcp => (Type::STREAM, Protocol::TCP),
    };
    let socket = Socket::new(domain, kind, Some(protocol))?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    Ok(socket)
}

/// The shards' sockets share their port, which would let another process share it too: so first without sharing.
fn check_free(address: SocketAddr, transport: Transport) -> Result<(), Failure> {
    let check = || {
        let socket = socket(address.ip(), transport)?;
        if transport == Transport::Tcp {
            // Only connections that linger from the last run are ignored by this; a listener is not.
            socket.set_reuse_address(true)?;
        }
        socket.bind(&address.into())?;
        if transport == Transport::Tcp { socket.listen(1) } else { Ok(()) }
    };
    let mut tries = RELEASE_TRIES;
    loop {
        match check() {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse && tries > 0 => {
                tries -= 1;
                std::thread::sleep(RELEASE_WAIT);
            }
            result => return result.map_err(|error| bind_failure(address, transport, &error)),
        }
    }
}

fn bind_failure(address: SocketAddr, transport: Transport, error: &io::Error) -> Failure {
    let name = transport.name();
    match error.kind() {
        io::ErrorKind::AddrInUse => Failure::new(exit::BUSY, format!("{name} {address} is in use by another process")),
        io::ErrorKind::AddrNotAvailable => {
            Failure::new(exit::CONFIG, format!("{name} {address} is not an address of this machine"))
        }
        io::ErrorKind::PermissionDenied => Failure::new(
            exit::FORBIDDEN,
            format!("{name} {address} may not be opened: a port below 1024 needs CAP_NET_BIND_SERVICE"),
        ),
        _ => Failure::from_io(format!("{name} {address}"), error),
    }
}

fn sip_socket(listen: &Listen, transport: Transport) -> Result<Socket, Failure> {
    let open = || {
        let socket = socket(listen.address.ip(), transport)?;
        socket.set_reuse_port(true)?;
        if transport == Transport::Tcp {
            socket.set_reuse_address(true)?;
        } else {
            socket.set_recv_buffer_size(SIP_RECEIVE_BYTES)?;
        }
        socket.set_nonblocking(true)?;
        socket.bind(&listen.address.into())?;
        if transport == Transport::Tcp {
            socket.listen(TCP_BACKLOG)?;
        }
        Ok(socket)
    };
    open().map_err(|error: io::Error| bind_failure(listen.address, transport, &error))
}

/// Nobody can change the size of this memory, so nobody's mapping of it can be cut off. The ring behind the state is memory
/// only as far as it is used.
fn state_memory(bytes: u64) -> io::Result<OwnedFd> {
    let memory = rustix::fs::memfd_create("tipring-state", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
    rustix::fs::ftruncate(&memory, bytes)?;
    rustix::fs::fallocate(&memory, rustix::fs::FallocateFlags::empty(), 0, STATE_BYTES_PER_SHARD)?;
    rustix::fs::fcntl_add_seals(&memory, SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL)?;
    Ok(memory)
}

fn read_only(memory: &OwnedFd) -> io::Result<OwnedFd> {
    use std::os::fd::AsRawFd;
    let path = format!("/proc/self/fd/{}", memory.as_raw_fd());
    Ok(rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?)
}

/// The keeper's umask keeps everybody else out of it.
fn link_socket(run: &Path) -> Result<OwnedFd, Failure> {
    let path = run.join("link.sock");
    let _ = std::fs::remove_file(&path);
    let listener = UnixListener::bind(&path).map_err(|error| Failure::from_io(path.display().to_string(), &error))?;
    let _ = listener.set_nonblocking(true);
    Ok(listener.into())
}

/// Opens what the limit of open files allows of the ranges, each in turn, so that none of two addresses gets all.
fn open_rtp(plan: &Plan, limit: u64, handles: &mut Vec<Handle>) -> Result<PortCounts, Failure> {
    let of_engine = OPEN_FILES_RESERVE + OPEN_FILES_RESERVE_OF_SHARD * u64::from(plan.shards);
    let beside = (limit / 8).max(256).max(of_engine + TCP_CONNECTIONS_MIN);
    let reserve = beside + handles.len() as u64 + plan.udp.len() as u64;
    let pairs_max = usize::try_from(limit.saturating_sub(reserve) / 2).unwrap_or(usize::MAX);
    let pairs: Vec<Vec<(MediaRange, u16)>> = plan.media.iter().map(pairs_of).collect();
    let longest = pairs.iter().map(Vec::len).max().unwrap_or(0);
    let in_turn = (0..longest).flat_map(|index| pairs.iter().filter_map(move |range| range.get(index)).copied());
    let mut opening = Opening { handles, shards: plan.shards, pairs_max, counts: PortCounts::default() };
    let held = opening.open(in_turn)?;
    if !held.is_empty() {
        std::thread::sleep(RELEASE_WAIT * 4);
        opening.counts.held = 0;
        opening.open(held.into_iter())?;
    }
    let counts = opening.counts;
    if counts.open == 0 && counts.held > 0 {
        return Err(Failure::new(exit::BUSY, "media.ports: every port is in use by another process"));
    }
    if counts.open == 0 {
        let line = format!(
            "the limit of {limit} open files leaves none for RTP; remedy: LimitNOFILE=1048576 in a drop-in (systemctl edit tipring), or ulimit -n"
        );
        return Err(Failure::new(exit::FORBIDDEN, line));
    }
    Ok(counts)
}

struct Opening<'a> {
    handles: &'a mut Vec<Handle>,
    shards: u8,
    pairs_max: usize,
    counts: PortCounts,
}

impl Opening<'_> {
    /// Returns the pairs that others hold.
    fn open(&mut self, pairs: impl Iterator<Item = (MediaRange, u16)>) -> Result<Vec<(MediaRange, u16)>, Failure> {
        let mut held = Vec::new();
        for (range, port) in pairs {
            let open = self.counts.open as usize;
            if open >= self.pairs_max {
                self.counts.cut += 1;
                continue;
            }
            let (interface, address) = (range.interface, range.address);
            let error = match rtp_pair(address, port) {
                Ok(descriptors) => {
                    let shard = ShardId(u8::try_from(open % usize::from(self.shards.max(1))).unwrap_or(0));
                    let passed = Passed::RtpPair { shard, interface, address, port };
                    self.handles.push(Handle { passed, descriptors });
                    self.counts.open += 1;
                    continue;
                }
                Err(error) => error,
            };
            match error.raw_os_error().map(Errno::from_raw_os_error) {
                Some(Errno::ADDRINUSE) => {
                    self.counts.held += 1;
                    held.push((range, port));
                }
                Some(Errno::MFILE | Errno::NFILE | Errno::NOMEM | Errno::NOBUFS) => self.counts.cut += 1,
                _ => return Err(bind_failure(SocketAddr::new(address, port), Transport::Udp, &error)),
            }
        }
        Ok(held)
    }
}

fn pairs_of(range: &MediaRange) -> Vec<(MediaRange, u16)> {
    let (first, last) = range.ports;
    (first..last).filter(|port| port % 2 == 0).map(|port| (*range, port)).collect()
}

fn rtp_pair(address: IpAddr, port: u16) -> io::Result<Vec<OwnedFd>> {
    Ok(vec![rtp_socket(address, port)?, rtp_socket(address, port + 1)?])
}

fn rtp_socket(address: IpAddr, port: u16) -> io::Result<OwnedFd> {
    let socket = socket(address, Transport::Udp)?;
    // Before it has a port: no packet comes in between.
    socket.attach_filter(&DROP_ALL)?;
    socket.set_recv_buffer_size(RTP_RECEIVE_BYTES)?;
    if address.is_ipv4() {
        socket.set_tos_v4(EXPEDITED)?;
    } else {
        socket.set_tclass_v6(EXPEDITED)?;
    }
    socket.set_nonblocking(true)?;
    socket.bind(&SocketAddr::new(address, port).into())?;
    Ok(socket.into())
}

/// `ret 0` (BPF_RET | BPF_K): what comes to an idle port is dropped by the kernel, so that scanners cannot fill it.
const DROP_ALL: [SockFilter; 1] = [SockFilter::new(0x06, 0, 0, 0)];

fn reset_port(descriptor: &OwnedFd) {
    if is_deaf(descriptor.as_fd()) {
        return;
    }
    let socket = socket2::SockRef::from(descriptor);
    let _ = socket.attach_filter(&DROP_ALL);
    let _ = rustix::net::connect_unspec(descriptor);
    let mut byte = [0u8; 1];
    for _ in 0..STALE_PACKETS_MAX {
        // Any other error is one of the last peer (ICMP) and is consumed like a packet.
        let flags = RecvFlags::DONTWAIT | RecvFlags::TRUNC;
        if rustix::net::recv(descriptor, &mut byte, flags) == Err(Errno::WOULDBLOCK) {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::UdpSocket;

    use super::*;

    const LOCALHOST: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);

    /// An RTP port as the keeper opens it, and a stranger.
    fn port() -> (UdpSocket, UdpSocket) {
        // With a port of the kernel's choice a disconnect would give it up.
        let free = UdpSocket::bind((LOCALHOST, 0)).unwrap().local_addr().unwrap();
        let port = UdpSocket::from(rtp_socket(LOCALHOST, free.port()).unwrap());
        (port, UdpSocket::bind((LOCALHOST, 0)).unwrap())
    }

    fn receives(port: &UdpSocket) -> bool {
        port.recv(&mut [0; 16]).is_ok()
    }

    #[test]
    fn an_idle_port_collects_nothing() {
        let (port, stranger) = port();
        let send = || stranger.send_to(b"rtp", port.local_addr().unwrap()).unwrap();
        send();
        assert!(!receives(&port) && is_deaf(port.as_fd()));
        socket2::SockRef::from(&port).detach_filter().unwrap();
        assert!(!is_deaf(port.as_fd()));
        assert!(!receives(&port));
        send();
        assert!(receives(&port));
    }

    #[test]
    fn media_is_marked_for_expedited_forwarding() {
        let free = UdpSocket::bind(("::1", 0)).unwrap().local_addr().unwrap();
        let port = rtp_socket(free.ip(), free.port()).unwrap();
        assert_eq!(socket2::SockRef::from(&port).tclass_v6().unwrap(), EXPEDITED);
        let (port, _) = self::port();
        assert_eq!(socket2::SockRef::from(&port).tos_v4().unwrap(), EXPEDITED);
    }

    #[test]
    fn a_port_is_as_new_after_its_engine_died() {
        let (port, peer) = port();
        let address = port.local_addr().unwrap();
        socket2::SockRef::from(&port).detach_filter().unwrap();
        port.connect(peer.local_addr().unwrap()).unwrap();
        for _ in 0..100 {
            peer.send_to(b"rtp", address).unwrap();
        }
        let descriptor = OwnedFd::from(port);
        reset_port(&descriptor);
        let port = UdpSocket::from(descriptor);
        assert_eq!((port.local_addr().unwrap(), port.peer_addr().is_err()), (address, true));
        socket2::SockRef::from(&port).detach_filter().unwrap();
        assert!(!receives(&port));
        let other = UdpSocket::bind((LOCALHOST, 0)).unwrap();
        other.send_to(b"rtp", address).unwrap();
        assert!(receives(&port), "a stranger's packet comes in: there is no peer");
    }

    #[test]
    fn pairs_begin_with_an_even_port() {
        let range = |ports| MediaRange { interface: 0, address: LOCALHOST, ports };
        let check = |ports, expect: &[u16]| {
            let pairs: Vec<u16> = pairs_of(&range(ports)).iter().map(|(_, port)| *port).collect();
            assert_eq!(pairs, expect, "{ports:?}");
        };
        check((20_000, 20_003), &[20_000, 20_002]);
        check((20_001, 20_004), &[20_002]);
        check((65_532, 65_535), &[65_532, 65_534]);
    }
}
