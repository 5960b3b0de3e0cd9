//! Datagrams by an io_uring of the shard's own: ring M. One per shard, made on the shard's thread.
//!
//! Each open socket has one multishot RECVMSG that fills buffers of a shared group. Sends leave from the receive buffer (or from
//! an arena) with MSG_DONTWAIT, so the kernel has copied the bytes, or refused, when `io_uring_enter` returns: only then buffers
//! are given back. Completions of sends are posted for failures only. Any completion without F_MORE ends a receive: one rule
//! arms it again, at most once a turn. `user_data` is operation (8 bits), generation (24), slot (32): what belongs to
//! an earlier use of a slot is recognised and dropped.
#![allow(unsafe_code, reason = "io_uring")]

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::ops::Range;
use std::os::fd::AsFd;
use std::os::fd::AsRawFd;
use std::os::fd::BorrowedFd;
use std::os::fd::OwnedFd;
use std::os::fd::RawFd;
use std::sync::atomic::Ordering::SeqCst;
use std::sync::atomic::fence;

use io_uring::EnterFlags;
use io_uring::IoUring;
use io_uring::cqueue;
use io_uring::opcode;
use io_uring::register::Restriction;
use io_uring::squeue;
use io_uring::types::CancelBuilder;
use io_uring::types::Fd;
use io_uring::types::Fixed;
use io_uring::types::SubmitArgs;
use io_uring::types::Timespec;

use crate::shard::clock;
use crate::shard::udp::Buffers;
use crate::shard::udp::Datagram;
use crate::shard::udp::DatagramIo;
use crate::shard::udp::Losses;
use crate::shard::udp::Slot;
use crate::shard::udp::SlotKind;
use crate::shard::udp::Tally;
use crate::shard::udp::UdpError;
use crate::shard::udp::Wait;
use crate::shard::udp::buffers::BufferGroup;
use crate::shard::udp::socket;
use crate::shard::udp::socket::ADDRESS_BYTES;
use crate::shard::udp::socket::RawAddress;

/// Sizes of one ring; the defaults are for a shard of 2,000 calls.
#[derive(Clone, Debug)]
pub struct RingConfig {
    /// Slots are below this: the fixed file table.
    pub slots_max: u32,
    pub sq_entries: u32,
    pub cq_entries: u32,
    /// Buffers for RTP and SIP: how many there are, and how many circulate until the ring runs empty.
    pub rtp_buffers: u16,
    pub rtp_buffers_hot: u16,
    pub sip_buffers: u16,
    pub sip_buffers_hot: u16,
    /// Room for bytes of ours within one turn; when used up, a turn submits twice.
    pub arena_bytes: usize,
}

impl Default for RingConfig {
    fn default() -> Self {
        Self {
            slots_max: 20_000,
            sq_entries: 4_096,
            cq_entries: 32_768,
            rtp_buffers: 8_192,
            rtp_buffers_hot: 1_024,
            sip_buffers: 256,
            sip_buffers_hot: 64,
            arena_bytes: 512 * 1024,
        }
    }
}

const GROUP_RTP: u16 = 0;
const GROUP_SIP: u16 = 1;
const RTP_BUFFER_BYTES: usize = 2_048;
/// The largest datagram and the kernel's header before it, in whole pages.
const SIP_BUFFER_BYTES: usize = 17 * 4_096;
/// `struct io_uring_recvmsg_out`: name length, control length, payload length, flags.
const HEADER_BYTES: usize = 16;
const PAYLOAD_START: usize = HEADER_BYTES + ADDRESS_BYTES;
/// Completions taken from the queue at a time.
const BATCH: usize = 128;
/// Calls of [`DatagramIo::audit`] until every slot was seen.
const AUDIT_PARTS: usize = 16;
/// Calls of `io_uring_enter` to get one entry into a full queue.
const ENTER_TRIES: u32 = 4;
/// Stale datagrams thrown away when a socket is armed.
const DRAIN_MAX: u32 = 4_096;
/// The kernel adds work, then raises TASKRUN. A ring that ran that work in between stays flagged with nothing to do until the next
/// work comes, which then wakes by the eventfd. So much must be run in vain before the flag is not believed; one enter runs 20.
const ENTERS_WITHOUT_WORK_MAX: usize = 32;

const OP_RECEIVE: u8 = 1;
const OP_SEND: u8 = 2;
const OP_CANCEL: u8 = 3;
const OP_WATCH: u8 = 4;
const GENERATION_MASK: u32 = (1 << 24) - 1;

/// `IORING_REGISTER_FILES_UPDATE`.
const REGISTER_FILES_UPDATE: u8 = 6;

