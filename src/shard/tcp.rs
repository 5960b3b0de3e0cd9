//! SIP over TCP: connections of a shard, accepted on listeners that the keeper made, or opened. One table per shard.
//!
//! An idle connection holds no buffer: it is read into one that all share, and only the begin of an unfinished message is kept.
//! What the peer does not take at once is queued up to a limit; who does not read, says nothing, or is one too many is closed and
//! counted. A stranger gives way to a newcomer where its source, its network or the table is full; who has registered never does. Where
//! messages end is [`Framer`]'s knowledge, what they mean the machine's.

mod strangers;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use rustix::io::Errno;
use rustix::net::AddressFamily;
use rustix::net::RecvFlags;
use rustix::net::SendFlags;
use rustix::net::Shutdown;
use rustix::net::SocketFlags;
use rustix::net::SocketType;
use rustix::net::acceptfrom_with;
use rustix::net::connect;
use rustix::net::recv;
use rustix::net::send;
use rustix::net::shutdown;
use rustix::net::socket_with;
use rustix::net::sockopt::set_tcp_nodelay;

use crate::base::id::Handle;
use crate::base::limit::TCP_CONNECTIONS_PER_SHARD_MAX;
use crate::base::limit::TCP_STRANGERS_PER_NETWORK_MAX;
use crate::base::limit::TCP_STRANGERS_PER_SOURCE_MAX;
use crate::base::slab::Slab;
use crate::base::time::Instant;
use crate::shard::memory::Counter;
use crate::shard::memory::Figures;
use crate::shard::run::OWN_CONNECTION;
use crate::shard::tcp::strangers::Rank;
use crate::shard::tcp::strangers::Source;
use crate::shard::tcp::strangers::Strangers;
use crate::shard::udp::DatagramIo;
use crate::shard::udp::UdpError;
use crate::wire::sip::Frame;
use crate::wire::sip::Framer;

/// Bounds of one shard's connections.
#[derive(Clone)]
pub struct StreamLimits {
    pub connections_max: u32,
    /// Connections of one source that nobody has registered over: of an IPv4 address, or of an IPv6 network of 64 bits.
    pub per_source_max: u32,
    /// The same of an IPv6 network of 48 bits.
    pub per_network_max: u32,
    /// Connections of one source that somebody has registered over; further ones stay strangers.
    pub known_per_source_max: u32,
    /// Bytes queued for one connection that does not read.
    pub queued_max: usize,
    /// A stranger's first message must be whole by then.
    pub first_message: Duration,
    /// A stranger may be silent that long.
    pub stranger_idle: Duration,
    /// Queued bytes must move within this.
    pub stuck: Duration,
    /// Sources whose number of connections is not limited.
    pub trusted: Arc<dyn Fn(IpAddr) -> bool + Send + Sync>,
}

impl Default for StreamLimits {
    fn default() -> Self {
        Self {
            connections_max: TCP_CONNECTIONS_PER_SHARD_MAX,
            per_source_max: TCP_STRANGERS_PER_SOURCE_MAX,
            per_network_max: TCP_STRANGERS_PER_NETWORK_MAX,
            known_per_source_max: TCP_CONNECTIONS_PER_SHARD_MAX / 2,
            queued_max: 256 * 1024,
            first_message: Duration::from_secs(10),
            stranger_idle: Duration::from_secs(60),
            stuck: Duration::from_secs(30),
            trusted: Arc::new(|_| false),
        }
    }
}

impl StreamLimits {
    /// No source and no network takes all of a table that is smaller than usual.
    pub fn with_connections(self, connections: u32) -> Self {
        let connections_max = connections.min(self.connections_max);
        Self {
            connections_max,
            per_source_max: self.per_source_max.min(connections_max / 4),
            per_network_max: self.per_network_max.min(connections_max / 2),
            known_per_source_max: self.known_per_source_max.min(connections_max / 2),
            ..self
        }
    }
}

impl std::fmt::Debug for StreamLimits {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("StreamLimits").field("connections_max", &self.connections_max).finish_non_exhaustive()
    }
}

/// What a connection's bytes turned out to be.
pub(super) enum Arrival {
    /// So many bytes are a message.
    Message(usize),
    /// So many bytes are the head of a message behind which the stream cannot be read on.
    Last(usize),
    Nothing,
}

