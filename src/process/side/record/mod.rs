//! Call records: events in any order, some of them twice, become one record per call.
//!
//! [`merge`] is the order-free state of one call, [`cdr`] the record as published, [`published`] the event as
//! published, [`ingest`] what commits both.

pub(crate) mod cdr;
pub(crate) mod ingest;
pub(crate) mod merge;
pub(crate) mod published;

#[cfg(test)]
pub(crate) mod tests;
