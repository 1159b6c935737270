"""NoveltyService without the connection: requests and responses as numpy arrays and dataclasses."""

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, TypedDict

import numpy as np
from numpy.typing import ArrayLike, NDArray

from extra_client import _wire, errors
from extra_client._transport import NOVELTY, Call, new_key
from extra_client.errors import ExtraError, InternalError
from extra_rl.v1 import novelty_pb2 as pb
from extra_rl.vocabulary import (
    MemoryPolicy,
    Metric,
    NearestKind,
    Scale,
    ScoreMode,
    TextWindow,
    VectorStorage,
)

#: Bytes of a file in one message.
_CHUNK_BYTES = 2**20


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
    #: Which part of a text is embedded (REFERENCE).
    text_window: TextWindow | None = None
    #: How the vectors of solutions are held (FLOAT32).
    storage: VectorStorage | None = None
    #: Tokens per n-gram of Metric.NGRAM_COUNT (2).
    ngram_size: int | None = None
    #: Cosine similarity from which two solutions are in one cluster, for Metric.CLUSTER_SIZE (0.95).
    cluster_similarity: float | None = None
    #: Weight of a group's reward variance in its prompt's moving average (0.1).
    variance_rate: float | None = None


@dataclass(frozen=True, slots=True)
class PositiveNovelty:
    """The positive novelties of one metric so far: what Scale.RUNNING_MEAN divides by."""

    metric: Metric
    count: int
    mean: float


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
    positive: tuple[PositiveNovelty, ...]
    #: How often this server, since it started, found a prompt's memory in its index, or had to read it.
    index_hits: int
    index_loads: int
    #: Texts this server, since it started, embedded, or knew the vectors of; in all namespaces.
    texts_embedded: int
    texts_cached: int


@dataclass(frozen=True, slots=True)
class NamespaceCopy:
    """The size of a copy."""

    solutions: int
    prefixes: int


@dataclass(frozen=True, slots=True)
class ImportedNamespace:
    """A namespace created from a file."""

    settings: NamespaceSettings
    prompts: int
    solutions: int
    prefixes: int


@dataclass(frozen=True, slots=True)
class PromptSummary:
    """The sizes of the memories of one prompt."""

    prompt_id: str
    #: Solutions stored, and ever stored.
    solutions: int
    solutions_added: int
    prefixes: int
    #: Moving average of the variance of its rewards; 0 if never tracked.
    reward_variance: float


@dataclass(frozen=True, slots=True)
class Nearest:
    """The nearest neighbour of a text: a stored solution of its prompt, or a sibling in its group."""

    kind: NearestKind
    #: Of a stored solution: its number among all ever stored for the prompt, from 0.
    solution_id: int | None
    #: Of a sibling: its index in the group.
    sibling: int | None
    #: The first characters of its text; empty if embeddings were sent.
    excerpt: str
    #: Cosine similarity.
    similarity: float


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class NeighborQuery:
    """A text, or your own embedding (reals [dimension]), to compare with a prompt's memory."""

    prompt_id: str
    text: str | None = None
    embedding: ArrayLike | None = None


@dataclass(frozen=True, slots=True)
class Neighbors:
    """The solutions most similar to a query, most similar first, or the error it was refused with."""

    neighbors: tuple[Nearest, ...]
    error: ExtraError | None


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
    #: n lists of the response's token ids, for Metric.NGRAM_COUNT.
    token_ids: Sequence[ArrayLike] | None = None
    #: Reals [n]: sum of the response's token log-probabilities, in nats, for Metric.POLICY_SURPRISE.
    sequence_logprobs: ArrayLike | None = None


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
    #: With `explain`: the nearest neighbour of each rollout, None for those that have none.
    nearest: tuple[Nearest | None, ...]
    #: With `track_reward_variance`: moving average of the variance of the prompt's rewards.
    reward_variance: float | None
    #: With `vendi`: how many distinct solutions the group holds in effect.
    vendi: float | None
    #: What the novelties were divided by.
    divisor: float


