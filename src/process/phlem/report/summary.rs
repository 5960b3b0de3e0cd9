//! The last lines of a run, for people.

use std::fmt::Write;

use crate::process::phlem::figures::Figures;
use crate::process::phlem::figures::Histogram;
use crate::process::phlem::figures::Outcome;
use crate::process::phlem::run::Summary;
use crate::process::phlem::text;

/// From here on a thread has no room for what comes together.
const BUSY_PERMILLE: u64 = 800;

/// Ends with a line feed.
pub fn summary(summary: &Summary) -> String {
    let figures = &summary.figures;
    let mut text = String::new();
    let _ = writeln!(
        text,
        "phlem {} against {}: {}, seed {}",
        summary.scenario,
        summary.server,
        text::duration(Some(summary.elapsed)),
        summary.seed
    );
    for (name, value) in lines(figures).into_iter().chain(emulator(summary)) {
        let _ = writeln!(text, "  {name:18} {value}");
    }
    for (cause, count) in &figures.errors {
        let _ = writeln!(text, "  error              {count} × {cause}");
    }
    for note in &summary.notes {
        let _ = writeln!(text, "  note               {note}");
    }
    for verdict in &summary.verdicts {
        let word = if verdict.met { "met" } else { "NOT MET" };
        let _ = writeln!(text, "  {word:18} {} {}, found {}", verdict.key, verdict.wanted, verdict.found);
    }
    text
}

/// Name and value of what happened at all.
pub(super) fn lines(figures: &Figures) -> Vec<(&'static str, String)> {
    let media = &figures.media;
    let mut lines = vec![(
        "phones",
        format!(
            "{}, {} registered when calls began, at least {} at any time after; {} registrations, {} failed",
            text::count(figures.phones),
            text::count(figures.registered_at_start),
            text::percent(figures.registered_min()),
            text::count(figures.registrations),
            text::count(figures.registrations_failed)
        ),
    )];
    delay(&mut lines, "register delay", &figures.register_delay);
    if figures.calls > 0 {
        let mut outcomes: Vec<_> = Outcome::ALL
            .into_iter()
            .filter(|outcome| figures.outcome(*outcome) > 0)
            .map(|outcome| format!("{} {}", text::count(figures.outcome(outcome)), outcome.name()))
            .collect();
        if figures.calls > figures.ended() {
            outcomes.push(format!("{} not over", text::count(figures.calls - figures.ended())));
        }
        let outcomes = outcomes.join(", ");
        let good = text::count(figures.calls_good);
        lines.push(("calls", format!("{}: {outcomes}; {good} ended as meant", text::count(figures.calls))));
    }
    delay(&mut lines, "set-up delay", &figures.setup_delay);
    delay(&mut lines, "post-dial delay", &figures.post_dial_delay);
    if media.sent + media.received > 0 {
        lines.push((
            "audio",
            format!(
                "{} legs, {} frames sent, {} heard, {} lost between those, {} before the first",
                text::count(media.streams + media.streams_now),
                text::count(media.sent),
                text::count(media.received),
                text::count(media.lost),
                text::count(media.missed_at_start)
            ),
        ));
        lines.push((
            "audio share",
            format!(
                "{} of what had to be heard, worst leg {}; {} frames not heard at a leg's beginning or end, {} legs heard nothing",
                text::percent(media.audio_share()),
                text::percent(media.heard_share.min().map(|thousandths| thousandths as f64 / 1_000.0)),
                text::count(media.unheard),
                text::count(media.silent)
            ),
        ));
        lines.push((
            "audio faults",
            format!(
                "{} of another call, {} damaged, {} double, {} out of order, {} late, {} without a number",
                media.wrong_call, media.damaged, media.doubled, media.reordered, media.late, media.unnumbered
            ),
        ));
        delay(&mut lines, "delay one way", &media.one_way);
        delay(&mut lines, "delay round trip", &media.round_trip);
        delay(&mut lines, "sent late", &media.send_lateness);
        if !media.mos.is_empty() {
            let mos = |part| text::mos(media.mos_percentile(part));
            let mean = text::mos(media.mos_mean());
            lines.push(("MOS (E-model)", format!("mean {mean}, worst 1 % {}, median {}", mos(0.01), mos(0.5))));
        }
    }
    lines
}

/// What the emulator itself had to do, so that nobody takes its limit for the server's.
pub(super) fn emulator(summary: &Summary) -> Vec<(&'static str, String)> {
    let figures = &summary.figures;
    let threads = |count: u64| if count == 1 { "1 thread".to_owned() } else { format!("{count} threads") };
    let busiest = figures.busiest_permille;
    let mean = figures.cpu_nanos as f64 / 1e9 / summary.elapsed.as_secs_f64().max(1e-3) / figures.threads.max(1) as f64;
    let mut own = format!(
        "{}, the busiest at {:.1} % of its CPU for a quarter of a second, {:.1} % in the mean",
        threads(figures.threads),
        busiest as f64 / 10.0,
        mean * 100.0
    );
    if busiest >= BUSY_PERMILLE {
        own.push_str("; what was reached may be the emulator's limit, not the server's");
    }
    let ceiling = match &summary.ceiling {
        None => "not measured: --ceiling does, before the run".to_owned(),
        Some(ceiling) => format!(
            "{} registrations a second, {} calls a second without audio, {} calls at once with it, frames then sent late by {} \
             at p99: {} against a null server",
            text::count(ceiling.registrations as u64),
            text::count(ceiling.calls as u64),
            text::count(ceiling.audio_calls as u64),
            text::duration(ceiling.lateness_p99),
            threads(ceiling.threads as u64)
        ),
    };
    vec![("emulator", own), ("its own ceiling", ceiling)]
}

fn delay(lines: &mut Vec<(&'static str, String)>, name: &'static str, delay: &Histogram) {
    if !delay.is_empty() {
        let of = |part| text::duration(delay.percentile_duration(part));
        let line = format!("p50 {}, p90 {}, p99 {}, longest {}", of(0.5), of(0.9), of(0.99), of(1.0));
        lines.push((name, line));
    }
}
