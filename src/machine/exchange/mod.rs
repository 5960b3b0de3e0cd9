//! The exchange: everything that one shard decides, behind one door. Registrar, calls and relay meet here and nowhere else.
//!
//! A message is read once by whoever receives it. What is wrong with it, or lacks a nonce, is answered on the spot and
//! forgotten; the rest goes to the shard that owns its phone or call ([`owner`]), where it is admitted ([`gate`]) and
//! handled. Lives once per shard.

mod admitting;
mod answer;
mod calls;
mod counts;
mod dialogs;
mod gate;
mod history;
mod locate;
pub mod messages;
pub mod owner;
mod screen;
mod strangers;
#[cfg(test)]
mod tests;
mod who;

use std::net::SocketAddr;

use serde::Deserialize;
use serde::Serialize;

use crate::base::id::CallId;
use crate::base::id::Handle;
use crate::base::id::ShardId;
use crate::base::limit::BRANCHES_MAX;
use crate::base::random::Random;
use crate::base::time::Instant;
use crate::base::time::Now;
use crate::machine::Shared;
use crate::machine::admission;
use crate::machine::admission::Admission;
use crate::machine::admission::Owner;
use crate::machine::call::Call;
use crate::machine::call::census::Census;
use crate::machine::call::input::CallInput;
use crate::machine::call::input::CallerIdentity;
use crate::machine::call::input::Destination;
use crate::machine::call::input::Invite;
use crate::machine::digest;
use crate::machine::digest::Reading;
use crate::machine::digest::fallback::Fallback;
use crate::machine::exchange::calls::Calls;
use crate::machine::exchange::calls::Surroundings;
pub use crate::machine::exchange::counts::Counts;
pub use crate::machine::exchange::counts::Unreadable;
use crate::machine::exchange::dialogs::Asked;
use crate::machine::exchange::gate::Gate;
use crate::machine::exchange::history::History;
use crate::machine::exchange::history::Reason;
use crate::machine::exchange::history::Rule;
use crate::machine::exchange::locate::Located;
use crate::machine::exchange::locate::Locating;
use crate::machine::exchange::messages::Kind;
use crate::machine::exchange::who::Called;
use crate::machine::exchange::who::Dialled;
use crate::machine::flow::Flow;
use crate::machine::lingering;
use crate::machine::lingering::Lingering;
use crate::machine::media::command::Fork;
use crate::machine::media::command::MediaOutput;
use crate::machine::media::command::PairId;
use crate::machine::media::ports::Pair;
use crate::machine::media::ports::PortPool;
use crate::machine::media::ports::PortStates;
use crate::machine::media::relay::Relay;
use crate::machine::media::relay::RelayCounts;
use crate::machine::media::relay::RelaySettings;
use crate::machine::media::relay::Sessions;
use crate::machine::media::relay::Verdict;
use crate::machine::outbox::Aor;
use crate::machine::outbox::Bound;
use crate::machine::outbox::Mesh;
use crate::machine::outbox::Outbox;
use crate::machine::outbox::Output;
use crate::machine::registrar::Registrar;
use crate::machine::settings::Settings;
use crate::machine::source_limit::Ask;
use crate::machine::source_limit::SourceLimit;
use crate::machine::transaction::key::merge_key;
use crate::machine::transaction::key::server_key;
use crate::wire::event::Body;
use crate::wire::event::By;
use crate::wire::link::Phone;
use crate::wire::link::RecordWish;
use crate::wire::link::TraceStep;
use crate::wire::sip::Contact;
use crate::wire::sip::Message;
use crate::wire::sip::Method;
use crate::wire::sip::Scan;
use crate::wire::sip::Status;
use crate::wire::sip::Transport;
use crate::wire::sip::scan;

#[derive(Debug, Serialize, Deserialize)]
pub struct Exchange {
    shard: ShardId,
    random: Random,
    sources: SourceLimit,
    fallback: Fallback,
    registrar: Registrar,
    lingering: Lingering,
    calls: Calls,
    locating: Locating,
    relay: Relay,
    ports: PortPool,
    admission: Admission,
    history: History,
    counts: Counts,
    is_draining: bool,
}

