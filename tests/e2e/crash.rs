//! The crash loop: engine and side are killed at random moments while emulated phones talk, everything recorded. What a phone
//! heard the engine had received, so it has to be in a recording, once, and verdicts have to be honest.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;
use std::time::SystemTime;
use std::time::UNIX_EPOCH;

use rustix::process::Signal;
use serde_json::Value;
use tipring::base::random::Random;
use tipring::process::phlem::media::Expected;
use tipring::process::phlem::media::FrameReport;
use tipring::process::phlem::media::Side;
use tipring::process::phlem::media::check_frames;
use tipring::process::phlem::media::check_recording;
use tipring::process::phlem::run::RunOptions;
use tipring::process::phlem::run::run;
use tipring::process::phlem::scenario::Scenario;
use tipring::wire::wav::Wav;

use crate::server::Server;
use crate::server::eventually;

const PHONES: usize = 40;
/// The keeper starts what dies again after 5 s at most.
const BACK_MAX: Duration = Duration::from_secs(15);
/// A call of an engine that died is finished 10 s after the next began to write.
const FINISHED_MAX: Duration = Duration::from_secs(40);
/// Of what was sent before the answer reached the server.
const BEFORE_ANSWER_MAX: u32 = 5;
/// Phones whose call an engine forgot wait for its end: after some kills others take their places.
const KILLS_A_ROUND: u32 = 10;

/// A party of a call, by the number that its caller drew.
type Party = (u64, Side);

/// Every frame of a report by who said it. Phones whose call an engine forgot go on sending to its ports, which the next one
/// may give out again: then a stranger is heard, and recorded. Who is not named yet is left out.
fn by_party(report: &FrameReport, side: Side) -> impl Iterator<Item = (Party, u32)> {
    let own =
        report.call.into_iter().flat_map(move |call| report.numbers.iter().map(move |number| ((call, side), *number)));
    own.chain(report.others.iter().filter(|(call, ..)| *call > 0).map(|(call, side, number)| ((*call, *side), *number)))
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Target {
    Engine,
    Side,
    Both,
}

/// `TIPRING_SEED=7 TIPRING_KILLS=100 cargo test --release --test e2e -- --ignored --nocapture a_hundred_kills`
#[test]
#[ignore = "takes some minutes"]
fn a_hundred_kills_of_engine_and_side_cost_no_recording() {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse().ok());
    let drawn = || SystemTime::now().duration_since(UNIX_EPOCH).unwrap().subsec_nanos().into();
    crash_loop(number("TIPRING_SEED").unwrap_or_else(drawn), number("TIPRING_KILLS").unwrap_or(100) as u32);
}

#[test]
fn kills_of_engine_and_side_cost_no_recording() {
    crash_loop(4, 5);
}

/// So many phones whose calls are all recorded.
pub fn recording_server(phones: usize, ports: &'static str) -> Server {
    Server::start(|setup| {
        let mut text = "[[tenant]]\nname = \"acme\"\ndomain = \"acme.test\"\nrecord = \"always\"\n".to_owned();
        for index in 0..phones {
            text += &format!("[[phone]]\ntenant = \"acme\"\nuser = \"u{index}\"\npassword = \"p\"\n");
        }
        setup.directory = Some(text);
        setup.trusted = "[\"127.0.0.0/8\"]";
        setup.media_ports = ports;
        // Segments end, are taken over and removed all the time.
        setup.more = "[tape]\nsegment_mib = 1\nsegment_age = \"1s\"\n".to_owned();
    })
}

