//! Figures of a stream, against hand-made sequences and a model of a network that loses, doubles and delays.

use proptest::prelude::*;

use super::*;

/// A stream that is fed one packet after the other: `(sequence, timestamp, arrival in µs)`.
#[derive(Default)]
struct Feed {
    stream: Stream,
    ssrc: u32,
    payload_type: u8,
    rate: u32,
}

impl Feed {
    fn at(rate: u32) -> Self {
        Self { rate, ..Self::default() }
    }

    fn packet(&mut self, sequence: u16, timestamp: u32, micros: u64) {
        let header = Header {
            padding: false,
            marker: false,
            payload_type: self.payload_type,
            sequence,
            timestamp,
            ssrc: self.ssrc,
            extension: None,
            csrc_count: 0,
            header_len: 12,
        };
        let now = Instant::from_nanos(1_000_000_000 + micros * 1_000);
        self.stream.on_packet(&header, 172, |_| self.rate, now);
    }

    /// Numbers in the order of their arrival, each with the timestamp of its time.
    fn sequences(sequences: &[u16]) -> Self {
        let mut feed = Self::at(8_000);
        let first = sequences.first().copied().unwrap_or_default();
        for (index, sequence) in (0u64..).zip(sequences) {
            let sent = i32::from(sequence.wrapping_sub(first) as i16) * 160;
            feed.packet(*sequence, sent as u32, index * 20_000);
        }
        feed
    }

    /// Numbers every 20 ms, on one timeline whatever they are.
    fn timeline(&mut self, from: u32, sequences: impl IntoIterator<Item = u16>) {
        for (index, sequence) in (from..).zip(sequences) {
            self.packet(sequence, index * 160, u64::from(index) * 20_000);
        }
    }

    fn counts(&self) -> (u64, u64, u64) {
        (self.stream.lost(), self.stream.reordered, self.stream.duplicates)
    }
}

#[test]
fn losses_late_packets_and_doubles() {
    let check =
        |sequences: &[u16], expected| assert_eq!(Feed::sequences(sequences).counts(), expected, "{sequences:?}");
    check(&[], (0, 0, 0));
    check(&[7], (0, 0, 0));
    check(&[1, 2, 3], (0, 0, 0));
    check(&[1, 2, 5], (2, 0, 0));
    check(&[1, 2, 5, 4], (1, 1, 0));
    check(&[1, 2, 4, 3, 3, 5], (0, 1, 1));
    check(&[1, 1, 2, 2], (0, 0, 2));
    check(&[65_534, 65_535, 0, 1], (0, 0, 0));
    check(&[65_534, 0, 65_535, 2], (1, 1, 0));
    // Sent before the first that came.
    check(&[10, 9, 11], (0, 1, 0));
    check(&[10, 7, 11], (2, 1, 0));
    check(&[2, 65_535, 3], (2, 1, 0));
}

/// A queue of some seconds drains behind what overtook it.
#[test]
fn late_packets_are_late_and_copies_are_copies_however_far_behind() {
    for behind in [1u16, 31, 33, 64, 99, 101, 700, 1_023] {
        let late = 2_000 - behind;
        let sent = (900..=2_000).filter(|number| *number != late);
        let feed = Feed::sequences(&sent.chain([late, late]).collect::<Vec<_>>());
        assert_eq!((feed.counts(), feed.stream.restarts), ((0, 1, 1), 0), "{behind}");
    }
}

#[test]
fn a_jump_is_believed_at_the_second_packet() {
    let feed = Feed::sequences(&[1, 2, 20_000, 3]);
    assert_eq!((feed.stream.restarts, feed.stream.lost()), (0, 0));
    let feed = Feed::sequences(&[1, 3, 20_000, 20_001, 20_002]);
    assert_eq!((feed.stream.restarts, feed.stream.lost(), feed.stream.packets), (1, 1, 5));
}

