//! One `tipring serve` for one test: its own loopback network, folder, configuration and directory; ended with the test.

use std::fs;
use std::net::IpAddr;
use std::net::Ipv4Addr;
use std::net::SocketAddr;
use std::net::UdpSocket;
use std::path::PathBuf;
use std::process::Child;
use std::process::Command;
use std::process::Stdio;
use std::sync::atomic::AtomicU16;
use std::sync::atomic::Ordering;
use std::time::Duration;
use std::time::Instant;

use rustix::process::Pid;
use rustix::process::Signal;
use rustix::process::kill_process;
use serde_json::Value;

use crate::disk::Disk;
use crate::http;
use crate::phone::Phone;

/// What a test changes of the configuration.
pub struct Setup {
    pub shards: u8,
    pub cpus: &'static str,
    /// A hardware profile's name or file; default: none.
    pub profile: String,
    pub digest: &'static str,
    /// Prefixes; the default limits everybody.
    pub trusted: &'static str,
    pub media_ports: &'static str,
    /// Serve on ::1 beside IPv4.
    pub ipv6: bool,
    /// Phones of acme beyond the named ones: `u0` … with the password `p`.
    pub crowd: usize,
    /// Further tables, as TOML.
    pub more: String,
    /// In place of the named phones and the crowd.
    pub directory: Option<String>,
    /// SIP and media on this address instead of a loopback one.
    pub ip: Option<Ipv4Addr>,
    /// Switches of debug builds.
    pub switches: Vec<(&'static str, &'static str)>,
    /// The data folder is a file system of its own of so many MiB; needs root. 0: a plain folder.
    pub disk_mib: u32,
    /// How many files each process may open; 0: as many as the test.
    pub files: u32,
}

impl Default for Setup {
    fn default() -> Self {
        Self {
            shards: 1,
            cpus: "auto",
            profile: String::new(),
            digest: "[\"SHA-256\", \"MD5\"]",
            trusted: "[]",
            media_ports: "20000-20199",
            ipv6: false,
            crowd: 0,
            more: String::new(),
            directory: None,
            ip: None,
            switches: Vec::new(),
            disk_mib: 0,
            files: 0,
        }
    }
}

pub struct Server {
    child: Option<Child>,
    pub disk: Option<Disk>,
    folder: tempfile::TempDir,
    network: [u8; 3],
    ip: IpAddr,
    port_v6: u16,
    next_host: u8,
    starts: u32,
    files: u32,
    switches: Vec<(&'static str, &'static str)>,
}

/// A /24 of loopback that no other test has.
fn fresh_network() -> [u8; 3] {
    static NEXT: AtomicU16 = AtomicU16::new(1);
    let own = u8::try_from(std::process::id() % 250).unwrap() + 2;
    loop {
        let [high, low] = NEXT.fetch_add(1, Ordering::Relaxed).to_be_bytes();
        let network = [127, own.wrapping_add(high), low];
        if UdpSocket::bind((Ipv4Addr::new(127, network[1], network[2], 1), 5060)).is_ok() {
            return network;
        }
    }
}

impl Server {
    pub fn start(change: impl FnOnce(&mut Setup)) -> Self {
        let mut setup = Setup::default();
        change(&mut setup);
        let folder = tempfile::Builder::new().prefix("tipring-e2e-").tempdir().unwrap();
        let port_v6 = if setup.ipv6 { free_port_v6() } else { 0 };
        let network = fresh_network();
        let ip = setup.ip.unwrap_or_else(|| Ipv4Addr::new(network[0], network[1], network[2], 1));
        let mut server = Self {
            child: None,
            disk: None,
            folder,
            network,
            ip: ip.into(),
            port_v6,
            next_host: 1,
            starts: 0,
            files: setup.files,
            switches: setup.switches.clone(),
        };
        if setup.disk_mib > 0 {
            server.disk = Some(Disk::mount(server.path("disk.image"), server.path("data"), setup.disk_mib));
        }
        fs::write(server.path("tipring.toml"), server.configuration(&setup)).unwrap();
        let phones = setup.directory.unwrap_or_else(|| directory(setup.crowd));
        fs::write(server.path("directory.toml"), phones).unwrap();
        server.run();
        server
    }

