r"""Bring an answer into one notation, without changing its meaning.

`normalized` removes only what has no meaning in mathematics: dollar signs, spacing commands, `\left` and
`\right`, text wrappers, Markdown bold, the period at the end of the sentence. It writes synonyms alike
(`\dfrac` as `\frac`, full-width and Chinese signs as ASCII). So two answers with equal normal forms are
equal. `number` reads a normal form that is a plain number as an exact fraction. Everything that needs
interpretation (percent, units, thousands separators, roots) is no plain number, and the workers decide on it.
"""

import re
from fractions import Fraction
from typing import NamedTuple

from extra_services.runtime.memo import kept
from extra_services.verification import dates
from extra_services.verification.spoken import is_number_in_words
from extra_services.verification.symbols import any_of, plain_punctuation, symbols_as_commands, word_set
from extra_services.verification.wrappers import unwrap_commands

_SPACING = re.compile(r"(?<!\\)\\(?:[,;:! ]|(?:quad|qquad|displaystyle|limits)(?![a-zA-Z]))|~")
_SIZING = re.compile(r"\\(?:left|right|[bB]igg?[lr]?|middle)(?![a-zA-Z])\.?")
_FRACTIONS = re.compile(r"\\[dtc]frac(?![a-zA-Z])")
_ONE = r"(\{[^{}]*\}|\d|[a-zA-Z]|\\pi(?![a-zA-Z]))"
_SHORT_FRACTION = re.compile(rf"\\frac(?![a-zA-Z])\s*{_ONE}\s*{_ONE}")
_TEXT = re.compile(r"\\(?:text|textbf|textrm|textit|mathrm|mathbf|mbox|operatorname)\s*\{([^{}]*)\}")
_SPACE = re.compile(r"(?<![0-9a-zA-Z])\s+|\s+(?![0-9a-zA-Z])")
#: Unspaced: "100, 200" are two numbers.
#: "0{,}125" has a decimal comma.
_JOINED_THOUSANDS = re.compile(r"(?<=\d)(?<!\b0)(?:\{,\}|,\s*\\!\s*|\\,|\\!\s*,?|,?\\;)\s*(?=\d{3}(?!\d))")
_DECIMAL_COMMA = re.compile(r"(?<=\d)\{,\}(?=\d)")
_THOUSANDS = re.compile(r"[+-]?[1-9]\d{0,2}(?:,\d{3})+(?:\.\d+)?\Z")
#: "1.234,5", "1 234,5" and "1.234.567": what marks the thousands where the decimals begin with a comma.
_CONTINENTAL = re.compile(r"[+-]?[1-9]\d{0,2}(?:(?:\.\d{3})+,\d+|(?: \d{3})+,\d+|(?:\.\d{3}){2,})\Z")
#: Read from the end, so that the time is linear: "\;", punctuation, spaces, a backslash whose space is gone.
_REVERSED_END = re.compile(r"(?:[,;:! ]\\(?!\\)|[.,;:\s]|\\(?!\\))++")
_WRAPPERS = (("$$", "$$"), ("$", "$"), ("\\(", "\\)"), ("\\[", "\\]"), ("**", "**"), ("__", "__"), ("`", "`"))

_INTEGER = re.compile(r"[+-]?\d+\Z")
_DECIMAL = re.compile(r"[+-]?(?:\d+\.\d*|\.\d+)\Z")
_SCIENTIFIC = re.compile(r"[+-]?(?:\d+\.?\d*|\.\d+)[eE][+-]?\d{1,3}\Z")
_RATIO = re.compile(r"([+-]?\d+)/(\d+)\Z|([+-]?)\\frac\{([+-]?\d+)\}\{([+-]?\d+)\}\Z")
#: Longer numbers go to the workers: exact arithmetic on them takes more than microseconds.
_MAX_DIGITS = 1000


def without_thousands(text: str) -> str:
    r"""Return `text` without marks for the thousands in LaTeX; any other `{,}` in a number is its point."""
    text = _DECIMAL_COMMA.sub(".", _JOINED_THOUSANDS.sub("", text))
    return _as_point(text) if _CONTINENTAL.match(text) else text


def _as_point(number: str) -> str:
    return number.replace(".", "").replace(" ", "").replace(",", ".")


def without_sizing(text: str) -> str:
    r"""Return `text` without `\left`, `\right`, `\big` and the like."""
    return _SIZING.sub("", text)


def braced_fractions(text: str) -> str:
    r"""Return `text` with `\dfrac12`, `\frac\pi4` and the like as `\frac{1}{2}`."""
    text = _FRACTIONS.sub(r"\\frac", text)
    return _SHORT_FRACTION.sub(lambda match: rf"\frac{_in_braces(match[1])}{_in_braces(match[2])}", text)


