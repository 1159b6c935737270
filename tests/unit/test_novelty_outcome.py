"""Outcome novelty: the formula by hand, and the service's domain against a brute-force model."""

import tempfile
import uuid
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from extra_rl.vocabulary import Metric, OutcomeScope, Scale, ScoreMode
from extra_services.errors import InvalidInput
from extra_services.memory import transfer
from extra_services.memory.memory import Memory
from extra_services.memory.records import NamespaceSettings
from extra_services.memory.sqlite_store import SqliteStore
from extra_services.novelty.outcome_scoring import (
    LEAST_COUNT,
    MAX_NAME_CHARACTERS,
    counted,
    given_answers,
    outcome_novelty,
)
from extra_services.novelty.request import (
    AnswerCount,
    GroupAnswer,
    GroupScores,
    NoveltyLimits,
    RolloutGroup,
    ScoringOptions,
)
from extra_services.novelty.scoring import NoveltyScorer
from support.memory_stores import STORES, RedisServer, open_store, redis_server

OUTCOME = ScoringOptions(metric=Metric.OUTCOME)


def rollouts(
    answers: list[str],
    correct: list[bool] | None = None,
    undecided: list[bool] | None = None,
    prompt: str = "q",
) -> RolloutGroup:
    return RolloutGroup(
        prompt,
        np.array(correct or [False] * len(answers), dtype=np.bool_),
        answers=answers,
        undecided=None if undecided is None else np.array(undecided, dtype=np.bool_),
    )


@pytest.fixture
def memory(tmp_path: Path) -> Iterator[Memory]:
    opened = Memory(SqliteStore(tmp_path), embedder=None)
    opened.create_namespace("run", NamespaceSettings())
    yield opened
    opened.close()


def score(memory: Memory, group: RolloutGroup, options: ScoringOptions = OUTCOME) -> GroupScores:
    ((scores,), _) = NoveltyScorer(memory).score("run", [group], options)
    assert isinstance(scores, GroupScores), scores
    return scores


def near(scores: GroupScores) -> Any:
    return pytest.approx(scores.novelty.tolist(), abs=1e-6)


def test_a_wrong_answer_scores_by_how_often_it_was_given(memory: Memory) -> None:
    group = rollouts(["7", "7", "8", "12"], [False, False, False, True])
    first, second = score(memory, group), score(memory, group)
    assert near(first) == [2**-0.5, 2**-0.5, 1, 0]
    assert near(second) == [4**-0.5, 4**-0.5, 2**-0.5, 0]
    assert (first.memory_before, first.memory_after, second.memory_before) == (0, 2, 2)


def test_a_missing_answer_gets_the_least_score_and_is_not_counted(memory: Memory) -> None:
    assert near(score(memory, rollouts(["7", "7", "8", ""]))) == [2**-0.5, 2**-0.5, 1, 2**-0.5]
    assert near(score(memory, rollouts(["", "9"]))) == [1, 1]
    assert near(score(memory, rollouts(["", "", "5"], [False, False, True]))) == [0, 0, 0]
    assert memory.store.sizes(memory.namespace("run")).answers == 3


def test_undecided_rollouts_count_for_nothing(memory: Memory) -> None:
    group = rollouts(["7", "7", "8"], undecided=[True, False, False])
    assert near(score(memory, group)) == [0, 1, 1]
    assert near(score(memory, group)) == [0, 2**-0.5, 2**-0.5]


def test_scope_all_counts_and_scores_right_answers_in_the_same_table(memory: Memory) -> None:
    everything = ScoringOptions(metric=Metric.OUTCOME, outcome_scope=OutcomeScope.ALL)
    group = rollouts(["7", "12", "12"], [False, True, True])
    assert near(score(memory, group, everything)) == [1, 2**-0.5, 2**-0.5]
    assert near(score(memory, rollouts(["12"]))) == [3**-0.5]


