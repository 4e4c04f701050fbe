//! Seeded simulations of clusters: real nodes, sessions and stores; virtual time and network.
//!
//! `SEEDS=N` runs N seeds per test, `SEED=N` one (with `NODES=M`: of clusters of that size only). A
//! failing seed prints itself and replays.

#[path = "sim/network.rs"]
mod network;
#[path = "sim/random.rs"]
mod random;
#[path = "sim/rng.rs"]
mod rng;
#[path = "sim/scenarios.rs"]
mod scenarios;
#[path = "sim/world.rs"]
mod world;
