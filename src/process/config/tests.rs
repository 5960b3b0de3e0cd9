//! The configuration as people write it, right and wrong.

use std::path::Path;
use std::path::PathBuf;
use std::time::Duration;

use crate::machine::settings::Algorithm;
use crate::process::config::Config;
use crate::process::config::Level;
use crate::process::config::LogFormat;
use crate::process::config::build;
use crate::process::config::page;
use crate::process::config::sample;

fn parse(text: &str) -> Result<Config, Vec<String>> {
    Config::parse(text, Path::new("t.toml"), Path::new("/etc/tipring"))
        .map_err(|faults| faults.iter().map(ToString::to_string).collect())
}

#[test]
fn an_empty_file_is_all_defaults() {
    let config = parse("").unwrap();
    assert_eq!(config.node.data, PathBuf::from("/etc/tipring/./tipring-data"));
    assert_eq!(config.node.run, PathBuf::from("/etc/tipring/./tipring-data/run"));
    assert_eq!(config.node.drain, Duration::from_secs(15 * 60));
    assert!(!config.node.name.is_empty() && build::is_name(&config.node.name));
    assert_eq!((config.engine.cpus, config.engine.shards), (None, 0));
    let [interface] = &config.interfaces[..] else { panic!("one interface") };
    assert_eq!(interface.udp, ["127.0.0.1:5060".parse().unwrap()]);
    assert_eq!(interface.tcp, interface.udp);
    assert_eq!(interface.digest, [Algorithm::Sha256, Algorithm::Md5]);
    assert_eq!(interface.ports, (16384, 32767));
    assert_eq!(config.side.http, ["127.0.0.1:8080".parse().unwrap()]);
    assert_eq!((config.log.level, config.log.format), (Level::Info, LogFormat::Text));
    assert_eq!(config.retain.audit, Duration::from_secs(2 * 365 * 86_400));
    assert_eq!(config.directory.import, None);
    assert_eq!(config.hep.address, None);
}

#[test]
fn what_the_file_says_counts() {
    let config = parse(
        r#"
        [node]
        name = "a1"
        run = "/run/tipring"
        [engine]
        cpus = "0,2-4"
        shards = 5
        [sip]
        udp = ["[::1]:5060", "192.0.2.1:5062"]
        trusted = ["127.0.0.0/8", "2001:db8::1"]
        digest = ["SHA-512-256"]
        [media]
        address = ["192.0.2.1", "2001:db8::7"]
        advertise = ["203.0.113.1", "2001:db8::8"]
        ports = "20001-20010"
        [log]
        format = "json"
        level = "debug"
        file = "tipring.log"
        "#,
    )
    .unwrap();
    assert_eq!(config.node.run, PathBuf::from("/run/tipring"));
    assert_eq!(config.engine.cpus, Some(vec![0, 2, 3, 4]));
    let interface = &config.interfaces[0];
    assert_eq!(interface.udp.len(), 2);
    assert_eq!((interface.trusted[0].bits, interface.trusted[1].bits), (8, 128));
    assert_eq!(interface.digest, [Algorithm::Sha512_256]);
    assert_eq!(interface.media[1].advertise.to_string(), "2001:db8::8");
    assert_eq!(config.log.file, Some(PathBuf::from("/etc/tipring/tipring.log")));
}

#[test]
fn interfaces_have_the_keys_of_sip_and_media() {
    let config = parse(
        r#"
        [sip]
        trusted = ["10.0.0.0/8"]
        [[interface]]
        name = "wan"
        udp = ["192.0.2.1:5060"]
        address = "192.0.2.1"
        advertise = "203.0.113.1"
        [[interface]]
        name = "lan"
        [interface.sip]
        tcp = ["10.0.0.1:5060"]
        advertise = "sip.example.com:5080"
        [interface.media]
        address = "10.0.0.1"
        ports = "30000-30099"
        "#,
    )
    .unwrap();
    let [_, wan, lan] = &config.interfaces[..] else { panic!("three interfaces") };
    assert_eq!((wan.advertise.as_deref(), wan.tcp.len()), (Some("203.0.113.1"), 0));
    assert_eq!(wan.media[0].advertise.to_string(), "203.0.113.1");
    assert_eq!(wan.trusted, config.interfaces[0].trusted);
    assert_eq!(lan.advertise.as_deref(), Some("sip.example.com:5080"));
    assert_eq!((lan.ports, lan.udp.len()), ((30000, 30099), 0));
}

