//! From the INVITE to ringing phones: the call is made, its callee's bindings are asked for, and every contact gets a branch.

use crate::base::limit::BRANCHES_MAX;
use crate::machine::call::Call;
use crate::machine::call::State;
use crate::machine::call::branch::Branch;
use crate::machine::call::caller::Caller;
use crate::machine::call::caller::Offer;
use crate::machine::call::caller::Refusal;
use crate::machine::call::facts::Facts;
use crate::machine::call::input::Context;
use crate::machine::call::input::Destination;
use crate::machine::call::input::Invite;
use crate::machine::call::media::Description;
use crate::machine::call::media::NoMedia;
use crate::machine::call::recording::Recording;
use crate::machine::call::terms::LOCATE_MAX;
use crate::machine::call::trace::Trace;
use crate::machine::call::trace::What;
use crate::machine::outbox::Outbox;
use crate::machine::outbox::Output;
use crate::machine::outbox::Target;
use crate::wire::event::Body;
use crate::wire::event::By;

impl Call {
    /// Makes a call of an authenticated INVITE. Also a refused one is a call: it has a record.
    pub fn new(invite: Invite<'_>, cx: &mut Context<'_>, out: &mut Outbox) -> Self {
        let (mut call, refusal) = Self::begin(&invite, cx, out);
        call.caller.trying(invite.message, cx.instant(), out);
        let refusal = match (&invite.destination, refusal) {
            (Destination::Refused { status }, _) => Some(Refusal::Status(*status)),
            (Destination::Phones(_), refusal) => refusal,
        };
        match (refusal, invite.destination) {
            (Some(refusal), _) => call.refuse(refusal, cx, out),
            (None, Destination::Refused { .. }) => {}
            (None, Destination::Phones(aors)) => {
                let phones = u8::try_from(aors.len()).unwrap_or(u8::MAX);
                call.step(cx, 0, What::Began { phones });
                out.push(Output::Locate { call: cx.handle, aors });
            }
        }
        call
    }

    /// For an INVITE that finds no place: over at once, with a record. Nothing repeats its refusal, so no 100 may end the repeats
    /// of the INVITE.
    pub fn refused(invite: &Invite<'_>, status: u16, cx: &mut Context<'_>, out: &mut Outbox) -> Self {
        let (mut call, _) = Self::begin(invite, cx, out);
        call.refuse(Refusal::Status(status), cx, out);
        call
    }

    fn begin(invite: &Invite<'_>, cx: &mut Context<'_>, out: &mut Outbox) -> (Self, Option<Refusal>) {
        let (caller, refusal) = Caller::new(invite, cx);
        let call = Self {
            facts: Facts::new(invite, cx, out),
            state: State::Locating { until: cx.instant() + LOCATE_MAX },
            caller,
            branches: Vec::new(),
            bonds: Vec::new(),
            strays: Vec::new(),
            trace: Trace::default(),
            bridged: 0,
            reports_awaited: 0,
            provisionals_joined: 0,
            recording: Recording::new(invite.record.clone()),
            symmetric: Some(invite.symmetric.clone()).filter(|said| *said != Default::default()).map(Box::new),
            changes: None,
        };
        (call, refusal)
    }

    fn refuse(&mut self, refusal: Refusal, cx: &mut Context<'_>, out: &mut Outbox) {
        self.refuse_saying(refusal, b"", cx, out);
    }

    fn refuse_saying(&mut self, refusal: Refusal, said: &[u8], cx: &mut Context<'_>, out: &mut Outbox) {
        self.step(cx, 0, What::Refused { status: refusal.status() });
        self.caller.refuse(refusal, said, cx.instant(), out);
        self.end_with(refusal.status(), By::System, cx, out);
    }

    pub(super) fn on_targets(&mut self, targets: Vec<Target>, cx: &mut Context<'_>, out: &mut Outbox) {
        if !matches!(self.state, State::Locating { .. }) {
            return self.on_found(&targets, cx, out);
        }
        let count = |contacts: usize| u8::try_from(contacts).unwrap_or(u8::MAX);
        self.step(cx, 0, What::Located { contacts: count(targets.len()) });
        if targets.len() > BRANCHES_MAX {
            self.step(cx, 0, What::NotRung { contacts: count(targets.len() - BRANCHES_MAX) });
        }
        self.state = State::Ringing { until: cx.instant() + cx.settings.ring_max };
        if let Err(error) = self.open_caller_ports(cx, out) {
            self.step(cx, 0, if error == NoMedia::NoFamily { What::OtherFamily } else { What::NoPorts });
            return self.refuse_saying(Refusal::Status(error.status()), &error.said(), cx, out);
        }
        for (target, leg) in targets.into_iter().take(BRANCHES_MAX).zip(1..) {
            self.begin_branch(leg, target, cx, out);
        }
        if let Some(status) = self.branches.iter().find_map(Branch::failure)
            && self.branches.iter().all(|branch| branch.failure().is_some())
        {
            self.refuse(Refusal::Status(status), cx, out);
        } else if self.branches.is_empty() {
            self.refuse(Refusal::Status(480), cx, out);
        }
    }

    /// First of all: a phone must not ring for a caller that could not be heard.
    fn open_caller_ports(&mut self, cx: &mut Context<'_>, out: &mut Outbox) -> Result<(), NoMedia> {
        match &self.caller.offer {
            Offer::Made { described, .. } => {
                self.caller.ports.may_reach(described, cx.settings)?;
                Ok(self.caller.ports.fit(described, cx, out)?)
            }
            Offer::Late => Ok(()),
        }
    }

    fn begin_branch(&mut self, leg: u8, target: Target, cx: &mut Context<'_>, out: &mut Outbox) {
        let flow = target.flow.to_string();
        let mut branch = Branch::new(leg, target, &self.facts, cx);
        let narrow = self.is_narrow(&branch.phone);
        if let Err(error) = offer(&self.caller.offer, narrow, &mut branch, cx, out) {
            self.step(cx, leg, What::NoPorts);
            self.reports_awaited += branch.ports.close(cx, out);
            branch.fail(error.status(), b"");
            self.branches.push(branch);
            return;
        }
        branch.invite(&self.caller, self.caller.offer == Offer::Late, cx, out);
        let invited = Body::LegInvited { phone: branch.phone.clone(), contact: branch.contact.clone(), flow };
        self.facts.event(Some(leg), invited, out);
        self.step(cx, leg, What::Invited);
        self.branches.push(branch);
    }
}

fn offer(
    offer: &Offer,
    narrow: bool,
    branch: &mut Branch,
    cx: &mut Context<'_>,
    out: &mut Outbox,
) -> Result<(), NoMedia> {
    let Offer::Made { sdp, .. } = offer else { return Ok(()) };
    branch.description = Description::new(cx.random.next_u64());
    branch.description.offer(sdp, narrow, &mut branch.ports, cx, out)?;
    Ok(())
}
