//! The shards of the node: steps, between which they may be another engine's, what comes out of them, and the mesh.

use std::time::Duration;

use tipring::base::id::CallId;
use tipring::base::id::ShardId;
use tipring::base::time::Instant;
use tipring::base::time::Now;
use tipring::machine::Shared;
use tipring::machine::exchange::Exchange;
use tipring::machine::exchange::Input;
use tipring::machine::flow::Flow;
use tipring::machine::outbox::Mesh;
use tipring::machine::outbox::Outbox;
use tipring::machine::outbox::Output;

use crate::hostile;
use crate::stranger;
use crate::world::Happening;
use crate::world::World;
use crate::world::settings::both;

impl World {
    /// The next step of this call panics.
    pub fn break_call(&mut self, call: CallId) {
        for shard in 0..self.shards.len() {
            self.on_shard(shard, |exchange, now, shared, out| exchange.handle(Input::Fault(call), now, shared, out));
        }
    }

    pub(super) fn on_shard(&mut self, index: usize, act: impl FnOnce(&mut Exchange, Now, Shared<'_>, &mut Outbox)) {
        if self.whim.chance(self.faults.restored, 1000) {
            self.restore(index);
        }
        let mut out = Outbox::new();
        let shared = Shared { settings: &self.settings, directory: &self.directory };
        act(&mut self.shards[index], both(self.now), shared, &mut out);
        assert_eq!(out.overflows, 0);
        self.apply(index, &mut out);
        let next = self.shards[index].next_deadline().unwrap_or(Instant::NEVER).max(self.now);
        if next < self.shard_timers[index] {
            self.shard_timers[index] = next;
            self.push(next, Happening::ShardTimer(index));
        }
    }

    /// Another engine takes all shards over.
    pub(super) fn restart(&mut self) {
        self.happenings.retain(|_, happening| !matches!(happening, Happening::Mesh { .. }));
        for shard in 0..self.shards.len() {
            self.restore(shard);
        }
        for stream in 0..self.streams.len() {
            self.cut(stream);
        }
    }

    /// Through bytes and back, as a new engine would take the shard over.
    fn restore(&mut self, index: usize) {
        let bytes = postcard::to_stdvec(&self.shards[index]).expect("state serialises");
        self.shards[index] = postcard::from_bytes(&bytes).expect("state deserialises");
    }

    fn apply(&mut self, index: usize, out: &mut Outbox) {
        let shard = ShardId(index as u8);
        let outputs: Vec<_> = out.drain().collect();
        for output in outputs {
            match output {
                Output::Send { flow, bytes } => {
                    if stranger::is_stranger(flow.peer.ip()) {
                        self.watch.stranger_got(flow.peer.ip(), &bytes);
                    } else if !hostile::is_hostile(&bytes) {
                        self.watch.sent(flow.peer, flow.is_reliable(), &bytes, self.now);
                    }
                    if hostile::is_hostile(&bytes) {
                        self.hostile.got(flow.peer, &bytes);
                    }
                    self.send(shard, flow, bytes);
                }
                Output::Mesh { to, message } => self.tell_shard(shard, to, message),
                Output::Socket(command) => self.on_socket(index, command),
                Output::Rtp { slot, to, bytes } => {
                    assert!(
                        self.sockets[index].get(&slot).is_some_and(|socket| socket.is_open),
                        "sent from a closed port"
                    );
                    self.transmit(Self::address_of(index, slot), to, bytes);
                }
                Output::Event { call, body, .. } => {
                    self.patience.on_event(call, &body, self.now);
                    self.events.push((shard, call, body));
                }
                _ => {}
            }
        }
    }

    /// As the shard's driver does it.
    pub(super) fn send(&mut self, shard: ShardId, flow: Flow, bytes: Vec<u8>) {
        match flow.connection {
            None => self.transmit(Self::server(), flow.peer, bytes),
            Some(connection) if connection.shard == shard => {
                let stream = connection.handle.slot as usize;
                assert_eq!(self.streams[stream].flow, flow);
                if self.streams[stream].node_is_open {
                    self.write(stream, false, &bytes);
                } else {
                    let may_be_missed = self.patience.slack > Duration::ZERO;
                    self.streams[stream].written_when_gone(&bytes, self.now, may_be_missed);
                    // Whoever writes to a connection that is gone learns it again.
                    self.push(self.now, Happening::Broken(stream));
                }
            }
            Some(connection) => self.tell_shard(shard, connection.shard, Mesh::Write { flow, bytes }),
        }
    }

    fn tell_shard(&mut self, from: ShardId, to: ShardId, message: Mesh) {
        let delay = Duration::from_micros(self.random.below(2_000));
        // As the shard's driver does it: a full queue gives the message back, and it is dropped.
        if self.faults.mesh_lost > 0 && self.whim.chance(self.faults.mesh_lost, 1_000) {
            return;
        }
        if self.repeats_mesh && matches!(message, Mesh::Located { .. }) {
            let late = if self.whim.chance(1, 2) { 2_000 } else { 1_000_000 };
            let again = delay + Duration::from_micros(self.whim.below(late));
            self.push(self.now + again, Happening::Mesh { from, to, message: message.clone() });
        }
        self.push(self.now + delay, Happening::Mesh { from, to, message });
    }
}
