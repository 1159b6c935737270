"""Requests for rollouts, and the checks that they must pass.

Both engines take a `GenerationRequest` of token ids and use the checks of this module, so that both refuse
the same requests with the same messages. A bad parameter fails the whole request, a bad prompt only itself.
"""

import math
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from extra_rl.tokens import LEAST_TEMPERATURE
from extra_services.errors import FailedPrecondition, InvalidInput, Overloaded, ServiceError
from extra_services.generation.rollouts import GenerationEvent, PromptError

MAX_SEED = 2**64 - 1


@dataclass(frozen=True)
class SamplingParameters:
    """Parameters of the draws; the defaults leave the model's distribution unchanged."""

    max_tokens: int
    #: At least `LEAST_TEMPERATURE`, or 0: greedy decoding.
    temperature: float = 1.0
    top_p: float = 1.0
    #: 0: off.
    top_k: int = 0
    #: Fraction of the most likely token's probability; 0: off.
    min_p: float = 0.0
    #: Nothing stops a sample that has fewer tokens.
    min_tokens: int = 0
    #: In addition to the model's end-of-sequence ids.
    stop_token_ids: tuple[int, ...] = ()
    stop_strings: tuple[str, ...] = ()


@dataclass(frozen=True)
class Prompt:
    """Token ids to condition on, int32 [length] each; generation continues after the prefix."""

    prompt: NDArray[np.int32]
    prefix: NDArray[np.int32] = field(default_factory=lambda: np.zeros(0, np.int32))
    #: Most new tokens of each of its samples; None: the request's max_tokens.
    max_tokens: int | None = None
    #: Replaces the prompt's index in the request in the seed of its draws; None: that index.
    seed_index: int | None = None

    @property
    def tokens(self) -> NDArray[np.int32]:
        """int32 [prompt + prefix]."""
        return np.concatenate([self.prompt, self.prefix])


@dataclass(frozen=True)
class GenerationRequest:
    """A request for n continuations of each prompt."""

    #: A prompt without token ids is the error that explains it.
    prompts: list[Prompt | ServiceError]
    n: int
    sampling: SamplingParameters
    #: None: the engine draws one.
    seed: int | None = None
    #: None: any.
    min_policy_version: int | None = None
    #: Whether each token is also an event of its own.
    stream_tokens: bool = False
    #: Whether entropies at temperature 1 are computed too.
    raw_entropies: bool = False
    #: Whether the numbers of `rollouts.Truncated` are computed too.
    truncated: bool = False
    #: Whether `rollouts.PromptScores` are computed too.
    prompt_scores: bool = False

    def seed_index(self, prompt_index: int) -> int:
        """Return the prompt's part of the seed of its draws."""
        prompt = self.prompts[prompt_index]
        assert isinstance(prompt, Prompt)
        return prompt_index if prompt.seed_index is None else prompt.seed_index


@dataclass(frozen=True)
class EngineLimits:
    """Limits of an engine's requests."""

    vocab_size: int
    #: Tokens of prompt, prefix and continuation together.
    max_model_len: int
    #: Prompts in one request.
    max_prompts: int
    #: Samples that wait or run at once, over all requests.
    max_queue: int


@dataclass(frozen=True)
class AcceptedPrompt:
    """A prompt that passed the checks."""

    #: Its place in the request.
    index: int
    #: int32 [prompt + prefix].
    tokens: NDArray[np.int32]
    #: Most new tokens of each of its samples.
    limit: int


def check_request(request: GenerationRequest, count: int, limits: EngineLimits) -> None:
    """Check the parameters of a request.

    Args:
        request: Its prompts are not looked at.
        count: Number of its prompts.
        limits: Limits of the engine.

    Raises:
        InvalidInput: With the field's name in the proto.
    """
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


def accept(
    request: GenerationRequest, limits: EngineLimits
) -> tuple[list[AcceptedPrompt], list[GenerationEvent]]:
    """Check the prompts of `request`.

    Returns:
        The prompts that pass, and a PromptError for each of the others.
    """
    accepted: list[AcceptedPrompt] = []
    refused: list[GenerationEvent] = []
    for index, prompt in enumerate(request.prompts):
        try:
            if not isinstance(prompt, Prompt):
                raise prompt
            _check_prompt(prompt, request.sampling, limits)
        except ServiceError as error:
            refused.append(PromptError(index, error))
            continue
        tokens = prompt.tokens
        wanted = request.sampling.max_tokens if prompt.max_tokens is None else prompt.max_tokens
        accepted.append(AcceptedPrompt(index, tokens, min(wanted, limits.max_model_len - len(tokens))))
    return accepted, refused


def check_room(queued: int, more: int, limits: EngineLimits) -> None:
    """Check that `more` samples may wait beside the `queued` ones.

    Raises:
        Overloaded: The queue is full.
    """
    if queued + more > limits.max_queue:
        text = f"{queued} samples wait; {more} more exceed max_queue, {limits.max_queue}"
        raise Overloaded(text, retry_after_seconds=1.0)


def check_min_version(served: int, least: int | None) -> None:
    """Check the policy version against the least version that a caller accepts.

    Raises:
        FailedPrecondition: The version served is older.
    """
    if least is not None and served < least:
        text = f"policy version {served} is served, older than {least}, the least version requested"
        raise FailedPrecondition(text)


def _check_sampling(sampling: SamplingParameters, limits: EngineLimits) -> None:
    # The wire has float32, which may be a little less than what the caller wrote.
    least = float(np.float32(LEAST_TEMPERATURE))
    if sampling.temperature != 0 and not least <= sampling.temperature < math.inf:
        text = f"{sampling.temperature} is no temperature; use 0 (greedy), or at least {LEAST_TEMPERATURE}"
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


def _check_prompt(prompt: Prompt, sampling: SamplingParameters, limits: EngineLimits) -> None:
    """Raise InvalidInput, with the field's name inside the prompt, if the prompt cannot be served."""
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
