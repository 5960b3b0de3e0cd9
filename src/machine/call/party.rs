//! One side of an established or early session: its dialog, its description, its timer, and the transactions in that dialog.

use serde::Deserialize;
use serde::Serialize;

use crate::base::time::Instant;
use crate::machine::call::head::Head;
use crate::machine::call::head::ServerRequest;
use crate::machine::call::input::Context;
use crate::machine::call::media::Description;
use crate::machine::call::reconnect::Lost;
use crate::machine::call::session_timer::SessionTimer;
use crate::machine::call::terms::ALLOW;
use crate::machine::call::terms::RENEGOTIATION_MAX;
use crate::machine::call::terms::SDP;
use crate::machine::call::terms::SUPPORTED;
use crate::machine::call::terms::SUPPORTED_WITHOUT_100REL;
use crate::machine::dialog;
use crate::machine::dialog::Dialog;
use crate::machine::dialog::MAX_FORWARDS;
use crate::machine::dialog::Text;
use crate::machine::outbox::Outbox;
use crate::machine::transaction::T1_64;
use crate::machine::transaction::invite_client::InviteClient;
use crate::machine::transaction::invite_server;
use crate::machine::transaction::invite_server::InviteServer;
use crate::machine::transaction::non_invite_client::NonInviteClient;
use crate::machine::transaction::repeat::Pace;
use crate::machine::transaction::repeat::Repeat;
use crate::wire::sip::HeaderId;
use crate::wire::sip::Message;
use crate::wire::sip::Method;
use crate::wire::sip::Writer;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Side {
    Caller,
    Callee,
}

