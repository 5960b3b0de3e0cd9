//! The exchange of one shard on the shard's thread: what the loop brings goes in, what the exchange wants goes out.
//!
//! It decides nothing. Events are numbered here and go to the tape, and to the clerk for those who watch; what the clerk's queue
//! cannot take at once waits in a bounded backlog.

use std::collections::BTreeMap;
use std::collections::VecDeque;
use std::net::SocketAddr;
use std::ops::Range;
use std::sync::Arc;
use std::sync::RwLock;
use std::time::Duration;

use crate::base::id::Handle;
use crate::base::id::ShardId;
use crate::base::limit::CAPTURES_WAITING_MAX;
use crate::base::limit::CLERK_BACKLOG_MAX;
use crate::base::time::Instant;
use crate::base::time::Now;
use crate::machine::Shared;
use crate::machine::directory::Directory;
use crate::machine::exchange::Exchange;
use crate::machine::exchange::Input;
use crate::machine::flow::Connection;
use crate::machine::flow::Flow;
use crate::machine::media::command::Fork;
use crate::machine::media::command::SocketCommand;
use crate::machine::media::relay;
use crate::machine::outbox::Live;
use crate::machine::outbox::Mesh;
use crate::machine::outbox::Outbox;
use crate::machine::outbox::Output;
use crate::machine::settings::Settings;
use crate::process::engine::events::Events;
use crate::process::engine::events::Waiting;
use crate::process::engine::figures;
use crate::process::engine::figures::Own;
use crate::process::engine::figures::Published;
use crate::process::engine::lost::Lost;
use crate::process::engine::message::Capture;
use crate::process::engine::message::Cause;
use crate::process::engine::message::Message;
use crate::process::engine::message::ToClerk;
use crate::process::engine::message::ToShard;
use crate::shard::clock;
use crate::shard::memory::Figures;
use crate::shard::mesh::Member;
use crate::shard::run;
use crate::shard::run::Effects;
use crate::shard::run::ShardMachine;
use crate::shard::run::Verdict;
use crate::shard::tape::ring::Ring;
use crate::shard::udp::Slot;
use crate::wire::event::Event;
use crate::wire::hep::Content;
use crate::wire::rtcp;
use crate::wire::tape::Frame;
use crate::wire::tape::Mark;
use crate::wire::tape::Track;
use crate::wire::tape::record::emit_mark;

/// How old the figures on the page may be.
const PUBLISH_EVERY: Duration = Duration::from_secs(1);
/// Phones of one page of what was restored.
const RESTORED_PER_PAGE: usize = 256;

pub(super) struct Driver {
    shard: ShardId,
    exchange: Exchange,
    settings: Arc<Settings>,
    /// The same for whoever accepts connections.
    newest: Arc<RwLock<Arc<Settings>>>,
    directory: Arc<Directory>,
    out: Outbox,
    /// The SIP messages of this turn, each with the outputs that it caused, in order.
    causes: Vec<(Range<usize>, Cause)>,
    /// Connections that brought a message, as the exchange knows them.
    connections: BTreeMap<Handle, Flow>,
    /// Connections that were written to and are gone.
    dead: Vec<Flow>,
    /// For the clerk, in order.
    backlog: VecDeque<ToClerk>,
    own: Own,
    published: Published,
    /// When the counts go to the page of figures; set by the first step after the last time.
    publish_at: Option<Instant>,
    /// A capture server wants copies.
    is_captured: bool,
    /// Bindings of the last life that the clerk has not been told of: up to which key it was, while there are more.
    restored: Option<Option<u64>>,
    /// SIP sockets have the slots from here on, in the order of the UDP listeners.
    sip_slots_from: Slot,
    udp_listeners: u8,
    seq: u64,
    now: Now,
    tape: Ring,
    events: Events,
    copy: Copied,
    lost: Lost,
    /// A call that is to be ended by command panics instead: `TIPRING_FAULT=hangup` at the start of a debug build.
    #[cfg(debug_assertions)]
    faults_on_hangup: bool,
}

/// A packet that goes to a second place, too; the room is kept for the next.
#[derive(Default)]
struct Copied {
    to: Option<(Slot, SocketAddr)>,
    bytes: Vec<u8>,
}

/// What a driver begins with.
pub(super) struct Beginning {
    pub(super) shard: ShardId,
    pub(super) exchange: Exchange,
    pub(super) settings: Arc<Settings>,
    pub(super) newest: Arc<RwLock<Arc<Settings>>>,
    pub(super) directory: Arc<Directory>,
    pub(super) sip_slots_from: Slot,
    pub(super) udp_listeners: u8,
    pub(super) is_captured: bool,
    pub(super) tape: Ring,
    pub(super) waiting: Waiting,
}

