"""What a worker does with one item: reads both answers with math-verify and compares them.

math-verify's own timeouts (SIGALRM) are off: the pool kills the whole process. Its errors are not swallowed:
a reference that cannot be read is UNPARSEABLE on the answer's side, a comparison that raises is an ERROR, and
WRONG means that both sides were read and found different.
"""

import logging
from dataclasses import replace
from typing import Any

import math_verify

from extra_services.verification.extraction import Extracted, final_answer, reference_answer
from extra_services.verification.normalization import normalized
from extra_services.verification.verdict import Item, Side, Status, Verdict

# Their warnings about switched-off timeouts and unreadable answers: both are dealt with here.
logging.getLogger("math_verify").setLevel(logging.CRITICAL)
logging.getLogger("latex2sympy2_extended").setLevel(logging.CRITICAL)

RULE = "math_verify"
#: Where nothing marks a final answer, this many last characters of a response are searched for a number or
#: formula.
_TAIL = 4000
#: Longest text put into a verdict.
_SHOWN = 2000


def judge(item: Item) -> Verdict:
    """The verdict on `item`; takes as long as it takes."""
    found = final_answer(item.response)
    response = found.text if found else item.response[-_TAIL:]
    answer = reference_answer(item.answer)
    blank = Verdict(
        Status.ERROR,
        RULE,
        extracted=found.text[:_SHOWN] if found else "",
        normalized_response=normalized(response)[:_SHOWN] if found else "",
        normalized_answer=normalized(answer)[:_SHOWN],
    )
    gold = _parse_marked(answer)
    if not gold:
        text = "no mathematics in the reference answer"
        return replace(blank, status=Status.UNPARSEABLE, side=Side.ANSWER, detail=text)
    prediction = _parse_marked(response) if found else _parse(response)
    if not prediction:
        return replace(blank, status=Status.UNPARSEABLE, side=Side.RESPONSE, detail=_nothing_found(found))
    equal = math_verify.verify(gold, prediction, timeout_seconds=None, raise_on_error=True)
    return replace(
        blank,
        status=Status.CORRECT if equal else Status.WRONG,
        normalized_response=str(prediction[0])[:_SHOWN],
        normalized_answer=str(gold[0])[:_SHOWN],
    )


def _nothing_found(found: Extracted | None) -> str:
    return "the final answer is no mathematics" if found else "no final answer in the response"


def _parse_marked(text: str) -> list[Any]:
    return _parse(rf"\boxed{{{text}}}") or _parse(text)


def _parse(text: str) -> list[Any]:
    parsed: list[Any] = math_verify.parse(
        text, fallback_mode="no_fallback", parsing_timeout=None, raise_on_error=True
    )
    return parsed
