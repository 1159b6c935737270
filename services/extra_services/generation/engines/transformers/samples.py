"""What the transformers engine keeps of its requests: tickets, groups that wait for rows, samples in rows."""

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from extra_services.generation import stop_strings
from extra_services.generation.engines.transformers.rows import Computed
from extra_services.generation.rollouts import Event, FinishReason, Request, Rollout, Token
from extra_services.runtime import logs

#: Called in the engine's thread with what happened; an exception is the end of the request.
Deliver = Callable[[list[Event] | Exception], None]


class Ticket:
    """A submitted request, as its caller holds it."""

    def __init__(self, request: Request, seed: int, deliver: Deliver) -> None:
        self.request = request
        self.seed = seed
        self.deliver = deliver
        self.submitted = time.monotonic()
        #: Of the call that submits it.
        self.request_id = logs.request_id()
        self.cancelled = False

    def cancel(self) -> None:
        """The engine drops what is left of it before its next step."""
        self.cancelled = True


@dataclass
class Group:
    """One distinct prompt + prefix of a request, with the samples of it that have no row yet."""

    ticket: Ticket
    tokens: NDArray[np.int32]
    #: (prompt_index, sample_index) of each.
    waiting: deque[tuple[int, int]]
    #: Tokens a sample of it may have at most.
    limit: int
    computed: Computed | None = None
    cached_tokens: int = 0
    prefill_seconds: float = 0.0


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
    tokens: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    entropies: list[float] = field(default_factory=list)
    raw_entropies: list[float] = field(default_factory=list)
    policy_changes: list[tuple[int, int]] = field(default_factory=list)
    stop_string: str | None = None
    #: None while it goes on.
    ended: FinishReason | None = None

    @property
    def written(self) -> NDArray[np.int32]:
        """int32 [length]: the tokens whose keys and values are in its row: all but the last."""
        return np.concatenate([self.prompt, np.array(self.tokens[:-1], np.int32)])

    @property
    def may_stop(self) -> bool:
        """Whether the next token may be its last."""
        return len(self.tokens) + 1 >= self.ticket.request.sampling.min_tokens

    def add(
        self,
        token: int,
        logprob: float,
        entropy: float,
        raw_entropy: float,
        decode: Callable[[list[int]], str],
    ) -> None:
        """Appends a token, and ends the sample if that was the last."""
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

    def last_token(self) -> Token:
        """The token just added, as an event."""
        return Token(
            self.prompt_index,
            self.sample_index,
            len(self.tokens) - 1,
            self.tokens[-1],
            self.logprobs[-1],
            self.entropies[-1],
        )

    def rollout(self, now: float) -> Rollout:
        """The ended sample."""
        assert self.ended is not None
        raw = self.raw_entropies if self.ticket.request.raw_entropies else []
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
        )
