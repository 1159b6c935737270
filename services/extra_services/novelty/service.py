"""NoveltyService over gRPC: messages to the domain and back, nothing else."""

import asyncio
from collections.abc import Callable
from concurrent.futures import Executor
from typing import TypeVar

import numpy as np

from extra_rl.v1 import novelty_pb2, novelty_pb2_grpc
from extra_services.errors import InvalidInput
from extra_services.memory.memory import Memory
from extra_services.memory.records import MemoryPolicy, NamespaceSettings
from extra_services.novelty.scoring import GroupAnswer, GroupScores, Mode, NoveltyScorer, RolloutGroup
from extra_services.runtime import arrays
from extra_services.runtime.errors import item_error

Result = TypeVar("Result")

POLICIES: dict[int, MemoryPolicy] = {
    novelty_pb2.MEMORY_POLICY_UNSPECIFIED: "correct",
    novelty_pb2.MEMORY_POLICY_CORRECT: "correct",
    novelty_pb2.MEMORY_POLICY_ALL: "all",
}
MODES: dict[int, Mode] = {
    novelty_pb2.SCORE_MODE_UNSPECIFIED: "score_and_remember",
    novelty_pb2.SCORE_MODE_SCORE_AND_REMEMBER: "score_and_remember",
    novelty_pb2.SCORE_MODE_SCORE_ONLY: "score_only",
    novelty_pb2.SCORE_MODE_REMEMBER_ONLY: "remember_only",
}
METRICS = (novelty_pb2.METRIC_UNSPECIFIED, novelty_pb2.METRIC_EMBEDDING)


class NoveltyServicer(novelty_pb2_grpc.NoveltyServiceServicer):
    """Runs the domain's blocking calls in `executor`."""

    def __init__(self, memory: Memory, scorer: NoveltyScorer, executor: Executor) -> None:
        self._memory = memory
        self._scorer = scorer
        self._executor = executor

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
        namespace = await self._run(lambda: self._memory.store.namespace(request.namespace))
        sizes = await self._run(lambda: self._memory.store.sizes(namespace))
        return novelty_pb2.DescribeNamespaceResponse(
            settings=_settings_message(namespace.settings),
            prompts=sizes.prompts,
            solutions=sizes.solutions,
            prefixes=sizes.prefixes,
            embedding_model=namespace.solutions.model,
            dimension=namespace.solutions.dimension,
        )

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
        if request.metric not in METRICS:
            raise InvalidInput("metric", f"{request.metric} is not a metric this server knows")
        if request.mode not in MODES:
            raise InvalidInput("mode", f"{request.mode} is not a mode this server knows")
        return await self._run(lambda: self._score(request))

    def _score(self, request: novelty_pb2.ScoreGroupsRequest) -> novelty_pb2.ScoreGroupsResponse:
        decoded = [_group(message) for message in request.groups]
        groups = [group for group in decoded if isinstance(group, RolloutGroup)]
        scored, replayed = self._scorer.score(
            request.namespace, groups, MODES[request.mode], request.idempotency_key
        )
        remaining = iter(scored)
        answers = [group if isinstance(group, InvalidInput) else next(remaining) for group in decoded]
        return novelty_pb2.ScoreGroupsResponse(
            groups=[_scores_message(answer) for answer in answers], replayed=replayed
        )

    async def _run(self, call: Callable[[], Result]) -> Result:
        return await asyncio.get_running_loop().run_in_executor(self._executor, call)


def _settings(message: novelty_pb2.NamespaceSettings) -> NamespaceSettings:
    if message.memory_policy not in POLICIES:
        raise InvalidInput(
            "settings.memory_policy", f"{message.memory_policy} is not a policy this server knows"
        )
    given = {
        name: getattr(message, name)
        for name in ("memory_capacity", "min_history", "prefix_capacity")
        if message.HasField(name)
    }
    settings = NamespaceSettings(memory_policy=POLICIES[message.memory_policy], **given)
    if settings.min_history > settings.memory_capacity:
        raise InvalidInput(
            "settings.min_history",
            f"{settings.min_history} is more than memory_capacity, {settings.memory_capacity}:"
            " novelty would always be 0",
        )
    return settings


def _settings_message(settings: NamespaceSettings) -> novelty_pb2.NamespaceSettings:
    policy = (
        novelty_pb2.MEMORY_POLICY_ALL
        if settings.memory_policy == "all"
        else novelty_pb2.MEMORY_POLICY_CORRECT
    )
    return novelty_pb2.NamespaceSettings(
        memory_capacity=settings.memory_capacity,
        min_history=settings.min_history,
        memory_policy=policy,
        prefix_capacity=settings.prefix_capacity,
    )


def _group(message: novelty_pb2.Group) -> RolloutGroup | InvalidInput:
    correct = np.array(message.correct, dtype=np.bool_)
    if not message.embeddings:
        return RolloutGroup(message.prompt_id, correct, texts=list(message.texts))
    try:
        values = arrays.floats(message.embeddings, "embeddings")
    except InvalidInput as error:
        return error
    if message.texts:
        return InvalidInput("embeddings", "give either texts or embeddings, not both")
    if not len(correct) or len(values) % len(correct):
        return InvalidInput("embeddings", f"{len(values)} values do not divide among {len(correct)} rollouts")
    return RolloutGroup(message.prompt_id, correct, embeddings=values.reshape(len(correct), -1))


def _scores_message(answer: GroupAnswer) -> novelty_pb2.GroupScores:
    if isinstance(answer, GroupScores):
        return novelty_pb2.GroupScores(
            novelty=arrays.to_bytes(answer.novelty),
            memory_before=answer.memory_before,
            memory_after=answer.memory_after,
        )
    return novelty_pb2.GroupScores(error=item_error(answer))
