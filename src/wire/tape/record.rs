//! The records of a block's body: a head of 16 bytes, then what its kind holds. Kinds that a reader does not know are skipped.

use serde::Deserialize;
use serde::Serialize;

use crate::base::id::CallId;
use crate::base::time::Instant;
use crate::base::time::UnixTime;
use crate::wire::event::Event;
use crate::wire::tape::block::BODY_BYTES_MAX;
use crate::wire::tape::block::Track;

pub const HEAD_BYTES: usize = 16;
/// Bytes of a frame's record before its packet.
pub const FRAME_HEAD_BYTES: usize = HEAD_BYTES + 16;
/// The longest packet that is recorded; a datagram that is longer is no RTP of a phone.
pub const PACKET_BYTES_MAX: usize = 4_096;
/// The longest record of any kind.
pub const RECORD_BYTES_MAX: usize = 32 * 1024;

const KIND_FRAME: u8 = 1;
const KIND_EVENT: u8 = 2;
const KIND_MARK: u8 = 3;
const KIND_GAP: u8 = 4;

const _: () = assert!(RECORD_BYTES_MAX <= BODY_BYTES_MAX && RECORD_BYTES_MAX <= u16::MAX as usize);
const _: () = assert!(FRAME_HEAD_BYTES + PACKET_BYTES_MAX <= RECORD_BYTES_MAX);

/// A packet as a party sent it: RTP header and payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frame<'a> {
    pub call: CallId,
    /// 0 is the caller's leg, 1 and up the branches.
    pub leg: u8,
    /// Index of the m-line.
    pub stream: u8,
    /// When it was taken from its socket.
    pub at: Instant,
    pub packet: &'a [u8],
}

/// What changed in a recording, among its frames: all that is needed to read them without the events.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Mark {
    Begin {
        tenant: String,
    },
    /// What payload types of the leg's stream mean from here on.
    Formats {
        leg: u8,
        stream: u8,
        formats: Vec<Format>,
    },
    /// Nothing is recorded until [`Mark::Resumed`] or [`Mark::Ended`].
    Paused,
    Resumed,
    /// The last record of the call, or of its recording: how many frames there should be since [`Mark::Begin`].
    Ended {
        frames: Vec<Frames>,
    },
    /// What the leg's party was told about the recording, and whether it heard all of it.
    Announced {
        leg: u8,
        announce: String,
        played: bool,
    },
    /// What reached the node for the recording and is not among its frames, since [`Mark::Begin`]; stands before [`Mark::Ended`].
    Untaped {
        untaped: Vec<Untaped>,
    },
}

/// RTP packets of a leg's stream that were not given to the tape, by the reason.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Untaped {
    pub leg: u8,
    pub stream: u8,
    /// The negotiated direction did not let them through: a held party that went on speaking.
    pub direction: u64,
    /// From an address that was not taken for the party's.
    pub strangers: u64,
    /// Encrypted between the parties.
    pub encrypted: u64,
    /// Not RTP, or longer than a record holds.
    pub malformed: u64,
    /// Lost in our socket because nobody read it in time, as the kernel counts them; RTCP may be among them.
    pub overrun: u64,
    /// Never came, by the sender's numbers (RFC 3550 A.3); those that our socket lost are among them.
    pub lost: u64,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Format {
    pub payload_type: u8,
    /// Encoding name of the rtpmap in lower case; that of RFC 3551 for a static type without one.
    pub name: String,
    pub clock: u32,
    pub channels: u8,
}

/// Frames that were given to the tape, written or shed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Frames {
    pub leg: u8,
    pub stream: u8,
    pub frames: u64,
}

/// Blocks that are not on the tape and never will be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Gap {
    pub boot: u64,
    pub track: Track,
    /// Numbers of the blocks, first and last; all of them, or those that were on a segment that is deleted.
    pub first: u64,
    pub last: u64,
    pub since: UnixTime,
    pub until: UnixTime,
    pub records: u64,
    pub bytes: u64,
    pub cause: GapCause,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum GapCause {
    /// The disk was slower than the ring could ride out.
    Slow,
    /// The disk, or what the tape may use of it, was full.
    Full,
    /// The disk refused.
    Failed,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Record<'a> {
    Frame(Frame<'a>),
    /// `media` is the newest block of the shard's media track when the event happened, 0 if none: with it and all
    /// before it read, or listed in a gap, every frame from before the event is read.
    Event {
        at: Instant,
        media: u64,
        event: Event,
    },
    Mark {
        call: CallId,
        at: Instant,
        mark: Mark,
    },
    Gap {
        at: Instant,
        gap: Gap,
    },
    /// Of a newer release, or an event of a kind that this one does not know.
    Unknown {
        kind: u8,
        at: Instant,
    },
}

/// A block's body that its writer cannot have made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a record that is not whole")]
pub struct BadRecord;

/// A record that no block can hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a record longer than {RECORD_BYTES_MAX} bytes")]
pub struct TooLong;

impl Frame<'_> {
    pub const fn record_len(packet: usize) -> usize {
        FRAME_HEAD_BYTES + packet
    }

    /// Writes the record to the beginning of `room` and says how long it is; nothing if it does not fit.
    #[inline]
    pub fn emit(&self, room: &mut [u8]) -> Option<usize> {
        if self.packet.len() > PACKET_BYTES_MAX {
            return None;
        }
        let len = Self::record_len(self.packet.len());
        let (head, packet) = room.get_mut(..len)?.split_first_chunk_mut::<FRAME_HEAD_BYTES>()?;
        let [l0, l1, ..] = len.to_le_bytes();
        let (start, call) = head.split_first_chunk_mut::<HEAD_BYTES>()?;
        *start = head_of(KIND_FRAME, [l0, l1], self.leg, self.stream, self.at);
        call.copy_from_slice(&self.call.bits().to_le_bytes());
        packet.copy_from_slice(self.packet);
        Some(len)
    }
}

