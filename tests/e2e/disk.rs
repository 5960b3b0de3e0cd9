//! A data folder whose disk is full, damaged or gone wrong: the node goes on, says so, and nothing is missing afterwards.

use std::fs;
use std::fs::File;
use std::io::Write;
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::Relaxed;
use std::thread::JoinHandle;
use std::time::Duration;

use rustix::process::Signal;

use crate::calls::Call;
use crate::phone::PATIENCE;
use crate::phone::Phone;
use crate::server::Server;
use crate::server::eventually;

/// The disk is tried again after 8 s at most, the database by side after 30 s.
const MENDED_MAX: Duration = Duration::from_secs(60);

/// A small ext4 in a file, mounted for one test.
pub struct Disk {
    place: PathBuf,
    filling: Option<(Arc<AtomicBool>, JoinHandle<()>)>,
}

impl Disk {
    pub fn mount(image: PathBuf, place: PathBuf, mib: u32) -> Self {
        File::create(&image).unwrap().set_len(u64::from(mib) << 20).unwrap();
        fs::create_dir_all(&place).unwrap();
        must(Command::new("mkfs.ext4").args(["-q", "-m", "0"]).arg(&image));
        must(Command::new("mount").args(["-o", "loop"]).arg(&image).arg(&place));
        Self { place, filling: None }
    }

    /// Not a byte is left, and what somebody gives back is taken at once.
    pub fn fill(&mut self) {
        let path = self.filler();
        let mut filler = File::options().create(true).append(true).open(path).unwrap();
        let mut take = move || {
            for bytes in [1 << 20, 4_096, 512, 1] {
                while filler.write_all(&vec![7; bytes]).is_ok() {}
                let _ = filler.sync_all();
            }
        };
        take();
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let filling = std::thread::spawn(move || {
            while !stopped.load(Relaxed) {
                take();
                std::thread::sleep(Duration::from_millis(5));
            }
        });
        self.filling = Some((stop, filling));
    }

    pub fn free(&mut self) {
        self.stop_filling();
        fs::remove_file(self.filler()).unwrap();
    }

    fn filler(&self) -> PathBuf {
        self.place.join("filler")
    }

    fn stop_filling(&mut self) {
        if let Some((stop, filling)) = self.filling.take() {
            stop.store(true, Relaxed);
            filling.join().unwrap();
        }
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        self.stop_filling();
        // Lazily: what still has a file open there is being killed.
        must(Command::new("umount").arg("-l").arg(&self.place));
    }
}

fn must(command: &mut Command) {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}

/// Mounting needs root; where it is there these tests are never left out.
fn may_mount(test: &str) -> bool {
    let is_root = rustix::process::geteuid().is_root();
    if !is_root {
        eprintln!("{test}: left out, it needs root");
    }
    is_root
}

/// As many phones of the crowd, registered behind one address.
fn register_crowd(server: &mut Server, users: std::ops::Range<usize>) -> Phone {
    let mut group = server.phone("u0");
    for index in users {
        group.user = format!("u{index}");
        let answer = group.register(3600);
        assert_eq!(answer.status(), 200, "u{index}: {answer:#?}\n{}", server.log());
    }
    group
}

fn count(server: &Server, event: &str) -> usize {
    server.log().lines().filter(|line| line.contains(event)).count()
}

fn calls(server: &Server, left: &mut Phone, right: &mut Phone, to: &str, number: u32) -> String {
    let mut call = Call::set_up(left, right, to, number);
    call.check_media();
    call.end_by_caller(left, right);
    assert!(server.log().contains("ready"));
    call.caller.call_id.clone()
}

fn gauge_is(server: &Server, name: &str, wanted: f64) {
    let seen = eventually(MENDED_MAX, || (server.metric(name, "")? == wanted).then_some(()));
    assert!(seen.is_some(), "{name} is {:?}, not {wanted}\n{}", server.metric(name, ""), server.log());
}

