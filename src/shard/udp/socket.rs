//! What is asked of a UDP socket beside sending and receiving: addresses in the kernel's form, filters, drains, drops.
#![allow(unsafe_code, reason = "socket options that no safe crate offers")]

use std::io;
use std::mem::size_of;
use std::net::Ipv4Addr;
use std::net::Ipv6Addr;
use std::net::SocketAddr;
use std::net::SocketAddrV4;
use std::net::SocketAddrV6;
use std::os::fd::AsFd;
use std::os::fd::AsRawFd;
use std::os::fd::BorrowedFd;

/// Room for the longer of the two address forms.
pub(super) const ADDRESS_BYTES: usize = size_of::<libc::sockaddr_in6>();
const ADDRESS_V4_BYTES: usize = size_of::<libc::sockaddr_in>();

/// An address as the kernel reads it.
#[derive(Clone, Copy)]
#[repr(C, align(8))]
pub(super) struct RawAddress {
    bytes: [u8; ADDRESS_BYTES],
    pub(super) len: u32,
}

impl RawAddress {
    pub(super) const EMPTY: Self = Self { bytes: [0; ADDRESS_BYTES], len: 0 };

    pub(super) fn new(address: SocketAddr) -> Self {
        let mut raw = Self::EMPTY;
        raw.bytes[2..4].copy_from_slice(&address.port().to_be_bytes());
        match address {
            SocketAddr::V4(v4) => {
                raw.bytes[..2].copy_from_slice(&(libc::AF_INET as u16).to_ne_bytes());
                raw.bytes[4..8].copy_from_slice(&v4.ip().octets());
                raw.len = ADDRESS_V4_BYTES as u32;
            }
            SocketAddr::V6(v6) => {
                raw.bytes[..2].copy_from_slice(&(libc::AF_INET6 as u16).to_ne_bytes());
                raw.bytes[4..8].copy_from_slice(&v6.flowinfo().to_ne_bytes());
                raw.bytes[8..24].copy_from_slice(&v6.ip().octets());
                raw.bytes[24..28].copy_from_slice(&v6.scope_id().to_ne_bytes());
                raw.len = ADDRESS_BYTES as u32;
            }
        }
        raw
    }

    pub(super) fn as_ptr(&self) -> *const libc::sockaddr {
        self.bytes.as_ptr().cast()
    }

    pub(super) fn as_mut_ptr(&mut self) -> *mut libc::sockaddr {
        self.bytes.as_mut_ptr().cast()
    }

    pub(super) fn parse(&self) -> Option<SocketAddr> {
        parse_address(&self.bytes)
    }
}

/// Reads an address as the kernel wrote it; bytes behind it do not matter.
pub(super) fn parse_address(bytes: &[u8]) -> Option<SocketAddr> {
    let family = u16::from_ne_bytes(*bytes.first_chunk()?);
    let port = u16::from_be_bytes(*bytes.get(2..)?.first_chunk()?);
    match i32::from(family) {
        libc::AF_INET => {
            let ip = Ipv4Addr::from(*bytes.get(4..)?.first_chunk::<4>()?);
            Some(SocketAddr::V4(SocketAddrV4::new(ip, port)))
        }
        libc::AF_INET6 => {
            let flow = u32::from_ne_bytes(*bytes.get(4..)?.first_chunk()?);
            let ip = Ipv6Addr::from(*bytes.get(8..)?.first_chunk::<16>()?);
            let scope = u32::from_ne_bytes(*bytes.get(24..)?.first_chunk()?);
            Some(SocketAddr::V6(SocketAddrV6::new(ip, port, flow, scope)))
        }
        _ => None,
    }
}

/// Makes a socket deaf: the kernel drops what comes before it is queued.
pub fn deafen(socket: BorrowedFd<'_>) -> io::Result<()> {
    // One instruction: `ret 0`, accept no byte.
    let mut program = [libc::sock_filter { code: (libc::BPF_RET | libc::BPF_K) as u16, jt: 0, jf: 0, k: 0 }];
    let filter = libc::sock_fprog { len: 1, filter: program.as_mut_ptr() };
    set_option(socket, libc::SOL_SOCKET, libc::SO_ATTACH_FILTER, &filter)
}

