//! Debug builds try what they gave up where `TIPRING_TRIAL` is set, and log what came of it: tests read it. What is not refused is done.

use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use rustix::net::AddressFamily;
use rustix::net::SocketType;

use crate::shard::probe;

/// `foreign`: files that this process has no business with.
pub fn run<P: AsRef<Path>>(foreign: &[P]) {
    if std::env::var_os("TIPRING_TRIAL").is_none() {
        return;
    }
    let say = |what: &str, error: Option<std::io::Error>| {
        let code = error.as_ref().and_then(std::io::Error::raw_os_error);
        tracing::info!(event = "trial", "{what}: {code:?}");
    };
    say("process", Command::new("/bin/true").status().err());
    say("ring", probe::another_ring().err());
    let packets = rustix::net::socket(AddressFamily::PACKET, SocketType::DGRAM, None);
    say("packets", packets.err().map(Into::into));
    say("chroot", rustix::process::chroot("/").err().map(Into::into));
    for path in foreign.iter().map(AsRef::as_ref) {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        say(&format!("read {name}"), std::fs::read(path).err());
    }
    say("write", std::fs::write("/tmp/tipring-trial", b"").err());
    // The last one: it does not come back where it is not refused.
    say("exec", Some(Command::new("/bin/true").exec()));
}
