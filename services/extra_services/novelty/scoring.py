"""Scoring groups of rollouts against the memory of their prompts: the domain of the novelty service.

A request goes through four steps. Each group is checked by itself (`_prepare`); what counts of all groups
becomes unit vectors, texts through the embedder in one call; with the prompts locked, one index search
scores the whole batch and the new vectors enter the rings; one durable write remembers them together with
the answer. Groups of a prompt that appears more than once are taken in order, in rounds.
"""

import base64
import hashlib
import json
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from extra_services.errors import InvalidInput
from extra_services.memory.index import RingIndex
from extra_services.memory.memory import (
    SENT_BY_CALLER,
    Change,
    Computed,
    Key,
    Memory,
    check_prompt_id,
    check_space,
)
from extra_services.memory.records import EmbeddingSpace, Namespace, NewSolutions, PromptWrite, Write
from extra_services.novelty.metrics import embedding_novelty, sibling_similarity

Vectors = NDArray[np.float32]
Mode = Literal["score_and_remember", "score_only", "remember_only"]

#: Characters of a solution's text kept beside its vector, to show what a rollout was compared with.
EXCERPT_CHARACTERS = 200
#: A vector shorter than this has no direction.
LEAST_NORM = 1e-12


@dataclass(frozen=True)
class Limits:
    """What a request may hold."""

    rollouts_per_request: int = 16384
    text_characters: int = 1_000_000
    dimension: int = 8192


@dataclass(frozen=True)
class RolloutGroup:
    """The n rollouts of one prompt: bool [n], and either n texts or float32 [n, dimension] embeddings."""

    prompt_id: str
    correct: NDArray[np.bool_]
    texts: list[str] | None = None
    embeddings: Vectors | None = None


@dataclass(frozen=True)
class GroupScores:
    """Novelty of a group's rollouts, float32 [n], and the size of the prompt's memory before and after."""

    novelty: Vectors
    memory_before: int
    memory_after: int


#: What a group is answered: its scores, or why it was refused.
GroupAnswer = GroupScores | InvalidInput


@dataclass
class _Prepared:
    """A group that passed its checks. `rows` are the positions of the rollouts that count."""

    index: int
    group: RolloutGroup
    rows: NDArray[np.int64]
    space: EmbeddingSpace
    #: Unit vectors [len(rows), dimension]; texts get them from the embedder.
    vectors: Vectors = field(default_factory=lambda: np.zeros((0, 0), dtype=np.float32))


