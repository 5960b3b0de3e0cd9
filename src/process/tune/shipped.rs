//! The profiles that are part of the program, and how one is found by name, by file, or by what the machine is.

use std::path::Path;

use crate::process::tune::profile::Profile;
use crate::process::tune::profile::ProfileError;
use crate::process::tune::topology::Topology;

/// The more special one comes first: `auto` takes the first that matches.
pub const SHIPPED: [(&str, &str); 6] = [
    ("vm-2core", include_str!("../../../hw-profiles/vm-2core.toml")),
    ("epyc-single-socket", include_str!("../../../hw-profiles/epyc-single-socket.toml")),
    ("xeon-dual-socket", include_str!("../../../hw-profiles/xeon-dual-socket.toml")),
    ("arm64-cloud", include_str!("../../../hw-profiles/arm64-cloud.toml")),
    ("generic-32", include_str!("../../../hw-profiles/generic-32.toml")),
    ("generic-8", include_str!("../../../hw-profiles/generic-8.toml")),
];

pub const AUTO: &str = "auto";

pub fn shipped(name: &str) -> Option<Result<Profile, ProfileError>> {
    let (name, text) = SHIPPED.iter().find(|(known, _)| *known == name)?;
    Some(Profile::parse(text, &format!("{name}.toml")))
}

/// A name of one that is shipped, `auto`, or a file (anything with a slash or a dot). Whether it matches is not looked at,
/// except for `auto`.
pub fn find(name: &str, folder: &Path, machine: &Topology) -> Result<Profile, ProfileError> {
    if name == AUTO {
        return of(machine);
    }
    if let Some(profile) = shipped(name) {
        return profile;
    }
    if name.contains(['/', '.']) {
        return Profile::read(&folder.join(name));
    }
    let names = SHIPPED.iter().map(|(name, _)| *name);
    let known = names.chain([AUTO]).collect::<Vec<_>>().join(", ");
    Err(ProfileError::Unknown { name: name.to_owned(), known })
}

/// The first that matches.
fn of(machine: &Topology) -> Result<Profile, ProfileError> {
    for (name, _) in SHIPPED {
        let profile = shipped(name).unwrap_or_else(|| unreachable!("{name} is shipped"))?;
        if profile.matching.misses(machine).is_empty() {
            return Ok(profile);
        }
    }
    let (cpus, model) = (machine.online.0.len(), &machine.cpu_model);
    let line = format!(
        "no shipped profile matches this machine ({cpus} CPUs, {model:?}, Linux {}): `tipring tune --detect` writes one of its own",
        machine.kernel
    );
    Err(ProfileError::Mismatch(line))
}
