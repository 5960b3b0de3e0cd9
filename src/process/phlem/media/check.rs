//! Reads recorded audio frame by frame and says what is wrong with it: the oracle of the recording tests.

use std::collections::BTreeSet;

use crate::process::phlem::media::frame;
use crate::process::phlem::media::frame::FRAME_NANOS;
use crate::process::phlem::media::frame::Mark;
use crate::process::phlem::media::frame::Side;
use crate::process::phlem::media::frame::Stamp;
use crate::process::phlem::media::frame::Time;
use crate::wire::g711::FRAME_SAMPLES;
use crate::wire::g711::Law;

/// Places of faults that a report names; all are counted.
const FAULTS_MAX: usize = 100;
/// How far a pause of the speaker may differ between his clock and the recording: less than a frame.
const PAUSE_TOLERANCE_NANOS: i64 = FRAME_NANOS as i64 * 3 / 4;
const SAMPLE_NANOS: i64 = FRAME_NANOS as i64 / FRAME_SAMPLES as i64;
/// A pause of the speaker that has to be in the recording; below it his sending may have been late.
const PAUSE_NANOS_MIN: i64 = 500_000_000;

/// What the audio should be; what is `None` is taken from the first frame that says it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Expected {
    pub call: Option<u64>,
    pub side: Option<Side>,
    /// So often the speaker began a stream anew: its frames lie where they arrived, by his clock, at no multiple of a frame.
    pub anchors: u32,
    /// How late the speaker may have sent a frame, or it arrived, by the figures of both; 0: three quarters of a frame.
    pub late_nanos: i64,
    /// The time from which [`FrameReport::clock`] is reckoned, less than 36 minutes from the first frame's.
    pub origin: Option<Stamp>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FrameReport {
    /// Whose frames these are; 0 is never told.
    pub call: Option<u64>,
    pub side: Option<Side>,
    /// Different frames of the right call and side.
    pub frames: u64,
    pub first: Option<Place>,
    pub last: Option<Place>,
    /// Numbers between the lowest and the highest that are not there.
    pub missing: u64,
    /// Copies of frames that are there already.
    pub doubled: u64,
    /// Frames that do not lie as far behind the one before as their numbers, or their times after a pause, say.
    pub misplaced: u64,
    /// Frames of another call, or of the other side.
    pub wrong_call: u64,
    /// Frames whose number is right and whose audio is not.
    pub damaged: u64,
    /// Single samples that were put in or taken out between frames to hold the speaker's clock to another.
    pub corrections: u64,
    /// Samples that belong to no frame: silence where nobody spoke, or audio that something changed.
    pub unnumbered_samples: u64,
    pub numbers: BTreeSet<u32>,
    /// Frames of others: call, side and number.
    pub others: BTreeSet<(u64, Side, u32)>,
    /// The time from which `clock` is reckoned.
    pub origin: Option<Stamp>,
    /// How far places lie behind what the frames say of when they were sent, in nanoseconds: least and most.
    pub clock: Option<(i64, i64)>,
    /// Where the first of them are, for people.
    pub faults: Vec<(usize, String)>,
}

/// A frame in the recording.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// Its first sample.
    pub sample: usize,
    pub number: u32,
    /// When it was sent, if it says so.
    pub sent: Option<Stamp>,
}

impl FrameReport {
    /// Nothing is missing, double, misplaced, damaged or another's, and there is something.
    pub const fn is_whole(&self) -> bool {
        self.frames > 0
            && self.missing == 0
            && self.doubled == 0
            && self.misplaced == 0
            && self.wrong_call == 0
            && self.damaged == 0
    }

    fn fault(&mut self, sample: usize, text: impl FnOnce() -> String) {
        if self.faults.len() < FAULTS_MAX {
            self.faults.push((sample, text()));
        }
    }
}

/// Checks one channel of PCM, which was G.711 of `law` before.
pub fn check_samples(samples: impl IntoIterator<Item = i16>, law: Law, expected: Expected) -> FrameReport {
    let bytes: Vec<u8> = samples.into_iter().map(|sample| law.encode(sample)).collect();
    check_frames(&bytes, expected)
}

