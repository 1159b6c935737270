"""NoveltyService without the connection: requests and responses as numpy arrays and dataclasses."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TypedDict

import numpy as np
from numpy.typing import ArrayLike, NDArray

from extra_client import _server_info, _wire, errors
from extra_client._server_info import ServerInfo
from extra_client._transport import NOVELTY, Batch, Call, new_key
from extra_client.errors import ExtraError, InternalError, InvalidArgumentError
from extra_rl.v1 import novelty_pb2 as pb
from extra_rl.vocabulary import Metric, NearestKind, OutcomeScope, Scale, ScoreMode


@dataclass(frozen=True, slots=True)
class NoveltyTimings:
    """Seconds that a call spent in each stage on the server."""

    #: Waiting for a thread.
    queue_seconds: float
    #: Waiting for other calls about the same prompts.
    lock_seconds: float
    #: Embedding texts.
    embed_seconds: float
    #: Searching the memories.
    search_seconds: float
    #: Making the write durable.
    commit_seconds: float


@dataclass(frozen=True, slots=True)
class Nearest:
    """Nearest neighbour of a text: a stored solution of its prompt, or a sibling in its group."""

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
    #: Of the whole call.
    timings: NoveltyTimings


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Group:
    """The n rollouts of one prompt, to be scored together: their texts, or your own embeddings of them."""

    #: Identity of the prompt, stable across steps and epochs.
    prompt_id: str
    #: None in it is a rollout without a text: as an empty one it scores 0 and is not stored.
    texts: Sequence[str | None] | None = None
    #: Reals [n, dimension], also as a torch tensor; need not be normalised, none may be zero.
    embeddings: ArrayLike | None = None
    #: Whether each is correct, True, False or None: undecided, which counts as not correct.
    correct: Sequence[bool | None] | NDArray[np.bool_]
    #: n lists of the response's token ids, for Metric.NGRAM_COUNT.
    token_ids: Sequence[ArrayLike] | None = None
    #: Reals [n]: sum of the response's token log-probabilities, in nats, for Metric.POLICY_SURPRISE.
    sequence_logprobs: ArrayLike | None = None
    #: n final answers, as Verdict.final_answer has them, None or empty for a missing one, for
    #: Metric.OUTCOME. It leaves out rollouts that are undecided.
    answers: Sequence[str | None] | None = None
    #: Text of the problem and reference answer, whose numbers are no steps of a solution, for
    #: Metric.DERIVATION.
    problem: str = ""
    reference_answer: str = ""


@dataclass(frozen=True, slots=True)
class AnswerCount:
    """How often the final answer of a rollout was given to its prompt (Metric.OUTCOME)."""

    #: Times in earlier groups, decayed as the namespace's settings say; 0: it is new.
    earlier: float
    #: Times in this group.
    in_group: int


@dataclass(frozen=True, slots=True, eq=False)
class GroupScores:
    """Scores of one group, or the error it was refused with; then nothing of it was stored."""

    #: float32 [n], 0 for rollouts that do not count; empty if the group was refused or only remembered.
    novelty: NDArray[np.float32]
    #: Entries of the prompt's memory before and after the group: solutions, or answers for Metric.OUTCOME.
    memory_before: int
    memory_after: int
    #: None if the group was scored; may be raised.
    error: ExtraError | None
    #: True if the idempotency key was seen before and this is the first answer.
    replayed: bool
    #: With `explain`, metrics on embeddings: the nearest neighbour of each rollout, None for those that have
    #: none.
    nearest: tuple[Nearest | None, ...]
    #: With `explain`, Metric.OUTCOME: how often each rollout's answer was given, None for a rollout that is
    #: not scored or has no answer.
    answer_counts: tuple[AnswerCount | None, ...]
    #: Per rollout why it is suspicious, "" for one that is not; empty if none is. A suspicious rollout (a
    #: blank text, one in an unknown script, for Metric.DERIVATION one with hardly any derivation or relation
    #: to the problem) has novelty 0, is compared with nothing and is not stored.
    suspicious: tuple[str, ...]
    #: With `explain`, Metric.DERIVATION: the first few steps of each rollout that no remembered solution has,
    #: relations such as "55-37" and "37=v" (v: any variable) before numbers; none where the novelty is 0.
    new_steps: tuple[tuple[str, ...], ...]
    #: float32 [n], the novelties before the scale; the same as `novelty * divisor`, except for Scale.SHARE.
    raw_novelty: NDArray[np.float32]
    #: With `track_reward_variance`: moving average of the variance of the prompt's rewards.
    reward_variance: float | None
    #: With `vendi`: how many distinct solutions the group holds in effect.
    vendi: float | None
    #: Divisor of the novelties.
    divisor: float
    #: Of the whole call.
    timings: NoveltyTimings


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
    #: Of scoring the group; without the wait for its samples.
    timings: NoveltyTimings
    #: Metric.OUTCOME: how often the answer was given; None for a sample that is not scored or has no answer.
    answer_count: AnswerCount | None
    #: Metric.OUTCOME: mean novelty of the group's samples in the scope, to center the novelty with.
    mean_novelty: float
    #: Metric.OUTCOME: correct samples of the group.
    correct_samples: int
    #: Why the sample is suspicious, as in GroupScores; "" if it is not.
    suspicious: str
    #: Metric.DERIVATION: its new steps, as in GroupScores.
    new_steps: tuple[str, ...]
    #: The novelty before the scale.
    raw_novelty: float


@dataclass(frozen=True, slots=True, eq=False)
class EmbeddedTexts:
    """Result of embedding texts."""

    #: Unit vectors, float32 [texts, dimension], zeros for refused texts; [texts, 0] unless asked for.
    vectors: NDArray[np.float32]
    #: Per text None, or the error it was refused with: it is empty or too long.
    errors: tuple[ExtraError | None, ...]
    #: Texts that the model embedded, and texts whose vectors were in the server's cache.
    embedded: int
    cached: int
    timings: NoveltyTimings


@dataclass(frozen=True, slots=True)
class NoveltyInfo:
    """Version, model and limits of the service."""

    server: ServerInfo
    #: Name of the embedding model and dimension of its vectors; empty and 0 without a model.
    embedding_model: str
    embedding_dimension: int
    #: Most rollouts, queries or texts in one call.
    max_rollouts: int
    #: Most characters of one text.
    max_text_characters: int
    #: Most token ids of one rollout.
    max_tokens_per_rollout: int
    #: Largest dimension of embeddings of your own.
    max_dimension: int
    #: Largest k of `query_neighbors`.
    max_neighbors: int
    #: Largest group_size and wait_seconds of `collect_sample`.
    max_group_size: int
    max_wait_seconds: float


class SampleOptions(TypedDict, total=False):
    """Further arguments of collect_sample: the text or your own embedding, and how to measure."""

    #: None: the rollout has none, as an empty one.
    text: str | None
    #: Reals [dimension].
    embedding: ArrayLike
    #: The response's token ids, for Metric.NGRAM_COUNT.
    token_ids: ArrayLike
    #: Sum of the response's token log-probabilities, in nats, for Metric.POLICY_SURPRISE.
    sequence_logprob: float
    #: The final answer, None or empty for a missing one, for Metric.OUTCOME.
    answer: str | None
    #: Text of the problem and reference answer, for Metric.DERIVATION; the same for all samples of a group.
    problem: str
    reference_answer: str
    #: The group's first sample decides about these five.
    metric: Metric | str
    scale: Scale | str
    outcome_scope: OutcomeScope | str
    ignore_history: bool
    #: Seconds after the group's first sample at which it is scored without those still missing (300).
    wait_seconds: float


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
    outcome_scope: OutcomeScope | str = OutcomeScope.WRONG,
    ignore_history: bool = False,
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
        outcome_scope=_wire.number(OutcomeScope, outcome_scope, "outcome_scope"),
        ignore_history=ignore_history,
    )
    return _score_groups(request)


def _score_groups(request: pb.ScoreGroupsRequest) -> Call[list[GroupScores]]:
    def parse(response: pb.ScoreGroupsResponse) -> list[GroupScores]:
        got, wanted = len(response.groups), len(request.groups)
        if got != wanted:
            raise InternalError(f"the server sent {got} scores for {wanted} groups")
        timings = _timings(response.timings)
        return [_scores(scores, response.replayed, timings) for scores in response.groups]

    return Call(NOVELTY, "ScoreGroups", request, parse, deadline=600, batch=Batch("groups", _score_groups))


def collect_sample(
    namespace: str,
    prompt_id: str,
    group_id: str,
    group_size: int,
    index: int,
    correct: bool | None,
    *,
    text: str | None = "",
    embedding: ArrayLike | None = None,
    token_ids: ArrayLike = (),
    sequence_logprob: float | None = None,
    answer: str | None = None,
    problem: str = "",
    reference_answer: str = "",
    metric: Metric | str = Metric.EMBEDDING,
    scale: Scale | str = Scale.RAW,
    outcome_scope: OutcomeScope | str = OutcomeScope.WRONG,
    ignore_history: bool = False,
    wait_seconds: float = 300.0,
) -> Call[SampleScore]:
    """Return the call CollectSample, as NoveltyClient.collect_sample and SampleOptions document it."""
    request = pb.CollectSampleRequest(
        namespace=namespace,
        prompt_id=prompt_id,
        group_id=group_id,
        group_size=group_size,
        index=index,
        text=text or "",
        embedding=b"" if embedding is None else _wire.float_bytes(embedding),
        correct=bool(_wire.decision(correct, "correct")),
        token_ids=_wire.int_bytes(token_ids, "token_ids"),
        sequence_logprob=sequence_logprob,
        answer=answer or "",
        undecided=correct is None,
        problem=problem,
        reference_answer=reference_answer,
        outcome_scope=_wire.number(OutcomeScope, outcome_scope, "outcome_scope"),
        ignore_history=ignore_history,
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
        timings = _timings(response.timings)
        return [
            Neighbors(
                tuple(found for nearest in result.neighbors if (found := _nearest(nearest))),
                errors.from_item(result.error),
                timings,
            )
            for result in response.results
        ]

    return Call(NOVELTY, "QueryNeighbors", request, parse, deadline=120)


def embed(
    namespace: str,
    texts: Sequence[str],
    return_vectors: bool,
    metric: Metric | str = Metric.EMBEDDING,
    problems: Sequence[str] = (),
    reference_answers: Sequence[str] = (),
) -> Call[EmbeddedTexts]:
    """Return the call Embed."""
    request = pb.EmbedRequest(
        namespace=namespace,
        texts=texts,
        return_vectors=return_vectors,
        metric=_wire.number(Metric, metric, "metric"),
        problems=problems,
        reference_answers=reference_answers,
    )

    def parse(response: pb.EmbedResponse) -> EmbeddedTexts:
        if len(response.errors) != len(texts):
            raise InternalError(f"the server sent {len(response.errors)} results for {len(texts)} texts")
        width = response.dimension if return_vectors else 0
        return EmbeddedTexts(
            vectors=_wire.floats(response.vectors).reshape(len(texts), width),
            errors=tuple(errors.from_item(error) for error in response.errors),
            embedded=response.embedded,
            cached=response.cached,
            timings=_timings(response.timings),
        )

    return Call(NOVELTY, "Embed", request, parse, deadline=600)


def get_info() -> Call[NoveltyInfo]:
    """Return the call GetInfo."""
    return Call(NOVELTY, "GetInfo", pb.NoveltyServiceGetInfoRequest(), _info, deadline=30)


def only(scores: list[GroupScores]) -> NDArray[np.float32]:
    """Return the novelty of the one group, or raise the error it was refused with."""
    if scores[0].error is not None:
        raise scores[0].error
    return scores[0].novelty


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
        timings=_timings(response.timings),
        answer_count=_answer_count(response.answer_count),
        mean_novelty=response.mean_novelty,
        correct_samples=response.correct_samples,
        suspicious=response.suspicious,
        new_steps=tuple(response.new_steps),
        raw_novelty=response.raw_novelty,
    )


def _answer_count(count: pb.AnswerCount) -> AnswerCount | None:
    return AnswerCount(count.earlier, count.in_group) if count.in_group else None


def _text(value: object, field: str) -> str:
    if not isinstance(value, str):
        message = f"{field} is {value!r} ({type(value).__name__}), must be a text: str(...)"
        raise InvalidArgumentError(message, field=field)
    return value


def _texts(values: Iterable[str | None] | None, field: str) -> list[str]:
    """Return texts, "" for one that is missing."""
    if isinstance(values, str):
        raise InvalidArgumentError(f"{field}: must be a list of texts, not one text", field=field)
    listed = [] if values is None else list(values)
    return ["" if text is None else _text(text, f"{field}[{index}]") for index, text in enumerate(listed)]


def _group(group: Group, field: str) -> pb.Group:
    correct = _wire.decisions(group.correct, f"{field}.correct")
    return pb.Group(
        prompt_id=_text(group.prompt_id, f"{field}.prompt_id"),
        texts=_texts(group.texts, f"{field}.texts"),
        embeddings=b"" if group.embeddings is None else _wire.float_bytes(group.embeddings),
        correct=[bool(each) for each in correct],
        token_ids=[
            _wire.int_bytes(ids, f"{field}.token_ids[{index}]")
            for index, ids in enumerate(() if group.token_ids is None else group.token_ids)
        ],
        sequence_logprobs=b""
        if group.sequence_logprobs is None
        else _wire.float_bytes(group.sequence_logprobs),
        answers=_texts(group.answers, f"{field}.answers"),
        problem=_text("" if group.problem is None else group.problem, f"{field}.problem"),
        reference_answer=_text(
            "" if group.reference_answer is None else group.reference_answer, f"{field}.reference_answer"
        ),
        undecided=[each is None for each in correct] if None in correct else None,
    )


def _scores(scores: pb.GroupScores, replayed: bool, timings: NoveltyTimings) -> GroupScores:
    novelty = _wire.floats(scores.novelty)
    return GroupScores(
        novelty=novelty,
        memory_before=scores.memory_before,
        memory_after=scores.memory_after,
        error=errors.from_item(scores.error),
        replayed=replayed,
        nearest=tuple(_nearest(nearest) for nearest in scores.nearest),
        answer_counts=tuple(_answer_count(count) for count in scores.answer_counts),
        suspicious=tuple(scores.suspicious),
        new_steps=tuple(tuple(new.steps) for new in scores.new_steps),
        raw_novelty=_wire.floats(scores.raw_novelty)
        if scores.raw_novelty
        else (novelty * scores.divisor).astype(np.float32),
        reward_variance=scores.reward_variance if scores.HasField("reward_variance") else None,
        vendi=scores.vendi if scores.HasField("vendi") else None,
        divisor=scores.divisor,
        timings=timings,
    )


def _timings(timings: pb.NoveltyTimings) -> NoveltyTimings:
    return NoveltyTimings(
        timings.queue_seconds,
        timings.lock_seconds,
        timings.embed_seconds,
        timings.search_seconds,
        timings.commit_seconds,
    )


def _info(response: pb.NoveltyServiceGetInfoResponse) -> NoveltyInfo:
    return NoveltyInfo(
        server=_server_info.parse(response.server),
        embedding_model=response.embedding_model,
        embedding_dimension=response.embedding_dimension,
        max_rollouts=response.max_rollouts,
        max_text_characters=response.max_text_characters,
        max_tokens_per_rollout=response.max_tokens_per_rollout,
        max_dimension=response.max_dimension,
        max_neighbors=response.max_neighbors,
        max_group_size=response.max_group_size,
        max_wait_seconds=response.max_wait_seconds,
    )
