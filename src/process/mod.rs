//! Programs assembled from the layers below; they meet only through `wire`.

pub mod channel;
pub mod child;
pub mod clock;
pub mod config;
pub mod confine;
pub mod engine;
pub mod exit;
pub mod keeper;
pub mod log;
pub mod phlem;
pub mod plan;
pub mod side;
pub mod tune;
