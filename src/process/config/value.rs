//! One value of the configuration file: what it may be, and how its text becomes a value that cannot be wrong.

use std::net::IpAddr;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use toml::Spanned;
use toml::de::DeValue;

use crate::base::limit::SHARDS_MAX;
use crate::machine::settings::Algorithm;
use crate::machine::settings::Prefix;
use crate::process::config::Secret;

/// What a key may be set to.
#[derive(Clone, Copy)]
pub(super) enum Kind {
    Name,
    Path,
    Span,
    Roles,
    Cpus,
    Count {
        max: u64,
    },
    Flag,
    /// Keys of a telephone.
    Keys,
    Sockets,
    HttpSockets,
    Socket,
    HostPort,
    Prefixes,
    Algorithms,
    Addresses,
    Ports,
    Database,
    Secret,
    /// Where recordings lie.
    Store,
    /// Of a server: scheme, host and port.
    Url,
    OneOf(&'static [&'static str]),
    /// Stands in the contract, is not built.
    Later,
}

#[derive(Clone, Debug, Hash)]
pub(super) enum Value {
    Text(String),
    Path(PathBuf),
    Span(Duration),
    Texts(Vec<String>),
    Cpus(Option<Vec<u16>>),
    Count(u64),
    Flag(bool),
    Sockets(Vec<SocketAddr>),
    Prefixes(Vec<Prefix>),
    Algorithms(Vec<Algorithm>),
    Addresses(Vec<IpAddr>),
    Ports(u16, u16),
    Secret(Secret),
}

/// Why a value is refused, and where: the span of the part that is wrong.
pub(super) type Refusal = (std::ops::Range<usize>, String);

const LIST_MAX: usize = 64;
const NAME_BYTES_MAX: usize = 64;

pub(super) fn parse(kind: Kind, value: &Spanned<DeValue<'_>>) -> Result<Value, Refusal> {
    let refuse = |message: String| (value.span(), message);
    match kind {
        Kind::Name => parse_name(text(value)?).map(Value::Text).map_err(refuse),
        Kind::Path => Ok(Value::Path(PathBuf::from(text(value)?))),
        Kind::Span => parse_duration(text(value)?).map(Value::Span).map_err(refuse),
        Kind::Roles => each(value, parse_role).map(Value::Texts),
        Kind::Cpus => parse_cpus(text(value)?).map(Value::Cpus).map_err(refuse),
        Kind::Count { max } => count(value, max).map(Value::Count),
        Kind::Flag => value.get_ref().as_bool().map(Value::Flag).ok_or_else(|| expected(value, "true or false")),
        Kind::Keys => parse_keys(text(value)?).map(Value::Text).map_err(refuse),
        Kind::Sockets => each(value, parse_socket).map(Value::Sockets),
        Kind::HttpSockets => one_or_each(value, parse_any_socket).map(Value::Sockets),
        Kind::Socket => parse_optional(text(value)?, parse_socket).map(Value::Sockets).map_err(refuse),
        Kind::HostPort => parse_host_port(text(value)?).map(Value::Text).map_err(refuse),
        Kind::Prefixes => each(value, parse_prefix).map(Value::Prefixes),
        Kind::Algorithms => parse_algorithms(value),
        Kind::Addresses => parse_addresses(value),
        Kind::Ports => parse_ports(text(value)?).map(|(first, last)| Value::Ports(first, last)).map_err(refuse),
        Kind::Database | Kind::Secret => parse_secret(value),
        Kind::Store => {
            let text = text(value)?;
            parse_store(text).map(|_| Value::Text(text.to_owned())).map_err(refuse)
        }
        Kind::Url => parse_url(text(value)?).map(Value::Text).map_err(refuse),
        Kind::OneOf(words) => parse_one_of(text(value)?, words).map(Value::Text).map_err(refuse),
        Kind::Later => Err(refuse("not built yet".to_owned())),
    }
}

fn expected(value: &Spanned<DeValue<'_>>, what: &str) -> Refusal {
    (value.span(), format!("expected {what}, found {}", value.get_ref().type_str()))
}

fn text<'a>(value: &'a Spanned<DeValue<'_>>) -> Result<&'a str, Refusal> {
    value.get_ref().as_str().ok_or_else(|| expected(value, "a string"))
}

fn count(value: &Spanned<DeValue<'_>>, max: u64) -> Result<u64, Refusal> {
    let integer = value.get_ref().as_integer().ok_or_else(|| expected(value, "a number"))?;
    match u64::from_str_radix(integer.as_str(), integer.radix()) {
        Ok(number) if number <= max => Ok(number),
        _ => Err((value.span(), format!("must be from 0 to {max}"))),
    }
}

/// A list of strings, each parsed.
fn each<T>(value: &Spanned<DeValue<'_>>, parse: impl Fn(&str) -> Result<T, String>) -> Result<Vec<T>, Refusal> {
    let list = value.get_ref().as_array().ok_or_else(|| expected(value, "a list of strings"))?;
    if list.len() > LIST_MAX {
        return Err((value.span(), format!("at most {LIST_MAX} entries")));
    }
    list.iter().map(|entry| parse(text(entry)?).map_err(|message| (entry.span(), message))).collect()
}

