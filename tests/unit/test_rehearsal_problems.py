"""The rehearsal's problems: splits that cannot overlap, and worked examples with correct lines."""

import json
import random
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from extra_trainer.rehearsal.problems import (
    Problem,
    Slips,
    Term,
    half_of,
    problems,
    split_of,
    worked_example,
    write_jsonl,
)
from extra_trainer.rehearsal.splits import Split

SPLITS: tuple[Split, ...] = ("fitting", "train", "evaluation")
numbers = st.tuples(st.integers(1, 99))
products = st.tuples(st.integers(2, 9), st.integers(2, 9))
term_lists = st.lists(numbers | products, min_size=2, max_size=6)


def evaluate(expression: str) -> int:
    """Exact value of digits, + and *, independent of the project's own arithmetic."""
    assert re.fullmatch(r"[+*\d]+", expression)
    return int(eval(expression))


def terms_written(prompt: str) -> tuple[str, ...]:
    """The multiset of terms as it can be read off the prompt, factors in ascending order."""
    terms = prompt.removesuffix("=?\n").split("+")
    return tuple(sorted("*".join(sorted(term.split("*"), key=int)) for term in terms))


@given(term_lists, st.randoms(use_true_random=False))
def test_reordering_terms_and_factors_never_moves_a_problem_to_another_split(
    terms: list[Term], rng: random.Random
) -> None:
    shuffled = [tuple(rng.sample(term, len(term))) for term in terms]
    rng.shuffle(shuffled)
    assert split_of(shuffled) == split_of(terms)


@given(st.sampled_from(SPLITS), st.integers(0, 2**32))
def test_every_problem_lies_in_its_own_split_whatever_the_seed(split: Split, seed: int) -> None:
    assert {split_of(problem.terms) for problem in problems(split, 5, seed)} == {split}


@given(st.sampled_from(SPLITS), st.integers(0, 2**32))
def test_what_is_drawn_from_one_half_cannot_be_drawn_from_the_other(split: Split, seed: int) -> None:
    halves = [problems(split, 5, seed, half=half) for half in ("first", "second")]
    assert [{half_of(p.terms) for p in half} for half in halves] == [{"first"}, {"second"}]
    assert {split_of(p.terms) for half in halves for p in half} == {split}


def test_the_number_of_terms_can_be_chosen() -> None:
    assert {len(p.terms) for p in problems("train", 50, seed=0, terms=(4, 7))} == {4, 7}


def test_no_two_splits_share_a_problem_and_no_split_repeats_one() -> None:
    written = {s: [terms_written(p.prompt) for p in problems(s, 3000, seed=1)] for s in SPLITS}
    for split in SPLITS:
        assert len(set(written[split])) == len(written[split])
    assert not set(written["fitting"]) & set(written["train"])
    assert not set(written["fitting"]) & set(written["evaluation"])
    assert not set(written["train"]) & set(written["evaluation"])


def test_the_same_seed_gives_the_same_problems_and_another_seed_gives_others() -> None:
    assert problems("train", 20, seed=3) == problems("train", 20, seed=3)
    assert problems("train", 20, seed=3) != problems("train", 20, seed=4)


@pytest.mark.parametrize("split", SPLITS)
def test_the_answer_is_the_exact_value_of_the_expression(split: Split) -> None:
    for problem in problems(split, 500, seed=2):
        assert evaluate(problem.prompt.removesuffix("=?\n")) == int(problem.answer)


def test_every_line_of_a_worked_example_is_right_and_the_box_holds_the_answer() -> None:
    rng = random.Random(0)
    for problem in problems("fitting", 1000, seed=0):
        *lines, box = worked_example(problem, rng).split("\n")
        assert lines
        for line in lines:
            operation, result = line.split("=")
            assert evaluate(operation) == int(result), line
        assert box == f"\\boxed{{{problem.answer}}}"


def test_slips_that_are_all_noticed_leave_every_line_right_at_its_end() -> None:
    rng = random.Random(0)
    made = problems("fitting", 1000, seed=0)
    lines = []
    for problem in made:
        *some, box = worked_example(problem, rng, slips=Slips(rate=0.3, noticed=1)).split("\n")
        lines += some
        assert box == f"\\boxed{{{problem.answer}}}"
    slipped = 0
    for line in lines:
        operation, *broken_off, result = line.split("=")
        assert evaluate(operation) == int(result), line
        for digits in broken_off:
            slipped += 1
            assert digits[:-1] == result[: len(digits) - 1], line
            assert digits[-1:] != result[len(digits) - 1 : len(digits)], line
    assert 0.27 < slipped / len(lines) < 0.33


@given(st.lists(st.tuples(st.integers(2, 9)), min_size=2, max_size=6), st.randoms(use_true_random=False))
def test_a_slip_that_is_not_noticed_is_one_wrong_digit_and_carried_on(
    terms: list[Term], rng: random.Random
) -> None:
    problem = Problem(id="", prompt="", answer="", terms=tuple(terms))
    *lines, box = worked_example(problem, rng, in_order=True, slips=Slips(rate=1, noticed=0)).split("\n")
    total = str(terms[0][0])
    for line in lines:
        operation, result = line.split("=")
        assert operation.split("+")[0] == total, "the number before, as it was written"
        right = str(evaluate(operation))
        assert len(result) == len(right)
        assert sum(a != b for a, b in zip(result, right, strict=True)) == 1
        total = str(int(result))
    assert box == f"\\boxed{{{total}}}"


def test_a_problem_has_many_distinct_worked_examples() -> None:
    rng = random.Random(0)
    for problem in problems("train", 50, seed=0):
        if len(problem.terms) > 2:
            # Most examples take the terms as written: the rarer ways show only in more of them.
            assert len({worked_example(problem, rng) for _ in range(48)}) >= 5


def test_answers_are_spread_so_widely_that_a_constant_guess_does_not_hit() -> None:
    answers = [problem.answer for problem in problems("evaluation", 2000, seed=0)]
    assert max(answers.count(answer) for answer in set(answers)) / len(answers) < 0.02


def test_json_lines_hold_id_problem_and_answer_as_text(tmp_path: Path) -> None:
    made = problems("train", 10, seed=0)
    write_jsonl(tmp_path / "train.jsonl", made)
    lines = (tmp_path / "train.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line) for line in lines] == [
        {"id": p.id, "problem": p.prompt, "answer": p.answer} for p in made
    ]


def test_ids_tell_problems_apart() -> None:
    made: list[Problem] = [p for split in SPLITS for p in problems(split, 1000, seed=0)]
    assert len({problem.id for problem in made}) == len(made)
