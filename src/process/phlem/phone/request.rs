//! How the phone's requests and answers are made: Via, Contact, credentials, and the transaction that carries them.

use std::borrow::Cow;
use std::fmt::Write as _;

use crate::process::phlem::phone::BRANCH_START;
use crate::process::phlem::phone::Client;
use crate::process::phlem::phone::Desk;
use crate::process::phlem::phone::Phone;
use crate::process::phlem::phone::Purpose;
use crate::process::phlem::phone::TRANSACTIONS_MAX;
use crate::process::phlem::phone::To;
use crate::process::phlem::phone::call::Call;
use crate::process::phlem::phone::call::State;
use crate::process::phlem::scenario::Quirk;
use crate::process::phlem::scenario::Transport;
use crate::process::phlem::scenario::User;
use crate::process::phlem::sip::digest;
use crate::process::phlem::sip::digest::Challenge;
use crate::process::phlem::sip::message::Draft;
use crate::process::phlem::sip::message::Message;
use crate::process::phlem::sip::message::name_of;

pub(super) const ALLOW: &str = "INVITE, ACK, CANCEL, BYE, OPTIONS, INFO, UPDATE, REFER, NOTIFY, MESSAGE";

impl Phone {
    pub fn user<'a>(&self, desk: &Desk<'a>) -> User<'a> {
        desk.settings.population(self.population).users.of(self.member)
    }

    pub(super) fn domain<'a>(&self, desk: &Desk<'a>) -> &'a str {
        let settings = desk.settings;
        let domain = settings.population(self.population).domain_of(self.member);
        if domain.is_empty() { &settings.server_host } else { domain }
    }

    pub(super) fn own_address(&self, desk: &Desk<'_>) -> String {
        format!("<sip:{}@{}>", self.user(desk), self.domain(desk))
    }

    pub(super) fn is_reliable(&self, desk: &Desk<'_>) -> bool {
        desk.settings.population(self.population).transport == Transport::Tcp
    }

    /// The address that the phone believes to have.
    fn shown_address<'a>(&self, desk: &Desk<'a>) -> Cow<'a, str> {
        if desk.settings.population(self.population).nat.is_some() {
            let [_, _, high, low] = self.index.to_be_bytes();
            return format!("192.168.{high}.{low}:5060").into();
        }
        let settings = desk.settings;
        settings.signalling.get(self.socket(settings)).map_or("", String::as_str).into()
    }

    /// `line` tells phones apart that share a socket.
    pub(super) fn write_contact(&self, out: &mut String, desk: &Desk<'_>) {
        let (user, at, index) = (self.user(desk), self.shown_address(desk), self.index);
        let transport = if self.is_reliable(desk) { ";transport=tcp" } else { "" };
        let _ = write!(out, "<sip:{user}@{at}{transport};line={index:x}>");
    }

    /// Returns the number of the transaction that it begins.
    pub(super) fn push_via(&mut self, message: &mut Draft, desk: &Desk<'_>) -> u32 {
        self.transactions = self.transactions.wrapping_add(1);
        let transport = if self.is_reliable(desk) { "TCP" } else { "UDP" };
        let (at, index, id, boot) =
            (self.shown_address(desk), self.index, self.transactions, desk.settings.boot & 0xFFFF_FFFF);
        let via = format_args!("SIP/2.0/{transport} {at};rport;branch={BRANCH_START}{index:x}-{id:x}-{boot:x}");
        message.write("Via", via);
        self.transactions
    }

    /// A request within a call.
    pub(super) fn in_call(&mut self, method: rsip::Method, call: &mut Call, desk: &Desk<'_>) -> (Draft, u32) {
        let mut message = Draft::request(method, &call.target);
        let id = self.push_via(&mut message, desk);
        message.push("Max-Forwards", "70");
        for route in &call.routes {
            message.push("Route", route);
        }
        message.push("From", &call.local);
        message.push("To", &call.remote);
        message.push("Call-ID", &call.call_id);
        let is_first = call.cseq == 0;
        if method != rsip::Method::Ack && method != rsip::Method::Cancel && (is_first || !self.has(Quirk::BadCseq)) {
            call.cseq += 1;
        }
        let cseq = if method == rsip::Method::Ack { call.invite_cseq } else { call.cseq };
        message.write("CSeq", format_args!("{cseq} {}", name_of(method)));
        message.push_with("Contact", |text| self.write_contact(text, desk));
        message.push("User-Agent", &desk.settings.population(self.population).user_agent);
        self.push_credentials(&mut message, name_of(method), desk);
        (message, id)
    }

    pub(super) fn push_credentials(&mut self, message: &mut Draft, method: &str, desk: &Desk<'_>) {
        let Some(place) = self.place_of_challenge(method == "REGISTER") else { return };
        let Some(mut challenge) = self.challenges[place].take() else { return };
        let population = desk.settings.population(self.population);
        let user = self.user(desk).to_string();
        // The digest of the secrets is kept with the challenge.
        let mut password =
            if challenge.is_answered() { String::new() } else { population.password_of(self.member, &user) };
        if self.has(Quirk::WrongPasswordFirst) && self.registration.challenged == 1 && method == "REGISTER" {
            password.push('x');
            // This one is thrown away.
            self.push_answer(message, &mut challenge.clone(), &user, &password, method, desk);
        } else {
            self.push_answer(message, &mut challenge, &user, &password, method, desk);
        }
        self.challenges[place] = Some(challenge);
    }

    /// A registrar's challenge for REGISTER, a proxy's for the rest, as far as there are both.
    fn place_of_challenge(&self, prefers_registrar: bool) -> Option<usize> {
        let order = if prefers_registrar { [0, 1] } else { [1, 0] };
        order.into_iter().find(|place| self.challenges[*place].is_some())
    }

    fn push_answer(
        &mut self,
        message: &mut Draft,
        challenge: &mut Challenge,
        user: &str,
        password: &str,
        method: &str,
        desk: &Desk<'_>,
    ) {
        let auth_user = desk.settings.population(self.population).auth_user_of(self.member, user);
        let cnonce = format!("{:08x}", self.random.next_u32());
        let request = digest::Request { user: &auth_user, password, method, uri: message.uri(), cnonce: &cnonce };
        let value = challenge.answer(&request);
        message.push(if challenge.by_proxy { "Proxy-Authorization" } else { "Authorization" }, &value);
    }

    pub(super) fn send_request(&mut self, id: u32, purpose: Purpose, request: Draft, desk: &mut Desk<'_>) {
        let bytes = request.finish(self.style());
        let is_invite = matches!(purpose, Purpose::Invite(_) | Purpose::Reinvite(_));
        if self.clients.len() < TRANSACTIONS_MAX {
            let reliable = self.is_reliable(desk);
            self.clients.push(Client::new(id, purpose, is_invite, bytes.clone(), reliable, desk.now.instant));
        }
        if self.has(Quirk::EagerRepeat) {
            desk.send(To::Server, bytes.clone());
        }
        desk.send(To::Server, bytes);
    }

    /// Sends the request again with credentials; false if that leads nowhere.
    pub(super) fn take_challenge(
        &mut self,
        purpose: Purpose,
        code: u16,
        message: &Message<'_>,
        desk: &mut Desk<'_>,
    ) -> bool {
        let by_proxy = code == 407;
        let name = if by_proxy { "Proxy-Authenticate" } else { "WWW-Authenticate" };
        let Some(challenge) = Challenge::choose(message.values(name), by_proxy) else { return false };
        let gave_up = |call: &Call| call.state == State::Cancelling;
        let tries = match purpose {
            // Who has given up does not ask again.
            Purpose::Invite(number) if self.calls.iter().any(|call| call.number == number && gave_up(call)) => {
                return false;
            }
            Purpose::Register | Purpose::Unregister => &mut self.registration.challenged,
            Purpose::Invite(number)
            | Purpose::Reinvite(number)
            | Purpose::Bye(number)
            | Purpose::Refer(number)
            | Purpose::Info(number) => match self.calls.iter_mut().find(|call| call.number == number) {
                Some(call) => &mut call.challenged,
                None => return false,
            },
            Purpose::Cancel(_) | Purpose::Notify(_) => return false,
        };
        // Once for the challenge, once for a nonce that grew old meanwhile, once for a mistyped password.
        if *tries >= 3 || *tries >= 2 && !challenge.stale {
            return false;
        }
        *tries += 1;
        let own = &mut self.challenges[usize::from(by_proxy)];
        if !own.as_ref().is_some_and(|own| own.is_same_nonce(&challenge)) {
            *own = Some(Box::new(challenge));
        }
        self.ask_again(purpose, desk);
        true
    }

    fn ask_again(&mut self, purpose: Purpose, desk: &mut Desk<'_>) {
        match purpose {
            Purpose::Register | Purpose::Unregister => self.send_register(purpose, desk),
            Purpose::Invite(call) => self.send_invite(call, desk),
            Purpose::Reinvite(call) => self.send_reinvite(call, desk),
            Purpose::Bye(call) => self.send_bye(call, desk),
            Purpose::Refer(call) => self.send_refer(call, desk),
            Purpose::Info(call) => self.send_info(call, desk),
            Purpose::Cancel(_) | Purpose::Notify(_) => {}
        }
    }
}

/// The answer to `request`, with what RFC 3261 §8.2.6.2 has copied.
pub(super) fn response_to(request: &Message<'_>, code: u16, reason: &str, tag: Option<u64>) -> Draft {
    let mut message = Draft::response(code, reason);
    for name in ["Via", "From", "To", "Call-ID", "CSeq"] {
        for value in request.values(name) {
            let is_bare_to = name == "To" && !value.contains(";tag=");
            match tag.filter(|_| is_bare_to && code > 100) {
                Some(tag) => message.write(name, format_args!("{value};tag={tag:x}")),
                None => message.push(name, value),
            }
        }
    }
    if code > 100 && code < 300 {
        for route in request.values("Record-Route") {
            message.push("Record-Route", route);
        }
    }
    message
}
