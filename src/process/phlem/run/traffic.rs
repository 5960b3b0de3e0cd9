//! Who calls whom: callers and callees drawn from the populations, and what their call is to be.

use std::time::Duration;

use crate::base::random::Random;
use crate::base::time::Instant;
use crate::base::time::Now;
use crate::process::phlem::figures::Figures;
use crate::process::phlem::phone::Phone;
use crate::process::phlem::phone::Plan;
use crate::process::phlem::phone::Settings;
use crate::process::phlem::phone::Transfer;
use crate::process::phlem::run::floor::Times;
use crate::process::phlem::run::pace::Pace;
use crate::process::phlem::scenario::Calls;

/// Phones that are looked at until an idle one is found.
const TRIES: u32 = 24;
/// Calls that begin in one turn.
const CALLS_PER_TURN: u32 = 64;

pub(super) struct Traffic {
    streams: Vec<Stream>,
    /// Phones of this thread, by population.
    phones: Vec<Vec<u32>>,
    random: Random,
}

struct Stream {
    pace: Pace,
    /// Calls whose time has come and that have not begun.
    waiting: u32,
    up: u32,
    concurrent_max: u32,
    from: usize,
}

impl Traffic {
    /// Nobody calls.
    pub(super) const fn none() -> Self {
        Self { streams: Vec::new(), phones: Vec::new(), random: Random::new(0) }
    }

    pub(super) fn new(settings: &Settings, phones: &[Phone], times: &Times, random: &mut Random) -> Self {
        let scenario = &settings.scenario;
        let mut by_population = vec![Vec::new(); scenario.populations.len()];
        for phone in phones {
            by_population[usize::from(phone.population())].push(phone.index);
        }
        let mut random = Random::new(random.next_u64());
        let streams = scenario.calls.iter().map(|calls| {
            let from = scenario.population(&calls.from).unwrap_or(0);
            let all = scenario.populations[from].users.count().max(1);
            let share = by_population[from].len() as f64 / f64::from(all);
            let concurrent_max = match calls.concurrent_max {
                0 => u32::MAX,
                most => ((f64::from(most) * share).round() as u32).max(1),
            };
            let pace = Pace::new(calls, share, times.calls_from, times.calls_until, &mut random);
            Stream { pace, waiting: 0, up: 0, concurrent_max, from }
        });
        let streams = streams.collect();
        Self { streams, phones: by_population, random }
    }

    pub(super) fn next_at(&self) -> Instant {
        self.streams.iter().map(|stream| stream.pace.next_at()).min().unwrap_or(Instant::NEVER)
    }

    pub(super) fn stop(&mut self) {
        self.streams.clear();
    }

    /// A call of this stream is over.
    pub(super) fn ended(&mut self, stream: u16) {
        if let Some(stream) = self.streams.get_mut(usize::from(stream)) {
            stream.up = stream.up.saturating_sub(1);
        }
    }

    /// The next call whose time has come: who places it, and what it is.
    pub(super) fn next_call(
        &mut self,
        settings: &Settings,
        phones: &[Phone],
        now: Now,
        figures: &mut Figures,
    ) -> Option<(u32, Plan)> {
        for number in 0..self.streams.len() {
            let stream = &mut self.streams[number];
            if stream.waiting == 0 {
                stream.waiting = stream.pace.take(now.instant, CALLS_PER_TURN, &mut self.random);
            }
            while self.streams[number].waiting > 0 {
                let stream = &mut self.streams[number];
                stream.waiting -= 1;
                if stream.up >= stream.concurrent_max {
                    continue;
                }
                let from = stream.from;
                let Some(caller) = self.idle_phone(from, settings, phones) else {
                    figures.fail("no idle phone to call from");
                    continue;
                };
                self.streams[number].up += 1;
                let plan = self.plan(number, &settings.scenario.calls[number], caller, settings, phones);
                return Some((caller, plan));
            }
        }
        None
    }

    fn idle_phone(&mut self, population: usize, settings: &Settings, phones: &[Phone]) -> Option<u32> {
        let own = &self.phones[population];
        let registers = settings.scenario.populations[population].register;
        (0..TRIES).find_map(|_| {
            let index = *own.get(self.random.below(own.len() as u64) as usize)?;
            let phone = phones.get(index as usize)?;
            (phone.is_on() && phone.calls() == 0 && (!registers || phone.is_registered())).then_some(index)
        })
    }

    fn chance(&mut self, share: f64) -> bool {
        (self.random.below(1 << 32) as f64) < share * (1u64 << 32) as f64
    }

    fn plan(&mut self, stream: usize, calls: &Calls, caller: u32, settings: &Settings, phones: &[Phone]) -> Plan {
        let talk = calls.talk.draw(&mut self.random).max(Duration::from_millis(200));
        let drawn = self.random.below(1 << 32) as f64 / (1u64 << 32) as f64;
        let transfer = if drawn < calls.blind_transfer {
            Some(Transfer::Blind(self.callee(&calls.to, caller, settings, phones)))
        } else if drawn < calls.blind_transfer + calls.attended_transfer {
            Some(Transfer::Attended(self.callee(&calls.to, caller, settings, phones)))
        } else {
            None
        };
        Plan {
            stream: stream as u16,
            to: self.callee(&calls.to, caller, settings, phones),
            talk,
            callee_ends: transfer.is_none() && self.chance(calls.callee_ends),
            media: calls.media,
            hold: self.chance(calls.hold),
            dtmf: self.chance(calls.dtmf),
            dtmf_info: calls.dtmf_info,
            transfer,
            patience: self.chance(calls.missed).then(|| calls.patience.draw(&mut self.random)),
        }
    }

    /// Any phone of a population but the caller, or what the scenario names.
    fn callee(&mut self, to: &str, caller: u32, settings: &Settings, phones: &[Phone]) -> String {
        let Some(index) = settings.scenario.population(to) else { return to.to_owned() };
        let population = &settings.scenario.populations[index];
        let count = u64::from(population.users.count());
        let own = phones.get(caller as usize).filter(|phone| usize::from(phone.population()) == index);
        let mut member = self.random.below(count) as u32;
        if own.is_some_and(|own| own.member == member) {
            member = ((u64::from(member) + 1) % count) as u32;
        }
        let dialled = population.dialled(member, own.is_some());
        let domain = population.domain_of(member);
        let domain = if domain.is_empty() { &settings.server_host } else { domain };
        format!("sip:{dialled}@{domain}")
    }
}
