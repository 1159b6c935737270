"""The number format of the policy in training: float32 without a GPU, which OpenRLHF's flags cannot say.

The machine chooses it unless the config does. So a run records it (`recorded`), and a resumed run keeps that
of the run (`kept`): weights of one format are never trained on in another because of the machine.
"""

from typing import Any

from extra_rl.config_file import ConfigError
from extra_trainer.config import Config

#: A number format that OpenRLHF lacks, for workers without a GPU.
FLOAT32 = "fp32"
#: The flag whose value it is, in the config's `openrlhf` section.
FLAG = "ds.param_dtype"
#: Runs of releases that did not record it.
_UNRECORDED = "bf16"


def number_format(config: Config) -> str:
    """Return the number format of the policy in training: "bf16", "fp16" or FLOAT32.

    It is FLOAT32 without a GPU unless the config's `openrlhf` section says otherwise: most CPUs have no
    instructions for bfloat16, and torch then takes 17 times as long for a product of small matrices.

    Raises:
        ConfigError: If the config wants FLOAT32 on GPUs, where it is not applied.
    """
    chosen = config.openrlhf.get(FLAG)
    if chosen not in (None, FLOAT32):
        return str(chosen)
    if not on_gpus(config):
        return FLOAT32
    if chosen == FLOAT32:
        raise ConfigError(f"{FLAG}: {FLOAT32} is for machines without a GPU: choose bf16 or fp16")
    return "bf16"


def recorded(config: Config) -> dict[str, Any]:
    """Return the content of a config with the number format, which the machine may have chosen."""
    content = config.model_dump(mode="json")
    return content | {"openrlhf": {**content["openrlhf"], FLAG: number_format(config)}}


def kept(config: Config, run: Config) -> Config:
    """Return a config that trains in the number format of a run, unless it has chosen one itself.

    Args:
        config: The config to resume the run with.
        run: The config that the run has recorded.

    Returns:
        `config` with the run's number format.
    """
    openrlhf = {FLAG: run.openrlhf.get(FLAG, _UNRECORDED), **config.openrlhf}
    return config.model_copy(update={"openrlhf": openrlhf})


def on_gpus(config: Config) -> bool:
    """Return whether the workers of a run may have GPUs."""
    import torch

    # With an address the workers run on other machines, which may have the GPUs that this one lacks.
    return config.ray.address is not None or torch.cuda.is_available()
