//! A shard's page of figures: heartbeat, counters and histograms in memory that the keeper holds, so that they go on over a
//! crash or an upgrade of the engine. One writer (the shard), many readers (side, keeper), relaxed 64-bit words.
//!
//! The file's first [`FIGURES_BYTES`] are this page; what follows is kept for state pages.
#![allow(unsafe_code, reason = "maps memory shared with other processes")]

use std::os::fd::AsFd;
use std::os::fd::OwnedFd;
use std::ptr::NonNull;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Acquire;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::atomic::Ordering::Release;
use std::time::Duration;

use rustix::fs::MemfdFlags;
use rustix::fs::ftruncate;
use rustix::fs::memfd_create;
use rustix::mm::MapFlags;
use rustix::mm::ProtFlags;
use rustix::mm::mmap;
use rustix::mm::munmap;

use crate::base::id::ShardId;
use crate::base::time::Instant;
use crate::wire::tape::BLOCK_ALIGN;
use crate::wire::tape::Track;

/// Bytes of the figures; the memory file is at least as long.
pub const FIGURES_BYTES: usize = 32 * 1024;
/// Where state pages begin.
pub const STATE_OFFSET: usize = 64 * 1024;

/// Where the keeper, which maps nothing, reads the word that every beat changes.
pub const HEARTBEAT_OFFSET: u64 = 8 * WORD_HEARTBEAT as u64;

const MAGIC: u64 = u64::from_le_bytes(*b"tipring\0");
/// Changes whenever a word changes its meaning; appending counters does not change it.
const FORMAT: u64 = 2;

const WORD_MAGIC: usize = 0;
const WORD_FORMAT: usize = 1;
const WORD_SHARD: usize = 2;
const WORD_PHASE: usize = 3;
const WORD_HEARTBEAT: usize = 4;
const WORD_TURNS: usize = 5;
/// Confirmed positions of the tape, by track.
const WORD_COMMITTED: usize = 8;
/// The boot whose tape has all that engines before it left.
const WORD_REWRITTEN: usize = 10;
const WORD_COUNTERS: usize = 64;
const COUNTERS_MAX: usize = 1024;
const WORD_HISTOGRAMS: usize = WORD_COUNTERS + COUNTERS_MAX;
const HISTOGRAMS_MAX: usize = 32;
/// Buckets, then the sum in nanoseconds.
const HISTOGRAM_WORDS: usize = BUCKETS + 1;
const WORD_GAUGES: usize = WORD_HISTOGRAMS + HISTOGRAMS_MAX * HISTOGRAM_WORDS;
const GAUGES_MAX: usize = 64;
/// A key and its count each.
const WORD_KINDS: usize = WORD_GAUGES + GAUGES_MAX;
const KINDS_MAX: usize = 512;
/// The last of them are kept for what stands for the rest.
const RESTS_MAX: usize = 32;
const WORDS: usize = FIGURES_BYTES / 8;

/// Upper bounds of the buckets in microseconds; the last bucket has none.
pub const BUCKET_BOUNDS_MICROS: [u64; BUCKETS - 1] =
    [50, 100, 200, 300, 400, 500, 700, 1_000, 1_500, 2_000, 3_000, 5_000, 10_000, 20_000, 50_000, 100_000, 1_000_000];
pub const BUCKETS: usize = 18;

const _: () = assert!(WORD_KINDS + KINDS_MAX * 2 <= WORDS);
const _: () = assert!(Counter::ALL.len() <= COUNTERS_MAX);
const _: () = assert!(Histogram::ALL.len() <= HISTOGRAMS_MAX);
const _: () = assert!(Gauge::ALL.len() <= GAUGES_MAX);
const _: () = assert!(FIGURES_BYTES <= STATE_OFFSET);

/// Declares the figures: one line each, rendered by whoever reads them without further knowledge.
macro_rules! figures {
    ($(#[$doc:meta])* $kind:ident: $($variant:ident $name:literal $labels:literal $help:literal;)+) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[repr(u16)]
        pub enum $kind { $($variant,)+ }

        impl $kind {
            pub const ALL: &[Self] = &[$(Self::$variant,)+];

            /// The name in the Prometheus text format.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)+ }
            }

            /// Labels beside `shard`, in the Prometheus text format; may be empty.
            pub const fn labels(self) -> &'static str {
                match self { $(Self::$variant => $labels,)+ }
            }

            pub const fn help(self) -> &'static str {
                match self { $(Self::$variant => $help,)+ }
            }
        }
    };
}