class NoveltyScorer:
    """Scores and remembers groups. Thread-safe; blocks while it embeds and commits."""

    def __init__(self, memory: Memory, limits: Limits | None = None) -> None:
        self._memory = memory
        self._limits = limits or Limits()

    def score(
        self, namespace: str, groups: list[RolloutGroup], mode: Mode = "score_and_remember", key: str = ""
    ) -> tuple[list[GroupAnswer], bool]:
        """An answer per group, in order, and whether it is the replay of an earlier one.

        NotFound for an unknown namespace; InvalidInput for a request that is too large or reuses the key of
        another; FailedPrecondition if texts are sent to a namespace of another embedding model.
        """
        rollouts = sum(len(group.correct) for group in groups)
        if rollouts > self._limits.rollouts_per_request:
            limit = self._limits.rollouts_per_request
            raise InvalidInput("groups", f"{rollouts} rollouts in one request; send at most {limit}")
        found = self._memory.store.namespace(namespace)
        names = Key("score_groups", key, _fingerprint(groups, mode) if key else "")
        answered = self._memory.replay(found, names)
        if answered is not None:
            return _decode(answered), True
        answers, prepared = self._prepare_all(found, groups)
        result = self._memory.change(
            namespace,
            dict.fromkeys(item.group.prompt_id for item in prepared),
            names,
            lambda change: _Scoring(change, mode).run(answers, prepared),
            _encode,
        )
        return (_decode(result), True) if isinstance(result, str) else (result, False)

    def _prepare_all(
        self, namespace: Namespace, groups: list[RolloutGroup]
    ) -> tuple[list[GroupAnswer | None], list[_Prepared]]:
        answers: list[GroupAnswer | None] = [None] * len(groups)
        prepared: list[_Prepared] = []
        for index, group in enumerate(groups):
            try:
                prepared.append(self._prepare(namespace, index, group))
            except InvalidInput as error:
                answers[index] = error
        if any(item.group.texts is not None for item in prepared):
            check_space(namespace.solutions, self._memory.space_of_texts(), namespace.name)
            self._embed([item for item in prepared if item.group.texts is not None])
        return answers, prepared

    def _prepare(self, namespace: Namespace, index: int, group: RolloutGroup) -> _Prepared:
        check_prompt_id(group.prompt_id)
        if not len(group.correct):
            raise InvalidInput("correct", "the group is empty: give one entry per rollout")
        if (group.texts is None) == (group.embeddings is None):
            raise InvalidInput("texts", "give either texts or embeddings")
        everything = namespace.settings.memory_policy == "all"
        rows = np.arange(len(group.correct)) if everything else np.flatnonzero(group.correct)
        if group.embeddings is not None:
            vectors, dimension = self._unit_vectors(group.embeddings, len(group.correct))
            counted = vectors if everything else vectors[rows]
            return _Prepared(index, group, rows, EmbeddingSpace(SENT_BY_CALLER, dimension), counted)
        self._check_texts(group.texts or [], len(group.correct), rows)
        return _Prepared(index, group, rows, self._memory.space_of_texts())

    def _unit_vectors(self, embeddings: Vectors, count: int) -> tuple[Vectors, int]:
        if embeddings.ndim != 2 or len(embeddings) != count:
            raise InvalidInput(
                "embeddings", f"shape {embeddings.shape} does not fit {count} rollouts in correct"
            )
        dimension = embeddings.shape[1]
        if not 1 <= dimension <= self._limits.dimension:
            raise InvalidInput(
                "embeddings", f"{dimension} dimensions; 1 to {self._limits.dimension} are possible"
            )
        norms = np.sqrt(np.einsum("ij,ij->i", embeddings, embeddings))
        usable = np.isfinite(norms) & (norms > LEAST_NORM)
        if not usable.all():
            row = int(np.flatnonzero(~usable)[0])
            raise InvalidInput(f"embeddings[{row}]", "is zero, not finite, or too large to be normalised")
        return (embeddings / norms[:, None]).astype(np.float32, copy=False), dimension

    def _check_texts(self, texts: list[str], count: int, rows: NDArray[np.int64]) -> None:
        if len(texts) != count:
            raise InvalidInput("texts", f"{len(texts)} texts for {count} entries in correct")
        for position, text in enumerate(texts):
            if len(text) > self._limits.text_characters:
                limit = self._limits.text_characters
                raise InvalidInput(
                    f"texts[{position}]", f"{len(text)} characters; at most {limit} are embedded"
                )
        for position in rows.tolist():
            if not texts[position]:
                raise InvalidInput(f"texts[{position}]", "is empty: an empty text has no meaning to compare")

    def _embed(self, items: list[_Prepared]) -> None:
        texts = [(item.group.texts or [])[row] for item in items for row in item.rows.tolist()]
        vectors = self._memory.embedder.embed(texts)
        start = 0
        for item in items:
            item.vectors = vectors[start : start + len(item.rows)]
            start += len(item.rows)


