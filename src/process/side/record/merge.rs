//! The state of one call as its events give it: the same for any order of them, and for any that come again.
//!
//! Of each milestone the event with the lowest key stays, of each report the one with the highest; keys are unique, so
//! neither depends on the order of arrival.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::base::time::UnixTime;
use crate::process::side::clock;
use crate::process::side::record::cdr::Cdr;
use crate::process::side::record::cdr::CdrCause;
use crate::process::side::record::cdr::CdrLeg;
use crate::process::side::record::cdr::CdrMedia;
use crate::process::side::record::cdr::direction_text;
use crate::wire::event::Body;
use crate::wire::event::By;
use crate::wire::event::Cause;
use crate::wire::event::Direction;
use crate::wire::event::Event;
use crate::wire::event::MediaReport;

/// Orders the events of a call: (at, boot, shard, seq).
type Key = (u64, u64, u8, u64);

#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Merge {
    tenant: First<String>,
    started: First<Started>,
    ringing: First<()>,
    answered: First<()>,
    ended: First<Cause>,
    legs: BTreeMap<u8, LegMerge>,
    last_at: UnixTime,
}

#[derive(Clone, Debug, PartialEq)]
struct Started {
    sip_call_id: String,
    from: String,
    from_name: String,
    to: String,
    dialled: String,
    direction: Direction,
}

#[derive(Clone, Debug, Default, PartialEq)]
struct LegMerge {
    phone: First<String>,
    contact: First<String>,
    invited: First<()>,
    ringing: First<()>,
    answered: First<()>,
    ended: First<Cause>,
    media: BTreeMap<u8, (Key, MediaReport)>,
}

#[derive(Clone, Debug, PartialEq)]
struct First<T>(Option<(Key, T)>);

impl<T> Default for First<T> {
    fn default() -> Self {
        Self(None)
    }
}

impl<T> First<T> {
    fn offer(&mut self, key: Key, value: T) {
        if self.0.as_ref().is_none_or(|(first, _)| key < *first) {
            self.0 = Some((key, value));
        }
    }

    fn value(&self) -> Option<&T> {
        self.0.as_ref().map(|(_, value)| value)
    }

    fn at(&self) -> Option<UnixTime> {
        self.0.as_ref().map(|(key, _)| UnixTime::from_micros(key.0))
    }

    fn text(&self) -> Option<String> {
        self.at().map(clock::text)
    }
}

impl Merge {
    pub(crate) fn handle(&mut self, boot: u64, event: &Event) {
        let key = (event.at.micros(), boot, event.shard.0, event.seq);
        self.last_at = self.last_at.max(event.at);
        if !event.tenant.is_empty() {
            self.tenant.offer(key, event.tenant.clone());
        }
        match &event.body {
            Body::CallStarted { sip_call_id, from, from_name, to, dialled, direction, phone } => {
                self.started.offer(
                    key,
                    Started {
                        sip_call_id: sip_call_id.clone(),
                        from: from.clone(),
                        from_name: from_name.clone(),
                        to: to.clone(),
                        dialled: dialled.clone(),
                        direction: *direction,
                    },
                );
                let caller = self.legs.entry(0).or_default();
                caller.phone.offer(key, phone.clone());
                caller.invited.offer(key, ());
            }
            Body::CallAnswered => self.answered.offer(key, ()),
            Body::CallEnded { cause, .. } => self.ended.offer(key, cause.clone()),
            body => self.on_leg(key, event.leg, body),
        }
    }

    fn on_leg(&mut self, key: Key, leg: Option<u8>, body: &Body) {
        let Some(number) = leg else { return };
        let leg = self.legs.entry(number).or_default();
        match body {
            Body::LegInvited { phone, contact, .. } => {
                leg.phone.offer(key, phone.clone());
                leg.contact.offer(key, contact.clone());
                leg.invited.offer(key, ());
            }
            Body::LegRinging { .. } => {
                leg.ringing.offer(key, ());
                self.ringing.offer(key, ());
            }
            Body::LegAnswered { phone } => {
                leg.phone.offer(key, phone.clone());
                leg.answered.offer(key, ());
            }
            Body::LegEnded { cause } => leg.ended.offer(key, cause.clone()),
            Body::MediaReported { report } => {
                let known = leg.media.get(&report.stream).is_some_and(|(last, _)| *last >= key);
                if !known {
                    leg.media.insert(report.stream, (key, report.clone()));
                }
            }
            _ => {}
        }
    }

    /// When the last thing happened that is known of it.
    pub(crate) fn last_at(&self) -> UnixTime {
        self.last_at
    }

    /// The final record; `None` while the call is up. `lost_at`: when its engine is known to have died at the latest.
    pub(crate) fn record(&self, call: &str, node: &str, lost_at: Option<UnixTime>) -> Option<Cdr> {
        let (ended_at, cause) = match (&self.ended.0, lost_at) {
            (Some((key, cause)), _) => (UnixTime::from_micros(key.0), CdrCause::from(cause)),
            (None, Some(lost_at)) => (lost_at.max(self.last_at), CdrCause::from(&engine_died())),
            (None, None) => return None,
        };
        let started = self.started.value();
        let text = |field: fn(&Started) -> &String| started.map(field).cloned().unwrap_or_default();
        let started_at = self.started.at().unwrap_or(ended_at);
        let talk = self.answered.at().map_or(0, |answered| ended_at.since(answered).as_millis());
        Some(Cdr {
            call: call.to_owned(),
            sip_call_id: text(|started| &started.sip_call_id),
            node: node.to_owned(),
            tenant: self.tenant.value().cloned().unwrap_or_default(),
            direction: direction_text(started.map_or(Direction::Internal, |started| started.direction)).to_owned(),
            from: text(|started| &started.from),
            from_name: text(|started| &started.from_name),
            to: text(|started| &started.to),
            dialled: text(|started| &started.dialled),
            started_at: clock::text(started_at),
            ringing_at: self.ringing.text(),
            answered_at: self.answered.text(),
            ended_at: clock::text(ended_at),
            talk_ms: u64::try_from(talk).unwrap_or(u64::MAX),
            cause,
            legs: self.legs.iter().map(|(number, leg)| leg.record(*number)).collect(),
        })
    }

    /// From the INVITE until something rang or answered.
    pub(crate) fn setup(&self) -> Option<Duration> {
        let rang_at = self.ringing.at().or_else(|| self.answered.at())?;
        Some(rang_at.since(self.started.at()?))
    }

    pub(crate) fn started_at(&self) -> Option<UnixTime> {
        self.started.at()
    }
}

impl LegMerge {
    fn record(&self, leg: u8) -> CdrLeg {
        CdrLeg {
            leg,
            phone: self.phone.value().filter(|phone| !phone.is_empty()).cloned(),
            contact: self.contact.value().cloned(),
            invited_at: self.invited.text(),
            ringing_at: self.ringing.text(),
            answered_at: self.answered.text(),
            ended_at: self.ended.text(),
            cause: self.ended.value().map(CdrCause::from),
            media: self.media.values().map(|(_, report)| CdrMedia::from(report)).collect(),
        }
    }
}

/// Q.850 cause 41: temporary failure.
fn engine_died() -> Cause {
    Cause { sip: 500, q850: 41, text: "the engine died".to_owned(), by: By::System }
}
