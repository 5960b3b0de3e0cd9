//! The view while a run goes on: a block that is drawn over in a terminal, one line every second elsewhere.

use std::fmt::Write as _;
use std::io::Write;
use std::time::Duration;

use crate::process::phlem::figures::Figures;
use crate::process::phlem::figures::Outcome;
use crate::process::phlem::run::Elapsed;
use crate::process::phlem::run::Phase;
use crate::process::phlem::text;

/// Columns that a terminal has at least.
const COLUMNS: usize = 79;
const TERMINAL_EVERY: Duration = Duration::from_millis(500);
const LINE_EVERY: Duration = Duration::from_secs(1);
/// Rates are of the time since a look at least so long ago.
const RATE_OVER: Duration = Duration::from_secs(2);
const ERRORS_SHOWN: usize = 3;

pub struct Live<W: Write> {
    out: W,
    is_terminal: bool,
    title: String,
    /// When it was last drawn, and how many lines high.
    drawn: Option<(Duration, usize)>,
    looks: Vec<Look>,
}

/// What grows, at a time.
#[derive(Clone, Copy, Debug, Default)]
struct Look {
    at: Duration,
    calls: u64,
    registrations: u64,
    frames: u64,
}

/// What grew in a second.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Rates {
    calls: f64,
    registrations: f64,
    frames: f64,
}

impl<W: Write> Live<W> {
    pub fn new(out: W, is_terminal: bool, title: impl Into<String>) -> Self {
        Self { out, is_terminal, title: title.into(), drawn: None, looks: Vec::new() }
    }

    /// Draws if it is time to. A reader that is gone is no reason to fail.
    pub fn show(&mut self, figures: &Figures, elapsed: Elapsed) {
        let every = if self.is_terminal { TERMINAL_EVERY } else { LINE_EVERY };
        let rates = self.look(figures, elapsed.since_start);
        if self.drawn.is_some_and(|(at, _)| elapsed.since_start < at + every) {
            return;
        }
        let text = if self.is_terminal {
            let lines = block(&self.title, figures, elapsed, rates);
            let mut text = match self.drawn {
                Some((_, height)) => format!("\x1b[{height}A"),
                None => String::new(),
            };
            for line in &lines {
                let _ = writeln!(text, "{}\x1b[K", cut(line));
            }
            self.drawn = Some((elapsed.since_start, lines.len()));
            text
        } else {
            self.drawn = Some((elapsed.since_start, 1));
            line(figures, elapsed, rates)
        };
        let _ = self.out.write_all(text.as_bytes()).and_then(|()| self.out.flush());
    }

    fn look(&mut self, figures: &Figures, at: Duration) -> Rates {
        let own = Look { at, calls: figures.calls, registrations: figures.registrations, frames: figures.media.sent };
        // The newest look that is old enough is the one to compare with.
        while self.looks.get(1).is_some_and(|look| look.at + RATE_OVER <= at) {
            self.looks.remove(0);
        }
        if self.looks.last().is_none_or(|look| look.at < at) {
            self.looks.push(own);
        }
        let Some(before) = self.looks.first() else { return Rates::default() };
        let seconds = at.saturating_sub(before.at).as_secs_f64();
        let rate =
            |now: u64, before: u64| if seconds > 0.0 { now.saturating_sub(before) as f64 / seconds } else { 0.0 };
        Rates {
            calls: rate(own.calls, before.calls),
            registrations: rate(own.registrations, before.registrations),
            frames: rate(own.frames, before.frames),
        }
    }
}

fn cut(line: &str) -> &str {
    line.char_indices().nth(COLUMNS).map_or(line, |(at, _)| line.get(..at).unwrap_or_default())
}

const fn phase(phase: Phase) -> &'static str {
    match phase {
        Phase::Ramp => "registering",
        Phase::Calls => "calling",
        Phase::WindDown => "ending",
    }
}

/// For a file or a pipe: one line that stands by itself.
fn line(figures: &Figures, elapsed: Elapsed, rates: Rates) -> String {
    let media = &figures.media;
    format!(
        "{:>5} {:11} phones {}/{}  calls {} up, {:.1}/s, {} ended well of {}  set-up p50 {} p99 {}  audio {} ways, share {}, {} silent, MOS {}  errors {}\n",
        text::clock(elapsed.since_start),
        phase(elapsed.phase),
        figures.registered_now,
        figures.phones,
        figures.answered_now,
        rates.calls,
        figures.calls_good,
        figures.ended(),
        text::duration(figures.setup_delay.percentile_duration(0.5)),
        text::duration(figures.setup_delay.percentile_duration(0.99)),
        media.streams_now,
        text::percent(media.audio_share()),
        media.silent,
        text::mos(media.mos_mean()),
        figures.errors_in_all(),
    )
}

