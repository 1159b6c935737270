"""Judge the cases of math-verify's own test-suite, and print those that are decided otherwise.

`python scripts/math_verify_suite.py FOLDER`, where FOLDER is `tests` of a checkout of
https://github.com/huggingface/Math-Verify. A case is a row of a parametrized test with a reference, an answer
and the expected equality. docs/verification.md explains the differences.
"""

import argparse
import ast
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from extra_rl.vocabulary import VerdictStatus
from extra_services.verification.judge import judge
from extra_services.verification.verdict import VerificationItem

_EXPECTED = ("expected", "result")


class Case(NamedTuple):
    """One row of a parametrized test."""

    gold: str
    answer: str
    expected: bool


def main(folder: Path) -> None:
    """Print the number of equal decisions, and the other cases."""
    found = [case for file in sorted(folder.glob("test_*.py")) for case in cases(file)]
    differ = [case for case in found if _accepted(case) is not case.expected]
    for case in differ:
        print(f"{case.gold!r} | {case.answer!r} | expected {case.expected}")
    print(f"{len(found) - len(differ)} of {len(found)} decided as math-verify's suite expects")


def cases(file: Path) -> Iterator[Case]:
    """Yield the rows of the tests in `file` that compare a reference with an answer."""
    for node in ast.walk(ast.parse(file.read_text("utf-8"))):
        if not (isinstance(node, ast.Call) and ast.unparse(node.func) == "pytest.mark.parametrize"):
            continue
        names = [name.strip() for name in ast.literal_eval(node.args[0]).split(",")]
        expected = next((name for name in names if name in _EXPECTED), None)
        if expected is None or not {"gold", "pred"} <= set(names) or not isinstance(node.args[1], ast.List):
            continue
        for row in node.args[1].elts:
            try:
                values = dict(zip(names, ast.literal_eval(row), strict=False))
            except ValueError:  # a row that is calculated
                continue
            yield Case(values["gold"], values["pred"], bool(values[expected]))


def _accepted(case: Case) -> bool:
    return judge(VerificationItem(case.answer, case.gold)).status is VerdictStatus.CORRECT


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path, help="`tests` of a checkout of math-verify")
    main(parser.parse_args().folder)
