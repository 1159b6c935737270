"""GRPO with ExTra on OpenRLHF, consuming the generation, novelty, prefix and verification services."""
