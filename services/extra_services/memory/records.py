"""Plain data of the memory: namespaces, prompts, solutions, prefixes and counts of answers.

All modules of `memory` use these. A prompt has a *header* (a version and a few counters) and two rings, one
of solutions and one of prefixes. Entries are numbered from 0 in order of arrival, per prompt and kind. That
number is the entry's *sequence number*, and `sequence % capacity` is its slot in the ring, so a ring needs no
bookkeeping beyond the number of entries ever added. A solution may have a sketch of its derivation beside its
vector. The counts of a prompt's final answers are one bounded
table, which is read and written as a whole.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from extra_rl.vocabulary import MemoryPolicy, TextWindow, VectorStorage
from extra_services.errors import InvalidInput

#: Bytes of the sketch of a solution's derivation (metric derivation), which the store does not look into.
SKETCH_BYTES = 512


@dataclass(frozen=True)
class NamespaceSettings:
    """Settings of a namespace; they are stored with it and never change."""

    #: Solutions kept per prompt, oldest out first.
    memory_capacity: int = 16
    #: Novelty is 0 while the prompt's memory held fewer solutions than this before the group.
    min_history: int = 8
    #: Rollouts that are embedded, compared and stored.
    memory_policy: MemoryPolicy = MemoryPolicy.CORRECT
    #: Prefixes kept per prompt, oldest out first.
    prefix_capacity: int = 128
    #: Part of a text that is embedded.
    text_window: TextWindow = TextWindow.REFERENCE
    #: Number format of solutions' vectors; float16 halves memory and moves similarities by less than 1e-3.
    storage: VectorStorage = VectorStorage.FLOAT32
    #: Tokens per n-gram of the metric ngram_count.
    ngram_size: int = 2
    #: Cosine similarity from which two solutions are in one cluster (metric cluster_size).
    cluster_similarity: float = 0.95
    #: Weight of a group's reward variance in the prompt's moving average.
    variance_rate: float = 0.1
    #: Distinct answers whose counts are kept per prompt, least recently given out first (metric outcome).
    outcome_capacity: int = 256
    #: Factor by which each remembered group with a rollout in the scope multiplies the earlier counts.
    outcome_decay: float = 1.0

    @classmethod
    def from_stored(cls, stored: Mapping[str, Any]) -> Self:
        """Make settings of what `to_stored` returned.

        Raises:
            ValueError: A setting has an unknown value.
            TypeError: A setting is unknown.
        """
        settings = dict(stored)
        for name, kind in (
            ("memory_policy", MemoryPolicy),
            ("text_window", TextWindow),
            ("storage", VectorStorage),
        ):
            if name in settings:
                settings[name] = kind(settings[name])
        return cls(**settings)

    def to_stored(self) -> dict[str, Any]:
        """Return the settings by name, as JSON can hold them."""
        return asdict(self)

    def check(self) -> None:
        """Check the ranges.

        Raises:
            InvalidInput: A setting is out of range; the error names it.
        """
        for name, least, most in (
            ("memory_capacity", 1, 65536),
            ("min_history", 0, 65536),
            ("prefix_capacity", 1, 4096),
            ("ngram_size", 1, 64),
            ("cluster_similarity", -1, 1),
            ("variance_rate", 0, 1),
            ("outcome_capacity", 1, 4096),
        ):
            if not least <= getattr(self, name) <= most:
                raise InvalidInput(f"settings.{name}", f"must be {least} to {most}, is {getattr(self, name)}")
        if not 0 < self.outcome_decay <= 1:
            reason = f"must be more than 0 and at most 1, is {self.outcome_decay}"
            raise InvalidInput("settings.outcome_decay", reason)


@dataclass(frozen=True)
class EmbeddingSpace:
    """Model and dimension of vectors; only vectors of one space can be compared. Empty: none stored yet."""

    model: str = ""
    dimension: int = 0


@dataclass(frozen=True)
class Namespace:
    """A namespace as stored. `id` is unique: a namespace that is deleted and created again has a new one."""

    id: int
    name: str
    settings: NamespaceSettings
    solutions: EmbeddingSpace
    prefixes: EmbeddingSpace
    #: Sum and number of the positive novelties scored so far, by metric.
    positive: dict[str, tuple[float, int]] = field(default_factory=dict)

    def vector_type(self) -> np.dtype[Any]:
        """Return the type of solutions' vectors in the store: little-endian float32 or float16."""
        return np.dtype("<f2" if self.settings.storage is VectorStorage.FLOAT16 else "<f4")

    def as_stored(self, vectors: NDArray[np.float32]) -> NDArray[Any]:
        """Return vectors of solutions in the store's type, contiguous."""
        if self.settings.storage is not VectorStorage.FLOAT16:
            return np.ascontiguousarray(vectors, dtype=self.vector_type())
        import torch

        # The same numbers as numpy's conversion, in a twentieth of its time. In pieces, because torch wakes
        # its other threads for larger ones, which then spin for longer than the conversion takes.
        stored = np.empty(vectors.shape, dtype=np.float16)
        rows = max(1, 2**15 // max(1, vectors.shape[1]))
        for start in range(0, len(vectors), rows):
            piece = torch.from_numpy(np.ascontiguousarray(vectors[start : start + rows]))
            torch.from_numpy(stored[start : start + rows]).copy_(piece)
        return stored


@dataclass(frozen=True)
class Sizes:
    """Number of entries in a namespace."""

    prompts: int
    solutions: int
    prefixes: int
    answers: int = 0


@dataclass(frozen=True)
class Header:
    """Version and counters of a prompt. A prompt never seen has the default header."""

    #: Changes with every write to the prompt; a write names the version it was computed from.
    version: int = 0
    solutions_added: int = 0
    prefixes_added: int = 0
    prefixes_stored: int = 0
    #: Outcomes of sampling the prompt again without a prefix.
    unguided_rollouts: int = 0
    unguided_successes: int = 0
    #: Moving average of the variance of a group's rewards.
    reward_variance: float = 0.0
    #: Distinct answers that are counted.
    answers_stored: int = 0


#: Final answer of a prompt -> times it was given, decayed; the least recently given answer first.
AnswerCounts = dict[str, float]


@dataclass(frozen=True)
class StoredSolutions:
    """A prompt's ring of solutions, by slot: sequence numbers int64 [m] and unit vectors [m, dimension]."""

    sequences: NDArray[np.int64]
    vectors: NDArray[np.generic]
    #: The first characters of each text [m]; empty where the caller sent a vector.
    excerpts: list[str]
    #: uint8 [m, SKETCH_BYTES], zeros for a solution without a sketch; None if none has one.
    sketches: NDArray[np.uint8] | None = None


@dataclass(frozen=True)
class StoredPrefix:
    """A prefix in a prompt's ring, with the outcomes of the groups that continued from it."""

    sequence: int
    token_ids: NDArray[np.int32]
    text: str
    mean_entropy: float
    #: float32 [dimension], a unit vector.
    vector: NDArray[np.float32]
    rollouts: int = 0
    successes: int = 0


@dataclass(frozen=True)
class PromptRecord:
    """Everything stored for a prompt: the unit of export and import."""

    prompt: str
    header: Header
    solutions: StoredSolutions | None
    prefixes: list[StoredPrefix]
    #: n-gram, as the bytes of its int32 tokens -> its count in correct responses.
    ngrams: dict[bytes, int]
    answer_counts: AnswerCounts = field(default_factory=dict)


@dataclass(frozen=True)
class NewSolutions:
    """Solutions that enter a prompt's ring, oldest first: unit vectors [m, dimension] and excerpts [m]."""

    vectors: NDArray[np.generic]
    excerpts: list[str]
    #: uint8 [m, SKETCH_BYTES]; None for a metric that makes none.
    sketches: NDArray[np.uint8] | None = None


@dataclass(frozen=True)
class NewOutcome:
    """An outcome to add to a prefix of a prompt; `sequence` None is the empty prefix."""

    sequence: int | None
    rollouts: int
    successes: int


@dataclass(frozen=True)
class PromptWrite:
    """Change of one prompt, computed from its `version`."""

    version: int
    solutions: NewSolutions | None = None
    #: Their sequence numbers continue from the header's `prefixes_added`.
    prefixes: list[StoredPrefix] = field(default_factory=list)
    outcomes: list[NewOutcome] = field(default_factory=list)
    #: Sequence numbers of prefixes to forget.
    forgotten: list[int] = field(default_factory=list)
    #: Added to the counts of n-grams.
    ngrams: dict[bytes, int] = field(default_factory=dict)
    #: The new moving average; None leaves it.
    reward_variance: float | None = None
    #: The new counts of answers, in the place of all earlier ones; None leaves them.
    answer_counts: AnswerCounts | None = None


@dataclass(frozen=True)
class IdempotentAnswer:
    """Answer to a write that carried an idempotency key.

    `operation` and `fingerprint` distinguish a retry from another request that reuses the key by mistake.
    """

    operation: str
    key: str
    fingerprint: str
    answer: str


@dataclass(frozen=True)
class Write:
    """One atomic change of a namespace: all of it becomes durable, or nothing."""

    prompts: dict[str, PromptWrite] = field(default_factory=dict)
    answer: IdempotentAnswer | None = None
    #: The spaces of the vectors written, where there are any.
    solutions: EmbeddingSpace | None = None
    prefixes: EmbeddingSpace | None = None
    #: Added to the namespace's `positive`, by metric.
    positive: dict[str, tuple[float, int]] = field(default_factory=dict)


def stored_sketch(sketches: NDArray[np.uint8] | None, row: int) -> bytes | None:
    """Return the sketch of a row as it is stored and exported: None for an empty one."""
    return sketches[row].tobytes() if sketches is not None and sketches[row].any() else None


def joined_sketches(sketches: Sequence[bytes | None]) -> NDArray[np.uint8] | None:
    """Return stored sketches as StoredSolutions holds them; one of another length counts as none."""
    if not any(sketches):
        return None
    joined = np.zeros((len(sketches), SKETCH_BYTES), dtype=np.uint8)
    for row, sketch in enumerate(sketches):
        if sketch is not None and len(sketch) == SKETCH_BYTES:
            joined[row] = np.frombuffer(sketch, dtype=np.uint8)
    return joined


class Conflict(Exception):
    """A prompt has changed since the write was computed, or its key has been answered: compute it again."""