/// Bytes of a connection, in the buffer that all share or in its own.
pub(super) struct Reading {
    pub(super) bytes: Vec<u8>,
    shared: bool,
}

struct Connection {
    socket: OwnedFd,
    peer: SocketAddr,
    listener: u16,
    framer: Framer,
    /// The begin of an unfinished message.
    partial: Vec<u8>,
    /// What the peer did not take yet.
    queued: Vec<u8>,
    last_message: Instant,
    moved: Instant,
    heard: bool,
    standing: Standing,
    /// To be closed when the queue is empty.
    closing: bool,
}

impl Connection {
    fn new(socket: OwnedFd, peer: SocketAddr, listener: u16, now: Instant) -> Self {
        Self {
            socket,
            peer,
            listener,
            framer: Framer::default(),
            partial: Vec::new(),
            queued: Vec::new(),
            last_message: now,
            moved: now,
            heard: false,
            standing: Standing::Ours,
            closing: false,
        }
    }

    fn is_stranger(&self) -> bool {
        matches!(self.standing, Standing::Stranger(_))
    }
}

enum Standing {
    Stranger(Rank),
    /// Somebody has registered over it.
    Known,
    /// We opened it.
    Ours,
}

/// All connections of a shard.
pub(super) struct Streams {
    limits: StreamLimits,
    listeners: Vec<OwnedFd>,
    connections: Slab<Connection>,
    strangers: Strangers,
    /// How many of a source are known.
    known: BTreeMap<Source, u32>,
    /// Gone, and not yet told to the machine.
    pub(super) closed: Vec<Handle>,
    /// Tokens with more to do in the next turn.
    again: Vec<u32>,
    scratch: Vec<u8>,
    now: Instant,
}

/// Bytes read in one go; a multiple of what a message usually has.
const SCRATCH_BYTES: usize = 64 * 1024;
const GROWTH_BYTES: usize = 4 * 1024;
const ACCEPTS_PER_TURN: usize = 64;
const READS_PER_TURN: usize = 4;
/// Tokens below this are listeners, from here on connections.
const TOKEN_CONNECTIONS: u32 = 64;
const PONG: &[u8] = b"\r\n";

impl Streams {
    pub(super) fn new(
        limits: StreamLimits,
        listeners: Vec<OwnedFd>,
        now: Instant,
        io: &mut impl DatagramIo,
    ) -> Result<Self, UdpError> {
        for (token, listener) in (0..TOKEN_CONNECTIONS).zip(&listeners) {
            io.watch(token, listener.as_fd())?;
        }
        let connections = Slab::new(limits.connections_max);
        Ok(Self {
            limits,
            listeners,
            connections,
            strangers: Strangers::default(),
            known: BTreeMap::new(),
            closed: Vec::new(),
            again: Vec::new(),
            scratch: Vec::with_capacity(SCRATCH_BYTES),
            now,
        })
    }

    pub(super) fn begin_turn(&mut self, now: Instant, io: &mut impl DatagramIo) {
        self.now = now;
        for token in self.again.drain(..) {
            io.mark_ready(token);
        }
    }

    pub(super) fn has_work(&self) -> bool {
        !self.again.is_empty() || !self.closed.is_empty()
    }

    fn token(connection: Handle) -> u32 {
        TOKEN_CONNECTIONS + connection.slot
    }

    /// Accepts if the token is a listener's; else says whose it is.
    pub(super) fn on_ready(&mut self, token: u32, io: &mut impl DatagramIo, figures: &Figures) -> Option<Handle> {
        if token < TOKEN_CONNECTIONS {
            self.accept(token, io, figures);
            return None;
        }
        let connection = self.connections.handle_at(token - TOKEN_CONNECTIONS)?;
        self.write_queued(connection, io, figures);
        Some(connection)
    }

