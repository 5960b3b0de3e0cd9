//! Numbers and lists that the B2BUA stands by, in one place.

use std::time::Duration;

/// What we answer to, in every INVITE, UPDATE and 405 of ours.
pub(super) const ALLOW: &str = "INVITE, ACK, CANCEL, BYE, OPTIONS, PRACK, UPDATE, INFO";
/// Extensions that we do on each leg by ourselves.
pub(super) const SUPPORTED: &str = "100rel, timer";
/// As [`SUPPORTED`], where nobody could answer the offer of a reliable provisional response, or would acknowledge one.
pub(super) const SUPPORTED_WITHOUT_100REL: &str = "timer";
pub(super) const SDP: &str = "application/sdp";

/// RFC 4028 §4: "The recommended value for this header field is 1800".
pub(super) const SESSION_EXPIRES: u32 = 1_800;
/// RFC 4028 §4: "MUST NOT be less than 90 seconds".
pub(super) const MIN_SE: u32 = 90;

/// Answers of other shards about bindings take microseconds; without one the call fails.
pub(super) const LOCATE_MAX: Duration = Duration::from_secs(2);
/// The relay's last figures of a call come in its next turn; records do not wait longer.
pub(super) const REPORTS_MAX: Duration = Duration::from_secs(1);
/// RFC 3261 §13.3.1.1: "To prevent cancellation, the UAS MUST send a non-100 provisional response at every minute, to handle the
/// possibility of lost provisional responses." RFC 3262 §3 is content with less where they are reliable.
pub(super) const PROGRESS_PAUSE: Duration = Duration::from_secs(60);
/// RFC 3261 §16.6 step 11: timer C "MUST be larger than 3 minutes"; here for a re-INVITE that rings somewhere.
pub(super) const RENEGOTIATION_MAX: Duration = Duration::from_secs(180);

/// Early dialogs of one call, over all branches.
pub(super) const BONDS_MAX: usize = 32;
/// Requests in flight that one side of a call asked the other.
pub(super) const REQUESTS_MAX: usize = 8;
