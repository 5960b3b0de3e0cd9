//! The caller's first INVITE: what is kept of it, and our responses to it.

use std::collections::VecDeque;
use std::time::Duration;

use serde::Deserialize;
use serde::Serialize;

use crate::base::time::Instant;
use crate::machine::call::body::Content;
use crate::machine::call::head::Head;
use crate::machine::call::head::understood;
use crate::machine::call::hints;
use crate::machine::call::input::Context;
use crate::machine::call::input::Invite;
use crate::machine::call::media;
use crate::machine::call::media::Ports;
use crate::machine::call::reliable::Rel100;
use crate::machine::call::session_timer::Wish;
use crate::machine::call::terms::ALLOW;
use crate::machine::call::terms::BONDS_MAX;
use crate::machine::call::terms::MIN_SE;
use crate::machine::call::terms::PROGRESS_PAUSE;
use crate::machine::call::terms::SDP;
use crate::machine::dialog;
use crate::machine::dialog::Dialog;
use crate::machine::dialog::Text;
use crate::machine::dialog::hops_after;
use crate::machine::dialog::target_of;
use crate::machine::outbox::Aor;
use crate::machine::outbox::Bound;
use crate::machine::outbox::Outbox;
use crate::machine::transaction::invite_server::InviteServer;
use crate::machine::transaction::key::merge_key;
use crate::machine::transaction::key::server_key;
use crate::wire::sdp::facts::Described;
use crate::wire::sip::HeaderId;
use crate::wire::sip::Message;
use crate::wire::sip::Method;
use crate::wire::sip::Writer;
use crate::wire::sip::write;

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Caller {
    pub key: u64,
    /// Of all copies of the INVITE.
    pub merge_key: u64,
    pub cseq: u32,
    pub transaction: InviteServer,
    /// When the invitation expires by its own word, and when the caller is to hear again that it is worked on.
    pub expires_at: Instant,
    pub progress_due: Instant,
    head: Head,
    /// Our tag in responses outside of any callee's early dialog, and in the first of these.
    pub tag: Text,
    pub tag_used: bool,
    /// What every early dialog towards the caller begins as.
    pub dialog: Box<Dialog>,
    pub ports: Ports,
    pub offer: Offer,
    /// The INVITE had an offer.
    pub has_offered: bool,
    /// Tag and RSeq of reliable provisional responses that no PRACK came for, in early dialogs that are over.
    unacknowledged: VecDeque<(Text, u32)>,
    pub rel100: Rel100,
    pub wish: Wish,
    pub takes_update: bool,
    /// It wants to hear of early dialogs that end (RFC 6228).
    takes_199: bool,
    /// Max-Forwards of the branches.
    pub hops: u8,
    /// Header fields that pass to the callee as they are.
    pub passing: Text,
    /// Where its phone is found when its connection ended.
    pub bound: Box<Bound>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Offer {
    /// The INVITE had no description.
    Late,
    Made {
        sdp: Text,
        described: Described,
    },
}

/// An INVITE that no call can be made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    /// With a Warning where the description is to blame.
    Status(u16),
    /// RFC 4028 §9: 422 with Min-SE.
    Interval,
    /// 415 with Accept.
    MediaType,
    /// 400: no request could be sent to its Contact.
    Contact,
}

/// Say nothing about networks or passwords, and do nothing on the callee's side by themselves.
const PASSING: [HeaderId; 4] = [HeaderId::Subject, HeaderId::Priority, HeaderId::AcceptLanguage, HeaderId::UserToUser];