figures! {
    /// What a shard counts; of a name that ends with `_seconds_total`, nanoseconds. New lines go to the end: the place is the
    /// meaning.
    Counter:
    UdpReceived "tipring_udp_datagrams_total" "direction=\"in\"" "Datagrams of all sockets";
    UdpSent "tipring_udp_datagrams_total" "direction=\"out\"" "Datagrams of all sockets";
    UdpTruncated "tipring_udp_dropped_total" "reason=\"too_long\"" "Datagrams dropped by the shard";
    UdpStale "tipring_udp_dropped_total" "reason=\"stale\"" "Datagrams dropped by the shard";
    UdpDrained "tipring_udp_dropped_total" "reason=\"before_open\"" "Datagrams dropped by the shard";
    UdpBadAddress "tipring_udp_dropped_total" "reason=\"address\"" "Datagrams dropped by the shard";
    UdpKernelDrops "tipring_udp_kernel_drops_total" "" "Datagrams that the kernel dropped at full socket buffers";
    UdpSendAgain "tipring_udp_send_errors_total" "reason=\"full\"" "Datagrams not sent";
    UdpSendRefused "tipring_udp_send_errors_total" "reason=\"icmp\"" "Datagrams not sent";
    UdpSendOther "tipring_udp_send_errors_total" "reason=\"other\"" "Datagrams not sent";
    UdpSendTooLong "tipring_udp_send_errors_total" "reason=\"too_long\"" "Datagrams not sent";
    RearmNoBuffers "tipring_uring_rearms_total" "reason=\"no_buffers\"" "Receives that ended and were armed again";
    RearmZeroLength "tipring_uring_rearms_total" "reason=\"zero_length\"" "Receives that ended and were armed again";
    RearmIcmp "tipring_uring_rearms_total" "reason=\"icmp\"" "Receives that ended and were armed again";
    RearmCancelled "tipring_uring_rearms_total" "reason=\"cancelled\"" "Receives that ended and were armed again";
    RearmEnded "tipring_uring_rearms_total" "reason=\"ended\"" "Receives that ended and were armed again";
    RearmOther "tipring_uring_rearms_total" "reason=\"other\"" "Receives that ended and were armed again";
    UnarmedFound "tipring_uring_unarmed_found_total" "" "Open sockets that the audit found without a receive: always a bug";
    CancelAgain "tipring_uring_cancels_repeated_total" "" "Receives that outlived their cancellation and were cancelled again";
    CqOverflow "tipring_uring_cq_overflow_total" "" "Completions that did not fit the completion queue";
    SqFull "tipring_uring_sq_full_total" "" "Times that the submission queue was full within a turn";
    EnterErrors "tipring_uring_enter_errors_total" "" "Unexpected errors of io_uring_enter";
    Enters "tipring_uring_enters_total" "" "Calls of io_uring_enter or epoll_wait";
    TurnsLoaded "tipring_shard_turns_total" "mode=\"loaded\"" "Turns of the shard's loop";
    TurnsWoken "tipring_shard_turns_total" "mode=\"woken\"" "Turns of the shard's loop";
    Sleeps "tipring_shard_sleeps_total" "" "Times the shard went to sleep";
    Busy "tipring_shard_busy_seconds_total" "" "Time spent working, waits excluded";
    MeshSent "tipring_mesh_messages_total" "direction=\"out\"" "Messages between shards";
    MeshReceived "tipring_mesh_messages_total" "direction=\"in\"" "Messages between shards";
    MeshFull "tipring_mesh_full_total" "" "Messages refused because the receiver's queue or the sender's credit was used up";
    MeshWakes "tipring_mesh_wakes_total" "" "Sleeping shards woken for a message";
    TcpAccepted "tipring_tcp_connections_total" "" "Connections accepted";
    TcpRefusedTotal "tipring_tcp_refused_total" "reason=\"total\"" "Connections refused";
    TcpAcceptErrors "tipring_tcp_refused_total" "reason=\"accept\"" "Connections refused";
    TcpClosedPeer "tipring_tcp_closed_total" "reason=\"peer\"" "Connections closed";
    TcpClosedError "tipring_tcp_closed_total" "reason=\"error\"" "Connections closed";
    TcpClosedOurs "tipring_tcp_closed_total" "reason=\"ours\"" "Connections closed";
    TcpClosedFraming "tipring_tcp_closed_total" "reason=\"framing\"" "Connections closed";
    TcpClosedIdle "tipring_tcp_closed_total" "reason=\"idle\"" "Connections closed";
    TcpClosedSlow "tipring_tcp_closed_total" "reason=\"slow\"" "Connections closed";
    TcpClosedSource "tipring_tcp_closed_total" "reason=\"source\"" "Connections closed";
    TcpClosedNetwork "tipring_tcp_closed_total" "reason=\"network\"" "Connections closed";
    TcpClosedTotal "tipring_tcp_closed_total" "reason=\"total\"" "Connections closed";
    TcpMessages "tipring_tcp_messages_total" "direction=\"in\"" "SIP messages over TCP";
    TcpWrites "tipring_tcp_messages_total" "direction=\"out\"" "SIP messages over TCP";
    UdpSocketErrors "tipring_udp_socket_errors_total" "" "Sockets that could not be opened or connected";
    TcpNoConnection "tipring_tcp_unsent_total" "" "Messages for a connection that is gone";
    SipRetransmissions "tipring_sip_retransmissions_total" "" "Retransmitted requests answered as before";
    SipUnreadableTooLong "tipring_sip_parse_errors_total" "reason=\"too_long\"" "Messages that could not be read";
    SipUnreadableStartLine "tipring_sip_parse_errors_total" "reason=\"start_line\"" "Messages that could not be read";
    SipUnreadableVersion "tipring_sip_parse_errors_total" "reason=\"version\"" "Messages that could not be read";
    SipUnreadableRequestUri "tipring_sip_parse_errors_total" "reason=\"request_uri\"" "Messages that could not be read";
    SipUnreadableLine "tipring_sip_parse_errors_total" "reason=\"line\"" "Messages that could not be read";
    SipUnreadableTooManyHeaders "tipring_sip_parse_errors_total" "reason=\"too_many_headers\"" "Messages that could not be read";
    SipUnreadableMissingHeader "tipring_sip_parse_errors_total" "reason=\"missing_header\"" "Messages that could not be read";
    SipUnreadableRepeatedHeader "tipring_sip_parse_errors_total" "reason=\"repeated_header\"" "Messages that could not be read";
    SipUnreadableMalformedHeader "tipring_sip_parse_errors_total" "reason=\"malformed_header\"" "Messages that could not be read";
    SipUnreadableMethod "tipring_sip_parse_errors_total" "reason=\"method\"" "Messages that could not be read";
    SipUnreadableBody "tipring_sip_parse_errors_total" "reason=\"body\"" "Messages that could not be read";
    SipLumped "tipring_sip_lumped_total" "" "Messages counted as method other because too many kinds of them came";
    SipStrays "tipring_sip_stray_responses_total" "" "Responses to nothing of ours";
    SipPassedOn "tipring_sip_passed_on_total" "" "Messages that belonged to another shard";
    SipChallenges "tipring_sip_challenges_total" "" "Challenges sent: requests without a valid nonce or with wrong credentials";
    SipUnanswered "tipring_sip_unanswered_total" "" "Messages over UDP from sources that prove nothing, beyond the answers that there are for such: dropped";
    SourcesEvicted "tipring_sources_evicted_total" "" "Sources and phones' addresses forgotten because their table was full";
    SipSlowed "tipring_sip_slowed_total" "" "Requests dropped because their source is over its limit";
    CallsRefused "tipring_calls_rejected_overload_total" "" "Calls refused while draining or full";
    CallFaults "tipring_call_faults_total" "" "Calls ended because a step of ours panicked";
    RtpReceived "tipring_rtp_packets_total" "direction=\"in\",kind=\"rtp\"" "Packets at RTP ports, dropped ones too, and packets sent from there";
    RtcpReceived "tipring_rtp_packets_total" "direction=\"in\",kind=\"rtcp\"" "Packets at RTP ports, dropped ones too, and packets sent from there";
    RtpSent "tipring_rtp_packets_total" "direction=\"out\",kind=\"rtp\"" "Packets at RTP ports, dropped ones too, and packets sent from there";
    RtcpSent "tipring_rtp_packets_total" "direction=\"out\",kind=\"rtcp\"" "Packets at RTP ports, dropped ones too, and packets sent from there";
    RtpBytes "tipring_rtp_bytes_total" "" "Bytes relayed";
    RtpDroppedClosed "tipring_rtp_dropped_total" "reason=\"closed\"" "Packets not relayed";
    RtpDroppedMalformed "tipring_rtp_dropped_total" "reason=\"malformed\"" "Packets not relayed";
    RtpDroppedStranger "tipring_rtp_dropped_total" "reason=\"stranger\"" "Packets not relayed";
    RtpDroppedUnbridged "tipring_rtp_dropped_total" "reason=\"unbridged\"" "Packets not relayed";
    RtpDroppedDirection "tipring_rtp_dropped_total" "reason=\"direction\"" "Packets not relayed";
    RtpDroppedNoDestination "tipring_rtp_dropped_total" "reason=\"no_destination\"" "Packets not relayed";
    MediaLatched "tipring_media_latches_total" "kind=\"first\"" "Sources learnt";
    MediaRelatched "tipring_media_latches_total" "kind=\"again\"" "Sources learnt";
    MediaTimeouts "tipring_media_timeouts_total" "" "Streams that fell silent";
    MediaOneWay "tipring_media_one_way_total" "" "Streams heard in one direction alone";
    RtpPortsExhausted "tipring_rtp_ports_exhausted_total" "" "Calls that found no free port";
    ClerkLost "tipring_clerk_lost_total" "" "Events and changes that the clerk's queue had no room for";
    OutboxOverflows "tipring_outbox_overflows_total" "" "Outputs of a step beyond its bound: always a bug";
    CallAttempts "tipring_call_attempts_total" "direction=\"internal\"" "Calls begun, answered or not";
    SipMerged "tipring_sip_merged_total" "" "INVITEs that came a second way and got 482";
    SipUnchallenged "tipring_sip_unchallenged_total" "" "Requests too short to be answered within three times their length: dropped";
    TapeFrames "tipring_tape_frames_total" "" "Packets copied for recordings";
    TapeShed "tipring_tape_shed_total" "reason=\"slow\"" "Records given up because the disk had no time or room for them";
    TapeRemoved "tipring_tape_shed_total" "reason=\"full\"" "Records given up because the disk had no time or room for them";
    TapeGaps "tipring_tape_gaps_total" "" "Gaps on the tape";
    TapeEventsWaiting "tipring_tape_events_waiting_total" "" "Events that had to wait for room on the tape";
    TapeBlocksEvents "tipring_tape_blocks_total" "track=\"events\"" "Blocks confirmed on disk";
    TapeBlocksMedia "tipring_tape_blocks_total" "track=\"media\"" "Blocks confirmed on disk";
    TapeBytesEvents "tipring_tape_bytes_total" "track=\"events\"" "Bytes confirmed on disk";
    TapeBytesMedia "tipring_tape_bytes_total" "track=\"media\"" "Bytes confirmed on disk";
    TapeCommits "tipring_tape_commits_total" "" "Writes with their fdatasync";
    TapeErrors "tipring_tape_errors_total" "" "Writes that the disk refused";
    RtpDroppedAnnouncement "tipring_rtp_dropped_total" "reason=\"announcement\"" "Packets not relayed";
    RtpAnnounced "tipring_rtp_announced_total" "" "Packets of announcements sent";
    EventsLost "tipring_events_lost_total" "" "Events that found neither room on the tape nor room to wait for it";
    ContactsNotRung "tipring_contacts_not_rung_total" "" "Contacts that did not ring because one call rings no more at once";
    ProvisionalsJoined "tipring_provisionals_joined_total" "" "Reliable provisional responses that went out as one with a later one, as the caller acknowledged none before";
    BindingsDamaged "tipring_bindings_damaged_total" "" "Damaged places of the bindings' log: what they said is lost; the first shard tells those of the node";
    SipElsewhere "tipring_sip_elsewhere_total" "" "Requests within dialogs that came from elsewhere than their phone: challenged, or dropped where that cannot be";
    SipMisdirected "tipring_sip_misdirected_total" "" "Requests whose credentials were made for another URI: 400";
    RtpDroppedUnheard "tipring_rtp_dropped_total" "reason=\"unheard\"" "Packets not relayed";
    AdmissionPhoneCalls "tipring_admission_refused_total" "reason=\"phone_calls\"" "Calls not taken on";
    AdmissionPhoneRate "tipring_admission_refused_total" "reason=\"phone_rate\"" "Calls not taken on";
    AdmissionTenantCalls "tipring_admission_refused_total" "reason=\"tenant_calls\"" "Calls not taken on";
    AdmissionTenantRate "tipring_admission_refused_total" "reason=\"tenant_rate\"" "Calls not taken on";
    AdmissionShare "tipring_admission_refused_total" "reason=\"share\"" "Calls not taken on";
    AdmissionFull "tipring_admission_refused_total" "reason=\"full\"" "Calls not taken on";
    SipHurried "tipring_sip_hurried_total" "" "Registrations, and requests within calls, refused because they come faster than any phone sends them";
    RtpPortsUnfair "tipring_rtp_ports_unfair_total" "" "Calls for which no port was taken because their phone or tenant has its share";
    AnswersUnkept "tipring_sip_answers_unkept_total" "" "Answers not kept for repeats because their phone or tenant has its share, or the table was full";
    SipUnreadableExcess "tipring_sip_parse_errors_total" "reason=\"excess\"" "Messages that could not be read";
}

