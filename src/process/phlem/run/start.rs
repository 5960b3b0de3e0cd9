//! From a scenario to running threads: the server's address, sockets and their limits, phones dealt to threads.

use std::net::IpAddr;
use std::net::SocketAddr;
use std::net::ToSocketAddrs;
use std::net::UdpSocket;
use std::os::fd::OwnedFd;
use std::time::Duration;

use crate::base::id::ShardId;
use crate::base::random::Random;
use crate::base::time::Instant;
use crate::process::clock;
use crate::process::phlem::media::Speech;
use crate::process::phlem::phone::Phone;
use crate::process::phlem::phone::Ports;
use crate::process::phlem::phone::Settings;
use crate::process::phlem::run::PhlemError;
use crate::process::phlem::run::RunOptions;
use crate::process::phlem::run::Share;
use crate::process::phlem::run::floor::Floor;
use crate::process::phlem::run::floor::Note;
use crate::process::phlem::run::legs::Legs;
use crate::process::phlem::run::legs::Sounds;
use crate::process::phlem::run::sockets;
use crate::process::phlem::run::sockets::Needs;
use crate::process::phlem::run::wait_until;
use crate::process::phlem::scenario::Scenario;
use crate::shard::memory;
use crate::shard::memory::Counter;
use crate::shard::mesh::Member;
use crate::shard::mesh::Post;
use crate::shard::probe;
use crate::shard::run::Backend;
use crate::shard::run::ShardConfig;
use crate::shard::run::ShardError;
use crate::shard::run::ShardHandle;
use crate::shard::run::ShardParts;
use crate::shard::run::spawn;
use crate::shard::udp::Slot;
use crate::shard::udp::SlotKind;
use crate::wire::g711::Law;

/// Fewer phones and calls a second than these are one thread's work.
const PHONES_OF_ONE_THREAD: u32 = 2_000;
const RATE_OF_ONE_THREAD: f64 = 100.0;
const SIP_PORT: u16 = 5060;
/// Signalling messages that a thread takes from the kernel before it must give buffers back.
const SIP_BUFFERS: u16 = 1_024;
const QUIRK_SEED: u64 = 0x7175_6972_6b73;

/// Running threads.
pub(super) struct Started {
    pub(super) server: String,
    pub(super) threads: Vec<ShardHandle>,
    pub(super) post: Post<Note>,
    pub(super) notes: Vec<String>,
    pages: Vec<memory::Figures>,
    begun: Instant,
}

impl Started {
    pub(super) fn elapsed(&self) -> Duration {
        clock::instant().since(self.begun)
    }

    pub(super) fn stop(&self) {
        for shard in 0..self.threads.len() {
            // Its queue holds nothing else.
            let _ = self.post.try_send(Member::Shard(ShardId(shard as u8)), Note::Stop);
        }
    }

    /// Returns what the figures do not say: drops in the kernel and the like.
    pub(super) fn end(self) -> Result<Vec<String>, PhlemError> {
        for thread in self.threads {
            thread.stop();
            thread.join().map_err(|_| PhlemError::Died)?;
        }
        let count = |counter| -> u64 { self.pages.iter().map(|page| page.count(counter)).sum() };
        let mut notes = Vec::new();
        for (counter, what) in [
            (Counter::UdpKernelDrops, "datagrams were dropped by the kernel at full buffers of the emulator's sockets"),
            (Counter::UdpSendAgain, "datagrams could not be sent because a socket's buffer was full"),
            (Counter::UdpSendRefused, "datagrams were refused by the receiving host (ICMP)"),
            (Counter::MeshFull, "times the figures of a thread waited for the live view"),
        ] {
            if count(counter) > 0 {
                notes.push(format!("{} {what}", count(counter)));
            }
        }
        Ok(notes)
    }
}

pub(super) fn start(mut scenario: Scenario, options: &RunOptions) -> Result<Started, PhlemError> {
    if let Some(server) = &options.server {
        scenario.server.clone_from(server);
    }
    scenario.seed = options.seed.unwrap_or(scenario.seed);
    let named = scenario.server.clone();
    let (server, server_host) = resolve(&named)?;
    let local = options.local.map_or_else(|| local_address(server), Ok)?;
    let cpus = cpus(&scenario, options);
    let width = options.share.to - options.share.from;
    let needs = Needs::of(&scenario, width, cpus.len());
    needs.make_room(cpus.len())?;
    let is_plain = probe_host()?;
    let sounds = load_speech(&scenario)?;
    let mut posts = Post::mesh(cpus.len()).map_err(|error| PhlemError::Os("eventfd", error))?;
    let post = posts.pop().ok_or(PhlemError::Died)?;
    let mut notes = vec![shared_note(&scenario, options.share, cpus.len(), &needs)];
    if is_plain {
        notes.push("datagrams went by recvmmsg and sendmmsg: the io_uring of this host does not do".to_owned());
    }
    let mut prepared = Vec::new();
    for (thread, post) in posts.into_iter().enumerate() {
        let place = Place { thread, threads: cpus.len(), cpu: cpus[thread], is_plain };
        let world = World { scenario: &scenario, server, server_host: &server_host, local, needs, sounds: &sounds };
        prepared.push(prepare(&world, &place, post, options)?);
    }
    if let Some(at) = options.start_at {
        wait_until(at, &options.stop);
    }
    let begun = clock::instant();
    let mut threads = Vec::new();
    let mut pages = Vec::new();
    for Prepared { config, parts, page, floor } in prepared {
        pages.push(page);
        threads.push(spawn(config, parts, floor).map_err(|error| forbidden(&error))?);
    }
    for thread in &threads {
        thread.wait_ready().map_err(|error| forbidden(&error))?;
    }
    Ok(Started { server: named, threads, post, notes, pages, begun })
}

