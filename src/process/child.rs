//! The first steps of a process that the keeper starts: tie its life to the keeper's, then receive handles and settings.

use std::io;
use std::os::fd::OwnedFd;

use rustix::process::Resource;
use rustix::process::Rlimit;
use rustix::process::Signal;

use crate::process::channel::Channel;
use crate::process::channel::Wait;
use crate::process::exit;
use crate::process::exit::Failure;
use crate::wire::control::FromChild;
use crate::wire::control::Passed;
use crate::wire::control::Start;
use crate::wire::control::ToChild;

/// What the keeper gave at the start.
#[derive(Debug)]
pub struct Begun {
    pub start: Start,
    /// Settings of the last reload, if there was one. They come once more when the process obeys.
    pub latest: Option<Vec<u8>>,
    pub handles: Vec<(Passed, Vec<OwnedFd>)>,
    pub keeper: Channel,
}

/// To be called before anything else, and before a second thread exists.
pub fn begin() -> Result<Begun, Failure> {
    let by_hand = |error: io::Error| {
        Failure::new(exit::USAGE, format!("this process is started by `tipring serve`, not by hand ({error})"))
    };
    let keeper = Channel::from_stdin().map_err(by_hand)?;
    tie_to_keeper().map_err(|error| Failure::from_io("cannot tie this process to the keeper", &error))?;
    let (mut handles, mut latest) = (Vec::new(), None);
    loop {
        // A keeper that died before the tie was made closed its end: the loop ends here then.
        let Some((frame, descriptors)) = keeper.receive::<ToChild>(Wait::Yes).map_err(by_hand)? else {
            return Err(Failure::new(exit::OTHER, "the keeper is gone"));
        };
        match frame {
            ToChild::Handles(passed) => take(&mut handles, &passed, descriptors)?,
            ToChild::Settings(settings) => latest = Some(settings),
            ToChild::Start(start) => return Ok(Begun { start: *start, latest, handles, keeper }),
            _ => {}
        }
    }
}

/// Says why the process cannot start; the keeper prints the line. Returns the exit code.
pub fn fail(keeper: &Channel, failure: &Failure) -> u8 {
    let _ = keeper.send(&FromChild::Failed { code: failure.code, line: failure.line.clone() });
    failure.code
}

/// The same where there is no keeper to print it.
pub fn fail_alone(failure: &Failure) -> u8 {
    use std::io::Write;
    let _ = writeln!(io::stderr(), "tipring: {failure}");
    failure.code
}

/// No process of ours outlives its keeper, and none is dead but still holds its sockets while a core is written.
pub fn tie_to_keeper() -> io::Result<()> {
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
    rustix::thread::set_name(c"tipring")?;
    rustix::process::setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) })?;
    Ok(())
}

/// Leaves the shards' CPUs to the shards; threads made later inherit it, and shards pin themselves.
pub fn keep_to_housekeeping(start: &Start) {
    let Some(cpu) = start.housekeeping else { return };
    let mut set = rustix::thread::CpuSet::new();
    set.set(usize::from(cpu));
    let _ = rustix::thread::sched_setaffinity(None, &set);
}

fn take(
    handles: &mut Vec<(Passed, Vec<OwnedFd>)>,
    passed: &[Passed],
    descriptors: Vec<OwnedFd>,
) -> Result<(), Failure> {
    let mut descriptors = descriptors.into_iter();
    for passed in passed {
        let own: Vec<_> = descriptors.by_ref().take(passed.descriptors()).collect();
        if own.len() != passed.descriptors() {
            return Err(Failure::new(
                exit::FORBIDDEN,
                "the limit of open files is too low; remedy: LimitNOFILE=1048576 in a drop-in (systemctl edit tipring), or ulimit -n",
            ));
        }
        handles.push((*passed, own));
    }
    Ok(())
}
