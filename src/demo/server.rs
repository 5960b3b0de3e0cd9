//! The demo's server: `tipring serve` as a child, with a configuration of its own in a new folder.

use std::fmt::Write as _;
use std::fs::File;
use std::io::Read;
use std::io::Write;
use std::net::IpAddr;
use std::net::SocketAddr;
use std::net::TcpListener;
use std::net::TcpStream;
use std::net::UdpSocket;
use std::os::unix::process::CommandExt;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::path::PathBuf;
use std::process::Child;
use std::process::Command;
use std::process::Stdio;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use rustix::process::Pid;
use rustix::process::Signal;
use tipring::base::time::Instant;
use tipring::process::clock;
use tipring::process::exit;
use tipring::process::exit::Failure;

/// A user that no emulated phone has.
pub(super) const SPARE_USER: u32 = 2000;
const PHONES: std::ops::RangeInclusive<u32> = 1001..=1050;
const START_MAX: Duration = Duration::from_secs(10);
const STOP_MAX: Duration = Duration::from_secs(8);
/// Of our own server, on this machine.
const ANSWER_MAX: Duration = Duration::from_secs(2);
const ANSWER_BYTES_MAX: u64 = 4 << 20;
const LOOK_EVERY: Duration = Duration::from_millis(10);
/// Lines of the log that say why the server died.
const LAST_LINES: usize = 5;

pub(super) struct Server {
    child: Child,
    pub(super) folder: PathBuf,
    pub(super) sip: SocketAddr,
    pub(super) http: SocketAddr,
}

impl Server {
    pub(super) fn start(listen: IpAddr) -> Result<Self, Failure> {
        let is_free = |address| UdpSocket::bind(address).is_ok() && TcpListener::bind(address).is_ok();
        let sip = free_port(listen, 5060, is_free)?;
        let http = free_port(listen, 8080, |address| TcpListener::bind(address).is_ok())?;
        let folder = tempfile::Builder::new()
            .prefix("tipring-demo-")
            .tempdir()
            .map_err(|error| Failure::from_io("cannot make a folder", &error))?
            .keep();
        write(&folder, "directory.toml", &directory())?;
        let config = write(&folder, "tipring.toml", &configuration(listen, sip, http))?;
        let log = File::create(folder.join("server.log"))
            .map_err(|error| Failure::from_io(folder.join("server.log").display(), &error))?;
        let program = std::env::current_exe().map_err(|error| Failure::from_io("this program", &error))?;
        let spawned = Command::new(program)
            .args(["serve", "--with-parent", "--config"])
            .arg(config)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            // Ctrl-C is for the demo, which stops its phones first.
            .process_group(0)
            .spawn();
        let child = spawned.map_err(|error| Failure::from_io("cannot start the server", &error))?;
        Ok(Self { child, folder, sip, http })
    }

    /// Or until the demo is to end.
    pub(super) fn await_ready(&mut self, stop: &AtomicBool) -> Result<(), Failure> {
        let began = clock::instant();
        while !stop.load(Relaxed) && !self.log().lines().any(|line| line.contains("ready: node")) {
            self.check()?;
            if passed(began) > START_MAX {
                return Err(Failure::new(exit::OTHER, format!("the server is not ready:\n{}", self.last_words())));
            }
            std::thread::sleep(LOOK_EVERY);
        }
        Ok(())
    }

    /// Fails with what the server last said if it has ended.
    pub(super) fn check(&mut self) -> Result<(), Failure> {
        let Ok(Some(status)) = self.child.try_wait() else { return Ok(()) };
        let code = status.code().and_then(|code| u8::try_from(code).ok()).filter(|code| *code != 0);
        let line = format!("the server ended ({status}):\n{}", self.last_words());
        Err(Failure::new(code.unwrap_or(exit::OTHER), line))
    }

    pub(super) fn token(&self) -> Result<String, Failure> {
        let file = self.folder.join("data/token");
        let token = std::fs::read_to_string(&file).map_err(|error| Failure::from_io(file.display(), &error))?;
        Ok(token.trim().to_owned())
    }

    pub(super) fn recordings(&self) -> Recordings {
        Recordings { http: self.http, token: self.folder.join("data/token") }
    }

