"""ExTra around a step: novelty, prefixes, advantages. Knows no OpenRLHF and no torch."""
