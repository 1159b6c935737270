"""Exact token entropies out of vLLM's sampler, for any engine whose worker this module is imported in.

vLLM has no entropy output, and sending the whole distribution costs several times the sampling. But where a
sampler gathers the log-probability of the token it drew, the full log-softmax is at hand. With `logprobs=0`
the only other number that leaves the engine for each token is that token's rank, an int64, which nobody here
needs. So two float32 travel in its bits: in the lower half the entropy at the sampling temperature, in the
upper half that at temperature 1. Log-probabilities, too, become those of the sampling temperature (before
filters), where stock vLLM gives either those of temperature 1 or those after filters.

A request that asks for `logprobs=TRUNCATED` gets, in the place of the log-probabilities of the likeliest
tokens, two numbers of the distribution that its token was drawn from, after filters: see `truncated`.

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
#: What a request's `logprobs` must be to get the numbers of `truncated`; 0 otherwise.
TRUNCATED = 2


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


def truncated(logprobs: torch.Tensor, left: torch.Tensor) -> torch.Tensor:
    """Return float32 [rows, TRUNCATED]: log of the mass that filters leave, and entropy of what they leave.

    Args:
        logprobs: float32 [rows, vocabulary], before filters.
        left: [rows, vocabulary], the logits that are drawn from: -inf for tokens that cannot be drawn.
    """
    # At most 0: rounding gives slightly more where nothing is cut off.
    mass = logprobs.masked_fill(left == -torch.inf, -torch.inf).logsumexp(-1).clamp_max(0)
    return torch.stack([mass, entropies(left.float().log_softmax(-1))], -1)


def scaled(logits: torch.Tensor, temperature: torch.Tensor | None) -> torch.Tensor:
    """Return float32 logits [rows, vocabulary] at temperatures [rows]; greedy rows and None: at 1."""
    logits = logits.float()
    if temperature is None:
        return logits
    return logits / torch.where(temperature < GREEDY, 1.0, temperature)[:, None]


def install(worker: Any) -> str:
    """Make the sampler of a vLLM `worker` return entropies in the place of ranks.

    Requests must ask for `logprobs=0` or `logprobs=TRUNCATED`. The first model runner computes entropies at
    temperature 1 only while a request in its batch has a true "raw_entropies" in `extra_args`; else it
    repeats the others.

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
    forward, draw, gather = sampler.forward, sampler.sample, sampler.gather_logprobs
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

    def sample_left(logits: torch.Tensor, sampling_metadata: Any, *rest: Any, **more: Any) -> Any:
        if not sampling_metadata.max_num_logprobs:
            return draw(logits, sampling_metadata, *rest, **more)
        # Only then does the sampler return the logits that it draws from; without filters they are these.
        filters = sampler.topk_topp_sampler
        before, filters.logprobs_mode = filters.logprobs_mode, "processed_logits"
        try:
            drawn, left = draw(logits, sampling_metadata, *rest, **more)
        finally:
            filters.logprobs_mode = before
        step["left"] = logits if left is None else left
        return drawn, None

    def compute_logprobs(logits: torch.Tensor) -> torch.Tensor:
        return scaled(logits, step.get("temperature")).log_softmax(-1)

    def gather_logprobs(logprobs: torch.Tensor, num_logprobs: int, token_ids: torch.Tensor) -> Any:
        if not step:
            return gather(logprobs, num_logprobs, token_ids)
        # The engine asks for no other tokens than the one drawn. Counting its rank would be thrown away.
        own = entropies(logprobs)
        ranks = pack(own, own if step["raw"] is None else step["raw"])
        drawn, numbers = _columns(logprobs, token_ids, step["left"] if num_logprobs else None)
        return LogprobsTensors(drawn.to(torch.int32), numbers, ranks)

    sampler.forward, sampler.sample = sample, sample_left
    sampler.compute_logprobs, sampler.gather_logprobs = compute_logprobs, gather_logprobs


def _columns(
    logprobs: torch.Tensor, tokens: torch.Tensor, left: torch.Tensor | None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return token ids and numbers, both [rows, 1], or [rows, 1 + TRUNCATED] with the logits drawn from.

    The first number is the log-probability of the row's token.
    """
    own = logprobs.gather(-1, tokens[:, None])
    if left is None:
        return tokens[:, None], own
    return tokens[:, None].expand(-1, 1 + TRUNCATED), torch.cat([own, truncated(logprobs, left)], -1)


def _raw_wanted(runner: Any) -> bool:
    """Return whether a request in the batch asks for entropies at temperature 1."""
    parameters = (runner.requests[name].sampling_params for name in runner.input_batch.req_ids)
    return any(each is not None and (each.extra_args or {}).get("raw_entropies") for each in parameters)


def _install_v2(runner: Any) -> None:
    from vllm.v1.worker.gpu.sample import sampler as module

    compute, draw = module.compute_topk_scores, runner.sampler.sample
    # Of the step in progress: the logits that its tokens were drawn from.
    step: dict[str, torch.Tensor] = {}

    def sample(*values: Any, **more: Any) -> Any:
        drawn, step["left"] = draw(*values, **more)
        return drawn, step["left"]

    def compute_topk_scores(
        logits: torch.Tensor, num_logprobs: int, sampled: torch.Tensor, *rest: Any, **more: Any
    ) -> Any:
        temperature = runner.sampler.sampling_states.temperature.gpu[more["expanded_idx_mapping"]]
        own = scaled(logits, temperature)
        scores = compute(own, 0, sampled, *rest, **more)
        logprobs, left = own.log_softmax(-1), step.pop("left")
        ranks = pack(entropies(logprobs), entropies(logits.float().log_softmax(-1)))
        if num_logprobs:
            tokens, numbers = _columns(logprobs, sampled.long(), left)
            scores = scores._replace(logprob_token_ids=tokens.to(sampled.dtype), logprobs=numbers)
        return scores._replace(selected_token_ranks=ranks)

    runner.sampler.sample, module.compute_topk_scores = sample, compute_topk_scores
