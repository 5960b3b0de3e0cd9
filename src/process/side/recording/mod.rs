//! Recordings on this side of the tape: taken from it call by call, finished, kept encrypted, given out.
//!
//! [`work`] is a call's store while it is up, [`tail`] fills these from the tapes, [`finish`] makes a recording of one,
//! [`finisher`] has the threads for it; [`audio`] is the file it ends in, [`rows`] what the database knows of it. [`live`] are
//! those that are not there yet, [`so_far`] is what can be heard of them. [`sweep`] deletes what is too old,
//! [`transcode`] makes Ogg/Opus of what is asked for so.
//! [`upload`] takes audio to an object store ([`objects`], `s3`), where one is configured.

pub(crate) mod audio;
pub(crate) mod finish;
pub(crate) mod finisher;
pub(crate) mod live;
pub(crate) mod objects;
pub(crate) mod rows;
#[cfg(feature = "s3")]
pub(crate) mod s3;
pub(crate) mod scrub;
pub(crate) mod so_far;
pub(crate) mod sweep;
pub(crate) mod tail;
pub(crate) mod transcode;
pub(crate) mod upload;
pub(crate) mod work;

#[cfg(test)]
pub(super) mod tests;
