//! The part of the file system that a process still sees (Landlock, where the kernel has it). It belongs to threads: to be called
//! while there is one.

use std::path::Path;
use std::path::PathBuf;

use landlock::ABI;
use landlock::Access;
use landlock::AccessFs;
use landlock::BitFlags;
use landlock::PathBeneath;
use landlock::PathFd;
use landlock::Ruleset;
use landlock::RulesetAttr;
use landlock::RulesetCreatedAttr;
use landlock::RulesetError;
use landlock::RulesetStatus;
use landlock::make_bitflags;

const NEWEST: ABI = ABI::V5;

/// Names, time zones, certificates, libraries for looking up names, counters of the kernel.
const SYSTEM: [&str; 10] = [
    "/etc",
    "/usr/share",
    "/usr/lib",
    "/lib",
    "/lib64",
    "/proc",
    "/sys",
    "/run/systemd/resolve",
    "/dev/null",
    "/dev/urandom",
];

/// What a process may do beneath some folders, or to some files. What is not there is left out.
#[derive(Clone, Debug, Default)]
pub struct Sight {
    pub reads: Vec<PathBuf>,
    pub writes: Vec<PathBuf>,
    /// Makes, replaces and fills files, and reads none.
    pub fills: Vec<PathBuf>,
}

impl Sight {
    /// Whether the other one sees nothing that this one does not.
    pub fn covers(&self, other: &Self) -> bool {
        let is_in = |paths: &[PathBuf], path: &PathBuf| paths.iter().any(|own| path.starts_with(own));
        other.reads.iter().all(|path| is_in(&self.reads, path) || is_in(&self.writes, path))
            && other.writes.iter().all(|path| is_in(&self.writes, path))
    }

    /// The folder of a log file: it is made anew when it was moved away.
    pub fn with_log(mut self, file: Option<&Path>) -> Self {
        self.writes.extend(file.and_then(Path::parent).map(Path::to_owned));
        self
    }
}

/// Whether the kernel took it.
pub fn see_only(sight: &Sight) -> Result<bool, RulesetError> {
    let all = AccessFs::from_all(NEWEST);
    let read: BitFlags<AccessFs> = make_bitflags!(AccessFs::{ReadFile | ReadDir});
    let fill: BitFlags<AccessFs> = make_bitflags!(AccessFs::{WriteFile | Truncate | MakeReg | MakeDir | RemoveFile});
    let system: Vec<PathBuf> = SYSTEM.iter().map(PathBuf::from).collect();
    let mut rules = Ruleset::default().handle_access(all)?.create()?;
    // Nobody here starts a program.
    for (paths, access) in [
        (&system, read),
        (&sight.reads, read),
        (&sight.writes, all & !BitFlags::from(AccessFs::Execute)),
        (&sight.fills, fill),
    ] {
        for path in paths {
            let Ok(opened) = PathFd::new(path) else { continue };
            let access = if path.is_dir() { access } else { access & AccessFs::from_file(NEWEST) };
            rules = rules.add_rule(PathBeneath::new(opened, access))?;
        }
    }
    Ok(rules.restrict_self()?.ruleset != RulesetStatus::NotEnforced)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sight_covers_what_lies_beneath() {
        let of = |reads: &[&str], writes: &[&str]| Sight {
            reads: reads.iter().map(PathBuf::from).collect(),
            writes: writes.iter().map(PathBuf::from).collect(),
            fills: Vec::new(),
        };
        let own = of(&["/a"], &["/data"]);
        assert!(own.covers(&of(&["/a/b", "/data/x"], &["/data/y"])));
        assert!(!own.covers(&of(&["/ab"], &[])) && !own.covers(&of(&[], &["/a"])));
    }

    /// On a thread of its own, which is the only one that it concerns.
    #[test]
    fn a_thread_sees_what_it_may() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        for name in ["read", "written", "filled"] {
            std::fs::create_dir(at(name)).unwrap();
            std::fs::write(at(name).join("file"), name).unwrap();
        }
        let sight = Sight { reads: vec![at("read")], writes: vec![at("written")], fills: vec![at("filled")] };
        let file = |name: &str| at(name).join("file");
        let paths = ["read", "written", "filled"].map(file);
        let outside = at("outside");
        let thread = std::thread::spawn(move || {
            if !see_only(&sight).unwrap() {
                return None;
            }
            let read = paths.clone().map(|path| std::fs::read(path).is_ok());
            let written = paths.clone().map(|path| std::fs::write(path, b"new").is_ok());
            Some((read, written, std::fs::write(outside, b"").is_ok(), std::fs::read_dir("/etc").is_ok()))
        });
        if let Some(seen) = thread.join().unwrap() {
            assert_eq!(seen, ([true, true, false], [false, true, true], false, true));
        }
    }
}
