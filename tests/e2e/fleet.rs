//! PHLEM over many machines: three agents in three namespaces, NATS between them; one of them is killed.

use std::io::BufRead;
use std::io::BufReader;
use std::path::Path;
use std::path::PathBuf;
use std::process::Child;
use std::process::Command;
use std::process::Stdio;
use std::time::Duration;

use serde_json::Value;

use crate::namespace::Host;
use crate::namespace::inside;
use crate::server::Server;
use crate::server::eventually;

const TIPRING: &str = env!("CARGO_BIN_EXE_tipring");

/// Killed at the end of its test.
struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// NATS on every address of this namespace, which nobody else has.
fn nats(folder: &Path) -> Process {
    let program = ["/usr/sbin/nats-server", "/usr/bin/nats-server", "/usr/local/bin/nats-server"];
    let program = program.into_iter().find(|path| Path::new(path).exists()).expect("nats-server is installed");
    let log = std::fs::File::create(folder.join("nats.log")).unwrap();
    let child = Command::new(program).args(["-a", "0.0.0.0", "-p", "4222"]).stderr(log).spawn().unwrap();
    let listens = eventually(Duration::from_secs(10), || std::net::TcpStream::connect("127.0.0.1:4222").ok());
    assert!(listens.is_some(), "nats-server does not listen");
    Process(child)
}

fn agent(host: &Host, id: &str, capacity: u32) -> Process {
    let nats = format!("nats://{}:4222", host.gateway);
    let mut command = host.command(TIPRING);
    command.args(["phlem", "agent", "--nats", &nats, "--id", id, "--capacity", &capacity.to_string()]);
    let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    let mut lines = BufReader::new(child.stdout.take().unwrap());
    lines.read_line(&mut line).unwrap();
    assert!(line.contains("waits for runs"), "{line}");
    // Its further lines have to go somewhere.
    std::thread::spawn(move || lines.lines().map_while(Result::ok).for_each(drop));
    Process(child)
}

fn scenario(folder: &Path, duration: &str) -> PathBuf {
    let file = folder.join("fleet.toml");
    let text = format!(
        "name = \"fleet\"\nduration = \"{duration}\"\nramp = \"1s\"\nwind_down = \"5s\"\n\
         [[population]]\nname = \"crowd\"\nusers = \"u10-u49\"\ndomain = \"acme.test\"\npassword = \"p\"\nanswer = \"100ms-500ms\"\n\
         [[calls]]\nfrom = \"crowd\"\nto = \"crowd\"\nrate = 6.0\ntalk = \"1s-2s\"\n\
         [expect]\nregistered_min = 1.0\ncalls_min = 10\nwrong_audio_max = 0\nsilent_legs_max = 0\naudio_share_min = 0.999\n"
    );
    std::fs::write(&file, text).unwrap();
    file
}

/// Exit code, what was printed, and the JSON.
fn run(server: &Server, folder: &Path, duration: &str, during: impl FnOnce()) -> (i32, String, Value) {
    let json = folder.join("fleet.json");
    let mut command = Command::new(TIPRING);
    command.args(["phlem", "run"]).arg(scenario(folder, duration));
    command.args(["--nats", "nats://127.0.0.1:4222", "--agents", "3", "--server", &server.sip().to_string()]);
    command.arg("--json").arg(&json).stdout(Stdio::piped()).stderr(Stdio::piped());
    let child = command.spawn().unwrap();
    during();
    let output = child.wait_with_output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    let json = std::fs::read(&json).map(|bytes| serde_json::from_slice(&bytes).unwrap()).unwrap_or_default();
    (output.status.code().unwrap(), text, json)
}

#[test]
fn three_agents_share_a_run_and_one_that_dies_is_named() {
    if !inside("fleet::three_agents_share_a_run_and_one_that_dies_is_named") {
        return;
    }
    let hosts = [Host::new(1), Host::new(2), Host::new(3)];
    let server = Server::start(|setup| {
        setup.ip = Some(hosts[0].gateway);
        setup.trusted = "[\"10.77.0.0/16\"]";
        setup.crowd = 50;
    });
    let folder = tempfile::tempdir().unwrap();
    let _nats = nats(folder.path());
    let mut agents = [agent(&hosts[0], "one", 2), agent(&hosts[1], "two", 1), agent(&hosts[2], "three", 1)];

    let (code, text, json) = run(&server, folder.path(), "5s", || {});
    assert_eq!(code, 0, "{text}");
    let figures = &json["figures"];
    assert_eq!((figures["phones"].as_u64(), figures["registered_at_start"].as_u64()), (Some(40), Some(40)), "{text}");
    // Each leg hears what another machine's, or its own, sent: one clock is not assumed.
    assert!(figures["media"]["received"].as_u64() > Some(500), "{text}");
    assert_eq!(figures["media"]["wrong_call"].as_u64(), Some(0), "{text}");
    assert_eq!(figures["media"]["one_way_ms"]["count"].as_u64(), Some(0), "{text}");
    assert!(figures["media"]["round_trip_ms"]["count"].as_u64() > Some(20), "{text}");
    // Every leg was held against what its other end sent, and most other ends are another machine's.
    let media = &figures["media"];
    assert_eq!(media["heard_share"]["count"], media["streams"], "{text}");
    assert!(!text.contains("did not reach the leader"), "{text}");
    for share in ["agent one: 0.0 % to 50.0 %", "agent three: 50.0 % to 75.0 %", "agent two: 75.0 % to 100.0 %"] {
        assert!(text.contains(share), "{share} is not in\n{text}");
    }

    // The one that is killed holds the middle of the phones.
    let (code, text, json) = run(&server, folder.path(), "8s", || {
        std::thread::sleep(Duration::from_secs(6));
        agents[2].0.kill().unwrap();
    });
    assert_eq!(code, 1, "{text}");
    assert!(text.contains("agent three died") && text.contains("it had 50.0 % to 75.0 % of the phones"), "{text}");
    assert_eq!(json["figures"]["phones"].as_u64(), Some(40), "{text}");
    let unmet: Vec<_> = json["expectations"].as_array().unwrap().iter().filter(|one| one["met"] == false).collect();
    assert!(unmet.iter().any(|one| one["key"] == "agents"), "{unmet:?}");

    let (code, text, _) = run(&server, folder.path(), "2s", || {});
    assert_eq!(code, 1, "{text}");
    assert!(text.contains("2 of 3 agents answered"), "{text}");
}

#[test]
fn a_fleet_that_is_not_there_is_said() {
    let folder = tempfile::tempdir().unwrap();
    let file = scenario(folder.path(), "2s");
    let check = |arguments: &[&str], code: i32, part: &str| {
        let output = Command::new(TIPRING).args(["phlem", "run"]).arg(&file).args(arguments).output().unwrap();
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(code), "{text}");
        assert!(text.contains(part), "{part} is not in {text}");
    };
    check(&["--nats", "nats://u:secret@127.0.0.1:9"], 1, "NATS at 127.0.0.1:9");
    check(&["--nats", "nats://127.0.0.1:9", "--fleet", "a.b"], 2, "a fleet's name");
    check(&["--agents", "2"], 2, "--nats");
}
