"""NoveltyService over gRPC: messages to the domain and back, nothing else."""

import tempfile
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import numpy as np

from extra_rl.v1 import novelty_pb2, novelty_pb2_grpc
from extra_services.errors import InvalidInput
from extra_services.memory import transfer
from extra_services.memory.instruments import REQUESTS_WAITING, STAGES
from extra_services.memory.memory import Memory
from extra_services.memory.records import Header, MemoryPolicy, NamespaceSettings, Storage, TextWindow
from extra_services.novelty.collecting import DEFAULT_WAIT_SECONDS, Sample, SampleCollector
from extra_services.novelty.neighbors import NeighborQuery, nearest_solutions
from extra_services.novelty.request import (
    GroupAnswer,
    GroupScores,
    Limits,
    Metric,
    Mode,
    Nearest,
    Options,
    RolloutGroup,
    Scale,
)
from extra_services.novelty.scoring import NoveltyScorer
from extra_services.runtime import arrays
from extra_services.runtime.errors import item_error
from extra_services.runtime.threads import Threads, in_thread

Result = TypeVar("Result")

POLICIES: dict[int, MemoryPolicy] = {
    novelty_pb2.MEMORY_POLICY_UNSPECIFIED: "correct",
    novelty_pb2.MEMORY_POLICY_CORRECT: "correct",
    novelty_pb2.MEMORY_POLICY_ALL: "all",
}
WINDOWS: dict[int, TextWindow] = {
    novelty_pb2.TEXT_WINDOW_UNSPECIFIED: "reference",
    novelty_pb2.TEXT_WINDOW_REFERENCE: "reference",
    novelty_pb2.TEXT_WINDOW_WHOLE: "whole",
}
STORAGES: dict[int, Storage] = {
    novelty_pb2.VECTOR_STORAGE_UNSPECIFIED: "float32",
    novelty_pb2.VECTOR_STORAGE_FLOAT32: "float32",
    novelty_pb2.VECTOR_STORAGE_FLOAT16: "float16",
}
MODES: dict[int, Mode] = {
    novelty_pb2.SCORE_MODE_UNSPECIFIED: "score_and_remember",
    novelty_pb2.SCORE_MODE_SCORE_AND_REMEMBER: "score_and_remember",
    novelty_pb2.SCORE_MODE_SCORE_ONLY: "score_only",
    novelty_pb2.SCORE_MODE_REMEMBER_ONLY: "remember_only",
}
METRICS: dict[int, Metric] = {
    novelty_pb2.METRIC_UNSPECIFIED: "embedding",
    novelty_pb2.METRIC_EMBEDDING: "embedding",
    novelty_pb2.METRIC_NGRAM_COUNT: "ngram_count",
    novelty_pb2.METRIC_POLICY_SURPRISE: "policy_surprise",
    novelty_pb2.METRIC_MEAN_COSINE: "mean_cosine",
    novelty_pb2.METRIC_CLUSTER_SIZE: "cluster_size",
}
SCALES: dict[int, Scale] = {
    novelty_pb2.SCALE_UNSPECIFIED: "raw",
    novelty_pb2.SCALE_RAW: "raw",
    novelty_pb2.SCALE_GROUP_MAX: "group_max",
    novelty_pb2.SCALE_RUNNING_MEAN: "running_mean",
}
KINDS = {"solution": novelty_pb2.Nearest.KIND_SOLUTION, "sibling": novelty_pb2.Nearest.KIND_SIBLING}
#: Settings that are plain numbers, in the message and the domain.
NUMBERS = (
    "memory_capacity",
    "min_history",
    "prefix_capacity",
    "ngram_size",
    "cluster_similarity",
    "variance_rate",
)
DEFAULT_PAGE_SIZE = 1000
MAX_PAGE_SIZE = 10_000
#: Pieces of an exported file; well below the 4 MiB that a gRPC client accepts unless told otherwise.
CHUNK_BYTES = 2**20


