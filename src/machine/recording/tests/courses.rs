//! Audio lies where it was said, whatever sender and network do: not after it came, and not far before.

use super::*;

const LATENCY: u64 = 10 * MILLI;
const FRAME: u64 = 20 * MILLI;

/// What happens before a frame.
#[derive(Clone, Copy, Debug)]
enum Event {
    /// The network keeps all packets for so long, then brings them at once.
    Stall(u64),
    /// The first packet is so late, each after it by 2 ms less.
    Drain(u64),
    /// The sender counts so many ticks too many, or too few.
    Jump(i32),
    /// So many numbers back.
    Back(u16),
    /// Back to a number, and to a timestamp.
    Anew(u16, u32),
    Ssrc,
    /// The sender says nothing for so long, and its timestamps do not count it.
    Stand(u64),
    /// Nor is this sent, but counted.
    Silence(u64),
    /// So many frames are lost.
    Lose(u32),
}

struct Said {
    number: u32,
    at: u64,
    came: u64,
    packet: Vec<u8>,
}

/// What a party says and how it comes. Of each packet the network takes its latency, and up to `jitter` more for two of three.
fn speak(frames: u32, events: &[(u32, Event)], jitter: u64, random: &mut Random) -> Vec<Said> {
    let mut rtp = Rtp { payload_type: 0, sequence: 65_000, timestamp: 4_000_000_000, ssrc: 1 };
    let (mut at, mut held, mut late, mut lost) = (SECOND, 0, 0, 0);
    let mut said = Vec::new();
    for number in 0..frames {
        for (_, event) in events.iter().filter(|(before, _)| *before == number) {
            match *event {
                Event::Stall(long) => held = at + long,
                Event::Drain(long) => late = long,
                Event::Jump(ticks) => rtp.timestamp = rtp.timestamp.wrapping_add_signed(ticks),
                Event::Back(by) => rtp.sequence = rtp.sequence.wrapping_sub(by),
                Event::Anew(sequence, timestamp) => (rtp.sequence, rtp.timestamp) = (sequence, timestamp),
                Event::Ssrc => rtp.ssrc += 1,
                Event::Stand(long) => at += long,
                Event::Silence(long) => {
                    at += long;
                    rtp.timestamp = rtp.timestamp.wrapping_add((long / MILLI * 8) as u32);
                }
                Event::Lose(count) => lost = count,
            }
        }
        let wait = if random.chance(1, 3) || jitter == 0 { 0 } else { random.below(jitter) };
        let came = (at + LATENCY + wait + late).max(held);
        late = late.saturating_sub(2 * MILLI);
        if lost == 0 {
            said.push(Said { number, at, came, packet: packet(rtp, &numbered(number)) });
        } else {
            lost -= 1;
        }
        rtp.sequence = rtp.sequence.wrapping_add(1);
        rtp.timestamp = rtp.timestamp.wrapping_add(160);
        at += FRAME;
    }
    said.sort_by_key(|said| said.came);
    said
}

/// Milliseconds by which frames lie after (or before) their time, least and most.
fn check(said: &[Said], beside: u64) -> (Line, Vec<Correction>) {
    let mut recorded = Recorded::new();
    for one in said {
        recorded.frame(0, one.came, &one.packet);
    }
    recorded.finish(said.last().unwrap().came + FRAME);
    let lead = BEGAN - recorded.timeline.began().nanos();
    let places = recorded.given.places(Party::Caller);
    for one in said {
        let number = one.number;
        let Some(place) = places.get(&number) else { panic!("frame {number} is not there") };
        let place = (place * 125_000) as u64 - lead;
        assert!(place <= one.came + 125_000, "frame {number} lies {} ns after it came", place - one.came);
        let away = place.abs_diff(one.at + LATENCY) / MILLI;
        assert!(away <= beside, "frame {number} of {} ms is {away} ms away at {} ms", one.at / MILLI, place / MILLI);
    }
    let line = recorded.line(0);
    assert_eq!((line.received, line.written), (said.len() as u64, said.len() as u64), "{line:?}");
    (line, recorded.timeline.corrections().0.to_vec())
}

