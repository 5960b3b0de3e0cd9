//! What a run counts and measures: plain values that threads and machines add up, histograms included.

mod histogram;
mod media;

use std::collections::BTreeMap;

use serde::Deserialize;
use serde::Serialize;

pub use histogram::Histogram;
pub use media::Media;

/// Different causes of errors that are told apart; further ones are counted as "other".
const CAUSES_MAX: usize = 64;
const CAUSE_BYTES_MAX: usize = 80;

/// One thread's, one machine's or the whole run's.
///
/// `…_now` and `registrations_owed` are levels, everything else only grows.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Figures {
    pub phones: u64,
    pub registered_now: u64,
    /// Phones that were registered when calls began.
    pub registered_at_start: u64,
    /// Phones that register at all.
    pub registering: u64,
    /// Phones that have to be registered now: switched on, and not only just.
    pub registrations_owed: u64,
    /// So many of those were not, at most at one time, from when calls began on. Added up over threads, which need not have had
    /// theirs together.
    pub unregistered_max: u64,
    /// REGISTER requests with an end, refreshes included.
    pub registrations: u64,
    pub registrations_failed: u64,
    /// From the first REGISTER to its 200, the challenge included.
    pub register_delay: Histogram,

    pub calls: u64,
    /// Begun and not ended, as the caller sees it.
    pub calls_now: u64,
    pub calls_answered: u64,
    pub answered_now: u64,
    /// Those that ended, by how.
    pub outcomes: BTreeMap<Outcome, u64>,
    /// Those that ended as the scenario meant them to.
    pub calls_good: u64,
    /// Final responses to INVITE that the caller heard, but for challenges.
    pub responses: BTreeMap<u16, u64>,
    /// From INVITE to 200, less the time that the callee let it ring where that is known.
    pub setup_delay: Histogram,
    /// From INVITE to 180 or 183.
    pub post_dial_delay: Histogram,
    pub talk: Histogram,
    pub holds: u64,
    pub transfers: u64,
    /// Sent as INFO; those within the audio are its own.
    pub digits_sent: u64,
    pub digits_heard: u64,

    pub messages_sent: u64,
    pub messages_received: u64,
    /// Requests and responses that were sent again because nothing came.
    pub repeats_sent: u64,
    /// What came twice.
    pub repeats_received: u64,
    /// What could not be read or belongs to nothing.
    pub strays: u64,

    /// Of the emulator itself: threads, what they took of their CPUs, and the share of one that the busiest took for a quarter of a
    /// second, in thousandths.
    pub threads: u64,
    pub cpu_nanos: u64,
    pub busiest_permille: u64,

    pub media: Media,
    /// By cause; see [`Figures::fail`].
    pub errors: BTreeMap<String, u64>,
}

/// How a call ended for its caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    /// Answered, talked, hung up.
    Completed,
    /// 486 or 600.
    Busy,
    /// 403, 603 and the like, as the callee chose.
    Rejected,
    /// Nobody answered in time: 480, 408.
    NoAnswer,
    /// The caller gave up.
    Cancelled,
    /// Left to others by a transfer.
    Transferred,
    /// Everything that a scenario does not mean to happen.
    Failed,
}

impl Outcome {
    pub const ALL: [Self; 7] =
        [Self::Completed, Self::Busy, Self::Rejected, Self::NoAnswer, Self::Cancelled, Self::Transferred, Self::Failed];

    pub const fn name(self) -> &'static str {
        match self {
            Self::Completed => "completed",
            Self::Busy => "busy",
            Self::Rejected => "rejected",
            Self::NoAnswer => "no answer",
            Self::Cancelled => "cancelled",
            Self::Transferred => "transferred",
            Self::Failed => "failed",
        }
    }
}

impl Figures {
    /// Counts an end of a call. Failures are counted by cause with [`Self::fail`], too.
    pub fn end(&mut self, outcome: Outcome) {
        *self.outcomes.entry(outcome).or_default() += 1;
    }

    pub fn outcome(&self, outcome: Outcome) -> u64 {
        self.outcomes.get(&outcome).copied().unwrap_or(0)
    }

    /// Calls that ended.
    pub fn ended(&self) -> u64 {
        self.outcomes.values().sum()
    }

