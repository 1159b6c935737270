r"""Edits of answers, and of the sentences around them, that surely change what is answered or surely do not.

`changed` yields answers with another meaning than a given one, `kept` the same answer in other spellings.
The words and sentences are in `tests/data/verification_edits.json`: those around a value (@, beside
another, #) that leave no answer or make it another one, and those that leave it the answer. An edit
applies only where its effect is certain.
"""

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

Edit = Callable[[str], Iterator[str]]

#: Words, sentences and answers by name.
TABLES: dict[str, Any] = json.loads(
    (Path(__file__).resolve().parents[1] / "data" / "verification_edits.json").read_text("utf-8")
)

_INTEGER = re.compile(r"-?\d{1,9}\Z")
_FRACTION = re.compile(r"(-?)\\frac\{(\d+)\}\{(\d+)\}\Z")
_PAIR = re.compile(r"\(([^(),]+),([^(),]+)\)\Z")
_INTERVAL = re.compile(r"([\[(])([^\[\](),]+),([^\[\](),]+)([\])])\Z")
_LIST = re.compile(r"(\\\{|)([-\d.,\s]+)(\\\}|)\Z")
_MATRIX = re.compile(r"(\\begin\{[pb]matrix\})(.*)(\\end\{[pb]matrix\})\Z", re.DOTALL)
_WORDS = re.compile(r"(?:\\text\{)?\s*([a-z]+(?: [a-z]+){0,3})\s*\}?\Z", re.IGNORECASE)
_LETTER = re.compile(r"(?<![\\a-zA-Z{])[a-zA-Z](?![a-zA-Z}])")
#: Letters that are constants, units or names of sets.
_NO_VARIABLES = frozenset("eidCckEIOAMVJKNTWFGhmsgLln")
_COMMANDS = re.compile(r"\\(?:frac|sqrt|cdot|pi|sin|cos|tan|ln|left|right)(?![a-z])")
_ORDER = re.compile(r"<|>|\\[lg]eq?(?![a-z])")

#: Where a digit may be an index, a base, a period or no part of a value.
_NO_DIGITS = re.compile(r"_|%|\b1\^|\^\{?0|dots|<|>|e-?\d|\.\d{5}|\d{16}|mod|\\text|\\circ|:|base|matrix")
_NO_SIGNS = re.compile(r"\\pm|=|\||!|<|>|_|\\cos|\\text|cosh|\\(?:left)?\{")
#: What can be negated, doubled and increased: a scalar in digits, letters and a few commands.
_SCALAR = re.compile(
    r"(?:[\d\s.+*/^(){}-]|(?<![a-zA-Z])[a-z](?![a-zA-Z])|\\(?:frac|sqrt|cdot|pi|left|right)(?![a-z]))+\Z"
)
_NO_VARIABLE = re.compile(
    r"\\(?:text|math|begin|operatorname|infty|in\b|quad|circ|angle|triangle|overline|vec|hat)|=|f\(|:|[a-zA-Z]{2}"
)
_NO_POWER = re.compile(r"\\text|=|\\mathrm|:|,|<|>|\\circ")
_POWER = re.compile(r"(?<=[a-zA-Z\d)])\^\{?(\d+)\}?")
_OTHER_FUNCTIONS = (
    (r"\sin", r"\cos"), (r"\ln", r"\lg"), (r"\sqrt{", "{"), (r"\pi", "3.14"), (r"\tan", r"\cot"),
    (r"\mathbb{R}", r"\mathbb{Q}"),
)  # fmt: skip
_OTHER_RELATIONS = {
    "<": (r"\le ", ">"), ">": (r"\ge ", "<"), r"\le ": ("<", r"\ge "), r"\ge ": (">", r"\le "),
    r"\leq ": ("<", r"\geq "), r"\geq ": (">", r"\leq "),
}  # fmt: skip
_OTHER_UNITS = (
    ("km", "m"), ("cm", "m"), ("mm", "cm"), ("kg", "g"), ("mg", "g"), ("hours", "minutes"),
    ("minutes", "seconds"), ("seconds", "minutes"), ("days", "weeks"), ("feet", "inches"), ("inches", "feet"),
    ("miles", "kilometers"),
    ("meters", "feet"), ("dollars", "cents"), ("cents", "dollars"), ("years", "months"), ("mph", "km/h"),
    ("square inches", "cubic inches"), ("square units", "cubic units"), ("liters", "gallons"),
    ("pounds", "ounces"),
)  # fmt: skip
_FULL_WIDTH = {ord(character): chr(ord(character) + 0xFEE0) for character in "0123456789()=<>+[]"}


