//! The phone emulator against real servers: tipring, Kamailio, SIPp, and servers that do everything wrong.

use std::net::Ipv4Addr;
use std::net::SocketAddr;
use std::net::UdpSocket;
use std::path::Path;
use std::process::Child;
use std::process::Command;
use std::process::Output;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;
use std::time::Instant;

use tipring::process::phlem::figures::Outcome;
use tipring::process::phlem::run::RunOptions;
use tipring::process::phlem::run::Summary;
use tipring::process::phlem::run::run;
use tipring::process::phlem::scenario::Scenario;

use crate::server::Server;
use crate::server::eventually;

/// Forty phones of the server's crowd; `more` are further keys of the population, `calls` those of the calls.
fn scenario(seconds: u32, more: &str, calls: &str) -> String {
    let calls = if calls.is_empty() { String::new() } else { format!("[[calls]]\n{calls}\n") };
    format!(
        "name = \"e2e\"\nduration = \"{seconds}s\"\nramp = \"300ms\"\nwind_down = \"8s\"\n\
         [[population]]\nusers = \"u0-u39\"\npassword = \"p\"\ndomain = \"acme.test\"\nexpires = \"20s\"\n\
         answer = \"100ms-500ms\"\n{more}\n{calls}"
    )
}

fn run_at(server: SocketAddr, text: &str) -> Summary {
    let scenario = Scenario::parse("e2e", text).unwrap_or_else(|fault| panic!("{fault}"));
    let options = RunOptions { server: Some(server.to_string()), ..RunOptions::default() };
    run(scenario, options, |_, _| {}).unwrap_or_else(|error| panic!("{error}"))
}

/// All phones registered, all calls ended as they should, not one frame lost or of another call, nothing went wrong.
fn check_clean(summary: &Summary) {
    let figures = &summary.figures;
    assert_eq!(figures.registered_at_start, figures.phones, "{:?}", figures.errors);
    assert_eq!(figures.calls_good, figures.calls, "{:?} {:?}", figures.outcomes, figures.errors);
    let media = &figures.media;
    let counts = [media.wrong_call, media.damaged, media.silent, media.unheard];
    assert_eq!(counts, [0; 4], "wrong call, damaged, silent, unheard");
    assert_eq!(figures.unregistered_max, 0, "{:?}", figures.errors);
    assert_eq!(media.lost, 0, "lost, at {} holds", figures.holds);
    let known = "no idle phone to call from";
    assert!(figures.errors.keys().all(|cause| cause == known), "{:?}", figures.errors);
    assert_eq!((figures.registered_now, figures.calls_now, media.streams_now), (0, 0, 0));
}

fn tipring() -> Server {
    Server::start(|setup| {
        setup.crowd = 40;
        setup.trusted = "[\"127.0.0.0/8\"]";
    })
}

#[test]
fn everything_a_desk_phone_does_at_tipring() {
    let server = tipring();
    let text = scenario(
        9,
        "busy = 0.05\nreject = 0.05\nearly_media = 0.3\nkeepalive = \"1s\"",
        "rate = 6.0\ntalk = \"1s-3s\"\nhold = 0.3\ndtmf = 0.3\nmissed = 0.1\npatience = \"50ms-90ms\"",
    );
    let summary = run_at(server.sip(), &text);
    check_clean(&summary);
    let figures = &summary.figures;
    assert!(figures.outcome(Outcome::Completed) > 20, "{:?}", figures.outcomes);
    assert!(figures.outcome(Outcome::Cancelled) > 0 && figures.holds > 0, "{:?}", figures.outcomes);
    let media = &figures.media;
    assert!(media.received > 2_000 && media.one_way.count() > 1_000, "{} frames", media.received);
    assert!(media.digits_sent > 0 && media.digits_heard * 10 >= media.digits_sent * 9, "{}", media.digits_heard);
}

#[test]
fn phones_over_tcp_and_digits_by_info() {
    let server = tipring();
    let text = scenario(
        4,
        "transport = \"tcp\"\nkeepalive = \"1s\"",
        "rate = 6.0\ntalk = \"1s-2s\"\ndtmf = 1.0\ndtmf_info = true",
    );
    let summary = run_at(server.sip(), &text);
    check_clean(&summary);
    assert!(summary.figures.digits_sent > 5 && summary.figures.digits_heard == summary.figures.digits_sent);
}

