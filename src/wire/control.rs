//! What the keeper and its children say to each other, and what the command line says to the keeper.
//!
//! Keeper and child share a socket of whole messages (`SOCK_SEQPACKET`): each is one frame, a version byte and postcard.
//! The control socket takes commands of one fixed size and answers in parts, so that the keeper parses no text.

use std::net::IpAddr;
use std::net::SocketAddr;
use std::path::PathBuf;

use serde::Deserialize;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::base::id::CallId;
use crate::base::id::ShardId;
use crate::base::limit::CONTROL_FRAME_BYTES_MAX;
use crate::wire::link::LiveCall;
use crate::wire::link::TraceStep;

/// The format that keeper and child must both speak.
pub const VERSION: u8 = 1;

/// From the keeper to engine or side.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum ToChild {
    /// What the descriptors of this very message are, in order.
    Handles(Vec<Passed>),
    /// All handles are there: begin.
    Start(Box<Start>),
    /// New settings of the role; what needs a restart is unchanged in them.
    Settings(Vec<u8>),
    /// Write log files anew: they were moved away.
    ReopenLogs,
    /// Answer new calls 503; `FromChild::CallsUp` tells when none is left.
    Drain,
    Undrain,
    /// End. `now`: BYE everywhere at once; else whatever ends by itself within a second may.
    Stop {
        now: bool,
    },
    Query {
        id: u32,
        query: Query,
    },
    /// To side: what `/readyz` and the metrics say of the keeper.
    Status(Box<Status>),
}

/// From engine or side to the keeper.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum FromChild {
    /// Starting takes long, but goes on: said once a second, until `Ready`.
    Working,
    /// Everything listens.
    Ready,
    /// Cannot start; the process ends with this code, and this line says why.
    Failed { code: u8, line: String },
    /// Calls that are up or being set up: at once after `Drain`, `Undrain` and a start that drains, and while draining at
    /// each change.
    CallsUp(u32),
    /// A part of the answer to a query, an [`Answer`] that the keeper does not read.
    Answer { id: u32, part: Vec<u8>, last: bool },
}

/// A descriptor, or two, and what it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Passed {
    SipUdp {
        shard: ShardId,
        interface: u8,
        address: SocketAddr,
    },
    SipTcp {
        shard: ShardId,
        interface: u8,
        address: SocketAddr,
    },
    /// Two descriptors: RTP at `port`, RTCP at the port after it.
    RtpPair {
        shard: ShardId,
        interface: u8,
        address: IpAddr,
        port: u16,
    },
    /// State memory of a shard.
    State {
        shard: ShardId,
        bytes: u64,
    },
    /// The listening socket of the link to side.
    Link,
}