    fn accept(&mut self, token: u32, io: &mut impl DatagramIo, figures: &Figures) {
        for _ in 0..ACCEPTS_PER_TURN {
            let Some(listener) = self.listeners.get(token as usize) else { return };
            match acceptfrom_with(listener, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK) {
                Ok((socket, Some(peer))) => {
                    if let Ok(peer) = SocketAddr::try_from(peer) {
                        self.admit(socket, peer, token as u16, io, figures);
                    }
                }
                Ok((_, None)) | Err(Errno::CONNABORTED | Errno::INTR) => {}
                Err(Errno::AGAIN) => return,
                Err(_) => {
                    // No descriptor or memory left: looked at again when something closes, or by the sweep.
                    figures.add(Counter::TcpAcceptErrors, 1);
                    self.end_stranger(None, Counter::TcpClosedTotal, io, figures);
                    return;
                }
            }
        }
        self.again.push(token);
    }

    fn admit(&mut self, socket: OwnedFd, peer: SocketAddr, listener: u16, io: &mut impl DatagramIo, figures: &Figures) {
        let source = Source::of(peer.ip());
        if !(self.limits.trusted)(peer.ip()) {
            self.keep_within(source, self.limits.per_source_max, Counter::TcpClosedSource, io, figures);
            if let Some(wide) = source.wide() {
                self.keep_within(wide, self.limits.per_network_max, Counter::TcpClosedNetwork, io, figures);
            }
        }
        if !self.make_room(io, figures) {
            return;
        }
        // Failure leaves the peer with Nagle's delays.
        let _ = set_tcp_nodelay(&socket, true);
        let connection = Connection::new(socket, peer, listener, self.now);
        let Ok(handle) = self.connections.insert(connection) else { return };
        figures.add(Counter::TcpAccepted, 1);
        let Some(connection) = self.connections.get_mut(handle) else { return };
        connection.standing = Standing::Stranger(self.strangers.enter(handle, source));
        if io.watch(Self::token(handle), connection.socket.as_fd()).is_err() {
            self.remove(handle, Counter::TcpClosedError, io, figures);
        }
    }

    /// Leaves room for one more of a source's strangers.
    fn keep_within(&mut self, of: Source, max: u32, reason: Counter, io: &mut impl DatagramIo, figures: &Figures) {
        while self.strangers.of(of) >= max.max(1) as usize {
            self.end_stranger(Some(of), reason, io, figures);
        }
    }

    /// False where all places are held by those who do not give way.
    fn make_room(&mut self, io: &mut impl DatagramIo, figures: &Figures) -> bool {
        let has_room = !self.connections.is_full() || self.end_stranger(None, Counter::TcpClosedTotal, io, figures);
        if !has_room {
            figures.add(Counter::TcpRefusedTotal, 1);
        }
        has_room
    }

    /// Ends the one that is silent the longest.
    fn end_stranger(
        &mut self,
        of: Option<Source>,
        reason: Counter,
        io: &mut impl DatagramIo,
        figures: &Figures,
    ) -> bool {
        let Some(handle) = self.strangers.most_silent(of) else { return false };
        self.remove(handle, reason, io, figures);
        true
    }

    /// Begins a connection of our own, which no deadline for strangers ends.
    pub(super) fn open(&mut self, to: SocketAddr, io: &mut impl DatagramIo, figures: &Figures) -> Option<Handle> {
        if !self.make_room(io, figures) {
            return None;
        }
        let family = if to.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = socket_with(family, SocketType::STREAM, flags, None).ok()?;
        // Failure leaves us with Nagle's delays.
        let _ = set_tcp_nodelay(&socket, true);
        match connect(&socket, &to) {
            Ok(()) | Err(Errno::INPROGRESS) => {}
            Err(_) => return None,
        }
        let connection = Connection::new(socket, to, OWN_CONNECTION, self.now);
        let handle = self.connections.insert(connection).ok()?;
        let watched = self.connections.get(handle).map(|c| io.watch(Self::token(handle), c.socket.as_fd()));
        if !matches!(watched, Some(Ok(()))) {
            self.remove(handle, Counter::TcpClosedError, io, figures);
            return None;
        }
        Some(handle)
    }

