//! Media: what we write into session descriptions, and the relay of RTP and RTCP between the legs of a call.
//!
//! A *pair* is an RTP port and its RTCP port; a *slot* is one socket: pair n has the slots 2n (RTP) and 2n + 1 (RTCP). The
//! call allocates pairs ([`ports`]), writes descriptions ([`rewrite`]) and gives [`MediaCommand`]s to the shard's one
//! [`relay`], which answers with [`MediaNotice`]s. No packet is decoded, mixed or recorded here.

pub mod announcement;
pub mod bounds;
pub mod command;
pub mod events;
pub mod latch;
pub mod narrow;
pub mod pair;
pub mod ports;
pub mod quality;
pub mod relay;
pub mod rewrite;
pub mod sightings;
pub mod trial;
