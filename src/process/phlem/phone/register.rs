//! Registration: at power-on, again before it ends, again after failures ever more slowly, keep-alives between.

use std::time::Duration;

use bytes::Bytes;

use crate::base::random::Random;
use crate::base::time::Instant;
use crate::process::phlem::phone::Desk;
use crate::process::phlem::phone::Phone;
use crate::process::phlem::phone::Purpose;
use crate::process::phlem::phone::To;
use crate::process::phlem::scenario::Quirk;
use crate::process::phlem::sip::message::Draft;
use crate::process::phlem::sip::message::Message;
use crate::process::phlem::sip::value::Address;
use crate::process::phlem::sip::value::param;

/// RFC 5626 §4.4.1.
const KEEPALIVE: &[u8] = b"\r\n\r\n";
const RETRY_MAX: Duration = Duration::from_secs(60);
/// A phone that was switched on is registered after this.
pub const REGISTERED_WITHIN: Duration = Duration::from_secs(5);

#[derive(Clone, Debug)]
pub(super) struct Registration {
    /// Seed of Call-ID and tag.
    pub(super) identity: u64,
    pub(super) cseq: u32,
    /// The first REGISTER of this attempt.
    begun: Instant,
    next_at: Instant,
    keepalive_at: Instant,
    rebind_at: Instant,
    failures: u8,
    /// Asked again after a challenge, within one attempt.
    pub(super) challenged: u8,
    /// What the server wants at least (423).
    expires_min: u32,
    pub(super) is_valid: bool,
    /// It has to be registered from here on, or from this time on.
    is_owed: bool,
    owed_at: Instant,
    /// The phone is being shut down.
    leaving: bool,
}

impl Registration {
    pub(super) fn new(identity: u64) -> Self {
        Self {
            identity,
            cseq: 0,
            begun: Instant::ZERO,
            next_at: Instant::NEVER,
            keepalive_at: Instant::NEVER,
            rebind_at: Instant::NEVER,
            failures: 0,
            challenged: 0,
            expires_min: 0,
            is_valid: false,
            is_owed: false,
            owed_at: Instant::NEVER,
            leaving: false,
        }
    }

    pub(super) fn next_deadline(&self) -> Instant {
        self.next_at.min(self.keepalive_at).min(self.rebind_at).min(self.owed_at)
    }

    /// Registers at once.
    pub(super) fn hurry(&mut self, now: Instant) {
        self.next_at = self.next_at.min(now);
    }

    /// Over a new connection, soon but not all phones at once.
    pub(super) fn reconnect(&mut self, now: Instant, random: &mut Random) {
        if !self.leaving {
            self.next_at = self.next_at.min(now + Duration::from_millis(500 + random.below(3_000)));
        }
    }
}

impl Phone {
    pub(super) fn start_registering(&mut self, at: Instant, desk: &mut Desk<'_>) {
        let population = desk.settings.population(self.population);
        self.registration.leaving = false;
        self.registration.next_at = if population.register { at } else { Instant::NEVER };
        self.registration.owed_at = if population.register { at + REGISTERED_WITHIN } else { Instant::NEVER };
        if let Some(nat) = population.nat.as_ref().filter(|nat| !nat.rebind.0.is_zero()) {
            // Not all phones' at once.
            let part = nat.rebind.0.mul_f64((1 + self.random.below(1_000)) as f64 / 1_000.0);
            self.registration.rebind_at = at + part;
        }
    }

    /// Unregisters if it was registered; off afterwards.
    pub fn shut_down(&mut self, unregisters: bool, desk: &mut Desk<'_>) {
        let numbers: Vec<u64> = self.calls.iter().map(|call| call.number).collect();
        for number in numbers {
            self.hang_up(number, desk);
        }
        let registration = &mut self.registration;
        (registration.next_at, registration.keepalive_at) = (Instant::NEVER, Instant::NEVER);
        registration.rebind_at = Instant::NEVER;
        registration.leaving = true;
        if registration.is_valid && unregisters {
            self.registration.challenged = 0;
            self.send_register(Purpose::Unregister, desk);
        }
        self.set_registered(false, desk);
        self.set_owed(false, desk);
    }

    /// From now on it counts where the phone is not registered.
    pub fn owe_registration(&mut self, desk: &mut Desk<'_>) {
        if self.is_on && desk.settings.population(self.population).register {
            self.set_owed(true, desk);
        }
    }

    pub(super) fn set_owed(&mut self, is_owed: bool, desk: &mut Desk<'_>) {
        self.registration.owed_at = Instant::NEVER;
        match (self.registration.is_owed, is_owed) {
            (false, true) => desk.figures.registrations_owed += 1,
            (true, false) => desk.figures.registrations_owed = desk.figures.registrations_owed.saturating_sub(1),
            _ => {}
        }
        self.registration.is_owed = is_owed;
    }

    pub(super) fn set_registered(&mut self, is_valid: bool, desk: &mut Desk<'_>) {
        if is_valid {
            self.set_owed(true, desk);
        }
        match (self.registration.is_valid, is_valid) {
            (false, true) => desk.figures.registered_now += 1,
            (true, false) => desk.figures.registered_now = desk.figures.registered_now.saturating_sub(1),
            _ => {}
        }
        self.registration.is_valid = is_valid;
    }