    /// INT: calls are ended, everything is closed. What it said if it did not end well.
    pub(super) fn stop(mut self) -> Result<(), Failure> {
        self.check()?;
        let pid = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw);
        if let Some(pid) = pid {
            let _ = rustix::process::kill_process(pid, Signal::INT);
        }
        let began = clock::instant();
        loop {
            match self.child.try_wait() {
                // Before it listens to signals, it dies of this one.
                Ok(Some(status)) if status.success() || status.signal() == Some(Signal::INT.as_raw()) => return Ok(()),
                Ok(Some(_)) => return self.check(),
                _ if passed(began) > STOP_MAX => {
                    return Err(Failure::new(exit::OTHER, "the server does not stop"));
                }
                _ => std::thread::sleep(LOOK_EVERY),
            }
        }
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.folder.join("server.log")).unwrap_or_default()
    }

    fn last_words(&self) -> String {
        let log = self.log();
        let lines: Vec<_> = log.lines().collect();
        lines.get(lines.len().saturating_sub(LAST_LINES)..).unwrap_or_default().join("\n")
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Asks the API as anybody may.
pub(super) struct Recordings {
    http: SocketAddr,
    token: PathBuf,
}

impl Recordings {
    /// What a shell needs to fetch one that is there: the newest that is finished.
    pub(super) fn command(&self) -> Option<String> {
        let id = self.newest()?;
        let (http, token) = (self.http, self.token.display());
        let header = format!("-H \"Authorization: Bearer $(cat {token})\"");
        Some(format!("curl -fsS -o call.wav {header} http://{http}/v1/recordings/{id}/media"))
    }

    fn newest(&self) -> Option<String> {
        let token = std::fs::read_to_string(&self.token).ok()?;
        let mut stream = TcpStream::connect_timeout(&self.http, ANSWER_MAX).ok()?;
        stream.set_read_timeout(Some(ANSWER_MAX)).ok()?;
        let request = format!(
            "GET /v1/recordings?limit=100 HTTP/1.0\r\nHost: {}\r\nAuthorization: Bearer {}\r\n\r\n",
            self.http,
            token.trim()
        );
        stream.write_all(request.as_bytes()).ok()?;
        let mut answer = String::new();
        stream.take(ANSWER_BYTES_MAX).read_to_string(&mut answer).ok()?;
        let (_, body) = answer.split_once("\r\n\r\n")?;
        let page: serde_json::Value = serde_json::from_str(body).ok()?;
        let items = page["items"].as_array()?;
        let finished = items.iter().find(|item| item["state"] == "completed")?;
        finished["id"].as_str().map(str::to_owned)
    }
}

pub(super) fn passed(since: Instant) -> Duration {
    clock::instant().since(since)
}

fn directory() -> String {
    let mut text =
        "[[tenant]]\nname = \"demo\"\ndomain = \"demo.test\"\ndefault = true\nrecord = \"always\"\n".to_owned();
    for user in PHONES.chain([SPARE_USER]) {
        let name = match user {
            1001 => "Greeter".to_owned(),
            SPARE_USER => "You".to_owned(),
            _ => format!("Desk {user}"),
        };
        let _ = write!(
            text,
            "\n[[phone]]\ntenant = \"demo\"\nuser = \"{user}\"\npassword = \"secret-{user}\"\nname = \"{name}\"\n"
        );
    }
    text
}

fn configuration(listen: IpAddr, sip: SocketAddr, http: SocketAddr) -> String {
    let insecure = !listen.is_loopback();
    let whole = if listen.is_ipv4() { 32 } else { 128 };
    format!(
        "[node]\ndata = \"data\"\n\n[sip]\nudp = [\"{sip}\"]\ntcp = [\"{sip}\"]\n\
         trusted = [\"127.0.0.0/8\", \"{listen}/{whole}\"]\n\n\
         [media]\naddress = \"{listen}\"\nports = \"16384-17383\"\n\n[side]\nhttp = \"{http}\"\ninsecure = {insecure}\n\n\
         [directory]\nimport = \"directory.toml\"\n",
    )
}

/// The usual port, or one that is free where that is taken.
fn free_port(address: IpAddr, usual: u16, is_free: impl Fn(SocketAddr) -> bool) -> Result<SocketAddr, Failure> {
    let further = (1..200).map(|step| usual + step * 10);
    let mut candidates = [usual].into_iter().chain(further).map(|port| SocketAddr::new(address, port));
    let none = || {
        let advice = "is it an address of this machine?";
        Failure::new(exit::BUSY, format!("no free port on {address} from {usual} on; {advice}"))
    };
    candidates.find(|&candidate| is_free(candidate)).ok_or_else(none)
}

fn write(folder: &Path, name: &str, text: &str) -> Result<PathBuf, Failure> {
    let path = folder.join(name);
    let write = || File::create_new(&path)?.write_all(text.as_bytes());
    write().map_err(|error| Failure::from_io(path.display(), &error))?;
    Ok(path)
}
