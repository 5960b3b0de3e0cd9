//! One phone: registers, calls, answers, holds, transfers, is rebooted, and has the faults of its firmware.
//!
//! Sans-IO: [`Phone::handle`], [`Phone::handle_timeout`], [`Phone::next_deadline`]; what it wants done goes to the [`Desk`]. Its
//! randomness is its own and seeded. All its messages go to the server, as from a desk phone with an outbound proxy.

mod call;
mod incoming;
mod outbox;
mod outgoing;
mod register;
mod request;
mod talk;

#[cfg(test)]
mod tests;

use crate::base::id::Handle;
use crate::base::random::Random;
use crate::base::time::Instant;
use crate::process::phlem::figures::Outcome;
use crate::process::phlem::scenario::Quirk;
use crate::process::phlem::sip::digest::Challenge;
use crate::process::phlem::sip::message::Message;
use crate::process::phlem::sip::message::Method;
use crate::process::phlem::sip::message::Style;
use crate::process::phlem::sip::transaction;
use crate::process::phlem::sip::transaction::Due;
use crate::process::phlem::sip::transaction::Heard;
use crate::process::phlem::sip::value::Via;
use crate::shard::run::Flow;

use call::Call;
pub use outbox::Desk;
pub use outbox::Effect;
pub use outbox::Plan;
pub use outbox::Ports;
pub use outbox::Settings;
pub use outbox::Speech;
pub use outbox::To;
pub use outbox::Transfer;
pub use register::REGISTERED_WITHIN;
use register::Registration;

type Client = transaction::Client<Purpose>;
type Server = transaction::Server<Flow>;

/// What a request of the phone is for; the number is the call's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Purpose {
    Register,
    Unregister,
    Invite(u64),
    Reinvite(u64),
    Cancel(u64),
    Bye(u64),
    Refer(u64),
    Info(u64),
    Notify(u64),
}

/// Requests that a phone has under way, or answered lately: further ones are refused.
const TRANSACTIONS_MAX: usize = 64;

pub struct Phone {
    /// Its place among the phones of its thread; part of its Contact and its branches.
    pub index: u32,
    population: u16,
    /// Its number in the population.
    pub member: u32,
    /// To the server, over TCP.
    pub connection: Option<Handle>,
    quirk: Option<Quirk>,
    random: Random,
    /// Which of the shared sockets it sends from.
    socket: u32,
    is_on: bool,
    registration: Registration,
    /// The last of the registrar, and of a proxy.
    challenges: [Option<Box<Challenge>>; 2],
    transactions: u32,
    clients: Vec<Client>,
    servers: Vec<Server>,
    #[expect(clippy::vec_box, reason = "phones are many, calls few and large: an idle phone pays 24 bytes")]
    calls: Vec<Box<Call>>,
}

impl Phone {
    /// Off, until [`Phone::switch_on`].
    pub fn new(index: u32, population: u16, member: u32, quirk: Option<Quirk>, mut random: Random) -> Self {
        let registration = Registration::new(random.next_u64());
        Self {
            index,
            population,
            member,
            connection: None,
            quirk,
            random,
            socket: index,
            is_on: false,
            registration,
            challenges: [None, None],
            transactions: 0,
            clients: Vec::new(),
            servers: Vec::new(),
            calls: Vec::new(),
        }
    }

    pub fn population(&self) -> u16 {
        self.population
    }

    pub fn is_registered(&self) -> bool {
        self.registration.is_valid
    }

    pub fn is_on(&self) -> bool {
        self.is_on
    }

    pub fn calls(&self) -> usize {
        self.calls.len()
    }

    /// Whether nothing is under way but repetitions that nobody needs.
    pub fn is_quiet(&self) -> bool {
        self.calls.is_empty() && self.clients.iter().all(transaction::Client::is_completed)
    }

    /// Shared socket of this phone.
    pub fn socket(&self, settings: &Settings) -> usize {
        self.socket as usize % settings.signalling.len().max(1)
    }

    /// Its first registration goes out at `at`.
    pub fn switch_on(&mut self, at: Instant, desk: &mut Desk<'_>) {
        self.is_on = true;
        self.start_registering(at, desk);
    }

