//! What lists have in common: parameters that are known or refused, tenants that are seen, cursors, pages.

use axum::extract::FromRequestParts;
use axum::extract::Query;
use axum::http::request::Parts;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::Serialize;
use serde::de::DeserializeOwned;
use sqlx::QueryBuilder;
use sqlx::Sqlite;
use utoipa::ToSchema;

use crate::base::time::UnixTime;
use crate::process::side::clock;
use crate::process::side::http::problem::Problem;
use crate::process::side::token::Access;

pub(super) const LIMIT_DEFAULT: u32 = 100;
pub(super) const LIMIT_MAX: u32 = 1_000;
const CURSOR_BYTES_MAX: usize = 2_048;

/// Query parameters: unknown ones, repeated ones and those that do not decode are refused.
pub(super) struct Params<T>(pub(super) T);

impl<S: Sync, T: DeserializeOwned> FromRequestParts<S> for Params<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        let query = Query::<T>::try_from_uri(&parts.uri);
        let Query(params) = query.map_err(|rejection| Problem::bad_parameter(rejection.body_text()))?;
        Ok(Self(params))
    }
}

/// For what takes no parameters at all.
#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct NoParams {}

/// One page of a list.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Page<T> {
    pub(super) items: Vec<T>,
    /// Give it as `cursor` for what follows; null at the end.
    pub(super) next: Option<String>,
}

impl<T> Page<T> {
    /// `items` may hold one more than `limit`: then there is a next page after the last that is shown.
    pub(super) fn new(mut items: Vec<T>, limit: usize, cursor: impl FnOnce(&T) -> String) -> Self {
        let more = items.len() > limit;
        items.truncate(limit);
        let next = items.last().filter(|_| more).map(cursor);
        Self { items, next }
    }
}

pub(super) fn limit(limit: Option<u32>) -> Result<usize, Problem> {
    match limit.unwrap_or(LIMIT_DEFAULT) {
        limit @ 1..=LIMIT_MAX => Ok(limit as usize),
        _ => Err(Problem::bad_parameter(format!("limit must be 1 to {LIMIT_MAX}"))),
    }
}

pub(super) fn time(name: &str, text: Option<&str>) -> Result<Option<UnixTime>, Problem> {
    let Some(text) = text else { return Ok(None) };
    clock::parse(text).map(Some).ok_or_else(|| Problem::bad_parameter(format!("{name} must be an RFC 3339 time")))
}

/// An id in a question: one that cannot be any is a mistake of who asks.
pub(super) fn id<'t>(name: &str, text: Option<&'t str>) -> Result<Option<&'t str>, Problem> {
    let is_legal = |text: &str| {
        (1..=64).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte))
    };
    match text {
        Some(text) if !is_legal(text) => Err(Problem::bad_parameter(format!("{name} must be an id"))),
        text => Ok(text),
    }
}

/// Opaque to clients: what kind of list, then the place in it.
pub(super) fn cursor(kind: char, place: &str) -> String {
    URL_SAFE_NO_PAD.encode(format!("{kind}{place}"))
}

/// Kind and place of a cursor of ours.
pub(super) fn parse_cursor(text: &str) -> Result<(char, String), Problem> {
    let bad = || Problem::bad_parameter("the cursor is not one of this list");
    if text.len() > CURSOR_BYTES_MAX {
        return Err(bad());
    }
    let bytes = URL_SAFE_NO_PAD.decode(text).map_err(|_| bad())?;
    let text = String::from_utf8(bytes).map_err(|_| bad())?;
    let mut rest = text.chars();
    let kind = rest.next().ok_or_else(bad)?;
    Ok((kind, rest.as_str().to_owned()))
}

/// The place of a cursor that must be of `kind`; an empty one is the beginning.
pub(super) fn place(kind: char, text: Option<&str>) -> Result<Option<String>, Problem> {
    match text.filter(|text| !text.is_empty()).map(parse_cursor).transpose()? {
        None => Ok(None),
        Some((found, place)) if found == kind => Ok(Some(place)),
        Some(_) => Err(Problem::bad_parameter("the cursor is not one of this list")),
    }
}

/// Limits a query to the tenants that the token sees and the one that was asked for.
pub(super) fn push_tenants(query: &mut QueryBuilder<Sqlite>, column: &str, access: &Access, asked: Option<&str>) {
    if let Some(tenant) = asked {
        query.push(format_args!(" AND {column} = ")).push_bind(tenant.to_owned());
    }
    if let Some(tenants) = &access.tenants {
        query.push(format_args!(" AND {column} IN ("));
        let mut list = query.separated(", ");
        for tenant in tenants {
            list.push_bind(tenant.clone());
        }
        query.push(")");
    }
}

/// Whether what belongs to `tenant` may be in an answer.
pub(super) fn shows(access: &Access, asked: Option<&str>, tenant: &str) -> bool {
    access.sees(tenant) && asked.is_none_or(|asked| asked == tenant)
}
