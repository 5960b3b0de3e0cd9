//! `GET /v1/registrations`: the bindings of all phones, as the engine has them now.

use axum::Extension;
use axum::Json;
use axum::extract::State;
use serde::Deserialize;
use serde::Serialize;
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
use crate::process::side::mirror::RegistrationKey;
use crate::process::side::token::Role;
use crate::wire::link::Registration;

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

/// One contact of one phone.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct RegistrationItem {
    tenant: String,
    user: String,
    contact: String,
    transport: String,
    /// Where it was seen to come from.
    received: String,
    expires_at: String,
    user_agent: String,
}

/// Registered contacts, by tenant, user and contact.
#[utoipa::path(get, path = "/v1/registrations", operation_id = "list_registrations", tag = "phones", params(List), responses(
    (status = 200, description = "By tenant, user and contact", body = Page<RegistrationItem>), OfList))]
pub(super) async fn list(
    State(api): State<Api>,
    Extension(visitor): Extension<Visitor>,
    Params(params): Params<List>,
) -> Result<Json<Page<RegistrationItem>>, Problem> {
    let roles = [Role::Admin, Role::Operator, Role::Read];
    guard::require(&api, &visitor, &roles, "GET /v1/registrations").await?;
    let limit = page::limit(params.limit)?;
    let after = page::place('r', params.cursor.as_deref())?.map(|place| key(&place)).transpose()?;
    let asked = params.tenant.as_deref();
    let found = api
        .mirror
        .registrations(after, limit + 1, clock::now(), |found| page::shows(&visitor.access, asked, &found.tenant));
    let page =
        Page::new(found, limit, |last| page::cursor('r', &format!("{}\n{}\n{}", last.tenant, last.user, last.contact)));
    Ok(Json(Page { items: page.items.into_iter().map(RegistrationItem::from).collect(), next: page.next }))
}

fn key(place: &str) -> Result<RegistrationKey, Problem> {
    let mut parts = place.splitn(3, '\n').map(str::to_owned);
    match (parts.next(), parts.next(), parts.next()) {
        (Some(tenant), Some(user), Some(contact)) => Ok((tenant, user, contact)),
        _ => Err(Problem::bad_parameter("the cursor is not one of this list")),
    }
}

impl From<Registration> for RegistrationItem {
    fn from(found: Registration) -> Self {
        Self {
            tenant: found.tenant,
            user: found.user,
            contact: found.contact,
            transport: found.transport.word().to_owned(),
            received: found.received.to_string(),
            expires_at: clock::text(found.expires_at),
            user_agent: found.user_agent,
        }
    }
}
