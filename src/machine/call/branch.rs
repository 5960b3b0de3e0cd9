//! A branch: one contact of one phone that rings, and our INVITE to it.

use serde::Deserialize;
use serde::Serialize;

use crate::base::time::Instant;
use crate::machine::call::caller::Caller;
use crate::machine::call::facts::Facts;
use crate::machine::call::input::Context;
use crate::machine::call::media::Description;
use crate::machine::call::media::Ports;
use crate::machine::call::party::end;
use crate::machine::call::terms::ALLOW;
use crate::machine::call::terms::MIN_SE;
use crate::machine::call::terms::SESSION_EXPIRES;
use crate::machine::call::terms::SUPPORTED;
use crate::machine::call::terms::SUPPORTED_WITHOUT_100REL;
use crate::machine::dialog;
use crate::machine::dialog::MAX_FORWARDS;
use crate::machine::dialog::Text;
use crate::machine::flow::Flow;
use crate::machine::outbox::Outbox;
use crate::machine::outbox::Target;
use crate::machine::transaction::T1_64;
use crate::machine::transaction::invite_client::InviteClient;
use crate::machine::transaction::invite_client::Response;
use crate::machine::transaction::non_invite_client::NonInviteClient;
use crate::machine::transaction::repeat::Patience;
use crate::wire::sip::HeaderId;
use crate::wire::sip::Message;
use crate::wire::sip::Method;
use crate::wire::sip::write;

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Branch {
    pub leg: u8,
    /// The phone's SIP user.
    pub phone: String,
    /// The contact as registered: Request-URI.
    pub contact: String,
    /// Of the binding; empty: none.
    pub instance: String,
    pub flow: Flow,
    pub ports: Ports,
    /// Our offer to it.
    pub description: Description,
    pub state: State,
    pub ringing: bool,
    path: Vec<String>,
    call_id: Text,
    from: Text,
    to: Text,
    cseq: u32,
    /// The last of any of its dialogs that are gone.
    pub last_cseq: u32,
    branch: Box<str>,
    transaction: InviteClient,
    cancel: Option<NonInviteClient>,
    interval: Interval,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum State {
    Ringing,
    /// To be cancelled as soon as it said something (RFC 3261 §9.1); with the values of Reason.
    CancelDue {
        reason: Text,
    },
    /// With the end of our patience for the final response.
    Cancelled {
        until: Instant,
    },
    /// With the header lines by which the phone told more.
    Failed {
        status: u16,
        said: Text,
    },
    Answered,
}

/// What the INVITE asks for by RFC 4028.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Interval {
    secs: u32,
    min_se: u32,
}

impl Branch {
    /// A branch that has sent nothing yet.
    pub(super) fn new(leg: u8, target: Target, facts: &Facts, cx: &mut Context<'_>) -> Self {
        let call_id = cx.identifier(leg);
        let tag = cx.identifier(leg);
        let from = [facts.from_value.as_bytes(), b";tag=", tag.as_bytes()].concat();
        Self {
            leg,
            phone: target.aor.user,
            ports: Ports::new(leg, target.flow, None, cx.settings),
            description: Description::new(cx.random.next_u64()),
            contact: target.contact,
            instance: target.instance,
            flow: target.flow,
            state: State::Ringing,
            ringing: false,
            path: target.path,
            call_id: call_id.as_bytes().into(),
            from: from.into(),
            to: facts.to_value.as_bytes().into(),
            cseq: 0,
            last_cseq: 0,
            branch: Box::default(),
            transaction: InviteClient::idle(target.flow),
            cancel: None,
            interval: Interval { secs: SESSION_EXPIRES, min_se: MIN_SE },
        }
    }

