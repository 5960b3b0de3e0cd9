//! A scenario: which phones there are, how they behave, who calls whom how often, what happens to them, and what is expected.
//!
//! TOML, every key with a default but `users`; unknown keys are faults. [`Scenario::parse`] names line, key and reason of the
//! first fault of form, [`Scenario::check`] those of sense. Files of accounts are read from the folder of the scenario. The ready ones are in [`ready`].

mod accounts;
mod check;
pub mod ready;
mod users;
mod value;

#[cfg(test)]
mod tests;

use std::borrow::Cow;
use std::path::Path;
use std::time::Duration;

use serde::Deserialize;
use serde::Serialize;

pub use accounts::Account;
pub use check::Fault;
pub use users::USERS_MAX;
pub use users::User;
pub use users::Users;
pub use value::Span;
pub use value::Spread;
pub use value::exponential;

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Scenario {
    pub name: String,
    pub description: String,
    /// Host and port of the server that is tested.
    pub server: String,
    /// The same seed gives the same phones, delays and calls.
    pub seed: u64,
    /// Calls begin for so long, from when all phones are registered (at most 5 s after the ramp) on; then those that are up end as
    /// they were to, and the phones unregister.
    pub duration: Span,
    /// The first registrations are spread over this.
    pub ramp: Span,
    /// How long calls may take to end after `duration`; then they are hung up.
    pub wind_down: Span,
    /// Shared UDP sockets for signalling, of each core.
    pub sockets: u16,
    /// At the end phones unregister, as when they are shut down.
    pub unregister: bool,
    #[serde(rename = "population")]
    pub populations: Vec<Population>,
    pub calls: Vec<Calls>,
    #[serde(rename = "event")]
    pub events: Vec<Event>,
    pub expect: Expect,
}

impl Default for Scenario {
    fn default() -> Self {
        Self {
            name: String::new(),
            description: String::new(),
            server: "127.0.0.1:5060".to_owned(),
            seed: 1,
            duration: Span::secs(60),
            ramp: Span::secs(5),
            wind_down: Span::secs(30),
            sockets: 8,
            unregister: true,
            populations: Vec::new(),
            calls: Vec::new(),
            events: Vec::new(),
            expect: Expect::default(),
        }
    }
}

/// Phones that are alike.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Population {
    pub name: String,
    pub users: Users,
    /// The tenant's domain; default: the server's host.
    pub domain: String,
    /// `{user}` stands for the user, here and in `password`.
    pub auth_user: String,
    pub password: String,
    pub transport: Transport,
    /// False: phones that call and are called without registering.
    pub register: bool,
    pub expires: Span,
    /// 0s: none.
    pub keepalive: Span,
    /// Behind a NAT: Contact and Via show a private address; 0s: it never rebinds.
    pub nat: Option<Nat>,
    /// Each phone has one of these; empty: none has any. See [`Quirk`].
    pub quirks: Vec<Quirk>,
    /// The share of the phones that have a quirk.
    pub quirky: f64,
    /// A call rings for so long before it is answered.
    pub answer: Spread,
    /// Shares of incoming calls; the rest is answered.
    pub busy: f64,
    pub reject: f64,
    pub no_answer: f64,
    /// The share of calls that hear the callee before it answers: 183 with a description.
    pub early_media: f64,
    /// Calls at once of one phone; a further one hears busy.
    pub lines: u8,
    /// Speech instead of the made-up one: a WAV file, 8 kHz mono.
    pub speech: String,
    pub user_agent: String,
}

impl Default for Population {
    fn default() -> Self {
        Self {
            name: "phones".to_owned(),
            users: Users::none(),
            domain: String::new(),
            auth_user: "{user}".to_owned(),
            password: "secret-{user}".to_owned(),
            transport: Transport::Udp,
            register: true,
            expires: Span::secs(300),
            keepalive: Span::secs(0),
            nat: None,
            quirks: Vec::new(),
            quirky: 1.0,
            answer: Spread::even(Duration::from_secs(1), Duration::from_secs(4)),
            busy: 0.0,
            reject: 0.0,
            no_answer: 0.0,
            early_media: 0.0,
            lines: 2,
            speech: String::new(),
            user_agent: "PHLEM/1".to_owned(),
        }
    }
}

