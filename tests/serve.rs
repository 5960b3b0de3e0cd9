//! `tipring serve` as a user and a service manager see it: start, failure, signals, restarts, the control socket.
//!
//! Every test has a loopback address and a folder of its own, so that they run side by side.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
#![allow(clippy::disallowed_methods, reason = "real processes take real time")]

use std::fs;
use std::io::BufRead;
use std::io::BufReader;
use std::net::TcpListener;
use std::net::UdpSocket;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::SocketAddr;
use std::os::unix::net::UnixDatagram;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::path::PathBuf;
use std::process::Child;
use std::process::Command;
use std::process::ExitStatus;
use std::process::Output;
use std::process::Stdio;
use std::sync::atomic::AtomicU8;
use std::sync::atomic::Ordering;
use std::sync::mpsc::Receiver;
use std::sync::mpsc::channel;
use std::time::Duration;

use rustix::process::Pid;
use rustix::process::Signal;
use serde_json::Value;
use tempfile::TempDir;

const TIPRING: &str = env!("CARGO_BIN_EXE_tipring");
const NOBODY: u32 = 65_534;
/// Long enough for a machine that does much else.
const PATIENCE: Duration = Duration::from_secs(20);

/// A folder with a configuration, and an address that no other test has.
struct Site {
    folder: TempDir,
    address: String,
}

impl Site {
    fn new(extra: &str) -> Self {
        static NEXT: AtomicU8 = AtomicU8::new(1);
        let pid = std::process::id();
        let address = format!("127.{}.{}.{}", 64 + pid / 256 % 64, pid % 256, NEXT.fetch_add(1, Ordering::Relaxed));
        let site = Self { folder: tempfile::tempdir().unwrap(), address };
        site.configure(extra);
        site
    }

    fn configure(&self, extra: &str) {
        let address = &self.address;
        let (sip, http) = (format!("{address}:5060"), format!("{address}:8080"));
        let text = format!(
            "[sip]\nudp = [\"{sip}\"]\ntcp = [\"{sip}\"]\n[media]\naddress = \"{address}\"\nports = \"20000-20019\"\n\
             [side]\nhttp = \"{http}\"\n{extra}\n"
        );
        fs::write(self.config(), text).unwrap();
    }

    fn config(&self) -> PathBuf {
        self.folder.path().join("tipring.toml")
    }

    fn run(&self) -> PathBuf {
        self.folder.path().join("tipring-data/run")
    }

    fn sip(&self) -> String {
        format!("{}:5060", self.address)
    }

    fn command(&self) -> Command {
        let mut command = Command::new(TIPRING);
        command.arg("serve").arg("--config").arg(self.config());
        command
    }

    fn serve(&self) -> Serving {
        Serving::start(self.command())
    }

    fn serve_until_ready(&self) -> Serving {
        let mut serving = self.serve();
        serving.wait_for("ready: node");
        serving
    }

    /// A start that must fail: code and what stood on stderr.
    fn fail(&self) -> (i32, String) {
        let started = std::time::Instant::now();
        let mut serving = self.serve();
        let status = serving.wait();
        assert!(started.elapsed() < Duration::from_secs(6), "a failed start took {:?}", started.elapsed());
        (status.code().unwrap(), serving.rest())
    }

    fn ask(&self, arguments: &[&str]) -> Output {
        Command::new(TIPRING).args(arguments).arg("--run").arg(self.run()).output().unwrap()
    }

    fn status(&self) -> Value {
        let output = self.ask(&["status", "--json"]);
        assert!(output.status.success(), "{output:?}");
        serde_json::from_slice(&output.stdout).unwrap()
    }

    fn process(&self, role: &str) -> Value {
        let status = self.status();
        let processes = status["processes"].as_array().unwrap().clone();
        processes.into_iter().find(|process| process["role"] == role).unwrap()
    }

    fn pid(&self, role: &str) -> u32 {
        self.process(role)["pid"].as_u64().unwrap().try_into().unwrap()
    }

    fn wait_for_generation(&self, role: &str, generation: u64) {
        until(role, || {
            let process = self.process(role);
            process["generation"] == generation && process["state"] == "ready"
        });
    }
}

/// A keeper, killed at the end of its test; its children die with it.
struct Serving {
    child: Child,
    lines: Receiver<String>,
    seen: String,
}

