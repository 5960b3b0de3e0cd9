//! Merges a directory file into the database: all or nothing, inserts and updates what it names, deletes nothing.
//!
//! What a file leaves out of an entry takes its default; entries that it does not name stay as they are. The digests of
//! the file applied last and of the files that it names are kept, so that it is applied once, whatever else changed since.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::io::Read;
use std::path::Path;

use sha2::Digest;
use sha2::Sha256;
use sqlx::Row;
use sqlx::Sqlite;
use sqlx::Transaction;

use crate::base::limit;
use crate::process::side::clock;
use crate::process::side::directory::file;
use crate::process::side::directory::file::DirectoryFile;
use crate::process::side::directory::file::Fault;
use crate::process::side::directory::file::PhoneEntry;
use crate::process::side::directory::file::TenantEntry;
use crate::process::side::directory::secret::Secret;
use crate::process::side::directory::secret::to_hex;
use crate::process::side::seal::NodeKey;
use crate::process::side::store;
use crate::process::side::store::Store;
use crate::process::side::store::StoreError;
use crate::wire::link::Announce;
use crate::wire::link::Record;
use crate::wire::link::RecordCodecs;

const DIGEST: &str = "directory.digest";
/// Of the files that the file names, by their paths; sealed, for some of them hold a password and nothing else.
const DIGESTS: &str = "directory.digests";
type Digests = BTreeMap<String, String>;
pub(super) const VERSION: &str = "directory.version";

/// What an import did.
pub(crate) enum Imported {
    /// The file is the one that was applied last.
    Unchanged,
    Applied(Change),
}

/// From one version of the directory to the next.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Change {
    pub(crate) from: u64,
    pub(crate) version: u64,
    pub(crate) tenants: Vec<String>,
    /// (tenant, user)
    pub(crate) phones: Vec<(String, String)>,
}

