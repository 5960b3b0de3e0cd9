//! The session timer of one leg (RFC 4028): who refreshes, when, and when the session counts as dead.
//!
//! Each leg has its own: a phone that knows nothing of it talks to one that does.

use std::time::Duration;

use serde::Deserialize;
use serde::Serialize;

use crate::base::random::Random;
use crate::base::time::Instant;
use crate::machine::call::terms::MIN_SE;
use crate::machine::call::terms::SESSION_EXPIRES;
use crate::wire::sip::HeaderId;
use crate::wire::sip::Message;
use crate::wire::sip::Refresher;
use crate::wire::sip::SessionExpires;
use crate::wire::sip::Writer;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum SessionTimer {
    Off,
    /// We refresh.
    Ours {
        secs: u32,
        refresh_at: Instant,
        expires_at: Instant,
    },
    /// The phone refreshes.
    Theirs {
        secs: u32,
        expires_at: Instant,
    },
}

/// What a deadline of the timer means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Due {
    Nothing,
    Refresh,
    Expired,
}

/// What a phone's INVITE or UPDATE says about session timers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Wish {
    supported: bool,
    asked: Option<(u32, Option<Refresher>)>,
    min_se: u32,
}

impl Wish {
    pub(super) fn of(request: &Message<'_>) -> Self {
        let supported = request.has_tag(HeaderId::Supported, "timer") || request.has_tag(HeaderId::Require, "timer");
        let asked = session_expires(request).map(|asked| (asked.secs, asked.refresher));
        Self { supported, asked, min_se: request.uint(HeaderId::MinSe).unwrap_or(MIN_SE).max(MIN_SE) }
    }

    /// RFC 4028 §9: "If the UAS receives a request with a Session-Expires header field value lower than its minimum", 422.
    pub(super) fn is_too_small(&self) -> bool {
        self.supported && self.asked.is_some_and(|(secs, _)| secs < MIN_SE)
    }

    /// What the leg of the answering side (ours) agrees to.
    pub(super) fn accept(&self, now: Instant) -> SessionTimer {
        if !self.supported {
            return SessionTimer::Off;
        }
        let (secs, refresher) = self.asked.unwrap_or((SESSION_EXPIRES, None));
        let secs = secs.min(SESSION_EXPIRES).max(self.min_se);
        // RFC 4028 §9 table 2: where the request names nobody, the UAS chooses; we do it ourselves.
        SessionTimer::start(secs, refresher != Some(Refresher::Uac), now)
    }
}

impl SessionTimer {
    fn start(secs: u32, ours: bool, now: Instant) -> Self {
        let interval = Duration::from_secs(u64::from(secs));
        // RFC 4028 §10: "the recipient … SHOULD send a BYE … a minimum of one third of the session interval or 32 seconds before" it ends.
        let expires_at = now + (interval - (interval / 3).min(Duration::from_secs(32)));
        if ours {
            Self::Ours { secs, refresh_at: now + interval / 2, expires_at }
        } else {
            Self::Theirs { secs, expires_at }
        }
    }

    /// Of the 2xx to a request of ours.
    pub(super) fn of_response(response: &Message<'_>, now: Instant) -> Self {
        match session_expires(response) {
            Some(agreed) => Self::start(agreed.secs.max(MIN_SE), agreed.refresher != Some(Refresher::Uas), now),
            // RFC 4028 §7.2: "the absence of the Session-Expires header field in the response means … the session has no expiration."
            None => Self::Off,
        }
    }

    /// The refresh of ours was answered, without a timer: the phone may have forgotten the header, the session goes on.
    pub(super) fn refreshed(&mut self, response: &Message<'_>, now: Instant) {
        match (Self::of_response(response, now), *self) {
            (Self::Off, Self::Ours { secs, .. }) => *self = Self::start(secs, true, now),
            (Self::Off, _) => {}
            (agreed, _) => *self = agreed,
        }
    }

    /// A refresh of the phone's.
    pub(super) fn accept(&mut self, request: &Message<'_>, now: Instant) {
        let wish = Wish::of(request);
        if wish.asked.is_some() {
            *self = wish.accept(now);
            return;
        }
        match *self {
            Self::Off => {}
            Self::Ours { secs, .. } => *self = Self::start(secs, true, now),
            Self::Theirs { secs, .. } => *self = Self::start(secs, false, now),
        }
    }

    pub(super) fn secs(&self) -> u32 {
        match self {
            Self::Off => 0,
            Self::Ours { secs, .. } | Self::Theirs { secs, .. } => *secs,
        }
    }

    pub(super) fn is_ours(&self) -> bool {
        matches!(self, Self::Ours { .. })
    }

    /// In a request of ours within the dialog.
    pub(super) fn emit_request(&self, writer: &mut Writer<'_>) {
        let refresher = match self {
            Self::Off => return,
            Self::Ours { .. } => "uac",
            Self::Theirs { .. } => "uas",
        };
        let secs = self.secs();
        writer.display_header(HeaderId::SessionExpires, format_args!("{secs};refresher={refresher}"));
        writer.uint_header(HeaderId::MinSe, MIN_SE);
    }

    /// In a 2xx of ours.
    pub(super) fn emit_response(&self, writer: &mut Writer<'_>) {
        let refresher = match self {
            Self::Off => return,
            Self::Ours { .. } => "uas",
            Self::Theirs { .. } => "uac",
        };
        let secs = self.secs();
        if matches!(self, Self::Theirs { .. }) {
            // RFC 4028 §9: "If the refresher parameter … has the value "uac", the UAS MUST place a Require header field".
            writer.header(HeaderId::Require, "timer");
        }
        writer.display_header(HeaderId::SessionExpires, format_args!("{secs};refresher={refresher}"));
    }

    pub(super) fn next_deadline(&self) -> Instant {
        match self {
            Self::Off => Instant::NEVER,
            Self::Ours { refresh_at, expires_at, .. } => *refresh_at.min(expires_at),
            Self::Theirs { expires_at, .. } => *expires_at,
        }
    }

    /// Told once: a refresh that was told is under way until it is answered.
    pub(super) fn handle_timeout(&mut self, now: Instant) -> Due {
        match self {
            Self::Ours { expires_at, .. } | Self::Theirs { expires_at, .. } if now >= *expires_at => {
                *self = Self::Off;
                Due::Expired
            }
            Self::Ours { refresh_at, .. } if now >= *refresh_at => {
                *refresh_at = Instant::NEVER;
                Due::Refresh
            }
            Self::Off | Self::Ours { .. } | Self::Theirs { .. } => Due::Nothing,
        }
    }

    /// The refresh met another offer or failed for a while: once more after the pause of RFC 3261 §14.1.
    pub(super) fn again(&mut self, random: &mut Random, now: Instant) {
        if let Self::Ours { refresh_at, .. } = self {
            // "If the UAC is the owner of the Call-ID …, T has a randomly chosen value between 2.1 and 4 seconds".
            *refresh_at = now + Duration::from_millis(2_100 + random.below(1_900));
        }
    }
}

fn session_expires(message: &Message<'_>) -> Option<SessionExpires> {
    message.header(HeaderId::SessionExpires).and_then(|value| SessionExpires::parse(value).ok())
}
