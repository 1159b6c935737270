"""Calculation on the fast path: a result for a random expression is always right, or there is none."""

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from extra_services.verification.arithmetic import equal

ROUNDING = Fraction(1, 10**6)
Expression = tuple[str, Fraction]


def _combined(children: st.SearchStrategy[Expression]) -> st.SearchStrategy[Expression]:
    pairs = st.tuples(children, children)
    return st.one_of(
        pairs.map(lambda p: (f"{p[0][0]}+{p[1][0]}", p[0][1] + p[1][1])),
        pairs.map(lambda p: (f"{p[0][0]}-({p[1][0]})", p[0][1] - p[1][1])),
        pairs.map(lambda p: (rf"({p[0][0]}) \cdot ({p[1][0]})", p[0][1] * p[1][1])),
        pairs.map(lambda p: (f"({p[0][0]})({p[1][0]})", p[0][1] * p[1][1])),
        pairs.filter(lambda p: p[1][1] != 0).map(
            lambda p: (rf"\frac{{{p[0][0]}}}{{{p[1][0]}}}", p[0][1] / p[1][1])
        ),
        children.map(lambda c: (f"({c[0]})^{{2}}", c[1] ** 2)),
        children.map(lambda c: (rf"\sqrt{{({c[0]})^2}}", abs(c[1]))),
        children.map(lambda c: (f"-({c[0]})", -c[1])),
    )


_EXPRESSIONS = st.recursive(
    st.integers(min_value=0, max_value=99).map(lambda n: (str(n), Fraction(n))), _combined, max_leaves=6
)


@given(_EXPRESSIONS)
def test_an_expression_is_never_said_to_differ_from_its_value(expression: Expression) -> None:
    text, value = expression
    assert equal(text, str(value), ROUNDING) is not False
    assert equal(text, str(value + 1), ROUNDING) is not True


@given(_EXPRESSIONS, st.sampled_from([r"\sqrt{2}", r"\pi", "x", "x^{3}", r"\sin(x)", r"\frac{x}{y}"]))
def test_what_cannot_be_exact_is_never_said_to_be_equal_or_to_differ_from_itself(
    expression: Expression, other: str
) -> None:
    text = expression[0]
    assert equal(f"({text}){other}+{other}", f"{other}+{other} ({text})", ROUNDING) is None


@pytest.mark.parametrize(
    ("left", "right", "expected"),
    [
        (r"2\sqrt{3}", r"\sqrt{12}", None),
        (r"2\sqrt{3}", r"\sqrt{13}", False),
        (r"\sqrt{16}", "4", True),
        (r"1\frac{4}{5}", r"\frac{9}{5}", True),
        (r"-1\frac{1}{2}", r"-\frac{3}{2}", True),
        (r"2\frac{x}{3}", r"\frac{2x}{3}", None),
        (r"\frac{1}{10^{18}}", r"\frac{2}{10^{18}}", False),
        ("0.333333", r"\frac{1}{3}", None),
        ("x+y", "x-y", False),
        ("X", "x", False),
        ("1/2x", "x/2", None),
        ("f(x)", "x", None),
        ("3 4", "7", None),
        ("(1,2)", "(1,3)", False),
        ("1,2", "2,1", True),
        ("1,2", "2,1,2", None),
        ("(1,2]", "(1,2)", None),
        ("5", "5,5", None),
        ("5", "5,6", False),
        ("x=5", "5", True),
        ("x=5", "y=5", None),
        ("f(x)=x+1", "f(x)=x+2", False),
        ("1,234", "1234", None),
        (r"\frac{1}{0}", "1", None),
        ("9^{9^{9}}", "1", None),
        ("", "", None),
    ],
)
def test_it_decides_what_is_beyond_doubt(left: str, right: str, expected: bool | None) -> None:
    assert equal(left, right, ROUNDING) is expected
