//! A group of receive buffers that the kernel takes from a ring shared with it and that come back with completions.
//!
//! The ring is first in, first out: every buffer in it is touched in turn. So only as many as the load needs are in
//! circulation, because buffers that stay in the cache are cheaper; the rest waits in reserve until the ring ran empty once.
#![allow(unsafe_code, reason = "memory shared with the kernel")]

use std::io;
use std::ops::Range;
use std::ptr::NonNull;
use std::sync::atomic::AtomicU16;
use std::sync::atomic::Ordering::Release;

use io_uring::IoUring;
use io_uring::types::BufRingEntry;
use rustix::mm::MapFlags;
use rustix::mm::ProtFlags;
use rustix::mm::mmap_anonymous;
use rustix::mm::munmap;

use crate::shard::udp::Pool;

pub(super) struct BufferGroup {
    buffer_len: usize,
    count: u16,
    /// Buffers from here on were never given out.
    reserve: u16,
    entries: Mapping,
    memory: Mapping,
    tail: u16,
    published: u16,
}

impl BufferGroup {
    /// `count` is a power of two up to 32,768; `hot` of them circulate at first.
    pub(super) fn register(ring: &IoUring, id: u16, buffer_len: usize, count: u16, hot: u16) -> io::Result<Self> {
        assert!(count.is_power_of_two() && count <= 1 << 15);
        let entries = Mapping::new(usize::from(count) * size_of::<BufRingEntry>())?;
        let memory = Mapping::new(usize::from(count) * buffer_len)?;
        // SAFETY: the mapping holds `count` zeroed entries, and outlives the ring: see the order of fields in `Ring`.
        unsafe { ring.submitter().register_buf_ring_with_flags(entries.start.as_ptr() as u64, count, id, 0) }?;
        let mut group = Self { buffer_len, count, reserve: 0, entries, memory, tail: 0, published: 0 };
        group.circulate_more(hot.min(count));
        group.publish();
        Ok(group)
    }

    /// The ring ran empty: doubles what circulates. False if all does already.
    pub(super) fn grow(&mut self) -> bool {
        let more = self.reserve.min(self.count - self.reserve);
        self.circulate_more(more);
        more > 0
    }

    pub(super) fn pool(&self) -> Pool {
        Pool { circulating: self.reserve, reserve: self.count - self.reserve }
    }

    fn circulate_more(&mut self, more: u16) {
        for buffer in self.reserve..self.reserve + more {
            self.give_back(buffer);
        }
        self.reserve += more;
    }

    /// The kernel may fill this buffer again from the next [`BufferGroup::publish`] on.
    pub(super) fn give_back(&mut self, buffer: u16) {
        debug_assert!(buffer < self.count);
        let index = usize::from(self.tail & (self.count - 1));
        let address = self.address(buffer);
        let entries: NonNull<BufRingEntry> = self.entries.start.cast();
        // SAFETY: the index is masked to the ring; the kernel reads no entry at or behind the published tail.
        let entry = unsafe { entries.add(index).as_mut() };
        entry.set_addr(address.as_ptr() as u64);
        entry.set_len(self.buffer_len as u32);
        entry.set_bid(buffer);
        self.tail = self.tail.wrapping_add(1);
    }

    /// Overwrites all buffers; none may be lent, and none may hold a datagram that was not taken.
    #[cfg(test)]
    pub(super) fn scribble(&mut self) {
        for buffer in 0..self.count {
            let len = self.buffer_len;
            self.bytes(buffer, 0..len).fill(0xEE);
        }
    }

    pub(super) fn publish(&mut self) {
        if self.tail == self.published {
            return;
        }
        // SAFETY: the mapping begins with an initialised entry, whose spare field is the ring's tail.
        let tail = unsafe { BufRingEntry::tail(self.entries.start.cast().as_ptr()) };
        // SAFETY: the tail is an aligned u16 that the kernel only reads.
        let tail = unsafe { AtomicU16::from_ptr(tail.cast_mut()) };
        tail.store(self.tail, Release);
        self.published = self.tail;
    }

    fn address(&self, buffer: u16) -> NonNull<u8> {
        debug_assert!(buffer < self.count);
        // SAFETY: the mapping is `count * buffer_len` long.
        unsafe { self.memory.start.add(usize::from(buffer) * self.buffer_len) }
    }

    /// The bytes of a buffer that the kernel has filled and not got back.
    pub(super) fn bytes(&mut self, buffer: u16, range: Range<usize>) -> &mut [u8] {
        assert!(range.start <= range.end && range.end <= self.buffer_len);
        let start = self.address(buffer);
        // SAFETY: within the buffer by the assertion.
        let start = unsafe { start.add(range.start) };
        // SAFETY: the buffer is ours until it is given back, and borrowed from `self` exclusively.
        unsafe { NonNull::slice_from_raw_parts(start, range.end - range.start).as_mut() }
    }
}

/// Zeroed pages.
struct Mapping {
    start: NonNull<u8>,
    len: usize,
}

impl Mapping {
    fn new(len: usize) -> io::Result<Self> {
        let protection = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: a fresh private mapping at an address of the kernel's choice.
        let start = unsafe { mmap_anonymous(std::ptr::null_mut(), len, protection, MapFlags::PRIVATE) }?;
        let start = NonNull::new(start.cast()).ok_or(io::ErrorKind::OutOfMemory)?;
        Ok(Self { start, len })
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: made by `new` with this length; the ring that used it is closed before.
        let _ = unsafe { munmap(self.start.as_ptr().cast(), self.len) };
    }
}
