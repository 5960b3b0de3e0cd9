//! Actions as text: a list for people, and a POSIX shell script that an auditor can read before root runs it.

use std::fmt::Write;

use crate::process::tune::check::Checked;
use crate::process::tune::checker::Action;

/// A word that the shell takes as it stands.
fn quote(word: &str) -> String {
    let is_plain = |b: u8| b.is_ascii_alphanumeric() || b"-_./:=,@%+".contains(&b);
    match !word.is_empty() && word.bytes().all(is_plain) {
        true => word.to_owned(),
        false => format!("'{}'", word.replace('\'', "'\\''")),
    }
}

/// For a comment.
fn one_line(text: &str) -> String {
    text.replace(['\n', '\r'], " ")
}

/// What `--apply` would do.
pub fn plan(results: &[Checked]) -> String {
    let mut plan = String::new();
    for result in results.iter().filter(|result| !result.finding.actions.is_empty()) {
        let _ = writeln!(plan, "{}", one_line(&result.line()));
        for action in &result.finding.actions {
            let _ = match action {
                Action::Write { file, value } => writeln!(plan, "  write {} to /{file}", quote(&one_line(value))),
                Action::Run(words) => writeln!(plan, "  run {}", line(words)),
                Action::ByHand(advice) => writeln!(plan, "  by hand: {}", one_line(advice)),
            };
        }
    }
    match plan.is_empty() {
        true => "nothing to do\n".to_owned(),
        false => plan,
    }
}

fn line(words: &[String]) -> String {
    words.iter().map(|word| quote(word)).collect::<Vec<_>>().join(" ")
}

const HEAD: &str = "\
# Brings a machine to what its profile says. Run it as root; it goes on after a step that fails and ends with 1 then.
# ROOT is put before each file, so that it can be tried on a copy; programs are not run then.
set -u
ROOT=${ROOT-}
failed=0

# put FILE VALUE
put() {
    if ! { printf '%s\\n' \"$2\" >\"$ROOT/$1\"; } 2>/dev/null; then
        echo \"/$1: cannot be written\" >&2
        failed=1
    fi
}

# act PROGRAM WORD...
act() {
    [ -n \"$ROOT\" ] && return
    \"$@\" || { echo \"failed: $*\" >&2; failed=1; }
}
";

pub fn script(profile: &str, results: &[Checked]) -> String {
    let mut script = format!("#!/bin/sh\n# Written by `tipring tune --profile {profile} --render-script`.\n{HEAD}");
    for result in results.iter().filter(|result| !result.finding.actions.is_empty()) {
        let _ = writeln!(script, "\n# {}\n# {}", one_line(&result.line()), one_line(&result.reason));
        for action in &result.finding.actions {
            let _ = match action {
                Action::Write { file, value } => writeln!(script, "put {} {}", quote(file), quote(value)),
                Action::Run(words) => writeln!(script, "act {}", line(words)),
                Action::ByHand(advice) => writeln!(script, "# By hand: {}", one_line(advice)),
            };
        }
    }
    script.push_str("\nexit $failed\n");
    script
}
