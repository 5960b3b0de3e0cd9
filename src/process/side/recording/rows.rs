//! What the database knows of recordings, and where their audio lies.

use std::collections::BTreeSet;
use std::fs::File;
use std::fs::OpenOptions;
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::PoisonError;
use std::time::Duration;

use serde::Deserialize;
use serde::Serialize;
use sqlx::Row;
use sqlx::Sqlite;
use sqlx::Transaction;
use sqlx::sqlite::SqliteRow;
use tokio::runtime::Handle;
use utoipa::ToSchema;

use crate::base::id::CallId;
use crate::machine::recording::Encoding;
use crate::machine::recording::Ledger;
use crate::process::side::clock;
use crate::process::side::recording::audio;
use crate::process::side::recording::finish::Detail;
use crate::process::side::recording::finish::Finished;
use crate::process::side::recording::finisher::Done;
use crate::process::side::recording::finisher::Job;
use crate::process::side::recording::finisher::Known;
use crate::process::side::recording::objects::Object;
use crate::process::side::recording::objects::ObjectError;
use crate::process::side::recording::objects::Objects;
use crate::process::side::recording::scrub;
use crate::process::side::recording::work;
use crate::process::side::recording::work::Begin;
use crate::process::side::recording::work::Place;
use crate::process::side::seal::KEY_BYTES;
use crate::process::side::seal::NodeKey;
use crate::process::side::store::Store;
use crate::process::side::store::StoreError;
use crate::wire::g711::Law;

/// The state of one that could not be made.
pub(crate) const FAILED: &str = "failed";

pub(crate) fn folder(data: &Path) -> PathBuf {
    data.join("recordings")
}

/// The last two digits of the id spread the files over folders.
pub(crate) fn audio_path(folder: &Path, id: &str) -> PathBuf {
    folder.join("audio").join(object_name(id))
}

/// The same file's name in an object store.
pub(crate) fn object_name(id: &str) -> String {
    let digits = id.get(id.len().saturating_sub(2)..).unwrap_or("00");
    format!("{digits}/{id}.audio")
}

/// One that is not there is removed.
pub(super) fn remove_file(path: &Path) -> io::Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// The stores of calls.
pub(crate) fn work_folder(folder: &Path) -> PathBuf {
    folder.join("work")
}

/// Makes a folder that is still there after a loss of power.
pub(crate) fn create_folder(path: &Path) -> io::Result<()> {
    if path.is_dir() {
        return Ok(());
    }
    let parent = path.parent().unwrap_or_else(|| Path::new("."));
    create_folder(parent)?;
    match std::fs::create_dir(path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    sync_folder(parent)
}

/// The names of its files are durable when this returns.
pub(crate) fn sync_folder(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

/// An empty file that its owner alone may read.
pub(crate) fn create_file(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).write(true).create(true).truncate(true).mode(0o600).open(path)
}

/// What became of the packets of one leg.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub(crate) struct LedgerLine {
    pub(crate) leg: u8,
    /// caller or callee
    pub(crate) party: String,
    pub(crate) received: u64,
    /// Lost in the network.
    pub(crate) lost: u64,
    pub(crate) duplicated: u64,
    pub(crate) written: u64,
    /// Had no place: other audio of the party lies there.
    pub(crate) discarded: u64,
    /// Not audio: telephone events, comfort noise, empty packets.
    pub(crate) other: u64,
    /// Audio in a format that this build cannot decode.
    #[serde(default)]
    pub(crate) undecodable: u64,
    /// Not RTP.
    pub(crate) malformed: u64,
    /// Of payload types that nobody named: audio, for all that is known.
    #[serde(default)]
    pub(crate) unknown: u64,
    /// Encrypted between the parties.
    #[serde(default)]
    pub(crate) encrypted: u64,
    /// The negotiated direction let nobody hear them: a held party that went on speaking.
    #[serde(default)]
    pub(crate) direction: u64,
    /// From an address that was not taken for the party's.
    #[serde(default)]
    pub(crate) strangers: u64,
    /// Lost in our own socket.
    #[serde(default)]
    pub(crate) overrun: u64,
    /// Not RTP, or longer than any that is recorded.
    #[serde(default)]
    pub(crate) refused: u64,
}

pub(crate) fn ledger_lines(ledger: &Ledger) -> Vec<LedgerLine> {
    let line =
        |(leg, party, line): (u8, crate::machine::recording::Party, &crate::machine::recording::Line)| LedgerLine {
            leg,
            party: party.text().to_owned(),
            received: line.received,
            lost: line.lost,
            duplicated: line.duplicated,
            written: line.written,
            discarded: line.discarded,
            other: line.other,
            undecodable: line.undecodable,
            malformed: line.malformed,
            unknown: line.unknown,
            encrypted: line.encrypted,
            direction: line.direction,
            strangers: line.strangers,
            overrun: line.overrun,
            refused: line.refused,
        };
    ledger.lines().map(line).collect()
}

