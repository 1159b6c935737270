"""State of the requests in the transformers engine: tickets, groups that wait for rows, samples in rows."""

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from extra_rl.vocabulary import FinishReason
from extra_services.generation import stop_strings
from extra_services.generation.engines.transformers.rows import ComputedSequence
from extra_services.generation.requests import GenerationRequest
from extra_services.generation.rollouts import (
    GenerationEvent,
    PromptScores,
    Rollout,
    SampledToken,
    Truncated,
)
from extra_services.runtime import logs

#: Called in the engine's thread with events; an exception ends the request.
Deliver = Callable[[list[GenerationEvent] | Exception], None]


class Ticket:
    """A submitted request: the engine works on it until it is complete or cancelled."""

    def __init__(self, request: GenerationRequest, seed: int, deliver: Deliver) -> None:
        self.request = request
        self.seed = seed
        self.deliver = deliver
        self.submitted = time.monotonic()
        #: Id of the call that submits it.
        self.request_id = logs.request_id()
        self.cancelled = False

    def cancel(self) -> None:
        """Have the engine drop the request before its next step."""
        self.cancelled = True


@dataclass
class PromptGroup:
    """One distinct prompt + prefix of a request, and its samples that have no row yet."""

    ticket: Ticket
    tokens: NDArray[np.int32]
    #: (prompt_index, sample_index) of each.
    waiting: deque[tuple[int, int]]
    #: Most new tokens of each of its samples.
    limit: int
    computed: ComputedSequence | None = None
    cached_tokens: int = 0
    prefill_seconds: float = 0.0
    #: None unless requested.
    scores: PromptScores | None = None


@dataclass
class Sample:
    """One row of the batch."""

    ticket: Ticket
    prompt_index: int
    sample_index: int
    prompt: NDArray[np.int32]
    limit: int
    stop_ids: frozenset[int]
    #: int32 [limit, 2], see `sampling.noise_keys`.
    keys: NDArray[np.int32]
    policy_version: int
    cached_tokens: int
    queue_seconds: float
    prefill_seconds: float
    joined: float
    prompt_scores: PromptScores | None = None
    tokens: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    entropies: list[float] = field(default_factory=list)
    raw_entropies: list[float] = field(default_factory=list)
    #: Three numbers of each token, see `Drawn.truncated`; empty unless requested.
    truncated: list[list[float]] = field(default_factory=list)
    policy_changes: list[tuple[int, int]] = field(default_factory=list)
    stop_string: str | None = None
    #: None until it ends.
    ended: FinishReason | None = None

    @property
    def written(self) -> NDArray[np.int32]:
        """int32 [length]: the tokens whose keys and values are in its row, which are all but the last."""
        return np.concatenate([self.prompt, np.array(self.tokens[:-1], np.int32)])

    @property
    def may_stop(self) -> bool:
        """Return whether the next token may be its last."""
        return len(self.tokens) + 1 >= self.ticket.request.sampling.min_tokens

    def add(
        self,
        token: int,
        logprob: float,
        entropy: float,
        raw_entropy: float,
        decode: Callable[[list[int]], str],
    ) -> None:
        """Append a token, and end the sample if it is the last; `decode` converts token ids to text."""
        could_stop = self.may_stop
        self.tokens.append(token)
        self.logprobs.append(logprob)
        self.entropies.append(entropy)
        self.raw_entropies.append(raw_entropy)
        if token in self.stop_ids:
            self.ended = FinishReason.STOP
            return
        strings = self.ticket.request.sampling.stop_strings
        if could_stop and strings:
            self.stop_string = stop_strings.completed(self.tokens, strings, decode)
        if self.stop_string is not None:
            self.ended = FinishReason.STOP
        elif len(self.tokens) >= self.limit:
            self.ended = FinishReason.LENGTH

    def last_token(self) -> SampledToken:
        """Return the last token as an event."""
        return SampledToken(
            self.prompt_index,
            self.sample_index,
            len(self.tokens) - 1,
            self.tokens[-1],
            self.logprobs[-1],
            self.entropies[-1],
        )

    def rollout(self, now: float) -> Rollout:
        """Return the ended sample; `now` is the time of its end by the monotonic clock."""
        assert self.ended is not None
        raw = self.raw_entropies if self.ticket.request.raw_entropies else []
        truncated = None
        if self.ticket.request.truncated:
            truncated = Truncated(*np.array(self.truncated, np.float32).reshape(-1, 3).T.copy())
        return Rollout(
            prompt_index=self.prompt_index,
            sample_index=self.sample_index,
            token_ids=np.array(self.tokens, np.int32),
            logprobs=np.array(self.logprobs, np.float32),
            entropies=np.array(self.entropies, np.float32),
            finish_reason=self.ended,
            policy_version=self.policy_version,
            prompt_tokens=len(self.prompt),
            cached_prompt_tokens=self.cached_tokens,
            queue_seconds=self.queue_seconds,
            prefill_seconds=self.prefill_seconds,
            decode_seconds=now - self.joined,
            raw_entropies=np.array(raw, np.float32),
            policy_changes=tuple(self.policy_changes),
            stop_string=self.stop_string,
            truncated=truncated,
            prompt_scores=self.prompt_scores,
        )
