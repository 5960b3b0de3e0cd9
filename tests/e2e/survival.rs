//! What must not be lost or disturbed: a side process that dies, a restart, floods, an idle night.

use std::collections::BTreeSet;
use std::fs;
use std::net::TcpStream;
use std::net::UdpSocket;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering;
use std::time::Duration;
use std::time::Instant;

use rustix::process::Signal;

use crate::calls::Call;
use crate::phone::PATIENCE;
use crate::phone::Phone;
use crate::rtp::Stream;
use crate::server::Server;
use crate::server::eventually;

#[test]
fn the_side_process_dies_during_a_call() {
    let mut server = Server::start(|_| {});
    let (mut left, mut right) = (server.registered("1001"), server.registered("1002"));
    let mut call = Call::set_up(&mut left, &mut right, "1002", 1);
    let side = server.pid_of("side").expect("a side process");
    server.signal(side, Signal::KILL);
    call.check_media();
    call.end_by_caller(&mut left, &mut right);
    // It hangs, and dies hanging: what happens meanwhile is kept.
    let next = eventually(PATIENCE, || server.pid_of("side").filter(|pid| *pid != side)).expect("a new side process");
    server.signal(next, Signal::STOP);
    let mut second = Call::set_up(&mut left, &mut right, "1002", 2);
    second.check_media();
    second.end_by_caller(&mut left, &mut right);
    assert_eq!(left.register(600).status(), 200, "registered phones need no side process");
    server.signal(next, Signal::KILL);
    eventually(PATIENCE, || server.get("/readyz").ok()).expect("the side process is back");
    for call_id in [&call.caller.call_id, &second.caller.call_id] {
        assert_eq!(server.cdr(call_id)["cause"]["sip"], 200);
    }
    std::thread::sleep(Duration::from_millis(500));
    for call_id in [&call.caller.call_id, &second.caller.call_id] {
        assert_eq!(server.cdrs(call_id).len(), 1, "each once");
    }
    assert_eq!(server.metric("tipring_calls", ""), Some(0.0));
}

/// As `ps -o ni` has it, of every thread.
fn niceness(pid: i32) -> Vec<i32> {
    let threads = fs::read_dir(format!("/proc/{pid}/task")).unwrap().flatten();
    let stats = threads.filter_map(|thread| fs::read_to_string(thread.path().join("stat")).ok());
    stats.filter_map(|stat| stat.rsplit(')').next()?.split_whitespace().nth(16)?.parse().ok()).collect()
}

#[test]
fn calls_come_before_what_side_does() {
    let server = Server::start(|_| {});
    let of = |role: &str| niceness(server.pid_of(role).unwrap());
    let own = niceness(std::process::id() as i32)[0];
    assert!(of("engine").iter().all(|nice| *nice == own), "{:?}", of("engine"));
    assert!(of("side").iter().all(|nice| *nice == 10.max(own)), "{:?}", of("side"));
}

#[test]
fn records_come_once_each_after_both_processes_died() {
    let mut server = Server::start(|_| {});
    let (mut left, mut right) = (server.registered("1001"), server.registered("1002"));
    let (side, engine) = (server.pid_of("side").expect("a side process"), server.pid_of("engine").expect("an engine"));
    // Nobody reads what happens: it is on the tape, and of the last call some of it in the ring alone.
    server.signal(side, Signal::STOP);
    let mut ended = Vec::new();
    for number in 0..3 {
        let mut call = Call::set_up(&mut left, &mut right, "1002", number);
        call.end_by_caller(&mut left, &mut right);
        ended.push(call.caller.call_id);
    }
    let mut open = Call::set_up(&mut left, &mut right, "1002", 4);
    open.check_media();
    server.signal(engine, Signal::KILL);
    server.signal(side, Signal::KILL);
    eventually(PATIENCE, || server.get("/readyz").ok()).expect("the side process is back");
    for call in &ended {
        assert_eq!(server.cdr(call)["cause"]["sip"], 200);
    }
    // The call that was up died with its engine, and that is told once nothing of it can come any more.
    assert_eq!(server.cdr(&open.caller.call_id)["cause"]["text"], "the engine died");
    ended.push(open.caller.call_id);
    assert!(ended.iter().all(|call| server.cdrs(call).len() == 1));
    assert!(!server.path("data/spool").exists());
}

