//! Datagrams: lost, doubled, delayed on their way; at phones, at the node, from strangers.

use std::net::SocketAddr;
use std::time::Duration;

use tipring::base::time::Instant;
use tipring::machine::exchange::Input;
use tipring::machine::flow::Flow;

use crate::hostile;
use crate::phone::Phone;
use crate::phone::Sent;
use crate::stranger;
use crate::world::Happening;
use crate::world::World;

/// Of somebody behind the same address as a phone.
pub(super) const SPRAYER_PORT: u16 = 50_000;
pub(super) const SPRAY_EVERY: Duration = Duration::from_millis(20);
pub(super) const ATTACK_EVERY: Duration = Duration::from_millis(20);
/// 500 a second.
const ATTACKS_AT_ONCE: usize = 10;

impl World {
    pub(super) fn reach_node(&mut self, from: SocketAddr, to: SocketAddr, bytes: Vec<u8>) {
        if to == Self::server() {
            let shard = self.random.below(self.shards.len() as u64) as usize;
            let is_hostile = hostile::is_hostile(&bytes);
            if !is_hostile {
                self.ladder.push((self.now, from, to, bytes.clone()));
            }
            if stranger::is_stranger(from.ip()) {
                self.watch.stranger_sent(from.ip(), &bytes);
            } else if !is_hostile {
                self.watch.received(from, false, &bytes, self.now);
            }
            self.on_shard(shard, |exchange, now, shared, out| {
                exchange.handle(Input::Sip { flow: Flow::udp(0, from), bytes: &bytes }, now, shared, out);
            });
        } else {
            self.reach_media(from, to, bytes);
        }
    }

    pub(super) fn reach_phone(&mut self, from: SocketAddr, to: SocketAddr, bytes: &[u8]) {
        let now = self.now;
        let at = |phone: &Phone| (phone.sip == to || phone.hears_at(to, now)) && !phone.is_off;
        let Some(index) = self.phones.iter().position(at) else { return };
        if self.phones[index].sip != to {
            // Answers to somebody who forged the port of its media are heard by nobody.
            if !hostile::is_hostile(bytes) {
                self.phones[index].handle_rtp(from, bytes, self.now);
            }
            return;
        }
        self.ladder.push((self.now, from, to, bytes.to_vec()));
        self.on_phone(index, |phone, now, out| phone.handle(bytes, now, out));
    }

    pub(super) fn on_phone(&mut self, index: usize, act: impl FnOnce(&mut Phone, Instant, &mut Sent)) {
        let mut sent = Sent::new();
        act(&mut self.phones[index], self.now, &mut sent);
        for (from, to, bytes) in sent {
            let is_sip = from == self.phones[index].sip;
            let (from, bytes) = self.phones[index].dress(from, bytes);
            if is_sip && self.phones[index].tcp {
                self.write_to_node(index, &bytes);
            } else {
                self.transmit(from, to, bytes);
            }
        }
        let next =
            self.phones[index].next_deadline().unwrap_or(Instant::NEVER).max(self.now + Duration::from_millis(1));
        if next < self.phone_timers[index] {
            self.phone_timers[index] = next;
            self.push(next, Happening::PhoneTimer(index));
        }
    }

    /// From a port of this phone's address to all media ports, a packet each.
    pub(super) fn on_spray(&mut self, phone: usize, number: u16, left: u16) {
        let from = SocketAddr::new(self.phones[phone].sip.ip(), SPRAYER_PORT);
        for (shard, slot) in self.open_sockets().collect::<Vec<_>>() {
            self.transmit(from, Self::address_of(shard, slot), stranger::spray(number));
        }
        if left > 0 {
            let next = Happening::Spray { phone, number: number.wrapping_add(1), left: left - 1 };
            self.push(self.now + SPRAY_EVERY, next);
        }
    }

    /// A volley, which neither gets lost nor waits.
    pub(super) fn on_attack(&mut self, left: u32) {
        for _ in 0..ATTACKS_AT_ONCE {
            let (from, bytes) = self.hostile.next(&mut self.random);
            self.push(self.now, Happening::Datagram { from, to: Self::server(), bytes });
        }
        if left > 0 {
            self.push(self.now + ATTACK_EVERY, Happening::Attack(left - 1));
        }
    }

    /// Something at the SIP port, and packets at some media ports.
    pub(super) fn on_stranger(&mut self) {
        let from = stranger::address(&mut self.random);
        let seen = self.random.below(1 + self.ladder.len() as u64) as usize;
        let seen =
            self.ladder.get(seen).filter(|(_, _, to, _)| *to == Self::server()).map(|(_, _, _, bytes)| &bytes[..]);
        let bytes = stranger::sip(from, seen, &mut self.random);
        self.transmit(from, Self::server(), bytes);
        for (shard, slot) in self.open_sockets().collect::<Vec<_>>() {
            let packet = stranger::rtp(&mut self.random);
            self.transmit(from, Self::address_of(shard, slot), packet);
        }
    }

    pub(super) fn transmit(&mut self, from: SocketAddr, to: SocketAddr, bytes: Vec<u8>) {
        let copies = match (self.random.chance(self.faults.lost, 1000), self.random.chance(self.faults.doubled, 1000)) {
            (true, _) => 0,
            (false, true) => 2,
            (false, false) => 1,
        };
        for _ in 0..copies {
            let extra = if self.random.chance(self.faults.delayed, 1000) { self.random.below(300_000) } else { 0 };
            let delay = Duration::from_micros(5_000 + self.random.below(2_000) + extra);
            self.push(self.now + delay, Happening::Datagram { from, to, bytes: bytes.clone() });
        }
    }
}