fn one_or_each<T>(value: &Spanned<DeValue<'_>>, parse: impl Fn(&str) -> Result<T, String>) -> Result<Vec<T>, Refusal> {
    match value.get_ref().as_str() {
        Some(text) => parse(text).map(|one| vec![one]).map_err(|message| (value.span(), message)),
        None => each(value, parse),
    }
}

/// An empty text is no value.
fn parse_optional<T>(text: &str, parse: impl Fn(&str) -> Result<T, String>) -> Result<Vec<T>, String> {
    if text.is_empty() {
        return Ok(Vec::new());
    }
    parse(text).map(|one| vec![one])
}

pub(super) fn parse_name(text: &str) -> Result<String, String> {
    let legal = |byte: u8| byte.is_ascii_alphanumeric() || b"-._".contains(&byte);
    if text.len() > NAME_BYTES_MAX || !text.bytes().all(legal) {
        return Err(format!("{text:?} is not a name: letters, digits, '-', '.' and '_', at most {NAME_BYTES_MAX}"));
    }
    Ok(text.to_owned())
}

fn parse_keys(text: &str) -> Result<String, String> {
    if text.len() > 8 || !text.bytes().all(|key| b"0123456789*#ABCD".contains(&key)) {
        return Err(format!("{text:?} is not a row of at most 8 keys: 0 to 9, '*', '#', A to D"));
    }
    Ok(text.to_owned())
}

fn parse_role(text: &str) -> Result<String, String> {
    parse_one_of(text, &["phones"])
}

fn parse_one_of(text: &str, words: &[&str]) -> Result<String, String> {
    if words.contains(&text) {
        return Ok(text.to_owned());
    }
    Err(format!("{text:?} is none of {}", words.join(", ")))
}

/// "15m", "400d", "250ms".
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    let fault = || format!("{text:?} is not a duration such as \"30s\", \"15m\", \"12h\", \"400d\" or \"2y\"");
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let number: u64 = number.parse().map_err(|_| fault())?;
    let millis_each: u64 = match unit {
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        "w" => 7 * 86_400_000,
        "y" => 365 * 86_400_000,
        _ => return Err(fault()),
    };
    let millis = number.checked_mul(millis_each).filter(|&millis| millis <= 100 * 365 * 86_400_000);
    millis.map(Duration::from_millis).ok_or_else(|| format!("{text:?} is more than 100 years"))
}

/// `None` is "auto".
fn parse_cpus(text: &str) -> Result<Option<Vec<u16>>, String> {
    if text == "auto" {
        return Ok(None);
    }
    let fault = || format!("{text:?} is neither \"auto\" nor a list of CPUs such as \"0,2-15\"");
    let mut cpus = Vec::new();
    for part in text.split(',') {
        let (first, last) = part.trim().split_once('-').unwrap_or_else(|| (part.trim(), part.trim()));
        let first: u16 = first.parse().map_err(|_| fault())?;
        let last: u16 = last.parse().map_err(|_| fault())?;
        if first > last || last >= 1024 {
            return Err(fault());
        }
        cpus.extend(first..=last);
    }
    cpus.sort_unstable();
    cpus.dedup();
    if cpus.len() > SHARDS_MAX {
        return Err(format!("at most {SHARDS_MAX} CPUs"));
    }
    Ok(Some(cpus))
}

fn parse_socket(text: &str) -> Result<SocketAddr, String> {
    let address = parse_any_socket(text)?;
    if address.port() == 0 {
        return Err(format!("{text:?}: the port must be from 1 to 65535"));
    }
    Ok(address)
}

/// Port 0 is one of the kernel's choice.
fn parse_any_socket(text: &str) -> Result<SocketAddr, String> {
    text.parse()
        .map_err(|_| format!("{text:?} is not an address with a port such as \"192.0.2.1:5060\" or \"[::1]:5060\""))
}

fn parse_host_port(text: &str) -> Result<String, String> {
    if text.is_empty() || text.parse::<SocketAddr>().is_ok() {
        return Ok(text.to_owned());
    }
    let fault = || format!("{text:?} is not host[:port] (an IPv6 address stands in brackets)");
    if let Some(inner) = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
        return inner.parse::<std::net::Ipv6Addr>().map(|_| text.to_owned()).map_err(|_| fault());
    }
    let (host, port) = text.split_once(':').map_or((text, None), |(host, port)| (host, Some(port)));
    let legal = |byte: u8| byte.is_ascii_alphanumeric() || b"-.".contains(&byte);
    let port_is_good = port.is_none_or(|port| port.parse::<u16>().is_ok_and(|port| port != 0));
    if host.is_empty() || host.len() > 253 || !host.bytes().all(legal) || !port_is_good {
        return Err(fault());
    }
    Ok(text.to_owned())
}

