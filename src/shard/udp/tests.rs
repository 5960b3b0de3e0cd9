//! Every backend against real sockets on loopback.

use std::net::SocketAddr;
use std::net::UdpSocket;
use std::os::fd::AsFd;
use std::time::Duration;

use rustix::event::EventfdFlags;
use rustix::event::eventfd;

use super::plain::Plain;
use super::ring::Ring;
use super::ring::RingConfig;
use super::*;
use crate::shard::clock;

const PATIENCE: Duration = Duration::from_secs(5);

fn ring(config: &RingConfig) -> Ring {
    Ring::new(config, eventfd(0, EventfdFlags::CLOEXEC).unwrap()).unwrap()
}

fn small() -> RingConfig {
    RingConfig {
        slots_max: 64,
        sq_entries: 64,
        cq_entries: 1_024,
        rtp_buffers: 256,
        rtp_buffers_hot: 64,
        sip_buffers: 16,
        sip_buffers_hot: 4,
        arena_bytes: 256 * 1024,
    }
}

fn plain() -> Plain {
    Plain::new(64, eventfd(0, EventfdFlags::CLOEXEC).unwrap()).unwrap()
}

/// A socket as the keeper makes it, and its address.
fn bound(kind: SlotKind) -> (OwnedFd, SocketAddr) {
    bound_at("127.0.0.1:0", kind)
}

fn bound_at(address: &str, kind: SlotKind) -> (OwnedFd, SocketAddr) {
    // A port that the kernel chose is lost again when the socket is disconnected: so it is chosen first, then asked for.
    let socket = (0..100)
        .find_map(|_| {
            let chosen = UdpSocket::bind(address).unwrap().local_addr().unwrap();
            UdpSocket::bind(chosen).ok()
        })
        .unwrap();
    socket.set_nonblocking(true).unwrap();
    if kind == SlotKind::Rtp {
        socket::deafen(socket.as_fd()).unwrap();
    }
    let address = socket.local_addr().unwrap();
    (socket.into(), address)
}

fn phone() -> UdpSocket {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket
}

/// Turns the backend until a datagram is there.
fn await_datagram(io: &mut impl DatagramIo) -> Datagram {
    let deadline = clock::boottime() + PATIENCE;
    while clock::boottime() < deadline {
        if let Some(datagram) = io.next() {
            return datagram;
        }
        io.submit_and_wait(Wait { completions_min: 1, until: clock::boottime() + Duration::from_millis(10) });
    }
    panic!("no datagram");
}

/// Turns the backend for a while; whatever arrives is returned and released.
fn settle(io: &mut impl DatagramIo) -> Vec<Vec<u8>> {
    let mut all = Vec::new();
    for _ in 0..5 {
        io.submit_and_wait(Wait { completions_min: 64, until: clock::boottime() + Duration::from_millis(4) });
        while let Some(datagram) = io.next() {
            all.push(io.bytes(&datagram).to_vec());
            io.release(datagram);
        }
    }
    all
}

fn received(socket: &UdpSocket) -> (Vec<u8>, SocketAddr) {
    let mut bytes = vec![0; 65_536];
    let (len, source) = socket.recv_from(&mut bytes).unwrap();
    bytes.truncate(len);
    (bytes, source)
}

fn check_relay_and_send(io: &mut impl DatagramIo) {
    let (rtp, rtp_address) = bound(SlotKind::Rtp);
    let (sip, sip_address) = bound(SlotKind::Sip);
    io.add(0, rtp, SlotKind::Rtp).unwrap();
    io.add(1, sip, SlotKind::Sip).unwrap();
    io.arm(0).unwrap();
    io.arm(1).unwrap();
    settle(io);
    let (caller, callee) = (phone(), phone());

    caller.send_to(b"0123456789", rtp_address).unwrap();
    let datagram = await_datagram(io);
    assert_eq!((datagram.slot, datagram.kind), (0, SlotKind::Rtp));
    assert_eq!(datagram.source, caller.local_addr().unwrap());
    io.bytes(&datagram)[2] = b'X';
    io.relay(datagram, 1..10, 1, callee.local_addr().unwrap());
    settle(io);
    assert_eq!(received(&callee), (b"1X3456789".to_vec(), sip_address));

    // The largest datagram there is, both ways.
    let large = vec![7; 65_507];
    caller.send_to(&large, sip_address).unwrap();
    let datagram = await_datagram(io);
    assert_eq!((datagram.slot, io.bytes(&datagram).len()), (1, large.len()));
    let copy = io.bytes(&datagram).to_vec();
    io.send(1, callee.local_addr().unwrap(), &copy);
    io.release(datagram);
    settle(io);
    assert_eq!(received(&callee).0, large);

    let tally = io.take_tally();
    assert_eq!((tally.received, tally.sent), (2, 2));
}

