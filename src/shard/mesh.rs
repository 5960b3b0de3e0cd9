//! Messages between the shards of a node, and between them and the clerk (the engine's thread for link and disk).
//!
//! One bounded queue per receiver; every sender has its own credit there, so that a loud one cannot shut out the others. Nobody
//! waits: what does not fit comes back to the sender, whose machine decides. A receiver that sleeps is woken.

use std::io;
use std::os::fd::AsFd;
use std::os::fd::BorrowedFd;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::AtomicU32;
use std::sync::atomic::Ordering::AcqRel;
use std::sync::atomic::Ordering::Acquire;
use std::sync::atomic::Ordering::Release;
use std::sync::atomic::Ordering::SeqCst;
use std::sync::atomic::fence;

use crossbeam_queue::ArrayQueue;
use rustix::event::EventfdFlags;
use rustix::event::eventfd;

use crate::base::id::ShardId;
use crate::base::limit::MESH_QUEUE_MAX;

/// Who takes part.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Member {
    Shard(ShardId),
    Clerk,
}

/// One member's end of the mesh; it belongs to that member's thread.
#[derive(Debug)]
pub struct Post<M> {
    me: usize,
    boxes: Arc<[Mailbox<M>]>,
}

#[derive(Debug)]
struct Mailbox<M> {
    queue: ArrayQueue<(u8, M)>,
    /// Messages in the queue, by sender.
    waiting: Box<[AtomicU32]>,
    credit: u32,
    sleeps: AtomicBool,
    wake: OwnedFd,
}

/// What [`Post::try_send`] did.
#[derive(Debug, PartialEq, Eq)]
pub enum Delivery {
    Queued,
    /// The receiver slept and was woken.
    Woke,
}

impl<M: Send> Post<M> {
    /// The ends of `shards` shards in order, then the clerk's.
    pub fn mesh(shards: usize) -> io::Result<Vec<Self>> {
        Self::with_room(shards, MESH_QUEUE_MAX)
    }

    fn with_room(shards: usize, queue_max: usize) -> io::Result<Vec<Self>> {
        let members = shards + 1;
        let credit = u32::try_from((queue_max / members).max(1)).unwrap_or(u32::MAX);
        let boxes = (0..members).map(|_| Mailbox::new(members, credit)).collect::<io::Result<Vec<_>>>()?;
        let boxes: Arc<[Mailbox<M>]> = boxes.into();
        Ok((0..members).map(|me| Self { me, boxes: Arc::clone(&boxes) }).collect())
    }

    pub fn member(&self) -> Member {
        self.member_at(self.me)
    }

    pub fn shards(&self) -> usize {
        self.boxes.len() - 1
    }

    fn member_at(&self, index: usize) -> Member {
        if index == self.shards() { Member::Clerk } else { Member::Shard(ShardId(index as u8)) }
    }

    fn index_of(&self, member: Member) -> usize {
        match member {
            Member::Shard(ShardId(shard)) => usize::from(shard),
            Member::Clerk => self.shards(),
        }
    }

    /// The message comes back if the receiver's queue is full for this sender, or there is no such receiver.
    pub fn try_send(&self, to: Member, message: M) -> Result<Delivery, M> {
        let Some(mailbox) = self.boxes.get(self.index_of(to)) else { return Err(message) };
        let waiting = &mailbox.waiting[self.me];
        if waiting.load(Acquire) >= mailbox.credit {
            return Err(message);
        }
        waiting.fetch_add(1, AcqRel);
        if let Err((_, message)) = mailbox.queue.push((self.me as u8, message)) {
            waiting.fetch_sub(1, AcqRel);
            return Err(message);
        }
        // The receiver says that it sleeps, then looks into its queue; here the queue is filled, then looked whether it sleeps.
        fence(SeqCst);
        if mailbox.sleeps.load(Acquire) && mailbox.sleeps.swap(false, AcqRel) {
            signal(mailbox.wake.as_fd());
            return Ok(Delivery::Woke);
        }
        Ok(Delivery::Queued)
    }

    pub fn try_receive(&self) -> Option<(Member, M)> {
        let mailbox = &self.boxes[self.me];
        let (from, message) = mailbox.queue.pop()?;
        let from = usize::from(from);
        mailbox.waiting[from].fetch_sub(1, AcqRel);
        Some((self.member_at(from), message))
    }

    /// Messages for this member that it has not received.
    pub fn waiting(&self) -> usize {
        self.boxes[self.me].queue.len()
    }

    /// From here on senders write to the wake descriptor; false if a message is already there.
    pub fn prepare_to_sleep(&self) -> bool {
        let mailbox = &self.boxes[self.me];
        mailbox.sleeps.store(true, Release);
        fence(SeqCst);
        let idle = mailbox.queue.is_empty();
        if !idle {
            self.wake_up();
        }
        idle
    }

    pub fn wake_up(&self) {
        self.boxes[self.me].sleeps.store(false, Release);
    }

    /// A blocking eventfd, readable when this member must wake.
    pub fn wake_fd(&self) -> BorrowedFd<'_> {
        self.boxes[self.me].wake.as_fd()
    }
}

impl<M> Mailbox<M> {
    fn new(members: usize, credit: u32) -> io::Result<Self> {
        Ok(Self {
            queue: ArrayQueue::new(members * credit as usize),
            waiting: (0..members).map(|_| AtomicU32::new(0)).collect(),
            credit,
            sleeps: AtomicBool::new(false),
            // Blocking: io_uring answers EAGAIN at once to a read of a non-blocking one.
            wake: eventfd(0, EventfdFlags::CLOEXEC)?,
        })
    }
}

/// Wakes whoever waits for this eventfd.
pub(super) fn signal(wake: BorrowedFd<'_>) {
    // Fails only if 2^64 signals wait already.
    let _ = rustix::io::write(wake, &1u64.to_ne_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shard(number: u8) -> Member {
        Member::Shard(ShardId(number))
    }

    #[test]
    fn a_loud_sender_shuts_out_nobody() {
        let posts = Post::with_room(2, 6).unwrap();
        for number in 0..2 {
            assert_eq!(posts[0].try_send(shard(1), number), Ok(Delivery::Queued));
        }
        assert_eq!(posts[0].try_send(shard(1), 9), Err(9));
        assert_eq!((posts[0].waiting(), posts[1].waiting()), (0, 2));
        assert_eq!(posts[2].try_send(shard(1), 5), Ok(Delivery::Queued));
        assert_eq!(posts[1].try_receive(), Some((shard(0), 0)));
        assert_eq!(posts[0].try_send(shard(1), 2), Ok(Delivery::Queued));
        let rest: Vec<_> = std::iter::from_fn(|| posts[1].try_receive()).collect();
        assert_eq!(rest, [(shard(0), 1), (Member::Clerk, 5), (shard(0), 2)]);
    }

    #[test]
    fn nobody_sleeps_over_a_message() {
        let posts = Post::with_room(1, 8).unwrap();
        assert!(posts[0].prepare_to_sleep());
        assert_eq!(posts[1].try_send(shard(0), ()), Ok(Delivery::Woke));
        let mut count = [0; 8];
        assert_eq!(rustix::io::read(posts[0].wake_fd(), &mut count), Ok(8));
        assert_eq!(posts[1].try_send(shard(0), ()), Ok(Delivery::Queued));
        assert!(!posts[0].prepare_to_sleep());
        assert_eq!(posts[1].try_send(shard(7), ()), Err(()));
    }
}
