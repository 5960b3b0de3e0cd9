//! Generated packets of both parties, laid on the timeline and mixed down as side does it, and checked by the same oracle as live
//! recordings: an hour of clocks that differ, and lines of every kind by seed.

use std::collections::BTreeSet;
use std::time::Duration;

use tipring::base::id::CallId;
use tipring::base::random::Random;
use tipring::base::time::Instant;
use tipring::machine::media::quality::Stream;
use tipring::machine::recording::Arrivals;
use tipring::machine::recording::Codec;
use tipring::machine::recording::Encoding;
use tipring::machine::recording::Mixdown;
use tipring::machine::recording::Timeline;
use tipring::process::phlem::media::Expected;
use tipring::process::phlem::media::FrameReport;
use tipring::process::phlem::media::RecordingReport;
use tipring::process::phlem::media::Side;
use tipring::process::phlem::media::check_recording;
use tipring::process::phlem::media::frame;
use tipring::process::phlem::media::frame::FRAME_NANOS;
use tipring::process::phlem::media::frame::Mark;
use tipring::process::phlem::media::frame::Stamp;
use tipring::process::phlem::media::frame::Time;
use tipring::wire::g711::FRAME_SAMPLES;
use tipring::wire::g711::Law;
use tipring::wire::g711::SAMPLES_PER_SECOND;
use tipring::wire::rtp::Header;
use tipring::wire::tape::Frame;
use tipring::wire::wav;

const MILLI: u64 = 1_000_000;
const BEGAN: u64 = 5_000_000 * MILLI;
const CALL: u64 = 9;

/// One party and its way to us.
#[derive(Clone, Copy, Debug, Default)]
struct Party {
    /// By how many millionths its clock is slow (or fast, if negative).
    millionths: i64,
    /// In thousandths of its packets.
    lost: u64,
    doubled: u64,
    /// At most, in milliseconds; more than 20 changes the order.
    jitter: u64,
    /// Its number before which it pauses, and how many frames long.
    pause: (u32, u32),
    /// The network keeps what is sent from this number on for so many milliseconds, and brings it at once.
    stall: (u32, u64),
    /// What is sent from this number on is so many milliseconds late, each frame 2 ms less than the one before.
    queue: (u32, u64),
    /// From this number on the sequence is so far back, and the timestamp so many ticks ahead.
    anew: (u32, u16, u32),
}

struct Sent {
    arrives: u64,
    leg: u8,
    packet: Vec<u8>,
}

impl Sent {
    fn frame(&self) -> Frame<'_> {
        let at = Instant::from_nanos(self.arrives);
        Frame { call: CallId::from_bits(1), leg: self.leg, stream: 0, at, packet: &self.packet }
    }
}

/// What was sent arrives, twice or not at all; the numbers of what came.
fn speak(leg: u8, party: Party, frames: u32, random: &mut Random, line: &mut Vec<Sent>) -> BTreeSet<u32> {
    let side = if leg == 0 { Side::Caller } else { Side::Callee };
    let first = random.next_u32();
    let (mut came, mut held) = (BTreeSet::new(), 0);
    for number in 0..frames {
        let slot = number + if number >= party.pause.0 { party.pause.1 } else { 0 };
        let nominal = u64::from(slot) * FRAME_NANOS;
        let skew = nominal.cast_signed() / 1_000_000 * party.millionths;
        // Calls begin before their audio does.
        let sent = BEGAN + 200 * MILLI + nominal.strict_add_signed(skew);
        if number == party.stall.0 {
            held = sent + party.stall.1 * MILLI;
        }
        let mut audio = [0xD5; FRAME_SAMPLES];
        let time = Time::Sent(Stamp::at(Instant::from_nanos(sent)));
        frame::emit(&Mark { call: CALL, side, number, time }, &mut audio);
        let mut packet = vec![0x80, Law::A.payload_type()];
        let (back, ticks) = if number >= party.anew.0 { (party.anew.1, party.anew.2) } else { (0, 0) };
        let sequence = (first as u16).wrapping_add(number as u16).wrapping_sub(back);
        let timestamp = first.wrapping_add(slot.wrapping_mul(FRAME_SAMPLES as u32)).wrapping_add(ticks);
        packet.extend_from_slice(&sequence.to_be_bytes());
        packet.extend_from_slice(&timestamp.to_be_bytes());
        packet.extend_from_slice(&[1, 2, 3, leg]);
        packet.extend_from_slice(&audio);
        if random.chance(party.lost, 1_000) {
            continue;
        }
        came.insert(number);
        for _ in 0..=u64::from(random.chance(party.doubled, 1_000)) {
            let queued = party.queue.1.saturating_sub(2 * u64::from(number.saturating_sub(party.queue.0)));
            let queued = if number >= party.queue.0 { queued * MILLI } else { 0 };
            let arrives = (sent + 10 * MILLI + queued + random.below(party.jitter * MILLI + 1)).max(held);
            line.push(Sent { arrives, leg, packet: packet.clone() });
        }
    }
    came
}

