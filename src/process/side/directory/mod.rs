//! The directory: tenants, phones and numbers, from the directory file to the database to the engine.
//!
//! [`file`] reads and checks the file, [`import`] merges it into the database, [`snapshot`] says it to the engine.

pub mod file;
pub mod import;
pub(crate) mod secret;
pub(crate) mod snapshot;
mod toml_fields;

use std::collections::BTreeSet;
use std::path::Path;

use crate::process::side::directory::file::DirectoryFile;
use crate::process::side::directory::file::Fault;
use crate::process::side::store;

/// Every fault of a directory file, a line each. Of the database it is asked which tenants there are.
pub fn check(path: &Path, database: &Path) -> Result<(), Vec<String>> {
    let named = |what: String| format!("{}:{what}", path.display());
    let text = std::fs::read_to_string(path).map_err(|error| vec![named(format!(" {error}"))])?;
    let folder = path.parent().unwrap_or_else(|| Path::new("."));
    let checked = import::check_text(&text, folder).and_then(|file| check_tenants(&file, database));
    checked.map_err(|faults| faults.iter().map(|fault| named(located(fault))).collect())
}

/// A phone's tenant stands in the file, or is known from before. A database that cannot be asked knows, perhaps.
fn check_tenants(file: &DirectoryFile, database: &Path) -> Result<(), Vec<Fault>> {
    let own: BTreeSet<&str> = file.tenants.iter().map(|tenant| tenant.name.as_str()).collect();
    let others: Vec<_> = file.phones.iter().filter(|phone| !own.contains(phone.tenant.as_str())).collect();
    if others.is_empty() {
        return Ok(());
    }
    let Some(known) = store::tenants_of(database) else { return Ok(()) };
    let lost = others.into_iter().filter(|phone| !known.contains(&phone.tenant));
    let faults: Vec<_> = lost.map(import::no_tenant).collect();
    if faults.is_empty() { Ok(()) } else { Err(faults) }
}

/// As faults of the configuration are written: line, key, what.
fn located(fault: &Fault) -> String {
    let line = if fault.line > 0 { format!("{}:", fault.line) } else { String::new() };
    format!("{line} {}: {}", fault.key, fault.message)
}

#[cfg(test)]
mod tests;
