//! What a phone, a tenant and a shard may have, on a virtual clock.

use super::*;
use crate::machine::directory::Directory;
use crate::machine::fixture;
use crate::machine::settings::Settings;
use crate::wire::link::DirectoryPart;

struct World {
    admission: Admission,
    settings: Settings,
    directory: Directory,
    now: Instant,
    events: Vec<(u64, String)>,
    taken: usize,
}

/// Tenants `acme` and `globex`.
fn world(limits: Limits) -> World {
    let mut directory = Directory::new();
    let tenants = vec![fixture::tenant("acme"), fixture::tenant("globex")];
    directory.apply(1, DirectoryPart { tenants, ..DirectoryPart::default() });
    let settings = Settings { limits, ..fixture::settings() };
    let now = Instant::from_millis(1_000_000);
    World { admission: Admission::default(), settings, directory, now, events: Vec::new(), taken: 0 }
}

fn limits(phone_calls: u32, phone_rate: u32, tenant_calls: u32, tenant_rate: u32) -> Limits {
    Limits { phone_calls, phone_calls_per_second: phone_rate, tenant_calls, tenant_calls_per_second: tenant_rate }
}

impl World {
    fn owner(&self, tenant: &str, user: &str) -> Owner {
        owner(&fixture::phone(tenant, user), false, Shared { settings: &self.settings, directory: &self.directory })
    }

    fn ask_as(&mut self, tenant: &str, user: &str, class: Class, places: usize) -> Result<(), Refusal> {
        let owner = self.owner(tenant, user);
        let shared = Shared { settings: &self.settings, directory: &self.directory };
        let asking = Asking { owner, tenant, phone: user, class, places, taken: self.taken };
        let mut out = Outbox::new();
        let verdict = self.admission.call(&asking, self.now, shared, &mut out);
        if verdict.is_ok() {
            self.admission.enter(&owner, self.now);
            self.taken += 1;
        }
        self.listen(&mut out);
        if self.taken.is_multiple_of(16) {
            let bytes = postcard::to_allocvec(&self.admission).unwrap();
            self.admission = postcard::from_bytes(&bytes).unwrap();
        }
        verdict
    }

    fn ask(&mut self, tenant: &str, user: &str) -> Result<(), Refusal> {
        self.ask_as(tenant, user, Class::Invite, 20_000)
    }

    /// Asks until it is refused.
    fn ask_all(&mut self, tenant: &str, user: &str) -> (usize, Refusal) {
        for count in 0.. {
            if let Err(refusal) = self.ask(tenant, user) {
                return (count, refusal);
            }
        }
        unreachable!()
    }

    fn end(&mut self, tenant: &str, user: &str) {
        let owner = self.owner(tenant, user);
        self.admission.hang_up(&owner);
        self.admission.leave(&owner, CALL_BYTES_TYPICAL);
        self.taken -= 1;
    }

    fn wait(&mut self, duration: Duration) {
        self.now = self.now + duration;
        let mut out = Outbox::new();
        self.admission.handle_timeout(self.now, &mut out);
        self.listen(&mut out);
    }

    fn listen(&mut self, out: &mut Outbox) {
        for output in out.drain() {
            if let Output::Event { body: Body::CallsRefused { phone, count, .. }, .. } = output {
                self.events.push((count, phone));
            }
        }
    }
}

#[test]
fn a_phone_has_its_calls_and_others_theirs() {
    let mut world = world(limits(3, 0, 0, 0));
    assert_eq!(world.ask_all("acme", "1000"), (3, Refusal::PhoneCalls));
    assert_eq!(world.ask_all("acme", "1001"), (3, Refusal::PhoneCalls));
    world.end("acme", "1000");
    assert_eq!(world.ask_all("acme", "1000"), (1, Refusal::PhoneCalls));
    (0..3).for_each(|_| world.end("acme", "1000"));
    (0..3).for_each(|_| world.end("acme", "1001"));
    assert!(world.admission.is_idle());
    world.wait(TELL_EVERY);
    assert_eq!((world.admission.accounts(), world.admission.next_deadline()), (0, None));
    assert_eq!(world.admission.refused, [3, 0, 0, 0, 0, 0]);
}

