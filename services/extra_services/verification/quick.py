r"""The fast path: decide in microseconds what normal forms prove, and leave the rest to the workers.

Equal normal forms are equal answers. Two plain numbers are compared exactly: they are different if no
rounding of decimals (see ROUNDING) could make them equal. Choices, exact strings and words are always decided
here. Everything else is None and goes to the workers. This code runs on the event loop, so the length of a
response is bounded.
"""

import re
from fractions import Fraction
from typing import NamedTuple

from extra_rl.vocabulary import BoxChoice, Method, UnparseableSide, VerdictStatus
from extra_services.verification import arithmetic
from extra_services.verification.chemistry import formula
from extra_services.verification.choices import choices, content, qualified, stated
from extra_services.verification.counterparts import alike
from extra_services.verification.extraction import final_answer, reference_answer
from extra_services.verification.forms import labelled, single_statement, statements
from extra_services.verification.listing import has_members, with_decimal_point
from extra_services.verification.normalization import (
    has_text,
    integer,
    normalized,
    number,
    same_words,
    unwrapped,
    words,
)
from extra_services.verification.notations import standard
from extra_services.verification.symbols import word_set
from extra_services.verification.units import Unit, split_currency, split_unit, unit_named
from extra_services.verification.verdict import ComparisonOptions, Verdict, VerificationItem

#: Longest text, in characters, examined on the event loop.
MAX_LENGTH = 32_768
#: math-verify rounds to 6 decimals where one side is a decimal, so that 0.333333 is 1/3. Two numbers further
#: apart than this cannot round to the same number.
ROUNDING = Fraction(1, 10**6)
#: Longest text in a verdict, in characters.
SHOWN = 2000

_PERCENT = re.compile(r"\\?%\Z")
_TRIGONOMETRY = re.compile(r"\\(?:sin|cos|tan|cot|sec|csc)")
_DEGREES = re.compile(r"\^\\circ\Z")
_FEW_LETTERS = re.compile(r"[A-J][A-J\s,;.$]*\Z")
_LETTER_IN_PARENTHESES = re.compile(r"\([A-H]\)\Z")

#: A word behind a box, within its formula or behind it.
_UNIT_BEHIND = re.compile(
    r"""
    [\s~]*+ (?:\\[,;\ ]\s*+)?
    (?: \\(?:text|mathrm)\{\s*+([a-zA-Z/\ ]{1,24})\}
      | \$?\$? (?:\\[)\]])? \s*+ ([a-zA-Z]{1,15}(?:/[a-z]{1,6})?) (?![a-zA-Z]) )
    """,
    re.VERBOSE,
)
_MODULUS_BEHIND = re.compile(r"\s*+(?:\\[,;: ])*+\\[bp]?mod(?![a-zA-Z])\s*+(?:\{\s*\w+\s*\}|\w+)")
#: The option's letter before its value, as AMC writes it.
_OPTION = re.compile(
    r"\s*\\(?:textbf|text|mathrm|mathbf|textrm)\s*\{\s*\(([A-H])\)\s*\}(?:[\s~]|\\[ ,;:])*(?=\\?[\w$({-])"
)
_MODULUS_AT_END = re.compile(r"\s*\\pmod\s*(?:\{\s*\w+\s*\}|\w+)\s*\Z")
_NUMBER = re.compile(r"[-+]?[\d.,]*\d\Z")
_CONGRUENT = re.compile(r"\\equiv|≡")
_TIMES_AT_END = re.compile(r"(?<=\w)(?:\s{1,9}times|\s{0,9}\\text\s*+\{\s*+times\s*+\})\Z")
#: References that a response answers with its first word ("Yes, it is continuous").
_YES_OR_NO = word_set("yes no true false")
#: Words that are rather no unit behind a box.
_NO_UNITS = word_set("in a as at and s h m l")


class Question(NamedTuple):
    """The comparison that an item asks for: both final answers, the method and the options."""

    #: Final answer of the response; None if it has none.
    found: str | None
    answer: str
    method: Method
    options: ComparisonOptions


