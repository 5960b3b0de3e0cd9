//! A control group for each role below the service's own, where the service manager delegates it: weights, the engine's CPUs, a bound on
//! side's memory.
//!
//! Side is beside the calls: whatever it does, the engine has its CPUs, and a side that grows without end is ended alone.

use std::fmt::Write as _;
use std::io;
use std::path::Path;
use std::path::PathBuf;

use crate::process::keeper::run::Keeper;
use crate::wire::control::Role;

/// The groups that were made.
pub(super) struct Groups {
    /// The service's own.
    folder: PathBuf,
}

/// What the groups are decided by.
struct Wanted<'a> {
    /// Of the engine's shards.
    cpus: &'a [u16],
    housekeeping: Option<u16>,
    /// All that we may use.
    allowed: &'a [u16],
    /// Bytes of the machine.
    memory: u64,
}

const ROLES: [Role; 3] = [Role::Keeper, Role::Engine, Role::Side];
const CONTROLLERS: [&str; 3] = ["cpu", "cpuset", "memory"];
/// Against 100 of side: the keeper needs little, and that at once.
const WEIGHT_OF_CALLS: u32 = 1_000;
const SIDE_MEMORY_MIN: u64 = 1024 * 1024 * 1024;
/// Of the machine's memory.
const SIDE_MEMORY_PART: u64 = 4;
/// By which the service manager marks the groups that it leaves to others, the first for those that are not root.
const MARKS: [&str; 2] = ["user.delegate", "trusted.delegate"];

impl Keeper {
    /// Without groups it goes on: they make it calmer, not right.
    pub(super) fn make_groups(&mut self) {
        let system = Path::new("/");
        if std::env::var_os("INVOCATION_ID").is_none() {
            return;
        }
        let folder = match own_group(system) {
            Some(folder) if is_delegated(&folder) => folder,
            Some(_) => {
                let line = "no control group for each process: the unit lacks Delegate=cpu cpuset memory";
                return self.log.info("groups", line);
            }
            None => {
                let line = "no control group for each process: this system has no unified hierarchy (cgroup v2)";
                return self.log.info("groups", line);
            }
        };
        let allowed = crate::process::plan::allowed_cpus();
        let wanted = Wanted {
            cpus: &self.plan.cpus,
            housekeeping: self.plan.housekeeping,
            allowed: &allowed,
            memory: memory_of(system),
        };
        match make(folder, &wanted, std::process::id()) {
            Ok((groups, faults)) => {
                self.groups = Some(groups);
                for fault in faults {
                    self.log.warn("groups", &fault);
                }
            }
            Err(error) => self.log.warn("groups", &format!("no control groups: {error}")),
        }
    }
}

impl Groups {
    /// A process that has not made threads yet.
    pub(super) fn enter(&self, role: Role, pid: u32) -> io::Result<()> {
        std::fs::write(self.folder.join(role.name()).join("cgroup.procs"), pid.to_string())
    }
}

/// The folder of the group that we are in; none without the unified hierarchy.
fn own_group(system: &Path) -> Option<PathBuf> {
    let text = std::fs::read_to_string(system.join("proc/self/cgroup")).ok()?;
    let path = text.lines().find_map(|line| line.strip_prefix("0::/"))?;
    let folder = system.join("sys/fs/cgroup").join(path);
    folder.join("cgroup.controllers").exists().then_some(folder)
}

fn is_delegated(folder: &Path) -> bool {
    MARKS.iter().any(|mark| {
        let mut value = [0; 8];
        rustix::fs::getxattr(folder, *mark, &mut value).is_ok_and(|bytes| value.get(..bytes) == Some(b"1"))
    })
}

/// Bytes; 0 where the system does not say.
fn memory_of(system: &Path) -> u64 {
    let text = std::fs::read_to_string(system.join("proc/meminfo")).unwrap_or_default();
    let kib = text.lines().find_map(|line| line.strip_prefix("MemTotal:")?.trim().strip_suffix(" kB")?.parse().ok());
    kib.map_or(0, |kib: u64| kib * 1024)
}