    fn configuration(&self, setup: &Setup) -> String {
        let ip = self.ip();
        let v6 = if setup.ipv6 { format!(", \"[::1]:{}\"", self.port_v6) } else { String::new() };
        let media = if setup.ipv6 { format!("[\"{ip}\", \"::1\"]") } else { format!("\"{ip}\"") };
        format!(
            "[node]\nname = \"e2e\"\ndata = \"data\"\ndrain = \"5s\"\n\
             [engine]\nshards = {}\ncpus = \"{}\"\nprofile = \"{}\"\n\
             [sip]\nudp = [\"{ip}:5060\"{v6}]\ntcp = [\"{ip}:5060\"{v6}]\ndigest = {}\ntrusted = {}\n\
             [media]\naddress = {media}\nports = \"{}\"\n\
             [side]\nhttp = \"{}\"\n\
             [directory]\nimport = \"directory.toml\"\n\
             [log]\nlevel = \"debug\"\n{}",
            setup.shards,
            setup.cpus,
            setup.profile,
            setup.digest,
            setup.trusted,
            setup.media_ports,
            self.http(),
            setup.more
        )
    }

    /// Starts the process in the folder as it is and waits until it says that it is ready.
    pub fn run(&mut self) {
        self.starts += 1;
        let log = fs::File::create(self.path(&format!("log.{}", self.starts))).unwrap();
        let binary = env!("CARGO_BIN_EXE_tipring");
        let mut command = Command::new(if self.files == 0 { binary } else { "prlimit" });
        if self.files > 0 {
            command.arg(format!("--nofile={0}:{0}", self.files)).arg(binary);
        }
        let child = command
            .args(["serve", "--config"])
            .arg(self.path("tipring.toml"))
            .envs(self.switches.iter().copied())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        self.child = Some(child);
        let said = eventually(Duration::from_secs(20), || {
            let ended = self.child.as_mut().unwrap().try_wait().unwrap();
            assert!(ended.is_none(), "serve ended with {ended:?}:\n{}", self.log());
            self.log().contains("ready").then_some(())
        });
        assert!(said.is_some(), "serve was not ready in time:\n{}", self.log());
        // The directory comes from the side process, after the engine serves.
        let known = eventually(Duration::from_secs(10), || (self.get("/readyz").ok()?.status == 200).then_some(()));
        assert!(known.is_some(), "serve takes no calls:\n{}", self.log());
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub fn log(&self) -> String {
        fs::read_to_string(self.path(&format!("log.{}", self.starts))).unwrap_or_default()
    }

    pub fn ip(&self) -> IpAddr {
        self.ip
    }

    pub fn http(&self) -> SocketAddr {
        let [a, b, c] = self.network;
        (Ipv4Addr::new(a, b, c, 1), 8080).into()
    }

    pub fn sip(&self) -> SocketAddr {
        SocketAddr::new(self.ip(), 5060)
    }

    pub fn sip_v6(&self) -> SocketAddr {
        SocketAddr::new(IpAddr::V6(std::net::Ipv6Addr::LOCALHOST), self.port_v6)
    }

    /// An address of this test's network that nobody else has.
    pub fn fresh_ip(&mut self) -> IpAddr {
        self.next_host += 1;
        let [a, b, c] = self.network;
        Ipv4Addr::new(a, b, c, self.next_host).into()
    }

    /// A phone of its own address, over UDP, not registered.
    pub fn phone(&mut self, user: &str) -> Phone {
        let ip = self.fresh_ip();
        Phone::udp(user, SocketAddr::new(ip, 5060), self.sip())
    }

    /// The same, registered.
    pub fn registered(&mut self, user: &str) -> Phone {
        let mut phone = self.phone(user);
        let answer = phone.register(600);
        assert_eq!(answer.status(), 200, "{user} registers: {answer:#?}\n{}", self.log());
        phone
    }

    pub fn registered_tcp(&mut self, user: &str) -> Phone {
        let ip = self.fresh_ip();
        let mut phone = Phone::tcp(user, SocketAddr::new(ip, 0), self.sip());
        let answer = phone.register(600);
        assert_eq!(answer.status(), 200, "{user} registers: {answer:#?}\n{}", self.log());
        phone
    }

    pub fn token(&self) -> String {
        fs::read_to_string(self.path("data/token")).unwrap_or_default().trim().to_owned()
    }

    pub fn get(&self, path: &str) -> std::io::Result<http::Response> {
        http::request(self.http(), "GET", path, Some(&self.token()))
    }

    pub fn delete(&self, path: &str) -> std::io::Result<http::Response> {
        http::request(self.http(), "DELETE", path, Some(&self.token()))
    }

    pub fn json(&self, path: &str) -> Value {
        let response = self.get(path).unwrap_or_else(|error| panic!("{path}: {error}\n{}", self.log()));
        assert_eq!(response.status, 200, "{path}: {}", response.body);
        serde_json::from_str(&response.body).unwrap_or_else(|error| panic!("{path}: {error}: {}", response.body))
    }

    /// The call record of the caller's Call-ID; the contract promises it within 2 s of the end.
    pub fn cdr(&self, sip_call_id: &str) -> Value {
        let found = eventually(Duration::from_secs(4), || {
            let items = self.cdrs(sip_call_id);
            assert!(items.len() < 2, "more than one record: {items:#?}");
            items.into_iter().next()
        });
        found.unwrap_or_else(|| panic!("no record of {sip_call_id}\n{}", self.log()))
    }

    /// The id of the only call that is up; the API shows it a moment after it began.
    pub fn live_call(&self) -> String {
        let found = eventually(Duration::from_secs(2), || {
            let items = self.json("/v1/calls")["items"].clone();
            assert!(items.as_array().is_some_and(|items| items.len() < 2), "{items:#?}");
            items[0]["call"].as_str().map(str::to_owned)
        });
        found.unwrap_or_else(|| panic!("no call is up\n{}", self.log()))
    }

    /// The bindings, once the API shows this many of them.
    pub fn registrations(&self, count: usize) -> Vec<Value> {
        let found = eventually(Duration::from_secs(2), || {
            let items = self.json("/v1/registrations")["items"].as_array()?.clone();
            (items.len() == count).then_some(items)
        });
        found.unwrap_or_else(|| panic!("not {count} bindings: {:#?}", self.json("/v1/registrations")))
    }

    pub fn cdrs(&self, sip_call_id: &str) -> Vec<Value> {
        let page = self.json(&format!("/v1/cdrs?sip_call_id={sip_call_id}"));
        page["items"].as_array().expect("a list").clone()
    }

    /// The sum of all series of a counter or gauge whose labels contain `label`; `None` if there is none.
    pub fn metric(&self, name: &str, label: &str) -> Option<f64> {
        let text = self.get("/metrics").ok()?.body;
        let values = text.lines().filter_map(|line| {
            let (series, value) = line.rsplit_once(' ')?;
            let own = series.split('{').next()? == name && series.contains(label);
            own.then(|| value.parse::<f64>().ok())?
        });
        values.fold(None, |sum, value| Some(sum.unwrap_or(0.0) + value))
    }

    pub fn keeper(&self) -> i32 {
        i32::try_from(self.child.as_ref().expect("running").id()).unwrap()
    }

    /// The process of this role, by the command line the contract promises.
    pub fn pid_of(&self, role: &str) -> Option<i32> {
        children(self.keeper()).into_iter().find(|pid| {
            let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            String::from_utf8_lossy(&line).replace('\0', " ").contains(&format!("tipring {role}"))
        })
    }

    pub fn signal(&self, pid: i32, signal: Signal) {
        kill_process(Pid::from_raw(pid).expect("a pid"), signal).expect("our own process");
    }

    /// Asks for the end and waits for it; the exit code.
    pub fn stop(&mut self, signal: Signal) -> Option<i32> {
        let pid = self.keeper();
        self.signal(pid, signal);
        self.wait()
    }

    /// Waits for the end; the exit code.
    pub fn wait(&mut self) -> Option<i32> {
        let mut child = self.child.take().expect("running");
        let code = eventually(Duration::from_secs(10), || child.try_wait().unwrap());
        if code.is_none() {
            let _ = child.kill();
            let _ = child.wait();
            panic!("serve did not stop:\n{}", self.log());
        }
        code.and_then(|status| status.code())
    }

    /// The same of a node whose configuration file says otherwise by now: by its folder `run`.
    pub fn command_at(&self, run: &str, arguments: &[&str]) -> (i32, String) {
        let output = Command::new(env!("CARGO_BIN_EXE_tipring"))
            .args(arguments)
            .arg("--run")
            .arg(self.path(run))
            .output()
            .unwrap();
        let text = [output.stdout, output.stderr].concat();
        (output.status.code().unwrap_or(-1), String::from_utf8_lossy(&text).into_owned())
    }

    /// Runs another command of the binary against this server; (exit code, standard output).
    pub fn command(&self, arguments: &[&str]) -> (i32, String) {
        let output = Command::new(env!("CARGO_BIN_EXE_tipring"))
            .args(arguments)
            .arg("--config")
            .arg(self.path("tipring.toml"))
            .output()
            .unwrap();
        let text = [output.stdout, output.stderr].concat();
        (output.status.code().unwrap_or(-1), String::from_utf8_lossy(&text).into_owned())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            if std::thread::panicking() {
                let log = self.log();
                let tail = log.lines().rev().take(80).collect::<Vec<_>>();
                eprintln!("--- the server's log, newest first ---\n{}", tail.join("\n"));
            }
            // Its children end with it.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

fn free_port_v6() -> u16 {
    UdpSocket::bind("[::1]:0").and_then(|socket| socket.local_addr()).map_or(5060, |address| address.port())
}

fn children(pid: i32) -> Vec<i32> {
    let Ok(threads) = fs::read_dir(format!("/proc/{pid}/task")) else { return Vec::new() };
    let lists = threads.filter_map(|thread| fs::read_to_string(thread.ok()?.path().join("children")).ok());
    lists.flat_map(|list| list.split_whitespace().filter_map(|pid| pid.parse().ok()).collect::<Vec<_>>()).collect()
}

/// Asks until there is an answer or the time is up.
pub fn eventually<T>(limit: Duration, mut ask: impl FnMut() -> Option<T>) -> Option<T> {
    let end = Instant::now() + limit;
    loop {
        if let Some(answer) = ask() {
            return Some(answer);
        }
        if Instant::now() > end {
            return None;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Two tenants; every named phone has the password `secret-USER`. 1010 is one extension of two phones.
fn directory(crowd: usize) -> String {
    let mut text = String::from(
        "[[tenant]]\nname = \"acme\"\ndomain = \"acme.test\"\naliases = [\"acme-alias.test\"]\n\
         [[tenant]]\nname = \"globex\"\ndomain = \"globex.test\"\n",
    );
    let mut add = |tenant: &str, user: &str, extension: &str, password: &str| {
        text.push_str(&format!("[[phone]]\ntenant = \"{tenant}\"\nuser = \"{user}\"\npassword = \"{password}\"\n"));
        if !extension.is_empty() {
            text.push_str(&format!("extension = \"{extension}\"\n"));
        }
    };
    for user in ["1001", "1002", "1003", "1004", "1005", "1006"] {
        add("acme", user, "", &format!("secret-{user}"));
    }
    add("acme", "1010a", "1010", "secret-1010a");
    add("acme", "1010b", "1010", "secret-1010b");
    add("globex", "2001", "", "secret-2001");
    add("globex", "2002", "", "secret-2002");
    for index in 0..crowd {
        add("acme", &format!("u{index}"), "", "p");
    }
    text
}
