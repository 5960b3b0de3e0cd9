//! A profile for the machine at hand: its class's, where one matches, with what this one machine is told by.

use std::fmt::Write;

use crate::process::tune::cpus::CpuSet;
use crate::process::tune::profile::Isolation;
use crate::process::tune::profile::Match;
use crate::process::tune::profile::Profile;
use crate::process::tune::profile::SCHEMA;
use crate::process::tune::profile::Setting;
use crate::process::tune::profile::Smt;
use crate::process::tune::sets::Sets;
use crate::process::tune::shipped;
use crate::process::tune::topology::Topology;
use crate::process::tune::topology::version;

/// A CPU for interrupts for so many cores.
const CORES_PER_IRQ: usize = 16;

/// The text of a profile.
pub fn profile(machine: &Topology) -> Result<String, String> {
    let class = shipped::find(shipped::AUTO, ".".as_ref(), machine).ok();
    let based = class.as_ref().map_or("nothing that is shipped", |class| class.name.as_str());
    let mut profile = class.clone().unwrap_or_else(|| divided(machine));
    let sets = Sets::of(&profile, machine)?;
    profile.name = "this-machine".to_owned();
    profile.about = format!("Made by `tipring tune --detect` from {based}. Nothing was measured: it has no capacity.");
    profile.capacity = None;
    profile.cpu.engine = sets.engine.list();
    profile.cpu.irq = sets.irq.without(&sets.engine).list();
    profile.cpu.housekeeping = sets.housekeeping.list();
    let (major, minor) = version(&machine.kernel);
    let known = |text: &str| if text.is_empty() { Vec::new() } else { vec![text.to_owned()] };
    let drivers: std::collections::BTreeSet<String> = machine.nics.iter().map(|nic| nic.driver.clone()).collect();
    profile.matching = Match {
        arch: known(&machine.arch),
        cpu_model: known(&machine.cpu_model),
        cpus_min: Some(machine.online.0.len()),
        cpus_max: Some(machine.online.0.len()),
        numa_nodes: Some(machine.nodes.len()),
        is_virtual: Some(machine.is_virtual),
        nic_driver: drivers.into_iter().collect(),
        kernel_min: Some(format!("{major}.{minor}")),
    };
    let body = toml::to_string(&profile).map_err(|error| error.to_string())?;
    let mut text = String::new();
    let _ = writeln!(text, "# {}", profile.about);
    text.push_str(&body);
    Ok(text)
}

/// One core for everything else, one for interrupts for each 16 (two CPUs share both), the rest for the engine.
fn divided(machine: &Topology) -> Profile {
    let cores: Vec<u16> = machine.firsts().0.into_iter().collect();
    let list = |cores: &[u16]| cores.iter().copied().collect::<CpuSet>().list();
    let irqs = (cores.len() / CORES_PER_IRQ).max(1);
    let (housekeeping, irq, engine) = match cores.len() {
        0 | 1 => ("0".to_owned(), "0".to_owned(), "rest".to_owned()),
        2 => (list(&cores[1..]), list(&cores[1..]), list(&cores[..1])),
        _ => (list(&cores[..1]), list(&cores[1..=irqs]), "rest".to_owned()),
    };
    let mut profile = Profile { schema: SCHEMA, ..Profile::default() };
    profile.cpu.engine = engine;
    profile.cpu.irq = irq;
    profile.cpu.housekeeping = housekeeping;
    profile.cpu.smt = Smt::OnePerCore;
    profile.cpu.isolation = if cores.len() > 2 { Isolation::Cgroup } else { Isolation::None };
    profile.memory.thp = vec!["madvise".to_owned(), "never".to_owned()];
    profile.disk.free_gib_min = Some(10);
    profile.sysctl.insert("vm.swappiness".to_owned(), Setting::Number(10));
    profile
}