/// What could not be set, one line each. Nothing may be left in the service's own group when it gives controllers to those below.
fn make(folder: PathBuf, wanted: &Wanted<'_>, keeper: u32) -> io::Result<(Groups, Vec<String>)> {
    for role in ROLES {
        match std::fs::create_dir(folder.join(role.name())) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            _ => {}
        }
    }
    let groups = Groups { folder };
    groups.enter(Role::Keeper, keeper)?;
    let there = std::fs::read_to_string(groups.folder.join("cgroup.controllers"))?;
    let controllers: Vec<&str> =
        CONTROLLERS.into_iter().filter(|name| there.split_whitespace().any(|c| c == *name)).collect();
    let mut faults = Vec::new();
    for (file, value) in settings(&controllers, wanted) {
        if let Err(error) = std::fs::write(groups.folder.join(&file), &value) {
            faults.push(format!("the control group refuses {value} in {file}: {error}"));
        }
    }
    Ok((groups, faults))
}

/// Files below the service's group and what is written to them, in this order.
fn settings(controllers: &[&str], wanted: &Wanted<'_>) -> Vec<(String, String)> {
    let mut settings: Vec<_> =
        controllers.iter().map(|name| ("cgroup.subtree_control".to_owned(), format!("+{name}"))).collect();
    let mut set = |role: Role, file: &str, value: String| settings.push((format!("{}/{file}", role.name()), value));
    if controllers.contains(&"cpu") {
        set(Role::Keeper, "cpu.weight", WEIGHT_OF_CALLS.to_string());
        set(Role::Engine, "cpu.weight", WEIGHT_OF_CALLS.to_string());
        set(Role::Side, "cpu.weight", "100".to_owned());
    }
    // The keeper keeps all: what it starts to read the configuration has to see which CPUs there are.
    if controllers.contains(&"cpuset") {
        let rest: Vec<u16> = wanted.allowed.iter().copied().filter(|cpu| !wanted.cpus.contains(cpu)).collect();
        let mut engine: Vec<u16> = wanted.cpus.iter().copied().chain(wanted.housekeeping).collect();
        engine.sort_unstable();
        engine.dedup();
        set(Role::Engine, "cpuset.cpus", list(&engine));
        if !rest.is_empty() {
            set(Role::Side, "cpuset.cpus", list(&rest));
        }
    }
    if controllers.contains(&"memory") && wanted.memory > 0 {
        let bytes = (wanted.memory / SIDE_MEMORY_PART).max(SIDE_MEMORY_MIN);
        set(Role::Side, "memory.max", bytes.to_string());
    }
    settings
}

