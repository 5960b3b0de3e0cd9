//! Why this phone is or is not registered: the last decisions about all phones of a shard, in one bounded ring.
//!
//! Always on: a step is a few words, and the ring's size does not depend on how many phones there are. Calls keep a trace
//! of their own.

use std::collections::VecDeque;

use serde::Deserialize;
use serde::Serialize;

use crate::base::hash::HashKey;
use crate::base::limit::HISTORY_STEPS_MAX;
use crate::base::limit::TRACE_STEPS_MAX;
use crate::base::time::UnixTime;
use crate::machine::outbox::Aor;
use crate::machine::outbox::Output;
use crate::wire::event::Body;
use crate::wire::link::TraceStep;

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct History {
    /// Oldest first.
    steps: VecDeque<Step>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Step {
    phone: u64,
    at: UnixTime,
    rule: Rule,
    reason: Box<str>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Rule {
    /// Asked for, or denied for want of, the right credentials.
    Authentication,
    /// What a REGISTER was answered.
    Register,
    /// A binding came or went.
    Binding,
}

impl Rule {
    fn name(self) -> &'static str {
        match self {
            Self::Authentication => "auth",
            Self::Register => "register",
            Self::Binding => "binding",
        }
    }
}

impl History {
    pub(super) fn step(&mut self, aor: &Aor, rule: Rule, reason: String, at: UnixTime, key: &HashKey) {
        if self.steps.len() >= HISTORY_STEPS_MAX {
            self.steps.pop_front();
        }
        self.steps.push_back(Step { phone: phone(aor, key), at, rule, reason: reason.into() });
    }

    /// Takes what the outputs of a step say about phones.
    pub(super) fn observe<'o>(&mut self, outputs: impl Iterator<Item = &'o Output>, at: UnixTime, key: &HashKey) {
        for output in outputs {
            let Output::Event { tenant, body, .. } = output else { continue };
            let (user, rule, reason) = match body {
                Body::BindingAdded { phone, contact, flow, .. } => {
                    (phone, Rule::Binding, format!("{contact} over {flow}"))
                }
                Body::BindingRemoved { phone, contact, cause } => {
                    (phone, Rule::Binding, format!("{contact} gone: {cause}"))
                }
                Body::AuthenticationFailed { user, source, cause } => {
                    (user, Rule::Authentication, format!("{cause} from {source}"))
                }
                _ => continue,
            };
            let aor = Aor { tenant: tenant.clone(), user: user.clone() };
            self.step(&aor, rule, reason, at, key);
        }
    }

    /// The last steps of a phone, oldest first; `None` if there are none.
    pub(super) fn of(&self, aor: &Aor, key: &HashKey) -> Option<Vec<TraceStep>> {
        let wanted = phone(aor, key);
        let own = self.steps.iter().rev().filter(|step| step.phone == wanted).take(TRACE_STEPS_MAX);
        let mut steps: Vec<_> = own
            .map(|step| TraceStep {
                at: step.at,
                leg: None,
                rule: step.rule.name().to_owned(),
                reason: step.reason.to_string(),
            })
            .collect();
        steps.reverse();
        if steps.is_empty() { None } else { Some(steps) }
    }
}

fn phone(aor: &Aor, key: &HashKey) -> u64 {
    key.hash(&[b"history", aor.tenant.as_bytes(), aor.user.as_bytes()])
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: HashKey = HashKey([3; 16]);

    fn aor(user: &str) -> Aor {
        Aor { tenant: "acme".to_owned(), user: user.to_owned() }
    }

    #[test]
    fn a_phone_has_its_own_last_steps() {
        let mut history = History::default();
        for number in 0..100u64 {
            let at = UnixTime::from_secs(number);
            history.step(&aor("1001"), Rule::Register, format!("200 {number}"), at, &KEY);
            history.step(&aor("1002"), Rule::Register, "other".to_owned(), at, &KEY);
        }
        let steps = history.of(&aor("1001"), &KEY).unwrap();
        assert_eq!(steps.len(), TRACE_STEPS_MAX);
        assert_eq!(steps.last().unwrap().reason, "200 99");
        assert!(steps.windows(2).all(|pair| pair[0].at < pair[1].at));
        assert_eq!(history.of(&aor("1003"), &KEY), None);
    }

    #[test]
    fn the_ring_is_bounded_and_events_are_steps() {
        let mut history = History::default();
        for _ in 0..HISTORY_STEPS_MAX + 10 {
            history.step(&aor("flood"), Rule::Register, String::new(), UnixTime::default(), &KEY);
        }
        let body = Body::AuthenticationFailed {
            user: "1001".to_owned(),
            source: "192.0.2.1".to_owned(),
            cause: "wrong password".to_owned(),
        };
        let event = Output::Event { tenant: "acme".to_owned(), call: None, leg: None, body };
        history.observe([&event].into_iter(), UnixTime::default(), &KEY);
        assert_eq!(history.steps.len(), HISTORY_STEPS_MAX);
        let steps = history.of(&aor("1001"), &KEY).unwrap();
        assert_eq!((steps[0].rule.as_str(), steps[0].reason.as_str()), ("auth", "wrong password from 192.0.2.1"));
    }
}
