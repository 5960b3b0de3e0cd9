//! The engine process from its first step to its last: what the keeper gave becomes shards, and the clerk takes over.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::RwLock;

use rustix::process::Resource;
use rustix::thread::CapabilitySet;

use crate::base::id::ShardId;
use crate::base::limit::OPEN_FILES_RESERVE;
use crate::base::limit::OPEN_FILES_RESERVE_OF_SHARD;
use crate::machine::Shared;
use crate::machine::directory::Directory;
use crate::machine::exchange::Exchange;
use crate::machine::exchange::owner;
use crate::machine::media::ports::Pair;
use crate::machine::registrar::aor_of_key;
use crate::machine::settings::Settings;
use crate::process::channel::Channel;
use crate::process::child;
use crate::process::confine;
use crate::process::confine::capabilities;
use crate::process::confine::files::Sight;
use crate::process::engine::clerk;
use crate::process::engine::clerk::Clerk;
use crate::process::engine::clerk::directory::Keeping;
use crate::process::engine::clerk::saving::Saving;
use crate::process::engine::clerk::store::Store;
use crate::process::engine::driver::Beginning;
use crate::process::engine::driver::Driver;
use crate::process::engine::events::Waiting;
use crate::process::engine::message::Message;
use crate::process::engine::received::Received;
use crate::process::engine::received::ShardHandles;
use crate::process::engine::secrets::Kept;
use crate::process::engine::settings;
use crate::process::engine::tape;
use crate::process::exit;
use crate::process::exit::Failure;
use crate::process::log;
use crate::process::plan::EngineSettings;
use crate::shard::memory::Counter;
use crate::shard::memory::Figures;
use crate::shard::mesh::Post;
use crate::shard::probe;
use crate::shard::run::Backend;
use crate::shard::run::ShardConfig;
use crate::shard::run::ShardError;
use crate::shard::run::ShardHandle;
use crate::shard::run::ShardParts;
use crate::shard::run::spawn;
use crate::shard::tape::ring::Ring;
use crate::shard::tcp::StreamLimits;
use crate::shard::udp::Slot;
use crate::shard::udp::SlotKind;
use crate::wire::control::FromChild;
use crate::wire::control::Start;

/// Returns the exit code.
pub fn run() -> u8 {
    let begun = match child::begin() {
        Ok(begun) => begun,
        Err(failure) => return child::fail_alone(&failure),
    };
    let received = match Received::sort(begun) {
        Ok(received) => received,
        Err((keeper, failure)) => return child::fail(&keeper, &failure),
    };
    let keeper = match received.keeper.try_clone() {
        Ok(keeper) => keeper,
        Err(error) => return child::fail(&received.keeper, &Failure::from_io("the keeper", &error)),
    };
    let result = serve(received);
    log::flush();
    match result {
        Ok(()) => 0,
        Err(failure) => child::fail(&keeper, &failure),
    }
}

fn serve(received: Received) -> Result<(), Failure> {
    let Received { start, settings: engine, shards, link, keeper } = received;
    // Rights and sight belong to threads: before there is a second one.
    let (dropped, seen) = (give_up_rights(&start.data), confine::files::see_only(&sight(&start, &engine)));
    log::start(&engine.log, &start.node, "engine").map_err(|error| Failure::from_io("the log", &error))?;
    one_line_a_panic();
    confine::tell(dropped, seen.map_err(|error| error.to_string()));
    let is_plain = probe_host()?;
    let in_data = |error: io::Error| Failure::from_io("the data folder", &error);
    let secrets = secrets(&start)?;
    let settings = Arc::new(settings::build(&start, &engine, secrets.secrets().clone(), shards.first()));
    let directory = Keeping::open(&start.data);
    let (store, found) = Store::open(&start.data.join("engine"), "bindings");
    let figures = shards.first().and_then(|shard| Figures::open(&shard.state, shard.shard).ok());
    if let Some(figures) = &figures {
        figures.add(Counter::BindingsDamaged, found.damaged);
    }
    let mut bindings = deal(found.entries, &settings, directory.current());
    let saving = Saving { store, directory, secrets, data: start.data.clone(), figures, failing: None };

    let mut posts = Post::mesh(shards.len()).map_err(|error| Failure::from_io("eventfd", &error))?.into_iter();
    let is_captured = engine.hep.address.is_some();
    let streams = streams(&shards);
    let (tape, rings) = tape::start(&start, &engine.tape, settings.boot, &shards)?;
    let (mut handles, waiting) = (Vec::new(), Waiting::default());
    for ((shard, post), ring) in shards.into_iter().zip(posts.by_ref()).zip(rings) {
        let own = bindings.remove(&shard.shard).unwrap_or_default();
        let streams = streams.clone();
        let place = Place { start_cpu: shard.cpu, housekeeping: start.housekeeping, is_captured, is_plain, streams };
        let tape = (ring, waiting.clone());
        let handle =
            start_shard(shard, post, tape, own, &place, &settings, saving.directory.current()).map_err(forbidden)?;
        handles.push(handle);
    }
    wait_ready(&handles, &keeper)?;
    // Every ring is made: from here on there are no others.
    confine::calls::give_up().unwrap_or_else(|line| tracing::warn!(event = "confined", "{line}"));
    #[cfg(debug_assertions)]
    confine::trial::run(&["node.key", "tipring.db", "token"].map(|name| start.data.join(name)));
    // The clerk is this thread; the shards have their own CPUs.
    child::keep_to_housekeeping(&start);
    let post = posts.next().ok_or_else(|| Failure::new(exit::OTHER, "no post for the clerk"))?;
    keeper.send(&FromChild::Ready).map_err(|error| Failure::from_io("the keeper", &error))?;
    let (boot, is_draining, hep) = (settings.boot, start.draining, engine.hep);
    let teller = tape.teller();
    let beginning =
        clerk::Beginning { boot, settings, post, keeper, link, saving, is_draining, hep, tape: teller, waiting };
    let result = Clerk::new(beginning).and_then(|mut clerk| clerk.run());
    for handle in handles {
        handle.stop();
        if let Err(error) = handle.join() {
            tracing::error!(event = "shard.failed", "{error}");
        }
    }
    tape.finish();
    result.map_err(in_data)
}

