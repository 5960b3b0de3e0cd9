//! Network cards: queues, how packets are spread over them and over CPUs, rings, coalescing.

use std::collections::BTreeMap;

use crate::process::tune::checker::Action;
use crate::process::tune::checker::Checker;
use crate::process::tune::checker::Context;
use crate::process::tune::checker::Finding;
use crate::process::tune::checker::Severity;
use crate::process::tune::checker::Value;
use crate::process::tune::checker::values;
use crate::process::tune::cpus::CpuSet;
use crate::process::tune::profile::Steering;
use crate::process::tune::topology::Nic;

pub const QUEUES: &[Checker] = &[Checker::new(
    "net.queues",
    Severity::Warning,
    "Each queue has one interrupt, and one CPU takes it: queues beyond the CPUs for interrupts share them, fewer leave some idle.",
    "One CPU for interrupts is full while others idle; beyond it the card drops.",
    queues,
)];

pub const ALL: &[Checker] = &[
    Checker::new(
        "net.rss",
        Severity::Warning,
        "By addresses alone, all media of one carrier or one office comes to one queue; by ports it spreads.",
        "One queue takes a carrier's whole traffic.",
        rss,
    ),
    Checker::new(
        "net.rps",
        Severity::Warning,
        "Where a card has fewer queues than there are CPUs for interrupts, the kernel can spread what one queue brought.",
        "The CPU of the one queue is full while others idle; or, where it is on without need, an interrupt to another CPU for each packet.",
        rps,
    ),
    Checker::new(
        "net.xps",
        Severity::Warning,
        "A shard that sends on a queue of its own takes no lock that another shard holds.",
        "Shards wait for each other in the card's driver.",
        xps,
    ),
    Checker::new(
        "net.rings",
        Severity::Warning,
        "What comes while the CPU is busy waits in the card's ring; phones of a whole office answer a power cut within a second.",
        "The card drops in bursts (rx_missed, rx_no_buffer): gaps in audio that no counter of ours shows.",
        rings,
    ),
    Checker::new(
        "net.coalescing",
        Severity::Warning,
        "A card that collects packets for long delays each of them; one that collects none interrupts for each.",
        "Delay and jitter of the card's own, up to its whole interval.",
        coalescing,
    ),
];

const NO_ETHTOOL: &str = "ethtool does not answer (Debian: ethtool), or the card cannot tell";

/// The lines `name: number` of one part of what ethtool says.
fn numbers(text: &str, part: &str) -> BTreeMap<String, u64> {
    let lines = text.lines().skip_while(|line| !line.starts_with(part)).skip(1);
    let own = lines.take_while(|line| !line.ends_with("maximums:") && !line.starts_with("Current"));
    let number = |line: &str| {
        let (name, value) = line.split_once(':')?;
        Some((name.trim().to_owned(), value.trim().parse().ok()?))
    };
    own.filter_map(number).collect()
}

fn each(context: &Context<'_>, look: impl Fn(&Nic) -> Option<Finding>) -> Vec<Finding> {
    let finding = |nic: Nic| look(&nic).map(|finding| finding.of(nic.name));
    context.nics().into_iter().filter_map(finding).collect()
}

fn queues(_: &Checker, context: &Context<'_>) -> Vec<Finding> {
    if !context.profile.net.queues_per_irq_cpu {
        return Vec::new();
    }
    each(context, |nic| {
        let cpus = context.sets.irq.0.len() as u64;
        let found = context.machine.numbered(&format!("sys/class/net/{}/queues", nic.name), "rx-").len() as u64;
        let wanted = format!("{cpus} receive queues");
        let Some(text) = context.machine.output(&["ethtool", "-l", &nic.name]) else {
            return Some(match found == cpus {
                true => Finding::new(true, wanted, found.to_string()),
                false => Finding::unknown(wanted, format!("{found}; {NO_ETHTOOL}")),
            });
        };
        let maximum = numbers(&text, "Pre-set");
        let kind = if maximum.get("Combined").is_some_and(|max| *max > 0) { "Combined" } else { "RX" };
        let can = maximum.get(kind).copied().unwrap_or(1).max(1);
        let target = cpus.min(can);
        let wanted = if target < cpus { format!("{target} receive queues, all it has") } else { wanted };
        let (word, count) = (kind.to_lowercase(), target.to_string());
        Some(
            Finding::new(found == target, wanted, found.to_string())
                .act([Action::run(&["ethtool", "-L", &nic.name, &word, &count])]),
        )
    })
}

fn rss(_: &Checker, context: &Context<'_>) -> Vec<Finding> {
    if !context.profile.net.rss_by_port {
        return Vec::new();
    }
    each(context, |nic| {
        let wanted = "UDP spread by addresses and ports";
        if context.machine.numbered(&format!("sys/class/net/{}/queues", nic.name), "rx-").len() < 2 {
            return Some(Finding::new(true, wanted, "one queue, nothing to spread"));
        }
        let Some(text) = context.machine.output(&["ethtool", "-n", &nic.name, "rx-flow-hash", "udp4"]) else {
            return Some(Finding::unknown(wanted, NO_ETHTOOL));
        };
        let has_ports = text.contains("L4 bytes 0 & 1") && text.contains("L4 bytes 2 & 3");
        let set = |kind: &str| Action::run(&["ethtool", "-N", &nic.name, "rx-flow-hash", kind, "sdfn"]);
        let found = if has_ports { "by addresses and ports" } else { "by addresses alone" };
        Some(Finding::new(has_ports, wanted, found).act([set("udp4"), set("udp6")]))
    })
}

