//! The processes of a measurement: PHLEM and SIPp on CPU 1, the null server or tipring on CPU 0.

use std::fs;
use std::io::Read;
use std::io::Write;
use std::net::SocketAddr;
use std::net::TcpStream;
use std::path::Path;
use std::path::PathBuf;
use std::process::Child;
use std::process::Command;
use std::process::Stdio;
use std::time::Duration;
use std::time::Instant;

use serde_json::Value;

use crate::cpu;
use crate::recorded::Disk;

const TIPRING: &str = env!("CARGO_BIN_EXE_tipring");
pub const SERVER: &str = "127.40.0.1:5060";
pub const HTTP: &str = "127.40.0.1:8080";
/// PHLEM is on loopback.
const TRUSTED: &str = "\"127.0.0.0/8\"";
pub const GENERATOR_CPU: usize = 1;

/// A server; ended with it.
pub struct Server {
    child: Child,
    /// Of its data, if that is not the folder's own.
    pub disk: Option<Disk>,
    folder: tempfile::TempDir,
}

impl Server {
    pub fn null() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let child = on_cpus("0", TIPRING).args(["phlem", "null", "--listen", SERVER]).spawn().expect("taskset runs");
        std::thread::sleep(Duration::from_millis(500));
        Self { child, disk: None, folder }
    }

    /// One shard on CPU 0, everything else of it on CPU 1 beside PHLEM.
    pub fn tipring(users: usize) -> Self {
        Self::serve(users, "never", TRUSTED, |_| None)
    }

    /// The same, with no prefix trusted.
    pub fn exposed(users: usize) -> Self {
        Self::serve(users, "never", "", |_| None)
    }

    /// Process id of the engine.
    pub fn engine(&self) -> i32 {
        let keeper = self.child.id();
        let children = fs::read_to_string(format!("/proc/{keeper}/task/{keeper}/children")).unwrap_or_default();
        let pids = children.split_whitespace().filter_map(|pid| pid.parse().ok());
        let is_engine = |pid: &i32| {
            let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            line.split(|byte| *byte == 0).any(|word| word == b"engine")
        };
        pids.into_iter().find(is_engine).expect("an engine")
    }

    /// The same, with every call recorded on a disk of its own.
    pub fn recording(users: usize) -> Self {
        Self::serve(users, "always", TRUSTED, |folder| Some(Disk::mount(&folder.join("data"))))
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn serve(users: usize, record: &str, trusted: &str, disk: impl FnOnce(&Path) -> Option<Disk>) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let disk = disk(folder.path());
        let config = format!(
            "[node]\nname = \"bench\"\ndata = \"data\"\n[engine]\ncpus = \"0\"\nshards = 1\n\
             [sip]\nudp = [\"{SERVER}\"]\ntcp = [\"{SERVER}\"]\ntrusted = [{trusted}]\n\
             [media]\naddress = \"127.40.0.1\"\nports = \"20000-31999\"\n[side]\nhttp = \"{HTTP}\"\n\
             [directory]\nimport = \"directory.toml\"\n[log]\nlevel = \"warn\"\n"
        );
        let mut directory = format!("[[tenant]]\nname = \"bench\"\ndomain = \"bench.test\"\nrecord = \"{record}\"\n");
        for user in 0..users {
            directory.push_str(&format!("[[phone]]\ntenant = \"bench\"\nuser = \"u{user}\"\npassword = \"p\"\n"));
        }
        fs::write(folder.path().join("tipring.toml"), config).expect("a file");
        fs::write(folder.path().join("directory.toml"), directory).expect("a file");
        let log = fs::File::create(folder.path().join("log")).expect("a file");
        let config = folder.path().join("tipring.toml");
        let child =
            on_cpus("0,1", TIPRING).args(["serve", "--config"]).arg(config).stderr(log).spawn().expect("it starts");
        let mut server = Self { child, disk, folder };
        server.await_directory();
        server
    }

    fn await_directory(&mut self) {
        let end = Instant::now() + Duration::from_secs(120);
        while Instant::now() < end {
            let log = || fs::read_to_string(self.folder.path().join("log")).unwrap_or_default();
            assert!(matches!(self.child.try_wait(), Ok(None)), "serve ended: {}", log());
            if is_ready() {
                return;
            }
            std::thread::sleep(Duration::from_millis(200));
        }
        panic!("tipring was not ready in time");
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(pid) = rustix::process::Pid::from_raw(self.child.id().cast_signed()) {
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        }
        let end = Instant::now() + Duration::from_secs(5);
        while Instant::now() < end && matches!(self.child.try_wait(), Ok(None)) {
            std::thread::sleep(Duration::from_millis(50));
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn is_ready() -> bool {
    get("/readyz", "").is_some_and(|text| text.starts_with("HTTP/1.1 200"))
}

/// Head and body of tipring's answer.
pub fn get(path: &str, token: &str) -> Option<String> {
    let mut stream = TcpStream::connect(HTTP).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(10))).ok()?;
    let request =
        format!("GET {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).ok()?;
    let mut text = String::new();
    stream.read_to_string(&mut text).ok()?;
    Some(text)
}

fn on_cpus(cpus: &str, program: &str) -> Command {
    let mut command = Command::new("taskset");
    command.args(["-c", cpus, program]).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command
}

/// Waits for a process on the generator's CPU; what it took of it.
fn cpu_to_end(mut child: Child, at_most: Duration) -> f64 {
    let pid = child.id().cast_signed();
    let end = Instant::now() + at_most;
    let mut seconds: f64 = 0.0;
    while matches!(child.try_wait(), Ok(None)) {
        seconds = seconds.max(cpu::ran_seconds(pid, GENERATOR_CPU));
        if Instant::now() > end {
            let _ = child.kill();
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    seconds
}

/// What PHLEM found, and the CPU seconds of its whole process.
pub struct Run {
    pub json: Value,
    pub cpu: f64,
}

impl Run {
    pub fn count(&self, name: &str) -> u64 {
        self.json["figures"][name].as_u64().unwrap_or(0)
    }

    pub fn media(&self, name: &str) -> u64 {
        self.json["figures"]["media"][name].as_u64().unwrap_or(0)
    }

    pub fn millis(&self, distribution: &str, part: &str) -> f64 {
        let figures = &self.json["figures"];
        let found =
            if figures[distribution].is_null() { &figures["media"][distribution] } else { &figures[distribution] };
        found[part].as_f64().unwrap_or(0.0)
    }

    /// Per cent of a CPU.
    pub fn busiest(&self) -> f64 {
        self.count("busiest_permille") as f64 / 10.0
    }
}

pub fn phlem(scenario: &str, more: &[&str]) -> Run {
    let folder = tempfile::tempdir().expect("a folder");
    let (file, json) = (folder.path().join("bench.toml"), folder.path().join("bench.json"));
    fs::write(&file, scenario).expect("a file");
    let mut command = on_cpus("1", TIPRING);
    command.args(["phlem", "run"]).arg(&file).args(["--server", SERVER, "--cpus", "1", "--json"]).arg(&json).args(more);
    let said = fs::File::create(folder.path().join("said")).expect("a file");
    let child = command.stderr(said).spawn().expect("PHLEM starts");
    let cpu = cpu_to_end(child, Duration::from_secs(150));
    let said = fs::read_to_string(folder.path().join("said")).unwrap_or_default();
    let bytes = fs::read(&json).unwrap_or_else(|error| panic!("no figures ({error}): {said}"));
    Run { json: serde_json::from_slice(&bytes).expect("JSON"), cpu }
}

/// Calls of a scenario beside this file; the CPU seconds of SIPp.
pub fn sipp(scenario: &str, rate: usize, calls: usize) -> f64 {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/phlem").join(scenario);
    let own = std::net::UdpSocket::bind("127.0.0.1:0").and_then(|socket| socket.local_addr()).expect("a port").port();
    let folder = tempfile::tempdir().expect("a folder");
    let child = on_cpus("1", "sipp")
        .arg("-sf")
        .arg(file)
        .args(["-i", "127.0.0.1", "-p", &own.to_string(), "-nostdin", "-l", "60000"])
        .args(["-r", &rate.to_string(), "-m", &calls.to_string(), SERVER])
        .current_dir(folder.path())
        .spawn()
        .expect("sipp is installed");
    cpu_to_end(child, Duration::from_secs(60))
}

/// The address of the server, as a scenario has it.
pub fn server() -> SocketAddr {
    SERVER.parse().expect("an address")
}
