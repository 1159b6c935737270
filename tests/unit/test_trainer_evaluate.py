"""pass@k is the unbiased estimate, its interval covers, and the journal loses no finished problem."""

import json
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from extra_rl.config_file import ConfigError
from extra_trainer.evaluation.evaluator import weights_identity
from extra_trainer.evaluation.journal import Journal
from extra_trainer.evaluation.pass_at_k import bootstrap_means, interval, pass_at_k, problem_pass_at_k
from extra_trainer.evaluation.result import (
    Evaluation,
    GroupResult,
    ProblemResult,
    group_table,
    outcome_lines,
    result_table,
    summarize,
)

REQUEST: dict[str, Any] = {
    "policy_version": 3,
    "samples_per_prompt": 4,
    "seed": 0,
    "sets": {"easy": "1", "hard": "2"},
}
RESULTS = [
    ProblemResult(set="easy", index=0, id="e0", correct=4, tokens=40),
    ProblemResult(set="easy", index=1, id="e1", correct=1, undecided=2, cut_off=1, tokens=80),
    ProblemResult(set="hard", index=0, id="h0", tokens=400, cut_off=4),
    ProblemResult(set="hard", index=1, id="h1", refused="too long"),
]


@given(st.data())
def test_pass_at_k_is_the_share_of_k_subsets_with_a_correct_sample(data: st.DataObject) -> None:
    n = data.draw(st.integers(1, 8))
    k = data.draw(st.integers(1, n))
    correct = data.draw(st.lists(st.integers(0, n), min_size=1, max_size=4))
    shares = []
    for c in correct:
        subsets = list(combinations([True] * c + [False] * (n - c), k))
        shares.append(sum(any(subset) for subset in subsets) / len(subsets))
    assert pass_at_k(correct, n, k) == pytest.approx(sum(shares) / len(shares))


@pytest.mark.parametrize("k", [0, 9])
def test_k_beyond_the_samples_is_refused(k: int) -> None:
    with pytest.raises(ValueError, match="between 1 and n"):
        pass_at_k([1], 8, k)


def test_the_interval_covers_the_true_value_about_as_often_as_it_says() -> None:
    random = np.random.default_rng(1)
    n, problems, trials = 8, 100, 60
    # The true pass@1 of a population of problems whose difficulty is uniform is 1/2.
    covered = 0
    for trial in range(trials):
        correct = random.binomial(n, random.uniform(size=problems))
        values = problem_pass_at_k(correct.tolist(), n, 1)[np.newaxis]
        low, high = interval(bootstrap_means(values, (trial,))[:, 0])
        assert low < values.mean() < high
        covered += low <= 0.5 <= high
    assert 0.85 * trials <= covered < trials


def test_the_interval_is_the_same_for_the_same_seed_and_results_alone() -> None:
    first = summarize(RESULTS, REQUEST, (1, 4), seconds=1)
    assert first == summarize(RESULTS[::-1], REQUEST, (1, 4), seconds=1)
    other = summarize(RESULTS, {**REQUEST, "seed": 1}, (1, 4), seconds=1)
    assert other.sets["easy"].pass_at[1].value == first.sets["easy"].pass_at[1].value


def test_refused_and_undecided_count_as_unsolved_and_are_shown() -> None:
    evaluation = summarize(RESULTS, REQUEST, (1, 4), seconds=1)
    easy, hard = evaluation.sets["easy"], evaluation.sets["hard"]
    assert easy.pass_at[1].value == pytest.approx((1 + 1 / 4) / 2)
    assert easy.pass_at[4].value == 1
    assert (easy.undecided, easy.mean_tokens, easy.cut_off) == (2, 15, 1 / 8)
    assert hard.pass_at[4].value == 0
    # Of the samples that were drawn.
    assert (hard.mean_tokens, hard.cut_off) == (100, 1)
    assert [(problem.id, problem.reason) for problem in hard.refused] == [("h1", "too long")]
    assert evaluation.mean[1].value == pytest.approx((0.625 + 0) / 2)
    assert (evaluation.problems, evaluation.undecided, evaluation.refused) == (4, 2, 1)
    columns = {str(column.header): list(column.cells) for column in result_table(evaluation).columns}
    assert columns["undecided\nsamples"] == ["2", "0", "2"]
    assert columns["refused\nproblems"] == ["0", "1", "1"]


