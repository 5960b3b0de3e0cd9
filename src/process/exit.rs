//! How a process of ours ends: the exit codes that scripts rely on, each with one line that says why.

use std::fmt;
use std::io;

/// Bad configuration.
pub const CONFIG: u8 = 78;
/// The system forbids something: io_uring, locked memory, a privileged port, a folder. The line names the remedy.
pub const FORBIDDEN: u8 = 71;
/// Something is in use by another process, named.
pub const BUSY: u8 = 75;
/// Wrong usage of the command line.
pub const USAGE: u8 = 2;
pub const OTHER: u8 = 1;

/// Why a process cannot start or go on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    pub code: u8,
    /// One line for people.
    pub line: String,
}

impl Failure {
    pub fn new(code: u8, line: impl Into<String>) -> Self {
        Self { code, line: line.into() }
    }

    /// The code that fits what the system said of `what`.
    pub fn from_io(what: impl fmt::Display, error: &io::Error) -> Self {
        let code = match error.kind() {
            io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => FORBIDDEN,
            io::ErrorKind::AddrInUse => BUSY,
            _ => OTHER,
        };
        Self::new(code, format!("{what}: {error}"))
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.line)
    }
}
