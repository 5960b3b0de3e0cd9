//! The directory file: TOML to checked entries, with every fault named by line and key.
//!
//! Checks what the file says by itself; whether it fits what the database already holds is [`super::import`]'s business.

use std::collections::BTreeMap;

use toml::de::DeTable;
use toml::de::DeValue;

use crate::base::limit;
use crate::machine::settings::Algorithm;
use crate::process::side::directory::secret::Secret;
use crate::process::side::directory::secret::from_hex;
pub use crate::process::side::directory::toml_fields::Fault;
use crate::process::side::directory::toml_fields::Faults;
use crate::process::side::directory::toml_fields::Fields;
use crate::process::side::directory::toml_fields::Placed;
use crate::wire::g711::Law;
use crate::wire::g711::SAMPLES_PER_SECOND;
use crate::wire::link::Announce;
use crate::wire::link::Ha1;
use crate::wire::link::Record;
use crate::wire::link::RecordCodecs;
use crate::wire::link::Symmetric;
use crate::wire::wav;
use crate::wire::wav::Wav;

const SECRET_FILE_BYTES_MAX: u64 = 64 * 1024;
/// PCM, and room for what else a WAV file may hold.
const ANNOUNCEMENT_FILE_BYTES_MAX: u64 = 4 * limit::ANNOUNCEMENT_SAMPLES_MAX as u64;
/// Of any file that a directory file names.
pub(super) const FILE_BYTES_MAX: u64 = ANNOUNCEMENT_FILE_BYTES_MAX;
const _: () = assert!(SECRET_FILE_BYTES_MAX <= FILE_BYTES_MAX);

/// What one file says.
pub struct DirectoryFile {
    pub(super) tenants: Vec<TenantEntry>,
    pub(super) phones: Vec<PhoneEntry>,
}

pub(super) struct TenantEntry {
    pub(super) line: usize,
    pub(super) name: String,
    pub(super) domain: String,
    pub(super) aliases: Vec<String>,
    pub(super) realm: String,
    pub(super) default: bool,
    pub(super) record: Record,
    pub(super) announce: Announce,
    /// Names of algorithms, in the order in which they are offered; empty: the node's.
    pub(super) digest: Vec<&'static str>,
    pub(super) md5_fallback: bool,
    pub(super) record_codecs: RecordCodecs,
    /// How long recordings are kept; 0: until they are deleted.
    pub(super) recording_days: u32,
}

pub(super) struct PhoneEntry {
    pub(super) line: usize,
    pub(super) tenant: String,
    pub(super) user: String,
    pub(super) auth_user: String,
    pub(super) extension: String,
    pub(super) numbers: Vec<String>,
    pub(super) secret: Secret,
    pub(super) name: String,
    pub(super) record: Record,
    pub(super) symmetric: Symmetric,
    pub(super) external_id: String,
    /// As the tenant's; empty: the tenant's.
    pub(super) digest: Vec<&'static str>,
}

/// A hundred years.
const RECORDING_DAYS_MAX: u32 = 36_500;

/// Reads a file named by a `{ file = "…" }`, of which no more than so many bytes are wanted.
pub type ReadFile<'a> = &'a dyn Fn(&str, u64) -> Result<Vec<u8>, String>;

/// Everything the file says, or everything that is wrong with it.
pub fn parse(text: &str, read_file: ReadFile<'_>) -> Result<DirectoryFile, Vec<Fault>> {
    let mut faults = Faults::new(text);
    let (document, errors) = DeTable::parse_recoverable(text);
    for error in &errors {
        let line = error.span().map_or(0, |span| faults.line(span.start));
        faults.note(line, "TOML", error.message());
    }
    if !errors.is_empty() {
        return Err(faults.found);
    }
    let mut root = Fields::new("directory", 1, document.get_ref());
    let mut file = DirectoryFile { tenants: Vec::new(), phones: Vec::new() };
    for (line, table) in tables(&mut root, "tenant", &mut faults) {
        let fields = Fields::new("tenant", line, table);
        file.tenants.extend(tenant(fields, read_file, &mut faults));
    }
    for (line, table) in tables(&mut root, "phone", &mut faults) {
        let fields = Fields::new("phone", line, table);
        file.phones.extend(phone(fields, read_file, &mut faults));
    }
    root.finish(&mut faults);
    check_repetition(&file, &mut faults);
    if faults.found.is_empty() { Ok(file) } else { Err(sorted(faults.found)) }
}

