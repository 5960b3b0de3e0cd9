//! What a registered phone, a phone of the directory and a lingering transaction take in memory, maps included.
//!
//! A binary of its own, because its allocator counts the bytes that live.
#![allow(unsafe_code, reason = "a global allocator is unsafe to implement; this one only counts")]

use std::alloc::GlobalAlloc;
use std::alloc::Layout;
use std::alloc::System;
use std::cell::Cell;
use std::time::Duration;

use tipring::base::hash::HashKey;
use tipring::base::random::Random;
use tipring::base::time::Instant;
use tipring::base::time::Now;
use tipring::base::time::UnixTime;
use tipring::machine::Shared;
use tipring::machine::admission::Owner;
use tipring::machine::directory::Directory;
use tipring::machine::flow::Flow;
use tipring::machine::lingering::Key;
use tipring::machine::lingering::Lingering;
use tipring::machine::nonce::Stamp;
use tipring::machine::nonce::Validity;
use tipring::machine::outbox::Outbox;
use tipring::machine::registrar::Registrar;
use tipring::machine::settings::PathPolicy;
use tipring::machine::settings::RegistrationBounds;
use tipring::machine::settings::Secrets;
use tipring::machine::settings::Settings;
use tipring::wire::link::Announce;
use tipring::wire::link::DirectoryPart;
use tipring::wire::link::Ha1;
use tipring::wire::link::Phone;
use tipring::wire::link::Record;
use tipring::wire::link::RecordCodecs;
use tipring::wire::link::Symmetric;
use tipring::wire::link::Tenant;
use tipring::wire::sip::Scan;
use tipring::wire::sip::Transport;
use tipring::wire::sip::scan;

thread_local! {
    static LIVE: Cell<i64> = const { Cell::new(0) };
}

struct Counting;

/// What an allocator really takes for a piece: a header, and a multiple of 16.
fn taken(layout: Layout) -> i64 {
    (layout.size() + 8).next_multiple_of(16) as i64
}

// SAFETY: every call goes to the system's allocator unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        LIVE.with(|live| live.set(live.get() + taken(layout)));
        // SAFETY: the caller keeps the contract of `alloc`.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        LIVE.with(|live| live.set(live.get() - taken(layout)));
        // SAFETY: the caller keeps the contract of `dealloc`.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

const PHONES: usize = 100_000;
const KEY: HashKey = HashKey([4; 16]);

fn live() -> i64 {
    LIVE.with(Cell::get)
}

fn phone(number: usize) -> Phone {
    Phone {
        tenant: format!("tenant-{}", number / 20),
        user: format!("{}", 1000 + number % 20),
        auth_user: format!("auth-{number}"),
        extension: String::new(),
        numbers: vec![format!("+4930{number:07}")],
        name: format!("Person {number}"),
        record: Record::Never,
        external_id: String::new(),
        digest: Vec::new(),
        symmetric: Symmetric::Auto,
        ha1: Ha1 { md5: Some([1; 16]), sha256: Some([2; 32]), sha512_256: None },
    }
}

fn tenant(number: usize) -> Tenant {
    Tenant {
        name: format!("tenant-{number}"),
        domain: format!("tenant-{number}.example.com"),
        aliases: Vec::new(),
        realm: String::new(),
        default: false,
        record: Record::Never,
        announce: Announce::None,
        digest: Vec::new(),
        md5_fallback: true,
        record_codecs: RecordCodecs::Any,
    }
}

fn settings() -> Settings {
    Settings {
        node: "test".into(),
        boot: 1,
        shards: 1,
        secrets: Secrets { hash: KEY, nonce: [1; 32] },
        listeners: Vec::new(),
        trusted: Vec::new(),
        path: PathPolicy::default(),
        digest: Vec::new(),
        interfaces: Vec::new(),
        registration: RegistrationBounds::default(),
        limits: tipring::machine::settings::Limits::default(),
        ring_max: Duration::from_secs(60),
        media_timeout: Duration::from_secs(30),
        media: Default::default(),
        recording: Default::default(),
    }
}

