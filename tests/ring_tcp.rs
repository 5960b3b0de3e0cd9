//! SIP over TCP on the loop of a shard: whole messages in, whatever the pieces; limits, deadlines and slow readers.
#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "a test on real sockets: it fails by panicking, and takes time"
)]

use std::io::Read;
use std::io::Write;
use std::net::SocketAddr;
use std::net::TcpListener;
use std::net::TcpStream;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;
use std::time::Instant as Stopwatch;

use tipring::base::id::Handle;
use tipring::base::id::ShardId;
use tipring::base::random::Random;
use tipring::base::time::Instant;
use tipring::base::time::Now;
use tipring::shard::memory::Counter;
use tipring::shard::memory::Figures;
use tipring::shard::memory::STATE_OFFSET;
use tipring::shard::memory::create_file;
use tipring::shard::mesh::Member;
use tipring::shard::mesh::Post;
use tipring::shard::run::Effects;
use tipring::shard::run::Flow;
use tipring::shard::run::OWN_CONNECTION;
use tipring::shard::run::ShardConfig;
use tipring::shard::run::ShardHandle;
use tipring::shard::run::ShardMachine;
use tipring::shard::run::ShardParts;
use tipring::shard::run::Verdict;
use tipring::shard::run::spawn;
use tipring::shard::tcp::StreamLimits;
use tipring::shard::udp::Slot;
use tipring::shard::udp::ring::RingConfig;

/// Returns every message to its connection; BYE is answered and closes, MESSAGE is answered a thousandfold.
struct Echo {
    out: Vec<(Handle, Vec<u8>)>,
    close: Vec<Handle>,
    keep: Vec<Handle>,
    closed: Arc<AtomicU64>,
}

impl ShardMachine for Echo {
    type Message = ();

    fn on_rtp(&mut self, _slot: Slot, _source: SocketAddr, _bytes: &mut [u8], _now: Now) -> Verdict {
        Verdict::Drop
    }

    fn on_sip(&mut self, flow: Flow, bytes: &[u8], _now: Now) {
        let Flow::Tcp { connection, .. } = flow else { return };
        let copies = if bytes.starts_with(b"MESSAGE") { 1_000 } else { 1 };
        for _ in 0..copies {
            self.out.push((connection, bytes.to_vec()));
        }
        if bytes.starts_with(b"BYE") {
            self.close.push(connection);
        }
        if bytes.starts_with(b"REGISTER") {
            self.keep.push(connection);
        }
    }

    fn on_closed(&mut self, _connection: Handle, _now: Now) {
        self.closed.fetch_add(1, Relaxed);
    }

    fn on_message(&mut self, _from: Member, _message: (), _now: Now) {}

    fn handle_timeout(&mut self, _now: Now) {}

    fn next_deadline(&self) -> Option<Instant> {
        None
    }

    fn drain(&mut self, effects: &mut impl Effects<()>) {
        for (connection, bytes) in self.out.drain(..) {
            effects.send_tcp(connection, &bytes);
        }
        for connection in self.close.drain(..) {
            effects.close_tcp(connection);
        }
        for connection in self.keep.drain(..) {
            effects.keep_tcp(connection);
        }
    }
}

struct World {
    shard: ShardHandle,
    figures: Figures,
    address: SocketAddr,
    closed: Arc<AtomicU64>,
}

impl World {
    fn new(plain: bool, streams: StreamLimits) -> Self {
        let ring = RingConfig {
            slots_max: 16,
            sq_entries: 256,
            cq_entries: 4_096,
            rtp_buffers: 64,
            rtp_buffers_hot: 64,
            sip_buffers: 16,
            ..RingConfig::default()
        };
        let mut posts = Post::mesh(1).unwrap();
        posts.truncate(1);
        let memory = create_file("test", STATE_OFFSET as u64).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap();
        let parts = ShardParts {
            figures: Figures::open(&memory, ShardId(0)).unwrap(),
            post: posts.remove(0),
            sockets: Vec::new(),
            listeners: vec![OwnedFd::from(listener)],
        };
        let closed = Arc::new(AtomicU64::new(0));
        let told = Arc::clone(&closed);
        let config = ShardConfig { ring, streams, plain, ..ShardConfig::default() };
        let shard =
            spawn(config, parts, move |_| Echo { out: Vec::new(), close: Vec::new(), keep: Vec::new(), closed: told });
        let shard = shard.unwrap();
        shard.wait_ready().unwrap();
        Self { shard, figures: Figures::read(&memory).unwrap(), address, closed }
    }

