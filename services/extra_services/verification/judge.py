"""Decide one item in a worker process: everything that the fast path could not prove.

No error on the way is turned into WRONG. A reference answer that cannot be read is UNPARSEABLE on the
answer's side, a comparison that runs out of memory or stack is an ERROR, and WRONG means that both sides were
read and found different. There are no time limits here: the pool kills the whole process.
"""

import re
from dataclasses import replace
from fractions import Fraction
from typing import Any

import sympy

from extra_rl.vocabulary import Method, UnparseableSide, VerdictStatus
from extra_services.verification import custom, quick
from extra_services.verification.comparison import answers_equal
from extra_services.verification.latex import has_ellipsis
from extra_services.verification.normalization import normalized, words
from extra_services.verification.quick import SHOWN, Question
from extra_services.verification.reading import Readings, read
from extra_services.verification.timings import timed
from extra_services.verification.verdict import Verdict, VerificationItem

RULE = "math_verify"
#: Mathematics for reference answers in words.
_IN_WORDS = {
    r"\mathbb{R}": "all real numbers", r"(-\infty,\infty)": "all real numbers", r"\emptyset": "no solution",
    r"\varnothing": "no solution", r"\{\}": "no solution",
}  # fmt: skip


def judge(item: VerificationItem) -> Verdict:
    """Decide `item`, without a time limit."""
    if item.method is Method.CUSTOM:
        with timed("compare"):
            return custom.judge(item)
    asked = quick.question(item)
    return quick.decide(asked) or judge_question(asked)


def judge_question(asked: Question) -> Verdict:
    """Decide a question that the fast path left undecided, without a time limit."""
    try:
        return _read_and_compare(asked)
    except (MemoryError, RecursionError) as error:
        reason = f"{type(error).__name__}: the comparison is too large for this worker"
        return replace(quick.described(asked), status=VerdictStatus.ERROR, rule=RULE, detail=reason)


def _read_and_compare(asked: Question) -> Verdict:
    blank = replace(quick.described(asked), rule=RULE)
    response = asked.found or ""
    if gold_words := words(asked.answer):
        shown = replace(blank, rule="words", normalized_answer=gold_words)
        return _decided(shown, _means(response, gold_words))
    if has_ellipsis(asked.answer):
        return _unparseable(blank, UnparseableSide.ANSWER, "an ellipsis can only be compared as written")
    if has_ellipsis(response):
        return _unparseable(blank, UnparseableSide.RESPONSE, "an ellipsis can only be compared as written")
    with timed("parse"):
        readings = read(asked.answer, response, asked.options)
    if readings.gold is None:
        text = "the reference answer cannot be read as mathematics"
        return _unparseable(blank, UnparseableSide.ANSWER, text)
    if readings.prediction is None:
        text = "the final answer cannot be read as mathematics"
        return _unparseable(blank, UnparseableSide.RESPONSE, text)
    shown = replace(
        blank,
        normalized_response=str(readings.prediction)[:SHOWN],
        normalized_answer=str(readings.gold)[:SHOWN],
    )
    with timed("compare"):
        if asked.method is Method.NUMERIC:
            return _numeric(readings, asked, shown)
        return _decided(shown, any(answers_equal(gold, prediction) for gold, prediction in readings.pairs))


def _numeric(readings: Readings, asked: Question, shown: Verdict) -> Verdict:
    shown = replace(shown, rule="numeric")
    for gold, prediction in readings.pairs:
        right, left = _fraction(gold), _fraction(prediction)
        if right is None:
            text = "the reference answer is not a number"
            return _unparseable(replace(shown, rule=RULE), UnparseableSide.ANSWER, text)
        if left is None:
            text = "the final answer is not a number"
            return _unparseable(replace(shown, rule=RULE), UnparseableSide.RESPONSE, text)
        if quick.within_tolerance(left, right, asked.options):
            return _decided(shown, True)
    return _decided(shown, False)


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


def _decided(shown: Verdict, equal: bool) -> Verdict:
    return replace(shown, status=VerdictStatus.CORRECT if equal else VerdictStatus.WRONG)


def _unparseable(blank: Verdict, side: UnparseableSide, detail: str) -> Verdict:
    return replace(blank, status=VerdictStatus.UNPARSEABLE, side=side, detail=detail)