fn check_events(events: &[(u32, Event)]) -> (Line, Vec<Correction>) {
    let said = speak(1_500, events, 3 * MILLI, &mut Random::new(7));
    check(&said, 20)
}

#[test]
fn a_stall_or_a_queue_moves_nothing_wherever_it_is() {
    for before in [0, 1, 20, 700, 1_400] {
        for long in [100, 300, 1_000, 3_500, 8_000] {
            let (line, corrections) = check_events(&[(before, Event::Stall(long * MILLI))]);
            assert_eq!((line.lost, corrections), (0, Vec::new()), "{before} {long}");
        }
        if before < 1_000 {
            for long in [100, 300, 800] {
                let (line, corrections) = check_events(&[(before, Event::Drain(long * MILLI))]);
                assert_eq!((line.lost, corrections), (0, Vec::new()), "{before} {long}");
            }
        }
    }
}

#[test]
fn a_sender_that_steps_back_or_begins_anew_says_new_things() {
    for by in [1, 2, 15, 50, 100, 101, 400, 1_023, 1_024, 3_000, 20_000, 40_000] {
        let (line, _) = check_events(&[(600, Event::Stand(5 * SECOND)), (600, Event::Back(by))]);
        assert_eq!((line.lost, line.duplicated), (0, 0), "{by}");
        let (line, corrections) = check_events(&[(600, Event::Back(by))]);
        assert_eq!((line.lost, line.duplicated, corrections), (0, 0, Vec::new()), "{by}");
    }
    // Numbers and timestamps of before, to the bit.
    for (number, silence) in [(90, 0), (90, SECOND), (600, 20 * SECOND)] {
        let events = [(number, Event::Stand(silence)), (number, Event::Anew(65_000, 4_000_000_000))];
        let (line, _) = check_events(&events);
        assert_eq!((line.lost, line.duplicated), (0, 0), "{number} {silence}");
    }
    let (line, _) = check_events(&[(600, Event::Ssrc), (900, Event::Ssrc)]);
    assert_eq!((line.lost, line.duplicated), (0, 0));
}

#[test]
fn timestamps_that_jump_or_stand_lie_where_they_came_and_are_told() {
    for ticks in [800, 2_400, 4_000, 8_000, 80_000, 400_000_000, -1, -800, -8_000, -16_000, -400_000_000, i32::MIN] {
        check_events(&[(600, Event::Jump(ticks)), (1_100, Event::Jump(ticks))]);
    }
    for long in [400, 1_000, 60_000] {
        let (_, corrections) = check_events(&[(600, Event::Stand(long * MILLI))]);
        let [Correction { kind: CorrectionKind::Gap, at_ms, ms, .. }] = corrections[..] else {
            panic!("{corrections:?}");
        };
        assert!(ms.abs_diff(long) < 10 && at_ms.abs_diff(1_010 + 600 * 20) < 10, "{corrections:?}");
        assert_eq!(check_events(&[(600, Event::Silence(long * MILLI))]).1, Vec::new());
    }
}

#[test]
fn the_networks_copies_are_copies() {
    let mut said = speak(500, &[], 3 * MILLI, &mut Random::new(3));
    let copies: Vec<_> = said
        .iter()
        .filter(|said| said.number % 3 == 0)
        .map(|one| Said { number: one.number, at: one.at, came: one.came + 400 * MILLI, packet: one.packet.clone() })
        .collect();
    let mut recorded = Recorded::new();
    let count = copies.len() as u64;
    said.extend(copies);
    said.sort_by_key(|said| said.came);
    said.iter().for_each(|one| recorded.frame(0, one.came, &one.packet));
    recorded.finish(20 * SECOND);
    let line = recorded.line(0);
    assert_eq!((line.received, line.duplicated, line.written), (500 + count, count, 500));
}

