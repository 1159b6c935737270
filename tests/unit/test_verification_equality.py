"""Which numbers, expressions and matrices count as equal."""

from typing import Any

import pytest
import sympy
from sympy import I, Rational, nan, oo, pi, sqrt, zoo

from extra_services.verification import equality

a, x, y = sympy.symbols("a x y")
many = sympy.symbols("v1:10")
f, g = sympy.Function("f"), sympy.Function("g")
root = Rational(137, 100)
ZERO = sqrt(5 + 2 * sqrt(6)) - sqrt(2) - sqrt(3)


def decimal(digits: str) -> sympy.Float:
    return sympy.Float(digits)


def equal(left: Any, right: Any) -> bool:
    decided = equality.equal(left, right)
    assert equality.equal(right, left) is decided, "the order of the sides decides nothing"
    return decided


@pytest.mark.parametrize(
    ("left", "right", "same"),
    [
        (Rational(2, 6), Rational(1, 3), True),
        (10**50 + sympy.Integer(1), sympy.Integer(10) ** 50, False),
        (1 / sympy.factorial(2004), 1 / sympy.factorial(2006), False),
        (sqrt(5 + 2 * sqrt(6)), sqrt(2) + sqrt(3), True),
        (sqrt(5 + 2 * sqrt(6)), sqrt(2) + sqrt(3) + Rational(1, 10**40), False),
        (sympy.log(8), 3 * sympy.log(2), True),
        (sympy.sin(pi / 5), sympy.sin(pi / 6), False),
        # Equal by their digits: no rule of sympy says so.
        (sympy.cbrt(2 + sqrt(5)) - sympy.cbrt(sqrt(5) - 2), sympy.Integer(1), True),
        # No number.
        (sympy.sin(oo), sympy.Integer(1), False),
        (sympy.sin(oo), sqrt(2), False),
        # Equal to more digits than are compared at first.
        (sqrt(sympy.Integer(10) ** 40 + 1), sympy.Integer(10) ** 20, False),
        (sqrt(sympy.Integer(10) ** 1000 + 1), sympy.Integer(10) ** 500, False),
        (sympy.exp(pi * sqrt(163)), sympy.Integer(262537412640768744), False),
        # Nothing has a size relative to 0.
        (ZERO, sympy.Integer(0), True),
        (ZERO, Rational(1, 10**70), False),
        (ZERO, sympy.Integer(1), False),
        (sqrt(2) / 10**70, sqrt(3) / 10**70, False),
        (sqrt(2) / 10**70, sqrt(3), False),
        (sympy.Integer(1) + I, sympy.Integer(1) - I, False),
        ((1 + I) ** 2, 2 * I, True),
        (oo, oo, True),
        (oo, -oo, False),
        (oo, sympy.Integer(5), False),
        (oo, x, False),
        (zoo, zoo, False),
        (nan, nan, False),
        (zoo, sympy.Integer(5), False),
        (x + nan, x, False),
        (sympy.true, sympy.true, True),
        (sympy.true, sympy.false, False),
        (sympy.true, sympy.Integer(1), False),
        (sympy.Interval(0, 1), sympy.Interval(0, 1), True),
    ],
)
def test_exact_numbers_are_equal_if_they_are_the_same_number(left: Any, right: Any, same: bool) -> None:
    assert equal(left, right) is same


@pytest.mark.parametrize(
    ("left", "right", "same"),
    [
        (decimal("0.5"), Rational(1, 2), True),
        (decimal("0.125"), Rational(1, 8), True),
        (decimal("0.4"), Rational(2, 5), True),
        (decimal("0.333333"), Rational(1, 3), True),
        (decimal("0.33333"), Rational(1, 3), False),
        (decimal("0.1666667"), Rational(1, 6), True),
        (decimal("0.066667"), Rational(1, 15), True),
        (decimal("3.141593"), pi, True),
        (decimal("3.1416"), pi, False),
        # Only what a decimal cannot be written as is rounded.
        (decimal("0.5000001"), Rational(1, 2), False),
        (decimal("0.1000001"), Rational(1, 10), False),
        (decimal("3.0000001"), sympy.Integer(3), False),
        # Three digits of their own besides the six decimals.
        (decimal("0.0001234"), Rational(1, 8104), True),
        (decimal("0.000123"), Rational(1, 8100), False),
        (decimal("0.0000001"), Rational(1, 3 * 10**7), False),
        (decimal("0.333333") + I, Rational(1, 3) + I, True),
        (decimal("0.333333") + I, Rational(1, 3) + 2 * I, False),
        (decimal("0.333333") * I, I / 3, True),
        (decimal("0.333333") * I + 1, I / 3 + 2, False),
        (decimal("1e30"), sympy.Integer(10) ** 30, True),
        (decimal("1e30"), sympy.Integer(10) ** 30 + 10**10, True),
        (decimal("1e30"), sympy.Integer(10) ** 30 + 10**20, False),
    ],
)
def test_decimals_are_equal_if_they_agree_to_six_decimals_and_three_digits(
    left: Any, right: Any, same: bool
) -> None:
    assert equal(left, right) is same