/// Sorted numbers as the kernel writes them: "0-2,5".
fn list(cpus: &[u16]) -> String {
    let mut text = String::new();
    let mut left = cpus;
    while let Some(first) = left.first() {
        let run =
            (1..).zip(left.windows(2)).take_while(|(_, pair)| pair[0] + 1 == pair[1]).last().map_or(0, |(n, _)| n);
        let comma = if text.is_empty() { "" } else { "," };
        let _ = match run {
            0 => write!(text, "{comma}{first}"),
            _ => write!(text, "{comma}{first}-{}", left[run]),
        };
        left = &left[run + 1..];
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    const GIB: u64 = 1024 * 1024 * 1024;

    fn wanted<'a>(cpus: &'a [u16], allowed: &'a [u16], memory: u64) -> Wanted<'a> {
        Wanted { cpus, housekeeping: allowed.last().copied(), allowed, memory }
    }

    fn value<'a>(settings: &'a [(String, String)], file: &str) -> Option<&'a str> {
        settings.iter().find(|(name, _)| name == file).map(|(_, value)| value.as_str())
    }

    #[test]
    fn the_engine_has_its_cpus_and_side_the_rest() {
        let eight: Vec<u16> = (0..8).collect();
        let settings = settings(&["cpu", "cpuset", "memory"], &wanted(&eight[..6], &eight, 64 * GIB));
        assert_eq!(value(&settings, "engine/cpuset.cpus"), Some("0-5,7"));
        assert_eq!(value(&settings, "side/cpuset.cpus"), Some("6-7"));
        assert_eq!(value(&settings, "keeper/cpuset.cpus"), None);
        assert_eq!(value(&settings, "side/memory.max"), Some((16 * GIB).to_string().as_str()));
        let last_switch = settings.iter().rposition(|(file, _)| file == "cgroup.subtree_control");
        assert_eq!(last_switch, Some(2), "controllers come before what is set with them");
    }

    #[test]
    fn a_small_machine_is_shared() {
        let settings = settings(&["cpu", "cpuset", "memory"], &wanted(&[0], &[0], GIB));
        assert_eq!(value(&settings, "engine/cpuset.cpus"), Some("0"));
        assert_eq!(value(&settings, "side/cpuset.cpus"), None);
        assert_eq!(value(&settings, "side/memory.max"), Some(GIB.to_string().as_str()));
    }

    #[test]
    fn what_is_not_delegated_is_not_set() {
        let settings = settings(&["memory"], &wanted(&[0], &[0, 1], 0));
        assert_eq!(settings, [("cgroup.subtree_control".to_owned(), "+memory".to_owned())]);
    }

    #[test]
    fn cpus_are_written_as_the_kernel_writes_them() {
        for (cpus, text) in [(&[][..], ""), (&[3], "3"), (&[0, 1], "0-1"), (&[0, 2, 3, 4, 9], "0,2-4,9")] {
            assert_eq!(list(cpus), text);
        }
    }

    #[test]
    fn groups_are_files_below_our_own() {
        let system = tempfile::tempdir().unwrap();
        let group = system.path().join("sys/fs/cgroup/tipring.slice/tipring.service");
        std::fs::create_dir_all(&group).unwrap();
        std::fs::create_dir_all(system.path().join("proc/self")).unwrap();
        std::fs::write(system.path().join("proc/self/cgroup"), "0::/tipring.slice/tipring.service\n").unwrap();
        std::fs::write(system.path().join("proc/meminfo"), "MemTotal:       16777216 kB\nMemFree: 1 kB\n").unwrap();
        std::fs::write(group.join("cgroup.controllers"), "cpu memory pids\n").unwrap();
        let folder = own_group(system.path()).unwrap();
        assert_eq!(folder, group);
        assert!(!is_delegated(&folder));
        assert_eq!(memory_of(system.path()), 16 * GIB);
        let (groups, faults) = make(folder, &wanted(&[0], &[0, 1], 16 * GIB), 4711).unwrap();
        assert_eq!(faults, Vec::<String>::new());
        groups.enter(Role::Side, 4712).unwrap();
        let read = |file: &str| std::fs::read_to_string(group.join(file)).unwrap();
        assert_eq!((read("keeper/cgroup.procs"), read("side/cgroup.procs")), ("4711".to_owned(), "4712".to_owned()));
        assert_eq!(read("side/memory.max"), (4 * GIB).to_string());
        assert!(!group.join("side/cpuset.cpus").exists());
        assert!(groups.enter(Role::Engine, 1).is_ok());
    }

    #[test]
    fn what_the_kernel_refuses_is_told_and_the_rest_is_set() {
        let group = tempfile::tempdir().unwrap();
        std::fs::write(group.path().join("cgroup.controllers"), "cpu memory").unwrap();
        std::fs::create_dir_all(group.path().join("engine/cpu.weight")).unwrap();
        let (_, faults) = make(group.path().to_owned(), &wanted(&[0], &[0, 1], GIB), 1).unwrap();
        assert!(faults.len() == 1 && faults[0].contains("engine/cpu.weight"), "{faults:?}");
        assert!(group.path().join("side/memory.max").exists());
        std::fs::remove_file(group.path().join("cgroup.controllers")).unwrap();
        assert!(make(group.path().to_owned(), &wanted(&[0], &[0], GIB), 1).is_err());
    }
}
