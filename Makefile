# What is too long to type. Everything else is plain cargo.

SEEDS ?= 20000
FROM ?= 0

.PHONY: sim

# Simulated clusters from SEEDS seeds for each size and kind, from FROM on; see HACKING.md.
sim:
	SEEDS=$(SEEDS) FROM=$(FROM) cargo test --profile sim --test sim -- --nocapture
