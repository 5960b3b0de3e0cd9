//! The node's secrets on disk: hash key and nonce key, made once at the first start, readable by their owner alone.

use std::fs;
use std::io;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use crate::base::hash::HashKey;
use crate::machine::settings::Secrets;

/// Reads `<data>/secrets`, or makes it.
pub fn load(data: &Path) -> io::Result<Secrets> {
    let path = data.join("secrets");
    match fs::read(&path) {
        Ok(bytes) => postcard::from_bytes(&bytes).map_err(|_| {
            io::Error::new(
                io::ErrorKind::InvalidData,
                format!(
                    "{} is damaged; without it phones are challenged anew: remove it to make another",
                    path.display()
                ),
            )
        }),
        Err(error) if error.kind() == io::ErrorKind::NotFound => make(&path),
        Err(error) => Err(error),
    }
}

fn make(path: &Path) -> io::Result<Secrets> {
    let mut secrets = Secrets { hash: HashKey([0; 16]), nonce: [0; 32] };
    getrandom::fill(&mut secrets.hash.0).map_err(io::Error::other)?;
    getrandom::fill(&mut secrets.nonce).map_err(io::Error::other)?;
    let bytes = postcard::to_stdvec(&secrets).map_err(io::Error::other)?;
    let partial = path.with_extension("partial");
    let mut file = fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&partial)?;
    file.write_all(&bytes)?;
    file.sync_all()?;
    fs::rename(&partial, path)?;
    Ok(secrets)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

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
}
