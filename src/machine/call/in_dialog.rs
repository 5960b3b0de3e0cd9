//! Requests: retransmissions, ACKs and CANCELs, and those in a dialog, each to its place.

use crate::machine::call::Call;
use crate::machine::call::answer::by;
use crate::machine::call::body::Content;
use crate::machine::call::bond::Negotiation;
use crate::machine::call::head::ServerRequest;
use crate::machine::call::input::Context;
use crate::machine::call::party::Party;
use crate::machine::call::party::Presence;
use crate::machine::call::party::Purpose;
use crate::machine::call::party::Side;
use crate::machine::call::terms::ALLOW;
use crate::machine::call::terms::REQUESTS_MAX;
use crate::machine::call::terms::SDP;
use crate::machine::call::terms::SUPPORTED;
use crate::machine::call::trace::What;
use crate::machine::dialog::Order;
use crate::machine::flow::Flow;
use crate::machine::lingering::Key;
use crate::machine::outbox::Aor;
use crate::machine::outbox::Outbox;
use crate::machine::transaction::invite_server::Ack;
use crate::machine::transaction::key::server_key;
use crate::wire::event::Body;
use crate::wire::sip::HeaderId;
use crate::wire::sip::Message;
use crate::wire::sip::Method;
use crate::wire::sip::Writer;
use crate::wire::sip::value::is_media_type;

/// What an INFO says about itself and its body.
const PASSING: [HeaderId; 6] = [
    HeaderId::InfoPackage,
    HeaderId::MimeVersion,
    HeaderId::ContentDisposition,
    HeaderId::ContentEncoding,
    HeaderId::ContentLanguage,
    HeaderId::ContentType,
];

/// Whose dialog a request is in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sender {
    pub phone: Aor,
    /// It came the way that requests to the phone go.
    pub is_there: bool,
    /// It came from the phone's address, or from that of the proxy before it.
    pub is_near: bool,
}

impl Call {
    /// `flow` is what the request came over. `None`: it is in no dialog of the call.
    pub fn sender(&self, message: &Message<'_>, flow: Flow) -> Option<Sender> {
        let parties = self.bonds.iter().flat_map(|bond| [&bond.caller, &bond.callee]).chain(&self.strays);
        let party = parties.into_iter().find(|party| party.dialog.owns_request(message))?;
        Some(Sender {
            phone: self.bound(party.leg)?.aor,
            is_there: party.dialog.is_way_of(message, flow),
            is_near: party.dialog.is_at(flow.peer.ip()),
        })
    }

    pub(super) fn on_request(&mut self, message: &Message<'_>, flow: Flow, cx: &mut Context<'_>, out: &mut Outbox) {
        match message.method() {
            Method::Cancel => self.on_cancel(message, flow, cx, out),
            Method::Ack => self.on_any_ack(message, flow, cx, out),
            Method::Invite if self.is_invite_again(message, flow, cx, out) => {}
            _ => self.on_dialog_request(message, flow, cx, out),
        }
    }

    /// The transaction's own ACK, or the user's, which is in a dialog.
    fn on_any_ack(&mut self, message: &Message<'_>, flow: Flow, cx: &mut Context<'_>, out: &mut Outbox) {
        let key = server_key(&cx.settings.secrets.hash, message, flow.peer.ip(), Method::Invite);
        if key == self.caller.key && self.caller.transaction.handle_ack(cx.instant()) == Ack::Absorbed {
            return;
        }
        let owner = self.find_dialog(|party| party.dialog.owns_request(message));
        let Some((index, side)) = owner else { return };
        if let Some(server) = &mut self.bonds[index].party_mut(side).server
            && server.key == key
            && server.transaction.handle_ack(cx.instant()) == Ack::Absorbed
        {
            return;
        }
        self.on_ack(index, side, message, cx, out);
    }

    /// Answers retransmissions of INVITEs.
    fn is_invite_again(&mut self, message: &Message<'_>, flow: Flow, cx: &Context<'_>, out: &mut Outbox) -> bool {
        let key = server_key(&cx.settings.secrets.hash, message, flow.peer.ip(), Method::Invite);
        if key == self.caller.key {
            self.caller.transaction.handle_retransmission(flow, out);
            return true;
        }
        let parties = self.bonds.iter_mut().flat_map(|bond| [&mut bond.caller, &mut bond.callee]);
        let mut servers = parties.filter_map(|party| party.server.as_mut());
        match servers.find(|server| server.key == key) {
            Some(server) => {
                server.transaction.handle_retransmission(flow, out);
                true
            }
            None => false,
        }
    }

