//! Datagrams by recvmmsg, sendmmsg and epoll: the measure that the ring is held against, and the way out where it is forbidden
//! or broken. A shard on it does not sleep deeply: it wakes some times a second, see [`DatagramIo::can_sleep`].
#![allow(unsafe_code, reason = "recvmmsg and sendmmsg")]

use std::collections::BTreeMap;
use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::ops::Range;
use std::os::fd::AsFd;
use std::os::fd::AsRawFd;
use std::os::fd::BorrowedFd;
use std::os::fd::OwnedFd;
use std::os::fd::RawFd;

use rustix::event::Timespec;
use rustix::event::epoll;

use crate::shard::clock;
use crate::shard::udp::Buffers;
use crate::shard::udp::Datagram;
use crate::shard::udp::DatagramIo;
use crate::shard::udp::Losses;
use crate::shard::udp::Pool;
use crate::shard::udp::Slot;
use crate::shard::udp::SlotKind;
use crate::shard::udp::Tally;
use crate::shard::udp::UdpError;
use crate::shard::udp::Wait;
use crate::shard::udp::socket;
use crate::shard::udp::socket::ADDRESS_BYTES;
use crate::shard::udp::socket::RawAddress;

/// Room for the largest datagram (RFC 3261 §18.1.1). Untouched pages cost nothing.
const BUFFER_BYTES: usize = 64 * 1024;
/// Datagrams taken from one socket at a time.
const BATCH: usize = 16;
/// Datagrams between two submits.
const BUFFERS: usize = 1_024;
const EVENTS: usize = 256;
const AUDIT_PARTS: usize = 16;
const DRAIN_MAX: u32 = 4_096;
const WAKE: u64 = u64::MAX;
/// Marks the tokens of watched streams.
const STREAM: u64 = 1 << 32;

struct Place {
    socket: OwnedFd,
    kind: SlotKind,
    open: bool,
    peer: Option<SocketAddr>,
    kernel_drops: u32,
    too_long: u32,
}

impl Place {
    /// What the kernel dropped since this was last asked.
    fn take_drops(&mut self) -> u64 {
        let dropped = socket::dropped(self.socket.as_fd());
        u64::from(dropped.wrapping_sub(std::mem::replace(&mut self.kernel_drops, dropped)))
    }
}

/// Bytes to send: in a receive buffer or in the arena.
struct Send {
    slot: Slot,
    to: Option<RawAddress>,
    buffer: Option<u32>,
    start: usize,
    len: usize,
}

pub struct Plain {
    epoll: OwnedFd,
    wake: OwnedFd,
    places: Vec<Option<Place>>,
    /// Sockets that had something when last looked at.
    ready: Vec<Slot>,
    watched: BTreeMap<u32, RawFd>,
    streams: VecDeque<u32>,
    events: Vec<epoll::Event>,
    received: Vec<Datagram>,
    buffers: Box<[u8]>,
    free: Vec<u32>,
    sends: Vec<Send>,
    arena: Vec<u8>,
    audit_part: usize,
    tally: Tally,
}

