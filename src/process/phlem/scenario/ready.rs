//! The scenarios that come with the program.

/// Name and text.
pub const READY: [(&str, &str); 5] = [
    ("busy-hour", include_str!("ready/busy-hour.toml")),
    ("registration-storm", include_str!("ready/registration-storm.toml")),
    ("flash-crowd", include_str!("ready/flash-crowd.toml")),
    ("soak", include_str!("ready/soak.toml")),
    ("misbehaving", include_str!("ready/misbehaving.toml")),
];

pub fn text(name: &str) -> Option<&'static str> {
    READY.iter().find(|(ready, _)| *ready == name).map(|(_, text)| *text)
}
