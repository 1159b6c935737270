"""Our verdicts on real responses, compared with their grades (docs/verification-agreement.md)."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from extra_rl.vocabulary import VerdictStatus
from extra_services.verification.judge import judge
from extra_services.verification.verdict import VerificationItem


@pytest.mark.parametrize(
    ("name", "disagreements"),
    [
        # The grader did not take 10000 for the reference's 10{,}000.
        ("rollouts_math", {295}),
        ("graded_gsm8k", set()),
    ],
)
def test_verdicts_are_those_of_the_graders_but_where_these_are_wrong(
    public_data: Callable[[str], Path], name: str, disagreements: set[int]
) -> None:
    rows = [json.loads(line) for line in public_data(name).read_text(encoding="utf-8").splitlines()]
    verdicts = [judge(VerificationItem(row["response"], row["answer"])) for row in rows]
    assert {verdict.status for verdict in verdicts} == {VerdictStatus.CORRECT, VerdictStatus.WRONG}
    correct = [verdict.status is VerdictStatus.CORRECT for verdict in verdicts]
    assert {index for index, row in enumerate(rows) if correct[index] != row["correct"]} == disagreements


@pytest.mark.parametrize("name", ["aime24", "aime25", "amc23", "math500", "minerva_math", "olympiadbench"])
def test_every_reference_answer_of_the_benchmarks_equals_itself_in_a_box(
    public_data: Callable[[str], Path], name: str
) -> None:
    rows = [json.loads(line) for line in public_data(name).read_text(encoding="utf-8").splitlines()]
    answers = [row["answer"] for row in rows]
    wrong = [
        a
        for a in answers
        if judge(VerificationItem(rf"So it is $\boxed{{{a}}}$.", a)).status is not VerdictStatus.CORRECT
    ]
    assert wrong == []
