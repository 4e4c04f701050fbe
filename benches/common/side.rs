//! A server with its load generator, and rounds in which several of them take turns.
//!
//! Owns the turns: whatever disturbs the machine disturbs all sides. Never knows what is asked.

use super::client::{Client, Outcome};
use super::figures::Measured;
use super::requests::Batch;
use super::scenario::{Items, Scenario};
use super::server::{self, Server};

/// A paced run sends at this share of what the slower side can do.
const PACE: f64 = 0.3;

/// A server, and connections to it.
pub struct Side {
    /// The one that is measured.
    pub server: Server,
    client: Client,
}

impl Side {
    /// Connects to a server.
    pub fn new(server: Server) -> Result<Side, String> {
        let client = Client::connect(server.port)?;
        Ok(Side { server, client })
    }

    /// Sets all of these items.
    pub fn fill(&mut self, items: Items) -> Result<(), String> {
        let Items { first, keys, len } = items;
        super::requests::fill(&mut self.client, first, first + keys, len)
    }

    /// Runs one load, and measures the server meanwhile.
    pub fn measure(
        &mut self,
        run: impl FnOnce(&mut Client) -> Result<Outcome, String>,
    ) -> Result<Measured, String> {
        let (server_before, client_before) = (self.server.cpu()?, server::own_cpu()?);
        let outcome = run(&mut self.client)?;
        Ok(Measured {
            outcome,
            server_cpu: self.server.cpu()?.saturating_sub(server_before),
            client_cpu: server::own_cpu()?.saturating_sub(client_before),
        })
    }
}

/// Who is measured first changes with each round: nobody always has the warmer machine.
fn order(round: u32, sides: usize) -> impl Iterator<Item = usize> {
    (0..sides).map(move |index| (index + round as usize) % sides)
}

/// Runs the same on all sides in turns; what was measured, by side and then by round.
pub fn in_turns(
    sides: &mut [Side],
    rounds: u32,
    run: impl Fn(&mut Client) -> Result<Outcome, String>,
) -> Result<Vec<Vec<Measured>>, String> {
    let mut measured: Vec<Vec<Measured>> = sides.iter().map(|_| Vec::new()).collect();
    for round in 0..rounds {
        for index in order(round, sides.len()) {
            measured[index].push(sides[index].measure(&run)?);
        }
    }
    Ok(measured)
}

/// As fast as each side answers, `count` batches a round.
pub fn flat_out(
    sides: &mut [Side],
    rounds: u32,
    batches: &[Batch],
    count: usize,
) -> Result<Vec<Vec<Measured>>, String> {
    in_turns(sides, rounds, |client| client.run(batches.iter().cycle().take(count), count))
}

/// Latencies at equal load: the same rate for all, well below what any can do. `seconds` is how
/// long a round takes; `requests` are what is sent to find the rate.
pub fn paced(
    scenario: &Scenario,
    sides: &mut [Side],
    rounds: u32,
    requests: u64,
    seconds: f64,
) -> Result<Vec<Vec<Measured>>, String> {
    let batches = scenario.batches();
    let probe = scenario.count(requests);
    let mut slowest = f64::INFINITY;
    for side in sides.iter_mut() {
        let run = side.measure(|client| client.run(batches.iter().cycle().take(probe), probe))?;
        slowest = slowest.min(run.rate() / scenario.pipeline as f64);
    }
    let rate = slowest * PACE;
    let count = (rate * seconds) as usize;
    eprintln!("  at {rate:.0} batches a second");
    in_turns(sides, rounds, |client| {
        client.run_paced(batches.iter().cycle().take(count), count, rate)
    })
}