impl Driver {
    pub(super) fn new(beginning: Beginning, now: Now) -> Self {
        let Beginning { shard, exchange, settings, directory, sip_slots_from, udp_listeners, newest, .. } = beginning;
        let Beginning { is_captured, tape, waiting, .. } = beginning;
        Self {
            shard,
            exchange,
            settings,
            newest,
            directory,
            out: Outbox::new(),
            causes: Vec::new(),
            connections: BTreeMap::new(),
            dead: Vec::new(),
            backlog: VecDeque::new(),
            own: Own::new(),
            published: Published::default(),
            publish_at: Some(now.instant),
            is_captured,
            restored: Some(None),
            sip_slots_from,
            udp_listeners,
            seq: 0,
            now,
            tape,
            events: Events::new(waiting),
            copy: Copied::default(),
            lost: Lost::default(),
            #[cfg(debug_assertions)]
            faults_on_hangup: std::env::var_os("TIPRING_FAULT").is_some_and(|value| value == "hangup"),
        }
    }

    fn input(&mut self, input: Input<'_>, now: Now) {
        self.now = now;
        let shared = Shared { settings: &self.settings, directory: &self.directory };
        self.exchange.handle(input, now, shared, &mut self.out);
    }

    fn flow(&mut self, flow: run::Flow) -> Flow {
        match flow {
            run::Flow::Udp { slot, peer } => Flow::udp((slot - self.sip_slots_from) as u8, peer),
            run::Flow::Tcp { connection, peer, listener } => {
                let place = Some(Connection { shard: self.shard, handle: connection });
                let flow = Flow { listener: self.udp_listeners + listener as u8, peer, connection: place };
                self.connections.insert(connection, flow);
                flow
            }
        }
    }

    fn on_command(&mut self, command: ToShard, now: Now) {
        match command {
            ToShard::Directory(directory) => {
                self.directory = directory;
                self.input(Input::DirectoryChanged, now);
            }
            ToShard::Settings(settings) => {
                if let Ok(mut newest) = self.newest.write() {
                    *newest = Arc::clone(&settings);
                }
                self.settings = settings;
            }
            ToShard::Captured(on) => self.is_captured = on,
            ToShard::Drain(on) => self.input(Input::Drain(on), now),
            ToShard::Hangup { request, call, by } => {
                let found = self.exchange.is_up(call);
                if found {
                    let input = Input::Hangup { call, by, text: "ended by command".to_owned() };
                    #[cfg(debug_assertions)]
                    let input = if self.faults_on_hangup { Input::Fault(call) } else { input };
                    self.input(input, now);
                }
                self.tell_clerk(ToClerk::Found { request, found });
            }
            ToShard::Record { request, call, wish, by } => {
                let found = self.exchange.is_up(call);
                if found {
                    self.input(Input::Record { call, wish, by }, now);
                }
                self.tell_clerk(ToClerk::Found { request, found });
            }
            ToShard::Settled { request } => self.tell_clerk(ToClerk::Settled { request }),
            ToShard::HangupAll => self.input(Input::HangupAll, now),
            ToShard::Trace { request, subject } => {
                let shared = Shared { settings: &self.settings, directory: &self.directory };
                let steps = self.exchange.trace(&subject, shared);
                self.tell_clerk(ToClerk::Traced { request, steps });
            }
        }
    }

    fn caused_input(&mut self, input: Input<'_>, cause: Option<Cause>, now: Now) {
        let mark = self.out.len();
        self.input(input, now);
        if let Some(cause) = cause.filter(|_| self.out.len() > mark) {
            self.causes.push((mark..self.out.len(), cause));
        }
    }

