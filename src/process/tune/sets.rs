//! A profile's lists of CPUs on one machine.
//!
//! `0-3,8` names CPUs; `4-` those from 4 on; `node1:0-1` the first two cores of NUMA node 1; `rest` all that the other lists leave.
//! With `smt = "one-per-core"` the CPUs of a core stay together: a list that names one has them all.

use crate::process::tune::cpus::CpuSet;
use crate::process::tune::profile::Profile;
use crate::process::tune::profile::Smt;
use crate::process::tune::topology::Topology;

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sets {
    pub engine: CpuSet,
    pub irq: CpuSet,
    pub housekeeping: CpuSet,
    /// Where shards run: all of `engine`, or the first CPU of each core.
    pub shards: CpuSet,
}

impl Sets {
    /// Everything but the engine's.
    pub fn others(&self) -> CpuSet {
        self.irq.union(&self.housekeeping)
    }

    pub fn of(profile: &Profile, machine: &Topology) -> Result<Self, String> {
        let cpu = &profile.cpu;
        let whole = |set: CpuSet| match cpu.smt {
            Smt::OnePerCore => machine.with_siblings(&set),
            Smt::All => set,
        };
        let read = |key: &str, list: &str| match list {
            "rest" => Ok(None),
            _ => match pick(list, machine) {
                Ok(set) => Ok(Some(whole(set))),
                Err(message) => Err(format!("cpu.{key}: {message}")),
            },
        };
        let given = [read("engine", &cpu.engine)?, read("irq", &cpu.irq)?, read("housekeeping", &cpu.housekeeping)?];
        let named = given.iter().flatten().fold(CpuSet::default(), |all, set| all.union(set));
        let rest = machine.online.without(&named);
        let [engine, irq, housekeeping] = given.map(|set| set.unwrap_or_else(|| rest.clone()));
        let shards = match cpu.smt {
            Smt::OnePerCore => engine.intersection(&machine.firsts()),
            Smt::All => engine.clone(),
        };
        let sets = Self { engine, irq, housekeeping, shards };
        sets.fault(machine).map_or(Ok(sets), Err)
    }

    fn fault(&self, machine: &Topology) -> Option<String> {
        let both = self.engine.intersection(&self.irq);
        let all = self.engine.union(&self.others());
        for (key, set) in [("engine", &self.engine), ("irq", &self.irq), ("housekeeping", &self.housekeeping)] {
            if set.is_empty() {
                return Some(format!("cpu.{key}: no CPU is left for it"));
            }
        }
        if !both.is_empty() {
            return Some(format!("cpu.irq: CPU {} is the engine's, too", both.list()));
        }
        if !all.is_subset(&machine.online) {
            return Some(format!("cpu: CPU {} is not online", all.without(&machine.online).list()));
        }
        let missing = machine.online.without(&all);
        (!missing.is_empty()).then(|| format!("cpu: CPU {} is in none of the lists", missing.list()))
    }
}

/// Whether a list could be right on some machine.
pub fn check(list: &str) -> Result<(), String> {
    match list {
        "rest" => Ok(()),
        "" => Err("names no CPU".to_owned()),
        _ => list.split(',').try_for_each(|part| parse(part).map(drop)),
    }
}

struct Part {
    node: Option<u32>,
    first: u16,
    /// `None`: all from `first` on.
    last: Option<u16>,
}

fn parse(part: &str) -> Result<Part, String> {
    let wrong = || format!("{part:?} is no CPU list: expected \"0-3,8\", \"4-\", \"node1:0-1\" or \"rest\"");
    let part = part.trim();
    let (node, range) = match part.strip_prefix("node").and_then(|rest| rest.split_once(':')) {
        Some((node, range)) => (Some(node.parse().map_err(|_| wrong())?), range),
        None => (None, part),
    };
    let (first, last) = match range.split_once('-') {
        Some((first, "")) => (first, None),
        Some((first, last)) => (first, Some(last.parse().map_err(|_| wrong())?)),
        None => (range, Some(range.parse().map_err(|_| wrong())?)),
    };
    let first: u16 = first.parse().map_err(|_| wrong())?;
    if last.is_some_and(|last| last < first) { Err(wrong()) } else { Ok(Part { node, first, last }) }
}

fn pick(list: &str, machine: &Topology) -> Result<CpuSet, String> {
    let mut picked = CpuSet::default();
    for text in list.split(',') {
        let Part { node, first, last } = parse(text)?;
        let in_range = |number: u16| number >= first && last.is_none_or(|last| number <= last);
        let found: CpuSet = match node {
            None => match last {
                Some(last) => (first..=last).collect(),
                None => machine.online.0.iter().copied().filter(|cpu| in_range(*cpu)).collect(),
            },
            Some(node) => {
                let cpus = machine.nodes.get(&node).ok_or_else(|| format!("there is no NUMA node {node}"))?;
                let cores = cpus.intersection(&machine.firsts());
                let numbered = (0u16..).zip(cores.0);
                numbered.filter(|(number, _)| in_range(*number)).map(|(_, cpu)| cpu).collect()
            }
        };
        picked = picked.union(&found);
    }
    Ok(picked)
}
