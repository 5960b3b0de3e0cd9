//! Packet histories of all kinds, and where their audio comes to lie.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::time::Duration;

use ezk_g722::libg722::Bitrate;
use ezk_g722::libg722::encoder::Encoder;
use proptest::prelude::*;

use super::*;
use crate::base::id::CallId;
use crate::base::random::Random;
use crate::base::time::Instant;
use crate::machine::recording::view::Channels;
use crate::machine::recording::view::Peaks;
use crate::machine::recording::view::View;
use crate::machine::recording::view::mix;
use crate::wire::g711::Law;
use crate::wire::tape::Frame;
use crate::wire::tape::Mark;
use crate::wire::tape::record::Format;
use crate::wire::tape::record::Frames;
use crate::wire::tape::record::Untaped;

mod courses;

const MILLI: u64 = 1_000_000;
const SECOND: u64 = 1_000 * MILLI;
/// When every recording of these tests begins.
const BEGAN: u64 = 1_000 * SECOND;

#[derive(Clone, Copy)]
struct Rtp {
    payload_type: u8,
    sequence: u16,
    timestamp: u32,
    ssrc: u32,
}

fn packet(rtp: Rtp, payload: &[u8]) -> Vec<u8> {
    let mut packet = vec![0x80, rtp.payload_type];
    packet.extend_from_slice(&rtp.sequence.to_be_bytes());
    packet.extend_from_slice(&rtp.timestamp.to_be_bytes());
    packet.extend_from_slice(&rtp.ssrc.to_be_bytes());
    packet.extend_from_slice(payload);
    packet
}

/// A frame of 20 ms of G.711 that names itself.
fn numbered(number: u32) -> Vec<u8> {
    number.to_be_bytes().repeat(40)
}

fn number_of(payload: &[u8]) -> u32 {
    u32::from_be_bytes(*payload.first_chunk().unwrap())
}

/// What a sink was given: place, samples that are not used, payload.
#[derive(Default)]
struct Given {
    pieces: [Vec<(u64, usize, Vec<u8>)>; 2],
    ends: [u64; 2],
}

impl Sink for Given {
    fn audio(&mut self, party: Party, placed: Placed<'_>) {
        let party = party as usize;
        let end = self.ends[party];
        assert!(placed.at >= end, "{} goes back before {end}", placed.at);
        let samples = placed.codec.samples(placed.payload) as u64 * 8_000 / u64::from(placed.codec.rate());
        self.ends[party] = placed.at + samples - placed.skip as u64;
        self.pieces[party].push((placed.at, placed.skip, placed.payload.to_vec()));
    }

    fn settled(&mut self, party: Party, place: u64) {
        assert!(place >= self.ends[party as usize]);
        self.ends[party as usize] = place;
    }
}

impl Given {
    /// Place of the beginning of each numbered frame.
    fn places(&self, party: Party) -> BTreeMap<u32, i64> {
        let pieces = self.pieces[party as usize].iter();
        let places: Vec<_> =
            pieces.map(|(at, skip, payload)| (number_of(payload), *at as i64 - *skip as i64)).collect();
        let map: BTreeMap<_, _> = places.iter().copied().collect();
        assert_eq!(map.len(), places.len(), "a frame stands twice");
        map
    }
}

enum Input {
    Frame(u8, Vec<u8>),
    Mark(Mark),
}

/// What the tape would have, read twice at the end.
struct Recorded {
    inputs: Vec<(u64, Input)>,
    timeline: Timeline,
    given: Given,
}

fn nothing() -> Courses {
    Arrivals::new(Instant::from_nanos(BEGAN)).finish()
}

impl Recorded {
    fn new() -> Self {
        Self { inputs: Vec::new(), timeline: Timeline::new(8_000, nothing()), given: Given::default() }
    }

    fn frame(&mut self, leg: u8, nanos: u64, packet: &[u8]) {
        self.inputs.push((nanos, Input::Frame(leg, packet.to_vec())));
    }

    fn mark(&mut self, nanos: u64, mark: &Mark) {
        self.inputs.push((nanos, Input::Mark(mark.clone())));
    }

    fn courses(&self) -> Courses {
        let mut arrivals = Arrivals::new(Instant::from_nanos(BEGAN));
        for (nanos, input) in &self.inputs {
            match input {
                Input::Frame(leg, packet) => arrivals.on_frame(&frame(*leg, *nanos, packet)),
                Input::Mark(mark) => arrivals.on_mark(Instant::from_nanos(BEGAN + nanos), mark),
            }
        }
        arrivals.finish()
    }

    fn finish(&mut self, ended: u64) -> u64 {
        self.play(ended, 8_000, &mut |_| {})
    }

    fn play(&mut self, ended: u64, rate: u32, each: &mut dyn FnMut(&Timeline)) -> u64 {
        self.timeline = Timeline::new(rate, self.courses());
        for (nanos, input) in &self.inputs {
            match input {
                Input::Frame(leg, packet) => {
                    self.timeline.on_frame(&frame(*leg, *nanos, packet), &mut self.given);
                }
                Input::Mark(mark) => self.timeline.on_mark(Instant::from_nanos(BEGAN + nanos), mark),
            }
            each(&self.timeline);
        }
        self.timeline.finish(Instant::from_nanos(BEGAN + ended), &mut self.given)
    }

    fn line(&self, leg: u8) -> Line {
        self.timeline.ledger().lines().find(|(of, ..)| *of == leg).map(|(_, _, line)| *line).unwrap_or_default()
    }
}

