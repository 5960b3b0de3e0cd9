//! The database: one SQLite file, opened and brought to the newest schema here; each subject keeps its own queries.
//!
//! Writes are durable when they are acknowledged (WAL, synchronous=FULL): the engine removes events from the tape on our word.

use std::collections::BTreeSet;
use std::fs::OpenOptions;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::Mutex;
use std::time::Duration;

use sqlx::Connection;
use sqlx::SqlSafeStr;
use sqlx::Sqlite;
use sqlx::SqliteConnection;
use sqlx::SqlitePool;
use sqlx::Transaction;
use sqlx::migrate::MigrateError;
use sqlx::migrate::Migration;
use sqlx::migrate::MigrationType;
use sqlx::migrate::Migrator;
use sqlx::sqlite::SqliteConnectOptions;
use sqlx::sqlite::SqliteJournalMode;
use sqlx::sqlite::SqlitePoolOptions;
use sqlx::sqlite::SqliteSynchronous;

use crate::process::side::recording::objects::ObjectError;
use crate::process::side::seal::SealError;
use crate::process::side::wal_index;

/// In their order, numbered from 1. What was released is never changed: its checksum is in every database.
const MIGRATIONS: [(&str, &str); 11] = [
    ("first", include_str!("migrations/0001_first.sql")),
    ("recordings", include_str!("migrations/0002_recordings.sql")),
    ("announce", include_str!("migrations/0003_announce.sql")),
    ("retention", include_str!("migrations/0004_retention.sql")),
    ("tape gaps", include_str!("migrations/0005_tape_gaps.sql")),
    ("failed recordings", include_str!("migrations/0006_failed_recordings.sql")),
    ("uploads", include_str!("migrations/0007_uploads.sql")),
    ("tenant digest", include_str!("migrations/0008_tenant_digest.sql")),
    ("digest of phones", include_str!("migrations/0009_digest_of_phones.sql")),
    ("phone symmetric", include_str!("migrations/0010_phone_symmetric.sql")),
    ("record codecs", include_str!("migrations/0011_record_codecs.sql")),
];

/// Connections: one writer at a time, the others read.
const CONNECTIONS_MAX: u32 = 8;
/// An import of a large directory holds the write lock for seconds.
const BUSY_MAX: Duration = Duration::from_secs(60);

#[derive(Clone)]
pub(crate) struct Store {
    pub(crate) pool: SqlitePool,
    /// Never used: while one connection is open, SQLite keeps the WAL and its index.
    _anchor: Arc<Mutex<SqliteConnection>>,
}

