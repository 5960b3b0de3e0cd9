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
use crate::machine::registrar::Registrar;
use crate::machine::registrar::on_grid;
use crate::machine::registrar::registered::Registered;

/// First byte of a record: how it is written.
const FORMAT: u8 = 3;
/// Formats before, each without the last fields: what stands for those in the record of a phone that had none.
const FORMATS_BEFORE: [(u8, &[u8]); 2] = [(2, &[NO_LOOK]), (1, &[NO_CREDENTIAL, NO_LOOK])];
const NO_LOOK: u8 = 0;
const NO_CREDENTIAL: u8 = 0;
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
        if phone.bindings.is_empty() || self.indexes.len() >= BINDINGS_PER_SHARD_MAX as usize {
            return;
        }
        let key = self.phone_key(&phone.tenant, &phone.user);
        phone.nonces.distrust(self.nonces_from);
        for binding in &mut phone.bindings {
            binding.id = self.indexes.take_id();
            binding.expires = on_grid(now.instant + binding.expires_unix.since(now.unix));
            self.indexes.add(key, binding);
        }
        phone.look = None;
        self.indexes.look_later(key, &mut phone, now);
        self.phones.insert(key, Box::new(phone));
    }
}

impl Registered {
    /// The record of a phone as it is.
    pub(super) fn push_stored(&mut self, out: &mut Outbox) {
        let key = key_of(&self.tenant, &self.user);
        let outlives = self.bindings.iter().any(|binding| !binding.flow.is_reliable());
        if !outlives {
            if std::mem::take(&mut self.is_stored) {
                out.push(Output::Store(Stored::Remove { key }));
            }
            return;
        }
        self.is_stored = true;
        if let Ok(value) = postcard::to_extend(&*self, record_begin()) {
            out.push(Output::Store(Stored::Put { key, value }));
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
    let (format, record) = value.split_first()?;
    if *format == FORMAT {
        return postcard::from_bytes(record).ok();
    }
    let (_, missing) = FORMATS_BEFORE.iter().find(|(before, _)| before == format)?;
    postcard::from_bytes(&[record, missing].concat()).ok()
}