/// The record of an event.
pub fn emit_event(at: Instant, media: u64, event: &Event) -> Result<Vec<u8>, TooLong> {
    let record = begin(media.to_le_bytes());
    finish(KIND_EVENT, at, postcard::to_extend(event, record))
}

pub fn emit_mark(at: Instant, call: CallId, mark: &Mark) -> Result<Vec<u8>, TooLong> {
    let record = begin(call.bits().to_le_bytes());
    finish(KIND_MARK, at, postcard::to_extend(mark, record))
}

pub fn emit_gap(at: Instant, gap: &Gap) -> Result<Vec<u8>, TooLong> {
    finish(KIND_GAP, at, postcard::to_extend(gap, begin([])))
}

fn begin<const N: usize>(fixed: [u8; N]) -> Vec<u8> {
    let mut record = vec![0; HEAD_BYTES];
    record.extend_from_slice(&fixed);
    record
}

fn finish(kind: u8, at: Instant, record: postcard::Result<Vec<u8>>) -> Result<Vec<u8>, TooLong> {
    let mut record = record.map_err(|_| TooLong)?;
    let len = u16::try_from(record.len()).map_err(|_| TooLong)?;
    if usize::from(len) > RECORD_BYTES_MAX {
        return Err(TooLong);
    }
    let head = head_of(kind, len.to_le_bytes(), 0, 0, at);
    record.iter_mut().zip(head).for_each(|(byte, head)| *byte = head);
    Ok(record)
}

fn head_of(kind: u8, [l0, l1]: [u8; 2], leg: u8, stream: u8, at: Instant) -> [u8; HEAD_BYTES] {
    let [a, b, c, d, e, f, g, h] = at.nanos().to_le_bytes();
    [l0, l1, kind, leg, stream, 0, 0, 0, a, b, c, d, e, f, g, h]
}

/// The records of an open body, in order; the first that is not whole ends it with an error.
pub fn records(body: &[u8]) -> Records<'_> {
    Records { rest: body }
}

#[derive(Clone, Debug)]
pub struct Records<'a> {
    rest: &'a [u8],
}

impl<'a> Iterator for Records<'a> {
    type Item = Result<Record<'a>, BadRecord>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let parsed = parse(self.rest);
        self.rest = parsed.as_ref().map_or(&[], |(_, rest)| *rest);
        Some(parsed.map(|(record, _)| record).ok_or(BadRecord))
    }
}

fn parse(bytes: &[u8]) -> Option<(Record<'_>, &[u8])> {
    let &[l0, l1, kind, leg, stream, _, _, _, a, b, c, d, e, f, g, h] = bytes.first_chunk::<HEAD_BYTES>()?;
    let (record, rest) = bytes.split_at_checked(usize::from(u16::from_le_bytes([l0, l1])))?;
    let at = Instant::from_nanos(u64::from_le_bytes([a, b, c, d, e, f, g, h]));
    let content = record.get(HEAD_BYTES..)?;
    let unknown = Record::Unknown { kind, at };
    let record = match kind {
        KIND_FRAME => {
            let (call, packet) = content.split_first_chunk::<16>()?;
            Record::Frame(Frame { call: CallId::from_bits(u128::from_le_bytes(*call)), leg, stream, at, packet })
        }
        KIND_EVENT => {
            let (media, event) = content.split_first_chunk::<8>()?;
            let media = u64::from_le_bytes(*media);
            postcard::from_bytes(event).map_or(unknown, |event| Record::Event { at, media, event })
        }
        KIND_MARK => {
            let (call, mark) = content.split_first_chunk::<16>()?;
            let call = CallId::from_bits(u128::from_le_bytes(*call));
            postcard::from_bytes(mark).map_or(unknown, |mark| Record::Mark { call, at, mark })
        }
        KIND_GAP => postcard::from_bytes(content).map_or(unknown, |gap| Record::Gap { at, gap }),
        _ => unknown,
    };
    Some((record, rest))
}
