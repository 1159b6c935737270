"""Checks the groups of a request one by one, and makes one array of unit vectors of all rollouts that count.

A group that cannot be scored gets its error here, before anything is locked or embedded; the others go on. A
rollout that cannot be compared with others, such as an empty one, is left out with a reason, and its group
goes on. All vectors of a request are of one embedding space: that of the namespace or, if it has none yet,
that of the first group.
"""

from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from extra_rl.vocabulary import MemoryPolicy, Metric, TextWindow
from extra_services.errors import InvalidInput
from extra_services.memory import instruments
from extra_services.memory.memory import SENT_BY_CALLER, Memory, check_prompt_id, check_space
from extra_services.memory.records import EmbeddingSpace, Namespace
from extra_services.novelty.derivation import Derivation
from extra_services.novelty.derivation_scoring import sketches_of
from extra_services.novelty.metrics import unit_vectors
from extra_services.novelty.request import (
    VECTOR_METRICS,
    GroupAnswer,
    NoveltyLimits,
    RolloutGroup,
    Vectors,
)
from extra_services.novelty.suspicion import JudgedGroup, judge, without_unrelated

#: Field of a group -> field of a rollout that is sent alone.
FIELDS_OF_ONE = {
    "texts": "text",
    "embeddings": "embedding",
    "sequence_logprobs": "sequence_logprob",
    "answers": "answer",
}
#: Characters of a solution's text kept beside its vector, to explain scores.
EXCERPT_CHARACTERS = 200


@dataclass(frozen=True)
class CheckedGroup:
    """A group that passed its checks."""

    #: Its place in the request.
    index: int
    group: RolloutGroup
    #: Positions of the rollouts that count, int64 [m].
    rows: NDArray[np.int64]
    #: Position -> reason, of the rollouts that would count if they were not suspicious.
    suspicious: dict[int, str] = field(default_factory=dict)
    #: Metric derivation: those of the rollouts that count [m].
    derivations: list[Derivation] = field(default_factory=list)
    #: Metric derivation: unit vector of the problem, float32 [dimension], if it is known.
    problem: Vectors | None = None
    #: Metric derivation: similarity of the rollouts that count to the problem, float32 [m]; NaN without one.
    to_problem: Vectors | None = None

    def excerpt(self, row: int) -> str:
        """Return the first characters of a rollout's text, if it has one."""
        return self.group.texts[row][:EXCERPT_CHARACTERS] if self.group.texts else ""

    def reasons(self) -> list[str]:
        """Return why each rollout is suspicious, "" for those that are not; nothing if none is."""
        if not self.suspicious:
            return []
        return [self.suspicious.get(row, "") for row in range(len(self.group.correct))]

    def to_embed(self) -> list[str]:
        """Return the texts of the rollouts that count, as their metric embeds them: `derivation` by parts."""
        texts = self.group.texts or []
        parts = [text for each in self.derivations for text in each.to_embed]
        return parts or [texts[row] for row in self.rows.tolist()]


@dataclass(frozen=True)
class PreparedGroups:
    """Checked groups, and the unit vectors of their rollouts that count, one after the other."""

    groups: list[CheckedGroup]
    #: Per group of the request: why it was refused, None for those in `groups`.
    answers: list[GroupAnswer | None]
    vectors: Vectors
    space: EmbeddingSpace
    #: Metric derivation: uint8 [m, SKETCH_BYTES].
    sketches: NDArray[np.uint8] | None = None

    def prompts(self) -> list[str]:
        """Return the prompts of the groups, each once."""
        return list(dict.fromkeys(checked.group.prompt_id for checked in self.groups))


