//! What a node takes from its hardware profile: values for keys that its configuration does not set, and what its machine lacks.

use std::path::Path;

use serde::Deserialize;
use serde::Serialize;

use crate::base::limit::SHARDS_MAX;
use crate::process::tune::check;
use crate::process::tune::checker::Context;
use crate::process::tune::checker::Needs;
use crate::process::tune::checker::Severity;
use crate::process::tune::checker::State;
use crate::process::tune::machine::Machine;
use crate::process::tune::profile::Profile;
use crate::process::tune::profile::ProfileError;
use crate::process::tune::sets::Sets;
use crate::process::tune::shipped;
use crate::process::tune::topology::Topology;

/// Values under those of the configuration file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Layer {
    pub profile: String,
    /// Key and value, as they would stand in the file.
    pub keys: Vec<(String, String)>,
    /// CPUs for everything but shards.
    pub housekeeping: Vec<u16>,
}

/// How the machine stands against its profile, for keeper and metrics.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hardware {
    pub profile: String,
    pub checks: Vec<Check>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Check {
    pub name: String,
    pub is_fatal: bool,
    /// One line for each interface or disk that is not right.
    pub faults: Vec<String>,
}

/// A log says no more lines of one check.
const FAULTS_MAX: usize = 8;
const FAULT_BYTES_MAX: usize = 400;

impl Hardware {
    pub fn faults(&self, is_fatal: bool) -> impl Iterator<Item = &str> {
        self.checks.iter().filter(move |check| check.is_fatal == is_fatal).flat_map(|check| &check.faults).map(|s| &**s)
    }
}

/// This machine. Programs are not asked: a start must not wait for them. Debug builds take the tree in `TIPRING_MACHINE` for it.
fn machine() -> Machine {
    #[cfg(debug_assertions)]
    if let Some(root) = std::env::var_os("TIPRING_MACHINE") {
        return Machine::recorded(Path::new(&root)).without_programs();
    }
    Machine::here().without_programs()
}

/// A profile that is this machine's, and how its CPUs are divided here.
pub fn matched(name: &str, folder: &Path, machine: &Topology) -> Result<(Profile, Sets), ProfileError> {
    let profile = shipped::find(name, folder, machine)?;
    let misses = profile.matching.misses(machine);
    if !misses.is_empty() {
        let line = format!("the profile {} is not this machine's: {}", profile.name, misses.join("; "));
        return Err(ProfileError::Mismatch(line));
    }
    let sets = Sets::of(&profile, machine)
        .map_err(|message| ProfileError::Mismatch(format!("the profile {}: {message}", profile.name)))?;
    Ok((profile, sets))
}

pub fn layer(name: &str, folder: &Path) -> Result<Layer, ProfileError> {
    let (profile, sets) = matched(name, folder, &Topology::of(&machine()))?;
    Ok(of(&profile, &sets))
}

pub fn of(profile: &Profile, sets: &Sets) -> Layer {
    let shards = profile.engine.shards.map_or(sets.shards.0.len(), usize::from).min(SHARDS_MAX);
    let mut keys = vec![
        ("engine.cpus".to_owned(), format!("\"{}\"", sets.shards.list())),
        ("engine.shards".to_owned(), shards.to_string()),
    ];
    keys.extend(profile.engine.ports.iter().map(|ports| ("media.ports".to_owned(), format!("{ports:?}"))));
    keys.extend(profile.engine.settings.iter().map(|(key, value)| (key.clone(), value.to_string())));
    Layer { profile: profile.name.clone(), keys, housekeeping: sets.housekeeping.0.iter().copied().collect() }
}

/// `None` where the profile cannot be used, which reading the configuration has said.
pub fn look(name: &str, folder: &Path, needs: &Needs) -> Option<Hardware> {
    let machine = machine();
    let topology = Topology::of(&machine);
    let (profile, sets) = matched(name, folder, &topology).ok()?;
    let context = Context { machine: &machine, topology: &topology, profile: &profile, sets: &sets, needs };
    let mut checks: Vec<Check> = Vec::new();
    for result in check::check(&context).into_iter().filter(|result| result.finding.state != State::Unknown) {
        if checks.last().is_none_or(|check| check.name != result.check) {
            let is_fatal = result.severity == Severity::Fatal;
            checks.push(Check { name: result.check.clone(), is_fatal, faults: Vec::new() });
        }
        let Some(check) = checks.last_mut().filter(|check| !result.ok && check.faults.len() < FAULTS_MAX) else {
            continue;
        };
        let line = result.line();
        check.faults.push(
            line.char_indices().nth(FAULT_BYTES_MAX).map_or_else(|| line.clone(), |(at, _)| line[..at].to_owned()),
        );
    }
    Some(Hardware { profile: profile.name, checks })
}