fn forbidden(error: &ShardError) -> PhlemError {
    PhlemError::Forbidden(error.to_string())
}

fn probe_host() -> Result<bool, PhlemError> {
    let (backend, _) = probe::backend().map_err(|fault| PhlemError::Forbidden(fault.to_string()))?;
    Ok(backend == Backend::Plain)
}

/// The first address of a name, and the host as it was named.
fn resolve(server: &str) -> Result<(SocketAddr, String), PhlemError> {
    let text = server.trim().trim_start_matches("sip:");
    let fault = |reason: &str| PhlemError::Server(server.to_owned(), reason.to_owned());
    let Some((host, port)) = crate::process::phlem::sip::value::host_port_of(text) else {
        return Err(fault("is no host:port"));
    };
    let bare = host.trim_matches(['[', ']']);
    let mut found = (bare, port.unwrap_or(SIP_PORT)).to_socket_addrs().map_err(|error| fault(&error.to_string()))?;
    let address = found.next().ok_or_else(|| fault("has no address"))?;
    Ok((address, host.to_owned()))
}

/// The address that the kernel would send from.
fn local_address(server: SocketAddr) -> Result<IpAddr, PhlemError> {
    let any: SocketAddr = if server.is_ipv4() { ([0, 0, 0, 0], 0).into() } else { ([0u16; 8], 0).into() };
    let found = UdpSocket::bind(any).and_then(|socket| {
        socket.connect(server)?;
        socket.local_addr()
    });
    let fault = |error: std::io::Error| PhlemError::Server(server.to_string(), format!("no way there: {error}"));
    found.map(|address| address.ip()).map_err(fault)
}

/// A CPU for each thread; none: wherever the kernel likes.
pub(in crate::process::phlem) fn cpus(scenario: &Scenario, options: &RunOptions) -> Vec<Option<usize>> {
    if !options.cpus.is_empty() {
        return options.cpus.iter().map(|cpu| Some(*cpu)).collect();
    }
    let width = options.share.to - options.share.from;
    let peak = |curve: &[f64]| curve.iter().copied().fold(1.0, f64::max);
    let rate: f64 = scenario.calls.iter().map(|calls| calls.rate * peak(&calls.curve)).sum();
    let is_small =
        f64::from(scenario.phones()) * width < f64::from(PHONES_OF_ONE_THREAD) && rate * width < RATE_OF_ONE_THREAD;
    let allowed = rustix::thread::sched_getaffinity(None)
        .map(|set| (0..rustix::thread::CpuSet::MAX_CPU).filter(|cpu| set.is_set(*cpu)).map(Some).collect::<Vec<_>>())
        .unwrap_or_default();
    if is_small || allowed.len() < 2 { vec![None] } else { allowed }
}

fn shared_note(scenario: &Scenario, share: Share, threads: usize, needs: &Needs) -> String {
    let phones = (f64::from(scenario.phones()) * (share.to - share.from)).round();
    format!(
        "{phones} phones on {threads} {}; phones over UDP share {} sockets for signalling, {} ports are for audio",
        if threads == 1 { "thread" } else { "threads" },
        needs.signalling * threads,
        needs.ports * threads
    )
}

fn load_speech(scenario: &Scenario) -> Result<Sounds, PhlemError> {
    let load = |file: &String| -> Result<Option<[Speech; 2]>, PhlemError> {
        match file.as_str() {
            "" => return Ok(None),
            "greeting" => return Ok(Some([Speech::greeting(Law::Mu), Speech::greeting(Law::A)])),
            _ => {}
        }
        let bad = |reason: String| PhlemError::Speech(file.clone(), reason);
        let bytes = std::fs::read(file).map_err(|error| bad(error.to_string()))?;
        let of = |law| Speech::from_wav(&bytes, law).map_err(|error| bad(error.to_string()));
        Ok(Some([of(Law::Mu)?, of(Law::A)?]))
    };
    let sounds: Result<Vec<_>, _> = scenario.populations.iter().map(|population| load(&population.speech)).collect();
    sounds.map(Sounds)
}

