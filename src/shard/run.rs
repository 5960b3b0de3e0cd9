//! The loop of a shard: one pinned thread, one glommio executor, one [`DatagramIo`].
//!
//! A turn: read the clock once, hand over what arrived (datagrams, messages of the mesh), timers, then one submit that also waits.
//! Every step is bounded in items. Under load the thread blocks in the ring until a batch is there or 400 µs have passed, and
//! glommio gets its share between turns; with little to do it sleeps in glommio until the wake descriptor or the next deadline.
//! What a machine wants done goes through [`Effects`] after it has returned.
#![allow(unsafe_code, reason = "wraps the wake descriptor for glommio")]

use std::cell::Cell;
use std::collections::VecDeque;
use std::future::Future;
use std::future::poll_fn;
use std::net::SocketAddr;
use std::ops::Range;
use std::os::fd::AsFd;
use std::os::fd::FromRawFd;
use std::os::fd::IntoRawFd;
use std::os::fd::OwnedFd;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::Acquire;
use std::sync::atomic::Ordering::Release;
use std::sync::mpsc;
use std::task::Poll;
use std::task::Waker;
use std::time::Duration;

use glommio::ExecutorJoinHandle;
use glommio::LocalExecutorBuilder;
use glommio::Placement;
use glommio::PoolPlacement;
use glommio::io::BufferedFile;
use glommio::timer::Timer;

use crate::base::id::Handle;
use crate::base::time::Instant;
use crate::base::time::Now;
use crate::shard::clock;
use crate::shard::memory::Counter;
use crate::shard::memory::Figures;
use crate::shard::memory::Gauge;
use crate::shard::memory::Histogram;
use crate::shard::memory::Phase;
use crate::shard::mesh::Delivery;
use crate::shard::mesh::Member;
use crate::shard::mesh::Post;
use crate::shard::mesh::signal;
use crate::shard::tcp::Arrival;
use crate::shard::tcp::StreamLimits;
use crate::shard::tcp::Streams;
use crate::shard::udp::Datagram;
use crate::shard::udp::DatagramIo;
use crate::shard::udp::Losses;
use crate::shard::udp::Slot;
use crate::shard::udp::SlotKind;
use crate::shard::udp::Tally;
use crate::shard::udp::UdpError;
use crate::shard::udp::Wait;
use crate::shard::udp::plain::Plain;
use crate::shard::udp::ring::Ring;
use crate::shard::udp::ring::RingConfig;

/// What happens with a received RTP datagram.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    Drop,
    /// This part of it goes out of `slot` to `to`, from the buffer it came in.
    Relay {
        part: Range<usize>,
        slot: Slot,
        to: SocketAddr,
    },
}

/// The way a SIP message came, and the way its answer goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flow {
    Udp {
        slot: Slot,
        peer: SocketAddr,
    },
    /// `listener` counts the listeners that the shard was given; [`OWN_CONNECTION`] for one that it opened itself.
    Tcp {
        connection: Handle,
        peer: SocketAddr,
        listener: u16,
    },
}

/// The listener of a connection that has none.
pub const OWN_CONNECTION: u16 = u16::MAX;

/// Everything a machine can have done. Nothing here fails towards the machine but the mesh; failures are counted.
pub trait Effects<M> {
    /// Sends a copy of `bytes` as a datagram.
    fn send_udp(&mut self, slot: Slot, to: SocketAddr, bytes: &[u8]);
    /// Writes a copy of `bytes` to a connection; false if it is gone.
    fn send_tcp(&mut self, connection: Handle, bytes: &[u8]) -> bool;
    /// Begins to connect; what is written meanwhile waits. None if that cannot be. A connection that fails is
    /// [told](ShardMachine::on_closed) like one that ends.
    fn open_tcp(&mut self, to: SocketAddr) -> Option<Handle>;
    /// Closes a connection after what was written to it.
    fn close_tcp(&mut self, connection: Handle);
    /// The connection belongs to somebody known: deadlines for strangers end.
    fn keep_tcp(&mut self, connection: Handle);
    /// Sends a message to another member of the mesh, or gives it back.
    fn send_mesh(&mut self, to: Member, message: M) -> Result<(), M>;
    /// Opens an RTP socket for a call. What it received before is gone.
    fn arm(&mut self, slot: Slot);
    /// Closes an RTP socket.
    fn disarm(&mut self, slot: Slot);
    /// Binds an RTP socket to its latched peer, or frees it.
    fn connect(&mut self, slot: Slot, peer: Option<SocketAddr>);
    /// What was lost at a socket so far.
    fn losses(&self, slot: Slot) -> Losses;
    fn figures(&self) -> &Figures;
}