def test_scope_all_wrong_leaves_groups_with_a_right_answer_alone(memory: Memory) -> None:
    memory.create_namespace("decayed", NamespaceSettings(outcome_decay=0.5))
    hopeless = ScoringOptions(metric=Metric.OUTCOME, outcome_scope=OutcomeScope.ALL_WRONG, explain=True)
    scorer, mixed = NoveltyScorer(memory), rollouts(["7", "7", "12"], [False, False, True])
    groups = [rollouts(["7"]), mixed, rollouts(["7"], undecided=[True]), rollouts(["7", "8"])]
    answers, _ = scorer.score("decayed", groups, hopeless)
    assert [near(scores) for scores in answers if isinstance(scores, GroupScores)] == [
        [1],
        [0, 0, 0],
        [0],
        [1.5**-0.5, 1],
    ]
    assert isinstance(answers[1], GroupScores)
    assert (answers[1].mean_novelty(), answers[1].correct, answers[1].answer_counts) == (0, 1, [None] * 3)


def test_without_history_only_the_group_counts_and_the_answers_are_remembered(memory: Memory) -> None:
    batch_only = ScoringOptions(metric=Metric.OUTCOME, ignore_history=True)
    score(memory, rollouts(["7"] * 8))
    assert near(score(memory, rollouts(["7", "7", "8"]), batch_only)) == [2**-0.5, 2**-0.5, 1]
    assert near(score(memory, rollouts(["7"]))) == [11**-0.5]


def test_each_score_is_explained_by_its_counts(memory: Memory) -> None:
    explain = ScoringOptions(metric=Metric.OUTCOME, explain=True)
    score(memory, rollouts(["7", "7"]))
    scores = score(memory, rollouts(["7", "8", "", "3"], [False, False, False, True]), explain)
    assert scores.answer_counts == [AnswerCount(2, 1), AnswerCount(0, 1), AnswerCount(0, 0), None]
    assert scores.mean_novelty() == pytest.approx((3**-0.5 + 1 + 3**-0.5) / 3)


def test_the_least_recently_given_answers_make_room() -> None:
    counts = counted(given_answers(rollouts(["a", "b", "a", "c"]), OutcomeScope.WRONG), {}, 1.0, 3)
    assert list(counts.items()) == [("a", 2), ("b", 1), ("c", 1)]
    counts = counted(given_answers(rollouts(["a", "d"]), OutcomeScope.WRONG), counts, 1.0, 3)
    assert list(counts.items()) == [("c", 1), ("a", 3), ("d", 1)]


def test_counts_that_have_decayed_away_are_dropped_and_move_no_score() -> None:
    group = given_answers(rollouts(["a"]), OutcomeScope.WRONG)
    assert counted(group, {"b": LEAST_COUNT, "a": 1.0}, 0.5, 9) == {"a": 1.5}
    assert (
        outcome_novelty(group, {"a": LEAST_COUNT}, 1.0, False)[0] == outcome_novelty(group, {}, 1.0, False)[0]
    )


def test_long_answers_are_counted_by_their_hash_within_the_stated_size(memory: Memory) -> None:
    long, other = "x" * 5000, "x" * 4999 + "y"
    assert near(score(memory, rollouts([long, long, other]))) == [2**-0.5, 2**-0.5, 1]
    (stored,) = memory.store.answer_counts(memory.namespace("run"), ["q"]).values()
    assert len(stored) == 2
    assert all(len(name) <= MAX_NAME_CHARACTERS for name in stored)
    fits = "z" * MAX_NAME_CHARACTERS
    score(memory, rollouts([fits]))
    assert fits in memory.store.answer_counts(memory.namespace("run"), ["q"])["q"]


