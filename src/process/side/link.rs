//! The side's end of the link: connects, mirrors what is up, commits events ahead of the tape, sends the directory.
//!
//! One task owns the connection and everything that must happen in its order. What others want of the engine comes as a
//! [`Command`] over a bounded channel; a reader and a writer task carry the bytes, bounded too.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use tokio::io::AsyncReadExt;
use tokio::io::AsyncWriteExt;
use tokio::net::UnixStream;
use tokio::net::unix::OwnedReadHalf;
use tokio::net::unix::OwnedWriteHalf;
use tokio::sync::mpsc;
use tokio::sync::oneshot;
use tokio::time::Instant;

use crate::base::id::CallId;
use crate::base::limit::LINK_FRAME_BYTES_MAX;
use crate::process::side::directory::import::Change;
use crate::process::side::directory::snapshot;
use crate::process::side::directory::snapshot::Snapshot;
use crate::process::side::metrics::Metrics;
use crate::process::side::mirror::Mirror;
use crate::process::side::record::desk::Desk;
use crate::process::side::record::ingest;
use crate::process::side::record::ingest::Batch;
use crate::process::side::record::ingest::Way;
use crate::process::side::seal::NodeKey;
use crate::process::side::store::Store;
use crate::process::side::store::StoreError;
use crate::wire::link;
use crate::wire::link::BadFrame;
use crate::wire::link::FromEngine;
use crate::wire::link::FromSide;
use crate::wire::link::RecordWish;
use crate::wire::link::TraceStep;
use crate::wire::tape::name::SegmentName;

/// A commit is at most this much later than the first event in it.
const BATCH_TIME_MAX: Duration = Duration::from_millis(100);
const BATCH_EVENTS_MAX: usize = 2_000;
const FRAMES_IN_MAX: usize = 64;
const FRAMES_OUT_MAX: usize = 64;
const COMMANDS_MAX: usize = 256;
/// Requests whose answer is awaited.
const PENDING_MAX: usize = 1_024;
const ANSWER_TIME_MAX: Duration = Duration::from_secs(5);
const BACK_OFF: [Duration; 5] = [
    Duration::ZERO,
    Duration::from_millis(20),
    Duration::from_millis(50),
    Duration::from_millis(200),
    Duration::from_millis(500),
];
const READ_BYTES: usize = 64 * 1024;

/// What others want of the engine.
enum Command {
    HangUp { call: CallId, answer: oneshot::Sender<bool> },
    Trace { subject: String, answer: oneshot::Sender<Option<Vec<TraceStep>>> },
    Directory(Change),
    Record { call: CallId, wish: RecordWish, answer: oneshot::Sender<bool> },
    TapeAck(SegmentName),
}

/// For asking the engine; answers come within bounded time or not at all.
#[derive(Clone)]
pub(crate) struct LinkHandle {
    commands: mpsc::Sender<Command>,
}

impl LinkHandle {
    /// Whether the call was found; `None` without an engine.
    pub(crate) async fn hang_up(&self, call: CallId) -> Option<bool> {
        let (answer, answered) = oneshot::channel();
        self.ask(Command::HangUp { call, answer }, answered).await
    }

    /// The steps, if the engine has any of it; `None` without an engine.
    pub(crate) async fn trace(&self, subject: &str) -> Option<Option<Vec<TraceStep>>> {
        let (answer, answered) = oneshot::channel();
        self.ask(Command::Trace { subject: subject.to_owned(), answer }, answered).await
    }

    /// Whether the call was found; `None` without an engine.
    pub(crate) async fn record(&self, call: CallId, wish: RecordWish) -> Option<bool> {
        let (answer, answered) = oneshot::channel();
        self.ask(Command::Record { call, wish, answer }, answered).await
    }

    /// Everything up to this segment of its track is durable here. If it does not get through it is said again.
    pub(crate) fn acknowledge_tape(&self, segment: SegmentName) {
        let _ = self.commands.try_send(Command::TapeAck(segment));
    }