impl Caller {
    /// What the INVITE says, and whether it is to be refused.
    pub(super) fn new(invite: &Invite<'_>, cx: &mut Context<'_>) -> (Self, Option<Refusal>) {
        let Invite { message, flow, .. } = invite;
        let tag = cx.identifier(0);
        let (offer, refusal) = match offer_of(message) {
            Ok(offer) => (offer, None),
            Err(refusal) => (Offer::Late, Some(refusal)),
        };
        let wish = Wish::of(message);
        let refusal = target_of(message).is_none().then_some(Refusal::Contact).or(refusal);
        let refusal = refusal.or_else(|| (!takes_sdp(message)).then_some(Refusal::Status(406)));
        let refusal = refusal.or_else(|| wish.is_too_small().then_some(Refusal::Interval));
        let mut passing = Vec::new();
        for id in PASSING {
            message.headers(id).for_each(|value| emit_line(&mut passing, id, value));
        }
        let family = match &offer {
            Offer::Made { described, .. } => media::family_of(described),
            Offer::Late => None,
        };
        let caller = Self {
            key: server_key(&cx.settings.secrets.hash, message, flow.peer.ip(), Method::Invite),
            merge_key: merge_key(&cx.settings.secrets.hash, message),
            cseq: message.cseq().map_or(0, |cseq| cseq.number),
            transaction: InviteServer::new(*flow),
            expires_at: expiry_of(message, cx.instant()),
            progress_due: cx.instant() + PROGRESS_PAUSE,
            head: Head::of(message, *flow),
            dialog: Box::new(Dialog::of_server(message, &tag, *flow)),
            tag: tag.as_bytes().into(),
            tag_used: false,
            ports: Ports::new(0, *flow, family, cx.settings),
            has_offered: matches!(offer, Offer::Made { .. }),
            offer,
            unacknowledged: VecDeque::new(),
            rel100: Rel100::of(message),
            wish,
            takes_199: message.has_tag(HeaderId::Supported, "199"),
            takes_update: message.tags(HeaderId::Allow).any(|method| method == b"UPDATE"),
            hops: hops_after(message),
            passing: passing.into(),
            bound: Box::new(invite.bound.clone().unwrap_or_else(|| bound_by_contact(invite))),
        };
        (caller, refusal)
    }

    /// Begins a response in the dialog of `tag`.
    pub(super) fn response<'o>(&self, bytes: &'o mut Vec<u8>, status: u16, tag: &[u8]) -> Writer<'o> {
        self.head.response(bytes, status, tag)
    }

    pub(super) fn trying(&mut self, invite: &Message<'_>, now: Instant, out: &mut Outbox) {
        self.transaction.respond(100, self.head.trying(invite), now, out);
    }

    /// Something other than a 100, where no phone has said anything: in the dialog that the first one will have.
    pub(super) fn progress(&mut self, cx: &Context<'_>, out: &mut Outbox) {
        let mut bytes = Vec::with_capacity(512);
        let mut writer = self.head.response(&mut bytes, 183, &self.tag);
        dialog::contact(&mut writer, &self.tag, self.transaction.flow(), cx.settings);
        writer.header(HeaderId::Allow, ALLOW);
        writer.finish();
        self.transaction.respond(183, bytes, cx.now.instant, out);
    }

    /// RFC 6228 §6: the early dialog of `tag` is over, others go on. Where provisional responses must be reliable it is not
    /// worth a PRACK.
    pub(super) fn end_early_dialog(&self, tag: &[u8], failure: u16, out: &mut Outbox) -> bool {
        if !self.takes_199 || self.rel100 == Rel100::Required || !self.transaction.is_proceeding() {
            return false;
        }
        let mut bytes = Vec::with_capacity(512);
        let mut writer = self.head.response(&mut bytes, 199, tag);
        writer.display_header(HeaderId::Reason, format_args!("SIP ;cause={failure}"));
        writer.finish();
        // Not the transaction's: a repeated INVITE is answered with how the ringing stands.
        out.send(self.transaction.flow(), bytes);
        true
    }

    /// RFC 3262 §3: the UAS "MUST be prepared to process PRACK requests for those outstanding responses".
    pub(super) fn leave_unacknowledged(&mut self, tag: &[u8], rseq: u32) {
        let left = &mut self.unacknowledged;
        if left.len() >= BONDS_MAX {
            left.pop_front();
        }
        left.push_back((tag.into(), rseq));
    }

    pub(super) fn is_unacknowledged(&self, tag: &[u8], rseq: u32) -> bool {
        self.unacknowledged.iter().any(|(known, number)| **known == *tag && *number == rseq)
    }

    pub(super) fn take_unacknowledged(&mut self, tag: &[u8], rseq: u32) {
        self.unacknowledged.retain(|(known, number)| **known != *tag || *number != rseq);
    }

    /// A final response other than 2xx; `said` are further header lines, also of the phone that refused.
    pub(super) fn refuse(&mut self, refusal: Refusal, said: &[u8], now: Instant, out: &mut Outbox) {
        let mut bytes = Vec::with_capacity(512);
        let status = refusal.status();
        let mut writer = self.head.response(&mut bytes, status, &self.tag);
        match refusal {
            Refusal::Interval => {
                writer.uint_header(HeaderId::MinSe, MIN_SE);
            }
            Refusal::MediaType => understood(&mut writer),
            Refusal::Contact => {
                writer.header(HeaderId::Warning, "399 tipring \"Contact must have a SIP or SIPS URI\"");
            }
            Refusal::Status(415) => hints::complete_415(said, &mut writer),
            Refusal::Status(488) if !hints::says(said, HeaderId::Warning) => {
                // RFC 3261 §20.43: 304, "One or more media types contained in the session description are not available."
                writer.header(HeaderId::Warning, "304 tipring \"no RTP stream that could be relayed\"");
            }
            Refusal::Status(503) => {
                writer.uint_header(HeaderId::RetryAfter, 10u32);
            }
            Refusal::Status(_) => {}
        }
        writer.raw(said);
        writer.finish();
        self.transaction.respond(status, bytes, now, out);
    }
}

