r"""Write notations of one thing alike, before two answers are compared.

`standard` rewrites one answer: repeating decimals as fractions, bases in words as `101_{2}`, `\mathbf{Z}` behind
`\in` as `\mathbb{Z}`, units in a `\frac`, fonts within fonts, lists with digit groups or dots. `alike` rewrites
both, where the one decides how the other is read: labels ("point P" against P), bold letters for sets, and
unit vectors against coordinates. An answer without such a notation stays as it is.
"""

import re

from extra_services.verification.spoken import number_word
from extra_services.verification.symbols import word_set

#: Longest answer that is rewritten, in characters.
_MAX_LENGTH = 2000
_WRAPPED = re.compile(r"\\(?:text|textbf|textit|textrm|mathrm|mbox)\s*\{([^{}]*)\}")

_MARKS = {"\u0304": r"\overline", "\u0305": r"\overline", "\u0307": r"\dot"}
_MARKED_DIGIT = re.compile(r"(\d)([\u0304\u0305\u0307])")
_SPLIT_OVERLINE = re.compile(r"(?<=\d)\}\\overline\{(?=\d)")
_PERIOD = re.compile(
    r"""
    (?<![\d.]) (\d{0,40}) \. (\d{0,40})
    (?: \( (?P<parens>\d{1,40}) \)
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
_DIGITS_GO_ON = re.compile(r"(?<![\d.])(\d{0,40})\.(\d{2,40})\s*+(?:\\[lc]?dots[cb]?(?![a-zA-Z])|\.\.\.|…)\s*+\$?\s*+\Z")

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

_SETS = "RQZNC"
_BOLD = r"\\(?:mathbf|mathrm|bm|boldsymbol|text|textbf|Bbb)"
_SET_BEHIND_IN = re.compile(
    rf"(\\in(?![a-zA-Z])|∈)\s*+(?:{_BOLD}\s*+(?:\{{\s*+([{_SETS}])\s*+\}}|([{_SETS}]))|([{_SETS}]))(?![a-zA-Z'(_}}])"
)
_SET_WITHOUT = re.compile(
    rf"(?:{_BOLD}\s*+(?:\{{\s*+([{_SETS}])\s*+\}}|([{_SETS}]))|(?<![a-zA-Z\\{{])([{_SETS}]))"
    r"(?=\s*+(?:\\setminus|\\backslash|∖))"
)
_LONE_SET = re.compile(
    rf"\$?\s*+(?:[a-z]\s*+(?:\\in(?![a-zA-Z])|∈)\s*+)?(?:{_BOLD}\s*+\{{)?([{_SETS}])\}}?\s*+\$?\.?\Z"
)
_MENTIONS_A_SET = re.compile(
    r"\\(?:mathbb|Bbb|infty|in)(?![a-zA-Z])|[ℝℚℤℕℂ∞]|\b(?:reals?|rationals?|integers?|naturals?|complex)\b"
)
_BLACKBOARD = re.compile(rf"\\mathbb\s*+\{{?\s*+([{_SETS}])\s*+\}}?")
_POSITIVE = re.compile(
    r"""
    \\mathbb\{([RZNQ])\}
    (?: [\^_] \s*+ (?: \{ \s*+ (\+|-|\*|[<>]\s*+0|\\(?:ge|geq|geqslant|le|leq|leqslant)\s*+0) \s*+ \} | (\+|-|\*) )
    ) (?! \s*+ [\^_\w] )
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

_NESTED = re.compile(
    r"\\(?:text|textbf|textit|textrm|textsf|mbox|emph|mathrm|mathbf|mathit|boldsymbol|bm)\s*+\{\s*+"
    r"(\\(?:text|textbf|textit|textrm|textsf|mbox|emph|mathrm|mathbf|mathit|boldsymbol|bm)\s*+\{[^{}]*+\})\s*+\}"
)
_UNIT = r"(?:\\(?:text|mathrm|mbox|rm)\s*+\{[\s~]*+[a-zA-Zµμ]{1,12}\s*+\}(?:\s*+\^\s*+\{?\s*+\d\s*+\}?)?[\s~]*+)"
_FRACTION_OF_UNITS = re.compile(rf"\\[dt]?frac\s*+\{{\s*+({_UNIT}{{1,3}})\}}\s*+\{{\s*+({_UNIT})\}}")
_PREFIXED = re.compile(r"(?:\\(?:text|mathrm)\s*+\{[\s~]*+([kMGmn])\s*+\}|(?<=\d)[\s~]++([kMG]))\s*+\\Omega(?![a-zA-Z])")
_MICRO = re.compile(r"(?:\\mu|[µμ])\s*+\\(?:text|mathrm)\s*+\{\s*+([a-zA-Z]{1,3})\s*+\}")
_POWER = re.compile(
    r"\^\s*+(\\[dtc]?frac\s*+(?:\{[^{}]*+\}|\d)\s*+(?:\{[^{}]*+\}|\d)|\\sqrt\s*+(?:\[\d\])?\s*+(?:\{[^{}]*+\}|\d))"
)
_RESPECTIVELY = re.compile(r",?\s*+(?:\\text\s*+\{\s*+,?\s*+respectively\s*+\.?\}|\brespectively\b)\s*+\.?\s*+\$?\s*+\Z")
_GROUPED = re.compile(r"[+-]?\d{1,3}(?:,\d{3})+(?:\.\d+)?")
_DECIMAL_COMMA = re.compile(r"[+-]?\d+,\d+")
_PLAIN = re.compile(r"[+-]?\d+(?:\.\d+)?")
_ELLIPSIS = re.compile(r"\\[lc]?dots[cbmio]?(?![a-zA-Z])|\.\.\.|…")
_LISTED = re.compile(
    r"(\$?\s*+(?:\\left\s*+)?\\\{|\$?)((?:[^{}()\[\]\\$]|\\(?!right)[a-zA-Z])*+)(?:\\right\s*+)?(\\\}\s*+\$?|\$?)\.?\s*+"
)
#: Longer sequences stay abbreviated.
_MOST_MEMBERS = 40

_LABELS = "point vertex line segment ray plane side edge corner node"
_LABELLED = re.compile(
    rf"(?:the\s)?(?P<label>{'|'.join(_LABELS.split())})\s"
    r"(?P<name>[A-Z]{1,3}'?(?:_\s?\{?\w\}?)?|\\ell|[a-z]|\([^()]{1,80},[^()]{1,80}\))",
    re.IGNORECASE,
)
_LABEL_WORDS = word_set(_LABELS)

_FONT = r"(?:hat|widehat|vec|overrightarrow|mathbf|boldsymbol|bm|textbf)"
_INNER = rf"(?:\\(?:mathbf|boldsymbol|bm|mathrm|vec)\s*+\{{\s*+)?\\?(?P<unit>imath|jmath|[ijk])(?![a-zA-Z])\s*+\}}?"
_UNIT_VECTOR = re.compile(
    rf"\\{_FONT}(?:\s*+\{{\s*+{_INNER}\s*+\}}|(?:\s*+\\(?=[ij]m)|\s++)(?P<bare>imath|jmath|[ijk])(?![a-zA-Z]))"
)
_UNIT_MARK = re.compile("⟨([ijk])⟩")
_TERM = re.compile(r"\s*+([+-]?)\s*+((?:[^+⟨{}()-]|\{[^{}]*+\}|\([^()]*+\))*+)⟨([ijk])⟩\s*+")
_THREE = re.compile(r"[^,]*+,[^,]*+,[^,]*+|.*\\\\.*\\\\.*\\end", re.DOTALL)


def standard(text: str) -> str:
    """Return an answer with its notations in one form."""
    if text.isalnum() or len(text) > _MAX_LENGTH:
        return text
    if "\u0304" <= max(text) and any(mark in text for mark in _MARKS):
        text = _SPLIT_OVERLINE.sub("", _MARKED_DIGIT.sub(lambda found: f"{_MARKS[found[2]]}{{{found[1]}}}", text))
    if "." in text:
        text = _fractions(text)
    if "\\" in text:
        text = _commands(text)
    if ";" in text or "dots" in text or "..." in text or "…" in text:
        text = _listed(text)
    if "espectively" in text:
        text = _RESPECTIVELY.sub("", text)
    return _signed_set(_based(_sets(text)))


def alike(text: str, other: str) -> tuple[str, str]:
    """Return two answers in one form, where it depends on both."""
    if text.isalnum() and other.isalnum():
        return text, other
    text, other = _without_labels(text, other)
    text, other = _blackboard(text, other), _blackboard(other, text)
    return _as_coordinates(text, other)


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


def _commands(text: str) -> str:
    for _ in range(3):
        if (flat := _NESTED.sub(r"\1", text)) == text:
            break
        text = flat
    if "frac" in text or "sqrt" in text:
        text = _POWER.sub(r"^{\1}", _FRACTION_OF_UNITS.sub(r"\1/\2", text))
    if "\\Omega" in text:
        text = _PREFIXED.sub(lambda found: rf" {found[1] or found[2]}\Omega", text)
    return _MICRO.sub(r"\\mathrm{u\1}", text) if "\\mu" in text or "μ" in text or "µ" in text else text


def _sets(text: str) -> str:
    if "\\" not in text and "∈" not in text:
        return text
    text = _BLACKBOARD.sub(r"\\mathbb{\1}", text)
    text = _SET_BEHIND_IN.sub(lambda found: rf"\in \mathbb{{{found[2] or found[3] or found[4]}}}", text)
    return _SET_WITHOUT.sub(lambda found: rf"\mathbb{{{found[1] or found[2] or found[3]}}}", text)


def _signed_set(text: str) -> str:
    r"""Return "\mathbb{R}^+" as a ray, and "\mathbb{Z}^+" and the like, if they are the answer, in words."""
    if "mathbb" in text and (match := _POSITIVE.search(text)):
        alone = not (text[: match.start()] + text[match.end() :]).strip(" $.")
        sign = re.sub(r"\s|\\|q|slant", "", match[2] or match[3])
        if match[1] == "R" and sign in _RAYS:
            ray = _RAYS[sign]
            return ray if _LONE_MEMBER.fullmatch(text, 0, match.start()) else text[: match.start()] + ray + text[match.end() :]
        if match[1] in "ZN" and sign in _INTEGERS and (alone or _LONE_MEMBER.fullmatch(text, 0, match.start())):
            return rf"\text{{{_INTEGERS[sign]}}}"
    if "itive" in text or "ative" in text:
        plain = _flat(text).casefold()
        if match := _SIGNED_WORDS.fullmatch(plain):
            sign = {"p": "+", "n": "-"}[match[1][0]] if "non" not in match[1] else "ge0"
            return _RAYS[sign] if "real" in match[2] else rf"\text{{{_INTEGERS[sign]}}}"
    return text


def _flat(text: str) -> str:
    """Return `text` on one line without text commands and dollar signs."""
    return " ".join(_WRAPPED.sub(r" \1 ", text).replace("$", " ").replace("\\ ", " ").replace("~", " ").split()).rstrip(". ")


def _based(text: str) -> str:
    """Return a number whose base is in words as "101_{2}"."""
    if "base" not in text and "_" not in text and not any(name in text for name in _BASES):
        return text
    match = _BASED.fullmatch(_flat(text))
    named = [match[group] for group in ("before", "index", "base", "behind")] if match else []
    names = [name for name in named if name]
    if match is None or len(names) != 1:
        return text
    name = names[0]
    base = int(name) if name.isdigit() else _BASES.get(name) or number_word(name)
    if base is None or not (base == 16 or match["digits"].isdigit()) or (match["index"] and match["digits"].isalpha()):
        return text
    return match["digits"] if base == 10 else f"{match['digits']}_{{{base}}}"


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
    even = all(following - value == step for value, following in zip(values, values[1:], strict=False))
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


def _without_labels(text: str, other: str) -> tuple[str, str]:
    """Return "point P" as P, unless both have a label and these differ."""
    if not any(word in side.casefold() for side in (text, other) for word in _LABEL_WORDS):
        return text, other
    mine, theirs = (_LABELLED.fullmatch(_flat(side)) for side in (text, other))
    if mine and theirs and mine["label"].casefold() != theirs["label"].casefold():
        return text, other
    return (mine["name"] if mine else text), (theirs["name"] if theirs else other)


def _blackboard(text: str, other: str) -> str:
    r"""Return "\mathbf{R}" as "\mathbb{R}" if the other side is about sets."""
    match = _LONE_SET.match(text) if len(text) < 60 else None
    return rf"\mathbb{{{match[1]}}}" if match and _MENTIONS_A_SET.search(other) else text


def _as_coordinates(text: str, other: str) -> tuple[str, str]:
    r"""Return "3\hat{i} - \hat{j}" as "(3, -1)", with a third coordinate if one of both sides has one."""
    mine, theirs = _components(text), _components(other)
    if mine is None and theirs is None:
        return text, other
    if mine is None or theirs is None:
        marked, plain = (mine, other) if mine is not None else (theirs, text)
        if found := _components(plain, bare=True):
            mine, theirs = (mine or found), (theirs or found)
        elif not re.match(r"[\s$]*+(?:\\left\s*+)?(?:[(<]|\\langle|\\begin)", plain):
            return text, other
        else:
            three = "k" in (marked or {}) or bool(_THREE.match(plain))
            written = _tuple(marked or {}, three)
            return (written, other) if mine is not None else (text, written)
    three = "k" in mine or "k" in theirs
    return _tuple(mine, three), _tuple(theirs, three)


def _components(text: str, bare: bool = False) -> dict[str, str] | None:
    """Return the coefficients of the unit vectors whose sum `text` is, or None."""
    if not bare and ("\\" not in text or not ("i" in text or "j" in text or "k" in text)):
        return None
    marked = _UNIT_VECTOR.sub(lambda found: f"⟨{(found['unit'] or found['bare'])[0]}⟩", text.strip(" $."))
    if bare:
        marked = re.sub(r"(?<![\\a-zA-Z])[ijk](?![a-zA-Z])", lambda found: f"⟨{found.group()}⟩", marked)
    found: dict[str, str] = {}
    position = 0
    while match := _TERM.match(marked, position):
        sign, body, unit = match.groups()
        body = re.sub(r"\\[,;:! ]|\\(?:cdot|times)(?![a-zA-Z])|\*", " ", body).strip()
        if unit in found or (position and not sign):
            return None
        found[unit] = f"{sign if sign == '-' else ''}{body or '1'}"
        position = match.end()
    return found if found and position == len(marked) else None


def _tuple(components: dict[str, str], three: bool) -> str:
    return "(" + ", ".join(components.get(unit, "0") for unit in ("ijk" if three else "ij")) + ")"
