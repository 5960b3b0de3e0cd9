//! How a run went, in as many points as a plot can show: for a longer run they get further apart.

use std::time::Duration;

use crate::process::phlem::figures::Figures;
use crate::process::phlem::figures::Histogram;
use crate::process::phlem::figures::Media;
use crate::process::phlem::run::Elapsed;

const POINTS_MAX: usize = 600;
const STEP_MIN: Duration = Duration::from_secs(1);

/// One stretch of time, seen at its end.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Point {
    pub at: Duration,
    pub registered: u64,
    pub calls_up: u64,
    pub streams: u64,
    /// A second, in this stretch.
    pub calls: f64,
    pub registrations: f64,
    pub failures: f64,
    /// Of those in this stretch.
    pub setup_p50: Option<Duration>,
    pub setup_p99: Option<Duration>,
    pub register_p99: Option<Duration>,
    pub one_way_p99: Option<Duration>,
    pub lateness_p99: Option<Duration>,
    pub loss: Option<f64>,
    /// What legs missed is known when they end.
    pub audio_share: Option<f64>,
    pub silent: u64,
}

#[derive(Clone, Debug)]
pub struct History {
    step: Duration,
    points: Vec<Point>,
    /// The figures at the last point.
    last: Figures,
    last_at: Duration,
}

impl Default for History {
    fn default() -> Self {
        Self { step: STEP_MIN, points: Vec::new(), last: Figures::default(), last_at: Duration::ZERO }
    }
}

impl History {
    /// Keeps a point if it is time for one.
    pub fn add(&mut self, figures: &Figures, elapsed: Elapsed) {
        let at = elapsed.since_start;
        if at < self.last_at + self.step {
            return;
        }
        self.points.push(point(&self.last, figures, at, at - self.last_at));
        self.last = figures.clone();
        self.last_at = at;
        if self.points.len() >= POINTS_MAX {
            // Every second one goes; what it said of its own stretch is lost, what grew is in the sums.
            let mut index = 0;
            self.points.retain(|_| {
                index += 1;
                index % 2 == 0
            });
            self.step *= 2;
        }
    }

    pub fn points(&self) -> &[Point] {
        &self.points
    }
}

fn point(before: &Figures, now: &Figures, at: Duration, length: Duration) -> Point {
    let seconds = length.as_secs_f64().max(1e-3);
    let rate = |now: u64, before: u64| now.saturating_sub(before) as f64 / seconds;
    let of = |now: &Histogram, before: &Histogram, part: f64| now.since(before).percentile_duration(part);
    let media = Media {
        received: now.media.received.saturating_sub(before.media.received),
        unnumbered: now.media.unnumbered.saturating_sub(before.media.unnumbered),
        lost: now.media.lost.saturating_sub(before.media.lost),
        unheard: now.media.unheard.saturating_sub(before.media.unheard),
        ..Media::default()
    };
    Point {
        at,
        registered: now.registered_now,
        calls_up: now.answered_now,
        streams: now.media.streams_now,
        calls: rate(now.calls, before.calls),
        registrations: rate(now.registrations, before.registrations),
        failures: rate(now.errors_in_all(), before.errors_in_all()),
        setup_p50: of(&now.setup_delay, &before.setup_delay, 0.5),
        setup_p99: of(&now.setup_delay, &before.setup_delay, 0.99),
        register_p99: of(&now.register_delay, &before.register_delay, 0.99),
        one_way_p99: of(&now.media.one_way, &before.media.one_way, 0.99),
        lateness_p99: of(&now.media.send_lateness, &before.media.send_lateness, 0.99),
        loss: media.loss(),
        audio_share: media.audio_share(),
        silent: now.media.silent.saturating_sub(before.media.silent),
    }
}
