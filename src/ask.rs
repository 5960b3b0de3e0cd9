//! `tipring status`, `calls` and the other questions: one command to the keeper's control socket, its answer printed.

use std::io::Read;
use std::io::Write;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::Duration;

use serde_json::Value;
use serde_json::json;
use tipring::base::time::UnixTime;
use tipring::process::config::Config;
use tipring::process::exit;
use tipring::process::exit::Failure;
use tipring::process::log::rfc3339;
use tipring::wire::control;
use tipring::wire::control::Answer;
use tipring::wire::control::Command;
use tipring::wire::control::ReplyHead;
use tipring::wire::control::ReplyKind;
use tipring::wire::control::Status;
use tipring::wire::link::LiveCall;
use tipring::wire::link::TraceStep;

use crate::Node;
use crate::complain;
use crate::say;

const ANSWER_TIME_MAX: Duration = Duration::from_secs(12);

/// Returns the exit code.
pub(crate) fn run(node: &Node, command: &Command) -> u8 {
    match ask(node, command).and_then(|parts| print(command, &parts, node.json)) {
        Ok(code) => code,
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
    if let Some(run) = &node.run {
        return Ok(run.clone());
    }
    Config::load(node.config.as_deref()).map(|config| config.node.run).map_err(|faults| {
        let lines: Vec<_> = faults.iter().map(ToString::to_string).collect();
        Failure::new(exit::CONFIG, lines.join("\n"))
    })
}

/// Returns the exit code: 1 where what was asked for does not exist.
fn print(command: &Command, parts: &[Vec<u8>], as_json: bool) -> Result<u8, Failure> {
    let (code, json, text) = match command {
        Command::Status => {
            let bytes = parts.first().map(Vec::as_slice).unwrap_or_default();
            let status: Status = control::parse(bytes).map_err(|_| unreadable())?;
            (0, status_json(&status), status_text(&status))
        }
        Command::Drain | Command::Undrain => (0, json!({ "ok": true }), String::new()),
        Command::Reload => {
            let note = String::from_utf8_lossy(&parts.concat()).into_owned();
            let text = if note.is_empty() { "reloaded\n".to_owned() } else { format!("reloaded; {note}\n") };
            (0, json!({ "ok": true, "note": note }), text)
        }
        Command::Query(_) => render(parts)?,
    };
    say(&if as_json { format!("{json}\n") } else { text });
    Ok(code)
}

fn unreadable() -> Failure {
    Failure::new(exit::OTHER, "the answer is of another release of tipring")
}

fn render(parts: &[Vec<u8>]) -> Result<(u8, Value, String), Failure> {
    let mut calls = Vec::new();
    let mut steps = Vec::new();
    let mut last = None;
    for part in parts {
        let answer: Answer = postcard::from_bytes(part).map_err(|_| unreadable())?;
        match answer.clone() {
            Answer::Calls(more) => calls.extend(more),
            Answer::Trace { steps: more, .. } => steps.extend(more),
            Answer::Found(_) | Answer::Settled => {}
        }
        last = Some(answer);
    }
    Ok(match last.ok_or_else(unreadable)? {
        Answer::Calls(_) => (0, calls.iter().map(call_json).collect(), calls.iter().map(call_text).collect()),
        Answer::Found(true) | Answer::Settled => (0, json!({ "ok": true }), String::new()),
        Answer::Found(false) => return Err(Failure::new(exit::OTHER, "no such call")),
        Answer::Trace { found: false, .. } => return Err(Failure::new(exit::OTHER, "no such call or phone")),
        Answer::Trace { .. } => (0, steps.iter().map(step_json).collect(), steps.iter().map(step_text).collect()),
    })
}

fn status_json(status: &Status) -> Value {
    let processes = serde_json::to_value(&status.processes).unwrap_or_default();
    json!({
        "node": status.node,
        "version": status.version,
        "boot": status.boot.to_string(),
        "draining": status.draining,
        "stopping": status.stopping,
        "reload_success": status.reload_success,
        "rtp_port_pairs": { "open": status.rtp.open, "held": status.rtp.held, "cut": status.rtp.cut },
        "processes": processes,
    })
}

fn status_text(status: &Status) -> String {
    let mut text = format!("node {} version {}", status.node, status.version);
    for (flag, word) in [(status.draining, "draining"), (status.stopping, "stopping")] {
        if flag {
            text.push_str(&format!(", {word}"));
        }
    }
    if !status.reload_success {
        text.push_str(", the last reload failed");
    }
    let rtp = status.rtp;
    text.push_str(&format!("\nrtp port pairs: {} open, {} held by others, {} cut\n", rtp.open, rtp.held, rtp.cut));
    text.push_str("ROLE    STATE     GENERATION  PID\n");
    for process in &status.processes {
        let state = serde_json::to_value(process.state).unwrap_or_default();
        let state = state.as_str().unwrap_or_default();
        let (role, generation, pid) = (process.role.name(), process.generation, process.pid);
        text.push_str(&format!("{role:<7} {state:<9} {generation:>10}  {pid}\n"));
    }
    text
}

fn call_json(call: &LiveCall) -> Value {
    json!({
        "call": call.call.to_string(),
        "sip_call_id": call.sip_call_id,
        "tenant": call.tenant,
        "from": call.from,
        "to": call.to,
        "state": call.state,
        "started_at": rfc3339(call.started_at),
        "answered_at": call.answered_at.map(rfc3339),
    })
}

fn call_text(call: &LiveCall) -> String {
    let state = serde_json::to_value(call.state).unwrap_or_default();
    let state = state.as_str().unwrap_or_default().to_owned();
    let since: UnixTime = call.answered_at.unwrap_or(call.started_at);
    format!("{} {} {} -> {} {state} {}\n", call.call, call.tenant, call.from, call.to, rfc3339(since))
}

fn step_json(step: &TraceStep) -> Value {
    json!({ "at": rfc3339(step.at), "leg": step.leg, "rule": step.rule, "reason": step.reason })
}

fn step_text(step: &TraceStep) -> String {
    let leg = step.leg.map_or_else(|| "-".to_owned(), |leg| leg.to_string());
    format!("{} {leg:>3} {} {}\n", rfc3339(step.at), step.rule, step.reason)
}