@pytest.mark.parametrize(
    ("left", "right", "same"),
    [
        ((a + 1) ** 2, a**2 + 2 * a + 1, True),
        ((a + 1) ** 2, a**2 + 2 * a + 2, False),
        (x, y, False),
        (x + y, y + x, True),
        (x * y, x + y, False),
        (sympy.sin(x) ** 2 + sympy.cos(x) ** 2, sympy.Integer(1), True),
        (sqrt(x**2), x, False),
        (sympy.Abs(x), x, False),
        (x + Rational(1, 10**40), x, False),
        (x / 3, decimal("0.33333333333333333") * x, True),
        (x / 3, decimal("0.333333") * x, False),
        (I * (x + 1), I * x + I, True),
        (I * x, -I * x, False),
        (I * sqrt(x), sqrt(-x), False),
        # Where real numbers are few, three points are enough.
        (sqrt(x - 1 + 2 * sqrt(x - 2)), 1 + sqrt(x - 2), True),
        ((x - root) * sqrt(x - 1 + 2 * sqrt(x - 2)), (x - root) * (1 + sqrt(x - 2)), True),
        (I * sqrt(x - 1 + 2 * sqrt(x - 2)), I * (1 + sqrt(x - 2)), True),
        # And two are not: these are equal at 6 and 7 alone.
        (sqrt(x - 3), sqrt(x - 3) * (1 + (x - 6) * (x - 7)), False),
        # Real at no point.
        (sqrt(-((x + 1) ** 2) - 1), sqrt(-(x**2) - 2 * x - 2), True),
        (sqrt(-(x**2) - 1), 2 * sqrt(-(x**2) - 1), False),
        # More variables than a point has coordinates.
        (sum(many), sum(reversed(many)), True),
        (many[0] * many[8], many[0] ** 2, False),
        (many[8], many[0], False),
        (sympy.factorial(x + 1), (x + 1) * sympy.factorial(x), True),
        # With a root or a pole at a point: 7, 6, 4 and 1.37 are coordinates.
        ((x - 7) * (x + 7), x**2 - 49, True),
        ((x - 6) * (x - 7), x**2 - 13 * x + 42, True),
        ((x - 6) * (x - 7), (x - 6) * (x - 7) * x, False),
        ((x - 7) * (y - 4), x * y - 4 * x - 7 * y + 28, True),
        ((100 * x - 137) * y, 100 * x * y - 137 * y, True),
        (sqrt(x) * (x - 7), x ** Rational(3, 2) - 7 * sqrt(x), True),
        (x - 7, x**2 - 49, False),
        (1 / ((x - 7) * (x + 7)), 1 / (x**2 - 49), True),
        ((x - 7) / (x**2 - 49), 1 / (x + 7), True),
        (sympy.log((x - 7) * (x + 7)), sympy.log(x**2 - 49), True),
        (1 / ((x - 7) * (x + 7)), 1 / (x**2 - 48), False),
        # And these at every point.
        (sympy.sin(x) ** 2 + sympy.cos(x) ** 2 - 1, sympy.Integer(0), True),
        ((x + 1) ** 2 - x**2 - 2 * x - 1, sympy.Integer(0), True),
        (x / 10**70, 2 * x / 10**70, False),
        (1 / (x - 7) + x, 1 / (x - 7) + x + 1, False),
        (1 / (x - 7) + (x + 1) ** 2, 1 / (x - 7) + x**2 + 2 * x + 1, True),
    ],
)
def test_expressions_are_equal_if_they_are_at_every_point(left: Any, right: Any, same: bool) -> None:
    assert equal(left, right) is same


