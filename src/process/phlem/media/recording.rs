//! Reads a recording of an emulated call, both parties in one WAV file: the caller has to be left and the callee right, each frame
//! of each once and in its place, and what they said at one time has to lie together.

use crate::process::phlem::media::check::Expected;
use crate::process::phlem::media::check::FrameReport;
use crate::process::phlem::media::check::check_samples;
use crate::process::phlem::media::frame::Side;
use crate::wire::g711::Law;
use crate::wire::g711::SAMPLES_PER_SECOND;
use crate::wire::wav::BadWav;
use crate::wire::wav::Encoding;
use crate::wire::wav::Wav;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecordingReport {
    /// As the caller's frames say it.
    pub call: Option<u64>,
    pub caller: FrameReport,
    pub callee: FrameReport,
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadRecording {
    #[error(transparent)]
    Wav(#[from] BadWav),
    #[error("{0} channels: the recording has to be stereo")]
    Channels(u16),
    #[error("the file ends before its audio does")]
    Cut,
    #[error("{0} samples a second: frames are numbered in audio of 8000 alone")]
    Rate(u32),
}

impl RecordingReport {
    /// Nothing is wrong with either party's audio, and both are there.
    pub const fn is_whole(&self) -> bool {
        self.caller.is_whole() && self.callee.is_whole()
    }

    /// Nanoseconds: how far apart what was sent at one time lies at most, if the parties had one clock. What a frame was sent late
    /// is in it.
    pub fn apart(&self) -> i64 {
        let clocks = [&self.caller, &self.callee].into_iter().filter_map(|report| report.clock);
        let (least, most) =
            clocks.fold((i64::MAX, i64::MIN), |(least, most), (low, high)| (least.min(low), most.max(high)));
        most.saturating_sub(least).max(0)
    }
}

/// `expected` is of both parties: how often each began anew, how late it may have been.
pub fn check_recording(wav: &[u8], expected: Expected) -> Result<RecordingReport, BadRecording> {
    let wav = Wav::parse(wav)?;
    let format = wav.format;
    if format.channels != 2 {
        return Err(BadRecording::Channels(format.channels));
    }
    if format.rate != SAMPLES_PER_SECOND {
        return Err(BadRecording::Rate(format.rate));
    }
    if wav.is_cut {
        return Err(BadRecording::Cut);
    }
    let caller = check_channel(&wav, 0, Expected { side: Some(Side::Caller), ..expected });
    let (call, origin) = (caller.call, caller.origin);
    let callee = check_channel(&wav, 1, Expected { call, side: Some(Side::Callee), origin, ..expected });
    Ok(RecordingReport { call, caller, callee })
}

fn check_channel(wav: &Wav<'_>, channel: u16, expected: Expected) -> FrameReport {
    let check = |law| check_samples(wav.samples(channel), law, expected);
    match wav.format.encoding {
        Encoding::G711(law) => check(law),
        // The parties may have had different laws: the right one is that in which frames are found.
        Encoding::Pcm16 => {
            let [mu, a] = [Law::Mu, Law::A].map(check);
            if a.frames > mu.frames { a } else { mu }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::time::Instant;
    use crate::process::phlem::media::frame;
    use crate::process::phlem::media::frame::Mark;
    use crate::process::phlem::media::frame::Stamp;
    use crate::process::phlem::media::frame::Time;
    use crate::wire::g711::FRAME_SAMPLES;
    use crate::wire::wav;
    use crate::wire::wav::Format;

    fn party(side: Side, call: u64, began: u64) -> Vec<u8> {
        let frame = |number: u32| {
            let time = Time::Sent(Stamp::at(Instant::from_millis(began + 20 * u64::from(number))));
            let mut frame = [0x95; FRAME_SAMPLES];
            frame::emit(&Mark { call, side, number, time }, &mut frame);
            frame
        };
        (0..50).flat_map(frame).collect()
    }

    fn file(left: &[u8], right: &[u8]) -> Vec<u8> {
        let audio: Vec<u8> = left.iter().zip(right).flat_map(|(left, right)| [*left, *right]).collect();
        wav::emit(Format { encoding: Encoding::G711(Law::A), channels: 2, rate: SAMPLES_PER_SECOND }, &audio).unwrap()
    }

    #[test]
    fn both_parties_have_to_be_where_they_belong() {
        let (caller, callee) = (party(Side::Caller, 5, 1_000), party(Side::Callee, 5, 1_000));
        let report = check_recording(&file(&caller, &callee), Expected::default()).unwrap();
        assert!(report.is_whole() && report.call == Some(5) && report.apart() < 3_000, "{report:?}");
        for (left, right) in [(&callee, &caller), (&caller, &caller), (&caller, &party(Side::Callee, 6, 1_000))] {
            let report = check_recording(&file(left, right), Expected::default()).unwrap();
            assert!(!report.is_whole() && report.caller.wrong_call + report.callee.wrong_call > 0, "{report:?}");
        }
        let silent = vec![Law::A.silence(); caller.len()];
        assert!(!check_recording(&file(&caller, &silent), Expected::default()).unwrap().is_whole());
    }

    #[test]
    fn audio_of_one_time_has_to_lie_together() {
        let report =
            check_recording(&file(&party(Side::Caller, 5, 1_000), &party(Side::Callee, 5, 1_040)), Expected::default())
                .unwrap();
        assert!((39_990_000..40_010_000).contains(&report.apart()), "{}", report.apart());
    }

    #[test]
    fn parties_of_two_laws_are_read_from_pcm() {
        let (caller, callee) = (party(Side::Caller, 7, 0), party(Side::Callee, 7, 0));
        let pairs = caller.iter().zip(&callee);
        let samples: Vec<i16> =
            pairs.flat_map(|(left, right)| [Law::A.decode(*left), Law::Mu.decode(*right)]).collect();
        assert!(
            check_recording(&wav::emit_pcm(2, SAMPLES_PER_SECOND, &samples).unwrap(), Expected::default())
                .unwrap()
                .is_whole()
        );
    }

    #[test]
    fn what_cannot_be_checked_is_refused() {
        let whole = file(&party(Side::Caller, 5, 0), &party(Side::Callee, 5, 0));
        let check =
            |wav: &[u8], expected: BadRecording| assert_eq!(check_recording(wav, Expected::default()), Err(expected));
        check(&whole[..whole.len() - 1], BadRecording::Cut);
        check(b"noise", BadRecording::Wav(BadWav::NotWave));
        check(&wav::emit_pcm(1, 8_000, &[0; 400]).unwrap(), BadRecording::Channels(1));
        check(&wav::emit_pcm(2, 16_000, &[0; 400]).unwrap(), BadRecording::Rate(16_000));
    }
}