    /// Sends the INVITE, the first or one more of this branch (RFC 4028 §7.4).
    pub(super) fn invite(&mut self, caller: &Caller, late: bool, cx: &mut Context<'_>, out: &mut Outbox) {
        self.branch = cx.identifier(self.leg).into();
        self.cseq = self.cseq.max(self.last_cseq) + 1;
        let mut bytes = Vec::with_capacity(2_048);
        let mut writer = write::request(&mut bytes, Method::Invite, &self.contact);
        dialog::via(&mut writer, &self.branch, self.flow, cx.settings);
        for route in &self.path {
            writer.header(HeaderId::Route, route);
        }
        writer.uint_header(HeaderId::MaxForwards, caller.hops);
        writer
            .header(HeaderId::From, &self.from)
            .header(HeaderId::To, &self.to)
            .header(HeaderId::CallId, &self.call_id);
        writer.display_header(HeaderId::CSeq, format_args!("{} INVITE", self.cseq));
        dialog::contact(&mut writer, &self.call_id, self.flow, cx.settings);
        // An offer in a reliable provisional response needs a caller who can answer it in a PRACK.
        let supported = if late && !caller.rel100.is_known() { SUPPORTED_WITHOUT_100REL } else { SUPPORTED };
        writer.header(HeaderId::Allow, ALLOW).header(HeaderId::Supported, supported);
        writer
            .uint_header(HeaderId::SessionExpires, self.interval.secs)
            .uint_header(HeaderId::MinSe, self.interval.min_se);
        writer.raw(&caller.passing);
        end(writer, self.description.sent());
        self.transaction = InviteClient::start(bytes, self.flow, cx.now.instant, out);
    }

    /// 422: the INVITE again with the interval that the phone wants, once for each higher demand.
    pub(super) fn accept_interval(&mut self, response: &Message<'_>) -> Option<u32> {
        let min_se = response.uint(HeaderId::MinSe)?;
        if min_se <= self.interval.min_se {
            return None;
        }
        self.interval = Interval { secs: SESSION_EXPIRES.max(min_se), min_se };
        Some(min_se)
    }

    /// The response answers the INVITE sent last.
    pub(super) fn owns(&self, response: &Message<'_>) -> bool {
        let cseq = response.cseq().map_or(0, |cseq| cseq.number);
        let tag = response.from().ok().and_then(|from| from.tag()).unwrap_or_default();
        response.call_id() == &*self.call_id && cseq == self.cseq && self.from.ends_with(tag) && !tag.is_empty()
    }

    pub(super) fn handle_response(&mut self, response: &Message<'_>, cx: &Context<'_>, out: &mut Outbox) -> Response {
        let status = response.response().map_or(0, |line| line.status.code());
        let to = response.header(HeaderId::To).unwrap_or_default();
        let fails = status >= 300 && self.transaction.is_unanswered();
        let ack = if fails { self.ack(to, cx) } else { Vec::new() };
        self.transaction.handle_response(status, || ack, cx.now.instant, out)
    }

    pub(super) fn handle_cancel_response(&mut self, response: &Message<'_>, now: Instant) {
        let status = response.response().map_or(0, |line| line.status.code());
        if let Some(cancel) = &mut self.cancel {
            cancel.handle_response(status, now);
        }
    }

    /// The ACK of a failure: RFC 3261 §17.1.1.3, same branch, To with the response's tag.
    fn ack(&self, to: &[u8], cx: &Context<'_>) -> Vec<u8> {
        self.of_transaction(Method::Ack, to, b"", cx)
    }

    /// ACK and CANCEL are made of the INVITE: same Request-URI, Via, Route, From, Call-ID and number.
    fn of_transaction(&self, method: Method, to: &[u8], reason: &[u8], cx: &Context<'_>) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(512);
        let mut writer = write::request(&mut bytes, method, &self.contact);
        dialog::via(&mut writer, &self.branch, self.flow, cx.settings);
        for route in &self.path {
            writer.header(HeaderId::Route, route);
        }
        writer.uint_header(HeaderId::MaxForwards, MAX_FORWARDS);
        writer.header(HeaderId::From, &self.from).header(HeaderId::To, to).header(HeaderId::CallId, &self.call_id);
        writer.display_header(HeaderId::CSeq, format_args!("{} {}", self.cseq, method.name()));
        if !reason.is_empty() {
            writer.header(HeaderId::Reason, reason);
        }
        writer.finish();
        bytes
    }

