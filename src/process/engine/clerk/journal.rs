//! Writes an append-only file of checked records ([`journal`]). A file that was torn is never appended to: its writer cuts off what a
//! full disk left half written, and another life of its owner goes on in a new one.

use std::fs::File;
use std::fs::OpenOptions;
use std::io;
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::path::PathBuf;

use crate::wire::journal;
use crate::wire::journal::MAGIC;
use crate::wire::journal::RECORD_BYTES_MAX;

const PREFIX_LEN: u64 = journal::PREFIX_LEN as u64;

/// The writing end.
#[derive(Debug)]
pub struct Journal {
    path: PathBuf,
    file: File,
    len: u64,
    pending: Vec<u8>,
    synced: bool,
    is_torn: bool,
}

impl Journal {
    /// Makes a new file; one that exists is an error.
    pub fn create(path: PathBuf) -> io::Result<Self> {
        let mut file = OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(&path)?;
        if let Err(error) = file.write_all(MAGIC) {
            let _ = std::fs::remove_file(&path);
            return Err(error);
        }
        Ok(Self { path, file, len: MAGIC.len() as u64, pending: Vec::new(), synced: false, is_torn: false })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    pub fn rename(&mut self, path: PathBuf) -> io::Result<()> {
        std::fs::rename(&self.path, &path)?;
        self.path = path;
        Ok(())
    }

    /// Bytes of the file once what is pending is written.
    pub fn len(&self) -> u64 {
        self.len + self.pending.len() as u64
    }

    pub fn is_empty(&self) -> bool {
        self.len() == MAGIC.len() as u64
    }

    /// Bytes that a record takes in the file.
    pub fn record_len(record: &[u8]) -> u64 {
        PREFIX_LEN + record.len() as u64
    }

    /// Gathers a record; [`Journal::write`] hands it to the kernel.
    pub fn push(&mut self, record: &[u8]) {
        let Ok(len) = u32::try_from(record.len()) else { return };
        debug_assert!(len <= RECORD_BYTES_MAX);
        self.pending.extend_from_slice(&len.to_le_bytes());
        self.pending.extend_from_slice(&crc32c::crc32c(record).to_le_bytes());
        self.pending.extend_from_slice(record);
    }

    /// Half a record could not be cut off: nothing may be written behind it.
    pub fn is_torn(&self) -> bool {
        self.is_torn
    }

    /// After this a crash of the process loses nothing; power loss may until [`Journal::sync`]. After an error nothing is pending.
    pub fn write(&mut self) -> io::Result<()> {
        if self.pending.is_empty() {
            return Ok(());
        }
        self.synced = false;
        let written = self.file.write_all_at(&self.pending, self.len);
        if written.is_ok() {
            self.len += self.pending.len() as u64;
        } else {
            // Behind what is written next, half a record of now would be a record of then.
            self.is_torn = self.file.set_len(self.len).is_err();
        }
        self.pending.clear();
        written
    }

    pub fn sync(&mut self) -> io::Result<()> {
        if self.synced {
            return Ok(());
        }
        self.file.sync_data()?;
        self.synced = true;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::journal::records;

    #[test]
    fn records_come_back_in_order() {
        let dir = tempfile::tempdir().unwrap();
        let mut journal = Journal::create(dir.path().join("a")).unwrap();
        let read = |journal: &Journal| {
            let bytes = std::fs::read(journal.path()).unwrap();
            records(&bytes).map(<[u8]>::to_vec).collect::<Vec<_>>()
        };
        let mut expected = Vec::new();
        for round in 0..3u8 {
            journal.push(&[round]);
            journal.push(b"");
            assert_eq!(read(&journal), expected, "pending is not written");
            journal.write().unwrap();
            expected.extend([vec![round], Vec::new()]);
            assert_eq!(read(&journal), expected);
        }
        assert_eq!(std::fs::metadata(journal.path()).unwrap().len(), journal.len());
    }

    #[test]
    fn an_existing_file_is_never_appended_to() {
        let dir = tempfile::tempdir().unwrap();
        Journal::create(dir.path().join("a")).unwrap();
        assert!(Journal::create(dir.path().join("a")).is_err());
    }
}
