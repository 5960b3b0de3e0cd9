//! What a machine is: CPUs, cores, NUMA nodes, processor, kernel, network interfaces.

use std::collections::BTreeMap;

use crate::process::tune::cpus::CpuSet;
use crate::process::tune::machine::Machine;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Topology {
    pub arch: String,
    pub kernel: String,
    /// As /proc/cpuinfo has it; on arm64 implementer and part, `0x41 0xd40`.
    pub cpu_model: String,
    pub is_virtual: bool,
    pub online: CpuSet,
    /// The CPUs of each core, by its first.
    pub cores: BTreeMap<u16, CpuSet>,
    pub nodes: BTreeMap<u32, CpuSet>,
    pub nics: Vec<Nic>,
}

/// A network interface with a device behind it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Nic {
    pub name: String,
    pub driver: String,
    /// `None`: the firmware does not say.
    pub node: Option<u32>,
    /// `sys/devices/…`
    pub device: String,
}

impl Topology {
    pub fn of(machine: &Machine) -> Self {
        let online = cpu_list(machine, "sys/devices/system/cpu/online").unwrap_or_default();
        let cpuinfo = machine.read("proc/cpuinfo").unwrap_or_default();
        let field = |name: &str| {
            cpuinfo.lines().find_map(|line| line.strip_prefix(name)?.trim_start().strip_prefix(':').map(str::trim))
        };
        let arm = || Some(format!("{} {}", field("CPU implementer")?, field("CPU part")?));
        let flags = field("flags").unwrap_or_default();
        let vendor = machine.read("sys/class/dmi/id/sys_vendor").unwrap_or_default();
        let guest =
            ["Amazon EC2", "Google", "QEMU", "Microsoft Corporation", "VMware, Inc."].contains(&vendor.as_str());
        let metal = machine.read("sys/class/dmi/id/product_name").is_some_and(|name| name.contains("metal"));
        Self {
            arch: machine.read("proc/sys/kernel/arch").unwrap_or_default(),
            kernel: machine.read("proc/sys/kernel/osrelease").unwrap_or_default(),
            cpu_model: field("model name").map(str::to_owned).or_else(arm).unwrap_or_default(),
            is_virtual: flags.split(' ').any(|flag| flag == "hypervisor") || guest && !metal,
            cores: cores(machine, &online),
            nodes: nodes(machine, &online),
            nics: machine.list("sys/class/net").iter().filter_map(|name| nic(machine, name)).collect(),
            online,
        }
    }

    /// 6.12 of `6.12.38+deb13-amd64`.
    pub fn kernel_version(&self) -> (u32, u32) {
        version(&self.kernel)
    }

    /// The first CPU of each core.
    pub fn firsts(&self) -> CpuSet {
        self.cores.keys().copied().collect()
    }

    /// These CPUs and all that share a core with one of them.
    pub fn with_siblings(&self, set: &CpuSet) -> CpuSet {
        let shared = self.cores.values().filter(|core| !core.intersection(set).is_empty());
        shared.fold(CpuSet::default(), |all, core| all.union(core))
    }
}

pub fn version(text: &str) -> (u32, u32) {
    let mut parts = text.split(|c: char| !c.is_ascii_digit()).map(|part| part.parse().unwrap_or(0));
    (parts.next().unwrap_or(0), parts.next().unwrap_or(0))
}

pub fn cpu_list(machine: &Machine, path: &str) -> Option<CpuSet> {
    CpuSet::parse(&machine.read(path)?)
}

fn cores(machine: &Machine, online: &CpuSet) -> BTreeMap<u16, CpuSet> {
    let mut cores = BTreeMap::new();
    for &cpu in &online.0 {
        let path = format!("sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list");
        let core = cpu_list(machine, &path).unwrap_or_else(|| CpuSet::from_iter([cpu])).intersection(online);
        cores.insert(core.0.first().copied().unwrap_or(cpu), core);
    }
    cores
}

fn nodes(machine: &Machine, online: &CpuSet) -> BTreeMap<u32, CpuSet> {
    let folder = "sys/devices/system/node";
    let node = |(number, name): (u32, String)| {
        let cpus = cpu_list(machine, &format!("{folder}/{name}/cpulist"))?.intersection(online);
        (!cpus.is_empty()).then_some((number, cpus))
    };
    let nodes: BTreeMap<u32, CpuSet> = machine.numbered(folder, "node").into_iter().filter_map(node).collect();
    // A kernel without NUMA has no such folder.
    if nodes.is_empty() { BTreeMap::from([(0, online.clone())]) } else { nodes }
}

fn nic(machine: &Machine, name: &str) -> Option<Nic> {
    let device = machine.resolve(&format!("sys/class/net/{name}/device"))?;
    if machine.read(&format!("sys/class/net/{name}/operstate")).as_deref() == Some("down") {
        return None;
    }
    let driver = machine.resolve(&format!("{device}/driver")).unwrap_or_default();
    let node = machine.read(&format!("{device}/numa_node")).and_then(|node| node.parse().ok());
    let driver = driver.rsplit('/').next().unwrap_or_default().to_owned();
    Some(Nic { name: name.to_owned(), driver, node, device })
}