    /// Reads once: what was unfinished and what has come. None if there is nothing (more) to read.
    pub(super) fn read(&mut self, handle: Handle, io: &mut impl DatagramIo, figures: &Figures) -> Option<Reading> {
        let connection = self.connections.get_mut(handle).filter(|c| !c.closing)?;
        let shared = connection.partial.is_empty();
        let mut bytes = std::mem::take(if shared { &mut self.scratch } else { &mut connection.partial });
        let begun = bytes.len();
        bytes.reserve(if shared { SCRATCH_BYTES } else { GROWTH_BYTES });
        let result = recv(&connection.socket, rustix::buffer::spare_capacity(&mut bytes), RecvFlags::DONTWAIT);
        let reading = Reading { bytes, shared };
        match result {
            Ok((_, len)) if len > 0 => return Some(reading),
            Err(Errno::AGAIN | Errno::INTR) => self.finish(handle, reading, if shared { begun } else { 0 }),
            Ok(_) => self.remove(handle, Counter::TcpClosedPeer, io, figures),
            Err(_) => self.remove(handle, Counter::TcpClosedError, io, figures),
        }
        None
    }

    /// Keeps what is left behind the first `passed` bytes, and as little memory as that needs.
    pub(super) fn finish(&mut self, handle: Handle, reading: Reading, passed: usize) {
        let Reading { mut bytes, shared } = reading;
        let left = bytes.get(passed..).unwrap_or_default();
        let connection = self.connections.get_mut(handle).filter(|c| !c.closing && !left.is_empty());
        if shared {
            if let Some(connection) = connection {
                connection.partial = left.to_vec();
            }
            bytes.clear();
            self.scratch = bytes;
        } else if let Some(connection) = connection {
            bytes.drain(..passed);
            connection.partial = bytes;
        }
    }

    /// Finds the first message; says how many bytes before it are done with. Keep-alives are answered and passed over.
    pub(super) fn frame(
        &mut self,
        handle: Handle,
        bytes: &[u8],
        io: &mut impl DatagramIo,
        figures: &Figures,
    ) -> (usize, Arrival) {
        let mut passed = 0;
        loop {
            let Some(connection) = self.connections.get_mut(handle).filter(|c| !c.closing) else {
                return (bytes.len(), Arrival::Nothing);
            };
            match connection.framer.next(&bytes[passed..]) {
                Frame::Message { len } => {
                    connection.last_message = self.now;
                    connection.heard = true;
                    if let Standing::Stranger(rank) = &mut connection.standing {
                        *rank = self.strangers.speak(*rank);
                    }
                    figures.add(Counter::TcpMessages, 1);
                    return (passed, Arrival::Message(len));
                }
                Frame::KeepAlive { len } => passed += len,
                Frame::Ping { len } => {
                    passed += len;
                    self.write(handle, PONG, io, figures);
                }
                Frame::Partial => return (passed, Arrival::Nothing),
                Frame::Broken { head: 0 } => {
                    self.close_for(handle, Counter::TcpClosedFraming, io, figures);
                    return (bytes.len(), Arrival::Nothing);
                }
                Frame::Broken { head } => return (passed, Arrival::Last(head)),
            }
        }
    }

    /// Closes after the answer to the last message of a broken stream.
    pub(super) fn close_broken(&mut self, handle: Handle, io: &mut impl DatagramIo, figures: &Figures) {
        self.close_for(handle, Counter::TcpClosedFraming, io, figures);
    }

    pub(super) fn more_next_turn(&mut self, handle: Handle) {
        self.again.push(Self::token(handle));
    }

    pub(super) const fn reads_per_turn() -> usize {
        READS_PER_TURN
    }

    /// Peer and listener of a connection.
    pub(super) fn ends(&self, handle: Handle) -> Option<(SocketAddr, u16)> {
        self.connections.get(handle).map(|c| (c.peer, c.listener))
    }

    /// Writes now what the socket takes, and queues the rest. False if the connection is gone or is closed for this.
    pub(super) fn write(&mut self, handle: Handle, bytes: &[u8], io: &mut impl DatagramIo, figures: &Figures) -> bool {
        let queued_max = self.limits.queued_max;
        let Some(connection) = self.connections.get_mut(handle).filter(|c| !c.closing) else {
            figures.add(Counter::TcpNoConnection, 1);
            return false;
        };
        let mut rest = bytes;
        if connection.queued.is_empty() {
            match send(&connection.socket, bytes, SendFlags::DONTWAIT | SendFlags::NOSIGNAL) {
                Ok(sent) => rest = &bytes[sent..],
                Err(Errno::AGAIN | Errno::INTR) => {}
                Err(_) => {
                    self.remove(handle, Counter::TcpClosedError, io, figures);
                    return false;
                }
            }
            connection.moved = self.now;
        }
        if connection.queued.len() + rest.len() > queued_max {
            self.remove(handle, Counter::TcpClosedSlow, io, figures);
            return false;
        }
        connection.queued.extend_from_slice(rest);
        true
    }