/// The decisions of one shard. Each method is called by the shard's thread, returns soon and does no IO.
pub trait ShardMachine: 'static {
    type Message: Send + 'static;

    /// A datagram at an RTP slot. Runs per packet: no allocation, no effects but the verdict and rare others.
    fn on_rtp(&mut self, slot: Slot, source: SocketAddr, bytes: &mut [u8], now: Now) -> Verdict;

    /// A datagram at a SIP slot, or a whole message of a connection.
    fn on_sip(&mut self, flow: Flow, bytes: &[u8], now: Now);

    /// A connection is gone; its handle will not come again.
    fn on_closed(&mut self, connection: Handle, now: Now);

    fn on_message(&mut self, from: Member, message: Self::Message, now: Now);

    fn handle_timeout(&mut self, now: Now);

    fn next_deadline(&self) -> Option<Instant>;

    /// Called after each of the above: passes on what is to be done.
    fn drain(&mut self, effects: &mut impl Effects<Self::Message>);

    /// Called at the end of every turn: for what need not go at once, and is cheaper together.
    fn end_turn(&mut self, _effects: &mut impl Effects<Self::Message>) {}

    /// The shard's work has ended and its thread may.
    fn is_done(&self) -> bool {
        false
    }
}

#[derive(Clone, Debug)]
pub struct ShardConfig {
    /// The CPU to run on; none leaves it to the kernel.
    pub cpu: Option<usize>,
    /// Where glommio's helper thread runs.
    pub housekeeping: Option<usize>,
    /// Under load, a wait ends when so many completions are there …
    pub batch: u32,
    /// … or when this has passed …
    pub wait_max: Duration,
    /// … or this, where nothing but signalling arrives: it has time, and a turn costs the same for one message as for ten.
    pub wait_max_without_media: Duration,
    /// How often a loaded shard lets glommio look after its own work: nothing but the end of a sleep waits there.
    pub poll_every: Duration,
    /// More datagrams than these within 20 ms, and waiting in the ring costs less than sleeping and being woken for each.
    pub loaded_datagrams: u32,
    /// A sleeping shard shows that often that it lives.
    pub sleep_max: Duration,
    pub ring: RingConfig,
    pub streams: StreamLimits,
    /// Take recvmmsg and sendmmsg even where the ring works.
    pub plain: bool,
}

impl Default for ShardConfig {
    fn default() -> Self {
        Self {
            cpu: None,
            housekeeping: None,
            batch: 64,
            wait_max: Duration::from_micros(400),
            wait_max_without_media: Duration::from_millis(2),
            poll_every: Duration::from_millis(10),
            loaded_datagrams: 10,
            sleep_max: Duration::from_millis(250),
            ring: RingConfig::default(),
            streams: StreamLimits::default(),
            plain: false,
        }
    }
}

/// What a shard is given by whoever owns it.
pub struct ShardParts<M> {
    pub figures: Figures,
    pub post: Post<M>,
    pub sockets: Vec<(Slot, OwnedFd, SlotKind)>,
    pub listeners: Vec<OwnedFd>,
}