fn frame(leg: u8, nanos: u64, packet: &[u8]) -> Frame<'_> {
    Frame { call: CallId::from_bits(1), leg, stream: 0, at: Instant::from_nanos(BEGAN + nanos), packet }
}

fn rtp(number: u32) -> Rtp {
    Rtp { payload_type: 0, sequence: number as u16, timestamp: number * 160, ssrc: 7 }
}

#[test]
fn loss_is_silence_of_its_length_and_order_is_the_senders() {
    let mut recorded = Recorded::new();
    // 3 and 4 are lost, 6 comes before 5, 7 comes twice.
    for (at, number) in [(0, 0), (20, 1), (40, 2), (120, 6), (121, 5), (140, 7), (141, 7), (160, 8)] {
        recorded.frame(0, at * MILLI, &packet(rtp(number), &numbered(number)));
    }
    assert_eq!(recorded.finish(180 * MILLI), 9 * 160);
    let expected: BTreeMap<u32, i64> = [0, 1, 2, 5, 6, 7, 8].map(|number| (number, i64::from(number) * 160)).into();
    assert_eq!(recorded.given.places(Party::Caller), expected);
    let line = recorded.line(0);
    assert_eq!((line.received, line.lost, line.duplicated, line.written, line.discarded), (8, 2, 1, 7, 0));
}

#[test]
fn the_verdict_needs_every_packet() {
    let mut recorded = Recorded::new();
    for number in 0..10 {
        recorded.frame(1, u64::from(number) * 20 * MILLI, &packet(rtp(number), &numbered(number)));
    }
    recorded.finish(SECOND);
    let given = |frames| [Frames { leg: 1, stream: 0, frames }];
    let ledger = recorded.timeline.ledger();
    assert_eq!(ledger.verdict(Some(&given(10))), Verdict::Complete);
    assert_eq!(ledger.verdict(Some(&given(11))), Verdict::Degraded);
    assert_eq!(ledger.verdict(None), Verdict::Degraded);
    assert_eq!(ledger.lines().map(|(leg, party, _)| (leg, party)).collect::<Vec<_>>(), [(1, Party::Callee)]);
}

/// One sender whose clock is wrong by so many millionths; by how many samples a frame is away from where it should be at most.
fn furthest_with_drift(frames: u32, millionths: i64, jitter: impl Fn(u64) -> u64) -> i64 {
    let mut recorded = Recorded::new();
    let mut furthest = 0;
    let sent = |number: u32| {
        let sent = 20 * MILLI * u64::from(number);
        sent.checked_add_signed(sent as i64 / 1_000_000 * millionths).unwrap()
    };
    let mut arrivals: Vec<_> = (0..frames).map(|number| (sent(number) + jitter(u64::from(number)), number)).collect();
    arrivals.sort_unstable();
    for (at, number) in arrivals {
        recorded.frame(0, at, &packet(rtp(number), &numbered(number)));
    }
    recorded.finish(SECOND);
    let places = recorded.given.places(Party::Caller);
    assert_eq!(places.len(), frames as usize);
    assert_eq!(recorded.line(0).discarded, 0);
    let first = places[&0];
    for (number, place) in places {
        let right = sent(number) as i64 / 125_000;
        furthest = furthest.max((place - first - right).abs());
    }
    furthest
}

#[test]
fn clocks_that_differ_stay_together_for_an_hour() {
    // 20 ms are 160 samples; without correction it would be 5,760.
    for millionths in [-200, 200] {
        let furthest = furthest_with_drift(180_000, millionths, |number| number * 7_919 % 13 * MILLI);
        assert!(furthest < 120, "{millionths}: {furthest}");
    }
}

#[test]
fn a_right_clock_is_left_alone_whatever_the_network_does() {
    let jitter = |number: u64| number * 104_729 % 60 * MILLI + if number % 500 == 3 { 700 * MILLI } else { 0 };
    // The first packet has no jitter, so nothing moves.
    assert_eq!(furthest_with_drift(30_000, 0, jitter), 0);
}

fn format(payload_type: u8, name: &str, clock: u32) -> Format {
    Format { payload_type, name: name.to_owned(), clock, channels: 1 }
}

#[test]
fn what_no_clock_does_loses_nothing_and_lies_where_it_came() {
    // From packet 100 on: timestamp, number, stream and time are others.
    let check = |name: &str, timestamp: u32, sequence: u16, ssrc: u32, later: u64| {
        let mut recorded = Recorded::new();
        for number in 0..200u32 {
            let own = rtp(number);
            let (own, after) = if number < 100 {
                (own, 0)
            } else {
                let timestamp = own.timestamp.wrapping_add(timestamp);
                (Rtp { timestamp, sequence: own.sequence.wrapping_add(sequence), ssrc, ..own }, later)
            };
            recorded.frame(0, u64::from(number) * 20 * MILLI + after, &packet(own, &numbered(number)));
        }
        recorded.finish(4 * SECOND + later);
        let places = recorded.given.places(Party::Caller);
        assert_eq!(places.len(), 200, "{name}");
        for (number, place) in places {
            let after = if number < 100 { 0 } else { later as i64 / 125_000 };
            let away = place - i64::from(number) * 160 - after;
            assert!(away.abs() <= 160, "{name}: frame {number} is {away} samples away");
        }
        let line = recorded.line(0);
        assert_eq!((line.received, line.written, line.discarded), (200, 200, 0), "{name}");
        line.lost
    };
    assert_eq!(check("nothing", 0, 0, 7, 0), 0);
    check("back by a second", 8_000u32.wrapping_neg(), 0, 7, 0);
    check("back by hours", (3 * 3_600 * 8_000u32).wrapping_neg(), 0, 7, 0);
    check("ahead by hours", 5 * 3_600 * 8_000, 0, 7, 0);
    check("ahead by a second", 8_000, 0, 7, 0);
    check("half of all", 1 << 31, 0, 7, 0);
    assert_eq!(check("another stream", 12_345, 9_999, 8, 0), 0);
    assert_eq!(check("numbers begin anew", 12_345, 40_000, 7, 0), 0);
    check("hold, timestamps go on", 60 * 8_000, 0, 7, 60 * SECOND);
    check("hold, timestamps stand", 0, 0, 7, 60 * SECOND);
    check("a second of silence, timestamps stand", 0, 0, 7, SECOND);
    check("silence suppressed", 8_000, 0, 7, SECOND);
}

