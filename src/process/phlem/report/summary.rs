//! The last lines of a run, for people.

use std::fmt::Write;

use crate::process::phlem::figures::Figures;
use crate::process::phlem::figures::Histogram;
use crate::process::phlem::figures::Outcome;
use crate::process::phlem::run::Summary;
use crate::process::phlem::text;

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
    for (name, value) in lines(figures) {
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
            "{}, {} registered when calls began; {} registrations, {} failed",
            text::count(figures.phones),
            text::count(figures.registered_at_start),
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
                "{} legs, {} frames sent, {} heard, {} lost ({}), {} before the first heard",
                text::count(media.streams + media.streams_now),
                text::count(media.sent),
                text::count(media.received),
                text::count(media.lost),
                text::percent(media.loss()),
                text::count(media.missed_at_start)
            ),
        ));
        lines.push((
            "audio faults",
            format!(
                "{} of another call, {} damaged, {} double, {} out of order, {} late, {} without a number, {} legs heard nothing",
                media.wrong_call, media.damaged, media.doubled, media.reordered, media.late, media.unnumbered, media.silent
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

fn delay(lines: &mut Vec<(&'static str, String)>, name: &'static str, delay: &Histogram) {
    if !delay.is_empty() {
        let of = |part| text::duration(delay.percentile_duration(part));
        let line = format!("p50 {}, p90 {}, p99 {}, longest {}", of(0.5), of(0.9), of(0.99), of(1.0));
        lines.push((name, line));
    }
}
