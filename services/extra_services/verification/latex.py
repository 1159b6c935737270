r"""Rewrite answers of people and models as LaTeX that latex2sympy reads correctly.

This module turns text into text; it does no mathematics. latex2sympy 1.11 misreads many notations without an
error ("12 345" as 12 + 345, "2(3)" as 2 + 3, `exp(16)` as e*x*p*16, "1e5" as 1*e*5), and math-verify then
uses the first number it can find: to it 4\sqrt(2) equals 4. So each such notation is rewritten first, and an
answer that latex2sympy cannot read whole counts as unreadable.

A percent sign, a degree sign and a unit are removed and returned separately (`Written`): their meaning is a
convention, on which the comparison decides.
"""

import re
from dataclasses import dataclass, replace

from extra_services.verification.normalization import (
    JOINED_THOUSANDS,
    braced_fractions,
    plain_punctuation,
    symbols_as_commands,
    unwrapped,
)
from extra_services.verification.units import Unit, split_unit


@dataclass(frozen=True)
class Written:
    """An answer as LaTeX for latex2sympy, without percent sign, degree sign and unit."""

    latex: str
    percent: bool = False
    degrees: bool = False
    unit: Unit | None = None
    #: The answer including a letter that may be a unit ("37/4 m", where m may be a mass), if that differs.
    with_letter: str = ""
    #: The digits as written of a number in a base other than ten ("52" of "52_8").
    digits: str = ""


#: Names that plain text writes without a backslash.
_FUNCTIONS = "sqrt|exp|sin|cos|tan|cot|sec|csc|arcsin|arccos|arctan|sinh|cosh|tanh|ln|log|min|max|gcd|lcm"
_NAMES = f"{_FUNCTIONS}|pi|theta|alpha|beta|gamma|delta|lambda|mu|omega|phi|sigma|rho|tau|infty"
_BARE_NAME = re.compile(rf"(?<![\\a-zA-Z])(?:np\.|math\.|sympy\.)?({_NAMES})(?![a-zA-Z])")
_INFINITY = re.compile(r"(?<![\\a-zA-Z])(?:infinity|inf|oo)(?![a-zA-Z])")
_DELIMITERS = re.compile(r"(?<!\\)\$\$?|\\[()\[\]](?![a-zA-Z])")
_STYLE = re.compile(
    r"\\(?:displaystyle|textstyle|limits|nolimits|rm|bf|it)(?![a-zA-Z])|\\(?:hspace|vspace|phantom)\{[^{}]*\}"
)
_SPACES = re.compile(r"(?<!\\)\\(?:[ ;:>]|(?:quad|qquad|enspace|thinspace)(?![a-zA-Z]))|~|\u200b|\ufeff")
_SIZES = re.compile(r"\\[bB]igg?[lrm]?(?![a-zA-Z])|\\middle(?![a-zA-Z])|\\(?:left|right)\s*\.")
_FONT = re.compile(
    r"\\(?:mathrm|mathbf|mathit|mathsf|textbf|textit|textrm|boldsymbol|bm|operatorname\*?|mathop)"
    r"\s*\{([^{}]*)\}"
)
_TEXT = re.compile(r"\\(?:text|mbox|textnormal|textup)\s*\{([^{}]*)\}")
_SPACED_THOUSANDS = re.compile(r"[+-]?\d{1,3}(?: \d{3})+(?:\.\d+)?\Z")
_NUMBERS_SIDE_BY_SIDE = re.compile(r"(?<![_^.\d])\d+(?:\.\d+)?\s+\.?\d")
_SCIENTIFIC = re.compile(r"(?<![a-zA-Z\\_^{\d.])(\d+\.?\d*|\.\d+)[eE]([+-]?\d+)(?![a-zA-Z\d.])")
_TRAILING_POINT = re.compile(r"(?<=\d)\.(?!\d)")
_LEADING_POINT = re.compile(r"(?<!\d)\.(?=\d)")
_REPEATING = re.compile(r"(?<![\d.])(\d*)\.(\d*)\\(?:overline|bar|dot)\s*\{?(\d+)\}?")
_MIXED = re.compile(r"(?<![\d./}])(\d+)\s+(\d+)/(\d+)(?![\d/])")
_BASED = re.compile(r"(\d[0-9A-Za-z]*)(?:_\{?\(?|\s+(?:in\s+)?base\s+)(\d{1,2})\)?\}?\Z")
_PERCENT = re.compile(r"\s*(?:\\?%|\bper\s?cent(?:age)?(?:\s+points?)?\b|\bpct\b)\s*\Z", re.IGNORECASE)
_DEGREES = re.compile(r"\s*(?:\^\s*\{?\s*\\circ\s*\}?|\\degree(?![a-z])|\bdegrees?\b|\bdeg\b)")
_VARIABLE_BEHIND = re.compile(r"(?<![a-zA-Z])[a-zA-Z]\s*\Z")
_TRIGONOMETRY = re.compile(r"(?<![a-z])\\?(?:sin|cos|tan|cot|sec|csc)(?![a-z])")
_ANGLE = re.compile(r"(\d+(?:\.\d+)?)\s*\^\s*\{?\s*\\circ\s*\}?")
_CJK = re.compile(r"[\u3400-\u9fff\uac00-\ud7af\u3040-\u30ff]+")
_AND = re.compile(r"\s*,?\s*(?<![a-zA-Z\\])(?:and|or)(?![a-zA-Z])\s*,?\s*|\s*[和或与及]\s*")
_TIMES_BEFORE_PAREN = re.compile(r"(?<=[\d}])\s*(?=\((?!\s*\)))|(?<=\))\s*(?=\(|\d)")
_BUILDER = re.compile(
    r"\\\{\s*([a-zA-Z])\s*(?:\\in\s*\\mathbb\{?\w\}?\s*)?(?:\\mid|\\vert|\||:)\s*(.+)\\\}\Z"
)
_NEGATIVE_POWER = re.compile(r"\^\s*(-\s*(?:\d+|\\?[a-zA-Z]+))")
_GAMMA = re.compile(r"\\gamma(?![a-zA-Z])")
_E_WITH_INDEX = re.compile(r"(?<![\\a-zA-Z])E(?=_)")
_PRIME = re.compile(r"(?<=[a-zA-Z)])('+)")
_APPROXIMATELY = re.compile(
    r"\s*(?:\\approx|\\sim|\\simeq|\\cong|\bapproximately|\babout|\broughly)(?![a-zA-Z])\s*|\s*≈"
)
_NUMBER_AMONG_WORDS = re.compile(
    r"(?:[a-zA-Z' ,:.-]*[ ,:])?([+-]?\d[\d,]*(?:\.\d+)?)(?:[ ,.][a-zA-Z' ,.-]*)?\Z"
)
_ENGLISH_WORD = re.compile(r"(?<![\\a-zA-Z])(?!(?:sqrt|sin|cos|tan|exp|log|arc|pi|base)(?![a-z]))[a-zA-Z]{3}")
_MEANINGFUL_WORD = re.compile(
    r"\b(?:not|less|more|least|most|than|between|greater|fewer|if|degrees?|percent|pct|base|mod|and|or)\b",
    re.IGNORECASE,
)
_DECIMAL = re.compile(r"[+-]?\d*\.\d+")
_DECIMAL_WITH_DOTS = re.compile(r"(?<=\d)\s*(?:\\[lc]?dots(?![a-zA-Z])|\.\.\.|…)\s*\Z")
_ROOT = re.compile(r"√\s*(\d+|[a-zA-Z])")
_ELLIPSIS = re.compile(r"\\[lc]?dots[cbmio]?(?![a-zA-Z])|\.\.\.|…")