    fn phone(&self) -> TcpStream {
        let stream = TcpStream::connect(self.address).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        stream.set_nodelay(true).unwrap();
        stream
    }

    fn await_closed(&self, count: u64) {
        let begin = Stopwatch::now();
        while self.closed.load(Relaxed) < count {
            assert!(begin.elapsed() < Duration::from_secs(10), "{} closed", self.closed.load(Relaxed));
            std::thread::sleep(Duration::from_millis(2));
        }
        assert_eq!(self.closed.load(Relaxed), count);
    }

    fn stop(self) {
        self.shard.stop();
        self.shard.join().unwrap();
    }
}

fn message(method: &str, body_len: usize) -> Vec<u8> {
    let mut text =
        format!("{method} sip:a@b.test SIP/2.0\r\nCall-ID: {body_len}\r\nContent-Length: {body_len}\r\n\r\n")
            .into_bytes();
    text.resize(text.len() + body_len, b'x');
    text
}

/// True if the peer closed; what came before is dropped.
fn is_closed(stream: &mut TcpStream) -> bool {
    let mut rest = Vec::new();
    match stream.read_to_end(&mut rest) {
        Ok(_) => true,
        Err(error) => error.kind() == std::io::ErrorKind::ConnectionReset,
    }
}

#[test]
fn messages_are_whole_whatever_the_pieces() {
    for plain in [false, true] {
        let world = World::new(plain, StreamLimits::default());
        let mut stream = world.phone();
        let mut sent = Vec::new();
        for body_len in [0, 1, 300, 5_000, 60_000, 0, 17, 64_000, 2] {
            sent.extend(message("OPTIONS", body_len));
        }
        let mut random = Random::new(9);
        let mut answer = vec![0; sent.len()];
        let mut writer = stream.try_clone().unwrap();
        let bytes = sent.clone();
        let writing = std::thread::spawn(move || {
            let mut rest = bytes.as_slice();
            while !rest.is_empty() {
                let scale = 1 << random.below(16);
                let (piece, later) = rest.split_at(rest.len().min(1 + random.below(scale) as usize));
                writer.write_all(piece).unwrap();
                rest = later;
                if random.chance(1, 8) {
                    std::thread::sleep(Duration::from_micros(300));
                }
            }
        });
        stream.read_exact(&mut answer).unwrap();
        writing.join().unwrap();
        assert!(answer == sent);
        assert_eq!(world.figures.count(Counter::TcpMessages), 9);
        // A ping, a half one, and a message behind.
        stream.write_all(b"\r\n\r\n\r\n").unwrap();
        stream.write_all(&message("OPTIONS", 0)).unwrap();
        let mut answer = vec![0; 2 + message("OPTIONS", 0).len()];
        stream.read_exact(&mut answer).unwrap();
        assert!(answer.starts_with(b"\r\nOPTIONS"));
        drop(stream);
        world.await_closed(1);
        world.stop();
    }
}

