//! What the checkers read of this machine, as a folder that can be sent to somebody else and looked at there with `--root`.

use std::fs;
use std::io;
use std::path::Path;
use std::path::PathBuf;

use crate::process::tune::check;
use crate::process::tune::checker::Context;
use crate::process::tune::checker::Needs;
use crate::process::tune::machine::Machine;
use crate::process::tune::machine::Seen;
use crate::process::tune::profile::Profile;
use crate::process::tune::sets::Sets;
use crate::process::tune::shipped::SHIPPED;
use crate::process::tune::shipped::shipped;
use crate::process::tune::topology::Topology;

/// Looks at everything that any shipped profile, or this one, would look at.
pub fn look(machine: &Machine, own: Option<&Profile>, needs: &Needs) {
    let topology = Topology::of(machine);
    let every = CpuSetOfAll::of(&topology);
    let profiles = SHIPPED.iter().filter_map(|(name, _)| shipped(name)?.ok()).chain(own.cloned());
    for mut profile in profiles {
        profile.net.interfaces.clear();
        let sets = Sets::of(&profile, &topology).unwrap_or_else(|_| every.0.clone());
        check::check(&Context { machine, topology: &topology, profile: &profile, sets: &sets, needs });
        let all = Context { machine, topology: &topology, profile: &profile, sets: &every.0, needs };
        check::check(&all);
    }
}

/// Every CPU in every role, so that nothing is left out.
struct CpuSetOfAll(Sets);

impl CpuSetOfAll {
    fn of(topology: &Topology) -> Self {
        let all = topology.online.clone();
        Self(Sets { engine: all.clone(), irq: all.clone(), housekeeping: all.clone(), shards: all })
    }
}

/// Writes what was seen. `folder` must not be there yet. Returns the number of files.
pub fn write(machine: &Machine, folder: &Path) -> io::Result<usize> {
    fs::create_dir(folder)?;
    let mut files = 0;
    let mut links = Vec::new();
    for (path, seen) in machine.seen() {
        let place = folder.join(&path);
        match seen {
            Seen::Folder => fs::create_dir_all(&place)?,
            Seen::Link(target) => links.push((place, target)),
            Seen::Text(text) => {
                fs::create_dir_all(place.parent().unwrap_or(folder))?;
                fs::write(&place, text + "\n")?;
                files += 1;
            }
        }
    }
    for (place, target) in links {
        fs::create_dir_all(folder.join(&target))?;
        let parent = place.parent().unwrap_or(folder);
        fs::create_dir_all(parent)?;
        if fs::symlink_metadata(&place).is_ok() {
            continue;
        }
        let depth = parent.strip_prefix(folder).map_or(0, |inside| inside.components().count());
        let up: PathBuf = std::iter::repeat_n("..", depth).collect();
        std::os::unix::fs::symlink(up.join(target), place)?;
    }
    Ok(files)
}
