//! Is it alive, does it take calls, and what has it counted. Without a token: it listens on loopback unless told.

use axum::extract::State;
use axum::http::HeaderMap;
use axum::http::StatusCode;
use axum::http::header;
use axum::response::IntoResponse;

use crate::process::side::http::Api;
use crate::process::side::http::page::NoParams;
use crate::process::side::http::page::Params;
use crate::process::side::http::problem::Open;
use crate::process::side::metrics::text::Format;
use crate::process::side::mirror::Readiness;

/// The side process is alive.
#[utoipa::path(get, path = "/healthz", operation_id = "alive", tag = "node", responses((status = 200, description = "Alive", body = String, content_type = "text/plain"), Open), security(()))]
pub(super) async fn alive(_: Params<NoParams>) -> &'static str {
    "alive\n"
}

/// The node takes new calls.
#[utoipa::path(get, path = "/readyz", operation_id = "ready", tag = "node", security(()), responses(
    (status = 200, description = "Takes new calls", body = String, content_type = "text/plain"),
    (status = 503, description = "Starting, draining, without room for calls, or the engine is down", body = String, content_type = "text/plain"), Open))]
pub(super) async fn ready(State(api): State<Api>, _: Params<NoParams>) -> (StatusCode, &'static str) {
    match api.mirror.readiness() {
        Readiness::Ready if !api.metrics.has_room_for_calls() => {
            (StatusCode::SERVICE_UNAVAILABLE, "no room for calls\n")
        }
        Readiness::Ready => (StatusCode::OK, "ready\n"),
        Readiness::Down => (StatusCode::SERVICE_UNAVAILABLE, "engine down\n"),
        Readiness::Starting => (StatusCode::SERVICE_UNAVAILABLE, "starting\n"),
        Readiness::Draining => (StatusCode::SERVICE_UNAVAILABLE, "draining\n"),
    }
}

/// Figures of engine and side in the Prometheus text format, or as OpenMetrics where `Accept` prefers that.
#[utoipa::path(get, path = "/metrics", operation_id = "metrics", tag = "node", security(()), responses(
    (status = 200, description = "Prometheus text, or OpenMetrics", content(
        (String = "text/plain"), (String = "application/openmetrics-text"))), Open))]
pub(super) async fn metrics(State(api): State<Api>, _: Params<NoParams>, headers: HeaderMap) -> impl IntoResponse {
    let accept = headers.get(header::ACCEPT).and_then(|accept| accept.to_str().ok()).unwrap_or_default();
    let format = Format::asked(accept);
    ([(header::CONTENT_TYPE, format.content_type())], api.metrics.answer(&api.mirror, format))
}