/// What the ring may ever be asked for. No filter of system calls sees what a ring does: whoever took over this process could open
/// and connect by it what the filter forbids.
fn restrictions() -> [Restriction; 7] {
    let flags = squeue::Flags::FIXED_FILE | squeue::Flags::BUFFER_SELECT | squeue::Flags::SKIP_SUCCESS;
    [
        Restriction::sqe_op(opcode::RecvMulti::CODE),
        Restriction::sqe_op(opcode::RecvMsgMulti::CODE),
        Restriction::sqe_op(opcode::Send::CODE),
        Restriction::sqe_op(opcode::PollAdd::CODE),
        Restriction::sqe_op(opcode::AsyncCancel2::CODE),
        Restriction::register_op(REGISTER_FILES_UPDATE),
        Restriction::sqe_flags_allowed(flags.bits()),
    ]
}

fn user_data(op: u8, generation: u32, slot: Slot) -> u64 {
    u64::from(op) << 56 | u64::from(generation & GENERATION_MASK) << 32 | u64::from(slot)
}

struct Place {
    socket: OwnedFd,
    kind: SlotKind,
    /// Of the receive that is or was armed.
    generation: u32,
    /// Wanted: packets are for somebody.
    open: bool,
    /// A receive with this generation is with the kernel.
    armed: bool,
    /// Waits in `rearms`.
    ended: bool,
    /// What the socket is connected to, and what it shall be.
    peer: Option<SocketAddr>,
    peer_wanted: Option<SocketAddr>,
    /// The receive is a RECV: cheaper, and the source is `peer`, because nobody else can be in the queue.
    anonymous: bool,
    /// The receive was cancelled to be armed in the other form.
    switching: bool,
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

/// A stream that is watched, or was.
#[derive(Clone, Copy, Default)]
struct Watch {
    stream: Option<RawFd>,
    generation: u32,
    ready: bool,
}

/// A buffer whose send is queued and not yet submitted.
struct Held {
    kind: SlotKind,
    buffer: u16,
}

pub struct Ring {
    // Dropped first: closing the ring ends the kernel's use of the memory below.
    ring: IoUring,
    rtp: BufferGroup,
    sip: BufferGroup,
    /// What the kernel reads when a RECVMSG is submitted: only the lengths of name and control matter.
    message: Box<libc::msghdr>,
    places: Vec<Option<Place>>,
    batch: Vec<cqueue::Entry>,
    batch_next: usize,
    held: Vec<Held>,
    /// Destinations of queued sends: the kernel copies them when they are submitted, so they must not move before.
    addresses: Box<[RawAddress]>,
    addresses_len: usize,
    arena: Box<[u8]>,
    arena_len: usize,
    rearms: Vec<Slot>,
    watches: Vec<Watch>,
    ready: VecDeque<u32>,
    /// A group ran empty: give back before arming again.
    starved: bool,
    audit_part: usize,
    suspended_nanos: u64,
    no_iowait: bool,
    overflow_seen: u32,
    tally: Tally,
    wake: OwnedFd,
}

impl Ring {
    /// To be called on the thread that will use it. `wake` is a blocking eventfd.
    pub fn new(config: &RingConfig, wake: OwnedFd) -> Result<Self, UdpError> {
        let ring = IoUring::builder()
            .setup_single_issuer()
            .setup_defer_taskrun()
            .setup_coop_taskrun()
            .setup_taskrun_flag()
            .setup_submit_all()
            .setup_no_sqarray()
            .setup_r_disabled()
            .setup_cqsize(config.cq_entries)
            .build(config.sq_entries)
            .map_err(|e| UdpError::Os("io_uring_setup", e))?;
        let submitter = ring.submitter();
        submitter.register_files_sparse(config.slots_max).map_err(|e| UdpError::Os("register files", e))?;
        submitter.register_eventfd(wake.as_raw_fd()).map_err(|e| UdpError::Os("register eventfd", e))?;
        let group = |id, len, count, hot| {
            BufferGroup::register(&ring, id, len, count, hot).map_err(|e| UdpError::Os("register buffers", e))
        };
        let rtp = group(GROUP_RTP, RTP_BUFFER_BYTES, config.rtp_buffers, config.rtp_buffers_hot)?;
        let sip = group(GROUP_SIP, SIP_BUFFER_BYTES, config.sip_buffers, config.sip_buffers_hot)?;
        submitter.register_restrictions(&mut restrictions()).map_err(|e| UdpError::Os("restrict the ring", e))?;
        submitter.register_enable_rings().map_err(|e| UdpError::Os("enable the ring", e))?;
        // SAFETY: all-zero is a valid msghdr: null pointers with zero lengths.
        let mut message: Box<libc::msghdr> = Box::new(unsafe { std::mem::zeroed() });
        message.msg_namelen = ADDRESS_BYTES as u32;
        let no_iowait = ring.params().is_feature_no_iowait();
        let mut ring = Self {
            rtp,
            sip,
            message,
            places: Vec::new(),
            batch: Vec::with_capacity(BATCH),
            batch_next: 0,
            held: Vec::with_capacity(config.sq_entries as usize),
            addresses: vec![RawAddress::EMPTY; config.sq_entries as usize].into(),
            addresses_len: 0,
            arena: vec![0; config.arena_bytes].into(),
            arena_len: 0,
            rearms: Vec::with_capacity(config.slots_max as usize),
            watches: Vec::new(),
            ready: VecDeque::new(),
            starved: false,
            audit_part: 0,
            suspended_nanos: clock::suspended_nanos().unwrap_or(0),
            no_iowait,
            overflow_seen: 0,
            tally: Tally::default(),
            wake,
            ring,
        };
        ring.places.resize_with(config.slots_max as usize, || None);
        ring.ring.completion().disable_eventfd();
        Ok(ring)
    }

