"""What the vLLM engine keeps of a sample, from its submission to its end, and the rollout it becomes.

vLLM looks for stop strings in what it has drawn itself. A sample that an update kept goes in again with its
tokens as part of the prompt, and a string begun before the update would be missed: from then on they are
looked for here.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from extra_rl import vllm_entropy
from extra_services.errors import Unavailable
from extra_services.generation import stop_strings
from extra_services.generation.rollouts import Event, FinishReason, InFlight, Request, Rollout, Token


@dataclass
class Sample:
    """One sample. It goes into vLLM once, and again after each update that keeps it."""

    request: Request
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
    #: Of its first token, then (index, version) of each change.
    policy_version: int = 0
    policy_changes: list[tuple[int, int]] = field(default_factory=list)
    #: Set by an update that takes it out of vLLM.
    interrupted: InFlight | None = None
    cached_tokens: int = 0
    #: When it first went into vLLM, and the seconds until it was scheduled there and had its first token.
    entered: float = 0.0
    scheduling_seconds: float = 0.0
    prefill_seconds: float = 0.0
    stop_string: str | None = None
    #: Whether stop strings are looked for here and not by vLLM.
    seeks_stop: bool = False

    def enter(self, policy_version: int) -> None:
        """It goes into vLLM, which serves `policy_version`."""
        self.interrupted = None
        self.seeks_stop = bool(self.tokens and self.request.sampling.stop_strings)
        if not self.tokens:
            self.policy_version, self.entered = policy_version, time.monotonic()
        elif policy_version != ([self.policy_version] + [version for _, version in self.policy_changes])[-1]:
            self.policy_changes.append((len(self.tokens), policy_version))

    def add(self, out: Any, decode: Callable[[list[int]], str]) -> None:
        """Appends what a vLLM output brings, up to a stop string; `decode` makes text of token ids."""
        completion, first = out.outputs[0], len(self.tokens)
        self.tokens += list(completion.token_ids)
        if completion.logprobs is not None:
            self.logprobs += completion.logprobs.logprobs
            self.ranks += completion.logprobs.ranks
        self.cached_tokens = max(self.cached_tokens, min(out.num_cached_tokens or 0, len(self.prompt)))
        if isinstance(completion.stop_reason, str):
            self.stop_string = completion.stop_reason
        if out.metrics is not None and not self.prefill_seconds and out.metrics.first_token_ts:
            self.scheduling_seconds = out.metrics.scheduled_ts - out.metrics.queued_ts
            self.prefill_seconds = out.metrics.first_token_ts - out.metrics.scheduled_ts
        if self.seeks_stop:
            self._seek_stop(first, decode)

    def _seek_stop(self, first: int, decode: Callable[[list[int]], str]) -> None:
        """Ends the sample with the token, from index `first` on, that completes a stop string."""
        sampling = self.request.sampling
        for end in range(max(first + 1, sampling.min_tokens), len(self.tokens) + 1):
            self.stop_string = stop_strings.completed(self.tokens[:end], sampling.stop_strings, decode)
            if self.stop_string is not None:
                del self.tokens[end:], self.logprobs[end:], self.ranks[end:]
                return

    def finish_reason(self, completion: Any) -> FinishReason | None:
        """Why it ended; None if an update interrupted it and it goes on."""
        if self.stop_string is not None or completion.finish_reason == "stop":
            return FinishReason.STOP
        if completion.finish_reason == "length":
            return FinishReason.LENGTH
        if self.interrupted is None:
            raise Unavailable("the engine gave the sample up; try again")
        if self.interrupted is InFlight.ABORT and self.tokens:
            return FinishReason.ABORT
        return None

    def new_tokens(self, first: int) -> list[Event]:
        """The tokens from index `first` on, as events."""
        entropies = vllm_entropy.unpack(self.ranks[first:])[:, 0].tolist()
        new = zip(self.tokens[first:], self.logprobs[first:], entropies, strict=True)
        return [
            Token(self.prompt_index, self.sample_index, first + index, token, logprob, entropy)
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
        )
