"""Scoring requests through the domain: what is compared, explained, scaled, remembered and replayed.

The vector of a text counts its words, so that similarities are known.
"""

import itertools
import multiprocessing
import zlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from prometheus_client import REGISTRY

from extra_rl.vocabulary import (
    MemoryPolicy,
    Metric,
    NearestKind,
    OutcomeScope,
    Scale,
    ScoreMode,
    TextWindow,
    VectorStorage,
)
from extra_services.errors import FailedPrecondition, InvalidInput, NotFound
from extra_services.memory.memory import Change, Memory
from extra_services.memory.records import (
    EmbeddingSpace,
    Header,
    IdempotentAnswer,
    NamespaceSettings,
    PromptWrite,
    Write,
)
from extra_services.memory.sqlite_store import SqliteStore
from extra_services.novelty.request import (
    GroupScores,
    Nearest,
    NoveltyLimits,
    RolloutGroup,
    ScoringOptions,
)
from extra_services.novelty.scoring import NoveltyScorer
from support.latex_derivations import ANSWER, PROBLEM, SWAP, SWAP_AGAIN
from support.latex_derivations import EQUATIONS as SENTENCES

WORDS = ("sum", "mean", "parity", "circle", "series", "limit")
ONLY = ScoreMode.SCORE_ONLY
#: Without a sentence of its own for the variables: counts of words do not see what equations are about.
EQUATIONS = SENTENCES.replace(" ducks. Then", " ducks, then")


class WordCounts:
    """An embedder whose vectors are normalised counts of words; those in WORDS are at right angles."""

    name, dimension, embedded, cached = "words", 64, 0, 0

    def embed(self, texts: list[str], window: TextWindow = TextWindow.REFERENCE) -> NDArray[np.float32]:
        vectors = np.zeros((len(texts), self.dimension), dtype=np.float32)
        for row, text in enumerate(texts):
            for word in text.split():
                vectors[row, WORDS.index(word) if word in WORDS else zlib.crc32(word.encode()) % 50 + 10] += 1
        unit: NDArray[np.float32] = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
        return unit

    def unreadable(self, texts: list[str]) -> list[bool]:
        return [False] * len(texts)

    def close(self) -> None:
        pass


def opened(folder: Path, **of: Any) -> Memory:
    embedder: Any = WordCounts()
    made = Memory(SqliteStore(folder), embedder)
    made.create_namespace("run", NamespaceSettings(**{"min_history": 0, "memory_capacity": 4, **of}))
    return made


@pytest.fixture
def memory(tmp_path: Path) -> Iterator[Memory]:
    made = opened(tmp_path)
    yield made
    made.close()


def about(value: Any, **tolerance: Any) -> Any:
    """Return pytest.approx, which mypy does not let into tuples."""
    return pytest.approx(value, **tolerance)


def texts(*given: str, prompt: str = "q", correct: list[bool] | None = None) -> RolloutGroup:
    return RolloutGroup(prompt, np.array(correct or [True] * len(given)), texts=list(given))


def tokens(*given: list[int], correct: list[bool] | None = None) -> RolloutGroup:
    ids = [np.array(each, dtype=np.int32) for each in given]
    return RolloutGroup("q", np.array(correct or [True] * len(given)), token_ids=ids)


def score(memory: Memory, *groups: RolloutGroup, **options: Any) -> list[GroupScores]:
    answers, replayed = NoveltyScorer(memory).score("run", list(groups), ScoringOptions(**options))
    assert not replayed
    scores = [answer for answer in answers if isinstance(answer, GroupScores)]
    assert len(scores) == len(groups)
    return scores


def header(memory: Memory, prompt: str = "q") -> Header:
    return memory.store.headers(memory.namespace("run"), [prompt])[prompt]


# What a request is refused for.


def test_a_request_of_too_many_rollouts_is_refused_whole(memory: Memory) -> None:
    scorer = NoveltyScorer(memory, NoveltyLimits(rollouts_per_request=3))
    groups = [texts("sum", "mean"), texts("sum", prompt="other")]
    assert len(scorer.score("run", groups)[0]) == 2
    with pytest.raises(InvalidInput, match="4 rollouts in one request; send at most 3") as refused:
        scorer.score("run", [*groups, texts("sum", prompt="third")])
    assert refused.value.field == "groups"
    assert header(memory, "third") == Header()