fn parse_prefix(text: &str) -> Result<Prefix, String> {
    let fault = || format!("{text:?} is not a prefix such as \"192.0.2.0/24\" or \"2001:db8::/32\"");
    let (address, bits) = text.split_once('/').map_or((text, None), |(address, bits)| (address, Some(bits)));
    let address: IpAddr = address.parse().map_err(|_| fault())?;
    let bits_max = if address.is_ipv4() { 32 } else { 128 };
    let bits = match bits {
        Some(bits) => bits.parse().map_err(|_| fault())?,
        None => bits_max,
    };
    if bits > bits_max {
        return Err(fault());
    }
    Ok(Prefix { address, bits })
}

fn parse_algorithms(value: &Spanned<DeValue<'_>>) -> Result<Value, Refusal> {
    let algorithms = each(value, |text| match text {
        "MD5" => Ok(Algorithm::Md5),
        "SHA-256" => Ok(Algorithm::Sha256),
        "SHA-512-256" => Ok(Algorithm::Sha512_256),
        _ => Err(format!("{text:?} is none of SHA-256, SHA-512-256, MD5")),
    })?;
    let doubled = (1..algorithms.len()).any(|index| algorithms[..index].contains(&algorithms[index]));
    if algorithms.is_empty() || doubled {
        return Err((value.span(), "name at least one algorithm, each once".to_owned()));
    }
    Ok(Value::Algorithms(algorithms))
}

fn parse_addresses(value: &Spanned<DeValue<'_>>) -> Result<Value, Refusal> {
    let parse = |text: &str| match text.parse::<IpAddr>() {
        Ok(address) if address.is_unspecified() => Err(format!("{text:?}: name one address, not all of them")),
        Ok(address) => Ok(address),
        Err(_) => Err(format!("{text:?} is not an IP address")),
    };
    let addresses = match value.get_ref().as_str() {
        Some("") => Vec::new(),
        _ => one_or_each(value, parse)?,
    };
    let ipv4 = addresses.iter().filter(|address| address.is_ipv4()).count();
    if ipv4 > 1 || addresses.len() - ipv4 > 1 {
        return Err((value.span(), "at most one IPv4 and one IPv6 address".to_owned()));
    }
    Ok(Value::Addresses(addresses))
}

fn parse_ports(text: &str) -> Result<(u16, u16), String> {
    let fault = || format!("{text:?} is not a range of ports such as \"16384-32767\"");
    let (first, last) = text.split_once('-').ok_or_else(fault)?;
    let first: u16 = first.trim().parse().map_err(|_| fault())?;
    let last: u16 = last.trim().parse().map_err(|_| fault())?;
    let first_even = u32::from(first) + u32::from(first % 2);
    if first < 1024 || first_even + 1 > u32::from(last) {
        return Err(format!("{text:?} must hold an even port from 1024 on and the odd one after it"));
    }
    Ok((first, last))
}

/// Bucket and prefix of "s3://bucket/prefix"; `None` is "folder".
pub(super) fn parse_store(text: &str) -> Result<Option<(String, String)>, String> {
    if text == "folder" {
        return Ok(None);
    }
    let fault = || format!("{text:?} is neither \"folder\" nor \"s3://bucket/prefix\"");
    let rest = text.strip_prefix("s3://").ok_or_else(fault)?;
    let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
    let of_bucket = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"-.".contains(&byte);
    let of_prefix = |byte: u8| byte.is_ascii_alphanumeric() || b"-._=".contains(&byte);
    let is_part = |part: &str| !["", ".", ".."].contains(&part) && part.bytes().all(of_prefix);
    let prefix_is_good = prefix.is_empty() || (prefix.len() <= 256 && prefix.split('/').all(is_part));
    if !(3..=63).contains(&bucket.len()) || !bucket.bytes().all(of_bucket) || !prefix_is_good {
        return Err(fault());
    }
    Ok(Some((bucket.to_owned(), prefix.to_owned())))
}

fn parse_url(text: &str) -> Result<String, String> {
    let rest = text.strip_prefix("https://").or_else(|| text.strip_prefix("http://"));
    let is_server = |rest: &str| !rest.is_empty() && parse_host_port(rest).is_ok();
    if !text.is_empty() && !rest.is_some_and(is_server) {
        return Err(format!("{text:?} is not https:// or http:// with host[:port] and nothing behind it"));
    }
    Ok(text.to_owned())
}

/// Any secret may be `{ file = "…" }`.
fn parse_secret(value: &Spanned<DeValue<'_>>) -> Result<Value, Refusal> {
    if let Some(table) = value.get_ref().as_table() {
        let file = table.get("file").and_then(|file| file.get_ref().as_str());
        return match file {
            Some(file) if table.len() == 1 => Ok(Value::Secret(Secret::File(PathBuf::from(file)))),
            _ => Err((value.span(), "expected a string or { file = \"…\" }".to_owned())),
        };
    }
    Ok(Value::Secret(Secret::Text(text(value)?.to_owned())))
}
