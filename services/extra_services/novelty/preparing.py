"""Checking groups one by one, and turning what counts of all of them into one array of unit vectors.

A group that cannot be scored gets its error here, before anything is locked or embedded; the others go on.
All vectors of a batch are of one embedding space, the namespace's or, if it has none yet, that of the first
group.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from extra_services.errors import InvalidInput
from extra_services.memory.memory import SENT_BY_CALLER, Memory, check_prompt_id, check_space
from extra_services.memory.records import EmbeddingSpace, Namespace
from extra_services.novelty.metrics import unit_vectors
from extra_services.novelty.request import VECTOR_METRICS, GroupAnswer, Limits, Metric, RolloutGroup, Vectors

#: Fields of a rollout that is sent alone, by those of a group.
ALONE = {"texts": "text", "embeddings": "embedding", "sequence_logprobs": "sequence_logprob"}
#: Characters of a solution's text kept beside its vector, to show what a rollout was compared with.
EXCERPT_CHARACTERS = 200


@dataclass(frozen=True)
class Item:
    """A group that passed its checks."""

    #: Its place in the request.
    index: int
    group: RolloutGroup
    #: Positions of the rollouts that count, int64 [m].
    rows: NDArray[np.int64]

    def excerpt(self, row: int) -> str:
        """The first characters of a rollout's text, if it has one."""
        return self.group.texts[row][:EXCERPT_CHARACTERS] if self.group.texts else ""


@dataclass(frozen=True)
class Batch:
    """Checked groups, and the unit vectors of their rollouts that count, one after the other."""

    items: list[Item]
    #: Answers of the groups that were refused, None for the others.
    answers: list[GroupAnswer | None]
    vectors: Vectors
    space: EmbeddingSpace


def prepare(
    memory: Memory, namespace: Namespace, groups: list[RolloutGroup], metric: Metric, limits: Limits
) -> Batch:
    """Checks the groups and embeds what must be embedded. FailedPrecondition if texts are sent to a
    namespace of another embedding model."""
    answers: list[GroupAnswer | None] = [None] * len(groups)
    items: list[Item] = []
    for index, group in enumerate(groups):
        item = _item(namespace, index, group)
        try:
            _check(item, metric, limits)
        except InvalidInput as error:
            answers[index] = error
        else:
            items.append(item)
    if metric not in VECTOR_METRICS:
        return Batch(items, answers, np.zeros((0, 1), dtype=np.float32), EmbeddingSpace())
    return _with_vectors(memory, namespace, items, answers)


def check_rollout(
    memory: Memory, namespace: Namespace, rollout: RolloutGroup, metric: Metric, limits: Limits
) -> None:
    """Raises what `prepare` would refuse a group of this one rollout for, and embeds nothing."""
    item = _item(namespace, 0, rollout)
    try:
        _check(item, metric, limits)
    except InvalidInput as error:
        raise of_one(error) from error
    if metric not in VECTOR_METRICS:
        return
    if rollout.embeddings is None:
        check_space(namespace.solutions, memory.space_of_texts(), namespace.name)
        return
    answers: list[GroupAnswer | None] = [None]
    _with_vectors(memory, namespace, [item], answers)
    if isinstance(answers[0], InvalidInput):
        raise of_one(answers[0])


def of_one(error: InvalidInput) -> InvalidInput:
    """The error of a group of one rollout, naming the field of a message about that rollout alone."""
    field = error.field.partition("[")[0]
    return InvalidInput(ALONE.get(field, field), error.message)


def _item(namespace: Namespace, index: int, group: RolloutGroup) -> Item:
    everything = namespace.settings.memory_policy == "all"
    rows = np.arange(len(group.correct)) if everything else group.correct.nonzero()[0]
    return Item(index, group, rows)


def _check(item: Item, metric: Metric, limits: Limits) -> None:
    group, count = item.group, len(item.group.correct)
    check_prompt_id(group.prompt_id)
    if not count:
        raise InvalidInput("correct", "the group is empty: give one entry per rollout")
    if metric == "ngram_count":
        _check_tokens(group, limits)
    elif metric == "policy_surprise":
        _check_logprobs(group)
    elif (group.texts is None) == (group.embeddings is None):
        raise InvalidInput("texts", "give either texts or embeddings")
    elif group.embeddings is not None:
        _check_embeddings(group.embeddings, count, limits)
    if group.texts is not None:
        _check_texts(item, group.texts, limits, needed=metric in VECTOR_METRICS)