@pytest.mark.parametrize(
    ("field", "metric", "option"),
    [
        ("explain", Metric.NGRAM_COUNT, {"explain": True}),
        ("explain", Metric.POLICY_SURPRISE, {"explain": True}),
        ("vendi", Metric.OUTCOME, {"vendi": True}),
        ("scale", Metric.EMBEDDING, {"scale": Scale.SHARE}),
    ],
)
def test_what_a_metric_does_not_have_is_refused_by_the_option_and_the_metric(
    memory: Memory, field: str, metric: Metric, option: dict[str, Any]
) -> None:
    named = Metric.DERIVATION if field == "scale" else metric
    with pytest.raises(InvalidInput, match=rf"metric {named}\b") as refused:
        score(memory, metric=metric, **option)
    assert refused.value.field == field


@pytest.mark.parametrize("metric", [*Metric])
def test_a_request_without_groups_has_no_answers(memory: Memory, metric: Metric) -> None:
    for scale in (Scale.RAW, Scale.GROUP_MAX, Scale.RUNNING_MEAN):
        assert score(memory, metric=metric, scale=scale, track_reward_variance=True) == []


def test_a_missing_namespace_is_not_found(memory: Memory) -> None:
    with pytest.raises(NotFound):
        NoveltyScorer(memory).score("other", [texts("sum")])


def test_a_namespace_that_gets_another_model_s_vectors_meanwhile_refuses_these(tmp_path: Path) -> None:
    memory = opened(tmp_path)
    before = memory.namespace("run")
    other = RolloutGroup("q", np.array([True]), embeddings=np.eye(1, 7, dtype=np.float32))
    score(memory, other)
    memory.namespace = lambda name: before  # type: ignore[method-assign]
    with pytest.raises(FailedPrecondition, match="'run' holds vectors of 'sent by the caller' with 7"):
        score(memory, texts("sum"))
    memory.close()


# What a rollout is compared with.


def test_a_rollout_is_compared_with_the_memory_and_its_siblings_and_the_nearest_is_named(
    memory: Memory,
) -> None:
    long = "sum " * 60
    score(memory, texts("circle", long))
    (scores,) = score(
        memory,
        texts("sum mean", "wrong", "parity", "parity mean", "limit", correct=[True, False, True, True, True]),
        explain=True,
    )
    half = 0.5**0.5
    assert scores.novelty == about([1 - half, 0, 1 - half, 1 - half, 1], abs=1e-6)
    assert (scores.memory_before, scores.memory_after) == (2, 4)
    sum_mean, wrong, parity, parity_mean, limit = scores.nearest
    assert sum_mean == Nearest(NearestKind.SOLUTION, 1, long[:200], about(half))
    assert wrong is None
    assert parity == Nearest(NearestKind.SIBLING, 3, "parity mean", about(half))
    assert parity_mean == Nearest(NearestKind.SIBLING, 2, "parity", about(half))
    # Unlike everything, so as near to the memory as to a sibling: the memory is named.
    assert limit is not None
    assert (limit.kind, limit.similarity) == (NearestKind.SOLUTION, 0)


def test_between_a_solution_and_a_sibling_that_are_equal_the_solution_is_named(memory: Memory) -> None:
    score(memory, texts("sum mean circle"))
    same = texts("sum mean circle", "sum mean circle")
    for neighbour in score(memory, same, explain=True)[0].nearest:
        assert neighbour is not None
        assert (neighbour.kind, neighbour.number) == (NearestKind.SOLUTION, 0)


def test_alone_a_rollout_has_no_neighbour_and_without_explain_none_is_named(memory: Memory) -> None:
    (alone,) = score(memory, texts("sum"), explain=True, mode=ONLY)
    assert (alone.novelty.tolist(), alone.nearest) == ([1], [None])
    (unexplained,) = score(memory, texts("sum", "mean"))
    assert (unexplained.nearest, unexplained.vendi, unexplained.reward_variance) == ([], None, None)
    assert (unexplained.raw, unexplained.divisor, unexplained.new_steps) == (None, 1, [])


