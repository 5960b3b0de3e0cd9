//! The HTTP API: what may be asked of the node, by whom. Handlers by subject; serving connections is [`serve`]'s.

mod audit;
mod calls;
mod cdrs;
mod events;
mod guard;
mod health;
mod home;
mod media;
mod openapi;
mod page;
mod patience;
pub(crate) mod places;
mod problem;
mod recordings;
mod registrations;
pub(crate) mod serve;
mod tokens;
pub(crate) mod without_database;

use std::sync::Arc;

use axum::Router;
use axum::middleware;
use axum::routing::get;
use tokio::sync::watch;

use crate::process::side::audit::RefusalBudget;
use crate::process::side::http::tokens::Tokens;
use crate::process::side::link::LinkHandle;
use crate::process::side::metrics::Metrics;
use crate::process::side::mirror::Mirror;
use crate::process::side::recording::live::Live;
use crate::process::side::recording::rows::Shelf;
use crate::process::side::recording::so_far::SoFar;
use crate::process::side::recording::transcode::Transcoder;
use crate::process::side::store::Store;

/// What every handler may use.
#[derive(Clone)]
pub(crate) struct Api(Arc<Shared>);

pub(crate) struct Shared {
    pub(crate) node: String,
    pub(crate) store: Store,
    pub(crate) mirror: Arc<Mirror>,
    pub(crate) link: LinkHandle,
    pub(crate) metrics: Arc<Metrics>,
    /// Position of the newest committed event.
    pub(crate) newest_event: watch::Receiver<i64>,
    pub(crate) shelf: Arc<Shelf>,
    pub(crate) live: Arc<Live>,
    pub(crate) so_far: SoFar,
    pub(crate) transcoder: Arc<Transcoder>,
    refusals: RefusalBudget,
    tokens: Tokens,
}

impl std::ops::Deref for Api {
    type Target = Shared;

    fn deref(&self) -> &Shared {
        &self.0
    }
}

/// Of the recordings.
pub(crate) struct Recordings {
    pub(crate) shelf: Arc<Shelf>,
    pub(crate) live: Arc<Live>,
    pub(crate) so_far: SoFar,
    pub(crate) transcoder: Arc<Transcoder>,
}

impl Api {
    pub(crate) fn new(
        node: String,
        store: Store,
        mirror: Arc<Mirror>,
        link: LinkHandle,
        metrics: Arc<Metrics>,
        newest_event: watch::Receiver<i64>,
        recordings: Recordings,
    ) -> Self {
        let Recordings { shelf, live, so_far, transcoder } = recordings;
        Self(Arc::new(Shared {
            node,
            store,
            mirror,
            link,
            metrics,
            newest_event,
            shelf,
            live,
            so_far,
            transcoder,
            refusals: RefusalBudget::default(),
            tokens: Tokens::default(),
        }))
    }
}

pub(crate) fn router(api: Api) -> Router {
    let v1 = Router::new()
        .route("/registrations", get(registrations::list))
        .route("/calls", get(calls::list))
        .route("/calls/{call}", axum::routing::delete(calls::hang_up))
        .route("/calls/{call}/trace", get(calls::trace))
        .route("/cdrs", get(cdrs::list))
        .route("/recordings", get(recordings::list))
        .route("/recordings/{id}", get(recordings::one).delete(recordings::delete))
        .route("/recordings/{id}/media", get(media::media))
        .route("/recordings/{id}/peaks", get(media::peaks))
        .route("/recordings/{id}/hold", axum::routing::put(recordings::hold).delete(recordings::release))
        .route("/calls/{call}/recording/{wish}", axum::routing::post(recordings::wish))
        .route("/events", get(events::stream))
        .route("/audit", get(audit::list))
        .route("/openapi.json", get(openapi::document))
        .fallback(problem::no_such_path)
        .method_not_allowed_fallback(problem::no_such_method)
        .layer(middleware::from_fn_with_state(api.clone(), guard::authenticate));
    Router::new()
        .route("/", get(home::show))
        .route("/healthz", get(health::alive))
        .route("/readyz", get(health::ready))
        .route("/metrics", get(health::metrics))
        .nest("/v1", v1)
        .fallback(problem::no_such_path)
        .method_not_allowed_fallback(problem::no_such_method)
        .layer(middleware::from_fn_with_state(api.clone(), guard::bound))
        .with_state(api)
}
