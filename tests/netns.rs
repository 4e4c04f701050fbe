//! Real processes in network namespaces: packets that are lost, late and cut, nodes that stop.
//!
//! Every test makes its own namespaces and removes them (`netns/lab.rs`), needs root and iproute2,
//! and is loudly skipped without them. What is asserted is what clients see: nodes are equal in the
//! end, and what was promised is there. Times are printed, never asserted.

#[path = "netns/chaos.rs"]
mod chaos;
mod common;
#[path = "netns/compare.rs"]
mod compare;
#[path = "netns/disk.rs"]
mod disk;
#[path = "netns/lab.rs"]
mod lab;
#[path = "netns/load.rs"]
mod load;
#[path = "netns/mesh.rs"]
mod mesh;
#[path = "netns/pair.rs"]
mod pair;
#[path = "netns/promise.rs"]
mod promise;
#[path = "wire/rng.rs"]
mod rng;
#[path = "netns/start.rs"]
mod start;
