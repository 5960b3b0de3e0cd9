//! The directory on its way from side to the shards, and the last one on disk, so that an engine starts without a database.

use std::fs;
use std::io;
use std::io::Write;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;

use crate::machine::directory::Directory;
use crate::wire::link::DirectoryPart;

/// First byte of the file: how it is written. Behind it stand the CRC-32C of the rest, and the rest.
const FORMAT: u8 = 3;

#[derive(Debug)]
pub struct Keeping {
    path: PathBuf,
    current: Arc<Directory>,
    /// Parts of a whole directory that has not all arrived.
    coming: Option<Directory>,
    /// Newer than what is on disk.
    is_dirty: bool,
}

/// The delta is not for the version that is here.
#[derive(Debug, PartialEq, Eq)]
pub struct OutOfStep;

impl Keeping {
    /// Reads the last directory. Without one, or with one that is damaged, it is empty, and side will send it.
    pub fn open(data: &Path) -> Self {
        let path = data.join("directory.snapshot");
        let read = match fs::read(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => {
                tracing::error!(event = "directory.unreadable", "{}: {error}", path.display());
                None
            }
            Ok(bytes) => {
                let parsed = parse(&bytes);
                if parsed.is_none() {
                    let path = path.display();
                    tracing::error!(
                        event = "directory.damaged",
                        "{path} is damaged: no phone is known before side sends it"
                    );
                }
                parsed
            }
        };
        Self { path, current: Arc::new(read.unwrap_or_default()), coming: None, is_dirty: false }
    }

    pub fn current(&self) -> &Arc<Directory> {
        &self.current
    }

    /// True when the last part made it whole.
    pub fn replace(&mut self, version: u64, part: DirectoryPart, is_last: bool) -> bool {
        let mut coming = self.coming.take().unwrap_or_default();
        coming.apply(version, part);
        if is_last {
            self.adopt(coming);
        } else {
            self.coming = Some(coming);
        }
        is_last
    }

    pub fn change(&mut self, from: u64, version: u64, part: DirectoryPart) -> Result<(), OutOfStep> {
        if self.current.version() != from {
            return Err(OutOfStep);
        }
        let mut changed = Directory::clone(&self.current);
        changed.apply(version, part);
        self.adopt(changed);
        Ok(())
    }

    /// A connection ended in the middle.
    pub fn forget_parts(&mut self) {
        self.coming = None;
    }

    fn adopt(&mut self, directory: Directory) {
        self.current = Arc::new(directory);
        self.is_dirty = true;
    }

    /// Writes what changed; a crash leaves the old file or the new one.
    pub fn sync(&mut self) -> io::Result<()> {
        if !self.is_dirty {
            return Ok(());
        }
        let directory = postcard::to_stdvec(self.current.as_ref()).map_err(io::Error::other)?;
        let bytes = [&[FORMAT][..], &crc32c::crc32c(&directory).to_le_bytes(), &directory].concat();
        let partial = self.path.with_extension("partial");
        if let Err(error) = write_private(&partial, &bytes) {
            // On a full disk it would be in the way.
            let _ = fs::remove_file(&partial);
            return Err(error);
        }
        fs::rename(&partial, &self.path)?;
        self.is_dirty = false;
        Ok(())
    }
}

/// It holds digests of passwords.
fn write_private(path: &Path, bytes: &[u8]) -> io::Result<()> {
    use std::os::unix::fs::OpenOptionsExt;
    let mut file = fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

fn parse(bytes: &[u8]) -> Option<Directory> {
    let rest = bytes.strip_prefix(&[FORMAT])?;
    let (checksum, directory) = rest.split_first_chunk()?;
    let is_whole = crc32c::crc32c(directory) == u32::from_le_bytes(*checksum);
    postcard::from_bytes(directory).ok().filter(|_| is_whole)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::link::Announce;
    use crate::wire::link::Record;
    use crate::wire::link::RecordCodecs;
    use crate::wire::link::Tenant;

    fn part(name: &str) -> DirectoryPart {
        let tenant = Tenant {
            name: name.to_owned(),
            domain: format!("{name}.test"),
            aliases: Vec::new(),
            realm: String::new(),
            default: false,
            record: Record::Never,
            announce: Announce::File { audio: vec![1, 2] },
            digest: Vec::new(),
            md5_fallback: true,
            record_codecs: RecordCodecs::Any,
        };
        DirectoryPart { tenants: vec![tenant], ..DirectoryPart::default() }
    }

    #[test]
    fn the_last_whole_directory_survives() {
        let dir = tempfile::tempdir().unwrap();
        let mut keeping = Keeping::open(dir.path());
        assert_eq!(keeping.current().version(), 0);
        assert!(!keeping.replace(7, part("acme"), false));
        assert_eq!(keeping.current().tenants_len(), 0, "a part is not used");
        assert!(keeping.replace(7, part("other"), true));
        assert_eq!(keeping.change(6, 8, part("late")), Err(OutOfStep));
        keeping.change(7, 8, part("third")).unwrap();
        keeping.sync().unwrap();
        let again = Keeping::open(dir.path());
        assert_eq!((again.current().version(), again.current().tenants_len()), (8, 3));
        fs::write(dir.path().join("directory.snapshot"), b"\x02garbage").unwrap();
        assert_eq!(Keeping::open(dir.path()).current().version(), 0);
    }

    #[test]
    fn a_damaged_snapshot_is_noticed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("directory.snapshot");
        let mut keeping = Keeping::open(dir.path());
        keeping.replace(7, part("acme"), true);
        keeping.sync().unwrap();
        let bytes = fs::read(&path).unwrap();
        for flipped in 0..bytes.len() {
            let mut damaged = bytes.clone();
            damaged[flipped] ^= 4;
            fs::write(&path, damaged).unwrap();
            assert_eq!(Keeping::open(dir.path()).current().version(), 0, "flipped {flipped}");
        }
    }

    #[test]
    fn an_interrupted_transfer_leaves_nothing_behind() {
        let dir = tempfile::tempdir().unwrap();
        let mut keeping = Keeping::open(dir.path());
        keeping.replace(1, part("lost"), false);
        keeping.forget_parts();
        keeping.replace(2, part("acme"), true);
        assert!(keeping.current().tenant("lost").is_none());
        assert!(keeping.current().tenant("acme").is_some());
    }
}
