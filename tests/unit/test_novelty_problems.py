"""The labelled problems in tests/data: their answers are checked, and every text ends in the answer."""

import itertools
import json
import re
from pathlib import Path
from typing import Any

import pytest
import sympy

from extra_services.novelty.arithmetic import false_equations

PROBLEMS = [
    json.loads(line)
    for line in (Path(__file__).parents[1] / "data" / "novelty_problems.jsonl")
    .read_text("utf-8")
    .splitlines()
]
BOX = re.compile(r"\\boxed\{((?:[^{}]|\{[^{}]*\})*)\}")


def _value(latex: str) -> Any:
    text = re.sub(r"\\frac\{([^{}]*)\}\{([^{}]*)\}", r"((\1)/(\2))", latex)
    text = re.sub(r"(\d?)\\sqrt\{([^{}]*)\}", lambda m: f"{m[1] or 1}*sqrt({m[2]})", text)
    return sympy.sympify(text.replace("\\pi", "pi"))


@pytest.mark.parametrize("problem", PROBLEMS, ids=lambda problem: str(problem["id"]))
def test_the_answer_is_right_and_every_text_ends_in_it(problem: dict[str, Any]) -> None:
    answer = sympy.sympify(problem["answer"])
    names = {name: getattr(sympy, name) for name in sympy.__all__} | {"itertools": itertools}
    # The check is an expression that computes the answer, by sympy or by trying all cases.
    assert sympy.simplify(eval(problem["check"], names) - answer) == 0
    assert sorted(problem["texts"]) == ["A1", "A2", "B1", "B2"]
    for text in problem["texts"].values():
        (box,) = BOX.findall(text)
        assert sympy.simplify(_value(box) - answer) == 0


def test_the_set_is_split_and_its_texts_are_different() -> None:
    assert {problem["split"] for problem in PROBLEMS} == {"choose", "report"}
    assert len({problem["id"] for problem in PROBLEMS}) == len(PROBLEMS) >= 120
    texts = [text for problem in PROBLEMS for text in problem["texts"].values()]
    assert len(set(texts)) == len(texts) == 4 * len(PROBLEMS)
    for topic in {problem["topic"] for problem in PROBLEMS}:
        assert sum(problem["topic"] == topic for problem in PROBLEMS) >= 5


def test_no_equation_of_the_set_is_called_false() -> None:
    texts = [text for problem in PROBLEMS for text in problem["texts"].values()]
    sentences = [sentence for text in texts for sentence in re.split(r"(?<=[.!?])\s+|\n+", text)]
    assert [found for sentence in sentences for found in false_equations(sentence)] == []
