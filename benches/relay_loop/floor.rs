//! The floor: one socket in, one out, recvmmsg and sendmmsg in batches, nothing decided.

use std::net::UdpSocket;
use std::os::fd::AsRawFd;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use crate::Contender;
use crate::LEGS;
use crate::Options;
use crate::RELAY_CPU;
use crate::generator;
use crate::generator::Load;
use crate::measure;
use crate::measure::Outcome;

const BATCH: usize = 64;

pub(crate) fn run(options: &Options, outcomes: &mut Vec<Outcome>) {
    let socket = UdpSocket::bind("127.0.0.1:0").expect("bind");
    socket.set_read_timeout(Some(Duration::from_millis(100))).expect("timeout");
    let address = socket.local_addr().expect("address");
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        std::thread::Builder::new()
            .name("floor".to_owned())
            .spawn_scoped(scope, || {
                measure::pin(RELAY_CPU);
                relay(&socket, &stop);
            })
            .expect("thread");
        let mut load = Load::new(generator::sockets(), &vec![address; LEGS]);
        options.load(Contender::Floor, &mut load, &|| measure::thread_time("self", "floor"), outcomes);
        stop.store(true, Relaxed);
    });
}

fn relay(socket: &UdpSocket, stop: &AtomicBool) {
    let out = UdpSocket::bind("127.0.0.1:0").expect("bind");
    let mut packets = vec![[0u8; 2_048]; BATCH];
    // SAFETY: all-zero addresses are valid.
    let mut addresses: [libc::sockaddr_in; BATCH] = unsafe { std::mem::zeroed() };
    let mut parts = [libc::iovec { iov_base: std::ptr::null_mut(), iov_len: 0 }; BATCH];
    // SAFETY: all-zero headers are valid.
    let mut messages: [libc::mmsghdr; BATCH] = unsafe { std::mem::zeroed() };
    while !stop.load(Relaxed) {
        for index in 0..BATCH {
            parts[index] = libc::iovec { iov_base: packets[index].as_mut_ptr().cast(), iov_len: 2_048 };
            messages[index].msg_hdr.msg_iov = &raw mut parts[index];
            messages[index].msg_hdr.msg_iovlen = 1;
            messages[index].msg_hdr.msg_name = (&raw mut addresses[index]).cast();
            messages[index].msg_hdr.msg_namelen = size_of::<libc::sockaddr_in>() as u32;
        }
        let fd = socket.as_raw_fd();
        // SAFETY: the headers refer to buffers and addresses of ours.
        let count = unsafe {
            libc::recvmmsg(fd, messages.as_mut_ptr(), BATCH as u32, libc::MSG_WAITFORONE, std::ptr::null_mut())
        };
        let Ok(count) = usize::try_from(count) else { continue };
        for index in 0..count {
            parts[index].iov_len = messages[index].msg_len as usize;
        }
        // SAFETY: as above; the addresses are those that were received from.
        unsafe { libc::sendmmsg(out.as_raw_fd(), messages.as_mut_ptr(), count as u32, 0) };
    }
}
