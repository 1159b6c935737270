"""What goes into an engine and what comes out: requests, rollouts, and the checks they must pass.

Engines differ in how they run a model, not in what they are asked: both take a `Request` of token ids and
yield events, each a finished `Rollout` or a `PromptRefused`. All checks are here, so that both engines refuse
the same things in the same words; a bad parameter fails the request, a bad prompt only itself.
"""

import asyncio
import math
from collections.abc import AsyncGenerator, AsyncIterator
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from extra_services.errors import FailedPrecondition, InvalidInput, Overloaded, ServiceError

MAX_SEED = 2**64 - 1


@dataclass(frozen=True)
class Sampling:
    """How tokens are drawn; the defaults leave the model's distribution as it is."""

    max_tokens: int
    #: 0 is greedy decoding.
    temperature: float = 1.0
    top_p: float = 1.0
    #: 0: off.
    top_k: int = 0
    #: Fraction of the likeliest token's probability; 0: off.
    min_p: float = 0.0
    #: Until a sample has as many, nothing stops it.
    min_tokens: int = 0
    #: Beside the model's end-of-sequence ids.
    stop_token_ids: tuple[int, ...] = ()
    stop_strings: tuple[str, ...] = ()


@dataclass(frozen=True)
class Prompt:
    """Token ids to condition on: int32 [length] each; generation continues after the prefix."""

    prompt: NDArray[np.int32]
    prefix: NDArray[np.int32] = field(default_factory=lambda: np.zeros(0, np.int32))
    #: Most new tokens of each of its samples; None: the request's max_tokens.
    max_tokens: int | None = None
    #: What the draws depend on in the place of its index in the request; None: that index.
    seed_index: int | None = None

    @property
    def tokens(self) -> NDArray[np.int32]:
        """int32 [prompt + prefix]."""
        return np.concatenate([self.prompt, self.prefix])


@dataclass(frozen=True)
class Request:
    """n continuations of each prompt. A prompt that could not be made into token ids is its error."""

    prompts: list[Prompt | ServiceError]
    n: int
    sampling: Sampling
    #: None: the engine draws one.
    seed: int | None = None
    #: None: any.
    min_policy_version: int | None = None
    #: Whether each token is an event of its own, too.
    stream_tokens: bool = False
    #: Whether entropies at temperature 1 are computed, too.
    raw_entropies: bool = False

    def seed_index(self, prompt_index: int) -> int:
        """The prompt's part of what its draws depend on."""
        prompt = self.prompts[prompt_index]
        assert isinstance(prompt, Prompt)
        return prompt_index if prompt.seed_index is None else prompt.seed_index


class FinishReason(Enum):
    """Why a sample ended."""

    STOP = "stop"
    LENGTH = "length"
    #: The weights were replaced, and whoever replaced them chose to end what was in flight.
    ABORT = "abort"


class InFlight(Enum):
    """What happens to samples in flight when the weights change; see the proto."""

    WAIT = "wait"
    ABORT = "abort"
    KEEP = "keep"


@dataclass(frozen=True)
class Rollout:
    """One finished sample; arrays are [length] and in step. Seconds as in the proto's GenerationTimings."""

    prompt_index: int
    sample_index: int
    token_ids: NDArray[np.int32]
    logprobs: NDArray[np.float32]
    entropies: NDArray[np.float32]
    finish_reason: FinishReason
    policy_version: int
    prompt_tokens: int
    cached_prompt_tokens: int
    queue_seconds: float
    prefill_seconds: float
    decode_seconds: float
    #: At temperature 1; empty unless asked for.
    raw_entropies: NDArray[np.float32] = field(default_factory=lambda: np.zeros(0, np.float32))
    #: (index of the first token drawn from the new weights, their version) of each change in its middle.
    policy_changes: tuple[tuple[int, int], ...] = ()
    #: The stop string that ended it, if one did.
    stop_string: str | None = None


@dataclass(frozen=True)
class Token:
    """One token of a sample that goes on, or whose rollout follows."""

    prompt_index: int
    sample_index: int
    token_index: int
    token_id: int
    logprob: float
    entropy: float


