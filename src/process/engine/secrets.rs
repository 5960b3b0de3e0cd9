//! The node's secrets on disk: hash key and nonce key, made once at the first start, readable by their owner alone.
//!
//! The file is a magic, the secrets, and a checksum over both (SHA-256): damage is told from secrets. A file of an older release
//! is the secrets alone; it is read once and written anew.

use std::fs;
use std::io;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::path::PathBuf;

use sha2::Digest;
use sha2::Sha256;

use crate::base::hash::HashKey;
use crate::machine::settings::Secrets;

const MAGIC: &[u8; 8] = b"tipsec\x00\x01";
const CHECKSUM_BYTES: usize = 32;

/// The secrets, and whether the file has them.
#[derive(Debug)]
pub struct Kept {
    path: PathBuf,
    secrets: Secrets,
    is_dirty: bool,
}

impl Kept {
    /// Reads `<data>/secrets`; without such a file the secrets are new.
    pub fn open(data: &Path) -> io::Result<Self> {
        let path = data.join("secrets");
        let damaged = || {
            let path = path.display();
            let line = format!("{path} is damaged; without it phones are challenged anew: remove it to make another");
            io::Error::new(io::ErrorKind::InvalidData, line)
        };
        match fs::read(&path) {
            Ok(bytes) => {
                let (secrets, is_dirty) = parse(&bytes).ok_or_else(damaged)?;
                Ok(Self { path, secrets, is_dirty })
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Self::new(data),
            Err(error) => Err(error),
        }
    }

    /// New ones, which replace what is there.
    pub fn new(data: &Path) -> io::Result<Self> {
        let mut secrets = Secrets { hash: HashKey([0; 16]), nonce: [0; 32] };
        getrandom::fill(&mut secrets.hash.0).map_err(io::Error::other)?;
        getrandom::fill(&mut secrets.nonce).map_err(io::Error::other)?;
        Ok(Self { path: data.join("secrets"), secrets, is_dirty: true })
    }

    pub fn secrets(&self) -> &Secrets {
        &self.secrets
    }

    /// Writes what the file does not have; a crash leaves the old file or the new one.
    pub fn sync(&mut self) -> io::Result<()> {
        if !self.is_dirty {
            return Ok(());
        }
        let mut bytes = postcard::to_extend(&self.secrets, MAGIC.to_vec()).map_err(io::Error::other)?;
        bytes.extend_from_slice(&Sha256::digest(&bytes));
        let partial = self.path.with_extension("partial");
        if let Err(error) = write_private(&partial, &bytes) {
            let _ = fs::remove_file(&partial);
            return Err(error);
        }
        fs::rename(&partial, &self.path)?;
        self.is_dirty = false;
        Ok(())
    }
}

fn write_private(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

/// The secrets, and whether the file is an older release's.
fn parse(file: &[u8]) -> Option<(Secrets, bool)> {
    let Some(rest) = file.strip_prefix(MAGIC) else {
        let (secrets, rest) = postcard::take_from_bytes(file).ok()?;
        return rest.is_empty().then_some((secrets, true));
    };
    let (secrets, checksum) = rest.split_at_checked(rest.len().checked_sub(CHECKSUM_BYTES)?)?;
    let checked = file.get(..file.len() - CHECKSUM_BYTES)?;
    let is_whole = Sha256::digest(checked).as_slice() == checksum;
    postcard::from_bytes(secrets).ok().filter(|_| is_whole).map(|secrets| (secrets, false))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn load(data: &Path) -> io::Result<Secrets> {
        let mut kept = Kept::open(data)?;
        kept.sync()?;
        Ok(kept.secrets)
    }

    #[test]
    fn made_once_and_private() {
        let dir = tempfile::tempdir().unwrap();
        let first = load(dir.path()).unwrap();
        let again = load(dir.path()).unwrap();
        assert_eq!((first.hash, first.nonce), (again.hash, again.nonce));
        assert_ne!(first.nonce, [0; 32]);
        let mode = fs::metadata(dir.path().join("secrets")).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        fs::write(dir.path().join("secrets"), b"short").unwrap();
        assert!(load(dir.path()).is_err());
    }

    #[test]
    fn damage_is_told_from_secrets() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("secrets");
        load(dir.path()).unwrap();
        let bytes = fs::read(&path).unwrap();
        for flipped in 0..bytes.len() {
            let mut damaged = bytes.clone();
            damaged[flipped] ^= 1;
            fs::write(&path, damaged).unwrap();
            let error = load(dir.path()).unwrap_err().to_string();
            assert!(error.contains("secrets is damaged") && error.contains("remove it"), "{error}");
        }
        fs::write(&path, vec![7; bytes.len()]).unwrap();
        assert!(load(dir.path()).is_err());
    }

    #[test]
    fn a_file_of_before_is_read_and_written_anew() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("secrets");
        let old: Vec<u8> = (0..48).collect();
        fs::write(&path, &old).unwrap();
        let secrets = load(dir.path()).unwrap();
        assert_eq!((&secrets.hash.0[..], &secrets.nonce[..]), (&old[..16], &old[16..]));
        assert!(fs::read(&path).unwrap().starts_with(MAGIC));
        assert_eq!(load(dir.path()).unwrap().nonce, secrets.nonce);
    }
}