def prepare(
    memory: Memory,
    namespace: Namespace,
    groups: list[RolloutGroup],
    metric: Metric,
    limits: NoveltyLimits,
    leave_out: bool = True,
) -> PreparedGroups:
    """Check the groups, and embed the texts that the metric needs.

    Args:
        memory: Embeds the texts.
        namespace: Of the groups.
        groups: Groups; a prompt may appear more than once.
        metric: Says what is needed.
        limits: Largest groups and texts.
        leave_out: Leave suspicious rollouts out of their groups. Otherwise a group with an empty text is
            refused.

    Raises:
        FailedPrecondition: Texts are sent to a namespace of another embedding model.
    """
    answers: list[GroupAnswer | None] = [None] * len(groups)
    passed: list[CheckedGroup] = []
    for index, group in enumerate(groups):
        checked = _with_rows(namespace, index, group)
        try:
            _check(checked, metric, limits)
            if not leave_out:
                _check_not_empty(checked, limits)
        except InvalidInput as error:
            answers[index] = error
        else:
            passed.append(checked)
    if metric not in VECTOR_METRICS:
        return PreparedGroups(passed, answers, np.zeros((0, 1), dtype=np.float32), EmbeddingSpace())
    if metric is Metric.DERIVATION:
        return _with_derivations(memory, namespace, passed, answers)
    if leave_out:
        passed = [_judged(checked, metric, memory) for checked in passed]
    return _with_vectors(memory, namespace, passed, answers, namespace.settings.text_window)


def check_rollout(
    memory: Memory, namespace: Namespace, rollout: RolloutGroup, metric: Metric, limits: NoveltyLimits
) -> None:
    """Check a group of one rollout as `prepare` does, without embedding.

    Raises:
        InvalidInput: `prepare` would refuse the group.
        FailedPrecondition: As for `prepare`.
    """
    checked = _with_rows(namespace, 0, rollout)
    try:
        _check(checked, metric, limits)
    except InvalidInput as error:
        raise of_one(error) from error
    if metric not in VECTOR_METRICS:
        return
    if rollout.embeddings is None:
        check_space(namespace.solutions, memory.space_of_texts(), namespace.name)
        return
    answers: list[GroupAnswer | None] = [None]
    _with_vectors(memory, namespace, [checked], answers, namespace.settings.text_window)
    if isinstance(answers[0], InvalidInput):
        raise of_one(answers[0])


def of_one(error: InvalidInput) -> InvalidInput:
    """Return the error of a group of one rollout with the field of a message about that rollout alone."""
    field = error.field.partition("[")[0]
    return InvalidInput(FIELDS_OF_ONE.get(field, field), error.message)


def check_text(text: str, field: str, limits: NoveltyLimits) -> None:
    """Raise InvalidInput if a text that is to be embedded is empty or too long."""
    _check_length(text, field, limits)
    if not text:
        raise InvalidInput(field, "is empty: an empty text has no meaning to compare")


def _judged(checked: CheckedGroup, metric: Metric, memory: Memory) -> CheckedGroup:
    if checked.group.texts is None:
        return checked
    found = judge(checked.group, checked.rows, metric, lambda texts: memory.embedder.unreadable(texts))
    return _with_judgement(checked, found)


def _with_judgement(checked: CheckedGroup, found: JudgedGroup) -> CheckedGroup:
    return replace(checked, rows=found.rows, suspicious=found.suspicious, derivations=found.derivations)


def _with_rows(namespace: Namespace, index: int, group: RolloutGroup) -> CheckedGroup:
    everything = namespace.settings.memory_policy is MemoryPolicy.ALL
    rows = np.arange(len(group.correct)) if everything else group.correct.nonzero()[0]
    return CheckedGroup(index, group, rows)


def _check(checked: CheckedGroup, metric: Metric, limits: NoveltyLimits) -> None:
    group, count = checked.group, len(checked.group.correct)
    check_prompt_id(group.prompt_id)
    if not count:
        raise InvalidInput("correct", "the group is empty: give one entry per rollout")
    if metric is Metric.NGRAM_COUNT:
        _check_tokens(group, limits)
    elif metric is Metric.POLICY_SURPRISE:
        _check_logprobs(group)
    elif metric is Metric.OUTCOME:
        _check_answers(group, limits)
    elif metric is Metric.DERIVATION:
        _check_derivable(group, limits)
    elif (group.texts is None) == (group.embeddings is None):
        raise InvalidInput("texts", "give either texts or embeddings")
    elif group.embeddings is not None:
        _check_embeddings(group.embeddings, count, limits)
    if group.texts is not None:
        _check_texts(group.texts, count, limits)


