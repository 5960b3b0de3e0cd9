//! A stock of one shard in fair shares: however much one tenant or phone asks for, something is left for the next that comes.
//!
//! Who takes something may have three times as much as is free then (a phone: a third of it). So a tenant that is alone takes three
//! quarters at most, two take three sevenths each, and a seventh is left; nobody is told a number that would be too small on an idle
//! node or too large on a full one.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde::Serialize;

use crate::base::keyed::Keyed;

/// What a tenant may have of a stock, by what is free.
const TENANT_TIMES_FREE: u64 = 3;
/// What it may have however little is free: the two pairs of ports of one call.
const TENANT_LEAST: u64 = 2;
/// What a phone may have, by what is free.
const PHONE_PART_OF_FREE: u64 = 3;

/// Who takes something: keyed hashes of a phone and its tenant. A phone of 0 is counted for its tenant alone.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Owner {
    pub tenant: u64,
    pub phone: u64,
    pub standing: Standing,
}

/// Whom an owner shares with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Standing {
    /// It comes from a prefix that the configuration trusts: only what there is bounds it.
    #[default]
    Trusted,
    /// The directory has no other tenant.
    OnlyTenant,
    OneOfMany,
}

/// What a phone may have, whatever is free.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OfPhone {
    pub least: u64,
    pub most: u64,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Shares {
    total: u64,
    used: u64,
    of_phone: OfPhone,
    tenants: BTreeMap<u64, u64>,
    phones: Keyed<u64>,
}

impl Shares {
    pub fn new(total: u64, of_phone: OfPhone) -> Self {
        Self { total, used: 0, of_phone, tenants: BTreeMap::new(), phones: Keyed::default() }
    }

    pub fn used(&self) -> u64 {
        self.used
    }

    pub fn of_phone(&self, owner: &Owner) -> u64 {
        self.phones.get(owner.phone).copied().unwrap_or(0)
    }

    pub fn of_tenant(&self, owner: &Owner) -> u64 {
        self.tenants.get(&owner.tenant).copied().unwrap_or(0)
    }

    /// There is room for `amount` more, and the owner may have it.
    pub fn fits(&self, owner: &Owner, amount: u64) -> bool {
        let Some(free) = self.total.checked_sub(self.used.saturating_add(amount)) else { return false };
        let of_tenant = free.saturating_mul(TENANT_TIMES_FREE).max(TENANT_LEAST);
        let tenant_fits = || self.of_tenant(owner) + amount <= of_tenant;
        let most = (free / PHONE_PART_OF_FREE).max(self.of_phone.least).min(self.of_phone.most);
        let phone_fits = || owner.phone == 0 || self.of_phone(owner) + amount <= most;
        match owner.standing {
            Standing::Trusted => true,
            Standing::OnlyTenant => phone_fits(),
            Standing::OneOfMany => phone_fits() && tenant_fits(),
        }
    }

    /// Whether or not it fits: what is there already is counted as it is.
    pub fn take(&mut self, owner: &Owner, amount: u64) {
        if amount > 0 {
            self.used += amount;
            *self.tenants.entry(owner.tenant).or_insert(0) += amount;
            if owner.phone != 0 {
                self.phones.insert(owner.phone, self.of_phone(owner) + amount);
            }
        }
    }

    pub fn give_back(&mut self, owner: &Owner, amount: u64) {
        self.used = self.used.saturating_sub(amount);
        match self.of_tenant(owner).saturating_sub(amount) {
            0 => _ = self.tenants.remove(&owner.tenant),
            left => _ = self.tenants.insert(owner.tenant, left),
        }
        match self.of_phone(owner).saturating_sub(amount) {
            0 => _ = self.phones.remove(owner.phone),
            left => _ = self.phones.insert(owner.phone, left),
        }
    }

    /// Nobody has anything of it.
    pub fn is_whole(&self) -> bool {
        self.used == 0 && self.tenants.is_empty() && self.phones.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shares(total: u64, least: u64) -> Shares {
        Shares::new(total, OfPhone { least, most: u64::MAX })
    }

    fn owner(tenant: u64, phone: u64) -> Owner {
        Owner { tenant, phone, standing: Standing::OneOfMany }
    }

    /// Takes one after the other until no more fit.
    fn grab(shares: &mut Shares, owner: Owner) -> u64 {
        (0..).take_while(|_| shares.fits(&owner, 1).then(|| shares.take(&owner, 1)).is_some()).count() as u64
    }

    /// A tenant takes by ever new phones.
    fn grab_by_phones(shares: &mut Shares, tenant: u64) -> u64 {
        (1..=100).map(|phone| grab(shares, owner(tenant, tenant << 32 | phone))).sum()
    }

    #[test]
    fn something_is_left_for_the_next() {
        let mut stock = shares(7_000, 0);
        assert_eq!(grab_by_phones(&mut stock, 1), 5_250, "alone, three quarters");
        let second = grab_by_phones(&mut stock, 2);
        assert!(second > 1_200, "{second}");
        assert!(grab_by_phones(&mut stock, 3) > 300, "and a third one finds something, too");
        assert!(stock.fits(&owner(4, 4), 1));
    }

    #[test]
    fn a_phone_takes_a_quarter_but_never_less_than_the_floor() {
        let mut stock = shares(4_000, 10);
        assert_eq!(grab(&mut stock, owner(1, 1)), 1_000);
        let mut small = shares(16, 10);
        assert_eq!(grab(&mut small, owner(1, 1)), 10);
        let alone = Owner { standing: Standing::OnlyTenant, ..owner(1, 2) };
        assert_eq!(grab(&mut small, alone), 6, "there is nobody to leave anything to");
        let mut capped = Shares::new(4_000, OfPhone { least: 10, most: 20 });
        assert_eq!(grab(&mut capped, owner(1, 1)), 20);
        assert_eq!(grab(&mut capped, owner(1, 0)), 2_980, "what is counted for the tenant alone");
    }

    #[test]
    fn trust_is_bounded_by_what_there_is() {
        let mut stock = shares(100, 0);
        assert_eq!(grab(&mut stock, Owner::default()), 100);
        assert!(!stock.fits(&owner(1, 1), 1));
    }

    #[test]
    fn what_is_given_back_is_there_again() {
        let mut stock = shares(100, 5);
        for (tenant, phone) in [(1, 1), (1, 2), (2, 3)] {
            stock.take(&owner(tenant, phone), 7);
        }
        let bytes = postcard::to_allocvec(&stock).unwrap();
        let mut stock: Shares = postcard::from_bytes(&bytes).unwrap();
        assert_eq!((stock.used(), stock.of_tenant(&owner(1, 1)), stock.of_phone(&owner(1, 1))), (21, 14, 7));
        for (tenant, phone) in [(2, 3), (1, 1), (1, 2)] {
            stock.give_back(&owner(tenant, phone), 7);
        }
        assert!(stock.is_whole());
    }
}
