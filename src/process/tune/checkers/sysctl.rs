//! Sysctls: a table with what each is for. A profile may set other values, and further ones.

use std::borrow::Cow;

use crate::process::tune::checker::Action;
use crate::process::tune::checker::Checker;
use crate::process::tune::checker::Context;
use crate::process::tune::checker::Finding;
use crate::process::tune::checker::Severity;
use crate::process::tune::profile::Profile;
use crate::process::tune::profile::Setting;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Want {
    Least(u64),
    Most(u64),
    /// First and last; the RTP ports lie outside, or are reserved.
    Ports,
    /// The RTP ports are in it.
    Reserved,
}

pub struct Sysctl {
    pub name: &'static str,
    pub want: Want,
    severity: Severity,
    reason: &'static str,
    cost: &'static str,
}

const fn sysctl(name: &'static str, want: Want, reason: &'static str, cost: &'static str) -> Sysctl {
    Sysctl { name, want, severity: Severity::Warning, reason, cost }
}

/// For what the kernel chooses by itself. IANA's own range.
pub const EPHEMERAL: (u16, u16) = (49_152, 65_535);

pub const TABLE: &[Sysctl] = &[
    Sysctl {
        severity: Severity::Fatal,
        ..sysctl(
            "kernel.io_uring_disabled",
            Want::Most(1),
            "The engine does all its input and output through io_uring. 1 lets members of kernel.io_uring_group and root use it.",
            "The engine does not start (exit code 71).",
        )
    },
    sysctl(
        "net.core.rmem_max",
        Want::Least(4 << 20),
        "A SIP socket asks for 4 MiB of receive buffer, for when all phones register at once; the kernel gives no more than this.",
        "SIP messages dropped in bursts, and phones that repeat them.",
    ),
    sysctl(
        "net.core.wmem_max",
        Want::Least(1 << 20),
        "Bounds the send buffer that a socket may ask for.",
        "Sends that find no room when a shard answers many phones at once.",
    ),
    sysctl(
        "net.core.netdev_max_backlog",
        Want::Least(10_000),
        "Packets that wait for a CPU between interrupt and socket, where RPS or loopback is in use.",
        "Drops that show in /proc/net/softnet_stat alone.",
    ),
    sysctl(
        "net.core.netdev_budget",
        Want::Least(600),
        "Packets that one round of the receive path takes from the cards.",
        "The kernel leaves packets in the ring and comes back later (time_squeeze in /proc/net/softnet_stat).",
    ),
    sysctl(
        "net.core.somaxconn",
        Want::Least(4_096),
        "Connections that wait to be accepted: phones over TCP come back all at once after an outage.",
        "Connections refused, phones that come back late.",
    ),
    sysctl(
        "net.ipv4.tcp_max_syn_backlog",
        Want::Least(4_096),
        "Connections that are being set up.",
        "Connections dropped before they are set up, phones that come back late.",
    ),
    sysctl(
        "net.ipv4.ip_local_port_range",
        Want::Ports,
        "The kernel takes ports for outgoing connections from here; inside the RTP range it takes them from calls.",
        "RTP ports that other processes hold, which a node leaves out (tipring_rtp_ports_left_out).",
    ),
    sysctl(
        "net.ipv4.ip_local_reserved_ports",
        Want::Reserved,
        "Keeps the kernel from handing out RTP ports even if somebody widens the range above.",
        "RTP ports that other processes hold, as soon as somebody widens that range.",
    ),
    sysctl(
        "vm.swappiness",
        Want::Most(10),
        "A node's memory is in use even when it is quiet; swapped out, it comes back when a call does.",
        "Pauses of tens of milliseconds on the first call after a quiet night.",
    ),
    sysctl(
        "kernel.numa_balancing",
        Want::Most(0),
        "Shards are pinned before they take memory, so it lies where it should; the balancer stops threads to find that out.",
        "Page faults on the path of media.",
    ),
];

pub fn checkers(profile: &Profile) -> Vec<Checker> {
    let named = |entry: &Sysctl| Checker {
        name: Cow::Owned(format!("sysctl.{}", entry.name)),
        severity: entry.severity,
        reason: entry.reason,
        cost: entry.cost,
        look,
    };
    let further = profile.sysctl.keys().filter(|name| !TABLE.iter().any(|entry| entry.name == **name));
    let further = further.map(|name| Checker {
        name: Cow::Owned(format!("sysctl.{name}")),
        severity: Severity::Warning,
        reason: "The profile says so.",
        cost: "What its author knows.",
        look,
    });
    TABLE.iter().map(named).chain(further).collect()
}

/// Whether a profile may say this.
pub fn check_setting(name: &str, setting: &Setting) -> Result<(), String> {
    let is_name =
        |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_alphanumeric() || b"_-".contains(&b));
    if !name.contains('.') || !name.split('.').all(is_name) {
        return Err("is no name of a sysctl".to_owned());
    }
    let want = TABLE.iter().find(|entry| entry.name == name).map(|entry| entry.want);
    match (want, setting) {
        (Some(Want::Ports | Want::Reserved), _) => {
            Err("follows from [media] ports and is not set by a profile".to_owned())
        }
        (Some(_), Setting::Text(_)) => Err("expected a number".to_owned()),
        (_, Setting::Text(text)) if text.contains('\n') => Err("must be one line".to_owned()),
        _ => Ok(()),
    }
}

