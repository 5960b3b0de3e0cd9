//! One HTML file that needs nothing else: what was expected, what was found, how it went.

use std::fmt::Write;
use std::time::Duration;

use crate::process::phlem::report::history::History;
use crate::process::phlem::report::history::Point;
use crate::process::phlem::report::plot;
use crate::process::phlem::report::plot::Series;
use crate::process::phlem::report::summary;
use crate::process::phlem::run::Summary;
use crate::process::phlem::text;

const STYLE: &str = include_str!("style.css");

pub fn html(summary: &Summary, history: &History, description: &str) -> String {
    let title = format!("PHLEM: {}", escape(&summary.scenario));
    let mut page = format!(
        "<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\">\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\
         <meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">\
         <title>{title}</title><style>{STYLE}</style></head><body><main><h1>{title}</h1>\
         <p>{}</p><p class=\"about\">against {} for {}, seed {}</p>",
        escape(description),
        escape(&summary.server),
        text::duration(Some(summary.elapsed)),
        summary.seed
    );
    verdicts(&mut page, summary);
    let _ = write!(page, "<h2>Figures</h2><table>");
    for (name, value) in summary::lines(&summary.figures).into_iter().chain(summary::emulator(summary)) {
        row(&mut page, name, &value);
    }
    page.push_str("</table>");
    plots(&mut page, summary, history.points());
    errors(&mut page, summary);
    page.push_str(
        "<p class=\"about\">MOS is estimated by the E-model (ITU-T G.107, simplified after Cole and Rosenbluth 2001) for G.711 with \
         concealment and 60 ms of playout. Percentiles are within 1.6 %.</p></main></body></html>\n",
    );
    page
}

fn verdicts(page: &mut String, summary: &Summary) {
    if summary.verdicts.is_empty() {
        page.push_str("<p class=\"verdict\">The scenario expects nothing in particular.</p>");
        return;
    }
    let (class, word) = if summary.is_met() { ("met", "Met") } else { ("unmet", "Not met") };
    let _ = write!(page, "<p class=\"verdict {class}\">{word}: ");
    let met = summary.verdicts.iter().filter(|verdict| verdict.met).count();
    let _ = write!(
        page,
        "{met} of {} expectations</p><table><tr><th>expectation</th><th>wanted</th><th>found</th><th></th></tr>",
        summary.verdicts.len()
    );
    for verdict in &summary.verdicts {
        let (class, word) = if verdict.met { ("met", "met") } else { ("unmet", "not met") };
        let _ = write!(
            page,
            "<tr><td>{}</td><td>{}</td><td>{}</td><td class=\"{class}\">{word}</td></tr>",
            escape(verdict.key),
            escape(&verdict.wanted),
            escape(&verdict.found)
        );
    }
    page.push_str("</table>");
}

fn plots(page: &mut String, summary: &Summary, points: &[Point]) {
    let times: Vec<Duration> = points.iter().map(|point| point.at).collect();
    let of = |name, value: &dyn Fn(&Point) -> Option<f64>| Series { name, values: points.iter().map(value).collect() };
    let millis = |delay: Option<Duration>| delay.map(|delay| delay.as_secs_f64() * 1e3);
    let figures = &summary.figures;
    page.push_str("<h2>How it went</h2><div class=\"plots\">");
    page.push_str(&plot::lines(
        "Phones registered",
        "",
        &times,
        &[of("phones", &|point| Some(point.registered as f64))],
    ));
    page.push_str(&plot::lines("Calls up", "", &times, &[of("calls", &|point| Some(point.calls_up as f64))]));
    let rates = [
        of("calls", &|point| Some(point.calls)),
        of("registrations", &|point| Some(point.registrations)),
        of("errors", &|point| Some(point.failures)),
    ];
    page.push_str(&plot::lines("Begun", "a second", &times, &rates));
    let setup = [of("median", &|point| millis(point.setup_p50)), of("99 %", &|point| millis(point.setup_p99))];
    page.push_str(&plot::lines("Set-up delay", "ms", &times, &setup));
    page.push_str(&plot::lines(
        "Audio lost",
        "% of frames",
        &times,
        &[of("loss", &|point| point.loss.map(|loss| loss * 100.0))],
    ));
    page.push_str(&plot::lines(
        "Audio heard",
        "% of what had to be",
        &times,
        &[of("share", &|point| point.audio_share.map(|share| share * 100.0))],
    ));
    page.push_str(&plot::lines(
        "Legs that heard nothing",
        "by their end",
        &times,
        &[of("legs", &|point| Some(point.silent as f64))],
    ));
    let audio =
        [of("one way", &|point| millis(point.one_way_p99)), of("sent late", &|point| millis(point.lateness_p99))];
    page.push_str(&plot::lines("Audio delay, 99 %", "ms", &times, &audio));
    page.push_str(&plot::bars("Set-up delay, all calls", &figures.setup_delay));
    page.push_str(&plot::bars("Register delay, all", &figures.register_delay));
    page.push_str(&plot::bars("Audio one way, all frames", &figures.media.one_way));
    page.push_str("</div>");
}

fn errors(page: &mut String, summary: &Summary) {
    let figures = &summary.figures;
    if !figures.responses.is_empty() {
        page.push_str("<h2>Final responses to INVITE</h2><table>");
        for (status, count) in &figures.responses {
            row(page, &status.to_string(), &text::count(*count));
        }
        page.push_str("</table>");
    }
    page.push_str("<h2>Errors by cause</h2>");
    if figures.errors.is_empty() {
        page.push_str("<p>None.</p>");
    } else {
        page.push_str("<table>");
        for (cause, count) in &figures.errors {
            row(page, cause, &text::count(*count));
        }
        page.push_str("</table>");
    }
    if !summary.notes.is_empty() {
        page.push_str("<h2>Notes</h2><ul>");
        for note in &summary.notes {
            let _ = write!(page, "<li>{}</li>", escape(note));
        }
        page.push_str("</ul>");
    }
}

fn row(page: &mut String, name: &str, value: &str) {
    let _ = write!(page, "<tr><th>{}</th><td>{}</td></tr>", escape(name), escape(value));
}

/// A server chooses some of what is printed.
fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for letter in text.chars() {
        match letter {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            letter if letter.is_control() => escaped.push(' '),
            letter => escaped.push(letter),
        }
    }
    escaped
}