fn crash_loop(seed: u64, kills: u32) {
    eprintln!("crash loop: TIPRING_SEED={seed} TIPRING_KILLS={kills}");
    let (server, mut random) = (recording_server(PHONES, "20000-20999"), Random::new(seed));
    let (mut heard, mut engine_kills) = (BTreeMap::new(), Vec::new());
    let mut left = kills;
    while left > 0 {
        let round = left.min(KILLS_A_ROUND);
        left -= round;
        let folder = tempfile::tempdir().unwrap();
        let stop = Arc::new(AtomicBool::new(false));
        let of_phones = random.next_u64();
        std::thread::scope(|scope| {
            let phones = scope.spawn(|| talk(&server, folder.path(), &stop, of_phones));
            std::thread::sleep(Duration::from_millis(1_200));
            for _ in 0..round {
                kill(&server, &mut random, &mut engine_kills);
            }
            std::thread::sleep(Duration::from_millis(1_500));
            stop.store(true, Relaxed);
            phones.join().unwrap();
        });
        take_heard(folder.path(), &mut heard);
    }
    let items = finished(&server);
    Proof { heard, engine_kills, recorded: BTreeMap::new(), complete: 0, degraded: 0 }.check(&server, &items);
}

/// Phones call each other until they are told to stop; what each heard lies in the folder then.
fn talk(server: &Server, folder: &Path, stop: &Arc<AtomicBool>, seed: u64) {
    let text = format!(
        "name = \"crash\"\nduration = \"10m\"\nramp = \"300ms\"\nwind_down = \"3s\"\n\
         [[population]]\nusers = \"u0-u{}\"\npassword = \"p\"\ndomain = \"acme.test\"\nexpires = \"30s\"\n\
         answer = \"20ms-100ms\"\n[[calls]]\nrate = 4.0\ntalk = \"200ms-3s\"\nhold = 0.2\n",
        PHONES - 1
    );
    let options = RunOptions {
        server: Some(server.sip().to_string()),
        seed: Some(seed),
        stop: Arc::clone(stop),
        endless: true,
        record: Some(folder.to_owned()),
        ..RunOptions::default()
    };
    let summary = run(Scenario::parse("crash", &text).unwrap(), options, |_, _| {}).unwrap();
    let media = &summary.figures.media;
    eprintln!(
        "  {} calls, {} of them as they should; {} frames sent, {} heard, {} of another call",
        summary.figures.calls, summary.figures.calls_good, media.sent, media.received, media.wrong_call
    );
    assert_eq!(media.damaged, 0);
}

fn kill(server: &Server, random: &mut Random, engine_kills: &mut Vec<f64>) {
    std::thread::sleep(Duration::from_millis(100 + random.below(1_900)));
    let target = [Target::Engine, Target::Side, Target::Side, Target::Both][random.below(4) as usize];
    let roles: &[&str] = match target {
        Target::Engine => &["engine"],
        Target::Side => &["side"],
        Target::Both => &["engine", "side"],
    };
    let before: Vec<_> = roles.iter().map(|role| eventually(BACK_MAX, || server.pid_of(role)).expect(role)).collect();
    if target != Target::Side {
        engine_kills.push(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs_f64());
    }
    before.iter().for_each(|pid| server.signal(*pid, Signal::KILL));
    for (role, before) in roles.iter().zip(before) {
        let back = eventually(BACK_MAX, || server.pid_of(role).filter(|pid| *pid != before));
        assert!(back.is_some(), "{role} does not come back\n{}", server.log());
    }
}

/// Adds what the phones of a run heard, by who said it.
fn take_heard(folder: &Path, heard: &mut BTreeMap<Party, BTreeSet<u32>>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let bytes = std::fs::read(entry.unwrap().path()).unwrap();
        let wav = Wav::parse(&bytes).unwrap();
        let report = check_frames(wav.audio, Expected::default());
        let side = if report.frames > 0 { report.side } else { None };
        let Some(side) = side else { continue };
        for (party, number) in by_party(&report, side) {
            heard.entry(party).or_default().insert(number);
        }
    }
}

