//! Values by path become the [`Config`]; here stand the rules that concern more than one key.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::net::SocketAddr;
use std::path::Path;
use std::path::PathBuf;
use std::time::Duration;

use crate::base::limit::SHARDS_MAX;
use crate::machine::settings::Algorithm;
use crate::machine::settings::Limits;
use crate::machine::settings::MediaAddress;
use crate::machine::settings::PathPolicy;
use crate::machine::settings::Prefix;
use crate::machine::settings::RecordingSettings;
use crate::process::config::Config;
use crate::process::config::Directory;
use crate::process::config::Engine;
use crate::process::config::Hep;
use crate::process::config::Interface;
use crate::process::config::Level;
use crate::process::config::Log;
use crate::process::config::LogFormat;
use crate::process::config::MediaRules;
use crate::process::config::Node;
use crate::process::config::Recordings;
use crate::process::config::Retain;
use crate::process::config::S3;
use crate::process::config::Secret;
use crate::process::config::Side;
use crate::process::config::Tape;
use crate::process::config::document::Document;
use crate::process::config::value;
use crate::process::config::value::Value;

const INTERFACES_MAX: usize = 16;

/// Faults go into `document`; what is returned counts only if there are none.
pub(super) fn build(document: &mut Document, folder: &Path) -> Config {
    let config = Config {
        node: node(document, folder),
        engine: engine(document),
        interfaces: interfaces(document),
        side: side(document),
        log: log(document, folder),
        retain: Retain {
            cdrs: span(document, "retain.cdrs"),
            events: span(document, "retain.events"),
            audit: span(document, "retain.audit"),
            trace: span(document, "retain.trace"),
        },
        directory: Directory { import: path(document, "directory.import", folder) },
        hep: Hep {
            address: sockets(document, "hep.address").first().copied(),
            capture_id: u32::try_from(count(document, "hep.id")).unwrap_or(u32::MAX),
        },
        recording: RecordingSettings {
            early: flag(document, "record.early"),
            start_code: text(document, "record.start_code"),
            pause_code: text(document, "record.pause_code"),
        },
        media: MediaRules {
            low_ports: flag(document, "media.low_ports"),
            unheard: span(document, "media.unheard"),
            trunks: prefixes(document.value("media.trunks")),
        },
        limits: Limits {
            phone_calls: calls(document, "limits.phone_calls"),
            phone_calls_per_second: calls(document, "limits.phone_calls_per_second"),
            tenant_calls: calls(document, "limits.tenant_calls"),
            tenant_calls_per_second: calls(document, "limits.tenant_calls_per_second"),
        },
        tape: tape(document),
        recordings: recordings(document, folder),
        pinned: document.pinned(),
        lines: document.lines(),
        effective: document.effective(),
        folder: folder.to_owned(),
    };
    check_listeners(document, &config.interfaces);
    check_media(document, &config.interfaces);
    config
}

fn node(document: &mut Document, folder: &Path) -> Node {
    let data = path(document, "node.data", folder).unwrap_or_default();
    if data.as_os_str().is_empty() {
        document.refuse("node.data", "must name a folder");
    }
    let run = path(document, "node.run", folder).unwrap_or_else(|| data.join("run"));
    // sun_path holds 108 bytes with the final 0.
    if run.join("control.sock").as_os_str().len() > 107 {
        let place = if document.given("node.run").is_some() { "node.run" } else { "node.data" };
        document.refuse(place, "the path of the control socket is longer than 107 bytes: set a shorter node.run");
    }
    let mut name = text(document, "node.name");
    if name.is_empty() {
        name = host_name();
    }
    let roles = match document.value("node.roles") {
        Value::Texts(roles) => roles,
        other => unreachable_kind(&other),
    };
    if roles.is_empty() {
        document.refuse("node.roles", "name at least one role");
    }
    let textfile = path(document, "node.textfile", folder).unwrap_or_else(|| run.join("tipring.prom"));
    Node { name, data, run, textfile, user: text(document, "node.user"), drain: span(document, "node.drain"), roles }
}

