//! Whose address of record a URI names, and whom an authenticated caller reaches by a Request-URI.

use crate::machine::Shared;
use crate::machine::call::input::Destination;
use crate::machine::call::recording::Wanted;
use crate::machine::directory::address::is_ours;
use crate::machine::directory::address::tenant_of_host;
use crate::machine::directory::address::user_text;
use crate::machine::media::announcement::Sound;
use crate::machine::outbox::Aor;
use crate::wire::link::Announce;
use crate::wire::link::Phone;
use crate::wire::link::Record;
use crate::wire::link::Tenant;
use crate::wire::sip::Message;
use crate::wire::sip::Uri;

/// The address of record that a URI names, known or not; `None` where its domain is nobody's.
pub(super) fn aor_of(uri: Uri<'_>, shared: Shared<'_>) -> Option<Aor> {
    let tenant = tenant_of_host(shared, uri.host()?)?;
    Some(Aor { tenant: tenant.name.clone(), user: user_text(uri.user()?).into_owned() })
}

/// The address of record that a REGISTER is about, known or not.
pub(super) fn registered(request: &Message<'_>, shared: Shared<'_>) -> Option<Aor> {
    aor_of(request.sender_uri().ok()?, shared)
}

/// Whom a caller reaches.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Called {
    /// The phones of an extension or number of the caller's tenant.
    Phones(Vec<Aor>),
    /// The extension is nobody's, or the domain is not ours: 404.
    Nobody,
    /// Another tenant: a call from outside, which no route allows: 403.
    Elsewhere,
}

/// Reads the Request-URI for an authenticated caller.
pub(super) fn called(uri: Uri<'_>, caller: &Phone, shared: Shared<'_>) -> Called {
    let Some(user) = uri.user().map(user_text) else { return Called::Nobody };
    let Some(host) = uri.host() else { return by_number(&user, caller, shared) };
    // An address of ours is an extension of the caller's tenant, whoever the default tenant is.
    if is_ours(shared.settings, host) {
        return by_extension(&user, caller, shared);
    }
    match tenant_of_host(shared, host) {
        Some(tenant) if tenant.name == caller.tenant => by_extension(&user, caller, shared),
        Some(_) => Called::Elsewhere,
        None => Called::Nobody,
    }
}

fn by_extension(user: &str, caller: &Phone, shared: Shared<'_>) -> Called {
    let phones: Vec<_> = shared.directory.phones_of_extension(&caller.tenant, user).map(aor).collect();
    if phones.is_empty() { by_number(user, caller, shared) } else { Called::Phones(phones) }
}

/// RFC 3966 §3: visual separators are not part of a number.
fn by_number(text: &str, caller: &Phone, shared: Shared<'_>) -> Called {
    let number: String = text.chars().filter(|c| !matches!(c, '-' | '.' | '(' | ')')).collect();
    let mut phones = shared.directory.phones_of_number(&number).peekable();
    if phones.peek().is_none() {
        return Called::Nobody;
    }
    let own: Vec<_> = phones.filter(|phone| phone.tenant == caller.tenant).map(aor).collect();
    if own.is_empty() { Called::Elsewhere } else { Called::Phones(own) }
}

/// Who of caller, tenant and called phones wants the call recorded.
pub(super) fn recorded(caller: &Phone, tenant: &Tenant, destination: &Destination, shared: Shared<'_>) -> Wanted {
    let Destination::Phones(aors) = destination else { return Wanted::default() };
    let phones = aors.iter().filter_map(|aor| shared.directory.phone(&aor.tenant, &aor.user));
    Wanted {
        tenant: tenant.record,
        caller: caller.record,
        announce: match tenant.announce {
            Announce::None => None,
            Announce::Tone => Some(Sound::Tone),
            Announce::File { .. } => Some(Sound::File),
        },
        callees: phones
            .filter(|phone| phone.record != Record::Never)
            .map(|phone| (phone.user.clone(), phone.record))
            .collect(),
    }
}

/// A tenant's own announcement, in µ-law; empty where it has none.
pub(super) fn announcement<'a>(tenant: &str, shared: Shared<'a>) -> &'a [u8] {
    match shared.directory.tenant(tenant).map(|tenant| &tenant.announce) {
        Some(Announce::File { audio }) => audio,
        _ => &[],
    }
}

fn aor(phone: &Phone) -> Aor {
    Aor { tenant: phone.tenant.clone(), user: phone.user.clone() }
}
