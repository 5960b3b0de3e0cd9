//! The keeper's loop: wait until anything happens, then look at everything, each without waiting.

use std::collections::BTreeMap;
use std::fs::File;
use std::panic::AssertUnwindSafe;
use std::panic::catch_unwind;
use std::path::PathBuf;
use std::time::Duration;

use rustix::event::PollFd;
use rustix::event::PollFlags;
use rustix::event::Timespec;
use rustix::event::poll;
use signal_hook::consts::SIGHUP;
use signal_hook::consts::SIGINT;
use signal_hook::consts::SIGTERM;

use crate::base::time::Instant;
use crate::process::clock;
use crate::process::exit;
use crate::process::exit::Failure;
use crate::process::keeper::Signals;
use crate::process::keeper::control::Control;
use crate::process::keeper::control::State;
use crate::process::keeper::groups::Groups;
use crate::process::keeper::heartbeat::Heartbeats;
use crate::process::keeper::heartbeat::Scheduled;
use crate::process::keeper::log::Log;
use crate::process::keeper::log::complain;
use crate::process::keeper::notify::Manager;
use crate::process::keeper::notify::Phase;
use crate::process::keeper::planning::Planning;
use crate::process::keeper::process::Life;
use crate::process::keeper::process::Process;
use crate::process::keeper::process::describe;
use crate::process::keeper::sockets::Sockets;
use crate::process::keeper::textfile::Textfile;
use crate::process::plan::Plan;
use crate::wire::control::FromChild;
use crate::wire::control::Role;
use crate::wire::control::Start;
use crate::wire::control::Status;
use crate::wire::control::ToChild;

pub(super) struct Keeper {
    pub(super) config: Option<PathBuf>,
    /// Of the start; drain and log are of the last reload.
    pub(super) plan: Box<Plan>,
    /// Settings of the last reload: a child that is started again gets the first ones, then these.
    pub(super) latest: Option<Settings>,
    pub(super) log: Log,
    pub(super) _locks: [File; 2],
    pub(super) sockets: Sockets,
    pub(super) control: Control,
    pub(super) engine: Process,
    pub(super) side: Process,
    pub(super) heartbeats: Heartbeats,
    pub(super) signals: Signals,
    pub(super) manager: Manager,
    pub(super) groups: Option<Groups>,
    pub(super) boot: u64,
    pub(super) started: Instant,
    /// Was said: from here on we never give up.
    pub(super) ready: bool,
    pub(super) draining: bool,
    /// As the engine said since it was last told to drain.
    pub(super) calls_up: Option<u32>,
    pub(super) stop: Stop,
    pub(super) planning: Option<Planning>,
    pub(super) reload_success: bool,
    /// What side was last told.
    pub(super) told: Option<Status>,
    pub(super) textfile: Textfile,
    /// Of shards that are silent, as it was when they fell silent.
    pub(super) run_delays: BTreeMap<usize, Scheduled>,
}

pub(super) struct Settings {
    pub(super) engine: Vec<u8>,
    pub(super) side: Vec<u8>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Stop {
    No,
    /// After the last call, or at this time.
    Drained {
        until: Instant,
    },
    /// First the engine, then side; what is left at the second time is killed.
    Now {
        engine_until: Instant,
        until: Instant,
    },
}

/// A child that says nothing for so long while it starts will not start.
const START_MAX: Duration = Duration::from_millis(4_700);
/// A child whose start takes long says so at least once a second.
const WORKING_MAX: Duration = Duration::from_millis(1_500);
const STOP_MAX: Duration = Duration::from_millis(4_700);
const ENGINE_STOP_MAX: Duration = Duration::from_millis(3_700);
/// Frames taken from one child in one turn.
const FRAMES_PER_TURN_MAX: usize = 64;

impl Keeper {
    /// Returns the exit code.
    pub(super) fn run(mut self) -> u8 {
        self.report_ports();
        loop {
            // A mistake of ours must not take the sockets with it.
            match catch_unwind(AssertUnwindSafe(|| self.turn())) {
                Ok(None) => {}
                Ok(Some(outcome)) => return self.end(outcome),
                Err(_) => {
                    self.log.error("keeper_panic", "a fault of the keeper itself; it goes on");
                    std::thread::sleep(Duration::from_millis(100));
                }
            }
        }
    }