    /// Tells the engine of a new version.
    pub(crate) async fn directory_changed(&self, change: Change) {
        let _ = self.commands.send(Command::Directory(change)).await;
    }

    async fn ask<T>(&self, command: Command, answered: oneshot::Receiver<T>) -> Option<T> {
        self.commands.try_send(command).ok()?;
        tokio::time::timeout(ANSWER_TIME_MAX, answered).await.ok()?.ok()
    }
}

enum Pending {
    Found(oneshot::Sender<bool>),
    Steps(oneshot::Sender<Option<Vec<TraceStep>>>),
}

pub(crate) struct Link {
    socket: PathBuf,
    store: Store,
    key: Arc<NodeKey>,
    mirror: Arc<Mirror>,
    metrics: Arc<Metrics>,
    desk: Arc<Desk>,
    commands: mpsc::Receiver<Command>,
}

/// Why a connection ended.
#[derive(Debug, thiserror::Error)]
enum LinkError {
    #[error("the engine closed the link")]
    Closed,
    #[error("link: {0}")]
    Io(#[from] std::io::Error),
    #[error("link: {0}")]
    Frame(#[from] BadFrame),
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// One connection.
struct Connection {
    frames: mpsc::Sender<Vec<u8>>,
    boot: Option<u64>,
    shards: u8,
    /// The version that the engine has once it has read all that was sent.
    directory_version: Option<u64>,
    waiting: Vec<Batch>,
    waiting_events: usize,
    commit_at: Option<Instant>,
    pending: BTreeMap<u32, Pending>,
    next_request: u32,
}

impl Link {
    pub(crate) fn new(
        socket: PathBuf,
        store: Store,
        key: Arc<NodeKey>,
        mirror: Arc<Mirror>,
        metrics: Arc<Metrics>,
        desk: Arc<Desk>,
    ) -> (Self, LinkHandle) {
        let (sender, commands) = mpsc::channel(COMMANDS_MAX);
        let handle = LinkHandle { commands: sender };
        (Self { socket, store, key, mirror, metrics, desk, commands }, handle)
    }

    /// Connects again and again; never returns.
    pub(crate) async fn run(mut self) {
        let mut failures = 0;
        loop {
            tokio::time::sleep(BACK_OFF[failures.min(BACK_OFF.len() - 1)]).await;
            failures += 1;
            let Ok(stream) = UnixStream::connect(&self.socket).await else {
                self.refuse_commands();
                continue;
            };
            self.metrics.link_connections.fetch_add(1, Relaxed);
            let began = Instant::now();
            let (boot, error) = self.serve(stream).await;
            self.mirror.on_disconnect();
            if let Some(boot) = boot {
                self.desk.on_engine_gone(boot);
            }
            if !matches!(error, LinkError::Closed) {
                self.metrics.link_faults.fetch_add(1, Relaxed);
            }
            tracing::warn!(event = "link.lost", "{error}");
            // A connection that ends at once is no success.
            if boot.is_some() && began.elapsed() > Duration::from_secs(5) {
                failures = 0;
            }
        }
    }

    /// Without an engine a question has no answer, and the directory is sent at the next connection anyway.
    fn refuse_commands(&mut self) {
        while self.commands.try_recv().is_ok() {}
    }

    async fn serve(&mut self, stream: UnixStream) -> (Option<u64>, LinkError) {
        let (read, write) = stream.into_split();
        let (frames_in, mut received) = mpsc::channel(FRAMES_IN_MAX);
        let (frames, frames_out) = mpsc::channel(FRAMES_OUT_MAX);
        let reader = tokio::spawn(read_frames(read, frames_in));
        let writer = tokio::spawn(write_frames(write, frames_out));
        let mut connection = Connection {
            frames,
            boot: None,
            shards: 0,
            directory_version: None,
            waiting: Vec::new(),
            waiting_events: 0,
            commit_at: None,
            pending: BTreeMap::new(),
            next_request: 1,
        };
        let error = loop {
            if let Err(error) = self.step(&mut connection, &mut received).await {
                break error;
            }
        };
        reader.abort();
        writer.abort();
        (connection.boot, error)
    }

    async fn step(
        &mut self,
        connection: &mut Connection,
        received: &mut mpsc::Receiver<Result<FromEngine, LinkError>>,
    ) -> Result<(), LinkError> {
        let commit_at = connection.commit_at;
        let due = async {
            match commit_at {
                Some(at) => tokio::time::sleep_until(at).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            () = due => self.commit(connection).await,
            command = self.commands.recv() => match command {
                Some(command) => self.on_command(connection, command).await,
                None => Err(LinkError::Closed),
            },
            frame = received.recv() => self.on_frame(connection, frame.unwrap_or(Err(LinkError::Closed))?).await,
        }
    }

    async fn on_frame(&mut self, connection: &mut Connection, frame: FromEngine) -> Result<(), LinkError> {
        match frame {
            FromEngine::Hello { boot, directory_version, node, shards } => {
                tracing::info!(event = "link.up", "connected to engine {node}");
                (connection.boot, connection.shards) = (Some(boot), shards);
                self.desk.on_hello(boot);
                self.mirror.on_hello();
                return self.send_directory(connection, directory_version).await;
            }
            FromEngine::Registration(registration) => {
                let fits = self.mirror.on_registration(registration);
                self.metrics.mirror_overflows.fetch_add(u64::from(!fits), Relaxed);
            }
            FromEngine::RegistrationGone { tenant, user, contact } => {
                self.mirror.on_registration_gone(&(tenant, user, contact));
            }
            FromEngine::Call(call) => {
                self.desk.on_call(call.call);
                let fits = self.mirror.on_call(call);
                self.metrics.mirror_overflows.fetch_add(u64::from(!fits), Relaxed);
            }
            FromEngine::CallGone { call } => self.mirror.on_call_gone(call),
            FromEngine::SnapshotEnd { events } => {
                self.mirror.on_snapshot_end();
                self.desk.on_snapshot(connection.boot.unwrap_or(0), connection.shards, events);
            }
            FromEngine::Events { boot, events } => {
                connection.waiting_events += events.len();
                connection.waiting.push(Batch { boot, events, gaps: Vec::new() });
                connection.commit_at.get_or_insert_with(|| Instant::now() + BATCH_TIME_MAX);
                if connection.waiting_events >= BATCH_EVENTS_MAX {
                    return self.commit(connection).await;
                }
            }
            FromEngine::Trace { request, steps } => {
                if let Some(Pending::Steps(answer)) = connection.pending.remove(&request) {
                    let _ = answer.send(steps);
                }
            }
            FromEngine::Done { request, found } => {
                if let Some(Pending::Found(answer)) = connection.pending.remove(&request) {
                    let _ = answer.send(found);
                }
            }
            FromEngine::DirectoryServed { version } => self.mirror.on_directory_served(version),
            FromEngine::Draining(draining) => self.mirror.on_draining(draining),
            FromEngine::CallTrace { call, tenant, steps } => {
                ingest::store_trace(&self.store, call, &tenant, &steps).await?;
            }
        }
        Ok(())
    }

    /// Commits what waits.
    async fn commit(&mut self, connection: &mut Connection) -> Result<(), LinkError> {
        connection.commit_at = None;
        connection.waiting_events = 0;
        let batches = std::mem::take(&mut connection.waiting);
        if batches.is_empty() {
            return Ok(());
        }
        self.desk.commit(&batches, Way::Link).await?;
        Ok(())
    }

    /// The whole directory, if the engine has another version.
    async fn send_directory(&mut self, connection: &mut Connection, has: u64) -> Result<(), LinkError> {
        let mut whole = Snapshot::open(&self.store, &self.key).await?;
        if whole.version != has && whole.version != 0 {
            self.mirror.on_directory_sent(whole.version);
            loop {
                let (part, last) = whole.next_part().await?;
                connection.send(&FromSide::Directory { version: whole.version, part, last }).await?;
                if last {
                    break;
                }
            }
        }
        connection.directory_version = Some(whole.version);
        Ok(())
    }

    async fn on_command(&mut self, connection: &mut Connection, command: Command) -> Result<(), LinkError> {
        connection.pending.retain(|_, pending| match pending {
            Pending::Found(answer) => !answer.is_closed(),
            Pending::Steps(answer) => !answer.is_closed(),
        });
        let request = connection.next_request;
        match command {
            Command::Directory(change) => return self.on_change(connection, change).await,
            Command::TapeAck(SegmentName { shard, track, segment }) => {
                return connection.send(&FromSide::TapeAck { shard, track, segment }).await;
            }
            // Whoever asked is told by the answer's end.
            _ if connection.pending.len() >= PENDING_MAX => return Ok(()),
            Command::HangUp { call, answer } => {
                connection.pending.insert(request, Pending::Found(answer));
                connection.send(&FromSide::Hangup { request, call }).await?;
            }
            Command::Record { call, wish, answer } => {
                connection.pending.insert(request, Pending::Found(answer));
                connection.send(&FromSide::Record { request, call, wish }).await?;
            }
            Command::Trace { subject, answer } => {
                connection.pending.insert(request, Pending::Steps(answer));
                connection.send(&FromSide::Trace { request, subject }).await?;
            }
        }
        connection.next_request = request.wrapping_add(1);
        Ok(())
    }

    async fn on_change(&mut self, connection: &mut Connection, change: Change) -> Result<(), LinkError> {
        // Before Hello, the version is not known: what is sent then is newer than this change.
        let Some(has) = connection.directory_version else { return Ok(()) };
        if has >= change.version {
            return Ok(());
        }
        let part = if has == change.from { snapshot::delta(&self.store, &self.key, &change).await? } else { None };
        match part {
            Some(part) => {
                let delta = FromSide::DirectoryDelta { from: has, version: change.version, part };
                connection.send(&delta).await?;
                connection.directory_version = Some(change.version);
                Ok(())
            }
            None => self.send_directory(connection, has).await,
        }
    }
}

impl Connection {
    async fn send(&self, message: &FromSide) -> Result<(), LinkError> {
        let mut frame = Vec::new();
        link::emit(message, &mut frame)?;
        self.frames.send(frame).await.map_err(|_| LinkError::Closed)
    }
}

/// Ends with the error that it reports.
async fn read_frames(mut read: OwnedReadHalf, frames: mpsc::Sender<Result<FromEngine, LinkError>>) {
    let mut bytes = Vec::new();
    loop {
        let mut parsed = 0;
        while let Some(rest) = bytes.get(parsed..) {
            match link::parse::<FromEngine>(rest) {
                Ok(Some((frame, len))) => {
                    parsed += len;
                    if frames.send(Ok(frame)).await.is_err() {
                        return;
                    }
                }
                Ok(None) => break,
                Err(error) => {
                    let _ = frames.send(Err(error.into())).await;
                    return;
                }
            }
        }
        bytes.drain(..parsed);
        debug_assert!(bytes.len() <= LINK_FRAME_BYTES_MAX + 4);
        bytes.reserve(READ_BYTES);
        let error = match read.read_buf(&mut bytes).await {
            Ok(0) => LinkError::Closed,
            Ok(_) => continue,
            Err(error) => error.into(),
        };
        let _ = frames.send(Err(error)).await;
        return;
    }
}

/// Ends when the connection does; the reader notices and reports.
async fn write_frames(mut write: OwnedWriteHalf, mut frames: mpsc::Receiver<Vec<u8>>) {
    while let Some(frame) = frames.recv().await {
        if write.write_all(&frame).await.is_err() {
            return;
        }
    }
}
