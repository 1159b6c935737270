"""Options of the vLLM engine, and their translation into those of vLLM."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class VllmOptions:
    """Options of the engine; settings.py explains them."""

    model: Path
    max_batch: int = 128
    max_prompts: int = 1024
    max_queue: int = 16384
    #: None: vLLM decides, as for all options that are None.
    max_model_len: int | None = None
    #: "auto", "float32", "bfloat16" or "float16".
    dtype: str = "auto"
    kv_cache_bytes: int = 4 * 2**30
    gpu_memory_utilization: float = 0.9
    tensor_parallel_size: int = 1
    data_parallel_size: int = 1
    compiled: bool = False
    seed: int | None = None
    policy_version: int = 0


def set_environment() -> None:
    """Set the variables that vLLM reads when it is imported, unless they are set already."""
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "WARNING")
    os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
    os.environ.setdefault("HF_HUB_OFFLINE", "1")


def engine_arguments(options: VllmOptions) -> dict[str, Any]:
    """Return the arguments of vLLM's AsyncEngineArgs."""
    from vllm.platforms import current_platform

    on_cpu = current_platform.is_cpu()
    memory = {"kv_cache_memory_bytes": options.kv_cache_bytes}
    return {
        "model": str(options.model),
        "dtype": "float32" if options.dtype == "auto" and on_cpu else options.dtype,
        "max_model_len": options.max_model_len,
        "max_num_seqs": options.max_batch,
        "tensor_parallel_size": options.tensor_parallel_size,
        "data_parallel_size": options.data_parallel_size,
        "enforce_eager": not options.compiled,
        "enable_prefix_caching": True,
        "load_format": "safetensors",
        "worker_extension_cls": "extra_services.generation.engines.vllm.worker.EntropyWorker",
        "seed": options.seed if options.seed is not None else 0,
        **(memory if on_cpu else {"gpu_memory_utilization": options.gpu_memory_utilization}),
    }
