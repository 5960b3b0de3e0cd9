//! The values of a scenario that people write as text: times and spreads of times.

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

#[cfg(test)]
mod tests {
    use super::*;

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