def _check_tokens(group: RolloutGroup, limits: NoveltyLimits) -> None:
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


def _check_answers(group: RolloutGroup, limits: NoveltyLimits) -> None:
    given, count = group.answers or [], len(group.correct)
    if len(given) != count:
        raise InvalidInput("answers", f"{len(given)} answers for {count} entries in correct")
    for position, answer in enumerate(given):
        _check_length(answer, f"answers[{position}]", limits)
    if group.undecided is None:
        return
    if len(group.undecided) != count:
        raise InvalidInput("undecided", f"{len(group.undecided)} values for {count} entries in correct")
    contradictions = np.flatnonzero(group.undecided & group.correct)
    if len(contradictions):
        raise InvalidInput(f"undecided[{int(contradictions[0])}]", "is set for a correct rollout")


def _check_embeddings(embeddings: Vectors, count: int, limits: NoveltyLimits) -> None:
    if embeddings.ndim != 2 or len(embeddings) != count:
        raise InvalidInput("embeddings", f"shape {embeddings.shape} does not fit {count} rollouts in correct")
    if not 1 <= embeddings.shape[1] <= limits.dimension:
        raise InvalidInput(
            "embeddings", f"{embeddings.shape[1]} dimensions; 1 to {limits.dimension} are possible"
        )


def _check_derivable(group: RolloutGroup, limits: NoveltyLimits) -> None:
    if group.texts is None or group.embeddings is not None:
        raise InvalidInput("texts", "metric derivation reads texts: give these, and no embeddings")
    _check_length(group.problem, "problem", limits)
    _check_length(group.reference_answer, "reference_answer", limits)


def _check_texts(texts: list[str], count: int, limits: NoveltyLimits) -> None:
    if len(texts) != count:
        raise InvalidInput("texts", f"{len(texts)} texts for {count} entries in correct")
    for position, text in enumerate(texts):
        _check_length(text, f"texts[{position}]", limits)


def _check_not_empty(checked: CheckedGroup, limits: NoveltyLimits) -> None:
    for position in checked.rows.tolist() if checked.group.texts else ():
        check_text((checked.group.texts or [])[position], f"texts[{position}]", limits)


def _check_length(text: str, field: str, limits: NoveltyLimits) -> None:
    if len(text) > limits.text_characters:
        raise InvalidInput(field, f"{len(text)} characters; at most {limits.text_characters} are accepted")


def _with_derivations(
    memory: Memory, namespace: Namespace, groups: list[CheckedGroup], answers: list[GroupAnswer | None]
) -> PreparedGroups:
    with instruments.STAGES("embed"):
        groups = [_judged(checked, Metric.DERIVATION, memory) for checked in groups]
    # All of what belongs to the solution, whatever the namespace's window: the metric was fitted so.
    prepared = _related(_with_vectors(memory, namespace, groups, answers, TextWindow.WHOLE), memory)
    found = [each for checked in prepared.groups for each in checked.derivations]
    return replace(prepared, sketches=sketches_of(found))


def _related(prepared: PreparedGroups, memory: Memory) -> PreparedGroups:
    """Make vectors of rollouts of those of their parts, without what has nothing to do with the problem."""
    problems = _problems(prepared, memory)
    groups, vectors = [], [prepared.vectors[:0]]
    start = 0
    for checked, problem in zip(prepared.groups, problems, strict=True):
        end = start + sum(len(each.to_embed) for each in checked.derivations)
        judged = JudgedGroup(checked.rows, checked.suspicious, checked.derivations)
        judged, related, to_problem = without_unrelated(judged, prepared.vectors[start:end], problem)
        groups.append(replace(_with_judgement(checked, judged), problem=problem, to_problem=to_problem))
        vectors.append(related)
        start = end
    return replace(prepared, groups=groups, vectors=np.concatenate(vectors))