    /// Power is gone: no word to anybody, everything forgotten.
    pub fn cut_power(&mut self, desk: &mut Desk<'_>) {
        while let Some(call) = self.calls.pop() {
            if call.is_caller {
                // As the scenario wanted it.
                let is_up = call.answered_at.is_some();
                desk.figures.end(if is_up { Outcome::Completed } else { Outcome::Cancelled });
                desk.figures.calls_good += 1;
            }
            self.bury(&call, desk);
        }
        self.clients = Vec::new();
        self.servers = Vec::new();
        self.challenges = [None, None];
        self.is_on = false;
        self.set_registered(false, desk);
        self.set_owed(false, desk);
        self.registration = Registration::new(self.random.next_u64());
        desk.effects.push(Effect::Disconnect);
    }

    /// The NAT in front of it forgot it: from here on its traffic comes from another port.
    pub fn rebind(&mut self, desk: &mut Desk<'_>) {
        self.socket = self.socket.wrapping_add(1);
        // A phone does not know; it is the next registration or keep-alive that tells the server.
        let population = desk.settings.population(self.population);
        if population.keepalive.0.is_zero() {
            self.registration.hurry(desk.now.instant);
        }
    }

    /// The connection to the server is gone.
    pub fn on_closed(&mut self, desk: &mut Desk<'_>) {
        for client in &mut self.clients {
            client.break_off(desk.now.instant);
        }
        if self.is_on {
            self.registration.reconnect(desk.now.instant, &mut self.random);
        }
    }

    pub fn handle(&mut self, message: Message<'_>, flow: Flow, desk: &mut Desk<'_>) {
        if !self.is_on {
            desk.figures.strays += 1;
            return;
        }
        match message.method() {
            None => self.on_response(&message, desk),
            Some(Method::Known(rsip::Method::Ack)) => self.on_ack(&message, desk),
            Some(_) => self.on_request(message, flow, desk),
        }
    }

    fn on_response(&mut self, message: &Message<'_>, desk: &mut Desk<'_>) {
        let now = desk.now.instant;
        let id = message.value("Via").and_then(Via::parse).and_then(|via| place_of_branch(via.branch()?));
        let code = message.code().unwrap_or(0);
        // CANCEL has the branch of its INVITE: the method of CSeq tells their answers apart.
        let is_invite = message.cseq().is_some_and(|(_, method)| method == "INVITE");
        let found = id.and_then(|(_, id)| {
            self.clients.iter().position(|client| client.id == id && client.is_invite == is_invite)
        });
        let Some(place) = found else {
            // A 2xx comes until it is acknowledged, and its transaction is gone by then.
            if !self.acknowledge_again(message, desk) {
                desk.figures.strays += 1;
            }
            return;
        };
        let client = &mut self.clients[place];
        let purpose = client.purpose;
        match client.on_response(code, now) {
            Heard::Provisional => {
                if let Purpose::Invite(call) = purpose {
                    self.on_provisional(call, code, message, desk);
                }
            }
            Heard::Again => {
                desk.figures.repeats_received += 1;
                if client.is_invite {
                    desk.send(To::Server, client.bytes.clone());
                }
            }
            Heard::Final => {
                let (begun, is_over) = (client.begun, client.next_deadline() <= now);
                if client.is_invite && code >= 300 {
                    let ack = self.ack_of_refusal(place, message);
                    self.clients[place].bytes = ack.clone();
                    desk.send(To::Server, ack);
                }
                if is_over {
                    self.clients.swap_remove(place);
                }
                self.on_final(purpose, begun, code, message, desk);
                // Another request follows in a call that is up.
                if self.calls.is_empty() {
                    shrink(&mut self.clients);
                }
            }
        }
    }

    fn on_final(&mut self, purpose: Purpose, begun: Instant, code: u16, message: &Message<'_>, desk: &mut Desk<'_>) {
        if matches!(code, 401 | 407) && self.take_challenge(purpose, code, message, desk) {
            return;
        }
        match purpose {
            Purpose::Register | Purpose::Unregister => self.on_registered(purpose, code, message, desk),
            Purpose::Invite(call) => self.on_invite_final(call, begun, code, message, desk),
            Purpose::Reinvite(call) => self.on_reinvite_final(call, code, message, desk),
            Purpose::Refer(call) => self.on_refer_final(call, code, desk),
            Purpose::Bye(call) => self.on_bye_final(call, desk),
            Purpose::Info(_) if code >= 300 => desk.figures.fail(&format!("INFO {code}")),
            Purpose::Cancel(_) | Purpose::Info(_) | Purpose::Notify(_) => {}
        }
    }