/// Checks one channel of G.711.
pub fn check_frames(bytes: &[u8], expected: Expected) -> FrameReport {
    let mut reader = Reader { expected, ..Reader::default() };
    let mut at = 0;
    while let Some(rest) = bytes.get(at..)
        && let Some(start) = rest.first_chunk::<8>()
    {
        let found = if frame::may_start(start) { rest.first_chunk().and_then(frame::parse) } else { None };
        if let Some(found) = found {
            reader.on_frame(at, found);
            at += FRAME_SAMPLES;
        } else if let Some(found) = reader.follows(at).then(|| without_first(rest)).flatten() {
            reader.on_frame(at - 1, found);
            at += FRAME_SAMPLES - 1;
        } else {
            reader.report.unnumbered_samples += 1;
            at += 1;
        }
    }
    reader.report.unnumbered_samples += bytes.len().saturating_sub(at) as u64;
    reader.finish()
}

/// A frame whose first sample was taken out. That of a mark is odd; of the audio in it only the check knows.
fn without_first(rest: &[u8]) -> Option<frame::Found> {
    let mut bytes = [1; FRAME_SAMPLES];
    bytes[1..].copy_from_slice(rest.first_chunk::<{ FRAME_SAMPLES - 1 }>()?);
    let found = frame::parse(&bytes)?;
    let is_damaged = (0..=u8::MAX).step_by(2).all(|audio| {
        bytes[0] = audio | 1;
        frame::parse(&bytes).is_none_or(|found| found.is_damaged)
    });
    Some(frame::Found { is_damaged, ..found })
}

#[derive(Default)]
struct Reader {
    expected: Expected,
    /// The time of the last frame; reckoned from its distance to the one before if it does not say it.
    clock: Option<Stamp>,
    /// The newest time that was said, and its distance from the origin.
    said: Option<(Stamp, i64)>,
    /// A frame behind a pause that the next time that is said has to explain.
    unexplained: Option<usize>,
    report: FrameReport,
}

impl Reader {
    /// The last frame ends here.
    fn follows(&self, at: usize) -> bool {
        self.report.last.is_some_and(|last| last.sample + FRAME_SAMPLES == at)
    }

    fn on_frame(&mut self, sample: usize, found: frame::Found) {
        let mark = found.mark;
        if !self.is_expected(&mark) {
            self.report.wrong_call += 1;
            self.report.others.insert((mark.call, mark.side, mark.number));
            let whose = || format!("frame {} of call {}, {:?}", mark.number, mark.call, mark.side);
            return self.report.fault(sample, whose);
        }
        if found.is_damaged {
            self.report.damaged += 1;
            self.report.fault(sample, || format!("frame {} is damaged", mark.number));
        }
        if !self.report.numbers.insert(mark.number) {
            self.report.doubled += 1;
            return self.report.fault(sample, || format!("frame {} again", mark.number));
        }
        self.report.frames += 1;
        let place = Place { sample, number: mark.number, sent: sent(&mark) };
        if let Some(last) = self.report.last {
            if !self.is_in_place(last, place) {
                self.report.misplaced += 1;
                let distance = sample - last.sample;
                let text = || format!("frame {} lies {distance} samples behind frame {}", mark.number, last.number);
                self.report.fault(sample, text);
            }
            let since = (sample - last.sample) as u64 * SAMPLE_NANOS.unsigned_abs();
            self.clock = place.sent.or_else(|| self.clock.map(|clock| clock.later(since)));
        } else {
            self.clock = place.sent;
        }
        self.report.first.get_or_insert(place);
        self.report.last = Some(place);
        if let Some(sent) = place.sent {
            self.on_clock(sample, sent);
        }
    }

    fn on_clock(&mut self, sample: usize, sent: Stamp) {
        let origin = *self.report.origin.get_or_insert_with(|| self.expected.origin.unwrap_or(sent));
        let (before, since_origin) = self.said.unwrap_or((origin, 0));
        let since_origin = since_origin + sent.nanos_since(before);
        self.said = Some((sent, since_origin));
        let behind = sample as i64 * SAMPLE_NANOS - since_origin;
        let (least, most) = self.report.clock.unwrap_or((behind, behind));
        self.report.clock = Some((least.min(behind), most.max(behind)));
    }

    fn is_expected(&mut self, mark: &Mark) -> bool {
        let side = *self.expected.side.get_or_insert(mark.side);
        // The callee's first frames may not know the call yet.
        side == mark.side && (mark.call == 0 || *self.expected.call.get_or_insert(mark.call) == mark.call)
    }

