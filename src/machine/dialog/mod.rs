//! Dialogs (RFC 3261 §12): what every request between us and one phone has in common, and the identifiers that we invent.
//!
//! Requests go over the phone's flow, never to the host of its Contact; the remote target is only the Request-URI. A dialog
//! neither knows transactions nor what a request is for.

#[cfg(test)]
mod tests;

use std::net::IpAddr;

use serde::Deserialize;
use serde::Serialize;

use crate::base::hash::HashKey;
use crate::base::random::Random;
use crate::machine::flow::Flow;
use crate::machine::locator::Locator;
use crate::machine::settings::Listener;
use crate::machine::settings::Settings;
use crate::wire::sip::Contact;
use crate::wire::sip::HeaderId;
use crate::wire::sip::Host;
use crate::wire::sip::Message;
use crate::wire::sip::Method;
use crate::wire::sip::NameAddr;
use crate::wire::sip::Uri;
use crate::wire::sip::Writer;
use crate::wire::sip::uri::remote_target;
use crate::wire::sip::write;

/// RFC 3261 §8.1.1.6: "Max-Forwards … SHOULD be 70".
pub const MAX_FORWARDS: u8 = 70;

/// Text of other people or of ours, as it stands on the wire.
pub type Text = Box<[u8]>;

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Dialog {
    call_id: Text,
    /// From of our requests, To of our responses; with its tag.
    local: Text,
    remote: Text,
    local_tag: Text,
    remote_tag: Text,
    /// Of the last request that we sent, and of the last that was accepted.
    local_cseq: u32,
    remote_cseq: u32,
    route_set: Vec<Text>,
    /// The remote target: Request-URI of our requests.
    target: Text,
    flow: Flow,
}

/// How a request of the peer stands to those before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    Next,
    /// RFC 3261 §12.2.2: "If the remote sequence number … is lower …, the request is out of order and MUST be rejected with a
    /// 500 (Server Internal Error) response."
    OutOfOrder,
}

impl Dialog {
    /// Of a request that we answer with `local_tag` (RFC 3261 §12.1.1).
    pub fn of_server(invite: &Message<'_>, local_tag: &str, flow: Flow) -> Self {
        let to = invite.header(HeaderId::To).unwrap_or_default();
        Self {
            call_id: invite.call_id().into(),
            local: with_tag(to, local_tag.as_bytes()),
            remote: invite.header(HeaderId::From).unwrap_or_default().into(),
            local_tag: local_tag.as_bytes().into(),
            remote_tag: tag_of(invite.from().ok()),
            local_cseq: 0,
            remote_cseq: invite.cseq().map_or(0, |cseq| cseq.number),
            route_set: invite.values(HeaderId::RecordRoute).map(Into::into).collect(),
            flow: way_to(target_of(invite).as_deref(), invite, flow),
            target: target_of(invite).unwrap_or_default(),
        }
    }

    /// Of a response to our request (RFC 3261 §12.1.2), `cseq` being that of the request.
    ///
    /// A response cannot be refused: without a Contact that a request could be sent to, the dialog goes to `target`, which the
    /// request went to.
    pub fn of_client(response: &Message<'_>, cseq: u32, target: &[u8], flow: Flow) -> Self {
        let mut route_set: Vec<Text> = response.values(HeaderId::RecordRoute).map(Into::into).collect();
        route_set.reverse();
        Self {
            call_id: response.call_id().into(),
            local: response.header(HeaderId::From).unwrap_or_default().into(),
            remote: response.header(HeaderId::To).unwrap_or_default().into(),
            local_tag: tag_of(response.from().ok()),
            remote_tag: tag_of(response.to().ok()),
            local_cseq: cseq,
            remote_cseq: 0,
            route_set,
            target: target_of(response)
                .unwrap_or_else(|| remote_target(target).map_or_else(|| target.into(), Into::into)),
            flow,
        }
    }

    /// The same towards the caller, as another callee's.
    pub fn with_local_tag(&self, tag: &[u8]) -> Self {
        let local = self.local.strip_suffix(&*self.local_tag).unwrap_or(&self.local);
        Self { local: [local, tag].concat().into(), local_tag: tag.into(), ..self.clone() }
    }

    pub fn flow(&self) -> Flow {
        self.flow
    }

    pub fn local_tag(&self) -> &[u8] {
        &self.local_tag
    }

