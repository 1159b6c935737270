"""Reference answers as data sets hold them: texts, numbers, lists, and values that are missing.

A missing reference answer must never be rewarded, so client, server and trainer share one definition of it:
None, NaN, an empty list, a blank text, and what programs write when they turn such a value into text.
"""

import json
import numbers
from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Any

#: A reference answer, or several.
Answer = str | tuple[str, ...]

#: Longest response or reference answer of an item, in characters.
MAX_ITEM_CHARACTERS = 2**22

#: Texts that programs write for a missing value. Lower-case "none" is a word of answers: no solutions.
_MISSING_TEXTS = frozenset(("", "None", "nan", "NaN", "NAN", "null", "NULL", "<NA>", "NaT", "[]", "()"))


class InvalidReference(ValueError):
    """A reference answer that can never be verified.

    Attributes:
        missing: Whether there is none.
    """

    def __init__(self, text: str, missing: bool = False) -> None:
        super().__init__(text)
        self.missing = missing


def is_missing(value: Any) -> bool:
    """Return whether `value` is what a data set has in place of a reference answer that it does not have."""
    if isinstance(value, str):
        return _unboxed(value.strip()) in _MISSING_TEXTS
    value = _plain(value)
    if isinstance(value, (list, tuple)):
        return not value
    return value is None or type(value).__name__ in ("NAType", "NaTType") or value != value


def reference_texts(value: Any) -> list[str]:
    """Return the reference answers in `value` as texts.

    Args:
        value: A text; a number (int, float, Decimal, Fraction, or a NumPy scalar), which becomes its exact
            text; a mapping, which becomes JSON (tests of a program); or a list or array of these.

    Returns:
        One text or more.

    Raises:
        InvalidReference: It is missing or of another kind, or one in the list is.
    """
    value = _plain(value)
    if isinstance(value, (list, tuple)):
        if not value:
            raise InvalidReference("is missing: an empty list", missing=True)
        return [_text(_plain(each), f"[{index}]") for index, each in enumerate(value)]
    return [_text(value, "")]


def answer_of(texts: str | Sequence[str]) -> Answer:
    """Return the answer that is one text or a sequence of texts, as in JSON."""
    if isinstance(texts, str):
        return texts
    return texts[0] if len(texts) == 1 else tuple(texts)


def shown_answer(answer: Answer) -> str:
    """Return an answer for a person to read."""
    return answer if isinstance(answer, str) else " | ".join(answer)


def invalid_text(text: str) -> str | None:
    """Return the reason for which `text` cannot be sent or tokenized, or None if it can.

    Its only reason is a lone surrogate: half of a character outside the basic plane, such as an emoji.
    """
    if text.isascii():
        return None
    try:
        text.encode()
    except UnicodeEncodeError as error:
        return f"is no valid text: character {error.start} is the lone surrogate {text[error.start]!a}"
    return None


def _plain(value: Any) -> Any:
    """Return a NumPy scalar or array as the Python value that it holds."""
    return value.tolist() if hasattr(value, "dtype") and hasattr(value, "tolist") else value


def _text(value: Any, place: str) -> str:
    where = f"{place} " if place else ""
    if is_missing(value):
        raise InvalidReference(f"{where}is missing: {value!r}", missing=True)
    if isinstance(value, Mapping):
        return json.dumps(value, ensure_ascii=False)
    text = value if isinstance(value, str) else _number_text(value)
    if text is None:
        raise InvalidReference(f"{where}is a {type(value).__name__}, not a text or a number")
    if reason := invalid_text(text):
        raise InvalidReference(f"{where}{reason}")
    if len(text) > MAX_ITEM_CHARACTERS:
        raise InvalidReference(f"{where}has {len(text):,} characters, more than {MAX_ITEM_CHARACTERS:,}")
    return text


def _number_text(value: Any) -> str | None:
    if isinstance(value, bool) or not isinstance(value, (numbers.Rational, float, Decimal)):
        return None
    if isinstance(value, numbers.Rational):
        return str(value)
    if value in (float("inf"), float("-inf")):
        return r"\infty" if value > 0 else r"-\infty"
    # repr is the shortest text of this float; without an exponent, as people write answers.
    exact = value if isinstance(value, Decimal) else Decimal(repr(float(value)))
    return format(exact, "f")


def _unboxed(text: str) -> str:
    for opening, closing in ((r"\boxed{", "}"), ("$", "$")):
        if text.startswith(opening) and text.endswith(closing) and len(text) > len(opening):
            text = text[len(opening) : -len(closing)].strip()
    return text