    fn is_in_place(&mut self, last: Place, place: Place) -> bool {
        let frame = FRAME_SAMPLES as i64;
        let numbers = i64::from(place.number) - i64::from(last.number);
        let distance = (place.sample - last.sample) as i64;
        // By how much the speaker's clock says that more time has passed than lies between the two.
        let ahead = self.clock.zip(place.sent).map(|(before, sent)| sent.nanos_since(before) - distance * SAMPLE_NANOS);
        let off = distance - numbers * frame;
        let is_by_clock = ahead.is_some_and(|ahead| ahead.abs() <= self.expected.late_nanos.max(PAUSE_TOLERANCE_NANOS));
        if ahead.is_some() && self.unexplained.take().is_some() && !is_by_clock {
            return false;
        }
        if off.abs() <= 1 && numbers > 0 {
            self.report.corrections += off.unsigned_abs();
            return ahead.is_none_or(|ahead| ahead < PAUSE_NANOS_MIN);
        }
        // The speaker paused: then the recording has silence for as long as his clock says, in this frame or in the next.
        if numbers > 0 && off > 0 && off % frame == 0 && (is_by_clock || ahead.is_none()) {
            self.unexplained = ahead.is_none().then_some(place.sample);
            return true;
        }
        let is_anchored = numbers > 0 && is_by_clock && self.expected.anchors > 0;
        self.expected.anchors -= u32::from(is_anchored);
        is_anchored
    }

    fn finish(mut self) -> FrameReport {
        (self.report.call, self.report.side) = (self.expected.call, self.expected.side);
        if let Some(sample) = self.unexplained.take() {
            self.report.misplaced += 1;
            self.report.fault(sample, || "nothing explains the pause before this frame".to_owned());
        }
        let numbers = std::mem::take(&mut self.report.numbers);
        let mut next = numbers.first().copied().unwrap_or_default();
        for number in &numbers {
            if *number > next {
                self.report.missing += u64::from(number - next);
                let last = number - 1;
                self.report.fault(0, || format!("frames {next} to {last} are missing"));
            }
            next = number + 1;
        }
        self.report.numbers = numbers;
        self.report
    }
}

