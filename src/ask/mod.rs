//! `tipring status`, `calls` and the other questions: one command to the keeper's control socket, its answer printed.

mod answer;

use std::io::Read;
use std::io::Write;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::Duration;

use serde_json::Value;
use serde_json::json;
use tipring::process::config::Config;
use tipring::process::exit;
use tipring::process::exit::Failure;
use tipring::process::side::command::trace_of_ended;
use tipring::wire::control;
use tipring::wire::control::Answer;
use tipring::wire::control::Command;
use tipring::wire::control::Query;
use tipring::wire::control::ReplyHead;
use tipring::wire::control::ReplyKind;
use tipring::wire::control::Status;

use crate::Node;
use crate::complain;
use crate::say;

const ANSWER_TIME_MAX: Duration = Duration::from_secs(12);

/// Returns the exit code.
pub(crate) fn run(node: &Node, command: &Command) -> u8 {
    match answer(node, command) {
        Ok((json, text)) => {
            say(&if node.json { format!("{json}\n") } else { text });
            0
        }
        Err(failure) if node.json => {
            say(&format!("{}\n", json!({ "error": failure.line })));
            failure.code
        }
        Err(failure) => {
            // Faults of a file begin with its name.
            let name = if failure.code == exit::CONFIG { "" } else { "tipring: " };
            complain(&format!("{name}{failure}\n"));
            failure.code
        }
    }
}

/// As JSON and as text.
type Said = (Value, String);

fn answer(node: &Node, command: &Command) -> Result<Said, Failure> {
    match command {
        Command::Status => {
            let status = status(node)?;
            let counts = counts(node);
            Ok((answer::status_json(&status, counts), answer::status_text(&status, counts)))
        }
        Command::Drain => {
            let was_draining = status(node)?.draining;
            ask(node, command)?;
            let calls = counts(node).map(|(calls, _)| calls);
            Ok(answer::drained(was_draining, calls))
        }
        Command::Undrain => {
            let was_draining = status(node)?.draining;
            ask(node, command)?;
            let text = if was_draining { "takes new calls again\n" } else { "was not draining: takes new calls\n" };
            Ok((json!({ "ok": true, "draining": false }), text.to_owned()))
        }
        Command::Reload => {
            let note = String::from_utf8_lossy(&ask(node, command)?.concat()).into_owned();
            let text = if note.is_empty() { "reloaded\n".to_owned() } else { format!("reloaded; {note}\n") };
            Ok((json!({ "ok": true, "note": note }), text))
        }
        Command::Query(Query::Trace(subject)) => trace(node, command, subject),
        Command::Query(Query::Calls) => {
            let name = status(node)?.node;
            let calls = query(node, command)?.into_iter().flat_map(|answer| match answer {
                Answer::Calls(calls) => calls,
                _ => Vec::new(),
            });
            let calls: Vec<_> = calls.collect();
            Ok((answer::calls_json(&name, &calls), answer::calls_text(&calls)))
        }
        Command::Query(Query::Hangup(call)) => match query(node, command)?.last() {
            Some(Answer::Found(true)) => Ok((
                json!({ "ok": true, "call": call.to_string() }),
                format!("call {call} is being ended: its parties are told\n"),
            )),
            _ => Err(Failure::new(exit::OTHER, "no such call")),
        },
        Command::Query(_) => query(node, command).map(|_| (json!({ "ok": true }), String::new())),
    }
}

/// Why a call or phone did what it did: from the engine, else from the records of side, which are asked without it.
fn trace(node: &Node, command: &Command, subject: &str) -> Result<Said, Failure> {
    let asked = query(node, command);
    let mut found = false;
    let mut steps = Vec::new();
    for part in asked.iter().flatten() {
        if let Answer::Trace { found: is_there, steps: more } = part {
            found |= is_there;
            steps.extend(more.iter().map(answer::step_json));
        }
    }
    if !found {
        let kept = data_folder(node).ok().and_then(|data| trace_of_ended(&data, subject).ok().flatten());
        steps = match (kept, asked) {
            (Some(kept), _) => kept,
            (None, Err(failure)) => return Err(failure),
            (None, Ok(_)) => return Err(Failure::new(exit::OTHER, "no such call or phone")),
        };
    }
    let text = steps.iter().map(answer::step_text).collect();
    Ok((Value::Array(steps), text))
}

