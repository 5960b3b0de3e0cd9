//! The tape of a node: blocks from each shard's ring in state memory to segments on disk (`wire::tape` is the format).
//!
//! [`ring`]: a shard writes records into blocks, the tape thread takes whole blocks. [`thread`]: the one thread that waits for
//! the disk; [`disk`]: the files it writes, behind a trait so that tests can make them fail. [`files`]: reading, for the side
//! process and tools.

pub mod disk;
pub mod files;
pub mod ring;
pub mod thread;

#[cfg(test)]
mod tests;
