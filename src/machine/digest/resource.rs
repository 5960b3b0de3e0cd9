//! The resource that was hashed and the one that is asked for are one: a credential for one call opens no other.
//!
//! RFC 7616 §3.4.6: "The authenticating server MUST ensure that the resource designated by the "uri" parameter is the same as the
//! resource specified in the Request-Line", and "an intermediate proxy may alter the client's Request-Line. This altered (but
//! presumably semantically equivalent) request would not result in the same digest". A proxy may put another name or address of
//! ours in place of the host, and change port, scheme and parameters; it may not change whom is called.

use std::net::Ipv6Addr;

use crate::machine::Shared;
use crate::machine::directory::address::is_ours;
use crate::machine::directory::address::tenant_of_host;
use crate::wire::sip::Host;
use crate::wire::sip::Message;
use crate::wire::sip::Method;
use crate::wire::sip::Uri;
use crate::wire::sip::uri::unescaped;

/// `hashed` is the "uri" of the credentials of `request`.
pub(super) fn is_same(hashed: &[u8], request: &Message<'_>, shared: Shared<'_>) -> bool {
    let Some(line) = request.request() else { return false };
    if hashed == line.uri {
        return true;
    }
    if names_node(hashed, shared) {
        return true;
    }
    let (Ok(hashed), Ok(asked)) = (Uri::parse(hashed), request.request_uri()) else { return false };
    // RFC 3261 §10.2: the Request-URI of a REGISTER has no user; where it has one it means nothing.
    let is_same_user = request.method() == Method::Register || same_user(hashed, asked);
    is_same_user && same_place(hashed, asked, shared)
}

/// Some clients hash the address that they send to and nobody's name, whatever they ask for (SIPp: `sip:192.0.2.1:5060`, and
/// `sip:::1:5060` without brackets).
fn names_node(hashed: &[u8], shared: Shared<'_>) -> bool {
    let of_node = |host: Host<'_>| host.ip().is_some() && is_ours(shared.settings, host);
    match Uri::parse(hashed) {
        Ok(Uri::Sip(uri)) => uri.user.is_none() && of_node(uri.host),
        Ok(Uri::Tel(_) | Uri::Other(_)) => false,
        Err(_) => unbracketed(hashed).is_some_and(|address| of_node(Host::Ipv6(address))),
    }
}

fn unbracketed(hashed: &[u8]) -> Option<Ipv6Addr> {
    let (address, _port) = std::str::from_utf8(hashed).ok()?.strip_prefix("sip:")?.rsplit_once(':')?;
    address.parse().ok()
}

fn same_user(a: Uri<'_>, b: Uri<'_>) -> bool {
    match (a.user(), b.user()) {
        (None, None) => true,
        (Some(written), Some(other)) if unescaped(written).eq(unescaped(other)) => true,
        (Some(_), Some(_)) => match (a.subscriber(), b.subscriber()) {
            (Some(a), Some(b)) => a.number == b.number && a.context == b.context,
            _ => false,
        },
        _ => false,
    }
}

/// A number without a host is ours by the server that is asked.
fn same_place(a: Uri<'_>, b: Uri<'_>, shared: Shared<'_>) -> bool {
    match (a.host(), b.host()) {
        (Some(a), Some(b)) => a.is(b) || same_owner(a, b, shared),
        (None, Some(host)) | (Some(host), None) => is_known(host, shared),
        (None, None) => true,
    }
}

/// Both are names or addresses of one tenant, or one of them is the node's own.
fn same_owner(a: Host<'_>, b: Host<'_>, shared: Shared<'_>) -> bool {
    let is_node = is_ours(shared.settings, a) || is_ours(shared.settings, b);
    match (tenant_of_host(shared, a), tenant_of_host(shared, b)) {
        (Some(a), Some(b)) if a.name == b.name => true,
        _ => is_node && is_known(a, shared) && is_known(b, shared),
    }
}