    fn turn(&mut self) -> Option<Result<(), Failure>> {
        let mut now = clock::instant();
        if let Err(failure) = self.start_due(now) {
            return Some(Err(failure));
        }
        self.wait(now);
        now = clock::instant();
        self.on_signals(now);
        self.on_clients(now);
        self.on_frames(now);
        for role in [Role::Engine, Role::Side] {
            if let Some(failure) = self.on_exit(role, now) {
                return Some(Err(failure));
            }
        }
        self.on_planning(now);
        self.on_heartbeat(now);
        if let Some(failure) = self.on_slow_start(now) {
            return Some(Err(failure));
        }
        self.on_stop(now);
        self.tell_side();
        self.tell_manager(now);
        if self.textfile.is_due(now) {
            self.textfile.write(&self.status(), &mut self.log, now);
        }
        self.flush(now);
        let over = |process: &Process| matches!(process.life, Life::Over);
        (over(&self.engine) && over(&self.side)).then_some(Ok(()))
    }

    fn end(mut self, outcome: Result<(), Failure>) -> u8 {
        for process in [&mut self.engine, &mut self.side] {
            if let Some(running) = process.running() {
                running.kill();
                running.wait_for_end();
            }
        }
        let _ = std::fs::remove_file(self.plan.run.join("control.sock"));
        let _ = std::fs::remove_file(self.plan.run.join("link.sock"));
        self.textfile.remove();
        match outcome {
            Ok(()) => {
                self.log.info("stopped", "stopped");
                0
            }
            Err(failure) => {
                self.manager.send(&format!("STATUS={failure}"));
                complain(&format!("tipring: {failure}\n"));
                failure.code
            }
        }
    }

    fn wait(&self, now: Instant) {
        let mut descriptors = vec![
            PollFd::new(self.signals.get_read(), PollFlags::IN),
            PollFd::new(&self.control.listener, PollFlags::IN),
        ];
        for client in &self.control.clients {
            let write = if client.wants_to_write() { PollFlags::OUT } else { PollFlags::empty() };
            let read = if client.state == State::Reading { PollFlags::IN } else { PollFlags::empty() };
            if !(read | write).is_empty() {
                descriptors.push(PollFd::new(&client.stream, read | write));
            }
        }
        for process in [&self.engine, &self.side] {
            if let Life::Up(running) = &process.life {
                let write = if running.wants_to_send() { PollFlags::OUT } else { PollFlags::empty() };
                descriptors.push(PollFd::new(&running.pidfd, PollFlags::IN));
                descriptors.push(PollFd::new(&running.channel, PollFlags::IN | write));
            }
        }
        if let Some(planning) = &self.planning {
            descriptors.extend(planning.output.as_ref().map(|output| PollFd::new(output, PollFlags::IN)));
            descriptors.extend(planning.errors.as_ref().map(|errors| PollFd::new(errors, PollFlags::IN)));
        }
        let left = self.next_deadline().since(now);
        let timeout = Timespec {
            tv_sec: i64::try_from(left.as_secs()).unwrap_or(i64::MAX).min(3600),
            tv_nsec: i64::from(left.subsec_nanos()),
        };
        // An interrupt is a signal: the turn looks at it.
        let _ = poll(&mut descriptors, Some(&timeout));
    }

    fn next_deadline(&self) -> Instant {
        let mut deadline = self.control.next_deadline();
        for process in [&self.engine, &self.side] {
            deadline = deadline.min(match &process.life {
                Life::Up(running) if !running.ready => self.start_limit(running.working),
                Life::Down { until } => *until,
                Life::Up(_) | Life::Over => Instant::NEVER,
            });
        }
        if self.engine.is_ready() {
            deadline = deadline.min(self.heartbeats.next_tick());
        }
        deadline = deadline.min(self.manager.next_deadline(self.phase())).min(self.textfile.next_deadline());
        deadline = deadline.min(self.planning.as_ref().map_or(Instant::NEVER, |planning| planning.deadline));
        deadline.min(match self.stop {
            Stop::No => Instant::NEVER,
            Stop::Drained { until } => until,
            // The engine's own limit is looked at by the same wake-ups.
            Stop::Now { engine_until, until } if matches!(self.engine.life, Life::Over) => until.max(engine_until),
            Stop::Now { engine_until, .. } => engine_until,
        })
    }

    /// Starts every child whose time has come.
    fn start_due(&mut self, now: Instant) -> Result<(), Failure> {
        for role in [Role::Engine, Role::Side] {
            if !matches!(self.process(role).life, Life::Down { until } if until <= now) {
                continue;
            }
            if let Err(error) = self.start(role, now) {
                let failure = Failure::from_io(format!("cannot start the {} process", role.name()), &error);
                if !self.ready {
                    return Err(failure);
                }
                self.log.error("start_failed", &failure.line);
                self.process(role).set_down(now);
            }
        }
        Ok(())
    }

