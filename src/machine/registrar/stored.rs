//! What of the registrar outlives the engine: one record per phone, and the way back.
//!
//! Over a restart of the service or of the machine UDP flows go on, connections do not. Times are of the calendar there:
//! the monotonic clock may have begun anew.

use crate::base::hash::HashKey;
use crate::base::limit::BINDINGS_PER_AOR_MAX;
use crate::base::limit::BINDINGS_PER_SHARD_MAX;
use crate::base::time::Now;
use crate::base::time::UnixTime;
use crate::machine::nonce::Stamp;
use crate::machine::outbox::Aor;
use crate::machine::outbox::Outbox;
use crate::machine::outbox::Output;
use crate::machine::outbox::Stored;
use crate::machine::registrar::Registered;
use crate::machine::registrar::Registrar;
use crate::machine::registrar::on_grid;

/// First byte of a record: how it is written.
const FORMAT: u8 = 2;
/// Without the credential at its end.
const FORMAT_BEFORE: u8 = 1;
/// A phone with one binding.
const RECORD_BYTES_USUAL: usize = 256;
/// Between tenant and user in a key; neither can hold it.
const BORDER: u8 = 0;

impl Registrar {
    /// Rebuilds from the values of all records of this shard's phones, in any order. What expired, cannot be read or has lost
    /// its connection is left out.
    pub fn restore<'a>(key: HashKey, values: impl IntoIterator<Item = &'a [u8]>, now: Now) -> Self {
        let mut registrar = Self::new(key);
        // Stamps count seconds: those of this second are taken, or nobody could register while it lasts.
        let last_second = UnixTime::from_secs(now.unix.secs().saturating_sub(1));
        registrar.nonces_from = Some(Stamp::new(last_second, u32::MAX));
        // The directory may have changed meanwhile.
        registrar.directory_changed();
        for value in values {
            if let Some(phone) = parse(value) {
                registrar.restore_phone(phone, now);
            }
        }
        registrar
    }

    fn restore_phone(&mut self, mut phone: Registered, now: Now) {
        phone.bindings.retain(|binding| binding.expires_unix > now.unix && !binding.flow.is_reliable());
        phone.bindings.truncate(BINDINGS_PER_AOR_MAX);
        if phone.bindings.is_empty() || self.bindings >= BINDINGS_PER_SHARD_MAX {
            return;
        }
        let key = self.phone_key(&phone.tenant, &phone.user);
        phone.nonces.distrust(self.nonces_from);
        for binding in &mut phone.bindings {
            binding.id = self.take_id();
            binding.expires = on_grid(now.instant + binding.expires_unix.since(now.unix));
            self.index(key, binding, true);
        }
        self.phones.insert(key, Box::new(phone));
    }

    /// The record of a phone as it is.
    pub(super) fn push_stored(&mut self, key: u64, out: &mut Outbox) {
        let Some(phone) = self.phones.get_mut(&key) else { return };
        let record = key_of(&phone.tenant, &phone.user);
        let outlives = phone.bindings.iter().any(|binding| !binding.flow.is_reliable());
        if !outlives {
            if std::mem::take(&mut phone.is_stored) {
                out.push(Output::Store(Stored::Remove { key: record }));
            }
            return;
        }
        phone.is_stored = true;
        if let Ok(value) = postcard::to_extend(phone.as_ref(), record_begin()) {
            out.push(Output::Store(Stored::Put { key: record, value }));
        }
    }
}

fn record_begin() -> Vec<u8> {
    let mut record = Vec::with_capacity(RECORD_BYTES_USUAL);
    record.push(FORMAT);
    record
}

fn key_of(tenant: &str, user: &str) -> Vec<u8> {
    [tenant.as_bytes(), &[BORDER], user.as_bytes()].concat()
}

/// Whose record it is: what names its shard.
pub fn aor_of_key(key: &[u8]) -> Option<Aor> {
    let (tenant, user) = std::str::from_utf8(key).ok()?.split_once(char::from(BORDER))?;
    Some(Aor { tenant: tenant.to_owned(), user: user.to_owned() })
}

fn parse(value: &[u8]) -> Option<Registered> {
    match value.split_first()? {
        (&FORMAT, record) => postcard::from_bytes(record).ok(),
        (&FORMAT_BEFORE, record) => postcard::from_bytes(&[record, &[0]].concat()).ok(),
        _ => None,
    }
}
