//! rtpengine in user space, driven by its ng protocol (bencoded dictionaries over UDP).

use std::net::SocketAddr;
use std::net::UdpSocket;
use std::process::Child;
use std::process::Command;
use std::process::Stdio;
use std::time::Duration;

use crate::Contender;
use crate::LEGS;
use crate::Options;
use crate::RELAY_CPU;
use crate::generator;
use crate::generator::Load;
use crate::generator::SOCKETS;
use crate::measure;
use crate::measure::Outcome;

const PROGRAM: &str = "/usr/bin/rtpengine";

struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

pub(crate) fn run(contender: Contender, options: &Options, outcomes: &mut Vec<Outcome>) {
    if !std::path::Path::new(PROGRAM).exists() {
        println!("{PROGRAM} is not installed (Debian: rtpengine-daemon)");
        return;
    }
    let control = UdpSocket::bind("127.0.0.1:0").expect("bind").local_addr().expect("address");
    let records = contender == Contender::RtpenginePcap;
    let recording = records.then(|| tempfile::tempdir_in("target").expect("folder"));
    if let Some(folder) = &recording {
        for name in ["pcaps", "metadata", "tmp"] {
            std::fs::create_dir_all(folder.path().join(name)).expect("folder");
        }
    }
    let process = Command::new("taskset")
        .args(["-c", &RELAY_CPU.to_string(), PROGRAM, "--table=-1", "--interface=127.0.0.1", "--foreground"])
        .args(["--log-stderr", "--log-level=1", "--num-threads=1", "--port-min=30000", "--port-max=50000"])
        .args(["--no-log-timestamps", "--timeout=600", "--silent-timeout=600"])
        .arg(format!("--listen-ng={control}"))
        .args(recording.iter().flat_map(|folder| {
            [
                "--recording-method=pcap".to_owned(),
                "--recording-format=eth".to_owned(),
                format!("--recording-dir={}", folder.path().display()),
            ]
        }))
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn();
    let Ok(process) = process.map(Process) else {
        println!("rtpengine did not start");
        return;
    };
    let phones = generator::sockets();
    let client = UdpSocket::bind("127.0.0.1:0").expect("bind");
    client.connect(control).expect("connect");
    client.set_read_timeout(Some(Duration::from_secs(2))).expect("timeout");
    std::thread::sleep(Duration::from_secs(1));
    let mut targets = vec![SocketAddr::from(([127, 0, 0, 1], 9)); LEGS];
    for call in 0..LEGS / 2 {
        let (caller, callee) = (2 * call, 2 * call + 1);
        let party = |leg: usize| phones[leg % SOCKETS].local_addr().expect("address");
        // What is written towards the callee is where the callee sends, and the other way round.
        let Some(callee_target) = ask(&client, "offer", call, party(caller), records) else {
            println!("rtpengine refused an offer");
            return;
        };
        let Some(caller_target) = ask(&client, "answer", call, party(callee), records) else {
            println!("rtpengine refused an answer");
            return;
        };
        targets[caller] = caller_target;
        targets[callee] = callee_target;
    }
    let mut load = Load::new(phones, &targets);
    // Endpoints are learned for three seconds, at higher cost.
    load.run(Some(40_000), Duration::from_secs(4));
    let pid = process.0.id().to_string();
    options.load(contender, &mut load, &|| measure::thread_time(&pid, ""), outcomes);
}

fn ask(client: &UdpSocket, command: &str, call: usize, party: SocketAddr, records: bool) -> Option<SocketAddr> {
    let sdp = format!(
        "v=0\r\no=- 1 1 IN IP4 127.0.0.1\r\ns=-\r\nc=IN IP4 127.0.0.1\r\nt=0 0\r\nm=audio {} RTP/AVP 0\r\na=rtpmap:0 PCMU/8000\r\n",
        party.port()
    );
    let call_id = format!("call{call}");
    let mut entries =
        vec![("call-id", call_id.as_str()), ("command", command), ("from-tag", "a"), ("sdp", sdp.as_str())];
    if records {
        entries.insert(3, ("record-call", "yes"));
    }
    if command == "answer" {
        entries.push(("to-tag", "b"));
    }
    let mut request = format!("{call}{command} d");
    for (key, value) in entries {
        request += &format!("{}:{key}{}:{value}", key.len(), value.len());
    }
    request += "e";
    client.send(request.as_bytes()).ok()?;
    let mut answer = vec![0; 8_192];
    let len = client.recv(&mut answer).ok()?;
    let answer = String::from_utf8_lossy(&answer[..len]).into_owned();
    let port = answer.split("m=audio ").nth(1)?.split(' ').next()?.parse().ok()?;
    Some(SocketAddr::from(([127, 0, 0, 1], port)))
}
