//! From a request to the phone that sent it: credentials, nonce counts and source limits in one place, for the phone's own shard.

use crate::base::time::Now;
use crate::machine::Shared;
use crate::machine::digest;
use crate::machine::digest::Claim;
use crate::machine::digest::Reading;
use crate::machine::flow::Flow;
use crate::machine::outbox::Outbox;
use crate::machine::outbox::Output;
use crate::machine::registrar::Registrar;
use crate::machine::source_limit;
use crate::machine::source_limit::Ask;
use crate::machine::source_limit::Attempt;
use crate::machine::source_limit::SourceLimit;
use crate::machine::source_limit::Standing;
use crate::wire::event::Body;
use crate::wire::link::Phone;
use crate::wire::sip::Message;

const MALFORMED: &str = "Malformed Authorization";
/// RFC 7616 §3.4.6: "if they are not, the server SHOULD return a 400 (Bad Request) error".
const MISDIRECTED: &str = "Authorization Is for Another URI";

/// What becomes of a request that needs a credential.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Admission<'a> {
    /// The phone that sent it.
    Phone(&'a Phone),
    /// [`digest::challenge`] it.
    Challenge { stale: bool },
    /// 400 with this reason phrase.
    BadRequest(&'static str),
    /// Its source is over its limit: drop it.
    Silence,
}

/// What of a request can be told by any shard from its credentials alone ([`digest::read`]), before anything is allocated or
/// passed on.
pub fn screen(
    request: &Message<'_>,
    reading: &Reading<'_>,
    flow: &Flow,
    now: Now,
    shared: Shared<'_>,
    limit: &mut SourceLimit,
) -> Screening {
    let (screening, ask) = match reading {
        Reading::Claim(_) => {
            limit.answered(flow, now.instant, shared);
            return Screening::Pass;
        }
        Reading::Malformed => (Screening::BadRequest(MALFORMED), Ask::Other),
        Reading::Misdirected => (Screening::BadRequest(MISDIRECTED), Ask::Other),
        Reading::Bare => (Screening::Challenge { stale: false }, Ask::Challenge),
        Reading::Stale => (Screening::Challenge { stale: true }, Ask::Challenge),
    };
    match limit.answer(request, flow, ask, now.instant, shared) {
        source_limit::Verdict::Pass => screening,
        source_limit::Verdict::Slow => Screening::Silence,
    }
}

/// The outcome of [`screen`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Screening {
    /// It has a nonce of ours: worth the way to the phone's shard, which [`admit`]s it.
    Pass,
    Challenge {
        stale: bool,
    },
    BadRequest(&'static str),
    Silence,
}

/// Decides on a request whose credentials passed [`screen`]; to be called once per transaction.
#[expect(clippy::too_many_arguments, reason = "a request, what was read of it, and what every machine is given")]
pub fn admit<'a>(
    request: &Message<'_>,
    reading: &Reading<'_>,
    flow: &Flow,
    now: Now,
    shared: Shared<'a>,
    registrar: &mut Registrar,
    limit: &mut SourceLimit,
    out: &mut Outbox,
) -> Admission<'a> {
    let claim = match reading {
        Reading::Claim(claim) => claim,
        Reading::Malformed => return Admission::BadRequest(MALFORMED),
        Reading::Misdirected => return Admission::BadRequest(MISDIRECTED),
        Reading::Bare => return Admission::Challenge { stale: false },
        Reading::Stale => return Admission::Challenge { stale: true },
    };
    let user = claim.user.as_bytes();
    let named = digest::named(claim, request, shared);
    let bound = named.phone.map_or(Standing::Stranger, |phone| registrar.standing(&phone.tenant, &phone.user, flow));
    let phone = match named.phone {
        Some(phone) => SourceLimit::phone(&phone.tenant, &phone.user, shared),
        None => SourceLimit::phone(&claim.realm, &claim.user, shared),
    };
    let standing = limit.standing(bound, flow.peer, phone, now.instant, shared);
    let attempt = Attempt { source: flow.peer, user, phone, standing };
    if limit.attempt(attempt, now.instant, shared) == source_limit::Verdict::Slow {
        return Admission::Silence;
    }
    match digest::judge(claim, request, named, shared) {
        digest::Verdict::Right { phone, count } => {
            limit.succeeded(flow.peer, user, standing, shared);
            match registrar.use_nonce(phone, claim.nonce, count, now) {
                Ok(()) => Admission::Phone(phone),
                Err(_) => Admission::Challenge { stale: true },
            }
        }
        digest::Verdict::Wrong(wrong) => {
            let bindings = registrar.bindings_of_source(flow.peer.ip());
            limit.failed(attempt, bindings, now.instant, shared);
            push_failed(claim, flow, wrong.cause(), named.phone, out);
            Admission::Challenge { stale: false }
        }
    }
}

/// The one line that a ban list outside may act on.
fn push_failed(claim: &Claim<'_>, flow: &Flow, cause: &str, phone: Option<&Phone>, out: &mut Outbox) {
    let tenant = phone.map_or(String::new(), |phone| phone.tenant.clone());
    let user = claim.user.chars().filter(|letter| !letter.is_control()).take(64).collect();
    let source = flow.peer.ip().to_canonical().to_string();
    out.push(Output::Event {
        tenant,
        call: None,
        leg: None,
        body: Body::AuthenticationFailed { user, source, cause: cause.to_owned() },
    });
}