#[derive(Debug)]
pub enum Input<'a> {
    /// A datagram, or one message of a connection.
    Sip {
        flow: Flow,
        bytes: &'a [u8],
    },
    Mesh {
        from: ShardId,
        message: Mesh,
    },
    /// A connection of this shard ended.
    FlowClosed(Flow),
    /// The directory in [`Shared`] is another one than before.
    DirectoryChanged,
    Drain(bool),
    /// Ends a call.
    Hangup {
        call: CallId,
        by: By,
        text: String,
    },
    Record {
        call: CallId,
        wish: RecordWish,
        by: By,
    },
    /// Ends all calls.
    HangupAll,
    /// A call's step panics: a test of isolation.
    Fault(CallId),
}

impl Exchange {
    /// `seed` is random; `pairs` are the RTP ports of the shard in the order of their slots.
    pub fn new(shard: ShardId, seed: u64, pairs: Vec<Pair>, settings: &Settings, now: Now) -> Self {
        let relay = Relay::new(relay_settings(settings, &pairs), pairs.len());
        let (mut random, mut ports) = (Random::new(seed), PortPool::new(pairs));
        ports.begin_anywhere(&mut random);
        Self {
            shard,
            random,
            sources: SourceLimit::new(),
            fallback: Fallback::default(),
            registrar: Registrar::new(settings.secrets.hash),
            lingering: Lingering::new(),
            calls: Calls::new(now.instant),
            locating: Locating::default(),
            relay,
            ports,
            admission: Admission::default(),
            history: History::default(),
            counts: Counts::default(),
            is_draining: false,
        }
    }

    pub fn handle(&mut self, input: Input<'_>, now: Now, shared: Shared<'_>, out: &mut Outbox) {
        let mark = out.len();
        self.calls.concerned = None;
        match input {
            Input::Sip { flow, bytes } => self.on_sip(flow, bytes, true, now, shared, out),
            Input::Mesh { from, message } => self.on_mesh(from, message, now, shared, out),
            Input::FlowClosed(flow) => {
                // Whose bindings and calls used it is not known here: every shard is told.
                for shard in (0..shared.settings.shards).map(ShardId).filter(|shard| *shard != self.shard) {
                    out.push(Output::Mesh { to: shard, message: Mesh::FlowClosed { flow } });
                }
                self.on_flow_closed(flow, now, shared, out);
            }
            Input::DirectoryChanged => self.registrar.directory_changed(),
            Input::Drain(on) => self.is_draining = on,
            Input::Hangup { call, by, text } => {
                if let Some(handle) = self.calls.find(call) {
                    self.on_call(handle, CallInput::Hangup { by, text }, now, shared, out);
                }
            }
            Input::Record { call, wish, by } => {
                if let Some(handle) = self.calls.find(call) {
                    self.on_call(handle, CallInput::Record { wish, by }, now, shared, out);
                }
            }
            Input::HangupAll => self.hang_up_all(now, shared, out),
            Input::Fault(call) => {
                if let Some(handle) = self.calls.find(call) {
                    self.on_call(handle, CallInput::Fault, now, shared, out);
                }
            }
        }
        self.settle(mark, now, shared, out);
        self.history.observe(out.after(mark), now.unix, &shared.settings.secrets.hash);
    }

    /// A packet at an RTP or RTCP slot: decided in place, without allocation.
    pub fn relay(
        &mut self,
        slot: u32,
        source: SocketAddr,
        packet: &[u8],
        now: Now,
        shared: Shared<'_>,
        out: &mut Outbox,
    ) -> Verdict {
        let verdict = self.relay.packet(slot, source, packet, now);
        self.settle(out.len(), now, shared, out);
        verdict
    }

    /// Where on the tape the packet last given to [`Exchange::relay`] belongs.
    #[inline]
    pub fn fork(&self) -> Option<Fork> {
        self.relay.fork()
    }

    /// Where a copy of the last packet goes that [`Exchange::relay`] forwarded, from the same slot.
    #[inline]
    pub fn copy_to(&self) -> Option<SocketAddr> {
        self.relay.copy_to()
    }

    pub fn handle_timeout(&mut self, now: Now, shared: Shared<'_>, out: &mut Outbox) {
        let mark = out.len();
        self.calls.concerned = None;
        let due = self.calls.due(now.instant);
        let is_shared = due.len() > 1;
        for handle in due {
            let (mark, owner) = (out.len(), self.calls.owner(handle));
            let Self { random, ports, admission, .. } = self;
            let around = Surroundings { shard: self.shard, random, ports, admission, now, shared };
            self.calls.handle_timeout(handle, around, out);
            self.keep_answers(mark, owner, now, out);
        }
        for located in self.locating.handle_timeout(now.instant) {
            self.on_located(located, now, shared, out);
        }
        self.registrar.handle_timeout(now, shared.directory, out);
        self.lingering.handle_timeout(now.instant);
        self.admission.handle_timeout(now.instant, out);
        self.tell_where_phones_are(now, shared, out);
        self.relay.handle_timeout(now);
        let Self { relay, calls, .. } = self;
        relay.play(now, |owner| calls.get(owner.call).map_or(&[], |call| who::announcement(call.tenant(), shared)));
        self.settle(mark, now, shared, out);
        self.history.observe(out.after(mark), now.unix, &shared.settings.secrets.hash);
        if is_shared {
            self.calls.concerned = None;
        }
    }