#[test]
fn a_stall_of_the_network_moves_nothing() {
    let mut recorded = Recorded::new();
    for number in 0..300u32 {
        // What was sent in the third second comes at its end at once.
        let sent = u64::from(number) * 20 * MILLI;
        let came = if (2 * SECOND..3 * SECOND).contains(&sent) { 3 * SECOND } else { sent };
        recorded.frame(0, came, &packet(rtp(number), &numbered(number)));
    }
    recorded.finish(6 * SECOND);
    let places = recorded.given.places(Party::Caller);
    assert!((0..300).all(|number| places.get(&number) == Some(&(i64::from(number) * 160))));
}

#[test]
fn formats_say_what_is_audio() {
    let mut recorded = Recorded::new();
    let formats = vec![format(96, "pcma", 8_000), format(101, "telephone-event", 8_000), format(97, "g729", 8_000)];
    recorded.mark(0, &Mark::Formats { leg: 0, stream: 0, formats });
    for (number, payload_type) in (0..).zip([96, 101, 13, 97, 0, 96, 96]) {
        let rtp = Rtp { payload_type, ..rtp(number) };
        let payload = if number == 5 { Vec::new() } else { numbered(number) };
        recorded.frame(0, u64::from(number) * 20 * MILLI, &packet(rtp, &payload));
    }
    recorded.frame(0, 200 * MILLI, b"garbage");
    recorded.frame(0, 200 * MILLI, b"");
    recorded.frame(0, 200 * MILLI, &packet(rtp(7), &[0xFF; 1_400]));
    recorded.finish(SECOND);
    let line = recorded.line(0);
    let counts = (line.received, line.lost, line.written, line.other, line.undecodable, line.malformed);
    assert_eq!(counts, (4, 0, 4, 3, 1, 2));
}

#[test]
fn formats_of_before_are_heard_for_a_brief_time() {
    let mark = |formats: Vec<Format>| Mark::Formats { leg: 0, stream: 0, formats };
    let check = |after: u64, new: Vec<Format>, codec: Codec, is_heard: bool| {
        let mut recorded = Recorded::new();
        recorded.mark(0, &mark(vec![format(96, "pcma", 8_000)]));
        recorded.frame(0, 0, &packet(Rtp { payload_type: 96, ..rtp(0) }, &numbered(0)));
        recorded.mark(10 * MILLI, &mark(new));
        recorded.frame(0, 10 * MILLI + after * MILLI, &packet(Rtp { payload_type: 96, ..rtp(1) }, &numbered(1)));
        recorded.finish(5 * SECOND);
        let line = recorded.line(0);
        assert_eq!((line.written, line.unknown), if is_heard { (2, 0) } else { (1, 1) }, "{after}");
        assert_eq!(recorded.courses().codecs().last(), Some(&codec));
    };
    let (pcma, g722) = (Codec::G711(Law::A), Codec::G722);
    check(20, vec![format(9, "g722", 8_000)], pcma, true);
    check(1_900, vec![format(9, "g722", 8_000)], pcma, true);
    check(2_100, vec![format(9, "g722", 8_000)], pcma, false);
    check(20, vec![format(96, "g722", 8_000)], g722, true);
}

#[test]
fn the_verdict_tells_what_reached_the_node_and_not_the_tape() {
    let check = |untaped: Untaped, extra: Option<u8>, verdict: Verdict| {
        let mut recorded = Recorded::new();
        recorded.frame(0, 0, &packet(rtp(0), &numbered(0)));
        if let Some(payload_type) = extra {
            recorded.frame(0, 20 * MILLI, &packet(Rtp { payload_type, ..rtp(1) }, &numbered(1)));
        }
        recorded.mark(SECOND, &Mark::Untaped { untaped: vec![untaped] });
        recorded.finish(SECOND);
        let frames = [Frames { leg: 0, stream: 0, frames: 1 + u64::from(extra.is_some()) }];
        assert_eq!(recorded.timeline.ledger().verdict(Some(&frames)), verdict, "{untaped:?} {extra:?}");
        recorded.line(untaped.leg)
    };
    let none = Untaped { leg: 1, ..Untaped::default() };
    check(none, None, Verdict::Complete);
    assert_eq!(check(Untaped { direction: 5, ..none }, None, Verdict::Complete).direction, 5);
    assert_eq!(check(Untaped { strangers: 6, ..none }, None, Verdict::Complete).strangers, 6);
    assert_eq!(check(Untaped { malformed: 7, ..none }, None, Verdict::Complete).refused, 7);
    assert_eq!(check(Untaped { overrun: 1, ..none }, None, Verdict::Degraded).overrun, 1);
    assert_eq!(check(Untaped { encrypted: 200, overrun: 1, ..none }, None, Verdict::Encrypted).encrypted, 200);
    // Comfort noise; what RFC 3551 gives another codec; what nobody named.
    check(none, Some(13), Verdict::Complete);
    check(none, Some(3), Verdict::Degraded);
    check(none, Some(111), Verdict::Degraded);
}

