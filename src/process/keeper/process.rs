//! One child as the keeper sees it: its process, what waits to be sent to it, and when it is started again.

use std::collections::VecDeque;
use std::io;
use std::os::fd::AsFd;
use std::os::fd::BorrowedFd;
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::os::unix::process::ExitStatusExt;
use std::process::Child;
use std::process::Command;
use std::process::ExitStatus;
use std::process::Stdio;
use std::time::Duration;

use rustix::event::PollFd;
use rustix::event::PollFlags;
use rustix::event::Timespec;
use rustix::event::poll;
use rustix::process::Pid;
use rustix::process::PidfdFlags;
use rustix::process::Signal;

use crate::base::time::Instant;
use crate::process::channel::Channel;
use crate::process::channel::DESCRIPTORS_MAX;
use crate::process::channel::Wait;
use crate::process::keeper::sockets::Handle;
use crate::wire::control;
use crate::wire::control::FromChild;
use crate::wire::control::ProcessState;
use crate::wire::control::ProcessStatus;
use crate::wire::control::Role;
use crate::wire::control::ToChild;

pub(super) struct Process {
    pub(super) role: Role,
    /// How many times it was started.
    pub(super) generation: u32,
    /// Deaths in a row without a stable stretch between them.
    deaths: u32,
    pub(super) life: Life,
}

pub(super) enum Life {
    Up(Running),
    /// To be started at this time.
    Down {
        until: Instant,
    },
    /// Not to be started again: the keeper stops.
    Over,
}

pub(super) struct Running {
    child: Child,
    /// Readable when the process has ended.
    pub(super) pidfd: OwnedFd,
    pub(super) channel: Channel,
    pub(super) started: Instant,
    /// The last sign of life before it was ready.
    pub(super) working: Instant,
    pub(super) ready: bool,
    /// Why it cannot start, in its own words.
    pub(super) failed: Option<(u8, String)>,
    outgoing: VecDeque<Outgoing>,
}

struct Outgoing {
    bytes: Vec<u8>,
    /// Handles that go with it.
    handles: std::ops::Range<usize>,
}

/// A child that stays up for so long was not a failure.
const STABLE_AFTER: Duration = Duration::from_secs(30);
/// Frames that may wait for a child beside the start's.
const OUTGOING_MAX: usize = 1_024;
/// How long a killed process may take to end.
const END_WAIT_NANOS: i64 = 200_000_000;
/// The keeper's own binary, also after the file was replaced.
const OURSELVES: &str = "/proc/self/exe";

impl Process {
    pub(super) fn new(role: Role, now: Instant) -> Self {
        Self { role, generation: 0, deaths: 0, life: Life::Down { until: now } }
    }

    /// `handles` are passed first, then `frames` are sent, `Start` among them.
    pub(super) fn start(&mut self, handles: &[Handle], frames: &[ToChild], now: Instant) -> io::Result<()> {
        let (ours, theirs) = Channel::pair()?;
        let mut child = Command::new(OURSELVES)
            .arg0("tipring")
            .arg(self.role.name())
            .env_remove("NOTIFY_SOCKET")
            .env_remove("WATCHDOG_USEC")
            .env_remove("WATCHDOG_PID")
            .stdin(Stdio::from(theirs.into_socket()))
            // What is typed at the keeper's terminal is for the keeper alone.
            .process_group(0)
            .spawn()?;
        let pidfd = match pidfd_of(&child) {
            Ok(pidfd) => pidfd,
            Err(error) => {
                let _ = child.kill();
                let _ = child.wait();
                return Err(error);
            }
        };
        let mut running = Running {
            child,
            pidfd,
            channel: ours,
            started: now,
            working: now,
            ready: false,
            failed: None,
            outgoing: messages_of(handles),
        };
        for frame in frames {
            running.queue(frame);
        }
        self.generation += 1;
        self.life = Life::Up(running);
        Ok(())
    }

    /// Sets the next start; the first comes at once, the later ones after growing pauses.
    pub(super) fn set_down(&mut self, now: Instant) -> Duration {
        if let Life::Up(running) = &self.life
            && running.ready
            && now.since(running.started) >= STABLE_AFTER
        {
            self.deaths = 0;
        }
        let pause = back_off(self.deaths);
        self.deaths = self.deaths.saturating_add(1);
        self.life = Life::Down { until: now + pause };
        pause
    }

    pub(super) fn running(&mut self) -> Option<&mut Running> {
        match &mut self.life {
            Life::Up(running) => Some(running),
            Life::Down { .. } | Life::Over => None,
        }
    }

    pub(super) fn is_ready(&self) -> bool {
        matches!(&self.life, Life::Up(running) if running.ready)
    }

    /// A child that is not there hears it at its start.
    pub(super) fn tell(&mut self, frame: &ToChild) {
        if let Some(running) = self.running() {
            running.queue(frame);
        }
    }

