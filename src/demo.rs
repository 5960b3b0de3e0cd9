//! `tipring demo`: serve with a configuration that needs nothing, in a new folder, for two phones that it names.

use std::io::Write;
use std::net::IpAddr;
use std::net::SocketAddr;
use std::net::TcpListener;
use std::net::UdpSocket;
use std::path::Path;
use std::path::PathBuf;
use std::time::Duration;

use rustix::process::Signal;
use tipring::process::exit;
use tipring::process::exit::Failure;
use tipring::process::keeper;

use crate::complain;
use crate::say;

const DIRECTORY: &str = r#"[[tenant]]
name = "demo"
domain = "demo.test"
default = true

[[phone]]
tenant = "demo"
user = "1001"
password = "secret-1001"
name = "Alice"

[[phone]]
tenant = "demo"
user = "1002"
password = "secret-1002"
name = "Bob"
"#;

/// Returns the exit code.
pub(crate) fn run(duration: Option<Duration>, listen: IpAddr) -> u8 {
    match prepare(listen) {
        Ok((config, text)) => {
            say(&text);
            if let Some(duration) = duration {
                stop_after(duration);
            }
            keeper::serve(Some(&config))
        }
        Err(failure) => {
            complain(&format!("tipring: {failure}\n"));
            failure.code
        }
    }
}

/// Writes configuration and directory; returns the configuration's path and what to tell.
fn prepare(listen: IpAddr) -> Result<(PathBuf, String), Failure> {
    let folder = tempfile::Builder::new()
        .prefix("tipring-demo-")
        .tempdir()
        .map_err(|error| Failure::from_io("cannot make a folder", &error))?
        .keep();
    let sip =
        free_port(listen, 5060, |address| UdpSocket::bind(address).is_ok() && TcpListener::bind(address).is_ok())?;
    let http = free_port(listen, 8080, |address| TcpListener::bind(address).is_ok())?;
    let insecure = !listen.is_loopback();
    let config = format!(
        "[node]\ndata = \"data\"\n\n[sip]\nudp = [\"{sip}\"]\ntcp = [\"{sip}\"]\ntrusted = [\"127.0.0.0/8\"]\n\n\
         [media]\naddress = \"{listen}\"\n\n[side]\nhttp = \"{http}\"\ninsecure = {insecure}\n\n\
         [directory]\nimport = \"directory.toml\"\n",
    );
    write(&folder, "directory.toml", DIRECTORY)?;
    let path = write(&folder, "tipring.toml", &config)?;
    let text = format!(
        "demo: {} holds the configuration and everything else\n\
         demo: register two phones at {sip} (UDP or TCP), domain demo.test, and let them call each other:\n\
         demo:   user 1001 password secret-1001 (Alice)\n\
         demo:   user 1002 password secret-1002 (Bob)\n\
         demo: the phone emulator is not built yet: bring your own phones\n\
         demo: API http://{http}, token in {}\n",
        folder.display(),
        folder.join("data/token").display(),
    );
    Ok((path, text))
}

/// The usual port, or one that is free where that is taken.
fn free_port(address: IpAddr, usual: u16, is_free: impl Fn(SocketAddr) -> bool) -> Result<SocketAddr, Failure> {
    let further = (1..200).map(|step| usual + step * 10);
    let mut candidates = [usual].into_iter().chain(further).map(|port| SocketAddr::new(address, port));
    let none = || Failure::new(exit::BUSY, format!("no free port on {address} from {usual} on"));
    candidates.find(|&candidate| is_free(candidate)).ok_or_else(none)
}

fn write(folder: &Path, name: &str, text: &str) -> Result<PathBuf, Failure> {
    let path = folder.join(name);
    let write = || std::fs::File::create_new(&path)?.write_all(text.as_bytes());
    write().map_err(|error| Failure::from_io(path.display(), &error))?;
    Ok(path)
}

/// As if someone had pressed Ctrl-C then.
fn stop_after(duration: Duration) {
    let stop = move || {
        std::thread::sleep(duration);
        let _ = rustix::process::kill_process(rustix::process::getpid(), Signal::INT);
    };
    let _ = std::thread::Builder::new().name("demo-end".to_owned()).spawn(stop);
}
