//! Around every request: time limit, headers, and below `/v1` the token.

use std::net::IpAddr;
use std::time::Duration;

use axum::body::Body;
use axum::extract::OriginalUri;
use axum::extract::Request;
use axum::extract::State;
use axum::http::HeaderValue;
use axum::http::StatusCode;
use axum::http::header;
use axum::http::header::HeaderName;
use axum::middleware::Next;
use axum::response::IntoResponse;
use axum::response::Response;

use crate::process::side::audit;
use crate::process::side::audit::Entry;
use crate::process::side::clock;
use crate::process::side::http::Api;
use crate::process::side::http::places::Holding;
use crate::process::side::http::places::Seat;
use crate::process::side::http::problem::Problem;
use crate::process::side::token;
use crate::process::side::token::Access;
use crate::process::side::token::Role;

const REQUEST_TIME_MAX: Duration = Duration::from_secs(30);
/// Longer ones are not ours.
const TOKEN_BYTES_MAX: usize = 256;

/// Where the connection came from; put into every request by whoever serves it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Source(pub(crate) IpAddr);

/// Who asks, and from where; in every request below `/v1`.
#[derive(Clone)]
pub(super) struct Visitor {
    pub(super) access: Access,
    source: Option<Source>,
}

impl Visitor {
    /// The beginning of an entry of the audit.
    pub(super) fn entry(&self, action: &'static str, outcome: &'static str) -> Entry {
        Entry { action, outcome, source: text(self.source), ..Entry::by(&self.access.name) }
    }
}

fn text(source: Option<Source>) -> String {
    source.map(|source| source.0.to_string()).unwrap_or_default()
}

/// An answer of JSON and plain text: nothing in it may run, be framed or be kept.
const HEADERS: [(HeaderName, &str); 5] = [
    (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (header::CACHE_CONTROL, "no-store"),
    (header::CONTENT_SECURITY_POLICY, "default-src 'none'; frame-ancestors 'none'"),
    (header::X_FRAME_OPTIONS, "DENY"),
    (header::REFERRER_POLICY, "no-referrer"),
];

pub(super) async fn bound(State(api): State<Api>, request: Request, next: Next) -> Response {
    let answered = tokio::time::timeout(REQUEST_TIME_MAX, next.run(request)).await;
    let mut response = answered
        .unwrap_or_else(|_| Problem::new(StatusCode::SERVICE_UNAVAILABLE, "the request took too long").into_response());
    for (name, value) in HEADERS {
        // The page at `/` has a policy of its own.
        response.headers_mut().entry(name).or_insert(HeaderValue::from_static(value));
    }
    api.metrics.on_response(response.status().as_u16());
    response
}

pub(super) async fn authenticate(State(api): State<Api>, mut request: Request, next: Next) -> Response {
    let access = match presented(&request) {
        Some(presented) => token::check(&api.store, presented).await,
        None => Ok(None),
    };
    match access {
        Ok(Some(access)) => {
            let source = source(&request);
            let Some(held) = api.tokens.begin(&access.name) else {
                return Problem::new(
                    StatusCode::TOO_MANY_REQUESTS,
                    "too many requests of this token are being answered",
                )
                .into_response();
            };
            let seat = request.extensions().get::<Seat>();
            let kept = seat.map(Seat::keep);
            if matches!(kept, Some(None)) {
                return Problem::new(StatusCode::SERVICE_UNAVAILABLE, "too many connections are in use")
                    .into_response();
            }
            request.extensions_mut().insert(Visitor { access, source });
            let response = next.run(request).await;
            response.map(|body| Body::new(Holding::new(body, (held, kept))))
        }
        Ok(None) => {
            refuse(&api, "", &request_line(&request), source(&request)).await;
            Problem::unauthorized().into_response()
        }
        Err(error) => Problem::from(error).into_response(),
    }
}

/// The token of the request. RFC 9110 §11.1: "case-insensitive token to identify the authentication scheme".
fn presented(request: &Request) -> Option<&str> {
    let mut values = request.headers().get_all(header::AUTHORIZATION).iter();
    let value = values.next()?.to_str().ok()?;
    let (scheme, token) = value.split_once(' ')?;
    let token = token.trim_start_matches(' ');
    let fits = scheme.eq_ignore_ascii_case("bearer") && token.len() <= TOKEN_BYTES_MAX && values.next().is_none();
    fits.then_some(token)
}

/// Ends the request of a token whose role is not among `roles`, and notes it.
pub(super) async fn require(api: &Api, visitor: &Visitor, roles: &[Role], what: &str) -> Result<(), Problem> {
    if roles.contains(&visitor.access.role) {
        return Ok(());
    }
    refuse(api, &visitor.access.name, what, visitor.source).await;
    Err(Problem::forbidden())
}

async fn refuse(api: &Api, actor: &str, what: &str, source: Option<Source>) {
    let source = text(source);
    api.metrics.on_refusal();
    // One line that fail2ban can read; it names no token.
    tracing::warn!(event = "api.refused", source, "API request refused from {source}");
    if !api.refusals.take(clock::now()) {
        return;
    }
    let entry = Entry {
        action: "api.refused",
        subject: what.chars().take(200).collect(),
        outcome: "refused",
        source,
        ..Entry::by(actor)
    };
    if let Err(error) = audit::note_alone(&api.store, &entry).await {
        tracing::error!(event = "database.error", "{error}");
    }
}

fn request_line(request: &Request) -> String {
    // Below `/v1` the router has taken that off.
    let whole = request.extensions().get::<OriginalUri>();
    let path = whole.map_or_else(|| request.uri().path(), |uri| uri.path());
    format!("{} {path}", request.method())
}

fn source(request: &Request) -> Option<Source> {
    request.extensions().get::<Source>().copied()
}
