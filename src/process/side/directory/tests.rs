//! What a directory file may say, and what an import does to what is there.

use std::path::PathBuf;

use tempfile::TempDir;

use crate::process::side::directory::file;
use crate::process::side::directory::import::Change;
use crate::process::side::directory::import::ImportError;
use crate::process::side::directory::import::Imported;
use crate::process::side::directory::import::import_file;
use crate::process::side::directory::secret::to_hex;
use crate::process::side::directory::snapshot;
use crate::process::side::directory::snapshot::Snapshot;
use crate::process::side::seal::NodeKey;
use crate::process::side::store::Store;
use crate::wire::g711::Law;
use crate::wire::link;
use crate::wire::link::Announce;
use crate::wire::link::DirectoryPart;
use crate::wire::link::FromSide;
use crate::wire::link::Record;
use crate::wire::link::RecordCodecs;
use crate::wire::wav;

struct World {
    folder: TempDir,
    store: Store,
    key: NodeKey,
}

impl World {
    async fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(&folder.path().join("tipring.db")).await.unwrap();
        let key = NodeKey::open(&folder.path().join("node.key")).unwrap();
        Self { folder, store, key }
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("directory.toml")
    }

    async fn import(&self, text: &str) -> Result<Option<Change>, Vec<String>> {
        std::fs::write(self.path(), text).unwrap();
        match import_file(&self.store, &self.key, &self.path()).await {
            Ok(Imported::Applied(change)) => Ok(Some(change)),
            Ok(Imported::Unchanged) => Ok(None),
            Err(ImportError::Faults(faults)) => Err(faults.iter().map(ToString::to_string).collect()),
            Err(other) => panic!("{other}"),
        }
    }

    async fn whole(&self) -> DirectoryPart {
        let mut snapshot = Snapshot::open(&self.store, &self.key).await.unwrap();
        let mut whole = DirectoryPart::default();
        loop {
            let (part, last) = snapshot.next_part().await.unwrap();
            whole.tenants.extend(part.tenants);
            whole.phones.extend(part.phones);
            if last {
                return whole;
            }
        }
    }
}

#[tokio::test]
async fn a_tenant_may_offer_digests_of_its_own() {
    let world = World::new().await;
    let offers = |part: &DirectoryPart| part.tenants[0].digest.clone();
    for (key, expected) in
        [("", &[][..]), ("digest = [\"sha-512-256\", \"MD5\"]", &["SHA-512-256", "MD5"]), ("digest = []", &[])]
    {
        let text = ACME.replace("aliases", &format!("{key}\naliases"));
        let change = world.import(&text).await.unwrap().unwrap();
        assert_eq!(offers(&world.whole().await), expected, "{key}");
        assert_eq!(
            offers(&snapshot::delta(&world.store, &world.key, &change).await.unwrap().unwrap()),
            expected,
            "{key}"
        );
    }
    let faults =
        faults_of("[[tenant]]\nname = \"acme\"\ndomain = \"acme.test\"\ndigest = [\"MD4\",\n\"MD5\", \"md5\", 5]\n");
    assert_eq!(
        faults,
        [
            "line 4: tenant.digest: must be of MD5, SHA-256 and SHA-512-256",
            "line 5: tenant.digest: expected a list of strings",
            "line 5: tenant.digest: names MD5 twice",
        ]
    );
}

#[tokio::test]
async fn a_tenant_may_keep_codecs_without_a_decoder_out() {
    let world = World::new().await;
    for (key, expected) in [
        ("", RecordCodecs::Any),
        ("record_codecs = \"decodable\"", RecordCodecs::Decodable),
        ("record_codecs = \"any\"", RecordCodecs::Any),
    ] {
        let change = world.import(&ACME.replace("aliases", &format!("{key}\naliases"))).await.unwrap().unwrap();
        let delta = snapshot::delta(&world.store, &world.key, &change).await.unwrap().unwrap();
        for part in [world.whole().await, delta] {
            assert_eq!(part.tenants[0].record_codecs, expected, "{key}");
        }
    }
    assert_eq!(
        faults_of("[[tenant]]\nname = \"acme\"\ndomain = \"acme.test\"\nrecord_codecs = \"opus\"\n"),
        ["line 4: tenant.record_codecs: must be any or decodable"]
    );
}