#[test]
fn a_sequence_that_steps_back_is_a_restart_and_no_copy() {
    for back in [2, 7, 40, 90, 500] {
        let mut feed = Feed::at(8_000);
        feed.timeline(0, 1_000..1_100);
        feed.timeline(100, 1_100 - back..1_200);
        assert_eq!((feed.counts(), feed.stream.restarts), ((0, 0, 0), 1), "back by {back}");
        assert_eq!(feed.stream.packets, 200 + u64::from(back));
    }
    // The timeline begins anew, too.
    let mut feed = Feed::at(8_000);
    feed.timeline(0, 1_000..1_030);
    for (index, sequence) in (1_000..1_010).enumerate() {
        feed.packet(sequence, 77_000 + index as u32 * 160, 600_000 + index as u64 * 20_000);
    }
    assert_eq!((feed.counts(), feed.stream.restarts), ((0, 0, 0), 1));
    // One packet proves nothing, and a copy is one.
    let mut feed = Feed::at(8_000);
    feed.timeline(0, (1_000..1_100).chain([1_095, 1_100, 1_101]));
    assert_eq!((feed.counts(), feed.stream.restarts), ((0, 0, 0), 0));
    feed.packet(1_090, 90 * 160, 3_000_000);
    assert_eq!(feed.counts(), (0, 0, 1));
}

#[test]
fn a_stream_is_recognised_by_its_end() {
    let mut feed = Feed::at(8_000);
    feed.timeline(0, 1_000..1_050);
    let tail = feed.stream.tail().unwrap();
    let goes_on = |ssrc: u32, sequence: u16, timestamp: u32, millis: u64| {
        let header = Header { ssrc, sequence, timestamp, ..header() };
        tail.goes_on(&header, Instant::from_nanos(1_000_000_000 + millis * 1_000_000))
    };
    assert!(goes_on(0, 1_050, 50 * 160, 1_000));
    assert!(goes_on(0, 1_049, 49 * 160, 1_000), "a copy");
    assert!(!goes_on(1, 1_050, 50 * 160, 1_000));
    // An hour later only the clock tells.
    assert!(goes_on(0, 30_000, 3_600 * 8_000, 3_600_000));
    assert!(!goes_on(0, 30_000, 5, 3_600_000));
    assert_eq!(Stream::default().tail(), None);
}

fn header() -> Header {
    let (padding, marker, payload_type, extension, csrc_count) = (false, false, 0, None, 0);
    Header { padding, marker, payload_type, sequence: 0, timestamp: 0, ssrc: 0, extension, csrc_count, header_len: 12 }
}

#[test]
fn another_ssrc_keeps_what_was_lost_before() {
    let mut feed = Feed::sequences(&[1, 4]);
    feed.ssrc = 9;
    feed.packet(30_000, 5, 60_000);
    feed.packet(30_002, 325, 100_000);
    assert_eq!((feed.stream.ssrc_changes, feed.stream.lost(), feed.stream.packets), (1, 3, 4));
    assert!(feed.stream.jitter() < Duration::from_millis(1));
}

/// Each packet comes 10 ms earlier or later than the one before: d is 10 ms, and the jitter nears it.
#[test]
fn the_most_jitter_outlives_clock_and_source() {
    let mut feed = Feed::at(8_000);
    let uneven = |feed: &mut Feed, from: u32, step: u32| {
        for index in from..from + 200 {
            feed.packet(index as u16, index * step, u64::from(index) * 20_000 + u64::from(index % 2) * 10_000);
        }
    };
    uneven(&mut feed, 0, 160);
    let most = feed.stream.jitter_max();
    assert!(most > Duration::from_millis(9) && most <= Duration::from_millis(10), "{most:?}");
    assert_eq!(most, feed.stream.jitter());
    (feed.payload_type, feed.rate) = (1, 48_000);
    for index in 200..600u32 {
        feed.packet(index as u16, index * 960, u64::from(index) * 20_000);
    }
    assert!(feed.stream.jitter() < Duration::from_millis(1));
    assert_eq!(feed.stream.jitter_max(), most, "in the clock of before");
    feed.ssrc = 7;
    for index in 0..400u32 {
        feed.packet(index as u16, index * 960, 12_000_000 + u64::from(index) * 20_000);
    }
    assert_eq!((feed.stream.jitter(), feed.stream.jitter_max()), (Duration::ZERO, most));
    uneven(&mut feed, 1_000, 960);
    assert!(feed.stream.jitter_max() >= most);
}

#[test]
fn jitter_follows_the_formula() {
    let mut feed = Feed::at(8_000);
    for n in 0..200u32 {
        // Every other packet 5 ms late: 40 units of difference each time.
        feed.packet(n as u16, n * 160, u64::from(n) * 20_000 + u64::from(n % 2) * 5_000);
    }
    let jitter = feed.stream.jitter();
    assert!(jitter > Duration::from_micros(4_700) && jitter <= Duration::from_millis(5), "{jitter:?}");
    let even = Feed::sequences(&(0..100).collect::<Vec<_>>());
    assert_eq!(even.stream.jitter(), Duration::ZERO);
}