    /// The descriptor that wakes a sleeping shard.
    pub fn wake_fd(&self) -> RawFd {
        self.wake.as_raw_fd()
    }

    fn place(&mut self, slot: Slot) -> Result<&mut Place, UdpError> {
        self.places.get_mut(slot as usize).and_then(Option::as_mut).ok_or(UdpError::NoSocket(slot))
    }

    fn group(&mut self, kind: SlotKind) -> &mut BufferGroup {
        match kind {
            SlotKind::Rtp => &mut self.rtp,
            SlotKind::Sip => &mut self.sip,
        }
    }

    /// Makes room for one entry. To be called before an address or arena bytes are placed: submitting frees those.
    fn reserve(&mut self) -> bool {
        for _ in 0..ENTER_TRIES {
            if !self.ring.submission().is_full() {
                return true;
            }
            self.tally.sq_full += 1;
            self.submit();
        }
        false
    }

    fn push(&mut self, entry: &squeue::Entry) -> bool {
        if !self.reserve() {
            return false;
        }
        // SAFETY: what an entry refers to (message, addresses, arena, held buffers) stays in place until it is submitted.
        unsafe { self.ring.submission().push(entry) }.is_ok()
    }

    fn push_receive(&mut self, slot: Slot) {
        let message: *const libc::msghdr = &raw const *self.message;
        let Some(place) = self.places.get_mut(slot as usize).and_then(Option::as_mut) else { return };
        place.generation = (place.generation + 1) & GENERATION_MASK;
        place.armed = true;
        place.ended = false;
        place.switching = false;
        // Connected and found empty: from here on only the peer's datagrams get in.
        place.anonymous = place.peer.is_some()
            && (place.anonymous || socket::is_empty(place.socket.as_fd()))
            && place.kind == SlotKind::Rtp;
        let data = user_data(OP_RECEIVE, place.generation, slot);
        let group = match place.kind {
            SlotKind::Rtp => GROUP_RTP,
            SlotKind::Sip => GROUP_SIP,
        };
        let entry = if place.anonymous {
            opcode::RecvMulti::new(Fixed(slot), group).build().user_data(data)
        } else {
            opcode::RecvMsgMulti::new(Fixed(slot), message, group).build().user_data(data)
        };
        if !self.push(&entry)
            && let Ok(place) = self.place(slot)
        {
            // The audit will try again.
            place.armed = false;
        }
    }

    fn push_watch(&mut self, token: u32) {
        let Some(watch) = self.watches.get_mut(token as usize) else { return };
        let Some(stream) = watch.stream else { return };
        watch.generation = (watch.generation + 1) & GENERATION_MASK;
        let data = user_data(OP_WATCH, watch.generation, token);
        let events = libc::POLLIN | libc::POLLOUT | libc::POLLRDHUP;
        let entry = opcode::PollAdd::new(Fd(stream), events as u32).multi(true).build().user_data(data);
        if !self.push(&entry) {
            self.tally.enter_errors += 1;
        }
    }

    fn on_watched(&mut self, entry: &cqueue::Entry) {
        let token = entry.user_data() as u32;
        let generation = (entry.user_data() >> 32) as u32 & GENERATION_MASK;
        let Some(watch) = self.watches.get(token as usize) else { return };
        if watch.generation != generation || watch.stream.is_none() {
            return;
        }
        self.mark_ready(token);
        if !cqueue::more(entry.flags()) {
            self.push_watch(token);
        }
    }

