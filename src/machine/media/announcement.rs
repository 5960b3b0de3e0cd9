//! What a party hears at the start of a recorded call: a stream of our own, G.711 in packets of 20 ms, made packet by packet.
//!
//! Whoever owns the pair says when the next one is due ([`relay`](crate::machine::media::relay)). Its SSRC is new to the phone, as it
//! would be from any other source (RFC 3550 §8); numbers and timestamps go on without a break.

use std::f32::consts::TAU;
use std::time::Duration;

use serde::Deserialize;
use serde::Serialize;

use crate::base::time::Instant;
use crate::wire::g711::FRAME_SAMPLES;
use crate::wire::g711::Law;
use crate::wire::g711::SAMPLES_PER_SECOND;

pub const FRAME: Duration = Duration::from_millis(20);
/// A phone that sends nothing hears it after this, at the address that it described.
const PATIENCE: Duration = Duration::from_millis(500);
const HEAD_BYTES: usize = 12;
pub const PACKET_BYTES: usize = HEAD_BYTES + FRAME_SAMPLES;

/// As recorders have sounded for long: 1,400 Hz.
pub const TONE_HERTZ: u32 = 1_400;
const TONE_SAMPLES: usize = SAMPLES_PER_SECOND as usize * 2 / 5;
const TONE_PEAK: f32 = 8_000.0;
/// It begins and ends without a click.
const RAMP_SAMPLES: usize = 40;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Sound {
    Tone,
    /// The tenant's.
    File,
}

impl Sound {
    pub const fn text(self) -> &'static str {
        match self {
            Self::Tone => "tone",
            Self::File => "file",
        }
    }
}

/// How it is to be sent to one party.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Voice {
    pub sound: Sound,
    pub law: Law,
    pub payload_type: u8,
    /// RFC 3550 §5.1: these three are random.
    pub ssrc: u32,
    pub sequence: u16,
    pub timestamp: u32,
}

/// One party's: waits until the party can hear, then plays to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Player {
    voice: Voice,
    asked_at: Instant,
    /// `None` while it waits.
    pub(super) next_at: Option<Instant>,
    position: usize,
    /// The next packet is the first after silence.
    is_fresh: bool,
}

impl Player {
    pub(super) fn new(voice: Voice, now: Instant) -> Self {
        Self { voice, asked_at: now, next_at: None, position: 0, is_fresh: true }
    }

    /// What was negotiated since; the stream stays the same.
    pub(super) fn renegotiate(&mut self, voice: Voice) {
        (self.voice.law, self.voice.payload_type) = (voice.law, voice.payload_type);
    }

    #[inline]
    pub(super) fn is_playing(&self) -> bool {
        self.next_at.is_some()
    }

    pub(super) fn is_patient(&self, now: Instant) -> bool {
        now.since(self.asked_at) < PATIENCE
    }

    pub(super) fn pause(&mut self) {
        (self.next_at, self.is_fresh) = (None, true);
    }

    fn len(&self, file: &[u8]) -> usize {
        if self.voice.sound == Sound::Tone { TONE_SAMPLES } else { file.len() }
    }

    /// At the end: it was played. Not so if the tenant has no file any more, or a shorter one.
    pub(super) fn was_heard(&self, file: &[u8]) -> bool {
        (1..self.len(file) + FRAME_SAMPLES).contains(&self.position)
    }

    /// The next packet; `None` at the end. `file` is µ-law.
    pub(super) fn next(&mut self, file: &[u8]) -> Option<[u8; PACKET_BYTES]> {
        let Voice { sound, law, payload_type, ssrc, .. } = self.voice;
        let len = self.len(file);
        if self.position >= len {
            return None;
        }
        let [s0, s1] = self.voice.sequence.to_be_bytes();
        let mut packet = [law.silence(); PACKET_BYTES];
        let (head, audio) = packet.split_first_chunk_mut::<HEAD_BYTES>()?;
        let [t0, t1, t2, t3] = self.voice.timestamp.to_be_bytes();
        let [c0, c1, c2, c3] = ssrc.to_be_bytes();
        // RFC 3551 §4.1: "The first packet of a talkspurt, that is, the first packet after a silence period during which
        // packets have not been transmitted contiguously, SHOULD be distinguished by setting the marker bit".
        let marker = u8::from(self.is_fresh) << 7;
        *head = [0x80, marker | payload_type, s0, s1, t0, t1, t2, t3, c0, c1, c2, c3];
        for (place, byte) in (self.position..len).zip(audio) {
            *byte = match (sound, file.get(place)) {
                (Sound::Tone, _) => law.encode(tone(place)),
                (Sound::File, Some(own)) if law == Law::Mu => *own,
                (Sound::File, own) => law.encode(own.map_or(0, |own| Law::Mu.decode(*own))),
            };
        }
        self.position += FRAME_SAMPLES;
        self.is_fresh = false;
        self.voice.sequence = self.voice.sequence.wrapping_add(1);
        self.voice.timestamp = self.voice.timestamp.wrapping_add(FRAME_SAMPLES as u32);
        Some(packet)
    }
}