class NoveltyServicer(novelty_pb2_grpc.NoveltyServiceServicer):
    """Runs the domain's blocking calls in `threads`."""

    def __init__(
        self,
        memory: Memory,
        scorer: NoveltyScorer,
        collector: SampleCollector,
        threads: Threads,
        limits: Limits,
        max_import_bytes: int,
    ) -> None:
        self._memory = memory
        self._scorer = scorer
        self._collector = collector
        self._threads = threads
        self._limits = limits
        self._max_import_bytes = max_import_bytes

    async def CreateNamespace(
        self, request: novelty_pb2.CreateNamespaceRequest, context: object
    ) -> novelty_pb2.CreateNamespaceResponse:
        settings = _settings(request.settings)
        namespace, created = await self._run(
            lambda: self._memory.create_namespace(request.namespace, settings)
        )
        return novelty_pb2.CreateNamespaceResponse(
            settings=_settings_message(namespace.settings), created=created
        )

    async def DescribeNamespace(
        self, request: novelty_pb2.DescribeNamespaceRequest, context: object
    ) -> novelty_pb2.DescribeNamespaceResponse:
        return await self._run(lambda: self._describe(request.namespace))

    async def CopyNamespace(
        self, request: novelty_pb2.CopyNamespaceRequest, context: object
    ) -> novelty_pb2.CopyNamespaceResponse:
        sizes = await self._run(
            lambda: self._memory.copy_namespace(request.source, request.destination, request.replace)
        )
        return novelty_pb2.CopyNamespaceResponse(solutions=sizes.solutions, prefixes=sizes.prefixes)

    async def DeleteNamespace(
        self, request: novelty_pb2.DeleteNamespaceRequest, context: object
    ) -> novelty_pb2.DeleteNamespaceResponse:
        existed = await self._run(lambda: self._memory.delete_namespace(request.namespace))
        return novelty_pb2.DeleteNamespaceResponse(existed=existed)

    async def ListNamespaces(
        self, request: novelty_pb2.ListNamespacesRequest, context: object
    ) -> novelty_pb2.ListNamespacesResponse:
        return novelty_pb2.ListNamespacesResponse(namespaces=await self._run(self._memory.store.namespaces))

    async def ScoreGroups(
        self, request: novelty_pb2.ScoreGroupsRequest, context: object
    ) -> novelty_pb2.ScoreGroupsResponse:
        return await self._run(lambda: self._score(request))

    async def CollectSample(
        self, request: novelty_pb2.CollectSampleRequest, context: object
    ) -> novelty_pb2.CollectSampleResponse:
        scored = await self._collector.collect(_sample(request))
        scores, position = scored.scores, scored.position
        return novelty_pb2.CollectSampleResponse(
            novelty=float(scores.novelty[position]),
            nearest=_nearest_message(scores.nearest[position]) if scores.nearest else None,
            samples=scored.samples,
            memory_before=scores.memory_before,
            memory_after=scores.memory_after,
        )

    async def QueryNeighbors(
        self, request: novelty_pb2.QueryNeighborsRequest, context: object
    ) -> novelty_pb2.QueryNeighborsResponse:
        return await self._run(lambda: self._query(request))

    async def ListPrompts(
        self, request: novelty_pb2.ListPromptsRequest, context: object
    ) -> novelty_pb2.ListPromptsResponse:
        size = request.page_size or DEFAULT_PAGE_SIZE
        if size > MAX_PAGE_SIZE:
            raise InvalidInput("page_size", f"must be at most {MAX_PAGE_SIZE}, is {size}")
        namespace = await self._run(lambda: self._memory.store.namespace(request.namespace))
        page = await self._run(lambda: self._memory.store.page(namespace, request.page_token, size))
        capacity = namespace.settings.memory_capacity
        return novelty_pb2.ListPromptsResponse(
            prompts=[_summary(prompt, header, capacity) for prompt, header in page],
            next_page_token=page[-1][0] if len(page) == size else "",
        )

    async def DeletePrompts(
        self, request: novelty_pb2.DeletePromptsRequest, context: object
    ) -> novelty_pb2.DeletePromptsResponse:
        if len(request.prompt_ids) > self._limits.rollouts_per_request:
            limit = self._limits.rollouts_per_request
            raise InvalidInput(
                "prompt_ids", f"{len(request.prompt_ids)} in one request; send at most {limit}"
            )
        prompts = list(request.prompt_ids)
        existed = set(await self._run(lambda: self._memory.delete_prompts(request.namespace, prompts)))
        return novelty_pb2.DeletePromptsResponse(existed=[prompt in existed for prompt in prompts])

    async def ExportNamespace(
        self, request: novelty_pb2.ExportNamespaceRequest, context: object
    ) -> AsyncIterator[novelty_pb2.ExportNamespaceResponse]:
        pieces = transfer.export(self._memory, request.namespace)
        while (piece := await self._run(lambda: next(pieces, None))) is not None:
            for start in range(0, len(piece), CHUNK_BYTES):
                yield novelty_pb2.ExportNamespaceResponse(chunk=piece[start : start + CHUNK_BYTES])

    async def ImportNamespace(
        self, requests: AsyncIterator[novelty_pb2.ImportNamespaceRequest], context: object
    ) -> novelty_pb2.ImportNamespaceResponse:
        first: novelty_pb2.ImportNamespaceRequest | None = None
        received = 0
        with tempfile.NamedTemporaryFile(prefix="extra-rl-import-") as file:
            async for request in requests:
                first = first or request
                received += len(request.chunk)
                if received > self._max_import_bytes:
                    raise InvalidInput("chunk", f"the file is larger than {self._max_import_bytes} bytes")
                file.write(request.chunk)
            file.flush()
            if first is None:
                raise InvalidInput("namespace", "no message was sent")
            name, replaces = first.namespace, first.replace
            namespace, sizes = await self._run(
                lambda: transfer.import_file(self._memory, name, Path(file.name), replaces)
            )
        return novelty_pb2.ImportNamespaceResponse(
            settings=_settings_message(namespace.settings),
            prompts=sizes.prompts,
            solutions=sizes.solutions,
            prefixes=sizes.prefixes,
        )

    def _describe(self, name: str) -> novelty_pb2.DescribeNamespaceResponse:
        namespace = self._memory.store.namespace(name)
        sizes = self._memory.store.sizes(namespace)
        hits, loads = self._memory.index_figures(namespace)
        embedded, cached = self._memory.embedding_figures()
        numbers = {metric: number for number, metric in METRICS.items() if number}
        return novelty_pb2.DescribeNamespaceResponse(
            settings=_settings_message(namespace.settings),
            prompts=sizes.prompts,
            solutions=sizes.solutions,
            prefixes=sizes.prefixes,
            embedding_model=namespace.solutions.model,
            dimension=namespace.solutions.dimension,
            positive=[
                novelty_pb2.PositiveNovelty(metric=numbers[metric], count=count, mean=total / count)  # type: ignore[arg-type,index]
                for metric, (total, count) in sorted(namespace.positive.items())
            ],
            index_hits=hits,
            index_loads=loads,
            texts_embedded=embedded,
            texts_cached=cached,
        )

    def _score(self, request: novelty_pb2.ScoreGroupsRequest) -> novelty_pb2.ScoreGroupsResponse:
        options = Options(
            metric=_known(METRICS, request.metric, "metric"),
            mode=_known(MODES, request.mode, "mode"),
            scale=_known(SCALES, request.scale, "scale"),
            explain=request.explain,
            track_reward_variance=request.track_reward_variance,
            vendi=request.vendi,
        )
        limit = self._limits.rollouts_per_request
        if len(request.groups) > limit:
            raise InvalidInput("groups", f"{len(request.groups)} in one request; send at most {limit}")
        decoded = [_group(message) for message in request.groups]
        groups = [group for group in decoded if isinstance(group, RolloutGroup)]
        scored, replayed = self._scorer.score(request.namespace, groups, options, request.idempotency_key)
        remaining = iter(scored)
        answers = [group if isinstance(group, InvalidInput) else next(remaining) for group in decoded]
        return novelty_pb2.ScoreGroupsResponse(
            groups=[_scores_message(answer) for answer in answers], replayed=replayed
        )

    def _query(self, request: novelty_pb2.QueryNeighborsRequest) -> novelty_pb2.QueryNeighborsResponse:
        decoded = [_query(message) for message in request.queries]
        queries = [query for query in decoded if isinstance(query, NeighborQuery)]
        k = request.k if request.HasField("k") else 1
        remaining = iter(nearest_solutions(self._memory, request.namespace, queries, k, self._limits))
        answers = [query if isinstance(query, InvalidInput) else next(remaining) for query in decoded]
        return novelty_pb2.QueryNeighborsResponse(results=[_neighbors_message(answer) for answer in answers])

    async def _run(self, call: Callable[[], Result]) -> Result:
        return await in_thread(self._threads, call, STAGES, REQUESTS_WAITING)


