//! Two voices over a line that loses, doubles, delays and crosses packets: what is counted is what was done.

use super::*;
use crate::process::phlem::media::Expected;
use crate::process::phlem::media::Ledger;
use crate::process::phlem::media::check_frames;
use crate::wire::wav::Wav;

const STEP: Duration = Duration::from_millis(1);

fn settings(call: u64, side: Side) -> Settings {
    Settings {
        call,
        side,
        speech: Speech::voice(call, Law::A),
        payload_type: Law::A.payload_type(),
        event_type: Some(101),
        one_clock: true,
        keep: false,
    }
}

/// A caller who knows the number of the call, and a callee who does not.
struct Line {
    now: Instant,
    caller: Voice,
    callee: Voice,
    media: Media,
}

impl Line {
    fn new(call: u64) -> Self {
        let (now, mut random, mut media) = (Instant::from_millis(1_000), Random::new(call), Media::default());
        let mut caller = Voice::new(settings(call, Side::Caller), now, &mut random, &mut media);
        let mut callee = Voice::new(settings(0, Side::Callee), now, &mut random, &mut media);
        caller.set_hearing(true, now);
        callee.set_hearing(true, now);
        Self { now, caller, callee, media }
    }

    /// One packet of the caller's: the time passes until it is due.
    fn speak(&mut self) -> Vec<u8> {
        let mut packet = [0; PACKET_BYTES];
        loop {
            let len = self.caller.emit(self.now, &mut packet, &mut self.media);
            if len > 0 {
                return packet[..len].to_vec();
            }
            self.now = self.now + STEP;
        }
    }

    fn hear(&mut self, packet: &[u8], delay: Duration) {
        self.callee.handle(packet, self.now + delay, &mut self.media);
    }

    /// Both ways for so long, over a line that takes so long and forgets nothing.
    fn talk(&mut self, length: Duration, delay: Duration) {
        self.talk_over(length, delay, true);
    }

    /// `hears`: the callee does.
    fn talk_over(&mut self, length: Duration, delay: Duration, hears: bool) {
        let end = self.now + length;
        let mut under_way = Vec::new();
        while self.now < end {
            for from_caller in [true, false] {
                let mut packet = [0; PACKET_BYTES];
                let voice = if from_caller { &mut self.caller } else { &mut self.callee };
                let len = voice.emit(self.now, &mut packet, &mut self.media);
                if len > 0 && (hears || !from_caller) {
                    under_way.push((self.now + delay, from_caller, packet[..len].to_vec()));
                }
            }
            let now = self.now;
            for (at, from_caller, packet) in under_way.extract_if(.., |(at, _, _)| *at <= now) {
                let voice = if from_caller { &mut self.callee } else { &mut self.caller };
                voice.handle(&packet, at, &mut self.media);
            }
            self.now = self.now + STEP;
        }
    }

    fn finish(self) -> Media {
        let mut media = self.media;
        let mut ledger = Ledger::default();
        for voice in [self.caller, self.callee] {
            ledger.add(voice.finish(self.now, &mut media).0);
        }
        ledger.close();
        media.merge(ledger.media());
        media
    }
}

#[test]
fn a_good_line() {
    let mut line = Line::new(5);
    line.talk(Duration::from_secs(10), Duration::from_millis(30));
    assert_eq!((line.caller.call(), line.callee.call()), (5, 5));
    let media = line.finish();
    // Two frames of each are still under way.
    assert!((998..=1_002).contains(&media.sent), "{media:#?}");
    assert!(media.sent - media.received <= 4, "{media:#?}");
    let nothing = media.lost + media.doubled + media.reordered + media.wrong_call + media.damaged + media.unnumbered;
    assert_eq!(nothing + media.late + media.skipped + media.silent + media.missed_at_start + media.strays, 0);
    assert_eq!((media.streams, media.streams_now, media.mos.count()), (2, 0, 2));
    for (histogram, millis) in [(&media.one_way, 30.0), (&media.round_trip, 60.0)] {
        assert!(histogram.count() > 100);
        assert!((histogram.mean().unwrap() / 1e6 - millis).abs() < 1.0, "{histogram:?}");
    }
    assert!((4.3..4.4).contains(&media.mos_mean().unwrap()), "{:?}", media.mos_mean());
    assert!(media.send_lateness.max() < Some(2_000_000));
}