#[test]
fn what_a_direction_kept_from_the_tape_was_not_lost() {
    let mut recorded = Recorded::new();
    for number in (0..10).chain(60..70) {
        recorded.frame(0, u64::from(number) * 20 * MILLI, &packet(rtp(number), &numbered(number)));
    }
    recorded
        .mark(2 * SECOND, &Mark::Untaped { untaped: vec![Untaped { direction: 48, lost: 2, ..Untaped::default() }] });
    recorded.finish(2 * SECOND);
    let line = recorded.line(0);
    assert_eq!((line.received, line.direction, line.lost), (20, 48, 2));
}

#[test]
fn a_call_of_encrypted_audio_alone_is_not_complete() {
    let mut recorded = Recorded::new();
    let untaped = [0, 1].map(|leg| Untaped { leg, encrypted: 200, ..Untaped::default() }).to_vec();
    recorded.mark(4 * SECOND, &Mark::Untaped { untaped });
    recorded.finish(4 * SECOND);
    assert_eq!(recorded.timeline.ledger().verdict(Some(&[])), Verdict::Encrypted);
    assert_eq!(recorded.timeline.ledger().lines().count(), 2);
}

#[test]
fn a_pause_is_silence_and_is_listed() {
    let mut recorded = Recorded::new();
    for number in 0..500u32 {
        let at = u64::from(number) * 20 * MILLI;
        match number {
            100 => recorded.mark(at, &Mark::Paused),
            400 => recorded.mark(at, &Mark::Resumed),
            _ => {}
        }
        if !(100..400).contains(&number) {
            recorded.frame(0, at, &packet(rtp(number), &numbered(number)));
        }
    }
    assert_eq!(recorded.finish(10 * SECOND), 80_000);
    assert_eq!(recorded.timeline.pauses(), [(16_000, 64_000)]);
    let places = recorded.given.places(Party::Caller);
    assert_eq!((places[&99], places[&400], places.len()), (99 * 160, 64_000, 200));
    // What was not to be recorded was not lost.
    assert_eq!(recorded.line(0).lost, 0);
}

#[test]
fn ten_thousand_streams_on_one_port_are_bounded() {
    let mut recorded = Recorded::new();
    for number in 0..10_000u32 {
        let rtp = Rtp { ssrc: number, ..rtp(0) };
        recorded.frame(0, u64::from(number) * 2 * MILLI, &packet(rtp, &numbered(number)));
    }
    recorded.play(20 * SECOND, 8_000, &mut |timeline| assert!(timeline.size() < 5_000));
    let line = recorded.line(0);
    assert_eq!(line.received, 10_000);
    assert_eq!(line.written + line.discarded, 10_000);
    assert!(line.written >= 1_000);
}

#[derive(Clone, Debug)]
struct Fate {
    is_lost: bool,
    is_doubled: bool,
    delay: u64,
}

/// One packet in five or so meets no queue: a least delay that no window shows is drift to whoever has only arrivals to look at.
fn fates() -> impl Strategy<Value = Vec<Fate>> {
    let fate = (0u8..10, 0u8..10, -40i64..150).prop_map(|(lost, doubled, delay)| Fate {
        is_lost: lost == 0,
        is_doubled: doubled == 0,
        delay: delay.max(0).cast_unsigned() * MILLI,
    });
    proptest::collection::vec(fate, 1..600)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn every_packet_that_came_lies_where_it_was_spoken(
        fates in fates(),
        sequence in any::<u16>(),
        timestamp in any::<u32>(),
        quiet in any::<bool>(),
    ) {
        let mut arrivals = Vec::new();
        let mut spoken = 0u64;
        let mut places = Vec::new();
        for (number, fate) in fates.iter().enumerate() {
            let number = number as u32;
            // Silence is not sent.
            spoken += if quiet && number % 50 == 49 { 90 } else { 1 };
            places.push(spoken as i64 * 160);
            let rtp = Rtp {
                sequence: sequence.wrapping_add(number as u16),
                timestamp: timestamp.wrapping_add(spoken as u32 * 160),
                ..rtp(0)
            };
            let sent = SECOND + spoken * 20 * MILLI;
            for copy in 0..u64::from(!fate.is_lost) + u64::from(fate.is_doubled && !fate.is_lost) {
                arrivals.push((sent + fate.delay + copy * 3 * MILLI, number, packet(rtp, &numbered(number))));
            }
        }
        arrivals.sort();
        let mut recorded = Recorded::new();
        for (at, _, packet) in &arrivals {
            recorded.frame(0, *at, packet);
        }
        recorded.finish(SECOND);
        let found = recorded.given.places(Party::Caller);
        let came: BTreeSet<u32> = arrivals.iter().map(|(_, number, _)| *number).collect();
        prop_assert_eq!(found.keys().copied().collect::<BTreeSet<_>>(), came.clone());
        if let Some((first, place)) = found.first_key_value() {
            for (number, other) in &found {
                prop_assert_eq!(other - place, places[*number as usize] - places[*first as usize], "{}", number);
            }
            let span = u64::from(came.last().unwrap() - first) + 1;
            let line = recorded.line(0);
            prop_assert_eq!(line.lost, span - came.len() as u64);
            prop_assert_eq!((line.received, line.written), (arrivals.len() as u64, came.len() as u64));
            prop_assert_eq!(line.duplicated, (arrivals.len() - came.len()) as u64);
        }
    }

    #[test]
    fn any_packets_are_accounted_for(
        packets in proptest::collection::vec(
            (0u8..3, any::<u16>(), any::<u32>(), 0u32..40, 0usize..400, 0u64..4_000, 0u8..12), 0..300),
    ) {
        let mut recorded = Recorded::new();
        let mut mixdown = Mixdown::new(Encoding::G711(Law::Mu));
        let mut at = 0;
        let count = packets.len() as u64;
        for (leg, sequence, timestamp, ssrc, len, after, payload_type) in packets {
            at += after * MILLI;
            let packet = packet(Rtp { payload_type, sequence, timestamp, ssrc }, &vec![0x55; len]);
            recorded.frame(leg, at, &packet);
        }
        let end = recorded.finish(at);
        let mut timeline = Timeline::new(8_000, recorded.courses());
        for (nanos, input) in &recorded.inputs {
            let Input::Frame(leg, packet) = input else { continue };
            timeline.on_frame(&frame(*leg, *nanos, packet), &mut mixdown);
        }
        prop_assert_eq!(timeline.finish(Instant::from_nanos(BEGAN + at), &mut mixdown), end);
        let mut audio = Vec::new();
        while mixdown.take(1_000, &mut audio) > 0 {}
        prop_assert_eq!(audio.len() as u64, end * 2);
        let mut packets = 0;
        for (_, _, line) in recorded.timeline.ledger().lines() {
            prop_assert_eq!(line.received, line.written + line.duplicated + line.discarded);
            packets += line.packets();
        }
        prop_assert_eq!(packets, count);
    }
}

