"""What a worker does with one item: everything that the fast path could not prove.

math-verify's own timeouts (SIGALRM) are off: the pool kills the whole process. Its errors are not swallowed:
a reference that cannot be read is UNPARSEABLE on the answer's side, a comparison that raises is an ERROR, and
WRONG means that both sides were read and found different.
"""

import logging
import re
from dataclasses import replace
from fractions import Fraction
from typing import Any

import math_verify
import sympy

from extra_services.verification import custom, equality, quick
from extra_services.verification.laps import lap
from extra_services.verification.latex import has_ellipsis
from extra_services.verification.normalization import normalized, words
from extra_services.verification.quick import SHOWN, Question
from extra_services.verification.reading import Readings, read
from extra_services.verification.verdict import Item, Method, Side, Status, Verdict

# Their warnings about switched-off timeouts and unreadable answers: both are dealt with here.
logging.getLogger("math_verify").setLevel(logging.CRITICAL)
logging.getLogger("latex2sympy2_extended").setLevel(logging.CRITICAL)
equality.install()

RULE = "math_verify"
#: Mathematics for what a reference answer may say in words.
_IN_WORDS = {
    r"\mathbb{R}": "all real numbers", r"(-\infty,\infty)": "all real numbers", r"\emptyset": "no solution",
    r"\varnothing": "no solution", r"\{\}": "no solution",
}  # fmt: skip


def judge(item: Item) -> Verdict:
    """The verdict on `item`; takes as long as it takes."""
    if item.method is Method.CUSTOM:
        with lap("compare"):
            return custom.judge(item)
    asked = quick.question(item)
    return quick.decide(asked) or judge_question(asked)


def judge_question(asked: Question) -> Verdict:
    """The verdict on a question that the fast path could not decide; takes as long as it takes."""
    try:
        return _read_and_compare(asked)
    except (equality.Undecided, MemoryError, RecursionError) as error:
        reason = str(error) or type(error).__name__
        return replace(quick.described(asked), status=Status.ERROR, rule=RULE, detail=reason)


def _read_and_compare(asked: Question) -> Verdict:
    blank = replace(quick.described(asked), rule=RULE)
    response = asked.found or ""
    if gold_words := words(asked.answer):
        shown = replace(blank, rule="words", normalized_answer=gold_words)
        return replace(shown, status=Status.CORRECT if _means(response, gold_words) else Status.WRONG)
    if has_ellipsis(asked.answer):
        return _unparseable(blank, Side.ANSWER, "an ellipsis can only be compared as written")
    if has_ellipsis(response):
        return _unparseable(blank, Side.RESPONSE, "an ellipsis can only be compared as written")
    with lap("parse"):
        readings = read(asked.answer, response, asked.options)
    if readings.gold is None:
        return _unparseable(blank, Side.ANSWER, "the reference answer cannot be read as mathematics")
    if readings.prediction is None:
        return _unparseable(blank, Side.RESPONSE, "the final answer cannot be read as mathematics")
    shown = replace(
        blank,
        normalized_response=str(readings.prediction)[:SHOWN],
        normalized_answer=str(readings.gold)[:SHOWN],
    )
    with lap("compare"):
        if asked.method is Method.NUMERIC:
            return _numeric(readings, asked, shown)
        equal = any(_equal(gold, prediction) for gold, prediction in readings.pairs)
    return replace(shown, status=Status.CORRECT if equal else Status.WRONG)


def _equal(gold: Any, prediction: Any) -> bool:
    if _undefined(gold) or _undefined(prediction):
        return False
    equal: bool = math_verify.verify(
        gold, prediction, timeout_seconds=None, raise_on_error=True, allow_set_relation_comp=True
    )
    return equal


def _undefined(value: Any) -> bool:
    return isinstance(value, sympy.Basic) and value.has(sympy.nan, sympy.zoo)


def _numeric(readings: Readings, asked: Question, shown: Verdict) -> Verdict:
    for gold, prediction in readings.pairs:
        right, left = _fraction(gold), _fraction(prediction)
        if right is None:
            return _unparseable(shown, Side.ANSWER, "the reference answer is not a number")
        if left is None:
            return _unparseable(shown, Side.RESPONSE, "the final answer is not a number")
        if quick.within_tolerance(left, right, asked.options):
            return replace(shown, status=Status.CORRECT, rule="numeric")
    return replace(shown, status=Status.WRONG, rule="numeric")


def _fraction(value: Any) -> Fraction | None:
    if isinstance(value, sympy.Eq):
        value = value.rhs
    number = value.evalf(30) if isinstance(value, sympy.Expr) else sympy.nan
    return Fraction(str(number)) if number.is_Float or number.is_Integer else None


def _means(response: str, gold_words: str) -> bool:
    response_words = words(response)
    if gold_words in ("yes", "no", "true", "false") and response_words is None:
        first = re.match(r"\W*(\w+)", response)
        return first is not None and first[1].casefold() == gold_words
    return (response_words or _IN_WORDS.get(normalized(response))) == gold_words


def _unparseable(blank: Verdict, side: Side, detail: str) -> Verdict:
    return replace(blank, status=Status.UNPARSEABLE, side=side, detail=detail)
