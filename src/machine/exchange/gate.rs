//! Who may pass: the answers to those who may not. The verdicts are `machine::digest`'s.

use crate::base::random::Random;
use crate::base::time::Now;
use crate::machine::Shared;
use crate::machine::digest;
use crate::machine::digest::Reading;
use crate::machine::digest::fallback::Fallback;
use crate::machine::digest::fallback::Offer;
use crate::machine::digest::gate::Admission;
use crate::machine::digest::gate::Screening;
use crate::machine::directory::address;
use crate::machine::exchange::answer;
use crate::machine::exchange::counts::Counts;
use crate::machine::flow::Flow;
use crate::machine::nonce;
use crate::machine::outbox::Outbox;
use crate::machine::outbox::Output;
use crate::machine::registrar::Registrar;
use crate::machine::settings::Algorithm;
use crate::machine::source_limit::SourceLimit;
use crate::wire::event::Body;
use crate::wire::link::Phone;
use crate::wire::sip::Message;
use crate::wire::sip::Status;
use crate::wire::sip::Uri;

/// What the gate looks at and writes into.
pub(super) struct Gate<'a, 's> {
    pub(super) sources: &'a mut SourceLimit,
    pub(super) registrar: &'a mut Registrar,
    pub(super) fallback: &'a mut Fallback,
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
        match digest::gate::screen(request, reading, &flow, self.now, self.shared, self.sources) {
            Screening::Pass => {
                self.note_answer(request, reading, flow, out);
                return true;
            }
            Screening::Challenge { stale } => self.challenge(request, flow, stale, out),
            Screening::BadRequest(reason) => self.refuse_reading(request, reading, flow, reason, out),
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
            Admission::BadRequest(reason) => self.refuse_reading(request, reading, flow, reason, out),
            Admission::Silence => {}
        }
        None
    }

    /// For a request in a dialog of this phone that came from elsewhere: true if it carries the phone's credential. If not, it has
    /// been answered. RFC 3261 §22.1: "The ACK and CANCEL requests" cannot be challenged; they do not come here.
    pub(super) fn admit_in_dialog(
        &mut self,
        request: &Message<'_>,
        phone: &Phone,
        flow: Flow,
        out: &mut Outbox,
    ) -> bool {
        let (now, shared) = (self.now, self.shared);
        let reading = &digest::read(request, flow.peer.ip(), now.unix, shared);
        let screened = digest::gate::screen(request, reading, &flow, now, shared, self.sources);
        match screened {
            Screening::Pass => {}
            Screening::Challenge { stale } => {
                self.challenge_phone(request, phone, flow, stale, out);
                return false;
            }
            Screening::BadRequest(reason) => {
                self.refuse_reading(request, reading, flow, reason, out);
                return false;
            }
            Screening::Silence => return false,
        }
        match digest::gate::admit(request, reading, &flow, now, shared, self.registrar, self.sources, out) {
            Admission::Phone(own) if (&own.tenant, &own.user) == (&phone.tenant, &phone.user) => return true,
            Admission::Phone(_) => self.refuse(request, flow, Status::FORBIDDEN, "", out),
            Admission::Challenge { stale } => self.challenge_phone(request, phone, flow, stale, out),
            Admission::BadRequest(reason) => self.refuse_reading(request, reading, flow, reason, out),
            Admission::Silence => {}
        }
        false
    }

    fn challenge_phone(&mut self, request: &Message<'_>, phone: &Phone, flow: Flow, is_stale: bool, out: &mut Outbox) {
        let salt = nonce::salt(self.now.unix, self.random.next_u32());
        let now = self.now.unix;
        match digest::challenge_phone(request, phone, flow.peer, is_stale, now, salt, self.shared) {
            Some(bytes) => {
                self.counts.challenges += 1;
                out.send(flow.answer(request), bytes);
            }
            None => self.counts.unchallenged += 1,
        }
    }

    fn refuse_reading(
        &mut self,
        request: &Message<'_>,
        reading: &Reading<'_>,
        flow: Flow,
        reason: &str,
        out: &mut Outbox,
    ) {
        self.counts.misdirected += u64::from(*reading == Reading::Misdirected);
        self.refuse(request, flow, Status::BAD_REQUEST, reason, out);
    }

    /// Who answers MD5 alone for the first time is said, once: its address has heard us, and it is no forger's.
    fn note_answer(&mut self, request: &Message<'_>, reading: &Reading<'_>, flow: Flow, out: &mut Outbox) {
        let Reading::Claim(claim) = reading else { return };
        // RFC 7616 §3.4: without "algorithm" it is MD5.
        let Some(algorithm) = claim.credentials.algorithm.map_or(Some(Algorithm::Md5), Algorithm::parse) else {
            return;
        };
        let (now, secret) = (self.now.instant, &self.shared.settings.secrets.hash);
        if self.fallback.answered(request, flow.peer.ip(), algorithm, now, secret) {
            let tenant = address::sender_tenant(self.shared, address::sender_host(request));
            let user = request.sender_uri().ok().and_then(Uri::user).map(address::user_text).unwrap_or_default();
            let user = user.chars().filter(|letter| !letter.is_control()).take(64).collect();
            let body = Body::DigestFallback { user, source: flow.peer.ip().to_canonical().to_string() };
            let tenant = tenant.map(|tenant| tenant.name.clone()).unwrap_or_default();
            out.push(Output::Event { tenant, call: None, leg: None, body });
        }
    }

    /// What is offered: MD5 alone to a client that has not answered to more, unless its tenant will not have it.
    fn offer(&mut self, request: &Message<'_>, flow: Flow) -> Offer {
        let tenant = address::sender_tenant(self.shared, address::sender_host(request));
        if tenant.is_some_and(|tenant| !tenant.md5_fallback) {
            return Offer::All;
        }
        let (now, secret) = (self.now.instant, &self.shared.settings.secrets.hash);
        self.fallback.challenge(request, flow.peer.ip(), now, secret)
    }

    /// None is sent where even one algorithm alone would make more than three bytes of one.
    fn challenge(&mut self, request: &Message<'_>, flow: Flow, is_stale: bool, out: &mut Outbox) {
        let salt = nonce::salt(self.now.unix, self.random.next_u32());
        let offer = self.offer(request, flow);
        let answer = digest::challenge(request, flow.peer, is_stale, self.now.unix, salt, offer, self.shared);
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
