r"""Compare two answers that were read as sympy expressions: equations, sets, intervals, tuples and scalars.

The order of the steps is that of `sympy_expr_eq` in math-verify 0.9.0 (grader.py), whose conventions it
keeps: "x = 5" equals 5, "1 < x < 2" equals the interval, `(1, 2)` equals `1, 2`. The steps are implemented
here and not called there, for two reasons. First, math-verify catches every exception on the way, so a
comparison that runs out of memory or stack is reported as "different"; here MemoryError and RecursionError
reach the caller, and any other error of sympy only fails the step in which it occurs. Second, its comparison
of scalars is wrong for small numbers and slow (see `equality`), and could be replaced only by changing the
library in place. Only predicates of math-verify are called.

Two equations are equal if one is a constant multiple of the other. They are not solved: an answer that only
restates the equation of the problem is not its solution.
"""

import re
from collections.abc import Callable
from itertools import permutations
from typing import Any, TypeVar

import sympy
from latex2sympy2_extended.logic import And
from latex2sympy2_extended.sets import FiniteSet
from math_verify.grader import (
    INVERSE_RELATIONS,
    is_assignment_relation,
    is_equation,
    is_relation,
    take_first_relation,
    take_last_relation,
)
from sympy.core.function import AppliedUndef, UndefinedFunction
from sympy.core.relational import Relational

from extra_services.verification.equality import constant_ratio, equal
from extra_services.verification.solutions import false_chain, names_a_value, solves_inequality, unsolved

Result = TypeVar("Result")


def answers_equal(gold: Any, prediction: Any) -> bool:
    """Compare a reference answer and a final answer; not symmetric, since the reference sets the form.

    Args:
        gold: The reference answer, as `reading.read` returns it.
        prediction: The final answer of the response.

    Raises:
        MemoryError, RecursionError: The comparison is undecided.
    """
    comparable = sympy.Basic | sympy.MatrixBase
    if not (isinstance(gold, comparable) and isinstance(prediction, comparable)):
        return False
    if _undefined(gold) or _undefined(prediction):
        return False
    if false_chain(prediction) or unsolved(gold, prediction):
        return False
    bounded = isinstance(gold, Relational | And) and isinstance(prediction, sympy.FiniteSet)
    gold, prediction = _aligned(gold, _with_arguments_of(gold, prediction))
    if bounded and isinstance(gold, sympy.Interval):  # "1 < x < 5" is no pair
        return False
    if gold == prediction:
        return True
    if is_relation(gold) and is_relation(prediction):
        return _relations_equal(gold, prediction)
    gold, prediction = _column_as_tuple(gold, prediction), _column_as_tuple(prediction, gold)
    collection = sympy.Set | sympy.Tuple
    if isinstance(gold, collection) or isinstance(prediction, collection):
        return _collections_equal(gold, prediction)
    return _spelled_alike(gold, prediction) or equal(gold, prediction)


def _column_as_tuple(value: Any, other: Any) -> Any:
    """Return a vector as a tuple where the other side is a tuple, or an interval that may be a pair."""
    if (
        isinstance(value, sympy.MatrixBase)
        and 1 in value.shape
        and isinstance(other, sympy.Tuple | sympy.Interval)
    ):
        return sympy.Tuple(*value)
    return value


def _spelled_alike(gold: Any, prediction: Any) -> bool:
    r"""Return whether one is a name in text ("\\text{abc}") and the other its letters (a*b*c)."""
    name, product = (gold, prediction) if isinstance(gold, sympy.Symbol) else (prediction, gold)
    if not (isinstance(name, sympy.Symbol) and isinstance(product, sympy.Mul) and len(name.name) > 1):
        return False
    letters = "".join(str(factor) for factor in product.args)
    return sorted(letters) == sorted(name.name) and all(factor.is_Symbol for factor in product.args)


def _undefined(value: Any) -> bool:
    return isinstance(value, sympy.Basic) and value.has(sympy.nan, sympy.zoo)


