//! Digest nonces that need no table: a time and a salt, and a MAC that ties them to realm and source address.
//!
//! Whoever returns one has received at its own address what we sent there. How often a nonce was used is not known here:
//! [`NonceUses`] keeps the counts of one phone, and only after its first success (RFC 7616 §3.4, `nc`).

use std::net::IpAddr;
use std::time::Duration;

use hmac::Hmac;
use hmac::KeyInit;
use hmac::Mac;
use serde::Deserialize;
use serde::Serialize;
use sha2::Sha256;
use subtle::ConstantTimeEq;

use crate::base::time::UnixTime;

/// Letters of a nonce on the wire.
pub const NONCE_LEN: usize = 32;
/// A nonce that no phone has used yet is good for so long.
pub const FIRST_USE: Duration = Duration::from_secs(300);
/// A nonce in use, with rising counts, is good for so long: a phone that registers every hour is challenged twice a day.
pub const LIFETIME: Duration = Duration::from_secs(12 * 3600);
/// Another shard's or the last boot's clock may be a little ahead.
const AHEAD_MAX: Duration = Duration::from_secs(5);
/// Nonces of one phone that are counted at once.
const USED_MAX: usize = 8;

const STAMP_BYTES: usize = 8;
const MAC_BYTES: usize = 16;
const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

/// What tells one nonce of ours from another: seconds, then salt.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Stamp(u64);

impl Stamp {
    pub const fn new(at: UnixTime, salt: u32) -> Self {
        Self((at.secs() & 0xFFFF_FFFF) << 32 | salt as u64)
    }

    pub const fn issued_at(self) -> UnixTime {
        UnixTime::from_secs(self.0 >> 32)
    }
}

/// What a nonce that came back is worth.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Validity {
    /// Ours, for this source; younger than [`FIRST_USE`].
    Fresh(Stamp),
    /// Ours, for this source, but good only where its count goes on.
    InUse(Stamp),
    /// Ours, for this source, too old for any use.
    Old,
    /// Not ours, or given to another address or realm.
    Foreign,
}

/// What tells the nonces of one second apart and keeps them in order: the microsecond, then 12 random bits. A phone that is
/// challenged for every call uses its nonces in about the order in which they were issued, and only old ones are forgotten.
pub fn salt(now: UnixTime, random: u32) -> u32 {
    let micros = (now.micros() % 1_000_000) as u32;
    micros << 12 | random & 0xFFF
}

/// The text of a new nonce.
pub fn emit(secret: &[u8; 32], realm: &str, source: IpAddr, now: UnixTime, salt: u32) -> [u8; NONCE_LEN] {
    let stamp = Stamp::new(now, salt);
    let mut bytes = [0; STAMP_BYTES + MAC_BYTES];
    let (head, tail) = bytes.split_at_mut(STAMP_BYTES);
    head.copy_from_slice(&stamp.0.to_be_bytes());
    tail.copy_from_slice(&mac(secret, realm, source, stamp));
    to_text(&bytes)
}

/// Judges the text of a nonce.
pub fn check(secret: &[u8; 32], text: &[u8], realm: &str, source: IpAddr, now: UnixTime) -> Validity {
    let Some(bytes) = from_text(text) else { return Validity::Foreign };
    let (Some((stamp, rest)), true) =
        (bytes.split_first_chunk::<STAMP_BYTES>(), bytes.len() == STAMP_BYTES + MAC_BYTES)
    else {
        return Validity::Foreign;
    };
    let stamp = Stamp(u64::from_be_bytes(*stamp));
    if !bool::from(mac(secret, realm, source, stamp).as_slice().ct_eq(rest)) {
        return Validity::Foreign;
    }
    if stamp.issued_at() > now + AHEAD_MAX {
        return Validity::Old;
    }
    match now.since(stamp.issued_at()) {
        age if age <= FIRST_USE => Validity::Fresh(stamp),
        age if age <= LIFETIME => Validity::InUse(stamp),
        _ => Validity::Old,
    }
}

fn mac(secret: &[u8; 32], realm: &str, source: IpAddr, stamp: Stamp) -> [u8; MAC_BYTES] {
    let address = match source.to_canonical() {
        IpAddr::V4(address) => address.to_ipv6_mapped(),
        IpAddr::V6(address) => address,
    };
    let mut mac = [0; MAC_BYTES];
    // A key of 32 bytes is never refused; a MAC of zeros would only make every nonce foreign.
    if let Ok(mut hmac) = Hmac::<Sha256>::new_from_slice(secret) {
        hmac.update(&stamp.0.to_be_bytes());
        hmac.update(&address.octets());
        hmac.update(realm.as_bytes());
        let full = hmac.finalize().into_bytes();
        mac.copy_from_slice(&full[..MAC_BYTES]);
    }
    mac
}