#[derive(Debug, thiserror::Error)]
pub(crate) enum ImportError {
    /// Nothing was applied: correct the file.
    #[error("{} faults in the directory file", .0.len())]
    Faults(Vec<Fault>),
    #[error("directory file: {0}")]
    File(#[from] std::io::Error),
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl From<sqlx::Error> for ImportError {
    fn from(error: sqlx::Error) -> Self {
        Self::Store(StoreError::Sql(error))
    }
}

/// Applies the file at `path` if its content, or that of a file which it names, differs from what was applied last.
pub(crate) async fn import_file(store: &Store, key: &NodeKey, path: &Path) -> Result<Imported, ImportError> {
    let size = std::fs::metadata(path)?.len();
    if size > limit::DIRECTORY_FILE_BYTES_MAX {
        return Err(ImportError::File(std::io::Error::other("is too large")));
    }
    let text = std::fs::read_to_string(path)?;
    let digest = digest_of(text.as_bytes());
    let mut tx = store.write().await?;
    let is_same = store::meta(&mut tx, DIGEST).await?.as_deref() == Some(digest.as_str());
    let known = store::meta(&mut tx, DIGESTS).await?.filter(|_| is_same).and_then(|sealed| open_digests(key, &sealed));
    let folder = path.parent().unwrap_or_else(|| Path::new(".")).to_owned();
    // A large file takes seconds, and the keeper wants to hear that it goes on.
    let checked = tokio::task::spawn_blocking(move || check_changed(&text, &folder, known.as_ref())).await;
    let Some((file, digests)) = checked.map_err(std::io::Error::other)?.map_err(ImportError::Faults)? else {
        return Ok(Imported::Unchanged);
    };
    let change = apply(&mut tx, key, &file).await?;
    store::set_meta(&mut tx, DIGEST, &digest).await?;
    let digests = postcard::to_stdvec(&digests).map_err(|_| StoreError::Row("meta"))?;
    let sealed = key.seal(DIGESTS, &digests).map_err(StoreError::Seal)?;
    store::set_meta(&mut tx, DIGESTS, &to_hex(&sealed)).await?;
    tx.commit().await?;
    Ok(Imported::Applied(change))
}

/// Reads the text of a directory file in `folder`; for a check without a database, too.
pub fn check_text(text: &str, folder: &Path) -> Result<DirectoryFile, Vec<Fault>> {
    check_noting(text, folder).map(|(file, _)| file)
}

/// `known`: the digests of the files that this text named when it was applied; `None` if they are the same.
fn check_changed(
    text: &str,
    folder: &Path,
    known: Option<&Digests>,
) -> Result<Option<(DirectoryFile, Digests)>, Vec<Fault>> {
    let is_same = |(path, digest): (&String, &String)| {
        read(&folder.join(path), file::FILE_BYTES_MAX).is_ok_and(|bytes| digest_of(&bytes) == *digest)
    };
    if known.is_some_and(|known| known.iter().all(is_same)) {
        return Ok(None);
    }
    check_noting(text, folder).map(Some)
}

fn check_noting(text: &str, folder: &Path) -> Result<(DirectoryFile, Digests), Vec<Fault>> {
    let digests = RefCell::new(Digests::new());
    let file = file::parse(text, &|path, bytes_max| {
        let bytes = read(&folder.join(path), bytes_max).map_err(|error| error.to_string())?;
        digests.borrow_mut().insert(path.to_owned(), digest_of(&bytes));
        Ok(bytes)
    })?;
    Ok((file, digests.into_inner()))
}

/// What another node key sealed is not known.
fn open_digests(key: &NodeKey, sealed: &str) -> Option<Digests> {
    let digests = key.open_value(DIGESTS, &hex(sealed)?).ok()?;
    postcard::from_bytes(&digests).ok()
}

fn hex(text: &str) -> Option<Vec<u8>> {
    let digits = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok();
    text.as_bytes().chunks(2).map(digits).collect()
}

fn digest_of(bytes: &[u8]) -> String {
    to_hex(&Sha256::digest(bytes))
}

fn read(path: &Path, bytes_max: u64) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    std::fs::File::open(path)?.take(bytes_max + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > bytes_max {
        return Err(std::io::Error::other("is too large"));
    }
    Ok(bytes)
}

type Tx = Transaction<'static, Sqlite>;

async fn apply(tx: &mut Tx, key: &NodeKey, file: &DirectoryFile) -> Result<Change, ImportError> {
    let mut faults = Vec::new();
    let realms_changed = write_tenants(tx, &file.tenants, &mut faults).await?;
    if faults.is_empty() {
        write_phones(tx, key, &file.phones, &mut faults).await?;
    }
    if faults.is_empty() {
        check_whole(tx, file, &mut faults).await?;
    }
    if !faults.is_empty() {
        return Err(ImportError::Faults(faults));
    }
    let from = version(tx).await?;
    // A new database must not come to a version that an engine already has from an older one.
    let version = clock::now().micros().max(from + 1);
    store::set_meta(tx, VERSION, &version.to_string()).await?;
    Ok(Change {
        from,
        version,
        tenants: file.tenants.iter().map(|tenant| tenant.name.clone()).collect(),
        phones: changed_phones(tx, file, &realms_changed).await?,
    })
}

pub(super) async fn version(tx: &mut Tx) -> Result<u64, StoreError> {
    let text = store::meta(tx, VERSION).await?;
    text.map_or(Ok(0), |text| text.parse().map_err(|_| StoreError::Row("meta")))
}

/// The tenants whose realm is another than before: the digests of all their phones change with it.
async fn write_tenants(
    tx: &mut Tx,
    tenants: &[TenantEntry],
    faults: &mut Vec<Fault>,
) -> Result<BTreeSet<String>, ImportError> {
    let mut realms_changed = BTreeSet::new();
    for tenant in tenants {
        let before: Option<String> = sqlx::query_scalar("SELECT realm FROM tenants WHERE name = ?")
            .bind(&tenant.name)
            .fetch_optional(&mut **tx)
            .await?;
        if before.is_some_and(|realm| realm != tenant.realm) {
            realms_changed.insert(tenant.name.clone());
        }
        sqlx::query(
            "INSERT INTO tenants (name, realm, is_default, record, announce, announcement, recording_days, digest,
                 md5_fallback, record_codecs)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)
             ON CONFLICT (name) DO UPDATE SET realm = ?2, is_default = ?3, record = ?4, announce = ?5, announcement = ?6,
                 recording_days = ?7, digest = ?8, md5_fallback = ?9, record_codecs = ?10",
        )
        .bind(&tenant.name)
        .bind(&tenant.realm)
        .bind(tenant.default)
        .bind(record_text(tenant.record))
        .bind(announce_text(&tenant.announce))
        .bind(match &tenant.announce {
            Announce::File { audio } => Some(audio.as_slice()),
            Announce::None | Announce::Tone => None,
        })
        .bind(tenant.recording_days)
        .bind(tenant.digest.join(" "))
        .bind(tenant.md5_fallback)
        .bind(record_codecs_text(tenant.record_codecs))
        .execute(&mut **tx)
        .await?;
        sqlx::query("DELETE FROM domains WHERE tenant = ?").bind(&tenant.name).execute(&mut **tx).await?;
    }
    for tenant in tenants {
        for (position, domain) in std::iter::once(&tenant.domain).chain(&tenant.aliases).enumerate() {
            let written =
                sqlx::query("INSERT INTO domains (domain, tenant, position) VALUES (?, ?, ?) ON CONFLICT DO NOTHING")
                    .bind(domain)
                    .bind(&tenant.name)
                    .bind(i64::try_from(position).unwrap_or(i64::MAX))
                    .execute(&mut **tx)
                    .await?;
            if written.rows_affected() == 0 {
                let owner: String = sqlx::query_scalar("SELECT tenant FROM domains WHERE domain = ?")
                    .bind(domain)
                    .fetch_one(&mut **tx)
                    .await?;
                faults.push(fault(tenant.line, "tenant.domain", format!("{domain} belongs to tenant {owner} already")));
            }
        }
    }
    Ok(realms_changed)
}

