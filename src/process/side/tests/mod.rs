//! The whole side process but for its keeper: real sockets, a real database, and an engine that is a script.

mod api;
mod link;
mod live;
pub(super) mod objects;
mod recordings;
mod tokens;
mod world;