def test_what_an_earlier_group_of_the_request_added_is_known_to_the_next_of_its_prompt(
    memory: Memory,
) -> None:
    score(memory, texts("series"))
    groups = [
        texts("sum", "mean"),
        texts("sum", "sum", prompt="other"),
        texts("mean mean", "sum circle", "series"),
        texts("circle sum", "limit", prompt="q"),
    ]
    first, other, second, third = score(memory, *groups, explain=True)
    assert (first.memory_before, first.memory_after) == (1, 3)
    assert (other.memory_before, other.memory_after) == (0, 2)
    assert (second.memory_before, second.memory_after) == (3, 4)
    assert second.novelty.tolist() == about([0, 1 - 0.5**0.5, 0], abs=1e-6)
    assert [(n.kind, n.number, n.excerpt) for n in second.nearest if n is not None] == [
        (NearestKind.SOLUTION, 2, "mean"),
        (NearestKind.SOLUTION, 1, "sum"),
        (NearestKind.SOLUTION, 0, "series"),
    ]
    (circle, limit) = third.nearest
    assert circle == Nearest(NearestKind.SOLUTION, 4, "sum circle", about(1))
    assert limit is not None
    ring = memory.store.solutions(memory.namespace("run"), ["q"])["q"][1]
    assert ring is not None
    kept = dict(zip(ring.sequences.tolist(), ring.excerpts, strict=True))
    assert kept == {4: "sum circle", 5: "series", 6: "circle sum", 7: "limit"}


def test_novelty_is_0_while_the_memory_is_smaller_than_asked(tmp_path: Path) -> None:
    memory = opened(tmp_path, min_history=2)
    groups = [texts("sum"), texts("mean"), texts("circle"), texts("limit", prompt="other")]
    assert [each.novelty.tolist() for each in score(memory, *groups)] == [[0], [0], [1], [0]]
    memory.close()


def test_the_policy_all_compares_and_keeps_wrong_rollouts_too(tmp_path: Path) -> None:
    memory = opened(tmp_path, memory_policy=MemoryPolicy.ALL)
    (first,) = score(memory, texts("sum", "mean", correct=[True, False]))
    assert (first.novelty.tolist(), first.memory_after) == ([1, 1], 2)
    (again,) = score(memory, texts("mean", "limit", correct=[True, False]), explain=True)
    assert again.novelty.tolist() == [0, 1]
    assert again.nearest[0] == Nearest(NearestKind.SOLUTION, 1, "mean", about(1))
    memory.close()


def test_vectors_that_the_caller_sends_are_kept_without_an_excerpt(memory: Memory) -> None:
    group = RolloutGroup("q", np.array([True, False, True]), embeddings=3 * np.eye(3, dtype=np.float32))
    score(memory, group)
    (scores,) = score(memory, group, explain=True, mode=ONLY)
    assert scores.nearest == [
        Nearest(NearestKind.SOLUTION, 0, "", 1.0),
        None,
        Nearest(NearestKind.SOLUTION, 1, "", 1.0),
    ]


@pytest.mark.parametrize("storage", [*VectorStorage])
def test_vectors_are_kept_in_the_number_format_of_the_namespace(
    tmp_path: Path, storage: VectorStorage
) -> None:
    memory = opened(tmp_path, storage=storage)
    score(memory, texts("sum mean"))
    assert score(memory, texts("sum mean"), mode=ONLY)[0].novelty.tolist() == about([0], abs=1e-3)
    ring = memory.store.solutions(memory.namespace("run"), ["q"])["q"][1]
    assert ring is not None
    assert ring.vectors.dtype == np.dtype(storage.value)
    memory.close()


def test_a_refused_group_leaves_the_others_at_their_places(memory: Memory) -> None:
    scorer = NoveltyScorer(memory, NoveltyLimits(text_characters=20))
    groups = [texts("sum"), texts("much too long " * 9), texts("mean", "sum"), texts("", prompt="blank")]
    (first, refused, second, blank), _ = scorer.score("run", groups, ScoringOptions(explain=True))
    assert isinstance(first, GroupScores)
    assert isinstance(refused, InvalidInput)
    assert refused.field == "texts[0]"
    assert isinstance(second, GroupScores)
    assert second.novelty.tolist() == [1, 0]
    # A suspicious rollout is left out of its group, with the reason, and so nothing of this one is scored.
    assert isinstance(blank, GroupScores)
    assert (blank.novelty.tolist(), blank.nearest, blank.memory_after) == ([0], [None], 0)
    assert "blank" in blank.suspicious[0]
    assert header(memory, "blank") == Header()


def test_only_scoring_keeps_nothing_and_only_remembering_scores_nothing(memory: Memory) -> None:
    group = texts("sum", "mean")
    options = {"explain": True, "track_reward_variance": True, "scale": Scale.RUNNING_MEAN}
    (scored,) = score(memory, group, mode=ONLY, **options)
    assert (scored.novelty.tolist(), scored.memory_after, scored.reward_variance) == ([1, 1], 0, 0)
    assert header(memory) == Header()
    assert memory.namespace("run").positive == {}
    (kept,) = score(memory, group, mode=ScoreMode.REMEMBER_ONLY, **options)
    assert (kept.novelty.tolist(), kept.nearest, kept.memory_after) == ([0, 0], [None, None], 2)
    assert memory.namespace("run").positive == {}
    assert score(memory, group, mode=ONLY)[0].novelty.tolist() == [0, 0]


