//! What a call is told, and what it may use while it is handled.

use serde::Deserialize;
use serde::Serialize;

use crate::base::id::Handle;
use crate::base::id::ShardId;
use crate::base::random::Random;
use crate::base::time::Instant;
use crate::base::time::Now;
use crate::machine::call::recording::Wanted;
use crate::machine::dialog;
use crate::machine::flow::Flow;
use crate::machine::locator::Locator;
use crate::machine::media::command::MediaNotice;
use crate::machine::media::ports::PortPool;
use crate::machine::outbox::Aor;
use crate::machine::outbox::Bound;
use crate::machine::outbox::Target;
use crate::machine::settings::Settings;
use crate::wire::event::By;
use crate::wire::link::RecordWish;
use crate::wire::link::Symmetric;
use crate::wire::sip::Message;

/// A first INVITE whose sender is known: what a call is made of.
#[derive(Clone, Debug)]
pub struct Invite<'a> {
    pub message: &'a Message<'a>,
    pub flow: Flow,
    pub caller: CallerIdentity,
    /// The user or number of the request URI.
    pub dialled: String,
    pub destination: Destination,
    /// The binding of the phone that calls; `None`: it has not registered over this flow.
    pub bound: Option<Bound>,
    pub record: Wanted,
    pub symmetric: SymmetricMedia,
}

/// Where media of the phones goes, as the directory says.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SymmetricMedia {
    pub caller: Symmetric,
    /// Users of the called phones of which something is said.
    pub callees: Vec<(String, Symmetric)>,
}

impl SymmetricMedia {
    pub(super) fn of_callee(&self, phone: &str) -> Symmetric {
        let said = self.callees.iter().find(|(user, _)| user == phone);
        said.map_or(Symmetric::Auto, |(_, symmetric)| *symmetric)
    }
}

/// As authenticated: what the callee is shown is made of this.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CallerIdentity {
    pub tenant: String,
    /// The tenant's domain.
    pub domain: String,
    /// The phone's SIP user.
    pub phone: String,
    /// What others dial to reach it.
    pub number: String,
    /// The directory's name; the one in From is shown if this is empty.
    pub name: String,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Destination {
    /// All contacts of all these phones ring.
    Phones(Vec<Aor>),
    /// The directory says no: 403, 404.
    Refused { status: u16 },
}

#[derive(Clone, Debug)]
pub enum CallInput<'a> {
    /// The answer to [`Output::Locate`](crate::machine::outbox::Output::Locate).
    Targets(Vec<Target>),
    /// Any request within the call, also retransmissions, CANCEL and ACK.
    Request {
        message: &'a Message<'a>,
        flow: Flow,
    },
    /// `leg` is what our branch identifier in its Via says.
    Response {
        leg: u8,
        message: &'a Message<'a>,
    },
    Media(MediaNotice),
    /// A connection ended.
    FlowClosed(Flow),
    /// The transport could not send to this flow.
    SendFailed(Flow),
    Hangup {
        by: By,
        text: String,
    },
    /// Somebody else than its parties wants the call recorded, or not.
    Record {
        wish: RecordWish,
        by: By,
    },
    /// For tests of the isolation of calls: panics.
    Fault,
}

/// The surroundings of one step.
pub struct Context<'a> {
    pub now: Now,
    pub settings: &'a Settings,
    pub shard: ShardId,
    /// The call's own place.
    pub handle: Handle,
    pub random: &'a mut Random,
    pub ports: &'a mut PortPool,
}

impl Context<'_> {
    pub(super) fn instant(&self) -> Instant {
        self.now.instant
    }

    /// A new tag, Call-ID or branch that leads back to this leg.
    pub(super) fn identifier(&mut self, leg: u8) -> String {
        let locator = Locator { shard: self.shard, call: self.handle, leg };
        dialog::identifier(locator, &self.settings.secrets.hash, self.random)
    }
}
