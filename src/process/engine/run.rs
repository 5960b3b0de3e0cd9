//! The engine process from its first step to its last.
//!
//! It does what the keeper says and beats for each shard; it serves no phone yet.

use std::time::Duration;

use rustix::event::PollFd;
use rustix::event::PollFlags;
use rustix::event::Timespec;
use rustix::event::poll;

use crate::process::channel::Wait;
use crate::process::child;
use crate::process::clock;
use crate::process::engine::received::Received;
use crate::process::engine::received::ShardHandles;
use crate::process::exit;
use crate::process::exit::Failure;
use crate::process::log;
use crate::process::plan::EngineSettings;
use crate::shard::memory::Figures;
use crate::shard::memory::Phase;
use crate::wire::control::Answer;
use crate::wire::control::FromChild;
use crate::wire::control::Query;
use crate::wire::control::ToChild;

const BEAT_EVERY: Duration = Duration::from_millis(250);

/// Returns the exit code.
pub fn run() -> u8 {
    let begun = match child::begin() {
        Ok(begun) => begun,
        Err(failure) => return child::fail_alone(&failure),
    };
    let received = match Received::sort(begun) {
        Ok(received) => received,
        Err((keeper, failure)) => return child::fail(&keeper, &failure),
    };
    match serve(&received) {
        Ok(()) => 0,
        Err(failure) => child::fail(&received.keeper, &failure),
    }
}

fn serve(received: &Received) -> Result<(), Failure> {
    let lost = |error: std::io::Error| Failure::from_io("the keeper", &error);
    log::start(&received.settings.log, &received.start.node, "engine").map_err(lost)?;
    let keeper = &received.keeper;
    keeper.send(&FromChild::Ready).map_err(lost)?;
    if received.start.draining {
        keeper.send(&FromChild::CallsUp(0)).map_err(lost)?;
    }
    let figures = |shard: &ShardHandles| {
        Figures::open(&shard.state, shard.shard).map_err(|error| Failure::new(exit::OTHER, error.to_string()))
    };
    let figures: Vec<_> = received.shards.iter().map(figures).collect::<Result<_, _>>()?;
    loop {
        figures.iter().for_each(|figures| figures.beat(clock::instant(), Phase::Working));
        let mut descriptors = [PollFd::new(keeper, PollFlags::IN)];
        let nanos = i64::from(BEAT_EVERY.subsec_nanos());
        if poll(&mut descriptors, Some(&Timespec { tv_sec: 0, tv_nsec: nanos })) != Ok(1) {
            continue;
        }
        match keeper.receive::<ToChild>(Wait::No).map_err(lost)? {
            Some((ToChild::Stop { .. }, _)) => {
                log::flush();
                return Ok(());
            }
            Some((frame, _)) => on_frame(received, frame).map_err(lost)?,
            None => return Err(Failure::new(exit::OTHER, "the keeper is gone")),
        }
    }
}

fn on_frame(received: &Received, frame: ToChild) -> std::io::Result<()> {
    match frame {
        ToChild::Drain | ToChild::Undrain => received.keeper.send(&FromChild::CallsUp(0)),
        ToChild::Settings(settings) => {
            if let Ok(settings) = postcard::from_bytes::<EngineSettings>(&settings) {
                log::set(&settings.log);
            }
            Ok(())
        }
        ToChild::ReopenLogs => {
            log::reopen();
            Ok(())
        }
        ToChild::Query { id, query } => {
            let answer = match query {
                Query::Calls => Answer::Calls(Vec::new()),
                Query::Hangup(_) => Answer::Hangup { found: false },
                Query::Trace(_) => Answer::Trace { found: false, steps: Vec::new() },
                Query::Stats => Answer::Stats(Vec::new()),
            };
            let part = postcard::to_allocvec(&answer).unwrap_or_default();
            received.keeper.send(&FromChild::Answer { id, part, last: true })
        }
        ToChild::Handles(_) | ToChild::Start(_) | ToChild::Status(_) | ToChild::Stop { .. } => Ok(()),
    }
}
