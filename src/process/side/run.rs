//! The side process from its first step to its last: it does what the keeper says.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::process::channel::Channel;
use crate::process::channel::Wait;
use crate::process::child;
use crate::process::child::Begun;
use crate::process::config::Recordings;
use crate::process::confine;
use crate::process::confine::capabilities;
use crate::process::exit;
use crate::process::exit::Failure;
use crate::process::log;
use crate::process::plan::SideSettings;
use crate::process::side::mirror::Readiness;
use crate::process::side::node;
use crate::process::side::node::Node;
use crate::process::side::node::Settings;
use crate::process::side::opening::Unopened;
use crate::process::side::recording::objects::Objects;
#[cfg(feature = "s3")]
use crate::process::side::recording::s3::Bucket;
use crate::process::side::sight;
use crate::process::side::waiting::Waiting;
use crate::wire::control::FromChild;
use crate::wire::control::Passed;
use crate::wire::control::ToChild;

/// A large directory takes long to import: the keeper is told that it goes on.
const WORKING_EVERY: Duration = Duration::from_secs(1);
/// How long side waits for the engine before it says that it is ready without it.
const ENGINE_WAIT_MAX: Duration = Duration::from_secs(2);
/// The same while the directory is on its way to it.
const DIRECTORY_WAIT_MAX: Duration = Duration::from_secs(120);
const ENGINE_LOOK_EVERY: Duration = Duration::from_millis(5);
const FRAMES_MAX: usize = 16;

/// Returns the exit code.
pub fn run() -> u8 {
    let begun = match child::begin() {
        Ok(begun) => begun,
        Err(failure) => return child::fail_alone(&failure),
    };
    let keeper = match begun.keeper.try_clone() {
        Ok(keeper) => keeper,
        Err(error) => return child::fail_alone(&Failure::from_io("the keeper", &error)),
    };
    match serve(begun) {
        Ok(()) => {
            log::flush();
            0
        }
        Err(failure) => {
            log::flush();
            child::fail(&keeper, &failure)
        }
    }
}

fn serve(begun: Begun) -> Result<(), Failure> {
    let Begun { start, latest, handles, keeper } = begun;
    let settings = decode(&start.settings)?;
    child::keep_to_housekeeping(&start);
    child::give_way_to_engine();
    let listeners = settings.http.iter().map(|address| node::bind(*address)).collect::<Result<Vec<_>, _>>()?;
    let latest = latest.as_deref().map(decode).transpose()?;
    let sight = sight::of(&start.data, latest.as_ref().unwrap_or(&settings));
    // Rights and sight belong to threads: before there is a second one.
    let (rights, seen) = (capabilities::keep(capabilities::of_files()), confine::files::see_only(&sight));
    log::start(&settings.log, &start.node, "side").map_err(lost)?;
    confine::tell(rights, seen.map_err(|error| error.to_string()));
    confine::calls::give_up().unwrap_or_else(|line| tracing::warn!(event = "confined", "{line}"));
    #[cfg(debug_assertions)]
    confine::trial::run(&["/usr/bin/env"]);
    let data = start.data.clone();
    let state = || {
        let is_state = |(passed, _): &&(Passed, Vec<OwnedFd>)| matches!(passed, Passed::State { .. });
        let files = handles.iter().filter(is_state).filter_map(|(_, descriptors)| descriptors.first());
        files.map(OwnedFd::try_clone).collect::<io::Result<Vec<_>>>().map_err(lost)
    };
    let (figures, waiting) = (state()?, Waiting::new(&start.data, &listeners, state()?, settings.hardware.clone())?);
    let own = Settings {
        node: start.node,
        data: start.data,
        link: start.run.join("link.sock"),
        retain: settings.retain,
        import: settings.directory.import,
        first_start: start.generation <= 1,
        objects: objects(&settings.recordings)?,
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::from_io("the runtime", &error))?;
    runtime.block_on(async {
        let mut starting = std::pin::pin!(Node::start(own, listeners, figures));
        let started = loop {
            tokio::select! {
                started = &mut starting => break started,
                () = tokio::time::sleep(WORKING_EVERY) => keeper.send(&FromChild::Working).map_err(lost)?,
            }
        };
        let node = match started {
            Ok(node) => {
                drop(waiting);
                node.metrics.on_hardware(settings.hardware.clone());
                node
            }
            Err(Unopened::Failed(failure)) => return Err(failure),
            Err(Unopened::Database(failure)) => {
                keeper.send(&FromChild::Ready).map_err(lost)?;
                return waiting.run(&failure, listen(keeper).map_err(lost)?).await;
            }
        };
        // Who is told "ready" will call at once: the engine has to know the phones by then.
        let mut serving = std::pin::pin!(engine_serves(&node));
        loop {
            tokio::select! {
                () = &mut serving => break,
                () = tokio::time::sleep(WORKING_EVERY) => keeper.send(&FromChild::Working).map_err(lost)?,
            }
        }
        keeper.send(&FromChild::Ready).map_err(lost)?;
        obey(&keeper, &node, |settings| sight.covers(&sight::of(&data, settings))).await
    })
}

