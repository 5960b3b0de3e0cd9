//! Two builds of the server beside each other: OLD and NEW are paths of their binaries.
//!
//! `OLD=path NEW=path cargo bench --bench sip -- builds`. Both run on CPU 0, each with phones of its own, and take turns: PAIRS (21) times
//! a slice of SLICE seconds (2) of the same load for each, who goes first changes. What counts is the exact time of a server's threads on CPU 0, so
//! the other one does not disturb. Printed is the median of new / old with the 95 % interval of the order statistics of the pairs.

use std::net::Ipv4Addr;

use crate::cpu::Reading;
use crate::load::Generator;
use crate::load::Kind;
use crate::load::Load;
use crate::load::first_registration;
use crate::setting;
use crate::target::Target;

const USERS: usize = 4_000;

struct Side {
    target: Target,
    generator: Generator,
}

impl Side {
    fn start(variable: &str, number: u8) -> Self {
        let binary = std::env::var(variable).unwrap_or_else(|_| panic!("{variable} names no binary"));
        let target = Target::of_build(&binary, Ipv4Addr::new(127, 40, number, 1), USERS, 1, "");
        let mut generator = Generator::open(USERS, &target, 41 + 20 * number);
        let registered = generator.run(&first_registration(USERS));
        assert_eq!(registered.done, USERS, "{variable}: not all phones are registered");
        Self { target, generator }
    }

    /// Microseconds of the server's threads for one operation.
    fn cost(&mut self, kind: Kind, per_second: usize, seconds: usize) -> f64 {
        let load = Load { kind, users: USERS, operations: per_second * seconds, per_second };
        let before = Reading::take(0, &self.target.processes);
        let outcome = self.generator.run(&load);
        let spent = Reading::take(0, &self.target.processes).since(&before);
        assert!(outcome.done * 100 > load.operations * 99, "{} of {} were done", outcome.done, load.operations);
        spent.threads * 1e6 / outcome.done as f64
    }
}

pub fn compare() {
    let (pairs, slice) = (setting("PAIRS", 21), setting("SLICE", 2));
    let mut sides = [Side::start("OLD", 0), Side::start("NEW", 1)];
    // A tenant begins a hundred calls a second at most.
    for (name, kind, per_second) in [("REGISTER", Kind::Register, 3_000), ("call", Kind::Call, 90)] {
        for side in &mut sides {
            // Answers are kept for 32 s: until then a server's memory grows.
            side.cost(kind, per_second, setting("WARM_UP", 35));
        }
        let mut costs = Vec::with_capacity(pairs);
        for pair in 0..pairs {
            let mut cost = [0.0; 2];
            for turn in 0..2 {
                let which = (turn + pair) % 2;
                cost[which] = sides[which].cost(kind, per_second, slice);
            }
            costs.push(cost);
        }
        print(name, per_second, &costs);
    }
}

fn print(name: &str, per_second: usize, costs: &[[f64; 2]]) {
    let sorted = |mut values: Vec<f64>| {
        values.sort_by(f64::total_cmp);
        values
    };
    let ratios = sorted(costs.iter().map(|[old, new]| new / old).collect());
    let median = |values: &[f64]| values[values.len() / 2];
    let of = |which: usize| median(&sorted(costs.iter().map(|cost| cost[which]).collect()));
    let rank = rank(ratios.len());
    println!(
        "{name} at {per_second}/s, {} pairs: old {:.2} µs, new {:.2} µs, new / old {:.3} ({:.3} to {:.3})",
        ratios.len(),
        of(0),
        of(1),
        median(&ratios),
        ratios[rank],
        ratios[ratios.len() - 1 - rank],
    );
}

/// How many of the lowest and of the highest of `n` values the 95 % interval of their median leaves out.
fn rank(n: usize) -> usize {
    let (mut term, mut sum) = (0.5_f64.powi(n as i32), 0.0);
    for left_out in 0..n / 2 {
        if 2.0 * (sum + term) > 0.05 {
            return left_out.saturating_sub(1);
        }
        sum += term;
        term *= (n - left_out) as f64 / (left_out + 1) as f64;
    }
    0
}