def changed(latex: str) -> Iterator[tuple[str, str]]:
    """Yield the name of an edit, and `latex` with another meaning."""
    for edit in _EDITS:
        for other in edit(latex):
            yield edit.__name__.strip("_"), other


def changed_words(value: str) -> Iterator[str]:
    """Yield sentences that state an integer with words that change it, without a box."""
    if abs(int(value)) >= 5:
        yield from (f"The answer is {words} {value}." for words in TABLES["words_before"])
        yield from (f"The answer is {value} {words}." for words in TABLES["words_behind"])


def _integer(value: str) -> Iterator[str]:
    """Yield answers that are not the integer `value`, if it is at least 5 in size."""
    if not _INTEGER.match(value) or abs(int(value)) < 5:
        return
    number, size = int(value), abs(int(value))
    for template in TABLES["other_than_integer"]:
        yield template.replace("@@", str(number + 1)).replace("|@|", str(size)).replace("@", value)
    yield str(-number)
    yield f"-|{value}|" if number > 0 else f"|{value}|"
    digits = str(size)
    if len(digits) > 1:
        base = 8 if not set("89") & set(digits) else 16
        yield from (digits[1:] if digits[1] != "0" else "0", digits[:-1], f"{value}_{{{base}}}")
    if digits[::-1].lstrip("0") != digits:
        yield digits[::-1]
    yield from (rf"\text{{{words} }} {value}" for words in TABLES["words_before"])
    yield from (rf"{value} \text{{ {words}}}" for words in TABLES["words_behind"])


def _digit(latex: str) -> Iterator[str]:
    """Change a digit."""
    if _NO_DIGITS.search(latex):
        return
    for found in re.finditer(r"\d", latex):
        if not latex[: found.start()].endswith(("[", "[ ")):
            other = (int(found.group()) + 4) % 9 + 1
            other = 7 if str(other) == found.group() else other
            yield f"{latex[: found.start()]}{other}{latex[found.end() :]}"


def _sign(latex: str) -> Iterator[str]:
    """Change the sign between two terms."""
    # For all integers k, a - k and a + k are the same values.
    if _NO_SIGNS.search(latex) or re.search(r"[kn]\s*\\in\s*\\mathbb\{?Z", latex):
        return
    for found in re.finditer(r"(?<=[\w)}])\s*([+-])\s*(?=[1-9a-zA-Z\\])", latex):
        if "^" not in latex[max(0, found.start() - 4) : found.start()]:
            yield latex[: found.start(1)] + ("-" if found[1] == "+" else "+") + latex[found.end(1) :]


def _scaled(latex: str) -> Iterator[str]:
    """Negate a scalar, double it, take a third of it, add one to it."""
    if _SCALAR.match(latex) and not re.search(r"\de", latex) and re.search(r"[1-9a-z]", latex):
        yield from (f"-({latex})", f"2({latex})", rf"\frac{{1}}{{3}}({latex})", rf"({latex}) + 1")


def _order(latex: str) -> Iterator[str]:
    """Swap the members of a pair, drop one, add one, or make it a closed interval."""
    match = _PAIR.match(latex)
    if match and match[1].strip() != match[2].strip():
        left, right = match.groups()
        yield from (f"({right}, {left})", f"({left}, {right}, {right})", left.strip())
        if re.fullmatch(r"\(\d+, ?\d+\)", latex) and int(left) < int(right):
            yield from (f"[{left}, {right})", f"[{left}, {right}]")


