//! The phones of one thread: whose a message is, when a phone's time has come, who calls whom, what happens to whom.
//!
//! A phone never leaves its thread. Answers find it by their branch, requests by `line` in the URI they are for, so that many
//! phones share a socket and no table is kept. Calls between threads go through the server like all others.

use std::collections::BTreeMap;
use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::Duration;

use crate::base::id::Handle;
use crate::base::random::Random;
use crate::base::time::Instant;
use crate::base::time::Now;
use crate::base::timer::Alarm;
use crate::base::timer::Wheel;
use crate::process::clock;
use crate::process::phlem::figures::Figures;
use crate::process::phlem::media::LegEnd;
use crate::process::phlem::phone::Desk;
use crate::process::phlem::phone::Effect;
use crate::process::phlem::phone::Phone;
use crate::process::phlem::phone::Ports;
use crate::process::phlem::phone::Settings;
use crate::process::phlem::phone::To;
use crate::process::phlem::phone::place_of_branch;
use crate::process::phlem::run::Phase;
use crate::process::phlem::run::happening::Happenings;
use crate::process::phlem::run::legs::Legs;
use crate::process::phlem::run::traffic::Traffic;
use crate::process::phlem::scenario::Transport;
use crate::process::phlem::sip::message::Message;
use crate::process::phlem::sip::value::Uri;
use crate::process::phlem::sip::value::Via;
use crate::process::phlem::sip::value::param;
use crate::shard::mesh::Member;
use crate::shard::run::Effects;
use crate::shard::run::Flow;
use crate::shard::run::ShardMachine;
use crate::shard::run::Verdict;
use crate::shard::udp::Slot;

/// Between the threads of a run.
#[derive(Debug)]
pub(super) enum Note {
    /// To a thread: hang up, unregister, end.
    Stop,
    /// From a thread: where it stands.
    Figures { figures: Box<Figures>, ends: Vec<LegEnd>, phase: Phase },
    /// From a thread: what one leg heard.
    Recording { name: String, wav: Vec<u8> },
    /// From a thread: its phones are quiet.
    Done(Box<Figures>, Vec<LegEnd>),
}

const TELL_EVERY: Duration = Duration::from_millis(250);
/// Phones act, and frames go out, so much later than they would at most. 20 ms are whole steps: it makes no jitter.
const SIGNALLING_GRID: Duration = Duration::from_millis(2);
const AUDIO_GRID: Duration = Duration::from_millis(1);
/// Phones whose time has come, of one turn.
const PHONES_PER_TURN: usize = 512;
/// Calls begin when all phones are registered, and so long after the ramp at the latest.
pub(super) const SETTLE_MAX: Duration = Duration::from_secs(5);
/// What is under way at the end gets this.
const FAREWELL: Duration = Duration::from_secs(4);
/// A keep-alive's answer, or whatever else is too short.
const SHORTEST_MESSAGE: usize = 12;

/// When the parts of a run begin.
#[derive(Clone, Copy, Debug)]
pub(super) struct Times {
    pub(super) ramp_until: Instant,
    pub(super) calls_from: Instant,
    pub(super) calls_until: Instant,
    pub(super) end_at_latest: Instant,
}

impl Times {
    const fn ramp(ramp_until: Instant) -> Self {
        let never = Instant::NEVER;
        Self { ramp_until, calls_from: never, calls_until: never, end_at_latest: never }
    }

    fn settle(&mut self, settings: &Settings, now: Instant, is_endless: bool) {
        self.calls_from = now;
        self.calls_until = if is_endless { Instant::NEVER } else { now + settings.scenario.duration.0 };
        self.end_at_latest = self.calls_until + settings.scenario.wind_down.0;
    }
}

/// When a phone wants to be woken, held apart from it: phones lie far from each other in memory.
#[derive(Clone, Copy)]
struct Timer {
    alarm: Alarm,
    deadline: Instant,
}

impl Timer {
    fn enter(&mut self, index: u32, wheel: &mut Wheel<u32>) {
        self.alarm.set(Some(self.deadline).filter(|deadline| *deadline != Instant::NEVER), index, wheel);
    }
}

pub(super) struct Floor {
    settings: Settings,
    phones: Vec<Phone>,
    timers: Vec<Timer>,
    wheel: Wheel<u32>,
    due: Vec<u32>,
    ports: Ports,
    legs: Legs,
    traffic: Traffic,
    happenings: Happenings,
    connections: BTreeMap<Handle, u32>,
    figures: Figures,
    effects: Vec<Effect>,
    /// What the phones want done, in order.
    out: VecDeque<(u32, Effect)>,
    notes: VecDeque<Note>,
    times: Times,
    phase: Phase,
    is_endless: bool,
    /// Phones that register at all.
    registering: u64,
    random: Random,
    is_leaving: bool,
    quiet_at: Instant,
    tell_at: Instant,
    /// When it last told, and what this thread had taken of its CPU by then.
    told: (Instant, Duration),
    is_done: bool,
    /// The last figures are to be sent when the last ports are closed.
    owes_last_word: bool,
    now: Now,
}

