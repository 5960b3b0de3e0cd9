//! Who may pass: the answers to those who may not. The verdicts are `machine::digest`'s.

use crate::base::random::Random;
use crate::base::time::Now;
use crate::machine::Shared;
use crate::machine::digest;
use crate::machine::digest::Reading;
use crate::machine::digest::gate::Admission;
use crate::machine::digest::gate::Screening;
use crate::machine::directory::address;
use crate::machine::exchange::answer;
use crate::machine::exchange::counts::Counts;
use crate::machine::flow::Flow;
use crate::machine::nonce;
use crate::machine::outbox::Outbox;
use crate::machine::registrar::Registrar;
use crate::machine::source_limit::SourceLimit;
use crate::wire::link::Phone;
use crate::wire::sip::Message;
use crate::wire::sip::Status;

/// What the gate looks at and writes into.
pub(super) struct Gate<'a, 's> {
    pub(super) sources: &'a mut SourceLimit,
    pub(super) registrar: &'a mut Registrar,
    pub(super) random: &'a mut Random,
    pub(super) counts: &'a mut Counts,
    pub(super) now: Now,
    pub(super) shared: Shared<'s>,
}

impl<'s> Gate<'_, 's> {
    /// The reader's part: true if the request carries a nonce that we gave to its source. If not, it has been answered.
    pub(super) fn screen(
        &mut self,
        request: &Message<'_>,
        reading: &Reading<'_>,
        flow: Flow,
        out: &mut Outbox,
    ) -> bool {
        match digest::gate::screen(reading, &flow, self.now, self.shared, self.sources) {
            Screening::Pass => return true,
            Screening::Challenge { stale } => self.challenge(request, flow, stale, out),
            Screening::BadRequest(reason) => self.refuse(request, flow, Status::BAD_REQUEST, reason, out),
            Screening::Silence => {}
        }
        false
    }

    /// The owner's part: the phone whose credentials these are and for whom the request may speak. If none, it has been answered.
    pub(super) fn admit(
        &mut self,
        request: &Message<'_>,
        reading: &Reading<'_>,
        flow: Flow,
        out: &mut Outbox,
    ) -> Option<&'s Phone> {
        let (now, shared) = (self.now, self.shared);
        match digest::gate::admit(request, reading, &flow, now, shared, self.registrar, self.sources, out) {
            Admission::Phone(phone) if address::speaks_for(shared, phone, request) => return Some(phone),
            Admission::Phone(_) => self.refuse(request, flow, Status::FORBIDDEN, "", out),
            Admission::Challenge { stale } => self.challenge(request, flow, stale, out),
            Admission::BadRequest(reason) => self.refuse(request, flow, Status::BAD_REQUEST, reason, out),
            Admission::Silence => {}
        }
        None
    }

    /// None is sent where even one algorithm alone would make more than three bytes of one.
    fn challenge(&mut self, request: &Message<'_>, flow: Flow, is_stale: bool, out: &mut Outbox) {
        let salt = nonce::salt(self.now.unix, self.random.next_u32());
        let answer = digest::challenge(request, flow.peer, is_stale, self.now.unix, salt, self.shared);
        match answer {
            Some(bytes) => {
                self.counts.challenges += 1;
                out.send(flow.answer(request), bytes);
            }
            None => self.counts.unchallenged += 1,
        }
    }

    fn refuse(&self, request: &Message<'_>, flow: Flow, status: Status, reason: &str, out: &mut Outbox) {
        if let Some(bytes) = answer::with_reason(request, flow, status, reason, self.shared) {
            out.send(flow.answer(request), bytes);
        }
    }
}