    fn push_cancel(&mut self, target: u64) {
        let slot = target as u32;
        let entry = opcode::AsyncCancel2::new(CancelBuilder::user_data(target))
            .build()
            .flags(squeue::Flags::SKIP_SUCCESS)
            .user_data(user_data(OP_CANCEL, 0, slot));
        self.push(&entry);
    }

    /// Room for an entry was reserved. There are as many addresses as entries.
    fn push_send(&mut self, slot: Slot, to: SocketAddr, start: *const u8, len: usize) {
        let Ok(place) = self.place(slot) else {
            self.tally.send_other += 1;
            return;
        };
        let connected = place.peer == Some(to);
        let mut send = opcode::Send::new(Fixed(slot), start, len as u32).flags(libc::MSG_DONTWAIT);
        if !connected {
            let Some(address) = self.addresses.get_mut(self.addresses_len) else {
                self.tally.send_other += 1;
                return;
            };
            *address = RawAddress::new(to);
            self.addresses_len += 1;
            send = send.dest_addr(address.as_ptr()).dest_addr_len(address.len);
        }
        let entry = send.build().flags(squeue::Flags::SKIP_SUCCESS).user_data(user_data(OP_SEND, 0, slot));
        if self.push(&entry) {
            self.tally.sent += 1;
        } else {
            self.tally.send_other += 1;
        }
    }

    /// Submits without waiting, then gives back what the submitted sends held.
    fn submit(&mut self) {
        self.enter(0, None);
    }

    fn enter(&mut self, completions_min: u32, until: Option<&Timespec>) {
        // GETEVENTS also without a wait: it runs the deferred work, which is where datagrams are received.
        let mut flags = EnterFlags::GETEVENTS;
        if self.no_iowait {
            flags |= EnterFlags::NO_IOWAIT;
        }
        self.tally.enters += 1;
        let queued = self.ring.submission().len() as u32;
        let submitter = self.ring.submitter();
        let result = match until {
            None => {
                // SAFETY: no argument is passed; the entries refer to memory that is in place.
                unsafe { submitter.enter::<libc::sigset_t>(queued, completions_min, flags.bits(), None) }
            }
            Some(until) => {
                flags |= EnterFlags::EXT_ARG | EnterFlags::ABS_TIMER;
                let args = SubmitArgs::new().timespec(until);
                // SAFETY: the argument is of the type that EXT_ARG announces and lives over the call.
                unsafe { submitter.enter(queued, completions_min, flags.bits(), Some(&args)) }
            }
        };
        if let Err(error) = result {
            // EBUSY: completions overflowed and must be taken first; they are, by every turn.
            let expected = [libc::ETIME, libc::EINTR, libc::EAGAIN, libc::EBUSY];
            if !error.raw_os_error().is_some_and(|number| expected.contains(&number)) {
                self.tally.enter_errors += 1;
            }
        }
        let submission = self.ring.submission();
        // The kernel keeps what did not fit, and gives it with a later enter.
        self.tally.cq_overflow += u64::from(submission.cq_overflow());
        if submission.is_empty() {
            drop(submission);
            self.give_back_held();
        }
    }

    fn give_back_held(&mut self) {
        while let Some(held) = self.held.pop() {
            self.group(held.kind).give_back(held.buffer);
        }
        self.addresses_len = 0;
        self.arena_len = 0;
        self.rtp.publish();
        self.sip.publish();
    }

    /// Arms what ended since the last call: the one place where that is done.
    fn rearm(&mut self) {
        if self.rearms.is_empty() {
            return;
        }
        if self.starved {
            self.starved = false;
            self.submit();
        }
        while let Some(slot) = self.rearms.pop() {
            let Some(place) = self.places.get_mut(slot as usize).and_then(Option::as_mut) else { continue };
            place.ended = false;
            if place.open && !place.armed {
                if place.peer != place.peer_wanted {
                    let peer = place.peer_wanted;
                    let _ = self.change_peer(slot, peer);
                }
                self.push_receive(slot);
            }
        }
    }

    fn next_completion(&mut self) -> Option<cqueue::Entry> {
        if self.batch_next == self.batch.len() {
            self.batch.clear();
            self.batch_next = 0;
            self.batch.extend(self.ring.completion().take(BATCH));
        }
        let entry = self.batch.get(self.batch_next)?.clone();
        self.batch_next += 1;
        Some(entry)
    }

