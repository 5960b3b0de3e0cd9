//! How many times faster than real time a core makes a recording's two channels of G.711: timeline, ledger, mixdown and waveform of
//! an eight-hour call. Side does decryption, sealing and SHA-256 beside it.
#![allow(clippy::print_stdout, reason = "a bench prints its figures")]
#![allow(clippy::disallowed_methods, reason = "a bench measures real time")]

use std::time::Instant as Clock;

use tipring::base::id::CallId;
use tipring::base::time::Instant;
use tipring::machine::recording::Codec;
use tipring::machine::recording::Encoding;
use tipring::machine::recording::Mixdown;
use tipring::machine::recording::Timeline;
use tipring::machine::recording::view::Peaks;
use tipring::wire::g711::Law;
use tipring::wire::tape::Frame;

const HOURS: u64 = 8;
const FRAMES: u64 = HOURS * 3_600 * 50;
const FRAMES_AT_ONCE: usize = 16 * 1024;

fn main() {
    let encoding = Encoding::of([Codec::G711(Law::A)]);
    for round in 1..=3 {
        let began = Clock::now();
        let (mut timeline, mut mixdown) =
            (Timeline::new(encoding.rate(), Instant::from_millis(1_000)), Mixdown::new(encoding));
        let (mut peaks, mut audio, mut samples) = (Peaks::new(encoding), Vec::new(), 0);
        let mut packet = [0x80, 8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0].to_vec();
        packet.extend((0..160).map(|at| at as u8 ^ 0x55));
        for number in 0..FRAMES {
            for leg in [0, 1] {
                packet[2..4].copy_from_slice(&(number as u16).to_be_bytes());
                packet[4..8].copy_from_slice(&(number as u32).wrapping_mul(160).to_be_bytes());
                packet[11] = leg;
                let at = Instant::from_millis(1_010 + number * 20);
                timeline
                    .on_frame(&Frame { call: CallId::from_bits(1), leg, stream: 0, at, packet: &packet }, &mut mixdown);
            }
            samples += drain(&mut mixdown, &mut audio, &mut peaks, encoding);
        }
        timeline.finish(Instant::from_millis(1_010 + FRAMES * 20), &mut mixdown);
        while mixdown.frames() < FRAMES * 160 {
            samples += drain(&mut mixdown, &mut audio, &mut peaks, encoding);
        }
        let spent = began.elapsed().as_secs_f64();
        let length = (HOURS * 3_600) as f64;
        println!(
            "round {round}: {samples} samples of both parties in {spent:.2} s: {:.0} times real time",
            length / spent
        );
    }
}

fn drain(mixdown: &mut Mixdown, audio: &mut Vec<u8>, peaks: &mut Peaks, encoding: Encoding) -> usize {
    audio.clear();
    let taken = mixdown.take(FRAMES_AT_ONCE, audio);
    peaks.add(encoding, audio);
    taken
}