#[tokio::test]
async fn a_phone_may_be_offered_digests_of_its_own_and_a_tenant_refuse_the_fallback() {
    let world = World::new().await;
    world.import(ACME).await.unwrap();
    let part = world.whole().await;
    assert!(part.tenants[0].md5_fallback && part.phones.iter().all(|phone| phone.digest.is_empty()));
    let text = ACME
        .replace("aliases", "md5_fallback = false\naliases")
        .replace("user = \"1001\"", "user = \"1001\"\ndigest = [\"md5\"]");
    let change = world.import(&text).await.unwrap().unwrap();
    for part in [world.whole().await, snapshot::delta(&world.store, &world.key, &change).await.unwrap().unwrap()] {
        assert!(!part.tenants[0].md5_fallback);
        let phone = part.phones.iter().find(|phone| phone.user == "1001").unwrap();
        assert_eq!(phone.digest, ["MD5"]);
    }
    assert_eq!(
        faults_of("[[phone]]\ntenant = \"acme\"\nuser = \"1\"\npassword = \"x\"\ndigest = [\"MD4\"]\n")[0],
        "line 5: phone.digest: must be of MD5, SHA-256 and SHA-512-256"
    );
}

#[test]
fn announcements_that_cannot_be_played_are_refused() {
    let check = |announce: &str, expected: &[&str]| {
        let text = format!("[[tenant]]\nname = \"acme\"\ndomain = \"acme.test\"\nannounce = {announce}\n");
        let expected: Vec<_> = expected.iter().map(|fault| format!("line 4: tenant.announce: {fault}")).collect();
        assert_eq!(faults_of(&text), expected, "{announce}");
    };
    let file = |name: &str| format!("{{ file = \"{name}\" }}");
    for good in ["\"none\"", "\"tone\"", &file("good.wav")] {
        check(good, &[]);
    }
    for bad in ["\"song\"", "true", "{ path = \"good.wav\" }"] {
        check(bad, &["must be none, tone or { file = \"….wav\" }"]);
    }
    check(&file("missing.wav"), &["missing.wav: cannot be read"]);
    check(&file("stereo.wav"), &["stereo.wav: has 2 channels of 8000 Hz: one of 8000 Hz is wanted"]);
    check(&file("fast.wav"), &["fast.wav: has 1 channels of 16000 Hz: one of 8000 Hz is wanted"]);
    check(&file("long.wav"), &["long.wav: is longer than 10 s"]);
    check(&file("empty.wav"), &["empty.wav: has no audio, or not all of it"]);
}

const ACME: &str = r#"
[[tenant]]
name = "acme"
domain = "Acme.Test."
aliases = ["pbx.acme.test"]

[[phone]]
tenant = "acme"
user = "1001"
numbers = ["+4930123456"]
password = "secret-1001"
name = "Alice"
record = "always"
"#;

fn faults_of(text: &str) -> Vec<String> {
    let read_file = |path: &str, _| match path {
        "good.wav" => Ok(wav::emit_pcm(1, 8_000, &[0; 800]).unwrap()),
        "stereo.wav" => Ok(wav::emit_pcm(2, 8_000, &[0; 800]).unwrap()),
        "fast.wav" => Ok(wav::emit_pcm(1, 16_000, &[0; 800]).unwrap()),
        "long.wav" => Ok(wav::emit_pcm(1, 8_000, &vec![0; 80_001]).unwrap()),
        "empty.wav" => Ok(wav::emit_pcm(1, 8_000, &[]).unwrap()),
        _ => Err("cannot be read".to_owned()),
    };
    file::parse(text, &read_file).err().unwrap_or_default().iter().map(ToString::to_string).collect()
}

