"""NoveltyService without the connection: what is sent, and what comes back, as numpy and dataclasses."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from numpy.typing import ArrayLike, NDArray

from extra_client import _wire, errors
from extra_client._transport import NOVELTY, Call, new_key
from extra_client.errors import ExtraError, InternalError
from extra_rl.v1 import novelty_pb2 as pb


class MemoryPolicy(StrEnum):
    """Which rollouts are embedded, compared and stored; the bonus goes to correct ones under either."""

    #: Only correct solutions.
    CORRECT = "correct"
    #: Every rollout (ExTra's released reference code).
    ALL = "all"


class Metric(StrEnum):
    """How novelty is measured."""

    #: max(0, 1 - largest cosine similarity to memory and siblings), in [0, 2].
    EMBEDDING = "embedding"


class ScoreMode(StrEnum):
    """What a call does."""

    SCORE_AND_REMEMBER = "score_and_remember"
    SCORE_ONLY = "score_only"
    REMEMBER_ONLY = "remember_only"


@dataclass(frozen=True, slots=True, kw_only=True)
class NamespaceSettings:
    """Settings of a namespace, stored with it; None takes the server's default."""

    #: Solutions kept per prompt, oldest out first (16).
    memory_capacity: int | None = None
    #: Novelty is 0 while the prompt's memory held fewer entries than this before the group (8).
    min_history: int | None = None
    memory_policy: MemoryPolicy | None = None
    #: Prefixes kept per prompt, oldest out first (128).
    prefix_capacity: int | None = None


@dataclass(frozen=True, slots=True)
class Namespace:
    """A namespace as it is now."""

    settings: NamespaceSettings
    #: Prompts with at least one stored solution.
    prompts: int
    #: Solutions and prefixes stored.
    solutions: int
    prefixes: int
    #: Embedding model and dimension of its vectors; empty and 0 until the first.
    embedding_model: str
    dimension: int


@dataclass(frozen=True, slots=True)
class NamespaceCopy:
    """How much was copied."""

    solutions: int
    prefixes: int


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Group:
    """The n rollouts of one prompt, to be scored together: their texts, or your own embeddings of them."""

    #: Identity of the prompt, stable across steps and epochs.
    prompt_id: str
    texts: Sequence[str] | None = None
    #: Reals [n, dimension]; need not be normalised, none may be zero.
    embeddings: ArrayLike | None = None
    #: Whether each is correct; None (undecided) counts as not correct.
    correct: Sequence[bool | None] | NDArray[np.bool_]


@dataclass(frozen=True, slots=True, eq=False)
class GroupScores:
    """Scores of one group, or the error it was refused with; then nothing of it was stored."""

    #: float32 [n], 0 for rollouts that do not count; empty if the group was refused or only remembered.
    novelty: NDArray[np.float32]
    #: Entries of the prompt's memory before and after the group.
    memory_before: int
    memory_after: int
    #: None if the group was scored; may be raised.
    error: ExtraError | None
    #: True if the idempotency key was seen before and this is the first answer.
    replayed: bool


def create_namespace(namespace: str, settings: NamespaceSettings | None) -> Call[NamespaceSettings]:
    """CreateNamespace."""
    request = pb.CreateNamespaceRequest(namespace=namespace, settings=_settings_out(settings))
    return Call(
        NOVELTY, "CreateNamespace", request, lambda response: _settings_in(response.settings), deadline=30
    )


def describe_namespace(namespace: str) -> Call[Namespace]:
    """DescribeNamespace."""
    return Call(
        NOVELTY,
        "DescribeNamespace",
        pb.DescribeNamespaceRequest(namespace=namespace),
        _namespace,
        deadline=30,
    )


def copy_namespace(source: str, destination: str, replace: bool) -> Call[NamespaceCopy]:
    """CopyNamespace."""
    request = pb.CopyNamespaceRequest(source=source, destination=destination, replace=replace)
    return Call(
        NOVELTY,
        "CopyNamespace",
        request,
        lambda response: NamespaceCopy(response.solutions, response.prefixes),
        deadline=600,
    )


