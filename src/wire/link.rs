//! Frames between engine and side over the unix socket: `u32` length (little-endian), then a version byte, then postcard.
//!
//! After each connection the engine sends [`FromEngine::Hello`], then the snapshot of registrations and calls up to
//! [`FromEngine::SnapshotEnd`], then events and changes as they come. Events are here for those who watch: what is durable and in
//! order is the tape, and side takes each event from whichever is first.

use std::net::SocketAddr;

use serde::Deserialize;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::base::id::CallId;
use crate::base::id::ShardId;
use crate::base::limit::LINK_FRAME_BYTES_MAX;
use crate::base::time::UnixTime;
use crate::wire::event::Event;
use crate::wire::sip::Transport;
use crate::wire::tape::Track;

/// The format both ends must speak.
pub const VERSION: u8 = 7;

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum FromEngine {
    Hello {
        node: String,
        boot: u64,
        shards: u8,
        directory_version: u64,
    },
    Registration(Registration),
    RegistrationGone {
        tenant: String,
        user: String,
        contact: String,
    },
    Call(LiveCall),
    CallGone {
        call: CallId,
    },
    /// `events`: the last event of each shard that the snapshot is later than. A call that began before, did not end in these and
    /// is not in the snapshot has died with its engine.
    SnapshotEnd {
        events: Vec<(ShardId, u64)>,
    },
    /// As they happen; not all of them where side reads slowly.
    Events {
        boot: u64,
        events: Vec<Event>,
    },
    Trace {
        request: u32,
        steps: Option<Vec<TraceStep>>,
    },
    Done {
        request: u32,
        found: bool,
    },
    Draining(bool),
    /// Every shard has been given this version of the directory.
    DirectoryServed {
        version: u64,
    },
    /// The decisions about a call that has just ended, to be kept for `[retain] trace`.
    CallTrace {
        call: CallId,
        tenant: String,
        steps: Vec<TraceStep>,
    },
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum FromSide {
    /// Replaces the whole directory; sent in parts, in order, the last marked.
    Directory {
        version: u64,
        part: DirectoryPart,
        last: bool,
    },
    /// Brings `from` to `version`; an engine that is not at `from` asks anew by closing the connection.
    DirectoryDelta {
        from: u64,
        version: u64,
        part: DirectoryPart,
    },
    Hangup {
        request: u32,
        call: CallId,
    },
    Trace {
        request: u32,
        subject: String,
    },
    /// Everything up to this segment of a shard's tape is durable: it may be removed.
    TapeAck {
        shard: ShardId,
        track: Track,
        segment: u64,
    },
    /// Answered by [`FromEngine::Done`]: found if the call is up and its recording is as wished from here on.
    Record {
        request: u32,
        call: CallId,
        wish: RecordWish,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RecordWish {
    Start,
    Stop,
    Pause,
    Resume,
}

/// A binding as the API shows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Registration {
    pub tenant: String,
    pub user: String,
    pub contact: String,
    pub transport: Transport,
    /// Where it was seen to come from.
    pub received: SocketAddr,
    pub expires_at: UnixTime,
    pub user_agent: String,
}

/// A call that is up or being set up, as the API shows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LiveCall {
    pub call: CallId,
    pub sip_call_id: String,
    pub tenant: String,
    pub from: String,
    pub to: String,
    pub state: CallState,
    pub started_at: UnixTime,
    pub answered_at: Option<UnixTime>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CallState {
    Routing,
    Ringing,
    Up,
    Held,
    Ending,
}

/// One step of a decision trace.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TraceStep {
    pub at: UnixTime,
    pub leg: Option<u8>,
    /// What kind of decision: "route", "auth", "timer", "media", "sip", …
    pub rule: String,
    pub reason: String,
}

/// Tenants and phones to insert or replace, and the ids of those to remove.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct DirectoryPart {
    pub tenants: Vec<Tenant>,
    pub phones: Vec<Phone>,
    pub tenants_removed: Vec<String>,
    /// (tenant, user)
    pub phones_removed: Vec<(String, String)>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tenant {
    pub name: String,
    pub domain: String,
    pub aliases: Vec<String>,
    pub realm: String,
    pub default: bool,
    pub record: Record,
    pub announce: Announce,
    /// Digest algorithms offered, in this order; empty: the node's.
    pub digest: Vec<String>,
    /// Clients that answer no challenge with SHA in it are offered MD5 alone.
    pub md5_fallback: bool,
    pub record_codecs: RecordCodecs,
}

#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Phone {
    pub tenant: String,
    pub user: String,
    pub auth_user: String,
    pub extension: String,
    pub numbers: Vec<String>,
    pub name: String,
    pub record: Record,
    pub external_id: String,
    pub ha1: Ha1,
    /// Digest algorithms that it is offered, in this order; empty: the tenant's.
    pub digest: Vec<String>,
    pub symmetric: Symmetric,
}