#[test]
fn ring_relays_and_sends() {
    check_relay_and_send(&mut ring(&small()));
}

#[test]
fn plain_relays_and_sends() {
    check_relay_and_send(&mut plain());
}

fn check_open_and_close(io: &mut impl DatagramIo) {
    let (socket, address) = bound(SlotKind::Rtp);
    io.add(5, socket, SlotKind::Rtp).unwrap();
    let caller = phone();
    // Deaf before the first call, between two, and after the last.
    caller.send_to(b"stranger", address).unwrap();
    assert_eq!(settle(io), Vec::<Vec<u8>>::new());
    for round in 0..20u8 {
        io.arm(5).unwrap();
        caller.send_to(&[round; 3], address).unwrap();
        let datagram = await_datagram(io);
        assert_eq!(io.bytes(&datagram), [round; 3]);
        io.release(datagram);
        // Arrived, but taken by nobody before the close.
        caller.send_to(b"late", address).unwrap();
        io.disarm(5);
        caller.send_to(b"later", address).unwrap();
        if round % 2 == 0 {
            assert_eq!(settle(io), Vec::<Vec<u8>>::new());
        }
    }
    io.arm(5).unwrap();
    assert_eq!(settle(io), Vec::<Vec<u8>>::new());
    assert_eq!(io.take_tally().received, 20);
}

#[test]
fn ring_opens_and_closes() {
    check_open_and_close(&mut ring(&small()));
}

#[test]
fn plain_opens_and_closes() {
    check_open_and_close(&mut plain());
}

fn check_connected(io: &mut impl DatagramIo) {
    let (socket, address) = bound(SlotKind::Rtp);
    io.add(0, socket, SlotKind::Rtp).unwrap();
    io.arm(0).unwrap();
    settle(io);
    let (peer, stranger) = (phone(), phone());
    let peer_address = peer.local_addr().unwrap();
    io.connect(0, Some(peer_address)).unwrap();
    stranger.send_to(b"bleed", address).unwrap();
    peer.send_to(b"voice", address).unwrap();
    let datagram = await_datagram(io);
    assert_eq!((io.bytes(&datagram).to_vec(), datagram.source), (b"voice".to_vec(), peer_address));
    io.relay(datagram, 0..5, 0, peer_address);
    settle(io);
    assert_eq!(received(&peer), (b"voice".to_vec(), address));
    // Another destination than the peer is possible all the same.
    io.send(0, stranger.local_addr().unwrap(), b"else");
    settle(io);
    assert_eq!(received(&stranger).0, b"else");
    io.connect(0, None).unwrap();
    settle(io);
    stranger.send_to(b"rebound", address).unwrap();
    let datagram = await_datagram(io);
    assert_eq!(io.bytes(&datagram), b"rebound");
    io.release(datagram);
}

/// What was to go to the peer goes there, although the peer changes before the queue is submitted.
fn check_queued_sends(io: &mut impl DatagramIo) {
    let (socket, address) = bound(SlotKind::Rtp);
    io.add(0, socket, SlotKind::Rtp).unwrap();
    io.arm(0).unwrap();
    settle(io);
    let (old, new) = (phone(), phone());
    let [old_address, new_address] = [&old, &new].map(|phone| phone.local_addr().unwrap());
    for (next, text) in [(Some(new_address), b"moved"), (None, b"quiet")] {
        io.connect(0, Some(old_address)).unwrap();
        settle(io);
        io.send(0, old_address, text);
        io.connect(0, next).unwrap();
        settle(io);
        assert_eq!(received(&old), (text.to_vec(), address));
    }
    io.connect(0, Some(old_address)).unwrap();
    settle(io);
    io.send(0, old_address, b"close");
    io.disarm(0);
    settle(io);
    assert_eq!(received(&old), (b"close".to_vec(), address));
}

#[test]
fn ring_sends_what_is_queued_before_the_peer_changes() {
    check_queued_sends(&mut ring(&small()));
}

#[test]
fn plain_sends_what_is_queued_before_the_peer_changes() {
    check_queued_sends(&mut plain());
}

#[test]
fn ring_connects() {
    check_connected(&mut ring(&small()));
}

#[test]
fn plain_connects() {
    check_connected(&mut plain());
}

