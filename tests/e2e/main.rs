//! `tipring serve` as a process against real peers over real sockets: SIPp, baresip, sipsak, Kamailio, and a small phone that a test
//! drives by hand. Each test has a server, a folder and a loopback network of its own.
//!
//! Needs sipp, sipsak, baresip, kamailio, nats-server and fail2ban-regex (`tests/run` installs them). Sends nothing beyond loopback and its own
//! namespaces.
#![allow(unreachable_pub, reason = "a binary of its own")]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
#![allow(clippy::disallowed_methods, reason = "real processes need real time")]
#![allow(clippy::print_stderr, reason = "the server's log belongs to a failure's report")]

mod announce;
#[path = "../attack/mod.rs"]
mod attack;
mod audio;
mod baresip;
mod calls;
mod cookbook;
mod crash;
mod digest;
mod disk;
mod fail2ban;
mod figures;
mod fleet;
mod habits;
mod histories;
mod http;
mod media;
mod message;
mod moves;
mod namespace;
mod openapi;
mod operation;
mod oracle;
mod peers;
mod phlem;
mod phlem_options;
mod phone;
mod proxy;
mod recording;
mod register;
mod reload;
mod rtp;
mod server;
mod sipp;
mod survival;
mod tone;
mod torture;
mod transport;
mod tune;
mod verdicts;