def _in_braces(argument: str) -> str:
    return argument if argument[0] == "{" else f"{{{argument}}}"


def unwrapped(text: str) -> str:
    """Return `text` without formula delimiters, Markdown emphasis and the end of the sentence around it."""
    while True:
        text = _without_end(text.lstrip())
        if not text or text[0] not in "$\\*_`":
            return text
        inner = _inside(text)
        if inner is None:
            return text
        text = inner


def _without_end(text: str) -> str:
    r"""Return `text` without punctuation, spaces and spacing commands such as `\;` at its end."""
    if text[-1:].isalnum():
        return text
    ending = _REVERSED_END.match(text[::-1])
    return text[: len(text) - ending.end()] if ending else text


def _inside(text: str) -> str | None:
    for begin, end in _WRAPPERS:
        if text.startswith(begin) and text.endswith(end):
            inner = text[len(begin) : len(text) - len(end)]
            if inner and begin not in inner and end not in inner:
                return inner
    return None


def normalized(text: str) -> str:
    """Return the normal form of one answer; it may be empty."""
    if text.isascii() and text.isalnum():  # most are: none of what follows changes them
        return text
    return _normalized(text)


@kept()
def _normalized(text: str) -> str:
    text = unwrapped(symbols_as_commands(plain_punctuation(text)))
    if "{,}" in text:
        text = without_thousands(text)
    if "\\" in text:
        text = unwrap_commands(text)
        text = without_thousands(text).removeprefix(r"\$")
        text = _SPACING.sub(" ", without_sizing(text))
        text = braced_fractions(text)
        text = unwrapped(_TEXT.sub(r"\1", text).replace(r"^{\circ}", r"^\circ"))
    if "," in text and _THOUSANDS.match(text):
        text = text.replace(",", "")
    if _CONTINENTAL.match(text):
        text = _as_point(text)
    return _SPACE.sub("", " ".join(text.split()))


_WORDS = re.compile(r"[^\W\d_]+(?:[ '\-][^\W\d_]+)*\Z")
_NO_WORDS = word_set(
    """
    sqrt frac pi exp sin cos tan cot sec csc log ln arcsin arccos arctan infty infinity theta alpha beta
    gamma delta lambda omega sigma
    """
)
#: Words with the same meaning.
_SYNONYMS = {
    "no solutions": "no solution", "empty set": "no solution", "no real solution": "no solution",
    "none": "no solution", "no real solutions": "no solution", "dne": "does not exist",
    "does not exists": "does not exist",
    "infinite": "infinitely many", "infinity many": "infinitely many",
    "no such number exists": "does not exist",
    "no solution exists": "no solution", "no solutions exist": "no solution",
    "equation has no solution": "no solution", "equation has no solutions": "no solution",
    "system has no solution": "no solution", "system has no solutions": "no solution",
}  # fmt: skip
#: A word and what it is said of.
_ABOUT = re.compile(
    r"[\w-]{3,} (?:function|triangle|number|integer|sequence|series|one|matrix|quadrilateral)"
)
_NUMBER_SETS = {
    "real numbers": "R", "reals": "R", "integers": "Z", "rational numbers": "Q", "rationals": "Q",
    "natural numbers": "N", "naturals": "N", "complex numbers": "C", "all real": "R",
}  # fmt: skip
_SET_OF = re.compile(r"\A(?:the )?(?:set of )?(?:all )?(?:the )?(?=\w+s\Z|\w+ numbers\Z)")
_QUADRANTS: dict[str, str] = {"i": "first", "ii": "second", "iii": "third", "iv": "fourth"}
_NTH: dict[str, str] = dict(zip("1234", _QUADRANTS.values(), strict=True))
#: What an answer in words may be about.
_SUBJECTS = "it this limit function sequence series sum integral graph they"
_SAME_WORDS = tuple(
    (re.compile(pattern), plain)
    for pattern, plain in (
        (r"\b(?:an? )?infinite(?:ly)? (?:number of|many)", "infinitely many"),
        (r"\binfinitely many (?:solutions|answers|values)", "infinitely many"),
        (r"\b(doesn|isn|aren|don|didn|can)'?t\b", r"\1 not"),
        (r"\bdoesn not\b", "does not"),
        (r"\bisn not\b", "is not"),
        (r"\baren not\b", "are not"),
        (r"\bdon not\b", "do not"),
        (r"\bcannot\b", "can not"),
        (r"\b(necessary|sufficient) condition", r"\1"),
        (r"\b(?:but|yet|and) not\b", "but not"),
        (r"\bbut is not\b", "but not"),
        (r"\bquadrant (i{1,3}|iv)\Z", lambda match: f"{_QUADRANTS[match[1]]} quadrant"),
        (r"\b([1-4])(?:st|nd|rd|th) quadrant", lambda match: f"{_NTH[match[1]]} quadrant"),
        (r"条件\Z", ""),
        (r"(?<=\w) (?:(?:always |will )?wins?|has a winning strategy)\Z", ""),
        (r"\b(?:the|an?) ", ""),
        (rf"\A(?:{any_of(_SUBJECTS)}) (?:is|are) (?=\w)", ""),
        (rf"\A(?:{any_of(_SUBJECTS)}) (?=(?:does|do|can|is|are) not |diverge|converge)", ""),
        (r"\bthere (?:is|are) ", ""),
    )
)