    pub fn next_deadline(&self) -> Option<Instant> {
        let deadlines = [
            self.calls.next_deadline(),
            self.locating.next_deadline(),
            self.registrar.next_deadline(),
            self.lingering.next_deadline(),
            self.admission.next_deadline(),
            self.sources.next_deadline(),
            self.relay.next_deadline(),
        ];
        deadlines.into_iter().flatten().min()
    }

    fn on_sip(
        &mut self,
        flow: Flow,
        bytes: &[u8],
        is_first_reader: bool,
        now: Now,
        shared: Shared<'_>,
        out: &mut Outbox,
    ) {
        // RFC 3261 §7.5 and RFC 5626 §4.4.1: line ends alone keep a path open and want no answer over UDP.
        if bytes.iter().all(|byte| matches!(byte, b'\r' | b'\n' | 0)) {
            self.counts.keep_alives += 1;
            return;
        }
        let transport = flow.transport();
        match scan(bytes, transport) {
            Scan::Ok(message) => {
                if is_first_reader {
                    self.counts.read.count(kind(&message, transport));
                }
                if message.is_request() {
                    self.on_request(flow, &message, is_first_reader, now, shared, out);
                } else {
                    self.on_response(flow, &message, now, shared, out);
                }
            }
            Scan::Answerable { status, fault, message } => {
                self.counts.unreadable(Unreadable::of(fault));
                if self.may_answer(&message, flow, Ask::Garbage, now, shared) {
                    let bytes = answer::stateless(&message, flow, status, shared);
                    self.send_bounded(&message, flow, bytes, shared, out);
                }
            }
            Scan::Drop(reason) => {
                self.counts.unreadable(Unreadable::of_drop(reason));
                self.sources.garbage(&flow, now.instant, shared);
            }
        }
    }

    fn on_response(&mut self, flow: Flow, message: &Message<'_>, now: Now, shared: Shared<'_>, out: &mut Outbox) {
        let Some(place) = owner::of_response(message) else {
            self.counts.strays += 1;
            return;
        };
        if place.shard != self.shard {
            self.pass_on(place.shard, flow, message, out);
        } else if self.calls.get(place.call).is_some() {
            self.on_call(place.call, CallInput::Response { leg: place.leg, message }, now, shared, out);
        } else {
            self.counts.strays += 1;
        }
    }

    fn on_request(
        &mut self,
        flow: Flow,
        message: &Message<'_>,
        is_first_reader: bool,
        now: Now,
        shared: Shared<'_>,
        out: &mut Outbox,
    ) {
        if let Some(place) = owner::of_dialog(message) {
            self.on_dialog_request(place, flow, message, Asked::Nobody, now, shared, out);
            return;
        }
        // RFC 3261 §12.2.2: a To tag that is not ours names a dialog that does not exist.
        if message.method() == Method::Invite && message.to().is_ok_and(|to| to.tag().is_some()) {
            self.answer_stranger(message, flow, Status::CALL_DOES_NOT_EXIST, now, shared, out);
            return;
        }
        if is_first_reader && let Err(refusal) = screen::check(message) {
            self.refuse_stranger(message, flow, &refusal, now, shared, out);
            return;
        }
        match message.method() {
            Method::Options => self.on_options(flow, message, is_first_reader, now, shared, out),
            Method::Register | Method::Invite => {
                let reading = digest::read(message, flow.peer.ip(), now.unix, shared);
                if is_first_reader && !self.gate(now, shared).screen(message, &reading, flow, out) {
                    return;
                }
                if self.pass_to_owner(flow, message, shared, out) {
                    return;
                }
                match message.method() {
                    Method::Register => self.on_register(flow, message, &reading, now, shared, out),
                    _ => self.on_invite(flow, message, &reading, now, shared, out),
                }
            }
            Method::Cancel if self.pass_to_owner(flow, message, shared, out) => {}
            Method::Cancel => self.on_cancel(flow, message, now, shared, out),
            // The ACK of an answer that was given without a transaction.
            Method::Ack => {}
            // RFC 3261 §12.2.2: a request that needs a dialog and has none.
            _ => self.answer_stranger(message, flow, Status::CALL_DOES_NOT_EXIST, now, shared, out),
        }
    }

