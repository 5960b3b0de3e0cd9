//! The servers that are measured, each on CPU 0: tipring's engine, or Kamailio with one worker.

use std::fs;
use std::net::Ipv4Addr;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Child;
use std::process::Command;
use std::process::Stdio;
use std::time::Duration;
use std::time::Instant;

use crate::cpu;

/// Where the server stands; the phones stand on other addresses of loopback.
pub const SERVER: Ipv4Addr = Ipv4Addr::new(127, 40, 0, 1);
pub const DOMAIN: &str = "bench.test";

pub struct Target {
    pub name: &'static str,
    pub address: SocketAddr,
    child: Child,
    folder: tempfile::TempDir,
    /// The process whose memory is measured comes first.
    pub processes: Vec<i32>,
}

impl Target {
    /// `config` is a file beside this one.
    pub fn kamailio(config: &str, users: usize) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/sip").join(config);
        let child = Command::new("taskset")
            .args(["-c", "0", "kamailio", "-DD", "-E", "-m", "512", "-M", "32", "-f"])
            .arg(path)
            .args(["-A", &format!("LISTEN=udp:{SERVER}:5060"), "-A", &format!("USERS={users}"), "-w"])
            .arg(folder.path())
            .arg("-Y")
            .arg(folder.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("kamailio and kamailio-extra-modules are installed");
        let address = (SERVER, 5060).into();
        let mut target = Self { name: "kamailio", address, child, folder, processes: Vec::new() };
        std::thread::sleep(Duration::from_secs(3));
        target.processes = target.tree();
        target
    }

    pub fn tipring(users: usize, shards: usize, more: &str) -> Self {
        Self::of_build(env!("CARGO_BIN_EXE_tipring"), SERVER, users, shards, more)
    }

    /// The server that `binary` is, at an address of its own.
    pub fn of_build(binary: &str, ip: Ipv4Addr, users: usize, shards: usize, more: &str) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let media = format!("[media]\naddress = \"{ip}\"\nports = \"20000-37999\"\n");
        let media = if more.contains("[media]") { "" } else { &media };
        let config = format!(
            "[node]\nname = \"bench\"\ndata = \"data\"\n[engine]\ncpus = \"0\"\nshards = {shards}\n\
             [sip]\nudp = [\"{ip}:5060\"]\ntcp = [\"{ip}:5060\"]\ndigest = [\"MD5\"]\n\
             {media}[side]\nhttp = \"{ip}:8080\"\n[directory]\nimport = \"directory.toml\"\n[log]\nlevel = \"warn\"\n{more}"
        );
        let mut phones = format!("[[tenant]]\nname = \"bench\"\ndomain = \"{DOMAIN}\"\n");
        for index in 0..users {
            phones.push_str(&format!("[[phone]]\ntenant = \"bench\"\nuser = \"u{index}\"\npassword = \"p\"\n"));
        }
        fs::write(folder.path().join("tipring.toml"), config).expect("a file");
        fs::write(folder.path().join("directory.toml"), phones).expect("a file");
        let log = fs::File::create(folder.path().join("log")).expect("a file");
        let child = Command::new("taskset")
            .args(["-c", "0,1", binary, "serve", "--config"])
            .arg(folder.path().join("tipring.toml"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .expect("tipring starts");
        let address = (ip, 5060).into();
        let mut target = Self { name: "tipring", address, child, folder, processes: Vec::new() };
        target.await_directory();
        target.processes = target.tree();
        target.processes.sort_by_key(|pid| !command_line(*pid).contains("tipring engine"));
        // Keeper and side share the generator's CPU with the engine's clerk, which goes there by itself.
        for pid in target.processes.iter().skip(1) {
            cpu::pin(*pid, 1);
        }
        target
    }

    fn await_directory(&mut self) {
        let end = Instant::now() + Duration::from_secs(300);
        let api = SocketAddr::new(self.address.ip(), 8080);
        while Instant::now() < end {
            let ended = self.child.try_wait().ok().flatten();
            assert!(ended.is_none(), "serve ended: {}", self.log());
            if get(api, "/readyz").is_some_and(|head| head.starts_with("HTTP/1.1 200")) {
                return;
            }
            std::thread::sleep(Duration::from_millis(200));
        }
        panic!("not ready: {}", self.log());
    }

    pub fn log(&self) -> String {
        fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }

    fn tree(&self) -> Vec<i32> {
        let mut found = vec![self.child.id().cast_signed()];
        let mut next = 0;
        while let Some(pid) = found.get(next).copied() {
            next += 1;
            let threads = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten();
            for thread in threads.flatten() {
                let text = fs::read_to_string(thread.path().join("children")).unwrap_or_default();
                found.extend(text.split_whitespace().filter_map(|pid| pid.parse::<i32>().ok()));
            }
        }
        found
    }
}

impl Drop for Target {
    fn drop(&mut self) {
        // Its children end with it, Kamailio's by SIGTERM.
        if let Some(pid) = rustix::process::Pid::from_raw(self.child.id().cast_signed()) {
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        }
        let end = Instant::now() + Duration::from_secs(3);
        while Instant::now() < end && matches!(self.child.try_wait(), Ok(None)) {
            std::thread::sleep(Duration::from_millis(50));
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn command_line(pid: i32) -> String {
    let bytes = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    String::from_utf8_lossy(&bytes).replace('\0', " ")
}

/// The head of an HTTP answer.
fn get(server: SocketAddr, path: &str) -> Option<String> {
    use std::io::Read;
    use std::io::Write;
    let mut stream = std::net::TcpStream::connect_timeout(&server, Duration::from_secs(1)).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(2))).ok()?;
    stream.write_all(format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").as_bytes()).ok()?;
    let mut text = String::new();
    stream.read_to_string(&mut text).ok()?;
    Some(text)
}