def _brackets(latex: str) -> Iterator[str]:
    """Change a bracket of an interval."""
    match = _INTERVAL.match(latex)
    if not match or (match[1], match[4]) == ("(", ")"):
        return
    left, right = match[2].strip(), match[3].strip()
    for begin, end in ("()", "(]", "[)", "[]"):
        infinite = ("infty" in left and begin == "[") or ("infty" in right and end == "]")
        if (begin, end) != (match[1], match[4]) and not infinite:
            yield f"{begin}{left},{right}{end}"


def _members(latex: str) -> Iterator[str]:
    """Drop a member of a list, or add one."""
    match = _LIST.match(latex)
    if (
        not match
        or bool(match[1]) != bool(match[3])
        or "," not in match[2]
        or re.search(r"\d,\d{3}", match[2])
    ):
        return
    parts = [part.strip() for part in match[2].split(",")]
    if len(set(parts)) == len(parts):
        fewer = [parts[:index] + parts[index + 1 :] for index in range(len(parts))]
        yield from (match[1] + ", ".join(some) + match[3] for some in (*fewer, [*parts, "777"]))


def _relation(latex: str) -> Iterator[str]:
    """Change the direction of an inequality, or whether it is strict."""
    if len(_ORDER.findall(latex)) != 1 or re.search(r"\\(?:ne|text|in)|or|and|,|=", latex):
        return
    for sign, others in _OTHER_RELATIONS.items():
        if latex.count(sign) == 1:
            yield from (latex.replace(sign, other) for other in others)


def _variable(latex: str) -> Iterator[str]:
    """Change a variable, or the case of one."""
    if _NO_VARIABLE.search(_COMMANDS.sub("", latex)) or not re.search(r"[\d+^]", latex):
        return
    letters = [found.group() for found in _LETTER.finditer(latex) if found.group() not in _NO_VARIABLES]
    for letter in letters[:1]:
        for other in (letter.swapcase(), "q"):
            if other not in latex and other not in _NO_VARIABLES:
                yield _LETTER.sub(
                    lambda found, letter=letter, other=other: (
                        other if found.group() == letter else found.group()
                    ),  # type: ignore[misc]
                    latex,
                )


def _function(latex: str) -> Iterator[str]:
    """Change a function, or round a constant."""
    for name, other in _OTHER_FUNCTIONS:
        # Neither does the base of logarithms change their ratio.
        unchanged = re.search(r"\\sqrt\{(?:[01]\}|\\frac)|=|\\text|\\(ln|lg|log)\b.*\\\1\b", latex)
        if name in latex and not unchanged:
            yield latex.replace(name, other)


def _fraction(latex: str) -> Iterator[str]:
    """Turn a fraction upside down, or lose its mark-up."""
    match = _FRACTION.match(latex)
    if match and match[2] not in (match[3], "0"):
        sign, top, bottom = match.groups()
        yield from (
            rf"{sign}\frac{{{bottom}}}{{{top}}}",
            f"{sign}{top}{bottom}",
            rf"{sign}\binom{{{top}}}{{{bottom}}}",
        )
        yield from (rf"{sign}{top}\frac{{{top}}}{{{bottom}}}", f"{sign}{top}:{top}{bottom}")
        if int(bottom) > 1:
            yield f"{sign}{top}.{bottom}"


def _power(latex: str) -> Iterator[str]:
    """Lose the mark-up of a power, make it a product, or change it."""
    if _NO_POWER.search(latex):
        return
    for found in _POWER.finditer(latex):
        before, behind = latex[: found.start()], latex[found.end() :]
        if found[1] not in ("0", "1") and not re.search(r"(?<!\d)[12]\Z", before):
            yield from (f"{before}{found[1]}{behind}", rf"{before} \cdot {found[1]}{behind}")
            yield f"{before}^{{{int(found[1]) + 1}}}{behind}"


def _unit(latex: str) -> Iterator[str]:
    """Change a unit or its power."""
    for name, other in _OTHER_UNITS:
        pattern = re.compile(rf"(\\(?:text|mathrm)\{{\s*){name}(\s*\}})(?!\^)")
        if pattern.search(latex) and len(re.findall("text{|mathrm{", latex)) == 1 and latex[:1].isdigit():
            yield from (pattern.sub(rf"\g<1>{other}\g<2>", latex), pattern.sub(r"\g<0>^4", latex))