figures! {
    /// Distributions of durations with the bounds [`BUCKET_BOUNDS_MICROS`]. New lines go to the end.
    Histogram:
    TurnLateness "tipring_shard_turn_lateness_seconds" "" "How much later than due a turn began";
    RelayDelay "tipring_rtp_forward_delay_seconds" "" "Upper bound of the time from arrival to departure of a relayed packet";
    SipDelayInvite "tipring_sip_delay_seconds" "method=\"INVITE\"" "Time from reading a message to sending the first that it caused";
    SipDelayAck "tipring_sip_delay_seconds" "method=\"ACK\"" "Time from reading a message to sending the first that it caused";
    SipDelayBye "tipring_sip_delay_seconds" "method=\"BYE\"" "Time from reading a message to sending the first that it caused";
    SipDelayCancel "tipring_sip_delay_seconds" "method=\"CANCEL\"" "Time from reading a message to sending the first that it caused";
    SipDelayRegister "tipring_sip_delay_seconds" "method=\"REGISTER\"" "Time from reading a message to sending the first that it caused";
    SipDelayOptions "tipring_sip_delay_seconds" "method=\"OPTIONS\"" "Time from reading a message to sending the first that it caused";
    SipDelayPrack "tipring_sip_delay_seconds" "method=\"PRACK\"" "Time from reading a message to sending the first that it caused";
    SipDelayUpdate "tipring_sip_delay_seconds" "method=\"UPDATE\"" "Time from reading a message to sending the first that it caused";
    SipDelayInfo "tipring_sip_delay_seconds" "method=\"INFO\"" "Time from reading a message to sending the first that it caused";
    SipDelayOther "tipring_sip_delay_seconds" "method=\"other\"" "Time from reading a message to sending the first that it caused";
    SipDelayResponse "tipring_sip_delay_seconds" "method=\"response\"" "Time from reading a message to sending the first that it caused";
    TapeCommit "tipring_tape_commit_seconds" "" "Time of one write and fdatasync of the tape";
    RegisterDuration "tipring_register_duration_seconds" "" "Time from reading a REGISTER to sending its final answer, challenges excluded";
    LoopStall "tipring_shard_loop_stall_seconds" "" "Time that one turn of the shard's loop took";
}