#[cfg(feature = "s3")]
fn objects(recordings: &Recordings) -> Result<Option<Arc<dyn Objects>>, Failure> {
    let Recordings::S3(settings) = recordings else { return Ok(None) };
    let bucket = Bucket::new(settings).map_err(|error| Failure::new(exit::CONFIG, error.to_string()))?;
    Ok(Some(Arc::new(bucket)))
}

#[cfg(not(feature = "s3"))]
fn objects(recordings: &Recordings) -> Result<Option<Arc<dyn Objects>>, Failure> {
    match recordings {
        Recordings::Folder => Ok(None),
        // The configuration was refused before.
        Recordings::S3(_) => Err(Failure::new(exit::CONFIG, "this build has no object stores")),
    }
}

/// Until the engine knows the directory; not for long if there is no engine.
async fn engine_serves(node: &Node) {
    let began = Instant::now();
    loop {
        let patience = match node.mirror.readiness() {
            Readiness::Down => ENGINE_WAIT_MAX,
            Readiness::Starting => DIRECTORY_WAIT_MAX,
            Readiness::Draining | Readiness::Ready => return,
        };
        if began.elapsed() > patience {
            return;
        }
        tokio::time::sleep(ENGINE_LOOK_EVERY).await;
    }
}

/// Until the keeper says stop, or is gone.
async fn obey(keeper: &Channel, node: &Node, sees: impl Fn(&SideSettings) -> bool) -> Result<(), Failure> {
    let mut frames = listen(keeper.try_clone().map_err(lost)?).map_err(lost)?;
    while let Some(frame) = frames.recv().await {
        match frame.map_err(lost)? {
            ToChild::Stop { .. } => return Ok(()),
            // The keeper starts another one, which may see them.
            ToChild::Settings(settings) if decode(&settings).is_ok_and(|settings| !sees(&settings)) => {
                return Err(Failure::new(0, "the configuration names files elsewhere: side begins anew"));
            }
            frame => on_frame(node, frame).await,
        }
    }
    Err(Failure::new(exit::OTHER, "the keeper is gone"))
}

/// The keeper's socket has whole messages with descriptors, which tokio does not read: a thread does.
fn listen(keeper: Channel) -> io::Result<mpsc::Receiver<io::Result<ToChild>>> {
    let (sender, frames) = mpsc::channel(FRAMES_MAX);
    std::thread::Builder::new().name("keeper".to_owned()).spawn(move || {
        loop {
            let received = keeper.receive::<ToChild>(Wait::Yes);
            let is_last = !matches!(received, Ok(Some(_)));
            if let Some(frame) = received.transpose()
                && sender.blocking_send(frame.map(|(frame, _)| frame)).is_err()
            {
                return;
            }
            if is_last {
                return;
            }
        }
    })?;
    Ok(frames)
}

async fn on_frame(node: &Node, frame: ToChild) {
    match frame {
        ToChild::Settings(settings) => match decode(&settings) {
            Ok(settings) => {
                log::set(&settings.log);
                node.metrics.on_hardware(settings.hardware);
                node.reload(settings.retain, settings.directory.import.as_deref()).await;
            }
            Err(failure) => tracing::error!(event = "reload.failed", "{failure}"),
        },
        ToChild::Status(status) => {
            node.mirror.on_keeper_draining(status.draining || status.stopping);
            node.metrics.on_status(*status);
        }
        ToChild::ReopenLogs => log::reopen(),
        _ => {}
    }
}

pub(super) fn decode(settings: &[u8]) -> Result<SideSettings, Failure> {
    postcard::from_bytes(settings).map_err(|_| Failure::new(exit::OTHER, "the keeper passed no settings"))
}

fn lost(error: io::Error) -> Failure {
    Failure::from_io("the keeper", &error)
}
