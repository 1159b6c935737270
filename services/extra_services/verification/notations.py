r"""Write notations of one thing alike, before two answers are compared.

Repeating decimals become fractions, bases in words `101_{2}`, `\mathbf{Z}` behind `\in` `\mathbb{Z}`; units
in a `\frac`, fonts within fonts, lists with digit groups or dots have one form each. An answer without such a
notation stays as it is. What depends on the other answer is in `counterparts`.
"""

import re
from itertools import pairwise

from extra_services.runtime.memo import kept
from extra_services.verification.normalization import unwrapped
from extra_services.verification.spoken import number_word
from extra_services.verification.symbols import plain_punctuation
from extra_services.verification.wrappers import unwrap_commands

#: Longest answer that is rewritten, in characters.
_MAX_LENGTH = 2000
_LAYOUT = re.compile(r"\\(?:displaystyle|large|color|textcolor|underline|ensuremath|tag)(?![a-zA-Z])")
_SPACE_BEFORE = re.compile(r"\A(?:\s|\\[,;:! ]|\\q?quad(?![a-zA-Z]))++")
_GOING_ON = re.compile(r"(?:\.\.\.|…|dots[cb]?)[\s$}]*\Z")
_WRAPPED = re.compile(r"\\(?:text|textbf|textit|textrm|mathrm|mbox)\s*\{([^{}]*)\}")

_NO_WORD = re.compile(r"[$~]|\\ ")

_MARKS = {"\u0304": r"\overline", "\u0305": r"\overline", "\u0307": r"\dot"}
_MARKED_DIGIT = re.compile(r"(\d)([\u0304\u0305\u0307])")
_SPLIT_OVERLINE = re.compile(r"(?<=\d)\}\\overline\{(?=\d)")
_PERIOD = re.compile(
    r"""
    (?<![\d.]) (\d{0,40}) \. (\d{0,40})
    (?: (?:\\left\s*+|\\bigl\s*+)? \( (?P<parens>\d{1,40}) (?:\\right\s*+|\\bigr\s*+)? \)
      | \\(?:overline|bar) \s*+ (?: \{ (?P<bar>\d{1,40}) \} | (?P<bare>\d) )
      | (?P<dots> \\dot \s*+ \{? \d \}? (?: \d{0,40} \\dot \s*+ \{? \d \}? )? ) )
    (?! [\d(] | \\(?:dot|overline|bar) )
    """,
    re.VERBOSE,
)
_INNER_DOT = re.compile(r"(?<=\})\\dot\s*+\{(\d)\}(?=\\dot)")
_SAME_DIGIT = re.compile(
    r"(?<![\d.])(\d{0,40})\.(\d)\2*+\s*+(?:\\text\s*+\{\s*+)?\(?(?:repeating|recurring)\)?\s*+\}?"
)
_DIGITS_GO_ON = re.compile(
    r"(?<![\d.])(\d{0,40})\.(\d{2,40})\s*+(?:\\[lc]?dots[cb]?(?![a-zA-Z])|\.\.\.|…)\s*+\$?\s*+\Z"
)

_BASES = {"binary": 2, "octal": 8, "hexadecimal": 16, "hex": 16, "decimal": 10}
_BASED = re.compile(
    rf"""
    (?: (?P<before>{"|".join(_BASES)}) \s (?:number\s)? )?
    \(? (?P<digits>[0-9A-F]{{1,40}}) \)?
    (?: \s?_\s? (?: \{{ \s? )? \(? (?P<index>\d{{1,2}}|[a-z]{{3,9}}) \)? \s? \}}?
      | \s? \(? (?:in\s)? base [\s-]? (?P<base>\d{{1,2}}|[a-z]{{3,9}}) \)?
      | \s \(? (?:in\s)? (?P<behind>{"|".join(_BASES)}) \)? )?
    """,
    re.VERBOSE,
)

