//! The values of a scenario that people write as text: times, spreads of times, ranges of phones.

use std::fmt;
use std::time::Duration;

use serde::Deserialize;
use serde::Serialize;

use crate::base::random::Random;

/// A time such as "500ms", "20s", "5m", "2h".
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Span(pub Duration);

impl Span {
    pub const fn secs(secs: u64) -> Self {
        Self(Duration::from_secs(secs))
    }

    fn parse(text: &str) -> Result<Duration, String> {
        let text = text.trim();
        let digits = text.bytes().take_while(|byte| byte.is_ascii_digit() || *byte == b'.').count();
        let (number, unit) = text.split_at(digits);
        let bad = || format!("\"{text}\" is no time: write a number and ms, s, m or h, such as \"20s\"");
        let seconds = match unit.trim() {
            "ms" => 0.001,
            "s" => 1.0,
            "m" => 60.0,
            "h" => 3_600.0,
            _ => return Err(bad()),
        };
        let number: f64 = number.parse().map_err(|_| bad())?;
        Duration::try_from_secs_f64(number * seconds)
            .ok()
            .filter(|duration| *duration <= Duration::from_secs(366 * 24 * 3_600))
            .ok_or_else(|| format!("\"{text}\" is longer than a year"))
    }
}

impl TryFrom<String> for Span {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        Self::parse(&text).map(Self)
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let millis = self.0.as_millis();
        if millis.is_multiple_of(1_000) { write!(f, "{}s", millis / 1_000) } else { write!(f, "{millis}ms") }
    }
}

impl From<Span> for String {
    fn from(span: Span) -> Self {
        span.to_string()
    }
}

/// How a time differs from phone to phone: "3s", evenly "1s-4s", or exponentially around a mean "exp 30s".
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Spread {
    Even(Span, Span),
    Exponential(Span),
}

impl Spread {
    pub const fn even(from: Duration, to: Duration) -> Self {
        Self::Even(Span(from), Span(to))
    }

    pub fn draw(&self, random: &mut Random) -> Duration {
        match self {
            Self::Even(from, to) => {
                let width = u64::try_from(to.0.saturating_sub(from.0).as_nanos()).unwrap_or(u64::MAX);
                from.0 + Duration::from_nanos(random.below(width.saturating_add(1)))
            }
            // Twenty times the mean happens once in half a billion draws: enough, and never endless.
            Self::Exponential(mean) => mean.0.mul_f64(exponential(random).min(20.0)),
        }
    }
}

/// Exponentially distributed with mean 1: the gaps of a Poisson process.
pub fn exponential(random: &mut Random) -> f64 {
    // 53 bits, and never 0.
    let uniform = ((random.next_u64() >> 11) + 1) as f64 / (1u64 << 53) as f64;
    -uniform.ln()
}

impl TryFrom<String> for Spread {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        if let Some(mean) = text.trim().strip_prefix("exp ") {
            return Span::parse(mean).map(|mean| Self::Exponential(Span(mean)));
        }
        let (from, to) = text.split_once('-').unwrap_or((&text, &text));
        let (from, to) = (Span::parse(from)?, Span::parse(to)?);
        if from > to { Err(format!("\"{text}\" runs backwards")) } else { Ok(Self::even(from, to)) }
    }
}

impl fmt::Display for Spread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Even(from, to) if from == to => from.fmt(f),
            Self::Even(from, to) => write!(f, "{from}-{to}"),
            Self::Exponential(mean) => write!(f, "exp {mean}"),
        }
    }
}

impl From<Spread> for String {
    fn from(spread: Spread) -> Self {
        spread.to_string()
    }
}

/// The users of a population: "1001-1050", "1001-1010,2001", "alice". Leading zeros are kept.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Users(Vec<Part>);

#[derive(Clone, Debug, PartialEq, Eq)]
struct Part {
    prefix: String,
    first: u64,
    digits: usize,
    count: u32,
}

/// Phones of one population.
pub const USERS_MAX: u32 = 1_000_000;

impl Users {
    pub const fn none() -> Self {
        Self(Vec::new())
    }

    pub fn count(&self) -> u32 {
        self.0.iter().map(|part| part.count).sum()
    }

    /// Whether `user` is the phone with this number; makes no text.
    pub fn is(&self, number: u32, user: &str) -> bool {
        let mut left = number;
        for part in &self.0 {
            if left < part.count {
                let own = user.strip_prefix(part.prefix.as_str());
                return own.is_some_and(|digits| match part.digits {
                    0 => digits.is_empty(),
                    width => {
                        let value = part.first + u64::from(left);
                        digits.len() >= width
                            && digits.parse() == Ok(value)
                            && (digits.len() == width || !digits.starts_with('0'))
                    }
                });
            }
            left -= part.count;
        }
        false
    }

    /// The user of the phone with this number, from 0.
    pub fn user(&self, number: u32) -> Option<String> {
        (number < self.count()).then(|| self.of(number).to_string())
    }

