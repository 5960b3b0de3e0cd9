//! Every maximum of the node in one place; at a maximum we refuse and count, never grow.

/// Shards of one node.
pub const SHARDS_MAX: usize = 64;
/// The largest SIP message, RFC 3261 §18.1.1: an implementation must be able to handle the largest datagram.
pub const SIP_MESSAGE_BYTES_MAX: usize = 65_535;
/// The start line and header fields of one message.
pub const SIP_HEAD_BYTES_MAX: usize = 16_384;
/// The body of one message.
pub const SIP_BODY_BYTES_MAX: usize = 16_384;
/// Via values of one message, and their bytes together: RFC 4475 §3.1.1.7 has 34 in 1.4 kB.
pub const SIP_VIAS_MAX: usize = 64;
pub const SIP_VIA_BYTES_MAX: usize = 2_048;
/// Record-Route, Route and Path, each with all its values.
pub const SIP_ROUTE_BYTES_MAX: usize = 2_048;
/// From, To and Contact, name and parameters included.
pub const SIP_ADDRESS_BYTES_MAX: usize = 1_024;
pub const SIP_URI_BYTES_MAX: usize = 1_024;
pub const SIP_CALL_ID_BYTES_MAX: usize = 256;
/// A dialled number or user; no phone has a longer one.
pub const SIP_NUMBER_LETTERS_MAX: usize = 64;
/// Subject, Reason and what else passes to the other party, each with all its values.
pub const SIP_REMARK_BYTES_MAX: usize = 512;
/// CSeq, Timestamp.
pub const SIP_WORD_BYTES_MAX: usize = 64;
/// Header fields of one message.
pub const SIP_HEADERS_MAX: usize = 128;
/// TCP connections of one shard: about 500 bytes each while they are idle. Less where the limit of open files leaves less.
pub const TCP_CONNECTIONS_PER_SHARD_MAX: u32 = 32_768;
/// Of them those of one source that nobody has registered over: a site whose phones all come back at once.
pub const TCP_STRANGERS_PER_SOURCE_MAX: u32 = 1_024;
/// The same of an IPv6 network of 48 bits.
pub const TCP_STRANGERS_PER_NETWORK_MAX: u32 = 4_096;
/// Files that the engine needs beside its sockets, whatever its size, and of each shard: segments of the tape with their keys, journals,
/// rings, the log.
pub const OPEN_FILES_RESERVE: u64 = 64;
pub const OPEN_FILES_RESERVE_OF_SHARD: u64 = 32;
/// Calls of one shard.
pub const CALLS_PER_SHARD_MAX: u32 = 20_000;
/// What a usual call keeps: two dialogs, their descriptions, what may have to be repeated.
pub const CALL_BYTES_TYPICAL: u64 = 16 << 10;
/// A longer message, or more branches than these, and the call is weighed.
pub const SIP_MESSAGE_BYTES_TYPICAL_MAX: usize = 3_000;
pub const BRANCHES_TYPICAL_MAX: usize = 3;
/// What all calls of one shard keep, and those of one phone.
pub const CALL_BYTES_PER_SHARD_MAX: u64 = 512 << 20;
pub const CALL_BYTES_PER_PHONE_MAX: u64 = 64 << 20;
/// Phones, and tenants, whose calls and rates one shard counts: about 150 bytes each.
pub const ACCOUNTS_PER_SHARD_MAX: usize = 65_536;
/// Phones that one call rings at once, each a branch with an early dialog of its own.
pub const BRANCHES_MAX: usize = 16;
/// RTP streams (m-lines) that one call relays.
pub const STREAMS_PER_CALL_MAX: usize = 4;
/// One session description: bytes, lines, m-lines, payload types of an m-line.
pub const SDP_BYTES_MAX: usize = 16_384;
pub const SDP_LINES_MAX: usize = 512;
pub const SDP_MEDIA_MAX: usize = 16;
pub const SDP_FORMATS_MAX: usize = 64;
pub const SDP_SSRCS_MAX: usize = 4;
/// The encoding name of a payload type.
pub const SDP_NAME_BYTES_MAX: usize = 64;
/// Notices and socket commands of one shard's relay that wait for their readers.
pub const MEDIA_QUEUE_MAX: usize = 4_096;
/// Pairs of RTP and RTCP ports of one shard: the whole port range.
pub const PAIRS_PER_SHARD_MAX: usize = 32_768;
/// Contacts of one address of record.
pub const BINDINGS_PER_AOR_MAX: usize = 10;
/// Bytes of one Contact or Path value.
pub const CONTACT_BYTES_MAX: usize = 1_024;
/// The rest of a binding: instance and User-Agent; a longer one is cut.
pub const INSTANCE_BYTES_MAX: usize = 128;
pub const USER_AGENT_BYTES_MAX: usize = 128;
/// Bindings of one shard.
pub const BINDINGS_PER_SHARD_MAX: u32 = 500_000;
/// Finished server transactions of one shard that wait for retransmissions, their answers' bytes, and those of one phone's calls.
pub const LINGERING_PER_SHARD_MAX: u32 = 1_000_000;
pub const LINGERING_BYTES_PER_SHARD_MAX: u64 = 512 << 20;
pub const LINGERING_BYTES_PER_PHONE_MAX: u64 = 2 << 20;
/// Sources of one shard whose failures are counted; the least of a few is forgotten for a new one.
pub const SOURCES_PER_SHARD_MAX: usize = 65_536;
/// UDP sources (addresses, ports, phones) whose answers a shard counts, 16 bytes each; the fullest of a few is forgotten for a new one.
pub const ANSWERED_PER_SHARD_MAX: usize = 65_536;
/// Phones that a shard knows the address of, of all shards: about 80 bytes each. The oldest is forgotten for a new one.
pub const KNOWN_PHONES_PER_SHARD_MAX: usize = 262_144;
/// Of these, those that the other shards have not been told of yet; the others are told within the hour.
pub const KNOWN_PHONES_UNTOLD_MAX: usize = 131_072;
/// Kinds of SIP messages (a response's is its method and status) that a shard counts apart, of each direction.
pub const MESSAGE_KINDS_MAX: usize = 200;
/// Users and their addresses that a shard remembers to have challenged.
pub const CLIENTS_CHALLENGED_MAX: usize = 4_096;
/// Steps kept in a decision trace.
pub const TRACE_STEPS_MAX: usize = 64;
/// Decisions about all phones of a shard that are remembered: about a hundred bytes each.
pub const HISTORY_STEPS_MAX: usize = 16_384;
/// Messages that wait from one shard to another.
pub const MESH_QUEUE_MAX: usize = 4_096;
/// Copies of messages for a capture server that wait among them: each may be a whole message.
pub const CAPTURES_WAITING_MAX: usize = 2_048;
/// Messages of a shard that wait for room in the clerk's queue.
pub const CLERK_BACKLOG_MAX: usize = 65_536;
/// Questions of operators that wait for the shards.
pub const QUESTIONS_MAX: usize = 256;
/// Events of one shard on the tape that side has not taken over: an hour of all that a shard can do, 14 hours of a block of 4 KiB
/// every 50 ms. Disk that is full sooner costs media first.
pub const EVENT_BYTES_MAX: u64 = 4 << 30;
/// One text of an event; a longer one is cut.
pub const EVENT_TEXT_BYTES_MAX: usize = 1_024;
/// Letters of a display name that a call goes on with.
pub const DISPLAY_NAME_LETTERS_MAX: usize = 128;
/// Events of a shard that wait for room on the tape.
pub const EVENTS_WAITING_MAX: usize = 65_536;
pub const EVENTS_WAITING_BYTES_MAX: usize = 64 << 20;
/// Outputs of one step of a machine.
pub const OUTBOX_MAX: usize = 1_024;
/// Largest frame of the link between engine and side.
pub const LINK_FRAME_BYTES_MAX: usize = 256 * 1024;
/// Largest frame between keeper and child; fits a socket's default send buffer whole.
pub const CONTROL_FRAME_BYTES_MAX: usize = 128 * 1024;
/// State memory of one shard: heartbeat and counters first.
pub const STATE_BYTES_PER_SHARD: u64 = 4 * 1024 * 1024;
/// Blocks of 64 KiB of one shard on their way to the tape; memory is taken only for those that are used.
pub const RING_SLOTS_MIN: usize = 64;
pub const RING_SLOTS_MAX: usize = 4_096;