fn status(node: &Node) -> Result<Status, Failure> {
    let parts = ask(node, &Command::Status)?;
    control::parse(parts.first().map(Vec::as_slice).unwrap_or_default()).map_err(|_| unreadable())
}

/// Calls and registrations, if the engine is up.
fn counts(node: &Node) -> Option<(u64, u64)> {
    match query(node, &Command::Query(Query::Counts)).ok()?.last() {
        Some(Answer::Counts { calls, registrations }) => Some((*calls, *registrations)),
        _ => None,
    }
}

fn query(node: &Node, command: &Command) -> Result<Vec<Answer>, Failure> {
    let parts = ask(node, command)?;
    parts.iter().map(|part| postcard::from_bytes(part).map_err(|_| unreadable())).collect()
}

fn unreadable() -> Failure {
    Failure::new(exit::OTHER, "the answer is of another release of tipring")
}

fn ask(node: &Node, command: &Command) -> Result<Vec<Vec<u8>>, Failure> {
    let path = run_folder(node)?.join("control.sock");
    let command = command.emit().map_err(|error| Failure::new(exit::USAGE, error.to_string()))?;
    let at = |error: std::io::Error| {
        let code = if error.kind() == std::io::ErrorKind::PermissionDenied { exit::FORBIDDEN } else { exit::OTHER };
        let hint = match error.kind() {
            std::io::ErrorKind::NotFound | std::io::ErrorKind::ConnectionRefused => " (is tipring serving?)",
            _ => "",
        };
        Failure::new(code, format!("{}: {error}{hint}", path.display()))
    };
    let mut stream = UnixStream::connect(&path).map_err(at)?;
    stream.set_read_timeout(Some(ANSWER_TIME_MAX)).map_err(at)?;
    let closed = |error: std::io::Error| match error.kind() {
        std::io::ErrorKind::UnexpectedEof | std::io::ErrorKind::ConnectionReset | std::io::ErrorKind::BrokenPipe => {
            Failure::new(exit::FORBIDDEN, "the keeper closed the connection: it answers its own user and root alone")
        }
        _ => at(error),
    };
    stream.write_all(&command).map_err(closed)?;
    let mut parts = Vec::new();
    loop {
        let mut head = [0; ReplyHead::BYTES];
        stream.read_exact(&mut head).map_err(closed)?;
        let head = ReplyHead::parse(head).map_err(|error| Failure::new(exit::OTHER, error.to_string()))?;
        let mut part = vec![0; head.bytes as usize];
        stream.read_exact(&mut part).map_err(at)?;
        match head.kind {
            ReplyKind::Part => parts.push(part),
            ReplyKind::End => {
                parts.push(part);
                return Ok(parts);
            }
            ReplyKind::Failed { code } => return Err(Failure::new(code, String::from_utf8_lossy(&part))),
        }
    }
}

fn run_folder(node: &Node) -> Result<PathBuf, Failure> {
    match &node.run {
        Some(run) => Ok(run.clone()),
        None => load(node).map(|config| config.node.run),
    }
}

/// With the folder of the socket alone: the folder that this one is in, unless the configuration says otherwise.
fn data_folder(node: &Node) -> Result<PathBuf, Failure> {
    match &node.run {
        Some(run) => Ok(run.join("..")),
        None => load(node).map(|config| config.node.data),
    }
}

fn load(node: &Node) -> Result<Config, Failure> {
    Config::load(node.config.as_deref()).map_err(|faults| {
        let lines: Vec<_> = faults.iter().map(ToString::to_string).collect();
        Failure::new(exit::CONFIG, lines.join("\n"))
    })
}
