//! What side opens before anything else: the database and the key that belongs to it.
//!
//! A file or a disk that fails is told from everything else that may be wrong: side waits for the first, and the engine serves
//! meanwhile (`docs/decisions/0011-a-disk-that-fails.md`).

use std::path::Path;

use crate::process::exit;
use crate::process::exit::Failure;
use crate::process::side::directory::import::secret_place;
use crate::process::side::record::ingest;
use crate::process::side::recording::rows;
use crate::process::side::seal::NodeKey;
use crate::process::side::store::Store;
use crate::process::side::store::StoreError;
use crate::process::side::token;
use crate::process::side::token::TokenError;

/// The database's name in the data folder.
pub(crate) const DATABASE: &str = "tipring.db";
const KEY: &str = "node.key";
const TOKEN: &str = "token";
/// What the engine serves from while there is no database.
const SNAPSHOT: &str = "directory.snapshot";

/// Why side cannot start.
#[derive(Debug)]
pub(crate) enum Unopened {
    /// The database's file fails, and the engine does not need it to serve phones.
    Database(Failure),
    Failed(Failure),
}

impl From<Failure> for Unopened {
    fn from(failure: Failure) -> Self {
        Self::Failed(failure)
    }
}

impl Unopened {
    pub(crate) fn of(error: &StoreError, data: &Path) -> Self {
        let path = data.join(DATABASE);
        let line = format!(
            "{}: {error}; remedy: room on its disk, or the file from a backup, or none in its place",
            path.display()
        );
        let failure = match error {
            StoreError::File(error) => Failure::from_io(path.display(), error),
            _ if error.is_of_the_file() => Failure::new(exit::OTHER, line),
            error => Failure::new(exit::OTHER, error.to_string()),
        };
        if error.is_of_the_file() && data.join(SNAPSHOT).exists() {
            return Self::Database(failure);
        }
        Self::Failed(failure)
    }
}

/// The database, the node key, and the position of the newest event.
pub(crate) async fn open(data: &Path) -> Result<(Store, NodeKey, i64), Unopened> {
    let of = |error: StoreError| Unopened::of(&error, data);
    let store = Store::open(&data.join(DATABASE)).await.map_err(of)?;
    let key = open_key(&store, &data.join(KEY), data).await?;
    match token::make_first(&store, &data.join(TOKEN)).await {
        Err(TokenError::Store(error)) => return Err(of(error)),
        Err(error) => return Err(Failure::new(exit::OTHER, format!("the first API token: {error}")).into()),
        Ok(()) => {}
    }
    let newest = ingest::newest_event(&store).await.map_err(of)?;
    Ok((store, key, newest))
}

/// The key is made where nothing was ever sealed. One that is missing, or another database's, is never replaced: what it sealed
/// would be lost.
async fn open_key(store: &Store, path: &Path, data: &Path) -> Result<NodeKey, Unopened> {
    let failed = |error: std::io::Error| Unopened::from(Failure::from_io("the node key", &error));
    let sealed = sealed(store).await.map_err(|error| Unopened::of(&error, data))?;
    let key = NodeKey::read(path).map_err(failed)?;
    let wrong = match (&key, sealed.is_empty()) {
        (None, true) => return NodeKey::open(path).map_err(failed),
        (None, false) => "is missing",
        (Some(key), false) if !sealed.iter().any(|(place, value)| key.open_value(place, value).is_ok()) => {
            "is the key of another database"
        }
        (Some(_), _) => return key.ok_or_else(|| failed(std::io::ErrorKind::NotFound.into())),
    };
    let (path, database) = (path.display(), data.join(DATABASE));
    Err(Failure::new(
        exit::OTHER,
        format!(
            "{path} {wrong}, and {} has passwords and keys of recordings that are sealed with it; remedy: put the key back from a \
             backup. To begin anew without those recordings, move the database away",
            database.display()
        ),
    )
    .into())
}

/// Values that the node key has sealed, with their places. Some: an older release replaced a missing key, and what it sealed before
/// stayed.
async fn sealed(store: &Store) -> Result<Vec<(String, Vec<u8>)>, StoreError> {
    let tenants: Vec<(String, Vec<u8>)> =
        sqlx::query_as("SELECT tenant, key FROM tenant_keys LIMIT 16").fetch_all(&store.pool).await?;
    let phones: Vec<(String, String, Vec<u8>)> =
        sqlx::query_as("SELECT tenant, user, secret FROM phones LIMIT 16").fetch_all(&store.pool).await?;
    let tenants = tenants.into_iter().map(|(tenant, key)| (rows::tenant_place(&tenant), key));
    let phones = phones.into_iter().map(|(tenant, user, secret)| (secret_place(&tenant, &user), secret));
    Ok(tenants.chain(phones).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn line(data: &Path) -> String {
        match open(data).await {
            Err(Unopened::Failed(failure)) => failure.line,
            Err(Unopened::Database(failure)) => format!("waits: {}", failure.line),
            Ok((store, ..)) => {
                store.pool.close().await;
                String::new()
            }
        }
    }

    #[tokio::test]
    async fn a_key_is_made_once_and_never_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let (data, path) = (folder.path(), folder.path().join(KEY));
        let (store, key, _) = open(data).await.unwrap();
        store.pool.close().await;
        std::fs::remove_file(&path).unwrap();
        drop(key);
        let (store, key, _) = open(data).await.unwrap();
        let sealed = key.seal(&rows::tenant_place("acme"), &[7; 32]).unwrap();
        sqlx::query("INSERT INTO tenant_keys (tenant, key) VALUES ('acme', ?)")
            .bind(sealed)
            .execute(&store.pool)
            .await
            .unwrap();
        store.pool.close().await;
        assert_eq!(line(data).await, "");
        let right = std::fs::read(&path).unwrap();
        std::fs::write(&path, [1; 32]).unwrap();
        assert!(line(data).await.contains("node.key is the key of another database"));
        std::fs::remove_file(&path).unwrap();
        let missing = line(data).await;
        assert!(missing.contains("node.key is missing") && missing.contains("remedy: "), "{missing}");
        assert!(!path.exists(), "it was replaced");
        std::fs::write(&path, right).unwrap();
        assert_eq!(line(data).await, "");
    }

    #[tokio::test]
    async fn a_damaged_database_is_named_and_waited_for_where_the_engine_can_serve() {
        let folder = tempfile::tempdir().unwrap();
        let data = folder.path();
        std::fs::write(data.join(DATABASE), vec![0x55; 8_192]).unwrap();
        let failed = line(data).await;
        assert!(failed.starts_with(&format!("{}: ", data.join(DATABASE).display())), "{failed}");
        std::fs::write(data.join(SNAPSHOT), b"").unwrap();
        assert_eq!(line(data).await, format!("waits: {failed}"));
        assert_eq!(std::fs::read(data.join(DATABASE)).unwrap(), vec![0x55; 8_192], "nothing was done to it");
    }
}
