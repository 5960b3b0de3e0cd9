//! The configuration file: TOML in, one [`Config`] that cannot be wrong out, or every fault with file, line and key.
//!
//! Every key has a default, and an unknown key is a fault. The keys are declared in `key.rs` alone; `docs/config.md` is
//! written from there and a test holds it. The directory file is not read here.

mod build;
mod document;
mod key;
mod page;
#[cfg(test)]
mod tests;
mod value;

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::path::Path;
use std::path::PathBuf;
use std::time::Duration;

use serde::Deserialize;
use serde::Serialize;

use crate::machine::settings::Algorithm;
use crate::machine::settings::Limits;
use crate::machine::settings::MediaAddress;
use crate::machine::settings::PathPolicy;
use crate::machine::settings::Prefix;
use crate::machine::settings::RecordingSettings;

pub use page::page;
pub use page::sample;
pub use value::parse_duration;

#[derive(Clone, Debug)]
pub struct Config {
    pub node: Node,
    pub engine: Engine,
    /// The first is "default": the tables `[sip]` and `[media]`.
    pub interfaces: Vec<Interface>,
    pub side: Side,
    pub log: Log,
    pub retain: Retain,
    pub directory: Directory,
    pub hep: Hep,
    pub recording: RecordingSettings,
    pub media: MediaRules,
    pub limits: Limits,
    pub tape: Tape,
    pub recordings: Recordings,
    /// Keys whose change needs a restart, each with a digest of its value.
    pub pinned: Vec<(String, u64)>,
    /// The line of each key that the file has.
    pub lines: BTreeMap<String, usize>,
    /// Every key that is built, and those of interfaces that the file sets.
    pub effective: Vec<Effective>,
    /// What relative paths are relative to.
    pub folder: PathBuf,
}

/// Where media may go, whatever the interface.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MediaRules {
    pub low_ports: bool,
    /// Zero: without end.
    pub unheard: Duration,
    pub trunks: Vec<Prefix>,
}

#[derive(Clone, Debug)]
pub struct Node {
    pub name: String,
    pub data: PathBuf,
    pub run: PathBuf,
    pub textfile: PathBuf,
    /// Empty: who starts it.
    pub user: String,
    pub drain: Duration,
    pub roles: Vec<String>,
}

#[derive(Clone, Debug)]
pub struct Engine {
    /// `None`: all that we may use but the last.
    pub cpus: Option<Vec<u16>>,
    /// 0: one per CPU.
    pub shards: u8,
    /// Empty: none.
    pub profile: String,
    /// CPUs for everything but shards, as the profile has them.
    pub housekeeping: Vec<u16>,
}

/// A value and where it comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Effective {
    pub key: String,
    /// As it would stand in the file; secrets are left out.
    pub value: String,
    pub origin: Origin,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    Default,
    Profile(String),
    /// The line of the file.
    File(usize),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::Profile(name) => write!(f, "profile {name}"),
            Self::File(line) => write!(f, "file, line {line}"),
        }
    }
}

/// One network: where SIP is received, and where its media is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Interface {
    pub name: String,
    pub udp: Vec<SocketAddr>,
    pub tcp: Vec<SocketAddr>,
    /// `host[:port]` for Via and Contact where it differs from the local address.
    pub advertise: Option<String>,
    pub trusted: Vec<Prefix>,
    pub path: PathPolicy,
    pub digest: Vec<Algorithm>,
    pub media: Vec<MediaAddress>,
    /// First and last port.
    pub ports: (u16, u16),
    /// Media is taken from addresses that nobody named.
    pub from_anywhere: bool,
}

#[derive(Clone, Debug)]
pub struct Side {
    pub http: Vec<SocketAddr>,
    pub insecure: bool,
    pub database: Secret,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Log {
    pub level: Level,
    pub format: LogFormat,
    /// `None`: stderr.
    pub file: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Level {
    Error,
    Warn,
    Info,
    Debug,
    Trace,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum LogFormat {
    Text,
    Json,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Retain {
    pub cdrs: Duration,
    pub events: Duration,
    pub audit: Duration,
    pub trace: Duration,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Directory {
    pub import: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hep {
    pub address: Option<SocketAddr>,
    pub capture_id: u32,
}

/// How recordings and events are written down.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tape {
    pub stall: Duration,
    pub media_mib_max: u64,
    pub segment_mib: u64,
    pub segment_age: Duration,
    pub encrypt: bool,
}

/// Where finished recordings lie.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Recordings {
    Folder,
    S3(S3),
}

/// A bucket that speaks S3, and who may write there. Secrets are read: none is [`Secret::File`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct S3 {
    pub bucket: String,
    /// Before every name, without a slash at either end; may be empty.
    pub prefix: String,
    /// Empty: Amazon's of the region.
    pub endpoint: String,
    pub region: String,
    pub access_key: Secret,
    pub secret_key: Secret,
}

/// A value that no log, error or `Debug` shows; given in the file, or as a file of its own.
#[derive(Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Secret {
    Text(String),
    File(PathBuf),
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

/// One thing that is wrong with a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    pub file: PathBuf,
    /// From 1; 0 where there is no line: a file that cannot be read.
    pub line: usize,
    /// Empty where the file is no TOML.
    pub key: String,
    pub message: String,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:", self.file.display())?;
        if self.line > 0 {
            write!(f, "{}:", self.line)?;
        }
        if !self.key.is_empty() {
            write!(f, " {}:", self.key)?;
        }
        write!(f, " {}", self.message)
    }
}

/// A file larger than this is not ours.
const FILE_BYTES_MAX: u64 = 1024 * 1024;

impl Config {
    /// Reads `file`; without one, every key has its default and relative paths are relative to the working directory.
    pub fn load(file: Option<&Path>) -> Result<Self, Vec<Fault>> {
        let (config, faults) = Self::load_all(file)?;
        if faults.is_empty() { Ok(config) } else { Err(faults) }
    }

    /// What can be made of `file`, and its faults, so that what it names can be looked at, too.
    pub fn load_all(file: Option<&Path>) -> Result<(Self, Vec<Fault>), Vec<Fault>> {
        let Some(file) = file else {
            return Ok(Self::parse_all("", Path::new("(defaults)"), Path::new(".")));
        };
        let text = read(file)
            .map_err(|message| vec![Fault { file: file.to_owned(), line: 0, key: String::new(), message }])?;
        let folder = file.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or_else(|| Path::new("."));
        Ok(Self::parse_all(&text, file, folder))
    }

    /// `folder` is what relative paths are relative to.
    pub fn parse(text: &str, file: &Path, folder: &Path) -> Result<Self, Vec<Fault>> {
        let (config, faults) = Self::parse_all(text, file, folder);
        if faults.is_empty() { Ok(config) } else { Err(faults) }
    }

    fn parse_all(text: &str, file: &Path, folder: &Path) -> (Self, Vec<Fault>) {
        let mut document = document::Document::read(text, file);
        document.read_profile(folder);
        let config = build::build(&mut document, folder);
        (config, document.into_faults())
    }

    /// The line of a key, else 0.
    pub fn line(&self, key: &str) -> usize {
        self.lines.get(key).copied().unwrap_or(0)
    }
}

fn read(file: &Path) -> Result<String, String> {
    let metadata = std::fs::metadata(file).map_err(|error| format!("cannot be read: {error}"))?;
    if metadata.len() > FILE_BYTES_MAX {
        return Err(format!("is larger than {FILE_BYTES_MAX} bytes"));
    }
    std::fs::read_to_string(file).map_err(|error| format!("cannot be read: {error}"))
}
