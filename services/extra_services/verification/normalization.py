r"""Bring an answer into one notation, without changing its meaning.

`normalized` removes only what has no meaning in mathematics: dollar signs, spacing commands, `\left` and
`\right`, text wrappers, Markdown bold, the period at the end of the sentence. It writes synonyms alike
(`\dfrac` as `\frac`, full-width and Chinese signs as ASCII). So two answers with equal normal forms are
equal. `number` reads a normal form that is a plain number as an exact fraction. Everything that needs
interpretation (percent, units, thousands separators, roots) is no plain number, and the workers decide on it.
"""

import re
from dataclasses import dataclass
from fractions import Fraction

#: Full-width forms of ASCII (U+FF01 to U+FF5E), and signs with one meaning.
_SIGNS = {code: chr(code - 0xFEE0) for code in range(0xFF01, 0xFF5F)} | {
    ord(sign): plain
    for sign, plain in {
        "。": ".", "、": ",", "−": "-", "–": "-", "﹣": "-",
        "\u00a0": " ", "\u3000": " ", "\u2009": " ", "\u202f": " ",
        "“": '"', "”": '"', "‘": "'", "’": "'", "【": "[", "】": "]", "《": "<", "》": ">",
    }.items()
}  # fmt: skip
_SYMBOLS = {
    ord(sign): command
    for sign, command in {
        "π": r"\pi ", "∞": r"\infty ", "×": r"\times ", "·": r"\cdot ", "÷": r"\div ", "≤": r"\le ",
        "≥": r"\ge ", "≠": r"\ne ", "∪": r"\cup ", "∩": r"\cap ", "∈": r"\in ", "°": r"^\circ ",
        "±": r"\pm ", "∅": r"\emptyset ", "θ": r"\theta ",
        "√": r"\sqrt ", "½": r"\frac{1}{2}", "²": "^2", "³": "^3",
    }.items()
}  # fmt: skip
_SPACING = re.compile(r"(?<!\\)\\(?:[,;:! ]|(?:quad|qquad|displaystyle|limits)(?![a-zA-Z]))|~")
_SIZING = re.compile(r"\\(?:left|right|[bB]igg?[lr]?|middle)(?![a-zA-Z])\.?")
_FRACTIONS = re.compile(r"\\[dtc]frac(?![a-zA-Z])")
_ONE = r"(\{[^{}]*\}|\d|[a-zA-Z]|\\pi(?![a-zA-Z]))"
_SHORT_FRACTION = re.compile(rf"\\frac(?![a-zA-Z])\s*{_ONE}\s*{_ONE}")
_TEXT = re.compile(r"\\(?:text|textbf|textrm|textit|mathrm|mathbf|mbox|operatorname)\s*\{([^{}]*)\}")
_SPACE = re.compile(r"(?<![0-9a-zA-Z])\s+|\s+(?![0-9a-zA-Z])")
#: Unspaced: "100, 200" are two numbers.
JOINED_THOUSANDS = re.compile(r"(?<=\d)(?:\{,\}|,\s*\\!\s*|\\,|\\!\s*,?|,?\\;)\s*(?=\d{3}(?!\d))")
_THOUSANDS = re.compile(r"[+-]?\d{1,3}(?:,\d{3})+(?:\.\d+)?\Z")
_WRAPPERS = (("$$", "$$"), ("$", "$"), ("\\(", "\\)"), ("\\[", "\\]"), ("**", "**"), ("__", "__"), ("`", "`"))

_INTEGER = re.compile(r"[+-]?\d+\Z")
_DECIMAL = re.compile(r"[+-]?(?:\d+\.\d*|\.\d+)\Z")
_SCIENTIFIC = re.compile(r"[+-]?(?:\d+\.?\d*|\.\d+)[eE][+-]?\d{1,3}\Z")
_RATIO = re.compile(r"([+-]?\d+)/(\d+)\Z|([+-]?)\\frac\{([+-]?\d+)\}\{([+-]?\d+)\}\Z")
#: Longer numbers go to the workers: exact arithmetic on them takes more than microseconds.
_MAX_DIGITS = 1000


def plain_punctuation(text: str) -> str:
    """Return `text` with Chinese and full-width signs in ASCII."""
    return text if text.isascii() else text.translate(_SIGNS)


def symbols_as_commands(text: str) -> str:
    """Return `text` with mathematical signs ("π", "≤") as LaTeX commands."""
    return text if text.isascii() else text.translate(_SYMBOLS)