#[test]
fn every_digest() {
    for digest in ["[\"MD5\"]", "[\"SHA-256\"]", "[\"SHA-512-256\", \"MD5\"]"] {
        let server = Server::start(|setup| {
            (setup.crowd, setup.digest, setup.trusted) = (40, digest, "[\"127.0.0.0/8\"]");
        });
        let summary = run_at(server.sip(), &scenario(2, "", "rate = 5.0\ntalk = \"500ms\"\nmedia = false"));
        check_clean(&summary);
        assert!(summary.figures.calls > 2);
    }
}

/// Half of the phones lose their power together, others are rebooted, all are behind a NAT that forgets them.
#[test]
fn power_cuts_reboots_and_rebinds() {
    let server = tipring();
    let phones = "keepalive = \"500ms\"\nnat = { rebind = \"3s\" }";
    let text = scenario(9, phones, "rate = 3.0\ntalk = \"500ms-1s\"\nafter = \"7s\"")
        + "[[event]]\nat = \"1s\"\nwhat = \"power-cut\"\nlasts = \"1s\"\nshare = 0.5\n\
           [[event]]\nat = \"4s\"\nwhat = \"reboot\"\nshare = 0.3\nlasts = \"500ms\"\n";
    let scenario = Scenario::parse("e2e", &text).unwrap();
    let options = RunOptions { server: Some(server.sip().to_string()), ..RunOptions::default() };
    let (mut least, mut before_end) = (u64::MAX, 0);
    let summary = run(scenario, options, |figures, elapsed| {
        let second = elapsed.since_start.as_secs_f64();
        if (2.4..3.2).contains(&second) {
            least = least.min(figures.registered_now);
        }
        if (9.0..9.8).contains(&second) {
            before_end = figures.registered_now;
        }
    })
    .unwrap();
    assert!((5..35).contains(&least), "{least} of 40 were registered while the power was off");
    assert_eq!(before_end, 40, "all came back: {:?}", summary.figures.errors);
    assert_eq!(summary.figures.registered_min(), Some(1.0), "who was off, or only just on, is not missed");
    assert!(summary.figures.calls_good > 0, "{:?}", summary.figures.outcomes);
}

/// Odd phones get what they deserve; the good ones among them notice nothing.
#[test]
fn misbehaving_phones_at_tipring() {
    let server = tipring();
    let quirks = "quirks = [\"header-order\", \"compact-forms\", \"folding\", \"odd-case\", \"odd-spaces\", \"bad-cseq\", \
         \"sdp-order\", \"sdp-sparse\", \"slow-ack\", \"no-ack\", \"double-bye\", \"no-bye\", \"eager-repeat\", \
         \"wrong-password-first\", \"hasty\", \"rings-a-lot\"]";
    let text = format!(
        "name = \"odd\"\nduration = \"8s\"\nramp = \"1s\"\nwind_down = \"6s\"\n\
         [[population]]\nname = \"odd\"\nusers = \"u0-u15\"\npassword = \"p\"\ndomain = \"acme.test\"\n\
         answer = \"100ms-300ms\"\n{quirks}\n\
         [[population]]\nname = \"good\"\nusers = \"u16-u39\"\npassword = \"p\"\ndomain = \"acme.test\"\n\
         answer = \"100ms-300ms\"\n\
         [[calls]]\nfrom = \"odd\"\nto = \"odd\"\nrate = 4.0\ntalk = \"1s-2s\"\nhold = 0.3\nmedia = false\n\
         [[calls]]\nfrom = \"good\"\nto = \"good\"\nrate = 3.0\ntalk = \"1s-2s\"\nhold = 0.3\n"
    );
    let summary = run_at(server.sip(), &text);
    let figures = &summary.figures;
    assert_eq!(figures.registered_at_start, 40, "{:?}", figures.errors);
    assert_eq!((figures.media.lost, figures.media.wrong_call), (0, 0));
    assert!(figures.outcome(Outcome::Completed) > 15, "{:?} {:?}", figures.outcomes, figures.errors);
    assert!(!server.log().contains("a fault of ours"), "{}", server.log());
}

