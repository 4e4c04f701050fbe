//! The proxy bench's tables.
//!
//! Owns the goals and how they are shown beside what was measured. Every figure is a median over
//! the rounds; ratios are made round by round, so that a disturbance shared by both cancels.

use crate::common::figures::{median, spread, Goal, Line, Measured};

/// Most of the peer's processor time that ours may take, by the scenario's name.
const GOALS: [(&str, f64); 5] = [
    ("get", 0.75),
    ("set", 0.75),
    ("multi-get 50", 0.60),
    ("pipelined 20 get", 0.60),
    ("pipelined 20 set", 0.60),
];
/// A p99 that is higher by less than this is not called higher: two runs of one proxy differ more.
const P99_NOISE: f64 = 1.05;

const OURS: usize = 0;
const PEER: usize = 1;

/// Ours, the peer's and their ratio, with the goal.
pub fn cpu(lines: &[Line]) {
    println!();
    println!("processor seconds of the proxy, user and system, per million requests; one worker");
    println!(
        "{:<18}{:>9}{:>11}{:>9}{:>14}  {:<15}{:>13}",
        "", "ours", "twemproxy", "ratio", "(middle half)", "goal", "req/s ratio"
    );
    for line in lines {
        let ratios = line.ratios(OURS, PEER, Measured::cpu_per_million);
        let ratio = median(ratios.clone());
        let goal = GOALS.iter().find(|(name, _)| *name == line.name);
        let verdict = goal.map(|&(_, goal)| Goal::AtMost(goal).verdict(ratio));
        println!(
            "{:<18}{:>9.2}{:>11.2}{:>9.2}{:>14}  {:<15}{:>13.2}",
            line.name,
            line.of(OURS, Measured::cpu_per_million),
            line.of(PEER, Measured::cpu_per_million),
            ratio,
            spread(&ratios),
            verdict.unwrap_or_default(),
            line.ratio(OURS, PEER, Measured::rate),
        );
    }
}

/// Latencies of a batch, in microseconds.
pub fn latency(lines: &[Line]) {
    println!();
    println!("microseconds until a batch is answered, ours / twemproxy");
    println!("{:<18}{:>17}{:>17}{:>17}{:>12}", "", "p50", "p99", "p99.9", "p99 ratio");
    for line in lines {
        let both = |share| {
            format!(
                "{:.0} / {:.0}",
                line.of(OURS, |m| m.micros(share)),
                line.of(PEER, |m| m.micros(share))
            )
        };
        let ratio = line.ratio(OURS, PEER, |m| m.micros(0.99));
        println!(
            "{:<18}{:>17}{:>17}{:>17}{:>12.2} {}",
            line.name,
            both(0.5),
            both(0.99),
            both(0.999),
            ratio,
            if ratio > P99_NOISE { "HIGHER" } else { "" },
        );
    }
}

/// Ours alone, where there is no peer.
pub fn alone(lines: &[Line]) {
    println!();
    println!("ours alone: processor seconds per million requests, requests a second, microseconds");
    for line in lines {
        println!(
            "{:<18}{:>9.2}{:>12.0}   p50 {:.0} p99 {:.0} p99.9 {:.0}",
            line.name,
            line.of(OURS, Measured::cpu_per_million),
            line.of(OURS, Measured::rate),
            line.of(OURS, |m| m.micros(0.5)),
            line.of(OURS, |m| m.micros(0.99)),
            line.of(OURS, |m| m.micros(0.999)),
        );
    }
}

/// Requests a second by the number of workers; `peer` of a line has the larger number.
pub fn workers(lines: &[Line], [few, many]: [u32; 2]) {
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    println!();
    println!("requests a second of ours with -t {few} and -t {many}, on {processors} processors");
    for line in lines {
        println!(
            "{:<18}{:>12.0}{:>12.0}{:>9.2} times",
            line.name,
            line.of(OURS, Measured::rate),
            line.of(PEER, Measured::rate),
            line.ratio(PEER, OURS, Measured::rate),
        );
    }
    if processors < 5 {
        println!("(client, two servers and workers share the processors: growth hardly shows)");
    }
}