#[test]
fn every_fault_is_reported_with_its_line_and_key() {
    let faults = parse(
        "[node]\ndrain = \"soon\"\nnmae = \"x\"\n\n[sip]\nudp = [\"127.0.0.1:5060\",\n  \"here\"]\n[oops]\n[side]\nhttp = \"0.0.0.0:80\"\n",
    )
    .unwrap_err();
    let expect = [
        "t.toml:2: node.drain: ",
        "t.toml:3: node.nmae: unknown key",
        "t.toml:7: sip.udp: \"here\" is not an address",
        "t.toml:8: oops: unknown table",
        "t.toml:10: side.http: ",
    ];
    assert_eq!(faults.len(), expect.len(), "{faults:#?}");
    for (fault, start) in faults.iter().zip(expect) {
        assert!(fault.starts_with(start), "{fault}");
    }
}

#[test]
fn what_cannot_be_right_is_refused() {
    let check = |text: &str, part: &str| {
        let faults = parse(text).unwrap_err();
        assert!(faults.iter().any(|fault| fault.contains(part)), "{text}: {faults:#?}");
    };
    check("[sip]\nudp = [\"127.0.0.1:0\"]", "the port must be");
    check("[sip]\nudp = \"127.0.0.1:5060\"", "expected a list");
    check("[sip]\nudp = [\"127.0.0.1:5060\", \"127.0.0.1:5060\"]", "named twice");
    check("[sip]\ntls = [\"127.0.0.1:5061\"]", "t.toml:2: sip.tls: not built yet");
    check("[side.tls]\ncert = \"x\"", "side.tls: not built yet");
    check("[side]\ndatabase = \"postgres://u:hunter2@db/x\"", "side.database: PostgreSQL is not built yet");
    check("[side]\ndatabase = { file = \"x\", more = 1 }", "{ file = \"…\" }");
    check("[sip]\npath = \"never\"", "always");
    check("[sip]\ndigest = []", "at least one");
    check("[sip]\ndigest = [\"SHA-1\"]", "none of");
    check("[sip]\ntrusted = [\"10.0.0.0/33\"]", "not a prefix");
    check("[sip]\nadvertise = \"a b\"", "not host");
    check("[media]\naddress = \"0.0.0.0\"", "not all of them");
    check("[media]\naddress = [\"10.0.0.1\", \"10.0.0.2\"]", "at most one IPv4");
    check("[media]\naddress = \"\"", "media.address: media needs an address");
    check("[media]\nadvertise = \"::1\"", "in the same order");
    check("[media]\nports = \"20001-20002\"", "even port");
    check("[media]\nports = \"9\"", "not a range");
    for store in ["s3://", "s3://ab", "s3://Bucket", "s3://bucket/a//b", "s3://bucket/../x", "gs://bucket", ""] {
        check(&format!("[recordings]\nstore = {store:?}"), "t.toml:2: recordings.store: ");
    }
    for endpoint in ["minio:9000", "ftp://minio", "https://", "https://u:p@minio", "https://minio/path"] {
        check(&format!("[recordings]\nendpoint = {endpoint:?}"), "t.toml:2: recordings.endpoint: ");
    }
    check("[engine]\ncpus = \"3-1\"", "neither");
    check("[engine]\nshards = 65", "from 0 to 64");
    check("[engine]\nshards = -1", "from 0 to 64");
    check("[node]\nroles = [\"trunks\"]", "none of phones");
    check("[node]\nname = \"a b\"", "not a name");
    check("[node]\ndrain = \"99999999999999999y\"", "more than 100 years");
    check("[[interface]]\nudp = []\naddress = \"10.0.0.1\"", "needs a name");
    check("[[interface]]\nname = \"x\"", "interface[0]: media needs an address");
    check("[[interface]]\nname = \"x\"\naddress = \"127.0.0.1\"", "overlaps");
    check("[[interface]]\nname = \"x\"\naddress = \"10.0.0.1\"\nwhat = 1", "what: unknown key");
    check("[log]\nlevel = 3", "expected a string, found integer");
    check("name = \"x\"", "name: unknown key");
    check("[sip\nudp = 3", "t.toml:1:");
    check("[log]\nlevel = \"info\"\nlevel = \"warn\"", "t.toml:3:");
}