fn sorted(mut faults: Vec<Fault>) -> Vec<Fault> {
    faults.sort_by_key(|fault| fault.line);
    faults
}

fn tables<'t, 'i>(root: &mut Fields<'t, 'i>, name: &'static str, faults: &mut Faults) -> Vec<(usize, &'t DeTable<'i>)> {
    let Some(value) = root.take(name) else { return Vec::new() };
    let Some(array) = value.get_ref().as_array() else {
        faults.note(faults.line(value.span().start), name, format!("write [[{name}]]"));
        return Vec::new();
    };
    let mut found = Vec::new();
    for item in array.iter() {
        let line = faults.line(item.span().start);
        match item.get_ref() {
            DeValue::Table(table) => found.push((line, table)),
            _ => faults.note(line, name, format!("write [[{name}]]")),
        }
    }
    let max = if name == "tenant" { limit::TENANTS_MAX } else { limit::PHONES_MAX };
    if found.len() > max {
        faults.note(1, name, format!("{} of them; at most {max} are possible", found.len()));
        found.truncate(max);
    }
    found
}

/// Also with faults, so that what it says twice is found beside them.
fn tenant(mut fields: Fields<'_, '_>, read_file: ReadFile<'_>, faults: &mut Faults) -> Option<TenantEntry> {
    let line = fields.line;
    let name = fields.required("name", faults);
    if let Some(name) = &name
        && !is_tenant_name(&name.value)
    {
        faults.note(name.line, &fields.key("name"), "must match [a-z0-9-]{1,32}");
    }
    let domain = fields.required("domain", faults).map(|domain| checked_domain(domain, "tenant.domain", faults));
    let aliases: Vec<_> = fields.texts("aliases", faults);
    let aliases: Vec<_> = aliases.into_iter().map(|alias| checked_domain(alias, "tenant.aliases", faults)).collect();
    if aliases.len() > limit::ALIASES_PER_TENANT_MAX {
        faults.note(line, "tenant.aliases", format!("at most {} are possible", limit::ALIASES_PER_TENANT_MAX));
    }
    let realm = checked(fields.text("realm", faults), "tenant.realm", is_quotable, faults);
    let default = fields.flag("default", faults);
    let digest = offered(&mut fields, faults);
    let md5_fallback = fields.flag_or("md5_fallback", true, faults);
    let record = record(&mut fields, faults);
    let record_codecs = record_codecs(&mut fields, faults);
    let announce = announce(&mut fields, read_file, faults);
    let recording_days = fields.count("recording_days", RECORDING_DAYS_MAX, faults);
    fields.finish(faults);
    let domain = domain?;
    let realm = realm.unwrap_or_else(|| domain.clone());
    Some(TenantEntry {
        line,
        name: name?.value,
        domain,
        aliases,
        realm,
        default,
        digest,
        md5_fallback,
        record,
        record_codecs,
        announce,
        recording_days,
    })
}