    fn start(&mut self, role: Role, now: Instant) -> std::io::Result<()> {
        let settings = if role == Role::Engine { &self.plan.engine } else { &self.plan.side };
        let start = ToChild::Start(Box::new(Start {
            boot: self.boot,
            generation: self.process_ref(role).generation + 1,
            node: self.plan.node.clone(),
            shards: self.plan.shards,
            cpus: self.plan.cpus.clone(),
            housekeeping: self.plan.housekeeping,
            data: self.plan.data.clone(),
            run: self.plan.run.clone(),
            draining: self.draining,
            settings: settings.clone(),
        }));
        let latest = self.latest.as_ref().map(|latest| match role {
            Role::Engine => latest.engine.clone(),
            Role::Keeper | Role::Side => latest.side.clone(),
        });
        // Before the start for what is decided by it, and after it for what obeys.
        let latest = latest.map(ToChild::Settings);
        let frames: Vec<_> = latest.clone().into_iter().chain([start]).chain(latest).collect();
        if role == Role::Engine {
            if self.engine.generation > 0 {
                self.sockets.reset_rtp();
            }
            self.heartbeats.restart(now);
            self.engine.start(&self.sockets.handles, &frames, now)?;
        } else {
            self.told = None;
            self.side.start(&self.sockets.readable, &frames, now)?;
        }
        // Nothing was sent yet: it makes no thread before it is where it belongs.
        if let Some(pid) = self.process(role).running().map(|running| running.pid())
            && let Some(groups) = &self.groups
            && let Err(error) = groups.enter(role, pid)
        {
            self.log.warn("groups", &format!("{} has no control group of its own: {error}", role.name()));
        }
        Ok(())
    }

    fn process(&mut self, role: Role) -> &mut Process {
        if role == Role::Engine { &mut self.engine } else { &mut self.side }
    }

    fn process_ref(&self, role: Role) -> &Process {
        if role == Role::Engine { &self.engine } else { &self.side }
    }

    fn on_signals(&mut self, now: Instant) {
        let signals: Vec<_> = self.signals.pending().collect();
        for signal in signals {
            match signal {
                SIGTERM if self.stop == Stop::No && self.ready => self.drain_then_stop(now),
                SIGTERM | SIGINT => self.stop_now(now),
                SIGHUP => self.reload(now),
                _ => self.log.warn("upgrade", "hot upgrade is not built yet"),
            }
        }
    }

    fn drain_then_stop(&mut self, now: Instant) {
        self.log.info("draining", "draining: new calls get 503, stopping after the last one");
        self.manager.send("STOPPING=1");
        self.stop = Stop::Drained { until: now + self.plan.drain };
        self.set_draining(true);
    }

    fn stop_now(&mut self, now: Instant) {
        if matches!(self.stop, Stop::Now { .. }) {
            return;
        }
        self.log.info("stopping", "stopping");
        self.manager.send("STOPPING=1");
        self.begin_stop(true, now);
    }

    fn begin_stop(&mut self, at_once: bool, now: Instant) {
        self.stop = Stop::Now { engine_until: now + ENGINE_STOP_MAX, until: now + STOP_MAX };
        self.engine.tell(&ToChild::Stop { now: at_once });
        for process in [&mut self.engine, &mut self.side] {
            if matches!(process.life, Life::Down { .. }) {
                process.life = Life::Over;
            }
        }
        if matches!(self.engine.life, Life::Over) {
            self.side.tell(&ToChild::Stop { now: true });
        }
    }

    pub(super) fn set_draining(&mut self, draining: bool) {
        self.draining = draining;
        self.calls_up = None;
        self.engine.tell(if draining { &ToChild::Drain } else { &ToChild::Undrain });
    }

    fn on_stop(&mut self, now: Instant) {
        match self.stop {
            Stop::Drained { until } if self.calls_up == Some(0) || now >= until => {
                self.begin_stop(self.calls_up != Some(0), now);
            }
            Stop::Now { engine_until, until } => {
                if now >= engine_until
                    && let Some(running) = self.engine.running()
                {
                    running.kill();
                }
                if now >= until
                    && let Some(running) = self.side.running()
                {
                    running.kill();
                }
            }
            Stop::No | Stop::Drained { .. } => {}
        }
    }