#[test]
fn every_fault_is_named_by_line_and_key() {
    let text = r#"
[[tenant]]
name = "Acme"
domain = "acme.test:5060"
colour = "red"

[[tenant]]
name = "beta"
domain = "beta.test"
default = "yes"
record = "sometimes"

[[phone]]
tenant = "beta"
user = "a b"
numbers = ["0301234", 7]
password = "secret-x"
ha1 = { MD5 = "00" }

[[phone]]
tenant = "beta"
user = "2"

[[phone]]
user = "3"
password = { file = "three" }
auth_user = "a:b"

[other]
"#;
    let expected = [
        "line 3: tenant.name: must match [a-z0-9-]{1,32}",
        "line 4: tenant.domain: must be a host name or an IP address, without a port",
        "line 5: tenant.colour: unknown key",
        "line 10: tenant.default: expected true or false, found string",
        "line 11: tenant.record: must be never, always or on-demand",
        "line 15: phone.user: has characters that cannot stand there, or is too long",
        "line 16: phone.numbers: expected a list of strings",
        "line 16: phone.numbers: must be E.164: + and 2 to 15 digits, the first not 0",
        "line 18: phone.ha1: stands alone: give either password or ha1",
        "line 20: phone.password: is missing: give password or ha1",
        "line 24: phone.tenant: is missing or empty",
        "line 26: phone.password: three: cannot be read",
        "line 27: phone.auth_user: has characters that cannot stand there, or is too long",
        "line 29: directory.other: unknown key",
    ];
    let found = faults_of(text);
    for fault in expected {
        assert!(found.iter().any(|line| line == fault), "missing {fault} in {found:#?}");
    }
    assert_eq!(found.len(), expected.len(), "{found:#?}");
    assert!(!found.concat().contains("secret-x"));
}

#[test]
fn syntax_errors_and_repetition_have_lines() {
    assert!(faults_of("[[tenant]]\nname = \n")[0].starts_with("line 2: TOML: "));
    assert_eq!(faults_of("tenant = 1\n"), ["line 1: tenant: write [[tenant]]"]);
    let twice = format!(
        "{ACME}\n[[phone]]\ntenant = \"acme\"\nuser = \"1001\"\nnumbers = [\"+4930123456\"]\npassword = \"x\"\n"
    );
    let found = faults_of(&twice);
    assert_eq!(
        found,
        [
            "line 15: phone.user: 1001 stands in line 7 already",
            "line 15: phone.auth_user: 1001 stands in line 7 already",
            "line 15: phone.numbers: +4930123456 stands in line 7 already",
        ]
    );
}

#[tokio::test]
async fn import_applies_defaults_and_makes_digests() {
    let world = World::new().await;
    let change = world.import(ACME).await.unwrap().unwrap();
    assert_eq!(change.from, 0);
    assert_eq!(change.phones, [("acme".to_owned(), "1001".to_owned())]);

    let whole = world.whole().await;
    let tenant = &whole.tenants[0];
    assert_eq!((tenant.domain.as_str(), tenant.realm.as_str()), ("acme.test", "acme.test"));
    assert_eq!(tenant.aliases, ["pbx.acme.test"]);
    let phone = &whole.phones[0];
    assert_eq!((phone.auth_user.as_str(), phone.extension.as_str()), ("1001", "1001"));
    assert_eq!(phone.record, Record::Always);
    assert_eq!(phone.numbers, ["+4930123456"]);
    // printf %s 1001:acme.test:secret-1001 | md5sum
    assert_eq!(to_hex(&phone.ha1.md5.unwrap()), "342954cc5565f3acd621b9a4f2cd7af1");
    assert!(phone.ha1.sha256.is_some() && phone.ha1.sha512_256.is_some());

    let delta = snapshot::delta(&world.store, &world.key, &change).await.unwrap().unwrap();
    assert_eq!(delta, whole);
}

