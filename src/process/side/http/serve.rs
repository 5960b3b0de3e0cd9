//! Accepts connections and serves the router on them: bounded in number, in time and in the size of a request's head.

use std::error::Error as _;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Extension;
use axum::Router;
use axum::response::Response;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::Service as _;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use hyper_util::rt::TokioTimer;
use hyper_util::service::TowerToHyperService;
use rustix::process::Resource;
use tokio::net::TcpListener;
use tokio::net::TcpStream;

use crate::base::limit::HTTP_HEAD_BYTES_MAX;
use crate::process::side::http::guard::Source;
use crate::process::side::http::patience::Patient;
use crate::process::side::http::places::Counts;
use crate::process::side::http::places::Holding;
use crate::process::side::http::places::Place;
use crate::process::side::http::places::Places;

/// Also how long a connection may be idle between requests.
const HEAD_TIME_MAX: Duration = Duration::from_secs(5);
/// How long a peer may take nothing of what is sent to it: a player that is paused does so for a while.
const WRITE_TIME_MAX: Duration = Duration::from_secs(20);
/// After a failed accept, usually for want of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// The places that all listeners share.
pub(crate) fn places(counts: &Arc<Counts>) -> Arc<Places> {
    let files = rustix::process::getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    Places::new(files, Arc::clone(counts))
}

/// Serves until it is dropped.
pub(crate) async fn serve(listener: TcpListener, router: Router, places: Arc<Places>) {
    loop {
        match listener.accept().await {
            Ok((stream, source)) => {
                let Some(place) = places.enter(source.ip()) else { continue };
                let place = Arc::new(place);
                let task = tokio::spawn(serve_connection(stream, source, router.clone(), Arc::clone(&place)));
                place.served_by(task.abort_handle());
            }
            Err(error) => {
                tracing::warn!(event = "api.accept", "cannot accept a connection: {error}");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

async fn serve_connection(stream: TcpStream, source: SocketAddr, router: Router, place: Arc<Place>) {
    let _ = stream.set_nodelay(true);
    let seat = place.seat();
    let router = router.layer(Extension(Source(source.ip()))).layer(Extension(seat.clone()));
    let router = TowerToHyperService::new(router);
    let service = service_fn(move |request: hyper::Request<Incoming>| {
        let busy = seat.begin();
        let answered = router.call(request);
        async move {
            // Who sends many requests at once waits for the others between them.
            tokio::task::yield_now().await;
            answered.await.map(|response: Response| response.map(|body| Holding::new(body, busy)))
        }
    });
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIME_MAX)
        .max_buf_size(HTTP_HEAD_BYTES_MAX)
        .serve_connection(TokioIo::new(Patient::new(stream, WRITE_TIME_MAX)), service)
        .await;
    if let Err(error) = served {
        let cause = error.source().and_then(|cause| cause.downcast_ref::<std::io::Error>());
        if cause.is_some_and(|cause| cause.kind() == std::io::ErrorKind::TimedOut) {
            place.on_slow();
        }
        tracing::debug!(event = "api.connection", "a connection ended: {error}");
    }
}
