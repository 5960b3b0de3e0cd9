//! A node to talk to: its folder, its API, and the engine's end of the link.

use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;
use tempfile::TempDir;
use tokio::io::AsyncReadExt;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::net::UnixListener;
use tokio::net::UnixStream;

use crate::base::id::CallId;
use crate::base::id::ShardId;
use crate::base::time::UnixTime;
use crate::process::config::Retain;
use crate::process::side::node;
use crate::process::side::node::Node;
use crate::process::side::node::Settings;
use crate::process::side::opening::DATABASE;
use crate::process::side::recording::objects::Objects;
use crate::process::side::store::Store;
use crate::process::side::token;
use crate::process::side::token::NewToken;
use crate::process::side::token::Role;
use crate::shard::clock;
use crate::shard::memory::Figures;
use crate::shard::memory::STATE_OFFSET;
use crate::shard::memory::create_file;
use crate::shard::tape::disk::Folder;
use crate::shard::tape::ring;
use crate::shard::tape::ring::Bell;
use crate::shard::tape::ring::Memory;
use crate::shard::tape::ring::Ring;
use crate::shard::tape::thread;
use crate::shard::tape::thread::Shard;
use crate::shard::tape::thread::TapeSettings;
use crate::wire::event::Event;
use crate::wire::link;
use crate::wire::link::CallState;
use crate::wire::link::FromEngine;
use crate::wire::link::FromSide;
use crate::wire::link::LiveCall;
use crate::wire::link::Registration;
use crate::wire::sip::Transport;
use crate::wire::tape::Gap;
use crate::wire::tape::Track;
use crate::wire::tape::name::SegmentName;
use crate::wire::tape::record::GapCause;
use crate::wire::tape::record::emit_event;
use crate::wire::tape::record::emit_gap;

pub(super) const BOOT: u64 = 7;
pub(super) const DIRECTORY: &str = r#"
[[tenant]]
name = "acme"
domain = "acme.test"
[[tenant]]
name = "beta"
domain = "beta.test"
[[phone]]
tenant = "acme"
user = "1001"
password = "secret-1001"
[[phone]]
tenant = "beta"
user = "2001"
password = "secret-2001"
"#;

pub(super) struct World {
    pub(super) folder: TempDir,
    pub(super) address: SocketAddr,
    pub(super) admin: String,
    pub(super) node: Option<Node>,
    objects: Option<Arc<dyn Objects>>,
    listener: UnixListener,
    /// Figures and ring of the only shard.
    memory: OwnedFd,
}

impl World {
    pub(super) async fn new() -> Self {
        Self::with_objects(None).await
    }

