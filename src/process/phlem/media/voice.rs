//! One leg's audio: an RTP packet every 20 ms, each frame numbered, and everything that is heard counted.
//!
//! Sockets and addresses are its owner's. It speaks and hears G.711 (RFC 3551) and digits as events (RFC 4733).

use std::time::Duration;

use crate::base::random::Random;
use crate::base::time::Instant;
use crate::process::phlem::figures::Media;
use crate::process::phlem::media::Side;
use crate::process::phlem::media::Speech;
use crate::process::phlem::media::digits::Dialled;
use crate::process::phlem::media::digits::EVENT_BYTES;
use crate::process::phlem::media::digits::Event;
use crate::process::phlem::media::digits::Keys;
use crate::process::phlem::media::frame;
use crate::process::phlem::media::frame::FRAME_NANOS;
use crate::process::phlem::media::frame::Mark;
use crate::process::phlem::media::frame::Stamp;
use crate::process::phlem::media::frame::Time;
use crate::process::phlem::media::heard::Heard;
use crate::process::phlem::media::ledger::LegEnd;
use crate::process::phlem::media::promise::Promise;
use crate::wire::g711::FRAME_SAMPLES;
use crate::wire::g711::Law;
use crate::wire::g711::SAMPLES_PER_SECOND;
use crate::wire::rtp;
use crate::wire::rtp::HEADER_BYTES_MIN;
use crate::wire::wav;

/// The longest packet that a voice emits.
pub const PACKET_BYTES: usize = HEADER_BYTES_MIN + FRAME_SAMPLES;
const FRAME: Duration = Duration::from_nanos(FRAME_NANOS);
/// Later than that frames are left out, as a phone that was stopped does.
const LATENESS_MAX: Duration = Duration::from_millis(200);
/// Every so many frames one says when the other side's was sent instead of its own time.
const ECHO_EVERY: u32 = 8;
/// Of received audio, ten minutes are kept.
const KEPT_BYTES_MAX: usize = 600 * SAMPLES_PER_SECOND as usize;
const COMFORT_NOISE: u8 = 13;

#[derive(Clone, Debug)]
pub struct Settings {
    /// Its number, unique over all machines and at most [`frame::CALL_MAX`]; 0: learnt from the first frame heard, as a callee does.
    pub call: u64,
    pub side: Side,
    pub speech: Speech,
    /// What the descriptions agreed on for audio; its codec is the speech's.
    pub payload_type: u8,
    /// The same for digits.
    pub event_type: Option<u8>,
    /// Both ends read the same clock: then delay one way is known.
    pub one_clock: bool,
    /// What is heard comes back as a WAV file at the end.
    pub keep: bool,
}

/// Sans-IO: time, packets and counters are handed in.
#[derive(Clone, Debug)]
pub struct Voice {
    settings: Settings,
    next_at: Instant,
    is_sending: bool,
    /// The next packet is the first of a stretch (RFC 3551 §4.1).
    marker: bool,
    /// Of the next frame; frames that are not sent have none.
    number: u32,
    sequence: u16,
    timestamp: u32,
    ssrc: u32,
    keys: Keys,
    dialled: Dialled,
    heard: Heard,
    promise: Promise,
    sent: u64,
    is_switched: bool,
    kept: Option<Kept>,
}

impl Voice {
    /// Sends from within 20 ms on, so that many phones do not all speak at once.
    pub fn new(settings: Settings, now: Instant, random: &mut Random, media: &mut Media) -> Self {
        media.streams_now += 1;
        Self {
            next_at: now + Duration::from_nanos(random.below(FRAME_NANOS)),
            is_sending: true,
            marker: true,
            number: 0,
            sequence: random.next_u32() as u16,
            timestamp: random.next_u32(),
            ssrc: random.next_u32(),
            keys: Keys::default(),
            dialled: Dialled::default(),
            heard: Heard::new(settings.call, Some(settings.side.other()), settings.one_clock),
            promise: Promise::default(),
            sent: 0,
            is_switched: false,
            kept: settings.keep.then(|| Kept::new(settings.speech.law())),
            settings,
        }
    }

    /// When [`Self::emit`] has something to send.
    pub fn next_frame_at(&self) -> Option<Instant> {
        self.is_sending.then_some(self.next_at)
    }