    /// The same without making text; nothing for a number that no phone has.
    pub fn of(&self, number: u32) -> User<'_> {
        let mut left = number;
        for part in &self.0 {
            if left < part.count {
                return User(Some((part, part.first + u64::from(left))));
            }
            left -= part.count;
        }
        User(None)
    }
}

/// One user, as text when it is written.
#[derive(Clone, Copy, Debug)]
pub struct User<'a>(Option<(&'a Part, u64)>);

impl fmt::Display for User<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some((part, number)) = self.0 else { return Ok(()) };
        f.write_str(&part.prefix)?;
        let digits = part.digits;
        if digits > 0 { write!(f, "{number:0digits$}") } else { Ok(()) }
    }
}

impl TryFrom<String> for Users {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let mut parts = Vec::new();
        for item in text.split(',').map(str::trim) {
            parts.push(part(item).ok_or_else(|| {
                format!("\"{item}\" is neither a user nor a range of users such as \"1001-1050\" or \"p001-p999\"")
            })?);
        }
        let total: u64 = parts.iter().map(|part| u64::from(part.count)).sum();
        if total > u64::from(USERS_MAX) {
            return Err(format!("\"{text}\" is more than {USERS_MAX} phones"));
        }
        Ok(Self(parts))
    }
}

fn part(item: &str) -> Option<Part> {
    let is_user = |text: &str| {
        !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_.+~*".contains(&byte))
    };
    let Some((from, to)) = item.split_once('-') else {
        return is_user(item).then(|| Part { prefix: item.to_owned(), first: 0, digits: 0, count: 1 });
    };
    let split = |text: &str| {
        let letters = text.trim_end_matches(|c: char| c.is_ascii_digit()).len();
        let (prefix, digits) = text.split_at(letters);
        is_user(text).then_some(())?;
        Some((prefix.to_owned(), digits.len(), digits.parse::<u64>().ok()?))
    };
    let ((prefix, digits, first), (prefix_last, digits_last, last)) = (split(from)?, split(to)?);
    let is_padded = digits > 1 && from[prefix.len()..].starts_with('0');
    let same = prefix == prefix_last && (digits == digits_last || !is_padded);
    let count = u32::try_from(last.checked_sub(first)?.checked_add(1)?).ok()?;
    (same && digits > 0).then_some(Part { prefix, first, digits, count })
}

impl fmt::Display for Users {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, Part { prefix, first, digits, count }) in self.0.iter().enumerate() {
            f.write_str(if index > 0 { "," } else { "" })?;
            match digits {
                0 => f.write_str(prefix)?,
                _ => {
                    let last = first + u64::from(count - 1);
                    write!(f, "{prefix}{first:0digits$}-{prefix}{last:0digits$}")?;
                }
            }
        }
        Ok(())
    }
}

impl From<Users> for String {
    fn from(users: Users) -> Self {
        users.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users() {
        let check = |text: &str, count: u32, last: &str| {
            let users = Users::try_from(text.to_owned()).unwrap();
            assert_eq!(users.count(), count, "{text}");
            assert_eq!(users.user(count - 1).as_deref(), Some(last));
            assert_eq!(users.user(count), None);
            assert!(users.is(count - 1, last) && !users.is(count - 1, "x") && !users.is(count, last));
            assert_eq!(Users::try_from(users.to_string()), Ok(users));
        };
        check("1001-1050", 50, "1050");
        check("p001-p099, alice", 100, "alice");
        check("p001-p099", 99, "p099");
        check("1001-1003,2001-2002", 5, "2002");
        check("8-12", 5, "12");
        check("u0-u39", 40, "u39");
        for bad in ["", "5-1", "a-b", "x1-y5", "1001-", "a b", "0-2000000", "01-005"] {
            assert!(Users::try_from(bad.to_owned()).is_err(), "{bad}");
        }
    }

    #[test]
    fn spans_and_spreads() {
        assert_eq!(Span::try_from("1.5s".to_owned()), Ok(Span(Duration::from_millis(1_500))));
        assert_eq!(Span::try_from("2h".to_owned()), Ok(Span::secs(7_200)));
        for bad in ["", "5", "s", "-1s", "5 days", "9999999h"] {
            assert!(Span::try_from(bad.to_owned()).is_err(), "{bad}");
        }
        assert!(Spread::try_from("4s-1s".to_owned()).is_err());
        let mut random = Random::new(3);
        let even = Spread::try_from("1s-4s".to_owned()).unwrap();
        assert_eq!(Spread::try_from(even.to_string()), Ok(even));
        for _ in 0..1_000 {
            let drawn = even.draw(&mut random);
            assert!(drawn >= Duration::from_secs(1) && drawn <= Duration::from_secs(4));
        }
        let mean = Spread::try_from("exp 10s".to_owned()).unwrap();
        let sum: Duration = (0..10_000).map(|_| mean.draw(&mut random)).sum();
        let mean = sum.as_secs_f64() / 10_000.0;
        assert!((9.5..10.5).contains(&mean), "{mean}");
    }
}