/// Ends [`deafen`]; a socket that heard already goes on hearing.
pub fn undeafen(socket: BorrowedFd<'_>) -> io::Result<()> {
    match set_option(socket, libc::SOL_SOCKET, libc::SO_DETACH_FILTER, &0i32) {
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(()),
        other => other,
    }
}

/// Whether [`deafen`] is in force. Costs far less than to deafen again, which compiles the filter.
pub fn is_deaf(socket: BorrowedFd<'_>) -> bool {
    // With room for no instruction the kernel writes none and returns how many there are (SO_GET_FILTER is this name too).
    let mut instructions: libc::socklen_t = 0;
    // SAFETY: the length says that nothing may be written.
    let result = unsafe {
        let name = libc::SO_ATTACH_FILTER;
        libc::getsockopt(socket.as_raw_fd(), libc::SOL_SOCKET, name, std::ptr::null_mut(), &raw mut instructions)
    };
    result == 0 && instructions > 0
}

/// Throws away what is queued, at most `datagrams_max`; says how many.
pub fn drain(socket: BorrowedFd<'_>, datagrams_max: u32) -> u32 {
    let mut drained = 0;
    let mut byte = 0u8;
    for _ in 0..datagrams_max {
        // SAFETY: one byte of ours to write to; a longer datagram is cut, which is what is wanted.
        let result = unsafe { libc::recv(socket.as_raw_fd(), (&raw mut byte).cast(), 1, libc::MSG_DONTWAIT) };
        match result {
            0.. => drained += 1,
            // A pending ICMP error is reported once, in the place of a datagram.
            _ if io::Error::last_os_error().kind() == io::ErrorKind::WouldBlock => break,
            _ => {}
        }
    }
    drained
}

/// Whether no datagram waits; one of length zero counts as none.
pub(super) fn is_empty(socket: BorrowedFd<'_>) -> bool {
    rustix::io::ioctl_fionread(socket) == Ok(0)
}

/// Sets the peer of a socket, or none.
pub(super) fn connect(socket: BorrowedFd<'_>, peer: Option<SocketAddr>) -> io::Result<()> {
    // The empty address has the family AF_UNSPEC, which dissolves the association; the bound port stays.
    let address = peer.map_or(RawAddress { len: ADDRESS_V4_BYTES as u32, ..RawAddress::EMPTY }, RawAddress::new);
    // SAFETY: the address is initialised for `len` bytes.
    let result = unsafe { libc::connect(socket.as_raw_fd(), address.as_ptr(), address.len) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Datagrams that the kernel dropped at this socket since it was made.
pub(super) fn dropped(socket: BorrowedFd<'_>) -> u32 {
    const SK_MEMINFO_DROPS: usize = 8;
    let mut figures = [0u32; SK_MEMINFO_DROPS + 1];
    let mut len = size_of_val(&figures) as libc::socklen_t;
    // SAFETY: `figures` has room for `len` bytes.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_MEMINFO,
            figures.as_mut_ptr().cast(),
            &raw mut len,
        )
    };
    if result == 0 { figures[SK_MEMINFO_DROPS] } else { 0 }
}

/// Marks what the socket sends as voice: DSCP EF (RFC 3246), in the upper six bits of the traffic class.
pub fn mark_expedited(socket: BorrowedFd<'_>, ipv6: bool) -> io::Result<()> {
    const EXPEDITED: i32 = 46 << 2;
    if ipv6 {
        set_option(socket, libc::IPPROTO_IPV6, libc::IPV6_TCLASS, &EXPEDITED)
    } else {
        set_option(socket, libc::IPPROTO_IP, libc::IP_TOS, &EXPEDITED)
    }
}

fn set_option<T>(socket: BorrowedFd<'_>, level: i32, name: i32, value: &T) -> io::Result<()> {
    let len = size_of::<T>() as libc::socklen_t;
    // SAFETY: `value` is `len` bytes long and only read.
    let result =
        unsafe { libc::setsockopt(socket.as_fd().as_raw_fd(), level, name, std::ptr::from_ref(value).cast(), len) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