#: Letters for sets of numbers, and fonts in which they are written instead of \mathbb.
SETS = "RQZNC"
BOLD = r"\\(?:mathbf|mathrm|bm|boldsymbol|text|textbf|Bbb)"
_SET_BEHIND_IN = re.compile(
    rf"(\\in(?![a-zA-Z])|∈)\s*+(?:{BOLD}\s*+(?:\{{\s*+([{SETS}])\s*+\}}|([{SETS}]))|([{SETS}]))(?![a-zA-Z'(_}}])"
)
_SET_WITHOUT = re.compile(
    rf"(?:{BOLD}\s*+(?:\{{\s*+([{SETS}])\s*+\}}|([{SETS}]))|(?<![a-zA-Z\\{{])([{SETS}]))"
    r"(?=\s*+(?:\\setminus|\\backslash|∖))"
)
_BLACKBOARD = re.compile(rf"\\mathbb\s*+\{{?\s*+([{SETS}])\s*+\}}?")
_POSITIVE = re.compile(
    r"""
    \\mathbb\{([RZNQ])\}
    [\^_] \s*+ (?: \{ \s*+ (\+|-|\*|[<>]\s*+0|\\[gl]e(?:q|qslant)?\s*+0) \s*+ \} | (\+|-|\*) )
    (?! \s*+ [\^_\w] )
    """,
    re.VERBOSE,
)
_RAYS = {"+": r"(0,\infty)", ">0": r"(0,\infty)", "-": r"(-\infty,0)", "<0": r"(-\infty,0)",
         "ge0": r"[0,\infty)", "le0": r"(-\infty,0]"}  # fmt: skip
_INTEGERS = {"+": "positive integers", ">0": "positive integers", "*": "positive integers",
             "-": "negative integers", "<0": "negative integers", "ge0": "nonnegative integers"}  # fmt: skip
_SIGNED_WORDS = re.compile(
    r"(?:the\s)?(?:set\sof\s)?(?:all\s)?(?:the\s)?(positive|negative|non-?\s?negative)\s"
    r"(reals|real\snumbers|integers|whole\snumbers|natural\snumbers)"
)
_LONE_MEMBER = re.compile(r"\$?\s*+[a-z]\s*+(?:\\in(?![a-zA-Z])|∈)\s*+")

_FONT = r"\\(?:text(?:bf|it|rm|sf)?|mbox|emph|math(?:rm|bf|it)|boldsymbol|bm)\s*+\{"
_NESTED = re.compile(rf"{_FONT}\s*+({_FONT}[^{{}}]*+\}})\s*+\}}")
_INSIDE = r"((?:[^{}]++|\{[^{}]*+\})++)"
_FRACTION_OF_TEXT = re.compile(
    rf"\\[dt]?frac\s*+\{{\s*+(?=\\(?:text|mathrm|mbox|rm)\b){_INSIDE}\}}\s*+\{{\s*+(?=\\(?:text|mathrm|mbox|rm)\b){_INSIDE}\}}"
)
_BETWEEN_UNITS = re.compile(r"\\(?:text|mathrm|mbox|rm)\s*+\{|\}|\\cdot(?![a-zA-Z])|\\[,;:! ]|[\s~·]")
_UNITS = re.compile(r"[a-zA-Zµμ]{1,12}(?:\^\d)?(?: [a-zA-Zµμ]{1,3}(?:\^\d)?)*+")
#: "\\text{12 apples}"
_NUMBER_IN_TEXT = re.compile(r"\s*\\text\s*\{\s*(-?\d[\d.,]*)(\s+[a-zA-Z][a-zA-Z\s]*)\}\s*\Z")
#: The normal distribution.
_LAW = re.compile(r"\\mathcal\s*+(?:\{\s*+N\s*+\}|N)(?=\s*+(?:\\left\s*+)?\()")
_PREFIXED = re.compile(
    r"(?:\\(?:text|mathrm)\s*+\{[\s~]*+([kMGmn])\s*+\}|(?<=\d)[\s~]++([kMG]))\s*+\\Omega(?![a-zA-Z])"
)
_MICRO = re.compile(r"(?:\\mu|[µμ])\s*+\\(?:text|mathrm)\s*+\{\s*+([a-zA-Z]{1,3})\s*+\}")
_POWER = re.compile(
    r"\^\s*+(\\[dtc]?frac\s*+(?:\{[^{}]*+\}|\d)\s*+(?:\{[^{}]*+\}|\d)|\\sqrt\s*+(?:\[\d\])?\s*+(?:\{[^{}]*+\}|\d))"
)
#: Braces that TeX does not show, as MathType writes them ("[ {1,2} )"), and the name of a complement.
_UNSEEN_BRACES = re.compile(r"((?<!\\)[\[(|,;]|\\\{)\s*+\{([^{}]*+)\}")
_NAME = re.compile(r"\s*+\$?\\?[a-zA-Z]+(?:_\{?\w+\}?|\([^()]*\))?\s*+")
_SHARE = re.compile(r"\A\s*+(-?\d+(?:\.\d+)?)\s*+\\?%\s*+\Z")
#: The empty group of "60{}^\\circ".
_EMPTY_GROUP = re.compile(r"(?<=[\d.)])\{\s*+\}(?=\s*+\^)")
#: "sq." and "cu." before a unit.
_SHORT_POWER = re.compile(r"(?<![a-zA-Z])(sq|cu)\.\s*+(?=[a-zA-Z])")
_SIZING = re.compile(r"\\(?:left|right)(?:\s*+\.|(?![a-zA-Z]))")
_COMPLEMENT = re.compile(
    r"(?:\\complement(?![a-zA-Z])|∁)\s*+(?:_\s*+(?:\{\s*+\w\s*+\}|\w))?\s*+[A-Z(][^={}]{0,20}+=\s*+"
)
_RESPECTIVELY = re.compile(
    r",?\s*+(?:\\text\s*+\{\s*+,?\s*+respectively\s*+\.?\}|\brespectively\b)\s*+\.?\s*+\$?\s*+\Z"
)
#: "5'", "6''" and "5'6\"" behind a number. Minutes and seconds of an angle stand behind degrees.
_PRIMES = re.compile(
    r"\A([\s$]*+-?)(?:(\d+(?:\.\d+)?)\s*+'(?!'))?+\s*+(?:(\d+(?:\.\d+)?)\s*+(?:''|\"))?([\s$.]*)\Z"
)
_EXCEPT = re.compile(
    r"(?:the\s)?(?:set\sof\s)?(?:all\s)?(?:the\s)?(?:real\snumbers|reals)(?:\sx)?,?\s"
    r"(?:except(?:\sfor)?|excluding|but|other\sthan)\s(?:x\s?=\s?)?([^a-zA-Z]*(?:(?:and|or|\\[a-zA-Z]+)[^a-zA-Z]*)*)"
)
#: Commands that need the braces around them.
_INFIX = re.compile(r"\\(?:choose|over|atop|brack|brace)(?![a-zA-Z])")
_GROUPED = re.compile(r"[+-]?\d{1,3}(?:,\d{3})+(?:\.\d+)?")
_DECIMAL_COMMA = re.compile(r"[+-]?\d+,\d+")
_PLAIN = re.compile(r"[+-]?\d+(?:\.\d+)?")
_ELLIPSIS = re.compile(r"\\[lc]?dots[cbmio]?(?![a-zA-Z])|\.\.\.|…")
_LISTED = re.compile(
    r"(\$?\s*+(?:\\left\s*+)?\\\{|\$?)((?:[^{}()\[\]\\$]|\\(?!right)[a-zA-Z])*+)(?:\\right\s*+)?(\\\}\s*+\$?|\$?)\.?\s*+"
)
#: Longer sequences stay abbreviated.
_MOST_MEMBERS = 40


