//! The engine's end of the link: one connection of the side process at a time, bounded both ways.
//!
//! Events come from the spool, at the pace at which side reads. Live changes that do not fit end the connection: side
//! connects again and gets a fresh snapshot.

use std::io;
use std::io::Read;
use std::io::Write;
use std::os::fd::AsFd;
use std::os::fd::BorrowedFd;
use std::os::unix::net::UnixListener;
use std::os::unix::net::UnixStream;

use crate::base::limit::LINK_FRAME_BYTES_MAX;
use crate::process::engine::clerk::spool::Cursor;
use crate::process::engine::clerk::spool::Spool;
use crate::wire::link;
use crate::wire::link::FromEngine;
use crate::wire::link::FromSide;

/// Above this, events wait in the spool.
const EVENTS_OUT_BYTES_MAX: usize = 256 << 10;
/// Above this, side has stopped reading.
const OUT_BYTES_MAX: usize = 64 << 20;
const EVENTS_PER_FRAME_MAX: usize = 100;
const READ_BYTES: usize = 64 << 10;

#[derive(Debug)]
pub struct Link {
    listener: UnixListener,
    connection: Option<Connection>,
    /// Connections ended because side read too slowly or sent what is not a frame.
    pub faults: u64,
}

#[derive(Debug)]
struct Connection {
    stream: UnixStream,
    received: Vec<u8>,
    out: Vec<u8>,
    written: usize,
    cursor: Cursor,
    /// The snapshot is sent; what waits in the spool is not.
    owes_spool_end: bool,
}

/// What became of a look at the sockets.
#[derive(Debug, Default)]
pub struct Progress {
    /// A new connection: it wants Hello and a snapshot.
    pub connected: bool,
    pub messages: Vec<FromSide>,
}

impl Link {
    pub fn new(listener: UnixListener) -> io::Result<Self> {
        listener.set_nonblocking(true)?;
        Ok(Self { listener, connection: None, faults: 0 })
    }

    pub fn is_connected(&self) -> bool {
        self.connection.is_some()
    }

    pub fn listener(&self) -> BorrowedFd<'_> {
        self.listener.as_fd()
    }

    /// The connection's socket, and whether it waits for room to write.
    pub fn connection(&self) -> Option<(BorrowedFd<'_>, bool)> {
        self.connection
            .as_ref()
            .map(|connection| (connection.stream.as_fd(), connection.written < connection.out.len()))
    }

    /// Accepts, reads and writes what can be without waiting.
    pub fn turn(&mut self, spool: &Spool) -> Progress {
        let mut progress = Progress { connected: self.accept(), messages: Vec::new() };
        let Some(connection) = &mut self.connection else { return progress };
        let read = connection.read(&mut progress.messages);
        let written = read.and_then(|()| connection.write_events(spool));
        if let Err(error) = written {
            if error.kind() == io::ErrorKind::InvalidData {
                self.faults += 1;
            }
            self.connection = None;
        }
        progress
    }

    /// Sends a live change or an answer; nothing if side is not there.
    pub fn send(&mut self, message: &FromEngine) {
        let Some(connection) = &mut self.connection else { return };
        connection.owes_spool_end |= *message == FromEngine::SnapshotEnd;
        let emitted = link::emit(message, &mut connection.out);
        if emitted.is_err() || connection.out.len() - connection.written > OUT_BYTES_MAX {
            self.faults += 1;
            self.connection = None;
        }
    }

    /// Ends the connection; side makes another.
    pub fn close(&mut self) {
        self.connection = None;
    }

    /// A new connection replaces the old one: there is one side process, and it has just started again.
    fn accept(&mut self) -> bool {
        let mut accepted = false;
        while let Ok((stream, _)) = self.listener.accept() {
            if stream.set_nonblocking(true).is_ok() {
                let cursor = Cursor::default();
                self.connection = Some(Connection {
                    stream,
                    received: Vec::new(),
                    out: Vec::new(),
                    written: 0,
                    cursor,
                    owes_spool_end: false,
                });
                accepted = true;
            }
        }
        accepted
    }
}

impl Connection {
    fn read(&mut self, messages: &mut Vec<FromSide>) -> io::Result<()> {
        let mut buffer = [0; READ_BYTES];
        // One frame may be waiting for its rest: more than that is read in the next turn.
        while self.received.len() <= LINK_FRAME_BYTES_MAX {
            match self.stream.read(&mut buffer) {
                Ok(0) => return Err(io::ErrorKind::ConnectionReset.into()),
                Ok(len) => self.received.extend_from_slice(&buffer[..len]),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => return Err(error),
            }
        }
        let mut parsed = 0;
        while let Some((message, len)) = link::parse(&self.received[parsed..]).map_err(invalid)? {
            messages.push(message);
            parsed += len;
        }
        self.received.drain(..parsed);
        Ok(())
    }

    fn write_events(&mut self, spool: &Spool) -> io::Result<()> {
        loop {
            self.write()?;
            if self.out.len() - self.written >= EVENTS_OUT_BYTES_MAX {
                return Ok(());
            }
            let Some((boot, events)) = self.cursor.next(spool, EVENTS_PER_FRAME_MAX)? else {
                return self.end_spool();
            };
            link::emit(&FromEngine::Events { boot, events }, &mut self.out).map_err(invalid)?;
        }
    }

