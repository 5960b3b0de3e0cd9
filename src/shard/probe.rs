//! What the host must allow, tried out rather than guessed from a version: a forbidden thing is one clear sentence with its remedy.

use std::io;
use std::net::Ipv4Addr;
use std::net::SocketAddr;
use std::net::UdpSocket;
use std::os::fd::AsFd;
use std::time::Duration;

use io_uring::IoUring;
use rustix::event::EventfdFlags;
use rustix::event::eventfd;
use rustix::process::Resource;
use rustix::process::getrlimit;

use crate::shard::clock;
use crate::shard::run::Backend;
use crate::shard::udp::DatagramIo;
use crate::shard::udp::SlotKind;
use crate::shard::udp::UdpError;
use crate::shard::udp::Wait;
use crate::shard::udp::ring::Ring;
use crate::shard::udp::ring::RingConfig;
use crate::shard::udp::socket::deafen;

/// glommio refuses to start below this.
const MEMLOCK_MIN: u64 = 512 * 1024;
const PATIENCE: Duration = Duration::from_secs(2);

/// The system forbids what a shard needs; there is no way around it.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum HostFault {
    #[error("io_uring is switched off: kernel.io_uring_disabled is {0}; remedy: sysctl kernel.io_uring_disabled=0")]
    Disabled(u8),
    #[error(
        "io_uring is not permitted though kernel.io_uring_disabled is 0; remedy: a container or unit whose seccomp filter allows \
         io_uring_setup, io_uring_enter and io_uring_register"
    )]
    Filtered,
    #[error("the kernel has no io_uring; remedy: Linux 6.12 or later with CONFIG_IO_URING")]
    Absent,
    #[error(
        "the limit of locked memory is {0} bytes, {MEMLOCK_MIN} are needed; remedy: LimitMEMLOCK=infinity in a drop-in (systemctl edit tipring), or ulimit -l"
    )]
    Memlock(u64),
    #[error("io_uring cannot be set up: {0}; remedy: more memory or a higher limit of open files")]
    Setup(String),
}

/// Says what carries datagrams here. With [`Backend::Plain`] comes the reason, for one line of warning.
pub fn backend() -> Result<(Backend, Option<UdpError>), HostFault> {
    let memlock = getrlimit(Resource::Memlock).current.unwrap_or(u64::MAX);
    if memlock < MEMLOCK_MIN {
        return Err(HostFault::Memlock(memlock));
    }
    if let Err(error) = IoUring::new(8) {
        return Err(fault_of(&error, disabled()));
    }
    match self_test() {
        Ok(()) => Ok((Backend::Ring, None)),
        Err(error) => Ok((Backend::Plain, Some(error))),
    }
}

/// Whether this process could still make a ring.
#[cfg(debug_assertions)]
pub fn another_ring() -> io::Result<()> {
    IoUring::new(8).map(drop)
}

fn disabled() -> Option<u8> {
    std::fs::read_to_string("/proc/sys/kernel/io_uring_disabled").ok()?.trim().parse().ok()
}

fn fault_of(error: &io::Error, disabled: Option<u8>) -> HostFault {
    match (error.raw_os_error(), disabled) {
        (Some(libc::EPERM | libc::EACCES), Some(level)) if level > 0 => HostFault::Disabled(level),
        (Some(libc::EPERM | libc::EACCES), _) => HostFault::Filtered,
        (Some(libc::ENOSYS), _) => HostFault::Absent,
        _ => HostFault::Setup(error.to_string()),
    }
}

/// One datagram through a small ring and back, with everything that a shard uses: filter, multishot receive, connect, send.
fn self_test() -> Result<(), UdpError> {
    let config = RingConfig {
        slots_max: 4,
        sq_entries: 16,
        cq_entries: 64,
        rtp_buffers: 8,
        rtp_buffers_hot: 8,
        sip_buffers: 2,
        sip_buffers_hot: 2,
        arena_bytes: 4_096,
    };
    let os = |what| move |error: io::Error| UdpError::Os(what, error);
    let wake = eventfd(0, EventfdFlags::CLOEXEC).map_err(|e| UdpError::Os("eventfd", e.into()))?;
    let mut ring = Ring::new(&config, wake)?;
    let local = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let peer = UdpSocket::bind(local).map_err(os("bind"))?;
    let socket = UdpSocket::bind(local).map_err(os("bind"))?;
    let address = socket.local_addr().map_err(os("bind"))?;
    let peer_address = peer.local_addr().map_err(os("bind"))?;
    socket.set_nonblocking(true).map_err(os("bind"))?;
    deafen(socket.as_fd()).map_err(os("attach filter"))?;
    ring.add(0, socket.into(), SlotKind::Rtp)?;
    ring.arm(0)?;
    ring.connect(0, Some(peer_address))?;
    peer.send_to(b"ring", address).map_err(os("send"))?;
    let until = clock::boottime() + PATIENCE;
    while clock::boottime() < until {
        ring.submit_and_wait(Wait { completions_min: 1, until });
        if let Some(datagram) = ring.next() {
            let len = ring.bytes(&datagram).len();
            ring.relay(datagram, 0..len, 0, peer_address);
            ring.submit_and_wait(Wait { completions_min: 0, until });
            break;
        }
    }
    let mut bytes = [0; 8];
    peer.set_nonblocking(true).map_err(os("receive"))?;
    match peer.recv(&mut bytes) {
        Ok(4) if bytes.starts_with(b"ring") => Ok(()),
        Ok(_) => Err(UdpError::Os("self-test", io::ErrorKind::InvalidData.into())),
        Err(error) => Err(UdpError::Os("self-test", error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_host_has_the_ring() {
        assert!(matches!(backend(), Ok((Backend::Ring, None))));
    }

    #[test]
    fn every_fault_names_its_remedy() {
        let check = |errno, disabled, expected: &HostFault| {
            let fault = fault_of(&io::Error::from_raw_os_error(errno), disabled);
            assert_eq!(&fault, expected);
            let text = fault.to_string();
            assert!(text.contains("remedy: ") && !text.contains('\n'), "{text}");
        };
        check(libc::EPERM, Some(2), &HostFault::Disabled(2));
        check(libc::EPERM, Some(0), &HostFault::Filtered);
        check(libc::EACCES, None, &HostFault::Filtered);
        check(libc::ENOSYS, None, &HostFault::Absent);
        check(libc::ENOMEM, Some(0), &HostFault::Setup(io::Error::from_raw_os_error(libc::ENOMEM).to_string()));
        assert!(HostFault::Memlock(4096).to_string().contains("remedy: "));
    }
}
