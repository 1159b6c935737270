"""Rollouts: several generation services as one, verification, and services that are restarted."""