@pytest.mark.parametrize(
    ("group", "field"),
    [
        (rollouts(["7"], [False, False]), "answers"),
        (RolloutGroup("q", np.zeros(2, np.bool_)), "answers"),
        (rollouts(["7", "a" * 30]), "answers[1]"),
        (rollouts(["7", "8"], undecided=[True]), "undecided"),
        (rollouts(["7", "8"], [False, True], [False, True]), "undecided[1]"),
        (rollouts(["7"], prompt=""), "prompt_id"),
        (rollouts([]), "correct"),
    ],
)
def test_a_refused_group_fails_alone_and_nothing_of_it_is_counted(
    memory: Memory, group: RolloutGroup, field: str
) -> None:
    scorer = NoveltyScorer(memory, NoveltyLimits(text_characters=20))
    good = rollouts(["7", "8"], prompt="good")
    (before, refused, after), _ = scorer.score("run", [good, group, good], OUTCOME)
    assert isinstance(refused, InvalidInput)
    assert refused.field == field
    assert isinstance(before, GroupScores)
    assert isinstance(after, GroupScores)
    assert near(before) == [1, 1]
    assert near(after) == [2**-0.5, 2**-0.5]
    assert memory.store.answer_counts(memory.namespace("run"), ["q"]) == {"q": {}}


def test_vendi_is_refused_and_scales_work(memory: Memory) -> None:
    with pytest.raises(InvalidInput, match="compares no embeddings"):
        score(memory, rollouts(["7"]), ScoringOptions(metric=Metric.OUTCOME, vendi=True))
    score(memory, rollouts(["7"] * 3))
    group = rollouts(["7", "8"])
    only = ScoreMode.SCORE_ONLY
    maximum = score(memory, group, ScoringOptions(Metric.OUTCOME, only, Scale.GROUP_MAX))
    assert near(maximum) == [0.5, 1]
    mean = score(memory, group, ScoringOptions(Metric.OUTCOME, only, Scale.RUNNING_MEAN))
    assert mean.divisor == pytest.approx((3 * 3**-0.5 + 1.5) / 5)


def test_order_of_the_groups_of_different_prompts_changes_nothing(memory: Memory) -> None:
    for name in ("a", "b"):
        memory.create_namespace(name, NamespaceSettings(outcome_decay=0.5))
    random = np.random.default_rng(0)
    groups = [rollouts([str(each) for each in random.integers(0, 3, 4)], prompt=f"p{i}") for i in range(6)]
    scorer = NoveltyScorer(memory)
    for _ in range(3):
        forward, _ = scorer.score("a", groups, OUTCOME)
        backward, _ = scorer.score("b", groups[::-1], OUTCOME)
        for one, other in zip(forward, backward[::-1], strict=True):
            assert isinstance(one, GroupScores)
            assert isinstance(other, GroupScores)
            np.testing.assert_array_equal(one.novelty, other.novelty)


class Model:
    """Every visit of a prompt as it was, and the counts summed over all of them again for each score."""

    def __init__(self, capacity: int, decay: float) -> None:
        self.capacity, self.decay = capacity, decay
        #: Prompt -> per visit the answers that it added.
        self.visits: dict[int, list[list[str]]] = {}
        #: Prompt -> answer -> number of visits when it was last forgotten.
        self.forgotten: dict[int, Counter[str]] = {}

    def copy(self) -> "Model":
        other = Model(self.capacity, self.decay)
        other.visits = {prompt: list(visits) for prompt, visits in self.visits.items()}
        other.forgotten = {prompt: Counter(since) for prompt, since in self.forgotten.items()}
        return other

    def delete(self, prompt: int) -> None:
        self.visits.pop(prompt, None)
        self.forgotten.pop(prompt, None)

    def times(self, prompt: int, answer: str) -> float:
        """Times the answer was given, as the next visit sees it."""
        visits, since = self.visits.get(prompt, []), self.forgotten.get(prompt, Counter())[answer]
        return sum(
            self.decay ** (len(visits) - number) * visit.count(answer)
            for number, visit in enumerate(visits)
            if number >= since
        )

    def score(
        self, prompt: int, answers: list[str], scored: list[bool], batch_only: bool, mode: ScoreMode
    ) -> list[float]:
        given = [answer for answer, counts in zip(answers, scored, strict=True) if counts and answer]
        bonus = {
            answer: (given.count(answer) + (0 if batch_only else self.times(prompt, answer))) ** -0.5
            for answer in given
        }
        least = min(bonus.values(), default=0.0)
        novelty = [bonus.get(a, least) if s else 0.0 for a, s in zip(answers, scored, strict=True)]
        if mode is not ScoreMode.SCORE_ONLY and any(scored):
            self._visit(prompt, given)
        return [0.0] * len(answers) if mode is ScoreMode.REMEMBER_ONLY else novelty

    def _visit(self, prompt: int, given: list[str]) -> None:
        visits = self.visits.setdefault(prompt, [])
        visits.append(given)
        since = self.forgotten.setdefault(prompt, Counter())
        kept = self.kept(prompt)
        for answer in kept[: max(0, len(kept) - self.capacity)]:
            since[answer] = len(visits)

    def kept(self, prompt: int) -> list[str]:
        """Answers that are not forgotten, least recently given first; within a visit in order."""
        visits, since = self.visits.get(prompt, []), self.forgotten.get(prompt, Counter())
        last = {
            answer: (number, given.index(answer))
            for number, given in enumerate(visits)
            for answer in given
            if number >= since[answer]
        }
        return sorted(last, key=lambda answer: last[answer])