    /// Applies what is in the outbox; the first message sent for each that came tells how long we took.
    fn apply_all(&mut self, effects: &mut impl Effects<Message>) {
        let mut out = std::mem::take(&mut self.out);
        let mut causes = std::mem::take(&mut self.causes);
        let (mut at_cause, mut clock, mut is_counted) = (0, None, false);
        for (index, output) in out.drain().enumerate() {
            while causes.get(at_cause).is_some_and(|(range, _)| range.end <= index) {
                (at_cause, is_counted) = (at_cause + 1, false);
            }
            let cause = causes.get(at_cause).filter(|(range, _)| range.contains(&index)).map(|(_, cause)| *cause);
            let is_send = matches!(output, Output::Send { .. } | Output::Write { .. });
            let cause = cause.filter(|_| !(is_send && is_counted));
            is_counted |= is_send && cause.is_some();
            if let (Output::Send { flow, bytes } | Output::Write { flow, bytes }, Some(cause)) = (&output, cause)
                && self.leaves_here(*flow)
            {
                let now = *clock.get_or_insert_with(clock::boottime);
                figures::observe(cause, bytes, now, effects.figures());
            }
            self.apply(output, cause, effects);
        }
        // Their room is kept for the next step.
        causes.clear();
        (self.out, self.causes) = (out, causes);
    }

    fn tell_clerk(&mut self, message: ToClerk) {
        let most = match &message {
            ToClerk::Capture(_) => CAPTURES_WAITING_MAX,
            _ => CLERK_BACKLOG_MAX,
        };
        if self.backlog.len() >= most {
            // Events among it come to side by the tape.
            self.own.lost += 1;
            return;
        }
        self.backlog.push_back(message);
    }

    /// No other shard holds the connection.
    fn leaves_here(&self, flow: Flow) -> bool {
        flow.connection.is_none_or(|connection| connection.shard == self.shard)
    }

    fn send(&mut self, flow: Flow, bytes: Vec<u8>, cause: Option<Cause>, effects: &mut impl Effects<Message>) {
        match flow.connection {
            None => {
                self.own.sent(&bytes, flow.transport());
                effects.send_udp(self.sip_slots_from + Slot::from(flow.listener), flow.peer, &bytes);
            }
            Some(connection) if connection.shard == self.shard => {
                if effects.send_tcp(connection.handle, &bytes) {
                    self.own.sent(&bytes, flow.transport());
                } else {
                    self.dead.push(flow);
                }
            }
            Some(connection) => self.tell_shard(connection.shard, Mesh::Write { flow, bytes }, cause, effects),
        }
    }

    /// The deadlines for strangers end.
    fn keep(&mut self, flow: Flow, effects: &mut impl Effects<Message>) {
        match flow.connection {
            Some(connection) if connection.shard == self.shard => effects.keep_tcp(connection.handle),
            Some(connection) => self.tell_shard(connection.shard, Mesh::Keep { flow }, None, effects),
            None => {}
        }
    }

    /// No credit: what a datagram would suffer too; its sender repeats it.
    fn tell_shard(&mut self, shard: ShardId, message: Mesh, cause: Option<Cause>, effects: &mut impl Effects<Message>) {
        let _refused = effects.send_mesh(Member::Shard(shard), Message::Mesh(message, cause));
    }

    /// At most once a period, and once after the last step of a busy time.
    fn publish(&mut self, figures: &Figures) {
        let now = self.now.instant;
        match self.publish_at {
            None => self.publish_at = Some(now + PUBLISH_EVERY),
            Some(at) if at <= now => {
                self.own.outbox_overflows = self.out.overflows;
                self.own.tape = self.tape.counts();
                (self.own.events_lost, self.own.events_waited) = (self.events.lost, self.events.waited);
                self.published.publish(&self.exchange, &self.own, self.now, figures);
                // Nothing else tells when ports have rested.
                let rests = self.exchange.ports(self.now).resting > 0;
                self.publish_at = rests.then(|| now + PUBLISH_EVERY);
            }
            Some(_) => {}
        }
    }

    /// A message that came is copied by the shard that handles it, which knows its call: not where it was passed on after `mark`.
    fn copy_read(&mut self, flow: Flow, bytes: &[u8], mark: usize) {
        let is_passed_on = |output: &Output| matches!(output, Output::Mesh { message: Mesh::Sip { .. }, .. });
        if !self.out.after(mark).any(is_passed_on) {
            self.copy(flow, true, bytes);
        }
    }

    /// For the capture server, if there is one.
    fn copy(&mut self, flow: Flow, is_incoming: bool, bytes: &[u8]) {
        let Some(listener) = self.settings.listeners.get(usize::from(flow.listener)) else { return };
        if !self.is_captured {
            return;
        }
        let (source, destination) = if is_incoming { (flow.peer, listener.local) } else { (listener.local, flow.peer) };
        let (at, call, is_reliable) = (self.now.unix, self.exchange.concerned(), flow.is_reliable());
        let content = Content::Sip;
        let capture = Capture { content, at, source, destination, is_reliable, call, bytes: without_digits(bytes) };
        self.tell_clerk(ToClerk::Capture(Box::new(capture)));
    }