def standard(text: str) -> str:
    """Return an answer with its notations in one form."""
    if text.isalnum() or _PLAIN.fullmatch(text) or len(text) > _MAX_LENGTH:
        return text
    return _standard(text)


@kept()
def _standard(text: str) -> str:
    text = _without_layout(text)
    if not text.isascii():
        text = plain_punctuation(text)
        text = _MARKED_DIGIT.sub(lambda found: f"{_MARKS[found[2]]}{{{found[1]}}}", text)
        text = _SPLIT_OVERLINE.sub("", text)
    if "{" in text:
        text = _EMPTY_GROUP.sub("", _without_unseen(_without_outer(text)))
    if "." in text:
        text = _SHORT_POWER.sub(r"\1 ", _fractions(text))
    if "\\" in text:
        text = _commands(text)
    if "%" in text and "=" in text:
        text = _percent_in_chain(text)
    if ";" in text or "dots" in text or "..." in text or "…" in text:
        text = _listed(text)
    if "'" in text and "circ" not in text:
        text = _PRIMES.sub(_feet_and_inches, text)
    if "xcept" in text or "xclud" in text or " but " in text or "other than" in text:
        text = _without_points(text)
    if "espectively" in text:
        text = _RESPECTIVELY.sub("", text)
    return _signed_set(_based(_sets(text)))


def _without_layout(text: str) -> str:
    """Return `text` without what is around all of it: delimiters, spaces, styles, the end of the sentence."""
    if "\\" in text:
        if _LAYOUT.search(text):
            text = unwrap_commands(text)
        text = _SPACE_BEFORE.sub("", text)
        if text.endswith("quad"):
            text = text.removesuffix("quad").removesuffix("q").removesuffix("\\")
    return text if _GOING_ON.search(text) else unwrapped(text)


def _percent_in_chain(text: str) -> str:
    r"""Return "\frac{3}{5} = 60\%" as "\frac{3}{5} = \frac{60}{100}"; "x = 60\%" stays."""
    members = text.split("=")
    if sum(not _NAME.fullmatch(member) for member in members) < 2 or any(sign in text for sign in "<>,;"):
        return text
    return "=".join(_SHARE.sub(r"\\frac{\1}{100}", member) for member in members)