    fn on_frames(&mut self, now: Instant) {
        for role in [Role::Engine, Role::Side] {
            for _ in 0..FRAMES_PER_TURN_MAX {
                let Some(running) = self.process(role).running() else { break };
                match running.receive() {
                    Ok(Some(frame)) => self.on_frame(role, frame, now),
                    Ok(None) => break,
                    // It ended, or it broke off what it lives by.
                    Err(()) => {
                        running.kill();
                        break;
                    }
                }
            }
        }
    }

    fn on_frame(&mut self, role: Role, frame: FromChild, now: Instant) {
        match frame {
            FromChild::Working => {
                if let Some(running) = self.process(role).running() {
                    running.working = now;
                }
            }
            FromChild::Ready => self.on_ready(role, now),
            FromChild::Failed { code, line } => {
                if let Some(running) = self.process(role).running() {
                    running.failed = Some((code, line));
                }
            }
            FromChild::CallsUp(calls) => self.calls_up = Some(calls),
            FromChild::Answer { id, part, last } => {
                if let Some(client) = self.control.client(id).filter(|client| client.state == State::Waiting) {
                    client.answer(&part, last);
                }
            }
        }
    }

    fn on_ready(&mut self, role: Role, now: Instant) {
        if role == Role::Engine {
            self.heartbeats.restart(now);
        }
        let Some(running) = self.process(role).running() else { return };
        running.ready = true;
        let pid = running.pid();
        self.log.info("process_up", &format!("{} is up, pid {pid}", role.name()));
        if self.ready || !self.engine.is_ready() || !self.side.is_ready() {
            return;
        }
        self.ready = true;
        let line = self.ready_line();
        self.log.announce("ready", &line);
        self.manager.send("READY=1");
    }

    fn ready_line(&self) -> String {
        let list = |listens: &[crate::process::plan::Listen]| {
            let addresses: Vec<_> = listens.iter().map(|listen| listen.address.to_string()).collect();
            if addresses.is_empty() { "none".to_owned() } else { addresses.join(",") }
        };
        let (udp, tcp) = (list(&self.plan.udp), list(&self.plan.tcp));
        let (node, shards, pairs) = (&self.plan.node, self.plan.shards, self.sockets.ports.open);
        format!("ready: node {node}, sip udp {udp} tcp {tcp}, {pairs} RTP port pairs, {shards} shards")
    }

    fn report_ports(&mut self) {
        let ports = self.sockets.ports;
        if ports.cut > 0 {
            let line = format!(
                "{} RTP port pairs of {} are left out: the limit of open files does not allow them; remedy: LimitNOFILE=1048576 in a drop-in (systemctl edit tipring)",
                ports.cut,
                ports.open + ports.held + ports.cut
            );
            self.log.warn("rtp_ports_cut", &line);
        }
        if ports.held > 0 {
            let line = format!("{} RTP port pairs are left out: other processes hold them", ports.held);
            self.log.warn("rtp_ports_held", &line);
        }
    }

    /// A failure is one that ends the start.
    fn on_exit(&mut self, role: Role, now: Instant) -> Option<Failure> {
        let status = self.process(role).running()?.exit_status()?;
        // What it said before its end counts.
        while let Some(running) = self.process(role).running()
            && let Ok(Some(frame)) = running.receive()
        {
            self.on_frame(role, frame, now);
        }
        let failed = self.process(role).running().and_then(|running| running.failed.take());
        if role == Role::Engine {
            self.control.fail_all(State::Waiting, &Failure::new(exit::OTHER, "the engine ended"));
            self.calls_up = None;
        }
        if matches!(self.stop, Stop::Now { .. }) {
            self.process(role).life = Life::Over;
            if role == Role::Engine {
                self.side.tell(&ToChild::Stop { now: true });
            }
            return None;
        }
        let name = role.name();
        let ended = describe(status);
        if !self.ready {
            let (code, line) = failed.unwrap_or_else(|| {
                let known = |code: &u8| [exit::CONFIG, exit::FORBIDDEN, exit::BUSY].contains(code);
                let code = status.code().and_then(|code| u8::try_from(code).ok()).filter(known);
                (code.unwrap_or(exit::OTHER), format!("it ended {ended} while starting"))
            });
            return Some(Failure::new(code, format!("{name}: {line}")));
        }
        let pause = self.process(role).set_down(now);
        let why = failed.map(|(_, line)| format!(": {line}")).unwrap_or_default();
        let line = format!("{name} ended {ended}{why}; starting it again in {} ms", pause.as_millis());
        self.log.error("process_ended", &line);
        None
    }