/// Tenants of the directory.
pub const TENANTS_MAX: usize = 20_000;
/// Phones of the directory.
pub const PHONES_MAX: usize = 1_000_000;
/// Domains of one tenant beside its own.
pub const ALIASES_PER_TENANT_MAX: usize = 32;
/// Numbers of one phone.
pub const NUMBERS_PER_PHONE_MAX: usize = 64;
/// Audio of a tenant's announcement: 10 s. Two of them must fit into a frame of the link.
pub const ANNOUNCEMENT_SAMPLES_MAX: usize = 80_000;
/// Audio of all tenants' announcements: the engine holds them.
pub const ANNOUNCEMENTS_BYTES_MAX: i64 = 64 << 20;
/// A directory file.
pub const DIRECTORY_FILE_BYTES_MAX: u64 = 512 * 1024 * 1024;
/// Registrations that the side process shows.
pub const MIRRORED_REGISTRATIONS_MAX: usize = 4_000_000;
/// Calls that the side process shows.
pub const MIRRORED_CALLS_MAX: usize = 1_000_000;
/// Refusals of the API that one minute adds to the audit; further ones are only counted.
pub const AUDITED_REFUSALS_PER_MINUTE_MAX: u32 = 120;
/// Connections of the HTTP API.
pub const HTTP_CONNECTIONS_MAX: usize = 1_024;
/// Of them from one source: an IPv4 address, or an IPv6 network of 64 bits.
pub const HTTP_CONNECTIONS_PER_SOURCE_MAX: usize = 256;
/// Requests of one token that are being answered, downloads and live event streams among them.
pub const HTTP_REQUESTS_PER_TOKEN_MAX: usize = 64;
/// Live event streams of one token.
pub const EVENT_STREAMS_PER_TOKEN_MAX: usize = 32;
/// Live event streams among them.
pub const EVENT_STREAMS_MAX: usize = 128;
/// Request line and headers of one HTTP request.
pub const HTTP_HEAD_BYTES_MAX: usize = 16 * 1024;
/// Stores of calls that wait to become recordings; others wait on the disk.
pub const FINISHING_MAX: usize = 1_024;
/// Recordings shown before they are finished.
pub const LIVE_RECORDINGS_MAX: usize = 100_000;
/// Commands of the clerk that shards with full queues have not taken: questions beyond it are not asked.
pub const COMMANDS_UNSENT_MAX: usize = 4_096;
/// Names of events whose log lines have a budget of their own.
pub const LOG_EVENTS_MAX: usize = 512;
/// Files and folders of a machine that `tipring tune` looks at, and bytes of one: 64 MiB at the very most, about 200 kB usually.
pub const TUNE_ENTRIES_MAX: usize = 16_384;
pub const TUNE_FILE_BYTES_MAX: u64 = 4_096;
/// Acknowledgements on their way to the tape thread; each is said again, so more are dropped.
pub const TAPE_COMMANDS_MAX: usize = 256;