/// Latch, move, let go, again and again while both phones and a stranger speak: the peer's packets all come, each under its
/// own source, and a stranger's only while there is no peer.
#[test]
fn ring_peers_change_without_loss_or_bleed() {
    let mut io = ring(&small());
    let (socket, address) = bound(SlotKind::Rtp);
    io.add(0, socket, SlotKind::Rtp).unwrap();
    io.arm(0).unwrap();
    let phones = [phone(), phone(), phone()];
    let addresses: Vec<SocketAddr> = phones.iter().map(|phone| phone.local_addr().unwrap()).collect();
    let take = |io: &mut Ring, turns: u32| {
        let mut taken = 0;
        for _ in 0..turns {
            while let Some(datagram) = io.next() {
                let speaker = io.bytes(&datagram)[0];
                assert_eq!(datagram.source, addresses[usize::from(speaker)]);
                taken += 1;
                io.release(datagram);
            }
            io.submit_and_wait(Wait { completions_min: 1, until: clock::boottime() + Duration::from_millis(1) });
        }
        taken
    };
    let mut random = crate::base::random::Random::new(21);
    let (mut sent, mut taken, mut peer) = (0u32, 0, None);
    for _ in 0..2_000 {
        match random.below(12) {
            0 => {
                peer = [None, Some(0), Some(1)][random.below(3) as usize];
                io.connect(0, peer.map(|peer: usize| addresses[peer])).unwrap();
                taken += take(&mut io, 4);
            }
            1 | 2 => {
                phones[2].send_to(&[2], address).unwrap();
                sent += u32::from(peer.is_none());
            }
            3..8 => {
                let speaker = peer.unwrap_or_else(|| random.below(2) as usize);
                phones[speaker].send_to(&[speaker as u8], address).unwrap();
                sent += 1;
            }
            _ => taken += take(&mut io, 1),
        }
    }
    taken += take(&mut io, 10);
    assert_eq!((taken, io.unarmed()), (sent, 0));
}

#[test]
fn ring_speaks_ipv6() {
    let mut io = ring(&small());
    let (socket, address) = bound_at("[::1]:0", SlotKind::Rtp);
    io.add(0, socket, SlotKind::Rtp).unwrap();
    io.arm(0).unwrap();
    settle(&mut io);
    let caller = UdpSocket::bind("[::1]:0").unwrap();
    caller.set_read_timeout(Some(PATIENCE)).unwrap();
    caller.send_to(b"six", address).unwrap();
    let datagram = await_datagram(&mut io);
    let source = datagram.source;
    assert_eq!(source, caller.local_addr().unwrap());
    io.relay(datagram, 0..3, 0, source);
    settle(&mut io);
    assert_eq!(received(&caller), (b"six".to_vec(), address));
}

/// Every way in which a receive can end is answered by arming it again.
#[test]
fn ring_arms_again() {
    let config = RingConfig { rtp_buffers: 8, rtp_buffers_hot: 8, ..small() };
    let mut io = ring(&config);
    let (socket, address) = bound(SlotKind::Rtp);
    io.add(0, socket, SlotKind::Rtp).unwrap();
    io.arm(0).unwrap();
    settle(&mut io);
    let caller = phone();
    let check = |io: &mut Ring| {
        caller.send_to(b"alive", address).unwrap();
        let mut seen = settle(io);
        seen.retain(|bytes| !bytes.is_empty());
        assert_eq!(seen.last().map(Vec::as_slice), Some(b"alive".as_slice()));
        assert_eq!(io.unarmed(), 0);
    };

    // More datagrams than buffers: the rest waits in the socket.
    for number in 0..40u8 {
        caller.send_to(&[number], address).unwrap();
    }
    let seen = settle(&mut io);
    let seen = seen.into_iter().chain(settle(&mut io)).chain(settle(&mut io)).count();
    assert_eq!(seen, 40);
    check(&mut io);

    caller.send_to(b"", address).unwrap();
    check(&mut io);

    let gone = UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    io.connect(0, Some(gone)).unwrap();
    for _ in 0..3 {
        io.send(0, gone, b"anybody there?");
        settle(&mut io);
    }
    io.connect(0, None).unwrap();
    settle(&mut io);
    check(&mut io);

    io.cancel_behind_the_back(0);
    settle(&mut io);
    check(&mut io);

    for _ in 0..16 {
        io.audit();
    }
    let tally = io.take_tally();
    assert_eq!(tally.unarmed_found, 0);
    let rearm = tally.rearm;
    assert!(rearm.no_buffers > 0 && rearm.zero_length == 1 && rearm.icmp > 0 && rearm.cancelled == 1, "{rearm:?}");
}

