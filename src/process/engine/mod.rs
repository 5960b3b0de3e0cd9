//! The engine: signalling and media. The keeper gives it sockets and settings; each shard runs an exchange on a thread of its
//! own; the clerk does what may wait.

pub mod clerk;
mod driver;
mod events;
mod figures;
mod lost;
mod message;
pub mod received;
mod run;
pub mod secrets;
mod settings;
mod tape;

pub use run::run;
