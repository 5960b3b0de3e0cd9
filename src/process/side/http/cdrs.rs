//! `GET /v1/cdrs`: the records of calls that have ended: newest first, or with `after` in the order they became final.

use axum::Extension;
use axum::Json;
use axum::extract::State;
use serde::Deserialize;
use sqlx::QueryBuilder;
use sqlx::Row;
use sqlx::Sqlite;
use sqlx::sqlite::SqliteRow;

use crate::process::side::clock;
use crate::process::side::http::Api;
use crate::process::side::http::guard::Visitor;
use crate::process::side::http::page;
use crate::process::side::http::page::Page;
use crate::process::side::http::page::Params;
use crate::process::side::http::problem::AnyToken;
use crate::process::side::http::problem::Problem;
use crate::process::side::record::cdr::Cdr;
use crate::process::side::store::StoreError;

/// By time of start, and by order of becoming final.
const BY_CALL: char = 'c';
const BY_POSITION: char = 'f';

#[derive(Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct List {
    /// The caller's Call-ID.
    sip_call_id: Option<String>,
    /// Our id of the call.
    call: Option<String>,
    from: Option<String>,
    to: Option<String>,
    /// RFC 3339; since ≤ started_at.
    since: Option<String>,
    /// RFC 3339; started_at < until.
    until: Option<String>,
    /// In the order in which records became final, each once: those after this cursor; empty for all of them. `next` of
    /// the last page that had items is where to go on later.
    after: Option<String>,
    /// 1 to 1000, default 100.
    limit: Option<u32>,
    /// `next` of the page before.
    cursor: Option<String>,
    tenant: Option<String>,
}

/// Call records.
#[utoipa::path(get, path = "/v1/cdrs", operation_id = "list_cdrs", tag = "calls", params(List), responses(
    (status = 200, description = "The newest first, or with `after` in the order in which they became final", body = Page<Cdr>), AnyToken))]
pub(super) async fn list(
    State(api): State<Api>,
    Extension(visitor): Extension<Visitor>,
    Params(params): Params<List>,
) -> Result<Json<Page<Cdr>>, Problem> {
    let limit = page::limit(params.limit)?;
    let place = place(&params)?;
    let mut query = QueryBuilder::<Sqlite>::new("SELECT position, call, record FROM cdrs WHERE 1 = 1");
    push_filters(&mut query, &params)?;
    page::push_tenants(&mut query, "tenant", &visitor.access, params.tenant.as_deref());
    match &place {
        Place::Final(position) => {
            query.push(" AND position > ").push_bind(*position).push(" ORDER BY position LIMIT ");
            query.push_bind(i64::try_from(limit).unwrap_or(i64::MAX));
        }
        Place::Newest(before) => {
            if let Some(before) = before {
                query.push(" AND call < ").push_bind(before.clone());
            }
            query.push(" ORDER BY call DESC LIMIT ").push_bind(i64::try_from(limit + 1).unwrap_or(i64::MAX));
        }
    }
    let rows = query.build().fetch_all(&api.store.pool).await?;
    let page = match place {
        // There is always something to come: a page with items says where to go on.
        Place::Final(_) => {
            let next = rows.last().map(|row| page::cursor(BY_POSITION, &row.get::<i64, _>("position").to_string()));
            Page { items: rows, next }
        }
        Place::Newest(_) => Page::new(rows, limit, |row| page::cursor(BY_CALL, row.get("call"))),
    };
    let items = page.items.iter().map(record).collect::<Result<_, _>>()?;
    Ok(Json(Page { items, next: page.next }))
}

/// Where the page begins.
enum Place {
    /// After this position, in the order of becoming final.
    Final(i64),
    /// Newest first, older than this call.
    Newest(Option<String>),
}

fn place(params: &List) -> Result<Place, Problem> {
    let bad = || Problem::bad_parameter("the cursor is not one of this list");
    let position = |place: String| place.parse::<i64>().map(Place::Final).map_err(|_| bad());
    if let Some(cursor) = params.cursor.as_ref().filter(|cursor| !cursor.is_empty()) {
        return match page::parse_cursor(cursor)? {
            (BY_POSITION, place) => position(place),
            (BY_CALL, place) if params.after.is_none() => Ok(Place::Newest(Some(place))),
            _ => Err(bad()),
        };
    }
    match params.after.as_deref() {
        None => Ok(Place::Newest(None)),
        Some("") => Ok(Place::Final(0)),
        Some(after) => position(page::place(BY_POSITION, Some(after))?.ok_or_else(bad)?),
    }
}

fn push_filters(query: &mut QueryBuilder<Sqlite>, params: &List) -> Result<(), Problem> {
    page::id("call", params.call.as_deref())?;
    let equal = [
        (" AND sip_call_id = ", &params.sip_call_id),
        (" AND call = ", &params.call),
        (" AND from_user = ", &params.from),
        (" AND to_user = ", &params.to),
    ];
    for (sql, value) in equal {
        if let Some(value) = value {
            query.push(sql).push_bind(value.clone());
        }
    }
    if let Some(since) = page::time("since", params.since.as_deref())? {
        query.push(" AND started_at >= ").push_bind(clock::to_sql(since));
    }
    if let Some(until) = page::time("until", params.until.as_deref())? {
        query.push(" AND started_at < ").push_bind(clock::to_sql(until));
    }
    Ok(())
}

fn record(row: &SqliteRow) -> Result<Cdr, Problem> {
    serde_json::from_str(row.get("record")).map_err(|_| Problem::from(StoreError::Row("cdrs")))
}