/// The same.
fn phone(mut fields: Fields<'_, '_>, read_file: ReadFile<'_>, faults: &mut Faults) -> Option<PhoneEntry> {
    let line = fields.line;
    let tenant = fields.required("tenant", faults);
    let user = fields.required("user", faults);
    let user = checked(user, "phone.user", is_sip_user, faults);
    let auth_user = checked(fields.text("auth_user", faults), "phone.auth_user", is_auth_user, faults);
    let extension = checked(fields.text("extension", faults), "phone.extension", is_sip_user, faults);
    let numbers = fields.texts("numbers", faults);
    for number in &numbers {
        if !is_e164(&number.value) {
            faults.note(number.line, "phone.numbers", "must be E.164: + and 2 to 15 digits, the first not 0");
        }
    }
    if numbers.len() > limit::NUMBERS_PER_PHONE_MAX {
        faults.note(line, "phone.numbers", format!("at most {} are possible", limit::NUMBERS_PER_PHONE_MAX));
    }
    let digest = offered(&mut fields, faults);
    let secret = secret(&mut fields, read_file, faults);
    let name = checked(fields.text("name", faults), "phone.name", is_display, faults);
    let record = record(&mut fields, faults);
    let symmetric = symmetric(&mut fields, faults);
    let external_id = checked(fields.text("external_id", faults), "phone.external_id", is_display, faults);
    fields.finish(faults);
    let user = user?;
    Some(PhoneEntry {
        line,
        tenant: tenant?.value,
        auth_user: auth_user.unwrap_or_else(|| user.clone()),
        extension: extension.unwrap_or_else(|| user.clone()),
        user,
        numbers: numbers.into_iter().map(|number| number.value).collect(),
        secret: secret?,
        name: name.unwrap_or_default(),
        record,
        symmetric,
        external_id: external_id.unwrap_or_default(),
        digest,
    })
}

fn offered(fields: &mut Fields<'_, '_>, faults: &mut Faults) -> Vec<&'static str> {
    let mut offered = Vec::new();
    let key = fields.key("digest");
    for name in fields.texts("digest", faults) {
        match Algorithm::parse(name.value.as_bytes()).map(Algorithm::name) {
            Some(known) if !offered.contains(&known) => offered.push(known),
            Some(known) => faults.note(name.line, &key, format!("names {known} twice")),
            None => faults.note(name.line, &key, "must be of MD5, SHA-256 and SHA-512-256"),
        }
    }
    offered
}

fn record(fields: &mut Fields<'_, '_>, faults: &mut Faults) -> Record {
    let Some(text) = fields.text("record", faults) else { return Record::Never };
    match text.value.as_str() {
        "never" => Record::Never,
        "always" => Record::Always,
        "on-demand" => Record::OnDemand,
        _ => {
            faults.note(text.line, &fields.key("record"), "must be never, always or on-demand");
            Record::Never
        }
    }
}

fn record_codecs(fields: &mut Fields<'_, '_>, faults: &mut Faults) -> RecordCodecs {
    let Some(text) = fields.text("record_codecs", faults) else { return RecordCodecs::Any };
    match text.value.as_str() {
        "any" => RecordCodecs::Any,
        "decodable" => RecordCodecs::Decodable,
        _ => {
            faults.note(text.line, &fields.key("record_codecs"), "must be any or decodable");
            RecordCodecs::Any
        }
    }
}

fn symmetric(fields: &mut Fields<'_, '_>, faults: &mut Faults) -> Symmetric {
    let Some(text) = fields.text("symmetric", faults) else { return Symmetric::Auto };
    let known = [Symmetric::Auto, Symmetric::Always, Symmetric::Never];
    known.into_iter().find(|symmetric| symmetric.name() == text.value).unwrap_or_else(|| {
        faults.note(text.line, &fields.key("symmetric"), "must be auto, always or never");
        Symmetric::Auto
    })
}

fn announce(fields: &mut Fields<'_, '_>, read_file: ReadFile<'_>, faults: &mut Faults) -> Announce {
    let Some(value) = fields.take("announce") else { return Announce::None };
    let (line, key) = (faults.line(value.span().start), fields.key("announce"));
    match (value.get_ref().as_str(), path_in(value.get_ref())) {
        (Some("none"), _) => return Announce::None,
        (Some("tone"), _) => return Announce::Tone,
        (_, Some(path)) => match read_file(path, ANNOUNCEMENT_FILE_BYTES_MAX).and_then(|bytes| announcement(&bytes)) {
            Ok(audio) => return Announce::File { audio },
            Err(error) => faults.note(line, &key, format!("{path}: {error}")),
        },
        _ => faults.note(line, &key, "must be none, tone or { file = \"….wav\" }"),
    }
    Announce::None
}