@dataclass(frozen=True, slots=True)
class SampleScore:
    """Score of one sample of a group that was collected sample by sample."""

    novelty: float
    #: Metrics on embeddings only; None if there was nothing to compare with.
    nearest: Nearest | None
    #: Samples scored together; fewer than the group's size if it was scored without those that came too late.
    samples: int
    #: Entries of the prompt's memory before and after the group.
    memory_before: int
    memory_after: int


class SampleOptions(TypedDict, total=False):
    """Further arguments of collect_sample: the text or your own embedding, and how to measure."""

    text: str
    #: Reals [dimension].
    embedding: ArrayLike
    #: The response's token ids, for Metric.NGRAM_COUNT.
    token_ids: ArrayLike
    #: Sum of the response's token log-probabilities, in nats, for Metric.POLICY_SURPRISE.
    sequence_logprob: float
    #: The group's first sample decides about these three.
    metric: Metric | str
    scale: Scale | str
    #: Seconds after the group's first sample at which it is scored without those still missing (300).
    wait_seconds: float


def create_namespace(namespace: str, settings: NamespaceSettings | None) -> Call[NamespaceSettings]:
    """Return the call CreateNamespace."""
    request = pb.CreateNamespaceRequest(namespace=namespace, settings=_settings_out(settings))
    return Call(
        NOVELTY, "CreateNamespace", request, lambda response: _settings_in(response.settings), deadline=30
    )


def describe_namespace(namespace: str) -> Call[Namespace]:
    """Return the call DescribeNamespace."""
    return Call(
        NOVELTY,
        "DescribeNamespace",
        pb.DescribeNamespaceRequest(namespace=namespace),
        _namespace,
        deadline=30,
    )


def copy_namespace(source: str, destination: str, replace: bool) -> Call[NamespaceCopy]:
    """Return the call CopyNamespace."""
    request = pb.CopyNamespaceRequest(source=source, destination=destination, replace=replace)
    return Call(
        NOVELTY,
        "CopyNamespace",
        request,
        lambda response: NamespaceCopy(response.solutions, response.prefixes),
        deadline=600,
    )


def delete_namespace(namespace: str) -> Call[bool]:
    """Return the call DeleteNamespace."""
    request = pb.DeleteNamespaceRequest(namespace=namespace)
    return Call(NOVELTY, "DeleteNamespace", request, lambda response: bool(response.existed), deadline=120)


def list_namespaces() -> Call[list[str]]:
    """Return the call ListNamespaces."""
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
    scale: Scale | str = Scale.RAW,
    explain: bool = False,
    track_reward_variance: bool = False,
    vendi: bool = False,
) -> Call[list[GroupScores]]:
    """Return the call ScoreGroups."""
    request = pb.ScoreGroupsRequest(
        namespace=namespace,
        groups=[_group(group, f"groups[{index}]") for index, group in enumerate(groups)],
        metric=_wire.number(Metric, metric, "metric"),
        mode=_wire.number(ScoreMode, mode, "mode"),
        # A call that writes nothing needs no key.
        idempotency_key="" if mode == ScoreMode.SCORE_ONLY else idempotency_key or new_key(),
        scale=_wire.number(Scale, scale, "scale"),
        explain=explain,
        track_reward_variance=track_reward_variance,
        vendi=vendi,
    )

    def parse(response: pb.ScoreGroupsResponse) -> list[GroupScores]:
        if len(response.groups) != len(groups):
            raise InternalError(f"the server sent {len(response.groups)} scores for {len(groups)} groups")
        return [_scores(scores, response.replayed) for scores in response.groups]

    return Call(NOVELTY, "ScoreGroups", request, parse, deadline=600)


