//! The engine's end of the link: one connection of the side process at a time, bounded both ways.
//!
//! Events are sent as they come, and left to the tape where side reads too slowly. Live changes that do not fit end the
//! connection: side connects again and gets a fresh snapshot.

use std::collections::BTreeMap;
use std::io;
use std::io::Read;
use std::io::Write;
use std::os::fd::AsFd;
use std::os::fd::BorrowedFd;
use std::os::unix::net::UnixListener;
use std::os::unix::net::UnixStream;

use crate::base::id::ShardId;
use crate::base::limit::LINK_FRAME_BYTES_MAX;
use crate::wire::event::Event;
use crate::wire::link;
use crate::wire::link::FromEngine;
use crate::wire::link::FromSide;

/// Above this, events come to side by the tape alone.
const EVENTS_OUT_BYTES_MAX: usize = 256 << 10;
/// Above this, side has stopped reading.
const OUT_BYTES_MAX: usize = 64 << 20;
const EVENTS_PER_FRAME_MAX: usize = 100;
const READ_BYTES: usize = 64 << 10;

#[derive(Debug)]
pub struct Link {
    listener: UnixListener,
    connection: Option<Connection>,
    /// Seq of the last event of each shard.
    last: BTreeMap<ShardId, u64>,
    /// Connections ended because side read too slowly or sent what is not a frame.
    pub faults: u64,
}

#[derive(Debug)]
struct Connection {
    stream: UnixStream,
    received: Vec<u8>,
    out: Vec<u8>,
    written: usize,
    /// Of this turn, and their boot.
    events: Vec<Event>,
    boot: u64,
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
        Ok(Self { listener, connection: None, last: BTreeMap::new(), faults: 0 })
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
    pub fn turn(&mut self) -> Progress {
        let mut progress = Progress { connected: self.accept(), messages: Vec::new() };
        let Some(connection) = &mut self.connection else { return progress };
        let read = connection.read(&mut progress.messages);
        let written = read.and_then(|()| connection.write_events());
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
        let emitted = link::emit(message, &mut connection.out);
        if emitted.is_err() || connection.out.len() - connection.written > OUT_BYTES_MAX {
            self.faults += 1;
            self.connection = None;
        }
    }

    /// Shows side an event, if it is there and reads.
    pub fn event(&mut self, boot: u64, event: Event) {
        self.last.insert(event.shard, event.seq);
        let Some(connection) = &mut self.connection else { return };
        if connection.out.len() - connection.written < EVENTS_OUT_BYTES_MAX {
            connection.boot = boot;
            connection.events.push(event);
        }
    }

    pub fn last_events(&self) -> Vec<(ShardId, u64)> {
        self.last.iter().map(|(shard, seq)| (*shard, *seq)).collect()
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
                self.connection = Some(Connection {
                    stream,
                    received: Vec::new(),
                    out: Vec::new(),
                    written: 0,
                    events: Vec::new(),
                    boot: 0,
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

    fn write_events(&mut self) -> io::Result<()> {
        let mut events = std::mem::take(&mut self.events);
        while !events.is_empty() {
            let rest = events.split_off(events.len().min(EVENTS_PER_FRAME_MAX));
            link::emit(&FromEngine::Events { boot: self.boot, events }, &mut self.out).map_err(invalid)?;
            events = rest;
        }
        self.write()
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
    use crate::base::time::UnixTime;
    use crate::wire::event::Body;

    struct World {
        _dir: tempfile::TempDir,
        path: std::path::PathBuf,
        link: Link,
    }

    fn world() -> World {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("link.sock");
        let link = Link::new(UnixListener::bind(&path).unwrap()).unwrap();
        World { _dir: dir, path, link }
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
            self.link.event(1, event);
        }

        /// Turns until nothing comes any more; the seqs as received.
        fn receive(&mut self, side: &mut UnixStream) -> Vec<u64> {
            side.set_nonblocking(true).unwrap();
            let (mut bytes, mut received) = (Vec::new(), Vec::new());
            let mut buffer = [0; 100_000];
            for _ in 0..1_000 {
                self.link.turn();
                let Ok(len) = side.read(&mut buffer) else { continue };
                bytes.extend_from_slice(&buffer[..len]);
                while let Some((message, len)) = link::parse::<FromEngine>(&bytes).unwrap() {
                    bytes.drain(..len);
                    if let FromEngine::Events { events, .. } = message {
                        received.extend(events.iter().map(|event| event.seq));
                    }
                }
            }
            received
        }
    }

    #[test]
    fn events_are_shown_from_the_connection_on() {
        let mut world = world();
        world.event(1);
        let mut side = UnixStream::connect(&world.path).unwrap();
        assert!(world.link.turn().connected);
        for seq in 2..=500 {
            world.event(seq);
        }
        assert_eq!(world.receive(&mut side), (2..=500).collect::<Vec<_>>());
        assert_eq!(world.link.last_events(), [(ShardId(0), 500)]);
    }

    #[test]
    fn a_side_that_reads_slowly_is_shown_less_and_keeps_its_connection() {
        let mut world = world();
        let mut side = UnixStream::connect(&world.path).unwrap();
        world.link.turn();
        for seq in 1..=60_000 {
            world.event(seq);
            if seq % 1_000 == 0 {
                world.link.turn();
            }
        }
        assert!(world.link.is_connected());
        let received = world.receive(&mut side);
        assert!(received.len() < 60_000 && received.len() > 1_000, "{}", received.len());
        assert!(received.windows(2).all(|two| two[0] < two[1]));
        world.event(60_001);
        assert_eq!(world.receive(&mut side), [60_001]);
    }

    #[test]
    fn frames_from_side_arrive_and_garbage_ends_the_connection() {
        let mut world = world();
        let mut side = UnixStream::connect(&world.path).unwrap();
        let message = FromSide::Hangup { request: 1, call: CallId::from_bits(2) };
        let mut bytes = Vec::new();
        link::emit(&message, &mut bytes).unwrap();
        side.write_all(&bytes[..3]).unwrap();
        assert!(world.link.turn().messages.is_empty());
        side.write_all(&bytes[3..]).unwrap();
        assert_eq!(world.link.turn().messages, [message]);
        side.write_all(&[255; 16]).unwrap();
        world.link.turn();
        assert!(!world.link.is_connected());
        assert_eq!(world.link.faults, 1);
    }

    #[test]
    fn a_side_that_does_not_read_is_let_go() {
        let mut world = world();
        let _side = UnixStream::connect(&world.path).unwrap();
        world.link.turn();
        let frame =
            FromEngine::RegistrationGone { tenant: String::new(), user: "x".repeat(200_000), contact: String::new() };
        for _ in 0..(OUT_BYTES_MAX / 200_000 + 2) {
            world.link.send(&frame);
        }
        assert!(!world.link.is_connected());
    }
}