impl Refusal {
    pub(super) fn status(self) -> u16 {
        match self {
            Self::Status(status) => status,
            Self::Interval => 422,
            Self::MediaType => 415,
            Self::Contact => 400,
        }
    }
}

/// RFC 3261 §13.3.1: "If the request is an INVITE that contains an Expires header field, the UAS core sets a timer for the number of
/// seconds indicated in the header field value."
pub(super) fn expiry_of(invite: &Message<'_>, now: Instant) -> Instant {
    invite.uint(HeaderId::Expires).map_or(Instant::NEVER, |secs| now + Duration::from_secs(secs.into()))
}

/// A phone that has not registered over the flow of its INVITE is known by its Contact.
fn bound_by_contact(invite: &Invite<'_>) -> Bound {
    let aor = Aor { tenant: invite.caller.tenant.clone(), user: invite.caller.phone.clone() };
    // As a binding's contact is written.
    let contact =
        target_of(invite.message).map_or_else(String::new, |target| String::from_utf8_lossy(&target).into_owned());
    Bound { aor, contact, instance: String::new() }
}

/// RFC 3261 §21.4.7: what we would answer with has to be acceptable "according to the Accept header field sent in the request".
fn takes_sdp(invite: &Message<'_>) -> bool {
    let mut ranges = invite.tags(HeaderId::Accept).peekable();
    let fits = |range: &[u8]| {
        let kind = range.split(|byte| *byte == b';').next().unwrap_or_default().trim_ascii();
        [SDP.as_bytes(), b"application/*", b"*/*"].iter().any(|known| known.eq_ignore_ascii_case(kind))
    };
    ranges.peek().is_none() || ranges.any(fits)
}

fn offer_of(invite: &Message<'_>) -> Result<Offer, Refusal> {
    match Content::of(invite) {
        Content::Nothing => Ok(Offer::Late),
        Content::Unsupported => Err(Refusal::MediaType),
        Content::Sdp(sdp) => {
            let described = media::read_offer(sdp).map_err(|error| Refusal::Status(error.status()))?;
            Ok(Offer::Made { sdp: sdp.into(), described })
        }
    }
}

fn emit_line(lines: &mut Vec<u8>, id: HeaderId, value: &[u8]) {
    write::fragment(lines).header(id, value);
}