    fn on_receive(&mut self, entry: &cqueue::Entry) -> Option<Datagram> {
        let slot = entry.user_data() as u32;
        let generation = (entry.user_data() >> 32) as u32 & GENERATION_MASK;
        let more = cqueue::more(entry.flags());
        let buffer = cqueue::buffer_select(entry.flags());
        let place = self.places.get_mut(slot as usize).and_then(Option::as_mut)?;
        let kind = place.kind;
        if place.generation != generation || !place.open {
            self.on_stale(entry, kind, buffer, more);
            return None;
        }
        if !more {
            place.armed = false;
        }
        let datagram = match buffer {
            Some(buffer) if entry.result() >= 0 => match place.peer {
                Some(peer) if place.anonymous => self.read_anonymous(slot, peer, buffer, entry.result() as u32),
                _ => self.read_header(slot, kind, buffer),
            },
            Some(buffer) => {
                self.group(kind).give_back(buffer);
                None
            }
            None => None,
        };
        if !more {
            let empty = datagram.as_ref().is_some_and(|d| d.len == 0);
            self.on_ended(slot, kind, entry.result(), empty);
        }
        datagram
    }

    /// A receive of an earlier use of the slot. If it goes on it escaped its cancellation, and would eat datagrams.
    fn on_stale(&mut self, entry: &cqueue::Entry, kind: SlotKind, buffer: Option<u16>, more: bool) {
        if let Some(buffer) = buffer {
            self.tally.stale += 1;
            self.group(kind).give_back(buffer);
        }
        if more {
            self.tally.cancel_again += 1;
            self.push_cancel(entry.user_data());
        }
    }

    fn on_ended(&mut self, slot: Slot, kind: SlotKind, result: i32, empty: bool) {
        let switching = self.place(slot).is_ok_and(|place| place.switching);
        let rearm = &mut self.tally.rearm;
        match -result {
            libc::ENOBUFS => {
                rearm.no_buffers += 1;
                self.starved = true;
                self.group(kind).grow();
            }
            libc::ECANCELED if switching => {}
            libc::ECANCELED => rearm.cancelled += 1,
            libc::ECONNREFUSED
            | libc::EHOSTUNREACH
            | libc::ENETUNREACH
            | libc::EMSGSIZE
            | libc::EPROTO
            | libc::EACCES
            | libc::EHOSTDOWN
            | libc::ENOPROTOOPT
            | libc::EOPNOTSUPP => rearm.icmp += 1,
            1.. => rearm.other += 1,
            _ if empty => rearm.zero_length += 1,
            _ => rearm.ended += 1,
        }
        if let Ok(place) = self.place(slot)
            && !place.ended
        {
            place.ended = true;
            self.rearms.push(slot);
        }
    }

    fn read_header(&mut self, slot: Slot, kind: SlotKind, buffer: u16) -> Option<Datagram> {
        let group = self.group(kind);
        let capacity = match kind {
            SlotKind::Rtp => RTP_BUFFER_BYTES - PAYLOAD_START,
            SlotKind::Sip => SIP_BUFFER_BYTES - PAYLOAD_START,
        };
        let bytes = group.bytes(buffer, 0..PAYLOAD_START);
        let word = |index: usize| bytes[index..].first_chunk().map_or(0, |word| u32::from_ne_bytes(*word));
        let (len, flags) = (word(8), word(12));
        let source = socket::parse_address(&bytes[HEADER_BYTES..]);
        let truncated = flags & libc::MSG_TRUNC as u32 != 0 || len as usize > capacity;
        let Some(source) = source.filter(|_| !truncated) else {
            group.give_back(buffer);
            if truncated {
                self.on_too_long(slot);
            } else {
                self.tally.bad_address += 1;
            }
            return None;
        };
        self.tally.received += 1;
        Some(Datagram { slot, kind, source, buffer: u32::from(buffer), start: PAYLOAD_START as u32, len })
    }

    /// A datagram of a connected socket fills its buffer from the begin; one that fills it whole may have been cut.
    fn read_anonymous(&mut self, slot: Slot, source: SocketAddr, buffer: u16, len: u32) -> Option<Datagram> {
        if len as usize >= RTP_BUFFER_BYTES {
            self.rtp.give_back(buffer);
            self.on_too_long(slot);
            return None;
        }
        self.tally.received += 1;
        Some(Datagram { slot, kind: SlotKind::Rtp, source, buffer: u32::from(buffer), start: 0, len })
    }

    fn on_too_long(&mut self, slot: Slot) {
        self.tally.truncated += 1;
        if let Ok(place) = self.place(slot) {
            place.too_long = place.too_long.wrapping_add(1);
        }
    }