/// A process of another project; ended with the test.
pub struct Peer(Child);

impl Drop for Peer {
    fn drop(&mut self) {
        if let Some(pid) = rustix::process::Pid::from_raw(self.0.id().cast_signed()) {
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        }
        let _ = self.0.wait();
    }
}

fn free_address() -> SocketAddr {
    UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap()
}

/// Kamailio with one of the files in `kamailio`, in which these words are replaced.
pub fn kamailio(folder: &Path, file: &str, words: &[(&str, &str)]) -> (Peer, SocketAddr) {
    let address = free_address();
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/e2e/kamailio").join(file);
    let config = folder.join("kamailio.cfg");
    let mut text = std::fs::read_to_string(source).unwrap().replace("@ADDRESS@", &address.to_string());
    for (word, value) in words {
        text = text.replace(word, value);
    }
    std::fs::write(&config, text).unwrap();
    let log = std::fs::File::create(folder.join("log")).unwrap();
    let child = Command::new("kamailio")
        .args(["-DD", "-E", "-m", "64", "-M", "8", "-Y"])
        .arg(folder)
        .arg("-f")
        .arg(&config)
        .current_dir(folder)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(log)
        .spawn()
        .unwrap();
    let peer = Peer(child);
    let probe = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    probe.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
    let own = probe.local_addr().unwrap();
    let options = format!(
        "OPTIONS sip:nobody@acme.test SIP/2.0\r\nVia: SIP/2.0/UDP {own};branch=z9hG4bKprobe\r\nMax-Forwards: 5\r\n\
         From: <sip:x@acme.test>;tag=1\r\nTo: <sip:x@acme.test>\r\nCall-ID: probe\r\nCSeq: 1 OPTIONS\r\n\r\n"
    );
    let answered = eventually(Duration::from_secs(15), || {
        let _ = probe.send_to(options.as_bytes(), address);
        probe.recv(&mut [0; 2_048]).ok()
    });
    let said = std::fs::read_to_string(folder.join("log")).unwrap_or_default();
    assert!(answered.is_some(), "kamailio does not answer:\n{said}");
    (peer, address)
}

/// A proxy between phones: audio goes from phone to phone, transfers are theirs.
#[test]
fn phones_at_kamailio() {
    let folder = tempfile::tempdir().unwrap();
    let (_peer, address) = kamailio(folder.path(), "kamailio.cfg", &[]);
    // Transfers over datagrams alone: a proxy finds a phone behind TCP only by the connection it registered over.
    let text = |transport: &str| {
        let transfers = if transport == "udp" {
            "missed = 0.1\npatience = \"50ms-90ms\"\nblind_transfer = 0.2\nattended_transfer = 0.2"
        } else {
            ""
        };
        scenario(
            8,
            &format!("transport = \"{transport}\"\nbusy = 0.05\nearly_media = 0.3"),
            &format!("rate = 3.0\ntalk = \"2s-3s\"\nhold = 0.3\ndtmf = 0.3\n{transfers}"),
        )
        .replace("password = \"p\"", "password = \"secret-{user}\"")
    };
    for transport in ["udp", "tcp"] {
        let summary = run_at(address, &text(transport));
        let figures = &summary.figures;
        assert_eq!(figures.registered_at_start, 40, "{transport} {:?}", figures.errors);
        assert_eq!(figures.calls_good, figures.calls, "{transport} {:?} {:?}", figures.outcomes, figures.errors);
        assert!(
            (figures.transfers > 0) == (transport == "udp") && figures.outcome(Outcome::Completed) > 8,
            "{transport} {:?}",
            figures.outcomes
        );
        assert_eq!((figures.media.wrong_call, figures.media.damaged), (0, 0), "{transport}");
    }
}

