r"""The fast path: decides in microseconds what normal forms prove, and nothing else.

Equal normal forms are equal answers. Two plain numbers are compared exactly: equal is equal, and different is
different as soon as no rounding of decimals (see ROUNDING) could make them equal. Choices, exact strings and
words are decided here altogether. Everything else is None, and goes to the workers. It runs on the event
loop, so its input is bounded; the bound is on the length of a response.
"""

import re
from dataclasses import dataclass, replace
from fractions import Fraction

from extra_services.verification import arithmetic
from extra_services.verification.extraction import final_answer, reference_answer
from extra_services.verification.normalization import (
    choice,
    has_text,
    integer,
    normalized,
    number,
    plain_punctuation,
    unwrapped,
    words,
)
from extra_services.verification.units import split_unit
from extra_services.verification.verdict import Item, Method, Options, Side, Status, Verdict

#: Longest text, in characters, examined on the event loop.
MAX_LENGTH = 32_768
#: math-verify rounds to 6 decimals where one side is a decimal, so that 0.333333 is 1/3. Numbers further
#: apart than this cannot round to the same.
ROUNDING = Fraction(1, 10**6)
#: Longest text put into a verdict.
SHOWN = 2000

_PERCENT = re.compile(r"\\?%\Z")
_TRIGONOMETRY = re.compile(r"\\(?:sin|cos|tan|cot|sec|csc)")
_DEGREES = re.compile(r"\^\\circ\Z")
_LETTER_IN_PARENTHESES = re.compile(r"\([A-H]\)\Z")


@dataclass(frozen=True)
class Question:
    """What is left of an item once the final answers are cut out; `found` is None if there is none."""

    found: str | None
    answer: str
    method: Method
    options: Options


def question(item: Item) -> Question:
    """`item` with its final answers cut out, and its method settled."""
    answer = reference_answer(item.answer)
    method = method_for(answer) if item.method is Method.AUTO else item.method
    found = final_answer(item.response, item.options.boxes)
    if method is Method.CHOICE and (found is None or choice(found.text) is None):
        return Question(_last_choice(item.response), answer, method, item.options)
    return Question(found.text if found else None, answer, method, item.options)


def method_for(answer: str) -> Method:
    """What `auto` means for a reference answer: a capital letter is a choice, everything else mathematics."""
    letter = choice(answer)
    return Method.CHOICE if letter and re.search(r"[A-H]", answer) else Method.MATH


def decide(asked: Question) -> Verdict | None:
    """The verdict if it can be proved here, else None."""
    response, answer = normalized(asked.found or ""), normalized(asked.answer)
    if asked.method is Method.MATH and (verdict := _plain_numbers(asked, response, answer)):
        return verdict
    blank = _described(asked, response, answer)
    if asked.found is None:
        text = "no final answer in the response"
        return replace(blank, status=Status.UNPARSEABLE, rule="extraction", side=Side.RESPONSE, detail=text)
    if asked.method is Method.EXACT:
        return _decided(blank, unwrapped(asked.found) == unwrapped(asked.answer), "exact")
    if asked.method is Method.CHOICE:
        return _choice(asked, blank)
    if asked.method is Method.NUMERIC:
        return _numeric(asked, blank)
    return _math(asked, blank, response, answer)


def described(asked: Question) -> Verdict:
    """A verdict to fill in, with both sides described."""
    return _described(asked, normalized(asked.found or ""), normalized(asked.answer))


def _described(
    asked: Question, response: str, answer: str, status: Status = Status.ERROR, rule: str = ""
) -> Verdict:
    return Verdict(
        status,
        rule,
        extracted=(asked.found or "")[:SHOWN],
        normalized_response=response[:SHOWN],
        normalized_answer=answer[:SHOWN],
    )


