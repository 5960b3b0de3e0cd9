//! A hardware profile: what a class of machines is told by, how its CPUs are divided, and what it must have.
//!
//! `docs/tuning.md` describes the keys. A file that is wrong is refused with file, line and key.

use std::collections::BTreeMap;
use std::path::Path;

use serde::Deserialize;
use serde::Serialize;

use crate::process::tune::checker;
use crate::process::tune::checker::Severity;
use crate::process::tune::checkers;
use crate::process::tune::sets;
use crate::process::tune::topology::Topology;
use crate::process::tune::topology::version;

pub const SCHEMA: u32 = 1;
/// A file larger than this is no profile.
const FILE_BYTES_MAX: u64 = 256 * 1024;

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Profile {
    pub schema: u32,
    pub name: String,
    #[serde(default)]
    pub about: String,
    #[serde(default, rename = "match")]
    pub matching: Match,
    pub cpu: Cpu,
    #[serde(default)]
    pub memory: Memory,
    #[serde(default)]
    pub net: Net,
    #[serde(default)]
    pub disk: Disk,
    #[serde(default)]
    pub sysctl: BTreeMap<String, Setting>,
    #[serde(default)]
    pub engine: Engine,
    pub capacity: Option<Capacity>,
    #[serde(default)]
    pub severity: BTreeMap<String, Severity>,
}

/// Every key that is given must hold.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Match {
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub arch: Vec<String>,
    /// One of these words is in the processor's name.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub cpu_model: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpus_min: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpus_max: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub numa_nodes: Option<usize>,
    #[serde(rename = "virtual", skip_serializing_if = "Option::is_none")]
    pub is_virtual: Option<bool>,
    /// Every network interface has one of these.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub nic_driver: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kernel_min: Option<String>,
}

/// Who has which CPU. `tune::sets` reads the lists.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Cpu {
    pub engine: String,
    pub irq: String,
    pub housekeeping: String,
    #[serde(default)]
    pub smt: Smt,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub governor: Option<String>,
    /// Sleep states of the engine's CPUs that take longer to leave than this are off.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sleep_exit_us_max: Option<u32>,
    #[serde(default)]
    pub isolation: Isolation,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Smt {
    /// A shard per core; the CPUs of a core stay together.
    #[default]
    OnePerCore,
    /// A shard per CPU.
    All,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Isolation {
    #[default]
    None,
    /// systemd keeps everything else off the engine's CPUs; no reboot.
    Cgroup,
    /// Kernel command line; needs a reboot.
    NohzFull,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Memory {
    /// What `transparent_hugepage/enabled` may say.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub thp: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub total_mib_min: Option<u64>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Net {
    /// Empty: every one with a device behind it that is not down.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub interfaces: Vec<String>,
    /// Receive queues: as many as CPUs for interrupts, where the card can.
    #[serde(default)]
    pub queues_per_irq_cpu: bool,
    /// The CPUs that take received packets on from the interrupt.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rps: Option<Steering>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub xps: Option<Steering>,
    /// UDP is spread by ports, too.
    #[serde(default)]
    pub rss_by_port: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ring_rx_min: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ring_tx_min: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub coalesce_us_max: Option<u64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Steering {
    Off,
    Irq,
    /// RPS: none but the CPU of the interrupt and those of `irq`; XPS: each queue belongs to some of the engine's CPUs.
    Engine,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Disk {
    /// One of these.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub scheduler: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub free_gib_min: Option<u64>,
}

/// What a sysctl is to be.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Setting {
    Number(u64),
    Text(String),
}

/// What `serve` reads; keys of the configuration file win.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Engine {
    /// Default: one per core, or per CPU, of `cpu.engine`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub shards: Option<u8>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ports: Option<String>,
    /// Keys of `[limits]` and `[tape]`, such as `"limits.tenant_calls" = 500`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub settings: BTreeMap<String, toml::Value>,
}

/// Measured on such a machine, with the file that says how.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Capacity {
    pub registrations: Option<u64>,
    pub calls_per_second: Option<u64>,
    pub relayed_calls: Option<u64>,
    pub recorded_calls: Option<u64>,
    pub evidence: String,
}

/// Why a profile cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProfileError {
    /// `FILE:LINE: key: what`
    #[error("{0}")]
    Bad(String),
    #[error("no profile is called {name:?}; there are {known}")]
    Unknown { name: String, known: String },
    #[error("{0}")]
    Mismatch(String),
}

impl Profile {
    pub fn read(file: &Path) -> Result<Self, ProfileError> {
        let bad = |what: String| ProfileError::Bad(format!("{}: {what}", file.display()));
        let size = std::fs::metadata(file).map_err(|error| bad(format!("cannot be read: {error}")))?.len();
        if size > FILE_BYTES_MAX {
            return Err(bad(format!("is larger than {FILE_BYTES_MAX} bytes")));
        }
        let text = std::fs::read_to_string(file).map_err(|error| bad(format!("cannot be read: {error}")))?;
        Self::parse(&text, &file.display().to_string())
    }

