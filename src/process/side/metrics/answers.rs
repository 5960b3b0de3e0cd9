//! Figures are made for everybody who asks, and nobody needs a token: so many times at most in a moment, after which the last ones are
//! given out again. However many ask, that takes a small part of a core.

use std::sync::Mutex;

use axum::body::Bytes;

use crate::base::time::UnixTime;
use crate::process::side::metrics::text::Format;

const MOMENT_MICROS: u64 = 100_000;
const MADE_PER_MOMENT_MAX: u32 = 10;

#[derive(Debug, Default)]
pub(super) struct Answers(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    moment: u64,
    made: u32,
    prometheus: Option<Bytes>,
    open: Option<Bytes>,
}

impl Answers {
    pub(super) fn get(&self, now: UnixTime, format: Format, make: impl FnOnce() -> String) -> Bytes {
        let Ok(mut state) = self.0.lock() else { return make().into() };
        let moment = now.micros() / MOMENT_MICROS;
        if state.moment != moment {
            *state = State { moment, ..State::default() };
        }
        let last = match format {
            Format::Prometheus => &state.prometheus,
            Format::OpenMetrics => &state.open,
        };
        if state.made >= MADE_PER_MOMENT_MAX
            && let Some(last) = last
        {
            return last.clone();
        }
        let made = Bytes::from(make());
        state.made += 1;
        match format {
            Format::Prometheus => state.prometheus = Some(made.clone()),
            Format::OpenMetrics => state.open = Some(made.clone()),
        }
        made
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_makes_few() {
        let answers = Answers::default();
        let mut made = 0;
        let mut ask = |micros, format| {
            let make = || {
                made += 1;
                made.to_string()
            };
            answers.get(UnixTime::from_micros(micros), format, make)
        };
        let last = (0..1_000).map(|index| ask(index, Format::Prometheus)).last();
        assert_eq!(last, Some(Bytes::from("10")));
        assert_eq!(ask(1_001, Format::OpenMetrics), "11", "nobody gets the other form");
        assert_eq!(ask(100_000, Format::Prometheus), "12", "nor what is older than a moment");
        assert_eq!(made, 12);
    }
}
