"""Sentences that state an answer, and sentences that only mention a value."""

import pytest
import sympy
from hypothesis import given, settings
from hypothesis import strategies as st

from extra_rl.vocabulary import Method, VerdictStatus
from extra_services.verification.equality import equal
from extra_services.verification.judge import judge
from extra_services.verification.verdict import VerificationItem
from extra_services.verification.whole_numbers import Gcd, Lcm

STATED = """
In other words, the answer is 12.
In other words the answer is 12.
Since assumption 1 is false, the answer is 12.
Assuming x > 0, the answer is 12.
Unless n = 1, the answer is 12.
The expected result is 12.
The other solution is 12.
Given 3 boxes and 4 in each, the total is 12.
Many people forget the zero, but the answer is 12.
Take 5 from 17 to leave 12.
We were wrong before; the answer is 12.
Let me compute: 3*4 = 12
So we let x = 4 and get 12.
From step 3, the value is 12.
Assume the worst case: he needs 12 socks.
If each has 3, then 4 of them have 12.
Consider each case; the sum is 12.
Without the last one, there are 12.
La respuesta es 12.
Die Antwort ist 12.
\\boxed{12} (no other solution is possible)
\\boxed{12}. Note: a common wrong answer is 11.
\\boxed{12}. For n = 5 the answer is 60.
\\boxed{11}. Wait, with the last term the answer is 12.
Dividing by 2, 24 / 2 = 12.
So at time 3, x = 12.
\\boxed{12 \\frac{\\text{kg} \\cdot \\text{m}}{\\text{s}^2}}
\\boxed{12 \\frac{\\mathrm{J}}{\\mathrm{kg\\,K}}}
\\boxed{\\text{12 apples}}
\\boxed{12}. Sorry for the long solution.
\\boxed{12}. I mean the number of ways.
\\boxed{12}. Therefore 12 is the answer.
\\boxed{13}. Sorry, I meant 12.
"""
MENTIONED = """
Suppose the answer is 12.
It is false that the answer is 12.
A tempting but wrong answer is 12.
The answer is 11. The second-best answer is 12.
If the answer is 12, then we are done.
One might think the answer is 12.
Assume for contradiction that the answer is 12.
I doubt the answer is 12.
Let n = 12.
By Lemma 12
The answer is 12. Or 13.
La respuesta no es 12.
\\boxed{12} ist falsch.
\\boxed{11}. The backup answer is 12.
\\boxed{11}. A common wrong answer is 12.
Option A: \\boxed{11} Option B: \\boxed{12}
Could be \\boxed{11}. Could be \\boxed{12}.
The answer is the number of factors of 12.
The answer is the sum of the digits of 12.
\\boxed{\\frac{\\text{kg m}}{12 \\text{s}}}
\\boxed{12}. Sorry, I meant 13.
\\boxed{12}. Make that 13.
\\boxed{12}. Hmm, 13 actually.
\\boxed{12}. On reflection the value is 13.
\\boxed{12} -- just kidding, 13
First $x = \\boxed{12}$, and then $y = 13$ is the answer.
"""


def _status(response: str, answer: str = "12") -> VerdictStatus:
    return judge(VerificationItem(response, answer, Method.AUTO)).status


@pytest.mark.parametrize("response", STATED.strip().splitlines())
def test_what_a_sentence_states_is_its_answer(response: str) -> None:
    assert _status(response) is VerdictStatus.CORRECT


@pytest.mark.parametrize("response", MENTIONED.strip().splitlines())
def test_what_a_sentence_only_mentions_is_no_answer(response: str) -> None:
    assert _status(response) is not VerdictStatus.CORRECT


@given(st.integers(1, 12), st.integers(1, 12), st.integers(-5, 5))
@settings(max_examples=40, deadline=None)
def test_floors_and_ceilings_are_compared_at_whole_numbers(top: int, bottom: int, shift: int) -> None:
    n = sympy.Symbol("n", real=True)
    floor = sympy.floor((top * n + shift) / sympy.Integer(bottom))
    assert equal(floor, sympy.ceiling((top * n + shift - bottom + 1) / sympy.Integer(bottom)))
    assert not equal(floor, floor + 1)


@given(st.permutations(["a", "b", "c"]))
def test_a_gcd_has_its_arguments_in_any_order(names: list[str]) -> None:
    ordered, mixed = (sympy.symbols(each, integer=True) for each in (["a", "b", "c"], names))
    assert Gcd(*mixed) == Gcd(*ordered)
    assert Lcm(*mixed) == Lcm(*ordered)
    assert not equal(Gcd(*ordered[:2]), sympy.Integer(1))
    assert equal(Gcd(*ordered[:2]) * Lcm(*ordered[:2]), ordered[0] * ordered[1])
    assert Gcd(12, 18) == 6


@pytest.mark.parametrize(
    ("response", "status"),
    [
        (r"x = \frac{\pi}{6} + 2k\pi, k \in \mathbb{Z}", VerdictStatus.CORRECT),
        (r"x = \frac{\pi}{6} + 2k\pi, x = \frac{\pi}{6} + 2k\pi", VerdictStatus.CORRECT),
        (r"x = \frac{\pi}{6} + k\pi, k \in \mathbb{Z}", VerdictStatus.WRONG),
        (r"\frac{\pi}{6} - 2\pi n", VerdictStatus.WRONG),
    ],
)
def test_whole_turns_are_a_family_where_the_response_has_another_index(
    response: str, status: VerdictStatus
) -> None:
    assert _status(rf"\boxed{{{response}}}", r"\frac{\pi}{6} + 2\pi n") is status
