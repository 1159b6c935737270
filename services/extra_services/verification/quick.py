"""The fast path: decides in microseconds what normal forms prove, and nothing else.

Equal normal forms are equal answers. Two plain numbers are compared exactly: equal is equal, and different is
different as soon as no rounding of decimals (see ROUNDING) could make them equal. Everything else is None,
and goes to the workers. It runs on the event loop, so its input is bounded; the bound is on the length of a
response.
"""

from fractions import Fraction

from extra_services.verification.extraction import final_answer, reference_answer
from extra_services.verification.normalization import PlainNumber, normalized, number
from extra_services.verification.verdict import Item, Status, Verdict

#: Longest response, in characters, examined here.
MAX_LENGTH = 32_768
#: math-verify rounds to 6 decimals where one side is a decimal, so that 0.333333 is 1/3. Numbers further
#: apart than this cannot round to the same.
ROUNDING = Fraction(1, 10**6)


def decide(item: Item) -> Verdict | None:
    """The verdict if it can be proved here, else None."""
    if len(item.response) > MAX_LENGTH or len(item.answer) > MAX_LENGTH:
        return None
    found = final_answer(item.response)
    if found is None:
        return None
    response, answer = normalized(found.text), normalized(reference_answer(item.answer))
    if not response or not answer:
        return None
    status, rule = _compare(response, answer)
    if status is None:
        return None
    return Verdict(status, rule, extracted=found.text, normalized_response=response, normalized_answer=answer)


def _compare(response: str, answer: str) -> tuple[Status | None, str]:
    left, right = number(response), number(answer)
    if left is None or right is None:
        return (Status.CORRECT, "string") if response == answer else (None, "")
    rule = left.kind if left.kind == right.kind else "number"
    if left.value == right.value:
        return Status.CORRECT, rule
    return (Status.WRONG, rule) if _certainly_differ(left, right) else (None, "")


def _certainly_differ(left: PlainNumber, right: PlainNumber) -> bool:
    exact = "decimal" not in (left.kind, right.kind)
    return exact or abs(left.value - right.value) > ROUNDING