def collect_sample(
    namespace: str,
    prompt_id: str,
    group_id: str,
    group_size: int,
    index: int,
    correct: bool | None,
    *,
    text: str = "",
    embedding: ArrayLike | None = None,
    token_ids: ArrayLike = (),
    sequence_logprob: float | None = None,
    metric: Metric | str = Metric.EMBEDDING,
    scale: Scale | str = Scale.RAW,
    wait_seconds: float = 300.0,
) -> Call[SampleScore]:
    """Return the call CollectSample, as NoveltyClient.collect_sample and SampleOptions document it."""
    request = pb.CollectSampleRequest(
        namespace=namespace,
        prompt_id=prompt_id,
        group_id=group_id,
        group_size=group_size,
        index=index,
        text=text,
        embedding=b"" if embedding is None else _wire.float_bytes(embedding),
        correct=bool(correct),
        token_ids=_wire.int_bytes(token_ids, "token_ids"),
        sequence_logprob=sequence_logprob,
        metric=_wire.number(Metric, metric, "metric"),
        scale=_wire.number(Scale, scale, "scale"),
        wait_seconds=wait_seconds,
    )
    # The server answers when the wait is over; scoring then takes its time too.
    return Call(NOVELTY, "CollectSample", request, _sample_score, deadline=wait_seconds + 120)


def query_neighbors(namespace: str, queries: Sequence[NeighborQuery], k: int) -> Call[list[Neighbors]]:
    """Return the call QueryNeighbors."""
    request = pb.QueryNeighborsRequest(
        namespace=namespace,
        queries=[
            pb.NeighborQuery(
                prompt_id=query.prompt_id,
                text=query.text or "",
                embedding=b"" if query.embedding is None else _wire.float_bytes(query.embedding),
            )
            for query in queries
        ],
        k=k,
    )

    def parse(response: pb.QueryNeighborsResponse) -> list[Neighbors]:
        if len(response.results) != len(queries):
            raise InternalError(f"the server sent {len(response.results)} results for {len(queries)} queries")
        return [
            Neighbors(
                tuple(found for nearest in result.neighbors if (found := _nearest(nearest))),
                errors.from_item(result.error),
            )
            for result in response.results
        ]

    return Call(NOVELTY, "QueryNeighbors", request, parse, deadline=120)


def list_prompts(namespace: str, page_size: int, page_token: str) -> Call[tuple[list[PromptSummary], str]]:
    """Return the call ListPrompts: one page, and the token of the next one, empty after the last."""
    request = pb.ListPromptsRequest(namespace=namespace, page_size=page_size, page_token=page_token)
    return Call(
        NOVELTY,
        "ListPrompts",
        request,
        lambda response: ([_summary(prompt) for prompt in response.prompts], response.next_page_token),
        deadline=60,
    )


def delete_prompts(namespace: str, prompt_ids: Sequence[str]) -> Call[list[bool]]:
    """Return the call DeletePrompts."""
    request = pb.DeletePromptsRequest(namespace=namespace, prompt_ids=prompt_ids)
    return Call(NOVELTY, "DeletePrompts", request, lambda response: list(response.existed), deadline=120)


def export_namespace(namespace: str) -> Call[bytes]:
    """Return the call ExportNamespace; each message is the next piece of the file."""
    request = pb.ExportNamespaceRequest(namespace=namespace)
    return Call(NOVELTY, "ExportNamespace", request, lambda response: bytes(response.chunk), deadline=3600)


def import_namespace(messages: Any) -> Call[ImportedNamespace]:
    """Return the call ImportNamespace, which sends what `import_messages` makes."""
    return Call(NOVELTY, "ImportNamespace", messages, _imported, deadline=3600)


def import_messages(namespace: str, path: Path, replace: bool) -> Iterator[pb.ImportNamespaceRequest]:
    """Yield the messages that send the file at `path`."""
    with path.open("rb") as file:
        yield pb.ImportNamespaceRequest(namespace=namespace, replace=replace)
        while chunk := file.read(_CHUNK_BYTES):
            yield pb.ImportNamespaceRequest(chunk=chunk)


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """Open a file to write that replaces `path` once it is complete."""
    part = path.with_name(path.name + ".part")
    try:
        with part.open("wb") as file:
            yield file
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def only(scores: list[GroupScores]) -> NDArray[np.float32]:
    """Return the novelty of the only group, or raise the error it was refused with."""
    if scores[0].error is not None:
        raise scores[0].error
    return scores[0].novelty