/// The separator's way to the database.
pub(crate) struct Database {
    store: Store,
    key: Arc<NodeKey>,
    handle: Handle,
}

impl Database {
    pub(crate) fn new(store: Store, key: Arc<NodeKey>, handle: Handle) -> Self {
        Self { store, key, handle }
    }
}

impl Done for Database {
    fn last(&self, call: CallId) -> io::Result<(Place, u32)> {
        let query = sqlx::query("SELECT id, boot, block, record FROM recordings WHERE call = ?").bind(call.to_string());
        let rows = self.handle.block_on(query.fetch_all(&self.store.pool)).map_err(io::Error::other)?;
        let place = |row: &SqliteRow| Place {
            boot: row.get::<i64, _>("boot").cast_unsigned(),
            block: row.get::<i64, _>("block").cast_unsigned(),
            record: row.get("record"),
        };
        let number = |row: &SqliteRow| work::parse_id(row.get("id")).map_or(0, |(_, number)| number);
        Ok((rows.iter().map(place).max().unwrap_or_default(), rows.iter().map(number).max().unwrap_or(0)))
    }

    fn known(&self, id: &str) -> io::Result<Known> {
        let query = sqlx::query_scalar::<_, String>("SELECT state FROM recordings WHERE id = ?").bind(id);
        let state = self.handle.block_on(query.fetch_optional(&self.store.pool)).map_err(io::Error::other)?;
        Ok(match state.as_deref() {
            None => Known::Nothing,
            Some(FAILED) => Known::Failed,
            Some(_) => Known::Done,
        })
    }

    fn put(&self, job: &Job, key: &[u8; KEY_BYTES], finished: &Finished) -> io::Result<()> {
        self.handle.block_on(put(&self.store, &self.key, job, key, finished)).map_err(fault)
    }

    fn give_up(&self, job: &Job, cause: &str) -> io::Result<()> {
        let begin = job.store.begin()?;
        self.handle.block_on(give_up(&self.store, job, &begin, cause)).map_err(fault)
    }
}

fn fault(error: StoreError) -> io::Error {
    let kind = match error {
        StoreError::Sql(_) => io::ErrorKind::ResourceBusy,
        _ => io::ErrorKind::Other,
    };
    io::Error::new(kind, error)
}

async fn give_up(store: &Store, job: &Job, begin: &Begin, cause: &str) -> Result<(), StoreError> {
    let detail = serde_json::to_string(&Detail::nothing()).map_err(|_| StoreError::Row("recordings"))?;
    sqlx::query(
        "INSERT INTO recordings (id, call, tenant, boot, block, record, started_at, duration_ms, state, verdict,
             encoding, rate, samples, sha256, ledger, detail, failure)
         VALUES (?, ?, ?, ?, ?, ?, ?, 0, ?, '', 'pcmu', 8000, 0, '', '[]', ?, ?)
         ON CONFLICT (id) DO UPDATE SET boot = excluded.boot, block = excluded.block, record = excluded.record,
             failure = excluded.failure WHERE state = excluded.state",
    )
    .bind(&job.id)
    .bind(job.call.to_string())
    .bind(&begin.tenant)
    .bind(job.last.boot.cast_signed())
    .bind(job.last.block.cast_signed())
    .bind(job.last.record)
    .bind(clock::to_sql(begin.at))
    .bind(FAILED)
    .bind(detail)
    .bind(cause)
    .execute(&store.pool)
    .await?;
    Ok(())
}