    pub fn remote_tag(&self) -> &[u8] {
        &self.remote_tag
    }

    pub fn local_cseq(&self) -> u32 {
        self.local_cseq
    }

    /// RFC 3261 §12.2.1.1: numbers of a dialog only rise, also if it was forgotten for a while.
    pub fn count_from(&mut self, cseq: u32) {
        self.local_cseq = self.local_cseq.max(cseq);
    }

    /// RFC 3261 §13.2.2.4: a 2xx makes route set and target anew.
    pub fn confirm(&mut self, response: &Message<'_>) {
        let mut route_set: Vec<Text> = response.values(HeaderId::RecordRoute).map(Into::into).collect();
        route_set.reverse();
        self.route_set = route_set;
        self.refresh_target(response);
    }

    /// RFC 3261 §12.2.1.2, §12.2.2: INVITE and UPDATE, and 2xx to them, may bring a new remote target. Without a usable Contact
    /// the old one stays.
    pub fn refresh_target(&mut self, message: &Message<'_>) {
        if let Some(target) = target_of(message) {
            self.target = target;
        }
    }

    /// A request of the peer belongs to this dialog.
    pub fn owns_request(&self, request: &Message<'_>) -> bool {
        request.call_id() == &*self.call_id
            && request.to().ok().and_then(NameAddr::tag).unwrap_or_default() == &*self.local_tag
            && request.from().ok().and_then(NameAddr::tag).unwrap_or_default() == &*self.remote_tag
    }

    /// A response to a request of ours belongs to this dialog.
    pub fn owns_response(&self, response: &Message<'_>) -> bool {
        response.call_id() == &*self.call_id
            && response.from().ok().and_then(NameAddr::tag).unwrap_or_default() == &*self.local_tag
            && response.to().ok().and_then(NameAddr::tag).unwrap_or_default() == &*self.remote_tag
    }

    /// Takes in a request of the peer (not ACK, not CANCEL). A request in order also tells from where the phone sends.
    pub fn accept(&mut self, request: &Message<'_>, flow: Flow) -> Order {
        let number = request.cseq().map_or(0, |cseq| cseq.number);
        if number <= self.remote_cseq && self.remote_cseq != 0 {
            return Order::OutOfOrder;
        }
        self.remote_cseq = number;
        self.flow = way_to(Some(target_of(request).as_deref().unwrap_or(&self.target)), request, flow);
        Order::Next
    }

    /// A request came the way that requests to the peer go.
    pub fn is_way_of(&self, request: &Message<'_>, flow: Flow) -> bool {
        let target = target_of(request);
        self.flow == flow || self.flow == way_to(Some(target.as_deref().unwrap_or(&self.target)), request, flow)
    }

    /// The address of the peer itself, or of the proxy before it.
    pub fn is_at(&self, address: IpAddr) -> bool {
        let target = Uri::parse(&self.target).ok().and_then(Uri::host).and_then(Host::ip);
        let own = [Some(self.flow.peer.ip()), target];
        own.into_iter().flatten().any(|own| own.to_canonical() == address.to_canonical())
    }

    /// The phone is reached over another flow than it was heard over.
    pub fn move_to(&mut self, flow: Flow) {
        self.flow = flow;
    }

