//! The engine's one thread that may wait: for disks, for the side process, for the keeper.
//!
//! It serves the queues of the shards, writes their bindings down, shows side what happens, and carries commands back. A full or
//! slow disk, or a side that is dead, never reaches a shard: its queue fills, and is counted. Events that must not be lost go by the
//! tape.

mod capture;
pub mod directory;
pub mod journal;
pub mod link;
pub mod mirror;
mod questions;
pub mod saving;
pub mod store;
#[cfg(test)]
mod tests;
mod words;

use std::collections::BTreeSet;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::net::UnixListener;
use std::sync::Arc;
use std::time::Duration;

use rustix::event::PollFd;
use rustix::event::PollFlags;
use rustix::event::Timespec;
use rustix::event::poll;

use crate::base::id::ShardId;
use crate::base::limit::COMMANDS_UNSENT_MAX;
use crate::machine::outbox::Stored;
use crate::machine::settings::Settings;
use crate::process::channel::Channel;
use crate::process::channel::Wait;
use crate::process::config::Hep;
use crate::process::engine::clerk::link::Link;
use crate::process::engine::clerk::mirror::Mirror;
use crate::process::engine::clerk::questions::Asker;
use crate::process::engine::clerk::questions::Questions;
use crate::process::engine::clerk::saving::Saving;
use crate::process::engine::events::Waiting;
use crate::process::engine::message::Message;
use crate::process::engine::message::ToClerk;
use crate::process::engine::message::ToShard;
use crate::process::log;
use crate::process::plan::EngineSettings;
use crate::shard::clock;
use crate::shard::mesh::Member;
use crate::shard::mesh::Post;
use crate::shard::tape::thread::Teller;
use crate::wire::control::Answer;
use crate::wire::control::FromChild;
use crate::wire::control::Query;
use crate::wire::control::ToChild;
use crate::wire::event::By;
use crate::wire::link::FromEngine;
use crate::wire::link::FromSide;
use crate::wire::link::LiveCall;
use crate::wire::link::RecordWish;
use crate::wire::tape::name::SegmentName;

/// Power loss costs at most what came since the last sync.
const SYNC_EVERY: Duration = Duration::from_secs(1);
/// Messages of shards taken before the link and the keeper get their turn.
const MESSAGES_PER_TURN: usize = 4_096;
/// Calls in one part of an answer.
const CALLS_PER_PART: usize = 200;
/// How long a stopping engine waits for BYEs to be answered, and for events to find room on the tape.
const FAREWELL: Duration = Duration::from_secs(2);

pub struct Clerk {
    boot: u64,
    settings: Arc<Settings>,
    post: Post<Message>,
    keeper: Channel,
    link: Link,
    saving: Saving,
    mirror: Mirror,
    questions: Questions,
    capture: Option<capture::Mirror>,
    hep: Hep,
    tape: Teller,
    waiting: Waiting,
    /// Commands that a shard's queue had no room for, in order.
    unsent: Vec<(ShardId, ToShard)>,
    is_draining: bool,
    /// Calls that the keeper was last told of.
    calls_told: u32,
    ends_at: Option<crate::base::time::Instant>,
}

/// What the clerk begins with.
pub struct Beginning {
    pub boot: u64,
    pub settings: Arc<Settings>,
    pub post: Post<Message>,
    pub keeper: Channel,
    pub link: UnixListener,
    pub saving: Saving,
    pub is_draining: bool,
    pub hep: Hep,
    pub tape: Teller,
    pub waiting: Waiting,
}

impl Clerk {
    pub fn new(beginning: Beginning) -> io::Result<Self> {
        let Beginning { boot, settings, post, keeper, link, saving, .. } = beginning;
        let Beginning { is_draining, hep, tape, waiting, .. } = beginning;
        Ok(Self {
            boot,
            settings,
            post,
            keeper,
            link: Link::new(link)?,
            saving,
            mirror: Mirror::default(),
            questions: Questions::default(),
            capture: capture::Mirror::new(&hep)?,
            hep,
            tape,
            waiting,
            unsent: Vec::new(),
            is_draining,
            calls_told: 0,
            ends_at: None,
        })
    }

