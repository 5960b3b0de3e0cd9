//! Listeners for health and figures alone, with a thread and places of their own: whatever the API is asked, these answer.

use std::io;
use std::net::TcpListener;
use std::sync::Arc;

use axum::Router;
use tokio::sync::oneshot;
use tokio::task::JoinSet;

use crate::process::exit::Failure;
use crate::process::side::http::places::Counts;
use crate::process::side::http::places::Places;
use crate::process::side::http::serve;

/// A place is a file; a quarter of so many.
const FILES: u64 = 256;

/// Until it is dropped.
pub(crate) struct Probes {
    _end: Option<oneshot::Sender<()>>,
}

/// Serves `router`, which knows health and figures.
pub(crate) fn start(listeners: Vec<TcpListener>, router: Router, counts: &Arc<Counts>) -> Result<Probes, Failure> {
    if listeners.is_empty() {
        return Ok(Probes { _end: None });
    }
    let failed = |error| Failure::from_io("the probes", &error);
    for listener in &listeners {
        listener.set_nonblocking(true).map_err(failed)?;
    }
    let counts = Arc::clone(counts);
    let (end, ended) = oneshot::channel();
    let serve = move || {
        if let Err(error) = serve_until(ended, listeners, router, counts) {
            tracing::error!(event = "api.accept", "the probes: {error}");
        }
    };
    std::thread::Builder::new().name("probes".to_owned()).spawn(serve).map_err(failed)?;
    Ok(Probes { _end: Some(end) })
}

fn serve_until(
    ended: oneshot::Receiver<()>,
    listeners: Vec<TcpListener>,
    router: Router,
    counts: Arc<Counts>,
) -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let places = Places::new(FILES, counts);
        let mut tasks = JoinSet::new();
        for listener in listeners {
            let listener = tokio::net::TcpListener::from_std(listener)?;
            tasks.spawn(serve::serve(listener, router.clone(), Arc::clone(&places)));
        }
        let _ = ended.await;
        Ok(())
    })
}