#[test]
fn calls_to_sipp() {
    let address = free_address();
    let child = Command::new("sipp")
        .args(["-sn", "uas", "-i", "127.0.0.1", "-mi", "127.0.0.1", "-p", &address.port().to_string(), "-nostdin"])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let _peer = Peer(child);
    std::thread::sleep(Duration::from_millis(500));
    let calls =
        format!("to = \"sip:service@{address}\"\nrate = 20.0\ntalk = \"300ms\"\nmedia = false\ncallee_ends = 0.0");
    let summary = run_at(address, &scenario(3, "register = false", &calls));
    let figures = &summary.figures;
    assert!(figures.calls > 20 && figures.calls_good == figures.calls, "{:?} {:?}", figures.outcomes, figures.errors);
    assert_eq!(figures.outcome(Outcome::Completed), figures.calls);
}

/// A server on a thread; `act` gets its socket, a datagram and where it came from.
fn bad_server(act: impl Fn(&UdpSocket, &str, SocketAddr) + Send + 'static) -> (SocketAddr, Arc<AtomicBool>) {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    socket.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
    let address = socket.local_addr().unwrap();
    let stop = Arc::new(AtomicBool::new(false));
    let stopped = Arc::clone(&stop);
    std::thread::spawn(move || {
        let mut bytes = [0; 65_536];
        while !stopped.load(Relaxed) {
            if let Ok((len, from)) = socket.recv_from(&mut bytes) {
                act(&socket, &String::from_utf8_lossy(&bytes[..len]), from);
            }
        }
    });
    (address, stop)
}

/// A 200 to REGISTER, made by hand.
fn ok(request: &str) -> String {
    let field = |name: &str| request.lines().find(|line| line.starts_with(name)).unwrap_or_default().to_owned();
    let lines = ["Via:", "From:", "To:", "Call-ID:", "CSeq:", "Contact:"].map(field).join("\r\n");
    format!("SIP/2.0 200 OK\r\n{lines}\r\nContent-Length: 0\r\n\r\n")
}

type Act = Box<dyn Fn(&UdpSocket, &str, SocketAddr) + Send>;

/// Ten phones at a bad server: how many are registered, and what the run says.
fn at_bad_server(name: &str, act: Act, registered: u64, cause: Option<&str>) -> Summary {
    let (address, stop) = bad_server(act);
    let text = scenario(1, "", "").replace("u0-u39", "u0-u9").replace("wind_down = \"8s\"", "wind_down = \"1s\"");
    let begun = Instant::now();
    let summary = run_at(address, &text);
    stop.store(true, Relaxed);
    let figures = &summary.figures;
    assert_eq!(figures.registered_at_start, registered, "{name}: {:?}", figures.errors);
    let found = cause.is_none_or(|cause| figures.errors.keys().any(|error| error.contains(cause)));
    assert!(found, "{name}: {:?}", figures.errors);
    assert!(begun.elapsed() < Duration::from_secs(12), "{name} took {:?}", begun.elapsed());
    summary
}

fn send(socket: &UdpSocket, bytes: &[u8], to: SocketAddr) {
    let _ = socket.send_to(bytes, to);
}

#[test]
fn servers_that_answer_garbage_twice_late_or_never() {
    at_bad_server("right", Box::new(|socket, text, from| send(socket, ok(text).as_bytes(), from)), 10, None);
    let noise = b"\xFF\x00\x07SIP/2.0\r\n\r\n";
    let garbage: Act = Box::new(move |socket, _, from| send(socket, noise, from));
    let garbage = at_bad_server("garbage", garbage, 0, Some("unreadable message"));
    assert!(garbage.figures.repeats_sent > 0, "garbage is no answer");
    let twice: Act = Box::new(|socket, text, from| {
        send(socket, ok(text).as_bytes(), from);
        send(socket, ok(text).as_bytes(), from);
    });
    let twice = at_bad_server("twice", twice, 10, None);
    assert!(twice.figures.strays >= 10, "{:?}", twice.figures.strays);
    at_bad_server("never", Box::new(|_, _, _| {}), 0, None);
    let late: Act = Box::new(|socket, text, from| {
        let (socket, text) = (socket.try_clone().unwrap(), ok(text));
        std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(700));
            send(&socket, text.as_bytes(), from);
        });
    });
    let late = at_bad_server("late", late, 10, None);
    assert!(late.figures.repeats_sent >= 10 && late.figures.strays >= 10, "the answer to the repetition is nobody's");
    let elsewhere: Act = Box::new(|_, text, from| {
        let other = UdpSocket::bind((Ipv4Addr::new(127, 0, 0, 2), 0)).unwrap();
        send(&other, ok(text).as_bytes(), from);
    });
    at_bad_server("from another address", elsewhere, 10, None);
}

