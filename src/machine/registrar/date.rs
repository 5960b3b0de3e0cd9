//! The Date header (RFC 3261 §20.17): phones without a clock of their own set theirs by it.

use arrayvec::ArrayString;

use crate::base::time::UnixTime;

const DAYS: [&str; 7] = ["Thu", "Fri", "Sat", "Sun", "Mon", "Tue", "Wed"];
const MONTHS: [&str; 12] = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];

/// `Sun, 06 Nov 1994 08:49:37 GMT`.
type Date = ArrayString<29>;

pub(super) fn date(at: UnixTime) -> Date {
    let (days, secs) = (at.secs() / 86_400, at.secs() % 86_400);
    // Days to a date in a calendar whose year begins with March, so that the leap day is its last.
    let shifted = days + 719_468;
    let (era, day_of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month + 2) / 5 + 1;
    let month = (month + 2) % 12;
    let year = era * 400 + year_of_era + u64::from(month < 2);
    let name = |names: &[&'static str], index: u64| names.get(index as usize).copied().unwrap_or_default();
    let mut text = Date::new();
    let mut push = |part: &str| text.push_str(part);
    push(name(&DAYS, days % 7));
    push(", ");
    push(&two_digits(day));
    push(" ");
    push(name(&MONTHS, month));
    push(" ");
    push(itoa::Buffer::new().format(year.min(9_999)));
    for (border, number) in [(" ", secs / 3_600), (":", secs / 60 % 60), (":", secs % 60)] {
        push(border);
        push(&two_digits(number));
    }
    push(" GMT");
    text
}

fn two_digits(number: u64) -> ArrayString<2> {
    let mut text = ArrayString::new();
    for digit in [number / 10 % 10, number % 10] {
        text.push(char::from(b'0' + digit as u8));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates() {
        for (secs, text) in [
            (0, "Thu, 01 Jan 1970 00:00:00 GMT"),
            (784_111_777, "Sun, 06 Nov 1994 08:49:37 GMT"),
            (951_782_400, "Tue, 29 Feb 2000 00:00:00 GMT"),
            (951_868_799, "Tue, 29 Feb 2000 23:59:59 GMT"),
            (1_709_251_200, "Fri, 01 Mar 2024 00:00:00 GMT"),
            (4_102_444_799, "Thu, 31 Dec 2099 23:59:59 GMT"),
        ] {
            assert_eq!(date(UnixTime::from_secs(secs)).as_str(), text);
        }
    }
}