impl Side {
    pub(super) fn other(self) -> Self {
        match self {
            Self::Caller => Self::Callee,
            Self::Callee => Self::Caller,
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Party {
    pub leg: u8,
    pub presence: Presence,
    pub dialog: Dialog,
    pub description: Description,
    pub timer: SessionTimer,
    /// Its Allow names UPDATE.
    pub takes_update: bool,
    /// Its last re-INVITE.
    pub server: Option<ServerInvite>,
    /// Our 2xx to its INVITE.
    pub unacked: Option<Unacked>,
    /// Our last re-INVITE.
    pub client: Option<ClientInvite>,
    /// Our ACK to its 2xx.
    pub ack: Acknowledgement,
    pub requests: Vec<ClientRequest>,
    /// The last connection of its phone that ended.
    pub lost: Option<Box<Lost>>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Presence {
    Early,
    Confirmed,
    /// To be hung up when it has acknowledged our 2xx; with the values of Reason.
    Leaving {
        reason: Text,
    },
    /// It said BYE, or we did.
    Gone,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct ServerInvite {
    pub key: u64,
    pub cseq: u32,
    pub head: Head,
    pub transaction: InviteServer,
    /// By its own word.
    pub expires_at: Instant,
    /// The ACK of its 2xx has come.
    pub is_acked: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Unacked {
    pub cseq: u32,
    pub repeat: Repeat,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct ClientInvite {
    pub branch: Box<str>,
    pub cseq: u32,
    pub purpose: InvitePurpose,
    /// It had no description: its 2xx brings an offer.
    pub asks_offer: bool,
    pub transaction: InviteClient,
    /// No final response by then: given up.
    pub until: Instant,
    pub withdrawal: Withdrawal,
}

/// The other side cancelled the re-INVITE that we carried here.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Withdrawal {
    No,
    /// To be cancelled as soon as something was heard (RFC 3261 §9.1); with the values of Reason.
    Due {
        reason: Text,
    },
    Sent {
        cancel: NonInviteClient,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum InvitePurpose {
    /// Carries the other side's offer, or asks for one.
    Carry,
    /// Refreshes the session (RFC 4028).
    Refresh,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Acknowledgement {
    Nothing,
    /// The 2xx brought an offer: the ACK waits for the other side's answer.
    Due {
        cseq: u32,
    },
    Sent {
        cseq: u32,
        bytes: Text,
    },
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct ClientRequest {
    pub branch: Box<str>,
    pub cseq: u32,
    pub method: Method,
    pub purpose: Purpose,
    pub transaction: NonInviteClient,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Purpose {
    Bye,
    Prack,
    /// UPDATE that carries the other side's offer.
    Carry,
    /// UPDATE that refreshes the session (RFC 4028).
    Refresh,
    /// The other side's request, passed on.
    Relay(ServerRequest),
}

impl Party {
    pub(super) fn new(leg: u8, dialog: Dialog, description: Description) -> Self {
        Self {
            leg,
            presence: Presence::Early,
            dialog,
            description,
            timer: SessionTimer::Off,
            takes_update: false,
            server: None,
            unacked: None,
            client: None,
            ack: Acknowledgement::Nothing,
            requests: Vec::new(),
            lost: None,
        }
    }

    /// Notes what a message says about its sender.
    pub(super) fn learn(&mut self, message: &Message<'_>) {
        if message.has(HeaderId::Allow) {
            self.takes_update = message.tags(HeaderId::Allow).any(|method| method == b"UPDATE");
        }
    }

    /// Sends a request in the dialog; `more` writes what it is for and ends it.
    pub(super) fn send(
        &mut self,
        method: Method,
        purpose: Purpose,
        hops: u8,
        more: impl FnOnce(Writer<'_>),
        cx: &mut Context<'_>,
        out: &mut Outbox,
    ) {
        let branch = cx.identifier(self.leg);
        let mut bytes = Vec::with_capacity(1_024);
        let writer = self.dialog.request(&mut bytes, method, &branch, hops, cx.settings);
        more(writer);
        let mark = out.len();
        let transaction = NonInviteClient::start(bytes, self.dialog.flow(), cx.now.instant, out);
        self.hold_back(mark, out);
        let cseq = self.dialog.local_cseq();
        self.requests.push(ClientRequest { branch: branch.into(), cseq, method, purpose, transaction });
    }

    pub(super) fn on_cancel_response(&mut self, response: &Message<'_>, now: Instant) {
        let cseq = response.cseq().map_or(0, |cseq| cseq.number);
        let status = response.response().map_or(0, |line| line.status.code());
        if let Some(client) = self.client.as_mut().filter(|client| client.cseq == cseq)
            && let Withdrawal::Sent { cancel } = &mut client.withdrawal
        {
            cancel.handle_response(status, now);
        }
    }

    /// Sends a re-INVITE; without a description it asks for an offer.
    pub(super) fn reinvite(
        &mut self,
        purpose: InvitePurpose,
        hops: u8,
        sdp: Option<&[u8]>,
        cx: &mut Context<'_>,
        out: &mut Outbox,
    ) {
        let branch = cx.identifier(self.leg);
        let mut bytes = Vec::with_capacity(2_048);
        let mut writer = self.dialog.request(&mut bytes, Method::Invite, &branch, hops, cx.settings);
        // No 100rel: a provisional response to it is for nobody, so nothing would acknowledge it.
        about_us(&mut writer, &self.dialog, SUPPORTED_WITHOUT_100REL, cx);
        self.timer.emit_request(&mut writer);
        end(writer, sdp);
        let mark = out.len();
        let transaction = InviteClient::start(bytes, self.dialog.flow(), cx.now.instant, out);
        self.hold_back(mark, out);
        let cseq = self.dialog.local_cseq();
        let until = cx.now.instant + RENEGOTIATION_MAX;
        self.client = Some(ClientInvite {
            branch: branch.into(),
            cseq,
            purpose,
            asks_offer: sdp.is_none(),
            transaction,
            until,
            withdrawal: Withdrawal::No,
        });
    }

    /// Cancels our re-INVITE, now or when a provisional response has come.
    pub(super) fn withdraw(&mut self, reason: &[u8], cx: &Context<'_>, out: &mut Outbox) {
        if let Some(client) = &mut self.client
            && client.withdrawal == Withdrawal::No
            && client.transaction.is_open()
        {
            client.withdrawal = Withdrawal::Due { reason: reason.into() };
            self.withdraw_if_due(cx, out);
        }
    }

    /// RFC 3261 §9.1: "If no provisional response has been received, the CANCEL request MUST NOT be sent".
    pub(super) fn withdraw_if_due(&mut self, cx: &Context<'_>, out: &mut Outbox) -> bool {
        let Some(client) = &mut self.client else { return false };
        let Withdrawal::Due { reason } = &client.withdrawal else { return false };
        if !client.transaction.is_proceeding() {
            return false;
        }
        let mut bytes = Vec::with_capacity(512);
        let mut writer = self.dialog.cancel(&mut bytes, client.cseq, &client.branch, cx.settings);
        if !reason.is_empty() {
            writer.header(HeaderId::Reason, reason);
        }
        writer.finish();
        let cancel = NonInviteClient::start(bytes, self.dialog.flow(), cx.now.instant, out);
        client.withdrawal = Withdrawal::Sent { cancel };
        client.until = client.until.min(cx.now.instant + T1_64);
        true
    }

    /// Acknowledges a 2xx, and keeps the ACK for its repeats.
    pub(super) fn acknowledge(&mut self, cseq: u32, sdp: Option<&[u8]>, cx: &mut Context<'_>, out: &mut Outbox) {
        let branch = cx.identifier(self.leg);
        let mut bytes = Vec::with_capacity(1_024);
        let writer = self.dialog.ack(&mut bytes, cseq, &branch, cx.settings);
        end(writer, sdp);
        self.ack = Acknowledgement::Sent { cseq, bytes: bytes.into() };
        self.acknowledge_again(cseq, cx, out);
    }

    /// A 2xx came again.
    pub(super) fn acknowledge_again(&mut self, cseq: u32, cx: &Context<'_>, out: &mut Outbox) {
        let Acknowledgement::Sent { cseq: sent, bytes } = &self.ack else { return };
        if *sent != cseq {
            return;
        }
        let mark = out.len();
        out.send(self.dialog.flow(), bytes.to_vec());
        if self.hold_back(mark, out) {
            self.owe_ack(cx.now.instant);
        }
    }

    /// Ends the dialog from our side, if there is one to end. `reason` are whole values of Reason.
    pub(super) fn hang_up(&mut self, reason: &[u8], cx: &mut Context<'_>, out: &mut Outbox) {
        if let Some(client) = &mut self.client {
            client.abandon(cx.now.instant);
        }
        match self.presence {
            Presence::Confirmed if self.unacked.is_some() => {
                // RFC 3261 §15: "the callee's UA MUST NOT send a BYE on a confirmed dialog until it has received an ACK for its
                // 2xx response or until the server transaction times out."
                self.presence = Presence::Leaving { reason: reason.into() };
            }
            Presence::Confirmed => self.bye(reason, cx, out),
            Presence::Early | Presence::Leaving { .. } | Presence::Gone => self.presence = Presence::Gone,
        }
    }

    /// The ACK came, or will not come.
    pub(super) fn leave_if_due(&mut self, cx: &mut Context<'_>, out: &mut Outbox) {
        if let Presence::Leaving { reason } = &self.presence {
            let reason = reason.clone();
            self.bye(&reason, cx, out);
        }
    }

    pub(super) fn is_leaving(&self) -> bool {
        matches!(self.presence, Presence::Leaving { .. } | Presence::Gone)
    }

    pub(super) fn repeat_answer(&mut self, cseq: u32, bytes: Vec<u8>, now: Instant) {
        self.unacked = Some(Unacked { cseq, repeat: Repeat::waiting(bytes, Pace::UpToT2, now) });
    }

    fn bye(&mut self, reason: &[u8], cx: &mut Context<'_>, out: &mut Outbox) {
        self.presence = Presence::Gone;
        if let Acknowledgement::Due { cseq } = self.ack {
            // RFC 3261 §13.2.2.4: the 2xx is acknowledged first, even if the session is then ended at once.
            self.acknowledge(cseq, None, cx, out);
        }
        self.send(
            Method::Bye,
            Purpose::Bye,
            MAX_FORWARDS,
            |mut writer| {
                if !reason.is_empty() {
                    writer.header(HeaderId::Reason, reason);
                }
                writer.finish();
            },
            cx,
            out,
        );
    }

    /// An offer/answer exchange or an INVITE is under way on this side.
    pub(super) fn is_negotiating(&self) -> bool {
        let serves = self.server.as_ref().is_some_and(|server| server.transaction.is_proceeding());
        // RFC 3261 §14.1: "a UAC MUST NOT initiate a new INVITE transaction within a dialog while another INVITE transaction is
        // in progress": one that was given up may be answered yet.
        let asks = self.client.as_ref().is_some_and(|client| client.transaction.is_unanswered());
        let updates = self
            .requests
            .iter()
            .any(|request| matches!(request.purpose, Purpose::Carry) && request.transaction.is_open());
        serves || asks || updates || self.unacked.is_some() || matches!(self.ack, Acknowledgement::Due { .. })
    }

    pub(super) fn next_deadline(&self) -> Instant {
        let server = self.server.as_ref().map_or(Instant::NEVER, ServerInvite::next_deadline);
        let client = self.client.as_ref().map_or(Instant::NEVER, ClientInvite::next_deadline);
        let unacked = self.unacked.as_ref().map_or(Instant::NEVER, |unacked| unacked.repeat.next_deadline());
        let requests = self.requests.iter().map(|request| request.transaction.next_deadline());
        let timer = match self.presence {
            Presence::Confirmed => self.timer.next_deadline(),
            Presence::Early | Presence::Leaving { .. } | Presence::Gone => Instant::NEVER,
        };
        requests.chain([server, client, unacked, timer, self.next_search()]).min().unwrap_or(Instant::NEVER)
    }

    /// Nothing is left to be repeated or absorbed that a finished call must wait for.
    pub(super) fn is_settled(&self) -> bool {
        let served = self.server.as_ref().is_none_or(ServerInvite::is_settled);
        let asked = self.client.as_ref().is_none_or(|client| !client.transaction.is_unanswered());
        let requested = self.requests.iter().all(|request| request.transaction.is_terminated());
        served && asked && requested && self.unacked.is_none()
    }
}

impl Acknowledgement {
    /// The 2xx to this INVITE was seen before.
    pub(super) fn is_for(&self, number: u32) -> bool {
        match self {
            Self::Nothing => false,
            Self::Due { cseq } | Self::Sent { cseq, .. } => *cseq == number,
        }
    }
}

impl ServerInvite {
    /// Its sender has heard the answer, or has stopped asking: who has not is told no other one because the call ended meanwhile.
    fn is_settled(&self) -> bool {
        match self.transaction.state() {
            invite_server::State::Proceeding { .. } | invite_server::State::Completed { .. } => false,
            invite_server::State::Accepted { .. } => self.is_acked,
            invite_server::State::Confirmed { .. } | invite_server::State::Terminated => true,
        }
    }

    fn next_deadline(&self) -> Instant {
        let expiry = if self.transaction.is_proceeding() { self.expires_at } else { Instant::NEVER };
        self.transaction.next_deadline().min(expiry)
    }
}

impl ClientInvite {
    fn next_deadline(&self) -> Instant {
        let guard = if self.transaction.is_open() { self.until } else { Instant::NEVER };
        let cancel = match &self.withdrawal {
            Withdrawal::Sent { cancel } => cancel.next_deadline(),
            Withdrawal::No | Withdrawal::Due { .. } => Instant::NEVER,
        };
        self.transaction.next_deadline().min(guard).min(cancel)
    }

    /// No more repeats, of it and of its CANCEL; its final response is acknowledged.
    pub(super) fn abandon(&mut self, now: Instant) {
        self.transaction.abandon(now);
        self.withdrawal = Withdrawal::No;
    }
}

/// What UPDATE and 2xx to INVITE and UPDATE say about us.
pub(super) fn target_refresh(writer: &mut Writer<'_>, dialog: &Dialog, cx: &Context<'_>) {
    about_us(writer, dialog, SUPPORTED, cx);
}

fn about_us(writer: &mut Writer<'_>, dialog: &Dialog, supported: &str, cx: &Context<'_>) {
    dialog::contact(writer, dialog.local_tag(), dialog.flow(), cx.settings);
    writer.header(HeaderId::Allow, ALLOW).header(HeaderId::Supported, supported);
}

/// The end of a message with or without a description.
pub(super) fn end(mut writer: Writer<'_>, sdp: Option<&[u8]>) {
    match sdp {
        Some(sdp) => writer.body(SDP, sdp),
        None => writer.finish(),
    }
}