impl Plain {
    /// `wake` is an eventfd; a write to it ends a wait.
    pub fn new(slots_max: u32, wake: OwnedFd) -> Result<Self, UdpError> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC).map_err(|e| UdpError::Os("epoll", e.into()))?;
        epoll::add(&epoll, &wake, epoll::EventData::new_u64(WAKE), epoll::EventFlags::IN)
            .map_err(|e| UdpError::Os("epoll", e.into()))?;
        let mut places = Vec::new();
        places.resize_with(slots_max as usize, || None);
        Ok(Self {
            epoll,
            wake,
            places,
            ready: Vec::new(),
            watched: BTreeMap::new(),
            streams: VecDeque::new(),
            events: Vec::with_capacity(EVENTS),
            received: Vec::with_capacity(BATCH),
            buffers: vec![0; BUFFERS * BUFFER_BYTES].into(),
            free: (0..BUFFERS as u32).rev().collect(),
            sends: Vec::with_capacity(BUFFERS),
            arena: Vec::new(),
            audit_part: 0,
            tally: Tally::default(),
        })
    }

    fn place(&mut self, slot: Slot) -> Result<&mut Place, UdpError> {
        self.places.get_mut(slot as usize).and_then(Option::as_mut).ok_or(UdpError::NoSocket(slot))
    }

    /// One recvmmsg on the next ready socket.
    fn receive(&mut self) {
        let Some(slot) = self.ready.pop() else { return };
        let Some(place) = self.places.get(slot as usize).and_then(Option::as_ref).filter(|place| place.open) else {
            return;
        };
        let kind = place.kind;
        let wanted = self.free.len().min(BATCH);
        let mut addresses = [RawAddress::EMPTY; BATCH];
        let mut parts = [libc::iovec { iov_base: std::ptr::null_mut(), iov_len: BUFFER_BYTES }; BATCH];
        let mut messages = [empty_message(); BATCH];
        let first = self.free.len() - wanted;
        let start = self.buffers.as_mut_ptr();
        for (index, buffer) in self.free[first..].iter().rev().enumerate() {
            parts[index].iov_base = start.wrapping_add(*buffer as usize * BUFFER_BYTES).cast();
            messages[index].msg_hdr.msg_iov = &raw mut parts[index];
            messages[index].msg_hdr.msg_iovlen = 1;
            messages[index].msg_hdr.msg_name = addresses[index].as_mut_ptr().cast();
            messages[index].msg_hdr.msg_namelen = ADDRESS_BYTES as u32;
        }
        self.tally.enters += 1;
        let fd = place.socket.as_raw_fd();
        // SAFETY: every header refers to an address and to a free buffer, each used once.
        let count = unsafe {
            libc::recvmmsg(fd, messages.as_mut_ptr(), wanted as u32, libc::MSG_DONTWAIT, std::ptr::null_mut())
        };
        let Ok(count) = usize::try_from(count) else { return };
        if count == wanted {
            self.ready.push(slot);
        }
        for index in 0..count {
            let Some(buffer) = self.free.pop() else { break };
            let Some(source) = addresses[index].parse() else {
                self.tally.bad_address += 1;
                self.free.push(buffer);
                continue;
            };
            self.tally.received += 1;
            self.received.push(Datagram { slot, kind, source, buffer, start: 0, len: messages[index].msg_len });
        }
        self.received.reverse();
    }

    fn poll(&mut self, timeout: &Timespec) {
        self.events.clear();
        self.tally.enters += 1;
        let spare = rustix::buffer::spare_capacity(&mut self.events);
        if epoll::wait(&self.epoll, spare, Some(timeout)).is_err() {
            return;
        }
        for event in self.events.drain(..) {
            match event.data.u64() {
                WAKE => {
                    let mut count = [0; 8];
                    let _ = rustix::io::read(&self.wake, &mut count);
                }
                token if token & STREAM != 0 => self.streams.push_back(token as u32),
                slot => self.ready.push(slot as Slot),
            }
        }
    }

    fn queue(&mut self, slot: Slot, to: SocketAddr, buffer: Option<u32>, start: usize, len: usize) {
        let Ok(place) = self.place(slot) else {
            self.tally.send_other += 1;
            self.free.extend(buffer);
            return;
        };
        let to = if place.peer == Some(to) { None } else { Some(RawAddress::new(to)) };
        self.sends.push(Send { slot, to, buffer, start, len });
    }

    /// Queued entries to the old peer carry no address: they leave before it changes.
    fn change_peer(&mut self, slot: Slot, peer: Option<SocketAddr>) -> Result<(), UdpError> {
        if self.place(slot)?.peer.is_some() {
            self.flush();
        }
        let place = self.place(slot)?;
        socket::connect(place.socket.as_fd(), peer).map_err(|e| UdpError::Os("connect", e))?;
        place.peer = peer;
        Ok(())
    }

    /// Sends everything, neighbours of the same socket in one call.
    fn flush(&mut self) {
        let mut sends = std::mem::take(&mut self.sends);
        let mut rest = sends.as_mut_slice();
        while let Some(first) = rest.first() {
            let slot = first.slot;
            let run = rest.iter().take(BATCH).take_while(|send| send.slot == slot).count();
            let (now, later) = rest.split_at_mut(run);
            self.send_run(slot, now);
            rest = later;
        }
        self.free.extend(sends.drain(..).filter_map(|send| send.buffer));
        self.sends = sends;
        self.arena.clear();
    }

    fn send_run(&mut self, slot: Slot, sends: &mut [Send]) {
        let Ok(fd) = self.place(slot).map(|place| place.socket.as_raw_fd()) else { return };
        let mut parts = [libc::iovec { iov_base: std::ptr::null_mut(), iov_len: 0 }; BATCH];
        let mut messages = [empty_message(); BATCH];
        for (index, send) in sends.iter_mut().enumerate() {
            let start = match send.buffer {
                Some(buffer) => self.buffers.as_ptr().wrapping_add(buffer as usize * BUFFER_BYTES + send.start),
                None => self.arena.as_ptr().wrapping_add(send.start),
            };
            parts[index] = libc::iovec { iov_base: start.cast_mut().cast(), iov_len: send.len };
            messages[index].msg_hdr.msg_iov = &raw mut parts[index];
            messages[index].msg_hdr.msg_iovlen = 1;
            if let Some(to) = &mut send.to {
                messages[index].msg_hdr.msg_name = to.as_mut_ptr().cast();
                messages[index].msg_hdr.msg_namelen = to.len;
            }
        }
        let mut done = 0;
        while done < sends.len() {
            self.tally.enters += 1;
            let rest = (sends.len() - done) as u32;
            // SAFETY: `rest` headers from here on refer to bytes and addresses of ours that are only read.
            let count = unsafe { libc::sendmmsg(fd, messages[done..].as_mut_ptr(), rest, libc::MSG_DONTWAIT) };
            match usize::try_from(count) {
                Ok(count) => {
                    self.tally.sent += count as u64;
                    done += count;
                }
                Err(_) => {
                    self.on_send_failed(&io::Error::last_os_error());
                    done += 1;
                }
            }
        }
    }

    fn on_send_failed(&mut self, error: &io::Error) {
        match error.raw_os_error() {
            Some(libc::EAGAIN | libc::ENOBUFS) => self.tally.send_again += 1,
            Some(libc::ECONNREFUSED | libc::EHOSTUNREACH | libc::ENETUNREACH) => self.tally.send_refused += 1,
            Some(libc::EMSGSIZE) => self.tally.send_too_long += 1,
            _ => self.tally.send_other += 1,
        }
    }

    fn watch(epoll: BorrowedFd<'_>, socket: BorrowedFd<'_>, slot: Slot) -> Result<(), UdpError> {
        epoll::add(epoll, socket, epoll::EventData::new_u64(u64::from(slot)), epoll::EventFlags::IN)
            .map_err(|e| UdpError::Os("epoll", e.into()))
    }

    pub fn wake_fd(&self) -> RawFd {
        self.wake.as_raw_fd()
    }
}

