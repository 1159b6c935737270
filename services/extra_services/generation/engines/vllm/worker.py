"""Extension of vLLM's workers: exact entropies out of the sampler, new weights into the model.

How the entropies come out is in `extra_rl.vllm_entropy`; the engine checks them against a plain forward pass
before it serves (`VllmEngine`). This module is named to vLLM as `worker_extension_cls`: `EntropyWorker`
becomes a base class of its worker.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open

from extra_rl import vllm_entropy


class EntropyWorker:
    """Methods that the engine calls in each worker; `self` is vLLM's worker."""

    model_runner: Any

    def extra_install_entropy(self) -> str:
        """Makes the sampler return entropies in ranks; which of vLLM's model runners it found."""
        return vllm_entropy.install(self)

    def extra_load_weights(self, folder: str) -> None:
        """Load the safetensors files of `folder` into the running model."""
        model = self.model_runner.model
        self.model_runner.reload_weights(weights_iterator=_tensors(Path(folder)))
        head = getattr(model, "lm_head", None)
        if head is not None and getattr(model.config, "tie_word_embeddings", False):
            # A tied head receives no weights of its own, so vLLM does not pack it again, and would go on
            # computing with the packed copy of the old ones.
            head.quant_method.process_weights_after_loading(head)


def _tensors(folder: Path) -> Iterator[tuple[str, torch.Tensor]]:
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, "pt") as file:
            for name in file.keys():  # noqa: SIM118 - it is no mapping
                yield name, file.get_tensor(name)