def has_ellipsis(text: str) -> bool:
    """Return whether `text` omits members of a list ("1, 2, ..., n")."""
    return bool(_ELLIPSIS.search(_DECIMAL_WITH_DOTS.sub("", text) if _DECIMAL.match(text) else text))


def written(text: str) -> Written:
    """Rewrite `text` as LaTeX for latex2sympy."""
    latex = _APPROXIMATELY.sub("", _plain(text))
    if split_unit(latex)[1] is None:
        latex = _only_number(latex)
    marks = Written("")
    percent = _PERCENT.sub("", latex)
    if percent != latex and percent:
        latex, marks = percent, replace(marks, percent=True)
    if _TRIGONOMETRY.search(latex):  # the degrees belong to the argument
        latex = _ANGLE.sub(r"(\\frac{\1\\pi}{180})", latex)
    without_degrees = _DEGREES.sub("", latex)
    if without_degrees != latex and without_degrees.strip():
        latex, marks = without_degrees, replace(marks, degrees=True)
    bare, unit = split_unit(latex)
    if _VARIABLE_BEHIND.search(latex) and bare != latex:
        marks = replace(marks, with_letter=_mathematics(latex))
    if (based := _BASED.match(bare)) and based[1].isdigit():
        marks = replace(marks, digits=based[1])
    return replace(marks, latex=_mathematics(bare.strip()), unit=unit)


def _only_number(text: str) -> str:
    """Return the number in a text of words around one number ("about 26 apples in all"), else `text`."""
    plain = _TEXT.sub(r" \1 ", text)
    match = _NUMBER_AMONG_WORDS.match(plain)
    if not match or not _ENGLISH_WORD.search(plain) or _MEANINGFUL_WORD.search(plain):
        return text
    return match[1]