    /// A report that was relayed, for the capture server, as it came: a few in five seconds and stream. RTP has no part in this.
    fn copy_rtcp(&mut self, slot: Slot, source: SocketAddr, bytes: &[u8]) {
        let Some((call, destination)) = self.exchange.call_of_slot(slot) else { return };
        let (content, at, bytes) = (Content::Rtcp, self.now.unix, bytes.to_vec());
        let capture = Capture { content, at, source, destination, is_reliable: false, call: Some(call), bytes };
        self.tell_clerk(ToClerk::Capture(Box::new(capture)));
    }

    /// Bindings of the last life, a page at a time, for whoever asks what is registered.
    fn tell_restored(&mut self) {
        let Some(after) = self.restored else { return };
        if self.backlog.len() > RESTORED_PER_PAGE {
            return;
        }
        let (page, next) = self.exchange.registrar().registrations(after, RESTORED_PER_PAGE);
        self.restored = next.map(Some);
        for registration in page {
            self.tell_clerk(ToClerk::Live(Box::new(Live::Registered(registration))));
        }
    }

    fn apply(&mut self, output: Output, cause: Option<Cause>, effects: &mut impl Effects<Message>) {
        match output {
            Output::Send { flow, bytes } => {
                self.copy(flow, false, &bytes);
                self.send(flow, bytes, cause, effects);
            }
            Output::Write { flow, bytes } => self.send(flow, bytes, cause, effects),
            Output::Keep { flow } => self.keep(flow, effects),
            Output::Mesh { to, message } => self.tell_shard(to, message, cause, effects),
            Output::Event { tenant, call, leg, mut body } => {
                self.seq += 1;
                body.cut();
                let event = Event { shard: self.shard, seq: self.seq, at: self.now.unix, tenant, call, leg, body };
                self.events.push(&event, &mut self.tape, self.now);
                self.tell_clerk(ToClerk::Event(Box::new(event)));
            }
            Output::Mark { call, mut mark } => {
                if let Mark::Untaped { untaped } = &mut mark {
                    self.lost.complete(call, untaped);
                }
                if let Ok(record) = emit_mark(self.now.instant, call, &mark) {
                    // What finds no room is listed as a gap; the event says the same.
                    let _noted = self.tape.record(Track::Media, &record, self.now);
                }
            }
            Output::Live(live) => self.tell_clerk(ToClerk::Live(Box::new(live))),
            Output::Traced { call, tenant, steps } => self.tell_clerk(ToClerk::CallTrace { call, tenant, steps }),
            Output::Rtp { slot, to, bytes } => effects.send_udp(slot, to, &bytes),
            Output::Store(record) => self.tell_clerk(ToClerk::Store(Box::new(record))),
            Output::Socket(command) => match command {
                SocketCommand::Open { slot } => effects.arm(slot),
                SocketCommand::Close { slot } => effects.disarm(slot),
                SocketCommand::Connect { slot, peer } => effects.connect(slot, Some(peer)),
                SocketCommand::Disconnect { slot } => effects.connect(slot, None),
                SocketCommand::CountLost { slot } => self.lost.count(slot, effects.losses(slot)),
                SocketCommand::TellLost { slot, recording } => self.lost.tell(slot, recording, effects.losses(slot)),
            },
            // Applied by the exchange itself.
            Output::Locate { .. } | Output::Media(_) | Output::Answer { .. } => {}
        }
    }
}

impl ShardMachine for Driver {
    type Message = Message;

    fn on_rtp(&mut self, slot: Slot, source: SocketAddr, bytes: &mut [u8], now: Now) -> Verdict {
        self.now = now;
        let shared = Shared { settings: &self.settings, directory: &self.directory };
        let verdict = self.exchange.relay(slot, source, bytes, now, shared, &mut self.out);
        if let Some(Fork { call, leg, media }) = self.exchange.fork() {
            self.tape.frame(&Frame { call, leg, stream: media, at: now.instant, packet: bytes }, now);
        }
        let relay::Verdict::Forward { slot: to_slot, peer } = verdict else { return Verdict::Drop };
        if let Some(to) = self.exchange.copy_to() {
            self.copy.to = Some((to_slot, to));
            self.copy.bytes.clear();
            self.copy.bytes.extend_from_slice(bytes);
        }
        if self.is_captured && rtcp::is_rtcp(bytes) {
            self.copy_rtcp(slot, source, bytes);
        }
        Verdict::Relay { part: 0..bytes.len(), slot: to_slot, to: peer }
    }

