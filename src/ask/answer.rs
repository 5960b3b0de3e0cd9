//! Answers of a node as JSON and as text for people.

use std::fmt::Write;

use serde_json::Value;
use serde_json::json;
use tipring::base::time::UnixTime;
use tipring::process::clock;
use tipring::process::log::rfc3339;
use tipring::wire::control::Status;
use tipring::wire::link::LiveCall;
use tipring::wire::link::TraceStep;

use crate::ask::Said;

pub(super) fn drained(was_draining: bool, calls: Option<u64>) -> Said {
    let mut text = if was_draining { "was draining already".to_owned() } else { "draining".to_owned() };
    text.push_str(": new calls are answered 503");
    match calls {
        Some(0) => text.push_str(", no call is up\n"),
        Some(1) => text.push_str(", 1 call is up\n"),
        Some(calls) => _ = writeln!(text, ", {calls} calls are up"),
        None => text.push_str(", the engine is not up\n"),
    }
    (json!({ "ok": true, "draining": true, "calls": calls }), text)
}

/// The keeper numbers its starts by the clock.
fn uptime_seconds(status: &Status) -> u64 {
    clock::unix().micros().saturating_sub(status.boot) / 1_000_000
}

pub(super) fn status_json(status: &Status, counts: Option<(u64, u64)>) -> Value {
    let processes = serde_json::to_value(&status.processes).unwrap_or_default();
    json!({
        "node": status.node,
        "version": status.version,
        "boot": status.boot.to_string(),
        "started_at": rfc3339(UnixTime::from_micros(status.boot)),
        "uptime_seconds": uptime_seconds(status),
        "calls": counts.map(|(calls, _)| calls),
        "registrations": counts.map(|(_, registrations)| registrations),
        "draining": status.draining,
        "stopping": status.stopping,
        "reload_success": status.reload_success,
        "rtp_port_pairs": { "open": status.rtp.open, "held": status.rtp.held, "cut": status.rtp.cut },
        "processes": processes,
    })
}

pub(super) fn status_text(status: &Status, counts: Option<(u64, u64)>) -> String {
    let mut text = format!("node {}, tipring {}, up {}", status.node, status.version, span(uptime_seconds(status)));
    for (flag, word) in [(status.draining, "draining"), (status.stopping, "stopping")] {
        if flag {
            text.push_str(&format!(", {word}"));
        }
    }
    if !status.reload_success {
        text.push_str(", the last reload failed");
    }
    match counts {
        Some((calls, registrations)) => _ = write!(text, "\ncalls: {calls}\nregistrations: {registrations}\n"),
        None => text.push_str("\ncalls and registrations: unknown, the engine is not up\n"),
    }
    let rtp = status.rtp;
    let _ = writeln!(text, "rtp port pairs: {} open, {} held by others, {} cut", rtp.open, rtp.held, rtp.cut);
    text.push_str("ROLE    STATE     GENERATION  PID\n");
    for process in &status.processes {
        let state = serde_json::to_value(process.state).unwrap_or_default();
        let state = state.as_str().unwrap_or_default();
        let (role, generation, pid) = (process.role.name(), process.generation, process.pid);
        let _ = writeln!(text, "{role:<7} {state:<9} {generation:>10}  {pid}");
    }
    text
}

/// "3d 4h", "12m 5s".
fn span(seconds: u64) -> String {
    let units = [(86_400, "d"), (3_600, "h"), (60, "m"), (1, "s")];
    let first = units.iter().position(|(unit, _)| seconds >= *unit).unwrap_or(units.len() - 1);
    let mut rest = seconds;
    let mut parts = Vec::new();
    for (unit, name) in units.iter().skip(first).take(2) {
        parts.push(format!("{}{name}", rest / unit));
        rest %= unit;
    }
    parts.join(" ")
}

/// As `GET /v1/calls` shows them.
pub(super) fn calls_json(node: &str, calls: &[LiveCall]) -> Value {
    let items = calls.iter().map(|call| {
        json!({
            "call": call.call.to_string(),
            "sip_call_id": call.sip_call_id,
            "node": node,
            "tenant": call.tenant,
            "from": call.from,
            "to": call.to,
            "state": call.state,
            "started_at": rfc3339(call.started_at),
            "answered_at": call.answered_at.map(rfc3339),
        })
    });
    json!({ "items": items.collect::<Vec<_>>(), "next": null })
}

pub(super) fn calls_text(calls: &[LiveCall]) -> String {
    let head = ["CALL", "TENANT", "FROM", "TO", "STATE", "SINCE"].map(str::to_owned);
    let rows = calls.iter().map(|call| {
        let state = serde_json::to_value(call.state).unwrap_or_default();
        let state = state.as_str().unwrap_or_default().to_owned();
        let since = rfc3339(call.answered_at.unwrap_or(call.started_at));
        [call.call.to_string(), call.tenant.clone(), call.from.clone(), call.to.clone(), state, since]
    });
    table(&[head].into_iter().chain(rows).collect::<Vec<_>>())
}

/// Columns as wide as what is in them.
fn table<const COLUMNS: usize>(rows: &[[String; COLUMNS]]) -> String {
    let mut text = String::new();
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: [usize; COLUMNS] = std::array::from_fn(width);
    for row in rows {
        let cells: Vec<_> = row.iter().zip(widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
        let _ = writeln!(text, "{}", cells.join("  ").trim_end());
    }
    text
}

pub(super) fn step_json(step: &TraceStep) -> Value {
    json!({ "at": rfc3339(step.at), "leg": step.leg, "rule": step.rule, "reason": step.reason })
}

/// One of [`step_json`], or one that side has kept.
pub(super) fn step_text(step: &Value) -> String {
    let text = |name: &str| step[name].as_str().unwrap_or_default().to_owned();
    let leg = step["leg"].as_u64().map_or_else(|| "-".to_owned(), |leg| leg.to_string());
    format!("{} {leg:>3} {} {}\n", text("at"), text("rule"), text("reason"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_have_their_two_largest_units() {
        for (seconds, text) in [(0, "0s"), (59, "59s"), (61, "1m 1s"), (3_600, "1h 0m"), (273_599, "3d 3h")] {
            assert_eq!(span(seconds), text);
        }
    }
}
