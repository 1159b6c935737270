"""NoveltyService over gRPC: translates messages to the domain and back."""

from collections.abc import Callable, Mapping
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from extra_rl import wire
from extra_rl.v1 import common_pb2, novelty_pb2, novelty_pb2_grpc
from extra_rl.vocabulary import Metric, NearestKind, OutcomeScope, Scale, ScoreMode
from extra_services.errors import InvalidInput
from extra_services.memory.instruments import REQUESTS_WAITING, STAGES
from extra_services.memory.memory import Memory
from extra_services.novelty.collecting import (
    DEFAULT_WAIT_SECONDS,
    MAX_GROUP_SIZE,
    MAX_WAIT_SECONDS,
    Sample,
    SampleCollector,
)
from extra_services.novelty.embedding import embed_texts
from extra_services.novelty.neighbors import MAX_NEIGHBORS, NeighborQuery, nearest_solutions
from extra_services.novelty.request import (
    AnswerCount,
    GroupAnswer,
    GroupScores,
    Nearest,
    NoveltyLimits,
    RolloutGroup,
    ScoringOptions,
)
from extra_services.novelty.scoring import NoveltyScorer
from extra_services.runtime import arrays
from extra_services.runtime.errors import item_error
from extra_services.runtime.metrics import record_stages
from extra_services.runtime.threads import Threads, in_thread

Result = TypeVar("Result")


class NoveltyServicer(novelty_pb2_grpc.NoveltyServiceServicer):
    """Runs the domain's blocking calls in `threads`."""

    def __init__(
        self,
        memory: Memory,
        scorer: NoveltyScorer,
        collector: SampleCollector,
        threads: Threads,
        limits: NoveltyLimits,
        server: common_pb2.ServerInfo,
    ) -> None:
        self._memory = memory
        self._scorer = scorer
        self._collector = collector
        self._threads = threads
        self._limits = limits
        self._server = server

    async def ScoreGroups(
        self, request: novelty_pb2.ScoreGroupsRequest, context: object
    ) -> novelty_pb2.ScoreGroupsResponse:
        seconds = record_stages()
        response = await self._run(lambda: self._score(request))
        response.timings.CopyFrom(_timings(seconds))
        return response

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
            timings=_timings(scored.seconds),
            answer_count=_count_message(scores.answer_counts[position]) if scores.answer_counts else None,
            mean_novelty=scores.mean_novelty(),
            correct_samples=scores.correct,
            suspicious=scores.suspicious[position] if scores.suspicious else "",
            new_steps=scores.new_steps[position] if scores.new_steps else (),
            raw_novelty=_raw_novelty(scores, position),
        )

    async def QueryNeighbors(
        self, request: novelty_pb2.QueryNeighborsRequest, context: object
    ) -> novelty_pb2.QueryNeighborsResponse:
        seconds = record_stages()
        response = await self._run(lambda: self._query(request))
        response.timings.CopyFrom(_timings(seconds))
        return response

    async def Embed(self, request: novelty_pb2.EmbedRequest, context: object) -> novelty_pb2.EmbedResponse:
        seconds = record_stages()
        texts = list(request.texts)
        metric = arrays.requested(Metric, request.metric, "metric")
        problems, references = list(request.problems), list(request.reference_answers)
        found = await self._run(
            lambda: embed_texts(
                self._memory, request.namespace, texts, self._limits, metric, problems, references
            )
        )
        return novelty_pb2.EmbedResponse(
            errors=[common_pb2.Error() if error is None else item_error(error) for error in found.errors],
            vectors=wire.float_bytes(found.vectors) if request.return_vectors else b"",
            dimension=found.vectors.shape[1],
            embedded=found.embedded,
            cached=found.cached,
            timings=_timings(seconds),
        )

    async def GetInfo(
        self, request: novelty_pb2.NoveltyServiceGetInfoRequest, context: object
    ) -> novelty_pb2.NoveltyServiceGetInfoResponse:
        model = self._memory.embedding_model()
        return novelty_pb2.NoveltyServiceGetInfoResponse(
            server=self._server,
            embedding_model=model.model,
            embedding_dimension=model.dimension,
            max_rollouts=self._limits.rollouts_per_request,
            max_text_characters=self._limits.text_characters,
            max_tokens_per_rollout=self._limits.tokens_per_rollout,
            max_dimension=self._limits.dimension,
            max_neighbors=MAX_NEIGHBORS,
            max_group_size=MAX_GROUP_SIZE,
            max_wait_seconds=MAX_WAIT_SECONDS,
        )

    def _score(self, request: novelty_pb2.ScoreGroupsRequest) -> novelty_pb2.ScoreGroupsResponse:
        options = ScoringOptions(
            metric=arrays.requested(Metric, request.metric, "metric"),
            mode=arrays.requested(ScoreMode, request.mode, "mode"),
            scale=arrays.requested(Scale, request.scale, "scale"),
            explain=request.explain,
            track_reward_variance=request.track_reward_variance,
            vendi=request.vendi,
            outcome_scope=arrays.requested(OutcomeScope, request.outcome_scope, "outcome_scope"),
            ignore_history=request.ignore_history,
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


def _group(message: novelty_pb2.Group) -> RolloutGroup | InvalidInput:
    """Decode every field that is set; the domain checks those that the metric needs."""
    # A list first: numpy reads a repeated field of protobuf one item at a time.
    correct = np.array(list(message.correct), dtype=np.bool_)
    try:
        return RolloutGroup(
            message.prompt_id,
            correct,
            texts=list(message.texts) or None,
            embeddings=_embeddings(message.embeddings, len(correct)) if message.embeddings else None,
            token_ids=_token_ids(message) or None,
            sequence_logprobs=_logprobs(message) if message.sequence_logprobs else None,
            answers=list(message.answers) or None,
            undecided=np.array(list(message.undecided), dtype=np.bool_) if message.undecided else None,
            problem=message.problem,
            reference_answer=message.reference_answer,
        )
    except InvalidInput as error:
        return error


def _token_ids(message: novelty_pb2.Group) -> list[NDArray[np.int32]]:
    return [arrays.ints(ids, f"token_ids[{place}]") for place, ids in enumerate(message.token_ids)]


def _logprobs(message: novelty_pb2.Group) -> NDArray[np.float32]:
    return arrays.floats(message.sequence_logprobs, "sequence_logprobs")


def _embeddings(data: bytes, count: int) -> NDArray[np.float32]:
    """Decode float32 [count, dimension]; the domain finds the vectors that cannot be used."""
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
        answer=request.answer,
        undecided=request.undecided,
        metric=arrays.requested(Metric, request.metric, "metric"),
        scale=arrays.requested(Scale, request.scale, "scale"),
        outcome_scope=arrays.requested(OutcomeScope, request.outcome_scope, "outcome_scope"),
        ignore_history=request.ignore_history,
        problem=request.problem,
        reference_answer=request.reference_answer,
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
            novelty=wire.float_bytes(answer.novelty),
            memory_before=answer.memory_before,
            memory_after=answer.memory_after,
            nearest=[_nearest_message(neighbour) for neighbour in answer.nearest],
            reward_variance=answer.reward_variance,
            vendi=answer.vendi,
            divisor=answer.divisor,
            answer_counts=[_count_message(count) for count in answer.answer_counts],
            suspicious=answer.suspicious,
            new_steps=[novelty_pb2.NewSteps(steps=steps) for steps in answer.new_steps],
            raw_novelty=b"" if answer.raw is None else wire.float_bytes(answer.raw),
        )
    return novelty_pb2.GroupScores(error=item_error(answer))


