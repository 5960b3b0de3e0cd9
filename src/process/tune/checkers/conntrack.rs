//! Connection tracking of the kernel, which media has no use for.

use crate::process::tune::checker::Action;
use crate::process::tune::checker::Checker;
use crate::process::tune::checker::Context;
use crate::process::tune::checker::Finding;
use crate::process::tune::checker::Severity;

pub const ALL: &[Checker] = &[Checker::new(
    "net.notrack",
    Severity::Warning,
    "Connection tracking keeps a row for every media stream and looks it up for every packet; a full table drops packets of everybody.",
    "CPU for each packet, and past nf_conntrack_max new calls without audio.",
    notrack,
)];

/// Where the table of rules is written for nft.
pub const FILE: &str = "run/tipring-notrack.nft";

fn notrack(_: &Checker, context: &Context<'_>) -> Vec<Finding> {
    let wanted = format!("no tracking of UDP ports {}", ranges(&context.needs.ports));
    if context.machine.read("proc/sys/net/netfilter/nf_conntrack_max").is_none() {
        return vec![Finding::new(true, wanted, "the kernel tracks no connections")];
    }
    let rules = rules(&context.needs.ports);
    let act = [Action::write(FILE, rules), Action::run(&["nft", "-f", &format!("/{FILE}")])];
    let finding = match context.machine.output(&["nft", "list", "table", "inet", "tipring_notrack"]) {
        Some(text) => {
            let lacks = context.needs.ports.iter().any(|range| {
                let range = one(*range);
                ["dport", "sport"].iter().any(|word| !text.contains(&format!("udp {word} {range} notrack")))
            });
            Finding::new(!lacks, wanted, if lacks { "rules for other ports" } else { "not tracked" }).act(act)
        }
        None if context.machine.output(&["nft", "--version"]).is_none() => {
            Finding::unknown(wanted, "nft does not answer (Debian: nftables)")
        }
        None => Finding::new(false, wanted, "tracked").act(act),
    };
    vec![finding]
}

fn one((first, last): (u16, u16)) -> String {
    format!("{first}-{last}")
}

fn ranges(ports: &[(u16, u16)]) -> String {
    ports.iter().map(|range| one(*range)).collect::<Vec<_>>().join(", ")
}

/// A table of our own, which replaces the one before it and touches nobody else's.
pub fn rules(ports: &[(u16, u16)]) -> String {
    let chain = |name: &str, hook: &str, first: &str, second: &str| {
        let lines = ports
            .iter()
            .flat_map(|range| [first, second].map(|word| format!("        udp {word} {} notrack\n", one(*range))));
        let lines: String = lines.collect();
        format!("    chain {name} {{\n        type filter hook {hook} priority raw; policy accept;\n{lines}    }}\n")
    };
    format!(
        "table inet tipring_notrack\ndelete table inet tipring_notrack\ntable inet tipring_notrack {{\n{}{}}}\n",
        chain("arrives", "prerouting", "dport", "sport"),
        chain("leaves", "output", "sport", "dport"),
    )
}
