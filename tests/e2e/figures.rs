//! Figures of a whole node that need the emulator's load; ignored where everything is tested.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;
use std::time::SystemTime;
use std::time::UNIX_EPOCH;

use tipring::process::phlem::run::RunOptions;
use tipring::process::phlem::run::run;
use tipring::process::phlem::scenario::Scenario;

use crate::crash::end_of;
use crate::crash::recording_server;
use crate::server::Server;

const PHONES: usize = 500;
const RATE: u32 = 50;
const SECONDS: u32 = 20;
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// `cargo test --release --test e2e -- --ignored --nocapture recordings_are_there_soon`: fifty calls of two seconds end every second; how
/// long after the end of each it can be fetched.
#[test]
#[ignore = "a figure, for a machine that does nothing else"]
fn recordings_are_there_soon() {
    let server = recording_server(PHONES, "20000-23999");
    let stop = Arc::new(AtomicBool::new(false));
    let seen = std::thread::scope(|scope| {
        let looking = scope.spawn(|| look(&server, &stop));
        let text = format!(
            "name = \"soon\"\nduration = \"{SECONDS}s\"\nramp = \"2s\"\nwind_down = \"6s\"\n\
             [[population]]\nusers = \"u0-u{}\"\npassword = \"p\"\ndomain = \"acme.test\"\nanswer = \"20ms-100ms\"\n\
             [[calls]]\nrate = {RATE}.0\ntalk = \"2s\"\n",
            PHONES - 1
        );
        let options = RunOptions { server: Some(server.sip().to_string()), ..RunOptions::default() };
        let summary = run(Scenario::parse("soon", &text).unwrap(), options, |_, _| {}).unwrap();
        eprintln!("{} calls, {} as they should", summary.figures.calls, summary.figures.calls_good);
        std::thread::sleep(Duration::from_secs(2));
        stop.store(true, Relaxed);
        looking.join().unwrap()
    });
    let mut delays: Vec<f64> = seen.into_values().collect();
    delays.sort_by(f64::total_cmp);
    assert!(delays.len() > 100, "{} recordings", delays.len());
    let at = |part: f64| delays[((delays.len() - 1) as f64 * part) as usize];
    eprintln!(
        "{} recordings; from the end of the call to the list, looked at every {} ms: p50 {:.2} s, p99 {:.2} s, longest {:.2} s",
        delays.len(),
        LOOK_EVERY.as_millis(),
        at(0.5),
        at(0.99),
        at(1.0)
    );
}

/// Seconds from the end of each recording to when it was first seen as finished.
fn look(server: &Server, stop: &AtomicBool) -> BTreeMap<String, f64> {
    let mut seen = BTreeMap::new();
    while !stop.load(Relaxed) {
        let page = server.json("/v1/recordings?limit=500");
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs_f64();
        for item in page["items"].as_array().unwrap().iter().filter(|item| item["state"] == "completed") {
            let id = item["id"].as_str().unwrap().to_owned();
            seen.entry(id).or_insert_with(|| now - end_of(item));
        }
        std::thread::sleep(LOOK_EVERY);
    }
    seen
}
