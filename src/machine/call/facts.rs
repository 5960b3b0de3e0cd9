//! What a call is about, for events, records and the callee's From; and the few things that records must know of its course.

use serde::Deserialize;
use serde::Serialize;

use crate::base::id::CallId;
use crate::base::limit::DISPLAY_NAME_LETTERS_MAX;
use crate::base::time::UnixTime;
use crate::machine::call::input::Context;
use crate::machine::call::input::Invite;
use crate::machine::directory::address::is_anonymous;
use crate::machine::outbox::Live;
use crate::machine::outbox::Outbox;
use crate::machine::outbox::Output;
use crate::wire::event::Body;
use crate::wire::event::Direction;
use crate::wire::link::CallState;
use crate::wire::link::LiveCall;
use crate::wire::sip::HeaderId;
use crate::wire::sip::Message;
use crate::wire::sip::NameAddr;

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Facts {
    pub id: CallId,
    pub tenant: String,
    /// What the callee sees as From and To, without tags. From is all that it learns of the caller: what the caller's phone
    /// says in P-Asserted-Identity and P-Preferred-Identity does not pass.
    pub from_value: String,
    pub to_value: String,
    from: String,
    dialled: String,
    sip_call_id: String,
    started_at: UnixTime,
    answered_at: Option<UnixTime>,
    shown: CallState,
}

impl Facts {
    pub(super) fn new(invite: &Invite<'_>, cx: &mut Context<'_>, out: &mut Outbox) -> Self {
        let caller = &invite.caller;
        let is_anonymous = invite.message.from().is_ok_and(|from| from.parse_uri().is_ok_and(is_anonymous));
        let name = match caller.name.as_str() {
            "" if is_anonymous => String::new(),
            "" => display_name(invite),
            name => name.to_owned(),
        };
        let from_value = match is_anonymous || wants_privacy(invite.message) {
            true => ANONYMOUS.to_owned(),
            false => address(&name, &caller.number, &caller.domain),
        };
        let facts = Self {
            id: call_id(cx),
            tenant: caller.tenant.clone(),
            from_value,
            to_value: address("", &invite.dialled, &caller.domain),
            from: caller.number.clone(),
            dialled: invite.dialled.clone(),
            sip_call_id: String::from_utf8_lossy(invite.message.call_id()).into_owned(),
            started_at: cx.now.unix,
            answered_at: None,
            shown: CallState::Routing,
        };
        let started = Body::CallStarted {
            sip_call_id: facts.sip_call_id.clone(),
            from: facts.from.clone(),
            from_name: name,
            to: facts.dialled.clone(),
            dialled: facts.dialled.clone(),
            direction: Direction::Internal,
            phone: caller.phone.clone(),
        };
        facts.event(Some(0), started, out);
        facts.tell(out);
        facts
    }

    pub(super) fn event(&self, leg: Option<u8>, body: Body, out: &mut Outbox) {
        out.push(Output::Event { tenant: self.tenant.clone(), call: Some(self.id), leg, body });
    }

    pub(super) fn answered(&mut self, now: UnixTime) {
        self.answered_at = Some(now);
    }

    pub(super) fn was_answered(&self) -> bool {
        self.answered_at.is_some()
    }

    /// Shows a new state to those who watch calls.
    pub(super) fn show(&mut self, state: CallState, out: &mut Outbox) {
        if self.shown != state {
            self.shown = state;
            self.tell(out);
        }
    }

    pub(super) fn live(&self) -> LiveCall {
        LiveCall {
            call: self.id,
            sip_call_id: self.sip_call_id.clone(),
            tenant: self.tenant.clone(),
            from: self.from.clone(),
            to: self.dialled.clone(),
            state: self.shown,
            started_at: self.started_at,
            answered_at: self.answered_at,
        }
    }

    fn tell(&self, out: &mut Outbox) {
        out.push(Output::Live(Live::Call(self.live())));
    }
}

/// Unique over shards, restarts and nodes as far as 80 bits go.
fn call_id(cx: &mut Context<'_>) -> CallId {
    let settings = cx.settings;
    let place = [settings.boot.to_le_bytes(), cx.random.next_u64().to_le_bytes()];
    let hash = settings.secrets.hash.hash(&[settings.node.as_bytes(), &place[0], &place[1], &[cx.shard.0]]);
    let unique = u128::from(hash) << 16 | u128::from(cx.random.next_u32() & 0xFFFF);
    CallId::new(cx.now.unix, unique)
}

/// RFC 3323 §4.1.1.3: what stands for a caller who does not want to be known.
const ANONYMOUS: &str = "\"Anonymous\" <sip:anonymous@anonymous.invalid>";

/// RFC 3323 §4.2, RFC 3325 §9.3: the callee must not learn who calls; the record does.
fn wants_privacy(invite: &Message<'_>) -> bool {
    let mut values = invite.headers(HeaderId::Privacy).flat_map(|line| line.split(|byte| matches!(byte, b';' | b',')));
    values
        .any(|value| [&b"id"[..], b"user", b"header"].iter().any(|kind| value.trim_ascii().eq_ignore_ascii_case(kind)))
}

fn display_name(invite: &Invite<'_>) -> String {
    let name = invite.message.from().map(NameAddr::name).unwrap_or_default();
    match name.char_indices().nth(DISPLAY_NAME_LETTERS_MAX) {
        Some((end, _)) => name[..end].to_owned(),
        None => name,
    }
}

/// A name-addr of ours: what is no user character is escaped, quotes and backslashes of names are left out.
fn address(name: &str, user: &str, domain: &str) -> String {
    use std::fmt::Write as _;
    let mut text = String::with_capacity(name.len() + user.len() + domain.len() + 12);
    let clean: String = name.chars().filter(|c| !matches!(c, '"' | '\\') && !c.is_control()).collect();
    if !clean.is_empty() {
        let _ = write!(text, "\"{clean}\" ");
    }
    text.push_str("<sip:");
    for byte in user.bytes() {
        let plain = byte.is_ascii_alphanumeric() || b"-_.!~*'()&=+$,?/".contains(&byte);
        let _ = if plain { write!(text, "{}", char::from(byte)) } else { write!(text, "%{byte:02X}") };
    }
    let _ = write!(text, "@{domain}>");
    text
}
