//! A REGISTER of an authenticated phone: what it asks for, all of it or nothing, and its answer (RFC 3261 §10.3, RFC 3327).

use std::time::Duration;

use arrayvec::ArrayVec;

use crate::base::hex::hex64;
use crate::base::limit::BINDINGS_PER_AOR_MAX;
use crate::base::limit::BINDINGS_PER_SHARD_MAX;
use crate::base::limit::CONTACT_BYTES_MAX;
use crate::base::limit::INSTANCE_BYTES_MAX;
use crate::base::limit::USER_AGENT_BYTES_MAX;
use crate::base::random::Random;
use crate::base::time::Now;
use crate::machine::Shared;
use crate::machine::directory::address::is_ours;
use crate::machine::directory::address::tenant_of_host;
use crate::machine::flow::Flow;
use crate::machine::outbox::Live;
use crate::machine::outbox::Outbox;
use crate::machine::outbox::Output;
use crate::machine::registrar::Registrar;
use crate::machine::registrar::binding::Binding;
use crate::machine::registrar::binding::Parts;
use crate::machine::registrar::compare::is_same_uri;
use crate::machine::registrar::date::date;
use crate::machine::registrar::index::Indexes;
use crate::machine::registrar::on_grid;
use crate::machine::registrar::registered::Registered;
use crate::machine::settings::PathPolicy;
use crate::machine::settings::RegistrationBounds;
use crate::wire::link::Phone;
use crate::wire::sip::Contact;
use crate::wire::sip::HeaderId;
use crate::wire::sip::Message;
use crate::wire::sip::NameAddr;
use crate::wire::sip::Status;
use crate::wire::sip::Uri;
use crate::wire::sip::write;
use crate::wire::sip::write::Writer;

/// Path values of one request.
const PATHS_MAX: usize = 8;
/// Longer grants are shortened by up to a tenth, so that phones that began together do not come back together.
const SPREAD_FROM: Duration = Duration::from_secs(600);
const SPREAD_PERCENT: u64 = 10;
/// RFC 3261 §10.3 step 7: only shorter intervals than an hour may be called too brief.
const BRIEF_BELOW: Duration = Duration::from_secs(3600);

/// Why nothing was changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Refusal {
    /// 400 with this reason phrase.
    Bad(&'static str),
    /// Its CSeq goes back.
    OutOfOrder,
    /// The address of record is not of the domain in the Request-URI.
    NotHere,
    TooBrief,
    /// RFC 3327 §5.3: a Path from a phone that does not say that it knows Path.
    PathUnsupported,
    TooMany,
    Full,
}

/// One change that the request asks for.
struct Change<'m> {
    contact: &'m str,
    uri: Uri<'m>,
    instance: &'m str,
    reg_id: u32,
    q: u16,
    /// Zero removes.
    expires: Duration,
    /// No binding was there when the request came.
    is_new: bool,
}

enum Plan<'m> {
    Fetch,
    RemoveAll,
    Changes(Vec<Change<'m>>),
}

/// What all bindings of one request have in common.
struct Origin<'m> {
    request: &'m Message<'m>,
    flow: Flow,
    call_id: u64,
    cseq: u32,
    user_agent: &'m str,
    path: Vec<String>,
    via_is_foreign: bool,
}