@pytest.mark.parametrize(
    ("left", "right", "same"),
    [
        (f(x) + (a + 1) ** 2, a**2 + 2 * a + 1 + f(x), True),
        (f(x), g(x), False),
        (f(x), f(y), False),
        (f(x) * g(y), g(y) * f(x), True),
        (f(x) * g(y), f(y) * g(x), False),
        (sqrt(-(f(x) ** 2) - 1) * sqrt(f(x) ** 2), sqrt(-(f(x) ** 2) - 1) * sympy.Abs(f(x)), True),
        (sympy.Derivative(y, x), sympy.Integer(0), False),
        (sympy.Derivative(y, x) + (a + 1) ** 2, a**2 + 2 * a + 1 + sympy.Derivative(y, x), True),
        (sympy.Derivative(y, x), sympy.Derivative(y, a), False),
        (sympy.Derivative(x**2, x), 2 * x, True),
        (sympy.Derivative(x**2, x), x**2, False),
        (sympy.Integral(2 * x, (x, 0, 3)), sympy.Integer(9), True),
    ],
)
def test_an_unknown_function_is_itself_alone(left: Any, right: Any, same: bool) -> None:
    assert equal(left, right) is same


A, B = sympy.Matrix([[1, 2], [3, 4]]), sympy.Matrix([[0, 1], [1, 0]])
U = sympy.MatrixSymbol("U", 2, 2)
V = sympy.MatrixSymbol("V", sympy.Symbol("n"), 2)


@pytest.mark.parametrize(
    ("left", "right", "same"),
    [
        (A, sympy.Matrix([[1, 2], [3, 4]]), True),
        (A, sympy.Matrix([[1, 2], [3, 5]]), False),
        (A, sympy.Matrix([[5, 2], [3, 4]]), False),
        (A, sympy.Matrix([1, 2, 3, 4]), False),
        (sympy.Matrix([1, 2, 3, 4]), sympy.Matrix([[1, 2, 3, 4]]), False),
        (
            sympy.Matrix([(a + 1) ** 2, decimal("0.333333")]),
            sympy.Matrix([a**2 + 2 * a + 1, Rational(1, 3)]),
            True,
        ),
        (sympy.MatMul(A, B, evaluate=False), sympy.Matrix([[2, 1], [4, 3]]), True),
        (sympy.MatAdd(A, B, evaluate=False), sympy.Matrix([[1, 3], [4, 4]]), True),
        (sympy.MatMul(A, B, evaluate=False), sympy.MatMul(B, A, evaluate=False), False),
        (U + U, 2 * U, True),
        (U, U.T, False),
        (V, A, False),
        (V, V, False),
        (A, sympy.Integer(1), False),
        (sympy.Matrix([[1]]), sympy.Integer(1), False),
    ],
)
def test_matrices_are_equal_if_their_shapes_and_entries_are(left: Any, right: Any, same: bool) -> None:
    assert equal(left, right) is same


@pytest.mark.parametrize(
    ("left", "right", "ratio"),
    [
        (2 * x, x, 2),
        (x, 2 * x, Rational(1, 2)),
        (-x, x, -1),
        (sqrt(2) * x, x, sqrt(2)),
        (2 * (a + 1) ** 2, a**2 + 2 * a + 1, 2),
        (decimal("0.5") * x, x, Rational(1, 2)),
        (3 * f(x), f(x), 3),
        (f(x), g(x), None),
        (x**2, x, None),
        (x + y, x - y, None),
        (x * sympy.sin(y) ** 2 + x * sympy.cos(y) ** 2, x, 1),
        (sympy.Integer(0), x, None),
        (x, sympy.Integer(0), None),
        (I * x, x, None),
        (sqrt(x - 2) * 3, sqrt(x - 2), 3),
        (sqrt(x - 2) * x, sqrt(x - 2), None),
        (sqrt(2 - x) * 3, sqrt(2 - x), 3),
        (5 * (x - root), x - root, 5),
        (7 / (x - root), 1 / (x - root), 7),
        (many[8] * 2, many[8], 2),
        (many[8] * 2, many[0], None),
        (sympy.Integer(6), sympy.Integer(4), Rational(3, 2)),
    ],
)
def test_a_constant_ratio_is_the_same_at_every_point(left: Any, right: Any, ratio: Any) -> None:
    assert equality.constant_ratio(left, right) == ratio
