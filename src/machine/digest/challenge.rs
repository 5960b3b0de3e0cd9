//! The 401: one WWW-Authenticate per algorithm (RFC 8760 §2.1), one nonce, stateless down to its To tag.
//!
//! One packet for one, and at most three times its bytes: nobody gains by having us answer a forged source.

use std::net::SocketAddr;

use arrayvec::ArrayString;

use crate::base::hex::hex64;
use crate::base::time::UnixTime;
use crate::machine::Shared;
use crate::machine::digest::Named;
use crate::machine::digest::fallback::Offer;
use crate::machine::digest::offered;
use crate::machine::digest::realm_of;
use crate::machine::directory;
use crate::machine::directory::address::sender_host;
use crate::machine::directory::address::sender_tenant;
use crate::machine::directory::address::user_of;
use crate::machine::nonce;
use crate::machine::settings::Algorithm;
use crate::wire::link::Phone;
use crate::wire::sip::HeaderId;
use crate::wire::sip::Message;
use crate::wire::sip::Status;
use crate::wire::sip::write;

/// An answer to somebody who has proved nothing has at most so many times the bytes of the request.
pub const AMPLIFICATION_MAX: usize = 3;

/// The 401 for a request; `salt` should not repeat within a second. `None` where even one algorithm is too much to answer.
pub fn challenge(
    request: &Message<'_>,
    source: SocketAddr,
    is_stale: bool,
    now: UnixTime,
    salt: u32,
    offer: Offer,
    shared: Shared<'_>,
) -> Option<Vec<u8>> {
    let host = sender_host(request);
    let tenant = sender_tenant(shared, host);
    let phone = tenant.and_then(|tenant| {
        let user = user_of(shared, tenant, request.sender_uri().ok()?.sip()?)?;
        shared.directory.phone(&tenant.name, &user)
    });
    let named = Named { phone, tenant };
    challenge_as(request, &realm_of(host, tenant), named, source, is_stale, now, salt, offer, shared)
}

/// The 401 for a request that only this phone may send.
pub fn challenge_phone(
    request: &Message<'_>,
    phone: &Phone,
    source: SocketAddr,
    is_stale: bool,
    now: UnixTime,
    salt: u32,
    shared: Shared<'_>,
) -> Option<Vec<u8>> {
    let tenant = shared.directory.tenant(&phone.tenant)?;
    let named = Named { phone: Some(phone), tenant: Some(tenant) };
    challenge_as(request, directory::realm(tenant), named, source, is_stale, now, salt, Offer::All, shared)
}

#[expect(clippy::too_many_arguments, reason = "a request, whom it is challenged as, and what every machine is given")]
fn challenge_as(
    request: &Message<'_>,
    realm: &str,
    Named { phone, tenant }: Named<'_>,
    source: SocketAddr,
    is_stale: bool,
    now: UnixTime,
    salt: u32,
    offer: Offer,
    shared: Shared<'_>,
) -> Option<Vec<u8>> {
    let nonce = nonce::emit(&shared.settings.secrets.nonce, realm, source.ip(), now, salt);
    let realm = quoted(realm);
    let tag = tag(request, shared);
    let bytes_max = request.bytes().len() * AMPLIFICATION_MAX;
    let mut algorithms = offered(phone, tenant, shared);
    if offer == Offer::Md5Alone && algorithms.contains(&Algorithm::Md5) {
        algorithms.retain(|algorithm| *algorithm == Algorithm::Md5);
    }
    (1..=algorithms.len()).rev().find_map(|offers| {
        let mut out = Vec::with_capacity(request.bytes().len() + 160 * offers);
        let mut writer = write::response(&mut out, request, Status::UNAUTHORIZED, "", Some(&tag), source);
        for algorithm in algorithms.iter().take(offers) {
            writer.parts(HeaderId::WwwAuthenticate, &parts(*algorithm, &realm, &nonce, is_stale));
        }
        writer.finish();
        (out.len() <= bytes_max).then_some(out)
    })
}

fn parts<'a>(algorithm: Algorithm, realm: &'a str, nonce: &'a [u8], is_stale: bool) -> [&'a [u8]; 7] {
    let stale: &[u8] = if is_stale { b", stale=true" } else { b"" };
    [
        b"Digest realm=\"",
        realm.as_bytes(),
        b"\", nonce=\"",
        nonce,
        // RFC 7616 §3.3: `qop` is quoted in a challenge, `algorithm` and `stale` are not.
        match algorithm {
            Algorithm::Md5 => b"\", algorithm=MD5",
            Algorithm::Sha256 => b"\", algorithm=SHA-256",
            Algorithm::Sha512_256 => b"\", algorithm=SHA-512-256",
        },
        b", qop=\"auth\"",
        stale,
    ]
}

/// RFC 3261 §8.2.7: a stateless server gives every retransmission the same tag.
fn tag(request: &Message<'_>, shared: Shared<'_>) -> ArrayString<16> {
    let branch = request.top_via().ok().and_then(|via| via.branch()).unwrap_or_default();
    let from = request.header(HeaderId::From).unwrap_or_default();
    let cseq = request.header(HeaderId::CSeq).unwrap_or_default();
    hex64(shared.settings.secrets.hash.hash(&[b"401", branch, from, request.call_id(), cseq]))
}

fn quoted(realm: &str) -> String {
    let mut text = String::with_capacity(realm.len());
    for letter in realm.chars() {
        if matches!(letter, '"' | '\\') {
            text.push('\\');
        }
        text.push(letter);
    }
    text
}
