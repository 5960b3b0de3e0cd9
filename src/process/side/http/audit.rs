//! `GET /v1/audit`: changes, accesses to recordings and refusals, newest first.

use axum::Extension;
use axum::Json;
use axum::extract::State;
use serde::Deserialize;
use serde::Serialize;
use sqlx::QueryBuilder;
use sqlx::Row;
use sqlx::Sqlite;
use utoipa::ToSchema;

use crate::process::side::clock;
use crate::process::side::http::Api;
use crate::process::side::http::guard;
use crate::process::side::http::guard::Visitor;
use crate::process::side::http::page;
use crate::process::side::http::page::Page;
use crate::process::side::http::page::Params;
use crate::process::side::http::problem::OfList;
use crate::process::side::http::problem::Problem;
use crate::process::side::token::Role;

#[derive(Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct List {
    /// 1 to 1000, default 100.
    limit: Option<u32>,
    /// `next` of the page before.
    cursor: Option<String>,
    tenant: Option<String>,
}

/// Who did what.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct AuditItem {
    at: String,
    /// A token's name, "command line", "directory file", or empty where nobody was recognised.
    actor: String,
    action: String,
    subject: String,
    tenant: Option<String>,
    outcome: String,
    /// Address that it came from.
    source: String,
}

/// The audit. For admins; those bound to tenants see what concerns these.
#[utoipa::path(get, path = "/v1/audit", operation_id = "list_audit", tag = "node", params(List), responses(
    (status = 200, description = "The newest first", body = Page<AuditItem>), OfList))]
pub(super) async fn list(
    State(api): State<Api>,
    Extension(visitor): Extension<Visitor>,
    Params(params): Params<List>,
) -> Result<Json<Page<AuditItem>>, Problem> {
    guard::require(&api, &visitor, &[Role::Admin], "GET /v1/audit").await?;
    let limit = page::limit(params.limit)?;
    let mut query = QueryBuilder::<Sqlite>::new("SELECT * FROM audit WHERE 1 = 1");
    page::push_tenants(&mut query, "tenant", &visitor.access, params.tenant.as_deref());
    if let Some(place) = page::place('a', params.cursor.as_deref())? {
        let before: i64 = place.parse().map_err(|_| Problem::bad_parameter("the cursor is not one of this list"))?;
        query.push(" AND position < ").push_bind(before);
    }
    query.push(" ORDER BY position DESC LIMIT ").push_bind(i64::try_from(limit + 1).unwrap_or(i64::MAX));
    let rows = query.build().fetch_all(&api.store.pool).await?;
    let page = Page::new(rows, limit, |row| page::cursor('a', &row.get::<i64, _>("position").to_string()));
    let items = page.items.iter().map(|row| AuditItem {
        at: clock::text(clock::from_sql(row.get("at"))),
        actor: row.get("actor"),
        action: row.get("action"),
        subject: row.get("subject"),
        tenant: row.get("tenant"),
        outcome: row.get("outcome"),
        source: row.get("source"),
    });
    Ok(Json(Page { items: items.collect(), next: page.next }))
}