def _settings_out(settings: NamespaceSettings | None) -> pb.NamespaceSettings:
    if settings is None:
        return pb.NamespaceSettings()
    return pb.NamespaceSettings(
        memory_capacity=settings.memory_capacity,
        min_history=settings.min_history,
        memory_policy=_wire.number(MemoryPolicy, settings.memory_policy, "settings.memory_policy"),
        prefix_capacity=settings.prefix_capacity,
        text_window=_wire.number(TextWindow, settings.text_window, "settings.text_window"),
        storage=_wire.number(VectorStorage, settings.storage, "settings.storage"),
        ngram_size=settings.ngram_size,
        cluster_similarity=settings.cluster_similarity,
        variance_rate=settings.variance_rate,
    )


def _settings_in(settings: pb.NamespaceSettings) -> NamespaceSettings:
    return NamespaceSettings(
        memory_capacity=settings.memory_capacity,
        min_history=settings.min_history,
        memory_policy=_wire.optional_member(MemoryPolicy, settings.memory_policy),
        prefix_capacity=settings.prefix_capacity,
        text_window=_wire.optional_member(TextWindow, settings.text_window),
        storage=_wire.optional_member(VectorStorage, settings.storage),
        ngram_size=settings.ngram_size,
        cluster_similarity=settings.cluster_similarity,
        variance_rate=settings.variance_rate,
    )


def _namespace(response: pb.DescribeNamespaceResponse) -> Namespace:
    return Namespace(
        settings=_settings_in(response.settings),
        prompts=response.prompts,
        solutions=response.solutions,
        prefixes=response.prefixes,
        embedding_model=response.embedding_model,
        dimension=response.dimension,
        positive=tuple(
            PositiveNovelty(_wire.member(Metric, positive.metric), positive.count, positive.mean)
            for positive in response.positive
        ),
        index_hits=response.index_hits,
        index_loads=response.index_loads,
        texts_embedded=response.texts_embedded,
        texts_cached=response.texts_cached,
    )


def _imported(response: pb.ImportNamespaceResponse) -> ImportedNamespace:
    return ImportedNamespace(
        _settings_in(response.settings), response.prompts, response.solutions, response.prefixes
    )


def _summary(prompt: pb.PromptSummary) -> PromptSummary:
    return PromptSummary(
        prompt_id=prompt.prompt_id,
        solutions=prompt.solutions,
        solutions_added=prompt.solutions_added,
        prefixes=prompt.prefixes,
        reward_variance=prompt.reward_variance,
    )


def _nearest(nearest: pb.Nearest) -> Nearest | None:
    kind = _wire.optional_member(NearestKind, nearest.kind)
    if kind is None:
        return None
    return Nearest(
        kind=kind,
        solution_id=nearest.solution_id if kind is NearestKind.SOLUTION else None,
        sibling=nearest.sibling if kind is NearestKind.SIBLING else None,
        excerpt=nearest.excerpt,
        similarity=nearest.similarity,
    )


def _sample_score(response: pb.CollectSampleResponse) -> SampleScore:
    return SampleScore(
        novelty=response.novelty,
        nearest=_nearest(response.nearest),
        samples=response.samples,
        memory_before=response.memory_before,
        memory_after=response.memory_after,
    )


def _group(group: Group, field: str) -> pb.Group:
    return pb.Group(
        prompt_id=group.prompt_id,
        texts=group.texts,
        embeddings=b"" if group.embeddings is None else _wire.float_bytes(group.embeddings),
        correct=[bool(correct) for correct in group.correct],
        token_ids=[
            _wire.int_bytes(ids, f"{field}.token_ids[{index}]")
            for index, ids in enumerate(group.token_ids or ())
        ],
        sequence_logprobs=b""
        if group.sequence_logprobs is None
        else _wire.float_bytes(group.sequence_logprobs),
    )


def _scores(scores: pb.GroupScores, replayed: bool) -> GroupScores:
    return GroupScores(
        novelty=_wire.floats(scores.novelty),
        memory_before=scores.memory_before,
        memory_after=scores.memory_after,
        error=errors.from_item(scores.error),
        replayed=replayed,
        nearest=tuple(_nearest(nearest) for nearest in scores.nearest),
        reward_variance=scores.reward_variance if scores.HasField("reward_variance") else None,
        vendi=scores.vendi if scores.HasField("vendi") else None,
        divisor=scores.divisor,
    )
