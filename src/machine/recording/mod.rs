//! A recording made from what its parties sent: one exact timeline of packets, from which all audio derives.
//!
//! [`Timeline`] says where each packet lies and what became of it; [`Mixdown`] decodes what it placed into the two channels of
//! a recording; [`view`] derives stereo, single channels and the mono mix from these, at any place. Bounded memory whatever the
//! length. No files, no clock: it is fed the records of the tape in their order.

pub mod codec;
mod convert;
mod ledger;
mod mixdown;
pub mod ogg;
pub mod segments;
mod sequence;
mod stream;
mod timeline;
pub mod view;

pub use codec::Codec;
pub use ledger::Ledger;
pub use ledger::Line;
pub use ledger::Verdict;
pub use mixdown::Encoding;
pub use mixdown::Mixdown;
pub use timeline::Party;
pub use timeline::Placed;
pub use timeline::Sink;
pub use timeline::Timeline;

#[cfg(test)]
mod tests;
