//! What can be wrong with a scenario, said with file, line where there is one, key and reason.

use std::collections::BTreeSet;
use std::fmt;

use crate::process::phlem::scenario::Scenario;

/// The first fault of a scenario.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Fault {
    pub file: String,
    pub line: Option<usize>,
    /// From 1, in characters; of a file of accounts.
    pub column: Option<usize>,
    /// With the table it stands in, such as `population[2].users`.
    pub key: String,
    pub reason: String,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:", self.file)?;
        if let Some(line) = self.line {
            write!(f, "{line}:")?;
        }
        if let Some(column) = self.column {
            write!(f, "{column}:")?;
        }
        if !self.key.is_empty() {
            write!(f, " {}:", self.key)?;
        }
        write!(f, " {}", self.reason)
    }
}

impl std::error::Error for Fault {}

/// A fault that the TOML reader found: its place in the text gives line and key.
pub(super) fn fault_of_form(file: &str, text: &str, error: &toml::de::Error) -> Fault {
    let start = error.span().map(|span| span.start.min(text.len()));
    let line = start.map(|start| text.as_bytes()[..start].iter().filter(|byte| **byte == b'\n').count());
    let content = line.and_then(|line| text.lines().nth(line)).unwrap_or_default();
    let own = content.split_once('=').map_or("", |(key, _)| key.trim());
    let table = line.map(|line| table_at(text, line)).unwrap_or_default();
    let key = [table.as_str(), own].into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join(".");
    let reason = error.message().lines().collect::<Vec<_>>().join(" ");
    Fault { file: file.to_owned(), line: line.map(|line| line + 1), column: None, key, reason }
}

/// The table that a line stands in, as `name` or `name[number]`, from 1.
fn table_at(text: &str, line: usize) -> String {
    let header = |line: &str| {
        let line = line.trim();
        let is_list = line.starts_with("[[");
        line.strip_prefix('[').map(|rest| (rest.trim_matches(|c| "[] ".contains(c)).to_owned(), is_list))
    };
    let headers: Vec<_> = text.lines().take(line + 1).filter_map(header).collect();
    match headers.last() {
        None => String::new(),
        Some((name, false)) => name.clone(),
        Some((name, true)) => format!("{name}[{}]", headers.iter().filter(|(other, _)| other == name).count()),
    }
}

struct Checker<'a> {
    file: &'a str,
}

impl Checker<'_> {
    fn fail(&self, key: impl Into<String>, reason: impl Into<String>) -> Result<(), Fault> {
        Err(Fault { file: self.file.to_owned(), key: key.into(), reason: reason.into(), ..Fault::default() })
    }

    fn need(&self, holds: bool, key: impl Into<String>, reason: impl Into<String>) -> Result<(), Fault> {
        if holds { Ok(()) } else { self.fail(key, reason) }
    }

    fn share(&self, key: String, value: f64) -> Result<(), Fault> {
        self.need((0.0..=1.0).contains(&value), key, format!("{value} is no share: 0 to 1"))
    }

    fn shares<const N: usize>(&self, table: &str, shares: [(&str, f64); N], max: f64) -> Result<(), Fault> {
        for (key, value) in shares {
            self.share(format!("{table}.{key}"), value)?;
        }
        let keys: Vec<_> = shares.iter().map(|(key, _)| *key).collect();
        let sum: f64 = shares.iter().map(|(_, value)| value).sum();
        self.need(sum <= max, table, format!("{} together are {sum}, more than 1", keys.join(", ")))
    }
}

impl Scenario {
    pub fn check(&self, file: &str) -> Result<(), Fault> {
        let checker = Checker { file };
        checker.need(
            !self.populations.is_empty(),
            "population",
            "there are no phones: add [[population]] with users",
        )?;
        checker.need((1..=1_024).contains(&self.sockets), "sockets", format!("{} is not 1 to 1024", self.sockets))?;
        checker.need(
            !self.server.trim().is_empty(),
            "server",
            "is empty: host and port, such as \"127.0.0.1:5060\"",
        )?;
        self.check_populations(&checker)?;
        self.check_calls(&checker)?;
        self.check_events(&checker)?;
        self.check_expectations(&checker)
    }

