//! Scanning a message and looking into it allocates nothing: counted at the allocator, which is why this is a test binary of its own.

use std::alloc::GlobalAlloc;
use std::alloc::Layout;
use std::alloc::System;
use std::cell::Cell;
use std::hint::black_box;

use tipring::wire::sip::Credentials;
use tipring::wire::sip::Frame;
use tipring::wire::sip::Framer;
use tipring::wire::sip::HeaderId;
use tipring::wire::sip::Message;
use tipring::wire::sip::Scan;
use tipring::wire::sip::Status;
use tipring::wire::sip::Transport;
use tipring::wire::sip::Uri;
use tipring::wire::sip::scan;
use tipring::wire::sip::write;

mod torture;

thread_local! {
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
}

struct Counting;

#[expect(unsafe_code, reason = "an allocator is unsafe by its trait; it only counts and passes on")]
// SAFETY: every call goes unchanged to the system's allocator.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let _ = ALLOCATIONS.try_with(|count| count.set(count.get() + 1));
        // SAFETY: the caller's promise is passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise is passed on.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        let _ = ALLOCATIONS.try_with(|count| count.set(count.get() + 1));
        // SAFETY: the caller's promise is passed on.
        unsafe { System.realloc(pointer, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn allocations_of(work: impl FnOnce()) -> u64 {
    let before = ALLOCATIONS.get();
    work();
    ALLOCATIONS.get() - before
}

/// Reads what a node reads of a message, and more.
fn look_into(message: &Message<'_>) {
    let uri = message.request().map(|request| Uri::parse(request.uri).is_ok());
    black_box((uri, message.top_via().is_ok(), message.from().is_ok(), message.to().is_ok(), message.cseq().is_ok()));
    black_box((message.method(), message.max_forwards(), message.call_id().len(), message.body().len()));
    black_box(message.contacts().filter(Result::is_ok).count());
    black_box(message.header(HeaderId::Authorization).map(Credentials::parse).is_some());
    for id in HeaderId::ALL {
        black_box((message.values(*id).count(), message.tags(*id).count(), message.uint(*id)));
    }
    black_box(message.all_headers().count());
}

#[test]
fn the_counter_counts() {
    assert_eq!(allocations_of(|| drop(black_box(Vec::<u8>::with_capacity(9)))), 1);
}

#[test]
fn scanning_allocates_nothing() {
    for case in torture::all() {
        let bytes = (case.bytes)();
        for transport in [Transport::Udp, Transport::Tcp] {
            let count = allocations_of(|| match black_box(scan(&bytes, transport)) {
                Scan::Ok(message) | Scan::Answerable { message, .. } => look_into(&message),
                Scan::Drop(reason) => drop(black_box(reason)),
            });
            assert_eq!(count, 0, "{}", case.name);
        }
    }
}

#[test]
fn framing_allocates_nothing() {
    let bytes = torture::bytes("wsinv");
    let count = allocations_of(|| {
        let mut framer = Framer::default();
        let whole = (0..=bytes.len()).find(|end| framer.next(&bytes[..*end]) != Frame::Partial);
        assert_eq!(whole, Some(bytes.len()));
    });
    assert_eq!(count, 0);
}

#[test]
fn answering_into_a_buffer_with_room_allocates_nothing() {
    let bytes = torture::bytes("wsinv");
    let Scan::Ok(request) = scan(&bytes, Transport::Udp) else { panic!() };
    let source = std::net::SocketAddr::from(([198, 51, 100, 7], 5060));
    let mut out = Vec::with_capacity(4096);
    let count = allocations_of(|| {
        write::response(&mut out, &request, Status::RINGING, "", Some("tag"), source)
            .display_header(HeaderId::Contact, format_args!("<sip:{}>", source))
            .uint_header(HeaderId::RSeq, 1u32)
            .finish();
    });
    assert_eq!(count, 0);
}