    /// Passes a request outside any dialog on if another shard owns it; true if so.
    fn pass_to_owner(&mut self, flow: Flow, message: &Message<'_>, shared: Shared<'_>, out: &mut Outbox) -> bool {
        let owner = owner::of_request(message, shared);
        if owner != self.shard {
            self.pass_on(owner, flow, message, out);
        }
        owner != self.shard
    }

    fn on_register(
        &mut self,
        flow: Flow,
        message: &Message<'_>,
        reading: &Reading<'_>,
        now: Now,
        shared: Shared<'_>,
        out: &mut Outbox,
    ) {
        let key = repeat_key(flow, message, shared);
        if self.repeat_answer(message, key, flow, out) {
            return;
        }
        let mark = out.len();
        let admitted = self.gate(now, shared).admit(message, reading, flow, out);
        if let Some(phone) = admitted
            && let Some(owner) = self.admits_registration(phone, flow, message, now, shared, out)
        {
            if flow.is_reliable() {
                out.push(Output::Keep { flow });
            }
            let bytes = self.registrar.register(message, flow, phone, now, shared, &mut self.random, out);
            if bytes.starts_with(b"SIP/2.0 200") {
                self.sources.registered(&flow, &phone.tenant, &phone.user, now.instant, shared.settings);
            }
            self.lingering.insert(key, &flow, &bytes, owner, now.instant);
            self.send(message, flow, Some(bytes), out);
        }
        let secret = &shared.settings.secrets.hash;
        self.note_failure(mark, message, now, shared, out);
        let subject = match admitted {
            Some(phone) => Some(history::key(&phone.tenant, &phone.user, secret)),
            None => who::sender(message, shared).map(|aor| history::key(&aor.tenant, &aor.user, secret)),
        };
        if let Some(subject) = subject {
            let answer = out.status_line_after(mark).unwrap_or("silence: the source is over its limit");
            self.history.step(subject, Rule::Register, Reason::answered(flow, answer), now.unix);
        }
    }

    /// Failover watches OPTIONS: answered by whoever reads it, for anybody. Who shows a credential is told of a user what an INVITE would be
    /// (RFC 3261 §11.2); nobody else learns who is there.
    fn on_options(
        &mut self,
        flow: Flow,
        message: &Message<'_>,
        is_first_reader: bool,
        now: Now,
        shared: Shared<'_>,
        out: &mut Outbox,
    ) {
        let about = message.request_uri().ok().filter(|uri| uri.user().is_some());
        let reading = digest::read(message, flow.peer.ip(), now.unix, shared);
        let (Some(uri), Reading::Claim(_), true) = (about, &reading, self.takes_calls()) else {
            if self.may_answer(message, flow, Ask::Other, now, shared) {
                let lean = !flow.is_reliable() && !shared.settings.is_trusted(flow.peer.ip());
                let bytes = answer::options(message, flow, self.takes_calls(), lean, shared);
                self.send_bounded(message, flow, bytes, shared, out);
            }
            return;
        };
        if is_first_reader && !self.gate(now, shared).screen(message, &reading, flow, out) {
            return;
        }
        let key = repeat_key(flow, message, shared);
        if self.pass_to_owner(flow, message, shared, out) || self.repeat_answer(message, key, flow, out) {
            return;
        }
        let Some(phone) = self.gate(now, shared).admit(message, &reading, flow, out) else { return };
        let Some(owner) = self.admits_registration(phone, flow, message, now, shared, out) else { return };
        let bytes = match who::dialled(uri, phone, shared).called {
            Called::Phones(_) => answer::options(message, flow, true, false, shared),
            Called::Nobody => answer::stateless(message, flow, Status::NOT_FOUND, shared),
        };
        if let Some(bytes) = &bytes {
            self.lingering.insert(key, &flow, bytes, owner, now.instant);
        }
        self.send(message, flow, bytes, out);
    }

