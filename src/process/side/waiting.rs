//! Side without its database: it says why once, answers health and metrics, and begins anew when the database can be opened.
//!
//! The engine serves phones from its own snapshot of the directory, and what happens waits on the tape.

use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::task::JoinSet;

use crate::process::exit;
use crate::process::exit::Failure;
use crate::process::log;
use crate::process::side::http;
use crate::process::side::metrics::Metrics;
use crate::process::side::opening;
use crate::process::side::run;
use crate::process::tune::engine::Hardware;
use crate::wire::control::ToChild;

const LOOK_EVERY: Duration = Duration::from_secs(2);

pub(super) struct Waiting {
    data: PathBuf,
    listeners: Vec<TcpListener>,
    metrics: Arc<Metrics>,
}

impl Waiting {
    /// For the case that it is needed.
    pub(super) fn new(
        data: &Path,
        listeners: &[TcpListener],
        figures: Vec<OwnedFd>,
        hardware: Option<Hardware>,
    ) -> Result<Self, Failure> {
        let listeners = listeners.iter().map(TcpListener::try_clone).collect::<Result<_, _>>();
        let listeners = listeners.map_err(|error| Failure::from_io("the HTTP API", &error))?;
        let metrics = Metrics::new(figures);
        metrics.on_database_down();
        metrics.on_hardware(hardware);
        Ok(Self { data: data.to_owned(), listeners, metrics: Arc::new(metrics) })
    }

    /// Until the keeper says stop, or the database can be opened.
    pub(super) async fn run(
        self,
        why: &Failure,
        mut frames: mpsc::Receiver<std::io::Result<ToChild>>,
    ) -> Result<(), Failure> {
        tracing::error!(
            event = "database.failed",
            "{why}; the engine serves phones from its snapshot, records and recordings wait on the tape"
        );
        let router = http::without_database::router(Arc::clone(&self.metrics), why.line.clone());
        let places = http::serve::places(&self.metrics.http);
        let mut tasks = JoinSet::new();
        for listener in self.listeners {
            let listening = listener.set_nonblocking(true).and_then(|()| tokio::net::TcpListener::from_std(listener));
            let listening = listening.map_err(|error| Failure::from_io("the HTTP API", &error))?;
            tasks.spawn(http::serve::serve(listening, router.clone(), Arc::clone(&places)));
        }
        loop {
            tokio::select! {
                frame = frames.recv() => match frame {
                    Some(Ok(ToChild::Stop { .. })) => return Ok(()),
                    Some(Ok(frame)) => on_frame(&self.metrics, frame),
                    Some(Err(error)) => return Err(Failure::from_io("the keeper", &error)),
                    None => return Err(Failure::new(exit::OTHER, "the keeper is gone")),
                },
                // While the whole node starts, an end would be the end of it.
                () = tokio::time::sleep(LOOK_EVERY), if self.metrics.is_engine_ready() => {
                    if let Ok((store, ..)) = opening::open(&self.data).await {
                        store.pool.close().await;
                        let line = "the database can be opened: side begins anew";
                        tracing::warn!(event = "database.opened", "{line}");
                        return Err(Failure::new(0, line));
                    }
                }
            }
        }
    }
}

fn on_frame(metrics: &Metrics, frame: ToChild) {
    match frame {
        ToChild::Status(status) => metrics.on_status(*status),
        ToChild::ReopenLogs => log::reopen(),
        ToChild::Settings(settings) => {
            if let Ok(settings) = run::decode(&settings) {
                log::set(&settings.log);
                metrics.on_hardware(settings.hardware);
            }
        }
        _ => {}
    }
}