    /// `name` is the file's, for errors.
    pub fn parse(text: &str, name: &str) -> Result<Self, ProfileError> {
        let profile: Self = toml::from_str(text).map_err(|error| {
            let line = error.span().map_or(0, |span| text[..span.start.min(text.len())].matches('\n').count() + 1);
            let said = text.lines().nth(line.saturating_sub(1)).unwrap_or_default();
            let key = said.split_once('=').map_or("", |(key, _)| key.trim());
            ProfileError::Bad(place(name, line, key, error.message()))
        })?;
        match profile.fault() {
            None => Ok(profile),
            Some((key, message)) => {
                let word = key.rsplit_once(" / ").map_or(key.as_str(), |(_, word)| word);
                let is_it = |line: &str| {
                    let line = line.trim_start().trim_start_matches(['"', '[']);
                    line.strip_prefix(word).is_some_and(|rest| rest.starts_with([' ', '=', '"', ']']))
                };
                let line = text.lines().position(is_it).map_or(1, |index| index + 1);
                Err(ProfileError::Bad(place(name, line, &key.replace(" / ", "."), &message)))
            }
        }
    }

    /// What its form does not show: key (table and word apart) and message.
    fn fault(&self) -> Option<(String, String)> {
        let fault = |key: &str, message: String| Some((key.to_owned(), message));
        if self.schema != SCHEMA {
            return fault("schema", format!("is {}, this release reads {SCHEMA}", self.schema));
        }
        if self.name.is_empty() || !self.name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
        {
            return fault("name", "must be of lower-case letters, digits and hyphens".to_owned());
        }
        let lists = [("engine", &self.cpu.engine), ("irq", &self.cpu.irq), ("housekeeping", &self.cpu.housekeeping)];
        for (key, list) in lists {
            if let Err(message) = sets::check(list) {
                return fault(&format!("cpu / {key}"), message);
            }
        }
        for (name, setting) in &self.sysctl {
            if let Err(message) = checkers::sysctl::check_setting(name, setting) {
                return fault(&format!("sysctl / {name}"), message);
            }
        }
        let known = checkers::all(self);
        for name in self.severity.keys() {
            if !known.iter().any(|checker| checker.name == *name) {
                let names: Vec<&str> = known.iter().map(|checker| checker.name.as_ref()).collect();
                return fault(&format!("severity / {name}"), format!("no such check; there are {}", names.join(", ")));
            }
        }
        for name in self.engine.settings.keys() {
            if !["limits.", "tape."].iter().any(|table| name.starts_with(table)) {
                return fault(&format!("engine.settings / {name}"), "expected a key of [limits] or [tape]".to_owned());
            }
        }
        match &self.capacity {
            Some(capacity) if capacity.evidence.is_empty() => {
                fault("capacity / evidence", "must name the result that says how this was measured".to_owned())
            }
            _ => None,
        }
    }

    /// The severity of a check on this machine.
    pub fn severity(&self, checker: &checker::Checker) -> Severity {
        self.severity.get(checker.name.as_ref()).copied().unwrap_or(checker.severity)
    }
}

fn place(name: &str, line: usize, key: &str, message: &str) -> String {
    let key = if key.is_empty() { String::new() } else { format!(" {key}:") };
    format!("{name}:{line}:{key} {}", message.trim().replace('\n', "; "))
}

impl Match {
    /// What of it this machine is not.
    pub fn misses(&self, machine: &Topology) -> Vec<String> {
        let mut misses = Vec::new();
        let mut want = |holds: bool, wanted: String, found: String| {
            if !holds {
                misses.push(format!("it wants {wanted}, here is {found}"));
            }
        };
        let cpus = machine.online.0.len();
        let one_of = |words: &[String], is: &dyn Fn(&str) -> bool| words.is_empty() || words.iter().any(|w| is(w));
        want(one_of(&self.arch, &|arch| arch == machine.arch), self.arch.join(" or "), machine.arch.clone());
        want(
            one_of(&self.cpu_model, &|word| machine.cpu_model.to_lowercase().contains(&word.to_lowercase())),
            format!("a processor called {}", self.cpu_model.join(" or ")),
            format!("{:?}", machine.cpu_model),
        );
        let (min, max) = (self.cpus_min.unwrap_or(0), self.cpus_max.unwrap_or(usize::MAX));
        want(cpus >= min, format!("at least {min} CPUs"), cpus.to_string());
        want(cpus <= max, format!("at most {max} CPUs"), cpus.to_string());
        let nodes = machine.nodes.len();
        want(
            self.numa_nodes.is_none_or(|wanted| wanted == nodes),
            format!("{} NUMA nodes", self.numa_nodes.unwrap_or(0)),
            nodes.to_string(),
        );
        let kind = |is_virtual: bool| if is_virtual { "a virtual machine" } else { "bare metal" };
        want(
            self.is_virtual.is_none_or(|wanted| wanted == machine.is_virtual),
            kind(self.is_virtual.unwrap_or(false)).to_owned(),
            kind(machine.is_virtual).to_owned(),
        );
        for nic in &machine.nics {
            want(
                one_of(&self.nic_driver, &|driver| driver == nic.driver),
                format!("network cards driven by {}", self.nic_driver.join(" or ")),
                format!("{} with {}", nic.name, nic.driver),
            );
        }
        let kernel = self.kernel_min.as_deref().unwrap_or("0");
        want(machine.kernel_version() >= version(kernel), format!("Linux {kernel} or later"), machine.kernel.clone());
        misses
    }
}
