# What is too long to type. Everything else is plain cargo.

SEEDS ?= 20000
FROM ?= 0

.PHONY: sim

# Simulated clusters from SEEDS seeds for each size and kind, from FROM on; see HACKING.md.
sim:
	SEEDS=$(SEEDS) FROM=$(FROM) CARGO_PROFILE_RELEASE_LTO=off CARGO_PROFILE_RELEASE_CODEGEN_UNITS=16 \
	CARGO_PROFILE_RELEASE_DEBUG_ASSERTIONS=true \
	cargo test --release --target-dir target/sim --test sim
