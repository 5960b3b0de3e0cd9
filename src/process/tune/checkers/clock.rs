//! What time it is, and what it costs to ask.

use crate::process::tune::checker::Action;
use crate::process::tune::checker::Checker;
use crate::process::tune::checker::Context;
use crate::process::tune::checker::Finding;
use crate::process::tune::checker::Severity;

pub const ALL: &[Checker] = &[
    Checker::new(
        "clock.source",
        Severity::Warning,
        "A turn of a shard reads the clock; with the processor's own counter that takes tens of nanoseconds and no system call.",
        "Each reading is a system call or an access to a slow device: up to a microsecond, thousands of times a second.",
        source,
    ),
    Checker::new(
        "clock.sync",
        Severity::Warning,
        "Call records, recordings and tokens carry the time of day; several nodes must agree on it.",
        "Records that contradict the carrier's, certificates and tokens refused.",
        sync,
    ),
];

/// Those that are read without a system call.
const FAST: [&str; 5] = ["tsc", "kvm-clock", "hyperv_clocksource_tsc_page", "xen", "arch_sys_counter"];

fn source(_: &Checker, context: &Context<'_>) -> Vec<Finding> {
    let folder = "sys/devices/system/clocksource/clocksource0";
    let read = |name: &str| context.machine.read(&format!("{folder}/{name}")).unwrap_or_default();
    let (found, available) = (read("current_clocksource"), read("available_clocksource"));
    let best = FAST.iter().find(|fast| available.split(' ').any(|name| name == **fast));
    let act = match best {
        Some(best) => Action::write(format!("{folder}/current_clocksource"), *best),
        None => Action::ByHand("the kernel offers no fast clock: see its log for why tsc was given up".to_owned()),
    };
    vec![Finding::new(FAST.contains(&found.as_str()), FAST.join(" or "), found).act([act])]
}

fn sync(_: &Checker, context: &Context<'_>) -> Vec<Finding> {
    let wanted = "kept in step with a time server";
    let show = ["timedatectl", "show", "--property=NTPSynchronized", "--value"];
    let finding = match context.machine.output(&show).as_deref() {
        Some("yes") => Finding::new(true, wanted, "kept in step"),
        Some(_) => Finding::new(false, wanted, "not kept in step").act([Action::ByHand(
            "install and start a time service (Debian: systemd-timesyncd or chrony), and let it reach its servers"
                .to_owned(),
        )]),
        None => match context.machine.output(&["chronyc", "-n", "tracking"]) {
            Some(text) if text.contains("Leap status     : Normal") => Finding::new(true, wanted, "chrony says so"),
            Some(_) => Finding::new(false, wanted, "chrony is not in step")
                .act([Action::ByHand("let chrony reach its servers".to_owned())]),
            None => Finding::unknown(wanted, "neither timedatectl nor chronyc answers"),
        },
    };
    vec![finding]
}