#[tokio::test]
async fn the_audio_of_an_announcement_goes_to_the_engine() {
    let world = World::new().await;
    let samples: Vec<i16> = (0..80_000).map(|n| (n % 100 * 300) as i16).collect();
    std::fs::write(world.folder.path().join("consent.wav"), wav::emit_pcm(1, 8_000, &samples).unwrap()).unwrap();
    let tenant = |n: u8| {
        format!("[[tenant]]\nname = \"t{n}\"\ndomain = \"t{n}.test\"\nannounce = {{ file = \"consent.wav\" }}\n")
    };
    let change = world.import(&format!("{}{}{}", tenant(1), tenant(2), tenant(3))).await.unwrap().unwrap();
    let mut snapshot = Snapshot::open(&world.store, &world.key).await.unwrap();
    let mut tenants = Vec::new();
    loop {
        let (part, last) = snapshot.next_part().await.unwrap();
        let frame = FromSide::Directory { version: 1, part: part.clone(), last };
        link::emit(&frame, &mut Vec::new()).expect("a part that fits into a frame");
        tenants.extend(part.tenants);
        if last {
            break;
        }
    }
    let audio: Vec<u8> = samples.iter().map(|sample| Law::Mu.encode(*sample)).collect();
    assert_eq!(tenants.len(), 3);
    assert!(tenants.iter().all(|tenant| tenant.announce == Announce::File { audio: audio.clone() }));
    drop(snapshot);
    let delta = snapshot::delta(&world.store, &world.key, &change).await.unwrap();
    assert_eq!(delta, None, "too much for one frame: the whole is sent");
    let quiet = tenant(1).replace("{ file = \"consent.wav\" }", "\"none\"");
    world.import(&quiet).await.unwrap().unwrap();
    assert_eq!(world.whole().await.tenants[0].announce, Announce::None);
}

#[tokio::test]
async fn a_file_is_applied_once_and_deletes_nothing() {
    let world = World::new().await;
    let first = world.import(ACME).await.unwrap().unwrap();
    assert_eq!(world.import(ACME).await, Ok(None));

    let second = "[[phone]]\ntenant = \"acme\"\nuser = \"1002\"\nextension = \"1001\"\npassword = \"p\"\n";
    let change = world.import(second).await.unwrap().unwrap();
    assert_eq!(change.from, first.version);
    assert!(change.version > first.version);
    assert!(change.tenants.is_empty());
    let users: Vec<_> = world.whole().await.phones.into_iter().map(|phone| phone.user).collect();
    assert_eq!(users, ["1001", "1002"]);

    // Named again, an entry is what the file says: what it leaves out takes its default.
    let third = "[[phone]]\ntenant = \"acme\"\nuser = \"1001\"\npassword = \"other\"\n";
    world.import(third).await.unwrap().unwrap();
    let phone = world.whole().await.phones.remove(0);
    assert_eq!((phone.name.as_str(), phone.numbers.len(), phone.record), ("", 0, Record::Never));
}

#[tokio::test]
async fn a_faulty_file_changes_nothing() {
    let world = World::new().await;
    world.import(ACME).await.unwrap();
    let before = world.whole().await;
    let version = snapshot::version(&world.store).await.unwrap();
    let check = async |text: &str, fault: &str| {
        let faults = world.import(text).await.unwrap_err();
        assert!(faults.iter().any(|found| found.contains(fault)), "{faults:?}");
        assert_eq!(world.whole().await, before);
    };
    let beta = "[[tenant]]\nname = \"beta\"\ndomain = \"beta.test\"\n";
    let phone = "[[phone]]\ntenant = \"beta\"\nuser = \"1\"\npassword = \"p\"\n";
    check("[[tenant]]\nname = \"beta\"\ndomain = \"PBX.acme.test\"\n", "belongs to tenant acme").await;
    check(&format!("{beta}{phone}numbers = [\"+4930123456\"]\n"), "belongs to another phone").await;
    check(phone, "line 1: phone.tenant: there is no tenant beta").await;
    check(
        &format!("{beta}realm = \"acme.test\"\n{phone}auth_user = \"1001\"\n"),
        "phone.auth_user: 1001 is another phone's in realm acme.test",
    )
    .await;
    check(
        &format!("{beta}default = true\n[[tenant]]\nname = \"c\"\ndomain = \"c\"\ndefault = true\n"),
        "stands in line",
    )
    .await;
    assert_eq!(snapshot::version(&world.store).await.unwrap(), version);
}

#[tokio::test]
async fn what_moves_within_one_file_is_no_conflict() {
    let world = World::new().await;
    world.import(ACME).await.unwrap();
    let moved = r#"
[[tenant]]
name = "beta"
domain = "pbx.acme.test"
[[tenant]]
name = "acme"
domain = "acme.test"
[[phone]]
tenant = "beta"
user = "1"
numbers = ["+4930123456"]
password = "p"
[[phone]]
tenant = "acme"
user = "1001"
password = "secret-1001"
"#;
    world.import(moved).await.unwrap();
    let whole = world.whole().await;
    assert_eq!(whole.phones.iter().find(|phone| phone.tenant == "beta").unwrap().numbers, ["+4930123456"]);
}

