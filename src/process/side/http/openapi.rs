//! `GET /v1/openapi.json`: the description of all of it, made from the handlers themselves.

use axum::Json;
use utoipa::Modify;
use utoipa::OpenApi;
use utoipa::openapi::security::HttpAuthScheme;
use utoipa::openapi::security::HttpBuilder;
use utoipa::openapi::security::SecurityScheme;

use crate::process::side::http::audit;
use crate::process::side::http::calls;
use crate::process::side::http::cdrs;
use crate::process::side::http::events;
use crate::process::side::http::health;
use crate::process::side::http::media;
use crate::process::side::http::page::NoParams;
use crate::process::side::http::page::Params;
use crate::process::side::http::recordings;
use crate::process::side::http::registrations;

#[derive(OpenApi)]
#[openapi(
    info(title = "tipring", description = "Calls, phones and records of one node. Times are RFC 3339 in UTC."),
    paths(
        health::alive,
        health::ready,
        health::metrics,
        registrations::list,
        calls::list,
        calls::hang_up,
        calls::trace,
        cdrs::list,
        recordings::list,
        recordings::one,
        media::media,
        media::peaks,
        recordings::delete,
        recordings::hold,
        recordings::release,
        recordings::wish,
        events::stream,
        audit::list,
        document
    ),
    modifiers(&Bearer),
    security(("bearer" = []))
)]
struct Description;

struct Bearer;

impl Modify for Bearer {
    fn modify(&self, document: &mut utoipa::openapi::OpenApi) {
        let scheme = HttpBuilder::new().scheme(HttpAuthScheme::Bearer).build();
        let components = document.components.get_or_insert_default();
        components.add_security_scheme("bearer", SecurityScheme::Http(scheme));
    }
}

/// This document.
#[utoipa::path(get, path = "/v1/openapi.json", tag = "node", responses((status = 200, description = "OpenAPI 3.1")))]
pub(super) async fn document(_: Params<NoParams>) -> Json<utoipa::openapi::OpenApi> {
    Json(Description::openapi())
}
