//! What a process of ours gives up for good once it has started: capabilities, most system calls, most of the file system.
//!
//! Somebody who takes over engine or side gets what that process can still do. The keeper stays able to start processes.

pub mod calls;
pub mod capabilities;
pub mod files;
#[cfg(debug_assertions)]
pub mod trial;

/// One line each for what the system did not let us give up.
pub fn tell(rights: std::io::Result<()>, files: Result<bool, String>) {
    if let Err(error) = rights {
        tracing::warn!(event = "confined", "the rights of root cannot be given up: {error}");
    }
    match files {
        Ok(true) => {}
        Ok(false) => {
            tracing::info!(event = "confined", "this kernel has no Landlock: this process sees all files of its user")
        }
        Err(error) => tracing::warn!(event = "confined", "files cannot be hidden from this process: {error}"),
    }
}
