"""The pure core: no I/O, no clock, no randomness; pass `now`, `rng` and bytes."""