/// The audio of a WAV file as µ-law.
fn announcement(bytes: &[u8]) -> Result<Vec<u8>, String> {
    let wav = Wav::parse(bytes).map_err(|error| error.to_string())?;
    let wav::Format { channels, rate, .. } = wav.format;
    if (channels, rate) != (1, SAMPLES_PER_SECOND) {
        return Err(format!("has {channels} channels of {rate} Hz: one of {SAMPLES_PER_SECOND} Hz is wanted"));
    }
    if wav.is_empty() || wav.is_cut {
        return Err("has no audio, or not all of it".to_owned());
    }
    if wav.len() > limit::ANNOUNCEMENT_SAMPLES_MAX {
        let seconds = limit::ANNOUNCEMENT_SAMPLES_MAX / SAMPLES_PER_SECOND as usize;
        return Err(format!("is longer than {seconds} s"));
    }
    Ok(wav.samples(0).map(|sample| Law::Mu.encode(sample)).collect())
}

fn secret(fields: &mut Fields<'_, '_>, read_file: ReadFile<'_>, faults: &mut Faults) -> Option<Secret> {
    let password = fields.take("password");
    let ha1 = fields.take("ha1");
    let line = fields.line;
    match (password, ha1) {
        (Some(_), Some(ha1)) => {
            faults.note(faults.line(ha1.span().start), "phone.ha1", "stands alone: give either password or ha1");
            None
        }
        (None, None) => {
            faults.note(line, "phone.password", "is missing: give password or ha1");
            None
        }
        (Some(value), None) => {
            let line = faults.line(value.span().start);
            let password = secret_text(value.get_ref(), line, "phone.password", read_file, faults)?;
            if password.is_empty() || password.len() > 256 || password.chars().any(char::is_control) {
                faults.note(line, "phone.password", "must have 1 to 256 bytes without control characters");
                return None;
            }
            Some(Secret::Password(password))
        }
        (None, Some(value)) => {
            let line = faults.line(value.span().start);
            let Some(table) = value.get_ref().as_table() else {
                faults.note(line, "phone.ha1", "write { MD5 = \"…\", SHA-256 = \"…\" }");
                return None;
            };
            digests(Fields::new("phone.ha1", line, table), read_file, faults)
        }
    }
}

fn digests(mut fields: Fields<'_, '_>, read_file: ReadFile<'_>, faults: &mut Faults) -> Option<Secret> {
    let before = faults.found.len();
    let md5 = digest::<16>(&mut fields, "MD5", read_file, faults);
    let sha256 = digest::<32>(&mut fields, "SHA-256", read_file, faults);
    let sha512_256 = digest::<32>(&mut fields, "SHA-512-256", read_file, faults);
    let line = fields.line;
    fields.finish(faults);
    let ha1 = Ha1 { md5, sha256, sha512_256 };
    if faults.found.len() == before && ha1 == Ha1::default() {
        faults.note(line, "phone.ha1", "names no algorithm: MD5, SHA-256 or SHA-512-256");
    }
    (faults.found.len() == before).then_some(Secret::Digests(ha1))
}

fn digest<const N: usize>(
    fields: &mut Fields<'_, '_>,
    name: &'static str,
    read_file: ReadFile<'_>,
    faults: &mut Faults,
) -> Option<[u8; N]> {
    let value = fields.take(name)?;
    let line = faults.line(value.span().start);
    let key = fields.key(name);
    let text = secret_text(value.get_ref(), line, &key, read_file, faults)?;
    let bytes = from_hex::<N>(&text);
    if bytes.is_none() {
        faults.note(line, &key, format!("must be {} hexadecimal digits", 2 * N));
    }
    bytes
}