fn is_known(host: Host<'_>, shared: Shared<'_>) -> bool {
    is_ours(shared.settings, host) || tenant_of_host(shared, host).is_some()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine::fixture::World;
    use crate::machine::fixture::message;
    use crate::machine::fixture::phone;
    use crate::machine::fixture::tenant;
    use crate::machine::settings::Listener;
    use crate::wire::link::DirectoryPart;

    fn request(method: &str, uri: &str) -> String {
        format!(
            "{method} {uri} SIP/2.0\r\nVia: SIP/2.0/UDP h;branch=z9hG4bK1\r\nMax-Forwards: 1\r\nFrom: <sip:a@h>;tag=1\r\n\
             To: <sip:h>\r\nCall-ID: c\r\nCSeq: 1 {method}\r\nContent-Length: 0\r\n\r\n"
        )
    }

    #[test]
    fn a_credential_is_good_for_what_was_hashed() {
        let mut world = World::new(1);
        let v6 = Listener { local: "[2001:db8::1]:5060".parse().unwrap(), ..world.settings.listeners[0].clone() };
        world.settings.listeners.push(v6);
        let mut acme = tenant("acme");
        acme.aliases = vec!["acme.example".into()];
        let part = DirectoryPart { tenants: vec![acme, tenant("globex")], ..DirectoryPart::default() };
        world.directory.apply(2, DirectoryPart { phones: vec![phone("globex", "2000")], ..part });
        for (method, asked, hashed, expected) in [
            ("INVITE", "sip:1001@acme.test", "sip:1001@acme.test", true),
            // What a proxy may change: another name of the same place, port, scheme, parameters, escapes.
            ("INVITE", "sip:1001@192.0.2.250:5060;transport=udp", "sip:1001@acme.test", true),
            ("INVITE", "sip:1001@acme.test", "sip:1001@192.0.2.250", true),
            ("INVITE", "sip:1001@sip.example.net", "sip:1001@ACME.test", true),
            ("INVITE", "sip:1001@acme.example", "sips:1001@acme.test:5061", true),
            ("INVITE", "sip:%31001@acme.test", "sip:1001@acme.test", true),
            ("INVITE", "sip:+49301000@acme.test;user=phone", "tel:+49-30-1000", true),
            ("INVITE", "tel:+49301000", "sip:+49-30-1000@acme.test", true),
            ("INVITE", "sip:192.0.2.250", "sip:acme.test", true),
            // Clients that hash the server.
            ("INVITE", "sip:1001@acme.test", "sip:192.0.2.250:5060", true),
            ("INVITE", "sip:1001@acme.test", "sip:2001:db8::1:5060", true),
            ("INVITE", "sip:1001@acme.test", "sip:2001:db8::66:5060", false),
            ("INVITE", "sip:1001@acme.test", "sip:192.0.2.66:5060", false),
            // What makes it another call.
            ("INVITE", "sip:1002@acme.test", "sip:1001@acme.test", false),
            ("INVITE", "sip:1001@acme.test", "sip:acme.test", false),
            ("INVITE", "sip:acme.test", "sip:1001@acme.test", false),
            ("INVITE", "sip:1001@acme.test", "sip:1001@evil.test", false),
            ("INVITE", "sip:1001@acme.test", "sip:1001@203.0.113.66", false),
            ("INVITE", "sip:1001@acme.test", "sip:1001@globex.test", false),
            ("INVITE", "sip:1001@acme.test", "tel:1002", false),
            ("INVITE", "sip:+4930@acme.test", "tel:+4931", false),
            ("INVITE", "sip:1001@acme.test", "", false),
            ("INVITE", "sip:1001@acme.test", "/dir/index.html", false),
            ("INVITE", "sip:1001@acme.test", "*", false),
            // A REGISTER is for a domain.
            ("REGISTER", "sip:acme.test", "sip:1000@acme.test", true),
            ("REGISTER", "sip:192.0.2.250", "sip:acme.test", true),
            ("REGISTER", "sip:acme.test", "sip:evil.test", false),
            ("REGISTER", "sip:acme.test", "sip:globex.test", false),
        ] {
            let text = request(method, asked);
            let same = is_same(hashed.as_bytes(), &message(&text), world.shared());
            assert_eq!(same, expected, "{method} {asked}, hashed {hashed:?}");
        }
    }
}