async fn write_phones(
    tx: &mut Tx,
    key: &NodeKey,
    phones: &[PhoneEntry],
    faults: &mut Vec<Fault>,
) -> Result<(), ImportError> {
    let tenants: Vec<(String, String)> = sqlx::query_as("SELECT name, realm FROM tenants").fetch_all(&mut **tx).await?;
    let realms: BTreeMap<_, _> = tenants.into_iter().collect();
    for phone in phones {
        let Some(realm) = realms.get(&phone.tenant) else {
            faults.push(no_tenant(phone));
            continue;
        };
        write_phone(tx, key, phone, realm).await?;
    }
    if !faults.is_empty() {
        return Ok(());
    }
    for phone in phones {
        for number in &phone.numbers {
            let written =
                sqlx::query("INSERT INTO numbers (number, tenant, user) VALUES (?, ?, ?) ON CONFLICT DO NOTHING")
                    .bind(number)
                    .bind(&phone.tenant)
                    .bind(&phone.user)
                    .execute(&mut **tx)
                    .await?;
            if written.rows_affected() == 0 {
                faults.push(fault(phone.line, "phone.numbers", format!("{number} belongs to another phone already")));
            }
        }
    }
    Ok(())
}

async fn write_phone(tx: &mut Tx, key: &NodeKey, phone: &PhoneEntry, realm: &str) -> Result<(), ImportError> {
    let plain = postcard::to_stdvec(&phone.secret).map_err(|_| StoreError::Row("phones"))?;
    let sealed = key.seal(&secret_place(&phone.tenant, &phone.user), &plain).map_err(StoreError::Seal)?;
    let digest_realm = matches!(phone.secret, Secret::Digests(_)).then_some(realm);
    sqlx::query(
        "INSERT INTO phones (tenant, user, auth_user, extension, name, record, external_id, secret, digest_realm,
             digest, symmetric)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11)
         ON CONFLICT (tenant, user) DO UPDATE SET auth_user = ?3, extension = ?4, name = ?5, record = ?6,
             external_id = ?7, secret = ?8, digest_realm = ?9, digest = ?10, symmetric = ?11",
    )
    .bind(&phone.tenant)
    .bind(&phone.user)
    .bind(&phone.auth_user)
    .bind(&phone.extension)
    .bind(&phone.name)
    .bind(record_text(phone.record))
    .bind(&phone.external_id)
    .bind(sealed)
    .bind(digest_realm)
    .bind(phone.digest.join(" "))
    .bind(phone.symmetric.name())
    .execute(&mut **tx)
    .await?;
    sqlx::query("DELETE FROM numbers WHERE tenant = ? AND user = ?")
        .bind(&phone.tenant)
        .bind(&phone.user)
        .execute(&mut **tx)
        .await?;
    Ok(())
}

