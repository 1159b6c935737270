"""Collects groups that arrive sample by sample: each sample waits until its group is scored as a whole.

Waiting takes no thread: a sample is a future on the event loop. A sample that could not be scored is refused
when it arrives, and its group goes on. A group is scored when its last sample has arrived or, at the deadline
that its first sample sets, with those that have. Scoring is the ordinary `NoveltyScorer`, under an
idempotency key made of the group's id, so a sample sent again after that gets the same answer, also after a
restart. All samples of a group must come to the same server; waiting samples are in memory only, and none is
acknowledged before its group is durable.
"""

import asyncio
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from extra_rl.vocabulary import Metric, OutcomeScope, Scale
from extra_services.errors import FailedPrecondition, InvalidInput, Overloaded
from extra_services.memory.instruments import REQUESTS_WAITING, STAGES
from extra_services.memory.memory import IdempotencyKey, Memory
from extra_services.novelty import answers
from extra_services.novelty.request import (
    VECTOR_METRICS,
    GroupScores,
    RolloutGroup,
    ScoringOptions,
    Vectors,
)
from extra_services.novelty.scoring import NoveltyScorer
from extra_services.runtime.metrics import record_stages
from extra_services.runtime.threads import Threads, in_thread

Result = TypeVar("Result")

DEFAULT_WAIT_SECONDS = 300.0
MAX_WAIT_SECONDS = 24 * 3600.0
MAX_GROUP_SIZE = 4096
OPERATION = "collect_sample"


@dataclass(frozen=True)
class Sample:
    """One rollout of a group, at place `index` of `group_size`; other fields as in RolloutGroup."""

    namespace: str
    prompt_id: str
    group_id: str
    group_size: int
    index: int
    correct: bool
    text: str | None = None
    embedding: Vectors | None = None
    token_ids: NDArray[np.int32] | None = None
    sequence_logprob: float | None = None
    answer: str = ""
    undecided: bool = False
    metric: Metric = Metric.EMBEDDING
    scale: Scale = Scale.RAW
    outcome_scope: OutcomeScope = OutcomeScope.WRONG
    ignore_history: bool = False
    problem: str = ""
    reference_answer: str = ""
    wait_seconds: float = DEFAULT_WAIT_SECONDS


@dataclass(frozen=True)
class SampleScore:
    """Scores of the `samples` scored together, and the position of this one among them.

    `seconds` is where the time of scoring went, by stage; a replayed score has none.
    """

    scores: GroupScores
    position: int
    samples: int
    seconds: Mapping[str, float] = field(default_factory=dict)


@dataclass
class _Group:
    first: Sample
    timer: asyncio.TimerHandle
    samples: dict[int, Sample] = field(default_factory=dict)
    waiting: dict[int, list["asyncio.Future[SampleScore]"]] = field(default_factory=dict)
    #: True once scoring has begun: no sample can join any more.
    scoring: bool = False