/// What the tables of one shard may take together, each full of the longest that the bounds let in. A usual call takes 16 KiB, a
/// usual answer and a usual binding 500 bytes each: 5,000 calls and 100,000 phones of one shard are about 200 MiB.
pub const SHARD_BYTES_MAX: u64 = 4 << 30;
/// Rows beside what their messages brought.
const CALL_ROW: u64 = 8 << 10;
const ANSWER_ROW: u64 = 72;
const BINDING_ROW: u64 = 256;
const EVENT_ROW: u64 = 8 << 10;
const SHARD_BYTES: [u64; 10] = [
    CALL_BYTES_PER_SHARD_MAX + CALLS_PER_SHARD_MAX as u64 * CALL_ROW,
    LINGERING_BYTES_PER_SHARD_MAX + LINGERING_PER_SHARD_MAX as u64 * ANSWER_ROW,
    BINDINGS_PER_SHARD_MAX as u64 * (BINDING_ROW + BINDING_TEXT_BYTES_MAX as u64),
    SOURCES_PER_SHARD_MAX as u64 * 100,
    2 * ACCOUNTS_PER_SHARD_MAX as u64 * 150,
    HISTORY_STEPS_MAX as u64 * 256,
    EVENTS_WAITING_BYTES_MAX as u64,
    CLERK_BACKLOG_MAX as u64 * EVENT_ROW,
    CAPTURES_WAITING_MAX as u64 * SIP_BOUNDED_BYTES_MAX as u64,
    MESH_QUEUE_MAX as u64 * SIP_BOUNDED_BYTES_MAX as u64,
];
/// The longest message that anything is made of.
const SIP_BOUNDED_BYTES_MAX: usize = SIP_HEAD_BYTES_MAX + SIP_BODY_BYTES_MAX;
const BINDING_TEXT_BYTES_MAX: usize =
    CONTACT_BYTES_MAX + INSTANCE_BYTES_MAX + USER_AGENT_BYTES_MAX + SIP_ROUTE_BYTES_MAX;

const fn sum(parts: &[u64]) -> u64 {
    match parts {
        [] => 0,
        [first, rest @ ..] => *first + sum(rest),
    }
}

const _: () = assert!(sum(&SHARD_BYTES) <= SHARD_BYTES_MAX);
const _: () = assert!(CALLS_PER_SHARD_MAX as u64 * CALL_BYTES_TYPICAL <= CALL_BYTES_PER_SHARD_MAX);
const _: () = assert!(CALL_BYTES_PER_PHONE_MAX * 4 <= CALL_BYTES_PER_SHARD_MAX);
const _: () = assert!(LINGERING_BYTES_PER_PHONE_MAX * 4 <= LINGERING_BYTES_PER_SHARD_MAX);
const _: () = assert!(LINGERING_BYTES_PER_PHONE_MAX > SIP_MESSAGE_BYTES_MAX as u64);
const _: () = assert!(SIP_BOUNDED_BYTES_MAX <= SIP_MESSAGE_BYTES_MAX);
const _: () = assert!(SDP_BYTES_MAX <= SIP_BODY_BYTES_MAX);
const _: () = assert!(SIP_CALL_ID_BYTES_MAX <= EVENT_TEXT_BYTES_MAX && CONTACT_BYTES_MAX <= EVENT_TEXT_BYTES_MAX);
const _: () = assert!(SIP_MESSAGE_BYTES_MAX <= u16::MAX as usize, "offsets into a message are u16");
const _: () = assert!(SIP_HEAD_BYTES_MAX <= SIP_MESSAGE_BYTES_MAX);
const _: () = assert!(BRANCHES_MAX >= BINDINGS_PER_AOR_MAX);
const _: () = assert!(ANNOUNCEMENT_SAMPLES_MAX * 2 < LINK_FRAME_BYTES_MAX);
const _: () = assert!(STREAMS_PER_CALL_MAX <= SDP_MEDIA_MAX);
const _: () = assert!(SHARDS_MAX <= 64, "a set of shards is a u64");
