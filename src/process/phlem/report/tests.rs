//! A made-up run in all three forms.

use std::time::Duration;

use super::*;
use crate::base::random::Random;
use crate::process::phlem::ceiling::Ceiling;
use crate::process::phlem::figures::Figures;
use crate::process::phlem::figures::Outcome;
use crate::process::phlem::run::Elapsed;
use crate::process::phlem::run::Phase;
use crate::process::phlem::run::Summary;
use crate::process::phlem::run::Verdict;

/// `seconds` of fifty phones.
fn run(seconds: u64) -> (Summary, History) {
    let (mut figures, mut history, mut random) = (Figures::default(), History::default(), Random::new(1));
    (figures.phones, figures.registering, figures.unregistered_max) = (50, 50, 2);
    (figures.threads, figures.cpu_nanos, figures.busiest_permille) = (2, 1_200_000_000, 870);
    for second in 0..seconds {
        figures.registered_now = (second * 10).min(50);
        figures.registrations += 2;
        figures.register_delay.record_duration(Duration::from_micros(3_000 + random.below(9_000)));
        if second > 5 {
            figures.calls += 2;
            figures.calls_good += 1;
            figures.answered_now = random.below(20);
            figures.setup_delay.record_duration(Duration::from_micros(8_000 + random.below(40_000)));
            figures.media.streams += 2;
            figures.media.sent += 1_000;
            figures.media.received += 999;
            figures.media.lost += 1;
            figures.media.one_way.record_duration(Duration::from_micros(300 + random.below(2_000)));
            figures.media.mos.record(4_370);
            figures.end(Outcome::Completed);
            figures.end(Outcome::Busy);
            if second == 30 {
                (figures.media.silent, figures.media.unheard) = (1, 600);
                figures.media.mos.record(1_000);
                figures.media.heard_share.record(0);
            }
            figures.media.heard_share.record(1_000);
            figures.fail("<script>alert(1)</script>");
        }
        for part in 0..4 {
            let since_start = Duration::from_millis(second * 1_000 + part * 250);
            history.add(&figures, Elapsed { since_start, phase: Phase::Calls });
        }
    }
    let verdict = |key, met| Verdict { key, wanted: "at least 1".into(), found: "0.98".into(), met };
    let ceiling = Ceiling {
        threads: 2,
        registrations: 21_400.0,
        calls: 5_250.0,
        audio_calls: 2_150.0,
        lateness_p99: Some(Duration::from_micros(1_900)),
    };
    let summary = Summary {
        scenario: "busy & hour".into(),
        server: "127.0.0.1:5060".into(),
        seed: 7,
        elapsed: Duration::from_secs(seconds),
        figures,
        ceiling: Some(ceiling),
        verdicts: vec![verdict("registered_min", true), verdict("calls_good_min", false)],
        notes: vec!["sockets are shared".into()],
    };
    (summary, history)
}

#[test]
fn people_read_what_happened() {
    let (summary, _) = run(60);
    let text = super::summary(&summary);
    for part in [
        "busy & hour against 127.0.0.1:5060: 60.0 s, seed 7",
        "54 completed, 54 busy",
        "54 × <script>",
        "54 lost between those",
        "98.80 % of what had to be heard, worst leg 0 %; 600 frames not heard at a leg's beginning or end, 1 legs heard nothing",
        "0 registered when calls began, at least 96.00 % at any time after",
        "NOT MET",
        "calls_good_min at least 1, found 0.98",
        "sockets are shared",
        "mean 4.31, worst 1 % 1.0",
        "2 threads, the busiest at 87.0 % of its CPU",
        "21,400 registrations a second, 5,250 calls a second without audio, 2,150 calls at once with it",
        "may be the emulator's",
    ] {
        assert!(text.contains(part), "{part} is not in\n{text}");
    }
}

#[test]
fn programs_read_the_same() {
    let (summary, history) = run(60);
    let json = json(&summary, &history);
    assert_eq!((json["met"].as_bool(), json["expectations"][1]["met"].as_bool()), (Some(false), Some(false)));
    assert_eq!(json["figures"]["outcomes"]["busy"].as_u64(), Some(54));
    let media = &json["figures"]["media"];
    assert_eq!(
        [&media["lost"], &media["silent"], &media["unheard"]].map(|count| count.as_u64().unwrap()),
        [54, 1, 600]
    );
    assert!((media["audio_share"].as_f64().unwrap() - 0.988).abs() < 0.001, "{media}");
    assert_eq!(media["heard_share"]["min"].as_f64(), Some(0.0));
    assert_eq!(json["figures"]["registered_min"].as_f64(), Some(0.96));
    let course = json["course"].as_array().unwrap();
    assert_eq!(course.iter().filter_map(|point| point["silent_legs"].as_u64()).sum::<u64>(), 1);
    assert!(course.iter().any(|point| point["audio_share"].as_f64().is_some_and(|share| share < 0.7)));
    let p99 = json["figures"]["setup_delay_ms"]["p99"].as_f64().unwrap();
    assert!((40.0..48.5).contains(&p99), "{p99}");
    assert!((json["figures"]["media"]["mos"]["p50"].as_f64().unwrap() - 4.37).abs() < 0.07);
    assert_eq!(json["course"].as_array().unwrap().len(), history.points().len());
    assert!(json["figures"].get("setup_delay").is_none());
    assert_eq!(json["ceiling"]["calls_per_s"].as_f64(), Some(5_250.0));
}

#[test]
fn the_page_stands_alone_and_runs_nothing() {
    let (summary, history) = run(60);
    let page = html(&summary, &history, "a <made-up> run");
    for foreign in ["http:", "https:", "src=", "<script", "<made", "@import", "url("] {
        assert!(!page.contains(foreign), "{foreign}");
    }
    assert_eq!(page.matches("<svg").count(), 11);
    assert!(page.contains("Not met: 1 of 2 expectations") && page.contains("&lt;script&gt;alert"), "{page}");
    assert!(page.contains("21,400 registrations a second"), "{page}");
    assert!(!page.contains("NaN"));
    let open = |tag: &str| page.matches(&format!("<{tag}>")).count() + page.matches(&format!("<{tag} ")).count();
    for tag in ["figure", "svg", "table", "tr", "td", "main", "div"] {
        assert_eq!(open(tag), page.matches(&format!("</{tag}>")).count(), "{tag}");
    }
}

#[test]
fn a_long_run_keeps_a_bounded_number_of_points() {
    let (_, history) = run(5_000);
    let points = history.points();
    assert!((250..600).contains(&points.len()), "{}", points.len());
    assert!(points.windows(2).all(|pair| pair[0].at < pair[1].at));
    assert!(points.last().unwrap().at > Duration::from_secs(4_900));
}
