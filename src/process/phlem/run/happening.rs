//! What befalls phones at a time of the scenario: power cuts, reboots, NATs that forget.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::base::random::Random;
use crate::base::time::Instant;
use crate::process::phlem::phone::Desk;
use crate::process::phlem::phone::Phone;
use crate::process::phlem::phone::Settings;
use crate::process::phlem::run::floor::Times;
use crate::process::phlem::scenario::What;

/// From power to the first REGISTER, at least and at most: phones of one make boot alike.
const BOOT: (u64, u64) = (0, 1_000);

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Act {
    CutPower,
    ShutDown,
    SwitchOn,
    Rebind,
}

impl Act {
    pub(super) fn befall(self, phone: &mut Phone, desk: &mut Desk<'_>) {
        match self {
            Self::CutPower => phone.cut_power(desk),
            Self::ShutDown => phone.shut_down(true, desk),
            Self::SwitchOn => phone.switch_on(desk.now.instant, desk),
            Self::Rebind => phone.rebind(desk),
        }
    }
}

pub(super) struct Happenings {
    /// Of the scenario, not yet dealt to phones; the soonest last.
    events: Vec<Planned>,
    /// Of single phones.
    acts: BTreeMap<(Instant, u64), (u32, Act)>,
    random: Random,
    count: u64,
}

#[derive(Clone, Debug)]
struct Planned {
    at: Instant,
    what: What,
    population: Option<usize>,
    share: f64,
    lasts: Duration,
    seed: u64,
}

impl Happenings {
    /// Nothing happens.
    pub(super) const fn none() -> Self {
        Self { events: Vec::new(), acts: BTreeMap::new(), random: Random::new(0), count: 0 }
    }

    pub(super) fn new(settings: &Settings, times: &Times) -> Self {
        let scenario = &settings.scenario;
        let mut random = Random::new(scenario.seed ^ 0x6861_7070);
        let planned = scenario.events.iter().map(|event| Planned {
            at: times.calls_from + event.at.0,
            what: event.what,
            population: event.population.as_deref().and_then(|name| scenario.population(name)),
            share: event.share,
            lasts: event.lasts.0,
            seed: random.next_u64(),
        });
        let mut events: Vec<_> = planned.collect();
        events.sort_by_key(|event| std::cmp::Reverse(event.at));
        Self { events, acts: BTreeMap::new(), random, count: 0 }
    }

    pub(super) fn next_at(&self) -> Instant {
        let event = self.events.last().map_or(Instant::NEVER, |event| event.at);
        let act = self.acts.first_key_value().map_or(Instant::NEVER, |((at, _), _)| *at);
        event.min(act)
    }

    /// What befalls which phone, now.
    pub(super) fn next(&mut self, phones: &[Phone], now: Instant) -> Option<(u32, Act)> {
        while let Some(event) = self.events.pop_if(|event| event.at <= now) {
            self.deal(&event, phones, now);
        }
        let entry = self.acts.first_entry().filter(|entry| entry.key().0 <= now)?;
        Some(entry.remove())
    }

    fn deal(&mut self, event: &Planned, phones: &[Phone], now: Instant) {
        let in_population =
            |phone: &&Phone| event.population.is_none_or(|index| usize::from(phone.population()) == index);
        for phone in phones.iter().filter(in_population) {
            // The same phones on however many threads: drawn from event and phone alone.
            let own = u64::from(phone.member) << 16 | u64::from(phone.population());
            let drawn = Random::new(event.seed ^ own).below(1 << 32) as f64 / (1u64 << 32) as f64;
            if drawn >= event.share {
                continue;
            }
            let lasts = u64::try_from(event.lasts.as_millis()).unwrap_or(u64::MAX);
            let boot = Duration::from_millis(BOOT.0 + self.random.below(BOOT.1));
            let spread = Duration::from_millis(self.random.below(lasts.max(1)));
            match event.what {
                What::PowerCut => {
                    self.plan(now, phone.index, Act::CutPower);
                    self.plan(now + event.lasts + boot, phone.index, Act::SwitchOn);
                }
                What::Reboot => {
                    self.plan(now + spread, phone.index, Act::ShutDown);
                    self.plan(now + spread + Duration::from_secs(2) + boot, phone.index, Act::SwitchOn);
                }
                What::Rebind => self.plan(now + spread, phone.index, Act::Rebind),
            }
        }
    }

    fn plan(&mut self, at: Instant, phone: u32, act: Act) {
        self.count += 1;
        self.acts.insert((at, self.count), (phone, act));
    }
}
