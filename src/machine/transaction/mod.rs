//! Transactions (RFC 3261 §17 with the corrections of RFC 6026): who repeats what, until when, and what is absorbed.
//!
//! One file per machine. Each holds the bytes that it may have to send again, never parses, and says with a small enum
//! what its user must know. Finished non-INVITE server transactions need no machine: their response lingers elsewhere.

pub mod invite_client;
pub mod invite_server;
pub mod key;
pub mod non_invite_client;
pub mod repeat;

#[cfg(test)]
mod tests;

use std::time::Duration;

/// RFC 3261 §17.1.1.1: "T1 is an estimate of the round-trip time (RTT), and it defaults to 500 ms."
pub const T1: Duration = Duration::from_millis(500);
/// RFC 3261 §17.1.2.2: the longest pause between repeats of a non-INVITE request and of an INVITE's response.
pub const T2: Duration = Duration::from_secs(4);
/// RFC 3261 §17.1.2.2: "the amount of time the network will take to clear messages".
pub const T4: Duration = Duration::from_secs(5);
/// Timers B, F, H, J, L and M.
pub const T1_64: Duration = Duration::from_secs(32);
/// RFC 3261 §17.1.1.2: timer D is at least 32 seconds where the transport is unreliable.
pub const TIMER_D: Duration = Duration::from_secs(32);

const _: () = assert!(T1_64.as_millis() == 64 * T1.as_millis());
