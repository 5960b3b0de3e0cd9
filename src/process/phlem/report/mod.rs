//! What a run came to: a summary for people, JSON for programs, and one HTML file with plots.

mod history;
mod html;
mod json;
mod plot;
mod summary;

pub use history::History;
pub use html::html;
pub use json::json;
pub use summary::summary;

#[cfg(test)]
mod tests;