impl Floor {
    pub(super) fn new(
        settings: Settings,
        phones: Vec<Phone>,
        ports: Ports,
        legs: Legs,
        mut random: Random,
        is_endless: bool,
        now: Now,
    ) -> Self {
        let times = Times::ramp(now.instant + settings.scenario.ramp.0);
        let registers = |phone: &&Phone| settings.population(phone.population()).register;
        let registering = phones.iter().filter(registers).count() as u64;
        let figures = Figures { phones: phones.len() as u64, registering, threads: 1, ..Figures::default() };
        let mut floor = Self {
            timers: vec![Timer { alarm: Alarm::new(), deadline: Instant::NEVER }; phones.len()],
            wheel: Wheel::new(now.instant),
            due: Vec::new(),
            ports,
            legs,
            traffic: Traffic::none(),
            happenings: Happenings::none(),
            connections: BTreeMap::new(),
            figures,
            effects: Vec::new(),
            out: VecDeque::new(),
            notes: VecDeque::new(),
            times,
            phase: Phase::Ramp,
            is_endless,
            registering,
            random: Random::new(random.next_u64()),
            is_leaving: false,
            quiet_at: Instant::NEVER,
            tell_at: now.instant + TELL_EVERY,
            told: (now.instant, clock::thread_cpu()),
            is_done: false,
            owes_last_word: false,
            settings,
            phones,
            now,
        };
        floor.switch_all_on(&mut random);
        floor
    }

    fn switch_all_on(&mut self, random: &mut Random) {
        let ramp = u64::try_from(self.settings.scenario.ramp.0.as_nanos()).unwrap_or(u64::MAX);
        for index in 0..self.phones.len() as u32 {
            let at = self.now.instant + Duration::from_nanos(random.below(ramp));
            self.step(index, |phone, desk| phone.switch_on(at, desk));
        }
    }

