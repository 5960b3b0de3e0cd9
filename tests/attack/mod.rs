//! Attacks against the running node: strangers, and somebody who has stolen one phone's account. Each is bounded in time, and each has
//! phones beside it that must notice nothing. They are part of the end-to-end binary: `cargo test --release --test e2e attack::`.
//!
//! `docs/security.md` says what is promised, and names these tests.

mod advisories;
mod hoard;
mod sockets;
mod stolen;
mod strangers;
mod tools;
