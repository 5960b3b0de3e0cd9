//! One binding, packed: its text in one allocation, because there are hundreds of thousands.

use serde::Deserialize;
use serde::Serialize;

use crate::base::time::Instant;
use crate::base::time::UnixTime;
use crate::machine::flow::Flow;
use crate::machine::outbox::Aor;
use crate::machine::outbox::Target;
use crate::wire::link::Registration;
use crate::wire::sip::uri::for_request;

/// Within a registrar; never used twice while it matters.
pub(super) type BindingId = u32;

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Binding {
    pub(super) id: BindingId,
    text: Text,
    pub(super) flow: Flow,
    /// Keyed hash: only its equality matters.
    pub(super) call_id: u64,
    pub(super) cseq: u32,
    /// 0: none.
    pub(super) reg_id: u32,
    pub(super) q: u16,
    /// Kept open from our side.
    pub(super) behind_nat: bool,
    pub(super) expires: Instant,
    pub(super) expires_unix: UnixTime,
}

/// What a binding is made of, before it is packed.
#[derive(Clone, Debug)]
pub(super) struct Parts<'a> {
    pub(super) contact: &'a str,
    /// Empty: none.
    pub(super) instance: &'a str,
    pub(super) user_agent: &'a str,
    pub(super) path: &'a [String],
    pub(super) flow: Flow,
    pub(super) call_id: u64,
    pub(super) cseq: u32,
    pub(super) reg_id: u32,
    pub(super) q: u16,
    pub(super) behind_nat: bool,
    pub(super) expires: Instant,
    pub(super) expires_unix: UnixTime,
}

/// Contact, instance, user agent and path values, each ended by a line feed, which none of them can hold.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Text(Box<str>);

const END: char = '\n';

impl Text {
    fn new(parts: &Parts<'_>) -> Self {
        let path = parts.path.iter().map(String::as_str);
        let fields = [parts.contact, parts.instance, parts.user_agent].into_iter().chain(path);
        let mut text = String::with_capacity(fields.clone().map(|field| field.len() + 1).sum());
        for field in fields {
            field.split(END).for_each(|part| text.push_str(part));
            text.push(END);
        }
        Self(text.into_boxed_str())
    }

    fn fields(&self) -> impl Iterator<Item = &str> {
        self.0.split_terminator(END)
    }
}

impl Binding {
    pub(super) fn new(id: BindingId, parts: &Parts<'_>) -> Self {
        Self {
            id,
            text: Text::new(parts),
            flow: parts.flow,
            call_id: parts.call_id,
            cseq: parts.cseq,
            reg_id: parts.reg_id,
            q: parts.q,
            behind_nat: parts.behind_nat,
            expires: parts.expires,
            expires_unix: parts.expires_unix,
        }
    }

    pub(super) fn contact(&self) -> &str {
        self.text.fields().next().unwrap_or_default()
    }

    /// What requests to it name.
    pub(super) fn request_uri(&self) -> String {
        for_request(self.contact()).into_owned()
    }

    pub(super) fn instance(&self) -> &str {
        self.text.fields().nth(1).unwrap_or_default()
    }

    pub(super) fn user_agent(&self) -> &str {
        self.text.fields().nth(2).unwrap_or_default()
    }

    pub(super) fn path(&self) -> impl Iterator<Item = &str> {
        self.text.fields().skip(3)
    }

    pub(super) fn target(&self, aor: Aor) -> Target {
        Target {
            aor,
            contact: self.request_uri(),
            flow: self.flow,
            path: self.path().map(str::to_owned).collect(),
            q: self.q,
            instance: self.instance().to_owned(),
        }
    }

    pub(super) fn registration(&self, tenant: &str, user: &str) -> Registration {
        Registration {
            tenant: tenant.to_owned(),
            user: user.to_owned(),
            contact: self.contact().to_owned(),
            transport: self.flow.transport(),
            received: self.flow.peer,
            expires_at: self.expires_unix,
            user_agent: self.user_agent().to_owned(),
        }
    }
}
