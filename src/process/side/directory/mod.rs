//! The directory: tenants, phones and numbers, from the directory file to the database to the engine.
//!
//! [`file`] reads and checks the file, [`import`] merges it into the database, [`snapshot`] says it to the engine.

pub mod file;
pub mod import;
pub(crate) mod secret;
pub(crate) mod snapshot;
mod toml_fields;

use std::path::Path;

/// Every fault of a directory file by itself, a line each; what the database makes of it is not asked.
pub fn check(path: &Path) -> Result<(), Vec<String>> {
    let named = |what: String| format!("{}:{what}", path.display());
    let text = std::fs::read_to_string(path).map_err(|error| vec![named(format!(" {error}"))])?;
    let folder = path.parent().unwrap_or_else(|| Path::new("."));
    let checked = import::check_text(&text, folder);
    checked.map(drop).map_err(|faults| faults.iter().map(|fault| named(located(fault))).collect())
}

/// As faults of the configuration are written: line, key, what.
fn located(fault: &file::Fault) -> String {
    let line = if fault.line > 0 { format!("{}:", fault.line) } else { String::new() };
    format!("{line} {}: {}", fault.key, fault.message)
}

#[cfg(test)]
mod tests;