rollout = st.tuples(
    st.sampled_from(["", "5", "1", "4", "2", "6", "3"]),
    st.sampled_from(["wrong", "wrong", "wrong", "right", "undecided"]),
)
group = st.tuples(st.sampled_from([0, 0, 1]), st.lists(rollout, min_size=1, max_size=6))
step = st.one_of(
    st.tuples(st.just("score"), st.lists(group, min_size=1, max_size=3), st.sampled_from(list(ScoreMode))),
    st.tuples(
        st.just("score"), st.lists(group, min_size=1, max_size=3), st.just(ScoreMode.SCORE_AND_REMEMBER)
    ),
    st.tuples(st.just("delete"), st.integers(0, 1)),
    st.tuples(st.sampled_from(["replay", "restart", "snapshot", "restore", "transfer"])),
)


class Service:
    """The domain on a store, opened again and again."""

    def __init__(self, kind: str, folder: Path, server: RedisServer | None, prefix: str) -> None:
        self._opening = (kind, folder, server, prefix)
        self.open()

    def open(self) -> None:
        self.memory = Memory(open_store(*self._opening), embedder=None)
        self.scorer = NoveltyScorer(self.memory)

    def move(self, folder: Path, destination: str) -> None:
        """Export the namespace and import it as `destination`, in the place of what is there."""
        path = folder / "exported.parquet"
        path.write_bytes(b"".join(transfer.export(self.memory, "run")))
        transfer.import_file(self.memory, destination, path, replace=True)

    def tables(self, namespace: str) -> dict[str, list[tuple[str, float]]]:
        """Return the stored counts of each prompt, in order; their number is the namespace's size."""
        found = self.memory.namespace(namespace)
        tables = self.memory.store.answer_counts(found, ["p0", "p1"])
        assert self.memory.store.sizes(found).answers == sum(map(len, tables.values()))
        return {prompt: list(counts.items()) for prompt, counts in tables.items()}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    with redis_server(tmp_path_factory.mktemp("redis")) as running:
        yield running