    fn write_queued(&mut self, handle: Handle, io: &mut impl DatagramIo, figures: &Figures) {
        let Some(connection) = self.connections.get_mut(handle) else { return };
        while !connection.queued.is_empty() {
            match send(&connection.socket, &connection.queued, SendFlags::DONTWAIT | SendFlags::NOSIGNAL) {
                Ok(sent) => {
                    connection.queued.drain(..sent);
                    connection.moved = self.now;
                }
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return,
                Err(_) => {
                    self.remove(handle, Counter::TcpClosedError, io, figures);
                    return;
                }
            }
        }
        connection.queued = Vec::new();
        if connection.closing {
            self.remove(handle, Counter::TcpClosedOurs, io, figures);
        }
    }

    /// Ends a connection after what is queued for it.
    pub(super) fn close(&mut self, handle: Handle, io: &mut impl DatagramIo, figures: &Figures) {
        self.close_for(handle, Counter::TcpClosedOurs, io, figures);
    }

    fn close_for(&mut self, handle: Handle, reason: Counter, io: &mut impl DatagramIo, figures: &Figures) {
        let Some(connection) = self.connections.get_mut(handle) else { return };
        connection.closing = true;
        if connection.queued.is_empty() {
            self.remove(handle, reason, io, figures);
        }
    }

    pub(super) fn keep(&mut self, handle: Handle) {
        let Some(connection) = self.connections.get_mut(handle) else { return };
        let Standing::Stranger(rank) = connection.standing else { return };
        let source = Source::of(connection.peer.ip());
        let known = self.known.entry(source).or_default();
        if *known >= self.limits.known_per_source_max && !(self.limits.trusted)(connection.peer.ip()) {
            return;
        }
        *known += 1;
        connection.standing = Standing::Known;
        self.strangers.leave(rank);
    }

    fn forget(&mut self, connection: &Connection) {
        match connection.standing {
            Standing::Stranger(rank) => {
                self.strangers.leave(rank);
            }
            Standing::Known => {
                let source = Source::of(connection.peer.ip());
                if let Some(known) = self.known.get_mut(&source) {
                    *known -= 1;
                    if *known == 0 {
                        self.known.remove(&source);
                    }
                }
            }
            Standing::Ours => {}
        }
    }

    fn remove(&mut self, handle: Handle, reason: Counter, io: &mut impl DatagramIo, figures: &Figures) {
        let Some(connection) = self.connections.remove(handle) else { return };
        figures.add(reason, 1);
        io.unwatch(Self::token(handle));
        // The watch holds the socket until it is cancelled; the peer shall know at once.
        let _ = shutdown(&connection.socket, Shutdown::Both);
        self.forget(&connection);
        self.closed.push(handle);
    }

    /// Once a second: closes silent strangers and peers that do not read.
    pub(super) fn sweep(&mut self, io: &mut impl DatagramIo, figures: &Figures) {
        let mut overdue = Vec::new();
        for (handle, connection) in self.connections.iter() {
            let silent = self.now.since(connection.last_message);
            let silent_max = if connection.heard { self.limits.stranger_idle } else { self.limits.first_message };
            if !connection.queued.is_empty() && self.now.since(connection.moved) > self.limits.stuck {
                overdue.push((handle, Counter::TcpClosedSlow));
            } else if connection.is_stranger() && silent > silent_max {
                overdue.push((handle, Counter::TcpClosedIdle));
            }
        }
        for (handle, reason) in overdue {
            self.remove(handle, reason, io, figures);
        }
        // A listener that could not be served for lack of descriptors is not reported again by itself.
        let listeners = self.listeners.len() as u32;
        self.again.extend((0..listeners).filter(|_| self.connections.len() < self.limits.connections_max as usize));
    }
}
