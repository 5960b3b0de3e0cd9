//! The phones of a population: ranges of users, or the lines of a file.

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use serde::Deserialize;
use serde::Deserializer;
use serde::Serialize;
use serde::Serializer;
use serde::de;
use serde::de::MapAccess;
use serde::de::Visitor;
use serde::ser::SerializeMap;

use crate::process::phlem::scenario::Fault;
use crate::process::phlem::scenario::accounts::Account;
use crate::process::phlem::scenario::accounts::Accounts;

/// The users of a population: "1001-1050", "1001-1010,2001", "alice"; leading zeros are kept. Or a file with a line for each:
/// `{ csv = "phones.csv" }`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Users(Source);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Source {
    Ranges(Vec<Part>),
    /// A file that has not been read yet.
    Named(String),
    File(Arc<Accounts>),
}

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
        Self(Source::Ranges(Vec::new()))
    }

    /// Reads the file, if it is one and has not been read.
    pub(super) fn read(&mut self, folder: &Path) -> Result<(), Fault> {
        if let Source::Named(file) = &self.0 {
            self.0 = Source::File(Arc::new(Accounts::read(file, folder)?));
        }
        Ok(())
    }

    pub fn count(&self) -> u32 {
        match &self.0 {
            Source::Ranges(parts) => parts.iter().map(|part| part.count).sum(),
            Source::Named(_) => 0,
            Source::File(accounts) => accounts.list.len() as u32,
        }
    }

    /// Whether `user` is the phone with this number; makes no text.
    pub fn is(&self, number: u32, user: &str) -> bool {
        match self.of(number) {
            User::Nobody => false,
            User::Named(own) => own == user,
            User::Numbered(part, value) => {
                let own = user.strip_prefix(part.prefix.as_str());
                own.is_some_and(|digits| match part.digits {
                    0 => digits.is_empty(),
                    width => {
                        digits.len() >= width
                            && digits.parse() == Ok(value)
                            && (digits.len() == width || !digits.starts_with('0'))
                    }
                })
            }
        }
    }

    /// The user of the phone with this number, from 0.
    pub fn user(&self, number: u32) -> Option<String> {
        (number < self.count()).then(|| self.of(number).to_string())
    }

    /// The same without making text; nothing for a number that no phone has.
    pub fn of(&self, number: u32) -> User<'_> {
        let Source::Ranges(parts) = &self.0 else {
            return self.account(number).map_or(User::Nobody, |account| User::Named(&account.user));
        };
        let mut left = number;
        for part in parts {
            if left < part.count {
                return User::Numbered(part, part.first + u64::from(left));
            }
            left -= part.count;
        }
        User::Nobody
    }

    /// What a file says of the phone with this number.
    pub fn account(&self, number: u32) -> Option<&Account> {
        let Source::File(accounts) = &self.0 else { return None };
        accounts.list.get(number as usize)
    }
}

/// One user, as text when it is written.
#[derive(Clone, Copy, Debug)]
pub enum User<'a> {
    Nobody,
    Named(&'a str),
    #[expect(private_interfaces, reason = "only the text of it is anybody's")]
    Numbered(&'a Part, u64),
}

impl fmt::Display for User<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Nobody => Ok(()),
            Self::Named(user) => f.write_str(user),
            Self::Numbered(part, number) => {
                f.write_str(&part.prefix)?;
                let digits = part.digits;
                if digits > 0 { write!(f, "{number:0digits$}") } else { Ok(()) }
            }
        }
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
        Ok(Self(Source::Ranges(parts)))
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

fn ranges(parts: &[Part]) -> String {
    let text = |Part { prefix, first, digits, count }: &Part| match *digits {
        0 => prefix.clone(),
        digits => {
            let last = first + u64::from(count - 1);
            format!("{prefix}{first:0digits$}-{prefix}{last:0digits$}")
        }
    };
    parts.iter().map(text).collect::<Vec<_>>().join(",")
}

/// A file goes with its text: other machines do not have it.
impl Serialize for Users {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let (file, text) = match &self.0 {
            Source::Ranges(parts) => return serializer.serialize_str(&ranges(parts)),
            Source::Named(file) => (file, None),
            Source::File(accounts) => (&accounts.file, Some(&accounts.text)),
        };
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("csv", file)?;
        if let Some(text) = text {
            map.serialize_entry("text", text)?;
        }
        map.end()
    }
}

impl<'de> Deserialize<'de> for Users {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(UsersVisitor)
    }
}

struct UsersVisitor;

impl<'de> Visitor<'de> for UsersVisitor {
    type Value = Users;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("users such as \"1001-1050\", or a file: { csv = \"phones.csv\" }")
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Users, E> {
        Users::try_from(text.to_owned()).map_err(E::custom)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Users, A::Error> {
        let (mut csv, mut text) = (None::<String>, None::<String>);
        while let Some(key) = map.next_key::<String>()? {
            match key.as_str() {
                "csv" => csv = Some(map.next_value()?),
                "text" => text = Some(map.next_value()?),
                _ => return Err(de::Error::unknown_field(&key, &["csv", "text"])),
            }
        }
        let file = csv.ok_or_else(|| de::Error::missing_field("csv"))?;
        match text {
            None => Ok(Users(Source::Named(file))),
            Some(text) => match Accounts::parse(&file, &file, text) {
                Ok(accounts) => Ok(Users(Source::File(Arc::new(accounts)))),
                Err(fault) => Err(de::Error::custom(fault)),
            },
        }
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
            let written = serde_json::to_string(&users).unwrap();
            assert_eq!(serde_json::from_str::<Users>(&written).unwrap(), users);
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
}