figures! {
    /// How much there is. New lines go to the end.
    Gauge:
    TransactionsCalling "tipring_sip_transactions" "state=\"calling\"" "SIP transactions by their state of RFC 3261 and RFC 6026";
    TransactionsTrying "tipring_sip_transactions" "state=\"trying\"" "SIP transactions by their state of RFC 3261 and RFC 6026";
    TransactionsProceeding "tipring_sip_transactions" "state=\"proceeding\"" "SIP transactions by their state of RFC 3261 and RFC 6026";
    TransactionsAccepted "tipring_sip_transactions" "state=\"accepted\"" "SIP transactions by their state of RFC 3261 and RFC 6026";
    TransactionsCompleted "tipring_sip_transactions" "state=\"completed\"" "SIP transactions by their state of RFC 3261 and RFC 6026";
    TransactionsConfirmed "tipring_sip_transactions" "state=\"confirmed\"" "SIP transactions by their state of RFC 3261 and RFC 6026";
    Dialogs "tipring_dialogs" "" "SIP dialogs, early and confirmed, of all legs";
    MediaRelayed "tipring_media_sessions" "mode=\"relay\"" "Streams that two parties have with each other, by what is done with them beside relaying";
    MediaRecorded "tipring_media_sessions" "mode=\"record\"" "Streams that two parties have with each other, by what is done with them beside relaying";
    MediaAnnounced "tipring_media_sessions" "mode=\"announce\"" "Streams that two parties have with each other, by what is done with them beside relaying";
    PortsInUse "tipring_rtp_ports" "state=\"in_use\"" "RTP port pairs of the shards";
    PortsResting "tipring_rtp_ports" "state=\"resting\"" "RTP port pairs of the shards";
    PortsFree "tipring_rtp_ports" "state=\"free\"" "RTP port pairs of the shards";
    MeshWaiting "tipring_cross_shard_queue" "" "Messages that waited for the shard when it last looked";
    BuffersRtpUsed "tipring_buffers" "kind=\"rtp\",state=\"circulating\"" "Receive buffers: those that the kernel fills in turn, and those never needed yet";
    BuffersRtpReserve "tipring_buffers" "kind=\"rtp\",state=\"reserve\"" "Receive buffers: those that the kernel fills in turn, and those never needed yet";
    BuffersSipUsed "tipring_buffers" "kind=\"sip\",state=\"circulating\"" "Receive buffers: those that the kernel fills in turn, and those never needed yet";
    BuffersSipReserve "tipring_buffers" "kind=\"sip\",state=\"reserve\"" "Receive buffers: those that the kernel fills in turn, and those never needed yet";
    BindingsUnsaved "tipring_bindings_unsaved" "" "Bindings that are in memory alone because the disk does not take them; the first shard tells those of the node";
    DataFailing "tipring_data_failing" "" "1 while the engine cannot write to the data folder; the first shard tells it";
    CallsBarred "tipring_calls_barred" "" "1 while the shard takes no new calls: its table or its RTP ports are used up, or the node drains";
    CallBytes "tipring_kept_bytes" "kind=\"calls\"" "What is kept of messages: in calls, and as answers for repeats";
    AnswerBytes "tipring_kept_bytes" "kind=\"answers\"" "What is kept of messages: in calls, and as answers for repeats";
}

