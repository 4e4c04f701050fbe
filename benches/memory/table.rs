//! The memory bench's table: ours, the peer's, what is compared with the goal, and the verdict.

use crate::common::figures::Goal;

/// One line.
pub struct Row {
    name: String,
    sides: [f64; 2],
    judged: Option<(f64, Goal)>,
}

impl Row {
    /// The goal is about ours divided by the peer's.
    pub fn ratio(name: &str, sides: [f64; 2], goal: Goal) -> Row {
        let judged = Some((sides[0] / sides[1].max(1e-9), goal));
        Row { name: name.to_owned(), sides, judged }
    }

    /// The goal is about ours alone.
    pub fn own(name: &str, sides: [f64; 2], goal: Goal) -> Row {
        Row { name: name.to_owned(), sides, judged: Some((sides[0], goal)) }
    }

    /// No goal, but it explains.
    pub fn told(name: &str, sides: [f64; 2]) -> Row {
        Row { name: name.to_owned(), sides, judged: None }
    }
}

fn figure(value: f64) -> String {
    match value {
        _ if value.is_infinite() => "not seen".to_owned(),
        _ if value.abs() >= 10_000.0 => format!("{value:.0}"),
        _ => format!("{value:.3}"),
    }
}

/// Prints all.
pub fn print(rows: &[Row]) {
    println!();
    println!("{:<48}{:>12}{:>12}{:>12}  goal", "", "ours", "peer", "judged");
    for Row { name, sides: [ours, peer], judged } in rows {
        let (judged, verdict) = match judged {
            Some((value, goal)) => (figure(*value), goal.verdict(*value)),
            None => (String::new(), String::new()),
        };
        println!("{name:<48}{:>12}{:>12}{judged:>12}  {verdict}", figure(*ours), figure(*peer));
    }
}
