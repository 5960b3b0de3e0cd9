//! Events that a release before this one left in `<data>/spool`: committed once, then the folder goes. Newer events are on the tape.

use std::fs;
use std::io;
use std::path::Path;
use std::path::PathBuf;

use tokio::runtime::Handle;

use crate::process::side::record::desk::Desk;
use crate::process::side::record::ingest::Batch;
use crate::process::side::record::ingest::Way;
use crate::wire::event::Event;
use crate::wire::journal;

/// Killed at any point it begins again: events count once.
pub(super) fn take_over(data: &Path, desk: &Desk, handle: &Handle) -> io::Result<()> {
    let folder = data.join("spool");
    let mut paths: Vec<PathBuf> = match fs::read_dir(&folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        entries => entries?.map(|entry| entry.map(|entry| entry.path())).collect::<io::Result<_>>()?,
    };
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "spool"));
    paths.sort();
    let mut events = 0;
    for path in paths {
        let file = fs::read(&path)?;
        let mut batches: Vec<Batch> = Vec::new();
        for (boot, event) in
            journal::records(&file).filter_map(|record| postcard::from_bytes::<(u64, Event)>(record).ok())
        {
            events += 1;
            match batches.last_mut().filter(|batch| batch.boot == boot) {
                Some(batch) => batch.events.push(event),
                None => batches.push(Batch { boot, events: vec![event], gaps: Vec::new() }),
            }
        }
        handle.block_on(desk.commit(&batches, Way::Tape)).map_err(io::Error::other)?;
        fs::remove_file(&path)?;
    }
    tracing::info!(event = "spool.taken_over", "{events} events of an older release's spool are in the database");
    if let Err(error) = fs::remove_dir(&folder) {
        tracing::warn!(event = "spool.left", "{} has nothing of ours any more: {error}", folder.display());
    }
    Ok(())
}
