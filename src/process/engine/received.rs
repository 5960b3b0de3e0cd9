//! What the keeper gave the engine, dealt out to the shards.

use std::net::IpAddr;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;

use crate::base::id::ShardId;
use crate::process::channel::Channel;
use crate::process::child::Begun;
use crate::process::exit;
use crate::process::exit::Failure;
use crate::process::plan::EngineSettings;
use crate::wire::control::Passed;
use crate::wire::control::Start;

#[derive(Debug)]
pub struct Received {
    pub start: Start,
    pub settings: EngineSettings,
    /// In the order of their ids.
    pub shards: Vec<ShardHandles>,
    /// Side connects here; does not block.
    pub link: UnixListener,
    pub keeper: Channel,
}

/// The sockets and the memory of one shard; every socket is non-blocking.
#[derive(Debug)]
pub struct ShardHandles {
    pub shard: ShardId,
    pub cpu: Option<u16>,
    /// The same addresses in the same order for every shard: UDP first, then TCP, they are the listeners of the node.
    pub sip_udp: Vec<SipSocket>,
    pub sip_tcp: Vec<SipSocket>,
    pub rtp: Vec<RtpPair>,
    pub state: OwnedFd,
    pub state_bytes: u64,
}

#[derive(Debug)]
pub struct SipSocket {
    /// Index into [`EngineSettings::interfaces`].
    pub interface: u8,
    pub address: SocketAddr,
    pub socket: OwnedFd,
}

/// A pair whose sockets drop every packet until their filter is taken off (`SO_DETACH_FILTER`).
#[derive(Debug)]
pub struct RtpPair {
    pub interface: u8,
    pub address: IpAddr,
    /// Of RTP; RTCP has the next one.
    pub port: u16,
    pub rtp: OwnedFd,
    pub rtcp: OwnedFd,
}

impl Received {
    pub fn sort(begun: Begun) -> Result<Self, (Channel, Failure)> {
        let Begun { start, handles, keeper, .. } = begun;
        match sort(&start, handles) {
            Ok((settings, shards, link)) => Ok(Self { start, settings, shards, link, keeper }),
            Err(failure) => Err((keeper, failure)),
        }
    }
}

type Sorted = (EngineSettings, Vec<ShardHandles>, UnixListener);

fn sort(start: &Start, handles: Vec<(Passed, Vec<OwnedFd>)>) -> Result<Sorted, Failure> {
    let missing = || Failure::new(exit::OTHER, "the keeper passed less than an engine needs");
    let settings = postcard::from_bytes(&start.settings).map_err(|_| missing())?;
    let mut link = None;
    let mut states = Vec::new();
    let mut sockets = Vec::new();
    for (passed, descriptors) in handles {
        let mut descriptors = descriptors.into_iter();
        let first = descriptors.next().ok_or_else(missing)?;
        match passed {
            Passed::Link => link = Some(UnixListener::from(first)),
            Passed::State { shard, bytes } => states.push((shard, first, bytes)),
            Passed::SipUdp { .. } | Passed::SipTcp { .. } | Passed::RtpPair { .. } => {
                sockets.push((passed, first, descriptors.next()));
            }
        }
    }
    states.sort_by_key(|(shard, ..)| *shard);
    if states.len() != usize::from(start.shards) {
        return Err(missing());
    }
    let mut shards: Vec<ShardHandles> = states
        .into_iter()
        .map(|(shard, state, state_bytes)| ShardHandles {
            shard,
            cpu: start.cpus.get(usize::from(shard.0)).copied(),
            sip_udp: Vec::new(),
            sip_tcp: Vec::new(),
            rtp: Vec::new(),
            state,
            state_bytes,
        })
        .collect();
    for (passed, first, second) in sockets {
        deal(&mut shards, passed, first, second).ok_or_else(missing)?;
    }
    Ok((settings, shards, link.ok_or_else(missing)?))
}

fn deal(shards: &mut [ShardHandles], passed: Passed, first: OwnedFd, second: Option<OwnedFd>) -> Option<()> {
    match passed {
        Passed::SipUdp { shard, interface, address } => {
            shards.get_mut(usize::from(shard.0))?.sip_udp.push(SipSocket { interface, address, socket: first });
        }
        Passed::SipTcp { shard, interface, address } => {
            shards.get_mut(usize::from(shard.0))?.sip_tcp.push(SipSocket { interface, address, socket: first });
        }
        Passed::RtpPair { shard, interface, address, port } => {
            let pair = RtpPair { interface, address, port, rtp: first, rtcp: second? };
            shards.get_mut(usize::from(shard.0))?.rtp.push(pair);
        }
        Passed::State { .. } | Passed::Link => {}
    }
    Some(())
}
