"""The metric derivation and the scale share in the service's domain, on both stores, with the real model."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from extra_rl.vocabulary import Metric, NearestKind, Scale, ScoreMode, TextWindow
from extra_services.errors import InvalidInput
from extra_services.memory import transfer
from extra_services.memory.embedding import Embedder
from extra_services.memory.memory import Memory
from extra_services.memory.records import SKETCH_BYTES, NamespaceSettings
from extra_services.novelty import answers
from extra_services.novelty.embedding import embed_texts
from extra_services.novelty.request import (
    GroupScores,
    NoveltyLimits,
    RolloutGroup,
    ScoringOptions,
)
from extra_services.novelty.scoring import NoveltyScorer
from support.latex_derivations import ANSWER, EQUATIONS, PROBLEM, SWAP, SWAP_AGAIN
from support.memory_stores import STORES, RedisServer, open_store, redis_server

#: All its numbers are those of the problem.
STEPLESS = (
    "We know 37 heads and 110 legs, so $37 \\cdot x + 18 \\cdot y = 110$, as is well known. \\boxed{18}"
)
BOX = "$\\boxed{18}$"
#: A solution of another problem.
RAIN = " ".join(
    f"In month {k} the tank at the weather station got {k * 37} litres of rain from its roof, so that by the"
    f" evening of the last day {k * 37} + {k * 53} = {k * 90} litres of water stood in it, if nothing leaked."
    for k in range(3, 9)
)
KHMER = "ដំណោះស្រាយនេះគឺត្រឹមត្រូវ យើងគណនា"
DERIVATION = ScoringOptions(metric=Metric.DERIVATION, explain=True)


@pytest.fixture(scope="module")
def embedder() -> Iterator[Embedder]:
    made = Embedder("all-MiniLM-L6-v2", device="cpu")
    yield made
    made.close()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    with redis_server(tmp_path_factory.mktemp("redis")) as running:
        yield running


class Opened:
    """A memory on one of the stores; `again` opens what it left behind, without its index."""

    def __init__(self, make: Callable[[], Memory]) -> None:
        self._make = make
        self.memory = make()
        self.memory.create_namespace("run", NamespaceSettings(memory_capacity=4, min_history=0))

    def again(self) -> None:
        self.memory.store.close()
        self.memory = self._make()

    def score(
        self, texts: list[str], options: ScoringOptions = DERIVATION, correct: list[bool] | None = None
    ) -> GroupScores:
        group = rollouts(texts, correct)
        ((scores,), _) = NoveltyScorer(self.memory).score("run", [group], options)
        assert isinstance(scores, GroupScores), scores
        return scores


@pytest.fixture(params=STORES)
def opened(request: pytest.FixtureRequest, tmp_path: Path, embedder: Embedder) -> Iterator[Opened]:
    running = request.getfixturevalue("server") if request.param == "redis" else None
    made = Opened(lambda: Memory(open_store(request.param, tmp_path, running, request.node.name), embedder))
    yield made
    made.memory.store.close()


def rollouts(texts: list[str], correct: list[bool] | None = None, prompt: str = "q") -> RolloutGroup:
    decided = np.array([True] * len(texts) if correct is None else correct, dtype=np.bool_)
    return RolloutGroup(prompt, decided, texts=texts, problem=PROBLEM, reference_answer=ANSWER)


def only(**changes: Any) -> ScoringOptions:
    return ScoringOptions(metric=Metric.DERIVATION, explain=True, mode=ScoreMode.SCORE_ONLY, **changes)


def test_another_way_is_paid_and_a_paraphrase_is_not_after_a_restart_too(opened: Opened) -> None:
    assert opened.score([SWAP]).novelty.tolist() == [1]
    opened.again()
    scores = opened.score([EQUATIONS], only())
    again, repeat = opened.score([SWAP_AGAIN], only()), opened.score([SWAP], only())
    assert scores.novelty[0] > 0.3
    assert again.novelty[0] < 0.3 * scores.novelty[0]
    assert repeat.novelty[0] == 0
    (nearest,) = scores.nearest
    assert nearest is not None
    assert (nearest.kind, nearest.number, nearest.excerpt) == (NearestKind.SOLUTION, 0, SWAP[:200])
    assert "55" in scores.new_steps[0] or "55-37" in scores.new_steps[0]
    assert repeat.new_steps == [[]]


def test_a_solution_of_another_problem_in_it_makes_no_paraphrase_novel(opened: Opened) -> None:
    opened.score([SWAP])
    body, box = SWAP_AGAIN.split("\\(\\boxed")
    alone, *stuffed = opened.score(
        [SWAP_AGAIN, f"{body} {RAIN} \\(\\boxed{box}", f"{RAIN}\n\n{SWAP_AGAIN}"], only()
    ).novelty.tolist()
    assert max(stuffed) <= alone + 0.05


def test_a_step_of_a_thousand_digits_is_named_by_its_beginning(opened: Opened) -> None:
    digits = "7" * 1000
    group = RolloutGroup("q", np.array([True]), texts=[f"{digits} + 5 = x and 4 * x = 32 and x * 9 = 54."])
    ((scores,), _) = NoveltyScorer(opened.memory).score("run", [group], DERIVATION)
    assert isinstance(scores, GroupScores)
    (steps,) = scores.new_steps
    assert any(step.endswith("...") for step in steps)
    assert all(len(step) <= 60 for step in steps)


def test_siblings_are_compared_like_remembered_solutions(opened: Opened) -> None:
    scores = opened.score([SWAP, SWAP, EQUATIONS, SWAP], only(), [True, True, True, False])
    assert scores.novelty[[0, 1, 3]].tolist() == [0, 0, 0]
    assert scores.novelty[2] > 0.3
    assert scores.nearest[0] is not None
    assert (scores.nearest[0].kind, scores.nearest[0].number) == (NearestKind.SIBLING, 1)


def test_a_ring_turns_over_and_its_sketches_with_it(opened: Opened) -> None:
    ways = [
        f"Count the heads and legs of the goats and ducks: {k} + 7 = x, {k} * 3 = y and {k} - 2 = z hold."
        for k in (1000, 2000, 3000)
    ]
    for text in (SWAP, *ways, EQUATIONS):
        opened.score([text])
    assert opened.score([SWAP], only()).novelty[0] > 0
    opened.again()
    assert opened.score([SWAP], only()).novelty[0] > 0
    for text in (*ways, EQUATIONS):
        assert opened.score([text], only()).novelty[0] == 0


def test_a_group_that_comes_twice_in_a_request_is_taken_in_order(opened: Opened) -> None:
    groups = [rollouts([SWAP]), rollouts([SWAP, EQUATIONS]), rollouts([SWAP], prompt="other")]
    scores, _ = NoveltyScorer(opened.memory).score("run", groups, DERIVATION)
    first, second, other = (each for each in scores if isinstance(each, GroupScores))
    assert (first.novelty[0], second.novelty[0], other.novelty[0]) == (1, 0, 1)
    assert second.novelty[1] > 0.3
    opened.again()
    assert opened.score([SWAP, EQUATIONS], only()).novelty.tolist() == [0, 0]


@pytest.mark.parametrize(
    "metric", [Metric.EMBEDDING, Metric.MEAN_COSINE, Metric.CLUSTER_SIZE, Metric.DERIVATION]
)
def test_a_rollout_that_cannot_be_compared_gets_a_reason_and_its_group_goes_on(
    opened: Opened, metric: Metric
) -> None:
    options = ScoringOptions(metric=metric, explain=True)
    texts = ["", SWAP, " \n ", KHMER, EQUATIONS, "🎉🔥🚀🍕🌈"]
    scores = opened.score(texts, options)
    reasons = ["blank", "", "blank", "script", "", "script"]
    assert all(part in reason for part, reason in zip(reasons, scores.suspicious, strict=True))
    assert [bool(reason) for reason in scores.suspicious] == [bool(part) for part in reasons]
    assert scores.novelty[[0, 2, 3, 5]].tolist() == [0, 0, 0, 0]
    assert (scores.memory_before, scores.memory_after) == (0, 2)
    without = NoveltyScorer(opened.memory)
    ((plain,), _) = without.score("run", [rollouts([SWAP, EQUATIONS], prompt="other")], options)
    assert isinstance(plain, GroupScores)
    assert plain.suspicious == []
    np.testing.assert_array_equal(scores.novelty[[1, 4]], plain.novelty)
    nothing = opened.score(["", KHMER], options)
    assert (nothing.novelty.tolist(), nothing.memory_after) == ([0, 0], 2)


def test_hardly_any_derivation_is_neither_paid_nor_stored(opened: Opened) -> None:
    scores = opened.score([BOX, SWAP + " and so on" * 60, SWAP])
    assert scores.novelty.tolist() == [0, 0, 1]
    assert "hardly any derivation" in scores.suspicious[0]
    assert "behind the final answer" in scores.suspicious[1]
    assert (scores.suspicious[2], scores.memory_after) == ("", 1)


def test_hardly_any_relation_to_the_problem_is_neither_paid_nor_stored(opened: Opened) -> None:
    integral = "The antiderivative of $3x^2 - 3$ is $x^3 - 3x$, and from 0 to 3 that is $27 - 9 = 18$."
    scores = opened.score([integral, SWAP, SWAP + " and so on" * 60, integral])
    assert scores.novelty.tolist() == [0, 1, 0, 0]
    assert ["hardly any relation to the problem" in reason for reason in scores.suspicious] == [
        *(True, False, False, True)
    ]
    assert "behind the final answer" in scores.suspicious[2]
    assert scores.memory_after == 1
    # Without the problem this cannot be seen.
    group = RolloutGroup("unstated", np.array([True]), texts=[integral], reference_answer=ANSWER)
    ((unstated,), _) = NoveltyScorer(opened.memory).score("run", [group], DERIVATION)
    assert isinstance(unstated, GroupScores)
    assert unstated.novelty.tolist() == [1]


def test_solutions_without_sketches_are_compared_by_the_embedding_alone(opened: Opened) -> None:
    embedding = ScoringOptions(metric=Metric.EMBEDDING)
    opened.score([SWAP], embedding)
    near, far = opened.score([SWAP_AGAIN], only()), opened.score([EQUATIONS], only())
    assert 0 < near.novelty[0] < 0.8
    assert 0 < far.novelty[0] < 0.8
    assert near.nearest[0] is not None
    assert near.novelty[0] == pytest.approx(1 - near.nearest[0].similarity, abs=1e-6)
    # Beside one with a sketch, the nearer of both counts.
    opened.score([EQUATIONS])
    opened.again()
    assert opened.score([EQUATIONS], only()).novelty[0] == 0
    assert opened.score([SWAP_AGAIN], only()).novelty[0] == pytest.approx(near.novelty[0], abs=1e-6)


def test_a_solution_without_steps_of_its_own_is_not_new_again_and_again(opened: Opened) -> None:
    assert opened.score([STEPLESS]).suspicious == []
    assert opened.score([STEPLESS], only()).novelty[0] == 0
    opened.score([SWAP])
    assert opened.score([STEPLESS], only()).novelty[0] == 0


def test_the_share_of_a_way_among_remembered_and_siblings_is_paid(opened: Opened) -> None:
    for _ in range(3):
        opened.score([SWAP])
    share = only(scale=Scale.SHARE)
    scores = opened.score(
        [SWAP_AGAIN, SWAP, EQUATIONS, EQUATIONS, BOX], share, [True, True, True, False, True]
    )
    assert scores.novelty[2] > 0 > scores.novelty[0]
    assert scores.novelty[0] == pytest.approx(scores.novelty[1])
    assert scores.novelty[[3, 4]].tolist() == [0, 0]
    assert scores.novelty.sum() == pytest.approx(0, abs=1e-6)
    raw = opened.score([SWAP_AGAIN, SWAP, EQUATIONS, EQUATIONS, BOX], only(), [True, True, True, False, True])
    assert scores.raw is not None
    np.testing.assert_array_equal(scores.raw, raw.novelty)
    # decay^age of the three, then the group: (0.81 + 0.9 + 1 + 2 + 1, 1 + 1) of their sum.
    ways = np.log([5.71, 2.0])
    assert scores.novelty[2] - scores.novelty[0] == pytest.approx(ways[0] - ways[1], abs=1e-5)
    with pytest.raises(InvalidInput, match="it needs metric derivation"):
        opened.score([SWAP], ScoringOptions(metric=Metric.EMBEDDING, scale=Scale.SHARE))


def test_the_same_key_gets_the_first_answer_with_reasons_and_steps(opened: Opened) -> None:
    options = ScoringOptions(metric=Metric.DERIVATION, explain=True, scale=Scale.SHARE)
    opened.score([SWAP])
    groups = [rollouts([EQUATIONS, BOX, SWAP])]
    first, _ = NoveltyScorer(opened.memory).score("run", groups, options, key="key")
    opened.again()
    second, replayed = NoveltyScorer(opened.memory).score("run", groups, options, key="key")
    assert replayed
    assert answers.encode(first) == answers.encode(second)
    ((scores,),) = (second,)
    assert isinstance(scores, GroupScores)
    assert scores.suspicious[1]
    assert scores.new_steps[0]
    assert scores.raw is not None
    assert scores.memory_after == 3


def test_sketches_are_copied_exported_and_imported(opened: Opened, tmp_path: Path) -> None:
    opened.score([SWAP, EQUATIONS])
    memory, file = opened.memory, tmp_path / "run.parquet"
    expected = memory.store.solutions(memory.namespace("run"), ["q"])["q"][1]
    assert expected is not None
    assert expected.sketches is not None
    assert expected.sketches.shape == (2, SKETCH_BYTES)
    assert expected.sketches.any(axis=1).all()
    file.write_bytes(b"".join(transfer.export(memory, "run")))
    transfer.import_file(memory, "imported", file, replace=False)
    memory.copy_namespace("run", "copy", replace=False)
    for name in ("imported", "copy"):
        ring = memory.store.solutions(memory.namespace(name), ["q"])["q"][1]
        assert ring is not None
        np.testing.assert_array_equal(ring.sketches, expected.sketches)
        ((scores,), _) = NoveltyScorer(memory).score(name, [rollouts([SWAP])], only())
        assert isinstance(scores, GroupScores)
        assert scores.novelty[0] == 0


@pytest.mark.parametrize(
    ("group", "field"),
    [
        (RolloutGroup("q", np.ones(1, np.bool_), embeddings=np.ones((1, 384), np.float32)), "texts"),
        (RolloutGroup("q", np.ones(1, np.bool_)), "texts"),
        (RolloutGroup("q", np.ones(1, np.bool_), texts=["a"], problem="p" * 2000), "problem"),
        (
            RolloutGroup("q", np.ones(1, np.bool_), texts=["a"], reference_answer="p" * 2000),
            "reference_answer",
        ),
    ],
)
def test_a_group_that_cannot_be_derived_is_refused_alone(
    opened: Opened, group: RolloutGroup, field: str
) -> None:
    scorer = NoveltyScorer(opened.memory, NoveltyLimits(text_characters=1000))
    (error, scores), _ = scorer.score("run", [group, rollouts([SWAP])], DERIVATION)
    assert isinstance(error, InvalidInput)
    assert error.field == field
    assert isinstance(scores, GroupScores)


def test_many_groups_are_scored_as_each_alone(opened: Opened, monkeypatch: pytest.MonkeyPatch) -> None:
    texts = [SWAP, SWAP_AGAIN, EQUATIONS, STEPLESS]
    sizes = [1, 3, 2, 4, 1, 2]
    groups = [rollouts((texts * 2)[i : i + size], prompt=f"p{i}") for i, size in enumerate(sizes)]
    scorer = NoveltyScorer(opened.memory)
    for known in (SWAP, EQUATIONS):
        scorer.score("run", [rollouts([known], prompt=f"p{i}") for i in (1, 3, 4)], DERIVATION)
    alone = [scorer.score("run", [group], only())[0][0] for group in groups]
    for chunk in (2**25, 1):
        monkeypatch.setattr("extra_services.novelty.derivation_scoring.CHUNK_BYTES", chunk)
        together, _ = scorer.score("run", groups, only())
        for one, other in zip(alone, together, strict=True):
            assert isinstance(one, GroupScores)
            assert isinstance(other, GroupScores)
            np.testing.assert_allclose(one.novelty, other.novelty, atol=1e-5)
            assert one.new_steps == other.new_steps


def test_texts_embedded_ahead_are_found_when_they_are_scored(opened: Opened, embedder: Embedder) -> None:
    texts = [SWAP + " Ahead.", BOX, RAIN]
    found = embed_texts(
        opened.memory, "run", texts, NoveltyLimits(), Metric.DERIVATION, [PROBLEM] * 3, [ANSWER] * 3
    )
    assert found.errors[0] is None
    assert "hardly any derivation" in str(found.errors[1])
    assert "hardly any relation" in str(found.errors[2])
    before = embedder.embedded
    opened.score(texts, only())
    assert embedder.embedded == before
    assert opened.memory.namespace("run").settings.text_window != TextWindow.WHOLE
    with pytest.raises(InvalidInput, match="give one per text"):
        embed_texts(opened.memory, "run", texts, NoveltyLimits(), Metric.DERIVATION, [PROBLEM])