    /// Recordings go there.
    pub(super) async fn with_objects(objects: Option<Arc<dyn Objects>>) -> Self {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("directory.toml"), DIRECTORY).unwrap();
        let listener = UnixListener::bind(folder.path().join("link.sock")).unwrap();
        let address = "127.0.0.1:0".parse().unwrap();
        let memory = create_file("tipring-test", STATE_OFFSET as u64 + ring::bytes_for(4)).unwrap();
        let mut world = Self { folder, address, admin: String::new(), node: None, objects, listener, memory };
        world.start().await;
        world.admin = std::fs::read_to_string(world.folder.path().join("token")).unwrap().trim().to_owned();
        world
    }

    pub(super) fn settings(&self) -> Settings {
        let day = Duration::from_secs(86_400);
        let import: Option<PathBuf> = Some(self.folder.path().join("directory.toml"));
        Settings {
            node: "node".to_owned(),
            data: self.folder.path().to_owned(),
            link: self.folder.path().join("link.sock"),
            retain: Retain { cdrs: day * 9_999, events: day * 9_999, audit: day, trace: day },
            import,
            first_start: true,
            objects: self.objects.clone(),
        }
    }

    async fn start(&mut self) {
        let listener = node::bind("127.0.0.1:0".parse().unwrap()).unwrap();
        self.address = listener.local_addr().unwrap();
        let memory = vec![self.memory.try_clone().unwrap()];
        self.node = Some(Node::start(self.settings(), vec![listener], memory).await.unwrap());
    }

    /// As after a kill: what is not committed is lost.
    pub(super) async fn restart(&mut self) {
        self.node = None;
        self.start().await;
    }

    pub(super) async fn store(&self) -> Store {
        Store::open(&self.folder.path().join(DATABASE)).await.unwrap()
    }

    pub(super) async fn token(&self, name: &str, role: Role, tenants: Option<&[&str]>) -> String {
        let tenants = tenants.map(|tenants| tenants.iter().map(|tenant| (*tenant).to_owned()).collect());
        let new = NewToken { name: name.to_owned(), role, tenants, expires_at: None };
        token::add(&self.store().await, &new, "test").await.unwrap()
    }

    /// The next connection of the side process, after its snapshot of nothing.
    pub(super) async fn engine(&self, boot: u64) -> Engine {
        let mut engine = self.accept().await;
        engine.send(&FromEngine::Hello { node: "node".to_owned(), boot, shards: 1, directory_version: 0 }).await;
        engine
    }

    pub(super) async fn ready_engine(&self) -> Engine {
        let mut engine = self.engine(BOOT).await;
        engine.snapshot_end(&[]).await;
        engine.send(&FromEngine::DirectoryServed { version: u64::MAX }).await;
        self.until("/readyz", |answer| answer.status == 200).await;
        engine
    }

    /// The tape of an engine that begins: what the one before left in the ring is on it after its first turn.
    pub(super) fn tape(&self, boot: u64) -> Tape {
        let memory = Memory::open(&self.memory, STATE_OFFSET as u64, ring::bytes_for(4)).unwrap();
        let figures = Figures::open(&self.memory, ShardId(0)).unwrap();
        let settings = TapeSettings {
            boot,
            media_segment_bytes: 1 << 20,
            event_segment_bytes: 1 << 20,
            media_bytes_max: 1 << 24,
            event_bytes_max: 1 << 24,
            segment_age_max: Duration::from_millis(100),
            is_sealed: true,
        };
        let gaps = ring::gaps();
        let ring = Ring::new(memory.clone(), boot, Bell::default(), gaps.clone());
        let shard = Shard { shard: ShardId(0), memory, figures, gaps };
        let folder = Folder::open(&self.folder.path().join("tape")).unwrap();
        Tape { ring, thread: thread::Tape::open(folder, settings, vec![shard]).unwrap() }
    }

    pub(super) async fn accept(&self) -> Engine {
        let accepted = tokio::time::timeout(Duration::from_secs(5), self.listener.accept()).await;
        Engine { stream: accepted.unwrap().unwrap().0, bytes: Vec::new() }
    }

    pub(super) async fn get(&self, path: &str) -> Answer {
        self.request("GET", path, &self.admin).await
    }

    pub(super) async fn get_as(&self, token: &str, path: &str) -> Answer {
        self.request("GET", path, token).await
    }

    pub(super) async fn request(&self, method: &str, path: &str, token: &str) -> Answer {
        let authorization = if token.is_empty() { String::new() } else { format!("Authorization: Bearer {token}\r\n") };
        self.raw(&format!("{method} {path} HTTP/1.1\r\nHost: x\r\n{authorization}Connection: close\r\n\r\n")).await
    }

    pub(super) async fn raw(&self, request: &str) -> Answer {
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut bytes = Vec::new();
        let read = tokio::time::timeout(Duration::from_secs(10), stream.read_to_end(&mut bytes)).await;
        let _ = read.unwrap();
        Answer::parse(&String::from_utf8(bytes).unwrap())
    }

    /// Asks again until it is so.
    pub(super) async fn until(&self, path: &str, is_so: impl Fn(&Answer) -> bool) -> Answer {
        for _ in 0..500 {
            let answer = self.get(path).await;
            if is_so(&answer) {
                return answer;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("{path} did not become so: {:?}", self.get(path).await);
    }

    pub(super) async fn until_items(&self, path: &str, count: usize) -> Vec<Value> {
        self.until(path, |answer| answer.items().len() == count).await.items()
    }
}

#[derive(Debug)]
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) head: String,
    pub(super) body: String,
}

impl Answer {
    fn parse(text: &str) -> Self {
        let (head, body) = text.split_once("\r\n\r\n").unwrap_or((text, ""));
        let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0);
        Self { status, head: head.to_lowercase(), body: body.to_owned() }
    }

    pub(super) fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|_| panic!("no JSON: {self:?}"))
    }

    pub(super) fn items(&self) -> Vec<Value> {
        assert_eq!(self.status, 200, "{self:?}");
        self.json()["items"].as_array().unwrap().clone()
    }

    pub(super) fn next(&self) -> Option<String> {
        self.json()["next"].as_str().map(str::to_owned)
    }

    /// The given field of every item.
    pub(super) fn column(&self, name: &str) -> Vec<String> {
        self.items().iter().map(|item| item[name].as_str().unwrap_or("-").to_owned()).collect()
    }
}