fn tone(place: usize) -> i16 {
    let edge = place.min(TONE_SAMPLES - 1 - place).min(RAMP_SAMPLES) as f32 / RAMP_SAMPLES as f32;
    // Seven periods are 40 samples: the phase never grows.
    let phase = (place * TONE_HERTZ as usize % SAMPLES_PER_SECOND as usize) as f32 / SAMPLES_PER_SECOND as f32;
    (TONE_PEAK * edge * (TAU * phase).sin()) as i16
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::rtp::Header;

    fn voice(sound: Sound, law: Law) -> Voice {
        Voice { sound, law, payload_type: law.payload_type(), ssrc: 7, sequence: 0xFFFF, timestamp: u32::MAX - 10 }
    }

    fn play(sound: Sound, law: Law, file: &[u8]) -> Vec<[u8; PACKET_BYTES]> {
        let mut player = Player::new(voice(sound, law), Instant::ZERO);
        let mut packets = Vec::new();
        while let Some(packet) = player.next(file) {
            // As a new engine would go on with it.
            player = postcard::from_bytes(&postcard::to_allocvec(&player).unwrap()).unwrap();
            packets.push(packet);
        }
        packets
    }

    #[test]
    fn a_stream_without_a_break() {
        let packets = play(Sound::Tone, Law::A, &[]);
        assert_eq!(packets.len(), 20, "400 ms");
        for (index, packet) in packets.iter().enumerate() {
            let header = Header::parse(packet).unwrap();
            let (sequence, timestamp) =
                (0xFFFFu16.wrapping_add(index as u16), (u32::MAX - 10).wrapping_add(160 * index as u32));
            assert_eq!(
                (header.sequence, header.timestamp, header.ssrc, header.payload_type),
                (sequence, timestamp, 7, 8)
            );
            assert_eq!(header.marker, index == 0);
        }
    }

    #[test]
    fn the_tone_is_of_one_frequency_in_both_laws() {
        for law in [Law::Mu, Law::A] {
            let packets = play(Sound::Tone, law, &[]);
            let samples = packets.iter().flat_map(|packet| packet[HEAD_BYTES..].iter().map(|byte| law.decode(*byte)));
            let samples: Vec<f32> = samples.map(f32::from).collect();
            let (mut real, mut imaginary, mut power) = (0.0, 0.0, 0.0);
            for (place, sample) in samples.iter().enumerate() {
                let phase = TAU * (place * 7 % 40) as f32 / 40.0;
                real += sample * phase.cos();
                imaginary += sample * phase.sin();
                power += sample * sample;
            }
            let share = 2.0 * (real * real + imaginary * imaginary) / (power * samples.len() as f32);
            assert!(share > 0.97, "{law:?}: {share}");
            assert!(samples[0].abs() < 16.0 && samples.iter().fold(0.0, |max: f32, sample| max.max(*sample)) > 7_000.0);
        }
    }

    #[test]
    fn a_file_is_sent_as_it_is_or_in_the_other_law_and_its_end_is_filled() {
        let file: Vec<u8> = (0..250u16).map(|n| n as u8).collect();
        let packets = play(Sound::File, Law::Mu, &file);
        assert_eq!((packets.len(), &packets[0][HEAD_BYTES..]), (2, &file[..160]));
        assert_eq!(packets[1][HEAD_BYTES..], [&file[160..], &[0xFF; 70]].concat());
        let packets = play(Sound::File, Law::A, &file);
        assert_eq!(packets[0][HEAD_BYTES], Law::A.encode(Law::Mu.decode(0)));
        assert_eq!(packets[1][PACKET_BYTES - 1], Law::A.silence());
        assert!(play(Sound::File, Law::A, &[]).is_empty());
    }
}
