//! The files of tapes: preallocated segments with a key beside each, written with O_DIRECT where the file system takes it.

use std::fs::File;
use std::fs::OpenOptions;
use std::io;
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::path::PathBuf;

use rustix::fs::FallocateFlags;
use rustix::fs::fallocate;
use rustix::io::Errno;

use crate::base::id::ShardId;
use crate::shard::tape::files;
use crate::wire::tape::crypt::KEY_FILE_BYTES;
use crate::wire::tape::crypt::Key;
use crate::wire::tape::name::SegmentName;

/// What the tape thread does to the disk; tests make it fail.
pub trait Disk: Send {
    type Segment: Segment;

    /// A new segment of `bytes` zeros, and its key where one is wanted. Both names are durable.
    fn create(&mut self, name: SegmentName, bytes: u64, key: Option<&Key>) -> io::Result<Self::Segment>;

    /// Destroys the key, then the segment; what is not there is no error.
    fn remove(&mut self, name: SegmentName) -> io::Result<()>;

    /// All segments of a shard that are there, in order, with the bytes they take.
    fn list(&mut self, shard: ShardId) -> io::Result<Vec<(SegmentName, u64)>>;

    /// Numbers, times and sizes of the blocks of a segment, for the gap that its removal makes.
    fn summary(&mut self, name: SegmentName) -> Vec<files::Extent>;
}

pub trait Segment: Send {
    /// `at` and the length are multiples of 4,096, and `bytes` is aligned so.
    fn write(&mut self, at: u64, bytes: &[u8]) -> io::Result<()>;

    /// What was written is durable when this has returned. After an error the segment is not used again.
    fn sync(&mut self) -> io::Result<()>;

    /// Nothing more comes: the file ends at `len`.
    fn finish(self, len: u64) -> io::Result<()>;
}

/// How segments are written here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    Direct,
    /// The file system refuses O_DIRECT: through the page cache, with fdatasync as before.
    Buffered,
}

/// Tapes under one folder of a file system.
#[derive(Debug)]
pub struct Folder {
    path: PathBuf,
    way: Way,
}

impl Folder {
    /// Makes the folder, and finds out whether its file system takes O_DIRECT.
    pub fn open(path: &Path) -> io::Result<Self> {
        std::fs::create_dir_all(path)?;
        let probe = path.join("probe");
        let direct = open_new(&probe, libc::O_DIRECT).map(drop);
        let _ = std::fs::remove_file(&probe);
        let way = if direct.is_ok() { Way::Direct } else { Way::Buffered };
        Ok(Self { path: path.to_owned(), way })
    }

    pub fn way(&self) -> Way {
        self.way
    }

    fn folder(&self, shard: ShardId) -> PathBuf {
        self.path.join(SegmentName::folder(shard))
    }
}

impl Disk for Folder {
    type Segment = SegmentFile;

    fn create(&mut self, name: SegmentName, bytes: u64, key: Option<&Key>) -> io::Result<SegmentFile> {
        let folder = self.folder(name.shard);
        std::fs::create_dir_all(&folder)?;
        let path = folder.join(name.file());
        let made = make(&folder, &path, name, bytes, key, self.way);
        if made.is_err() {
            // Half a segment is none; the number is not used again.
            let _ = self.remove(name);
        }
        made
    }

    fn remove(&mut self, name: SegmentName) -> io::Result<()> {
        let folder = self.folder(name.shard);
        destroy(&folder.join(name.key_file()))?;
        unlink(&folder.join(name.file()))
    }

    fn list(&mut self, shard: ShardId) -> io::Result<Vec<(SegmentName, u64)>> {
        files::list(&self.path, shard)
    }

    fn summary(&mut self, name: SegmentName) -> Vec<files::Extent> {
        files::extents(&self.path, name)
    }
}

fn make(
    folder: &Path,
    path: &Path,
    name: SegmentName,
    bytes: u64,
    key: Option<&Key>,
    way: Way,
) -> io::Result<SegmentFile> {
    if let Some(key) = key {
        let mut file = open_new(&folder.join(name.key_file()), 0)?;
        file.write_all(&key.emit())?;
        file.sync_all()?;
    }
    let file = open_new(path, if way == Way::Direct { libc::O_DIRECT } else { 0 })?;
    match fallocate(&file, FallocateFlags::empty(), 0, bytes) {
        // Without reservation the disk may turn out full later.
        Err(Errno::OPNOTSUPP) => file.set_len(bytes)?,
        result => result?,
    }
    file.sync_all()?;
    File::open(folder)?.sync_all()?;
    Ok(SegmentFile { file })
}

fn open_new(path: &Path, flags: i32) -> io::Result<File> {
    OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).custom_flags(flags).open(path)
}

/// Overwrites a key before it is removed. Disks that write elsewhere may keep the old bytes until they need the room.
fn destroy(path: &Path) -> io::Result<()> {
    match OpenOptions::new().write(true).open(path) {
        Ok(file) => {
            file.write_all_at(&[0; KEY_FILE_BYTES], 0)?;
            file.sync_all()?;
            unlink(path)
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    }
}

fn unlink(path: &Path) -> io::Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

#[derive(Debug)]
pub struct SegmentFile {
    file: File,
}

impl Segment for SegmentFile {
    fn write(&mut self, at: u64, bytes: &[u8]) -> io::Result<()> {
        self.file.write_all_at(bytes, at)
    }

    fn sync(&mut self) -> io::Result<()> {
        self.file.sync_data()
    }

    fn finish(self, len: u64) -> io::Result<()> {
        self.file.set_len(len)
    }
}
