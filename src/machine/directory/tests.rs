//! Look-ups, deltas and copies of the directory.

use super::*;
use crate::wire::link::Announce;
use crate::wire::link::Ha1;
use crate::wire::link::Record;
use crate::wire::link::RecordCodecs;
use crate::wire::link::Symmetric;

fn tenant(name: &str, domain: &str) -> Tenant {
    Tenant {
        name: name.into(),
        domain: domain.into(),
        aliases: Vec::new(),
        realm: String::new(),
        default: false,
        record: Record::Never,
        announce: Announce::None,
        digest: Vec::new(),
        md5_fallback: true,
        record_codecs: RecordCodecs::Any,
    }
}

fn phone(tenant: &str, user: &str) -> Phone {
    Phone {
        tenant: tenant.into(),
        user: user.into(),
        auth_user: String::new(),
        extension: String::new(),
        numbers: Vec::new(),
        name: String::new(),
        record: Record::Never,
        external_id: String::new(),
        digest: Vec::new(),
        symmetric: Symmetric::Auto,
        ha1: Ha1::default(),
    }
}

fn part(tenants: Vec<Tenant>, phones: Vec<Phone>) -> DirectoryPart {
    DirectoryPart { tenants, phones, ..DirectoryPart::default() }
}

fn two_tenants() -> Directory {
    let mut acme = tenant("acme", "acme.test");
    acme.aliases = vec!["phones.acme.test.".into()];
    let mut globex = tenant("globex", "Globex.test");
    globex.realm = "globex".into();
    let mut boss = phone("acme", "1001a");
    boss.extension = "1001".into();
    boss.auth_user = "boss".into();
    boss.numbers = vec!["+4930123".into(), "+4930124".into()];
    let mut directory = Directory::new();
    directory.apply(3, part(vec![acme, globex], vec![phone("acme", "1001"), boss, phone("globex", "1001")]));
    directory
}

#[test]
fn tenants_by_domain() {
    let directory = two_tenants();
    for (host, name) in [
        ("acme.test", Some("acme")),
        ("ACME.Test", Some("acme")),
        ("acme.test.", Some("acme")),
        ("acme.test:5060", Some("acme")),
        ("acme.test.:5060", Some("acme")),
        ("phones.acme.test", Some("acme")),
        ("globex.TEST", Some("globex")),
        ("globex", None),
        ("", None),
        (".", None),
        ("[2001:db8::1]:5060", None),
    ] {
        assert_eq!(directory.tenant_of_domain(host).map(|tenant| tenant.name.as_str()), name, "{host}");
    }
}

#[test]
fn phones_by_everything() {
    let directory = two_tenants();
    let user = |phone: Option<&Phone>| phone.map(|phone| (phone.tenant.clone(), phone.user.clone()));
    let is = |tenant: &str, user: &str| Some((tenant.to_owned(), user.to_owned()));
    assert_eq!(user(directory.phone("acme", "1001")), is("acme", "1001"));
    assert_eq!(user(directory.phone("globex", "1001a")), None);
    assert_eq!(user(directory.phone_of_credential("acme.test", "boss", None)), is("acme", "1001a"));
    assert_eq!(user(directory.phone_of_credential("acme.test", "1001a", None)), None);
    assert_eq!(user(directory.phone_of_credential("globex", "1001", None)), is("globex", "1001"));
    assert_eq!(user(directory.phone_of_credential("Globex.test", "1001", None)), None);
    let ringing: Vec<&str> = directory.phones_of_extension("acme", "1001").map(|phone| phone.user.as_str()).collect();
    assert_eq!(ringing, ["1001", "1001a"]);
    assert_eq!(directory.phones_of_extension("acme", "1001a").count(), 0);
    assert_eq!(directory.phones_of_number("+4930124").count(), 1);
    assert_eq!(directory.phones_of_number("+4930125").count(), 0);
}

#[test]
fn tenants_that_share_a_realm_are_told_apart_by_the_address() {
    let mut directory = Directory::new();
    let shared = |name: &str, domain: &str| Tenant { realm: "pbx".into(), ..tenant(name, domain) };
    directory.apply(
        1,
        part(
            vec![shared("a", "a.test"), shared("b", "b.test")],
            vec![phone("a", "1"), phone("b", "1"), phone("b", "2")],
        ),
    );
    let found = |user: &str, likely: &str| {
        let likely = directory.tenant(likely);
        directory.phone_of_credential("pbx", user, likely).map(|phone| phone.tenant.as_str())
    };
    assert_eq!(found("1", "a"), Some("a"));
    assert_eq!(found("1", "b"), Some("b"));
    assert_eq!(found("2", "a"), Some("b"));
    assert_eq!(found("1", ""), Some("a"));
}

#[test]
fn the_default_is_the_only_one_or_the_one_that_says_so() {
    let mut directory = Directory::new();
    assert!(directory.default_tenant().is_none());
    directory.apply(1, part(vec![tenant("a", "a.test")], vec![]));
    assert_eq!(directory.default_tenant().unwrap().name, "a");
    directory.apply(2, part(vec![tenant("b", "b.test")], vec![]));
    assert!(directory.default_tenant().is_none());
    directory.apply(3, part(vec![Tenant { default: true, ..tenant("b", "b.test") }], vec![]));
    assert_eq!(directory.default_tenant().unwrap().name, "b");
}

#[test]
fn deltas_replace_and_remove() {
    let mut directory = two_tenants();
    let renamed = Phone { extension: "2000".into(), ..phone("acme", "1001") };
    directory.apply(4, part(vec![], vec![renamed]));
    assert_eq!((directory.version(), directory.phones_len()), (4, 3));
    assert_eq!(directory.phones_of_extension("acme", "1001").count(), 1);
    assert_eq!(directory.phones_of_extension("acme", "2000").count(), 1);
    let gone = DirectoryPart {
        phones_removed: vec![("acme".into(), "1001a".into()), ("acme".into(), "?".into())],
        ..DirectoryPart::default()
    };
    directory.apply(5, gone);
    assert_eq!(directory.phones_len(), 2);
    assert_eq!(directory.phones_of_number("+4930123").count(), 0);
    directory.apply(6, DirectoryPart { tenants_removed: vec!["acme".into()], ..DirectoryPart::default() });
    assert_eq!((directory.tenants_len(), directory.phones_len()), (1, 1));
    assert!(directory.tenant_of_domain("acme.test").is_none());
    assert!(directory.phone("acme", "1001").is_none());
}

#[test]
fn a_restored_directory_answers_the_same() {
    let directory = two_tenants();
    let bytes = postcard::to_allocvec(&directory).unwrap();
    let restored: Directory = postcard::from_bytes(&bytes).unwrap();
    assert_eq!(restored.version(), 3);
    assert_eq!(restored.snapshot(), directory.snapshot());
    assert_eq!(restored.snapshot().phones.len(), 3);
}

#[test]
fn a_delta_leaves_the_old_value_and_copies_few_buckets() {
    let phones = (0..2_000).map(|n| phone("acme", &n.to_string())).collect();
    let mut old = Directory::new();
    old.apply(1, part(vec![tenant("acme", "acme.test")], phones));
    let mut new = old.clone();
    assert_eq!(new.phones.own_buckets(&old.phones), 0);
    new.apply(2, part(vec![], vec![Phone { extension: "x".into(), ..phone("acme", "7") }]));
    assert!(new.phones.own_buckets(&old.phones) <= 4);
    assert_eq!(old.phones_of_extension("acme", "7").count(), 1);
    assert_eq!(new.phones_of_extension("acme", "7").count(), 0);
}