/// A shard could not start, or ended.
#[derive(Debug, thiserror::Error)]
pub enum ShardError {
    #[error(transparent)]
    Udp(#[from] UdpError),
    /// The executor did not start: io_uring is forbidden, memlock is too small, or the CPU does not exist.
    #[error("executor: {0}")]
    Executor(String),
    #[error("descriptor: {0}")]
    Descriptor(#[from] std::io::Error),
    /// The thread panicked.
    #[error("the shard's thread died")]
    Died,
}

/// A running shard. Dropping it does not stop it.
pub struct ShardHandle {
    stop: Arc<AtomicBool>,
    wake: OwnedFd,
    ready: mpsc::Receiver<Result<Backend, ShardError>>,
    thread: ExecutorJoinHandle<()>,
}

/// How a shard carries datagrams.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Backend {
    Ring,
    /// The ring did not work here: the owner should say so once.
    Plain,
}

impl ShardHandle {
    /// Waits until the shard has armed its SIP sockets.
    pub fn wait_ready(&self) -> Result<Backend, ShardError> {
        self.ready.recv().map_err(|_| ShardError::Died)?
    }

    /// Asks the loop to end after its turn.
    pub fn stop(&self) {
        self.stop.store(true, Release);
        signal(self.wake.as_fd());
    }