fn give_up_rights(data: &Path) -> io::Result<()> {
    let is_ours = data.metadata().is_ok_and(|data| data.uid() == rustix::process::geteuid().as_raw());
    let of_files = if is_ours { CapabilitySet::empty() } else { capabilities::of_files() };
    capabilities::keep(of_files | capabilities::of_rings())
}

/// Its own folders and files of the data folder. In the folder itself it makes and replaces files and reads none: the database and the
/// keys are none of its business.
fn sight(start: &Start, engine: &EngineSettings) -> Sight {
    let own = ["engine", "tape"].map(|name| start.data.join(name));
    for folder in &own {
        // What cannot be made now is said by who needs it.
        let _ = std::fs::create_dir_all(folder);
    }
    let sight = Sight {
        reads: ["secrets", "directory.snapshot"].map(|name| start.data.join(name)).to_vec(),
        writes: own.to_vec(),
        fills: vec![start.data.clone()],
    };
    sight.with_log(engine.log.file.as_deref())
}

/// Damaged secrets are a failed start. Later, when they are damaged under a node that serves, they are replaced: phones that wait
/// are worse off than phones that are challenged anew.
fn secrets(start: &Start) -> Result<Kept, Failure> {
    let failed = |error: io::Error| Failure::from_io("the secrets", &error);
    let mut secrets = Kept::open(&start.data).or_else(|error| {
        if start.generation <= 1 {
            return Err(failed(error));
        }
        tracing::error!(event = "secrets.damaged", "{error}; this node serves: they are made anew");
        Kept::new(&start.data).map_err(failed)
    })?;
    // A disk that does not take them is the clerk's matter.
    let _ = secrets.sync();
    Ok(secrets)
}

/// Whether datagrams must go the plain way here; what forbids both is a failed start.
fn probe_host() -> Result<bool, Failure> {
    let (backend, reason) = probe::backend().map_err(|fault| Failure::new(exit::FORBIDDEN, fault.to_string()))?;
    if let Some(reason) = reason {
        tracing::warn!(event = "ring.unusable", "datagrams go by recvmmsg, which costs more CPU: {reason}");
    }
    Ok(backend == Backend::Plain)
}

/// A panic ends one call, and says where it was in one line: a backtrace would hold up the shard.
fn one_line_a_panic() {
    std::panic::set_hook(Box::new(|panic| {
        let place = panic.location().map(ToString::to_string).unwrap_or_default();
        tracing::error!(event = "fault", "a fault of ours at {place}");
    }));
}

/// The bindings of each shard: their number may differ from that of the last life.
fn deal(
    bindings: BTreeMap<Vec<u8>, Vec<u8>>,
    settings: &Settings,
    directory: &Directory,
) -> BTreeMap<ShardId, Vec<Vec<u8>>> {
    let mut dealt: BTreeMap<ShardId, Vec<Vec<u8>>> = BTreeMap::new();
    for (key, value) in bindings {
        if let Some(aor) = aor_of_key(&key) {
            let shard = owner::shard_of(&aor, Shared { settings, directory });
            dealt.entry(shard).or_default().push(value);
        }
    }
    dealt
}

/// The CPUs of a shard and of what helps it.
struct Place {
    start_cpu: Option<u16>,
    housekeeping: Option<u16>,
    is_captured: bool,
    /// Datagrams go by recvmmsg.
    is_plain: bool,
    streams: StreamLimits,
}

