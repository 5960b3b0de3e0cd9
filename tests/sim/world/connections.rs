//! TCP between phones and node: connections that a random shard accepts, and that break.

use std::net::SocketAddr;
use std::time::Duration;

use tipring::base::id::Handle;
use tipring::base::id::ShardId;
use tipring::machine::exchange::Input;
use tipring::machine::flow::Connection;
use tipring::machine::flow::Flow;

use crate::stream::KNOWN_AFTER;
use crate::stream::Read;
use crate::stream::Stream;
use crate::world::Happening;
use crate::world::World;

impl World {
    pub(super) fn write_to_node(&mut self, phone: usize, bytes: &[u8]) {
        let open = self.streams.iter().position(|stream| stream.phone == phone && stream.phone_is_open);
        let stream = open.unwrap_or_else(|| self.connect(phone));
        if self.random.chance(1, 10) {
            self.write(stream, true, b"\r\n\r\n");
        }
        self.write(stream, true, bytes);
    }

    /// A connection is accepted by any shard.
    fn connect(&mut self, phone: usize) -> usize {
        let shard = ShardId(self.random.below(self.shards.len() as u64) as u8);
        let slot = self.streams.len();
        let peer = SocketAddr::new(self.phones[phone].sip.ip(), 40_000 + slot as u16);
        let handle = Handle { slot: slot as u32, generation: 1 };
        let flow = Flow { listener: 1, peer, connection: Some(Connection { shard, handle }) };
        self.streams.push(Stream::new(phone, flow));
        slot
    }

    pub(super) fn write(&mut self, stream: usize, to_node: bool, bytes: &[u8]) {
        if self.streams[stream].write(to_node, bytes) {
            let stalls = self.random.chance(self.faults.lost + self.faults.delayed, 1000);
            let extra = if stalls { self.random.below(1_000_000) } else { 0 };
            let delay = Duration::from_micros(5_000 + self.random.below(2_000) + extra);
            self.push(self.now + delay, Happening::Bytes { stream, to_node });
        }
    }

    pub(super) fn on_bytes(&mut self, index: usize, to_node: bool) {
        if self.streams[index].arrive(to_node, &mut self.random) {
            let delay = Duration::from_micros(self.random.below(3_000));
            self.push(self.now + delay, Happening::Bytes { stream: index, to_node });
        }
        let (flow, phone) = (self.streams[index].flow, self.streams[index].phone);
        if to_node {
            self.read_at_node(index);
            return;
        }
        while let Some(bytes) = self.streams[index].read_at_phone() {
            if self.phones[phone].is_off {
                continue;
            }
            self.ladder.push((self.now, Self::server(), flow.peer, bytes.clone()));
            self.on_phone(phone, |phone, now, out| phone.handle(&bytes, now, out));
        }
    }

    fn read_at_node(&mut self, index: usize) {
        let flow = self.streams[index].flow;
        loop {
            match self.streams[index].read_at_node() {
                Read::Message(bytes) => {
                    self.ladder.push((self.now, flow.peer, Self::server(), bytes.clone()));
                    self.watch.received(flow.peer, true, &bytes, self.now);
                    let shard = flow.connection.map_or(0, |connection| usize::from(connection.shard.0));
                    self.on_shard(shard, |exchange, now, shared, out| {
                        exchange.handle(Input::Sip { flow, bytes: &bytes }, now, shared, out);
                    });
                }
                Read::Ping => self.write(index, false, b"\r\n"),
                Read::Nothing => return,
            }
        }
    }

    /// The phone sees its connection break, the node a little later.
    pub(super) fn disconnect(&mut self, phone: usize) {
        let Some(at) = self.streams.iter().position(|stream| stream.phone == phone && stream.phone_is_open) else {
            return;
        };
        self.streams[at].phone_is_open = false;
        let delay = Duration::from_micros(self.random.below(3_000_000));
        self.push(self.now + delay, Happening::Broken(at));
        self.on_phone(phone, |phone, now, out| phone.on_disconnected(now, out));
    }

    /// Both ends see it break at once.
    pub(super) fn cut(&mut self, stream: usize) {
        let (phone, was_open) = (self.streams[stream].phone, self.streams[stream].phone_is_open);
        self.streams[stream].phone_is_open = false;
        if was_open {
            self.on_phone(phone, |phone, now, out| phone.on_disconnected(now, out));
        }
        if self.streams[stream].node_is_open {
            self.on_broken(stream);
        }
    }

    pub(super) fn on_broken(&mut self, index: usize) {
        let stream = &mut self.streams[index];
        stream.node_is_open = false;
        let gone_at = *stream.gone_at.get_or_insert(self.now);
        self.watch.connection_gone(stream.flow.peer);
        // A connection that said nothing is nobody's flow.
        if !stream.was_heard {
            return;
        }
        let flow = stream.flow;
        self.push(gone_at.max(self.now) + KNOWN_AFTER * 2, Happening::Audit);
        let shard = flow.connection.map_or(0, |connection| usize::from(connection.shard.0));
        self.on_shard(shard, |exchange, now, shared, out| exchange.handle(Input::FlowClosed(flow), now, shared, out));
    }
}
