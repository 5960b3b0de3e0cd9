//! What of a node's life stands in the log: faults and failed authentications always; each registration and each call in a line at
//! `debug`, each decision at `trace`. Numbers and names stand there alone; digests, digits and audio nowhere.

use crate::base::id::CallId;
use crate::machine::outbox::Live;
use crate::process::engine::clerk::mirror::Mirror;
use crate::wire::event::Body;
use crate::wire::event::Event;
use crate::wire::link::Registration;
use crate::wire::link::TraceStep;

/// fail2ban reads the first of them (`docs/operations.md`).
pub(super) fn say(event: &Event, mirror: &Mirror) {
    let call = || event.call.map(|call| call.to_string()).unwrap_or_default();
    match &event.body {
        Body::AuthenticationFailed { user, source, cause } => {
            tracing::warn!(event = "authentication.failed", source = %source, "authentication failed from {source}: {cause}");
            tracing::debug!(event = "authentication.user", tenant = %event.tenant, source = %source, user = %user, "who failed is {user:?}: {cause}");
        }
        Body::DigestFallback { user, source } => {
            tracing::info!(event = "authentication.md5_alone", source = %source, "a phone at {source} answers no challenge with SHA in it: it is offered MD5 alone");
            tracing::debug!(event = "authentication.user", tenant = %event.tenant, source = %source, user = %user, "who is offered MD5 alone is {user:?}");
        }
        Body::CallsRefused { phone, limit, count } => {
            tracing::warn!(event = "calls.refused", tenant = %event.tenant, count, "{count} calls of a phone are refused: more than the limit, {limit}");
            tracing::debug!(event = "calls.refused_phone", tenant = %event.tenant, user = %phone, "whose calls are refused is {phone}");
        }
        Body::CallFault { place } => {
            let call = call();
            tracing::error!(event = "call.fault", shard = event.shard.0, call = %call, "call {call} ended by a fault of ours at {place}");
        }
        Body::CallEnded { cause, legs } if tracing::enabled!(tracing::Level::DEBUG) => {
            let up = event.call.and_then(|call| mirror.call(call));
            let (from, to) = up.map(|up| (up.from.as_str(), up.to.as_str())).unwrap_or_default();
            let (sip, text, call) = (cause.sip, &cause.text, call());
            tracing::debug!(event = "call.ended", tenant = %event.tenant, call = %call, from, to, legs, "call {call} ended: {sip} {text}");
        }
        Body::BindingRemoved { phone, contact, cause } => {
            tracing::debug!(event = "registration.gone", tenant = %event.tenant, user = %phone, contact = %contact, "{phone} is not at {contact} any more: {cause}");
        }
        _ => {}
    }
    let name = event.body.name();
    tracing::trace!(event = "decision", tenant = %event.tenant, call = %call(), leg = ?event.leg, "{name} {:?}", event.body);
}

/// Each REGISTER that was granted: refreshes, too.
pub(super) fn say_live(live: &Live) {
    let Live::Registered(registration) = live else { return };
    let Registration { tenant, user, contact, received, user_agent, .. } = registration;
    tracing::debug!(event = "registration", tenant = %tenant, user = %user, source = %received, contact = %contact, agent = %user_agent, "{user} is at {contact}");
}

/// The decisions about a call that is over.
pub(super) fn say_steps(call: CallId, steps: &[TraceStep]) {
    for TraceStep { leg, rule, reason, .. } in steps {
        tracing::trace!(event = "decision", call = %call, leg = ?leg, "{rule}: {reason}");
    }
}
