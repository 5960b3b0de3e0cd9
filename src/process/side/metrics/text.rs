//! Figures as text: the Prometheus format 0.0.4, or OpenMetrics 1.0.0 for whoever asks for it. No timestamps, no exemplars.

use std::fmt::Display;
use std::fmt::Write;

use crate::process::side::record::tally::Spread;
use crate::shard::memory::BUCKET_BOUNDS_MICROS;
use crate::shard::memory::Counter;
use crate::shard::memory::Figures;
use crate::shard::memory::Histogram;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Format {
    Prometheus,
    OpenMetrics,
}

impl Format {
    /// The one that `Accept` prefers (RFC 9110 §12.5.1); without it the first.
    pub(crate) fn asked(accept: &str) -> Self {
        let weight = |name: &str| {
            let ranges = accept.split(',').filter_map(|range| {
                let mut parts = range.split(';').map(str::trim);
                parts.next().filter(|kind| kind.eq_ignore_ascii_case(name))?;
                Some(parts.find_map(|part| part.strip_prefix("q=")).map_or(1.0, |q| q.parse().unwrap_or(0.0)))
            });
            ranges.fold(0.0, f32::max)
        };
        let open = weight("application/openmetrics-text");
        if open > 0.0 && open >= weight("text/plain") { Self::OpenMetrics } else { Self::Prometheus }
    }

    pub(crate) const fn content_type(self) -> &'static str {
        match self {
            Self::Prometheus => "text/plain; version=0.0.4; charset=utf-8",
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
        }
    }
}

pub(super) struct Text {
    format: Format,
    lines: String,
}

impl Text {
    pub(super) fn new(format: Format) -> Self {
        Self { format, lines: String::new() }
    }

    pub(super) fn finish(mut self) -> String {
        if self.format == Format::OpenMetrics {
            self.lines.push_str("# EOF\n");
        }
        self.lines
    }

    pub(super) fn gauge(&mut self, name: &str, help: &str) {
        self.raw_head(&format!("tipring_{name}"), "gauge", help);
    }

    pub(super) fn counter(&mut self, name: &str, help: &str) {
        self.raw_head(&format!("tipring_{name}"), "counter", help);
    }

    pub(super) fn sample(&mut self, name: &str, labels: &str, value: impl Display) {
        self.raw_sample(&format!("tipring_{name}"), labels, value);
    }

    /// OpenMetrics calls a counter's family by its name without `_total`.
    pub(super) fn raw_head(&mut self, name: &str, kind: &str, help: &str) {
        let family = match self.format {
            Format::OpenMetrics if kind == "counter" => name.strip_suffix("_total").unwrap_or(name),
            _ => name,
        };
        let _ = writeln!(self.lines, "# HELP {family} {help}\n# TYPE {family} {kind}");
    }

    pub(super) fn raw_sample(&mut self, name: &str, labels: &str, value: impl Display) {
        let _ = match labels {
            "" => writeln!(self.lines, "{name} {value}"),
            labels => writeln!(self.lines, "{name}{{{labels}}} {value}"),
        };
    }

    pub(super) fn spread(&mut self, name: &str, help: &str, spread: &Spread) {
        self.raw_head(name, "histogram", help);
        self.buckets(name, "", spread.bounds, &spread.counts, spread.sum as f64 / 1e6);
    }

    pub(super) fn shard_counter(&mut self, shard: &Figures, counter: Counter) {
        let (name, labels, count) = (counter.name(), of_shard(shard, counter.labels()), shard.count(counter));
        match name.ends_with("_seconds_total") {
            true => self.raw_sample(name, &labels, count as f64 / 1e9),
            false => self.raw_sample(name, &labels, count),
        }
    }

    pub(super) fn shard_histogram(&mut self, shard: &Figures, histogram: Histogram) {
        let (counts, sum) = shard.histogram(histogram);
        let labels = of_shard(shard, histogram.labels());
        self.buckets(histogram.name(), &labels, &BUCKET_BOUNDS_MICROS, &counts, sum.as_secs_f64());
    }

    /// `bounds` in millionths; one more count than bounds.
    fn buckets(&mut self, name: &str, labels: &str, bounds: &[u64], counts: &[u64], sum: f64) {
        let bounds = bounds.iter().map(|bound| seconds(*bound)).chain(["+Inf".to_owned()]);
        let comma = if labels.is_empty() { "" } else { "," };
        let mut below = 0;
        for (bound, count) in bounds.zip(counts) {
            below += count;
            self.raw_sample(&format!("{name}_bucket"), &format!("{labels}{comma}le=\"{bound}\""), below);
        }
        self.raw_sample(&format!("{name}_sum"), labels, sum);
        self.raw_sample(&format!("{name}_count"), labels, below);
    }
}

/// These labels and the shard's.
pub(super) fn of_shard(shard: &Figures, labels: &str) -> String {
    let comma = if labels.is_empty() { "" } else { "," };
    format!("{labels}{comma}shard=\"{}\"", shard.shard().0)
}

/// Exact, without the noise of a division in binary.
fn seconds(micros: u64) -> String {
    let text = format!("{}.{:06}", micros / 1_000_000, micros % 1_000_000);
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_prefers_openmetrics_gets_it() {
        let prometheus = "application/openmetrics-text;version=1.0.0;q=0.6,application/openmetrics-text;version=0.0.1;q=0.5,\
                          text/plain;version=0.0.4;q=0.3,*/*;q=0.2";
        for (accept, expected) in [
            (prometheus, Format::OpenMetrics),
            ("application/openmetrics-text", Format::OpenMetrics),
            ("text/plain;q=0.9, Application/OpenMetrics-Text; version=1.0.0", Format::OpenMetrics),
            ("application/openmetrics-text;q=0.2, text/plain;q=0.9", Format::Prometheus),
            ("application/openmetrics-text;q=0", Format::Prometheus),
            ("application/openmetrics-text;q=x", Format::Prometheus),
            ("text/html, */*;q=0.1", Format::Prometheus),
            ("", Format::Prometheus),
        ] {
            assert_eq!(Format::asked(accept), expected, "{accept}");
        }
    }
}
