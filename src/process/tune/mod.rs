//! The machine against its hardware profile: what is to be, what is, and what would make it so.
//!
//! Everything that can be tuned is a checker (`checkers/`), which looks at a machine through a root path and says what it found and
//! which actions would put it right. Actions are values: printed, written as a script, or carried out.

pub mod apply;
pub mod check;
pub mod checker;
pub mod checkers;
pub mod cpus;
pub mod detect;
pub mod engine;
pub mod machine;
pub mod page;
pub mod profile;
pub mod record;
pub mod script;
pub mod sets;
pub mod shipped;
#[cfg(test)]
mod tests;
pub mod topology;
pub mod trial;