/// Mixes frames down and gives both channels' samples.
fn mixed(encoding: Encoding, frames: &[(u8, u64, Vec<u8>)], ended: u64) -> [Vec<i16>; 2] {
    let formats = vec![format(96, "l16", 48_000), format(9, "g722", 8_000), format(111, "opus", 48_000)];
    let formats = Mark::Formats { leg: 0, stream: 0, formats };
    let mut arrivals = Arrivals::new(Instant::from_nanos(BEGAN));
    arrivals.on_mark(Instant::from_nanos(BEGAN), &formats);
    frames.iter().for_each(|(leg, nanos, packet)| arrivals.on_frame(&frame(*leg, *nanos, packet)));
    let mut timeline = Timeline::new(encoding.rate(), arrivals.finish());
    let mut mixdown = Mixdown::new(encoding);
    timeline.on_mark(Instant::from_nanos(BEGAN), &formats);
    let mut audio = Vec::new();
    for (leg, nanos, packet) in frames {
        timeline.on_frame(&frame(*leg, *nanos, packet), &mut mixdown);
        mixdown.take(usize::MAX, &mut audio);
    }
    timeline.finish(Instant::from_nanos(BEGAN + ended), &mut mixdown);
    mixdown.take(usize::MAX, &mut audio);
    [Channels::Left, Channels::Right].map(|channels| {
        let mut out = Vec::new();
        View { encoding, channels, is_pcm: true }.render(&audio, &mut out);
        out.chunks_exact(2).map(|sample| i16::from_le_bytes([sample[0], sample[1]])).collect()
    })
}

fn tone(rate: u32, samples: usize) -> Vec<i16> {
    let step = std::f64::consts::TAU * 440.0 / f64::from(rate);
    (0..samples).map(|at| ((at as f64 * step).sin() * 10_000.0) as i16).collect()
}

/// Power of the tone over that of what differs, in dB.
fn likeness(found: &[i16], expected: &[i16]) -> f64 {
    assert_eq!(found.len(), expected.len());
    let power = |samples: &mut dyn Iterator<Item = f64>| samples.map(|sample| sample * sample).sum::<f64>();
    let signal = power(&mut expected.iter().map(|sample| f64::from(*sample)));
    let noise = power(&mut found.iter().zip(expected).map(|(one, two)| f64::from(*one) - f64::from(*two)));
    10.0 * (signal / noise.max(1.0)).log10()
}

#[test]
fn audio_of_other_rates_is_resampled_in_its_place() {
    for (law, payload_type) in [(Law::Mu, 0), (Law::A, 8)] {
        let frames: Vec<_> = tone(8_000, 8_000)
            .chunks(160)
            .enumerate()
            .map(|(number, samples)| {
                let payload: Vec<u8> = samples.iter().map(|sample| law.encode(*sample)).collect();
                let rtp = Rtp { payload_type, ..rtp(number as u32) };
                (1, SECOND + number as u64 * 20 * MILLI, packet(rtp, &payload))
            })
            .collect();
        for rate in [16_000, 48_000] {
            let [left, right] = mixed(Encoding::Pcm { rate }, &frames, 3 * SECOND);
            let second = rate as usize;
            assert!(left.iter().all(|sample| *sample == 0));
            assert_eq!(right.len(), 3 * second);
            assert!(right[..second].iter().all(|sample| *sample == 0));
            assert!(right[2 * second..].iter().all(|sample| *sample == 0));
            let alike =
                likeness(&right[second + 1_000..2 * second - 1_000], &tone(rate, second)[1_000..second - 1_000]);
            assert!(alike > 30.0, "{law:?} {rate}: {alike} dB");
        }
    }
}

