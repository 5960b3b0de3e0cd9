//! What the exchange counts; published by whoever drives the shard.

use serde::Deserialize;
use serde::Serialize;

use crate::wire::sip::Method;
use crate::wire::sip::Status;

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    /// By [`Method`], in its order.
    pub requests: [u64; Self::METHODS],
    /// Read, by hundreds of their status from 1xx on.
    pub responses: [u64; 6],
    /// Challenges sent.
    pub challenges: u64,
    pub retransmissions: u64,
    /// Copies of INVITEs that came another way: 482.
    pub merged: u64,
    /// Challenges not sent because they would be more than three times as long as the request.
    pub unchallenged: u64,
    /// Messages for another shard.
    pub passed_on: u64,
    /// Messages that did not scan.
    pub unreadable: u64,
    /// Responses to nothing of ours.
    pub strays: u64,
    /// Datagrams of sources that are not even read.
    pub shut_out: u64,
    pub keep_alives: u64,
    /// 503 because of draining or a full table.
    pub refused_calls: u64,
    /// Calls begun, answered or not.
    pub call_attempts: u64,
}

impl Counts {
    pub const METHODS: usize = Method::Other as usize + 1;

    pub(super) fn response(&mut self, status: Status) {
        if let Some(count) = self.responses.get_mut(usize::from(status.code() / 100).wrapping_sub(1)) {
            *count += 1;
        }
    }

    pub(super) fn request(&mut self, method: Method) {
        if let Some(count) = self.requests.get_mut(method as usize) {
            *count += 1;
        }
    }
}