impl Registrar {
    /// Handles a REGISTER whose To is `phone`'s own, and returns the response.
    #[expect(clippy::too_many_arguments, reason = "a request, where it came from, and what every machine is given")]
    pub fn register(
        &mut self,
        request: &Message<'_>,
        flow: Flow,
        phone: &Phone,
        now: Now,
        shared: Shared<'_>,
        random: &mut Random,
        out: &mut Outbox,
    ) -> Vec<u8> {
        self.counters.registers += 1;
        let bounds = &shared.settings.registration;
        let key = self.phone_key(&phone.tenant, &phone.user);
        let origin = is_for(phone, request, shared).and_then(|()| self.origin(request, flow, shared));
        let tag = hex64(random.next_u64());
        let (registered, indexes) = self.registered(key, phone);
        let plan = origin.and_then(|origin| Ok((registered.plan(request, &origin, bounds, indexes.len())?, origin)));
        let (plan, origin) = match plan {
            Ok(plan) => plan,
            Err(refusal) => {
                self.counters.refused += 1;
                return refuse(request, refusal, &tag, flow, bounds);
            }
        };
        let mut evicted = 0;
        match plan {
            Plan::Fetch => {}
            Plan::RemoveAll => {
                registered.end_if(key, |_| true, "unregistered", indexes, out);
                registered.push_stored(out);
            }
            Plan::Changes(changes) => {
                for change in changes {
                    evicted += u64::from(registered.apply(key, &change, &origin, now, random, indexes, out));
                }
                registered.push_stored(out);
            }
        }
        indexes.look_later(key, registered, now);
        let answer = registered.accept(request, &origin, &tag, now);
        self.counters.evicted += evicted;
        answer
    }

    fn origin<'m>(&self, request: &'m Message<'m>, flow: Flow, shared: Shared<'_>) -> Result<Origin<'m>, Refusal> {
        let cseq = request.cseq().map_err(|_| Refusal::Bad("Malformed CSeq"))?.number;
        let path: Vec<String> = request
            .values(HeaderId::Path)
            .map(|value| String::from_utf8_lossy(value).replace(['\r', '\n'], " "))
            .collect();
        if path.len() > PATHS_MAX || path.iter().any(|value| value.len() > CONTACT_BYTES_MAX) {
            return Err(Refusal::Bad("Path too long"));
        }
        // RFC 3327 §5.3: "The recommended policy is for the registrar to reject the request with a 420"; a proxy that we trust
        // may know better than its phones.
        let settings = shared.settings;
        let is_taken = settings.path == PathPolicy::Always && settings.is_trusted(flow.peer.ip().to_canonical());
        if !path.is_empty() && !is_taken && !request.has_tag(HeaderId::Supported, "path") {
            return Err(Refusal::PathUnsupported);
        }
        let user_agent = request.header(HeaderId::UserAgent).unwrap_or_default();
        let flow = flow.answer(request);
        Ok(Origin {
            request,
            flow,
            call_id: self.indexes.key.hash(&[request.call_id()]),
            cseq,
            user_agent: text_up_to(user_agent, USER_AGENT_BYTES_MAX),
            path,
            via_is_foreign: is_via_foreign(request, &flow),
        })
    }
}