/// Of one phone: what its line in a file says, else what the population says of all.
impl Population {
    pub fn domain_of(&self, member: u32) -> &str {
        self.users.account(member).map(|own| &*own.domain).filter(|own| !own.is_empty()).unwrap_or(&self.domain)
    }

    pub fn auth_user_of<'a>(&'a self, member: u32, user: &'a str) -> Cow<'a, str> {
        match self.users.account(member).filter(|own| !own.auth_user.is_empty()) {
            Some(own) => (&*own.auth_user).into(),
            None if self.auth_user == "{user}" => user.into(),
            None => self.auth_user.replace("{user}", user).into(),
        }
    }

    pub fn password_of(&self, member: u32, user: &str) -> String {
        match self.users.account(member).filter(|own| !own.password.is_empty()) {
            Some(own) => own.password.to_string(),
            None => self.password.replace("{user}", user),
        }
    }

    /// What is dialled for a phone, by one of the same population or another.
    pub fn dialled(&self, member: u32, is_colleague: bool) -> String {
        match self.users.account(member) {
            Some(own) => own.dialled(is_colleague).to_owned(),
            None => self.users.of(member).to_string(),
        }
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Transport {
    #[default]
    Udp,
    Tcp,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Nat {
    /// The phone's traffic comes from another port that often.
    pub rebind: Span,
}

/// What the firmware of a phone does wrong, or differently.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Quirk {
    /// Headers in an unusual order: Via behind everything else but Content-Length.
    HeaderOrder,
    /// v, f, t, i, m, c, l, k.
    CompactForms,
    /// Long header fields go over two lines.
    Folding,
    /// Names in lower case, blanks around the colon.
    OddCase,
    /// Via values of more than one in one field, separated by commas; parameters in odd places.
    OddSpaces,
    /// The sequence number of a request in a dialog does not grow.
    BadCseq,
    /// The answer's formats stand in another order than the offer's.
    SdpOrder,
    /// The description has a=rtpmap lines for nothing and no direction.
    SdpSparse,
    /// ACK comes only after the answer was sent again.
    SlowAck,
    /// ACK never comes.
    NoAck,
    /// BYE is sent twice, as two requests.
    DoubleBye,
    /// The call ends without BYE.
    NoBye,
    /// Requests are sent again although they were answered.
    EagerRepeat,
    /// The first digest is computed with a wrong password, the next is right.
    WrongPasswordFirst,
    /// Registers again at half a second's distance.
    Hasty,
    /// Ringing is sent ten times.
    RingsALot,
}

impl Quirk {
    pub const ALL: [Self; 16] = [
        Self::HeaderOrder,
        Self::CompactForms,
        Self::Folding,
        Self::OddCase,
        Self::OddSpaces,
        Self::BadCseq,
        Self::SdpOrder,
        Self::SdpSparse,
        Self::SlowAck,
        Self::NoAck,
        Self::DoubleBye,
        Self::NoBye,
        Self::EagerRepeat,
        Self::WrongPasswordFirst,
        Self::Hasty,
        Self::RingsALot,
    ];
}

/// A stream of calls.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Calls {
    /// The population that calls.
    pub from: String,
    /// The population that is called (any phone of it but the caller), or a number or URI that every call goes to.
    pub to: String,
    /// Calls a second of all phones together, as a Poisson process.
    pub rate: f64,
    /// From how many calls a second the rate grows evenly to `rate`, and over which time.
    pub ramp: Span,
    /// Factors of the rate, evenly spread over the duration: the curve of a busy hour.
    pub curve: Vec<f64>,
    /// At most so many of them at once; 0: no limit.
    pub concurrent_max: u32,
    pub talk: Spread,
    /// False: signalling alone, descriptions are exchanged and no audio flows.
    pub media: bool,
    /// Shares of the answered calls.
    pub hold: f64,
    pub dtmf: f64,
    /// Digits go as INFO (RFC 6086) instead of RFC 4733.
    pub dtmf_info: bool,
    pub blind_transfer: f64,
    pub attended_transfer: f64,
    /// The share of calls that the caller gives up while they ring, and after which time.
    pub missed: f64,
    pub patience: Spread,
    /// The callee hangs up in this share of the calls.
    pub callee_ends: f64,
    /// Calls may start before this much of the duration has passed.
    pub after: Span,
}

impl Default for Calls {
    fn default() -> Self {
        Self {
            from: "phones".to_owned(),
            to: "phones".to_owned(),
            rate: 1.0,
            ramp: Span::secs(0),
            curve: Vec::new(),
            concurrent_max: 0,
            talk: Spread::Exponential(Span::secs(30)),
            media: true,
            hold: 0.0,
            dtmf: 0.0,
            dtmf_info: false,
            blind_transfer: 0.0,
            attended_transfer: 0.0,
            missed: 0.0,
            patience: Spread::even(Duration::from_secs(4), Duration::from_secs(12)),
            callee_ends: 0.5,
            after: Span::secs(0),
        }
    }
}

/// Something that happens to phones at a time.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Event {
    /// From when calls begin on.
    pub at: Span,
    pub what: What,
    /// Default: all.
    #[serde(default)]
    pub population: Option<String>,
    /// The share of its phones.
    #[serde(default = "all")]
    pub share: f64,
    /// How long the power is off, or over which time reboots and rebinds are spread.
    #[serde(default)]
    pub lasts: Span,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum What {
    /// All at once off, without a word, and on again together: the registration storm.
    PowerCut,
    /// Phones unregister, are away for some seconds, and register.
    Reboot,
    /// The NAT gives every phone another port.
    Rebind,
}

fn all() -> f64 {
    1.0
}

/// What has to hold at the end; what is not named is not looked at.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Expect {
    /// The share of the phones that are registered at every time from when calls begin on; those do not count that the scenario
    /// switched off, or on again less than 5 s ago.
    pub registered_min: Option<f64>,
    /// The share of the calls that ended as the scenario meant them to.
    pub calls_good_min: Option<f64>,
    pub calls_min: Option<u64>,
    pub setup_p99_max: Option<Span>,
    pub register_p99_max: Option<Span>,
    /// The share of audio frames that did not come, those included that had to be heard before the first or after the last.
    pub loss_max: Option<f64>,
    pub wrong_audio_max: Option<u64>,
    /// Legs that had to hear something and heard nothing.
    pub silent_legs_max: Option<u64>,
    /// The share that was heard of what had to be heard.
    pub audio_share_min: Option<f64>,
    pub mos_min: Option<f64>,
    pub one_way_p99_max: Option<Span>,
}