@dataclass(frozen=True)
class PromptRefused:
    """A prompt that is not served."""

    prompt_index: int
    error: ServiceError


Event = Rollout | PromptRefused | Token


@dataclass(frozen=True)
class Limits:
    """What an engine serves at most."""

    vocab_size: int
    #: Tokens of prompt, prefix and continuation together.
    max_model_len: int
    #: Prompts in one request.
    max_prompts: int
    #: Samples that wait or run at once, over all requests.
    max_queue: int


@dataclass(frozen=True)
class Load:
    """How busy an engine is."""

    #: Samples.
    waiting: int
    running: int
    #: Samples that can run at once.
    slots: int
    #: Tokens whose keys and values the running samples hold, and how many there is memory for; NaN: unknown.
    kv_tokens: int
    kv_limit_tokens: float
    #: NaN: unknown.
    prefix_cache_bytes: float


@dataclass(frozen=True)
class Update:
    """New weights that are now served."""

    policy_version: int
    previous_policy_version: int
    #: Nats, between the engine and a plain forward pass of the delivered tensors.
    probe_max_difference: float
    seconds: float


class Engine(Protocol):
    """What the service needs of an engine."""

    name: str
    version: str
    limits: Limits
    eos_token_ids: list[int]
    #: As much as a delivery of the model's tensors can be at most.
    max_weight_bytes: int

    @property
    def policy_version(self) -> int:
        """Version of the weights served now."""

    def load(self) -> Load:
        """How busy it is, about now; any thread may ask."""

    def generate(self, request: Request) -> AsyncGenerator[list[Event], None]:
        """Events as they happen. Closing the iterator, at any time, ends the request's work."""

    @property
    def last_update(self) -> Update:
        """The update that brought the weights served now."""

    async def update_weights(self, folder: Path, policy_version: int, in_flight: InFlight) -> Update:
        """Serves the weights in `folder`; nothing is done if `policy_version` is served already.

        FailedPrecondition, with the old weights still serving, if they are of another model, incomplete,
        older than those served, or not served as delivered.
        """

    def readiness(self) -> AsyncIterator[bool]:
        """Whether the engine can serve: now, and whenever that changes."""

    async def close(self) -> None:
        """Ends what runs and frees the model."""


def check_request(request: Request, count: int, limits: Limits) -> None:
    """InvalidInput, naming the field as the proto does, unless a request of `count` prompts can be served."""
    if not 1 <= count <= limits.max_prompts:
        raise InvalidInput(
            "prompts", f"{count} prompts; send between 1 and {limits.max_prompts} in a request"
        )
    if request.n < 1:
        raise InvalidInput("n", f"n is {request.n}; ask for at least 1 sample per prompt")
    if count * request.n > limits.max_queue:
        raise InvalidInput(
            "n", f"{count} prompts x {request.n} samples; at most {limits.max_queue} in a request"
        )
    if request.seed is not None and not 0 <= request.seed <= MAX_SEED:
        raise InvalidInput("seed", f"{request.seed} is not in [0, 2^64)")
    _check_sampling(request.sampling, limits)


def _check_sampling(sampling: Sampling, limits: Limits) -> None:
    if not (math.isfinite(sampling.temperature) and sampling.temperature >= 0):
        text = f"{sampling.temperature} is no temperature; use 0 (greedy) or a positive number"
        raise InvalidInput("sampling.temperature", text)
    if not 0 < sampling.top_p <= 1:
        raise InvalidInput("sampling.top_p", f"{sampling.top_p} is not in (0, 1]; use 1 to turn it off")
    if sampling.max_tokens < 1:
        raise InvalidInput("sampling.max_tokens", f"{sampling.max_tokens}; ask for at least 1 token")
    if not 0 <= sampling.min_p < 1:
        raise InvalidInput("sampling.min_p", f"{sampling.min_p} is not in [0, 1); use 0 to turn it off")
    if sampling.min_tokens > sampling.max_tokens:
        text = f"{sampling.min_tokens} is more than max_tokens, {sampling.max_tokens}"
        raise InvalidInput("sampling.min_tokens", text)
    if "" in sampling.stop_strings:
        index = sampling.stop_strings.index("")
        raise InvalidInput(f"sampling.stop_strings[{index}]", "an empty string would stop every sample")
    for index, token in enumerate(sampling.stop_token_ids):
        if not 0 <= token < limits.vocab_size:
            text = f"token id {token} is outside the vocabulary of {limits.vocab_size}"
            raise InvalidInput(f"sampling.stop_token_ids[{index}]", text)


