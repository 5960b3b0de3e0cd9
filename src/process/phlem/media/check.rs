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
/// A pause of the speaker that has to be in the recording; below it his sending may have been late.
const PAUSE_NANOS_MIN: i64 = 500_000_000;

/// What the audio should be; what is `None` is taken from the first frame that says it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Expected {
    pub call: Option<u64>,
    pub side: Option<Side>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FrameReport {
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
    /// Samples that belong to no frame: silence where nobody spoke, or audio that something changed.
    pub unnumbered_samples: u64,
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
        } else {
            reader.report.unnumbered_samples += 1;
            at += 1;
        }
    }
    reader.report.unnumbered_samples += bytes.len().saturating_sub(at) as u64;
    reader.finish()
}

#[derive(Default)]
struct Reader {
    expected: Expected,
    seen: BTreeSet<u32>,
    /// The time of the last frame; reckoned from its distance to the one before if it does not say it.
    clock: Option<Stamp>,
    report: FrameReport,
}

impl Reader {
    fn on_frame(&mut self, sample: usize, found: frame::Found) {
        let mark = found.mark;
        if !self.is_expected(&mark) {
            self.report.wrong_call += 1;
            let whose = || format!("frame {} of call {}, {:?}", mark.number, mark.call, mark.side);
            return self.report.fault(sample, whose);
        }
        if found.is_damaged {
            self.report.damaged += 1;
            self.report.fault(sample, || format!("frame {} is damaged", mark.number));
        }
        if !self.seen.insert(mark.number) {
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
            let since = (sample - last.sample) as u64 * (FRAME_NANOS / FRAME_SAMPLES as u64);
            self.clock = place.sent.or_else(|| self.clock.map(|clock| clock.later(since)));
        } else {
            self.clock = place.sent;
        }
        self.report.first.get_or_insert(place);
        self.report.last = Some(place);
    }

    fn is_expected(&mut self, mark: &Mark) -> bool {
        let side = *self.expected.side.get_or_insert(mark.side);
        // The callee's first frames may not know the call yet.
        side == mark.side && (mark.call == 0 || *self.expected.call.get_or_insert(mark.call) == mark.call)
    }

    fn is_in_place(&self, last: Place, place: Place) -> bool {
        let frame = FRAME_SAMPLES as i64;
        let numbers = i64::from(place.number) - i64::from(last.number);
        let distance = (place.sample - last.sample) as i64;
        let nanos = distance * (FRAME_NANOS as i64 / frame);
        // By how much the speaker's clock says that more time has passed than lies between the two.
        let ahead = self.clock.zip(place.sent).map(|(before, sent)| sent.nanos_since(before) - nanos);
        if distance == numbers * frame {
            return ahead.is_none_or(|ahead| ahead < PAUSE_NANOS_MIN);
        }
        // The speaker paused: then the recording has silence for as long as his clock says.
        let is_pause = numbers > 0 && distance > numbers * frame && distance % frame == 0;
        is_pause && ahead.is_some_and(|ahead| ahead.abs() <= PAUSE_TOLERANCE_NANOS)
    }

    fn finish(mut self) -> FrameReport {
        let Some(mut next) = self.seen.first().copied() else { return self.report };
        for number in self.seen {
            if number > next {
                self.report.missing += u64::from(number - next);
                let last = number - 1;
                self.report.fault(0, || format!("frames {next} to {last} are missing"));
            }
            next = number + 1;
        }
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
        check_frames(&parts.concat(), Expected { call: Some(CALL), side: Some(Side::Caller) })
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
    fn a_pause_of_the_speaker_has_to_be_there() {
        let after = || {
            let numbers = (10..20).map(|number| a_frame(CALL, Side::Caller, number, 2_000 + u64::from(number) * 20));
            numbers.collect::<Vec<_>>().concat()
        };
        let paused = check(&[frames(0..10), silence(100), after()]);
        assert!(paused.is_whole(), "{paused:?}");
        assert_eq!(check(&[frames(0..10), silence(90), after()]).misplaced, 1);
        assert_eq!(check(&[frames(0..10), after()]).misplaced, 1);
    }
}