#[tokio::test]
async fn a_new_realm_changes_the_digests_of_every_phone_with_a_password() {
    let world = World::new().await;
    world.import(ACME).await.unwrap();
    let before = world.whole().await.phones.remove(0);
    let realm = "[[tenant]]\nname = \"acme\"\ndomain = \"acme.test\"\nrealm = \"voice\"\n";
    let change = world.import(realm).await.unwrap().unwrap();
    assert_eq!(change.phones, [("acme".to_owned(), "1001".to_owned())]);
    let after = world.whole().await.phones.remove(0);
    assert!(before.ha1.md5 != after.ha1.md5);

    let digests = format!("[[phone]]\ntenant = \"acme\"\nuser = \"1002\"\nha1 = {{ MD5 = \"{}\" }}\n", "ab".repeat(16));
    world.import(&digests).await.unwrap();
    let faults = world.import("[[tenant]]\nname = \"acme\"\ndomain = \"acme.test\"\n").await.unwrap_err();
    assert!(faults[0].contains("phone 1002 has only digests"), "{faults:?}");
}

#[tokio::test]
async fn a_large_directory_goes_in_parts_that_fit_a_frame() {
    let world = World::new().await;
    let mut text = String::from("[[tenant]]\nname = \"acme\"\ndomain = \"acme.test\"\n");
    for user in 0..1_500 {
        text.push_str(&format!(
            "[[phone]]\ntenant = \"acme\"\nuser = \"{user}\"\nha1 = {{ MD5 = \"{}\" }}\n",
            "ab".repeat(16)
        ));
    }
    let change = world.import(&text).await.unwrap().unwrap();
    assert_eq!(snapshot::delta(&world.store, &world.key, &change).await.unwrap(), None);
    let mut snapshot = Snapshot::open(&world.store, &world.key).await.unwrap();
    let (mut parts, mut phones) = (0, 0);
    loop {
        let (part, last) = snapshot.next_part().await.unwrap();
        parts += 1;
        phones += part.phones.len();
        let mut frame = Vec::new();
        let message = FromSide::Directory { version: snapshot.version, part, last };
        link::emit(&message, &mut frame).unwrap();
        if last {
            break;
        }
    }
    assert!(parts > 1);
    assert_eq!(phones, 1_500);
}

#[tokio::test]
async fn secrets_are_in_no_file_of_the_database() {
    let world = World::new().await;
    world.import(ACME).await.unwrap();
    let ha1 = world.whole().await.phones.remove(0).ha1.md5.unwrap();
    std::fs::remove_file(world.path()).unwrap();
    world.store.pool.close().await;
    for entry in std::fs::read_dir(world.folder.path()).unwrap() {
        let path = entry.unwrap().path();
        let bytes = std::fs::read(&path).unwrap();
        let holds = |needle: &[u8]| bytes.windows(needle.len()).any(|window| window == needle);
        assert!(!holds(b"secret-1001"), "{}", path.display());
        assert!(!holds(&ha1) && !holds(to_hex(&ha1).as_bytes()), "{}", path.display());
    }
}

#[tokio::test]
async fn a_file_that_the_directory_names_is_applied_when_it_alone_has_changed() {
    let world = World::new().await;
    let text = "[[tenant]]\nname = \"acme\"\ndomain = \"acme.test\"\nannounce = { file = \"consent.wav\" }\n";
    let write = |level: i16| {
        let bytes = wav::emit_pcm(1, 8_000, &[level; 800]).unwrap();
        std::fs::write(world.folder.path().join("consent.wav"), bytes).unwrap();
    };
    let announcement = async || world.whole().await.tenants[0].announce.clone();
    write(100);
    assert!(world.import(text).await.unwrap().is_some());
    let before = announcement().await;
    assert_eq!(world.import(text).await, Ok(None));
    write(9_000);
    assert!(world.import(text).await.unwrap().is_some());
    assert_ne!(announcement().await, before);
    assert_eq!(world.import(text).await, Ok(None));
    std::fs::remove_file(world.folder.path().join("consent.wav")).unwrap();
    assert!(world.import(text).await.unwrap_err()[0].contains("consent.wav"));
}
