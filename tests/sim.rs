//! Seeded simulations of clusters: real nodes, sessions and stores; virtual time and network.
//!
//! `SEEDS=N` runs N seeds per test (from `FROM` on), `SEED=N` one, `NODES=M` only clusters of that
//! size. A failing seed prints itself and replays. `make sim SEEDS=N` runs many.

#[path = "sim/acks.rs"]
mod acks;
#[path = "sim/forget.rs"]
mod forget;
#[path = "sim/meshes.rs"]
mod meshes;
#[path = "sim/network.rs"]
mod network;
#[path = "sim/ops.rs"]
mod ops;
#[path = "sim/plan.rs"]
mod plan;
#[path = "sim/random.rs"]
mod random;
#[path = "sim/rng.rs"]
mod rng;
#[path = "sim/scenarios.rs"]
mod scenarios;
#[path = "sim/state.rs"]
mod state;
#[path = "sim/world.rs"]
mod world;
