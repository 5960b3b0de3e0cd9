//! Errors as RFC 9457 problem documents.

use std::collections::BTreeMap;

use axum::Json;
use axum::http::HeaderValue;
use axum::http::StatusCode;
use axum::http::header;
use axum::response::IntoResponse;
use axum::response::Response;
use serde::Serialize;
use utoipa::IntoResponses;
use utoipa::ToSchema;
use utoipa::openapi::ContentBuilder;
use utoipa::openapi::Ref;
use utoipa::openapi::RefOr;
use utoipa::openapi::ResponseBuilder;
use utoipa::openapi::header::HeaderBuilder;

use crate::process::side::store::StoreError;

/// Nothing that is unavailable here is so for long, or nobody knows.
const RETRY_AFTER_SECONDS: &str = "5";

/// Why a request was not done.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub(super) struct Problem {
    /// Always "about:blank": the status says what it is.
    r#type: &'static str,
    title: &'static str,
    status: u16,
    detail: String,
}

impl Problem {
    pub(super) fn new(status: StatusCode, detail: impl Into<String>) -> Self {
        let title = status.canonical_reason().unwrap_or("Error");
        Self { r#type: "about:blank", title, status: status.as_u16(), detail: detail.into() }
    }

    pub(super) fn bad_parameter(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, detail)
    }

    /// The same for what does not exist and for what the token does not see.
    pub(super) fn not_found() -> Self {
        Self::new(StatusCode::NOT_FOUND, "there is no such thing, or this token does not see it")
    }

    pub(super) fn unauthorized() -> Self {
        Self::new(StatusCode::UNAUTHORIZED, "a valid token is needed: Authorization: Bearer TOKEN")
    }

    pub(super) fn forbidden() -> Self {
        Self::new(StatusCode::FORBIDDEN, "the role of this token does not allow it")
    }

    pub(super) fn engine_down() -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "the engine is not connected or did not answer in time")
    }
}

impl From<StoreError> for Problem {
    fn from(error: StoreError) -> Self {
        if let StoreError::Object(error) = error {
            tracing::error!(event = "recordings.store", "{error}");
            return Self::new(StatusCode::SERVICE_UNAVAILABLE, "the audio is in an object store that does not give it");
        }
        tracing::error!(event = "database.error", "{error}");
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "the database failed; the log says how")
    }
}

impl From<sqlx::Error> for Problem {
    fn from(error: sqlx::Error) -> Self {
        Self::from(StoreError::Sql(error))
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let mut response = (status, Json(self)).into_response();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        if status == StatusCode::UNAUTHORIZED {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer realm=\"tipring\""));
        }
        if matches!(status, StatusCode::SERVICE_UNAVAILABLE | StatusCode::TOO_MANY_REQUESTS) {
            headers.insert(header::RETRY_AFTER, HeaderValue::from_static(RETRY_AFTER_SECONDS));
        }
        response
    }
}

/// What requests are refused with, for the description of the API.
macro_rules! refusals {
    ($($(#[$doc:meta])* $name:ident = $codes:expr;)*) => {$(
        $(#[$doc])*
        pub(super) struct $name;

        impl IntoResponses for $name {
            fn responses() -> BTreeMap<String, RefOr<utoipa::openapi::Response>> {
                $codes.into_iter().map(|code: u16| (code.to_string(), described(code).into())).collect()
            }
        }
    )*};
}

refusals! {
    /// Of what needs no token.
    Open = [400];
    /// Of what every token may.
    AnyToken = [400, 401, 429, 500, 503];
    /// Of a list, which needs a role.
    OfList = [400, 401, 403, 429, 500, 503];
    /// Of what names one thing.
    OfOne = [400, 401, 403, 404, 429, 500, 503];
    Conflict = [409];
    NoAudio = [406, 409, 410];
}

fn described(code: u16) -> utoipa::openapi::Response {
    let text = match code {
        400 => "A parameter that is unknown, given twice or not what it may be",
        401 => "No valid token",
        403 => "The role of the token does not allow it",
        404 => "There is no such thing, or the token does not see it",
        406 => "The audio cannot be had in this form",
        409 => "The state of the thing does not allow it now",
        410 => "It was deleted",
        429 => "Too many requests or event streams of this token are open: end some, or ask again",
        500 => "A fault of ours: the log says which",
        _ => "The engine or the database does not answer in time: ask again",
    };
    let content = ContentBuilder::new().schema(Some(Ref::from_schema_name("Problem"))).build();
    let response = ResponseBuilder::new().description(text).content("application/problem+json", content);
    let header = |text: &str| HeaderBuilder::new().description(Some(text)).build();
    match code {
        401 => response.header("WWW-Authenticate", header("The scheme: Bearer")),
        429 | 503 => response.header("Retry-After", header("Seconds until it is worth asking again")),
        _ => response,
    }
    .build()
}

pub(super) async fn no_such_path() -> Problem {
    Problem::new(StatusCode::NOT_FOUND, "there is no such path")
}

pub(super) async fn no_such_method() -> Problem {
    Problem::new(StatusCode::METHOD_NOT_ALLOWED, "this path does not know the method")
}
