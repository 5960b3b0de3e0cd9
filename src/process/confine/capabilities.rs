//! The rights of root that a process keeps. They belong to threads: to be called while there is one.

use std::io;

use rustix::thread::CapabilitySet;
use rustix::thread::CapabilitySets;

/// Keeps these of those that are there, also over the start of another program; nothing brings the others back.
pub fn keep(kept: CapabilitySet) -> io::Result<()> {
    rustix::thread::set_no_new_privs(true)?;
    let own = rustix::thread::capabilities(None)?;
    let kept = own.permitted & kept;
    if own.effective.contains(CapabilitySet::SETPCAP) {
        for bit in 0..u64::BITS {
            let one = CapabilitySet::from_bits_retain(1 << bit);
            // Beyond the last that the kernel knows it says so.
            if !kept.contains(one) && rustix::thread::capability_is_in_bounding_set(one).unwrap_or(false) {
                rustix::thread::remove_capability_from_bounding_set(one)?;
            }
        }
    }
    rustix::thread::clear_ambient_capability_set()?;
    rustix::thread::set_capabilities(None, CapabilitySets { effective: kept, permitted: kept, inheritable: kept })?;
    for one in kept.iter() {
        rustix::thread::configure_capability_in_ambient_set(one, true)?;
    }
    Ok(())
}

/// What opening files of others takes where somebody runs us as root: none of it if all of ours are root's.
pub fn of_files() -> CapabilitySet {
    let is_root = rustix::process::geteuid().is_root();
    if is_root { CapabilitySet::DAC_OVERRIDE } else { CapabilitySet::empty() }
}

/// The memory of rings counts against a limit that all processes of a user share (RLIMIT_MEMLOCK), but for those who have this.
pub fn of_rings() -> CapabilitySet {
    CapabilitySet::IPC_LOCK
}