/// Packets, copies and losses, of which call records and metrics are made.
fn counted_by_the_engine(leg: u8, line: &[Sent]) -> [u64; 3] {
    let mut stream = Stream::default();
    for sent in line.iter().filter(|sent| sent.leg == leg) {
        let header = Header::parse(&sent.packet).unwrap();
        stream.on_packet(&header, sent.packet.len(), |_| SAMPLES_PER_SECOND, Instant::from_nanos(sent.arrives));
    }
    [stream.packets, stream.duplicates, stream.lost()]
}

/// A recording of both parties as side makes it, read by the oracle; and what should be in it.
fn recorded(parties: [Party; 2], frames: u32, seed: u64) -> (RecordingReport, [BTreeSet<u32>; 2]) {
    let mut random = Random::new(seed);
    let mut line = Vec::new();
    let came = [0, 1].map(|leg| speak(leg, parties[usize::from(leg)], frames, &mut random, &mut line));
    line.sort_by_key(|sent| sent.arrives);
    let encoding = Encoding::of([Codec::G711(Law::A)]);
    let mut arrivals = Arrivals::new(Instant::from_nanos(BEGAN));
    for sent in &line {
        arrivals.on_frame(&sent.frame());
    }
    let (mut timeline, mut mixdown) = (Timeline::new(encoding.rate(), arrivals.finish()), Mixdown::new(encoding));
    let mut audio = Vec::new();
    let mut ended = Instant::ZERO;
    for sent in &line {
        ended = Instant::from_nanos(sent.arrives);
        timeline.on_frame(&sent.frame(), &mut mixdown);
        mixdown.take(usize::MAX, &mut audio);
    }
    timeline.finish(ended + Duration::from_millis(30), &mut mixdown);
    mixdown.take(usize::MAX, &mut audio);
    for (leg, _, line_of_leg) in timeline.ledger().lines() {
        let ledger = [line_of_leg.received, line_of_leg.duplicated, line_of_leg.lost];
        let what = format!("received, duplicated, lost of leg {leg}, seed {seed}: {:?}", parties[usize::from(leg)]);
        assert_eq!(ledger, counted_by_the_engine(leg, &line), "{what}");
        let came = &came[usize::from(leg)];
        let between = u64::from(came.last().unwrap() - came.first().unwrap() + 1);
        assert_eq!(line_of_leg.lost, between - came.len() as u64, "{what}");
    }
    let format = wav::Format { encoding: encoding.wav(), channels: 2, rate: SAMPLES_PER_SECOND };
    (check_recording(&wav::emit(format, &audio).unwrap(), Expected::default()).unwrap(), came)
}