    fn on_invite(
        &mut self,
        flow: Flow,
        message: &Message<'_>,
        reading: &Reading<'_>,
        now: Now,
        shared: Shared<'_>,
        out: &mut Outbox,
    ) {
        let key = server_key(&shared.settings.secrets.hash, message, flow.peer.ip(), Method::Invite);
        if let Some(handle) = self.calls.find_invite(key) {
            self.on_call(handle, CallInput::Request { message, flow: flow.answer(message) }, now, shared, out);
            return;
        }
        let repeat = repeat_key(flow, message, shared);
        if self.repeat_answer(message, repeat, flow, out) {
            return;
        }
        // RFC 3261 §8.2.2.2: "If the request has no tag in the To header field, the UAS core MUST check the request against
        // ongoing transactions. If the From tag, Call-ID, and CSeq exactly match those associated with an ongoing transaction,
        // but the request does not match that transaction […], the UAS core SHOULD generate a 482 (Loop Detected) response".
        // Before the digest, whose nonce count the first copy has used up; every other method is answered before a copy comes.
        if self.calls.is_merged(merge_key(&shared.settings.secrets.hash, message)) {
            self.counts.merged += 1;
            self.answer(message, flow, Status::LOOP_DETECTED, shared, out);
            return;
        }
        let mark = out.len();
        let Some(phone) = self.gate(now, shared).admit(message, reading, flow, out) else {
            return self.note_failure(mark, message, now, shared, out);
        };
        let aor = Aor { tenant: phone.tenant.clone(), user: phone.user.clone() };
        let bound = self.registrar.bound(&aor, &way_to_sender(message, flow));
        let Some(mut invite) = invitation(message, flow.answer(message), phone, bound, shared) else {
            self.answer(message, flow, Status::BAD_REQUEST, shared, out);
            return;
        };
        let is_trusted = shared.settings.is_trusted(flow.peer.ip().to_canonical());
        let owner = admission::owner(phone, is_trusted, shared);
        if let Err(refusal) = self.admits_call(phone, owner, now, shared, out) {
            return self.turn_away(&invite, owner, refusal, repeat, now, shared, out);
        }
        if self.is_draining {
            // Refused like a call to nobody: it has a record.
            self.counts.refused_calls += 1;
            invite.destination = Destination::Refused { status: Status::SERVICE_UNAVAILABLE.code() };
        }
        let Self { random, ports, admission, .. } = self;
        let around = Surroundings { shard: self.shard, random, ports, admission, now, shared };
        self.counts.call_attempts += u64::from(self.calls.begin(key, owner, invite, around, out));
    }

    /// RFC 3261 §9.2: a CANCEL finds the INVITE whose transaction it names, or gets 481.
    fn on_cancel(&mut self, flow: Flow, message: &Message<'_>, now: Now, shared: Shared<'_>, out: &mut Outbox) {
        let key = server_key(&shared.settings.secrets.hash, message, flow.peer.ip(), Method::Invite);
        match self.calls.find_invite(key) {
            Some(handle) => {
                self.on_call(handle, CallInput::Request { message, flow: flow.answer(message) }, now, shared, out)
            }
            None if self.repeat_answer(message, repeat_key(flow, message, shared), flow, out) => {}
            None => self.answer_stranger(message, flow, Status::CALL_DOES_NOT_EXIST, now, shared, out),
        }
    }

    fn on_mesh(&mut self, from: ShardId, message: Mesh, now: Now, shared: Shared<'_>, out: &mut Outbox) {
        match message {
            Mesh::Sip { flow, bytes } => self.on_sip(flow, &bytes, false, now, shared, out),
            Mesh::Locate { request, aors } => {
                let targets = self.registrar.locate(&aors);
                out.push(Output::Mesh { to: from, message: Mesh::Located { request, targets } });
            }
            Mesh::Located { request, targets } => {
                if let Some(located) = self.locating.answer(request, from, targets) {
                    self.on_located(located, now, shared, out);
                }
            }
            Mesh::FlowClosed { flow } => self.on_flow_closed(flow, now, shared, out),
            Mesh::Vouch { aor, flow, bytes } => self.on_vouch(from, &aor, flow, bytes, out),
            Mesh::Vouched { flow, bytes, is_bound } => self.on_vouched(flow, &bytes, is_bound, now, shared, out),
            Mesh::Known { phones } => self.sources.hear(phones, now.instant),
            // Done by whoever drives this shard: it holds the connections.
            Mesh::Write { .. } | Mesh::Keep { .. } => {}
        }
    }

    /// Bindings and calls on a connection end with it.
    fn on_flow_closed(&mut self, flow: Flow, now: Now, shared: Shared<'_>, out: &mut Outbox) {
        self.registrar.flow_closed(&flow, now, out);
        for handle in self.calls.on_connection(flow) {
            self.on_call(handle, CallInput::FlowClosed(flow), now, shared, out);
        }
    }