    pub(super) fn registration_timeout(&mut self, desk: &mut Desk<'_>) {
        let now = desk.now.instant;
        let population = desk.settings.population(self.population);
        if self.registration.owed_at <= now {
            self.set_owed(true, desk);
        }
        if self.registration.next_at <= now {
            self.registration.begun = now;
            // Again if no answer at all ends this one.
            self.registration.next_at = Instant::NEVER;
            self.registration.challenged = 0;
            self.send_register(Purpose::Register, desk);
            if self.has(Quirk::Hasty) && self.registration.cseq < 8 {
                self.registration.next_at = now + Duration::from_millis(500);
            }
        }
        if self.registration.keepalive_at <= now {
            self.registration.keepalive_at = now + population.keepalive.0;
            desk.send(To::Server, Bytes::from_static(KEEPALIVE));
        }
        if self.registration.rebind_at <= now
            && let Some(nat) = &population.nat
        {
            self.registration.rebind_at = now + nat.rebind.0;
            self.rebind(desk);
        }
    }

    pub(super) fn send_register(&mut self, purpose: Purpose, desk: &mut Desk<'_>) {
        let population = desk.settings.population(self.population);
        let (user, domain) = (self.user(desk), self.domain(desk));
        let wanted = u32::try_from(population.expires.0.as_secs()).unwrap_or(u32::MAX);
        let expires = if purpose == Purpose::Unregister { 0 } else { wanted.max(self.registration.expires_min) };
        self.registration.cseq += 1;
        let mut message = Draft::request(rsip::Method::Register, &format!("sip:{domain}"));
        let id = self.push_via(&mut message, desk);
        message.push("Max-Forwards", "70");
        let Registration { identity, cseq, .. } = self.registration;
        message.write("From", format_args!("<sip:{user}@{domain}>;tag={:x}", identity >> 32));
        message.write("To", format_args!("<sip:{user}@{domain}>"));
        message.write("Call-ID", format_args!("{identity:x}-{:x}@phlem", desk.settings.boot));
        message.write("CSeq", format_args!("{cseq} REGISTER"));
        message.push_with("Contact", |text| self.write_contact(text, desk));
        message.write("Expires", format_args!("{expires}"));
        message.push("User-Agent", &population.user_agent);
        self.push_credentials(&mut message, "REGISTER", desk);
        self.send_request(id, purpose, message, desk);
    }

    pub(super) fn on_registered(&mut self, purpose: Purpose, code: u16, message: &Message<'_>, desk: &mut Desk<'_>) {
        let now = desk.now.instant;
        if purpose == Purpose::Unregister || self.registration.leaving {
            self.is_on = false;
            return;
        }
        if code == 423
            && let Some(least) = message.value("Min-Expires").and_then(|least| least.trim().parse().ok())
            && least > self.registration.expires_min
        {
            self.registration.expires_min = least;
            self.send_register(purpose, desk);
            return;
        }
        desk.figures.registrations += 1;
        if !(200..300).contains(&code) {
            desk.figures.registrations_failed += 1;
            desk.figures.fail(&format!("REGISTER {code}"));
            self.set_registered(false, desk);
            let wanted = message.value("Retry-After").and_then(|after| {
                let digits = after.trim().bytes().take_while(u8::is_ascii_digit).count();
                after.trim().get(..digits)?.parse().ok().map(Duration::from_secs)
            });
            self.retry_later(wanted, desk);
            return;
        }
        self.registration.failures = 0;
        desk.figures.register_delay.record_duration(now.since(self.registration.begun));
        self.set_registered(true, desk);
        let population = desk.settings.population(self.population);
        let granted = self.granted(message, desk).unwrap_or(population.expires.0.as_secs());
        // Some time before it ends, and not all at the same.
        let part = 700 + self.random.below(200);
        let next = now + Duration::from_millis(granted.saturating_mul(part));
        self.registration.next_at = self.registration.next_at.min(next);
        if !population.keepalive.0.is_zero() && self.registration.keepalive_at == Instant::NEVER {
            self.registration.keepalive_at = now + population.keepalive.0;
        }
    }

    /// Seconds that the server grants to our contact.
    fn granted(&self, message: &Message<'_>, desk: &Desk<'_>) -> Option<u64> {
        let mut own = String::with_capacity(80);
        self.write_contact(&mut own, desk);
        let own = Address::parse(&own)?;
        let contacts = message.values("Contact").filter_map(Address::parse);
        let ours = contacts.into_iter().find(|contact| contact.uri == own.uri);
        let expires = ours.and_then(|contact| param(contact.params, "expires")).or_else(|| message.value("Expires"))?;
        expires.trim().parse().ok()
    }

    pub(super) fn on_register_silence(&mut self, desk: &mut Desk<'_>) {
        if self.registration.leaving {
            self.is_on = false;
            return;
        }
        desk.figures.registrations += 1;
        desk.figures.registrations_failed += 1;
        desk.figures.fail("REGISTER not answered");
        self.set_registered(false, desk);
        self.retry_later(None, desk);
    }

    /// RFC 5626 §4.5: ever more slowly, and not all phones at the same time.
    fn retry_later(&mut self, wanted: Option<Duration>, desk: &mut Desk<'_>) {
        let registration = &mut self.registration;
        registration.failures = registration.failures.saturating_add(1).min(6);
        let longest = (Duration::from_secs(2) * 2u32.pow(u32::from(registration.failures) - 1)).min(RETRY_MAX);
        let drawn = longest.mul_f64(0.5 + self.random.below(500) as f64 / 1_000.0);
        registration.next_at = desk.now.instant + wanted.map_or(drawn, |wanted| wanted.min(RETRY_MAX) + drawn / 4);
    }
}
