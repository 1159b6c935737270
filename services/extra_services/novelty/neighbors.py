"""Search of the stored solutions nearest to a text or vector."""

from dataclasses import dataclass

import numpy as np

from extra_rl.vocabulary import Metric, NearestKind
from extra_services.errors import InvalidInput
from extra_services.memory.instruments import STAGES
from extra_services.memory.memory import NO_KEY, Change, Computed, Memory
from extra_services.novelty.preparing import PreparedGroups, of_one, prepare
from extra_services.novelty.request import Nearest, NoveltyLimits, RolloutGroup, Vectors

MAX_NEIGHBORS = 1024


@dataclass(frozen=True)
class NeighborQuery:
    """A text or a float32 [dimension] vector, to compare with the solutions of a prompt."""

    prompt_id: str
    text: str | None = None
    embedding: Vectors | None = None


def nearest_solutions(
    memory: Memory, name: str, queries: list[NeighborQuery], k: int, limits: NoveltyLimits
) -> list[list[Nearest] | InvalidInput]:
    """Return at most k solutions per query, most similar first, or why it was refused. Changes nothing.

    Raises:
        InvalidInput: `k` is out of range, or there are too many queries.
        NotFound: There is no such namespace.
        FailedPrecondition: Texts are sent to a namespace of another embedding model.
    """
    if not 1 <= k <= MAX_NEIGHBORS:
        raise InvalidInput("k", f"must be 1 to {MAX_NEIGHBORS}, is {k}")
    if len(queries) > limits.rollouts_per_request:
        raise InvalidInput(
            "queries", f"{len(queries)} in one request; send at most {limits.rollouts_per_request}"
        )
    namespace = memory.namespace(name)
    groups = [_as_group(query) for query in queries]
    prepared = prepare(memory, namespace, groups, Metric.EMBEDDING, limits, leave_out=False)
    answers = memory.change(
        namespace,
        prepared.prompts(),
        NO_KEY,
        lambda change: Computed(_search(change, prepared, k), None),
        lambda _: "",
    )
    assert not isinstance(answers, str), "there is no key to replay"
    return answers


def _as_group(query: NeighborQuery) -> RolloutGroup:
    """A group of one correct rollout, so that it is checked and embedded as rollouts are."""
    embeddings = None if query.embedding is None else query.embedding[None]
    texts = None if query.text is None else [query.text]
    return RolloutGroup(query.prompt_id, np.ones(1, dtype=np.bool_), texts=texts, embeddings=embeddings)


def _search(change: Change, prepared: PreparedGroups, k: int) -> list[list[Nearest] | InvalidInput]:
    namespace = change.namespace
    answers: list[list[Nearest] | InvalidInput] = [
        of_one(answer) if isinstance(answer, InvalidInput) else [] for answer in prepared.answers
    ]
    if not prepared.groups or not namespace.solutions.dimension:
        return answers
    prompts = [checked.group.prompt_id for checked in prepared.groups]
    index = change.rings(namespace.solutions.dimension)
    ones = np.ones(len(prompts), dtype=np.int64)
    with STAGES("search"):
        similarity, sequence = index.nearest(
            prompts, ones, prepared.vectors, min(k, namespace.settings.memory_capacity)
        )
    wanted = [
        (prompt, int(number))
        for prompt, row in zip(prompts, sequence.tolist(), strict=True)
        for number in row
        if number >= 0
    ]
    excerpts = change.excerpts(wanted)
    for checked, similarities, numbers in zip(
        prepared.groups, similarity.tolist(), sequence.tolist(), strict=True
    ):
        prompt = checked.group.prompt_id
        answers[checked.index] = [
            Nearest(NearestKind.SOLUTION, number, excerpts.get((prompt, number), ""), value)
            for value, number in zip(similarities, numbers, strict=True)
            if number >= 0
        ]
    return answers