async fn put(
    store: &Store,
    node_key: &NodeKey,
    job: &Job,
    key: &[u8; KEY_BYTES],
    finished: &Finished,
) -> Result<(), StoreError> {
    let json = |result: serde_json::Result<String>| result.map_err(|_| StoreError::Row("recordings"));
    let mut tx = store.write().await?;
    let sealed = tenant_key(&mut tx, node_key, &finished.tenant).await?.seal(&job.id, key)?;
    let sql = |value: u64| i64::try_from(value).unwrap_or(i64::MAX);
    let rate = finished.encoding.rate();
    sqlx::query(
        "INSERT INTO recordings (id, call, tenant, boot, block, record, started_at, duration_ms, state, verdict,
             encoding, rate, samples, sha256, ledger, detail, key)
         VALUES (?, ?, ?, ?, ?, ?, ?, ?, 'completed', ?, ?, ?, ?, ?, ?, ?, ?)
         ON CONFLICT (id) DO UPDATE SET boot = excluded.boot, block = excluded.block, record = excluded.record,
             started_at = excluded.started_at, duration_ms = excluded.duration_ms,
             state = excluded.state, verdict = excluded.verdict, encoding = excluded.encoding, rate = excluded.rate,
             samples = excluded.samples, sha256 = excluded.sha256, ledger = excluded.ledger, detail = excluded.detail,
             key = excluded.key, failure = NULL WHERE state = 'failed'",
    )
    .bind(&job.id)
    .bind(job.call.to_string())
    .bind(&finished.tenant)
    .bind(job.last.boot.cast_signed())
    .bind(job.last.block.cast_signed())
    .bind(job.last.record)
    .bind(clock::to_sql(finished.started_at))
    .bind(sql(finished.samples * 1_000 / u64::from(rate)))
    .bind(finished.verdict.text())
    .bind(encoding_text(finished.encoding))
    .bind(rate)
    .bind(sql(finished.samples))
    .bind(&finished.sha256)
    .bind(json(serde_json::to_string(&ledger_lines(&finished.ledger)))?)
    .bind(json(serde_json::to_string(&finished.detail))?)
    .bind(sealed)
    .execute(&mut *tx)
    .await?;
    tx.commit().await?;
    Ok(())
}

/// What the node key seals a tenant's key for.
pub(crate) fn tenant_place(tenant: &str) -> String {
    format!("tenant/{tenant}")
}

/// The tenant's key, made when it is first needed.
async fn tenant_key(
    tx: &mut Transaction<'static, Sqlite>,
    node_key: &NodeKey,
    tenant: &str,
) -> Result<NodeKey, StoreError> {
    let place = tenant_place(tenant);
    let sealed: Option<Vec<u8>> = sqlx::query_scalar("SELECT key FROM tenant_keys WHERE tenant = ?")
        .bind(tenant)
        .fetch_optional(&mut **tx)
        .await?;
    if let Some(sealed) = sealed {
        return open_key(node_key, &place, &sealed).map(|key| NodeKey::new(&key));
    }
    let mut key = [0; KEY_BYTES];
    getrandom::fill(&mut key).map_err(|_| StoreError::Row("tenant_keys"))?;
    sqlx::query("INSERT INTO tenant_keys (tenant, key) VALUES (?, ?)")
        .bind(tenant)
        .bind(node_key.seal(&place, &key)?)
        .execute(&mut **tx)
        .await?;
    Ok(NodeKey::new(&key))
}

fn open_key(key: &NodeKey, place: &str, sealed: &[u8]) -> Result<[u8; KEY_BYTES], StoreError> {
    key.open_value(place, sealed)?.try_into().map_err(|_| StoreError::Row("keys"))
}

pub(crate) const fn encoding_text(encoding: Encoding) -> &'static str {
    match encoding {
        Encoding::G711(Law::Mu) => "pcmu",
        Encoding::G711(Law::A) => "pcma",
        Encoding::Pcm { .. } => "pcm16",
    }
}

pub(crate) fn encoding(row: &SqliteRow) -> Result<Encoding, StoreError> {
    match row.get("encoding") {
        "pcmu" => Ok(Encoding::G711(Law::Mu)),
        "pcma" => Ok(Encoding::G711(Law::A)),
        "pcm16" => Ok(Encoding::Pcm { rate: row.get("rate") }),
        _ => Err(StoreError::Row("recordings")),
    }
}

pub(crate) fn detail(row: &SqliteRow) -> Result<Detail, StoreError> {
    serde_json::from_str(row.get("detail")).map_err(|_| StoreError::Row("recordings"))
}

pub(crate) fn ledger(row: &SqliteRow) -> Result<Vec<LedgerLine>, StoreError> {
    serde_json::from_str(row.get("ledger")).map_err(|_| StoreError::Row("recordings"))
}

/// What came of a deletion.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Deletion {
    Done,
    Held,
    /// There is none.
    Missing,
}

/// Who deletes a recording does not wait longer for the object store: the sweeper asks it again.
const DELETE_MAX: Duration = Duration::from_secs(5);

/// For those who read recordings.
pub(crate) struct Shelf {
    pub(super) store: Store,
    key: Arc<NodeKey>,
    pub(super) folder: PathBuf,
    pub(super) objects: Option<Arc<dyn Objects>>,
    /// Recordings that are on their way to the object store.
    moving: Mutex<BTreeSet<String>>,
    pub(super) scrubbed: Arc<scrub::Counts>,
}

impl Shelf {
    pub(crate) fn new(store: Store, key: Arc<NodeKey>, data: &Path) -> Self {
        Self { store, key, folder: folder(data), objects: None, moving: Mutex::default(), scrubbed: Arc::default() }
    }