def braced_fractions(text: str) -> str:
    r"""Return `text` with `\dfrac12`, `\frac\pi4` and the like as `\frac{1}{2}`."""
    text = _FRACTIONS.sub(r"\\frac", text)
    return _SHORT_FRACTION.sub(lambda match: rf"\frac{_in_braces(match[1])}{_in_braces(match[2])}", text)


def _in_braces(argument: str) -> str:
    return argument if argument[0] == "{" else f"{{{argument}}}"


def unwrapped(text: str) -> str:
    """Return `text` without formula delimiters, Markdown emphasis and the end of the sentence around it."""
    while True:
        text = text.strip().rstrip(".,;:").strip()
        if not text or text[0] not in "$\\*_`":
            return text
        inner = _inside(text)
        if inner is None:
            return text
        text = inner


def _inside(text: str) -> str | None:
    for begin, end in _WRAPPERS:
        if text.startswith(begin) and text.endswith(end):
            inner = text[len(begin) : len(text) - len(end)]
            if inner and begin not in inner and end not in inner:
                return inner
    return None


def normalized(text: str) -> str:
    """Return the normal form of one answer; it may be empty."""
    text = unwrapped(symbols_as_commands(plain_punctuation(text)))
    if "\\" in text:
        text = JOINED_THOUSANDS.sub("", text).removeprefix(r"\$")
        text = _SPACING.sub(" ", _SIZING.sub("", text))
        text = braced_fractions(text)
        text = unwrapped(_TEXT.sub(r"\1", text).replace(r"^{\circ}", r"^\circ"))
    if "," in text and _THOUSANDS.match(text := text.replace("{,}", ",")):
        text = text.replace(",", "")
    return _SPACE.sub("", " ".join(text.split()))


_WORDS = re.compile(r"[^\W\d_]+(?:[ '\-][^\W\d_]+)*\Z")
_ARTICLE = re.compile(r"(?:the|a|an) ")
_CHOICE = re.compile(r"(?:option|choice)?\s*\(?([a-z])(?:\)|[.:,](?=\s|\Z)|\Z)", re.IGNORECASE)
_NO_WORDS = frozenset(
    [
        *(
            "sqrt",
            "frac",
            "pi",
            "exp",
            "sin",
            "cos",
            "tan",
            "cot",
            "sec",
            "csc",
            "log",
            "ln",
            "arcsin",
            "arccos",
        ),
        *(
            "arctan",
            "infty",
            "infinity",
            "theta",
            "alpha",
            "beta",
            "gamma",
            "delta",
            "lambda",
            "omega",
            "sigma",
        ),
    ]
)
#: Words with the same meaning.
_SYNONYMS = {
    "all reals": "all real numbers", "real numbers": "all real numbers", "no solutions": "no solution",
    "none": "no solution", "empty set": "no solution", "no real solution": "no solution",
    "no real solutions": "no solution", "dne": "does not exist",
}  # fmt: skip


def words(text: str) -> str | None:
    r"""Return the words that an answer consists of, in one spelling, or None if it is mathematics.

    Letters are a word if they are marked as text (`\text{even}`) or are too many for a product of variables.
    """
    plain = _TEXT.sub(r" \1 ", unwrapped(plain_punctuation(text)))
    plain = " ".join(unwrapped(plain).strip("()").casefold().split())
    if not _WORDS.match(plain) or any(name in _NO_WORDS for name in plain.split()):
        return None
    marked = "\\text" in text or "\\mbox" in text
    longest = max(map(len, re.split(r"[ '\-]", plain)))
    if longest < (2 if marked or not plain.isascii() else 4) and plain not in ("yes", "no"):
        return None
    plain = _ARTICLE.sub("", plain, count=1)
    return _SYNONYMS.get(plain, plain)


def has_text(text: str) -> bool:
    r"""Return whether part of `text` is marked as words (`\text{cm}`, `\mathrm{cm}`)."""
    return "\\" in text and bool(_TEXT.search(text))


def choice(text: str) -> str | None:
    """Return the letter of a multiple-choice answer ("(B)", "B.", "option b: 12") in upper case, or None."""
    match = _CHOICE.match(" ".join(unwrapped(_TEXT.sub(r" \1 ", plain_punctuation(text))).split()).strip())
    return match[1].upper() if match else None


@dataclass(frozen=True)
class PlainNumber:
    """A number without roots, units or signs like percent."""

    value: Fraction
    #: Its notation: "integer", "fraction" or "decimal".
    kind: str


def integer(normal: str) -> str | None:
    """Return a normal form that is an integer, of any length, without leading zeros, else None."""
    if not (normal.isascii() and _INTEGER.match(normal)):
        return None
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
