//! The audio of one thread's calls: a voice on each RTP port in use, and a queue of whose frame is due next.

use std::collections::VecDeque;
use std::net::SocketAddr;

use crate::base::random::Random;
use crate::base::time::Instant;
use crate::base::time::Now;
use crate::process::phlem::figures::Figures;
use crate::process::phlem::figures::Media;
use crate::process::phlem::media;
use crate::process::phlem::media::LegEnd;
use crate::process::phlem::media::Side;
use crate::process::phlem::media::Speech as Sound;
use crate::process::phlem::media::Voice;
use crate::process::phlem::phone::Speech;
use crate::process::phlem::sip::sdp::PCMA;
use crate::shard::run::Effects;
use crate::shard::udp::Slot;
use crate::wire::g711::Law;

/// Longer than any packet of a voice.
const PACKET_BYTES: usize = 256;

/// What one population says, in both laws; none: one of the voices that phones are dealt.
#[derive(Clone, Debug, Default)]
pub(super) struct Sounds(pub(super) Vec<Option<[Sound; 2]>>);

struct Leg {
    voice: Voice,
    to: SocketAddr,
    call: u64,
    is_queued: bool,
    generation: u32,
    is_caller: bool,
}

impl Leg {
    /// Unique in a run: a callee has learnt from what it heard which call it is in.
    fn name(&self) -> String {
        let side = if self.is_caller { "caller" } else { "callee" };
        match self.voice.call() {
            0 => format!("unknown-{}-{side}", self.generation),
            call => format!("{call}-{side}"),
        }
    }
}

pub(super) struct Legs {
    legs: Vec<Option<Box<Leg>>>,
    /// By time; an entry whose leg is gone or silent is passed over.
    queue: VecDeque<(Instant, Slot, u32)>,
    generation: u32,
    sounds: Sounds,
    one_clock: bool,
    keeps: bool,
    media: Media,
    random: Random,
    /// Received audio of legs that ended, and their ends.
    recordings: Vec<(String, Vec<u8>)>,
    ends: Vec<LegEnd>,
}

impl Legs {
    /// `one_clock`: both ends of every call are on this machine.
    pub(super) fn new(ports: usize, sounds: Sounds, one_clock: bool, keeps: bool, random: Random) -> Self {
        Self {
            legs: (0..ports).map(|_| None).collect(),
            queue: VecDeque::new(),
            generation: 0,
            sounds,
            one_clock,
            keeps,
            media: Media::default(),
            random,
            recordings: Vec::new(),
            ends: Vec::new(),
        }
    }

    /// True if the port was not in use and is to be opened.
    pub(super) fn speak(&mut self, speech: Speech, population: u16, now: Now) -> bool {
        let now = now.instant;
        let Some(place) = self.legs.get_mut(speech.slot as usize) else { return false };
        let is_new = place.is_none();
        if is_new {
            self.generation = self.generation.wrapping_add(1);
            let law = if speech.codec == PCMA { Law::A } else { Law::Mu };
            let own = self.sounds.0.get(usize::from(population)).and_then(Option::as_ref);
            let sound = own.map_or_else(
                || Sound::voice(self.random.next_u64(), law),
                |[mu, a]| if law == Law::A { a.clone() } else { mu.clone() },
            );
            let side = if speech.is_caller { Side::Caller } else { Side::Callee };
            let settings = media::Settings {
                call: speech.call,
                side,
                speech: sound,
                payload_type: speech.codec,
                event_type: speech.events,
                one_clock: self.one_clock,
                keep: self.keeps,
            };
            *place = Some(Box::new(Leg {
                voice: Voice::new(settings, now, &mut self.random, &mut self.media),
                to: speech.to,
                call: speech.call,
                is_queued: false,
                generation: self.generation,
                is_caller: speech.is_caller,
            }));
        }
        let Some(leg) = place else { return false };
        if leg.call != speech.call {
            leg.call = speech.call;
            self.ends.push(leg.voice.expect_another(now, &mut self.media));
        }
        leg.to = speech.to;
        leg.voice.set_sending(speech.sends, now);
        leg.voice.set_hearing(speech.hears, now);
        if let Some(at) = leg.voice.next_frame_at().filter(|_| !leg.is_queued) {
            leg.is_queued = true;
            let entry = (at, speech.slot, leg.generation);
            enqueue(&mut self.queue, entry);
        }
        is_new
    }

    /// True if the port was open and is to be closed.
    pub(super) fn hush(&mut self, slot: Slot, now: Now) -> bool {
        let Some(leg) = self.legs.get_mut(slot as usize).and_then(Option::take) else { return false };
        let name = leg.name();
        let (ended, wav) = leg.voice.finish(now.instant, &mut self.media);
        self.ends.push(ended);
        self.recordings.extend(wav.map(|wav| (name, wav)));
        true
    }

    pub(super) fn press(&mut self, slot: Slot, digits: &str, figures: &mut Figures) {
        if let Some(leg) = self.legs.get_mut(slot as usize).and_then(Option::as_mut) {
            let pressed = leg.voice.press(digits);
            if pressed < digits.len() {
                figures.fail("digits that cannot be sent");
            }
        }
    }

    pub(super) fn on_packet(&mut self, slot: Slot, bytes: &[u8], now: Now) {
        match self.legs.get_mut(slot as usize).and_then(Option::as_mut) {
            Some(leg) => leg.voice.handle(bytes, now.instant, &mut self.media),
            None => self.media.strays += 1,
        }
    }

    pub(super) fn next_at(&self) -> Instant {
        self.queue.front().map_or(Instant::NEVER, |(at, ..)| *at)
    }

    pub(super) fn send_due<M>(&mut self, now: Instant, effects: &mut impl Effects<M>) {
        let mut packet = [0; PACKET_BYTES];
        while let Some((_, slot, generation)) = self.queue.pop_front_if(|(at, ..)| *at <= now) {
            let leg = self.legs.get_mut(slot as usize).and_then(Option::as_mut);
            let Some(leg) = leg.filter(|leg| leg.generation == generation) else { continue };
            let len = leg.voice.emit(now, &mut packet, &mut self.media);
            if let Some(packet) = packet.get(..len).filter(|packet| !packet.is_empty()) {
                effects.send_udp(slot, leg.to, packet);
            }
            match leg.voice.next_frame_at() {
                Some(at) => enqueue(&mut self.queue, (at, slot, generation)),
                None => leg.is_queued = false,
            }
        }
    }

    pub(super) fn media(&self) -> &Media {
        &self.media
    }

    pub(super) fn take_ends(&mut self) -> Vec<LegEnd> {
        std::mem::take(&mut self.ends)
    }

    pub(super) fn take_recordings(&mut self) -> Vec<(String, Vec<u8>)> {
        std::mem::take(&mut self.recordings)
    }
}

/// From the back, because almost every frame is due after all others.
fn enqueue(queue: &mut VecDeque<(Instant, Slot, u32)>, entry: (Instant, Slot, u32)) {
    let before = queue.iter().rev().take_while(|(at, ..)| *at > entry.0).count();
    queue.insert(queue.len() - before, entry);
}