    fn end_spool(&mut self) -> io::Result<()> {
        if std::mem::take(&mut self.owes_spool_end) {
            link::emit(&FromEngine::SpoolEnd, &mut self.out).map_err(invalid)?;
            self.write()?;
        }
        Ok(())
    }

    fn write(&mut self) -> io::Result<()> {
        while self.written < self.out.len() {
            match self.stream.write(&self.out[self.written..]) {
                Ok(len) => self.written += len,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error),
            }
        }
        self.out.clear();
        self.written = 0;
        Ok(())
    }
}

fn invalid(error: link::BadFrame) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::id::CallId;
    use crate::base::id::ShardId;
    use crate::base::time::UnixTime;
    use crate::wire::event::Body;
    use crate::wire::event::Event;

    struct World {
        _dir: tempfile::TempDir,
        path: std::path::PathBuf,
        spool: Spool,
        link: Link,
    }

    fn world() -> World {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("link.sock");
        let spool = Spool::open(&dir.path().join("spool"), 1 << 20, 1 << 24).unwrap();
        let link = Link::new(UnixListener::bind(&path).unwrap()).unwrap();
        World { _dir: dir, path, spool, link }
    }

    impl World {
        fn event(&mut self, seq: u64) {
            let event = Event {
                shard: ShardId(0),
                seq,
                at: UnixTime::default(),
                tenant: String::new(),
                call: None,
                leg: None,
                body: Body::CallAnswered,
            };
            self.spool.push(1, &event);
            self.spool.write().unwrap();
        }

        /// Turns until side has received `seqs` events; the seqs as received.
        fn receive(&mut self, side: &mut UnixStream, seqs: usize) -> Vec<u64> {
            side.set_nonblocking(true).unwrap();
            let (mut bytes, mut received) = (Vec::new(), Vec::new());
            let mut buffer = [0; 1000];
            for _ in 0..100_000 {
                self.link.turn(&self.spool);
                if let Ok(len) = side.read(&mut buffer) {
                    bytes.extend_from_slice(&buffer[..len]);
                }
                while let Some((message, len)) = link::parse::<FromEngine>(&bytes).unwrap() {
                    bytes.drain(..len);
                    if let FromEngine::Events { events, .. } = message {
                        received.extend(events.iter().map(|event| event.seq));
                    }
                }
                if received.len() >= seqs {
                    return received;
                }
            }
            panic!("{} of {seqs} events", received.len());
        }
    }

    #[test]
    fn every_connection_gets_all_that_is_not_acknowledged() {
        let mut world = world();
        for seq in 1..=5000 {
            world.event(seq);
        }
        for _ in 0..2 {
            let mut side = UnixStream::connect(&world.path).unwrap();
            assert!(world.link.turn(&world.spool).connected);
            let seqs = world.receive(&mut side, 5000);
            assert_eq!(seqs, (1..=5000).collect::<Vec<_>>());
        }
    }

    #[test]
    fn the_end_of_the_spool_follows_the_snapshot_and_all_that_waited() {
        let mut world = world();
        let mut side = UnixStream::connect(&world.path).unwrap();
        for seq in 1..=300 {
            world.event(seq);
        }
        world.link.turn(&world.spool);
        world.event(301);
        world.link.send(&FromEngine::SnapshotEnd);
        for _ in 0..3 {
            world.link.turn(&world.spool);
        }
        side.set_nonblocking(true).unwrap();
        let mut bytes = vec![0; 1 << 20];
        let len = side.read(&mut bytes).unwrap();
        let (mut at, mut kinds) = (0, Vec::new());
        while let Some((message, used)) = link::parse::<FromEngine>(&bytes[at..len]).unwrap() {
            at += used;
            kinds.push(match message {
                FromEngine::Events { events, .. } => events.last().unwrap().seq,
                FromEngine::SnapshotEnd => 1_000,
                FromEngine::SpoolEnd => 2_000,
                other => panic!("{other:?}"),
            });
        }
        assert_eq!(kinds, [100, 200, 300, 1_000, 301, 2_000]);
    }

    #[test]
    fn frames_from_side_arrive_and_garbage_ends_the_connection() {
        let mut world = world();
        let mut side = UnixStream::connect(&world.path).unwrap();
        let message = FromSide::Hangup { request: 1, call: CallId::from_bits(2) };
        let mut bytes = Vec::new();
        link::emit(&message, &mut bytes).unwrap();
        side.write_all(&bytes[..3]).unwrap();
        assert!(world.link.turn(&world.spool).messages.is_empty());
        side.write_all(&bytes[3..]).unwrap();
        assert_eq!(world.link.turn(&world.spool).messages, [message]);
        side.write_all(&[255; 16]).unwrap();
        world.link.turn(&world.spool);
        assert!(!world.link.is_connected());
        assert_eq!(world.link.faults, 1);
    }

    #[test]
    fn a_side_that_does_not_read_is_let_go() {
        let mut world = world();
        let _side = UnixStream::connect(&world.path).unwrap();
        world.link.turn(&world.spool);
        let frame =
            FromEngine::RegistrationGone { tenant: String::new(), user: "x".repeat(200_000), contact: String::new() };
        for _ in 0..(OUT_BYTES_MAX / 200_000 + 2) {
            world.link.send(&frame);
        }
        assert!(!world.link.is_connected());
    }
}
