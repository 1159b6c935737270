"""The engine on vLLM, for GPUs and clusters."""
