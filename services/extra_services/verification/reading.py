r"""Read both answers of an item as sympy expressions, in every meaning that their notation allows.

An answer is read whole or not at all. Both sides are read with the same assumptions (real variables, unless
one of them mentions complex numbers), so that x is the same symbol on both. Percent, degrees and units are
matters of convention:

- percent: if one side alone has the sign, "10%" may be 10 or 0.1 (`strict_percent`: 0.1 alone). Benchmarks
  keep "10" where the question asked for percent, and graders from MATH on accept either.
- degrees: if one side alone has the sign, "45°" may be 45 or pi/4 (`strict_degrees`: pi/4 alone).
- units: if one side alone has a unit, it is removed; two units of one quantity are converted.
"""

import math
import re
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import sympy
from antlr4.atn.PredictionMode import PredictionMode
from latex2sympy2_extended import NormalizationConfig, normalize_latex
from latex2sympy2_extended.latex2sympy2 import ConversionConfig, _Latex2Sympy
from latex2sympy2_extended.logic import And
from latex2sympy2_extended.sets import FiniteSet
from math_verify.grader import is_assignment_relation, should_treat_as_complex
from math_verify.parser import get_last_eq

from extra_services.verification.latex import Written, written
from extra_services.verification.units import unit_named
from extra_services.verification.verdict import ComparisonOptions
from extra_services.verification.whole_numbers import Gcd, Lcm

_NORMALIZATION = NormalizationConfig(
    basic_latex=True, units=False, malformed_operators=True, nits=True, boxed="none", equations=False
)
#: R and r are two variables.
_CONVERSION = ConversionConfig(lowercase_symbols=False)
_INEQUALITY = sympy.StrictGreaterThan | sympy.StrictLessThan | sympy.GreaterThan | sympy.LessThan
_NO_VARIABLE = re.compile(r"\\[a-zA-Z]+|_\s*(?:\{[^{}]*\}|\w)")
_INDEX_I = re.compile(r"_\s*\{?\s*i|[_^{]\s*i\s*=")
#: Few letters side by side, which are variables.
_LETTERS = re.compile(r"(?<![\\a-zA-Z{])[a-zA-Z]{1,3}(?![a-zA-Z_'(])")
#: The imaginary unit as Python writes it.
_PYTHON_I = re.compile(r"\*\s*I(?![a-zA-Z])|(?<![a-zA-Z])I\s*\*")
_ANGLE = unit_named("rad")
#: Scales with degrees, which an answer may leave at "25^\\circ".
_TEMPERATURES = ("celsius", "fahrenheit")
_HUGE = re.compile(
    r"""
    \d (?:\d|,|\{,\}){5,} \s* !                 # a factorial
    | \d [eE] \+? \d{5,}
    | \d \s* [)}\]]? \s* \^ \s* \{? \s* \d[\d,]{6,}     # a power
    | \d \s* \^ \s* \{? \s* \d+ \s* \^ \s* \{? \s* \d+ \s* \^ \s* \{? \s* \d
    | \\[dt]?binom \s* \{? \s* (?: \d{7,} | 1?0 \s* \^ \s* \{? \s* (?:[7-9]|\d\d) )
    """,
    re.VERBOSE,
)
#: The exponent of a number that is a power itself: "10^{10^{10}}".
_TOWER = re.compile(r"\d\s*[)}\]]?\s*\^\s*\{?\s*(\d{1,6})\s*\^\s*\{?\s*(\d{1,6})")
#: Digits of such an exponent at most.
_MOST_EXPONENT_DIGITS = 5
_HUNDREDTH = sympy.Rational(1, 100)


@dataclass(frozen=True)
class Readings:
    """The meanings of a reference answer and a final answer, as sympy expressions."""

    #: (gold, prediction) for each combination of meanings: the answers are equal if one pair is.
    pairs: tuple[tuple[Any, Any], ...]
    #: The first meaning of each; None if it cannot be read.
    gold: Any | None
    prediction: Any | None


def read(answer: str, response: str, options: ComparisonOptions) -> Readings:
    """Read a reference answer and the final answer of a response together."""
    gold, prediction = written(answer), written(response)
    real = not any(should_treat_as_complex(side.latex) or _has_i(side.latex) for side in (gold, prediction))
    gold_value, value = (_parse(side.latex, real, _joint_of(side)) for side in (gold, prediction))
    if gold.together and gold_value is sympy.S.EmptySet:  # "x < 1 and x > 3" in a reference means both parts
        gold_value = _parse(gold.latex, real)
    readable = gold_value is not None and value is not None
    pairs = _senses(gold, prediction, gold_value, value, options) if readable else ()
    if gold.with_letter or prediction.with_letter:
        variables = (
            _parse(gold.with_letter or gold.latex, real),
            _parse(prediction.with_letter or prediction.latex, real),
        )
        pairs += (variables,) if None not in variables else ()
    if readable and gold.degrees != prediction.degrees and (gold.in_radians or prediction.in_radians):
        left, right = (
            _parse(side.in_radians or side.latex, real, _joint_of(side)) for side in (gold, prediction)
        )
        pairs += ((left, right),)
    return Readings(pairs, gold_value, value)