    pub(super) fn status(&self, draining: bool, stopping: bool) -> ProcessStatus {
        let (state, pid) = match &self.life {
            Life::Up(running) if stopping => (ProcessState::Stopping, running.child.id()),
            Life::Up(running) if !running.ready => (ProcessState::Starting, running.child.id()),
            Life::Up(running) if draining => (ProcessState::Draining, running.child.id()),
            Life::Up(running) => (ProcessState::Ready, running.child.id()),
            Life::Down { .. } | Life::Over => (ProcessState::Down, 0),
        };
        ProcessStatus { role: self.role, state, generation: self.generation, pid }
    }
}

/// 0, 10, 50, 200 ms, then twice the last up to 5 s.
fn back_off(deaths: u32) -> Duration {
    let millis = match deaths {
        0 => 0,
        1 => 10,
        2 => 50,
        more => (200u64 << (more - 3).min(16)).min(5_000),
    };
    Duration::from_millis(millis)
}

impl Running {
    pub(super) fn queue(&mut self, frame: &ToChild) {
        // A frame that does not fit is of our own making, and a test sends the largest.
        let Ok(bytes) = control::emit(frame) else { return };
        self.outgoing.push_back(Outgoing { bytes, handles: 0..0 });
    }

    pub(super) fn wants_to_send(&self) -> bool {
        !self.outgoing.is_empty()
    }

    /// Sends what the child takes without waiting. An error means that it will not take more.
    pub(super) fn flush(&mut self, handles: &[Handle]) -> io::Result<()> {
        if self.outgoing.len() > OUTGOING_MAX + handles.len() {
            return Err(io::Error::other("does not read what it is told"));
        }
        while let Some(next) = self.outgoing.front() {
            let passed = handles.get(next.handles.clone()).unwrap_or_default();
            let descriptors: Vec<BorrowedFd<'_>> =
                passed.iter().flat_map(|handle| handle.descriptors.iter().map(AsFd::as_fd)).collect();
            match self.channel.send_bytes(&next.bytes, &descriptors, Wait::No) {
                Ok(()) => self.outgoing.pop_front(),
                Err(error) if is_full(&error) => return Ok(()),
                Err(error) => return Err(error),
            };
        }
        Ok(())
    }

    /// The next frame that is there; `Err` when there will be no more.
    pub(super) fn receive(&self) -> Result<Option<FromChild>, ()> {
        match self.channel.receive::<FromChild>(Wait::No) {
            Ok(Some((frame, _))) => Ok(Some(frame)),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
            Ok(None) | Err(_) => Err(()),
        }
    }

    pub(super) fn kill(&self) {
        let _ = rustix::process::pidfd_send_signal(&self.pidfd, Signal::KILL);
    }

    /// After a kill: so that what it held is free when the keeper has ended.
    pub(super) fn wait_for_end(&self) {
        let mut descriptors = [PollFd::new(&self.pidfd, PollFlags::IN)];
        let _ = poll(&mut descriptors, Some(&Timespec { tv_sec: 0, tv_nsec: END_WAIT_NANOS }));
    }

    pub(super) fn exit_status(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().ok().flatten()
    }

    pub(super) fn pid(&self) -> u32 {
        self.child.id()
    }
}

/// Too many descriptors in flight (ETOOMANYREFS) is a full queue too.
fn is_full(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::WouldBlock
        || error.raw_os_error() == Some(rustix::io::Errno::TOOMANYREFS.raw_os_error())
}

fn pidfd_of(child: &Child) -> io::Result<OwnedFd> {
    let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw).ok_or_else(|| io::Error::other("no pid"))?;
    Ok(rustix::process::pidfd_open(pid, PidfdFlags::empty())?)
}

/// "by signal 9", "with code 1".
pub(super) fn describe(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("with code {code}"),
        (None, Some(signal)) => format!("by signal {signal}"),
        (None, None) => "somehow".to_owned(),
    }
}

/// As many handles in each message as it may carry.
fn messages_of(handles: &[Handle]) -> VecDeque<Outgoing> {
    let mut messages = VecDeque::new();
    let mut first = 0;
    while first < handles.len() {
        let mut end = first;
        let mut descriptors = 0;
        while let Some(handle) = handles.get(end)
            && descriptors + handle.descriptors.len() <= DESCRIPTORS_MAX
        {
            descriptors += handle.descriptors.len();
            end += 1;
        }
        let passed = handles.get(first..end).unwrap_or_default().iter().map(|handle| handle.passed).collect();
        if let Ok(bytes) = control::emit(&ToChild::Handles(passed)) {
            messages.push_back(Outgoing { bytes, handles: first..end });
        }
        first = end.max(first + 1);
    }
    messages
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_a_bound() {
        let millis = (0..10).map(|deaths| back_off(deaths).as_millis()).collect::<Vec<_>>();
        assert_eq!(millis, [0, 10, 50, 200, 400, 800, 1600, 3200, 5000, 5000]);
        assert_eq!(back_off(u32::MAX).as_millis(), 5000);
    }
}