#[test]
fn a_line_that_does_everything_wrong_is_counted_exactly() {
    let mut line = Line::new(6);
    let mut random = Random::new(99);
    let (mut lost, mut doubled, mut reordered, mut last_heard) = (0, 0, 0, 0);
    let mut held: Option<Vec<u8>> = None;
    for number in 0..5_000u32 {
        let packet = line.speak();
        match random.below(20) {
            0 if number > 0 && number < 4_990 => lost += 1,
            1 => {
                line.hear(&packet, Duration::ZERO);
                line.hear(&packet, Duration::ZERO);
                doubled += 1;
            }
            2 if held.is_none() && number > 0 => {
                held = Some(packet);
                continue;
            }
            _ => line.hear(&packet, Duration::ZERO),
        }
        last_heard = number;
        if let Some(packet) = held.take_if(|_| random.chance(1, 2)) {
            line.hear(&packet, Duration::ZERO);
            reordered += 1;
        }
    }
    if let Some(packet) = held {
        line.hear(&packet, Duration::ZERO);
        reordered += 1;
    }
    assert!(last_heard > 4_990 && lost > 100 && doubled > 100 && reordered > 100);
    let media = line.finish();
    // A frame that was held back and came while the one before it was lost is in its place.
    assert_eq!((media.lost, media.doubled, media.missed_at_start), (lost, doubled, 0));
    assert!(media.reordered <= reordered && media.reordered > reordered * 8 / 10, "{} {reordered}", media.reordered);
    assert_eq!(media.received, 5_000 - lost);
    assert!(media.loss().is_some_and(|loss| (0.03..0.07).contains(&loss)));
    assert!(media.mos_mean().unwrap() < 4.0);
}

#[test]
fn frames_before_the_first_heard_are_told_apart() {
    let mut line = Line::new(7);
    let packets: Vec<_> = (0..10).map(|_| line.speak()).collect();
    for number in [4, 5, 2, 6] {
        line.hear(&packets[number], Duration::ZERO);
    }
    let media = line.finish();
    assert_eq!((media.received, media.missed_at_start, media.lost, media.reordered), (4, 2, 1, 1));
}

#[test]
fn audio_that_dies_in_the_middle_or_begins_late_or_never_comes_is_missed() {
    let check = |parts: &[(u64, bool)], silent: u64, share: std::ops::Range<f64>| {
        let mut line = Line::new(21);
        for (seconds, hears) in parts {
            line.talk_over(Duration::from_secs(*seconds), Duration::from_millis(20), *hears);
        }
        let media = line.finish();
        let own = media.heard_share.min().unwrap() as f64 / 1_000.0;
        assert_eq!((media.silent, media.heard_share.count()), (silent, 2), "{parts:?}");
        assert!(share.contains(&own), "{parts:?}: {own}");
        // The other direction was whole.
        let all = media.audio_share().unwrap();
        assert!((f64::midpoint(1.0, own) - all).abs() < 0.01, "{all}, {own}");
        assert!((media.loss().unwrap() - (1.0 - all)).abs() < 1e-9);
        (media.mos.count(), media.mos.min().unwrap() as f64 / 1_000.0)
    };
    assert!(check(&[(10, true)], 0, 0.999..1.001).1 > 4.3);
    assert_eq!(check(&[(10, false)], 1, 0.0..0.001), (2, 1.0));
    assert!(check(&[(5, true), (5, false)], 0, 0.49..0.51).1 < 1.1);
    assert!(check(&[(3, false), (7, true)], 0, 0.69..0.71).1 < 2.0);
    // Lost between others, and counted there.
    assert!(check(&[(4, true), (2, false), (4, true)], 0, 0.79..0.81).1 < 2.0);
}

#[test]
fn audio_of_another_call_or_ones_own_is_noticed() {
    let mut line = Line::new(8);
    let packet = line.speak();
    line.hear(&packet, Duration::ZERO);
    let stranger = Line::new(9).speak();
    line.hear(&stranger, Duration::ZERO);
    let own = line.speak();
    line.caller.handle(&own, line.now, &mut line.media);
    let media = line.finish();
    assert_eq!((media.received, media.wrong_call), (1, 2));
}

#[test]
fn a_callee_that_heard_another_call_first_is_found_out_by_the_caller() {
    let mut line = Line::new(10);
    let stranger = Line::new(11).speak();
    line.hear(&stranger, Duration::ZERO);
    line.talk(Duration::from_secs(1), Duration::from_millis(1));
    assert!(line.finish().wrong_call > 90);
}

#[test]
fn after_a_transfer_another_is_heard() {
    let mut line = Line::new(12);
    let packet = line.speak();
    line.hear(&packet, Duration::ZERO);
    line.callee.expect_another(line.now, &mut line.media);
    for _ in 0..2 {
        let stranger = Line::new(13).speak();
        line.hear(&stranger, Duration::ZERO);
    }
    line.hear(&packet, Duration::ZERO);
    assert_eq!((line.media.received, line.media.doubled, line.media.wrong_call), (2, 1, 1));
}

