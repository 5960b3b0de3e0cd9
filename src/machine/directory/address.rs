//! Who an address means: a tenant by its domain, or the default tenant by an address of ours (docs: who is who).

use std::borrow::Cow;
use std::net::IpAddr;

use crate::machine::Shared;
use crate::machine::directory::bare_domain;
use crate::machine::settings::Settings;
use crate::wire::link::Phone;
use crate::wire::link::Tenant;
use crate::wire::sip::Host;
use crate::wire::sip::SipUri;
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

/// From (REGISTER: To) must be the authenticated phone's own.
pub fn is_own(shared: Shared<'_>, phone: &Phone, address: SipUri<'_>) -> bool {
    let user_is_own = address.user.is_some_and(|user| uri::unescaped(user).eq(phone.user.bytes()));
    user_is_own && tenant_of_host(shared, address.host).is_some_and(|tenant| tenant.name == phone.tenant)
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