def test_an_evaluation_survives_the_file(tmp_path: Path) -> None:
    result = summarize(RESULTS, REQUEST, (1, 4), seconds=2.5)
    result.save(tmp_path / "e.json")
    assert Evaluation.load(tmp_path / "e.json") == result


def test_a_journal_goes_on_after_any_cut(tmp_path: Path) -> None:
    path = tmp_path / "samples.jsonl"
    with Journal(path, REQUEST) as journal:
        for result in RESULTS:
            journal.append(result, [{"text": "é\n"}])
    content = path.read_bytes()
    ends = [place + 1 for place, byte in enumerate(content) if byte == ord("\n")]
    assert len(ends) == 1 + len(RESULTS)
    for length in range(len(content) + 1):
        path.write_bytes(content[:length])
        whole = sum(end <= length for end in ends) - 1
        with Journal(path, REQUEST) as journal:
            assert list(journal.done.values()) == RESULTS[: max(whole, 0)]
            if length % 7 == 0:
                for result in RESULTS[max(whole, 0) :]:
                    journal.append(result, [])
                with_all = [json.loads(line) for line in path.read_bytes().splitlines()]
                assert [line["id"] for line in with_all[1:]] == [result.id for result in RESULTS]


def test_a_journal_of_another_request_is_refused_with_what_differs_or_replaced(tmp_path: Path) -> None:
    path = tmp_path / "samples.jsonl"
    with Journal(path, REQUEST) as journal:
        journal.append(RESULTS[0], [])
    other = {**REQUEST, "samples_per_prompt": 8}
    with pytest.raises(ConfigError, match="samples_per_prompt was 4 and is 8"):
        Journal(path, other)
    with Journal(path, REQUEST) as journal:
        assert len(journal.done) == 1
    with Journal(path, other, replace=True) as journal:
        assert journal.done == {}
    with Journal(path, other) as journal:
        assert journal.done == {}


def test_two_evaluations_never_write_one_journal(tmp_path: Path) -> None:
    path = tmp_path / "samples.jsonl"
    with Journal(path, REQUEST), pytest.raises(ConfigError, match="another evaluation is writing"):
        Journal(path, REQUEST)


def test_a_file_that_is_no_journal_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "samples.jsonl"
    path.write_text('{"problem": "1+1"}\n')
    with pytest.raises(ConfigError, match="no journal of an evaluation"):
        Journal(path, REQUEST)
    assert path.read_text() == '{"problem": "1+1"}\n'


def test_other_weights_have_another_identity(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(bytes(3 * 2**20))
    first = weights_identity(tmp_path)
    assert weights_identity(tmp_path) == first
    path.write_bytes(bytes(3 * 2**20 - 1) + b"\1")
    assert weights_identity(tmp_path) != first


def test_groups_of_problems_are_summarized_and_problems_are_counted_by_outcome() -> None:
    results = [
        ProblemResult(set="easy", index=0, id="a", group="K", correct=4),
        ProblemResult(set="easy", index=1, id="b", group="L", correct=1),
        ProblemResult(set="easy", index=2, id="c", group="L"),
        ProblemResult(set="easy", index=3, id="d"),
    ]
    evaluation = summarize(results, {**REQUEST, "sets": {"easy": "1"}}, (1, 4), seconds=1)
    assert evaluation.sets["easy"].groups == {
        "K": GroupResult(problems=1, pass_at_1=1.0, all_wrong=0.0),
        "L": GroupResult(problems=2, pass_at_1=0.125, all_wrong=0.5),
    }
    assert outcome_lines(evaluation) == [
        "easy: 50% of the problems all wrong, 25% mixed, 25% all right; pass@4 over pass@1: 1.60"
    ]
    table = group_table(evaluation)
    assert table is not None
    assert table.row_count == 2
    assert group_table(summarize(RESULTS, REQUEST, (1, 4), seconds=1)) is None