def _known(names: dict[int, Result], number: int, field: str) -> Result:
    if number not in names:
        raise InvalidInput(field, f"{number} is not a value this server knows")
    return names[number]


def _settings(message: novelty_pb2.NamespaceSettings) -> NamespaceSettings:
    given = {name: getattr(message, name) for name in NUMBERS if message.HasField(name)}  # type: ignore[arg-type]
    settings = replace(
        NamespaceSettings(
            memory_policy=_known(POLICIES, message.memory_policy, "settings.memory_policy"),
            text_window=_known(WINDOWS, message.text_window, "settings.text_window"),
            storage=_known(STORAGES, message.storage, "settings.storage"),
        ),
        **given,
    )
    settings.check()
    # Arithmetic allows it, and the reference's cases have it; of a caller it can only be a mistake.
    if settings.min_history > settings.memory_capacity:
        raise InvalidInput(
            "settings.min_history",
            f"{settings.min_history} is more than memory_capacity, {settings.memory_capacity}:"
            " novelty would always be 0",
        )
    return settings


def _settings_message(settings: NamespaceSettings) -> novelty_pb2.NamespaceSettings:
    message = novelty_pb2.NamespaceSettings(
        memory_policy=_number(POLICIES, settings.memory_policy),  # type: ignore[arg-type]
        text_window=_number(WINDOWS, settings.text_window),  # type: ignore[arg-type]
        storage=_number(STORAGES, settings.storage),  # type: ignore[arg-type]
    )
    for name in NUMBERS:
        setattr(message, name, getattr(settings, name))
    return message