    /// Queued entries to the old peer carry no address: they leave before it changes.
    fn change_peer(&mut self, slot: Slot, peer: Option<SocketAddr>) -> Result<(), UdpError> {
        if self.place(slot)?.peer.is_some() {
            self.submit();
        }
        let place = self.place(slot)?;
        place.anonymous = false;
        socket::connect(place.socket.as_fd(), peer).map_err(|e| UdpError::Os("connect", e))?;
        place.peer = peer;
        Ok(())
    }

    /// Ends the receive, so that it is armed in the form that fits; both forms take everything that is queued.
    fn switch(&mut self, slot: Slot) {
        let Ok(place) = self.place(slot) else { return };
        if place.open && place.armed && !place.switching {
            place.switching = true;
            let target = user_data(OP_RECEIVE, place.generation, slot);
            self.push_cancel(target);
        }
    }

    fn on_send_failed(&mut self, result: i32) {
        match -result {
            libc::EAGAIN | libc::ENOBUFS => self.tally.send_again += 1,
            libc::ECONNREFUSED | libc::EHOSTUNREACH | libc::ENETUNREACH => self.tally.send_refused += 1,
            libc::EMSGSIZE => self.tally.send_too_long += 1,
            _ => self.tally.send_other += 1,
        }
        self.tally.sent = self.tally.sent.saturating_sub(1);
    }

    #[cfg(test)]
    pub(super) fn cancel_behind_the_back(&mut self, slot: Slot) {
        let generation = self.place(slot).map_or(0, |place| place.generation);
        self.push_cancel(user_data(OP_RECEIVE, generation, slot));
    }

    /// Overwrites everything that was sent from.
    #[cfg(test)]
    pub(super) fn scribble(&mut self) {
        self.arena.fill(0xEE);
        self.addresses.fill(RawAddress::EMPTY);
        self.rtp.scribble();
    }

    #[cfg(test)]
    pub(super) fn unarmed(&self) -> usize {
        self.places.iter().flatten().filter(|place| place.open && !place.armed).count()
    }
}

impl DatagramIo for Ring {
    fn add(&mut self, slot: Slot, socket: OwnedFd, kind: SlotKind) -> Result<(), UdpError> {
        let place = self.places.get_mut(slot as usize).ok_or(UdpError::Slot(slot))?;
        if place.is_some() {
            return Err(UdpError::Slot(slot));
        }
        let files = [socket.as_raw_fd()];
        self.ring.submitter().register_files_update(slot, &files).map_err(|e| UdpError::Os("register file", e))?;
        let kernel_drops = socket::dropped(socket.as_fd());
        *place = Some(Place {
            socket,
            kind,
            generation: 0,
            open: false,
            armed: false,
            ended: false,
            peer: None,
            peer_wanted: None,
            anonymous: false,
            switching: false,
            kernel_drops,
            too_long: 0,
        });
        Ok(())
    }

    fn arm(&mut self, slot: Slot) -> Result<(), UdpError> {
        let place = self.place(slot)?;
        if place.open {
            return Ok(());
        }
        if place.kind == SlotKind::Rtp {
            // Still deaf while it is emptied: what is read here is from before, what comes from here on is the call's.
            let drained = u64::from(socket::drain(place.socket.as_fd(), DRAIN_MAX));
            socket::undeafen(place.socket.as_fd()).map_err(|e| UdpError::Os("detach filter", e))?;
            // What came while it was deaf was for nobody.
            place.take_drops();
            self.tally.drained += drained;
        }
        self.place(slot)?.open = true;
        self.push_receive(slot);
        Ok(())
    }

    fn disarm(&mut self, slot: Slot) {
        let Ok(place) = self.place(slot) else { return };
        if !place.open {
            return;
        }
        let drops = place.take_drops();
        place.open = false;
        if place.kind == SlotKind::Rtp {
            // Failure leaves a socket that hears: its queue is bounded, and emptied when it is armed.
            let _ = socket::deafen(place.socket.as_fd());
        }
        place.peer_wanted = None;
        let is_connected = place.peer.is_some();
        let was_armed = std::mem::take(&mut place.armed);
        if is_connected {
            let _ = self.change_peer(slot, None);
        }
        self.tally.kernel_drops += drops;
        if was_armed {
            let Ok(place) = self.place(slot) else { return };
            let target = user_data(OP_RECEIVE, place.generation, slot);
            self.push_cancel(target);
        }
    }

