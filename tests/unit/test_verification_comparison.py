"""The comparison of expressions: undecided is never different, and the libraries it uses are not changed."""

import subprocess
import sys

import pytest

from extra_rl.vocabulary import VerdictStatus
from extra_services.verification import comparison, equality
from extra_services.verification.judge import judge
from extra_services.verification.verdict import VerificationItem

_PAIRS = [
    (r"\{(a+1)^2,1\}", r"\{1,a^2+2a+1\}"),
    (r"((a+1)^2,1)", r"(a^2+2a+1,1)"),
    (r"[1,(a+1)^2)", r"[1,a^2+2a+1)"),
    (r"y>(a+1)^2", r"y>a^2+2a+1"),
    (r"-y<-(a+1)^2", r"y>a^2+2a+1"),
    (r"2x-2(a+1)^2=0", r"x=a^2+2a+1"),
    (r"\begin{pmatrix}1/3\\1\end{pmatrix}", r"\begin{pmatrix}0.333333\\1\end{pmatrix}"),
    (r"x+(a+1)^2", r"a^2+2a+1+x"),
]


@pytest.mark.parametrize(("prediction", "answer"), _PAIRS)
def test_the_scalars_of_every_form_are_compared(prediction: str, answer: str) -> None:
    verdict = judge(VerificationItem(rf"\boxed{{{prediction}}}", answer))
    assert (verdict.status, verdict.rule) == (VerdictStatus.CORRECT, "math_verify")


@pytest.mark.parametrize("error", [MemoryError, RecursionError])
@pytest.mark.parametrize(("prediction", "answer"), _PAIRS)
def test_a_comparison_without_memory_or_stack_is_an_error_in_every_form(
    prediction: str, answer: str, error: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*values: object) -> bool:
        raise error

    monkeypatch.setattr(equality, "_scalars_equal", fail)
    verdict = judge(VerificationItem(rf"\boxed{{{prediction}}}", answer))
    assert (verdict.status, verdict.rule) == (VerdictStatus.ERROR, "math_verify")
    assert error.__name__ in verdict.detail


def test_an_error_of_sympy_in_one_step_leaves_the_decision_to_the_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(*values: object) -> bool:
        raise NotImplementedError

    monkeypatch.setattr(comparison, "_same_difference", fail)
    verdict = judge(VerificationItem(r"\boxed{2x+2y=2}", "x+y=1"))
    assert verdict.status is VerdictStatus.CORRECT


@pytest.mark.parametrize(
    ("prediction", "answer", "status"),
    [
        ("x^2+2=0", "x^2+1=0", VerdictStatus.WRONG),
        ("3=3", "x^2+1=0", VerdictStatus.WRONG),
        ("x^3=8", "x=2", VerdictStatus.WRONG),
        (r"\frac{1}{x}=4", "4", VerdictStatus.WRONG),
        (r"\frac{a}{b}=4", "4", VerdictStatus.CORRECT),
        ("2x^2=18", "x^2=9", VerdictStatus.CORRECT),
        (r"x\ne 3", r"x\ne 2", VerdictStatus.WRONG),
        (r"2x\ne 4", r"x\ne 2", VerdictStatus.CORRECT),
        (r"x\le 2", r"x\ne 2", VerdictStatus.WRONG),
        ("1<x<2<y", "1<x<2", VerdictStatus.WRONG),
    ],
)
def test_relations_are_compared_without_being_solved(
    prediction: str, answer: str, status: VerdictStatus
) -> None:
    assert judge(VerificationItem(rf"\boxed{{{prediction}}}", answer)).status is status


_USES_EVERYTHING = """
import importlib, logging, pkgutil, sys
import latex2sympy2_extended, math_verify, sympy
from math_verify import grader, parser

def state():
    found = {}
    for name, module in list(sys.modules.items()):
        if name.partition(".")[0] in ("latex2sympy2_extended", "math_verify"):
            found |= {(name, key): id(value) for key, value in vars(module).items()}
            found[name] = logging.getLogger(name).level
    return found

before = state()
import extra_services.verification as package
for module in pkgutil.iter_modules(package.__path__):
    importlib.import_module(f"{package.__name__}.{module.name}")
after = state()
changed = {key for key in before if before[key] != after.get(key)}
assert not changed, changed
"""


def test_importing_verification_leaves_math_verify_as_it_is() -> None:
    subprocess.run([sys.executable, "-c", _USES_EVERYTHING], check=True, timeout=120)