#[test]
fn a_party_that_came_late_or_began_anew_is_beside_the_other_for_the_rest_of_the_call() {
    let check_party = |what: &str, party: Party| {
        let other = Party { jitter: 3, ..Party::default() };
        let (report, came) = recorded([Party { jitter: 3, ..party }, other], 1_500, 3);
        for (report, came) in [(&report.caller, &came[0]), (&report.callee, &came[1])] {
            check(report, came, what);
        }
        assert!(report.apart() < 20 * MILLI as i64, "{what}: {} ns apart", report.apart());
    };
    for from in [0, 1, 30, 700] {
        for millis in [200, 1_000, 3_500] {
            let what = format!("{millis} ms from frame {from}");
            check_party(&format!("a stall of {what}"), Party { stall: (from, millis), ..Party::default() });
            check_party(&format!("a queue of {what}"), Party { queue: (from, millis.min(1_500)), ..Party::default() });
        }
    }
    for (back, ticks) in
        [(1, 0), (50, 0), (700, 0), (5_000, 0), (0, 8_000), (0, (5 * 8_000u32).wrapping_neg()), (99, 1 << 31)]
    {
        let what = format!("{back} numbers back and {ticks} ticks ahead");
        check_party(&what, Party { anew: (700, back, ticks), ..Party::default() });
    }
}

fn check(report: &FrameReport, came: &BTreeSet<u32>, what: &str) {
    let wrong: Vec<_> = report.numbers.symmetric_difference(came).take(10).collect();
    assert!(wrong.is_empty(), "{what}: missing or too many: {wrong:?}");
    let counts = [report.doubled, report.misplaced, report.wrong_call, report.damaged];
    assert_eq!(counts, [0; 4], "{what}: doubled, misplaced, wrong, damaged: {:?}", report.faults.get(..3));
}

#[test]
fn parties_whose_clocks_differ_stay_within_20_ms_for_an_hour() {
    for (caller, callee) in [(200, -200), (-200, 200), (200, 200), (0, -200)] {
        let party = |millionths| Party { millionths, jitter: 12, ..Party::default() };
        let (report, came) = recorded([party(caller), party(callee)], 180_000, 7);
        let what = format!("{caller} and {callee} millionths");
        for (report, came) in [(&report.caller, &came[0]), (&report.callee, &came[1])] {
            check(report, came, &what);
        }
        assert!(report.is_whole() && report.apart() < 20 * MILLI as i64, "{what}: {} ns apart", report.apart());
        // An hour of 200 millionths is 5,760 samples.
        for (report, millionths) in [(&report.caller, caller), (&report.callee, callee)] {
            let wanted = 5_760 * millionths.unsigned_abs() / 200;
            assert!(report.corrections.abs_diff(wanted) < 200, "{what}: {} samples corrected", report.corrections);
        }
    }
}

#[test]
fn whatever_a_line_does_every_frame_that_came_is_in_its_place() {
    for seed in 0..400 {
        let mut random = Random::new(seed);
        let mut below = |bound: i64| random.below(bound.unsigned_abs()).cast_signed();
        let parties = [0, 1].map(|_| Party {
            millionths: below(401) - 200,
            lost: below(4).unsigned_abs() * 30,
            doubled: below(3).unsigned_abs() * 50,
            jitter: [0, 15, 60, 150][below(4) as usize],
            pause: (below(800) as u32, below(2) as u32 * below(500) as u32),
            stall: (below(800) as u32, below(3).unsigned_abs() / 2 * below(3_500).unsigned_abs()),
            ..Party::default()
        });
        let (report, came) = recorded(parties, 1_000, seed);
        for (report, came) in [(&report.caller, &came[0]), (&report.callee, &came[1])] {
            check(report, came, &format!("seed {seed}: {parties:?}"));
        }
        let jitter = parties.iter().map(|party| party.jitter).max().unwrap_or(0);
        let allowed = (20 + jitter) * MILLI;
        assert!(report.apart() < allowed.cast_signed(), "seed {seed}: {} ns apart", report.apart());
    }
}