fn secret_text(
    value: &DeValue<'_>,
    line: usize,
    key: &str,
    read_file: ReadFile<'_>,
    faults: &mut Faults,
) -> Option<String> {
    if let DeValue::String(text) = value {
        return Some(text.to_string());
    }
    let Some(path) = path_in(value) else {
        faults.note(line, key, "expected a string or { file = \"…\" }");
        return None;
    };
    let read = read_file(path, SECRET_FILE_BYTES_MAX);
    match read.and_then(|bytes| String::from_utf8(bytes).map_err(|_| "is no text".to_owned())) {
        Ok(text) => Some(text.trim_end_matches(['\r', '\n']).to_owned()),
        Err(error) => {
            faults.note(line, key, format!("{path}: {error}"));
            None
        }
    }
}

fn path_in<'v>(value: &'v DeValue<'_>) -> Option<&'v str> {
    value.as_table().filter(|table| table.len() == 1)?.get("file")?.get_ref().as_str()
}

/// What one file may say once only.
fn check_repetition(file: &DirectoryFile, faults: &mut Faults) {
    let mut seen: BTreeMap<(&str, &str, &str), usize> = BTreeMap::new();
    let mut once = |kind: &'static str, scope, value, line: usize, faults: &mut Faults| {
        if let Some(first) = seen.insert((kind, scope, value), line) {
            faults.note(line, kind, format!("{value} stands in line {first} already"));
        }
    };
    for tenant in &file.tenants {
        once("tenant.name", "", &tenant.name, tenant.line, faults);
        for domain in std::iter::once(&tenant.domain).chain(&tenant.aliases) {
            once("tenant.domain", "", domain, tenant.line, faults);
        }
        if tenant.default {
            once("tenant.default", "", "true", tenant.line, faults);
        }
    }
    for phone in &file.phones {
        once("phone.user", &phone.tenant, &phone.user, phone.line, faults);
        once("phone.auth_user", &phone.tenant, &phone.auth_user, phone.line, faults);
        for number in &phone.numbers {
            once("phone.numbers", "", number, phone.line, faults);
        }
    }
}

/// `None` where the text is absent or empty: the default applies.
fn checked(text: Option<Placed<String>>, key: &str, fits: fn(&str) -> bool, faults: &mut Faults) -> Option<String> {
    let text = text.filter(|text| !text.value.is_empty())?;
    if !fits(&text.value) {
        faults.note(text.line, key, "has characters that cannot stand there, or is too long");
    }
    Some(text.value)
}

/// Domains compare without case and final dot.
fn checked_domain(domain: Placed<String>, key: &str, faults: &mut Faults) -> String {
    let text = domain.value.strip_suffix('.').unwrap_or(&domain.value).to_ascii_lowercase();
    if !is_domain(&text) {
        faults.note(domain.line, key, "must be a host name or an IP address, without a port");
    }
    text
}

fn is_tenant_name(text: &str) -> bool {
    (1..=32).contains(&text.len())
        && text.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-')
}

fn is_domain(text: &str) -> bool {
    let is_label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_')
    };
    let bracketed = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
    match bracketed {
        Some(address) => address.parse::<std::net::Ipv6Addr>().is_ok(),
        None => text.len() <= 253 && text.split('.').all(is_label),
    }
}

// RFC 3261 §25.1: user = 1*( unreserved / escaped / user-unreserved ), here without escapes; `#` is one that dial codes have.
fn is_sip_user(text: &str) -> bool {
    text.len() <= 64 && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.!~*'()&=+$,;?/#".contains(&byte))
}

/// RFC 7616 §3.4.4: a user name in HA1 ends at the colon, so it cannot have one.
fn is_auth_user(text: &str) -> bool {
    text.len() <= 128 && is_quotable(text) && !text.contains(':')
}

/// Stands in a quoted string without escapes.
fn is_quotable(text: &str) -> bool {
    text.len() <= 253 && text.bytes().all(|byte| (b' '..=b'~').contains(&byte) && byte != b'"' && byte != b'\\')
}

fn is_display(text: &str) -> bool {
    text.len() <= 256 && !text.chars().any(char::is_control)
}

fn is_e164(text: &str) -> bool {
    let Some(digits) = text.strip_prefix('+') else { return false };
    (2..=15).contains(&digits.len()) && !digits.starts_with('0') && digits.bytes().all(|byte| byte.is_ascii_digit())
}
