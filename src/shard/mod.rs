//! The only layer that names glommio and io_uring: one pinned thread per core, and everything it does with the kernel.
//!
//! [`run`] is the loop; [`udp`] carries datagrams, [`tcp`] SIP over TCP, [`mesh`] messages between shards; [`memory`] is what
//! outlives the process. No decision about telephony is taken here: those are the [`run::ShardMachine`]'s.

pub mod clock;
pub mod memory;
pub mod mesh;
pub mod probe;
pub mod run;
pub mod tape;
pub mod tcp;
pub mod udp;