@dataclass(frozen=True)
class Accepted:
    """A prompt that can be served."""

    #: Its place in the request.
    index: int
    #: int32 [prompt + prefix].
    tokens: NDArray[np.int32]
    #: New tokens that each of its samples has at most.
    limit: int


def accept(request: Request, limits: Limits) -> tuple[list[Accepted], list[Event]]:
    """The prompts of `request` that can be served, and a PromptRefused for each of the others."""
    accepted: list[Accepted] = []
    refused: list[Event] = []
    for index, prompt in enumerate(request.prompts):
        try:
            if not isinstance(prompt, Prompt):
                raise prompt
            _check_prompt(prompt, request.sampling, limits)
        except ServiceError as error:
            refused.append(PromptRefused(index, error))
            continue
        tokens = prompt.tokens
        wanted = request.sampling.max_tokens if prompt.max_tokens is None else prompt.max_tokens
        accepted.append(Accepted(index, tokens, min(wanted, limits.max_model_len - len(tokens))))
    return accepted, refused


async def until_complete(
    request: Request, happened: "asyncio.Queue[list[Event] | Exception]"
) -> AsyncGenerator[list[Event], None]:
    """What is put into `happened`, until each sample of `request` has ended; raises the exceptions in it."""
    left = len(request.prompts) * request.n
    while left:
        what = await happened.get()
        if isinstance(what, Exception):
            raise what
        left -= sum(isinstance(event, Rollout) for event in what)
        left -= request.n * sum(isinstance(event, PromptRefused) for event in what)
        yield what


def check_room(queued: int, more: int, limits: Limits) -> None:
    """Overloaded if `more` samples are too many beside the `queued` ones."""
    if queued + more > limits.max_queue:
        text = f"{queued} samples wait; {more} more exceed max_queue, {limits.max_queue}"
        raise Overloaded(text, retry_after_seconds=1.0)


def _check_prompt(prompt: Prompt, sampling: Sampling, limits: Limits) -> None:
    """InvalidInput, naming the field inside the prompt, if this prompt cannot be served."""
    if prompt.max_tokens is not None:
        least = max(1, sampling.min_tokens)
        if not least <= prompt.max_tokens <= sampling.max_tokens:
            text = f"{prompt.max_tokens} is not in [{least}, {sampling.max_tokens}], from the call's sampling"
            raise InvalidInput("max_tokens", text)
    for name, ids in (("token_ids.ids", prompt.prompt), ("prefix_token_ids", prompt.prefix)):
        outside = np.flatnonzero((ids < 0) | (ids >= limits.vocab_size))
        if len(outside):
            text = f"token id {ids[outside[0]]} is outside the vocabulary of {limits.vocab_size}"
            raise InvalidInput(f"{name}[{outside[0]}]", text)
    length = len(prompt.prompt) + len(prompt.prefix)
    if length == 0:
        raise InvalidInput("token_ids", "the prompt is empty; give at least one token")
    if length >= limits.max_model_len:
        text = f"{length} tokens of prompt and prefix leave no room in a window of {limits.max_model_len}"
        raise InvalidInput(
            "token_ids" if len(prompt.prompt) >= limits.max_model_len else "prefix_token_ids", text
        )


def check_version(served: int, wanted: int) -> None:
    """FailedPrecondition unless version `wanted` may follow version `served`."""
    if wanted < served:
        text = f"policy version {wanted} is older than version {served}, which is served; versions only grow"
        raise FailedPrecondition(text)


def check_min_version(served: int, least: int | None) -> None:
    """FailedPrecondition if `served` is older than the least version a caller accepts."""
    if least is not None and served < least:
        raise FailedPrecondition(f"policy version {served} is served, older than {least}, the least wanted")