@pytest.mark.parametrize("metric", [Metric.EMBEDDING, Metric.MEAN_COSINE, Metric.CLUSTER_SIZE])
def test_the_space_of_the_namespace_is_set_by_the_first_vectors_alone(memory: Memory, metric: Metric) -> None:
    score(memory, texts("sum", correct=[False]), metric=metric)
    assert memory.namespace("run").solutions == EmbeddingSpace()
    score(memory, texts("sum"), metric=metric, mode=ONLY)
    assert memory.namespace("run").solutions == EmbeddingSpace()
    score(memory, texts("sum"), metric=metric)
    assert memory.namespace("run").solutions == EmbeddingSpace("words", 64)


def test_set_metrics_compare_siblings_alone_and_explain_by_the_memory_too(memory: Memory) -> None:
    score(memory, texts("sum"))
    group = texts("sum", "sum", "mean", "wrong", correct=[True, True, True, False])
    for metric in (Metric.MEAN_COSINE, Metric.CLUSTER_SIZE):
        (scores,) = score(memory, group, metric=metric, explain=True, vendi=True, mode=ONLY)
        assert scores.novelty.tolist() == about([0.5, 0.5, 1, 0])
        assert [n and n.kind for n in scores.nearest] == [*[NearestKind.SOLUTION] * 3, None]
        # Two kinds, weighted 2 : 1.
        assert scores.vendi == about(3 / 2 ** (2 / 3))


def test_vendi_scores_belong_to_their_groups(memory: Memory) -> None:
    groups = [
        texts("sum", "mean", prompt="two"),
        texts("sum", "sum", "sum", prompt="one"),
        texts("no", prompt="none", correct=[False]),
    ]
    two, one, none = score(memory, *groups, vendi=True)
    assert (two.vendi, one.vendi, none.vendi) == (about(2), about(1), 0)


# Counts of tokens, and likelihoods.


def test_n_grams_of_correct_responses_make_later_ones_less_novel(memory: Memory) -> None:
    first = tokens([1, 2, 3], [1, 2, 4], [7, 8], correct=[True, True, False])
    second = tokens([1, 2], [7, 8], [5])
    one, two = score(memory, first, second, metric=Metric.NGRAM_COUNT)
    assert one.novelty.tolist() == [1, 1, 0]
    assert two.novelty.tolist() == about([3**-0.5, 1, 0])
    (third,) = score(memory, tokens([1, 2, 4]), metric=Metric.NGRAM_COUNT)
    assert third.novelty.tolist() == about([(4**-0.5 + 2**-0.5) / 2])
    assert (third.memory_before, third.memory_after) == (0, 0)
    only = {"metric": Metric.NGRAM_COUNT, "mode": ONLY}
    assert score(memory, tokens([1, 2]), tokens([1, 2]), **only)[1].novelty == about(5**-0.5)
    assert score(memory, tokens([1, 2]), **only)[0].novelty == about(5**-0.5)


def test_of_a_policy_that_keeps_all_wrong_responses_are_scored_and_not_counted(tmp_path: Path) -> None:
    memory = opened(tmp_path, memory_policy=MemoryPolicy.ALL)
    group = tokens([1, 2], [1, 2], correct=[True, False])
    assert score(memory, group, metric=Metric.NGRAM_COUNT)[0].novelty.tolist() == [1, 1]
    assert score(memory, group, metric=Metric.NGRAM_COUNT)[0].novelty.tolist() == about([0.5**0.5] * 2)
    memory.close()


def test_metrics_without_vectors_state_the_size_of_the_memory_and_leave_it(memory: Memory) -> None:
    for words in (("sum", "mean", "limit"), ("parity", "series")):
        score(memory, texts(*words))
    surprise = RolloutGroup("q", np.array([True, True]), sequence_logprobs=np.array([-1, -9], np.float32))
    for group, metric in ((tokens([1, 2]), Metric.NGRAM_COUNT), (surprise, Metric.POLICY_SURPRISE)):
        (scores,) = score(memory, group, metric=metric)
        assert (scores.memory_before, scores.memory_after) == (4, 4)
    assert header(memory).solutions_added == 5


