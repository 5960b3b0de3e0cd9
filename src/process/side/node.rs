//! The parts of the side process put together, without the keeper: what tests start, and [`super::run`] for real.

use std::net::SocketAddr;
use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use socket2::Domain;
use socket2::Protocol;
use socket2::Socket;
use socket2::Type;
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::process::config::Retain;
use crate::process::exit;
use crate::process::exit::Failure;
use crate::process::side::audit;
use crate::process::side::audit::Entry;
use crate::process::side::directory::import::ImportError;
use crate::process::side::directory::import::Imported;
use crate::process::side::directory::import::import_file;
use crate::process::side::directory::snapshot;
use crate::process::side::http;
use crate::process::side::http::Api;
use crate::process::side::http::Recordings;
use crate::process::side::link::Link;
use crate::process::side::link::LinkHandle;
use crate::process::side::metrics::Metrics;
use crate::process::side::mirror::Mirror;
use crate::process::side::opening;
use crate::process::side::opening::Unopened;
use crate::process::side::record;
use crate::process::side::record::desk::Desk;
use crate::process::side::recording::objects::Objects;
use crate::process::side::recording::rows::Shelf;
use crate::process::side::recording::scrub;
use crate::process::side::recording::so_far::SoFar;
use crate::process::side::recording::sweep;
use crate::process::side::recording::tail;
use crate::process::side::recording::tail::Around;
use crate::process::side::recording::transcode::Transcoder;
use crate::process::side::recording::upload;
use crate::process::side::retain;
use crate::process::side::seal::NodeKey;
use crate::process::side::store::Store;
use crate::process::side::store::StoreError;
use crate::process::side::tapes::Following;

/// Connections that wait to be accepted.
const HTTP_BACKLOG: i32 = 1_024;

pub(crate) struct Settings {
    pub(crate) node: String,
    pub(crate) data: PathBuf,
    /// The engine's end of the link.
    pub(crate) link: PathBuf,
    pub(crate) retain: Retain,
    /// The directory file.
    pub(crate) import: Option<PathBuf>,
    /// Before the node was ready for the first time a faulty directory file is a failed start; later it is not.
    pub(crate) first_start: bool,
    /// Where recordings go when they are finished; `None`: they stay under `data`.
    pub(crate) objects: Option<Arc<dyn Objects>>,
}

/// What runs until it is dropped.
pub(crate) struct Node {
    pub(crate) mirror: Arc<Mirror>,
    pub(crate) metrics: Arc<Metrics>,
    store: Store,
    key: Arc<NodeKey>,
    link: LinkHandle,
    retain: watch::Sender<Retain>,
    tasks: JoinSet<()>,
    _tapes: [Following; 2],
}

impl Node {
    pub(crate) async fn start(
        settings: Settings,
        listeners: Vec<TcpListener>,
        figures: Vec<OwnedFd>,
    ) -> Result<Self, Unopened> {
        let Settings { node, data, link: socket, retain: kept, import, first_start, objects } = settings;
        let unopened = |error: StoreError| Unopened::of(&error, &data);
        let (store, key, newest) = opening::open(&data).await?;
        let (of_events, of_media) = (copies(&figures)?, copies(&figures)?);
        let (mirror, metrics) = (Arc::new(Mirror::default()), Arc::new(Metrics::new(figures)));
        let (newest, newest_event) = watch::channel(newest);
        let key = Arc::new(key);
        let desk = Desk::open(store.clone(), node.clone(), Arc::clone(&metrics), newest);
        let desk = Arc::new(desk.await.map_err(unopened)?);
        let (link, handle) = Link::new(
            socket,
            store.clone(),
            Arc::clone(&key),
            Arc::clone(&mirror),
            Arc::clone(&metrics),
            Arc::clone(&desk),
        );
        let events = record::tail::start(&data, of_events, &desk, &metrics, &handle)
            .map_err(|error| Failure::from_io("the events", &error))?;
        let live = Arc::clone(&metrics.live);
        let around = Around { link: handle.clone(), live: Arc::clone(&live), counts: Arc::clone(&metrics.finishing) };
        let media = tail::start(&data, of_media, &store, &key, around)
            .map_err(|error| Failure::from_io("the recordings", &error))?;
        let goes_up = objects.is_some();
        let shelf = Shelf::new(store.clone(), Arc::clone(&key), &data).with_objects(objects);
        let shelf = Arc::new(shelf.with_counts(Arc::clone(&metrics.scrubbed)));
        let recordings = Recordings {
            shelf: Arc::clone(&shelf),
            so_far: SoFar::new(&data, Arc::clone(&key), Arc::clone(&live)),
            live,
            transcoder: Transcoder::new(&data),
        };
        let api = Api::new(
            node,
            store.clone(),
            Arc::clone(&mirror),
            handle.clone(),
            Arc::clone(&metrics),
            newest_event,
            recordings,
        );
        let (retain, retained) = watch::channel(kept);
        let mut running = Self {
            mirror,
            metrics,
            store: store.clone(),
            key,
            link: handle,
            retain,
            tasks: JoinSet::new(),
            _tapes: [events, media],
        };
        match running.import(import.as_deref()).await {
            Err(ImportError::Store(error)) if first_start => return Err(unopened(error)),
            Err(error) if first_start => return Err(fault_of(error, import.as_deref()).into()),
            _ => {}
        }
        running.tasks.spawn(link.run());
        running.tasks.spawn(async move { desk.note_alive().await });
        running.keep_recordings(&store, shelf, &api, goes_up);
        running.tasks.spawn(retain::run(store, retained));
        running.listen(listeners, &api)?;
        Ok(running)
    }