#[test]
fn a_full_disk_ends_nothing_and_loses_nothing() {
    if !may_mount("a_full_disk_ends_nothing_and_loses_nothing") {
        return;
    }
    let mut server = Server::start(|setup| {
        setup.disk_mib = 96;
        setup.crowd = 200;
        setup.more = "[tape]\nsegment_mib = 4\n".to_owned();
    });
    let (mut left, mut right) = (server.registered("1001"), server.registered("1002"));
    let before = calls(&server, &mut left, &mut right, "1002", 1);
    server.cdr(&before);
    let engine = server.pid_of("engine").expect("an engine");
    server.disk.as_mut().unwrap().fill();
    let mut crowd = register_crowd(&mut server, 0..200);
    gauge_is(&server, "tipring_data_failing", 1.0);
    let unsaved = || (server.metric("tipring_bindings_unsaved", "")? > 100.0).then_some(());
    assert!(eventually(MENDED_MAX, unsaved).is_some(), "{:?}", server.metric("tipring_bindings_unsaved", ""));
    assert_eq!(count(&server, "data.failing"), 1, "said once:\n{}", server.log());
    let mut ended = vec![calls(&server, &mut left, &mut right, "1002", 2)];
    crowd.user = "u150".to_owned();
    ended.push(calls(&server, &mut left, &mut crowd, "u150", 3));
    assert_eq!(server.pid_of("engine"), Some(engine), "the engine of before:\n{}", server.log());

    server.disk.as_mut().unwrap().free();
    gauge_is(&server, "tipring_data_failing", 0.0);
    gauge_is(&server, "tipring_bindings_unsaved", 0.0);
    assert_eq!(count(&server, "data.written"), 1, "said once:\n{}", server.log());
    for call in &ended {
        let found = eventually(MENDED_MAX, || (!server.cdrs(call).is_empty()).then_some(()));
        assert!(found.is_some(), "no record of {call}\n{}", server.log());
    }
    assert_eq!(server.metric("tipring_side_events_missing", ""), Some(0.0), "{}", server.log());
    assert_eq!(server.metric("tipring_side_tape_gaps_total", "").unwrap_or(0.0), 0.0, "{}", server.log());

    // What was in memory alone is on the disk now.
    server.signal(engine, Signal::KILL);
    eventually(PATIENCE, || server.pid_of("engine").filter(|pid| *pid != engine)).expect("another engine");
    eventually(PATIENCE, || (server.get("/readyz").ok()?.status == 200).then_some(())).expect("it is ready");
    for user in ["u7", "u150", "u199"] {
        crowd.user = user.to_owned();
        calls(&server, &mut left, &mut crowd, user, 4);
    }
}

#[test]
fn engine_and_node_start_on_a_full_disk() {
    if !may_mount("engine_and_node_start_on_a_full_disk") {
        return;
    }
    let mut server = Server::start(|setup| setup.disk_mib = 96);
    let (mut left, mut right) = (server.registered("1001"), server.registered("1002"));
    calls(&server, &mut left, &mut right, "1002", 1);
    server.disk.as_mut().unwrap().fill();
    let engine = server.pid_of("engine").expect("an engine");
    server.signal(engine, Signal::KILL);
    eventually(PATIENCE, || server.pid_of("engine").filter(|pid| *pid != engine)).expect("another engine");
    eventually(PATIENCE, || (server.get("/readyz").ok()?.status == 200).then_some(())).expect("it is ready");
    // Registered before: nothing is asked of them.
    calls(&server, &mut left, &mut right, "1002", 2);
    for (number, signal) in [(3, Signal::TERM), (4, Signal::KILL)] {
        server.stop(signal);
        server.run();
        calls(&server, &mut left, &mut right, "1002", number);
        assert_eq!(left.register(600).status(), 200);
    }
    server.disk.as_mut().unwrap().free();
    gauge_is(&server, "tipring_data_failing", 0.0);
    gauge_is(&server, "tipring_side_database_up", 1.0);
    let last = calls(&server, &mut left, &mut right, "1002", 5);
    let found = eventually(MENDED_MAX, || {
        (server.get(&format!("/v1/cdrs?sip_call_id={last}")).ok()?.body.contains(&last)).then_some(())
    });
    assert!(found.is_some(), "no record of {last}\n{}", server.log());
}

/// SQLite rolls back by itself when the disk is full: its connections have to be fit for use afterwards, all of them.
#[test]
fn recordings_of_a_full_disk_are_finished_when_there_is_room() {
    if !may_mount("recordings_of_a_full_disk_are_finished_when_there_is_room") {
        return;
    }
    let mut server = Server::start(|setup| {
        setup.disk_mib = 96;
        setup.more = "[tape]\nsegment_mib = 8\n".to_owned();
        let mut text = "[[tenant]]\nname = \"acme\"\ndomain = \"acme.test\"\nrecord = \"always\"\n".to_owned();
        for user in ["1001", "1002"] {
            text += &format!("[[phone]]\ntenant = \"acme\"\nuser = \"{user}\"\npassword = \"secret-{user}\"\n");
        }
        setup.directory = Some(text);
    });
    let (mut left, mut right) = (server.registered("1001"), server.registered("1002"));
    let mut ended = Vec::new();
    let mut call = Call::set_up(&mut left, &mut right, "1002", 1);
    call.check_media();
    server.disk.as_mut().unwrap().fill();
    call.end_by_caller(&mut left, &mut right);
    ended.push(call.caller.call_id);
    for number in 2..14 {
        ended.push(calls(&server, &mut left, &mut right, "1002", number));
    }
    // Long enough for each of side's connections to fail.
    std::thread::sleep(Duration::from_secs(5));
    assert!(server.log().contains("disk is full") || server.log().contains("No space left"), "{}", server.log());
    server.disk.as_mut().unwrap().free();
    for call in &ended {
        let found = eventually(MENDED_MAX, || (!server.cdrs(call).is_empty()).then_some(()));
        assert!(found.is_some(), "no record of {call}\n{}", server.log());
    }
    let complete = eventually(MENDED_MAX, || {
        let items = server.json("/v1/recordings?limit=1000")["items"].as_array()?.clone();
        let done = items.iter().filter(|item| item["state"] == "completed").count();
        (done == ended.len()).then_some(items)
    });
    let complete =
        complete.unwrap_or_else(|| panic!("recordings stick: {:#?}\n{}", server.json("/v1/recordings"), server.log()));
    assert!(complete.iter().all(|item| item["verdict"] == "complete"), "{complete:#?}");
    assert_eq!(server.metric("tipring_side_recordings_waiting", ""), Some(0.0));
    assert_eq!(server.metric("tipring_side_events_missing", ""), Some(0.0), "{}", server.log());
}

