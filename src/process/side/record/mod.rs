//! Call records: events in any order, some of them twice, become one record per call.
//!
//! [`tail`] reads the events from the tapes; [`desk`] is where these and those of the link are committed, by [`ingest`]. [`merge`] is the
//! order-free state of one call, [`cdr`] the record as published, [`published`] the event as published.

pub(crate) mod cdr;
pub(crate) mod desk;
pub(crate) mod ingest;
pub(crate) mod merge;
pub(crate) mod published;
mod spool;
pub(crate) mod tail;
pub(crate) mod tally;

#[cfg(test)]
pub(crate) mod tests;