    fn keep_recordings(&mut self, store: &Store, shelf: Arc<Shelf>, api: &Api, goes_up: bool) {
        if goes_up {
            self.tasks.spawn(upload::run(Arc::clone(&shelf), Arc::clone(&self.metrics.uploads)));
        }
        self.tasks.spawn(scrub::run(Arc::clone(&shelf)));
        self.tasks.spawn(sweep::run(store.clone(), shelf));
        let (listened, encoded) = (api.clone(), api.clone());
        self.tasks.spawn(async move { listened.so_far.forget().await });
        self.tasks.spawn(async move { encoded.transcoder.forget().await });
    }

    fn listen(&mut self, listeners: Vec<TcpListener>, api: &Api) -> Result<(), Failure> {
        let places = http::serve::places(&self.metrics.http);
        for listener in listeners {
            let listening = listener.set_nonblocking(true).and_then(|()| tokio::net::TcpListener::from_std(listener));
            let listening = listening.map_err(|error| Failure::from_io("the HTTP API", &error))?;
            self.tasks.spawn(http::serve::serve(listening, http::router(api.clone()), Arc::clone(&places)));
        }
        Ok(())
    }

    /// Takes what a reload may change.
    pub(crate) async fn reload(&self, retain: Retain, import: Option<&Path>) {
        self.retain.send_if_modified(|kept| std::mem::replace(kept, retain) != retain);
        // Its faults are logged; what runs goes on.
        let _ = self.import(import).await;
    }

    /// Applies the directory file if it is not the one applied last. Faults are in the log.
    async fn import(&self, file: Option<&Path>) -> Result<(), ImportError> {
        let outcome = match file {
            Some(file) => self.import_file(file).await,
            None => Ok(()),
        };
        self.metrics.import_failed.store(u64::from(outcome.is_err()), Relaxed);
        if let Ok(version) = snapshot::version(&self.store).await {
            self.metrics.directory_version.store(version, Relaxed);
        }
        outcome
    }

    async fn import_file(&self, file: &Path) -> Result<(), ImportError> {
        let change = match import_file(&self.store, &self.key, file).await {
            Ok(Imported::Unchanged) => return Ok(()),
            Ok(Imported::Applied(change)) => change,
            Err(error) => {
                match &error {
                    ImportError::Faults(faults) => {
                        let say = |fault| tracing::error!(event = "directory.fault", "{}: {fault}", file.display());
                        faults.iter().for_each(say);
                    }
                    ImportError::File(error) => {
                        tracing::error!(event = "directory.file", "{}: {error}", file.display());
                    }
                    ImportError::Store(error) => tracing::error!(event = "database.error", "{error}"),
                }
                return Err(error);
            }
        };
        let (tenants, phones) = (change.tenants.len(), change.phones.len());
        tracing::info!(
            event = "directory.applied",
            "the directory file was applied: {tenants} tenants, {phones} phones"
        );
        let entry = Entry {
            action: "directory.import",
            subject: format!("{tenants} tenants, {phones} phones"),
            outcome: "done",
            ..Entry::by("directory file")
        };
        if let Err(error) = audit::note_alone(&self.store, &entry).await {
            tracing::error!(event = "database.error", "{error}");
        }
        self.link.directory_changed(change).await;
        Ok(())
    }
}

/// What a first start ends with.
fn fault_of(error: ImportError, file: Option<&Path>) -> Failure {
    let file = file.unwrap_or_else(|| Path::new("")).display();
    let line = match error {
        ImportError::Faults(faults) => {
            faults.iter().map(|fault| format!("{file}: {fault}")).collect::<Vec<_>>().join("\n")
        }
        ImportError::File(error) => format!("{file}: {error}"),
        ImportError::Store(error) => return Failure::new(exit::OTHER, error.to_string()),
    };
    Failure::new(exit::CONFIG, line)
}

fn copies(figures: &[OwnedFd]) -> Result<Vec<OwnedFd>, Failure> {
    let copies = figures.iter().map(OwnedFd::try_clone).collect::<Result<_, _>>();
    copies.map_err(|error| Failure::from_io("the figures", &error))
}

/// Binds an address of the HTTP API; 75 names the port that is busy.
pub(crate) fn bind(address: SocketAddr) -> Result<TcpListener, Failure> {
    let open = || {
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
        socket.set_reuse_address(true)?;
        socket.bind(&address.into())?;
        socket.listen(HTTP_BACKLOG)?;
        Ok(TcpListener::from(socket))
    };
    open().map_err(|error| Failure::from_io(format!("the HTTP API cannot listen at {address}"), &error))
}
