//! The stretches that a recording is made of: of whom, in which codec, from which source, and why another began.
//!
//! For people who ask what happened in a call; the audio does not depend on it. Bounded whatever comes: what has no room is
//! counted.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Deserialize;
use serde::Serialize;

use crate::base::time::Instant;
use crate::machine::recording::codec::Formats;
use crate::machine::recording::codec::Kind;
use crate::wire::rtp::Header;
use crate::wire::tape::Frame;
use crate::wire::tape::Mark;

/// Who says nothing for so long is on hold, or sends no silence.
const SILENCE: Duration = Duration::from_secs(1);
const OPEN_MAX: usize = 32;
const SEGMENTS_MAX: usize = 256;

/// Why a segment began.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Cause {
    /// The first of its stream.
    Begin,
    /// The sender has another SSRC.
    Ssrc,
    Codec,
    /// An engine took the call over from one that died.
    Restart,
    /// After a pause on request.
    Resumed,
    /// After a second and more without a packet: hold, or silence that was not sent.
    Silence,
}

impl Cause {
    pub const fn text(self) -> &'static str {
        match self {
            Self::Begin => "begin",
            Self::Ssrc => "ssrc",
            Self::Codec => "codec",
            Self::Restart => "restart",
            Self::Resumed => "resumed",
            Self::Silence => "silence",
        }
    }
}

/// Audio of one source in one codec without a break.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Segment {
    pub leg: u8,
    /// Index of the m-line.
    pub stream: u8,
    pub ssrc: u32,
    /// Encoding name in lower case, with the clock where it is not the usual one.
    pub codec: String,
    /// Arrival of its first and its last packet, in milliseconds since the recording began.
    pub since_ms: u64,
    pub until_ms: u64,
    pub packets: u64,
    pub cause: Cause,
}

#[derive(Debug)]
struct Open {
    segment: Segment,
    heard: Instant,
}

/// What the newest segment of a stream was.
#[derive(Debug)]
struct Newest {
    ssrc: u32,
    codec: String,
    boot: u64,
    pauses: u32,
}

#[derive(Debug)]
pub struct Segments {
    began: Instant,
    formats: Formats,
    open: BTreeMap<(u8, u8, u32, String), Open>,
    newest: BTreeMap<(u8, u8), Newest>,
    closed: Vec<Segment>,
    more: u64,
    boot: u64,
    pauses: u32,
}

impl Segments {
    pub fn new(began: Instant) -> Self {
        Self {
            began,
            formats: Formats::default(),
            open: BTreeMap::new(),
            newest: BTreeMap::new(),
            closed: Vec::new(),
            more: 0,
            boot: 0,
            pauses: 0,
        }
    }

    /// What follows is from this life of the engine.
    pub fn on_boot(&mut self, boot: u64) {
        if self.boot != boot {
            self.boot = boot;
            self.close_where(|_| true);
        }
    }

    pub fn on_mark(&mut self, at: Instant, mark: &Mark) {
        match mark {
            Mark::Formats { leg, stream, formats } => self.formats.set(*leg, *stream, formats, at),
            Mark::Paused => {
                self.pauses += 1;
                self.close_where(|_| true);
            }
            Mark::Begin { .. } | Mark::Resumed | Mark::Ended { .. } | Mark::Announced { .. } | Mark::Untaped { .. } => {
            }
        }
    }

    pub fn on_frame(&mut self, frame: &Frame<'_>) {
        let Ok(header) = Header::parse(frame.packet) else { return };
        let codec = match self.formats.kind(frame.leg, frame.stream, header.payload_type, frame.at) {
            Kind::Audio(codec) => codec.text(),
            Kind::Undecodable(name) => name.to_owned(),
            Kind::Unknown | Kind::Other => return,
        };
        let at = frame.at;
        let key = (frame.leg, frame.stream, header.ssrc, codec);
        if self.open.get(&key).is_some_and(|open| at.since(open.heard) >= SILENCE) {
            self.close_where(|open| at.since(open.heard) >= SILENCE);
        }
        if !self.open.contains_key(&key) {
            self.begin(&key, at);
        }
        let Some(open) = self.open.get_mut(&key) else { return };
        open.heard = open.heard.max(at);
        open.segment.until_ms = since(self.began, open.heard);
        open.segment.packets += 1;
    }

    fn begin(&mut self, key: &(u8, u8, u32, String), at: Instant) {
        let (leg, stream, ssrc, codec) = key;
        let newest = Newest { ssrc: *ssrc, codec: codec.clone(), boot: self.boot, pauses: self.pauses };
        let cause = match self.newest.get(&(*leg, *stream)) {
            None => Cause::Begin,
            Some(before) if before.boot != newest.boot => Cause::Restart,
            Some(before) if before.pauses != newest.pauses => Cause::Resumed,
            Some(before) if before.codec != newest.codec => Cause::Codec,
            Some(before) if before.ssrc != newest.ssrc => Cause::Ssrc,
            Some(_) => Cause::Silence,
        };
        if self.newest.len() < OPEN_MAX || self.newest.contains_key(&(*leg, *stream)) {
            self.newest.insert((*leg, *stream), newest);
        }
        if self.open.len() >= OPEN_MAX {
            let oldest = self.open.values().map(|open| open.heard).min().unwrap_or(at);
            self.close_where(|open| open.heard <= oldest);
        }
        let since_ms = since(self.began, at);
        let segment = Segment {
            leg: *leg,
            stream: *stream,
            ssrc: *ssrc,
            codec: codec.clone(),
            since_ms,
            until_ms: since_ms,
            packets: 0,
            cause,
        };
        self.open.insert(key.clone(), Open { segment, heard: at });
    }

