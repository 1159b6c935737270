"""Benchmarks, each run by `extra-rl bench NAME --json`: ratios measured side by side in one run."""