    pub fn join(self) -> Result<(), ShardError> {
        self.thread.join().map_err(|_| ShardError::Died)
    }
}

/// Never: glommio 0.9 goes to sleep over runnable tasks if its preemption timer fires between arming and running
/// (`run_task_queues` then says that nothing is runnable). The loop yields by itself instead, see [`let_glommio_poll`].
const PREEMPT: Duration = Duration::from_secs(3_600);
/// Longer than [`let_glommio_poll`] takes, so that it never leads to a sleep.
const SPIN: Duration = Duration::from_micros(20);
/// Datagrams handed over in one turn.
const DATAGRAMS_PER_TURN: u32 = 1_024;
const SIP_PER_TURN: u32 = 32;
const SIP_WAITING_MAX: usize = 256;
const STREAMS_PER_TURN: u32 = 256;
const MESSAGES_PER_TURN: u32 = 256;
/// The executor's registered memory: nothing here reads files.
const IO_MEMORY: usize = 64 * 1024;
/// All sockets are audited within a second: `DatagramIo::audit` looks at a sixteenth.
const AUDIT_EVERY: Duration = Duration::from_nanos(1_000_000_000 / 16);
const LOADED_WINDOW: Duration = Duration::from_millis(20);
/// How long a shard stays loaded after the last full window.
const LOADED_FOR: Duration = Duration::from_millis(100);
/// Wait of a loop that cannot sleep and has nothing to do.
const IDLE_WAIT: Duration = Duration::from_millis(20);

/// Starts a shard; `make` builds its machine on its thread.
pub fn spawn<M, F>(config: ShardConfig, parts: ShardParts<M::Message>, make: F) -> Result<ShardHandle, ShardError>
where
    M: ShardMachine,
    F: FnOnce(Now) -> M + Send + 'static,
{
    let stop = Arc::new(AtomicBool::new(false));
    let wake = parts.post.wake_fd().try_clone_to_owned()?;
    let (ready_sender, ready) = mpsc::channel();
    let placement = config.cpu.map_or(Placement::Unbound, Placement::Fixed);
    let mut builder = LocalExecutorBuilder::new(placement)
        .name("shard")
        .io_memory(IO_MEMORY)
        .preempt_timer(PREEMPT)
        .spin_before_park(SPIN);
    if let Some(cpu) = config.housekeeping
        && let Some(cpus) = glommio::CpuSet::online().ok().map(|set| set.filter(|location| location.cpu == cpu))
    {
        builder = builder.blocking_thread_pool_placement(PoolPlacement::MaxSpread(1, Some(cpus)));
    }
    let stopped = Arc::clone(&stop);
    let thread = builder
        .spawn(move || async move {
            let _guard = NoShardMissing;
            let result = serve(&config, parts, make, stopped, &ready_sender).await;
            if let Err(error) = result {
                // Nobody listens any more only if the owner is gone.
                let _ = ready_sender.send(Err(error));
            }
        })
        .map_err(|error| ShardError::Executor(error.to_string()))?;
    Ok(ShardHandle { stop, wake, ready, thread })
}

/// A panic that leaves the loop ends the engine on purpose: a restart is better than a node with a shard missing.
struct NoShardMissing;

impl Drop for NoShardMissing {
    fn drop(&mut self) {
        if std::thread::panicking() {
            std::process::abort();
        }
    }
}

async fn serve<M, F>(
    config: &ShardConfig,
    parts: ShardParts<M::Message>,
    make: F,
    stop: Arc<AtomicBool>,
    ready: &mpsc::Sender<Result<Backend, ShardError>>,
) -> Result<(), ShardError>
where
    M: ShardMachine,
    F: FnOnce(Now) -> M,
{
    // glommio's first sleep registers something with the kernel that takes up to 50 ms: not in front of a call.
    Timer::new(Duration::from_micros(1)).await;
    let wake = parts.post.wake_fd().try_clone_to_owned()?;
    let ring = if config.plain { None } else { Ring::new(&config.ring, wake).ok() };
    if let Some(ring) = ring {
        return serve_on(ring, Backend::Ring, config, parts, make, stop, ready).await;
    }
    let wake = parts.post.wake_fd().try_clone_to_owned()?;
    let plain = Plain::new(config.ring.slots_max, wake)?;
    serve_on(plain, Backend::Plain, config, parts, make, stop, ready).await
}

async fn serve_on<M, F, Io>(
    mut io: Io,
    backend: Backend,
    config: &ShardConfig,
    parts: ShardParts<M::Message>,
    make: F,
    stop: Arc<AtomicBool>,
    ready: &mpsc::Sender<Result<Backend, ShardError>>,
) -> Result<(), ShardError>
where
    M: ShardMachine,
    F: FnOnce(Now) -> M,
    Io: DatagramIo + 'static,
{
    for (slot, socket, kind) in parts.sockets {
        io.add(slot, socket, kind)?;
        if kind == SlotKind::Sip {
            io.arm(slot)?;
        }
    }
    let now = clock::now();
    let notice = Rc::new(Notice::default());
    let wake = parts.post.wake_fd().try_clone_to_owned()?;
    let streams = Streams::new(config.streams.clone(), parts.listeners, now.instant, &mut io)?;
    let mut core = Core {
        machine: make(now),
        effects: Applied { io, streams, post: parts.post, figures: parts.figures },
        now,
        lent_since: now.instant,
        loaded_until: Instant::ZERO,
        media_until: Instant::ZERO,
        window: (now.instant, 0),
        audit_due: now.instant,
        audit_part: 0,
        sip: VecDeque::with_capacity(SIP_WAITING_MAX),
    };
    if backend == Backend::Ring {
        glommio::spawn_local(listen(wake, Rc::clone(&notice), Arc::clone(&stop))).detach();
    }
    // Nobody waits any more only if the owner is gone.
    let _ = ready.send(Ok(backend));
    turn_until(&mut core, &notice, &stop, config).await;
    core.effects.figures.beat(clock::boottime(), Phase::Stopped);
    Ok(())
}

/// The wake descriptor's read is always pending; in a loaded shard nobody writes to it.
async fn listen(wake: OwnedFd, notice: Rc<Notice>, stop: Arc<AtomicBool>) {
    // SAFETY: the descriptor is open, and the file becomes its only owner.
    let wake = unsafe { BufferedFile::from_raw_fd(wake.into_raw_fd()) };
    while !stop.load(Acquire) {
        // An error is no reason to stop listening; the read is asked for again after a turn of the loop.
        let _ = wake.read_at(0, 8).await;
        notice.give();
    }
}

async fn turn_until<Io: DatagramIo, M: ShardMachine>(
    core: &mut Core<Io, M>,
    notice: &Notice,
    stop: &AtomicBool,
    config: &ShardConfig,
) {
    let mut due = None;
    let mut polled = Instant::ZERO;
    while !stop.load(Acquire) {
        core.turn(due, config);
        if core.machine.is_done() {
            return;
        }
        due = None;
        if core.is_loaded() || !core.effects.io.can_sleep() {
            due = Some(core.wait(config));
        } else if let Some(until) = core.prepare_to_sleep(config) {
            sleep(notice, until).await;
            core.wake_up();
            polled = core.now.instant;
        }
        if core.now.instant.since(polled) >= config.poll_every {
            let_glommio_poll().await;
            polled = core.now.instant;
        }
    }
}

/// glommio looks at its rings only when no task is runnable: so be none for a moment.
async fn let_glommio_poll() {
    Timer::new(Duration::from_micros(1)).await;
}

async fn sleep(notice: &Notice, until: Instant) {
    let mut timer = pin!(Timer::new(until.since(clock::boottime())));
    poll_fn(|context| {
        if notice.take(context.waker()) {
            return Poll::Ready(());
        }
        timer.as_mut().poll(context).map(drop)
    })
    .await;
}

/// Wakes the loop from within its own thread.
#[derive(Default)]
struct Notice {
    given: Cell<bool>,
    waker: Cell<Option<Waker>>,
}

impl Notice {
    fn give(&self) {
        self.given.set(true);
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }

    fn take(&self, waker: &Waker) -> bool {
        let given = self.given.replace(false);
        self.waker.set(if given { None } else { Some(waker.clone()) });
        given
    }
}

/// What one turn took from the sockets.
#[derive(Clone, Copy)]
struct Taken {
    datagrams: u32,
    media: u32,
}

/// Everything a shard holds.
struct Core<Io, M: ShardMachine> {
    machine: M,
    effects: Applied<Io, M::Message>,
    now: Now,
    /// The last time the sockets were seen empty: what is received was not waiting before.
    lent_since: Instant,
    loaded_until: Instant,
    media_until: Instant,
    /// Begin of the window, and the datagrams in it.
    window: (Instant, u32),
    audit_due: Instant,
    audit_part: u32,
    /// Received and not yet handed over, in the buffers they came in.
    sip: VecDeque<Datagram>,
}

impl<Io: DatagramIo, M: ShardMachine> Core<Io, M> {
    /// `due`: the time at which a wait was to end at the latest.
    fn turn(&mut self, due: Option<Instant>, config: &ShardConfig) {
        self.now = clock::now();
        let figures = &self.effects.figures;
        figures.beat(self.now.instant, Phase::Working);
        figures.add(if due.is_some() { Counter::TurnsLoaded } else { Counter::TurnsWoken }, 1);
        if let Some(due) = due {
            figures.observe(Histogram::TurnLateness, self.now.instant.since(due), 1);
        }
        let taken = self.take_datagrams();
        self.weigh(taken, config);
        self.take_sip(SIP_PER_TURN);
        self.take_streams();
        if self.audit_due <= self.now.instant {
            self.effects.figures.set(Gauge::MeshWaiting, self.effects.post.waiting() as u64);
        }
        self.take_messages();
        if self.machine.next_deadline().is_some_and(|deadline| deadline <= self.now.instant) {
            self.machine.handle_timeout(self.now);
            self.machine.drain(&mut self.effects);
        }
        self.machine.end_turn(&mut self.effects);
        self.audit();
    }