impl Registered {
    /// `shard_bindings`: those of all phones of the shard.
    fn plan<'m>(
        &self,
        request: &Message<'m>,
        origin: &Origin<'_>,
        bounds: &RegistrationBounds,
        shard_bindings: usize,
    ) -> Result<Plan<'m>, Refusal> {
        let mut changes = Vec::new();
        let (mut stars, mut others) = (0, 0);
        for contact in request.contacts() {
            match contact.map_err(|_| Refusal::Bad("Malformed Contact"))? {
                Contact::Star => stars += 1,
                // RFC 3261 §20.10 allows them beside others, but no call can ring there.
                Contact::Address(address) if !matches!(address.parse_uri(), Ok(Uri::Sip(_))) => others += 1,
                Contact::Address(address) => changes.push(self.change(request, address, origin, bounds)?),
            }
            if changes.len() + others > BINDINGS_PER_AOR_MAX {
                return Err(Refusal::TooMany);
            }
        }
        if stars > 0 {
            // RFC 3261 §10.3 step 6: "If the request has additional Contact fields or an expiration time other than zero, the request is
            // invalid, and the server MUST return a 400".
            if stars > 1 || others > 0 || !changes.is_empty() || request.uint(HeaderId::Expires) != Some(0) {
                return Err(Refusal::Bad("Invalid use of Contact *"));
            }
            self.bindings.iter().try_for_each(|binding| in_order(binding, origin))?;
            return Ok(Plan::RemoveAll);
        }
        if changes.is_empty() && others > 0 {
            return Err(Refusal::Bad("No SIP Contact"));
        }
        if changes.is_empty() {
            return Ok(Plan::Fetch);
        }
        let added = changes.iter().filter(|change| change.is_new).count();
        if shard_bindings + added > BINDINGS_PER_SHARD_MAX as usize {
            return Err(Refusal::Full);
        }
        Ok(Plan::Changes(changes))
    }

    fn change<'m>(
        &self,
        request: &Message<'m>,
        address: NameAddr<'m>,
        origin: &Origin<'_>,
        bounds: &RegistrationBounds,
    ) -> Result<Change<'m>, Refusal> {
        let contact = std::str::from_utf8(address.uri).map_err(|_| Refusal::Bad("Malformed Contact"))?;
        let uri = address.parse_uri().map_err(|_| Refusal::Bad("Malformed Contact"))?;
        if contact.len() > CONTACT_BYTES_MAX {
            return Err(Refusal::Bad("Contact too long"));
        }
        let instance = text_up_to(address.instance().unwrap_or_default(), INSTANCE_BYTES_MAX);
        let reg_id = address.reg_id().filter(|_| !instance.is_empty()).unwrap_or(0);
        let old = self.bindings.iter().find(|old| is_same_binding(old, contact, instance, reg_id));
        if let Some(old) = old {
            in_order(old, origin)?;
        }
        let expires = asked_expiry(request, address, bounds);
        // RFC 3261 §10.3 step 7: "If and only if the requested expiration interval is greater than zero AND smaller than one hour AND less
        // than a registrar-configured minimum, the registrar MAY reject the registration with a response of 423".
        if !expires.is_zero() && expires < BRIEF_BELOW && expires < bounds.expires_min {
            return Err(Refusal::TooBrief);
        }
        let expires = expires.min(bounds.expires_max);
        Ok(Change { contact, uri, instance, reg_id, q: address.q().unwrap_or(1000), expires, is_new: old.is_none() })
    }

    /// True if the oldest binding had to go for it: a phone that restarts behind a NAT leaves dead ones at each new port.
    #[expect(clippy::too_many_arguments, reason = "one change of one request, and what every machine is given")]
    fn apply(
        &mut self,
        key: u64,
        change: &Change<'_>,
        origin: &Origin<'_>,
        now: Now,
        random: &mut Random,
        indexes: &mut Indexes,
        out: &mut Outbox,
    ) -> bool {
        let is_it = |old: &Binding| is_same_binding(old, change.contact, change.instance, change.reg_id);
        if change.expires.is_zero() {
            self.end_if(key, is_it, "unregistered", indexes, out);
            return false;
        }
        let granted = spread(change.expires, random);
        let parts = parts(change, origin, granted, now);
        let old = self.bindings.iter().position(is_it).map(|at| self.bindings.remove(at));
        let is_refresh = old.as_ref().is_some_and(|old| old.contact() == change.contact);
        // A refresh keeps its id, and with it its place among the keep-alives.
        let id = match &old {
            Some(old) if old.behind_nat == parts.behind_nat => old.id,
            _ => indexes.take_id(),
        };
        let binding = Binding::new(id, &parts);
        let mut is_evicted = false;
        match &old {
            Some(old) => indexes.replace(key, old, &binding),
            None => {
                is_evicted = self.make_room(key, indexes, out);
                indexes.add(key, &binding);
            }
        }
        if let Some(old) = old.filter(|_| !is_refresh) {
            self.push_removed(&old, "replaced", out);
        }
        if !is_refresh {
            self.push_added(&binding, out);
        }
        out.push(Output::Live(Live::Registered(binding.registration(&self.tenant, &self.user))));
        self.bindings.reserve_exact(1);
        self.bindings.push(binding);
        is_evicted
    }

    fn make_room(&mut self, key: u64, indexes: &mut Indexes, out: &mut Outbox) -> bool {
        let Some(oldest) = self.bindings.first().map(|binding| binding.id) else { return false };
        let is_full = self.bindings.len() >= BINDINGS_PER_AOR_MAX;
        is_full && self.end_if(key, |binding| binding.id == oldest, "too many", indexes, out)
    }

    /// RFC 3261 §10.3 step 8: "The response MUST contain Contact header field values enumerating all current bindings".
    fn accept(&self, request: &Message<'_>, origin: &Origin<'_>, tag: &str, now: Now) -> Vec<u8> {
        let mut out = Vec::with_capacity(request.bytes().len() + 128);
        let mut writer = write::response(&mut out, request, Status::OK, "", Some(tag), origin.flow.peer);
        for binding in &self.bindings {
            write_contact(&mut writer, binding, binding.expires_unix.since(now.unix));
        }
        for path in &origin.path {
            writer.header(HeaderId::Path, path);
        }
        writer.header(HeaderId::Date, date(now.unix).as_str()).finish();
        out
    }
}