def test_the_policy_s_surprise_is_that_of_the_correct_rollouts(memory: Memory) -> None:
    values = np.array([-1, -5, -9, -100], dtype=np.float32)
    group = RolloutGroup("q", np.array([True, True, True, False]), sequence_logprobs=values)
    (scores,) = score(memory, group, metric=Metric.POLICY_SURPRISE, mode=ONLY)
    assert scores.novelty.tolist() == about([0, 0, 1, 0])
    (kept,) = score(memory, group, metric=Metric.POLICY_SURPRISE, mode=ScoreMode.REMEMBER_ONLY)
    assert kept.novelty.tolist() == [0] * 4


# Final answers; test_novelty_outcome.py compares their counts with a model.


def test_answers_are_counted_and_explained_with_the_correct_rollouts(memory: Memory) -> None:
    group = RolloutGroup("q", np.array([False, False, True]), answers=["7", "8", "12"])
    first, second = score(
        memory, group, group, metric=Metric.OUTCOME, explain=True, track_reward_variance=True
    )
    assert (first.correct, second.correct, second.memory_before, second.memory_after) == (1, 1, 2, 2)
    assert first.novelty.tolist() == [1, 1, 0]
    assert second.novelty.tolist() == about([0.5**0.5, 0.5**0.5, 0])
    assert [count and (count.earlier, count.in_group) for count in second.answer_counts] == [
        (1, 1),
        (1, 1),
        None,
    ]
    assert second.reward_variance == about((0.9 * 0.1 + 0.1) * 2 / 9)
    assert memory.store.answer_counts(memory.namespace("run"), ["q"]) == {"q": {"7": 2, "8": 2}}
    (unexplained,) = score(memory, group, metric=Metric.OUTCOME, mode=ONLY)
    assert (unexplained.answer_counts, unexplained.correct) == ([], 0)


def test_groups_without_an_answer_age_the_counts_of_a_decaying_namespace_alone(memory: Memory) -> None:
    memory.create_namespace("decayed", NamespaceSettings(outcome_decay=0.5))
    given = RolloutGroup("q", np.array([False]), answers=["7"])
    missing = RolloutGroup("q", np.array([False]), answers=[""])
    for name, count in (("run", 1), ("decayed", 0.5)):
        scorer, outcome = NoveltyScorer(memory), ScoringOptions(metric=Metric.OUTCOME)
        scorer.score(name, [given], outcome)
        version = memory.store.headers(memory.namespace(name), ["q"])["q"].version
        scorer.score(name, [missing], outcome)
        found = memory.namespace(name)
        assert memory.store.answer_counts(found, ["q"]) == {"q": {"7": count}}
        # What changes nothing is not written.
        assert (memory.store.headers(found, ["q"])["q"].version == version) == (name == "run")


# Derivations; test_novelty_derivation_scoring.py has the embedding model's.


def derived(*given: str, prompt: str = "q", correct: list[bool] | None = None) -> RolloutGroup:
    return replace(texts(*given, prompt=prompt, correct=correct), problem=PROBLEM, reference_answer=ANSWER)


def test_another_derivation_is_novel_and_its_steps_are_named_at_its_place(memory: Memory) -> None:
    groups = [
        derived(SWAP),
        derived("no derivation", SWAP, EQUATIONS, "wrong", correct=[True, True, True, False]),
        derived(EQUATIONS, prompt="other"),
    ]
    first, second, other = score(memory, *groups, metric=Metric.DERIVATION, explain=True)
    assert min(first.novelty[0], second.novelty[2], other.novelty[0]) > 0
    assert not second.novelty[[0, 1, 3]].any()
    assert "hardly any derivation" in second.suspicious[0]
    assert [bool(steps) for steps in second.new_steps] == [False, False, True, False]
    assert not {"37*2", "110-74"} & set(second.new_steps[2])
    assert set(second.new_steps[2]) <= set(other.new_steps[0])
    assert second.nearest[1] is not None
    assert (second.nearest[1].kind, second.nearest[1].excerpt) == (NearestKind.SOLUTION, SWAP[:200])
    (plain,) = score(memory, derived(SWAP), metric=Metric.DERIVATION)
    assert (plain.new_steps, plain.nearest) == ([], [])


