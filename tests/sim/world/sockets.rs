//! The media sockets of the node, as the drivers of its shards keep them.

use std::net::SocketAddr;

use tipring::base::time::Instant;
use tipring::machine::media::command::SocketCommand;
use tipring::machine::media::ports::Pair;
use tipring::machine::media::ports::QUARANTINE;
use tipring::machine::media::relay::Verdict;

use crate::stranger;
use crate::world::World;
use crate::world::network::SPRAYER_PORT;
use crate::world::settings::NODE;

const PAIRS_PER_SHARD: u32 = 64;
const FIRST_PORT: u32 = 20_000;

/// A media socket as its shard asked for it.
#[derive(Debug, Default)]
pub(super) struct Socket {
    pub(super) is_open: bool,
    peer: Option<SocketAddr>,
    closed_at: Option<Instant>,
}

impl World {
    /// The pairs of a shard.
    pub(super) fn pairs(shard: u8) -> Vec<Pair> {
        let pairs = (0..PAIRS_PER_SHARD).map(|pair| {
            let port = FIRST_PORT + (u32::from(shard) * PAIRS_PER_SHARD + pair) * 2;
            Pair { interface: 0, rtp: SocketAddr::new(NODE, port as u16), rtcp: SocketAddr::new(NODE, port as u16 + 1) }
        });
        pairs.collect()
    }

    /// Media sockets that are open: shard and slot.
    pub fn open_sockets(&self) -> impl Iterator<Item = (usize, u32)> + '_ {
        self.sockets.iter().enumerate().flat_map(|(shard, sockets)| {
            let open = sockets.iter().filter(|(_, socket)| socket.is_open);
            open.map(move |(slot, _)| (shard, *slot))
        })
    }

    pub(super) fn address_of(shard: usize, slot: u32) -> SocketAddr {
        let port = FIRST_PORT + shard as u32 * PAIRS_PER_SHARD * 2 + slot;
        SocketAddr::new(NODE, port as u16)
    }

    /// A packet for a media port.
    pub(super) fn reach_media(&mut self, from: SocketAddr, to: SocketAddr, bytes: Vec<u8>) {
        let place = u32::from(to.port()) - FIRST_PORT;
        let (shard, slot) = (place / (PAIRS_PER_SHARD * 2), place % (PAIRS_PER_SHARD * 2));
        let socket = self.sockets[shard as usize].entry(slot).or_default();
        let is_open = socket.is_open;
        if self.kernel_filters && (!is_open || socket.peer.is_some_and(|peer| peer != from)) {
            return;
        }
        // Where it goes, and its copy.
        let mut forwards = Vec::new();
        self.on_shard(shard as usize, |exchange, now, shared, out| {
            if let Verdict::Forward { slot, peer } = exchange.relay(slot, from, &bytes, now, shared, out) {
                forwards.extend([Some(peer), exchange.copy_to()].into_iter().flatten().map(|peer| (slot, peer)));
            }
        });
        for (slot, peer) in forwards {
            assert!(is_open, "a packet of a closed port is relayed");
            assert!(!stranger::is_stranger(from.ip()), "a stranger's packet is relayed");
            if let Some(hearing) = self.hearing.as_mut().filter(|_| peer.port() == SPRAYER_PORT) {
                hearing.sent_to_sprayer(to, self.now);
            } else if self.hearing.is_none() {
                assert!(self.phones.iter().any(|phone| phone.has_media_port(peer)), "media goes to {peer}");
            }
            self.transmit(Self::address_of(shard as usize, slot), peer, bytes.clone());
        }
    }

    pub(super) fn on_socket(&mut self, shard: usize, command: SocketCommand) {
        let (SocketCommand::Open { slot }
        | SocketCommand::Close { slot }
        | SocketCommand::Connect { slot, .. }
        | SocketCommand::Disconnect { slot }
        | SocketCommand::CountLost { slot }
        | SocketCommand::TellLost { slot, .. }) = command;
        let socket = self.sockets[shard].entry(slot).or_default();
        match command {
            SocketCommand::Open { .. } => {
                assert!(!socket.is_open, "slot {slot} of shard {shard} is opened twice");
                let rests = socket.closed_at.is_none_or(|closed_at| self.now.since(closed_at) >= QUARANTINE);
                assert!(rests, "slot {slot} of shard {shard} is used again too soon");
                *socket = Socket { is_open: true, ..Socket::default() };
            }
            SocketCommand::Close { .. } => *socket = Socket { closed_at: Some(self.now), ..Socket::default() },
            SocketCommand::Connect { peer, .. } => socket.peer = Some(peer),
            SocketCommand::Disconnect { .. } => socket.peer = None,
            // Sockets of memory lose nothing.
            SocketCommand::CountLost { .. } | SocketCommand::TellLost { .. } => {}
        }
    }
}
