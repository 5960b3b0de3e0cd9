//! Every key of the configuration file, declared once: the reader, the defaults and `docs/config.md` come from here.

use crate::process::config::value::Kind;

/// One key.
pub(super) struct Key {
    /// `table.key`.
    pub(super) path: &'static str,
    pub(super) kind: Kind,
    /// As it would stand in the file; empty for a key that is not built.
    pub(super) default: &'static str,
    pub(super) change: Change,
    /// One sentence or two for people.
    pub(super) text: &'static str,
}

/// When a changed value takes effect.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Change {
    /// At HUP.
    Reload,
    /// At the next start of the keeper.
    Restart,
}

const fn key(path: &'static str, kind: Kind, default: &'static str, change: Change, text: &'static str) -> Key {
    Key { path, kind, default, change, text }
}

const fn later(path: &'static str) -> Key {
    key(path, Kind::Later, "", Restart, "Not built yet.")
}

use Change::Reload;
use Change::Restart;

pub(super) const KEYS: &[Key] = &[
    key("node.name", Kind::Name, "\"\"", Restart, "Part of every id, so unique in a fleet. Empty: the host name."),
    key(
        "node.data",
        Kind::Path,
        "\"./tipring-data\"",
        Restart,
        "The folder for state, tapes, recordings, token, keys and SQLite.",
    ),
    key("node.run", Kind::Path, "\"\"", Restart, "The folder of the control socket. Empty: `run` under `data`."),
    key(
        "node.textfile",
        Kind::Path,
        "\"\"",
        Restart,
        "A file that says every 15 s what runs, for node_exporter's textfile collector; it should not be on a disk. Empty: \
         `tipring.prom` under `run`.",
    ),
    key(
        "node.user",
        Kind::Name,
        "\"\"",
        Restart,
        "Started as root, the node goes on as this user of /etc/passwd; the data folder and the log's have to be this user's. Empty: it \
         stays who it is.",
    ),
    key("node.drain", Kind::Span, "\"15m\"", Reload, "How long TERM waits for the last call to end."),
    key("node.roles", Kind::Roles, "[\"phones\"]", Restart, "What this node does. A role that is off opens no socket."),
    key(
        "engine.cpus",
        Kind::Cpus,
        "\"auto\"",
        Restart,
        "\"auto\" or a list such as \"0,2-15\". auto: all that we may use but the last, which keeps the rest; \
         a single CPU is shared.",
    ),
    key(
        "engine.shards",
        Kind::Count { max: 64 },
        "0",
        Restart,
        "0: one per CPU. May be more than there are CPUs; fixed while the keeper lives.",
    ),
    key(
        "engine.profile",
        Kind::Path,
        "\"\"",
        Restart,
        "The hardware profile: a name (`docs/tuning.md` lists them), \"auto\", or a file. It gives `cpus`, `shards` and more where this \
         file says nothing; what the machine lacks is a warning, or ends the start with exit code 71. Empty: none.",
    ),
    key("sip.udp", Kind::Sockets, "[\"127.0.0.1:5060\"]", Restart, "Addresses and ports for SIP over UDP."),
    key("sip.tcp", Kind::Sockets, "[\"127.0.0.1:5060\"]", Restart, "Addresses and ports for SIP over TCP."),
    later("sip.tls"),
    later("sip.ws"),
    later("sip.wss"),
    key(
        "sip.advertise",
        Kind::HostPort,
        "\"\"",
        Reload,
        "host[:port] for Via and Contact where it differs from the local address that a packet came to.",
    ),
    key(
        "sip.trusted",
        Kind::Prefixes,
        "[]",
        Reload,
        "Prefixes that source limits never touch, and whose phones have none of `[limits]`.",
    ),
    key(
        "sip.path",
        Kind::OneOf(&["always", "supported"]),
        "\"always\"",
        Reload,
        "Whether a Path (RFC 3327) that a proxy of `trusted` adds is taken from phones that do not say `Supported: path`, too; from others \
         it is 420.",
    ),
    key(
        "sip.digest",
        Kind::Algorithms,
        "[\"SHA-256\", \"MD5\"]",
        Reload,
        "Digest algorithms that are offered, in this order; \"SHA-512-256\" too.",
    ),
    key(
        "media.address",
        Kind::Addresses,
        "\"127.0.0.1\"",
        Restart,
        "Where RTP is received: a string or a list, at most one IPv4 and one IPv6 address.",
    ),
    key(
        "media.advertise",
        Kind::Addresses,
        "\"\"",
        Restart,
        "Written into SDP, in the order of `address`. Empty: `address`.",
    ),
    key(
        "media.ports",
        Kind::Ports,
        "\"16384-32767\"",
        Restart,
        "RTP ports, two for each stream. A port that another process holds is skipped and counted.",
    ),
    key(
        "media.from_anywhere",
        Kind::Flag,
        "false",
        Restart,
        "Takes a party's media also from an address that neither its description nor its signalling names, while nobody better \
         is heard. Whoever finds the port first can then speak in a party's place.",
    ),
    key(
        "media.low_ports",
        Kind::Flag,
        "false",
        Restart,
        "Descriptions may have media sent to ports below 1024, where services of others are.",
    ),
    key(
        "media.unheard",
        Kind::Span,
        "\"5s\"",
        Restart,
        "How long media goes to an address that is not the one a phone signals from and from which nothing has come; then it gets a packet \
         a second until RTP, RTCP or STUN comes. \"0s\": without end.",
    ),
    key(
        "media.trunks",
        Kind::Prefixes,
        "[]",
        Restart,
        "Who signals from these prefixes may have media sent anywhere unheard: carriers whose media comes from other machines.",
    ),
    key(
        "side.http",
        Kind::HttpSockets,
        "\"127.0.0.1:8080\"",
        Restart,
        "Where the HTTP API listens: a string or a list. Anything but loopback needs `[side.tls]`, or `insecure = true`.",
    ),
    key("side.insecure", Kind::Flag, "false", Restart, "Lets `http` leave this machine without TLS."),
    later("side.tls"),
    key(
        "side.database",
        Kind::Database,
        "\"sqlite\"",
        Restart,
        "\"sqlite\": a file under `data`. \"postgres://…\" is not built yet.",
    ),
    key(
        "log.level",
        Kind::OneOf(&["error", "warn", "info", "debug", "trace"]),
        "\"info\"",
        Reload,
        "error, warn, info, debug or trace.",
    ),
    key("log.format", Kind::OneOf(&["text", "json"]), "\"text\"", Reload, "text or json."),
    key(
        "log.file",
        Kind::Path,
        "\"\"",
        Reload,
        "Empty: stderr. Opened anew at HUP; in another folder than at the start the engine opens it when it next starts.",
    ),
    key("retain.cdrs", Kind::Span, "\"400d\"", Reload, "How long call records are kept."),
    key("retain.events", Kind::Span, "\"30d\"", Reload, "How long events are kept."),
    key("retain.audit", Kind::Span, "\"2y\"", Reload, "How long the audit log is kept."),
    key("retain.trace", Kind::Span, "\"1d\"", Reload, "How long the decision trace of an ended call is kept."),
    key(
        "limits.phone_calls",
        Kind::Count { max: 1_000_000 },
        "100",
        Reload,
        "Calls that one phone may have begun and not ended; a further one hears 486. 0: no limit. Phones of `trusted` have none of these.",
    ),
    key(
        "limits.phone_calls_per_second",
        Kind::Count { max: 1_000_000 },
        "10",
        Reload,
        "Calls that one phone may begin in a second, over five seconds. Faster ones hear 486 and have no record each: one event counts \
         them. 0: no limit.",
    ),
    key(
        "limits.tenant_calls",
        Kind::Count { max: 1_000_000 },
        "2000",
        Reload,
        "Calls at once of all phones of a tenant; a further one hears 503. Each shard has its part of it. 0: no limit.",
    ),
    key(
        "limits.tenant_calls_per_second",
        Kind::Count { max: 1_000_000 },
        "100",
        Reload,
        "Calls that all phones of a tenant may begin in a second, over five seconds; counted like a phone's. 0: no limit.",
    ),
    key(
        "record.early",
        Kind::Flag,
        "false",
        Reload,
        "Record early media too: from the first ring, not from the answer.",
    ),
    key(
        "record.start_code",
        Kind::Keys,
        "\"*1\"",
        Reload,
        "Keys that start and stop a recording on demand, pressed during a call by a party whose phone or tenant has \
         `record` set. Empty: none.",
    ),
    key(
        "record.pause_code",
        Kind::Keys,
        "\"*2\"",
        Reload,
        "Keys that pause and resume a recording: meanwhile neither audio nor digits are kept anywhere. Empty: none.",
    ),
    key(
        "tape.stall",
        Kind::Span,
        "\"2s\"",
        Restart,
        "How long the disk may stall with every RTP port in use before media is lost to recordings; memory is used only \
         while it does.",
    ),
    key(
        "tape.media_mib",
        Kind::Count { max: 1 << 30 },
        "20480",
        Restart,
        "MiB of disk for media that side has not taken over yet. Beyond it the oldest is removed, listed as a gap and counted.",
    ),
    key("tape.segment_mib", Kind::Count { max: 4_096 }, "64", Restart, "MiB of one preallocated segment of media."),
    key(
        "tape.segment_age",
        Kind::Span,
        "\"10m\"",
        Restart,
        "A segment is finished after this, so that what it holds can be deleted from the tape.",
    ),
    key("tape.encrypt", Kind::Flag, "true", Restart, "AES-256-GCM with a key per segment, destroyed with it."),
    key(
        "recordings.store",
        Kind::Store,
        "\"folder\"",
        Restart,
        "Where recordings lie when they are finished. \"folder\": under `data`. \"s3://bucket\" or \"s3://bucket/prefix\": in an \
         object store that speaks S3, in a build with the feature `s3`.",
    ),
    key(
        "recordings.endpoint",
        Kind::Url,
        "\"\"",
        Restart,
        "The object store's URL, such as \"https://s3.example.com:9000\". Empty: Amazon's of the region.",
    ),
    key("recordings.region", Kind::Name, "\"us-east-1\"", Restart, "The object store's region."),
    key("recordings.access_key", Kind::Secret, "\"\"", Restart, "The access key's id."),
    key("recordings.secret_key", Kind::Secret, "\"\"", Restart, "The secret of the access key."),
    key(
        "directory.import",
        Kind::Path,
        "\"\"",
        Reload,
        "A directory file, applied at start and at HUP if its content differs from what was last applied.",
    ),
    key(
        "hep.address",
        Kind::Socket,
        "\"\"",
        Reload,
        "host:port of a HEP3 collector for SIP and RTCP. Empty: no mirror.",
    ),
    key("hep.id", Kind::Count { max: 4_294_967_295 }, "2001", Reload, "The capture agent's id in HEP3 packets."),
];

/// The tables of a file. `interface` is a list of tables with the keys of `sip` and `media`.
pub(super) const TABLES: &[&str] = &[
    "node",
    "engine",
    "sip",
    "media",
    "interface",
    "side",
    "log",
    "retain",
    "limits",
    "record",
    "tape",
    "recordings",
    "directory",
    "hep",
];

pub(super) fn find(path: &str) -> Option<&'static Key> {
    KEYS.iter().find(|key| key.path == path)
}
