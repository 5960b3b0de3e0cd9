//! Why this phone is or is not registered: the last decisions about all phones of a shard, in one bounded ring.
//!
//! Always on: a step is a few words, and the ring's size does not depend on how many phones there are. Calls keep a trace
//! of their own.

use std::collections::VecDeque;
use std::fmt;

use serde::Deserialize;
use serde::Serialize;

use crate::base::hash::HashKey;
use crate::base::limit::HISTORY_STEPS_MAX;
use crate::base::limit::TRACE_STEPS_MAX;
use crate::base::time::UnixTime;
use crate::machine::flow::Flow;
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
    reason: Reason,
}

/// Put into words when somebody asks.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Reason {
    flow: Option<Flow>,
    text: Box<str>,
}

impl Reason {
    /// `text` is what was answered over `flow`.
    pub(super) fn answered(flow: Flow, text: &str) -> Self {
        Self { flow: Some(flow), text: text.into() }
    }
}

impl From<String> for Reason {
    fn from(text: String) -> Self {
        Self { flow: None, text: text.into() }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.flow {
            Some(flow) => write!(f, "{flow}: {}", self.text),
            None => f.write_str(&self.text),
        }
    }
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
    /// `phone` is a [`key`].
    pub(super) fn step(&mut self, phone: u64, rule: Rule, reason: impl Into<Reason>, at: UnixTime) {
        if self.steps.len() >= HISTORY_STEPS_MAX {
            self.steps.pop_front();
        }
        self.steps.push_back(Step { phone, at, rule, reason: reason.into() });
    }

    /// Takes what the outputs of a step say about phones.
    pub(super) fn observe<'o>(&mut self, outputs: impl Iterator<Item = &'o Output>, at: UnixTime, secret: &HashKey) {
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
                Body::DigestFallback { user, source } => (
                    user,
                    Rule::Authentication,
                    format!("MD5 alone is offered from here on: {source} answers nothing else"),
                ),
                _ => continue,
            };
            self.step(key(tenant, user, secret), rule, reason, at);
        }
    }

    /// The last steps of a phone, oldest first; `None` if there are none.
    pub(super) fn of(&self, aor: &Aor, secret: &HashKey) -> Option<Vec<TraceStep>> {
        let wanted = key(&aor.tenant, &aor.user, secret);
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

/// What a phone's steps are found by.
pub(super) fn key(tenant: &str, user: &str, secret: &HashKey) -> u64 {
    secret.hash(&[b"history", tenant.as_bytes(), user.as_bytes()])
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
            let flow = Flow::udp(0, "192.0.2.1:5060".parse().unwrap());
            history.step(
                key("acme", "1001", &KEY),
                Rule::Register,
                Reason::answered(flow, &format!("200 {number}")),
                at,
            );
            history.step(key("acme", "1002", &KEY), Rule::Register, "other".to_owned(), at);
        }
        let steps = history.of(&aor("1001"), &KEY).unwrap();
        assert_eq!(steps.len(), TRACE_STEPS_MAX);
        assert_eq!(steps.last().unwrap().reason, "udp:192.0.2.1:5060: 200 99");
        assert!(steps.windows(2).all(|pair| pair[0].at < pair[1].at));
        assert_eq!(history.of(&aor("1003"), &KEY), None);
    }

    #[test]
    fn the_ring_is_bounded_and_events_are_steps() {
        let mut history = History::default();
        for _ in 0..HISTORY_STEPS_MAX + 10 {
            history.step(key("acme", "flood", &KEY), Rule::Register, String::new(), UnixTime::default());
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