    fn on_dialog_request(&mut self, message: &Message<'_>, flow: Flow, cx: &mut Context<'_>, out: &mut Outbox) {
        let key = Key::of(message, flow.peer.ip(), &cx.settings.secrets.hash);
        if self.waits_for(key) {
            return;
        }
        let request = ServerRequest::of(message, key, flow);
        let Some((index, side)) = self.find_dialog(|party| party.dialog.owns_request(message)) else {
            return self.on_stray_request(&request, message, out);
        };
        let party = self.bonds[index].party_mut(side);
        let leg = party.leg;
        let before = party.dialog.flow();
        if party.dialog.accept(message, flow) == Order::OutOfOrder {
            self.step(cx, leg, What::RequestRefused(message.method(), 500));
            return request.refuse(500, cx.random, out);
        }
        let flow_of_dialog = party.dialog.flow();
        if before != flow_of_dialog {
            party.resume(flow_of_dialog, cx.now.instant, out);
            self.step(cx, leg, What::FlowMoved);
            self.on_leg_found(leg, flow_of_dialog, out);
        }
        self.step(cx, leg, What::Request(message.method()));
        let gone = self.is_ending() || self.bonds[index].party(side).is_leaving();
        match message.method() {
            Method::Bye if gone => request.answer(200, |_| {}, out),
            Method::Prack if gone => self.on_late_prack(&request, message, out),
            _ if gone => request.answer(481, |_| {}, out),
            Method::Bye => self.on_bye(index, side, &request, message, cx, out),
            Method::Invite => self.on_reinvite(index, side, message, flow, cx, out),
            Method::Update => self.on_update(index, side, request, message, cx, out),
            Method::Prack => self.on_prack(index, side, request, message, cx, out),
            Method::Info => self.on_info(index, side, request, message, cx, out),
            Method::Options if Content::of(message) == Content::Unsupported => request.refuse_body(out),
            Method::Options => request.answer(200, capabilities, out),
            Method::Subscribe => request.answer_with(489, HeaderId::AllowEvents, "", out),
            _ => request.answer_with(405, HeaderId::Allow, ALLOW, out),
        }
    }

    /// The request is of a dialog of this call, also of one that we are ending.
    pub fn has_dialog(&self, message: &Message<'_>) -> bool {
        self.find_dialog(|party| party.dialog.owns_request(message)).is_some()
            || self.strays.iter().any(|stray| stray.dialog.owns_request(message))
    }

    /// A request of a dialog that we are ending or that never was.
    fn on_stray_request(&mut self, request: &ServerRequest, message: &Message<'_>, out: &mut Outbox) {
        if message.method() == Method::Prack {
            return self.on_late_prack(request, message, out);
        }
        let stray = self.strays.iter().any(|stray| stray.dialog.owns_request(message));
        let status = if stray && message.method() == Method::Bye { 200 } else { 481 };
        request.answer(status, |_| {}, out);
    }

    /// A retransmission of a request that waits for the other side.
    fn waits_for(&self, key: Key) -> bool {
        let relayed = |party: &Party| {
            let mut requests = party.requests.iter();
            requests.any(|request| {
                matches!(&request.purpose, Purpose::Relay(waiting) if waiting.key == key && request.transaction.is_open())
            })
        };
        self.bonds.iter().any(|bond| {
            let negotiated = matches!(&bond.negotiation, Negotiation::Request { request, .. } if request.key == key);
            negotiated || relayed(&bond.caller) || relayed(&bond.callee)
        })
    }

    /// INFO passes with its body: DTMF of phones that do not do RFC 4733, and whatever else the two understand.
    fn on_info(
        &mut self,
        index: usize,
        side: Side,
        request: ServerRequest,
        message: &Message<'_>,
        cx: &mut Context<'_>,
        out: &mut Outbox,
    ) {
        let other = self.bonds[index].party_mut(side.other());
        let open = other.requests.iter().filter(|request| request.transaction.is_open()).count();
        if open >= REQUESTS_MAX || !matches!(other.presence, Presence::Early | Presence::Confirmed) {
            return request.answer(503, |_| {}, out);
        }
        let body = message.body();
        let more = |mut writer: Writer<'_>| {
            for id in PASSING {
                writer.copy(message, id);
            }
            writer.end(body);
        };
        let hops = request.hops;
        other.send(Method::Info, Purpose::Relay(request.postponed()), hops, more, cx, out);
        let is_digit = |kind| is_media_type(kind, "application/dtmf-relay") || is_media_type(kind, "application/dtmf");
        if message.header(HeaderId::ContentType).is_some_and(is_digit) {
            let leg = self.bonds[index].party(side).leg;
            if !self.is_masked() {
                self.facts.event(Some(leg), Body::DigitSent { by: by(side) }, out);
            }
            if let Some(digit) = digit_of(message.body()) {
                self.on_digit(leg, digit, cx, out);
            }
        }
    }
}

/// The key in `Signal=5` (application/dtmf-relay, among other lines) or `5` (application/dtmf), with blanks and line ends of any kind.
fn digit_of(body: &[u8]) -> Option<char> {
    let lines =
        body.split(|byte| matches!(byte, b'\r' | b'\n' | 0)).map(<[u8]>::trim_ascii).filter(|line| !line.is_empty());
    let mut values = lines.filter_map(|line| match line.iter().position(|byte| matches!(byte, b'=' | b':')) {
        Some(at) => line[..at].trim_ascii().eq_ignore_ascii_case(b"Signal").then(|| line[at + 1..].trim_ascii()),
        None => Some(line),
    });
    // Numbers are the events of RFC 4733 §3.2.
    match values.next()? {
        [digit] if b"0123456789*#ABCDabcd".contains(digit) => Some(char::from(digit.to_ascii_uppercase())),
        b"10" => Some('*'),
        b"11" => Some('#'),
        [b'1', event @ b'2'..=b'5'] => Some(char::from(event - b'2' + b'A')),
        _ => None,
    }
}

/// RFC 3261 §11.2: what a 200 to OPTIONS says.
fn capabilities(writer: &mut Writer<'_>) {
    writer.header(HeaderId::Allow, ALLOW).header(HeaderId::Supported, SUPPORTED).header(HeaderId::Accept, SDP);
}