fn look(checker: &Checker, context: &Context<'_>) -> Vec<Finding> {
    let name = checker.name.strip_prefix("sysctl.").unwrap_or_default();
    let file = format!("proc/sys/{}", name.replace('.', "/"));
    let Some(found) = context.machine.read(&file) else {
        // Older kernels, and namespaces other than the first, lack some.
        return Vec::new();
    };
    let set = context.profile.sysctl.get(name);
    let finding = match (TABLE.iter().find(|entry| entry.name == name).map(|entry| entry.want), set) {
        (Some(Want::Least(least)), set) => least_of(number(set).unwrap_or(least), &found, file),
        (Some(Want::Most(most)), set) => most_of(number(set).unwrap_or(most), &found, file),
        (Some(Want::Ports), _) => local_ports(context, &found, file),
        (Some(Want::Reserved), _) => reserved(context, &found, file),
        (None, Some(set)) => exactly(set, &found, file),
        (None, None) => return Vec::new(),
    };
    vec![finding]
}

fn number(setting: Option<&Setting>) -> Option<u64> {
    match setting? {
        Setting::Number(number) => Some(*number),
        Setting::Text(_) => None,
    }
}

fn least_of(least: u64, found: &str, file: String) -> Finding {
    let is_right = found.parse().is_ok_and(|number: u64| number >= least);
    Finding::new(is_right, format!("at least {least}"), found).act([Action::write(file, least.to_string())])
}

fn most_of(most: u64, found: &str, file: String) -> Finding {
    let is_right = found.parse().is_ok_and(|number: u64| number <= most);
    // One that is off may be so for a reason of its own.
    let value = if file.ends_with("io_uring_disabled") { 0 } else { most };
    Finding::new(is_right, format!("at most {most}"), found).act([Action::write(file, value.to_string())])
}

fn exactly(setting: &Setting, found: &str, file: String) -> Finding {
    let wanted = match setting {
        Setting::Number(number) => number.to_string(),
        Setting::Text(text) => text.clone(),
    };
    // The kernel separates numbers by tabs.
    let is_right = found.split_ascii_whitespace().eq(wanted.split_ascii_whitespace());
    Finding::new(is_right, wanted.clone(), found.replace('\t', " ")).act([Action::write(file, wanted)])
}

/// A list like `16384-32767,40000`.
pub fn port_list(text: &str) -> Vec<(u16, u16)> {
    let part = |part: &str| {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        Some((first.trim().parse().ok()?, last.trim().parse().ok()?))
    };
    text.split(',').filter_map(part).collect()
}

fn covers(list: &[(u16, u16)], ports: (u16, u16)) -> bool {
    list.iter().any(|range| range.0 <= ports.0 && ports.1 <= range.1)
}

fn local_ports(context: &Context<'_>, found: &str, file: String) -> Finding {
    let words: Vec<u16> = found.split_ascii_whitespace().filter_map(|word| word.parse().ok()).collect();
    let (first, last) = (words.first().copied().unwrap_or(0), words.get(1).copied().unwrap_or(u16::MAX));
    let reserved = context.machine.read("proc/sys/net/ipv4/ip_local_reserved_ports").unwrap_or_default();
    let reserved = port_list(&reserved);
    let is_apart = |ports: &(u16, u16)| ports.1 < first || last < ports.0 || covers(&reserved, *ports);
    let is_right = context.needs.ports.iter().all(is_apart);
    let text = context.needs.ports.iter().map(|(a, b)| format!("{a}-{b}")).collect::<Vec<_>>().join(", ");
    let (low, high) = EPHEMERAL;
    let is_free = context.needs.ports.iter().all(|ports| ports.1 < low);
    let action = match is_free {
        true => Action::write(file, format!("{low} {high}")),
        false => Action::ByHand("choose [media] ports below 49152, or a port range apart from it".to_owned()),
    };
    Finding::new(is_right, format!("apart from RTP ports {text}"), format!("{first} {last}")).act([action])
}

fn reserved(context: &Context<'_>, found: &str, file: String) -> Finding {
    let mut list = port_list(found);
    let lacking: Vec<(u16, u16)> = context.needs.ports.iter().copied().filter(|ports| !covers(&list, *ports)).collect();
    list.extend(&lacking);
    // What others reserved stays.
    let text = |list: &[(u16, u16)]| {
        let one =
            |(first, last): &(u16, u16)| if first == last { first.to_string() } else { format!("{first}-{last}") };
        list.iter().map(one).collect::<Vec<_>>().join(",")
    };
    let wanted = format!("{} among them", text(&context.needs.ports));
    let found = if found.is_empty() { "none" } else { found };
    Finding::new(lacking.is_empty(), wanted, found).act([Action::write(file, text(&list))])
}
