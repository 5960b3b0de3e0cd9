//! One end of the socket between keeper and child: whole frames, some with descriptors (`SCM_RIGHTS`).
//!
//! What the frames say is in `wire::control`.

use std::io;
use std::io::IoSlice;
use std::io::IoSliceMut;
use std::mem::MaybeUninit;
use std::os::fd::AsFd;
use std::os::fd::BorrowedFd;
use std::os::fd::OwnedFd;

use rustix::net::AddressFamily;
use rustix::net::RecvAncillaryBuffer;
use rustix::net::RecvAncillaryMessage;
use rustix::net::RecvFlags;
use rustix::net::ReturnFlags;
use rustix::net::SendAncillaryBuffer;
use rustix::net::SendAncillaryMessage;
use rustix::net::SendFlags;
use rustix::net::SocketFlags;
use rustix::net::SocketType;
use rustix::net::recvmsg;
use rustix::net::sendmsg;
use rustix::net::socketpair;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::base::limit::CONTROL_FRAME_BYTES_MAX;
use crate::wire::control;

/// The kernel passes no more descriptors with one message (SCM_MAX_FD).
pub const DESCRIPTORS_MAX: usize = 253;

#[derive(Debug)]
pub struct Channel {
    socket: OwnedFd,
}

/// Whether a call may wait for the other end.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Wait {
    Yes,
    No,
}

impl Channel {
    pub fn pair() -> io::Result<(Self, Self)> {
        let (ours, theirs) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
        Ok((Self { socket: ours }, Self { socket: theirs }))
    }

    /// A child finds its end as its standard input.
    pub fn from_stdin() -> io::Result<Self> {
        Ok(Self { socket: io::stdin().as_fd().try_clone_to_owned()? })
    }

    pub fn into_socket(self) -> OwnedFd {
        self.socket
    }

    pub fn try_clone(&self) -> io::Result<Self> {
        Ok(Self { socket: self.socket.try_clone()? })
    }

    pub fn send<T: Serialize>(&self, frame: &T) -> io::Result<()> {
        let bytes = control::emit(frame).map_err(io::Error::other)?;
        self.send_bytes(&bytes, &[], Wait::Yes)
    }

    pub fn send_bytes(&self, bytes: &[u8], descriptors: &[BorrowedFd<'_>], wait: Wait) -> io::Result<()> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS_MAX))];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        if !descriptors.is_empty() && !ancillary.push(SendAncillaryMessage::ScmRights(descriptors)) {
            return Err(io::Error::other("more descriptors than one message holds"));
        }
        let flags = if wait == Wait::No { SendFlags::NOSIGNAL | SendFlags::DONTWAIT } else { SendFlags::NOSIGNAL };
        rustix::io::retry_on_intr(|| sendmsg(&self.socket, &[IoSlice::new(bytes)], &mut ancillary, flags))?;
        Ok(())
    }

    /// The next frame and the descriptors that came with it; `None` when the other end is gone.
    pub fn receive<T: DeserializeOwned>(&self, wait: Wait) -> io::Result<Option<(T, Vec<OwnedFd>)>> {
        let mut bytes = vec![0; CONTROL_FRAME_BYTES_MAX];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS_MAX))];
        let mut ancillary = RecvAncillaryBuffer::new(&mut space);
        let dont_wait = if wait == Wait::No { RecvFlags::DONTWAIT } else { RecvFlags::empty() };
        let received = rustix::io::retry_on_intr(|| {
            let flags = RecvFlags::CMSG_CLOEXEC | dont_wait;
            recvmsg(&self.socket, &mut [IoSliceMut::new(&mut bytes)], &mut ancillary, flags)
        });
        let received = match received {
            Ok(received) => received,
            Err(rustix::io::Errno::CONNRESET) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        let mut descriptors = Vec::new();
        for message in ancillary.drain() {
            if let RecvAncillaryMessage::ScmRights(rights) = message {
                descriptors.extend(rights);
            }
        }
        if received.bytes == 0 {
            return Ok(None);
        }
        if received.flags.intersects(ReturnFlags::TRUNC | ReturnFlags::CTRUNC) {
            return Err(io::Error::other(
                "a frame was cut: the limit of open files is too low, or the frame too large",
            ));
        }
        let bytes = bytes.get(..received.bytes).unwrap_or_default();
        Ok(Some((control::parse(bytes).map_err(io::Error::other)?, descriptors)))
    }
}

impl AsFd for Channel {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}
