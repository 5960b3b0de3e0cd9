//! Lines over time and bars of a distribution as inline SVG.

use std::fmt::Write;
use std::time::Duration;

use crate::process::phlem::figures::Histogram;
use crate::process::phlem::text;

const WIDTH: f64 = 520.0;
const HEIGHT: f64 = 190.0;
const LEFT: f64 = 52.0;
const RIGHT: f64 = 10.0;
const TOP: f64 = 10.0;
const BOTTOM: f64 = 24.0;
const BARS: usize = 40;

/// A line; where it has no value it is interrupted.
pub(super) struct Series {
    pub(super) name: &'static str,
    pub(super) values: Vec<Option<f64>>,
}

/// `times` are those of all series' values.
pub(super) fn lines(title: &str, unit: &str, times: &[Duration], series: &[Series]) -> String {
    let mut svg = open(title, unit);
    let end = times.last().map_or(1.0, |last| last.as_secs_f64()).max(1.0);
    let top = nice(series.iter().flat_map(|series| series.values.iter().flatten()).copied().fold(0.0, f64::max));
    let x = |seconds: f64| LEFT + (WIDTH - LEFT - RIGHT) * seconds / end;
    grid(&mut svg, top);
    labels(&mut svg, &[0.0, 0.25, 0.5, 0.75, 1.0], |part| text::clock(Duration::from_secs_f64(end * part)));
    for (index, series) in series.iter().enumerate() {
        let mut points: Vec<String> = Vec::new();
        for (time, value) in times.iter().zip(series.values.iter().copied()).map(|(t, v)| (t.as_secs_f64(), v)) {
            match value {
                Some(value) => points.push(format!("{:.1},{:.1}", x(time), y(value, top))),
                None => draw(&mut svg, index, &mut points),
            }
        }
        draw(&mut svg, index, &mut points);
    }
    svg.push_str("</svg>");
    legend(&mut svg, series);
    svg.push_str("</figure>");
    svg
}