fn masks(context: &Context<'_>, nic: &Nic, prefix: &str, file: &str, of: impl Fn(usize, usize) -> CpuSet) -> Finding {
    let folder = format!("sys/class/net/{}/queues", nic.name);
    let queues = context.machine.numbered(&folder, prefix);
    let count = queues.len();
    let value = |(place, (_, queue)): (usize, (u32, String))| {
        let file = format!("{folder}/{queue}/{file}");
        let found = CpuSet::parse_mask(&context.machine.read(&file)?)?;
        let wanted = of(place, count);
        let text = |set: &CpuSet| if set.is_empty() { "no CPU".to_owned() } else { set.list() };
        Some((
            text(&wanted),
            Value { name: queue, file, found: text(&found), is_right: found == wanted, wanted: wanted.mask() },
        ))
    };
    let (wanted, found): (Vec<String>, Vec<Value>) = queues.into_iter().enumerate().filter_map(value).unzip();
    let is_one = wanted.windows(2).all(|pair| pair[0] == pair[1]);
    let wanted = match wanted.first() {
        Some(first) if is_one => first.clone(),
        _ => wanted.join(" / "),
    };
    values(wanted, found)
}

fn rps(_: &Checker, context: &Context<'_>) -> Vec<Finding> {
    let Some(steering) = context.profile.net.rps else { return Vec::new() };
    each(context, |nic| {
        let of = |_, queues: usize| match steering {
            Steering::Off => CpuSet::default(),
            // As many queues as CPUs need no second step.
            Steering::Irq if queues >= context.sets.irq.0.len() => CpuSet::default(),
            Steering::Irq => context.sets.irq.clone(),
            Steering::Engine => context.sets.engine.clone(),
        };
        Some(masks(context, nic, "rx-", "rps_cpus", of))
    })
}

fn xps(_: &Checker, context: &Context<'_>) -> Vec<Finding> {
    let Some(steering) = context.profile.net.xps else { return Vec::new() };
    let shards: Vec<u16> = context.sets.shards.0.iter().copied().collect();
    each(context, |nic| {
        // The kernel has no such choice for a single queue.
        let folder = format!("sys/class/net/{}/queues", nic.name);
        if context.machine.numbered(&folder, "tx-").len() < 2 {
            return None;
        }
        let of = |place: usize, queues: usize| match steering {
            Steering::Off => CpuSet::default(),
            Steering::Irq => context.sets.irq.clone(),
            Steering::Engine => {
                let own = shards.iter().copied().enumerate().filter(|(index, _)| index % queues == place);
                // More queues than shards: the last ones serve everybody else.
                let own: CpuSet = own.map(|(_, cpu)| cpu).collect();
                if own.is_empty() { context.sets.others() } else { own }
            }
        };
        Some(masks(context, nic, "tx-", "xps_cpus", of))
    })
}

fn rings(_: &Checker, context: &Context<'_>) -> Vec<Finding> {
    let net = &context.profile.net;
    if net.ring_rx_min.is_none() && net.ring_tx_min.is_none() {
        return Vec::new();
    }
    each(context, |nic| {
        let asked = [("RX", "rx", net.ring_rx_min), ("TX", "tx", net.ring_tx_min)];
        let asked: Vec<_> = asked.into_iter().filter_map(|(key, word, min)| Some((key, word, min?))).collect();
        let all = |number: &dyn Fn(&str, u64) -> u64| {
            let texts = asked.iter().map(|(key, word, min)| format!("{word} {}", number(key, *min)));
            texts.collect::<Vec<_>>().join(", ")
        };
        let Some(text) = context.machine.output(&["ethtool", "-g", &nic.name]) else {
            return Some(Finding::unknown(all(&|_, min| min), NO_ETHTOOL));
        };
        let (maximum, current) = (numbers(&text, "Pre-set"), numbers(&text, "Current"));
        let target = |key: &str, min: u64| maximum.get(key).map_or(min, |max| min.min(*max));
        let has = |key: &str| current.get(key).copied().unwrap_or(0);
        let is_right = asked.iter().all(|(key, _, min)| has(key) >= target(key, *min));
        let mut words = vec!["ethtool".to_owned(), "-G".to_owned(), nic.name.clone()];
        for (key, word, min) in &asked {
            words.extend([(*word).to_owned(), target(key, *min).max(has(key)).to_string()]);
        }
        Some(Finding::new(is_right, all(&target), all(&|key, _| has(key))).act([Action::Run(words)]))
    })
}

fn coalescing(_: &Checker, context: &Context<'_>) -> Vec<Finding> {
    let Some(max) = context.profile.net.coalesce_us_max else { return Vec::new() };
    each(context, |nic| {
        let wanted = format!("at most {max} us, not adaptive");
        let Some(text) = context.machine.output(&["ethtool", "-c", &nic.name]) else {
            return Some(Finding::unknown(wanted, NO_ETHTOOL));
        };
        let adaptive = text.lines().any(|line| line.starts_with("Adaptive RX: on"));
        let Some(delay) = numbers(&text, "").get("rx-usecs").copied() else {
            return Some(Finding::unknown(wanted, "the card does not tell rx-usecs"));
        };
        let found = format!("{delay} us{}", if adaptive { ", adaptive" } else { "" });
        let set = ["ethtool", "-C", &nic.name, "adaptive-rx", "off", "rx-usecs", &max.to_string()];
        Some(Finding::new(delay <= max && !adaptive, wanted, found).act([Action::run(&set)]))
    })
}
