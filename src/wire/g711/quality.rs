//! A mean opinion score from what the network did to the audio: the E-model (ITU-T G.107) with its defaults, for G.711 with
//! concealment, simplified as Cole and Rosenbluth did ("Voice over IP performance monitoring", 2001).
//!
//! An estimate of how a conversation would be judged; `docs/phlem-media.md` has it as a formula.

use std::time::Duration;

/// R with every default of G.107 and nothing that impairs (2000 edition, as the simplification has it).
const R_BEST: f64 = 93.2;
/// G.113 Appendix I: G.711 with packet loss concealment.
const IE: f64 = 0.0;
const BPL: f64 = 25.1;
/// How long frames wait to be played: those that come later than that after the fastest are not heard.
pub const PLAYOUT: Duration = Duration::from_millis(60);
/// A frame is sent when its last sample has been spoken.
const PACKETISATION: Duration = Duration::from_millis(20);

/// What was heard of a stream.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Heard {
    /// The fastest frame's way.
    pub delay: Duration,
    /// Share of the frames that did not come, or too late to be played.
    pub loss: f64,
    /// Mean length of the gaps, in frames; 1 if there are none.
    pub gap: f64,
}

/// R, and the score from 1 to 4.5.
pub fn rate(heard: &Heard) -> (f64, f64) {
    let delay = (heard.delay + PLAYOUT + PACKETISATION).as_secs_f64() * 1_000.0;
    // Cole and Rosenbluth: Id = 0.024 d + 0.11 (d − 177.3) H(d − 177.3).
    let delay_impairment = 0.024 * delay + 0.11 * (delay - 177.3).max(0.0);
    // G.107 §3.5: Ie,eff = Ie + (95 − Ie) · Ppl / (Ppl / BurstR + Bpl), where BurstR compares gaps with those of random loss.
    let loss = heard.loss.clamp(0.0, 1.0);
    let burst = (heard.gap * (1.0 - loss)).max(1.0);
    let percent = 100.0 * loss;
    let equipment_impairment = IE + (95.0 - IE) * percent / (percent / burst + BPL);
    let r = R_BEST - delay_impairment - equipment_impairment;
    (r, score(r))
}

/// G.107 Annex B.
fn score(r: f64) -> f64 {
    match r {
        ..=0.0 => 1.0,
        100.0.. => 4.5,
        r => (1.0 + 0.035 * r + r * (r - 60.0) * (100.0 - r) * 7e-6).clamp(1.0, 4.5),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_points() {
        let check = |millis: u64, loss: f64, gap: f64, expected: f64| {
            let (_, mos) = rate(&Heard { delay: Duration::from_millis(millis), loss, gap });
            assert!((mos - expected).abs() < 0.01, "{millis} ms, {loss}, {gap}: {mos}, expected {expected}");
        };
        // R = 93.2 − 0.024·80 = 91.28.
        check(0, 0.0, 1.0, 4.37);
        // R = 93.2 − 0.024·280 − 0.11·102.7 = 75.18.
        check(200, 0.0, 1.0, 3.83);
        // R = 91.28 − 95·1/26.1 = 87.64.
        check(0, 0.01, 1.0, 4.27);
        // R = 91.28 − 95·10/35.1 = 64.21; in gaps of ten frames 95·10/(10/9 + 25.1) makes 55.04.
        check(0, 0.1, 1.0, 3.31);
        check(0, 0.1, 10.0, 2.84);
        // R = 91.28 − 95·100/125.1 = 15.34.
        check(0, 1.0, 1.0, 1.13);
        check(2_000, 1.0, 1.0, 1.0);
    }

    #[test]
    fn worse_is_never_better() {
        let mos = |millis, loss| rate(&Heard { delay: Duration::from_millis(millis), loss, gap: 1.0 }).1;
        for step in 0..100u32 {
            let (loss, millis) = (f64::from(step) / 100.0, u64::from(step) * 10);
            assert!(mos(millis, loss) >= mos(millis, loss + 0.01));
            assert!(mos(millis, loss) >= mos(millis + 10, loss));
        }
    }
}