#[test]
fn broken_streams_and_ends_are_closed() {
    let world = World::new(false, StreamLimits::default());
    let mut garbage = world.phone();
    garbage.write_all(b"\0\0\0\0").unwrap();
    assert!(is_closed(&mut garbage));
    // The head that cannot be read on is handed over once, and answered.
    let mut broken = world.phone();
    let head = b"INVITE sip:a@b.test SIP/2.0\r\nContent-Length: many\r\n\r\nmore and more";
    broken.write_all(head).unwrap();
    let mut answer = Vec::new();
    let _ = broken.read_to_end(&mut answer);
    assert_eq!(answer, head[..head.len() - 13]);
    let mut farewell = world.phone();
    let bye = message("BYE", 10);
    farewell.write_all(&bye).unwrap();
    let mut answer = Vec::new();
    farewell.read_to_end(&mut answer).unwrap();
    assert_eq!(answer, bye);
    world.await_closed(3);
    assert_eq!(world.figures.count(Counter::TcpClosedFraming), 2);
    assert_eq!(world.figures.count(Counter::TcpClosedOurs), 1);
    world.stop();
}

#[test]
fn strangers_and_crowds_are_limited() {
    let limits = StreamLimits {
        connections_max: 6,
        per_source_max: 4,
        first_message: Duration::from_millis(1_200),
        stranger_idle: Duration::from_millis(1_200),
        ..StreamLimits::default()
    };
    let world = World::new(false, limits.clone());
    // The fifth of a source takes the place of the first.
    let mut streams: Vec<_> = (0..5).map(|_| world.phone()).collect();
    assert!(is_closed(&mut streams.remove(0)));
    assert_eq!(world.figures.count(Counter::TcpClosedSource), 1);
    // One is known, one says something and falls silent, two never say a thing.
    streams[0].write_all(&message("REGISTER", 0)).unwrap();
    streams[1].write_all(&message("OPTIONS", 0)).unwrap();
    world.await_closed(4);
    assert_eq!(world.figures.count(Counter::TcpClosedIdle), 3);
    let register = message("REGISTER", 0);
    let mut answer = vec![0; register.len()];
    streams[0].read_exact(&mut answer).unwrap();
    streams[0].write_all(&register).unwrap();
    streams[0].read_exact(&mut answer).unwrap();
    world.stop();

    let trusted = StreamLimits { trusted: Arc::new(|ip| ip.is_loopback()), ..limits };
    let world = World::new(false, trusted);
    let mut streams: Vec<_> = (0..7).map(|_| world.phone()).collect();
    assert!(is_closed(&mut streams.remove(0)));
    assert_eq!(world.figures.count(Counter::TcpClosedTotal), 1);
    // Who has registered does not give way; where nobody can, the newcomer is refused.
    for stream in &mut streams {
        stream.write_all(&register).unwrap();
        stream.read_exact(&mut answer).unwrap();
    }
    assert!(is_closed(&mut world.phone()));
    assert_eq!(world.figures.count(Counter::TcpRefusedTotal), 1);
    for stream in &mut streams {
        stream.write_all(&register).unwrap();
        stream.read_exact(&mut answer).unwrap();
    }
    world.stop();
}

#[test]
fn who_does_not_read_is_closed() {
    let world = World::new(false, StreamLimits { queued_max: 64 * 1024, ..StreamLimits::default() });
    let mut stream = world.phone();
    for _ in 0..20 {
        if stream.write_all(&message("MESSAGE", 8_000)).is_err() {
            break;
        }
    }
    world.await_closed(1);
    assert_eq!(world.figures.count(Counter::TcpClosedSlow), 1);
    // Who reads slowly but steadily gets everything.
    let world = World::new(false, StreamLimits { queued_max: 16 * 1024 * 1024, ..StreamLimits::default() });
    let mut stream = world.phone();
    let one = message("MESSAGE", 8_000);
    stream.write_all(&one).unwrap();
    std::thread::sleep(Duration::from_millis(100));
    let mut answer = vec![0; one.len()];
    for _ in 0..1_000 {
        stream.read_exact(&mut answer).unwrap();
        assert!(answer == one);
    }
    world.stop();
}

/// Opens connections to where it is told and greets; what it opened is what the greetings say.
struct Dialler {
    to: Vec<SocketAddr>,
    opened: Vec<Handle>,
    heard: Arc<AtomicU64>,
    closed: Arc<AtomicU64>,
}

