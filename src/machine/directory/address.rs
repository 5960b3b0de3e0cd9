//! Who an address means: a tenant by its domain, or the default tenant by an address of ours (docs: who is who).

use std::borrow::Cow;
use std::net::IpAddr;

use crate::machine::Shared;
use crate::machine::directory::bare_domain;
use crate::machine::settings::Settings;
use crate::wire::link::Phone;
use crate::wire::link::Tenant;
use crate::wire::sip::Host;
use crate::wire::sip::Message;
use crate::wire::sip::Method;
use crate::wire::sip::SipUri;
use crate::wire::sip::Uri;
use crate::wire::sip::uri;

/// The tenant that a From, To or Request-URI with this host belongs to.
pub fn tenant_of_host<'a>(shared: Shared<'a>, host: Host<'_>) -> Option<&'a Tenant> {
    let of_domain = match host {
        Host::Name(name) => std::str::from_utf8(name).ok().and_then(|name| shared.directory.tenant_of_domain(name)),
        Host::Ipv4(_) | Host::Ipv6(_) => shared.directory.tenant_of_domain(&host.to_string()),
    };
    of_domain.or_else(|| shared.directory.default_tenant().filter(|_| is_ours(shared.settings, host)))
}

/// A local address, or a name that we are advertised under. Where we listen on all addresses any literal one is taken for ours.
pub fn is_ours(settings: &Settings, host: Host<'_>) -> bool {
    let advertised = |advertise: &str| Host::parse(bare_domain(advertise).as_bytes()).is_ok_and(|own| own.is(host));
    settings.listeners.iter().any(|listener| {
        let local = listener.local.ip();
        let is_local = host.ip().is_some_and(|ip| ip == local || local.is_unspecified() && same_family(ip, local));
        is_local || listener.advertise.as_deref().is_some_and(advertised)
    })
}

fn same_family(a: IpAddr, b: IpAddr) -> bool {
    a.is_ipv4() == b.is_ipv4()
}

/// RFC 3323 §4.1.1.3: the From of who does not want to be known, `anonymous@anonymous.invalid`, or of its own domain where that has to
/// authenticate it.
pub fn is_anonymous(from: Uri<'_>) -> bool {
    let is_user = from.sip().and_then(|uri| uri.user).is_some_and(|user| user.eq_ignore_ascii_case(b"anonymous"));
    is_user || names_nobody(from)
}

/// Not even the domain is its sender's.
fn names_nobody(from: Uri<'_>) -> bool {
    from.host().is_some_and(|host| host.is_named("anonymous.invalid"))
}

/// The host whose tenant a request is challenged for: of From (REGISTER: To), or, where that tells nothing, of the Request-URI.
pub fn sender_host<'m>(request: &Message<'m>) -> Option<Host<'m>> {
    let sender = request.sender_uri().ok()?;
    if request.method() == Method::Register || !names_nobody(sender) && sender.host().is_some() {
        return sender.host();
    }
    request.request_uri().ok()?.host()
}

/// The tenant of [`sender_host`]; a number without a domain is the default tenant's.
pub fn sender_tenant<'a>(shared: Shared<'a>, host: Option<Host<'_>>) -> Option<&'a Tenant> {
    match host {
        Some(host) => tenant_of_host(shared, host),
        None => shared.directory.default_tenant(),
    }
}

/// A request may say that it is from this phone: From (REGISTER: To) is its own address, its own number alone, or nobody's.
pub fn speaks_for(shared: Shared<'_>, phone: &Phone, request: &Message<'_>) -> bool {
    let Ok(sender) = request.sender_uri() else { return false };
    let may_hide = request.method() != Method::Register && is_anonymous(sender);
    match sender {
        Uri::Sip(uri) if is_own(shared, phone, uri) => true,
        Uri::Sip(_) if may_hide && names_nobody(sender) => true,
        // Where a phone has that name it is nobody else's.
        Uri::Sip(uri) if may_hide => {
            let tenant = tenant_of_host(shared, uri.host).filter(|tenant| tenant.name == phone.tenant);
            tenant.is_some_and(|tenant| {
                user_of(shared, tenant, uri).is_some_and(|user| shared.directory.phone(&tenant.name, &user).is_none())
            })
        }
        Uri::Tel(_) => sender
            .subscriber()
            .is_some_and(|subscriber| subscriber.number == phone.user || phone.numbers.contains(&subscriber.number)),
        Uri::Sip(_) | Uri::Other(_) => false,
    }
}

/// From (REGISTER: To) must be the authenticated phone's own.
fn is_own(shared: Shared<'_>, phone: &Phone, address: SipUri<'_>) -> bool {
    let names_it = |user| uri::unescaped(user).eq(phone.user.bytes());
    let user_is_own = address.user.is_some_and(names_it)
        || address.subscriber().is_some_and(|subscriber| subscriber.number == phone.user);
    user_is_own && tenant_of_host(shared, address.host).is_some_and(|tenant| tenant.name == phone.tenant)
}

