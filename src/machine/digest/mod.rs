//! Who sent a request: reading of credentials, their verdict, and the challenge (RFC 3261 §22, RFC 7616, RFC 8760).
//!
//! [`read`] needs no state: whoever reads a message first can tell a request worth passing on from one to be challenged
//! at once. [`judge`] verifies for the phone's own shard. Unknown users and wrong passwords get the same answer at the
//! same cost. Counting failures is `source_limit`'s, counting nonces the registrar's.

mod challenge;
pub mod fallback;
pub mod gate;
mod resource;
mod response;

#[cfg(test)]
pub(crate) mod tests;

use std::borrow::Cow;
use std::net::IpAddr;

use arrayvec::ArrayVec;

use crate::base::time::UnixTime;
use crate::machine::Shared;
use crate::machine::directory;
use crate::machine::directory::address::sender_host;
use crate::machine::directory::address::sender_tenant;
use crate::machine::nonce;
use crate::machine::nonce::Validity;
use crate::machine::settings::Algorithm;
use crate::wire::link::Phone;
use crate::wire::link::Tenant;
use crate::wire::sip::Credentials;
use crate::wire::sip::HeaderId;
use crate::wire::sip::Host;
use crate::wire::sip::Message;

pub use challenge::AMPLIFICATION_MAX;
pub use challenge::challenge;
pub use challenge::challenge_phone;

/// Authorization lines of one request that are looked at.
const CREDENTIALS_MAX: usize = 8;
/// Algorithms that a challenge may offer.
const ALGORITHMS_MAX: usize = 3;

/// What a request says about its sender, before anything is looked up.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(clippy::large_enum_variant, reason = "lives on the stack for one request")]
pub enum Reading<'m> {
    /// Nothing for us: challenge it.
    Bare,
    /// RFC 7616 §3.4: a broken or incomplete Authorization; 400.
    Malformed,
    /// RFC 7616 §3.4.6: hashed for another resource than the one that is asked for; 400.
    Misdirected,
    /// Its nonce is too old, not ours, or another source's: challenge it with `stale=true`.
    Stale,
    /// Worth a verdict.
    Claim(Claim<'m>),
}

/// Credentials with a nonce that was given to this source.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claim<'m> {
    pub credentials: Credentials<'m>,
    /// Without the escapes of its quotes.
    pub user: Cow<'m, str>,
    pub realm: Cow<'m, str>,
    pub nonce: Validity,
}

/// What the credentials are worth.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict<'a> {
    /// Right, if the nonce may be used once more: `count` goes to [`NonceUses`](crate::machine::nonce::NonceUses).
    Right { phone: &'a Phone, count: u32 },
    /// Challenge it again, without `stale`.
    Wrong(Wrong),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wrong {
    Password,
    User,
    /// An algorithm or `qop` that was not offered.
    Algorithm,
}

impl Wrong {
    /// The cause in the log line and event.
    pub fn cause(self) -> &'static str {
        match self {
            Self::Password => "wrong password",
            Self::User => "unknown user",
            Self::Algorithm => "algorithm not offered",
        }
    }
}

/// Reads the credentials of a request; the first whose nonce is good counts.
pub fn read<'m>(request: &Message<'m>, source: IpAddr, now: UnixTime, shared: Shared<'_>) -> Reading<'m> {
    let mut reading = Reading::Bare;
    for line in request.headers(HeaderId::Authorization).take(CREDENTIALS_MAX) {
        let credentials = match Credentials::parse(line) {
            Ok(Some(credentials)) => credentials,
            Ok(None) => continue,
            Err(_) => return Reading::Malformed,
        };
        // RFC 7616 §3.4: cnonce and nc "MUST be specified if a qop directive is sent".
        if credentials.qop.is_some() && (credentials.nc.is_none() || credentials.cnonce.is_none()) {
            return Reading::Malformed;
        }
        let realm = without_escapes(credentials.realm);
        let nonce = nonce::check(&shared.settings.secrets.nonce, credentials.nonce, &realm, source, now);
        match nonce {
            Validity::Fresh(_) | Validity::InUse(_) if !resource::is_same(credentials.uri, request, shared) => {
                return Reading::Misdirected;
            }
            Validity::Fresh(_) | Validity::InUse(_) => {
                let user = without_escapes(credentials.username);
                return Reading::Claim(Claim { credentials, user, realm, nonce });
            }
            Validity::Old | Validity::Foreign => reading = Reading::Stale,
        }
    }
    reading
}

