//! What is answered while the database cannot be opened: health and figures as ever, everything else is 503 and says why.

use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::http::HeaderMap;
use axum::http::StatusCode;
use axum::http::header;
use axum::response::IntoResponse;
use axum::routing::get;

use crate::process::side::http::health;
use crate::process::side::http::problem::Problem;
use crate::process::side::metrics::Metrics;
use crate::process::side::metrics::text::Format;
use crate::process::side::mirror::Mirror;

#[derive(Clone)]
struct Shared {
    metrics: Arc<Metrics>,
    why: String,
}

pub(crate) fn router(metrics: Arc<Metrics>, why: String) -> Router {
    Router::new()
        .route("/healthz", get(health::alive))
        .route("/readyz", get(ready))
        .route("/metrics", get(render))
        .fallback(unavailable)
        .with_state(Shared { metrics, why })
}

/// As the keeper says: there is no link to the engine without a database.
async fn ready(State(shared): State<Shared>) -> (StatusCode, &'static str) {
    if shared.metrics.is_engine_ready() {
        (StatusCode::OK, "ready\n")
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, "draining, or the engine is down\n")
    }
}

async fn render(State(shared): State<Shared>, headers: HeaderMap) -> impl IntoResponse {
    let accept = headers.get(header::ACCEPT).and_then(|accept| accept.to_str().ok()).unwrap_or_default();
    let format = Format::asked(accept);
    ([(header::CONTENT_TYPE, format.content_type())], shared.metrics.answer(&Mirror::default(), format))
}

/// Nobody has shown a token: the file is named in the log alone.
async fn unavailable(State(shared): State<Shared>) -> Problem {
    tracing::debug!(event = "api.unavailable", "{}", shared.why);
    Problem::new(StatusCode::SERVICE_UNAVAILABLE, "the database cannot be opened; the log says why")
}