def _aligned(gold: Any, prediction: Any) -> tuple[Any, Any]:
    """Return both in one form, that of the reference: "x = 5" against 5 as 5 and 5, a relation as a set."""
    gold_assigns = is_assignment_relation(gold)
    gold_equates, prediction_equates = is_equation(gold), is_equation(prediction)
    if gold_assigns:
        gold = _first_and_last(gold)
    if is_assignment_relation(prediction):
        prediction = _first_and_last(prediction)
    if prediction_equates and not gold_equates and names_a_value(prediction):
        prediction = take_last_relation(prediction).rhs
    elif gold_assigns and not prediction_equates:
        gold = take_last_relation(gold).rhs
    if is_relation(gold) and (isinstance(prediction, sympy.Set) or solves_inequality(gold, prediction)):
        gold, prediction = _as_set(gold), _as_set(prediction)
    if is_relation(prediction) and isinstance(gold, sympy.Set):
        prediction = _as_set(prediction)
    return gold, prediction


def _with_arguments_of(gold: Any, prediction: Any) -> Any:
    """Return "f(t) = 2t" as "f(x) = 2x" if the reference is about f(x), and "+ c" as "+ C" likewise."""
    if isinstance(gold, sympy.Add | sympy.Mul) and isinstance(prediction, sympy.Add | sympy.Mul):
        return prediction.xreplace(_constants_of(gold, prediction))
    if not (isinstance(gold, sympy.Eq) and isinstance(prediction, sympy.Eq)):
        return prediction
    renamed = (
        _bound_variables(gold.lhs, prediction.lhs)
        or _renamed_index(gold.lhs, prediction.lhs)
        or _constants_of(gold.rhs, prediction.rhs)
    )
    taken = set(renamed.values()) & prediction.free_symbols - renamed.keys()
    renamed |= {name: sympy.Dummy(name.name, real=True) for name in taken}  # "g(t) = 3x" is not "g(x) = 3x"
    return (
        sympy.Eq(*(side.xreplace(renamed) for side in prediction.args), evaluate=False)
        if renamed
        else prediction
    )


#: Names of a constant of integration.
_CONSTANTS = frozenset(("C", "c", "C_1", "c_1"))


_INDEXED_CONSTANT = re.compile(r"([Cc])(?:_\{?(\d)\}?)?")
_MOST_CONSTANTS = 3
#: Variables of functions that are integrated: "Q = CV" and "E = mc^2" have no constant of integration.
_VARIABLES = frozenset("xyztu")


def _constants_of(gold: Any, prediction: Any) -> dict[Any, Any]:
    """Return new names for the constants of integration of the prediction, or {} if they stay.

    Names are arbitrary: "c_1 e^x + c_2 e^{-x}" is "C_2 e^x + C_1 e^{-x}".
    """
    if alone := _constant_of(gold, prediction):
        return alone
    ours, theirs = _constants(prediction), _constants(gold)
    others = {str(symbol) for symbol in gold.free_symbols.difference(theirs)}
    if not ours or len(ours) != len(theirs) or not others or not others <= _VARIABLES:
        return {}
    for order in permutations(theirs):
        renamed = dict(zip(ours, order, strict=True))
        if equal(gold, prediction.xreplace(renamed)):
            return renamed
    return {}


def _constants(value: Any) -> list[Any]:
    """Return C, or C_1 and C_2, if the names in `value` that may be constants are all of one kind."""
    names = [(symbol, _INDEXED_CONSTANT.fullmatch(str(symbol))) for symbol in value.free_symbols]
    found = sorted(((symbol, name) for symbol, name in names if name), key=lambda each: str(each[0]))
    letters = {name[1] for _, name in found}
    indexed = all(name[2] for _, name in found)
    plain = len(letters) == 1 and (indexed or len(found) == 1) and len(found) <= _MOST_CONSTANTS
    return [symbol for symbol, _ in found] if plain else []


