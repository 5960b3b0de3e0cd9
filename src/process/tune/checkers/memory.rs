//! Memory: how much there is, and large pages.

use crate::process::tune::checker::Action;
use crate::process::tune::checker::Checker;
use crate::process::tune::checker::Context;
use crate::process::tune::checker::Finding;
use crate::process::tune::checker::Severity;

pub const ALL: &[Checker] = &[
    Checker::new(
        "memory.total",
        Severity::Warning,
        "The tables of a shard have fixed bounds, and what they take is known; a machine with less swaps or kills.",
        "Under load the kernel kills a process of the node.",
        total,
    ),
    Checker::new(
        "memory.thp",
        Severity::Warning,
        "With `always` the kernel stops a thread to put large pages together, and gives small tables 2 MiB each.",
        "Pauses of milliseconds at random times, and more memory than the tables need.",
        thp,
    ),
];

fn total(_: &Checker, context: &Context<'_>) -> Vec<Finding> {
    let Some(min) = context.profile.memory.total_mib_min else { return Vec::new() };
    let text = context.machine.read("proc/meminfo").unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"));
    let kib = line.and_then(|line| line.split_ascii_whitespace().next()?.parse::<u64>().ok());
    let wanted = format!("at least {min} MiB");
    vec![match kib {
        Some(kib) => Finding::new(kib / 1_024 >= min, wanted, format!("{} MiB", kib / 1_024))
            .act([Action::ByHand("add memory, or take a profile of a smaller machine".to_owned())]),
        None => Finding::unknown(wanted, "/proc/meminfo does not say"),
    }]
}

fn thp(_: &Checker, context: &Context<'_>) -> Vec<Finding> {
    let allowed = &context.profile.memory.thp;
    let Some(wanted) = allowed.first() else { return Vec::new() };
    let file = "sys/kernel/mm/transparent_hugepage/enabled";
    let text = context.machine.read(file).unwrap_or_default();
    let Some(found) = chosen(&text) else {
        return vec![Finding::new(true, allowed.join(" or "), "the kernel has none")];
    };
    let is_right = allowed.iter().any(|word| word == found);
    vec![Finding::new(is_right, allowed.join(" or "), found).act([Action::write(file, wanted)])]
}

/// `b` of `a [b] c`.
pub fn chosen(text: &str) -> Option<&str> {
    Some(text.split_once('[')?.1.split_once(']')?.0)
}
