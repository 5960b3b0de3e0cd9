//! Decisions: state machines driven by `(input, now, &mut Outbox)`, with no clock, socket, thread or randomness of their own.
//!
//! A machine gets its own state mutably and shared data ([`Shared`]) read-only; every effect goes through the
//! [`Outbox`](outbox::Outbox) and is applied after it returns. Its state is a plain serde value: a simulator or a new
//! engine restores it from bytes at any step and goes on.

pub mod admission;
pub mod call;
pub mod dialog;
pub mod digest;
pub mod directory;
pub mod exchange;
#[cfg(test)]
pub(crate) mod fixture;
pub mod flow;
pub mod lingering;
pub mod locator;
pub mod media;
pub mod nonce;
pub mod outbox;
pub mod recording;
pub mod registrar;
pub mod settings;
pub mod source_limit;
pub mod transaction;

use crate::machine::directory::Directory;
use crate::machine::settings::Settings;

/// What every machine of a node may read and none may change.
#[derive(Clone, Copy)]
pub struct Shared<'a> {
    pub settings: &'a Settings,
    pub directory: &'a Directory,
}