@pytest.mark.parametrize("kind", STORES)
@given(
    capacity=st.integers(1, 5),
    decay=st.sampled_from([1.0, 0.9, 0.5]),
    scope=st.sampled_from(OutcomeScope),
    batch_only=st.booleans(),
    steps=st.lists(step, min_size=4, max_size=10),
)
@settings(deadline=None, max_examples=60, suppress_health_check=list(HealthCheck))
def test_random_histories_equal_a_brute_force_model(
    kind: str,
    request: pytest.FixtureRequest,
    capacity: int,
    decay: float,
    scope: OutcomeScope,
    batch_only: bool,
    steps: list[tuple[Any, ...]],
) -> None:
    redis = request.getfixturevalue("server") if kind == "redis" else None
    model, snapshot, sent = Model(capacity, decay), None, 0
    last: tuple[list[RolloutGroup], ScoringOptions, str, list[GroupAnswer]] | None = None
    with tempfile.TemporaryDirectory() as name:
        # Not drawn by hypothesis, which runs an example again, and draws the same one twice: on Redis such a
        # run would find what the one before has stored.
        service = Service(kind, Path(name), redis, uuid.uuid4().hex)
        stored = NamespaceSettings(outcome_capacity=capacity, outcome_decay=decay)
        service.memory.create_namespace("run", stored)
        for kind_of_step, *details in steps:
            if kind_of_step == "score":
                groups, mode = details
                options = ScoringOptions(
                    Metric.OUTCOME, mode, explain=True, outcome_scope=scope, ignore_history=batch_only
                )
                sent += 1
                batch = [_group(prompt, members) for prompt, members in groups]
                answers, replayed = service.scorer.score("run", batch, options, f"key {sent}")
                assert not replayed
                _compare(model, groups, scope, batch_only, mode, answers)
                last = (batch, options, f"key {sent}", answers)
            elif kind_of_step == "replay" and last is not None and last[1].remembers:
                again, replayed = service.scorer.score("run", *last[:3])
                assert replayed
                assert repr(again) == repr(last[3])
            elif kind_of_step == "delete":
                service.memory.delete_prompts("run", [f"p{details[0]}"])
                model.delete(details[0])
            elif kind_of_step == "restart":
                service.memory.close()
                service.open()
            elif kind_of_step == "snapshot":
                service.memory.copy_namespace("run", "snapshot", replace=True)
                snapshot = (model.copy(), sent, last)
            elif kind_of_step == "restore" and snapshot is not None:
                service.memory.copy_namespace("snapshot", "run", replace=True)
                (model, sent, last), model_ = snapshot, snapshot[0].copy()
                snapshot = (model_, sent, last)
            elif kind_of_step == "transfer":
                service.move(Path(name), "run")
                # Idempotency keys are not exported.
                last = None
        # The tables have the counts as of the last visit, `times` those that the next one will see.
        expected: dict[str, Any] = {
            f"p{prompt}": [(a, pytest.approx(model.times(prompt, a) / decay)) for a in model.kept(prompt)]
            for prompt in range(2)
        }
        service.memory.copy_namespace("run", "copied", replace=True)
        service.move(Path(name), "imported")
        assert [service.tables(each) for each in ("run", "copied", "imported")] == [expected] * 3
        service.memory.close()


def _group(prompt: int, members: list[tuple[str, str]]) -> RolloutGroup:
    answers, verdicts = [answer for answer, _ in members], [verdict for _, verdict in members]
    right, unknown = ([verdict == wanted for verdict in verdicts] for wanted in ("right", "undecided"))
    return rollouts(answers, right, unknown, f"p{prompt}")


def _compare(
    model: Model,
    groups: list[tuple[int, list[tuple[str, str]]]],
    scope: OutcomeScope,
    batch_only: bool,
    mode: ScoreMode,
    answers: list[GroupAnswer],
) -> None:
    for (prompt, members), scores in zip(groups, answers, strict=True):
        assert isinstance(scores, GroupScores)
        verdicts = [verdict for _, verdict in members]
        in_scope = {OutcomeScope.ALL: ("wrong", "right"), OutcomeScope.WRONG: ("wrong",)}.get(
            scope, () if "right" in verdicts else ("wrong",)
        )
        scored = [verdict in in_scope for verdict in verdicts]
        earlier = [model.times(prompt, answer) if answer else 0.0 for answer, _ in members]
        expected = model.score(prompt, [answer for answer, _ in members], scored, batch_only, mode)
        assert scores.novelty.tolist() == pytest.approx(expected, abs=1e-6)
        for count, known, counts in zip(scores.answer_counts, earlier, scored, strict=True):
            assert (count is not None) == counts
            assert count is None or count.earlier == pytest.approx(known)
