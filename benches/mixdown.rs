//! How many times faster than real time a core makes a recording's two channels of G.711: both readings of the packets, timeline,
//! ledger, mixdown and waveform of an eight-hour call. Side does decryption, sealing and SHA-256 beside it. Then how many times faster than real time both channels
//! are encoded as Ogg/Opus, which is done when somebody asks for it.
#![allow(clippy::print_stdout, reason = "a bench prints its figures")]
#![allow(clippy::disallowed_methods, reason = "a bench measures real time")]

use std::time::Instant as Clock;

use tipring::base::id::CallId;
use tipring::base::time::Instant;
use tipring::machine::recording::Arrivals;
use tipring::machine::recording::Codec;
use tipring::machine::recording::Encoding;
use tipring::machine::recording::Mixdown;
use tipring::machine::recording::Timeline;
use tipring::machine::recording::ogg::OggOpus;
use tipring::machine::recording::view::Peaks;
use tipring::process::phlem::media::speech::Speech;
use tipring::wire::g711::Law;
use tipring::wire::tape::Frame;

const HOURS: u64 = 8;
const FRAMES: u64 = HOURS * 3_600 * 50;
const FRAMES_AT_ONCE: usize = 16 * 1024;

fn main() {
    let encoding = Encoding::of([Codec::G711(Law::A)]);
    for round in 1..=3 {
        let began = Clock::now();
        let mut arrivals = Arrivals::new(Instant::from_millis(1_000));
        speak(|_, frame| arrivals.on_frame(frame));
        let (mut timeline, mut mixdown) = (Timeline::new(encoding.rate(), arrivals.finish()), Mixdown::new(encoding));
        let (mut peaks, mut audio, mut samples) = (Peaks::new(encoding), Vec::new(), 0);
        speak(|is_last, frame| {
            timeline.on_frame(frame, &mut mixdown);
            if is_last {
                samples += drain(&mut mixdown, &mut audio, &mut peaks, encoding);
            }
        });
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
    encode(8_000);
    encode(48_000);
}

/// Every packet of both parties, and whether it is the later of its time.
fn speak(mut on_frame: impl FnMut(bool, &Frame<'_>)) {
    let mut packet = [0x80, 8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0].to_vec();
    packet.extend((0..160).map(|at| at as u8 ^ 0x55));
    for number in 0..FRAMES {
        for leg in [0, 1] {
            packet[2..4].copy_from_slice(&(number as u16).to_be_bytes());
            packet[4..8].copy_from_slice(&(number as u32).wrapping_mul(160).to_be_bytes());
            packet[11] = leg;
            let at = Instant::from_millis(1_010 + number * 20);
            on_frame(leg == 1, &Frame { call: CallId::from_bits(1), leg, stream: 0, at, packet: &packet });
        }
    }
}

/// Two voices that speak at once, which is more work than a call.
fn encode(rate: u32) {
    const SECONDS: usize = 300;
    let law = Law::A;
    let [left, right] = [1, 2].map(|number| Speech::voice(number, law));
    let (mut pcm, times) = (Vec::new(), (rate / 8_000) as usize);
    for number in 0..SECONDS * 50 {
        for (left, right) in left.frame(number).into_iter().zip(right.frame(number)) {
            for _ in 0..times {
                pcm.extend([law.decode(left), law.decode(right)].iter().flat_map(|sample| sample.to_le_bytes()));
            }
        }
    }
    let (began, mut out) = (Clock::now(), Vec::new());
    let Ok(mut ogg) = OggOpus::new(rate, 2) else { return };
    for part in pcm.chunks(64 * 1_024) {
        let _ = ogg.push(part, &mut out);
    }
    let _ = ogg.finish(&mut out);
    let (spent, kbits) = (began.elapsed().as_secs_f64(), out.len() as f64 * 8.0 / 1e3 / SECONDS as f64);
    let times = SECONDS as f64 / spent;
    println!(
        "ogg of {rate} samples a second: {times:.0} times real time, an hour in {:.0} s; {kbits:.0} kbit/s",
        3_600.0 / times
    );
}

fn drain(mixdown: &mut Mixdown, audio: &mut Vec<u8>, peaks: &mut Peaks, encoding: Encoding) -> usize {
    audio.clear();
    let taken = mixdown.take(FRAMES_AT_ONCE, audio);
    peaks.add(encoding, audio);
    taken
}
