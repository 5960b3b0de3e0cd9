//! All checkers on one machine, and the results as a table and as JSON.

use std::fmt::Write;

use serde::Serialize;

use crate::process::tune::checker::Checker;
use crate::process::tune::checker::Context;
use crate::process::tune::checker::Finding;
use crate::process::tune::checker::Severity;
use crate::process::tune::checker::State;
use crate::process::tune::checkers;
use crate::process::tune::profile::Profile;

/// One finding with what its checker says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Checked {
    pub check: String,
    /// An interface, a disk; empty for the machine.
    pub subject: String,
    pub severity: Severity,
    pub ok: bool,
    pub wanted: String,
    pub found: String,
    pub reason: String,
    pub cost: String,
    #[serde(skip)]
    pub finding: Finding,
}

impl Checked {
    pub fn of(checker: &Checker, finding: Finding, profile: &Profile) -> Self {
        // What cannot be told is no ground to refuse anything.
        let severity = match finding.state {
            State::Unknown => profile.severity(checker).min(Severity::Warning),
            _ => profile.severity(checker),
        };
        Self {
            check: checker.name.to_string(),
            subject: finding.subject.clone(),
            severity,
            ok: finding.state == State::Right,
            wanted: finding.wanted.clone(),
            found: match finding.state {
                State::Unknown => format!("unknown: {}", finding.found),
                _ => finding.found.clone(),
            },
            reason: checker.reason.to_owned(),
            cost: checker.cost.to_owned(),
            finding,
        }
    }

    /// One line for a log.
    pub fn line(&self) -> String {
        let subject = if self.subject.is_empty() { String::new() } else { format!(" of {}", self.subject) };
        format!("{}{subject}: wanted {}, found {}", self.check, self.wanted, self.found)
    }
}

/// The checkers that a profile does not switch off.
pub fn checkers(profile: &Profile) -> Vec<Checker> {
    checkers::all(profile).into_iter().filter(|checker| profile.severity(checker) != Severity::Off).collect()
}

pub fn check(context: &Context<'_>) -> Vec<Checked> {
    let mut results = Vec::new();
    for checker in checkers(context.profile) {
        let findings = (checker.look)(&checker, context);
        results.extend(findings.into_iter().map(|finding| Checked::of(&checker, finding, context.profile)));
    }
    results
}

/// 0 right, 1 a warning, 2 fatal.
pub fn exit_code<'a>(results: impl IntoIterator<Item = &'a Checked>) -> u8 {
    let wrong = results.into_iter().filter(|result| !result.ok).map(|result| result.severity);
    match wrong.max() {
        Some(Severity::Fatal) => 2,
        Some(Severity::Warning) => 1,
        _ => 0,
    }
}

const LINE_BYTES_MAX: usize = 48;

/// For people: what is wrong says why it matters.
pub fn table(results: &[Checked]) -> String {
    let name = |result: &Checked| match result.subject.as_str() {
        "" => result.check.clone(),
        subject => format!("{} {subject}", result.check),
    };
    let cut = |text: &str| match text.char_indices().nth(LINE_BYTES_MAX) {
        Some((at, _)) => format!("{}…", &text[..at]),
        None => text.to_owned(),
    };
    let width = results.iter().map(|result| name(result).len()).max().unwrap_or(0);
    let mut table = String::new();
    for result in results {
        let state = match (result.ok, result.finding.state) {
            (true, _) => "right",
            (_, State::Unknown) => "unknown",
            _ => result.severity.name(),
        };
        let found = if result.ok { cut(&result.found) } else { result.found.clone() };
        let _ = writeln!(table, "{state:<8} {:<width$}  {found}", name(result));
        if !result.ok {
            let _ = writeln!(table, "{:<8} wanted: {}\n{:<8} {}", "", result.wanted, "", result.cost);
        }
    }
    let count = |of: fn(&Checked) -> bool| results.iter().filter(|result| of(result)).count();
    let wrong = |severity: Severity| results.iter().filter(|r| !r.ok && r.severity == severity).count();
    let _ = writeln!(
        table,
        "{} right, {} warnings, {} fatal",
        count(|result| result.ok),
        wrong(Severity::Warning),
        wrong(Severity::Fatal)
    );
    table
}

pub fn json(results: &[Checked]) -> String {
    serde_json::to_string_pretty(results).unwrap_or_default() + "\n"
}