    fn take_datagrams(&mut self) -> Taken {
        let now = self.now;
        let mut taken = Taken { datagrams: 0, media: 0 };
        let mut relayed = 0;
        while taken.datagrams < DATAGRAMS_PER_TURN {
            let Some(datagram) = self.effects.io.next() else { break };
            taken.datagrams += 1;
            match datagram.kind {
                SlotKind::Rtp => {
                    taken.media += 1;
                    let bytes = self.effects.io.bytes(&datagram);
                    match self.machine.on_rtp(datagram.slot, datagram.source, bytes, now) {
                        Verdict::Drop => self.effects.io.release(datagram),
                        Verdict::Relay { part, slot, to } => {
                            relayed += 1;
                            self.effects.io.relay(datagram, part, slot, to);
                        }
                    }
                }
                SlotKind::Sip => {
                    self.sip.push_back(datagram);
                    if self.sip.len() >= SIP_WAITING_MAX {
                        self.take_sip(1);
                    }
                    continue;
                }
            }
            self.machine.drain(&mut self.effects);
        }
        if relayed > 0 {
            let waited_max = now.instant.since(self.lent_since);
            self.effects.figures.observe(Histogram::RelayDelay, waited_max, relayed);
        }
        self.lent_since = now.instant;
        taken
    }

    /// SIP waits behind the media of its turn, and takes only so much of it: a flood of requests must not delay packets.
    fn take_sip(&mut self, datagrams_max: u32) {
        for _ in 0..datagrams_max {
            let Some(datagram) = self.sip.pop_front() else { break };
            let flow = Flow::Udp { slot: datagram.slot, peer: datagram.source };
            let bytes = self.effects.io.bytes(&datagram);
            self.machine.on_sip(flow, bytes, self.now);
            self.effects.io.release(datagram);
            self.machine.drain(&mut self.effects);
        }
    }

    fn take_streams(&mut self) {
        let Applied { io, streams, .. } = &mut self.effects;
        streams.begin_turn(self.now.instant, io);
        for _ in 0..STREAMS_PER_TURN {
            let Applied { io, streams, figures, .. } = &mut self.effects;
            let Some(token) = io.next_ready() else { break };
            if let Some(connection) = streams.on_ready(token, io, figures) {
                self.read_stream(connection);
            }
        }
        self.tell_closed();
    }

    fn read_stream(&mut self, connection: Handle) {
        for _ in 0..Streams::reads_per_turn() {
            let Applied { io, streams, figures, .. } = &mut self.effects;
            let Some(reading) = streams.read(connection, io, figures) else { return };
            let passed = self.take_frames(connection, &reading.bytes);
            self.effects.streams.finish(connection, reading, passed);
        }
        self.effects.streams.more_next_turn(connection);
    }

    /// Hands over whole messages; says how many bytes are done with.
    fn take_frames(&mut self, connection: Handle, bytes: &[u8]) -> usize {
        let mut passed = 0;
        while let Some((peer, listener)) = self.effects.streams.ends(connection) {
            let Applied { io, streams, figures, .. } = &mut self.effects;
            let (skipped, arrival) = streams.frame(connection, &bytes[passed..], io, figures);
            passed += skipped;
            let (len, last) = match arrival {
                Arrival::Message(len) => (len, false),
                Arrival::Last(len) => (len, true),
                Arrival::Nothing => return passed,
            };
            let flow = Flow::Tcp { connection, peer, listener };
            self.machine.on_sip(flow, &bytes[passed..passed + len], self.now);
            self.machine.drain(&mut self.effects);
            passed += len;
            if last {
                let Applied { io, streams, figures, .. } = &mut self.effects;
                streams.close_broken(connection, io, figures);
            }
        }
        bytes.len()
    }

    fn tell_closed(&mut self) {
        while let Some(connection) = self.effects.streams.closed.pop() {
            self.machine.on_closed(connection, self.now);
            self.machine.drain(&mut self.effects);
        }
    }

    fn take_messages(&mut self) {
        for _ in 0..MESSAGES_PER_TURN {
            let Some((from, message)) = self.effects.post.try_receive() else { break };
            self.effects.figures.add(Counter::MeshReceived, 1);
            self.machine.on_message(from, message, self.now);
            self.machine.drain(&mut self.effects);
        }
    }