    fn check_populations(&self, checker: &Checker<'_>) -> Result<(), Fault> {
        let mut names = BTreeSet::new();
        for (index, population) in self.populations.iter().enumerate() {
            let table = format!("population[{}]", index + 1);
            let key = |key: &str| format!("{table}.{key}");
            let twice = format!("\"{}\" is there twice", population.name);
            checker.need(names.insert(&population.name), key("name"), twice)?;
            checker.need(
                population.users.count() > 0,
                key("users"),
                "is missing: a range such as \"1001-1050\", or { csv = \"phones.csv\" }",
            )?;
            let shares =
                [("busy", population.busy), ("reject", population.reject), ("no_answer", population.no_answer)];
            checker.shares(&table, shares, 1.000_001)?;
            checker.share(key("early_media"), population.early_media)?;
            checker.share(key("quirky"), population.quirky)?;
            let lines = population.lines;
            checker.need((1..=32).contains(&lines), key("lines"), format!("{lines} is not 1 to 32"))?;
            let expires = population.expires.0.as_secs();
            checker.need(expires >= 10, key("expires"), "is less than 10s: phones would do nothing else")?;
        }
        Ok(())
    }

    fn check_calls(&self, checker: &Checker<'_>) -> Result<(), Fault> {
        for (index, calls) in self.calls.iter().enumerate() {
            let table = format!("calls[{}]", index + 1);
            let key = |key: &str| format!("{table}.{key}");
            let names: Vec<_> = self.populations.iter().map(|population| population.name.as_str()).collect();
            let unknown = format!("there is no population \"{}\"; there are: {}", calls.from, names.join(", "));
            checker.need(self.population(&calls.from).is_some(), key("from"), unknown)?;
            checker.need(!calls.to.is_empty(), key("to"), "is empty: a population, a number or a URI")?;
            let rate = calls.rate;
            checker.need((0.0..=100_000.0).contains(&rate), key("rate"), format!("{rate} is not 0 to 100000"))?;
            let is_curve = calls.curve.len() != 1 && calls.curve.iter().all(|factor| (0.0..=1_000.0).contains(factor));
            checker.need(is_curve, key("curve"), "needs at least two factors from 0 to 1000")?;
            let shares = [("blind_transfer", calls.blind_transfer), ("attended_transfer", calls.attended_transfer)];
            checker.shares(&table, shares, 1.000_001)?;
            for (name, share) in [
                ("hold", calls.hold),
                ("dtmf", calls.dtmf),
                ("missed", calls.missed),
                ("callee_ends", calls.callee_ends),
            ] {
                checker.share(key(name), share)?;
            }
        }
        Ok(())
    }

    fn check_events(&self, checker: &Checker<'_>) -> Result<(), Fault> {
        for (index, event) in self.events.iter().enumerate() {
            let key = |key: &str| format!("event[{}].{key}", index + 1);
            checker.share(key("share"), event.share)?;
            if let Some(name) = &event.population {
                let unknown = format!("there is no population \"{name}\"");
                checker.need(self.population(name).is_some(), key("population"), unknown)?;
            }
            let late = format!("{} is after the end of the scenario ({})", event.at, self.duration);
            checker.need(event.at <= self.duration, key("at"), late)?;
        }
        Ok(())
    }

    fn check_expectations(&self, checker: &Checker<'_>) -> Result<(), Fault> {
        let expect = &self.expect;
        for (key, share) in [
            ("registered_min", expect.registered_min),
            ("calls_good_min", expect.calls_good_min),
            ("loss_max", expect.loss_max),
            ("audio_share_min", expect.audio_share_min),
        ] {
            checker.share(format!("expect.{key}"), share.unwrap_or(0.0))?;
        }
        let mos = expect.mos_min.unwrap_or(1.0);
        checker.need((1.0..=5.0).contains(&mos), "expect.mos_min", format!("{mos} is not 1 to 5"))
    }
}