#[test]
fn a_tenant_has_its_calls_and_another_notices_nothing() {
    let mut world = world(limits(0, 0, 4, 0));
    assert!((0..4).all(|user| world.ask("acme", &format!("{user}")).is_ok()));
    assert_eq!(world.ask("acme", "9"), Err(Refusal::TenantCalls));
    assert_eq!(world.ask_all("globex", "2000"), (4, Refusal::TenantCalls));
    // Its phones are on all shards: each has its part.
    world.settings.shards = 4;
    assert_eq!(world.ask_all("acme", "9"), (0, Refusal::TenantCalls));
    (0..4).for_each(|user| world.end("acme", &format!("{user}")));
    assert_eq!(world.ask_all("acme", "9"), (1, Refusal::TenantCalls));
}

#[test]
fn what_comes_too_fast_is_told_in_one_event_for_many() {
    let mut world = world(limits(0, 2, 0, 0));
    assert_eq!(world.ask_all("acme", "1000"), (10, Refusal::PhoneRate));
    assert!((0..500).all(|_| world.ask("acme", "1000") == Err(Refusal::PhoneRate)));
    assert_eq!(world.events, [(1, "1000".to_owned())]);
    assert!(world.ask("acme", "1001").is_ok());
    world.wait(Duration::from_secs(5));
    assert_eq!(world.events.len(), 1);
    assert_eq!(world.ask_all("acme", "1000").0, 10);
    world.wait(Duration::from_secs(5));
    assert_eq!(world.events[1..], [(501, "1000".to_owned())]);
    world.wait(TELL_EVERY);
    assert_eq!(world.ask_all("acme", "1000").0, 10);
    assert_eq!(world.events[2..], [(1, "1000".to_owned())], "the first after a pause is told at once again");
}

#[test]
fn a_tenant_that_is_too_fast_slows_itself() {
    let mut world = world(limits(0, 0, 0, 20));
    let taken = (0..200).filter(|user| world.ask("acme", &format!("{user}")).is_ok()).count();
    assert_eq!(taken, 100);
    assert_eq!(world.ask("acme", "0"), Err(Refusal::TenantRate));
    assert!(world.ask("globex", "2000").is_ok());
}

#[test]
fn without_limits_nobody_takes_all_there_is() {
    let mut world = world(limits(0, 0, 0, 0));
    let (count, refusal) = world.ask_all("acme", "1000");
    assert_eq!(refusal, Refusal::Share);
    assert!((500..=5_000).contains(&count), "{count}");
    let count: usize = (0..200).map(|user| world.ask_all("acme", &format!("u{user}")).0).sum::<usize>() + count;
    assert!(count <= 15_000, "{count}");
    assert!((0..16).all(|_| world.ask("globex", "2000").is_ok()));
}

#[test]
fn the_last_places_are_for_emergencies() {
    let mut world = world(limits(1, 1, 1, 1));
    world.taken = 98;
    assert_eq!(world.ask_as("acme", "1000", Class::Invite, 100), Err(Refusal::Full));
    assert!(world.ask_as("acme", "1000", Class::Emergency, 100).is_ok());
    assert!(world.ask_as("acme", "1000", Class::Emergency, 100).is_ok(), "no bound of its phone holds it back");
    assert_eq!(world.ask_as("acme", "1000", Class::Emergency, 100), Err(Refusal::Full));
}

#[test]
fn trust_has_no_limits() {
    let mut world = world(limits(1, 1, 1, 1));
    let trusted = Owner { standing: Standing::Trusted, ..world.owner("acme", "1000") };
    let shared = Shared { settings: &world.settings, directory: &world.directory };
    let asking = Asking { owner: trusted, tenant: "acme", phone: "1000", class: Class::Invite, places: 9, taken: 0 };
    for _ in 0..100 {
        assert_eq!(world.admission.call(&asking, world.now, shared, &mut Outbox::new()), Ok(()));
        world.admission.enter(&trusted, world.now);
    }
    assert!((0..1_000).all(|_| world.admission.registration(&trusted, world.now)));
}

#[test]
fn heavy_calls_count_for_what_they_weigh() {
    let mut world = world(limits(0, 0, 0, 0));
    let owner = world.owner("acme", "1000");
    for _ in 0..CALL_BYTES_PER_PHONE_MAX >> 20 {
        assert!(world.ask("acme", "1000").is_ok());
        world.admission.weigh(&owner, CALL_BYTES_TYPICAL, 1 << 20);
    }
    assert_eq!(world.ask("acme", "1000"), Err(Refusal::Share));
    assert!(world.ask("acme", "1001").is_ok());
    world.admission.hang_up(&owner);
    world.admission.leave(&owner, 1 << 20);
    assert!(world.ask("acme", "1000").is_ok());
}