    /// What is counted of audio that was looked through.
    pub(crate) fn with_counts(mut self, scrubbed: Arc<scrub::Counts>) -> Self {
        self.scrubbed = scrubbed;
        self
    }

    /// Audio lies there, or is on its way.
    pub(crate) fn with_objects(mut self, objects: Option<Arc<dyn Objects>>) -> Self {
        self.objects = objects;
        self
    }

    pub(super) fn moving(&self) -> MutexGuard<'_, BTreeSet<String>> {
        self.moving.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The audio of a recording, with its length; `None` if it was deleted.
    pub(crate) async fn open(&self, row: &SqliteRow) -> Result<Option<(audio::Reader, u64)>, StoreError> {
        let (id, tenant): (String, String) = (row.get("id"), row.get("tenant"));
        let Some(sealed) = row.get::<Option<Vec<u8>>, _>("key") else { return Ok(None) };
        let mut tx = self.store.pool.begin().await?;
        let tenant_key = tenant_key(&mut tx, &self.key, &tenant).await?;
        drop(tx);
        let key = open_key(&tenant_key, &id, &sealed)?;
        let samples = u64::try_from(row.get::<i64, _>("samples")).unwrap_or_default();
        let len = samples * encoding(row)?.sample_bytes() as u64 * 2;
        let reader = match audio::Reader::open(&audio_path(&self.folder, &id), &id, &key, len) {
            Ok(reader) => reader,
            // The row may be older than the file's way to the object store.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                if self.objects.is_none() && row.get::<String, _>("stored") == "folder" {
                    return Err(error.into());
                }
                audio::Reader::new(self.object(&id, len).await?, &id, &key, len)
            }
            Err(error) => return Err(error.into()),
        };
        Ok(Some((reader, len)))
    }

    async fn object(&self, id: &str, len: u64) -> Result<Object, ObjectError> {
        let objects = self.objects.as_ref().ok_or(ObjectError::Unconfigured)?;
        let (name, bytes) = (object_name(id), audio::sealed_bytes(len));
        let found = objects.size(&name).await?;
        if found != bytes {
            return Err(ObjectError::Failed(format!("it has {found} bytes of {id}, which has {bytes}")));
        }
        Ok(Object::new(Arc::clone(objects), name, bytes, Handle::current()))
    }

    /// The key goes first: without it the file is noise. What is left of the row says that there was a recording.
    pub(crate) async fn delete(&self, id: &str) -> Result<Deletion, StoreError> {
        let done = sqlx::query("UPDATE recordings SET key = NULL, state = 'absent' WHERE id = ? AND is_held = 0")
            .bind(id)
            .execute(&self.store.pool)
            .await?;
        if done.rows_affected() == 0 {
            let query = sqlx::query_scalar::<_, i64>("SELECT COUNT(*) FROM recordings WHERE id = ?").bind(id);
            let is_held = query.fetch_one(&self.store.pool).await? > 0;
            return Ok(if is_held { Deletion::Held } else { Deletion::Missing });
        }
        if let Err(error) = self.remove(id).await {
            tracing::error!(event = "recording.left", "the audio of {id}, whose key is deleted: {error}");
        }
        Ok(Deletion::Done)
    }

    /// The audio of a recording whose key is deleted, and the store of one that was never made. What is on its way to the object
    /// store is removed by who takes it there.
    pub(crate) async fn remove(&self, id: &str) -> Result<(), StoreError> {
        if self.moving().contains(id) {
            return Ok(());
        }
        remove_file(&audio_path(&self.folder, id))?;
        match work::destroy(&work_folder(&self.folder), id) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error.into()),
            _ => {}
        }
        match &self.objects {
            // Who was killed while it went up may have left it there, whatever the row says.
            Some(objects) => {
                let deleted = tokio::time::timeout(DELETE_MAX, objects.delete(&object_name(id))).await;
                deleted.unwrap_or_else(|_| Err(ObjectError::Failed("no answer".to_owned())))?;
            }
            None => {
                let query = sqlx::query_scalar("SELECT stored FROM recordings WHERE id = ?").bind(id);
                let stored: Option<String> = query.fetch_optional(&self.store.pool).await?;
                if stored.is_some_and(|stored| ["both", "s3"].contains(&stored.as_str())) {
                    return Err(ObjectError::Unconfigured.into());
                }
            }
        }
        let query = sqlx::query("UPDATE recordings SET stored = 'gone' WHERE id = ? AND state = 'absent'").bind(id);
        query.execute(&self.store.pool).await?;
        Ok(())
    }
}
