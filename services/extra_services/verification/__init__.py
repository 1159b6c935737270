"""Decides whether a response's final answer equals the reference answer, and never hangs or lies about it."""
