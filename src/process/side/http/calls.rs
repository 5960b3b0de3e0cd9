//! `/v1/calls`: what is up now, ending one, and why it went as it did.

use axum::Extension;
use axum::Json;
use axum::extract::Path;
use axum::extract::State;
use axum::extract::rejection::PathRejection;
use axum::http::StatusCode;
use serde::Deserialize;
use serde::Serialize;
use sqlx::Row;
use utoipa::ToSchema;

use crate::base::id::CallId;
use crate::process::side::audit;
use crate::process::side::audit::Entry;
use crate::process::side::clock;
use crate::process::side::http::Api;
use crate::process::side::http::guard;
use crate::process::side::http::guard::Visitor;
use crate::process::side::http::page;
use crate::process::side::http::page::NoParams;
use crate::process::side::http::page::Page;
use crate::process::side::http::page::Params;
use crate::process::side::http::problem::OfList;
use crate::process::side::http::problem::OfOne;
use crate::process::side::http::problem::Problem;
use crate::process::side::record::ingest;
use crate::process::side::record::ingest::StoredStep;
use crate::process::side::token::Role;
use crate::wire::link::CallState;
use crate::wire::link::LiveCall;

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

/// A call that is up or being set up.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct CallItem {
    call: String,
    sip_call_id: String,
    node: String,
    tenant: String,
    from: String,
    to: String,
    /// routing, ringing, up, held or ending
    state: &'static str,
    started_at: String,
    answered_at: Option<String>,
}

/// The decisions about one call, oldest first.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct TraceAnswer {
    call: String,
    steps: Vec<StoredStep>,
}

/// Calls up now, the oldest first.
#[utoipa::path(get, path = "/v1/calls", operation_id = "list_calls", tag = "calls", params(List), responses(
    (status = 200, description = "The oldest first", body = Page<CallItem>), OfList))]
pub(super) async fn list(
    State(api): State<Api>,
    Extension(visitor): Extension<Visitor>,
    Params(params): Params<List>,
) -> Result<Json<Page<CallItem>>, Problem> {
    guard::require(&api, &visitor, &[Role::Admin, Role::Operator, Role::Read], "GET /v1/calls").await?;
    let limit = page::limit(params.limit)?;
    let after = page::place('l', params.cursor.as_deref())?;
    let after = after.map(|place| place.parse()).transpose();
    let after = after.map_err(|_| Problem::bad_parameter("the cursor is not one of this list"))?;
    let asked = params.tenant.as_deref();
    let found = api.mirror.calls(after, limit + 1, |call| page::shows(&visitor.access, asked, &call.tenant));
    let page = Page::new(found, limit, |last| page::cursor('l', &last.call.to_string()));
    Ok(Json(Page { items: page.items.into_iter().map(|call| item(&api.node, call)).collect(), next: page.next }))
}

/// Ends a call: both sides get a BYE, or a CANCEL while it rings.
#[utoipa::path(delete, path = "/v1/calls/{call}", operation_id = "end_call", tag = "calls", params(("call" = String, Path)), responses(
    (status = 204, description = "Being ended"), OfOne))]
pub(super) async fn hang_up(
    State(api): State<Api>,
    Extension(visitor): Extension<Visitor>,
    call: Result<Path<String>, PathRejection>,
    _: Params<NoParams>,
) -> Result<StatusCode, Problem> {
    let id = call_id(call)?;
    let what = format!("DELETE /v1/calls/{id}");
    guard::require(&api, &visitor, &[Role::Admin, Role::Operator], &what).await?;
    let live = api.mirror.call(id).filter(|call| visitor.access.sees(&call.tenant)).ok_or_else(Problem::not_found)?;
    let found = api.link.hang_up(id).await;
    let outcome = match found {
        Some(true) => "done",
        Some(false) => "not found",
        None => "engine down",
    };
    let entry = Entry { subject: id.to_string(), tenant: Some(live.tenant), ..visitor.entry("call.hangup", outcome) };
    audit::note_alone(&api.store, &entry).await?;
    match found {
        Some(true) => Ok(StatusCode::NO_CONTENT),
        Some(false) => Err(Problem::not_found()),
        None => Err(Problem::engine_down()),
    }
}

/// The decision trace of a call that is up, or that ended not longer ago than `[retain] trace`.
#[utoipa::path(get, path = "/v1/calls/{call}/trace", operation_id = "trace_call", tag = "calls", params(("call" = String, Path)), responses(
    (status = 200, description = "Its decisions", body = TraceAnswer), OfOne))]
pub(super) async fn trace(
    State(api): State<Api>,
    Extension(visitor): Extension<Visitor>,
    call: Result<Path<String>, PathRejection>,
    _: Params<NoParams>,
) -> Result<Json<TraceAnswer>, Problem> {
    let id = call_id(call)?;
    let what = format!("GET /v1/calls/{id}/trace");
    guard::require(&api, &visitor, &[Role::Admin, Role::Operator, Role::Read], &what).await?;
    let call = id.to_string();
    if let Some(live) = api.mirror.call(id) {
        if !visitor.access.sees(&live.tenant) {
            return Err(Problem::not_found());
        }
        match api.link.trace(&call).await {
            Some(Some(steps)) => {
                return Ok(Json(TraceAnswer { call, steps: steps.iter().map(StoredStep::from).collect() }));
            }
            Some(None) => {}
            None => return Err(Problem::engine_down()),
        }
    }
    let row = sqlx::query("SELECT tenant, steps FROM traces WHERE call = ?")
        .bind(&call)
        .fetch_optional(&api.store.pool)
        .await?;
    if let Some(row) = row {
        if !visitor.access.sees(row.get("tenant")) {
            return Err(Problem::not_found());
        }
        return Ok(Json(TraceAnswer { call, steps: ingest::stored_steps(row.get("steps"))? }));
    }
    // The engine keeps a call that has ended for retransmissions; its trace comes when it is done with it.
    let record =
        sqlx::query("SELECT tenant FROM cdrs WHERE call = ?").bind(&call).fetch_optional(&api.store.pool).await?;
    record.filter(|row| visitor.access.sees(row.get("tenant"))).ok_or_else(Problem::not_found)?;
    let steps = api.link.trace(&call).await.ok_or_else(Problem::engine_down)?.ok_or_else(Problem::not_found)?;
    Ok(Json(TraceAnswer { call, steps: steps.iter().map(StoredStep::from).collect() }))
}

fn call_id(call: Result<Path<String>, PathRejection>) -> Result<CallId, Problem> {
    let Path(call) = call.map_err(|_| Problem::not_found())?;
    call.parse().map_err(|_| Problem::not_found())
}

fn item(node: &str, call: LiveCall) -> CallItem {
    CallItem {
        call: call.call.to_string(),
        sip_call_id: call.sip_call_id,
        node: node.to_owned(),
        tenant: call.tenant,
        from: call.from,
        to: call.to,
        state: match call.state {
            CallState::Routing => "routing",
            CallState::Ringing => "ringing",
            CallState::Up => "up",
            CallState::Held => "held",
            CallState::Ending => "ending",
        },
        started_at: clock::text(call.started_at),
        answered_at: call.answered_at.map(clock::text),
    }
}
