//! The one place of this process that reads the wall clock, and how times look in JSON: RFC 3339, UTC, milliseconds.

use time::OffsetDateTime;
use time::UtcOffset;
use time::format_description::well_known::Rfc3339;

use crate::base::time::UnixTime;

#[expect(
    clippy::disallowed_methods,
    reason = "the side process is not a machine: it reads the clock here, once per use"
)]
pub(crate) fn now() -> UnixTime {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    UnixTime::from_micros(u64::try_from(since.as_micros()).unwrap_or(u64::MAX))
}

/// `2026-08-14T09:30:00.125Z`; empty for a time beyond the year 9999.
pub(crate) fn text(at: UnixTime) -> String {
    let Ok(date) = OffsetDateTime::from_unix_timestamp_nanos(i128::from(at.micros()) * 1_000) else {
        return String::new();
    };
    if date.year() > 9999 {
        return String::new();
    }
    let (year, month, day) = date.to_calendar_date();
    let (hour, minute, second, milli) = date.to_hms_milli();
    format!("{year:04}-{:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{milli:03}Z", u8::from(month))
}

/// Any RFC 3339 time; what was before 1970 counts as its beginning.
pub(crate) fn parse(text: &str) -> Option<UnixTime> {
    let date = OffsetDateTime::parse(text, &Rfc3339).ok()?.to_offset(UtcOffset::UTC);
    let micros = date.unix_timestamp_nanos() / 1_000;
    u64::try_from(micros.max(0)).ok().map(UnixTime::from_micros)
}

/// As the database holds it: microseconds.
pub(crate) fn to_sql(at: UnixTime) -> i64 {
    i64::try_from(at.micros()).unwrap_or(i64::MAX)
}

pub(crate) fn from_sql(micros: i64) -> UnixTime {
    UnixTime::from_micros(u64::try_from(micros).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_rfc_3339_with_milliseconds() {
        let at = UnixTime::from_micros(1_700_000_000_123_456);
        assert_eq!(text(at), "2023-11-14T22:13:20.123Z");
        assert_eq!(parse("2023-11-14T22:13:20.123456Z"), Some(at));
        assert_eq!(parse("2023-11-15T00:13:20.123456+02:00"), Some(at));
        assert_eq!(parse("0005-03-06T06:06:09Z"), Some(UnixTime::default()));
        for bad in ["", "2023-11-14", "now", "2023-13-14T22:13:20Z"] {
            assert_eq!(parse(bad), None, "{bad}");
        }
        assert_eq!(text(UnixTime::from_micros(u64::MAX)), "");
    }
}