    /// Counts an error by its cause: a short phrase without numbers that differ from one to the next.
    pub fn fail(&mut self, cause: &str) {
        self.add_errors(cause, 1);
    }

    fn add_errors(&mut self, cause: &str, count: u64) {
        if let Some(known) = self.errors.get_mut(cause) {
            *known += count;
            return;
        }
        let mut cause = if self.errors.len() < CAUSES_MAX { cause } else { "other" };
        while cause.len() > CAUSE_BYTES_MAX {
            let end = cause.floor_char_boundary(CAUSE_BYTES_MAX);
            cause = cause.get(..end).unwrap_or_default();
        }
        *self.errors.entry(cause.to_owned()).or_default() += count;
    }

    /// The least share of the phones that were registered while calls were, those apart that the scenario had switched off.
    pub fn registered_min(&self) -> Option<f64> {
        let registered = self.registering.saturating_sub(self.unregistered_max);
        (self.registering > 0).then(|| registered as f64 / self.registering as f64)
    }

    /// Takes note of phones that are not registered and should be.
    pub fn look_for_unregistered(&mut self) {
        let unregistered = self.registrations_owed.saturating_sub(self.registered_now);
        self.unregistered_max = self.unregistered_max.max(unregistered);
    }

    pub fn errors_in_all(&self) -> u64 {
        self.errors.values().sum()
    }

    /// Adds what another thread or machine counted.
    pub fn merge(&mut self, other: &Self) {
        let Self {
            phones,
            registered_now,
            registered_at_start,
            registering,
            registrations_owed,
            unregistered_max,
            registrations,
            registrations_failed,
            register_delay,
            calls,
            calls_now,
            calls_answered,
            answered_now,
            outcomes,
            calls_good,
            responses,
            setup_delay,
            post_dial_delay,
            talk,
            holds,
            transfers,
            digits_sent,
            digits_heard,
            messages_sent,
            messages_received,
            repeats_sent,
            repeats_received,
            strays,
            threads,
            cpu_nanos,
            busiest_permille,
            media,
            errors,
        } = other;
        for (own, added) in [
            (&mut self.phones, phones),
            (&mut self.registered_now, registered_now),
            (&mut self.registered_at_start, registered_at_start),
            (&mut self.registering, registering),
            (&mut self.registrations_owed, registrations_owed),
            (&mut self.unregistered_max, unregistered_max),
            (&mut self.registrations, registrations),
            (&mut self.registrations_failed, registrations_failed),
            (&mut self.calls, calls),
            (&mut self.calls_now, calls_now),
            (&mut self.calls_answered, calls_answered),
            (&mut self.answered_now, answered_now),
            (&mut self.calls_good, calls_good),
            (&mut self.holds, holds),
            (&mut self.transfers, transfers),
            (&mut self.digits_sent, digits_sent),
            (&mut self.digits_heard, digits_heard),
            (&mut self.messages_sent, messages_sent),
            (&mut self.messages_received, messages_received),
            (&mut self.repeats_sent, repeats_sent),
            (&mut self.repeats_received, repeats_received),
            (&mut self.strays, strays),
            (&mut self.threads, threads),
            (&mut self.cpu_nanos, cpu_nanos),
        ] {
            *own = own.saturating_add(*added);
        }
        self.busiest_permille = self.busiest_permille.max(*busiest_permille);
        self.register_delay.merge(register_delay);
        self.setup_delay.merge(setup_delay);
        self.post_dial_delay.merge(post_dial_delay);
        self.talk.merge(talk);
        self.media.merge(media);
        self.merge_maps(outcomes, responses, errors);
    }

    fn merge_maps(
        &mut self,
        outcomes: &BTreeMap<Outcome, u64>,
        responses: &BTreeMap<u16, u64>,
        errors: &BTreeMap<String, u64>,
    ) {
        for (outcome, count) in outcomes {
            *self.outcomes.entry(*outcome).or_default() += count;
        }
        for (status, count) in responses {
            *self.responses.entry(*status).or_default() += count;
        }
        for (cause, count) in errors {
            self.add_errors(cause, *count);
        }
    }
}

#[cfg(test)]
mod tests;