def too_large(text: str) -> bool:
    """Return whether sympy would write out a number of more than about a hundred thousand digits.

    It has no limit of its own: "9^{999999999}" would take the worker until the pool kills it.
    """
    if _HUGE.search(text):
        return True
    towers = [(int(base), int(exponent)) for base, exponent in _TOWER.findall(text)]
    return any(base > 1 and exponent * math.log10(base) > _MOST_EXPONENT_DIGITS for base, exponent in towers)


def _joint_of(side: Written) -> str:
    return "or" if side.alternatives else "and" if side.together else ""


def _has_i(latex: str) -> bool:
    """Return whether an i stands for a factor, as in "3i" or "bi", and not for an index or in a word."""
    if _INDEX_I.search(latex):
        return False
    runs = re.findall(r"[a-zA-Z]+", _NO_VARIABLE.sub(" ", latex))
    return any("i" in run and len(run) <= 2 for run in runs)


def expression(text: str) -> sympy.Expr | None:
    """Return the expression that `text` is, degrees as radians, percent as hundredths, or None."""
    plain = written(text)
    value = _parse(plain.latex, real=True)
    if not isinstance(value, sympy.Expr):
        return None
    value = value * _HUNDREDTH if plain.percent else value
    return value * sympy.pi / 180 if plain.degrees else value


def _senses(
    gold: Written, prediction: Written, gold_value: Any, value: Any, options: ComparisonOptions
) -> tuple[tuple[Any, Any], ...]:
    if _of_two_kinds(gold, prediction):
        return ()
    pairs = [(gold_value, value)]
    if gold.digits and not prediction.digits:  # the question named the base, and the response omits it
        pairs.append((sympy.Integer(gold.digits), value))
    if gold.percent != prediction.percent:
        pairs = _either(pairs, gold.percent, _HUNDREDTH, options.strict_percent)
    if gold.degrees != prediction.degrees:
        # Nobody writes a multiple of pi in degrees: "\frac{\pi}{2}^\circ" is no right angle.
        marked = gold_value if gold.degrees else value
        radians = _ANGLE in (gold.unit, prediction.unit) or (
            isinstance(marked, sympy.Basic) and marked.has(sympy.pi)
        )
        pairs = _either(pairs, gold.degrees, sympy.pi / 180, options.strict_degrees or radians)
    if gold.unit and prediction.unit and gold.unit != prediction.unit:
        if not gold.unit.matches(prediction.unit):
            return ()
        factor = gold.unit.size / prediction.unit.size
        scale = sympy.Rational(factor.numerator, factor.denominator)
        pairs = [(_scaled(left, scale), right) for left, right in pairs]
    return tuple(pairs)


def _of_two_kinds(gold: Written, prediction: Written) -> bool:
    """Return whether one side is a share, an angle or a quantity, and the other one of another kind."""
    kinds = [
        (
            "percent"
            if side.percent
            else "angle"
            if side.degrees or side.unit == _ANGLE
            else "unit"
            if side.unit
            else ""
        )
        for side in (gold, prediction)
    ]
    temperatures = any(
        side.unit and side.unit.dimension[0][0] in _TEMPERATURES for side in (gold, prediction)
    )
    return all(kinds) and kinds[0] != kinds[1] and not ("angle" in kinds and temperatures)


def _either(
    pairs: list[tuple[Any, Any]], gold_is_marked: bool, factor: Any, strict: bool
) -> list[tuple[Any, Any]]:
    scaled = [
        (_scaled(left, factor), right) if gold_is_marked else (left, _scaled(right, factor))
        for left, right in pairs
    ]
    return scaled if strict else pairs + scaled


def _scaled(value: Any, factor: Any) -> Any:
    if isinstance(value, sympy.Tuple | sympy.FiniteSet):
        return type(value)(*[_scaled(element, factor) for element in value.args])
    return value * factor if isinstance(value, sympy.Expr) else value


def _parse(latex: str, real: bool, joint: str = "") -> Any | None:
    """Return the expression, or None if latex2sympy cannot read all of `latex`.

    Args:
        latex: The answer.
        real: All variables are real.
        joint: Word between the conditions that it lists, "and", "or" or none.
    """
    normal = normalize_latex(latex, _NORMALIZATION).strip()
    for candidate in dict.fromkeys((normal, get_last_eq(normal))):
        if not candidate:
            continue
        try:
            value = _latex2sympy(candidate, real)
            value = _real_roots(value) if real else _with_imaginary_unit(value, candidate)
            return _tidy(value, joint)
        except MemoryError:
            raise
        except Exception:  # latex2sympy raises errors of any type for input that it does not expect
            continue
    return None


class _Plain(_Latex2Sympy):  # type: ignore[misc]
    """latex2sympy that makes an integer without sympy's parser of Python, which takes a millisecond."""

    def parse_number(self, text: str) -> Any:
        """Return the number that `text` writes."""
        digits = text.replace(",", "")
        if digits.isascii() and digits.isdigit():
            return sympy.Integer(int(digits))
        return super().parse_number(text)

    def handle_gcd_lcm(self, f: str, args: Any) -> Any:
        """Return the gcd or lcm of whole numbers; that of letters is no polynomial's."""
        return (Gcd if f == "gcd" else Lcm)(*map(sympy.nsimplify, args))


