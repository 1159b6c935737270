"""Counts of final answers through real servers, on both stores: what they survive and what they leave out."""

import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

from extra_client import (
    Group,
    GroupScores,
    InvalidArgumentError,
    Metric,
    NamespaceClient,
    NamespaceSettings,
    NoveltyClient,
    OutcomeScope,
    ScoreMode,
)
from support.memory_stores import STORES, RedisServer, redis_server
from support.novelty_server import Server


class Served:
    """A server on a store, started again with `restart` after a kill."""

    def __init__(self, folder: Path, redis: RedisServer | None) -> None:
        self._folder = folder
        self._flags = ["--embedder=none", *([f"--redis-url={redis.url}"] if redis is not None else [])]
        self.target = f"unix:{folder / 'socket'}"
        self.server = Server(folder, *self._flags).ready()

    def restart(self) -> None:
        self.server.stop(signal.SIGKILL)
        self.server = Server(self._folder, *self._flags).ready()

    def namespace(self, name: str) -> NamespaceClient:
        return NamespaceClient(self.target, name)

    def client(self, name: str, settings: NamespaceSettings | None = None) -> NoveltyClient:
        return NoveltyClient(self.target, name, settings)


@contextmanager
def _served(store: str, folder: Path) -> Iterator[Served]:
    if store == "sqlite":
        served = Served(folder, None)
        yield served
        served.server.stop(signal.SIGKILL)
        return
    (folder / "redis").mkdir()
    with redis_server(folder / "redis") as redis:
        served = Served(folder, redis)
        yield served
        served.server.stop(signal.SIGKILL)