/// Base 64 of RFC 4648 §5; 24 bytes need no padding.
fn to_text(bytes: &[u8; STAMP_BYTES + MAC_BYTES]) -> [u8; NONCE_LEN] {
    let mut text = [0; NONCE_LEN];
    for (group, letters) in bytes.chunks_exact(3).zip(text.chunks_exact_mut(4)) {
        let bits = group.iter().fold(0u32, |bits, byte| bits << 8 | u32::from(*byte));
        for (index, letter) in letters.iter_mut().enumerate() {
            *letter = ALPHABET[(bits >> (18 - 6 * index)) as usize & 63];
        }
    }
    text
}

fn from_text(text: &[u8]) -> Option<[u8; STAMP_BYTES + MAC_BYTES]> {
    if text.len() != NONCE_LEN {
        return None;
    }
    let mut bytes = [0; STAMP_BYTES + MAC_BYTES];
    for (letters, group) in text.chunks_exact(4).zip(bytes.chunks_exact_mut(3)) {
        let mut bits = 0u32;
        for letter in letters {
            bits = bits << 6 | digit(*letter)?;
        }
        group.copy_from_slice(&bits.to_be_bytes()[1..]);
    }
    Some(bytes)
}

const fn digit(letter: u8) -> Option<u32> {
    let digit = match letter {
        b'A'..=b'Z' => letter - b'A',
        b'a'..=b'z' => letter - b'a' + 26,
        b'0'..=b'9' => letter - b'0' + 52,
        b'-' => 62,
        b'_' => 63,
        _ => return None,
    };
    Some(digit as u32)
}

/// The nonces one phone has used, each with its counts: what makes a replay visible.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NonceUses {
    used: Vec<Uses>,
    /// Nonces issued up to here that are not in `used` had their turn.
    floor: Option<Stamp>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Uses {
    stamp: Stamp,
    highest: u32,
    /// Bit n: the count `highest - n` was seen. Requests of one phone overtake each other.
    seen: u32,
}

/// The nonce may not be used so, or not any more: a new one with `stale=true` is the answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Replayed;

impl NonceUses {
    /// Nothing issued up to `floor` is taken: its counts are not known.
    pub fn from_stamp(floor: Option<Stamp>) -> Self {
        Self { used: Vec::new(), floor }
    }

    /// The same for counts that were known once: those in here go on, all others of that time do not.
    pub fn distrust(&mut self, floor: Option<Stamp>) {
        self.floor = self.floor.max(floor);
    }

    /// Records one use; to be called for a right response only.
    pub fn use_once(&mut self, validity: Validity, count: u32) -> Result<(), Replayed> {
        let (stamp, is_fresh) = match validity {
            Validity::Fresh(stamp) => (stamp, true),
            Validity::InUse(stamp) => (stamp, false),
            Validity::Old | Validity::Foreign => return Err(Replayed),
        };
        if count == 0 {
            return Err(Replayed);
        }
        if let Some(uses) = self.used.iter_mut().find(|uses| uses.stamp == stamp) {
            return uses.record(count);
        }
        if !is_fresh || self.floor.is_some_and(|floor| stamp <= floor) {
            return Err(Replayed);
        }
        if self.used.len() >= USED_MAX {
            self.forget_oldest();
            if self.floor.is_some_and(|floor| stamp <= floor) {
                return Err(Replayed);
            }
        }
        self.used.push(Uses { stamp, highest: count, seen: 1 });
        Ok(())
    }

    fn forget_oldest(&mut self) {
        let Some((index, oldest)) = self.used.iter().enumerate().min_by_key(|(_, uses)| uses.stamp) else { return };
        self.floor = self.floor.max(Some(oldest.stamp));
        self.used.swap_remove(index);
    }

    /// Nothing in here can matter after this.
    pub fn matter_until(&self) -> UnixTime {
        let newest = self.used.iter().map(|uses| uses.stamp).max();
        newest.map_or_else(UnixTime::default, |stamp| stamp.issued_at() + LIFETIME)
    }
}

