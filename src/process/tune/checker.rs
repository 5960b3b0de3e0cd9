//! What a checker is: a name, why it matters, and how it looks at a machine; and what it finds.

use std::borrow::Cow;
use std::path::PathBuf;

use serde::Deserialize;
use serde::Serialize;

use crate::process::tune::machine::Machine;
use crate::process::tune::profile::Profile;
use crate::process::tune::sets::Sets;
use crate::process::tune::topology::Nic;
use crate::process::tune::topology::Topology;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// Not looked at.
    Off,
    Warning,
    Fatal,
}

impl Severity {
    pub const fn name(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::Warning => "warning",
            Self::Fatal => "fatal",
        }
    }
}

pub type Look = fn(&Checker, &Context<'_>) -> Vec<Finding>;

#[derive(Clone, Debug)]
pub struct Checker {
    pub name: Cow<'static, str>,
    /// A profile may say another.
    pub severity: Severity,
    /// Why it is wanted.
    pub reason: &'static str,
    /// What it costs not to have it.
    pub cost: &'static str,
    pub look: Look,
}

impl Checker {
    pub const fn new(
        name: &'static str,
        severity: Severity,
        reason: &'static str,
        cost: &'static str,
        look: Look,
    ) -> Self {
        Self { name: Cow::Borrowed(name), severity, reason, cost, look }
    }
}

/// What a node asks of its machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Needs {
    /// RTP ports, first and last of each range.
    pub ports: Vec<(u16, u16)>,
    /// Where tape and recordings lie.
    pub data: PathBuf,
}

pub struct Context<'a> {
    pub machine: &'a Machine,
    pub topology: &'a Topology,
    pub profile: &'a Profile,
    pub sets: &'a Sets,
    pub needs: &'a Needs,
}

impl Context<'_> {
    /// The interfaces that the profile means.
    pub fn nics(&self) -> Vec<Nic> {
        let named = &self.profile.net.interfaces;
        if named.is_empty() {
            return self.topology.nics.clone();
        }
        let found = |name: &String| self.topology.nics.iter().find(|nic| nic.name == *name).cloned();
        let bare = |name: &String| Nic { name: name.clone(), driver: String::new(), node: None, device: String::new() };
        named.iter().map(|name| found(name).unwrap_or_else(|| bare(name))).collect()
    }
}

/// What is done about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Into a file below the root.
    Write { file: String, value: String },
    /// A program and its arguments.
    Run(Vec<String>),
    /// What no program should do unasked: a sentence.
    ByHand(String),
}

impl Action {
    pub fn write(file: impl Into<String>, value: impl Into<String>) -> Self {
        Self::Write { file: file.into(), value: value.into() }
    }

    pub fn run(words: &[&str]) -> Self {
        Self::Run(words.iter().map(|word| (*word).to_owned()).collect())
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    Right,
    Wrong,
    /// Cannot be told here.
    Unknown,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// An interface, a file system; empty for the machine.
    pub subject: String,
    pub state: State,
    pub wanted: String,
    pub found: String,
    pub actions: Vec<Action>,
}

impl Finding {
    pub fn new(is_right: bool, wanted: impl Into<String>, found: impl Into<String>) -> Self {
        let state = if is_right { State::Right } else { State::Wrong };
        Self { subject: String::new(), state, wanted: wanted.into(), found: found.into(), actions: Vec::new() }
    }

    pub fn unknown(wanted: impl Into<String>, why: impl Into<String>) -> Self {
        Self { state: State::Unknown, ..Self::new(false, wanted, why) }
    }

    #[must_use]
    pub fn of(mut self, subject: impl Into<String>) -> Self {
        self.subject = subject.into();
        self
    }

    /// Only what is wrong needs them.
    #[must_use]
    pub fn act(mut self, actions: impl IntoIterator<Item = Action>) -> Self {
        if self.state == State::Wrong {
            self.actions.extend(actions);
        }
        self
    }
}

/// One file of several that are to say something.
pub struct Value {
    /// How people call it: `cpu3`, `eth0 rx-0`.
    pub name: String,
    pub file: String,
    pub found: String,
    pub wanted: String,
    pub is_right: bool,
}

/// How many of the wrong ones are named.
const NAMED_MAX: usize = 4;

/// One finding of many files: names the first that are wrong, and writes those alone.
pub fn values(wanted: impl Into<String>, values: Vec<Value>) -> Finding {
    let wrong: Vec<&Value> = values.iter().filter(|value| !value.is_right).collect();
    let found = match (values.first(), wrong.len()) {
        (Some(first), 0) if values.iter().all(|value| value.found == first.found) => first.found.clone(),
        (_, 0) => "as wanted".to_owned(),
        (_, count) => {
            let named = wrong.iter().take(NAMED_MAX).map(|value| format!("{} {:?}", value.name, value.found));
            let more = if count > NAMED_MAX { format!(" and {} more", count - NAMED_MAX) } else { String::new() };
            format!("{}{more}", named.collect::<Vec<_>>().join(", "))
        }
    };
    let actions = wrong.iter().map(|value| Action::write(&*value.file, &*value.wanted));
    Finding::new(wrong.is_empty(), wanted, found).act(actions)
}