    /// Ends the ringing; true if the CANCEL went out at once.
    pub(super) fn cancel(&mut self, reason: &[u8], cx: &Context<'_>, out: &mut Outbox) -> bool {
        if self.state != State::Ringing {
            return false;
        }
        self.state = State::CancelDue { reason: reason.into() };
        self.cancel_if_due(cx, out)
    }

    /// RFC 3261 §9.1: "If no provisional response has been received, the CANCEL request MUST NOT be sent; rather, the client
    /// MUST wait for the arrival of a provisional response before sending the request."
    pub(super) fn cancel_if_due(&mut self, cx: &Context<'_>, out: &mut Outbox) -> bool {
        let State::CancelDue { reason } = &self.state else { return false };
        if !self.transaction.is_proceeding() {
            return false;
        }
        let bytes = self.of_transaction(Method::Cancel, &self.to, reason, cx);
        self.cancel = Some(NonInviteClient::start(bytes, self.flow, cx.now.instant, out));
        self.state = State::Cancelled { until: cx.now.instant + T1_64 };
        true
    }

    pub(super) fn cseq(&self) -> u32 {
        self.cseq
    }

    /// It may still answer, and somebody waits for it.
    pub(super) fn is_ringing(&self) -> bool {
        self.state == State::Ringing
    }

    /// Gone without a word: a dead flow.
    pub(super) fn give_up(&mut self) {
        self.transaction.give_up();
        if let Some(cancel) = &mut self.cancel {
            cancel.give_up();
        }
    }

    pub(super) fn next_deadline(&self) -> Instant {
        let cancel = self.cancel.as_ref().map_or(Instant::NEVER, NonInviteClient::next_deadline);
        let patience = match self.state {
            State::Cancelled { until } if self.transaction.is_open() => until,
            _ => Instant::NEVER,
        };
        self.transaction.next_deadline().min(cancel).min(patience)
    }

    /// True if the phone said nothing at all to the INVITE.
    pub(super) fn handle_timeout(&mut self, now: Instant, out: &mut Outbox) -> bool {
        if let Some(cancel) = &mut self.cancel {
            cancel.handle_timeout(now, out);
        }
        if let State::Cancelled { until } = self.state
            && now >= until
            && self.transaction.is_open()
        {
            // RFC 3261 §9.1: "If there is no final response for the original request in 64*T1 seconds …, the client SHOULD then
            // consider the original transaction cancelled and SHOULD destroy the client transaction handling the original request."
            // A 2xx that comes all the same makes a dialog (§13.2.2.4), which is to be acknowledged and ended: as long again.
            self.transaction.abandon(now);
        }
        self.transaction.handle_timeout(now, out) == Patience::Over
    }

    /// Its INVITE's, and that of its CANCEL.
    pub(super) fn transactions(&self) -> (&InviteClient, Option<&NonInviteClient>) {
        (&self.transaction, self.cancel.as_ref())
    }

    pub(super) fn is_settled(&self) -> bool {
        let cancelled = self.cancel.as_ref().is_none_or(NonInviteClient::is_terminated);
        let answered = self.state == State::Answered && !self.transaction.is_open();
        cancelled && (self.transaction.is_terminated() || answered)
    }
}

impl Branch {
    pub(super) fn fail(&mut self, status: u16, said: &[u8]) {
        self.state = State::Failed { status, said: said.into() };
    }

    pub(super) fn failure(&self) -> Option<u16> {
        match self.state {
            State::Failed { status, .. } => Some(status),
            State::Ringing | State::CancelDue { .. } | State::Cancelled { .. } | State::Answered => None,
        }
    }

    /// What the phone said with this failure.
    pub(super) fn said_with(&self, failure: u16) -> Option<&[u8]> {
        match &self.state {
            State::Failed { status, said } if *status == failure && !said.is_empty() => Some(said),
            _ => None,
        }
    }
}