/// What the shard is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u64)]
pub enum Phase {
    Absent = 0,
    Working = 1,
    Sleeping = 2,
    Stopped = 3,
}

/// The mapped page. Clones are not made: the shard owns the writing one, readers map their own.
#[derive(Debug)]
pub struct Figures {
    words: NonNull<AtomicU64>,
}

// SAFETY: the words are atomics in a mapping that lives as long as the value.
unsafe impl Send for Figures {}
// SAFETY: as above; every access is atomic.
unsafe impl Sync for Figures {}

/// Why a shard's memory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum MemoryError {
    /// The kernel refused: address space or memory is used up.
    #[error("shard memory: {0}")]
    Map(#[from] rustix::io::Errno),
    /// The file is shorter than the page: made by something else.
    #[error("shard memory is {0} bytes, at least {FIGURES_BYTES} are needed")]
    Short(u64),
    /// The file holds figures of another version.
    #[error("shard memory has format {0}, this program writes {FORMAT}")]
    Format(u64),
}

impl Figures {
    /// Maps the page to write. The figures of a predecessor go on, but for how much there is, which begins anew; so does all of a
    /// file of zeros or of another format.
    pub fn open(file: &OwnedFd, shard: ShardId) -> Result<Self, MemoryError> {
        let figures = Self::map(file, ProtFlags::READ | ProtFlags::WRITE)?;
        if figures.check_format().is_err() {
            figures.word(WORD_MAGIC).store(0, Release);
            (WORD_FORMAT..WORDS).for_each(|word| figures.store(word, 0));
            figures.store(WORD_FORMAT, FORMAT);
            figures.store(WORD_SHARD, u64::from(shard.0));
            figures.word(WORD_MAGIC).store(MAGIC, Release);
        }
        Gauge::ALL.iter().for_each(|gauge| figures.set(*gauge, 0));
        Ok(figures)
    }

