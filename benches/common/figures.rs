//! What was measured, and how it becomes ratios.
//!
//! Owns medians, spreads and the words for a goal that is met or missed. Ratios are made round by
//! round, so that a disturbance shared by all sides cancels.

use super::client::Outcome;
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

    /// The latency in microseconds that this share of all batches did not exceed.
    pub fn micros(&self, share: f64) -> f64 {
        self.outcome.percentile(share) as f64 / 1000.0
    }
}

/// All rounds of one scenario, for each side in the order of the sides.
pub struct Line {
    /// The scenario's name.
    pub name: String,
    /// By side, then by round.
    pub sides: Vec<Vec<Measured>>,
}

impl Line {
    /// The median of a figure of one side.
    pub fn of(&self, side: usize, figure: impl Fn(&Measured) -> f64) -> f64 {
        median(self.sides.get(side).into_iter().flatten().map(figure).collect())
    }

    /// A figure of one side divided by another's, round by round; empty where a side is missing.
    pub fn ratios(&self, one: usize, other: usize, figure: impl Fn(&Measured) -> f64) -> Vec<f64> {
        let (Some(one), Some(other)) = (self.sides.get(one), self.sides.get(other)) else {
            return Vec::new();
        };
        one.iter().zip(other).map(|(a, b)| figure(a) / figure(b).max(1e-12)).collect()
    }

    /// The median of these.
    pub fn ratio(&self, one: usize, other: usize, figure: impl Fn(&Measured) -> f64) -> f64 {
        median(self.ratios(one, other, figure))
    }
}

/// The middle one, which a disturbed round does not move.
pub fn median(values: Vec<f64>) -> f64 {
    quantile(values, 0.5)
}

/// The value that this share of all does not exceed.
pub fn quantile(mut values: Vec<f64>, share: f64) -> f64 {
    values.sort_by(f64::total_cmp);
    let at = values.len().saturating_sub(1) as f64 * share;
    values.get(at.round() as usize).copied().unwrap_or(f64::NAN)
}

/// Where the middle half of the values lies.
pub fn spread(values: &[f64]) -> String {
    let [low, high] = [0.25, 0.75].map(|share| quantile(values.to_vec(), share));
    format!("{low:.2}..{high:.2}")
}

/// What is wanted of a figure.
#[derive(Clone, Copy, Debug)]
pub enum Goal {
    /// So much or less.
    AtMost(f64),
    /// So much or more.
    AtLeast(f64),
}

impl Goal {
    /// Whether `figure` reaches it.
    pub fn is_met(self, figure: f64) -> bool {
        match self {
            Goal::AtMost(most) => figure <= most,
            Goal::AtLeast(least) => figure >= least,
        }
    }

    /// The goal, and whether `figure` reaches it.
    pub fn verdict(self, figure: f64) -> String {
        let (sign, goal) = match self {
            Goal::AtMost(most) => ("<=", most),
            Goal::AtLeast(least) => (">=", least),
        };
        format!("{sign} {goal:<4.2} {:<6}", if self.is_met(figure) { "met" } else { "MISSED" })
    }
}
