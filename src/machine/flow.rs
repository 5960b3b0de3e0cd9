//! The way a SIP message came, and the way its answer goes: RFC 5626's flow, for UDP and connections alike.

use std::fmt;
use std::net::SocketAddr;

use serde::Deserialize;
use serde::Serialize;

use crate::base::id::Handle;
use crate::base::id::ShardId;
use crate::wire::sip::Transport;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Flow {
    /// Index into [`Settings::listeners`](crate::machine::settings::Settings::listeners): the local address.
    pub listener: u8,
    /// The source address seen.
    pub peer: SocketAddr,
    /// `None`: UDP.
    pub connection: Option<Connection>,
}

/// A TCP connection and the shard that holds it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Connection {
    pub shard: ShardId,
    pub handle: Handle,
}

impl Flow {
    pub fn udp(listener: u8, peer: SocketAddr) -> Self {
        Self { listener, peer, connection: None }
    }

    /// Retransmission is the transport's business (RFC 3261 §17: "reliable transport").
    pub fn is_reliable(&self) -> bool {
        self.connection.is_some()
    }

    pub fn transport(&self) -> Transport {
        if self.is_reliable() { Transport::Tcp } else { Transport::Udp }
    }
}

impl fmt::Display for Flow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.transport().word(), self.peer)
    }
}
