//! `GET /v1/events`: Server-Sent Events, live, resumed by Last-Event-ID.
//!
//! A stream reads the database behind the newest commit, so that it loses nothing and holds one page in memory.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::time::Duration;

use axum::Extension;
use axum::extract::State;
use axum::http::HeaderMap;
use axum::http::StatusCode;
use axum::response::IntoResponse;
use axum::response::Response;
use axum::response::sse;
use axum::response::sse::KeepAlive;
use axum::response::sse::Sse;
use futures_util::stream;
use serde::Deserialize;
use sqlx::QueryBuilder;
use sqlx::Row;
use sqlx::Sqlite;
use tokio::sync::watch;

use crate::process::side::http::Api;
use crate::process::side::http::guard;
use crate::process::side::http::guard::Visitor;
use crate::process::side::http::page;
use crate::process::side::http::page::Params;
use crate::process::side::http::problem::OfList;
use crate::process::side::http::problem::Problem;
use crate::process::side::http::tokens::InWork;
use crate::process::side::http::tokens::NoStream;
use crate::process::side::record::published::Envelope;
use crate::process::side::store::StoreError;
use crate::process::side::token;
use crate::process::side::token::Access;
use crate::process::side::token::Role;

const PAGE: i64 = 200;
/// How long a stream outlives its token at most.
const TOKEN_CHECK: Duration = Duration::from_secs(5);

#[derive(Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct Filter {
    tenant: Option<String>,
}

/// Events as they are committed; with Last-Event-ID, those after that one first. If that one is no longer kept, the
/// stream begins with an event of the type `reset` and then everything that is.
#[utoipa::path(get, path = "/v1/events", operation_id = "stream_events", tag = "calls",
    params(Filter, ("Last-Event-ID" = Option<String>, Header, description = "id of the last event received")),
    responses((status = 200, description = "Events, each as `data` of one server-sent event whose `id` and `event` are its id and type", body = Envelope, content_type = "text/event-stream"), OfList))]
pub(super) async fn stream(
    State(api): State<Api>,
    Extension(visitor): Extension<Visitor>,
    headers: HeaderMap,
    Params(filter): Params<Filter>,
) -> Result<Response, Problem> {
    guard::require(&api, &visitor, &[Role::Admin, Role::Operator, Role::Read], "GET /v1/events").await?;
    let place = api.tokens.begin_stream(&visitor.access.name).map_err(|reason| match reason {
        NoStream::OfToken => {
            Problem::new(StatusCode::TOO_MANY_REQUESTS, "too many event streams of this token are open")
        }
        NoStream::AtAll => Problem::new(StatusCode::SERVICE_UNAVAILABLE, "too many event streams are open"),
    })?;
    let mut newest = api.newest_event.clone();
    let head = *newest.borrow_and_update();
    let mut waiting = VecDeque::new();
    let position = match headers.get("last-event-id") {
        None => head,
        Some(id) => match position_of(&api, id.to_str().unwrap_or_default()).await? {
            Some(position) => position,
            None => {
                waiting.push_back(sse::Event::default().event("reset").data("{}"));
                0
            }
        },
    };
    let reader =
        Reader { api, _place: place, access: visitor.access, tenant: filter.tenant, newest, position, waiting };
    let events = stream::unfold(reader, async |mut reader| {
        reader.next().await.map(|event| (Ok::<_, Infallible>(event), reader))
    });
    let keep_alive = KeepAlive::new().interval(Duration::from_secs(15));
    Ok(Sse::new(Box::pin(events)).keep_alive(keep_alive).into_response())
}

async fn position_of(api: &Api, id: &str) -> Result<Option<i64>, Problem> {
    let position =
        sqlx::query_scalar("SELECT position FROM events WHERE id = ?").bind(id).fetch_optional(&api.store.pool);
    Ok(position.await?)
}

struct Reader {
    api: Api,
    _place: InWork,
    access: Access,
    tenant: Option<String>,
    newest: watch::Receiver<i64>,
    /// Of the last event looked at.
    position: i64,
    waiting: VecDeque<sse::Event>,
}

impl Reader {
    /// The next event; `None` ends the stream: the token was revoked, the database failed, or this process stops.
    async fn next(&mut self) -> Option<sse::Event> {
        loop {
            if let Some(event) = self.waiting.pop_front() {
                return Some(event);
            }
            if !token::check_again(&self.api.store, &self.access).await.ok()? {
                return None;
            }
            let head = *self.newest.borrow_and_update();
            if self.position < head {
                self.read(head).await.inspect_err(|error| tracing::error!(event = "database.error", "{error}")).ok()?;
            } else if let Ok(changed) = tokio::time::timeout(TOKEN_CHECK, self.newest.changed()).await {
                changed.ok()?;
            }
        }
    }

    async fn read(&mut self, head: i64) -> Result<(), StoreError> {
        let mut query = QueryBuilder::<Sqlite>::new("SELECT * FROM events WHERE position > ");
        query.push_bind(self.position).push(" AND position <= ").push_bind(head);
        page::push_tenants(&mut query, "tenant", &self.access, self.tenant.as_deref());
        query.push(" ORDER BY position LIMIT ").push_bind(PAGE);
        let rows = query.build().fetch_all(&self.api.store.pool).await?;
        for row in &rows {
            let envelope = Envelope::from_row(row)?;
            let json = serde_json::to_string(&envelope).map_err(|_| StoreError::Row("events"))?;
            self.waiting.push_back(sse::Event::default().id(envelope.id).event(envelope.r#type).data(json));
        }
        let whole = i64::try_from(rows.len()).is_ok_and(|len| len < PAGE);
        self.position = if whole { head } else { rows.last().map_or(head, |row| row.get("position")) };
        Ok(())
    }
}