/// All recordings, once nothing is left to be finished.
fn finished(server: &Server) -> Vec<Value> {
    let done = eventually(FINISHED_MAX, || {
        let stores = std::fs::read_dir(server.path("data/recordings/work")).ok()?;
        let left = stores.filter_map(|store| store.ok()?.file_name().into_string().ok());
        let is_done = left.filter(|name| name.ends_with(".call")).count() == 0;
        let listed = server.get("/v1/recordings?limit=1000").ok().filter(|answer| is_done && answer.status == 200)?;
        let listed: Value = serde_json::from_str(&listed.body).unwrap();
        listed["items"].as_array().unwrap().iter().all(|item| item["state"] == "completed").then_some(())
    });
    assert!(done.is_some(), "recordings are not finished\n{}", server.log());
    std::thread::sleep(Duration::from_millis(500));
    let mut items = Vec::new();
    let mut cursor = String::new();
    loop {
        let page = eventually(BACK_MAX, || {
            let answer = server.get(&format!("/v1/recordings?limit=1000{cursor}")).ok()?;
            (answer.status == 200).then(|| serde_json::from_str::<Value>(&answer.body).unwrap())
        });
        let page = page.expect("a list of recordings");
        items.extend(page["items"].as_array().unwrap().iter().cloned());
        let Some(next) = page["next"].as_str() else { return items };
        cursor = format!("&cursor={next}");
    }
}

struct Proof {
    heard: BTreeMap<Party, BTreeSet<u32>>,
    /// Seconds since 1970.
    engine_kills: Vec<f64>,
    recorded: BTreeMap<Party, BTreeSet<u32>>,
    complete: u64,
    degraded: u64,
}

impl Proof {
    fn check(mut self, server: &Server, items: &[Value]) {
        for item in items {
            self.take(server, item);
        }
        let (mut frames, mut lost) = (0, Vec::new());
        for (party, heard) in &self.heard {
            let nothing = BTreeSet::new();
            let recorded = self.recorded.get(party).unwrap_or(&nothing);
            // What reached the other phone before the answer passed the server is not of the recording.
            let first = recorded.first().copied().filter(|first| *first <= BEFORE_ANSWER_MAX).unwrap_or_default();
            let missing: Vec<_> = heard.difference(recorded).filter(|number| **number >= first).collect();
            frames += heard.len();
            if !missing.is_empty() {
                lost.push(format!("call {} {:?}: {missing:?}", party.0, party.1));
            }
        }
        eprintln!(
            "  {} recordings, {} complete, {} degraded; {} frames heard by {} parties, all in them: {}",
            items.len(),
            self.complete,
            self.degraded,
            frames,
            self.heard.len(),
            lost.is_empty()
        );
        assert!(lost.is_empty(), "heard and not recorded:\n{}", lost.join("\n"));
        assert!(frames > 0 && self.complete > 0, "nothing was proven");
    }

    fn take(&mut self, server: &Server, item: &Value) {
        let id = item["id"].as_str().unwrap();
        let media = server.get(&format!("/v1/recordings/{id}/media")).unwrap();
        assert_eq!(media.status, 200, "{id}: {}", media.head);
        let report = check_recording(&media.bytes, Expected::default()).unwrap();
        for (side, party) in [(Side::Caller, &report.caller), (Side::Callee, &report.callee)] {
            self.take_party(item, side, party);
        }
        if item["verdict"] == "complete" {
            self.complete += 1;
        } else {
            self.degraded += 1;
            let spans = self.engine_kills.iter().any(|kill| (start_of(item) - 0.5..end_of(item) + 0.5).contains(kill));
            assert!(spans, "{id} is degraded and no engine died: {item:#}\n{:?}", self.engine_kills);
        }
    }

    fn take_party(&mut self, item: &Value, side: Side, report: &FrameReport) {
        let wrong = [report.missing, report.doubled, report.damaged];
        assert_eq!(wrong, [0; 3], "missing, doubled, damaged: {:?} in {item:#}", report.faults);
        for (party, number) in by_party(report, side) {
            let is_new = self.recorded.entry(party).or_default().insert(number);
            assert!(is_new, "frame {number} of {party:?} is in two recordings: {item:#}");
        }
    }
}

fn start_of(item: &Value) -> f64 {
    let text = item["started_at"].as_str().unwrap();
    let time = time::OffsetDateTime::parse(text, &time::format_description::well_known::Rfc3339).unwrap();
    time.unix_timestamp_nanos() as f64 / 1e9
}

/// Seconds since 1970.
pub fn end_of(item: &Value) -> f64 {
    start_of(item) + item["duration_ms"].as_u64().unwrap() as f64 / 1e3
}