class SampleCollector:
    """Collects samples and scores their groups. Belongs to one event loop."""

    def __init__(
        self, memory: Memory, scorer: NoveltyScorer, threads: Threads, max_waiting: int = 65536
    ) -> None:
        self._memory = memory
        self._scorer = scorer
        self._threads = threads
        self._max_waiting = max_waiting
        #: Number of samples that wait for their groups now.
        self.waiting = 0
        self._groups: dict[tuple[str, str], _Group] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    async def collect(self, sample: Sample) -> SampleScore:
        """Wait until the sample's group has been scored, and return the sample's score.

        Raises:
            InvalidInput: The sample, or with it the group, cannot be scored.
            FailedPrecondition: The group was scored without it at its deadline.
            Overloaded: Too many samples wait.
        """
        _check(sample)
        group = self._groups.get((sample.namespace, sample.group_id))
        metric = group.first.metric if group else sample.metric
        known = await self._in_thread(lambda: self._known(sample, metric))
        if known is not None:
            return known
        if self.waiting >= self._max_waiting:
            raise Overloaded(f"{self.waiting} samples wait for their groups already", 1.0)
        group = self._join(sample)
        score: asyncio.Future[SampleScore] = asyncio.get_running_loop().create_future()
        group.waiting.setdefault(sample.index, []).append(score)
        self.waiting += 1
        if len(group.samples) == sample.group_size and not group.scoring:
            self._start(group)
        try:
            return await score
        finally:
            self.waiting -= 1
            self._leave(sample, score)

    def _known(self, sample: Sample, metric: Metric) -> SampleScore | None:
        """The sample's score if its group has been scored; otherwise check the sample."""
        namespace = self._memory.namespace(sample.namespace)
        stored = self._memory.store.answer(namespace, OPERATION, sample.group_id)
        if stored is None:
            self._scorer.check_rollout(namespace, _group_of([sample]), metric)
            return None
        prompt_id, indices = json.loads(stored.fingerprint)
        if prompt_id != sample.prompt_id:
            raise InvalidInput("group_id", f"{sample.group_id!r} was a group of prompt {prompt_id!r}")
        if sample.index not in indices:
            raise FailedPrecondition(
                f"group {sample.group_id!r} was scored without sample {sample.index} at its deadline;"
                " send all samples of a group within wait_seconds"
            )
        return _sample_score(answers.decode(stored.answer), indices, sample.index)

    def _join(self, sample: Sample) -> _Group:
        name = (sample.namespace, sample.group_id)
        group = self._groups.get(name)
        if group is None:
            timer = asyncio.get_running_loop().call_later(sample.wait_seconds, self._time_is_up, name)
            group = self._groups[name] = _Group(sample, timer)
        for shared in ("prompt_id", "group_size"):
            if getattr(sample, shared) != getattr(group.first, shared):
                raise InvalidInput(shared, f"differs from the first sample's of group {sample.group_id!r}")
        if _dimension(sample) != _dimension(group.first):
            raise InvalidInput(
                "embedding",
                f"has {_dimension(sample)} dimensions, the first sample's of group {sample.group_id!r}"
                f" {_dimension(group.first)}",
            )
        if group.scoring and sample.index not in group.samples:
            raise FailedPrecondition(
                f"group {sample.group_id!r} is being scored without sample {sample.index}"
            )
        if not group.scoring:
            group.samples[sample.index] = sample
        return group

    def _leave(self, sample: Sample, score: "asyncio.Future[SampleScore]") -> None:
        """Remove the sample of a caller that has gone without an answer."""
        group = self._groups.get((sample.namespace, sample.group_id))
        if group is None or group.scoring or score not in group.waiting.get(sample.index, []):
            return
        group.waiting[sample.index].remove(score)
        if not group.waiting[sample.index]:
            del group.waiting[sample.index], group.samples[sample.index]
        if not group.samples:
            group.timer.cancel()
            del self._groups[(sample.namespace, sample.group_id)]

    def _time_is_up(self, name: tuple[str, str]) -> None:
        group = self._groups[name]
        if not group.scoring:
            self._start(group)

    def _start(self, group: _Group) -> None:
        group.scoring = True
        group.timer.cancel()
        task = asyncio.create_task(self._score(group))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _score(self, group: _Group) -> None:
        indices = sorted(group.samples)
        # This task has a context of its own, so these are the stages of the group's scoring alone.
        seconds = record_stages()
        failure: BaseException | None = None
        scored: list[SampleScore] = []
        try:
            scored = await self._in_thread(lambda: self._score_now(group, indices))
        except BaseException as error:
            failure = error
        del self._groups[(group.first.namespace, group.first.group_id)]
        for position, index in enumerate(indices):
            for waiting in group.waiting.get(index, []):
                if waiting.done():
                    continue
                if failure is None:
                    waiting.set_result(replace(scored[position], seconds=seconds))
                else:
                    waiting.set_exception(failure)

    async def _in_thread(self, call: Callable[[], Result]) -> Result:
        # Not refused: a training step sends all its samples at once, and max_waiting bounds them.
        return await in_thread(self._threads, call, STAGES, REQUESTS_WAITING, refuse=False)

    def _score_now(self, group: _Group, indices: list[int]) -> list[SampleScore]:
        first = group.first
        rollouts = _group_of([group.samples[index] for index in indices])
        key = IdempotencyKey(OPERATION, first.group_id, json.dumps([first.prompt_id, indices]))
        options = ScoringOptions(
            first.metric,
            scale=first.scale,
            explain=first.metric in (*VECTOR_METRICS, Metric.OUTCOME),
            outcome_scope=first.outcome_scope,
            ignore_history=first.ignore_history,
        )
        scored, _ = self._scorer.score_as(first.namespace, [rollouts], options, key)
        return [_sample_score(scored, indices, index) for index in indices]


def _check(sample: Sample) -> None:
    if not 1 <= len(sample.group_id) <= 512:
        raise InvalidInput("group_id", "must have 1 to 512 characters")
    if not 1 <= sample.group_size <= MAX_GROUP_SIZE:
        raise InvalidInput("group_size", f"must be 1 to {MAX_GROUP_SIZE}, is {sample.group_size}")
    if not 0 <= sample.index < sample.group_size:
        raise InvalidInput("index", f"must be 0 to {sample.group_size - 1}, is {sample.index}")
    if not 0 < sample.wait_seconds <= MAX_WAIT_SECONDS:
        raise InvalidInput("wait_seconds", f"must be positive and at most {MAX_WAIT_SECONDS:g}")


def _dimension(sample: Sample) -> int:
    """Dimension of the sample's embedding, 0 for a text."""
    return 0 if sample.embedding is None else len(sample.embedding)


def _group_of(samples: list[Sample]) -> RolloutGroup:
    """Make a group of samples that all have a text or all have embeddings of one dimension."""
    embeddings = [sample.embedding for sample in samples if sample.embedding is not None]
    logprobs = [sample.sequence_logprob for sample in samples if sample.sequence_logprob is not None]
    tokens = [sample.token_ids for sample in samples if sample.token_ids is not None]
    texts = [sample.text for sample in samples if sample.text is not None]
    return RolloutGroup(
        samples[0].prompt_id,
        np.array([sample.correct for sample in samples], dtype=np.bool_),
        texts=texts or None,
        embeddings=np.stack(embeddings) if embeddings else None,
        token_ids=tokens or None,
        sequence_logprobs=np.array(logprobs, dtype=np.float32) if logprobs else None,
        answers=[sample.answer for sample in samples],
        undecided=np.array([sample.undecided for sample in samples], dtype=np.bool_),
        problem=samples[0].problem,
        reference_answer=samples[0].reference_answer,
    )


def _sample_score(scored: list[GroupScores | InvalidInput], indices: list[int], index: int) -> SampleScore:
    (scores,) = scored
    if isinstance(scores, InvalidInput):
        raise InvalidInput(scores.field, f"the group cannot be scored: {scores.message}")
    return SampleScore(scores, indices.index(index), len(indices))
