//! The load bench's tables.
//!
//! Owns how the three sides are shown beside each other and beside the goals. Every figure is a
//! median over the rounds.

use crate::common::figures::{median, spread, Goal, Line, Measured};
use crate::rows::{Row, P99_OF_PEER};

/// Sides of a line, in this order.
pub const OURS: usize = 0;
/// What ours is compared with.
pub const PEER: usize = 1;
/// load/floor.rs.
pub const FLOOR: usize = 2;

/// Processor time, as ratios.
pub fn cpu(lines: &[(&Row, Line)], how: &str) {
    println!();
    println!("processor seconds of the server, user and system, per million requests; {how}");
    println!(
        "{:<21}{:>8}{:>8}{:>8}{:>10} {:<11} {:<14}{:>11} {:<14}{:>11}{:>8}{:>13}",
        "",
        "ours",
        "peer",
        "floor",
        "ours/peer",
        "(mid half)",
        "goal",
        "ours/floor",
        "goal",
        "peer/floor",
        "req/s",
        "client CPU"
    );
    for (row, line) in lines {
        let ratios = line.ratios(OURS, PEER, Measured::cpu_per_million);
        let of_floor = line.ratio(OURS, FLOOR, Measured::cpu_per_million);
        let of = |side| line.of(side, Measured::cpu_per_million);
        let share = |side| 100.0 * line.of(side, Measured::client_share);
        let ratio = median(ratios.clone());
        let floor_goal = row.of_floor.map(|goal| Goal::AtMost(goal).verdict(of_floor));
        println!(
            "{:<21}{:>8.2}{:>8.2}{:>8.2}{:>10.3} {:<11} {:<14}{:>11.3} {:<14}{:>11.3}{:>8.2}\
             {:>7.0}% {:>3.0}%",
            line.name,
            of(OURS),
            of(PEER),
            of(FLOOR),
            ratio,
            spread(&ratios),
            Goal::AtMost(row.of_peer).verdict(ratio),
            of_floor,
            floor_goal.unwrap_or_default(),
            line.ratio(PEER, FLOOR, Measured::cpu_per_million),
            line.ratio(OURS, PEER, Measured::rate),
            share(OURS),
            share(PEER),
        );
    }
    println!("req/s: ours/peer, more is better; client CPU: of one processor, with ours and peer");
}

/// Latencies at equal load.
pub fn latency(lines: &[(&Row, Line)], how: &str) {
    println!();
    println!("microseconds until an answer is there, ours / peer, both at the same rate; {how}");
    println!(
        "{:<21}{:>15}{:>15}{:>15}{:>11} {:<11} {:<14}{:>10}",
        "", "p50", "p99", "p99.9", "p99 ratio", "(mid half)", "goal", "CPU ratio"
    );
    for (_, line) in lines {
        let both = |share| {
            let of = |side| line.of(side, |m: &Measured| m.micros(share));
            format!("{:.0} / {:.0}", of(OURS), of(PEER))
        };
        let ratios = line.ratios(OURS, PEER, |m| m.micros(0.99));
        println!(
            "{:<21}{:>15}{:>15}{:>15}{:>11.3} {:<11} {:<14}{:>10.3}",
            line.name,
            both(0.5),
            both(0.99),
            both(0.999),
            median(ratios.clone()),
            spread(&ratios),
            Goal::AtMost(P99_OF_PEER).verdict(median(ratios)),
            line.ratio(OURS, PEER, Measured::cpu_per_million),
        );
    }
}