#[test]
fn servers_that_say_too_much_or_no() {
    let huge: Act = Box::new(|socket, text, from| {
        let more = format!("X-Filler: {}\r\n", "x".repeat(1_000)).repeat(60);
        send(socket, ok(text).replacen("Content-Length", &format!("{more}Content-Length"), 1).as_bytes(), from);
    });
    at_bad_server("huge", huge, 10, None);
    let many: Act = Box::new(|socket, text, from| {
        let more = "a: b\r\n".repeat(5_000);
        send(socket, ok(text).replacen("Content-Length", &format!("{more}Content-Length"), 1).as_bytes(), from);
    });
    at_bad_server("too many headers", many, 0, Some("too many header fields"));
    let forbidden: Act = Box::new(|socket, text, from| {
        send(socket, ok(text).replace("200 OK", "403 Forbidden").as_bytes(), from);
    });
    at_bad_server("forbidden", forbidden, 0, Some("REGISTER 403"));
    let endless: Act = Box::new(|socket, text, from| {
        let challenge = "401 No\r\nWWW-Authenticate: Digest realm=\"x\", nonce=\"n\", stale=true";
        send(socket, ok(text).replace("200 OK", challenge).as_bytes(), from);
    });
    let endless = at_bad_server("challenges for ever", endless, 0, Some("REGISTER 401"));
    assert!(endless.figures.messages_sent < 200, "{}", endless.figures.messages_sent);
}

fn command(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_tipring")).arg("phlem").args(arguments).stdin(Stdio::null()).output().unwrap()
}

#[test]
fn wrong_use_is_said_in_one_line() {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let check = |arguments: &[&str], code: i32, parts: &[&str]| {
        let output = command(arguments);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {said}");
        for part in parts {
            assert!(said.contains(part), "{part:?} is not in {said:?}");
        }
        assert_eq!(said.trim().lines().count(), 1, "{said}");
    };
    let good = file("good.toml", &scenario(1, "", ""));
    let bad = file("bad.toml", "[[population]]\nusers = \"1-2\"\nbusyy = 1.0\n");
    check(&["run", "no-such-scenario"], 2, &["no-such-scenario"]);
    check(&["run", &bad], 78, &["bad.toml:3:", "busyy", "unknown field"]);
    check(&["run", &good, "--server", "no.such.host.invalid"], 1, &["no.such.host.invalid"]);
    check(&["run", &good, "--server", "127.0.0.1:99999"], 1, &["99999"]);
    check(&["scenarios", "nothing"], 2, &["nothing"]);
    let listed = command(&["scenarios"]);
    let listed = String::from_utf8_lossy(&listed.stdout).into_owned();
    for name in ["busy-hour", "registration-storm", "flash-crowd", "soak", "misbehaving"] {
        assert!(listed.contains(name), "{listed}");
        let shown = command(&["scenarios", name]);
        assert!(String::from_utf8_lossy(&shown.stdout).contains("[[population]]"));
    }
}

#[test]
fn too_few_files_are_said_before_the_start() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("many.toml");
    std::fs::write(&file, scenario(1, "", "rate = 100.0\ntalk = \"60s\"")).unwrap();
    let tipring = env!("CARGO_BIN_EXE_tipring");
    let script = format!("ulimit -n 200; exec {tipring} phlem run {}", file.display());
    let output = Command::new("sh").args(["-c", &script]).stdin(Stdio::null()).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(71), "{said}");
    assert!(said.contains("200 are allowed") && said.contains("ulimit -n"), "{said}");
}

/// Nobody is there: the run ends in its time, and the exit code is that of an expectation that is not met.
#[test]
fn an_unreachable_server_fails_the_expectation() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("nobody.toml");
    let text =
        scenario(1, "", "").replace("wind_down = \"8s\"", "wind_down = \"1s\"") + "[expect]\nregistered_min = 1.0\n";
    std::fs::write(&file, text).unwrap();
    let output = command(&["run", file.to_str().unwrap(), "--server", &free_address().to_string()]);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
}
