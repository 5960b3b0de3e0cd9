//! What the keeper needs of a configuration, and the short-lived process that makes it.
//!
//! The keeper parses nothing from outside: `tipring plan` reads the file and writes a [`Plan`] to its standard output,
//! or every fault to its standard error. Settings of engine and side are in it as bytes that the keeper passes on.

use std::io::Write;
use std::net::IpAddr;
use std::net::SocketAddr;
use std::path::Path;
use std::path::PathBuf;
use std::time::Duration;

use serde::Deserialize;
use serde::Serialize;

use crate::base::limit::RING_SLOTS_MAX;
use crate::base::limit::RING_SLOTS_MIN;
use crate::base::limit::SHARDS_MAX;
use crate::machine::settings::Limits;
use crate::machine::settings::RecordingSettings;
use crate::process::child;
use crate::process::config::Config;
use crate::process::config::Directory;
use crate::process::config::Effective;
use crate::process::config::Engine;
use crate::process::config::Fault;
use crate::process::config::Hep;
use crate::process::config::Interface;
use crate::process::config::Log;
use crate::process::config::MediaRules;
use crate::process::config::Recordings;
use crate::process::config::Retain;
use crate::process::config::Secret;
use crate::process::config::Tape;
use crate::process::exit;
use crate::process::side::directory;
use crate::process::side::opening::DATABASE;
use crate::process::tune::checker::Needs;
use crate::process::tune::engine::Hardware;
use crate::process::tune::engine::look;
use crate::shard::tape::ring;
use crate::wire::tape::BLOCK_BYTES_MAX;

