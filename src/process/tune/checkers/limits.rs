//! Limits of the service: open files, locked memory.

use crate::process::tune::checker::Action;
use crate::process::tune::checker::Checker;
use crate::process::tune::checker::Context;
use crate::process::tune::checker::Finding;
use crate::process::tune::checker::Severity;

pub const ALL: &[Checker] = &[
    Checker::new(
        "limits.files",
        Severity::Warning,
        "Every RTP port is an open file, and so is every connection.",
        "Fewer calls than the port range has room for (tipring_rtp_ports_left_out).",
        files,
    ),
    Checker::new(
        "limits.memlock",
        Severity::Fatal,
        "The engine's rings register memory that must stay in RAM: 512 KiB each at the least.",
        "The engine does not start (exit code 71).",
        memlock,
    ),
];

/// For connections, databases, tapes.
const FILES_BESIDE_PORTS: u64 = 4_096;
/// Of a shard's executor and its rings.
const MEMLOCK_PER_SHARD: u64 = 8 << 20;

/// As the unit has it where there is one, else as this process has it. `None`: no limit.
fn limit(context: &Context<'_>, unit: &str, own: &str) -> Option<Option<u64>> {
    let show = ["systemctl", "show", "tipring.service", "--property=LoadState,LimitNOFILE,LimitMEMLOCK"];
    let text = context.machine.output(&show).unwrap_or_default();
    let field = |name: &str| text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('='));
    if field("LoadState") == Some("loaded") {
        return match field(unit)? {
            "infinity" => Some(None),
            number => number.parse().ok().map(Some),
        };
    }
    let text = context.machine.read("proc/self/limits")?;
    // The hard limit: a node raises its own to it.
    let words = text.lines().find_map(|line| line.strip_prefix(own))?;
    match words.split_ascii_whitespace().nth(1)? {
        "unlimited" => Some(None),
        number => number.parse().ok().map(Some),
    }
}

fn compare(found: Option<Option<u64>>, needed: u64, key: &str) -> Vec<Finding> {
    let wanted = format!("at least {needed}");
    let advice = format!("a drop-in for tipring.service: [Service] {key}={needed} or more");
    vec![match found {
        Some(None) => Finding::new(true, wanted, "no limit"),
        Some(Some(found)) => Finding::new(found >= needed, wanted, found.to_string()).act([Action::ByHand(advice)]),
        None => Finding::unknown(wanted, "the limits cannot be read"),
    }]
}

fn files(_: &Checker, context: &Context<'_>) -> Vec<Finding> {
    let count = |(first, last): &(u16, u16)| u64::from(last.saturating_sub(*first)) + 1;
    let needed = context.needs.ports.iter().map(count).sum::<u64>() + FILES_BESIDE_PORTS;
    compare(limit(context, "LimitNOFILE", "Max open files"), needed, "LimitNOFILE")
}

fn memlock(_: &Checker, context: &Context<'_>) -> Vec<Finding> {
    let needed = context.sets.shards.0.len() as u64 * MEMLOCK_PER_SHARD;
    compare(limit(context, "LimitMEMLOCK", "Max locked memory"), needed, "LimitMEMLOCK")
}