fn host_name() -> String {
    let name = rustix::system::uname().nodename().to_string_lossy().into_owned();
    let legal: String = name.chars().filter(|c| c.is_ascii_alphanumeric() || "-._".contains(*c)).take(64).collect();
    if legal.is_empty() { "node".to_owned() } else { legal }
}

fn engine(document: &Document) -> Engine {
    let cpus = match document.value("engine.cpus") {
        Value::Cpus(cpus) => cpus,
        other => unreachable_kind(&other),
    };
    let shards = u8::try_from(count(document, "engine.shards")).unwrap_or(SHARDS_MAX as u8);
    let profile = document.profile_name();
    Engine { cpus, shards, profile, housekeeping: document.housekeeping().to_vec() }
}

fn interfaces(document: &mut Document) -> Vec<Interface> {
    if document.interfaces() > INTERFACES_MAX {
        document.refuse("interface[0]", format!("at most {INTERFACES_MAX} interfaces"));
    }
    let first = Interface {
        name: "default".to_owned(),
        udp: sockets(document, "sip.udp"),
        tcp: sockets(document, "sip.tcp"),
        advertise: Some(text(document, "sip.advertise")).filter(|text| !text.is_empty()),
        trusted: prefixes(document.value("sip.trusted")),
        path: path_policy(document.value("sip.path")),
        digest: algorithms(document.value("sip.digest")),
        media: media(document, "media.address", "media.advertise", "media"),
        ports: ports(document.value("media.ports")),
        from_anywhere: flag(document, "media.from_anywhere"),
    };
    let mut all = vec![first];
    for index in 0..document.interfaces().min(INTERFACES_MAX) {
        let further = interface(document, &format!("interface[{index}]"), &all[0]);
        if further.name.is_empty() || all.iter().any(|other| other.name == further.name) {
            document.refuse(&format!("interface[{index}]"), "needs a name of its own (\"default\" is taken)");
        }
        all.push(further);
    }
    all
}

/// What a further interface does not say of trust and digest is as in `[sip]`; sockets it has only as said.
fn interface(document: &mut Document, place: &str, first: &Interface) -> Interface {
    let given = |key: &str| document.given(&format!("{place}.{key}")).cloned();
    let name = given("name").map_or_else(String::new, as_text);
    let udp = given("sip.udp").map_or_else(Vec::new, as_sockets);
    let tcp = given("sip.tcp").map_or_else(Vec::new, as_sockets);
    let advertise = given("sip.advertise").map(as_text).filter(|text| !text.is_empty());
    let trusted = given("sip.trusted").map_or_else(|| first.trusted.clone(), prefixes);
    let path = given("sip.path").map_or(first.path, path_policy);
    let digest = given("sip.digest").map_or_else(|| first.digest.clone(), algorithms);
    let range = given("media.ports").map_or_else(|| ports(document.value("media.ports")), ports);
    let from_anywhere = match given("media.from_anywhere") {
        Some(Value::Flag(flag)) => flag,
        _ => first.from_anywhere,
    };
    let media = media(document, &format!("{place}.media.address"), &format!("{place}.media.advertise"), place);
    Interface { name, udp, tcp, advertise, trusted, path, digest, media, ports: range, from_anywhere }
}

fn path_policy(value: Value) -> PathPolicy {
    match as_text(value).as_str() {
        "supported" => PathPolicy::Supported,
        _ => PathPolicy::Always,
    }
}

/// `table` is blamed for an address that is missing.
fn media(document: &mut Document, address: &str, advertise: &str, table: &str) -> Vec<MediaAddress> {
    let addresses = |document: &Document, place: &str| match document.given(place).cloned() {
        Some(Value::Addresses(addresses)) => addresses,
        Some(other) => unreachable_kind(&other),
        None if place == "media.address" => vec![IpAddr::from([127, 0, 0, 1])],
        None => Vec::new(),
    };
    let local = addresses(document, address);
    let public = addresses(document, advertise);
    if local.is_empty() {
        let place = if document.given(address).is_some() { address } else { table };
        document.refuse(place, "media needs an address");
    }
    let matches = |(local, public): (&IpAddr, &IpAddr)| local.is_ipv4() == public.is_ipv4();
    if !public.is_empty() && (public.len() != local.len() || !local.iter().zip(&public).all(matches)) {
        document.refuse(advertise, "needs one address for each of `address`, in the same order");
        return Vec::new();
    }
    let public_of = |index: usize, local: IpAddr| public.get(index).copied().unwrap_or(local);
    local.iter().enumerate().map(|(i, &local)| MediaAddress { local, advertise: public_of(i, local) }).collect()
}