/// Of a tone's samples: the most by which one lies beside what those around it say.
fn roughness(samples: &[i16]) -> f64 {
    let beside = samples.windows(5).map(|all| {
        let [a, b, c, d, e] = [0, 1, 2, 3, 4].map(|at| f64::from(all[at]));
        (a - 4.0 * b + 6.0 * c - 4.0 * d + e).abs()
    });
    beside.fold(0.0, f64::max)
}

#[test]
fn a_clock_that_differs_is_held_without_a_click() {
    let l16 = |samples: &[i16]| samples.iter().flat_map(|sample| sample.to_be_bytes()).collect::<Vec<u8>>();
    let g711 = |samples: &[i16]| samples.iter().map(|sample| Law::Mu.encode(*sample)).collect::<Vec<u8>>();
    for (from, to) in [(8_000, 48_000), (48_000, 48_000), (8_000, 16_000)] {
        let (payload_type, frame) = if from == 8_000 { (0, 160) } else { (96, 960) };
        let speech = tone(from, from as usize * 12);
        let rough = [0, -300i64, 300].map(|millionths| {
            let frames: Vec<_> = (0..)
                .zip(speech.chunks(frame))
                .map(|(number, samples)| {
                    let payload = if from == 8_000 { g711(samples) } else { l16(samples) };
                    let rtp = Rtp { payload_type, timestamp: number * frame as u32, ..rtp(number) };
                    let nominal = i64::from(number) * 20 * MILLI as i64;
                    let at = (SECOND as i64 + nominal + nominal / 1_000_000 * millionths).cast_unsigned();
                    (0, at, packet(rtp, &payload))
                })
                .collect();
            let [left, _] = mixed(Encoding::Pcm { rate: to }, &frames, 14 * SECOND);
            let heard = &left[to as usize * 2..to as usize * 12];
            assert!(loudness(heard) / loudness(&tone(to, to as usize)) > 0.99);
            roughness(heard)
        });
        // What the codec itself makes of the tone.
        let usual = rough[0];
        assert!(rough.iter().all(|rough| *rough < 1.5 * usual + 20.0), "{from} to {to}: {rough:?}");
    }
}

#[test]
fn audio_that_a_recording_is_not_kept_in_still_has_its_length() {
    let speech = tone(8_000, 8_000);
    let frames: Vec<_> = speech
        .chunks(160)
        .enumerate()
        .map(|(number, samples)| {
            let payload: Vec<u8> = samples.iter().map(|sample| Law::A.encode(*sample)).collect();
            let rtp = Rtp { payload_type: 8, ..rtp(number as u32) };
            (1, number as u64 * 20 * MILLI, packet(rtp, &payload))
        })
        .collect();
    let [_, right] = mixed(Encoding::G711(Law::Mu), &frames, SECOND);
    let alike = likeness(&right, &speech);
    assert!(alike > 30.0, "{alike} dB");
}

#[test]
fn wideband_and_narrowband_meet_at_the_better_rate() {
    let mut encoder = Encoder::new(Bitrate::Mode1_64000, false, false);
    let sent = tone(16_000, 16_000);
    let coded = encoder.encode(&sent);
    let mut frames: Vec<_> = coded
        .chunks(160)
        .enumerate()
        .map(|(number, payload)| {
            let rtp = Rtp { payload_type: 9, ..rtp(number as u32) };
            (0, number as u64 * 20 * MILLI, packet(rtp, payload))
        })
        .collect();
    for (number, samples) in tone(48_000, 48_000).chunks(960).enumerate() {
        let payload: Vec<u8> = samples.iter().flat_map(|sample| sample.to_be_bytes()).collect();
        let rtp = Rtp { payload_type: 96, timestamp: number as u32 * 960, ssrc: 9, ..rtp(number as u32) };
        frames.push((0, 2 * SECOND + number as u64 * 20 * MILLI, packet(rtp, &payload)));
    }
    let codecs = [Codec::G722, Codec::L16 { rate: 48_000, channels: 1 }, Codec::G711(Law::A)];
    let encoding = Encoding::of(codecs);
    assert_eq!(encoding, Encoding::Pcm { rate: 48_000 });
    let [left, _] = mixed(encoding, &frames, 3 * SECOND);
    assert_eq!(left.len(), 3 * 48_000);
    assert_eq!(left[2 * 48_000..], tone(48_000, 48_000));
    // The codec's own delay is 22 samples of 16,000: the loudness is what counts here.
    let power = |samples: &[i16]| samples.iter().map(|sample| f64::from(*sample).powi(2)).sum::<f64>() / 40_000.0;
    let ratio = power(&left[4_000..44_000]) / power(&tone(48_000, 48_000)[4_000..44_000]);
    assert!((0.9..1.1).contains(&ratio), "{ratio}");
    assert!(left[48_200..2 * 48_000].iter().all(|sample| sample.unsigned_abs() < 200));
}

