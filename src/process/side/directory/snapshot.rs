//! The directory as the engine gets it: whole in parts, or what a change touched.
//!
//! Reads within one transaction, so that the parts are of one version; digests are made here, from the sealed secret.

use sqlx::Row;
use sqlx::Sqlite;
use sqlx::Transaction;
use sqlx::sqlite::SqliteRow;

use crate::base::limit::LINK_FRAME_BYTES_MAX;
use crate::process::side::directory::import;
use crate::process::side::directory::import::Change;
use crate::process::side::directory::secret::Secret;
use crate::process::side::seal::NodeKey;
use crate::process::side::store::Store;
use crate::process::side::store::StoreError;
use crate::wire::link::Announce;
use crate::wire::link::DirectoryPart;
use crate::wire::link::Phone;
use crate::wire::link::Record;
use crate::wire::link::RecordCodecs;
use crate::wire::link::Symmetric;
use crate::wire::link::Tenant;

/// Half a frame, as the size of an entry is estimated.
const PART_BYTES_MAX: usize = LINK_FRAME_BYTES_MAX / 2;
const PAGE: i64 = 1_000;

pub(crate) async fn version(store: &Store) -> Result<u64, StoreError> {
    let mut tx = store.pool.begin().await?;
    import::version(&mut tx).await
}

/// Reads the whole directory, part after part.
pub(crate) struct Snapshot<'k> {
    tx: Transaction<'static, Sqlite>,
    key: &'k NodeKey,
    pub(crate) version: u64,
    tenants: Option<String>,
    phones: Option<(String, String)>,
}

impl<'k> Snapshot<'k> {
    pub(crate) async fn open(store: &Store, key: &'k NodeKey) -> Result<Self, StoreError> {
        let mut tx = store.pool.begin().await?;
        let version = import::version(&mut tx).await?;
        Ok(Self { tx, key, version, tenants: Some(String::new()), phones: Some((String::new(), String::new())) })
    }

    /// The next part, and whether it is the last one.
    pub(crate) async fn next_part(&mut self) -> Result<(DirectoryPart, bool), StoreError> {
        let mut part = DirectoryPart::default();
        let mut size = 0;
        while size < PART_BYTES_MAX {
            if let Some(after) = self.tenants.take() {
                self.tenants = self.page_of_tenants(&after, &mut part, &mut size).await?;
            } else if let Some(after) = self.phones.take() {
                self.phones = self.page_of_phones(&after, &mut part, &mut size).await?;
            } else {
                break;
            }
        }
        Ok((part, self.tenants.is_none() && self.phones.is_none()))
    }

    async fn page_of_tenants(
        &mut self,
        after: &str,
        part: &mut DirectoryPart,
        size: &mut usize,
    ) -> Result<Option<String>, StoreError> {
        let names: Vec<String> = sqlx::query_scalar("SELECT name FROM tenants WHERE name > ? ORDER BY name LIMIT ?")
            .bind(after)
            .bind(PAGE)
            .fetch_all(&mut *self.tx)
            .await?;
        for name in names {
            let Some(tenant) = tenant(&mut self.tx, &name).await? else { continue };
            *size += tenant_size(&tenant);
            part.tenants.push(tenant);
            if *size >= PART_BYTES_MAX {
                return Ok(Some(name));
            }
        }
        more_tenants(&mut self.tx, part.tenants.last().map_or(after, |tenant| tenant.name.as_str())).await
    }

    async fn page_of_phones(
        &mut self,
        after: &(String, String),
        part: &mut DirectoryPart,
        size: &mut usize,
    ) -> Result<Option<(String, String)>, StoreError> {
        let rows = sqlx::query(
            "SELECT tenant, user, auth_user, extension, phones.name, phones.record, symmetric, external_id, secret,
                    phones.digest, realm,
                    (SELECT group_concat(number, ' ') FROM numbers WHERE numbers.tenant = phones.tenant
                     AND numbers.user = phones.user) AS numbers
             FROM phones JOIN tenants ON tenants.name = phones.tenant
             WHERE (tenant, user) > (?, ?) ORDER BY tenant, user LIMIT ?",
        )
        .bind(&after.0)
        .bind(&after.1)
        .bind(PAGE)
        .fetch_all(&mut *self.tx)
        .await?;
        let whole = rows.len() < usize::try_from(PAGE).unwrap_or(usize::MAX);
        let mut last = None;
        for row in rows {
            let phone = phone(&row, self.key)?;
            *size += phone_size(&phone);
            last = Some((phone.tenant.clone(), phone.user.clone()));
            part.phones.push(phone);
            if *size >= PART_BYTES_MAX {
                return Ok(last);
            }
        }
        Ok(last.filter(|_| !whole))
    }
}

async fn more_tenants(tx: &mut Transaction<'static, Sqlite>, last: &str) -> Result<Option<String>, StoreError> {
    let next: Option<String> = sqlx::query_scalar("SELECT name FROM tenants WHERE name > ? LIMIT 1")
        .bind(last)
        .fetch_optional(&mut **tx)
        .await?;
    Ok(next.map(|_| last.to_owned()))
}

