"""The engine on transformers, for a CPU or one GPU."""