    /// Maps the page of another process to read.
    pub fn read(file: &OwnedFd) -> Result<Self, MemoryError> {
        let figures = Self::map(file, ProtFlags::READ)?;
        figures.check_format()?;
        Ok(figures)
    }

    /// A page of this process alone, for tests and tools.
    pub fn private() -> Result<Self, MemoryError> {
        let file = create_file("tipring-figures", STATE_OFFSET as u64)?;
        Self::open(&file, ShardId(0))
    }

    fn map(file: &OwnedFd, protection: ProtFlags) -> Result<Self, MemoryError> {
        let size = rustix::fs::fstat(file)?.st_size;
        let size = u64::try_from(size).unwrap_or(0);
        if size < FIGURES_BYTES as u64 {
            return Err(MemoryError::Short(size));
        }
        // SAFETY: a fresh shared mapping at an address of the kernel's choice; the file was seen to be long enough.
        let start =
            unsafe { mmap(std::ptr::null_mut(), FIGURES_BYTES, protection, MapFlags::SHARED, file.as_fd(), 0) }?;
        let words = NonNull::new(start.cast()).ok_or(rustix::io::Errno::NOMEM)?;
        Ok(Self { words })
    }

    fn check_format(&self) -> Result<(), MemoryError> {
        let format = self.load(WORD_FORMAT);
        if self.load(WORD_MAGIC) == MAGIC && format == FORMAT { Ok(()) } else { Err(MemoryError::Format(format)) }
    }

    fn word(&self, index: usize) -> &AtomicU64 {
        assert!(index < WORDS);
        // SAFETY: the mapping is WORDS long, aligned to a page, and lives as long as `self`.
        unsafe { self.words.add(index).as_ref() }
    }

    fn load(&self, index: usize) -> u64 {
        self.word(index).load(Relaxed)
    }

    fn store(&self, index: usize, value: u64) {
        self.word(index).store(value, Relaxed);
    }

    /// One writer, so that no locked instruction is needed.
    fn increase(&self, index: usize, by: u64) {
        let word = self.word(index);
        word.store(word.load(Relaxed).wrapping_add(by), Relaxed);
    }