    /// Lets a phone act, and takes note of what it wants and when it wants to be woken.
    fn step<R>(&mut self, index: u32, act: impl FnOnce(&mut Phone, &mut Desk<'_>) -> R) -> Option<R> {
        let phone = self.phones.get_mut(index as usize)?;
        let mut desk = Desk {
            settings: &self.settings,
            now: self.now,
            ports: &mut self.ports,
            figures: &mut self.figures,
            effects: &mut self.effects,
        };
        let result = act(phone, &mut desk);
        self.out.extend(self.effects.drain(..).map(|effect| (index, effect)));
        if let Some(timer) = self.timers.get_mut(index as usize) {
            timer.deadline = phone.next_deadline();
            timer.enter(index, &mut self.wheel);
        }
        if self.phase != Phase::Ramp && !self.is_leaving {
            self.figures.look_for_unregistered();
        }
        Some(result)
    }

    /// The phone that a message is for.
    fn find_phone(&self, message: &Message<'_>) -> Option<u32> {
        if message.method().is_none() {
            let via = message.value("Via").and_then(Via::parse)?;
            return place_of_branch(via.branch()?).map(|(phone, _)| phone);
        }
        let uri = Uri::parse(message.uri())?;
        if let Some(line) = param(uri.params, "line") {
            return u32::from_str_radix(line, 16).ok();
        }
        // A server that drops parameters, or was told the address and not the Contact.
        let user = uri.user?;
        self.phones
            .iter()
            .find(|phone| self.settings.population(phone.population()).users.is(phone.member, user))
            .map(|phone| phone.index)
    }

    fn wake_phones(&mut self) {
        let now = self.now.instant;
        let mut due = std::mem::take(&mut self.due);
        self.wheel.expire(now, &mut due, PHONES_PER_TURN);
        for index in due.drain(..) {
            let Some(timer) = self.timers.get_mut(index as usize) else { continue };
            timer.alarm.rang();
            // Most of what was to be repeated has been answered since.
            if timer.deadline > now {
                timer.enter(index, &mut self.wheel);
            } else {
                self.step(index, Phone::handle_timeout);
            }
        }
        self.due = due;
    }

    fn begin_calls(&mut self) {
        while let Some((caller, plan)) =
            self.traffic.next_call(&self.settings, &self.phones, self.now, &mut self.figures)
        {
            let stream = plan.stream;
            let placed = self.step(caller, |phone, desk| phone.place_call(plan, desk));
            if placed != Some(true) {
                self.traffic.ended(stream);
                self.figures.fail("no RTP port is free");
            }
        }
    }

    fn happen(&mut self) {
        while let Some(what) = self.happenings.next(&self.phones, self.now.instant) {
            let (index, act) = what;
            self.step(index, |phone, desk| act.befall(phone, desk));
        }
    }

    fn advance_phase(&mut self) {
        let now = self.now.instant;
        if self.phase == Phase::Ramp && now >= self.times.ramp_until {
            let is_late = now >= self.times.ramp_until + SETTLE_MAX;
            if is_late || self.figures.registered_now >= self.registering {
                self.settle();
            }
        }
        if now >= self.times.calls_until && self.phase != Phase::WindDown {
            self.phase = Phase::WindDown;
        }
        if self.phase != Phase::WindDown {
            return;
        }
        let calls_over = self.phones.iter().all(|phone| phone.calls() == 0);
        if !self.is_leaving && (calls_over || now >= self.times.end_at_latest) {
            self.leave();
        }
        if self.is_leaving && (now >= self.quiet_at || self.phones.iter().all(Phone::is_quiet)) {
            self.finish();
        }
    }

    /// The ramp is over: calls and events begin.
    fn settle(&mut self) {
        self.figures.registered_at_start = self.figures.registered_now;
        for index in 0..self.phones.len() as u32 {
            self.step(index, |phone, desk| phone.owe_registration(desk));
        }
        self.figures.look_for_unregistered();
        self.phase = Phase::Calls;
        self.times.settle(&self.settings, self.now.instant, self.is_endless);
        self.traffic = Traffic::new(&self.settings, &self.phones, &self.times, &mut self.random);
        self.happenings = Happenings::new(&self.settings, &self.times);
    }

    fn leave(&mut self) {
        self.is_leaving = true;
        self.quiet_at = self.now.instant + FAREWELL;
        let unregisters = self.settings.scenario.unregister;
        for index in 0..self.phones.len() as u32 {
            self.step(index, |phone, desk| phone.shut_down(unregisters, desk));
        }
    }

    fn finish(&mut self) {
        if std::mem::replace(&mut self.is_done, true) {
            return;
        }
        for index in 0..self.phones.len() as u32 {
            self.step(index, Phone::abandon);
        }
        self.owes_last_word = true;
    }

    fn figures_so_far(&self) -> Figures {
        let mut figures = self.figures.clone();
        figures.media = self.legs.media().clone();
        figures
    }

    fn tell(&mut self) {
        if self.now.instant < self.tell_at || self.is_done {
            return;
        }
        self.tell_at = self.now.instant + TELL_EVERY;
        self.weigh_self();
        self.advance_phase();
        if !self.is_done && self.notes.is_empty() {
            let figures = Box::new(self.figures_so_far());
            let ends = self.legs.take_ends();
            self.notes.push_back(Note::Figures { figures, ends, phase: self.phase });
        }
    }

    /// How busy this thread is.
    fn weigh_self(&mut self) {
        let (now, cpu) = (self.now.instant, clock::thread_cpu());
        let (passed, taken) = (now.since(self.told.0), cpu.saturating_sub(self.told.1));
        self.told = (now, cpu);
        self.figures.cpu_nanos += u64::try_from(taken.as_nanos()).unwrap_or(0);
        if passed >= TELL_EVERY {
            let permille = (taken.as_secs_f64() / passed.as_secs_f64() * 1_000.0).min(1_000.0) as u64;
            self.figures.busiest_permille = self.figures.busiest_permille.max(permille);
        }
    }

    fn apply(&mut self, index: u32, effect: Effect, effects: &mut impl Effects<Note>) {
        match effect {
            Effect::Send { to: To::Server, bytes } => self.send_to_server(index, &bytes, effects),
            Effect::Send { to: To::Flow(Flow::Udp { slot, peer }), bytes } => effects.send_udp(slot, peer, &bytes),
            Effect::Send { to: To::Flow(Flow::Tcp { connection, .. }), bytes } => {
                // A connection that is gone takes its answers with it.
                effects.send_tcp(connection, &bytes);
            }
            Effect::Disconnect => {
                let connection = self.phones.get_mut(index as usize).and_then(|phone| phone.connection.take());
                if let Some(connection) = connection {
                    self.connections.remove(&connection);
                    effects.close_tcp(connection);
                }
            }
            Effect::Speak(speech) => {
                let population = self.phones.get(index as usize).map_or(0, Phone::population);
                if self.legs.speak(speech, population, self.now) {
                    effects.arm(speech.slot);
                }
            }
            Effect::Hush(slot) => {
                if self.legs.hush(slot, self.now) {
                    effects.disarm(slot);
                }
                let recordings = self.legs.take_recordings();
                self.notes.extend(recordings.into_iter().map(|(name, wav)| Note::Recording { name, wav }));
                self.ports.give_back(slot);
            }
            Effect::Press { slot, digits } => self.legs.press(slot, &digits, &mut self.figures),
            Effect::Ended { stream } => self.traffic.ended(stream),
        }
    }

    fn send_to_server(&mut self, index: u32, bytes: &[u8], effects: &mut impl Effects<Note>) {
        let Some(phone) = self.phones.get_mut(index as usize) else { return };
        let server = self.settings.server;
        if self.settings.population(phone.population()).transport == Transport::Udp {
            let slot = self.settings.signalling_from + phone.socket(&self.settings) as Slot;
            return effects.send_udp(slot, server, bytes);
        }
        if phone.connection.is_none() {
            phone.connection = effects.open_tcp(server);
            if let Some(connection) = phone.connection {
                self.connections.insert(connection, index);
            }
        }
        let sent = phone.connection.is_some_and(|connection| effects.send_tcp(connection, bytes));
        if !sent {
            self.figures.fail("no connection to the server");
        }
    }
}

/// What is due within a grid's step is done at its end: a turn costs the same for one phone as for ten.
fn together(at: Instant, grid: Duration) -> Instant {
    let (nanos, grid) = (at.nanos(), grid.as_nanos() as u64);
    if at == Instant::NEVER { at } else { Instant::from_nanos(nanos.div_ceil(grid).saturating_mul(grid)) }
}

impl ShardMachine for Floor {
    type Message = Note;