def test_sketches_of_derivations_are_kept_with_their_solutions(memory: Memory) -> None:
    options = {"metric": Metric.DERIVATION}
    score(memory, derived(SWAP), derived(EQUATIONS, SWAP, prompt="other"), derived(EQUATIONS), **options)
    kept = memory.store.solutions(memory.namespace("run"), ["q", "other"])
    (_, ring), (_, other) = kept["q"], kept["other"]
    assert ring is not None
    assert other is not None
    assert ring.sketches is not None
    assert other.sketches is not None
    assert ring.sketches.any(axis=1).all()
    np.testing.assert_array_equal(ring.sketches, other.sketches[::-1])
    assert not np.array_equal(ring.sketches[0], ring.sketches[1])


def test_a_common_way_is_paid_less_than_a_rare_one_on_the_scale_share(memory: Memory) -> None:
    for _ in range(2):
        score(memory, derived(SWAP), metric=Metric.DERIVATION)
    group = derived("no derivation", EQUATIONS, SWAP, EQUATIONS, correct=[True, True, True, False])
    options = {"metric": Metric.DERIVATION, "mode": ONLY}
    (shared,) = score(memory, group, scale=Scale.SHARE, **options)
    (raw,) = score(memory, group, **options)
    # decay^age of the two, each way's prior of 1, and the group: 0.9 + 1 + 1 + 1 against 1 + 1.
    half = np.log(3.9 / 2) / 2
    assert shared.novelty.tolist() == about([0, half, -half, 0], abs=1e-6)
    assert shared.raw is not None
    np.testing.assert_array_equal(shared.raw, raw.novelty)
    assert (shared.divisor, raw.raw) == (1, None)


# Scales, and the variance of rewards.


def test_group_max_makes_the_largest_novelty_of_each_group_1(memory: Memory) -> None:
    groups = [texts("sum", "sum mean"), texts("sum", "sum", prompt="alike")]
    scaled, alike = score(memory, *groups, scale=Scale.GROUP_MAX)
    largest = 1 - 0.5**0.5
    assert (scaled.novelty.tolist(), scaled.divisor) == (about([1, 1]), about(largest))
    # There is nothing to scale.
    assert (alike.novelty.tolist(), alike.divisor) == ([0, 0], 1)
    assert scaled.novelty.dtype == np.float32


def test_the_running_mean_is_that_of_all_positive_novelties_of_the_metric(memory: Memory) -> None:
    score(memory, texts("sum", "sum mean", "wrong", correct=[True, True, False]))
    score(memory, texts("sum", "circle"), metric=Metric.MEAN_COSINE)
    groups = [texts("limit", "sum"), texts("sum", "mean", "mean", prompt="other")]
    scores = score(memory, *groups, scale=Scale.RUNNING_MEAN)
    mean = (2 * (1 - 0.5**0.5) + 1 + 1) / 4
    assert [each.divisor for each in scores] == [about(mean)] * 2
    assert scores[0].novelty.tolist() == about([1 / mean, 0])
    positive = memory.namespace("run").positive
    assert positive[Metric.EMBEDDING] == (about(4 * mean), 4)
    assert positive[Metric.MEAN_COSINE] == (about(2), 2)


def test_without_a_positive_novelty_nothing_is_divided_or_remembered_of_it(memory: Memory) -> None:
    (scores,) = score(memory, texts("sum", "sum"), scale=Scale.RUNNING_MEAN)
    assert (scores.novelty.tolist(), scores.divisor) == ([0, 0], 1)
    assert memory.namespace("run").positive == {}


def test_a_process_that_is_forked_after_scoring_scores_too(memory: Memory, tmp_path: Path) -> None:
    score(memory, texts("sum", "mean"))

    def in_child() -> None:
        other = opened(tmp_path / "child")
        (scores,) = score(other, texts("sum", "sum mean"))
        assert scores.novelty.tolist() == about([1 - 0.5**0.5] * 2)
        other.close()

    child = multiprocessing.get_context("fork").Process(target=in_child)
    child.start()
    child.join(60)
    child.kill()
    assert child.exitcode == 0


def test_the_variance_of_rewards_moves_by_its_rate_with_each_group(tmp_path: Path) -> None:
    memory = opened(tmp_path, variance_rate=0.25)
    mixed = texts("sum", "mean", "no", "no", correct=[True, True, False, False])
    sure, other = texts("sum"), texts("sum", "no", prompt="other", correct=[True, False])
    first, same, second = score(memory, mixed, other, sure, track_reward_variance=True)
    assert (first.reward_variance, same.reward_variance) == (0.0625, 0.0625)
    assert second.reward_variance == 0.0625 * 0.75
    assert header(memory).reward_variance == second.reward_variance
    assert header(memory).solutions_added == 3
    (third,) = score(memory, mixed, track_reward_variance=True)
    assert third.reward_variance == about(0.75 * 0.0625 * 0.75 + 0.0625)
    (only,) = score(memory, sure, track_reward_variance=True, mode=ONLY)
    assert only.reward_variance == header(memory).reward_variance == third.reward_variance
    score(memory, mixed)
    assert header(memory).reward_variance == third.reward_variance
    memory.close()