def _check_tokens(group: RolloutGroup, limits: Limits) -> None:
    given = group.token_ids or []
    if len(given) != len(group.correct):
        raise InvalidInput("token_ids", f"{len(given)} responses for {len(group.correct)} entries in correct")
    for position, ids in enumerate(given):
        if len(ids) > limits.tokens_per_rollout:
            limit = limits.tokens_per_rollout
            raise InvalidInput(f"token_ids[{position}]", f"{len(ids)} tokens; at most {limit} are counted")


def _check_logprobs(group: RolloutGroup) -> None:
    given = group.sequence_logprobs
    if given is None or len(given) != len(group.correct):
        count = 0 if given is None else len(given)
        raise InvalidInput("sequence_logprobs", f"{count} values for {len(group.correct)} entries in correct")


def _check_embeddings(embeddings: Vectors, count: int, limits: Limits) -> None:
    if embeddings.ndim != 2 or len(embeddings) != count:
        raise InvalidInput("embeddings", f"shape {embeddings.shape} does not fit {count} rollouts in correct")
    if not 1 <= embeddings.shape[1] <= limits.dimension:
        raise InvalidInput(
            "embeddings", f"{embeddings.shape[1]} dimensions; 1 to {limits.dimension} are possible"
        )


def _check_texts(item: Item, texts: list[str], limits: Limits, needed: bool) -> None:
    if len(texts) != len(item.group.correct):
        raise InvalidInput("texts", f"{len(texts)} texts for {len(item.group.correct)} entries in correct")
    for position, text in enumerate(texts):
        if len(text) > limits.text_characters:
            limit = limits.text_characters
            raise InvalidInput(f"texts[{position}]", f"{len(text)} characters; at most {limit} are accepted")
    for position in item.rows.tolist() if needed else ():
        if not texts[position]:
            raise InvalidInput(f"texts[{position}]", "is empty: an empty text has no meaning to compare")


def _with_vectors(
    memory: Memory, namespace: Namespace, items: list[Item], answers: list[GroupAnswer | None]
) -> Batch:
    if any(item.group.texts is not None for item in items):
        check_space(namespace.solutions, memory.space_of_texts(), namespace.name)
    space = namespace.solutions
    if not space.dimension and items:
        space = _space(memory, items[0])
    fitting = [item for item in items if _fits(memory, namespace, item, space, answers)]
    sent = [item for item in fitting if item.group.embeddings is not None]
    if not sent:
        texts = [(item.group.texts or [])[row] for item in fitting for row in item.rows.tolist()]
        vectors = (
            memory.embedder.embed(texts, namespace.settings.text_window)
            if texts
            else np.zeros((0, max(1, space.dimension)), dtype=np.float32)
        )
        return Batch(fitting, answers, vectors, space)
    return _of_sent(sent, answers, space)


def _space(memory: Memory, item: Item) -> EmbeddingSpace:
    if item.group.embeddings is None:
        return memory.space_of_texts()
    return EmbeddingSpace(SENT_BY_CALLER, item.group.embeddings.shape[1])


def _fits(
    memory: Memory,
    namespace: Namespace,
    item: Item,
    space: EmbeddingSpace,
    answers: list[GroupAnswer | None],
) -> bool:
    own = _space(memory, item)
    if own == space:
        return True
    answers[item.index] = InvalidInput(
        "texts" if item.group.embeddings is None else "embeddings",
        f"vectors of {own.model!r} with {own.dimension} dimensions; namespace {namespace.name!r}"
        f" holds those of {space.model!r} with {space.dimension}",
    )
    return False


def _of_sent(items: list[Item], answers: list[GroupAnswer | None], space: EmbeddingSpace) -> Batch:
    """All vectors at once; those without a direction are then traced to their groups."""
    given = [item.group.embeddings for item in items if item.group.embeddings is not None]
    unit, usable = unit_vectors(np.concatenate(given))
    ends = np.cumsum([len(vectors) for vectors in given]).tolist()
    starts = [0, *ends[:-1]]
    kept = items
    if not usable.all():
        kept = []
        for item, start, end in zip(items, starts, ends, strict=True):
            bad = np.flatnonzero(~usable[start:end])
            if len(bad):
                reason = "is zero, not finite, or too large to be normalised"
                answers[item.index] = InvalidInput(f"embeddings[{int(bad[0])}]", reason)
            else:
                kept.append(item)
    first = dict(zip((item.index for item in items), starts, strict=True))
    counted = sum(len(item.rows) for item in kept)
    if counted != len(unit):
        rows = [first[item.index] + item.rows for item in kept]
        unit = unit[np.concatenate(rows)] if rows else unit[:0]
    return Batch(kept, answers, unit, space)