    /// Until the keeper says stop or is gone.
    pub fn run(&mut self) -> io::Result<()> {
        if self.is_draining {
            self.broadcast(&ToShard::Drain(true));
        }
        let mut sync_at = clock::now().instant + SYNC_EVERY;
        loop {
            self.wait()?;
            self.take_messages();
            self.saving.write(clock::now().instant);
            self.serve_link();
            self.send_unsent();
            let goes_on = self.serve_keeper()?;
            let now = clock::now().instant;
            if !goes_on || self.ends_at.is_some_and(|end| now >= end || self.is_idle()) {
                self.saving.finish(now);
                return Ok(());
            }
            if now >= sync_at {
                self.saving.sync(now);
                sync_at = now + SYNC_EVERY;
            }
        }
    }

    /// A shard says that a call is gone after its last event is on the tape or waits.
    fn is_idle(&self) -> bool {
        self.mirror.calls_len() == 0 && self.unsent.is_empty() && self.waiting.count() == 0
    }

    fn wait(&mut self) -> io::Result<()> {
        let may_sleep = self.post.prepare_to_sleep() && self.unsent.is_empty();
        let timeout = if may_sleep { SYNC_EVERY } else { Duration::from_millis(1) };
        let timeout = if self.ends_at.is_some() { Duration::from_millis(20) } else { timeout };
        let timeout = Timespec { tv_sec: timeout.as_secs().cast_signed(), tv_nsec: timeout.subsec_nanos().into() };
        let wake = self.post.wake_fd();
        let mut descriptors = vec![
            PollFd::from_borrowed_fd(wake, PollFlags::IN),
            PollFd::from_borrowed_fd(self.keeper.as_fd(), PollFlags::IN),
            PollFd::from_borrowed_fd(self.link.listener(), PollFlags::IN),
        ];
        if let Some((connection, waits_to_write)) = self.link.connection() {
            let flags = if waits_to_write { PollFlags::IN | PollFlags::OUT } else { PollFlags::IN };
            descriptors.push(PollFd::from_borrowed_fd(connection, flags));
        }
        match poll(&mut descriptors, Some(&timeout)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        if descriptors.first().is_some_and(|wake| wake.revents().contains(PollFlags::IN)) {
            rustix::io::read(wake, &mut [0u8; 8])?;
        }
        self.post.wake_up();
        Ok(())
    }

    fn take_messages(&mut self) {
        for _ in 0..MESSAGES_PER_TURN {
            let Some((from, message)) = self.post.try_receive() else { return };
            let (Member::Shard(shard), Message::ToClerk(message)) = (from, message) else { continue };
            self.on_message(shard, message);
        }
    }

    fn on_message(&mut self, shard: ShardId, message: ToClerk) {
        match message {
            ToClerk::Event(event) => {
                words::say(&event, &self.mirror);
                self.link.event(self.boot, *event);
            }
            ToClerk::Live(live) => {
                words::say_live(&live);
                let change = self.mirror.take(*live);
                self.link.send(&change);
            }
            ToClerk::Store(stored) => match *stored {
                Stored::Put { key, value } => self.saving.store.put(key, value),
                Stored::Remove { key } => self.saving.store.remove(key),
            },
            ToClerk::Capture(capture) => {
                if let Some(server) = &mut self.capture {
                    server.send(&capture);
                }
            }
            ToClerk::CallTrace { call, tenant, steps } => {
                words::say_steps(call, &steps);
                self.link.send(&FromEngine::CallTrace { call, tenant, steps })
            }
            ToClerk::Found { request, found } => {
                if let Some((asker, found)) = self.questions.found(request, shard, found) {
                    self.answer_found(asker, found);
                }
            }
            ToClerk::Settled { request } => {
                if let Some(Asker::Keeper(id)) = self.questions.settled(request, shard) {
                    self.answer_keeper(id, &Answer::Settled, true);
                }
            }
            ToClerk::Traced { request, steps } => {
                if let Some((asker, steps)) = self.questions.traced(request, shard, steps) {
                    match asker {
                        Asker::Side(request) => self.link.send(&FromEngine::Trace { request, steps }),
                        Asker::Keeper(id) => {
                            let answer = Answer::Trace { found: steps.is_some(), steps: steps.unwrap_or_default() };
                            self.answer_keeper(id, &answer, true);
                        }
                    }
                }
            }
        }
    }

    fn answer_found(&mut self, asker: Asker, found: bool) {
        match asker {
            Asker::Side(request) => self.link.send(&FromEngine::Done { request, found }),
            Asker::Keeper(id) => self.answer_keeper(id, &Answer::Found(found), true),
        }
    }

    fn serve_link(&mut self) {
        let progress = self.link.turn();
        if progress.connected {
            self.saving.directory.forget_parts();
            self.greet();
        }
        for message in progress.messages {
            self.on_side(message);
        }
    }

    /// Hello, then all that is up; events follow as they happen.
    fn greet(&mut self) {
        let directory_version = self.saving.directory.current().version();
        let node = self.settings.node.clone();
        self.link.send(&FromEngine::Hello { node, boot: self.boot, shards: self.settings.shards, directory_version });
        for change in self.mirror.snapshot() {
            self.link.send(&change);
        }
        self.link.send(&FromEngine::SnapshotEnd { events: self.link.last_events() });
        self.link.send(&FromEngine::Draining(self.is_draining));
    }

    fn on_side(&mut self, message: FromSide) {
        match message {
            FromSide::Directory { version, part, last } => {
                if self.saving.directory.replace(version, part, last) {
                    self.publish_directory();
                }
            }
            FromSide::DirectoryDelta { from, version, part } => match self.saving.directory.change(from, version, part)
            {
                Ok(()) => self.publish_directory(),
                // Side begins anew with a whole directory.
                Err(directory::OutOfStep) => self.link.close(),
            },
            FromSide::Hangup { request, call } => self.ask_hangup(Asker::Side(request), call),
            FromSide::TapeAck { shard, track, segment } => {
                self.tape.acknowledge(SegmentName { shard, track, segment });
            }
            FromSide::Record { request, call, wish } => self.ask_record(Asker::Side(request), call, wish),
            FromSide::Trace { request, subject } => self.ask_trace(Asker::Side(request), &subject),
        }
    }

    fn publish_directory(&mut self) {
        let directory = Arc::clone(self.saving.directory.current());
        let version = directory.version();
        tracing::info!(event = "directory.changed", version, "directory version {version}");
        self.broadcast(&ToShard::Directory(directory));
        self.link.send(&FromEngine::DirectoryServed { version });
    }

    fn ask_hangup(&mut self, asker: Asker, call: crate::base::id::CallId) {
        let request = self.questions.ask(asker, self.settings.shards);
        self.broadcast(&ToShard::Hangup { request, call, by: By::Operator });
    }

    fn ask_record(&mut self, asker: Asker, call: crate::base::id::CallId, wish: RecordWish) {
        let request = self.questions.ask(asker, self.settings.shards);
        self.broadcast(&ToShard::Record { request, call, wish, by: By::Operator });
    }

    fn ask_trace(&mut self, asker: Asker, subject: &str) {
        let request = self.questions.ask(asker, self.settings.shards);
        self.broadcast(&ToShard::Trace { request, subject: subject.to_owned() });
    }

    fn broadcast(&mut self, command: &ToShard) {
        if self.unsent.len() >= COMMANDS_UNSENT_MAX && command.is_question() {
            tracing::warn!(event = "clerk.full", "a shard takes no commands: a question of an operator is not asked");
            return;
        }
        for shard in 0..self.settings.shards {
            self.unsent.push((ShardId(shard), command.clone()));
        }
        self.send_unsent();
    }

    /// In order for each shard: none overtakes one that a full queue held back.
    fn send_unsent(&mut self) {
        let mut full = BTreeSet::new();
        for (shard, command) in std::mem::take(&mut self.unsent) {
            if full.contains(&shard) {
                self.unsent.push((shard, command));
            } else if let Err(Message::ToShard(command)) =
                self.post.try_send(Member::Shard(shard), Message::ToShard(command))
            {
                full.insert(shard);
                self.unsent.push((shard, command));
            }
        }
    }

    /// False when the engine shall end at once.
    fn serve_keeper(&mut self) -> io::Result<bool> {
        loop {
            match self.keeper.receive::<ToChild>(Wait::No) {
                Ok(Some((frame, _))) => self.on_keeper(frame)?,
                Ok(None) => return Ok(false),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => return Err(error),
            }
        }
        self.tell_calls()?;
        Ok(true)
    }

    fn on_keeper(&mut self, frame: ToChild) -> io::Result<()> {
        match frame {
            ToChild::Drain => self.drain(true),
            ToChild::Undrain => self.drain(false),
            ToChild::Stop { now } => {
                if now {
                    self.broadcast(&ToShard::HangupAll);
                }
                self.ends_at = Some(clock::now().instant + FAREWELL);
            }
            ToChild::Settings(bytes) => {
                if let Ok(settings) = postcard::from_bytes::<EngineSettings>(&bytes) {
                    log::set(&settings.log);
                    let changed = super::settings::renewed(&self.settings, &settings);
                    self.settings = Arc::new(changed);
                    self.broadcast(&ToShard::Settings(Arc::clone(&self.settings)));
                    self.renew_capture(settings.hep);
                }
            }
            ToChild::ReopenLogs => log::reopen(),
            ToChild::Query { id, query } => self.on_query(id, query),
            ToChild::Handles(_) | ToChild::Start(_) | ToChild::Status(_) => {}
        }
        Ok(())
    }

    /// What a new configuration says of the capture server.
    fn renew_capture(&mut self, hep: Hep) {
        if self.hep == hep {
            return;
        }
        match capture::Mirror::new(&hep) {
            Ok(capture) => {
                self.capture = capture;
                self.hep = hep;
                self.broadcast(&ToShard::Captured(self.capture.is_some()));
            }
            Err(error) => tracing::error!(event = "hep.failed", "the capture server stays as it was: {error}"),
        }
    }

    fn drain(&mut self, on: bool) {
        self.is_draining = on;
        // Told again even if it is 0 as before: the keeper waits for it.
        self.calls_told = u32::MAX;
        self.broadcast(&ToShard::Drain(on));
        self.link.send(&FromEngine::Draining(on));
    }

    fn on_query(&mut self, id: u32, query: Query) {
        match query {
            Query::Calls => {
                let calls: Vec<LiveCall> = self.mirror.calls().cloned().collect();
                for part in calls.chunks(CALLS_PER_PART) {
                    self.answer_keeper(id, &Answer::Calls(part.to_vec()), false);
                }
                self.answer_keeper(id, &Answer::Calls(Vec::new()), true);
            }
            Query::Hangup(call) => self.ask_hangup(Asker::Keeper(id), call),
            Query::Trace(subject) => self.ask_trace(Asker::Keeper(id), &subject),
            Query::Counts => {
                let (calls, registrations) = (self.mirror.calls_len(), self.mirror.registrations(clock::now().unix));
                let counts = Answer::Counts { calls: calls as u64, registrations: registrations as u64 };
                self.answer_keeper(id, &counts, true);
            }
            Query::Settled => {
                let request = self.questions.ask(Asker::Keeper(id), self.settings.shards);
                self.broadcast(&ToShard::Settled { request });
            }
        }
    }

    fn answer_keeper(&mut self, id: u32, answer: &Answer, last: bool) {
        let part = postcard::to_allocvec(answer).unwrap_or_default();
        if let Err(error) = self.keeper.send(&FromChild::Answer { id, part, last }) {
            tracing::error!(event = "keeper.failed", "cannot answer the keeper: {error}");
        }
    }

    fn tell_calls(&mut self) -> io::Result<()> {
        let calls = u32::try_from(self.mirror.calls_len()).unwrap_or(u32::MAX);
        if self.is_draining && calls != self.calls_told {
            self.keeper.send(&FromChild::CallsUp(calls))?;
            self.calls_told = calls;
        }
        Ok(())
    }
}