class _Scoring:
    """One attempt at scoring prepared groups, inside a Change."""

    def __init__(self, change: Change, mode: Mode) -> None:
        self._change = change
        self._settings = change.namespace.settings
        self._remember = mode != "score_only"
        self._score = mode != "remember_only"
        self._writes: dict[str, PromptWrite] = {}

    def run(
        self, answers: list[GroupAnswer | None], prepared: list[_Prepared]
    ) -> Computed[list[GroupAnswer]]:
        """Answers for all groups: `answers` are those already refused, None for the others."""
        answers = list(answers)
        space = self._space(prepared)
        fitting = []
        for item in prepared:
            if len(item.rows) and item.space != space:
                answers[item.index] = _other_space(item, space, self._change.namespace.name)
            else:
                fitting.append(item)
        if not space.dimension:
            # No vector has ever come, none comes now: there is no index to make, nor its dimension known.
            for item in fitting:
                answers[item.index] = GroupScores(np.zeros(len(item.group.correct), dtype=np.float32), 0, 0)
        elif fitting:
            index = self._change.rings(space.dimension)
            for round_ in _rounds(fitting):
                self._run_round(index, round_, answers)
        written = any(write.solutions is not None for write in self._writes.values())
        write = Write(self._writes, solutions=space if written else None) if self._remember else None
        return Computed([answer for answer in answers if answer is not None], write)

    def _space(self, prepared: list[_Prepared]) -> EmbeddingSpace:
        """The namespace's, or what its first vectors will make it."""
        if self._change.namespace.solutions.dimension:
            return self._change.namespace.solutions
        return next((item.space for item in prepared if len(item.rows)), EmbeddingSpace())

    def _run_round(self, index: RingIndex, items: list[_Prepared], answers: list[GroupAnswer | None]) -> None:
        prompts = [item.group.prompt_id for item in items]
        counts = np.array([len(item.rows) for item in items], dtype=np.int64)
        vectors = np.concatenate([item.vectors for item in items if len(item.rows)] or [_NONE])
        before = index.sizes(prompts)
        novelty = np.zeros(len(vectors), dtype=np.float32)
        if self._score and len(vectors):
            nearest, _ = index.nearest(prompts, counts, vectors)
            siblings, _ = sibling_similarity(vectors, counts)
            history = np.repeat(before, counts)
            novelty = embedding_novelty(nearest, siblings, history, self._settings.min_history)
        if self._remember:
            self._add_writes(index, items, prompts)
            index.append(prompts, counts, vectors)
        after = index.sizes(prompts)
        ends = np.cumsum(counts)
        for item, end, had, has in zip(items, ends.tolist(), before.tolist(), after.tolist(), strict=True):
            values = np.zeros(len(item.group.correct), dtype=np.float32)
            values[item.rows] = novelty[end - len(item.rows) : end]
            answers[item.index] = GroupScores(values, had, has)

    def _add_writes(self, index: RingIndex, items: list[_Prepared], prompts: list[str]) -> None:
        versions = index.versions(prompts)
        for item in items:
            if not len(item.rows):
                continue
            prompt = item.group.prompt_id
            texts = item.group.texts
            excerpts = [texts[row][:EXCERPT_CHARACTERS] if texts else "" for row in item.rows.tolist()]
            vectors = item.vectors
            earlier = self._writes.get(prompt)
            if earlier is not None and earlier.solutions is not None:
                vectors = np.concatenate([earlier.solutions.vectors, vectors])
                excerpts = earlier.solutions.excerpts + excerpts
            self._writes[prompt] = PromptWrite(versions[prompt], NewSolutions(vectors, excerpts))


_NONE = np.zeros((0, 1), dtype=np.float32)


def _rounds(items: list[_Prepared]) -> list[list[_Prepared]]:
    """The items in rounds, such that a prompt appears once in a round and its groups keep their order."""
    rounds: list[list[_Prepared]] = []
    seen: dict[str, int] = {}
    for item in items:
        number = seen.get(item.group.prompt_id, 0)
        seen[item.group.prompt_id] = number + 1
        if number == len(rounds):
            rounds.append([])
        rounds[number].append(item)
    return rounds


def _other_space(item: _Prepared, space: EmbeddingSpace, namespace: str) -> InvalidInput:
    field_name = "texts" if item.group.texts is not None else "embeddings"
    return InvalidInput(
        field_name,
        f"vectors of {item.space.model!r} with {item.space.dimension} dimensions; namespace {namespace!r}"
        f" holds those of {space.model!r} with {space.dimension}",
    )


def _fingerprint(groups: list[RolloutGroup], mode: Mode) -> str:
    """Tells requests apart as far as needed to notice a key used twice by mistake."""
    digest = hashlib.blake2b(mode.encode(), digest_size=8)
    for group in groups:
        digest.update(group.prompt_id.encode())
        digest.update(group.correct.tobytes())
    return digest.hexdigest()


def _encode(answers: list[GroupAnswer]) -> str:
    return json.dumps([_encode_one(answer) for answer in answers])


def _encode_one(answer: GroupAnswer) -> list[object]:
    if isinstance(answer, InvalidInput):
        return [answer.field, answer.message]
    novelty = base64.b64encode(answer.novelty.astype("<f4").tobytes()).decode()
    return [novelty, answer.memory_before, answer.memory_after]


def _decode(text: str) -> list[GroupAnswer]:
    return [_decode_one(item) for item in json.loads(text)]


def _decode_one(item: list[str | int]) -> GroupAnswer:
    if len(item) == 2:
        return InvalidInput(str(item[0]), str(item[1]))
    novelty = np.frombuffer(base64.b64decode(str(item[0])), dtype="<f4")
    return GroupScores(novelty, int(item[1]), int(item[2]))
