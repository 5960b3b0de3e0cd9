//! API tokens: who may do what, for which tenants, until when. Only a hash of each is kept.
//!
//! A token is 256 random bits, so that a plain SHA-256 of it is as good as any slow hash.

use std::path::Path;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::Deserialize;
use serde::Serialize;
use sha2::Digest;
use sha2::Sha256;
use sqlx::Row;
use utoipa::ToSchema;

use crate::base::time::UnixTime;
use crate::process::side::audit;
use crate::process::side::audit::Entry;
use crate::process::side::clock;
use crate::process::side::seal;
use crate::process::side::store;
use crate::process::side::store::Store;
use crate::process::side::store::StoreError;

const PREFIX: &str = "tip_";
const FIRST: &str = "admin";
const FIRST_MADE: &str = "token.first";

/// What a token's owner may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Everything.
    Admin,
    /// Reads, and ends calls.
    Operator,
    /// Reads all but recordings and the audit.
    Read,
    /// Reads call records and recordings.
    Recordings,
}

impl Role {
    pub const ALL: [Self; 4] = [Self::Admin, Self::Operator, Self::Read, Self::Recordings];

    pub fn name(self) -> &'static str {
        match self {
            Self::Admin => "admin",
            Self::Operator => "operator",
            Self::Read => "read",
            Self::Recordings => "recordings",
        }
    }

    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|role| role.name() == text)
    }
}

/// A token as it may be shown: everything but itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Token {
    pub name: String,
    pub role: Role,
    /// `None`: all tenants.
    pub tenants: Option<Vec<String>>,
    pub created_at: String,
    pub expires_at: Option<String>,
}

/// What to make.
#[derive(Clone, Debug)]
pub struct NewToken {
    pub name: String,
    pub role: Role,
    pub tenants: Option<Vec<String>>,
    pub expires_at: Option<UnixTime>,
}

/// What a presented token allows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Access {
    pub(crate) name: String,
    pub(crate) role: Role,
    pub(crate) tenants: Option<Vec<String>>,
    hash: Vec<u8>,
}

impl Access {
    /// Whether anything of this tenant may be seen. What belongs to no tenant is for those who see all of them.
    pub(crate) fn sees(&self, tenant: &str) -> bool {
        self.tenants.as_ref().is_none_or(|tenants| tenants.iter().any(|own| own == tenant))
    }
}