def _constant_of(gold: Any, prediction: Any) -> dict[Any, Any]:
    """Return {c: C} for "2x + c" against "2x + C": a term of its own beside other variables."""
    ours, theirs = (
        [term for term in sympy.Add.make_args(side) if str(term) in _CONSTANTS] for side in (prediction, gold)
    )
    if len(ours) == len(theirs) == 1 and len(gold.free_symbols) > 1 and ours[0] not in gold.free_symbols:
        return {ours[0]: theirs[0]}
    return {}


#: "a_{k}", the term of a sequence.
_TERM = re.compile(r"([a-zA-Z])_\{?([ijkmnr])\}?\Z")


def _renamed_index(gold: Any, prediction: Any) -> dict[Any, Any]:
    """Return {a_k: a_n, k: n} for the terms a_k and a_n of a sequence."""
    ours, theirs = _TERM.match(str(prediction)), _TERM.match(str(gold))
    if not ours or not theirs or ours[1] != theirs[1] or ours[2] == theirs[2]:
        return {}
    return {prediction: gold, sympy.Symbol(ours[2], real=True): sympy.Symbol(theirs[2], real=True)}


def _bound_variables(gold: Any, prediction: Any) -> dict[Any, Any]:
    functions = isinstance(gold, AppliedUndef) and isinstance(prediction, AppliedUndef)
    if (
        not functions
        or gold.func.__name__ != prediction.func.__name__
        or len(gold.args) != len(prediction.args)
    ):
        return {}
    pairs = list(zip(prediction.args, gold.args, strict=True))
    free = all(mine.is_Symbol and theirs.is_Symbol for mine, theirs in pairs)
    return dict(pairs) if free and len({mine for mine, _ in pairs}) == len(pairs) else {}


def _first_and_last(chain: Any) -> Any:
    """Return "x = 2 + 3 = 5" as "x = 5"."""
    return sympy.Eq(take_first_relation(chain).lhs, take_last_relation(chain).rhs, evaluate=False)


def _as_set(relation: Any) -> Any:
    """Return the set that a relation describes, or the relation itself where sympy finds none."""
    if isinstance(relation, And):
        parts = [_without_functions(part) for part in relation._unsorted_args]
        return _attempt(lambda: sympy.Intersection(*[part.as_set() for part in parts]), otherwise=relation)
    return _attempt(lambda: _without_functions(relation).as_set(), otherwise=relation)


def _without_functions(expression: Any) -> Any:
    """Return `expression` with f(x) as the symbol f_x, so that its set does not depend on an unknown f."""
    if not isinstance(expression, sympy.Basic):
        return expression
    if isinstance(expression.func, UndefinedFunction):
        arguments = "_".join(str(_without_functions(argument)) for argument in expression.args)
        return sympy.Symbol(f"{expression.func.__name__}_{arguments}")
    return expression.func(*map(_without_functions, expression.args)) if expression.args else expression


def _relations_equal(gold: Any, prediction: Any) -> bool:
    if isinstance(gold, And) and isinstance(prediction, And):
        golds, predictions = gold._unsorted_args, prediction._unsorted_args
        if len(golds) != len(predictions):
            return False
        from_the_end = [relation.reversed for relation in reversed(predictions)]  # "a > b > c" as "c < b < a"
        return any(all(map(_relations_equal, golds, chain)) for chain in (predictions, from_the_end))
    if not (isinstance(gold, Relational) and isinstance(prediction, Relational)):
        return False
    return any(
        _attempt(lambda step=step: step(gold, prediction), otherwise=False)  # type: ignore[misc]
        for step in (_same_difference, _reversed_difference, _proportional)
    )


def _same_difference(gold: Any, prediction: Any) -> bool:
    same_type = type(gold) is type(prediction)
    return same_type and answers_equal(gold.lhs - gold.rhs, prediction.lhs - prediction.rhs)


def _reversed_difference(gold: Any, prediction: Any) -> bool:
    reversed_type = INVERSE_RELATIONS.get(type(gold)) is type(prediction)
    return reversed_type and answers_equal(gold.lhs - gold.rhs, prediction.rhs - prediction.lhs)