/// What a change touched, as one part; `None` if it is too much for one frame and the whole must be sent.
pub(crate) async fn delta(store: &Store, key: &NodeKey, change: &Change) -> Result<Option<DirectoryPart>, StoreError> {
    let mut tx = store.pool.begin().await?;
    if import::version(&mut tx).await? != change.version {
        return Ok(None);
    }
    let mut part = DirectoryPart::default();
    let mut size = 0;
    for name in &change.tenants {
        part.tenants.extend(tenant(&mut tx, name).await?);
        size += part.tenants.last().map_or(0, tenant_size);
        if size >= PART_BYTES_MAX {
            return Ok(None);
        }
    }
    for (tenant, user) in &change.phones {
        let row = sqlx::query(
            "SELECT tenant, user, auth_user, extension, phones.name, phones.record, symmetric, external_id, secret,
                    phones.digest, realm,
                    (SELECT group_concat(number, ' ') FROM numbers WHERE numbers.tenant = phones.tenant
                     AND numbers.user = phones.user) AS numbers
             FROM phones JOIN tenants ON tenants.name = phones.tenant WHERE tenant = ? AND user = ?",
        )
        .bind(tenant)
        .bind(user)
        .fetch_optional(&mut *tx)
        .await?;
        let Some(row) = row else { continue };
        let phone = phone(&row, key)?;
        size += phone_size(&phone);
        part.phones.push(phone);
        if size >= PART_BYTES_MAX {
            return Ok(None);
        }
    }
    Ok(Some(part))
}

async fn tenant(tx: &mut Transaction<'static, Sqlite>, name: &str) -> Result<Option<Tenant>, StoreError> {
    let row = sqlx::query(
        "SELECT realm, is_default, record, announce, announcement, digest, md5_fallback, record_codecs
             FROM tenants WHERE name = ?",
    )
    .bind(name)
    .fetch_optional(&mut **tx)
    .await?;
    let Some(row) = row else { return Ok(None) };
    let mut domains: Vec<String> = sqlx::query_scalar("SELECT domain FROM domains WHERE tenant = ? ORDER BY position")
        .bind(name)
        .fetch_all(&mut **tx)
        .await?;
    if domains.is_empty() {
        return Err(StoreError::Row("domains"));
    }
    let aliases = domains.split_off(1);
    Ok(Some(Tenant {
        name: name.to_owned(),
        domain: domains.concat(),
        aliases,
        realm: row.get("realm"),
        default: row.get("is_default"),
        record: record(row.get("record"))?,
        announce: announce(&row)?,
        digest: words(&row, "digest"),
        md5_fallback: row.get("md5_fallback"),
        record_codecs: record_codecs(row.get("record_codecs"))?,
    }))
}

fn phone(row: &SqliteRow, key: &NodeKey) -> Result<Phone, StoreError> {
    let (tenant, user): (String, String) = (row.get("tenant"), row.get("user"));
    let (auth_user, realm): (String, String) = (row.get("auth_user"), row.get("realm"));
    let sealed: Vec<u8> = row.get("secret");
    let plain = key.open_value(&import::secret_place(&tenant, &user), &sealed)?;
    let secret: Secret = postcard::from_bytes(&plain).map_err(|_| StoreError::Row("phones"))?;
    let numbers: Option<String> = row.get("numbers");
    Ok(Phone {
        ha1: secret.ha1(&auth_user, &realm),
        tenant,
        user,
        auth_user,
        extension: row.get("extension"),
        numbers: numbers.unwrap_or_default().split_whitespace().map(str::to_owned).collect(),
        name: row.get("name"),
        record: record(row.get("record"))?,
        external_id: row.get("external_id"),
        digest: words(row, "digest"),
        symmetric: symmetric(row.get("symmetric"))?,
    })
}

fn words(row: &SqliteRow, column: &str) -> Vec<String> {
    row.get::<String, _>(column).split_whitespace().map(str::to_owned).collect()
}

fn symmetric(text: &str) -> Result<Symmetric, StoreError> {
    let known = [Symmetric::Auto, Symmetric::Always, Symmetric::Never];
    known.into_iter().find(|symmetric| symmetric.name() == text).ok_or(StoreError::Row("symmetric"))
}

fn record(text: &str) -> Result<Record, StoreError> {
    [Record::Never, Record::Always, Record::OnDemand]
        .into_iter()
        .find(|record| import::record_text(*record) == text)
        .ok_or(StoreError::Row("record"))
}

fn record_codecs(text: &str) -> Result<RecordCodecs, StoreError> {
    let all = [RecordCodecs::Any, RecordCodecs::Decodable];
    let found = all.into_iter().find(|codecs| import::record_codecs_text(*codecs) == text);
    found.ok_or(StoreError::Row("record_codecs"))
}

fn announce(row: &SqliteRow) -> Result<Announce, StoreError> {
    match row.get("announce") {
        "none" => Ok(Announce::None),
        "tone" => Ok(Announce::Tone),
        "file" => Ok(Announce::File { audio: row.get::<Option<Vec<u8>>, _>("announcement").unwrap_or_default() }),
        _ => Err(StoreError::Row("announce")),
    }
}

fn tenant_size(tenant: &Tenant) -> usize {
    let audio = match &tenant.announce {
        Announce::File { audio } => audio.len(),
        Announce::None | Announce::Tone => 0,
    };
    let domains: usize = tenant.aliases.iter().map(|alias| alias.len() + 2).sum();
    64 + audio + tenant.name.len() + tenant.domain.len() + tenant.realm.len() + domains
}

fn phone_size(phone: &Phone) -> usize {
    let texts = [&phone.tenant, &phone.user, &phone.auth_user, &phone.extension, &phone.name, &phone.external_id];
    let numbers: usize = phone.numbers.iter().map(|number| number.len() + 2).sum();
    160 + numbers + texts.iter().map(|text| text.len()).sum::<usize>()
}
