//! Which audio a payload type stands for, and how much of it a payload holds.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::base::time::Instant;
use crate::wire::g711::Law;
use crate::wire::sdp::facts;
use crate::wire::tape::record::Format;

/// Whatever an encoder was given, a decoder can make this of it.
const OPUS_RATE: u32 = 48_000;

/// Audio that can be put on a timeline. Telephone events, comfort noise and everything unknown is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Codec {
    G711(Law),
    G722,
    L16 { rate: u32, channels: u8 },
    Opus,
}

impl Codec {
    pub fn of(format: &Format) -> Option<Self> {
        if let Some(law) = Law::of_name(&format.name, format.clock) {
            return Some(Self::G711(law));
        }
        match (format.name.as_str(), format.clock) {
            // RFC 3551 §4.5.2: "Even though the actual sampling rate for G.722 audio is 16,000 Hz, the RTP clock rate for the
            // G722 payload format is 8,000 Hz".
            ("g722", 8_000) => Some(Self::G722),
            ("l16", rate @ 8_000..=48_000) => Some(Self::L16 { rate, channels: format.channels.clamp(1, 8) }),
            // RFC 7587 §4.1: "The RTP timestamp is incremented with a 48000 Hz clock rate for all modes of Opus".
            ("opus", OPUS_RATE) => Some(Self::Opus),
            _ => None,
        }
    }

    /// RFC 3551 §6, table 4: what needs no rtpmap.
    pub const fn of_static(payload_type: u8) -> Option<Self> {
        if let Some(law) = Law::of_payload_type(payload_type) {
            return Some(Self::G711(law));
        }
        match payload_type {
            9 => Some(Self::G722),
            10 => Some(Self::L16 { rate: 44_100, channels: 2 }),
            11 => Some(Self::L16 { rate: 44_100, channels: 1 }),
            _ => None,
        }
    }

    /// Its encoding name, with the rate where that is not said by the name.
    pub fn text(self) -> String {
        match self {
            Self::G711(Law::Mu) => "pcmu".to_owned(),
            Self::G711(Law::A) => "pcma".to_owned(),
            Self::G722 => "g722".to_owned(),
            Self::L16 { rate, channels: 1 } => format!("l16/{rate}"),
            Self::L16 { rate, channels } => format!("l16/{rate}/{channels}"),
            Self::Opus => "opus".to_owned(),
        }
    }

    /// Ticks a second of the RTP timestamp.
    pub const fn clock(self) -> u32 {
        match self {
            Self::G711(_) | Self::G722 => 8_000,
            Self::L16 { rate, .. } => rate,
            Self::Opus => OPUS_RATE,
        }
    }

    /// Samples a second of each channel of the audio.
    pub const fn rate(self) -> u32 {
        match self {
            Self::G711(_) => 8_000,
            Self::G722 => 16_000,
            Self::L16 { rate, .. } => rate,
            Self::Opus => OPUS_RATE,
        }
    }

    /// Samples of each channel in a payload.
    pub fn samples(self, payload: &[u8]) -> usize {
        match self {
            Self::G711(_) => payload.len(),
            Self::G722 => payload.len() * 2,
            Self::L16 { channels, .. } => payload.len() / 2 / channels as usize,
            Self::Opus => opus_pure::packet::samples(payload, OPUS_RATE as i32).unwrap_or(0),
        }
    }
}

const FORMATS_MAX: usize = 256;
/// Of an encoding's name.
const NAME_BYTES_MAX: usize = 32;
/// Payload formats of audio streams that hold none.
const NOT_AUDIO: [&str; 4] = ["telephone-event", "tone", "cn", "parityfec"];

/// What a payload type stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind<'a> {
    Audio(Codec),
    /// Audio of this name that this build cannot decode.
    Undecodable(&'a str),
    /// No audio.
    Other,
    /// Nobody said what it is.
    Unknown,
}

#[derive(Clone, Debug)]
enum Known {
    Audio(Codec),
    Undecodable(String),
    Other,
}

/// RFC 3264 §8.3.2: "the offerer MUST be prepared to receive media with either the old or new types until the answer is received",
/// and packets that were under way come "for a brief time".
const BRIEF: Duration = Duration::from_secs(2);

/// What payload types of a call's streams mean at a time, and until when if others are agreed on.
#[derive(Clone, Debug, Default)]
pub struct Formats(BTreeMap<(u8, u8, u8), (Known, Option<Instant>)>);

impl Formats {
    /// A leg's stream has these from here on; those of before for a brief time more, unless their number is another's now.
    pub fn set(&mut self, leg: u8, stream: u8, formats: &[Format], at: Instant) {
        self.0.retain(|_, (_, until)| until.is_none_or(|until| until >= at));
        let own = self.0.range_mut((leg, stream, 0)..=(leg, stream, u8::MAX));
        own.for_each(|(_, (_, until))| *until = Some(until.unwrap_or(at + BRIEF)));
        for format in formats {
            if self.0.len() < FORMATS_MAX {
                self.0.insert((leg, stream, format.payload_type), (known(format), None));
            }
        }
    }

    pub fn kind(&self, leg: u8, stream: u8, payload_type: u8, at: Instant) -> Kind<'_> {
        let found = self.0.get(&(leg, stream, payload_type));
        match found.filter(|(_, until)| until.is_none_or(|until| at <= until)).map(|(known, _)| known) {
            Some(Known::Audio(codec)) => Kind::Audio(*codec),
            Some(Known::Undecodable(name)) => Kind::Undecodable(name),
            Some(Known::Other) => Kind::Other,
            None => kind_of_static(payload_type),
        }
    }

    pub(super) fn len(&self) -> usize {
        self.0.len()
    }
}

/// RFC 3551 §6, table 4, for what was not negotiated.
const fn kind_of_static(payload_type: u8) -> Kind<'static> {
    if let Some(codec) = Codec::of_static(payload_type) {
        return Kind::Audio(codec);
    }
    match payload_type {
        3 => Kind::Undecodable("gsm"),
        4 => Kind::Undecodable("g723"),
        5 | 6 | 16 | 17 => Kind::Undecodable("dvi4"),
        7 => Kind::Undecodable("lpc"),
        12 => Kind::Undecodable("qcelp"),
        // RFC 3389 §4; 19 is what its drafts had.
        13 | 19 => Kind::Other,
        14 => Kind::Undecodable("mpa"),
        15 => Kind::Undecodable("g728"),
        18 => Kind::Undecodable("g729"),
        _ => Kind::Unknown,
    }
}

/// Whether a format of a description is audio that can be decoded (`true`) or none (`false`); nothing: audio without a decoder.
pub fn is_recordable(format: &facts::Format) -> Option<bool> {
    let facts::Format { payload_type, name, clock, channels } = format;
    if name.is_empty() {
        return match kind_of_static(*payload_type) {
            Kind::Audio(_) => Some(true),
            Kind::Other => Some(false),
            Kind::Undecodable(_) | Kind::Unknown => None,
        };
    }
    let format = Format { payload_type: *payload_type, name: name.clone(), clock: *clock, channels: *channels };
    match known(&format) {
        Known::Audio(_) => Some(true),
        Known::Other => Some(false),
        Known::Undecodable(_) => None,
    }
}

fn known(format: &Format) -> Known {
    match Codec::of(format) {
        Some(codec) => Known::Audio(codec),
        None if NOT_AUDIO.contains(&format.name.as_str()) => Known::Other,
        None => Known::Undecodable(format.name.chars().take(NAME_BYTES_MAX).collect()),
    }
}