impl Passed {
    /// How many descriptors stand for it.
    pub fn descriptors(&self) -> usize {
        if matches!(self, Self::RtpPair { .. }) { 2 } else { 1 }
    }
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Start {
    /// Made by the keeper at its start; with node and shard it numbers events.
    pub boot: u64,
    /// How many times this role was started under this keeper, from 1.
    pub generation: u32,
    pub node: String,
    pub shards: u8,
    /// The CPU of each shard.
    pub cpus: Vec<u16>,
    /// The CPU of everything else; `None`: any.
    pub housekeeping: Option<u16>,
    pub data: PathBuf,
    pub run: PathBuf,
    /// As after [`ToChild::Drain`].
    pub draining: bool,
    /// Settings of the role.
    pub settings: Vec<u8>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Query {
    Calls,
    Hangup(CallId),
    /// A call's id or a phone's user.
    Trace(String),
    /// Answered when every shard acts on what it was told before.
    Settled,
    /// How much is up.
    Counts,
}

/// What the engine answers to a [`Query`]; several parts of a list may come.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Answer {
    Calls(Vec<LiveCall>),
    Found(bool),
    Trace {
        found: bool,
        steps: Vec<TraceStep>,
    },
    /// To [`Query::Settled`].
    Settled,
    /// Calls that are up or being set up, and registered contacts.
    Counts {
        calls: u64,
        registrations: u64,
    },
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Status {
    pub node: String,
    pub version: String,
    pub boot: u64,
    pub draining: bool,
    pub stopping: bool,
    /// The last reload was taken over.
    pub reload_success: bool,
    pub calls_up: u32,
    pub rtp: PortCounts,
    pub processes: Vec<ProcessStatus>,
}

/// RTP port pairs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortCounts {
    pub open: u32,
    /// Left out: another process holds one of the two.
    pub held: u32,
    /// Left out: the limit of open files does not allow them.
    pub cut: u32,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessStatus {
    pub role: Role,
    pub state: ProcessState,
    pub generation: u32,
    /// 0 while there is no process.
    pub pid: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    Keeper,
    Engine,
    Side,
}

impl Role {
    pub fn name(self) -> &'static str {
        match self {
            Self::Keeper => "keeper",
            Self::Engine => "engine",
            Self::Side => "side",
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ProcessState {
    Starting,
    Ready,
    Draining,
    Stopping,
    /// Ended; waits for its next start.
    Down,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadFrame {
    #[error("a frame of another version: both processes must be of the same release")]
    Version,
    #[error("not a frame")]
    Malformed,
    #[error("larger than a frame may be")]
    TooLarge,
}

/// A frame's bytes.
pub fn emit<T: Serialize>(frame: &T) -> Result<Vec<u8>, BadFrame> {
    let bytes = postcard::to_extend(frame, vec![VERSION]).map_err(|_| BadFrame::Malformed)?;
    if bytes.len() > CONTROL_FRAME_BYTES_MAX {
        return Err(BadFrame::TooLarge);
    }
    Ok(bytes)
}

pub fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, BadFrame> {
    match bytes.split_first() {
        Some((&VERSION, rest)) => postcard::from_bytes(rest).map_err(|_| BadFrame::Malformed),
        Some(_) => Err(BadFrame::Version),
        None => Err(BadFrame::Malformed),
    }
}

/// Every command has this size.
pub const COMMAND_BYTES: usize = 256;
const COMMAND_MAGIC: [u8; 4] = *b"TRC1";
/// What is left for a command's argument.
pub const ARGUMENT_BYTES_MAX: usize = COMMAND_BYTES - 6;

/// From the command line to the keeper.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    Status,
    Drain,
    Undrain,
    Reload,
    Query(Query),
}

impl Command {
    pub fn emit(&self) -> Result<[u8; COMMAND_BYTES], BadFrame> {
        let (kind, argument) = match self {
            Self::Status => (0, String::new()),
            Self::Drain => (1, String::new()),
            Self::Undrain => (2, String::new()),
            Self::Reload => (3, String::new()),
            Self::Query(Query::Calls) => (4, String::new()),
            Self::Query(Query::Hangup(call)) => (5, call.to_string()),
            Self::Query(Query::Trace(subject)) => (6, subject.clone()),
            Self::Query(Query::Settled) => (7, String::new()),
            Self::Query(Query::Counts) => (8, String::new()),
        };
        let length = u8::try_from(argument.len()).map_err(|_| BadFrame::TooLarge)?;
        let mut bytes = [0; COMMAND_BYTES];
        let head = [COMMAND_MAGIC.as_slice(), &[kind, length]].concat();
        let text = [head.as_slice(), argument.as_bytes()].concat();
        bytes.get_mut(..text.len()).ok_or(BadFrame::TooLarge)?.copy_from_slice(&text);
        Ok(bytes)
    }

    pub fn parse(bytes: &[u8; COMMAND_BYTES]) -> Result<Self, BadFrame> {
        let rest = bytes.strip_prefix(&COMMAND_MAGIC).ok_or(BadFrame::Version)?;
        let (&[kind, length], rest) = rest.split_first_chunk::<2>().ok_or(BadFrame::Malformed)?;
        let argument = rest.get(..usize::from(length)).ok_or(BadFrame::Malformed)?;
        let argument = std::str::from_utf8(argument).map_err(|_| BadFrame::Malformed)?;
        match kind {
            0 => Ok(Self::Status),
            1 => Ok(Self::Drain),
            2 => Ok(Self::Undrain),
            3 => Ok(Self::Reload),
            4 => Ok(Self::Query(Query::Calls)),
            5 => argument.parse().map(|call| Self::Query(Query::Hangup(call))).map_err(|_| BadFrame::Malformed),
            6 => Ok(Self::Query(Query::Trace(argument.to_owned()))),
            7 => Ok(Self::Query(Query::Settled)),
            8 => Ok(Self::Query(Query::Counts)),
            _ => Err(BadFrame::Malformed),
        }
    }
}

/// Before each part of the keeper's answer: what it is, and how many bytes follow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReplyHead {
    pub kind: ReplyKind,
    pub bytes: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReplyKind {
    /// An [`Answer`], more to come.
    Part,
    /// The last [`Answer`], or a [`Status`], or nothing.
    End,
    /// It was not done, and why in text; the command line ends with this code.
    Failed { code: u8 },
}

impl ReplyHead {
    pub const BYTES: usize = 6;

    pub fn emit(self) -> [u8; Self::BYTES] {
        let (kind, code) = match self.kind {
            ReplyKind::Part => (0, 0),
            ReplyKind::End => (1, 0),
            ReplyKind::Failed { code } => (2, code),
        };
        let [a, b, c, d] = self.bytes.to_le_bytes();
        [kind, code, a, b, c, d]
    }

    pub fn parse(bytes: [u8; Self::BYTES]) -> Result<Self, BadFrame> {
        let [kind, code, a, b, c, d] = bytes;
        let kind = match kind {
            0 => ReplyKind::Part,
            1 => ReplyKind::End,
            2 => ReplyKind::Failed { code },
            _ => return Err(BadFrame::Malformed),
        };
        let bytes = u32::from_le_bytes([a, b, c, d]);
        if bytes as usize > CONTROL_FRAME_BYTES_MAX {
            return Err(BadFrame::TooLarge);
        }
        Ok(Self { kind, bytes })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_round_trip() {
        let call = CallId::from_bits(7);
        let trace = Query::Trace("1001@acme.test".to_owned());
        let queries = [Query::Calls, Query::Hangup(call), trace, Query::Settled, Query::Counts].map(Command::Query);
        let commands = [Command::Status, Command::Drain, Command::Undrain, Command::Reload];
        for command in commands.into_iter().chain(queries) {
            assert_eq!(Command::parse(&command.emit().unwrap()), Ok(command));
        }
    }

    #[test]
    fn a_foreign_command_is_refused() {
        let mut bytes = Command::Status.emit().unwrap();
        bytes[4] = 99;
        assert_eq!(Command::parse(&bytes), Err(BadFrame::Malformed));
        bytes[0] = b'G';
        assert_eq!(Command::parse(&bytes), Err(BadFrame::Version));
        let mut bytes = Command::Status.emit().unwrap();
        (bytes[4], bytes[5]) = (6, 255);
        assert_eq!(Command::parse(&bytes), Err(BadFrame::Malformed));
        let long = "x".repeat(ARGUMENT_BYTES_MAX + 1);
        assert_eq!(Command::Query(Query::Trace(long)).emit(), Err(BadFrame::TooLarge));
    }

    #[test]
    fn frames_round_trip_and_others_are_refused() {
        let frame = FromChild::Failed { code: 75, line: "busy".to_owned() };
        let mut bytes = emit(&frame).unwrap();
        assert_eq!(parse(&bytes), Ok(frame));
        bytes[0] += 1;
        assert_eq!(parse::<FromChild>(&bytes), Err(BadFrame::Version));
        assert_eq!(parse::<FromChild>(&[]), Err(BadFrame::Malformed));
        let large = ToChild::Settings(vec![0; CONTROL_FRAME_BYTES_MAX]);
        assert_eq!(emit(&large), Err(BadFrame::TooLarge));
    }

    #[test]
    fn reply_heads_round_trip() {
        for kind in [ReplyKind::Part, ReplyKind::End, ReplyKind::Failed { code: 78 }] {
            let head = ReplyHead { kind, bytes: 70_000 };
            assert_eq!(ReplyHead::parse(head.emit()), Ok(head));
        }
        assert_eq!(ReplyHead::parse([0, 0, 0, 0, 0, 255]), Err(BadFrame::TooLarge));
    }
}