#[test]
fn opus_is_decoded_in_its_place_and_what_is_no_opus_is_silence() {
    for (channels, bits) in [(1, 16_000), (1, 64_000), (2, 96_000)] {
        let mut encoder = opus_pure::OpusEncoder::new(48_000, channels, opus_pure::Application::Voip).unwrap();
        encoder.bitrate_bps = bits;
        let mut frames = Vec::new();
        for (number, samples) in (0..).zip(tone(48_000, 48_000).chunks(960)) {
            let samples: Vec<i16> = samples.iter().flat_map(|sample| vec![*sample; channels]).collect();
            let mut payload = vec![0; 1_500];
            let len = encoder.encode_s16(&samples, 960, &mut payload).unwrap();
            let rtp = Rtp { payload_type: 111, timestamp: number * 960, ..rtp(number) };
            frames.push((0, SECOND + u64::from(number) * 20 * MILLI, packet(rtp, &payload[..len])));
        }
        // A frame of 20 ms whose content is noise, then no frame at all.
        for (number, payload) in [(50, vec![0x08, 0xFF, 0x13, 0x37]), (51, vec![0x0B])] {
            let rtp = Rtp { payload_type: 111, timestamp: number * 960, ..rtp(number) };
            frames.push((0, SECOND + u64::from(number) * 20 * MILLI, packet(rtp, &payload)));
        }
        let encoding = Encoding::of([Codec::Opus, Codec::G711(Law::A)]);
        assert_eq!(encoding, Encoding::Pcm { rate: 48_000 });
        let [left, right] = mixed(encoding, &frames, 3 * SECOND);
        assert_eq!((left.len(), right.len()), (3 * 48_000, 3 * 48_000));
        assert!(left[..48_000].iter().all(|sample| *sample == 0) && right.iter().all(|sample| *sample == 0));
        // The codec has a delay, which shifts the phase of a tone and not its loudness.
        let power = |samples: &[i16]| samples.iter().map(|sample| f64::from(*sample).powi(2)).sum::<f64>();
        let ratio = power(&left[52_000..92_000]) / power(&tone(48_000, 48_000)[4_000..44_000]);
        assert!((0.8..1.25).contains(&ratio), "{channels} {bits}: {ratio}");
        assert!(left[2 * 48_000 + 4 * 960..].iter().all(|sample| *sample == 0));
    }
}

/// Packets of 20 ms of a tone in Opus, from number `first` on.
fn opus_frames(encoder: &mut opus_pure::OpusEncoder, first: u32, count: u32, late: u64) -> Vec<(u8, u64, Vec<u8>)> {
    let speech = tone(48_000, 960 * count as usize);
    let frames = (first..).zip(speech.chunks(960)).map(|(number, samples)| {
        let mut payload = vec![0; 1_500];
        let len = encoder.encode_s16(samples, 960, &mut payload).unwrap();
        let later = late * 48_000 / SECOND;
        let rtp = Rtp { payload_type: 111, timestamp: number * 960 + later as u32, ..rtp(number) };
        (0, SECOND + late + u64::from(number) * 20 * MILLI, packet(rtp, &payload[..len]))
    });
    frames.collect()
}

fn loudness(samples: &[i16]) -> f64 {
    (samples.iter().map(|sample| f64::from(*sample).powi(2)).sum::<f64>() / samples.len() as f64).sqrt()
}

#[test]
fn opus_that_stops_in_silence_goes_on_in_its_place() {
    let mut encoder = opus_pure::OpusEncoder::new(48_000, 1, opus_pure::Application::Voip).unwrap();
    let mut frames = opus_frames(&mut encoder, 0, 50, 0);
    // RFC 6716 §3.2.1: a frame without content stands for discontinuous transmission; then nothing is sent for 0.4 s.
    let toc = frames[49].2[12] & !3;
    let nothing = Rtp { payload_type: 111, timestamp: 50 * 960, ..rtp(50) };
    frames.push((0, SECOND + 50 * 20 * MILLI, packet(nothing, &[toc])));
    frames.extend(opus_frames(&mut encoder, 51, 50, 400 * MILLI));
    let [left, right] = mixed(Encoding::Pcm { rate: 48_000 }, &frames, 4 * SECOND);
    assert_eq!((left.len(), right.len()), (4 * 48_000, 4 * 48_000));
    let loud = loudness(&tone(48_000, 48_000));
    let place = |millis: usize| millis * 48;
    let is_tone = |since, until| (0.9..1.1).contains(&(loudness(&left[place(since)..place(until)]) / loud));
    assert!(is_tone(1_050, 2_000), "before");
    assert!(left[place(2_020)..place(2_420)].iter().all(|sample| *sample == 0), "what was not sent");
    assert!(is_tone(2_450, 3_410), "after");
    assert!(left[place(3_430)..].iter().all(|sample| *sample == 0));
}

#[test]
fn hostile_opus_is_as_long_as_it_says_and_harms_nothing_after_it() {
    let mut random = Random::new(6_716);
    let mut encoder = opus_pure::OpusEncoder::new(48_000, 1, opus_pure::Application::Audio).unwrap();
    let mut frames = opus_frames(&mut encoder, 0, 400, 0);
    for (_, _, packet) in &mut frames[50..350] {
        // Noise, or what an encoder made with some of its bits turned or its end cut; a frame of 20 ms in any case.
        match random.below(3) {
            0 => {
                let toc = [1 << 3, 13 << 3, 15 << 3, 31 << 3][random.below(4) as usize];
                let noise = (0..random.below(200)).map(|_| random.next_u64() as u8);
                let payload: Vec<u8> = std::iter::once(toc).chain(noise).collect();
                packet.truncate(12);
                packet.extend(payload);
            }
            1 => {
                for _ in 0..4 {
                    let at = 13 + random.below(packet.len() as u64 - 13) as usize;
                    packet[at] ^= 1 << random.below(8);
                }
            }
            _ => packet.truncate(13 + random.below(packet.len() as u64 - 13) as usize),
        }
    }
    // Longer than any packet may be, frames that do not fit, no frame count, nothing.
    for (at, payload) in [(360, vec![0xFB, 0x3F]), (361, vec![0xF9, 1, 2]), (362, vec![0xFB]), (363, vec![])] {
        frames[at].2.truncate(12);
        frames[at].2.extend::<Vec<u8>>(payload);
    }
    let [left, right] = mixed(Encoding::Pcm { rate: 48_000 }, &frames, 10 * SECOND);
    assert_eq!((left.len(), right.len()), (10 * 48_000, 10 * 48_000));
    assert!(right.iter().all(|sample| *sample == 0));
    let ratio = loudness(&left[9 * 48_000 - 24_000..9 * 48_000]) / loudness(&tone(48_000, 48_000));
    assert!((0.9..1.1).contains(&ratio), "{ratio}");
    assert!(left[9 * 48_000..].iter().all(|sample| *sample == 0));
}