/// The user of a tenant's address: as it is written, or as the number that it is, whichever a phone has.
pub fn user_of<'m>(shared: Shared<'_>, tenant: &Tenant, address: SipUri<'m>) -> Option<Cow<'m, str>> {
    let literal = user_text(address.user?);
    // Nearly every user is the same in both forms.
    if literal.bytes().all(|byte| byte.is_ascii_alphanumeric())
        || shared.directory.phone(&tenant.name, &literal).is_some()
    {
        return Some(literal);
    }
    let number = address.subscriber().map(|subscriber| subscriber.number);
    Some(number.filter(|number| shared.directory.phone(&tenant.name, number).is_some()).map_or(literal, Cow::Owned))
}

/// The user part as text, without escapes.
pub fn user_text(user: &[u8]) -> Cow<'_, str> {
    if user.contains(&b'%') {
        let mut bytes = Vec::with_capacity(user.len());
        uri::unescape_into(user, &mut bytes);
        return Cow::Owned(String::from_utf8_lossy(&bytes).into_owned());
    }
    String::from_utf8_lossy(user)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine::fixture::World;
    use crate::machine::fixture::phone;
    use crate::machine::fixture::tenant;
    use crate::wire::link::DirectoryPart;

    fn world(tenants: &[&str]) -> World {
        let mut world = World::new(0);
        let part = DirectoryPart {
            tenants: tenants.iter().map(|name| tenant(name)).collect(),
            phones: tenants.iter().map(|name| phone(name, "10%1")).collect(),
            tenants_removed: vec!["acme".into()],
            ..DirectoryPart::default()
        };
        world.directory.apply(2, part);
        world
    }

    #[test]
    fn who_an_address_means() {
        let (one, two) = (world(&["acme"]), world(&["acme", "globex"]));
        for (host, of_one, of_two) in [
            ("acme.test", Some("acme"), Some("acme")),
            ("ACME.TEST.", Some("acme"), Some("acme")),
            ("globex.test", None, Some("globex")),
            ("192.0.2.250", Some("acme"), None),
            ("SIP.example.net", Some("acme"), None),
            ("192.0.2.251", None, None),
            ("[2001:db8::1]", None, None),
            ("nobody.test", None, None),
        ] {
            let name = |world: &World| {
                let host = Host::parse(host.as_bytes()).unwrap();
                tenant_of_host(world.shared(), host).map(|tenant| tenant.name.clone())
            };
            assert_eq!((name(&one).as_deref(), name(&two).as_deref()), (of_one, of_two), "{host}");
        }
    }

    #[test]
    fn a_wildcard_listener_owns_every_address_of_its_family() {
        let mut world = world(&["acme"]);
        world.settings.listeners[0].local = "0.0.0.0:5060".parse().unwrap();
        let is_ours = |host: &str| is_ours(&world.settings, Host::parse(host.as_bytes()).unwrap());
        assert!(is_ours("203.0.113.9"));
        assert!(!is_ours("[2001:db8::1]"));
        assert!(!is_ours("acme.test"));
    }

    #[test]
    fn a_phone_speaks_for_itself_only() {
        let world = world(&["acme", "globex"]);
        let own = world.directory.phone("acme", "10%1").unwrap();
        for (uri, expected) in [
            ("sip:10%251@acme.test", true),
            ("sips:10%251@Acme.test:5061;x=y", true),
            ("sip:10%251@globex.test", false),
            ("sip:1001@acme.test", false),
            ("sip:acme.test", false),
            ("sip:10%251@192.0.2.250", false),
            ("sip:10%251;x=y@acme.test", false),
        ] {
            let uri_of = Uri::parse(uri.as_bytes()).unwrap().sip().unwrap();
            assert_eq!(is_own(world.shared(), own, uri_of), expected, "{uri}");
        }
        let number = phone("acme", "+4930");
        for (uri, expected) in [
            ("sip:+4930@acme.test", true),
            ("sip:%2b49%330@acme.test", true),
            ("sip:+49-30@acme.test;user=phone", true),
            ("sip:+49-30;isub=1@acme.test", true),
            ("sip:4930@acme.test;user=phone", false),
        ] {
            let uri_of = Uri::parse(uri.as_bytes()).unwrap().sip().unwrap();
            assert_eq!(is_own(world.shared(), &number, uri_of), expected, "{uri}");
        }
        assert_eq!(user_text(b"10%251"), "10%1");
        assert_eq!(user_text(b"1001"), "1001");
    }
}