    fn start_limit(&self, working: Instant) -> Instant {
        // Before `ready` the whole start has one limit, which only signs of life move.
        if self.ready { working + START_MAX } else { (self.started + START_MAX).max(working + WORKING_MAX) }
    }

    fn on_slow_start(&mut self, now: Instant) -> Option<Failure> {
        for role in [Role::Engine, Role::Side] {
            let Life::Up(running) = &self.process_ref(role).life else { continue };
            if running.ready || now < self.start_limit(running.working) {
                continue;
            }
            let line = format!("{} did not start within {} ms", role.name(), START_MAX.as_millis());
            if !self.ready {
                return Some(Failure::new(exit::OTHER, line));
            }
            running.kill();
            self.log.error("start_failed", &line);
        }
        None
    }

    fn on_heartbeat(&mut self, now: Instant) {
        if !self.engine.is_ready() || now < self.heartbeats.next_tick() {
            return;
        }
        let hung = self.heartbeats.tick(self.sockets.state(), now);
        self.note_run_delays();
        let Some(shard) = hung else { return };
        let told = self.run_delay(shard).map_or_else(String::new, |seen| {
            let (ran, delayed) = (seen.ran.as_millis(), seen.delayed.as_millis());
            format!("; since it fell silent its thread ran {ran} ms and waited {delayed} ms for a CPU")
        });
        self.log.error("shard_hung", &format!("shard {shard} does not beat: the engine is killed{told}"));
        if let Some(running) = self.engine.running() {
            running.kill();
        }
    }

    /// Of shards that have just fallen silent, so that a hang is told from a machine that has no time for us.
    fn note_run_delays(&mut self) {
        let Some(pid) = self.engine.running().map(|running| running.pid()) else { return };
        let silent: Vec<usize> = self.heartbeats.silent().collect();
        self.run_delays.retain(|shard, _| silent.contains(shard));
        for shard in silent {
            if !self.run_delays.contains_key(&shard)
                && let Some(seen) = Scheduled::of(pid, shard)
            {
                self.run_delays.insert(shard, seen);
            }
        }
    }

    fn run_delay(&mut self, shard: usize) -> Option<Scheduled> {
        let before = *self.run_delays.get(&shard)?;
        let pid = self.engine.running()?.pid();
        Scheduled::of(pid, shard).map(|seen| seen.since(before))
    }

    fn phase(&self) -> Phase {
        match self.stop {
            _ if !self.ready => Phase::Starting,
            Stop::No => Phase::Serving,
            Stop::Drained { .. } => Phase::Draining,
            Stop::Now { .. } => Phase::Stopping,
        }
    }

    fn tell_manager(&mut self, now: Instant) {
        let phase = self.phase();
        let calls = self.calls_up.map(|calls| format!("; calls up: {calls}")).unwrap_or_default();
        let mut status = match phase {
            Phase::Starting => "starting".to_owned(),
            Phase::Stopping => "stopping".to_owned(),
            Phase::Draining => format!("stops after the last call{calls}"),
            Phase::Serving if self.draining => format!("draining{calls}"),
            Phase::Serving => format!("takes calls, {} RTP port pairs", self.sockets.ports.open),
        };
        if matches!(phase, Phase::Serving | Phase::Draining) {
            if !self.engine.is_ready() {
                status.push_str("; the engine is being started again");
            }
            if !self.side.is_ready() {
                status.push_str("; side is being started again, calls go on");
            }
        }
        self.manager.tell(phase, self.heartbeats.beaten(), status, now);
    }

    /// Side hears of every change but the number of calls, which it knows from the engine.
    fn tell_side(&mut self) {
        let status = Status { calls_up: 0, ..self.status() };
        if self.side.running().is_some() && self.told.as_ref() != Some(&status) {
            self.side.tell(&ToChild::Status(Box::new(status.clone())));
            self.told = Some(status);
        }
    }

    fn flush(&mut self, now: Instant) {
        for (process, handles) in [(&mut self.engine, &self.sockets.handles), (&mut self.side, &self.sockets.readable)]
        {
            if let Some(running) = process.running()
                && running.flush(handles).is_err()
            {
                // Its end is seen by the next turn, or it is brought about here.
                running.kill();
            }
        }
        for client in self.control.clients.iter_mut().filter(|client| client.wants_to_write()) {
            client.write();
        }
        self.control.close_finished(now);
    }
}
