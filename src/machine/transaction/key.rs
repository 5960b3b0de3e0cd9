//! Which server transaction a request belongs to (RFC 3261 §17.2.3), as one keyed hash.

use std::net::IpAddr;

use arrayvec::ArrayVec;

use crate::base::hash::HashKey;
use crate::wire::sip::Host;
use crate::wire::sip::Message;
use crate::wire::sip::Method;
use crate::wire::sip::Via;

/// RFC 1035 §2.3.4: the longest name there is.
const HOST_BYTES_MAX: usize = 255;

/// The same for a request and its retransmissions; an ACK and a CANCEL give the key of their INVITE if `method` says so.
/// The source address is part of it: who copies a request from elsewhere neither gets its answers nor cancels it.
pub fn server_key(hash: &HashKey, message: &Message<'_>, source: IpAddr, method: Method) -> u64 {
    let name = match (method, message.request()) {
        (Method::Other, Some(request)) => request.name,
        _ => method.name().as_bytes(),
    };
    let Ok(via) = message.top_via() else { return 0 };
    let source = source_bytes(source);
    let port = via.port.unwrap_or(0).to_be_bytes();
    match via.branch().filter(|_| via.has_magic_cookie()) {
        Some(branch) => hash.hash(&[&source, name, branch, &host_bytes(via.host), &port]),
        None => old_style(hash, message, &source, name, via),
    }
}

/// IPv4 as the IPv6 socket sees it.
pub fn source_bytes(source: IpAddr) -> [u8; 16] {
    match source.to_canonical() {
        IpAddr::V4(address) => address.to_ipv6_mapped().octets(),
        IpAddr::V6(address) => address.octets(),
    }
}

/// What tells one sent-by host from another: an address, or a name without its case.
pub fn host_bytes(host: Host<'_>) -> ArrayVec<u8, HOST_BYTES_MAX> {
    match host {
        Host::Name(name) => name.iter().take(HOST_BYTES_MAX).map(u8::to_ascii_lowercase).collect(),
        Host::Ipv4(address) => address.octets().into_iter().collect(),
        Host::Ipv6(address) => address.octets().into_iter().collect(),
    }
}

/// The same for every copy of a request that reached us on several ways, whatever its branch (RFC 3261 §8.2.2.2).
pub fn merge_key(hash: &HashKey, message: &Message<'_>) -> u64 {
    let from = message.from().ok().and_then(|from| from.tag()).unwrap_or_default();
    let number = message.cseq().map_or(0, |cseq| cseq.number).to_be_bytes();
    hash.hash(&[b"merge", message.call_id(), from, &number])
}

/// RFC 3261 §17.2.3 for branches without the magic cookie: "the INVITE request matches a transaction if the Request-URI, To tag, From tag,
/// Call-ID, CSeq, and top Via header field match". The To tag is left out: the ACK's differs from the INVITE's.
fn old_style(hash: &HashKey, message: &Message<'_>, source: &[u8], name: &[u8], via: Via<'_>) -> u64 {
    let number = message.cseq().map_or(0, |cseq| cseq.number).to_be_bytes();
    let from = message.from().ok().and_then(|from| from.tag()).unwrap_or_default();
    let branch = via.branch().unwrap_or_default();
    let port = via.port.unwrap_or(0).to_be_bytes();
    hash.hash(&[source, name, b"2543", message.call_id(), &number, from, branch, &host_bytes(via.host), &port])
}
