//! The engine's CPUs: their clock, their sleep, and who else runs there.

use crate::process::tune::checker::Action;
use crate::process::tune::checker::Checker;
use crate::process::tune::checker::Context;
use crate::process::tune::checker::Finding;
use crate::process::tune::checker::Severity;
use crate::process::tune::checker::Value;
use crate::process::tune::checker::values;
use crate::process::tune::cpus::CpuSet;
use crate::process::tune::profile::Isolation;
use crate::process::tune::topology::cpu_list;

pub const ALL: &[Checker] = &[
    Checker::new(
        "cpu.governor",
        Severity::Warning,
        "A shard sleeps between packets, so a governor that follows the load sees an idle CPU and lowers its clock.",
        "The first packets after each pause are handled at a lower clock: more CPU a call, later packets.",
        governor,
    ),
    Checker::new(
        "cpu.sleep",
        Severity::Warning,
        "A shard wakes every millisecond or less; a sleep state that takes long to leave delays the packets it wakes for.",
        "Tens to hundreds of microseconds more delay of a packet on a lightly loaded core.",
        sleep,
    ),
    Checker::new(
        "cpu.isolation",
        Severity::Warning,
        "A shard has its CPU alone; what else runs there takes it for milliseconds at a time.",
        "Late packets and lost ones whenever a backup, a package upgrade or a log rotation runs.",
        isolation,
    ),
];

fn governor(_: &Checker, context: &Context<'_>) -> Vec<Finding> {
    let Some(wanted) = &context.profile.cpu.governor else { return Vec::new() };
    let value = |cpu: &u16| {
        let file = format!("sys/devices/system/cpu/cpu{cpu}/cpufreq/scaling_governor");
        let found = context.machine.read(&file)?;
        Some(Value { name: format!("cpu{cpu}"), is_right: found == *wanted, wanted: wanted.clone(), found, file })
    };
    let found: Vec<Value> = context.sets.engine.0.iter().filter_map(value).collect();
    if found.is_empty() {
        // The host of a virtual machine decides.
        return vec![Finding::new(true, wanted, "the kernel sets no clock here")];
    }
    vec![values(wanted, found)]
}

fn sleep(_: &Checker, context: &Context<'_>) -> Vec<Finding> {
    let Some(max) = context.profile.cpu.sleep_exit_us_max else { return Vec::new() };
    let mut found = Vec::new();
    for cpu in &context.sets.engine.0 {
        let folder = format!("sys/devices/system/cpu/cpu{cpu}/cpuidle");
        for (_, state) in context.machine.numbered(&folder, "state") {
            let read = |name: &str| context.machine.read(&format!("{folder}/{state}/{name}"));
            let latency: u32 = read("latency").and_then(|text| text.parse().ok()).unwrap_or(0);
            if latency <= max {
                continue;
            }
            let is_off = read("disable").as_deref() == Some("1");
            found.push(Value {
                name: format!("cpu{cpu}"),
                file: format!("{folder}/{state}/disable"),
                found: if is_off { "off".to_owned() } else { format!("{state} of {latency} us") },
                wanted: "1".to_owned(),
                is_right: is_off,
            });
        }
    }
    vec![values(format!("no sleep state above {max} us"), found)]
}

fn isolation(_: &Checker, context: &Context<'_>) -> Vec<Finding> {
    match context.profile.cpu.isolation {
        Isolation::None => Vec::new(),
        Isolation::Cgroup => ["system.slice", "user.slice"].map(|slice| kept_off(slice, context)).to_vec(),
        Isolation::NohzFull => vec![nohz_full(context)],
    }
}

fn kept_off(slice: &str, context: &Context<'_>) -> Finding {
    let others = context.sets.others().list();
    let file = format!("sys/fs/cgroup/{slice}/cpuset.cpus.effective");
    let wanted = format!("on CPU {others} alone");
    let action = Action::run(&["systemctl", "set-property", slice, &format!("AllowedCPUs={others}")]);
    match cpu_list(context.machine, &file) {
        Some(found) if !found.is_empty() => {
            Finding::new(found.is_subset(&context.sets.others()), wanted, found.list()).act([action])
        }
        // The controller is off until somebody sets a CPU.
        _ if context.machine.read("sys/fs/cgroup/cgroup.controllers").is_some() => {
            Finding::new(false, wanted, "on all CPUs").act([action])
        }
        _ => Finding::unknown(wanted, "there is no cgroup v2 under /sys/fs/cgroup"),
    }
    .of(slice)
}

fn nohz_full(context: &Context<'_>) -> Finding {
    let engine = &context.sets.engine;
    let (list, others) = (engine.list(), context.sets.others().list());
    let path = "sys/devices/system/cpu/nohz_full";
    let found = context.machine.read(path).and_then(|text| CpuSet::parse(&text)).unwrap_or_default();
    let text = if found.is_empty() { "none".to_owned() } else { found.list() };
    let line = format!("nohz_full={list} rcu_nocbs={list} irqaffinity={others} systemd.cpu_affinity={others}");
    Finding::new(engine.is_subset(&found), format!("no timer tick on CPU {list}"), text)
        .act([Action::ByHand(format!("add to the kernel command line and reboot: {line}"))])
}