fn draw(svg: &mut String, index: usize, points: &mut Vec<String>) {
    if let Some(first) = points.first().cloned() {
        if points.len() == 1 {
            // A line of one point would not be seen.
            let (x, y) = first.split_once(',').unwrap_or_default();
            let _ = write!(svg, r#"<circle class="l{index}" cx="{x}" cy="{y}" r="1.5"/>"#);
        } else {
            let _ = write!(svg, r#"<polyline class="l{index}" points="{}"/>"#, points.join(" "));
        }
    }
    points.clear();
}

/// A distribution of durations, each bar as wide as the next in the logarithm.
pub(super) fn bars(title: &str, histogram: &Histogram) -> String {
    let mut svg = open(title, "share of all");
    let range = histogram.min().zip(histogram.max()).filter(|_| !histogram.is_empty());
    let Some((min, max)) = range else {
        let _ = write!(
            svg,
            r#"<text x="{}" y="{}" text-anchor="middle">none</text></svg></figure>"#,
            WIDTH / 2.0,
            HEIGHT / 2.0
        );
        return svg;
    };
    let low = (min.max(1_000) as f64).log10();
    let high = (max.max(2_000) as f64).log10().max(low + 0.3);
    let mut counts = [0u64; BARS];
    for (value, count) in histogram.filled() {
        let place = ((value.max(1_000) as f64).log10() - low) / (high - low) * BARS as f64;
        counts[(place.max(0.0) as usize).min(BARS - 1)] += count;
    }
    let share = |count: u64| 100.0 * count as f64 / histogram.count() as f64;
    let top = nice(counts.iter().copied().map(share).fold(0.0, f64::max));
    grid(&mut svg, top);
    let width = (WIDTH - LEFT - RIGHT) / BARS as f64;
    for (index, count) in counts.iter().enumerate().filter(|(_, count)| **count > 0) {
        let (x, y) = (LEFT + width * index as f64, y(share(*count), top));
        let height = (HEIGHT - BOTTOM - y).max(1.0);
        let _ = write!(
            svg,
            r#"<rect class="bar" x="{x:.1}" y="{:.1}" width="{:.1}" height="{height:.1}"/>"#,
            HEIGHT - BOTTOM - height,
            width - 1.0
        );
    }
    labels(&mut svg, &[0.0, 0.5, 1.0], |part| {
        text::duration(Some(Duration::from_nanos(10f64.powf(low + (high - low) * part) as u64)))
    });
    svg.push_str("</svg></figure>");
    svg
}

fn open(title: &str, unit: &str) -> String {
    format!(
        r#"<figure><figcaption>{title} <small>{unit}</small></figcaption><svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{title}">"#
    )
}

fn y(value: f64, top: f64) -> f64 {
    TOP + (HEIGHT - TOP - BOTTOM) * (1.0 - (value / top).clamp(0.0, 1.0))
}

fn grid(svg: &mut String, top: f64) {
    for part in [0.0, 0.5, 1.0] {
        let y = y(top * part, top);
        let _ = write!(svg, r#"<line x1="{LEFT}" x2="{}" y1="{y:.1}" y2="{y:.1}"/>"#, WIDTH - RIGHT);
        let _ = write!(
            svg,
            r#"<text x="{}" y="{:.1}" text-anchor="end">{}</text>"#,
            LEFT - 5.0,
            y + 4.0,
            short(top * part)
        );
    }
}

/// Under the plot, at these parts of its width.
fn labels(svg: &mut String, parts: &[f64], label: impl Fn(f64) -> String) {
    for part in parts.iter().copied() {
        let anchor = match part {
            0.0 => "start",
            1.0 => "end",
            _ => "middle",
        };
        let (x, y) = (LEFT + (WIDTH - LEFT - RIGHT) * part, HEIGHT - 6.0);
        let _ = write!(svg, r#"<text x="{x:.1}" y="{y}" text-anchor="{anchor}">{}</text>"#, label(part));
    }
}

fn legend(text: &mut String, series: &[Series]) {
    if series.len() > 1 {
        text.push_str("<p class=\"legend\">");
        for (index, series) in series.iter().enumerate() {
            let _ = write!(text, "<i class=\"k{index}\"></i>{} ", series.name);
        }
        text.push_str("</p>");
    }
}

/// 1, 2 or 5 times a power of ten: the end of an axis.
fn nice(value: f64) -> f64 {
    if value <= 0.0 {
        return 1.0;
    }
    let power = 10f64.powf(value.log10().floor());
    [1.0, 2.0, 5.0, 10.0].into_iter().map(|step| step * power).find(|end| *end >= value * 0.999).unwrap_or(value)
}

fn short(value: f64) -> String {
    let text = if value >= 100.0 { format!("{value:.0}") } else { format!("{value:.3}") };
    if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.').to_owned() } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn axes_end_at_round_numbers() {
        for (value, end) in
            [(0.0, 1.0), (0.7, 1.0), (1.0, 1.0), (1.1, 2.0), (49.0, 50.0), (51.0, 100.0), (0.003, 0.005)]
        {
            assert!((nice(value) - end).abs() < end * 1e-9, "{value}: {}", nice(value));
        }
        assert_eq!(
            (short(0.0), short(2.5), short(1_000.0), short(100.0)),
            ("0".into(), "2.5".into(), "1000".into(), "100".into())
        );
    }

    #[test]
    fn lines_stop_where_there_is_nothing() {
        let times: Vec<_> = (1..=5).map(Duration::from_secs).collect();
        let values = vec![Some(1.0), Some(2.0), None, Some(3.0), None];
        let svg = lines("t", "u", &times, &[Series { name: "one", values }]);
        assert_eq!((svg.matches("<polyline").count(), svg.matches("<circle").count()), (1, 1), "{svg}");
        assert!(!svg.contains("NaN"));
        assert!(!lines("t", "u", &[], &[]).contains("NaN"));
    }

    #[test]
    fn bars_hold_all_there_is() {
        let mut histogram = Histogram::default();
        (1..=1_000u64).for_each(|value| histogram.record(value * 50_000));
        let svg = bars("t", &histogram);
        assert!(svg.matches("<rect").count() > 20 && !svg.contains("NaN"), "{svg}");
        assert!(bars("t", &Histogram::default()).contains("none"));
        let mut single = Histogram::default();
        single.record(7);
        assert_eq!(bars("t", &single).matches("<rect").count(), 1);
    }
}
