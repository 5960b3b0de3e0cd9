//! Figures as people read them.

use std::time::Duration;

/// Three digits and a unit; a dash for what is not known.
pub(crate) fn duration(duration: Option<Duration>) -> String {
    let Some(duration) = duration else { return "–".to_owned() };
    let micros = duration.as_secs_f64() * 1e6;
    match micros {
        ..999.5 => format!("{micros:.0} µs"),
        ..99_950.0 => format!("{:.1} ms", micros / 1e3),
        ..999_500.0 => format!("{:.0} ms", micros / 1e3),
        ..119.95e6 => format!("{:.1} s", micros / 1e6),
        _ => format!("{} min", (micros / 60e6).round()),
    }
}

/// Hundredths, with as many digits as it takes to tell little from nothing.
pub(crate) fn percent(part: Option<f64>) -> String {
    match part.map(|part| part * 100.0) {
        None => "–".to_owned(),
        Some(0.0) => "0 %".to_owned(),
        Some(percent) if percent < 0.1 => format!("{percent:.4} %"),
        Some(percent) => format!("{percent:.2} %"),
    }
}

pub(crate) fn mos(mos: Option<f64>) -> String {
    mos.map_or_else(|| "–".to_owned(), |mos| format!("{mos:.2}"))
}

/// Minutes and seconds since the start.
pub(crate) fn clock(elapsed: Duration) -> String {
    let seconds = elapsed.as_secs();
    format!("{}:{:02}", seconds / 60, seconds % 60)
}

/// With a comma between thousands.
pub(crate) fn count(count: u64) -> String {
    let digits = count.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations() {
        let check = |nanos: u64, text: &str| assert_eq!(duration(Some(Duration::from_nanos(nanos))), text);
        check(0, "0 µs");
        check(999_400, "999 µs");
        check(999_600, "1.0 ms");
        check(12_340_000, "12.3 ms");
        check(123_400_000, "123 ms");
        check(1_230_000_000, "1.2 s");
        check(180_000_000_000, "3 min");
        assert_eq!(duration(None), "–");
    }

    #[test]
    fn shares_and_counts() {
        assert_eq!((percent(Some(0.0)), percent(Some(0.000_01))), ("0 %".to_owned(), "0.0010 %".to_owned()));
        assert_eq!((percent(Some(0.5)), percent(None)), ("50.00 %".to_owned(), "–".to_owned()));
        assert_eq!((count(7), count(1_234_567)), ("7".to_owned(), "1,234,567".to_owned()));
        assert_eq!(clock(Duration::from_secs(75)), "1:15");
    }
}