    fn connect(&mut self, slot: Slot, peer: Option<SocketAddr>) -> Result<(), UdpError> {
        let place = self.place(slot)?;
        place.peer_wanted = peer;
        if place.peer == peer {
            return Ok(());
        }
        // An anonymous receive would take a stranger for the peer: it must end before others are let in.
        if !place.anonymous || !place.armed {
            self.change_peer(slot, peer)?;
        }
        if self.place(slot)?.anonymous || peer.is_some() {
            self.switch(slot);
        }
        Ok(())
    }

    fn next(&mut self) -> Option<Datagram> {
        while let Some(entry) = self.next_completion() {
            match (entry.user_data() >> 56) as u8 {
                OP_RECEIVE => {
                    if let Some(datagram) = self.on_receive(&entry) {
                        return Some(datagram);
                    }
                }
                OP_WATCH => self.on_watched(&entry),
                OP_SEND => self.on_send_failed(entry.result()),
                // The receive had ended by itself: its own completion says so.
                _ => {}
            }
        }
        None
    }

    fn bytes(&mut self, datagram: &Datagram) -> &mut [u8] {
        let start = datagram.start as usize;
        self.group(datagram.kind).bytes(datagram.buffer as u16, start..start + datagram.len as usize)
    }

    fn relay(&mut self, datagram: Datagram, part: Range<usize>, slot: Slot, to: SocketAddr) {
        self.reserve();
        let Some(bytes) = self.bytes(&datagram).get(part) else {
            self.tally.send_other += 1;
            self.release(datagram);
            return;
        };
        let (start, len) = (bytes.as_ptr(), bytes.len());
        self.push_send(slot, to, start, len);
        self.held.push(Held { kind: datagram.kind, buffer: datagram.buffer as u16 });
    }

    fn release(&mut self, datagram: Datagram) {
        self.group(datagram.kind).give_back(datagram.buffer as u16);
    }

    fn send(&mut self, slot: Slot, to: SocketAddr, bytes: &[u8]) {
        self.reserve();
        if self.arena_len + bytes.len() > self.arena.len() {
            self.submit();
        }
        let Some(room) = self.arena.get_mut(self.arena_len..self.arena_len + bytes.len()) else {
            self.tally.send_too_long += 1;
            return;
        };
        room.copy_from_slice(bytes);
        let start = room.as_ptr();
        self.arena_len += bytes.len();
        self.push_send(slot, to, start, bytes.len());
    }

    fn watch(&mut self, token: u32, stream: BorrowedFd<'_>) -> Result<(), UdpError> {
        let index = token as usize;
        if index >= self.watches.len() {
            self.watches.resize(index + 1, Watch::default());
        }
        self.watches[index].stream = Some(stream.as_raw_fd());
        self.watches[index].ready = false;
        self.push_watch(token);
        Ok(())
    }

    fn unwatch(&mut self, token: u32) {
        let Some(watch) = self.watches.get_mut(token as usize) else { return };
        if watch.stream.take().is_some() {
            let target = user_data(OP_WATCH, watch.generation, token);
            self.push_cancel(target);
        }
    }

    fn next_ready(&mut self) -> Option<u32> {
        while let Some(token) = self.ready.pop_front() {
            let Some(watch) = self.watches.get_mut(token as usize) else { continue };
            if std::mem::take(&mut watch.ready) && watch.stream.is_some() {
                return Some(token);
            }
        }
        None
    }

    fn mark_ready(&mut self, token: u32) {
        let Some(watch) = self.watches.get_mut(token as usize) else { return };
        if watch.stream.is_some() && !std::mem::replace(&mut watch.ready, true) {
            self.ready.push_back(token);
        }
    }

    fn submit_and_wait(&mut self, wait: Wait) {
        self.rtp.publish();
        self.sip.publish();
        // Who can end a receive (an empty datagram does) must not slow the socket down to one datagram a wait.
        let is_rearmed = !self.rearms.is_empty();
        self.rearm();
        let at_hand = is_rearmed
            || !self.ready.is_empty()
            || self.batch_next < self.batch.len()
            || !self.ring.completion().is_empty();
        if wait.completions_min == 0 || at_hand {
            self.submit();
            return;
        }
        // io_uring counts in CLOCK_MONOTONIC.
        let nanos = wait.until.nanos().saturating_sub(self.suspended_nanos);
        let until = Timespec::new().sec(nanos / 1_000_000_000).nsec((nanos % 1_000_000_000) as u32);
        self.enter(wait.completions_min, Some(&until));
    }