    fn close_where(&mut self, is_over: impl Fn(&Open) -> bool) {
        let (closed, more) = (&mut self.closed, &mut self.more);
        self.open.retain(|_, open| {
            let is_over = is_over(open);
            if is_over && closed.len() < SEGMENTS_MAX {
                closed.push(open.segment.clone());
            } else if is_over {
                *more += 1;
            }
            !is_over
        });
    }

    /// All of them by their beginnings, and how many more there were.
    pub fn finish(mut self) -> (Vec<Segment>, u64) {
        self.close_where(|_| true);
        self.closed.sort_by_key(|segment| (segment.since_ms, segment.leg, segment.stream));
        (self.closed, self.more)
    }
}

fn since(began: Instant, at: Instant) -> u64 {
    u64::try_from(at.since(began).as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::id::CallId;
    use crate::wire::tape::record::Format;

    const BEGAN: Instant = Instant::from_millis(1_000);

    struct Call(Segments);

    impl Call {
        fn new() -> Self {
            let mut segments = Segments::new(BEGAN);
            segments.on_boot(7);
            Self(segments)
        }

        fn packets(&mut self, leg: u8, payload_type: u8, ssrc: u32, millis: std::ops::Range<u64>) -> &mut Self {
            for at in millis.step_by(20) {
                let mut packet = vec![0x80, payload_type, 0, 1, 0, 0, 0, 0];
                packet.extend_from_slice(&ssrc.to_be_bytes());
                packet.extend_from_slice(&[0; 160]);
                let at = BEGAN + Duration::from_millis(at);
                let call = CallId::from_bits(1);
                self.0.on_frame(&Frame { call, leg, stream: 0, at, packet: &packet });
            }
            self
        }

        fn check(&mut self, expected: &[(u64, u64, &str, Cause)]) {
            let segments = std::mem::replace(&mut self.0, Segments::new(BEGAN));
            let (found, more) = segments.finish();
            let found: Vec<_> = found
                .iter()
                .map(|segment| (segment.since_ms, segment.until_ms, segment.codec.as_str(), segment.cause))
                .collect();
            assert_eq!((found.as_slice(), more), (expected, 0));
        }
    }

    #[test]
    fn each_change_begins_another_segment_and_says_why() {
        let mut call = Call::new();
        call.packets(0, 0, 1, 0..1_000).packets(0, 0, 2, 1_000..2_000).packets(0, 8, 2, 2_000..3_000);
        call.packets(0, 8, 2, 9_000..10_000);
        call.0.on_mark(BEGAN, &Mark::Paused);
        call.0.on_mark(BEGAN, &Mark::Resumed);
        call.packets(0, 8, 2, 10_000..11_000);
        call.0.on_boot(8);
        call.packets(0, 8, 2, 11_000..12_000);
        call.check(&[
            (0, 980, "pcmu", Cause::Begin),
            (1_000, 1_980, "pcmu", Cause::Ssrc),
            (2_000, 2_980, "pcma", Cause::Codec),
            (9_000, 9_980, "pcma", Cause::Silence),
            (10_000, 10_980, "pcma", Cause::Resumed),
            (11_000, 11_980, "pcma", Cause::Restart),
        ]);
    }

    #[test]
    fn both_parties_and_two_sources_at_once_are_one_segment_each() {
        let mut call = Call::new();
        for at in (0..10_000).step_by(20) {
            call.packets(0, 0, 1, at..at + 20).packets(0, 0, 2, at..at + 20).packets(1, 9, 3, at..at + 20);
        }
        call.check(&[
            (0, 9_980, "pcmu", Cause::Begin),
            (0, 9_980, "pcmu", Cause::Ssrc),
            (0, 9_980, "g722", Cause::Begin),
        ]);
    }

    #[test]
    fn what_cannot_be_decoded_is_named_and_what_is_no_audio_is_not() {
        let mut call = Call::new();
        let format =
            |payload_type, name: &str, clock| Format { payload_type, name: name.to_owned(), clock, channels: 1 };
        let formats = vec![format(18, "g729", 8_000), format(101, "telephone-event", 8_000)];
        call.0.on_mark(BEGAN, &Mark::Formats { leg: 0, stream: 0, formats });
        call.packets(0, 18, 1, 0..1_000).packets(0, 101, 1, 1_000..3_000).packets(0, 77, 1, 3_000..4_000);
        call.check(&[(0, 980, "g729", Cause::Begin)]);
    }

    #[test]
    fn ten_thousand_sources_are_counted_and_not_kept() {
        let mut call = Call::new();
        for ssrc in 0..10_000 {
            call.packets(0, 0, ssrc, 0..20);
        }
        let (found, more) = call.0.finish();
        assert_eq!((found.len(), more), (SEGMENTS_MAX, 10_000 - SEGMENTS_MAX as u64));
    }
}
