"""Measuring a policy: pass@k, and whether prefixes rescue hard prompts."""