def _proportional(gold: Any, prediction: Any) -> bool:
    """Return whether the relations are the same after multiplying one by a constant."""
    if gold.lhs == prediction.lhs:  # "y = ..." twice: the right sides were found different before
        return False
    ratio = constant_ratio(gold.lhs - gold.rhs, prediction.lhs - prediction.rhs)
    if ratio is None:
        return False
    if isinstance(gold, sympy.Eq | sympy.Ne) or ratio > 0:
        return type(gold) is type(prediction)
    return type(prediction) is INVERSE_RELATIONS.get(type(gold))


def _collections_equal(gold: Any, prediction: Any) -> bool:
    """Compare two values of which at least one is a set, an interval or a tuple."""
    collection = sympy.Set | sympy.Tuple
    gold = gold if isinstance(gold, collection) else sympy.FiniteSet(gold)
    prediction = prediction if isinstance(prediction, collection) else sympy.FiniteSet(prediction)
    if isinstance(gold, sympy.Interval) and isinstance(prediction, sympy.Interval):
        return _intervals_equal(gold, prediction)
    if gold == prediction or _no_difference(gold, prediction):
        return True
    # "(1, 2)" is read as an open interval; beside two members it is a pair.
    if isinstance(gold, sympy.Interval) and gold.is_open:
        gold = _as_pair(gold, prediction)
    elif isinstance(prediction, sympy.Interval) and prediction.is_open:
        prediction = _as_pair(prediction, gold)
    listing = sympy.FiniteSet | sympy.Tuple
    if isinstance(gold, listing) and isinstance(prediction, listing):
        return _members_equal(gold, prediction)
    return False


def _intervals_equal(gold: Any, prediction: Any) -> bool:
    return bool(
        gold.left_open == prediction.left_open
        and gold.right_open == prediction.right_open
        and answers_equal(gold.start, prediction.start)
        and answers_equal(gold.end, prediction.end)
    )


def _no_difference(gold: Any, prediction: Any) -> bool:
    if not (isinstance(gold, sympy.Set) and isinstance(prediction, sympy.Set)):
        return False
    return _attempt(lambda: bool(gold.symmetric_difference(prediction).is_empty), otherwise=False)


def _as_pair(interval: Any, other: Any) -> Any:
    pair = isinstance(other, sympy.FiniteSet | sympy.Tuple) and len(other) == 2
    return sympy.Tuple(interval.start, interval.end) if pair else interval


def _members_equal(gold: Any, prediction: Any) -> bool:
    """Compare finite sets and tuples member by member; sets are sorted by value first."""
    if len(gold) != len(prediction):
        return False
    if isinstance(gold, sympy.FiniteSet):
        golds, predictions = _by_value(gold.args), _by_value(prediction.args)
    elif isinstance(prediction, FiniteSet):  # one of latex2sympy's, which knows the order that was written
        golds, predictions = gold.args, prediction._unsorted_args
    elif isinstance(prediction, sympy.FiniteSet):
        golds, predictions = gold.args, _by_value(prediction.args)
    else:
        golds, predictions = gold.args, prediction.args
    return len(golds) == len(predictions) and all(map(_member_equal, golds, predictions))


def _member_equal(gold: Any, prediction: Any) -> bool:
    """Compare two members of collections, where 3 is not {3}."""
    nested = isinstance(gold, sympy.FiniteSet) == isinstance(prediction, sympy.FiniteSet)
    return nested and answers_equal(gold, prediction)


def _by_value(members: Any) -> list[Any]:
    return sorted(members, key=_sort_key)


def _sort_key(member: Any) -> Any:
    value = take_last_relation(member).rhs if is_assignment_relation(member) else member
    return _attempt(lambda: sympy.default_sort_key(value.evalf()), otherwise=None) or sympy.default_sort_key(
        value
    )


def _attempt(function: Callable[[], Result], otherwise: Result) -> Result:
    """Return `function()`, or `otherwise` where sympy cannot carry it out.

    sympy raises errors of any type for expressions that it does not expect. A lack of memory or stack passes.
    """
    try:
        return function()
    except (MemoryError, RecursionError):
        raise
    except Exception:
        return otherwise
