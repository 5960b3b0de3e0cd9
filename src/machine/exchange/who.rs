//! Whose address of record a URI names, and whom an authenticated caller reaches by a Request-URI.

use arrayvec::ArrayVec;

use crate::machine::Shared;
use crate::machine::call::input::Destination;
use crate::machine::call::input::SymmetricMedia;
use crate::machine::call::recording::Wanted;
use crate::machine::directory::address::is_ours;
use crate::machine::directory::address::tenant_of_host;
use crate::machine::directory::address::user_of;
use crate::machine::directory::address::user_text;
use crate::machine::media::announcement::Sound;
use crate::machine::outbox::Aor;
use crate::wire::link::Announce;
use crate::wire::link::Phone;
use crate::wire::link::Record;
use crate::wire::link::Symmetric;
use crate::wire::link::Tenant;
use crate::wire::sip::Host;
use crate::wire::sip::Message;
use crate::wire::sip::Subscriber;
use crate::wire::sip::Uri;

/// The address of record that a URI names, known or not; `None` where its domain is nobody's.
pub(super) fn aor_of(uri: Uri<'_>, shared: Shared<'_>) -> Option<Aor> {
    let tenant = tenant_of_host(shared, uri.host()?)?;
    Some(Aor { tenant: tenant.name.clone(), user: user_of(shared, tenant, uri.sip()?)?.into_owned() })
}

/// The address of record that a request is from (REGISTER: about), known or not.
pub(super) fn sender(request: &Message<'_>, shared: Shared<'_>) -> Option<Aor> {
    aor_of(request.sender_uri().ok()?, shared)
}

/// Whom a caller reaches.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Called {
    /// The phones of an extension or number of the caller's tenant.
    Phones(Vec<Aor>),
    /// The extension is nobody's, or the domain is not the caller's tenant's: 404. What another tenant has looks the same.
    Nobody,
}

/// What an authenticated caller dialled, as records have it, and whom it reaches by that.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Dialled {
    pub(super) number: String,
    pub(super) called: Called,
}

/// Reads the Request-URI.
pub(super) fn dialled(uri: Uri<'_>, caller: &Phone, shared: Shared<'_>) -> Dialled {
    let subscriber = uri.subscriber();
    let forms = forms(uri, subscriber.as_ref());
    let context = subscriber.as_ref().and_then(|subscriber| subscriber.context.as_deref());
    let is_near = uri.host().is_none_or(|host| is_of_caller(host, caller, shared));
    let is_in_scope = context
        .filter(|context| !context.starts_with('+'))
        .is_none_or(|domain| Host::parse(domain.as_bytes()).is_ok_and(|domain| is_of_caller(domain, caller, shared)));
    let reached = |number: &String| match by_extension(number, caller, shared) {
        Called::Phones(_) if !(is_near && is_in_scope) => None,
        Called::Nobody => None,
        called => Some(Dialled { number: number.clone(), called }),
    };
    let first = || Dialled { number: forms.first().cloned().unwrap_or_default(), called: Called::Nobody };
    forms.iter().find_map(reached).unwrap_or_else(first)
}

/// What the user of a URI may mean, the likeliest first: a number where the URI says so, else what is written; RFC 3261 §19.1.4: escaped
/// or not is one.
fn forms(uri: Uri<'_>, subscriber: Option<&Subscriber<'_>>) -> ArrayVec<String, 3> {
    let mut forms = ArrayVec::new();
    let literal = uri.sip().and_then(|uri| uri.user).map(|user| user_text(user).into_owned());
    let Some(subscriber) = subscriber else {
        forms.extend(literal);
        return forms;
    };
    // RFC 3966 §5.1.5: the context "defines the scope within which the number is valid": the numbers that begin with it.
    if let Some(prefix) = subscriber.context.as_deref().filter(|context| context.starts_with('+')) {
        let prefix = prefix.chars().filter(|letter| !matches!(letter, '-' | '.' | '(' | ')'));
        forms.push(prefix.chain(subscriber.number.chars()).collect());
    }
    let (number, literal) = (subscriber.number.clone(), literal.filter(|literal| *literal != subscriber.number));
    if subscriber.is_said || subscriber.context.is_some() {
        forms.push(number);
        forms.extend(literal);
    } else {
        forms.extend(literal);
        forms.push(number);
    }
    forms
}

/// An address of ours is the caller's own tenant's, whoever the default tenant is.
fn is_of_caller(host: Host<'_>, caller: &Phone, shared: Shared<'_>) -> bool {
    is_ours(shared.settings, host) || tenant_of_host(shared, host).is_some_and(|tenant| tenant.name == caller.tenant)
}

fn by_extension(user: &str, caller: &Phone, shared: Shared<'_>) -> Called {
    let phones: Vec<_> = shared.directory.phones_of_extension(&caller.tenant, user).map(aor).collect();
    if phones.is_empty() { by_number(user, caller, shared) } else { Called::Phones(phones) }
}

fn by_number(number: &str, caller: &Phone, shared: Shared<'_>) -> Called {
    let phones = shared.directory.phones_of_number(number).filter(|phone| phone.tenant == caller.tenant);
    let own: Vec<_> = phones.map(aor).collect();
    if own.is_empty() { Called::Nobody } else { Called::Phones(own) }
}