const fn sent(mark: &Mark) -> Option<Stamp> {
    match mark.time {
        Time::Sent(stamp) => Some(stamp),
        Time::Echo(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::time::Instant;

    const CALL: u64 = 77;

    fn a_frame(call: u64, side: Side, number: u32, millis: u64) -> Vec<u8> {
        let mut frame = std::array::from_fn(|at| (at as u8).wrapping_mul(37) | 0x80);
        let stamp = Stamp::at(Instant::from_millis(millis));
        let time = if number % 8 == 7 { Time::Echo(Stamp(4)) } else { Time::Sent(stamp) };
        frame::emit(&Mark { call, side, number, time }, &mut frame);
        frame.to_vec()
    }

    fn frames(numbers: impl IntoIterator<Item = u32>) -> Vec<u8> {
        let numbers = numbers.into_iter();
        numbers.flat_map(|number| a_frame(CALL, Side::Caller, number, u64::from(number) * 20)).collect()
    }

    fn silence(frames: usize) -> Vec<u8> {
        vec![0xFF; frames * FRAME_SAMPLES]
    }

    fn check(parts: &[Vec<u8>]) -> FrameReport {
        check_frames(&parts.concat(), Expected { call: Some(CALL), side: Some(Side::Caller), ..Expected::default() })
    }

    /// frames, missing, doubled, misplaced, wrong call, damaged, unnumbered samples
    fn counts(report: &FrameReport) -> [u64; 7] {
        let FrameReport { frames, missing, doubled, misplaced, wrong_call, damaged, unnumbered_samples, .. } = *report;
        [frames, missing, doubled, misplaced, wrong_call, damaged, unnumbered_samples]
    }

    #[test]
    fn a_whole_recording() {
        let report = check(&[vec![0xFF; 777], frames(3..103), vec![0xFF; 100]]);
        assert!(report.is_whole(), "{report:?}");
        assert_eq!(counts(&report), [100, 0, 0, 0, 0, 0, 877]);
        assert_eq!(report.first.map(|place| (place.sample, place.number)), Some((777, 3)));
        let samples = frames(0..50).into_iter().map(|byte| Law::Mu.decode(byte));
        let report = check_samples(samples, Law::Mu, Expected::default());
        assert!(report.is_whole() && report.frames == 50, "{report:?}");
        assert!(!check(&[silence(100)]).is_whole());
        assert_eq!(counts(&check(&[])), [0; 7]);
    }

    #[test]
    fn what_can_be_wrong() {
        let wrong = |parts: &[Vec<u8>], expected: [u64; 7]| {
            let report = check(parts);
            assert_eq!(counts(&report), expected, "{report:?}");
            assert!(!report.is_whole() && !report.faults.is_empty());
        };
        // A frame lost, its time filled with silence.
        wrong(&[frames(0..10), silence(1), frames(11..20)], [19, 1, 0, 0, 0, 0, 160]);
        // A frame lost, and the rest moved forward.
        wrong(&[frames(0..10), frames(11..20)], [19, 1, 0, 1, 0, 0, 0]);
        // Half a frame, one frame and five too late from then on.
        wrong(&[frames(0..10), vec![0xFF; 80], frames(10..20)], [20, 0, 0, 1, 0, 0, 80]);
        wrong(&[frames(0..10), silence(1), frames(10..20)], [20, 0, 0, 1, 0, 0, 160]);
        wrong(&[frames(0..8), silence(5), frames(8..20)], [20, 0, 0, 1, 0, 0, 800]);
        wrong(&[frames(0..10), frames(9..10), frames(10..20)], [20, 0, 1, 1, 0, 0, 0]);
        wrong(&[frames(0..5), frames([6, 5]), frames(7..10)], [10, 0, 0, 3, 0, 0, 0]);
        for other in [a_frame(CALL + 1, Side::Caller, 5, 100), a_frame(CALL, Side::Callee, 5, 100)] {
            wrong(&[frames(0..5), other, frames(6..10)], [9, 1, 0, 0, 1, 0, 0]);
        }
        let mut damaged = frames(0..10);
        damaged[1_000] ^= 0x40;
        wrong(&[damaged], [10, 0, 0, 0, 0, 1, 0]);
    }

    #[test]
    fn clocks_are_held_together_by_single_samples() {
        let longer = check(&[frames(0..10), vec![0x80], frames(10..20), vec![0x80], frames(20..30)]);
        assert!(longer.is_whole() && longer.corrections == 2, "{longer:?}");
        // Times have steps of 1,024 ns.
        let in_ten_micros = |report: &FrameReport| report.clock.map(|(least, most)| (least / 10_000, most / 10_000));
        assert_eq!(in_ten_micros(&longer), Some((0, 25)));
        let shorter = check(&[frames(0..10), frames(10..20)[1..].to_vec(), frames(20..30)[1..].to_vec()]);
        assert!(shorter.is_whole() && shorter.corrections == 2, "{shorter:?}");
        assert_eq!((shorter.frames, shorter.unnumbered_samples), (30, 0));
        assert_eq!(in_ten_micros(&shorter), Some((-25, 0)));
        let two = check(&[frames(0..10), frames(10..20)[2..].to_vec()]);
        assert_eq!((two.missing, two.misplaced), (1, 1), "{two:?}");
        let mut damaged = frames(10..20)[1..].to_vec();
        damaged[70] ^= 0x40;
        assert_eq!(check(&[frames(0..10), damaged]).damaged, 1);
    }

    #[test]
    fn a_stream_that_began_anew_lies_where_it_came() {
        let parts = [frames(0..10), vec![0xFF; 70], frames(10..20)].concat();
        let expected = Expected { anchors: 1, ..Expected::default() };
        assert!(check_frames(&parts, expected).is_whole());
        let twice = [parts, vec![0xFF; 70], frames(20..30)].concat();
        assert_eq!(check_frames(&twice, expected).misplaced, 1);
        let far = [frames(0..10), vec![0xFF; 150], frames(10..20)].concat();
        assert_eq!(check_frames(&far, expected).misplaced, 1);
    }

    #[test]
    fn a_pause_of_the_speaker_has_to_be_there() {
        let after = |first: u32, pause: u64| -> Vec<u8> {
            let numbers = first..first + 10;
            numbers.flat_map(|number| a_frame(CALL, Side::Caller, number, pause + u64::from(number) * 20)).collect()
        };
        let paused = check(&[frames(0..10), silence(100), after(10, 2_000)]);
        assert!(paused.is_whole(), "{paused:?}");
        assert_eq!(check(&[frames(0..10), silence(90), after(10, 2_000)]).misplaced, 1);
        assert_eq!(check(&[frames(0..10), after(10, 2_000)]).misplaced, 1);
        // The first frame behind it, number 7, says no time.
        assert!(check(&[frames(0..7), silence(6), after(7, 120)]).is_whole());
        assert_eq!(check(&[frames(0..7), silence(6), after(7, 0)]).misplaced, 1);
        assert_eq!(check(&[frames(0..7), silence(6), after(7, 120)[..FRAME_SAMPLES].to_vec()]).misplaced, 1);
    }
}