def _feet_and_inches(match: "re.Match[str]") -> str:
    sign, feet, inches, end = match.groups()
    parts = [f"{size} \\text{{ {unit}}}" for size, unit in ((feet, "ft"), (inches, "in")) if size]
    return f"{sign}{' '.join(parts)}{end}" if parts else match.group()


def _without_points(text: str) -> str:
    r"""Return "all real numbers except 2 and 3" as "\mathbb{R} \setminus \{2, 3\}"."""
    match = _EXCEPT.fullmatch(flat(text))
    return rf"\mathbb{{R}} \setminus \{{{re.sub('(and|or)', ',', match[1])}\}}" if match else text


def _fractions(text: str) -> str:
    """Return `text` with repeating decimals as fractions ("0.1(6)" as 15/90)."""
    text = _PERIOD.sub(_repeating, _INNER_DOT.sub(r"\1", text))
    if "re" in text:
        text = _SAME_DIGIT.sub(lambda found: _fraction(found[1], "", found[2]), text)
    return _DIGITS_GO_ON.sub(_going_on, text)


def _repeating(match: "re.Match[str]") -> str:
    if match["parens"] and "=" in match.string[match.end() :]:
        return match.group()  # "2.5(4) = 10" is a product
    period = match["parens"] or match["bar"] or match["bare"]
    return _fraction(match[1], match[2], period or "".join(filter(str.isdigit, match["dots"])))


def _fraction(whole: str, fixed: str, period: str) -> str:
    top = int((whole or "0") + fixed + period) - int((whole or "0") + fixed)
    return rf"\frac{{{top}}}{{{10 ** len(fixed) * (10 ** len(period) - 1)}}}"