#[test]
fn ten_thousand_bindings_survive_a_restart() {
    const PHONES: usize = 10_000;
    const BEHIND_ONE_ADDRESS: usize = 500;
    let mut server = Server::start(|setup| {
        setup.crowd = PHONES;
        setup.shards = 2;
    });
    let mut groups: Vec<Phone> = Vec::new();
    for index in 0..PHONES {
        if index % BEHIND_ONE_ADDRESS == 0 {
            groups.push(server.phone("u0"));
        }
        let group = groups.last_mut().unwrap();
        group.user = format!("u{index}");
        let answer = group.register(3600);
        assert_eq!(answer.status(), 200, "u{index}: {answer:#?}");
    }
    let mut caller = server.registered("1001");
    for signal in [Signal::TERM, Signal::KILL] {
        server.stop(signal);
        server.run();
        for index in (7..PHONES).step_by(PHONES / 20) {
            let user = format!("u{index}");
            let callee = &mut groups[index / BEHIND_ONE_ADDRESS];
            callee.user.clone_from(&user);
            let mut call = Call::set_up(&mut caller, callee, &user, 1);
            assert!(call.offer.request_uri().contains(&user));
            call.end_by_caller(&mut caller, callee);
        }
    }
}

#[test]
fn good_calls_go_on_in_a_flood_of_garbage() {
    let mut server = Server::start(|setup| setup.shards = 2);
    let (mut left, mut right) = (server.registered("1001"), server.registered("1002"));
    let (sip, from) = (server.sip(), [server.fresh_ip(), server.fresh_ip()]);
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| flood(sip, from, &over));
        for number in 0..15 {
            let mut call = Call::set_up(&mut left, &mut right, "1002", number);
            if number % 5 == 0 {
                call.check_media();
            }
            call.end_by_caller(&mut left, &mut right);
        }
        over.store(true, Ordering::Relaxed);
    });
    let recorded = eventually(PATIENCE, || (server.json("/v1/cdrs")["items"].as_array()?.len() == 15).then_some(()));
    assert!(recorded.is_some(), "{:#?}", server.json("/v1/cdrs"));
}