impl Scenario {
    /// `file` is named in faults, and files of accounts are looked for beside it.
    pub fn parse(file: &str, text: &str) -> Result<Self, Fault> {
        let mut scenario: Self = toml::from_str(text).map_err(|error| check::fault_of_form(file, text, &error))?;
        let folder = Path::new(file).parent().unwrap_or_else(|| Path::new(""));
        for population in &mut scenario.populations {
            population.users.read(folder)?;
        }
        scenario.check(file)?;
        Ok(scenario)
    }

    pub fn phones(&self) -> u32 {
        self.populations.iter().map(|population| population.users.count()).sum()
    }

    pub fn population(&self, name: &str) -> Option<usize> {
        self.populations.iter().position(|population| population.name == name)
    }

    /// Makes calls begin for so long, and moves what happens to phones with it.
    pub fn last(&mut self, duration: Duration) {
        let part = duration.as_secs_f64() / self.duration.0.as_secs_f64().max(1e-3);
        let moved = |span: Span| Span(span.0.mul_f64(part).min(duration));
        for event in &mut self.events {
            (event.at, event.lasts) = (moved(event.at), moved(event.lasts));
        }
        for calls in &mut self.calls {
            (calls.after, calls.ramp) = (moved(calls.after), moved(calls.ramp));
        }
        self.duration = Span(duration);
    }

    /// From the first registration to the last hang-up, at most.
    pub fn length_max(&self) -> Duration {
        self.ramp.0 + self.duration.0 + self.wind_down.0
    }
}
