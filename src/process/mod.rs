//! Programs assembled from the layers below; they meet only through `wire`.

pub mod config;
pub mod engine;
pub mod side;
