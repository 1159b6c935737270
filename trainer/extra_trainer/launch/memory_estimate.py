"""A rough estimate of a run's GPU memory, to see that it cannot fit before it is started.

With P parameters, N data-parallel workers and bfloat16 training with Adam, a worker holds (ZeRO, arXiv
1910.02054, section 3): weights 2 P bytes (divided by N at stage 3), gradients 2 P (by N from stage 2 on; 4 P
if they are accumulated in float32), optimizer states 12 P (by N from stage 1 on; none if offloaded).
Activations of t tokens in a micro-batch (arXiv 2205.05198, section 4, without stored attention scores, as
flash and sdpa attention compute them): 34 t h bytes a layer, or with gradient checkpointing 2 t h a layer and
34 t h for the one that is computed again; and 10 t V for the logits (bfloat16, float32, and the gradient). A
generation replica holds 2 P bytes and, for each token in its cache, keys and values of every layer. CUDA
contexts, buffers of collectives and fragmentation come on top: 2 to 4 GiB.
"""

import json
import math
import struct
from dataclasses import dataclass
from pathlib import Path

from extra_rl.config_file import ConfigError

#: bfloat16 and float32.
HALF, FULL = 2, 4
#: float32 weights, and Adam's two moments in float32.
OPTIMIZER_BYTES = 12


@dataclass(frozen=True)
class ModelShape:
    """The sizes of a model that the estimate uses."""

    parameters: int
    layers: int
    hidden: int
    vocabulary: int
    kv_heads: int
    head_size: int
    #: Most tokens of a sequence.
    window: int

    @property
    def kv_bytes_per_token(self) -> int:
        """Bytes of one token's keys and values in bfloat16."""
        return 2 * self.layers * self.kv_heads * self.head_size * HALF


@dataclass(frozen=True)
class WorkerMemory:
    """Bytes on the GPU of one policy worker."""

    weights: float
    gradients: float
    optimizer: float
    activations: float
    #: Of the frozen reference model, where it shares the GPU.
    reference: float

    @property
    def total(self) -> float:
        """Sum of all parts."""
        return self.weights + self.gradients + self.optimizer + self.activations + self.reference


def read_shape(folder: Path) -> ModelShape:
    """Return the shape of the model in a Hugging Face folder.

    Raises:
        ConfigError: If the folder cannot be read.
    """
    from transformers import AutoConfig

    try:
        config = AutoConfig.from_pretrained(folder).get_text_config()
    except (OSError, ValueError) as error:
        raise ConfigError(f"model.path: cannot read {folder / 'config.json'}: {error}") from error
    heads = config.num_attention_heads
    return ModelShape(
        parameters=_parameters(folder),
        layers=config.num_hidden_layers,
        hidden=config.hidden_size,
        vocabulary=config.vocab_size,
        kv_heads=getattr(config, "num_key_value_heads", None) or heads,
        head_size=getattr(config, "head_dim", None) or config.hidden_size // heads,
        window=config.max_position_embeddings,
    )


def number_size(float32: bool) -> int:
    """Return the bytes of a number in training: float32, or bfloat16."""
    return FULL if float32 else HALF


def worker_memory(
    shape: ModelShape,
    *,
    workers: int,
    zero_stage: int,
    micro_batch_tokens: int,
    checkpointing: bool,
    float32: bool = False,
    float32_gradients: bool = False,
    offload_optimizer: bool = False,
    with_reference: bool = False,
) -> WorkerMemory:
    """Return the memory of one data-parallel worker, by the formula of this module.

    Args:
        shape: The model.
        workers: Data-parallel workers.
        zero_stage: ZeRO stage, 0 to 3.
        micro_batch_tokens: Tokens of a micro-batch.
        checkpointing: Whether gradient checkpointing is on.
        float32: Whether weights and activations are float32, as on a CPU, and not bfloat16.
        float32_gradients: Whether gradients accumulate in float32.
        offload_optimizer: Whether optimizer states are in host memory.
        with_reference: Whether the reference model shares the GPU.
    """
    parameters, tokens = shape.parameters, micro_batch_tokens
    split = [workers if zero_stage >= stage else 1 for stage in (1, 2, 3)]
    size = number_size(float32)
    layer = 34 * tokens * shape.hidden
    layers = layer + HALF * tokens * shape.hidden * shape.layers if checkpointing else layer * shape.layers
    return WorkerMemory(
        weights=size * parameters / split[2],
        gradients=number_size(float32 or float32_gradients) * parameters / split[1],
        optimizer=0.0 if offload_optimizer else OPTIMIZER_BYTES * parameters / split[0],
        activations=layers * size / HALF + 10 * tokens * shape.vocabulary,
        reference=size * parameters / split[2] if with_reference else 0.0,
    )


def _parameters(folder: Path) -> int:
    """Count the parameters in the headers of the safetensors files; tied ones are stored once."""
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise ConfigError(f"model.path: there are no weights in {folder} (no *.safetensors)")
    total = 0
    for path in files:
        with path.open("rb") as file:
            size = file.read(8)
            try:
                header = json.loads(file.read(struct.unpack("<Q", size)[0]))
            except (struct.error, ValueError, MemoryError) as error:
                raise ConfigError(f"model.path: {path} is no safetensors file") from error
        total += sum(math.prod(entry["shape"]) for name, entry in header.items() if name != "__metadata__")
    return total
