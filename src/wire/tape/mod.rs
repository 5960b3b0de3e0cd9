//! The tape: an append-only log of media frames, call events, marks and gaps, per shard and track, in segments of blocks.
//!
//! A block is a header of fixed layout and records, whole in one piece; it starts at a multiple of [`BLOCK_ALIGN`] of its
//! segment's file and is never written again. `docs/formats.md` has the layout. Here: block and record to bytes and back
//! ([`Header`], [`record`]), a segment's bytes to blocks with its end found after a torn write ([`Reader`]), the cipher of
//! a segment ([`crypt`]) and the names of files ([`name`]). No files, no clock; nothing panics on any input.

mod block;
pub mod crypt;
pub mod name;
mod reader;
pub mod record;

pub use block::BLOCK_ALIGN;
pub use block::BLOCK_BYTES_MAX;
pub use block::BODY_BYTES_MAX;
pub use block::BadBlock;
pub use block::FORMAT;
pub use block::HEADER_BYTES;
pub use block::Header;
pub use block::Track;
pub use block::padded;
pub use block::parse;
pub use reader::Copies;
pub use reader::Reader;
pub use reader::Step;
pub use record::BadRecord;
pub use record::Frame;
pub use record::Gap;
pub use record::Mark;
pub use record::Record;
pub use record::records;

#[cfg(test)]
mod tests;