impl ShardMachine for Dialler {
    type Message = ();

    fn on_rtp(&mut self, _slot: Slot, _source: SocketAddr, _bytes: &mut [u8], _now: Now) -> Verdict {
        Verdict::Drop
    }

    fn on_sip(&mut self, flow: Flow, _bytes: &[u8], _now: Now) {
        let Flow::Tcp { connection, listener, .. } = flow else { return };
        let is_own = self.opened.contains(&connection) && listener == OWN_CONNECTION;
        self.heard.fetch_add(u64::from(is_own), Relaxed);
    }

    fn on_closed(&mut self, connection: Handle, _now: Now) {
        self.closed.fetch_add(u64::from(self.opened.contains(&connection)), Relaxed);
    }

    fn on_message(&mut self, _from: Member, _message: (), _now: Now) {}

    fn handle_timeout(&mut self, _now: Now) {}

    /// At once, as long as there is somebody to dial.
    fn next_deadline(&self) -> Option<Instant> {
        (!self.to.is_empty()).then_some(Instant::ZERO)
    }

    fn drain(&mut self, effects: &mut impl Effects<()>) {
        for to in self.to.drain(..) {
            let connection = effects.open_tcp(to).unwrap();
            // Before it is connected: this waits, or fails where the kernel has refused already.
            let _ = effects.send_tcp(connection, &message("OPTIONS", 100));
            let _ = effects.send_tcp(connection, &message("OPTIONS", 0));
            self.opened.push(connection);
        }
    }
}

/// Connections of our own: what is written before they are up arrives, answers come as theirs, and failures are told.
#[test]
fn connections_are_opened_and_their_ends_told() {
    for plain in [false, true] {
        let peer = TcpListener::bind("127.0.0.1:0").unwrap();
        // Bound and not listening: refused.
        let nobody = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
        nobody.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
        let refused = nobody.local_addr().unwrap().as_socket().unwrap();
        let to = vec![peer.local_addr().unwrap(), refused, peer.local_addr().unwrap()];
        let memory = create_file("test", STATE_OFFSET as u64).unwrap();
        let mut posts = Post::mesh(1).unwrap();
        posts.truncate(1);
        let parts = ShardParts {
            figures: Figures::open(&memory, ShardId(0)).unwrap(),
            post: posts.remove(0),
            sockets: Vec::new(),
            listeners: Vec::new(),
        };
        let (heard, closed) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
        let told = (Arc::clone(&heard), Arc::clone(&closed));
        let config = ShardConfig { plain, ..ShardConfig::default() };
        let dialler = move |_| Dialler { to, opened: Vec::new(), heard: told.0, closed: told.1 };
        let shard = spawn(config, parts, dialler).unwrap();
        shard.wait_ready().unwrap();
        let wait = |counter: &AtomicU64, count: u64| {
            let begin = Stopwatch::now();
            while counter.load(Relaxed) < count {
                assert!(
                    begin.elapsed() < Duration::from_secs(10),
                    "{} of {count}, plain {plain}",
                    counter.load(Relaxed)
                );
                std::thread::sleep(Duration::from_millis(2));
            }
        };
        let mut streams: Vec<TcpStream> = (0..2).map(|_| peer.accept().unwrap().0).collect();
        let wanted = [message("OPTIONS", 100), message("OPTIONS", 0)].concat();
        for stream in &mut streams {
            stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
            let mut bytes = vec![0; wanted.len()];
            stream.read_exact(&mut bytes).unwrap();
            assert_eq!(bytes, wanted);
            stream.write_all(&message("MESSAGE", 5)).unwrap();
        }
        wait(&heard, 2);
        wait(&closed, 1);
        assert_eq!(closed.load(Relaxed), 1, "the one that was refused");
        drop(streams.pop());
        wait(&closed, 2);
        shard.stop();
        shard.join().unwrap();
    }
}
