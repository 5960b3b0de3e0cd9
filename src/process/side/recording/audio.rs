//! A recording's audio as a file: frames of both channels in chunks of 64 KiB, each sealed under the recording's own key.
//!
//! Without the key the file is noise: deleting the key deletes the recording. Any range is read alone.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use crate::process::side::seal::KEY_BYTES;
use crate::process::side::seal::NodeKey;
use crate::process::side::seal::SEAL_BYTES;

/// A multiple of every frame's length.
pub(crate) const CHUNK_BYTES: usize = 64 * 1024;
const SEALED_BYTES: u64 = (CHUNK_BYTES + SEAL_BYTES) as u64;

pub(crate) struct Writer {
    file: File,
    key: NodeKey,
    id: String,
    waiting: Vec<u8>,
    chunks: u64,
}

impl Writer {
    /// Into an empty file.
    pub(crate) fn new(file: File, id: &str, key: &[u8; KEY_BYTES]) -> Self {
        Self { file, key: NodeKey::new(key), id: id.to_owned(), waiting: Vec::new(), chunks: 0 }
    }

    pub(crate) fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.waiting.extend_from_slice(bytes);
        while self.waiting.len() >= CHUNK_BYTES {
            let rest = self.waiting.split_off(CHUNK_BYTES);
            let chunk = std::mem::replace(&mut self.waiting, rest);
            self.put(&chunk)?;
        }
        Ok(())
    }

    pub(crate) fn finish(mut self) -> io::Result<()> {
        let last = std::mem::take(&mut self.waiting);
        if !last.is_empty() {
            self.put(&last)?;
        }
        Ok(())
    }

    fn put(&mut self, chunk: &[u8]) -> io::Result<()> {
        let sealed = self.key.seal(&place(&self.id, self.chunks), chunk).map_err(io::Error::other)?;
        self.file.write_all_at(&sealed, self.chunks * SEALED_BYTES)?;
        self.chunks += 1;
        Ok(())
    }
}

/// A sealed file, wherever it lies.
pub(crate) trait Sealed: Send + Sync {
    /// All of `room`, from the byte at `at` on. May wait.
    fn fill(&self, room: &mut [u8], at: u64) -> io::Result<()>;
}

impl Sealed for File {
    fn fill(&self, room: &mut [u8], at: u64) -> io::Result<()> {
        self.read_exact_at(room, at)
    }
}

/// Of a file that holds so many bytes of audio.
pub(crate) const fn sealed_bytes(len: u64) -> u64 {
    len + len.div_ceil(CHUNK_BYTES as u64) * SEAL_BYTES as u64
}

pub(crate) struct Reader {
    sealed: Box<dyn Sealed>,
    key: NodeKey,
    id: String,
    /// Bytes of audio.
    len: u64,
}

impl Reader {
    pub(crate) fn open(path: &Path, id: &str, key: &[u8; KEY_BYTES], len: u64) -> io::Result<Self> {
        Ok(Self::new(File::open(path)?, id, key, len))
    }

    pub(crate) fn new(sealed: impl Sealed + 'static, id: &str, key: &[u8; KEY_BYTES], len: u64) -> Self {
        Self { sealed: Box::new(sealed), key: NodeKey::new(key), id: id.to_owned(), len }
    }

    /// So many bytes from this one on; fewer at the end of a chunk, none at the end of all.
    pub(crate) fn read(&self, at: u64, wanted: usize) -> io::Result<Vec<u8>> {
        let wanted = wanted.min(usize::try_from(self.len.saturating_sub(at)).unwrap_or(usize::MAX));
        if wanted == 0 {
            return Ok(Vec::new());
        }
        let index = at / CHUNK_BYTES as u64;
        let first = index * CHUNK_BYTES as u64;
        let held = usize::try_from(self.len - first).unwrap_or(usize::MAX).min(CHUNK_BYTES);
        let mut sealed = vec![0; held + SEAL_BYTES];
        self.sealed.fill(&mut sealed, index * SEALED_BYTES)?;
        let chunk = self.key.open_value(&place(&self.id, index), &sealed).map_err(|_| damage())?;
        let start = (at - first) as usize;
        let end = start.saturating_add(wanted).min(chunk.len());
        Ok(chunk.get(start..end).unwrap_or_default().to_vec())
    }
}

fn damage() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "a piece does not open under its seal")
}

/// The audio is not what was written: changed, cut short, or gone.
pub(crate) fn is_damage(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof | io::ErrorKind::NotFound)
}

fn place(id: &str, chunk: u64) -> String {
    format!("{id}/{chunk}")
}