def _matrix(latex: str) -> Iterator[str]:
    """Turn a matrix over, or swap its rows."""
    if not (match := _MATRIX.match(latex)):
        return
    rows = [[cell.strip() for cell in row.split("&")] for row in match[2].split(r"\\") if row.strip()]
    if len({len(row) for row in rows}) != 1 or len(rows) < 2:
        return
    turned = [list(column) for column in zip(*rows, strict=True)]
    for other in (rows[::-1], turned if len(rows[0]) > 1 else rows):
        if other != rows:
            yield match[1] + r" \\ ".join(" & ".join(row) for row in other) + match[3]


def _opposite(latex: str) -> Iterator[str]:
    """Deny or limit an answer in words."""
    match = _WORDS.match(latex)
    if match and len(match[1]) > 3:
        yield from (rf"\text{{{words}{match[1]}}}" for words in TABLES["denials_before"])
        yield from (rf"\text{{{match[1]}{words}}}" for words in TABLES["denials_behind"])


_EDITS: tuple[Edit, ...] = (
    _digit, _sign, _scaled, _order, _brackets, _members, _relation, _variable, _function, _fraction, _power,
    _unit, _matrix, _opposite, _integer,
)  # fmt: skip


def kept(latex: str) -> Iterator[str]:
    """Yield `latex` in other spellings of the same meaning."""
    braced = not re.fullmatch(r"[\d,]+", latex)  # "{1,2}" may be a set
    yield from (
        template.replace("@", latex) for template in TABLES["spellings"] if braced or template != "{@}"
    )
    yield from (latex.replace(r"\frac", command) for command in (r"\dfrac", r"\tfrac"))
    yield latex.replace("-", "−")
    yield from _sized(latex)
    if re.fullmatch(r"[\d()=<>+\[\], x.-]+", latex):
        yield latex.translate(_FULL_WIDTH)
    if _INTEGER.match(latex):
        grouped = f"{int(latex):,}"
        yield from (
            grouped,
            grouped.replace(",", "{,}"),
            grouped.replace(",", r"\,"),
            rf"\frac{{{2 * int(latex)}}}{{2}}",
        )
        yield from (template.replace("@", latex) for template in TABLES["spellings_of_integer"])
        yield latex if latex.startswith("-") else f"+{latex}"
    if match := _FRACTION.match(latex):
        sign, top, bottom = match.groups()
        yield from (
            f"{sign}{top}/{bottom}",
            rf"{sign}\frac {{{top}}} {{{bottom}}}",
            rf"\frac{{{sign}{top}}}{{{bottom}}}",
        )
        yield from (
            rf"{sign}\cfrac{{{top}}}{{{bottom}}}",
            rf"{sign}{{{top} \over {bottom}}}",
            rf"{sign}{top} \div {bottom}",
        )
    for command, character in (("pi", "π"), ("leq?", "≤"), ("infty", "∞"), ("cup", "∪")):
        yield re.sub(rf"\\{command}(?![a-z_])", character, latex)
    if re.search(r"[a-zA-Z]\^2(?!\d)", latex) and "propto" not in latex:
        yield from (re.sub(r"\^2(?!\d)", power, latex) for power in ("²", "^{2}"))


def _sized(latex: str) -> Iterator[str]:
    r"""Add `\left` and the like to brackets, or take them away."""
    if r"\left" in latex:
        if r"\right." not in latex:
            yield latex.replace(r"\left", "").replace(r"\right", "")
            yield latex.replace(r"\left", r"\Big").replace(r"\right", r"\Big")
    elif re.search(r"[(\[]", latex) and not re.search(
        r"\\text|\\sqrt\[|\\[(\[]|\\\\\[|\A\]|\[\Z|complement", latex
    ):
        for left, right in ((r"\left", r"\right"), (r"\bigl", r"\bigr")):
            begun = re.sub(r"([(\[])", lambda found, left=left: left + found[1], latex)  # type: ignore[misc]
            yield re.sub(r"([)\]])", lambda found, right=right: right + found[1], begun)  # type: ignore[misc]