    fn prepare_to_sleep(&mut self) -> bool {
        self.ring.completion().enable_eventfd();
        // The kernel adds work, then looks whether the eventfd is enabled; here it is enabled, then looked for work.
        fence(SeqCst);
        self.rearm();
        for _ in 0..ENTERS_WITHOUT_WORK_MAX {
            self.submit();
            let is_idle = self.batch_next == self.batch.len()
                && self.ready.is_empty()
                && self.rearms.is_empty()
                && self.ring.completion().is_empty()
                && !self.ring.submission().cq_overflow();
            if !is_idle {
                self.wake_up();
                return false;
            }
            if !self.ring.submission().taskrun() {
                return true;
            }
        }
        true
    }

    fn wake_up(&mut self) {
        self.ring.completion().disable_eventfd();
    }

    fn can_sleep(&self) -> bool {
        true
    }

    fn losses(&self, slot: Slot) -> Losses {
        let Some(place) = self.places.get(slot as usize).and_then(Option::as_ref) else { return Losses::default() };
        Losses { overrun: socket::dropped(place.socket.as_fd()), too_long: place.too_long }
    }

    fn audit(&mut self) {
        if self.audit_part == 0 {
            self.suspended_nanos = clock::suspended_nanos().unwrap_or(self.suspended_nanos);
        }
        for slot in (self.audit_part..self.places.len()).step_by(AUDIT_PARTS) {
            let Some(place) = self.places[slot].as_mut() else { continue };
            if !place.open {
                continue;
            }
            self.tally.kernel_drops += place.take_drops();
            let could_be_anonymous = place.peer.is_some() && !place.anonymous && place.kind == SlotKind::Rtp;
            if could_be_anonymous && place.armed && !place.switching {
                self.switch(slot as Slot);
                continue;
            }
            if !place.armed && !place.ended {
                self.tally.unarmed_found += 1;
                place.ended = true;
                self.rearms.push(slot as Slot);
            }
        }
        self.audit_part = (self.audit_part + 1) % AUDIT_PARTS;
        let overflow = self.ring.completion().overflow();
        self.tally.cq_overflow += u64::from(overflow.wrapping_sub(self.overflow_seen));
        self.overflow_seen = overflow;
    }

    fn take_tally(&mut self) -> Tally {
        std::mem::take(&mut self.tally)
    }

    fn buffers(&self) -> Buffers {
        Buffers { rtp: self.rtp.pool(), sip: self.sip.pool() }
    }
}

#[cfg(test)]
mod tests {
    use rustix::event::EventfdFlags;
    use rustix::event::eventfd;

    use super::*;

    /// The result that the kernel gives for an entry of another kind than the ring is for.
    fn result(entry: squeue::Entry) -> i32 {
        let wake = eventfd(0, EventfdFlags::CLOEXEC).unwrap();
        let config = RingConfig {
            slots_max: 2,
            sq_entries: 4,
            cq_entries: 8,
            rtp_buffers: 8,
            sip_buffers: 2,
            ..RingConfig::default()
        };
        let config = RingConfig { rtp_buffers_hot: 8, sip_buffers_hot: 2, ..config };
        let mut ring = Ring::new(&config, wake).unwrap();
        assert!(ring.push(&entry));
        ring.ring.submit_and_wait(1).unwrap();
        ring.ring.completion().next().unwrap().result()
    }

    #[test]
    fn the_ring_does_nothing_but_datagrams() {
        let path = c"/etc/passwd";
        let open = opcode::OpenAt::new(Fd(libc::AT_FDCWD), path.as_ptr()).build();
        let socket = opcode::Socket::new(libc::AF_INET, libc::SOCK_STREAM, 0).build();
        let linked = opcode::PollAdd::new(Fd(0), 1).build().flags(squeue::Flags::IO_LINK);
        for (name, entry) in [("open", open), ("socket", socket), ("nop", opcode::Nop::new().build()), ("link", linked)]
        {
            assert_eq!(result(entry), -libc::EACCES, "{name}");
        }
    }

    #[test]
    fn nothing_more_is_registered_with_the_ring() {
        let wake = eventfd(0, EventfdFlags::CLOEXEC).unwrap();
        let config = RingConfig {
            slots_max: 2,
            sq_entries: 4,
            cq_entries: 8,
            rtp_buffers: 8,
            sip_buffers: 2,
            ..RingConfig::default()
        };
        let ring = Ring::new(&RingConfig { rtp_buffers_hot: 8, sip_buffers_hot: 2, ..config }, wake).unwrap();
        let refused = ring.ring.submitter().unregister_files().unwrap_err();
        assert_eq!(refused.raw_os_error(), Some(libc::EACCES));
    }
}