/// Keeper and `tipring plan` are of one release; the number catches a binary that was replaced in between.
const VERSION: u16 = 2;
/// A plan larger than this is refused by both ends.
pub const PLAN_BYTES_MAX: usize = 128 * 1024;
/// Addresses of this machine that media is kept from.
const OWN_ADDRESSES_MAX: usize = 1_024;
/// One for the caller, one for the callee.
const PAIRS_PER_CALL: usize = 2;

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Plan {
    pub version: u16,
    pub node: String,
    pub data: PathBuf,
    pub run: PathBuf,
    /// What runs, for node_exporter.
    pub textfile: PathBuf,
    /// Who the keeper becomes where it is root.
    pub user: Option<User>,
    pub drain: Duration,
    pub log: Log,
    pub shards: u8,
    /// The CPU of each shard.
    pub cpus: Vec<u16>,
    /// The CPU of everything else; `None`: any.
    pub housekeeping: Option<u16>,
    pub udp: Vec<Listen>,
    pub tcp: Vec<Listen>,
    pub media: Vec<MediaRange>,
    /// State memory of each shard for blocks on their way to the tape.
    pub ring_bytes: u64,
    /// Keys whose change needs a restart, each with a digest of its value.
    pub pinned: Vec<(String, u64)>,
    /// Where the configuration names a hardware profile.
    pub hardware: Option<Hardware>,
    /// [`EngineSettings`], which the keeper does not read.
    pub engine: Vec<u8>,
    /// [`SideSettings`], which the keeper does not read.
    pub side: Vec<u8>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct User {
    pub name: String,
    pub uid: u32,
    pub gid: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Listen {
    pub interface: u8,
    pub address: SocketAddr,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MediaRange {
    pub interface: u8,
    pub address: IpAddr,
    pub ports: (u16, u16),
}

/// What the engine is told of the configuration. Of a new one it takes only what HUP may change (`docs/config.md`).
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct EngineSettings {
    /// The first is "default".
    pub interfaces: Vec<Interface>,
    pub hep: Hep,
    pub log: Log,
    pub recording: RecordingSettings,
    pub limits: Limits,
    pub tape: Tape,
    pub media: MediaRules,
    /// The addresses of all interfaces of this machine.
    pub own: Vec<IpAddr>,
}

/// What side is told of the configuration. Of a new one it takes only what HUP may change (`docs/config.md`).
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct SideSettings {
    pub http: Vec<SocketAddr>,
    pub database: Secret,
    pub retain: Retain,
    pub directory: Directory,
    pub log: Log,
    pub recordings: Recordings,
    pub hardware: Option<Hardware>,
}

/// The body of `tipring plan`: returns its exit code.
pub fn run(file: Option<&Path>) -> u8 {
    if let Err(error) = child::tie_to_keeper() {
        let _ = writeln!(std::io::stderr(), "tipring: {error}");
        return exit::OTHER;
    }
    match make(file) {
        Ok(bytes) => match std::io::stdout().write_all(&bytes) {
            Ok(()) => 0,
            Err(_) => exit::OTHER,
        },
        Err(faults) => {
            let text: String = faults.iter().map(|fault| format!("{fault}\n")).collect();
            let _ = std::io::stderr().write_all(text.as_bytes());
            exit::CONFIG
        }
    }
}

/// Reads the configuration and checks it against this machine.
pub fn make(file: Option<&Path>) -> Result<Vec<u8>, Vec<Fault>> {
    let (config, mut faults) = Config::load_all(file)?;
    faults.extend(faults_here(&config, file));
    if !faults.is_empty() {
        return Err(faults);
    }
    let fault = |key: &str, message: String| vec![fault(&config, file, key, message)];
    let mut plan = plan(&config).map_err(|message| fault("engine.cpus", message))?;
    plan.user = user(&config.node.user).map_err(|message| fault("node.user", message))?;
    match postcard::to_allocvec(&plan) {
        Ok(bytes) if bytes.len() <= PLAN_BYTES_MAX => Ok(bytes),
        _ => Err(fault("", format!("says more than {PLAN_BYTES_MAX} bytes of settings"))),
    }
}

/// What `tipring check` reports: every fault of the configuration, of what it asks of this machine, and of the directory file that it
/// names, one line each.
pub fn check(file: &Path) -> Vec<String> {
    let (config, mut faults) = match Config::load_all(Some(file)) {
        Ok(read) => read,
        Err(faults) => return faults.iter().map(ToString::to_string).collect(),
    };
    faults.extend(faults_here(&config, Some(file)));
    faults.sort_by_key(|fault| fault.line);
    let database = config.node.data.join(DATABASE);
    let named = config.directory.import.as_deref();
    let directory = named.map(|file| directory::check(file, &database).err().unwrap_or_default());
    faults.iter().map(ToString::to_string).chain(directory.into_iter().flatten()).collect()
}

/// Every key with its value and where that comes from; nothing if the file has faults.
pub fn effective(file: &Path) -> String {
    let Ok(config) = Config::load(Some(file)) else { return String::new() };
    let width = config.effective.iter().map(|value| value.key.len() + value.value.len() + 3).max().unwrap_or(0);
    let line = |value: &Effective| {
        let said = format!("{} = {}", value.key, value.value.replace('\n', " "));
        format!("{said:<width$}  # {}\n", value.origin)
    };
    config.effective.iter().map(line).collect()
}

fn fault(config: &Config, file: Option<&Path>, key: &str, message: String) -> Fault {
    let file = file.unwrap_or_else(|| Path::new("(defaults)")).to_owned();
    Fault { file, line: config.line(key), key: key.to_owned(), message }
}

/// What is wrong with it on this machine: CPUs that are not there, ports for no call.
fn faults_here(config: &Config, file: Option<&Path>) -> Vec<Fault> {
    let mut faults = Vec::new();
    if let Err(message) = cpus(&config.engine, &allowed_cpus()) {
        faults.push(fault(config, file, "engine.cpus", message));
    }
    if let Err(message) = user(&config.node.user) {
        faults.push(fault(config, file, "node.user", message));
    }
    for (index, interface) in config.interfaces.iter().enumerate() {
        let (first, last) = interface.ports;
        let pairs = (first..last).filter(|port| port % 2 == 0).count();
        if pairs >= PAIRS_PER_CALL || interface.media.is_empty() {
            continue;
        }
        let own = format!("interface[{}].media.ports", index.wrapping_sub(1));
        let key = if config.lines.contains_key(&own) { own.as_str() } else { "media.ports" };
        let message = format!("\"{first}-{last}\" is too small for one call: it takes {PAIRS_PER_CALL} pairs of ports");
        faults.push(fault(config, file, key, message));
    }
    faults
}

fn shards(config: &Config, cpus: &[u16]) -> usize {
    if config.engine.shards == 0 { cpus.len().min(SHARDS_MAX) } else { config.engine.shards.into() }
}

/// What the keeper does with the bytes of `tipring plan`.
pub fn parse(bytes: &[u8]) -> Option<Plan> {
    postcard::from_bytes::<Plan>(bytes).ok().filter(|plan| plan.version == VERSION)
}

/// As they are now; what is not there to be read names none.
fn own_addresses() -> Vec<IpAddr> {
    let read = |file| std::fs::read_to_string(file).unwrap_or_default();
    let mut own = local_v4(&read("/proc/net/fib_trie"));
    own.extend(local_v6(&read("/proc/net/if_inet6")));
    own.sort_unstable();
    own.dedup();
    own.truncate(OWN_ADDRESSES_MAX);
    own
}

/// Leaves of the routing table: an address, and in the next line that it is a host of this machine.
fn local_v4(table: &str) -> Vec<IpAddr> {
    let lines = table.lines().zip(table.lines().skip(1));
    let local = lines.filter(|(_, next)| next.trim() == "/32 host LOCAL");
    local.filter_map(|(leaf, _)| leaf.trim().strip_prefix("|-- ")?.parse().ok()).collect()
}

/// The first column: 32 hexadecimal digits.
fn local_v6(table: &str) -> Vec<IpAddr> {
    let digits = table.lines().filter_map(|line| line.split_whitespace().next());
    digits.filter_map(|digits| Some(IpAddr::V6(u128::from_str_radix(digits, 16).ok()?.into()))).collect()
}

fn plan(config: &Config) -> Result<Plan, String> {
    let (cpus, housekeeping) = cpus(&config.engine, &allowed_cpus())?;
    let shards = shards(config, &cpus);
    let profile = Some(config.engine.profile.as_str()).filter(|name| !name.is_empty());
    let hardware = profile.and_then(|name| look(name, &config.folder, &needs(config)));
    let listens = |of: fn(&Interface) -> &[SocketAddr]| {
        let listen =
            |(index, interface)| of(interface).iter().map(move |&address| Listen { interface: index, address });
        (0u8..).zip(&config.interfaces).flat_map(listen).collect()
    };
    let media = (0u8..).zip(&config.interfaces).flat_map(|(index, interface)| {
        let range = move |address| MediaRange { interface: index, address, ports: interface.ports };
        interface.media.iter().map(move |media| range(media.local))
    });
    let absolute = |path: &Path| std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    Ok(Plan {
        version: VERSION,
        node: config.node.name.clone(),
        data: absolute(&config.node.data),
        run: absolute(&config.node.run),
        textfile: absolute(&config.node.textfile),
        user: None,
        drain: config.node.drain,
        log: config.log.clone(),
        shards: u8::try_from(shards).unwrap_or(u8::MAX),
        cpus: cpus.iter().copied().cycle().take(shards).collect(),
        housekeeping,
        udp: listens(|interface| &interface.udp),
        tcp: listens(|interface| &interface.tcp),
        media: media.collect(),
        ring_bytes: ring_bytes(config, shards),
        pinned: config.pinned.clone(),
        hardware: hardware.clone(),
        engine: encode(&EngineSettings {
            interfaces: config.interfaces.clone(),
            hep: config.hep,
            log: config.log.clone(),
            recording: config.recording.clone(),
            limits: config.limits,
            tape: config.tape,
            media: config.media.clone(),
            own: own_addresses(),
        }),
        side: encode(&SideSettings {
            http: config.side.http.clone(),
            database: config.side.database.clone(),
            retain: config.retain,
            directory: config.directory.clone(),
            log: config.log.clone(),
            recordings: config.recordings.clone(),
            hardware,
        }),
    })
}

/// What a node asks of its machine.
pub fn needs(config: &Config) -> Needs {
    let used = config.interfaces.iter().filter(|interface| !interface.media.is_empty());
    let mut ports: Vec<(u16, u16)> = used.map(|interface| interface.ports).collect();
    ports.sort_unstable();
    ports.dedup();
    Needs { ports, data: std::path::absolute(&config.node.data).unwrap_or_else(|_| config.node.data.clone()) }
}

fn user(name: &str) -> Result<Option<User>, String> {
    if name.is_empty() {
        return Ok(None);
    }
    let users = std::fs::read_to_string("/etc/passwd").map_err(|error| format!("/etc/passwd: {error}"))?;
    find_user(name, &users).map(Some).ok_or_else(|| format!("there is no user {name:?} in /etc/passwd"))
}

/// passwd(5): name, password, uid, gid and more.
fn find_user(name: &str, users: &str) -> Option<User> {
    users.lines().find_map(|line| {
        let mut fields = line.split(':');
        let is_it = fields.next() == Some(name);
        let (uid, gid) = (fields.nth(1)?.parse().ok()?, fields.next()?.parse().ok()?);
        is_it.then(|| User { name: name.to_owned(), uid, gid })
    })
}

/// What a pair of ports can bring to the tape: 50 packets of G.711 a second.
pub const TAPE_BYTES_PER_SECOND: u64 = 50 * 208;

/// Room for what all of a shard's ports can bring while the disk stalls.
fn ring_bytes(config: &Config, shards: usize) -> u64 {
    let ports = |interface: &Interface| {
        u64::from(interface.ports.1.saturating_sub(interface.ports.0) + 1) * interface.media.len() as u64
    };
    let pairs = config.interfaces.iter().map(ports).sum::<u64>() / 2 / shards.max(1) as u64;
    let millis = u64::try_from(config.tape.stall.as_millis()).unwrap_or(u64::MAX);
    let bytes = (pairs * TAPE_BYTES_PER_SECOND).saturating_mul(millis) / 1_000;
    let slots = bytes / BLOCK_BYTES_MAX as u64 + 1;
    ring::bytes_for(usize::try_from(slots).unwrap_or(usize::MAX).clamp(RING_SLOTS_MIN, RING_SLOTS_MAX))
}

fn encode<T: Serialize>(settings: &T) -> Vec<u8> {
    postcard::to_allocvec(settings).unwrap_or_default()
}

/// CPUs of the shards, and the one for everything else. Auto leaves the last one out; a single one is shared.
fn cpus(engine: &Engine, allowed: &[u16]) -> Result<(Vec<u16>, Option<u16>), String> {
    let shards: Vec<u16> = match engine.cpus.as_deref() {
        Some(wanted) => {
            if let Some(missing) = wanted.iter().find(|cpu| !allowed.contains(cpu)) {
                return Err(format!("CPU {missing} is not one that this process may use"));
            }
            wanted.to_vec()
        }
        None => allowed[..allowed.len().saturating_sub(1).max(1).min(allowed.len())].to_vec(),
    };
    if shards.is_empty() {
        return Err("no CPU may be used".to_owned());
    }
    let free = |cpu: &&u16| !shards.contains(cpu);
    let named = engine.housekeeping.iter().filter(|cpu| allowed.contains(cpu)).find(free);
    let housekeeping = named.or_else(|| allowed.iter().rev().find(free)).or_else(|| allowed.last());
    Ok((shards, housekeeping.copied()))
}

pub fn allowed_cpus() -> Vec<u16> {
    let Ok(set) = rustix::thread::sched_getaffinity(None) else { return vec![0] };
    (0..1024u16).filter(|&cpu| set.is_set(usize::from(cpu))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_of_this_machine_are_read() {
        let table = "Local:\n     +-- 127.0.0.0/8 2 0 2\n           |-- 127.0.0.0\n              /8 host LOCAL\n           |-- 127.0.0.1\n              \
                     /32 host LOCAL\n        |-- 192.0.2.255\n           /32 link BROADCAST\n           |-- 192.0.2.2\n              /32 host LOCAL\n";
        assert_eq!(local_v4(table), ["127.0.0.1", "192.0.2.2"].map(|ip| ip.parse::<IpAddr>().unwrap()));
        let table = "20010db8000000000000000000000001 04 40 20 80     eth0\n\nx y\n";
        assert_eq!(local_v6(table), ["2001:db8::1".parse::<IpAddr>().unwrap()]);
        assert!(own_addresses().contains(&"127.0.0.1".parse().unwrap()));
    }

    #[test]
    fn auto_leaves_the_last_cpu_out() {
        let of = |cpus: Option<&[u16]>| Engine {
            cpus: cpus.map(<[u16]>::to_vec),
            shards: 0,
            profile: String::new(),
            housekeeping: Vec::new(),
        };
        let check = |wanted: Option<&[u16]>, allowed: &[u16], expect: (&[u16], u16)| {
            assert_eq!(
                cpus(&of(wanted), allowed),
                Ok((expect.0.to_vec(), Some(expect.1))),
                "{wanted:?} of {allowed:?}"
            );
        };
        check(None, &[0], (&[0], 0));
        check(None, &[0, 1], (&[0], 1));
        check(None, &[2, 3, 7], (&[2, 3], 7));
        check(Some(&[0, 1]), &[0, 1], (&[0, 1], 1));
        check(Some(&[1]), &[0, 1, 2], (&[1], 2));
        check(Some(&[2]), &[0, 1, 2], (&[2], 1));
        assert!(cpus(&of(Some(&[5])), &[0, 1]).is_err());
        assert!(cpus(&of(None), &[]).is_err());
        let profiled = Engine { housekeeping: vec![0, 4], ..of(Some(&[2, 3])) };
        assert_eq!(cpus(&profiled, &[0, 1, 2, 3]), Ok((vec![2, 3], Some(0))));
        assert_eq!(cpus(&profiled, &[1, 2, 3]), Ok((vec![2, 3], Some(1))), "what it may not use is not taken");
    }

    #[test]
    fn a_user_is_found_by_its_whole_name() {
        let users = "root:x:0:0:root:/root:/bin/bash\n# odd\ntipring:x:990:991::/var/lib/tipring:/usr/sbin/nologin\n";
        let found = find_user("tipring", users).unwrap();
        assert_eq!((found.uid, found.gid), (990, 991));
        assert_eq!(find_user("tip", users), None);
    }

    #[test]
    fn a_plan_round_trips() {
        let text = "[engine]\nshards = 3\n[media]\naddress = [\"127.0.0.1\", \"::1\"]\n[node]\nname = \"a\"";
        let config = Config::parse(text, Path::new("t"), Path::new("/x")).unwrap();
        let plan = plan(&config).unwrap();
        assert_eq!((plan.shards, plan.cpus.len(), plan.media.len()), (3, 3, 2));
        assert_eq!(parse(&encode(&plan)), Some(plan.clone()));
        let other = Plan { version: VERSION + 1, ..plan };
        assert_eq!(parse(&encode(&other)), None);
        let side: SideSettings = postcard::from_bytes(&other.side).unwrap();
        assert_eq!(side.http.len(), 1);
    }
}