/// Without the digests: a phone may be logged.
impl std::fmt::Debug for Phone {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Phone").field("tenant", &self.tenant).field("user", &self.user).finish_non_exhaustive()
    }
}

/// H(auth_user ":" realm ":" password) as bytes, per algorithm that may be offered to this phone.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ha1 {
    pub md5: Option<[u8; 16]>,
    pub sha256: Option<[u8; 32]>,
    /// SHA-512/256
    pub sha512_256: Option<[u8; 32]>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Record {
    #[default]
    Never,
    Always,
    OnDemand,
}

/// What the parties of a call that may be recorded are offered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RecordCodecs {
    /// Whatever the other party offers.
    #[default]
    Any,
    /// Of that what a recording can decode, if there is any.
    Decodable,
}

/// Whether a phone's media goes where it comes from, or where the phone said.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Symmetric {
    /// Behind a NAT where it comes from, else where the phone said.
    #[default]
    Auto,
    Always,
    Never,
}

impl Symmetric {
    /// As in the directory.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Always => "always",
            Self::Never => "never",
        }
    }
}

/// What both parties hear when a call begins to be recorded.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Announce {
    #[default]
    None,
    Tone,
    /// µ-law.
    File {
        audio: Vec<u8>,
    },
}

/// Without the audio: a tenant may be logged.
impl std::fmt::Debug for Announce {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::None => "None",
            Self::Tone => "Tone",
            Self::File { .. } => "File",
        })
    }
}

/// A frame that cannot be: the connection is closed and made anew.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadFrame {
    #[error("a frame of {0} bytes is larger than the link allows")]
    TooLong(usize),
    #[error("the peer speaks link format {0}")]
    Version(u8),
    #[error("the frame does not decode")]
    Malformed,
}

/// Appends one frame.
pub fn emit<T: Serialize>(message: &T, out: &mut Vec<u8>) -> Result<(), BadFrame> {
    let start = out.len();
    out.extend_from_slice(&[0, 0, 0, 0, VERSION]);
    let body = postcard::to_extend(message, std::mem::take(out)).map_err(|_| BadFrame::Malformed)?;
    *out = body;
    let len = out.len() - start - 4;
    if len > LINK_FRAME_BYTES_MAX {
        out.truncate(start);
        return Err(BadFrame::TooLong(len));
    }
    if let (Some(prefix), Ok(len)) = (out.get_mut(start..start + 4), u32::try_from(len)) {
        prefix.copy_from_slice(&len.to_le_bytes());
    }
    Ok(())
}

/// The first frame of `bytes` and its length, or `None` while it is not whole.
pub fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Result<Option<(T, usize)>, BadFrame> {
    let Some((prefix, rest)) = bytes.split_first_chunk::<4>() else { return Ok(None) };
    let len = u32::from_le_bytes(*prefix) as usize;
    if len > LINK_FRAME_BYTES_MAX {
        return Err(BadFrame::TooLong(len));
    }
    let Some(frame) = rest.get(..len) else { return Ok(None) };
    let Some((&version, body)) = frame.split_first() else { return Err(BadFrame::Malformed) };
    if version != VERSION {
        return Err(BadFrame::Version(version));
    }
    let message = postcard::from_bytes(body).map_err(|_| BadFrame::Malformed)?;
    Ok(Some((message, len + 4)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_round_trip_at_every_split() {
        let messages = [
            FromSide::Hangup { request: 7, call: CallId::from_bits(1) },
            FromSide::TapeAck { shard: ShardId(1), track: Track::Events, segment: 9 },
        ];
        let mut bytes = Vec::new();
        for message in &messages {
            emit(message, &mut bytes).unwrap();
        }
        let (first, len) = parse::<FromSide>(&bytes).unwrap().unwrap();
        assert_eq!(first, messages[0]);
        for split in 0..len {
            assert_eq!(parse::<FromSide>(&bytes[..split]), Ok(None));
        }
        assert_eq!(parse::<FromSide>(&bytes[len..]).unwrap().unwrap().0, messages[1]);
    }

    #[test]
    fn bad_frames_are_named() {
        assert_eq!(parse::<FromSide>(&[255; 4]), Err(BadFrame::TooLong(u32::MAX as usize)));
        assert_eq!(parse::<FromSide>(&[1, 0, 0, 0, 9]), Err(BadFrame::Version(9)));
        assert_eq!(parse::<FromSide>(&[2, 0, 0, 0, VERSION, 99]), Err(BadFrame::Malformed));
        assert_eq!(parse::<FromSide>(&[0, 0, 0, 0]), Err(BadFrame::Malformed));
        let mut out = vec![1];
        let large = FromSide::Trace { request: 0, subject: "x".repeat(LINK_FRAME_BYTES_MAX) };
        assert!(matches!(emit(&large, &mut out), Err(BadFrame::TooLong(_))));
        assert_eq!(out, [1]);
    }
}
