//! An append-only file of checked records: magic, then per record length, CRC-32C and bytes (little-endian).
//!
//! A reader stops at the first record that is not whole and right: what a crash or a full disk tore off. A file that was
//! torn is never appended to; its owner goes on in a new one.

use std::fs::File;
use std::fs::OpenOptions;
use std::io;
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::path::PathBuf;

const MAGIC: &[u8; 8] = b"tipjrn\x00\x01";
const PREFIX_LEN: u64 = 8;
/// A length beyond this is damage, not a record.
const RECORD_BYTES_MAX: u32 = 1 << 20;

/// The writing end.
#[derive(Debug)]
pub struct Journal {
    path: PathBuf,
    file: File,
    len: u64,
    pending: Vec<u8>,
    synced: bool,
}

impl Journal {
    /// Makes a new file; one that exists is an error.
    pub fn create(path: PathBuf) -> io::Result<Self> {
        let mut file = OpenOptions::new().read(true).write(true).create_new(true).open(&path)?;
        file.write_all(MAGIC)?;
        Ok(Self { path, file, len: MAGIC.len() as u64, pending: Vec::new(), synced: false })
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

    /// After this a crash of the process loses nothing; power loss may until [`Journal::sync`].
    pub fn write(&mut self) -> io::Result<()> {
        if self.pending.is_empty() {
            return Ok(());
        }
        self.file.write_all_at(&self.pending, self.len)?;
        self.len += self.pending.len() as u64;
        self.pending.clear();
        self.synced = false;
        Ok(())
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

/// The reading end: from the beginning, record by record.
#[derive(Debug)]
pub struct Reader {
    file: File,
    position: u64,
}

impl Reader {
    /// A file that is not a journal reads as empty.
    pub fn open(path: &Path) -> io::Result<Self> {
        let file = File::open(path)?;
        let mut magic = [0; MAGIC.len()];
        let is_journal = file.read_exact_at(&mut magic, 0).is_ok() && &magic == MAGIC;
        let position = if is_journal { MAGIC.len() as u64 } else { u64::MAX };
        Ok(Self { file, position })
    }

    /// The next whole record, or `None` at the end; more may follow when the writer goes on.
    pub fn read(&mut self) -> io::Result<Option<Vec<u8>>> {
        if self.position == u64::MAX {
            return Ok(None);
        }
        let mut prefix = [0; PREFIX_LEN as usize];
        if !read_whole(&self.file, &mut prefix, self.position)? {
            return Ok(None);
        }
        let [a, b, c, d, e, f, g, h] = prefix;
        let len = u32::from_le_bytes([a, b, c, d]);
        let crc = u32::from_le_bytes([e, f, g, h]);
        if len > RECORD_BYTES_MAX {
            return Ok(None);
        }
        let mut record = vec![0; len as usize];
        if !read_whole(&self.file, &mut record, self.position + PREFIX_LEN)? || crc32c::crc32c(&record) != crc {
            return Ok(None);
        }
        self.position += PREFIX_LEN + u64::from(len);
        Ok(Some(record))
    }
}

fn read_whole(file: &File, bytes: &mut [u8], position: u64) -> io::Result<bool> {
    match file.read_exact_at(bytes, position) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(false),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_come_back_in_order_while_the_writer_goes_on() {
        let dir = tempfile::tempdir().unwrap();
        let mut journal = Journal::create(dir.path().join("a")).unwrap();
        let mut reader = Reader::open(journal.path()).unwrap();
        assert_eq!(reader.read().unwrap(), None);
        for round in 0..3u8 {
            journal.push(&[round]);
            journal.push(b"");
            assert_eq!(reader.read().unwrap(), None, "pending is not written");
            journal.write().unwrap();
            assert_eq!(reader.read().unwrap(), Some(vec![round]));
            assert_eq!(reader.read().unwrap(), Some(Vec::new()));
        }
        assert_eq!(std::fs::metadata(journal.path()).unwrap().len(), journal.len());
    }

    #[test]
    fn reading_stops_at_damage() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a");
        let mut journal = Journal::create(path.clone()).unwrap();
        journal.push(b"first");
        journal.push(b"second");
        journal.write().unwrap();
        let whole = std::fs::read(&path).unwrap();
        let first_end = 8 + 8 + 5;
        for cut in 0..whole.len() {
            std::fs::write(&path, &whole[..cut]).unwrap();
            let mut reader = Reader::open(&path).unwrap();
            let expected = if cut >= first_end { Some(b"first".to_vec()) } else { None };
            assert_eq!(reader.read().unwrap(), expected, "cut at {cut}");
            assert_eq!(reader.read().unwrap(), None);
        }
        for flipped in 0..first_end {
            let mut bytes = whole.clone();
            bytes[flipped] ^= 0x80;
            std::fs::write(&path, &bytes).unwrap();
            assert_eq!(Reader::open(&path).unwrap().read().unwrap(), None, "flipped {flipped}");
        }
    }

    #[test]
    fn an_existing_file_is_never_appended_to() {
        let dir = tempfile::tempdir().unwrap();
        Journal::create(dir.path().join("a")).unwrap();
        assert!(Journal::create(dir.path().join("a")).is_err());
    }
}
