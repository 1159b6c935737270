"""The results of a request, as a stream of events: rollouts, single tokens, and errors of prompts."""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from extra_rl.vocabulary import FinishReason
from extra_services.errors import ServiceError


@dataclass(frozen=True)
class Truncated:
    """The distribution that each token was drawn from: filters and min_tokens leave only some tokens.

    Its arrays are float32 [length], or empty.
    """

    #: Mass of the whole distribution on the tokens that are left.
    kept_masses: NDArray[np.float32]
    #: In nats, of the distribution on these tokens.
    logprobs: NDArray[np.float32]
    entropies: NDArray[np.float32]


@dataclass(frozen=True)
class PromptScores:
    """Log-probabilities of the tokens of prompt and prefix but the first, in nats at temperature 1.

    Its arrays are [length of prompt and prefix - 1].
    """

    #: float32, of the token itself.
    logprobs: NDArray[np.float32]
    #: int32: the likeliest token at its place, and float32: the log-probability of that one.
    likeliest_ids: NDArray[np.int32]
    likeliest_logprobs: NDArray[np.float32]


@dataclass(frozen=True)
class Rollout:
    """One finished sample; its arrays are [length]. Seconds are those of the proto's GenerationTimings."""

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
    #: At temperature 1; empty unless requested.
    raw_entropies: NDArray[np.float32] = field(default_factory=lambda: np.zeros(0, np.float32))
    #: (index of the first token drawn from the new weights, their version) of each change during the sample.
    policy_changes: tuple[tuple[int, int], ...] = ()
    #: The stop string that ended it, if one did.
    stop_string: str | None = None
    #: None unless requested.
    truncated: Truncated | None = None
    prompt_scores: PromptScores | None = None


@dataclass(frozen=True)
class SampledToken:
    """One token of a sample whose rollout follows."""

    prompt_index: int
    sample_index: int
    token_index: int
    token_id: int
    logprob: float
    entropy: float


@dataclass(frozen=True)
class PromptError:
    """The error of a prompt that is not served."""

    prompt_index: int
    error: ServiceError


GenerationEvent = Rollout | SampledToken | PromptError
