//! tipring: the server of a telephone line.
//!
//! Read the layers downwards; each may use only those above it in this list (`tests/tidy.rs` holds that):
//!
//! - [`base`]: words every layer shares: time, ids, limits, the timer wheel.
//! - [`wire`]: bytes to values and back: SIP, SDP, RTP, the link between processes.
//! - [`machine`]: decisions, driven by `(input, now, &mut Outbox)`; no clock, socket, thread or randomness of its own.
//! - [`shard`]: the only code that names glommio and io_uring: one pinned thread per core.
//! - [`process`]: keeper, engine, side: programs assembled from the above.
//!
//! `docs/architecture.md` has the map, the invariants and the life of a call.

pub mod base;
pub mod machine;
pub mod process;
pub mod shard;
pub mod wire;