const fn empty_message() -> libc::mmsghdr {
    // SAFETY: all-zero is a valid header: null pointers with zero lengths.
    unsafe { std::mem::zeroed() }
}

impl DatagramIo for Plain {
    fn add(&mut self, slot: Slot, socket: OwnedFd, kind: SlotKind) -> Result<(), UdpError> {
        let place = self.places.get_mut(slot as usize).ok_or(UdpError::Slot(slot))?;
        if place.is_some() {
            return Err(UdpError::Slot(slot));
        }
        let kernel_drops = socket::dropped(socket.as_fd());
        *place = Some(Place { socket, kind, open: false, peer: None, kernel_drops, too_long: 0 });
        Ok(())
    }

    fn arm(&mut self, slot: Slot) -> Result<(), UdpError> {
        let place = self.places.get_mut(slot as usize).and_then(Option::as_mut).ok_or(UdpError::NoSocket(slot))?;
        if place.open {
            return Ok(());
        }
        if place.kind == SlotKind::Rtp {
            self.tally.drained += u64::from(socket::drain(place.socket.as_fd(), DRAIN_MAX));
            socket::undeafen(place.socket.as_fd()).map_err(|e| UdpError::Os("detach filter", e))?;
            // What came while it was deaf was for nobody.
            place.take_drops();
        }
        Self::watch(self.epoll.as_fd(), place.socket.as_fd(), slot)?;
        place.open = true;
        Ok(())
    }

    fn disarm(&mut self, slot: Slot) {
        let Some(place) = self.places.get_mut(slot as usize).and_then(Option::as_mut) else { return };
        if !std::mem::take(&mut place.open) {
            return;
        }
        self.tally.kernel_drops += place.take_drops();
        let _ = epoll::delete(&self.epoll, &place.socket);
        if place.kind == SlotKind::Rtp {
            let _ = socket::deafen(place.socket.as_fd());
        }
        if place.peer.is_some() {
            let _ = self.change_peer(slot, None);
        }
        let mut index = 0;
        while index < self.received.len() {
            if self.received[index].slot == slot {
                self.tally.stale += 1;
                self.free.push(self.received.remove(index).buffer);
            } else {
                index += 1;
            }
        }
    }

