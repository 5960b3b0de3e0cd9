//! Words every layer shares; nothing here knows telephony.

pub mod hash;
pub mod hex;
pub mod id;
pub mod keyed;
pub mod limit;
pub mod random;
pub mod slab;
pub mod time;
pub mod timer;