def words(text: str) -> str | None:
    r"""Return the words that an answer consists of, in one spelling, or None if it is mathematics.

    Letters are a word if they are marked as text (`\\text{even}`) or are too many for a product of variables.
    """
    plain = _TEXT.sub(r" \1 ", unwrapped(plain_punctuation(text)))
    if name := dates.full_name(plain.strip()):
        return name
    plain = " ".join(unwrapped(plain).strip("()").casefold().split())
    if dates.clock(plain):  # "noon"
        return None
    plain = re.sub(r"\b([1-4])(st|nd|rd|th)(?= quadrant)", lambda match: _NTH[match[1]], plain)
    if not _WORDS.match(plain) or any(name in _NO_WORDS for name in plain.split()):
        return None
    marked = "\\text" in text or "\\mbox" in text
    longest = max(map(len, re.split(r"[ '\-]", plain)))
    if longest < (2 if marked or not plain.isascii() else 4) and plain not in ("yes", "no", "dne"):
        return None
    if is_number_in_words(plain) or _SET_OF.sub("", plain) in _NUMBER_SETS:
        return None
    for pattern, same in _SAME_WORDS:
        plain = pattern.sub(same, plain)
    plain = " and ".join(sorted(plain.strip().split(" and ")))  # "blue and red" is "red and blue"
    return _SYNONYMS.get(plain, plain)


def same_words(said: str, wanted: str) -> bool:
    """Return whether an answer says the word that is wanted, perhaps with what it is said of.

    "even function" says "even", "equilateral triangle" says "equilateral".
    """
    return said == wanted or (
        " " not in wanted and said.split(" ")[0] == wanted and bool(_ABOUT.fullmatch(said))
    )


def set_of_numbers(text: str) -> str | None:
    r"""Return `\\mathbb{R}` for "all real numbers", and the like, or None."""
    plain = " ".join(unwrapped(_TEXT.sub(r" \1 ", unwrapped(text))).casefold().split())
    letter = _NUMBER_SETS.get(_SET_OF.sub("", plain))
    return rf"\mathbb{{{letter}}}" if letter else None


def without_text_commands(text: str) -> str:
    r"""Return `text` with the contents of `\\text{}` and the like in the open."""
    return _TEXT.sub(r" \1 ", text)


def has_text(text: str) -> bool:
    r"""Return whether part of `text` is marked as words (`\text{cm}`, `\mathrm{cm}`)."""
    return "\\" in text and bool(_TEXT.search(text))


class PlainNumber(NamedTuple):
    """A number without roots, units or signs like percent."""

    value: Fraction
    #: Its notation: "integer", "fraction" or "decimal".
    kind: str

    @property
    def repeats(self) -> bool:
        """Whether the decimals never end, so that a decimal can only round the number."""
        return pow(10, 4 * self.value.denominator.bit_length(), self.value.denominator) != 0


def integer(normal: str) -> str | None:
    """Return a normal form that is an integer, of any length, without leading zeros, else None."""
    if not (normal.isascii() and _INTEGER.match(normal)):
        return None
    if normal[0] in "123456789":
        return normal
    digits = normal.lstrip("+-").lstrip("0") or "0"
    return f"-{digits}" if normal[0] == "-" and digits != "0" else digits


def number(normal: str) -> PlainNumber | None:
    """Return the number if a normal form is a plain number, else None."""
    if not normal or len(normal) > _MAX_DIGITS or not normal.isascii():
        return None
    if _INTEGER.match(normal):
        return PlainNumber(Fraction(int(normal)), "integer")
    if _DECIMAL.match(normal) or _SCIENTIFIC.match(normal):
        return PlainNumber(Fraction(normal), "decimal")
    ratio = _RATIO.match(normal)
    if not ratio:
        return None
    sign = -1 if ratio[3] == "-" else 1
    top, bottom = (int(ratio[1]), int(ratio[2])) if ratio[1] else (int(ratio[4]), int(ratio[5]))
    return PlainNumber(Fraction(sign * top, bottom), "fraction") if bottom else None