    fn on_rtp(&mut self, slot: Slot, _source: SocketAddr, bytes: &mut [u8], now: Now) -> Verdict {
        self.legs.on_packet(slot, bytes, now);
        Verdict::Drop
    }

    fn on_sip(&mut self, flow: Flow, bytes: &[u8], now: Now) {
        self.now = now;
        if bytes.len() < SHORTEST_MESSAGE {
            return;
        }
        self.figures.messages_received += 1;
        let message = match Message::parse(bytes) {
            Ok(message) => message,
            Err(fault) => {
                self.figures.strays += 1;
                self.figures.fail(&format!("unreadable message: {fault}"));
                return;
            }
        };
        let of_connection = match flow {
            Flow::Tcp { connection, .. } => self.connections.get(&connection).copied(),
            Flow::Udp { .. } => None,
        };
        let found = of_connection.or_else(|| self.find_phone(&message));
        if found.and_then(|index| self.step(index, |phone, desk| phone.handle(message, flow, desk))).is_none() {
            self.figures.strays += 1;
        }
    }

    fn on_closed(&mut self, connection: Handle, now: Now) {
        self.now = now;
        let Some(index) = self.connections.remove(&connection) else { return };
        self.step(index, |phone, desk| {
            phone.connection = None;
            phone.on_closed(desk);
        });
    }

    fn on_message(&mut self, _from: Member, message: Note, now: Now) {
        self.now = now;
        if matches!(message, Note::Stop) && self.phase != Phase::WindDown {
            self.times.calls_until = now.instant;
            // Who wants an end wants it soon: calls that are up are hung up.
            self.times.end_at_latest = now.instant;
            self.traffic.stop();
            self.tell_at = now.instant;
        }
    }

    fn handle_timeout(&mut self, now: Now) {
        self.now = now;
        self.wake_phones();
        if self.phase == Phase::Calls {
            self.begin_calls();
        }
        if !self.is_leaving {
            self.happen();
        }
        self.tell();
    }

    fn next_deadline(&self) -> Option<Instant> {
        let calls = if self.phase == Phase::Calls { self.traffic.next_at() } else { Instant::NEVER };
        let wheel = self.wheel.next_deadline().unwrap_or(Instant::NEVER);
        let signalling = wheel.min(calls).min(self.happenings.next_at()).min(self.tell_at);
        Some(together(signalling, SIGNALLING_GRID).min(together(self.legs.next_at(), AUDIO_GRID)))
    }

    fn drain(&mut self, effects: &mut impl Effects<Note>) {
        while let Some((index, effect)) = self.out.pop_front() {
            self.apply(index, effect, effects);
        }
        self.legs.send_due(self.now.instant, effects);
        if std::mem::take(&mut self.owes_last_word) {
            let ends = self.legs.take_ends();
            self.notes.push_back(Note::Done(Box::new(self.figures_so_far()), ends));
        }
        while let Some(note) = self.notes.pop_front() {
            if let Err(note) = effects.send_mesh(Member::Clerk, note) {
                self.notes.push_front(note);
                break;
            }
        }
    }

    fn is_done(&self) -> bool {
        self.is_done && !self.owes_last_word && self.notes.is_empty()
    }
}
