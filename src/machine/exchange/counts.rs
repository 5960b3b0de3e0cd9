//! What the exchange counts; published by whoever drives the shard.

use serde::Deserialize;
use serde::Serialize;

use crate::machine::exchange::messages::Messages;
use crate::wire::sip::DropReason;
use crate::wire::sip::Fault;

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    /// Those that scanned, once each: not again by the shard that they are passed on to.
    pub read: Messages,
    /// Challenges sent.
    pub challenges: u64,
    pub retransmissions: u64,
    /// Copies of INVITEs that came another way: 482.
    pub merged: u64,
    /// Challenges and other answers not sent because they would be more than three times as long as the request.
    pub unchallenged: u64,
    /// Requests within dialogs from elsewhere than their phone, challenged or dropped.
    pub elsewhere: u64,
    /// Requests whose credentials were made for another URI.
    pub misdirected: u64,
    /// Messages for another shard.
    pub passed_on: u64,
    /// Messages that did not scan, by [`Unreadable`].
    pub unreadable: [u64; Unreadable::COUNT],
    /// Responses to nothing of ours.
    pub strays: u64,
    pub keep_alives: u64,
    /// 503 because of draining or a full table.
    pub refused_calls: u64,
    /// Calls begun, answered or not.
    pub call_attempts: u64,
    /// Registrations, and requests within calls, refused because they come faster than any phone sends them.
    pub hurried: u64,
    /// Contacts beyond those that one call rings.
    pub contacts_not_rung: u64,
}

/// Why a message did not scan, in few words: see [`Fault`] and [`DropReason`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unreadable {
    TooLong,
    StartLine,
    Version,
    RequestUri,
    Line,
    TooManyHeaders,
    MissingHeader,
    RepeatedHeader,
    MalformedHeader,
    Method,
    Body,
    /// More of something than one message may have.
    Excess,
}

impl Unreadable {
    pub const COUNT: usize = Self::Excess as usize + 1;

    pub fn of_drop(reason: DropReason) -> Self {
        match reason {
            DropReason::TooLong => Self::TooLong,
            DropReason::KeepAlive | DropReason::StartLine => Self::StartLine,
            DropReason::Response(fault) | DropReason::Ack(fault) | DropReason::Unanswerable(fault) => Self::of(fault),
        }
    }

    pub fn of(fault: Fault) -> Self {
        match fault {
            Fault::Version => Self::Version,
            Fault::RequestLine => Self::StartLine,
            Fault::RequestUri | Fault::Scheme => Self::RequestUri,
            Fault::LineEnd | Fault::HeaderLine | Fault::NoEmptyLine => Self::Line,
            Fault::TooManyHeaders => Self::TooManyHeaders,
            Fault::Missing(_) => Self::MissingHeader,
            Fault::Repeated(_) => Self::RepeatedHeader,
            Fault::Malformed(_) => Self::MalformedHeader,
            Fault::Method | Fault::UnknownMethod => Self::Method,
            Fault::BodyTooShort | Fault::BodyTooLong => Self::Body,
            Fault::TooLong(_) | Fault::UriTooLong | Fault::HeadTooLong | Fault::BodyTooLarge => Self::Excess,
        }
    }
}

impl Counts {
    pub(super) fn unreadable(&mut self, why: Unreadable) {
        self.unreadable[why as usize] += 1;
    }
}
