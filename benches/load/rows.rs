//! The load bench's rows: what is asked, and what is to be reached.
//!
//! Owns the goals. They are shares of the peer's processor time, and of what a bare loop over the
//! same system calls takes (load/floor.rs); latencies are shares of the peer's.

use crate::common::scenario::{
    Items, Scenario, GET, MIXED, MULTI_GET, PIPELINED_GET, PIPELINED_SET, SET,
};

/// A row of the table.
pub struct Row {
    /// What is asked.
    pub scenario: Scenario,
    /// Most of the peer's processor time.
    pub of_peer: f64,
    /// Most of the floor's, where the kernel's work is nearly all there is.
    pub of_floor: Option<f64>,
    /// Its latencies are compared too, at equal load.
    pub is_paced: bool,
}

const MEDIUM: Items = Items { first: 1_000_000_000, keys: 4000, len: 10 * 1024 };
/// As many bytes as the usual limit of an item (`-I`) lets a value have, in round numbers.
const LARGE: Items = Items { first: 2_000_000_000, keys: 64, len: 1_000_000 };

/// Everything that is asked for and has to be there.
pub const ITEMS: [Items; 3] = [GET.items, MEDIUM, LARGE];

/// All rows, in the table's order.
pub const ALL: [Row; 11] = [
    row(GET, 0.92).beside_floor(1.08).paced(),
    row(SET, 0.92).beside_floor(1.10).paced(),
    row(MIXED, 0.92).beside_floor(1.10).paced(),
    row(PIPELINED_GET, 0.50),
    row(PIPELINED_SET, 0.50),
    // A batch ends with `mn`: the shortest that is answered, so that little but sets is measured.
    row(Scenario { name: "pipelined 20 noreply", noreply: true, ..PIPELINED_SET }, 0.50),
    row(MULTI_GET, 0.45),
    row(Scenario { name: "get 10 KB", items: MEDIUM, weight: 2, ..GET }, 0.92).paced(),
    row(Scenario { name: "set 10 KB", items: MEDIUM, weight: 2, ..SET }, 0.92).paced(),
    row(Scenario { name: "get 1 MB", items: LARGE, weight: 100, ..GET }, 0.92).paced(),
    row(Scenario { name: "set 1 MB", items: LARGE, weight: 100, ..SET }, 0.92).paced(),
];

/// Most of the peer's p99 at equal load.
pub const P99_OF_PEER: f64 = 1.0;

const fn row(scenario: Scenario, of_peer: f64) -> Row {
    Row { scenario, of_peer, of_floor: None, is_paced: false }
}

impl Row {
    const fn beside_floor(self, share: f64) -> Row {
        Row { of_floor: Some(share), ..self }
    }

    const fn paced(self) -> Row {
        Row { is_paced: true, ..self }
    }
}