/// The world failed, or the file is not ours.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StoreError {
    #[error("the database tipring.db: {0}")]
    Sql(#[from] sqlx::Error),
    #[error("the schema of the database tipring.db: {0}")]
    Schema(#[from] MigrateError),
    #[error("the file of the database tipring.db: {0}")]
    File(#[from] std::io::Error),
    #[error("the database tipring.db: {0}")]
    Seal(#[from] SealError),
    #[error(transparent)]
    Object(#[from] ObjectError),
    /// A row does not decode: written by hand, or by a newer version.
    #[error("the database tipring.db: a row of {0} does not decode")]
    Row(&'static str),
}

impl StoreError {
    /// The file or its disk is what fails, not what we want of it: another file, or room, would do.
    pub(crate) fn is_of_the_file(&self) -> bool {
        match self {
            Self::Sql(_) | Self::Schema(MigrateError::Execute(_) | MigrateError::ExecuteMigration(..)) => true,
            Self::File(error) => error.kind() != std::io::ErrorKind::PermissionDenied,
            Self::Schema(_) | Self::Seal(_) | Self::Object(_) | Self::Row(_) => false,
        }
    }
}

/// Names of the tenants in a database that is asked and not changed, whoever has it open: none if there is no database, `None` if it
/// cannot be read.
pub(crate) fn tenants_of(path: &Path) -> Option<BTreeSet<String>> {
    if !path.exists() {
        return Some(BTreeSet::new());
    }
    let ask = async {
        let options = SqliteConnectOptions::new().filename(path).read_only(true).busy_timeout(BUSY_MAX);
        let mut connection = SqliteConnection::connect_with(&options).await?;
        sqlx::query_scalar("SELECT name FROM tenants").fetch_all(&mut connection).await
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().ok()?;
    let names: Result<Vec<String>, sqlx::Error> = runtime.block_on(ask);
    Some(names.ok()?.into_iter().collect())
}

impl Store {
    pub(crate) async fn open(path: &Path) -> Result<Self, StoreError> {
        // SQLite gives the files beside it the mode of this one.
        OpenOptions::new().create(true).append(true).mode(0o600).open(path)?;
        let options = SqliteConnectOptions::new()
            .filename(path)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Full)
            .foreign_keys(true)
            // A key that is deleted is overwritten.
            .pragma("secure_delete", "ON")
            // This process sees no folder for temporary files.
            .pragma("temp_store", "MEMORY")
            .busy_timeout(BUSY_MAX);
        wal_index::try_room(path)?;
        let mut anchor = SqliteConnection::connect_with(&options).await?;
        // The index is made when something is read.
        sqlx::query("SELECT 1 FROM sqlite_schema LIMIT 1").execute(&mut anchor).await?;
        wal_index::reserve(path)?;
        let pool = SqlitePoolOptions::new()
            .max_connections(CONNECTIONS_MAX)
            .acquire_timeout(Duration::from_secs(30))
            // A full disk makes SQLite roll back by itself; then ROLLBACK fails, and the connection would count as one in the
            // middle of a transaction for ever. When it has answered, it has done what was asked of it before.
            .after_release(|connection, _| {
                Box::pin(async move {
                    connection.ping().await?;
                    Ok(!connection.is_in_transaction())
                })
            })
            .connect_with(options)
            .await?;
        migrator().run(&pool).await?;
        Ok(Self { pool, _anchor: Arc::new(Mutex::new(anchor)) })
    }

    /// A transaction that may write: it takes the write lock at once, so that it cannot fail half-way for want of it.
    pub(crate) async fn write(&self) -> Result<Transaction<'static, Sqlite>, StoreError> {
        Ok(self.pool.begin_with("BEGIN IMMEDIATE").await?)
    }
}

/// Not by `sqlx::migrate!`, which has all of sqlx and SQLite compiled a second time, for the compiler.
fn migrator() -> Migrator {
    let migration = |(version, (description, sql)): (i64, &(&'static str, &'static str))| {
        Migration::new(version, (*description).into(), MigrationType::Simple, sql.into_sql_str(), false)
    };
    Migrator::with_migrations((1..).zip(&MIGRATIONS).map(migration).collect())
}

pub(crate) async fn meta(tx: &mut Transaction<'static, Sqlite>, key: &str) -> Result<Option<String>, StoreError> {
    Ok(sqlx::query_scalar("SELECT value FROM meta WHERE key = ?").bind(key).fetch_optional(&mut **tx).await?)
}

pub(crate) async fn set_meta(tx: &mut Transaction<'static, Sqlite>, key: &str, value: &str) -> Result<(), StoreError> {
    sqlx::query("INSERT INTO meta (key, value) VALUES (?1, ?2) ON CONFLICT (key) DO UPDATE SET value = ?2")
        .bind(key)
        .bind(value)
        .execute(&mut **tx)
        .await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_migration_is_listed_in_its_place() {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/src/process/side/migrations");
        let mut files: Vec<_> = std::fs::read_dir(folder).unwrap().map(|file| file.unwrap().path()).collect();
        files.sort();
        assert_eq!(files.len(), MIGRATIONS.len());
        for ((number, file), migration) in (1..).zip(files).zip(migrator().iter()) {
            assert_eq!(migration.version, number);
            let name = format!("{number:04}_{}.sql", migration.description.replace(' ', "_"));
            assert_eq!(file.file_name().unwrap().to_str(), Some(name.as_str()));
            assert_eq!(migration.sql.as_str(), std::fs::read_to_string(file).unwrap());
        }
    }
}
