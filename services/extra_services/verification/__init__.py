"""Verification: decide whether the final answer of a response equals the reference answer."""
