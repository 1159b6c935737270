"""The engine for GPUs and clusters, on vLLM."""
