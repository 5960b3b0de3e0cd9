//! Which CPUs take the network cards' interrupts.

use crate::process::tune::checker::Action;
use crate::process::tune::checker::Checker;
use crate::process::tune::checker::Context;
use crate::process::tune::checker::Finding;
use crate::process::tune::checker::Severity;
use crate::process::tune::checker::Value;
use crate::process::tune::checker::values;
use crate::process::tune::cpus::CpuSet;
use crate::process::tune::topology::Nic;

pub const ALL: &[Checker] = &[
    Checker::new(
        "irq.balance",
        Severity::Warning,
        "irqbalance moves interrupts by its own rules and undoes irq.affinity.",
        "Interrupts come back to the engine's CPUs minutes after they were moved.",
        balance,
    ),
    Checker::new(
        "irq.affinity",
        Severity::Warning,
        "The kernel's work for a received packet runs where its interrupt comes; on a shard's CPU it takes the shard's time and \
         a flood takes all of it.",
        "A shard shares its core with the receive path of all others: less capacity, late packets under load.",
        affinity,
    ),
    Checker::new(
        "irq.numa",
        Severity::Warning,
        "A card writes into the memory of the socket that it is plugged into; an interrupt handled on the other one fetches it over the \
         link between the sockets.",
        "More CPU time for each received packet, and a bound at the link's rate.",
        numa,
    ),
];

fn balance(_: &Checker, context: &Context<'_>) -> Vec<Finding> {
    let wanted = "irqbalance does not run";
    // `is-active` fails where it does not run, so that it says nothing.
    let show = ["systemctl", "show", "irqbalance.service", "--property=ActiveState", "--value"];
    let finding = match context.machine.output(&show).as_deref() {
        Some("active") => Finding::new(false, wanted, "active").act([Action::run(&[
            "systemctl",
            "disable",
            "--now",
            "irqbalance.service",
        ])]),
        Some(state) => Finding::new(true, wanted, if state.is_empty() { "not there" } else { state }),
        None => Finding::unknown(wanted, "systemd does not answer"),
    };
    vec![finding]
}

/// The numbers of a card's interrupts. Those of virtio belong to the PCI device around it.
fn interrupts(nic: &Nic, context: &Context<'_>) -> Vec<u32> {
    let parent = nic.device.rsplit_once('/').map_or("", |(parent, _)| parent);
    let of = |device: &str| {
        let folder = format!("{device}/msi_irqs");
        let numbered = context.machine.numbered(&folder, "");
        numbered.into_iter().map(|(number, _)| number).collect::<Vec<_>>()
    };
    let own = if nic.device.is_empty() { Vec::new() } else { of(&nic.device) };
    if own.is_empty() && nic.driver == "virtio_net" { of(parent) } else { own }
}

/// The CPUs for interrupts on the card's own socket, or all of them if none is there.
fn near(nic: &Nic, context: &Context<'_>) -> CpuSet {
    let node = nic.node.and_then(|node| context.topology.nodes.get(&node));
    let near = node.map(|node| node.intersection(&context.sets.irq)).unwrap_or_default();
    if near.is_empty() { context.sets.irq.clone() } else { near }
}

fn affinity(_: &Checker, context: &Context<'_>) -> Vec<Finding> {
    let mut findings = Vec::new();
    for nic in context.nics() {
        let allowed = near(&nic, context);
        let cpus: Vec<u16> = allowed.0.iter().copied().collect();
        let value = |(place, irq): (usize, u32)| {
            let file = format!("proc/irq/{irq}/smp_affinity_list");
            let found = context.machine.read(&file)?;
            let set = CpuSet::parse(&found)?;
            let wanted = cpus.get(place % cpus.len().max(1))?.to_string();
            let is_right = !set.is_empty() && set.is_subset(&allowed);
            Some(Value { name: format!("irq {irq}"), file, found, wanted, is_right })
        };
        let found: Vec<Value> = interrupts(&nic, context).into_iter().enumerate().filter_map(value).collect();
        if !found.is_empty() {
            findings.push(values(format!("on CPU {}", allowed.list()), found).of(nic.name));
        }
    }
    findings
}

fn numa(_: &Checker, context: &Context<'_>) -> Vec<Finding> {
    let mut findings = Vec::new();
    for nic in context.nics().into_iter().filter(|_| context.topology.nodes.len() > 1) {
        let Some(node) = nic.node.and_then(|node| context.topology.nodes.get(&node)) else { continue };
        let near = node.intersection(&context.sets.irq);
        let number = nic.node.unwrap_or(0);
        let found = if near.is_empty() { "none".to_owned() } else { format!("CPU {}", near.list()) };
        let advice = format!("name a core of node {number} in cpu.irq of the profile, such as \"node{number}:0\"");
        let wanted = format!("a CPU for interrupts on NUMA node {number}");
        findings.push(Finding::new(!near.is_empty(), wanted, found).act([Action::ByHand(advice)]).of(nic.name));
    }
    findings
}