def _plain_numbers(asked: Question, response: str, answer: str) -> Verdict | None:
    if integer(response) and integer(answer):
        status = Status.CORRECT if integer(response) == integer(answer) else Status.WRONG
        return _described(asked, response, answer, status, "integer")
    left, right = number(response), number(answer)
    if left is None or right is None:
        return None
    rule = left.kind if left.kind == right.kind else "number"
    if left.value == right.value:
        return _described(asked, response, answer, Status.CORRECT, rule)
    apart = abs(left.value - right.value)
    exact = "decimal" not in (left.kind, right.kind)
    if exact or apart > ROUNDING:
        return _described(asked, response, answer, Status.WRONG, rule)
    return None


def within_tolerance(left: Fraction, right: Fraction, options: Options) -> bool:
    """Whether a response's value `left` is near enough to the reference's `right` (method `numeric`)."""
    allowed = max(Fraction(options.absolute_tolerance), Fraction(options.relative_tolerance) * abs(right))
    return abs(left - right) <= allowed


def _decided(blank: Verdict, equal: bool, rule: str) -> Verdict:
    return replace(blank, status=Status.CORRECT if equal else Status.WRONG, rule=rule)


def _choice(asked: Question, blank: Verdict) -> Verdict:
    answer, response = choice(asked.answer), choice(asked.found or "")
    if answer is None:
        text = "the reference answer is not the letter of a choice"
        return replace(blank, status=Status.UNPARSEABLE, rule="choice", side=Side.ANSWER, detail=text)
    if response is None:
        text = "the final answer is not the letter of a choice"
        return replace(blank, status=Status.UNPARSEABLE, rule="choice", side=Side.RESPONSE, detail=text)
    return _decided(
        replace(blank, normalized_response=response, normalized_answer=answer), response == answer, "choice"
    )


def _numeric(asked: Question, blank: Verdict) -> Verdict | None:
    response, answer = _written_number(asked.found or ""), _written_number(asked.answer)
    if response is None or answer is None:
        return None
    return _decided(blank, within_tolerance(response, answer, asked.options), "numeric")


def _written_number(text: str) -> Fraction | None:
    plain = number(normalized(text))
    return plain.value if plain else None


def _math(asked: Question, blank: Verdict, response: str, answer: str) -> Verdict | None:
    if not response or not answer:
        return None
    if response == answer:
        return _decided(blank, True, "string")
    if _LETTER_IN_PARENTHESES.match(answer) and choice(asked.found or ""):
        return _choice(asked, blank)
    gold_words = words(asked.answer)
    if gold_words is not None and (response_words := words(asked.found or "")) is not None:
        shown = replace(blank, normalized_response=response_words, normalized_answer=gold_words)
        return _decided(shown, response_words == gold_words, "words")
    if has_text(asked.found or "") or has_text(asked.answer):  # units, perhaps, or "and"
        return None
    equal = _calculated(response, answer, asked.options)
    return None if equal is None else _decided(blank, equal, "arithmetic")


def _calculated(response: str, answer: str, options: Options) -> bool | None:
    """`arithmetic.equal`, for each sense that a percent or degree sign behind one of the answers can have."""
    if "\\circ" in response + answer and _TRIGONOMETRY.search(response + answer):
        return None
    for mark, scaled, strict in (
        (_PERCENT, r"\frac{@}{100}", options.strict_percent),
        (_DEGREES, r"\frac{@\pi}{180}", options.strict_degrees),
    ):
        left, right = mark.sub("", response), mark.sub("", answer)
        if (left == response) != (right == answer):
            bare, other = (left, right) if left != response else (right, left)
            if not number(bare):
                return None
            senses = [scaled.replace("@", bare)] if strict else [bare, scaled.replace("@", bare)]
            decided = [arithmetic.equal(sense, other, ROUNDING) for sense in senses]
            return True if True in decided else (None if None in decided else False)
        response, answer = left, right
    if split_unit(response)[0] != response or split_unit(answer)[0] != answer:
        return None
    return arithmetic.equal(response, answer, ROUNDING)


_LONE_CHOICE = re.compile(r"(?<![\w])(?:\(([A-J])\)|\*\*([A-J])\*\*|([A-J])(?=[.:)]|\s*\Z))")


def _last_choice(response: str) -> str | None:
    found = _LONE_CHOICE.findall(plain_punctuation(response[-1000:]))
    return next(filter(None, found[-1]), None) if found else None
