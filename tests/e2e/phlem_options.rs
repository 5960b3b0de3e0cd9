//! What a run of PHLEM can be told: IPv6, speech from a file, what was heard kept, shares of machines, a common start; the scenarios
//! that come with it, in short; hold, as often as there are calls.

use std::net::SocketAddr;
use std::time::Duration;
use std::time::SystemTime;
use std::time::UNIX_EPOCH;

use tipring::base::time::UnixTime;
use tipring::process::phlem::media::Expected;
use tipring::process::phlem::media::Side;
use tipring::process::phlem::media::check_samples;
use tipring::process::phlem::null::NullServer;
use tipring::process::phlem::run::RunOptions;
use tipring::process::phlem::run::Share;
use tipring::process::phlem::run::Summary;
use tipring::process::phlem::run::run;
use tipring::process::phlem::scenario::Scenario;
use tipring::process::phlem::scenario::Span;
use tipring::process::phlem::scenario::ready;
use tipring::wire::g711::Law;
use tipring::wire::wav::Wav;

use crate::server::Server;
use crate::tone;

const TONE: f64 = 440.0;

fn scenario(phones: &str, calls: &str) -> Scenario {
    let text = format!(
        "name = \"e2e\"\nduration = \"3s\"\nramp = \"300ms\"\nwind_down = \"8s\"\n\
         [[population]]\nusers = \"u0-u39\"\npassword = \"p\"\ndomain = \"acme.test\"\nanswer = \"100ms-300ms\"\n{phones}\n\
         [[calls]]\n{calls}\n"
    );
    Scenario::parse("e2e", &text).unwrap_or_else(|fault| panic!("{fault}"))
}

fn check_calls(summary: &Summary) {
    let figures = &summary.figures;
    assert_eq!(figures.registered_at_start, figures.phones, "{:?}", figures.errors);
    assert!(figures.calls > 3 && figures.calls_good == figures.calls, "{:?} {:?}", figures.outcomes, figures.errors);
    let media = &figures.media;
    assert_eq!(
        [media.lost, media.wrong_call, media.damaged, media.silent],
        [0; 4],
        "lost, wrong call, damaged, silent"
    );
}

/// A tone goes in as a file, through tipring over IPv6, and comes out as files, every frame of it.
#[test]
fn phones_over_ipv6_say_a_file_and_keep_what_they_hear() {
    let server = Server::start(|setup| {
        (setup.crowd, setup.ipv6, setup.trusted) = (40, true, "[\"127.0.0.0/8\", \"::1/128\"]");
    });
    let folder = tempfile::tempdir().unwrap();
    let speech = folder.path().join("tone.wav");
    tone::write(&speech, TONE, 2);
    let record = folder.path().join("heard");
    let options =
        RunOptions { server: Some(server.sip_v6().to_string()), record: Some(record.clone()), ..RunOptions::default() };
    let phones = format!("speech = \"{}\"", speech.display());
    let summary = run(scenario(&phones, "rate = 4.0\ntalk = \"1s-2s\""), options, |_, _| {}).unwrap();
    check_calls(&summary);
    let mut files = 0;
    for entry in std::fs::read_dir(&record).unwrap() {
        let path = entry.unwrap().path();
        let bytes = std::fs::read(&path).unwrap();
        let wav = Wav::parse(&bytes).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let name = path.file_stem().unwrap().to_str().unwrap();
        let (call, own) = name.split_once('-').unwrap();
        let side = if own == "caller" { Side::Callee } else { Side::Caller };
        let expected = Expected { call: call.parse().ok(), side: Some(side), ..Expected::default() };
        let report = check_samples(wav.samples(0), Law::Mu, expected);
        assert!(report.is_whole() && report.frames > 30, "{name}: {report:?}");
        let samples: Vec<f64> = wav.samples(0).map(f64::from).collect();
        let share = tone::share(&samples, tone::RATE, TONE);
        assert!(share > 0.9, "{name}: {share} of it is the tone");
        files += 1;
    }
    assert_eq!(files, summary.figures.media.streams, "a file for each leg");
}

#[test]
fn a_speech_file_that_is_none_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let speech = folder.path().join("none.wav");
    std::fs::write(&speech, "RIFF????WAVE").unwrap();
    let phones = format!("speech = \"{}\"", speech.display());
    let options = RunOptions { server: Some("127.0.0.1:9".to_owned()), ..RunOptions::default() };
    let error = run(scenario(&phones, "rate = 1.0"), options, |_, _| {}).unwrap_err().to_string();
    assert!(error.contains("none.wav"), "{error}");
}

fn unix_now() -> UnixTime {
    let micros = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_micros();
    UnixTime::from_micros(u64::try_from(micros).unwrap())
}