impl Uses {
    fn record(&mut self, count: u32) -> Result<(), Replayed> {
        if count > self.highest {
            let ahead = count - self.highest;
            self.seen = self.seen.checked_shl(ahead).unwrap_or(0) | 1;
            self.highest = count;
            return Ok(());
        }
        let behind = self.highest - count;
        let bit = 1u32.checked_shl(behind).ok_or(Replayed)?;
        if self.seen & bit != 0 {
            return Err(Replayed);
        }
        self.seen |= bit;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECRET: [u8; 32] = [7; 32];
    const START: UnixTime = UnixTime::from_secs(1_800_000_000);

    fn address(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn issue(salt: u32) -> [u8; NONCE_LEN] {
        emit(&SECRET, "acme.test", address("192.0.2.1"), START, salt)
    }

    #[test]
    fn a_nonce_is_good_for_its_realm_source_and_time() {
        let nonce = issue(1);
        let check = |realm, source, at: UnixTime| check(&SECRET, &nonce, realm, address(source), at);
        let stamp = Stamp::new(START, 1);
        let fine = "192.0.2.1";
        assert_eq!(check("acme.test", fine, START), Validity::Fresh(stamp));
        assert_eq!(check("acme.test", "::ffff:192.0.2.1", START), Validity::Fresh(stamp));
        assert_eq!(check("acme.test", fine, START + FIRST_USE), Validity::Fresh(stamp));
        assert_eq!(check("acme.test", fine, START + FIRST_USE + Duration::from_secs(1)), Validity::InUse(stamp));
        assert_eq!(check("acme.test", fine, START + LIFETIME), Validity::InUse(stamp));
        assert_eq!(check("acme.test", fine, START + LIFETIME + Duration::from_secs(1)), Validity::Old);
        assert_eq!(check("acme.test", fine, UnixTime::from_secs(START.secs() - 60)), Validity::Old);
        assert_eq!(check("acme.test", "192.0.2.2", START), Validity::Foreign);
        assert_eq!(check("other.test", fine, START), Validity::Foreign);
        assert_eq!(super::check(&[8; 32], &nonce, "acme.test", address(fine), START), Validity::Foreign);
    }

    #[test]
    fn no_letter_may_change() {
        let nonce = issue(9);
        for index in 0..NONCE_LEN {
            for letter in [b'A', b'z', b'_', b'"', 0, 255] {
                let mut forged = nonce;
                forged[index] = letter;
                let validity = check(&SECRET, &forged, "acme.test", address("192.0.2.1"), START);
                assert!(forged == nonce || validity == Validity::Foreign, "{index} {letter}");
            }
        }
        for text in [&b""[..], &nonce[..31], &[nonce.as_slice(), b"A"].concat()] {
            assert_eq!(check(&SECRET, text, "acme.test", address("192.0.2.1"), START), Validity::Foreign);
        }
    }

    #[test]
    fn counts_may_overtake_but_not_repeat() {
        let mut uses = NonceUses::default();
        let fresh = Validity::Fresh(Stamp::new(START, 1));
        let in_use = Validity::InUse(Stamp::new(START, 1));
        for (validity, count, fine) in [
            (in_use, 1, false),
            (fresh, 0, false),
            (fresh, 1, true),
            (fresh, 1, false),
            (fresh, 4, true),
            (in_use, 3, true),
            (in_use, 3, false),
            (in_use, 2, true),
            (in_use, 36, true),
            (in_use, 4, false),
            (in_use, 5, true),
            (in_use, u32::MAX, true),
            (in_use, u32::MAX, false),
            (in_use, 36, false),
            (Validity::Old, 40, false),
            (Validity::Foreign, 40, false),
        ] {
            assert_eq!(uses.use_once(validity, count).is_ok(), fine, "{validity:?} {count}");
        }
    }

    #[test]
    fn a_phone_may_take_a_new_nonce_for_every_request() {
        let mut uses = NonceUses::default();
        for micros in 0..1_000 {
            let now = UnixTime::from_micros(1_800_000_000_000_000 + micros);
            let nonce = Stamp::new(now, salt(now, 0xFFFF_FFFF - 7 * micros as u32));
            assert_eq!(uses.use_once(Validity::Fresh(nonce), 1), Ok(()), "{micros}");
            assert_eq!(uses.use_once(Validity::Fresh(nonce), 1), Err(Replayed));
        }
    }

    #[test]
    fn a_forgotten_nonce_is_never_new_again() {
        let mut uses = NonceUses::default();
        let stamp = |salt| Validity::Fresh(Stamp::new(START, salt));
        for salt in 10..10 + USED_MAX as u32 {
            assert_eq!(uses.use_once(stamp(salt), 1), Ok(()));
        }
        assert_eq!(uses.use_once(stamp(30), 1), Ok(()));
        assert_eq!(uses.use_once(stamp(10), 1), Err(Replayed));
        assert_eq!(uses.use_once(stamp(10), 2), Err(Replayed));
        assert_eq!(uses.use_once(stamp(5), 1), Err(Replayed));
        assert_eq!(uses.use_once(stamp(11), 2), Ok(()));
    }

    #[test]
    fn a_boot_without_counts_takes_only_what_it_issued() {
        let mut uses = NonceUses::from_stamp(Some(Stamp::new(START, u32::MAX)));
        assert_eq!(uses.use_once(Validity::Fresh(Stamp::new(START, 3)), 1), Err(Replayed));
        let later = START + Duration::from_secs(1);
        assert_eq!(uses.use_once(Validity::Fresh(Stamp::new(later, 3)), 1), Ok(()));
    }
}