impl Serving {
    fn start(mut command: Command) -> Self {
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let stderr = child.stderr.take().unwrap();
        let (sender, lines) = channel();
        std::thread::spawn(move || {
            for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                let _ = sender.send(line);
            }
        });
        Self { child, lines, seen: String::new() }
    }

    fn wait_for(&mut self, part: &str) -> String {
        loop {
            let line = self.lines.recv_timeout(PATIENCE).unwrap_or_else(|_| panic!("no {part:?} in:\n{}", self.seen));
            self.seen.push_str(&line);
            self.seen.push('\n');
            if line.contains(part) {
                return line;
            }
        }
    }

    fn signal(&self, signal: Signal) {
        send(self.child.id(), signal);
    }

    fn wait(&mut self) -> ExitStatus {
        let mut status = None;
        until("the end of serve", || {
            status = self.child.try_wait().unwrap();
            status.is_some()
        });
        status.unwrap()
    }

    /// Everything that was written, once the process has ended.
    fn rest(&mut self) -> String {
        while let Ok(line) = self.lines.recv_timeout(Duration::from_secs(2)) {
            self.seen.push_str(&line);
            self.seen.push('\n');
        }
        self.seen.clone()
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn send(pid: u32, signal: Signal) {
    rustix::process::kill_process(Pid::from_raw(pid.try_into().unwrap()).unwrap(), signal).unwrap();
}

fn until(what: &str, mut happened: impl FnMut() -> bool) {
    let started = std::time::Instant::now();
    while !happened() {
        assert!(started.elapsed() < PATIENCE, "{what}: not within {PATIENCE:?}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn is_alive(pid: u32) -> bool {
    Path::new(&format!("/proc/{pid}")).exists()
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

#[test]
fn says_ready_and_stops_at_term() {
    let site = Site::new("");
    let socket = UnixDatagram::bind(site.folder.path().join("notify")).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut command = site.command();
    command.env("NOTIFY_SOCKET", site.folder.path().join("notify"));
    let mut serving = Serving::start(command);
    let line = serving.wait_for("ready: node");
    assert!(line.contains(&site.sip()), "{line}");
    assert_eq!(serving.seen.matches("ready").count(), line.matches("ready").count(), "said once:\n{}", serving.seen);
    told(&socket, "STATUS=starting");
    told(&socket, "READY=1");
    told(&socket, "STATUS=takes calls");
    for (role, name) in [("engine", "tipring engine"), ("side", "tipring side")] {
        let shown = fs::read(format!("/proc/{}/cmdline", site.pid(role))).unwrap();
        let shown = String::from_utf8(shown).unwrap().trim_end_matches('\0').replace('\0', " ");
        assert_eq!(shown, name);
        assert_eq!(site.process(role)["state"], "ready");
    }
    let status = site.status();
    assert_eq!((&status["rtp_port_pairs"]["open"], &status["reload_success"]), (&10.into(), &true.into()));
    serving.signal(Signal::TERM);
    told(&socket, "STOPPING=1");
    assert_eq!(serving.wait().code(), Some(0));
    assert!(!site.run().join("control.sock").exists());
}

#[test]
fn notifies_an_abstract_socket() {
    let site = Site::new("");
    let name = format!("tipring-test-{}", site.address);
    let socket = UnixDatagram::bind_addr(&SocketAddr::from_abstract_name(&name).unwrap()).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut command = site.command();
    command.env("NOTIFY_SOCKET", format!("@{name}"));
    let _serving = Serving::start(command);
    told(&socket, "READY=1");
}

#[test]
fn a_reload_is_begun_and_ended_and_the_watchdog_is_fed() {
    let site = Site::new("");
    let socket = UnixDatagram::bind(site.folder.path().join("notify")).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut command = site.command();
    command.env("NOTIFY_SOCKET", site.folder.path().join("notify")).env("WATCHDOG_USEC", "1000000");
    let serving = Serving::start(command);
    told(&socket, "READY=1");
    for _ in 0..3 {
        told(&socket, "WATCHDOG=1");
    }
    let before = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    serving.signal(Signal::HUP);
    let begun = told(&socket, "RELOADING=1");
    let micros: i64 = begun.strip_prefix("RELOADING=1\nMONOTONIC_USEC=").unwrap().parse().unwrap();
    assert!((0..5_000_000).contains(&(micros - before.tv_sec * 1_000_000 - before.tv_nsec / 1_000)), "{begun}");
    told(&socket, "READY=1");
}

#[test]
fn why_it_cannot_start_is_told_to_the_service_manager() {
    let site = Site::new("");
    let socket = UnixDatagram::bind(site.folder.path().join("notify")).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    let _holder = UdpSocket::bind(site.sip()).unwrap();
    let mut command = site.command();
    command.env("NOTIFY_SOCKET", site.folder.path().join("notify"));
    let mut serving = Serving::start(command);
    let status = told(&socket, "STATUS=");
    assert!(status.contains(&format!("udp {}", site.sip())), "{status}");
    assert_eq!(serving.wait().code(), Some(75));
}

/// The next word that begins like this, others passed over.
fn told(socket: &UnixDatagram, wanted: &str) -> String {
    loop {
        let mut buffer = [0; 512];
        let length = socket.recv(&mut buffer).unwrap_or_else(|error| panic!("no {wanted}: {error}"));
        let word = String::from_utf8(buffer[..length].to_vec()).unwrap();
        if word.starts_with(wanted) {
            return word;
        }
    }
}

#[test]
fn a_busy_port_is_named() {
    let site = Site::new("");
    let udp = UdpSocket::bind(site.sip()).unwrap();
    let (code, text) = site.fail();
    assert_eq!(code, 75, "{text}");
    assert!(text.contains(&format!("udp {}", site.sip())), "{text}");
    assert_eq!(text.lines().count(), 1, "{text}");
    drop(udp);
    let _tcp = TcpListener::bind(site.sip()).unwrap();
    let (code, text) = site.fail();
    assert_eq!(code, 75, "{text}");
    assert!(text.contains(&format!("tcp {}", site.sip())), "{text}");
}

#[test]
fn rtp_ports_of_others_are_left_out_and_counted() {
    let site = Site::new("");
    let hold = |port: u16| UdpSocket::bind((site.address.as_str(), port)).unwrap();
    let held: Vec<_> = (20_001..20_003).map(hold).collect();
    let serving = site.serve_until_ready();
    let ports = site.status()["rtp_port_pairs"].clone();
    assert_eq!((&ports["open"], &ports["held"]), (&8.into(), &2.into()));
    assert!(serving.seen.contains("2 RTP port pairs are left out"), "{}", serving.seen);
    drop(serving);
    until("the ports", || UdpSocket::bind((site.address.as_str(), 20_019)).is_ok());
    let _rest: Vec<_> = (20_003..20_020).map(hold).collect();
    let (code, text) = site.fail();
    assert_eq!((code, text.contains("media.ports")), (75, true), "{text}");
    drop(held);
}

#[test]
fn a_busy_port_of_a_child_ends_the_start() {
    let site = Site::new("");
    let _http = TcpListener::bind((site.address.as_str(), 8080)).unwrap();
    let (code, text) = site.fail();
    assert_eq!(code, 75, "{text}");
    let line = text.lines().find(|line| line.starts_with("tipring: side: ")).unwrap();
    assert!(line.contains(&format!("{}:8080", site.address)), "{text}");
}

#[test]
fn tokens_are_made_listed_and_revoked() {
    let site = Site::new("");
    let _serving = site.serve_until_ready();
    let token = |arguments: &[&str]| {
        Command::new(TIPRING).arg("token").args(arguments).arg("--config").arg(site.config()).output().unwrap()
    };
    let added = token(&["add", "crm", "--role", "operator", "--expires", "2099-01-01T00:00:00Z"]);
    assert_eq!((added.status.code(), added.stdout.len() > 32), (Some(0), true), "{added:?}");
    assert_eq!(token(&["add", "crm"]).status.code(), Some(1), "the name is taken");
    let list: Value = serde_json::from_slice(&token(&["list", "--json"]).stdout).unwrap();
    let crm = list.as_array().unwrap().iter().find(|token| token["name"] == "crm").unwrap().clone();
    assert_eq!((&crm["role"], &crm["expires_at"].is_string()), (&"operator".into(), &true));
    assert_eq!(token(&["add", "x", "--tenant", "nobody"]).status.code(), Some(1), "there is no such tenant");
    assert!(token(&["revoke", "crm"]).status.success());
    assert_eq!(token(&["revoke", "crm"]).status.code(), Some(1));
    assert_eq!(token(&["add", "x", "--role", "king"]).status.code(), Some(2));
}

#[test]
fn ipv6_beside_ipv4() {
    let site = Site::new("");
    let port = UdpSocket::bind("[::1]:0").unwrap().local_addr().unwrap().port();
    let (ipv4, ipv6) = (site.sip(), format!("[::1]:{port}"));
    let text = fs::read_to_string(site.config()).unwrap();
    let text = text.replace(&format!("[\"{ipv4}\"]"), &format!("[\"{ipv4}\", \"{ipv6}\"]"));
    let text =
        text.replace(&format!("address = \"{}\"", site.address), &format!("address = [\"{}\", \"::1\"]", site.address));
    fs::write(site.config(), text).unwrap();
    let mut serving = site.serve();
    let line = serving.wait_for("ready: node");
    assert!(line.contains(&ipv6), "{line}");
    for address in [ipv4, ipv6] {
        assert!(UdpSocket::bind(&address).is_err(), "{address} is open over UDP");
        assert!(std::net::TcpStream::connect(&address).is_ok(), "{address} is open over TCP");
    }
    let ports = site.status()["rtp_port_pairs"].clone();
    assert_eq!(ports["open"].as_u64().unwrap() + ports["held"].as_u64().unwrap(), 20);
}

#[test]
fn a_second_node_in_the_same_folder_is_refused() {
    let site = Site::new("");
    let _serving = site.serve_until_ready();
    let (code, text) = site.fail();
    assert_eq!(code, 75, "{text}");
    assert!(text.contains("another tipring"), "{text}");
}

#[test]
fn every_fault_of_a_configuration_is_named() {
    let site = Site::new("[node]\ndrain = \"soon\"\nshape = 1\n[hep]\naddress = \"x\"");
    let file = site.config().display().to_string();
    let expect =
        [format!("{file}:10: node.drain: "), format!("{file}:11: node.shape: "), format!("{file}:13: hep.address: ")];
    let (code, text) = site.fail();
    assert_eq!(code, 78, "{text}");
    let check = Command::new(TIPRING).arg("check").arg("--config").arg(site.config()).output().unwrap();
    assert_eq!(check.status.code(), Some(78));
    for text in [text, String::from_utf8(check.stderr).unwrap()] {
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(lines.len(), expect.len(), "{text}");
        assert!(lines.iter().zip(&expect).all(|(line, start)| line.starts_with(start)), "{text}");
    }
    site.configure("");
    let check = Command::new(TIPRING).arg("check").arg("--config").arg(site.config()).status().unwrap();
    assert_eq!(check.code(), Some(0));
    site.configure("[[interface]]\nname = \"x\"\nudp = [\"192.0.2.1:5060\"]\naddress = \"192.0.2.1\"");
    let (code, text) = site.fail();
    assert_eq!((code, text.contains("192.0.2.1:5060 is not an address")), (78, true), "{text}");
    fs::remove_file(site.config()).unwrap();
    let (code, text) = site.fail();
    assert_eq!((code, text.contains("cannot be read")), (78, true), "{text}");
}

#[test]
fn wrong_usage_is_2_and_nobody_there_is_1() {
    let site = Site::new("");
    assert_eq!(Command::new(TIPRING).arg("serv").output().unwrap().status.code(), Some(2));
    let output = site.ask(&["status"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8(output.stderr).unwrap().contains("is tipring serving?"));
}

#[test]
fn a_killed_child_is_started_again() {
    let site = Site::new("[engine]\nshards = 3");
    let mut serving = site.serve_until_ready();
    for (role, other) in [("side", "engine"), ("engine", "side")] {
        let kept = site.pid(other);
        for generation in 2..5 {
            send(site.pid(role), Signal::KILL);
            site.wait_for_generation(role, generation);
        }
        serving.wait_for(&format!("{role} ended by signal 9"));
        assert_eq!(site.pid(other), kept, "the {other} has nothing to do with it");
        assert!(UdpSocket::bind(site.sip()).is_err(), "the keeper holds the sockets");
    }
    assert!(site.ask(&["calls"]).status.success());
}

#[test]
fn a_hung_engine_is_killed_and_started_again() {
    let site = Site::new("");
    let mut serving = site.serve_until_ready();
    send(site.pid("engine"), Signal::STOP);
    let line = serving.wait_for("does not beat");
    assert!(line.contains("its thread ran 0 ms and waited "), "{line}");
    site.wait_for_generation("engine", 2);
}

#[test]
fn children_die_with_the_keeper() {
    let site = Site::new("[engine]\nshards = 2");
    let serving = site.serve_until_ready();
    let children = [site.pid("engine"), site.pid("side")];
    serving.signal(Signal::KILL);
    until("the children's end", || !children.iter().any(|&pid| is_alive(pid)));
    drop(serving);
    let again = site.serve_until_ready();
    assert_eq!(site.status()["rtp_port_pairs"]["open"], 10);
    drop(again);
}

#[test]
fn int_stops_at_once_also_while_draining() {
    let site = Site::new("");
    for signals in [&[Signal::INT][..], &[Signal::TERM, Signal::TERM], &[Signal::TERM, Signal::INT]] {
        let mut serving = site.serve_until_ready();
        let children = [site.pid("engine"), site.pid("side")];
        let started = std::time::Instant::now();
        signals.iter().for_each(|&signal| serving.signal(signal));
        assert_eq!(serving.wait().code(), Some(0));
        assert!(started.elapsed() < Duration::from_secs(5));
        until("the children's end", || !children.iter().any(|&pid| is_alive(pid)));
    }
}

#[test]
fn a_child_that_hangs_at_the_end_is_killed() {
    let site = Site::new("");
    let mut serving = site.serve_until_ready();
    send(site.pid("engine"), Signal::STOP);
    send(site.pid("side"), Signal::STOP);
    let started = std::time::Instant::now();
    serving.signal(Signal::INT);
    assert_eq!(serving.wait().code(), Some(0));
    assert!(started.elapsed() < Duration::from_millis(5_500), "{:?}", started.elapsed());
}

#[test]
fn drain_and_undrain() {
    let site = Site::new("");
    let _serving = site.serve_until_ready();
    for (command, draining) in [("drain", true), ("drain", true), ("undrain", false)] {
        assert!(site.ask(&[command]).status.success());
        let status = site.status();
        assert_eq!(status["draining"], draining);
        let state = if draining { "draining" } else { "ready" };
        assert_eq!(site.process("engine")["state"], state);
    }
}

#[test]
fn questions_to_the_engine() {
    let site = Site::new("");
    let _serving = site.serve_until_ready();
    let calls = site.ask(&["calls", "--json"]);
    assert_eq!(
        serde_json::from_slice::<Value>(&calls.stdout).unwrap(),
        serde_json::json!({ "items": [], "next": null })
    );
    let hangup = site.ask(&["hangup", "00000000000000000000000001", "--json"]);
    assert_eq!(hangup.status.code(), Some(1));
    let hangup: Value = serde_json::from_slice(&hangup.stdout).unwrap();
    assert_eq!(hangup["error"], "no such call");
    assert_eq!(site.ask(&["hangup", "seven"]).status.code(), Some(2));
    assert_eq!(site.ask(&["trace", "nobody"]).status.code(), Some(1));
    send(site.pid("side"), Signal::STOP);
    assert!(site.ask(&["calls"]).status.success(), "works without side");
    send(site.pid("side"), Signal::CONT);
}

#[test]
fn the_control_socket_is_for_its_owner() {
    let site = Site::new("");
    let _serving = site.serve_until_ready();
    let socket = site.run().join("control.sock");
    assert_eq!(fs::metadata(&socket).unwrap().permissions().mode() & 0o777, 0o660);
    if !is_root() {
        return;
    }
    // What the file system would refuse, the keeper refuses as well.
    for path in [site.folder.path(), &site.run(), site.run().parent().unwrap(), &socket] {
        fs::set_permissions(path, fs::Permissions::from_mode(0o777)).unwrap();
    }
    let binary = for_anybody(&site);
    let output = Command::new(binary).args(["status", "--run"]).arg(site.run()).uid(NOBODY).output().unwrap();
    assert_eq!(output.status.code(), Some(71), "{output:?}");
    assert!(site.ask(&["status"]).status.success());
}

/// The binary at a place that every user can read.
fn for_anybody(site: &Site) -> PathBuf {
    fs::set_permissions(site.folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let binary = site.folder.path().join("tipring");
    fs::copy(TIPRING, &binary).unwrap();
    binary
}

#[test]
fn serves_as_an_ordinary_user() {
    if !is_root() {
        // Every other test of this file shows it.
        return;
    }
    let site = Site::new("[node]\ndata = \"own/data\"\n[log]\nfile = \"own/log\"");
    let binary = for_anybody(&site);
    let own = site.folder.path().join("own");
    fs::create_dir(&own).unwrap();
    let serve = || {
        let mut command = Command::new(&binary);
        command.arg("serve").arg("--config").arg(site.config()).uid(NOBODY).gid(NOBODY);
        Serving::start(command)
    };
    let mut refused = serve();
    assert_eq!(refused.wait().code(), Some(71));
    assert!(refused.rest().contains("own/data"));
    std::os::unix::fs::chown(&own, Some(NOBODY), Some(NOBODY)).unwrap();
    let mut serving = serve();
    serving.wait_for("ready: node");
    serving.signal(Signal::TERM);
    assert_eq!(serving.wait().code(), Some(0));
    assert!(fs::read_to_string(own.join("log")).unwrap().contains("ready: node"));
}

#[test]
fn a_limit_of_open_files_cuts_the_rtp_ports() {
    let site = Site::new("");
    let text = fs::read_to_string(site.config()).unwrap().replace("20000-20019", "20000-21999");
    fs::write(site.config(), text).unwrap();
    let serve = |limit: u32| {
        let mut command = Command::new("sh");
        command.arg("-c").arg(format!("ulimit -n {limit} && exec \"$0\" serve --config \"$1\""));
        command.arg(TIPRING).arg(site.config());
        Serving::start(command)
    };
    let mut serving = serve(1_000);
    let line = serving.wait_for("limit of open files");
    assert!(line.contains("of 1000 are left out"), "{line}");
    serving.wait_for("ready: node");
    let ports = site.status()["rtp_port_pairs"].clone();
    let (open, cut) = (ports["open"].as_u64().unwrap(), ports["cut"].as_u64().unwrap());
    assert!(open > 300 && open + cut == 1_000, "{ports}");
    drop(serving);
    let mut refused = serve(100);
    assert_eq!(refused.wait().code(), Some(71));
    assert!(refused.rest().contains("LimitNOFILE"));
}

#[test]
fn hup_takes_over_a_good_file_and_keeps_the_old_one_for_a_bad() {
    let site = Site::new("[log]\nfile = \"log\"\nformat = \"json\"");
    let log = site.folder.path().join("log");
    let moved = site.folder.path().join("log.1");
    let mut serving = site.serve_until_ready();
    for line in fs::read_to_string(&log).unwrap().lines() {
        let line: Value = serde_json::from_str(line).unwrap();
        assert!(line["ts"].is_string() && line["event"].is_string() && line["process"].is_string(), "{line}");
    }
    fs::rename(&log, &moved).unwrap();
    serving.signal(Signal::HUP);
    until("the new log", || fs::read_to_string(&log).is_ok_and(|text| text.contains("read again")));

    site.configure("[log]\nfile = \"log\"\nformat = \"xml\"\n[retain]\ncdrs = 5");
    let reload = site.ask(&["reload"]);
    assert_eq!(reload.status.code(), Some(78));
    let text = String::from_utf8(reload.stderr).unwrap();
    assert!(text.contains(":11: log.format: ") && text.contains(":13: retain.cdrs: "), "{text}");
    assert_eq!(site.status()["reload_success"], false);
    assert!(fs::read_to_string(&log).unwrap().contains("log.format"), "the faults are in the log");

    site.configure("[log]\nfile = \"log\"\n[engine]\nshards = 7");
    let reload = site.ask(&["reload"]);
    let text = String::from_utf8(reload.stdout).unwrap();
    assert!(text.contains("need a restart to change: engine.shards"), "{text}");
    assert_eq!(site.status()["reload_success"], true);
    serving.signal(Signal::USR2);
    until("the line", || fs::read_to_string(&log).is_ok_and(|text| text.contains("hot upgrade is not built yet")));
    serving.signal(Signal::TERM);
    assert_eq!(serving.wait().code(), Some(0));
}

/// The demo needs no root: where this test has it, the program gives it up first.
fn as_ordinary_user(folder: &Path) -> Command {
    if !rustix::process::geteuid().is_root() {
        return Command::new(TIPRING);
    }
    // Where the build is, others may have no way to.
    let program = folder.join("tipring");
    fs::copy(TIPRING, &program).unwrap();
    fs::set_permissions(folder, fs::Permissions::from_mode(0o777)).unwrap();
    let mut command = Command::new("setpriv");
    command.args(["--reuid=65534", "--regid=65534", "--clear-groups", "--no-new-privs"]).arg(program);
    command
}

/// Fifty phones on the machine that the other tests use, too: figures are checked elsewhere, here that it does what it says.
#[test]
fn demo_shows_calls_and_ends_by_itself() {
    let site = Site::new("");
    let _busy = UdpSocket::bind(site.sip()).unwrap();
    let started = std::time::Instant::now();
    let mut demo = as_ordinary_user(site.folder.path())
        .args(["demo", "--for", "10s", "--keep", "--listen", &site.address])
        .env("TMPDIR", site.folder.path())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let (mut stdout, mut first) = (String::new(), None);
    for line in BufReader::new(demo.stdout.take().unwrap()).lines().map_while(Result::ok) {
        if first.is_none() && line.contains("registering") {
            first = Some(started.elapsed());
        }
        stdout += &line;
        stdout.push('\n');
    }
    let output = demo.wait_with_output().unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(0), "{stdout}{stderr}");
    assert!(first.is_some_and(|first| first < Duration::from_secs(3)), "the first live line came after {first:?}");
    assert!(started.elapsed() < Duration::from_secs(25), "{:?}", started.elapsed());
    for part in [
        "phones 50/50",
        "set-up delay",
        "secret-2000",
        "dial 1001",
        "/metrics",
        "/#token=",
        // 5060 is taken.
        &format!("{}:5070", site.address),
        &site.folder.path().display().to_string(),
    ] {
        assert!(stdout.contains(part), "{part} is not in\n{stdout}{stderr}");
    }
    let folder = stdout.split_whitespace().find(|word| word.contains("tipring-demo-")).unwrap();
    assert!(fs::read_to_string(Path::new(folder).join("server.log")).unwrap().contains("ready: node"));
}

#[test]
fn a_demo_leaves_nothing_behind_whatever_ends_it() {
    for signal in [Signal::INT, Signal::TERM] {
        let site = Site::new("");
        let mut demo = Command::new(TIPRING)
            .args(["demo", "--listen", &site.address])
            .env("TMPDIR", site.folder.path())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let is_there = || fs::read_dir(site.folder.path()).unwrap().flatten().any(|entry| is_of_demo(&entry));
        let mut lines = BufReader::new(demo.stdout.take().unwrap()).lines().map_while(Result::ok);
        // While it starts, and while its phones call.
        let wanted = if signal == Signal::INT { "holds the configuration" } else { "registering" };
        assert!(lines.any(|line| line.contains(wanted)), "{wanted}");
        assert!(is_there());
        let pid = Pid::from_raw(i32::try_from(demo.id()).unwrap()).unwrap();
        rustix::process::kill_process(pid, signal).unwrap();
        lines.for_each(drop);
        assert!(demo.wait().unwrap().success(), "{signal:?}");
        assert!(!is_there(), "{signal:?}");
    }
}

fn is_of_demo(entry: &fs::DirEntry) -> bool {
    entry.file_name().to_string_lossy().starts_with("tipring-demo-")
}

#[test]
fn a_demo_that_cannot_serve_says_why() {
    let site = Site::new("");
    let output = Command::new(TIPRING)
        .args(["demo", "--for", "5s", "--listen", "203.0.113.7"])
        .env("TMPDIR", site.folder.path())
        .output()
        .unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(75), "{stderr}");
    assert!(stderr.contains("203.0.113.7"), "{stderr}");
    assert!(!fs::read_dir(site.folder.path()).unwrap().flatten().any(|entry| is_of_demo(&entry)));
}

/// A line of /proc/PID/status.
fn status_of(task: &str, name: &str) -> String {
    let status = fs::read_to_string(format!("/proc/{task}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
    line.trim_start_matches(':').trim().to_owned()
}

const SIGHTS_MAY_BE_ABSENT: &str = "has no Landlock";

#[test]
fn engine_and_side_give_up_what_they_do_not_need() {
    let site = Site::new("[engine]\nshards = 2");
    let mut command = site.command();
    command.env("TIPRING_TRIAL", "1");
    let mut serving = Serving::start(command);
    serving.wait_for("ready: node");
    // Another one, so that everything is there which it must not read.
    send(site.pid("engine"), Signal::KILL);
    site.wait_for_generation("engine", 2);
    for role in ["engine", "side"] {
        let pid = site.pid(role);
        let threads = fs::read_dir(format!("/proc/{pid}/task")).unwrap();
        let threads: Vec<_> = threads.map(|thread| thread.unwrap().file_name().into_string().unwrap()).collect();
        assert!(threads.len() > 2, "{role}: {threads:?}");
        for thread in threads {
            let task = format!("{pid}/task/{thread}");
            assert_eq!(status_of(&task, "Seccomp"), "2", "{role}, thread {thread}");
            assert_eq!(status_of(&task, "NoNewPrivs"), "1", "{role}, thread {thread}");
            let kept = u64::from_str_radix(&status_of(&task, "CapEff"), 16).unwrap();
            // Where root runs it: files of others (CAP_DAC_OVERRIDE), the memory of rings (CAP_IPC_LOCK).
            let allowed = if role == "side" { 1 << 1 } else { 1 << 14 };
            let allowed = if is_root() { allowed } else { 0 };
            assert_eq!(kept & !allowed, 0, "{role}, thread {thread}: {kept:#x}");
            assert_eq!(status_of(&task, "CapPrm"), status_of(&task, "CapEff"), "{role}, thread {thread}");
        }
    }
    let keeper = serving.child.id().to_string();
    assert_eq!(status_of(&keeper, "NoNewPrivs"), "1");
    let bounding = u64::from_str_radix(&status_of(&keeper, "CapEff"), 16).unwrap();
    let allowed = 1 << 10 | 1 << 1 | 1 << 14;
    assert_eq!(
        bounding & !allowed,
        0,
        "CAP_NET_BIND_SERVICE, CAP_DAC_OVERRIDE and CAP_IPC_LOCK at most: {bounding:#x}"
    );
    if !cfg!(debug_assertions) {
        return;
    }
    // What was tried, and the error of it: EPERM of the filter, EACCES of Landlock.
    serving.signal(Signal::TERM);
    serving.wait();
    let log = serving.rest();
    let last = |process: &str, what: &str| {
        let line = log.lines().rfind(|line| line.contains(&format!("{process} trial: {what}: ")));
        line.unwrap_or_else(|| panic!("{process} did not try {what}:\n{log}")).to_owned()
    };
    for process in ["engine", "side"] {
        for what in ["process", "ring", "packets", "chroot", "exec"] {
            assert!(last(process, what).ends_with("Some(1)"), "{}", last(process, what));
        }
    }
    if log.contains(SIGHTS_MAY_BE_ABSENT) {
        return;
    }
    for (process, what) in [
        ("engine", "read node.key"),
        ("engine", "read tipring.db"),
        ("engine", "read token"),
        ("engine", "write"),
        ("side", "read env"),
        ("side", "write"),
    ] {
        assert!(last(process, what).ends_with("Some(13)"), "{}", last(process, what));
    }
}

#[test]
fn a_data_folder_that_others_may_write_is_refused() {
    let site = Site::new("");
    let data = site.folder.path().join("tipring-data");
    fs::create_dir(&data).unwrap();
    for mode in [0o777, 0o770, 0o1777] {
        fs::set_permissions(&data, fs::Permissions::from_mode(mode)).unwrap();
        let (code, said) = site.fail();
        assert_eq!(code, 71, "{said}");
        assert!(said.contains("others may write to") && said.contains("remedy: chmod go-w"), "{said}");
    }
    fs::set_permissions(&data, fs::Permissions::from_mode(0o755)).unwrap();
    site.serve_until_ready();
}

#[test]
fn root_becomes_the_user_that_is_named() {
    if !is_root() {
        return;
    }
    let site = Site::new("[node]\nuser = \"nobody\"\ndata = \"own/data\"");
    // A port of root's, which the side process binds.
    let text = fs::read_to_string(site.config()).unwrap().replace(":8080", ":81");
    fs::write(site.config(), text).unwrap();
    let binary = for_anybody(&site);
    let own = site.folder.path().join("own");
    fs::create_dir(&own).unwrap();
    let serve = || {
        let mut command = Command::new(&binary);
        command.arg("serve").arg("--config").arg(site.config()).env_remove("NOTIFY_SOCKET").env_remove("INVOCATION_ID");
        Serving::start(command)
    };
    let mut serving = serve();
    let line = serving.wait_for("keeper user");
    assert!(line.contains("goes on as nobody"), "{line}");
    serving.wait_for("ready: node");
    let run = own.join("data/run");
    let output = Command::new(TIPRING).args(["status", "--json", "--run"]).arg(run).output().unwrap();
    let status: Value = serde_json::from_slice(&output.stdout).unwrap();
    for process in status["processes"].as_array().unwrap() {
        let task = process["pid"].to_string();
        let ids = [NOBODY; 4].map(|id| id.to_string()).join("\t");
        assert_eq!((status_of(&task, "Uid"), status_of(&task, "Gid")), (ids.clone(), ids), "{process}");
        assert_eq!(status_of(&task, "Groups"), "", "{process}");
    }
    serving.signal(Signal::TERM);
    assert_eq!(serving.wait().code(), Some(0));
    // What root made there before is not taken over silently.
    std::os::unix::fs::chown(own.join("data"), Some(0), Some(0)).unwrap();
    let mut refused = serve();
    assert_eq!(refused.wait().code(), Some(71));
    let said = refused.rest();
    assert!(said.contains("does not belong to nobody") && said.contains("remedy: chown -R nobody"), "{said}");
}