    pub fn add(&self, counter: Counter, by: u64) {
        self.increase(WORD_COUNTERS + counter as usize, by);
    }

    pub fn count(&self, counter: Counter) -> u64 {
        self.load(WORD_COUNTERS + counter as usize)
    }

    pub fn set(&self, gauge: Gauge, value: u64) {
        self.store(WORD_GAUGES + gauge as usize, value);
    }

    pub fn gauge(&self, gauge: Gauge) -> u64 {
        self.load(WORD_GAUGES + gauge as usize)
    }

    /// Adds to the count of a key, which gets a place when it is first seen; to that of `rest` if the places are used up, and then
    /// says false. No key is 0.
    pub fn add_kind(&self, key: u64, rest: u64, by: u64) -> bool {
        let place = self.place_of(key, KINDS_MAX - RESTS_MAX);
        if let Some(place) = place.or_else(|| self.place_of(rest, KINDS_MAX)) {
            self.increase(place + 1, by);
        }
        place.is_some()
    }

    fn place_of(&self, key: u64, kinds_max: usize) -> Option<usize> {
        let place = (0..kinds_max).map(|kind| WORD_KINDS + 2 * kind).find(|place| {
            let known = self.load(*place);
            known == 0 || known == key
        })?;
        self.store(place, key);
        Some(place)
    }

    /// Keys in the order in which they were first seen, with their counts.
    pub fn kinds(&self) -> impl Iterator<Item = (u64, u64)> + '_ {
        let all = (0..KINDS_MAX).map(|kind| WORD_KINDS + 2 * kind);
        all.map(|place| (self.load(place), self.load(place + 1))).filter(|(key, _)| *key != 0)
    }

    /// Enters `times` observations of the same duration.
    pub fn observe(&self, histogram: Histogram, duration: Duration, times: u64) {
        let micros = u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
        let bucket = BUCKET_BOUNDS_MICROS.iter().position(|bound| micros <= *bound).unwrap_or(BUCKETS - 1);
        let first = WORD_HISTOGRAMS + histogram as usize * HISTOGRAM_WORDS;
        self.increase(first + bucket, times);
        let nanos = u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
        self.increase(first + BUCKETS, nanos.saturating_mul(times));
    }

    /// Observations per bucket (not accumulated), and the sum of the durations.
    pub fn histogram(&self, histogram: Histogram) -> ([u64; BUCKETS], Duration) {
        let first = WORD_HISTOGRAMS + histogram as usize * HISTOGRAM_WORDS;
        let buckets = std::array::from_fn(|bucket| self.load(first + bucket));
        (buckets, Duration::from_nanos(self.load(first + BUCKETS)))
    }

    /// The shard is alive at `now`.
    pub fn beat(&self, now: Instant, phase: Phase) {
        self.store(WORD_HEARTBEAT, now.nanos());
        self.store(WORD_PHASE, phase as u64);
        self.increase(WORD_TURNS, 1);
    }

    pub fn last_beat(&self) -> Instant {
        Instant::from_nanos(self.load(WORD_HEARTBEAT))
    }

    pub fn phase(&self) -> Phase {
        match self.load(WORD_PHASE) {
            1 => Phase::Working,
            2 => Phase::Sleeping,
            3 => Phase::Stopped,
            _ => Phase::Absent,
        }
    }

    pub fn turns(&self) -> u64 {
        self.load(WORD_TURNS)
    }

    /// The tape is confirmed up to this place of this segment, and all of the segments before it.
    pub fn publish_committed(&self, track: Track, segment: u64, place: u32) {
        self.word(WORD_COMMITTED + track.index()).store(segment << 32 | u64::from(place), Release);
    }

    /// The segment that is written, and the byte of it up to which it may be read; none before the engine has said so.
    pub fn committed(&self, track: Track) -> Option<(u64, u64)> {
        let word = self.word(WORD_COMMITTED + track.index()).load(Acquire);
        (word != 0).then_some((word >> 32, (word & 0xFFFF_FFFF) * BLOCK_ALIGN as u64))
    }

    /// All that engines before this boot left in the ring is on the tape: what is confirmed when this is read has it. 0: not yet.
    pub fn publish_rewritten(&self, boot: u64) {
        self.word(WORD_REWRITTEN).store(boot, Release);
    }

    pub fn rewritten(&self) -> u64 {
        self.word(WORD_REWRITTEN).load(Acquire)
    }

    pub fn shard(&self) -> ShardId {
        ShardId(u8::try_from(self.load(WORD_SHARD)).unwrap_or(u8::MAX))
    }
}

