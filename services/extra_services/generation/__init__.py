"""Generation: rollouts with exact entropies, and weights that are replaced while serving."""
