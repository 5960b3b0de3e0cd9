//! Room for SQLite's index of the WAL (`tipring.db-shm`), which it maps: where a full disk has no block for a page of a mapping, the
//! process that touches it dies by SIGBUS. SQLite has one byte of each page allocated, which is not all of it where blocks are smaller
//! than pages.
//!
//! The files stay open as long as the process: closing one would drop the POSIX locks that SQLite has on it.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::PoisonError;

use rustix::fs::FallocateFlags;
use rustix::fs::fallocate;
use rustix::io::Errno;

/// An index of a WAL of 128 MiB.
const BYTES: u64 = 256 << 10;

/// The files that were given their room, by the database.
static RESERVED: Mutex<BTreeMap<PathBuf, File>> = Mutex::new(BTreeMap::new());

/// Whether there is room for an index, before SQLite makes one.
pub(super) fn try_room(database: &Path) -> io::Result<()> {
    let path = beside(database, "-room");
    let file = File::options().create(true).truncate(true).write(true).mode(0o600).open(&path)?;
    let allocated = allocate(&file);
    std::fs::remove_file(&path)?;
    allocated
}

/// Gives the index that is in use all its blocks.
pub(super) fn reserve(database: &Path) -> io::Result<()> {
    let path = beside(database, "-shm");
    let found = match path.metadata() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        found => found?,
    };
    let mut reserved = RESERVED.lock().unwrap_or_else(PoisonError::into_inner);
    let is_same = |file: &File| file.metadata().is_ok_and(|own| (own.dev(), own.ino()) == (found.dev(), found.ino()));
    if reserved.get(&path).is_none_or(|file| !is_same(file)) {
        // What is replaced is the index of a database that was closed: nobody has a lock on it.
        reserved.insert(path.clone(), File::options().write(true).open(&path)?);
    }
    reserved.get(&path).map_or(Ok(()), allocate)
}

fn allocate(file: &File) -> io::Result<()> {
    match fallocate(file, FallocateFlags::empty(), 0, BYTES) {
        // A file system without reservation: SQLite's own care is all there is.
        Err(Errno::OPNOTSUPP) | Ok(()) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

fn beside(database: &Path, end: &str) -> PathBuf {
    let mut path = database.as_os_str().to_owned();
    path.push(end);
    path.into()
}
