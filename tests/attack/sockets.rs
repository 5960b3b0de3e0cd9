//! Connections: to SIP over TCP and to the HTTP API, more than anybody needs, and those that never say or read anything.

use std::io::ErrorKind;
use std::io::Read;
use std::io::Write;
use std::net::IpAddr;
use std::net::Ipv6Addr;
use std::net::SocketAddr;
use std::net::TcpStream;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::Relaxed;
use std::thread::JoinHandle;
use std::time::Duration;
use std::time::Instant;

use rustix::process::Resource;
use rustix::process::Rlimit;
use socket2::Domain;
use socket2::Protocol;
use socket2::Socket;
use socket2::Type;

use crate::calls::Call;
use crate::http;
use crate::namespace::inside;
use crate::phone::PATIENCE;
use crate::phone::Phone;
use crate::server::Server;
use crate::server::eventually;

fn connect(from: IpAddr, to: SocketAddr) -> std::io::Result<TcpStream> {
    let socket = Socket::new(Domain::for_address(to), Type::STREAM, Some(Protocol::TCP))?;
    socket.bind(&SocketAddr::new(from, 0).into())?;
    socket.connect_timeout(&to.into(), PATIENCE)?;
    Ok(socket.into())
}

/// The attacker runs in this process.
fn raise_open_files() {
    let limit = rustix::process::getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    rustix::process::setrlimit(Resource::Nofile, raised).unwrap();
}

/// Opens connections from these addresses in turn and lets none go, until it is dropped. As many as `held` are there from the start.
struct Hoard {
    stop: Arc<AtomicBool>,
    hoarding: Option<JoinHandle<()>>,
}

impl Hoard {
    fn begin(from: Vec<IpAddr>, to: SocketAddr, held: usize) -> Self {
        raise_open_files();
        let open = move |index: usize| connect(from[index % from.len()], to).ok();
        let mut connections: Vec<_> = (0..held).filter_map(&open).collect();
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let hoarding = std::thread::spawn(move || {
            while !stopped.load(Relaxed) {
                connections.extend(open(connections.len()));
                std::thread::sleep(Duration::from_millis(2));
            }
        });
        Self { stop, hoarding: Some(hoarding) }
    }
}

impl Drop for Hoard {
    fn drop(&mut self) {
        self.stop.store(true, Relaxed);
        let _ = self.hoarding.take().map(JoinHandle::join);
    }
}

fn registers(phone: &mut Phone, server: &Server) {
    let answer = phone.register(600);
    assert_eq!(answer.status(), 200, "{answer:#?}\n{}", server.log());
}

#[test]
fn one_network_of_connections_shuts_nobody_out() {
    if !inside("attack::sockets::one_network_of_connections_shuts_nobody_out") {
        return;
    }
    let network: Vec<_> = (1..=8).map(|host| IpAddr::from([0x2001, 0xdb8, 1, 2, 0, 0, 0, host])).collect();
    for address in &network {
        let address = format!("{address}/64");
        let added = Command::new("ip").args(["addr", "add", &address, "dev", "lo", "nodad"]).status();
        assert!(added.unwrap().success(), "{address}");
    }
    let mut server = Server::start(|setup| {
        setup.ipv6 = true;
        setup.files = 1_024;
        setup.directory = Some(recorded_directory());
    });
    let mut before = server.registered_tcp("1003");
    let hoard = Hoard::begin(network, server.sip_v6(), 1_500);
    // The phone that was there keeps its connection, and another comes.
    registers(&mut before, &server);
    let mut after = server.registered_tcp("1004");
    let mut beside = Phone::tcp("1005", SocketAddr::new(Ipv6Addr::LOCALHOST.into(), 0), server.sip_v6());
    registers(&mut beside, &server);
    let (mut left, mut right) = (server.registered("1001"), server.registered("1002"));
    let mut call = Call::set_up(&mut left, &mut right, "1002", 1);
    let id = server.live_call();
    call.check_media();
    call.end_by_caller(&mut left, &mut right);
    let item = eventually(PATIENCE, || {
        let page = server.json("/v1/recordings");
        let items = page["items"].as_array()?;
        items.iter().find(|item| item["call"] == id.as_str() && item["verdict"].is_string()).cloned()
    });
    let item = item.unwrap_or_else(|| panic!("no recording\n{}", server.log()));
    assert_eq!(item["verdict"], "complete", "{item}");
    registers(&mut before, &server);
    registers(&mut after, &server);
    drop(hoard);
    assert!(server.metric("tipring_tcp_closed_total", "reason=\"source\"").unwrap() > 1_000.0);
    assert_eq!(server.metric("tipring_tcp_refused_total", "").unwrap(), 0.0);
    assert_eq!(server.metric("tipring_tape_errors_total", "").unwrap_or(0.0), 0.0);
}

fn recorded_directory() -> String {
    let mut text = String::from("[[tenant]]\nname = \"acme\"\ndomain = \"acme.test\"\nrecord = \"always\"\n");
    for user in ["1001", "1002", "1003", "1004", "1005"] {
        text += &format!("[[phone]]\ntenant = \"acme\"\nuser = \"{user}\"\npassword = \"secret-{user}\"\n");
    }
    text
}

/// Health, figures and the API, each at once.
fn all_answer(server: &Server) {
    for path in ["/healthz", "/readyz", "/metrics", "/v1/calls"] {
        let begun = Instant::now();
        let answer = server.get(path).unwrap_or_else(|error| panic!("{path}: {error}"));
        assert_eq!(answer.status, 200, "{path}: {}", answer.body);
        assert!(begun.elapsed() < PATIENCE, "{path} takes {:?}", begun.elapsed());
    }
}