    /// Nobody answered a request.
    fn on_silence(&mut self, purpose: Purpose, desk: &mut Desk<'_>) {
        match purpose {
            Purpose::Register | Purpose::Unregister => self.on_register_silence(desk),
            Purpose::Invite(call) => self.on_invite_silence(call, desk),
            Purpose::Bye(call) => {
                desk.figures.fail("BYE not answered");
                self.on_bye_final(call, desk);
            }
            Purpose::Reinvite(call) | Purpose::Refer(call) => {
                desk.figures.fail("request in a call not answered");
                self.hang_up(call, desk);
            }
            Purpose::Cancel(_) | Purpose::Info(_) | Purpose::Notify(_) => {}
        }
    }

    pub fn next_deadline(&self) -> Instant {
        let clients = self.clients.iter().map(transaction::Client::next_deadline);
        let servers = self.servers.iter().map(transaction::Server::next_deadline);
        let calls = self.calls.iter().map(|call| call.next_deadline());
        let own = if self.is_on { self.registration.next_deadline() } else { Instant::NEVER };
        clients.chain(servers).chain(calls).fold(own, Instant::min)
    }

    pub fn handle_timeout(&mut self, desk: &mut Desk<'_>) {
        self.repeat_requests(desk);
        self.repeat_answers(desk);
        self.calls_timeout(desk);
        if self.is_on {
            self.registration_timeout(desk);
        }
    }

    fn repeat_requests(&mut self, desk: &mut Desk<'_>) {
        let now = desk.now.instant;
        let mut place = 0;
        while let Some(client) = self.clients.get_mut(place) {
            match client.handle_timeout(now) {
                Due::Nothing => place += 1,
                Due::Repeat => {
                    desk.figures.repeats_sent += 1;
                    desk.send(To::Server, client.bytes.clone());
                    place += 1;
                }
                Due::Over => {
                    self.clients.swap_remove(place);
                }
                Due::GiveUp => {
                    let client = self.clients.swap_remove(place);
                    self.on_silence(client.purpose, desk);
                }
            }
        }
        shrink(&mut self.clients);
    }

    fn repeat_answers(&mut self, desk: &mut Desk<'_>) {
        let now = desk.now.instant;
        let mut place = 0;
        while let Some(server) = self.servers.get_mut(place) {
            match server.handle_timeout(now) {
                Due::Nothing => place += 1,
                Due::Repeat => {
                    desk.figures.repeats_sent += 1;
                    desk.send(To::Flow(server.flow), server.bytes.clone());
                    place += 1;
                }
                Due::Over => {
                    self.servers.swap_remove(place);
                }
                Due::GiveUp => {
                    let server = self.servers.swap_remove(place);
                    if server.is_success {
                        // RFC 3261 §13.3.1.4: "If the server retransmits the 2xx response for 64*T1 seconds without receiving an
                        // ACK, the dialog is confirmed, but the session SHOULD be terminated."
                        desk.figures.fail("no ACK came");
                        self.hang_up(server.call, desk);
                    }
                }
            }
        }
        shrink(&mut self.servers);
    }

    fn has(&self, quirk: Quirk) -> bool {
        self.quirk == Some(quirk)
    }

    fn style(&self) -> Style {
        Style {
            odd_order: self.has(Quirk::HeaderOrder),
            compact: self.has(Quirk::CompactForms),
            folding: self.has(Quirk::Folding),
            odd_case: self.has(Quirk::OddCase),
            odd_spaces: self.has(Quirk::OddSpaces),
        }
    }
}

/// Memory of a phone that is idle again.
fn shrink<T>(list: &mut Vec<T>) {
    if list.is_empty() && list.capacity() > 0 {
        *list = Vec::new();
    }
}

/// Branches of ours: then the phone's place and the transaction's, so that an answer finds both without a table.
const BRANCH_START: &str = "z9hG4bKph";

/// The phone and the transaction that a branch names.
pub fn place_of_branch(branch: &str) -> Option<(u32, u32)> {
    let mut parts = branch.strip_prefix(BRANCH_START)?.split('-');
    let mut number = || u32::from_str_radix(parts.next()?, 16).ok();
    Some((number()?, number()?))
}
