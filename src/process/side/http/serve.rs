//! Accepts connections and serves the router on them: bounded in number, in time and in the size of a request's head.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Extension;
use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::TokioIo;
use hyper_util::rt::TokioTimer;
use hyper_util::service::TowerToHyperService;
use tokio::net::TcpListener;
use tokio::net::TcpStream;
use tokio::sync::Semaphore;

use crate::base::limit::HTTP_CONNECTIONS_MAX;
use crate::base::limit::HTTP_HEAD_BYTES_MAX;
use crate::process::side::http::guard::Source;

/// Also how long a connection may be idle between requests.
const HEAD_TIME_MAX: Duration = Duration::from_secs(15);
/// After a failed accept, usually for want of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Serves until it is dropped; of the listeners each has its own share of the connections.
pub(crate) async fn serve(listener: TcpListener, router: Router) {
    let room = Arc::new(Semaphore::new(HTTP_CONNECTIONS_MAX));
    loop {
        let Ok(permit) = Arc::clone(&room).acquire_owned().await else { return };
        match listener.accept().await {
            Ok((stream, source)) => {
                let router = router.clone();
                tokio::spawn(async move {
                    serve_connection(stream, source, router).await;
                    drop(permit);
                });
            }
            Err(error) => {
                tracing::warn!(event = "api.accept", "cannot accept a connection: {error}");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

async fn serve_connection(stream: TcpStream, source: SocketAddr, router: Router) {
    let _ = stream.set_nodelay(true);
    let service = router.layer(Extension(Source(source.ip())));
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIME_MAX)
        .max_buf_size(HTTP_HEAD_BYTES_MAX)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(service))
        .await;
    if let Err(error) = served {
        tracing::debug!(event = "api.connection", "a connection ended: {error}");
    }
}
