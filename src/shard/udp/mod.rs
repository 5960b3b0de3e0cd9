//! Datagrams of a shard, behind one trait: [`ring`] (io_uring), [`plain`] (recvmmsg, sendmmsg, epoll) and [`sim`] (memory).
//!
//! Sockets are made and bound by the keeper and come as descriptors with a slot number; nothing is bound here. A received
//! datagram stays in the buffer that the kernel filled until it is [released](DatagramIo::release) or
//! [relayed](DatagramIo::relay): an RTP packet is never copied. Bytes of ours are copied once, by [`DatagramIo::send`].
//! TCP streams are not carried, but watched: the thread must not wait in two places.

mod buffers;
pub mod plain;
pub mod ring;
pub mod sim;
pub mod socket;

#[cfg(test)]
mod tests;

use std::net::SocketAddr;
use std::ops::Range;
use std::os::fd::BorrowedFd;
use std::os::fd::OwnedFd;

use crate::base::time::Instant;

/// A socket's place in its shard, from 0; the same for the keeper, the shard and its machine.
pub type Slot = u32;

/// What comes to a socket; it decides buffers, filter and who handles the bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SlotKind {
    /// RTP or RTCP: small, relayed in place; deaf while no call uses it.
    Rtp,
    /// SIP: up to the largest datagram there is (RFC 3261 §18.1.1).
    Sip,
}

/// A received datagram in a buffer of the backend's. It must be given back by `relay` or `release`.
#[derive(Debug)]
#[must_use = "a datagram that is not given back loses its buffer"]
pub struct Datagram {
    pub slot: Slot,
    pub kind: SlotKind,
    pub source: SocketAddr,
    buffer: u32,
    start: u32,
    len: u32,
}

/// How long [`DatagramIo::submit_and_wait`] may block.
#[derive(Clone, Copy, Debug)]
pub struct Wait {
    /// Returns when so many completions are there; 0 does not wait.
    pub completions_min: u32,
    /// Returns at this time in any case.
    pub until: Instant,
}

/// What went wrong with a socket or with the backend as a whole.
#[derive(Debug, thiserror::Error)]
pub enum UdpError {
    /// The number is not below the maximum given at start, or in use.
    #[error("slot {0} is out of range or taken")]
    Slot(Slot),
    /// No socket was added at this slot.
    #[error("slot {0} has no socket")]
    NoSocket(Slot),
    /// The kernel refused; `.0` says what was asked.
    #[error("{0}: {1}")]
    Os(&'static str, std::io::Error),
}

/// Events since the last [`DatagramIo::take_tally`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    pub received: u64,
    pub sent: u64,
    pub truncated: u64,
    pub stale: u64,
    pub drained: u64,
    pub bad_address: u64,
    pub kernel_drops: u64,
    pub send_again: u64,
    pub send_refused: u64,
    pub send_other: u64,
    pub send_too_long: u64,
    pub rearm: Rearms,
    pub unarmed_found: u64,
    pub cancel_again: u64,
    pub cq_overflow: u64,
    pub sq_full: u64,
    pub enter_errors: u64,
    pub enters: u64,
}

/// Receives that ended, by cause; each was armed again unless its slot was closed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rearms {
    pub no_buffers: u64,
    pub zero_length: u64,
    pub icmp: u64,
    pub cancelled: u64,
    pub ended: u64,
    pub other: u64,
}

/// Buffers to receive into; where all sockets share them, they are those of `rtp`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Buffers {
    pub rtp: Pool,
    pub sip: Pool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pool {
    pub circulating: u16,
    /// Not needed yet.
    pub reserve: u16,
}

/// Datagrams that reached a socket and nobody read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Losses {
    /// The kernel's count, which wraps: of a full queue, and of all that came while the socket was deaf.
    pub overrun: u32,
    /// Longer than a buffer.
    pub too_long: u32,
}

/// One shard's datagrams. Every call is made by the shard's own thread.
pub trait DatagramIo {
    /// Takes a non-blocking socket, bound to an explicit port: one that the kernel chose is lost when the socket is
    /// disconnected. It receives nothing until armed.
    fn add(&mut self, slot: Slot, socket: OwnedFd, kind: SlotKind) -> Result<(), UdpError>;

    /// Begins to receive. What an RTP socket received before is thrown away: it was for nobody, or for the last call.
    fn arm(&mut self, slot: Slot) -> Result<(), UdpError>;

    /// Stops to receive; an RTP socket turns deaf and forgets its peer. No datagram of before comes out afterwards.
    fn disarm(&mut self, slot: Slot);

    /// Binds the socket to one peer (cheaper, and the kernel drops strangers), or to none. Others are let in again only when the
    /// peer's last datagrams have been taken: within a turn or two.
    fn connect(&mut self, slot: Slot, peer: Option<SocketAddr>) -> Result<(), UdpError>;

    /// The next datagram that is already here.
    fn next(&mut self) -> Option<Datagram>;

    fn bytes(&mut self, datagram: &Datagram) -> &mut [u8];

    /// Sends `part` of the datagram from its own buffer.
    fn relay(&mut self, datagram: Datagram, part: Range<usize>, slot: Slot, to: SocketAddr);

    fn release(&mut self, datagram: Datagram);

    /// Sends a copy of `bytes`.
    fn send(&mut self, slot: Slot, to: SocketAddr, bytes: &[u8]);

    /// Reports the token whenever the stream may be read, written or accepted from, until it is unwatched: by changes, so read
    /// until nothing is left.
    fn watch(&mut self, token: u32, stream: BorrowedFd<'_>) -> Result<(), UdpError>;

    /// To be called before the stream is closed.
    fn unwatch(&mut self, token: u32);

    /// The next watched stream at which something happened.
    fn next_ready(&mut self) -> Option<u32>;

    /// Reports the token once more.
    fn mark_ready(&mut self, token: u32);

    /// Gives everything queued to the kernel, and waits for datagrams.
    fn submit_and_wait(&mut self, wait: Wait);

    /// Makes the wake descriptor fire for the next datagram; false if there is work already.
    fn prepare_to_sleep(&mut self) -> bool;

    /// Ends what [`DatagramIo::prepare_to_sleep`] began.
    fn wake_up(&mut self);

    /// Whether a sleeping shard is woken through its wake descriptor; else it must keep calling `submit_and_wait`.
    fn can_sleep(&self) -> bool;

    /// What was lost at the socket since it was added: only differences mean something.
    fn losses(&self, slot: Slot) -> Losses;

    /// Looks after a part of the sockets: every open one must be armed, and the kernel's drops are counted.
    /// Called 16 times, it has seen them all.
    fn audit(&mut self);

    fn take_tally(&mut self) -> Tally;

    fn buffers(&self) -> Buffers;
}