    fn on_sip(&mut self, flow: run::Flow, bytes: &[u8], now: Now) {
        let flow = self.flow(flow);
        let cause = Cause { method: figures::delay_of(bytes), arrived: now.instant };
        let mark = self.out.len();
        self.caused_input(Input::Sip { flow, bytes }, Some(cause), now);
        self.copy_read(flow, bytes, mark);
    }

    fn on_closed(&mut self, connection: Handle, now: Now) {
        // One that never brought a whole message is nobody's.
        if let Some(flow) = self.connections.remove(&connection) {
            self.input(Input::FlowClosed(flow), now);
        }
    }

    fn on_message(&mut self, from: Member, message: Message, now: Now) {
        match (from, message) {
            (Member::Shard(_), Message::Mesh(Mesh::Write { flow, bytes }, cause)) => {
                let mark = self.out.len();
                self.out.push(Output::Write { flow, bytes });
                self.causes.extend(cause.map(|cause| (mark..self.out.len(), cause)));
            }
            (Member::Shard(_), Message::Mesh(Mesh::Keep { flow }, _)) => self.out.push(Output::Keep { flow }),
            (Member::Shard(from), Message::Mesh(message, cause)) => {
                let read = match &message {
                    Mesh::Sip { flow, bytes } if self.is_captured => Some((*flow, bytes.clone())),
                    _ => None,
                };
                let mark = self.out.len();
                self.caused_input(Input::Mesh { from, message }, cause, now);
                if let Some((flow, bytes)) = read {
                    self.copy_read(flow, &bytes, mark);
                }
            }
            (Member::Clerk, Message::ToShard(command)) => self.on_command(command, now),
            // Nobody sends these so.
            (Member::Shard(_) | Member::Clerk, _) => {}
        }
    }

    fn handle_timeout(&mut self, now: Now) {
        self.now = now;
        let shared = Shared { settings: &self.settings, directory: &self.directory };
        self.exchange.handle_timeout(now, shared, &mut self.out);
        self.events.handle_timeout(&mut self.tape, now);
        self.tape.tick(now);
    }

    fn next_deadline(&self) -> Option<Instant> {
        let waiting = [self.publish_at, self.tape.next_deadline(), self.events.next_deadline()];
        waiting.into_iter().flatten().chain(self.exchange.next_deadline()).min()
    }

    fn drain(&mut self, effects: &mut impl Effects<Message>) {
        if let Some((slot, to)) = self.copy.to.take() {
            effects.send_udp(slot, to, &self.copy.bytes);
        }
        while !self.out.is_empty() {
            self.apply_all(effects);
            // Whoever wrote to a connection that is gone learns it now, and every shard with it.
            for flow in std::mem::take(&mut self.dead) {
                self.input(Input::FlowClosed(flow), self.now);
            }
        }
        self.publish(effects.figures());
    }

    /// The clerk is woken once a turn, not once a message. Not less often: what it was not told is lost when the engine stops.
    fn end_turn(&mut self, effects: &mut impl Effects<Message>) {
        self.tell_restored();
        while let Some(message) = self.backlog.pop_front() {
            if let Err(Message::ToClerk(message)) = effects.send_mesh(Member::Clerk, Message::ToClerk(message)) {
                self.backlog.push_front(message);
                break;
            }
        }
    }
}

/// A copy of a message in which the body of an INFO is blanked: it may hold digits that somebody keyed in.
fn without_digits(bytes: &[u8]) -> Vec<u8> {
    let mut copy = bytes.to_vec();
    let body = memchr::memmem::find(bytes, b"\r\n\r\n").map_or(bytes.len(), |end| end + 4);
    if bytes.starts_with(b"INFO ") {
        copy.iter_mut().skip(body).filter(|byte| !byte.is_ascii_whitespace()).for_each(|byte| *byte = b'x');
    }
    copy
}

#[cfg(test)]
mod tests {
    use super::without_digits;

    #[test]
    fn a_copy_of_info_says_no_digits() {
        let info = b"INFO sip:a SIP/2.0\r\nContent-Length: 10\r\n\r\nSignal=5\r\n";
        assert_eq!(without_digits(info), b"INFO sip:a SIP/2.0\r\nContent-Length: 10\r\n\r\nxxxxxxxx\r\n");
        let invite = b"INVITE sip:a SIP/2.0\r\n\r\nv=0\r\n";
        assert_eq!(without_digits(invite), invite);
    }
}
