"""State of a sample in the vLLM engine, from its submission to its rollout.

vLLM finds stop strings in the tokens of its own request. A sample that an update kept enters vLLM again with
its tokens as part of the prompt, so vLLM would miss a string that began before the update. From then on this
module finds them.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from extra_rl import vllm_entropy
from extra_rl.vocabulary import FinishReason, InFlight
from extra_services.errors import Unavailable
from extra_services.generation import stop_strings
from extra_services.generation.requests import GenerationRequest
from extra_services.generation.rollouts import GenerationEvent, Rollout, SampledToken, Truncated


@dataclass
class Sample:
    """One sample. It enters vLLM once, and again after each update that keeps it."""

    request: GenerationRequest
    seed: int
    prompt_index: int
    sample_index: int
    prompt: NDArray[np.int32]
    limit: int
    submitted: float = field(default_factory=time.monotonic)
    tokens: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    #: Two float32 each, see `vllm_entropy.pack`.
    ranks: list[int] = field(default_factory=list)
    #: Two numbers of each token, see `vllm_entropy.truncated`; empty unless requested.
    truncated: list[tuple[float, float]] = field(default_factory=list)
    #: Version of its first token.
    policy_version: int = 0
    #: (token index, version) of each change.
    policy_changes: list[tuple[int, int]] = field(default_factory=list)
    #: Set by an update that takes it out of vLLM.
    interrupted: InFlight | None = None
    cached_tokens: int = 0
    #: When it first entered vLLM, by the monotonic clock.
    entered: float = 0.0
    #: Seconds from then until vLLM scheduled it, and from then until its first token.
    scheduling_seconds: float = 0.0
    prefill_seconds: float = 0.0
    stop_string: str | None = None
    #: Whether stop strings are found here and not by vLLM.
    seeks_stop: bool = False

    def enter(self, policy_version: int) -> None:
        """Record that it enters vLLM, which serves `policy_version`."""
        self.interrupted = None
        self.seeks_stop = bool(self.tokens and self.request.sampling.stop_strings)
        if not self.tokens:
            self.policy_version, self.entered = policy_version, time.monotonic()
        elif policy_version != ([self.policy_version] + [version for _, version in self.policy_changes])[-1]:
            self.policy_changes.append((len(self.tokens), policy_version))

    def add(self, out: Any, decode: Callable[[list[int]], str]) -> None:
        """Append the tokens of a vLLM output, up to a stop string; `decode` converts token ids to text."""
        completion, first = out.outputs[0], len(self.tokens)
        self.tokens += list(completion.token_ids)
        if completion.logprobs is not None:
            self._add_numbers(completion.logprobs)
        self.cached_tokens = max(self.cached_tokens, min(out.num_cached_tokens or 0, len(self.prompt)))
        if isinstance(completion.stop_reason, str):
            self.stop_string = completion.stop_reason
        if out.metrics is not None and not self.prefill_seconds and out.metrics.first_token_ts:
            self.scheduling_seconds = out.metrics.scheduled_ts - out.metrics.queued_ts
            self.prefill_seconds = out.metrics.first_token_ts - out.metrics.scheduled_ts
        if self.seeks_stop:
            self._seek_stop(first, decode)

    def _add_numbers(self, numbers: Any) -> None:
        """Append vLLM's FlatLogprobs: one entry of each token, and two of `truncated` if requested."""
        if not self.request.truncated:
            self.logprobs += numbers.logprobs
            self.ranks += numbers.ranks
            return
        width = 1 + vllm_entropy.TRUNCATED
        self.logprobs += numbers.logprobs[::width]
        self.ranks += numbers.ranks[::width]
        self.truncated += zip(numbers.logprobs[1::width], numbers.logprobs[2::width], strict=True)

    def _seek_stop(self, first: int, decode: Callable[[list[int]], str]) -> None:
        """End the sample with the first token from index `first` on that completes a stop string."""
        sampling = self.request.sampling
        for end in range(max(first + 1, sampling.min_tokens), len(self.tokens) + 1):
            self.stop_string = stop_strings.completed(self.tokens[:end], sampling.stop_strings, decode)
            if self.stop_string is not None:
                del self.tokens[end:], self.logprobs[end:], self.ranks[end:], self.truncated[end:]
                return

    def finish_reason(self, completion: Any) -> FinishReason | None:
        """Return the reason of its end, or None if an update interrupted it and it continues.

        Raises:
            Unavailable: vLLM ended it without a reason.
        """
        if self.stop_string is not None or completion.finish_reason == "stop":
            return FinishReason.STOP
        if completion.finish_reason == "length":
            return FinishReason.LENGTH
        if self.interrupted is None:
            raise Unavailable("vLLM aborted the sample; try again")
        if self.interrupted is InFlight.ABORT and self.tokens:
            return FinishReason.ABORT
        return None

    def new_tokens(self, first: int) -> list[GenerationEvent]:
        """The tokens from index `first` on, as events."""
        entropies = vllm_entropy.unpack(self.ranks[first:])[:, 0].tolist()
        new = zip(self.tokens[first:], self.logprobs[first:], entropies, strict=True)
        return [
            SampledToken(self.prompt_index, self.sample_index, first + index, token, logprob, entropy)
            for index, (token, logprob, entropy) in enumerate(new)
        ]

    def rollout(self, reason: FinishReason) -> Rollout:
        """The ended sample."""
        entropies = vllm_entropy.unpack(self.ranks)
        queued = self.entered - self.submitted + self.scheduling_seconds
        decoding = time.monotonic() - self.submitted - queued - self.prefill_seconds
        return Rollout(
            prompt_index=self.prompt_index,
            sample_index=self.sample_index,
            token_ids=np.array(self.tokens, np.int32),
            logprobs=np.array(self.logprobs, np.float32),
            entropies=entropies[:, 0].copy(),
            finish_reason=reason,
            policy_version=self.policy_version,
            prompt_tokens=len(self.prompt),
            cached_prompt_tokens=self.cached_tokens,
            queue_seconds=queued,
            prefill_seconds=self.prefill_seconds,
            decode_seconds=max(0.0, decoding),
            raw_entropies=entropies[:, 1].copy() if self.request.raw_entropies else np.zeros(0, np.float32),
            policy_changes=tuple(self.policy_changes),
            stop_string=self.stop_string,
            truncated=self._truncated() if self.request.truncated else None,
        )

    def _truncated(self) -> Truncated:
        masses, entropies = np.array(self.truncated, np.float32).reshape(-1, vllm_entropy.TRUNCATED).T
        return Truncated(np.exp(masses), np.array(self.logprobs, np.float32) - masses, entropies.copy())
