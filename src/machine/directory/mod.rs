//! Tenants and phones as the machines look them up: read-only, one value for all shards of a node.
//!
//! The engine clones the current directory, applies a delta and swaps it in; a clone shares all buckets, and a delta
//! copies only those it touches. It is no machine's state: it travels and is stored as a [`DirectoryPart`].
//! Domains compare without case, port or final dot (docs: who is who). Calls and routes are not here.

pub mod address;
mod index;

#[cfg(test)]
mod tests;

use std::sync::Arc;

use serde::Deserialize;
use serde::Serialize;

use crate::machine::directory::index::Index;
use crate::wire::link::DirectoryPart;
use crate::wire::link::Phone;
use crate::wire::link::Tenant;

/// Tenants of one realm that are asked for a credential.
const TENANTS_PER_REALM_MAX: usize = 16;

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(from = "Snapshot", into = "Snapshot")]
pub struct Directory {
    version: u64,
    tenants: Index<Tenant>,
    phones: Index<Phone>,
    tenants_len: usize,
    phones_len: usize,
    /// The only tenant, or the one that says so.
    default: Option<Arc<Tenant>>,
}

#[derive(Serialize, Deserialize)]
struct Snapshot {
    version: u64,
    part: DirectoryPart,
}

/// What an entry is found by; part of its hash.
#[derive(Clone, Copy)]
enum By {
    TenantName = 1,
    Domain = 2,
    Realm = 3,
    User = 4,
    AuthUser = 5,
    Extension = 6,
    Number = 7,
}

impl Directory {
    pub fn new() -> Self {
        Self::default()
    }

    pub fn version(&self) -> u64 {
        self.version
    }

    pub fn tenants_len(&self) -> usize {
        self.tenants_len
    }

    pub fn phones_len(&self) -> usize {
        self.phones_len
    }

    pub fn tenant(&self, name: &str) -> Option<&Tenant> {
        self.tenant_entry(name).map(Arc::as_ref)
    }

    /// By `domain` or one of `aliases`; `host` may have a port and a final dot.
    pub fn tenant_of_domain(&self, host: &str) -> Option<&Tenant> {
        let host = bare_domain(host);
        let mut found = self.tenants.find(index::hash_without_case(By::Domain as u8, host.as_bytes()));
        found.find(|tenant| domains(tenant).any(|domain| domain.eq_ignore_ascii_case(host))).map(Arc::as_ref)
    }

    /// The only tenant, or the one with `default = true`: whom an address of ours in From means.
    pub fn default_tenant(&self) -> Option<&Tenant> {
        self.default.as_deref()
    }

    pub fn phone(&self, tenant: &str, user: &str) -> Option<&Phone> {
        self.phone_entry(tenant, user).map(Arc::as_ref)
    }

    /// The phone that a digest user name of this realm belongs to. `likely` is asked first where several tenants share the realm.
    pub fn phone_of_credential(&self, realm: &str, auth_user: &str, likely: Option<&Tenant>) -> Option<&Phone> {
        let in_tenant = |tenant: &Tenant| self.phone_of_auth_user(&tenant.name, auth_user);
        if let Some(phone) = likely.filter(|tenant| self::realm(tenant) == realm).and_then(in_tenant) {
            return Some(phone);
        }
        let tenants = self.tenants.find(index::hash(By::Realm as u8, &[realm.as_bytes()]));
        tenants
            .take(TENANTS_PER_REALM_MAX)
            .filter(|tenant| self::realm(tenant) == realm)
            .find_map(|tenant| in_tenant(tenant))
    }

    /// A realm that some tenant has.
    pub fn has_realm(&self, realm: &str) -> bool {
        self.tenants.find(index::hash(By::Realm as u8, &[realm.as_bytes()])).any(|tenant| self::realm(tenant) == realm)
    }