    fn hang_up_all(&mut self, now: Now, shared: Shared<'_>, out: &mut Outbox) {
        let handles: Vec<_> = self.calls.iter().map(|(handle, _)| handle).collect();
        for handle in handles {
            let text = "the service stops".to_owned();
            self.on_call(handle, CallInput::Hangup { by: By::System, text }, now, shared, out);
        }
    }

    fn on_call(&mut self, handle: Handle, input: CallInput<'_>, now: Now, shared: Shared<'_>, out: &mut Outbox) {
        let (mark, owner) = (out.len(), self.calls.owner(handle));
        let Self { random, ports, admission, .. } = self;
        let around = Surroundings { shard: self.shard, random, ports, admission, now, shared };
        self.calls.handle(handle, input, around, out);
        self.keep_answers(mark, owner, now, out);
    }

    /// Answers within a call of this phone are kept and sent.
    fn keep_answers(&mut self, mark: usize, owner: Owner, now: Now, out: &mut Outbox) {
        out.send_answers(mark, |key, flow, bytes| self.lingering.insert(key, flow, bytes, owner, now.instant));
    }

    /// A failed authentication is remembered for the phone that the request says it is from, too: its digest name may be another.
    fn note_failure(&mut self, mark: usize, message: &Message<'_>, now: Now, shared: Shared<'_>, out: &Outbox) {
        let failed = out.after(mark).find_map(|output| match output {
            Output::Event { tenant, body: Body::AuthenticationFailed { user, source, cause }, .. } => {
                Some((tenant, user, format!("{cause} of {user:?} from {source}")))
            }
            _ => None,
        });
        let (Some((tenant, user, reason)), Some(aor)) = (failed, who::sender(message, shared)) else { return };
        if (tenant, user) != (&aor.tenant, &aor.user) {
            let key = history::key(&aor.tenant, &aor.user, &shared.settings.secrets.hash);
            self.history.step(key, Rule::Authentication, reason, now.unix);
        }
    }

    fn gate<'s>(&mut self, now: Now, shared: Shared<'s>) -> Gate<'_, 's> {
        let Self { sources, registrar, fallback, random, counts, .. } = self;
        Gate { sources, registrar, fallback, random, counts, now, shared }
    }

    /// Applies what a step wanted of this very shard, until nothing is left: media commands, locations.
    fn settle(&mut self, mark: usize, now: Now, shared: Shared<'_>, out: &mut Outbox) {
        loop {
            let internal = out.take_internal(mark);
            if internal.is_empty() && !self.relay.has_outputs() {
                return;
            }
            for output in internal {
                match output {
                    Output::Media(command) => self.relay.handle(command, now),
                    Output::Locate { call, aors } => self.ask(call, aors, now, shared, out),
                    _ => {}
                }
            }
            while let Some(output) = self.relay.next_output() {
                match output {
                    MediaOutput::Socket(command) => out.push(Output::Socket(command)),
                    MediaOutput::Packet { slot, to, bytes } => out.push(Output::Rtp { slot, to, bytes }),
                    MediaOutput::Notice(notice) => {
                        self.on_call(notice.owner.call, CallInput::Media(notice), now, shared, out)
                    }
                }
            }
        }
    }

    fn ask(&mut self, call: Handle, aors: Vec<Aor>, now: Now, shared: Shared<'_>, out: &mut Outbox) {
        let mut by_shard: Vec<(ShardId, Vec<Aor>)> = Vec::new();
        for aor in aors {
            let shard = owner::shard_of(&aor, shared);
            match by_shard.iter_mut().find(|(known, _)| *known == shard) {
                Some((_, aors)) => aors.push(aor),
                None => by_shard.push((shard, vec![aor])),
            }
        }
        let request = self.locating.ask(call, by_shard.iter().map(|(shard, _)| *shard), now.instant);
        for (shard, aors) in by_shard {
            if shard == self.shard {
                let targets = self.registrar.locate(&aors);
                if let Some(located) = self.locating.answer(request, shard, targets) {
                    self.on_located(located, now, shared, out);
                }
            } else {
                out.push(Output::Mesh { to: shard, message: Mesh::Locate { request, aors } });
            }
        }
    }

    fn on_located(&mut self, located: Located, now: Now, shared: Shared<'_>, out: &mut Outbox) {
        let Located { call, targets } = located;
        if self.calls.get(call).is_some_and(Call::is_locating) {
            self.counts.contacts_not_rung += targets.len().saturating_sub(BRANCHES_MAX) as u64;
        }
        self.on_call(call, CallInput::Targets(targets), now, shared, out);
    }

    /// RFC 3261 §17.2.2: a retransmission gets the response that the request had.
    fn repeat_answer(&mut self, request: &Message<'_>, key: lingering::Key, flow: Flow, out: &mut Outbox) -> bool {
        let Some(bytes) = self.lingering.find(key) else { return false };
        out.send(flow.answer(request), bytes.to_vec());
        self.counts.retransmissions += 1;
        true
    }

    fn answer(&mut self, message: &Message<'_>, flow: Flow, status: Status, shared: Shared<'_>, out: &mut Outbox) {
        let bytes = answer::stateless(message, flow, status, shared);
        self.send(message, flow, bytes, out);
    }

    /// The answer to a request that came over `flow`.
    fn send(&mut self, request: &Message<'_>, flow: Flow, bytes: Option<Vec<u8>>, out: &mut Outbox) {
        if let Some(bytes) = bytes {
            out.send(flow.answer(request), bytes);
        }
    }

    fn pass_on(&mut self, to: ShardId, flow: Flow, message: &Message<'_>, out: &mut Outbox) {
        self.counts.passed_on += 1;
        let bytes = message.bytes().to_vec();
        out.push(Output::Mesh { to, message: Mesh::Sip { flow, bytes } });
    }
}