struct World<'a> {
    scenario: &'a Scenario,
    server: SocketAddr,
    server_host: &'a str,
    local: IpAddr,
    needs: Needs,
    sounds: &'a Sounds,
}

struct Place {
    thread: usize,
    threads: usize,
    cpu: Option<usize>,
    is_plain: bool,
}

struct Prepared<F> {
    config: ShardConfig,
    parts: ShardParts<Note>,
    page: memory::Figures,
    floor: F,
}

fn prepare(
    world: &World<'_>,
    place: &Place,
    post: Post<Note>,
    options: &RunOptions,
) -> Result<Prepared<impl FnOnce(crate::base::time::Now) -> Floor + Send + 'static + use<>>, PhlemError> {
    let (mut sockets, mut addresses): (Vec<(Slot, OwnedFd, SlotKind)>, _) = (Vec::new(), Vec::new());
    for slot in 0..world.needs.ports {
        let bound = sockets::media(world.local)?;
        addresses.push(bound.address);
        sockets.push((slot as Slot, bound.socket, SlotKind::Rtp));
    }
    let signalling_from = sockets.len() as Slot;
    let mut signalling = Vec::new();
    for number in 0..world.needs.signalling {
        let bound = sockets::signalling(world.local)?;
        signalling.push(bound.address);
        sockets.push((signalling_from + number as Slot, bound.socket, SlotKind::Sip));
    }
    let settings = Settings {
        scenario: world.scenario.clone(),
        server: world.server,
        server_host: world.server_host.to_owned(),
        boot: boot()?,
        silent: signalling.first().copied().unwrap_or(world.server),
        signalling: signalling.iter().map(ToString::to_string).collect(),
        signalling_from,
    };
    let page = || -> Result<_, memory::MemoryError> {
        let file = memory::create_file("phlem", memory::STATE_OFFSET as u64)?;
        let own = memory::Figures::open(&file, ShardId(place.thread as u8))?;
        Ok((own, memory::Figures::read(&file)?))
    };
    let (figures, page) = page().map_err(|error| PhlemError::Forbidden(error.to_string()))?;
    let mut config = ShardConfig { cpu: place.cpu, plain: place.is_plain, ..ShardConfig::default() };
    config.ring.slots_max = sockets.len() as u32;
    config.ring.sip_buffers = SIP_BUFFERS;
    config.streams.connections_max = u32::try_from(world.needs.connections).unwrap_or(u32::MAX).saturating_add(16);
    let phones = deal(world.scenario, options.share, place);
    let ports = addresses.len();
    let (sounds, one_clock) = (world.sounds.clone(), options.share == Share::ALL);
    let (keeps, is_endless) = (options.record.is_some(), options.endless);
    let seed = world.scenario.seed ^ (place.thread as u64) << 56;
    let floor = move |now| {
        let mut random = Random::new(seed);
        let legs = Legs::new(ports, sounds, one_clock, keeps, Random::new(random.next_u64()));
        Floor::new(settings, phones, Ports::new(addresses), legs, random, is_endless, now)
    };
    let parts = ShardParts { figures, post, sockets, listeners: Vec::new() };
    Ok(Prepared { config, parts, page, floor })
}

fn boot() -> Result<u64, PhlemError> {
    let mut bytes = [0; 8];
    getrandom::fill(&mut bytes).map_err(|error| PhlemError::Forbidden(error.to_string()))?;
    Ok(u64::from_le_bytes(bytes) >> 24)
}

/// The phones of one thread: every so-many-th of this machine's, so that each population is on every thread.
fn deal(scenario: &Scenario, share: Share, place: &Place) -> Vec<Phone> {
    let mut phones = Vec::new();
    for (number, population) in scenario.populations.iter().enumerate() {
        let count = f64::from(population.users.count());
        let (from, to) = ((count * share.from).round() as u32, (count * share.to).round() as u32);
        for member in (from..to).filter(|member| *member as usize % place.threads == place.thread) {
            // The same phone has the same quirk and seed on whatever thread and machine it is.
            let seed = scenario.seed ^ (number as u64) << 40 ^ u64::from(member) << 8;
            let mut random = Random::new(seed ^ QUIRK_SEED);
            let is_quirky = (random.below(1 << 32) as f64) < population.quirky * (1u64 << 32) as f64;
            let quirk = population.quirks.get(member as usize % population.quirks.len().max(1)).copied();
            let quirk = quirk.filter(|_| is_quirky);
            phones.push(Phone::new(phones.len() as u32, number as u16, member, quirk, random));
        }
    }
    phones.shrink_to_fit();
    phones
}