pub(super) fn no_tenant(phone: &PhoneEntry) -> Fault {
    fault(phone.line, "phone.tenant", format!("there is no tenant {}", phone.tenant))
}

/// What must hold over the file and everything the database already had.
async fn check_whole(tx: &mut Tx, file: &DirectoryFile, faults: &mut Vec<Fault>) -> Result<(), ImportError> {
    let defaults: Vec<String> =
        sqlx::query_scalar("SELECT name FROM tenants WHERE is_default ORDER BY name").fetch_all(&mut **tx).await?;
    if defaults.len() > 1 {
        let line = file.tenants.iter().find(|tenant| tenant.default).map_or(0, |tenant| tenant.line);
        faults.push(fault(
            line,
            "tenant.default",
            format!("only one tenant can be it, not {}", defaults.join(" and ")),
        ));
    }
    let announcements: i64 =
        sqlx::query_scalar("SELECT COALESCE(SUM(LENGTH(announcement)), 0) FROM tenants").fetch_one(&mut **tx).await?;
    if announcements > limit::ANNOUNCEMENTS_BYTES_MAX {
        let line = file.tenants.iter().find(|tenant| matches!(tenant.announce, Announce::File { .. }));
        let message = format!("all tenants' files together have more than {} bytes", limit::ANNOUNCEMENTS_BYTES_MAX);
        faults.push(fault(line.map_or(0, |tenant| tenant.line), "tenant.announce", message));
    }
    let shared = sqlx::query(
        "SELECT realm, auth_user FROM phones JOIN tenants ON tenants.name = phones.tenant
         GROUP BY realm, auth_user HAVING COUNT(*) > 1 LIMIT 100",
    )
    .fetch_all(&mut **tx)
    .await?;
    for row in shared {
        let (realm, auth_user): (String, String) = (row.get(0), row.get(1));
        let line = file.phones.iter().find(|phone| phone.auth_user == auth_user).map_or(0, |phone| phone.line);
        faults.push(fault(line, "phone.auth_user", format!("{auth_user} is another phone's in realm {realm}")));
    }
    let foreign = sqlx::query(
        "SELECT tenant, user FROM phones JOIN tenants ON tenants.name = phones.tenant
         WHERE digest_realm IS NOT NULL AND digest_realm <> realm LIMIT 100",
    )
    .fetch_all(&mut **tx)
    .await?;
    for row in foreign {
        let (tenant, user): (String, String) = (row.get(0), row.get(1));
        let line = file.tenants.iter().find(|entry| entry.name == tenant).map_or(0, |entry| entry.line);
        let message = format!("phone {user} has only digests for the old realm: name it with new ones");
        faults.push(fault(line, "tenant.realm", message));
    }
    Ok(())
}

async fn changed_phones(
    tx: &mut Tx,
    file: &DirectoryFile,
    realms_changed: &BTreeSet<String>,
) -> Result<Vec<(String, String)>, ImportError> {
    let named = file.phones.iter().map(|phone| (phone.tenant.clone(), phone.user.clone()));
    let mut phones: BTreeSet<_> = named.collect();
    for tenant in realms_changed {
        let all: Vec<(String, String)> = sqlx::query_as("SELECT tenant, user FROM phones WHERE tenant = ?")
            .bind(tenant)
            .fetch_all(&mut **tx)
            .await?;
        phones.extend(all);
    }
    Ok(phones.into_iter().collect())
}

pub(crate) fn secret_place(tenant: &str, user: &str) -> String {
    format!("phone/{tenant}/{user}")
}

pub(super) fn record_text(record: Record) -> &'static str {
    match record {
        Record::Never => "never",
        Record::Always => "always",
        Record::OnDemand => "on-demand",
    }
}

pub(super) const fn record_codecs_text(codecs: RecordCodecs) -> &'static str {
    match codecs {
        RecordCodecs::Any => "any",
        RecordCodecs::Decodable => "decodable",
    }
}

const fn announce_text(announce: &Announce) -> &'static str {
    match announce {
        Announce::None => "none",
        Announce::Tone => "tone",
        Announce::File { .. } => "file",
    }
}

fn fault(line: usize, key: &str, message: String) -> Fault {
    Fault { line, key: key.to_owned(), message }
}