fn block(title: &str, figures: &Figures, elapsed: Elapsed, rates: Rates) -> Vec<String> {
    let media = &figures.media;
    let [register, setup, post_dial] =
        [&figures.register_delay, &figures.setup_delay, &figures.post_dial_delay].map(|delay| {
            let of = |part| text::duration(delay.percentile_duration(part));
            format!("p50 {}  p99 {}", of(0.5), of(0.99))
        });
    let others: Vec<_> = Outcome::ALL
        .into_iter()
        .filter(|outcome| *outcome != Outcome::Completed && figures.outcome(*outcome) > 0)
        .map(|outcome| format!("{} {}", figures.outcome(outcome), outcome.name()))
        .collect();
    vec![
        format!("phlem {title}   {}   {}", text::clock(elapsed.since_start), phase(elapsed.phase)),
        format!(
            "  phones    {} of {} registered   {:.1} registrations/s, {} failed",
            figures.registered_now, figures.phones, rates.registrations, figures.registrations_failed
        ),
        format!("            register {register}"),
        format!(
            "  calls     {} up   {} begun, {:.1}/s   {} ended well",
            figures.answered_now, figures.calls, rates.calls, figures.calls_good
        ),
        format!("            {}", if others.is_empty() { "all completed".to_owned() } else { others.join(", ") }),
        format!("  set-up    {setup}   ringing after {post_dial}"),
        format!(
            "  audio     {} ways, {:.0} frames/s   share {}, {} silent   of another call {}",
            media.streams_now,
            rates.frames,
            text::percent(media.audio_share()),
            media.silent,
            media.wrong_call
        ),
        format!(
            "            delay p50 {} p99 {}   MOS {}   sent late p99 {}",
            text::duration(media.one_way.percentile_duration(0.5)),
            text::duration(media.one_way.percentile_duration(0.99)),
            text::mos(media.mos_mean()),
            text::duration(media.send_lateness.percentile_duration(0.99))
        ),
        format!("  errors    {}", errors(figures)),
    ]
}

/// The most frequent causes first.
fn errors(figures: &Figures) -> String {
    if figures.errors.is_empty() {
        return "none".to_owned();
    }
    let mut causes: Vec<_> = figures.errors.iter().collect();
    causes.sort_by_key(|(_, count)| std::cmp::Reverse(**count));
    let shown: Vec<_> = causes.iter().take(ERRORS_SHOWN).map(|(cause, count)| format!("{count} × {cause}")).collect();
    let more = if causes.len() > ERRORS_SHOWN { ", …" } else { "" };
    format!("{}{more}", shown.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn elapsed(millis: u64) -> Elapsed {
        Elapsed { since_start: Duration::from_millis(millis), phase: Phase::Calls }
    }

    fn some() -> Figures {
        let mut figures =
            Figures { phones: 50, registered_now: 49, answered_now: 12, calls_good: 30, ..Figures::default() };
        figures.setup_delay.record_duration(Duration::from_millis(20));
        (figures.media.received, figures.media.unheard, figures.media.silent) = (900, 100, 3);
        figures.end(Outcome::Completed);
        figures.end(Outcome::Busy);
        for cause in 0..5 {
            figures.fail(&format!("cause {cause}"));
        }
        figures.fail("cause 4");
        figures
    }

    #[test]
    fn a_pipe_gets_a_line_a_second() {
        let mut out = Vec::new();
        let mut live = Live::new(&mut out, false, "test");
        for millis in (0..=5_000).step_by(250) {
            live.show(&some(), elapsed(millis));
        }
        let text = String::from_utf8(out).unwrap();
        assert_eq!(text.lines().count(), 6, "{text}");
        assert!(!text.contains('\x1b'));
        for part in [
            "0:05 calling",
            "phones 49/50",
            "calls 12 up",
            "30 ended well of 2",
            "p50 20.0 ms",
            "share 90.00 %, 3 silent",
            "errors 6",
        ] {
            assert!(text.lines().last().unwrap().contains(part), "{part} is not in {text}");
        }
    }

    #[test]
    fn a_terminal_gets_a_block_that_is_drawn_over() {
        let mut out = Vec::new();
        let mut live = Live::new(&mut out, true, "test");
        live.show(&some(), elapsed(0));
        live.show(&some(), elapsed(100));
        live.show(&some(), elapsed(600));
        let text = String::from_utf8(out).unwrap();
        let height = text.split("\x1b[9A").next().unwrap().lines().count();
        assert_eq!((height, text.matches("\x1b[9A").count(), text.lines().count()), (9, 1, 18), "{text}");
        assert!(text.contains("1 busy") && text.contains("share 90.00 %, 3 silent"), "{text}");
        assert!(text.contains("2 × cause 4, 1 × cause 0, 1 × cause 1, …"), "{text}");
        for line in text.lines() {
            assert!(line.trim_start_matches("\x1b[9A").trim_end_matches("\x1b[K").chars().count() <= COLUMNS, "{line}");
        }
    }

    #[test]
    fn rates_are_of_the_last_seconds() {
        let mut live = Live::new(Vec::new(), true, "test");
        let mut last = Rates::default();
        for second in 0..20 {
            let calls = if second < 10 { 0 } else { (second - 9) * 5 };
            last = live.look(&Figures { calls, ..Figures::default() }, Duration::from_secs(second));
        }
        assert_eq!(last.calls, 5.0);
        assert!(live.looks.len() <= 4);
    }
}
