//! Every checker, one file per topic.

pub mod clock;
pub mod conntrack;
pub mod cpu;
pub mod disk;
pub mod irq;
pub mod limits;
pub mod memory;
pub mod nic;
pub mod sysctl;

use crate::process::tune::checker::Checker;
use crate::process::tune::profile::Profile;

/// In the order in which they are looked at and acted on: queues before their interrupts, interrupts before steering.
pub fn all(profile: &Profile) -> Vec<Checker> {
    let fixed =
        [cpu::ALL, nic::QUEUES, irq::ALL, nic::ALL, memory::ALL, conntrack::ALL, disk::ALL, clock::ALL, limits::ALL];
    let mut all: Vec<Checker> = fixed.into_iter().flatten().cloned().collect();
    all.extend(sysctl::checkers(profile));
    all
}
