"""Exact token entropies out of vLLM's sampler, for any engine whose worker this module is imported in.

vLLM has no entropy output, and sending the whole distribution costs several times the sampling. But where a
sampler gathers the log-probability of the token it drew, the full log-softmax is at hand. With `logprobs=0`
the only other number that leaves the engine for each token is that token's rank, an int64, which nobody here
needs. So two float32 travel in its bits: in the lower half the entropy at the sampling temperature, in the
upper half that at temperature 1. Log-probabilities, too, become those of the sampling temperature (before
filters), where stock vLLM gives either those of temperature 1 or those after filters.

vLLM has two model runners with different samplers; `install` changes the sampler of one worker, after
start-up. It may not fit another release of vLLM, so check its numbers against a plain forward pass, as the
generation service does before it serves. Imports torch: import this module late, where an engine runs.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

#: vLLM draws greedily below this temperature.
GREEDY = 1e-5


def entropies(logprobs: torch.Tensor) -> torch.Tensor:
    """Return float32 [rows]: entropy in nats of each row of log-probabilities [rows, vocabulary]."""
    # Clamped, since 0 x -inf is NaN.
    return -torch.linalg.vecdot(logprobs.exp(), logprobs.clamp_min(torch.finfo(logprobs.dtype).min))


def pack(at_temperature: torch.Tensor, at_one: torch.Tensor) -> torch.Tensor:
    """Return int64 [rows] that hold two float32 [rows] in their bits, the first in the lower half."""
    return torch.stack([at_temperature, at_one], -1).float().contiguous().view(torch.int64)[:, 0]


def unpack(ranks: Sequence[int]) -> NDArray[np.float32]:
    """Return float32 [length, 2]: the entropies in `ranks`, first those at the sampling temperature."""
    return np.array(ranks, "<i8").view("<f4").reshape(-1, 2)


def scaled(logits: torch.Tensor, temperature: torch.Tensor | None) -> torch.Tensor:
    """Return float32 logits [rows, vocabulary] at temperatures [rows]; greedy rows and None: at 1."""
    logits = logits.float()
    if temperature is None:
        return logits
    return logits / torch.where(temperature < GREEDY, 1.0, temperature)[:, None]


def install(worker: Any) -> str:
    """Make the sampler of a vLLM `worker` return entropies in the place of ranks.

    Requests must ask for `logprobs=0`. The first model runner computes entropies at temperature 1 only while
    a request in its batch has a true "raw_entropies" in `extra_args`; else it repeats the others.

    Returns:
        The model runner that was found: "v1" or "v2".
    """
    if hasattr(worker.model_runner.sampler, "sampling_states"):
        _install_v2(worker.model_runner)
        return "v2"
    _install_v1(worker.model_runner)
    return "v1"


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
    """Return whether a request in the batch asks for entropies at temperature 1."""
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
