"""Benchmarks: `extra-rl bench NAME --json` prints ratios of values measured in turn, in one run."""