def question(item: VerificationItem) -> Question:
    """Extract the final answers of `item`, and settle its method."""
    answer = reference_answer(item.answer)
    method = method_for(answer) if item.method is Method.AUTO else item.method
    lists = has_members(answer) or labelled(answer) is not None
    several = item.options.boxes is BoxChoice.LAST and lists
    found = final_answer(item.response, item.options.boxes, several)
    if method is Method.CHOICE:
        if found and (values := _contents_apart(found.text, answer)):
            return Question(*values, Method.MATH, item.options)
        letters = choices(found.text) if found and found.marker != "last" else None
        if (
            letters
            and found
            and found.marker == "phrase"
            and (said := stated(item.response))
            and said > letters
        ):
            return Question(", ".join(sorted(said)), answer, method, item.options)
        if letters is None and found and found.marker == "box" and qualified(found.text):
            return Question(found.text, answer, method, item.options)
        if letters is None and (letters := stated(item.response) or (choices(found.text) if found else None)):
            return Question(", ".join(sorted(letters)), answer, method, item.options)
        if letters is None and item.method is Method.AUTO and found and (behind := content(answer)):
            return Question(found.text, behind, Method.MATH, item.options)
    text = found.text if found else None
    if (not found or found.marker == "last") and answer.strip(" .$").casefold() in _YES_OR_NO:
        text = item.response.strip().rpartition("\n")[2] or text
    if text and found and found.behind and method is Method.MATH:
        text = _with_unit_behind(text, found.behind, answer)
        if "mod" in answer and (modulus := _MODULUS_BEHIND.match(found.behind)):
            text += modulus.group()
    if method is Method.MATH and text:
        text, answer = _as_asked(text, answer), _without_modulus(text, answer)
    if method in (Method.MATH, Method.NUMERIC) and text:
        text, answer = alike(*_without_times(standard(text), standard(answer)))
        if ("," in text) != ("," in answer):
            # A reference such as "1,2" is rather a list.
            text, answer = with_decimal_point(text, answer, 1), with_decimal_point(answer, text, 2)
    return Question(text, answer, method, item.options)


def _contents_apart(text: str, answer: str) -> tuple[str, str] | None:
    """Return the values behind two letters ("B. 12", "B. 13") if they are different numbers."""
    found, gold = content(text), content(answer)
    values = number(normalized(found or "")), number(normalized(gold or ""))
    if found is None or gold is None or None in values or values[0] == values[1]:
        return None
    return found, gold


def _as_asked(text: str, answer: str) -> str:
    r"""Return "\\textbf{(C) } 15" as 15, or C, and "5 \\pmod 7" as 5, where the reference is no more."""
    if (option := _OPTION.match(text)) and not _OPTION.match(answer):
        letter = re.fullmatch(r"\W*(?:\\[a-z]+\W*)?([A-H])\W*", answer)
        if letter is None:
            return text[option.end() :]
        return answer if letter[1] == option[1] else option[1]
    if "mod" in text and "mod" not in answer and not _CONGRUENT.search(text):
        return _MODULUS_AT_END.sub("", text)
    return text


def _without_modulus(text: str, answer: str) -> str:
    r"""Return a reference "7 \pmod{11}" as 7 for a response that is a number."""
    if "mod" not in answer or not _NUMBER.match(text) or _CONGRUENT.search(answer):
        return answer
    return _MODULUS_AT_END.sub("", answer)


def _without_times(text: str, answer: str) -> tuple[str, str]:
    """Return both sides without "times" at their ends, if the reference is a number of times.

    For another reference the word is the begin of a product that was cut off.
    """
    if "times" not in answer or not _TIMES_AT_END.search(answer):
        return text, answer
    return _TIMES_AT_END.sub("", text), _TIMES_AT_END.sub("", answer)


def _with_unit_behind(text: str, behind: str, answer: str) -> str:
    """Return a boxed number with the unit that stands behind the box, if the reference has a unit too."""
    if not (match := _UNIT_BEHIND.match(behind)) or not _NUMBER.match(text):
        return text
    name = " ".join((match[1] or match[2]).split())
    marked = rf"{text}\text{{ {name}}}"
    known = name.lower() not in _NO_UNITS and (split_unit(marked)[1] if "/" in name else unit_named(name))
    return marked if known and _unit_of(answer) else text


def _unit_of(answer: str) -> Unit | None:
    plain = unwrapped(answer)
    return split_unit(plain)[1] or split_currency(plain)[1]


def method_for(answer: str) -> Method:
    """Return the method that `auto` means: CHOICE for capital letters from A to H, else MATH."""
    letters = choices(answer)
    capital = letters is not None and all(re.search(rf"(?<![a-z\\]){letter}", answer) for letter in letters)
    return Method.CHOICE if letters and capital and letters <= set("ABCDEFGH") else Method.MATH


def decide(asked: Question) -> Verdict | None:
    """Return the verdict if it can be proved here, else None."""
    response, answer = normalized(asked.found or ""), normalized(asked.answer)
    if asked.method is Method.MATH and (verdict := _plain_numbers(asked, response, answer)):
        return verdict
    blank = _described(asked, response, answer)
    if asked.found is None:
        text = "no final answer in the response"
        return blank._replace(rule="extraction").unparseable(UnparseableSide.RESPONSE, text)
    if asked.method is Method.EXACT:
        return _decided(blank, unwrapped(asked.found) == unwrapped(asked.answer), "exact")
    if asked.method is Method.CHOICE:
        return _choice(asked, blank)
    if asked.method is Method.NUMERIC:
        return _numeric(asked, blank)
    return _math(asked, blank, response, answer)


