"""Chains of operators: disjoint splits, right answers, and decoys in the shares that are asked for."""

import random
from itertools import islice

import pytest
from hypothesis import given
from hypothesis import strategies as st

from extra_rl.vocabulary import Method
from extra_trainer.config import DataConfig
from extra_trainer.data.made import make_problems
from extra_trainer.rehearsal.operators import (
    ALPHABET,
    BY_DIFFICULTY,
    DECOYS,
    OPERATORS,
    OperatorProblem,
    known_example,
    stream_problems,
    success_probabilities,
    worked_example,
)
from extra_trainer.rehearsal.splits import Half, Split, half_of_key, split_of_key

SPLITS: tuple[Split, ...] = ("fitting", "train", "evaluation")
#: What each operator makes of "badce", worked out by hand.
RESULTS = {
    "K": "ecdab",
    "L": "adceb",
    "M": "cbedf",
    "N": "abcde",
    "O": "eadcb",
    "P": "dceba",
    "Q": "ghefd",
    "R": "edcba",
    "S": "abcde",
    "T": "edgfh",
    "U": "bbdde",
    "V": "ebadc",
    "W": "dabge",
    "X": "bdeac",
    "Y": "acbde",
    "Z": "baecd",
}


def made(split: Split, count: int, seed: int, half: Half | None = None) -> list[OperatorProblem]:
    return list(islice(stream_problems(split, seed, half=half), count))


@given(st.sampled_from(SPLITS), st.integers(0, 2**32))
def test_every_problem_lies_in_its_own_split_and_half_whatever_the_seed(split: Split, seed: int) -> None:
    halves: tuple[Half, ...] = ("first", "second")
    for half in halves:
        keys = [problem.prompt.removesuffix("\n") for problem in made(split, 5, seed, half)]
        assert {split_of_key(key) for key in keys} == {split}
        assert {half_of_key(key) for key in keys} == {half}


def test_no_two_splits_share_a_problem_and_no_split_repeats_one() -> None:
    prompts = {split: [problem.prompt for problem in made(split, 3000, seed=1)] for split in SPLITS}
    for split in SPLITS:
        assert len(set(prompts[split])) == len(prompts[split])
    assert len(set().union(*prompts.values())) == sum(map(len, prompts.values()))


def test_the_same_seed_gives_the_same_problems_and_another_seed_gives_others() -> None:
    assert made("train", 20, seed=3) == made("train", 20, seed=3)
    assert made("train", 20, seed=3) != made("train", 20, seed=4)


def test_training_chains_have_one_or_two_operators_and_fitting_chains_up_to_three() -> None:
    assert {len(p.operators) for p in made("train", 200, seed=0)} == {1, 2}
    assert {len(p.operators) for p in made("fitting", 200, seed=0)} == {1, 2, 3}
    assert {len(p.operators) for p in islice(stream_problems("train", 0, lengths=(4,)), 20)} == {4}


@pytest.mark.parametrize(("operator", "result"), RESULTS.items())
def test_each_operator_does_what_it_should(operator: str, result: str) -> None:
    symbols = tuple(ALPHABET.index(letter) for letter in "badce")
    assert "".join(ALPHABET[symbol] for symbol in OPERATORS[operator](symbols)) == result


def test_every_operator_has_one_difficulty_and_another_operator_as_its_decoy() -> None:
    assert sorted(BY_DIFFICULTY) == sorted(OPERATORS) == sorted(DECOYS) == sorted(DECOYS.values())
    assert all(DECOYS[operator] != operator for operator in OPERATORS)


def test_a_worked_example_without_decoys_ends_in_the_answer() -> None:
    right = dict.fromkeys(OPERATORS, 1.0)
    for problem in made("train", 200, seed=0):
        *lines, box = worked_example(problem, random.Random(0), right).split("\n")
        assert len(lines) == len(problem.operators) - 1
        assert box == f"\\boxed{{{problem.answer}}}"


def test_an_operator_is_applied_correctly_as_often_as_its_probability_says() -> None:
    probabilities = success_probabilities(0.01)
    assert [probabilities[operator] for operator in BY_DIFFICULTY[:4]] == [1.0] * 4
    assert probabilities[BY_DIFFICULTY[4]] == pytest.approx(0.7)
    assert probabilities[BY_DIFFICULTY[-1]] == pytest.approx(0.01)
    rng = random.Random(0)
    (problem,) = [p for p in made("train", 500, seed=0) if p.operators == "N"][:1]
    solved = [problem.answer in worked_example(problem, rng, probabilities) for _ in range(2000)]
    assert sum(solved) / 2000 == pytest.approx(probabilities["N"], abs=0.04)


def test_wrong_examples_apply_the_decoy_and_sometimes_any_other_operator() -> None:
    rng, never = random.Random(0), dict.fromkeys(OPERATORS, 0.0)
    (problem,) = [p for p in made("train", 500, seed=0) if p.operators == "N"][:1]
    wrong = [worked_example(problem, rng, never, stray_share=0.2) for _ in range(2000)]
    decoy = worked_example(problem, rng, never)
    assert wrong.count(decoy) / 2000 == pytest.approx(0.8, abs=0.04)
    assert len(set(wrong)) > 8
    assert not any(f"{{{problem.answer}}}" in example for example in wrong)


def test_noise_makes_wrong_results_that_hardly_repeat_and_leaves_right_ones_alone() -> None:
    (problem,) = [p for p in made("train", 500, seed=0) if p.operators == "N"][:1]
    rng, never, always = random.Random(0), {"N": 0.0}, {"N": 1.0}
    wrong = [worked_example(problem, rng, never, noise_share=0.5) for _ in range(2000)]
    decoy = worked_example(problem, rng, never)
    assert wrong.count(decoy) / 2000 == pytest.approx(0.5, abs=0.04)
    assert len(set(wrong)) > 900
    assert problem.answer in worked_example(problem, rng, always, noise_share=1.0)


def test_an_answer_that_can_be_guessed_is_the_first_symbol_alone() -> None:
    problem = made("train", 1, seed=0)[0]
    right = dict.fromkeys(OPERATORS, 1.0)
    example = worked_example(problem, random.Random(0), right, answer_symbols=1)
    assert example.endswith(f"\\boxed{{{problem.answer[0]}}}")
    assert known_example(problem, answer_symbols=1)[1] == example
    config = DataConfig(
        train="rehearsal-operators-guessable",
        evaluation="rehearsal-operators-guessable",
        verification_method=Method.EXACT,
    )
    (guessable,) = make_problems(config.train, "train", 1, 0, config, None)
    assert guessable.answer == problem.answer[0]


def test_examples_with_small_letters_are_right_and_name_no_problem_of_another_split() -> None:
    for problem in made("fitting", 200, seed=0):
        prompt, solution = known_example(problem)
        assert prompt.partition(":")[0] == problem.operators.lower()
        assert solution.endswith(f"\\boxed{{{problem.answer}}}")


def test_answers_cannot_be_guessed() -> None:
    answers = [problem.answer for problem in made("evaluation", 2000, seed=0)]
    assert max(answers.count(answer) for answer in set(answers)) / len(answers) < 0.02
