"""What runs in vLLM's worker processes: exact entropies out of its sampler, new weights into its model.

vLLM has no entropy output, and shipping the distribution costs several times the sampling. But where a
sampler gathers the log-probability of the token it drew, the full log-softmax is at hand; and with
`logprobs=0` the only other number that leaves the engine for each token is that token's rank, an int64, which
nobody here needs. So two float32 travel in its bits: in the lower half the entropy at the sampling
temperature, in the upper half that at temperature 1. Log-probabilities, too, are made those of the sampling
temperature (before filters), where stock vLLM gives either those of temperature 1 or those after filters.

vLLM has two model runners with different samplers; each is changed on the instance, after start-up. Nothing
here is sure to fit another release, so the engine checks the outcome against a plain forward pass before it
serves (`VllmEngine`). This module is named to vLLM as `worker_extension_cls`: `EntropyWorker` becomes a base
class of its worker.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open

#: vLLM draws greedily below this temperature.
GREEDY = 1e-5


def entropies(logprobs: torch.Tensor) -> torch.Tensor:
    """float32 [rows]: entropy in nats of each row of log-probabilities [rows, vocabulary]."""
    # Clamped, since 0 x -inf is NaN.
    return -torch.linalg.vecdot(logprobs.exp(), logprobs.clamp_min(torch.finfo(logprobs.dtype).min))


def pack(at_temperature: torch.Tensor, at_one: torch.Tensor) -> torch.Tensor:
    """int64 [rows] that hold two float32 [rows] in their bits, the first in the lower half."""
    return torch.stack([at_temperature, at_one], -1).float().contiguous().view(torch.int64)[:, 0]


def scaled(logits: torch.Tensor, temperature: torch.Tensor | None) -> torch.Tensor:
    """float32 logits [rows, vocabulary] at the rows' temperatures [rows]; greedy rows and None: at 1."""
    logits = logits.float()
    if temperature is None:
        return logits
    return logits / torch.where(temperature < GREEDY, 1.0, temperature)[:, None]


class EntropyWorker:
    """Methods that the engine calls in each worker; `self` is vLLM's worker."""

    model_runner: Any

    def extra_install_entropy(self) -> str:
        """Makes the sampler return entropies in ranks; which of vLLM's model runners it found."""
        if hasattr(self.model_runner.sampler, "sampling_states"):
            _install_v2(self.model_runner)
            return "v2"
        _install_v1(self.model_runner)
        return "v1"

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


def _install_v1(runner: Any) -> None:
    from vllm.v1.outputs import LogprobsTensors

    sampler = runner.sampler
    forward, gather = sampler.forward, sampler.gather_logprobs
    # Of the step in progress; None outside of one, when prompt log-probabilities pass through the same code.
    step: dict[str, Any] = {}

    def sample(logits: torch.Tensor, sampling_metadata: Any, *rest: Any, **more: Any) -> Any:
        temperature = None if sampling_metadata.all_greedy else sampling_metadata.temperature
        step["temperature"] = temperature
        step["raw"] = None
        if temperature is not None and sampling_metadata.max_num_logprobs is not None and _raw_wanted(runner):
            step["raw"] = entropies(logits.float().log_softmax(-1))
        try:
            return forward(logits, sampling_metadata, *rest, **more)
        finally:
            step.clear()

    def compute_logprobs(logits: torch.Tensor) -> torch.Tensor:
        return scaled(logits, step.get("temperature")).log_softmax(-1)

    def gather_logprobs(logprobs: torch.Tensor, num_logprobs: int, token_ids: torch.Tensor) -> Any:
        if not step:
            return gather(logprobs, num_logprobs, token_ids)
        # The engine asks for no other tokens than the one drawn. Counting its rank would be thrown away.
        own, drawn = entropies(logprobs), token_ids[:, None]
        ranks = pack(own, own if step["raw"] is None else step["raw"])
        return LogprobsTensors(drawn.to(torch.int32), logprobs.gather(-1, drawn), ranks)

    sampler.forward, sampler.compute_logprobs, sampler.gather_logprobs = (
        sample,
        compute_logprobs,
        gather_logprobs,
    )


def _raw_wanted(runner: Any) -> bool:
    """Whether a request in the batch asks for entropies at temperature 1."""
    parameters = (runner.requests[name].sampling_params for name in runner.input_batch.req_ids)
    return any(each is not None and (each.extra_args or {}).get("raw_entropies") for each in parameters)


def _install_v2(runner: Any) -> None:
    from vllm.v1.worker.gpu.sample import sampler as module

    compute = module.compute_topk_scores

    def compute_topk_scores(
        logits: torch.Tensor, num_logprobs: int, sampled: torch.Tensor, *rest: Any, **more: Any
    ) -> Any:
        temperature = runner.sampler.sampling_states.temperature.gpu[more["expanded_idx_mapping"]]
        own = scaled(logits, temperature)
        scores = compute(own, num_logprobs, sampled, *rest, **more)
        raw = entropies(logits.float().log_softmax(-1))
        return scores._replace(selected_token_ranks=pack(entropies(own.log_softmax(-1)), raw))

    module.compute_topk_scores = compute_topk_scores