    /// Writes one packet if one is due; 0: none is, or `out` is shorter than [`PACKET_BYTES`].
    pub fn emit(&mut self, now: Instant, out: &mut [u8], media: &mut Media) -> usize {
        let Some(out) = out.first_chunk_mut::<PACKET_BYTES>() else { return 0 };
        if !self.is_sending || now < self.next_at {
            return 0;
        }
        let lateness = now.since(self.next_at);
        media.send_lateness.record_duration(lateness);
        if lateness > LATENESS_MAX {
            let frames = self.skip_to(now);
            media.skipped += u64::from(frames);
        }
        let began = self.timestamp.wrapping_sub(u32::from(self.keys.age()) * FRAME_SAMPLES as u32);
        let len = match self.keys.next() {
            None => self.emit_frame(now, out, media),
            Some(Event::Pause) => 0,
            Some(Event::Packet { payload, is_first }) => {
                media.digits_sent += u64::from(is_first);
                self.marker = is_first;
                let event_type = self.settings.event_type.unwrap_or_default();
                self.emit_header(out, event_type, began);
                if let Some(place) = out.get_mut(HEADER_BYTES_MIN..HEADER_BYTES_MIN + EVENT_BYTES) {
                    place.copy_from_slice(&payload);
                }
                HEADER_BYTES_MIN + EVENT_BYTES
            }
        };
        self.timestamp = self.timestamp.wrapping_add(FRAME_SAMPLES as u32);
        self.next_at = self.next_at + FRAME;
        len
    }

    fn emit_frame(&mut self, now: Instant, out: &mut [u8; PACKET_BYTES], media: &mut Media) -> usize {
        let echo = self.heard.newest.filter(|_| self.number % ECHO_EVERY == ECHO_EVERY - 1);
        let time = match echo {
            Some((stamp, arrival)) => Time::Echo(stamp.later(now.since(arrival).as_nanos() as u64)),
            None => Time::Sent(Stamp::at(now)),
        };
        let mark = Mark { call: self.heard.call, side: self.settings.side, number: self.number, time };
        let mut audio = self.settings.speech.frame(self.number as usize);
        frame::emit(&mark, &mut audio);
        self.emit_header(out, self.settings.payload_type, self.timestamp);
        if let Some((_, place)) = out.split_first_chunk_mut::<HEADER_BYTES_MIN>() {
            place.copy_from_slice(&audio);
        }
        self.number = (self.number + 1) & frame::NUMBER_MAX;
        self.sent += 1;
        media.sent += 1;
        PACKET_BYTES
    }

    fn emit_header(&mut self, out: &mut [u8; PACKET_BYTES], payload_type: u8, timestamp: u32) {
        let Some((header, _)) = out.split_first_chunk_mut::<HEADER_BYTES_MIN>() else { return };
        let marker = if self.marker { 0x80 } else { 0 };
        let [s0, s1] = self.sequence.to_be_bytes();
        let [t0, t1, t2, t3] = timestamp.to_be_bytes();
        let [r0, r1, r2, r3] = self.ssrc.to_be_bytes();
        *header = [0x80, marker | payload_type & 0x7F, s0, s1, t0, t1, t2, t3, r0, r1, r2, r3];
        self.marker = false;
        self.sequence = self.sequence.wrapping_add(1);
    }

    /// Leaves out the frames whose time is over; returns how many.
    fn skip_to(&mut self, now: Instant) -> u32 {
        let frames = (now.since(self.next_at).as_nanos() / u128::from(FRAME_NANOS)) as u32;
        self.next_at = self.next_at + FRAME * frames;
        self.timestamp = self.timestamp.wrapping_add(frames.wrapping_mul(FRAME_SAMPLES as u32));
        self.marker = true;
        frames
    }

    /// On hold a phone does not send; what it did not send is not missing.
    pub fn set_sending(&mut self, is_sending: bool, now: Instant) {
        if is_sending && !self.is_sending && now > self.next_at {
            self.skip_to(now);
            self.next_at = self.next_at + FRAME;
            self.timestamp = self.timestamp.wrapping_add(FRAME_SAMPLES as u32);
        }
        self.is_sending = is_sending;
    }

    /// Another has taken the place of the one who was heard, as after a transfer: whose call it is is learnt anew.
    pub fn expect_another(&mut self, now: Instant, media: &mut Media) -> LegEnd {
        self.promise.change(now, self.heard.lost());
        self.is_switched = true;
        let ended = self.end_of_heard(media);
        // Two callers, or two callees, may be left over: the side is learnt, too.
        self.heard = Heard::new(0, None, self.settings.one_clock);
        ended
    }

    /// From now on the other side is to be heard, or not: hold, a call that is not answered yet, one that is left to others.
    pub fn set_hearing(&mut self, hears: bool, now: Instant) {
        self.promise.set(hears, now, self.heard.lost());
    }