/// Who of caller, tenant and called phones wants the call recorded.
pub(super) fn recorded(caller: &Phone, tenant: &Tenant, destination: &Destination, shared: Shared<'_>) -> Wanted {
    let Destination::Phones(aors) = destination else { return Wanted::default() };
    let phones = aors.iter().filter_map(|aor| shared.directory.phone(&aor.tenant, &aor.user));
    Wanted {
        tenant: tenant.record,
        caller: caller.record,
        codecs: tenant.record_codecs,
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

/// Where media of caller and called phones goes.
pub(super) fn symmetric(caller: &Phone, destination: &Destination, shared: Shared<'_>) -> SymmetricMedia {
    let aors = match destination {
        Destination::Phones(aors) => aors.as_slice(),
        Destination::Refused { .. } => &[],
    };
    let phones = aors.iter().filter_map(|aor| shared.directory.phone(&aor.tenant, &aor.user));
    let said = phones.filter(|phone| phone.symmetric != Symmetric::Auto);
    SymmetricMedia {
        caller: caller.symmetric,
        callees: said.map(|phone| (phone.user.clone(), phone.symmetric)).collect(),
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine::fixture::World;
    use crate::machine::fixture::phone;
    use crate::machine::fixture::tenant;
    use crate::wire::link::DirectoryPart;

    /// Tenant `acme` with an extension of each kind, and `globex`.
    fn world() -> World {
        let mut world = World::new(1);
        let mut phones = ["*21", "*21#", "+49309", "sales-1", "7042"].map(|user| phone("acme", user)).to_vec();
        phones.push(Phone { numbers: vec!["+49301000".into()], ..phone("acme", "1001") });
        phones.push(Phone { numbers: vec!["+49302000".into()], ..phone("globex", "2000") });
        let part = DirectoryPart { tenants: vec![tenant("globex")], phones, ..DirectoryPart::default() };
        world.directory.apply(2, part);
        world
    }

    #[test]
    fn one_number_has_many_forms() {
        let world = world();
        let caller = world.directory.phone("acme", "1000").unwrap();
        let called = |user: &str| Called::Phones(vec![Aor { tenant: "acme".into(), user: user.into() }]);
        for (uri, number, expected) in [
            ("sip:%2A21@acme.test", "*21", called("*21")),
            ("sip:*21@acme.test", "*21", called("*21")),
            ("sip:%2a21%23@acme.test", "*21#", called("*21#")),
            ("sip:*21#@acme.test", "*21#", called("*21#")),
            ("sip:%31001@acme.test", "1001", called("1001")),
            ("sips:1001@acme.test", "1001", called("1001")),
            ("sip:10-01@acme.test", "1001", called("1001")),
            ("sip:10-01@acme.test;user=phone", "1001", called("1001")),
            ("sip:1001;isub=1234@acme.test;user=phone", "1001", called("1001")),
            ("sip:1001;ext=5@acme.test", "1001", called("1001")),
            ("sip:sales-1@acme.test;user=phone", "sales-1", called("sales-1")),
            ("sip:+49-30-(1000)@acme.test;user=phone", "+49301000", called("1001")),
            ("sip:%2B49301000@192.0.2.250", "+49301000", called("1001")),
            ("sip:+49301000;phone-context=+1@acme.test", "+49301000", called("1001")),
            ("sip:+49.309@acme.test", "+49309", called("+49309")),
            ("tel:+49-30-1000", "+49301000", called("1001")),
            ("tel:1001", "1001", called("1001")),
            ("tel:%2A21%23;phone-context=acme.test", "*21#", called("*21#")),
            // Local numbers with a context: a prefix, the own domain, an address of ours, others'.
            ("tel:1000;phone-context=+49-30", "+49301000", called("1001")),
            ("sip:1000;phone-context=%2B4930@acme.test;user=phone", "+49301000", called("1001")),
            ("tel:7042;phone-context=+4930", "7042", called("7042")),
            ("tel:7042;phone-context=ACME.test.", "7042", called("7042")),
            ("tel:7042;phone-context=192.0.2.250", "7042", called("7042")),
            ("tel:7042;phone-context=globex.test", "7042", Called::Nobody),
            ("tel:7042;phone-context=nobody.test", "7042", Called::Nobody),
            ("sip:7042;phone-context=nobody.test@acme.test;user=phone", "7042", Called::Nobody),
            ("tel:7042;phone-context=a/b", "7042", Called::Nobody),
            ("tel:+49302000", "+49302000", Called::Nobody),
            ("sip:2000@globex.test", "2000", Called::Nobody),
            ("sip:1001@nobody.test", "1001", Called::Nobody),
            ("sip:99-99@acme.test;user=phone", "9999", Called::Nobody),
            ("sip:al%C3%A4@acme.test", "alä", Called::Nobody),
            ("sip:acme.test", "", Called::Nobody),
        ] {
            let dialled = dialled(Uri::parse(uri.as_bytes()).unwrap(), caller, world.shared());
            assert_eq!((dialled.number.as_str(), dialled.called), (number, expected), "{uri}");
        }
    }

    #[test]
    fn an_address_of_record_is_that_of_its_phone_in_any_form() {
        let world = world();
        for (uri, user) in [
            ("sip:%31001@acme.test", "1001"),
            ("sip:10-01@acme.test;user=phone", "1001"),
            ("sip:%2B49-309@acme.test", "+49309"),
            ("sip:sales-1@acme.test", "sales-1"),
            ("sip:99-99@acme.test", "99-99"),
        ] {
            let aor = aor_of(Uri::parse(uri.as_bytes()).unwrap(), world.shared()).unwrap();
            assert_eq!(aor.user, user, "{uri}");
        }
    }
}