/// 16 bytes in the middle of a file.
fn damage(path: &std::path::Path) {
    let mut bytes = fs::read(path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle..middle + 16].fill(0xa5);
    fs::write(path, bytes).unwrap();
}

#[test]
fn a_damaged_database_stops_no_phone() {
    let mut server = Server::start(|_| {});
    let (mut left, mut right) = (server.registered("1001"), server.registered("1002"));
    calls(&server, &mut left, &mut right, "1002", 1);
    server.stop(Signal::TERM);
    // What was not moved from the WAL to the database goes with it into the backup.
    let (database, wal) = (server.path("data/tipring.db"), server.path("data/tipring.db-wal"));
    let backup = [&database, &wal].map(|path| fs::read(path).ok());
    let damaged = vec![0x5a; 8_192];
    fs::write(&database, &damaged).unwrap();
    let _ = fs::remove_file(&wal);
    server.run();
    assert!(server.log().contains("tipring.db: "), "{}", server.log());
    assert_eq!(count(&server, "database.failed"), 1, "{}", server.log());
    assert_eq!(server.metric("tipring_side_database_up", ""), Some(0.0));
    assert_eq!(server.get("/v1/calls").unwrap().status, 503);
    let during = calls(&server, &mut left, &mut right, "1002", 2);
    assert_eq!(left.register(600).status(), 200);
    assert!(fs::read(&database).unwrap() == damaged, "it is left alone");
    // From a backup: side begins anew, and has what happened meanwhile.
    let draft = server.path("data/backup");
    for (path, bytes) in [&wal, &database].into_iter().zip(backup.into_iter().rev()) {
        if let Some(bytes) = bytes {
            fs::write(&draft, bytes).unwrap();
            fs::rename(&draft, path).unwrap();
        }
    }
    gauge_is(&server, "tipring_side_database_up", 1.0);
    let found = eventually(MENDED_MAX, || {
        server.get(&format!("/v1/cdrs?sip_call_id={during}")).ok()?.body.contains(&during).then_some(())
    });
    assert!(found.is_some(), "no record of {during}\n{}", server.log());
}

#[test]
fn damage_in_the_bindings_log_costs_what_it_hit() {
    let mut server = Server::start(|setup| setup.crowd = 100);
    let mut group = register_crowd(&mut server, 0..100);
    let mut caller = server.registered("1001");
    std::thread::sleep(Duration::from_millis(300));
    server.stop(Signal::KILL);
    let logs: Vec<_> = fs::read_dir(server.path("data/engine")).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert_eq!(logs.len(), 1);
    damage(&logs[0]);
    server.run();
    assert_eq!(server.metric("tipring_bindings_damaged_total", ""), Some(1.0));
    assert_eq!(count(&server, "bindings.damaged"), 1, "{}", server.log());
    let known = server.json("/v1/registrations?limit=1000")["items"].as_array().unwrap().len();
    assert!((99..=100).contains(&known), "{known} of 101 phones are known");
    for user in ["u0", "u99"] {
        group.user = user.to_owned();
        calls(&server, &mut caller, &mut group, user, 1);
    }
}

#[test]
fn a_wrong_or_missing_key_is_refused() {
    let mut server = Server::start(|_| {});
    server.stop(Signal::TERM);
    let refused = |server: &Server, part: &str| {
        let config = server.path("tipring.toml");
        let output =
            Command::new(env!("CARGO_BIN_EXE_tipring")).args(["serve", "--config"]).arg(config).output().unwrap();
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.code() == Some(1) && text.contains(part), "{part}: {:?}\n{text}", output.status);
    };
    let (key, secrets) = (server.path("data/node.key"), server.path("data/secrets"));
    let (right_key, right_secrets) = (fs::read(&key).unwrap(), fs::read(&secrets).unwrap());
    fs::remove_file(&key).unwrap();
    refused(&server, "node.key is missing");
    assert!(!key.exists(), "it was replaced");
    fs::write(&key, vec![1; right_key.len()]).unwrap();
    refused(&server, "node.key is the key of another database");
    fs::write(&key, right_key).unwrap();
    fs::write(&secrets, vec![1; right_secrets.len()]).unwrap();
    refused(&server, "secrets is damaged");
    fs::write(&secrets, right_secrets).unwrap();
    server.run();
}
