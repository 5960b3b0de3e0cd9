//! The short-lived process that reads the configuration, as the keeper sees it: two pipes, a deadline, an outcome.

use std::io;
use std::io::Read;
use std::os::fd::AsFd;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Child;
use std::process::ChildStderr;
use std::process::ChildStdout;
use std::process::Command;
use std::process::Stdio;
use std::time::Duration;

use rustix::event::PollFd;
use rustix::event::PollFlags;
use rustix::event::Timespec;
use rustix::event::poll;

use crate::base::time::Instant;
use crate::process::clock;
use crate::process::exit;
use crate::process::exit::Failure;
use crate::process::plan;
use crate::process::plan::PLAN_BYTES_MAX;
use crate::process::plan::Plan;

pub(super) struct Planning {
    child: Child,
    pub(super) output: Option<ChildStdout>,
    pub(super) errors: Option<ChildStderr>,
    plan: Vec<u8>,
    faults: Vec<u8>,
    pub(super) deadline: Instant,
}

const TIME_MAX: Duration = Duration::from_secs(4);
const FAULT_BYTES_MAX: usize = 64 * 1024;

impl Planning {
    pub(super) fn start(file: Option<&Path>) -> Result<Self, Failure> {
        let failed = |error: io::Error| Failure::from_io("cannot start the reader of the configuration", &error);
        let mut command = Command::new("/proc/self/exe");
        command.arg0("tipring").arg("plan").env_remove("NOTIFY_SOCKET").process_group(0);
        if let Some(file) = file {
            command.arg("--config").arg(file);
        }
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().map_err(failed)?;
        let (output, errors) = (child.stdout.take(), child.stderr.take());
        for pipe in [output.as_ref().map(AsFd::as_fd), errors.as_ref().map(AsFd::as_fd)].into_iter().flatten() {
            rustix::io::ioctl_fionbio(pipe, true).map_err(|error| failed(error.into()))?;
        }
        let deadline = clock::instant() + TIME_MAX;
        Ok(Self { child, output, errors, plan: Vec::new(), faults: Vec::new(), deadline })
    }

    /// Reads what is there. The outcome, once both pipes are at their end or time is up.
    pub(super) fn advance(&mut self, now: Instant) -> Option<Result<Box<Plan>, Failure>> {
        read_some(&mut self.output, &mut self.plan, PLAN_BYTES_MAX);
        read_some(&mut self.errors, &mut self.faults, FAULT_BYTES_MAX);
        let late = now >= self.deadline;
        if !late && (self.output.is_some() || self.errors.is_some()) {
            return None;
        }
        if late {
            let _ = self.child.kill();
        }
        // Both pipes are closed: the process is at its end, or was killed.
        let status = self.child.wait();
        let text = String::from_utf8_lossy(&self.faults).trim_end().to_owned();
        Some(match status.ok().and_then(|status| status.code()) {
            Some(0) => plan::parse(&self.plan).map(Box::new).ok_or_else(|| {
                Failure::new(exit::OTHER, "the reader of the configuration is of another release: restart tipring")
            }),
            Some(code) if !text.is_empty() => Err(Failure::new(u8::try_from(code).unwrap_or(exit::OTHER), text)),
            _ if late => Err(Failure::new(exit::OTHER, "reading the configuration takes too long")),
            _ => Err(Failure::new(exit::OTHER, format!("the reader of the configuration crashed: {text}"))),
        })
    }

    /// For the start, when there is nothing else to do.
    pub(super) fn finish(mut self) -> Result<Box<Plan>, Failure> {
        loop {
            if let Some(outcome) = self.advance(clock::instant()) {
                return outcome;
            }
            let mut descriptors = Vec::new();
            descriptors.extend(self.output.as_ref().map(|output| PollFd::new(output, PollFlags::IN)));
            descriptors.extend(self.errors.as_ref().map(|errors| PollFd::new(errors, PollFlags::IN)));
            let _ = poll(&mut descriptors, Some(&Timespec { tv_sec: 0, tv_nsec: 100_000_000 }));
        }
    }
}

/// Closes the pipe at its end, and where more comes than may.
fn read_some(pipe: &mut Option<impl Read>, into: &mut Vec<u8>, max: usize) {
    let mut buffer = [0; 16 * 1024];
    while let Some(open) = pipe {
        match open.read(&mut buffer) {
            Ok(0) => *pipe = None,
            Ok(bytes) if into.len() + bytes > max => *pipe = None,
            Ok(bytes) => into.extend_from_slice(buffer.get(..bytes).unwrap_or_default()),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(_) => *pipe = None,
        }
    }
}