def delete_namespace(namespace: str) -> Call[bool]:
    """DeleteNamespace."""
    request = pb.DeleteNamespaceRequest(namespace=namespace)
    return Call(NOVELTY, "DeleteNamespace", request, lambda response: bool(response.existed), deadline=120)


def list_namespaces() -> Call[list[str]]:
    """ListNamespaces."""
    return Call(
        NOVELTY,
        "ListNamespaces",
        pb.ListNamespacesRequest(),
        lambda response: list(response.namespaces),
        deadline=30,
    )


def score_groups(
    namespace: str,
    groups: Sequence[Group],
    metric: Metric | str,
    mode: ScoreMode | str,
    idempotency_key: str | None,
) -> Call[list[GroupScores]]:
    """ScoreGroups."""
    mode = _wire.choice(ScoreMode, mode, "mode")
    request = pb.ScoreGroupsRequest(
        namespace=namespace,
        groups=[_group(group) for group in groups],
        metric=_wire.number(pb.Metric, _wire.choice(Metric, metric, "metric")),  # type: ignore[arg-type]
        mode=_wire.number(pb.ScoreMode, mode),  # type: ignore[arg-type]
        # A call that writes nothing needs no key.
        idempotency_key="" if mode is ScoreMode.SCORE_ONLY else idempotency_key or new_key(),
    )

    def parse(response: pb.ScoreGroupsResponse) -> list[GroupScores]:
        if len(response.groups) != len(groups):
            raise InternalError(f"the server sent {len(response.groups)} scores for {len(groups)} groups")
        return [_scores(scores, response.replayed) for scores in response.groups]

    return Call(NOVELTY, "ScoreGroups", request, parse, deadline=600)


def only(scores: list[GroupScores]) -> NDArray[np.float32]:
    """The novelty of the one group; raises the error it was refused with."""
    if scores[0].error is not None:
        raise scores[0].error
    return scores[0].novelty


def _settings_out(settings: NamespaceSettings | None) -> pb.NamespaceSettings:
    if settings is None:
        return pb.NamespaceSettings()
    policy = settings.memory_policy
    return pb.NamespaceSettings(
        memory_capacity=settings.memory_capacity,
        min_history=settings.min_history,
        memory_policy=None  # type: ignore[arg-type]
        if policy is None
        else _wire.number(pb.MemoryPolicy, _wire.choice(MemoryPolicy, policy, "memory_policy")),
        prefix_capacity=settings.prefix_capacity,
    )


def _settings_in(settings: pb.NamespaceSettings) -> NamespaceSettings:
    return NamespaceSettings(
        memory_capacity=settings.memory_capacity,
        min_history=settings.min_history,
        memory_policy=_wire.optional_member(pb.MemoryPolicy, MemoryPolicy, settings.memory_policy),
        prefix_capacity=settings.prefix_capacity,
    )


def _namespace(response: pb.DescribeNamespaceResponse) -> Namespace:
    return Namespace(
        settings=_settings_in(response.settings),
        prompts=response.prompts,
        solutions=response.solutions,
        prefixes=response.prefixes,
        embedding_model=response.embedding_model,
        dimension=response.dimension,
    )


def _group(group: Group) -> pb.Group:
    return pb.Group(
        prompt_id=group.prompt_id,
        texts=group.texts,
        embeddings=b"" if group.embeddings is None else _wire.float_bytes(group.embeddings),
        correct=[bool(correct) for correct in group.correct],
    )


def _scores(scores: pb.GroupScores, replayed: bool) -> GroupScores:
    return GroupScores(
        novelty=_wire.floats(scores.novelty),
        memory_before=scores.memory_before,
        memory_after=scores.memory_after,
        error=errors.from_item(scores.error),
        replayed=replayed,
    )