    /// Decides whether the shard is loaded, and whether with media.
    fn weigh(&mut self, taken: Taken, config: &ShardConfig) {
        let now = self.now.instant;
        if now.since(self.window.0) > LOADED_WINDOW {
            self.window = (now, 0);
        }
        self.window.1 += taken.datagrams;
        if self.window.1 > config.loaded_datagrams {
            self.loaded_until = now + LOADED_FOR;
        }
        if taken.media > 0 {
            self.media_until = now + LOADED_FOR;
        }
    }

    /// How long a datagram may wait for others to come.
    fn pause(&self, config: &ShardConfig) -> Duration {
        match (self.is_loaded(), self.now.instant < self.media_until) {
            (false, _) => IDLE_WAIT,
            (true, true) => config.wait_max,
            (true, false) => config.wait_max_without_media,
        }
    }

    fn is_loaded(&self) -> bool {
        self.now.instant < self.loaded_until
    }

    fn audit(&mut self) {
        let mut parts = 0;
        while self.audit_due <= self.now.instant && parts < 16 {
            self.audit_due = self.audit_due + AUDIT_EVERY;
            self.effects.io.audit();
            parts += 1;
            self.audit_part = (self.audit_part + 1) % 16;
            if self.audit_part == 0 {
                let Applied { io, streams, figures, .. } = &mut self.effects;
                streams.sweep(io, figures);
            }
        }
        if parts > 0 {
            self.audit_due = self.audit_due.max(self.now.instant);
            let tally = self.effects.io.take_tally();
            publish(&self.effects.figures, &tally);
            let buffers = self.effects.io.buffers();
            for (gauge, count) in [
                (Gauge::BuffersRtpUsed, buffers.rtp.circulating),
                (Gauge::BuffersRtpReserve, buffers.rtp.reserve),
                (Gauge::BuffersSipUsed, buffers.sip.circulating),
                (Gauge::BuffersSipReserve, buffers.sip.reserve),
            ] {
                self.effects.figures.set(gauge, count.into());
            }
        }
    }

    /// Submits, and waits in the ring; says when the wait was to end.
    fn wait(&mut self, config: &ShardConfig) -> Instant {
        let loaded = self.is_loaded();
        let until = (self.now.instant + self.pause(config)).min(self.machine.next_deadline().unwrap_or(Instant::NEVER));
        // A longer wait is ended by whoever sends a message.
        let at_hand = self.has_work() || !loaded && !self.effects.post.prepare_to_sleep();
        let completions_min = if at_hand { 0 } else { config.batch };
        self.count_busy();
        self.effects.io.submit_and_wait(Wait { completions_min, until });
        if !loaded {
            self.effects.post.wake_up();
        }
        until
    }

    fn has_work(&self) -> bool {
        !self.sip.is_empty() || self.effects.streams.has_work()
    }

    fn count_busy(&self) {
        let busy = clock::boottime().since(self.now.instant);
        self.effects.figures.add(Counter::Busy, u64::try_from(busy.as_nanos()).unwrap_or(0));
        self.effects.figures.observe(Histogram::LoopStall, busy, 1);
    }

    /// Says until when to sleep; none if there is work.
    fn prepare_to_sleep(&mut self, config: &ShardConfig) -> Option<Instant> {
        self.tell_closed();
        self.machine.end_turn(&mut self.effects);
        if self.has_work() || !self.effects.post.prepare_to_sleep() {
            self.effects.io.submit_and_wait(Wait { completions_min: 0, until: self.now.instant });
            return None;
        }
        if !self.effects.io.prepare_to_sleep() {
            self.effects.post.wake_up();
            return None;
        }
        self.count_busy();
        let tally = self.effects.io.take_tally();
        let figures = &self.effects.figures;
        publish(figures, &tally);
        figures.add(Counter::Sleeps, 1);
        figures.set(Gauge::MeshWaiting, 0);
        figures.beat(self.now.instant, Phase::Sleeping);
        let deadline = self.machine.next_deadline().unwrap_or(Instant::NEVER);
        Some(deadline.min(self.now.instant + config.sleep_max))
    }