fn flow(number: usize) -> Flow {
    let address = std::net::Ipv4Addr::from_bits(0x0A00_0000 + number as u32);
    Flow::udp(0, std::net::SocketAddr::new(address.into(), 5060))
}

/// As a desk phone behind a NAT sends it.
fn register(number: usize) -> String {
    let Phone { tenant, user, .. } = phone(number);
    format!(
        "REGISTER sip:{tenant}.example.com SIP/2.0\r\nVia: SIP/2.0/UDP 192.168.178.21:5060;branch=z9hG4bK{number};rport\r\n\
         From: <sip:{user}@{tenant}.example.com>;tag=1\r\nTo: <sip:{user}@{tenant}.example.com>\r\nCall-ID: {number}@192.168.178.21\r\n\
         CSeq: 1 REGISTER\r\nMax-Forwards: 70\r\nContact: <sip:{user}@192.168.178.21:5060;transport=udp;line=x{number}>;\
         +sip.instance=\"<urn:uuid:f81d4fae-7dec-11d0-a765-00a0c91e6bf6>\";reg-id=1\r\nExpires: 3600\r\n\
         User-Agent: Deskphone 5000 / firmware 10.1.159.12 0c383e123456\r\nContent-Length: 0\r\n\r\n"
    )
}

fn per_entry(before: i64) -> i64 {
    (live() - before) / PHONES as i64
}

#[test]
fn phones_stay_within_their_memory() {
    let before = live();
    let mut directory = Directory::new();
    let part = DirectoryPart {
        tenants: (0..PHONES / 20).map(tenant).collect(),
        phones: (0..PHONES).map(phone).collect(),
        ..DirectoryPart::default()
    };
    directory.apply(1, part);
    let of_directory = per_entry(before);

    let now = Now { instant: Instant::from_millis(1_000_000), unix: UnixTime::from_secs(1_800_000_000) };
    let settings = settings();
    let shared = Shared { settings: &settings, directory: &directory };
    let (mut random, mut out) = (Random::new(1), Outbox::new());
    let before = live();
    let mut registrar = Registrar::new(KEY);
    let mut lingering = Lingering::new();
    let mut response_bytes = 0;
    let mut of_lingering = 0;
    for number in 0..PHONES {
        let phone = directory.phone(&format!("tenant-{}", number / 20), &format!("{}", 1000 + number % 20)).unwrap();
        registrar.use_nonce(phone, Validity::Fresh(Stamp::new(now.unix, number as u32)), 1, now).unwrap();
        let text = register(number);
        let Scan::Ok(message) = scan(text.as_bytes(), Transport::Udp) else { panic!("{text}") };
        let response = registrar.register(&message, flow(number), phone, now, shared, &mut random, &mut out);
        out.drain().for_each(drop);
        let before = live();
        lingering.insert(
            Key::of(&message, flow(number).peer.ip(), &KEY),
            &flow(number),
            &response,
            Owner::default(),
            now.instant,
        );
        of_lingering += live() - before;
        response_bytes += response.len();
    }
    of_lingering = (of_lingering - response_bytes as i64) / PHONES as i64;
    drop(lingering);
    let of_registrar = per_entry(before);
    assert_eq!(registrar.len(), PHONES);
    let figures = format!(
        "bytes per phone: directory {of_directory}, registrar {of_registrar}; per lingering transaction {of_lingering}"
    );
    assert!(of_directory > 100 && of_directory <= 600, "{figures}");
    assert!(of_registrar > 100 && of_registrar <= 1_500, "{figures}");
    assert!(of_lingering > 16 && of_lingering <= 500, "{figures}");
    assert!(of_directory + of_registrar <= 1_500, "{figures}");
    print(&figures);
}

#[expect(clippy::print_stderr, reason = "the figures are what one wants to read")]
fn print(figures: &str) {
    eprintln!("{figures}");
}
