//! What a scenario expects, held against what was found.

use std::time::Duration;

use crate::process::phlem::figures::Figures;
use crate::process::phlem::run::Verdict;
use crate::process::phlem::scenario::Expect;
use crate::process::phlem::scenario::Span;

/// One verdict for each expectation that is named. What was not measured does not meet one.
pub(in crate::process::phlem) fn verdicts(expect: &Expect, figures: &Figures) -> Vec<Verdict> {
    let share = |part: u64, whole: u64| (whole > 0).then(|| part as f64 / whole as f64);
    let good = share(figures.calls_good, figures.ended());
    let media = &figures.media;
    let found = [
        least("registered_min", expect.registered_min, figures.registered_min()),
        least("calls_good_min", expect.calls_good_min, good),
        least("calls_min", expect.calls_min.map(|calls| calls as f64), Some(figures.calls as f64)),
        most_time("setup_p99_max", expect.setup_p99_max, figures.setup_delay.percentile_duration(0.99)),
        most_time("register_p99_max", expect.register_p99_max, figures.register_delay.percentile_duration(0.99)),
        most("loss_max", expect.loss_max, media.loss()),
        most("wrong_audio_max", expect.wrong_audio_max.map(|frames| frames as f64), Some(media.wrong_call as f64)),
        most("silent_legs_max", expect.silent_legs_max.map(|legs| legs as f64), Some(media.silent as f64)),
        least("audio_share_min", expect.audio_share_min, media.audio_share()),
        least("mos_min", expect.mos_min, media.mos_mean()),
        most_time("one_way_p99_max", expect.one_way_p99_max, media.one_way.percentile_duration(0.99)),
    ];
    found.into_iter().flatten().collect()
}

fn shown(value: f64) -> String {
    let text = format!("{value:.4}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

fn verdict(key: &'static str, wanted: String, found: Option<String>, met: bool) -> Verdict {
    Verdict { key, wanted, found: found.unwrap_or_else(|| "not measured".to_owned()), met }
}

fn least(key: &'static str, wanted: Option<f64>, found: Option<f64>) -> Option<Verdict> {
    let wanted = wanted?;
    let met = found.is_some_and(|found| found >= wanted);
    Some(verdict(key, format!("at least {}", shown(wanted)), found.map(shown), met))
}

fn most(key: &'static str, wanted: Option<f64>, found: Option<f64>) -> Option<Verdict> {
    let wanted = wanted?;
    let met = found.is_some_and(|found| found <= wanted);
    Some(verdict(key, format!("at most {}", shown(wanted)), found.map(shown), met))
}

fn most_time(key: &'static str, wanted: Option<Span>, found: Option<Duration>) -> Option<Verdict> {
    let wanted = wanted?.0;
    let met = found.is_some_and(|found| found <= wanted);
    let millis = |time: Duration| format!("{} ms", shown(time.as_secs_f64() * 1_000.0));
    Some(verdict(key, format!("at most {}", millis(wanted)), found.map(millis), met))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_measured_is_not_met() {
        let expect = Expect {
            registered_min: Some(1.0),
            setup_p99_max: Some(Span(Duration::from_millis(100))),
            loss_max: Some(0.01),
            ..Expect::default()
        };
        let mut figures = Figures { phones: 2, registering: 2, unregistered_max: 1, ..Figures::default() };
        let met = |figures: &Figures| verdicts(&expect, figures).iter().map(|v| v.met).collect::<Vec<_>>();
        assert_eq!(met(&figures), [false, false, false]);
        figures.unregistered_max = 0;
        figures.setup_delay.record_duration(Duration::from_millis(50));
        figures.media.received = 100;
        assert_eq!(met(&figures), [true, true, true]);
        figures.media.lost = 10;
        figures.setup_delay.record_duration(Duration::from_millis(500));
        let found = verdicts(&expect, &figures);
        assert_eq!(found.iter().map(|v| v.met).collect::<Vec<_>>(), [true, false, false]);
        assert_eq!(found[0].wanted, "at least 1");
        assert!(found[2].found.starts_with("0.09"), "{}", found[2].found);
        // Nobody registers: then nobody was.
        assert!(!verdicts(&expect, &Figures { phones: 2, ..Figures::default() })[0].met);
    }

    #[test]
    fn what_had_to_be_heard_and_was_not_is_held_against_it() {
        let expect = Expect { silent_legs_max: Some(1), audio_share_min: Some(0.9), ..Expect::default() };
        let found = |silent: u64, received: u64, unheard: u64| {
            let mut figures = Figures::default();
            (figures.media.silent, figures.media.received, figures.media.unheard) = (silent, received, unheard);
            verdicts(&expect, &figures).into_iter().map(|v| (v.met, v.found)).collect::<Vec<_>>()
        };
        assert_eq!(found(0, 0, 0), [(true, "0".to_owned()), (false, "not measured".to_owned())]);
        assert_eq!(found(1, 950, 50), [(true, "1".to_owned()), (true, "0.95".to_owned())]);
        assert_eq!(found(2, 500, 500), [(false, "2".to_owned()), (false, "0.5".to_owned())]);
        assert_eq!(found(2, 0, 500), [(false, "2".to_owned()), (false, "0".to_owned())]);
    }
}
