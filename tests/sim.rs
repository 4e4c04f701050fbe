//! Seeded simulations of clusters: real nodes, sessions and stores; virtual time and network.
//!
//! `SEEDS=N` runs N seeds per size, `SEED=N` one. A failing seed prints itself and replays.

#[path = "sim/acks.rs"]
mod acks;
#[path = "sim/random.rs"]
mod random;
#[path = "sim/scenarios.rs"]
mod scenarios;
#[path = "sim/world.rs"]
mod world;