#[derive(Debug, thiserror::Error)]
pub(crate) enum TokenError {
    #[error("there is a token of the name {0:?} already")]
    Taken(String),
    #[error("a token's name has 1 to 64 of [A-Za-z0-9._-]")]
    Name,
    #[error("the list of tenants is empty, or one of them does not exist")]
    Tenants,
    #[error("the time of expiry has passed")]
    Expiry,
    #[error("the system gave no randomness")]
    Random,
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl From<sqlx::Error> for TokenError {
    fn from(error: sqlx::Error) -> Self {
        Self::from(StoreError::Sql(error))
    }
}

/// Makes the first admin token once in the life of a database, and leaves it in `file` for its owner.
pub(crate) async fn make_first(store: &Store, file: &Path) -> Result<(), TokenError> {
    let mut tx = store.write().await?;
    if store::meta(&mut tx, FIRST_MADE).await?.is_some() {
        return Ok(());
    }
    let token = match std::fs::read_to_string(file) {
        Ok(text) if text.trim().len() > PREFIX.len() => text.trim().to_owned(),
        _ => {
            let token = random_token()?;
            seal::write_secret_file(file, format!("{token}\n").as_bytes()).map_err(StoreError::File)?;
            token
        }
    };
    let new = NewToken { name: FIRST.to_owned(), role: Role::Admin, tenants: None, expires_at: None };
    insert(&mut tx, &token, &new).await?;
    store::set_meta(&mut tx, FIRST_MADE, "1").await?;
    tx.commit().await?;
    Ok(())
}

/// Makes a token and returns it: the only time that it can be seen.
pub(crate) async fn add(store: &Store, new: &NewToken, actor: &str) -> Result<String, TokenError> {
    let named = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    if !(1..=64).contains(&new.name.len()) || !new.name.bytes().all(named) {
        return Err(TokenError::Name);
    }
    if new.expires_at.is_some_and(|expires_at| expires_at <= clock::now()) {
        return Err(TokenError::Expiry);
    }
    let mut tx = store.write().await?;
    if let Some(tenants) = &new.tenants {
        let known: Vec<String> = sqlx::query_scalar("SELECT name FROM tenants").fetch_all(&mut *tx).await?;
        if tenants.is_empty() || tenants.iter().any(|tenant| !known.contains(tenant)) {
            return Err(TokenError::Tenants);
        }
    }
    let token = random_token()?;
    insert(&mut tx, &token, new).await?;
    let entry = Entry { action: "token.add", subject: new.name.clone(), outcome: "done", ..Entry::by(actor) };
    audit::note(&mut tx, &entry).await?;
    tx.commit().await?;
    Ok(token)
}

pub(crate) async fn list(store: &Store) -> Result<Vec<Token>, TokenError> {
    let rows = sqlx::query("SELECT name, role, tenants, created_at, expires_at FROM tokens ORDER BY name")
        .fetch_all(&store.pool)
        .await?;
    rows.iter()
        .map(|row| {
            let expires_at: Option<i64> = row.get("expires_at");
            Ok(Token {
                name: row.get("name"),
                role: Role::parse(row.get("role")).ok_or(StoreError::Row("tokens"))?,
                tenants: tenants(row.get("tenants"))?,
                created_at: clock::text(clock::from_sql(row.get("created_at"))),
                expires_at: expires_at.map(|at| clock::text(clock::from_sql(at))),
            })
        })
        .collect()
}

/// Whether there was a token of this name.
pub(crate) async fn revoke(store: &Store, name: &str, actor: &str) -> Result<bool, TokenError> {
    let mut tx = store.write().await?;
    let done = sqlx::query("DELETE FROM tokens WHERE name = ?").bind(name).execute(&mut *tx).await?;
    let found = done.rows_affected() == 1;
    let outcome = if found { "done" } else { "not found" };
    let entry = Entry { action: "token.revoke", subject: name.to_owned(), outcome, ..Entry::by(actor) };
    audit::note(&mut tx, &entry).await?;
    tx.commit().await?;
    Ok(found)
}

/// What the presented text allows; `None` if it is no token, or one that has expired.
pub(crate) async fn check(store: &Store, presented: &str) -> Result<Option<Access>, StoreError> {
    check_hash(store, &Sha256::digest(presented.as_bytes())).await
}

/// The same token, looked at again: it may have been revoked since.
pub(crate) async fn check_again(store: &Store, access: &Access) -> Result<bool, StoreError> {
    Ok(check_hash(store, &access.hash).await?.is_some_and(|found| found == *access))
}

async fn check_hash(store: &Store, hash: &[u8]) -> Result<Option<Access>, StoreError> {
    let row = sqlx::query("SELECT name, role, tenants, expires_at FROM tokens WHERE hash = ?")
        .bind(hash)
        .fetch_optional(&store.pool)
        .await?;
    let Some(row) = row else { return Ok(None) };
    let expires_at: Option<i64> = row.get("expires_at");
    if expires_at.is_some_and(|at| clock::from_sql(at) <= clock::now()) {
        return Ok(None);
    }
    let role = Role::parse(row.get("role")).ok_or(StoreError::Row("tokens"))?;
    Ok(Some(Access { name: row.get("name"), role, tenants: tenants(row.get("tenants"))?, hash: hash.to_vec() }))
}

async fn insert(
    tx: &mut sqlx::Transaction<'static, sqlx::Sqlite>,
    token: &str,
    new: &NewToken,
) -> Result<(), TokenError> {
    let hash: [u8; 32] = Sha256::digest(token.as_bytes()).into();
    let tenants = new.tenants.as_ref().map(|tenants| serde_json::json!(tenants).to_string());
    let done = sqlx::query(
        "INSERT INTO tokens (hash, name, role, tenants, created_at, expires_at) VALUES (?, ?, ?, ?, ?, ?)
         ON CONFLICT DO NOTHING",
    )
    .bind(&hash[..])
    .bind(&new.name)
    .bind(new.role.name())
    .bind(tenants)
    .bind(clock::to_sql(clock::now()))
    .bind(new.expires_at.map(clock::to_sql))
    .execute(&mut **tx)
    .await?;
    if done.rows_affected() == 1 { Ok(()) } else { Err(TokenError::Taken(new.name.clone())) }
}

fn tenants(json: Option<String>) -> Result<Option<Vec<String>>, StoreError> {
    json.map(|json| serde_json::from_str(&json).map_err(|_| StoreError::Row("tokens"))).transpose()
}

fn random_token() -> Result<String, TokenError> {
    let mut bytes = [0u8; 32];
    getrandom::fill(&mut bytes).map_err(|_| TokenError::Random)?;
    Ok(format!("{PREFIX}{}", URL_SAFE_NO_PAD.encode(bytes)))
}