#[test]
fn secrets_are_not_shown() {
    let faults = parse("[side]\ndatabase = \"postgres://u:hunter2@db/x\"").unwrap_err();
    assert!(!format!("{faults:?}").contains("hunter2"));
}

#[test]
fn keys_that_need_a_restart_are_known_by_name() {
    let pinned = |text: &str| parse(text).unwrap().pinned;
    let names = |one: &str, other: &str| {
        let (one, other) = (pinned(one), pinned(other));
        let changed = other.into_iter().filter(|entry| !one.contains(entry)).map(|(name, _)| name);
        changed.collect::<Vec<_>>()
    };
    assert_eq!(names("", "[sip]\nudp = [\"127.0.0.1:5070\"]\ntrusted = [\"10.0.0.0/8\"]"), ["sip.udp"]);
    assert_eq!(names("", "[log]\nlevel = \"debug\""), [""; 0]);
    let wan = "[[interface]]\nname = \"wan\"\naddress = \"10.0.0.1\"";
    assert_eq!(names("", wan), ["interface[0].media.address", "interface[0].name"]);
}

#[test]
fn config_page() {
    for (name, text) in [("config.md", page()), ("tipring.toml", sample())] {
        let path = format!("{}/docs/{name}", env!("CARGO_MANIFEST_DIR"));
        if std::env::var_os("UPDATE_DOCS").is_some() {
            std::fs::write(&path, &text).unwrap();
        }
        let stands = std::fs::read_to_string(&path).unwrap_or_default();
        assert!(stands == text, "docs/{name} differs: UPDATE_DOCS=1 cargo test --lib config_page");
    }
}

#[test]
fn the_sample_says_what_holds_without_it() {
    let (sample, empty) = (parse(&sample()).unwrap(), parse("").unwrap());
    assert_eq!(sample.pinned, empty.pinned);
    assert_eq!((sample.interfaces, sample.log, sample.retain), (empty.interfaces, empty.log, empty.retain));
    assert_eq!((sample.recording, sample.hep, sample.directory), (empty.recording, empty.hep, empty.directory));
    assert_eq!(sample.node.drain, empty.node.drain);
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/tipring.toml");
    assert_eq!(crate::process::plan::check(Path::new(file)), [""; 0], "what `tipring check` says");
}

#[cfg(not(feature = "s3"))]
#[test]
fn a_build_without_object_stores_says_so() {
    let faults = parse("[recordings]\nstore = \"s3://bucket\"\naccess_key = \"a\"\nsecret_key = \"b\"").unwrap_err();
    assert_eq!(faults.len(), 1);
    assert!(faults[0].starts_with("t.toml:2: recordings.store: ") && faults[0].contains("--features s3"), "{faults:?}");
}

#[cfg(feature = "s3")]
#[test]
fn an_object_store_has_a_name_and_credentials() {
    use crate::process::config::Recordings;
    use crate::process::config::Secret;
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("secret"), "hunter2\n").unwrap();
    let text = "[recordings]\nstore = \"s3://bucket/a/b\"\nendpoint = \"http://[::1]:9000\"\n\
                access_key = \"me\"\nsecret_key = { file = \"secret\" }";
    let config = Config::parse(text, Path::new("t.toml"), folder.path()).unwrap();
    assert!(!format!("{config:?}").contains("hunter2"));
    let Recordings::S3(s3) = config.recordings else { panic!("a bucket") };
    assert_eq!((s3.bucket.as_str(), s3.prefix.as_str(), s3.region.as_str()), ("bucket", "a/b", "us-east-1"));
    assert_eq!(s3.secret_key, Secret::Text("hunter2".to_owned()));
    let faults = parse("[recordings]\nstore = \"s3://bucket\"\nsecret_key = { file = \"nowhere\" }").unwrap_err();
    assert!(faults.iter().any(|fault| fault.contains("recordings.access_key: an object store needs it")), "{faults:?}");
    assert!(faults.iter().any(|fault| fault.contains("recordings.secret_key: its file cannot be read")), "{faults:?}");
}