def _problems(prepared: PreparedGroups, memory: Memory) -> Vectors:
    """Return the vectors of the groups' problems, float32 [groups, dimension]; NaN without one."""
    vectors = np.full((len(prepared.groups), prepared.vectors.shape[1]), np.nan, dtype=np.float32)
    given = [
        place
        for place, checked in enumerate(prepared.groups)
        if checked.group.problem.strip() and len(checked.rows)
    ]
    if given:
        problems = [prepared.groups[place].group.problem for place in given]
        vectors[given] = memory.embedder.embed(problems, TextWindow.WHOLE)
    return vectors


def _with_vectors(
    memory: Memory,
    namespace: Namespace,
    groups: list[CheckedGroup],
    answers: list[GroupAnswer | None],
    window: TextWindow,
) -> PreparedGroups:
    if any(checked.group.texts is not None for checked in groups):
        check_space(namespace.solutions, memory.space_of_texts(), namespace.name)
    space = namespace.solutions
    if not space.dimension and groups:
        space = _space(memory, groups[0])
    fitting = [checked for checked in groups if _fits(memory, namespace, checked, space, answers)]
    sent = [checked for checked in fitting if checked.group.embeddings is not None]
    if sent:
        return _of_sent(sent, answers, space)
    texts = [text for checked in fitting for text in checked.to_embed()]
    vectors = (
        memory.embedder.embed(texts, window)
        if texts
        else np.zeros((0, max(1, space.dimension)), dtype=np.float32)
    )
    return PreparedGroups(fitting, answers, vectors, space)


def _space(memory: Memory, checked: CheckedGroup) -> EmbeddingSpace:
    if checked.group.embeddings is None:
        return memory.space_of_texts()
    return EmbeddingSpace(SENT_BY_CALLER, checked.group.embeddings.shape[1])


def _fits(
    memory: Memory,
    namespace: Namespace,
    checked: CheckedGroup,
    space: EmbeddingSpace,
    answers: list[GroupAnswer | None],
) -> bool:
    sent = checked.group.embeddings
    # The usual case first: a batch has hundreds of groups with vectors of one kind.
    if sent is not None and (space.model, space.dimension) == (SENT_BY_CALLER, sent.shape[1]):
        return True
    own = _space(memory, checked)
    if own == space:
        return True
    answers[checked.index] = InvalidInput(
        "texts" if checked.group.embeddings is None else "embeddings",
        f"vectors of {own.model!r} with {own.dimension} dimensions; namespace {namespace.name!r}"
        f" holds those of {space.model!r} with {space.dimension}",
    )
    return False


def _of_sent(
    groups: list[CheckedGroup], answers: list[GroupAnswer | None], space: EmbeddingSpace
) -> PreparedGroups:
    """Normalise all vectors at once, then find the groups of those that have no direction."""
    given = [checked.group.embeddings for checked in groups if checked.group.embeddings is not None]
    unit, usable = unit_vectors(np.concatenate(given))
    ends = np.cumsum([len(vectors) for vectors in given]).tolist()
    starts = [0, *ends[:-1]]
    kept = groups
    if not usable.all():
        kept = []
        for checked, start, end in zip(groups, starts, ends, strict=True):
            bad = np.flatnonzero(~usable[start:end])
            if len(bad):
                reason = "is zero, not finite, or too large to be normalised"
                answers[checked.index] = InvalidInput(f"embeddings[{int(bad[0])}]", reason)
            else:
                kept.append(checked)
    first = dict(zip((checked.index for checked in groups), starts, strict=True))
    counted = sum(len(checked.rows) for checked in kept)
    if counted != len(unit):
        rows = [first[checked.index] + checked.rows for checked in kept]
        unit = unit[np.concatenate(rows)] if rows else unit[:0]
    return PreparedGroups(kept, answers, unit, space)
