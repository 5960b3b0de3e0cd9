//! Every call recorded for a minute, on a disk of its own that may stand still: what is lost live, and what of it the recordings have.

use std::fs;
use std::path::Path;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;
use std::time::Instant;

use serde_json::Value;

use crate::calling;
use crate::process::Run;
use crate::process::Server;
use crate::process::get;
use crate::process::phlem;
use crate::setting;

const USERS: usize = 4_000;
const STALL: Duration = Duration::from_secs(2);
/// When the disk stands still, from the start of the phones.
const STALLS: [Duration; 2] = [Duration::from_secs(20), Duration::from_secs(40)];
const FINISHED_MAX: Duration = Duration::from_secs(120);

/// A file system in a file, mounted; needs root.
pub struct Disk {
    image: tempfile::NamedTempFile,
    place: PathBuf,
}

impl Disk {
    pub fn mount(place: &Path) -> Self {
        let image = tempfile::NamedTempFile::new().expect("a file");
        image.as_file().set_len(8 << 30).expect("a sparse file");
        fs::create_dir_all(place).expect("a folder");
        let disk = Self { image, place: place.to_owned() };
        must(Command::new("mkfs.ext4").arg("-q").arg(disk.image.path()));
        must(Command::new("mount").args(["-o", "loop"]).arg(disk.image.path()).arg(place));
        disk
    }

    fn stand_still(&self) {
        must(Command::new("fsfreeze").arg("-f").arg(&self.place));
        std::thread::sleep(STALL);
        must(Command::new("fsfreeze").arg("-u").arg(&self.place));
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        must(Command::new("umount").arg("-l").arg(&self.place));
    }
}

fn must(command: &mut Command) {
    let is_done = command.status().is_ok_and(|status| status.success());
    assert!(is_done, "{command:?} failed; it needs root");
}

pub fn recorded() {
    let calls = setting("CALLS", 250);
    let seconds = setting("SECONDS", 60);
    for stalls in [&[][..], &STALLS[..]] {
        let server = Server::recording(USERS);
        let run = std::thread::scope(|scope| {
            let disk = server.disk.as_ref().expect("a disk");
            scope.spawn(move || {
                let began = Instant::now();
                for at in stalls {
                    std::thread::sleep(at.saturating_sub(began.elapsed()));
                    disk.stand_still();
                }
            });
            // Every call lasts as long as the run.
            phlem(&calling(calls * 4, calls / 4, calls, "10m", seconds + 4, true), &[])
        });
        print(calls, stalls.len(), &run, &server);
    }
}

fn print(calls: usize, stalls: usize, run: &Run, server: &Server) {
    let items = finished(server, run.count("calls_answered") as usize);
    let complete = items.iter().filter(|item| item["verdict"] == "complete").count();
    let sum = |name: &str| items.iter().map(|item| total(&item["ledger"], name)).sum::<u64>();
    let metrics = get("/metrics", "").unwrap_or_default();
    println!(
        "{calls} calls, {stalls} stalls of {} s: {} answered, {} frames sent, {} lost live, {} left out by PHLEM | {} recordings, {complete} \
         complete; {} frames received, {} written, {} lost before us | gaps {}, shed {}",
        STALL.as_secs(),
        run.count("calls_answered"),
        run.media("sent"),
        run.media("lost"),
        run.media("skipped"),
        items.len(),
        sum("received"),
        sum("written"),
        sum("lost"),
        metric(&metrics, "tipring_tape_gaps_total"),
        metric(&metrics, "tipring_tape_shed_total"),
    );
    for line in metrics.lines().filter(|line| line.starts_with("tipring_shard_turn_lateness_seconds")) {
        println!("  {line}");
    }
}

/// All recordings, once each is finished.
fn finished(server: &Server, wanted: usize) -> Vec<Value> {
    let token = fs::read_to_string(server.path("data/token")).unwrap_or_default();
    let end = Instant::now() + FINISHED_MAX;
    loop {
        let answer = get("/v1/recordings?limit=1000", token.trim()).unwrap_or_default();
        let body = answer.split_once("\r\n\r\n").map_or("", |(_, body)| body);
        let listed: Value = serde_json::from_str(body).unwrap_or_default();
        let items = listed["items"].as_array().cloned().unwrap_or_default();
        let is_done = items.len() >= wanted && items.iter().all(|item| item["state"] == "completed");
        if is_done || Instant::now() > end {
            return items;
        }
        std::thread::sleep(Duration::from_millis(200));
    }
}

/// The sum of all numbers of this name, wherever they stand.
fn total(value: &Value, name: &str) -> u64 {
    match value {
        Value::Object(fields) => {
            let own = fields.get(name).and_then(Value::as_u64).unwrap_or(0);
            own + fields.values().map(|value| total(value, name)).sum::<u64>()
        }
        Value::Array(values) => values.iter().map(|value| total(value, name)).sum(),
        _ => 0,
    }
}

fn metric(text: &str, name: &str) -> f64 {
    let own = text.lines().filter(|line| line.starts_with(name));
    own.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum()
}