/// About 10,000 datagrams a second of every kind of rubbish, and connections that say nothing sensible.
fn flood(server: std::net::SocketAddr, from: [std::net::IpAddr; 2], over: &AtomicBool) {
    let sockets = from.map(|ip| UdpSocket::bind((ip, 0)).unwrap());
    let invite = "INVITE sip:1002@acme.test SIP/2.0\r\nVia: SIP/2.0/UDP 127.0.0.1;branch=z9hG4bK#\r\nMax-Forwards: 70\r\n\
        From: <sip:1001@acme.test>;tag=#\r\nTo: <sip:1002@acme.test>\r\nCall-ID: #\r\nCSeq: 1 INVITE\r\n\
        Contact: <sip:x@127.0.0.1>\r\nContent-Length: 0\r\n\r\n";
    let end = Instant::now() + Duration::from_secs(30);
    let mut round = 0_u64;
    while !over.load(Ordering::Relaxed) && Instant::now() < end {
        for _ in 0..10 {
            round += 1;
            let text = invite.replace('#', &round.to_string());
            let noise: Vec<u8> = (0..round % 700).map(|n| (n.wrapping_mul(round) >> 3) as u8).collect();
            let cut = &text.as_bytes()[..text.len() * (round as usize % 11) / 11];
            let replaced = text.replace("1 INVITE", "99999999999 INVITE").replace("Call-ID", "Max-Forwards");
            let kinds: [&[u8]; 6] = [&noise, text.as_bytes(), cut, replaced.as_bytes(), b"", b"SIP/2.0 200 OK\r\n\r\n"];
            for (socket, kind) in sockets.iter().cycle().zip(kinds) {
                let _ = socket.send_to(kind, server);
            }
        }
        if round.is_multiple_of(100)
            && let Ok(mut stream) = TcpStream::connect(server)
        {
            let _ = std::io::Write::write_all(&mut stream, &[round as u8; 3000]);
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn an_idle_node_sleeps() {
    const SHARDS: usize = 2;
    let mut server = Server::start(|setup| {
        setup.shards = u8::try_from(SHARDS).unwrap();
        setup.crowd = 200;
    });
    let mut phone = server.phone("u0");
    for index in 0..200 {
        phone.user = format!("u{index}");
        assert_eq!(phone.register(3600).status(), 200);
    }
    std::thread::sleep(Duration::from_secs(2));
    let engine = server.pid_of("engine").expect("an engine");
    let seconds = 6;
    let (wakes, ticks) = (wake_ups(engine), cpu_ticks(engine));
    std::thread::sleep(Duration::from_secs(seconds));
    let per_second = (wake_ups(engine) - wakes) / seconds;
    let busy = (cpu_ticks(engine) - ticks) as f64 / (seconds * 100) as f64;
    assert!(per_second <= 20 * SHARDS as u64 + 10, "{per_second} wake-ups a second");
    assert!(busy <= 0.02, "{:.1} % of a core", busy * 100.0);
}

/// Voluntary context switches of all threads of a process.
fn wake_ups(pid: i32) -> u64 {
    let threads = fs::read_dir(format!("/proc/{pid}/task")).unwrap();
    threads
        .filter_map(|thread| fs::read_to_string(thread.ok()?.path().join("status")).ok())
        .filter_map(|status| {
            let line = status.lines().find(|line| line.starts_with("voluntary_ctxt_switches"))?.to_owned();
            line.split_whitespace().nth(1)?.parse::<u64>().ok()
        })
        .sum()
}

/// User and system time in hundredths of a second.
fn cpu_ticks(pid: i32) -> u64 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
    fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
}

#[test]
fn a_phone_that_never_answers_a_bye_keeps_no_call_up() {
    let mut server = Server::start(|_| {});
    let (mut left, mut right) = (server.registered("1001"), server.registered("1002"));
    let mut call = Call::set_up(&mut left, &mut right, "1002", 1);
    left.send_in(&mut call.caller, "BYE", "", "");
    left.await_status(&mut call.caller, 200);
    assert_eq!(server.cdr(&call.caller.call_id)["cause"]["by"], "caller");
    drop(right);
    let mut next = left.invite("1003", "", &Stream::open(left.local.ip(), 1).sdp("sendrecv"));
    left.await_status(&mut next, 480);
}

#[test]
fn ids_are_unique_over_a_restart() {
    let mut server = Server::start(|_| {});
    let (mut left, mut right) = (server.registered("1001"), server.registered("1002"));
    let mut seen = BTreeSet::new();
    for _ in 0..2 {
        for number in 0..3 {
            let mut call = Call::set_up(&mut left, &mut right, "1002", number);
            call.end_by_caller(&mut left, &mut right);
            let record = server.cdr(&call.caller.call_id);
            assert!(seen.insert(record["call"].as_str().unwrap().to_owned()));
        }
        server.stop(Signal::TERM);
        server.run();
    }
    let items = server.json("/v1/cdrs")["items"].as_array().unwrap().clone();
    assert_eq!(items.len(), 6);
}

#[cfg(debug_assertions)]
#[test]
fn a_panic_ends_its_call_and_no_other() {
    let mut server = Server::start(|setup| setup.switches = vec![("TIPRING_FAULT", "hangup")]);
    let (mut left, mut right) = (server.registered("1001"), server.registered("1002"));
    let mut broken = Call::set_up(&mut left, &mut right, "1002", 1);
    let id = server.live_call();
    let (mut third, mut fourth) = (server.registered("1003"), server.registered("1004"));
    let mut other = Call::set_up(&mut third, &mut fourth, "1004", 2);
    other.check_media();
    let engine = server.pid_of("engine");
    let (code, text) = server.command(&["hangup", &id]);
    assert_eq!(code, 0, "{text}");
    let (left_bye, right_bye) = (left.incoming("BYE"), right.incoming("BYE"));
    left.reply(&left_bye, 200, "", "");
    right.reply(&right_bye, 200, "", "");
    other.check_media();
    let record = server.cdr(&broken.caller.call_id);
    assert_eq!((record["cause"]["sip"].as_u64(), record["cause"]["by"].as_str()), (Some(500), Some("system")));
    let counted = eventually(PATIENCE, || (server.metric("tipring_call_faults_total", "")? == 1.0).then_some(()));
    assert!(counted.is_some(), "{:?}", server.metric("tipring_call_faults_total", ""));
    let said = eventually(PATIENCE, || {
        server.log().lines().any(|line| line.contains(&id) && line.contains("fault")).then_some(())
    });
    assert!(said.is_some(), "no line about {id} in the log");
    assert_eq!(server.pid_of("engine"), engine, "the engine lives on");
    // Its phones are as free as before.
    broken = Call::set_up(&mut left, &mut right, "1002", 3);
    broken.check_media();
    broken.end_by_caller(&mut left, &mut right);
    other.end_by_caller(&mut third, &mut fourth);
}

#[test]
fn a_restart_without_the_database_loses_no_phone() {
    let mut server = Server::start(|_| {});
    let (mut left, mut right) = (server.registered("1001"), server.registered("1002"));
    let mut before = Call::set_up(&mut left, &mut right, "1002", 1);
    before.end_by_caller(&mut left, &mut right);
    server.stop(Signal::TERM);
    for name in ["tipring.db", "tipring.db-wal", "tipring.db-shm"] {
        let removed = fs::remove_file(server.path("data").join(name));
        assert!(removed.is_ok() || name != "tipring.db", "{name}: {removed:?}");
    }
    server.run();
    let mut after = Call::set_up(&mut left, &mut right, "1002", 2);
    after.check_media();
    after.end_by_caller(&mut left, &mut right);
    assert_eq!(server.cdr(&after.caller.call_id)["cause"]["sip"], 200);
    assert_eq!(left.register(600).status(), 200, "the directory was read again");
    server.registrations(2);
}
