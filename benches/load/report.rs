//! The tables.
//!
//! Owns how figures of both servers become ratios. Below 1 ours is the cheaper or the faster one.

use crate::client::Outcome;
use std::time::Duration;

/// One scenario, one server, one round.
#[derive(Clone, Debug)]
pub struct Measured {
    /// What the client saw.
    pub outcome: Outcome,
    /// Processor time of the server.
    pub server_cpu: Duration,
    /// Processor time of the client.
    pub client_cpu: Duration,
}

impl Measured {
    /// Processor seconds of the server per million requests.
    pub fn cpu_per_million(&self) -> f64 {
        self.server_cpu.as_secs_f64() / self.outcome.requests.max(1) as f64 * 1e6
    }

    /// Requests per second.
    pub fn rate(&self) -> f64 {
        self.outcome.requests as f64 / self.outcome.wall.as_secs_f64().max(1e-9)
    }

    /// Share of one processor that the client used.
    pub fn client_share(&self) -> f64 {
        self.client_cpu.as_secs_f64() / self.outcome.wall.as_secs_f64().max(1e-9)
    }
}

/// All rounds of one scenario.
pub struct Line {
    /// The scenario's name.
    pub name: &'static str,
    /// Ours, round by round.
    pub ours: Vec<Measured>,
    /// The peer's, round by round.
    pub peer: Vec<Measured>,
}

/// The middle one, which a disturbed round does not move.
pub fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

impl Line {
    /// The median over the rounds of ours divided by the peer's in the same round.
    pub fn ratio(&self, figure: impl Fn(&Measured) -> f64) -> f64 {
        median(self.ratios(figure))
    }

    /// The same round by round.
    pub fn ratios(&self, figure: impl Fn(&Measured) -> f64) -> Vec<f64> {
        self.ours.iter().zip(&self.peer).map(|(a, b)| figure(a) / figure(b).max(1e-12)).collect()
    }
}

/// Prints the ratios, and below them what they were made of if asked.
pub fn print(lines: &[Line], absolute: bool) {
    println!();
    println!("ours / peer: below 1.00 ours is better (but for req/s, where it is above)");
    println!(
        "{:<18}{:>9}{:>15}{:>8}{:>8}{:>8}{:>8}{:>13}",
        "", "CPU/Mreq", "(all rounds)", "req/s", "p50", "p99", "p99.9", "client CPU"
    );
    for line in lines {
        let cpu = line.ratios(Measured::cpu_per_million);
        let low = cpu.iter().copied().fold(f64::INFINITY, f64::min);
        let high = cpu.iter().copied().fold(0.0, f64::max);
        let percentile = |share| line.ratio(|m| m.outcome.percentile(share) as f64);
        let share =
            |side: &[Measured]| 100.0 * median(side.iter().map(Measured::client_share).collect());
        println!(
            "{:<18}{:>9.2}{:>15}{:>8.2}{:>8.2}{:>8.2}{:>8.2}{:>6.0}% {:>4.0}%",
            line.name,
            median(cpu),
            format!("{low:.2}..{high:.2}"),
            line.ratio(Measured::rate),
            percentile(0.5),
            percentile(0.99),
            percentile(0.999),
            share(&line.ours),
            share(&line.peer),
        );
    }
    println!("client CPU: share of one processor that the load generator used, ours and peer");
    if absolute {
        println!();
        println!("{:<18}{:>6}{:>12}{:>12}", "on this machine", "", "CPU s/Mreq", "req/s");
        for line in lines {
            for (who, side) in [("ours", &line.ours), ("peer", &line.peer)] {
                let of = |figure: fn(&Measured) -> f64| median(side.iter().map(figure).collect());
                let us = |share| {
                    let each = side.iter().map(|m| m.outcome.percentile(share) as f64 / 1000.0);
                    median(each.collect())
                };
                println!(
                    "{:<18}{who:>6}{:>12.2}{:>12.0}   p50 {:.0} p99 {:.0} p99.9 {:.0} us",
                    line.name,
                    of(Measured::cpu_per_million),
                    of(Measured::rate),
                    us(0.5),
                    us(0.99),
                    us(0.999),
                );
            }
        }
    }
}
