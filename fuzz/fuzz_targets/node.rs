//! libFuzzer's way into `tests/fuzz/node.rs`.
#![no_main]

use libfuzzer_sys::fuzz_target;

#[path = "../../tests/fuzz/mod.rs"]
mod entries;

fuzz_target!(|data: &[u8]| entries::node::run(data));
