//! The control socket: fixed-size commands from the keeper's owner, answers in parts.
//!
//! What an answer holds is not read here; a client that is slow, silent or foreign is closed.

use std::io;
use std::io::Read;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use crate::base::time::Instant;
use crate::process::exit;
use crate::process::exit::Failure;
use crate::wire::control::COMMAND_BYTES;
use crate::wire::control::Command;
use crate::wire::control::ReplyHead;
use crate::wire::control::ReplyKind;

pub(super) struct Control {
    pub(super) listener: UnixListener,
    pub(super) clients: Vec<Client>,
    next_id: u32,
}

pub(super) struct Client {
    pub(super) id: u32,
    pub(super) stream: UnixStream,
    pub(super) state: State,
    command: [u8; COMMAND_BYTES],
    received: usize,
    outgoing: Vec<u8>,
    deadline: Instant,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    Reading,
    /// For the engine's answer, whose query has this client's id.
    Waiting,
    /// For the end of a reload.
    Reloading,
    /// What is left to write is the end.
    Closing,
}

const CLIENTS_MAX: usize = 16;
const ANSWER_BYTES_MAX: usize = 32 * 1024 * 1024;
const CLIENT_TIME_MAX: Duration = Duration::from_secs(10);

impl Control {
    pub(super) fn open(run: &Path) -> Result<Self, Failure> {
        let path = run.join("control.sock");
        let open = || {
            let _ = std::fs::remove_file(&path);
            let listener = UnixListener::bind(&path)?;
            listener.set_nonblocking(true)?;
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o660))?;
            Ok(listener)
        };
        let listener = open().map_err(|error: io::Error| Failure::from_io(path.display(), &error))?;
        Ok(Self { listener, clients: Vec::new(), next_id: 1 })
    }

    pub(super) fn accept(&mut self, now: Instant) {
        while let Ok((stream, _)) = self.listener.accept() {
            if self.clients.len() >= CLIENTS_MAX || !is_owner(&stream) || stream.set_nonblocking(true).is_err() {
                continue;
            }
            self.clients.push(Client {
                id: self.next_id,
                stream,
                state: State::Reading,
                command: [0; COMMAND_BYTES],
                received: 0,
                outgoing: Vec::new(),
                deadline: now + CLIENT_TIME_MAX,
            });
            self.next_id = self.next_id.wrapping_add(1);
        }
    }

    pub(super) fn client(&mut self, id: u32) -> Option<&mut Client> {
        self.clients.iter_mut().find(|client| client.id == id)
    }

    /// Ends every client that waits for what will not come.
    pub(super) fn fail_all(&mut self, state: State, failure: &Failure) {
        for client in self.clients.iter_mut().filter(|client| client.state == state) {
            client.fail(failure);
        }
    }

    pub(super) fn close_finished(&mut self, now: Instant) {
        self.clients.retain(|client| {
            let finished = client.state == State::Closing && client.outgoing.is_empty();
            !finished && now < client.deadline
        });
    }

    pub(super) fn next_deadline(&self) -> Instant {
        self.clients.iter().map(|client| client.deadline).min().unwrap_or(Instant::NEVER)
    }
}

/// The owner is who runs the keeper, and root.
fn is_owner(stream: &UnixStream) -> bool {
    let ours = rustix::process::geteuid();
    rustix::net::sockopt::socket_peercred(stream)
        .is_ok_and(|credentials| credentials.uid == ours || credentials.uid.is_root())
}

impl Client {
    /// A whole command, once it is there.
    pub(super) fn read(&mut self) -> Option<Command> {
        while let Some(room) = self.command.get_mut(self.received..).filter(|room| !room.is_empty()) {
            match self.stream.read(room) {
                Ok(0) => {
                    self.state = State::Closing;
                    return None;
                }
                Ok(bytes) => self.received += bytes,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return None,
                Err(_) => {
                    self.state = State::Closing;
                    return None;
                }
            }
        }
        match Command::parse(&self.command) {
            Ok(command) => Some(command),
            Err(error) => {
                self.fail(&Failure::new(exit::USAGE, error.to_string()));
                None
            }
        }
    }

    pub(super) fn wants_to_write(&self) -> bool {
        !self.outgoing.is_empty()
    }

    pub(super) fn write(&mut self) {
        while !self.outgoing.is_empty() {
            match self.stream.write(&self.outgoing) {
                Ok(bytes) => {
                    self.outgoing.drain(..bytes);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(_) => {
                    self.outgoing.clear();
                    self.state = State::Closing;
                }
            }
        }
    }

    pub(super) fn answer(&mut self, part: &[u8], last: bool) {
        if self.outgoing.len() + part.len() > ANSWER_BYTES_MAX {
            self.fail(&Failure::new(exit::OTHER, "the answer is larger than the keeper passes on"));
            return;
        }
        self.push(if last { ReplyKind::End } else { ReplyKind::Part }, part);
        if last {
            self.state = State::Closing;
        }
    }

    pub(super) fn fail(&mut self, failure: &Failure) {
        self.push(ReplyKind::Failed { code: failure.code }, failure.line.as_bytes());
        self.state = State::Closing;
    }

    fn push(&mut self, kind: ReplyKind, bytes: &[u8]) {
        let head = ReplyHead { kind, bytes: u32::try_from(bytes.len()).unwrap_or(u32::MAX) };
        self.outgoing.extend_from_slice(&head.emit());
        self.outgoing.extend_from_slice(bytes);
    }
}
