//! Seals phones' secrets under the node key, which is a file of its own beside the database, never in it.
//!
//! AES-256-GCM with a random nonce per value; the place a value belongs to is authenticated with it, so that a sealed
//! value copied to another row does not open.

use std::fs::OpenOptions;
use std::io;
use std::io::Read;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use aes_gcm::Aes256Gcm;
use aes_gcm::aead::Aead;
use aes_gcm::aead::KeyInit;
use aes_gcm::aead::Payload;
use aes_gcm::aead::array::Array;

pub(crate) const KEY_BYTES: usize = 32;
const NONCE_BYTES: usize = 12;
/// By how much a sealed value is longer.
pub(crate) const SEAL_BYTES: usize = NONCE_BYTES + 16;

/// Opens and seals; lives as long as the process.
pub(crate) struct NodeKey(Aes256Gcm);

#[derive(Debug, thiserror::Error)]
pub(crate) enum SealError {
    /// The key file belongs to another database, or the row was changed by hand: restore the key, or import anew.
    #[error("a sealed value does not open with this node key")]
    Foreign,
    #[error("the system gave no randomness")]
    Random,
}

impl NodeKey {
    /// Reads the key, or makes it where nothing was ever sealed.
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        match Self::read(path)? {
            Some(key) => Ok(key),
            None => {
                let mut key = [0u8; KEY_BYTES];
                getrandom::fill(&mut key).map_err(|_| io::Error::other("no randomness"))?;
                write_secret_file(path, &key)?;
                Ok(Self::new(&key))
            }
        }
    }

    /// None if there is no such file.
    pub(crate) fn read(path: &Path) -> io::Result<Option<Self>> {
        match read_key(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            read => Ok(Some(Self::new(&read?))),
        }
    }

    /// A key that is kept elsewhere.
    pub(crate) fn new(key: &[u8; KEY_BYTES]) -> Self {
        Self(Aes256Gcm::new(&Array::from(*key)))
    }

    pub(crate) fn seal(&self, place: &str, value: &[u8]) -> Result<Vec<u8>, SealError> {
        let mut nonce = [0u8; NONCE_BYTES];
        getrandom::fill(&mut nonce).map_err(|_| SealError::Random)?;
        let sealed = self
            .0
            .encrypt(&Array::from(nonce), Payload { msg: value, aad: place.as_bytes() })
            .map_err(|_| SealError::Foreign)?;
        Ok([&nonce[..], &sealed].concat())
    }

    pub(crate) fn open_value(&self, place: &str, sealed: &[u8]) -> Result<Vec<u8>, SealError> {
        let (nonce, body) = sealed.split_first_chunk::<NONCE_BYTES>().ok_or(SealError::Foreign)?;
        self.0
            .decrypt(&Array::from(*nonce), Payload { msg: body, aad: place.as_bytes() })
            .map_err(|_| SealError::Foreign)
    }
}

fn read_key(path: &Path) -> io::Result<[u8; KEY_BYTES]> {
    let mut bytes = Vec::new();
    std::fs::File::open(path)?.take(KEY_BYTES as u64 + 1).read_to_end(&mut bytes)?;
    <[u8; KEY_BYTES]>::try_from(bytes)
        .map_err(|_| io::Error::new(io::ErrorKind::InvalidData, "the node key file is not 32 bytes long"))
}

/// Whole or not at all, readable by its owner only.
pub(crate) fn write_secret_file(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let draft = path.with_extension("new");
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&draft)?;
    if let Err(error) = file.write_all(bytes).and_then(|()| file.sync_all()) {
        let _ = std::fs::remove_file(&draft);
        return Err(error);
    }
    std::fs::rename(&draft, path)?;
    match path.parent() {
        Some(folder) => std::fs::File::open(folder)?.sync_all(),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn sealed_values_open_only_in_their_place_and_with_their_key() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("node.key");
        let key = NodeKey::open(&path).unwrap();
        let sealed = key.seal("acme/1001", b"secret-1001").unwrap();
        assert!(!sealed.windows(6).any(|window| window == b"secret"));
        assert_ne!(sealed, key.seal("acme/1001", b"secret-1001").unwrap());

        let again = NodeKey::open(&path).unwrap();
        assert_eq!(again.open_value("acme/1001", &sealed).unwrap(), b"secret-1001");
        assert!(again.open_value("acme/1002", &sealed).is_err());
        assert!(again.open_value("acme/1001", &sealed[..10]).is_err());
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);

        let other = NodeKey::open(&folder.path().join("other.key")).unwrap();
        assert!(other.open_value("acme/1001", &sealed).is_err());
        std::fs::write(&path, b"short").unwrap();
        assert!(NodeKey::open(&path).is_err());
    }
}