#[test]
fn the_clock_is_that_of_the_payload_type() {
    let mut feed = Feed::at(48_000);
    for n in 0..50u32 {
        feed.packet(n as u16, n * 960, u64::from(n) * 20_000);
    }
    assert_eq!(feed.stream.jitter(), Duration::ZERO);
    // Key presses of another clock and type in between; packets of one press share a timestamp.
    feed.rate = 8_000;
    feed.payload_type = 101;
    for n in 50..60u32 {
        feed.packet(n as u16, 8_000, u64::from(n) * 20_000);
    }
    assert_eq!(feed.stream.jitter(), Duration::ZERO);
}

#[test]
fn a_payload_type_may_change_its_clock() {
    let check = |change: fn(&mut Feed)| {
        let mut feed = Feed::at(48_000);
        for n in 0..50u32 {
            feed.packet(n as u16, n * 960, u64::from(n) * 20_000);
        }
        feed.rate = 8_000;
        change(&mut feed);
        for n in 50..99u32 {
            feed.packet(n as u16, n * 160, u64::from(n) * 20_000);
        }
        assert!(feed.stream.jitter() < Duration::from_millis(1), "{:?}", feed.stream.jitter());
    };
    check(|feed| feed.ssrc = 9);
    check(|feed| feed.stream.forget_clock());
}

#[test]
fn a_report_without_or_before_its_sender_report_measures_nothing() {
    let now = Instant::from_millis(10_000);
    let block = |last, delay| ReportBlock {
        ssrc: 1,
        fraction_lost: 0,
        lost: 0,
        highest_sequence: 0,
        jitter: 0,
        last_sender_report: last,
        delay_since_last_sender_report: delay,
    };
    let mut trip = RoundTrip::default();
    trip.on_report(&block(0, 0), now);
    trip.on_report(&block(5, 0), now);
    trip.on_sender_report(5, now);
    // Held for longer than it is gone.
    trip.on_report(&block(5, 65_536), now + Duration::from_millis(500));
    // Older than any path is long.
    trip.on_report(&block(5, 0), now + Duration::from_secs(60));
    assert_eq!(trip.mean(), None);
    for later in 6..6 + SENDER_REPORTS_MAX as u32 {
        trip.on_report(&block(5, 0), now + Duration::from_millis(40));
        trip.on_sender_report(later, now);
    }
    trip.on_report(&block(5, 0), now + Duration::from_millis(90));
    assert_eq!((trip.mean(), trip.max, trip.count), (Some(Duration::from_millis(40)), Duration::from_millis(40), 4));
}

proptest! {
    /// Against a plain count over a network that loses, doubles and delays by a few packets.
    #[test]
    fn counts_match_the_network(start in any::<u16>(), fates in proptest::collection::vec(0u8..20, 2..400)) {
        let mut sent = Vec::new();
        let last = fates.len() - 1;
        for (index, fate) in fates.iter().enumerate() {
            let sequence = start.wrapping_add(index as u16);
            match fate {
                0 if index != 0 && index != last => {}
                1 => sent.extend([sequence, sequence]),
                2 if index > 1 && !sent.is_empty() => sent.insert(sent.len() - 1, sequence),
                _ => sent.push(sequence),
            }
        }
        // The first and the last must arrive as such for the extent to be known.
        prop_assume!(sent.first() == Some(&start) && sent.last() == Some(&start.wrapping_add(last as u16)));
        let distinct = sent.iter().collect::<std::collections::BTreeSet<_>>().len();
        let feed = Feed::sequences(&sent);
        prop_assert_eq!(feed.stream.lost(), (fates.len() - distinct) as u64);
        prop_assert_eq!(feed.stream.duplicates, (sent.len() - distinct) as u64);
    }

    #[test]
    fn anything_may_arrive(packets in proptest::collection::vec((any::<u16>(), any::<u32>(), any::<u32>(), 0u32..2), 0..200), rate in any::<u32>()) {
        let mut feed = Feed::at(rate.min(1_000_000));
        for (sequence, timestamp, micros, ssrc) in packets {
            feed.ssrc = ssrc;
            feed.packet(sequence, timestamp, u64::from(micros));
            feed.stream.lost();
            feed.stream.jitter();
        }
    }
}
