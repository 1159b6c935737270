"""False equations between plain numbers: which are found, and which are not judged."""

import operator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from extra_services.novelty.arithmetic import calculated, false_equations

OPERATIONS = {"+": operator.add, "-": operator.sub, "\\cdot": operator.mul, "/": operator.truediv}


@pytest.mark.parametrize(
    "sentence",
    [
        "We have $3 + 4 = 8$.",
        "So 3 · 4 = 13, which is what we wanted.",
        "Hence $x = 2 + 2 = 5$.",
        "$\\frac{3 + 4}{7} = 2$",
        "$(3 + 4) \\cdot 2 = 11$",
        "12 times 2 equals 25",
        "$5 + 5 = 10 = 3 + 6$",
        "$1/3 = 0.35$",
        "$2^5 = 31$ holds",
        "Then $60 + 60 = 2$ cm.",
    ],
)
def test_false_equations_are_found(sentence: str) -> None:
    assert len(false_equations(sentence)) == 1


@pytest.mark.parametrize(
    "sentence",
    [
        "$3 + 4 = 7$, $3 \\cdot 4 = 12$ and $12 / 3 = 4$.",
        "$(3 + 4) \\cdot 2 = 14$",
        "$\\frac{36}{2} = \\tfrac{18}{1} = 18$",
        "$1/3 = 0.33$, or $2/3 ≈ 0.667$, or $100/7 = 14$.",
        "$0.33 \\cdot 9 = 3$",
        "$3/4 = 75\\%$ and 50 % = 1/2.",
        "$1{,}200 + 1,300 = 2500$",
        # Something around them changes what they mean.
        "$7 \\cdot 43 = 301 \\equiv 1 \\pmod{10}$",
        "$7 + 8 = 3$ (mod 12)",
        "√(9 + 7) = 4, and \\sqrt{9 + 16} = 5",
        "Speeds 60 : 40 = 3 : 2.",
        "$x_2 + 3 = 4$ and $2x + 3 = 7$",
        "$C(5, 2) = 10$, $f(3) = 9 + 1$ and $5! = 120$",
        "$3 + 2\\sqrt{6} + 2 = 5 + 2\\sqrt{6}$",
        "20% of 50 + 5 = 15",
        "$12$ min $= 1/5$ h",
        "- 61 = 7 · 8 + 5",
        "$0 = 12$ is impossible",
        "= = =",
        "We look at powers of 3 modulo 7: $3^2 = 2$, $3^3 = 6$.",
        "Pendant 1,5 heure il parcourt 1,5 × 60 = 90 km.",
        "Das sind 16 = 0,20 * 80 Euro.",
    ],
)
def test_true_equations_and_what_is_not_understood_are_not_called_false(sentence: str) -> None:
    assert false_equations(sentence) == []


@given(
    st.integers(0, 9999),
    st.integers(1, 9999),
    st.sampled_from(sorted(OPERATIONS)),
    st.integers(1, 100),
)
@settings(deadline=None)
def test_any_simple_equation_is_judged_rightly(a: int, b: int, sign: str, wrong: int) -> None:
    result = OPERATIONS[sign](a, b)
    written = f"{result:.6f}" if sign == "/" else str(result)
    assert false_equations(f"We have ${a} {sign} {b} = {written}$.") == []
    # A result may be rounded to an integer, so it has to differ by more.
    assert len(false_equations(f"We have ${a} {sign} {b} = {round(result) + wrong + 1}$.")) == 1


@given(st.text(alphabet="0123456789+-*/^()=%. <>\\{}x", max_size=200))
@settings(deadline=None)
def test_any_text_is_read(text: str) -> None:
    false_equations(text)


def test_expressions_are_calculated() -> None:
    assert calculated(["24", "-", "4", "*", "6"]) == 0
    assert calculated(["6", "|", "2"]) == 15
    assert calculated(["2", "^", "9999"]) is None
    assert calculated(["2", "/", "0"]) is None
    assert calculated([]) is None