    /// Begins a request with a new CSeq and so many hops before it; the caller adds what it is for, and ends it.
    pub fn request<'o>(
        &mut self,
        out: &'o mut Vec<u8>,
        method: Method,
        branch: &str,
        hops: u8,
        settings: &Settings,
    ) -> Writer<'o> {
        self.local_cseq += 1;
        self.begin(out, method, self.local_cseq, branch, hops, settings)
    }

    /// Begins the ACK of a 2xx to our INVITE: a request of its own, with the INVITE's CSeq (RFC 3261 §13.2.2.4).
    pub fn ack<'o>(&self, out: &'o mut Vec<u8>, cseq: u32, branch: &str, settings: &Settings) -> Writer<'o> {
        self.begin(out, Method::Ack, cseq, branch, MAX_FORWARDS, settings)
    }

    /// Begins the CANCEL of an INVITE within the dialog (RFC 3261 §9.1): the INVITE's number and branch.
    pub fn cancel<'o>(&self, out: &'o mut Vec<u8>, cseq: u32, branch: &str, settings: &Settings) -> Writer<'o> {
        self.begin(out, Method::Cancel, cseq, branch, MAX_FORWARDS, settings)
    }

    fn begin<'o>(
        &self,
        out: &'o mut Vec<u8>,
        method: Method,
        cseq: u32,
        branch: &str,
        hops: u8,
        settings: &Settings,
    ) -> Writer<'o> {
        let strict = self.route_set.first().filter(|route| !is_loose(route));
        let uri = strict.and_then(|route| NameAddr::parse(route).ok()).map_or(&*self.target, |route| route.uri);
        let mut writer = write::request(out, method, uri);
        via(&mut writer, branch, self.flow, settings);
        for route in self.route_set.iter().skip(usize::from(strict.is_some())) {
            writer.header(HeaderId::Route, route);
        }
        if strict.is_some() {
            // RFC 3261 §12.2.1.1: "The UAC MUST add a Route header field … and … then place the remote target URI into the
            // Route header field as the last value."
            writer.parts(HeaderId::Route, &[b"<", &self.target, b">"]);
        }
        writer.uint_header(HeaderId::MaxForwards, hops);
        writer.header(HeaderId::From, &self.local).header(HeaderId::To, &self.remote);
        writer.header(HeaderId::CallId, &self.call_id);
        writer.display_header(HeaderId::CSeq, format_args!("{cseq} {}", method.name()));
        writer
    }
}

/// How requests reach the target of whoever sent this one.
fn way_to(target: Option<&[u8]>, request: &Message<'_>, flow: Flow) -> Flow {
    target.and_then(|target| Uri::parse(target).ok()).map_or(flow, |target| flow.requests(request, target))
}

/// An identifier of ours: branch (without its cookie), tag or Call-ID.
pub fn identifier(locator: Locator, hash: &HashKey, random: &mut Random) -> String {
    // The generator is no secret keeper; the key makes its next number unguessable.
    let secret = hash.hash(&[b"identifier", &random.next_u64().to_le_bytes()]);
    locator.emit(secret)
}

/// Max-Forwards of what a request goes on as (RFC 3261 §16.6 step 3: "decrement its value by one").
pub fn hops_after(request: &Message<'_>) -> u8 {
    request.max_forwards().unwrap_or(MAX_FORWARDS).saturating_sub(1)
}

/// Our Via: the only one of a request that we make.
pub fn via(writer: &mut Writer<'_>, branch: &str, flow: Flow, settings: &Settings) {
    let transport = if flow.is_reliable() { "TCP" } else { "UDP" };
    let sent_by = sent_by(flow, settings);
    writer.display_header(HeaderId::Via, format_args!("SIP/2.0/{transport} {sent_by};branch=z9hG4bK{branch};rport"));
}

/// Our Contact in one dialog: its user leads back here.
pub fn contact(writer: &mut Writer<'_>, user: &[u8], flow: Flow, settings: &Settings) {
    let sent_by = sent_by(flow, settings);
    let transport: &[u8] = if flow.is_reliable() { b";transport=tcp" } else { b"" };
    writer.parts(HeaderId::Contact, &[b"<sip:", user, b"@", sent_by.as_bytes(), transport, b">"]);
}

fn sent_by(flow: Flow, settings: &Settings) -> String {
    settings.listeners.get(usize::from(flow.listener)).map(Listener::sent_by).unwrap_or_default()
}

/// RFC 3261 §8.1.1.8: "The Contact header field MUST be present and contain exactly one SIP or SIPS URI in any request that can
/// result in the establishment of a dialog." Of several the first that is one.
pub fn target_of(message: &Message<'_>) -> Option<Text> {
    message.contacts().find_map(|contact| match contact {
        Ok(Contact::Address(address)) => remote_target(address.uri).map(Into::into),
        Ok(Contact::Star) | Err(_) => None,
    })
}

/// There is a Contact, and no request could be sent to it.
pub fn misses_target(message: &Message<'_>) -> bool {
    message.has(HeaderId::Contact) && target_of(message).is_none()
}

fn tag_of(address: Option<NameAddr<'_>>) -> Text {
    address.and_then(NameAddr::tag).unwrap_or_default().into()
}

fn with_tag(value: &[u8], tag: &[u8]) -> Text {
    [value, b";tag=", tag].concat().into()
}

fn is_loose(route: &[u8]) -> bool {
    let uri = NameAddr::parse(route).and_then(NameAddr::parse_uri);
    matches!(uri, Ok(Uri::Sip(uri)) if uri.is_loose_router())
}