fn side(document: &mut Document) -> Side {
    let http = sockets(document, "side.http");
    let insecure = match document.value("side.insecure") {
        Value::Flag(flag) => flag,
        other => unreachable_kind(&other),
    };
    if let Some(open) = http.iter().find(|address| !address.ip().is_loopback())
        && !insecure
    {
        let message = format!("{open} is not loopback: it needs [side.tls] (not built yet) or insecure = true");
        document.refuse("side.http", message);
    }
    let database = match document.value("side.database") {
        Value::Secret(secret) => secret,
        other => unreachable_kind(&other),
    };
    if database != Secret::Text("sqlite".to_owned()) {
        let postgres = match &database {
            Secret::Text(text) => text.starts_with("postgres://") || text.starts_with("postgresql://"),
            Secret::File(_) => true,
        };
        document.refuse("side.database", if postgres { "PostgreSQL is not built yet" } else { "expected \"sqlite\"" });
    }
    Side { http, insecure, database }
}

fn tape(document: &mut Document) -> Tape {
    let tape = Tape {
        stall: span(document, "tape.stall"),
        media_mib_max: count(document, "tape.media_mib"),
        segment_mib: count(document, "tape.segment_mib"),
        segment_age: span(document, "tape.segment_age"),
        encrypt: flag(document, "tape.encrypt"),
    };
    if tape.segment_mib == 0 {
        document.refuse("tape.segment_mib", "must be at least 1");
    }
    if tape.media_mib_max < tape.segment_mib * 2 {
        document.refuse("tape.media_mib", "must have room for two segments");
    }
    tape
}

/// A file of a secret larger than this is none.
const SECRET_BYTES_MAX: u64 = 4_096;

fn recordings(document: &mut Document, folder: &Path) -> Recordings {
    // A text that is refused has its fault already, and here the default.
    let store = value::parse_store(&text(document, "recordings.store"));
    let Ok(Some((bucket, prefix))) = store else { return Recordings::Folder };
    if !cfg!(feature = "s3") {
        let message = "this build has no object stores: build with `--features s3`, or say \"folder\"";
        document.refuse("recordings.store", message);
        return Recordings::Folder;
    }
    Recordings::S3(S3 {
        bucket,
        prefix,
        endpoint: text(document, "recordings.endpoint"),
        region: text(document, "recordings.region"),
        access_key: secret(document, "recordings.access_key", folder),
        secret_key: secret(document, "recordings.secret_key", folder),
    })
}

/// One that must not be empty; a file is read, without the space around what it says.
fn secret(document: &mut Document, key: &str, folder: &Path) -> Secret {
    let found = match document.value(key) {
        Value::Secret(Secret::Text(text)) => Ok(text),
        Value::Secret(Secret::File(file)) => read_secret(&folder.join(file)),
        other => unreachable_kind(&other),
    };
    match found {
        Ok(text) if text.is_empty() => document.refuse(key, "an object store needs it"),
        Ok(text) => return Secret::Text(text),
        Err(error) => document.refuse(key, format!("its file cannot be read: {error}")),
    }
    Secret::Text(String::new())
}

fn read_secret(file: &Path) -> std::io::Result<String> {
    if std::fs::metadata(file)?.len() > SECRET_BYTES_MAX {
        return Err(std::io::Error::other(format!("larger than {SECRET_BYTES_MAX} bytes")));
    }
    Ok(std::fs::read_to_string(file)?.trim().to_owned())
}