/// What the API and the command line ask.
impl Exchange {
    pub fn calls_len(&self) -> usize {
        self.calls.len()
    }

    /// Entries by which calls are found: none where there are no calls.
    pub fn call_indexes_len(&self) -> usize {
        self.calls.indexes_len()
    }

    pub fn ports_in_use(&self) -> u32 {
        self.ports.counts.in_use
    }

    /// Dialogs and transactions.
    pub fn census(&self) -> Census {
        let completed = self.calls.census.completed + self.lingering.len() as u32;
        Census { completed, ..self.calls.census }
    }

    pub fn media_sessions(&self) -> Sessions {
        self.relay.sessions()
    }

    pub fn ports(&self, now: Now) -> PortStates {
        self.ports.states(now.instant)
    }

    /// Pairs that the relay takes packets for.
    pub fn open_pairs(&self) -> u32 {
        self.relay.open_count()
    }

    /// Finished transactions that wait for retransmissions.
    pub fn lingering(&self) -> usize {
        self.lingering.len()
    }

    /// Locations that other shards have been asked for.
    pub fn questions(&self) -> usize {
        self.locating.len()
    }

    /// Reliable provisional responses that went out as one with a later one of their status.
    pub fn provisionals_joined(&self) -> u64 {
        self.calls.provisionals_joined
    }

    /// Steps of calls that panicked.
    pub fn faults(&self) -> u64 {
        self.calls.faults
    }

    pub fn counts(&self) -> &Counts {
        &self.counts
    }

    pub fn relay_counts(&self) -> &RelayCounts {
        self.relay.counts()
    }

    /// Requests dropped because their source is over its limit.
    pub fn slowed(&self) -> u64 {
        self.sources.counters.slowed
    }

    /// Ports refused because their phone or tenant has its share.
    pub fn ports_unfair(&self) -> u64 {
        self.ports.counts.unfair
    }

    pub fn admission(&self) -> &Admission {
        &self.admission
    }

    pub fn answers(&self) -> &Lingering {
        &self.lingering
    }

    /// The same over UDP because its source proves nothing and there was no answer left for such.
    pub fn unanswered(&self) -> u64 {
        self.sources.counters.unanswered
    }

    /// The tables that say whom to answer: accounts of failures, sources with answers, phones with addresses.
    pub fn sources(&self) -> &SourceLimit {
        &self.sources
    }

    pub fn ports_exhausted(&self) -> u64 {
        self.ports.counts.exhausted
    }

    /// The call that the last input was about: what copies for a capture server are tied together by.
    pub fn concerned(&self) -> Option<CallId> {
        self.calls.concerned
    }