#[test]
fn a_wrong_clock_is_told_by_arrival() {
    let g722 = format(9, "g722", 8_000);
    for (ticks, jitter, stall) in [(160, 5, 0), (320, 5, 0), (320, 15, 0), (320, 0, 3_000), (80, 5, 0), (640, 5, 0)] {
        let mut random = Random::new(ticks.into());
        let mut recorded = Recorded::new();
        recorded.mark(0, &Mark::Formats { leg: 0, stream: 0, formats: vec![g722.clone()] });
        for number in 0..3_000u32 {
            let at = SECOND + u64::from(number) * FRAME;
            let came = (at + random.below(jitter * MILLI + 1)).max(SECOND + stall * MILLI);
            let rtp = Rtp { payload_type: 9, timestamp: number * ticks, ..rtp(number) };
            recorded.frame(0, came, &packet(rtp, &numbered(number)));
        }
        recorded.finish(62 * SECOND);
        let places = recorded.given.places(Party::Caller);
        assert_eq!((places.len(), recorded.line(0).discarded), (3_000, 0), "{ticks}");
        for (number, place) in places {
            let away = place - 8_000 - i64::from(number) * 160;
            assert!(away.abs() <= 160, "{ticks} {jitter}: frame {number} is {away} samples away");
        }
    }
}

#[test]
fn long_packets_were_said_before_short_ones_that_come_with_them() {
    let mut recorded = Recorded::new();
    for number in 0..600u32 {
        let at = SECOND + u64::from(number) * FRAME;
        recorded.frame(0, at + FRAME, &packet(rtp(number), &numbered(number)));
        if number % 3 == 2 {
            // All three frames go when the last of them is said.
            let rtp = Rtp { ssrc: 9, timestamp: (number - 2) * 160, ..rtp(number / 3) };
            recorded.frame(1, at + FRAME, &packet(rtp, &[number - 2, number - 1, number].map(numbered).concat()));
        }
    }
    recorded.finish(14 * SECOND);
    let [caller, callee] = Party::ALL.map(|party| recorded.given.places(party));
    assert!(callee.iter().all(|(number, place)| caller[number] == *place) && callee.len() == 200);
}

#[test]
fn thousands_of_runs_cost_no_packet() {
    let mut random = Random::new(5);
    let mut recorded = Recorded::new();
    for number in 0..20_000u32 {
        let rtp = Rtp { timestamp: random.next_u32(), ..rtp(number) };
        recorded.frame(
            0,
            SECOND + u64::from(number) * FRAME + random.below(3) * MILLI,
            &packet(rtp, &numbered(number)),
        );
    }
    recorded.finish(402 * SECOND);
    let line = recorded.line(0);
    assert_eq!((line.written, line.discarded, line.lost), (20_000, 0, 0));
    for (number, place) in recorded.given.places(Party::Caller) {
        let away = place - 8_000 - i64::from(number) * 160;
        assert!(away.abs() <= 160, "frame {number} is {away} samples away");
    }
}

fn any_event() -> impl Strategy<Value = Event> {
    prop_oneof![
        (50u64..4_000).prop_map(|long| Event::Stall(long * MILLI)),
        (50u64..300).prop_map(|long| Event::Drain(long * MILLI)),
        prop_oneof![-200_000_000i32..-500, 1_000i32..200_000_000].prop_map(Event::Jump),
        (1u16..50_000).prop_map(Event::Back),
        (any::<u16>(), any::<u32>()).prop_map(|(sequence, timestamp)| Event::Anew(sequence, timestamp)),
        Just(Event::Ssrc),
        (300u64..20_000).prop_map(|long| Event::Stand(long * MILLI)),
        (20u64..20_000).prop_map(|long| Event::Silence(long * MILLI)),
        (1u32..100).prop_map(Event::Lose),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn no_history_puts_audio_behind_its_arrival_or_far_before(
        events in proptest::collection::vec(any_event(), 0..6),
        start in 0u32..3,
        jitter in 0u64..8,
        seed in any::<u64>(),
    ) {
        // The first may happen at the beginning; the others leave time to know what was usual.
        let events: Vec<_> = (0..).zip(events).map(|(index, event)| ((index + start.min(1)) * 300, event)).collect();
        let said = speak(2_000, &events, jitter * MILLI, &mut Random::new(seed));
        check(&said, 20);
    }
}