/// Whom credentials name.
#[derive(Clone, Copy, Debug)]
pub struct Named<'a> {
    pub phone: Option<&'a Phone>,
    /// The phone's, else that of the sender's address.
    tenant: Option<&'a Tenant>,
}

/// Finds the phone of a claim, and the tenant whose rules hold for it.
pub fn named<'a>(claim: &Claim<'_>, request: &Message<'_>, shared: Shared<'a>) -> Named<'a> {
    let likely = sender_tenant(shared, sender_host(request));
    let has_plain_name = !claim.credentials.userhash && claim.credentials.username_extended.is_none();
    let phone = shared.directory.phone_of_credential(&claim.realm, &claim.user, likely).filter(|_| has_plain_name);
    Named { phone, tenant: phone.and_then(|phone| shared.directory.tenant(&phone.tenant)).or(likely) }
}

/// Verifies a claim. One digest is computed whatever comes.
pub fn judge<'a>(claim: &Claim<'_>, request: &Message<'_>, named: Named<'a>, shared: Shared<'_>) -> Verdict<'a> {
    let Some(line) = request.request() else { return Verdict::Wrong(Wrong::User) };
    let credentials = &claim.credentials;
    let Named { phone, tenant } = named;
    // RFC 7616 §3.4: without "algorithm" it is MD5.
    let asked = credentials.algorithm.map_or(Some(Algorithm::Md5), Algorithm::parse);
    let algorithm =
        asked.filter(|asked| offered(phone, tenant, shared).contains(asked) && is_qop_offered(credentials, *asked));
    let secret = phone.and_then(|phone| response::secret_of(&phone.ha1, algorithm?));
    let is_right = response::is_right(credentials, algorithm.unwrap_or(Algorithm::Md5), line.name, secret);
    match phone {
        _ if algorithm.is_none() => Verdict::Wrong(Wrong::Algorithm),
        None => Verdict::Wrong(Wrong::User),
        Some(_) if !is_right => Verdict::Wrong(Wrong::Password),
        Some(phone) => Verdict::Right { phone, count: count(credentials) },
    }
}

/// A client without `qop` counts nothing: each nonce is good for one request of it.
fn count(credentials: &Credentials<'_>) -> u32 {
    if credentials.qop.is_some() { credentials.nc.unwrap_or(0) } else { 1 }
}

fn is_qop_offered(credentials: &Credentials<'_>, algorithm: Algorithm) -> bool {
    match credentials.qop {
        Some(qop) => qop.eq_ignore_ascii_case(b"auth"),
        // RFC 7616 §3.4: only old clients, which know nothing but MD5, may leave it out.
        None => algorithm == Algorithm::Md5,
    }
}

/// The algorithms that the phone, the tenant or the node offers, whoever says something first, in their order.
fn offered(phone: Option<&Phone>, tenant: Option<&Tenant>, shared: Shared<'_>) -> ArrayVec<Algorithm, ALGORITHMS_MAX> {
    let of_phone = phone.map(|phone| &phone.digest).filter(|own| !own.is_empty());
    let own = of_phone.or_else(|| tenant.map(|tenant| &tenant.digest)).into_iter().flatten();
    let own = own.filter_map(|name| Algorithm::parse(name.as_bytes()));
    let mut offered: ArrayVec<_, ALGORITHMS_MAX> = own.take(ALGORITHMS_MAX).collect();
    if offered.is_empty() {
        offered.extend(shared.settings.digest.iter().copied().take(ALGORITHMS_MAX));
    }
    offered
}

/// The realm that a sender with this host is challenged for; a domain that is nobody's is challenged as if it were a tenant's.
fn realm_of(host: Option<Host<'_>>, tenant: Option<&Tenant>) -> String {
    match tenant {
        Some(tenant) => directory::realm(tenant).to_owned(),
        None => host.map(|host| directory::bare_domain(&host.to_string()).to_ascii_lowercase()).unwrap_or_default(),
    }
}

/// The text of a quoted string: RFC 3261 §25.1 quoted-pair read.
fn without_escapes(quoted: &[u8]) -> Cow<'_, str> {
    if !quoted.contains(&b'\\') {
        return String::from_utf8_lossy(quoted);
    }
    let mut bytes = Vec::with_capacity(quoted.len());
    let mut is_escaped = false;
    for byte in quoted {
        if *byte == b'\\' && !is_escaped {
            is_escaped = true;
            continue;
        }
        is_escaped = false;
        bytes.push(*byte);
    }
    Cow::Owned(String::from_utf8_lossy(&bytes).into_owned())
}