    fn wake_up(&mut self) {
        self.effects.post.wake_up();
        self.effects.io.wake_up();
        // A datagram wakes at once: it did not wait while the shard slept.
        self.lent_since = clock::boottime();
    }
}

/// Carries out what a machine wants.
struct Applied<Io, M> {
    io: Io,
    streams: Streams,
    post: Post<M>,
    figures: Figures,
}

impl<Io: DatagramIo, M: Send> Effects<M> for Applied<Io, M> {
    fn send_udp(&mut self, slot: Slot, to: SocketAddr, bytes: &[u8]) {
        self.io.send(slot, to, bytes);
    }

    fn send_tcp(&mut self, connection: Handle, bytes: &[u8]) -> bool {
        let written = self.streams.write(connection, bytes, &mut self.io, &self.figures);
        if written {
            self.figures.add(Counter::TcpWrites, 1);
        }
        written
    }

    fn open_tcp(&mut self, to: SocketAddr) -> Option<Handle> {
        self.streams.open(to, &mut self.io, &self.figures)
    }

    fn close_tcp(&mut self, connection: Handle) {
        self.streams.close(connection, &mut self.io, &self.figures);
    }

    fn keep_tcp(&mut self, connection: Handle) {
        self.streams.keep(connection);
    }

    fn send_mesh(&mut self, to: Member, message: M) -> Result<(), M> {
        match self.post.try_send(to, message) {
            Ok(delivery) => {
                self.figures.add(Counter::MeshSent, 1);
                if delivery == Delivery::Woke {
                    self.figures.add(Counter::MeshWakes, 1);
                }
                Ok(())
            }
            Err(message) => {
                self.figures.add(Counter::MeshFull, 1);
                Err(message)
            }
        }
    }

    fn arm(&mut self, slot: Slot) {
        if self.io.arm(slot).is_err() {
            self.figures.add(Counter::UdpSocketErrors, 1);
        }
    }

    fn disarm(&mut self, slot: Slot) {
        self.io.disarm(slot);
    }

    fn connect(&mut self, slot: Slot, peer: Option<SocketAddr>) {
        if self.io.connect(slot, peer).is_err() {
            self.figures.add(Counter::UdpSocketErrors, 1);
        }
    }

    fn losses(&self, slot: Slot) -> Losses {
        self.io.losses(slot)
    }

    fn figures(&self) -> &Figures {
        &self.figures
    }
}

fn publish(figures: &Figures, tally: &Tally) {
    let rearm = &tally.rearm;
    let counts = [
        (Counter::UdpReceived, tally.received),
        (Counter::UdpSent, tally.sent),
        (Counter::UdpTruncated, tally.truncated),
        (Counter::UdpStale, tally.stale),
        (Counter::UdpDrained, tally.drained),
        (Counter::UdpBadAddress, tally.bad_address),
        (Counter::UdpKernelDrops, tally.kernel_drops),
        (Counter::UdpSendAgain, tally.send_again),
        (Counter::UdpSendRefused, tally.send_refused),
        (Counter::UdpSendOther, tally.send_other),
        (Counter::UdpSendTooLong, tally.send_too_long),
        (Counter::RearmNoBuffers, rearm.no_buffers),
        (Counter::RearmZeroLength, rearm.zero_length),
        (Counter::RearmIcmp, rearm.icmp),
        (Counter::RearmCancelled, rearm.cancelled),
        (Counter::RearmEnded, rearm.ended),
        (Counter::RearmOther, rearm.other),
        (Counter::UnarmedFound, tally.unarmed_found),
        (Counter::CancelAgain, tally.cancel_again),
        (Counter::CqOverflow, tally.cq_overflow),
        (Counter::SqFull, tally.sq_full),
        (Counter::EnterErrors, tally.enter_errors),
        (Counter::Enters, tally.enters),
    ];
    for (counter, by) in counts {
        if by > 0 {
            figures.add(counter, by);
        }
    }
}
