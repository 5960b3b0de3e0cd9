//! The same for programs: every counter, every distribution by its percentiles in milliseconds, and the course of the run.

use serde_json::Map;
use serde_json::Value;
use serde_json::json;

use crate::process::phlem::ceiling::Ceiling;
use crate::process::phlem::figures::Figures;
use crate::process::phlem::figures::Histogram;
use crate::process::phlem::report::history::History;
use crate::process::phlem::report::history::Point;
use crate::process::phlem::run::Summary;

const PARTS: [(&str, f64); 5] = [("p50", 0.5), ("p90", 0.9), ("p95", 0.95), ("p99", 0.99), ("p999", 0.999)];

pub fn json(summary: &Summary, history: &History) -> Value {
    let verdicts: Vec<_> = summary
        .verdicts
        .iter()
        .map(
            |verdict| json!({"key": verdict.key, "wanted": verdict.wanted, "found": verdict.found, "met": verdict.met}),
        )
        .collect();
    json!({
        "version": 1,
        "scenario": summary.scenario,
        "server": summary.server,
        "seed": summary.seed,
        "elapsed_s": summary.elapsed.as_secs_f64(),
        "met": summary.is_met(),
        "expectations": verdicts,
        "notes": summary.notes,
        "ceiling": summary.ceiling.as_ref().map(ceiling),
        "figures": figures(&summary.figures),
        "course": history.points().iter().map(point).collect::<Vec<_>>(),
    })
}

fn ceiling(ceiling: &Ceiling) -> Value {
    json!({
        "threads": ceiling.threads,
        "registrations_per_s": ceiling.registrations,
        "calls_per_s": ceiling.calls,
        "calls_with_audio": ceiling.audio_calls,
        "send_lateness_p99_ms": ceiling.lateness_p99.map(|late| late.as_secs_f64() * 1e3),
    })
}

/// Counters as they are, histograms by their percentiles.
fn figures(figures: &Figures) -> Value {
    let mut form = serde_json::to_value(figures).unwrap_or_default();
    let distributions: [(&str, &Histogram); 4] = [
        ("register_delay", &figures.register_delay),
        ("setup_delay", &figures.setup_delay),
        ("post_dial_delay", &figures.post_dial_delay),
        ("talk", &figures.talk),
    ];
    for (name, histogram) in distributions {
        replace(&mut form, name, histogram, 1e-6, "_ms");
    }
    if let Some(form) = form.as_object_mut() {
        form.insert("registered_min".to_owned(), figures.registered_min().into());
    }
    let media = &figures.media;
    if let Some(form) = form.get_mut("media") {
        let distributions: [(&str, &Histogram); 4] = [
            ("send_lateness", &media.send_lateness),
            ("one_way", &media.one_way),
            ("round_trip", &media.round_trip),
            ("jitter", &media.jitter),
        ];
        for (name, histogram) in distributions {
            replace(form, name, histogram, 1e-6, "_ms");
        }
        replace(form, "mos", &media.mos, 1e-3, "");
        replace(form, "heard_share", &media.heard_share, 1e-3, "");
        if let Some(form) = form.as_object_mut() {
            form.insert("loss".to_owned(), media.loss().into());
            form.insert("audio_share".to_owned(), media.audio_share().into());
        }
    }
    form
}

fn replace(form: &mut Value, name: &str, histogram: &Histogram, unit: f64, suffix: &str) {
    let Some(form) = form.as_object_mut() else { return };
    form.remove(name);
    let mut own = Map::new();
    own.insert("count".to_owned(), histogram.count().into());
    let of = |value: Option<u64>| value.map(|value| value as f64 * unit);
    own.insert("min".to_owned(), of(histogram.min()).into());
    own.insert("mean".to_owned(), histogram.mean().map(|mean| mean * unit).into());
    for (name, part) in PARTS {
        own.insert(name.to_owned(), of(histogram.percentile(part)).into());
    }
    own.insert("max".to_owned(), of(histogram.max()).into());
    form.insert(format!("{name}{suffix}"), Value::Object(own));
}

fn point(point: &Point) -> Value {
    let millis = |delay: Option<std::time::Duration>| delay.map(|delay| delay.as_secs_f64() * 1e3);
    json!({
        "at_s": point.at.as_secs_f64(),
        "registered": point.registered,
        "calls_up": point.calls_up,
        "streams": point.streams,
        "calls_per_s": point.calls,
        "registrations_per_s": point.registrations,
        "errors_per_s": point.failures,
        "setup_p50_ms": millis(point.setup_p50),
        "setup_p99_ms": millis(point.setup_p99),
        "register_p99_ms": millis(point.register_p99),
        "one_way_p99_ms": millis(point.one_way_p99),
        "send_lateness_p99_ms": millis(point.lateness_p99),
        "loss": point.loss,
        "audio_share": point.audio_share,
        "silent_legs": point.silent,
    })
}