    fn connect(&mut self, slot: Slot, peer: Option<SocketAddr>) -> Result<(), UdpError> {
        self.change_peer(slot, peer)
    }

    fn next(&mut self) -> Option<Datagram> {
        while self.received.is_empty() && !self.ready.is_empty() {
            if self.free.is_empty() {
                self.flush();
            }
            self.receive();
        }
        self.received.pop()
    }

    fn bytes(&mut self, datagram: &Datagram) -> &mut [u8] {
        let start = datagram.buffer as usize * BUFFER_BYTES;
        &mut self.buffers[start..start + datagram.len as usize]
    }

    fn relay(&mut self, datagram: Datagram, part: Range<usize>, slot: Slot, to: SocketAddr) {
        if part.start > part.end || part.end > datagram.len as usize {
            self.tally.send_other += 1;
            self.release(datagram);
            return;
        }
        self.queue(slot, to, Some(datagram.buffer), part.start, part.end - part.start);
    }

    fn release(&mut self, datagram: Datagram) {
        self.free.push(datagram.buffer);
    }

    fn send(&mut self, slot: Slot, to: SocketAddr, bytes: &[u8]) {
        let start = self.arena.len();
        self.arena.extend_from_slice(bytes);
        self.queue(slot, to, None, start, bytes.len());
        if self.arena.len() > BUFFERS * 1_024 {
            self.flush();
        }
    }

    fn watch(&mut self, token: u32, stream: BorrowedFd<'_>) -> Result<(), UdpError> {
        let events = epoll::EventFlags::IN | epoll::EventFlags::OUT | epoll::EventFlags::RDHUP | epoll::EventFlags::ET;
        epoll::add(&self.epoll, stream, epoll::EventData::new_u64(STREAM | u64::from(token)), events)
            .map_err(|e| UdpError::Os("epoll", e.into()))?;
        self.watched.insert(token, stream.as_raw_fd());
        Ok(())
    }

    fn unwatch(&mut self, token: u32) {
        if let Some(stream) = self.watched.remove(&token) {
            // SAFETY: the caller closes the stream only after this call.
            let stream = unsafe { BorrowedFd::borrow_raw(stream) };
            let _ = epoll::delete(&self.epoll, stream);
        }
        self.streams.retain(|ready| *ready != token);
    }

    fn next_ready(&mut self) -> Option<u32> {
        self.streams.pop_front()
    }

    fn mark_ready(&mut self, token: u32) {
        self.streams.push_back(token);
    }

    fn submit_and_wait(&mut self, wait: Wait) {
        self.flush();
        let busy = wait.completions_min == 0
            || !self.streams.is_empty()
            || !self.received.is_empty()
            || !self.ready.is_empty();
        let nanos = if busy { 0 } else { wait.until.since(clock::boottime()).as_nanos() as i64 };
        self.poll(&Timespec { tv_sec: nanos / 1_000_000_000, tv_nsec: nanos % 1_000_000_000 });
    }

    fn prepare_to_sleep(&mut self) -> bool {
        false
    }

    fn wake_up(&mut self) {}

    fn can_sleep(&self) -> bool {
        false
    }

    fn losses(&self, slot: Slot) -> Losses {
        let Some(place) = self.places.get(slot as usize).and_then(Option::as_ref) else { return Losses::default() };
        Losses { overrun: socket::dropped(place.socket.as_fd()), too_long: place.too_long }
    }

    fn audit(&mut self) {
        for slot in (self.audit_part..self.places.len()).step_by(AUDIT_PARTS) {
            let Some(place) = self.places[slot].as_mut().filter(|place| place.open) else { continue };
            self.tally.kernel_drops += place.take_drops();
        }
        self.audit_part = (self.audit_part + 1) % AUDIT_PARTS;
    }

    fn take_tally(&mut self) -> Tally {
        std::mem::take(&mut self.tally)
    }

    fn buffers(&self) -> Buffers {
        Buffers { rtp: Pool { circulating: BUFFERS as u16, reserve: 0 }, sip: Pool::default() }
    }
}
