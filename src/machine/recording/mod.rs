//! A recording made from what its parties sent: one exact timeline of packets, from which all audio derives.
//!
//! The records are read twice. [`Arrivals`] learns from all of them how late each packet was; with the [`Courses`] that it
//! finds [`Timeline`] says where each packet lies and what became of it; [`Mixdown`] decodes what it placed into the two channels of
//! a recording; [`view`] derives stereo, single channels and the mono mix from these, at any place. Bounded memory whatever the
//! length. No files, no clock: it is fed the records of the tape in their order.

mod arrivals;
pub mod codec;
mod convert;
mod course;
mod ledger;
mod mixdown;
pub mod ogg;
mod seam;
pub mod segments;
mod sequence;
mod stream;
mod timeline;
pub mod view;

pub use arrivals::Arrivals;
pub use arrivals::Courses;
pub use codec::Codec;
pub use ledger::Ledger;
pub use ledger::Line;
pub use ledger::Verdict;
pub use mixdown::Encoding;
pub use mixdown::Mixdown;
pub use timeline::Correction;
pub use timeline::CorrectionKind;
pub use timeline::Party;
pub use timeline::Placed;
pub use timeline::Sink;
pub use timeline::Timeline;

#[cfg(test)]
mod tests;
