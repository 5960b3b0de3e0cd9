//! What the command line asks of the keeper, and what it answers.

use crate::base::time::Instant;
use crate::process::exit;
use crate::process::exit::Failure;
use crate::process::keeper::control::State;
use crate::process::keeper::run::Keeper;
use crate::process::keeper::run::Stop;
use crate::wire::control;
use crate::wire::control::Command;
use crate::wire::control::ProcessState;
use crate::wire::control::ProcessStatus;
use crate::wire::control::Query;
use crate::wire::control::Role;
use crate::wire::control::Status;
use crate::wire::control::ToChild;

impl Keeper {
    pub(super) fn on_clients(&mut self, now: Instant) {
        self.control.accept(now);
        let readers = self.control.clients.iter_mut().filter(|client| client.state == State::Reading);
        let commands: Vec<_> = readers.filter_map(|client| client.read().map(|command| (client.id, command))).collect();
        for (id, command) in commands {
            self.on_command(id, command, now);
        }
    }

    fn on_command(&mut self, id: u32, command: Command, now: Instant) {
        let stopping = self.stop != Stop::No;
        match command {
            Command::Status => {
                let status = control::emit(&self.status()).unwrap_or_default();
                self.answer(id, &status);
            }
            Command::Drain | Command::Undrain if stopping => {
                self.fail_client(id, &Failure::new(exit::OTHER, "it is stopping"));
            }
            Command::Drain | Command::Undrain => {
                let draining = command == Command::Drain;
                self.log.info(if draining { "draining" } else { "undrained" }, "by command");
                self.set_draining(draining);
                if self.engine.is_ready() {
                    self.ask_engine(id, Query::Settled);
                } else {
                    self.answer(id, &[]);
                }
            }
            Command::Reload => {
                if let Some(client) = self.control.client(id) {
                    client.state = State::Reloading;
                }
                self.reload(now);
            }
            Command::Query(query) => self.ask_engine(id, query),
        }
    }

    fn ask_engine(&mut self, id: u32, query: Query) {
        if !self.engine.is_ready() {
            self.fail_client(id, &Failure::new(exit::OTHER, "the engine is not up"));
            return;
        }
        self.engine.tell(&ToChild::Query { id, query });
        if let Some(client) = self.control.client(id) {
            client.state = State::Waiting;
        }
    }

    fn answer(&mut self, id: u32, bytes: &[u8]) {
        if let Some(client) = self.control.client(id) {
            client.answer(bytes, true);
        }
    }

    fn fail_client(&mut self, id: u32, failure: &Failure) {
        if let Some(client) = self.control.client(id) {
            client.fail(failure);
        }
    }

    pub(super) fn status(&self) -> Status {
        let stopping = matches!(self.stop, Stop::Now { .. });
        let state = match (stopping, self.ready, self.draining) {
            (true, ..) => ProcessState::Stopping,
            (_, false, _) => ProcessState::Starting,
            (.., true) => ProcessState::Draining,
            (.., false) => ProcessState::Ready,
        };
        let ours = ProcessStatus { role: Role::Keeper, state, generation: 1, pid: std::process::id() };
        let children = [&self.engine, &self.side].map(|process| process.status(self.draining, stopping));
        Status {
            node: self.plan.node.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            boot: self.boot,
            draining: self.draining,
            stopping: self.stop != Stop::No,
            reload_success: self.reload_success,
            calls_up: self.calls_up.unwrap_or(0),
            rtp: self.sockets.ports,
            processes: [ours].into_iter().chain(children).collect(),
        }
    }
}
