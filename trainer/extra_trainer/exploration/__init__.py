"""Novelty, prefixes and advantages of a training step. Uses neither OpenRLHF nor torch."""