/// Two machines' parts of a run, as a fleet deals them: together they are the whole, and they begin together.
#[test]
fn shares_add_up_and_begin_together() {
    let server = NullServer::start(SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
    let start_at = unix_now() + Duration::from_millis(900);
    let part = |from: f64, to: f64| {
        let options = RunOptions {
            server: Some(server.address().to_string()),
            share: Share { from, to },
            start_at: Some(start_at),
            ..RunOptions::default()
        };
        std::thread::spawn(move || {
            let mut began = None;
            let scenario = scenario("", "rate = 20.0\ntalk = \"500ms\"");
            let summary = run(scenario, options, |_, elapsed| {
                began.get_or_insert_with(|| (unix_now(), elapsed.since_start));
            });
            (summary.unwrap(), began.unwrap())
        })
    };
    let parts = [part(0.0, 0.25), part(0.25, 1.0)].map(|part| part.join().unwrap());
    let [few, many] = &parts;
    assert_eq!((few.0.figures.phones, many.0.figures.phones), (10, 30));
    for (summary, (seen_at, since_start)) in &parts {
        // From the beginning, which is the common time, to the first look.
        let late = seen_at.since(start_at).saturating_sub(*since_start);
        assert!(*seen_at >= start_at && late < Duration::from_millis(300), "began {late:?} after the common start");
        check_calls(summary);
        // Callees of the other machine are heard on another clock.
        assert_eq!(summary.figures.media.one_way.count(), 0);
    }
    assert!(few.0.figures.calls * 3 / 2 < many.0.figures.calls, "{} {}", few.0.figures.calls, many.0.figures.calls);
}

/// An offer to resume and the first frames that follow it go different ways; neither may overtake the other to a frame's cost.
#[test]
fn hold_and_resume_lose_no_frame() {
    let server = Server::start(|setup| (setup.crowd, setup.trusted) = (40, "[\"127.0.0.0/8\"]"));
    let options = RunOptions { server: Some(server.sip().to_string()), ..RunOptions::default() };
    let calls = "rate = 12.0\ntalk = \"1s-2s\"\nhold = 1.0";
    let summary = run(scenario("", calls), options, |_, _| {}).unwrap();
    check_calls(&summary);
    assert!(summary.figures.holds > 15, "{}", summary.figures.holds);
}

/// All that come with the program, each at a tenant of its own, at once and for some seconds only.
#[test]
fn the_ready_scenarios_in_short_at_tipring() {
    let mut directory = String::new();
    for (name, _) in ready::READY {
        directory.push_str(&format!("[[tenant]]\nname = \"{name}\"\ndomain = \"{name}.test\"\n"));
        let last = if name == "registration-storm" { 2_000 } else { 1_100 };
        for user in 1_001..=last {
            let phone = format!("[[phone]]\ntenant = \"{name}\"\nuser = \"{user}\"\npassword = \"secret-{user}\"\n");
            directory.push_str(&phone);
        }
    }
    let server = Server::start(|setup| {
        (setup.directory, setup.trusted) = (Some(directory), "[\"127.0.0.0/8\"]");
        setup.media_ports = "20000-20999";
    });
    let runs = ready::READY.map(|(name, text)| {
        let text = text.replace("acme.test", &format!("{name}.test"));
        let mut scenario = Scenario::parse(name, &text).unwrap();
        scenario.last(Duration::from_secs(4));
        (scenario.ramp, scenario.wind_down) = (Span::secs(1), Span::secs(1));
        // Nobody can wait for people to pick up.
        for population in &mut scenario.populations {
            population.answer = "100ms-400ms".to_owned().try_into().unwrap();
        }
        let options = RunOptions { server: Some(server.sip().to_string()), ..RunOptions::default() };
        (name, std::thread::spawn(move || run(scenario, options, |_, _| {}).unwrap()))
    });
    for (name, run) in runs {
        let summary = run.join().unwrap();
        let figures = &summary.figures;
        // Times are measured elsewhere: five runs share the machine here. Of so few calls in a soak those that reboots end are many.
        let is_left_out = |key: &str| key.contains("p99") || name == "soak" && key == "calls_good_min";
        let unmet: Vec<_> =
            summary.verdicts.iter().filter(|verdict| !verdict.met && !is_left_out(verdict.key)).collect();
        assert!(unmet.is_empty(), "{name}: {unmet:?} {:?} {:?}", figures.outcomes, figures.errors);
        assert!(figures.calls > 0 || name == "registration-storm", "{name}");
        assert!(
            figures.registrations > figures.phones || name != "registration-storm",
            "{name}: {}",
            figures.registrations
        );
    }
    assert!(!server.log().contains("a fault of ours"), "{}", server.log());
}
