//! What the keeper does before anything else: it looks at its folders, becomes the user it is to be, and gives up what it does not
//! need.

use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use rustix::process::Gid;
use rustix::process::Resource;
use rustix::process::Rlimit;
use rustix::process::Uid;
use rustix::thread::CapabilitySet;

use crate::process::confine::capabilities;
use crate::process::exit;
use crate::process::exit::Failure;
use crate::process::plan::Plan;
use crate::process::plan::User;

/// What people should know of it, if anything.
pub(super) fn settle(plan: &Plan) -> Result<Option<String>, Failure> {
    let is_root = rustix::process::geteuid().is_root();
    let user = plan.user.as_ref().filter(|_| is_root);
    for folder in [&plan.data, &plan.run] {
        make(folder, user).map_err(|error| Failure::from_io(folder.display(), &error))?;
        check(folder, user)?;
    }
    if is_root {
        // For a system where CAP_IPC_LOCK is not to be had.
        let _ = rustix::process::setrlimit(Resource::Memlock, Rlimit { current: None, maximum: None });
    }
    let dropped = user.map_or(Ok(()), become_user);
    dropped
        .and_then(|()| capabilities::keep(of_keeper()))
        .map_err(|error| Failure::new(exit::FORBIDDEN, format!("cannot give up the rights of root: {error}")))?;
    let is_managed = ["NOTIFY_SOCKET", "INVOCATION_ID"].iter().any(|name| std::env::var_os(name).is_some());
    Ok(match user {
        Some(user) => Some(format!("started as root: goes on as {}", user.name)),
        None if is_root && !is_managed => {
            Some("started as root and goes on as root: [node] user names whom to go on as".to_owned())
        }
        None => None,
    })
}

/// A low port, files of others where root runs it, and what its engine needs.
fn of_keeper() -> CapabilitySet {
    CapabilitySet::NET_BIND_SERVICE | capabilities::of_files() | capabilities::of_rings()
}

fn make(folder: &Path, user: Option<&User>) -> io::Result<()> {
    if folder.exists() {
        return Ok(());
    }
    std::fs::create_dir_all(folder)?;
    user.map_or(Ok(()), |user| std::os::unix::fs::chown(folder, Some(user.uid), Some(user.gid)))
}

/// Who may write there may take every file's place: keys, token, directory, database.
fn check(folder: &Path, user: Option<&User>) -> Result<(), Failure> {
    let metadata = folder.metadata().map_err(|error| Failure::from_io(folder.display(), &error))?;
    let path = folder.display();
    if metadata.mode() & 0o022 != 0 {
        let mode = metadata.mode() & 0o7777;
        let line = format!("others may write to {path} (its mode is {mode:o}); remedy: chmod go-w {path}");
        return Err(Failure::new(exit::FORBIDDEN, line));
    }
    match user {
        Some(user) if metadata.uid() != user.uid => {
            let name = &user.name;
            let line = format!("{path} does not belong to {name} ([node] user); remedy: chown -R {name} {path}");
            Err(Failure::new(exit::FORBIDDEN, line))
        }
        _ => Ok(()),
    }
}

/// There is one thread, so that it is the process.
fn become_user(user: &User) -> io::Result<()> {
    let (uid, gid) = (Uid::from_raw(user.uid), Gid::from_raw(user.gid));
    rustix::thread::set_keep_capabilities(true)?;
    rustix::thread::set_thread_groups(&[])?;
    rustix::thread::set_thread_res_gid(gid, gid, gid)?;
    rustix::thread::set_thread_res_uid(uid, uid, uid)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::fs::Permissions;
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_folder_that_others_may_write_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        for (mode, is_refused) in [(0o700, false), (0o755, false), (0o770, true), (0o702, true), (0o1777, true)] {
            std::fs::set_permissions(folder.path(), Permissions::from_mode(mode)).unwrap();
            let checked = check(folder.path(), None);
            assert_eq!(checked.is_err(), is_refused, "{mode:o}: {checked:?}");
            if let Err(failure) = checked {
                assert!(failure.code == exit::FORBIDDEN && failure.line.contains("remedy: chmod go-w"), "{failure}");
            }
        }
    }
}