def _raw_novelty(scores: GroupScores, position: int) -> float:
    if scores.raw is not None:
        return float(scores.raw[position])
    return float(scores.novelty[position]) * scores.divisor


def _nearest_message(nearest: Nearest | None) -> novelty_pb2.Nearest:
    if nearest is None:
        return novelty_pb2.Nearest()
    stored = nearest.kind is NearestKind.SOLUTION
    return novelty_pb2.Nearest(
        kind=wire.number(nearest.kind),  # type: ignore[arg-type]
        solution_id=nearest.number if stored else 0,
        sibling=0 if stored else nearest.number,
        excerpt=nearest.excerpt,
        similarity=nearest.similarity,
    )


def _count_message(count: AnswerCount | None) -> novelty_pb2.AnswerCount:
    if count is None:
        return novelty_pb2.AnswerCount()
    return novelty_pb2.AnswerCount(earlier=count.earlier, in_group=count.in_group)


def _neighbors_message(answer: list[Nearest] | InvalidInput) -> novelty_pb2.Neighbors:
    if isinstance(answer, InvalidInput):
        return novelty_pb2.Neighbors(error=item_error(answer))
    return novelty_pb2.Neighbors(neighbors=[_nearest_message(neighbour) for neighbour in answer])


def _timings(seconds: Mapping[str, float]) -> novelty_pb2.NoveltyTimings:
    return novelty_pb2.NoveltyTimings(
        queue_seconds=seconds.get("queue", 0.0),
        lock_seconds=seconds.get("lock", 0.0),
        embed_seconds=seconds.get("embed", 0.0),
        search_seconds=seconds.get("search", 0.0),
        commit_seconds=seconds.get("commit", 0.0),
    )
