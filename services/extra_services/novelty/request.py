"""Requests to the novelty domain and its answers, as plain data."""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from extra_rl.vocabulary import Metric, NearestKind, OutcomeScope, Scale, ScoreMode
from extra_services.errors import InvalidInput

Vectors = NDArray[np.float32]

#: Metrics that compare vectors, and remember solutions.
VECTOR_METRICS = (Metric.EMBEDDING, Metric.MEAN_COSINE, Metric.CLUSTER_SIZE, Metric.DERIVATION)


@dataclass(frozen=True)
class NoveltyLimits:
    """Largest requests that are accepted."""

    rollouts_per_request: int = 16384
    text_characters: int = 1_000_000
    tokens_per_rollout: int = 1_000_000
    dimension: int = 8192


@dataclass(frozen=True)
class ScoringOptions:
    """Options of a scoring request; see the fields of the same names of ScoreGroupsRequest."""

    metric: Metric = Metric.EMBEDDING
    mode: ScoreMode = ScoreMode.SCORE_AND_REMEMBER
    scale: Scale = Scale.RAW
    explain: bool = False
    track_reward_variance: bool = False
    vendi: bool = False
    outcome_scope: OutcomeScope = OutcomeScope.WRONG
    ignore_history: bool = False

    @property
    def scores(self) -> bool:
        """True if novelty is requested."""
        return self.mode is not ScoreMode.REMEMBER_ONLY

    @property
    def remembers(self) -> bool:
        """True if the request stores anything."""
        return self.mode is not ScoreMode.SCORE_ONLY


@dataclass(frozen=True)
class RolloutGroup:
    """The n rollouts of one prompt: `correct` bool [n], and the data that the metric needs.

    Metrics on embeddings need n texts or float32 [n, dimension] embeddings, derivation n texts (and, if they
    are known, the text of the problem and the reference answer), ngram_count n times int32
    [length] token ids, policy_surprise float32 [n] log-probabilities of the responses in nats, outcome n
    final answers, empty where one is missing; it leaves out the rollouts that are `undecided`, bool [n].
    """

    prompt_id: str
    correct: NDArray[np.bool_]
    texts: list[str] | None = None
    embeddings: Vectors | None = None
    token_ids: list[NDArray[np.int32]] | None = None
    sequence_logprobs: NDArray[np.float32] | None = None
    answers: list[str] | None = None
    undecided: NDArray[np.bool_] | None = None
    problem: str = ""
    reference_answer: str = ""


@dataclass(frozen=True)
class Nearest:
    """Nearest neighbour of a rollout: a stored solution, by sequence number, or a sibling, by index."""

    kind: NearestKind
    number: int
    excerpt: str
    similarity: float


@dataclass(frozen=True)
class AnswerCount:
    """Times that a rollout's answer was given in earlier groups, decayed, and in its own; 0, 0 if missing."""

    earlier: float
    in_group: int


@dataclass(frozen=True)
class GroupScores:
    """Novelty of a group's rollouts, float32 [n], and the size of the prompt's memory before and after.

    Fields that were not requested are empty or None. The novelties have been divided by `divisor`.
    """

    novelty: Vectors
    memory_before: int
    memory_after: int
    nearest: list[Nearest | None] = field(default_factory=list)
    reward_variance: float | None = None
    vendi: float | None = None
    divisor: float = 1.0
    #: Metric outcome: per rollout, None for those that are not scored.
    answer_counts: list[AnswerCount | None] = field(default_factory=list)
    #: Metric outcome, if it explains: correct rollouts of the group.
    correct: int = 0
    #: Per rollout why it is suspicious, or ""; empty if none is.
    suspicious: list[str] = field(default_factory=list)
    #: Metric derivation, if it explains: per rollout the steps that no remembered solution has.
    new_steps: list[list[str]] = field(default_factory=list)
    #: Scale share: the novelties, to which it was not applied.
    raw: Vectors | None = None

    def mean_novelty(self) -> float:
        """Return the mean over the rollouts with an entry in `answer_counts`, 0 if there are none."""
        rows = [row for row, count in enumerate(self.answer_counts) if count is not None]
        return float(self.novelty[rows].mean(dtype=np.float64)) if rows else 0.0


#: Answer to a group: its scores, or why it was refused.
GroupAnswer = GroupScores | InvalidInput