def _going_on(match: "re.Match[str]") -> str:
    """Return "0.1666..." as a fraction; digits that show no period stay ("3.14159...")."""
    digits = match[2]
    for length in range(1, len(digits) // 2 + 1):
        period = digits[-length:]
        times = 1
        while digits.endswith(period * (times + 1)):
            times += 1
        fixed = digits[: len(digits) - length * times]
        if times >= 3 or (times == 2 and not fixed):
            return _fraction(match[1], fixed, period)
    return match.group()


def _without_outer(text: str) -> str:
    """Return `text` without braces around all of it, which TeX does not show; "{1, 2}" stays a set."""
    plain = text.strip(" $")
    if (
        not (plain.startswith("{") and plain.endswith("}"))
        or _INFIX.search(plain)
        or re.fullmatch(r"[\d{},;.\s+-]+", plain)
    ):
        return text
    depth = 0
    for index, mark in enumerate(plain):
        depth += (mark == "{") - (mark == "}") if plain[index - 1 : index] != "\\" else 0
        if depth == 0 and index < len(plain) - 1:
            return text
    return plain[1:-1].strip()


def _without_unseen(text: str) -> str:
    if "\\right." in text and "\\left|" in text:
        text = _SIZING.sub("", text)
    for _ in range(3):
        if (seen := _UNSEEN_BRACES.sub(r"\1\2", text)) == text:
            break
        text = seen
    return text


def _commands(text: str) -> str:
    for _ in range(3):
        if (flat := _NESTED.sub(r"\1", text)) == text:
            break
        text = flat
    text = _NUMBER_IN_TEXT.sub(r"\1 \\text{\2}", text)
    if "frac" in text or "sqrt" in text:
        text = _POWER.sub(r"^{\1}", _FRACTION_OF_TEXT.sub(_of_units, text))
    text = _LAW.sub("N", text)
    if "\\Omega" in text:
        text = _PREFIXED.sub(lambda found: rf" {found[1] or found[2]}\Omega", text)
    return _MICRO.sub(r"\\mathrm{u\1}", text) if "\\mu" in text or "μ" in text or "µ" in text else text


def _of_units(match: "re.Match[str]") -> str:
    r"""Return "\frac{\text{kg} \cdot \text{m}}{\text{s}^2}" as "\text{kg m/s^2}", other text as it is."""
    above, below = (" ".join(_BETWEEN_UNITS.sub(" ", side).split()) for side in match.groups())
    above, below = (side.replace(" ^", "^").replace("^ ", "^").replace("{", "") for side in (above, below))
    if not (_UNITS.fullmatch(above) and _UNITS.fullmatch(below)):
        return match.group()
    return rf"\text{{{above}/({below})}}" if " " in below else rf"\text{{{above}/{below}}}"


def _sets(text: str) -> str:
    if "\\" not in text and "∈" not in text and "∁" not in text:
        return text
    text = _COMPLEMENT.sub("", text)
    text = _BLACKBOARD.sub(r"\\mathbb{\1}", text)
    text = _SET_BEHIND_IN.sub(lambda found: rf"\in \mathbb{{{found[2] or found[3] or found[4]}}}", text)
    return _SET_WITHOUT.sub(lambda found: rf"\mathbb{{{found[1] or found[2] or found[3]}}}", text)


def _signed_set(text: str) -> str:
    r"""Return "\mathbb{R}^+" as a ray, and "\mathbb{Z}^+" and the like, if they are the answer, in words."""
    if "mathbb" in text and (match := _POSITIVE.search(text)):
        alone = not (text[: match.start()] + text[match.end() :]).strip(" $.")
        sign = re.sub(r"\s|\\|q|slant", "", match[2] or match[3])
        member = _LONE_MEMBER.fullmatch(text, 0, match.start())
        if match[1] == "R" and sign in _RAYS:
            ray = _RAYS[sign]
            return ray if member else text[: match.start()] + ray + text[match.end() :]
        if match[1] in "ZN" and sign in _INTEGERS and (alone or member):
            return rf"\text{{{_INTEGERS[sign]}}}"
    if "itive" in text or "ative" in text:
        plain = flat(text).casefold()
        if match := _SIGNED_WORDS.fullmatch(plain):
            sign = {"p": "+", "n": "-"}[match[1][0]] if "non" not in match[1] else "ge0"
            return _RAYS[sign] if "real" in match[2] else rf"\text{{{_INTEGERS[sign]}}}"
    return text


def flat(text: str) -> str:
    """Return `text` on one line without text commands and dollar signs."""
    return " ".join(_NO_WORD.sub(" ", _WRAPPED.sub(r" \1 ", text)).split()).rstrip(". ")


def _based(text: str) -> str:
    """Return a number whose base is in words as "101_{2}"."""
    if "base" not in text and "_" not in text and not any(name in text for name in _BASES):
        return text
    match = _BASED.fullmatch(flat(text))
    named = [match[group] for group in ("before", "index", "base", "behind")] if match else []
    names = [name for name in named if name]
    if match is None or len(names) != 1:
        return text
    name = names[0]
    base = int(name) if name.isdigit() else _BASES.get(name) or number_word(name)
    digits = match["digits"]
    if base is None or not (base == 16 or digits.isdigit()) or (match["index"] and digits.isalpha()):
        return text
    return f"{digits}_{{{base}}}"


def _listed(text: str) -> str:
    """Return a list with semicolons without digit groups, and one with dots as all that they stand for."""
    if ";" in text and "," in text and "(" not in text and "[" not in text:
        text = _without_commas(text)
    if not _ELLIPSIS.search(text) or not (match := _LISTED.fullmatch(text)):
        return text
    parts = [part.strip() for part in match[2].split(",")]
    dots = [index for index, part in enumerate(parts) if _ELLIPSIS.fullmatch(part)]
    numbers = [part for index, part in enumerate(parts) if index not in dots]
    if len(dots) != 1 or dots[0] not in (1, 2, 3, 4, 5) or dots[0] != len(parts) - 2:
        return text
    if not all(re.fullmatch(r"-?\d{1,9}", part) for part in numbers):
        return text
    *values, last = map(int, numbers)
    step = values[1] - values[0] if len(values) > 1 else 1
    even = all(following - value == step for value, following in pairwise(values))
    if not even or not step or (last - values[-1]) % step or (last - values[-1]) // step < 1:
        return text
    members = range(values[0], last + (1 if step > 0 else -1), step)
    if len(members) > _MOST_MEMBERS:
        return f"{match[1]}{values[0]}, {values[0] + step}, \\ldots, {last}{match[3]}"
    return match[1] + ", ".join(map(str, members)) + match[3]


def _without_commas(text: str) -> str:
    r"""Return "1,500; 2,500" as "1500; 2500", and "1,5; 2,5" as "1.5; 2.5"."""
    parts = [part.strip(" $") for part in text.split(";")]
    if all(_GROUPED.fullmatch(part) or _PLAIN.fullmatch(part) for part in parts):
        return "; ".join(part.replace(",", "") for part in parts)
    if all(_DECIMAL_COMMA.fullmatch(part) or _PLAIN.fullmatch(part) for part in parts):
        return "; ".join(part.replace(",", ".") for part in parts)
    return text