fn parts<'a>(change: &Change<'a>, origin: &'a Origin<'_>, granted: Duration, now: Now) -> Parts<'a> {
    Parts {
        contact: change.contact,
        instance: change.instance,
        user_agent: origin.user_agent,
        path: &origin.path,
        flow: origin.flow.requests(origin.request, change.uri),
        call_id: origin.call_id,
        cseq: origin.cseq,
        reg_id: change.reg_id,
        q: change.q,
        behind_nat: is_behind_nat(change.uri, origin),
        expires: on_grid(now.instant + granted),
        expires_unix: now.unix + granted,
    }
}

fn write_contact(writer: &mut Writer<'_>, binding: &Binding, left: Duration) {
    let (mut secs, mut reg_id) = (itoa::Buffer::new(), itoa::Buffer::new());
    let q = if binding.q < 1000 { format!(";q=0.{:03}", binding.q) } else { String::new() };
    let mut parts: ArrayVec<&[u8], 10> = ArrayVec::new();
    parts.extend([b"<", binding.contact().as_bytes(), b">;expires=", secs.format(left.as_secs()).as_bytes()]);
    parts.push(q.as_bytes());
    if !binding.instance().is_empty() {
        parts.extend([b";+sip.instance=\"<", binding.instance().as_bytes(), b">\""]);
    }
    if binding.reg_id > 0 {
        parts.extend([b";reg-id=", reg_id.format(binding.reg_id).as_bytes()]);
    }
    writer.parts(HeaderId::Contact, &parts);
}

fn refuse(request: &Message<'_>, refusal: Refusal, tag: &str, flow: Flow, bounds: &RegistrationBounds) -> Vec<u8> {
    let (status, reason) = match refusal {
        Refusal::Bad(reason) => (Status::BAD_REQUEST, reason),
        Refusal::OutOfOrder => (Status::SERVER_INTERNAL_ERROR, "CSeq Out Of Order"),
        Refusal::NotHere => (Status::NOT_FOUND, ""),
        Refusal::TooBrief => (Status::INTERVAL_TOO_BRIEF, ""),
        Refusal::PathUnsupported => (Status::BAD_EXTENSION, ""),
        Refusal::TooMany => (Status::FORBIDDEN, "Too Many Contacts"),
        Refusal::Full => (Status::SERVICE_UNAVAILABLE, ""),
    };
    let mut out = Vec::new();
    let mut writer = write::response(&mut out, request, status, reason, Some(tag), flow.peer);
    match refusal {
        // RFC 3261 §10.3: "This response MUST contain a Min-Expires header field".
        Refusal::TooBrief => {
            writer.uint_header(HeaderId::MinExpires, bounds.expires_min.as_secs());
        }
        Refusal::PathUnsupported => {
            writer.header(HeaderId::Unsupported, "path");
        }
        Refusal::Full => {
            writer.uint_header(HeaderId::RetryAfter, 30u32);
        }
        Refusal::Bad(_) | Refusal::OutOfOrder | Refusal::NotHere | Refusal::TooMany => {}
    }
    writer.finish();
    out
}