# One request with many groups is as many requests with one.

_group = st.tuples(
    st.sampled_from(["q", "r", "s"]),
    st.lists(st.tuples(st.integers(0, 9), st.booleans()), min_size=1, max_size=4),
)


@pytest.mark.parametrize("metric", [*Metric])
@given(
    batch=st.lists(_group, min_size=1, max_size=5),
    known=st.lists(_group, max_size=2),
    explain=st.booleans(),
    mode=st.sampled_from(ScoreMode),
)
@settings(max_examples=12, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_batch_is_answered_and_remembered_as_its_groups_one_by_one(
    tmp_path_factory: pytest.TempPathFactory,
    metric: Metric,
    batch: list[Any],
    known: list[Any],
    explain: bool,
    mode: ScoreMode,
) -> None:
    if mode is ONLY:
        batch = list({prompt: (prompt, rollouts) for prompt, rollouts in batch}.values())
    options = {
        "metric": metric,
        "explain": explain and metric not in (Metric.NGRAM_COUNT, Metric.POLICY_SURPRISE),
        "vendi": metric in (Metric.EMBEDDING, Metric.MEAN_COSINE, Metric.CLUSTER_SIZE, Metric.DERIVATION),
        "track_reward_variance": True,
        "mode": mode,
    }
    together, alone = (opened(tmp_path_factory.mktemp(name)) for name in ("together", "alone"))
    groups = [_made(metric, *each) for each in batch]
    for each in known:
        score(together, _made(metric, *each), metric=metric)
        score(alone, _made(metric, *each), metric=metric)
    answers = score(together, *groups, **options)
    expected = [score(alone, group, **options)[0] for group in groups]
    for answer, single in zip(answers, expected, strict=True):
        np.testing.assert_allclose(answer.novelty, single.novelty, atol=1e-5)
        assert [n and (n.kind, n.number, n.excerpt) for n in answer.nearest] == [
            n and (n.kind, n.number, n.excerpt) for n in single.nearest
        ]
        assert answer.vendi == (None if single.vendi is None else about(single.vendi))
        nothing: Any = None
        rest = {"novelty": nothing, "nearest": [], "vendi": None}
        assert replace(answer, **rest) == replace(single, **rest)
    _assert_same(together, alone)
    together.close()
    alone.close()


def _made(metric: Metric, prompt: str, rollouts: list[tuple[int, bool]]) -> RolloutGroup:
    correct, numbers = np.array([right for _, right in rollouts]), [number for number, _ in rollouts]
    pairs = [f"{first} {second}" for first, second in itertools.combinations(WORDS[:5], 2)]
    ways = ["", SWAP, SWAP_AGAIN, EQUATIONS, "no derivation"]
    return RolloutGroup(
        prompt,
        correct,
        texts=[ways[number // 2] if metric is Metric.DERIVATION else pairs[number] for number in numbers],
        token_ids=[np.arange(number, dtype=np.int32) % 3 for number in numbers],
        sequence_logprobs=-np.array(numbers, dtype=np.float32),
        answers=[str(number) if number else "" for number in numbers],
        problem=PROBLEM,
        reference_answer=ANSWER,
    )


def _assert_same(one: Memory, other: Memory) -> None:
    left, right = (memory.namespace("run") for memory in (one, other))
    assert left.solutions == right.solutions
    assert left.positive.keys() == right.positive.keys()
    for metric, (total, count) in left.positive.items():
        assert right.positive[metric] == (about(total, abs=1e-4), count)
    prompts = ["q", "r", "s"]
    records = zip(one.store.records(left, prompts), other.store.records(right, prompts), strict=True)
    for first, second in records:
        # A batch writes a prompt once.
        assert replace(first.header, version=0) == replace(second.header, version=0)
        assert (first.ngrams, first.answer_counts) == (second.ngrams, second.answer_counts)
        assert (first.solutions is None) == (second.solutions is None)
        if first.solutions is not None and second.solutions is not None:
            assert first.solutions.excerpts == second.solutions.excerpts
            np.testing.assert_array_equal(first.solutions.sequences, second.solutions.sequences)
            np.testing.assert_array_equal(first.solutions.vectors, second.solutions.vectors)
            np.testing.assert_array_equal(first.solutions.sketches, second.solutions.sketches)


# Idempotency keys.

_ASKED = ScoringOptions(Metric.OUTCOME, explain=True)


def _answered() -> RolloutGroup:
    return RolloutGroup("q", np.array([False, True]), answers=["7", "12"])


def test_a_key_gets_the_first_answer_again_and_nothing_is_remembered_twice(memory: Memory) -> None:
    scorer, group = NoveltyScorer(memory), texts("sum", "mean")
    first, replayed = scorer.score("run", [group], key="step 1")
    again, replayed_again = scorer.score("run", [group], key="step 1")
    assert (replayed, replayed_again) == (False, True)
    assert repr(first) == repr(again)
    assert header(memory).solutions_added == 2
    assert scorer.score("run", [group], key="step 2")[1] is False
    assert header(memory).solutions_added == 4


@pytest.mark.parametrize(
    "other",
    [
        {"mode": ScoreMode.REMEMBER_ONLY},
        {"scale": Scale.GROUP_MAX},
        {"explain": False},
        {"track_reward_variance": True},
        {"outcome_scope": OutcomeScope.ALL},
        {"ignore_history": True},
    ],
)
def test_a_key_is_refused_for_other_options(memory: Memory, other: dict[str, Any]) -> None:
    scorer = NoveltyScorer(memory)
    scorer.score("run", [_answered()], _ASKED, key="k")
    with pytest.raises(InvalidInput, match="'k' was used before, for another request"):
        scorer.score("run", [_answered()], replace(_ASKED, **other), key="k")


def test_a_key_is_refused_for_other_groups_metrics_and_diversities(memory: Memory) -> None:
    scorer, plain = NoveltyScorer(memory), ScoringOptions()
    group = texts("sum", "mean")
    scorer.score("run", [group], plain, key="k")
    for groups, options in (
        ([], plain),
        ([group, group], plain),
        ([replace(group, prompt_id="r")], plain),
        ([replace(group, correct=np.array([True, False]))], plain),
        ([group], ScoringOptions(Metric.MEAN_COSINE)),
        ([group], ScoringOptions(vendi=True)),
    ):
        with pytest.raises(InvalidInput, match="was used before"):
            scorer.score("run", groups, options, key="k")


def test_a_key_that_an_earlier_release_answered_is_replayed(memory: Memory) -> None:
    """Operation and fingerprint are stored, so a retry across an upgrade needs them unchanged."""
    answer = IdempotentAnswer("score_groups", "old", "b4175367aad45c93", '[["correct", "of before"]]')
    memory.store.commit(memory.namespace("run"), Write({"q": PromptWrite(0, reward_variance=0.5)}, answer))
    (refused,), replayed = NoveltyScorer(memory).score("run", [_answered()], _ASKED, key="old")
    assert replayed
    assert isinstance(refused, InvalidInput)
    assert (refused.field, refused.message) == ("correct", "of before")


def test_when_another_replica_answers_the_key_meanwhile_its_answer_is_given(
    memory: Memory, monkeypatch: pytest.MonkeyPatch
) -> None:
    scorer, group, headers = NoveltyScorer(memory), texts("sum", "mean"), Change.headers
    options = ScoringOptions(track_reward_variance=True)
    theirs: list[Any] = []

    def late(change: Change) -> dict[str, Header]:
        if not theirs:
            theirs.append(None)
            other = NoveltyScorer(Memory(memory.store, memory.embedder))
            theirs[0], _ = other.score("run", [group], options, key="k")
        return headers(change)

    monkeypatch.setattr(Change, "headers", late)
    answers, replayed = scorer.score("run", [group], options, key="k")
    assert replayed
    assert repr(answers) == repr(theirs[0])
    assert header(memory).solutions_added == 2


def test_the_server_s_metrics_count_rollouts_once_and_time_searches(memory: Memory) -> None:
    def figures() -> list[float]:
        search = {"stage": "search"}
        found = [
            REGISTRY.get_sample_value("extra_rl_novelty_rollouts_total"),
            REGISTRY.get_sample_value("extra_rl_novelty_stage_duration_seconds_count", search),
        ]
        return [value or 0 for value in found]

    rollouts, searches = figures()
    for _ in range(2):
        groups = [texts("sum", "mean", correct=[True, False]), texts("sum")]
        NoveltyScorer(memory).score("run", groups, key="k")
    assert figures() == [rollouts + 3, searches + 2]
