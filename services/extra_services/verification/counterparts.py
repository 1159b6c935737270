r"""Read one answer in the light of the other, where only the other says what it means.

"point P" is P, but no "line P"; a bold or upright R is the set of the reals if the other side is about sets;
"3\hat{i} - \hat{j}" has the coordinates (3, -1), or (3, -1, 0) beside a triple.
"""

import re

from extra_services.verification.normalization import without_sizing
from extra_services.verification.notations import BOLD, SETS, flat
from extra_services.verification.symbols import any_of, plain_punctuation, word_set

_LONE_SET = re.compile(
    rf"\$?\s*+(?:[a-z]\s*+(?:\\in(?![a-zA-Z])|∈)\s*+)?(?:{BOLD}\s*+\{{)?([{SETS}])\}}?\s*+\$?\.?\Z"
)
_MENTIONS_A_SET = re.compile(
    r"\\(?:mathbb|Bbb|infty|in)(?![a-zA-Z])|[ℝℚℤℕℂ∞]|\b(?:reals?|rationals?|integers?|naturals?|complex)\b"
)
_LABELS = "point vertex line segment ray plane side edge corner node"
_LABELLED = re.compile(
    rf"(?i:the\s)?(?P<label>(?i:{any_of(_LABELS)}))\s"
    r"(?P<name>[A-Z]{1,3}'?(?:_\s?\{?\w\}?)?|\\ell|[a-z]|\([^()]{1,80},[^()]{1,80}\))"
)
_LABEL_WORDS = word_set(_LABELS)

_FONT = r"(?:hat|widehat|vec|overrightarrow|mathbf|boldsymbol|bm|textbf)"
_UNIT_VECTOR = re.compile(
    rf"""
    \\ {_FONT} (?:
      \s*+ \{{ \s*+ (?: \\(?:mathbf|boldsymbol|bm|mathrm|vec)\s*+\{{\s*+ )?
        \\? (?P<unit>imath|jmath|[ijk]) (?![a-zA-Z]) \s*+ \}}? \s*+ \}}
      | (?: \s*+\\(?=[ij]m) | \s++ ) (?P<bare>imath|jmath|[ijk]) (?![a-zA-Z]) )
    """,
    re.VERBOSE,
)
_TERM = re.compile(r"\s*+([+-]?)\s*+((?:[^+⟨{}()-]|\{[^{}]*+\}|\([^()]*+\))*+)⟨([ijk])⟩\s*+")
_ONE_SOLUTION = re.compile(r"\s*+\\\{\s*+(\([^(){}]*,[^(){}]*\))\s*+\\\}\s*+")
_ROW_END = r" \\ "
_ROW = re.compile(r"\[([^\[\]]++)\]")
_ROWS = re.compile(r"\s*+\[\s*+\[[^\[\]]++\](?:\s*+,\s*+\[[^\[\]]++\])*+\s*+\]\s*+")
_LAYOUT = re.compile(r"\\(?:displaystyle|q?quad|large|[,;:! ])(?![a-zA-Z])")
#: Longer answers are not looked at, in characters.
_MAX_LENGTH = 2000


def alike(text: str, other: str) -> tuple[str, str]:
    """Return two answers in one form, where it depends on both."""
    if (text.isalnum() and other.isalnum()) or max(len(text), len(other)) > _MAX_LENGTH:
        return text, other
    text, other = _without_labels(text, other)
    text, other = _without_braces(text, other), _without_braces(other, text)
    text, other = _as_matrix(text, other), _as_matrix(other, text)
    text, other = _blackboard(text, other), _blackboard(other, text)
    return _as_coordinates(text, other)


def _without_labels(text: str, other: str) -> tuple[str, str]:
    """Return "point P" as P, unless both have a label and these differ."""
    if not any(word in side.casefold() for side in (text, other) for word in _LABEL_WORDS):
        return text, other
    mine, theirs = (_LABELLED.fullmatch(flat(side)) for side in (text, other))
    if mine and theirs and mine["label"].casefold() != theirs["label"].casefold():
        return text, other
    return (mine["name"] if mine else text), (theirs["name"] if theirs else other)


def _without_braces(text: str, other: str) -> str:
    r"""Return "\\{(1, 2)\\}", a set of one solution, as "(1, 2)" if the other side has no braces."""
    if not (text.endswith("}") and r"\{" in text) or r"\{" in other:
        return text
    match = _ONE_SOLUTION.fullmatch(without_sizing(text))
    return match[1] if match else text


def _as_matrix(text: str, other: str) -> str:
    r"""Return "[[1, 0], [0, 1]]" as a matrix if the other side is one."""
    if "matrix" not in other or not _ROWS.fullmatch(text):
        return text
    rows = [row.replace(",", " & ") for row in _ROW.findall(text)]
    return rf"\begin{{pmatrix}}{_ROW_END.join(rows)}\end{{pmatrix}}"


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
            three = "k" in (marked or {}) or plain.count(",") > 1 or plain.count("\\\\") > 1
            written = _tuple(marked or {}, three)
            return (written, other) if mine is not None else (text, written)
    three = "k" in mine or "k" in theirs
    return _tuple(mine, three), _tuple(theirs, three)


def _components(text: str, bare: bool = False) -> dict[str, str] | None:
    """Return the coefficients of the unit vectors whose sum `text` is, or None."""
    if not bare and ("\\" not in text or not ("i" in text or "j" in text or "k" in text)):
        return None
    plain = _LAYOUT.sub(" ", plain_punctuation(text)).strip(" $.")
    marked = _UNIT_VECTOR.sub(lambda found: f"⟨{(found['unit'] or found['bare'])[0]}⟩", plain)
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