def _plain(text: str) -> str:
    text = unwrapped(symbols_as_commands(_ROOT.sub(r"\\sqrt{\1}", plain_punctuation(text))))
    text = _DECIMAL_WITH_DOTS.sub("", text) if _DECIMAL.match(text) else text
    text = text.replace(r"\$", "").replace("\\%", "%")
    text = _DELIMITERS.sub(" ", _STYLE.sub("", text))
    text = JOINED_THOUSANDS.sub("", text)
    text = _SIZES.sub("", _SPACES.sub(" ", text)).replace(r"\!", "").replace(r"\,", " ")
    text = _AND.sub(", ", _TEXT.sub(r" \1 ", _FONT.sub(r" \1 ", text))) if _is_listing(text) else text
    text = _FONT.sub(lambda match: _letters(match.group(1)), text)
    if _CJK.search(text):
        text = _CJK.sub(" ", _AND.sub(", ", text))
    text = re.sub(r"[¥€£₹$]", "", text)
    return unwrapped(re.sub(r"\s+", " ", text))


def _is_listing(text: str) -> bool:
    return bool(_AND.search(text)) and any(character.isdigit() or character in "\\=" for character in text)


def _letters(name: str) -> str:
    name = name.strip()
    return name if len(name) == 1 else rf"\text{{{name}}}"


def _mathematics(text: str) -> str:
    based = _BASED.match(text)
    if based and (value := _value_in_base(based[1], int(based[2]))) is not None:
        return str(value)
    builder = _BUILDER.match(text)
    text = builder[2].strip() if builder else text
    if _SPACED_THOUSANDS.match(text):
        text = text.replace(" ", "")
    text = _REPEATING.sub(_repeating_decimal, text)
    text = _SCIENTIFIC.sub(r"\1\\cdot 10^{\2}", text)
    text = _LEADING_POINT.sub("0.", _TRAILING_POINT.sub("", text))
    text = _MIXED.sub(r"\1\\frac{\2}{\3}", text)
    if _NUMBERS_SIDE_BY_SIDE.search(text) and "matrix" not in text and "array" not in text:
        return ""
    text = braced_fractions(text).replace(r"\varnothing", r"\emptyset")
    text = text.replace("**", "^").replace("<=", r"\le ").replace(">=", r"\ge ").replace("!=", r"\ne ")
    text = _INFINITY.sub(r"\\infty ", _BARE_NAME.sub(r"\\\1 ", text))
    # latex2sympy takes gamma for Euler's constant, and \gamma^2 for infinity; it cannot read E with an index.
    text = _GAMMA.sub(r"\\upsilon ", _E_WITH_INDEX.sub(r"\\Xi ", text))
    text = _PRIME.sub(lambda match: "^{" + r"\prime" * len(match[1]) + "}", text)
    text = _NEGATIVE_POWER.sub(r"^{\1}", _braced(text))
    text = _TIMES_BEFORE_PAREN.sub(_times, text)
    return re.sub(r"\s+", " ", text).strip()


def _times(match: "re.Match[str]") -> str:
    before = match.string[: match.start()]
    # A superscript or subscript belongs to a function (log_2(x), sin^{2}(x)): that is no product.
    return "" if re.search(r"[_^]\s*(?:\w|\{[^{}]*\})\s*\Z", before) and "\\" in before else r"\cdot "


def _braced(text: str) -> str:
    r"""Return `text` with `\sqrt(x)` as `\sqrt{x}` and `^(x)` as `^{x}`, at any depth of parentheses."""
    pieces: list[str] = []
    position = 0
    for match in re.finditer(r"(?:\\sqrt|\^)\s*(?=\()", text):
        if match.start() < position:
            continue
        end = _closing(text, match.end())
        if end < 0:
            break
        inner = _braced(text[match.end() + 1 : end])
        pieces += [text[position : match.start()], match.group().strip(), "{", inner, "}"]
        position = end + 1
    return "".join([*pieces, text[position:]])


def _closing(text: str, start: int) -> int:
    depth = 0
    for index in range(start, len(text)):
        depth += (text[index] == "(") - (text[index] == ")")
        if depth == 0:
            return index
    return -1


def _repeating_decimal(match: "re.Match[str]") -> str:
    whole, fixed, repeated = match[1] or "0", match[2], match[3]
    top = int(whole + fixed + repeated) - int(whole + fixed)
    return rf"\frac{{{top}}}{{{10 ** len(fixed) * (10 ** len(repeated) - 1)}}}"


def _value_in_base(digits: str, base: int) -> int | None:
    try:
        return int(digits, base) if 2 <= base <= 36 else None
    except ValueError:
        return None
