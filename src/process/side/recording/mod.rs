//! Recordings on this side of the tape: taken from it call by call, finished, kept encrypted, given out.
//!
//! [`work`] is a call's store while it is up, [`tail`] fills these from the tapes, [`finish`] makes a recording of one,
//! [`audio`] is the file it ends in, [`rows`] what the database knows of it.

pub(crate) mod audio;
pub(crate) mod finish;
pub(crate) mod rows;
pub(crate) mod tail;
pub(crate) mod work;

#[cfg(test)]
pub(super) mod tests;
