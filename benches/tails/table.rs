//! The tails bench's table, and its goals.

use crate::common::figures::Goal;
use crate::phases::Phase;

/// Most milliseconds of the longest wait of all, and that one in a thousand may wait more than when
/// nothing happens.
const WORST_MS: f64 = 5.0;
const LATER_MS: f64 = 1.0;
/// Most seconds until what has expired is gone.
const GONE_SECS: f64 = 10.0;
/// `-m` is kept when no more is resident: this share of it and so many MiB.
const RESIDENT: (f64, f64) = (1.05, 8.0);

/// Prints all phases of both, and what of the goals ours has reached.
pub fn print(ours: &[Phase], peer: &[Phase], memory_mb: u32) {
    println!("\nwhat clients waited, in milliseconds (p99, p99.9, worst), at -m {memory_mb}:\n");
    println!("{:<16}{:>24}{:>24}   p99.9 over idle{:>9}  worst", "", "ours", "peer", "");
    let idle = ours.first().map_or(0.0, |phase| phase.waits.ms(0.999));
    for (ours, peer) in ours.iter().zip(peer) {
        let waits = |phase: &Phase| {
            let [p99, p999, most] = [0.99, 0.999, 1.0].map(|share| phase.waits.ms(share));
            format!("{p99:.2} {p999:7.2} {most:7.2}")
        };
        let later = ours.waits.ms(0.999) - idle;
        println!(
            "{:<16}{:>24}{:>24}   {later:>6.2} {}  {}",
            ours.name,
            waits(ours),
            waits(peer),
            Goal::AtMost(LATER_MS).verdict(later),
            Goal::AtMost(WORST_MS).verdict(ours.waits.ms(1.0)),
        );
    }
    println!("\n{:<16}{:>24}{:>24}", "", "seconds, resident MiB", "evictions: ours, peer");
    for (ours, peer) in ours.iter().zip(peer) {
        let size = |phase: &Phase| format!("{:.1} {:8.1}", phase.seconds, phase.resident);
        println!(
            "{:<16}{:>24}{:>24}{:>12}{:>12}",
            ours.name,
            size(ours),
            size(peer),
            ours.evictions,
            peer.evictions
        );
    }
    let most = ours.iter().map(|phase| phase.resident).fold(0.0, f64::max);
    let resident = Goal::AtMost(RESIDENT.0 * f64::from(memory_mb) + RESIDENT.1);
    println!("\nresident at most {most:.1} MiB: {}", resident.verdict(most));
    if let Some(expire) = ours.iter().find(|phase| phase.name == "expire") {
        let gone = Goal::AtMost(GONE_SECS).verdict(expire.seconds);
        println!("expired items gone after {:.1} s: {gone}", expire.seconds);
    }
}
