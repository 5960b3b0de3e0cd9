//! Whether two Contacts are the same binding: URI comparison of RFC 3261 §19.1.4.

use crate::wire::sip::Params;
use crate::wire::sip::SipUri;
use crate::wire::sip::Uri;
use crate::wire::sip::uri::same_user;

/// "A URI parameter of these names in one URI never matches its absence in the other": user, ttl, method, maddr; transport alike.
const MUST_MATCH: [&str; 5] = ["user", "ttl", "method", "maddr", "transport"];

pub(super) fn is_same_uri(a: &str, b: &str) -> bool {
    if a == b {
        return true;
    }
    match (Uri::parse(a.as_bytes()), Uri::parse(b.as_bytes())) {
        (Ok(Uri::Sip(a)), Ok(Uri::Sip(b))) => is_same_sip(a, b),
        _ => a.eq_ignore_ascii_case(b),
    }
}

fn is_same_sip(a: SipUri<'_>, b: SipUri<'_>) -> bool {
    // RFC 3261 §19.1.4: "A URI omitting any component with a default value will not match a URI explicitly containing that
    // component with its default value."
    a.secure == b.secure
        && is_same_part(a.user, b.user)
        && is_same_part(a.password, b.password)
        && a.host.is(b.host)
        && a.port == b.port
        && agree(a.params, b.params)
        && agree(b.params, a.params)
        && a.headers.unwrap_or_default() == b.headers.unwrap_or_default()
}

fn is_same_part(a: Option<&[u8]>, b: Option<&[u8]>) -> bool {
    match (a, b) {
        (Some(a), Some(b)) => same_user(a, b),
        (a, b) => a.is_none() && b.is_none(),
    }
}

/// What `a` says is said by `b` too, or left open where it may be.
fn agree(a: Params<'_>, b: Params<'_>) -> bool {
    a.iter().all(|param| match b.find(&String::from_utf8_lossy(param.name)) {
        Some(other) => param.value.unwrap_or_default().eq_ignore_ascii_case(other.value.unwrap_or_default()),
        None => !MUST_MATCH.iter().any(|name| param.name.eq_ignore_ascii_case(name.as_bytes())),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The pairs of RFC 3261 §19.1.4, and some of our own.
    #[test]
    fn pairs_of_rfc_3261() {
        for (a, b, same) in [
            ("sip:%61lice@atlanta.com;transport=TCP", "sip:alice@AtLanTa.CoM;Transport=tcp", true),
            ("sip:carol@chicago.com", "sip:carol@chicago.com;newparam=5", true),
            ("sip:carol@chicago.com", "sip:carol@chicago.com;security=on", true),
            ("sip:carol@chicago.com;security=off", "sip:carol@chicago.com;newparam=5", true),
            ("SIP:ALICE@AtLanTa.CoM;Transport=udp", "sip:alice@AtLanTa.CoM;Transport=UDP", false),
            ("sip:bob@biloxi.com", "sip:bob@biloxi.com:5060", false),
            ("sip:bob@biloxi.com", "sip:bob@biloxi.com;transport=udp", false),
            ("sip:bob@biloxi.com", "sip:bob@biloxi.com:6000;transport=tcp", false),
            ("sip:carol@chicago.com", "sip:carol@chicago.com?Subject=next%20meeting", false),
            ("sip:bob@phone21.boxesbybob.com", "sip:bob@192.0.2.4", false),
            ("sip:carol@chicago.com;security=on", "sip:carol@chicago.com;security=off", false),
            ("sip:a@[2001:db8::1]:5060", "sip:a@[2001:DB8:0::1]:5060", true),
            ("sip:a@h", "sips:a@h", false),
            ("sip:h", "sip:a@h", false),
            ("sip:a@h;maddr=1.2.3.4", "sip:a@h", false),
            ("tel:+1", "tel:+1", true),
            ("tel:+1", "tel:+2", false),
        ] {
            assert_eq!(is_same_uri(a, b), same, "{a} {b}");
            assert_eq!(is_same_uri(b, a), same, "{b} {a}");
        }
    }
}
