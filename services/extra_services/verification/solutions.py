r"""Tell an answer from an equation that still has to be solved, and from a chain that is false.

"3x + 5 = 20" is no answer where the reference is "x = 5", although both have the same solution. "5 = 7" and
"1 = 2 = 7" are no way to write 7. A relation is an answer where the reference is a relation of that kind.
"""

from typing import Any

import sympy
from latex2sympy2_extended.logic import And
from math_verify.grader import take_first_relation, take_last_relation
from sympy.core.function import AppliedUndef
from sympy.core.relational import Relational

from extra_services.verification.equality import equal

#: Names of what an equation is solved for, and what its side is then: "|x| = 3" and "2^x = 8" leave x open.
#: In other names (|z|, |v|), and of other functions (sin x), the value itself may be asked for.
_UNKNOWNS = ("x", "y")
_AROUND_AN_UNKNOWN = sympy.Abs | sympy.Pow | sympy.exp | sympy.log
_ORDER = sympy.StrictGreaterThan | sympy.StrictLessThan | sympy.GreaterThan | sympy.LessThan


def false_chain(value: Any) -> bool:
    """Return whether `value` equates two different numbers ("1 = 2 = 7"), or contains such a chain."""
    if isinstance(value, sympy.FiniteSet | sympy.Tuple):
        return any(map(false_chain, value.args))
    relations = value._unsorted_args if isinstance(value, And) else (value,)
    members: list[Any] = []
    for relation in relations:
        if not isinstance(relation, sympy.Eq):
            return False
        members += [side for side in relation.args if _is_number(side)]
    return any(not equal(members[0], member) for member in members[1:])


def unsolved(gold: Any, prediction: Any) -> bool:
    """Return whether the reference is a solution ("x = 5",
    "x > 5") and the prediction only equates or bounds."""
    if isinstance(prediction, sympy.FiniteSet) and isinstance(gold, sympy.Set):
        return any(_to_be_solved(member) for member in prediction.args)
    if isinstance(gold, Relational):
        return _solves(gold) and not isinstance(gold, sympy.Ne) and _to_be_solved(prediction)
    return isinstance(gold, sympy.Set) and _to_be_solved(prediction)


def solves_inequality(gold: Any, prediction: Any) -> bool:
    """Return whether the reference is unsolved ("|x + 2| <= 3") and the prediction solves it."""
    # "|x| < 2" bounds a size: as a reference it asks for x no less than "|x + 2| < 3".
    asks = isinstance(gold, _ORDER) and (gold.has(sympy.Abs) or not _solves(gold))
    if not asks or len(gold.free_symbols) != 1:
        return False
    parts = prediction._unsorted_args if isinstance(prediction, And) else (prediction,)
    solved = all(isinstance(part, _ORDER) and _solves(part) for part in parts)
    return solved and all(part.free_symbols == gold.free_symbols for part in parts)


def names_a_value(equation: Any) -> bool:
    """Return whether an equation says what something is: "x = 5", "f(2) = 5", "a + b = 5", "3 + 4 = 7"."""
    left = take_first_relation(equation).lhs
    if not isinstance(left, sympy.Expr):
        return True
    variables = left.free_symbols
    if left.is_Symbol or isinstance(left, AppliedUndef):  # "x = x" says nothing
        return not take_last_relation(equation).rhs.has(left)
    if len(variables) != 1 or left.has(AppliedUndef):
        return True
    if left.is_polynomial(*variables) or (1 / left).is_polynomial(*variables):
        return False
    return not (isinstance(left, _AROUND_AN_UNKNOWN) and str(*variables) in _UNKNOWNS)


def _to_be_solved(relation: Any) -> bool:
    if isinstance(relation, And):
        return any(_to_be_solved(part) for part in relation._unsorted_args if isinstance(part, sympy.Eq))
    if not isinstance(relation, sympy.Eq | _ORDER) or len(relation.free_symbols) != 1:
        return False
    return not _solves(relation)


def _solves(relation: Any) -> bool:
    """Return whether one side is a number, and the other a name, a value f(x) or a size that it bounds."""
    if not isinstance(relation, Relational):
        return False
    for name, number in (relation.args, relation.args[::-1]):
        inner = name.args[0] if isinstance(name, sympy.Abs) and not isinstance(relation, sympy.Eq) else name
        inner = -inner if inner.could_extract_minus_sign() else inner
        if (inner.is_Symbol or isinstance(inner, AppliedUndef)) and not number.free_symbols:
            return True
    return False


def _is_number(value: Any) -> bool:
    return isinstance(value, sympy.Expr) and not value.free_symbols and not value.has(AppliedUndef)