impl Drop for Figures {
    fn drop(&mut self) {
        // SAFETY: the mapping was made by `map` with this length and nothing refers to it any more.
        let _ = unsafe { munmap(self.words.as_ptr().cast(), FIGURES_BYTES) };
    }
}

/// A memory file of `bytes` zeros.
pub fn create_file(name: &str, bytes: u64) -> Result<OwnedFd, MemoryError> {
    let file = memfd_create(name, MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
    ftruncate(&file, bytes)?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_go_on_in_the_next_process() {
        let file = create_file("test", STATE_OFFSET as u64).unwrap();
        {
            let figures = Figures::open(&file, ShardId(3)).unwrap();
            figures.add(Counter::UdpReceived, 5);
            figures.observe(Histogram::TurnLateness, Duration::from_micros(250), 2);
            figures.beat(Instant::from_millis(9), Phase::Working);
        }
        let figures = Figures::open(&file, ShardId(3)).unwrap();
        figures.add(Counter::UdpReceived, 1);
        let reader = Figures::read(&file).unwrap();
        assert_eq!(reader.count(Counter::UdpReceived), 6);
        assert_eq!((reader.shard(), reader.phase()), (ShardId(3), Phase::Working));
        assert_eq!(reader.last_beat(), Instant::from_millis(9));
        let (buckets, sum) = reader.histogram(Histogram::TurnLateness);
        assert_eq!((buckets[3], buckets.iter().sum()), (2, 2u64));
        assert_eq!(sum, Duration::from_micros(500));
    }

    #[test]
    fn foreign_files_are_refused() {
        let short = create_file("test", 4096).unwrap();
        assert!(matches!(Figures::open(&short, ShardId(0)), Err(MemoryError::Short(4096))));
        let empty = create_file("test", STATE_OFFSET as u64).unwrap();
        assert!(matches!(Figures::read(&empty), Err(MemoryError::Format(0))));
    }

    #[test]
    fn a_page_of_another_format_is_read_by_nobody_and_begun_anew() {
        let file = create_file("test", STATE_OFFSET as u64).unwrap();
        let figures = Figures::open(&file, ShardId(3)).unwrap();
        figures.add(Counter::UdpReceived, 5);
        figures.add_kind(7, 8, 1);
        figures.publish_committed(Track::Media, 1, 1);
        figures.store(WORD_FORMAT, FORMAT - 1);
        assert!(matches!(Figures::read(&file), Err(MemoryError::Format(format)) if format == FORMAT - 1));
        let figures = Figures::open(&file, ShardId(2)).unwrap();
        assert_eq!((figures.shard(), figures.count(Counter::UdpReceived)), (ShardId(2), 0));
        assert_eq!((figures.kinds().count(), figures.committed(Track::Media)), (0, None));
        assert!(Figures::read(&file).is_ok());
    }

    #[test]
    fn how_much_there_is_begins_anew() {
        let file = create_file("test", STATE_OFFSET as u64).unwrap();
        Figures::open(&file, ShardId(0)).unwrap().set(Gauge::Dialogs, 4);
        assert_eq!(Figures::read(&file).unwrap().gauge(Gauge::Dialogs), 4);
        assert_eq!(Figures::open(&file, ShardId(0)).unwrap().gauge(Gauge::Dialogs), 0);
    }

    #[test]
    fn kinds_go_on_in_the_next_process_until_there_is_no_room() {
        let file = create_file("test", STATE_OFFSET as u64).unwrap();
        assert!(Figures::open(&file, ShardId(0)).unwrap().add_kind(70, 1, 2));
        let figures = Figures::open(&file, ShardId(0)).unwrap();
        assert!(figures.add_kind(60, 1, 5));
        assert!(figures.add_kind(70, 1, 3));
        assert_eq!(figures.kinds().collect::<Vec<_>>(), [(70, 5), (60, 5)]);
        let room = (KINDS_MAX - RESTS_MAX) as u64 - 2;
        assert_eq!((1_000..2_000).filter(|key| figures.add_kind(*key, 1, 1)).count() as u64, room);
        assert_eq!(figures.kinds().find(|(key, _)| *key == 1), Some((1, 1_000 - room)));
        assert!(figures.add_kind(60, 1, 1), "what has its place keeps it");
    }

    #[test]
    fn every_series_is_declared_once() {
        let counters = Counter::ALL.iter().map(|c| (c.name(), c.labels()));
        let gauges = Gauge::ALL.iter().map(|gauge| (gauge.name(), gauge.labels()));
        let mut series: Vec<_> = counters.chain(gauges).collect();
        series.sort_unstable();
        let len = series.len();
        series.dedup();
        assert_eq!(series.len(), len);
        assert!(series.iter().all(|(name, _)| name.starts_with("tipring_")));
    }
}