/// A shard's share of the connections that the limit of open files allows beside the ports and what the tape and the clerk open.
fn streams(shards: &[ShardHandles]) -> StreamLimits {
    let files = rustix::process::getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    let sockets = |shard: &ShardHandles| shard.rtp.len() * 2 + shard.sip_udp.len() + shard.sip_tcp.len() + 1;
    let held = shards.iter().map(sockets).sum::<usize>() as u64;
    StreamLimits::default().with_connections(share_of_files(files, held, shards.len() as u64))
}

fn share_of_files(files: u64, held: u64, shards: u64) -> u32 {
    let reserve = OPEN_FILES_RESERVE + OPEN_FILES_RESERVE_OF_SHARD * shards;
    let left = files.saturating_sub(held + reserve) / shards.max(1);
    u32::try_from(left).unwrap_or(u32::MAX).max(1)
}

fn start_shard(
    handles: ShardHandles,
    post: Post<Message>,
    (tape, waiting): (Ring, Waiting),
    bindings: Vec<Vec<u8>>,
    place: &Place,
    settings: &Arc<Settings>,
    directory: &Arc<Directory>,
) -> Result<ShardHandle, ShardError> {
    let ShardHandles { shard, sip_udp, sip_tcp, rtp, state, .. } = handles;
    let figures = Figures::open(&state, shard).map_err(|error| ShardError::Executor(error.to_string()))?;
    let mut pairs = Vec::with_capacity(rtp.len());
    let mut sockets: Vec<(Slot, OwnedFd, SlotKind)> = Vec::with_capacity(rtp.len() * 2 + sip_udp.len());
    let mut slot = 0;
    for pair in rtp {
        let address = |port| SocketAddr::new(pair.address, port);
        pairs.push(Pair { interface: pair.interface, rtp: address(pair.port), rtcp: address(pair.port + 1) });
        sockets.push((slot, pair.rtp, SlotKind::Rtp));
        sockets.push((slot + 1, pair.rtcp, SlotKind::Rtp));
        slot += 2;
    }
    let sip_slots_from = slot;
    let udp_listeners = sip_udp.len() as u8;
    sockets.extend((sip_slots_from..).zip(sip_udp).map(|(slot, sip)| (slot, sip.socket, SlotKind::Sip)));
    let listeners = sip_tcp.into_iter().map(|sip| sip.socket).collect();

    let mut config = ShardConfig { cpu: place.start_cpu.map(usize::from), ..ShardConfig::default() };
    config.plain = place.is_plain;
    // Of this shard alone, so that nobody waits for anybody.
    let newest = Arc::new(RwLock::new(Arc::clone(settings)));
    let trusting = Arc::clone(&newest);
    let trusted = move |source| trusting.read().is_ok_and(|settings| settings.is_trusted(source));
    config.streams = StreamLimits { trusted: Arc::new(trusted), ..place.streams.clone() };
    config.housekeeping = place.housekeeping.map(usize::from);
    config.ring.slots_max = sockets.len() as u32;
    let parts = ShardParts { figures, post, sockets, listeners };
    let is_captured = place.is_captured;
    let (settings, directory) = (Arc::clone(settings), Arc::clone(directory));
    let mut seed = [0; 8];
    getrandom::fill(&mut seed).map_err(|error| ShardError::Executor(error.to_string()))?;
    spawn(config, parts, move |now| {
        let mut exchange = Exchange::new(shard, u64::from_le_bytes(seed), pairs, &settings, now);
        exchange.restore_bindings(&bindings, &settings, now);
        let beginning = Beginning {
            shard,
            exchange,
            settings,
            newest,
            directory,
            sip_slots_from,
            udp_listeners,
            is_captured,
            tape,
            waiting,
        };
        Driver::new(beginning, now)
    })
}

fn wait_ready(handles: &[ShardHandle], keeper: &Channel) -> Result<(), Failure> {
    for handle in handles {
        handle.wait_ready().map_err(forbidden)?;
        keeper.send(&FromChild::Working).map_err(|error| Failure::from_io("the keeper", &error))?;
    }
    Ok(())
}

fn forbidden(error: ShardError) -> Failure {
    Failure::new(exit::FORBIDDEN, error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_get_what_ports_and_tape_leave() {
        assert_eq!(share_of_files(1_024, 768, 1), 160);
        assert_eq!(share_of_files(1_048_576, 66_000, 2), 491_224);
        assert_eq!(share_of_files(256, 512, 1), 1);
        let small = StreamLimits::default().with_connections(160);
        assert_eq!((small.connections_max, small.per_source_max, small.per_network_max), (160, 40, 80));
        let large = StreamLimits::default().with_connections(491_224);
        assert_eq!((large.connections_max, large.per_source_max), (32_768, 1_024));
    }
}