    pub fn live_calls(&self) -> impl Iterator<Item = crate::wire::link::LiveCall> + '_ {
        self.calls.iter().map(|(_, call)| call.live())
    }

    /// It is here, and has not been ended.
    pub fn is_up(&self, call: CallId) -> bool {
        self.calls.find(call).and_then(|handle| self.calls.get(handle)).is_some_and(|call| call.is_up())
    }

    /// The call of a media slot that is in use and in the clear, and the address of the slot's socket.
    pub fn call_of_slot(&self, slot: u32) -> Option<(CallId, SocketAddr)> {
        let id = PairId::of_slot(slot);
        let record = self.relay.record(id).filter(|record| !record.is_secure())?;
        let call = self.calls.get(record.owner?.call)?;
        let pair = self.ports.pair(id)?;
        Some((call.id(), if slot == id.rtcp_slot() { pair.rtcp } else { pair.rtp }))
    }

    /// The decisions about a call, by its id, or about a phone: `user@domain`, or `user` of the default tenant.
    pub fn trace(&self, subject: &str, shared: Shared<'_>) -> Option<Vec<TraceStep>> {
        if let Ok(call) = subject.parse() {
            let handle = self.calls.find(call)?;
            return self.calls.get(handle).map(|call| call.trace());
        }
        let (user, domain) = subject.rsplit_once('@').unwrap_or((subject, ""));
        let tenant = match domain {
            "" => shared.directory.default_tenant(),
            domain => shared.directory.tenant_of_domain(domain),
        };
        let aor = Aor { tenant: tenant?.name.clone(), user: user.to_owned() };
        self.history.of(&aor, &shared.settings.secrets.hash)
    }

    /// Takes over what an earlier life registered: the stored values of this shard's phones.
    pub fn restore_bindings(&mut self, values: &[Vec<u8>], settings: &Settings, now: Now) {
        self.registrar = Registrar::restore(settings.secrets.hash, values.iter().map(Vec::as_slice), now);
        for (tenant, user, flow) in self.registrar.flows() {
            self.sources.registered(flow, tenant, user, now.instant, settings);
        }
    }

    pub fn registrar(&self) -> &Registrar {
        &self.registrar
    }
}

fn kind(message: &Message<'_>, transport: Transport) -> Kind {
    let method = message.method();
    match message.response() {
        None => Kind::Request { method, transport },
        Some(response) => Kind::Response { method, status: response.status.code() },
    }
}

/// How requests reach whoever sent this one.
fn way_to_sender(request: &Message<'_>, flow: Flow) -> Flow {
    match request.contacts().next() {
        Some(Ok(Contact::Address(address))) => address.parse_uri().map_or(flow, |uri| flow.requests(request, uri)),
        _ => flow.answer(request),
    }
}

fn repeat_key(flow: Flow, message: &Message<'_>, shared: Shared<'_>) -> lingering::Key {
    lingering::Key::of(message, flow.peer.ip(), &shared.settings.secrets.hash)
}

/// What the relay may not send to, and when it calls a stream silent.
fn relay_settings(settings: &Settings, pairs: &[Pair]) -> RelaySettings {
    let ports = || pairs.iter().flat_map(|pair| [pair.rtp.port(), pair.rtcp.port()]);
    let mut own: Vec<_> = pairs.iter().map(|pair| pair.rtp.ip()).collect();
    own.dedup();
    own.sort();
    own.dedup();
    RelaySettings {
        own,
        own_ports: (ports().min().unwrap_or(0), ports().max().unwrap_or(0)),
        bounds: settings.media.clone(),
        media_timeout: settings.media_timeout,
    }
}

/// The authenticated caller and whom it reaches; `None` where the Request-URI is none.
fn invitation<'a>(
    message: &'a Message<'a>,
    flow: Flow,
    phone: &Phone,
    bound: Option<Bound>,
    shared: Shared<'_>,
) -> Option<Invite<'a>> {
    let uri = message.request_uri().ok()?;
    let tenant = shared.directory.tenant(&phone.tenant)?;
    let caller = CallerIdentity {
        tenant: phone.tenant.clone(),
        domain: tenant.domain.clone(),
        phone: phone.user.clone(),
        number: if phone.extension.is_empty() { phone.user.clone() } else { phone.extension.clone() },
        name: phone.name.clone(),
    };
    let Dialled { number: dialled, called } = who::dialled(uri, phone, shared);
    let destination = match called {
        Called::Phones(aors) => Destination::Phones(aors),
        Called::Nobody => Destination::Refused { status: Status::NOT_FOUND.code() },
    };
    let record = who::recorded(phone, tenant, &destination, shared);
    let symmetric = who::symmetric(phone, &destination, shared);
    Some(Invite { message, flow, caller, dialled, destination, record, symmetric, bound })
}