/// The kernel has copied what is sent when the submit returns: what is written into the buffer then is never seen.
#[test]
fn ring_send_buffers_are_free_after_the_submit() {
    const LEN: usize = 1_200;
    let mut io = ring(&small());
    let (socket, address) = bound(SlotKind::Rtp);
    let socket = socket2::Socket::from(socket);
    socket.set_send_buffer_size(1).unwrap();
    io.add(0, socket.into(), SlotKind::Rtp).unwrap();
    io.arm(0).unwrap();
    settle(&mut io);
    let (caller, callee) = (phone(), phone());
    callee.set_nonblocking(true).unwrap();
    let to = callee.local_addr().unwrap();
    let mut expected = 0;
    let mut seen = 0;
    for round in 0..200u8 {
        for _ in 0..8 {
            caller.send_to(&[round; LEN], address).unwrap();
        }
        io.submit_and_wait(Wait { completions_min: 8, until: clock::boottime() + PATIENCE });
        while let Some(datagram) = io.next() {
            io.relay(datagram, 0..LEN, 0, to);
            expected += 1;
        }
        io.send(0, to, &[round; LEN]);
        expected += 1;
        io.submit_and_wait(Wait { completions_min: 0, until: clock::boottime() });
        io.scribble();
        let mut bytes = [0; 2 * LEN];
        while let Ok(len) = callee.recv(&mut bytes) {
            assert!(len == LEN && bytes[..len].iter().all(|byte| *byte == round), "round {round}");
            seen += 1;
        }
    }
    settle(&mut io);
    let tally = io.take_tally();
    assert_eq!(seen, tally.sent);
    assert_eq!(tally.sent + tally.send_again, expected);
    assert!(seen > 200);
}

/// Calls end and begin on the same slots while packets fly; whatever was armed last still receives, and nothing of a call
/// before comes out.
#[test]
fn ring_survives_hang_up_races() {
    let mut io = ring(&small());
    let caller = phone();
    let mut addresses = Vec::new();
    for slot in 0..16 {
        let (socket, address) = bound(SlotKind::Rtp);
        io.add(slot, socket, SlotKind::Rtp).unwrap();
        io.arm(slot).unwrap();
        addresses.push(address);
    }
    let mut random = crate::base::random::Random::new(11);
    let mut calls = [0u8; 16];
    for _ in 0..3_000 {
        let slot = random.below(16) as usize;
        caller.send_to(&[calls[slot]], addresses[slot]).unwrap();
        match random.below(4) {
            0 => {
                io.disarm(slot as Slot);
                io.arm(slot as Slot).unwrap();
                calls[slot] = calls[slot].wrapping_add(1);
            }
            1 => caller.send_to(&[], addresses[slot]).map(drop).unwrap(),
            2 => io.submit_and_wait(Wait { completions_min: 1, until: clock::boottime() }),
            _ => {}
        }
        while let Some(datagram) = io.next() {
            if let Some(call) = io.bytes(&datagram).first() {
                assert_eq!(*call, calls[datagram.slot as usize]);
            }
            io.release(datagram);
        }
    }
    settle(&mut io);
    assert_eq!(io.unarmed(), 0);
    for (slot, address) in addresses.iter().enumerate() {
        caller.send_to(b"alive", address).unwrap();
        assert_eq!(settle(&mut io), [b"alive"], "slot {slot}");
    }
    assert_eq!(io.take_tally().unarmed_found, 0);
}

#[test]
fn kernel_drops_are_counted() {
    let mut io = ring(&small());
    let (socket, address) = bound(SlotKind::Rtp);
    let socket = socket2::Socket::from(socket);
    socket.set_recv_buffer_size(1).unwrap();
    io.add(0, socket.into(), SlotKind::Rtp).unwrap();
    io.arm(0).unwrap();
    let caller = phone();
    for _ in 0..200 {
        caller.send_to(&[0; 1_000], address).unwrap();
    }
    let seen = settle(&mut io).len() as u64;
    for _ in 0..16 {
        io.audit();
    }
    let tally = io.take_tally();
    assert!(tally.kernel_drops > 0);
    assert_eq!(tally.kernel_drops + seen, 200);
}

/// More completions at once than the ring has room for.
#[test]
fn completions_that_do_not_fit_are_counted_and_come_later() {
    const SOCKETS: u16 = 32;
    const EACH: u8 = 10;
    let mut io = ring(&RingConfig { cq_entries: 64, ..small() });
    let caller = phone();
    let addresses: Vec<_> = (0..SOCKETS)
        .map(|slot| {
            let (socket, address) = bound(SlotKind::Rtp);
            io.add(slot.into(), socket, SlotKind::Rtp).unwrap();
            io.arm(slot.into()).unwrap();
            address
        })
        .collect();
    settle(&mut io);
    for number in 0..EACH {
        for address in &addresses {
            caller.send_to(&[number], address).unwrap();
        }
    }
    let mut seen = 0;
    for _ in 0..usize::from(EACH) {
        seen += settle(&mut io).len();
    }
    for _ in 0..16 {
        io.audit();
    }
    let tally = io.take_tally();
    assert_eq!((seen, tally.unarmed_found), (usize::from(SOCKETS) * usize::from(EACH), 0), "{tally:?}");
    assert!(tally.cq_overflow > 0, "{tally:?}");
}