pub(super) struct Engine {
    stream: UnixStream,
    bytes: Vec<u8>,
}

impl Engine {
    pub(super) async fn send(&mut self, message: &FromEngine) {
        let mut frame = Vec::new();
        link::emit(message, &mut frame).unwrap();
        self.stream.write_all(&frame).await.unwrap();
    }

    pub(super) async fn send_bytes(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).await.unwrap();
    }

    pub(super) async fn events(&mut self, boot: u64, events: &[Event]) {
        self.send(&FromEngine::Events { boot, events: events.to_vec() }).await;
    }

    pub(super) async fn receive(&mut self) -> FromSide {
        let receive = async {
            loop {
                if let Some((message, len)) = link::parse::<FromSide>(&self.bytes).unwrap() {
                    self.bytes.drain(..len);
                    return message;
                }
                assert_ne!(self.stream.read_buf(&mut self.bytes).await.unwrap(), 0, "the link was closed");
            }
        };
        tokio::time::timeout(Duration::from_secs(5), receive).await.expect("a frame from side")
    }

    pub(super) async fn snapshot_end(&mut self, events: &[(ShardId, u64)]) {
        self.send(&FromEngine::SnapshotEnd { events: events.to_vec() }).await;
    }

    /// Leaves out what comes before.
    pub(super) async fn receive_tape_ack(&mut self) -> (Track, u64) {
        loop {
            if let FromSide::TapeAck { track, segment, .. } = self.receive().await {
                return (track, segment);
            }
        }
    }
}

/// A tape as an engine writes it.
pub(super) struct Tape {
    ring: Ring,
    thread: thread::Tape<Folder>,
}

impl Tape {
    /// In the ring alone, as when an engine dies at once.
    pub(super) fn ring(&mut self, events: &[Event]) {
        for event in events {
            let record = emit_event(clock::boottime(), 0, event).unwrap();
            assert!(self.ring.record(Track::Events, &record, clock::now()));
        }
    }

    /// On the disk when this returns.
    pub(super) fn events(&mut self, events: &[Event]) {
        self.ring(events);
        std::thread::sleep(ring::BLOCK_AGE_MAX);
        self.ring.tick(clock::now());
        self.turn();
    }

    /// A segment of media is removed unread.
    pub(super) fn gap(&mut self) {
        let at = clock::now().unix;
        let gap = Gap {
            boot: 1,
            track: Track::Media,
            first: 1,
            last: 2,
            since: at,
            until: at,
            records: 9,
            bytes: 1_000,
            cause: GapCause::Full,
        };
        let record = emit_gap(clock::boottime(), &gap).unwrap();
        assert!(self.ring.record(Track::Events, &record, clock::now()));
        self.events(&[]);
    }

    pub(super) fn acknowledge(&mut self, track: Track, segment: u64) {
        self.thread.acknowledge(SegmentName { shard: ShardId(0), track, segment });
    }

    pub(super) fn turn(&mut self) {
        self.thread.turn(clock::boottime());
    }
}

pub(super) fn id(number: u128) -> CallId {
    CallId::new(UnixTime::from_secs(1_700_000_000), number)
}

pub(super) fn live_call(number: u128, tenant: &str) -> LiveCall {
    LiveCall {
        call: id(number),
        sip_call_id: format!("sip-{number}"),
        tenant: tenant.to_owned(),
        from: "1001".to_owned(),
        to: "1002".to_owned(),
        state: CallState::Up,
        started_at: UnixTime::from_secs(1_700_000_000),
        answered_at: None,
    }
}

pub(super) fn registration(tenant: &str, user: &str) -> Registration {
    Registration {
        tenant: tenant.to_owned(),
        user: user.to_owned(),
        contact: format!("sip:{user}@192.0.2.1"),
        transport: Transport::Udp,
        received: SocketAddr::from(([192, 0, 2, 1], 5060)),
        expires_at: UnixTime::from_secs(4_000_000_000),
        user_agent: "phone".to_owned(),
    }
}