#[test]
fn one_law_is_kept_as_it_is_and_two_are_not() {
    let check = |codecs: &[Codec], encoding: Encoding| assert_eq!(Encoding::of(codecs.iter().copied()), encoding);
    check(&[], Encoding::G711(Law::Mu));
    check(&[Codec::G711(Law::A); 2], Encoding::G711(Law::A));
    check(&[Codec::G711(Law::A), Codec::G711(Law::Mu)], Encoding::Pcm { rate: 8_000 });
    check(&[Codec::G711(Law::A), Codec::G722], Encoding::Pcm { rate: 16_000 });
}

#[test]
fn hours_of_silence_cost_nothing() {
    let mut timeline = Timeline::new(8_000, nothing());
    let mut mixdown = Mixdown::new(Encoding::G711(Law::Mu));
    for (number, second) in [0, 8 * 3_600].into_iter().enumerate() {
        let packet = packet(Rtp { ssrc: number as u32, ..rtp(0) }, &numbered(0));
        let at = Instant::from_nanos(BEGAN + second * SECOND);
        timeline.on_frame(&Frame { call: CallId::from_bits(1), leg: 0, stream: 0, at, packet: &packet }, &mut mixdown);
    }
    timeline.finish(Instant::ZERO + Duration::from_nanos(BEGAN), &mut mixdown);
    let (mut frames, mut audio) = (0, Vec::new());
    loop {
        audio.clear();
        let taken = mixdown.take(8_000, &mut audio);
        assert!(audio.capacity() <= 64 * 1024);
        frames += taken;
        if taken == 0 {
            break;
        }
    }
    assert_eq!(frames, 8 * 3_600 * 8_000 + 160);
}

#[test]
fn both_voices_in_one_never_clip() {
    let loudest = [(i16::MAX, i16::MAX), (i16::MIN, i16::MIN), (30_000, 20_000)];
    for (left, right) in loudest {
        let sum = mix(left, right);
        assert!(sum.unsigned_abs() < 32_767 && sum.unsigned_abs() > 24_000, "{sum}");
    }
    // Quiet voices are only added, one alone is hardly touched.
    assert_eq!(mix(5_000, -3_000), 2_000);
    assert_eq!(mix(12_000, 12_000), 24_000);
    let mut last = i16::MIN;
    for sum in -65_536i32..=65_534 {
        let left = (sum / 2) as i16;
        let mixed = mix(left, (sum - i32::from(left)) as i16);
        assert!(mixed >= last, "{sum}");
        last = mixed;
    }
}

#[test]
fn views_are_of_the_right_party() {
    let law = Law::Mu;
    let stored = [law.encode(8_000), law.encode(-4_000)].repeat(10);
    let render = |channels, is_pcm| {
        let mut out = Vec::new();
        let view = View { encoding: Encoding::G711(law), channels, is_pcm };
        view.render(&stored, &mut out);
        assert_eq!(out.len(), 10 * view.format().block_bytes());
        out
    };
    assert_eq!(render(Channels::Stereo, false), stored);
    assert_eq!(render(Channels::Left, false), [law.encode(8_000); 10]);
    assert_eq!(render(Channels::Right, false), [law.encode(-4_000); 10]);
    let decoded = [law.decode(law.encode(8_000)), law.decode(law.encode(-4_000))];
    assert_eq!(render(Channels::Mono, false), (decoded[0] + decoded[1]).to_le_bytes().repeat(10));
    assert_eq!(render(Channels::Right, true), decoded[1].to_le_bytes().repeat(10));
}

#[test]
fn peaks_of_any_length_fit_a_screen() {
    let encoding = Encoding::G711(Law::Mu);
    let mut peaks = Peaks::new(encoding);
    let loud = [Law::Mu.encode(30_000), Law::Mu.silence()].repeat(8_000);
    let quiet = [Law::Mu.silence(), Law::Mu.encode(-3_000)].repeat(8_000);
    for second in 0..600 {
        peaks.add(encoding, if second < 300 { &loud } else { &quiet });
    }
    assert!(peaks.peaks.len() <= 4_096);
    assert_eq!(peaks.peaks.len() as u64, (600 * 8_000u64).div_ceil(peaks.stretch.into()));
    let (first, last) = (peaks.peaks.first().unwrap(), peaks.peaks.last().unwrap());
    assert!(first[0] > 220 && first[1] == 0, "{first:?}");
    assert!(last[0] == 0 && (20..30).contains(&last[1]), "{last:?}");
}