    fn phone_of_auth_user(&self, tenant: &str, auth_user: &str) -> Option<&Phone> {
        let mut found = self.phones.find(index::hash(By::AuthUser as u8, &[tenant.as_bytes(), auth_user.as_bytes()]));
        found.find(|phone| phone.tenant == tenant && self::auth_user(phone) == auth_user).map(Arc::as_ref)
    }

    /// All phones that ring when somebody of the tenant dials the extension.
    pub fn phones_of_extension<'a>(&'a self, tenant: &'a str, extension: &'a str) -> impl Iterator<Item = &'a Phone> {
        let found = self.phones.find(index::hash(By::Extension as u8, &[tenant.as_bytes(), extension.as_bytes()]));
        found.filter(move |phone| phone.tenant == tenant && self::extension(phone) == extension).map(Arc::as_ref)
    }

    /// All phones with this E.164 number, of any tenant.
    pub fn phones_of_number<'a>(&'a self, number: &'a str) -> impl Iterator<Item = &'a Phone> {
        let found = self.phones.find(index::hash(By::Number as u8, &[number.as_bytes()]));
        found.filter(move |phone| phone.numbers.iter().any(|own| own == number)).map(Arc::as_ref)
    }

    /// Everything, as it would be sent anew.
    pub fn snapshot(&self) -> DirectoryPart {
        let mut tenants: Vec<Tenant> = self.all_tenants().map(|tenant| Tenant::clone(tenant)).collect();
        let mut phones: Vec<Phone> = self.all_phones().map(|phone| Phone::clone(phone)).collect();
        tenants.sort_by(|a, b| a.name.cmp(&b.name));
        phones.sort_by(|a, b| (&a.tenant, &a.user).cmp(&(&b.tenant, &b.user)));
        DirectoryPart { tenants, phones, ..DirectoryPart::default() }
    }

    /// Inserts or replaces what `part` names and removes what it says. A removed tenant takes its phones along.
    pub fn apply(&mut self, version: u64, part: DirectoryPart) {
        self.version = version;
        for (tenant, user) in &part.phones_removed {
            self.remove_phone(tenant, user);
        }
        for name in &part.tenants_removed {
            self.remove_tenant_and_phones(name);
        }
        for tenant in part.tenants {
            self.put_tenant(tenant);
        }
        for phone in part.phones {
            self.put_phone(phone);
        }
        self.default = self.find_default();
    }

    fn put_tenant(&mut self, tenant: Tenant) {
        self.remove_tenant(&tenant.name);
        let tenant = Arc::new(tenant);
        for hash in tenant_hashes(&tenant) {
            self.tenants.insert(hash, Arc::clone(&tenant));
        }
        self.tenants_len += 1;
    }

    fn remove_tenant(&mut self, name: &str) {
        let Some(tenant) = self.tenant_entry(name).cloned() else { return };
        for hash in tenant_hashes(&tenant) {
            self.tenants.remove(hash, &tenant);
        }
        self.tenants_len -= 1;
    }

    fn remove_tenant_and_phones(&mut self, name: &str) {
        self.remove_tenant(name);
        let users: Vec<String> =
            self.all_phones().filter(|phone| phone.tenant == name).map(|phone| phone.user.clone()).collect();
        for user in users {
            self.remove_phone(name, &user);
        }
    }

    fn put_phone(&mut self, phone: Phone) {
        self.remove_phone(&phone.tenant, &phone.user);
        let phone = Arc::new(phone);
        for hash in phone_hashes(&phone) {
            self.phones.insert(hash, Arc::clone(&phone));
        }
        self.phones_len += 1;
    }

    fn remove_phone(&mut self, tenant: &str, user: &str) {
        let Some(phone) = self.phone_entry(tenant, user).cloned() else { return };
        for hash in phone_hashes(&phone) {
            self.phones.remove(hash, &phone);
        }
        self.phones_len -= 1;
    }

    fn tenant_entry(&self, name: &str) -> Option<&Arc<Tenant>> {
        self.tenants.find(index::hash(By::TenantName as u8, &[name.as_bytes()])).find(|tenant| tenant.name == name)
    }

    fn phone_entry(&self, tenant: &str, user: &str) -> Option<&Arc<Phone>> {
        let mut found = self.phones.find(user_hash(tenant, user));
        found.find(|phone| phone.tenant == tenant && phone.user == user)
    }

    fn all_tenants(&self) -> impl Iterator<Item = &Arc<Tenant>> {
        self.tenants
            .iter()
            .filter(|(hash, tenant)| *hash == index::hash(By::TenantName as u8, &[tenant.name.as_bytes()]))
            .map(|(_, tenant)| tenant)
    }

    fn all_phones(&self) -> impl Iterator<Item = &Arc<Phone>> {
        self.phones
            .iter()
            .filter(|(hash, phone)| *hash == user_hash(&phone.tenant, &phone.user))
            .map(|(_, phone)| phone)
    }

    fn find_default(&self) -> Option<Arc<Tenant>> {
        if self.tenants_len == 1 {
            return self.all_tenants().next().cloned();
        }
        self.all_tenants().filter(|tenant| tenant.default).min_by(|a, b| a.name.cmp(&b.name)).cloned()
    }
}