/// RFC 3261 §10.3 step 5: "If the address-of-record is not valid for the domain in the Request-URI, the registrar MUST send a 404".
fn is_for(phone: &Phone, request: &Message<'_>, shared: Shared<'_>) -> Result<(), Refusal> {
    let host = request.request_uri().ok().and_then(Uri::host).ok_or(Refusal::NotHere)?;
    let is_its_tenant = tenant_of_host(shared, host).is_some_and(|tenant| tenant.name == phone.tenant);
    if is_its_tenant || is_ours(shared.settings, host) { Ok(()) } else { Err(Refusal::NotHere) }
}

/// RFC 3261 §10.2.1.1: the Contact's own parameter, else the Expires header, else the registrar's choice.
fn asked_expiry(request: &Message<'_>, address: NameAddr<'_>, bounds: &RegistrationBounds) -> Duration {
    // RFC 3261 §20.10: "Malformed values SHOULD be treated as equivalent to 3600."
    let asked = match address.params.has("expires") {
        true => Some(address.expires().unwrap_or(3600)),
        false => request.uint(HeaderId::Expires),
    };
    asked.map_or(bounds.expires_default, |secs| Duration::from_secs(u64::from(secs)))
}

fn spread(granted: Duration, random: &mut Random) -> Duration {
    if granted < SPREAD_FROM {
        return granted;
    }
    let secs = granted.as_secs();
    Duration::from_secs(secs - random.below(secs * SPREAD_PERCENT / 100 + 1))
}

/// RFC 5626 §6: the same instance and reg-id replace; else the URIs decide (RFC 3261 §19.1.4).
fn is_same_binding(old: &Binding, contact: &str, instance: &str, reg_id: u32) -> bool {
    if reg_id > 0 && old.reg_id > 0 {
        return old.reg_id == reg_id && old.instance() == instance;
    }
    old.contact() == contact || is_same_uri(old.contact(), contact)
}

/// RFC 3261 §10.3 step 7: if the Call-ID agrees, the CSeq must be higher, or "the update MUST be aborted and the request fails"; "if any one
/// of them fails […], the request MUST fail with a 500 (Server Error) response".
fn in_order(old: &Binding, origin: &Origin<'_>) -> Result<(), Refusal> {
    if old.call_id == origin.call_id && origin.cseq <= old.cseq {
        return Err(Refusal::OutOfOrder);
    }
    Ok(())
}

/// The phone calls itself another address than we see.
fn is_via_foreign(request: &Message<'_>, flow: &Flow) -> bool {
    let Ok(via) = request.top_via() else { return false };
    let source = flow.peer.ip().to_canonical();
    via.host.ip().is_some_and(|ip| ip.to_canonical() != source || via.port.unwrap_or(5060) != flow.peer.port())
}

/// Only UDP mappings need us; what came through a proxy is the proxy's to keep open.
fn is_behind_nat(contact: Uri<'_>, origin: &Origin<'_>) -> bool {
    if origin.flow.is_reliable() || !origin.path.is_empty() {
        return false;
    }
    let peer = origin.flow.requests(origin.request, contact).peer;
    let source = peer.ip().to_canonical();
    let contact_is_foreign = contact.sip().is_some_and(|uri| {
        uri.ip().is_some_and(|ip| ip.to_canonical() != source || uri.port.unwrap_or(5060) != peer.port())
    });
    origin.via_is_foreign || contact_is_foreign
}

/// As much of it as is text and fits.
fn text_up_to(bytes: &[u8], bytes_max: usize) -> &str {
    let bytes = bytes.get(..bytes_max).unwrap_or(bytes);
    match std::str::from_utf8(bytes) {
        Ok(text) => text,
        Err(fault) => {
            bytes.get(..fault.valid_up_to()).and_then(|text| std::str::from_utf8(text).ok()).unwrap_or_default()
        }
    }
}