def described(asked: Question) -> Verdict:
    """Return a verdict that describes both sides and decides nothing yet."""
    return _described(asked, normalized(asked.found or ""), normalized(asked.answer))


def _described(
    asked: Question, response: str, answer: str, status: VerdictStatus = VerdictStatus.ERROR, rule: str = ""
) -> Verdict:
    return Verdict(
        status,
        rule,
        extracted=(asked.found or "")[:SHOWN],
        normalized_response=response[:SHOWN],
        normalized_answer=answer[:SHOWN],
    )


def _plain_numbers(asked: Question, response: str, answer: str) -> Verdict | None:
    if (found := integer(response)) and (wanted := integer(answer)):
        status = VerdictStatus.CORRECT if found == wanted else VerdictStatus.WRONG
        return _described(asked, response, answer, status, "integer")
    left, right = number(response), number(answer)
    if left is None or right is None:
        return None
    rule = left.kind if left.kind == right.kind else "number"
    if left.value == right.value:
        return _described(asked, response, answer, VerdictStatus.CORRECT, rule)
    apart = abs(left.value - right.value)
    exact = any(side.kind != "decimal" and not side.repeats for side in (left, right))
    if exact or "decimal" not in (left.kind, right.kind) or apart > ROUNDING:
        return _described(asked, response, answer, VerdictStatus.WRONG, rule)
    return None


def within_tolerance(left: Fraction, right: Fraction, options: ComparisonOptions) -> bool:
    """Compare two numbers as the method NUMERIC does.

    Args:
        left: Value of the response.
        right: Value of the reference answer; the relative tolerance is a fraction of it.
        options: Has both tolerances; the larger one counts.
    """
    allowed = max(Fraction(options.absolute_tolerance), Fraction(options.relative_tolerance) * abs(right))
    return abs(left - right) <= allowed


def _decided(blank: Verdict, equal: bool, rule: str) -> Verdict:
    return blank._replace(status=VerdictStatus.CORRECT if equal else VerdictStatus.WRONG, rule=rule)


def _choice(asked: Question, blank: Verdict) -> Verdict:
    answer, response = choices(asked.answer), choices(asked.found or "")
    if response is None and answer == frozenset(asked.found or ""):  # "DBA" is "ABD"
        response = answer
    if answer is None:
        text = "the reference answer is not the letter of a choice"
        return blank._replace(rule="choice").unparseable(UnparseableSide.ANSWER, text)
    if response is None:
        text = "the final answer is not the letter of a choice"
        return blank._replace(rule="choice").unparseable(UnparseableSide.RESPONSE, text)
    shown = [", ".join(sorted(letters)) for letters in (response, answer)]
    blank = blank._replace(normalized_response=shown[0], normalized_answer=shown[1])
    return _decided(blank, response == answer, "choice")


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
    if (mine := formula(response)) and mine == formula(answer):
        return _decided(blank, True, "string")
    if statements(answer) is not None:
        return _statements(blank, response, answer)
    if _LETTER_IN_PARENTHESES.match(answer) and choices(asked.found or ""):
        return _choice(asked, blank)
    if letters := _several_letters(asked):
        return _decided(blank, letters[0] == letters[1], "choice")
    gold_words = words(asked.answer)
    if gold_words is not None and (response_words := words(asked.found or "")) is not None:
        shown = blank._replace(normalized_response=response_words, normalized_answer=gold_words)
        return _decided(shown, same_words(response_words, gold_words), "words")
    if has_text(asked.found or "") or has_text(asked.answer):  # units, perhaps, or "and"
        return None
    equal = _calculated(response, answer, asked.options)
    return None if equal is None else _decided(blank, equal, "arithmetic")


def _several_letters(asked: Question) -> tuple[frozenset[str], frozenset[str]] | None:
    """Return the letters of "A, B, D" and "ABD", which is no product where the other side lists letters."""
    if not _FEW_LETTERS.match(asked.answer):
        return None
    found, gold = choices(asked.found or ""), choices(asked.answer)
    listed = [side for side in (asked.found or "", asked.answer) if re.search(r"[A-J]\W+[A-J]", side)]
    return (found, gold) if found and gold and len(gold) > 1 and listed and "(" not in asked.answer else None


def _statements(blank: Verdict, response: str, answer: str) -> Verdict:
    single = single_statement(response)
    found = statements(response) or (frozenset(single) if single else None)
    return _decided(blank, found == statements(answer), "statements")


def _calculated(response: str, answer: str, options: ComparisonOptions) -> bool | None:
    """Call `arithmetic.equal` for each meaning that a percent or degree sign behind one answer can have."""
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
