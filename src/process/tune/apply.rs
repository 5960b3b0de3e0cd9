//! Actions carried out, and what becomes of each: act, look again, go on with the next whatever came of it.

use std::fs::OpenOptions;
use std::io;
use std::io::Write;
use std::path::Path;
use std::process::Command;
use std::process::Stdio;

use crate::process::tune::check::Checked;
use crate::process::tune::checker::Action;
use crate::process::tune::checker::Checker;
use crate::process::tune::checker::Context;
use crate::process::tune::checker::Finding;
use crate::process::tune::checker::State;

/// Programs are looked for here, whoever started us.
pub const PATH: &str = "/usr/sbin:/usr/bin:/sbin:/bin";

/// What acts on the machine; tests put another in its place.
pub trait Hands {
    /// How many bytes were written.
    fn write(&mut self, file: &Path, value: &[u8]) -> io::Result<usize>;
    /// What the program complained of.
    fn run(&mut self, words: &[String]) -> Result<(), String>;
}

/// Of this machine, or of a tree: programs belong to this machine, so they are not run for a tree.
#[derive(Debug)]
pub struct RealHands {
    pub is_here: bool,
}

impl Hands for RealHands {
    fn write(&mut self, file: &Path, value: &[u8]) -> io::Result<usize> {
        // Files of /proc and /sys are there; one of ours under /run is not.
        let is_ours = file.starts_with("/run");
        let mut open = OpenOptions::new().write(true).truncate(true).create(is_ours).open(file)?;
        // At once: the kernel takes one write for one value.
        open.write(value)
    }

    fn run(&mut self, words: &[String]) -> Result<(), String> {
        if !self.is_here {
            return Err("programs are not run for a tree of another machine".to_owned());
        }
        let (program, arguments) = words.split_first().ok_or("no program")?;
        let output = Command::new(program)
            .args(arguments)
            .env("PATH", PATH)
            .env("LC_ALL", "C")
            .stdin(Stdio::null())
            .output()
            .map_err(|error| format!("{program}: {error}"))?;
        if output.status.success() {
            return Ok(());
        }
        let said = String::from_utf8_lossy(&output.stderr).trim().replace('\n', "; ");
        Err(format!("{}: {}{said}", words.join(" "), if said.is_empty() { "failed" } else { "" }))
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It was right before.
    Right,
    /// It is right now.
    Done,
    /// What went wrong, or what is still wrong.
    Failed(String),
    /// For a person to do.
    ByHand(String),
    Unknown(String),
}

/// Acts on what is wrong, and looks at each again. The result says how things are now.
pub fn apply(checkers: &[Checker], context: &Context<'_>, hands: &mut dyn Hands) -> Vec<(Checked, Outcome)> {
    let mut outcomes = Vec::new();
    for checker in checkers {
        for finding in (checker.look)(checker, context) {
            let (finding, outcome) = settle(checker, finding, context, hands);
            outcomes.push((Checked::of(checker, finding, context.profile), outcome));
        }
    }
    outcomes
}

fn settle(checker: &Checker, finding: Finding, context: &Context<'_>, hands: &mut dyn Hands) -> (Finding, Outcome) {
    match finding.state {
        State::Right => return (finding, Outcome::Right),
        State::Unknown => {
            let why = finding.found.clone();
            return (finding, Outcome::Unknown(why));
        }
        State::Wrong => {}
    }
    let mut faults = Vec::new();
    let mut by_hand = Vec::new();
    for action in &finding.actions {
        match action {
            Action::ByHand(advice) => by_hand.push(advice.clone()),
            Action::Write { file, value } => faults.extend(write(&context.machine.path(file), value, hands).err()),
            Action::Run(words) => faults.extend(hands.run(words).err()),
        }
    }
    // Looked at anew: a write that the kernel took may have changed nothing.
    let now = (checker.look)(checker, context).into_iter().find(|now| now.subject == finding.subject);
    let now = now.unwrap_or(finding);
    let outcome = match (now.state, faults.first(), by_hand.first()) {
        (State::Right, ..) => Outcome::Done,
        (_, Some(_), _) => Outcome::Failed(faults.join("; ")),
        (_, None, Some(_)) => Outcome::ByHand(by_hand.join("; ")),
        _ => Outcome::Failed(format!("written, and still {}", now.found)),
    };
    (now, outcome)
}

fn write(file: &Path, value: &str, hands: &mut dyn Hands) -> Result<(), String> {
    let line = format!("{value}\n");
    let place = file.display();
    match hands.write(file, line.as_bytes()) {
        Ok(len) if len == line.len() => Ok(()),
        Ok(len) => Err(format!("{place}: half-written, {len} of {} bytes", line.len())),
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {
            Err(format!("{place}: the kernel does not take {value:?} here"))
        }
        Err(error) if error.kind() == io::ErrorKind::ReadOnlyFilesystem => {
            Err(format!("{place}: read-only here (a container?)"))
        }
        Err(error) => Err(format!("{place}: {error}")),
    }
}
