//! The directory: tenants, phones and numbers, from the directory file to the database to the engine.
//!
//! [`file`] reads and checks the file, [`import`] merges it into the database, [`snapshot`] says it to the engine.

pub mod file;
pub mod import;
pub(crate) mod secret;
pub(crate) mod snapshot;
mod toml_fields;

#[cfg(test)]
mod tests;