impl From<Snapshot> for Directory {
    fn from(snapshot: Snapshot) -> Self {
        let mut directory = Self::new();
        directory.apply(snapshot.version, snapshot.part);
        directory
    }
}

impl From<Directory> for Snapshot {
    fn from(directory: Directory) -> Self {
        Self { version: directory.version, part: directory.snapshot() }
    }
}

/// The tenant's digest realm.
pub fn realm(tenant: &Tenant) -> &str {
    if tenant.realm.is_empty() { &tenant.domain } else { &tenant.realm }
}

/// The phone's digest name.
pub fn auth_user(phone: &Phone) -> &str {
    if phone.auth_user.is_empty() { &phone.user } else { &phone.auth_user }
}

/// What others dial.
pub fn extension(phone: &Phone) -> &str {
    if phone.extension.is_empty() { &phone.user } else { &phone.extension }
}

/// Without port and final dot; an address in brackets keeps them.
pub fn bare_domain(host: &str) -> &str {
    let end = match host.rfind(']') {
        Some(bracket) => bracket + 1,
        None => host.find(':').unwrap_or(host.len()),
    };
    let bare = host.get(..end).unwrap_or(host);
    bare.strip_suffix('.').unwrap_or(bare)
}

fn domains(tenant: &Tenant) -> impl Iterator<Item = &str> {
    std::iter::once(&tenant.domain)
        .chain(&tenant.aliases)
        .map(|domain| bare_domain(domain))
        .filter(|domain| !domain.is_empty())
}

fn user_hash(tenant: &str, user: &str) -> u64 {
    index::hash(By::User as u8, &[tenant.as_bytes(), user.as_bytes()])
}

fn tenant_hashes(tenant: &Tenant) -> Vec<u64> {
    let mut hashes = vec![
        index::hash(By::TenantName as u8, &[tenant.name.as_bytes()]),
        index::hash(By::Realm as u8, &[realm(tenant).as_bytes()]),
    ];
    hashes.extend(domains(tenant).map(|domain| index::hash_without_case(By::Domain as u8, domain.as_bytes())));
    hashes
}

fn phone_hashes(phone: &Phone) -> Vec<u64> {
    let tenant = phone.tenant.as_bytes();
    let mut hashes = vec![
        user_hash(&phone.tenant, &phone.user),
        index::hash(By::AuthUser as u8, &[tenant, auth_user(phone).as_bytes()]),
        index::hash(By::Extension as u8, &[tenant, extension(phone).as_bytes()]),
    ];
    hashes.extend(phone.numbers.iter().map(|number| index::hash(By::Number as u8, &[number.as_bytes()])));
    hashes
}