@pytest.fixture(scope="module", params=STORES)
def served(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with _served(request.param, tmp_path_factory.mktemp(request.param)) as running:
        yield running


def _group(answers: str, correct: list[bool | None] | None = None, prompt: str = "q") -> Group:
    """One rollout for each letter, wrong by default; "-" is a missing answer."""
    given = [None if letter == "-" else letter for letter in answers]
    return Group(prompt_id=prompt, answers=given, correct=correct or [False] * len(given))


def _score(client: NoveltyClient, group: Group, **options: object) -> GroupScores:
    (scores,) = client.score_groups([group], metric=Metric.OUTCOME, explain=True, **options)  # type: ignore[arg-type]
    assert scores.error is None
    return scores


def _counts(client: NoveltyClient, answers: str, prompt: str = "q") -> list[float]:
    """Return how often each answer was given, as the next group sees it."""
    scores = _score(client, _group(answers, prompt=prompt), mode=ScoreMode.SCORE_ONLY)
    return [0.0 if count is None else count.earlier for count in scores.answer_counts]


def test_killed_after_the_answer_a_server_still_has_the_counts_and_a_repeated_key_counts_once(
    served: Served,
) -> None:
    client = served.client("killed", NamespaceSettings(outcome_decay=0.5))
    first = _score(client, _group("aab"), idempotency_key="step 1")
    served.restart()
    again = _score(client, _group("aab"), idempotency_key="step 1")
    assert (again.replayed, again.novelty.tolist()) == (True, first.novelty.tolist())
    assert again.answer_counts == first.answer_counts
    assert _counts(client, "ab") == [1.0, 0.5]
    with pytest.raises(InvalidArgumentError, match="used before, for another request"):
        _score(client, _group("aabb"), idempotency_key="step 1")
    served.restart()
    assert _counts(client, "ab") == [1.0, 0.5]


def test_each_remembered_group_of_a_prompt_decays_its_counts_and_no_others(served: Served) -> None:
    client = served.client("decayed", NamespaceSettings(outcome_decay=0.5))
    _score(client, _group("aaaa"))
    _score(client, _group("a", prompt="other"))
    _score(client, _group("b"))
    assert _counts(client, "ab") == [1.0, 0.5]
    # A group without a wrong rollout changes nothing, one of missing answers decays.
    _score(client, _group("ab", [True, None]))
    assert _counts(client, "ab") == [1.0, 0.5]
    _score(client, _group("--"))
    assert _counts(client, "ab") == [0.5, 0.25]
    assert _counts(client, "a", "other") == [0.5]
    scores = _score(client, _group("ac"))
    assert scores.novelty.tolist() == pytest.approx([1.5**-0.5, 1])


def test_at_capacity_the_least_recently_given_answer_goes(served: Served) -> None:
    client = served.client("full", NamespaceSettings(outcome_capacity=3))
    _score(client, _group("abc"))
    _score(client, _group("a"))
    scores = _score(client, _group("d"))
    assert (scores.memory_before, scores.memory_after) == (3, 3)
    assert _counts(client, "abcd") == [2, 0, 1, 1]
    served.restart()
    _score(client, _group("e"))
    assert _counts(client, "abcde") == [2, 0, 0, 1, 1]
    assert served.namespace("full").describe().answers == 3


def test_copies_and_exported_files_carry_the_counts_and_go_on_by_themselves(
    served: Served, tmp_path: Path
) -> None:
    settings = NamespaceSettings(outcome_capacity=3, outcome_decay=0.5)
    client = served.client("moved", settings)
    _score(client, _group("abc"))
    _score(client, _group("aa"), idempotency_key="key")
    namespace = served.namespace("moved")
    assert namespace.copy_to("copied").answers == 3
    namespace.export_to(tmp_path / "memory.parquet")
    assert served.namespace("imported").import_from(tmp_path / "memory.parquet").answers == 3
    copied, imported = served.client("copied"), served.client("imported")
    for each in (client, copied, imported):
        assert _counts(each, "abc") == [1.25, 0.25, 0.25]
    # The copy knows the key, a file has none.
    assert _score(copied, _group("aa"), idempotency_key="key").replayed
    assert not _score(imported, _group("aa"), idempotency_key="key").replayed
    # The order of the answers is carried: b was given least recently.
    for each in (copied, client):
        _score(each, _group("d"))
        assert _counts(each, "abcd") == [0.625, 0, 0.125, 0.5]
    assert _counts(imported, "abc") == [1.625, 0.125, 0.125]
    assert namespace.delete_prompts(["q"]) == [True]
    assert _counts(client, "abcd") == [0, 0, 0, 0]
    assert _counts(copied, "a") == [0.625]


def test_undecided_rollouts_count_for_nothing_and_missing_answers_get_the_groups_least(
    served: Served,
) -> None:
    client = served.client("left-out")
    scores = _score(client, _group("aab-a", [False, False, False, False, None]))
    assert scores.novelty.tolist() == pytest.approx([2**-0.5, 2**-0.5, 1, 2**-0.5, 0])
    assert [None if each is None else each.in_group for each in scores.answer_counts] == [2, 2, 1, None, None]
    assert _counts(client, "ab") == [2, 1]
    only_undecided = _score(client, _group("ab", [None, None]))
    assert only_undecided.novelty.tolist() == [0, 0]
    no_answers = _score(client, _group("---"))
    assert no_answers.novelty.tolist() == [0, 0, 0]
    assert _counts(client, "ab") == [2, 1]
    right = _score(client, _group("ac", [False, True]))
    assert right.novelty.tolist() == pytest.approx([3**-0.5, 0])
    both = _score(client, _group("ac", [False, True]), outcome_scope=OutcomeScope.ALL)
    assert both.novelty.tolist() == pytest.approx([4**-0.5, 1])


def test_samples_that_come_one_by_one_are_scored_as_a_group(served: Served) -> None:
    served.namespace("sampled").create()
    answers: list[tuple[str | None, bool | None]] = [("a", False), ("a", False), (None, False), ("b", None)]
    client = served.client("sampled")
    with ThreadPoolExecutor(4) as pool:
        waiting = [
            pool.submit(
                client.collect_sample, "q", "group", 4, i, correct, answer=answer, metric=Metric.OUTCOME
            )
            for i, (answer, correct) in enumerate(answers)
        ]
        scores = [each.result() for each in waiting]
    assert [each.novelty for each in scores] == pytest.approx([2**-0.5, 2**-0.5, 2**-0.5, 0])
    assert [each.mean_novelty for each in scores] == pytest.approx([2**-0.5] * 4)
    assert {each.correct_samples for each in scores} == {0}
    assert _counts(client, "ab") == [2, 0]
