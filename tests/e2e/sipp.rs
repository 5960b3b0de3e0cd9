//! SIPp as a phone: a scenario file of `tests/e2e/sipp`, its `@NAME@` replaced, run for a bounded time.

use std::fs;
use std::net::IpAddr;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Child;
use std::process::Command;
use std::process::Stdio;
use std::time::Duration;

use crate::server::Server;
use crate::server::eventually;

pub struct Sipp {
    pub user: String,
    pub local: SocketAddr,
    server: SocketAddr,
    folder: tempfile::TempDir,
}

pub struct Running {
    name: String,
    child: Child,
    folder: std::path::PathBuf,
}

impl Sipp {
    pub fn new(server: &mut Server, user: &str) -> Self {
        let local = SocketAddr::new(server.fresh_ip(), 5060);
        Self::at(user, local, server.sip())
    }

    pub fn at(user: &str, local: SocketAddr, server: SocketAddr) -> Self {
        let folder = tempfile::Builder::new().prefix("tipring-sipp-").tempdir().unwrap();
        Self { user: user.into(), local, server, folder }
    }

    /// Registers with SIPp, from the port that its later scenarios use.
    pub fn registered(server: &mut Server, user: &str) -> Self {
        let phone = Self::new(server, user);
        phone.run("register.xml", &[], 1).succeed();
        phone
    }

    /// Starts a scenario for `calls` calls one after the other; `call_id` is written into the first one's.
    pub fn run(&self, scenario: &str, replace: &[(&str, &str)], calls: u32) -> Running {
        self.run_over("u1", scenario, replace, calls)
    }

    pub fn run_over(&self, transport: &str, scenario: &str, replace: &[(&str, &str)], calls: u32) -> Running {
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/e2e/sipp").join(scenario);
        let mut text = fs::read_to_string(&source).unwrap_or_else(|error| panic!("{scenario}: {error}"));
        let domain = if self.user.starts_with('2') { "globex.test" } else { "acme.test" };
        let own = [("USER", self.user.as_str()), ("DOMAIN", domain)];
        for (name, value) in replace.iter().chain(&own) {
            text = text.replace(&format!("@{name}@"), value);
        }
        assert!(
            !text.contains('@')
                || !text.split('@').any(|part| part.len() > 2 && part.chars().all(|c| c.is_ascii_uppercase())),
            "{scenario}: a name is not replaced"
        );
        let file = self.folder.path().join(scenario);
        fs::write(&file, text).unwrap();
        let ip = bracketed(self.local.ip());
        let child = Command::new("sipp")
            .arg(self.server.to_string())
            .args(["-i", &ip, "-mi", &ip, "-p", &self.local.port().to_string(), "-t", transport])
            .arg("-sf")
            .arg(&file)
            .args(["-m", &calls.to_string(), "-l", "1", "-r", "20", "-nostdin", "-timeout", "25s", "-timeout_error"])
            .args(["-cid_str", &format!("{}-%u-%p@%s", self.user), "-trace_err", "-error_file"])
            .arg(self.folder.path().join(format!("{scenario}.err")))
            .args(["-trace_msg", "-message_file"])
            .arg(self.folder.path().join(format!("{scenario}.log")))
            .current_dir(self.folder.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("sipp is installed (Debian: sip-tester)");
        let running = Running { name: scenario.into(), child, folder: self.folder.path().into() };
        // A callee has to listen before anybody calls it.
        if transport.starts_with('u') && !scenario.starts_with("caller") && !scenario.starts_with("register") {
            let bound =
                eventually(Duration::from_secs(5), || std::net::UdpSocket::bind(self.local).is_err().then_some(()));
            assert!(bound.is_some(), "sipp does not listen on {}", self.local);
        }
        running
    }
}

fn bracketed(ip: IpAddr) -> String {
    match ip {
        IpAddr::V4(ip) => ip.to_string(),
        IpAddr::V6(ip) => format!("[{ip}]"),
    }
}

impl Running {
    /// Waits for the end; every call of the scenario must have gone as written. Returns the first Call-ID.
    pub fn succeed(mut self) -> String {
        let status = eventually(Duration::from_secs(30), || self.child.try_wait().unwrap());
        let log = self.text("log");
        let code = status.and_then(|status| status.code());
        assert_eq!(code, Some(0), "{}:\n{}\n{}", self.name, self.text("err"), last_lines(&log));
        let call_id = log.lines().find_map(|line| line.strip_prefix("Call-ID: "));
        call_id.unwrap_or_default().trim().to_owned()
    }

    fn text(&self, end: &str) -> String {
        let path = self.folder.join(format!("{}.{end}", self.name));
        String::from_utf8_lossy(&fs::read(path).unwrap_or_default()).into_owned()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn last_lines(text: &str) -> String {
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(120)..].join("\n")
}