fn log(document: &mut Document, folder: &Path) -> Log {
    let level = match text(document, "log.level").as_str() {
        "error" => Level::Error,
        "warn" => Level::Warn,
        "debug" => Level::Debug,
        "trace" => Level::Trace,
        _ => Level::Info,
    };
    let format = if text(document, "log.format") == "json" { LogFormat::Json } else { LogFormat::Text };
    Log { level, format, file: path(document, "log.file", folder) }
}

fn check_listeners(document: &mut Document, interfaces: &[Interface]) {
    for transport in ["udp", "tcp"] {
        let mut seen: BTreeSet<SocketAddr> = BTreeSet::new();
        for (index, interface) in interfaces.iter().enumerate() {
            let place = match index {
                0 => format!("sip.{transport}"),
                _ => format!("interface[{}].sip.{transport}", index - 1),
            };
            let addresses = if transport == "udp" { &interface.udp } else { &interface.tcp };
            for address in addresses {
                if !seen.insert(*address) {
                    document.refuse(&place, format!("{address} is named twice"));
                }
            }
        }
    }
}

fn check_media(document: &mut Document, interfaces: &[Interface]) {
    for (index, one) in interfaces.iter().enumerate() {
        for other in &interfaces[..index] {
            let overlap = one.ports.0 <= other.ports.1 && other.ports.0 <= one.ports.1;
            let shared = one.media.iter().find(|m| other.media.iter().any(|o| o.local == m.local));
            if let Some(shared) = shared.filter(|_| overlap) {
                let place = format!("interface[{}]", index - 1);
                let message = format!("media on {} overlaps the ports of interface {:?}", shared.local, other.name);
                document.refuse(&place, message);
            }
        }
    }
}

fn span(document: &Document, path: &str) -> Duration {
    match document.value(path) {
        Value::Span(span) => span,
        other => unreachable_kind(&other),
    }
}

fn flag(document: &Document, path: &str) -> bool {
    match document.value(path) {
        Value::Flag(flag) => flag,
        other => unreachable_kind(&other),
    }
}

fn text(document: &Document, path: &str) -> String {
    as_text(document.value(path))
}

fn count(document: &Document, path: &str) -> u64 {
    match document.value(path) {
        Value::Count(count) => count,
        other => unreachable_kind(&other),
    }
}

fn calls(document: &Document, path: &str) -> u32 {
    u32::try_from(count(document, path)).unwrap_or(u32::MAX)
}

/// `None` for an empty text; a relative path is relative to the file.
fn path(document: &Document, key: &str, folder: &Path) -> Option<PathBuf> {
    match document.value(key) {
        Value::Path(path) => Some(path).filter(|path| !path.as_os_str().is_empty()).map(|path| folder.join(path)),
        other => unreachable_kind(&other),
    }
}

fn sockets(document: &Document, path: &str) -> Vec<SocketAddr> {
    as_sockets(document.value(path))
}

fn as_text(value: Value) -> String {
    match value {
        Value::Text(text) => text,
        other => unreachable_kind(&other),
    }
}

fn as_sockets(value: Value) -> Vec<SocketAddr> {
    match value {
        Value::Sockets(sockets) => sockets,
        other => unreachable_kind(&other),
    }
}

fn prefixes(value: Value) -> Vec<Prefix> {
    match value {
        Value::Prefixes(prefixes) => prefixes,
        other => unreachable_kind(&other),
    }
}

fn algorithms(value: Value) -> Vec<Algorithm> {
    match value {
        Value::Algorithms(algorithms) => algorithms,
        other => unreachable_kind(&other),
    }
}

fn ports(value: Value) -> (u16, u16) {
    match value {
        Value::Ports(first, last) => (first, last),
        other => unreachable_kind(&other),
    }
}

/// A key is read as another kind than it is declared: our own mistake, which every start would show.
fn unreachable_kind(value: &Value) -> ! {
    unreachable!("a key of another kind: {value:?}")
}

#[cfg(test)]
pub(super) fn is_name(text: &str) -> bool {
    value::parse_name(text).is_ok()
}