#[test]
fn who_never_speaks_or_reads_keeps_nobody_out_of_the_api() {
    raise_open_files();
    let mut server = Server::start(|_| {});
    let sources: Vec<_> = (0..6).map(|_| server.fresh_ip()).collect();
    // As many as there are places, and more, from each of six and from where we ask.
    let mut held = Vec::new();
    for source in sources.into_iter().chain([server.ip()]) {
        for index in 0..260 {
            let mut stream = connect(source, server.http()).unwrap();
            if index % 4 == 0 {
                // Never reads what it asks for again and again.
                socket2::SockRef::from(&stream).set_recv_buffer_size(4_096).unwrap();
                stream.set_nonblocking(true).unwrap();
                let request = format!("GET /metrics HTTP/1.1\r\nHost: {}\r\n\r\n", server.http());
                let _ = stream.write(request.repeat(100).as_bytes());
            }
            held.push(stream);
        }
    }
    all_answer(&server);
    all_answer(&server);
    let closed = server.metric("tipring_http_connections_closed_total", "").unwrap();
    assert!(closed > 700.0, "{closed}");
    assert_eq!(server.metric("tipring_http_connections_refused_total", ""), Some(0.0));
}

#[test]
fn slow_heads_and_bodies_end() {
    let mut server = Server::start(|_| {});
    let source = server.fresh_ip();
    let begun = Instant::now();
    let mut heads: Vec<_> = (0..50).map(|_| connect(source, server.http()).unwrap()).collect();
    let mut bodies: Vec<_> = (0..50).map(|_| connect(source, server.http()).unwrap()).collect();
    for stream in &mut heads {
        stream.write_all(b"GET /readyz HTTP/1.1\r\nHost: a\r\n").unwrap();
    }
    for stream in &mut bodies {
        let head = "POST /v1/calls/x/recording/start HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000\r\n\r\n";
        stream.write_all(head.as_bytes()).unwrap();
    }
    let mut open: Vec<_> = heads.into_iter().chain(bodies).collect();
    while !open.is_empty() {
        assert!(begun.elapsed() < Duration::from_secs(9), "{} connections are open", open.len());
        open.retain_mut(|stream| !is_ended(stream) && stream.write_all(b"X").is_ok());
        std::thread::sleep(Duration::from_millis(200));
    }
    all_answer(&server);
}

fn is_ended(stream: &mut TcpStream) -> bool {
    stream.set_nonblocking(true).unwrap();
    let read = stream.read(&mut [0; 4_096]);
    stream.set_nonblocking(false).unwrap();
    match read {
        Ok(len) => len == 0,
        Err(error) => error.kind() != ErrorKind::WouldBlock,
    }
}

/// The status of a stream of events, which stays open.
fn open_events(server: &Server, token: &str) -> (u16, TcpStream) {
    let mut stream = connect(server.http().ip(), server.http()).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let request = format!("GET /v1/events HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {token}\r\n\r\n");
    stream.write_all(request.as_bytes()).unwrap();
    let mut head = [0; 12];
    stream.read_exact(&mut head).unwrap();
    let status = std::str::from_utf8(&head[9..]).unwrap().parse().unwrap();
    (status, stream)
}

#[test]
fn a_token_that_hoards_event_streams_leaves_places() {
    let server = Server::start(|_| {});
    let (code, other) = server.command(&["token", "add", "other", "--role", "read"]);
    assert_eq!(code, 0, "{other}");
    let other = other.split_whitespace().find(|word| word.starts_with("tip_")).expect("a token").to_owned();
    let hoarded: Vec<_> = (0..140).map(|_| open_events(&server, &server.token())).collect();
    let count = |status| hoarded.iter().filter(|(got, _)| *got == status).count();
    assert_eq!((count(200), count(429)), (32, 108));
    assert_eq!(open_events(&server, &other).0, 200);
    all_answer(&server);
}

#[test]
fn refused_requests_do_not_fill_the_log() {
    const REQUESTS: usize = 5_000;
    let server = Server::start(|_| {});
    let before = server.log().len();
    let begun = Instant::now();
    let request = "GET /v1/calls HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer tip_wrong\r\n\r\n".repeat(50);
    let mut stream = connect(server.http().ip(), server.http()).unwrap();
    let mut reader = stream.try_clone().unwrap();
    std::thread::spawn(move || while reader.read(&mut [0; 65_536]).is_ok_and(|len| len > 0) {});
    for _ in 0..REQUESTS / 50 {
        stream.write_all(request.as_bytes()).unwrap();
    }
    let said = eventually(Duration::from_secs(20), || {
        let log = server.log();
        let refused = log.matches(" api.refused: ").count();
        let left_out: usize = log
            .lines()
            .filter(|line| line.contains("further lines of api.refused were left out"))
            .filter_map(|line| line.rsplit_once("lines=")?.1.trim().parse::<usize>().ok())
            .sum();
        (refused + left_out == REQUESTS).then_some((refused, log.len() - before))
    });
    let (refused, bytes) = said.unwrap_or_else(|| panic!("lines are missing: {}", server.log().len()));
    let allowed = 1_000 + 100 * (usize::try_from(begun.elapsed().as_secs()).unwrap() + 1);
    assert!(refused >= 1_000 && refused <= allowed, "{refused} lines of {REQUESTS}, {bytes} bytes");
    assert!(bytes < 200 * allowed, "{bytes} bytes");
    let answer = http::request(server.http(), "GET", "/readyz", None).unwrap();
    assert_eq!(answer.status, 200);
}