def _number(names: dict[int, Result], name: Result) -> int:
    return next(number for number, known in names.items() if known == name and number)


def _group(message: novelty_pb2.Group) -> RolloutGroup | InvalidInput:
    """Only metrics say which of the fields they need; here each is decoded if it is there."""
    correct = np.array(message.correct, dtype=np.bool_)
    try:
        logprobs = arrays.floats(message.sequence_logprobs, "sequence_logprobs")
        tokens = [arrays.ints(ids, f"token_ids[{i}]") for i, ids in enumerate(message.token_ids)]
        embeddings = _embeddings(message.embeddings, len(correct)) if message.embeddings else None
    except InvalidInput as error:
        return error
    texts = list(message.texts) or None
    return RolloutGroup(
        message.prompt_id,
        correct,
        texts=texts,
        embeddings=embeddings,
        token_ids=tokens or None,
        sequence_logprobs=logprobs if len(logprobs) else None,
    )


def _embeddings(data: bytes, count: int) -> "np.ndarray[tuple[int, int], np.dtype[np.float32]]":
    """float32 [count, dimension]; the domain says which of the vectors cannot be used."""
    values = len(data) // 4
    if len(data) % 4 or not count or values % count:
        raise InvalidInput("embeddings", f"{len(data)} bytes are not the float32 values of {count} vectors")
    return np.frombuffer(data, dtype="<f4").reshape(count, -1)


def _sample(request: novelty_pb2.CollectSampleRequest) -> Sample:
    return Sample(
        request.namespace,
        request.prompt_id,
        request.group_id,
        request.group_size,
        request.index,
        request.correct,
        text=None if request.embedding else request.text,
        embedding=arrays.floats(request.embedding, "embedding") if request.embedding else None,
        token_ids=arrays.ints(request.token_ids, "token_ids"),
        sequence_logprob=request.sequence_logprob if request.HasField("sequence_logprob") else None,
        metric=_known(METRICS, request.metric, "metric"),
        scale=_known(SCALES, request.scale, "scale"),
        wait_seconds=request.wait_seconds if request.HasField("wait_seconds") else DEFAULT_WAIT_SECONDS,
    )


def _query(message: novelty_pb2.NeighborQuery) -> NeighborQuery | InvalidInput:
    if not message.embedding:
        return NeighborQuery(message.prompt_id, text=message.text)
    try:
        return NeighborQuery(message.prompt_id, embedding=arrays.floats(message.embedding, "embedding"))
    except InvalidInput as error:
        return error


def _scores_message(answer: GroupAnswer) -> novelty_pb2.GroupScores:
    if isinstance(answer, GroupScores):
        return novelty_pb2.GroupScores(
            novelty=arrays.to_bytes(answer.novelty),
            memory_before=answer.memory_before,
            memory_after=answer.memory_after,
            nearest=[_nearest_message(neighbour) for neighbour in answer.nearest],
            reward_variance=answer.reward_variance,
            vendi=answer.vendi,
            divisor=answer.divisor,
        )
    return novelty_pb2.GroupScores(error=item_error(answer))


def _nearest_message(nearest: Nearest | None) -> novelty_pb2.Nearest:
    if nearest is None:
        return novelty_pb2.Nearest()
    stored = nearest.kind == "solution"
    return novelty_pb2.Nearest(
        kind=KINDS[nearest.kind],
        solution_id=nearest.number if stored else 0,
        sibling=0 if stored else nearest.number,
        excerpt=nearest.excerpt,
        similarity=nearest.similarity,
    )


def _neighbors_message(answer: list[Nearest] | InvalidInput) -> novelty_pb2.Neighbors:
    if isinstance(answer, InvalidInput):
        return novelty_pb2.Neighbors(error=item_error(answer))
    return novelty_pb2.Neighbors(neighbors=[_nearest_message(neighbour) for neighbour in answer])


def _summary(prompt: str, header: Header, capacity: int) -> novelty_pb2.PromptSummary:
    return novelty_pb2.PromptSummary(
        prompt_id=prompt,
        solutions=min(header.solutions_added, capacity),
        solutions_added=header.solutions_added,
        prefixes=header.prefixes_stored,
        reward_variance=header.reward_variance,
    )
