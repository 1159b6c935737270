"""Settings of the generation server."""

from pathlib import Path
from typing import ClassVar, Literal

from pydantic import Field

from extra_services.runtime.settings import ServerSettings


class GenerationSettings(ServerSettings):
    """What the generation server can be told."""

    section: ClassVar[str] = "generation"

    port: int = Field(50051, ge=0, le=65535, description="Port to listen on; 0 takes a free one.")
    model: Path = Field(description="Folder with a Hugging Face causal language model and its tokenizer.")
    weights_root: Path | None = Field(
        None, description="Folder under which UpdateWeights may read; without it, weights stay as they are."
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
        description="Memory for those of computed prompts, kept for later requests; 0: none are kept.",
    )
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        "auto", description="Number format of the model; auto: float32 on a CPU, as saved on a GPU."
    )
    device: str = Field("auto", description="Device of the model; auto: cuda where there is one, else cpu.")
    threads: int = Field(0, ge=0, description="CPU threads of the engine; 0 takes torch's default.")
    seed: int | None = Field(
        None,
        ge=0,
        description="Seeds of requests that bring none are drawn from it; default: from the system.",
    )