#[test]
fn what_is_not_sent_on_hold_is_not_missed() {
    let mut line = Line::new(14);
    line.talk(Duration::from_secs(1), Duration::ZERO);
    line.caller.set_sending(false, line.now);
    assert_eq!(line.caller.next_frame_at(), None);
    let sent = line.caller.number;
    line.talk(Duration::from_secs(3), Duration::ZERO);
    assert_eq!(line.caller.number, sent);
    line.caller.set_sending(true, line.now);
    line.talk(Duration::from_secs(1), Duration::ZERO);
    assert!(line.caller.number >= sent + 49);
    let media = line.finish();
    assert_eq!((media.lost, media.skipped, media.late), (0, 0, 0));
    assert!(media.send_lateness.max() < Some(2_000_000));
}

#[test]
fn a_sender_that_was_stopped_leaves_frames_out_and_says_so() {
    let mut line = Line::new(15);
    let first = line.speak();
    line.now = line.now + Duration::from_secs(2);
    let second = line.speak();
    let timestamp = |packet: &[u8]| rtp::Header::parse(packet).unwrap().timestamp;
    assert_eq!(timestamp(&second).wrapping_sub(timestamp(&first)), 100 * 160);
    line.hear(&first, Duration::ZERO);
    line.hear(&second, Duration::ZERO);
    let media = line.finish();
    assert_eq!((media.skipped, media.lost), (99, 0));
    assert!(media.send_lateness.max() > Some(1_900_000_000));
}

#[test]
fn digits_go_with_the_audio() {
    let mut line = Line::new(16);
    assert_eq!(line.caller.press("42#"), 3);
    line.talk(Duration::from_secs(2), Duration::from_millis(5));
    assert_eq!(line.callee.dialled(), "42#");
    let media = line.finish();
    assert_eq!((media.digits_sent, media.digits_heard, media.lost, media.strays), (3, 3, 0, 0));
}

#[test]
fn what_was_heard_comes_back_whole_as_a_file() {
    let mut line = Line::new(17);
    line.callee.kept = Some(Kept::new(Law::A));
    line.talk(Duration::from_secs(2), Duration::from_millis(5));
    line.caller.set_sending(false, line.now);
    line.talk(Duration::from_secs(1), Duration::from_millis(5));
    line.caller.set_sending(true, line.now);
    line.talk(Duration::from_secs(1), Duration::from_millis(5));
    let file = line.callee.finish(line.now, &mut line.media).1.unwrap();
    let wav = Wav::parse(&file).unwrap();
    let report = check_frames(wav.audio, Expected { call: Some(17), side: Some(Side::Caller), ..Expected::default() });
    assert!(report.is_whole(), "{report:#?}");
    assert!((148..=151).contains(&report.frames), "{report:#?}");
    assert!((3_900..=4_000).contains(&(wav.len() / 8)), "{} ms", wav.len() / 8);
}

#[test]
fn strange_packets_are_counted_and_change_nothing() {
    let mut line = Line::new(18);
    line.hear(b"", Duration::ZERO);
    line.hear(&[0x80; 11], Duration::ZERO);
    line.hear(&[&[0x80, 55][..], &[0; 170]].concat(), Duration::ZERO);
    line.hear(&[&[0x80, COMFORT_NOISE][..], &[0; 11]].concat(), Duration::ZERO);
    let mut audio = [&[0x80, 8][..], &[0x55; 170]].concat();
    line.hear(&audio, Duration::ZERO);
    audio.truncate(92);
    line.hear(&audio, Duration::ZERO);
    let media = line.finish();
    assert_eq!((media.strays, media.unnumbered, media.received, media.silent), (3, 2, 0, 0));
    assert!(media.mos.is_empty());
}

#[test]
fn without_one_clock_the_delay_is_half_the_way_there_and_back() {
    let mut line = Line::new(20);
    line.caller.heard = Heard::new(20, Some(Side::Callee), false);
    line.callee.heard = Heard::new(0, Some(Side::Caller), false);
    line.talk(Duration::from_secs(2), Duration::from_millis(100));
    let media = line.finish();
    assert!(media.one_way.is_empty());
    assert!((195..206).contains(&(media.round_trip.percentile(0.5).unwrap() / 1_000_000)));
    // R = 93.2 - 0.024·180 - 0.11·2.7 = 88.58
    assert!((4.28..4.32).contains(&media.mos_mean().unwrap()), "{:?}", media.mos_mean());
}