class _Sll(_Plain):
    """latex2sympy with ANTLR's SLL prediction, which takes half the time.

    It fails on some input that LL prediction can parse; where it succeeds, the result is the same
    (documentation of ANTLR's PredictionMode.SLL).
    """

    def create_parser(self, latex_str: str) -> Any:
        """Create the parser of the base class, with SLL prediction."""
        parser = super().create_parser(latex_str)
        parser._interp.predictionMode = PredictionMode.SLL
        return parser


#: Rollouts of one prompt share their reference answer.
@lru_cache(maxsize=256)
def _latex2sympy(latex: str, real: bool) -> Any:
    if "I" not in latex or _PYTHON_I.search(latex):
        return _by_grammar(latex, real)
    value = _by_grammar(_LETTERS.sub(_with_variable_i, latex), real)
    variable = sympy.Symbol("math{I}", real=real)
    return value.xreplace({variable: sympy.Symbol("I", real=real)}) if hasattr(value, "xreplace") else value


def _with_variable_i(letters: "re.Match[str]") -> str:
    r"""Return "IR" as "\\mathcal{I}R": latex2sympy takes a bare I for the imaginary unit."""
    return letters.group().replace("I", r"\mathcal{I}")


def _by_grammar(latex: str, real: bool) -> Any:
    try:
        return _Sll(is_real=real, config=_CONVERSION).parse(latex)
    except (MemoryError, RecursionError):
        raise
    except Exception:
        return _Plain(is_real=real, config=_CONVERSION).parse(latex)


def _with_imaginary_unit(value: Any, latex: str) -> Any:
    """Replace latex2sympy's variable i by the imaginary unit, unless i is an index."""
    return value if _INDEX_I.search(latex) else value.xreplace({sympy.Symbol("i", real=False): sympy.I})


def _real_roots(value: Any) -> Any:
    """Replace odd roots of negative numbers by the real root, which is meant without complex numbers."""
    if not isinstance(value, sympy.Basic):
        return value
    roots = {
        power: (-1) ** power.exp.p * (-power.base) ** power.exp
        for power in value.atoms(sympy.Pow)
        if power.exp.is_Rational
        and power.exp.q % 2
        and power.exp.q > 1
        and power.base.is_Rational
        and power.base < 0
    }
    return value.xreplace(roots) if roots else value


def _tidy(value: Any, joint: str) -> Any:
    """Return sets and tuples without the variable they are assigned to, and "5 = x" as "x = 5"."""
    if isinstance(value, sympy.Eq):
        collections = sympy.Set | sympy.Tuple
        if isinstance(value.rhs, collections) and not isinstance(value.lhs, collections):
            return value.rhs
        if isinstance(value.lhs, sympy.Tuple | sympy.Interval) and isinstance(value.rhs, type(value.lhs)):
            return value.rhs
        if value.rhs.is_Symbol and getattr(value.lhs, "is_number", False):
            return sympy.Eq(value.rhs, value.lhs, evaluate=False)
    if isinstance(value, sympy.Complement):
        return sympy.Complement(
            *(sympy.FiniteSet(*part) if isinstance(part, sympy.FiniteSet) else part for part in value.args)
        )
    if isinstance(value, sympy.FiniteSet) and all(is_assignment_relation(element) for element in value.args):
        names = {element.lhs for element in value.args if isinstance(element, sympy.Eq)}
        if len(names) == 1 and len(value.args) > 1:
            return FiniteSet(*[element.rhs for element in value.args])
    if isinstance(value, sympy.FiniteSet) and _conditions(value):
        return _as_one_set(value, joint)
    return value


def _conditions(value: Any) -> bool:
    """Return whether a list has only conditions, one of them more than an assignment."""
    relations = all(isinstance(element, _INEQUALITY | sympy.Ne | sympy.Eq | And) for element in value.args)
    return relations and not all(isinstance(element, sympy.Eq) for element in value.args)


def _as_one_set(inequalities: Any, joint: str) -> Any:
    """Return inequalities of one variable as a set.

    It is their union ("x < 2 or x > 3"), or their intersection: with "and", and where the union would be all
    reals ("x > 2, x < 3") and "or" does not ask for it.
    """
    if len(inequalities.free_symbols) != 1:
        return inequalities
    try:
        sets = [_set_of(inequality) for inequality in inequalities.args]
    except (NotImplementedError, TypeError, ValueError, AttributeError):
        return inequalities
    if joint == "and" or any(isinstance(inequality, sympy.Ne) for inequality in inequalities.args):
        return sympy.Intersection(*sets)
    union = sympy.Union(*sets)
    return sympy.Intersection(*sets) if union == sympy.S.Reals and joint != "or" else union


def _set_of(condition: Any) -> Any:
    if isinstance(condition, And):
        return sympy.Intersection(*[part.as_set() for part in condition._unsorted_args])
    return condition.as_set()
