"""What is asked of the novelty domain and what it answers, as plain data."""

from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from extra_services.errors import InvalidInput

Vectors = NDArray[np.float32]

Metric = Literal["embedding", "ngram_count", "policy_surprise", "mean_cosine", "cluster_size"]
Mode = Literal["score_and_remember", "score_only", "remember_only"]
Scale = Literal["raw", "group_max", "running_mean"]

#: Metrics that compare vectors, and remember solutions.
VECTOR_METRICS: tuple[Metric, ...] = ("embedding", "mean_cosine", "cluster_size")


@dataclass(frozen=True)
class Limits:
    """What a request may hold."""

    rollouts_per_request: int = 16384
    text_characters: int = 1_000_000
    tokens_per_rollout: int = 1_000_000
    dimension: int = 8192


@dataclass(frozen=True)
class Options:
    """How to score; see the fields of the same names of ScoreGroupsRequest."""

    metric: Metric = "embedding"
    mode: Mode = "score_and_remember"
    scale: Scale = "raw"
    explain: bool = False
    track_reward_variance: bool = False
    vendi: bool = False

    @property
    def scores(self) -> bool:
        """Whether novelty is asked for."""
        return self.mode != "remember_only"

    @property
    def remembers(self) -> bool:
        """Whether anything is to be stored."""
        return self.mode != "score_only"


@dataclass(frozen=True)
class RolloutGroup:
    """The n rollouts of one prompt: bool [n], and what the metric needs of them.

    Metrics on embeddings need n texts or float32 [n, dimension] embeddings, ngram_count n times int32
    [length] token ids, policy_surprise float32 [n] log-probabilities of the responses in nats.
    """

    prompt_id: str
    correct: NDArray[np.bool_]
    texts: list[str] | None = None
    embeddings: Vectors | None = None
    token_ids: list[NDArray[np.int32]] | None = None
    sequence_logprobs: NDArray[np.float32] | None = None


@dataclass(frozen=True)
class Nearest:
    """What a rollout is most similar to: a stored solution, by sequence number, or a sibling, by index."""

    kind: Literal["solution", "sibling"]
    number: int
    excerpt: str
    similarity: float


@dataclass(frozen=True)
class GroupScores:
    """Novelty of a group's rollouts, float32 [n], and the size of the prompt's memory before and after.

    What was not asked for is empty or None. `divisor` is what the novelties were divided by.
    """

    novelty: Vectors
    memory_before: int
    memory_after: int
    nearest: list[Nearest | None] = field(default_factory=list)
    reward_variance: float | None = None
    vendi: float | None = None
    divisor: float = 1.0


#: What a group is answered: its scores, or why it was refused.
GroupAnswer = GroupScores | InvalidInput
