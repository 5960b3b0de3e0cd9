//! Datagrams in memory: what a test puts in comes out of `next`, what is sent lies in a queue. No socket, no clock.

use std::collections::BTreeMap;
use std::collections::VecDeque;
use std::net::SocketAddr;
use std::ops::Range;
use std::os::fd::BorrowedFd;
use std::os::fd::OwnedFd;

use crate::shard::udp::Buffers;
use crate::shard::udp::Datagram;
use crate::shard::udp::DatagramIo;
use crate::shard::udp::Losses;
use crate::shard::udp::Slot;
use crate::shard::udp::SlotKind;
use crate::shard::udp::Tally;
use crate::shard::udp::UdpError;
use crate::shard::udp::Wait;

#[derive(Clone, Copy, Debug)]
struct Place {
    kind: SlotKind,
    open: bool,
    peer: Option<SocketAddr>,
}

/// What left a socket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sent {
    pub slot: Slot,
    pub to: SocketAddr,
    pub bytes: Vec<u8>,
}

#[derive(Debug, Default)]
pub struct Sim {
    places: BTreeMap<Slot, Place>,
    waiting: VecDeque<(Slot, SocketAddr, Vec<u8>)>,
    /// Buffers that are lent out as datagrams.
    lent: BTreeMap<u32, Vec<u8>>,
    buffer_next: u32,
    queued: Vec<Sent>,
    ready: VecDeque<u32>,
    /// Sent and submitted; the test takes it.
    pub sent: VecDeque<Sent>,
    tally: Tally,
    /// What the sockets are to have lost.
    pub losses: BTreeMap<Slot, Losses>,
}

impl Sim {
    pub fn add_slot(&mut self, slot: Slot, kind: SlotKind) {
        self.places.insert(slot, Place { kind, open: false, peer: None });
    }

    /// A datagram arrives from outside; lost if nobody listens.
    pub fn deliver(&mut self, slot: Slot, source: SocketAddr, bytes: &[u8]) {
        let heard =
            self.places.get(&slot).is_some_and(|place| place.open && place.peer.is_none_or(|peer| peer == source));
        if heard {
            self.waiting.push_back((slot, source, bytes.to_vec()));
        }
    }

    pub fn is_open(&self, slot: Slot) -> bool {
        self.places.get(&slot).is_some_and(|place| place.open)
    }

    /// Datagrams that were neither relayed nor released.
    pub fn lent(&self) -> usize {
        self.lent.len()
    }

    fn place(&mut self, slot: Slot) -> Result<&mut Place, UdpError> {
        self.places.get_mut(&slot).ok_or(UdpError::NoSocket(slot))
    }
}

impl DatagramIo for Sim {
    /// The socket is closed: only its place counts.
    fn add(&mut self, slot: Slot, _socket: OwnedFd, kind: SlotKind) -> Result<(), UdpError> {
        self.add_slot(slot, kind);
        Ok(())
    }

    fn arm(&mut self, slot: Slot) -> Result<(), UdpError> {
        self.place(slot)?.open = true;
        Ok(())
    }

    fn disarm(&mut self, slot: Slot) {
        if let Ok(place) = self.place(slot) {
            place.open = false;
            place.peer = None;
        }
        self.waiting.retain(|(waiting, ..)| *waiting != slot);
    }

    fn connect(&mut self, slot: Slot, peer: Option<SocketAddr>) -> Result<(), UdpError> {
        self.place(slot)?.peer = peer;
        Ok(())
    }

    fn next(&mut self) -> Option<Datagram> {
        let (slot, source, bytes) = self.waiting.pop_front()?;
        let kind = self.places.get(&slot)?.kind;
        let buffer = self.buffer_next;
        self.buffer_next = self.buffer_next.wrapping_add(1);
        let len = bytes.len() as u32;
        self.lent.insert(buffer, bytes);
        self.tally.received += 1;
        Some(Datagram { slot, kind, source, buffer, start: 0, len })
    }

    fn bytes(&mut self, datagram: &Datagram) -> &mut [u8] {
        self.lent.get_mut(&datagram.buffer).map_or(&mut [], Vec::as_mut_slice)
    }

    fn relay(&mut self, datagram: Datagram, part: Range<usize>, slot: Slot, to: SocketAddr) {
        let bytes = self.lent.remove(&datagram.buffer).unwrap_or_default();
        if let Some(bytes) = bytes.get(part) {
            self.send(slot, to, bytes);
        }
    }

    fn release(&mut self, datagram: Datagram) {
        self.lent.remove(&datagram.buffer);
    }

    fn send(&mut self, slot: Slot, to: SocketAddr, bytes: &[u8]) {
        if self.places.contains_key(&slot) {
            self.tally.sent += 1;
            self.queued.push(Sent { slot, to, bytes: bytes.to_vec() });
        } else {
            self.tally.send_other += 1;
        }
    }

    fn watch(&mut self, token: u32, _stream: BorrowedFd<'_>) -> Result<(), UdpError> {
        self.mark_ready(token);
        Ok(())
    }

    fn unwatch(&mut self, token: u32) {
        self.ready.retain(|ready| *ready != token);
    }

    fn next_ready(&mut self) -> Option<u32> {
        self.ready.pop_front()
    }

    fn mark_ready(&mut self, token: u32) {
        self.ready.push_back(token);
    }

    fn submit_and_wait(&mut self, _wait: Wait) {
        self.sent.extend(self.queued.drain(..));
    }

    fn prepare_to_sleep(&mut self) -> bool {
        self.waiting.is_empty()
    }

    fn wake_up(&mut self) {}

    fn can_sleep(&self) -> bool {
        true
    }

    fn losses(&self, slot: Slot) -> Losses {
        self.losses.get(&slot).copied().unwrap_or_default()
    }

    fn audit(&mut self) {}

    fn take_tally(&mut self) -> Tally {
        std::mem::take(&mut self.tally)
    }

    fn buffers(&self) -> Buffers {
        Buffers::default()
    }
}