    /// Sends digits one after the other instead of audio; returns how many. None if events were not agreed on.
    pub fn press(&mut self, digits: &str) -> usize {
        if self.settings.event_type.is_some() { self.keys.press(digits) } else { 0 }
    }

    /// The digits that were heard.
    pub fn dialled(&self) -> &str {
        &self.dialled.digits
    }

    /// The call that this leg belongs to, 0 if nothing has said it.
    pub const fn call(&self) -> u64 {
        self.heard.call
    }

    /// A packet that came to this leg's port.
    pub fn handle(&mut self, packet: &[u8], arrival: Instant, media: &mut Media) {
        let header = rtp::Header::parse(packet);
        let Ok((header, payload)) = header.and_then(|header| Ok((header, header.payload(packet)?))) else {
            media.strays += 1;
            return;
        };
        let payload = packet.get(payload).unwrap_or_default();
        if Some(header.payload_type) == self.settings.event_type {
            media.digits_heard += u64::from(self.dialled.handle(header.timestamp, payload));
            // Keys are pressed instead of speaking.
            self.promise.on_audio(FRAME_SAMPLES, arrival);
            return;
        }
        if header.payload_type != self.settings.payload_type {
            media.strays += u64::from(header.payload_type != COMFORT_NOISE);
            return;
        }
        if let Some(kept) = &mut self.kept {
            kept.add(&header, payload);
        }
        let (frames, rest) = payload.as_chunks::<FRAME_SAMPLES>();
        for frame in frames {
            match frame::parse(frame) {
                Some(found) => {
                    if self.heard.handle(found, arrival, media) {
                        self.promise.on_audio(FRAME_SAMPLES, arrival);
                    }
                }
                None => self.on_unnumbered(frame.len(), arrival, media),
            }
        }
        if !rest.is_empty() {
            self.on_unnumbered(rest.len(), arrival, media);
        }
    }

    const fn on_unnumbered(&mut self, samples: usize, arrival: Instant, media: &mut Media) {
        media.unnumbered += 1;
        self.promise.on_audio(samples, arrival);
    }

    /// What a [`Ledger`](crate::process::phlem::media::Ledger) has to know of what was heard until now.
    fn end_of_heard(&mut self, media: &mut Media) -> LegEnd {
        let Promise { heard, unheard, was_kept_or_broken, .. } = self.promise;
        (self.promise.heard, self.promise.unheard, self.promise.was_kept_or_broken) = (0, 0, false);
        LegEnd {
            is_caller: self.settings.side == Side::Caller,
            sent: self.sent,
            heard,
            unheard,
            was_to_hear: was_kept_or_broken,
            is_switched: self.is_switched,
            ..self.heard.finish(media)
        }
    }

    /// The leg ends. Returns also what was heard as a WAV file if it was kept.
    pub fn finish(mut self, now: Instant, media: &mut Media) -> (LegEnd, Option<Vec<u8>>) {
        media.streams_now = media.streams_now.saturating_sub(1);
        media.streams += 1;
        self.set_hearing(false, now);
        let ended = self.end_of_heard(media);
        (ended, self.kept.and_then(Kept::into_wav))
    }
}

/// Received audio, each packet at the place that its timestamp says.
#[derive(Clone, Debug)]
struct Kept {
    law: Law,
    /// The stream and its timestamp at the audio's beginning.
    origin: Option<(u32, u32)>,
    audio: Vec<u8>,
}

impl Kept {
    const fn new(law: Law) -> Self {
        Self { law, origin: None, audio: Vec::new() }
    }

    fn add(&mut self, header: &rtp::Header, payload: &[u8]) {
        let origin = match self.origin {
            Some((ssrc, origin)) if ssrc == header.ssrc => origin,
            // Another stream goes on where the last one ended.
            _ => header.timestamp.wrapping_sub(self.audio.len() as u32),
        };
        self.origin = Some((header.ssrc, origin));
        let at = header.timestamp.wrapping_sub(origin) as usize;
        let end = at.saturating_add(payload.len());
        if end > KEPT_BYTES_MAX {
            return;
        }
        if self.audio.len() < end {
            self.audio.resize(end, self.law.silence());
        }
        if let Some(place) = self.audio.get_mut(at..end) {
            place.copy_from_slice(payload);
        }
    }

    fn into_wav(self) -> Option<Vec<u8>> {
        let encoding = wav::Encoding::G711(self.law);
        wav::emit(wav::Format { encoding, channels: 1, rate: SAMPLES_PER_SECOND }, &self.audio).ok()
    }
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
